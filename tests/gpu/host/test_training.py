"""Heads, models and truncated backpropagation on the device."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from host_kernel import B, H, I, T, normal, on_device, pair, same
from registry import assert_close, assert_same_bits, map_state

import rnnfast
from rnnfast import losses, optim
from rnnfast.cuda.arrays import to_device, to_host


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "softmax"])
def test_heads(activation):
    here, there = (rnnfast.Dense(I, 2, activation=activation, rng=1, device=place) for place in ("cpu", "cuda"))
    x, dy = normal(T, B, I), normal(T, B, 2)
    y, tape = here.forward(x)
    grads = here.backward(tape, dy)
    for as_given in (np.asarray, to_device):
        found, tape = there.forward(as_given(x))
        found_grads = there.backward(tape, as_given(dy))
        assert on_device(found, found_grads.x) == (as_given is to_device)
        assert_close(to_host(found), y.astype(np.float64), 1e-5)
        assert_close(to_host(found_grads.x), grads.x.astype(np.float64), 1e-4)
        assert_close(to_host(found_grads.params.flat), grads.params.flat.astype(np.float64), 1e-4)
        added = there.backward(there.forward(as_given(x))[1], as_given(dy), into=found_grads.params)
        assert_close(to_host(added.params.flat), 2.0 * grads.params.flat, 1e-4)
    assert there(np.zeros((0, I))).shape == (0, 2)


def models(**options):
    for name in ("cpu", "cuda"):
        yield rnnfast.Model(
            rnn=rnnfast.LSTM(I, H, rng=1, device=name, **options),
            head=rnnfast.Dense(H, I, activation="softmax", rng=2, device=name),
        )


@pytest.mark.parametrize("batch_first", [False, True])
def test_models(batch_first):
    here, there = models(batch_first=batch_first)
    shape = (B, T) if batch_first else (T, B)
    x, dy, lengths = normal(*shape, I), normal(*shape, I), np.array([4, 0, 2])
    state = {"rnn": (normal(1, B, H), normal(1, B, H, seed=3))}
    resets = np.zeros(shape, bool)
    resets[1, 1] = True
    y, final, tape = here.forward(x, state, lengths=lengths, resets=resets)
    grads = here.backward(tape, dy, final)
    for as_given in (np.asarray, to_device):
        given = {name: map_state(as_given, part) for name, part in state.items()}
        masks = {"lengths": as_given(lengths), "resets": as_given(resets)}
        out = as_given(np.empty_like(y))
        found, found_final, tape = there.forward(as_given(x), given, **masks, out=out)
        found_grads = there.backward(tape, as_given(dy), found_final)
        assert found is out
        assert on_device(found_final["rnn"], found_grads.state["rnn"]) == (as_given is to_device)
        assert_close(to_host(found), y.astype(np.float64), 1e-5)
        same(map_state(to_host, found_final["rnn"]), final["rnn"])
        assert_close(to_host(found_grads.x), grads.x.astype(np.float64), 1e-4)
        assert_close(to_host(found_grads.params.flat), grads.params.flat.astype(np.float64), 1e-4)
    with pytest.raises(ValueError, match=r"x: expected ids in 0..2, got 3"):
        there(np.full((T, B), I), ids=True)
    with pytest.raises(TypeError, match=r"state.*: expected an array on the CUDA device"):
        there(to_device(x), state)


@pytest.mark.parametrize("k2", [2, 5])
def test_training_stays_on_the_device(k2, no_way_back):
    """The same training as on the host, from windows of either place; nothing but losses and norms is read back."""
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, I, (7, B)), rng.integers(0, I, (7, B))
    masks = {"resets": rng.random((7, B)) < 0.2, "lengths": np.array([7, 5, 6])}
    results = []
    for as_given, place in ((np.asarray, 0), (np.asarray, 1), (to_device, 1)):
        model = list(models())[place]
        trainer = rnnfast.TBPTT(
            model, losses.softmax_cross_entropy, optim.Adam(model.params), k1=2, k2=k2, clip_norm=0.5, logits=True
        )
        given = {name: as_given(mask) for name, mask in masks.items()}
        seen = list(trainer.run(as_given(ids), as_given(targets), **given))
        trainer.reset([1])
        seen.append(trainer.step(as_given(ids[:2]), as_given(targets[:2])))
        assert all(isinstance(result.loss, float) for result in seen)
        assert on_device(*(result.state["rnn"] for result in seen)) == bool(place)
        results.append(([(result.loss, float(result.grad_norm)) for result in seen], to_host(model.params.flat)))
    for numbers, flat in results[1:]:
        np.testing.assert_allclose(numbers, results[0][0], rtol=1e-4)
        assert_close(flat, results[0][1].astype(np.float64), 1e-4)


def test_gradients_that_are_not_finite():
    """They are refused, skipped or applied as on the host."""
    x, target = normal(4, B, I), normal(4, B, I)
    x[3, 1, 0] = np.nan
    resets = np.zeros((2, B), bool)
    resets[0, 1] = True
    for as_given in (np.asarray, to_device):
        model = list(models())[1]
        trainer = rnnfast.TBPTT(model, losses.mean_squared_error, optim.Adam(model.params), k1=2, nonfinite="skip")
        windows = [[as_given(array[t : t + 2]) for array in (x, target)] for t in (0, 2)]
        trainer.step(*windows[0])
        before, state = to_host(model.params.flat).copy(), to_host(trainer.state["rnn"][0]).copy()
        result = trainer.step(*windows[1], resets=as_given(resets))
        assert (result.updated, result.skipped) == (False, 1)
        assert not np.isfinite(float(result.grad_norm))
        found = to_host(trainer.state["rnn"][0])
        assert not found[:, 1].any()
        assert_same_bits(found[:, 0].copy(), state[:, 0].copy())
        assert_same_bits(to_host(model.params.flat), before)
        trainer._nonfinite = "raise"
        with pytest.raises(rnnfast.tbptt.NonFiniteError, match=r"x: expected finite numbers, got nan at \[1, 1, 0\]"):
            trainer.step(*windows[1])
        assert_same_bits(to_host(model.params.flat), before)
        assert not trainer.step(*windows[0], mask=as_given(np.zeros((2, B)))).updated
        assert_same_bits(to_host(model.params.flat), before)


def test_a_trainers_state_goes_through_the_host():
    ids, targets = (np.random.default_rng(seed).integers(0, I, (8, B)) for seed in (0, 1))

    def trainer():
        model = list(models())[1]
        return rnnfast.TBPTT(
            model, losses.softmax_cross_entropy, optim.SGD(model.params, 0.1), k1=2, k2=3, logits=True
        ), model

    whole, model = trainer()
    expected = [result.loss for result in whole.run(ids, targets)]
    first, between = trainer()
    seen = [first.step(ids[t : t + 2], targets[t : t + 2]).loss for t in (0, 2)]
    carried = first.state_dict()
    assert type(carried["context"][0]["x"]) is np.ndarray
    second, after = trainer()
    second.load_state_dict(pickle.loads(pickle.dumps(carried)))
    after.params.assign(between.params.flat)
    seen += [second.step(ids[t : t + 2], targets[t : t + 2]).loss for t in (4, 6)]
    assert seen == expected
    assert_same_bits(to_host(after.params.flat), to_host(model.params.flat))
    second.state = {"rnn": (normal(1, B, H), normal(1, B, H))}
    assert on_device(second.state["rnn"])
    with pytest.raises(ValueError, match=r"x: expected ids in 0..2"):
        second.step(np.full((2, B), I), targets[:2])


def test_windows_of_a_stream_on_the_device(no_way_back):
    ids = np.arange(20)
    for (x, target), (x_there, target_there) in zip(
        rnnfast.tbptt.stateful_batches(ids, 2, 4),
        rnnfast.tbptt.stateful_batches(to_device(ids), 2, 4),
        strict=True,
    ):
        assert on_device(x_there, target_there)
        assert_same_bits(to_host(x_there), x)
        assert_same_bits(to_host(target_there), target)


def test_gradient_norms():
    here, there = pair("gru_after")
    x, dy = normal(T, B, I), normal(B, H)
    expected = rnnfast.tbptt.gradient_norm_by_distance(here, x, dy)
    for as_given in (np.asarray, to_device):
        np.testing.assert_array_equal(
            rnnfast.tbptt.gradient_norm_by_distance(there, as_given(x), as_given(dy)), expected
        )


def test_dropout_is_decided_by_the_seed():
    def run(seed):
        layer = rnnfast.GRU(I, 64, 2, dropout=0.25, rng=seed, device="cuda")
        y, _, tape = layer.forward(np.ones((8, 8, I)))
        return y, to_host(tape._recording.dropout[0])

    (y, mask), (again, mask_again), (_, other) = run(3), run(3), run(4)
    assert_same_bits(again, y)
    assert_same_bits(mask_again, mask)
    assert (mask != other).any()
    assert set(np.unique(mask)) == {0, np.float32(4 / 3)}
    assert abs((mask == 0).mean() - 0.25) < 0.03  # 4096 draws: 0.007 is a standard deviation
