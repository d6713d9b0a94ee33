"""An ONNX graph that is a row of layers and heads, as a `Model`.

The nodes that compute are taken in order; those that only shape arrays are left out, whatever they do. Whether a row of
parts with these weights is the graph is then not argued but tried: both run on random inputs of two sizes, and the
model with the graph's order of axes is the one whose output is the graph's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from .._checks import Array
from ..embedding import Embedding
from ..heads import Dense
from ..model import Model
from ..parts import Concat, LayerNorm, Pool
from ._build import common_dtype, finite, unique
from ._onnx_file import named, settings_of
from ._onnx_node import GATES, layers_of, load, weights_of

__all__ = ["model_of"]

_ACTIVATIONS = {
    **{
        "Sigmoid": "sigmoid",
        "Tanh": "tanh",
        "Softmax": "softmax",
        "Relu": "relu",
        "Softplus": "softplus",
        "Elu": "elu",
    },
}
_SHAPING = {
    *("Cast", "Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "Flatten", "Gather", "Identity"),
    *("Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"),
}
_LARGEST = 2**24
_SIZES = {"steps": (5, 7), "rows": (3, 2)}


def model_of(graph: Any) -> Model:
    """The model of a `Graph`, or ValueError."""
    inputs, errors = _Inputs(graph), []
    names = ""
    for batch_first in (False, True):
        try:
            row = _row(graph, inputs, batch_first)
        except _Unfit as error:
            raise ValueError(str(error)) from error
        except ValueError as error:  # the graph doesn't run on arrays of this order
            errors.append(str(error))
            continue
        names = ", ".join(row.names())
        for pooled in (False, True):
            try:
                model = row.model(batch_first=batch_first, pooled=pooled)
                difference = _difference(graph, model, inputs, batch_first)
            except (TypeError, ValueError) as error:
                difference = str(error)
            if not difference:
                model.origin = graph.origin
                return model
            errors.append(difference)
    raise ValueError(
        f"{graph.origin}: expected a row of layers and heads; a model of {names or 'nothing'} has another output: "
        f"{'; '.join(dict.fromkeys(errors))}"
    )


class _Unfit(Exception):
    """A node that no model has."""


def _row(graph: Any, inputs: _Inputs, batch_first: bool) -> _Row:
    """The parts, from the values that arrays have in a run."""
    row = _Row(graph.origin, inputs.of_data(), graph.run_through(inputs.feeds(0, batch_first=batch_first)))
    for node in graph.proto.graph.node:
        row.add(node)
    return row


class _Inputs:
    """What a graph's inputs are for, and random values of them."""

    def __init__(self, graph: Any) -> None:
        given = {one.name for one in graph.proto.graph.initializer}
        self._types = {one.name: one.type.tensor_type for one in graph.proto.graph.input if one.name not in given}
        made_of = {output: node for node in graph.proto.graph.node for output in node.output}
        roles: dict[str, str] = {}
        features: dict[str, int] = {}
        for node in graph.proto.graph.node:
            if node.op_type in GATES:
                wanted = dict(enumerate(node.input))
                for place, role in ((4, "lengths"), (5, "state"), (6, "state")):
                    source = _source(wanted.get(place, ""), made_of)
                    if source in self._types:
                        roles[source] = role
        for node in graph.proto.graph.node:
            if node.op_type in GATES or node.op_type in ("MatMul", "Gemm"):
                source = _source(node.input[0], made_of)
                weight = next((one for one in graph.proto.graph.initializer if one.name == node.input[1]), None)
                if source in self._types and weight is not None:
                    features.setdefault(source, weight.dims[-1 if node.op_type in GATES else -2])
        rest = [name for name in self._types if name not in roles]
        if len(rest) != 1:
            raise ValueError(f"{graph.origin}: expected one input beside lengths and initial states, got {rest}")
        self.x, self.roles, self._features = rest[0], roles, features.get(rest[0])
        self._origin = graph.origin
        self._vocabulary = next(
            (
                one.dims[0]
                for node in graph.proto.graph.node
                for one in graph.proto.graph.initializer
                if node.op_type == "Gather" and node.input[0] == one.name and len(one.dims) == 2
            ),
            2,
        )

    def of_data(self) -> set[str]:
        """The inputs whose values flow through the parts."""
        return {self.x, *(name for name, role in self.roles.items() if role == "state")}

    def _shape(self, name: str, sizes: dict[str, int]) -> tuple[int, ...]:
        """A shape of an input: fixed sizes, the feature axis, and the named or unnamed ones in turn."""
        free = list(sizes.values()) if name == self.x else [sizes["rows"]] * 8
        shape = []
        dims = self._types[name].shape.dim
        for axis, dim in enumerate(dims):
            last = name == self.x and axis == len(dims) - 1 and axis > 0 and self._features is not None
            if dim.HasField("dim_value") and dim.dim_value > 0:
                shape.append(int(dim.dim_value))
            elif last:
                shape.append(int(self._features or 1))
            else:
                shape.append(free.pop(0) if free else 1)
        if math.prod(shape) > _LARGEST:
            raise _Unfit(
                f"{self._origin}: expected inputs of at most {_LARGEST} numbers to try it on, got {shape} for {name!r}"
            )
        return tuple(shape)

    def feeds(self, attempt: int, *, batch_first: bool) -> dict[str, Array]:
        """Random inputs; states are zeros."""
        rng = np.random.default_rng(attempt)
        order = reversed(_SIZES) if batch_first else _SIZES
        sizes = {name: _SIZES[name][attempt] for name in order}
        made = {}
        for name, kind in self._types.items():
            dtype, shape = helper.tensor_dtype_to_np_dtype(kind.elem_type), self._shape(name, sizes)
            if self.roles.get(name) == "state":
                made[name] = np.zeros(shape, dtype)
            elif self.roles.get(name) == "lengths":
                made[name] = rng.integers(1, 3, shape).astype(dtype)
            elif dtype.kind in "iu":
                made[name] = rng.integers(0, self._vocabulary, shape).astype(dtype)
            else:
                made[name] = rng.standard_normal(shape).astype(dtype)
        return made

    def lengths(self, feeds: dict[str, Array]) -> Array | None:
        """Those among the inputs, if there are any."""
        return next((feeds[name] for name, role in self.roles.items() if role == "lengths"), None)


