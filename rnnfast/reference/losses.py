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
    logits: ArrayLike,
    ids: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    mask: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[float, Array]:
    """``-sum(a log softmax(logits))``, a weighted mean or sum over the entries; a is 1 for the id's class, else 0.

    Parameters
    ----------
    logits : array_like, shape [..., C]
    ids : array_like of int, shape [...], or of float, shape [..., C]
        The classes, in 0..C-1; or a itself.
    class_weights : array_like, shape [C], optional
        Factors of a; of ids, those of their classes also count in what "mean" divides by.
    label_smoothing : float
        Replaces a by ``(1 - label_smoothing) a + label_smoothing / C``, before the factors.
    ignore_index : int, optional
        An id that masks its entries.
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
    classes = z.shape[-1]
    factors = np.ones(classes) if class_weights is None else as_float64("class_weights", class_weights, (classes,))
    weights = np.ones(z.shape[:-1]) if mask is None else as_float64("mask", mask, z.shape[:-1])
    if np.asarray(ids).dtype.kind == "f" and np.ndim(ids) == z.ndim:
        target = as_float64("ids", ids, z.shape)
        divisors = weights
    else:
        chosen = as_integers("ids", ids, z.shape[:-1])
        weights = np.where(chosen == ignore_index, 0.0, weights)
        target = np.zeros(z.shape)
        target[weights > 0] = one_hot(chosen[weights > 0], classes)
        divisors = weights * (target @ factors)
    _scales(weights, weights.shape, reduction, 1)  # for its errors
    total = divisors.sum()
    scales = weights / total if reduction == "mean" and total > 0 else weights
    used = scales > 0
    a = factors * ((1 - label_smoothing) * target[used] + label_smoothing / classes)
    shifted = z[used] - z[used].max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    scale = scales[used][:, None]
    dz = np.zeros_like(z)
    dz[used] = scale * (a.sum(axis=-1, keepdims=True) * np.exp(log_p) - a)
    return float(-(scale * np.where(a > 0, a * log_p, 0.0)).sum()), dz


def mean_squared_error(
    y: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """``(y - target)^2``, a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    y, target : array_like, shape [..., F]
    mask : array_like of bool or weights, shape [...] or [..., F], optional
        Where it is 0, y and target are not read and the gradient is 0.
    reduction : {"mean", "sum"}
        "mean" divides by (sum of the weights * F), or by the sum of the elements' weights.

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
    return _of_differences(y, target, lambda d: d**2, lambda d: 2.0 * d, mask, reduction)


def mean_absolute_error(
    y: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """``|y - target|``, a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    y, target, mask, reduction
        As for `mean_squared_error`.

    Returns
    -------
    loss, dy
        As from `mean_squared_error`.
    """
    return _of_differences(y, target, np.abs, np.sign, mask, reduction)


def huber(
    y: ArrayLike, target: ArrayLike, *, delta: float = 1.0, mask: ArrayLike | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """``d^2 / 2`` up to ``|d| = delta``, then linear, a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    y, target, mask, reduction
        As for `mean_squared_error`.
    delta : float

    Returns
    -------
    loss, dy
        As from `mean_squared_error`.
    """

    def value(d: Array) -> Array:
        return np.where(np.abs(d) <= delta, d**2 / 2, delta * (np.abs(d) - delta / 2))

    return _of_differences(y, target, value, lambda d: np.clip(d, -delta, delta), mask, reduction)


def _of_differences(
    y: ArrayLike,
    target: ArrayLike,
    value: Callable[[Array], Array],
    derivative: Callable[[Array], Array],
    mask: ArrayLike | None,
    reduction: str,
) -> tuple[float, Array]:
    y64 = as_float64("y", y)
    target64 = as_float64("target", target, y64.shape)
    features = y64.shape[-1]
    if mask is not None and np.ndim(mask) == y64.ndim:
        scales = _scales(mask, y64.shape, reduction, 1)
    else:
        scales = np.repeat(_scales(mask, y64.shape[:-1], reduction, features)[..., None], features, axis=-1)
    used = scales > 0
    difference = y64[used] - target64[used]
    dy = np.zeros_like(y64)
    dy[used] = scales[used] * derivative(difference)
    return float((scales[used] * value(difference)).sum()), dy


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
