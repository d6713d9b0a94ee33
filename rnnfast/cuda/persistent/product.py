"""The product of a step: rows from global memory times the weights that a warp keeps.

What differs by precision is in `ARITHMETIC`, what differs by orientation in `_sides`; the order of K and of the rows is
the package's. A *quad* is four neighbours along K of one row or one unit: of a fragment of 16 a lane has the quad
number ``lane % 4`` of the row or unit ``lane // 4``; of the left operand's 16 also that of the one 8 further on.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from .. import shim
from ..plan import ROWS_LEFT, WEIGHTS_LEFT, Orientation, stored_at_once
from ..sequence import stored_dtype
from ..shim import cuda, float32, int64, uint32
from .layout import AT_K_LANE, AT_SUM_STORED, high, low

__all__ = ["ARITHMETIC", "product_of", "unrolled"]

_LEAF = 4  # rounds of a loop that stand one after the other


class _Arithmetic(NamedTuple):
    """What differs by precision, as device functions."""

    words: int
    """The registers of a quad of weights,"""
    word: Any
    """and their type."""
    load: Any
    store: Any
    """A stored element: (pointer, index) and (pointer, index, value)."""
    row: Any
    """``(pointer, k) -> quad`` of a row,"""
    unit: Any
    """and ``(weights, w) -> quad`` of a unit, as operands."""
    keep: Any
    """``(weights, w, packed, i)``: takes a quad of weights into registers,"""
    keep_shared: Any
    """and ``(weights, w, shared, i)`` from the word i of shared memory."""
    multiply: Any
    """``(upper, lower, right, c0, c1, c2, c3) -> c``: the products of a fragment's quads added to a tile."""


@shim.device
def _store_tf32(p: Any, i: Any, value: Any) -> None:
    shim.store(p, i, shim.round_tf32(value))


@shim.device
def _unit_tf32(weights: Any, w: Any) -> Any:
    return weights[w], weights[w + 1], weights[w + 2], weights[w + 3]


@shim.device
def _unit_bf16(weights: Any, w: Any) -> Any:
    return weights[w], weights[w + 1]


@shim.device
def _parts(a: Any, b: Any, c: Any, d: Any) -> Any:
    """What tf32 keeps of a quad, and the rest."""
    h = shim.high_part(a), shim.high_part(b), shim.high_part(c), shim.high_part(d)
    return h, (a - h[0], b - h[1], c - h[2], d - h[3])


@shim.device
def _row_float32(p: Any, k: Any) -> Any:
    a, b, c, d = shim.load4(p, k)
    return _parts(a, b, c, d)


