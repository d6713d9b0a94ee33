"""One layer in one direction: the loop over time, and what lengths and resets mean in it.

Each step works on the rows that are active in it (``t < lengths[b]``) and copies only those, so nothing beyond a row's
length can be read. A row *restarts* at a step if the state it carries is replaced by the reset state before the step.
Forward in time that is where ``resets`` is true. In reverse the same boundary, between ``t - 1`` and ``t``, is met at
step ``t - 1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arguments import (
    Array,
    Params,
    State,
    as_float64,
    as_float64_or_zeros,
    check_names,
    choice,
    columns,
    lengths_mask,
    one_hot,
)
from .cells import CELLS, Cell


@dataclass(frozen=True)
class Step:
    """One step as it was computed, for the rows that were active in it.

    Attributes
    ----------
    t : int
    rows : ndarray of int, shape [N]
        The active rows; the first axis of everything below.
    restart : ndarray of bool, shape [N]
        Whether the row's carried state was replaced before the step.
    x : ndarray, shape [N, I]
        The input, one-hot for ids.
    saved : tuple of ndarray
        What the cell's step kept for its backward.
    """

    t: int
    rows: NDArray[np.int64]
    restart: NDArray[np.bool_]
    x: Array
    saved: State


@dataclass(frozen=True)
class Result:
    """What `forward` returns and `backward` takes.

    Attributes
    ----------
    y : ndarray, shape [T, B, H]
    hT, cT : ndarray, shape [B, H]
        The final state; `cT` is None unless the cell is an LSTM.
    steps : list of Step
        In the order of computation (descending t in reverse).
    kind, params, from_ids
        The call's cell, its parameters as float64 (absent biases left out), and whether `x` held ids.
    """

    y: Array
    hT: Array
    cT: Array | None
    steps: list[Step]
    kind: str
    params: Params
    from_ids: bool


@dataclass(frozen=True)
class Gradients:
    """What `backward` returns.

    Attributes
    ----------
    dx : ndarray, shape [T, B, I]
        None if the input was ids.
    dh0, dc0 : ndarray, shape [B, H]
        With respect to the initial state; `dc0` is None unless the cell is an LSTM.
    d_reset_h, d_reset_c : ndarray, shape [B, H]
        With respect to the state that resets put in (given or zero), summed over the row's restarts.
    params : dict of str to ndarray
        By parameter name, only those that were given.
    """

    dx: Array | None
    dh0: Array
    dc0: Array | None
    d_reset_h: Array
    d_reset_c: Array | None
    params: Params


def _layer_params(kind: str, params: Mapping[str, Any]) -> tuple[Cell, Params]:
    """The cell, and checked float64 copies of one layer's parameters without absent biases."""
    cell: Cell = choice("kind", kind, CELLS)
    given = {name: as_float64(name, value) for name, value in params.items() if value is not None}
    check_names(given, {"weight_ih", "weight_hh"}, {"bias_ih", "bias_hh"})
    input_size, hidden_size = columns(given, "weight_ih"), columns(given, "weight_hh")
    rows = cell.gates * hidden_size
    shapes = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, hidden_size),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
    return cell, {name: as_float64(name, value, shapes[name]) for name, value in given.items()}


def _layer_input(x: ArrayLike, input_size: int) -> tuple[NDArray[Any], bool]:
    """`x` as an array of [T, B, I], or of ids [T, B]; and whether it holds ids."""
    array = np.asarray(x)
    if array.ndim == 2 and array.dtype.kind in "iu":
        return array, True
    if array.ndim != 3 or array.shape[2] != input_size:
        raise ValueError(
            f"x: expected shape [T, B, {input_size}], or integer ids [T, B]; got {array.dtype} {array.shape}"
        )
    return as_float64("x", array), False


def _state(cell: Cell, names: tuple[str, str], values: tuple[Any, Any], shape: tuple[int, ...]) -> State:
    """The state ``(h,)`` or ``(h, c)`` as new arrays, None being zeros."""
    if values[1] is not None and not cell.has_c:
        raise ValueError(f"{names[1]}: expected None, only an LSTM has a c")
    count = 2 if cell.has_c else 1
    return tuple(as_float64_or_zeros(names[k], values[k], shape) for k in range(count))


def _restarts(resets: ArrayLike | None, active: NDArray[np.bool_], reverse: bool) -> NDArray[np.bool_]:
    """Where the carried state is replaced before the step: [T, B]."""
    if resets is None:
        return np.zeros_like(active)
    starts = np.asarray(resets).astype(bool)
    if starts.shape != active.shape:
        raise ValueError(f"resets: expected shape {active.shape}, got {starts.shape}")
    starts = starts & active
    if not reverse:
        return starts
    return np.concatenate([starts[1:], np.zeros_like(starts[:1])])


def _c_or_none(state: State) -> Array | None:
    return state[1] if len(state) == 2 else None


