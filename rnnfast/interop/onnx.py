"""ONNX models, in and out.

`load` reads a file. The graph then runs by onnx's reference evaluator, with our layers in place of its nodes RNN, LSTM
and GRU; a graph that is nothing but layers and heads becomes a trainable `rnnfast.Model` by `to_model`. `to_onnx`
writes one.

The nodes' whole space of attributes is there. What the specification leaves open is as in ONNX Runtime: a row of length
0 ends with zeros.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

try:
    import onnx
except ImportError as error:
    raise ImportError('models of ONNX need onnx: pip install "rnnfast[onnx]"') from error

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from .. import _checks
from .._checks import Array
from ..model import Model
from ._onnx_export import to_onnx
from ._onnx_file import nodes_of, read, settings_of
from ._onnx_model import model_of
from ._onnx_node import GATES, Node

__all__ = ["Graph", "load", "to_onnx"]


class _Recurrent(OpRun):  # type: ignore[misc]  # onnx's classes are not looked at
    """One node of the graph; the evaluator keeps it for the graph's life, and so its layers."""

    op_domain = ""

    def __init__(self, onnx_node: Any, run_params: Any, schema: Any = None) -> None:
        super().__init__(onnx_node, run_params, schema)
        self._node = Node(settings_of(onnx_node))

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Array, ...]:
        try:
            return self._node(*inputs)[: len(self.onnx_node.output)]
        except TypeError as error:  # which the evaluator would put into its own words
            raise ValueError(str(error)) from error


OPERATORS = [type(name, (_Recurrent,), {"__doc__": f"{name} by our layers."}) for name in GATES]
"""For `onnx.reference.ReferenceEvaluator(model, new_ops=OPERATORS)`."""


class Graph:
    """An ONNX model that runs, its recurrent nodes by our layers. Made by `load`.

    Attributes
    ----------
    inputs, outputs : list of str
        The names of what goes in, without those that have a value in the file, and of what comes out.
    nodes : list of str
        What the recurrent nodes are called in messages.
    proto : onnx.ModelProto
    origin : str
    """

    def __init__(self, proto: Any, origin: str) -> None:
        self.proto, self.origin = proto, origin
        try:
            self._evaluator = ReferenceEvaluator(proto, new_ops=OPERATORS)
        except (RuntimeError, TypeError, NotImplementedError) as error:  # onnx's own, of operators that it lacks
            raise ValueError(f"{origin}: expected operators that onnx's evaluator has: {error}") from error
        given = {tensor.name for tensor in proto.graph.initializer}
        self.inputs: list[str] = [one.name for one in proto.graph.input if one.name not in given]
        self.outputs: list[str] = [one.name for one in proto.graph.output]
        self.nodes: list[str] = [
            settings_of(node).where for node in nodes_of(proto) if node.domain == "" and node.op_type in GATES
        ]

    def __repr__(self) -> str:
        return f"Graph({self.origin}: {', '.join(self.inputs)} -> {', '.join(self.outputs)})"

    def __call__(self, inputs: Any, outputs: list[str] | None = None) -> dict[str, Any]:
        """Run the graph.

        Parameters
        ----------
        inputs : mapping from str to array_like, or array_like
            By name; of one input, the array alone will do.
        outputs : list of str, optional
            Which outputs are wanted; all by default.

        Returns
        -------
        dict
            The outputs by name.

        Raises
        ------
        TypeError, ValueError
            A name is missing or unknown, or a node can't take its input: which one.
        """
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                raise TypeError(
                    f"inputs: expected a mapping with the names {self.inputs}, got {_checks.describe(inputs)}"
                )
            inputs = {self.inputs[0]: inputs}
        allowed = {one.name for one in self.proto.graph.input}
        missing, surplus = [name for name in self.inputs if name not in inputs], sorted(set(inputs) - allowed)
        if missing or surplus:
            raise ValueError(f"inputs: expected the names {self.inputs}, got surplus {surplus}, missing {missing}")
        wanted = self.outputs if outputs is None else list(outputs)
        if unknown := [name for name in wanted if name not in self.outputs]:
            raise ValueError(f"outputs: expected names among {self.outputs}, got {unknown}")
        arrays = {name: self._array(name, value) for name, value in inputs.items()}
        return dict(zip(wanted, self._run(wanted, arrays), strict=True))

    def run_through(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """All arrays of a run by name, those between the nodes too."""
        found: dict[str, Any] = self._run(None, inputs, intermediate=True)
        return found

    def _run(self, *arguments: Any, **options: Any) -> Any:
        """The evaluator's run; nodes of its own fail in NumPy's words and errors."""
        try:
            return self._evaluator.run(*arguments, **options)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(f"{self.origin}: {error}") from error

    def _array(self, name: str, value: Any) -> Any:
        """An input as an array of the graph's dtype; sequences and what else is no tensor go as they are."""
        kind = next(one.type for one in self.proto.graph.input if one.name == name)
        if kind.WhichOneof("value") != "tensor_type":
            return value
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
        if isinstance(value, np.ndarray) and (value.dtype == dtype or dtype.kind not in "fiu"):
            return value
        array = np.asarray(value, dtype) if dtype.kind not in "fiu" else _checks.numbers(f"inputs[{name!r}]", value)
        return array.astype(dtype) if np.can_cast(array.dtype, dtype, "same_kind") else array

    def to_model(self) -> Model:
        """The graph as a trainable model, if it is a row of layers and heads.

        Each of its recurrent nodes becomes a layer, each MatMul or Gemm a Dense, with the Sigmoid, Tanh, Softmax, Relu,
        Softplus or Elu behind it, and each LayerNormalization a LayerNorm. Where only the last step goes on, there is a
        Pool. Nodes that only shape arrays are left out; that this is right is proved by running both on random
        inputs, as to the graph's first output. An input that nodes take as their lengths becomes the model's `lengths`,
        and initial states that are inputs become its state.

        Returns
        -------
        Model

        Raises
        ------
        ValueError
            A node is something else, or the model's output is not the graph's: which, and by how much.
        """
        return model_of(self)


def load(source: str | os.PathLike[str] | bytes | Any) -> Graph:
    """An ONNX model, checked, that runs on our layers.

    Parameters
    ----------
    source : path-like, bytes or onnx.ModelProto
        External data must lie in the file's folder.

    Returns
    -------
    Graph

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError, ValueError
        The file is truncated, damaged or lies about its sizes, or an operator or attribute is unknown: which.

    Examples
    --------
    >>> graph = rnnfast.interop.onnx.load("model.onnx")  # doctest: +SKIP
    >>> y = graph({"x": x})["y"]  # doctest: +SKIP
    """
    proto, name = read(source)
    opsets = ", ".join(f"{one.domain} opset {one.version}".strip() for one in proto.opset_import)
    producer = f", {proto.producer_name} {proto.producer_version}".rstrip() if proto.producer_name else ""
    return Graph(proto, f"ONNX {name} ({opsets}{producer})")
