"""Streams on the device."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from host_kernel import B, H, I, T, normal, on_device, pair, same
from registry import assert_same_bits, map_state, parts

from rnnfast.cuda.arrays import to_device, to_host


@pytest.mark.parametrize("kind", ["lstm", "gru_before"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("as_given", [np.asarray, to_device])
def test_streams(kind, batch_first, as_given):
    _, there = pair(kind, num_layers=2, batch_first=batch_first)
    x = normal(T, B, I)
    order = (lambda array: array.swapaxes(0, 1)) if batch_first else (lambda array: array)
    y, final = there(order(x))
    stream = there.stream(B)
    first = [stream.step(as_given(x[t])) for t in range(2)]
    rest = stream.process(as_given(np.ascontiguousarray(order(x[2:]))))
    assert on_device(*first, rest) == (as_given is to_device)
    assert_same_bits(np.stack([*map(to_host, first), *order(to_host(rest))]), np.ascontiguousarray(order(y)))
    same(map_state(to_host, stream.state), final)

    other = copy.copy(stream)
    stream.reset([0, 2])
    assert not to_host(parts(stream.state)[0])[:, [0, 2]].any()
    same(map_state(to_host, other.state), final)
    other.reset()
    other.state = final
    same(map_state(to_host, other.state), final)
    out = as_given(np.empty((B, H), np.float32))
    assert other.step(as_given(x[0]), out) is out
    there.params.assign(np.zeros(there.params.size))
    assert to_host(other.step(as_given(x[0]))).any(), "the weights are those of the stream's beginning"


def test_streams_of_one_row_and_of_ids():
    _, there = pair("lstm")
    stream = there.stream()
    y, _ = there(np.array([0, 1, 2]), ids=True)
    assert_same_bits(np.concatenate([stream.step(0)[None], stream.process(np.array([1, 2]), ids=True)]), y)
    there.update({"bias_ih_l0": np.ones_like(to_host(there.params["bias_ih_l0"]))})
    assert stream.stale
    stream.refresh()
    stream.reset()
    assert (stream.stale, stream.version) == (False, there.params.version)
    assert_same_bits(stream.process(np.array([0, 1, 2]), ids=True), there(np.array([0, 1, 2]), ids=True)[0])
    for x, message in [(np.full(1, I), "ids in 0..2"), (np.zeros((2, I)), "x: expected"), (np.zeros(I + 1), "x: exp")]:
        with pytest.raises(ValueError, match=message):
            stream.step(x)
    with pytest.raises(ValueError, match="weights: expected 'float32'"):
        there.stream(weights="bfloat16")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(stream)
    with stream._alone(), pytest.raises(RuntimeError, match="another thread"):
        stream.step(0)
    h, c = state = normal(1, 1, H), normal(1, 1, H, seed=1)
    for given in (state, (h[0], c[0]), map_state(to_device, state)):
        stream.reset()
        stream.state = given
        same(map_state(to_host, stream.state), state)
    for wrong, error in [(h, TypeError), ((None, c), TypeError), ((h, c[..., 1:]), ValueError)]:
        with pytest.raises(error, match="state"):
            stream.state = wrong
    with pytest.raises(TypeError, match=r"state\[1\]: expected an array on the CUDA device"):
        stream.state = to_device(h), c
    same(map_state(to_host, stream.state), state)
