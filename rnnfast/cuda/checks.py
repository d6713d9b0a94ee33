"""The checks of arrays that lie on the device: `rnnfast._checks`' functions for them, under the same names.

What needs no look at the values is checked as on the host: where an array lies, its dtype, its axes. Values are not
looked at, because the caller would wait for all work before them: ids are not held against their range, nor lengths
against 0..T (the kernels turn such rows into NaN), and lengths that end nothing are not found out.

One call lies in one place. An array of the host among arrays of the device is an error and not copied, which nobody
would notice but by the time it takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .._checks import describe, shape, shaped
from . import arrays

__all__ = [
    "flags",
    "ids",
    "integers",
    "lengths",
    "numbers",
    "output",
    "ragged",
    "real",
    "real_of_shape",
    "shape",
]

Array = Any  # a device array


def numbers(name: str, value: Any) -> Array:
    """`value` as an array of real numbers on the current device; its own memory."""
    if not arrays.is_device_array(value):
        raise TypeError(
            f"{name}: expected an array on the CUDA device, as the call's other arrays, got {_short(value)}"
        )
    try:
        array = arrays.adopt(value)
    except (TypeError, ValueError, BufferError, RuntimeError, AttributeError) as error:
        raise TypeError(f"{name}: expected an array of real numbers, got {type(value).__name__} ({error})") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected an array of real numbers, got one of {array.dtype}")
    if (found := arrays.device_of(array)) != (wanted := arrays.current_device()):
        raise ValueError(
            f"{name}: expected an array on device {wanted}, where the call runs, got one on device {found}"
        )
    return array


def real(name: str, value: Any, dtype: np.dtype[Any], *, contiguous: bool = False, copy: bool = False) -> Array:
    """`value` as an array of `dtype` with unit stride in its last axis and no negative ones."""
    return _converted(name, numbers(name, value), dtype, contiguous, copy)


def _converted(name: str, array: Array, dtype: np.dtype[Any], contiguous: bool, copy: bool) -> Array:
    plain = array.flags.c_contiguous
    if not plain and not contiguous:
        unit = array.shape[-1] == 1 or array.strides[-1] == array.itemsize
        plain = unit and min(array.strides) >= 0
    if array.dtype == dtype and plain and not copy:
        return array
    return array.astype(dtype, order="C")


real_of_shape = shaped(numbers, _converted)


def output(
    name: str, out: Any, expected: tuple[int, ...], dtype: np.dtype[Any], inputs: Iterable[tuple[str, Array | None]]
) -> Array:
    """The caller's CuPy array to write into: it must match exactly and share no memory with an input."""
    if not arrays.is_device_array(out) or arrays.adopt(out) is not out:
        raise TypeError(f"{name}: expected a CuPy array to write into, got {_short(out)}")
    numbers(name, out)
    if out.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {out.dtype}")
    shape(name, out, expected)
    if not out.flags.c_contiguous:
        raise ValueError(f"{name}: expected an array that is c_contiguous, got one that is not")
    for other, array in inputs:
        if array is not None and arrays.xp().may_share_memory(out, array):
            raise ValueError(f"{name}: expected memory of its own, got memory that it shares with {other}")
    return out


def ids(name: str, array: Array, count: int, lengths: Array | None) -> Array:
    """`array` [T, B] of integers as int64 ids."""
    return array.astype(np.int64, order="C") if array.dtype != np.int64 else array


def integers(name: str, value: Any) -> Array:
    """`value` as an array of integers."""
    array = numbers(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    return array


def lengths(value: Any, steps: int, rows: int, *, batched: bool = True) -> Array | None:
    """A copy of the rows' lengths, int64 [B]; an unbatched sequence has one, of no axes or [1]."""
    if value is None:
        return None
    array = integers("lengths", value)
    if not batched and array.ndim == 0:
        array = array[None]
    shape("lengths", array, (rows,), "[B]")
    return array.astype(np.int64, order="C")


def ragged(lengths: Array | None, steps: int) -> Array | None:
    """The lengths: whether they end anything is not looked at."""
    return lengths


def flags(name: str, value: Any, expected: tuple[int, ...], letters: str) -> Array | None:
    """An array of booleans."""
    if value is None:
        return None
    array = numbers(name, value)
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: expected booleans, got dtype {array.dtype}")
    shape(name, array, expected, letters)
    return array


def _short(value: Any) -> str:
    return describe(value) if isinstance(value, np.ndarray) else type(value).__name__
