"""Stacks of layers, in one or both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..description import Cell
from .arguments import Array, Params, State, as_float64, as_float64_or_zeros, check_names
from .cells import cell_of
from .layer import Gradients, Result, backward, forward

StackState = Array | State


@dataclass(frozen=True)
class StackResult:
    """What `stack_forward` returns and `stack_backward` takes.

    Attributes
    ----------
    y : ndarray, shape [T, B, D*H]
    state : ndarray, shape [L*D, B, H]; of a cell with several states a tuple of them, ``(h, c)``
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
    """What `stack_backward` returns: `dx` (None for ids), `dstate`, `d_reset_state` (as states), `dgiven`, `params`."""

    dx: Array | None
    dstate: StackState
    d_reset_state: StackState
    dgiven: State
    params: Params


def suffix(layer: int, reverse: bool) -> str:
    return f"_l{layer}_reverse" if reverse else f"_l{layer}"


def _split_stack_params(cell: Cell, params: Mapping[str, Any], suffixes: Sequence[str]) -> list[dict[str, Any]]:
    """The parameters of every layer and direction, their names without the suffixes."""
    names = [parameter.name for parameter in cell.program().parameters]
    check_names(params, set(), {name + suffix for name in names for suffix in suffixes})
    return [{name: params[name + suffix] for name in names if name + suffix in params} for suffix in suffixes]


def _split_stack_state(cell: Cell, name: str, state: Any, count: int) -> list[tuple[Any, ...]]:
    """The states [B, width] of every layer and direction, None where all of them, or one, is None."""
    states = cell.program().states
    if state is None:
        state = (None,) * len(states)
    elif len(states) == 1:
        state = (state,)
    elif not isinstance(state, tuple | list) or len(state) != len(states):
        raise ValueError(f"{name}: expected a tuple ({', '.join(one.name for one in states)})")
    for part in state:
        if part is not None and len(part) != count:
            raise ValueError(f"{name}: expected {count} layers times directions, got {len(part)}")
    return list(zip(*([None] * count if part is None else part for part in state), strict=True))


def _join_stack_state(states: Sequence[State]) -> StackState:
    joined = tuple(np.stack(parts) for parts in zip(*states, strict=True))
    return joined[0] if len(joined) == 1 else joined


def stack_forward(
    cell: str | Cell,
    params: Mapping[str, Any],
    x: ArrayLike,
    state: Any = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    reverse: bool = False,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: Any = None,
    skip: ArrayLike | None = None,
    given: Sequence[ArrayLike] = (),
    dropout_masks: Sequence[ArrayLike] | None = None,
    training: bool = False,
    seed: int = 0,
    first_step: int = 0,
) -> StackResult:
    """Run a stack of layers, each reading the (masked) outputs of all directions of the one below.

    Parameters
    ----------
    cell, x, lengths, resets, skip, given, training, seed, first_step
        As for `forward`; every layer and direction gets the same ones, and its own number as `layer`.
    params : mapping of str to array_like
        PyTorch's names: ``weight_ih_l0``, ..., ``bias_hh_l0``, ``weight_ih_l0_reverse``, ..., ``weight_ih_l1``, ...
        From layer 1 on ``weight_ih`` is [G*H, D*H]. Biases may be missing or None.
    state, reset_state : array_like, shape [L*D, B, H], or a tuple of them, ``(h, c)``, optional
        Initial state, and the state that resets put in; what the cell starts from where None. The order is l0,
        l0_reverse, l1, ...
    num_layers : int
    bidirectional, reverse : bool
        Both directions; the backward one alone, whose parameters then have the names of a forward layer.
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
    cell = cell_of(cell)
    if dropout_masks is not None and len(dropout_masks) != num_layers - 1:
        raise ValueError(f"dropout_masks: expected {num_layers - 1} of them, got {len(dropout_masks)}")
    directions = (False, True) if bidirectional else (reverse,)
    suffixes = [suffix(layer, d == 1) for layer in range(num_layers) for d in range(len(directions))]
    all_params = iter(_split_stack_params(cell, params, suffixes))
    states = iter(_split_stack_state(cell, "state", state, len(suffixes)))
    reset_states = iter(_split_stack_state(cell, "reset_state", reset_state, len(suffixes)))
    layers: list[list[Result]] = []
    y: Any = x
    for layer in range(num_layers):
        if layer > 0 and dropout_masks is not None:
            y = y * as_float64("dropout_masks", dropout_masks[layer - 1], y.shape)
        results = []
        for number, backwards in enumerate(directions, layer * len(directions)):
            results.append(
                forward(
                    cell,
                    next(all_params),
                    y,
                    *next(states),
                    lengths=lengths,
                    resets=resets,
                    reset_state=next(reset_states),
                    skip=skip,
                    given=given,
                    reverse=backwards,
                    training=training,
                    seed=seed,
                    layer=number,
                    first_step=first_step,
                )
            )
        layers.append(results)
        y = np.concatenate([result.y for result in results], axis=2)
    flat = [result for results in layers for result in results]
    return StackResult(y, _join_stack_state([r.state for r in flat]), layers, dropout_masks)


def stack_backward(result: StackResult, dy: ArrayLike | None, dstate: Any = None) -> StackGradients:
    """Backpropagate through a stack.

    Parameters
    ----------
    result : StackResult
        From `stack_forward`.
    dy : array_like, shape [T, B, D*H], or None
        dLoss/dy, zeros if None. Not read beyond `lengths`.
    dstate : like the state, optional
        dLoss/d(final state). Any of several may be None.

    Returns
    -------
    StackGradients

    Raises
    ------
    ValueError, TypeError
        As `backward`.
    """
    D = len(result.layers[0])
    cell = result.layers[0][0].cell
    dstates = _split_stack_state(cell, "dstate", dstate, len(result.layers) * D)
    d_output: Any = as_float64_or_zeros("dy", dy, result.y.shape)
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
        _join_stack_state([g.dstate for g in flat]),
        _join_stack_state([g.d_reset_state for g in flat]),
        tuple(np.sum(parts, axis=0) for parts in zip(*(g.dgiven for g in flat), strict=True)),
        _stack_param_gradients(per_layer),
    )


def _sum_dx(gradients: Sequence[Gradients]) -> Array | None:
    """dLoss/d(input of a layer), summed over its directions; None for ids."""
    shares = [g.dx for g in gradients if g.dx is not None]
    return np.sum(shares, axis=0) if shares else None


def _stack_param_gradients(per_layer: Sequence[Sequence[Gradients]]) -> Params:
    return {
        name + suffix(layer, reverse=d == 1): value
        for layer, gradients in enumerate(per_layer)
        for d, g in enumerate(gradients)
        for name, value in g.params.items()
    }
