"""One layer and direction on the device, with the methods of the CPU's kernels: what the walk over layers calls.

Around the recurrence, which one of two engines does as `plan` says, are the products over the whole sequence: the input
side of all gates before it, dx and the parameters' gradients after it.

A) Panels are the parameters one after the other, in their own order; there is nothing to pack for backward.
B) The tape is float32 memory, in which the trail's arrays lie one after the other, each starting at a multiple of
   `_ALIGNMENT`. x is not on it: backward makes its operand again.
C) Nothing here waits for the device. A length outside 0..T counts as T, and its row's input as NaN (`blas`,
   `reductions`), so that all of its results are NaN, whatever its resets.
D) The rows of U's gradient are in gate order and the gates' gradients in slot order, which differ for `gru_after`; and
   the right operand of `gru_before`'s n is r * h. Both are two products for a GRU, of the gates r and z, and of n.
E) What forward makes of the weights alone is `Prepared`: a stream keeps one, any other call makes its own.

Rejected: x's operand on the tape (as much memory as the input, to save one copy of it in backward).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from .._call import BackwardCall, ForwardCall
from . import arrays, blas, persistent, reductions, shim, stepwise
from .plan import Plan, columns, plan
from .sequence import CELLS, Backward, Forward, Masks, Trail, stored_dtype, trail_sizes

__all__ = ["Kernel", "Prepared"]

Array = Any  # a device array

_ALIGNMENT = 32  # elements of float32: 128 bytes


class _Weights(NamedTuple):
    """Views on panels."""

    weight_ih: Array  # [G * H, I]
    weight_hh: Array  # [G * H, H]
    bias_ih: Array  # [G * H]
    bias_hh: Array


class Prepared:
    """The weights in the form in which forward reads them: for calls of one batch size, one after the other.

    Parameters
    ----------
    weights : views on panels
        Their contents stay what they are.
    kind, precision : str
    chosen : Plan
    calls : int
        For how many calls to make counters at a time.

    Attributes
    ----------
    plan : Plan
    recurrent : device array
        U as the plan's engine takes it.
    """

    def __init__(self, weights: _Weights, kind: str, precision: str, chosen: Plan, calls: int) -> None:
        self._weights, self._precision, self.plan = weights, precision, chosen
        self._used = 0  # of the counters
        if chosen.forward is None:
            self.recurrent = blas.as_stored(weights.weight_hh, precision)
        else:
            self.recurrent = persistent.packed(weights.weight_hh, kind, precision, chosen.forward, backward=False)
            self._counters = persistent.zeroed_counters(chosen.forward, calls)

    @functools.cached_property
    def input_side(self) -> Array:
        """W as an operand."""
        return blas.as_stored(self._weights.weight_ih, self._precision)

    @functools.cached_property
    def table(self) -> Array:
        """W transposed: a row for each id, in which neighbours lie side by side as threads read them."""
        return arrays.contiguous(self._weights.weight_ih.T)

    def counters(self) -> Array:
        """Those of the persistent engine's next call."""
        if self._used == len(self._counters):
            self._counters.fill(0)
            self._used = 0
        self._used += 1
        return self._counters[self._used - 1]


