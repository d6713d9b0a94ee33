"""The random numbers of dropout and zoneout masks, integer by integer as the kernels make them.

Each number is a function of what it is for, not drawn from a state: a key from ``(seed, layer, stream, step, row)``, a
number from ``(key, unit)``. So a mask depends neither on the number of threads nor on the instruction set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arguments import Array


def _as_words(name: str, value: ArrayLike) -> NDArray[np.uint64]:
    """Integers modulo 2^64."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers of at most 64 bits, got {array.dtype}")
    return np.atleast_1d(array.astype(np.uint64))  # NumPy warns of scalars that overflow, not of arrays


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of the integers of 64 bits: one step of splitmix64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def mix(seed: ArrayLike, *words: ArrayLike) -> Any:
    """One integer of 64 bits from a seed and any number of others, whose order counts.

    Parameters
    ----------
    seed, *words : int or array_like of int
        Taken modulo 2^64. Arrays are broadcast against each other.

    Returns
    -------
    key : uint64 or ndarray of uint64
        Keys for `uniform`.

    Raises
    ------
    TypeError
        If an argument has no integer dtype.

    Examples
    --------
    >>> print(hex(mix(1, 2, 3)))
    0xd0734750fde362b3
    >>> mix(1, [0, 1, 2]).shape  # as of three rows
    (3,)
    """
    shape = np.broadcast_shapes(np.shape(seed), *(np.shape(word) for word in words))
    key = _scramble(_as_words("seed", seed))
    for word in words:
        key = _scramble(key ^ _as_words("words", word))
    return key.reshape(shape)[()]


def uniform(key: ArrayLike, units: ArrayLike) -> Array:
    """The random number in [0, 1) of each unit: equally spread multiples of 2^-24.

    Parameters
    ----------
    key : int or array_like of int
        From `mix`.
    units : int or array_like of int
        Taken modulo 2^32. Broadcast against `key`.

    Returns
    -------
    numbers : ndarray of float64
        The float32 that the kernels use for float32 are the same numbers.

    Raises
    ------
    TypeError
        If an argument has no integer dtype.

    Examples
    --------
    >>> uniform(mix(1, 2, 3), [0, 1, 2])
    array([0.34241486, 0.71109551, 0.15473354])
    >>> uniform(mix(1, [[0], [1]]), range(8)).shape  # two rows of eight units
    (2, 8)
    """
    shape = np.broadcast_shapes(np.shape(key), np.shape(units))
    keys = _as_words("key", key)
    x = (_as_words("units", units) + keys).astype(np.uint32)
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    x = (x ^ x >> np.uint32(16)) ^ (keys >> np.uint64(32)).astype(np.uint32)
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    x = (x ^ x >> np.uint32(16)) >> np.uint32(8)
    return np.ldexp(x.astype(np.float64), -24).reshape(shape)
