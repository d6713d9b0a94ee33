"""One layer in one direction: the loop over time, and what lengths, resets and skipped steps mean in it.

Each step works on the rows that are active in it (``t < lengths[b]``) and copies only those, so nothing beyond a row's
length can be read. A row *restarts* at a step if the state it carries is replaced by the reset state before the step.
Forward in time that is where ``resets`` is true. In reverse the same boundary, between ``t - 1`` and ``t``, is met at
step ``t - 1``. A row that *skips* a step carries its state through it, after a restart if there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..description import Cell
from ..description.declarations import declared
from ..description.program import INPUT, Program
from .arguments import (
    Array,
    Params,
    State,
    as_float64,
    as_float64_or_zeros,
    check_names,
    lengths_mask,
    one_hot,
)
from .cells import cell_of
from .cells import step as cell_step
from .interpreter import Draw, Interpreter, expected_shape
from .random import mix, uniform


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
    skip : ndarray of bool, shape [N]
        Whether the row skipped the step.
    x : ndarray, shape [N, I]
        The input, one-hot for ids.
    before, after : tuple of ndarray, shape [N, width]
        The states before and after the step. Backward takes them from here.
    given : tuple of ndarray, shape [N, 1] or [N, width]
        Extra inputs.
    """

    t: int
    rows: NDArray[np.int64]
    restart: NDArray[np.bool_]
    skip: NDArray[np.bool_]
    x: Array
    before: State
    after: State
    given: State


@dataclass(frozen=True)
class Result:
    """What `forward` returns and `backward` takes.

    Attributes
    ----------
    outputs : tuple of ndarray, shape [T, B, width]
        Every state after every step.
    state : tuple of ndarray, shape [B, width]
        The final states.
    steps : list of Step
        In the order of computation (descending t in reverse).
    cell, params, from_ids
        The call's cell, its parameters as float64 (absent biases left out), and whether `x` held ids.
    widths : tuple of int
        Of the cell's domains; the first is the hidden size.
    input_size : int
    training : bool
        Whether masks were drawn.
    seed, layer, first_step : int
        What decides them.
    """

    outputs: tuple[Array, ...]
    state: State
    steps: list[Step]
    cell: Cell
    params: Params
    from_ids: bool
    widths: tuple[int, ...]
    input_size: int
    training: bool
    seed: int
    layer: int
    first_step: int

    @property
    def y(self) -> Array:
        """The first state after every step, [T, B, width]."""
        return self.outputs[0]


@dataclass(frozen=True)
class Gradients:
    """What `backward` returns.

    Attributes
    ----------
    dx : ndarray, shape [T, B, I]
        None if the input was ids.
    dstate : tuple of ndarray, shape [B, width]
        With respect to the initial states.
    d_reset_state : tuple of ndarray, shape [B, width]
        With respect to the states that resets put in (given or not), summed over the row's restarts.
    dgiven : tuple of ndarray
        With respect to the extra inputs, in their shapes.
    params : dict of str to ndarray
        By parameter name, only those that were given.
    """

    dx: Array | None
    dstate: State
    d_reset_state: State
    dgiven: State
    params: Params


def _layer_params(program: Program, params: Mapping[str, Any]) -> Params:
    """Checked float64 copies of the parameters without absent biases."""
    found = {name: as_float64(name, value) for name, value in params.items() if value is not None}
    biases = {parameter.name for parameter in program.parameters if parameter.kind == "bias"}
    check_names(found, {parameter.name for parameter in program.parameters} - biases, biases)
    for parameter in program.parameters:
        axes = 1 if parameter.columns is None else 2
        if parameter.name in found and found[parameter.name].ndim != axes:
            expected = "a matrix" if axes == 2 else "a vector"
            raise ValueError(f"{parameter.name}: expected {expected}, got shape {found[parameter.name].shape}")
    return found


