"""The registry over which the generic tests of descriptions run: the package's cells, and some for the corners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnnfast import reference
from rnnfast.description import Cell, Gate, Given, Product, State, Vector, Wrapped, cells
from rnnfast.description.functions import (
    clip,
    cos,
    elu,
    exp,
    lerp,
    log1p,
    maximum,
    mean,
    minimum,
    sigmoid,
    silu,
    sin,
    softplus,
    softsign,
    sqrt,
    tanh,
    where,
)


class Shuffle(Cell):
    """States that are passed on untouched, swapped, dropped, doubled, or are a raw sum."""

    states = ("a", "b", "c", "d", "e", State("f", initial=0.5))
    gates = ("p", "q")

    def step(self, gate, state):
        new = tanh(gate.p) + state.d
        return gate.q, state.a, state.b, new, new, state.f


class Residual(Cell):
    """Rows that go both through a matrix and around it, three products deep."""

    states = ("h",)
    gates = ("a", Gate("b", h="row"))
    products = (Product("u"), Product("v", bias="bias_v"))

    def step(self, gate, state, product):
        row = tanh(gate.a) + state.h
        second = gate.b(row) + row
        third = product.u(second) * row + second
        return softsign(product.v(third) + gate.a + row)


class Widths(Cell):
    """Three widths, a mean in each, products between all of them."""

    states = (State("y", width="narrow"), State("h", initial=-0.3), State("w", width="wide"))
    gates = ("h", Gate("x", h=False))
    vectors = (Vector("gain", width="wide"), Vector("bias"))
    products = (
        Product("up", to="wide", of="hidden", bias="bias_up"),
        Product("down", to="narrow", of="wide"),
        Product("back", to="hidden", of="narrow"),
    )
    given = (Given("extra", width="narrow"), Given("factor"))
    recurrent = "w"

    @property
    def widths(self) -> Mapping[str, int]:
        return {"narrow": 2, "wide": 5}

    def step(self, gate, state, vector, product, given):
        h = tanh(gate.h - mean(gate.h) + vector.bias) * sigmoid(gate.x)
        wide = product.up(h) * vector.gain + state.w * 0.5
        wide = (wide - mean(wide)) * (1.0 / sqrt(mean(wide * wide) + 0.1))
        y = tanh(product.down(wide) + given.extra) + 0.1 * state.y
        return y, h + 0.3 * product.back(y) - 0.2 * (state.h * given.factor), wide


class Means(Cell):
    """Means of states, of extra rows, of several rows, of numbers times rows; one mean in several stages."""

    states = ("h", "c")
    gates = ("a", "b")
    given = (Given("row", width="hidden"), Given("number"))
    products = (Product("p"),)

    def step(self, gate, state, given, product):
        centre = mean(gate.a, gate.b, state.c)
        spread = mean((gate.a - centre) * (gate.a - centre) + given.number)
        row = tanh(gate.a - centre) + mean(given.row) * given.row
        late = product.p(row) + centre / sqrt(spread + 1.5) + mean(row) * state.h
        return softsign(late), tanh(given.number * gate.b) * exp(-spread)


class Conditions(Cell):
    """Sums that backward needs after their gradients have been stored; extremes; a branch by an extra input."""

    states = ("h",)
    gates = ("a", "b", Gate("c", h="row"), Gate("d", x=False), Gate("e", apart=True))
    given = (Given("switch"),)

    def step(self, gate, state, given):
        row = maximum(gate.d, 0.3 * state.h) + where(gate.a, sigmoid(gate.b), tanh(gate.e.h))
        c = clip(gate.c(row), -0.8, 0.9)
        return where(given.switch, where(gate.a, c, minimum(gate.e.x, row)), abs(gate.b)) * 0.7


class ManyGates(Cell):
    """More gates than a product has results, on all sides, and a row for two of them."""

    states = ("h", "n")
    gates = (
        *"abcdef",
        Gate("g", x=False),
        Gate("i", apart=True),
        Gate("j", h=False),
        Gate("k", h="row"),
        Gate("l", x=False, h="row"),
        Gate("m", h="row"),
    )
    heads = 2
    recurrent = "n"

    def step(self, gate, state):
        row = sin(gate.a) * cos(gate.b)
        k, m = gate.k(row), gate.m(row)
        other = elu(gate.c) * gate.l(silu(gate.d))
        h = tanh(k * gate.e + m - gate.f * gate.g) + 0.1 * other
        return h, lerp(sigmoid(gate.i.x + 2.0 * gate.i.h), state.n, gate.j / (1.0 + softplus(gate.a))) * 0.5


class OnlyVectors(Cell):
    """No matrix but that of x; functions of vectors alone; a vector in a product."""

    states = ("h",)
    gates = (Gate("x", h=False),)
    vectors = ("u", Vector("v", initial=1.0))
    products = (Product("m"),)

    def step(self, gate, state, vector, product):
        decay = exp(-softplus(vector.u))
        return decay * state.h + sqrt(1.0 - decay * decay) * gate.x + 0.1 * product.m(vector.v) + log1p(vector.v**2)


class NoMatrix(Cell):
    """No matrices at all: x is not read."""

    states = ("h",)
    vectors = ("keep",)
    given = (Given("row", width="hidden"),)

    def step(self, state, vector, given):
        return lerp(vector.keep, state.h, given.row)


class Projected(Cell):
    """A state that is a product's row, too, in another width."""

    states = (State("h", width="proj"), "c")
    gates = ("i", "f", "g", "o")
    products = (Product("r", weight="weight_hr", to="proj"),)
    widths = {"proj": 3}  # noqa: RUF012

    def step(self, gate, state, product):
        c = sigmoid(gate.f) * state.c + sigmoid(gate.i) * tanh(gate.g)
        return product.r(sigmoid(gate.o) * tanh(c)), c


