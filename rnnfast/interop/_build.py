"""What all doors do with the weights that came in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import _checks
from .._checks import Array
from .._part import Part

__all__ = ["common_dtype", "filled", "finite", "unique"]


def finite(where: str, value: Any) -> Array:
    """A weight as an array of real numbers, all of them finite."""
    array = _checks.numbers(where, value)
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: expected finite weights, got {np.count_nonzero(~np.isfinite(array))} that are not")
    return array


def common_dtype(arrays: Iterable[Array], dtype: Any = None) -> np.dtype[Any]:
    """float64 if any of the weights is, else float32; or what the caller wants."""
    if dtype is not None:
        return _checks.float_dtype("dtype", dtype)
    return np.dtype(np.float64 if any(array.dtype == np.float64 for array in arrays) else np.float32)


def filled(part: Part, weights: Mapping[str, Array], origin: str) -> Part:
    """The part with its weights in it, and with its origin."""
    part.load(weights)
    part.origin = origin
    return part


def unique(name: str, taken: Iterable[str]) -> str:
    """A name like this that is not taken."""
    names, number, found = set(taken), 1, name
    while found in names:
        number += 1
        found = f"{name}_{number}"
    return found
