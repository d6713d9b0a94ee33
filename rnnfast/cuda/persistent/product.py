"""The product of a step: rows from global memory times the weights that a warp keeps.

What differs by precision is in `ARITHMETIC`, what differs by orientation in `product_of`; the order of K and of the
rows is the package's. A *quad* is four neighbours along K of one row or one unit: of a fragment of 16 a lane has the
quad number ``lane % 4`` of the row or unit ``lane // 4``; of the left operand's 16 also that of the one 8 further on.

The rows' words lie in the ring in the order in which the lanes take them (`ring.placer`): a lane's 16 bytes are what
one operation of a tensor core takes from it, in the order of its registers, so that nothing is moved.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from .. import shim
from ..plan import ROWS_LEFT, WEIGHTS_LEFT, Orientation, stored_at_once
from ..shim import cuda, float32, int64, uint32
from .layout import AT_FRAGMENT_LANE, AT_SUM_STORED, high, low

__all__ = ["ARITHMETIC", "MOST_LOOKS", "product_of", "unrolled"]

_LEAF = 4  # rounds of a loop that stand one after the other
_AT_ONCE = 4  # fragments whose words a warp of several blocks reads before it looks at their tags
MOST_LOOKS = 1 << 24  # at the same words: some seconds. A launch that failed says more than one that never ends.


class _Arithmetic(NamedTuple):
    """What differs by precision, as device functions."""

    words: int
    """The registers of a quad of weights,"""
    word: Any
    """and their type."""
    load: Any
    store: Any
    """A stored element: (pointer, index) and (pointer, index, value)."""
    seal: Any
    """``(value, tag) -> word``: an element of the ring,"""
    tag_mask: int
    """of which these bits are the tag."""
    row: Any
    """``(word, word, word, word) -> quad`` of a row,"""
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
def _row_float32(a: Any, b: Any, c: Any, d: Any) -> Any:
    return _parts(shim.unsealed(a), shim.unsealed(b), shim.unsealed(c), shim.unsealed(d))


@shim.device
def _row_tf32(a: Any, b: Any, c: Any, d: Any) -> Any:
    return shim.word_as_float(a), shim.word_as_float(b), shim.word_as_float(c), shim.word_as_float(d)


@shim.device
def _row_bf16(a: Any, b: Any, c: Any, d: Any) -> Any:
    return shim.upper_halves(a, b), shim.upper_halves(c, d)


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
_SEALS = (shim.seal_float32, 1), (shim.seal_tf32, 0xFFF), (shim.seal_bf16, 0xFFFF)
_ROWS = _row_float32, _row_tf32, _row_bf16
_WORDS_BF16 = _unit_bf16, _keep_bf16, _keep_shared_bf16
ARITHMETIC = {
    "float32": _Arithmetic(
        4, float32, shim.load, shim.store, *_SEALS[0], _ROWS[0], _unit_float32, *_FLOAT, _multiply_float32
    ),
    "tf32": _Arithmetic(4, float32, shim.load, _store_tf32, *_SEALS[1], _ROWS[1], _unit_tf32, *_FLOAT, _multiply_tf32),
    "bfloat16": _Arithmetic(
        2, uint32, shim.load_bf16, shim.store_bf16, *_SEALS[2], _ROWS[2], *_WORDS_BF16, _multiply_bf16
    ),
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


@functools.cache
def product_of(precision: str, tiles: int, fragments: int, orientation: Orientation) -> Any:
    """A device function: rows times the warp's weights, written to the warp's part of shared memory.

    ``(weights, ring, tile_words, rows, tag, partial, memory, stored)``: `rows` rows, of which the tiles in the ring
    begin at a pointer, so many words from each other. Where the lane's part of K begins, its sums go and its stored
    weights are, the thread remembers at `memory`. Several blocks: each word is waited for until it has the tag.
    """
    size, tile_rows, stride = orientation.words(precision), orientation.rows, orientation.row_stride(tiles)
    # Four chains of sums hide the tensor cores' latency, where there are registers for them: with the rows left, whose
    # fragments are twice as large, four beside 64 weights spill, and two beside 128.
    count = max(1, 4 // tiles)
    if orientation == ROWS_LEFT:
        count = max(1, min(fragments, count, 128 // (size * fragments * tiles)))
    row, unit, words, multiply = (getattr(ARITHMETIC[precision], name) for name in ("row", "unit", "words", "multiply"))
    one_block, add_stored = orientation == WEIGHTS_LEFT, _stored_part(precision, tiles, fragments)
    clear, add_chains = _chains(tiles, count, orientation)
    fragment_words, sums_size = 16 * tile_rows, count * tiles * 4

    @shim.device
    def by_left(j: Any, weights: Any, source: Any, sums: Any, _: Any, __: Any) -> None:
        a, b, c, d = shim.load4_words(source, fragment_words * j)
        rows = row(a, b, c, d)
        for tile in range(tiles):
            o, w = ((j % count) * tiles + tile) * 4, (j * tiles + tile) * size
            upper, lower = unit(weights, w), unit(weights, w + words)
            r = multiply(upper, lower, rows, sums[o], sums[o + 1], sums[o + 2], sums[o + 3])
            sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = r

    every_left = unrolled(by_left, fragments)
    at_once = min(fragments, _AT_ONCE)

    @shim.device
    def look(j: Any, taken: Any, source: Any, found: Any, tag: Any, _: Any) -> None:
        o = 8 * j
        for half in range(2):
            a, b, c, d = shim.look4(source, fragment_words * j + 128 * half)
            taken[o + 4 * half], taken[o + 4 * half + 1], taken[o + 4 * half + 2], taken[o + 4 * half + 3] = a, b, c, d
            found[0] = shim.differ(shim.differ(found[0], a, tag), c, tag)
            found[1] = shim.differ(shim.differ(found[1], b, tag), d, tag)

    @shim.device
    def by_right(j: Any, weights: Any, taken: Any, sums: Any, first: Any, _: Any) -> None:
        o = 8 * j
        upper = row(taken[o], taken[o + 2], taken[o + 4], taken[o + 6])
        lower = row(taken[o + 1], taken[o + 3], taken[o + 5], taken[o + 7])
        for tile in range(tiles):
            o, w = ((j % count) * tiles + tile) * 4, ((first + j) * tiles + tile) * size
            r = multiply(upper, lower, unit(weights, w), sums[o], sums[o + 1], sums[o + 2], sums[o + 3])
            sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = r

    look_at_all, multiply_all, taken_words = unrolled(look, at_once), unrolled(by_right, at_once), 8 * at_once
    tag_mask = ARITHMETIC[precision].tag_mask

    @shim.device
    def when_there(n: Any, weights: Any, source: Any, sums: Any, tag: Any, rows: Any) -> None:
        """The next fragments, as soon as all of their words have the tag; those of rows that are not there never do."""
        taken, found = cuda.local.array(taken_words, uint32), cuda.local.array(2, uint32)
        here = shim.advance(source, n * at_once * fragment_words, 4)
        row, looks = int64(shim.thread()) % 32 // 4, 0
        waits = True
        while waits:
            found[0], found[1] = uint32(0), uint32(0)
            look_at_all(int64(0), taken, here, found, tag, tag)
            upper, lower = shim.late(found[0], tag_mask), shim.late(found[1], tag_mask)
            waits = shim.any_lane((upper & (row < rows)) | (lower & (row + 8 < rows)))
            looks += 1
            if looks > MOST_LOOKS:
                shim.give_up()
        multiply_all(int64(0), weights, taken, sums, n * at_once, tag)

    every_right = unrolled(when_there, fragments // at_once)

    @shim.device
    def add_both(weights: Any, source: Any, sums: Any, partial: Any, memory: Any, stored: Any) -> None:
        # Of a scheduler's two warps one begins with what is stored: its reading goes on beside the other's products.
        half = int64(shim.thread()) // 128 % 2
        end = half + 2
        while half < shim.anew(end):
            if half % 2 == 0:
                every_left(int64(0), weights, source, sums, sums, sums)
            else:
                add_stored(source, sums, partial, high(partial, memory + AT_SUM_STORED), stored)
            half += 1

    @shim.device
    def product(
        weights: Any, ring: Any, tile_words: Any, rows: Any, tag: Any, partial: Any, memory: Any, stored: Any
    ) -> None:
        at = low(partial, memory + AT_FRAGMENT_LANE) * fragment_words + int64(shim.thread()) % 32 * 4
        first, end = 0, 1 if one_block else rows  # the rows that come at once are one tile in one block, else two
        while first < end:
            source = shim.advance(ring, at + first // tile_rows * tile_words, 4)
            sums = cuda.local.array(sums_size, float32)
            clear(sums)
            if one_block:
                add_both(weights, source, sums, partial, memory, stored)
            else:
                every_right(int64(0), weights, source, sums, tag, rows - first)
            add_chains(sums, partial, high(partial, memory + AT_FRAGMENT_LANE) + first * stride)
            first += tile_rows

    return product


@functools.cache
def _stored_part(precision: str, tiles: int, fragments: int) -> Any:
    """A device function: the lane's row times the weights that the warp has in shared memory, of one block.

    A loop, because nothing in registers is indexed by its variable; unrolled by the compiler it spills.
    """
    arithmetic, size, count = ARITHMETIC[precision], WEIGHTS_LEFT.words(precision), stored_at_once(tiles)
    word, words, row, keep = arithmetic.word, arithmetic.words, arithmetic.row, arithmetic.keep_shared
    multiply, unit = ARITHMETIC[precision].multiply, ARITHMETIC[precision].unit

    @shim.device
    def tile(i: Any, operand: Any, sums: Any, partial: Any, at: Any, chain: Any) -> None:
        weights, o = cuda.local.array(size, word), (chain * tiles + i) * 4
        keep(weights, 0, partial, at + i * 32 * size)
        keep(weights, words, partial, at + i * 32 * size + 32 * words)
        upper, lower = unit(weights, 0), unit(weights, words)
        c = multiply(upper, lower, operand, sums[o], sums[o + 1], sums[o + 2], sums[o + 3])
        sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = c

    every_tile, fragment_words = unrolled(tile, tiles), 16 * WEIGHTS_LEFT.rows

    @shim.device
    def fragment(chain: Any, source: Any, k: Any, sums: Any, partial: Any, at: Any) -> None:
        a, b, c, d = shim.load4_words(source, (k + chain) * fragment_words)
        operand = row(a, b, c, d)
        every_tile(int64(0), operand, sums, partial, at + chain * tiles * 32 * size, chain)

    every = unrolled(fragment, count)

    @shim.device
    def add_stored(source: Any, sums: Any, partial: Any, at: Any, stored: Any) -> None:
        j = 0
        while j < shim.anew(stored):
            every(int64(0), source, fragments + j, sums, partial, at + j * tiles * 32 * size)
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
