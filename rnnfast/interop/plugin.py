"""Models for programs without Python: a small file, which the header `rnnfast/stream.h` reads and runs.

The header is C99 and C++11, has no dependency, and is installed with the package: `rnnfast.get_include()` says where.
Its docstring says how it is used, and under which conditions it computes the very bits of the layers here.

The file is little-endian: the letters RNNFAST1; inputs, outputs, skip and the number of parts, uint32; both gains and
the sample rate, float32; of each part its kind, inputs, units and activation, uint32; then the weights of all parts,
float32: biases, W and U transposed, so that a row has all sums of one input, and the first states.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import _checks, heads, layers
from .._checks import Array
from .._part import Part
from ..checkpoint import write_atomically
from ..description import Cell
from ..description.cells.elman import Elman
from ..description.cells.gru import GRU
from ..description.cells.lstm import LSTM
from .audio import AudioModel, acting, as_audio

__all__ = ["save"]

_MOST_PARTS = 64
_ACTIVATIONS = ("identity", "tanh", "relu", "sigmoid")
_DENSE, _ELMAN, _LSTM, _GRU_AFTER, _GRU_BEFORE = range(5)
_CELLS: dict[Cell, tuple[int, int]] = {
    **{Elman(activation=name): (_ELMAN, _ACTIVATIONS.index(name)) for name in _ACTIVATIONS},
    LSTM(): (_LSTM, 0),
    GRU(): (_GRU_AFTER, 0),
    GRU(reset_after=False): (_GRU_BEFORE, 0),
}


def save(path: str | os.PathLike[str], model: AudioModel | Part) -> None:
    """Write a model for the header `rnnfast/stream.h`, whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; one that exists is replaced.
    model : AudioModel, Model, layer or Dense
        RNN (tanh, relu, sigmoid or identity), LSTM and GRU without further options, one direction forwards, and Dense
        with one of the same activations, in a row. float64 weights are rounded to float32.

    Raises
    ------
    TypeError, ValueError
        The header has no such part: which. Nothing has been written.
    OSError
        The file can't be written; one that was there is as it was.

    Examples
    --------
    >>> save("amp.rnnfast", rnnfast.Model(lstm=rnnfast.LSTM(1, 20), head=rnnfast.Dense(20, 1)))  # doctest: +SKIP
    """
    audio = as_audio(model)
    parts = [
        one for name, part in acting(audio.model).items() for one in _parts(name, part, (audio.state or {}).get(name))
    ]
    if len(parts) > _MOST_PARTS:
        raise ValueError(f"model: expected at most {_MOST_PARTS} layers and heads, got {len(parts)}")
    sizes = audio.input_size, audio.output_size, audio.skip, len(parts)
    numbers = audio.input_gain, audio.output_gain, audio.sample_rate or 0.0
    data = [b"RNNFAST1", struct.pack("<4I3f", *sizes, *numbers)]
    data += [struct.pack("<4I", *header) for header, _ in parts]
    data += [array.astype("<f4").tobytes() for _, arrays in parts for array in arrays]
    write_atomically(path, b"".join(data))


_Part = tuple[tuple[int, int, int, int], list[Array]]


def _parts(name: str, part: Any, state: Any) -> Iterator[_Part]:
    """What a part becomes: for each of its layers the header's entry, and its weights."""
    values = {key: np.asarray(part.params.device.to_host(one), np.float32) for key, one in part.params.items()}
    if isinstance(part, heads.Dense):
        activation = _ACTIVATIONS.index(_checks.choice(f"{name}: activation", part.activation, _ACTIVATIONS))
        bias = values.get("bias", np.zeros(part.output_size, np.float32))
        yield (_DENSE, part.input_size, part.output_size, activation), _finite(name, [bias, values["weight"].T])
        return
    plain = isinstance(part, layers.Recurrent) and not (part.bidirectional or part.reverse)
    if not plain or part.cell not in _CELLS:
        known = "an RNN, LSTM or GRU without further options, forwards, or a Dense"
        raise ValueError(f"{name}: expected {known}, got {part!r}")
    kind, activation = _CELLS[part.cell]
    starts = state if isinstance(state, tuple | list) else (state,) if state is not None else ()
    for n in range(part.num_layers):
        own = {key: values[f"{key}_l{n}"] for key in ("weight_ih", "weight_hh")}
        first = [np.reshape(one, (part.num_layers, -1))[n] for one in starts]
        first = first or [np.zeros(part.hidden_size)] * (2 if kind == _LSTM else 1)
        arrays = [_biases(kind, values, f"_l{n}", own), own["weight_ih"].T, own["weight_hh"].T, *first]
        inputs = own["weight_ih"].shape[1]
        yield (kind, inputs, part.hidden_size, activation), _finite(name, arrays)


def _biases(kind: int, values: Mapping[str, Array], suffix: str, own: Mapping[str, Array]) -> Array:
    """From which the sums begin: both biases together, but for a GRU's n whose sum over the state is kept apart."""
    rows = len(own["weight_hh"])
    zeros = np.zeros(rows, np.float32)
    inputs, hidden = (values.get(f"bias_{side}h{suffix}", zeros) for side in "ih")
    if kind != _GRU_AFTER:
        return np.asarray(inputs + hidden)
    n = 2 * (rows // 3)
    return np.concatenate([inputs[:n] + hidden[:n], inputs[n:], hidden[n:]])


def _finite(name: str, arrays: list[Array]) -> list[Array]:
    if not all(np.isfinite(np.asarray(array, np.float32)).all() for array in arrays):
        raise ValueError(f"{name}: expected finite weights in float32, got others")
    return arrays
