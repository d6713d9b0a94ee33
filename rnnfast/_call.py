"""The two calls of a kernel, one tuple each: what the walk over layers hands to the kernels of the host or of a device.

The compiled kernels read the fields by position, so their order is part of the interface: `_core.FORWARD_FIELDS` and
`_core.BACKWARD_FIELDS` say it again, and a test holds them equal.

`T` is the number of steps, `B` of rows, `I` of the input's features, `W` the width of a state (`H`, its units, in a
fused cell). Sequences may have any strides but a unit stride in their last axis; states are C-contiguous. "Of each
state" is a tuple with one entry per state, in the cell's order; None in its place stands for a tuple of Nones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["BackwardCall", "ForwardCall"]

Array = Any  # of NumPy, or of a device
OfStates = tuple[Array | None, ...] | None


class ForwardCall(NamedTuple):
    """What a kernel's `forward` takes.

    Attributes
    ----------
    panels : array, shape [panel_size]
        The packed parameters.
    x : array, shape [T, B, I]; or int64 [T, B]
        The input; or ids in 0..I-1 that stand for one-hot vectors.
    y : tuple of array or None, shape [T, B, W]
        Where to write each state after each step; None where that is not wanted. A fused cell writes the first alone.
    state : tuple of array or None, shape [B, W]
        The initial states; None is zeros.
    final_state : tuple of array, shape [B, W]
        Where to write the states after the last step; may be `state`.
    reset_state : tuple of array or None, shape [B, W]
        The states that a reset puts in; None is zeros.
    lengths : int64 array, shape [B], or None
        The steps of each row, in 0..T.
    resets : bool array, shape [T, B], or None
        True where the row's states are replaced before the step.
    reverse : bool
        Whether the steps run from the last to the first.
    tape : array, shape [tape_size(T, B)], or None
        Where to keep what backward needs; None is inference.
    num_threads : int
        0 is the default.
    skip : bool array, shape [T, B], or None
        True where the states pass through untouched. Described cells only, as all that follows.
    given : tuple of array, shape [T, B, width], or [T, B] where the width is 1
        The further inputs of each step.
    seed : int
        Of the random masks, 64 bits.
    first_step, layer : int
        Where the call's first step and its layer are in the random masks' count.
    training : bool
        Whether random masks are drawn.
    """

    panels: Array
    x: Array
    y: OfStates
    state: OfStates
    final_state: OfStates
    reset_state: OfStates = None
    lengths: Array | None = None
    resets: Array | None = None
    reverse: bool = False
    tape: Array | None = None
    num_threads: int = 0
    skip: Array | None = None
    given: tuple[Array, ...] = ()
    seed: int = 0
    first_step: int = 0
    layer: int = 0
    training: bool = False


class BackwardCall(NamedTuple):
    """What a kernel's `backward` takes.

    Attributes
    ----------
    panels : array, shape [panel_size]
        As in the forward call; so are `x`, `state`, `reset_state`, `lengths`, `resets`, `reverse`, `num_threads`,
        `skip`, `given`, `seed`, `first_step` and `layer`.
    panels_backward : array, shape [panel_size_backward]
        The parameters as backward reads them.
    x : array, shape [T, B, I]; or int64 [T, B]
    tape : array, shape [tape_size(T, B)]
        What the forward call has kept; backward overwrites it.
    dy : tuple of array or None, shape [T, B, W]
        dLoss/dy of each state; None is zeros. A fused cell takes the first alone.
    dfinal : tuple of array or None, shape [B, W]
        dLoss/dfinal_state; None is zeros.
    dx : array, shape [T, B, I], or None
        Where to write dLoss/dx; None for ids, or where it is not wanted.
    dstate : tuple of array or None, shape [B, W]
        Where to write dLoss/dstate; None where it is not wanted.
    dpanels : array, shape [gradient_size]
        Where to write the parameters' gradients, laid out as `panels`. Behind them is what rounding leaves of the sums
        of biases and vectors, for the call that adds the sums of the steps before.
    state, reset_state : tuple of array or None, shape [B, W]
    lengths : int64 array, shape [B], or None
    resets : bool array, shape [T, B], or None
    reverse : bool
    d_reset_state : tuple of array or None, shape [B, W]
        Where to write dLoss/dreset_state; None where it is not wanted.
    num_threads : int
    skip : bool array, shape [T, B], or None
    given : tuple of array, shape [T, B, width], or [T, B] where the width is 1
    dgiven : tuple of array or None, shapes of `given`
        Where to write the gradients of the further inputs; None where one is not wanted.
    seed, first_step, layer : int
    adds : bool
        Whether to add to what `dpanels` and `d_reset_state` hold.
    """

    panels: Array
    panels_backward: Array
    x: Array
    tape: Array
    dy: OfStates
    dfinal: OfStates
    dx: Array | None
    dstate: OfStates
    dpanels: Array
    state: OfStates = None
    reset_state: OfStates = None
    lengths: Array | None = None
    resets: Array | None = None
    reverse: bool = False
    d_reset_state: OfStates = None
    num_threads: int = 0
    skip: Array | None = None
    given: tuple[Array, ...] = ()
    dgiven: tuple[Array | None, ...] = ()
    seed: int = 0
    first_step: int = 0
    layer: int = 0
    adds: bool = False
