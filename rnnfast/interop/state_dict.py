"""PyTorch's state dictionaries, and safetensors files of them, without PyTorch.

PyTorch's names say almost all of a layer: its kind, by the rows of its matrices; its sizes, its number of layers, its
directions, biases and projection. What they do not say, the caller does: an RNN's activation, and the order of axes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike

from .. import _checks, cells, heads, layers
from .._checks import Array
from .._part import Part
from ..embedding import Embedding
from ._build import common_dtype, filled, finite

__all__ = ["from_safetensors", "from_state_dict"]

_FIRST = ("weight_ih_l0", "weight_ih", "weight")  # a name that every part of PyTorch's has, and its own
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def from_state_dict(
    tensors: Mapping[str, Any],
    prefix: str = "",
    *,
    embedding: bool = False,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    dtype: DTypeLike | None = None,
) -> Part:
    """A layer, cell or head from the tensors of PyTorch's RNN, LSTM, GRU, their cells, Linear or Embedding.

    Parameters
    ----------
    tensors : mapping from str to array_like
        A state dictionary, of this module or of a whole net.
    prefix : str, optional
        What stands before the module's names in it: "encoder.rnn."; the last dot may be left out.
    embedding : bool, optional
        Whether a weight without a bias is that of an Embedding, and not of a Linear, which looks the same.
    nonlinearity : {"tanh", "relu"}, optional
        Of an RNN or RNNCell, whose tensors do not say it.
    batch_first : bool, optional
        Of a layer.
    dtype : dtype-like, optional
        By default float64 if a tensor is of float64, else float32.

    Returns
    -------
    RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, Dense or Embedding

    Raises
    ------
    TypeError, ValueError
        There is no such module behind the prefix, and which prefixes there are; its tensors do not fit each other, or
        are not finite real numbers.

    Examples
    --------
    >>> lstm = rnnfast.LSTM(3, 5, num_layers=2)
    >>> rnnfast.interop.from_state_dict({f"net.rnn.{name}": value for name, value in lstm.params.items()}, "net.rnn")
    LSTM(input_size=3, hidden_size=5, num_layers=2, bias=True, batch_first=False, dropout=0.0, bidirectional=False, \
reverse=False, dtype='float32', init='pytorch')
    """
    _checks.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    own = _behind(_checks.mapping("tensors", tensors), prefix)
    arrays = {name: finite(f"tensors[{full!r}]", tensors[full]) for name, full in own.items()}
    options: dict[str, Any] = {"dtype": common_dtype(arrays.values(), dtype)}
    first = next(name for name in _FIRST if name in arrays)
    where = own[first].removesuffix(first)
    _two_axes(own[first], arrays[first])
    part: Part
    if first == "weight":
        output_size, input_size = arrays["weight"].shape
        part = (
            Embedding(output_size, input_size, **options)
            if embedding
            else heads.Dense(input_size, output_size, bias="bias" in arrays, **options)
        )
    else:
        part = _recurrent(own, arrays, first, nonlinearity, batch_first, options)
    surplus = [own[name] for name in arrays if name not in part.params]
    if surplus:
        raise ValueError(f"tensors: expected those of one {type(part).__name__} behind {where!r}, got also {surplus}")
    for name, shape in part.params.shapes.items():
        if name not in arrays:
            raise ValueError(f"tensors: expected {where + name!r} of a {type(part).__name__}, got no such name")
        _checks.shape(f"tensors[{own[name]!r}]", arrays[name], shape)
    return filled(part, arrays, f"PyTorch state dictionary{f', {where}' if where else ''}")


def from_safetensors(
    path: str | os.PathLike[str],
    prefix: str = "",
    *,
    embedding: bool = False,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    dtype: DTypeLike | None = None,
) -> Part:
    """A layer, cell or head from a safetensors file of PyTorch's names; tensors of other modules are not read.

    Parameters
    ----------
    path : path-like
    prefix, embedding, nonlinearity, batch_first, dtype
        As of `from_state_dict`.

    Returns
    -------
    RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, Dense or Embedding

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError, ValueError
        The file is truncated or damaged, or its tensors are refused as by `from_state_dict`.
    ImportError
        safetensors is not installed.
    """
    try:
        import safetensors
    except ImportError as error:
        raise ImportError('safetensors files need safetensors: pip install "rnnfast[cli]"') from error
    path = Path(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"path: expected a safetensors file, but {path} {what}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = dict.fromkeys(file.keys())
            tensors = dict(names) | {full: file.get_tensor(full) for full in _behind(names, prefix).values()}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: truncated, damaged, or not a safetensors file: {error}") from error
    options: dict[str, Any] = {"nonlinearity": nonlinearity, "batch_first": batch_first, "dtype": dtype}
    part = from_state_dict(tensors, prefix, embedding=embedding, **options)
    part.origin = f"{path.name}, {part.origin}"
    return part


def _behind(tensors: Mapping[str, Any], prefix: Any) -> dict[str, str]:
    """The names of one module: without the prefix, and in full."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {_checks.describe(prefix)}")
    for start in dict.fromkeys((prefix, f"{prefix}." if prefix else prefix)):
        own = {name.removeprefix(start): name for name in tensors if str(name).startswith(start)}
        if any(first in own for first in _FIRST):
            return own
    ends = tuple(f".{first}" for first in _FIRST)
    modules = sorted({re.sub(r"[^.]*$", "", name) for name in map(str, tensors) if name.endswith(ends)})
    there = f"; modules are behind {modules}" if modules else f"; the names are {list(tensors)[:8]}"
    raise ValueError(f"prefix: expected that of an RNN, LSTM, GRU or Linear in tensors, got {prefix!r}{there}")


