"""Which engine runs a layer and how its work is split over the device: arithmetic, no trial.

The persistent engine holds the recurrent weights in registers. A *group* of blocks shares the rows of one part of the
batch; within it each block owns `unit_warps` tiles of units, and the warps of a tile split the recurrent product's
length K among them, in fragments of 16 each (K = H forward; slots of the recurrent side times H backward).

A) A warp's weights take registers for each thread, for 16 x 8 of them 4 (bfloat16: 2), where forward has a tile per
   gate and backward one. At most 128 of the 255 that a thread may have in a block of 8 warps; a build test reads the
   compiler's report for every plan, and any spill fails it.
B) Blocks are so large that one fills a multiprocessor, and each must be resident or the grid waits forever: so
   groups x blocks <= multiprocessors. `fragments` is a power of two, because each is a kernel to compile.
C) A layer of up to 128 units fits one block and needs no hand-over through global memory, 1.25 us of a step. What of
   the weights does not fit the registers, up to half of them, is the end of every warp's part of K and is `stored` in
   shared memory. The weights are the tensor cores' left operand there (`WEIGHTS_LEFT`): a tile is 16 units and 8 rows,
   of which the groups' two to four (D) fill more than of a tile of 16 rows, at half the clocks. One block is taken
   wherever it fits. By arithmetic (docs/benchmarks-gpu.md) 128 units of an LSTM are 0.6 us against 1.3 us of 16 blocks
   in tf32, and 0.25 us in bfloat16; only in float32, with its three products, is it even: 1.5 us (GRU 1.1) in both.
   Of several blocks, as many warps as possible share K, which is the shortest step, and the rows are the left operand
   (`ROWS_LEFT`): a group has 16 of them or more, and a block as few as 8 units.
D) Groups of one block are as many as there are multiprocessors, down to one element for each thread that finishes: an
   element is a hundred instructions, and 16 rows of 128 units would be eight for each of 256 threads, one after the
   other, 1 us; the product's tile of 8 rows costs the same with two.
   Groups of several blocks are as many as fit, down to 16 rows each (a tensor core's tile): a step's time grows with a
   group's rows, because every block reads what all units of its rows have written. Above `MOST_BYTES` of such reads in
   a step, 18 us of an H200's L2 cache, a library GEMM costs less, and the step-wise engine takes over.
E) Backward, where that is K = 4 H for every row, blocks may come in *sets* that share their units and split K into
   `parts`: what warps do in a block, blocks do in a set. A block reads its part of K alone, hands its sums to the set,
   and finishes a part of the set's units. It is a second hand-over, taken where `_step` is the shorter for it: an
   LSTM of 1024 units with 64 rows reads 134 MB without sets, and 25 MB with 16 sets of 8 (sums included).

A cell whose step has two products, one after the other, would be two hand-overs a step; the step-wise engine is its
only one. Any other cell than the kinds of `sequence.CELLS` is run by what its description needs: `engine_of`.

Rejected: trying plans at run time (the first call would take seconds, and two runs could differ); weights in shared
memory for layers of several blocks (at H = 1024 an LSTM's 128 KiB per block take 1024 cycles to read, half a step's
time); weights left for them (8 rows of a group's 16 at a time, each with all of K to read anew, and blocks of 16 units
would be half as many); a second tile of units for each warp, in shared memory, in place of a second part of K (it
needs sums of its own).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from .. import reference
from ..description.program import Program
from . import shim
from .sequence import CELLS

__all__ = [
    "MOST_BYTES",
    "PRECISIONS",
    "ROWS_LEFT",
    "WALK",
    "WEIGHTS_LEFT",
    "Orientation",
    "Partition",
    "Plan",
    "columns",
    "engine_of",
    "plan",
    "stored_at_once",
]

WALK = "diagonal"
PRECISIONS = ("float32", "tf32", "bfloat16")
MOST_BYTES = 100_000_000
WORDS_FORWARD, WORDS_BACKWARD = 11, 15
"""Of 4 bytes, that each thread remembers in shared memory."""
WORDS_OF_BLOCK = 4  # of which one is used: what follows begins at a multiple of 16 bytes
_WARPS = 8
_REGISTERS = 128
_UNIT_WARPS = (1, 2, 4, 8)
_ROWS = 16
_STEP = 16  # of K
_LEAST_FRAGMENTS, _MOST_FRAGMENTS = 2, 32  # each power of two between them is a kernel
_SHARED_BYTES = 232448  # of a block, for compute capability 9.0 and 10.0; 8.0 has 166912

# An H200, for the arithmetic of `_step`.
_HAND_OVER = 1.25  # us, measured with a counter; that of tags, by arithmetic 0.6 us less, waits for a measurement
_L2 = 5.5e6  # bytes a us
_CLOCKS = 1755  # a us
_MULTIPLY_ADDS = {"float32": 200, "tf32": 600, "bfloat16": 1200}  # of a multiprocessor in a clock, by mma.sync


class Orientation(NamedTuple):
    """Which operand of the tensor cores the weights are, and so what a tile is.

    Attributes
    ----------
    name : str
    units, rows : int
        Of a tile: 16 of the left operand, 8 of the right one.
    rows_at_once : int
        Rows whose sums have room in shared memory.
    """

    name: str
    units: int
    rows: int
    rows_at_once: int

    def words(self, precision: str) -> int:
        """The registers, or words of shared memory, that a fragment of a tile's weights takes of each thread."""
        return self.units // 8 * (2 if precision == "bfloat16" else 4)

    def row_stride(self, tiles: int) -> int:
        """The floats between two rows of partial sums in shared memory, so that no bank serves more than two lanes."""
        odd = self.units == 8 and tiles % 2 == 1
        return self.units * tiles + (0 if odd else 4)

    def sum_steps(self, tiles: int) -> tuple[int, int]:
        """The floats between partial sums that are neighbours along the left operand, and along the right one."""
        stride = self.row_stride(tiles)
        return (1, stride) if self.units == 16 else (stride, 1)

    def warp_stride(self, tiles: int) -> int:
        """The floats between the partial sums of two warps."""
        return self.rows_at_once * self.row_stride(tiles)


