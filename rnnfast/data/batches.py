"""Sequences and their targets, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import _checks
from .._checks import Array
from .ragged import Packed, batches_of, bucketed, pack, padded
from .sequences import Ids, checked_sequence, checked_sequences

__all__ = ["Batch", "Batches"]


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
        return batches_of(order, self.batch_size)

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
            checked_sequences(name, column, self._counts)
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
        array = checked_sequence(name, value)
        if len(array) != len(self._counts):
            raise ValueError(
                f"{name}: expected {len(self._counts)} values, one per sequence (last_only=True), "
                f"got {_checks.describe(array)}"
            )
        return array

    def _take(self, column: Array | list[Array], rows: Ids) -> Array:
        """The sequences `rows` side by side."""
        if isinstance(column, list):
            return padded([column[row] for row in rows], self.batch_first).x
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
        return checked_sequences(name, value)
    array = _checks.numbers(name, value)
    if array.ndim < 2:
        raise ValueError(
            f"{name}: expected [T, N, ...], or a list of sequences [T_i, ...], got {_checks.describe(array)}"
        )
    return array
