"""The checksum by which backward knows x again: what changes it, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast import LSTM, _core

RNG = np.random.default_rng(0)


def arrays():
    """Contents of many kinds, among them those in whose bits there is little."""
    size = 40_000
    yield RNG.standard_normal(size).astype(np.float32)
    yield RNG.standard_normal(size)
    yield RNG.integers(0, 2, size).astype(np.float32)
    yield RNG.integers(0, 2, size).astype(np.float64)
    yield RNG.integers(0, 9, size)
    yield np.arange(size, dtype=np.float32)
    yield np.where(RNG.random(size) < 0.5, 1.0, -1.0).astype(np.float32)


def exchanged(array, one, other, count=1):
    """With two runs of elements in each other's place."""
    changed = array.copy()
    changed[one : one + count], changed[other : other + count] = array[other : other + count], array[one : one + count]
    return changed


@pytest.mark.parametrize("number", range(7))
def test_exchanges_show(number):
    """At any distance, of one element and of many; at 12,288 float32 they went unseen once."""
    array = list(arrays())[number]
    seen = _core.checksum(array)
    for distance in (*range(1, 40), *(2**n for n in range(6, 16)), *(3 * 2**n for n in range(5, 14)), 12_288, 24_576):
        for count in (1, 2, 24, min(distance, 512)):
            if distance + count < len(array):
                one = int(RNG.integers(0, len(array) - distance - count))
                changed = exchanged(array, one, one + distance, min(count, distance))
                assert (_core.checksum(changed) == seen) == np.array_equal(changed, array)


@pytest.mark.parametrize("number", range(7))
def test_two_exchanges_that_undo_each_others_sums_show(number):
    array = list(arrays())[number]
    for distance in (2, 4, 8, 24, 96, 512, 12_288):
        for second in (1, 2, 4, 24, 512):
            places = np.array([0, distance, second + distance, second + 2 * distance]) + int(RNG.integers(0, 9000))
            if len(set(places)) == 4:
                changed = array.copy()
                a, b = array[places[0]], array[places[0]] + array.dtype.type(1)
                array[places] = a, b, b, a
                changed[...] = array
                changed[places] = b, a, a, b
                assert _core.checksum(changed) != _core.checksum(array)


def test_any_bit_shows():
    for size in (*range(1, 40), 300):
        array = RNG.integers(0, 256, size * 4, np.uint8)
        view = array.view(np.float32)
        seen = {_core.checksum(view)}
        for bit in range(8 * len(array)):
            array[bit // 8] ^= 1 << bit % 8
            seen.add(_core.checksum(view))
            array[bit // 8] ^= 1 << bit % 8
        assert len(seen) == 8 * len(array) + 1


def test_equal_contents_have_equal_sums():
    """Wherever they lie; in the same strides."""
    array = RNG.standard_normal((7, 5, 3)).astype(np.float32)
    buffer = np.zeros(array.nbytes + 4, np.uint8)[4:].view(np.float32).reshape(array.shape)
    buffer[...] = array
    assert _core.checksum(buffer) == _core.checksum(array)
    for view in (lambda x: x[::2], lambda x: x.transpose(1, 0, 2), lambda x: x[..., ::2], lambda x: x[:, 1:, :2]):
        assert _core.checksum(view(array)) == _core.checksum(view(buffer))
        assert _core.checksum(view(array)) != _core.checksum(view(array + 1))
    assert _core.checksum(array[:0]) == _core.checksum(buffer[:0])


def test_backward_refuses_exchanged_steps():
    layer = LSTM(32, 4, rng=0)
    x = np.zeros((800, 1, 32), np.float32)
    x[::2] = 1.0
    y, _, tape = layer.forward(x)
    x[[0, 385]] = x[[385, 0]]  # 385 steps are 12,320 float32
    x[[1, 384]] = x[[384, 1]]
    with pytest.raises(ValueError, match=r"^tape: expected x as it was in forward"):
        layer.backward(tape, y)
