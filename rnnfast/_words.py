"""Types by which a type checker finds mistakes: the options that are one of a few words, and a cell's states.

At run time `_checks.choice` finds a wrong word, from the tuples beside the code that reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ._checks import Array

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with default=, which Python's own has from 3.13 on

    State = TypeVar("State", default=Any)
    """An array, or a tuple of arrays; of `Recurrent` with a user's cell nobody says which."""
else:
    from typing import TypeVar

    State = TypeVar("State")

__all__ = [
    "Activation",
    "Array",
    "DeviceName",
    "Method",
    "NonFinite",
    "Pooling",
    "Precision",
    "Scheme",
    "State",
    "StreamWeights",
]

Activation = Literal["identity", "sigmoid", "tanh", "softmax", "relu", "gelu", "silu", "softplus", "elu"]
DeviceName = Literal["cpu", "cuda"]
Method = Literal["snap1", "rflo", "rtrl"]
NonFinite = Literal["raise", "skip", "apply"]
Pooling = Literal["last", "mean", "max"]
Precision = Literal["float32", "tf32", "bfloat16"]
Scheme = Literal["pytorch", "xavier", "ids"]
StreamWeights = Literal["float32", "float64", "bfloat16"]
