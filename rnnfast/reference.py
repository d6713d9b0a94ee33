"""The oracle: recurrent layers, heads, losses and truncated BPTT in plain NumPy, float64.

Every fast path of rnnfast is tested against this file, and this file is tested against finite differences and numbers
worked out by hand. So it is written to be read: one loop over time, one small pair of functions per cell (one step
forward, one step backward), and nothing that is there for speed. It needs NumPy alone and never calls the rest of
rnnfast. Anyone may import it: to check a kernel of their own, or to see what a gate does.

Notation (the same as in ``docs/design.md``)
    ``T`` steps, ``B`` rows, ``I`` input size, ``H`` hidden size, ``G`` gates, ``D`` directions, ``L`` layers;
    ``x[T, B, I]``, ``y[T, B, H]``, states ``[B, H]``. At step ``t``, ``x_t`` comes in, ``h_prev`` is the state before
    the step, ``h`` the state after it. ``dz`` is dLoss/dz. ``a = W x_t + b_ih`` is the input's share of the gates,
    ``[B, G*H]``, in PyTorch's gate order: LSTM ``i, f, g, o``; GRU ``r, z, n``. A *state* is a tuple: ``(h,)``, or
    ``(h, c)`` for the LSTM, wherever one step hands it to the next.

How masks work here
    Each step works on the rows that are active in it (``t < lengths[b]``) and copies only those, so nothing beyond a
    row's length can be read. A row *restarts* at a step if the state it carries is replaced by the reset state before
    the step. Forward in time that is where ``resets`` is true. In reverse the same boundary, between ``t - 1`` and
    ``t``, is met at step ``t - 1``.

Rejected
    Automatic differentiation: it would need a framework, and hides the formulas that the kernels must implement.
    Products over all time steps at once: faster, but then padding has to be masked out of them, and masks are what
    this file is to define. Indexing weights by ids: a one-hot row per step is the definition. Float32: the oracle's
    own error must not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "LOSSES",
    "Activation",
    "Cell",
    "DenseGradients",
    "DenseResult",
    "Gradients",
    "Result",
    "StackGradients",
    "StackResult",
    "Step",
    "StepGradients",
    "TbpttWindow",
    "backward",
    "binary_cross_entropy",
    "dense_backward",
    "dense_forward",
    "forward",
    "init_params",
    "init_stack_params",
    "lengths_mask",
    "mean_squared_error",
    "numerical_gradient",
    "one_hot",
    "relu",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "stack_backward",
    "stack_forward",
    "tbptt_reference",
]

Array = NDArray[np.float64]
State = tuple[Array, ...]
StackState = Array | State
Params = dict[str, Array]


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def _float64(name: str, value: Any, shape: tuple[int, ...] | None = None) -> Array:
    """A float64 copy of `value`, which must be real and have `shape` (None: any)."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return np.array(array, dtype=np.float64)


def _float64_or_zeros(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape) if value is None else _float64(name, value, shape)


