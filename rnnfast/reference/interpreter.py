"""A program, run on NumPy arrays: one step forward, one step backward.

`rnnfast.description.program` says what a program is; this is what it means. Everything is an array of N rows: a row of
a domain is [N, width], a number per row [N, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..description.functions import PRIMITIVES
from ..description.program import (
    INPUT,
    BackProduct,
    Instruction,
    Matrix,
    Mean,
    Parameter,
    Place,
    Product,
    Program,
    Stage,
    Term,
)
from .arguments import Array, Params, State

Draw = Callable[[str, int, int], Array]
"""`draw(operation, stream, width)`: random numbers, [N, width]."""


@dataclass
class Memory:
    """What a step works on, for N rows.

    Attributes
    ----------
    before, after : list of ndarray
        The states.
    given : list of ndarray
        Extra inputs, [N, width] or [N, 1].
    slots : list of ndarray, [N, slots, width]
        The regions.
    scalars : ndarray, [N, scalars]
    gradient, scratch : list of ndarray
        Of backward.
    """

    before: list[Array]
    after: list[Array]
    given: list[Array]
    slots: list[Array]
    scalars: Array
    gradient: list[Array] = field(default_factory=list)
    scratch: list[Array] = field(default_factory=list)


@dataclass(frozen=True)
class StepGradients:
    """What one step backward returns: dLoss/d(x, states before, what is given), and its share of the parameters'."""

    dx: Array
    dstate: State
    dgiven: State
    params: Params


def block_rows(parameter: Parameter, value: Array, block: int) -> Array:
    """A block of a parameter; of a weight in heads, the dense matrix that it stands for."""
    rows = len(value) // parameter.blocks
    part = value[block * rows : (block + 1) * rows]
    return dense(part, parameter.heads) if parameter.kind == "weight" and parameter.heads > 1 else part


def dense(matrix: Array, heads: int) -> Array:
    """Blocks [rows, columns / heads], one below the other, put on the diagonal of a matrix [rows, columns]."""
    rows, columns = len(matrix) // heads, matrix.shape[1]
    whole = np.zeros((len(matrix), columns * heads))
    for head in range(heads):
        own = slice(head * rows, (head + 1) * rows)
        whole[own, head * columns : (head + 1) * columns] = matrix[own]
    return whole


def diagonal(whole: Array, heads: int) -> Array:
    """The inverse of `dense`."""
    rows, columns = len(whole) // heads, whole.shape[1] // heads
    parts = [whole[h * rows : (h + 1) * rows, h * columns : (h + 1) * columns] for h in range(heads)]
    return np.concatenate(parts)


