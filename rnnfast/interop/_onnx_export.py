"""Our layers, heads and models as ONNX graphs.

A layer of a stack is one node; around it stand the nodes that bring arrays into its order of axes. ONNX Runtime has
batch-first nodes not at all, so layers with `batch_first` are transposed.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from .. import _checks
from .._checks import Array
from .._part import Part
from ..config import version
from ..description import Wrapped
from ..description.cells.elman import Elman
from ..description.cells.gru import GRU
from ..description.cells.lstm import LSTM
from ..description.functions import canonical
from ..embedding import Embedding
from ..heads import Dense
from ..layers import Recurrent
from ..model import Model
from ..parts import Dropout, LayerNorm, Pool
from ._onnx_node import ACTIVATIONS, GATES, our_gates

__all__ = ["to_onnx"]

_OLDEST, _OPSET, _IR = 14, 17, 8
_NORMS, _REDUCE = 17, 18  # the first opsets with LayerNormalization, and with axes as an input of ReduceMean
_NAMES = {ours: theirs for theirs, (ours, *_) in ACTIVATIONS.items()}
_HEADS = {
    **{"sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax", "relu": "Relu", "softplus": "Softplus"},
    **{"elu": "Elu", "identity": "Identity"},
}


def to_onnx(
    part: Part,
    path: str | os.PathLike[str] | None = None,
    *,
    lengths: bool = False,
    state: bool = False,
    last_only: bool = False,
    opset: int = _OPSET,
) -> Any:
    """A layer, head or model as an ONNX model, checked, with any number of steps and rows.

    Parameters
    ----------
    part : RNN, LSTM, GRU, Recurrent of their cells, Dense, Embedding, or Model of these, LayerNorm, Dropout and Pool
        In a model each part reads the one before. Of a cell that ONNX has: any of `gate_clip`, activations, `peephole`,
        `coupled` and `reset_after`; nothing of projections, norms, heads, leaks or zoneout. Dropout is left out, as in
        every call without training.
    path : path-like, optional
        The file to write, whole or not at all.
    lengths : bool, optional
        Whether there is an input `lengths`, int32 [B]. A row of length 0 ends with zeros there, by ONNX Runtime.
    state : bool, optional
        Whether initial states are inputs and final states outputs: `h0`, `c0`, `hn`, `cn`, [L*D, B, H]; in a model
        behind the layer's name, `rnn.h0`.
    last_only : bool, optional
        Whether `y` has no axis for time, as by `last_only=True` in a call.
    opset : int, optional
        Of at least 14.

    Returns
    -------
    onnx.ModelProto
        With the input `x` [T, B, I] (ids [T, B] if an Embedding is first; [B, T, ...] with `batch_first`) and the
        output `y`, in the part's dtype. ONNX Runtime has these nodes in float32 alone.

    Raises
    ------
    TypeError, ValueError
        ONNX has no such cell, and which part it is; nothing is written.
    OSError
        The file can't be written.

    Examples
    --------
    >>> proto = rnnfast.interop.to_onnx(rnnfast.LSTM(3, 5))  # doctest: +SKIP
    """
    if not isinstance(part, Recurrent | Dense | Embedding | Model):
        raise TypeError(f"part: expected a layer, Dense, Embedding or Model, got {_checks.describe(part)}")
    if isinstance(part, Model) and not part.is_chain:
        raise ValueError("part: expected a Model in which each part reads the one before, got other inputs or ties")
    for name, value in (("lengths", lengths), ("state", state), ("last_only", last_only)):
        _checks.truth(name, value)
    opset = _checks.integer("opset", opset, _OLDEST, defs.onnx_opset_version())
    part = copy.deepcopy(part)  # all of one version, whatever other threads write
    parts: dict[str, Any] = dict(part.parts) if isinstance(part, Model) else {"": part}
    layers = {name: one for name, one in parts.items() if isinstance(one, Recurrent)}
    if (lengths or state or last_only) and not layers:
        raise ValueError("lengths, state, last_only: expected False for a part without recurrent layers, got True")
    nodes = {name: _node(f"part[{name!r}]" if name else "part", layer) for name, layer in layers.items()}
    pools = _pools(parts, lengths)
    if pools and last_only:
        raise ValueError("last_only: expected False for a model with a Pool, which takes what it takes, got True")
    if opset < _NORMS and any(isinstance(one, LayerNorm) for one in parts.values()):
        raise ValueError(f"opset: expected at least {_NORMS}, the first with layer normalisation, got {opset}")
    batch_first = any(layer.batch_first for layer in layers.values())
    graph = _Graph(part.dtype, opset, lengths=lengths, state=state)
    y = steps = graph.input_of(next(iter(parts.values())), batch_first)
    last = [*layers][-1] if last_only else None
    for name, one in parts.items():
        if isinstance(one, Recurrent):
            y = graph.layer(name, one, nodes[name], y, last=name == last or pools.get(name) == "last")
        elif isinstance(one, Pool):
            y = y if one.kind == "last" else graph.pool(one.kind, y)
        elif not isinstance(one, Dropout):
            y = graph.head(name, one, y)
    if lengths and graph.has_time and not isinstance([*parts.values()][-1], Recurrent):
        y = graph.blank(y, steps)
    if batch_first and graph.has_time:
        y = graph.add("Transpose", [y], perm=[1, 0, 2])
    model = graph.finish(y)
    if path is not None:
        from ..checkpoint import write_atomically

        write_atomically(path, model.SerializeToString())
    return model


def _pools(parts: dict[str, Any], lengths: bool) -> dict[str, str]:
    """The kinds of the pools of a row of parts, by the names of the parts before them; all parts are looked at."""
    found: dict[str, str] = {}
    before = ""
    for name, one in parts.items():
        if not isinstance(one, Recurrent | Dense | Embedding | LayerNorm | Dropout | Pool):
            raise ValueError(
                f"part[{name!r}]: expected a layer, Dense, Embedding, LayerNorm, Dropout or Pool, got {one}"
            )
        if isinstance(one, Pool):
            layer = parts.get(before)
            if one.kind == "last" and not (
                isinstance(layer, Recurrent)
                and (layer.bidirectional, layer.reverse) == (one.bidirectional, one.reverse)
            ):
                raise ValueError(
                    f"part[{name!r}]: expected a layer of the same directions before Pool('last'), got {layer}"
                )
            if one.kind != "last" and lengths:
                raise ValueError(f"lengths: expected False with Pool({one.kind!r}), got True")
            found[before] = one.kind
        before = name
    return found


def _node(where: str, layer: Any) -> tuple[str, dict[str, Any]]:
    """The node of a layer's cell, and its attributes."""
    cell = layer.cell
    if isinstance(cell, Wrapped) and not cell.zoneout and not cell.clip:
        cell = cell.cell
    kind: str | None = None
    attributes: dict[str, Any] = {}
    if isinstance(cell, Elman) and cell == Elman(activation=cell.activation, gate_clip=cell.gate_clip):
        kind, functions = "RNN", (cell.activation,)
    elif isinstance(cell, LSTM):
        known = {name: getattr(cell, name) for name in ("peephole", "coupled", "activations", "gate_clip")}
        if cell == LSTM(**known):
            kind, functions = "LSTM", cell.activations
            attributes = {"input_forget": 1} if cell.coupled else {}
    elif isinstance(cell, GRU):
        known = {name: getattr(cell, name) for name in ("reset_after", "activations", "gate_clip")}
        if cell == GRU(**known):
            kind, functions = "GRU", cell.activations
            attributes = {"linear_before_reset": 1} if cell.reset_after else {}
    if kind is None:
        raise ValueError(
            f"{where}: expected a cell that ONNX has, an RNN, LSTM or GRU without other options, got {cell}"
        )
    if cell.gate_clip is not None:
        attributes["clip"] = cell.gate_clip
    backwards = layer._recurrence.layout.backwards
    attributes["direction"] = "bidirectional" if len(backwards) == 2 else "reverse" if backwards[0] else "forward"
    attributes["hidden_size"] = layer.hidden_size
    return kind, attributes | _functions(where, functions, len(backwards))


