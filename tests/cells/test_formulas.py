"""Each cell of the catalogue: its step against the paper's formula, its gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from cells.formulas import FORMULAS
from cells.problems import MASKS, Problem, hidden_size

from rnnfast import reference
from rnnfast.description import Cell, Gate
from rnnfast.description.cells import CATALOGUE
from rnnfast.description.functions import lerp, sigmoid, sin, tanh


class Pendulum(Cell):
    """A cell that nobody has published: units are driven pendulums, with friction that a gate sets.

    ::

        speed = (1 - dt * sigmoid(brake)) * speed_prev + dt * (tanh(push) - omega * sin(angle_prev))
        angle = angle_prev + dt * speed
        y     = level * sin(angle) + (1 - level) * y_prev        with level = sigmoid(U_level speed + W_level x)
    """

    name = "pendulum"
    states = ("y", "angle", "speed")
    gates = (Gate("push", h=False), "brake", Gate("level", h="row"))
    vectors = ("omega",)
    dt: float = 0.5

    def step(self, gate, state, vector):
        force = tanh(gate.push) - vector.omega * sin(state.angle)
        speed = (1.0 - self.dt * sigmoid(gate.brake)) * state.speed + self.dt * force
        angle = state.angle + self.dt * speed
        return lerp(sigmoid(gate.level(speed)), sin(angle), state.y), angle, speed


def pendulum(p, x, state, given, cell):
    y, angle, speed = state
    a_x = x @ p["weight_ih"].T + p["bias_ih"]
    push, brake, level = np.split(a_x, 3, axis=1)
    u_brake, u_level = np.split(p["weight_hh"], 2)
    b_brake, b_level = np.split(p["bias_hh"], 2)
    friction = 1.0 / (1.0 + np.exp(-(brake + y @ u_brake.T + b_brake)))
    speed = speed + 0.5 * (np.tanh(push) - p["omega"] * np.sin(angle) - friction * speed)
    angle = angle + 0.5 * speed
    level = 1.0 / (1.0 + np.exp(-(level + speed @ u_level.T + b_level)))
    return level * np.sin(angle) + (1.0 - level) * y, angle, speed


CELLS = CATALOGUE | {"pendulum": Pendulum()}
STEPS = FORMULAS | {"pendulum": pendulum}


def problem(name, mask):
    cell = CELLS[name]
    return Problem(cell, T=4, B=3, input_size=3, hidden_size=hidden_size(cell), mask=mask)


def by_the_paper(one):
    """The formula, row by row and step by step, with the masks as they are defined: y of every state, final states."""
    (steps, rows), masks = one.x.shape[:2], one.masks
    step, given = STEPS[next(name for name, cell in CELLS.items() if cell == one.cell)], one.named_given
    outputs = [np.zeros((steps, *value.shape)) for value in one.state]
    final = [value.copy() for value in one.state]
    for b in range(rows):
        state = [value[b : b + 1] for value in one.state]
        for t in range(masks.get("lengths", np.full(rows, steps))[b]):
            if "resets" in masks and masks["resets"][t, b]:
                state = [value[b : b + 1] for value in one.reset_state]
            if not ("skip" in masks and masks["skip"][t, b]):
                now = {name: value[t, b : b + 1] for name, value in given.items()}
                state = step(one.params, one.x[t, b : b + 1], tuple(state), now, one.cell)
            for output, value in zip(outputs, state, strict=True):
                output[t, b] = value[0]
        for value, end in zip(state, final, strict=True):
            end[b] = value[0]
    return outputs, final


def test_every_cell_has_a_formula():
    assert list(FORMULAS.keys() ^ CATALOGUE.keys()) == []


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", CELLS)
def test_forward_is_the_paper_s(name, mask):
    one = problem(name, mask)
    outputs, final = by_the_paper(one)
    result = one.forward()
    np.testing.assert_array_equal(result.y, result.outputs[0])
    for state, ours, theirs in zip(one.cell.program().states, result.outputs, outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12, err_msg=state.name)
    for state, ours, theirs in zip(one.cell.program().states, result.state, final, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12, err_msg=state.name)


def paths(one, gradients):
    """What the loss depends on: (label, `forward`'s argument with another value in its place, value, gradient)."""
    yield "x", lambda value: {"x": value}, one.x, gradients.dx
    for name, value in one.params.items():
        yield name, lambda value, name=name: {"params": one.params | {name: value}}, value, gradients.params[name]
    tuples = {"state": gradients.dstate, "reset_state": gradients.d_reset_state, "given": gradients.dgiven}
    for what, found in tuples.items():
        if what == "reset_state" and "resets" not in one.masks:
            continue
        values = getattr(one, what)
        for k, (value, gradient) in enumerate(zip(values, found, strict=True)):

            def with_another(value, what=what, values=values, k=k):
                return {what: (*values[:k], value, *values[k + 1 :])}

            yield f"{what}[{k}]", with_another, value, gradient


@pytest.mark.parametrize("mask", ["none", "all"])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_finite_differences(name, mask):
    """Along random directions, three for each array: of x, each state, each reset state, each parameter, all given.

    A direction moves every element, so that an error in any one shows; elements one by one cost 50 times as much.
    """
    one = problem(name, mask)
    gradients = one.backward(one.forward())
    rng = np.random.default_rng(0)
    for label, changed, value, gradient in paths(one, gradients):
        assert gradient.shape == value.shape, label
        for _ in range(3):
            direction = rng.normal(size=value.shape)
            direction /= max(np.linalg.norm(direction), 1e-30)

            def along(s, value=value, direction=direction, changed=changed):
                return one.loss(**changed(value + s[0] * direction))

            expected = reference.numerical_gradient(along, np.zeros(1), eps=1e-4)[0]
            found = float((gradient * direction).sum())
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-9), label
