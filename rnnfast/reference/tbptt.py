"""Truncated backpropagation through time, by its definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..description import Cell
from .arguments import Array, Params, as_float64, check_names, choice, lengths_mask
from .heads import DenseResult, dense_backward, dense_forward
from .losses import LOSSES
from .stack import StackResult, stack_backward, stack_forward


@dataclass(frozen=True)
class TbpttWindow:
    """One update of `tbptt_reference`.

    Attributes
    ----------
    loss : float
        Of the window's own steps.
    gradients : dict of str to ndarray
        Of that loss, at the parameters before the update.
    params : dict of str to ndarray
        The parameters after the update.
    start, begin, end : int
        The pass ran over steps [start, end), the loss over [begin, end).
    """

    loss: float
    gradients: Params
    params: Params
    start: int
    begin: int
    end: int


def tbptt_reference(
    cell: str | Cell,
    params: Mapping[str, Any],
    x: ArrayLike,
    target: ArrayLike,
    *,
    loss: str,
    k1: int,
    k2: int | None = None,
    lr: float,
    num_layers: int = 1,
    state: Any = None,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
) -> list[TbpttWindow]:
    """Truncated BPTT with plain SGD, by its definition: recurrent layers in one direction and a dense identity head.

    Every k1 steps there is one update. The one after steps [begin, end) uses the gradient, at the parameters then
    current, of the mean loss of those steps only, as a function of a pass over the steps [start, end) with
    ``start = max(0, end - k2)``. The state at `start` is taken as a constant: it is the one which the previous
    window's pass, with the parameters it had then, computed there. A last, shorter window is an update like the
    others.

    Parameters
    ----------
    cell : str or Cell
        A key of `CELLS`, or a description.
    params : mapping of str to array_like
        ``rnn.weight_ih_l0``, ``rnn.weight_hh_l0``, ``rnn.bias_ih_l0``, ``rnn.bias_hh_l0``, (``rnn.weight_ih_l1``, ...,)
        ``head.weight``, ``head.bias``; the names of ``Model(rnn=..., head=...)``. Not changed.
    x : array_like
        [T, B, I], or integer ids [T, B].
    target : array_like
        [T, B, O] for "mse", integer classes [T, B] for "cross_entropy".
    loss : str
        A key of `LOSSES`; the mean of a window divides by its own sum of weights.
    k1, k2 : int
        Steps per update, and steps that the gradient goes back (None: k1); ``1 <= k1 <= k2``.
    lr : float
        ``params -= lr * gradients``.
    num_layers : int
    state : as for `stack_forward`
        The state before step 0.
    mask : array_like of bool or weights, shape [T, B], optional
        Weights of the loss.
    lengths : array_like of int, shape [B], optional
        Lengths of whole rows; steps beyond have no loss.
    resets : array_like of bool, shape [T, B], optional

    Returns
    -------
    list of TbpttWindow

    Raises
    ------
    ValueError, TypeError
        For k1, k2 or a loss that are not as above, and as `stack_forward`.

    References
    ----------
    Williams & Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories": their BPTT(h; h') has h = k2 and h' = k1.
    """
    k2 = k1 if k2 is None else k2
    if not 1 <= k1 <= k2:
        raise ValueError(f"k1, k2: expected 1 <= k1 <= k2, got {k1} and {k2}")
    loss_function = choice("loss", loss, LOSSES)
    inputs, targets = np.asarray(x), np.asarray(target)
    T, B = inputs.shape[:2]
    active = lengths_mask(lengths, T, B)
    weights = np.where(active, 1.0 if mask is None else as_float64("mask", mask, (T, B)), 0.0)

    def run(at: Params, initial: Any, start: int, end: int) -> StackResult:
        """The recurrent layers over the steps [start, end), from the state before `start`."""
        return stack_forward(
            cell,
            _part(at, "rnn."),
            inputs[start:end],
            initial,
            num_layers=num_layers,
            lengths=active[start:end].sum(axis=0),
            resets=None if resets is None else np.asarray(resets)[start:end],
        )

    current = {name: as_float64(name, value) for name, value in params.items() if value is not None}
    check_names({name for name in current if not name.startswith(("rnn.", "head."))}, set(), set())
    before, previous_start = current, 0
    windows = []
    for begin in range(0, T, k1):
        end = min(begin + k1, T)
        start = max(0, end - k2)
        state = run(before, state, previous_start, start).state
        result = run(current, state, start, end)
        head = dense_forward(_part(current, "head."), result.y[begin - start :])
        value, d_output = loss_function(head.y, targets[begin:end], mask=weights[begin:end])
        gradients = _model_gradients(result, head, d_output)
        before, previous_start = current, start
        current = {name: array - lr * gradients[name] for name, array in current.items()}
        windows.append(TbpttWindow(value, gradients, current, start, begin, end))
    return windows


def _part(params: Params, prefix: str) -> Params:
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _model_gradients(result: StackResult, head: DenseResult, d_output: Array) -> Params:
    """Parameter gradients of the layers and of a head that saw only their last steps."""
    of_head = dense_backward(head, d_output)
    dy = np.zeros_like(result.y)
    dy[len(dy) - len(of_head.dx) :] = of_head.dx
    of_layers = stack_backward(result, dy).params
    return {f"rnn.{name}": value for name, value in of_layers.items()} | {
        f"head.{name}": value for name, value in of_head.params.items()
    }
