"""What a description is refused for, in which words, and with which line of its step."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest

from rnnfast.description import Cell, Gate, Given, Product, State, Vector, Wrapped
from rnnfast.description.functions import mean, sigmoid, tanh


class Plain(Cell):
    """Something to derive bad steps from."""

    states = ("h", "c")
    gates = ("i", Gate("n", apart=True), Gate("r", h="row"))
    vectors = ("p",)
    products = (Product("v", to="out"),)
    given = (Given("a"),)
    widths = {"out": 3}  # noqa: RUF012

    def step(self, gate, state, vector, product, given):
        raise AssertionError("each test gives its own")


def refusal(cell, error):
    with pytest.raises(error) as caught:
        cell.program()
    return str(caught.value)


def test_a_cell_without_a_step_is_refused():
    class Bare(Cell):
        states = ("h",)
        gates = ("i",)

    assert refusal(Bare(), TypeError) == "Bare: expected a method step that returns the new states, got none"


def branch(self, gate, state):
    if gate.i > 0:  # at fault
        return gate.i, state.c


def truth(self, gate, state):
    return gate.i and state.h, state.c  # at fault


def equality(self, gate, state):
    return (gate.i if gate.i == 0 else state.h), state.c  # at fault


def numpy_function(self, gate, state):
    return np.tanh(gate.i), state.c  # at fault


def numpy_concatenate(self, gate, state):
    return np.concatenate([gate.i, gate.i]), state.c  # at fault


def math_function(self, gate, state):
    return math.exp(gate.i), state.c  # at fault


def method(self, gate, state):
    return gate.i.sum(), state.c  # at fault


def element(self, gate, state):
    return gate.i[0], state.c  # at fault


def power(self, gate, state):
    return gate.i**3, state.c  # at fault


def array(self, gate, state):
    return gate.i * np.ones(3), state.c  # at fault


def array_first(self, gate, state):
    return np.ones(3) + gate.i, state.c  # at fault


def text(self, gate, state):
    return gate.i + "1", state.c  # at fault


def array_in_a_product(self, gate, state, product):
    return gate.i * product.v(np.ones(4)), state.c  # at fault


def number_in_a_row_gate(self, gate, state):
    return gate.r(1.0), state.c  # at fault


def widths(self, gate, state, product):
    return gate.i + product.v(state.h), state.c  # at fault


def width_in_a_product(self, gate, state, product):
    return gate.r(product.v(gate.i)), state.c  # at fault


def mean_of_another_width(self, gate, state, product):
    return gate.i * mean(product.v(state.h)), state.c  # at fault


def mean_of_a_number(self, gate, state, given):
    return gate.i * mean(given.a), state.c  # at fault


def unknown_gate(self, gate, state):
    return sigmoid(gate.o), state.c  # at fault


def unknown_state(self, gate, state):
    return sigmoid(gate.i), state.m  # at fault


def twice(self, gate, state):
    return gate.r(state.h) + gate.r(state.c), state.c  # at fault


def product_twice(self, gate, state, product):
    return product.v(state.h) + product.v(state.c), state.c  # at fault


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (branch, TypeError, r"expected where\(c, a, b\).*, got a comparison of a row's values"),
        (truth, TypeError, r"expected where\(c, a, b\).*, got a branch on a row's values"),
        (equality, TypeError, r"expected where\(c, a, b\).*, got a comparison"),
        (numpy_function, TypeError, r"expected functions of rnnfast.description.functions, got numpy.tanh of a row"),
        (numpy_concatenate, TypeError, r"expected functions of .*, got numpy.concatenate of a row"),
        (math_function, TypeError, r"expected functions of .*, got a function of single numbers"),
        (method, TypeError, r"expected functions of .*, got a row's .sum"),
        (element, TypeError, r"expected rows as a whole, got an element of a row"),
        (power, TypeError, r"expected the power 2, .*, got the power 3"),
        (array, TypeError, r"expected a row or a number, got an array of shape \(3,\)"),
        (array_first, TypeError, r"expected a row or a number, got an array of shape \(3,\)"),
        (text, TypeError, r"expected a row or a number, got str '1'"),
        (array_in_a_product, TypeError, r"expected a row in product.v, got an array of shape \(4,\)"),
        (number_in_a_row_gate, TypeError, r"expected a row in gate.r, got 1.0"),
        (widths, ValueError, r"expected rows of one width in 'add', got the widths \['hidden', 'out'\]"),
        (width_in_a_product, ValueError, r"expected a row of the width 'hidden' in gate.r, got one of 'out'"),
        (mean_of_another_width, ValueError, r"expected a mean in rows of the width 'out' that it is the mean of"),
        (mean_of_a_number, ValueError, r"expected rows of one width in a mean, got a number"),
        (unknown_gate, ValueError, r"expected gate. and one of \['i', 'n', 'r'\], got gate.o"),
        (unknown_state, ValueError, r"expected state. and one of \['h', 'c'\], got state.m"),
        (twice, ValueError, r"expected gate.r to be called once, got a second call"),
        (product_twice, ValueError, r"expected product.v to be called once, got a second call"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_bad_line_is_named(step, error, message, wrapped):
    cls = type("Bad", (Plain,), {"step": step})
    text = refusal(Wrapped(cls(), zoneout=0.1) if wrapped else cls(), error)
    assert re.search(message, text)
    lines, first = inspect.getsourcelines(step)
    number = first + next(number for number, line in enumerate(lines) if "# at fault" in line)
    assert text.endswith(f"({__file__}:{number}: {lines[number - first].strip()})")
    assert "\n" not in text


def too_few(self, gate, state):
    return sigmoid(gate.i)


def too_many(self, gate, state):
    return gate.i, state.c, state.h


def number(self, gate, state):
    return gate.i, 1.0


def number_per_row(self, gate, given):
    return gate.i, given.a


def nothing(self, gate, state):
    gate.i * state.h


def another_parameter(self, gates):
    return gates.i


def unused_gate(self, gate, state, vector, product, given):
    return gate.i * gate.r(state.h) * gate.n.x * mean(product.v(state.h)), state.c


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (too_few, ValueError, r"expected the new states h, c, in this order, got 1 value \(.*test_errors.py:\d+: def "),
        (too_many, ValueError, r"expected the new states h, c, in this order, got 3 values"),
        (nothing, ValueError, r"expected the new states h, c, in this order, got 1 value \("),
        (number, TypeError, r"expected a row of the width 'hidden' as the new c, got float in place 2"),
        (number_per_row, ValueError, r"expected a row of the width 'hidden' as the new c, got a number"),
        (another_parameter, TypeError, r"expected parameters among \['gate', .*\], got 'gates'"),
    ],
)
def test_what_a_step_returns_and_takes(step, error, message):
    assert re.search("Bad.step: " + message, refusal(type("Bad", (Plain,), {"step": step})(), error))


def unused(what):
    """A cell whose step uses everything but one."""

    class Unused(Cell):
        gates = ("i", Gate("n", apart=True), Gate("r", h="row"))
        vectors = ("p",)
        products = (Product("v"),)
        given = (Given("a"),)

        def step(self, gate, state, vector, product, given):
            uses = {
                "gate.i": lambda: gate.i,
                "gate.n.x": lambda: gate.n.x,
                "gate.n.h": lambda: gate.n.h,
                "gate.r": lambda: gate.r(state.h),
                "vector.p": lambda: vector.p,
                "product.v": lambda: product.v(state.h),
                "a": lambda: given.a,
            }
            row = state.h
            for name, use in uses.items():
                row = row if name == what else row + use()
            return row

    return Unused()


@pytest.mark.parametrize("what", ["gate.i", "gate.n.x", "gate.n.h", "gate.r", "vector.p", "product.v", "a"])
def test_what_is_never_used_is_named(what):
    assert re.search(rf"Unused.step: expected .* to be used, got no use of {what}$", refusal(unused(what), ValueError))


def declared_with(**attributes):
    return type("Bad", (Cell,), {"gates": ("i",), "step": lambda self, gate: gate.i} | attributes)()


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"gates": ("i", "f", "i")}, ValueError, r"Bad.gates: expected each name once, got 'i' 2 times"),
        ({"states": ("h", "h")}, ValueError, r"Bad.states: expected each name once, got 'h' 2 times"),
        ({"states": ()}, ValueError, r"Bad.states: expected at least one state, got none"),
        ({"states": "h"}, TypeError, r"Bad.states: expected a tuple of names or States, got 'h'"),
        ({"gates": (1,)}, TypeError, r"Bad.gates: expected names or Gates, got 1"),
        ({"gates": ("i i",)}, ValueError, r"Bad.gates: expected names that are Python names, got 'i i'"),
        ({"gates": (State("h"),)}, TypeError, r"Bad.gates: expected names or Gates, got State"),
        ({"states": tuple("abcdefghi")}, ValueError, r"Bad.states: expected at most 8, got 9"),
        ({"vectors": ("weight_ih",)}, ValueError, r"Bad.parameters: expected each name once, got 'weight_ih' 2 times"),
        (
            {"vectors": ("p",), "products": (Product("r", bias="p"),)},
            ValueError,
            r"Bad.parameters: expected each name once, got 'p' 2 times",
        ),
        ({"states": (State("h", width="proj"),)}, ValueError, r"expected the width of 'h' to be one of \['hidden'\]"),
        ({"given": (Given("a", width="x"),)}, ValueError, r"expected the width of 'a' to be one of"),
        ({"products": (Product("r", of="x"),)}, ValueError, r"expected the width of 'r' to be one of"),
        ({"vectors": (Vector("v", width="x"),)}, ValueError, r"expected the width of 'v' to be one of"),
        ({"widths": {"proj": 0}}, ValueError, r"Bad.widths: expected 'proj' to be an integer above 0, got 0"),
        ({"widths": {"hidden": 3}}, ValueError, r"Bad.widths: expected each name once, got 'hidden' 2 times"),
        ({"widths": {"a": 1, "b": 1, "c": 1, "d": 1}}, ValueError, r"Bad.widths: expected at most 4, got 5"),
        ({"heads": 0}, ValueError, r"Bad.heads: expected an integer above 0, got 0"),
        ({"recurrent": "c"}, ValueError, r"Bad.recurrent: expected one of \['h'\], got 'c'"),
        ({"gates": (Gate("i", x=False, h=False),)}, ValueError, r"'i': expected a side of x or of h, got neither"),
        ({"gates": (Gate("i", h="yes"),)}, ValueError, r"'i': expected h to be True, False or 'row', got 'yes'"),
        ({"gates": (Gate("i", x=False, apart=True),)}, ValueError, r"'i': expected x=True and h=True with apart"),
        ({"gates": ()}, ValueError, r"Bad: expected a gate, a product or a vector, got a cell without parameters"),
    ],
)
def test_declarations_that_are_refused(attributes, error, message):
    assert re.search(message, refusal(declared_with(**attributes), error))


def test_a_number_per_row_in_rows_of_two_widths():
    class Both(Cell):
        states = ("h", State("r", width="out"))
        gates = ("h",)
        products = (Product("v", to="out"),)
        given = (Given("a"),)
        widths = {"out": 3}  # noqa: RUF012

        def step(self, gate, state, product, given):
            h = tanh(gate.h) * given.a
            return h, product.v(h) * given.a

    assert re.search(
        r"expected rows of one width in '\w+', got the widths \['hidden', 'out'\]", refusal(Both(), ValueError)
    )


def test_training_and_inference_with_different_products():
    class Moody(Cell):
        gates = ("h", Gate("r", h="row"))

        def step(self, gate, state, random):
            row = tanh(gate.h) + random.step(0)
            return gate.r(row if random.training else state.h) + row

    assert re.search("Moody.step: expected the same products in training and inference", refusal(Moody(), ValueError))


def test_heads_must_divide():
    cell = declared_with(heads=3)
    cell.check_sizes(6)
    with pytest.raises(ValueError, match=r"hidden_size: expected a multiple of 3 \(heads\), got 7"):
        cell.check_sizes(7)
    cell = declared_with(
        heads=2,
        states=(State("h", width="out"),),
        widths={"out": 3},
        products=(Product("v", to="out"),),
        step=lambda self, gate, product: product.v(gate.i),
    )
    with pytest.raises(ValueError, match=r"out: expected a multiple of 2 \(heads\), got 3"):
        cell.check_sizes(4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"zoneout": 1.0}, ValueError, r"zoneout\['h'\]: expected a probability, at least 0 and less than 1, got 1.0"),
        ({"zoneout": {"c": 0.1}}, ValueError, r"zoneout: expected names among \['h'\], got 'c'"),
        ({"zoneout": {"h": "a"}}, TypeError, r"zoneout\['h'\]: expected a number, got 'a'"),
        ({"recurrent_dropout": -0.1}, ValueError, r"recurrent_dropout: expected a probability"),
        ({"clip": {"h": 0.0}}, ValueError, r"clip\['h'\]: expected a bound above 0, got 0.0"),
        ({"cell": "lstm"}, TypeError, r"cell: expected a Cell, got 'lstm'"),
    ],
)
def test_wrappers_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Wrapped(**{"cell": declared_with()} | options)


def test_dropout_needs_a_recurrent_matrix():
    with pytest.raises(ValueError, match="recurrent_dropout: expected 0 for a cell without recurrent matrices"):
        Wrapped(declared_with(gates=(Gate("i", h=False),)), recurrent_dropout=0.1)
