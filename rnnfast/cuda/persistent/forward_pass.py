"""Forward in one launch: the kernel and its call."""

from __future__ import annotations

import functools
from typing import Any

from .. import arrays, cells, shim
from ..elements import active, load_or_zero, restarts
from ..plan import WEIGHTS_LEFT, Orientation, Partition, columns
from ..sequence import CELLS, Forward
from ..shim import cuda, float32, int64
from .layout import AT_BIASES, AT_C, AT_H, AT_STEP, AT_SUM_STORED, AT_TILE, AT_TURN, AT_X, THREADS, low, memory_of
from .layout import placer as places_of_threads
from .product import ARITHMETIC, product_of
from .ring import next_turn_at, placer, publisher, slot_at, tag_function
from .steps import adder, launch, of_partition
from .weights import keeper

__all__ = ["forward", "forward_kernel"]


@functools.cache
def forward_kernel(family: str, precision: str, fragments: int, orientation: Orientation) -> Any:
    """The kernel of all partitions with so many fragments and this orientation.

    Parameters
    ----------
    family, precision : str
    fragments : int
    orientation : Orientation

    Returns
    -------
    object
        With `launch`; see `shim.kernel`.
    """
    cell, arithmetic = CELLS[family], ARITHMETIC[precision]
    gates, kept_count, has_c, apart = cell.gates, cell.kept, cell.has_c, cell.apart
    store_state, memory_first = arithmetic.store, memory_of(gates, orientation)
    (publish, publish_beyond), tag_of_turn = publisher(precision, orientation), tag_function(precision, orientation)
    of_row = placer(orientation)[1]
    take_places = places_of_threads(arithmetic.words, gates, orientation)
    keep_stored, keep_registers = keeper(precision, gates, fragments, orientation)
    multiply, finish = product_of(precision, gates, fragments, orientation), cells.forward_function(family)
    tile_units, rows_at_once, stride = orientation.units, orientation.rows_at_once, orientation.row_stride(gates)
    tile_rows, size = orientation.rows, fragments * gates * orientation.words(precision)
    word, add_up, one_block = arithmetic.word, adder(orientation, gates), orientation == WEIGHTS_LEFT

    @shim.kernel("p" * 17 + "i" * 17)
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
        ring: Any,
        T: Any,
        B: Any,
        H: Any,
        columns: Any,
        length: Any,
        tile_words: Any,
        slot_words: Any,
        y_t: Any,
        y_b: Any,
        reverse: Any,
        unit_warps: Any,
        split_warps: Any,
        stored: Any,
        blocks: Any,
        group_rows: Any,
        training: Any,
        variant: Any,
    ) -> None:
        if one_block:  # then what blocks do for each other is not compiled
            blocks = 1
        tid = int64(shim.thread())
        group, block = int64(shim.group()), int64(shim.block())
        row0 = group * group_rows
        rows_here = min(group_rows, B - row0)

        # What a thread finishes: one unit, of every `row_step`th row.
        units = tile_units * unit_warps
        row_step = shim.threads() // units
        own, first_row = tid % units, tid // units
        unit = block * units + own
        partial = cuda.shared.array(0, float32, 16)
        memory = memory_first()
        at_weights = memory - tid + AT_BIASES + 4 * units
        take_places(partial, memory, at_weights, unit_warps, split_warps, fragments, stored, 1)
        keep_stored(partial, at_weights, packed, stored)

        turn = 0
        if not one_block:
            turn = shim.load_word(ring, next_turn_at(group, slot_words))
            shim.remember(partial, AT_TURN, turn)
            shim.sync()  # the first block writes the next one as it ends, and that is when all have begun to write

        # The biases of each unit, side by side: those of the gates, and the one that is apart.
        biases = memory - tid + AT_BIASES + 4 * own
        if tid < units and unit < H:
            for gate in range(gates):
                bias = load_or_zero(bias_ih, gate * H + unit)
                if gate == apart:
                    shim.store_shared(partial, biases + 3, load_or_zero(bias_hh, gate * H + unit))
                else:
                    bias += load_or_zero(bias_hh, gate * H + unit)
                shim.store_shared(partial, biases + gate, bias)

        # The state that the first step uses.
        first = (T - 1) * reverse
        row = first_row
        while row < rows_here:
            b = row0 + row
            i = b * H + unit
            row_at, tag = slot_at(group, turn, slot_words) + of_row(row, tile_words), tag_of_turn(turn)
            if unit < H:
                restart = restarts(lengths, resets, reverse, first, b, T, B)
                state = load_or_zero(reset_h, i) if restart else load_or_zero(h0, i)
                shim.store(h, i, state)
                operand = state if active(lengths, first, b) else float32(0)
                publish(ring, row_at, unit, operand, tag)
                if training:
                    store_state(used, (first * B + b) * columns + unit, operand)
                if has_c:
                    shim.store(c, i, load_or_zero(reset_c, i) if restart else load_or_zero(c0, i))
            publish_beyond(ring, row_at, H + unit, length, blocks * units, tag)
            row += row_step
        shim.copied()
        shim.sync()

        x = cuda.local.array(4, float32)
        s = cuda.local.array(4, float32)
        for gate in range(4):
            x[gate], s[gate] = float32(0), float32(0)
        weights = cuda.local.array(size, word)
        keep_registers(weights, packed, stored)

        step = 0
        while step < T:
            shim.remember(partial, memory + AT_STEP, step)
            t = step + (T - 1 - 2 * step) * reverse
            tile, row0 = 0, int64(shim.group()) * group_rows
            rows_here = min(group_rows, B - row0)
            while tile < rows_here:
                rows = min(rows_at_once, rows_here - tile)
                again = 0
                while again < rows:
                    shim.remember(partial, memory + AT_TILE, tile + again)
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
                            shim.store_shared(partial, memory + AT_X + THREADS * gate, x[gate])
                        shim.store_shared(partial, memory + AT_H, shim.load(h, i))
                        if has_c:
                            shim.store_shared(partial, memory + AT_C, shim.load(c, i))
                    if again == 0:
                        turn = step if one_block else step + shim.recall(partial, AT_TURN)
                        at = slot_at(int64(shim.group()), turn, slot_words) + tile // tile_rows * tile_words
                        source, tag = shim.advance(ring, at, 4), tag_of_turn(turn)
                        multiply(weights, source, tile_words, rows, tag, partial, memory, stored)
                        shim.sync()
                    step, tile = shim.recall(partial, memory + AT_STEP), shim.recall(partial, memory + AT_TILE)
                    tile, again = tile - tile % rows_at_once, tile % rows_at_once
                    t = step + (T - 1 - 2 * step) * reverse
                    following, rows = t + 1 - 2 * reverse, min(rows_at_once, rows_here - tile)
                    place = shim.recall(partial, memory)
                    unit, row = place >> 6, again + (place & 63)
                    b = row0 + tile + row
                    i, finishes = b * H + unit, unit < H and row < rows
                    last = tile + rows_at_once >= rows_here and again + row_step >= rows
                    state, c_now, output, runs, operand = float32(0), float32(0), float32(0), False, float32(0)
                    turn = step + 1 if one_block else step + 1 + shim.recall(partial, AT_TURN)
                    row_at = slot_at(int64(shim.group()), turn, slot_words) + of_row(tile + row, tile_words)
                    if finishes:
                        state = shim.load_shared(partial, memory + AT_H)
                        if has_c:
                            c_now = shim.load_shared(partial, memory + AT_C)
                        runs = active(lengths, t, b)
                        if runs:
                            at = low(partial, memory + AT_SUM_STORED) + row * stride
                            for gate in range(gates):
                                x[gate] = shim.load_shared(partial, memory + AT_X + THREADS * gate)
                                s[gate] = add_up(partial, at + tile_units * gate, split_warps)
                            if apart >= 0:
                                s[apart] += shim.load_shared(partial, biases + 3)
                            new = finish(variant, x[0], x[1], x[2], x[3], s[0], s[1], s[2], s[3], state, c_now)
                            state, c_now, output = new[0], new[1], new[0]
                            x[0], x[1], x[2], x[3] = new[2], new[3], new[4], new[5]
                        if step + 1 < T:
                            if restarts(lengths, resets, reverse, following, b, T, B):
                                state, c_now = load_or_zero(reset_h, i), load_or_zero(reset_c, i)
                            operand = state if active(lengths, following, b) else float32(0)
                            publish(ring, row_at, unit, operand, tag_of_turn(turn))
                    if row < rows and step + 1 < T:
                        publish_beyond(ring, row_at, H + unit, length, blocks * units, tag_of_turn(turn))
                    if last:
                        shim.sync()  # the next product's sums go where these are
                    # What no other block waits for is written behind the hand-over.
                    if finishes:
                        if training and step + 1 < T:
                            store_state(used, (following * B + b) * columns + unit, operand)
                        shim.store(y, t * y_t + b * y_b + unit, output)
                        shim.store(h, i, state)
                        if has_c:
                            shim.store(c, i, c_now)
                            if training:
                                shim.store(used_c, t * B * H + i, shim.load_shared(partial, memory + AT_C))
                        if training and runs:
                            at = (t * B + b) * kept_count * H + unit
                            shim.store(kept, at, x[0])
                            if kept_count > 1:
                                shim.store(kept, at + H, x[1])
                                shim.store(kept, at + 2 * H, x[2])
                                shim.store(kept, at + 3 * H, x[3])
                    again += row_step
                if tile + rows_at_once < rows_here:
                    shim.sync()  # the next tile's sums go where these are
                tile += rows_at_once
            step += 1
        if not one_block and shim.block() == 0 and shim.thread() == 0:
            at = next_turn_at(int64(shim.group()), slot_words)
            shim.store_word(ring, at, shim.recall(partial, AT_TURN) + T)

    return persistent_forward


