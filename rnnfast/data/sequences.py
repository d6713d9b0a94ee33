"""Arrays of different lengths, as a caller hands them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _checks
from .._checks import Array

__all__ = ["Ids", "checked_sequence", "checked_sequences"]

Ids = NDArray[np.int64]


def checked_sequences(name: str, sequences: Iterable[ArrayLike], counts: Ids | None = None) -> list[Array]:
    """Arrays of real numbers and one shape but for the first axis; of these lengths, if any are given."""
    scalar = isinstance(sequences, np.ndarray) and sequences.ndim == 0
    if scalar or isinstance(sequences, str | bytes | Mapping) or not isinstance(sequences, Iterable):
        raise TypeError(f"{name}: expected a list of arrays [T_i, ...], got {_checks.describe(sequences)}")
    arrays = [checked_sequence(f"{name}[{number}]", sequence) for number, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError(f"{name}: expected at least one sequence, got none")
    if counts is not None and len(arrays) != len(counts):
        raise ValueError(f"{name}: expected {len(counts)} sequences, got {len(arrays)}")
    for number, array in enumerate(arrays):
        expected = (len(array) if counts is None else int(counts[number]), *arrays[0].shape[1:])
        _checks.shape(f"{name}[{number}]", array, expected)
    return arrays


def checked_sequence(name: str, sequence: ArrayLike) -> Array:
    """An array of real numbers with at least one axis."""
    array = _checks.numbers(name, sequence)
    if not array.ndim:
        raise ValueError(f"{name}: expected a sequence [T, ...], got {_checks.describe(sequence)}")
    return array
