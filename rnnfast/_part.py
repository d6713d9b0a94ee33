"""What all parts of a model share: parameters, configuration, packed weights.

A part is a recurrent layer, a cell, a head or a model. Its attributes of the names in `_options` are its constructor's
arguments, so that configuration, `repr` and reconstruction read one list. Kernels and packed weights are derived from
them and from the parameters; they are left out of pickles and copies and built again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._cell_config import cell_of
from ._checks import Array
from ._device import HOST, Device
from ._memory import aligned_empty
from .parameters import Gradients, Parameters

__all__ = ["Packed", "Part", "from_config"]


class Packed:
    """A kernel with its weights packed for it, packed again only when the parameters' version has moved.

    Two threads may use it at once: new panels are complete before they are put in the place of the old ones, and are
    filed under the version that was read before the packing began.

    Parameters
    ----------
    kernel : _core.Kernel or _core.Dense, or what a device has in their place
    params : Parameters
    names : tuple of str
        The parameters in the kernel's order; one that `params` lack (a bias) is packed as None.
    """

    def __init__(self, kernel: Any, params: Parameters, names: tuple[str, ...]) -> None:
        self.kernel = kernel
        self._params = params
        self._names = names
        self._panels: dict[str, tuple[int, Array]] = {}

    def panels(self) -> Array:
        """The panels that forward reads."""
        return self._current("forward", self.kernel.panel_size, self.kernel.pack)

    def panels_backward(self) -> Array:
        """The panels that backward reads besides."""
        return self._current("backward", self.kernel.panel_size_backward, self.kernel.pack_backward)

    def pairs(self, panels: Array) -> Array:
        """The panels' weights in bfloat16."""
        narrow = aligned_empty((self.kernel.pairs_size,), np.uint32)
        self.kernel.to_pairs(panels, narrow)
        return narrow

    def _current(self, key: str, size: int, pack: Any) -> Array:
        version = self._params.version
        cached = self._panels.get(key)
        if cached is None or cached[0] != version:
            panels = self._params.device.empty((size,), self._params.dtype)
            pack(tuple(map(self._params.get, self._names)), panels)
            cached = self._panels[key] = version, panels
        return cached[1]

    def load_gradients(self, gradients: Gradients | None, panels: Array) -> None:
        """Fill gradient panels with the gradients so far, to which backward adds; None is zeros."""
        if gradients is None:
            panels.fill(0)
        else:
            self.kernel.pack(tuple(map(gradients.get, self._names)), panels)

    def store_gradients(self, panels: Array, gradients: Gradients) -> None:
        """Write gradient panels into the gradients."""
        self.kernel.unpack(panels, tuple(map(gradients.get, self._names)))


class Part(ABC):
    """A part of a model. Not for use by itself."""

    _options: ClassVar[tuple[str, ...]] = ()
    _kinds: ClassVar[dict[str, Any]] = {}

    params: Parameters
    rng: np.random.Generator
    dtype: np.dtype[Any]
    init: str | None
    """None where it was a function."""
    device: str
    _device: Device
    """That of `params`; set by `_pack`."""
    origin: str | None = None
    """Where a part came from that `rnnfast.interop` has brought in; None for others."""
    precision: str
    """Of products on a CUDA device; the other arithmetic is in float32 there."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known, package = Part._kinds.get(cls.__name__), __name__.partition(".")[0] + "."
        # The newest definition counts, as in a notebook; but the package's own names stay the package's.
        if known is None or not known.__module__.startswith(package) or cls.__module__.startswith(package):
            Part._kinds[cls.__name__] = cls

    @classmethod
    def _build(cls, options: dict[str, Any], rng: Any) -> Any:
        """A part of the arguments in a configuration."""
        try:
            if "cell" in options:
                options["cell"] = cell_of(options["cell"])
            return cls(rng=rng, **options)  # type: ignore[call-arg]
        except TypeError as error:
            raise TypeError(f"config: {error}") from error

    _derived: ClassVar[tuple[str, ...]] = ("_device", "_packed", "_recurrence")
    """What `_pack` makes; left out of pickles and copies."""

    @abstractmethod
    def _pack(self) -> None:
        """Make `_device` and what holds the kernels from the options and `params`."""

    def load(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace all parameters.

        Parameters
        ----------
        mapping : mapping from str to array_like
            Exactly the names of `params`, with their shapes.

        Raises
        ------
        TypeError, ValueError
            A name is missing or unknown, or an array is not real or has another shape; nothing is written.
        """
        self.params.load(mapping)

    def update(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace some parameters.

        Parameters
        ----------
        mapping : mapping from str to array_like
            Some of the names of `params`, with their shapes.

        Raises
        ------
        TypeError, ValueError
            A name is unknown, or an array is not real or has another shape; nothing is written.
        """
        self.params.update(mapping)

    def config(self) -> dict[str, Any]:
        """A JSON-able description, from which `rnnfast.layers.from_config` builds an equal, freshly initialised part.

        Returns
        -------
        dict
            "type" and the constructor's arguments, without `rng`, without `init` where that is a function, and without
            `device` and `precision` on the host.
        """
        options = {name: getattr(self, name) for name in self._options} | self._more_options()
        options["dtype"] = self.dtype.name
        if self.init is not None:
            options["init"] = self.init
        if self.device != HOST.name:
            options |= {"device": self.device, "precision": self.precision}
        return {"type": type(self).__name__, **options}

    def _more_options(self) -> dict[str, Any]:
        """Options to show beside those in `_options`."""
        return {}

    def __repr__(self) -> str:
        options = self.config()
        if "cell" in options:
            options["cell"] = cell_of(options["cell"])
        return f"{options.pop('type')}({', '.join(f'{name}={value!r}' for name, value in options.items())})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pack()

    def _gradients(self, into: Gradients | None) -> Gradients:
        """The gradients to write to, every one of them: `into` if it fits these parameters, else new memory."""
        if into is None:
            params, new = self.params, self._device.empty
            gradients = Gradients(params.shapes, params.dtype, new((params.size,), params.dtype), self._device)
            if params.borrowed:
                tied = params.borrowed.items()
                gradients._borrow({name: self._device.zeros(shape, params.dtype) for name, (_, shape) in tied})
            return gradients
        if not isinstance(into, Gradients):
            raise TypeError(f"into: expected Gradients or None, got {_checks.describe(into)}")
        if into.dtype != self.params.dtype or into.shapes != self.params.shapes:
            raise ValueError(f"into: expected the layout of params, {self.params!r}; got {into!r}")
        if into.device is not self._device:
            raise ValueError(f"into: expected Gradients on {self._device}, as params are, got some on {into.device}")
        return into


def from_config(config: Mapping[str, Any], *, rng: Any = None) -> Any:
    """Build a part from what `config()` returned.

    Parameters
    ----------
    config : mapping
        "type" (the class's name) and the constructor's arguments.
    rng : optional
        Seeds the new part's initial values and dropout, `np.random.default_rng(rng)`.

    Returns
    -------
    Part
        A layer, a cell, a head or a model. Equal but for its freshly initialised parameters.

    Raises
    ------
    TypeError, ValueError
        There is no such type, or it does not take these arguments.
    """
    options = dict(_checks.mapping("config", config))
    kind = _checks.choice("config['type']", options.pop("type", ""), Part._kinds)
    return Part._kinds[kind]._build(options, rng)
