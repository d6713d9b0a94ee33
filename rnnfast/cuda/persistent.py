"""The recurrence in one launch: all steps of one layer and direction, forward and backward.

Blocks own units and keep their part of U in registers, as fragments of the tensor cores' right operand, from the
first step to the last. In a step each block reads the state (backward: the gates' gradients) of all units from global
memory, multiplies, finishes its own units, writes them to where the next step is read from, and the blocks of a group
hand over: each adds 1 to the group's counter when it has written, and reads on when all have. See `plan` for the
split.

A) Forward and backward are the same product: rows [16 x K] from global memory times a [K x 8 tiles] that stays.
   Forward K runs over units and a tile is a gate of 8 units, so that a thread holds all gates of its units at the
   same places; backward K runs over the gates' gradients and there is one tile of 8 units, in several chains that are
   added at the end, because one chain of tensor core operations waits for itself.
B) The warps of a block split K; their sums meet in shared memory, where each element of 32 rows x the block's units has
   a thread that finishes it: masks, states and gate arithmetic are there and nowhere else. What such a thread needs
   besides the sums is loaded before the block waits for the others, and what only it will read again is written behind
   the hand-over.
C) K runs through a fragment in the order of one 16-byte load: lane t of a row's four holds k = 4 t .. 4 t + 3, which
   the two operations of tf32 take as pairs. Both operands have the same order, so it does not matter.
D) A row beyond the batch is a copy of the last one and its sums are never read: no zeros, no branch in the loads.
E) "float32" is three tf32 products, of the parts high x high, high x low and low x high: what is left out is 2^-22.
   "tf32" and "bfloat16" store the rounded state, which the weight gradient's GEMM would round anyway.
F) Nothing waits for data, only for counters, so no NaN or infinity can keep a block waiting; the launch is
   cooperative, so a grid that can't be resident is refused. Sums have one order: two runs are bitwise equal.

Registers are what is short: up to 128 of a thread's 255 are weights, and Numba's indices take two each. So what a
thread must remember lies in shared memory and is read anew where it is needed (`shim.recall`): the compiler would
else move all that it can compute from it out of the loop over the steps. Tried, without effect or worse: the same
through a register copy that the compiler can't see through (the assembler can); loads of fewer fragments ahead by a
warp barrier; two chains of sums beside 128 weights (spills); rows 0-15 and 16-31 in one basic block (it keeps the
split weights of both).

Rejected: NaN as the mark of data not yet there (it spares the counter, and a NaN in the input would hang the grid);
a branch around rows beyond the batch; separate double buffers for the exchange in training (the trail is there anyway).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from . import arrays, cells, shim
from .elements import active, load_or_zero, restarts
from .plan import WORDS_BACKWARD, WORDS_FORWARD, Partition, columns, row_stride
from .sequence import CELLS, Backward, Forward, Masks, stored_dtype
from .shim import cuda, float32, int64, uint32

__all__ = ["backward", "backward_kernel", "forward", "forward_kernel"]

_COUNTER_STRIDE = 32  # int32: a group's counter has a cache line of its own
_ROWS_AT_ONCE = 32
_LEAF = 4  # rounds of a loop that stand one after the other

# What a thread remembers in shared memory, behind the sums: the places of its words, each a word of every thread.
_THREADS = 256
_AT_SUM, _AT_K, _AT_LANE, _AT_STORED = (n * _THREADS for n in range(1, 5))  # its element's place is at 0
_AT_X, _AT_H, _AT_C = (n * _THREADS for n in (5, 9, 10))  # forward: of four gates, and the states
_AT_DH, _AT_DC, _AT_DY, _AT_KEPT, _AT_USED = (n * _THREADS for n in (5, 6, 7, 8, 12))  # backward
_AT_BIASES, _AT_END = WORDS_FORWARD * _THREADS, WORDS_BACKWARD * _THREADS


# ---------------------------------------------------------------------------------------------------------------------
# The product


class _Arithmetic(NamedTuple):
    """What differs by precision, as device functions."""

    words: int
    """The registers of a fragment of 16 x 8 weights, for each thread,"""
    word: Any
    """and their type."""
    load: Any
    store: Any
    """A stored element: (pointer, index) and (pointer, index, value)."""
    rows: Any
    """``(source, first, second) -> a``: 16 x 16 of the left operand, from the indices of the lane's two rows."""
    keep: Any
    """``(weights, w, packed, i)``: takes a lane's four weights of a fragment into registers,"""
    keep_shared: Any
    """and ``(weights, w, shared, i)`` from the word i of shared memory."""
    multiply: Any
    """``(a, weights, index, c0, c1, c2, c3) -> c``: the fragment's products added to a tile."""


@shim.device
def _store_tf32(p: Any, i: Any, value: Any) -> None:
    shim.store(p, i, shim.round_tf32(value))


@shim.device
def _rows_float(source: Any, first: Any, second: Any) -> Any:
    return shim.load4(source, first), shim.load4(source, second)


