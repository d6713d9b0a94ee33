"""The heads' affine map on the device: `rnnfast._core.Dense`'s methods.

Panels are the weight and then the bias, as the parameters lie; those of backward are the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import arrays, blas, reductions

__all__ = ["Dense"]

Array = Any  # a device array


class _Activation(NamedTuple):
    apply: Callable[[Array], object]  # z becomes y
    differentiate: Callable[[Array, Array], None]  # given y (of silu, z), dy becomes dz


def _sigmoid_of(z: Array) -> Array:
    # Of exp, only arguments <= 0: nothing overflows, and small values keep their precision.
    xp = arrays.xp()
    small = xp.exp(-xp.abs(z))
    return xp.where(z >= 0, z.dtype.type(1), small) / (1 + small)


def _sigmoid(z: Array) -> None:
    z[...] = _sigmoid_of(z)


def _sigmoid_backward(y: Array, dy: Array) -> None:
    dy *= y * (1 - y)


def _tanh(z: Array) -> None:
    arrays.xp().tanh(z, out=z)


def _tanh_backward(y: Array, dy: Array) -> None:
    dy *= 1 - y * y


def _softmax(z: Array) -> None:
    z -= z.max(axis=-1, keepdims=True)
    arrays.xp().exp(z, out=z)
    z /= z.sum(axis=-1, keepdims=True)


def _softmax_backward(y: Array, dy: Array) -> None:
    dy -= (dy * y).sum(axis=-1, keepdims=True)
    dy *= y


def _relu(z: Array) -> None:
    arrays.xp().maximum(z, z.dtype.type(0), out=z)


def _relu_backward(y: Array, dy: Array) -> None:
    dy *= y > 0


def _silu(z: Array) -> None:
    z *= _sigmoid_of(z)


def _silu_backward(z: Array, dy: Array) -> None:
    s = _sigmoid_of(z)
    dy *= s * (1 + z * (1 - s))


def _softplus(z: Array) -> None:
    xp = arrays.xp()
    z[...] = xp.maximum(z, z.dtype.type(0)) + xp.log1p(xp.exp(-xp.abs(z)))


def _softplus_backward(y: Array, dy: Array) -> None:
    dy *= -arrays.xp().expm1(-y)


def _elu(z: Array) -> None:
    xp = arrays.xp()
    z[...] = xp.where(z < 0, xp.expm1(xp.minimum(z, z.dtype.type(0))), z)


def _elu_backward(y: Array, dy: Array) -> None:
    dy *= arrays.xp().minimum(y, y.dtype.type(0)) + 1


_ACTIVATIONS = {
    "identity": _Activation(lambda z: None, lambda y, dy: None),
    "sigmoid": _Activation(_sigmoid, _sigmoid_backward),
    "tanh": _Activation(_tanh, _tanh_backward),
    "softmax": _Activation(_softmax, _softmax_backward),
    "relu": _Activation(_relu, _relu_backward),
    "silu": _Activation(_silu, _silu_backward),
    "softplus": _Activation(_softplus, _softplus_backward),
    "elu": _Activation(_elu, _elu_backward),
}


class Dense:
    """``y = x W^T + b`` and its gradients.

    Parameters
    ----------
    input_size, output_size : int
    precision : {"float32", "tf32", "bfloat16"}
    activation : str

    Raises
    ------
    ValueError
        There is no such activation here.
    """

    def __init__(self, input_size: int, output_size: int, precision: str, activation: str = "identity") -> None:
        if activation not in _ACTIVATIONS:
            listed = ", ".join(map(repr, _ACTIVATIONS))
            raise ValueError(f"activation: expected one of {listed} with device='cuda', got {activation!r}")
        self._activation = _ACTIVATIONS[activation]
        self.input_size, self.output_size, self.precision = input_size, output_size, precision

    @property
    def panel_size(self) -> int:
        """The elements of panels."""
        return self.output_size * (self.input_size + 1)

    @property
    def panel_size_backward(self) -> int:
        """The elements of backward's panels."""
        return self.output_size * self.input_size

    def _split(self, panels: Array) -> tuple[Array, Array]:
        """The weight [O, I] and the bias [O]."""
        count = self.panel_size_backward
        return panels[:count].reshape(self.output_size, self.input_size), panels[count:]

    def pack(self, params: tuple[Array, Array | None], out: Array) -> None:
        """Put the weight and the bias, or their gradients, into panels; no bias is zeros."""
        panel_weight, panel_bias = self._split(out)
        weight, bias = params
        panel_weight[...] = weight
        panel_bias[...] = 0 if bias is None else bias

    def pack_backward(self, params: tuple[Array, Array | None], out: Array, dx: bool = True) -> None:
        """Put the weight into backward's panels, which `dx` alone is computed from."""
        if dx:
            out[...] = params[0].reshape(-1)

    def unpack(self, panels: Array, params: tuple[Array, Array | None]) -> None:
        """The inverse of `pack`."""
        panel_weight, panel_bias = self._split(panels)
        weight, bias = params
        weight[...] = panel_weight
        if bias is not None:
            bias[...] = panel_bias

    def forward(self, panels: Array, x: Array, y: Array, num_threads: int) -> None:
        """Write y [N, O] for x [N, I]."""
        weight, bias = self._split(panels)
        self._multiply(x, weight, y, transpose_b=True)
        y += bias

    def backward(
        self,
        panels_backward: Array,
        x: Array,
        dy: Array,
        dx: Array | None,
        dpanels: Array,
        adds: bool,
        num_threads: int,
    ) -> None:
        """Write dx and the gradients in `dpanels`; or, with `adds`, add the latter."""
        if not adds:
            dpanels.fill(0)
        dweight, dbias = self._split(dpanels)
        if dx is not None:
            self._multiply(dy, panels_backward.reshape(self.output_size, self.input_size), dx)
        self._multiply(dy, x, dweight, transpose_a=True, add=True)
        if len(dy):
            dbias += reductions.column_sums(dy, "float32")

    def activate(self, z: Array) -> None:
        """Apply the activation to rows [N, O], in place."""
        if z.size:
            with np.errstate(under="ignore", invalid="ignore"):
                self._activation.apply(z)

    def differentiate(self, kept: Array, dy: Array) -> None:
        """Turn dLoss/dy into dLoss/dz, in place, given y (of silu, z)."""
        with np.errstate(under="ignore", invalid="ignore"):
            self._activation.differentiate(kept, dy)

    def _multiply(self, a: Array, b: Array, out: Array, **options: bool) -> None:
        stored_a, stored_b = (blas.as_stored(matrix, self.precision) for matrix in (a, b))
        blas.gemm(stored_a, stored_b, out, precision=self.precision, **options)
