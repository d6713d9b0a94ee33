"""Skipped steps, extra inputs, and random masks in the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from reference_problems import KINDS, close

from rnnfast import reference
from rnnfast.description import Cell, Given, State, Wrapped
from rnnfast.description.functions import tanh
from rnnfast.reference.random import mix, uniform

T, B, I, H = 7, 3, 2, 5  # noqa: E741


def problem(cell, seed=50):
    rng = np.random.default_rng(seed)
    params = reference.init_params(cell, I, H, rng)
    state = [rng.normal(size=(B, H)) for _ in reference.cells.cell_of(cell).program().states]
    return rng, params, rng.normal(size=(T, B, I)), state


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_skipped_steps_are_as_if_they_were_not_there(kind, reverse):
    rng, params, x, state = problem(kind)
    skip = rng.random((T, B)) < 0.4
    skip[:, 2] = True
    x[skip] = np.nan  # a skipped step's input takes no part
    result = reference.forward(kind, params, np.nan_to_num(x), *state, skip=skip, reverse=reverse)
    dy, *dstate = (rng.normal(size=array.shape) for array in (result.y, *result.state))
    gradients = reference.backward(result, dy, *dstate)
    for b in range(B):
        steps = np.flatnonzero(~skip[:, b])
        one = [part[[b]] for part in state]
        alone = reference.forward(kind, params, x[steps][:, [b]], *one, reverse=reverse)
        close(result.y[steps, b], alone.y[:, 0], 1e-14)
        for final, expected in zip(result.state, alone.state, strict=True):
            close(final[b], expected[0], 1e-14)
        assert not gradients.dx[skip[:, b], b].any()
    before = np.concatenate([state[0][None], result.y[:-1]])
    after = np.concatenate([result.y[1:], state[0][None]])
    np.testing.assert_array_equal(result.y[skip], (after if reverse else before)[skip])
    for d, final, total in zip(gradients.dstate, dstate, (dy[:, 2].sum(axis=0), 0.0), strict=False):
        close(d[2], final[2] + total, 1e-14)


def test_a_reset_at_a_skipped_step_counts():
    _, params, x, state = problem("lstm")
    resets, skip = np.zeros((2, T, B), bool)
    resets[3], skip[3] = True, True
    result = reference.forward("lstm", params, x, *state, resets=resets, skip=skip)
    assert not any(output[3].any() for output in result.outputs)
    later = np.zeros((T, B), bool)
    later[4] = True
    expected = reference.forward("lstm", params, x, *state, resets=later)
    np.testing.assert_array_equal(result.y[4:], expected.y[4:])


class Fed(Cell):
    """Extra inputs of both kinds, in a width of its own."""

    states = (State("h"),)
    gates = ("h",)
    given = (Given("number"), Given("row", width="hidden"))

    def step(self, gate, given):
        return tanh(gate.h * given.number + given.row)


def test_extra_inputs_by_hand():
    given = (np.full((1, 1), 2.0), np.full((1, 1, 1), 0.25))
    params = {"weight_ih": [[0.5]], "weight_hh": [[1.0]]}
    result = reference.forward(Fed(), params, [[[1.0]]], [[0.125]], given=given)
    assert result.y.item() == pytest.approx(np.tanh(2 * 0.625 + 0.25))
    gradients = reference.backward(result, [[[1.0]]])
    slope = 1 - np.tanh(1.5) ** 2
    number, row = gradients.dgiven
    assert number.shape == (1, 1) and number.item() == pytest.approx(0.625 * slope)
    assert row.shape == (1, 1, 1) and row.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), r"given: expected the arrays \['number', 'row'\], got 0 arrays"),
        ((np.zeros((T, B, 1)), np.zeros((T, B, H))), "given number: expected shape"),
        ((np.zeros((T, B)), np.zeros((T, B))), "given row: expected shape"),
    ],
)
def test_extra_inputs_that_are_refused(given, message):
    _, params, x, _ = problem(Fed())
    with pytest.raises(ValueError, match=message):
        reference.forward(Fed(), params, x, given=given)


def test_zoneout_keeps_what_its_numbers_say():
    cell, p = Wrapped(reference.CELLS["lstm"], zoneout={"c": 0.5, "h": 0.25}), {"h": 0.25, "c": 0.5}
    _, params, x, state = problem(cell)
    result = reference.forward(cell, params, x, *state, training=True, seed=7, layer=2, first_step=11)
    before = state
    for t in range(T):
        plain = reference.forward("lstm", params, x[[t]], *before)
        mean = reference.forward(cell, params, x[[t]], *before)
        for number, name in enumerate("hc"):
            keys = mix(7, 2, number, 11 + t, np.arange(B))
            keep = uniform(keys[:, None], np.arange(H)) < p[name]
            expected = np.where(keep, before[number], plain.state[number])
            np.testing.assert_array_equal(result.outputs[number][t], expected)
            assert 0 < keep.sum() < keep.size
            between = p[name] * before[number] + (1 - p[name]) * plain.state[number]
            close(mean.state[number], between, 1e-15)
        before = [output[t] for output in result.outputs]


@pytest.mark.parametrize("kind", ["elman_tanh", "gru_after"])
def test_recurrent_dropout_drops_the_same_units_at_all_steps(kind):
    cell = Wrapped(reference.CELLS[kind], recurrent_dropout=0.5)
    _, params, x, state = problem(cell)
    result = reference.forward(cell, params, x, *state, training=True, seed=3, layer=1)
    keys = mix(3, 1, 1, -1, np.arange(B))
    scale = np.where(uniform(keys[:, None], np.arange(H)) < 0.5, 0.0, 2.0)
    assert 0 < (scale == 0).sum() < scale.size
    for b in range(B):
        seen = params | {"weight_hh": params["weight_hh"] * scale[b]}
        expected = reference.forward(kind, seen, x[:, [b]], state[0][[b]])
        close(result.y[:, b], expected.y[:, 0], 1e-14)
    inference = reference.forward(cell, params, x, *state)
    np.testing.assert_array_equal(inference.y, reference.forward(kind, params, x, *state).y)


def test_chunks_draw_the_masks_of_the_whole():
    cell = Wrapped(reference.CELLS["gru_before"], zoneout=0.3, recurrent_dropout=0.3)
    _, params, x, state = problem(cell)
    options = {"training": True, "seed": 5}
    whole = reference.forward(cell, params, x, *state, **options)
    first = reference.forward(cell, params, x[:3], *state, **options)
    second = reference.forward(cell, params, x[3:], *first.state, **options, first_step=3)
    np.testing.assert_array_equal(np.concatenate([first.y, second.y]), whole.y)
    other = reference.forward(cell, params, x, *state, training=True, seed=6)
    assert (other.y != whole.y).any()


def test_clip_bounds_the_new_states():
    cell = Wrapped(reference.CELLS["lstm"], clip={"c": 0.1})
    _, params, x, state = problem(cell)
    result = reference.forward(cell, params, x, *state)
    assert np.abs(result.outputs[1]).max() == 0.1 > 0.0
    plain = reference.forward("lstm", params, x[:1], *state)
    np.testing.assert_array_equal(result.outputs[0][0], plain.y[0])
    np.testing.assert_array_equal(result.outputs[1][0], np.clip(plain.outputs[1][0], -0.1, 0.1))


def test_backward_of_random_masks_needs_training():
    cell = Wrapped(reference.CELLS["lstm"], zoneout=0.3)
    _, params, x, state = problem(cell)
    result = reference.forward(cell, params, x, *state)
    with pytest.raises(ValueError, match="result: expected one of forward"):
        reference.backward(result, result.y)


def test_layers_of_a_stack_draw_different_masks_and_share_what_is_given():
    cell = Wrapped(reference.CELLS["elman_tanh"], zoneout=0.5)
    rng = np.random.default_rng(51)
    params = reference.init_stack_params(cell, I, H, rng, num_layers=2, bidirectional=True)
    x, skip = rng.normal(size=(T, B, I)), rng.random((T, B)) < 0.3
    options = {"training": True, "seed": 4, "first_step": 2, "skip": skip}
    result = reference.stack_forward(cell, params, x, num_layers=2, bidirectional=True, **options)
    own = {name: params[f"{name}_l1_reverse"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    below = np.concatenate([one.y for one in result.layers[0]], axis=2)
    expected = reference.forward(cell, own, below, layer=3, reverse=True, **options)
    np.testing.assert_array_equal(result.y[:, :, H:], expected.y)

    stacked = reference.init_stack_params(Fed(), I, H, rng, num_layers=2)
    given = (rng.normal(size=(T, B)), rng.normal(size=(T, B, H)))
    found = reference.stack_forward(Fed(), stacked, x, num_layers=2, given=given)
    dgiven = reference.stack_backward(found, found.y).dgiven

    def loss(number):
        moved = reference.stack_forward(Fed(), stacked, x, num_layers=2, given=(number, given[1])).y
        return float((moved * found.y).sum())

    close(dgiven[0], reference.numerical_gradient(loss, given[0]))
