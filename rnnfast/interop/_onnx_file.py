"""Reading an ONNX model, and finding out what it lies about, before memory is taken for it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google.protobuf.message
import onnx
import onnx.inliner
from onnx import defs, external_data_helper, helper

from .. import _checks
from ._onnx_node import GATES, Settings, settings

__all__ = ["named", "nodes_of", "read", "settings_of"]

_MOST_AXES = 64  # of NumPy's arrays
_ERRORS = (google.protobuf.message.DecodeError, onnx.checker.ValidationError, TypeError, ValueError, RuntimeError)


def read(source: Any) -> tuple[Any, str]:
    """The checked model of a path, bytes or ModelProto, with its external data; and what to call it."""
    if isinstance(source, onnx.ModelProto):
        model, name, folder = onnx.ModelProto(), "model", None
        model.CopyFrom(source)  # the caller's stays as it is
    elif isinstance(source, bytes | bytearray | memoryview):
        model, name, folder = _parsed("model", bytes(source)), "model", None
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise FileNotFoundError(f"source: expected an ONNX file, but {path} {what}")
        model, name, folder = _parsed(str(path), path.read_bytes()), path.name, path.parent
    else:
        raise TypeError(f"source: expected a path, bytes or an onnx.ModelProto, got {_checks.describe(source)}")
    imports = [one for part in (model, *model.functions) for one in part.opset_import]
    for one in (*imports, *nodes_of(model)):
        one.domain = "" if one.domain == "ai.onnx" else one.domain  # two names of one thing
    _check_opsets(name, model)
    for one in (*model.graph.input, *model.graph.output):
        if one.type.HasField("tensor_type"):
            _check_kind(f"{name}, {one.name!r}", one.type.tensor_type.elem_type)
    outside = False
    for tensor in _tensors(model):
        outside |= _check_tensor(name, tensor, folder)
    try:
        if outside:
            external_data_helper.load_external_data_for_model(model, str(folder))
        with _shapes(model):
            onnx.checker.check_model(model)
    except _ERRORS as error:
        raise ValueError(f"{name}: expected a valid ONNX model, got {_first_line(error)}") from error
    if model.functions:  # whose nodes the evaluator would run by its own operators
        model = onnx.inliner.inline_local_functions(model)
    for node in nodes_of(model):
        if node.domain == "" and node.op_type in GATES:
            settings_of(node)
    return model, name


@contextmanager
def _shapes(model: Any) -> Iterator[None]:
    """Inputs and outputs whose shape the file leaves open have one meanwhile: the checker wants some."""
    types = [
        one.type.tensor_type for one in (*model.graph.input, *model.graph.output) if one.type.HasField("tensor_type")
    ]
    bare = [kind for kind in types if not kind.HasField("shape")]
    for kind in bare:
        kind.shape.SetInParent()
    try:
        yield
    finally:
        for kind in bare:
            kind.ClearField("shape")


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


def _parsed(name: str, data: bytes) -> Any:
    try:
        model = onnx.load_model_from_string(data)
    except _ERRORS as error:
        raise ValueError(f"{name}: truncated, damaged, or not an ONNX file: {_first_line(error)}") from error
    if not model.graph.node and not model.graph.output:  # what any few bytes may pass for
        raise ValueError(f"{name}: truncated, damaged, or not an ONNX file: there is no graph in it")
    if not _is_text(model):
        raise ValueError(f"{name}: truncated, damaged, or not an ONNX file: names in it are no text")
    return model


def _is_text(model: Any) -> bool:
    """Whether all names are UTF-8; protobuf hands out others as bytes, or fails."""
    try:
        names = [name for node in nodes_of(model) for name in (node.op_type, node.domain, *node.input, *node.output)]
        names += [node.name for node in nodes_of(model)] + [one.domain for one in model.opset_import]
        names += [one.name for one in (*model.graph.input, *model.graph.output, *model.graph.initializer)]
    except UnicodeDecodeError:
        return False
    return all(isinstance(name, str) for name in names)


def _check_opsets(name: str, model: Any) -> None:
    """Operators of this package's schemas, and functions that the model brings, alone."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    newest = defs.onnx_opset_version()
    version = versions.get("", 1)
    if not 1 <= version <= newest:
        raise ValueError(
            f"{name}: expected an opset in 1..{newest}, which onnx {onnx.__version__} knows, got {version}"
        )
    functions = {(function.domain, function.name) for function in model.functions}
    for node in nodes_of(model):
        known = (node.domain, node.op_type) in functions or defs.has(node.op_type, node.domain)
        if not known:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise ValueError(f"{name}, {named(node)}: expected an operator of ONNX, got {operator}")
        for attribute in node.attribute:  # for some, the evaluator takes memory by the number
            if attribute.name == "axis" and abs(attribute.i) > _MOST_AXES:
                raise ValueError(f"{name}, {named(node)}: expected an axis of an array, got {attribute.i}")


