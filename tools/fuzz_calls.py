"""The calls that the fuzzer makes: for each, good arguments, and what the answer must be where an oracle knows it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rnnfast
from rnnfast import (
    checkpoint,
    config,
    data,
    decode,
    diagnostics,
    encoders,
    init,
    layers,
    losses,
    optim,
    reference,
    schedules,
    tbptt,
    training,
)
from rnnfast._words import Activation

__all__ = ["EXEMPT", "TARGETS", "Call", "make"]

Rng = np.random.Generator


class Call(NamedTuple):
    """One call: all arguments are by name."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    check: Callable[[Any], None] | None = None
    """AssertionError for a wrong answer to the good arguments."""
    kept: tuple[Any, ...] = ()
    """Arrays that must be as they were where the call is refused."""
    sound: bool = True
    """Whether the arguments are good ones at all."""


Target = Callable[[Rng], Call]
TARGETS: dict[str, Target] = {}
"""By the names of what they call; a name may end in a blank and a word that tells two targets apart."""

EXEMPT = {
    "Cell": "descriptions are classes: tests/description/test_errors.py has their errors",
    "Grads": "a tuple that backward returns",
    "Tape": "made by forward; opaque",
    "show_config": "prints",
    "info": "takes nothing",
    "version": "takes nothing",
    "Learned": "a tuple that a step returns",
    "History": "made by fit",
    "Epoch": "made by fit",
    "Decoded": "a tuple that greedy and sample return",
    "Beams": "a tuple that beam returns",
    "get_num_threads": "takes nothing",
    "get_include": "takes nothing",
    "Optimizer": "the base of optimisers",
    "NonFiniteError": "an exception",
    "StepResult": "a tuple that a step returns",
    "StatefulBatches": "made by stateful_batches",
    "Checkpoint": "a tuple that load returns",
    "write_atomically": "the caller's bytes, to the caller's file",
    "remove_leftovers": "deletes files by a name",
    "SCHEMES": "names",
    "Batch": "a tuple that Batches gives",
    "Filled": "a tuple that fill_missing returns",
    "Packed": "made by pack",
    "Padded": "a tuple that pad returns",
}
"""Public names without a target, and why."""


def target(name: str) -> Callable[[Target], Target]:
    """Make a function the target of a name."""

    def add(function: Target) -> Target:
        TARGETS[name] = function
        return function

    return add


def make(rng: Rng) -> Call:
    """A good call."""
    names = list(TARGETS)
    return TARGETS[names[rng.integers(len(names))]](rng)


# Numbers and answers


def _pick(rng: Rng, values: Any) -> Any:
    return values[rng.integers(len(values))]


def _chance(rng: Rng, probability: float) -> bool:
    return bool(rng.random() < probability)


def _normal(rng: Rng, *shape: int, dtype: Any = np.float32) -> Any:
    return rng.standard_normal(shape).astype(dtype)


def _close(what: str, actual: Any, expected: Any, tolerance: float = 2e-4) -> None:
    """Arrays or structures of them, equal to within `tolerance` of the largest value."""
    if isinstance(expected, tuple | list):
        assert len(actual) == len(expected), f"{what}: {len(actual)} parts for {len(expected)}"
        for number, pair in enumerate(zip(actual, expected, strict=True)):
            _close(f"{what}[{number}]", *pair, tolerance)
        return
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} for {expected.shape}"
    error = np.abs(actual - expected).max(initial=0.0)
    assert error <= tolerance * max(1.0, np.abs(expected).max(initial=0.0)), f"{what}: off by {error}"


def _same(what: str, actual: Any, expected: Any) -> None:
    """Arrays or structures of them, equal bit by bit."""
    if isinstance(expected, tuple | list):
        assert len(actual) == len(expected), f"{what}: {len(actual)} parts for {len(expected)}"
        for number, pair in enumerate(zip(actual, expected, strict=True)):
            _same(f"{what}[{number}]", *pair)
        return
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} for {expected.shape}"
    assert actual.tobytes() == expected.tobytes(), f"{what}: other bits"


# Layers

CELLS = (rnnfast.RNNCell, rnnfast.LSTMCell, rnnfast.GRUCell)
NAMED = tuple(
    getattr(rnnfast, name)
    for name in layers.__all__
    if name not in ("Recurrent", "from_config") and isinstance(getattr(layers, name), type)
)
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "RNN": ({}, {"nonlinearity": "relu"}, {"nonlinearity": "sigmoid"}, {"leak": 0.5}),
    "LSTM": ({}, {}, {"proj_size": 3}, {"peephole": True}, {"coupled": True}, {"layer_norm": True}, {"heads": 2}),
    "GRU": ({}, {"reset_after": False}, {"layer_norm": True}, {"heads": 2}),
}


def _arguments(rng: Rng, cls: Any) -> dict[str, Any]:
    """Of a layer's constructor."""
    size = 3
    found: dict[str, Any] = {
        "input_size": size,
        "hidden_size": _pick(rng, (8, 16)),
        "num_layers": _pick(rng, (1, 1, 2)),
        "bias": not _chance(rng, 0.2),
        "batch_first": _chance(rng, 0.3),
        "bidirectional": _chance(rng, 0.25),
        "dtype": _pick(rng, ("float32", "float64")),
        "rng": int(rng.integers(1000)),
    }
    if cls is rnnfast.GRUD:
        found |= {"features": size, "input_size": 2 * size, "num_layers": 1}
    elif cls not in (rnnfast.AUGRU, rnnfast.CfC):  # which have extra inputs, too
        found["sparse"] = _chance(rng, 0.2)
    more: dict[str, Any] = _pick(rng, OPTIONS.get(cls.__name__, ({},)))
    return found | more


@functools.cache
def _layer(number: int) -> Any:
    rng = np.random.default_rng([7, number])
    cls = _pick(rng, (*NAMED, rnnfast.LSTM, rnnfast.GRU, rnnfast.RNN))
    return cls(**_arguments(rng, cls))


def _some_layer(rng: Rng) -> Any:
    return _layer(int(rng.integers(80)))


