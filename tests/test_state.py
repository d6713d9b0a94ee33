"""What a state is: an array, a tuple of any number of arrays of any widths, a dict of those; None is zeros."""

from __future__ import annotations

import numpy as np
import pytest
from registry import assert_same, assert_same_bits

from rnnfast import _state as states


def of_width(width, rows=3):
    return np.random.default_rng(width).standard_normal((2, rows, width))


STRUCTURES = {
    "an array": of_width(4),
    "a tuple": (of_width(4), of_width(7), of_width(1)),
    "a dict": {"a": of_width(5), "b": (of_width(2), of_width(3))},
    "with holes": {"a": None, "b": (of_width(2), None)},
    "nothing": None,
}


@pytest.mark.parametrize("state", STRUCTURES.values(), ids=list(STRUCTURES))
def test_every_structure(state):
    flat = list(states.arrays(state))
    assert_same(states.map_arrays(lambda array: array, state), state)
    assert_same(states.map_arrays(lambda one, two: one + two, state, state), states.map_arrays(lambda a: 2 * a, state))
    assert states.rows(state) == (3 if flat else None)
    zeroed = states.zero_rows(state, np.array([False, True, False]), np)
    for array, before in zip(states.arrays(zeroed), flat, strict=True):
        assert not array[:, 1].any()
        assert_same_bits(array[:, ::2].copy(), before[:, ::2].copy())


def test_a_list_is_a_tuple():
    assert_same(states.map_arrays(lambda a: a, [of_width(1), None]), (of_width(1), None))
    assert len(list(states.arrays([of_width(1), of_width(2)]))) == 2


def test_other_structures_are_refused():
    with pytest.raises(ValueError, match="zip"):
        states.map_arrays(lambda a, b: a, (of_width(1), of_width(2)), (of_width(1),))


def test_rows_of_a_cell():
    cell = (np.ones((3, 2)), np.ones((3, 5)))
    assert states.rows(cell) == 3
    assert [array.sum() for array in states.arrays(states.zero_rows(cell, np.array([True, False, True]), np))] == [2, 5]