def _two_axes(name: str, array: Array) -> None:
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"tensors[{name!r}]: expected a matrix, got {_checks.describe(array)}")


def _recurrent(
    own: Mapping[str, str],
    arrays: Mapping[str, Array],
    first: str,
    nonlinearity: str,
    batch_first: bool,
    options: dict[str, Any],
) -> Part:
    """A layer or a cell with the sizes that the tensors have."""
    suffix = first.removeprefix("weight_ih")
    hidden_name = "weight_hh" + suffix
    if hidden_name not in arrays:
        missing = own[first].removesuffix(first) + hidden_name
        raise ValueError(f"tensors: expected {missing!r} beside {own[first]!r}, got no such name")
    _two_axes(own[hidden_name], arrays[hidden_name])
    (rows, input_size), (hidden_rows, recurrent) = arrays[first].shape, arrays[hidden_name].shape
    projection = arrays.get("weight_hr" + suffix)
    kind = "LSTM" if projection is not None else {4: "LSTM", 3: "GRU", 1: "RNN"}.get(rows // recurrent, "")
    gates = _GATES.get(kind, 1)
    hidden_size = rows // gates
    if (
        not kind
        or rows != hidden_rows
        or rows != gates * hidden_size
        or (projection is None and hidden_size != recurrent)
    ):
        shapes = f"{own[first]} {list(arrays[first].shape)} and {own[hidden_name]} {list(arrays[hidden_name].shape)}"
        raise ValueError(f"tensors: expected matrices of an RNN [H, I] [H, H], GRU [3*H, ...] or LSTM, got {shapes}")
    options |= {"bias": "bias_ih" + suffix in arrays}
    if kind == "RNN":
        options["nonlinearity"] = nonlinearity
    if not suffix:
        made: Part = getattr(cells, f"{kind}Cell")(input_size, hidden_size, **options)
        return made
    count = len({name for name in arrays if re.fullmatch(r"weight_ih_l\d+", name)})
    options |= {"batch_first": batch_first, "bidirectional": "weight_ih_l0_reverse" in arrays}
    if projection is not None:
        options["proj_size"] = recurrent
    made = getattr(layers, kind)(input_size, hidden_size, count, **options)
    return made
