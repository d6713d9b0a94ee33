"""The six cells that have kernels written by hand: one step forward and one backward, with derivatives by hand, too.

The independent computation that the generic oracle is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rnnfast.reference.activations import ACTIVATIONS, Activation, sigmoid, sigmoid_backward, tanh_backward
from rnnfast.reference.arguments import Array, State


@dataclass(frozen=True)
class StepGradients:
    """What one step backward returns: dLoss/da, dLoss/d(state before the step), the step's share of dU and db_hh."""

    da: Array
    dstate_prev: State
    dweight_hh: Array
    dbias_hh: Array


@dataclass(frozen=True)
class Formula:
    """One kind of cell.

    Attributes
    ----------
    gates : int
        G, the number of row blocks of [H, ...] in the weights.
    has_c : bool
        Whether the state is ``(h, c)`` rather than ``(h,)``.
    step : callable
        ``step(a, state_prev, weight_hh, bias_hh) -> (state, saved)``: `a` [B, G*H] is ``W x + b_ih``; `saved` is what
        the step backward needs.
    step_backward : callable
        ``step_backward(saved, weight_hh, dstate) -> StepGradients``: `dstate` is dLoss/d(state after the step).
    """

    gates: int
    has_c: bool
    step: Callable[[Array, State, Array, Array], tuple[State, State]]
    step_backward: Callable[[State, Array, State], StepGradients]


def _elman(activation: Activation) -> Formula:
    """Elman 1990 (Finding structure in time): ``h = act(W x + b_ih + U h_prev + b_hh)``."""

    def step(a: Array, state_prev: State, weight_hh: Array, bias_hh: Array) -> tuple[State, State]:
        (h_prev,) = state_prev
        h = activation.forward(a + h_prev @ weight_hh.T + bias_hh)
        return (h,), (h_prev, h)

    def step_backward(saved: State, weight_hh: Array, dstate: State) -> StepGradients:
        h_prev, h = saved
        (dh,) = dstate
        da = activation.backward(h, dh)
        return StepGradients(da, (da @ weight_hh,), da.T @ h_prev, da.sum(axis=0))

    return Formula(1, False, step, step_backward)


def _lstm_step(a: Array, state_prev: State, weight_hh: Array, bias_hh: Array) -> tuple[State, State]:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000, no peepholes."""
    h_prev, c_prev = state_prev
    zi, zf, zg, zo = np.split(a + h_prev @ weight_hh.T + bias_hh, 4, axis=1)
    i, f, g, o = sigmoid(zi), sigmoid(zf), np.tanh(zg), sigmoid(zo)
    c = f * c_prev + i * g
    tanh_c = np.tanh(c)
    return (o * tanh_c, c), (h_prev, c_prev, i, f, g, o, tanh_c)


def _lstm_step_backward(saved: State, weight_hh: Array, dstate: State) -> StepGradients:
    h_prev, c_prev, i, f, g, o, tanh_c = saved
    dh, dc_next = dstate
    dc = dc_next + tanh_backward(tanh_c, dh * o)
    dzi = sigmoid_backward(i, dc * g)
    dzf = sigmoid_backward(f, dc * c_prev)
    dzg = tanh_backward(g, dc * i)
    dzo = sigmoid_backward(o, dh * tanh_c)
    da = np.concatenate([dzi, dzf, dzg, dzo], axis=1)
    return StepGradients(da, (da @ weight_hh, dc * f), da.T @ h_prev, da.sum(axis=0))


def _gru_after_step(a: Array, state_prev: State, weight_hh: Array, bias_hh: Array) -> tuple[State, State]:
    """Cho et al. 2014, the reset gate applied *after* the product with U_n, as in cuDNN and PyTorch."""
    (h_prev,) = state_prev
    ar, az, an = np.split(a, 3, axis=1)
    ur, uz, un = np.split(h_prev @ weight_hh.T + bias_hh, 3, axis=1)
    r, z = sigmoid(ar + ur), sigmoid(az + uz)
    n = np.tanh(an + r * un)
    return ((1.0 - z) * n + z * h_prev,), (h_prev, un, r, z, n)


def _gru_after_step_backward(saved: State, weight_hh: Array, dstate: State) -> StepGradients:
    h_prev, un, r, z, n = saved
    (dh,) = dstate
    dan = tanh_backward(n, dh * (1.0 - z))
    daz = sigmoid_backward(z, dh * (h_prev - n))
    dar = sigmoid_backward(r, dan * un)
    da = np.concatenate([dar, daz, dan], axis=1)
    du = np.concatenate([dar, daz, dan * r], axis=1)
    return StepGradients(da, (dh * z + du @ weight_hh,), du.T @ h_prev, du.sum(axis=0))


def _gru_before_step(a: Array, state_prev: State, weight_hh: Array, bias_hh: Array) -> tuple[State, State]:
    """Cho et al. 2014 as published: the reset gate applied to h_prev *before* the product with U_n."""
    (h_prev,) = state_prev
    ar, az, an = np.split(a + bias_hh, 3, axis=1)
    weight_r, weight_z, weight_n = np.split(weight_hh, 3)
    r, z = sigmoid(ar + h_prev @ weight_r.T), sigmoid(az + h_prev @ weight_z.T)
    n = np.tanh(an + (r * h_prev) @ weight_n.T)
    return ((1.0 - z) * n + z * h_prev,), (h_prev, r, z, n)


def _gru_before_step_backward(saved: State, weight_hh: Array, dstate: State) -> StepGradients:
    h_prev, r, z, n = saved
    (dh,) = dstate
    weight_r, weight_z, weight_n = np.split(weight_hh, 3)
    dan = tanh_backward(n, dh * (1.0 - z))
    daz = sigmoid_backward(z, dh * (h_prev - n))
    drh = dan @ weight_n
    dar = sigmoid_backward(r, drh * h_prev)
    dh_prev = dh * z + drh * r + dar @ weight_r + daz @ weight_z
    dweight_hh = np.concatenate([dar.T @ h_prev, daz.T @ h_prev, dan.T @ (r * h_prev)])
    da = np.concatenate([dar, daz, dan], axis=1)
    return StepGradients(da, (dh_prev,), dweight_hh, da.sum(axis=0))


FORMULAS: dict[str, Formula] = {
    "elman_tanh": _elman(ACTIVATIONS["tanh"]),
    "elman_relu": _elman(ACTIVATIONS["relu"]),
    "elman_sigmoid": _elman(ACTIVATIONS["sigmoid"]),
    "lstm": Formula(4, True, _lstm_step, _lstm_step_backward),
    "gru_after": Formula(3, False, _gru_after_step, _gru_after_step_backward),
    "gru_before": Formula(3, False, _gru_before_step, _gru_before_step_backward),
}
