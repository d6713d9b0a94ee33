"""Learning while a sequence runs, by its definition: how the states depend on every parameter, carried along.

*Influence* is ds_t/dparameters, of all states of all units. A step hands it on, and adds what the parameters do in the
step itself: ``P_t = (ds_t/ds_{t-1}) P_{t-1} + ds_t/dparameters|direct``, and the gradient of a loss of step t is
``dL_t/dy_t P_t`` (Williams & Zipser 1989, "A learning algorithm for continually running fully recurrent neural
networks"). The local methods see each unit by itself: other units' rows are constants in every product and mean.
SnAp-1 (Menick et al. 2020, "A practical sparse approximation for real time recurrent learning") keeps what a unit hands
itself; RFLO (Murray 2019, "Local online learning in recurrent networks with random feedback") takes the products with a
state before the step for constants altogether.

The derivatives of a step are central differences of its forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..description import Cell
from ..description.program import Mean, Place, Product, Program
from .arguments import Array, Params
from .cells import cell_of
from .interpreter import Interpreter, Memory, diagonal

__all__ = ["OnlineResult", "online_reference"]

METHODS = ("rtrl", "snap1", "rflo")
_SHIFT = 1e-6


@dataclass(frozen=True)
class OnlineResult:
    """What `online_reference` returns: the first state after every step, and each step's gradients."""

    y: Array
    gradients: list[Params]


class _Shifted(Interpreter):
    """A step in which rows of sums and vectors are shifted; each unit may see constants in the place of others.

    The constants are those of the last step without shifts.
    """

    shifts: Mapping[tuple[str, int, int], Array]
    local = False
    frozen: tuple[str, ...] = ()  # the spaces of rows whose products are constants

    def __init__(self, program: Program, params: Params, widths: tuple[int, ...]) -> None:
        super().__init__(program, params, widths)
        self._constants: dict[tuple[str, int], Any] = {}

    def _change(self, key: tuple[str, int], value: Any) -> Any:
        """Since the last step without shifts."""
        if not self.shifts:
            self._constants[key] = value
        return value - self._constants[key]

    def _product(self, product: Product, x: Array, memory: Memory) -> None:
        super()._product(product, x, memory)
        number = self.program.products.index(product)
        left = None if product.left is None else self._load(product.left, memory)
        change = 0.0 if left is None else self._change(("left", number), left)
        for n in range(product.count):
            total = memory.slots[product.region][:, product.first + n]
            if self.local and product.left is not None and product.u is not None:
                block = self._blocks(product.u, product.count)[n]
                own = 0.0 if product.left.space in self.frozen else change * np.diag(block)
                total += own - change @ block.T
            total += self.shifts.get(("sum", number, n), 0.0)

    def _mean(self, mean: Mean, memory: Memory) -> Array:
        """Row n of the batch shifts unit n, so that is the unit whose share of the mean counts."""
        found = super()._mean(mean, memory)
        change = self._change(("rows", mean.scalar), sum(self._load(row, memory) for row in mean.rows))
        before = found - self._change(("mean", mean.scalar), found)
        if not self.local or not self.shifts:
            return found
        own = np.diagonal(change)
        return np.asarray(before + (own if mean.total else own / (self.widths[0] * len(mean.rows))))

    def _load(self, place: Place, memory: Memory) -> Array:
        row = super()._load(place, memory)
        return row + self.shifts.get(("vector", place.index, 0), 0.0) if place.space == "vector" else row


def online_reference(
    cell: str | Cell,
    params: Mapping[str, Any],
    x: ArrayLike,
    dy: ArrayLike,
    *,
    method: str = "rtrl",
    given: Sequence[ArrayLike] = (),
) -> OnlineResult:
    """Run a layer from its initial state, and differentiate each step's loss while it runs.

    Parameters
    ----------
    cell : str or Cell
    params : mapping of str to array_like
        Without suffixes; the parameters do not change while the sequence runs.
    x : array_like, shape [T, B, I]
    dy : array_like, shape [T, B, H]
        dLoss/dy of each step.
    method : {"rtrl", "snap1", "rflo"}
    given : sequence of array_like, shape [T, B] or [T, B, width]

    Returns
    -------
    OnlineResult
    """
    assert method in METHODS, method
    program = cell_of(cell).program("bias_ih" in params or "bias_hh" in params)
    values = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    extra = [np.asarray(one, np.float64).reshape(*x.shape[:2], -1) for one in given]
    first = program.parameters[0]
    hidden = len(values[first.name]) // first.blocks
    widths = (hidden, *(cell_of(cell).widths[name] for name in program.domains[1:]))
    step = _Step(_Shifted(program, values, widths), method)
    steps, rows = x.shape[:2]
    y = np.zeros((steps, rows, widths[program.states[0].domain]))
    gradients: list[Params] = [{name: np.zeros_like(value) for name, value in values.items()} for _ in range(steps)]
    for b in range(rows):
        state = [np.full((1, widths[one.domain]), one.initial) for one in program.states]
        influence: Params = {name: np.zeros((step.size, *value.shape)) for name, value in values.items()}
        for t in range(steps):
            state, influence = step.advance(x[t, b : b + 1], state, [one[t, b : b + 1] for one in extra], influence)
            y[t, b] = state[0]
            for name, own in influence.items():
                gradients[t][name] += np.tensordot(dy[t, b], own[: y.shape[2]], 1)
    return OnlineResult(y, gradients)


