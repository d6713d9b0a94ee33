"""From data as it comes to arrays that layers take: ragged lists, long series, episodes, missing values, scales.

Sequences of different lengths become a batch in one of two ways.

- `pad` gives each a row of its own and says where the rows end. `Batches` puts sequences of similar lengths together
  (`bucketed`), so little is padded.
- `pack` lays several sequences end to end in one row; `resets` says where each begins. Only the ends of rows are
  padded, however the lengths of a batch differ, so batches may be any mixture.

They are about as fast: an epoch over 1,000 sequences of 5 to 400 steps took 65 to 78 % of the time that padded rows in
random order took, both ways (an LSTM of 128 units, one thread).

Both give each sequence the same bits as a call of its own.

Arrays are time-major, `[T, B, ...]`, unless `batch_first` says otherwise. They are NumPy's, on the host.

Rejected: a data set class of our own (a list of arrays is one); padding values that mean "nothing" (`lengths` says it);
threads that prepare batches (taking rows of an array costs a thousandth of a step).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks
from ._checks import Array

__all__ = [
    "Batch",
    "Batches",
    "Filled",
    "Packed",
    "Padded",
    "Standardizer",
    "bucketed",
    "fill_missing",
    "from_dones",
    "pack",
    "pad",
    "time_since",
    "windows",
]

Ids = NDArray[np.int64]

_POOL = 32  # batches that are sorted by length together: enough for little padding, few enough to mix well


# ---------------------------------------------------------------------------------------------------------------------
# Sequences of different lengths


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
    return _padded(_sequences("sequences", sequences), first)


def _padded(arrays: list[Array], batch_first: bool) -> Padded:
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
        return _parts(np.argsort(counts, kind="stable"), size)
    generator = _checks.generator("rng", rng)
    order = generator.permutation(len(counts))
    pools = (pool[np.argsort(counts[pool], kind="stable")] for pool in _parts(order, _POOL * size))
    batches = [batch for pool in pools for batch in _parts(pool, size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def _parts(order: Ids, size: int) -> list[Ids]:
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
        arrays = _sequences("sequences", sequences, self.counts)
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
    arrays = _sequences("sequences", sequences)
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


def _sequences(name: str, sequences: Iterable[ArrayLike], counts: Ids | None = None) -> list[Array]:
    """Arrays of real numbers and one shape but for the first axis; of these lengths, if any are given."""
    scalar = isinstance(sequences, np.ndarray) and sequences.ndim == 0
    if scalar or isinstance(sequences, str | bytes | Mapping) or not isinstance(sequences, Iterable):
        raise TypeError(f"{name}: expected a list of arrays [T_i, ...], got {_checks.describe(sequences)}")
    arrays = [_sequence(f"{name}[{number}]", sequence) for number, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError(f"{name}: expected at least one sequence, got none")
    if counts is not None and len(arrays) != len(counts):
        raise ValueError(f"{name}: expected {len(counts)} sequences, got {len(arrays)}")
    for number, array in enumerate(arrays):
        expected = (len(array) if counts is None else int(counts[number]), *arrays[0].shape[1:])
        _checks.shape(f"{name}[{number}]", array, expected)
    return arrays


def _sequence(name: str, sequence: ArrayLike) -> Array:
    array = _checks.numbers(name, sequence)
    if not array.ndim:
        raise ValueError(f"{name}: expected a sequence [T, ...], got {_checks.describe(sequence)}")
    return array


# ---------------------------------------------------------------------------------------------------------------------
# Series, episodes, missing values


def windows(
    series: ArrayLike, steps: int, *, horizon: int = 1, stride: int = 1, batch_first: bool = False
) -> tuple[Array, Array]:
    """Cut a long series into windows, each with what comes next.

    Parameters
    ----------
    series : array_like, shape [N] or [N, ...]
        One number or more at each time.
    steps : int
        T: the steps of a window.
    horizon : int, optional
        The steps after each window that are to be forecast; 0 for windows alone.
    stride : int, optional
        The steps from one window to the next.
    batch_first : bool, optional

    Returns
    -------
    x : ndarray, shape [T, B, ...], or [B, T, ...]
        The windows. A series [N] has an axis of one feature here, [T, B, 1].
    y : ndarray, shape [horizon, B, ...], or [B, horizon, ...]
        What follows them.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, or the series is shorter than `steps + horizon`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.data import windows
    >>> x, y = windows(np.arange(6.0), 3)
    >>> x[:, :, 0].T
    array([[0., 1., 2.],
           [1., 2., 3.],
           [2., 3., 4.]])
    >>> y[0, :, 0]
    array([3., 4., 5.])

    To forecast at every step of a window, and not only after it, shift it by one:

    >>> whole, _ = windows(np.arange(6.0), 4, horizon=0)
    >>> x, target = whole[:-1], whole[1:]
    """
    array = _sequence("series", series)
    if array.ndim == 1:
        array = array[:, None]
    count, ahead = _checks.integer("steps", steps), _checks.integer("horizon", horizon, 0)
    apart, first = min(_checks.integer("stride", stride), len(array) + 1), _checks.truth("batch_first", batch_first)
    if len(array) < count + ahead:
        raise ValueError(f"series: expected at least steps + horizon = {count + ahead} steps, got {len(array)}")
    starts = np.arange(0, len(array) - count - ahead + 1, apart)
    index = starts[:, None] + np.arange(count + ahead)
    index = index if first else index.T
    return (array[index[:, :count]], array[index[:, count:]]) if first else (array[index[:count]], array[index[count:]])


def from_dones(
    terminated: ArrayLike,
    truncated: ArrayLike | None = None,
    *,
    before: ArrayLike | None = None,
    autoreset: str = "same_step",
    batch_first: bool = False,
) -> NDArray[np.bool_]:
    """Where episodes begin, from the flags that say where they end.

    The flags of step t come with the reward of the action at t: the episode ends *after* step t. A layer's `resets` say
    that one begins *before* a step. So the flags of one step are the resets of the next.

    Parameters
    ----------
    terminated, truncated : array_like of bool, shape [T, B] or [T]
        What Gymnasium's `step` returned at each step. One array of both together will do.
    before : array_like of bool, shape [B] (or [2, B], see below), optional
        The flags of the step before the first, which is in the rollout before. By default the first step goes on with
        the state that the layer is given.
    autoreset : {"same_step", "next_step"}, optional
        "same_step": the observation after the end is the next episode's first one. So it is with `AutoresetMode
        .SAME_STEP`, and in a loop that calls `reset` itself. "next_step": one step lies between them, in which the
        last episode's last observation comes, the action does nothing, and the environment is reset: Gymnasium's
        default for vector environments since 1.1. The episode then begins one step later, and `before` has the flags
        of the last two steps, [2, B] or [2]. (Leave the step between out of the loss: its index has the flag set one
        step earlier.)
    batch_first : bool, optional
        The flags are [B, T].

    Returns
    -------
    ndarray of bool
        Of the shape of the flags, for `resets=`.

    Raises
    ------
    TypeError, ValueError
        The flags are not booleans, or their shapes differ.

    Examples
    --------
    >>> from rnnfast.data import from_dones
    >>> from_dones([False, True, False, False], [False, False, False, True]).tolist()
    [False, False, True, False]
    """
    delay = 1 if _checks.choice("autoreset", autoreset, ("same_step", "next_step")) == "same_step" else 2
    first = _checks.truth("batch_first", batch_first)
    done = _checks.numbers("terminated", terminated)
    if done.ndim not in (1, 2):
        raise ValueError(f"terminated: expected [T, B] or [T], got {_checks.describe(done)}")
    done = np.asarray(_checks.flags("terminated", terminated, done.shape, "[T, B]"))
    if truncated is not None:
        done = done | np.asarray(_checks.flags("truncated", truncated, done.shape, "[T, B]"))
    if first and done.ndim == 2:
        done = done.T
    earlier = np.zeros((delay, *done.shape[1:]), np.bool_)
    if before is not None:
        expected = earlier.shape if delay > 1 else earlier.shape[1:]
        flags = np.asarray(_checks.flags("before", before, expected, "[2, B]" if delay > 1 else "[B]"))
        earlier = flags.reshape(earlier.shape)
    resets = np.concatenate([earlier, done])[: len(done)]
    return resets.T.copy() if first and resets.ndim == 2 else resets


class Filled(NamedTuple):
    """A series without holes, and where they were.

    Attributes
    ----------
    x : ndarray, shape [..., I]
        Values in place of those that were missing.
    mask : ndarray of bool, shape [...]
        Of each step, whether it is to be run: `mask=` of a layer.
    observed : ndarray of bool, shape [..., I]
        Of each value, whether it was there.
    """

    x: Array
    mask: NDArray[np.bool_]
    observed: NDArray[np.bool_]


def fill_missing(x: ArrayLike, *, fill: float | str = 0.0, skip: str = "all", batch_first: bool = False) -> Filled:
    """Fill missing values, and say which steps a layer should skip.

    Parameters
    ----------
    x : array_like, shape [T, B, I], [B, T, I] with `batch_first`, or [T, I]
        NaN where a value is missing; or a masked array.
    fill : float or "last", optional
        What goes into the holes: a number, or each feature's last value in the row (0 where there was none yet). After
        `Standardizer.apply`, 0 is the feature's mean.
    skip : {"all", "any"}, optional
        Which steps are skipped: those at which all features are missing, or any.
    batch_first : bool, optional

    Returns
    -------
    Filled
        `x`, `mask` for a layer's `mask=`, and `observed`.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.data import fill_missing
    >>> filled = fill_missing([[1.0, np.nan], [np.nan, np.nan], [3.0, 4.0]], fill="last")
    >>> filled.x.tolist()
    [[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]]
    >>> filled.mask
    array([ True, False,  True])
    """
    holes: Any = np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) else False
    array = _checks.numbers("x", np.ma.getdata(x) if isinstance(x, np.ma.MaskedArray) else x)
    if array.ndim not in (2, 3):
        raise ValueError(f"x: expected [T, B, I] or [T, I], got {_checks.describe(array)}")
    first = _checks.truth("batch_first", batch_first) and array.ndim == 3
    every = _checks.choice("skip", skip, ("all", "any")) == "all"
    observed = ~(np.isnan(array) | holes)
    if isinstance(fill, str):
        _checks.choice("fill", fill, ("last",))
        axis = 1 if first else 0
        steps = np.arange(array.shape[axis]).reshape([-1 if n == axis else 1 for n in range(array.ndim)])
        last = np.maximum.accumulate(np.where(observed, steps, -1), axis=axis)
        filled = np.where(last >= 0, np.take_along_axis(array, np.maximum(last, 0), axis=axis), array.dtype.type(0))
    else:
        filled = np.where(observed, array, _fitting("fill", _checks.number("fill", fill), array.dtype))
    return Filled(filled, observed.any(axis=-1) if every else observed.all(axis=-1), observed)


def _fitting(name: str, value: float, dtype: np.dtype[Any]) -> Any:
    """The number in a dtype, which has to hold it."""
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
    if not limits.min <= value <= limits.max:
        raise ValueError(f"{name}: expected a number within the range of {dtype}, got {value}")
    return dtype.type(value)


def time_since(
    observed: ArrayLike, times: ArrayLike | None = None, *, batch_first: bool = False
) -> NDArray[np.float64]:
    """How long ago each feature was observed last: what `GRUD` calls `delta`.

    Parameters
    ----------
    observed : array_like of bool, shape [T, B, I], [B, T, I] with `batch_first`, or [T, I]
        Where values were there, from `fill_missing`.
    times : array_like, shape [T] or `observed` without its last axis, optional
        When the steps were; by default 0, 1, 2, ...
    batch_first : bool, optional

    Returns
    -------
    ndarray of float64, shape of `observed`
        At t, the time since the last observation before t; since the first step where there was none yet. (Equation 2
        of Che et al. (2018), "Recurrent neural networks for multivariate time series with missing values".)

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or shape.

    Examples
    --------
    >>> from rnnfast.data import time_since
    >>> time_since([[True], [False], [False], [True], [True]])[:, 0].tolist()
    [0.0, 1.0, 2.0, 3.0, 1.0]
    """
    seen = _checks.numbers("observed", observed)
    if seen.ndim not in (2, 3):
        raise ValueError(f"observed: expected [T, B, I] or [T, I], got {_checks.describe(seen)}")
    seen = np.asarray(_checks.flags("observed", observed, seen.shape, "[T, B, I]"))
    first = _checks.truth("batch_first", batch_first) and seen.ndim == 3
    seen = seen.swapaxes(0, 1) if first else seen
    clock = np.arange(len(seen), dtype=np.float64) if times is None else _checks.numbers("times", times)
    if clock.shape != (len(seen),):
        _checks.shape("times", clock, seen.shape[1::-1] if first else seen.shape[:-1])
        clock = clock.T if first else clock
    clock = clock.astype(np.float64).reshape(*clock.shape, *(1,) * (seen.ndim - clock.ndim))
    stamps = np.where(seen, np.broadcast_to(clock, seen.shape), -np.inf)
    stamps[:1] = clock[:1]  # where nothing was seen yet, the time runs from the first step
    last = np.maximum.accumulate(stamps, axis=0)
    since = np.zeros(seen.shape)
    since[1:] = clock[1:] - last[:-1]
    return since.swapaxes(0, 1).copy() if first else since


# ---------------------------------------------------------------------------------------------------------------------
# Scale


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Shifts and scales features to mean 0 and standard deviation 1, and back.

    Fit it on training data alone. It goes into a checkpoint beside the model whose inputs it made:
    ``checkpoint.save(path, model, extra={"scale": standardizer.to_dict()})``.

    Attributes
    ----------
    mean, std : ndarray of float64, shape [I], or [] for series of numbers
        A feature that never changes has a `std` of 1.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.data import Standardizer
    >>> scale = Standardizer.fit([[1.0, 5.0], [3.0, 5.0]])
    >>> scale.apply([[2.0, 5.0], [4.0, 6.0]]).tolist()
    [[0.0, 0.0], [2.0, 1.0]]
    >>> scale.invert([2.0, 1.0]).tolist()
    [4.0, 6.0]
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def fit(cls, x: Any, *, lengths: ArrayLike | None = None, batch_first: bool = False) -> Self:
        """The mean and the standard deviation of each feature.

        Parameters
        ----------
        x : array_like, shape [..., I] or [N], or list of array_like, shape [T_i, I]
            NaN counts as missing.
        lengths : array_like of int, shape [B], optional
            Of `x` [T, B, I]: what lies beyond is not looked at.
        batch_first : bool, optional
            `x` is [B, T, I]; matters to `lengths` only.

        Returns
        -------
        Standardizer

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape, or a feature has no value.
        """
        values = _all_rows(x, lengths, _checks.truth("batch_first", batch_first))
        if np.isinf(values).any():
            raise ValueError("x: expected finite numbers, or NaN where one is missing, got an infinity")
        there = ~np.isnan(values)
        count = there.sum(axis=0)
        if not len(values) or not np.all(count):
            which = f"feature {np.argmin(count)}" if count.size and count.ndim else "x"
            raise ValueError(f"x: expected at least one value of each feature, got none of {which}")
        mean = np.where(there, values, 0.0).sum(axis=0) / count
        apart = np.where(there, values - mean, 0.0)
        mean = mean + apart.sum(axis=0) / count  # what rounding left
        apart = np.where(there, values - mean, 0.0)
        std = np.sqrt((apart * apart).sum(axis=0) / count)
        constant = np.where(there, values, -np.inf).max(axis=0) == np.where(there, values, np.inf).min(axis=0)
        return cls(np.asarray(mean), np.asarray(np.where(constant | (std == 0), 1.0, std)))

    def apply(self, x: Any) -> Any:
        """Standardise: `(x - mean) / std`.

        Parameters
        ----------
        x : array_like, shape [..., I], or list of array_like, shape [T_i, I]

        Returns
        -------
        ndarray, or list of ndarray
            New arrays, of the dtype of `x` if that is a float, else float64.
        """
        if _is_ragged(x):
            return [self.apply(one) for one in x]
        return self._scaled(x, lambda values: (values - self.mean) / self.std)

    def invert(self, x: Any) -> Any:
        """The way back: `x * std + mean`.

        Parameters
        ----------
        x : array_like, shape [..., I], or list of array_like, shape [T_i, I]

        Returns
        -------
        ndarray, or list of ndarray
            As from `apply`.
        """
        if _is_ragged(x):
            return [self.invert(one) for one in x]
        return self._scaled(x, lambda values: values * self.std + self.mean)

    def select(self, features: Any) -> Standardizer:
        """That of some of the features, such as the one that is forecast.

        Parameters
        ----------
        features : int, slice or sequence of int
            By their numbers; of an int, the result is for arrays without an axis of features.

        Returns
        -------
        Standardizer

        Examples
        --------
        >>> Standardizer.fit([[1.0, 5.0], [3.0, 7.0]]).select([1]).mean
        array([6.])
        """
        try:
            return Standardizer(np.asarray(self.mean[features]), np.asarray(self.std[features]))
        except (IndexError, TypeError) as error:
            raise ValueError(f"features: expected numbers of {self.mean.size} features: {error}") from error

    def to_dict(self) -> dict[str, Array]:
        """A form for a checkpoint's `extra`, from which `from_dict` makes an equal one.

        Returns
        -------
        dict
            "mean" and "std".
        """
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_dict(cls, form: Mapping[str, ArrayLike]) -> Self:
        """The one of a dictionary form.

        Parameters
        ----------
        form : mapping
            From `to_dict`; lists will do for the arrays.

        Returns
        -------
        Standardizer

        Raises
        ------
        TypeError, ValueError
            It is no such form.
        """
        if set(_checks.mapping("form", form)) != {"mean", "std"}:
            raise ValueError(f"form: expected the keys mean, std; got {sorted(map(str, form))}")
        mean, std = (_checks.numbers(name, form[name]).astype(np.float64) for name in ("mean", "std"))
        _checks.shape("std", std, mean.shape)
        if mean.ndim > 1 or not np.isfinite(mean).all() or not (np.isfinite(std) & (std > 0)).all():
            raise ValueError("form: expected finite means and deviations above 0, one per feature, got others")
        return cls(mean, std)

    def _scaled(self, x: ArrayLike, scale: Any) -> Array:
        array = _checks.numbers("x", x)
        if self.mean.ndim and array.shape[-1:] != self.mean.shape:
            raise ValueError(f"x: expected {self.mean.size} features in the last axis, got {_checks.describe(array)}")
        result: Array = np.asarray(scale(array.astype(np.float64)))
        return result.astype(array.dtype) if array.dtype.kind == "f" else result


def _is_ragged(x: Any) -> bool:
    """Whether it is a list of sequences, and not an array in the form of lists."""
    return isinstance(x, list | tuple) and any(not isinstance(part, list | tuple) and np.ndim(part) for part in x)


def _all_rows(x: Any, lengths: ArrayLike | None, batch_first: bool) -> NDArray[np.float64]:
    """All values of an array, or of a list of arrays, as [N, I]; or [N]."""
    if _is_ragged(x):
        return np.concatenate(_sequences("x", x)).astype(np.float64)
    array = _sequence("x", x).astype(np.float64)
    if lengths is not None:
        if array.ndim != 3:
            raise ValueError(f"lengths: expected x with 3 axes to go with lengths, got {_checks.describe(array)}")
        rows = array if batch_first else array.swapaxes(0, 1)
        ends = np.asarray(_checks.lengths(lengths, rows.shape[1], rows.shape[0]))
        return rows[np.arange(rows.shape[1]) < ends[:, None]]
    return array if array.ndim == 1 else array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


# ---------------------------------------------------------------------------------------------------------------------
# Batches


class Batch(NamedTuple):
    """What one step of training takes.

    Attributes
    ----------
    x : ndarray, or dict from str to ndarray
        For the model.
    target : ndarray or None
        For the loss.
    inputs : mapping
        Further arguments of the model: `ids` where `x` is ids, `lengths`, `resets`, `mask`, `last_only`.
    weights : ndarray or None
        What the loss takes as `mask`: where there are targets, and what they weigh; None: all alike.
    total : float
        The sum of the weights: how much the batch's loss, a mean, weighs among those of other batches.
    rows : ndarray of int64
        Which sequences are in it.
    packed : Packed or None
        Where they lie, if they are laid end to end.
    last_only, batch_first : bool
        Of the `Batches`.
    """

    x: Any
    target: Any
    inputs: Mapping[str, Any] = MappingProxyType({})
    weights: Array | None = None
    total: float = 1.0
    rows: Ids = np.zeros(0, np.int64)
    packed: Packed | None = None
    last_only: bool = False
    batch_first: bool = False

    def split(self, y: ArrayLike) -> list[Array]:
        """What a model's output has for each sequence, in the order of `rows`.

        Parameters
        ----------
        y : array_like
            The output for `x`.

        Returns
        -------
        list of ndarray, shape [T_i, ...]; or [...], if there is one output per sequence
        """
        array = _checks.numbers("y", y)
        if self.packed is not None:
            return list(self.packed.last(array)) if self.last_only else self.packed.unpack(array)
        rows = list(array if self.last_only or self.batch_first else array.swapaxes(0, 1))
        if self.last_only or "lengths" not in self.inputs:
            return rows
        lengths = self.inputs["lengths"]
        if isinstance(lengths, Mapping):  # the outputs have the steps of the last input
            lengths = lengths.get(list(self.x)[-1], [None] * len(rows))
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def _told(x: Array) -> dict[str, Any]:
    """What a model is told of ids, which have no axis of features; else their shape could be mistaken."""
    return {"ids": True} if x.ndim == 2 and x.dtype.kind in "iu" else {}


class Batches:
    """Sequences and their targets, batch by batch: one pass over it is an epoch.

    Parameters
    ----------
    x : list of array_like, shape [T_i, I] (or ids [T_i]), or array_like, shape [T, N, I] (or ids [T, N])
        N sequences: a list where they have different lengths, or one array, [N, T, ...] with `batch_first`. For a model
        of several inputs a mapping from their names to such; targets at every step are those of the last.
    target : list of array_like, shape [T_i, ...], or array_like, shape [T, N, ...], optional
        As `x`, a target at every step. With `last_only` [N, ...], one for each sequence. None, to predict.
    batch_size : int, optional
        Sequences in a batch; the last one may have fewer.
    lengths : array_like of int, shape [N], optional
        Of `x` in one array; of several inputs by their names.
    resets, mask : as `target`, of bool, optional
        For the model: where segments begin within sequences, and which steps are to be run.
    weights : array_like, shape of the targets without features, optional
        What each target weighs in the loss, or whether it counts at all.
    last_only : bool, optional
        Whether there is one target per sequence, at its end.
    pack : bool, optional
        Whether the sequences of a batch are laid end to end (`pack`), in place of a row for each. Many short rows
        become few long ones. Not for models of two directions together with `last_only`.
    batch_first : bool, optional
        As the model has it.
    rng : optional
        Seed or generator that shuffles, anew for every epoch; by default nothing is shuffled. Sequences of similar
        lengths come together in any case; see `bucketed`.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or shape, or two do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.data import Batches
    >>> batches = Batches([np.ones((n, 2)) for n in (3, 9, 4, 8)], [0, 1, 0, 1], batch_size=2, last_only=True)
    >>> for batch in batches:
    ...     print(batch.x.shape, batch.inputs["lengths"], batch.target)
    (4, 2, 2) [3 4] [0 0]
    (9, 2, 2) [8 9] [1 1]
    """

    def __init__(
        self,
        x: Any,
        target: Any = None,
        *,
        batch_size: int = 32,
        lengths: ArrayLike | None = None,
        resets: Any = None,
        mask: Any = None,
        weights: Any = None,
        last_only: bool = False,
        pack: bool = False,
        batch_first: bool = False,
        rng: Any = None,
    ) -> None:
        self.batch_size = _checks.integer("batch_size", batch_size)
        self.last_only, self.pack = _checks.truth("last_only", last_only), _checks.truth("pack", pack)
        self.batch_first = _checks.truth("batch_first", batch_first)
        self._rng = None if rng is None else _checks.generator("rng", rng)
        self._several = isinstance(x, Mapping)
        if self._several and (not x or self.pack or resets is not None or mask is not None):
            raise ValueError("x: expected one input to go with pack, resets or mask, got several by name, or none")
        given = _lengths_by_name(list(x), lengths) if self._several else {"": lengths}
        self._inputs = {
            str(name): _Input(f"x[{name!r}]" if name else "x", value, given[name], self.batch_first)
            for name, value in (x.items() if self._several else [("", x)])
        }
        last = list(self._inputs.values())[-1]
        self._x, self._counts, self._ragged = last.column, last.counts, last.ragged
        for name, one in self._inputs.items():
            if len(one.counts) != len(self._counts):
                raise ValueError(f"x[{name!r}]: expected {len(self._counts)} sequences, got {len(one.counts)}")
        self._extra = {
            name: self._steps(name, value, flags=True)
            for name, value in (("resets", resets), ("mask", mask))
            if value is not None
        }
        self._target = None if target is None else self._goal("target", target)
        self._weights = None if weights is None else self._goal("weights", weights)
        if self.pack and not self._counts.all():
            raise ValueError(f"x: expected at least one step in each, got none in sequence {self._counts.argmin()}")

    def __len__(self) -> int:
        return -(-len(self._counts) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return (self._batch(rows) for rows in self._order())

    def __repr__(self) -> str:
        how = "packed" if self.pack else "padded" if self._ragged else "of one length"
        return f"Batches({len(self._counts)} sequences, {how}, in {len(self)} batches of {self.batch_size})"

    def _order(self) -> list[Ids]:
        if any(one.ragged for one in self._inputs.values()):
            steps = np.sum([one.counts for one in self._inputs.values()], axis=0)
            return bucketed(steps, self.batch_size, rng=self._rng)
        order = np.arange(len(self._counts)) if self._rng is None else self._rng.permutation(len(self._counts))
        return _parts(order, self.batch_size)

    def _batch(self, rows: Ids) -> Batch:
        if self.pack:
            return self._packed_batch(rows)
        taken = {name: self._take(one.column, rows) for name, one in self._inputs.items()}
        inputs: dict[str, Any] = {name: self._take(value, rows) for name, value in self._extra.items()}
        ends = {name: one.counts[rows] for name, one in self._inputs.items() if one.ragged}
        *_, x = taken.values()
        inputs |= {} if self._several else _told(x)
        lengths = self._counts[rows]
        steps = x.shape[1 if self.batch_first else 0]
        if ends:
            inputs["lengths"] = ends if self._several else lengths
        target = None if self._target is None else self._take(self._target, rows)
        weights = None if self._weights is None else self._take(self._weights, rows)
        if self.last_only:
            inputs["last_only"] = True
        elif self._ragged and (lengths < steps).any():
            within = np.arange(steps) < lengths[:, None]
            within = within if self.batch_first else within.T
            weights = within if weights is None else np.where(within, weights, weights.dtype.type(0))
        entries = len(rows) if self.last_only else len(rows) * steps
        total = float(entries if weights is None else weights.sum(dtype=np.float64))
        given: Any = taken if self._several else x
        return Batch(given, target, inputs, weights, total, rows, None, self.last_only, self.batch_first)

    def _packed_batch(self, rows: Ids) -> Batch:
        packed = pack(self._list(self._x, rows), batch_first=self.batch_first)
        inputs = {name: packed.pack(self._list(value, rows)) for name, value in self._extra.items()}
        inputs |= _told(packed.x)
        inputs["resets"] = inputs["resets"] | packed.resets if "resets" in inputs else packed.resets
        inputs["lengths"] = packed.lengths

        def placed(value: Any) -> Array:
            return packed.put(value[rows]) if self.last_only else packed.pack(self._list(value, rows))

        if self._weights is not None:
            weights = placed(self._weights)
        elif self.last_only:
            weights = packed.ends
        else:
            weights = packed.pack([np.ones(count, np.bool_) for count in packed.counts])
        target = None if self._target is None else placed(self._target)
        total = float(weights.sum(dtype=np.float64))
        return Batch(packed.x, target, inputs, weights, total, rows, packed, self.last_only, self.batch_first)

    # Columns: a list of N arrays [T_i, ...], or an array with the sequences along one axis

    def _steps(self, name: str, value: Any, *, flags: bool = False) -> Array | list[Array]:
        """A column with something at every step."""
        column = _column(name, value)
        if isinstance(column, list):
            if not isinstance(self._x, list):
                raise TypeError(f"{name}: expected one array, as x is, got a list")
            _sequences(name, column, self._counts)
        elif isinstance(self._x, list):
            raise TypeError(f"{name}: expected a list of {len(self._x)} arrays, as x is, got {_checks.describe(value)}")
        else:
            _checks.shape(name, column, (*self._x.shape[:2], *column.shape[2:]))
        for part in column if isinstance(column, list) else [column]:
            if flags and part.dtype != np.bool_:
                raise TypeError(f"{name}: expected booleans, got dtype {part.dtype}")
        return column

    def _goal(self, name: str, value: Any) -> Array | list[Array]:
        """A column of targets: at every step, or one per sequence."""
        if not self.last_only:
            numbers = isinstance(value, list | tuple) and value and all(np.ndim(one) == 0 for one in value)
            if numbers or (hasattr(value, "ndim") and value.ndim == 1):
                raise ValueError(
                    f"{name}: expected one at every step, got one per sequence; last_only=True takes those"
                )
            return self._steps(name, value)
        array = _sequence(name, value)
        if len(array) != len(self._counts):
            raise ValueError(
                f"{name}: expected {len(self._counts)} values, one per sequence (last_only=True), "
                f"got {_checks.describe(array)}"
            )
        return array

    def _take(self, column: Array | list[Array], rows: Ids) -> Array:
        """The sequences `rows` side by side."""
        if isinstance(column, list):
            return _padded([column[row] for row in rows], self.batch_first).x
        per_sequence = column is self._target or column is self._weights
        axis = 0 if self.batch_first or (self.last_only and per_sequence) else 1
        return column.take(rows, axis=axis)

    def _list(self, column: Array | list[Array], rows: Ids) -> list[Array]:
        """The sequences `rows` one by one."""
        if isinstance(column, list):
            return [column[row] for row in rows]
        whole = column if self.batch_first else column.swapaxes(0, 1)
        return [whole[row, : self._counts[row]] for row in rows]


class _Input:
    """An input of the model: a column, the steps of each sequence, and whether they differ."""

    def __init__(self, name: str, value: Any, lengths: Any, batch_first: bool) -> None:
        self.column = _column(name, value)
        self.ragged = isinstance(self.column, list) or lengths is not None
        if isinstance(self.column, list):
            if lengths is not None:
                raise ValueError("lengths: expected None with a list of sequences, which says it itself, got some")
            self.counts: Ids = np.array([len(array) for array in self.column], np.int64)
            return
        steps, count = (self.column.shape[axis] for axis in ((1, 0) if batch_first else (0, 1)))
        if not count:
            raise ValueError(f"{name}: expected at least one sequence, got none")
        self.counts = np.full(count, steps)
        if lengths is not None:
            self.counts = np.asarray(_checks.lengths(lengths, steps, count))


def _lengths_by_name(names: list[Any], lengths: Any) -> Mapping[Any, Any]:
    """The lengths of several inputs, None where there are none."""
    given = {} if lengths is None else lengths
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        raise ValueError(f"lengths: expected a mapping with names among {names}, got {_checks.describe(lengths)}")
    return {name: given.get(name) for name in names}


def _column(name: str, value: Any) -> Array | list[Array]:
    """A list of arrays, or an array with axes for steps and sequences."""
    if isinstance(value, list | tuple):
        return _sequences(name, value)
    array = _checks.numbers(name, value)
    if array.ndim < 2:
        raise ValueError(
            f"{name}: expected [T, N, ...], or a list of sequences [T_i, ...], got {_checks.describe(array)}"
        )
    return array
