"""The functions that a step may call. Each works on the symbols of a trace and on NumPy arrays alike.

On arrays, a step is the oracle's step. On symbols, a primitive becomes one operation of the program, and anything else
is composed of primitives. `PRIMITIVES` is the one table: what an operation is in NumPy, and its derivative.

Examples
--------
>>> from rnnfast.description.functions import sigmoid
>>> float(sigmoid(0.0))
0.5
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .symbols import Symbol

__all__ = [
    "PRIMITIVES",
    "Primitive",
    "activation",
    "affine",
    "canonical",
    "clip",
    "cos",
    "elu",
    "exp",
    "expm1",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "lerp",
    "log",
    "log1p",
    "log_sigmoid",
    "maximum",
    "mean",
    "minimum",
    "mish",
    "relu",
    "relu6",
    "scaled_tanh",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "soft_shrink",
    "softplus",
    "softsign",
    "sparse_plus",
    "sqrt",
    "squareplus",
    "stop_gradient",
    "tanh",
    "tanh_shrink",
    "thresholded_relu",
    "where",
]

Row = Any
"""A symbol while a step is traced; an array, [B, width] or [B, 1], or a number otherwise."""


@dataclass(frozen=True)
class Primitive:
    """An operation of the interpreters.

    Attributes
    ----------
    numpy : callable
        The operation on float64 arrays.
    derivative : callable
        `derivative(d, y, *operands)`: what the gradient d of the result y adds to each operand's, None for nothing.
        In backward, a product or a negative that is made here is fused into the sum that it is added to; `d` itself is
        added as it is.
    kept : bool
        Whether backward reads the result from memory rather than computing it again.
    """

    numpy: Callable[..., Any]
    derivative: Callable[..., tuple[Row | None, ...]]
    kept: bool = False


def _sigmoid(x: Row) -> Row:
    e = np.exp(-np.abs(x))  # which cannot overflow
    return np.where(np.asarray(x) >= 0, 1.0, e) / (1.0 + e)


def _softplus(x: Row) -> Row:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


PRIMITIVES: Mapping[str, Primitive] = {
    "add": Primitive(np.add, lambda d, y, a, b: (d, d)),
    "sub": Primitive(np.subtract, lambda d, y, a, b: (d, -d)),
    "mul": Primitive(np.multiply, lambda d, y, a, b: (d * b, d * a)),
    "div": Primitive(np.divide, lambda d, y, a, b: _of_division(d / b, y), kept=True),
    "fma": Primitive(lambda a, b, c: a * b + c, lambda d, y, a, b, c: (d * b, d * a, d)),
    "fnma": Primitive(lambda a, b, c: c - a * b, lambda d, y, a, b, c: (-(d * b), -(d * a), d)),
    "neg": Primitive(np.negative, lambda d, y, a: (-d,)),
    "min": Primitive(np.minimum, lambda d, y, a, b: (where(b - a, d, 0.0), where(b - a, 0.0, d))),
    "max": Primitive(np.maximum, lambda d, y, a, b: (where(a - b, d, 0.0), where(a - b, 0.0, d))),
    "abs": Primitive(np.abs, lambda d, y, a: (d * sign(a),)),
    "sign": Primitive(np.sign, lambda d, y, a: (None,)),
    "sqrt": Primitive(np.sqrt, lambda d, y, a: (0.5 * d / y,), kept=True),
    "exp": Primitive(np.exp, lambda d, y, a: (d * y,), kept=True),
    "expm1": Primitive(np.expm1, lambda d, y, a: (d * (y + 1.0),), kept=True),
    "log": Primitive(np.log, lambda d, y, a: (d / a,), kept=True),
    "log1p": Primitive(np.log1p, lambda d, y, a: (d / (1.0 + a),), kept=True),
    "sin": Primitive(np.sin, lambda d, y, a: (d * cos(a),), kept=True),
    "cos": Primitive(np.cos, lambda d, y, a: (-(d * sin(a)),), kept=True),
    "sigmoid": Primitive(_sigmoid, lambda d, y, a: (d * _apply("d_sigmoid", y),), kept=True),
    "tanh": Primitive(np.tanh, lambda d, y, a: (d * _apply("d_tanh", y),), kept=True),
    "relu": Primitive(lambda a: np.maximum(a, 0.0), lambda d, y, a: (where(y, d, 0.0),), kept=True),
    "softplus": Primitive(_softplus, lambda d, y, a: (d * sigmoid(a),), kept=True),
    "d_sigmoid": Primitive(lambda y: y * (1.0 - y), lambda d, z, y: (d * (1.0 - 2.0 * y),)),
    "d_tanh": Primitive(lambda y: 1.0 - y * y, lambda d, z, y: (-2.0 * d * y,)),
    "lerp": Primitive(lambda z, a, b: b + z * (a - b), lambda d, y, z, a, b: (d * (a - b), d * z, d * (1.0 - z))),
    "where": Primitive(
        lambda c, a, b: np.where(np.greater(c, 0.0), a, b),
        lambda d, y, c, a, b: (None, where(c, d, 0.0), where(c, 0.0, d)),
    ),
    "copy": Primitive(lambda a: a, lambda d, y, a: (d,)),
    "stop": Primitive(lambda a: a, lambda d, y, a: (None,)),
}
"""Every operation that computes, by its name in `program.OPERATIONS`, and the two that a trace alone knows."""


def _of_division(da: Row, y: Row) -> tuple[Row, Row]:
    return da, -(da * y)


def _apply(name: str, *operands: Row) -> Row:
    for operand in operands:
        if isinstance(operand, Symbol):
            return operand.make(name, *operands)
    return PRIMITIVES[name].numpy(*operands)


def sigmoid(x: Row) -> Row:
    """1 / (1 + exp(-x))."""
    return _apply("sigmoid", x)


def tanh(x: Row) -> Row:
    """The hyperbolic tangent."""
    return _apply("tanh", x)


def relu(x: Row) -> Row:
    """max(x, 0); its derivative at 0 is 0."""
    return _apply("relu", x)


def exp(x: Row) -> Row:
    """e to the power x."""
    return _apply("exp", x)


def expm1(x: Row) -> Row:
    """exp(x) - 1, exact for small x."""
    return _apply("expm1", x)


def log(x: Row) -> Row:
    """The natural logarithm."""
    return _apply("log", x)


def log1p(x: Row) -> Row:
    """log(1 + x), exact for small x."""
    return _apply("log1p", x)


def sqrt(x: Row) -> Row:
    """The square root."""
    return _apply("sqrt", x)


def sin(x: Row) -> Row:
    """The sine."""
    return _apply("sin", x)


def cos(x: Row) -> Row:
    """The cosine."""
    return _apply("cos", x)


def softplus(x: Row) -> Row:
    """log(1 + exp(x))."""
    return _apply("softplus", x)


def sign(x: Row) -> Row:
    """-1, 0 or 1; its derivative is 0."""
    return _apply("sign", x)


def minimum(a: Row, b: Row) -> Row:
    """The smaller; where both are equal, the gradient goes to b."""
    return _apply("min", a, b)


def maximum(a: Row, b: Row) -> Row:
    """The larger; where both are equal, the gradient goes to b."""
    return _apply("max", a, b)


def clip(x: Row, low: Row, high: Row) -> Row:
    """x, or the bound that it has reached, where its derivative is 0."""
    return minimum(maximum(x, low), high)


def where(c: Row, a: Row, b: Row) -> Row:
    """a where c > 0, else b; no gradient goes to c, and what is not taken may be NaN."""
    return _apply("where", c, a, b)


def lerp(z: Row, a: Row, b: Row) -> Row:
    """Linear interpolation, b + z * (a - b): a where z is 1, b where it is 0."""
    return _apply("lerp", z, a, b)


def mean(*rows: Row) -> Row:
    """The mean over all units of one or more rows of one width: a number per row of the batch.

    On arrays [B, H], an array [B, 1].
    """
    if not rows:
        raise ValueError("mean: expected at least one row, got none")
    symbol = next((row for row in rows if isinstance(row, Symbol)), None)
    if symbol is None:
        totals = [np.asarray(row).sum(axis=-1, keepdims=True) for row in rows]
        return sum(totals) / (len(rows) * np.asarray(rows[0]).shape[-1])
    nodes = tuple(row.node if isinstance(row, Symbol) else symbol._node(row) for row in rows)
    domains = {node.domain for node in nodes}
    if len(domains) > 1 or None in domains:
        symbol.graph.refuse(ValueError, "rows of one width in a mean", "a number or rows of several widths")
    return Symbol(symbol.graph, symbol.graph.add("mean", nodes))


def stop_gradient(x: Row) -> Row:
    """x, through which no gradient flows."""
    return _apply("stop", x)


def identity(x: Row) -> Row:
    """x."""
    return x


def affine(x: Row, alpha: float = 1.0, beta: float = 0.0) -> Row:
    """alpha * x + beta."""
    return alpha * x + beta


def leaky_relu(x: Row, alpha: float = 0.01) -> Row:
    """x where x > 0, else alpha * x."""
    return where(x, x, alpha * x)


def thresholded_relu(x: Row, alpha: float = 1.0) -> Row:
    """x where x > alpha, else 0."""
    return where(x - alpha, x, 0.0)


def hard_sigmoid(x: Row, alpha: float = 0.2, beta: float = 0.5) -> Row:
    """alpha * x + beta within 0 and 1. The defaults are ONNX's; PyTorch and Keras 3 have alpha = 1/6."""
    return clip(alpha * x + beta, 0.0, 1.0)


