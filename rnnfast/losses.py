"""Losses over sequences: the loss as a Python float, and its gradient with respect to the prediction.

Predictions are `[..., O]`, usually `[T, B, O]`; an *entry* is one position of the leading axes, and masks and weights
belong to entries. Each loss is the sum over the entries of `scale * (the entry's loss)`, where `scale` is the entry's
weight, divided for "mean" by the sum of the weights (times the features, where a loss runs over them). With a mask that
has the prediction's whole shape each element is an entry, of one feature.

A) The work goes block by block along the first axis, so that a block's passes and temporaries stay in the cache; the
   gradient's own memory is the working buffer. Whole-array temporaries cost four times the arithmetic, in page faults.
B) What is masked is not read: where a block has masked entries, the others are gathered into a compact array first, and
   the arithmetic sees only them. Without masked entries nothing is gathered.
C) Sums over features, entries and blocks are in float64, in an order that depends on shapes and masks alone.
D) A prediction on a CUDA device is handed to `rnnfast.cuda.losses`: the other arrays must lie there too, the gradient
   does, and the loss is the one number that is waited for. Values out of range make it NaN there.
E) Stable at any magnitude: log-sum-exp around the maximum; sigmoids and their logarithms through exp(-abs(z)).
F) Numbers below the smallest normal one are zeros in the loops over blocks, as they are in the kernels: a prediction
   that is sure of itself would else take many times as long.

Class weights, label smoothing and soft targets are one thing: coefficients `a` of the classes, of which the entry's
loss is `-sum(a log p)` and its gradient `sum(a) p - a`. Of one class alone (class weights and ids) they are weights of
the entries.

Rejected: a class per loss (there is no state); reduction "none" (the gradient would be that of the sum anyway: weights
do it); broadcasting the target (`[N, 1]` against `[N]` is the commonest silent mistake in training code); `np.log1p`
and `np.where`, which for float32 are not vectorised and would take most of the time of binary cross-entropy.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import Array
from ._device import holder
from ._flushing import flushing

__all__ = [
    "binary_cross_entropy",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "softmax_cross_entropy",
]

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
        with holder(given).active():
            return there(**bound.arguments)  # type: ignore[no-any-return]

    return cast(Loss, dispatch)


@_where_it_lies
def softmax_cross_entropy(
    logits: ArrayLike,
    ids: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
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
    ids : array_like of int, shape [...]; or of float, shape [..., C]
        The classes, in 0..C-1; or the probability of each class, in 0..1 (soft targets).
    class_weights : array_like, shape [C], optional
        Weights >= 0 of the classes.
    label_smoothing : float, optional
        How much of the target is spread evenly over all classes, in 0..1.
    ignore_index : int, optional
        An id, in 0..C-1 or not, that masks the entries which have it.
    mask : array_like of bool or real weights >= 0, shape [...], optional
        Where it is 0, logits and ids are not read and the gradient is 0.
    lengths : array_like of int, shape [B], optional
        Needs logits `[T, B, C]`; steps ``t >= lengths[b]`` of row b are masked.
    batch_first : bool
        The leading axes are `[B, T]`; matters to `lengths` only.
    reduction : {"mean", "sum"}
        "mean" divides by the sum of the weights: with class weights those of the ids' classes, as in PyTorch.
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

    Warns
    -----
    UserWarning
        The logits look like probabilities, to which a softmax head has applied the softmax already (not looked for on a
        CUDA device).

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import losses
    >>> loss, gradient = losses.softmax_cross_entropy(np.zeros((2, 4)), [0, 3])
    >>> gradient
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """
    z = _prediction("logits", logits)
    target = _checks.numbers("ids", ids)
    soft = target.dtype.kind == "f" and target.ndim == z.ndim and target.size > 0
    smoothing = _checks.probability("label_smoothing", label_smoothing)
    weights = None if class_weights is None else _class_weights(class_weights, z.shape[-1])
    if soft:
        _checks.shape("ids", target, z.shape, "[..., C] of soft targets")
        if ignore_index is not None:
            raise ValueError("ignore_index: expected None with soft targets, got a number")
    else:
        target = _checks.integers("ids", ids)
        _checks.shape("ids", target, z.shape[:-1])
    there = None if ignore_index is None else target != _checks.integer("ignore_index", ignore_index, -(2**63))
    of_class = None if soft or weights is None else np.take(weights, target, mode="clip")
    options = (mask, lengths, batch_first, reduction)
    active, scale = _entries("logits", z, *options, features=1, there=there, factors=of_class)
    gradient = _gradient(out, ("logits", z), ("ids", target))
    _check_range("ids", target, 1 if soft else z.shape[-1] - 1, active)
    _warn_of_probabilities(z, active)
    of_block: Callable[[_Block], float] = _softmax_block
    if soft or smoothing:
        of_block = functools.partial(_coefficients_block, weights=weights, smoothing=smoothing)
    elif of_class is not None:
        counts = of_class > 0
        scale, active = scale * of_class, counts if active is None else active & counts
    return _total(of_block, _blocks(z, target, gradient, active, scale)), gradient


