"""A described cell's layer and direction on the device: any program, step by step or in one walk.

What x contributes to all sums is one product over the whole sequence before the first step. Then, step by step and
stage by stage: the products with states and stored rows (the library's), the numbers per row, and a kernel that has the
stage's instructions (`pointwise`). A cell without products of its own rows is one launch for all steps. Backward is the
same the other way round; the gradients of x and of the parameters are products over the whole sequence after it.

A) Panels are the parameters one after the other, in the program's order; an absent bias is zeros.
B) A region lies as [steps, B, slots, width]: neighbouring slots of one step are neighbouring columns of one matrix, so
   that a product writes them where they are read. Backward leaves gradients where the sums were, as on the host.
C) The tape has what backward reads: the regions, the states before and after the steps (those that are read), and the
   numbers per row. In inference a region that x contributes to still has all steps, any other memory one.
D) In bfloat16 what products read is kept a second time, in that format: states and rows on the tape, gradients beside.
E) A row that has ended or skips a step has zeros for whatever a product over the sequence reads of it, x included.
F) Blocks on the diagonal (heads) are products with one axis more, which the library does at once.

Rejected: sums complete with their biases in memory (a pass over all sums, to save an addition where they are loaded).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._call import BackwardCall, ForwardCall
from ..description.program import INPUT, BackProduct, Matrix, Parameter, Place, Program, Term
from . import arrays, blas, graphs, reductions
from .plan import WALK, engine_of
from .pointwise import Bound, Written, lefts, pointwise, runs_of
from .sequence import stored_dtype

__all__ = ["Described"]

Array = Any  # a device array
_ALIGNMENT = 32  # elements of float32: 128 bytes
_NONE = -1  # no step
_NUMBERS = itertools.count()


class _Sums(NamedTuple):
    """Neighbouring slots that one product with neighbouring blocks of a parameter sums in."""

    region: int
    first: int
    slots: int
    parameter: int
    block: int
    left: Place | None
    add: bool
    """Whether x has contributed to the sums before."""


class _Prepared:
    """The parameters as operands: made once each, while the panels stay the same.

    Parameters
    ----------
    panels : device array
    views : sequence of device arrays
    precision : str
    """

    def __init__(self, panels: Array, views: Sequence[Array], precision: str) -> None:
        self.panels, self.views, self._precision = panels, views, precision
        self._operands: dict[int, Array] = {}
        self._tables: dict[tuple[int, int, int], Array] = {}

    def operand(self, number: int) -> Array:
        """A weight as products take it."""
        found = self._operands.get(number)
        if found is None:
            found = self._operands[number] = blas.as_stored(self.views[number], self._precision)
        return found

    def table(self, number: int, rows: slice) -> Array:
        """Rows of a weight transposed: a row for each id."""
        key = number, rows.start, rows.stop
        found = self._tables.get(key)
        if found is None:
            found = self._tables[key] = arrays.contiguous(self.views[number][rows].T)
        return found


class Described:
    """The kernel of a described cell: the methods of the host's `Kernel`, for arrays on the device.

    Parameters
    ----------
    program : Program
    widths : tuple of int
        Of the program's domains; the first is the hidden size.
    input_size : int
    precision : {"float32", "tf32", "bfloat16"}
    """

    panel_size_backward = 0

    def __init__(self, program: Program, widths: tuple[int, ...], input_size: int, precision: str = "float32") -> None:
        self.program, self.widths, self.input_size, self.precision = program, widths, input_size, precision
        self.hidden_size = widths[0]
        self._bfloat16 = precision == "bfloat16"
        self._code = pointwise(program, self._bfloat16)
        self._lefts = lefts(program)
        self._from_x = _sums(program, range(len(program.products)), of_x=True)
        self._walks = engine_of(program) == WALK
        self._prepared: _Prepared | None = None
        self.number = next(_NUMBERS)  # unlike `id`, no other engine's after this one's end
        self._sums_of = {
            id(stage): _sums(program, stage.products, of_x=False)
            for stages in (program.inference, program.forward)
            for stage in stages
        }

    # Panels

    def _shape(self, parameter: Parameter) -> tuple[int, ...]:
        rows = parameter.blocks * self.widths[parameter.domain]
        if parameter.columns is None:
            return (rows,)
        columns = self.input_size if parameter.columns == INPUT else self.widths[parameter.columns] // parameter.heads
        return rows, columns

    @property
    def panel_size(self) -> int:
        """The elements of the panels."""
        return sum(math.prod(self._shape(parameter)) for parameter in self.program.parameters)

    @property
    def gradient_size(self) -> int:
        """The elements of `dpanels`: the sums here are rounded once, so nothing is left to hand on."""
        return self.panel_size

    def _views(self, panels: Array) -> list[Array]:
        parts, start = [], 0
        for parameter in self.program.parameters:
            shape = self._shape(parameter)
            stop = start + math.prod(shape)
            parts.append(panels[start:stop].reshape(shape))
            start = stop
        return parts

    def pack(self, params: tuple[Array | None, ...], out: Array) -> None:
        """Write the parameters (None is zeros) into the panels `out`."""
        self.forget(out)
        for view, given in zip(self._views(out), params, strict=True):
            view[...] = 0 if given is None else given

    def forget(self, panels: Array) -> None:
        """The panels are about to have other contents."""
        if self._prepared is not None and self._prepared.panels is panels:
            self._prepared = None

    def pack_backward(self, params: tuple[Array | None, ...], out: Array, dx: bool = True) -> None:
        """There is nothing to write."""

    def unpack(self, panels: Array, params: tuple[Array | None, ...]) -> None:
        """Write what the panels hold into the given arrays."""
        for view, taken in zip(self._views(panels), params, strict=True):
            if taken is not None:
                taken[...] = view

    def _operands(self, panels: Array) -> _Prepared:
        """What is made of the panels, from call to call while they are the same array."""
        found = self._prepared
        if found is None or found.panels is not panels:
            self._prepared = None  # the old ones' memory is free for the new
            found = self._prepared = _Prepared(panels, self._views(panels), self.precision)
        return found

    def prepare(self, panels: Array, B: int) -> _Prepared:
        """What `forward` makes of the panels, to be handed to it again and again."""
        return _Prepared(panels, self._views(panels), self.precision)

    # Memory

    def _kept(self, T: int, B: int, *, training: bool) -> dict[str, tuple[tuple[int, ...], Any]]:
        """What a call keeps by step: shapes, whose first axis is all steps or one, and dtypes."""
        program, code = self.program, self._code
        float32, stored = np.dtype(np.float32), stored_dtype(self.precision)
        found: dict[str, tuple[tuple[int, ...], Any]] = {}
        summed = {one.region for one in self._from_x}
        for number, region in enumerate(program.regions):
            steps = T if training or number in summed else 1
            found[f"region{number}"] = (steps, B, region.slots, self.widths[region.domain]), float32
        for number, state in enumerate(program.states):
            row, left = (B, self.widths[state.domain]), Place("before", number) in self._lefts
            wide = left and not self._bfloat16
            if wide or (training and number in code.loads_before):
                found[f"before{number}"] = (T if training else 1, *row), float32
            if left and self._bfloat16:
                found[f"left{number}"] = (T if training else 1, *row), stored
            found[f"after{number}"] = (T if training and number in code.loads_after else 1, *row), float32
        if self._bfloat16:
            for place in self._lefts:
                if place.space == "slot":
                    shape = found[f"region{place.index}"][0]
                    found[f"shadow{place.index}"] = shape, stored
        found["scalars"] = (T if training else 1, B, max(program.scalars, 1)), float32
        return found

    def tape_size(self, T: int, B: int) -> int:
        """The elements, of float32, of the tape of a call."""
        kept = self._kept(T, B, training=True).values() if T and B else ()
        return sum(_words(shape, dtype) for shape, dtype in kept)

    def _memory(self, tape: Array | None, T: int, B: int) -> dict[str, Array]:
        """Views on the tape by name; without one, memory of the call's own."""
        found, start = {}, 0
        for name, (shape, dtype) in self._kept(T, B, training=tape is not None).items():
            if tape is None:
                found[name] = arrays.empty(shape, dtype)
            else:
                stop = start + _words(shape, dtype)
                found[name] = tape[start:stop].view(dtype)[: math.prod(shape)].reshape(shape)
                start = stop
        return found

    def _common(
        self, given: ForwardCall | BackwardCall, prepared: _Prepared, memory: dict[str, Array]
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """The arrays and numbers of a call that both directions have, by the names that `pointwise` uses."""
        T, B = given.x.shape[:2]
        program, xp = self.program, arrays.xp()
        found: dict[str, Any] = {
            name: None for name in ("lengths", *(f"before{number}" for number in range(len(program.states))))
        }
        found |= memory
        if given.lengths is not None:  # as unsigned numbers, negative ones are the largest
            lengths = xp.minimum(arrays.contiguous(given.lengths).view(np.uint64), np.uint64(T)).view(np.int64)
            found["lengths"] = lengths
        for name in ("resets", "skip"):
            mask = getattr(given, name)
            found[name] = None if mask is None else arrays.contiguous(mask)
        for number, view in enumerate(prepared.views):
            found[f"param{number}"] = view
        for number, extra in enumerate(given.given):
            found[f"given{number}"] = arrays.contiguous(extra)
        steps = {name: int(len(array) > 1) for name, array in memory.items()}
        numbers = {"T": T, "B": B, "reverse": int(given.reverse)}
        numbers |= {f"at_{name}": flag for name, flag in steps.items()}
        numbers |= {f"at_before{k}": steps.get(f"before{k}", 0) for k in range(len(program.states))}
        numbers |= {f"W{domain}": width for domain, width in enumerate(self.widths)}
        numbers |= {"seed": given.seed, "layer": given.layer, "first_step": given.first_step}
        return found, numbers

    # Forward

    def forward(self, given: ForwardCall, prepared: _Prepared | None = None) -> None:
        """Write `y` and the final states; with a tape, also what backward needs.

        The arrays are those of the host's kernels, on the device, in float32. `num_threads` has no meaning there.
        """
        T, B = given.x.shape[:2]
        program, states = self.program, range(len(self.program.states))
        initial, final, y, reset = (
            one or (None,) * len(states) for one in (given.state, given.final_state, given.y, given.reset_state)
        )
        for number, state in enumerate(program.states):
            _begin(final[number], initial[number], state.initial)
        if not T or not B:
            return
        prepared = prepared or self._operands(given.panels)
        training = given.tape is not None
        memory = self._memory(given.tape, T, B)
        found, numbers = self._common(given, prepared, memory)
        found |= {f"state{number}": final[number] for number in states}
        found |= {f"reset{number}": reset[number] for number in states}
        self._sequences(found, numbers, "y", y)
        self._input_sums(given, prepared, memory)
        code = self._code
        order = list(range(T))[:: -1 if given.reverse else 1]
        program_stages = program.forward if training else program.inference
        begin = _bind(code.begin, found, numbers)
        if self._walks:
            assert code.walk is not None
            walk = code.walk[1 if training else 0].bind(found, numbers)
            stream = arrays.stream_pointer()
            _launch(begin, _NONE, order[0], stream)
            walk.launch(order[0], _NONE, T, stream)
            return
        written = code.forward if training else code.inference
        stages = [
            (self._sums_of[id(stage)], _bind(means, found, numbers), _bind(_maybe(one), found, numbers))
            for stage, (means, one) in zip(program_stages, written, strict=True)
        ]
        turn = _bind(code.turn, found, numbers)

        def run() -> None:
            stream = arrays.stream_pointer()
            _launch(begin, _NONE, order[0], stream)
            for t, following in zip(order, [*order[1:], _NONE], strict=True):
                for sums, means, pointwise_part in stages:
                    for one in sums:
                        self._add_sums(one, t, memory, prepared)
                    _launch(means, t, following, stream)
                    _launch(pointwise_part, t, following, stream)
                _launch(turn, t, following, stream)

        graphs.run(run, "forward", *_depends(self, found, numbers, prepared))

    def _sequences(
        self, found: dict[str, Any], numbers: dict[str, int], name: str, sequences: Sequence[Array | None]
    ) -> None:
        """Sequences of any strides, as flat memory and steps."""
        for number, array in enumerate(sequences):
            flat, steps = (None, (0, 0)) if array is None else arrays.cover(array)
            found[f"{name}{number}"] = flat
            numbers |= {f"{name}{number}_t": steps[0], f"{name}{number}_b": steps[1]}

    def _input_sums(self, given: ForwardCall, prepared: _Prepared, memory: Mapping[str, Array]) -> None:
        """What x contributes to all sums, of all steps."""
        x = given.x
        T, B = x.shape[:2]
        ids = x.ndim == 2
        operand = None if ids or not self._from_x else blas.as_operand(x, given.lengths, self.precision, given.skip)
        for one in self._from_x:
            width = self.widths[self.program.regions[one.region].domain]
            rows, columns = slice(one.block * width, (one.block + one.slots) * width), self._columns(one)
            out = memory[f"region{one.region}"].reshape(T * B, -1)[:, columns]
            if ids:
                whole = out.flags.c_contiguous
                gathered = (out if whole else arrays.empty(out.shape)).reshape(T, B, -1)
                reductions.gather_rows(prepared.table(one.parameter, rows), x, given.lengths, gathered)
                if not whole:
                    out[...] = gathered.reshape(out.shape)
            else:
                weight = prepared.operand(one.parameter)[rows]
                blas.gemm(operand, weight, out, transpose_b=True, precision=self.precision)

    def _columns(self, sums: _Sums) -> slice:
        width = self._width(sums.region)
        return slice(sums.first * width, (sums.first + sums.slots) * width)

    def _left(self, place: Place, memory: Mapping[str, Array]) -> Array:
        """What a product multiplies, [steps, B, width], as it is stored for that."""
        if place.space == "before":
            return memory[f"{'left' if self._bfloat16 else 'before'}{place.index}"]
        array = memory[f"{'shadow' if self._bfloat16 else 'region'}{place.index}"]
        return array.reshape(*array.shape[:2], -1)

    def _add_sums(self, one: _Sums, t: int, memory: Mapping[str, Array], prepared: _Prepared) -> None:
        """A product of step t with a state or a stored row, added to what x has contributed if it has."""
        assert one.left is not None
        parameter, width = self.program.parameters[one.parameter], self._width(one.region)
        left, region = self._left(one.left, memory), memory[f"region{one.region}"]
        rows = region[t % len(region)].reshape(region.shape[1], -1)
        operand, weight = left[t % len(left)], prepared.operand(one.parameter)
        for first, count in _blocks(one.slots, parameter.heads):
            block = weight[(one.block + first) * width : (one.block + first + count) * width]
            out = rows[:, (one.first + first) * width : (one.first + first + count) * width]
            self._multiply(operand, block, out, parameter.heads, add=one.add, transpose_b=True)

    def _width(self, region: int) -> int:
        return self.widths[self.program.regions[region].domain]

    def _multiply(
        self, a: Array, b: Array, out: Array, heads: int, *, add: bool = False, transpose_b: bool = False
    ) -> None:
        """A product with a weight, or with the blocks on a weight's diagonal."""
        if heads > 1:
            a, out = _by_head(a, heads), _by_head(out, heads)
            b = b.reshape(heads, -1, b.shape[1])
        blas.gemm(a, b, out, add=add, transpose_b=transpose_b, precision=self.precision)

    # Backward

    def backward(self, given: BackwardCall) -> None:
        """Write `dx`, `dstate`, `d_reset_state` and `dgiven` where they are given, and `dpanels`."""
        if not given.adds:
            given.dpanels.fill(0)
        T, B = given.x.shape[:2]
        program, states = self.program, range(len(self.program.states))
        dfinal, dstate, d_reset, dy = (
            one or (None,) * len(states) for one in (given.dfinal, given.dstate, given.d_reset_state, given.dy)
        )
        gradients = [
            arrays.empty((B, self.widths[state.domain])) if out is None else out
            for state, out in zip(program.states, dstate, strict=True)
        ]
        for gradient, start, reset in zip(gradients, dfinal, d_reset, strict=True):
            _begin(gradient, start, 0)
            if not given.adds:
                _begin(reset, None, 0)
        if not T or not B:
            return
        prepared, memory = self._operands(given.panels), self._memory(given.tape, T, B)
        found, numbers = self._common(given, prepared, memory)
        found |= {f"gradient{number}": array for number, array in enumerate(gradients)}
        found |= {f"d_reset{number}": array for number, array in enumerate(d_reset)}
        self._sequences(found, numbers, "dy", [None if array is None else _rising(array) for array in dy])
        scratch = {f"scratch{k}": arrays.empty((B, self.widths[domain])) for k, domain in enumerate(program.scratch)}
        shadows = self._gradient_shadows(memory)
        found |= scratch | shadows
        numbers |= {f"at_{name}": 1 if T > 1 else 0 for name in shadows}
        dgiven = self._given_gradients(given)
        found |= {f"dgiven{number}": array for number, array in enumerate(dgiven)}
        self._walk_back(given, found, numbers, prepared)
        self._input_gradient(given, found, prepared)
        self._parameter_gradients(given, found)
        for out, array in zip(given.dgiven, dgiven, strict=False):
            if out is not None and out is not array:
                out[...] = array

    def _gradient_shadows(self, memory: Mapping[str, Array]) -> dict[str, Array]:
        """In bfloat16, where the gradients of sums lie for products to read them."""
        regions = {product.region for product in self.program.products} if self._bfloat16 else set()
        return {
            f"shadow{region}": arrays.empty(memory[f"region{region}"].shape, stored_dtype(self.precision))
            for region in sorted(regions)
        }

    def _given_gradients(self, given: BackwardCall) -> list[Array | None]:
        """Where the extra inputs' gradients are written; of an input that none is made for, zeros."""
        made = {index for index, _ in self.program.given_gradients}
        found: list[Array | None] = []
        for index in range(len(self.program.given)):
            out = given.dgiven[index] if index < len(given.dgiven) else None
            if out is not None and index not in made:
                out[...] = 0
            if out is not None and not out.flags.c_contiguous:
                out = arrays.empty(out.shape)
                out.fill(0)
            found.append(out)
        return found

    def _walk_back(
        self, given: BackwardCall, found: Mapping[str, Any], numbers: Mapping[str, int], prepared: _Prepared
    ) -> None:
        """All steps, backward: the gradients of all sums."""
        program, code, T = self.program, self._code, given.x.shape[0]
        order = list(range(T))[:: 1 if given.reverse else -1]
        end = _bind(code.end, found, numbers)
        if self._walks:
            assert code.walk is not None
            stream = arrays.stream_pointer()
            code.walk[2].bind(found, numbers).launch(order[0], _NONE, T, stream)
            _launch(end, _NONE, order[-1], stream)
            return
        stages = [
            (stage.back_products, _bind(means, found, numbers), _bind(_maybe(one), found, numbers))
            for stage, (means, one) in zip(program.backward, code.backward, strict=True)
        ]
        arrive, finish = _bind(code.arrive, found, numbers), _bind(code.finish, found, numbers)

        def run() -> None:
            stream = arrays.stream_pointer()
            for done, t in zip([_NONE, *order], order, strict=False):
                _launch(arrive, t, done, stream)
                for products, means, pointwise_part in stages:
                    for product in products:
                        self._back_product(product, t, found, prepared, begin=True)
                    _launch(means, t, done, stream)
                    _launch(pointwise_part, t, done, stream)
                _launch(finish, t, done, stream)
                for product in program.state_products:
                    self._back_product(product, t, found, prepared, begin=False)
            _launch(end, _NONE, order[-1], stream)

        graphs.run(run, "backward", *_depends(self, found, numbers, prepared))

    def _slot_gradients(self, found: Mapping[str, Any], region: int) -> Array:
        """The gradients in a region's slots as products read them: [T, B, slots * width]."""
        array = found[f"{'shadow' if self._bfloat16 else 'region'}{region}"]
        return array.reshape(*array.shape[:2], -1)

    def _back_product(
        self, product: BackProduct, t: int, found: Mapping[str, Any], prepared: _Prepared, *, begin: bool
    ) -> None:
        """What flows back to one source at step t. To a state: what starts it is there already, of rows that run."""
        target = found[f"{product.target.space}{product.target.index}"]
        add = not begin
        if begin and product.start is not None:
            target[...] = found[f"{product.start.space}{product.start.index}"]
            add = True
        for term in product.terms:
            rows = self._slot_gradients(found, term.region)[t]
            self._add_term(term, rows, target, prepared, add=add)
            add = True
        if not add:
            target.fill(0)

    def _add_term(self, term: Term, rows: Array, out: Array, prepared: _Prepared, *, add: bool) -> None:
        """The gradients [N, slots * width] of a term's slots times the parameter's blocks."""
        parameter, width = self.program.parameters[term.parameter], self._width(term.region)
        weight = prepared.operand(term.parameter)
        for start, length in runs_of(term.blocks):
            for first, count in _blocks(length, parameter.heads):
                block = term.blocks[start + first]
                part = weight[block * width : (block + count) * width]
                at = term.first + start + first
                self._multiply(rows[:, at * width : (at + count) * width], part, out, parameter.heads, add=add)
                add = True

    def _input_gradient(self, given: BackwardCall, found: Mapping[str, Any], prepared: _Prepared) -> None:
        dx = given.dx
        if dx is None:
            return
        contiguous = dx if dx.flags.c_contiguous else arrays.empty(dx.shape)
        out, add = contiguous.reshape(-1, self.input_size), False
        for term in self.program.input_terms:
            gradients = self._slot_gradients(found, term.region)
            self._add_term(term, gradients.reshape(len(out), -1), out, prepared, add=add)
            add = True
        if not add:
            out.fill(0)
        if contiguous is not dx:
            dx[...] = contiguous

    def _parameter_gradients(self, given: BackwardCall, found: Mapping[str, Any]) -> None:
        """Add the gradients of all parameters."""
        program, into, x = self.program, self._views(given.dpanels), given.x
        ids = x.ndim == 2
        operand = None if ids or not self._from_x else blas.as_operand(x, given.lengths, self.precision, given.skip)
        for one in self._from_x:
            gradients, rows = self._gradients_of(found, one), self._rows_of(one)
            if ids:
                reductions.scatter_add(gradients, x, into[one.parameter][rows], self.precision)
            else:
                out = into[one.parameter][rows]
                blas.gemm(gradients, operand, out, transpose_a=True, add=True, precision=self.precision)
        for one in _sums(program, range(len(program.products)), of_x=False):
            assert one.left is not None
            self._add_weight_gradient(one, found, into[one.parameter])
        self._add_sums_over_rows(found, into)

    def _gradients_of(self, found: Mapping[str, Any], one: _Sums) -> Array:
        gradients = self._slot_gradients(found, one.region)
        return gradients.reshape(-1, gradients.shape[2])[:, self._columns(one)]

    def _rows_of(self, one: _Sums) -> slice:
        width = self._width(one.region)
        return slice(one.block * width, (one.block + one.slots) * width)

    def _add_weight_gradient(self, one: _Sums, found: Mapping[str, Any], into: Array) -> None:
        """The gradient of blocks that multiply a state or a stored row."""
        assert one.left is not None
        heads, width = self.program.parameters[one.parameter].heads, self._width(one.region)
        left = self._left(one.left, found)
        left = left.reshape(-1, left.shape[2])
        gradients = self._gradients_of(found, one)
        for first, count in _blocks(one.slots, heads):
            part = gradients[:, first * width : (first + count) * width]
            out = into[(one.block + first) * width : (one.block + first + count) * width]
            a, b = part, left
            if heads > 1:
                a, b, out = _by_head(a, heads), _by_head(b, heads), out.reshape(heads, -1, out.shape[1])
            blas.gemm(a, b, out, transpose_a=True, add=True, precision=self.precision)

    def _add_sums_over_rows(self, found: Mapping[str, Any], into: Sequence[Array]) -> None:
        """The gradients of biases and vectors: sums over all steps and rows."""
        program = self.program
        wanted: list[tuple[int, int, Matrix]] = []
        for product in program.products:
            for bias in (product.x_bias, product.u_bias):
                if bias is not None:
                    wanted += [
                        (product.region, product.first + k, Matrix(bias.parameter, bias.block + k))
                        for k in range(product.count)
                    ]
        wanted += [(place.index, place.slot, Matrix(index)) for index, place in program.vector_gradients]
        sums: dict[int, Array] = {}
        for region, slot, matrix in wanted:
            if region not in sums:
                array = found[f"region{region}"]
                sums[region] = reductions.column_sums(array.reshape(array.shape[0] * array.shape[1], -1), "float32")
            width = self._width(region)
            part = sums[region][slot * width : (slot + 1) * width]
            into[matrix.parameter][matrix.block * width : (matrix.block + 1) * width] += part


def _words(shape: tuple[int, ...], dtype: Any) -> int:
    words = -(-math.prod(shape) * int(dtype.itemsize) // 4)
    return -(-words // _ALIGNMENT) * _ALIGNMENT


def _begin(to: Array | None, given: Array | None, otherwise: float) -> None:
    if to is not None and to is not given:
        to[...] = otherwise if given is None else given


def _maybe(one: Written | None) -> tuple[Written, ...]:
    return () if one is None else (one,)


def _bind(written: Sequence[Written], found: Mapping[str, Any], numbers: Mapping[str, int]) -> list[Bound]:
    return [one.bind(found, numbers) for one in written]


def _launch(kernels: Sequence[Bound], t: int, other: int, stream: int) -> None:
    for kernel in kernels:
        kernel.launch(t, other, 1, stream)


def _depends(engine: Described, found: Mapping[str, Any], numbers: Mapping[str, int], prepared: _Prepared) -> Any:
    """All that a call's launches depend on."""
    weights = [number for number, one in enumerate(engine.program.parameters) if one.kind == "weight"]
    return engine.number, *found.values(), *numbers.values(), *map(prepared.operand, weights)


def _blocks(count: int, heads: int) -> list[tuple[int, int]]:
    """Blocks of a weight that one product takes: all, or each by itself where it is made of heads."""
    return [(0, count)] if heads == 1 else [(number, 1) for number in range(count)]


def _by_head(matrix: Array, heads: int) -> Array:
    """[N, heads * C] as [heads, N, C]."""
    return matrix.reshape(len(matrix), heads, -1).swapaxes(0, 1)


def _rising(sequence: Array) -> Array:
    """A sequence with unit stride in its last axis and no other below zero."""
    fits = min(sequence.strides) >= 0 and (sequence.strides[-1] == sequence.itemsize or sequence.shape[-1] == 1)
    return sequence if fits else arrays.contiguous(sequence)


def _sums(program: Program, numbers: Any, *, of_x: bool) -> list[_Sums]:
    """The products of x, or all others, neighbours as one."""
    found: list[_Sums] = []
    for number in numbers:
        product = program.products[number]
        matrix = product.x if of_x else product.u
        if matrix is None:
            continue
        one = _Sums(
            *(product.region, product.first, product.count),
            *(matrix.parameter, matrix.block),
            *((None, False) if of_x else (product.left, product.x is not None)),
        )
        before = found[-1] if found else None
        if (
            before is not None
            and (before.region, before.parameter, *before[5:]) == (one.region, one.parameter, *one[5:])
            and one.first == before.first + before.slots
            and one.block == before.block + before.slots
        ):
            found[-1] = before._replace(slots=before.slots + one.slots)
        else:
            found.append(one)
    return found
