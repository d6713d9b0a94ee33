"""The recurrence in one launch: all steps of one layer and direction, forward and backward.

Blocks own units and keep their part of U in registers, as fragments of the tensor cores' operands, from the first step
to the last. In a step each block reads the state (backward: the gates' gradients) of all units from a ring in global
memory, as soon as each word is there, multiplies, finishes its own units, and hands them over in the ring. See `plan`
for the split. `forward_pass` and `backward_pass` are the kernels, `product` what they multiply by, `weights` what they
keep, `layout` what lies in shared memory, `ring` the hand-over, `steps` what else both directions share.

A) Forward and backward are the same product: rows [rows x K] from global memory times weights [K x units] that stay.
   Forward K runs over units and a tile is a gate of some units, so that a thread holds all gates of its units at the
   same places; backward K runs over the gates' gradients and there is one tile, in several chains that are added at
   the end, because one chain of tensor core operations waits for itself.
   The operands are 16 x K and K x 8. In layers of several blocks the rows are the left one, a tile is 16 rows x 8
   units; in layers of one block, whose groups have few rows, the weights are, and a tile is 16 units x 8 rows
   (`plan.Orientation`; `product` has what differs). One block's kernels have no hand-over in them.
B) The warps of a block split K; their sums meet in shared memory, where each element of 32 (one block: 8) rows x the
   block's units has a thread that finishes it: masks, states and gate arithmetic are there and nowhere else. What such
   a thread needs besides the sums is loaded before the block waits for the others, and what no other block waits for
   is written behind the hand-over.
C) K runs through a fragment in the order of one 16-byte load: lane t of a row's four holds k = 4 t .. 4 t + 3, which
   the two operations of tf32 take as pairs. Both operands have the same order, so it does not matter.
D) A row beyond the batch is what the ring began as, zeros, and its sums are never read: no branch in the loads.
E) "float32" is three tf32 products, of the parts high x high, high x low and low x high: what is left out is 2^-22.
   "tf32" and "bfloat16" store the rounded state, which the weight gradient's GEMM would round anyway.
F) In one block the last fragments of a warp's part of K may lie in shared memory, in the order of the registers', and
   are added to the same sums, by half of the warps before those in registers: that is how one block holds up to 128
   units. Only the product and what brings them there know of it.
G) Backward, blocks may be sets that split K, as warps do in a block. A step then has two rounds: all sums are sent to
   the set's exchange, each with a tag of its own, and what was sent is finished.
H) Who waits, waits for tags, which no value can change, so no NaN or infinity can keep a block waiting; the launch is
   cooperative, so a grid that can't be resident is refused, and who has waited in vain for seconds ends it with an
   error. Sums have one order: two runs are bitwise equal.

Registers are what is short: up to 128 of a thread's 255 are weights, and Numba's indices take two each. So what a
thread must remember lies in shared memory and is read anew where it is needed (`shim.recall`): the compiler would else
move all that it can compute from it out of the loop over the steps. So do the counters of its loops, over the product.
Tried, without effect or worse: the same through a register copy that the compiler can't see through (the assembler
can); loads of fewer fragments ahead by a warp barrier; with the rows left two chains of sums beside 128 weights
(spills), and rows 0-15 and 16-31 in one basic block (it keeps the split weights of both); the loop over what lies in
shared memory without `shim.anew` (the compiler unrolls it four times: spills), or with its tensor core operations
marked as convergent, so that it would not (it does).

Rejected: a counter for each group, to which every block adds one (a fence, an addition at L2, and a trip to it before
the data can be read); NaN as the mark of data not yet there (a NaN in the input would hang the grid); a branch around
rows beyond the batch; kernels of their own for what lies in shared memory (twice as many to compile); a second tile of
units in shared memory, in a second turn of the product (its sums are as many again); the trail as the ring of training
(its layout is the GEMMs', and its columns would need padding).
"""

from __future__ import annotations

from .backward_pass import backward, backward_kernel
from .forward_pass import forward, forward_kernel
from .ring import ring
from .weights import pack_kernel, packed

__all__ = ["backward", "backward_kernel", "forward", "forward_kernel", "pack_kernel", "packed", "ring"]
