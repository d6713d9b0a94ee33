"""Every description's gradients in every path, by finite differences of the oracle's forward pass."""

from __future__ import annotations

import numpy as np
import pytest
from description.descriptions import DESCRIPTIONS
from reference_problems import close

from rnnfast import reference
from rnnfast.description.declarations import declared

T, B, IN, H = 4, 3, 2, 4
LENGTHS = np.array([4, 2, 3])
RESETS = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
SKIP = np.array([[0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]], bool)
MASKED = {"lengths": LENGTHS, "resets": RESETS, "skip": SKIP}


class Problem:
    """A call: arrays by name, and how to compute the loss and its gradients from them."""

    def __init__(self, cell, seed, *, masked, reverse, bias=True):
        rng = np.random.default_rng(seed)
        found = declared(cell)
        widths = {"hidden": H, **found.widths}
        shapes = {state.name: (B, widths[state.width]) for state in found.states}
        self.cell, self.names = cell, list(reference.init_params(cell, IN, H, rng, bias=bias))
        params = reference.init_params(cell, IN, H, rng, bias=bias)
        self.arrays = {name: 2.0 * value for name, value in params.items()} | {"x": rng.normal(size=(T, B, IN))}
        self.states = [f"state {name}" for name in shapes]
        self.resets = [f"reset {name}" for name in shapes] if masked else []
        for names in (self.states, self.resets):
            self.arrays |= dict(zip(names, (rng.normal(size=shape) for shape in shapes.values()), strict=False))
        self.given = [f"given {one.name}" for one in found.given]
        for name, one in zip(self.given, found.given, strict=True):
            self.arrays[name] = rng.normal(size=(T, B) if one.width is None else (T, B, widths[one.width]))
        self.options = {"reverse": reverse, "training": True, "seed": seed, "layer": 3, "first_step": 5}
        self.options |= MASKED if masked else {}
        result = self.forward(self.arrays)
        self.factors = [rng.normal(size=array.shape) for array in (*result.outputs, *result.state)]

    def forward(self, arrays):
        params = {name: arrays[name] for name in self.names}
        given = [arrays[name] for name in self.given]
        reset_state = [arrays[name] for name in self.resets] or None
        states = [arrays[name] for name in self.states]
        return reference.forward(
            self.cell, params, arrays["x"], *states, reset_state=reset_state, given=given, **self.options
        )

    def loss(self, arrays):
        result = self.forward(arrays)
        return sum(
            float((factor * array).sum())
            for factor, array in zip(self.factors, (*result.outputs, *result.state), strict=True)
        )

    def gradients(self):
        count = len(self.states)
        found = reference.backward(self.forward(self.arrays), tuple(self.factors[:count]), *self.factors[count:])
        named = {"x": found.dx} | found.params
        for names, values in (
            (self.states, found.dstate),
            (self.resets, found.d_reset_state),
            (self.given, found.dgiven),
        ):
            named |= dict(zip(names, values, strict=False))
        return named

    def along(self, name, direction, eps):
        """The derivative along a direction: central differences of the fourth order."""

        def at(steps):
            return self.loss(self.arrays | {name: self.arrays[name] + steps * eps * direction})

        return (8.0 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12.0 * eps)

    def compare(self):
        """Each array's gradient along a random direction; False where two step sizes show that a kink is near."""
        gradients = self.gradients()
        assert set(gradients) == set(self.arrays)
        for name, value in self.arrays.items():
            direction = np.random.default_rng(9).normal(size=value.shape)
            direction /= max(np.linalg.norm(direction), 1e-30)
            numerical = self.along(name, direction, 1e-3)
            if abs(numerical - self.along(name, direction, 2e-4)) > 1e-8 * max(1.0, abs(numerical)):
                return False
            assert gradients[name].shape == value.shape
            close((direction * gradients[name]).sum(), numerical, 1e-8)
        return True


@pytest.mark.parametrize(("masked", "reverse"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_gradients(name, masked, reverse):
    seeds = range(100, 130)
    assert any(Problem(DESCRIPTIONS[name], seed, masked=masked, reverse=reverse).compare() for seed in seeds)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_gradients_without_biases(name):
    problem = Problem(DESCRIPTIONS[name], 200, masked=True, reverse=False, bias=False)
    assert not any(parameter.kind == "bias" for parameter in DESCRIPTIONS[name].program(False).parameters)
    assert set(problem.gradients()) == set(problem.arrays)
    assert any(
        Problem(DESCRIPTIONS[name], seed, masked=True, reverse=False, bias=False).compare() for seed in range(30)
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_program_computes_the_step(name, training):
    """Forward of the program, in training and in inference, against the step called with arrays."""
    problem = Problem(DESCRIPTIONS[name], 300, masked=False, reverse=False)
    problem.options["training"] = training
    result = problem.forward(problem.arrays)
    program = problem.cell.program()
    params = reference.layer._complete(program, result.params, result.widths)
    interpreter = reference.interpreter.Interpreter(program, params, result.widths)
    for step in result.steps:
        draw = reference.layer._draw(result.seed, result.layer, result.first_step + step.t, step.rows)
        memory = interpreter.forward(step.x, step.before, step.given, draw, training=training)
        for actual, expected in zip(memory.after, step.after, strict=True):
            close(actual, expected, 1e-14)