def forward(call: Forward, partition: Partition, weight: Any, ring: Any) -> None:
    """Run the recurrence forward; its input products are done.

    Parameters
    ----------
    call : Forward
    partition : Partition
        From `plan`.
    weight : device array
        U, `packed` for the partition.
    ring : device array
        Of the partition; calls that use it come one after the other.
    """
    T, B = call.y.shape[:2]
    H, trail = call.weight.shape[1], call.trail
    y, (y_t, y_b, _) = arrays.cover(call.y)
    memory = (
        call.gates_x,
        weight,
        call.bias_ih,
        call.bias_hh,
        call.h0,
        call.c0,
        call.h,
        call.c,
        y,
        call.masks.lengths,
        call.masks.resets,
        call.masks.reset_h,
        call.masks.reset_c,
        *((None, None, None) if trail is None else (trail.used, trail.kept, trail.used_c)),
        ring,
    )
    of_ring = (partition.length, partition.tile_words, partition.slot_words)
    numbers = (T, B, H, columns(H), *of_ring, y_t, y_b, int(call.reverse))
    family, variant = cells.family_of(call.kind)
    kernel = forward_kernel(family, call.precision, partition.fragments, partition.orientation)
    trained = int(trail is not None)
    shared = partition.shared_bytes(CELLS[call.kind].gates, call.precision)
    launch(kernel, partition, shared, memory, (*numbers, *of_partition(partition), trained, variant))