class Kernel:
    """The kernel of one kind, size and precision.

    Parameters
    ----------
    kind : str
        A key of `sequence.CELLS`.
    input_size, hidden_size : int
    precision : {"float32", "tf32", "bfloat16"}
    """

    def __init__(self, kind: str, input_size: int, hidden_size: int, precision: str = "float32") -> None:
        self.kind, self.precision = kind, precision
        self.input_size, self.hidden_size = input_size, hidden_size
        self._cell = CELLS[kind]
        self._rows = self._cell.gates * hidden_size

    # Panels

    @property
    def panel_size(self) -> int:
        """The elements of the panels; absent biases are there, as zeros."""
        return self._rows * (self.input_size + self.hidden_size + 2)

    @property
    def panel_size_backward(self) -> int:
        """None: backward takes the same panels."""
        return 0

    def _views(self, panels: Array) -> _Weights:
        parts, start = [], 0
        for shape in ((self._rows, self.input_size), (self._rows, self.hidden_size), (self._rows,), (self._rows,)):
            stop = start + math.prod(shape)
            parts.append(panels[start:stop].reshape(shape))
            start = stop
        return _Weights(*parts)

    def pack(self, params: tuple[Array | None, ...], out: Array) -> None:
        """Write weight_ih, weight_hh, bias_ih and bias_hh (None is zeros) into the panels `out`."""
        for view, given in zip(self._views(out), params, strict=True):
            view[...] = 0 if given is None else given

    def pack_backward(self, params: tuple[Array | None, ...], out: Array) -> None:
        """There is nothing to write."""

    def unpack(self, panels: Array, params: tuple[Array | None, ...]) -> None:
        """Write what the panels hold into the given arrays."""
        for view, taken in zip(self._views(panels), params, strict=True):
            if taken is not None:
                taken[...] = view

    # The tape

    def tape_size(self, T: int, B: int) -> int:
        """The elements, of float32, of the tape of a call."""
        return sum(words for _, words in self._layout(T, B).values()) if T and B else 0

    def _layout(self, T: int, B: int) -> dict[str, tuple[tuple[int, ...], int]]:
        """The trail's arrays in their order on the tape: shape, and words of memory."""
        width = columns(self.hidden_size, self._plan(B).forward)
        shapes = trail_sizes(self.kind, T, B, self.hidden_size, width)
        layout = {}
        for name, shape in shapes.items():
            words = -(-math.prod(shape) * self._dtype(name).itemsize // 4)
            layout[name] = shape, -(-words // _ALIGNMENT) * _ALIGNMENT
        return layout

    def _dtype(self, name: str) -> Any:
        return stored_dtype(self.precision if name in ("used", "gated") else "float32")

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

    def prepare(self, panels: Array, B: int, *, calls: int = 1) -> Prepared:
        """What `forward` makes of the panels for B rows, to be handed to it again and again."""
        return Prepared(self._views(panels), self.kind, self.precision, self._plan(B), calls)

    def forward(self, given: ForwardCall, prepared: Prepared | None = None) -> None:
        """Write `y` and the final state; with a tape, also what backward needs.

        The arrays are those of the CPU's kernels, on the device, in float32. `num_threads` has no meaning there.
        `prepared` is of these panels and this batch size; None makes it.
        """
        x, lengths = given.x, given.lengths
        T, B = x.shape[:2]
        (h0, c0), (h, c) = _pair(given.state), _pair(given.final_state)
        if not T or not B:
            _copy(h, h0)
            _copy(c, c0)
            return
        weights = self._views(given.panels)
        prepared = prepared or self.prepare(given.panels, B)
        gates_x = arrays.empty((T, B, self._rows))
        if x.ndim == 2:
            reductions.gather_rows(prepared.table, x, lengths, gates_x)
        else:
            operand = blas.as_operand(x, lengths, self.precision)
            out = gates_x.reshape(T * B, self._rows)
            blas.gemm(operand, prepared.input_side, out, transpose_b=True, precision=self.precision)
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
            y=_pair(given.y)[0],
            masks=_masks(T, given),
            trail=None if given.tape is None else self._trail(given.tape, T, B),
        )
        if prepared.plan.forward is None:
            stepwise.forward(call, prepared.recurrent)
        else:
            persistent.forward(call, prepared.plan.forward, prepared.recurrent, prepared.counters())

    def backward(self, given: BackwardCall) -> None:
        """Write `dx`, `dstate` and `d_reset_state` where they are given, and add to `dpanels`."""
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
        weights, chosen, trail = self._views(given.panels), self._plan(B), self._trail(given.tape, T, B)
        slots = self._cell.slots * self.hidden_size
        width = columns(slots, chosen.backward)
        call = Backward(
            kind=self.kind,
            precision=self.precision,
            reverse=given.reverse,
            weight=weights.weight_hh,
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
        if chosen.backward is None:
            stepwise.backward(call)
        else:
            persistent.backward(call, chosen.backward, trail.used.shape[2])
        gradients = call.gradients.reshape(T * B, width)[:, :slots]
        if dx is not None:
            self._input_gradient(gradients, weights.weight_ih, dx)
        self._parameter_gradients(gradients, trail, x, given.lengths, self._views(given.dpanels))

    def _input_side(self, gradients: Array) -> Array:
        """The gates' gradients on the input side, in gate order."""
        start = self._cell.input_slot * self.hidden_size
        return gradients[:, start : start + self._rows]

    def _input_gradient(self, gradients: Array, weight_ih: Array, dx: Array) -> None:
        """Write dx, which may be a view with swapped axes."""
        contiguous = dx if dx.flags.c_contiguous else arrays.empty(dx.shape)
        weight, matrix = blas.as_stored(weight_ih, self.precision), contiguous.reshape(-1, self.input_size)
        blas.gemm(self._input_side(gradients), weight, matrix, precision=self.precision)
        if contiguous is not dx:
            dx[...] = contiguous

    def _parameter_gradients(
        self, gradients: Array, trail: Trail, x: Array, lengths: Array | None, into: _Weights
    ) -> None:
        """Add the gradients of all parameters."""
        hidden, recurrent = self.hidden_size, self._cell.recurrent
        if x.ndim == 2:
            reductions.scatter_add(self._input_side(gradients), x, into.weight_ih, self.precision)
        else:
            operand = blas.as_operand(x, lengths, self.precision)
            self._add_product(self._input_side(gradients), operand, into.weight_ih)
        sums = reductions.column_sums(gradients, self.precision)
        start = self._cell.input_slot * hidden
        into.bias_ih[...] += sums[start : start + self._rows]
        used = trail.used.reshape(-1, trail.used.shape[2])[:, :hidden]
        for first, count in [(0, 2), (2, 1)] if self._cell.gates == 3 else [(0, self._cell.gates)]:
            rows = slice(first * hidden, (first + count) * hidden)
            slot = recurrent.index(first)
            taken = slice(slot * hidden, (slot + count) * hidden)
            operand = used if first == 0 or trail.gated is None else trail.gated.reshape(-1, hidden)
            self._add_product(gradients[:, taken], operand, into.weight_hh[rows])
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
