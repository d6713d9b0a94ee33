"""Every operation and every named function: values, derivatives by central differences, names of activations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference_problems import close

from rnnfast import reference
from rnnfast.description import Cell, Gate, functions
from rnnfast.description.functions import PRIMITIVES, activation
from rnnfast.description.program import OPERATIONS

SPECIAL = {"load", "store", "const", "random_step", "random_sequence"}
POSITIVE = {"log", "log1p", "sqrt"}
POINTS = np.array([-2.3, -0.6, -0.11, 0.13, 0.7, 1.9])  # away from every kink
NAMED = {
    "elu": lambda x: functions.elu(x, 0.7),
    "exponential": functions.exp,
    "hard_sigmoid": lambda x: functions.hard_sigmoid(x, 0.3, 0.4),
    "hard_tanh": functions.hard_tanh,
    "identity": functions.identity,
    "leaky_relu": lambda x: functions.leaky_relu(x, 0.2),
    "relu6": lambda x: functions.relu6(4.0 * x),
    "hard_silu": lambda x: functions.hard_silu(2.0 * x),
    "hard_shrink": functions.hard_shrink,
    "soft_shrink": functions.soft_shrink,
    "tanh_shrink": functions.tanh_shrink,
    "log_sigmoid": functions.log_sigmoid,
    "mish": functions.mish,
    "squareplus": functions.squareplus,
    "sparse_plus": functions.sparse_plus,
    "scaled_tanh": lambda x: functions.scaled_tanh(x, 1.7, 0.6),
    "selu": functions.selu,
    "silu": functions.silu,
    "softsign": functions.softsign,
    "thresholded_relu": lambda x: functions.thresholded_relu(x, 0.5),
    "affine": lambda x: functions.affine(x, 2.0, -0.3),
    "clip": lambda x: functions.clip(x, -1.0, 0.5),
    "minimum": lambda x: functions.minimum(x, 0.4 * x + 0.2),
    "maximum": lambda x: functions.maximum(0.3, x),
    "where": lambda x: functions.where(x - 0.5, x * x, 3.0 * x),
    "lerp": lambda x: functions.lerp(x, 2.0 * x, x * x),
    "mean": lambda x: x * functions.mean(x, x * x),
    "abs": abs,
    "square": lambda x: x**2,
    "division": lambda x: (x + 1.0) / (x * x + 2.0),
    "negative": lambda x: -x - 2.0 * -x + (3.0 - x),
    "sin": functions.sin,
    "cos": functions.cos,
    "expm1": functions.expm1,
    "softplus": functions.softplus,
    "log": lambda x: functions.log(x * x + 0.1),
    "log1p": lambda x: functions.log1p(x * x),
    "sqrt": lambda x: functions.sqrt(x * x + 0.1),
    "sign": lambda x: functions.sign(x) * x,
    "relu": functions.relu,
    "sigmoid": functions.sigmoid,
    "tanh": functions.tanh,
}


def test_the_table_has_every_operation():
    assert set(PRIMITIVES) - {"copy", "stop"} == set(OPERATIONS) - SPECIAL


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - SPECIAL))
def test_a_derivative_rule_is_the_derivative(name):
    """The rules work on arrays, too."""
    rng = np.random.default_rng(1)
    operands = [rng.permutation(np.abs(POINTS) if name in POSITIVE else POINTS) for _ in range(OPERATIONS[name])]
    primitive = PRIMITIVES[name]
    d, y = rng.normal(size=POINTS.shape), primitive.numpy(*operands)
    parts = primitive.derivative(d, y, *operands)
    for number, part in enumerate(parts):

        def moved(steps, number=number):
            return primitive.numpy(*(o + steps * 2e-4 if n == number else o for n, o in enumerate(operands)))

        slope = (8.0 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / 24e-4
        close(np.zeros_like(d) if part is None else part, d * slope, 1e-9)


def cell_of(function):
    class Tried(Cell):
        gates = (Gate("x", h=False),)

        def step(self, gate):
            return function(gate.x)

    return Tried()


@pytest.mark.parametrize("name", NAMED)
def test_a_function_s_gradient_through_a_program(name):
    cell = cell_of(NAMED[name])
    x, params = POINTS[None, None, :], {"weight_ih": np.eye(6), "bias_ih": None}
    dy = np.random.default_rng(2).normal(size=x.shape)
    result = reference.forward(cell, params, x)
    close(result.y, NAMED[name](x), 1e-15)

    def loss(moved):
        return float((dy * reference.forward(cell, params, moved).y).sum())

    close(reference.backward(result, dy).dx, reference.numerical_gradient(loss, x))


def test_no_gradient_flows_through_stop_gradient():
    cell = cell_of(lambda x: x * functions.stop_gradient(x))
    x = POINTS[None, None, :]
    result = reference.forward(cell, {"weight_ih": np.eye(6)}, x)
    np.testing.assert_array_equal(result.y, x * x)
    np.testing.assert_array_equal(reference.backward(result, np.ones_like(x)).dx, x)


def test_values_by_hand():
    assert functions.sigmoid(math.log(3)) == pytest.approx(0.75, rel=1e-15)
    assert functions.softplus(0.0) == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_array_equal(functions.softplus(np.array([-1e4, 1e4])), [0.0, 1e4])
    np.testing.assert_array_equal(functions.elu(np.array([-1e4, 1e4])), [-1.0, 1e4])
    assert functions.hard_sigmoid(1.0) == 0.7
    assert functions.softsign(-3.0) == -0.75
    assert functions.selu(2.0) == pytest.approx(2.101401974691)
    assert functions.silu(math.log(3)) == pytest.approx(0.75 * math.log(3))
    assert functions.thresholded_relu(1.0) == 0.0 and functions.thresholded_relu(1.5) == 1.5
    assert functions.leaky_relu(-2.0) == -0.02
    np.testing.assert_array_equal(functions.where(np.array([1.0, 0.0, -1.0]), 7.0, np.nan), [7.0, np.nan, np.nan])
    np.testing.assert_array_equal(functions.mean(np.array([[1.0, 2.0], [3.0, 5.0]]), np.ones((2, 2))), [[1.25], [2.5]])


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ("tanh", functions.tanh),
        ("Tanh", functions.tanh),
        ("linear", functions.identity),
        ("swish", functions.silu),
        ("hardtanh", functions.hard_tanh),
        ("HardSigmoid", functions.hard_sigmoid),
        (("HardSigmoid", 0.5, 0.1), lambda x: functions.hard_sigmoid(x, 0.5, 0.1)),
        (["LeakyRelu", 0.3], lambda x: functions.leaky_relu(x, 0.3)),
        (("ScaledTanh", 1.7, 0.7), lambda x: functions.scaled_tanh(x, 1.7, 0.7)),
        (("thresholded_relu", 0.2), lambda x: functions.thresholded_relu(x, 0.2)),
        (("elu",), functions.elu),
        ("exponential", functions.exp),
    ],
)
def test_activations_by_name(spec, same):
    np.testing.assert_array_equal(activation(spec)(POINTS), same(POINTS))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("gelu", ValueError, "activation: expected one of"),
        (("tanh", 1.0), ValueError, "activation: expected 0 numbers with 'tanh', got"),
        ("scaled_tanh", ValueError, "activation: expected 2 numbers"),
        (("hard_sigmoid", 1, 2, 3), ValueError, "activation: expected 0 to 2 numbers"),
        (("leaky_relu", "a"), TypeError, "activation: expected numbers"),
        (3, TypeError, "activation: expected a name"),
        ((), TypeError, "activation: expected a name"),
    ],
)
def test_activations_that_are_refused(spec, error, message):
    with pytest.raises(error, match=message):
        activation(spec)
