"""The losses of `rnnfast.losses` on device arrays: the same signatures, the same meaning, one wait for the loss.

A) Whole-array expressions; what is masked is replaced by zeros before any arithmetic sees it.
B) What the host would refuse after reading it (ids, targets or probabilities out of range, negative weights, lengths
   outside 0..T) makes the entry's scale NaN, and so the loss and the entry's gradient: to refuse it, one would have to
   wait for the device twice.
C) Sums over features and entries are in float64.

Rejected: a kernel per loss (the arithmetic between the layers and the loss is a few arrays of the output's size; a step
of training spends its time elsewhere).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import _checks
from . import arrays

__all__ = ["binary_cross_entropy", "mean_squared_error", "softmax_cross_entropy"]

Array = Any  # a device array


def softmax_cross_entropy(
    logits: Array,
    ids: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    batch_first: bool = False,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[float, Array]:
    """``-log softmax(logits)[id]``: see `rnnfast.losses.softmax_cross_entropy`.

    Parameters
    ----------
    logits : device array, shape [..., C]
    ids : device array of int, shape [...]
    mask : device array of bool or weights, shape [...], optional
    lengths : device array of int, shape [B], optional
    batch_first : bool
    reduction : {"mean", "sum"}
    out : device array, optional

    Returns
    -------
    loss : float
        NaN if an id is out of range where it counts.
    dlogits : device array, shape [..., C]

    Raises
    ------
    TypeError, ValueError
        For arrays on the host, wrong shapes or dtypes.
    """
    xp = arrays.xp()
    z = _prediction("logits", logits)
    classes = _of_shape("ids", ids, z.shape[:-1], "iu")
    active, scale = _entries("logits", z, mask, lengths, batch_first, reduction, features=1)
    gradient = _gradient(out, z, (("logits", z), ("ids", classes)))
    if not z.size:
        return 0.0, gradient
    with np.errstate(all="ignore"):
        z = _unmasked(z, active)
        wrong = (classes < 0) | (classes >= z.shape[-1])
        scale = _spoil(scale, wrong, active)
        hit = arrays.arange(z.shape[-1]) == classes[..., None]
        shifted = z - z.max(axis=-1, keepdims=True)
        exponentials = xp.exp(shifted)
        sums = exponentials.sum(axis=-1, dtype=np.float64)
        of_class = xp.where(hit, shifted, z.dtype.type(0)).sum(axis=-1, dtype=np.float64)
        loss = ((xp.log(sums) - of_class) * scale).sum()
        exponentials *= (scale / sums).astype(z.dtype)[..., None]
        gradient[...] = exponentials - hit * scale.astype(z.dtype)[..., None]
    return float(loss), gradient


def mean_squared_error(
    prediction: Array,
    target: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    batch_first: bool = False,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[float, Array]:
    """``(prediction - target)^2``: see `rnnfast.losses.mean_squared_error`.

    Parameters
    ----------
    prediction, target : device array, shape [..., O]
    mask : device array of bool or weights, shape [...], optional
    lengths : device array of int, shape [B], optional
    batch_first : bool
    reduction : {"mean", "sum"}
    out : device array, optional

    Returns
    -------
    loss : float
    dprediction : device array, shape [..., O]

    Raises
    ------
    TypeError, ValueError
        For arrays on the host, wrong shapes or dtypes.
    """
    y = _prediction("prediction", prediction)
    wanted = _of_shape("target", target, y.shape, "biuf")
    active, scale = _entries("prediction", y, mask, lengths, batch_first, reduction, features=y.shape[-1])
    gradient = _gradient(out, y, (("prediction", y), ("target", wanted)))
    with np.errstate(all="ignore"):
        difference = _unmasked(y, active) - _unmasked(wanted, active).astype(y.dtype)
        squares = arrays.xp().multiply(difference, difference, dtype=np.float64)
        loss = (squares.sum(axis=-1) * scale).sum()
        gradient[...] = difference * (2 * scale).astype(y.dtype)[..., None]
    return float(loss), gradient


def binary_cross_entropy(
    prediction: Array,
    target: Array,
    *,
    logits: bool = False,
    mask: Array | None = None,
    lengths: Array | None = None,
    batch_first: bool = False,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[float, Array]:
    """``-(target log p + (1 - target) log(1 - p))``: see `rnnfast.losses.binary_cross_entropy`.

    Parameters
    ----------
    prediction, target : device array, shape [..., O]
    logits : bool
    mask : device array of bool or weights, shape [...], optional
    lengths : device array of int, shape [B], optional
    batch_first : bool
    reduction : {"mean", "sum"}
    out : device array, optional

    Returns
    -------
    loss : float
        NaN if a target or a probability is outside 0..1 where it counts.
    dprediction : device array, shape [..., O]

    Raises
    ------
    TypeError, ValueError
        For arrays on the host, wrong shapes or dtypes.
    """
    from_logits = _checks.truth("logits", logits)
    y = _prediction("prediction", prediction)
    wanted = _of_shape("target", target, y.shape, "biuf")
    active, scale = _entries("prediction", y, mask, lengths, batch_first, reduction, features=y.shape[-1])
    gradient = _gradient(out, y, (("prediction", y), ("target", wanted)))
    with np.errstate(all="ignore"):
        y, wanted = _unmasked(y, active), _unmasked(wanted, active).astype(y.dtype)
        wrong = (wanted < 0) | (wanted > 1)
        if not from_logits:
            wrong |= (y < 0) | (y > 1)
        scale = _spoil(scale, wrong.any(axis=-1), active)
        values, derivatives = (_bce_of_logits if from_logits else _bce_of_probabilities)(y, wanted)
        loss = (values.sum(axis=-1, dtype=np.float64) * scale).sum()
        gradient[...] = derivatives * scale.astype(y.dtype)[..., None]
    return float(loss), gradient


def _bce_of_logits(z: Array, target: Array) -> tuple[Array, Array]:
    """The losses and their derivatives."""
    xp = arrays.xp()
    e = xp.exp(-xp.abs(z))
    values = xp.maximum(z, 0) - z * target + xp.log1p(e)
    return values, xp.where(z >= 0, z.dtype.type(1), e) / (1 + e) - target


def _bce_of_probabilities(p: Array, target: Array) -> tuple[Array, Array]:
    """The losses and their derivatives."""
    xp = arrays.xp()
    values = (target - 1) * xp.maximum(xp.log1p(-p), -100) - target * xp.maximum(xp.log(p), -100)
    return values, (p - target) / xp.maximum(p * (1 - p), p.dtype.type(1e-12))


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def _on_device(name: str, value: Any, kinds: str) -> Array:
    """An argument that must be on the device, with a dtype of these kinds."""
    if not arrays.is_device_array(value):
        raise TypeError(f"{name}: expected an array on the device, as the prediction is, got {_checks.describe(value)}")
    array = arrays.adopt(value)
    if array.dtype.kind not in kinds:
        wanted = "integers" if kinds == "iu" else "real numbers"
        raise TypeError(f"{name}: expected an array of {wanted}, got dtype {array.dtype}")
    return array


def _of_shape(name: str, value: Any, shape: tuple[int, ...], kinds: str) -> Array:
    array = _on_device(name, value, kinds)
    _checks.shape(name, array, shape)
    return array


def _prediction(name: str, value: Any) -> Array:
    """The prediction in float32 if it is float32, else in float64."""
    array = _on_device(name, value, "biuf")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, the features, got a number")
    return array if array.dtype == np.float32 else array.astype(np.float64)


def _gradient(out: Any, like: Array, inputs: Iterable[tuple[str, Array]]) -> Array:
    """The caller's `out` if it fits, or a new array."""
    if out is None:
        return arrays.empty(like.shape, like.dtype)
    array = _of_shape("out", out, like.shape, "f")
    if array.dtype != like.dtype:
        raise TypeError(f"out: expected dtype {like.dtype}, got {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError("out: expected an array that is c_contiguous, got one that is not")
    for name, other in inputs:
        if arrays.xp().may_share_memory(array, other):
            raise ValueError(f"out: expected memory of its own, got memory that it shares with {name}")
    return array


def _entries(
    name: str,
    prediction: Array,
    mask: Any,
    lengths: Any,
    batch_first: bool,
    reduction: str,
    features: int,
) -> tuple[Array | None, Array]:
    """Which entries have a weight (None: all), and each one's factor in the total loss, float64; both `[...]`."""
    xp = arrays.xp()
    mean = _checks.choice("reduction", reduction, ("mean", "sum")) == "mean"
    transposed = _checks.truth("batch_first", batch_first)
    shape = prediction.shape[:-1]
    scale = (
        arrays.zeros(shape, np.float64) + 1
        if mask is None
        else _of_shape("mask", mask, shape, "biuf").astype(np.float64)
    )
    if lengths is not None:
        within, wrong = _within(name, prediction, lengths, transposed)
        scale = xp.where(wrong, np.nan, xp.where(within, scale, 0.0))
    active = None if mask is None and lengths is None else scale != 0
    with np.errstate(all="ignore"):
        scale = xp.where(scale >= 0, scale, np.nan)
        if mean:
            total = scale.sum() * features
            scale = xp.where(total == 0, scale, scale / total)
    return active, scale


def _within(name: str, prediction: Array, lengths: Any, batch_first: bool) -> tuple[Array, Array]:
    """Which entries lie within their row's length; which rows' lengths are out of range. Both broadcast to [...]."""
    if prediction.ndim != 3:
        raise ValueError(f"lengths: expected {name} with 3 axes to go with lengths, got shape {prediction.shape}")
    rows, steps = prediction.shape[:2] if batch_first else prediction.shape[1::-1]
    ends = _of_shape("lengths", lengths, (rows,), "iu").astype(np.int64)[:, None]
    within, wrong = arrays.arange(steps) < ends, (ends < 0) | (ends > steps)
    return (within, wrong) if batch_first else (within.T, wrong.T)


def _unmasked(array: Array, active: Array | None) -> Array:
    """The array with zeros for entries without a weight."""
    if active is None:
        return array
    used = active.reshape(active.shape + (1,) * (array.ndim - active.ndim))
    return arrays.xp().where(used, array, array.dtype.type(0))


def _spoil(scale: Array, wrong: Array, active: Array | None) -> Array:
    """The scale with NaN for active entries that are wrong."""
    if active is not None:
        wrong = wrong & active
    return arrays.xp().where(wrong, np.nan, scale)
