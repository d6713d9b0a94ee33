"""Integers are ids where nothing else can be meant; where something can, the call says which, or is refused."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import rnnfast
from rnnfast import GRU, LSTM, TBPTT, Dense, Embedding, GRUCell, Model, losses, optim

T, B, I, H = 5, 3, 6, 4  # noqa: E741
ASKS = "expected ids=True if these integers are ids in 0..{}, or ids=False if they are features"


def assert_same_bits(actual, expected):
    """Of arrays, and of the tuples and dicts of them that calls return."""
    if isinstance(actual, tuple | dict):
        assert len(actual) == len(expected)
        pairs = actual if isinstance(actual, tuple) else actual.values()
        for one, other in zip(pairs, expected if isinstance(expected, tuple) else expected.values(), strict=True):
            assert_same_bits(one, other)
    else:
        np.testing.assert_array_equal(actual, expected)


def one_hot(ids, size=I):
    return np.eye(size, dtype=np.float32)[np.asarray(ids).astype(int)]


def calls(layer):
    """Every call of a layer, or of a model of one, that takes a sequence."""
    model = Model(rnn=type(layer)(layer.input_size, H, rng=0, batch_first=layer.batch_first))
    yield layer
    yield lambda x, **options: layer.forward(x, **options)[:2]
    yield model
    yield lambda x, **options: model.forward(x, **options)[:2]


DOUBTFUL = {
    "one-hot integers without a batch": (one_hot([0, 3, 5, 1, 1]).astype(int), I, "last axis"),
    "as many rows as symbols": (np.zeros((T, I), np.int64), I, "last axis"),
    "an image": (np.zeros((28, 28), np.uint8), 28, "last axis"),
    "another image": (np.zeros((28, 27), np.uint8), 28, "few bits"),
    "sound": (np.zeros((T, B), np.int16), I, "few bits"),
    "a series without its axis": (np.zeros((T, B), np.int64), 1, "input_size is 1"),
    "one sequence": (np.zeros(T, np.int64), I, "no batch axis"),
    "a list": ([[0, 1, 0, 0, 0, 0]], I, "last axis"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_could_be_either_is_refused(name):
    x, size, doubt = DOUBTFUL[name]
    for batch_first in (False, True):
        for call in calls(GRU(size, H, rng=0, batch_first=batch_first)):
            with pytest.raises(ValueError, match=rf"^x: {ASKS.format(size - 1)}.*{doubt}"):
                call(x)


@pytest.mark.parametrize("name", DOUBTFUL)
def test_either_can_be_told(name):
    x, size, _ = DOUBTFUL[name]
    ids = np.where(np.asarray(x) < size, x, 0)
    for call in calls(GRU(size, H, rng=0)):
        assert_same_bits(call(ids, ids=True), call(one_hot(ids, size)))
        if np.shape(x)[-1] == size:
            assert_same_bits(call(x, ids=False), call(np.asarray(x, np.float32)))
        else:
            with pytest.raises(ValueError, match=r"^x: expected \[T, B, I\] or \[T, I\]"):
                call(x, ids=False)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_plain_ids_need_no_word(dtype):
    ids = np.random.default_rng(0).integers(0, I, (T, B)).astype(dtype)
    for call in calls(LSTM(I, H, rng=0)):
        assert_same_bits(call(ids), call(one_hot(ids)))
        assert_same_bits(call(ids), call(ids, ids=True))


def test_features_of_any_dtype_need_no_word():
    x = np.random.default_rng(0).integers(0, 200, (T, B, I))
    for call in calls(GRU(I, H, rng=0)):
        for dtype in (np.uint8, np.int16, np.int64):
            assert_same_bits(call(x.astype(dtype)), call(x.astype(np.float32)))
        assert_same_bits(call(x[:, 0] > 99), call((x[:, 0] > 99).astype(np.float32)))


def test_what_is_told_must_fit():
    layer = GRU(I, H)
    with pytest.raises(TypeError, match=r"^x: expected integers with ids=True, got array of float32"):
        layer(np.zeros((T, B), np.float32), ids=True)
    with pytest.raises(TypeError, match=r"^x: expected integers with ids=True, got array of bool"):
        layer(np.zeros((T, B), bool), ids=True)
    with pytest.raises(ValueError, match=r"^x: expected \[T, B, I\] or \[T, I\], or integer ids"):
        layer(np.zeros((T, B, I), int), ids=True)
    with pytest.raises(TypeError, match=r"^ids: expected True or False, got int 1"):
        layer(np.zeros((T, B), int), ids=1)


# Cells and streams ----------------------------------------------------------------------------------------------------


def test_cells_ask_too():
    cell = GRUCell(I, H, rng=0)
    for run in (cell, lambda x, **options: cell.forward(x, **options)[0]):
        for doubtful in (np.zeros(I, int), np.zeros(B, np.uint8), np.uint8(2), [0] * I):
            with pytest.raises(ValueError, match=r"^x: " + ASKS.format(I - 1)):
                run(doubtful)
            assert_same_bits(run(doubtful, ids=True), run(one_hot(doubtful)))
        assert_same_bits(run(np.array([1, 5])), run(one_hot([1, 5])))
        assert_same_bits(run(4), run(one_hot(4)))
        assert_same_bits(run(np.arange(I), ids=False), run(np.arange(I, dtype=np.float32)))


def test_streams_ask_too():
    layer = GRU(I, H, rng=0)
    for doubtful in (np.zeros(I, int), np.zeros(1, np.int16), np.int8(1)):
        with pytest.raises(ValueError, match=r"^x: " + ASKS.format(I - 1)):
            layer.stream().step(doubtful)
    for doubtful in (np.zeros((T, I), int), np.zeros((T, 1), np.int16), np.zeros(T, int)):
        with pytest.raises(ValueError, match=r"^block: " + ASKS.format(I - 1)):
            layer.stream().process(doubtful)
    samples = np.zeros(T, np.int16)
    with pytest.raises(ValueError, match=r"^block: .*few bits"):
        GRU(1, H).stream().process(samples)
    ids = np.array([1, 5, 2, 0, 3])
    assert_same_bits(layer.stream().process(ids, ids=True), layer.stream().process(one_hot(ids)))
    assert_same_bits(layer.stream().step(5), layer.stream().step(one_hot(5)))
    assert_same_bits(layer.stream(I).step(np.zeros(I, int)), layer.stream(I).step(one_hot(np.zeros(I))))
    x = np.arange(T * I).reshape(T, I)
    assert_same_bits(layer.stream().process(x, ids=False), layer.stream().process(x.astype(np.float32)))
    with pytest.raises(TypeError, match=r"^x: expected integers with ids=True"):
        layer.stream().step(np.zeros(I, np.float32), ids=True)


# Models and training --------------------------------------------------------------------------------------------------


def test_models_that_begin_with_another_part():
    head_first = Model(head=Dense(I, 3, rng=0), rnn=GRU(3, H, rng=1))
    x = np.arange(T * I).reshape(T, I)
    assert_same_bits(head_first(x), head_first(x.astype(np.float32)))
    assert_same_bits(head_first(x, ids=False), head_first(x))
    with pytest.raises(ValueError, match=r"^ids: expected False, which is what reads x here takes"):
        head_first(x, ids=True)
    embeds = Model(vectors=Embedding(I, 3, rng=0), rnn=GRU(3, H, rng=1))
    ids = np.zeros((T, I), np.uint8)
    assert_same_bits(embeds(ids), embeds(ids, ids=True))
    with pytest.raises(ValueError, match=r"^ids: expected True, which is what reads x here takes"):
        embeds(ids, ids=False)


def trainer_of(model):
    return TBPTT(model, losses.softmax_cross_entropy, optim.SGD(model.params, 0.1), k1=T, logits=True)


def test_training_asks_only_for_what_it_can_not_know():
    """Windows are of a batch, so as many rows as symbols are no doubt; few bits are."""
    ids = np.random.default_rng(0).integers(0, I, (T, I))
    results = []
    for x, options in ((ids, {}), (ids.astype(np.uint8), {"ids": True})):
        model = Model(rnn=GRU(I, H, rng=0), head=Dense(H, I, activation="softmax", rng=1))
        trainer = trainer_of(model)
        results += [(trainer.step(x, ids, **options).loss, [one.loss for one in trainer.run(x, ids, **options)])]
        with pytest.raises(ValueError, match=r"^x: .*few bits"):
            trainer.step(ids.astype(np.uint8), ids)
    assert results[0] == results[1]
    embeds = Model(vectors=Embedding(I, 3, rng=0), rnn=GRU(3, H, rng=1), head=Dense(H, I, activation="softmax", rng=1))
    trainer_of(embeds).step(ids.astype(np.uint8), ids)


def test_a_trainer_goes_on_from_windows_of_few_bits():
    ids = np.random.default_rng(0).integers(0, I, (2 * T, B)).astype(np.uint8)
    model = Model(rnn=GRU(I, H, rng=0), head=Dense(H, I, activation="softmax", rng=1))
    first = TBPTT(model, losses.softmax_cross_entropy, optim.SGD(model.params, 0.1), k1=2, k2=6, logits=True)
    first.step(ids[:2], ids[:2], ids=True)
    other = TBPTT(model, losses.softmax_cross_entropy, optim.SGD(model.params, 0.1), k1=2, k2=6, logits=True)
    other.load_state_dict(first.state_dict())
    saved = model.snapshot()
    wanted = first.step(ids[2:4], ids[2:4], ids=True).loss
    model.load(saved)
    assert other.step(ids[2:4], ids[2:4], ids=True).loss == wanted


def test_the_word_is_in_the_signatures():
    for call in (rnnfast.LSTM.__call__, rnnfast.LSTM.forward, Model.__call__, Model.forward, TBPTT.step, TBPTT.run):
        assert "ids" in inspect.signature(call).parameters
        assert re.search(r"^ +(.*, )?ids( :|,|$)", call.__doc__, re.M)