def _integers(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array.astype(np.int64)


def _check_names(params: Iterable[str], needed: set[str], optional: set[str]) -> None:
    names = set(params)
    missing, surplus = needed - names, names - needed - optional
    if missing or surplus:
        raise ValueError(f"params: missing {sorted(missing)}, surplus {sorted(surplus)}")


def _columns(params: Params, name: str) -> int:
    if params[name].ndim != 2:
        raise ValueError(f"{name}: expected a matrix, got shape {params[name].shape}")
    return int(params[name].shape[1])


def _choice(name: str, value: str, table: Mapping[str, Any]) -> Any:
    if value not in table:
        raise ValueError(f"{name}: expected one of {sorted(table)}, got {value!r}")
    return table[value]


def one_hot(ids: ArrayLike, size: int) -> Array:
    """Rows of zeros with a one at each id.

    Parameters
    ----------
    ids : array_like of int, shape [...]
    size : int

    Returns
    -------
    ndarray, shape [..., size]

    Raises
    ------
    ValueError
        If an id is not in 0..size-1.
    """
    indices = np.asarray(ids)
    if ((indices < 0) | (indices >= size)).any():
        raise ValueError(f"ids: expected values in 0..{size - 1}, got {indices.min()}..{indices.max()}")
    rows: Array = (indices[..., None] == np.arange(size)).astype(np.float64)
    return rows


def lengths_mask(lengths: ArrayLike | None, T: int, B: int) -> NDArray[np.bool_]:
    """Which rows are active at which steps.

    Parameters
    ----------
    lengths : array_like of int, shape [B], values in 0..T, or None for all T
    T, B : int

    Returns
    -------
    ndarray of bool, shape [T, B]
        True where ``t < lengths[b]``.

    Raises
    ------
    TypeError, ValueError
        If `lengths` is not of integers, not of shape [B], or out of range.
    """
    if lengths is None:
        return np.ones((T, B), dtype=bool)
    counts = _integers("lengths", lengths, (B,))
    if ((counts < 0) | (counts > T)).any():
        raise ValueError(f"lengths: expected values in 0..{T}, got {counts.min()}..{counts.max()}")
    return np.arange(T)[:, None] < counts


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


# ---------------------------------------------------------------------------------------------------------------------
# Activations


def sigmoid(z: Array) -> Array:
    """The logistic function ``1 / (1 + exp(-z))``, written so that exp cannot overflow."""
    e: Array = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def relu(z: Array) -> Array:
    """``max(z, 0)``; its derivative at 0 is taken as 0. NaN stays NaN."""
    return np.maximum(z, 0.0)


def softmax(z: Array) -> Array:
    """``exp(z) / sum(exp(z))`` over the last axis."""
    e: Array = np.exp(z - z.max(axis=-1, keepdims=True))
    total: Array = e.sum(axis=-1, keepdims=True)
    return e / total


def _sigmoid_backward(y: Array, dy: Array) -> Array:
    return dy * y * (1.0 - y)


def _tanh_backward(y: Array, dy: Array) -> Array:
    return dy * (1.0 - y * y)


def _softmax_backward(y: Array, dy: Array) -> Array:
    mean: Array = (dy * y).sum(axis=-1, keepdims=True)
    return y * (dy - mean)


@dataclass(frozen=True)
class Activation:
    """``y = forward(z)`` and ``dz = backward(y, dy)``: all of them can be differentiated from their output."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z: z, lambda y, dy: dy),
    "relu": Activation(relu, lambda y, dy: np.where(y > 0, dy, 0.0)),
    "sigmoid": Activation(sigmoid, _sigmoid_backward),
    "softmax": Activation(softmax, _softmax_backward),
    "tanh": Activation(np.tanh, _tanh_backward),
}


# ---------------------------------------------------------------------------------------------------------------------
# Cells: one step forward, one step backward


@dataclass(frozen=True)
class StepGradients:
    """What one step backward returns: dLoss/da, dLoss/d(state before the step), the step's share of dU and db_hh."""

    da: Array
    dstate_prev: State
    dweight_hh: Array
    dbias_hh: Array


@dataclass(frozen=True)
class Cell:
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


def _elman(activation: Activation) -> Cell:
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

    return Cell(1, False, step, step_backward)


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
    dc = dc_next + _tanh_backward(tanh_c, dh * o)
    dzi = _sigmoid_backward(i, dc * g)
    dzf = _sigmoid_backward(f, dc * c_prev)
    dzg = _tanh_backward(g, dc * i)
    dzo = _sigmoid_backward(o, dh * tanh_c)
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
    dan = _tanh_backward(n, dh * (1.0 - z))
    daz = _sigmoid_backward(z, dh * (h_prev - n))
    dar = _sigmoid_backward(r, dan * un)
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
    dan = _tanh_backward(n, dh * (1.0 - z))
    daz = _sigmoid_backward(z, dh * (h_prev - n))
    drh = dan @ weight_n
    dar = _sigmoid_backward(r, drh * h_prev)
    dh_prev = dh * z + drh * r + dar @ weight_r + daz @ weight_z
    dweight_hh = np.concatenate([dar.T @ h_prev, daz.T @ h_prev, dan.T @ (r * h_prev)])
    da = np.concatenate([dar, daz, dan], axis=1)
    return StepGradients(da, (dh_prev,), dweight_hh, da.sum(axis=0))


CELLS: dict[str, Cell] = {
    "elman_tanh": _elman(ACTIVATIONS["tanh"]),
    "elman_relu": _elman(ACTIVATIONS["relu"]),
    "elman_sigmoid": _elman(ACTIVATIONS["sigmoid"]),
    "lstm": Cell(4, True, _lstm_step, _lstm_step_backward),
    "gru_after": Cell(3, False, _gru_after_step, _gru_after_step_backward),
    "gru_before": Cell(3, False, _gru_before_step, _gru_before_step_backward),
}


# ---------------------------------------------------------------------------------------------------------------------
# One layer, one direction


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
    cell: Cell = _choice("kind", kind, CELLS)
    given = {name: _float64(name, value) for name, value in params.items() if value is not None}
    _check_names(given, {"weight_ih", "weight_hh"}, {"bias_ih", "bias_hh"})
    input_size, hidden_size = _columns(given, "weight_ih"), _columns(given, "weight_hh")
    rows = cell.gates * hidden_size
    shapes = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, hidden_size),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
    return cell, {name: _float64(name, value, shapes[name]) for name, value in given.items()}