@shim.device
def _unit_float32(weights: Any, w: Any) -> Any:
    return _parts(weights[w], weights[w + 1], weights[w + 2], weights[w + 3])


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
def _multiply_tf32(upper: Any, lower: Any, right: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    c = shim.mma_tf32(upper[0], lower[0], upper[1], lower[1], right[0], right[1], c0, c1, c2, c3)
    return shim.mma_tf32(upper[2], lower[2], upper[3], lower[3], right[2], right[3], c[0], c[1], c[2], c[3])


@shim.device
def _multiply_bf16(upper: Any, lower: Any, right: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    return shim.mma_bf16(upper[0], lower[0], upper[1], lower[1], right[0], right[1], c0, c1, c2, c3)


@shim.device
def _multiply_float32(upper: Any, lower: Any, right: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    c = _multiply_tf32(upper[1], lower[1], right[0], c0, c1, c2, c3)
    c = _multiply_tf32(upper[0], lower[0], right[1], c[0], c[1], c[2], c[3])
    return _multiply_tf32(upper[0], lower[0], right[0], c[0], c[1], c[2], c[3])


_FLOAT = _keep_float, _keep_shared_float
_BFLOAT16 = shim.load2_words, _unit_bf16, _keep_bf16, _keep_shared_bf16
ARITHMETIC = {
    "float32": _Arithmetic(4, float32, shim.load, shim.store, _row_float32, _unit_float32, *_FLOAT, _multiply_float32),
    "tf32": _Arithmetic(4, float32, shim.load, _store_tf32, shim.load4, _unit_tf32, *_FLOAT, _multiply_tf32),
    "bfloat16": _Arithmetic(2, uint32, shim.load_bf16, shim.store_bf16, *_BFLOAT16, _multiply_bf16),
}


@functools.cache
def _sides(precision: str, orientation: Orientation) -> tuple[Any, Any]:
    """Two device functions: take a fragment of the lane's rows, and multiply it by a tile of the warp's weights.

    ``(upper, lower, k) -> rows``, from pointers to the lane's row and to the one 8 further on; and
    ``(rows, weights, w, c0, c1, c2, c3) -> c``.
    """
    words, row, unit, multiply = (getattr(ARITHMETIC[precision], name) for name in ("words", "row", "unit", "multiply"))

    @shim.device
    def two_rows(upper: Any, lower: Any, k: Any) -> Any:
        return row(upper, k), row(lower, k)

    @shim.device
    def by_right(rows: Any, weights: Any, w: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
        return multiply(rows[0], rows[1], unit(weights, w), c0, c1, c2, c3)

    @shim.device
    def one_row(upper: Any, lower: Any, k: Any) -> Any:
        return row(upper, k)

    @shim.device
    def by_left(rows: Any, weights: Any, w: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
        return multiply(unit(weights, w), unit(weights, w + words), rows, c0, c1, c2, c3)

    return (two_rows, by_right) if orientation == ROWS_LEFT else (one_row, by_left)


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
def product_of(precision: str, tiles: int, fragments: int, orientation: Orientation) -> Any:
    """A device function: rows times the warp's weights, written to the warp's part of shared memory.

    ``(weights, source, row, columns, rows, partial, memory, stored)``: `rows` rows of `source` from number `row` on,
    each of `columns` elements; where the lane's part of them begins, its sums go and its stored weights are, the thread
    remembers at `memory`.
    """
    element = stored_dtype(precision).itemsize
    size, tile_rows, stride = orientation.words(precision), orientation.rows, orientation.row_stride(tiles)
    # Four chains of sums hide the tensor cores' latency, where there are registers for them: with the rows left, whose
    # fragments are twice as large, four beside 64 weights spill, and two beside 128.
    count = max(1, 4 // tiles)
    if orientation == ROWS_LEFT:
        count = max(1, min(fragments, count, 128 // (size * fragments * tiles)))
    take, multiply = _sides(precision, orientation)
    one_block, add_stored = orientation == WEIGHTS_LEFT, _stored_part(precision, tiles, fragments)
    clear, add_chains = _chains(tiles, count, orientation)

    @shim.device
    def fragment(j: Any, weights: Any, upper: Any, lower: Any, sums: Any, _: Any) -> None:
        rows = take(upper, lower, 16 * j)
        for tile in range(tiles):
            o = ((j % count) * tiles + tile) * 4
            c = multiply(rows, weights, (j * tiles + tile) * size, sums[o], sums[o + 1], sums[o + 2], sums[o + 3])
            sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = c

    every, sums_size = unrolled(fragment, fragments), count * tiles * 4

    @shim.device
    def add_both(weights: Any, upper: Any, lower: Any, sums: Any, partial: Any, memory: Any, stored: Any) -> None:
        # Of a scheduler's two warps one begins with what is stored: its reading goes on beside the other's products.
        half = int64(shim.thread()) // 128 % 2
        end = half + 2
        while half < shim.anew(end):
            if half % 2 == 0:
                every(int64(0), weights, upper, lower, sums, sums)
            else:
                add_stored(upper, sums, partial, high(partial, memory + AT_SUM_STORED), stored)
            half += 1

    @shim.device
    def product(
        weights: Any, source: Any, row: Any, columns: Any, rows: Any, partial: Any, memory: Any, stored: Any
    ) -> None:
        first, end = 0, 1 if one_block else rows  # the rows that come at once are one tile in one block, else two
        while first < end:
            upper, lower = lane_rows(source, row, first, rows, columns, low(partial, memory + AT_K_LANE), element)
            sums = cuda.local.array(sums_size, float32)
            clear(sums)
            if one_block:
                add_both(weights, upper, lower, sums, partial, memory, stored)
            else:
                every(int64(0), weights, upper, lower, sums, sums)
            add_chains(sums, partial, high(partial, memory + AT_K_LANE) + first * stride)
            first += tile_rows

    return product


@functools.cache
def _stored_part(precision: str, tiles: int, fragments: int) -> Any:
    """A device function: the lane's row times the weights that the warp has in shared memory, of one block.

    A loop, because nothing in registers is indexed by its variable; unrolled by the compiler it spills.
    """
    arithmetic, size, count = ARITHMETIC[precision], WEIGHTS_LEFT.words(precision), stored_at_once(tiles)
    word, words, row, keep = arithmetic.word, arithmetic.words, arithmetic.row, arithmetic.keep_shared
    multiply = _sides(precision, WEIGHTS_LEFT)[1]

    @shim.device
    def tile(i: Any, operand: Any, sums: Any, partial: Any, at: Any, chain: Any) -> None:
        weights, o = cuda.local.array(size, word), (chain * tiles + i) * 4
        keep(weights, 0, partial, at + i * 32 * size)
        keep(weights, words, partial, at + i * 32 * size + 32 * words)
        c = multiply(operand, weights, 0, sums[o], sums[o + 1], sums[o + 2], sums[o + 3])
        sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = c

    every_tile = unrolled(tile, tiles)

    @shim.device
    def fragment(chain: Any, source: Any, k: Any, sums: Any, partial: Any, at: Any) -> None:
        operand = row(source, k + 16 * chain)
        every_tile(int64(0), operand, sums, partial, at + chain * tiles * 32 * size, chain)

    every = unrolled(fragment, count)

    @shim.device
    def add_stored(source: Any, sums: Any, partial: Any, at: Any, stored: Any) -> None:
        j = 0
        while j < shim.anew(stored):
            every(int64(0), source, 16 * (fragments + j), sums, partial, at + j * tiles * 32 * size)
            j += count

    return add_stored


@functools.cache
def _chains(tiles: int, count: int, orientation: Orientation) -> tuple[Any, Any]:
    """Two device functions on a lane's sums: clear them; add the chains up, into shared memory."""
    left, right = orientation.sum_steps(tiles)
    units, size = orientation.units, count * tiles * 4

    @shim.device
    def clear(sums: Any) -> None:
        for i in range(size):
            sums[i] = float32(0)

    @shim.device
    def add_up(sums: Any, partial: Any, at: Any) -> None:
        for tile in range(tiles):
            for q in range(4):
                total = sums[tile * 4 + q]
                for chain in range(1, count):
                    total += sums[(chain * tiles + tile) * 4 + q]
                shim.store_shared(partial, at + 8 * (q // 2) * left + q % 2 * right + units * tile, total)

    return clear, add_up
