"""Layers and cells as their callers see them: layouts, states, tapes, dropout, configuration, copies.

That their numbers are right is for test_kernels.py to show; here one call of them is compared with another.
"""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from registry import EVERY, TOLERANCES, Case, assert_close, assert_same_bits, map_state, parts

import rnnfast
from rnnfast import layers, reference

LAYERS = {
    "RNN": lambda **options: rnnfast.RNN(3, 5, **options),
    "LSTM": lambda **options: rnnfast.LSTM(3, 5, **options),
    "GRU": lambda **options: rnnfast.GRU(3, 5, **options),
}
CELLS = {"RNN": rnnfast.RNNCell, "LSTM": rnnfast.LSTMCell, "GRU": rnnfast.GRUCell}
T, B, I, H = 6, 4, 3, 5  # noqa: E741


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(params=LAYERS)
def kind(request):
    return request.param


def random_state(rng, kind, *shape):
    h, c = rng.standard_normal((2, *shape), np.float32)
    return (h, c) if kind == "LSTM" else h


def flat(*results):
    """All arrays of some results, end to end, None left out."""
    arrays = [array for result in results for array in parts(result) if array is not None]
    return np.concatenate([np.ravel(array) for array in arrays])


def assert_equal(actual, expected):
    np.testing.assert_array_equal(flat(*actual), flat(*expected))


def gradients(grads):
    return grads.x, grads.state, grads.params.flat, grads.reset_state


# Layouts --------------------------------------------------------------------------------------------------------------


def test_shapes_and_dtypes(kind, rng):
    for dtype in (np.float32, np.float64):
        layer = LAYERS[kind](num_layers=2, bidirectional=True, dtype=dtype, rng=0)
        y, state, tape = layer.forward(rng.standard_normal((T, B, I)))
        assert y.shape == (T, B, 2 * H)
        assert y.flags.c_contiguous
        assert [part.shape for part in parts(state)] == [(4, B, H)] * (2 if kind == "LSTM" else 1)
        assert isinstance(state, tuple) == (kind == "LSTM")
        grads = layer.backward(tape, y)
        assert grads.x.shape == (T, B, I)
        assert [part.shape for part in parts(grads.state)] == [part.shape for part in parts(state)]
        assert grads.params.shapes == layer.params.shapes
        assert grads.reset_state is None
        assert {array.dtype for array in (y, *parts(state), grads.x, *parts(grads.state), grads.params.flat)} == {
            np.dtype(dtype)
        }


def test_batch_first_is_a_view_of_time_major(kind, rng):
    major = LAYERS[kind](num_layers=2, bidirectional=True, rng=0)
    first = LAYERS[kind](num_layers=2, bidirectional=True, rng=0, batch_first=True)
    x = rng.standard_normal((T, B, I), np.float32)
    dy = rng.standard_normal((T, B, 2 * H), np.float32)
    state = random_state(rng, kind, 4, B, H)
    masks = {"lengths": [6, 0, 3, 5], "reset_state": random_state(rng, kind, 4, B, H)}
    resets = rng.random((T, B)) < 0.3

    y, final, tape = major.forward(x, state, resets=resets, **masks)
    grads = major.backward(tape, dy, state)
    y2, final2, tape = first.forward(x.swapaxes(0, 1), state, resets=resets.T, **masks)
    grads2 = first.backward(tape, dy.swapaxes(0, 1), state)
    assert y2.shape == (B, T, 2 * H)
    assert y2.flags.c_contiguous
    assert grads2.x.flags.c_contiguous
    assert_equal((y2.swapaxes(0, 1), final2), (y, final))
    assert_equal(gradients(grads2._replace(x=grads2.x.swapaxes(0, 1))), gradients(grads))


