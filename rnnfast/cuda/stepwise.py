"""The recurrence step by step: a product of the library's and one kernel that finishes the step, for any size.

`gru_before` needs two products, because its n reads U_n (r * h): one more kernel makes r * h between them (backward:
r's gradient). All other kinds have one product and one kernel a step.

A) The running state lies in the call's h and c, in float32, as the next step uses it: a reset is applied by the step
   before it, which also stores it as the next product's operand. The last step leaves the final state there.
B) Backward, the step leaves in dh0 what does not pass through U, and the product is added to it (cuBLAS's beta). So
   rows that have ended, whose gates' gradients are zeros, keep dh0 as it is. The next kernel starts with the resets of
   the step before: what arrived goes to d_reset, and zero goes on.
C) The loop over the steps allocates nothing, so that `graphs` can capture and replay it.
D) Columns of stored rows beyond those of the product are neither written nor read.

Rejected: a kernel for the first step and one for the last (two branches on a number that all threads share); chunks of
steps in one graph (a graph of all steps is launched once).
"""

from __future__ import annotations

import functools
from typing import Any

from . import arrays, blas, cells, elements, graphs, shim
from .elements import active, first, load_or_zero, restarts, stride
from .sequence import CELLS, Backward, Forward, Trail, stored_dtype
from .shim import cuda, float32

__all__ = ["backward", "forward"]

Array = Any  # a device array
_ZERO = float32(0)
_NONE = -1  # no step


# ---------------------------------------------------------------------------------------------------------------------
# Forward


def forward(call: Forward, weight: Array) -> None:
    """Run the recurrence forward with U stored as `weight`; what is written is said in `sequence.Forward`."""
    steps, batch, hidden = call.y.shape
    family, variant = cells.family_of(call.kind)
    gates = CELLS[call.kind].gates
    sums = arrays.empty((batch, gates * hidden))
    trail = _one_step(call) if call.trail is None else call.trail
    _begin(call.h, call.h0)
    _begin(call.c, call.c0)
    y, (y_step, y_row, _) = arrays.cover(call.y)
    masks = call.masks
    sides = (call.gates_x, sums, call.bias_ih, call.bias_hh)
    pointers = _pointers(
        *(*sides, call.h, call.c, y, masks.lengths, masks.resets, masks.reset_h, masks.reset_c),
        *(trail.used, trail.kept, trail.used_c),
    )
    gate_pointers = _pointers(*sides, call.h, masks.lengths, trail.gated)
    sizes = (steps, batch, hidden, trail.used.shape[2], len(trail.used), y_step, y_row, int(call.reverse), variant)
    advance, gate = _advance_kernel(family, call.precision), _gate_kernel(call.precision)
    shape = elements.grid(batch * hidden)
    order = _order(steps, call.reverse)

    def product(operand: Array, start: int, stop: int) -> None:
        rows = slice(start * hidden, stop * hidden)
        blas.gemm(operand, weight[rows], sums[:, rows], transpose_b=True, precision=call.precision)

    def run() -> None:
        stream = arrays.stream_pointer()
        advance.launch(*shape, (*pointers, _NONE, order[0], *sizes), stream=stream)
        for t, following in zip(order, [*order[1:], _NONE], strict=True):
            slot = t % len(trail.used)
            product(trail.used[slot, :, :hidden], 0, gates if trail.gated is None else 2)
            if trail.gated is not None:
                gate.launch(*shape, (*gate_pointers, t, slot, batch, hidden), stream=stream)
                product(trail.gated[slot], 2, 3)
            advance.launch(*shape, (*pointers, t, following, *sizes), stream=stream)

    graphs.run(run, "forward", call, weight, sums, trail)


def _one_step(call: Forward) -> Trail:
    """What inference keeps of a trail: the operands of one step, which each step overwrites."""
    _, batch, hidden = call.y.shape
    used = arrays.empty((1, batch, hidden), stored_dtype(call.precision))
    return Trail(used, kept=None, gated=arrays.empty(used.shape, used.dtype) if call.kind == "gru_before" else None)


def _begin(running: Array | None, given: Array | None) -> None:
    """Write the state, or gradient, that the loop begins with."""
    if running is not None and given is not None:
        running[...] = given
    elif running is not None:
        running.fill(0)


def _order(steps: int, reverse: bool) -> list[int]:
    return list(range(steps))[:: -1 if reverse else 1]


def _pointers(*given: Array | None) -> list[Any]:
    return [shim.pointer(None if array is None else array.reshape(-1)) for array in given]


