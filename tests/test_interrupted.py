"""An exception between any two lines, as Ctrl-C is one, leaves a step that was made or one that was not."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from registry import assert_same, assert_same_bits

import rnnfast
from rnnfast import LSTM, TBPTT, Dense, Embedding, LayerNorm, Model, optim
from rnnfast.losses import mean_squared_error

WATCHED = (str(Path(rnnfast.__file__).parent), "contextlib.py")
OPTIMIZERS = {
    "sgd": lambda params: optim.SGD(params, 0.1, momentum=0.9),
    "rmsprop": lambda params: optim.RMSprop(params, momentum=0.9),
    "adam": lambda params: optim.Adam(params, 0.1),
}


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, so that a real one still stops the tests."""


class Line(NamedTuple):
    """A line of a function, when it is run for the nth time, from 1."""

    code: Any
    number: int
    nth: int


def run_lines(call):
    """Call; the lines of ours that it runs."""
    lines, seen = [], Counter()

    def watch(frame, event, _):
        name = frame.f_code.co_filename
        if not name.startswith(WATCHED[0]) and not name.endswith(WATCHED[1]):
            return None
        if event == "line":
            here = frame.f_code, frame.f_lineno
            seen[here] += 1
            lines.append(Line(*here, seen[here]))
        return watch

    traced(call, watch)
    return lines


def interrupt(call, at):
    """Call, with an exception before a line. Only its function is watched: a watched line takes microseconds."""
    count = 0

    def watch(frame, event, _):
        nonlocal count
        if frame.f_code is not at.code:
            return None
        if event == "line" and frame.f_lineno == at.number:
            count += 1
            if count == at.nth:
                raise Interrupt
        return watch

    with contextlib.suppress(Interrupt):
        traced(call, watch)


def traced(call, watch):
    before = sys.gettrace()
    sys.settrace(watch)
    try:
        call()
    finally:
        sys.settrace(before)


def positions(lines):
    """The first time that each line is run, and the last, from the few files that commit."""
    last = {line[:2]: line for line in lines}
    commit = ("optim.py", "parameters.py", "parts.py", "sparse.py", "tbptt.py", "_part.py", "contextlib.py")
    return [
        line for line in lines if line.nth == 1 or (last[line[:2]] == line and line.code.co_filename.endswith(commit))
    ]


def interrupted_everywhere(make, call, look):
    """Nothing has changed, or all has.

    What an interrupted call has left as it was is used again: nobody can tell that there was a call.
    """
    thing = make()
    before = look(thing)
    lines = run_lines(lambda: call(thing))
    after = look(thing)
    assert not same(after, before)
    found, thing = set(), make()
    for position in positions(lines):
        interrupt(lambda: call(thing), position)  # noqa: B023 - called at once
        now = look(thing)
        if same(now, before):
            found.add("before")
        else:
            assert same(now, after), f"a half step: interrupted at {position}"
            found.add("after")
            thing = make()
    assert found >= {"before"}  # where the last line does all, none comes after it


def same(actual, expected):
    try:
        assert_same(actual, expected)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimisers_step(kind):
    def make():
        layer = LSTM(2, 3, rng=0)
        layer(np.zeros((1, 1, 2)))  # packs its weights
        optimizer = OPTIMIZERS[kind](layer.params)
        gradients = layer.params.zeros()
        gradients.flat[:] = 1
        optimizer.step(gradients)
        return layer, optimizer, gradients

    def look(thing):
        layer, optimizer, _ = thing
        twin = LSTM(2, 3, rng=1)
        twin.load(dict(layer.params))
        x = np.ones((2, 1, 2), np.float32)
        assert_same(layer(x), twin(x))  # it computes with the parameters that it shows
        return copy.deepcopy((dict(layer.params), optimizer.state_dict()))

    interrupted_everywhere(make, lambda thing: thing[1].step(thing[2]), look)


TWIN = LSTM(2, 3, 2, rng=1)


def computing(layer):
    """What a layer shows, which is what it computes with."""
    TWIN.load({name: np.array(value) for name, value in layer.params.items()})
    x = np.ones((2, 1, 2), np.float32)
    assert_same(layer(x), TWIN(x))
    return {name: np.array(value) for name, value in layer.params.items()}


def packed_layer():
    layer = LSTM(2, 3, 2, rng=0)
    layer(np.zeros((1, 1, 2)))
    return layer


@pytest.mark.parametrize("name", ["load", "update"])
def test_a_layers_values(name):
    values = {key: np.array(value) for key, value in LSTM(2, 3, 2, rng=2).params.items()}
    interrupted_everywhere(packed_layer, lambda layer: getattr(layer, name)(values), computing)


