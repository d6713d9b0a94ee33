"""Dropout between layers: a function of seed, layer, step, row and unit, whatever the device and the chunks."""

from __future__ import annotations

import numpy as np
import pytest
from registry import assert_close, assert_same_bits

from rnnfast import GRU, LSTM, TBPTT, Dense, Model, _flat, losses, optim, reference
from rnnfast.reference import random

SEED, STREAM = 2**63 - 5, 2**32


def masks_of(T, B, units, *, layer, first_step=0, p, dtype=np.float64, seed=SEED):
    """By the readable integers."""
    keys = random.mix(seed, layer, STREAM, first_step + np.arange(T)[:, None], np.arange(B))
    kept = random.uniform(keys[..., None], np.arange(units)) >= p
    return kept * dtype(1 / (1 - p) if p < 1 else 0)


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_compiled_loop_has_the_oracles_numbers(p, dtype):
    for T, B, units in ((0, 2, 3), (2, 0, 3), (1, 1, 1), (3, 2, 7), (5, 3, 100), (2, 9, 17)):
        found = np.full((T, B, units), np.nan, dtype)
        _flat.dropout(found, SEED, 3, STREAM, 7, p)
        assert_same_bits(found, masks_of(T, B, units, layer=3, first_step=7, p=p, dtype=dtype))
    large = np.empty((40, 50, 50))
    _flat.dropout(large, 1, 1, STREAM, 0, p)
    assert abs((large == 0).mean() - p) < 5 * np.sqrt(p * (1 - p) / large.size) + 1e-12


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("H", [1, 7, 100])
def test_layers_agree_with_the_oracle(H, bidirectional):
    T, B, I = 6, 3, 4  # noqa: E741
    rng = np.random.default_rng(0)
    options = {"num_layers": 3, "bidirectional": bidirectional}
    layer = LSTM(I, H, dropout=0.4, dtype=np.float64, rng=0, **options)
    x, lengths = rng.standard_normal((T, B, I)), np.array([6, 2, 0])
    width = H * (1 + bidirectional)
    masks = [masks_of(T, B, width, layer=above, first_step=9, p=0.4) for above in (1, 2)]
    cell, params = layer.cell, dict(layer.params)
    expected = reference.stack_forward(cell, params, x, dropout_masks=masks, lengths=lengths, **options)
    y, _, tape = layer.forward(x, lengths=lengths, seed=SEED, first_step=9)
    assert_close(y, expected.y, 1e-12)
    dy = rng.standard_normal(y.shape)
    grads, wanted = layer.backward(tape, dy), reference.stack_backward(expected, dy)
    assert_close(grads.x, wanted.dx, 1e-11)
    for name in params:
        assert_close(grads.params[name], wanted.params[name], 1e-11)


def test_chunks_of_one_seed_have_the_masks_of_the_whole():
    layer = GRU(3, 9, 3, dropout=0.5, rng=0)
    x = np.random.default_rng(0).standard_normal((9, 4, 3)).astype(np.float32)
    y, final, _ = layer.forward(x, seed=5)
    state, chunks = None, []
    for begin, end in ((0, 1), (1, 5), (5, 9)):
        chunk, state, _ = layer.forward(x[begin:end], state, seed=5, first_step=begin)
        chunks.append(chunk)
    assert_same_bits(np.concatenate(chunks), y)
    assert_same_bits(state, final)
    assert_same_bits(layer.forward(x[:, 1:3], seed=5)[0][:, :1], layer.forward(x[:, 1:2], seed=5)[0])
    assert (layer.forward(x, seed=6)[0] != y).any()
    assert (layer.forward(x)[0] != layer.forward(x)[0]).any()


def test_a_seed_is_drawn_only_where_something_is_random():
    x = np.zeros((2, 1, 3), np.float32)
    for layer, draws in ((LSTM(3, 4, 2, dropout=0.5, rng=0), True), (LSTM(3, 4, 2, rng=0), False)):
        before = layer.rng.bit_generator.state
        layer(x)
        layer.forward(x, seed=3)
        assert layer.rng.bit_generator.state == before
        layer.forward(x)
        assert (layer.rng.bit_generator.state != before) == draws


def test_windows_of_one_seed_have_the_dropout_of_the_whole():
    x, target = np.random.default_rng(0).standard_normal((2, 8, 3, 3))
    model = Model(rnn=LSTM(3, 5, 2, dropout=0.5, dtype=np.float64, rng=0), head=Dense(5, 3, dtype=np.float64, rng=1))
    y, _, _ = model.forward(x, seed=5)
    expected = [losses.mean_squared_error(y[t : t + 3], target[t : t + 3])[0] for t in (0, 3, 6)]
    trainer = TBPTT(model, losses.mean_squared_error, optim.SGD(model.params, 0.0), k1=3, k2=5)
    np.testing.assert_allclose([one.loss for one in trainer.run(x, target, seed=5)], expected, rtol=1e-12)


@pytest.mark.parametrize("options", [{"zoneout": 0.3}, {"dropout": 0.3, "num_layers": 2}], ids=["zoneout", "dropout"])
def test_a_refused_step_draws_nothing(options):
    layer = LSTM(3, 5, rng=0, **options)
    trainer = TBPTT(layer, losses.mean_squared_error, optim.SGD(layer.params, 0.1), k1=3)
    before = layer.rng.bit_generator.state
    for wrong in ({"out": np.zeros(3)}, {"num_threads": 0}, {"recompute": 0}, {"state": 3}):
        with pytest.raises((ValueError, TypeError)):
            layer.forward(np.zeros((3, 2, 3)), **wrong)
    with pytest.raises(ValueError, match="target"):
        trainer.step(np.zeros((3, 2, 3)), np.zeros((3, 2, 4)))
    assert layer.rng.bit_generator.state == before
