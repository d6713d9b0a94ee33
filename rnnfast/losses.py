"""Losses over sequences: the loss as a Python float, and its gradient with respect to the prediction.

Predictions are `[..., O]`, usually `[T, B, O]`; an *entry* is one position of the leading axes, and masks and weights
belong to entries. Each loss is the sum over the entries of `scale * (the entry's loss)`, where `scale` is the entry's
weight, divided for "mean" by the sum of the weights (times the features, where a loss runs over them).

A) The work goes block by block along the first axis, so that a block's passes and temporaries stay in the cache; the
   gradient's own memory is the working buffer. Whole-array temporaries cost four times the arithmetic, in page faults.
B) What is masked is not read: where a block has masked entries, the others are gathered into a compact array first, and
   the arithmetic sees only them. Without masked entries nothing is gathered.
C) Sums over features, entries and blocks are in float64, in an order that depends on shapes and masks alone.
D) A prediction on a CUDA device is handed to `rnnfast.cuda.losses`: the other arrays must lie there too, the gradient
   does, and the loss is the one number that is waited for. Values out of range make it NaN there.
E) Stable at any magnitude: log-sum-exp around the maximum; sigmoids and their logarithms through exp(-|z|).
F) Numbers below the smallest normal one are zeros in the loops over blocks, as they are in the kernels: a prediction
   that is sure of itself would else take many times as long.

Rejected: a class per loss (there is no state); reduction "none" (the gradient would be that of the sum anyway: weights
do it); broadcasting the target (`[N, 1]` against `[N]` is the commonest silent mistake in training code); `np.log1p`
and `np.where`, which for float32 are not vectorised and would take most of the time of binary cross-entropy.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import Array
from ._flat import flushed

__all__ = ["binary_cross_entropy", "mean_squared_error", "softmax_cross_entropy"]

Reduction = Literal["mean", "sum"]
Loss = TypeVar("Loss", bound=Callable[..., tuple[float, Array]])


def _where_it_lies(loss: Loss) -> Loss:
    """For a prediction on a CUDA device, the loss of the same name in `rnnfast.cuda.losses`."""
    signature = inspect.signature(loss)
    prediction = next(iter(signature.parameters))

    @functools.wraps(loss)
    def dispatch(*arguments: Any, **options: Any) -> tuple[float, Array]:
        given = arguments[0] if arguments else options.get(prediction)
        if not _checks.on_device(given):
            with np.errstate(all="ignore"):  # non-finite numbers give a non-finite loss, not a warning
                return loss(*arguments, **options)
        there = getattr(import_module(".cuda.losses", __package__), loss.__name__)
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        return there(**bound.arguments)  # type: ignore[no-any-return]

    return cast(Loss, dispatch)


@_where_it_lies
def softmax_cross_entropy(
    logits: ArrayLike,
    ids: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[float, Array]:
    """``-log softmax(logits)[id]``, a weighted mean or sum over the entries.

    Parameters
    ----------
    logits : array_like, shape [..., C]
        Float32 or float64; other real dtypes are converted to float64. A class whose logit is -inf has probability 0.
    ids : array_like of int, shape [...]
        The classes, in 0..C-1.
    mask : array_like of bool or real weights >= 0, shape [...], optional
        Where it is 0, logits and ids are not read and the gradient is 0.
    lengths : array_like of int, shape [B], optional
        Needs logits `[T, B, C]`; steps ``t >= lengths[b]`` of row b are masked.
    batch_first : bool
        The leading axes are `[B, T]`; matters to `lengths` only.
    reduction : {"mean", "sum"}
        "mean" divides by the sum of the weights.
    out : ndarray, optional
        Receives the gradient.

    Returns
    -------
    loss : float
        0.0 if no entry has a weight.
    dlogits : ndarray, shape [..., C]
        In the dtype of the logits; `out` if given.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes, weights or lengths, and unmasked ids out of range. Nothing is then written.
    """
    z = _prediction("logits", logits)
    classes = _checks.integers("ids", ids)
    _checks.shape("ids", classes, z.shape[:-1])
    active, scale = _entries("logits", z, mask, lengths, batch_first, reduction, features=1)
    gradient = _gradient(out, ("logits", z), ("ids", classes))
    _check_range("ids", classes, z.shape[-1] - 1, active)
    return _total(_softmax_block, _blocks(z, classes, gradient, active, scale)), gradient


def _softmax_block(block: _Block) -> float:
    """The loss of a block, whose gradient it writes."""
    work = block.gradient
    of_class = (np.arange(len(work)), block.target.astype(np.intp))
    np.subtract(block.prediction, block.prediction.max(axis=1, keepdims=True), out=work)
    shifted = work[of_class]
    np.exp(work, out=work)
    sums = work.sum(axis=1, dtype=np.float64)
    loss = float(np.sum((np.log(sums) - shifted) * block.scale))
    work *= (block.scale / sums).astype(work.dtype)[:, None]
    work[of_class] -= block.scale.astype(work.dtype)
    return loss


@_where_it_lies
def mean_squared_error(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[float, Array]:
    """``(prediction - target)^2``, a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    prediction : array_like, shape [..., O]
        Float32 or float64; other real dtypes are converted to float64.
    target : array_like, shape [..., O]
        Converted to the prediction's dtype.
    mask : array_like of bool or real weights >= 0, shape [...], optional
        Where it is 0, prediction and target are not read and the gradient is 0.
    lengths : array_like of int, shape [B], optional
        Needs a prediction `[T, B, O]`; steps ``t >= lengths[b]`` of row b are masked.
    batch_first : bool
        The leading axes are `[B, T]`; matters to `lengths` only.
    reduction : {"mean", "sum"}
        "mean" divides by (sum of the weights) * O.
    out : ndarray, optional
        Receives the gradient.

    Returns
    -------
    loss : float
        0.0 if no entry has a weight.
    dprediction : ndarray, shape [..., O]
        In the dtype of the prediction; `out` if given.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes, weights or lengths. Nothing is then written.
    """
    y = _prediction("prediction", prediction)
    wanted = _checks.numbers("target", target)
    _checks.shape("target", wanted, y.shape)
    active, scale = _entries("prediction", y, mask, lengths, batch_first, reduction, features=y.shape[-1])
    gradient = _gradient(out, ("prediction", y), ("target", wanted))
    return _total(_squares_block, _blocks(y, wanted, gradient, active, scale)), gradient


def _squares_block(block: _Block) -> float:
    """The loss of a block, whose gradient it writes."""
    work = block.gradient
    np.subtract(block.prediction, block.target.astype(work.dtype, copy=False), out=work)
    loss = float(np.sum(np.einsum("no,no->n", work, work, dtype=np.float64) * block.scale))
    work *= (2 * block.scale).astype(work.dtype)[:, None]
    return loss


@_where_it_lies
def binary_cross_entropy(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    logits: bool = False,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[float, Array]:
    """``-(target log p + (1 - target) log(1 - p))``, a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    prediction : array_like, shape [..., O]
        Probabilities p in 0..1; or, with `logits`, any numbers z of which p is the sigmoid. Float32 or float64; other
        real dtypes are converted to float64. The logarithm of a probability is held at -100 or more, and p (1 - p) in
        the gradient at 1e-12 or more, as in PyTorch.
    target : array_like, shape [..., O]
        In 0..1, booleans included; converted to the prediction's dtype.
    logits : bool
        The prediction has not been through the sigmoid; the gradient is then with respect to z.
    mask : array_like of bool or real weights >= 0, shape [...], optional
        Where it is 0, prediction and target are not read and the gradient is 0.
    lengths : array_like of int, shape [B], optional
        Needs a prediction `[T, B, O]`; steps ``t >= lengths[b]`` of row b are masked.
    batch_first : bool
        The leading axes are `[B, T]`; matters to `lengths` only.
    reduction : {"mean", "sum"}
        "mean" divides by (sum of the weights) * O.
    out : ndarray, optional
        Receives the gradient.

    Returns
    -------
    loss : float
        0.0 if no entry has a weight.
    dprediction : ndarray, shape [..., O]
        In the dtype of the prediction; `out` if given.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes, weights or lengths, and unmasked targets or probabilities outside 0..1. Nothing is
        then written.
    """
    from_logits = _checks.truth("logits", logits)
    y = _prediction("prediction", prediction)
    wanted = _checks.numbers("target", target)
    _checks.shape("target", wanted, y.shape)
    active, scale = _entries("prediction", y, mask, lengths, batch_first, reduction, features=y.shape[-1])
    gradient = _gradient(out, ("prediction", y), ("target", wanted))
    _check_range("target", wanted, 1, active)
    if not from_logits:
        _check_range("prediction", y, 1, active)
    derive = _bce_of_logits if from_logits else _bce_of_probabilities

    def of_block(block: _Block) -> float:
        work = block.gradient
        values = derive(block.prediction, block.target.astype(work.dtype, copy=False), work)
        work *= block.scale.astype(work.dtype)[:, None]
        return float(np.sum(values.sum(axis=1, dtype=np.float64) * block.scale))

    return _total(of_block, _blocks(y, wanted, gradient, active, scale)), gradient


def _bce_of_logits(z: Array, target: Array, gradient: Array) -> Array:
    """The losses, with their derivatives in `gradient` (which may be `z` itself)."""
    e = np.abs(z)
    np.negative(e, out=e)
    np.exp(e, out=e)
    values = np.maximum(z, 0)
    values -= z * target
    values += _log1p(e)
    numerator = np.maximum(e, z >= 0)  # sigmoid(z) is 1 / (1 + e) for z >= 0, e / (1 + e) below
    e += 1
    np.divide(numerator, e, out=gradient)
    gradient -= target
    return values


def _bce_of_probabilities(p: Array, target: Array, gradient: Array) -> Array:
    """The losses, with their derivatives in `gradient` (which may be `p` itself)."""
    values = (target - 1) * np.maximum(_log1p(-p), -100)
    values -= target * np.maximum(np.log(p), -100)
    variance = p * (1 - p)
    np.maximum(variance, 1e-12, out=variance)
    np.subtract(p, target, out=gradient)
    gradient /= variance
    return values


def _log1p(x: Array) -> Array:
    """``log(1 + x)`` for x in -1..1: the logarithm of the rounded sum, and to first order what the rounding took."""
    u = 1 + x
    lost: Array = x - (u - 1)
    lost /= np.maximum(u, np.finfo(u.dtype).tiny)
    lost += np.log(u)
    return lost


# ---------------------------------------------------------------------------------------------------------------------
# Entries: which count, how much, and in which blocks

_BLOCK = 65536  # elements: 256 KiB of float32; smaller blocks spend more on the calls than they save on the cache


class _Block(NamedTuple):
    """The entries of one block that have a weight, n of them."""

    prediction: Array  # [n, O]
    target: Array  # [n, O], or ids [n]
    scale: Array  # [n], float64
    gradient: Array  # [n, O], C-contiguous, to be filled in


def _blocks(prediction: Array, target: Array, gradient: Array, active: Array | None, scale: Array) -> Iterator[_Block]:
    """All blocks in order; what was left in a block's gradient is put in its place when the next block is due."""
    if prediction.ndim == 1:
        prediction, target, gradient, scale = prediction[None], target[None], gradient[None], scale[None]
        active = None if active is None else active[None]
    if not prediction.size:
        return
    features = prediction.shape[-1]
    steps = max(1, _BLOCK * len(prediction) // prediction.size)
    for start in range(0, len(prediction), steps):
        part = slice(start, start + steps)
        y, d, factor, dy = prediction[part], target[part], scale[part], gradient[part]
        used = None if active is None else active[part]
        if used is None or used.all():
            n = factor.size
            yield _Block(
                y.reshape(n, features), d.reshape(n, *d.shape[factor.ndim :]), factor.ravel(), dy.reshape(n, features)
            )
        else:
            rows = np.empty((np.count_nonzero(used), features), dy.dtype)
            yield _Block(y[used], d[used], factor[used], rows)
            dy.fill(0)
            dy[used] = rows


def _total(of_block: Callable[[_Block], float], blocks: Iterator[_Block]) -> float:
    """The sum of the blocks' losses, in order; their arithmetic takes denormals for zeros."""

    def add() -> float:
        total = 0.0
        for block in blocks:
            total += of_block(block)
        return total

    return flushed(add)


def _entries(
    name: str,
    prediction: Array,
    mask: ArrayLike | None,
    lengths: ArrayLike | None,
    batch_first: bool,
    reduction: str,
    features: int,
) -> tuple[Array | None, Array]:
    """Which entries have a weight (None: all), and each one's factor in the total loss, float64; both `[...]`."""
    mean = _checks.choice("reduction", reduction, ("mean", "sum")) == "mean"
    transposed = _checks.truth("batch_first", batch_first)
    shape = prediction.shape[:-1]
    weights: Array = np.ones(shape, np.bool_)
    if mask is not None:
        weights = _checks.numbers("mask", mask)
        _checks.shape("mask", weights, shape)
    if lengths is not None:
        weights = np.where(_within(name, prediction, lengths, transposed), weights, weights.dtype.type(0))
    if weights.dtype != np.bool_:
        _reject("mask", "weights of at least 0", weights, ~(weights >= 0))
    scale = weights.astype(np.float64)
    total = float(scale.sum())
    if not math.isfinite(total):
        raise ValueError(f"mask: expected weights with a finite sum, got {total}")
    if mean and total * features > 0:
        scale /= total * features
    return None if mask is None and lengths is None else weights != 0, scale


def _within(name: str, prediction: Array, lengths: ArrayLike, batch_first: bool) -> Array:
    """Which entries lie within their row's length."""
    if prediction.ndim != 3:
        raise ValueError(f"lengths: expected {name} with 3 axes to go with lengths, got shape {prediction.shape}")
    rows, steps = prediction.shape[:2] if batch_first else prediction.shape[1::-1]
    within = np.arange(steps) < np.asarray(_checks.lengths(lengths, steps, rows))[:, None]
    return within if batch_first else within.T


def _prediction(name: str, value: ArrayLike) -> Array:
    """The prediction in native float32 if it is float32, else in float64."""
    array = _checks.numbers(name, value)
    if array.ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, the features, got a number")
    single = array.dtype.newbyteorder("=") == np.float32
    return _checks.real(name, array, np.dtype(np.float32 if single else np.float64))


def _gradient(out: Array | None, prediction: tuple[str, Array], target: tuple[str, Array]) -> Array:
    """The caller's `out` if it fits, or a new array."""
    like = prediction[1]
    if out is None:
        return np.empty(like.shape, like.dtype)
    return _checks.output("out", out, like.shape, like.dtype, (prediction, target))


def _check_range(name: str, array: Array, high: int, active: Array | None) -> None:
    """ValueError if an active entry is outside 0..high; NaN is not."""
    wrong = (array < 0) | (array > high)
    if active is not None:
        wrong &= active.reshape(active.shape + (1,) * (wrong.ndim - active.ndim))
    _reject(name, f"values in 0..{high}", array, wrong)


def _reject(name: str, expected: str, array: Array, wrong: Array) -> None:
    if wrong.any():
        position = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(f"{name}: expected {expected}, got {array[position]} at {list(position)}")