class _Problem:
    """The arguments of a layer's call, and what the oracle answers."""

    def __init__(self, rng: Rng, layer: Any) -> None:
        self.layer, layout = layer, layer._recurrence.layout
        self.T, self.B, self.directions = _pick(rng, (0, 1, 2, 4)), _pick(rng, (0, 1, 2, 4)), layout.directions
        T, B, dtype = self.T, self.B, layer.dtype
        self.layers, self.widths, self.states = (
            layer.num_layers * layout.directions,
            layout.state_widths,
            layout.program.states,
        )
        self.ids = layer.sparse or (_chance(rng, 0.15) and not layout.program.given)
        x = rng.integers(0, layer.input_size, (T, B)) if self.ids else _normal(rng, T, B, layer.input_size, dtype=dtype)
        self.steps: dict[str, Any] = {"x": x}  # with an axis for time
        self.others: dict[str, Any] = {}
        if _chance(rng, 0.5):
            self.others["state"] = self.state(rng)
        if _chance(rng, 0.2):
            self.others["lengths"] = rng.integers(0, T + 1, B)
        if _chance(rng, 0.2):
            self.steps["resets"] = rng.random((T, B)) < 0.3
            if _chance(rng, 0.5):
                self.others["reset_state"] = self.state(rng)
        if _chance(rng, 0.2):
            self.steps["mask"] = rng.random((T, B)) < 0.7
        self.given = {
            one.name: rng.random((T, B) if one.domain is None else (T, B, layout.widths[one.domain])).astype(dtype)
            for one in layout.program.given
        }
        self.dy = _normal(rng, T, B, layout.features, dtype=dtype)
        self.dstate = self.state(rng)

    def state(self, rng: Rng) -> Any:
        """Random ones; a normaliser is positive."""
        arrays = [_normal(rng, self.layers, self.B, width, dtype=self.layer.dtype) for width in self.widths]
        for state, array in zip(self.states, arrays, strict=True):
            if state.name == "n":
                array[...] = np.abs(array) + 0.5
        return tuple(arrays) if len(arrays) > 1 else arrays[0]

    def turned(self, array: Any) -> Any:
        """From time-major to the layer's own axes, or back."""
        return array.swapaxes(0, 1) if self.layer.batch_first else array

    def arguments(self) -> dict[str, Any]:
        """As the layer takes them."""
        found = {name: self.turned(array) for name, array in self.steps.items()} | self.others
        if self.given:
            found["given"] = {name: self.turned(array) for name, array in self.given.items()}
        return found

    @functools.cached_property
    def oracle(self) -> Any:
        """The forward result, in float64."""
        steps, layer = dict(self.steps), self.layer
        if "mask" in steps:
            steps["skip"] = ~steps.pop("mask")
        x, state = steps.pop("x"), {**self.others}
        options = {
            "num_layers": layer.num_layers,
            "bidirectional": layer.bidirectional,
            "given": tuple(self.given.values()),
        }
        return reference.stack_forward(
            layer.cell, dict(layer.params), x, state.pop("state", None), **options, **steps, **state
        )

    def check(self, answer: Any) -> None:
        """Of y and the final state, perhaps followed by a tape."""
        _close("y", self.turned(answer[0]), self.oracle.y)
        _close("state", answer[1], self.oracle.state)

    def check_gradients(self, grads: Any) -> None:
        """Of backward of `dy` and `dstate`."""
        expected = reference.stack_backward(self.oracle, self.dy, self.dstate)
        if not self.ids:
            _close("dx", self.turned(grads.x), expected.dx, 2e-3)
        _close("dstate", grads.state, expected.dstate, 2e-3)
        for name, value in expected.params.items():
            _close(f"d{name}", grads.params[name], value, 2e-3)


@target("Recurrent")
def _construct(rng: Rng) -> Call:
    cls = _pick(rng, NAMED)
    arguments = _arguments(rng, cls)
    arguments |= {"dropout": _pick(rng, (0.0, 0.5)), "init": _pick(rng, ("pytorch", "xavier"))}
    if cls is not rnnfast.SLSTM and _chance(rng, 0.2):
        arguments["zoneout"] = 0.1
    if cls.__name__ in OPTIONS and _chance(rng, 0.2):
        arguments["recurrent_dropout"] = 0.2
    if cls is rnnfast.LSTM and arguments["bias"] and "coupled" not in arguments and _chance(rng, 0.3):
        arguments["forget_bias"] = 1.0

    def check(layer: Any) -> None:
        again = layers.from_config(layer.config(), rng=0)
        assert again.config() == layer.config(), "another configuration"
        assert repr(again) == repr(layer), "another repr"

    return Call(cls.__name__, cls, arguments, check)


@target("from_config")
def _from_config(rng: Rng) -> Call:
    part = _pick(rng, (_some_layer(rng), _model(int(rng.integers(4))), _dense(int(rng.integers(8)))))
    form = copy.deepcopy(part.config())

    def check(again: Any) -> None:
        assert again.config() == part.config(), "another configuration"

    return Call("layers.from_config", layers.from_config, {"config": form, "rng": 3}, check)


@target("Recurrent.__call__")
def _call_layer(rng: Rng) -> Call:
    layer = _some_layer(rng)
    problem = _Problem(rng, layer)
    arguments = problem.arguments() | {"num_threads": _pick(rng, (None, 1, 2))}
    kept: tuple[Any, ...] = (layer.params.flat,)
    if _chance(rng, 0.3):
        arguments["out"] = np.full_like(problem.turned(problem.dy), 7)
        arguments["out"] = np.ascontiguousarray(arguments["out"])
        kept = (*kept, arguments["out"])
    return Call(f"{type(layer).__name__}.__call__", layer, arguments, problem.check, kept)


@target("Recurrent.forward")
def _forward_layer(rng: Rng) -> Call:
    layer = _some_layer(rng)
    problem = _Problem(rng, layer)
    arguments = problem.arguments() | {"seed": 3, "first_step": 0}
    if _chance(rng, 0.3):
        arguments["tape"] = layer.forward(**problem.arguments())[2]

    def check(answer: Any) -> None:
        problem.check(answer)
        problem.check_gradients(layer.backward(answer[2], problem.turned(problem.dy), problem.dstate))

    return Call(f"{type(layer).__name__}.forward", layer.forward, arguments, check, (layer.params.flat,))


