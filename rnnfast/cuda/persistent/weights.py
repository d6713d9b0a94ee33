"""The weights as the warps keep them: written in their order, and taken into registers and shared memory."""

from __future__ import annotations

import functools
from typing import Any

from .. import arrays, cells, shim
from ..plan import Partition
from ..sequence import CELLS, stored_dtype
from ..shim import float32, int64
from .product import ARITHMETIC, unrolled

__all__ = ["keeper", "pack_kernel", "packed"]


@functools.cache
def pack_kernel(family: str, precision: str, backward: bool) -> Any:
    """The kernel that writes U in the order in which the warps take it: block, warp, fragment, tile, lane, four k.

    Weights beyond the units or beyond K are zeros, so that the kernels which multiply have no edges.

    Parameters
    ----------
    family, precision : str
    backward : bool
        Whether for the product with the gates' gradients.

    Returns
    -------
    object
        With `launch`; see `shim.kernel`.
    """
    recurrent, put = CELLS[family].recurrent, ARITHMETIC[precision].store
    tiles, length_gates = (1, len(recurrent)) if backward else (len(recurrent), 1)
    gate_of_first_slot, gates = recurrent[0], len(recurrent)  # the slots go on from there, around the gates

    @shim.kernel("ppiiiiii")
    def pack(
        weight: Any, packed: Any, H: Any, unit_tiles: Any, split_warps: Any, parts: Any, fragments: Any, size: Any
    ) -> None:
        at = int64(shim.block()) * shim.threads() + shim.thread()
        if at < size:
            inner, lane = at % 4, at // 4 % 32
            tile = at // 128 % tiles
            j = at // (128 * tiles) % fragments
            warp = at // (128 * tiles * fragments) % (unit_tiles * split_warps)
            block = at // (128 * tiles * fragments * unit_tiles * split_warps)
            k = ((block % parts * split_warps + warp % split_warps) * fragments + j) * 16 + 4 * (lane % 4) + inner
            unit = (block // parts * unit_tiles + warp // split_warps) * 8 + lane // 4
            value = float32(0)
            if unit < H and k < length_gates * H:
                if backward:
                    gate = (k // H + gate_of_first_slot) % gates
                    value = shim.load(weight, (gate * H + k % H) * H + unit)
                else:
                    value = shim.load(weight, (tile * H + unit) * H + k)
            put(packed, at, value)

    return pack


def packed(weight: Any, kind: str, precision: str, partition: Partition, *, backward: bool) -> Any:
    """U in the warps' order: what a kernel takes."""
    tiles = 1 if backward else CELLS[kind].gates
    size = partition.blocks * partition.unit_tiles * partition.split_warps * partition.fragments * tiles * 128
    out = arrays.empty((size,), stored_dtype(precision))
    numbers = (weight.shape[1], partition.unit_tiles, partition.split_warps, partition.parts, partition.fragments, size)
    pointers = (shim.pointer(weight.reshape(-1)), shim.pointer(out))
    pack_kernel(cells.family_of(kind)[0], precision, backward).launch(
        -(-size // 256), 256, (*pointers, *numbers), stream=arrays.stream_pointer()
    )
    return out


@functools.cache
def keeper(precision: str, tiles: int, fragments: int) -> tuple[Any, Any]:
    """Two device functions: take the weights of a block's second turn, and those of a warp's first.

    ``(partial, stored, packed, turns)``: to ``partial[stored]`` and on, if there are two turns; they are there after
    `shim.copied` and a `sync`. ``(weights, packed, turns)``: into registers.
    """
    words, keep = ARITHMETIC[precision].words, ARITHMETIC[precision].keep
    count = tiles * fragments

    @shim.device
    def one(j: Any, weights: Any, packed: Any, at: Any, d: Any, e: Any) -> None:
        keep(weights, j * words, packed, at + 128 * j)

    every = unrolled(one, count)

    @shim.device
    def keep_second(partial: Any, stored: Any, packed: Any, turns: Any) -> None:
        i = 4 * int64(shim.thread())
        size = shim.threads() * count * words
        first = (shim.block() * turns + 1) * size
        while i < (turns - 1) * size:
            shim.copy16(partial, stored + i, packed, first + i)
            i += 4 * shim.threads()

    @shim.device
    def keep_first(weights: Any, packed: Any, turns: Any) -> None:
        thread = int64(shim.thread())
        warp = int64(shim.block()) * turns * (shim.threads() // 32) + thread // 32
        at = (warp * count * 32 + thread % 32) * 4
        every(int64(0), weights, packed, at, at, at)

    return keep_second, keep_first
