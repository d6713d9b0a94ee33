"""The oracle's losses: finite differences, numbers worked out by hand, masks, what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference_problems import WEIGHTS, B, T, X, check_every_element

from rnnfast import reference


def loss_cases():
    rng = np.random.default_rng(25)
    features = (T, B, 3)
    p, t = rng.uniform(0.3, 0.7, features), rng.uniform(0, 1, features)
    return {
        "cross_entropy": (reference.softmax_cross_entropy, rng.normal(size=features), rng.integers(0, 3, (T, B)), {}),
        "mse": (reference.mean_squared_error, rng.normal(size=features), rng.normal(size=features), {}),
        "bce": (reference.binary_cross_entropy, p, t, {}),
        "bce_logits": (reference.binary_cross_entropy, rng.normal(size=features), t, {"logits": True}),
    }


LOSS_CASES = loss_cases()


@pytest.mark.parametrize("mask", [None, WEIGHTS, WEIGHTS > 0], ids=["all", "weights", "bool"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSS_CASES)
def test_loss_gradients(name, reduction, mask):
    function, prediction, target, options = LOSS_CASES[name]
    options = options | {"mask": mask, "reduction": reduction}
    _, gradient = function(prediction, target, **options)
    check_every_element(lambda moved: function(moved, target, **options)[0], prediction, gradient)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_loss_mean_divides_by_the_weights_and_sum_adds_entries(name):
    function, prediction, target, options = LOSS_CASES[name]
    entries = np.array([[function(prediction[t, b], target[t, b], **options)[0] for b in range(B)] for t in range(T)])
    features = 1 if name == "cross_entropy" else prediction.shape[-1]
    mean, _ = function(prediction, target, mask=WEIGHTS, **options)
    total, _ = function(prediction, target, mask=WEIGHTS, reduction="sum", **options)
    assert mean == pytest.approx((WEIGHTS * entries).sum() / WEIGHTS.sum(), rel=1e-14)
    assert total == pytest.approx(mean * WEIGHTS.sum() * features, rel=1e-14)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_masked_entries_of_losses_are_not_read(name):
    function, prediction, target, options = LOSS_CASES[name]
    expected = function(prediction, target, mask=WEIGHTS, **options)
    prediction, target = prediction.copy(), target.copy()
    prediction[WEIGHTS == 0] = np.nan
    target[WEIGHTS == 0] = -9 if name == "cross_entropy" else np.nan
    actual = function(prediction, target, mask=WEIGHTS, **options)
    assert actual[0] == expected[0]
    np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSS_CASES)
def test_no_unmasked_entry_gives_zero(name, reduction):
    function, prediction, target, options = LOSS_CASES[name]
    loss, gradient = function(prediction, target, mask=np.zeros((T, B)), reduction=reduction, **options)
    assert loss == 0
    assert not gradient.any()


def test_losses_by_hand():
    loss, gradient = reference.softmax_cross_entropy([[math.log(3), 0.0]], [0])
    assert loss == pytest.approx(math.log(4 / 3), rel=1e-14)
    np.testing.assert_allclose(gradient, [[-0.25, 0.25]], rtol=1e-14)
    loss, gradient = reference.mean_squared_error([[1.0, 5.0]], [[0.0, 2.0]])
    assert loss == 5.0
    np.testing.assert_array_equal(gradient, [[1.0, 3.0]])
    loss, gradient = reference.binary_cross_entropy([[0.25]], [[1.0]])
    assert loss == pytest.approx(math.log(4), rel=1e-14)
    np.testing.assert_allclose(gradient, [[-4.0]], rtol=1e-14)
    loss, gradient = reference.binary_cross_entropy([[-math.log(3)]], [[1.0]], logits=True)
    assert loss == pytest.approx(math.log(4), rel=1e-14)
    np.testing.assert_allclose(gradient, [[-0.75]], rtol=1e-14)


def test_losses_and_activations_do_not_overflow():
    huge = np.array([[800.0, -800.0]])
    assert reference.softmax_cross_entropy(huge, [1])[0] == 1600
    assert reference.binary_cross_entropy(huge, [[0.0, 1.0]], logits=True)[0] == 800
    np.testing.assert_array_equal(reference.sigmoid(huge), [[1.0, 0.0]])
    np.testing.assert_array_equal(reference.softmax(huge), [[1.0, 0.0]])


def test_loss_errors():
    with pytest.raises(ValueError, match="reduction"):
        reference.mean_squared_error(X, X, reduction="none")
    with pytest.raises(ValueError, match="mask"):
        reference.mean_squared_error(X, X, mask=np.full((4, 5), -1.0))
    with pytest.raises(ValueError, match="target"):
        reference.mean_squared_error(X, X[..., :1])
    with pytest.raises(ValueError, match="ids"):
        reference.softmax_cross_entropy(X, np.full((4, 5), 3))
    with pytest.raises(TypeError, match="ids"):
        reference.softmax_cross_entropy(X, np.zeros((4, 5)))
    with pytest.raises(ValueError, match="logits=True"):
        reference.binary_cross_entropy(X, X)
