"""A Keras configuration and its weights as stages: everything is checked here, before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import _checks
from .._checks import Array
from .._words import Pooling
from ..description import Cell
from ..description.cells.elman import Elman
from ..description.cells.gru import GRU
from ..description.cells.lstm import LSTM
from ._build import finite
from ._keras_activations import function, name_of, spec_of
from ._keras_layout import GATES, from_layout
from ._keras_stages import (
    MERGES,
    Dropped,
    Embedded,
    Function,
    Head,
    Masking,
    Normal,
    Pooled,
    Recurrence,
    Stage,
    Unit,
    Way,
)
from ._keras_weights import Live, Weights

__all__ = ["group_names", "snake", "stages_of"]

_TRAINING_ALONE = (
    *("ActivityRegularization", "AlphaDropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D"),
    *("Identity", "InputLayer"),
)


class _Layer(NamedTuple):
    """A layer's entry in a configuration."""

    where: str
    kind: str
    options: dict[str, Any]
    path: tuple[str, ...]  # of its weights
    weights: Weights

    @property
    def name(self) -> str:
        return str(self.options.get("name") or self.kind.lower())

    def inner(self, key: str, *path: str) -> _Layer:
        """The entry of a layer or cell that is an option of this one."""
        return _entry(f"{self.where}, {key}", self.options.get(key), (*self.path, *path), self.weights)

    def array(self, name: str, index: int, *shape: int | None) -> Array:
        """One of its weights, of this shape; None is any size."""
        array = self.weights.array(self.where, self.path, name, index)
        known = tuple(size if want is None else want for size, want in zip(array.shape, shape, strict=False))
        if len(array.shape) != len(shape) or array.shape != known or 0 in array.shape:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(f"{self.where}: {name}: expected shape [{wanted}], got {list(array.shape)}")
        return finite(f"{self.where}: {name}", array)

    def flag(self, key: str, default: bool = False) -> bool:
        return _checks.truth(f"{self.where}: {key}", self.options.get(key, default))

    def size(self, key: str) -> int:
        return _checks.size(f"{self.where}: {key}", self.options.get(key))

    def refuse(self, expected: str) -> NoReturn:
        raise ValueError(f"{self.where}: expected {expected}")


def _entry(where: str, entry: Any, path: tuple[str, ...], weights: Weights) -> _Layer:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class_name"), str):
        raise ValueError(f"{where}: expected a layer's class_name and config, got {_checks.describe(entry)}")
    options = entry.get("config")
    if not isinstance(options, dict):
        raise ValueError(f"{where}: config: expected an object, got {_checks.describe(options)}")
    kind = entry["class_name"]
    named = f"{where} {options['name']!r} ({kind})" if "name" in options else f"{where} ({kind})"
    if options.get("quantization_config") or entry.get("registered_name") not in (None, kind):
        raise ValueError(
            f"{named}: expected a layer of Keras's own, not quantized, got {entry.get('registered_name')!r}"
        )
    return _Layer(named, kind, options, path, weights)


def _recurrent(layer: _Layer) -> Recurrence:
    return Recurrence(layer.name, layer.kind, [_way(layer)], **_flags(layer))


def _flags(layer: _Layer) -> dict[str, Any]:
    names = {"sequences": "return_sequences", "states": "return_state", "stateful": "stateful"}
    return {own: layer.flag(key) for own, key in names.items()}


def _way(layer: _Layer) -> Way:
    if layer.kind == "RNN":
        cells = _cells(layer)
    elif layer.kind in _UNITS:
        cells = [_unit(layer._replace(path=(*layer.path, "cell")))]
    else:
        layer.refuse("SimpleRNN, LSTM, GRU or RNN")
    return Way(cells, layer.flag("go_backwards"), layer.flag("zero_output_for_mask"))


def _cells(layer: _Layer) -> list[Unit]:
    cell = layer.inner("cell", "cell")
    if cell.kind != "StackedRNNCells":
        return [_unit(cell)]
    entries = cell.options.get("cells")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{cell.where}: cells: expected a list of cells, got {_checks.describe(entries)}")
    live = isinstance(cell.weights, Live)
    names = [f"#{n}" for n in range(len(entries))] if live else group_names(entries)
    paths = [(*cell.path, "cells", name) for name in names]
    return [
        _unit(_entry(f"{cell.where}, cell {n}", entry, path, cell.weights))
        for n, (entry, path) in enumerate(zip(entries, paths, strict=True))
    ]


_UNITS = {"SimpleRNN": "rnn", "LSTM": "lstm", "GRU": "gru"}