def named(node: Any) -> str:
    """A node for messages."""
    return f"node {node.name!r}" if node.name else f"the {node.op_type} node of {', '.join(node.output)}"


def settings_of(node: Any) -> Settings:
    """The settings of a node RNN, LSTM or GRU."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise ValueError(f"{named(node)}: expected {attribute.name} to be a value, got a function's argument")
    return settings(named(node), node.op_type, {one.name: helper.get_attribute_value(one) for one in node.attribute})


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.type == onnx.AttributeProto.GRAPH else ()), *attribute.graphs):
                yield from _graphs(inner)


def nodes_of(model: Any) -> Iterator[Any]:
    """All nodes, those of subgraphs and functions too."""
    for graph in (*_graphs(model.graph), *(one for function in model.functions for one in _graphs(function))):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    """All tensors that the file holds."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes_of(model):
        for attribute in node.attribute:
            yield from (*((attribute.t,) if attribute.type == onnx.AttributeProto.TENSOR else ()), *attribute.tensors)


_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_COMPLEX = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)


def _check_kind(where: str, kind: int) -> None:
    if kind not in onnx.TensorProto.DataType.values() or kind == onnx.TensorProto.UNDEFINED:
        raise ValueError(f"{where}: expected one of ONNX's data types, got {kind}")


def _check_tensor(name: str, tensor: Any, folder: Path | None) -> bool:
    """Whether a tensor's data lies in another file; ValueError if there is not as much of it as the shape says."""
    where, kind = f"{name}, tensor {tensor.name!r}", tensor.data_type
    _check_kind(where, kind)
    shape, external = list(tensor.dims), tensor.data_location == onnx.TensorProto.EXTERNAL
    if any(size < 0 for size in shape):
        raise ValueError(f"{where}: expected sizes of at least 0, got shape {shape}")
    count = math.prod(shape)
    if external or tensor.HasField("raw_data"):
        got = _external_bytes(where, tensor, folder) if external else len(tensor.raw_data)
        expected = count * helper.tensor_dtype_to_np_dtype(kind).itemsize
    else:
        got = sum(len(getattr(tensor, field)) for field in _FIELDS)
        expected = count * (2 if kind in _COMPLEX else 1)
    narrow = kind >= onnx.TensorProto.UINT4 and kind != onnx.TensorProto.FLOAT8E8M0  # several lie in one byte
    if expected != got and not (narrow and got <= expected <= 32 * got):
        raise ValueError(f"{where}: expected {expected} numbers or bytes for shape {shape}, got {got}")
    return bool(external)


def _external_bytes(where: str, tensor: Any, folder: Path | None) -> int:
    """How many bytes of another file, in the model's folder, a tensor has."""
    if folder is None:
        raise ValueError(f"{where}: expected data in the model, got some in another file; load the model by its path")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = (folder / location).resolve()
    if not location or not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{where}: expected data within the model's folder, got {location!r}")
    if not path.is_file():
        raise ValueError(f"{where}: expected a file {location!r} beside the model, got none")
    size = path.stat().st_size
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset))
    except ValueError as error:
        raise ValueError(f"{where}: expected an offset and a length in {location!r}, got {entries}") from error
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(
            f"{where}: expected bytes within the {size} of {location!r}, got {offset} to {offset + length}"
        )
    return length
