"""Gradients of tables by the ids that occurred: the cost of an update does not grow with the vocabulary.

A *table* is a parameter in which an id has a row of its own (the weight of an `Embedding`) or a column (the `weight_ih`
of a layer whose input is ids). Of the many ids of a vocabulary a batch has a few. With ``sparse=True`` a part reads the
rows of those alone, and their gradients are all that there is of its table's gradient: a `SparseGradient`.

>>> import numpy as np
>>> import rnnfast
>>> from rnnfast import optim
>>> layer = rnnfast.LSTM(100_000, 8, sparse=True, init="ids", rng=0)
>>> optimizer = optim.Adam(layer.params, 1e-3)
>>> y, _, tape = layer.forward(np.array([[7, 99_999], [3, 7]]))
>>> grads = layer.backward(tape, np.ones_like(y))
>>> grads.params.sparse["weight_ih_l0"]
SparseGradient(3 of 100000 columns of [32, 100000], float32)
>>> norm = optim.clip_grad_norm(grads.params, 1.0)
>>> optimizer.step(grads.params)  # changes three columns of weight_ih_l0

A) The gradients are those without ``sparse``, to the last bit; ``grads.params[name]`` is the whole array, with its
   zeros, for who wants to look at it. Their common norm is that of all, to rounding.
B) The optimisers are *lazy*: a step leaves a row whose gradient is zero as it was, and so its averages; weight decay
   and momentum do not reach it either. Every other row is changed as it would be by the same step without ``sparse``,
   from the averages that it has. Adam's `t` counts the optimiser's steps, not those of a row. So plain `SGD` without
   weight decay is exactly that without ``sparse``, but for denormal weights, which the other takes for zeros. `Adam` is
   PyTorch's SparseAdam but for two things: `eps` is added where Adam adds it, and a row that occurred with a gradient
   of zero stays. PyTorch has no weight decay there, and no other optimiser with averages; here all are as lazy.
C) `fit`, `TBPTT`, accumulation (``backward(into=)``), groups of parameters, checkpoints and streams are as without
   ``sparse``; an optimiser's state has its usual arrays, of the table's full size, so a checkpoint goes on either way.
   Refused are CUDA devices, `DataParallel` and `Learner`, and a table tied to a parameter that is none: a head that
   shares the weight of an `Embedding` has gradients of every row.

Rejected: choosing it for the caller where the vocabulary is large (other steps of Adam, without a word); a gradient of
the full size with a list of what was touched (a backward into new memory would write all of it); averages of rows that
decay later, by the steps that they missed (neither the dense step nor PyTorch's).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ._checks import Array

__all__ = ["SparseGradient"]


class SparseGradient:
    """The gradient of a table: of the rows or columns of those ids that occurred, zero elsewhere.

    Made by `backward`; ``gradients.sparse`` has those of all tables by name.

    Parameters
    ----------
    shape : tuple of int
        The table's.
    axis : int
        Along which of its axes the ids choose.
    dtype : numpy.dtype
    """

    def __init__(self, shape: tuple[int, ...], axis: int, dtype: np.dtype[Any]) -> None:
        self._shape, self._axis, self._dtype = shape, axis, dtype
        self.clear()

    def clear(self) -> None:
        """Forget everything: a gradient of zeros."""
        self._held = np.zeros(0, np.int64), self._zeros(0)

    @property
    def shape(self) -> tuple[int, ...]:
        """The table's."""
        return self._shape

    @property
    def axis(self) -> int:
        """The axis of the ids."""
        return self._axis

    @property
    def ids(self) -> Array:
        """The ids that occurred, rising; int64 [n]. Where there are steps that nobody reads, 0 may be among them."""
        return self._held[0]

    @property
    def values(self) -> Array:
        """Their gradients: the table's shape with n in the place of the axis of the ids. May be written to."""
        return self._held[1]

    def __repr__(self) -> str:
        what = ("rows", "columns")[self._axis]
        return f"SparseGradient({len(self.ids)} of {self._shape[self._axis]} {what} of {[*self._shape]}, {self._dtype})"

    def dense(self) -> Array:
        """The whole gradient, with its zeros.

        Returns
        -------
        ndarray, shape of the table
            Of its own memory, and read-only: what is written to it would not be seen.
        """
        whole = np.zeros(self._shape, self._dtype)
        whole[self.index(self.ids)] = self.values
        whole.flags.writeable = False
        return whole

    def index(self, ids: Array) -> tuple[Any, ...]:
        """What chooses ids from an array of the table's axes."""
        return (*(slice(None),) * self._axis, ids)

    def at(self, ids: Array) -> Array:
        """A copy of the gradients of some ids, zeros for those that did not occur.

        Parameters
        ----------
        ids : ndarray of int64, shape [n]

        Returns
        -------
        ndarray, shape of `values`
        """
        found = self._zeros(len(ids))
        _, own, theirs = np.intersect1d(self.ids, ids, assume_unique=True, return_indices=True)
        found[self.index(theirs)] = self.values[self.index(own)]
        return found

    def replacing(self, ids: Array, values: Array) -> list[Callable[[], object]]:
        """The calls that put in the gradients of some ids; others stay. `values` may be written before the first.

        Parameters
        ----------
        ids : ndarray of int64, shape [n]
            Rising.
        values : ndarray, shape of `values`

        Returns
        -------
        list of callable
            Calls of compiled code.
        """
        union = np.union1d(self.ids, ids)
        if len(union) == len(ids):
            return [partial(setattr, self, "_held", (ids, values))]
        total = self._zeros(len(union))
        total[self.index(np.searchsorted(union, self.ids))] = self.values
        write: Any = operator.setitem
        return [
            partial(write, total, self.index(np.searchsorted(union, ids)), values),
            partial(setattr, self, "_held", (union, total)),
        ]

    def changed(self) -> tuple[Array, Array]:
        """The ids whose gradients are not all zero, and those: what an optimiser's step is of."""
        others = tuple(axis for axis in range(len(self._shape)) if axis != self._axis)
        used = self.values.any(axis=others)
        return self.ids[used], self.values.compress(used, self._axis)

    def _zeros(self, count: int) -> Array:
        return np.zeros((*self._shape[: self._axis], count, *self._shape[self._axis + 1 :]), self._dtype)
