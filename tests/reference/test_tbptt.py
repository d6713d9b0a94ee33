"""The oracle's truncated BPTT against its definition, followed with finite differences."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from reference_problems import IN, RESETS, WEIGHTS, B, H, T, check_gradient

from rnnfast import reference

STEPS, OUTPUTS = 7, 3


def tbptt_case(kind, loss, seed=26):
    rng = np.random.default_rng(seed)
    params = {f"rnn.{name}": 2 * p for name, p in reference.init_stack_params(kind, IN, H, rng).items()}
    params |= {"head.weight": rng.normal(size=(OUTPUTS, H)), "head.bias": rng.normal(size=OUTPUTS)}
    x = rng.normal(size=(STEPS, B, IN))
    shape = (STEPS, B, OUTPUTS)
    target = rng.normal(size=shape) if loss == "mse" else rng.integers(0, OUTPUTS, shape[:2])
    masks = {"resets": rng.random((STEPS, B)) < 0.25, "lengths": np.array([7, 4, 1])}
    return params, x, target, masks


def layer_pass(kind, params, x, state, resets, lengths):
    own = {name[4:-3]: value for name, value in params.items() if name.startswith("rnn.")}
    return reference.forward(kind, own, x, *state, resets=resets, lengths=lengths)


def window_loss(kind, params, x, target, state, masks, loss, window):
    """The loss of the steps [begin, end) of a pass over [start, end), entry by entry."""
    start, begin, end = window
    lengths = np.clip(masks["lengths"] - start, 0, end - start)
    result = layer_pass(kind, params, x[start:end], state, masks["resets"][start:end], lengths)
    losses = []
    for t, b in product(range(begin, end), range(B)):
        if t < masks["lengths"][b]:
            output = params["head.weight"] @ result.y[t - start, b] + params["head.bias"]
            if loss == "mse":
                losses.append(((output - target[t, b]) ** 2).mean())
            else:
                losses.append(math.log(np.exp(output).sum()) - output[target[t, b]])
    return sum(losses) / len(losses) if losses else 0.0


def states_of_pass(kind, params, x, state, masks, start, end):
    """The state before every step of a pass over [start, end], from calls of every length."""
    states = {}
    for stop in range(start, end + 1):
        lengths = np.clip(masks["lengths"] - start, 0, stop - start)
        result = layer_pass(kind, params, x[start:stop], state, masks["resets"][start:stop], lengths)
        states[stop] = result.state
    return states


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 3), (3, 5), (2, 7), (4, 4), (7, 7), (9, 12)])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("kind", ["elman_tanh", "lstm", "gru_before"])
def test_tbptt_windows_by_finite_differences(kind, loss, k1, k2):
    """Follow the definition with finite differences for gradients, and the states of passes kept in full."""
    params, x, target, masks = tbptt_case(kind, loss)
    beyond = ~reference.lengths_mask(masks["lengths"], STEPS, B)
    x[beyond], target[beyond] = np.nan, np.nan if loss == "mse" else -9
    lr = 0.1
    windows = reference.tbptt_reference(kind, params, x, target, loss=loss, k1=k1, k2=k2, lr=lr, **masks)
    count = 2 if kind == "lstm" else 1
    states = {0: (np.zeros((B, H)),) * count}
    assert [window.end for window in windows] == [*range(k1, STEPS, k1), STEPS]
    for window in windows:
        ranges = (window.start, window.begin, window.end)
        assert ranges == (max(0, window.end - k2), (window.end - 1) // k1 * k1, window.end)
        state = states[window.start]
        arguments = (x, target, state, masks, loss, ranges)
        assert window.loss == pytest.approx(window_loss(kind, params, *arguments), rel=1e-13, abs=1e-15)
        for name in ("rnn.weight_hh_l0", "head.weight"):

            def loss_at(moved, name=name, params=params, arguments=arguments):
                return window_loss(kind, params | {name: moved}, *arguments)

            check_gradient(loss_at, params[name], window.gradients[name])
        states = states_of_pass(kind, params, x, state, masks, window.start, window.end)
        assert set(window.params) == set(params)
        for parameter, value in params.items():
            np.testing.assert_array_equal(window.params[parameter], value - lr * window.gradients[parameter])
        params = window.params


def test_tbptt_all_gradients_of_the_whole():
    """k1 = k2 = T is full backpropagation through time; here with two layers, an initial state and weights."""
    rng = np.random.default_rng(27)
    params = {f"rnn.{n}": p for n, p in reference.init_stack_params("lstm", IN, H, rng, num_layers=2).items()}
    params |= {"head.weight": rng.normal(size=(OUTPUTS, H))}
    x, target = rng.normal(size=(T, B, IN)), rng.normal(size=(T, B, OUTPUTS))
    state = (rng.normal(size=(2, B, H)), rng.normal(size=(2, B, H)))
    options = {"loss": "mse", "k1": T, "lr": 0.5, "num_layers": 2, "state": state, "mask": WEIGHTS, "resets": RESETS}

    def loss(params):
        return reference.tbptt_reference("lstm", params, x, target, **options)[0].loss

    (window,) = reference.tbptt_reference("lstm", params, x, target, **options)
    for name, value in params.items():
        check_gradient(lambda moved, name=name: loss(params | {name: moved}), value, window.gradients[name])


def test_tbptt_learning_rate_zero_carries_the_state_of_the_whole_pass():
    params, x, target, masks = tbptt_case("gru_after", "mse")
    whole, *_ = reference.tbptt_reference("gru_after", params, x, target, loss="mse", k1=STEPS, lr=0, **masks)
    windows = reference.tbptt_reference("gru_after", params, x, target, loss="mse", k1=2, k2=3, lr=0, **masks)
    entries = [reference.lengths_mask(masks["lengths"], STEPS, B)[w.begin : w.end].sum() for w in windows]
    mean = sum(n * w.loss for n, w in zip(entries, windows, strict=True)) / sum(entries)
    assert mean == pytest.approx(whole.loss, rel=1e-14)


def test_tbptt_window_without_entries_changes_nothing():
    params, x, target, _ = tbptt_case("lstm", "mse")
    mask = np.ones((STEPS, B))
    mask[2:4] = 0
    target[2:4] = np.nan
    windows = reference.tbptt_reference("lstm", params, x, target, loss="mse", k1=2, lr=0.1, mask=mask)
    assert windows[1].loss == 0
    assert not any(np.any(value) for value in windows[1].gradients.values())
    for name, value in windows[0].params.items():
        np.testing.assert_array_equal(windows[1].params[name], value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1"),
        ({"k1": 2, "k2": 1}, "k2"),
        ({"k1": 2, "loss": "l1"}, "loss"),
        ({"k1": 2, "num_layers": 2}, "miss"),
    ],
)
def test_tbptt_errors(options, message):
    params, x, target, _ = tbptt_case("lstm", "mse")
    with pytest.raises(ValueError, match=message):
        reference.tbptt_reference("lstm", params, x, target, **{"loss": "mse", "lr": 0.1} | options)
