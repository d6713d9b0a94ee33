"""A node RNN, LSTM or GRU of ONNX as our layers: attributes, order of gates, layout.

The specification: https://onnx.ai/onnx/operators/onnx__LSTM.html, and RNN, GRU beside it. Where it is silent, a node
does what it does in ONNX Runtime: a row of length 0 ends with zeros, whatever it began with; `clip` bounds what the
activations of gates and candidates are taken of.

With a cell's own functions in each direction a node is two layers, else one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import _checks, layers
from .._bfloat16 import is_bfloat16
from .._checks import Array
from ..description import Cell
from ..description.cells.elman import Elman
from ..description.cells.gru import GRU
from ..description.cells.lstm import LSTM
from ._build import finite

__all__ = ["ACTIVATIONS", "GATES", "Node", "Settings", "layers_of", "load", "our_gates", "settings", "weights_of"]

GATES = {"RNN": ("h",), "LSTM": ("i", "o", "f", "g"), "GRU": ("z", "r", "n")}
"""In ONNX's order, by our names."""

ACTIVATIONS: dict[str, tuple[str, float | None, float | None]] = {
    # ONNX's name: ours, and the defaults of alpha and beta if it has them; NaN: to be given
    "Affine": ("affine", np.nan, np.nan),
    "Elu": ("elu", 1.0, None),
    "HardSigmoid": ("hard_sigmoid", 0.2, 0.5),
    "LeakyRelu": ("leaky_relu", 0.01, None),
    "Relu": ("relu", None, None),
    "ScaledTanh": ("scaled_tanh", np.nan, np.nan),
    "Sigmoid": ("sigmoid", None, None),
    "Softplus": ("softplus", None, None),
    "Softsign": ("softsign", None, None),
    "Tanh": ("tanh", None, None),
    "ThresholdedRelu": ("thresholded_relu", 1.0, None),
}
_FUNCTIONS = {"RNN": ("Tanh",), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}
_DIRECTIONS = ("forward", "reverse", "bidirectional")
_SHARED = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout")
_ATTRIBUTES = {
    "RNN": (*_SHARED, "output_sequence"),
    "LSTM": (*_SHARED, "input_forget", "output_sequence"),
    "GRU": (*_SHARED, "linear_before_reset", "output_sequence"),
}
"""`output_sequence`, of the first version of each, says nothing that the outputs' names do not."""


class Settings(NamedTuple):
    """What a node's attributes say, checked."""

    where: str  # the node, for messages
    op: str
    direction: str
    batch_first: bool
    activations: tuple[tuple[Any, ...], ...]  # of each direction, as our cells take them
    clip: float | None
    flag: bool  # input_forget of an LSTM, linear_before_reset of a GRU
    hidden_size: int | None

    @property
    def directions(self) -> int:
        """How many: 1 or 2."""
        return len(self.activations)


def settings(where: str, op: str, attributes: Mapping[str, Any]) -> Settings:
    """The settings of a node with these attributes; strings may be bytes.

    Raises TypeError or ValueError, with the node's name, for what there is no such thing as.
    """
    found = {name: _text(value) for name, value in attributes.items() if value is not None}
    if unknown := [name for name in found if name not in _ATTRIBUTES[op]]:
        raise ValueError(f"{where}: expected the attributes of {op}, {', '.join(_ATTRIBUTES[op])}; got {unknown}")
    try:
        direction = _checks.choice("direction", found.get("direction", "forward"), _DIRECTIONS)
        layout = _checks.integer("layout", found.get("layout", 0), 0, 1)
        clip = None if "clip" not in found else _checks.number("clip", found["clip"])
        flag = found.get("input_forget", 0) or found.get("linear_before_reset", 0)
        size = None if "hidden_size" not in found else _checks.size("hidden_size", found["hidden_size"])
        if clip is not None and clip <= 0:
            raise ValueError(f"clip: expected a number above 0, got {clip}")
        activations = _activations(op, 2 if direction == "bidirectional" else 1, found)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error
    return Settings(where, op, direction, bool(layout), activations, clip, bool(flag), size)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_text(one) for one in value] if isinstance(value, list | tuple) else value