@target("Recurrent.backward")
def _backward_layer(rng: Rng) -> Call:
    layer = _some_layer(rng)
    problem = _Problem(rng, layer)
    tape = layer.forward(**problem.arguments())[2]
    arguments: dict[str, Any] = {"tape": tape, "dy": problem.turned(problem.dy), "dstate": problem.dstate}
    kept: tuple[Any, ...] = (layer.params.flat,)
    if _chance(rng, 0.5):
        arguments["into"] = layer.params.zeros()
        kept = (*kept, arguments["into"].flat)
    arguments |= {"input_gradient": True, "num_threads": 1}
    return Call(f"{type(layer).__name__}.backward", layer.backward, arguments, problem.check_gradients, kept)


@target("Recurrent.options")
def _of_outputs(rng: Rng) -> Call:
    """All states, or the last output alone."""
    layer = _some_layer(rng)
    problem = _Problem(rng, layer)
    name = _pick(rng, ("return_states", "last_only"))

    def check(answer: Any) -> None:
        if name == "return_states":
            _close("y", problem.turned(answer[0][0]), problem.oracle.y)
        _close("state", answer[1], problem.oracle.state)

    return Call(f"{type(layer).__name__}.__call__", layer, problem.arguments() | {name: True}, check)


@target("Recurrent.load")
def _load(rng: Rng) -> Call:
    part = copy.deepcopy(_pick(rng, (_some_layer(rng), _model(0), _dense(1), _cell(2))))
    values = {name: _normal(rng, *shape, dtype=part.dtype) for name, shape in part.params.shapes.items()}

    def check(_: Any) -> None:
        for name, value in values.items():
            _same(name, part.params[name], value)

    name = _pick(rng, ("load", "update"))
    return Call(f"{type(part).__name__}.{name}", getattr(part, name), {"mapping": values}, check, (part.params.flat,))


@target("Recurrent.flops section_steps")
def _flops(rng: Rng) -> Call:
    if _chance(rng, 0.5):
        return Call("section_steps", rnnfast.section_steps, {"batch_size": 3})
    return Call("flops", _some_layer(rng).flops, {"T": 3, "B": 2, "training": True})


@target("Recurrent.stream")
def _stream(rng: Rng) -> Call:
    layer = _forwards(rng)
    return Call("stream", layer.stream, {"batch_size": 2, "weights": layer.dtype.name, "num_threads": 1})


def _forwards(rng: Rng) -> Any:
    """A layer of one direction."""
    while (layer := _some_layer(rng)).bidirectional or layer.reverse:
        pass
    return layer


@target("Stream.step")
def _stream_step(rng: Rng) -> Call:
    layer = _forwards(rng)
    problem = _Problem(rng, layer)
    batch = max(problem.B, 1)
    stream = layer.stream(batch)
    x = (
        rng.integers(0, layer.input_size, batch)
        if problem.ids
        else _normal(rng, batch, layer.input_size, dtype=layer.dtype)
    )
    arguments: dict[str, Any] = {"x": x}
    if problem.given:
        arguments["given"] = {name: rng.random((batch, *value.shape[2:])) for name, value in problem.given.items()}
    if _chance(rng, 0.3):
        arguments["out"] = np.full((batch, layer._recurrence.layout.features), 7, layer.dtype)

    def check(y: Any) -> None:
        axis = 1 if layer.batch_first else 0
        given = {name: np.expand_dims(value, axis) for name, value in arguments.get("given", {}).items()} or None
        expected, state = layer(np.expand_dims(x, axis), given=given)
        _same("y", y, expected.squeeze(axis))
        _same("state", stream.state, state)

    kept = (arguments["out"],) if "out" in arguments else ()
    return Call("Stream.step", stream.step, arguments, check, kept)


@target("Stream.process")
def _stream_process(rng: Rng) -> Call:
    layer = _forwards(rng)
    problem = _Problem(rng, layer)
    batch = max(problem.B, 1)
    problem.B = batch
    stream = layer.stream(batch)
    shape = (problem.T, batch)
    block = (
        rng.integers(0, layer.input_size, shape)
        if problem.ids
        else _normal(rng, *shape, layer.input_size, dtype=layer.dtype)
    )
    arguments: dict[str, Any] = {"block": problem.turned(block)}
    if problem.given:
        given = {name: rng.random((*shape, *value.shape[2:])) for name, value in problem.given.items()}
        arguments["given"] = {name: problem.turned(value) for name, value in given.items()}

    def check(y: Any) -> None:
        expected, state = layer(arguments["block"], given=arguments.get("given"))
        _same("y", y, expected)
        _same("state", stream.state, state)

    return Call("Stream.process", stream.process, arguments, check)


@target("Stream.state")
def _stream_state(rng: Rng) -> Call:
    layer = _forwards(rng)
    problem = _Problem(rng, layer)
    problem.B = 2
    stream, state = layer.stream(2), problem.state(rng)
    if _chance(rng, 0.5):
        return Call("Stream.reset", stream.reset, {"rows": _pick(rng, (np.array([1]), np.array([True, False]), [0]))})
    return Call(
        "Stream.state",
        lambda value: setattr(stream, "state", value),
        {"value": state},
        lambda _: _same("state", stream.state, state),
    )


# Cells and heads


@functools.cache
def _cell(number: int) -> Any:
    rng = np.random.default_rng([8, number])
    cls = _pick(rng, CELLS)
    options = _pick(rng, OPTIONS[cls.__name__.removesuffix("Cell")])
    return cls(3, 8, dtype=_pick(rng, ("float32", "float64")), rng=number, **options)


@target("RecurrentCell")
def _construct_cell(rng: Rng) -> Call:
    cls = _pick(rng, CELLS)
    arguments = {"input_size": 3, "hidden_size": 8, "bias": True, "dtype": "float64", "rng": 3, "init": "xavier"}
    arguments |= _pick(rng, OPTIONS[cls.__name__.removesuffix("Cell")])

    def check(cell: Any) -> None:
        again = layers.from_config(cell.config(), rng=0)
        assert again.config() == cell.config(), "another configuration"

    return Call(cls.__name__, cls, arguments, check)


