"""One-pass loops over flat buffers on the device: `_flat.pyx` again, with the same functions, names and formulas.

An optimiser step is one kernel that reads every number once and writes it once. Its scalars are rounded to float32 on
the host, as there, and travel as their bits, because kernels take integers. `scale_to_norm` is the clipping of a
training loop that does not wait: the norm stays on the device.

Sums of squares are in float64, in the library's order, which depends on the size alone.

Rejected: array expressions (a dozen passes, and as many launches).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..reference import random
from . import arrays, elements, shim
from .elements import first, stride
from .shim import float32

__all__ = ["adam", "clamp", "dropout", "rmsprop", "scale", "scale_to_norm", "sgd", "sum_of_squares"]

Array = Any  # a device array, float32, one contiguous axis
_ZERO = float32(0)


def _launch(kernel: Any, buffers: tuple[Array | None, ...], *numbers: float) -> None:
    """Run a kernel over buffers of one size; the numbers go as float32."""
    size = 0 if buffers[0] is None else buffers[0].size
    if size:
        arguments = (*map(shim.pointer, buffers), size, *map(shim.bits_of, numbers))
        kernel.launch(*elements.grid(size), arguments, stream=arrays.stream_pointer())


# ---------------------------------------------------------------------------------------------------------------------
# Optimisers


def sgd(
    params: Array,
    gradients: Array,
    momentum_buffer: Array | None,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """Step of stochastic gradient descent; a `momentum_buffer` of None is plain descent."""
    _launch(_sgd, (params, gradients, momentum_buffer), lr, momentum, float(nesterov), weight_decay)


@shim.kernel("pppiiiii")
def _sgd(
    params: Any, gradients: Any, velocity: Any, n: Any, lr: Any, momentum: Any, nesterov: Any, weight_decay: Any
) -> None:
    rate, keep, decay = shim.float_of(lr), shim.float_of(momentum), shim.float_of(weight_decay)
    for i in range(first(), n, stride()):
        p = shim.load(params, i)
        d = shim.load(gradients, i) + decay * p
        if shim.given(velocity):
            v = keep * shim.load(velocity, i) + d
            shim.store(velocity, i, v)
            d = d + keep * v if shim.float_of(nesterov) > _ZERO else v
        shim.store(params, i, p - rate * d)


def rmsprop(
    params: Array,
    gradients: Array,
    square_avg: Array,
    grad_avg: Array | None,
    momentum_buffer: Array | None,
    *,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Step of RMSprop; `grad_avg` is None unless centred, `momentum_buffer` is None without momentum."""
    buffers = (params, gradients, square_avg, grad_avg, momentum_buffer)
    _launch(_rmsprop, buffers, lr, alpha, 1 - alpha, eps, momentum, weight_decay)


@shim.kernel("pppppiiiiiii")
def _rmsprop(
    params: Any,
    gradients: Any,
    square: Any,
    mean: Any,
    velocity: Any,
    n: Any,
    lr: Any,
    alpha: Any,
    one_minus_alpha: Any,
    eps: Any,
    momentum: Any,
    weight_decay: Any,
) -> None:
    keep, new = shim.float_of(alpha), shim.float_of(one_minus_alpha)
    for i in range(first(), n, stride()):
        p = shim.load(params, i)
        d = shim.load(gradients, i) + shim.float_of(weight_decay) * p
        s = keep * shim.load(square, i) + new * d * d
        shim.store(square, i, s)
        if shim.given(mean):
            m = keep * shim.load(mean, i) + new * d
            shim.store(mean, i, m)
            s -= m * m
            s = _ZERO if s < _ZERO else s  # a variance that rounding made negative; NaN stays
        d /= shim.sqrt(s) + shim.float_of(eps)
        if shim.given(velocity):
            d += shim.float_of(momentum) * shim.load(velocity, i)
            shim.store(velocity, i, d)
        shim.store(params, i, p - shim.float_of(lr) * d)


def adam(
    params: Array,
    gradients: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """Step number `step` (the first is 1) of Adam, or of AdamW where the weight decay is `decoupled`."""
    if step < 1:
        raise ValueError(f"step: expected at least 1, got {step}")
    step_size, root_scale = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    coupled, keep = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, step_size, root_scale, eps, coupled, keep)
    _launch(_adam, (params, gradients, exp_avg, exp_avg_sq), *numbers)


@shim.kernel("ppppiiiiiiiiii")
def _adam(
    params: Any,
    gradients: Any,
    mean: Any,
    square: Any,
    n: Any,
    beta1: Any,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    step_size: Any,
    root_scale: Any,
    eps: Any,
    weight_decay: Any,
    keep: Any,
) -> None:
    for i in range(first(), n, stride()):
        p = shim.load(params, i)
        d = shim.load(gradients, i) + shim.float_of(weight_decay) * p
        m = shim.float_of(beta1) * shim.load(mean, i) + shim.float_of(one_minus_beta1) * d
        v = shim.float_of(beta2) * shim.load(square, i) + shim.float_of(one_minus_beta2) * d * d
        shim.store(mean, i, m)
        shim.store(square, i, v)
        change = m / (shim.sqrt(v) * shim.float_of(root_scale) + shim.float_of(eps))
        shim.store(params, i, shim.float_of(keep) * p - shim.float_of(step_size) * change)


# ---------------------------------------------------------------------------------------------------------------------
# Sums and clipping


def _squares(array: Array) -> Any:
    xp = arrays.xp()
    return xp.multiply(array, array, dtype=np.float64).sum()


def sum_of_squares(array: Array) -> float:
    """The sum of the squares, in float64; waits for it."""
    return float(_squares(array))


def scale(array: Array, factor: float) -> None:
    """Multiply by `factor` in place."""
    array *= np.float32(factor)


def clamp(array: Array, bound: float) -> None:
    """Clamp to `[-bound, bound]` in place; NaN stays NaN."""
    xp = arrays.xp()
    xp.clip(array, np.float32(-bound), np.float32(bound), out=array)


def scale_to_norm(array: Array, max_norm: float) -> Array:
    """Scale in place so that the L2 norm is at most `max_norm`, without waiting for the device.

    Parameters
    ----------
    array : device array
    max_norm : float
        At least 0; infinity only measures.

    Returns
    -------
    device array, float64, no axes
        The norm before. If it is not finite, nothing has been scaled.
    """
    xp = arrays.xp()
    norm = arrays.empty((), np.float64)
    xp.sqrt(_squares(array), out=norm)
    coefficient = max_norm / (norm + 1e-6)
    array *= xp.where(xp.isfinite(norm) & (coefficient < 1), coefficient, 1.0).astype(np.float32)
    return norm


def dropout(out: Array, seed: int, layer: int, stream: int, first_step: int, p: float) -> None:
    """Fill [T, B, units] with 0, with the probability `p`, or 1 / (1 - p): `reference.random.uniform(key, unit) >= p`.

    Array expressions, because it is done once per sequence and layer.
    """
    steps, rows, units = out.shape
    keys = random.mix(seed, layer, stream, first_step + np.arange(steps)[:, None], np.arange(rows))
    low, high = (arrays.to_device(half.astype(np.uint32)[..., None]) for half in (keys, keys >> np.uint64(32)))
    x = arrays.arange(units).astype(np.uint32) + low
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    x ^= high
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    kept = (x >> np.uint32(8)) >= np.uint32(math.ceil(p * 2**24))
    out[...] = kept.astype(np.float32) * np.float32(1 / (1 - p) if p < 1 else 0)
