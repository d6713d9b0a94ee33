"""The product of a step: rows from global memory times the weights that a warp keeps.

What differs by precision is in `ARITHMETIC`; the order of K and of the rows is the package's.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from .. import shim
from ..plan import row_stride
from ..sequence import stored_dtype
from ..shim import cuda, float32, int64, uint32
from .layout import AT_K_LANE, AT_SUM_STORED, high, low

__all__ = ["ARITHMETIC", "product_of", "unrolled"]

_LEAF = 4  # rounds of a loop that stand one after the other


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
    """``(upper, lower, k) -> a``: 16 x 16 of the left operand, from pointers to the lane's two rows."""
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
def _rows_float(upper: Any, lower: Any, k: Any) -> Any:
    return shim.load4(upper, k), shim.load4(lower, k)


@shim.device
def _rows_bf16(upper: Any, lower: Any, k: Any) -> Any:
    return shim.load2_words(upper, k), shim.load2_words(lower, k)


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
ARITHMETIC = {
    "float32": _Arithmetic(4, float32, shim.load, shim.store, *_FLOAT, _multiply_float32),
    "tf32": _Arithmetic(4, float32, shim.load, _store_tf32, *_FLOAT, _multiply_tf32),
    "bfloat16": _Arithmetic(2, uint32, shim.load_bf16, shim.store_bf16, *_BFLOAT16, _multiply_bf16),
}


def unrolled(body: Any, count: int) -> Any:
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
    left = unrolled(body, half)
    right = left if count == 2 * half else unrolled(body, count - half)

    @shim.device
    def both(first: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
        left(first, a, b, c, d, e)
        right(first + half, a, b, c, d, e)

    return both


@shim.device
def lane_rows(source: Any, row: Any, first: Any, rows: Any, columns: Any, k: Any, size: Any) -> Any:
    """Pointers to the lane's two rows of the 16 from `first` on, at k; a row beyond the last is the last."""
    group = first + int64(shim.thread()) % 32 // 4
    upper, lower = row + min(group, rows - 1), row + min(group + 8, rows - 1)
    return shim.advance(source, upper * columns + k, size), shim.advance(source, lower * columns + k, size)


@functools.cache
def product_of(precision: str, tiles: int, fragments: int) -> Any:
    """A device function: up to 32 rows times the warp's weights, written to the warp's part of shared memory.

    ``(weights, source, row, columns, rows, partial, memory, turns)``: `rows` rows of `source` from number `row` on,
    each of `columns` elements; where the lane's part of them begins, its sums go and its second turn's weights are, the
    thread remembers at `memory`.
    """
    first_turn = _turn_of_registers(precision, tiles, fragments)
    second_turn = _turn_of_shared_memory(precision, tiles, fragments)
    stride, element = row_stride(tiles), stored_dtype(precision).itemsize

    @shim.device
    def product(
        weights: Any, source: Any, row: Any, columns: Any, rows: Any, partial: Any, memory: Any, turns: Any
    ) -> None:
        first = 0
        while first < rows:
            upper, lower = lane_rows(source, row, first, rows, columns, low(partial, memory + AT_K_LANE), element)
            first_turn(weights, upper, lower, partial, memory, first)
            first += 16
        # A loop of its own: in the one above its variables would be beside the weights.
        first = 0
        while first < rows and turns > 1:
            upper, lower = lane_rows(source, row, first, rows, columns, low(partial, memory + AT_K_LANE), element)
            to = high(partial, memory + AT_K_LANE) + (first + shim.threads()) * stride
            second_turn(upper, lower, partial, to, high(partial, memory + AT_SUM_STORED), turns)
            first += 16

    return product


def _turn_of_registers(precision: str, tiles: int, fragments: int) -> Any:
    """A device function: 16 rows times the weights that the warp has in registers."""
    arithmetic = ARITHMETIC[precision]
    words, rows_of, multiply = arithmetic.words, arithmetic.rows, arithmetic.multiply
    # Several chains of sums hide the tensor cores' latency, where there are registers for them: four chains beside 64
    # weights spill, and two beside 128.
    chains = max(1, min(fragments, 4 // tiles, 128 // (words * fragments * tiles)))
    clear, add_chains = _chains(tiles, chains)
    stride = row_stride(tiles)

    @shim.device
    def fragment(j: Any, weights: Any, upper: Any, lower: Any, sums: Any, _: Any) -> None:
        a = rows_of(upper, lower, 16 * j)
        for tile in range(tiles):
            o = ((j % chains) * tiles + tile) * 4
            c = multiply(a, weights, (j * tiles + tile) * words, sums[o], sums[o + 1], sums[o + 2], sums[o + 3])
            sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = c

    every, size = unrolled(fragment, fragments), chains * tiles * 4

    @shim.device
    def sixteen(weights: Any, upper: Any, lower: Any, partial: Any, memory: Any, first: Any) -> None:
        sums = cuda.local.array(size, float32)
        clear(sums)
        every(int64(0), weights, upper, lower, sums, sums)
        add_chains(sums, partial, high(partial, memory + AT_K_LANE) + first * stride)

    return sixteen


def _turn_of_shared_memory(precision: str, tiles: int, fragments: int) -> Any:
    """A device function: 16 rows times the weights that the warp has in shared memory, if there is a second turn.

    A loop, because nothing in registers is indexed by its variable; its end depends on `turns`, lest the compiler
    unroll all of it. More than one chain of sums spills.
    """
    arithmetic = ARITHMETIC[precision]
    words, rows_of, multiply = arithmetic.words, arithmetic.rows, arithmetic.multiply
    word, keep, size = arithmetic.word, arithmetic.keep_shared, 4 * tiles
    clear, add_chains = _chains(tiles, 1)

    @shim.device
    def sixteen(upper: Any, lower: Any, partial: Any, at: Any, stored: Any, turns: Any) -> None:
        sums, weights = cuda.local.array(size, float32), cuda.local.array(words, word)
        clear(sums)
        j = 0
        while j < (turns - 1) * fragments:
            a = rows_of(upper, lower, 16 * j)
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
