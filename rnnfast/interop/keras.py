"""Keras 3: `.keras` files, read and written without Keras, and live models and layers.

A `.keras` file (Keras 3.0 to 3.15) is a zip of ``config.json``, the layers with their options, and
``model.weights.h5``, their weights by the names of their classes: ``layers/lstm/cell/vars/0``, ``layers/lstm_1/...``.
h5py reads the latter: ``pip install "rnnfast[keras]"``. Live layers say the same of themselves.

What comes in is a `KerasModel`, which is called as Keras's is, batch first, and does what options such as
`go_backwards`, `merge_mode` or `Masking` ask for around plain parts. Where nothing stands around them, its `model` is a
`Model`, to train and to stream.

Taken are Sequential models, functional ones that are a chain, and single layers: SimpleRNN, LSTM, GRU, RNN of their
cells and of StackedRNNCells, Bidirectional, Dense, TimeDistributed(Dense), Embedding, Dropout, Masking,
Activation, LayerNormalization of the last axis, GlobalAveragePooling1D and GlobalMaxPooling1D.
What is of training alone is left out, such as `dropout` of recurrent layers, but for Dropout and `recurrent_dropout`.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from .. import _checks, heads, layers
from .._checks import Array
from .._part import Part
from ..checkpoint import write_atomically
from ..embedding import Embedding
from ..model import Model
from ..parts import Pool
from ._build import common_dtype, unique
from ._keras_config import stages_of
from ._keras_stages import Embedded, Pooled, Recurrence, Signal, Stage
from ._keras_weights import MOST, File, Live, h5py_module
from ._keras_write import document, weights_file, written

__all__ = ["KerasModel", "from_keras", "load", "save", "to_keras"]


class KerasModel:
    """A model or layer of Keras, called as there: `[B, T, I]`, or ids `[B, T]`.

    Made by `load` and `from_keras`.

    Attributes
    ----------
    parts : dict
        The layers and heads, batch first, by the names that Keras's layers have.
    origin : str
        Where it came from.
    """

    def __init__(self, stages: list[Stage], chosen: list[int] | None, origin: str) -> None:
        dtype = common_dtype([array for stage in stages for array in stage.arrays()])
        self._stages, self._chosen, self.origin = stages, chosen, origin
        self.dtype = dtype
        self.parts: dict[str, Any] = {}
        for stage in stages:
            for name, part in stage.parts(dtype, origin):
                plain = re.sub(r"\W", "_", name)
                self.parts[unique(plain if plain.isidentifier() else f"layer_{plain}", self.parts)] = part
        self._states: dict[str, list[Array]] = {}
        self._model: Model | None = None
        self._missing = self._obstacle()
        if self._missing is None:
            self._model = Model(**self.parts)
            self._model.origin = origin

    def _obstacle(self) -> str | None:
        """What stands between the parts and a `Model` that computes the same."""
        if not self.parts:
            return "there is no part with weights"
        last = max((n for n, stage in enumerate(self._stages) if isinstance(stage, Recurrence)), default=-1)
        for n, stage in enumerate(self._stages):
            reason = stage.plain(n == last)
            if reason is not None:
                return f"layer {stage.name!r} ({stage.kind}) {reason}"
        return None

    @property
    def model(self) -> Model:
        """The parts as a `Model`, which shares their weights.

        Where the last recurrent layer has no `return_sequences`, it is called with ``last_only=True``.

        Raises
        ------
        ValueError
            A layer does something around its part that a `Model` does not: which layer.
        """
        if self._model is None:
            raise ValueError(f"model: expected layers that a Model has, but {self._missing}")
        return self._model

    def __repr__(self) -> str:
        listed = ", ".join(f"{stage.name}={stage.kind}" for stage in self._stages)
        return f"KerasModel({listed}; {self.origin})"

    def __call__(
        self, x: ArrayLike, *, mask: ArrayLike | None = None, initial_state: Sequence[ArrayLike] | None = None
    ) -> Any:
        """What Keras's model or layer returns in inference.

        Parameters
        ----------
        x : array_like, shape [B, T, I], or ids [B, T] for an Embedding
        mask : array_like of bool, shape [B, T], optional
            Steps of the input that are there.
        initial_state : list of array_like, each [B, H], optional
            Of the one recurrent layer; of Bidirectional, first those of the forward direction.

        Returns
        -------
        ndarray or list of ndarray
            A list where Keras returns one: with `return_state`, or two directions that are not merged. The states of
            several cells are one after the other.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape.
        """
        array = _checks.numbers("x", x)
        embeds = isinstance(self._first, Embedded)
        steps = any(isinstance(stage, Recurrence | Pooled) for stage in self._stages)
        if array.ndim < (3 if steps and not embeds else 2):
            raise ValueError(f"x: expected {'ids [B, T]' if embeds else '[B, T, I]'}, got {_checks.describe(array)}")
        if not embeds:
            array = _checks.real("x", array, self.dtype)
        flags = None if mask is None else _checks.flags("mask", mask, array.shape[:2], "[B, T]")
        signal = Signal([array], flags, {})
        states = self._given(initial_state, array.shape[0])
        for stage in self._stages:
            signal = stage(signal, states)
        self._keep(signal)
        outputs = signal.outputs if self._chosen is None else [signal.outputs[n] for n in self._chosen]
        return outputs[0] if len(outputs) == 1 else outputs

    @property
    def _first(self) -> Stage:
        """The first stage that does anything."""
        return next((stage for stage in self._stages if type(stage) is not Stage), self._stages[0])

    def reset_states(self) -> None:
        """Let layers that are `stateful` begin with zeros again."""
        self._states = {}

    def _recurrent_stages(self) -> list[Recurrence]:
        return [stage for stage in self._stages if isinstance(stage, Recurrence)]

    def _given(self, initial: Any, rows: int) -> dict[str, list[Array]]:
        """The states to begin with, by stage."""
        states = dict(self._states)
        for name, arrays in states.items():
            if len(arrays[0]) != rows:
                raise ValueError(
                    f"x: expected {len(arrays[0])} rows, as {name!r}, which is stateful, has had, got {rows}; "
                    "reset_states() lets it begin anew"
                )
        if initial is None:
            return states
        stages = self._recurrent_stages()
        if len(stages) != 1:
            raise ValueError(f"initial_state: expected None, with {len(stages)} recurrent layers, got some")
        widths = [unit.units for way in stages[0].ways for unit in way.units for _ in range(unit.stored())]
        given = list(initial) if isinstance(initial, list | tuple) else [initial]
        if len(given) != len(widths):
            raise ValueError(f"initial_state: expected {len(widths)} states, got {len(given)}")
        arrays = [
            _checks.real_of_shape(f"initial_state[{n}]", one, self.dtype, (rows, width), "[B, H]", contiguous=True)
            for n, (one, width) in enumerate(zip(given, widths, strict=True))
        ]
        return states | {stages[0].name: arrays}

    def _keep(self, signal: Signal) -> None:
        stateful = {stage.name for stage in self._recurrent_stages() if stage.stateful}
        self._states = {name: arrays for name, arrays in signal.states.items() if name in stateful}


def load(path: str | os.PathLike[str]) -> KerasModel:
    """Read a `.keras` file, without Keras.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    KerasModel
        In float64 if a weight is, else in float32.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError, ValueError
        The file is truncated, damaged or larger than it says, has a layer that can't come in, or weights that do not
        fit or are not finite: which layer. Nothing has been built then.
    ImportError
        h5py is not installed.
    """
    path = Path(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"path: expected a .keras file, but {path} {what}")
    h5py_module()
    try:
        with zipfile.ZipFile(path) as archive:
            config, data = (_member(archive, name, path.stat().st_size) for name in _MEMBERS)
        described = json.loads(config)
    except _DAMAGES as error:
        raise ValueError(f"{path}: truncated, damaged, or not a .keras file: {error}") from error
    try:
        found = stages_of(described, File(data))
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        ours = isinstance(error, TypeError | ValueError) and "expected" in str(error)
        kind, words = (
            (type(error), str(error)) if ours else (ValueError, f"config.json: expected Keras's, got {error!r}")
        )
        raise kind(f"{path}: {words}") from error
    return KerasModel(*found, f"{path.name}, Keras")


_MEMBERS = ("config.json", "model.weights.h5")
_DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError),
    *(NotImplementedError, RuntimeError, OSError),  # compressions that are unknown; passwords, deep nesting; seeks
)


def _member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """A member of a zip, unless it is much larger than the whole file."""
    limit = MOST * size
    if archive.getinfo(name).file_size > limit:
        raise ValueError(f"{name}: expected at most {limit} bytes, got {archive.getinfo(name).file_size}")
    with archive.open(name) as member:
        data = member.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{name}: expected at most {limit} bytes, got more")
    return data


def from_keras(layer: Any) -> KerasModel:
    """A live Keras model or layer, with a copy of its weights.

    Parameters
    ----------
    layer : keras.Layer or keras.Model
        Built, so that it has weights.

    Returns
    -------
    KerasModel

    Raises
    ------
    TypeError, ValueError
        A layer can't come in, and which.
    ImportError
        Keras is not installed.

    Examples
    --------
    >>> layer = keras.layers.GRU(8, return_sequences=True)  # doctest: +SKIP
    >>> layer.build((None, None, 3))  # doctest: +SKIP
    >>> rnnfast.interop.keras.from_keras(layer).parts["gru"]  # doctest: +SKIP
    GRU(input_size=3, hidden_size=8, ...)
    """
    keras = _keras()
    if not isinstance(layer, keras.Layer):
        raise TypeError(f"layer: expected a Keras model or layer, got {_checks.describe(layer)}")
    config = _listed(keras.saving.serialize_keras_object(layer))
    return KerasModel(*stages_of(config, Live(layer)), f"keras.{type(layer).__name__} {layer.name!r}")


def _listed(value: Any) -> Any:
    """Lists in place of tuples, as a file has them."""
    if isinstance(value, dict):
        return {name: _listed(one) for name, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def _keras() -> Any:
    try:
        import keras
    except ImportError as error:
        raise ImportError("live models of Keras need Keras 3 and a backend of its: pip install keras") from error
    return keras


def save(path: str | os.PathLike[str], model: Part, *, last_only: bool = False) -> None:
    """Write a `.keras` file that Keras loads, whole or not at all, without Keras.

    Parameters
    ----------
    path : path-like
        The file; one that exists is replaced. Keras wants the suffix .keras.
    model : Model, layer, Dense or Embedding
        With cells that Keras has: RNN, LSTM and GRU of any activations that it has. In a Model also LayerNorm,
        Dropout, and Pool of "mean" or "max". Dropout between the layers of one part is not written.
    last_only : bool, optional
        Whether the last recurrent layer hands on its last output alone, as ``return_sequences=False``.

    Raises
    ------
    TypeError, ValueError
        Keras has no such part: which. Nothing has been written.
    ImportError
        h5py is not installed.
    OSError
        The file can't be written; one that was there is as it was.
    """
    _checks.truth("last_only", last_only)
    if not isinstance(model, layers.Recurrent | heads.Dense | Embedding | Model):
        raise TypeError(f"model: expected a Model, a layer, a Dense or an Embedding, got {_checks.describe(model)}")
    if isinstance(model, Model) and not model.is_chain:
        raise ValueError("model: expected parts in a row, each on the output of the one before, got a graph of parts")
    model = copy.deepcopy(model)  # all of one version, whatever other threads write
    parts: dict[str, Any] = model.parts if isinstance(model, Model) else {"layer": model}
    names = [name for name, part in parts.items() if isinstance(part, layers.Recurrent)]
    if last_only and not names:
        raise ValueError("last_only: expected False without a recurrent layer, got True")
    if last_only and any(isinstance(part, Pool) for part in parts.values()):
        raise ValueError("last_only: expected False for a model with a Pool, which takes what it takes, got True")
    last = names[-1] if last_only else None
    found = [one for name, part in parts.items() for one in written(name, part, name == last)]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0", "date_saved": "1970-01-01@00:00:00"}))
        archive.writestr("config.json", json.dumps(document(parts, found, model.dtype.name)))
        archive.writestr("model.weights.h5", weights_file(found))
    write_atomically(path, data.getvalue())


def to_keras(model: Part, *, last_only: bool = False) -> Any:
    """The Keras model that computes what a model or part does.

    Parameters
    ----------
    model, last_only
        As of `save`.

    Returns
    -------
    keras.Sequential

    Raises
    ------
    TypeError, ValueError
        Keras has no such part: which.
    ImportError
        Keras or h5py is not installed.
    """
    keras = _keras()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        save(path, model, last_only=last_only)
        return keras.saving.load_model(path, compile=False)
