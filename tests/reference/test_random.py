"""The random numbers of masks: pinned, as the kernels must make the same ones, and as good as they need to be."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast.reference.random import mix, uniform

STEPS, ROWS, UNITS = 16, 64, 1024


@pytest.fixture(scope="module")
def numbers():
    """[steps, rows, units], with the keys of a training call."""
    step, row = np.arange(STEPS)[:, None], np.arange(ROWS)
    return uniform(mix(1, 0, 7, step, row)[:, :, None], np.arange(UNITS))


# Values ---------------------------------------------------------------------------------------------------------------


def test_keys_are_pinned():
    assert mix(0) == 0xE220A8397B1DCDAF  # the first number of splitmix64 with the seed 0
    assert mix(1, 2, 3) == 0xD0734750FDE362B3
    assert mix(2**64 - 1, -1) == mix(-1, 2**64 - 1) == 0x6309143E67A47936
    assert mix(5, 6, 2**63 + 1, -7, -1) == 0x585EF5688FA67EE9


def test_numbers_are_pinned():
    integers = uniform(mix(1, 2, 3), [0, 1, 2, 1000, 2**32 - 1]) * 2**24
    assert integers.tolist() == [5744768, 11930203, 2595998, 12860308, 3371272]


def test_arrays_are_broadcast_and_scalars_stay_scalars():
    keys = mix(1, [[0], [1]], [5, 6, 7])
    assert keys.dtype == np.uint64
    assert keys.tolist() == [[int(mix(1, a, b)) for b in (5, 6, 7)] for a in (0, 1)]
    assert np.ndim(mix(1, 2)) == 0
    found = uniform(keys[:, :, None], range(4))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found[1, 2], [uniform(keys[1, 2], unit) for unit in range(4)])
    assert uniform(3, 7).shape == ()
    assert uniform(mix(1, np.arange(0)), 7).shape == (0,)


def test_units_count_modulo_two_to_the_32():
    np.testing.assert_array_equal(uniform(9, np.arange(2**32 - 3, 2**32 + 3)), uniform(9, np.arange(-3, 3)))


@pytest.mark.parametrize("call", [lambda: mix(0.5), lambda: mix(1, 2.0), lambda: mix(2**64), lambda: uniform(1, [0.0])])
def test_other_than_integers_are_refused(call):
    with pytest.raises(TypeError, match="expected integers of at most 64 bits, got"):
        call()


# Quality --------------------------------------------------------------------------------------------------------------


def chi_square(values, classes):
    """Of counts that should be equal: about normal, with mean 0 and deviation 1."""
    counts = np.bincount(values.ravel(), minlength=classes)
    expected = values.size / classes
    return (((counts - expected) ** 2 / expected).sum() - (classes - 1)) / np.sqrt(2 * (classes - 1))


def test_the_numbers_are_multiples_of_two_to_the_minus_24_below_one(numbers):
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert (np.ldexp(numbers, 24) % 1 == 0).all()


def test_mean_and_variance(numbers):
    """Each within five of its standard deviations; also those of each row, step and unit, of which there are more."""
    assert abs(numbers.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / numbers.size)
    assert abs(numbers.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / numbers.size)
    for axes in ((0, 1), (0, 2), (1, 2)):
        means = numbers.mean(axes)
        assert np.abs(means - 1 / 2).max() < 5 * np.sqrt(1 / 12 * means.size / numbers.size)


@pytest.mark.parametrize("byte", range(3))
def test_each_byte_is_equally_spread(numbers, byte):
    integers = np.ldexp(numbers, 24).astype(np.int64)
    assert abs(chi_square(integers >> 8 * byte & 255, 256)) < 5


@pytest.mark.parametrize("axis", range(3), ids=["steps", "rows", "units"])
@pytest.mark.parametrize("distance", [1, 2, 8])
def test_neighbours_are_independent(numbers, axis, distance):
    """Neither correlated, nor is any pair of their leading four bits more frequent than others."""
    swapped = np.moveaxis(numbers, axis, 0)
    one, other = swapped[:-distance], swapped[distance:]
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)
    pairs = (one * 16).astype(np.int64) * 16 + (other * 16).astype(np.int64)
    assert abs(chi_square(pairs, 256)) < 5


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 33, 63])
def test_each_bit_of_a_key_counts(bit):
    """Half of the bits of the numbers change with one bit of the key, whichever it is."""
    keys, units = mix(np.arange(200))[:, None], np.arange(200)
    before, after = (np.ldexp(uniform(k, units), 24).astype(np.uint32) for k in (keys, keys ^ np.uint64(1 << bit)))
    changes = np.unpackbits((before ^ after).view(np.uint8)).mean() * 32 / 24
    assert abs(changes - 1 / 2) < 0.005


def test_the_order_of_what_makes_a_key_counts():
    few = [mix(a, b, c) for a in range(8) for b in range(8) for c in range(8)]
    assert len(set(map(int, few))) == 8**3
    assert len({int(mix(*[0] * n)) for n in range(1, 9)}) == 8