def _cell_problem(rng: Rng, cell: Any) -> tuple[dict[str, Any], Any, Callable[[Any], None]]:
    """Arguments, gradients of the new state, and the check of the new state."""
    batch, widths, dtype = _pick(rng, (0, 1, 3)), cell._recurrence.layout.state_widths, cell.dtype

    def states() -> Any:
        arrays = tuple(_normal(rng, batch, width, dtype=dtype) for width in widths)
        return arrays if len(arrays) > 1 else arrays[0]

    arguments = {"x": _normal(rng, batch, 3, dtype=dtype), "state": states()}

    def check(new: Any) -> None:
        parts = arguments["state"] if isinstance(arguments["state"], tuple) else (arguments["state"],)
        result = reference.forward(cell.cell, dict(cell.params), arguments["x"][None], *parts)
        _close("state", new if isinstance(new, tuple) else (new,), tuple(result.state))

    return arguments, states(), check


@target("RecurrentCell.__call__")
def _call_cell(rng: Rng) -> Call:
    cell = _cell(int(rng.integers(12)))
    arguments, other, check = _cell_problem(rng, cell)
    if _chance(rng, 0.4):
        arguments["out"] = other
    outs = other if isinstance(other, tuple) else (other,)
    return Call(f"{type(cell).__name__}.__call__", cell, arguments, check, (*outs, cell.params.flat))


@target("RecurrentCell.forward")
def _forward_cell(rng: Rng) -> Call:
    cell = _cell(int(rng.integers(12)))
    arguments, _, check = _cell_problem(rng, cell)
    return Call(
        f"{type(cell).__name__}.forward", cell.forward, arguments | {"seed": 1}, lambda answer: check(answer[0])
    )


@target("RecurrentCell.backward")
def _backward_cell(rng: Rng) -> Call:
    cell = _cell(int(rng.integers(12)))
    arguments, dstate, _ = _cell_problem(rng, cell)
    tape, into = cell.forward(**arguments)[1], cell.params.zeros()
    return Call(
        f"{type(cell).__name__}.backward",
        cell.backward,
        {"tape": tape, "dstate": dstate, "into": into},
        None,
        (into.flat,),
    )


