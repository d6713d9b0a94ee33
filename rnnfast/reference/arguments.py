"""What comes in: checked, as float64 copies; and what stands for something longer: ids for rows, lengths for a mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
State = tuple[Array, ...]
Params = dict[str, Array]


def as_float64(name: str, value: Any, shape: tuple[int, ...] | None = None) -> Array:
    """A float64 copy of `value`, which must be real and have `shape` (None: any)."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return np.array(array, dtype=np.float64)


def as_float64_or_zeros(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape) if value is None else as_float64(name, value, shape)


def as_integers(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array.astype(np.int64)


def check_names(params: Iterable[str], needed: set[str], optional: set[str]) -> None:
    names = set(params)
    missing, surplus = needed - names, names - needed - optional
    if missing or surplus:
        raise ValueError(f"params: missing {sorted(missing)}, surplus {sorted(surplus)}")


def columns(params: Params, name: str) -> int:
    if params[name].ndim != 2:
        raise ValueError(f"{name}: expected a matrix, got shape {params[name].shape}")
    return int(params[name].shape[1])


def choice(name: str, value: str, table: Mapping[str, Any]) -> Any:
    if value not in table:
        raise ValueError(f"{name}: expected one of {sorted(table)}, got {value!r}")
    return table[value]


def one_hot(ids: ArrayLike, size: int) -> Array:
    """Rows of zeros with a one at each id.

    Parameters
    ----------
    ids : array_like of int, shape [...]
    size : int

    Returns
    -------
    ndarray, shape [..., size]

    Raises
    ------
    ValueError
        If an id is not in 0..size-1.
    """
    indices = np.asarray(ids)
    if ((indices < 0) | (indices >= size)).any():
        raise ValueError(f"ids: expected values in 0..{size - 1}, got {indices.min()}..{indices.max()}")
    rows: Array = (indices[..., None] == np.arange(size)).astype(np.float64)
    return rows


def lengths_mask(lengths: ArrayLike | None, T: int, B: int) -> NDArray[np.bool_]:
    """Which rows are active at which steps.

    Parameters
    ----------
    lengths : array_like of int, shape [B], values in 0..T, or None for all T
    T, B : int

    Returns
    -------
    ndarray of bool, shape [T, B]
        True where ``t < lengths[b]``.

    Raises
    ------
    TypeError, ValueError
        If `lengths` is not of integers, not of shape [B], or out of range.
    """
    if lengths is None:
        return np.ones((T, B), dtype=bool)
    counts = as_integers("lengths", lengths, (B,))
    if ((counts < 0) | (counts > T)).any():
        raise ValueError(f"lengths: expected values in 0..{T}, got {counts.min()}..{counts.max()}")
    return np.arange(T)[:, None] < counts