def _unit(layer: _Layer) -> Unit:
    kind = _UNITS.get(layer.kind.removesuffix("Cell"))
    if kind is None:
        layer.refuse(f"one of {', '.join(f'{name}Cell' for name in _UNITS)} or StackedRNNCells of these")
    units = layer.size("units")
    act = spec_of(f"{layer.where}: activation", layer.options.get("activation", "tanh"))
    if kind == "rnn":
        cell: Cell = Elman(activation=act)
    else:
        gates = spec_of(f"{layer.where}: recurrent_activation", layer.options.get("recurrent_activation", "sigmoid"))
        after = kind == "gru" and layer.flag("reset_after", True)
        lstm = kind == "lstm"
        cell = LSTM(activations=(gates, act, act)) if lstm else GRU(activations=(gates, act), reset_after=after)
    rows = GATES[kind] * units
    kernel = layer.array("kernel", 0, None, rows)
    recurrent = layer.array("recurrent_kernel", 1, units, rows)
    bias = None
    if layer.flag("use_bias", True):
        bias = layer.array("bias", 2, *((2, rows) if kind == "gru" and after else (rows,)))
    dropout = _checks.probability(f"{layer.where}: recurrent_dropout", layer.options.get("recurrent_dropout", 0.0))
    return Unit(kind, cell, units, from_layout(kind, kernel, recurrent, bias), dropout)


def _bidirectional(layer: _Layer) -> Recurrence:
    first = layer.inner("layer", "forward_layer")
    second = layer.inner("backward_layer", "backward_layer")
    merge = layer.options.get("merge_mode", "concat")
    if merge is not None:
        _checks.choice(f"{layer.where}: merge_mode", merge, MERGES)
    ways = [_way(first), _way(second)]
    if ways[0].backwards == ways[1].backwards:
        layer.refuse("layers of different go_backwards")
    return Recurrence(layer.name, layer.kind, ways, **_flags(first), merge=merge)


def _dense(layer: _Layer) -> Head:
    units = layer.size("units")
    weights = {"weight": layer.array("kernel", 0, None, units).T}
    if layer.flag("use_bias", True):
        weights["bias"] = layer.array("bias", 1, units)
    where = f"{layer.where}: activation"
    function(where, layer.options.get("activation"))
    return Head(layer.name, layer.kind, weights, name_of(where, layer.options.get("activation")))


def _time_distributed(layer: _Layer) -> Head:
    inner = layer.inner("layer", "layer")
    if inner.kind != "Dense":
        layer.refuse(f"a Dense in it, got {inner.kind}")
    dense = _dense(inner)
    dense.name = layer.name
    return dense


def _embedding(layer: _Layer) -> Embedded:
    weight = layer.array("embeddings", 0, layer.size("input_dim"), layer.size("output_dim"))
    return Embedded(layer.name, layer.kind, weight, layer.flag("mask_zero"))


def _dropout(layer: _Layer) -> Dropped:
    rate = _checks.probability(f"{layer.where}: rate", layer.options.get("rate"))
    return Dropped(layer.name, layer.kind, rate)


def _masking(layer: _Layer) -> Masking:
    value = _checks.number(f"{layer.where}: mask_value", layer.options.get("mask_value", 0.0))
    return Masking(layer.name, layer.kind, value)


def _normal(layer: _Layer) -> Normal:
    axis = layer.options.get("axis", -1)
    if axis not in (-1, [-1]):
        layer.refuse(f"axis=-1, the last, got {axis!r}")
    if layer.flag("rms_scaling"):
        layer.refuse("rms_scaling=False, got True")
    epsilon = _checks.number(f"{layer.where}: epsilon", layer.options.get("epsilon", 1e-3))
    if epsilon <= 0:
        raise ValueError(f"{layer.where}: epsilon: expected a number above 0, got {epsilon}")
    scale, center = layer.flag("scale", True), layer.flag("center", True)
    if not scale and not center:
        layer.refuse("scale or center, whose weights say the size, got neither")
    weights = {"weight": layer.array("gamma", 0, None)} if scale else {}
    if center:
        # Keras numbers the weights that are there.
        weights["bias"] = layer.array("beta", int(scale), len(weights["weight"]) if scale else None)
    if not scale:
        weights["weight"] = np.ones_like(weights["bias"])
    return Normal(layer.name, layer.kind, weights, epsilon)


_POOLS: dict[str, Pooling] = {"GlobalAveragePooling1D": "mean", "GlobalMaxPooling1D": "max"}


def _pooled(layer: _Layer) -> Pooled:
    _checks.choice(f"{layer.where}: data_format", layer.options.get("data_format", "channels_last"), ("channels_last",))
    if layer.flag("keepdims"):
        layer.refuse("keepdims=False, got True")
    return Pooled(layer.name, layer.kind, _POOLS[layer.kind])


