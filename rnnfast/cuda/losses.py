"""The losses of `rnnfast.losses` on device arrays: the same meaning, one wait for the loss.

They are called by the functions of that module, which have the signatures and hand on all arguments by name.

A) Whole-array expressions; what is masked is replaced by zeros before any arithmetic sees it.
B) What the host would refuse after reading it (ids, targets or probabilities out of range, negative weights, lengths
   outside 0..T) makes the entry's scale NaN, and so the loss and the entry's gradient: to refuse it, one would have to
   wait for the device twice.
C) Sums over features and entries are in float64.

Rejected: a kernel per loss (the arithmetic between the layers and the loss is a few arrays of the output's size; a step
of training spends its time elsewhere).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _checks
from . import arrays, checks

__all__ = ["binary_cross_entropy", "huber", "mean_absolute_error", "mean_squared_error", "softmax_cross_entropy"]

Array = Any  # a device array
Found = tuple[float, Array]
Derived = tuple[Array, Array, Array | None]
"""Of a loss: the entries' values [...], their derivatives [..., O], and which entries [...] are out of range."""


def softmax_cross_entropy(
    logits: Array, ids: Array, class_weights: Any, label_smoothing: float, ignore_index: Any, **options: Any
) -> Found:
    """NaN if an id, or a soft target, is out of range where it counts."""
    z, target = _prediction("logits", logits), checks.numbers("ids", ids)
    smoothing = _checks.probability("label_smoothing", label_smoothing)
    soft = target.dtype.kind == "f" and target.ndim == z.ndim and target.size > 0
    if not soft:
        target = checks.integers("ids", target)
    elif ignore_index is not None:
        raise ValueError("ignore_index: expected None with soft targets, got a number")
    if ignore_index is not None:
        options["there"] = target != _checks.integer("ignore_index", ignore_index, -(2**63))
    weights = None
    if class_weights is not None:
        weights = checks.real_of_shape("class_weights", class_weights, np.dtype(np.float64), z.shape[-1:], "[C]")
    shape = z.shape if soft else z.shape[:-1]
    if not soft and weights is not None and z.size:
        _checks.shape("ids", target, shape)
        options["factors"] = weights[arrays.xp().clip(target, 0, z.shape[-1] - 1)]
    derive = _softmax
    if soft or smoothing or weights is not None:
        derive = functools.partial(_coefficients, soft=soft, weights=weights, smoothing=smoothing)
    return _loss(("logits", z), ("ids", target), shape, 1, derive, **options)


def mean_squared_error(prediction: Array, target: Array, **options: Any) -> Found:
    """Of any values."""
    return _of_features(prediction, target, _squares, **options)


def mean_absolute_error(prediction: Array, target: Array, **options: Any) -> Found:
    """Of any values."""
    return _of_features(prediction, target, _absolutes, **options)


def huber(prediction: Array, target: Array, delta: float, **options: Any) -> Found:
    """Of any values."""
    bound = _checks.number("delta", delta)
    if bound <= 0:
        raise ValueError(f"delta: expected a number above 0, got {bound}")
    return _of_features(prediction, target, functools.partial(_huber, delta=bound), **options)


def binary_cross_entropy(prediction: Array, target: Array, logits: bool, **options: Any) -> Found:
    """NaN if a target or a probability is outside 0..1 where it counts."""
    derive = _bce_of_logits if _checks.truth("logits", logits) else _bce_of_probabilities
    return _of_features(prediction, target, derive, **options)


def _of_features(prediction: Array, target: Array, derive: Callable[..., Derived], **options: Any) -> Found:
    """A loss that runs over the features as well."""
    y, wanted = _prediction("prediction", prediction), checks.numbers("target", target)
    if options["mask"] is None or np.ndim(options["mask"]) != y.ndim:
        return _loss(("prediction", y), ("target", wanted), y.shape, y.shape[-1], derive, **options)
    _checks.shape("target", wanted, y.shape)
    out, lengths = options.pop("out"), options.pop("lengths")
    if lengths is not None:  # of the entries, and so of each entry's elements
        within, wrong = _within("prediction", y, lengths, options["batch_first"])
        mask = checks.numbers("mask", options["mask"]).astype(np.float64)
        _checks.shape("mask", mask, y.shape)
        xp = arrays.xp()
        options["mask"] = xp.where(wrong[..., None], np.nan, xp.where(within[..., None], mask, 0.0))
    gradient = (
        None if out is None else checks.output("out", out, y.shape, y.dtype, (("prediction", y), ("target", wanted)))
    )
    parts = ("prediction", y[..., None]), ("target", wanted[..., None])
    loss, found = _loss(*parts, (*y.shape, 1), 1, derive, lengths=None, out=None, **options)
    if gradient is None:
        return loss, found[..., 0]
    gradient[...] = found[..., 0]
    return loss, gradient