@functools.cache
def _dense(number: int) -> Any:
    activations: tuple[Activation, ...] = ("identity", "sigmoid", "tanh", "softmax")
    dtype = ("float32", "float64")[number // 4 % 2]
    return rnnfast.Dense(4, 3, activation=activations[number % 4], bias=number % 3 > 0, dtype=dtype, rng=number)


@target("Dense")
def _construct_dense(rng: Rng) -> Call:
    arguments = {"input_size": 3, "output_size": 2, "activation": "tanh", "bias": True, "dtype": "float32", "rng": 1}
    return Call("Dense", rnnfast.Dense, arguments | {"init": _pick(rng, ("pytorch", "xavier"))})


@target("Dense.__call__")
def _call_dense(rng: Rng) -> Call:
    dense = _dense(int(rng.integers(8)))
    x = _normal(rng, *_pick(rng, ((4,), (2, 4), (3, 2, 4), (0, 4), (2, 0, 4))), dtype=dense.dtype)
    logits, training = _chance(rng, 0.3), _chance(rng, 0.5)
    arguments = {"x": x, "logits": logits, "num_threads": 1}

    def check(answer: Any) -> None:
        y = answer[0] if training else answer
        name = "identity" if logits else dense.activation
        _close("y", y, reference.dense_forward(dict(dense.params), x, name).y)

    return Call(
        "Dense.forward" if training else "Dense.__call__", dense.forward if training else dense, arguments, check
    )


@target("Dense.backward")
def _backward_dense(rng: Rng) -> Call:
    dense = _dense(int(rng.integers(8)))
    x, dy, into = _normal(rng, 2, 3, 4), _normal(rng, 2, 3, 3), dense.params.zeros()
    tape = dense.forward(x)[1]

    def check(grads: Any) -> None:
        expected = reference.dense_backward(reference.dense_forward(dict(dense.params), x, dense.activation), dy)
        _close("dx", grads.x, expected.dx)
        for name, value in expected.params.items():
            _close(f"d{name}", grads.params[name], value)

    return Call("Dense.backward", dense.backward, {"tape": tape, "dy": dy, "into": into}, check, (into.flat,))


@target("Embedding")
def _embedding(rng: Rng) -> Call:
    arguments = {"num": 5, "dim": 3, "padding_idx": _pick(rng, (None, 0, -1)), "dtype": "float32", "rng": 1}
    arguments["sparse"] = _chance(rng, 0.5)
    if _chance(rng, 0.3):
        return Call("Embedding", rnnfast.Embedding, arguments)
    part = rnnfast.Embedding(**arguments)
    x = rng.integers(0, 5, _pick(rng, ((), (3,), (2, 4), (0, 2))))
    if _chance(rng, 0.5):
        return Call("Embedding.__call__", part, {"x": x}, lambda y: _same("y", y, part.params["weight"][x]))
    y, tape = part.forward(x)
    into = part.params.zeros()
    return Call("Embedding.backward", part.backward, {"tape": tape, "dy": y, "into": into}, None, (into.flat,))


@target("Dropout LayerNorm Pool Add Concat")
def _plain(rng: Rng) -> Call:
    kinds: tuple[tuple[Any, dict[str, Any]], ...] = (
        (rnnfast.Dropout, {"p": 0.0, "rng": 1}),
        (rnnfast.LayerNorm, {"size": 3, "eps": 1e-5, "bias": True, "dtype": "float32"}),
        (rnnfast.Pool, {"kind": _pick(rng, ("last", "mean", "max")), "batch_first": False}),
        (rnnfast.Add, {}),
        (rnnfast.Concat, {}),
    )
    cls, arguments = _pick(rng, kinds)
    if _chance(rng, 0.3):
        return Call(cls.__name__, cls, arguments)
    part, x = cls(**arguments), _normal(rng, *_pick(rng, ((4, 2, 3), (1, 1, 3), (2, 0, 3))))
    inputs = {"x": x, "other": x + 1} if cls in (rnnfast.Add, rnnfast.Concat) else {"x": x}
    y, tape = part.forward(*inputs.values())
    if _chance(rng, 0.4):
        into = part.params.zeros()
        return Call(
            f"{cls.__name__}.backward", part.backward, {"tape": tape, "dy": y, "into": into}, None, (into.flat,)
        )

    def check(answer: Any) -> None:
        if cls is rnnfast.Add:
            _close("y", answer, x + (x + 1))
        elif cls is rnnfast.Concat:
            _close("y", answer, np.concatenate([x, x + 1], axis=-1))
        elif cls is rnnfast.Dropout:
            _close("y", answer, x)
        elif cls is rnnfast.LayerNorm:
            middle = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
            _close("y", answer, middle / np.sqrt((middle**2).mean(axis=-1, keepdims=True) + 1e-5))

    return Call(f"{cls.__name__}.__call__", lambda **given: part(*given.values()), inputs, check)


# Models


@functools.cache
def _model(number: int) -> Any:
    if number == 0:
        return rnnfast.Model(rnn=rnnfast.LSTM(3, 8, rng=1), head=rnnfast.Dense(8, 2, rng=2))
    if number == 1:
        rnn = rnnfast.GRU(3, 8, bidirectional=True, batch_first=True, dtype="float64", rng=1)
        return rnnfast.Model(rnn=rnn, head=rnnfast.Dense(16, 2, activation="softmax", dtype="float64", rng=2))
    if number == 2:
        return rnnfast.Model(first=rnnfast.Dense(3, 4, activation="tanh", rng=1), rnn=rnnfast.GRU(4, 8, rng=2))
    return rnnfast.Model(one=rnnfast.RNN(3, 8, 2, rng=1), two=rnnfast.LSTM(8, 4, rng=2))


class _ModelProblem:
    """The arguments of a model's call, and the answer of its parts one by one."""

    def __init__(self, rng: Rng, model: Any) -> None:
        self.model, (T, B) = model, (_pick(rng, (1, 3)), _pick(rng, (1, 2)))
        axes = (B, T) if model.batch_first else (T, B)
        self.x = _normal(rng, *axes, 3, dtype=model.dtype)
        self.arguments: dict[str, Any] = {"x": self.x}
        if _chance(rng, 0.3):
            self.arguments["lengths"] = np.full(B, T)
        if _chance(rng, 0.3):
            self.arguments["state"] = self.expected()[1]

    def expected(self) -> tuple[Any, dict[str, Any]]:
        """The prediction and the states."""
        y, states, before = self.x, {}, self.arguments.get("state", {})
        for name, part in self.model.parts.items():
            if isinstance(part, rnnfast.Dense):
                y = part(y)
            else:
                y, states[name] = part(y, before.get(name))
        return y, states

    def check(self, answer: Any) -> None:
        """Of y and the states, perhaps followed by a tape."""
        y, states = self.expected()
        _same("y", answer[0], y)
        _same("states", list(answer[1].values()), list(states.values()))


def _some_model(rng: Rng) -> Any:
    return _model(int(rng.integers(4)))


@target("Model")
def _construct_model(rng: Rng) -> Call:
    parts = {"rnn": rnnfast.GRU(3, 4, rng=0), "head": rnnfast.Dense(4, 2, rng=0)}
    return Call("Model", rnnfast.Model, parts)


@target("Model.__call__")
def _call_model(rng: Rng) -> Call:
    model = _some_model(rng)
    problem = _ModelProblem(rng, model)
    arguments = problem.arguments | {"num_threads": 1}
    kept: tuple[Any, ...] = (model.params.flat,)
    if _chance(rng, 0.3):
        arguments["out"] = np.full_like(problem.expected()[0], 7)
        kept = (*kept, arguments["out"])
    if _chance(rng, 0.3):
        return Call("Model.forward", model.forward, arguments | {"seed": 1}, problem.check, kept)
    return Call("Model.__call__", model, arguments, problem.check, kept)


@target("Model.backward")
def _backward_model(rng: Rng) -> Call:
    model = _some_model(rng)
    problem = _ModelProblem(rng, model)
    y, states, tape = model.forward(**problem.arguments)
    into = model.params.zeros()
    arguments = {"tape": tape, "dy": np.ones_like(y), "dstate": states, "into": into, "input_gradient": True}

    def check(grads: Any) -> None:
        again = model.forward(**problem.arguments)[2]
        _same("gradients", model.backward(again, np.ones_like(y), states).params.flat, grads.params.flat)

    return Call("Model.backward", model.backward, arguments, check, (into.flat,))


@target("Model.stream")
def _model_stream(rng: Rng) -> Call:
    model = _model(_pick(rng, (0, 2, 3)))
    if _chance(rng, 0.2):
        return Call("Model.stream", model.stream, {"batch_size": 2, "weights": "float32", "num_threads": 1})
    stream, x = model.stream(2), _normal(rng, 4, 2, 3)
    if _chance(rng, 0.5):
        return Call("ModelStream.process", stream.process, {"block": x}, lambda y: _same("y", y, model(x)[0]))
    if _chance(rng, 0.2):
        return Call("ModelStream.reset", stream.reset, {"rows": [1]})
    return Call("ModelStream.step", stream.step, {"x": x[0]}, lambda y: _same("y", y, model(x[:1])[0][0]))


@target("Model.set_rng_state")
def _rng_state(rng: Rng) -> Call:
    model = copy.deepcopy(_some_model(rng))
    return Call("Model.set_rng_state", model.set_rng_state, {"state": model.rng_state()})


@target("Model.from_config")
def _model_from_config(rng: Rng) -> Call:
    return Call(
        "Model.from_config", rnnfast.Model.from_config, {"config": copy.deepcopy(_some_model(rng).config()), "rng": 1}
    )


# Parameters and optimisers

SHAPES = {"a": (2, 3), "b": (4,), "c": (0, 2)}


@target("Parameters")
def _parameters(rng: Rng) -> Call:
    params = rnnfast.Parameters(SHAPES, "float32")
    values = {name: _normal(rng, *shape) for name, shape in SHAPES.items()}
    calls: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("Parameters", rnnfast.Parameters, {"shapes": dict(SHAPES), "dtype": "float32"}),
        ("Parameters.assign", params.assign, {"flat": _normal(rng, 10)}),
        ("Parameters.update", params.update, {"mapping": values}),
        ("Parameters.load", params.load, {"mapping": values}),
        ("Parameters.adopt", params.adopt, {"store": rnnfast.parameters.Store(20, "float32"), "offset": 4}),
    )
    name, function, arguments = _pick(rng, calls)
    return Call(name, function, arguments, None, (params.flat,))