def hard_tanh(x: Row) -> Row:
    """x within -1 and 1."""
    return clip(x, -1.0, 1.0)


def scaled_tanh(x: Row, alpha: float, beta: float) -> Row:
    """alpha * tanh(beta * x)."""
    return alpha * tanh(beta * x)


def elu(x: Row, alpha: float = 1.0) -> Row:
    """x where x > 0, else alpha * (exp(x) - 1). Written so that no exp overflows on the side that is not taken."""
    return relu(x) + alpha * expm1(minimum(x, 0.0))


def selu(x: Row) -> Row:
    """Klambauer et al. (2017): a scaled elu that keeps mean 0 and variance 1."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def softsign(x: Row) -> Row:
    """x / (1 + abs(x))."""
    return x / (1.0 + abs(x))


def silu(x: Row) -> Row:
    """x * sigmoid(x), also called swish."""
    return x * sigmoid(x)


def relu6(x: Row) -> Row:
    """x within 0 and 6."""
    return clip(x, 0.0, 6.0)


def hard_silu(x: Row) -> Row:
    """x * relu6(x + 3) / 6, an approximation of silu."""
    return x * hard_sigmoid(x, 1.0 / 6.0, 0.5)


def hard_shrink(x: Row, alpha: float = 0.5) -> Row:
    """x where abs(x) > alpha, else 0."""
    return where(abs(x) - alpha, x, 0.0)


def soft_shrink(x: Row, alpha: float = 0.5) -> Row:
    """x, nearer to 0 by alpha, and 0 where that would change its sign."""
    return relu(x - alpha) - relu(-x - alpha)


def tanh_shrink(x: Row) -> Row:
    """x - tanh(x)."""
    return x - tanh(x)


def log_sigmoid(x: Row) -> Row:
    """log(1 / (1 + exp(-x)))."""
    return -softplus(-x)


def mish(x: Row) -> Row:
    """x * tanh(softplus(x)); Misra (2019)."""
    return x * tanh(softplus(x))


def squareplus(x: Row, beta: float = 4.0) -> Row:
    """(x + sqrt(x^2 + beta)) / 2; Barron (2021)."""
    return 0.5 * (x + sqrt(x * x + beta))


def sparse_plus(x: Row) -> Row:
    """0 up to -1, x from 1 on, and the parabola (x + 1)^2 / 4 between."""
    return relu(x - 1.0) + 0.25 * clip(x + 1.0, 0.0, 2.0) ** 2


_ACTIVATIONS: Mapping[str, tuple[Callable[..., Row], int, int]] = {
    # name: the function, and how few and how many numbers may follow the name
    "affine": (affine, 0, 2),
    "elu": (elu, 0, 1),
    "exponential": (exp, 0, 0),
    "hard_shrink": (hard_shrink, 0, 1),
    "hard_sigmoid": (hard_sigmoid, 0, 2),
    "hard_silu": (hard_silu, 0, 0),
    "hard_tanh": (hard_tanh, 0, 0),
    "identity": (identity, 0, 0),
    "leaky_relu": (leaky_relu, 0, 1),
    "log_sigmoid": (log_sigmoid, 0, 0),
    "mish": (mish, 0, 0),
    "relu": (relu, 0, 0),
    "relu6": (relu6, 0, 0),
    "scaled_tanh": (scaled_tanh, 2, 2),
    "selu": (selu, 0, 0),
    "sigmoid": (sigmoid, 0, 0),
    "silu": (silu, 0, 0),
    "soft_shrink": (soft_shrink, 0, 1),
    "softplus": (softplus, 0, 0),
    "softsign": (softsign, 0, 0),
    "sparse_plus": (sparse_plus, 0, 0),
    "squareplus": (squareplus, 0, 1),
    "tanh": (tanh, 0, 0),
    "tanh_shrink": (tanh_shrink, 0, 0),
    "thresholded_relu": (thresholded_relu, 0, 1),
}
_ALIASES = {
    "celu": "elu",
    "exp": "exponential",
    "hardtanh": "hard_tanh",
    "hardsigmoid": "hard_sigmoid",
    "linear": "identity",
}
_ALIASES |= {"swish": "silu"}


def canonical(spec: Any) -> tuple[str, tuple[Any, ...]]:
    """The name of an activation as `activation` lists it, and its numbers as they are given.

    Raises TypeError or ValueError for an unknown name; the numbers are not looked at.
    """
    name, *numbers = spec if isinstance(spec, tuple | list) and spec else (spec,)
    if not isinstance(name, str):
        raise TypeError(f"activation: expected a name, or a tuple of a name and numbers, got {spec!r}")
    key = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    key = _ALIASES.get(key, key)
    if key not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {list(_ACTIVATIONS)}, got {name!r}")
    return key, tuple(numbers)


def activation(spec: Any) -> Callable[[Row], Row]:
    """The function of a name, or of a name and its numbers.

    Parameters
    ----------
    spec : str or tuple
        "tanh", "relu", ("leaky_relu", 0.01), ("hard_sigmoid", alpha, beta), ...: the names of ONNX ("HardSigmoid"),
        Keras and PyTorch ("hardtanh", "linear", "swish").

    Returns
    -------
    callable
        From a row to a row.

    Raises
    ------
    TypeError, ValueError
        An unknown name, or numbers that it does not take.

    Examples
    --------
    >>> float(activation(("leaky_relu", 0.5))(-2.0))
    -1.0
    """
    key, numbers = canonical(spec)
    function, fewest, most = _ACTIVATIONS[key]
    if not fewest <= len(numbers) <= most:
        count = str(most) if fewest == most else f"{fewest} to {most}"
        raise ValueError(f"activation: expected {count} numbers with {key!r}, got {list(numbers)}")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise TypeError(f"activation: expected numbers with {key!r}, got {list(numbers)}")
    return function if not numbers else lambda x: function(x, *numbers)
