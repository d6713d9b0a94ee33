"""Embedding: rows by ids, gradients of the rows that occur, alone and before a layer."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from registry import assert_close, assert_same_bits

from rnnfast import GRU, LSTM, TBPTT, Dense, Embedding, Model, _flat, layers, losses, optim


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (5, 3), (0, 3), (4, 0), (2, 3, 4)])
@pytest.mark.parametrize("dim", [1, 7, 17])
def test_forward_and_backward_by_one_hot_vectors(shape, dim, dtype, rng):
    embedding = Embedding(11, dim, dtype=dtype, rng=0)
    ids, dy = rng.integers(0, 11, shape), rng.standard_normal((*shape, dim)).astype(dtype)
    one_hot = np.eye(11)[ids]
    y, tape = embedding.forward(ids)
    assert y.dtype == dtype
    assert_close(y, one_hot @ embedding.params["weight"], 1e-6)
    assert_same_bits(embedding(ids), y)
    grads = embedding.backward(tape, dy)
    expected = one_hot.reshape(-1, 11).T @ dy.reshape(-1, dim).astype(np.float64)
    assert_close(grads.params["weight"], expected, 1e-6 if dtype == np.float32 else 1e-13)
    assert grads.x is None
    assert grads.state is None
    into = embedding.params.zeros()
    into.flat[:] = 1
    _, tape = embedding.forward(ids, tape=tape)
    assert embedding.backward(tape, dy, into=into).params is into
    assert_close(into["weight"], expected + 1, 1e-6 if dtype == np.float32 else 1e-13)


def test_only_the_rows_that_occur_are_touched(rng):
    embedding = Embedding(1000, 4, rng=0)
    ids = rng.integers(0, 10, (6, 2)) * 100
    _, tape = embedding.forward(ids)
    into = embedding.params.zeros()
    into.flat[:] = np.nan
    embedding.backward(tape, np.ones((6, 2, 4)), into=into)
    untouched = np.setdiff1d(np.arange(1000), ids)
    into["weight"][ids] = 0
    assert np.isnan(into["weight"][untouched]).all()
    assert np.isfinite(into["weight"][ids]).all()


def test_the_sums_of_a_frequent_id_are_exact_to_float32(rng):
    count = 200_000
    dy = rng.random((count, 2), np.float32)
    embedding = Embedding(3, 2, rng=0)
    _, tape = embedding.forward(np.ones(count, int))
    exact = dy.sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(embedding.backward(tape, dy).params["weight"][1], exact, rtol=1e-7)


def test_the_padding_vector_is_zero_and_stays_so(rng):
    embedding = Embedding(5, 3, padding_idx=-1, rng=0)
    assert embedding.padding_idx == 4
    assert not embedding.params["weight"][4].any()
    assert embedding.params["weight"][:4].all()
    ids = np.array([4, 1, 4, 4])
    y, tape = embedding.forward(ids)
    assert not y[ids == 4].any()
    weight = embedding.backward(tape, np.ones((4, 3))).params["weight"]
    assert weight.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_initial_weights():
    weight = Embedding(400, 50, rng=0, dtype=np.float64).params["weight"]
    assert abs(weight.mean()) < 0.03
    assert abs(weight.std() - 1) < 0.03
    assert_close(Embedding(400, 50, rng=0).params["weight"], weight, 1e-6)
    narrow = Embedding(400, 50, rng=0, init="xavier").params["weight"]
    assert 0.9 < np.abs(narrow).max() / np.sqrt(6 / 450) < 1.001
    ones = Embedding(3, 2, init=lambda name, shape, rng: np.ones(shape), padding_idx=0)
    assert ones.params["weight"].all()


def test_the_tape_has_ids_of_its_own(rng):
    embedding, ids = Embedding(5, 3, rng=0), np.array([1, 2, 2])
    _, tape = embedding.forward(ids)
    ids[:] = 10**9
    weight = embedding.backward(tape, np.ones((3, 3))).params["weight"]
    assert weight[:, 0].tolist() == [0, 1, 2, 0, 0]
    with pytest.raises(ValueError, match="used"):
        embedding.backward(tape, np.ones((3, 3)))
    _, tape = embedding.forward([1, 2])
    embedding.update({"weight": np.zeros((5, 3))})
    with pytest.raises(ValueError, match="tape: expected the parameters"):
        embedding.backward(tape, np.ones((2, 3)))


def test_bad_arguments():
    embedding = Embedding(5, 3, rng=0)
    with pytest.raises(ValueError, match=r"x: expected ids in 0..4, got 5 at \[0, 1\]"):
        embedding([[0, 5]])
    with pytest.raises(ValueError, match=r"x: expected ids in 0..4, got -1"):
        embedding.forward(-1)
    for wrong in (np.ones(3), np.ones(3, bool), [0.0], "a", None):
        with pytest.raises(TypeError, match="x: expected"):
            embedding(wrong)
    with pytest.raises(ValueError, match="num_threads"):
        embedding([0], num_threads=0)
    for options in ({"num": 0}, {"dim": 0}, {"padding_idx": 5}, {"padding_idx": -6}, {"device": "cuda"}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected"):
            Embedding(**{"num": 5, "dim": 3} | options)
    with pytest.raises(TypeError, match="padding_idx: expected an integer"):
        Embedding(5, 3, padding_idx=1.0)
    _, tape = embedding.forward([0, 1])
    with pytest.raises(ValueError, match="dy: expected shape"):
        embedding.backward(tape, np.ones((2, 2)))
    with pytest.raises(TypeError, match="into: expected Gradients"):
        embedding.backward(tape, np.ones((2, 3)), into=np.ones((5, 3)))
    assert embedding.backward(tape, np.ones((2, 3))).params["weight"][:2].all()


def test_add_rows_checks_what_keeps_memory_safe():
    target, rows, total = np.zeros((4, 2)), np.ones((3, 2)), np.empty(2)
    ids, order = np.array([0, 1, 1]), np.arange(3)
    for bad_ids, bad_order in ((np.array([0, 1, 4]), order), (np.array([0, -1, 1]), order), (ids, order + 1)):
        with pytest.raises(ValueError, match="ids: expected"):
            _flat.add_rows(target, bad_ids, bad_order, rows, total)
    for arguments in (
        (ids[:2], order, rows, total),
        (ids, order, rows[:, :1].copy(), total),
        (ids, order, rows, total[:1]),
    ):
        with pytest.raises(ValueError, match="add_rows: expected"):
            _flat.add_rows(target, *arguments)
    assert not target.any()


def test_copies_and_configuration():
    embedding = Embedding(7, 3, padding_idx=2, init="xavier", dtype=np.float64, rng=1)
    again = layers.from_config(json.loads(json.dumps(embedding.config())), rng=1)
    assert again.config() == embedding.config()
    assert_same_bits(np.array(again.params.flat), np.array(embedding.params.flat))
    assert repr(embedding).startswith("Embedding(num=7, dim=3, padding_idx=2")
    for other in (copy.deepcopy(embedding), pickle.loads(pickle.dumps(embedding))):
        assert_same_bits(other([1, 2]), embedding([1, 2]))


@pytest.mark.parametrize("batch_first", [False, True])
def test_before_a_layer_in_a_model(batch_first, rng):
    def build():
        return Embedding(9, 4, dtype=np.float64, rng=0), GRU(4, 5, dtype=np.float64, rng=1, batch_first=batch_first)

    (embedding, layer), parts = build(), build()
    model = Model(embed=parts[0], rnn=parts[1], head=Dense(5, 2, dtype=np.float64, rng=2))
    head = Dense(5, 2, dtype=np.float64, rng=2)
    assert next(iter(model.params)) == "embed.weight"
    ids, lengths = rng.integers(0, 9, (3, 6) if batch_first else (6, 3)), np.array([6, 0, 2])
    within = np.arange(6) < lengths[:, None]
    within = within if batch_first else within.T
    ids[~within] = -1  # nothing beyond the lengths is read
    safe = np.where(within, ids, 0)
    y, _, tape = model.forward(ids, lengths=lengths)
    between, of_embedding = embedding.forward(safe)
    hidden, _, of_layer = layer.forward(between, lengths=lengths)
    out, of_head = head.forward(hidden)
    assert_same_bits(y, np.where(within[..., None], out, 0))
    dy = rng.standard_normal(y.shape) * within[..., None]
    grads = model.backward(tape, dy)
    d = layer.backward(of_layer, head.backward(of_head, dy).x)
    assert grads.x is None
    assert_same_bits(grads.params["rnn.weight_ih_l0"], d.params["weight_ih_l0"])
    assert_same_bits(grads.params["embed.weight"], embedding.backward(of_embedding, d.x).params["weight"])
    assert_same_bits(
        model(ids[0], lengths=6)[0] if batch_first else model(ids[:, 0])[0], y[0] if batch_first else y[:, 0]
    )
    with pytest.raises(ValueError, match="x: expected"):
        model(np.zeros((2, 2, 2), int))
    with pytest.raises(TypeError, match="x: expected integers"):
        model(np.zeros((2, 2)))


def test_gradients_by_finite_differences(rng):
    model = Model(embed=Embedding(6, 3, dtype=np.float64, rng=0), rnn=LSTM(3, 4, dtype=np.float64, rng=1))
    ids, dy = rng.integers(0, 6, (5, 2)), rng.standard_normal((5, 2, 4))
    _, _, tape = model.forward(ids)
    gradient = model.backward(tape, dy).params["embed.weight"].copy()
    weight = model.params["embed.weight"].copy()
    for row, column in np.ndindex(weight.shape):
        values = []
        for step in (1e-6, -1e-6):
            moved = weight.copy()
            moved[row, column] += step
            model.update({"embed.weight": moved})
            values.append((model(ids)[0] * dy).sum())
        assert abs((values[0] - values[1]) / 2e-6 - gradient[row, column]) < 1e-7


def test_truncated_bptt_trains_it(rng):
    model = Model(embed=Embedding(6, 8, rng=0), rnn=LSTM(8, 16, rng=1), head=Dense(16, 6, rng=2))
    trainer = TBPTT(model, losses.softmax_cross_entropy, optim.Adam(model.params, 0.02), k1=8, k2=12)
    stream = np.arange(2000) * 7 % 6
    found = [trainer.step(x, target).loss for x, target in trainer.batches(stream, 4)]
    assert found[-1] < 0.1 < found[0]
