"""Sequences of different lengths as rows side by side (`pad`), or end to end in rows (`pack`)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _checks
from .._checks import Array
from .sequences import Ids, checked_sequences

__all__ = ["Packed", "Padded", "bucketed", "pack", "pad"]

_POOL = 32  # batches that are sorted by length together: enough for little padding, few enough to mix well


class Padded(NamedTuple):
    """Sequences side by side.

    Attributes
    ----------
    x : ndarray, shape [T, B, ...], or [B, T, ...]
        Zeros beyond the lengths.
    lengths : ndarray of int64, shape [B]
    """

    x: Array
    lengths: Ids


def pad(sequences: Iterable[ArrayLike], *, batch_first: bool = False) -> Padded:
    """A row for each sequence, filled with zeros at its end.

    Parameters
    ----------
    sequences : iterable of array_like, shape [T_i, ...]
        Of one shape but for the first axis, which may be 0.
    batch_first : bool, optional

    Returns
    -------
    Padded
        `x` and `lengths`, which layers, models and losses take.

    Raises
    ------
    TypeError, ValueError
        There is no sequence, or one has another shape, or is not of real numbers; the message says which.

    Examples
    --------
    >>> from rnnfast.data import pad
    >>> x, lengths = pad([[1, 2, 3], [4]])
    >>> x
    array([[1, 4],
           [2, 0],
           [3, 0]])
    >>> lengths
    array([3, 1])
    """
    first = _checks.truth("batch_first", batch_first)
    return padded(checked_sequences("sequences", sequences), first)


def padded(arrays: list[Array], batch_first: bool) -> Padded:
    counts = np.array([len(array) for array in arrays], np.int64)
    x = np.zeros((len(arrays), int(counts.max()), *arrays[0].shape[1:]), np.result_type(*arrays))
    if not batch_first:
        x = np.zeros((x.shape[1], x.shape[0], *x.shape[2:]), x.dtype)
    rows = x if batch_first else x.swapaxes(0, 1)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return Padded(x, counts)


def bucketed(lengths: ArrayLike, batch_size: int, *, rng: Any = None) -> list[Ids]:
    """Which sequences go into which batch, so that those of one batch have similar lengths.

    Parameters
    ----------
    lengths : array_like of int, shape [N]
    batch_size : int
        Sequences in a batch; the last one may have fewer.
    rng : optional
        Seed or generator. Sequences are shuffled, then sorted by length within pools of 32 batches, then the batches
        are shuffled. Without one, all are sorted, the shortest first.

    Returns
    -------
    list of ndarray of int64
        Numbers of sequences; each occurs once.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.

    Examples
    --------
    >>> from rnnfast.data import bucketed
    >>> [batch.tolist() for batch in bucketed([9, 2, 8, 3, 1], 2)]
    [[4, 1], [3, 2], [0]]
    """
    counts = _checks.integers("lengths", lengths)
    if counts.ndim != 1 or (counts < 0).any():
        raise ValueError(f"lengths: expected numbers of at least 0, [N], got {_checks.describe(counts)}")
    size = _checks.integer("batch_size", batch_size)
    if rng is None:
        return batches_of(np.argsort(counts, kind="stable"), size)
    generator = _checks.generator("rng", rng)
    order = generator.permutation(len(counts))
    pools = (pool[np.argsort(counts[pool], kind="stable")] for pool in batches_of(order, _POOL * size))
    batches = [batch for pool in pools for batch in batches_of(pool, size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def batches_of(order: Ids, size: int) -> list[Ids]:
    return [order[start : start + size] for start in range(0, len(order), size)]


@dataclass(frozen=True, eq=False, repr=False)
class Packed:
    """Sequences end to end in rows; made by `pack`.

    Attributes
    ----------
    x : ndarray, shape [T, B, ...], or [B, T, ...]
        Zeros behind the last sequence of a row.
    resets : ndarray of bool, shape [T, B]
        Where a sequence begins.
    lengths : ndarray of int64, shape [B]
        Where each row's last sequence ends.
    row, start, counts : ndarray of int64, shape [N]
        Of each sequence: its row, its first step there, and how many steps it has.
    batch_first : bool
    """

    x: Array
    resets: NDArray[np.bool_]
    lengths: Ids
    row: Ids
    start: Ids
    counts: Ids
    batch_first: bool = False

    def __repr__(self) -> str:
        filled = self.lengths.sum() / max(self.resets.size, 1)
        return f"Packed({len(self.counts)} sequences in x {list(self.x.shape)}, {filled:.0%} filled)"

    @property
    def ends(self) -> NDArray[np.bool_]:
        """Where a sequence has its last step, as `resets`: a mask for a loss that looks at ends alone."""
        found = np.zeros(self.resets.shape, np.bool_)
        found[self._at(self.start + self.counts - 1)] = True
        return found

    def pack(self, sequences: Iterable[ArrayLike]) -> Array:
        """Other sequences of the same lengths, such as targets, in the same places.

        Parameters
        ----------
        sequences : iterable of array_like, shape [T_i, ...]

        Returns
        -------
        ndarray, shape [T, B, ...], or [B, T, ...]

        Raises
        ------
        TypeError, ValueError
            They are not as many, or one has another length.
        """
        arrays = checked_sequences("sequences", sequences, self.counts)
        packed = np.zeros((*self.resets.shape, *arrays[0].shape[1:]), np.result_type(*arrays))
        for number, array in enumerate(arrays):
            packed[self._steps(number)] = array
        return packed

    def put(self, values: ArrayLike) -> Array:
        """A value per sequence, such as its class, at its last step; zeros elsewhere.

        Parameters
        ----------
        values : array_like, shape [N, ...]

        Returns
        -------
        ndarray, shape [T, B, ...], or [B, T, ...]
        """
        array = _checks.numbers("values", values)
        _checks.shape("values", array, (len(self.counts), *array.shape[1:]))
        spread = np.zeros((*self.resets.shape, *array.shape[1:]), array.dtype)
        spread[self._at(self.start + self.counts - 1)] = array
        return spread

    def last(self, y: ArrayLike) -> Array:
        """What an output has at each sequence's last step.

        Parameters
        ----------
        y : array_like, shape [T, B, ...], or [B, T, ...]

        Returns
        -------
        ndarray, shape [N, ...]
        """
        return self._checked(y)[self._at(self.start + self.counts - 1)]

    def unpack(self, y: ArrayLike) -> list[Array]:
        """The parts of an output that belong to each sequence, in the order in which the sequences came.

        Parameters
        ----------
        y : array_like, shape [T, B, ...], or [B, T, ...]

        Returns
        -------
        list of ndarray, shape [T_i, ...]
            Views.
        """
        array = self._checked(y)
        return [array[self._steps(number)] for number in range(len(self.counts))]

    def _checked(self, y: ArrayLike) -> Array:
        array = _checks.numbers("y", y)
        _checks.shape("y", array, (*self.resets.shape, *array.shape[2:]))
        return array

    def _at(self, steps: Ids) -> tuple[Ids, Ids]:
        return (self.row, steps) if self.batch_first else (steps, self.row)

    def _steps(self, number: int) -> tuple[Any, Any]:
        own = slice(self.start[number], self.start[number] + self.counts[number])
        return (self.row[number], own) if self.batch_first else (own, self.row[number])


def pack(sequences: Iterable[ArrayLike], *, steps: int | None = None, batch_first: bool = False) -> Packed:
    """Rows that are filled with sequences end to end.

    The longest sequences are placed first, each into the fullest row that has room (best fit decreasing).

    Parameters
    ----------
    sequences : iterable of array_like, shape [T_i, ...]
        Of one shape but for the first axis, which is at least 1.
    steps : int, optional
        The most steps of a row; by default those of the longest sequence, which it can't be less than.
    batch_first : bool, optional

    Returns
    -------
    Packed
        With `x`, `resets` and `lengths` for a layer, `pack` for targets, `unpack` and `last` for outputs.

    Raises
    ------
    TypeError, ValueError
        There is no sequence, or one has another shape, no step, or more than `steps`; the message says which.

    Notes
    -----
    A layer in two directions starts anew at both ends of each sequence. But what its backward direction ends with
    stands at the sequence's first step, so `last` is for layers of one direction.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnfast
    >>> packed = rnnfast.data.pack([np.ones((n, 3)) for n in (2, 5, 3)])
    >>> packed.x.shape, packed.lengths
    ((5, 2, 3), array([5, 5]))
    >>> y, _ = rnnfast.GRU(3, 4)(packed.x, resets=packed.resets, lengths=packed.lengths)
    >>> [part.shape for part in packed.unpack(y)]
    [(2, 4), (5, 4), (3, 4)]
    """
    first = _checks.truth("batch_first", batch_first)
    arrays = checked_sequences("sequences", sequences)
    counts = np.array([len(array) for array in arrays], np.int64)
    if not counts.all():
        raise ValueError(f"sequences: expected at least one step in each, got none in sequence {counts.argmin()}")
    longest = int(counts.max())
    capacity = longest if steps is None else _checks.integer("steps", steps)
    if longest > capacity:
        raise ValueError(f"steps: expected at least {longest}, as sequence {counts.argmax()} has, got {capacity}")
    row, start, used = _placed(counts, capacity)
    resets = np.zeros((int(used.max()), len(used)), np.bool_)
    resets[start, row] = True
    packed = Packed(np.empty(0), resets.T.copy() if first else resets, used, row, start, counts, first)
    object.__setattr__(packed, "x", packed.pack(arrays))
    return packed


def _placed(counts: Ids, capacity: int) -> tuple[Ids, Ids, Ids]:
    """Each sequence's row and first step, and the steps of each row."""
    row, start = np.empty_like(counts), np.empty_like(counts)
    room: list[tuple[int, int]] = []  # what is free in each row, and the row; sorted
    used: list[int] = []
    for number in np.argsort(-counts, kind="stable"):
        count = int(counts[number])
        place = bisect_left(room, (count, -1))
        if place == len(room):
            used.append(0)
            free, here = capacity, len(used) - 1
        else:
            free, here = room.pop(place)
        row[number], start[number] = here, used[here]
        used[here] += count
        insort(room, (free - count, here))
    return row, start, np.array(used, np.int64)