ROWS_LEFT = Orientation("rows left", 8, 16, 32)
"""Of layers of several blocks."""
WEIGHTS_LEFT = Orientation("weights left", 16, 8, 8)
"""Of layers of one block."""


class Partition(NamedTuple):
    """How one direction of time is split.

    Attributes
    ----------
    unit_warps, split_warps : int
        Tiles of units of a block, and warps that share the length K of each.
    fragments : int
        Steps of 16 along K whose weights a warp holds in registers.
    blocks, groups : int
        Blocks of a group, and groups.
    rows : int
        Batch rows of a group.
    stored : int
        Steps of 16 along K, behind those, whose weights a warp has in shared memory. One block.
    parts : {1, 2, 4, 8}
        Blocks of a set: each has a part of K for all of the set's units, of which it then finishes a part. Backward.
    """

    unit_warps: int
    split_warps: int
    fragments: int
    blocks: int
    groups: int
    rows: int
    stored: int = 0
    parts: int = 1

    @property
    def orientation(self) -> Orientation:
        """What a tile is."""
        return WEIGHTS_LEFT if self.blocks == 1 else ROWS_LEFT

    @property
    def threads(self) -> int:
        """The threads of a block."""
        return 32 * self.unit_warps * self.split_warps

    @property
    def units(self) -> int:
        """The units of a block, or of a set of blocks."""
        return self.orientation.units * self.unit_warps

    @property
    def length(self) -> int:
        """The length of K that the fragments cover."""
        return self.parts * self.split_warps * (self.fragments + self.stored) * _STEP

    @property
    def tile_words(self) -> int:
        """The words of the ring that a tile of rows takes."""
        return self.orientation.rows * self.length

    @property
    def slot_words(self) -> int:
        """The words of a slot of the ring: what the blocks of a group hand over in a step."""
        return -(-self.rows // self.orientation.rows) * self.tile_words

    @property
    def sets(self) -> int:
        """The sets of blocks in a group."""
        return self.blocks // self.parts

    def words(self, tiles: int, precision: str) -> int:
        """The registers that a thread's weights take."""
        return tiles * self.fragments * self.orientation.words(precision)

    def stored_words(self, tiles: int, precision: str) -> int:
        """The words of a block's weights in shared memory."""
        return self.threads * tiles * self.stored * self.orientation.words(precision)

    def shared_bytes(self, tiles: int, precision: str, *, backward: bool = False) -> int:
        """The shared memory of a block.

        The block's own words, the warps' partial sums, what the threads remember, forward the biases, and the stored
        weights.
        """
        sums = self.threads // 32 * self.orientation.warp_stride(tiles)
        remembered = 256 * WORDS_BACKWARD if backward else 256 * WORDS_FORWARD + 4 * self.units
        return 4 * (WORDS_OF_BLOCK + sums + remembered + self.stored_words(tiles, precision))


class Plan(NamedTuple):
    """What was chosen.

    Attributes
    ----------
    engine : {"persistent", "stepwise"}
    forward, backward : Partition or None
        Of the persistent engine.
    reason : str
        Why this engine.
    """

    engine: str
    forward: Partition | None
    backward: Partition | None
    reason: str


def engine_of(program: Program) -> str:
    """Which engine runs a described cell: by what its stages read of each other, no trial.

    Parameters
    ----------
    program : Program

    Returns
    -------
    {"diagonal", "stepwise"}
        Diagonal: nothing in a step multiplies a state or a stored row by a matrix, or is a mean, and all rows are
        equally wide; so a thread that owns a unit of a row can walk through all steps by itself.
    """
    passes = (program.inference, program.forward, program.backward)
    one_stage = all(len(stages) == 1 and stages[0].code and not stages[0].means for stages in passes)
    products = any(product.left is not None for product in program.products) or any(
        back.terms
        for back in (*program.state_products, *(one for stage in program.backward for one in stage.back_products))
    )
    widths = {state.domain for state in program.states} | {stage.domain for stages in passes for stage in stages}
    return WALK if one_stage and not products and len(widths) == 1 else "stepwise"


def columns(width: int) -> int:
    """The row length of a stored sequence that is `width` wide: a multiple of 4, for 16-byte accesses."""
    return -(-width // 4) * 4


def stored_at_once(tiles: int) -> int:
    """The fragments of stored weights that a round takes, each with a chain of sums: two of one tile.

    One would wait for itself, four spill. `Partition.stored` is a multiple of it.
    """
    return 2 if tiles == 1 else 1


def plan(
    kind: str,
    hidden_size: int,
    batch_size: int,
    precision: str = "float32",
    *,
    multiprocessors: int | None = None,
    shared_bytes: int | None = None,
) -> Plan:
    """The plan for one layer and direction.

    Parameters
    ----------
    kind : {"lstm", "gru_after", "gru_before", "elman_tanh", "elman_relu", "elman_sigmoid"}
    hidden_size, batch_size : int
    precision : {"float32", "tf32", "bfloat16"}, optional
    multiprocessors : int, optional
        Of the device; those of the current one by default.
    shared_bytes : int, optional
        The shared memory that a block can ask for. By default that of the current device; with `multiprocessors`, that
        of compute capability 9.0 and 10.0.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        There is no such kind or precision, or a size is below 1.
    RuntimeError
        There is no device to ask for its multiprocessors.
    """
    kinds = tuple(reference.CELLS)
    for name, value, choices in (("kind", kind, kinds), ("precision", precision, PRECISIONS)):
        if value not in choices:
            raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    for name, size in (("hidden_size", hidden_size), ("batch_size", batch_size)):
        if size < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {size}")
    if multiprocessors is None and not shim.available():
        raise RuntimeError("multiprocessors: expected a number where there is no CUDA device to ask, got None")
    if multiprocessors is None:
        limits = shim.limits()
        device = _Device(limits.multiprocessors, limits.shared_bytes if shared_bytes is None else shared_bytes)
    else:
        device = _Device(multiprocessors, _SHARED_BYTES if shared_bytes is None else shared_bytes)
    if kind not in CELLS:
        return Plan("stepwise", None, None, f"{kind} needs two products per step")
    cell = CELLS[kind]
    length = len(cell.recurrent) * hidden_size
    forward = _partition(_Product(cell.gates, hidden_size, hidden_size, precision, False), batch_size, device)
    backward = _partition(_Product(1, length, hidden_size, precision, True), batch_size, device)
    if forward is None or backward is None:
        reason = f"the weights of {hidden_size} units do not fit {device.multiprocessors} multiprocessors"
        return Plan("stepwise", None, None, reason)
    read = max(_bytes_read(forward, hidden_size), _bytes_read(backward, length))
    if read > MOST_BYTES:
        return Plan("stepwise", None, None, f"{batch_size} rows would be {read // 10**6} MB to read in a step")
    return Plan("persistent", forward, backward, f"{forward.groups} x {forward.blocks} blocks hold the weights")


class _Product(NamedTuple):
    """What is split: the recurrent product of a step."""

    tiles: int
    length: int
    hidden: int
    precision: str
    backward: bool


class _Device(NamedTuple):
    multiprocessors: int
    shared_bytes: int


def _bytes_read(partition: Partition, length: int) -> int:
    """What all blocks read of each other in a step, and the sums that they write for their set."""
    if partition.blocks == 1:
        return 0
    row = 4 * (length // partition.parts)
    if partition.parts > 1:
        row += 2 * 8 * partition.units
    return partition.blocks * partition.groups * partition.rows * row


def _step(partition: Partition, product: _Product) -> float:
    """The us of a step of several blocks, without the gates', which takes the same however the work is split."""
    rows = -(-partition.rows // ROWS_LEFT.rows) * ROWS_LEFT.rows
    multiply_adds = rows * partition.units * product.tiles * (partition.length // partition.parts)
    products = multiply_adds / _MULTIPLY_ADDS[product.precision] / _CLOCKS
    hand_overs = 1 + (partition.parts > 1)
    return products + hand_overs * _HAND_OVER + _bytes_read(partition, product.length) / _L2


@functools.lru_cache(maxsize=1024)
def _partition(product: _Product, batch: int, device: _Device) -> Partition | None:
    """One block; else the shortest step, of the fewest units for each block or of sets that split K."""
    one = _one_block(product, batch, device)
    if one is not None:
        return one

    def fitting(*shapes: tuple[int, int]) -> list[Partition]:
        return [found for shape in shapes if (found := _several_blocks(product, *shape, batch, device))]

    found = fitting(*((count, 1) for count in _UNIT_WARPS))[:1]
    if product.backward:
        found += fitting(*((count, parts) for parts in (2, 4, 8) for count in _UNIT_WARPS if count >= parts))
    return min(found, key=lambda partition: _step(partition, product), default=None)


def _one_block(product: _Product, batch: int, device: _Device) -> Partition | None:
    """The partition by groups of one block, if it fits the device."""
    unit_warps = -(-product.hidden // WEIGHTS_LEFT.units)
    if unit_warps > _WARPS:
        return None
    split, fragments = _split(product.length, _WARPS // unit_warps, 1)
    while fragments * product.tiles * WEIGHTS_LEFT.words(product.precision) > _REGISTERS:
        fragments //= 2
    missing, multiple = -(-product.length // (_STEP * split)) - fragments, stored_at_once(product.tiles)
    stored = max(0, -(-missing // multiple) * multiple)
    groups, rows = _dealt(batch, device.multiprocessors, 2 * split)
    return _fitting(Partition(unit_warps, split, fragments, 1, groups, rows, stored), product, device)


def _several_blocks(product: _Product, unit_warps: int, parts: int, batch: int, device: _Device) -> Partition | None:
    """The partition by blocks of so many unit warps, in sets of so many blocks, if it fits the device."""
    split, fragments = _split(-(-product.length // parts), _WARPS // unit_warps, _LEAST_FRAGMENTS)
    blocks = -(-product.hidden // (ROWS_LEFT.units * unit_warps)) * parts
    if fragments > _MOST_FRAGMENTS or not 1 < blocks <= device.multiprocessors:
        return None
    groups, rows = _dealt(batch, device.multiprocessors // blocks, _ROWS)
    return _fitting(Partition(unit_warps, split, fragments, blocks, groups, rows, 0, parts), product, device)


def _dealt(batch: int, most: int, least: int) -> tuple[int, int]:
    """How many groups share the batch, and the rows of each: at least so many, unless the groups would be too many."""
    rows = -(-batch // min(most, -(-batch // least)))
    return -(-batch // rows), rows


def _fitting(partition: Partition, product: _Product, device: _Device) -> Partition | None:
    """The partition, if its weights fit the registers and the rest the shared memory."""
    shared = partition.shared_bytes(product.tiles, product.precision, backward=product.backward)
    fits = partition.words(product.tiles, product.precision) <= _REGISTERS and shared <= device.shared_bytes
    return partition if fits else None


def _split(length: int, warps: int, least: int) -> tuple[int, int]:
    """How many warps share the length, and the fragments of each: a power of two."""
    fragments = least
    while fragments * warps * _STEP < length:
        fragments *= 2
    return -(-length // (fragments * _STEP)), fragments
