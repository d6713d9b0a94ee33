"""Where the weights of a Keras model are read from: live layers, or a `.weights.h5`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _checks
from .._checks import Array

__all__ = ["MOST", "File", "Live", "Weights", "h5py_module"]

MOST = 20
"""How many times larger than a file what it holds may be."""


class Live:
    """The weights of a live layer or model."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def array(self, where: str, path: Sequence[str], name: str, index: int) -> Array:
        """One weight: of the object at the end of a path, by its name there."""
        found = self._layer
        for step in path:
            if isinstance(found, list | tuple):
                found = next((one for n, one in enumerate(found) if step in (one.name, f"#{n}")), None)
            else:
                found = getattr(found, step, None)
        variable = getattr(found, name, None)
        if variable is None:
            raise ValueError(f"{where}: expected a layer with weights, got one that is not built yet")
        value = variable.value if hasattr(variable, "value") else variable
        detached = value.detach().cpu() if hasattr(value, "detach") else value
        return _checks.numbers(f"{where}: {name}", detached)


class File:
    """The weights in a `.weights.h5`."""

    def __init__(self, data: bytes) -> None:
        self._h5py = h5py_module()
        self._most = MOST * len(data)
        try:
            self._file = self._h5py.File(io.BytesIO(data), "r")
        except OSError as error:
            raise ValueError(f"model.weights.h5: truncated, damaged, or not HDF5: {error}") from error

    def array(self, where: str, path: Sequence[str], name: str, index: int) -> Array:
        """One weight: of the group at the end of a path, by its number there."""
        group = self._file
        full = [*path, "vars", str(index)]
        for step in full:
            link = group.get(step, getlink=True) if isinstance(group, self._h5py.Group) else None
            if not isinstance(link, self._h5py.HardLink):  # others may lead out of the file
                raise ValueError(f"{where}: expected {'/'.join(full)} with its {name} in model.weights.h5, got none")
            group = group[step]
        if not isinstance(group, self._h5py.Dataset) or group.is_virtual or group.external:
            raise ValueError(f"{where}: {name}: expected an array in model.weights.h5, got {group!r}")
        if group.nbytes > self._most:
            raise ValueError(f"{where}: {name}: expected an array no larger than the file, got {list(group.shape)}")
        try:
            value = group[()]
        except OSError as error:
            raise ValueError(f"{where}: {name}: damaged in model.weights.h5: {error}") from error
        if group.attrs.get("dtype") == "bfloat16":
            value = (np.asarray(value, np.uint32) << 16).view(np.float32)
        return _checks.numbers(f"{where}: {name}", value)


Weights = Live | File


def h5py_module() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('.keras files need h5py: pip install "rnnfast[keras]"') from error
    return h5py
