"""The definition of learning while a sequence runs: exact where it says so, and by hand for one unit."""

from __future__ import annotations

import numpy as np
import pytest
from registry import DESCRIPTIONS, KINDS, assert_close

from rnnfast import reference

T, B, I = 4, 2, 3  # noqa: E741


def problem(kind, hidden=4, steps=T):
    cell, rng = DESCRIPTIONS[kind], np.random.default_rng(KINDS.index(kind))
    hidden = -(-hidden // cell.heads) * cell.heads
    params = reference.init_params(cell, I, hidden, rng)
    program = cell.program()
    widths = {"hidden": hidden} | dict(cell.widths)
    x = rng.standard_normal((steps, B, I))
    dy = rng.standard_normal((steps, B, widths[program.domains[program.states[0].domain]]))
    names = [None if one.domain is None else program.domains[one.domain] for one in program.given]
    given = [rng.random((steps, B, *([] if name is None else [widths[name]]))) for name in names]
    return cell, params, x, dy, given


@pytest.mark.parametrize("kind", KINDS)
def test_exact_influence_gives_the_gradient_of_backpropagation(kind):
    cell, params, x, dy, given = problem(kind)
    found = reference.online_reference(cell, params, x, dy, given=given)
    result = reference.forward(cell, params, x, given=given)
    assert_close(found.y, result.y, 1e-12)
    expected = reference.backward(result, dy).params
    for name, value in expected.items():
        assert_close(sum(step[name] for step in found.gradients), value, 1e-6)


def test_each_step_has_the_gradient_of_its_own_loss():
    cell, params, x, dy, _ = problem("lstm")
    found = reference.online_reference(cell, params, x, dy)
    for t in range(T):
        alone = np.zeros_like(dy)
        alone[t] = dy[t]
        expected = reference.backward(reference.forward(cell, params, x), alone).params
        for name, value in expected.items():
            assert_close(found.gradients[t][name], value, 1e-6)


def test_methods_of_one_unit_by_hand():
    """h' = tanh(w x + u h): influence of w is p' = (1 - h'^2) (x + u p), without the term in u for RFLO."""
    params = {"weight_ih": [[0.7]], "weight_hh": [[-0.4]]}
    x, dy = np.array([1.0, -2.0, 0.5]).reshape(3, 1, 1), np.ones((3, 1, 1))
    h = p = local = 0.0
    found = {m: reference.online_reference("elman_tanh", params, x, dy, method=m) for m in ("rtrl", "snap1", "rflo")}
    for t in range(3):
        h = np.tanh(0.7 * x[t, 0, 0] - 0.4 * h)
        p, local = (1 - h * h) * (x[t, 0, 0] - 0.4 * p), (1 - h * h) * x[t, 0, 0]
        for method, expected in (("rtrl", p), ("snap1", p), ("rflo", local)):
            assert found[method].gradients[t]["weight_ih"][0, 0] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kind", ["elman_tanh", "lstm", "gru_after", "gru_before", "mgu"])
def test_snap_is_exact_where_units_are_apart(kind):
    cell, params, x, dy, given = problem(kind)
    size = params["weight_hh"].shape[1]
    params["weight_hh"] *= np.tile(np.eye(size), (len(params["weight_hh"]) // size, 1))
    exact, snap = (reference.online_reference(cell, params, x, dy, method=m, given=given) for m in ("rtrl", "snap1"))
    for one, other in zip(snap.gradients, exact.gradients, strict=True):
        for name in one:
            if name != "weight_hh":
                assert_close(one[name], other[name], 1e-6)
        mask = np.tile(np.eye(size), (len(params["weight_hh"]) // size, 1))
        assert_close(one["weight_hh"] * mask, other["weight_hh"] * mask, 1e-6)
