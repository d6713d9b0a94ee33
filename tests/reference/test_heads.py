"""The oracle's dense head: finite differences, numbers worked out by hand, what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference_problems import BOTH, IN, B, T, X, check_every_element

from rnnfast import reference


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS.keys() - {"relu"}))
@pytest.mark.parametrize("bias", BOTH)
def test_dense_gradients(activation, bias):
    rng = np.random.default_rng(24)
    params = {"weight": rng.normal(size=(3, IN))} | ({"bias": rng.normal(size=3)} if bias else {})
    x, dy = rng.normal(size=(T, B, IN)), rng.normal(size=(T, B, 3))

    def loss(params, x):
        return float((reference.dense_forward(params, x, activation).y * dy).sum())

    gradients = reference.dense_backward(reference.dense_forward(params, x, activation), dy)
    check_every_element(lambda moved: loss(params, moved), x, gradients.dx)
    assert list(gradients.params) == list(params)
    for name, value in params.items():
        check_every_element(lambda moved, name=name: loss(params | {name: moved}, x), value, gradients.params[name])


def test_dense_by_hand():
    params = {"weight": [[1, 2], [3, 4], [0, 0]], "bias": [0.5, 0, 1]}
    np.testing.assert_array_equal(reference.dense_forward(params, [10, 1]).y, [12.5, 34, 1])
    e = [math.exp(z) for z in (0.5, 0, 1)]
    actual = reference.dense_forward(params, [0, 0], "softmax").y
    np.testing.assert_allclose(actual, [value / sum(e) for value in e], rtol=1e-15)


def test_errors():
    with pytest.raises(ValueError, match="activation"):
        reference.dense_forward({"weight": np.zeros((2, 3))}, X, "swish")
    with pytest.raises(ValueError, match="x: "):
        reference.dense_forward({"weight": np.zeros((2, 4))}, X)
    with pytest.raises(ValueError, match="missing"):
        reference.dense_forward({}, X)