def _activations(op: str, directions: int, found: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """Of each direction, in our spelling; numbers are taken in order by the functions that have them."""
    count = len(_FUNCTIONS[op])
    names = list(found.get("activations") or _FUNCTIONS[op] * directions)
    if len(names) != count * directions:
        raise ValueError(f"activations: expected {count * directions} functions, got {names}")
    numbers = [list(found.get(f"activation_{which}") or ()) for which in ("alpha", "beta")]
    known = {name.lower(): name for name in ACTIVATIONS}  # ONNX Runtime takes any case
    specs: list[Any] = []
    for name in names:
        if str(name).lower() not in known:
            raise ValueError(f"activations: expected functions among {', '.join(ACTIVATIONS)}, got {name!r}")
        ours, *defaults = ACTIVATIONS[known[str(name).lower()]]
        values = []
        for which, default, given in zip(("alpha", "beta"), defaults, numbers, strict=True):
            if default is not None:
                values.append(float(given.pop(0)) if given else default)
                if not np.isfinite(values[-1]):
                    raise ValueError(f"activation_{which}: expected a finite number for {name}, got {values[-1]}")
        specs.append((ours, *values) if values else ours)
    return tuple(tuple(specs[d * count : (d + 1) * count]) for d in range(directions))


def _cell(given: Settings, direction: int, peephole: bool) -> Cell:
    """The description of one direction."""
    functions, clip = given.activations[direction], given.clip
    if given.op == "RNN":
        return Elman(activation=functions[0], gate_clip=clip)
    if given.op == "GRU":
        return GRU(reset_after=given.flag, activations=functions, gate_clip=clip)
    return LSTM(peephole=peephole, coupled=given.flag, activations=functions, gate_clip=clip)


def weights_of(given: Settings, W: Any, R: Any, B: Any = None, P: Any = None) -> list[dict[str, Array]]:
    """The parameters of each direction, by our names without a layer's suffix; shapes and numbers are checked."""
    gates, where = GATES[given.op], given.where
    count, D = len(gates), given.directions
    arrays = {}
    for name, value in (("W", W), ("R", R), ("B", B), ("P", P)):
        if value is not None:
            arrays[name] = finite(f"{where}: {name}", value)
    for name in "WR":
        if arrays[name].ndim != 3 or 0 in arrays[name].shape:
            raise ValueError(f"{where}: {name}: expected three axes, got {_checks.describe(arrays[name])}")
    H = given.hidden_size or arrays["R"].shape[2]
    expected = {
        "W": (D, count * H, arrays["W"].shape[2]),
        "R": (D, count * H, H),
        "B": (D, 2 * count * H),
        "P": (D, 3 * H),
    }
    for name, array in arrays.items():
        _checks.shape(f"{where}: {name}", array, expected[name])
    ours = our_gates(given.op, given.flag)

    def ordered(rows: Array) -> Array:
        blocks = dict(zip(gates, np.split(rows, count), strict=True))
        return np.concatenate([blocks[gate] for gate in ours])

    made = []
    for d in range(D):
        found = {"weight_ih": ordered(arrays["W"][d]), "weight_hh": ordered(arrays["R"][d])}
        if "B" in arrays:
            found["bias_ih"], found["bias_hh"] = map(ordered, np.split(arrays["B"][d], 2))
        if "P" in arrays:
            peepholes = dict(zip("iof", np.split(arrays["P"][d], 3), strict=True))
            found |= {f"p_{gate}": peepholes[gate] for gate in ours if gate != "g"}
        made.append(found)
    return made


def our_gates(op: str, flag: bool) -> tuple[str, ...]:
    """A node's gates in our order; `flag` as in `Settings`."""
    if op == "LSTM":
        return ("i", "g", "o") if flag else ("i", "f", "g", "o")
    return ("r", "z", "n") if op == "GRU" else ("h",)


def layers_of(given: Settings, weights: list[dict[str, Array]], dtype: np.dtype[Any]) -> list[Any]:
    """The node's layers, one for both directions where they have the same cell."""
    first = weights[0]
    cells = [_cell(given, d, "p_i" in first) for d in range(given.directions)]
    options = {"bias": "bias_ih" in first, "batch_first": given.batch_first, "dtype": dtype}
    sizes = first["weight_ih"].shape[1], first["weight_hh"].shape[1]
    if given.directions == 1 or cells[0] == cells[1]:
        shape = {"bidirectional": given.directions == 2, "reverse": given.direction == "reverse"}
        return [_named(given, cells[0], *sizes, options | shape)]
    return [_named(given, cell, *sizes, options | {"reverse": d == 1}) for d, cell in enumerate(cells)]


def _named(given: Settings, cell: Any, input_size: int, hidden_size: int, options: dict[str, Any]) -> Any:
    """A layer of the class with the node's name, if that has all of the cell's options."""
    if given.clip is not None:
        return layers.Recurrent(cell, input_size, hidden_size, **options)
    kind: Any = getattr(layers, given.op)
    if given.op == "RNN":
        options |= {"nonlinearity": cell.activation}
    else:
        known = kind._cell_options
        own = {name: getattr(cell, name) for name in known if hasattr(cell, name)}
        options |= {name: value for name, value in own.items() if value != known[name]}
    return kind(input_size, hidden_size, **options)


def load(made: list[Any], weights: list[dict[str, Array]]) -> None:
    """Put a node's weights into its layers."""
    if len(made) == 2:
        for layer, own in zip(made, weights, strict=True):
            layer.load({f"{name}_l0": value for name, value in own.items()})
        return
    ends = ("_l0", "_l0_reverse")
    made[0].load({name + end: value for end, own in zip(ends, weights, strict=False) for name, value in own.items()})


class Node:
    """A node that runs; its layers are made from the first weights and kept as long as these are the same arrays."""

    def __init__(self, given: Settings) -> None:
        self.settings = given
        self._weights: tuple[Any, ...] = ()
        self._layers: list[Any] = []

    def layers(self, W: Any, R: Any, B: Any, P: Any, dtype: np.dtype[Any]) -> list[Any]:
        """The layers with these weights in them."""
        weights = W, R, B, P
        same = len(self._weights) == 4 and all(one is other for one, other in zip(weights, self._weights, strict=True))
        if not same or self._layers[0].dtype != dtype:
            own = weights_of(self.settings, *weights)
            made = layers_of(self.settings, own, dtype)
            load(made, own)
            self._weights, self._layers = weights, made
        return self._layers

    def __call__(
        self,
        X: Any,
        W: Any,
        R: Any,
        B: Any = None,
        sequence_lens: Any = None,
        initial_h: Any = None,
        initial_c: Any = None,
        P: Any = None,
    ) -> tuple[Array, ...]:
        """Y, Y_h and, of an LSTM, Y_c, in the dtype of X."""
        given, where = self.settings, self.settings.where
        wide = np.dtype(np.float64 if X.dtype == np.float64 else np.float32)
        if X.ndim != 3:
            raise ValueError(f"{where}: X: expected three axes, got {_checks.describe(X)}")
        made = self.layers(W, R, B, P, wide)
        batch = X.shape[0 if given.batch_first else 1]
        state = self._initial(initial_h, initial_c, batch, made[0].hidden_size, wide)
        try:
            results = [layer(X, self._part(state, d, len(made)), lengths=sequence_lens) for d, layer in enumerate(made)]
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from error
        sequences = [y.reshape(*y.shape[:2], -1, made[0].hidden_size) for y, _ in results]
        Y = np.concatenate(sequences, axis=2) if len(made) > 1 else sequences[0]
        states = [one if isinstance(one, tuple) else (one,) for _, one in results]
        final = [np.concatenate(parts) if len(made) > 1 else parts[0] for parts in zip(*states, strict=True)]
        if sequence_lens is not None:
            for array in final:
                array[:, np.asarray(sequence_lens) == 0] = 0
        if given.batch_first:
            final = [array.swapaxes(0, 1) for array in final]
        else:
            Y = Y.swapaxes(1, 2)
        narrow = X.dtype if X.dtype.kind == "f" or is_bfloat16(X) else wide
        return tuple(array.astype(narrow, copy=False) for array in (Y, *final))

    def _initial(self, h: Any, c: Any, batch: int, hidden: int, dtype: np.dtype[Any]) -> tuple[Array, ...] | None:
        """The initial states [D, B, H] of all directions, or None if none is given."""
        given = self.settings
        if h is None and c is None:
            return None
        names = ("initial_h", "initial_c") if given.op == "LSTM" else ("initial_h",)
        shape = (given.directions, batch, hidden)
        states = []
        for name, value in zip(names, (h, c), strict=False):
            array = np.zeros(shape, dtype) if value is None else _checks.numbers(f"{given.where}: {name}", value)
            array = array.swapaxes(0, 1) if value is not None and given.batch_first and array.ndim == 3 else array
            _checks.shape(f"{given.where}: {name}", array, shape)
            states.append(array)
        return tuple(states)

    def _part(self, state: tuple[Array, ...] | None, number: int, count: int) -> Any:
        """What one of the layers begins with."""
        if state is None:
            return None
        own = tuple(one[number : number + 1] for one in state) if count > 1 else state
        return own if len(own) > 1 else own[0]
