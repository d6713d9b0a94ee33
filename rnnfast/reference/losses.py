"""Losses: each returns ``(loss, dLoss/d(prediction))``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .activations import sigmoid
from .arguments import Array, as_float64, as_integers, one_hot


def _scales(mask: ArrayLike | None, shape: tuple[int, ...], reduction: str, features: int) -> Array:
    """The factor of each entry's loss in the total: its weight, divided for "mean" by (sum of weights * features)."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    weights = np.ones(shape) if mask is None else as_float64("mask", mask, shape)
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
    z = as_float64("logits", logits)
    classes = as_integers("ids", ids, z.shape[:-1])
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
    y64 = as_float64("y", y)
    target64 = as_float64("target", target, y64.shape)
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
    prediction64 = as_float64("prediction", prediction)
    target64 = as_float64("target", target, prediction64.shape)
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