@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_is_a_batch_of_one(kind, batch_first, rng):
    layer = LAYERS[kind](num_layers=2, bidirectional=True, rng=0)
    single = LAYERS[kind](num_layers=2, bidirectional=True, rng=0, batch_first=batch_first)
    x = rng.standard_normal((T, 1, I), np.float32)
    dy = rng.standard_normal((T, 1, 2 * H), np.float32)
    state = random_state(rng, kind, 4, 1, H)
    resets = rng.random((T, 1)) < 0.3

    y, final, tape = layer.forward(x, state, resets=resets, lengths=[5], reset_state=state)
    grads = layer.backward(tape, dy, state)
    one = map_state(lambda part: part[:, 0], state)
    for lengths in (5, [5]):
        y1, final1, tape = single.forward(x[:, 0], one, resets=resets[:, 0], lengths=lengths, reset_state=one)
        grads1 = single.backward(tape, dy[:, 0], one)
        assert y1.shape == (T, 2 * H)
        assert grads1.x.shape == (T, I)
        assert {part.shape for part in parts(final1) + parts(grads1.state)} == {(4, H)}
        assert_equal((y1, final1), (y, final))
        assert_equal(gradients(grads1), gradients(grads))


def test_no_state_is_a_state_of_zeros(kind, rng):
    layer = LAYERS[kind](bidirectional=True, rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    zeros = map_state(np.zeros_like, random_state(rng, kind, 2, B, H))
    resets = rng.random((T, B)) < 0.3
    assert_equal(layer(x, resets=resets), layer(x, zeros, resets=resets, reset_state=zeros))
    *_, tape = layer.forward(x)
    *_, tape_of_zeros = layer.forward(x, zeros)
    dy = rng.standard_normal((T, B, 2 * H), np.float32)
    assert_equal(gradients(layer.backward(tape, dy)), gradients(layer.backward(tape_of_zeros, dy, zeros)))


def test_empty_sequences_and_batches(kind, rng):
    layer = LAYERS[kind](num_layers=2, bidirectional=True, dropout=0.5, rng=0)
    for steps, batch in ((0, B), (T, 0), (0, 0)):
        state = random_state(rng, kind, 4, batch, H)
        masks = {"lengths": [0] * batch, "resets": np.zeros((steps, batch), bool), "reset_state": state}
        y, final, tape = layer.forward(np.zeros((steps, batch, I)), state, **masks)
        grads = layer.backward(tape, y, state)
        assert y.shape == (steps, batch, 2 * H)
        assert grads.x.shape == (steps, batch, I)
        assert_equal((final, grads.state), (state, state))
        assert not any(np.shares_memory(a, b) for a, b in zip(parts(final), parts(state), strict=True) if a.size)
        assert not grads.params.flat.any()
    y, final = layer(np.zeros((0, I)))
    assert y.shape == (0, 2 * H)
    assert {part.shape for part in parts(final)} == {(4, H)}


# Directions and layers ------------------------------------------------------------------------------------------------


def test_two_directions_are_two_layers(kind, rng):
    both = LAYERS[kind](bidirectional=True, rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    y, state = both(x)
    for direction, suffix in enumerate(("_l0", "_l0_reverse")):
        one = LAYERS[kind]()
        one.load({name: both.params[name.replace("_l0", suffix)] for name in one.params})
        step = -1 if direction else 1
        y1, state1 = one(x[::step])
        np.testing.assert_array_equal(y[..., direction * H : (direction + 1) * H], y1[::step])
        assert_equal([map_state(lambda part, d=direction: part[d], state)], [map_state(lambda part: part[0], state1)])


@pytest.mark.parametrize(
    "case", [Case(kind, isa, dtype, mask="both", T=9, B=4, H=17) for kind, isa, dtype in EVERY], ids=str
)
def test_reverse_is_the_second_direction(case):
    """Bit by bit, forward and backward, of every cell and with masks."""
    both = replace(case, bidirectional=True).layer()
    one = case.layer(bidirectional=False, reverse=True)
    one.load({name: both.params[name.replace("_l0", "_l0_reverse")] for name in one.params})
    data, masks, width = case.data, case.data.masks | case.data.extra, case.layout.state_widths[0]
    state = map_state(lambda part: np.concatenate([part[:1], part[:1]]), data.state)
    y2, state2, tape2 = both.forward(data.x, state, **masks)
    y, final, tape = one.forward(data.x, data.state, **masks)
    assert_same_bits(y, y2[..., width:].copy())
    assert_equal([final], [map_state(lambda part: part[1:], state2)])
    dy2 = np.zeros_like(y2)
    dy2[..., width:] = data.dy
    dstate2 = map_state(lambda part: np.concatenate([0 * part[:1], part[:1]]), data.dstate)
    grads, grads2 = one.backward(tape, data.dy, data.dstate), both.backward(tape2, dy2, dstate2)
    for name in one.params:
        assert_same_bits(grads.params[name], grads2.params[name.replace("_l0", "_l0_reverse")])
    assert_equal([grads.state], [map_state(lambda part: part[1:], grads2.state)])
    np.testing.assert_array_equal(grads.x, grads2.x)  # the first direction's is zero


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stack_in_reverse_agrees_with_the_oracle(kind, dtype, rng):
    layer = LAYERS[kind](num_layers=3, reverse=True, batch_first=True, dtype=dtype, rng=0)
    x, dy = rng.standard_normal((T, B, I)).astype(dtype), rng.standard_normal((T, B, H)).astype(dtype)
    lengths, resets = np.array([6, 0, 3, 5]), rng.random((T, B)) < 0.3
    x[np.arange(T)[:, None] >= lengths] = 0
    y, state, tape = layer.forward(x.swapaxes(0, 1), lengths=lengths, resets=resets.T)
    grads = layer.backward(tape, dy.swapaxes(0, 1))
    options = {"num_layers": 3, "reverse": True, "lengths": lengths, "resets": resets}
    expected = reference.stack_forward(layer.cell, dict(layer.params), x, **options)
    wanted = reference.stack_backward(expected, dy)
    forward, backward = TOLERANCES[np.dtype(dtype)]
    assert_close(y, expected.y.swapaxes(0, 1), forward)
    assert_close(flat(state), flat(expected.state), forward)
    assert_close(grads.x, wanted.dx.swapaxes(0, 1), backward)
    for name, value in grads.params.items():
        assert_close(value, wanted.params[name], backward)
    last, _ = layer(x.swapaxes(0, 1), lengths=lengths, resets=resets.T, last_only=True)
    np.testing.assert_array_equal(last, parts(state)[0][-1])


def test_reverse_needs_a_layer_of_one_direction():
    with pytest.raises(ValueError, match="reverse: expected False with bidirectional, got True"):
        rnnfast.LSTM(3, 5, reverse=True, bidirectional=True)
    layer = rnnfast.LSTM(3, 5, 2, reverse=True, rng=0)
    twin = pickle.loads(pickle.dumps(layers.from_config(layer.config(), rng=0)))
    x = np.ones((T, B, I), np.float32)
    np.testing.assert_array_equal(twin(x)[0], layer(x)[0])
    assert rnnfast.Model(rnn=twin, head=rnnfast.Dense(5, 2)).reverse


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_stack_is_one_layer_on_another(kind, bidirectional, rng):
    stack = LAYERS[kind](num_layers=2, bidirectional=bidirectional, rng=0)
    directions = 1 + bidirectional
    lower = LAYERS[kind](bidirectional=bidirectional)
    upper = type(lower)(directions * H, H, bidirectional=bidirectional)
    lower.load({name: stack.params[name] for name in lower.params})
    upper.load({name: stack.params[name.replace("_l0", "_l1")] for name in upper.params})
    x = rng.standard_normal((T, B, I), np.float32)
    dy = rng.standard_normal((T, B, directions * H), np.float32)

    y, state, tape = stack.forward(x)
    grads = stack.backward(tape, dy)
    y0, state0, tape0 = lower.forward(x)
    y1, state1, tape1 = upper.forward(y0)
    grads1 = upper.backward(tape1, dy)
    grads0 = lower.backward(tape0, grads1.x)
    np.testing.assert_array_equal(y, y1)
    for whole, below, above in zip(parts(state), parts(state0), parts(state1), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate([below, above]))
    assert_equal((grads.x, grads.params.flat), (grads0.x, np.concatenate([grads0.params.flat, grads1.params.flat])))


# Ids ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int16, ">i4", np.uint64])
def test_ids_are_one_hot_vectors(kind, dtype, rng):
    layer = LAYERS[kind](num_layers=2, rng=0, dtype=np.float64)
    ids = rng.integers(0, I, (T, B)).astype(dtype)
    one_hot = np.eye(I)[ids.astype(int)]
    y, state, tape = layer.forward(ids, ids=True)
    y2, state2, tape2 = layer.forward(one_hot)
    grads, grads2 = layer.backward(tape, y), layer.backward(tape2, y)
    np.testing.assert_allclose(flat(y, state), flat(y2, state2), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(grads.params.flat, grads2.params.flat, rtol=1e-12, atol=1e-13)
    assert grads.x is None
    assert_equal(layer(ids[:, 0], ids=True), layer(ids[:, :1], ids=True))


def test_ids_beyond_the_lengths_are_not_read(kind, rng):
    layer = LAYERS[kind](rng=0)
    lengths = np.array([6, 0, 3, 5])
    ids = rng.integers(0, I, (T, B))
    rotten = np.where(np.arange(T)[:, None] < lengths, ids, rng.choice([-1, I, 2**40], (T, B)))
    assert_equal(layer(rotten, lengths=lengths), layer(ids, lengths=lengths))


# Tapes and outputs ----------------------------------------------------------------------------------------------------


def test_a_call_and_forward_agree_and_out_is_returned(kind, rng):
    layer = LAYERS[kind](num_layers=2, bidirectional=True, rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    out, out2 = np.full((2, T, B, 2 * H), np.nan, np.float32)
    y, state = layer(x, out=out)
    y2, state2, _ = layer.forward(x, out=out2)
    assert y is out
    assert y2 is out2
    assert_equal((y, state), (y2, state2))


def test_a_tape_keeps_its_own_copies(kind, rng):
    """Everything but x may change after forward, the outputs too."""
    layer = LAYERS[kind](num_layers=2, bidirectional=True, rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    dy = rng.standard_normal((T, B, 2 * H), np.float32)

    def run(spoil):
        made = np.random.default_rng(1)
        state, reset_state = (random_state(made, kind, 4, B, H) for _ in range(2))
        lengths, resets = np.array([6, 0, 3, 5]), made.random((T, B)) < 0.3
        y, final, tape = layer.forward(x, state, lengths=lengths, resets=resets, reset_state=reset_state)
        if spoil:
            for array in (*parts(state), *parts(reset_state), lengths, resets, y, *parts(final)):
                array.fill(1)
        return layer.backward(tape, dy, random_state(made, kind, 4, B, H))

    assert_equal(gradients(run(spoil=True)), gradients(run(spoil=False)))


def test_a_tape_is_reused(kind, rng):
    layer = LAYERS[kind](num_layers=2, bidirectional=True, dropout=0.3, rng=0)
    twin = LAYERS[kind](num_layers=2, bidirectional=True, dropout=0.3, rng=0)
    tape, sizes = None, []
    for steps, batch in ((5, 3), (6, 4), (2, 3), (6, 4), (1, 1)):
        x = rng.standard_normal((steps, batch, I), np.float32)
        y, _, reused = layer.forward(x, tape=tape)
        assert tape is None or reused is tape
        tape = reused
        y2, _, fresh = twin.forward(x)
        assert_equal([y, *gradients(layer.backward(tape, y))], [y2, *gradients(twin.backward(fresh, y2))])
        sizes.append(tape.nbytes)
    assert sizes[0] < sizes[1] == sizes[2] == sizes[3] == sizes[4]
    empty = rnnfast.Tape()
    assert layer.forward(x, tape=empty)[2] is empty


def test_results_do_not_lie_in_the_tape(rng):
    layer = rnnfast.LSTM(I, H, 2, bidirectional=True, rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    y, state, tape = layer.forward(x)
    results = [y, *parts(state), *gradients(layer.backward(tape, y))[:1]]
    before = [array.copy() for array in results]
    y, _, tape = layer.forward(x + 1, tape=tape)
    layer.backward(tape, y)
    assert_equal(results, before)


def test_gradients_are_added_to_into(kind, rng):
    layer = LAYERS[kind](num_layers=2, bidirectional=True, rng=0, dtype=np.float64)
    x = rng.standard_normal((T, B, I))
    y, _, tape = layer.forward(x)
    grads = layer.backward(tape, y)
    into = layer.params.zeros()
    into.flat[...] = start = rng.standard_normal(into.size)
    *_, tape = layer.forward(x)
    added = layer.backward(tape, y, into=into, input_gradient=False)
    assert added.params is into
    assert added.x is None
    np.testing.assert_allclose(into.flat, start + grads.params.flat, rtol=1e-12, atol=1e-12)


def test_chunks_backward_make_the_gradient_of_the_whole(kind, rng):
    """With ragged chunks, into one `Gradients`; states and dx bit by bit."""
    layer = LAYERS[kind](rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    dy = rng.standard_normal((T, B, H), np.float32)
    *_, tape = layer.forward(x)
    whole = layer.backward(tape, dy)

    state, tapes, into, dx = None, [], layer.params.zeros(), []
    for begin, end in ((0, 1), (1, 4), (4, 6)):
        _, state, tape = layer.forward(x[begin:end], state)
        tapes.append((tape, dy[begin:end]))
    dstate = None
    for tape, chunk in reversed(tapes):
        grads = layer.backward(tape, chunk, dstate, into=into)
        dstate = grads.state
        dx.insert(0, grads.x)
    assert_equal((np.concatenate(dx), dstate), (whole.x, whole.state))
    np.testing.assert_allclose(into.flat, whole.params.flat, rtol=1e-5, atol=1e-5)


def test_leaving_dy_out_is_zeros(kind, rng):
    layer = LAYERS[kind](num_layers=2, bidirectional=True, rng=0)
    x, state = rng.standard_normal((T, B, I), np.float32), random_state(rng, kind, 4, B, H)
    y, _, tape = layer.forward(x)
    without = layer.backward(tape, None, state)
    *_, tape = layer.forward(x)
    assert_equal(gradients(without), gradients(layer.backward(tape, np.zeros_like(y), state)))


def test_weights_are_packed_again_after_a_change(kind, rng):
    layer = LAYERS[kind](rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    before = layer(x)[0]
    layer.update({"bias_ih_l0": layer.params["bias_ih_l0"] + 1})
    changed, _, tape = layer.forward(x)
    fresh = LAYERS[kind]()
    fresh.load(layer.params)
    y, _, fresh_tape = fresh.forward(x)
    assert not np.array_equal(changed, before)
    assert_equal([changed, *gradients(layer.backward(tape, y))], [y, *gradients(fresh.backward(fresh_tape, y))])


def test_weights_are_packed_once_and_by_any_thread(rng):
    layer = rnnfast.GRU(I, 64, rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    layer(x)
    packed = layer._recurrence.walk.packed()[0]
    assert packed.panels() is packed.panels()
    for step in range(20):
        layer.update({"bias_ih_l0": np.full(3 * 64, 0.01 * step)})
        fresh = rnnfast.GRU(I, 64)
        fresh.load(layer.params)
        expected = fresh(x)[0]
        with ThreadPoolExecutor(4) as pool:
            for result in pool.map(lambda _: layer(x)[0], range(8)):
                np.testing.assert_array_equal(result, expected)


# Dropout --------------------------------------------------------------------------------------------------------------


def test_dropout_drops_between_layers_in_training_only(kind, rng):
    layer = LAYERS[kind](num_layers=2, dropout=0.4, rng=0)
    plain = LAYERS[kind](num_layers=2, rng=0)
    x = rng.standard_normal((T, B, I), np.float32)
    assert_equal(layer(x), plain(x))
    y, state, _ = layer.forward(x)
    plain_y, plain_state, _ = plain.forward(x)
    assert not np.array_equal(y, plain_y)
    for dropped, whole in zip(parts(state), parts(plain_state), strict=True):
        np.testing.assert_array_equal(dropped[0], whole[0])
    layer.rng = np.random.default_rng(3)
    first = layer.forward(x)[0]
    assert not np.array_equal(layer.forward(x)[0], first)
    layer.rng = np.random.default_rng(3)
    np.testing.assert_array_equal(layer.forward(x)[0], first)


def test_dropout_scales_what_it_keeps():
    """The upper layer passes its input on, so that y is the lower layer's output times the mask."""
    size = 200
    layer = rnnfast.RNN(1, size, 2, nonlinearity="relu", bias=False, dropout=0.25, rng=0)
    zeros = np.zeros((size, size))
    ones = np.ones((size, 1))
    layer.load({"weight_ih_l0": ones, "weight_hh_l0": zeros, "weight_ih_l1": np.eye(size), "weight_hh_l1": zeros})
    y, _, tape = layer.forward(np.full((10, 5, 1), 3.0))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 4.0, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.02
    grads = layer.backward(tape, np.ones_like(y))
    np.testing.assert_allclose(grads.x[..., 0], kept.sum(axis=-1) / 0.75, rtol=1e-5)


def test_dropping_everything_leaves_zeros(rng):
    layer = rnnfast.GRU(I, H, 2, bias=False, dropout=1.0, rng=0)
    y, _, tape = layer.forward(rng.standard_normal((T, B, I)))
    assert not y.any()
    assert not layer.backward(tape, np.ones_like(y)).x.any()


# Configuration and copies ---------------------------------------------------------------------------------------------


def ones(name, shape, rng):
    return np.ones(shape)


VARIANTS = [
    rnnfast.RNN(3, 5, nonlinearity="relu", batch_first=True, rng=0),
    rnnfast.LSTM(3, 5, 2, bidirectional=True, dropout=0.5, forget_bias=1.0, rng=0),
    rnnfast.GRU(3, 5, reset_after=False, bias=False, dtype=np.float64, init="xavier", rng=0),
    rnnfast.RNNCell(3, 5, nonlinearity="sigmoid", rng=0),
    rnnfast.LSTMCell(3, 5, forget_bias=2.0, rng=0),
    rnnfast.GRUCell(3, 5, reset_after=False, rng=0),
    rnnfast.Dense(3, 5, activation="softmax", rng=0),
    rnnfast.Dense(3, 5, init=ones, rng=0),
]


@pytest.mark.parametrize("part", VARIANTS, ids=repr)
def test_config_rebuilds_an_equal_part(part):
    config = part.config()
    built = layers.from_config(json.loads(json.dumps(config)), rng=0)
    assert type(built) is type(part)
    assert built.config().items() >= config.items()
    assert built.params.shapes == part.params.shapes
    assert built.params.dtype == part.params.dtype
    if "init" in config:
        np.testing.assert_array_equal(built.params.flat, part.params.flat)
    assert repr(eval(repr(part), vars(rnnfast).copy())) == repr(built)


@pytest.mark.parametrize("part", VARIANTS, ids=repr)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_copies_are_equal_and_independent(part, duplicate):
    x = np.random.default_rng(0).standard_normal((2, 4, 3))
    x = x if isinstance(part, rnnfast.RNN | rnnfast.LSTM | rnnfast.GRU) else x[0]
    inferred = part(x)
    other = duplicate(part)
    assert repr(other) == repr(part)
    assert other.params.version == part.params.version
    assert_equal([other.params.flat], [part.params.flat])
    assert other.params.flat.__array_interface__["data"][0] % 64 == 0
    result, *_, tape = part.forward(x)
    other_result, *_, other_tape = other.forward(x)
    assert_equal(parts(other_result), parts(result))
    grads, other_grads = part.backward(tape, result), other.backward(other_tape, result)
    assert_equal(gradients(other_grads), gradients(grads))

    other.params.assign(np.ones(other.params.size))
    assert_equal(parts(part(x)), parts(inferred))


# Cells ----------------------------------------------------------------------------------------------------------------


def make_pair(kind, **options):
    """A layer and a cell of the same weights."""
    layer, cell = LAYERS[kind](rng=0, **options), CELLS[kind](I, H, **options)
    cell.load({name.removesuffix("_l0"): value for name, value in layer.params.items()})
    return layer, cell


def test_a_cell_is_one_step_of_a_layer(kind, rng):
    layer, cell = make_pair(kind)
    x = rng.standard_normal((T, B, I), np.float32)
    dy = rng.standard_normal((T, B, H), np.float32)
    first = random_state(rng, kind, 1, B, H)
    y, final, tape = layer.forward(x, first)
    grads = layer.backward(tape, dy)

    state, tapes, into, dx = map_state(lambda part: part[0], first), [], cell.params.zeros(), []
    for t in range(T):
        assert_equal(parts(cell(x[t], state)), parts(cell.forward(x[t], state)[0]))
        state, tape = cell.forward(x[t], state)
        tapes.append(tape)
        np.testing.assert_array_equal(parts(state)[0], y[t])
    assert_equal([state], [map_state(lambda part: part[0], final)])
    dstate = map_state(np.zeros_like, state)
    for t, tape in reversed(list(enumerate(tapes))):
        parts(dstate)[0][...] += dy[t]
        step = cell.backward(tape, dstate, into=into)
        dstate, _ = step.state, dx.insert(0, step.x)
    # The sum of dy and the gradient carried back is rounded here, and inside a kernel need not be.
    np.testing.assert_allclose(flat(dstate), flat(grads.state), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.stack(dx), grads.x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(into.flat, grads.params.flat, rtol=1e-4, atol=1e-5)


def test_cells_take_single_rows_and_ids(kind, rng):
    _, cell = make_pair(kind, dtype=np.float64)
    x, state = rng.standard_normal((B, I)), map_state(np.float64, random_state(rng, kind, B, H))
    whole = cell(x, state)
    for b in range(B):
        one = cell(x[b], map_state(lambda part, b=b: part[b], state))
        assert_equal([one], [map_state(lambda part, b=b: part[b], whole)])
    final, tape = cell.forward(x[0], map_state(lambda part: part[0], state))
    grads = cell.backward(tape, final)
    assert {array.shape for array in (*parts(final), *parts(grads.state))} == {(H,)}
    assert grads.x.shape == (I,)

    ids = rng.integers(0, I, B)
    np.testing.assert_allclose(flat(cell(ids, state)), flat(cell(np.eye(I)[ids], state)), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(flat(cell(2)), flat(cell(np.eye(I)[2])), rtol=1e-13, atol=1e-14)
    _, tape = cell.forward(ids)
    assert cell.backward(tape, state).x is None


def test_cells_write_to_out_and_reuse_tapes(kind, rng):
    _, cell = make_pair(kind)
    x, state = rng.standard_normal((B, I), np.float32), random_state(rng, kind, B, H)
    out = map_state(np.empty_like, state)
    result = cell(x, state, out=out)
    assert all(a is b for a, b in zip(parts(result), parts(out), strict=True))
    assert_equal([result], [cell(x, state)])
    _, tape = cell.forward(x, state)
    grads = cell.backward(tape, state)
    _, reused = cell.forward(x, state, tape=tape)
    assert reused is tape
    assert_equal(gradients(cell.backward(tape, state)), gradients(grads))
    assert {part.shape for part in parts(cell(np.zeros((0, I))))} == {(0, H)}


def test_an_option_that_is_not_there_is_told_with_the_one_that_was_meant():
    with pytest.raises(TypeError, match=r"^LSTM: expected the options .*; got peephol; did you mean peephole\?$"):
        rnnfast.LSTM(3, 4, peephol=True)
    with pytest.raises(TypeError, match=r"^GRUCell: expected the options .*; got batch_first$"):
        rnnfast.GRUCell(3, 4, batch_first=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rnnfast.LSTM(3, 9, 2, rng=0, bidirectional=True),
        lambda: rnnfast.MGU(3, 9, rng=0),
        lambda: rnnfast.Dense(3, 9, rng=0),
    ],
    ids=["fused", "described", "head"],
)
def test_what_dx_is_made_of_is_packed_where_it_is_wanted(make):
    """A backward without dx packs nothing for it; the next one, of the same weights, has it all the same."""
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    part, fresh = make(), make()
    packed = part._packed if isinstance(part, rnnfast.Dense) else part._recurrence.walk.packed(False)[0]
    found = []
    for one, wants in ((part, False), (part, True), (part, False), (fresh, True)):
        y, *_, tape = one.forward(x)
        found.append(one.backward(tape, y, input_gradient=wants))
        assert ("backward" in packed._panels) == (len(found) > 1)
    assert found[0].x is None
    assert found[1].x.tobytes() == found[3].x.tobytes()
    for one in found:
        assert one.params.flat.tobytes() == found[3].params.flat.tobytes()
