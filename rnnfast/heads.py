"""Dense: the affine head with its activation, forward and backward.

The affine part is a kernel (packed weights, the same GEMM as the layers'); the activation is NumPy in place on its
output, because it is applied once per sequence and not once per step. Numbers below the smallest normal one
are zeros there, as they are in the kernels.

Rejected: recomputing the activation in backward from the input (a second GEMM), and keeping a reference to the output
instead of a copy (it is the caller's, who may write to it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks
from . import init as initialisation
from ._checks import Array
from ._device import Port, choose
from ._flat import flushed
from ._part import Packed, Part
from .parameters import Gradients, Parameters
from .tape import Grads, Tape, begin, recording

__all__ = ["Dense"]


class _Activation(NamedTuple):
    apply: Callable[[Any, Array], object]  # with NumPy or CuPy, z becomes y
    differentiate: Callable[[Array, Array], None]  # given y, dy becomes dz


def _sigmoid(xp: Any, z: Array) -> None:
    # Of exp, only arguments <= 0: nothing overflows, and small values keep their precision.
    positive = z >= 0
    xp.exp(-xp.abs(z), out=z)
    xp.divide(xp.where(positive, z.dtype.type(1), z), 1 + z, out=z)


def _softmax(xp: Any, z: Array) -> None:
    z -= z.max(axis=-1, keepdims=True)
    xp.exp(z, out=z)
    z /= z.sum(axis=-1, keepdims=True)


def _softmax_backward(y: Array, dy: Array) -> None:
    dy -= (dy * y).sum(axis=-1, keepdims=True)
    dy *= y


def _sigmoid_backward(y: Array, dy: Array) -> None:
    dy *= y * (1 - y)


def _tanh_backward(y: Array, dy: Array) -> None:
    dy *= 1 - y * y


_ACTIVATIONS = {
    "identity": None,
    "sigmoid": _Activation(_sigmoid, _sigmoid_backward),
    "tanh": _Activation(lambda xp, z: xp.tanh(z, out=z), _tanh_backward),
    "softmax": _Activation(_softmax, _softmax_backward),
}


class _Recording(NamedTuple):
    x: Array  # [N, I]
    direct: bool  # of the port through which the call came in
    leading: tuple[int, ...]
    activated: tuple[_Activation, Array] | None  # the activation and its y [N, O]; None for the identity


class Dense(Part):
    """An affine map of the last axis with an activation: `y = act(x W^T + b)`.

    Parameters
    ----------
    input_size : int
        The features of `x`.
    output_size : int
        The features of `y`.
    activation : {"identity", "sigmoid", "tanh", "softmax"}, optional
        Softmax is over the last axis.
    bias : bool, optional
        Whether there is a bias.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier"} or callable, optional
        The initial weights; see `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 heads only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device.

    Attributes
    ----------
    params : Parameters
        `weight` [O, I] and `bias` [O].

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.
    """

    _options = ("input_size", "output_size", "activation", "bias")

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        activation: str = "identity",
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: initialisation.Init = "pytorch",
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.input_size = _checks.size("input_size", input_size)
        self.output_size = _checks.size("output_size", output_size)
        self.activation = _checks.choice("activation", activation, _ACTIVATIONS)
        self.bias = _checks.truth("bias", bias)
        self.dtype = _checks.float_dtype("dtype", dtype)
        place, self.precision = choose(device, precision, self.dtype)
        self.device = place.name
        self.rng = _checks.generator("rng", rng)
        self.init = initialisation.scheme_of(init)
        count = self.output_size * (self.input_size + 1)
        _checks.elements(count, input_size=self.input_size, output_size=self.output_size)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.output_size, self.input_size)}
        if self.bias:
            shapes["bias"] = (self.output_size,)
        values = {
            name: initialisation.value(name, shape, init, self.rng, n=self.input_size) for name, shape in shapes.items()
        }
        self.params = Parameters(shapes, self.dtype, device=place)
        self.params.load(values)
        self._pack()

    def _pack(self) -> None:
        self._device = self.params.device
        kernel = self._device.dense(self.input_size, self.output_size, self.dtype, self.precision)
        self._packed = Packed(kernel, self.params, ("weight", "bias"))

    def __call__(self, x: ArrayLike, *, logits: bool = False, num_threads: int | None = None) -> Array:
        """Apply the head; keep nothing.

        Parameters
        ----------
        x : array_like, shape [..., I]
        logits : bool, optional
            Whether to skip the activation, for a loss that takes logits.
        num_threads : int, optional
            The most threads to use; `rnnfast.get_num_threads()` by default.

        Returns
        -------
        ndarray, shape [..., O]

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape.
        """
        with self._device.active():
            rows, port, leading = self._check_call(x, logits, num_threads)
            y, _ = self._evaluate(rows, logits, num_threads)
            result: Array = port.leave(y.reshape(*leading, self.output_size))
        return result

    def forward(
        self, x: ArrayLike, *, logits: bool = False, tape: Tape | None = None, num_threads: int | None = None
    ) -> tuple[Array, Tape]:
        """Apply the head and record what `backward` needs.

        The tape refers to `x`, which must not change before `backward`.

        Parameters
        ----------
        x, logits, num_threads
            As in a call.
        tape : Tape, optional
            An old tape of this head, to record in its memory; what it holds is lost.

        Returns
        -------
        y : ndarray, shape [..., O]
        tape : Tape
            For one `backward`; the one given, if one was given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape; a tape keeps what it holds.
        """
        with self._device.active():
            rows, port, leading = self._check_call(x, logits, num_threads)
            recorder = begin(tape, self, self.params)
            y, activation = self._evaluate(rows, logits, num_threads)
            activated = None
            if activation is not None:
                activated = activation, recorder.buffer("y", y.shape, self.dtype)
                activated[1][...] = y
            recorder.finish(rows, _Recording(rows, port.direct, leading, activated))
            return port.leave(y.reshape(*leading, self.output_size)), recorder

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike,
        *,
        into: Gradients | None = None,
        input_gradient: bool = True,
        num_threads: int | None = None,
    ) -> Grads:
        """The gradients of a loss.

        Parameters
        ----------
        tape : Tape
            From `forward`; it is used up.
        dy : array_like, shape of `y`
            dLoss/dy; with `logits=True` in `forward`, dLoss/dlogits.
        into : Gradients, optional
            Parameter gradients to add to.
        input_gradient : bool, optional
            Whether to compute `grads.x`.
        num_threads : int, optional
            As in a call.

        Returns
        -------
        Grads
            `x` and `params` (`into`, if given); `state` is None.

        Raises
        ------
        TypeError, ValueError
            The tape is used or of another head, the parameters or the contents of `x` have changed since `forward`, or
            an argument is of a wrong kind or shape; nothing is written, and the tape is as it was.
        """
        with self._device.active():
            return self._backward(tape, dy, into, input_gradient, num_threads)

    def _backward(self, tape: Tape, dy: Any, into: Any, input_gradient: Any, num_threads: Any) -> Grads:
        kept: _Recording = recording(tape, self, self.params)
        threads = _checks.threads(num_threads)
        leading, port = kept.leading, self._device.ports[kept.direct]
        shape = (*leading, self.output_size)
        dz = port.checks.real_of_shape("dy", dy, self.dtype, shape, "[..., O]", contiguous=True)
        dz = port.enter(dz.reshape(-1, self.output_size))
        wants_dx = _checks.truth("input_gradient", input_gradient)
        gradients = self._gradients(into)
        dx = self._device.empty(kept.x.shape, self.dtype) if wants_dx else None

        tape.spend()
        if kept.activated is not None:
            activation, y = kept.activated
            dy_rows, dz = dz, tape.buffer("dz", dz.shape, self.dtype)
            dz[...] = dy_rows
            with np.errstate(under="ignore"):
                flushed(activation.differentiate, y, dz)
        panels = tape.buffer("dpanels", (self._packed.kernel.panel_size,), self.dtype)
        self._packed.load_gradients(into, panels)
        self._packed.kernel.backward(self._packed.panels_backward(), kept.x, dz, dx, panels, threads or 0)
        self._packed.store_gradients(panels, gradients)
        return Grads(None if dx is None else port.leave(dx.reshape(*leading, self.input_size)), None, gradients)

    def _evaluate(self, rows: Array, logits: bool, num_threads: int | None) -> tuple[Array, _Activation | None]:
        """y [N, O] from x [N, I], and the activation that was applied."""
        activation = None if logits else _ACTIVATIONS[self.activation]
        _checks.elements(len(rows) * self.output_size, rows=len(rows), output_size=self.output_size)
        y = self._device.empty((len(rows), self.output_size), self.dtype)
        self._packed.kernel.forward(self._packed.panels(), rows, y, num_threads or 0)
        if activation is not None:
            with np.errstate(under="ignore"):
                flushed(activation.apply, self._device.xp, y)
        return y, activation

    def _check_call(self, x: Any, logits: Any, num_threads: Any) -> tuple[Array, Port, tuple[int, ...]]:
        """x as [N, I] where the parameters lie, how it came there, and its leading axes."""
        _checks.truth("logits", logits)
        _checks.threads(num_threads)
        port = self._device.port(x)
        rows, leading = self.check_x(port, x)
        return port.enter(rows), port, leading

    def check_x(self, port: Port, x: Any) -> tuple[Array, tuple[int, ...]]:
        """x as [N, I] and its leading axes."""
        array = port.checks.numbers("x", x)
        if array.ndim == 0 or array.shape[-1] != self.input_size:
            raise ValueError(f"x: expected [..., I] with I={self.input_size}, got {_checks.describe(array)}")
        rows = port.checks.real("x", array, self.dtype, contiguous=True).reshape(-1, self.input_size)
        return rows, array.shape[:-1]