def _layer_input(x: ArrayLike, input_size: int) -> tuple[NDArray[Any], bool]:
    """`x` as an array of [T, B, I], or of ids [T, B]; and whether it holds ids."""
    array = np.asarray(x)
    if array.ndim == 2 and array.dtype.kind in "iu":
        return array, True
    if array.ndim != 3 or array.shape[2] != input_size:
        raise ValueError(
            f"x: expected shape [T, B, {input_size}], or integer ids [T, B]; got {array.dtype} {array.shape}"
        )
    return _float64("x", array), False


def _state(cell: Cell, names: tuple[str, str], values: tuple[Any, Any], shape: tuple[int, ...]) -> State:
    """The state ``(h,)`` or ``(h, c)`` as new arrays, None being zeros."""
    if values[1] is not None and not cell.has_c:
        raise ValueError(f"{names[1]}: expected None, only an LSTM has a c")
    count = 2 if cell.has_c else 1
    return tuple(_float64_or_zeros(names[k], values[k], shape) for k in range(count))


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
    dy = _float64_or_zeros("dy", dy, result.y.shape)
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


# ---------------------------------------------------------------------------------------------------------------------
# Stacks of layers, in one or both directions


@dataclass(frozen=True)
class StackResult:
    """What `stack_forward` returns and `stack_backward` takes.

    Attributes
    ----------
    y : ndarray, shape [T, B, D*H]
    state : ndarray, shape [L*D, B, H]; a tuple ``(h, c)`` of them for the LSTM
    layers : list of list of Result
        One list per layer, with one result per direction.
    dropout_masks
        As given.
    """

    y: Array
    state: StackState
    layers: list[list[Result]]
    dropout_masks: Sequence[ArrayLike] | None


@dataclass(frozen=True)
class StackGradients:
    """What `stack_backward` returns: `dx` (None for ids), `dstate`, `d_reset_state` (as the state), `params`."""

    dx: Array | None
    dstate: StackState
    d_reset_state: StackState
    params: Params


def _suffix(layer: int, reverse: bool) -> str:
    return f"_l{layer}_reverse" if reverse else f"_l{layer}"


