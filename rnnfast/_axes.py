"""Which axes a caller's arrays have, and the views with all axes that the kernels work on.

Inside, everything is time-major with all axes: sequences `[T, B, ...]`, states `[L*D, B, width]`. A layer's caller may
leave the batch axis out or put it first; a step of a cell has no axis for time, and its states none for layers.

Rejected: transposing batch-first arrays (the kernels take strides).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ._checks import Array

__all__ = ["STEP", "Axes", "Shapes", "state_shapes", "y_shapes"]

Shapes = tuple[tuple[int, ...], ...]


class Axes(NamedTuple):
    """The axes of one part's arrays. In all methods, `batched` says whether the caller's arrays have a batch axis.

    Attributes
    ----------
    time : bool
        Whether there is an axis for time: a layer's calls, not a cell's.
    batch_first : bool
        Whether the batch axis comes before that of time, in sequences; states are not affected.
    """

    time: bool = True
    batch_first: bool = False

    @property
    def rank(self) -> int:
        """The axes of a batch of real inputs."""
        return 2 + self.time

    def letters(self, features: str = ", I") -> str:
        """A caller's sequence, for messages."""
        batch = ("B, T" if self.batch_first else "T, B") if self.time else "B"
        single = ("T" if self.time else "") + features
        return f"[{batch}{features}] or [{single.removeprefix(', ')}]"

    def state_letters(self, width: str = "H") -> str:
        """A batch of states, for messages."""
        return f"[L*D, B, {width}]" if self.time else f"[B, {width}]"

    def shape(self, steps: int, batch: int, *features: int, batched: bool) -> tuple[int, ...]:
        """The shape of a caller's sequence."""
        leading: tuple[int, ...] = (batch,) if batched else ()
        if self.time:
            leading = (*leading, steps) if self.batch_first else (steps, *leading)
        return *leading, *features

    def view(self, array: Array, batched: bool) -> Array:
        """The view [T, B, ...] of a caller's sequence."""
        if not batched:
            array = array[None] if not self.time else array[:, None]
        elif self.time and self.batch_first:
            array = array.swapaxes(0, 1)
        return array if self.time else array[None]

    def state_view(self, array: Array, batched: bool) -> Array:
        """The view [L*D, B, width] of a caller's state."""
        if self.time:
            return array if batched else array[:, None]
        return array[None] if batched else array[None, None]

    def state_views(self, arrays: tuple[Array, ...], batched: bool) -> tuple[Array, ...]:
        """Those of several."""
        if self.time and batched:
            return arrays
        return tuple([self.state_view(array, batched) for array in arrays])


STEP = Axes(time=False)
"""Those of a cell's calls."""


@lru_cache(1024)
def state_shapes(axes: Axes, layers: int, batch: int, widths: tuple[int, ...], batched: bool) -> Shapes:
    """The shapes of a caller's state, which no call need make again; `layers` counts directions too."""
    leading = (*((layers,) if axes.time else ()), *((batch,) if batched else ()))
    return tuple([(*leading, width) for width in widths])


@lru_cache(1024)
def y_shapes(axes: Axes, outputs: str, steps: int, batch: int, widths: tuple[int, ...], batched: bool) -> Shapes:
    """The shapes of what a call gives, of both directions' states of these widths; `outputs` as in `_recurrence`."""
    if outputs == "last":
        return (STEP.shape(1, batch, widths[0], batched=batched),)
    of_states = widths if outputs == "states" else widths[:1]
    return tuple([axes.shape(steps, batch, width, batched=batched) for width in of_states])
