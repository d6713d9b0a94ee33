"""Where things lie in a block's shared memory.

The block's turn, the warps' sums, then what each thread remembers, then forward the biases, then the stored weights:
`plan.Partition.shared_bytes` counts them.
"""

from __future__ import annotations

import functools
from typing import Any

from .. import shim
from ..plan import WORDS_BACKWARD, WORDS_FORWARD, WORDS_OF_BLOCK, Orientation
from ..shim import int64

__all__ = ["AT_TURN", "THREADS", "high", "low", "memory_of", "placer"]

AT_TURN = 0  # one word of the block: the turn of its first step

# What a thread remembers in shared memory, behind the sums: the places of its words, each a word of every thread.
THREADS = 256
# The first is its element's place. Two words hold two numbers below 2^16 each, which `low` and `high` take apart.
AT_SUM_STORED, AT_FRAGMENT_LANE, AT_STEP, AT_TILE = (n * THREADS for n in range(1, 5))
AT_X, AT_H, AT_C = (n * THREADS for n in (5, 9, 10))  # forward: of four gates, and the states
AT_DH, AT_DC, AT_DY, AT_KEPT, AT_USED = (n * THREADS for n in (5, 6, 7, 8, 12))  # backward
AT_SET, AT_ROW_STEP = (n * THREADS for n in (13, 14))
AT_BIASES, AT_END = WORDS_FORWARD * THREADS, WORDS_BACKWARD * THREADS


@shim.device
def low(partial: Any, at: Any) -> Any:
    """The lower half of a remembered word."""
    return shim.recall(partial, at) & 65535


@shim.device
def high(partial: Any, at: Any) -> Any:
    """The upper half."""
    return shim.recall(partial, at) >> 16


@functools.cache
def memory_of(tiles: int, orientation: Orientation) -> Any:
    """A device function: where in the block's shared memory the first word is that a thread remembers."""
    warp_stride = orientation.warp_stride(tiles)

    @shim.device
    def memory() -> Any:
        return WORDS_OF_BLOCK + shim.threads() // 32 * warp_stride + int64(shim.thread())

    return memory


@functools.cache
def placer(words: int, tiles: int, orientation: Orientation) -> Any:
    """A device function: remembers a thread's places.

    ``(partial, memory, weights, unit_warps, split_warps, fragments, stored, parts)``
    Which element it finishes, as ``64 unit + row``; where its sums are; at which fragment its warp's part of K begins,
    and where the lane's sums go; and where the lane's stored weights are, all of which begin at `weights`. Of a
    fragment's weights a lane has so many `words` for each of its units.
    """
    tile_units, warp_stride = orientation.units, orientation.warp_stride(tiles)
    left, right = orientation.sum_steps(tiles)
    size = tiles * words * (tile_units // 8)  # of a lane's weights of a fragment

    @shim.device
    def place(
        partial: Any,
        memory: Any,
        weights: Any,
        unit_warps: Any,
        split_warps: Any,
        fragments: Any,
        stored: Any,
        parts: Any,
    ) -> None:
        tid, block, units = int64(shim.thread()), int64(shim.block()), tile_units * unit_warps
        own, warp, lane = tid % units, tid // 32, tid % 32
        own_sums = WORDS_OF_BLOCK + own // tile_units * split_warps * warp_stride + own % tile_units
        own_weights = weights + warp * 32 * stored * size + lane * words
        shim.remember(partial, memory + AT_SUM_STORED, own_sums + own_weights * 65536)
        units //= parts
        shim.remember(partial, memory, (block * units + tid % units) * 64 + tid // units)
        first = block % parts * split_warps + warp % split_warps
        sums = WORDS_OF_BLOCK + warp * warp_stride + lane // 4 * left + lane % 4 * 2 * right
        shim.remember(partial, memory + AT_FRAGMENT_LANE, first * (fragments + stored) + sums * 65536)

    return place
