"""How the blocks of a group hand over what the next step reads: a ring of two slots, whose words carry their own tag.

An element is a word of 32 bits: its data in the upper bits, the tag in the lower ones. Who writes it makes one store;
who reads it looks until the tag is the one of the step, and then has the data, too. There is no counter, no fence, and
no order between words: each says by itself whether it is there.

A) *Turns* number the hand-overs. Turn n is written into slot ``n % 2``, with the tag ``1 + n // 2``, how often the slot
   has been written then. A ring begins as zeros, and a slot's words are those of two turns before or of this one (see
   B), so one bit of the tag would do: float32 has one, in place of its last bit; tf32 has 12 of the 13 that the tensor
   cores ignore, and bfloat16 16. They wrap.
B) Two slots are enough. A block writes turn n + 2 of a row after it has read all of turn n + 1 of that row; whoever
   wrote that had read all of turn n before. So nobody can still want what is overwritten, and nobody can be two turns
   ahead. In sets (backward) a block reads its part of K alone, but finishes with the sums of its set, whose blocks
   have read all of it between them. docs/dev/gpu-kernels.md has the proof.
C) A NaN becomes the device's own before its tag is put in, and stays a NaN under any tag.
D) The words lie as the lanes take them: of a tile's fragments, one after the other, 16 bytes for each lane and each
   operation of the tensor cores. Rows that a group does not have are never written, and nobody waits for them. K
   beyond the product's own length is written as zeros, with tags, by the threads in turn.
E) Behind the slots of a group lies the turn at which the next launch begins: it is on the device, so calls that follow
   each other, or that are captured and replayed, go on where the last one stopped.
F) One block's threads meet at a barrier of their own. They use the same ring, with plain accesses and without tags.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import arrays, shim
from ..plan import WEIGHTS_LEFT, Orientation, Partition
from ..shim import float32
from .product import ARITHMETIC

__all__ = ["next_turn_at", "placer", "publisher", "ring", "slot_at", "tag_function"]

_LINE = 32  # words: what lies behind a group's slots has a cache line of its own


def ring(partition: Partition) -> Any:
    """A new ring: of each group two slots, and the next turn."""
    return arrays.zeros((partition.groups * (2 * partition.slot_words + _LINE),), np.uint32)


@shim.device
def next_turn_at(group: Any, slot_words: Any) -> Any:
    """The word in which the turn is that the next launch begins with."""
    return group * (2 * slot_words + _LINE) + 2 * slot_words


@shim.device
def slot_at(group: Any, turn: Any, slot_words: Any) -> Any:
    """The first word of the slot of a turn."""
    return group * (2 * slot_words + _LINE) + (turn & 1) * slot_words


@functools.cache
def tag_function(precision: str, orientation: Orientation) -> Any:
    """A device function: the tag of a turn; of one block there is none."""
    mask = 0 if orientation == WEIGHTS_LEFT else ARITHMETIC[precision].tag_mask

    @shim.device
    def tag_of_turn(turn: Any) -> Any:
        return shim.tag_of(1 + (turn >> 1), mask)

    return tag_of_turn


@functools.cache
def placer(orientation: Orientation) -> tuple[Any, Any]:
    """Two device functions, whose sum is where in a slot an element lies: by its k, and by its row."""
    if orientation == WEIGHTS_LEFT:

        @shim.device
        def of_k(k: Any) -> Any:
            return (k >> 4) * 128 + (k & 15) // 4 * 4 + (k & 3)

        @shim.device
        def of_row(row: Any, tile_words: Any) -> Any:
            return (row >> 3) * tile_words + (row & 7) * 16

    else:

        @shim.device
        def of_k(k: Any) -> Any:
            return (k >> 4) * 256 + ((k >> 1) & 1) * 128 + ((k >> 2) & 3) * 4 + (k & 1) * 2

        @shim.device
        def of_row(row: Any, tile_words: Any) -> Any:
            return (row >> 4) * tile_words + (row & 7) * 16 + ((row >> 3) & 1)

    return of_k, of_row


@functools.cache
def publisher(precision: str, orientation: Orientation) -> tuple[Any, Any]:
    """Two device functions: hand over an element, and the zeros beyond K.

    ``(ring, row_at, k, value, tag)``, where `row_at` is the place of the slot and the row. ``(ring, row_at, k, length,
    threads, tag)``: the thread whose first one is `k` writes every `threads`th.
    """
    seal, one_block, of_k = ARITHMETIC[precision].seal, orientation == WEIGHTS_LEFT, placer(orientation)[0]

    @shim.device
    def publish(ring: Any, row_at: Any, k: Any, value: Any, tag: Any) -> None:
        if one_block:
            shim.store_word(ring, row_at + of_k(k), seal(value, tag))
        else:
            shim.publish(ring, row_at + of_k(k), seal(value, tag))

    @shim.device
    def publish_beyond(ring: Any, row_at: Any, k: Any, length: Any, threads: Any, tag: Any) -> None:
        if not one_block:  # there the zeros of the beginning will do
            while k < length:
                shim.publish(ring, row_at + of_k(k), seal(float32(0), tag))
                k += threads

    return publish, publish_beyond
