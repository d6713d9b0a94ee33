"""Keras's activations, by name: as a cell takes them, and as functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import _checks
from .._checks import Array
from ..description.functions import activation as function_of

__all__ = ["SAME", "function", "keras_name", "name_of", "spec_of"]

_SPECIAL: dict[str, Any] = {
    "celu": "elu",
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
    "leaky_relu": ("leaky_relu", 0.2),
    "linear": "identity",
    "sparse_sigmoid": ("hard_sigmoid", 0.5, 0.5),
    "swish": "silu",
}
"""Keras's names whose numbers, or names, are others here."""
SAME = (
    *("elu", "exponential", "hard_shrink", "hard_silu", "hard_tanh", "log_sigmoid", "mish", "relu", "relu6", "selu"),
    *("sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "squareplus", "tanh", "tanh_shrink"),
)
"""Those that are the same."""


def _log_softmax(z: Array) -> Array:
    z = z - z.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))


def _softmax(z: Array) -> Array:
    return np.exp(_log_softmax(z))


def _gelu(z: Array) -> Array:
    erf = np.asarray(np.frompyfunc(math.erf, 1, 1)(z / math.sqrt(2)), z.dtype)
    return np.asarray(0.5 * z * (1 + erf))


_OF_ARRAYS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "log_softmax": _log_softmax,
    "softmax": _softmax,
}
"""Those that a cell has not: of whole rows, or of a function that steps have not."""


def name_of(where: str, value: Any) -> str:
    """The name of an activation; Keras writes some as objects."""
    if isinstance(value, Mapping) and value.get("class_name") == "function":
        value = value.get("config")
    if not isinstance(value, str | None):
        raise ValueError(f"{where}: expected an activation by its name, got {_checks.describe(value)}")
    return value or "linear"


def spec_of(where: str, value: Any) -> Any:
    """An activation as cells take it."""
    name = name_of(where, value)
    found = _SPECIAL.get(name, name if name in SAME else None)
    if found is None:
        known = ", ".join(sorted({*_SPECIAL, *SAME}))
        raise ValueError(f"{where}: expected one of {known}, got {name!r}")
    return found


def function(where: str, value: Any) -> Callable[[Array], Array]:
    """An activation as a function of arrays."""
    name = name_of(where, value)
    return _OF_ARRAYS[name] if name in _OF_ARRAYS else function_of(spec_of(where, name))


def keras_name(where: str, spec: Any) -> str:
    """Keras's name of a cell's activation."""
    spec = spec[0] if isinstance(spec, tuple) and len(spec) == 1 else spec
    if spec in SAME:
        return str(spec)
    for name, own in _SPECIAL.items():
        if spec == own:
            return name
    raise ValueError(f"{where}: expected an activation that Keras has, got {spec!r}")
