"""The dense head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from .activations import ACTIVATIONS, Activation
from .arguments import Array, Params, as_float64, as_float64_or_zeros, check_names, choice, columns


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
    act: Activation = choice("activation", activation, ACTIVATIONS)
    params64 = {name: as_float64(name, value) for name, value in params.items() if value is not None}
    check_names(params64, {"weight"}, {"bias"})
    inputs, weight, input_size = as_float64("x", x), params64["weight"], columns(params64, "weight")
    if inputs.shape[-1:] != (input_size,):
        raise ValueError(f"x: expected shape [..., {input_size}], got {inputs.shape}")
    bias = as_float64_or_zeros("bias", params64.get("bias"), weight.shape[:1])
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
    act = ACTIVATIONS[result.activation]
    kept = result.y
    if act.of_input:
        kept = dense_forward(result.params, result.x).y
    dz = act.backward(kept, as_float64("dy", dy, result.y.shape))
    rows, inputs = dz.reshape(-1, weight.shape[0]), result.x.reshape(-1, weight.shape[1])
    shares = {"weight": rows.T @ inputs, "bias": rows.sum(axis=0)}
    return DenseGradients(dz @ weight, {name: shares[name] for name in result.params})
