"""Stacks of layers, in one or both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .arguments import Array, Params, State, as_float64, as_float64_or_zeros, check_names, choice
from .cells import CELLS, Cell
from .layer import Gradients, Result, backward, forward

StackState = Array | State


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


def suffix(layer: int, reverse: bool) -> str:
    return f"_l{layer}_reverse" if reverse else f"_l{layer}"


def _split_stack_params(params: Mapping[str, Any], suffixes: Sequence[str]) -> list[dict[str, Any]]:
    """The parameters of every layer and direction, their names without the suffixes."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    check_names(params, set(), {name + suffix for name in names for suffix in suffixes})
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
    cell = choice("kind", kind, CELLS)
    if dropout_masks is not None and len(dropout_masks) != num_layers - 1:
        raise ValueError(f"dropout_masks: expected {num_layers - 1} of them, got {len(dropout_masks)}")
    directions = (False, True) if bidirectional else (False,)
    suffixes = [suffix(layer, reverse) for layer in range(num_layers) for reverse in directions]
    all_params = iter(_split_stack_params(params, suffixes))
    states = iter(_split_stack_state(cell, "state", state, len(suffixes)))
    reset_states = iter(_split_stack_state(cell, "reset_state", reset_state, len(suffixes)))
    layers: list[list[Result]] = []
    y: Any = x
    for layer in range(num_layers):
        if layer > 0 and dropout_masks is not None:
            y = y * as_float64("dropout_masks", dropout_masks[layer - 1], y.shape)
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
        name + suffix(layer, reverse=d == 1): value
        for layer, gradients in enumerate(per_layer)
        for d, g in enumerate(gradients)
        for name, value in g.params.items()
    }
