"""The weights as the warps keep them: written in their order, and taken into registers and shared memory."""

from __future__ import annotations

import functools
from typing import Any

from .. import arrays, cells, shim
from ..plan import Orientation, Partition
from ..sequence import CELLS, stored_dtype
from ..shim import float32, int64
from .product import ARITHMETIC, unrolled

__all__ = ["keeper", "pack_kernel", "packed"]


@functools.cache
def pack_kernel(family: str, precision: str, backward: bool) -> Any:
    """The kernel that writes U in the order in which the warps take it.

    Block, warp, fragment, tile, `eights` of the tile's units, lane, four k. Weights beyond the units or beyond K are
    zeros, so that the kernels which multiply have no edges.

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

    @shim.kernel("ppiiiiiii")
    def pack(
        weight: Any,
        packed: Any,
        H: Any,
        unit_warps: Any,
        split_warps: Any,
        parts: Any,
        fragments: Any,
        eights: Any,
        size: Any,
    ) -> None:
        at = int64(shim.block()) * shim.threads() + shim.thread()
        if at < size:
            inner, lane = at % 4, at // 4 % 32
            eight, tile = at // 128 % eights, at // (128 * eights) % tiles
            j = at // (128 * eights * tiles) % fragments
            warp = at // (128 * eights * tiles * fragments) % (unit_warps * split_warps)
            block = at // (128 * eights * tiles * fragments * unit_warps * split_warps)
            k = ((block % parts * split_warps + warp % split_warps) * fragments + j) * 16 + 4 * (lane % 4) + inner
            unit = ((block // parts * unit_warps + warp // split_warps) * eights + eight) * 8 + lane // 4
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
    fragments, eights = partition.fragments + partition.stored, partition.orientation.units // 8
    size = partition.blocks * partition.threads * fragments * tiles * eights * 4
    out = arrays.empty((size,), stored_dtype(precision))
    of_warps = (partition.unit_warps, partition.split_warps, partition.parts)
    numbers = (weight.shape[1], *of_warps, fragments, eights, size)
    pointers = (shim.pointer(weight.reshape(-1)), shim.pointer(out))
    pack_kernel(cells.family_of(kind)[0], precision, backward).launch(
        -(-size // 256), 256, (*pointers, *numbers), stream=arrays.stream_pointer()
    )
    return out


@functools.cache
def keeper(precision: str, tiles: int, fragments: int, orientation: Orientation) -> tuple[Any, Any]:
    """Two device functions: take the weights of a warp that lie in shared memory, and those in registers.

    ``(partial, at, packed, stored)``: those of all warps lie from ``partial[at]`` on; they are there after
    `shim.copied` and a `sync`. ``(weights, packed, stored)``: into registers.
    """
    words, keep = ARITHMETIC[precision].words, ARITHMETIC[precision].keep
    of_fragment = tiles * (orientation.units // 8)
    count, size = fragments * of_fragment, of_fragment * 32 * words

    @shim.device
    def one(j: Any, weights: Any, packed: Any, at: Any, d: Any, e: Any) -> None:
        keep(weights, j * words, packed, at + 128 * j)

    every = unrolled(one, count)

    @shim.device
    def keep_stored(partial: Any, at: Any, packed: Any, stored: Any) -> None:
        warp, i = int64(shim.thread()) // 32, 4 * (int64(shim.thread()) % 32)
        first = (warp * (fragments + stored) + fragments) * size
        while i < stored * size:
            shim.copy16(partial, at + warp * stored * size + i, packed, first + i)
            i += 128

    @shim.device
    def keep_registers(weights: Any, packed: Any, stored: Any) -> None:
        thread = int64(shim.thread())
        warp = int64(shim.block()) * (shim.threads() // 32) + thread // 32
        at = (warp * (fragments + stored) * of_fragment * 32 + thread % 32) * 4
        every(int64(0), weights, packed, at, at, at)

    return keep_stored, keep_registers