def _softmax_block(block: _Block) -> float:
    """The loss of a block, whose gradient it writes."""
    work = block.gradient
    of_class = (np.arange(len(work)), block.target.astype(np.intp))
    flushing.subtract(block.prediction, block.prediction.max(axis=1, keepdims=True), out=work)
    shifted = work[of_class]
    flushing.exp(work, out=work)
    sums = flushing.sum(work, axis=1, dtype=np.float64)
    loss = _weighted(np.log(sums) - shifted, block.scale)
    _scale(work, flushing.divide(block.scale, sums))
    work[of_class] = flushing.subtract(work[of_class], block.scale.astype(work.dtype))
    return loss


def _coefficients_block(block: _Block, weights: Array | None, smoothing: float) -> float:
    """The same with coefficients of all classes: `-sum(a log p)`, of which the gradient is `sum(a) p - a`."""
    work, classes = block.gradient, block.prediction.shape[1]
    if block.target.ndim == 2:
        a = flushing.multiply(block.target.astype(work.dtype), work.dtype.type(1 - smoothing))
    else:
        a = np.zeros(work.shape, work.dtype)
        a[np.arange(len(work)), block.target.astype(np.intp)] = 1 - smoothing
    flushing.add(a, work.dtype.type(smoothing / classes), out=a)
    if weights is not None:
        flushing.multiply(a, weights.astype(work.dtype), out=a)
    flushing.subtract(block.prediction, block.prediction.max(axis=1, keepdims=True), out=work)
    shifted = np.where(a > 0, work, 0)  # a class without a share may have the logit -inf
    flushing.exp(work, out=work)
    sums, total = (flushing.sum(one, axis=1, dtype=np.float64) for one in (work, a))
    of_target = flushing.vecdot(a, shifted, dtype=np.float64)
    loss = _weighted(flushing.multiply(total, np.log(sums)) - of_target, block.scale)
    _scale(work, flushing.divide(total, sums))
    flushing.subtract(work, a, out=work)
    _scale(work, block.scale)
    return loss


def _class_weights(value: ArrayLike, classes: int) -> Array:
    """The weights of the classes, float64 [C]."""
    weights = _checks.real_of_shape("class_weights", value, np.dtype(np.float64), (classes,), "[C]")
    _reject("class_weights", "finite weights of at least 0", weights, ~((weights >= 0) & (weights < np.inf)))
    return weights


def _warn_of_probabilities(z: Array, active: Array | None) -> None:
    """Warn if the first entries are all distributions, as a softmax head gives them."""
    if z.ndim < 2 or not z.size or z.shape[-1] < 2:
        return
    first = z[(0,) * (z.ndim - 2)][:32]  # up to 32 entries of the last but one axis
    rows = first if active is None else first[active[(0,) * (z.ndim - 2)][:32]]
    if len(rows) < 2 or not (rows >= 0).all():
        return
    if (np.abs(rows.sum(axis=1, dtype=np.float64) - 1) < 1e-4).all():
        warnings.warn(
            "softmax_cross_entropy: expected logits, got what looks like probabilities; a softmax head gives logits "
            "with logits=True, and the softmax of a softmax trains badly",
            stacklevel=4,
        )


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
    mask : array_like of bool or real weights >= 0, shape [...] or [..., O], optional
        Where it is 0, prediction and target are not read and the gradient is 0. With the prediction's own shape it has
        a weight for each element.
    lengths : array_like of int, shape [B], optional
        Needs a prediction `[T, B, O]`; steps ``t >= lengths[b]`` of row b are masked.
    batch_first : bool
        The leading axes are `[B, T]`; matters to `lengths` only.
    reduction : {"mean", "sum"}
        "mean" divides by (sum of the weights) * O, or by the sum of the elements' weights.
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

    Examples
    --------
    >>> from rnnfast import losses
    >>> loss, gradient = losses.mean_squared_error([[1.0, 4.0]], [[1.0, 2.0]])
    >>> loss, gradient.tolist()
    (2.0, [[0.0, 2.0]])
    """
    return _of_features(prediction, target, _squares_block, mask, lengths, batch_first, reduction, out)


def _squares_block(block: _Block) -> float:
    """The loss of a block, whose gradient it writes."""
    work = _difference(block)
    loss = _weighted(flushing.vecdot(work, work, dtype=np.float64), block.scale)
    _scale(work, 2 * block.scale)
    return loss


def _difference(block: _Block) -> Array:
    """Prediction minus target, in the gradient's memory."""
    work = block.gradient
    flushing.subtract(block.prediction, block.target.astype(work.dtype, copy=False), out=work)
    return work


