"""Which axes a caller's arrays have, and the views with all axes that the kernels work on.

Inside, everything is time-major with all axes: sequences `[T, B, ...]`, states `[L*D, B, width]`. A layer's caller may
leave the batch axis out or put it first; a step of a cell has no axis for time, and its states none for layers.

Rejected: transposing batch-first arrays (the kernels take strides).
"""

from __future__ import annotations

from typing import NamedTuple

from ._checks import Array

__all__ = ["STEP", "Axes"]


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

    def state_shape(self, layers: int, batch: int, width: int, batched: bool) -> tuple[int, ...]:
        """The shape of a caller's state; `layers` counts directions too."""
        leading: tuple[int, ...] = (layers,) if self.time else ()
        return (*leading, batch, width) if batched else (*leading, width)

    def state_view(self, array: Array, batched: bool) -> Array:
        """The view [L*D, B, width] of a caller's state."""
        if self.time:
            return array if batched else array[:, None]
        return array[None] if batched else array[None, None]


STEP = Axes(time=False)
"""Those of a cell's calls."""
