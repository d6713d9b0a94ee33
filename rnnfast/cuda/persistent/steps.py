"""What the kernels of both directions share: the hand-over, sums, and the launch."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any

import numpy as np

from .. import arrays, shim, streams
from ..plan import Orientation, Partition
from ..shim import float32, int64
from .layout import AT_SUM_STORED, low

__all__ = [
    "COUNTER_STRIDE",
    "adder",
    "arrive",
    "blanker",
    "exchange_of",
    "exchanger",
    "launch",
    "of_counters",
    "of_partition",
    "wait",
    "zeroed_counters",
]

MOST_PARTS = 8
COUNTER_STRIDE = 32  # int32: a group's counter has a cache line of its own


@shim.device
def arrive(counters: Any, group: Any, blocks: Any) -> None:
    """The block has written its part of a step."""
    shim.sync()
    if blocks > 1 and shim.thread() == 0:
        shim.release_add(counters, group * COUNTER_STRIDE)


@shim.device
def wait(counters: Any, group: Any, blocks: Any, step: Any) -> None:
    """All blocks of the group have arrived `step` times."""
    if blocks > 1:
        if shim.thread() == 0:
            while shim.acquire(counters, group * COUNTER_STRIDE) < step * blocks:
                pass
        shim.sync()


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

    In the exchange lie the rows of a group for each of its blocks, of as many sums as a set has units. The sums of a
    step are overwritten in the next, which begins when all blocks of the group have finished this one. The blocks'
    sums are added in the order of the blocks.
    """
    stride, add_up = orientation.row_stride(1), adder(orientation, 1)

    @shim.device
    def send(
        exchange: Any, tile: Any, rows: Any, group_rows: Any, units: Any, partial: Any, memory: Any, split_warps: Any
    ) -> None:
        row = int64(shim.thread()) // units
        block = int64(shim.group()) * shim.blocks() + shim.block()
        to = (block * group_rows + tile) * units + shim.thread() % units
        while row < rows:
            at = low(partial, memory + AT_SUM_STORED) + row * stride
            shim.store(exchange, to + row * units, add_up(partial, at, split_warps))
            row += shim.threads() // units

    @shim.device
    def receive(exchange: Any, at: Any, size: Any, parts: Any) -> Any:
        total = shim.load(exchange, at)
        for part in range(1, MOST_PARTS):  # all loads at once
            if part < parts:
                total += shim.load(exchange, at + part * size)
        return total

    return send, receive


@functools.cache
def blanker(store: Any) -> Any:
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


def of_partition(partition: Partition) -> tuple[int, ...]:
    return (
        partition.unit_warps,
        partition.split_warps,
        partition.stored,
        partition.blocks,
        partition.rows,
    )


def zeroed_counters(partition: Partition, calls: int) -> Any:
    """The counters of so many calls, a row of int32 zeros for each: of groups, and behind them of sets, if any."""
    sets = partition.groups * partition.sets if partition.parts > 1 else 0
    return arrays.zeros((calls, (partition.groups + sets) * COUNTER_STRIDE), np.int32)


def of_counters(counters: Any, partition: Partition) -> tuple[Any, Any]:
    """A call's counters of groups and of sets."""
    groups = partition.groups * COUNTER_STRIDE
    return counters[:groups], None if partition.parts == 1 else counters[groups:]


def exchange_of(partition: Partition) -> Any:
    """Where the blocks of a set exchange their sums."""
    if partition.parts == 1:
        return None
    return arrays.empty((partition.groups * partition.blocks * partition.rows * partition.units,))


def launch(kernel: Any, partition: Partition, shared: int, memory: tuple[Any, ...], numbers: tuple[int, ...]) -> None:
    waits = partition.blocks > 1  # else no block waits for another
    pointers = [shim.pointer(None if array is None else array.reshape(-1)) for array in memory]
    with streams.turn() if waits else nullcontext():
        kernel.launch(
            (partition.blocks, partition.groups),
            partition.threads,
            (*pointers, *numbers),
            shared=shared,
            stream=arrays.stream_pointer(),
            cooperative=waits,
        )