def _loss(
    prediction: tuple[str, Array],
    target: tuple[str, Array],
    shape: tuple[int, ...],
    features: int,
    derive: Callable[[Array, Array], Derived],
    *,
    mask: Array | None,
    lengths: Array | None,
    batch_first: bool,
    reduction: str,
    out: Array | None,
    there: Array | None = None,
    factors: Array | None = None,
) -> Found:
    """The loss and its gradient; prediction and target (of this shape) come with their names."""
    (name, y), (_, wanted) = prediction, target
    _checks.shape(*target, shape)
    active, scale = _entries(name, y, mask, lengths, batch_first, reduction, features, there, factors)
    if out is None:
        gradient = arrays.empty(y.shape, y.dtype)
    else:
        gradient = checks.output("out", out, y.shape, y.dtype, (prediction, target))
    if not y.size:
        return 0.0, gradient
    with np.errstate(all="ignore"):
        values, derivatives, wrong = derive(_unmasked(y, active), _unmasked(wanted, active))
        if wrong is not None:
            scale = arrays.xp().where(wrong, np.nan, scale)
        gradient[...] = derivatives * scale.astype(y.dtype)[..., None]
        return float((values * scale).sum()), gradient


def _softmax(z: Array, ids: Array) -> Derived:
    xp = arrays.xp()
    hit = arrays.arange(z.shape[-1]) == ids[..., None]
    shifted = z - z.max(axis=-1, keepdims=True)
    probabilities = xp.exp(shifted)
    sums = probabilities.sum(axis=-1, dtype=np.float64)
    of_class = xp.where(hit, shifted, z.dtype.type(0)).sum(axis=-1, dtype=np.float64)
    probabilities *= (1 / sums).astype(z.dtype)[..., None]
    return xp.log(sums) - of_class, probabilities - hit, (ids < 0) | (ids >= z.shape[-1])


def _coefficients(z: Array, target: Array, soft: bool, weights: Array | None, smoothing: float) -> Derived:
    """See `rnnfast.losses`: `-sum(a log p)`, of which the gradient is `sum(a) p - a`."""
    xp, classes = arrays.xp(), z.shape[-1]
    hit = target if soft else arrays.arange(classes) == target[..., None]
    a = hit.astype(z.dtype) * z.dtype.type(1 - smoothing) + z.dtype.type(smoothing / classes)
    wrong = _beyond(target) if soft else (target < 0) | (target >= classes)
    if weights is not None:
        a *= weights.astype(z.dtype)
        wrong |= (weights < 0).any()
    shifted = z - z.max(axis=-1, keepdims=True)
    p = xp.exp(shifted)
    sums, total = p.sum(axis=-1, dtype=np.float64), a.sum(axis=-1, dtype=np.float64)
    p *= (total / sums).astype(z.dtype)[..., None]
    chosen = xp.where(a > 0, a * shifted, z.dtype.type(0)).sum(axis=-1, dtype=np.float64)
    return total * xp.log(sums) - chosen, p - a, wrong


def _absolutes(y: Array, target: Array) -> Derived:
    xp, difference = arrays.xp(), y - target.astype(y.dtype)
    return xp.abs(difference).sum(axis=-1, dtype=np.float64), xp.sign(difference), None


def _huber(y: Array, target: Array, delta: float) -> Derived:
    xp, difference = arrays.xp(), y - target.astype(y.dtype)
    bounded = xp.clip(difference, -delta, delta)
    beyond = xp.abs(difference) - y.dtype.type(0.5) * xp.abs(bounded)
    return xp.multiply(xp.abs(bounded), beyond, dtype=np.float64).sum(axis=-1), bounded, None


