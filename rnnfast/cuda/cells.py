"""The gate arithmetic of the kinds that the persistent engine has, forward and backward, written by hand.

Per unit and row: `forward_function` finishes a step from its gates' sums, `backward_function` turns
the gradient of a state into those of the gates. `sequence.CELLS` says in which order they keep and return things;
what a cell has none of is zero. The formulas are those of csrc/cells/.

The Elman kinds are one family: their kernels are the same, and which activation it is, their *variant*, is a number
that all threads branch on alike. It takes a third of the compiling away.

Sigmoid takes the fast exponential and reciprocal, whose relative errors (2^-21) are far below what the contract
allows. tanh is libdevice's: the fast form 2 s(2x) - 1 has an *absolute* error of 1e-7, which is all there is to a
state of 1e-6.

Rejected: approximations by precision ("tf32" and "bfloat16" would save a dozen instructions of the hundreds in a step's
pointwise part); `tanh.approx` (relative error 2^-11).
"""

from __future__ import annotations

from typing import Any

from . import shim
from .shim import float32

__all__ = ["backward_function", "family_of", "forward_function", "sigmoid"]

Function = Any  # a device function
_ZERO, _ONE = float32(0), float32(1)


@shim.device
def sigmoid(x: Any) -> Any:
    """The logistic function."""
    return shim.reciprocal_fast(_ONE + shim.exp_fast(-x))


@shim.device
def _lstm(variant: Any, x0: Any, x1: Any, x2: Any, x3: Any, s0: Any, s1: Any, s2: Any, s3: Any, h: Any, c: Any) -> Any:
    i, f, g, o = sigmoid(x0 + s0), sigmoid(x1 + s1), shim.tanh(x2 + s2), sigmoid(x3 + s3)
    c_new = f * c + i * g
    return o * shim.tanh(c_new), c_new, i, f, g, o


@shim.device
def _lstm_backward(variant: Any, dh: Any, dc: Any, h: Any, c: Any, i: Any, f: Any, g: Any, o: Any) -> Any:
    tanh_c = shim.tanh(f * c + i * g)
    dc_new = dc + dh * o * (_ONE - tanh_c * tanh_c)
    di, df = dc_new * g * i * (_ONE - i), dc_new * c * f * (_ONE - f)
    dg, do = dc_new * i * (_ONE - g * g), dh * tanh_c * o * (_ONE - o)
    return di, df, dg, do, _ZERO, dc_new * f


@shim.device
def _gru_after(
    variant: Any, x0: Any, x1: Any, x2: Any, x3: Any, s0: Any, s1: Any, s2: Any, s3: Any, h: Any, c: Any
) -> Any:
    r, z = sigmoid(x0 + s0), sigmoid(x1 + s1)
    n = shim.tanh(x2 + r * s2)
    return n + z * (h - n), _ZERO, r, z, n, s2


@shim.device
def _gru_after_backward(variant: Any, dh: Any, dc: Any, h: Any, c: Any, r: Any, z: Any, n: Any, s: Any) -> Any:
    dn = dh * (_ONE - z) * (_ONE - n * n)
    return dn * r, dn * s * r * (_ONE - r), dh * (h - n) * z * (_ONE - z), dn, dh * z, _ZERO


@shim.device
def _elman(variant: Any, x0: Any, x1: Any, x2: Any, x3: Any, s0: Any, s1: Any, s2: Any, s3: Any, h: Any, c: Any) -> Any:
    z = x0 + s0
    if variant == 0:
        h_new = shim.tanh(z)
    elif variant == 1:
        h_new = _ZERO if z < _ZERO else z  # a NaN stays one
    else:
        h_new = sigmoid(z)
    return h_new, _ZERO, h_new, _ZERO, _ZERO, _ZERO


@shim.device
def _elman_backward(variant: Any, dh: Any, dc: Any, h: Any, c: Any, h_new: Any, k1: Any, k2: Any, k3: Any) -> Any:
    if variant == 0:
        derivative = _ONE - h_new * h_new
    elif variant == 1:
        derivative = _ZERO if h_new <= _ZERO else _ONE
    else:
        derivative = h_new * (_ONE - h_new)
    return dh * derivative, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO


_FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "elman_tanh": (_elman, _elman_backward),
    "lstm": (_lstm, _lstm_backward),
    "gru_after": (_gru_after, _gru_after_backward),
}
_ELMAN = ("elman_tanh", "elman_relu", "elman_sigmoid")


def family_of(kind: str) -> tuple[str, int]:
    """The family, whose kinds share their kernels and which has the name of its first, and the kind's number in it."""
    return (_ELMAN[0], _ELMAN.index(kind)) if kind in _ELMAN else (kind, 0)


def forward_function(family: str) -> Function:
    """``f(variant, x0, x1, x2, x3, s0, s1, s2, s3, h, c) -> (h_new, c_new, k0, k1, k2, k3)``.

    x is the input side of the gates and s the recurrent side, in gate order; the biases belong to x, but `gru_after`'s
    b_hn belongs to s2. h and c are the states that the step reads, k what backward needs.
    """
    return _FUNCTIONS[family][0]


def backward_function(family: str) -> Function:
    """``f(variant, dh, dc, h, c, k0, k1, k2, k3) -> (g0, g1, g2, g3, direct, dc_prev)``.

    g are the gates' gradients in the order of their slots, `direct` is the part of dh_prev that does not pass through
    U.
    """
    return _FUNCTIONS[family][1]
