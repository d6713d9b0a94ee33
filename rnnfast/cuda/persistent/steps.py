"""What the kernels of both directions share: the hand-over, sums, and the launch."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import arrays, shim
from ..plan import Partition
from ..sequence import Masks
from ..shim import float32
from .layout import ROWS_AT_ONCE

__all__ = [
    "COUNTER_STRIDE",
    "adder",
    "arrive",
    "blanker",
    "counters_of",
    "launch",
    "of_masks",
    "of_partition",
    "wait",
]

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
def adder(stride: int) -> Any:
    """A device function: the sum of the warps that split K, in their order."""

    @shim.device
    def add_up(partial: Any, at: Any, split_warps: Any) -> Any:
        total = partial[at]
        for warp in range(1, 8):  # all loads at once; a loop up to split_warps would wait for each
            if warp < split_warps:
                total += partial[at + warp * ROWS_AT_ONCE * stride]
        return total

    return add_up


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


def of_masks(masks: Masks) -> tuple[Any, ...]:
    return masks.lengths, masks.resets, masks.reset_h, masks.reset_c


def of_partition(partition: Partition) -> tuple[int, ...]:
    return partition.unit_warps, partition.split_warps, partition.turns, partition.blocks, partition.rows


def counters_of(partition: Partition) -> Any:
    return arrays.zeros((partition.groups * COUNTER_STRIDE,), np.int32)


def launch(kernel: Any, partition: Partition, shared: int, memory: tuple[Any, ...], numbers: tuple[int, ...]) -> None:
    pointers = [shim.pointer(None if array is None else array.reshape(-1)) for array in memory]
    kernel.launch(
        (partition.blocks, partition.groups),
        partition.threads,
        (*pointers, *numbers),
        shared=shared,
        stream=arrays.stream_pointer(),
        cooperative=True,
    )