@functools.cache
def _advance_kernel(family: str, precision: str) -> Any:
    """Finishes step `done` and stores what step `following` uses; each may be none."""
    cell, finish, put = CELLS[family], cells.forward_function(family), elements.storer(precision)
    after = family == "gru_after"
    gates, kept_count, has_c = cell.gates, cell.kept, cell.has_c

    @shim.kernel("p" * 14 + "i" * 11)
    def advance(
        gates_x: Any,
        sums: Any,
        bias_ih: Any,
        bias_hh: Any,
        h: Any,
        c: Any,
        y: Any,
        lengths: Any,
        resets: Any,
        reset_h: Any,
        reset_c: Any,
        used: Any,
        kept: Any,
        used_c: Any,
        done: Any,
        following: Any,
        T: Any,
        B: Any,
        H: Any,
        columns: Any,
        slots: Any,
        y_step: Any,
        y_row: Any,
        reverse: Any,
        variant: Any,
    ) -> None:
        x = cuda.local.array(4, float32)
        s = cuda.local.array(4, float32)
        for i in range(first(), B * H, stride()):
            b, j = i // H, i % H
            h_now, c_now, output = shim.load(h, i), _ZERO, _ZERO
            if has_c:
                c_now = shim.load(c, i)
            if done >= 0 and active(lengths, done, b):
                at = done * B + b
                for gate in range(4):
                    x[gate], s[gate] = _ZERO, _ZERO
                for gate in range(gates):
                    k = gate * H + j
                    x[gate] = shim.load(gates_x, at * gates * H + k) + load_or_zero(bias_ih, k)
                    s[gate] = shim.load(sums, b * gates * H + k)
                    if after and gate == 2:
                        s[gate] += load_or_zero(bias_hh, k)
                    else:
                        x[gate] += load_or_zero(bias_hh, k)
                new = finish(variant, x[0], x[1], x[2], x[3], s[0], s[1], s[2], s[3], h_now, c_now)
                h_now, c_now, output = new[0], new[1], new[0]
                if shim.given(kept):
                    at = at * kept_count * H + j
                    shim.store(kept, at, new[2])
                    if kept_count > 1:
                        shim.store(kept, at + H, new[3])
                        shim.store(kept, at + 2 * H, new[4])
                    if kept_count > 3:
                        shim.store(kept, at + 3 * H, new[5])
            if done >= 0:
                shim.store(y, done * y_step + b * y_row + j, output)
            if following >= 0:
                if restarts(lengths, resets, reverse, following, b, T, B):
                    h_now = load_or_zero(reset_h, i)
                    if has_c:
                        c_now = load_or_zero(reset_c, i)
                operand = h_now if active(lengths, following, b) else _ZERO
                put(used, (following % slots * B + b) * columns + j, operand)
                if shim.given(used_c):
                    shim.store(used_c, (following * B + b) * H + j, c_now)
            shim.store(h, i, h_now)
            if has_c:
                shim.store(c, i, c_now)

    return advance


@functools.cache
def _gate_kernel(precision: str) -> Any:
    """gru_before: r * h of step t, the operand of its second product."""
    gated_state, put = cells.gru_before_gate(), elements.storer(precision)

    @shim.kernel("p" * 7 + "i" * 4)
    def gate(
        gates_x: Any,
        sums: Any,
        bias_ih: Any,
        bias_hh: Any,
        h: Any,
        lengths: Any,
        gated: Any,
        t: Any,
        slot: Any,
        B: Any,
        H: Any,
    ) -> None:
        for i in range(first(), B * H, stride()):
            b, j = i // H, i % H
            operand = _ZERO
            if active(lengths, t, b):
                x = shim.load(gates_x, (t * B + b) * 3 * H + j) + load_or_zero(bias_ih, j) + load_or_zero(bias_hh, j)
                operand = gated_state(x, shim.load(sums, b * 3 * H + j), shim.load(h, i))
            put(gated, slot * B * H + i, operand)

    return gate


# ---------------------------------------------------------------------------------------------------------------------
# Backward


def backward(call: Backward) -> None:
    """Run the recurrence backward; what is written is said in `sequence.Backward`."""
    steps, batch, _ = call.gradients.shape
    hidden = call.dh0.shape[1]
    family, variant = cells.family_of(call.kind)
    cell, trail, masks = CELLS[call.kind], call.trail, call.masks
    before = call.kind == "gru_before"
    rows = call.weight if before else _in_slot_order(call.weight, cell.recurrent)
    weight = blas.as_stored(rows, call.precision)
    d_gated = arrays.empty((batch, hidden)) if before else None
    _begin(call.dh0, call.dh_final)
    _begin(call.dc0, call.dc_final)
    _begin(call.d_reset_h, None)
    _begin(call.d_reset_c, None)
    dy, (dy_step, dy_row, _) = (None, (0, 0, 0)) if call.dy is None else arrays.cover(call.dy)
    pointers = _pointers(
        *(dy, trail.used, trail.kept, trail.used_c, call.gradients, call.dh0, call.dc0),
        *(masks.lengths, masks.resets, call.d_reset_h, call.d_reset_c),
    )
    columns = call.gradients.shape[2]
    sizes = (steps, batch, hidden, trail.used.shape[2], columns, dy_step, dy_row, int(call.reverse), variant)
    gate_pointers = _pointers(d_gated, trail.used, trail.kept, call.gradients, call.dh0, masks.lengths)
    gate_sizes = (batch, hidden, trail.used.shape[2], columns)
    retreat, gate = _retreat_kernel(family, call.precision), _gate_backward_kernel(call.precision)
    shape = elements.grid(batch * hidden)
    order = _order(steps, not call.reverse)

    def product(t: int, start: int, stop: int, out: Array, add: bool) -> None:
        part = slice(start * hidden, stop * hidden)
        blas.gemm(call.gradients[t, :, part], weight[part], out, add=add, precision=call.precision)

    def run() -> None:
        stream = arrays.stream_pointer()
        for done, t in zip([_NONE, *order], [*order, _NONE], strict=True):
            retreat.launch(*shape, (*pointers, done, t, *sizes), stream=stream)
            if t == _NONE:
                return
            if before:
                product(t, 2, 3, d_gated, add=False)
                gate.launch(*shape, (*gate_pointers, t, *gate_sizes), stream=stream)
            product(t, 0, 2 if before else cell.gates, call.dh0, add=True)

    graphs.run(run, "backward", call, weight, d_gated)