@target("Gradients")
def _gradients(rng: Rng) -> Call:
    return Call(
        "Gradients", rnnfast.Gradients, {"shapes": dict(SHAPES), "dtype": "float32", "flat": np.zeros(10, np.float32)}
    )


OPTIMIZERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}),
)


@target("SGD RMSprop Adam AdamW")
def _optimizer(rng: Rng) -> Call:
    name, options = _pick(rng, OPTIMIZERS)
    params = rnnfast.Parameters(SHAPES, "float32")
    return Call(name, getattr(optim, name), {"params": params, **options})


@target("Optimizer.step")
def _optimizer_step(rng: Rng) -> Call:
    params = rnnfast.Parameters(SHAPES, "float32")
    params.assign(before := _normal(rng, 10))
    name, options = _pick(rng, OPTIMIZERS)
    optimizer, gradients = getattr(optim, name)(params, **options), params.zeros()
    gradients.flat[:] = g = _normal(rng, 10)
    if _chance(rng, 0.3):
        state = optimizer.state_dict()
        return Call(f"{name}.load_state_dict", optimizer.load_state_dict, {"state": state}, None, (params.flat,))
    if _chance(rng, 0.2):
        return Call(f"{name}.lr", lambda value: setattr(optimizer, "lr", value), {"value": 0.1})

    def check(_: Any) -> None:
        if options == {"lr": 0.1}:
            _close("params", params.flat, before - 0.1 * g)
        assert optimizer.steps == 1, f"{optimizer.steps} steps"

    return Call(f"{name}.step", optimizer.step, {"gradients": gradients}, check, (params.flat,))


@target("clip_grad_norm clip_grad_value")
def _clip(rng: Rng) -> Call:
    gradients = rnnfast.Gradients(SHAPES, "float32")
    gradients.flat[:] = before = _normal(rng, 10)
    if _chance(rng, 0.5):
        check = lambda norm: _close("norm", norm, np.linalg.norm(before.astype(np.float64)))  # noqa: E731
        return Call(
            "clip_grad_norm", optim.clip_grad_norm, {"gradients": gradients, "max_norm": 0.5}, check, (gradients.flat,)
        )
    check = lambda _: _same("clipped", gradients.flat, before.clip(-0.5, 0.5))  # noqa: E731
    return Call(
        "clip_grad_value", optim.clip_grad_value, {"gradients": gradients, "bound": 0.5}, check, (gradients.flat,)
    )


# Losses


@target("softmax_cross_entropy mean_squared_error mean_absolute_error huber binary_cross_entropy")
def _losses(rng: Rng) -> Call:
    numbers = ("mean_squared_error", "mean_absolute_error", "huber")
    name = _pick(rng, (*numbers, "softmax_cross_entropy", "binary_cross_entropy"))
    shape = _pick(rng, ((2, 3, 4), (1, 1, 2), (3, 2, 1), (0, 2, 3)))
    prediction = _normal(rng, *shape, dtype=_pick(rng, ("float32", "float64")))
    options: dict[str, Any] = {"reduction": _pick(rng, ("mean", "sum"))}
    if _chance(rng, 0.4):
        options["mask"] = rng.random(shape[:-1]) < 0.6
    if name == "softmax_cross_entropy":
        first = {"logits": prediction, "ids": rng.integers(0, shape[-1], shape[:-1])}
    elif name in numbers:
        first = {"prediction": prediction, "target": _normal(rng, *shape)}
    else:
        options["logits"] = True
        first = {"prediction": prediction, "target": (rng.random(shape) < 0.5).astype(np.float32)}
    arguments = first | options
    kept: tuple[Any, ...] = ()
    if _chance(rng, 0.3):
        arguments["out"] = np.full_like(prediction, 7)
        kept = (arguments["out"],)

    def check(answer: Any) -> None:
        loss, gradient = getattr(reference, name)(*first.values(), **options)
        _close("loss", answer[0], loss)
        _close("gradient", answer[1], gradient)

    return Call(name, getattr(losses, name), arguments, check, kept)


# Encoders, initial values, diagnostics, settings


@target("SymbolEncoder LabelEncoder one_hot from_one_hot")
def _encoders(rng: Rng) -> Call:
    symbols = encoders.SymbolEncoder.fit("hello", unknown=_pick(rng, (None, "?")))
    labels = encoders.LabelEncoder(["a", "b", "c"])
    ids = rng.integers(0, 3, _pick(rng, ((0,), (4,))))
    calls: tuple[tuple[str, Any, dict[str, Any], Any], ...] = (
        ("SymbolEncoder", encoders.SymbolEncoder, {"symbols": list("abc"), "unknown": "?"}, None),
        ("SymbolEncoder.fit", encoders.SymbolEncoder.fit, {"text": "hello"}, None),
        ("SymbolEncoder.encode", symbols.encode, {"text": "hole"}, None),
        ("SymbolEncoder.decode", symbols.decode, {"ids": ids}, lambda text: _same("ids", symbols.encode(text), ids)),
        ("SymbolEncoder.from_dict", encoders.SymbolEncoder.from_dict, {"form": symbols.to_dict()}, None),
        ("LabelEncoder", encoders.LabelEncoder, {"labels": ["a", "b"]}, None),
        ("LabelEncoder.fit", encoders.LabelEncoder.fit, {"labels": ["a", "b", "a"]}, None),
        ("LabelEncoder.encode", labels.encode, {"labels": ["a", "c", "c"]}, None),
        ("LabelEncoder.decode", labels.decode, {"ids": ids}, lambda found: _same("ids", labels.encode(found), ids)),
        ("LabelEncoder.from_dict", encoders.LabelEncoder.from_dict, {"form": labels.to_dict()}, None),
        (
            "one_hot",
            encoders.one_hot,
            {"ids": ids, "num_classes": 3, "dtype": "float32"},
            lambda y: _same("y", y, np.eye(3, dtype=np.float32)[ids]),
        ),
        ("from_one_hot", encoders.from_one_hot, {"vectors": np.eye(3)[ids]}, lambda found: _same("ids", found, ids)),
    )
    return Call(*_pick(rng, calls))