class _Step:
    """One step of one row: its derivatives, and what it makes of the influence."""

    def __init__(self, interpreter: _Shifted, method: str) -> None:
        self.interpreter, self.method = interpreter, method
        interpreter.local, interpreter.frozen = method != "rtrl", ("before",) if method == "rflo" else ()
        self.program, self.widths = interpreter.program, interpreter.widths
        self.state_widths = [self.widths[one.domain] for one in self.program.states]
        self.size = sum(self.state_widths)

    def advance(
        self, x: Array, before: list[Array], given: list[Array], influence: Params
    ) -> tuple[list[Array], Params]:
        interpreter = self.interpreter
        interpreter.shifts = {}
        memory = interpreter.forward(x, tuple(before), tuple(given), _no_draw)
        size, after = self.size, [row.copy() for row in memory.after]

        def differences(source: str, width: int, number: int = 0, n: int = 0) -> Array:
            """d(all states after)/d(a row): [row's units, all units]."""
            both = [self._shifted(x, memory, source, number, n, sign * np.eye(width)) for sign in (_SHIFT, -_SHIFT)]
            found: Array = (both[0] - both[1]) / (2 * _SHIFT)
            if self.method != "rtrl":  # what a unit does to itself alone
                found = found * np.tile(np.eye(width), size // width)
            return found

        handed = np.concatenate([differences("before", w, number) for number, w in enumerate(self.state_widths)])
        new = {name: np.tensordot(handed.T, value, 1) for name, value in influence.items()}
        for number, product in enumerate(self.program.products):
            left = None if product.left is None else interpreter._load(product.left, memory)[0]
            for n in range(product.count):
                direct = differences("sum", self.widths[self.program.regions[product.region].domain], number, n)
                for matrix, row in (
                    (product.x, x[0]),
                    (product.u, left),
                    (product.x_bias, None),
                    (product.u_bias, None),
                ):
                    if matrix is not None:
                        self._add(new, matrix.parameter, matrix.block + n, direct.T, row)
        for index, parameter in enumerate(self.program.parameters):
            if parameter.kind == "vector":
                new[parameter.name] += differences("vector", self.widths[parameter.domain], index).T
        return after, new

    def _shifted(self, x: Array, memory: Memory, source: str, number: int, n: int, shift: Array) -> Array:
        """All states after the step, one row for each shift."""
        interpreter, count = self.interpreter, len(shift)
        before = [np.repeat(row, count, axis=0) for row in memory.before]
        interpreter.shifts = {(source, number, n): shift}
        if source == "before":
            before[number] = before[number] + shift
        given = [np.repeat(row, count, axis=0) for row in memory.given]
        found = interpreter.forward(np.repeat(x, count, axis=0), tuple(before), tuple(given), _no_draw)
        return np.concatenate(found.after, axis=1)

    def _add(self, new: Params, index: int, block: int, direct: Array, row: Array | None) -> None:
        """What a block of a parameter does in the step itself; `direct` is [all units, the block's units]."""
        parameter = self.program.parameters[index]
        rows = direct.shape[1]
        own = slice(block * rows, (block + 1) * rows)
        if row is None:
            new[parameter.name][:, own] += direct
            return
        for unit, share in enumerate(direct[:, :, None] * row):
            new[parameter.name][unit, own] += diagonal(share, parameter.heads)


def _no_draw(op: str, stream: int, width: int) -> Array:
    raise ValueError("online_reference: expected a cell without random masks")