def _split_stack_params(params: Mapping[str, Any], suffixes: Sequence[str]) -> list[dict[str, Any]]:
    """The parameters of every layer and direction, their names without the suffixes."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    _check_names(params, set(), {name + suffix for name in names for suffix in suffixes})
    return [{name: params[name + suffix] for name in names if name + suffix in params} for suffix in suffixes]


def _split_stack_state(cell: Cell, name: str, state: Any, count: int) -> list[tuple[Any, Any]]:
    """The pairs ``(h, c)`` [B, H] of every layer and direction, None where the state, or a half of it, is None."""
    if not cell.has_c:
        state = (state, None)
    elif state is None:
        state = (None, None)
    elif not isinstance(state, tuple | list) or len(state) != 2:
        raise ValueError(f"{name}: expected a tuple (h, c)")
    for part in state:
        if part is not None and len(part) != count:
            raise ValueError(f"{name}: expected {count} layers times directions, got {len(part)}")
    h, c = ([None] * count if part is None else part for part in state)
    return list(zip(h, c, strict=True))


def _join_stack_state(h: Sequence[Array], c: Sequence[Array | None]) -> StackState:
    cs = [part for part in c if part is not None]
    return (np.stack(h), np.stack(cs)) if cs else np.stack(h)


def stack_forward(
    kind: str,
    params: Mapping[str, Any],
    x: ArrayLike,
    state: Any = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: Any = None,
    dropout_masks: Sequence[ArrayLike] | None = None,
) -> StackResult:
    """Run a stack of layers, each reading the (masked) outputs of all directions of the one below.

    Parameters
    ----------
    kind, x, lengths, resets
        As for `forward`.
    params : mapping of str to array_like
        PyTorch's names: ``weight_ih_l0``, ..., ``bias_hh_l0``, ``weight_ih_l0_reverse``, ..., ``weight_ih_l1``, ...
        From layer 1 on ``weight_ih`` is [G*H, D*H]. Biases may be missing or None.
    state, reset_state : array_like, shape [L*D, B, H], or a tuple ``(h, c)`` of them for the LSTM, optional
        Initial state, and the state that resets put in; zeros where None. The order is l0, l0_reverse, l1, ...
    num_layers : int
    bidirectional : bool
    dropout_masks : sequence of L-1 array_like, shape [T, B, D*H], optional
        Factors on the output of every layer except the last, already scaled: 0 or ``1 / (1 - p)``.

    Returns
    -------
    StackResult

    Raises
    ------
    ValueError, TypeError
        As `forward`; also for a state with a wrong structure or a wrong number of dropout masks.
    """
    cell = _choice("kind", kind, CELLS)
    if dropout_masks is not None and len(dropout_masks) != num_layers - 1:
        raise ValueError(f"dropout_masks: expected {num_layers - 1} of them, got {len(dropout_masks)}")
    directions = (False, True) if bidirectional else (False,)
    suffixes = [_suffix(layer, reverse) for layer in range(num_layers) for reverse in directions]
    all_params = iter(_split_stack_params(params, suffixes))
    states = iter(_split_stack_state(cell, "state", state, len(suffixes)))
    reset_states = iter(_split_stack_state(cell, "reset_state", reset_state, len(suffixes)))
    layers: list[list[Result]] = []
    y: Any = x
    for layer in range(num_layers):
        if layer > 0 and dropout_masks is not None:
            y = y * _float64("dropout_masks", dropout_masks[layer - 1], y.shape)
        results = []
        for reverse in directions:
            (h0, c0), (reset_h, reset_c) = next(states), next(reset_states)
            masks: dict[str, Any] = {"lengths": lengths, "resets": resets, "reset_h": reset_h, "reset_c": reset_c}
            results.append(forward(kind, next(all_params), y, h0, c0, **masks, reverse=reverse))
        layers.append(results)
        y = np.concatenate([result.y for result in results], axis=2)
    flat = [result for results in layers for result in results]
    return StackResult(y, _join_stack_state([r.hT for r in flat], [r.cT for r in flat]), layers, dropout_masks)


def stack_backward(result: StackResult, dy: ArrayLike | None, dstate: Any = None) -> StackGradients:
    """Backpropagate through a stack.

    Parameters
    ----------
    result : StackResult
        From `stack_forward`.
    dy : array_like, shape [T, B, D*H], or None
        dLoss/dy, zeros if None. Not read beyond `lengths`.
    dstate : like the state, optional
        dLoss/d(final state). Either half of an LSTM's may be None.

    Returns
    -------
    StackGradients

    Raises
    ------
    ValueError, TypeError
        As `backward`.
    """
    D = len(result.layers[0])
    cell = CELLS[result.layers[0][0].kind]
    dstates = _split_stack_state(cell, "dstate", dstate, len(result.layers) * D)
    d_output: Any = _float64_or_zeros("dy", dy, result.y.shape)
    per_layer: list[list[Gradients]] = []
    for layer in reversed(range(len(result.layers))):
        halves = np.split(d_output, D, axis=2)
        gradients = [backward(result.layers[layer][d], halves[d], *dstates[layer * D + d]) for d in range(D)]
        d_output = _sum_dx(gradients)
        if layer > 0 and result.dropout_masks is not None:
            d_output = d_output * np.asarray(result.dropout_masks[layer - 1])
        per_layer.insert(0, gradients)
    flat = [g for gradients in per_layer for g in gradients]
    return StackGradients(
        d_output,
        _join_stack_state([g.dh0 for g in flat], [g.dc0 for g in flat]),
        _join_stack_state([g.d_reset_h for g in flat], [g.d_reset_c for g in flat]),
        _stack_param_gradients(per_layer),
    )


def _sum_dx(gradients: Sequence[Gradients]) -> Array | None:
    """dLoss/d(input of a layer), summed over its directions; None for ids."""
    shares = [g.dx for g in gradients if g.dx is not None]
    return np.sum(shares, axis=0) if shares else None


def _stack_param_gradients(per_layer: Sequence[Sequence[Gradients]]) -> Params:
    return {
        name + _suffix(layer, reverse=d == 1): value
        for layer, gradients in enumerate(per_layer)
        for d, g in enumerate(gradients)
        for name, value in g.params.items()
    }


# ---------------------------------------------------------------------------------------------------------------------
# Heads


@dataclass(frozen=True)
class DenseResult:
    """What `dense_forward` returns and `dense_backward` takes: `y` [..., O] and the call's arguments."""

    y: Array
    x: Array
    params: Params
    activation: str