def test_gradients_added_to_others():
    x = np.random.default_rng(0).standard_normal((3, 2, 2), np.float32)

    def make():
        layer = LSTM(2, 3, 2, rng=0)
        into = layer.params.zeros()
        into.flat[:] = 1
        return layer, into

    def add(thing):
        layer, into = thing
        y, _, tape = layer.forward(x)
        layer.backward(tape, y, into=into)

    interrupted_everywhere(make, add, lambda thing: np.array(thing[1].flat))


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_a_model_added_to_others(sparse):
    ids = np.array([[1, 4], [4, 2], [1, 0]])

    def make():
        model = Model(
            embed=Embedding(6, 4, sparse=sparse, rng=0),
            rnn=LSTM(4, 4, rng=1),
            norm=LayerNorm(4),
            head=Dense(4, 6, rng=2),
            tied={} if sparse else {"head.weight": "embed.weight"},
        )
        into = model.params.zeros()
        y, _, tape = model.forward(ids)
        model.backward(tape, np.ones_like(y), into=into)
        into.flat[:] += 1
        return model, into

    def add(thing):
        model, into = thing
        y, _, tape = model.forward(ids)
        model.backward(tape, y, into=into)

    interrupted_everywhere(make, add, lambda thing: {name: np.array(value) for name, value in thing[1].items()})


def test_gradients_of_a_normalisation_added_to_others():
    x = np.random.default_rng(0).standard_normal((3, 4))

    def make():
        norm = LayerNorm(4)
        return norm, norm.params.zeros()

    def add(thing):
        norm, into = thing
        y, tape = norm.forward(x)
        norm.backward(tape, y + 1, into=into)

    interrupted_everywhere(make, add, lambda thing: np.array(thing[1].flat))


def test_a_model_of_parts():
    """Those of an interrupted one are free for another, and compute as before."""

    def make():
        return LSTM(2, 3, 2, rng=0), Dense(3, 2, rng=1)

    def look(parts):
        layer, head = parts
        kept = computing(layer), {name: np.array(value) for name, value in head.params.items()}
        return kept, layer.params.in_model, head.params.in_model, layer.params.store is head.params.store

    interrupted_everywhere(make, lambda parts: Model(rnn=parts[0], head=parts[1]), look)


def test_a_streams_state():
    def make():
        stream = LSTM(2, 3, 2, rng=0).stream(2)
        stream.step(np.ones((2, 2), np.float32))
        return stream

    state = LSTM(2, 3, 2, rng=1)(np.ones((3, 2, 2)))[1]
    for call in (lambda stream: setattr(stream, "state", state), lambda stream: stream.reset([1])):
        interrupted_everywhere(make, call, lambda stream: stream.state)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimisers_state(kind):
    def make():
        return OPTIMIZERS[kind](LSTM(2, 3, rng=0).params)

    other = make()
    gradients = other.params.zeros()
    gradients.flat[:] = 1
    other.step(gradients)
    interrupted_everywhere(make, lambda one: one.load_state_dict(other.state_dict()), lambda one: one.state_dict())


def test_clipping():
    def make():
        gradients = LSTM(2, 3, rng=0).params.zeros()
        gradients.flat[:] = 1
        return gradients

    interrupted_everywhere(make, lambda thing: optim.clip_grad_norm(thing, 0.1), lambda thing: thing.flat.copy())


def test_a_window():
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((6, 2, 2)), rng.standard_normal((6, 2, 2))

    def make():
        model = Model(rnn=LSTM(2, 2, 2, dropout=0.5, rng=0), head=Dense(2, 2, rng=1))
        trainer = TBPTT(model, mean_squared_error, OPTIMIZERS["adam"](model.params), k1=2, k2=3, clip_value=0.1)
        for t in (0, 2):
            trainer.step(x[t : t + 2], target[t : t + 2])
        trainer.reset([1])
        return model, trainer

    def look(thing):
        model, trainer = thing
        parts = dict(model.params), trainer._optimizer.state_dict(), trainer.state_dict(), model.rng_state()
        return copy.deepcopy(parts)

    interrupted_everywhere(make, lambda thing: thing[1].step(x[4:], target[4:]), look)


def test_a_window_after_an_interrupted_one():
    """Its memory is scratch: the next step is as if nothing had been."""
    x = np.random.default_rng(0).standard_normal((4, 2, 2))
    results, lines = [], []
    for _ in range(2):  # the second is interrupted at lines of the first
        layer = LSTM(2, 2, 2, dropout=0.5, rng=0)
        trainer = TBPTT(layer, mean_squared_error, optim.Adam(layer.params), k1=2, k2=3)
        trainer.step(x[:2], x[:2])
        for position in positions(lines)[50:300:100]:
            interrupt(lambda: trainer.step(x[2:], x[2:]), position)  # noqa: B023 - called at once
        lines = run_lines(lambda: trainer.step(x[2:], x[2:]))  # noqa: B023 - called at once
        results.append(layer.params.flat.copy())
    assert_same_bits(*results)