def _in_slot_order(weight: Array, recurrent: tuple[int, ...]) -> Array:
    """The rows of U by gates in the order of the gradients' slots."""
    if recurrent == tuple(range(len(recurrent))):
        return weight
    hidden = weight.shape[1]
    return arrays.xp().concatenate([weight[gate * hidden : (gate + 1) * hidden] for gate in recurrent])


@functools.cache
def _retreat_kernel(family: str, precision: str) -> Any:
    """Applies the resets before step `done` to what arrived at it, and makes the gates' gradients of step t."""
    cell, derive = CELLS[family], cells.backward_function(family)
    kept_count, has_c, slots = cell.kept, cell.has_c, cell.slots
    get, put = elements.loader(precision), elements.storer(precision)

    @shim.kernel("p" * 11 + "i" * 11)
    def retreat(
        dy: Any,
        used: Any,
        kept: Any,
        used_c: Any,
        gradients: Any,
        dh: Any,
        dc: Any,
        lengths: Any,
        resets: Any,
        d_reset_h: Any,
        d_reset_c: Any,
        done: Any,
        t: Any,
        T: Any,
        B: Any,
        H: Any,
        columns: Any,
        gradient_columns: Any,
        dy_step: Any,
        dy_row: Any,
        reverse: Any,
        variant: Any,
    ) -> None:
        for i in range(first(), B * H, stride()):
            b, j = i // H, i % H
            d_h, d_c = shim.load(dh, i), _ZERO
            if has_c:
                d_c = shim.load(dc, i)
            if done >= 0 and restarts(lengths, resets, reverse, done, b, T, B):
                if shim.given(d_reset_h):
                    shim.store(d_reset_h, i, shim.load(d_reset_h, i) + d_h)
                if has_c and shim.given(d_reset_c):
                    shim.store(d_reset_c, i, shim.load(d_reset_c, i) + d_c)
                d_h, d_c = _ZERO, _ZERO
            if t >= 0:
                g0, g1, g2, g3 = _ZERO, _ZERO, _ZERO, _ZERO
                row = t * B + b
                if active(lengths, t, b):
                    at = row * kept_count * H + j
                    k0, k1, k2, k3, c_used = shim.load(kept, at), _ZERO, _ZERO, _ZERO, _ZERO
                    if kept_count > 1:
                        k1, k2 = shim.load(kept, at + H), shim.load(kept, at + 2 * H)
                    if kept_count > 3:
                        k3 = shim.load(kept, at + 3 * H)
                    if has_c:
                        c_used = shim.load(used_c, row * H + j)
                    if shim.given(dy):
                        d_h += shim.load(dy, t * dy_step + b * dy_row + j)
                    g0, g1, g2, g3, d_h, d_c = derive(
                        variant, d_h, d_c, get(used, row * columns + j), c_used, k0, k1, k2, k3
                    )
                at = row * gradient_columns + j
                put(gradients, at, g0)
                if slots > 1:
                    put(gradients, at + H, g1)
                    put(gradients, at + 2 * H, g2)
                if slots > 3:
                    put(gradients, at + 3 * H, g3)
            shim.store(dh, i, d_h)
            if has_c:
                shim.store(dc, i, d_c)

    return retreat


@functools.cache
def _gate_backward_kernel(precision: str) -> Any:
    """gru_before: from the gradient of r * h in step t, that of r, and what passes through it to h."""
    derive, get, put = cells.gru_before_backward_gate(), elements.loader(precision), elements.storer(precision)

    @shim.kernel("p" * 6 + "i" * 5)
    def gate_backward(
        d_gated: Any,
        used: Any,
        kept: Any,
        gradients: Any,
        dh: Any,
        lengths: Any,
        t: Any,
        B: Any,
        H: Any,
        columns: Any,
        gradient_columns: Any,
    ) -> None:
        for i in range(first(), B * H, stride()):
            b, j = i // H, i % H
            if active(lengths, t, b):
                row = t * B + b
                h_used, r = get(used, row * columns + j), shim.load(kept, row * 3 * H + j)
                d_r, more = derive(shim.load(d_gated, i), h_used, r)
                put(gradients, row * gradient_columns + j, d_r)
                shim.store(dh, i, shim.load(dh, i) + more)

    return gate_backward