def _weighted(values: Array, scale: Array) -> float:
    """The sum of the entries' losses, each with its weight."""
    return float(flushing.sum(flushing.multiply(values, scale), axis=0))


def _scale(work: Array, scale: Array) -> None:
    """Multiply the entries' gradients with their weights, in place."""
    flushing.multiply(work, scale.astype(work.dtype)[:, None], out=work)


@_where_it_lies
def mean_absolute_error(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[float, Array]:
    """``|prediction - target|``, a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    prediction, target, mask, lengths, batch_first, reduction, out
        As for `mean_squared_error`.

    Returns
    -------
    loss, dprediction
        As from `mean_squared_error`.

    Raises
    ------
    ValueError, TypeError
        As from `mean_squared_error`.

    Notes
    -----
    The derivative at 0 is 0, as in PyTorch.

    Examples
    --------
    >>> from rnnfast import losses
    >>> loss, gradient = losses.mean_absolute_error([[1.0, 4.0]], [[1.0, 2.0]])
    >>> loss, gradient.tolist()
    (1.0, [[0.0, 0.5]])
    """
    return _of_features(prediction, target, _absolute_block, mask, lengths, batch_first, reduction, out)


def _absolute_block(block: _Block) -> float:
    """The loss of a block, whose gradient it writes."""
    work = _difference(block)
    loss = _weighted(flushing.sum(np.abs(work), axis=1, dtype=np.float64), block.scale)
    flushing.sign(work, out=work)
    _scale(work, block.scale)
    return loss


@_where_it_lies
def huber(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    delta: float = 1.0,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[float, Array]:
    """``d^2 / 2`` up to ``|d| = delta``, then ``delta (|d| - delta / 2)``, with ``d = prediction - target``.

    The loss is a weighted mean or sum over the entries and their features.

    Parameters
    ----------
    prediction, target, mask, lengths, batch_first, reduction, out
        As for `mean_squared_error`.
    delta : float, optional
        Where the square ends and the straight line begins, above 0.

    Returns
    -------
    loss, dprediction
        As from `mean_squared_error`.

    Raises
    ------
    ValueError, TypeError
        As from `mean_squared_error`.

    Notes
    -----
    Huber, "Robust estimation of a location parameter" (1964).

    Examples
    --------
    >>> from rnnfast import losses
    >>> loss, gradient = losses.huber([[0.5, 4.0]], [[0.0, 1.0]])
    >>> loss, gradient.tolist()
    (1.3125, [[0.25, 0.5]])
    """
    bound = _positive("delta", delta)
    of_block = functools.partial(_huber_block, delta=bound)
    return _of_features(prediction, target, of_block, mask, lengths, batch_first, reduction, out)


def _huber_block(block: _Block, delta: float) -> float:
    """The loss of a block, whose gradient it writes; that is the difference, held within +-delta."""
    work = _difference(block)
    beyond = np.abs(work)
    np.clip(work, -delta, delta, out=work)
    size = np.abs(work)
    flushing.subtract(beyond, flushing.multiply(work.dtype.type(0.5), size), out=beyond)
    loss = _weighted(flushing.vecdot(size, beyond, dtype=np.float64), block.scale)
    _scale(work, block.scale)
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
    mask, lengths, batch_first, reduction, out
        As for `mean_squared_error`.

    Returns
    -------
    loss, dprediction
        As from `mean_squared_error`.

    Raises
    ------
    ValueError, TypeError
        As from `mean_squared_error`, and for unmasked targets or probabilities outside 0..1. Nothing is then written.
    """
    from_logits = _checks.truth("logits", logits)
    derive = _bce_of_logits if from_logits else _bce_of_probabilities

    def of_block(block: _Block) -> float:
        work = block.gradient
        values = derive(block.prediction, block.target.astype(work.dtype, copy=False), work)
        _scale(work, block.scale)
        return _weighted(flushing.sum(values, axis=1, dtype=np.float64), block.scale)

    ranges = ("target",) if from_logits else ("target", "prediction")
    return _of_features(prediction, target, of_block, mask, lengths, batch_first, reduction, out, ranges)


def _of_features(
    prediction: ArrayLike,
    target: ArrayLike,
    of_block: Callable[[_Block], float],
    mask: ArrayLike | None,
    lengths: ArrayLike | None,
    batch_first: bool,
    reduction: str,
    out: Array | None,
    in_0_to_1: tuple[str, ...] = (),
) -> tuple[float, Array]:
    """A loss that runs over the features as well; which of "target" and "prediction" must be in 0..1."""
    y = _prediction("prediction", prediction)
    wanted = _checks.numbers("target", target)
    if wanted.shape != y.shape and (*wanted.shape, 1) in (y.shape, (*y.shape, 1, 1)):
        hint = "target[..., None]" if wanted.ndim < y.ndim else "target[..., 0]"
        raise ValueError(f"target: expected shape {list(y.shape)}, got {list(wanted.shape)}; {hint} has it")
    _checks.shape("target", wanted, y.shape)
    by_element = mask is not None and _checks.numbers("mask", mask).ndim == y.ndim
    features = 1 if by_element else y.shape[-1]
    active, scale = _entries("prediction", y, mask, lengths, batch_first, reduction, features, by_element=by_element)
    gradient = _gradient(out, ("prediction", y), ("target", wanted))
    for name in in_0_to_1:
        _check_range(name, wanted if name == "target" else y, 1, active)
    parts = y, wanted, gradient
    if by_element:
        parts = y[..., None], wanted[..., None], gradient[..., None]
    return _total(of_block, _blocks(*parts, active, scale)), gradient


def _positive(name: str, value: float) -> float:
    number = _checks.number(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a number above 0, got {number}")
    return number


def _bce_of_logits(z: Array, target: Array, gradient: Array) -> Array:
    """The losses, with their derivatives in `gradient` (which may be `z` itself)."""
    e = np.abs(z)
    np.negative(e, out=e)
    flushing.exp(e, out=e)
    values = np.maximum(z, 0)
    flushing.subtract(values, flushing.multiply(z, target), out=values)
    flushing.add(values, _log1p(e), out=values)
    numerator = np.maximum(e, z >= 0)  # sigmoid(z) is 1 / (1 + e) for z >= 0, e / (1 + e) below
    e += 1
    flushing.divide(numerator, e, out=gradient)
    flushing.subtract(gradient, target, out=gradient)
    return values


def _bce_of_probabilities(p: Array, target: Array, gradient: Array) -> Array:
    """The losses, with their derivatives in `gradient` (which may be `p` itself)."""
    values: Array = flushing.multiply(target - 1, np.maximum(_log1p(-p), -100))
    of_target = flushing.multiply(target, np.maximum(flushing.log(p), -100))
    flushing.subtract(values, of_target, out=values)
    variance = flushing.multiply(p, 1 - p)
    np.maximum(variance, 1e-12, out=variance)
    flushing.subtract(p, target, out=gradient)
    flushing.divide(gradient, variance, out=gradient)
    return values


def _log1p(x: Array) -> Array:
    """``log(1 + x)`` for x in -1..1: the logarithm of the rounded sum, and to first order what the rounding took."""
    u = 1 + x
    lost: Array = flushing.subtract(x, u - 1)
    flushing.divide(lost, np.maximum(u, np.finfo(u.dtype).tiny), out=lost)
    flushing.add(lost, np.log(u), out=lost)
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
    """The sum of the blocks' losses, in order."""
    total = 0.0
    for block in blocks:
        total += of_block(block)
    return total


def _entries(
    name: str,
    prediction: Array,
    mask: ArrayLike | None,
    lengths: ArrayLike | None,
    batch_first: bool,
    reduction: str,
    features: int,
    *,
    by_element: bool = False,
    there: Array | None = None,
    factors: Array | None = None,
) -> tuple[Array | None, Array]:
    """Which entries have a weight (None: all), and each one's factor in the total loss, float64; both `[...]`.

    Both are `[..., O]` with a mask `by_element`. `there` masks entries; `factors` are further weights in what a mean
    divides by, and not in the result.
    """
    mean = _checks.choice("reduction", reduction, ("mean", "sum")) == "mean"
    transposed = _checks.truth("batch_first", batch_first)
    shape = prediction.shape[:-1]
    weights: Array = np.ones(shape, np.bool_)
    if mask is not None:
        weights = _checks.numbers("mask", mask)
        _checks.shape("mask", weights, prediction.shape if by_element else shape)
    counted = there
    if lengths is not None:
        within = _within(name, prediction, lengths, transposed)
        counted = within[..., None] if by_element else within
        counted = counted if there is None else counted & there
    if counted is not None:
        weights = np.where(counted, weights, weights.dtype.type(0))
    if weights.dtype != np.bool_:
        _reject("mask", "weights of at least 0", weights, ~(weights >= 0))
    scale = weights.astype(np.float64)
    total = float((scale if factors is None else scale * factors).sum())
    if not math.isfinite(total):
        raise ValueError(f"mask: expected weights with a finite sum, got {total}")
    if mean and total * features > 0:
        scale /= total * features
    return None if mask is None and counted is None else weights != 0, scale


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
