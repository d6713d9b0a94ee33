"""Activations, each with its derivative as a function of its output."""

from __future__ import annotations

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


def sigmoid_backward(y: Array, dy: Array) -> Array:
    return dy * y * (1.0 - y)


def tanh_backward(y: Array, dy: Array) -> Array:
    return dy * (1.0 - y * y)


def softmax_backward(y: Array, dy: Array) -> Array:
    mean: Array = (dy * y).sum(axis=-1, keepdims=True)
    return y * (dy - mean)


@dataclass(frozen=True)
class Activation:
    """``y = forward(z)`` and ``dz = backward(y, dy)``: all of them can be differentiated from their output."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z: z, lambda y, dy: dy),
    "relu": Activation(relu, lambda y, dy: np.where(y > 0, dy, 0.0)),
    "sigmoid": Activation(sigmoid, sigmoid_backward),
    "softmax": Activation(softmax, softmax_backward),
    "tanh": Activation(np.tanh, tanh_backward),
}
