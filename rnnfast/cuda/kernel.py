"""One layer and direction on the device, with the methods of the CPU's kernels: what the walk over layers calls.

Where `plan` says persistent: around the recurrence are the products over the whole sequence, the input side of all
gates before it, dx and the parameters' gradients after it. Else the kind is a described cell like any other.

A) Panels are the parameters one after the other, in their own order; there is nothing to pack for backward.
B) The tape is float32 memory, in which the trail's arrays lie one after the other, each starting at a multiple of
   `_ALIGNMENT`. x is not on it: backward makes its operand again.
C) Nothing here waits for the device. A length outside 0..T counts as T, and its row's input as NaN (`blas`,
   `reductions`), so that all of its results are NaN, whatever its resets.
D) The rows of U's gradient are in gate order and the gates' gradients in slot order: a product for each run of slots
   that are neighbours in both.
E) What is made of the weights alone is `Operands`, kept while the panels are the same: U is packed once for a version
   of the parameters, forward and backward, and not in each call.

Rejected: x's operand on the tape (as much memory as the input, to save one copy of it in backward).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from .. import reference
from .._call import BackwardCall, ForwardCall
from . import arrays, blas, persistent, reductions, shim
from .described import Described
from .plan import Partition, Plan, columns, plan
from .pointwise import runs_of
from .sequence import CELLS, Backward, Cell, Forward, Masks, Trail, stored_dtype, trail_sizes

__all__ = ["Kernel", "Operands", "Prepared"]

Array = Any  # a device array

_ALIGNMENT = 32  # elements of float32: 128 bytes


class _Weights(NamedTuple):
    """Views on panels."""

    weight_ih: Array  # [G * H, I]
    weight_hh: Array  # [G * H, H]
    bias_ih: Array  # [G * H]
    bias_hh: Array


class Operands:
    """The weights in the forms in which calls read them, each made once.

    Parameters
    ----------
    panels : device array
        Its contents stay what they are.
    weights : views on it
    kind, precision : str
    """

    def __init__(self, panels: Array, weights: _Weights, kind: str, precision: str) -> None:
        self.panels, self._weights, self._kind, self._precision = panels, weights, kind, precision
        self._packed: dict[tuple[Partition, bool], Array] = {}

    @functools.cached_property
    def input_side(self) -> Array:
        """W as an operand."""
        return blas.as_stored(self._weights.weight_ih, self._precision)

    @functools.cached_property
    def table(self) -> Array:
        """W transposed: a row for each id, in which neighbours lie side by side as threads read them."""
        return arrays.contiguous(self._weights.weight_ih.T)

    def recurrent(self, partition: Partition, *, backward: bool) -> Array:
        """U as the persistent engine takes it. How the batch is dealt out does not matter to that."""
        key = partition._replace(groups=1, rows=1), backward
        found = self._packed.get(key)
        if found is None:
            weight = self._weights.weight_hh
            found = persistent.packed(weight, self._kind, self._precision, partition, backward=backward)
            self._packed[key] = found
        return found


class Prepared:
    """What a stream keeps for its calls, of one batch size, one after the other.

    Parameters
    ----------
    operands : Operands
    partition : Partition
    """

    def __init__(self, operands: Operands, partition: Partition) -> None:
        self.operands, self.ring = operands, persistent.ring(partition)
        operands.recurrent(partition, backward=False)


class Kernel:
    """The kernel of one kind, size and precision.

    Parameters
    ----------
    kind : str
        A key of `reference.CELLS`.
    input_size, hidden_size : int
    precision : {"float32", "tf32", "bfloat16"}
    """

    def __init__(self, kind: str, input_size: int, hidden_size: int, precision: str = "float32") -> None:
        self.kind, self.precision = kind, precision
        self.input_size, self.hidden_size = input_size, hidden_size
        self._described = Described(reference.CELLS[kind].program(), (hidden_size,), input_size, precision)
        self._cell = CELLS.get(kind)
        self._rows = len(reference.CELLS[kind].gates) * hidden_size
        self._operands: Operands | None = None

    # Panels

    @property
    def panel_size(self) -> int:
        """The elements of the panels; absent biases are there, as zeros."""
        return self._rows * (self.input_size + self.hidden_size + 2)

    @property
    def panel_size_backward(self) -> int:
        """None: backward takes the same panels."""
        return 0

    @property
    def gradient_size(self) -> int:
        """The elements of `dpanels`: the sums here are rounded once, so nothing is left to hand on."""
        return self.panel_size

    def _views(self, panels: Array) -> _Weights:
        parts, start = [], 0
        for shape in ((self._rows, self.input_size), (self._rows, self.hidden_size), (self._rows,), (self._rows,)):
            stop = start + math.prod(shape)
            parts.append(panels[start:stop].reshape(shape))
            start = stop
        return _Weights(*parts)

    def pack(self, params: tuple[Array | None, ...], out: Array) -> None:
        """Write weight_ih, weight_hh, bias_ih and bias_hh (None is zeros) into the panels `out`."""
        if self._operands is not None and self._operands.panels is out:
            self._operands = None
        self._described.forget(out)
        for view, given in zip(self._views(out), params, strict=True):
            view[...] = 0 if given is None else given

    def pack_backward(self, params: tuple[Array | None, ...], out: Array, dx: bool = True) -> None:
        """There is nothing to write."""

    def unpack(self, panels: Array, params: tuple[Array | None, ...]) -> None:
        """Write what the panels hold into the given arrays."""
        for view, taken in zip(self._views(panels), params, strict=True):
            if taken is not None:
                taken[...] = view

    # The tape

    def tape_size(self, T: int, B: int) -> int:
        """The elements, of float32, of the tape of a call."""
        if B and self._plan(B).forward is None:
            return self._described.tape_size(T, B)
        return sum(words for _, words in self._layout(T, B).values()) if T and B else 0

    def _layout(self, T: int, B: int) -> dict[str, tuple[tuple[int, ...], int]]:
        """The trail's arrays in their order on the tape: shape, and words of memory."""
        width = columns(self.hidden_size)
        shapes = trail_sizes(self.kind, T, B, self.hidden_size, width)
        layout = {}
        for name, shape in shapes.items():
            words = -(-math.prod(shape) * self._dtype(name).itemsize // 4)
            layout[name] = shape, -(-words // _ALIGNMENT) * _ALIGNMENT
        return layout

    def _dtype(self, name: str) -> Any:
        return stored_dtype(self.precision if name == "used" else "float32")

    def _trail(self, tape: Array, T: int, B: int) -> Trail:
        trail, start = {}, 0
        for name, (shape, words) in self._layout(T, B).items():
            memory = tape[start : start + words].view(self._dtype(name))
            trail[name] = memory[: math.prod(shape)].reshape(shape)
            start += words
        return Trail(**trail)

    def _plan(self, B: int) -> Plan:
        limits = shim.limits(arrays.current_device())
        device = {"multiprocessors": limits.multiprocessors, "shared_bytes": limits.shared_bytes}
        return plan(self.kind, self.hidden_size, B, self.precision, **device)

    # Calls

    def operands(self, panels: Array) -> Operands:
        """What is made of the panels, kept from call to call while they are the same array.

        They are made anew for each version of the parameters, and `pack` says so if it writes into the same ones.
        """
        found = self._operands
        if found is None or found.panels is not panels:
            self._operands = None  # the old ones' memory is free for the new
            found = self._operands = Operands(panels, self._views(panels), self.kind, self.precision)
        return found

    def prepare(self, panels: Array, B: int) -> Any:
        """What `forward` needs for B rows besides its call, to be handed to it again and again."""
        chosen = self._plan(B).forward
        if chosen is None:
            return self._described.prepare(panels, B)
        return Prepared(Operands(panels, self._views(panels), self.kind, self.precision), chosen)

    def forward(self, given: ForwardCall, prepared: Any = None) -> None:
        """Write `y` and the final state; with a tape, also what backward needs.

        The arrays are those of the CPU's kernels, on the device, in float32. `num_threads` has no meaning there.
        `prepared` is of these panels and this batch size; None makes it.
        """
        chosen = self._plan(given.x.shape[1]).forward if given.x.shape[1] else None
        if chosen is None:
            self._described.forward(given, prepared)
            return
        x, lengths = given.x, given.lengths
        T, B = x.shape[:2]
        (h0, c0), (h, c) = _pair(given.state), _pair(given.final_state)
        if not T or not B:
            _copy(h, h0)
            _copy(c, c0)
            return
        weights = self._views(given.panels)
        prepared = prepared or Prepared(self.operands(given.panels), chosen)
        operands = prepared.operands
        gates_x = arrays.empty((T, B, self._rows))
        if x.ndim == 2:
            reductions.gather_rows(operands.table, x, lengths, gates_x)
        else:
            operand = blas.as_operand(x, lengths, self.precision)
            out = gates_x.reshape(T * B, self._rows)
            blas.gemm(operand, operands.input_side, out, transpose_b=True, precision=self.precision)
        y = _pair(given.y)[0]
        call = Forward(
            kind=self.kind,
            precision=self.precision,
            reverse=given.reverse,
            gates_x=gates_x,
            weight=weights.weight_hh,
            bias_ih=weights.bias_ih,
            bias_hh=weights.bias_hh,
            h0=h0,
            c0=c0,
            h=h,
            c=c,
            y=arrays.empty((T, B, self.hidden_size)) if y is None else y,  # the kernel writes it in any case
            masks=_masks(T, given),
            trail=None if given.tape is None else self._trail(given.tape, T, B),
        )
        persistent.forward(call, chosen, operands.recurrent(chosen, backward=False), prepared.ring)

    def backward(self, given: BackwardCall) -> None:
        """Write `dx`, `dstate` and `d_reset_state` where they are given, and `dpanels`."""
        chosen = self._plan(given.x.shape[1]).backward if given.x.shape[1] else None
        if chosen is None:
            self._described.backward(given)
            return
        if given.adds and given.d_reset_state is not None:  # the kernel writes it: to be added here
            resets = [(total, total.copy()) for total in given.d_reset_state if total is not None]
            self._backward(given, chosen)
            for total, before in resets:
                total += before
        else:
            self._backward(given, chosen)

    def _backward(self, given: BackwardCall, chosen: Partition) -> None:
        """The persistent engine's, which writes `d_reset_state`."""
        assert self._cell is not None
        if not given.adds:
            given.dpanels.fill(0)
        x, dx = given.x, given.dx
        T, B = x.shape[:2]
        dy, (dh_final, dc_final) = _pair(given.dy)[0], _pair(given.dfinal)
        (dh0, dc0), (d_reset_h, d_reset_c) = _pair(given.dstate), _pair(given.d_reset_state)
        if not T or not B:
            _copy(dh0, dh_final)
            _copy(dc0, dc_final)
            _copy(d_reset_h, None)
            _copy(d_reset_c, None)
            return
        operands, trail = self.operands(given.panels), self._trail(given.tape, T, B)
        slots = self._cell.slots * self.hidden_size
        width = columns(slots)
        call = Backward(
            kind=self.kind,
            precision=self.precision,
            reverse=given.reverse,
            weight=self._views(given.panels).weight_hh,
            masks=_masks(T, given),
            trail=trail,
            dy=None if dy is None else _rows(dy),
            dh_final=dh_final,
            dc_final=dc_final,
            gradients=arrays.empty((T, B, width), stored_dtype(self.precision)),
            dh0=dh0,
            dc0=dc0,
            d_reset_h=d_reset_h,
            d_reset_c=d_reset_c,
        )
        weight = operands.recurrent(chosen, backward=True)
        persistent.backward(call, chosen, weight, trail.used.shape[2])
        gradients = call.gradients.reshape(T * B, width)[:, :slots]
        if dx is not None:
            self._input_gradient(self._cell, gradients, operands.input_side, dx)
        self._parameter_gradients(self._cell, gradients, trail, x, given.lengths, self._views(given.dpanels))

    def _input_side(self, cell: Cell, gradients: Array) -> Array:
        """The gates' gradients on the input side, in gate order."""
        start = cell.input_slot * self.hidden_size
        return gradients[:, start : start + self._rows]

    def _input_gradient(self, cell: Cell, gradients: Array, weight: Array, dx: Array) -> None:
        """Write dx, which may be a view with swapped axes."""
        contiguous = dx if dx.flags.c_contiguous else arrays.empty(dx.shape)
        matrix = contiguous.reshape(-1, self.input_size)
        blas.gemm(self._input_side(cell, gradients), weight, matrix, precision=self.precision)
        if contiguous is not dx:
            dx[...] = contiguous

    def _parameter_gradients(
        self, cell: Cell, gradients: Array, trail: Trail, x: Array, lengths: Array | None, into: _Weights
    ) -> None:
        """Add the gradients of all parameters."""
        hidden, of_input = self.hidden_size, self._input_side(cell, gradients)
        if x.ndim == 2:
            reductions.scatter_add(of_input, x, into.weight_ih, self.precision)
        else:
            self._add_product(of_input, blas.as_operand(x, lengths, self.precision), into.weight_ih)
        sums = reductions.column_sums(gradients, self.precision)
        start = cell.input_slot * hidden
        into.bias_ih[...] += sums[start : start + self._rows]
        used = trail.used.reshape(-1, trail.used.shape[2])[:, :hidden]
        for slot, count in runs_of(cell.recurrent):
            first = cell.recurrent[slot] * hidden
            rows, taken = slice(first, first + count * hidden), slice(slot * hidden, (slot + count) * hidden)
            self._add_product(gradients[:, taken], used, into.weight_hh[rows])
            into.bias_hh[rows] += sums[taken]

    def _add_product(self, gradients: Array, operand: Array, into: Array) -> None:
        blas.gemm(gradients, operand, into, transpose_a=True, add=True, precision=self.precision)


def _copy(to: Array | None, given: Array | None) -> None:
    if to is not None:
        to[...] = 0 if given is None else given


def _rows(sequence: Array) -> Array:
    """A sequence with unit stride in its last axis and no other below zero."""
    fits = min(sequence.strides) >= 0 and (sequence.strides[-1] == sequence.itemsize or sequence.shape[-1] == 1)
    return sequence if fits else arrays.contiguous(sequence)


def _pair(states: tuple[Array | None, ...] | None) -> tuple[Array | None, Array | None]:
    """h and c of a call's states, each None if there is none."""
    h, c = (*(states or (None,)), None)[:2]
    return h, c


def _masks(T: int, given: ForwardCall | BackwardCall) -> Masks:
    """The masks of a call, lengths outside 0..T as T."""
    xp, lengths, resets = arrays.xp(), given.lengths, given.resets
    if lengths is not None:  # as unsigned numbers, negative ones are the largest
        lengths = xp.minimum(arrays.contiguous(lengths).view(np.uint64), np.uint64(T)).view(np.int64)
    return Masks(lengths, None if resets is None else arrays.contiguous(resets), *_pair(given.reset_state))
