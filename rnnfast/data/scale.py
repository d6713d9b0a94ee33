"""Features of mean 0 and standard deviation 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _checks
from .._checks import Array
from .sequences import checked_sequence, checked_sequences

__all__ = ["Standardizer"]


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

    def _scaled(self, x: Any, scale: Callable[[Array], Array]) -> Any:
        if _is_ragged(x):
            return [self._scaled(one, scale) for one in x]
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
        return np.concatenate(checked_sequences("x", x)).astype(np.float64)
    array = checked_sequence("x", x).astype(np.float64)
    if lengths is not None:
        if array.ndim != 3:
            raise ValueError(f"lengths: expected x with 3 axes to go with lengths, got {_checks.describe(array)}")
        rows = array if batch_first else array.swapaxes(0, 1)
        ends = np.asarray(_checks.lengths(lengths, rows.shape[1], rows.shape[0]))
        return rows[np.arange(rows.shape[1]) < ends[:, None]]
    return array if array.ndim == 1 else array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