def _squares(y: Array, target: Array) -> Derived:
    difference = y - target.astype(y.dtype)
    values = arrays.xp().multiply(difference, difference, dtype=np.float64).sum(axis=-1)
    return values, 2 * difference, None


def _bce_of_logits(z: Array, target: Array) -> Derived:
    xp, target = arrays.xp(), target.astype(z.dtype)
    e = xp.exp(-xp.abs(z))
    values = xp.maximum(z, 0) - z * target + xp.log1p(e)
    derivatives = xp.where(z >= 0, z.dtype.type(1), e) / (1 + e) - target
    return values.sum(axis=-1, dtype=np.float64), derivatives, _beyond(target)


def _bce_of_probabilities(p: Array, target: Array) -> Derived:
    xp, target = arrays.xp(), target.astype(p.dtype)
    values = (target - 1) * xp.maximum(xp.log1p(-p), -100) - target * xp.maximum(xp.log(p), -100)
    derivatives = (p - target) / xp.maximum(p * (1 - p), p.dtype.type(1e-12))
    return values.sum(axis=-1, dtype=np.float64), derivatives, _beyond(target) | _beyond(p)


def _beyond(array: Array) -> Array:
    """Which entries have a feature outside 0..1."""
    return ((array < 0) | (array > 1)).any(axis=-1)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def _prediction(name: str, value: Any) -> Array:
    """The prediction in float32 if it is float32, else in float64."""
    array = checks.numbers(name, value)
    if array.ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, the features, got a number")
    return array if array.dtype == np.float32 else array.astype(np.float64)


def _entries(
    name: str,
    prediction: Array,
    mask: Any,
    lengths: Any,
    batch_first: bool,
    reduction: str,
    features: int,
    there: Array | None,
    factors: Array | None,
) -> tuple[Array | None, Array]:
    """Which entries have a weight (None: all), and each one's factor in the total loss, float64; both `[...]`.

    `there` masks entries; `factors` are further weights in what a mean divides by, and not in the result.
    """
    xp = arrays.xp()
    mean = _checks.choice("reduction", reduction, ("mean", "sum")) == "mean"
    transposed = _checks.truth("batch_first", batch_first)
    shape = prediction.shape[:-1]
    if mask is None:
        scale = arrays.zeros(shape, np.float64) + 1
    else:
        scale = checks.numbers("mask", mask).astype(np.float64)
        _checks.shape("mask", scale, shape)
    if lengths is not None:
        within, wrong = _within(name, prediction, lengths, transposed)
        scale = xp.where(wrong, np.nan, xp.where(within, scale, 0.0))
    if there is not None:
        scale = xp.where(there, scale, 0.0)
    active = None if mask is None and lengths is None and there is None else scale != 0
    with np.errstate(all="ignore"):
        scale = xp.where(scale >= 0, scale, np.nan)
        if mean:
            total = (scale if factors is None else scale * factors).sum() * features
            scale = xp.where(total == 0, scale, scale / total)
    return active, scale


def _within(name: str, prediction: Array, lengths: Any, batch_first: bool) -> tuple[Array, Array]:
    """Which entries lie within their row's length; which rows' lengths are out of range. Both broadcast to [...]."""
    if prediction.ndim != 3:
        raise ValueError(f"lengths: expected {name} with 3 axes to go with lengths, got shape {prediction.shape}")
    rows, steps = prediction.shape[:2] if batch_first else prediction.shape[1::-1]
    ends = checks.integers("lengths", lengths).astype(np.int64)
    _checks.shape("lengths", ends, (rows,), "[B]")
    ends = ends[:, None]
    within, wrong = arrays.arange(steps) < ends, (ends < 0) | (ends > steps)
    return (within, wrong) if batch_first else (within.T, wrong.T)


def _unmasked(array: Array, active: Array | None) -> Array:
    """The array with zeros for entries without a weight."""
    if active is None:
        return array
    used = active.reshape(active.shape + (1,) * (array.ndim - active.ndim))
    return arrays.xp().where(used, array, array.dtype.type(0))