class Interpreter:
    """A program with its parameters.

    Parameters
    ----------
    program : Program
    params : dict of str to ndarray
        All that the program has.
    widths : tuple of int
        Of the domains.
    """

    def __init__(self, program: Program, params: Params, widths: tuple[int, ...]) -> None:
        self.program = program
        self.params = params
        self.widths = widths

    def forward(self, x: Array, before: State, given: State, draw: Draw, *, training: bool = True) -> Memory:
        """One step; its memory holds the states after it, and what `backward` reads.

        Parameters
        ----------
        x : ndarray, shape [N, I]
        before, given : tuple of ndarray
        draw : callable
        training : bool
            Which of the program's two forward passes.

        Returns
        -------
        Memory
        """
        program, count = self.program, len(x)
        memory = Memory(
            list(before),
            [np.full_like(row, np.nan) for row in before],
            list(given),
            [np.full((count, region.slots, self.widths[region.domain]), np.nan) for region in program.regions],
            np.full((count, program.scalars), np.nan),
        )
        for stage in program.forward if training else program.inference:
            for number in stage.products:
                self._product(program.products[number], x, memory)
            self._run(stage, memory, draw)
        return memory

    def backward(self, x: Array, memory: Memory, gradient: State, draw: Draw) -> StepGradients:
        """One step backward.

        Parameters
        ----------
        x : ndarray, shape [N, I]
        memory : Memory
            Of `forward`, in training. It is used up.
        gradient : tuple of ndarray
            Of the states after the step.
        draw : callable

        Returns
        -------
        StepGradients
        """
        program = self.program
        memory.gradient = [row.copy() for row in gradient]
        memory.scratch = [np.full((len(x), self.widths[domain]), np.nan) for domain in program.scratch]
        for stage in program.backward:
            for product in stage.back_products:
                self._back_product(product, memory)
            self._run(stage, memory, draw)
        for product in program.state_products:
            self._back_product(product, memory)
        dx = sum((self._term(term, memory) for term in program.input_terms), np.zeros_like(x))
        dgiven = [np.zeros_like(row) for row in memory.given]
        for index, place in program.given_gradients:
            dgiven[index] = self._load(place, memory)
        return StepGradients(dx, tuple(memory.gradient), tuple(dgiven), self._parameter_gradients(x, memory))

    # Places

    def _load(self, place: Place, memory: Memory) -> Array:
        if place.space == "slot":
            return memory.slots[place.index][:, place.slot].copy()
        if place.space == "scalar":
            return memory.scalars[:, place.index, None].copy()
        if place.space == "vector":
            return self.params[self.program.parameters[place.index].name]
        rows: Mapping[str, list[Array]] = {
            "before": memory.before,
            "after": memory.after,
            "given": memory.given,
            "gradient": memory.gradient,
            "scratch": memory.scratch,
        }
        return rows[place.space][place.index].copy()

    def _store(self, place: Place, value: Array, memory: Memory) -> None:
        if place.space == "slot":
            memory.slots[place.index][:, place.slot] = value
        else:
            rows = {"after": memory.after, "gradient": memory.gradient, "scratch": memory.scratch}
            rows[place.space][place.index][...] = value

    # Stages

    def _run(self, stage: Stage, memory: Memory, draw: Draw) -> None:
        for mean in stage.means:
            memory.scalars[:, mean.scalar] = self._mean(mean, memory)
        registers: dict[int, Array] = {}
        for instruction in stage.code:
            if instruction.op == "store":
                assert instruction.place is not None
                self._store(instruction.place, registers[instruction.operands[0]], memory)
            else:
                width = self.widths[stage.domain]
                registers[instruction.to] = self._compute(instruction, registers, memory, draw, width)

    def _mean(self, mean: Mean, memory: Memory) -> Array:
        rows = np.concatenate([self._load(place, memory) for place in mean.rows], axis=1)
        return np.asarray(rows.sum(axis=1) if mean.total else rows.mean(axis=1))

    def _compute(
        self, instruction: Instruction, registers: dict[int, Array], memory: Memory, draw: Draw, width: int
    ) -> Array:
        op = instruction.op
        if op == "load":
            assert instruction.place is not None
            return self._load(instruction.place, memory)
        if op == "const":
            return np.array(instruction.value)
        if op in ("random_step", "random_sequence"):
            return draw(op, int(instruction.value), width)
        return np.asarray(PRIMITIVES[op].numpy(*(registers[operand] for operand in instruction.operands)))

    # Products

    def _blocks(self, matrix: Matrix, count: int) -> list[Array]:
        parameter = self.program.parameters[matrix.parameter]
        value = self.params[parameter.name]
        return [block_rows(parameter, value, matrix.block + number) for number in range(count)]

    def _product(self, product: Product, x: Array, memory: Memory) -> None:
        sums: list[Array] = [np.zeros(1) for _ in range(product.count)]
        left = None if product.left is None else self._load(product.left, memory)
        for matrix, row in ((product.x_bias, None), (product.u_bias, None), (product.x, x), (product.u, left)):
            if matrix is not None:
                blocks = self._blocks(matrix, product.count)
                sums = [
                    total + (block if row is None else row @ block.T) for total, block in zip(sums, blocks, strict=True)
                ]
        for number, total in enumerate(sums):
            memory.slots[product.region][:, product.first + number] = total

    def _term(self, term: Term, memory: Memory) -> Array:
        parameter = self.program.parameters[term.parameter]
        blocks = [block_rows(parameter, self.params[parameter.name], block) for block in term.blocks]
        rows = [memory.slots[term.region][:, term.first + number] for number in range(term.count)]
        return sum((row @ block for row, block in zip(rows, blocks, strict=True)), np.zeros(1))

    def _back_product(self, product: BackProduct, memory: Memory) -> None:
        total = np.zeros(1) if product.start is None else self._load(product.start, memory)
        for term in product.terms:
            total = total + self._term(term, memory)
        self._store(product.target, total, memory)

    def _parameter_gradients(self, x: Array, memory: Memory) -> Params:
        gradients = {name: np.zeros_like(value) for name, value in self.params.items()}

        def add(matrix: Matrix | None, rows: list[Array], left: Array | None) -> None:
            if matrix is None:
                return
            parameter = self.program.parameters[matrix.parameter]
            total = gradients[parameter.name]
            size = len(total) // parameter.blocks
            for number, row in enumerate(rows, matrix.block):
                share = row.sum(axis=0) if left is None else row.T @ left
                if left is not None and parameter.heads > 1:
                    share = diagonal(share, parameter.heads)
                total[number * size : (number + 1) * size] += share

        for product in self.program.products:
            rows = [memory.slots[product.region][:, product.first + number] for number in range(product.count)]
            left = None if product.left is None else self._load(product.left, memory)
            add(product.x, rows, x)
            add(product.u, rows, left)
            add(product.x_bias, rows, None)
            add(product.u_bias, rows, None)
        for index, place in self.program.vector_gradients:
            gradients[self.program.parameters[index].name] += self._load(place, memory).sum(axis=0)
        return gradients


def expected_shape(parameter: Parameter, input_size: int, widths: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter."""
    rows = parameter.blocks * widths[parameter.domain]
    if parameter.columns is None:
        return (rows,)
    return rows, (input_size if parameter.columns == INPUT else widths[parameter.columns] // parameter.heads)
