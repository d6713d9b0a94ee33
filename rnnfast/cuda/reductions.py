"""Sums over rows, and the two halves of a one-hot product: rows gathered, gradients scattered.

No sum uses atomics, so two runs give the same bits: each is a tree of chains of at most `CHUNK` rows, whose shape
depends on the number of rows (`column_sums`) or on the ids (`scatter_add`) alone.

`scatter_add` sorts the ids, stably, so that the rows of an id are one run, in their order in time. The sorted rows are
cut into chunks, each adds up its part of every run in it, and each id then adds up its parts. A run may cross chunks
and a chunk hold several runs, but along the sorted rows neither chunk nor id ever falls, and one of them rises from
part to part: so chunk + id is a place of its own for every part, and needs no table.

An id outside 0..I-1 can't be reported without waiting for the device: its row is NaN in `gather_rows`, as is a row
whose length is outside 0..T, and so are all later results of that batch row; `scatter_add` leaves it out.

Rejected: a product with a vector of ones (one chain of all rows, where cuBLAS pleases); a one-hot matrix and a GEMM
(I times the memory of the ids, and for a vocabulary of thousands most of the time of a call); one chain per id (a
frequent letter's takes longer than all other work of backward).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import arrays, elements, shim
from .elements import active, first, spoilt, stride
from .shim import float32

__all__ = ["CHUNK", "column_sums", "gather_rows", "scatter_add"]

Array = Any  # a device array

CHUNK = 64
_NAN = float32(np.nan)


def column_sums(matrix: Array, precision: str) -> Array:
    """The sums over the rows.

    Parameters
    ----------
    matrix : device array, stored [N, C]
        Unit stride in the last axis.
    precision : {"float32", "tf32", "bfloat16"}

    Returns
    -------
    device array, float32 [C]
    """
    while True:
        rows, columns = matrix.shape
        chunks = max(1, -(-rows // CHUNK))
        sums = arrays.empty((chunks, columns))
        flat, (by_row, _) = arrays.cover(matrix)
        arguments = (shim.pointer(flat), shim.pointer(sums.reshape(-1)), rows, columns, by_row, chunks)
        _sums_kernel(precision).launch(*elements.grid(sums.size), arguments, stream=arrays.stream_pointer())
        if chunks == 1:
            return sums[0]
        matrix, precision = sums, "float32"


@functools.cache
def _sums_kernel(precision: str) -> Any:
    get = elements.loader(precision)

    @shim.kernel("ppiiii")
    def sum_chunks(matrix: Any, out: Any, rows: Any, columns: Any, by_row: Any, chunks: Any) -> None:
        for i in range(first(), chunks * columns, stride()):
            start, k = i // columns * CHUNK, i % columns
            total = float32(0)
            for row in range(start, min(start + CHUNK, rows)):
                total += get(matrix, row * by_row + k)
            shim.store(out, i, total)

    return sum_chunks


def gather_rows(table: Array, ids: Array, lengths: Array | None, out: Array) -> None:
    """``out[t, b] = table[ids[t, b]]``: the product of one-hot rows with a table.

    Parameters
    ----------
    table : device array, float32 [I, R], C-contiguous
    ids : device array, int64 [T, B]
        Not used where rows have ended; the result there is zero.
    lengths : device array, int64 [B], or None
    out : device array, float32 [T, B, R], C-contiguous
        Written.
    """
    (T, B, R), count = out.shape, len(table)
    pointers = map(shim.pointer, (table.reshape(-1), _flat(ids), lengths, out.reshape(-1)))
    _gather.launch(*elements.grid(out.size), (*pointers, T, B, R, count), stream=arrays.stream_pointer())


def _flat(ids: Array) -> Array:
    return arrays.contiguous(ids).reshape(-1)


@shim.kernel("ppppiiii")
def _gather(table: Any, ids: Any, lengths: Any, out: Any, T: Any, B: Any, R: Any, count: Any) -> None:
    for i in range(first(), T * B * R, stride()):
        n, k = i // R, i % R
        t, b = n // B, n % B
        value = float32(0)
        if spoilt(lengths, b, T):
            value = _NAN
        elif active(lengths, t, b):
            index = shim.load_int64(ids, n)
            value = shim.load(table, index * R + k) if 0 <= index < count else _NAN
        shim.store(out, i, value)


def scatter_add(gradients: Array, ids: Array, out: Array, precision: str) -> None:
    """``out[:, id] += gradients[n]`` for the id of each row n: the weight gradient of the product with one-hot rows.

    Parameters
    ----------
    gradients : device array, stored [T * B, C]
        Unit stride in the last axis. Zeros where rows have ended.
    ids : device array, int64 [T, B]
        Those outside 0..I-1 are left out.
    out : device array, float32 [C, I], C-contiguous
        Added to.
    precision : {"float32", "tf32", "bfloat16"}
    """
    xp, (rows, columns), count = arrays.xp(), gradients.shape, out.shape[1]
    keys = xp.minimum(_flat(ids).view(np.uint64), np.uint64(count)).view(np.int64)  # unsigned, -1 is the largest
    order = xp.argsort(keys, kind="stable")
    keys = keys[order]
    starts = xp.searchsorted(keys, arrays.arange(count + 1))
    chunks = -(-rows // CHUNK)
    parts = arrays.empty((chunks + count, columns))
    flat, (by_row, _) = arrays.cover(gradients)
    stream = arrays.stream_pointer()
    pointers = map(shim.pointer, (flat, keys, order, parts.reshape(-1)))
    sizes = (rows, columns, count, by_row, chunks)
    _parts_kernel(precision).launch(*elements.grid(chunks * columns), (*pointers, *sizes), stream=stream)
    pointers = map(shim.pointer, (parts.reshape(-1), starts, out.reshape(-1)))
    _add_parts.launch(*elements.grid(out.size), (*pointers, columns, count), stream=stream)


@functools.cache
def _parts_kernel(precision: str) -> Any:
    """Of each chunk, the sums of its rows by id."""
    get = elements.loader(precision)

    @shim.kernel("ppppiiiii")
    def sum_parts(
        gradients: Any,
        keys: Any,
        order: Any,
        parts: Any,
        rows: Any,
        columns: Any,
        count: Any,
        by_row: Any,
        chunks: Any,
    ) -> None:
        for i in range(first(), chunks * columns, stride()):
            chunk, k = i // columns, i % columns
            index, total = shim.load_int64(keys, chunk * CHUNK), float32(0)
            for n in range(chunk * CHUNK, min((chunk + 1) * CHUNK, rows)):
                following = shim.load_int64(keys, n)
                if following != index:
                    shim.store(parts, (chunk + index) * columns + k, total)
                    index, total = following, float32(0)
                total += get(gradients, shim.load_int64(order, n) * by_row + k)
            if index < count:
                shim.store(parts, (chunk + index) * columns + k, total)

    return sum_parts


@shim.kernel("pppii")
def _add_parts(parts: Any, starts: Any, out: Any, columns: Any, count: Any) -> None:
    for i in range(first(), columns * count, stride()):
        index, k = i // columns, i % columns
        start, stop = shim.load_int64(starts, index), shim.load_int64(starts, index + 1)
        total = float32(0)
        if start < stop:
            for chunk in range(start // CHUNK, (stop - 1) // CHUNK + 1):
                total += shim.load(parts, (chunk + index) * columns + k)
        shim.store(out, k * count + index, shim.load(out, k * count + index) + total)
