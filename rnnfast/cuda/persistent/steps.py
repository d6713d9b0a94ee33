"""What the kernels of both directions share: sums, and the launch. The hand-over is `ring`'s."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import arrays, shim, streams
from ..plan import Orientation, Partition
from ..shim import cuda, float32, int64, uint32
from .layout import AT_SUM_STORED, low
from .product import MOST_LOOKS, unrolled

__all__ = ["adder", "exchange_of", "exchanger", "launch", "of_partition"]

MOST_PARTS = 8
_SUM_TAG = 0xFFFF


@functools.cache
def adder(orientation: Orientation, tiles: int) -> Any:
    """A device function: the sum of the warps that split K, in their order."""
    warp_stride = orientation.warp_stride(tiles)

    @shim.device
    def add_up(partial: Any, at: Any, split_warps: Any) -> Any:
        total = shim.load_shared(partial, at)
        for warp in range(1, 8):  # all loads at once; a loop up to split_warps would wait for each
            if warp < split_warps:
                total += shim.load_shared(partial, at + warp * warp_stride)
        return total

    return add_up


@functools.cache
def exchanger(orientation: Orientation) -> tuple[Any, Any]:
    """Two device functions for sets of blocks that split K: send the block's sums, and add up the set's.

    In the exchange lie, in each of two slots, the rows of a group for each of its blocks, of as many sums as a set has
    units. A sum is 64 bits, with its tag, so it needs no counter either: who sends those of turn n + 2 has received all
    of n + 1, and who sent these had received all of n. The blocks' sums are added in the order of the blocks.
    """
    stride, add_up, received = orientation.row_stride(1), adder(orientation, 1), MOST_PARTS + 1

    @shim.device
    def sum_tag(turn: Any) -> Any:
        return shim.tag_of(1 + (turn >> 1), _SUM_TAG)

    @shim.device
    def send(
        exchange: Any,
        turn: Any,
        slot_sums: Any,
        tile: Any,
        rows: Any,
        group_rows: Any,
        units: Any,
        partial: Any,
        memory: Any,
        split_warps: Any,
    ) -> None:
        row = int64(shim.thread()) // units
        block = int64(shim.group()) * shim.blocks() + shim.block()
        to = (turn & 1) * slot_sums + (block * group_rows + tile) * units + shim.thread() % units
        while row < rows:
            at = low(partial, memory + AT_SUM_STORED) + row * stride
            shim.publish_sum(exchange, to + row * units, add_up(partial, at, split_warps), sum_tag(turn))
            row += shim.threads() // units

    @shim.device
    def look(part: Any, words: Any, source: Any, size: Any, parts: Any, tag: Any) -> None:
        if part < parts:
            words[part], found = shim.look_sum(source, part * size)
            words[MOST_PARTS] = shim.differ(words[MOST_PARTS], found, tag)

    look_at_all = unrolled(look, MOST_PARTS)

    @shim.device
    def add(part: Any, words: Any, total: Any, parts: Any, _: Any, __: Any) -> None:
        if part < parts:
            total[0] += shim.word_as_float(words[part])

    add_all = unrolled(add, MOST_PARTS)

    @shim.device
    def receive(exchange: Any, turn: Any, slot_sums: Any, at: Any, size: Any, parts: Any) -> Any:
        words, total = cuda.local.array(received, uint32), cuda.local.array(1, float32)
        source, tag = shim.advance(exchange, (turn & 1) * slot_sums + at, 8), sum_tag(turn)
        looks, waits = 0, True
        while waits:
            words[MOST_PARTS] = uint32(0)
            look_at_all(int64(0), words, source, size, parts, tag)
            waits = shim.late(words[MOST_PARTS], _SUM_TAG)
            looks += 1
            if looks > MOST_LOOKS:
                shim.give_up()
        total[0] = float32(0)
        add_all(int64(0), words, total, parts, parts, parts)
        return total[0]

    return send, receive


def of_partition(partition: Partition) -> tuple[int, ...]:
    return (
        partition.unit_warps,
        partition.split_warps,
        partition.stored,
        partition.blocks,
        partition.rows,
    )


def exchange_of(partition: Partition) -> Any:
    """Where the blocks of a set exchange their sums: two slots."""
    if partition.parts == 1:
        return None
    return arrays.zeros((2 * partition.groups * partition.blocks * partition.rows * partition.units,), np.uint64)


def launch(kernel: Any, partition: Partition, shared: int, memory: tuple[Any, ...], numbers: tuple[int, ...]) -> None:
    waits = partition.blocks > 1  # else no block waits for another
    pointers = [shim.pointer(None if array is None else array.reshape(-1)) for array in memory]

    def run() -> None:
        kernel.launch(
            (partition.blocks, partition.groups),
            partition.threads,
            (*pointers, *numbers),
            shared=shared,
            stream=arrays.stream_pointer(),
            cooperative=waits,
        )

    streams.turn(run) if waits else run()
