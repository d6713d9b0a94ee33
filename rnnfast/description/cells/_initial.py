"""Initial weights that more than one cell asks for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def uniform_blocks(shape: tuple[int, ...], blocks: int, rng: np.random.Generator, passed_on: int) -> Array:
    """Blocks of weights [blocks * H, I], uniform with the variance 1 / I; block `passed_on` is the identity if H = I.

    Where a cell's paper has x itself as a row, the cell here has a product of x. With the identity it begins as x.
    """
    size, features = shape[0] // blocks, shape[1]
    values: Array = rng.uniform(-1.0, 1.0, (blocks, size, features)) * math.sqrt(3.0 / max(features, 1))
    if size == features:
        values[passed_on] = np.eye(size)
    return values.reshape(shape)
