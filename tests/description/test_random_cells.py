"""Cells whose steps are random: programs against steps, gradients against finite differences.

What nobody thinks of writing down: values that cross several stages, are read by products and means, and are states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from description.test_gradients import Problem
from reference_problems import close

from rnnfast import reference
from rnnfast.description import Cell, Gate, Given, Product, State, Vector, Wrapped
from rnnfast.description.functions import (
    clip,
    cos,
    exp,
    lerp,
    maximum,
    mean,
    minimum,
    relu,
    sigmoid,
    sin,
    softplus,
    sqrt,
    tanh,
    where,
)


class RandomCell(Cell):
    """Gates, products and so on, and a step, all by a seed."""

    seed: int

    def _draw(self, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what.encode()])

    @property
    def widths(self) -> dict[str, int]:
        return {"other": 3} if self.seed % 2 else {}

    def _width(self, rng: Any) -> str:
        return "other" if self.widths and rng.random() < 0.4 else "hidden"

    @property
    def states(self) -> tuple[State, ...]:
        rng = self._draw("states")
        return (*(State(f"s{n}", width=self._width(rng)) for n in range(rng.integers(0, 3))), State("end"))

    @property
    def gates(self) -> tuple[Gate, ...]:
        rng = self._draw("gates")
        sides = [(True, True, False), (True, False, False), (False, True, False), (True, True, True)]
        sides += [(True, "row", False), (False, "row", False)]
        return tuple(Gate(f"g{n}", *sides[rng.integers(len(sides))]) for n in range(rng.integers(1, 7)))

    @property
    def vectors(self) -> tuple[Vector, ...]:
        rng = self._draw("vectors")
        some = tuple(Vector(f"v{n}", width=self._width(rng)) for n in range(rng.integers(0, 3)))
        return (*some, Vector("first", width="other")) if self.widths else some

    @property
    def given(self) -> tuple[Given, ...]:
        rng = self._draw("given")
        return tuple(Given(f"e{n}", width="hidden") for n in range(rng.integers(0, 2)))

    @property
    def products(self) -> tuple[Product, ...]:
        rng = self._draw("products")
        found = [
            Product(f"p{n}", bias=None, to=self._width(rng), of=self._width(rng)) for n in range(rng.integers(0, 4))
        ]
        if self.widths:
            found.append(Product("across", bias="bias_across", to="other", of="hidden"))
            found.append(Product("home", bias=None, to="hidden", of="other"))
        return tuple(found)

    def step(self, gate, state, vector, product, given):
        rng = self._draw("step")
        rows: dict[str, list[Any]] = {"hidden": [], "other": []}
        recurrent = self.states[0].width
        later = []
        for one in self.gates:
            if one.h == "row":
                later.append((recurrent, "hidden", getattr(gate, one.name)))
            elif one.apart:
                rows["hidden"] += [getattr(gate, one.name).x, getattr(gate, one.name).h]
            else:
                rows["hidden"].append(getattr(gate, one.name))
        for one in self.states:
            rows[one.width].append(getattr(state, one.name))
        for one in self.vectors:
            rows[one.width].append(getattr(vector, one.name))
        for one in self.given:
            rows[one.width].append(getattr(given, one.name))
        own = [one for one in self.products if one.name.startswith("p")]
        later += [(one.of, one.to, getattr(product, one.name)) for one in own]

        def pick(width):
            return rows[width][rng.integers(len(rows[width]))]

        while later:
            ready = [number for number, (of, _, _) in enumerate(later) if rows[of]]
            number = ready[rng.integers(len(ready))]
            for _ in range(rng.integers(0, 5)):
                width = "other" if rows["other"] and rng.random() < 0.4 else "hidden"
                rows[width].append(self._operation(rng, pick, width))
            of, to, call = later.pop(number)
            rows[to].append(call(pick(of)))
        for width in rows:
            for _ in range(5 * bool(rows[width])):
                rows[width].append(self._operation(rng, pick, width))
        totals = {}
        for width, found in rows.items():  # everything is used
            for row in found:
                totals[width] = totals.get(width, 0.0) + rng.choice([0.3, -0.2, 0.5]) * row
        if self.widths:
            totals["other"] = tanh(totals["other"] + product.across(totals["hidden"]))
            totals["hidden"] = totals["hidden"] * (1.0 + 0.1 * mean(totals["hidden"])) + product.home(totals["other"])
        *others, _ = self.states
        new = [tanh(totals[one.width]) if rng.random() < 0.3 else pick(one.width) for one in others]
        return *new, tanh(totals["hidden"])

    @staticmethod
    def _operation(rng, pick, width):
        a, b, c = (pick(width) for _ in range(3))
        choices = [
            lambda: a * b + c,
            lambda: a - b * c,
            lambda: 0.5 * a - b,
            lambda: sigmoid(a),
            lambda: tanh(a + b),
            lambda: relu(a - 0.1),
            lambda: lerp(sigmoid(a), b, c),
            lambda: where(a, b, c),
            lambda: minimum(a, 0.5 * b),
            lambda: maximum(a, b - 0.3),
            lambda: clip(a, -0.7, 0.8),
            lambda: sin(a) * cos(b),
            lambda: exp(-softplus(a)),
            lambda: a / sqrt(1.0 + b * b),
            lambda: a - mean(a),
            lambda: b / sqrt(mean(a * a, c) + 40.0),
            lambda: (a - mean(b)) * mean(tanh(c)),
            lambda: abs(a),
            lambda: a + 0.1,
        ]
        return tanh(choices[rng.integers(len(choices))]())


@pytest.mark.parametrize("seed", range(24))
def test_a_random_cell(seed):
    cell: Cell = RandomCell(seed)
    if seed % 5 == 0 and any(gate.h for gate in cell.gates):
        cell = Wrapped(cell, zoneout=0.3, recurrent_dropout=0.4)
    problem = Problem(cell, seed, masked=False, reverse=False)
    for training in (False, True):
        problem.options["training"] = training
        result = problem.forward(problem.arrays)
        program = cell.program()
        params = reference.layer.with_biases(program, result.params, result.widths)
        interpreter = reference.interpreter.Interpreter(program, params, result.widths)
        for step in result.steps:
            draw = reference.layer.random_rows(result.seed, result.layer, result.first_step + step.t, step.rows)
            memory = interpreter.forward(step.x, step.before, step.given, draw, training=training)
            for actual, expected in zip(memory.after, step.after, strict=True):
                close(actual, expected, 1e-13)
    assert any(Problem(cell, other, masked=True, reverse=bool(seed % 3)).compare() for other in range(40))
