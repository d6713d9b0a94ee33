"""Activations, each with its derivative as a function of its output, or of its input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .arguments import Array


def sigmoid(z: Array) -> Array:
    """The logistic function ``1 / (1 + exp(-z))``, written so that exp cannot overflow."""
    e: Array = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def relu(z: Array) -> Array:
    """``max(z, 0)``; its derivative at 0 is taken as 0. NaN stays NaN."""
    return np.maximum(z, 0.0)


def softmax(z: Array) -> Array:
    """``exp(z) / sum(exp(z))`` over the last axis."""
    e: Array = np.exp(z - z.max(axis=-1, keepdims=True))
    total: Array = e.sum(axis=-1, keepdims=True)
    return e / total


def gelu(z: Array) -> Array:
    """``z Phi(z)``, with the normal distribution's Phi."""
    return z * _normal_cdf(z)


def gelu_backward(z: Array, dy: Array) -> Array:
    density: Array = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return dy * (_normal_cdf(z) + z * density)


def _normal_cdf(z: Array) -> Array:
    """``erfc(-z / sqrt(2)) / 2``."""
    values = [math.erfc(-value / math.sqrt(2)) / 2 for value in z.ravel()]
    return np.array(values, np.float64).reshape(z.shape)


def silu_backward(z: Array, dy: Array) -> Array:
    s = sigmoid(z)
    return dy * s * (1.0 + z * (1.0 - s))


def elu(z: Array) -> Array:
    """``z`` above 0, ``exp(z) - 1`` below."""
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0.0)))


def sigmoid_backward(y: Array, dy: Array) -> Array:
    return dy * y * (1.0 - y)


def tanh_backward(y: Array, dy: Array) -> Array:
    return dy * (1.0 - y * y)


def softmax_backward(y: Array, dy: Array) -> Array:
    mean: Array = (dy * y).sum(axis=-1, keepdims=True)
    return y * (dy - mean)


@dataclass(frozen=True)
class Activation:
    """``y = forward(z)``, and ``dz = backward(y, dy)``, or, where `of_input`, ``dz = backward(z, dy)``."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]
    of_input: bool = False


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z: z, lambda y, dy: dy),
    "elu": Activation(elu, lambda y, dy: dy * np.where(y > 0, 1.0, y + 1.0)),
    "gelu": Activation(gelu, gelu_backward, of_input=True),
    "relu": Activation(relu, lambda y, dy: np.where(y > 0, dy, 0.0)),
    "sigmoid": Activation(sigmoid, sigmoid_backward),
    "silu": Activation(lambda z: z * sigmoid(z), silu_backward, of_input=True),
    "softmax": Activation(softmax, softmax_backward),
    "softplus": Activation(lambda z: np.logaddexp(0.0, z), lambda y, dy: dy * -np.expm1(-y)),
    "tanh": Activation(np.tanh, tanh_backward),
}
