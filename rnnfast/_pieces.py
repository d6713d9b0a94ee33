"""Pieces: consecutive steps of all rows, with their masks, cut and joined along time.

A piece is what one forward call can take. A pass of TBPTT is a list of pieces: the context, then the window. A row that
ends within one piece and goes on in the next can't be described by one set of lengths, so such pieces stay apart; all
others can be joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._device import Device

__all__ = ["Piece", "along", "joined", "mapped", "split", "total"]

Array = NDArray[Any]


class Piece(NamedTuple):
    """Consecutive steps of all rows, where the model lies."""

    x: Array
    """[T, B, I] or ids [T, B], with the first two axes swapped where `axis` is 1."""
    resets: Array | None
    """Bool, the first two axes of `x`."""
    lengths: Array | None
    """[B]; None where no row ends early."""
    axis: int
    """Which axis is time."""
    device: Device
    given: Any = None
    """The model's extra inputs, an array or a mapping to such, each with the first two axes of `x`."""

    @property
    def steps(self) -> int:
        """T."""
        return int(self.x.shape[self.axis])

    @property
    def rows(self) -> int:
        """B."""
        return int(self.x.shape[1 - self.axis])

    def within(self) -> Array | None:
        """Which steps lie within their row's length, of the first two axes of `x`; None: all."""
        if self.lengths is None:
            return None
        xp, steps = self.device.xp, self.device.arange(self.steps)
        inside: Array = xp.expand_dims(steps, 1 - self.axis) < xp.expand_dims(self.lengths, self.axis)
        return inside

    def cut(self, start: int, stop: int) -> Piece:
        """Some of the steps, as views."""
        if (start, stop) == (0, self.steps):
            return self
        resets = None if self.resets is None else along(self.resets, start, stop, self.axis)
        lengths = None if self.lengths is None else self.device.xp.clip(self.lengths - start, 0, stop - start)
        given = mapped(lambda array: along(array, start, stop, self.axis), self.given)
        return self._replace(x=along(self.x, start, stop, self.axis), resets=resets, lengths=lengths, given=given)

    def restarted(self, rows: Array) -> Piece:
        """The same with resets of some rows, by a mask [B], at the first step."""
        resets = self._flags().copy()
        along(resets, 0, 1, self.axis)[...] |= self.device.xp.expand_dims(rows, self.axis)
        return self._replace(resets=resets)

    def goes_on_in(self, after: Piece) -> bool:
        """Whether one call can take both: no row goes on in `after` that has ended here, as far as it can be told."""
        if self.x.ndim != after.x.ndim or self.x.dtype != after.x.dtype or _names(self.given) != _names(after.given):
            return False
        if self.lengths is None or self.device.waits:
            return self.lengths is None
        goes_on = True if after.lengths is None else after.lengths > 0
        return not np.any((self.lengths < self.steps) & goes_on)

    def _flags(self) -> Array:
        return self.device.zeros(self.x.shape[:2], np.bool_) if self.resets is None else self.resets


def along(array: Array, start: int, stop: int, axis: int) -> Array:
    """A view of some steps of an array whose axis 0 or 1 is time."""
    return array[:, start:stop] if axis else array[start:stop]


def total(pieces: Iterable[Piece]) -> int:
    """The steps of all pieces."""
    return sum(piece.steps for piece in pieces)


def split(pieces: Iterable[Piece], steps: int) -> tuple[list[Piece], list[Piece]]:
    """The pieces of the first steps and those of the others; one piece may have to be cut for it."""
    before: list[Piece] = []
    after: list[Piece] = []
    for piece in pieces:
        here = min(piece.steps, steps)
        before += [piece.cut(0, here)] if here else []
        after += [piece.cut(here, piece.steps)] if here < piece.steps else []
        steps -= here
    return before, after


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Copies of the pieces, joined where one call can take them."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        if groups and groups[-1][-1].goes_on_in(piece):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return [_join(group) for group in groups]


def _join(pieces: list[Piece]) -> Piece:
    first, xp = pieces[0], pieces[0].device.xp
    x = xp.concatenate([piece.x for piece in pieces], axis=first.axis)
    resets = lengths = None
    if any(piece.resets is not None for piece in pieces):
        resets = xp.concatenate([piece._flags() for piece in pieces], axis=first.axis)
    if any(piece.lengths is not None for piece in pieces):
        lengths = first.device.zeros((first.rows,), np.int64)
        for piece in pieces:
            lengths += piece.steps if piece.lengths is None else piece.lengths
    others = [piece.given for piece in pieces[1:]]
    given = mapped(lambda *parts: xp.concatenate(parts, axis=first.axis), first.given, *others)
    return first._replace(x=x, resets=resets, lengths=lengths, given=given)


def mapped(function: Callable[..., Any], given: Any, *others: Any) -> Any:
    """Extra inputs of the same structure, made array by array; None stays None."""
    if isinstance(given, Mapping):
        return {name: mapped(function, part, *(other[name] for other in others)) for name, part in given.items()}
    return None if given is None else function(given, *others)


def _names(given: Any) -> Any:
    """The structure of extra inputs."""
    return mapped(lambda array: True, given)
