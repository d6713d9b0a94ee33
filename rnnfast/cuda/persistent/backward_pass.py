"""Backward in one launch: the kernel and its call."""

from __future__ import annotations

import functools
from typing import Any

from .. import arrays, cells, shim
from ..elements import active, load_or_zero, restarts
from ..plan import WEIGHTS_LEFT, Orientation, Partition
from ..sequence import CELLS, Backward
from ..shim import cuda, float32, int64
from .layout import (
    AT_DC,
    AT_DH,
    AT_DY,
    AT_END,
    AT_KEPT,
    AT_ROW_STEP,
    AT_SET,
    AT_STEP,
    AT_SUM_STORED,
    AT_TILE,
    AT_USED,
    THREADS,
    low,
    memory_of,
)
from .layout import placer as places_of_threads
from .product import ARITHMETIC, product_of
from .ring import placer, publisher, ring, slot_at, tag_function
from .steps import adder, exchange_of, exchanger, launch, of_partition
from .weights import keeper

__all__ = ["backward", "backward_kernel"]


@shim.device
def time_of(step: Any, T: Any, reverse: Any) -> Any:
    """The t that is processed after `step` others."""
    return T - 1 - step + (2 * step - T + 1) * reverse


@functools.cache
def backward_kernel(family: str, precision: str, fragments: int, orientation: Orientation) -> Any:
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
    kept_count, has_c, slots, needs_h = cell.kept, cell.has_c, cell.slots, cell.reads_h
    recurrent = len(cell.recurrent)  # of the slots, the first: those that the step before reads
    load_state, store_gradient, memory_first = arithmetic.load, arithmetic.store, memory_of(1, orientation)
    (publish, publish_beyond), tag_of_turn = publisher(precision, orientation), tag_function(precision, orientation)
    of_row = placer(orientation)[1]
    take_places = places_of_threads(arithmetic.words, 1, orientation)
    keep_stored, keep_registers = keeper(precision, 1, fragments, orientation)
    multiply, differentiate = product_of(precision, 1, fragments, orientation), cells.backward_function(family)
    tile_units, rows_at_once, stride = orientation.units, orientation.rows_at_once, orientation.row_stride(1)
    tile_rows, size, word = orientation.rows, fragments * orientation.words(precision), arithmetic.word
    one_block = orientation == WEIGHTS_LEFT
    add_up, (send, receive) = adder(orientation, 1), exchanger(orientation)

    @shim.kernel("p" * 16 + "i" * 19)
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
        ring: Any,
        exchange: Any,
        T: Any,
        B: Any,
        H: Any,
        columns: Any,
        used_columns: Any,
        length: Any,
        tile_words: Any,
        slot_words: Any,
        slot_sums: Any,
        dy_t: Any,
        dy_b: Any,
        reverse: Any,
        unit_warps: Any,
        split_warps: Any,
        stored: Any,
        blocks: Any,
        group_rows: Any,
        parts: Any,
        variant: Any,
    ) -> None:
        if one_block:  # then what blocks do for each other is not compiled
            blocks, parts = 1, 1
        tid = int64(shim.thread())
        group, block = int64(shim.group()), int64(shim.block())
        row0 = group * group_rows
        rows_here = min(group_rows, B - row0)

        # What a thread finishes: one unit, of every `row_step`th row.
        units = tile_units * unit_warps // parts
        row_step = shim.threads() // units
        own, first_row = tid % units, tid // units
        unit = block * units + own
        partial = cuda.shared.array(0, float32, 16)
        memory = memory_first()
        at_weights = memory - tid + AT_END
        take_places(partial, memory, at_weights, unit_warps, split_warps, fragments, stored, parts)
        shim.remember(partial, memory + AT_ROW_STEP, row_step)
        keep_stored(partial, at_weights, packed, stored)
        if parts > 1:  # where the sums of the set's units begin, counted from unit 0
            first = block // parts * parts
            shim.remember(partial, memory + AT_SET, ((group * blocks + first) * group_rows * parts - first) * units)

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
        shim.copied()
        shim.sync()

        k = cuda.local.array(4, float32)
        for q in range(4):
            k[q] = float32(0)
        weights = cuda.local.array(size, word)
        keep_registers(weights, packed, stored)

        step = 0
        while step < T + 1:
            t = time_of(step, T, reverse)
            # Where K is split over the blocks of a set, all sums are sent before any is finished.
            finishing = 0 if parts > 1 and step > 0 else 1
            while finishing < 2:
                shim.remember(partial, memory + AT_STEP, 2 * step + finishing)
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
                        i, finishes = b * H + unit, unit < H and row < rows and finishing == 1
                        # What the thread will need lies in shared memory: registers are for the product.
                        if finishes:
                            shim.store_shared(partial, memory + AT_DH, shim.load(dh, i))
                            if has_c:
                                shim.store_shared(partial, memory + AT_DC, shim.load(dc, i))
                            if step < T and active(lengths, t, b):
                                shim.store_shared(partial, memory + AT_DY, load_or_zero(dy, t * dy_t + b * dy_b + unit))
                                at = (t * B + b) * kept_count * H + unit
                                for q in range(kept_count):
                                    shim.store_shared(
                                        partial, memory + AT_KEPT + THREADS * q, shim.load(kept, at + q * H)
                                    )
                                if needs_h:
                                    shim.store_shared(
                                        partial, memory + AT_USED, load_state(used, (t * B + b) * used_columns + unit)
                                    )
                                if has_c:
                                    shim.store_shared(partial, memory + AT_USED, shim.load(used_c, t * B * H + i))
                        if again == 0 and step > 0 and (finishing == 0 or parts == 1):
                            at = slot_at(int64(shim.group()), step - 1, slot_words) + tile // tile_rows * tile_words
                            source, tag = shim.advance(ring, at, 4), tag_of_turn(step - 1)
                            multiply(weights, source, tile_words, rows, tag, partial, memory, stored)
                            shim.sync()
                            if parts > 1:
                                turn = shim.recall(partial, memory + AT_STEP) >> 1
                                set_units = parts * units
                                send(
                                    exchange,
                                    turn,
                                    slot_sums,
                                    tile,
                                    rows,
                                    group_rows,
                                    set_units,
                                    partial,
                                    memory,
                                    split_warps,
                                )
                        step, tile = shim.recall(partial, memory + AT_STEP), shim.recall(partial, memory + AT_TILE)
                        tile, again = tile - tile % rows_at_once, tile % rows_at_once
                        step, finishing = step >> 1, step & 1
                        rows = min(rows_at_once, rows_here - tile)
                        t, before = time_of(step, T, reverse), time_of(step - 1, T, reverse)
                        place = shim.recall(partial, memory)
                        unit, row = place >> 6, again + (place & 63)
                        b = row0 + tile + row
                        i, finishes = b * H + unit, unit < H and row < rows and finishing == 1
                        after = again + shim.recall(partial, memory + AT_ROW_STEP)
                        last = finishing == 1 and tile + rows_at_once >= rows_here and after >= rows
                        total, d_c = float32(0), float32(0)
                        g0, g1, g2, g3 = float32(0), float32(0), float32(0), float32(0)
                        row_at = slot_at(int64(shim.group()), step, slot_words) + of_row(tile + row, tile_words)
                        if finishes:
                            # `total` is at first the part of dh that did not come through U.
                            total = shim.load_shared(partial, memory + AT_DH)
                            if has_c:
                                d_c = shim.load_shared(partial, memory + AT_DC)
                            if step > 0:
                                if parts > 1:
                                    at = shim.recall(partial, memory + AT_SET) + (tile + row) * parts * units + unit
                                    total += receive(exchange, step, slot_sums, at, group_rows * parts * units, parts)
                                else:
                                    at = low(partial, memory + AT_SUM_STORED) + row * stride
                                    total += add_up(partial, at, split_warps)
                                if restarts(lengths, resets, reverse, before, b, T, B):
                                    if shim.given(d_reset_h):
                                        shim.store(d_reset_h, i, shim.load(d_reset_h, i) + total)
                                        if has_c:
                                            shim.store(d_reset_c, i, shim.load(d_reset_c, i) + d_c)
                                    total, d_c = float32(0), float32(0)
                            if step < T:
                                if active(lengths, t, b):
                                    for q in range(kept_count):
                                        k[q] = shim.load_shared(partial, memory + AT_KEPT + THREADS * q)
                                    total += shim.load_shared(partial, memory + AT_DY)
                                    state = (
                                        shim.load_shared(partial, memory + AT_USED) if needs_h or has_c else float32(0)
                                    )
                                    new = differentiate(variant, total, d_c, state, state, k[0], k[1], k[2], k[3])
                                    g0, g1, g2, g3, total, d_c = new
                                tag = tag_of_turn(step)
                                publish(ring, row_at, unit, g0, tag)
                                if recurrent > 1:
                                    publish(ring, row_at, H + unit, g1, tag)
                                    publish(ring, row_at, 2 * H + unit, g2, tag)
                                if recurrent > 3:
                                    publish(ring, row_at, 3 * H + unit, g3, tag)
                        if row < rows and finishing == 1 and step < T:
                            first = recurrent * H + unit
                            publish_beyond(ring, row_at, first, length, blocks * units, tag_of_turn(step))
                        if last:
                            shim.sync()  # the next product's sums go where these are
                        # What no other block waits for is written behind the hand-over.
                        if finishes:
                            if step < T:
                                at = (t * B + b) * columns + unit
                                store_gradient(gradients, at, g0)
                                if slots > 1:
                                    store_gradient(gradients, at + H, g1)
                                    store_gradient(gradients, at + 2 * H, g2)
                                    store_gradient(gradients, at + 3 * H, g3)
                            shim.store(dh, i, total)
                            if has_c:
                                shim.store(dc, i, d_c)
                        again += shim.recall(partial, memory + AT_ROW_STEP)
                    if tile + rows_at_once < rows_here:
                        shim.sync()  # the next tile's sums go where these are
                    tile += rows_at_once
                finishing += 1
            step += 1

    return persistent_backward


