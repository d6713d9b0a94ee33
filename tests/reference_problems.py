"""What the tests of the oracle share: gradients against finite differences, the case they work on, states."""

from __future__ import annotations

import numpy as np

from rnnfast import reference

KINDS = sorted(reference.CELLS)
BOTH = [False, True]
T, B, IN, H = 4, 3, 2, 2
LENGTHS = np.array([4, 0, 3])
RESETS = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]], dtype=bool)
WEIGHTS = np.array([[1, 0, 2], [0.5, 1, 0], [0, 0, 1], [1, 1, 1]])
GOOD = {"weight_ih": np.zeros((8, 3)), "weight_hh": np.zeros((8, 2)), "bias_ih": np.zeros(8)}
X = np.zeros((4, 5, 3))


def close(actual, expected, tolerance=1e-9):
    """Equal up to `tolerance`, relative to the largest expected value or to 1, whichever is larger."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max(initial=0.0)))


def check_gradient(f, value, gradient):
    """The gradient's components in two random directions: an error in any element shows in both."""
    directions = np.random.default_rng(0).normal(size=(2, *value.shape))
    directions /= np.linalg.norm(directions.reshape(2, -1), axis=1).reshape(2, *[1] * value.ndim)
    numerical = reference.numerical_gradient(lambda s: f(value + np.tensordot(s, directions, axes=1)), np.zeros(2))
    assert gradient.shape == value.shape
    close((directions * gradient).reshape(2, -1).sum(axis=1), numerical)


def check_every_element(f, value, gradient):
    close(gradient, reference.numerical_gradient(f, value))


def draw_states(kind, rng, shape, names):
    """Arrays for the names of (h, c), as many as the cell has states."""
    count = len(reference.CELLS[kind].states)
    return {name: rng.uniform(-1, 1, shape) for name in names[:count]}


def relu_margin(result):
    """How far the nearest pre-activation of an elman_relu is from the kink."""
    params = result.params
    bias = params["bias_ih"] + params["bias_hh"]
    return min(
        np.abs(step.x @ params["weight_ih"].T + step.before[0] @ params["weight_hh"].T + bias).min(initial=np.inf)
        for step in result.steps
    )
