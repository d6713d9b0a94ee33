"""NumPy's arithmetic with denormals taken for zeros, function by function.

Arithmetic on denormals is up to 100 times as slow, and what decays (a probability, an average) ends in them. Each
function sets the mode of this thread and puts the caller's back before it returns: a signal handler, which runs between
two lines of Python, never finds another mode than its own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ._flat import Flushed

__all__ = ["flushing", "flushing_of"]

_UFUNCS = (
    *("absolute", "add", "divide", "exp", "log", "maximum", "minimum", "multiply", "negative", "positive", "sign"),
    *("sqrt", "subtract", "vecdot"),
)

flushing: Any = SimpleNamespace(**{name: Flushed(getattr(np, name)) for name in _UFUNCS}, sum=Flushed(np.add.reduce))
"""Ufuncs by their names in NumPy, and `sum`, which wants to be told its axis."""


def flushing_of(xp: Any) -> Any:
    """The same functions for arrays of NumPy, or of what takes its place on a device, which has no such mode.

    Parameters
    ----------
    xp : module
        NumPy or CuPy.
    """
    return flushing if xp is np else xp
