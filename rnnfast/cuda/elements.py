"""What kernels over elements share: their grid, how stored elements are read and written, and the masks.

Such a kernel walks ``for i in range(first(), count, stride())``: one element a thread on a GPU, many in the simulator,
where every thread is one of the host's and takes a tenth of a millisecond to start.

The masks are those of `sequence`. In the reverse direction the step before t is t + 1, so a reset there replaces the
state; it lies within the row, or it is not read.

Rejected: a kernel for each combination of masks (a null pointer is a branch that all threads take alike).
"""

from __future__ import annotations

from typing import Any

from . import shim
from .shim import float32

__all__ = ["active", "first", "grid", "load_or_zero", "loader", "restarts", "runs", "spoilt", "storer", "stride"]


def grid(count: int) -> tuple[int, int]:
    """Blocks, and threads of a block, for so many elements."""
    return (2, 3) if shim.SIMULATED else (max(1, -(-count // 256)), 256)


@shim.device
def first() -> Any:
    """The first element of the calling thread."""
    return shim.block() * shim.threads() + shim.thread()


@shim.device
def stride() -> Any:
    """From an element of the calling thread to its next."""
    return shim.blocks() * shim.threads()


def loader(precision: str) -> Any:
    """The device function ``(pointer, index) -> float32`` for stored elements."""
    return shim.load_bf16 if precision == "bfloat16" else shim.load


def storer(precision: str) -> Any:
    """The device function ``(pointer, index, float32)`` for stored elements."""
    return shim.store_bf16 if precision == "bfloat16" else shim.store


@shim.device
def load_or_zero(p: Any, i: Any) -> Any:
    """A float32 of an array that need not be there."""
    if shim.given(p):
        return shim.load(p, i)
    return float32(0)


@shim.device
def active(lengths: Any, t: Any, b: Any) -> Any:
    """Whether row b has a step t."""
    if shim.given(lengths):
        return t < shim.load_int64(lengths, b)
    return True


@shim.device
def runs(lengths: Any, skip: Any, t: Any, b: Any, B: Any) -> Any:
    """Whether row b computes step t: it has one, and does not skip it."""
    if not active(lengths, t, b):
        return False
    if shim.given(skip):
        return not shim.load_bool(skip, t * B + b)
    return True


@shim.device
def restarts(lengths: Any, resets: Any, reverse: Any, t: Any, b: Any, T: Any, B: Any) -> Any:
    """Whether row b's state is replaced before step t."""
    if not shim.given(resets):
        return False
    boundary = t + reverse
    if boundary >= T or not active(lengths, boundary, b):
        return False
    return shim.load_bool(resets, boundary * B + b)


@shim.device
def spoilt(lengths: Any, b: Any, T: Any) -> Any:
    """Whether row b's length is outside 0..T."""
    if not shim.given(lengths):
        return False
    length = shim.load_int64(lengths, b)
    return length < 0 or length > T