def backward(call: Backward, partition: Partition, weight: Any, used_columns: int) -> None:
    """Run the recurrence backward, up to the gates' gradients.

    Parameters
    ----------
    call : Backward
    partition : Partition
        From `plan`.
    weight : device array
        U, `packed` for the partition.
    used_columns : int
        The row length of the trail's `used`.
    """
    T, B = call.gradients.shape[:2]
    H, trail = call.weight.shape[1], call.trail
    dy, (dy_t, dy_b, _) = (None, (0, 0, 0)) if call.dy is None else arrays.cover(call.dy)
    memory = (
        weight,
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
        call.masks.lengths,
        call.masks.resets,
        ring(partition),
        exchange_of(partition),
    )
    slot_sums = partition.groups * partition.blocks * partition.rows * partition.units
    of_ring = (partition.length, partition.tile_words, partition.slot_words, slot_sums)
    rows = (call.gradients.shape[2], used_columns, *of_ring, dy_t, dy_b)
    numbers = (T, B, H, *rows, int(call.reverse), *of_partition(partition))
    family, variant = cells.family_of(call.kind)
    kernel = backward_kernel(family, call.precision, partition.fragments, partition.orientation)
    shared = partition.shared_bytes(1, call.precision, backward=True)
    launch(kernel, partition, shared, memory, (*numbers, partition.parts, variant))
