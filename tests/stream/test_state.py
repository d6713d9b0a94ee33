"""State, resets and copies of streams; their weights are those of the moment."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from registry import ISAS, Case, assert_same, assert_same_bits, map_state, parts
from streams import WITHOUT_GIVEN, rounded

import rnnfast
from rnnfast.stream import Stream


@pytest.mark.parametrize("kind", WITHOUT_GIVEN)
def test_the_state_is_copied_out_and_in(kind):
    case = Case(kind, ISAS[-1], num_layers=2, B=3, H=7, I=5)
    stream, data = case.layer().stream(3), case.data
    given = map_state(np.copy, data.state)
    stream.state = given
    map_state(lambda part: part.fill(np.nan), given)
    assert_same(stream.state, data.state)
    map_state(lambda part: part.fill(np.nan), stream.state)
    assert_same(stream.state, data.state)
    assert [part.shape for part in parts(stream.state)] == [(2, 3, width) for width in case.layout.state_widths]
    for make in (np.asfortranarray, lambda part: part.astype(np.float64), lambda part: part.tolist()):
        stream.reset()
        stream.state = map_state(make, data.state)
        assert_same(stream.state, data.state)
    stream.state = map_state(lambda part: part * np.nan, data.state)
    assert all(np.isnan(part).all() for part in parts(stream.state))
    if kind == "lstm":
        stream.state = list(data.state)
        assert_same(stream.state, data.state)


@pytest.mark.parametrize("kind", ["lstm", "gru_before"])
def test_one_row_takes_a_state_without_the_batch_axis(kind):
    case = Case(kind, ISAS[-1], num_layers=2, B=1, H=7)
    stream, state = case.layer().stream(), case.data.state
    stream.state = map_state(lambda part: part[:, 0], state)
    assert_same(stream.state, state)


@pytest.mark.parametrize("kind", WITHOUT_GIVEN)
def test_reset(kind):
    """Rows by numbers, also from the end, or by a mask; the others go on undisturbed."""
    case = Case(kind, ISAS[-1], num_layers=2, T=8, B=4, H=7, I=5)
    layer, data = case.layer(), case.data
    stream = layer.stream(4)
    for rows, chosen in [
        (None, [0, 1, 2, 3]),
        (2, [2]),
        (-1, [3]),
        ([0, 3], [0, 3]),
        (np.array([1, 1], np.uint8), [1]),
        ([], []),
        ([False, True, True, False], [1, 2]),
        (np.zeros(4, bool), []),
        (range(4), [0, 1, 2, 3]),
    ]:
        stream.state = data.state
        stream.process(data.x[:3])
        stream.reset() if rows is None else stream.reset(rows)
        resets = np.zeros((8, 4), bool)
        resets[3, chosen] = True
        assert_same_bits(stream.process(data.x[3:]), layer(data.x, data.state, resets=resets)[0][3:])


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", WITHOUT_GIVEN)
@pytest.mark.parametrize("how", [Stream.copy, copy.copy, copy.deepcopy])
def test_a_copy_goes_its_own_way(kind, weights, how):
    case = Case(kind, ISAS[-1], num_layers=2, T=20, B=3, H=17, I=5)
    layer, x = case.layer(), case.data.x
    stream = layer.stream(3, weights=weights, num_threads=2)
    stream.process(x[:7])
    other = how(stream)
    assert type(other) is Stream
    assert other is not stream
    assert (repr(other), other.dtype) == (repr(stream), stream.dtype)
    assert_same(other.state, stream.state)
    first = stream.process(x[7:])
    final = stream.state
    other.reset([0])
    other.step(x[0])
    assert_same(stream.state, final)
    stream.reset()
    stream.process(x[:7])
    again = how(stream)
    del stream, layer
    assert_same_bits(again.process(x[7:]), first)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_weights_are_frozen(weights):
    """Neither an update of the layer nor its end reaches a stream."""
    case = Case("gru_after", ISAS[-1], num_layers=2, T=20, B=3)
    layer, x = case.layer(), case.data.x
    stream = layer.stream(3, weights=weights)
    y = stream.process(x)
    layer.update({"weight_hh_l1": np.zeros((99, 33)), "bias_ih_l0": np.ones(99)})
    with layer.params.writing() as flat:
        flat[:50] = 0
    layer(x)  # packs the weights again
    stream.reset()
    assert_same_bits(stream.process(x), y)
    copied = stream.copy()
    copied.reset()
    newer = layer.stream(3, weights=weights).process(x)
    assert (newer != y).any()
    assert_same_bits(newer, rounded(layer, ISAS[-1])(x)[0] if weights == "bfloat16" else layer(x)[0])
    del layer, stream
    assert_same_bits(copied.process(x), y)


def test_what_a_stream_says_of_itself():
    stream = rnnfast.LSTM(5, 7, 2, dtype=np.float64).stream(3)
    assert repr(stream) == "Stream(batch_size=3, input_size=5, hidden_size=7, num_layers=2, weights='float64')"
    assert (stream.batch_size, stream.input_size, stream.hidden_size, stream.num_layers) == (3, 5, 7, 2)
    assert (stream.dtype, stream.weights) == (np.dtype(np.float64), "float64")
    one = rnnfast.RNN(5, 7).stream(weights="bfloat16")
    assert (one.batch_size, one.dtype, one.weights) == (1, np.dtype(np.float32), "bfloat16")
    for name in ("batch_size", "dtype", "weights", "anything"):
        with pytest.raises(AttributeError):
            setattr(stream, name, 1)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_stream_cannot_be_pickled(protocol):
    with pytest.raises(TypeError, match="Stream: cannot be pickled; pickle the layer and"):
        pickle.dumps(rnnfast.GRU(5, 7).stream(), protocol)
