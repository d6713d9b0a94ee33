"""A cell's cheap call: every form of it is the same step, and its class may be given another `__call__`."""

from functools import partial

import numpy as np
import pytest

import rnnfast
from rnnfast.parameters import Store

CELLS = [rnnfast.RNNCell, rnnfast.GRUCell, rnnfast.LSTMCell]


def a_step(kind, batch=(3,)):
    """A cell, an input, a state, room for the next, and the next as `forward` computes it."""
    rng = np.random.default_rng(1)
    cell = kind(5, 7, rng=0)
    x = rng.standard_normal((*batch, 5), dtype=np.float32)
    halves = [rng.standard_normal((*batch, 7), dtype=np.float32) for _ in range(1 + (kind is rnnfast.LSTMCell))]
    state, out = pack(halves), pack([np.empty_like(half) for half in halves])
    return cell, x, state, out, data(cell.forward(x, state)[0])


def pack(halves):
    return tuple(halves) if len(halves) == 2 else halves[0]


def data(state):
    return b"".join(half.tobytes() for half in (state if isinstance(state, tuple) else (state,)))


@pytest.mark.parametrize("batch", [(3,), (1,), ()])
@pytest.mark.parametrize("kind", CELLS)
def test_all_forms_of_a_call_are_one_step(kind, batch):
    cell, x, state, out, wanted = a_step(kind, batch)
    for _ in range(2):  # the second time by the cheap way
        for call in (
            lambda: cell(x, state),
            lambda: cell(x, state=state),
            lambda: cell(x=x, state=state),
            lambda: cell(x, state, out=None),
            lambda: cell(x, state, None),
            lambda: cell(x, state, out),
            lambda: cell(x, out=out, state=state),
            lambda: cell(state=state, out=out, x=x),
            lambda: cell(*(x, state), **{"".join(["o", "ut"]): out}),
            lambda: cell.__call__(x, state),
            lambda: partial(cell, x, out=out)(state),
            lambda: next(map(cell, [x], [state])),
        ):
            for half in out if isinstance(out, tuple) else (out,):
                half.fill(np.nan)
            assert data(call()) == wanted
        assert cell(x, state, out=out) is out
        assert data(out) == wanted
        zeros = pack([np.zeros_like(half) for half in (state if isinstance(state, tuple) else (state,))])
        assert data(cell(x)) == data(cell(x, None)) == data(cell(x, zeros)) == data(cell(x, state=None))


def test_a_wrong_call_says_what_is_wrong():
    cell, x, state, out, wanted = a_step(rnnfast.GRUCell)
    before, locked = data(state), np.zeros_like(out)
    locked.flags.writeable = False
    for _ in range(2):  # the second time with the machinery of the cheap way at hand
        for call, message in (
            (lambda: cell(), "at least 1 positional argument"),
            (lambda: cell(x, state, out, None), "at most 3 positional arguments"),
            (lambda: cell(x, state, out, out=out), "out"),
            (lambda: cell(x, state, state), r"out: expected memory of its own, .* shares with state"),
            (lambda: cell(x, state, state=state), "state"),
            (lambda: cell(x, x=x), "x"),
            (lambda: cell(x, state, into=out), "unexpected keyword argument 'into'"),
            (lambda: cell(x, out=out[:2]), r"out: expected"),
            (lambda: cell(x, state, out=state), r"out: expected memory of its own, .* shares with state"),
            (lambda: cell(x, state, out=locked), r"out: expected"),
            (lambda: cell(x, state, out=(out, out)), r"out: expected .* got tuple \(array\(\[\[9"),
            (lambda: cell(x, state[:2], out=out), r"state: expected"),
            (lambda: cell(out=out), "x|positional"),
        ):
            out.fill(9)
            with pytest.raises((TypeError, ValueError), match=message) as refused:
                call()
            assert (out == 9).all()
            assert data(state) == before
            assert "\n" not in str(refused.value)
        assert data(cell(x, state)) == wanted


def test_a_class_may_have_its_own_call():
    class Twice(rnnfast.GRUCell):
        def __call__(self, x, state=None, *, out=None):
            return super().__call__(x, super().__call__(x, state), out=out)

    class Plain(Twice):
        pass

    cell, x, state, _, _ = a_step(rnnfast.GRUCell)
    for kind in (Twice, Plain):
        twice = kind(5, 7, rng=0)
        for _ in range(3):
            assert data(twice(x, state)) == data(cell(x, cell(x, state)))


def test_a_class_may_be_given_another_call():
    class Mine(rnnfast.LSTMCell):
        pass

    _, x, state, out, wanted = a_step(rnnfast.LSTMCell)
    cell = Mine(5, 7, rng=0)
    assert data(cell(x, state)) == data(cell(x, state)) == wanted
    Mine.__call__ = lambda self, *arguments, **options: (arguments, options)
    assert cell(x, state, out=out) == ((x, state), {"out": out})
    del Mine.__call__
    assert data(cell(x, state)) == data(cell(x, state)) == wanted


def test_a_cell_sees_its_parameters_change_and_move():
    cell, x, state, _, wanted = a_step(rnnfast.RNNCell)
    cell(x, state)
    assert data(cell(x, state)) == wanted
    store = Store(cell.params.size + 3, np.float32)
    cell.params.adopt(store, 3)
    assert data(cell(x, state)) == data(cell(x, state)) == wanted
    cell.update({"bias_ih": np.ones(7)})
    assert data(cell(x, state)) == data(cell(x, state)) == data(cell.forward(x, state)[0]) != wanted
    with pytest.raises(ZeroDivisionError), cell.params.in_place() as flat:
        flat[:] = 0
        _ = 1 / 0
    assert not cell(x, state).any()
