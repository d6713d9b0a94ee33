"""Arrays of every make, in and out of a stream."""

from __future__ import annotations

import numpy as np
import pytest
from registry import ISAS, Case, assert_same, assert_same_bits, map_state, parts, swap
from shared import MAKES, Subclass


@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch first"])
@pytest.mark.parametrize("make", list(MAKES.values()), ids=list(MAKES))
def test_every_make_of_array(make, batch_first):
    """As x, block and state; the results are plain arrays with the results of plain arrays."""
    case = Case("lstm", ISAS[-1], num_layers=2, T=6, B=4, H=9, I=5, batch_first=batch_first)
    layer, data = case.layer(), case.data
    block = np.ascontiguousarray(swap(case, data.x))
    y, final = layer(block, data.state)
    stream = layer.stream(4)
    stream.state = map_state(make, data.state)
    result = stream.process(make(block))
    assert type(result) is np.ndarray
    assert_same_bits(result, y)
    assert_same(stream.state, final)
    stream.state = data.state
    steps = [stream.step(make(x), np.empty((4, 9), np.float32)) for x in data.x]
    assert_same_bits(np.stack(steps, axis=1 if batch_first else 0), y)
    one = layer.stream()
    assert_same_bits(one.step(make(data.x[0, 0])), layer(data.x[:1, 0])[0][0])


@pytest.mark.parametrize("dtype", ["f2", "i1", "u2", "i8", ">i4", "bool"])
def test_real_dtypes_are_converted(dtype):
    """An integer array of full rank holds numbers; bool is never ids."""
    layer = Case("gru_after", ISAS[-1], H=9, I=5).layer()
    x = (np.arange(6 * 4 * 5).reshape(6, 4, 5) % 2).astype(dtype)
    y = layer(x.astype(np.float32))[0]
    stream = layer.stream(4)
    assert_same_bits(stream.process(x), y)
    stream.reset()
    assert_same_bits(np.stack([stream.step(row) for row in x]), y)


def test_any_memory_will_do_for_out():
    """A subclass, a part of a larger array, memory that lies next to x."""
    case = Case("lstm", ISAS[-1], T=6, B=4, H=9, I=9)
    layer, x = case.layer(), case.data.x
    y = layer(x)[0]
    memory = np.zeros(2 * x.size, np.float32)
    beside = memory[: x.size].reshape(x.shape)
    beside[...] = x
    for out in (
        memory[x.size :].reshape(y.shape),
        np.empty((9, 4, 9), np.float32)[2:8],
        np.empty(y.shape, np.float32).view(Subclass),
    ):
        stream = layer.stream(4)
        assert stream.process(beside, out) is out
        np.testing.assert_array_equal(out, y)
        stream.reset()
        out[...] = 0
        for row, into in zip(beside, out, strict=True):
            assert stream.step(row, into) is into
        np.testing.assert_array_equal(out, y)
        stream.reset()
        out[...] = 0
        stream.step(beside[0], out=out[0])
        stream.process(block=beside[1:], out=out[1:])
        np.testing.assert_array_equal(out, y)


def test_arguments_are_not_changed():
    case = Case("gru_before", ISAS[-1], num_layers=2, B=4)
    layer, data = case.layer(), case.data
    arguments = [data.x, *parts(data.state), layer.params.flat]
    before = [array.tobytes() for array in arguments]
    stream = layer.stream(4, weights="bfloat16")
    stream.state = data.state
    stream.process(data.x)
    stream.step(data.x[0])
    assert [array.tobytes() for array in arguments] == before