def _activation_layer(layer: _Layer) -> Function:
    apply = function(f"{layer.where}: activation", layer.options.get("activation"))
    return Function(layer.name, layer.kind, apply)


def _nothing(layer: _Layer) -> Stage:
    return Stage(layer.name, layer.kind)


_HANDLERS: dict[str, Callable[[_Layer], Stage]] = {
    **dict.fromkeys((*_UNITS, "RNN"), _recurrent),
    "Bidirectional": _bidirectional,
    "Dense": _dense,
    "TimeDistributed": _time_distributed,
    "Embedding": _embedding,
    "Dropout": _dropout,
    "LayerNormalization": _normal,
    **dict.fromkeys(_POOLS, _pooled),
    "Masking": _masking,
    "Activation": _activation_layer,
    **dict.fromkeys(_TRAINING_ALONE, _nothing),
}


def _stage(layer: _Layer) -> Stage:
    if layer.kind not in _HANDLERS:
        layer.refuse(f"one of {', '.join(sorted(set(_HANDLERS) - set(_TRAINING_ALONE)))}")
    return _HANDLERS[layer.kind](layer)


def snake(name: str) -> str:
    """A class's name as files have it: simple_rnn, time_distributed."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def group_names(entries: Sequence[Any]) -> list[str]:
    """Under which names the weights of a list's layers lie in a file: of their classes, and numbers behind them."""
    names: list[str] = []
    counts: dict[str, int] = {}
    for entry in entries:
        kind = snake(str(entry.get("class_name"))) if isinstance(entry, Mapping) else ""
        counts[kind] = counts.get(kind, -1) + 1
        names.append(f"{kind}_{counts[kind]}" if counts[kind] else kind)
    return names


def _live_names(entries: Sequence[Any]) -> list[str]:
    """Names of a live model's layers."""
    return [str(entry["config"]["name"]) for entry in entries]


def stages_of(config: Any, weights: Weights) -> tuple[list[Stage], list[int] | None]:
    """The stages of a model or layer, in order; and which of the last one's outputs are the model's."""
    if not isinstance(config, Mapping):
        raise ValueError(f"config: expected an object, got {_checks.describe(config)}")
    kind = config.get("class_name")
    if kind not in ("Sequential", "Functional"):
        return [_stage(_entry("layer", config, (), weights))], None
    inside = config.get("config")
    entries = inside.get("layers") if isinstance(inside, Mapping) else None
    if not isinstance(inside, Mapping) or not isinstance(entries, list) or not entries:
        raise ValueError(f"config: layers: expected a list of layers, got {_checks.describe(entries)}")
    names = _live_names(entries) if isinstance(weights, Live) else group_names(entries)
    paths = {id(entry): ("layers", name) for entry, name in zip(entries, names, strict=True)}
    chosen = None
    if kind == "Functional":
        entries, chosen = _chain(inside)
    found = [_stage(_entry("layer", entry, paths.get(id(entry), ()), weights)) for entry in entries]
    _check_sizes(found)
    if chosen and not all(0 <= number < _outputs(found[-1]) for number in chosen):
        raise ValueError(f"config: output_layers: expected outputs that {found[-1].name!r} has, got {chosen}")
    return found, chosen


def _outputs(stage: Stage) -> int:
    """How many arrays come out of a layer."""
    if not isinstance(stage, Recurrence):
        return 1
    states = sum(unit.stored() for way in stage.ways for unit in way.units) if stage.states else 0
    return states + (2 if len(stage.ways) == 2 and stage.merge is None else 1)


def _chain(config: Mapping[str, Any]) -> tuple[list[Any], list[int]]:
    """The layers of a functional model that is a chain, and which outputs of the last are the model's."""
    by_name = {entry["name"]: entry for entry in config["layers"]}
    outputs = config["output_layers"]
    outputs = [outputs] if isinstance(outputs[0], str) else outputs
    if len({one[0] for one in outputs}) != 1:
        raise ValueError(f"config: output_layers: expected outputs of one layer, got {outputs!r}")
    name: str | None = outputs[0][0]
    chain: dict[str, Any] = {}
    masks: dict[str, list[str]] = {}
    while name is not None:
        entry = by_name.get(name)
        if entry is None or name in chain:
            raise ValueError(f"config: expected a chain of layers, got {name!r}, which is not there, or is used twice")
        chain[name] = entry
        source, masks[name] = _sources(entry)
        name = source
    read = {_masks_of(by_name, chain, name, found) for name, found in masks.items() if found}
    left = set(by_name) - set(chain) - {one for names in read for one in names}
    if left:
        raise ValueError(f"config: expected a chain of layers, got also {', '.join(sorted(left))}")
    return list(chain.values())[::-1], [int(one[2]) for one in outputs]