def _source(name: str, made_of: dict[str, Any]) -> str:
    """Where an array comes from, through nodes that only shape it."""
    while name in made_of and made_of[name].op_type in _SHAPING and made_of[name].input:
        name = made_of[name].input[0]
    return name


class _Row:
    """The parts that a graph's nodes stand for, in order."""

    def __init__(self, origin: str, data: set[str], values: dict[str, Any]) -> None:
        self._origin, self._data, self._values = origin, data, values
        self._made: list[tuple[str, Callable[[bool], Any]]] = []
        self._dense: dict[str, Any] | None = None  # the Dense that what follows may still belong to

    def names(self) -> list[str]:
        """What the parts are called."""
        return [name for name, _ in self._made]

    def model(self, *, batch_first: bool, pooled: bool) -> Model:
        """A model of new parts with their weights; `pooled`, the last layer hands only its last output on."""
        parts: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        made = {name: make(batch_first) for name, make in self._made}
        layers = [name for name, one in made.items() if isinstance(one, list)]
        if pooled and not layers:
            raise ValueError("there is no layer")
        for name, one in made.items():
            before = next(reversed(parts), "x")
            if not isinstance(one, list):
                parts[name] = one
            elif len(one) == 1:
                parts[name] = one[0]
            else:  # the directions have activations of their own
                parts |= {name: one[0], f"{name}_reverse": one[1], f"{name}_both": Concat()}
                inputs |= {f"{name}_reverse": before, f"{name}_both": (name, f"{name}_reverse")}
            if pooled and name == layers[-1]:
                first = one[0]
                options = {"bidirectional": first.bidirectional or len(one) > 1, "reverse": first.reverse}
                parts["pool"] = Pool("last", batch_first=batch_first, **options)
        return Model(**parts, inputs=inputs or None)

    def add(self, node: Any) -> None:
        """Take the next node."""
        flows = [name for name in node.input if name in self._data]
        if not flows or node.op_type == "Shape":
            return
        self._data.update(name for name in node.output if name)
        if node.op_type in GATES and node.domain == "":
            self._layer(node)
        elif node.op_type in ("MatMul", "Gemm"):
            self._head(node)
        elif node.op_type == "Add" and self._dense is not None and "bias" not in self._dense:
            self._dense["bias"] = self._weight(
                node, next((name for name in node.input if name not in self._data), node.input[0]), 1
            )
        elif node.op_type in _ACTIVATIONS and self._dense is not None and "activation" not in self._dense:
            self._dense["activation"] = _ACTIVATIONS[node.op_type]
        elif node.op_type == "LayerNormalization":
            self._norm(node)
        elif node.op_type == "Gather" and node.input[0] not in self._data and not self._made:
            self._embedding(node)
        elif node.op_type not in _SHAPING:
            self._refuse(node, node.op_type)

    def _refuse(self, node: Any, got: str) -> None:
        computing = ("RNN", "LSTM", "GRU", "MatMul", "Gemm", "Add", *_ACTIVATIONS, "LayerNormalization", "Gather")
        expected = f"{', '.join(computing)} or what shapes arrays"
        raise _Unfit(f"{self._origin}, {named(node)}: expected {expected}, in the row of a model, got {got}")

    def _weight(self, node: Any, name: str, axes: int) -> Array:
        """A constant, which no input flows into."""
        if name in self._data:
            self._refuse(node, f"an input, {name!r}, where a weight stands")
        array = finite(f"{self._origin}, {named(node)}: {name}", self._values[name])
        array = array.reshape(-1) if axes == 1 and array.size == max(array.shape, default=1) else array
        if array.ndim != axes:
            self._refuse(node, f"{name!r} of shape {list(array.shape)}")
        return array

    def _layer(self, node: Any) -> None:
        given = settings_of(node)
        places = {
            name: node.input[place] if place < len(node.input) else ""
            for name, place in zip("WRBP", (1, 2, 3, 7), strict=True)
        }
        own = {name: self._weight(node, place, 3 if name in "WR" else 2) for name, place in places.items() if place}
        weights = weights_of(given, **own)
        dtype = common_dtype(own.values())

        def make(batch_first: bool) -> Any:
            made = layers_of(given._replace(batch_first=batch_first), weights, dtype)
            load(made, weights)
            return made

        self._dense = None
        self._made.append((unique(node.op_type.lower(), self.names()), make))

    def _head(self, node: Any) -> None:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        scaled = attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
        if scaled or attributes.get("transA", 0):
            self._refuse(node, "alpha, beta or transA")
        weight = self._weight(node, node.input[1], 2)
        found: dict[str, Any] = {"weight": weight if attributes.get("transB", 0) else weight.T}
        if len(node.input) > 2 and node.input[2]:
            found["bias"] = self._weight(node, node.input[2], 1)

        def make(batch_first: bool) -> Any:
            output_size, input_size = found["weight"].shape
            options = {"activation": found.get("activation", "identity"), "bias": "bias" in found}
            head = Dense(input_size, output_size, dtype=common_dtype([found["weight"]]), **options)
            own = {name: value for name, value in found.items() if name != "activation"}
            if "bias" in own:
                own["bias"] = np.broadcast_to(own["bias"], output_size)
            head.load(own)
            return head

        self._dense = found
        self._made.append((unique("dense", self.names()), make))

    def _norm(self, node: Any) -> None:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if attributes.get("axis", -1) != -1:
            self._refuse(node, "an axis that is not the last")
        places = zip(("weight", "bias"), node.input[1:], strict=False)
        own = {name: self._weight(node, place, 1) for name, place in places if place}

        def make(batch_first: bool) -> Any:
            options = {"eps": attributes.get("epsilon", 1e-5), "bias": "bias" in own}
            norm = LayerNorm(own["weight"].size, dtype=common_dtype(own.values()), **options)
            norm.load(own)
            return norm

        self._dense = None
        self._made.append((unique("norm", self.names()), make))

    def _embedding(self, node: Any) -> None:
        weight = self._weight(node, node.input[0], 2)

        def make(batch_first: bool) -> Any:
            table = Embedding(*weight.shape, dtype=common_dtype([weight]))
            table.load({"weight": weight})
            return table

        self._made.append(("embedding", make))


def _difference(graph: Any, model: Model, inputs: _Inputs, batch_first: bool) -> str:
    """How the model's output is another than the graph's first one; "" if it is the same."""
    for attempt in range(2):
        feeds = inputs.feeds(attempt, batch_first=batch_first)
        expected = graph(feeds, graph.outputs[:1])[graph.outputs[0]]
        y, _ = model(feeds[inputs.x], lengths=inputs.lengths(feeds))
        if y.shape != np.shape(expected):
            return f"shape {list(y.shape)}, where the graph has {list(np.shape(expected))}"
        error, largest = np.abs(y - expected).max(initial=0.0), np.abs(expected).max(initial=0.0)
        if not error <= 1e-4 * max(float(largest), 1e-6):
            return f"a difference of {error:.3g} where the largest value is {largest:.3g}"
    return ""
