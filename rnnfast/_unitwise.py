"""One step of any cell in NumPy, with what each unit does to itself: a list of calls on memory that is taken once.

Learning while a sequence runs needs, of each step, how a unit's new states depend on its old ones and on its gates'
sums, other units being constants. That is the program's backward pass with two changes. It starts from a one in each
new state, all states side by side in one more axis; and a product hands back the unit's own part alone, the diagonal
of its matrix, as a mean hands back the unit's own share. All units can then be run at once, as none sees another.

The program's instructions become NumPy calls with `out`, whose operands are bound when the learner is made. So a step
is a walk over a list of calls, and takes no memory.

Rejected: the kernels' own backward (it multiplies with whole matrices, so one state of one unit would be one call);
compiling the instructions (a step's arithmetic on rows is little beside the traces', which are compiled).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from ._checks import Array
from ._flat import Flushed, run
from .description.program import BackProduct, Instruction, Matrix, Mean, Place, Product, Program, Stage

__all__ = ["Influence", "UnitwiseStep"]

Call = Callable[[], object]
"""Of a compiled function in which no line of Python runs; of NumPy's those are ufuncs, and not `copyto`."""

_flushed = Flushed(run)

_UFUNCS: Mapping[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "min": np.minimum,
    "max": np.maximum,
    "abs": np.abs,
    "sign": np.sign,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


class Influence(NamedTuple):
    """How some blocks of a parameter act on the units' states in a step: `direct` times `source`.

    Attributes
    ----------
    name : str
        The parameter's, in the program.
    blocks : slice
        Of the parameter.
    direct : ndarray, shape [S, B, count, H]
        d(after[k])/d(the sum of a block).
    source : ndarray, shape [B, heads, columns]
        What the blocks are multiplied with; ones for a bias or a vector.
    """

    name: str
    blocks: slice
    direct: Array
    source: Array


class UnitwiseStep:
    """A step of a cell for a fixed number of rows.

    Parameters
    ----------
    program : Program
        Without random numbers, and with rows of the hidden width alone.
    params : mapping of str to ndarray
        Views of the parameters by their names in the program; read anew in every step.
    rows, input_size, hidden_size : int
    dtype : numpy.dtype
    through_states : bool
        Whether products with a state before the step hand back the unit's own part, or nothing.

    Attributes
    ----------
    x : ndarray, shape [B, I]
    given : list of ndarray, shape [B, H] or [B, 1]
    before, after : ndarray, shape [S, B, H]
        The states; `x`, `given` and `before` are to be filled before a call of `forward`.
    handed : ndarray, shape [S, S, B, H]
        d(after[k])/d(before[m]) at [m, k], of a unit to itself.
    influences : list of Influence
        What the parameters do in the step, block by block.
    """

    def __init__(
        self,
        program: Program,
        params: Mapping[str, Array],
        rows: int,
        input_size: int,
        hidden_size: int,
        dtype: np.dtype[Any],
        *,
        through_states: bool,
    ) -> None:
        states = len(program.states)
        self._program, self._params, self._dtype = program, params, dtype
        self._rows, self._hidden, self._through = rows, hidden_size, through_states
        self.x = self._zeros(rows, input_size)
        self.given = [self._zeros(rows, 1 if one.domain is None else hidden_size) for one in program.given]
        self.before, self.after = self._zeros(states, rows, hidden_size), self._zeros(states, rows, hidden_size)
        self.handed = self._zeros(states, states, rows, hidden_size)
        self._slots = [self._zeros(region.slots, rows, hidden_size) for region in program.regions]
        self._gradients = [self._zeros(region.slots, states, rows, hidden_size) for region in program.regions]
        self._scalars: dict[int, Array] = {}
        self._scratch = [self._zeros(states, rows, hidden_size) for _ in program.scratch]
        self.influences: list[Influence] = []
        self._forward: list[Call] = []
        self._backward: list[Call] = []
        self._compile()

    def forward(self) -> None:
        """From `x`, `given` and `before` to `after`."""
        _flushed(self._forward)

    def backward(self) -> None:
        """After `forward`: `handed` and `direct`."""
        _flushed(self._backward)

    def _zeros(self, *shape: int) -> Array:
        return np.zeros(shape, self._dtype)

    def _compile(self) -> None:
        program, states = self._program, len(self._program.states)
        for stage in program.forward:
            for number in stage.products:
                self._forward += self._product(program.products[number])
            for mean in stage.means:
                self._forward += self._mean(mean)
            self._forward += self._code(stage, (self._rows,), backward=False)

        seeds = np.zeros_like(self.handed)
        for number in range(states):
            seeds[number, number] = 1
        self._backward.append(partial(setitem, self.handed, ..., seeds))
        for gradient, slots in zip(self._gradients, self._slots, strict=True):
            self._backward.append(partial(setitem, gradient, ..., slots[:, None]))
        for stage in program.backward:
            for back in stage.back_products:
                self._backward += self._back_product(back, through=True)
            for mean in stage.means:
                self._backward += self._own_share(mean)
            self._backward += self._code(stage, (states, self._rows), backward=True)
        for back in program.state_products:
            self._backward += self._back_product(back, through=self._through)
        for product in program.products:
            gradients = self._gradients[product.region][product.first : product.first + product.count]
            left = None if product.left is None else self._at(product.left, backward=False)
            sides = ((product.x, self.x), (product.u, left), (product.x_bias, None), (product.u_bias, None))
            for matrix, row in sides:
                if matrix is not None:
                    self._gather(matrix.parameter, matrix.block, gradients, row)
        for index, place in program.vector_gradients:
            self._gather(index, 0, self._at(place, backward=True)[None], None)

    # Places

    def _at(self, place: Place, *, backward: bool) -> Any:
        """A row, as a view; one of forward has no axis of states, which broadcasts."""
        if place.space == "slot":
            return (self._gradients if backward else self._slots)[place.index][place.slot]
        if place.space == "scalar":
            return self._scalars[place.index]
        if place.space == "vector":
            return self._params[self._program.parameters[place.index].name]
        spaces: Mapping[str, Any] = {
            "before": self.before,
            "after": self.after,
            "given": self.given,
            "gradient": self.handed,
            "scratch": self._scratch,
        }
        return spaces[place.space][place.index]

    # Instructions

    def _code(self, stage: Stage, leading: tuple[int, ...], *, backward: bool) -> list[Call]:
        calls: list[Call] = []
        registers: dict[int, Any] = {}
        stored = {code.place for code in stage.code if code.op == "store"}
        spare, mask = self._zeros(*leading, self._hidden), np.zeros((*leading, self._hidden), np.bool_)
        for code in stage.code:
            operands = [registers[operand] for operand in code.operands]
            if code.op == "store":
                assert code.place is not None
                calls.append(partial(setitem, self._at(code.place, backward=backward), ..., operands[0]))
            elif code.op == "const":
                registers[code.to] = np.full((*leading, self._hidden), code.value, self._dtype)
            elif code.op == "load":
                assert code.place is not None
                row = self._at(code.place, backward=backward)
                if code.place in stored or row.shape != spare.shape:  # written before it is read, or to be spread
                    row, calls = _spread(row, spare.shape, calls)
                registers[code.to] = row
            else:
                out = registers[code.to] = self._zeros(*leading, self._hidden)
                calls += self._operation(code, operands, out, spare, mask)
        return calls

    def _operation(self, code: Instruction, operands: list[Any], out: Array, spare: Array, mask: Array) -> list[Call]:
        op, one = code.op, self._dtype.type(1)
        if op in _UFUNCS:
            return [partial(_UFUNCS[op], *operands, out=out)]
        a, b, c = (*operands, None, None)[:3]
        half, zero = self._dtype.type(0.5), self._dtype.type(0)
        composed: Mapping[str, Callable[[], list[Call]]] = {
            "fma": lambda: [partial(np.multiply, a, b, out=spare), partial(np.add, spare, c, out=out)],
            "fnma": lambda: [partial(np.multiply, a, b, out=spare), partial(np.subtract, c, spare, out=out)],
            "relu": lambda: [partial(np.maximum, a, zero, out=out)],
            "softplus": lambda: [partial(np.logaddexp, a, zero, out=out)],
            "sigmoid": lambda: [  # (1 + tanh(a / 2)) / 2, which can't overflow
                partial(np.multiply, a, half, out=out),
                partial(np.tanh, out, out=out),
                partial(np.multiply, out, half, out=out),
                partial(np.add, out, half, out=out),
            ],
            "d_sigmoid": lambda: [partial(np.subtract, one, a, out=spare), partial(np.multiply, a, spare, out=out)],
            "d_tanh": lambda: [partial(np.multiply, a, a, out=spare), partial(np.subtract, one, spare, out=out)],
            "lerp": lambda: [
                partial(np.subtract, b, c, out=spare),
                partial(np.multiply, a, spare, out=spare),
                partial(np.add, spare, c, out=out),
            ],
            "where": lambda: [
                partial(np.greater, a, zero, out=mask),
                partial(setitem, out, ..., c),
                partial(np.positive, b, out=out, where=mask),
            ],
        }
        return composed[op]()

    # Means

    def _mean(self, mean: Mean) -> list[Call]:
        """A number per row, over all units."""
        total, part = self._scalars.setdefault(mean.scalar, self._zeros(self._rows, 1)), self._zeros(self._rows, 1)
        calls: list[Call] = [partial(total.fill, 0)]
        for place in mean.rows:
            row = self._at(place, backward=False)
            calls += [partial(np.add.reduce, row, -1, None, part, True), partial(np.add, total, part, out=total)]
        if not mean.total:
            calls.append(partial(np.divide, total, self._dtype.type(self._hidden * len(mean.rows)), out=total))
        return calls

    def _own_share(self, mean: Mean) -> list[Call]:
        """Of a mean in backward: what the unit itself puts in."""
        share = self._scalars[mean.scalar] = self._zeros(len(self.before), self._rows, self._hidden)
        calls: list[Call] = [partial(share.fill, 0)]
        calls += [partial(np.add, share, self._at(place, backward=True), out=share) for place in mean.rows]
        if not mean.total:
            calls.append(partial(np.divide, share, self._dtype.type(self._hidden * len(mean.rows)), out=share))
        return calls

    # Products

    def _blocks(self, matrix: Matrix, count: int) -> tuple[Array, int]:
        """Some blocks of a parameter, [count, H, columns] or [count, H], and its heads."""
        parameter = self._program.parameters[matrix.parameter]
        value = self._params[parameter.name]
        blocks = value.reshape(parameter.blocks, self._hidden, *value.shape[1:])
        return blocks[matrix.block : matrix.block + count], parameter.heads

    def _product(self, product: Product) -> list[Call]:
        """Sums of a product, for all of its blocks."""
        count, rows, hidden = product.count, self._rows, self._hidden
        target = self._slots[product.region][product.first : product.first + count]
        calls: list[Call] = [partial(target.fill, 0)]
        for bias in (product.x_bias, product.u_bias):
            if bias is not None:
                rows_of_bias, calls = _spread(self._blocks(bias, count)[0][:, None], target.shape, calls)
                calls.append(partial(np.add, target, rows_of_bias, out=target))
        left = None if product.left is None else self._at(product.left, backward=False)
        for matrix, row in ((product.x, self.x), (product.u, left)):
            if matrix is None:
                continue
            assert row is not None
            blocks, heads = self._blocks(matrix, count)
            parts = blocks.reshape(count, heads, hidden // heads, -1).swapaxes(2, 3)
            by_head = row.reshape(rows, heads, -1).swapaxes(0, 1)
            result = self._zeros(count, heads, rows, hidden // heads)
            view = target.reshape(count, rows, heads, hidden // heads).swapaxes(1, 2)
            calls += [partial(np.matmul, by_head, parts, out=result), partial(np.add, view, result, out=view)]
        return calls

    def _back_product(self, product: BackProduct, *, through: bool) -> list[Call]:
        """What flows back to a row from the products that read it: the unit's own part."""
        target = self._at(product.target, backward=True)
        start = None if product.start is None else self._at(product.start, backward=True)
        total = self._zeros(*target.shape)
        calls: list[Call] = [partial(total.fill, 0) if start is None else partial(setitem, total, ..., start)]
        for term in product.terms if through else ():
            parameter = self._program.parameters[term.parameter]
            heads, width = parameter.heads, self._hidden // parameter.heads
            spare = self._zeros(*target.shape[:-1], heads, width)
            for n, block in enumerate(term.blocks):
                matrix = self._blocks(Matrix(term.parameter, block), 1)[0].reshape(heads, width, width)
                own, calls = _spread(np.diagonal(matrix, axis1=1, axis2=2), spare.shape, calls)
                gradient = self._gradients[term.region][term.first + n].reshape(spare.shape)
                view = total.reshape(spare.shape)
                calls += [partial(np.multiply, gradient, own, out=spare), partial(np.add, view, spare, out=view)]
        return [*calls, partial(setitem, target, ..., total)]

    # What the traces read

    def _gather(self, parameter: int, block: int, gradients: Array, row: Array | None) -> None:
        """Bring the gradients of some blocks' sums, [count, S, B, H], together with what the blocks multiply."""
        one, count = self._program.parameters[parameter], len(gradients)
        direct = self._zeros(len(self.before), self._rows, count, self._hidden)
        source = np.ones((self._rows, 1, 1), self._dtype) if row is None else row.reshape(self._rows, one.heads, -1)
        self._backward.append(partial(setitem, direct, ..., gradients.transpose(1, 2, 0, 3)))
        self.influences.append(Influence(one.name, slice(block, block + count), direct, source))


def _spread(row: Array, shape: tuple[int, ...], calls: list[Call]) -> tuple[Array, list[Call]]:
    """A copy of a row in a larger shape, and the calls with the one that makes it.

    NumPy's arithmetic on operands of unequal shapes takes memory in every call.
    """
    copy = np.zeros(shape, row.dtype)
    return copy, [*calls, partial(setitem, copy, ..., row)]