class StateInProduct(Cell):
    """A new state that a product of the same step reads."""

    states = ("y", "h")
    gates = ("h",)
    products = (Product("v"),)
    recurrent = "y"

    def step(self, gate, product):
        h = tanh(gate.h)
        return sigmoid(product.v(h)), h


_lstm, _before = reference.CELLS["lstm"], reference.CELLS["gru_before"]
MADE_UP: dict[str, Cell] = {
    cls.name: cls()
    for cls in (
        Shuffle,
        Residual,
        Widths,
        Means,
        Conditions,
        ManyGates,
        OnlyVectors,
        NoMatrix,
        Projected,
        StateInProduct,
    )
}
WRAPPED: dict[str, Cell] = {
    "lstm zoneout": Wrapped(_lstm, zoneout={"c": 0.3, "h": 0.1}),
    "elman dropout": Wrapped(reference.CELLS["elman_tanh"], recurrent_dropout=0.5),
    "lstm dropout": Wrapped(_lstm, recurrent_dropout=0.4),
    "gru_before all": Wrapped(_before, zoneout=0.25, recurrent_dropout=0.3, clip={"h": 0.7}),
    "gru_after all": Wrapped(reference.CELLS["gru_after"], zoneout=0.25, recurrent_dropout=0.3),
    "projected all": Wrapped(Projected(), zoneout={"h": 0.25}, recurrent_dropout=0.3, clip={"h": 0.7, "c": 2}),
    "widths all": Wrapped(Widths(), zoneout=0.5, recurrent_dropout=0.3),
    "twice": Wrapped(Wrapped(_lstm, zoneout={"h": 0.2}), clip={"c": 0.6}),
}
PACKAGE: dict[str, Any] = getattr(cells, "CATALOGUE", reference.CELLS)
DESCRIPTIONS: dict[str, Cell] = {**PACKAGE, **MADE_UP, **WRAPPED}