def forward(
    kind: str,
    params: Mapping[str, Any],
    x: ArrayLike,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_h: ArrayLike | None = None,
    reset_c: ArrayLike | None = None,
    reverse: bool = False,
) -> Result:
    """Run one layer in one direction.

    Parameters
    ----------
    kind : str
        A key of `CELLS`.
    params : mapping of str to array_like
        ``weight_ih`` [G*H, I], ``weight_hh`` [G*H, H], and ``bias_ih``, ``bias_hh`` [G*H]; a bias may be missing or
        None.
    x : array_like
        Input [T, B, I], or integer ids [T, B] that stand for one-hot rows. Not read where ``t >= lengths[b]``.
    h0, c0 : array_like, shape [B, H], optional
        Initial state, zeros if None. `c0` is for the LSTM only.
    lengths : array_like of int, shape [B], optional
        Row b is active at steps ``t < lengths[b]``. Beyond, `y` is 0; the state stays what it was after the row's
        last step, and the reverse direction starts at that step.
    resets : array_like of bool, shape [T, B], optional
        True where a new segment starts. Forward, the row's state is replaced before step t; in reverse, before step
        t-1, unless t-1 is outside the row. Not read beyond `lengths`.
    reset_h, reset_c : array_like, shape [B, H], optional
        The state that a reset puts in, zeros if None.
    reverse : bool
        Walk from each row's last step to its first. ``y[t]`` is the output at step t in both directions.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        For an unknown kind, missing or surplus parameters, wrong shapes, lengths or active ids out of range, a `c`
        without LSTM.
    TypeError
        For arrays that are not real, or lengths that are not integers.

    Notes
    -----
    Formulas: Elman 1990; Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014.
    """
    cell, params64 = _layer_params(kind, params)
    (rows_of_gates, input_size), hidden_size = params64["weight_ih"].shape, params64["weight_hh"].shape[1]
    inputs, from_ids = _layer_input(x, input_size)
    T, B = inputs.shape[:2]
    state = _state(cell, ("h0", "c0"), (h0, c0), (B, hidden_size))
    reset_state = _state(cell, ("reset_h", "reset_c"), (reset_h, reset_c), (B, hidden_size))
    active = lengths_mask(lengths, T, B)
    restarts = _restarts(resets, active, reverse)
    bias_ih, bias_hh = (params64.get(name, np.zeros(rows_of_gates)) for name in ("bias_ih", "bias_hh"))

    y = np.zeros((T, B, hidden_size))
    steps = []
    for t in reversed(range(T)) if reverse else range(T):
        rows = np.flatnonzero(active[t])
        restart = restarts[t, rows]
        x_t = one_hot(inputs[t, rows], input_size) if from_ids else inputs[t, rows]
        state_prev = tuple(
            np.where(restart[:, None], reset[rows], carried[rows])
            for carried, reset in zip(state, reset_state, strict=True)
        )
        a = x_t @ params64["weight_ih"].T + bias_ih
        state_next, saved = cell.step(a, state_prev, params64["weight_hh"], bias_hh)
        for carried, new in zip(state, state_next, strict=True):
            carried[rows] = new
        y[t, rows] = state_next[0]
        steps.append(Step(t, rows, restart, x_t, saved))
    return Result(y, state[0], _c_or_none(state), steps, kind, params64, from_ids)


def backward(
    result: Result, dy: ArrayLike | None, dhT: ArrayLike | None = None, dcT: ArrayLike | None = None
) -> Gradients:
    """Backpropagate through one layer in one direction.

    Parameters
    ----------
    result : Result
        From `forward`. It is not changed and may be used again.
    dy : array_like, shape [T, B, H], or None
        dLoss/dy, zeros if None. Not read where ``t >= lengths[b]``.
    dhT, dcT : array_like, shape [B, H], optional
        dLoss/d(final state), zeros if None.

    Returns
    -------
    Gradients
        ``dx`` is 0 beyond `lengths`. Gradients stop at a restart: what would flow on goes to ``d_reset_h``,
        ``d_reset_c``.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, arrays that are not real, a `dcT` without LSTM.
    """
    cell, params = CELLS[result.kind], result.params
    T, B, hidden_size = result.y.shape
    dy = as_float64_or_zeros("dy", dy, result.y.shape)
    dstate = _state(cell, ("dhT", "dcT"), (dhT, dcT), (B, hidden_size))
    d_reset = tuple(np.zeros_like(part) for part in dstate)
    dx = np.zeros((T, B, params["weight_ih"].shape[1]))
    dparams = {name: np.zeros_like(value) for name, value in params.items()}

    for step in reversed(result.steps):
        dh, *rest = (part[step.rows] for part in dstate)
        gradients = cell.step_backward(step.saved, params["weight_hh"], (dh + dy[step.t, step.rows], *rest))
        restart = step.restart[:, None]
        for carried, reset, d_prev in zip(dstate, d_reset, gradients.dstate_prev, strict=True):
            reset[step.rows] += np.where(restart, d_prev, 0.0)
            carried[step.rows] = np.where(restart, 0.0, d_prev)
        dx[step.t, step.rows] = gradients.da @ params["weight_ih"]
        shares = {
            "weight_ih": gradients.da.T @ step.x,
            "weight_hh": gradients.dweight_hh,
            "bias_ih": gradients.da.sum(axis=0),
            "bias_hh": gradients.dbias_hh,
        }
        for name, total in dparams.items():
            total += shares[name]
    return Gradients(
        None if result.from_ids else dx, dstate[0], _c_or_none(dstate), d_reset[0], _c_or_none(d_reset), dparams
    )
