"""What one layer and direction of a kind with kernels of its own does between its input product and its gradients.

`kernel` makes the input products before and the gradients' GEMMs after; what is left is the recurrence, which
`persistent` runs in one launch for all steps. (`described` has the other engines, for every cell.) `Forward` and
`Backward` are what it is given; the *trail* is what forward leaves for backward.

Time: the steps are processed t = 0..T-1, or T-1..0 in the reverse direction. Row b is active at t if t < lengths[b].
`used[t]` is the state that step t reads: the one before it, or the reset state where a reset lies between, and zero
where the row has ended. Storing it (and not the states themselves) makes the trail the right operand of the weight
gradient, masks and all; it is also what the blocks of the persistent engine hand to each other.

Stored: sequences that are operands of GEMMs and of tensor cores are kept as the precision says, float32 or (as uint16)
bfloat16. Their rows are a multiple of 4 long (`plan.columns`); what lies beyond the width is never read.

Rejected: separate copies of the gates' gradients for the input side and the recurrent side. They differ for
`gru_after`'s n alone, so its gradient has four parts in the order n's recurrent side, r, z, n's input side: both sides
are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CELLS", "Backward", "Cell", "Forward", "Trail", "stored_dtype", "trail_sizes"]

Array = Any  # a device array


class Cell(NamedTuple):
    """What differs between the kinds that the persistent engine has, outside of their gate arithmetic."""

    gates: int
    kept: int
    """Activated values per unit and step on the trail."""
    has_c: bool
    slots: int
    """Gradients per unit and step."""
    recurrent: tuple[int, ...]
    """The gates in the order of the gradients' first slots, which are the recurrent side."""
    input_slot: int
    """The first of the G slots that are the input side, in gate order."""
    apart: int = -1
    """The gate whose b_hh belongs to the recurrent side; -1 for none."""
    reads_h: bool = False
    """Whether backward reads the state h before the step."""


CELLS: dict[str, Cell] = {
    "elman_tanh": Cell(1, 1, False, 1, (0,), 0),
    "elman_relu": Cell(1, 1, False, 1, (0,), 0),
    "elman_sigmoid": Cell(1, 1, False, 1, (0,), 0),
    "lstm": Cell(4, 4, True, 4, (0, 1, 2, 3), 0),
    "gru_after": Cell(3, 4, False, 4, (2, 0, 1), 1, apart=2, reads_h=True),
}


@dataclass(frozen=True)
class Trail:
    """What a training forward leaves: of each step t, for every row and unit.

    Attributes
    ----------
    used : [T, B, columns], stored
        h as step t read it.
    kept : [T, B, kept, H] float32
        The activated gates: i, f, g, o; r, z, n and U_n h + b_hn; or h.
    used_c : [T, B, H] float32 or None
        c as step t read it.
    """

    used: Array
    kept: Array
    used_c: Array | None = None


@dataclass(frozen=True)
class Masks:
    """Where rows end and states are replaced; see the module."""

    lengths: Array | None = None  # int64 [B]
    resets: Array | None = None  # bool [T, B], C-contiguous
    reset_h: Array | None = None  # [B, H]
    reset_c: Array | None = None


@dataclass(frozen=True)
class Forward:
    """The recurrence forward.

    Attributes
    ----------
    kind, precision : str
    reverse : bool
    gates_x : [T, B, G * H] float32
        W x, without biases.
    weight : [G * H, H] float32
        U.
    bias_ih, bias_hh : [G * H] float32 or None
    h0, c0 : [B, H] float32 or None
    h, c : [B, H] float32
        Written: the final state. The engines keep the running state there.
    y : [T, B, H] float32, any strides with unit stride in the last axis
        Written.
    masks : Masks
    trail : Trail or None
        Written; None for inference.
    """

    kind: str
    precision: str
    reverse: bool
    gates_x: Array
    weight: Array
    bias_ih: Array | None
    bias_hh: Array | None
    h0: Array | None
    c0: Array | None
    h: Array
    c: Array | None
    y: Array
    masks: Masks
    trail: Trail | None


@dataclass(frozen=True)
class Backward:
    """The recurrence backward.

    Attributes
    ----------
    kind, precision, reverse, weight, masks : as in `Forward`
    trail : Trail
    dy : [T, B, H] float32, any strides with unit stride in the last axis, or None
        Not read where rows have ended.
    dh_final, dc_final : [B, H] float32 or None
    gradients : [T, B, columns] stored
        Written: the slots side by side, [T, B, slots * H], zeros where rows have ended.
    dh0, dc0 : [B, H] float32
        Written. The engines keep the running gradients there.
    d_reset_h, d_reset_c : [B, H] float32 or None
        Written: the sums of what reached the reset states.
    """

    kind: str
    precision: str
    reverse: bool
    weight: Array
    masks: Masks
    trail: Trail
    dy: Array | None
    dh_final: Array | None
    dc_final: Array | None
    gradients: Array
    dh0: Array
    dc0: Array | None
    d_reset_h: Array | None
    d_reset_c: Array | None


def stored_dtype(precision: str) -> Any:
    """The dtype of stored sequences: float32, or uint16 for bfloat16."""
    return np.dtype(np.uint16 if precision == "bfloat16" else np.float32)


def trail_sizes(kind: str, steps: int, batch: int, hidden: int, columns: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a trail's arrays by name; those that the kind has none of are left out."""
    cell = CELLS[kind]
    shapes: dict[str, tuple[int, ...]] = {
        "used": (steps, batch, columns),
        "kept": (steps, batch, cell.kept, hidden),
    }
    if cell.has_c:
        shapes["used_c"] = (steps, batch, hidden)
    return shapes
