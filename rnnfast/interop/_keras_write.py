"""Parts as the layers of a Keras Sequential: its configuration, and its weights as HDF5."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _checks, heads, layers
from .._checks import Array
from .._part import Part
from ..description.cell import Wrapped
from ..description.cells.elman import Elman
from ..description.cells.gru import GRU
from ..description.cells.lstm import LSTM
from ..embedding import Embedding
from ..parts import Dropout, LayerNorm, Pool
from ._build import unique
from ._keras_activations import SAME, keras_name
from ._keras_config import group_names, snake
from ._keras_layout import to_layout
from ._keras_weights import h5py_module

__all__ = ["Written", "document", "weights_file", "written"]


class Written(NamedTuple):
    """A Keras layer to be written: its class and options, and weights by path."""

    kind: str
    options: dict[str, Any]
    weights: dict[tuple[str, ...], list[Array]]


def written(name: str, part: Any, last: bool) -> Iterator[Written]:
    """The layers that a part becomes; ValueError if Keras has none."""
    if isinstance(part, Embedding):
        weight = _host(part)["weight"]
        yield Written("Embedding", {"input_dim": len(weight), "output_dim": weight.shape[1]}, {(): [weight]})
    elif isinstance(part, heads.Dense):
        values = _host(part)
        known = {"identity": "linear"} | {one: one for one in ("gelu", "softmax", *SAME)}
        activation = known[_checks.choice(f"{name}: activation", part.activation, known)]
        options = {"units": part.output_size, "activation": activation, "use_bias": part.bias}
        yield Written("Dense", options, {(): [values["weight"].T, *([values["bias"]] if part.bias else [])]})
    elif isinstance(part, layers.Recurrent):
        yield from _write_layers(name, part, last)
    elif isinstance(part, Dropout):
        yield Written("Dropout", {"rate": part.p}, {})
    elif isinstance(part, LayerNorm):
        options = {"axis": -1, "epsilon": part.eps, "center": part.bias, "scale": True}
        yield Written("LayerNormalization", options, {(): list(_host(part).values())})
    elif isinstance(part, Pool) and part.kind != "last":
        yield Written({"mean": "GlobalAveragePooling1D", "max": "GlobalMaxPooling1D"}[part.kind], {}, {})
    else:
        raise ValueError(
            f"{name}: expected a layer, Dense, Embedding, LayerNorm, Dropout, or Pool of 'mean' or 'max', "
            f"which Keras has, got {part!r}"
        )


def _host(part: Part) -> dict[str, Array]:
    return {name: np.asarray(part.params.device.to_host(value)) for name, value in part.params.items()}


def _write_layers(name: str, part: layers.Recurrent, last: bool) -> Iterator[Written]:
    """A stack's layers, one after the other."""
    kind, options, two = _write_cell(name, part.cell)
    if part.reverse and not (last and part.num_layers == 1):
        raise ValueError(f"{name}: expected reverse=False, as Keras turns the order of a sequence round, got True")
    values = _host(part)
    suffixes = part._recurrence.layout.suffixes
    directions = 2 if part.bidirectional else 1
    for n in range(part.num_layers):
        shared: dict[str, Any] = {"return_sequences": not (last and n == part.num_layers - 1)}
        shared |= {**options, "units": part.hidden_size, "use_bias": part.bias}
        arrays = [
            to_layout(
                kind, {key[: -len(suffix)]: one for key, one in values.items() if key.endswith(suffix)}, two_biases=two
            )
            for suffix in suffixes[n * directions : (n + 1) * directions]
        ]
        name_of = {"rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}[kind]
        if directions == 1:
            yield Written(name_of, {**shared, "go_backwards": part.reverse}, {("cell",): arrays[0]})
            continue
        sides = {
            key: {"module": "keras.layers", "class_name": name_of, "config": {**shared, "go_backwards": backwards}}
            for key, backwards in (("layer", False), ("backward_layer", True))
        }
        paths = ("forward_layer", "cell"), ("backward_layer", "cell")
        yield Written("Bidirectional", {"merge_mode": "concat", **sides}, dict(zip(paths, arrays, strict=True)))


def _write_cell(name: str, cell: Any) -> tuple[str, dict[str, Any], bool]:
    """The kind of a cell, Keras's options of it, and whether its two biases stay apart."""
    inner, more = cell, {}
    if isinstance(cell, Wrapped) and not cell.zoneout:  # which shows in inference too
        inner, more = cell.cell, {"recurrent_dropout": cell.recurrent_dropout}
    if isinstance(inner, Elman) and inner == Elman(activation=inner.activation):
        return "rnn", {"activation": keras_name(f"{name}: nonlinearity", inner.activation), **more}, False
    if isinstance(inner, LSTM | GRU):
        names = [keras_name(f"{name}: activations", one) for one in inner.activations]
        options: dict[str, Any] = {"recurrent_activation": names[0], "activation": names[1], **more}
        if isinstance(inner, LSTM) and inner == LSTM(activations=inner.activations) and names[1] == names[2]:
            return "lstm", options, False
        if isinstance(inner, GRU) and inner == GRU(activations=inner.activations, reset_after=inner.reset_after):
            return "gru", {**options, "reset_after": inner.reset_after}, inner.reset_after
    raise ValueError(f"{name}: expected an RNN, LSTM or GRU with options that Keras has, got {inner!r}")


def document(parts: Mapping[str, Any], written: Sequence[Written], dtype: str) -> dict[str, Any]:
    """The configuration of a Sequential."""
    first = next(iter(parts.values()))
    ids = isinstance(first, Embedding)
    heads_only = all(isinstance(part, heads.Dense) for part in parts.values())
    inputs = next((part.input_size for part in parts.values() if hasattr(part, "input_size")), None)
    shape = [None, None] if ids else [None, inputs] if heads_only else [None, None, inputs]
    entries = [_object("InputLayer", {"batch_shape": shape, "dtype": "int64" if ids else dtype, "name": "input"})]
    taken = ["input"]
    for one in written:
        taken.append(unique(snake(one.kind), taken))
        options = {**one.options, "name": taken[-1], "dtype": dtype}
        for key, side in (("layer", "forward"), ("backward_layer", "backward")):
            if key in options:
                inner = options[key]
                config = {**inner["config"], "name": f"{side}_{taken[-1]}", "dtype": dtype}
                options[key] = {**inner, "config": config, "registered_name": None}
        entries.append(_object(one.kind, options))
    model = {"name": "sequential", "trainable": True, "layers": entries, "build_input_shape": shape}
    return {"module": "keras", "class_name": "Sequential", "config": model, "registered_name": "Sequential"}


def _object(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": options, "registered_name": None}


def weights_file(written: Sequence[Written]) -> bytes:
    """The HDF5 file of the weights."""
    data = io.BytesIO()
    names = group_names([{"class_name": one.kind} for one in written])
    with h5py_module().File(data, "w") as file:
        file.create_group("vars")
        for name, one in zip(names, written, strict=True):
            for path, arrays in one.weights.items():
                group = file.create_group("/".join(("layers", name, *path, "vars")))
                for n, array in enumerate(arrays):
                    group.create_dataset(str(n), data=np.ascontiguousarray(array))
    return data.getvalue()
