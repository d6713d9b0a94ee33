"""Cells: what a step of a description is in float64."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from ..description import Cell
from ..description.cell import Wrapped
from ..description.cells.elman import Elman
from ..description.cells.gru import GRU
from ..description.cells.lstm import LSTM
from ..description.declarations import Gate, Product, declared
from ..description.namespaces import namespaces, new_states
from .arguments import Array, Params, State
from .interpreter import Draw, block_rows

CELLS: Mapping[str, Cell] = {
    "elman_tanh": Elman("tanh"),
    "elman_relu": Elman("relu"),
    "elman_sigmoid": Elman("sigmoid"),
    "lstm": LSTM(),
    "gru_after": GRU(reset_after=True),
    "gru_before": GRU(reset_after=False),
}
"""The cells that have a kernel written by hand, by its name."""


def cell_of(cell: str | Cell) -> Cell:
    """A cell, or the one of that name in `CELLS`.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    if isinstance(cell, Cell):
        return cell
    if not isinstance(cell, str):
        raise TypeError(f"cell: expected a Cell or one of {sorted(CELLS)}, got {cell!r}")
    if cell not in CELLS:
        raise ValueError(f"cell: expected a Cell or one of {sorted(CELLS)}, got {cell!r}")
    return CELLS[cell]


def step(
    cell: Cell,
    params: Params,
    x: Array,
    before: State,
    given: State,
    draw: Draw,
    widths: tuple[int, ...],
    training: bool,
) -> State:
    """The states after a step.

    Parameters
    ----------
    cell : Cell
    params : dict of str to ndarray
        All parameters, biases too.
    x : ndarray, shape [N, I]
    before : tuple of ndarray, shape [N, width]
    given : tuple of ndarray, shape [N, width] or [N, 1]
    draw : callable
        Random numbers.
    widths : tuple of int
        Of the cell's domains.
    training : bool

    Returns
    -------
    tuple of ndarray
    """
    found = declared(cell)
    work = _Arrays(cell, params, x, before, given, draw, widths, training)
    return tuple(new_states(cell, found, namespaces(cell, found, work)))


def named_values(
    cell: Cell, params: Params, x: Array, before: State, given: State, widths: tuple[int, ...]
) -> dict[str, Array]:
    """What a step computes in inference, by the names that the description has for it.

    They are found as a debugger finds them: in the variables of `step` when it returns.

    Parameters
    ----------
    cell, params, x, before, given, widths
        As for `step`.

    Returns
    -------
    dict of str to ndarray, shape [N, width]
        ``gate.i`` is the sum of a gate (``gate.n.x`` and ``gate.n.h`` of one whose sides are apart), ``product.r`` the
        result of a product, and ``i`` what `step` calls so.
    """
    inner = cell
    while isinstance(inner, Wrapped):
        inner = inner.cell
    code = inspect.unwrap(type(inner).step).__code__
    variables: dict[str, Any] = {}

    def look(frame: FrameType, event: str, result: Any) -> None:
        if event == "return" and frame.f_code is code:
            variables.update(frame.f_locals)

    found, work = declared(cell), _Named(cell, params, x, before, given, _no_draws, widths, training=False)
    spaces, profile = namespaces(cell, found, work), sys.getprofile()
    sys.setprofile(look)
    try:
        new_states(cell, found, spaces)
    finally:
        sys.setprofile(profile)
    rows = {name: row for name, row in variables.items() if isinstance(row, np.ndarray) and row.ndim == 2}
    return work.found | {name: row for name, row in rows.items() if len(row) == len(x)}


def _no_draws(operation: str, stream: int, width: int) -> Array:
    raise AssertionError("inference draws nothing")


class _Arrays:
    """What a step works on: what a gate's sum, a state, a product is, as arrays."""

    def __init__(
        self,
        cell: Cell,
        params: Params,
        x: Array,
        before: State,
        given: State,
        draw: Draw,
        widths: tuple[int, ...],
        training: bool,
    ) -> None:
        self.declared = declared(cell)
        self.parameters = {parameter.name: parameter for parameter in cell.program().parameters}
        self.params, self.x, self.draw, self.widths, self.training = params, x, draw, widths, training
        self.states = {state.name: row for state, row in zip(self.declared.states, before, strict=True)}
        self.extra = {one.name: row for one, row in zip(self.declared.given, given, strict=True)}

    def sum(self, gate: Gate, side: str, row: Any) -> Array:
        total: Any = 0.0
        if side != "h":
            block = [one.name for one in self.declared.gates if one.x].index(gate.name)
            total = self.x @ self._block("weight_ih", block).T + self._block("bias_ih", block)
        if side != "x":
            block = [one.name for one in self.declared.gates if one.h].index(gate.name)
            total = total + row @ self._block("weight_hh", block).T + self._block("bias_hh", block)
        return np.asarray(total)

    def _block(self, name: str, block: int) -> Array:
        return block_rows(self.parameters[name], self.params[name], block)

    def product(self, product: Product, row: Any) -> Array:
        total: Array = row @ self.params[str(product.weight)].T
        return total if product.bias is None else total + self.params[product.bias]

    def state(self, name: str) -> Array:
        return self.states[name].copy()  # so that a step's `c += x` changes its own row alone

    def vector(self, name: str) -> Array:
        return self.params[name].copy()

    def given(self, name: str) -> Array:
        return self.extra[name].copy()

    def random(self, op: str, stream: int, width: str) -> Array:
        return self.draw(op, stream, self.widths[self.declared.domain(width)])

    def copy(self, row: Any) -> Any:
        return row

    def refuse(self, error: type[Exception], expected: str, got: str) -> NoReturn:
        raise error(f"{self.declared.where}.step: expected {expected}, got {got}")


class _Named(_Arrays):
    """The same, which keeps what products give."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.found: dict[str, Array] = {}

    def sum(self, gate: Gate, side: str, row: Any) -> Array:
        name = f"gate.{gate.name}.{side}" if gate.apart else f"gate.{gate.name}"
        self.found[name] = super().sum(gate, side, row)
        return self.found[name].copy()

    def product(self, product: Product, row: Any) -> Array:
        name = f"product.{product.name}"
        self.found[name] = super().product(product, row)
        return self.found[name].copy()