@target("embedding uniform zeros orthogonal xavier_uniform xavier_normal forget_bias")
def _init(rng: Rng) -> Call:
    shape = _pick(rng, ((2, 3), (3, 3), (4, 1)))
    if _chance(rng, 0.2):
        return Call("init.forget_bias", init.forget_bias, {"params": dict(rnnfast.LSTM(2, 3).params), "value": 1.0})
    name = _pick(rng, ("uniform", "zeros", "orthogonal", "xavier_uniform", "xavier_normal"))
    arguments: dict[str, Any] = {"shape": shape, "rng": 3} | ({"n": 4} if name == "uniform" else {})
    if _chance(rng, 0.1):
        return Call("init.embedding", init.embedding, {"shape": shape, "rng": 3, "scale": 0.5})
    if name in ("orthogonal", "xavier_uniform", "xavier_normal"):
        arguments["gain"] = 2.0
    return Call(f"init.{name}", getattr(init, name), arguments, lambda array: _close("shape", array.shape, shape))


@target("gradient_norm_by_distance")
def _diagnostics(rng: Rng) -> Call:
    layer = rnnfast.LSTM(3, 4, rng=0)
    arguments = {"layer": layer, "x": _normal(rng, 3, 2, 3), "dy_last": np.ones((2, 4), np.float32)}
    return Call("gradient_norm_by_distance", diagnostics.gradient_norm_by_distance, arguments)


@target("set_num_threads")
def _threads(rng: Rng) -> Call:
    def call(num_threads: Any) -> None:
        before = config.get_num_threads()
        config.set_num_threads(num_threads)
        config.set_num_threads(before)

    return Call("set_num_threads", call, {"num_threads": 2})


# Training


def _trainer(rng: Rng, **options: Any) -> Any:
    model = rnnfast.LSTM(2, 3, rng=1, batch_first=_chance(rng, 0.3))
    options = {"k1": 3, "k2": _pick(rng, (3, 5))} | options
    return tbptt.TBPTT(model, losses.mean_squared_error, optim.SGD(model.params, 0.1), **options)


@target("TBPTT")
def _construct_tbptt(rng: Rng) -> Call:
    model = rnnfast.LSTM(2, 3, rng=1)
    arguments = {"model": model, "loss": losses.mean_squared_error, "optimizer": optim.SGD(model.params, 0.1)}
    options = {"k1": 3, "k2": 5, "clip_norm": 1.0, "clip_value": 1.0, "nonfinite": "skip", "logits": False}
    return Call("TBPTT", tbptt.TBPTT, arguments | options)


@target("TBPTT.step")
def _tbptt_step(rng: Rng) -> Call:
    trainer = _trainer(rng, k2=3)
    model = trainer._model
    twin = copy.deepcopy(model)
    x, goal = _normal(rng, 3, 2, 2), _normal(rng, 3, 2, 3)
    if model.batch_first:
        x, goal = x.swapaxes(0, 1), goal.swapaxes(0, 1)
    arguments: dict[str, Any] = {"x": x, "target": goal}
    if _chance(rng, 0.3):
        arguments["mask"] = np.ones(x.shape[:2], np.float32)
    if _chance(rng, 0.3):
        arguments["resets"] = np.zeros(x.shape[:2], bool)
    if _chance(rng, 0.3):
        arguments["lengths"] = np.full(2, 3)
    if _chance(rng, 0.3):
        arguments["following"] = 2

    def check(result: Any) -> None:
        y, _, tape = twin.forward(x)
        loss, dy = losses.mean_squared_error(y, goal)
        optim.SGD(twin.params, 0.1).step(twin.backward(tape, dy).params)
        _close("loss", result.loss, loss)
        _close("params", model.params.flat, twin.params.flat)

    return Call("TBPTT.step", trainer.step, arguments, check, (model.params.flat,))


@target("TBPTT.run")
def _tbptt_run(rng: Rng) -> Call:
    trainer = _trainer(rng)
    x, goal = _normal(rng, 7, 2, 2), _normal(rng, 7, 2, 3)
    if trainer._model.batch_first:
        x, goal = x.swapaxes(0, 1), goal.swapaxes(0, 1)
    arguments = {"x": x, "targets": goal, "lengths": np.array([7, 4])}

    def check(results: Any) -> None:
        assert sum(result.steps for result in results) == 7, "steps left out"

    return Call("TBPTT.run", lambda **given: list(trainer.run(**given)), arguments, check)


@target("TBPTT.state")
def _tbptt_state(rng: Rng) -> Call:
    trainer = _trainer(rng)
    axes = (2, 3) if trainer._model.batch_first else (3, 2)
    trainer.step(_normal(rng, *axes, 2), _normal(rng, *axes, 3))
    calls: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("TBPTT.reset", trainer.reset, {"rows": [1]}),
        ("TBPTT.state", lambda value: setattr(trainer, "state", value), {"value": trainer.state}),
        ("TBPTT.load_state_dict", trainer.load_state_dict, {"state_dict": trainer.state_dict()}),
        (
            "TBPTT.batches",
            lambda **given: list(trainer.batches(**given)),
            {"stream": _normal(rng, 20, 2), "batch_size": 2},
        ),
    )
    return Call(*_pick(rng, calls))


@target("stateful_batches")
def _stateful_batches(rng: Rng) -> Call:
    arguments: dict[str, Any] = {
        "stream": rng.integers(0, 3, 20),
        "batch_size": 2,
        "k1": 3,
        "batch_first": _chance(rng, 0.5),
    }

    def check(windows: Any) -> None:
        first = arguments["stream"][:9]
        whole = np.concatenate([x if arguments["batch_first"] else x.T for x, _ in windows], 1)
        _same("the first row", whole[0], first)

    return Call("stateful_batches", lambda **given: list(tbptt.stateful_batches(**given)), arguments, check)