@shim.device
def _rows_bf16(source: Any, first: Any, second: Any) -> Any:
    return shim.load2_words(source, first), shim.load2_words(source, second)


@shim.device
def _keep_float(weights: Any, w: Any, packed: Any, i: Any) -> None:
    weights[w], weights[w + 1], weights[w + 2], weights[w + 3] = shim.load4(packed, i)


@shim.device
def _keep_bf16(weights: Any, w: Any, packed: Any, i: Any) -> None:
    weights[w], weights[w + 1] = shim.load2_words(packed, i)


@shim.device
def _keep_shared_float(weights: Any, w: Any, shared: Any, i: Any) -> None:
    weights[w], weights[w + 1], weights[w + 2], weights[w + 3] = shim.load4_shared(shared, i)


@shim.device
def _keep_shared_bf16(weights: Any, w: Any, shared: Any, i: Any) -> None:
    weights[w], weights[w + 1] = shim.load2_words_shared(shared, i)


@shim.device
def _multiply_tf32(a: Any, weights: Any, w: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    p, q = a
    c = shim.mma_tf32(p[0], q[0], p[1], q[1], weights[w], weights[w + 1], c0, c1, c2, c3)
    return shim.mma_tf32(p[2], q[2], p[3], q[3], weights[w + 2], weights[w + 3], c[0], c[1], c[2], c[3])


@shim.device
def _multiply_bf16(a: Any, weights: Any, w: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    p, q = a
    return shim.mma_bf16(p[0], q[0], p[1], q[1], weights[w], weights[w + 1], c0, c1, c2, c3)


@shim.device
def _three_products(a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    h0, h1, h2, h3 = shim.high_part(a0), shim.high_part(a1), shim.high_part(a2), shim.high_part(a3)
    g0, g1 = shim.high_part_here(b0), shim.high_part_here(b1)
    c = shim.mma_tf32(a0 - h0, a1 - h1, a2 - h2, a3 - h3, g0, g1, c0, c1, c2, c3)
    c = shim.mma_tf32(h0, h1, h2, h3, b0 - g0, b1 - g1, c[0], c[1], c[2], c[3])
    return shim.mma_tf32(h0, h1, h2, h3, g0, g1, c[0], c[1], c[2], c[3])


@shim.device
def _multiply_float32(a: Any, weights: Any, w: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    p, q = a
    c = _three_products(p[0], q[0], p[1], q[1], weights[w], weights[w + 1], c0, c1, c2, c3)
    return _three_products(p[2], q[2], p[3], q[3], weights[w + 2], weights[w + 3], c[0], c[1], c[2], c[3])


_FLOAT = _rows_float, _keep_float, _keep_shared_float
_BFLOAT16 = _rows_bf16, _keep_bf16, _keep_shared_bf16
_ARITHMETIC = {
    "float32": _Arithmetic(4, float32, shim.load, shim.store, *_FLOAT, _multiply_float32),
    "tf32": _Arithmetic(4, float32, shim.load, _store_tf32, *_FLOAT, _multiply_tf32),
    "bfloat16": _Arithmetic(2, uint32, shim.load_bf16, shim.store_bf16, *_BFLOAT16, _multiply_bf16),
}


def _unrolled(body: Any, count: int) -> Any:
    """``f(first, a, b, c, d, e)``: ``body(j, a, b, c, d, e)`` for `count` values of j from `first` on.

    Functions that call each other, with no loop in them. A loop that the compiler does not unroll leaves what is
    indexed by its variable in memory; it gives up on long ones, and for compute capability 10 on some of four rounds.
    `first` is a constant once all is inlined; as an argument it spares the compiler a function for each of its
    values.
    """
    if count <= _LEAF:

        @shim.device
        def run(first: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
            body(first, a, b, c, d, e)
            if count > 1:
                body(first + 1, a, b, c, d, e)
            if count > 2:
                body(first + 2, a, b, c, d, e)
            if count > 3:
                body(first + 3, a, b, c, d, e)

        return run
    half = (count // _LEAF + 1) // 2 * _LEAF
    left = _unrolled(body, half)
    right = left if count == 2 * half else _unrolled(body, count - half)

    @shim.device
    def both(first: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
        left(first, a, b, c, d, e)
        right(first + half, a, b, c, d, e)

    return both


@functools.cache
def _keeper(precision: str, count: int) -> Any:
    """A device function ``(weights, packed, at)``: takes all fragments of a lane into registers."""
    words, keep = _ARITHMETIC[precision].words, _ARITHMETIC[precision].keep

    @shim.device
    def one(j: Any, weights: Any, packed: Any, at: Any, d: Any, e: Any) -> None:
        keep(weights, j * words, packed, at + 128 * j)

    every = _unrolled(one, count)

    @shim.device
    def keep_all(weights: Any, packed: Any, at: Any) -> None:
        every(int64(0), weights, packed, at, at, at)

    return keep_all


@functools.cache
def _product(precision: str, tiles: int, fragments: int) -> Any:
    """A device function: up to 32 rows times the warp's weights, written to the warp's part of shared memory.

    ``(weights, source, start, columns, rows, partial, at, stored, turns)``: element `start` of `source` is the first
    that the lane reads of the first row, and there are `rows` rows; the lane's first sum goes to ``partial[at]``. With
    two turns the warp's second tiles begin, for the lane, at ``partial[stored]``.
    """
    first_turn = _turn_of_registers(precision, tiles, fragments)
    second_turn = _turn_of_shared_memory(precision, tiles, fragments)
    stride = row_stride(tiles)

    @shim.device
    def product(
        weights: Any,
        source: Any,
        start: Any,
        columns: Any,
        rows: Any,
        partial: Any,
        at: Any,
        stored: Any,
        turns: Any,
    ) -> None:
        group = int64(shim.thread()) % 32 // 4
        first = 0
        while first < rows:
            upper = start + min(first + group, rows - 1) * columns
            lower = start + min(first + group + 8, rows - 1) * columns
            first_turn(weights, source, upper, lower, partial, shim.recall(partial, at) + first * stride)
            first += 16
        first = 0
        while first < rows and turns > 1:
            group = int64(shim.thread()) % 32 // 4
            upper = start + min(first + group, rows - 1) * columns
            lower = start + min(first + group + 8, rows - 1) * columns
            to = shim.recall(partial, at) + (first + shim.threads()) * stride
            second_turn(source, upper, lower, partial, to, stored, turns)
            first += 16

    return product


def _turn_of_registers(precision: str, tiles: int, fragments: int) -> Any:
    """A device function: 16 rows times the weights that the warp has in registers."""
    arithmetic = _ARITHMETIC[precision]
    words, rows_of, multiply = arithmetic.words, arithmetic.rows, arithmetic.multiply
    # Several chains of sums hide the tensor cores' latency, where there are registers for them: four chains beside 64
    # weights spill, and two beside 128.
    chains = max(1, min(fragments, 4 // tiles, 128 // (words * fragments * tiles)))
    clear, add_chains = _chains(tiles, chains)

    @shim.device
    def fragment(j: Any, weights: Any, source: Any, upper: Any, lower: Any, sums: Any) -> None:
        a = rows_of(source, upper + 16 * j, lower + 16 * j)
        for tile in range(tiles):
            o = ((j % chains) * tiles + tile) * 4
            c = multiply(a, weights, (j * tiles + tile) * words, sums[o], sums[o + 1], sums[o + 2], sums[o + 3])
            sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = c

    every, size = _unrolled(fragment, fragments), chains * tiles * 4

    @shim.device
    def sixteen(weights: Any, source: Any, upper: Any, lower: Any, partial: Any, at: Any) -> None:
        sums = cuda.local.array(size, float32)
        clear(sums)
        every(int64(0), weights, source, upper, lower, sums)
        add_chains(sums, partial, at)

    return sixteen


def _turn_of_shared_memory(precision: str, tiles: int, fragments: int) -> Any:
    """A device function: 16 rows times the weights that the warp has in shared memory, if there is a second turn.

    A loop, because nothing in registers is indexed by its variable; its end depends on `turns`, lest the compiler
    unroll all of it. More than one chain of sums spills.
    """
    arithmetic = _ARITHMETIC[precision]
    words, rows_of, multiply = arithmetic.words, arithmetic.rows, arithmetic.multiply
    word, keep, size = arithmetic.word, arithmetic.keep_shared, 4 * tiles
    clear, add_chains = _chains(tiles, 1)

    @shim.device
    def sixteen(source: Any, upper: Any, lower: Any, partial: Any, at: Any, stored: Any, turns: Any) -> None:
        sums, weights = cuda.local.array(size, float32), cuda.local.array(words, word)
        clear(sums)
        stored = shim.recall(partial, stored)
        j = 0
        while j < (turns - 1) * fragments:
            a = rows_of(source, upper + 16 * j, lower + 16 * j)
            for tile in range(tiles):
                o = 4 * tile
                keep(weights, 0, partial, stored + tile * 32 * words)
                c = multiply(a, weights, 0, sums[o], sums[o + 1], sums[o + 2], sums[o + 3])
                sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = c
            stored += tiles * 32 * words
            j += 1
        add_chains(sums, partial, at)

    return sixteen


@functools.cache
def _chains(tiles: int, chains: int) -> tuple[Any, Any]:
    """Two device functions on a lane's sums: clear them; add the chains up, into shared memory."""
    stride, size = row_stride(tiles), chains * tiles * 4

    @shim.device
    def clear(sums: Any) -> None:
        for i in range(size):
            sums[i] = float32(0)

    @shim.device
    def add_up(sums: Any, partial: Any, at: Any) -> None:
        for tile in range(tiles):
            for q in range(4):
                total = sums[tile * 4 + q]
                for chain in range(1, chains):
                    total += sums[(chain * tiles + tile) * 4 + q]
                partial[at + 8 * (q // 2) * stride + 8 * tile + q % 2] = total

    return clear, add_up


# ---------------------------------------------------------------------------------------------------------------------
# What steps share


@shim.device
def _arrive(counters: Any, group: Any, blocks: Any) -> None:
    """The block has written its part of a step."""
    shim.sync()
    if blocks > 1 and shim.thread() == 0:
        shim.release_add(counters, group * _COUNTER_STRIDE)


@shim.device
def _wait(counters: Any, group: Any, blocks: Any, step: Any) -> None:
    """All blocks of the group have arrived `step` times."""
    if blocks > 1:
        if shim.thread() == 0:
            while shim.acquire(counters, group * _COUNTER_STRIDE) < step * blocks:
                pass
        shim.sync()


@functools.cache
def _adder(stride: int) -> Any:
    """A device function: the sum of the warps that split K, in their order."""

    @shim.device
    def add_up(partial: Any, at: Any, split_warps: Any) -> Any:
        total = partial[at]
        for warp in range(1, 8):  # all loads at once; a loop up to split_warps would wait for each
            if warp < split_warps:
                total += partial[at + warp * _ROWS_AT_ONCE * stride]
        return total

    return add_up


@functools.cache
def _storer(precision: str, tiles: int, fragments: int) -> Any:
    """A device function ``(partial, at, packed, first)``: the weights from fragment `first` on to ``partial[at]``.

    Those of all warps; they are there after `shim.copied` and a `sync`.
    """
    words = _ARITHMETIC[precision].words

    @shim.device
    def store_all(partial: Any, at: Any, packed: Any, first: Any) -> None:
        i = 4 * int64(shim.thread())
        while i < shim.threads() * tiles * fragments * words:
            shim.copy16(partial, at + i, packed, first * 32 * words + i)
            i += 4 * shim.threads()

    return store_all


@functools.cache
def _blanker(store: Any) -> Any:
    """A device function that zeroes the columns from `width` on of a group's rows, its blocks sharing the work."""

    @shim.device
    def blank(
        p: Any, slots: Any, B: Any, columns: Any, width: Any, row0: Any, rows: Any, block: Any, blocks: Any
    ) -> None:
        slot = block
        while slot < slots:
            for row in range(row0, row0 + rows):
                column = width + shim.thread()
                while column < columns:
                    store(p, (slot * B + row) * columns + column, float32(0))
                    column += shim.threads()
            slot += blocks

    return blank


# ---------------------------------------------------------------------------------------------------------------------
# The weights as the warps keep them


@functools.cache
def pack_kernel(family: str, precision: str, backward: bool) -> Any:
    """The kernel that writes U in the order in which the warps take it: block, warp, fragment, tile, lane, four k.

    Weights beyond the units or beyond K are zeros, so that the kernels which multiply have no edges.

    Parameters
    ----------
    family, precision : str
    backward : bool
        Whether for the product with the gates' gradients.

    Returns
    -------
    object
        With `launch`; see `shim.kernel`.
    """
    recurrent, put = CELLS[family].recurrent, _ARITHMETIC[precision].store
    tiles, length_gates = (1, len(recurrent)) if backward else (len(recurrent), 1)
    gate_of_first_slot, gates = recurrent[0], len(recurrent)  # the slots go on from there, around the gates

    @shim.kernel("ppiiiii")
    def pack(weight: Any, packed: Any, H: Any, unit_tiles: Any, split_warps: Any, fragments: Any, size: Any) -> None:
        at = int64(shim.block()) * shim.threads() + shim.thread()
        if at < size:
            inner, lane = at % 4, at // 4 % 32
            tile = at // 128 % tiles
            j = at // (128 * tiles) % fragments
            warp = at // (128 * tiles * fragments) % (unit_tiles * split_warps)
            block = at // (128 * tiles * fragments * unit_tiles * split_warps)
            k = ((warp % split_warps) * fragments + j) * 16 + 4 * (lane % 4) + inner
            unit = (block * unit_tiles + warp // split_warps) * 8 + lane // 4
            value = float32(0)
            if unit < H and k < length_gates * H:
                if backward:
                    gate = (k // H + gate_of_first_slot) % gates
                    value = shim.load(weight, (gate * H + k % H) * H + unit)
                else:
                    value = shim.load(weight, (tile * H + unit) * H + k)
            put(packed, at, value)

    return pack


def _packed(weight: Any, kind: str, precision: str, partition: Partition, *, backward: bool) -> Any:
    """U in the warps' order."""
    tiles = 1 if backward else CELLS[kind].gates
    size = partition.blocks * partition.unit_tiles * partition.split_warps * partition.fragments * tiles * 128
    packed = arrays.empty((size,), stored_dtype(precision))
    numbers = (weight.shape[1], partition.unit_tiles, partition.split_warps, partition.fragments, size)
    pointers = (shim.pointer(weight.reshape(-1)), shim.pointer(packed))
    pack_kernel(cells.family_of(kind)[0], precision, backward).launch(
        -(-size // 256), 256, (*pointers, *numbers), stream=arrays.stream_pointer()
    )
    return packed


# ---------------------------------------------------------------------------------------------------------------------
# Forward


@functools.cache
def forward_kernel(family: str, precision: str, fragments: int) -> Any:
    """The kernel of all partitions with so many fragments.

    Parameters
    ----------
    family, precision : str
    fragments : int

    Returns
    -------
    object
        With `launch`; see `shim.kernel`.
    """
    cell, arithmetic = CELLS[family], _ARITHMETIC[precision]
    gates, kept_count, has_c, after = cell.gates, cell.kept, cell.has_c, family == "gru_after"
    keep, store_state, blank = _keeper(precision, fragments * gates), arithmetic.store, _blanker(arithmetic.store)
    multiply, finish = _product(precision, gates, fragments), cells.forward_function(family)
    add_up, store_all = _adder(row_stride(gates)), _storer(precision, gates, fragments)
    words, word = arithmetic.words, arithmetic.word
    stride, size = row_stride(gates), fragments * gates * words

    @shim.kernel("p" * 17 + "i" * 16)
    def persistent_forward(
        gates_x: Any,
        packed: Any,
        bias_ih: Any,
        bias_hh: Any,
        h0: Any,
        c0: Any,
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
        counters: Any,
        T: Any,
        B: Any,
        H: Any,
        columns: Any,
        slots: Any,
        slot_mask: Any,
        y_t: Any,
        y_b: Any,
        reverse: Any,
        unit_warps: Any,
        split_warps: Any,
        turns: Any,
        blocks: Any,
        group_rows: Any,
        training: Any,
        variant: Any,
    ) -> None:
        tid = int64(shim.thread())
        group, block, warp = int64(shim.group()), int64(shim.block()), tid // 32
        row0 = group * group_rows
        rows_here = min(group_rows, B - row0)

        # What a thread finishes: one unit, of every `row_step`th row.
        units = 8 * unit_warps * turns
        row_step = shim.threads() // units
        own, first_row = tid % units, tid // units
        unit = block * units + own
        partial = cuda.shared.array(0, float32, 16)
        at_own = (own // 8) * split_warps * _ROWS_AT_ONCE * stride + own % 8
        at_warp, k0 = warp * _ROWS_AT_ONCE * stride, (warp % split_warps) * fragments * 16

        memory = turns * shim.threads() * stride + tid
        shim.remember(partial, memory, unit * 64 + first_row)
        shim.remember(partial, memory + _AT_SUM, at_own)
        shim.remember(partial, memory + _AT_K, k0 + 4 * (tid % 4))
        shim.remember(partial, memory + _AT_LANE, at_warp + tid % 32 // 4 * stride + 2 * (tid % 4))

        # The biases of each unit, side by side: those of the gates, and gru_after's b_hn.
        biases = memory - tid + _AT_BIASES + 4 * own
        if tid < units and unit < H:
            for gate in range(gates):
                bias = load_or_zero(bias_ih, gate * H + unit)
                if after and gate == 2:
                    partial[biases + 3] = load_or_zero(bias_hh, gate * H + unit)
                else:
                    bias += load_or_zero(bias_hh, gate * H + unit)
                partial[biases + gate] = bias
        stored = memory - tid + _AT_BIASES + 4 * units
        if turns > 1:
            store_all(partial, stored, packed, (block * turns + 1) * (shim.threads() // 32) * size // words)

        # The state that the first step uses.
        first = (T - 1) * reverse
        row = first_row
        while unit < H and row < rows_here:
            b = row0 + row
            i = b * H + unit
            restart = restarts(lengths, resets, reverse, first, b, T, B)
            state = load_or_zero(reset_h, i) if restart else load_or_zero(h0, i)
            shim.store(h, i, state)
            operand = state if active(lengths, first, b) else float32(0)
            store_state(used, ((first & slot_mask) * B + b) * columns + unit, operand)
            if has_c:
                shim.store(c, i, load_or_zero(reset_c, i) if restart else load_or_zero(c0, i))
            row += row_step
        blank(used, slots, B, columns, H, row0, rows_here, block, blocks)
        shim.copied()
        _arrive(counters, group, blocks)

        x = cuda.local.array(4, float32)
        s = cuda.local.array(4, float32)
        for gate in range(4):
            x[gate], s[gate] = float32(0), float32(0)
        weights = cuda.local.array(size, word)
        at_packed = (block * turns * (shim.threads() // 32) + warp) * size // words
        keep(weights, packed, (at_packed * 32 + tid % 32) * 4)
        shim.remember(partial, memory + _AT_STORED, stored + warp * 32 * size + tid % 32 * words)

        step = 0
        while step < T:
            t = step + (T - 1 - 2 * step) * reverse
            following = t + 1 - 2 * reverse
            tile, row0 = 0, int64(shim.group()) * group_rows
            rows_here = min(group_rows, B - row0)
            while tile < rows_here:
                rows = min(_ROWS_AT_ONCE, rows_here - tile)
                again = 0
                while again < rows:
                    place = shim.recall(partial, memory)
                    unit, row = place >> 6, again + (place & 63)
                    b = row0 + tile + row
                    i, finishes = b * H + unit, unit < H and row < rows
                    # What the thread will need lies in shared memory: registers are for the product.
                    if finishes:
                        at = (t * B + b) * gates * H + unit
                        bias = shim.load4_shared(partial, biases)
                        for gate in range(gates):
                            x[gate] = shim.load(gates_x, at + gate * H) + bias[gate]
                            partial[memory + _AT_X + _THREADS * gate] = x[gate]
                        partial[memory + _AT_H] = shim.load(h, i)
                        if has_c:
                            partial[memory + _AT_C] = shim.load(c, i)
                    if again == 0:
                        if tile == 0:
                            _wait(counters, group, blocks, step + 1)
                        start = ((t & slot_mask) * B + row0 + tile) * columns + shim.recall(partial, memory + _AT_K)
                        at = memory + _AT_LANE
                        multiply(weights, used, start, columns, rows, partial, at, memory + _AT_STORED, turns)
                        shim.sync()
                    place = shim.recall(partial, memory)
                    unit, row = place >> 6, again + (place & 63)
                    b = row0 + tile + row
                    i = b * H + unit
                    last = tile + _ROWS_AT_ONCE >= rows_here and again + row_step >= rows
                    state, c_now, output, runs = float32(0), float32(0), float32(0), False
                    if finishes:
                        state = partial[memory + _AT_H]
                        if has_c:
                            c_now = partial[memory + _AT_C]
                        runs = active(lengths, t, b)
                        if runs:
                            at = shim.recall(partial, memory + _AT_SUM) + row * stride
                            for gate in range(gates):
                                x[gate] = partial[memory + _AT_X + _THREADS * gate]
                                s[gate] = add_up(partial, at + 8 * gate, split_warps)
                            if after:
                                s[2] += partial[biases + 3]
                            new = finish(variant, x[0], x[1], x[2], x[3], s[0], s[1], s[2], s[3], state, c_now)
                            state, c_now, output = new[0], new[1], new[0]
                            x[0], x[1], x[2], x[3] = new[2], new[3], new[4], new[5]
                        if step + 1 < T:
                            if restarts(lengths, resets, reverse, following, b, T, B):
                                state, c_now = load_or_zero(reset_h, i), load_or_zero(reset_c, i)
                            operand = state if active(lengths, following, b) else float32(0)
                            store_state(used, ((following & slot_mask) * B + b) * columns + unit, operand)
                    if last:
                        _arrive(counters, group, blocks)
                    # What no other block waits for is written behind the hand-over.
                    if finishes:
                        shim.store(y, t * y_t + b * y_b + unit, output)
                        shim.store(h, i, state)
                        if has_c:
                            shim.store(c, i, c_now)
                            if training:
                                shim.store(used_c, t * B * H + i, partial[memory + _AT_C])
                        if training and runs:
                            at = (t * B + b) * kept_count * H + unit
                            shim.store(kept, at, x[0])
                            if kept_count > 1:
                                shim.store(kept, at + H, x[1])
                                shim.store(kept, at + 2 * H, x[2])
                                shim.store(kept, at + 3 * H, x[3])
                    again += row_step
                if tile + _ROWS_AT_ONCE < rows_here:
                    shim.sync()  # the next tile's sums go where these are
                tile += _ROWS_AT_ONCE
            step += 1

    return persistent_forward


def forward(call: Forward, partition: Partition) -> None:
    """Run the recurrence forward; its input products are done.

    Parameters
    ----------
    call : Forward
    partition : Partition
        From `plan`.
    """
    T, B = call.y.shape[:2]
    H, trail = call.weight.shape[1], call.trail
    width = columns(H, partition)
    slots = 2 if trail is None else T
    used = arrays.empty((slots * B * width,), stored_dtype(call.precision)) if trail is None else trail.used
    y, (y_t, y_b, _) = arrays.cover(call.y)
    memory = (
        call.gates_x,
        _packed(call.weight, call.kind, call.precision, partition, backward=False),
        call.bias_ih,
        call.bias_hh,
        call.h0,
        call.c0,
        call.h,
        call.c,
        y,
        *_of_masks(call.masks),
        used,
        *((None, None) if trail is None else (trail.kept, trail.used_c)),
        _counters(partition),
    )
    slot_mask = 1 if trail is None else -1
    numbers = (T, B, H, width, slots, slot_mask, y_t, y_b, int(call.reverse))
    family, variant = cells.family_of(call.kind)
    kernel = forward_kernel(family, call.precision, partition.fragments)
    trained = int(trail is not None)
    shared = partition.shared_bytes(CELLS[call.kind].gates, call.precision)
    _launch(kernel, partition, shared, memory, (*numbers, *_of_partition(partition), trained, variant))


# ---------------------------------------------------------------------------------------------------------------------
# Backward


@functools.cache
def backward_kernel(family: str, precision: str, fragments: int) -> Any:
    """The kernel of all partitions with so many fragments.

    Parameters
    ----------
    family, precision : str
    fragments : int

    Returns
    -------
    object
        With `launch`; see `shim.kernel`.
    """
    cell, arithmetic = CELLS[family], _ARITHMETIC[precision]
    kept_count, has_c, slots, needs_h = cell.kept, cell.has_c, cell.slots, family == "gru_after"
    keep, load_state, store_gradient = _keeper(precision, fragments), arithmetic.load, arithmetic.store
    multiply, differentiate = _product(precision, 1, fragments), cells.backward_function(family)
    add_up, store_all, blank = _adder(row_stride(1)), _storer(precision, 1, fragments), _blanker(arithmetic.store)
    words, word = arithmetic.words, arithmetic.word
    stride, size = row_stride(1), fragments * words

    @shim.kernel("p" * 17 + "i" * 14)
    def persistent_backward(
        packed: Any,
        used: Any,
        kept: Any,
        used_c: Any,
        dy: Any,
        dh_final: Any,
        dc_final: Any,
        gradients: Any,
        dh: Any,
        dc: Any,
        d_reset_h: Any,
        d_reset_c: Any,
        lengths: Any,
        resets: Any,
        reset_h: Any,
        reset_c: Any,
        counters: Any,
        T: Any,
        B: Any,
        H: Any,
        columns: Any,
        used_columns: Any,
        dy_t: Any,
        dy_b: Any,
        reverse: Any,
        unit_warps: Any,
        split_warps: Any,
        turns: Any,
        blocks: Any,
        group_rows: Any,
        variant: Any,
    ) -> None:
        tid = int64(shim.thread())
        group, block, warp = int64(shim.group()), int64(shim.block()), tid // 32
        row0 = group * group_rows
        rows_here = min(group_rows, B - row0)
        units = 8 * unit_warps * turns
        row_step = shim.threads() // units
        own, first_row = tid % units, tid // units
        unit = block * units + own
        partial = cuda.shared.array(0, float32, 16)
        at_own = (own // 8) * split_warps * _ROWS_AT_ONCE * stride + own % 8
        at_warp, k0 = warp * _ROWS_AT_ONCE * stride, (warp % split_warps) * fragments * 16

        memory = turns * shim.threads() * stride + tid
        shim.remember(partial, memory, unit * 64 + first_row)
        shim.remember(partial, memory + _AT_SUM, at_own)
        shim.remember(partial, memory + _AT_K, k0 + 4 * (tid % 4))
        shim.remember(partial, memory + _AT_LANE, at_warp + tid % 32 // 4 * stride + 2 * (tid % 4))

        row = first_row
        while unit < H and row < rows_here:
            i = (row0 + row) * H + unit
            shim.store(dh, i, load_or_zero(dh_final, i))
            if has_c:
                shim.store(dc, i, load_or_zero(dc_final, i))
            if shim.given(d_reset_h):
                shim.store(d_reset_h, i, float32(0))
                if has_c:
                    shim.store(d_reset_c, i, float32(0))
            row += row_step
        blank(gradients, T, B, columns, slots * H, row0, rows_here, block, blocks)
        stored = memory - tid + _AT_END
        if turns > 1:
            store_all(partial, stored, packed, (block * turns + 1) * (shim.threads() // 32) * fragments)
            shim.copied()
            shim.sync()

        k = cuda.local.array(4, float32)
        for q in range(4):
            k[q] = float32(0)
        weights = cuda.local.array(size, word)
        at_packed = (block * turns * (shim.threads() // 32) + warp) * fragments
        keep(weights, packed, (at_packed * 32 + tid % 32) * 4)
        shim.remember(partial, memory + _AT_STORED, stored + warp * 32 * size + tid % 32 * words)

        step = 0
        while step < T + 1:
            t = T - 1 - step + (2 * step - T + 1) * reverse
            before = t + 1 - 2 * reverse  # the step that was processed before this one
            tile, row0 = 0, int64(shim.group()) * group_rows
            rows_here = min(group_rows, B - row0)
            while tile < rows_here:
                rows = min(_ROWS_AT_ONCE, rows_here - tile)
                again = 0
                while again < rows:
                    place = shim.recall(partial, memory)
                    unit, row = place >> 6, again + (place & 63)
                    b = row0 + tile + row
                    i, finishes = b * H + unit, unit < H and row < rows
                    # What the thread will need lies in shared memory: registers are for the product.
                    if finishes:
                        partial[memory + _AT_DH] = shim.load(dh, i)
                        if has_c:
                            partial[memory + _AT_DC] = shim.load(dc, i)
                        if step < T and active(lengths, t, b):
                            partial[memory + _AT_DY] = load_or_zero(dy, t * dy_t + b * dy_b + unit)
                            at = (t * B + b) * kept_count * H + unit
                            for q in range(kept_count):
                                partial[memory + _AT_KEPT + _THREADS * q] = shim.load(kept, at + q * H)
                            if needs_h:
                                partial[memory + _AT_USED] = load_state(used, (t * B + b) * used_columns + unit)
                            if has_c:
                                partial[memory + _AT_USED] = shim.load(used_c, t * B * H + i)
                    if again == 0 and step > 0:
                        if tile == 0:
                            _wait(counters, group, blocks, step)
                        start = (before * B + row0 + tile) * columns + shim.recall(partial, memory + _AT_K)
                        at = memory + _AT_LANE
                        multiply(weights, gradients, start, columns, rows, partial, at, memory + _AT_STORED, turns)
                        shim.sync()
                    place = shim.recall(partial, memory)
                    unit, row = place >> 6, again + (place & 63)
                    b = row0 + tile + row
                    i = b * H + unit
                    last = tile + _ROWS_AT_ONCE >= rows_here and again + row_step >= rows
                    total, d_c = float32(0), float32(0)
                    if finishes:
                        # `total` is at first the part of dh that did not come through U.
                        total = partial[memory + _AT_DH]
                        if has_c:
                            d_c = partial[memory + _AT_DC]
                        if step > 0:
                            total += add_up(partial, shim.recall(partial, memory + _AT_SUM) + row * stride, split_warps)
                            if restarts(lengths, resets, reverse, before, b, T, B):
                                if shim.given(d_reset_h):
                                    shim.store(d_reset_h, i, shim.load(d_reset_h, i) + total)
                                    if has_c:
                                        shim.store(d_reset_c, i, shim.load(d_reset_c, i) + d_c)
                                total, d_c = float32(0), float32(0)
                        if step < T:
                            g0, g1, g2, g3 = float32(0), float32(0), float32(0), float32(0)
                            if active(lengths, t, b):
                                for q in range(kept_count):
                                    k[q] = partial[memory + _AT_KEPT + _THREADS * q]
                                total += partial[memory + _AT_DY]
                                state = partial[memory + _AT_USED] if needs_h or has_c else float32(0)
                                new = differentiate(variant, total, d_c, state, state, k[0], k[1], k[2], k[3])
                                g0, g1, g2, g3, total, d_c = new
                            at = (t * B + b) * columns + unit
                            store_gradient(gradients, at, g0)
                            if slots > 1:
                                store_gradient(gradients, at + H, g1)
                                store_gradient(gradients, at + 2 * H, g2)
                                store_gradient(gradients, at + 3 * H, g3)
                    if last:
                        _arrive(counters, group, blocks)
                    if finishes:
                        shim.store(dh, i, total)
                        if has_c:
                            shim.store(dc, i, d_c)
                    again += row_step
                if tile + _ROWS_AT_ONCE < rows_here:
                    shim.sync()  # the next tile's sums go where these are
                tile += _ROWS_AT_ONCE
            step += 1

    return persistent_backward


def backward(call: Backward, partition: Partition, used_columns: int) -> None:
    """Run the recurrence backward, up to the gates' gradients.

    Parameters
    ----------
    call : Backward
    partition : Partition
        From `plan`.
    used_columns : int
        The row length of the trail's `used`.
    """
    T, B = call.gradients.shape[:2]
    H, trail = call.weight.shape[1], call.trail
    dy, (dy_t, dy_b, _) = (None, (0, 0, 0)) if call.dy is None else arrays.cover(call.dy)
    memory = (
        _packed(call.weight, call.kind, call.precision, partition, backward=True),
        trail.used,
        trail.kept,
        trail.used_c,
        dy,
        call.dh_final,
        call.dc_final,
        call.gradients,
        call.dh0,
        call.dc0,
        call.d_reset_h,
        call.d_reset_c,
        *_of_masks(call.masks),
        _counters(partition),
    )
    width = call.gradients.shape[2]
    numbers = (T, B, H, width, used_columns, dy_t, dy_b, int(call.reverse), *_of_partition(partition))
    family, variant = cells.family_of(call.kind)
    kernel = backward_kernel(family, call.precision, partition.fragments)
    shared = partition.shared_bytes(1, call.precision, backward=True)
    _launch(kernel, partition, shared, memory, (*numbers, variant))


# ---------------------------------------------------------------------------------------------------------------------
# Launches


def _of_masks(masks: Masks) -> tuple[Any, ...]:
    return masks.lengths, masks.resets, masks.reset_h, masks.reset_c


def _of_partition(partition: Partition) -> tuple[int, ...]:
    return partition.unit_warps, partition.split_warps, partition.turns, partition.blocks, partition.rows


def _counters(partition: Partition) -> Any:
    return arrays.zeros((partition.groups * _COUNTER_STRIDE,), np.int32)


def _launch(kernel: Any, partition: Partition, shared: int, memory: tuple[Any, ...], numbers: tuple[int, ...]) -> None:
    pointers = [shim.pointer(None if array is None else array.reshape(-1)) for array in memory]
    kernel.launch(
        (partition.blocks, partition.groups),
        partition.threads,
        (*pointers, *numbers),
        shared=shared,
        stream=arrays.stream_pointer(),
        cooperative=True,
    )
