"""Which engine runs a layer and how its work is split over the device: arithmetic, no trial.

The persistent engine holds the recurrent weights in registers. A *group* of blocks shares the rows of one part of the
batch; within it each block owns `unit_warps` tiles of 8 units, and the warps of a tile split the recurrent product's
length K among them, `fragments` steps of 16 each (K = H forward; slots of the recurrent side times H backward).

A) A warp's weights take registers for each thread: tiles x fragments x 4 (bfloat16: 2), where forward has a tile per
   gate and backward one. At most 128 of the 255 that a thread may have in a block of 8 warps; a build test reads the
   compiler's report for every plan, and any spill fails it.
B) Blocks are so large that one fills a multiprocessor, and each must be resident or the grid waits forever: so
   groups x blocks <= multiprocessors. `fragments` is a power of two, because each is a kernel to compile.
C) A layer that fits one block needs no hand-over through global memory: one block per group is taken where H allows.
   Else as many warps as possible share K, which is the shortest step.
D) Groups are as many as fit, down to 16 rows each (a tensor core's tile): a step's time grows with a group's rows,
   because every block reads what all units of its rows have written. Above `MOST_BYTES` of such reads in a step of
   backward, 30 us of an H200's L2 cache, a library GEMM costs less, and the step-wise engine takes over.

`gru_before` has two products per step, one after the other; its step is two hand-overs, and no library has it, so the
step-wise engine is its only one.

Rejected: trying plans at run time (the first call would take seconds, and two runs could differ); weights in shared
memory (at H = 1024 an LSTM's 128 KiB per block take 1024 cycles to read, half a step's time).
"""

from __future__ import annotations

from typing import NamedTuple

from . import shim
from .sequence import CELLS

__all__ = ["MOST_BYTES", "PRECISIONS", "Partition", "Plan", "columns", "plan"]

PRECISIONS = ("float32", "tf32", "bfloat16")
MOST_BYTES = 160_000_000
_WARPS = 8
_REGISTERS = 128
_TILE = 8  # units
_ROWS = 16
_STEP = 16  # of K
_LEAST_FRAGMENTS, _MOST_FRAGMENTS = 2, 32  # each power of two between them is a kernel
_ROWS_AT_ONCE = 32


class Partition(NamedTuple):
    """How one direction of time is split.

    Attributes
    ----------
    unit_warps, split_warps : int
        Tiles of 8 units in a block, and warps that share the length K of each.
    fragments : int
        Steps of 16 along K that a warp holds.
    blocks, groups : int
        Blocks of a group, and groups.
    rows : int
        Batch rows of a group.
    """

    unit_warps: int
    split_warps: int
    fragments: int
    blocks: int
    groups: int
    rows: int

    @property
    def threads(self) -> int:
        """The threads of a block."""
        return 32 * self.unit_warps * self.split_warps

    @property
    def length(self) -> int:
        """The length of K that the fragments cover."""
        return self.split_warps * self.fragments * _STEP

    def shared_bytes(self, tiles: int, words: int) -> int:
        """The shared memory of a block: the warps' partial sums of 32 rows, and `words` of 4 bytes for each thread."""
        return 4 * (self.unit_warps * self.split_warps * _ROWS_AT_ONCE * row_stride(tiles) + words * 256)


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


def columns(width: int, partition: Partition | None) -> int:
    """The row length of a stored sequence that is `width` wide: what a product's fragments reach, for they have no
    edges.

    A multiple of 4 in any case, for 16-byte accesses.
    """
    return max(-(-width // 4) * 4, 0 if partition is None else partition.length)


def row_stride(tiles: int) -> int:
    """The floats between two rows of partial sums in shared memory, so that no bank serves more than two lanes."""
    return _TILE * tiles + (_TILE // 2 if tiles % 2 == 0 else 0)


def plan(
    kind: str,
    hidden_size: int,
    batch_size: int,
    precision: str = "float32",
    *,
    multiprocessors: int | None = None,
) -> Plan:
    """The plan for one layer and direction.

    Parameters
    ----------
    kind : {"lstm", "gru_after", "gru_before", "elman_tanh", "elman_relu", "elman_sigmoid"}
    hidden_size, batch_size : int
    precision : {"float32", "tf32", "bfloat16"}, optional
    multiprocessors : int, optional
        Of the device; those of the current one by default.

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
    for name, value, choices in (("kind", kind, CELLS), ("precision", precision, PRECISIONS)):
        if value not in choices:
            raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    for name, size in (("hidden_size", hidden_size), ("batch_size", batch_size)):
        if size < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {size}")
    if multiprocessors is None and not shim.available():
        raise RuntimeError("multiprocessors: expected a number where there is no CUDA device to ask, got None")
    available = shim.limits().multiprocessors if multiprocessors is None else multiprocessors
    if kind == "gru_before":
        return Plan("stepwise", None, None, "gru_before needs two products per step")
    cell = CELLS[kind]
    forward = _partition(cell.gates, hidden_size, hidden_size, batch_size, precision, available)
    backward = _partition(1, len(cell.recurrent) * hidden_size, hidden_size, batch_size, precision, available)
    if forward is None or backward is None:
        return Plan(
            "stepwise", None, None, f"the weights of {hidden_size} units do not fit {available} multiprocessors"
        )
    read = _bytes_read(backward, len(cell.recurrent) * hidden_size, precision)
    if read > MOST_BYTES:
        return Plan("stepwise", None, None, f"{batch_size} rows would be {read // 10**6} MB to read in a step")
    return Plan("persistent", forward, backward, f"{forward.groups} x {forward.blocks} blocks hold the weights")


def _bytes_read(partition: Partition, length: int, precision: str) -> int:
    """What all blocks read of each other in a step."""
    element = 2 if precision == "bfloat16" else 4
    return partition.blocks * partition.groups * partition.rows * length * element


def _partition(
    tiles: int, length: int, hidden: int, batch: int, precision: str, multiprocessors: int
) -> Partition | None:
    """The first partition that fits: one block, else the fewest units per block."""
    unit_tiles = -(-hidden // _TILE)
    choices = [unit_tiles] if unit_tiles <= _WARPS else []
    for unit_warps in [*choices, 1, 2, 4, 8]:
        split, fragments = _split(length, _WARPS // unit_warps)
        registers = tiles * fragments * (2 if precision == "bfloat16" else 4)
        blocks = -(-unit_tiles // unit_warps)
        if fragments <= _MOST_FRAGMENTS and registers <= _REGISTERS and blocks <= multiprocessors:
            groups = min(multiprocessors // blocks, -(-batch // _ROWS))
            rows = -(-batch // groups)
            return Partition(unit_warps, split, fragments, blocks, -(-batch // rows), rows)
    return None


def _split(length: int, warps: int) -> tuple[int, int]:
    """How many warps share the length, and the fragments of each: a power of two."""
    fragments = _LEAST_FRAGMENTS
    while fragments * warps * _STEP < length:
        fragments *= 2
    return -(-length // (fragments * _STEP)), fragments
