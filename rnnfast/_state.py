"""What a state is to its caller, in one place.

A state is an array (a cell that has one), a tuple of arrays (a cell that has several; a list will do), or for a Model a
dict from part name to those. None stands for zeros, as the whole state or as a part of it. In a batch, the rows are the
last axis but one: `[L*D, B, width]` for a layer, `[B, width]` for a cell. The widths may differ from array to array.

Nothing else in the package needs to know this: who works on states says here what is to be done with each array.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["arrays", "map_arrays", "rows", "zero_rows"]


_MOST_LEVELS = 8  # of mappings and tuples in each other, of which a state needs two


def map_arrays(function: Callable[..., Any], state: Any, *others: Any, level: int = 0) -> Any:
    """A state of the same structure, made array by array.

    Parameters
    ----------
    function : callable
        Called with an array of `state`, and with those at the same place in `others`.
    state
        None in it stays None.
    *others
        States of the same structure.
    level : int
        For its own use.

    Returns
    -------
    state
        Tuples in the place of lists.
    """
    _check_level(level)
    deeper: Any = functools.partial(map_arrays, function, level=level + 1)
    if isinstance(state, Mapping):
        return {name: deeper(part, *(other[name] for other in others)) for name, part in state.items()}
    if isinstance(state, tuple | list):
        return tuple(deeper(*parts) for parts in zip(state, *others, strict=True))
    return None if state is None else function(state, *others)


def _check_level(level: int) -> None:
    """A list that is inside itself has no end."""
    if level > _MOST_LEVELS:
        raise ValueError("state: expected an array, or tuples of arrays, got lists in each other without end")


def arrays(state: Any, level: int = 0) -> Iterator[Any]:
    """The arrays of a state in order; the first of a cell's is the one that goes to `y`. `level`: for its own use."""
    _check_level(level)
    if isinstance(state, Mapping | tuple | list):
        for part in state.values() if isinstance(state, Mapping) else state:
            yield from arrays(part, level + 1)
    elif state is not None:
        yield state


def rows(state: Any) -> int | None:
    """The rows of a batched state; None where there is no array to tell by."""
    first = next(arrays(state), None)
    return None if first is None else int(first.shape[-2])


def zero_rows(state: Any, chosen: Any, xp: Any) -> Any:
    """A copy of a batched state with zeros in the rows of the mask `chosen` [B]; `xp` is NumPy or CuPy."""
    return map_arrays(lambda array: xp.where(chosen[:, None], array.dtype.type(0), array), state)
