"""How far back in time a layer's gradient reaches, step by step.

One tape for each step, because a tape of many steps is used up by one backward call and says nothing of the hidden
states between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks
from . import _state as states
from ._device import holder
from .layers import Recurrent

__all__ = ["gradient_norm_by_distance"]

Array = NDArray[Any]


def gradient_norm_by_distance(layer: Any, x: ArrayLike, dy_last: ArrayLike, state: Any = None) -> NDArray[np.float64]:
    """How the gradient of the last step's loss shrinks or grows with the distance in time.

    Parameters
    ----------
    layer : Recurrent (RNN, LSTM, GRU, ...)
        In one direction. Dropout acts as in training; the layer's generator is left as it was.
    x : array_like
        As for the layer: T steps.
    dy_last : array_like, shape [B, H]
        dLoss/dy at the last step ([H] unbatched).
    state : optional
        The initial state.

    Returns
    -------
    ndarray of float64, shape [T]
        At d, the L2 norm of dLoss/dh after step T-1-d: at 0 of `dy_last` itself, further back of what reaches the
        hidden state (of all layers and rows) that is handed from that step to the next.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or shape, or the layer runs backwards in time, too.

    Examples
    --------
    >>> from rnnfast.diagnostics import gradient_norm_by_distance
    >>> layer = rnnfast.RNN(2, 8, rng=0)
    >>> norms = gradient_norm_by_distance(layer, np.ones((30, 1, 2)), np.ones((1, 8)))
    >>> norms.shape, bool(norms[29] < norms[0] / 1000)  # it vanishes
    ((30,), True)
    """
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer: expected a Recurrent (RNN, LSTM, GRU, ...), got {type(layer).__name__}")
    _checks.runs_forwards("layer", layer)
    with layer.params.device.active():
        return _norms(layer, x, dy_last, state)


def _norms(layer: Recurrent, x: Any, dy_last: Any, state: Any) -> Array:
    port = layer.params.device.port(x)
    sequence: Array = port.checks.numbers("x", x)
    if not sequence.ndim:
        raise ValueError(f"x: expected a sequence, got {_checks.describe(sequence)}")
    last = port.checks.numbers("dy_last", dy_last)
    batched = sequence.ndim == 3 or (sequence.ndim == 2 and sequence.dtype.kind in "iu")
    axis = 1 if batched and layer.batch_first else 0
    steps = sequence.swapaxes(0, axis)
    generator = layer.rng.bit_generator.state
    try:
        tapes = []
        for t in range(len(steps)):
            y, state, tape = layer.forward(steps[t : t + 1].swapaxes(0, axis), state)
            _checks.shape("dy_last", last, y.swapaxes(0, axis).shape[1:])
            tapes.append(tape)
    finally:
        layer.rng.bit_generator.state = generator
    dy: Array | None = last[:, None] if axis else last[None]
    dstate = None
    norms = [_norm(last)]
    scratch = layer.params.zeros()
    for tape in reversed(tapes[1:]):
        dstate = layer.backward(tape, dy, dstate, into=scratch, input_gradient=False).state
        dy = None
        norms.append(_norm(next(states.arrays(dstate))))
    return np.array(norms[: len(tapes)])


def _norm(array: Array) -> float:
    return float(np.linalg.norm(np.asarray(holder(array).to_host(array), np.float64)))