def _sizes(program: Program, cell: Cell, params: Params) -> tuple[int | None, tuple[int, ...]]:
    """The input size, None where no parameter says it, and the widths of all domains; checked for all parameters."""
    hidden, input_size = 0, None
    for parameter in program.parameters:
        if parameter.name not in params:
            continue
        value = params[parameter.name]
        if parameter.columns == INPUT:
            input_size = value.shape[1]
        if parameter.domain == 0:
            hidden = hidden or len(value) // parameter.blocks
        elif parameter.columns == 0:
            hidden = hidden or value.shape[1] * parameter.heads
    widths = (hidden, *declared(cell).widths.values())
    for parameter in program.parameters:
        if parameter.name in params:
            as_float64(parameter.name, params[parameter.name], expected_shape(parameter, input_size or 0, widths))
    cell.check_sizes(hidden)
    return input_size, widths


def _layer_input(x: ArrayLike, input_size: int | None) -> tuple[NDArray[Any], bool]:
    """`x` as an array of [T, B, I], or of ids [T, B]; and whether it holds ids."""
    array = np.asarray(x)
    if array.ndim == 2 and array.dtype.kind in "iu" and input_size is not None:
        return array, True
    if array.ndim != 3 or input_size not in (None, array.shape[2]):
        raise ValueError(
            f"x: expected shape [T, B, {input_size}], or integer ids [T, B]; got {array.dtype} {array.shape}"
        )
    return as_float64("x", array), False


def _states(name: str, cell: Cell, values: Sequence[Any] | None, B: int, widths: tuple[int, ...], zeros: bool) -> State:
    """States as new arrays; where one is None, zeros, or else what the cell starts from."""
    found = declared(cell)
    values = (None,) * len(found.states) if not values else tuple(values)
    if len(values) > len(found.states):
        raise ValueError(f"{name}: expected at most {len(found.states)} arrays, one per state, got {len(values)}")
    values += (None,) * (len(found.states) - len(values))
    states = []
    for state, value in zip(found.states, values, strict=True):
        shape = (B, widths[found.domain(state.width)])
        if value is None:
            states.append(np.full(shape, 0.0 if zeros else state.initial))
        else:
            states.append(as_float64(f"{name} {state.name}", value, shape))
    return tuple(states)


def _given(cell: Cell, values: Sequence[Any], T: int, B: int, widths: tuple[int, ...]) -> State:
    """The extra inputs, [T, B, 1] or [T, B, width]."""
    found = declared(cell)
    names = [one.name for one in found.given]
    if len(values) != len(names):
        raise ValueError(f"given: expected the arrays {names}, got {len(values)} arrays")
    arrays = []
    for one, value in zip(found.given, values, strict=True):
        shape = (T, B) if one.width is None else (T, B, widths[found.domain(one.width)])
        arrays.append(as_float64(f"given {one.name}", value, shape).reshape(T, B, -1))
    return tuple(arrays)


