"""PyTorch's modules, in and out, and its packed sequences. PyTorch is imported by the calls that need it.

Parameters are read from the modules' attributes and not from their state dictionaries, so that weight norm and other
parametrisations come in as the weights that they compute.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import _checks, cells, heads, layers
from .._checks import Array
from .._part import Part
from ..description import cells as descriptions
from ..embedding import Embedding
from ..model import Model
from ..parts import Dropout, LayerNorm, Plain
from ._build import common_dtype, filled, finite, unique

__all__ = ["from_packed", "from_torch", "to_packed", "to_torch"]

_LAYER = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_CELL = ("input_size", "hidden_size", "bias")


class _Kind(NamedTuple):
    """How one class of modules comes in."""

    make: Callable[..., Part]
    options: Mapping[str, str]  # the arguments of `make`, and under which names the module has them


def _same(*names: str) -> dict[str, str]:
    return dict(zip(names, names, strict=True))


_KINDS = {
    "RNN": _Kind(layers.RNN, _same(*_LAYER, "nonlinearity")),
    "LSTM": _Kind(layers.LSTM, _same(*_LAYER, "proj_size")),
    "GRU": _Kind(layers.GRU, _same(*_LAYER)),
    "RNNCell": _Kind(cells.RNNCell, _same(*_CELL, "nonlinearity")),
    "LSTMCell": _Kind(cells.LSTMCell, _same(*_CELL)),
    "GRUCell": _Kind(cells.GRUCell, _same(*_CELL)),
    "Linear": _Kind(heads.Dense, {"input_size": "in_features", "output_size": "out_features"}),
    "Embedding": _Kind(Embedding, {"num": "num_embeddings", "dim": "embedding_dim"} | _same("padding_idx", "sparse")),
    "LayerNorm": _Kind(LayerNorm, {"eps": "eps"}),
    "Dropout": _Kind(Dropout, {"p": "p"}),
}
_ACTIVATIONS = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softmax": "softmax",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Softplus": "softplus",
    "ELU": "elu",
}
_ACTIVATION_OPTIONS: dict[str, dict[str, Any]] = {  # with which theirs are ours
    "Softmax": {"dim": -1},
    "GELU": {"approximate": "none"},
    "Softplus": {"beta": 1.0, "threshold": 20.0},
    "ELU": {"alpha": 1.0},
}


def from_torch(module: Any) -> Part:
    """The part that computes what a PyTorch module does.

    Parameters
    ----------
    module : torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, Linear, Embedding, LayerNorm, Dropout, or Sequential
        of these. With all of their options; on any device, in any floating-point type. In a Sequential a layer hands
        its output on, and an activation that `Dense` has may follow a Linear.

    Returns
    -------
    Part
        A layer, cell, head or Embedding; of a Sequential a Model. On the host, in float64 if the module is, else in
        float32.

    Raises
    ------
    TypeError, ValueError
        A module is of another kind, and which one; or a weight is not finite.
    ImportError
        PyTorch is not installed.

    Examples
    --------
    >>> rnnfast.interop.from_torch(torch.nn.LSTM(3, 5, bidirectional=True))  # doctest: +SKIP
    LSTM(input_size=3, hidden_size=5, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=True, ...)
    """
    nn = _torch().nn
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {_checks.describe(module)}")
    if not isinstance(module, nn.Sequential):
        return _part("module", module, "identity")
    parts: dict[str, Part] = {}
    for (name, child), activation in _steps(module):
        label = name if name.isidentifier() else type(child).__name__.lower()
        parts[unique(label, parts)] = _part(f"module[{name!r}]", child, activation)
    made = Model(**parts)  # type: ignore[arg-type]  # cells and what else is no piece of a model are refused there
    made.origin = "torch.nn.Sequential"
    return made


def _flat(sequential: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The modules of a Sequential, and of those in it, by name."""
    for name, child in sequential.named_children():
        if isinstance(child, _torch().nn.Sequential):
            yield from _flat(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _steps(sequential: Any) -> list[tuple[tuple[str, Any], str]]:
    """The parts of a Sequential, by name, each with the activation behind it; all of them are checked."""
    steps: list[tuple[tuple[str, Any], str]] = []
    for name, child in _flat(sequential):
        activation = _ACTIVATIONS.get(type(child).__name__)
        if activation is None:
            _kind_of(f"module[{name!r}]", child)
            steps.append(((name, child), "identity"))
        elif activation != "identity":
            if not steps or _kind_of("module", steps[-1][0][1]) != "Linear" or steps[-1][1] != "identity":
                raise ValueError(f"module[{name!r}]: expected a Linear before a {type(child).__name__}, got none")
            for option, value in _ACTIVATION_OPTIONS.get(type(child).__name__, {}).items():
                if (found := getattr(child, option)) != value:
                    wanted = f"{type(child).__name__} with {option}={value!r}"
                    raise ValueError(f"module[{name!r}]: expected {wanted}, got {option}={found!r}")
            steps[-1] = steps[-1][0], activation
    return steps


def _kind_of(where: str, module: Any) -> str:
    """The key in `_KINDS` of a module's class, or of the class of PyTorch's that it is derived from."""
    nn = _torch().nn
    for name in _KINDS:
        if isinstance(module, getattr(nn, name)):
            return name
    known = ", ".join((*_KINDS, "Sequential"))
    inside = [name for name, child in module.named_modules() if name and type(child).__name__ in _KINDS]
    hint = f"; it has {', '.join(inside[:8])} in it, which can come in one by one" if inside else ""
    raise TypeError(f"{where}: expected one of PyTorch's {known}, got {type(module).__name__}{hint}")


def _part(where: str, module: Any, activation: str) -> Part:
    kind = _kind_of(where, module)
    make, names = _KINDS[kind]
    options = {ours: getattr(module, theirs) for ours, theirs in names.items()}
    if kind == "Linear":
        options |= {"activation": activation, "bias": module.bias is not None}
    if kind == "Embedding" and module.max_norm is not None:
        raise ValueError(f"{where}: expected an Embedding without max_norm, got max_norm={module.max_norm}")
    if kind == "Dropout":
        made: Part = make(**options)
        made.origin = "torch.nn.Dropout"
        return made
    if kind == "LayerNorm":
        if len(module.normalized_shape) != 1 or not module.elementwise_affine:
            raise ValueError(f"{where}: expected a LayerNorm of one axis with weights, got {module}")
        options |= {"size": module.normalized_shape[0], "bias": module.bias is not None}
    known = _names(kind, module)
    weights = {name: _weight(f"{where}.{name}", getattr(module, name)) for name in known}
    part = make(**options, dtype=common_dtype(weights.values()))
    return filled(part, weights, f"torch.nn.{kind}")


def _weight(where: str, tensor: Any) -> Array:
    if tensor.is_meta:
        raise ValueError(f"{where}: expected a tensor with values, got one on the meta device")
    return finite(where, tensor.detach().cpu())


def _names(kind: str, module: Any) -> list[str]:
    """The names of a module's own weights."""
    if kind in ("Linear", "Embedding", "LayerNorm"):
        return ["weight", "bias"] if getattr(module, "bias", None) is not None else ["weight"]
    if kind.endswith("Cell"):
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
        return names
    return list(module._flat_weights_names)


def to_torch(part: Part) -> Any:
    """The PyTorch module that computes what a part does, with a copy of its parameters.

    Parameters
    ----------
    part : RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, Dense, Embedding or Model
        Of a cell that PyTorch has: RNN with "tanh" or "relu", LSTM with or without `proj_size`, GRU with
        `reset_after`; one direction forwards, or two.

    Returns
    -------
    torch.nn.Module
        Of a Model a `rnnfast.torch.Chain`, a Sequential that is called as the model is.

    Raises
    ------
    TypeError, ValueError
        PyTorch has no such cell, and which part it is.
    ImportError
        PyTorch is not installed.
    """
    torch = _torch()
    if not isinstance(part, Part):
        raise TypeError(f"part: expected a layer, cell, head or Model, got {_checks.describe(part)}")
    part = copy.deepcopy(part)  # all of one version, whatever other threads write
    if not isinstance(part, Model):
        module, *activation = _modules("part", torch, part)
        return torch.nn.Sequential(module, *activation) if activation else module
    if not part.is_chain:
        raise ValueError(
            "part: expected a Model in which each part reads the one before alone, got other inputs or ties"
        )
    from .. import torch as ours

    made = [(name, _modules(f"part[{name!r}]", torch, one)) for name, one in part.parts.items()]
    chain = ours.Chain()
    for name, modules in made:
        for label, module in zip((name, f"{name}_activation"), modules, strict=False):
            chain.add_module(label, module)
    return chain


def _modules(where: str, torch: Any, part: Any) -> list[Any]:
    """The module of a part, and perhaps one of its activation."""
    if isinstance(part, Dropout):
        return [torch.nn.Dropout(part.p)]
    if isinstance(part, LayerNorm):
        dtype = getattr(torch, part.dtype.name)
        return [_fill(torch, torch.nn.LayerNorm(part.size, eps=part.eps, bias=part.bias, dtype=dtype), part)]
    if isinstance(part, Plain):
        raise ValueError(
            f"{where}: expected a layer, cell, Dense, Embedding, LayerNorm or Dropout, got {type(part).__name__}"
        )
    dtype = getattr(torch, part.dtype.name)
    if isinstance(part, Embedding):
        table = torch.nn.Embedding(part.num, part.dim, part.padding_idx, sparse=part.sparse, dtype=dtype)
        return [_fill(torch, table, part)]
    if isinstance(part, heads.Dense):
        linear = torch.nn.Linear(part.input_size, part.output_size, part.bias, dtype=dtype)
        kind = next(name for name, own in _ACTIVATIONS.items() if own == part.activation)
        activation = getattr(torch.nn, kind)(**_ACTIVATION_OPTIONS.get(kind, {}))
        return [_fill(torch, linear, part), *([] if kind == "Identity" else [activation])]
    kind, options = _torch_cell(where, part)
    if isinstance(part, layers.Recurrent):
        if part.reverse:
            raise ValueError(f"{where}: expected layers that run forwards or both ways, got reverse=True")
        options |= {name: getattr(part, name) for name in _LAYER}
        module = getattr(torch.nn, kind)(**options, dtype=dtype)
    else:
        options |= {name: getattr(part, name) for name in _CELL}
        module = getattr(torch.nn, f"{kind}Cell")(**options, dtype=dtype)
    return [_fill(torch, module, part)]


def _torch_cell(where: str, part: Any) -> tuple[str, dict[str, Any]]:
    """The class and the options of a cell's, or ValueError."""
    cell = getattr(part, "cell", None)
    if isinstance(cell, descriptions.elman.Elman) and cell.activation in ("tanh", "relu"):
        if cell == descriptions.elman.Elman(activation=cell.activation):
            return "RNN", {"nonlinearity": cell.activation}
    elif isinstance(cell, descriptions.lstm.LSTM):
        if cell == descriptions.lstm.LSTM(proj_size=cell.proj_size) and (
            isinstance(part, layers.Recurrent) or not cell.proj_size
        ):
            return "LSTM", {"proj_size": cell.proj_size} if cell.proj_size else {}
    elif cell == descriptions.gru.GRU():
        return "GRU", {}
    expected = "an RNN of tanh or relu, an LSTM of nothing more than proj_size, or a GRU with reset_after"
    raise ValueError(f"{where}: expected {expected}, which PyTorch has, got {cell if cell is not None else part!r}")


def _fill(torch: Any, module: Any, part: Any) -> Any:
    to_host = part.params.device.to_host
    module.load_state_dict({name: torch.from_numpy(np.array(to_host(value))) for name, value in part.params.items()})
    return module


def from_packed(packed: Any) -> tuple[Array, Array]:
    """PyTorch's packed sequence as a padded array and lengths, which every call here takes.

    Parameters
    ----------
    packed : torch.nn.utils.rnn.PackedSequence

    Returns
    -------
    x : ndarray, shape [T, B, I]
        Rows in the order that they had before packing; zeros beyond their lengths.
    lengths : ndarray of int64, shape [B]

    Raises
    ------
    TypeError
        It is something else.
    """
    rnn = _torch().nn.utils.rnn
    if not isinstance(packed, rnn.PackedSequence):
        raise TypeError(f"packed: expected a torch.nn.utils.rnn.PackedSequence, got {_checks.describe(packed)}")
    padded, lengths = rnn.pad_packed_sequence(packed)
    return _checks.numbers("packed", padded.detach().cpu()), _checks.integers("packed", lengths).astype(np.int64)


def to_packed(y: Any, lengths: Any) -> Any:
    """A padded array and lengths as PyTorch's packed sequence.

    Parameters
    ----------
    y : array_like, shape [T, B, features]
    lengths : array_like of int, shape [B]
        Each in 1..T: a packed sequence has no empty rows.

    Returns
    -------
    torch.nn.utils.rnn.PackedSequence

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind, shape or range.
    """
    torch = _torch()
    array = _checks.numbers("y", y)
    if array.ndim != 3:
        raise ValueError(f"y: expected [T, B, features], got {_checks.describe(array)}")
    ends = _checks.lengths(lengths, *array.shape[:2])
    if ends is None or (ends < 1).any():
        raise ValueError(f"lengths: expected values in 1..T, as a packed sequence has no empty rows, got {lengths}")
    pack = torch.nn.utils.rnn.pack_padded_sequence
    return pack(torch.from_numpy(np.array(array)), torch.from_numpy(ends), enforce_sorted=False)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError("models of PyTorch need PyTorch: pip install torch") from error
    return torch
