"""The heads' affine map on the device: `rnnfast._core.Dense`'s methods.

Panels are the weight and then the bias, as the parameters lie; those of backward are the weight.
"""

from __future__ import annotations

from typing import Any

from . import blas, reductions

__all__ = ["Dense"]

Array = Any  # a device array


class Dense:
    """``y = x W^T + b`` and its gradients.

    Parameters
    ----------
    input_size, output_size : int
    precision : {"float32", "tf32", "bfloat16"}
    """

    def __init__(self, input_size: int, output_size: int, precision: str) -> None:
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

    def pack_backward(self, params: tuple[Array, Array | None], out: Array) -> None:
        """Put the weight into backward's panels."""
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
        self, panels_backward: Array, x: Array, dy: Array, dx: Array | None, dpanels: Array, num_threads: int
    ) -> None:
        """Write dx and add to the gradients in `dpanels`."""
        dweight, dbias = self._split(dpanels)
        if dx is not None:
            self._multiply(dy, panels_backward.reshape(self.output_size, self.input_size), dx)
        self._multiply(dy, x, dweight, transpose_a=True, add=True)
        if len(dy):
            dbias += reductions.column_sums(dy, "float32")

    def _multiply(self, a: Array, b: Array, out: Array, **options: bool) -> None:
        stored_a, stored_b = (blas.as_stored(matrix, self.precision) for matrix in (a, b))
        blas.gemm(stored_a, stored_b, out, precision=self.precision, **options)
