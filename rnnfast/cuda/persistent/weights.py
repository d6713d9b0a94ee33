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

_QUADS = 128  # elements of eight units of a fragment: for each of 32 lanes four along K


@functools.cache
def pack_kernel(family: str, precision: str, backward: bool) -> Any:
    """The kernel that writes U in the order in which the warps take it.

    Block, warp, fragment, tile, `eights` of the tile's units, lane, four k. Weights beyond the units or beyond K are
    zeros, so that the kernels which multiply have no edges. A block of threads writes a fragment: what a division takes
    is known once for all its elements, and the elements' own places are shifts. (One thread an element, with eleven
    divisions of 64 bits, took 70 to 110 us for an LSTM of 1024 units by count of its instructions, in every call.)

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

    @shim.kernel("ppiiiiiii", threads=_QUADS)
    def pack(
        weight: Any,
        packed: Any,
        H: Any,
        unit_warps: Any,
        split_warps: Any,
        parts: Any,
        fragments: Any,
        eights: Any,
        count: Any,
    ) -> None:
        n = int64(shim.block())  # of all fragments of all warps
        while n < count:
            of_all = shim.quotient(n, fragments)
            block = shim.quotient(of_all, unit_warps * split_warps)
            warp = of_all - block * unit_warps * split_warps
            of_set, of_unit = shim.quotient(block, parts), shim.quotient(warp, split_warps)
            split = (block - of_set * parts) * split_warps + warp - of_unit * split_warps
            first_k = (split * fragments + n - of_all * fragments) * 16
            first_unit = (of_set * unit_warps + of_unit) * eights * 8
            place = int64(shim.thread())
            while place < _QUADS:
                lane = place >> 2
                k, unit = first_k + 4 * (lane & 3) + (place & 3), first_unit + (lane >> 2)
                slot = (k >= H) + (k >= 2 * H) + (k >= 3 * H) if backward else 0
                row = k - slot * H
                gate = slot + gate_of_first_slot
                gate -= gates if gate >= gates else 0
                for tile in range(tiles):
                    for eight in range(eights):
                        value, u = float32(0), unit + 8 * eight
                        if u < H and k < length_gates * H:
                            at = (gate * H + row) * H + u if backward else (tile * H + u) * H + k
                            value = shim.load(weight, at)
                        put(packed, ((n * tiles + tile) * eights + eight) * _QUADS + place, value)
                place += shim.threads()
            n += shim.blocks()

    return pack


def packed(weight: Any, kind: str, precision: str, partition: Partition, *, backward: bool) -> Any:
    """U in the warps' order: what a kernel takes."""
    tiles = 1 if backward else CELLS[kind].gates
    fragments, eights = partition.fragments + partition.stored, partition.orientation.units // 8
    count = partition.blocks * partition.threads // 32 * fragments
    out = arrays.empty((count * tiles * eights * _QUADS,), stored_dtype(precision))
    of_warps = (partition.unit_warps, partition.split_warps, partition.parts)
    numbers = (weight.shape[1], *of_warps, fragments, eights, count)
    pointers = (shim.pointer(weight.reshape(-1)), shim.pointer(out))
    # The simulator starts a thread of the host for each of a kernel's: few of them, with more to do each.
    blocks, threads = (2, 3) if shim.SIMULATED else (count, _QUADS)
    pack_kernel(cells.family_of(kind)[0], precision, backward).launch(
        blocks, threads, (*pointers, *numbers), stream=arrays.stream_pointer()
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
