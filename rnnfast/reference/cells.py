"""Cells: what a step of a description is in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from ..description import Cell
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