def _functions(where: str, functions: tuple[Any, ...], directions: int) -> dict[str, Any]:
    """The attributes of a cell's activations."""
    names: list[str] = []
    numbers: tuple[list[float], list[float]] = ([], [])
    for spec in functions:
        key, given = canonical(spec)
        if key == "identity":
            key, given = "affine", (1.0, 0.0)
        if key not in _NAMES:
            raise ValueError(
                f"{where}: expected activations among {', '.join(ACTIVATIONS)}, which ONNX has, got {spec!r}"
            )
        names.append(_NAMES[key])
        defaults: Any = {"affine": (1.0, 0.0)}.get(key, tuple(ACTIVATIONS[_NAMES[key]][1:]))
        filled: Any = (*given, *defaults[len(given) :])
        for which, (value, default) in enumerate(zip(filled, defaults, strict=True)):
            if default is not None:
                numbers[which].append(float(value))
    found: dict[str, Any] = {"activations": names * directions}
    for name, values in zip(("activation_alpha", "activation_beta"), numbers, strict=True):
        if values:
            found[name] = values * directions
    return found


class _Graph:
    """A graph that grows by one part after the other; everything is time-major inside."""

    def __init__(self, dtype: np.dtype[Any], opset: int, *, lengths: bool, state: bool) -> None:
        self._dtype, self._kind = dtype, helper.np_dtype_to_tensor_dtype(dtype)
        self._opset = opset
        self._state, self._lengths = state, "lengths" if lengths else ""
        self._nodes: list[Any] = []
        self._weights: dict[str, Array] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._features: int = 0
        self._leading: list[str] = ["time", "batch"]

    @property
    def has_time(self) -> bool:
        """Whether what was added last has an axis for time."""
        return len(self._leading) == 2

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str:
        """A node; the name of its first output."""
        name = f"{op}_{len(self._nodes)}"
        made = [f"{name}_{n}" if n else name for n in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, made, name=name, **attributes))
        return made[0]

    def weight(self, name: str, array: Array) -> str:
        """A constant."""
        self._weights[name] = np.ascontiguousarray(array)
        return name

    def numbers(self, *values: int) -> str:
        """Constant integers, of sizes and axes."""
        return self.weight("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def input_of(self, first: Any, batch_first: bool) -> str:
        """The input, time-major."""
        self._leading = ["batch", "time"] if batch_first else ["time", "batch"]
        ids = isinstance(first, Embedding)
        shape: list[Any] = [*self._leading, *([] if ids else [first.input_size])]
        kind = TensorProto.INT64 if ids else self._kind
        self._inputs.append(helper.make_tensor_value_info("x", kind, shape))
        if self._lengths:
            self._inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
        return self.add("Transpose", ["x"], perm=[1, 0] if ids else [1, 0, 2]) if batch_first else "x"

    def layer(self, name: str, layer: Any, node: tuple[str, dict[str, Any]], x: str, *, last: bool) -> str:
        """All layers of a stack; with `last`, y is [B, D*H]."""
        kind, attributes = node
        prefix, layout = f"{name}." if name else "", layer._recurrence.layout
        directions, count = layout.directions, len(layout.state_widths)
        initial = self._initial(prefix, layout) if self._state else [""] * 2
        finals: list[list[str]] = [[] for _ in range(count)]
        y = final = ""
        for number in range(layout.num_layers):
            own = self._of_layer(prefix, layer, number, kind, coupled="input_forget" in attributes)
            starts = [self._slice(one, number, directions) for one in initial]
            inputs = [x, own["W"], own["R"], own.get("B", ""), self._lengths, *starts[:count]]
            inputs += [own["P"]] if "P" in own else []
            while not inputs[-1]:
                inputs.pop()
            y = self.add(kind, inputs, 1 + count, **attributes)
            final = f"{y}_1"
            for which in range(count):
                finals[which].append(f"{y}_{1 + which}")
            if directions == 1:
                x = self.add("Squeeze", [y, self.numbers(1)])
            else:
                joined = self.add("Transpose", [y], perm=[0, 2, 1, 3])
                x = self.add("Reshape", [joined, self.numbers(0, 0, layout.features)])
        if self._state:
            for letter, parts, width in zip("hc", finals, layout.state_widths, strict=False):
                output = f"{prefix}{letter}n"
                self._nodes.append(helper.make_node("Concat", parts, [output], name=output, axis=0))
                shape = [layout.num_layers * directions, "batch", width]
                self._outputs.append(helper.make_tensor_value_info(output, self._kind, shape))
        self._features = layout.features
        if last:
            self._leading = ["batch"]
            x = self.add("Reshape", [self.add("Transpose", [final], perm=[1, 0, 2]), self.numbers(0, layout.features)])
        return x

    def _initial(self, prefix: str, layout: Any) -> list[str]:
        """Inputs for the initial states of a stack."""
        names = []
        for letter, width in zip("hc", layout.state_widths, strict=False):
            shape = [layout.num_layers * layout.directions, "batch", width]
            self._inputs.append(helper.make_tensor_value_info(f"{prefix}{letter}0", self._kind, shape))
            names.append(f"{prefix}{letter}0")
        return names

    def _slice(self, state: str, number: int, directions: int) -> str:
        """One layer's part of an initial state."""
        if not state:
            return ""
        start, stop = number * directions, (number + 1) * directions
        return self.add("Slice", [state, self.numbers(start), self.numbers(stop), self.numbers(0)])

    def _of_layer(self, prefix: str, layer: Any, number: int, kind: str, *, coupled: bool) -> dict[str, str]:
        """The weights of one layer in ONNX's order, by the inputs' names."""
        to_host, layout = layer.params.device.to_host, layer._recurrence.layout
        zeros = np.zeros(layer.hidden_size, self._dtype)
        gates = our_gates(kind, coupled)
        found: dict[str, list[Array]] = {}
        for suffix in layout.suffixes[number * layout.directions :][: layout.directions]:
            names = [name for name in layer.params if name.endswith(suffix)]
            own = {name.removesuffix(suffix): np.asarray(to_host(layer.params[name])) for name in names}

            def ordered(name: str, own: Any = own) -> Array:
                blocks = dict(zip(gates, np.split(own[name], len(gates)), strict=True))
                return np.concatenate([blocks.get(gate, 0 * own[name][: len(zeros)]) for gate in GATES[kind]])

            found.setdefault("W", []).append(ordered("weight_ih"))
            found.setdefault("R", []).append(ordered("weight_hh"))
            if "bias_ih" in own:
                found.setdefault("B", []).append(np.concatenate([ordered("bias_ih"), ordered("bias_hh")]))
            if "p_i" in own:
                found.setdefault("P", []).append(np.concatenate([own.get(f"p_{gate}", zeros) for gate in "iof"]))
        return {name: self.weight(f"{prefix}{name}_l{number}", np.stack(parts)) for name, parts in found.items()}

    def head(self, name: str, head: Any, x: str) -> str:
        """A Dense, an Embedding or a LayerNorm."""
        to_host, prefix = head.params.device.to_host, f"{name}." if name else ""
        own = {key: np.asarray(to_host(value)) for key, value in head.params.items()}
        if isinstance(head, Dense):
            own["weight"] = own["weight"].T
        weight, *bias = [self.weight(prefix + key, value) for key, value in own.items()]
        if isinstance(head, Embedding):
            self._features = head.dim
            return self.add("Gather", [weight, x])
        if isinstance(head, LayerNorm):
            return self.add("LayerNormalization", [x, weight, *bias], axis=-1, epsilon=head.eps)
        self._features = head.output_size
        y = self.add("MatMul", [x, weight])
        y = self.add("Add", [y, *bias]) if bias else y
        if head.activation == "silu":
            return self.add("Mul", [y, self.add("Sigmoid", [y])])
        if head.activation == "gelu":
            half, root = (
                self.weight(key, np.array(value, self._dtype)) for key, value in (("half", 0.5), ("root", 0.5**0.5))
            )
            normal = self.add("Add", [self.add("Mul", [self.add("Erf", [self.add("Mul", [y, root])]), half]), half])
            return self.add("Mul", [y, normal])
        return self.add(_HEADS[head.activation], [y], **({"axis": -1} if head.activation == "softmax" else {}))

    def pool(self, kind: str, x: str) -> str:
        """The mean or the maximum of all steps."""
        self._leading = ["batch"]
        operator = {"mean": "ReduceMean", "max": "ReduceMax"}[kind]
        if self._opset < _REDUCE:
            return self.add(operator, [x], axes=[0], keepdims=0)
        return self.add(operator, [x, self.numbers(0)], keepdims=0)

    def blank(self, y: str, x: str) -> str:
        """Zeros beyond the lengths, where a head has made something of them."""
        steps = self.add("Gather", [self.add("Shape", [x]), self.weight("first", np.array(0, np.int64))])
        zero, one = self.weight("zero", np.array(0, np.int64)), self.weight("one", np.array(1, np.int64))
        number = self.add("Unsqueeze", [self.add("Range", [zero, steps, one]), self.numbers(1)])
        within = self.add("Less", [number, self.add("Cast", ["lengths"], to=TensorProto.INT64)])
        nothing = self.weight("nothing", np.array(0, self._dtype))
        return self.add("Where", [self.add("Unsqueeze", [within, self.numbers(2)]), y, nothing])

    def finish(self, y: str) -> Any:
        """The model, checked."""
        self._nodes.append(helper.make_node("Identity", [y], ["y"], name="y"))
        self._outputs.insert(0, helper.make_tensor_value_info("y", self._kind, [*self._leading, self._features]))
        weights = [numpy_helper.from_array(array, name) for name, array in self._weights.items()]
        graph = helper.make_graph(self._nodes, "rnnfast", self._inputs, self._outputs, weights)
        opsets = [helper.make_opsetid("", self._opset)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR, producer_name="rnnfast", producer_version=version()
        )
        onnx.checker.check_model(model, full_check=True)
        return model
