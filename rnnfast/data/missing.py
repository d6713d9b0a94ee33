"""Missing values: what goes into the holes, which steps to skip, how long ago a value was seen."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _checks
from .._checks import Array

__all__ = ["Filled", "fill_missing", "time_since"]


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