@dataclass(frozen=True)
class DenseGradients:
    """What `dense_backward` returns: `dx` [..., I], and `params` by name."""

    dx: Array
    params: Params


def dense_forward(params: Mapping[str, Any], x: ArrayLike, activation: str = "identity") -> DenseResult:
    """``y = activation(x weight^T + bias)``.

    Parameters
    ----------
    params : mapping of str to array_like
        ``weight`` [O, I] and ``bias`` [O]; the bias may be missing or None.
    x : array_like, shape [..., I]
    activation : str
        A key of `ACTIVATIONS`; softmax is over the last axis.

    Returns
    -------
    DenseResult

    Raises
    ------
    ValueError, TypeError
        For an unknown activation, missing or surplus parameters, wrong shapes, arrays that are not real.
    """
    act: Activation = _choice("activation", activation, ACTIVATIONS)
    params64 = {name: _float64(name, value) for name, value in params.items() if value is not None}
    _check_names(params64, {"weight"}, {"bias"})
    inputs, weight, input_size = _float64("x", x), params64["weight"], _columns(params64, "weight")
    if inputs.shape[-1:] != (input_size,):
        raise ValueError(f"x: expected shape [..., {input_size}], got {inputs.shape}")
    bias = _float64_or_zeros("bias", params64.get("bias"), weight.shape[:1])
    return DenseResult(act.forward(inputs @ weight.T + bias), inputs, params64, activation)


def dense_backward(result: DenseResult, dy: ArrayLike) -> DenseGradients:
    """Backpropagate through a dense head.

    Parameters
    ----------
    result : DenseResult
    dy : array_like, shape [..., O]
        dLoss/dy, after the activation.

    Returns
    -------
    DenseGradients

    Raises
    ------
    ValueError, TypeError
        For a wrong shape, or an array that is not real.
    """
    weight = result.params["weight"]
    dz = ACTIVATIONS[result.activation].backward(result.y, _float64("dy", dy, result.y.shape))
    rows, inputs = dz.reshape(-1, weight.shape[0]), result.x.reshape(-1, weight.shape[1])
    shares = {"weight": rows.T @ inputs, "bias": rows.sum(axis=0)}
    return DenseGradients(dz @ weight, {name: shares[name] for name in result.params})


# ---------------------------------------------------------------------------------------------------------------------
# Losses: each returns (loss, dLoss/d(prediction))


