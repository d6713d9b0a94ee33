"""Where things lie in a block's shared memory.

The warps' sums, then what each thread remembers, then forward the biases, then the weights of the second turn:
`plan.Partition.shared_bytes` counts them.
"""

from __future__ import annotations

import functools
from typing import Any

from .. import shim
from ..plan import WORDS_BACKWARD, WORDS_FORWARD, row_stride
from ..shim import int64

__all__ = ["ROWS_AT_ONCE", "THREADS", "high", "low", "placer"]

ROWS_AT_ONCE = 32

# What a thread remembers in shared memory, behind the sums: the places of its words, each a word of every thread.
THREADS = 256
# The first is its element's place. Two words hold two numbers below 2^16 each, which `low` and `high` take apart.
AT_SUM_STORED, AT_K_LANE, AT_STEP, AT_TILE = (n * THREADS for n in range(1, 5))
AT_X, AT_H, AT_C = (n * THREADS for n in (5, 9, 10))  # forward: of four gates, and the states
AT_DH, AT_DC, AT_DY, AT_KEPT, AT_USED, AT_SET, AT_SET_COUNTER = (n * THREADS for n in (5, 6, 7, 8, 12, 13, 14))
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
def placer(words: int, tiles: int, fragments: int) -> Any:
    """A device function: remembers a thread's places.

    ``(partial, memory, stored, unit_warps, split_warps, turns, parts)``
    Which element it finishes, as ``64 unit + row``; where its sums are; where its lane's part of K begins, and where
    the lane's sums go; and where the lane's weights of the second turn are, all of which begin at `stored`. A
    fragment has so many `words` for each thread.
    """
    stride, size = row_stride(tiles), tiles * fragments * words

    @shim.device
    def place(
        partial: Any, memory: Any, stored: Any, unit_warps: Any, split_warps: Any, turns: Any, parts: Any
    ) -> None:
        tid, block, units = int64(shim.thread()), int64(shim.block()), 8 * unit_warps * turns
        own, warp, lane = tid % units, tid // 32, tid % 32
        own_sums = own // 8 * split_warps * ROWS_AT_ONCE * stride + own % 8
        own_weights = stored + warp * 32 * size + lane * words
        shim.remember(partial, memory + AT_SUM_STORED, own_sums + own_weights * 65536)
        units //= parts
        shim.remember(partial, memory, (block * units + tid % units) * 64 + tid // units)
        first = block % parts * split_warps + warp % split_warps
        k, sums = first * fragments * 16 + 4 * (lane % 4), (warp * ROWS_AT_ONCE + lane // 4) * stride + 2 * (lane % 4)
        shim.remember(partial, memory + AT_K_LANE, k + sums * 65536)

    return place