def _mask(name: str, values: ArrayLike | None, active: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask [T, B], false where rows have ended."""
    if values is None:
        return np.zeros_like(active)
    mask = np.asarray(values).astype(bool)
    if mask.shape != active.shape:
        raise ValueError(f"{name}: expected shape {active.shape}, got {mask.shape}")
    return mask & active


def _restarts(resets: NDArray[np.bool_], reverse: bool) -> NDArray[np.bool_]:
    """Where the carried state is replaced before the step: [T, B]."""
    if not reverse:
        return resets
    return np.concatenate([resets[1:], np.zeros_like(resets[:1])])


def _draw(seed: int, layer: int, step: int, rows: NDArray[np.int64]) -> Draw:
    """Random numbers for some rows at one step: functions of seed, layer, stream, step, row and unit."""

    def draw(op: str, stream: int, width: int) -> Array:
        at = step if op == "random_step" else -1
        keys = [uniform(mix(seed, layer, stream, at, int(row)), np.arange(width)) for row in rows]
        return np.array(keys).reshape(len(rows), width)

    return draw


def _complete(program: Program, params: Params, widths: tuple[int, ...]) -> Params:
    """The parameters, absent biases as zeros."""
    return {
        one.name: params[one.name] if one.name in params else np.zeros(expected_shape(one, 0, widths))
        for one in program.parameters
    }


def forward(
    cell: str | Cell,
    params: Mapping[str, Any],
    x: ArrayLike,
    *state: ArrayLike | None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: Sequence[ArrayLike | None] | None = None,
    skip: ArrayLike | None = None,
    given: Sequence[ArrayLike] = (),
    reverse: bool = False,
    training: bool = False,
    seed: int = 0,
    layer: int = 0,
    first_step: int = 0,
) -> Result:
    """Run one layer in one direction.

    Parameters
    ----------
    cell : str or Cell
        A key of `CELLS`, or a description.
    params : mapping of str to array_like
        ``weight_ih`` [G*H, I], ``weight_hh`` [G*H, H], ``bias_ih``, ``bias_hh`` [G*H], and what else the cell has; a
        bias may be missing or None.
    x : array_like
        Input [T, B, I], or integer ids [T, B] that stand for one-hot rows. Not read where ``t >= lengths[b]``.
    *state : array_like, shape [B, width], optional
        The initial states, in the cell's order: h, c. What is missing or None starts from the cell's own initial value.
    lengths : array_like of int, shape [B], optional
        Row b is active at steps ``t < lengths[b]``. Beyond, the outputs are 0; the state stays what it was after the
        row's last step, and the reverse direction starts at that step.
    resets : array_like of bool, shape [T, B], optional
        True where a new segment starts. Forward, the row's state is replaced before step t; in reverse, before step
        t-1, unless t-1 is outside the row. Not read beyond `lengths`.
    reset_state : sequence of array_like, shape [B, width], optional
        The states that a reset puts in; what is missing or None is the cell's own initial value.
    skip : array_like of bool, shape [T, B], optional
        True where the states pass through the step untouched; the outputs repeat them.
    given : sequence of array_like, shape [T, B] or [T, B, width]
        The cell's extra inputs.
    reverse : bool
        Walk from each row's last step to its first. ``y[t]`` is the output at step t in both directions.
    training : bool
        Whether zoneout and recurrent dropout draw masks.
    seed, layer, first_step : int
        What decides the masks, with the row of the batch and the unit: step t is number ``first_step + t``.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        For an unknown cell, missing or surplus parameters, wrong shapes, lengths or active ids out of range, more
        states than the cell has.
    TypeError
        For arrays that are not real, or lengths that are not integers.
    """
    cell = cell_of(cell)
    program = cell.program()
    params64 = _layer_params(program, params)
    input_size, widths = _sizes(program, cell, params64)
    inputs, from_ids = _layer_input(x, input_size)
    T, B = inputs.shape[:2]
    carried = _states("state", cell, state, B, widths, zeros=False)
    reset = _states("reset_state", cell, reset_state, B, widths, zeros=False)
    active = lengths_mask(lengths, T, B)
    restarts, skips = _restarts(_mask("resets", resets, active), reverse), _mask("skip", skip, active)
    extra = _given(cell, given, T, B, widths)
    complete = _complete(program, params64, widths)

    outputs = tuple(np.zeros((T, *part.shape)) for part in carried)
    steps = []
    for t in reversed(range(T)) if reverse else range(T):
        rows = np.flatnonzero(active[t])
        restart, skipped = restarts[t, rows], skips[t, rows]
        x_t = one_hot(inputs[t, rows], input_size or 0) if from_ids else inputs[t, rows]
        given_t = tuple(one[t, rows] for one in extra)
        before = tuple(
            np.where(restart[:, None], reset_to[rows], part[rows])
            for part, reset_to in zip(carried, reset, strict=True)
        )
        draw = _draw(seed, layer, first_step + t, rows)
        new = cell_step(cell, complete, x_t, before, given_t, draw, widths, training)
        after = tuple(np.where(skipped[:, None], old, part) for old, part in zip(before, new, strict=True))
        for part, output, value in zip(carried, outputs, after, strict=True):
            part[rows] = value
            output[t, rows] = value
        steps.append(Step(t, rows, restart, skipped, x_t, before, after, given_t))
    size = (input_size or 0) if from_ids else inputs.shape[2]
    return Result(outputs, carried, steps, cell, params64, from_ids, widths, size, training, seed, layer, first_step)


def backward(result: Result, dy: Any, *dstate: ArrayLike | None) -> Gradients:
    """Backpropagate through one layer in one direction.

    Parameters
    ----------
    result : Result
        From `forward`. It is not changed and may be used again.
    dy : array_like, shape [T, B, H], or None
        dLoss/dy, zeros if None; or a tuple with one of these per state. Not read where ``t >= lengths[b]``.
    *dstate : array_like, shape [B, width], optional
        dLoss/d(final states), zeros where missing or None.

    Returns
    -------
    Gradients
        ``dx`` is 0 beyond `lengths` and where a step was skipped. Gradients stop at a restart: what would flow on goes
        to ``d_reset_state``.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, arrays that are not real, more states than there are; for a cell that draws masks, whose
        result is not one of training.
    """
    program = result.cell.program()
    if not result.training and _draws(program):
        raise ValueError("result: expected one of forward(training=True), as the cell draws random masks")
    T, B, _ = result.y.shape
    parts = dy if isinstance(dy, tuple) else (dy, *(None for _ in result.outputs[1:]))
    if len(parts) != len(result.outputs):
        raise ValueError(f"dy: expected {len(result.outputs)} arrays, one per state, got {len(parts)}")
    dys = [as_float64_or_zeros("dy", part, output.shape) for part, output in zip(parts, result.outputs, strict=True)]
    carried = _states("dstate", result.cell, dstate, B, result.widths, zeros=True)
    d_reset = tuple(np.zeros_like(part) for part in carried)
    sizes = [1 if one.domain is None else result.widths[one.domain] for one in program.given]
    dgiven = tuple(np.zeros((T, B, size)) for size in sizes)
    complete = _complete(program, result.params, result.widths)
    interpreter = Interpreter(program, complete, result.widths)
    dparams = {name: np.zeros_like(value) for name, value in complete.items()}
    dx = np.zeros((T, B, result.input_size))

    for step in reversed(result.steps):
        d_after = [part[step.rows] + one[step.t, step.rows] for part, one in zip(carried, dys, strict=True)]
        d_before = [part.copy() for part in d_after]
        run = np.flatnonzero(~step.skip)
        draw = _draw(result.seed, result.layer, result.first_step + step.t, step.rows[run])
        given = tuple(value[run] for value in step.given)
        memory = interpreter.forward(step.x[run], tuple(part[run] for part in step.before), given, draw)
        memory.after = [part[run] for part in step.after]
        gradients = interpreter.backward(step.x[run], memory, tuple(part[run] for part in d_after), draw)
        for part, d in zip(d_before, gradients.dstate, strict=True):
            part[run] = d
        restart = step.restart[:, None]
        for part, reset, d_prev in zip(carried, d_reset, d_before, strict=True):
            reset[step.rows] += np.where(restart, d_prev, 0.0)
            part[step.rows] = np.where(restart, 0.0, d_prev)
        dx[step.t, step.rows[run]] = gradients.dx
        for one, d in zip(dgiven, gradients.dgiven, strict=True):
            one[step.t, step.rows[run]] = d
        for name, total in dparams.items():
            total += gradients.params[name]
    return Gradients(
        None if result.from_ids else dx,
        carried,
        d_reset,
        tuple(d[:, :, 0] if one.domain is None else d for d, one in zip(dgiven, program.given, strict=True)),
        {name: dparams[name] for name in result.params},
    )


def _draws(program: Program) -> bool:
    return any(code.op.startswith("random") for stage in program.forward for code in stage.code)