def _sources(entry: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The layer that an entry reads, None of an input; and where its mask is from, if it has one."""
    where = f"layer {entry['name']!r} ({entry['class_name']})"
    if entry["class_name"] == "InputLayer":
        return None, []
    nodes = entry["inbound_nodes"]
    if len(nodes) != 1:
        raise ValueError(f"{where}: expected to be called once, got {len(nodes)} calls")
    read = _histories(nodes[0]["args"])
    if len(read) != 1 or read[0][1:] != [0, 0]:
        raise ValueError(f"{where}: expected one input, the first output of a layer, got {[one[0] for one in read]}")
    further = {key: _histories(value) for key, value in nodes[0]["kwargs"].items()}
    for key, tensors in further.items():
        if tensors and key != "mask":
            raise ValueError(f"{where}: {key}: expected no further inputs, got one")
    return str(read[0][0]), [str(one[0]) for one in further.get("mask", [])]


def _masks_of(by_name: Mapping[str, Any], chain: Mapping[str, Any], name: str, found: Sequence[str]) -> tuple[str, ...]:
    """The nodes of a mask, which must be those that Masking or Embedding leave behind: x != value, and any of these."""
    nodes = []
    for _ in range(2):
        nodes.append(by_name[found[0]])
        if nodes[-1]["class_name"] != "Any":
            break
        found = [str(one[0]) for one in _histories(nodes[-1]["inbound_nodes"][0]["args"])]
    kinds = tuple(node["class_name"] for node in nodes)
    compared = nodes[-1]["inbound_nodes"][0]["args"]
    for entry in chain.values():
        options = entry["config"]
        known = {
            ("Any", "NotEqual"): entry["class_name"] == "Masking" and options["mask_value"],
            ("NotEqual",): entry["class_name"] == "Embedding" and options["mask_zero"] and 0,
        }.get(kinds, False)
        if known is not False and compared[1] == known and _histories(compared[0])[0][0] == _sources(entry)[0]:
            return tuple(node["name"] for node in nodes)
    kind = chain[name]["class_name"]
    raise ValueError(
        f"layer {name!r} ({kind}): mask: expected that of a Masking or Embedding in the model, got another"
    )


def _histories(value: Any) -> list[list[Any]]:
    """From which layers the tensors in a node's arguments are."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            return [value["config"]["keras_history"]]
        return [one for inner in value.values() for one in _histories(inner)]
    return [one for inner in value for one in _histories(inner)] if isinstance(value, list) else []


def _check_sizes(stages: Sequence[Stage]) -> None:
    """ValueError where a layer's input is not as wide as what comes out of the one before, or has no steps."""
    width, pooled = None, None
    for stage in stages:
        if pooled and isinstance(stage, Pooled | Recurrence):
            raise ValueError(f"layer {stage.name!r} ({stage.kind}): expected [B, T, I], got [B, I], of {pooled!r}")
        if isinstance(stage, Pooled) or (isinstance(stage, Recurrence) and not stage.sequences):
            pooled = stage.name
        inputs, outputs = _widths(stage)
        if None not in (width, inputs) and width != inputs:
            raise ValueError(f"layer {stage.name!r} ({stage.kind}): expected {width} inputs, as come in, got {inputs}")
        width = outputs if outputs is not None else width


def _widths(stage: Stage) -> tuple[int | None, int | None]:
    if isinstance(stage, Embedded):
        return None, stage.weight.shape[1]
    if isinstance(stage, Head):
        return stage.weights["weight"].shape[1], stage.weights["weight"].shape[0]
    if isinstance(stage, Normal):
        return len(stage.weights["weight"]), len(stage.weights["weight"])
    if not isinstance(stage, Recurrence):
        return None, None
    for way in stage.ways:
        for unit, after in zip(way.units, way.units[1:], strict=False):
            if after.weights["weight_ih"].shape[1] != unit.units:
                raise ValueError(f"layer {stage.name!r} ({stage.kind}): expected cells that fit each other, got others")
    wide = [way.units[-1].units for way in stage.ways]
    inputs = {way.units[0].weights["weight_ih"].shape[1] for way in stage.ways}
    if len(inputs) > 1 or (stage.merge in ("ave", "mul", "sum") and len(set(wide)) > 1):
        raise ValueError(f"layer {stage.name!r} ({stage.kind}): expected two directions of the same sizes")
    return inputs.pop(), sum(wide) if stage.merge == "concat" else wide[0]
