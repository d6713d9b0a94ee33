"""The recurrence in one launch: all steps of one layer and direction, forward and backward.

Blocks own units and keep their part of U in registers, as fragments of the tensor cores' right operand, from the
first step to the last. In a step each block reads the state (backward: the gates' gradients) of all units from global
memory, multiplies, finishes its own units, writes them to where the next step is read from, and the blocks of a group
hand over: each adds 1 to the group's counter when it has written, and reads on when all have. See `plan` for the
split. `forward_pass` and `backward_pass` are the kernels, `product` what they multiply by, `weights` what they keep,
`layout` what lies in shared memory, `steps` the hand-over.

A) Forward and backward are the same product: rows [16 x K] from global memory times a [K x 8 tiles] that stays.
   Forward K runs over units and a tile is a gate of 8 units, so that a thread holds all gates of its units at the
   same places; backward K runs over the gates' gradients and there is one tile of 8 units, in several chains that are
   added at the end, because one chain of tensor core operations waits for itself.
B) The warps of a block split K; their sums meet in shared memory, where each element of 32 rows x the block's units has
   a thread that finishes it: masks, states and gate arithmetic are there and nowhere else. What such a thread needs
   besides the sums is loaded before the block waits for the others, and what only it will read again is written behind
   the hand-over.
C) K runs through a fragment in the order of one 16-byte load: lane t of a row's four holds k = 4 t .. 4 t + 3, which
   the two operations of tf32 take as pairs. Both operands have the same order, so it does not matter.
D) A row beyond the batch is a copy of the last one and its sums are never read: no zeros, no branch in the loads.
E) "float32" is three tf32 products, of the parts high x high, high x low and low x high: what is left out is 2^-22.
   "tf32" and "bfloat16" store the rounded state, which the weight gradient's GEMM would round anyway.
F) A warp may have a second tile of units, whose weights lie in shared memory in the order of the registers' and are
   read in a second turn of the product: that is how one block holds up to 128 units. Sums of the second turn lie
   behind those of the first, as if there were twice the warps, so only the product knows of turns.
G) Backward, blocks may be sets that split K, as warps do in a block. A step then has two rounds: all sums are sent to
   the set's exchange, the set hands over on a counter of its own, and what was sent is finished. The next step's sums
   overwrite these behind the group's hand-over, when all have read: one buffer is enough.
H) Nothing waits for data, only for counters, so no NaN or infinity can keep a block waiting; the launch is
   cooperative, so a grid that can't be resident is refused. Sums have one order: two runs are bitwise equal.

Registers are what is short: up to 128 of a thread's 255 are weights, and Numba's indices take two each. So what a
thread must remember lies in shared memory and is read anew where it is needed (`shim.recall`): the compiler would else
move all that it can compute from it out of the loop over the steps. So do the counters of its loops, over the product.
Tried, without effect or worse: the same through a register copy that the compiler can't see through (the assembler
can); loads of fewer fragments ahead by a warp barrier; two chains of sums beside 128 weights, or in the second turn
(spills); the second turn of 16 rows right behind their first, in one loop (spills); rows 0-15 and 16-31 in one basic
block (it keeps the split weights of both).

Rejected: NaN as the mark of data not yet there (it spares the counter, and a NaN in the input would hang the grid);
a branch around rows beyond the batch; the second turn as kernels of their own (twice as many to compile); separate
double buffers for the exchange in training (the trail is there anyway).
"""

from __future__ import annotations

from .backward_pass import backward, backward_kernel
from .forward_pass import forward, forward_kernel
from .steps import COUNTER_STRIDE, arrive, wait, zeroed_counters
from .weights import pack_kernel, packed

__all__ = [
    "COUNTER_STRIDE",
    "arrive",
    "backward",
    "backward_kernel",
    "forward",
    "forward_kernel",
    "pack_kernel",
    "packed",
    "wait",
    "zeroed_counters",
]