@target("Learner")
def _learner(rng: Rng) -> Call:
    layer = rnnfast.GRU(2, 3, rng=1)
    arguments: dict[str, Any] = {"model": layer, "loss": losses.mean_squared_error}
    options: dict[str, Any] = {
        "optimizer": optim.SGD(layer.params, 0.1),
        "method": "snap1",
        "batch_size": 2,
        "clip_norm": 1.0,
    }
    if _chance(rng, 0.3):
        return Call("Learner", rnnfast.Learner, arguments | options)
    learner = rnnfast.Learner(**arguments, **options)
    learner.step(np.ones((2, 2)), np.ones((2, 3)))
    if _chance(rng, 0.3):
        return Call("Learner.load_state_dict", learner.load_state_dict, {"state": learner.state_dict()})
    if _chance(rng, 0.3):
        return Call("Learner.reset", learner.reset, {"rows": [1]})
    step = {"x": _normal(rng, 2, 2), "target": _normal(rng, 2, 3), "update": True}
    return Call("Learner.step", learner.step, step, None, (layer.params.flat,))


@target("fit evaluate predict accuracy Constant Cosine Linear OnPlateau WarmUp")
def _fit(rng: Rng) -> Call:
    model = rnnfast.LSTM(2, 3, rng=1)
    batches = data.Batches([_normal(rng, 3, 2) for _ in range(2)], [_normal(rng, 3, 3) for _ in range(2)], batch_size=2)
    arguments = {
        "model": model,
        "loss": losses.mean_squared_error,
        "optimizer": optim.SGD(model.params, 0.1),
        "batches": batches,
        "schedule": schedules.Linear(0.1, 3),
        "clip_norm": 1.0,
        "accumulate": 1,
        "patience": 3,
        "progress": False,
    }
    if _chance(rng, 0.5):
        name, options = _pick(rng, (("Constant", {"lr": 0.1}), ("Linear", {"lr": 0.1, "steps": 3, "last": 0.0})))
        return Call(f"schedules.{name}", getattr(schedules, name), options)
    if _chance(rng, 0.6):
        return Call("fit", functools.partial(rnnfast.fit, epochs=2), arguments)  # any number of epochs is legal
    few = {name: arguments[name] for name in ("model", "loss", "batches")}
    scores, classes = _normal(rng, 3, 2, 4), rng.integers(0, 4, (3, 2))
    share = np.mean(scores.argmax(axis=-1) == classes)
    calls: tuple[tuple[str, Any, dict[str, Any], Any], ...] = (
        ("evaluate", training.evaluate, few, None),
        ("predict", training.predict, {"model": model, "batches": batches}, None),
        ("accuracy", training.accuracy, {"prediction": scores, "target": classes}, lambda it: _close("it", it, share)),
    )
    return Call(*_pick(rng, calls))


@target("greedy sample beam forecast")
def _decode(rng: Rng) -> Call:
    model = _deciding()
    if _chance(rng, 0.2):
        layer = rnnfast.GRU(3, 3, rng=1)
        return Call("decode.forecast", decode.forecast, {"model": layer, "x": _normal(rng, 2, 2, 3), "steps": 3})
    arguments: dict[str, Any] = {"model": model, "prompt": rng.integers(0, 5, (3, 2)), "steps": 3, "stop": 1}
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("greedy", {}),
        ("sample", {"temperature": 1.0, "top_k": 2, "rng": 1}),
        ("beam", {"width": 2, "length_penalty": 0.5}),
    )
    name, options = _pick(rng, kinds)
    return Call(f"decode.{name}", getattr(decode, name), arguments | options)


@functools.cache
def _deciding() -> Any:
    return rnnfast.Model(rnn=rnnfast.GRU(5, 8, rng=1), head=rnnfast.Dense(8, 5, rng=2))


# Files, in the folder that is the current one


@functools.cache
def _saved() -> bytes:
    path, model = Path("whole"), _model(0)
    checkpoint.save(path, model, optimizer=optim.Adam(model.params), extra={"a": [np.arange(3), "text"], "b": 1.5})
    return path.read_bytes()


@target("save")
def _save(rng: Rng) -> Call:
    model = _model(0)
    extra: dict[str, Any] = {"a": np.arange(3), "b": [1, 2.5, None, (True, "x")], "c": {"d": {"e": 2**70}}}
    arguments = {"model": model, "optimizer": optim.SGD(model.params, 0.1), "extra": extra}

    def save_and_load(**given: Any) -> Any:
        checkpoint.save("saved", **given)
        return checkpoint.load("saved")

    def check(loaded: Any) -> None:
        _same("parameters", loaded.model.params.flat, model.params.flat)
        assert loaded.extra["b"] == extra["b"], "another extra"

    return Call("checkpoint.save", save_and_load, arguments, check)


@target("load")
def _load_file(rng: Rng) -> Call:
    content = bytearray(_saved())
    if _chance(rng, 0.3):
        return Call("checkpoint.load", checkpoint.load, {"path": "whole", "device": "cpu"})
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content) if _chance(rng, 0.3) else 1500)] = rng.integers(256)
    Path("damaged").write_bytes(content[: rng.integers(len(content))] if _chance(rng, 0.2) else content)
    return Call("checkpoint.load", checkpoint.load, {"path": "damaged"}, sound=False)


# Data


@target("pad bucketed pack windows from_dones fill_missing time_since Standardizer Batches")
def _data(rng: Rng) -> Call:
    sequences = [_normal(rng, length, 2) for length in (3, 1, 4)]
    padded = _normal(rng, 4, 3, 2)
    missing = np.where(rng.random((4, 3, 2)) < 0.3, np.nan, padded)
    calls: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("data.pad", data.pad, {"sequences": sequences, "batch_first": True}),
        ("data.bucketed", data.bucketed, {"lengths": [3, 1, 4], "batch_size": 2, "rng": 1}),
        ("data.pack", data.pack, {"sequences": sequences, "steps": 5}),
        ("data.windows", data.windows, {"series": _normal(rng, 9, 2), "steps": 3, "horizon": 1, "stride": 2}),
        ("data.from_dones", data.from_dones, {"terminated": rng.random((4, 3)) < 0.3, "before": np.zeros(3, bool)}),
        ("data.fill_missing", data.fill_missing, {"x": missing, "fill": 0.0, "skip": "all"}),
        ("data.time_since", data.time_since, {"observed": ~np.isnan(missing), "times": np.arange(4.0)}),
        ("data.Standardizer.fit", data.Standardizer.fit, {"x": padded}),
        (
            "data.Batches",
            lambda **given: list(data.Batches(**given)),
            {"x": sequences, "target": sequences, "batch_size": 2},
        ),
    )
    return Call(*_pick(rng, calls))
