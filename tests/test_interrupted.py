"""An exception between any two lines, as Ctrl-C is one, leaves a step that was made or one that was not."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
from registry import assert_same, assert_same_bits

import rnnfast
from rnnfast import LSTM, TBPTT, Dense, Model, optim
from rnnfast.losses import mean_squared_error

WATCHED = (str(Path(rnnfast.__file__).parent), "contextlib.py")
OPTIMIZERS = {
    "sgd": lambda params: optim.SGD(params, 0.1, momentum=0.9),
    "rmsprop": lambda params: optim.RMSprop(params, momentum=0.9),
    "adam": lambda params: optim.Adam(params, 0.1),
}


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, so that a real one still stops the tests."""


def traced(call, at=None):
    """Call; the lines run. With `at`, an exception before the line of that number."""
    lines = []

    def watch(frame, event, _):
        if not frame.f_code.co_filename.startswith(WATCHED[0]) and not frame.f_code.co_filename.endswith(WATCHED[1]):
            return None
        if event == "line":
            lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(lines) - 1 == at:
                raise Interrupt
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        call()
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
    return lines


def positions(lines):
    """The first and the last time that each line is run."""
    first = {line: number for number, line in reversed(list(enumerate(lines)))}
    last = {line: number for number, line in enumerate(lines)}
    return sorted({*first.values(), *last.values()})


def interrupted_everywhere(make, call, look):
    """Both that nothing has changed and that all has must be found, and nothing else."""
    thing = make()
    before = look(thing)
    lines = traced(lambda: call(thing))
    after = look(thing)
    found = set()
    for position in positions(lines):
        thing = make()
        traced(lambda: call(thing), position)  # noqa: B023 - called at once
        now = look(thing)
        if same(now, before):
            found.add("before")
        else:
            assert same(now, after), f"a half step: interrupted at {lines[position]}"
            found.add("after")
    assert found == {"before", "after"}


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
    results = []
    for interrupted in (False, True):
        layer = LSTM(2, 2, 2, dropout=0.5, rng=0)
        trainer = TBPTT(layer, mean_squared_error, optim.Adam(layer.params), k1=2, k2=3)
        trainer.step(x[:2], x[:2])
        if interrupted:
            for position in (50, 150, 250):
                traced(lambda: trainer.step(x[2:], x[2:]), position)  # noqa: B023 - called at once
        trainer.step(x[2:], x[2:])
        results.append(layer.params.flat.copy())
    assert_same_bits(*results)