def _scales(mask: ArrayLike | None, shape: tuple[int, ...], reduction: str, features: int) -> Array:
    """The factor of each entry's loss in the total: its weight, divided for "mean" by (sum of weights * features)."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    weights = np.ones(shape) if mask is None else _float64("mask", mask, shape)
    if not (weights >= 0).all():
        raise ValueError("mask: expected weights of at least 0")
    total = weights.sum() * features
    return weights / total if reduction == "mean" and total > 0 else weights


def softmax_cross_entropy(
    logits: ArrayLike, ids: ArrayLike, *, mask: ArrayLike | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """``-log softmax(logits)[id]``, a weighted mean or sum over the entries.

    Parameters
    ----------
    logits : array_like, shape [..., C]
    ids : array_like of int, shape [...]
        The classes, in 0..C-1.
    mask : array_like of bool or weights, shape [...], optional
        Where it is 0, logits and ids are not read and the gradient is 0.
    reduction : {"mean", "sum"}
        "mean" divides by the sum of the weights.

    Returns
    -------
    loss : float
        0 if no entry has a weight.
    dlogits : ndarray, shape [..., C]

    Raises
    ------
    ValueError, TypeError
        For wrong shapes or dtypes, negative weights, unmasked ids out of range, an unknown reduction.
    """
    z = _float64("logits", logits)
    classes = _integers("ids", ids, z.shape[:-1])
    scales = _scales(mask, classes.shape, reduction, features=1)
    used = scales > 0
    target = one_hot(classes[used], z.shape[-1])
    shifted = z[used] - z[used].max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    scale = scales[used][:, None]
    dz = np.zeros_like(z)
    dz[used] = scale * (np.exp(log_p) - target)
    return float(-(scale * target * log_p).sum()), dz


def mean_squared_error(
    y: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """``(y - target)^2``, a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    y, target : array_like, shape [..., F]
    mask : array_like of bool or weights, shape [...], optional
        Where it is 0, y and target are not read and the gradient is 0.
    reduction : {"mean", "sum"}
        "mean" divides by (sum of the weights * F): it runs over the features too.

    Returns
    -------
    loss : float
        0 if no entry has a weight.
    dy : ndarray, shape [..., F]

    Raises
    ------
    ValueError, TypeError
        For wrong shapes or dtypes, negative weights, an unknown reduction.
    """
    y64 = _float64("y", y)
    target64 = _float64("target", target, y64.shape)
    scales = _scales(mask, y64.shape[:-1], reduction, features=y64.shape[-1])
    used = scales > 0
    difference = y64[used] - target64[used]
    scale = scales[used][:, None]
    dy = np.zeros_like(y64)
    dy[used] = 2.0 * scale * difference
    return float((scale * difference**2).sum()), dy


def binary_cross_entropy(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    logits: bool = False,
    mask: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[float, Array]:
    """``-(target log p + (1 - target) log(1 - p))``, a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    prediction : array_like, shape [..., F]
        Probabilities p with 0 < p < 1; or, with `logits`, any numbers z of which p is the sigmoid.
    target : array_like, shape [..., F]
    logits : bool
    mask : array_like of bool or weights, shape [...], optional
        Where it is 0, prediction and target are not read and the gradient is 0.
    reduction : {"mean", "sum"}
        "mean" divides by (sum of the weights * F): it runs over the features too.

    Returns
    -------
    loss : float
        0 if no entry has a weight.
    dprediction : ndarray, shape [..., F]
        With respect to p, or to z with `logits`.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes or dtypes, negative weights, an unknown reduction, an unmasked probability outside (0, 1).
    """
    prediction64 = _float64("prediction", prediction)
    target64 = _float64("target", target, prediction64.shape)
    scales = _scales(mask, prediction64.shape[:-1], reduction, features=prediction64.shape[-1])
    used = scales > 0
    values, derivatives = (_bce_of_logits if logits else _bce_of_probabilities)(prediction64[used], target64[used])
    scale = scales[used][:, None]
    gradient = np.zeros_like(prediction64)
    gradient[used] = scale * derivatives
    return float((scale * values).sum()), gradient


def _bce_of_logits(z: Array, target: Array) -> tuple[Array, Array]:
    return np.logaddexp(0.0, z) - target * z, sigmoid(z) - target


def _bce_of_probabilities(p: Array, target: Array) -> tuple[Array, Array]:
    if ((p <= 0) | (p >= 1)).any():
        raise ValueError(
            "prediction: expected probabilities in (0, 1); for saturated ones pass logits with logits=True"
        )
    return -(target * np.log(p) + (1.0 - target) * np.log1p(-p)), (p - target) / (p * (1.0 - p))


LOSSES: dict[str, Callable[..., tuple[float, Array]]] = {
    "mse": mean_squared_error,
    "cross_entropy": softmax_cross_entropy,
}


# ---------------------------------------------------------------------------------------------------------------------
# Truncated backpropagation through time


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
    kind: str,
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
    kind : str
        A key of `CELLS`.
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
    loss_function = _choice("loss", loss, LOSSES)
    inputs, targets = np.asarray(x), np.asarray(target)
    T, B = inputs.shape[:2]
    active = lengths_mask(lengths, T, B)
    weights = np.where(active, 1.0 if mask is None else _float64("mask", mask, (T, B)), 0.0)

    def run(at: Params, initial: Any, start: int, end: int) -> StackResult:
        """The recurrent layers over the steps [start, end), from the state before `start`."""
        return stack_forward(
            kind,
            _part(at, "rnn."),
            inputs[start:end],
            initial,
            num_layers=num_layers,
            lengths=active[start:end].sum(axis=0),
            resets=None if resets is None else np.asarray(resets)[start:end],
        )

    current = {name: _float64(name, value) for name, value in params.items() if value is not None}
    _check_names({name for name in current if not name.startswith(("rnn.", "head."))}, set(), set())
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


# ---------------------------------------------------------------------------------------------------------------------
# For tests


def numerical_gradient(f: Callable[[Array], float], array: ArrayLike, eps: float = 1e-3) -> Array:
    """The gradient of `f` by 4th-order central differences: its error is O(eps^4) plus rounding of order 1e-16 / eps.

    Parameters
    ----------
    f : callable
        Takes an array like `array`, returns a float.
    array : array_like
        Where; not changed.
    eps : float

    Returns
    -------
    ndarray of the shape of `array`
    """
    point = _float64("array", array)
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):

        def at(steps: int, index: tuple[int, ...] = index) -> float:
            moved = point.copy()
            moved[index] += steps * eps
            return f(moved)

        gradient[index] = (8.0 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12.0 * eps)
    return gradient


def init_params(kind: str, input_size: int, hidden_size: int, rng: np.random.Generator, *, bias: bool = True) -> Params:
    """Random parameters of one layer and direction, uniform in ``+-1/sqrt(hidden_size)`` as in PyTorch.

    Parameters
    ----------
    kind : str
        A key of `CELLS`.
    input_size, hidden_size : int
    rng : numpy.random.Generator
    bias : bool

    Returns
    -------
    dict of str to ndarray
        ``weight_ih`` [G*H, I], ``weight_hh`` [G*H, H], and with `bias` ``bias_ih``, ``bias_hh`` [G*H].

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    rows = _choice("kind", kind, CELLS).gates * hidden_size
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
    if bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    bound = 1.0 / np.sqrt(hidden_size)
    return {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}


def init_stack_params(
    kind: str,
    input_size: int,
    hidden_size: int,
    rng: np.random.Generator,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
) -> Params:
    """Random parameters of a stack, as `init_params`, with PyTorch's names ``weight_ih_l0``, ...

    Parameters
    ----------
    kind, input_size, hidden_size, rng, bias
        As for `init_params`.
    num_layers : int
    bidirectional : bool

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    directions = (False, True) if bidirectional else (False,)
    params: Params = {}
    for layer in range(num_layers):
        size = input_size if layer == 0 else len(directions) * hidden_size
        for reverse in directions:
            one = init_params(kind, size, hidden_size, rng, bias=bias)
            params |= {name + _suffix(layer, reverse): value for name, value in one.items()}
    return params
