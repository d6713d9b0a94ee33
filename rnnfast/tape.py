"""What a training forward leaves for its backward, and what backward returns.

A tape knows whose it is, which parameters it was made with, and what its input contained, because backward with any
other of them would give wrong gradients without a sign of it. Its memory outlives its use: given back with `tape=`, it
serves the next forward, so that a training loop stops allocating after its first step. Of ids it has a copy.

On a CUDA device the contents of `x` are not looked at, because the caller would wait for that: an `x` which is changed
between forward and backward gives gradients of neither.

Rejected: a copy of `x` instead of a checksum of it (as much memory again as the input); a fresh tape object per call
with a memory pool in the layer (two Python threads could not train one layer).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ._checks import Array, describe
from ._device import HOST, Device
from .parameters import Gradients, Parameters

__all__ = ["Grads", "Tape"]


_Value = TypeVar("_Value")


class Grads(NamedTuple):
    """What `backward` returns.

    Attributes
    ----------
    x : array or None
        dLoss/dx in the layout of `x`, and where `x` lay: a NumPy array, or CuPy's on a CUDA device; so all but
        `params`. None for ids and with `input_gradient=False`.
    state : array, tuple of arrays or None
        dLoss/dstate of the initial state, in the state's structure; None for parts without a state.
    params : Gradients
        dLoss/dparameters, where the parameters lie.
    reset_state : array, tuple of arrays or None
        dLoss/dreset_state; None unless one was given.
    given : dict or None
        dLoss/d of the extra inputs, by name; None for cells that have none.
    """

    x: Array | None
    state: Any
    params: Gradients
    reset_state: Any = None
    given: Any = None


class Tape:
    """The memory of one training forward, good for one backward, and reusable after it.

    `forward` makes it; `forward(..., tape=old)` writes a new recording into an old one's memory. A copy, or what comes
    out of a pickle, is an empty tape.
    """

    def __init__(self) -> None:
        self._owner: Any = None
        self._device: Device = HOST
        self._version = -1
        self._checksum = 0
        self._x: Array | None = None
        self._recording: Any = None
        self._unspent: list[None] = []  # what the one backward takes out
        self._buffers: dict[Hashable, Array] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __repr__(self) -> str:
        owner = type(self._owner).__name__ if self._owner is not None else "no part"
        return f"Tape(of {owner}, {'recorded' if self._recording is not None else 'used'}, {self.nbytes} bytes)"

    @property
    def nbytes(self) -> int:
        """The bytes of memory held, without the input."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def buffer(self, key: Hashable, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Uninitialised aligned memory under a key of the owner's; the same as last time if that is large enough."""
        size = math.prod(shape)
        memory = self._buffers.get(key)
        if memory is None or memory.size < size:
            memory = self._buffers[key] = self._device.empty((size,), dtype)
        return memory[:size].reshape(shape)

    def finish(self, x: Array, recording: Any) -> None:
        """The forward is complete: keep what backward needs."""
        self._x, self._checksum, self._recording = x, self._device.checksum(x), recording
        self._unspent = [None]

    def serves(self, params: Parameters) -> bool:
        """Whether it holds a forward with the parameters as they are."""
        return self._recording is not None and self._version == params.version

    def same_version(self, version: int, value: _Value) -> _Value:
        """`value`, if it is of the parameters that the forward had."""
        if version != self._version:
            raise ValueError(
                "tape: expected the parameters as they were in forward, got changed ones; run forward again"
            )
        return value

    def spend(self) -> None:
        """Backward begins: from here on the recording is gone. Of two threads one gets here."""
        try:
            self._unspent.pop()
        except IndexError:
            raise ValueError(_USED) from None
        self.clear()

    def clear(self) -> None:
        """Forget the recording, if there is one."""
        self._unspent = []
        self._recording = self._x = None


_USED = "tape: expected one that holds a forward, got a used one; run forward again"


def begin(tape: Any, owner: Any, params: Parameters) -> Tape:
    """A tape for a forward that begins: a new one, or the memory of `tape`, whose recording is gone from here on."""
    fresh = Tape() if tape is None else checked(tape, owner)
    fresh.clear()
    fresh._owner, fresh._version, fresh._device = owner, params.version, params.device
    return fresh


def recording(tape: Any, owner: Any, params: Parameters) -> Any:
    """What `owner` recorded on `tape`, if its backward may still use it; it may until `tape.spend`."""
    held = checked(tape, owner)
    kept, x = held._recording, held._x  # once: another thread may use it up meanwhile
    if kept is None or x is None:
        raise ValueError(_USED)
    held.same_version(params.version, None)
    if held._device.checksum(x) != held._checksum:
        raise ValueError("tape: expected x as it was in forward, got changed contents; run forward again")
    return kept


def checked(tape: Any, owner: Any) -> Tape:
    """A caller's tape, if it is this owner's or nobody's yet."""
    if not isinstance(tape, Tape):
        raise TypeError(f"tape: expected a Tape, got {describe(tape)}")
    if tape._owner is not None and tape._owner is not owner:
        raise ValueError(f"tape: expected a tape of this {type(owner).__name__}, got one of another part")
    return tape
