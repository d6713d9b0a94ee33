"""Dense: the affine head with its activation, forward and backward.

The affine part is a kernel (packed weights, the same GEMM as the layers'), and so is the activation, in place on its
output: it is a pass of its own, because it is applied once per sequence and not once per step. Numbers below the
smallest normal one are zeros there, as they are in the layers.

Rejected: recomputing the activation in backward from the input (a second GEMM), and keeping a reference to the output
instead of a copy (it is the caller's, who may write to it).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks
from . import init as initialisation
from ._checks import Array
from ._device import Port, choose
from ._part import BACKWARD, INNER, Packed, Stateless, panels_of, store_all
from ._words import Activation, DeviceName, Precision
from .parameters import Gradients, Parameters
from .tape import Grads, Tape, begin, checked

__all__ = ["Dense"]


ACTIVATIONS = ("identity", "sigmoid", "tanh", "softmax", "relu", "gelu", "silu", "softplus", "elu")
_OF_INPUT = ("gelu", "silu")  # whose derivatives are computed from what went in, all others' from what came out


class _Recording(NamedTuple):
    x: Array  # [N, I]
    direct: bool  # of the port through which the call came in
    leading: tuple[int, ...]
    kept: Array | None  # the activation's output, or input, [N, O]; None without one


class Dense(Stateless):
    """An affine map of the last axis with an activation: `y = act(x W^T + b)`.

    Parameters
    ----------
    input_size : int
        The features of `x`.
    output_size : int
        The features of `y`.
    activation : {"identity", "sigmoid", "tanh", "softmax", "relu", "gelu", "silu", "softplus", "elu"}, optional
        Softmax is over the last axis. "gelu" is `z Phi(z)` with the normal distribution's Phi, and not the fit by tanh;
        a CUDA device has none. "silu" is `z sigmoid(z)`.
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

    Examples
    --------
    >>> head = rnnfast.Dense(16, 10, activation="softmax", rng=0)
    >>> head(np.zeros((20, 3, 16))).shape
    (20, 3, 10)
    """

    _options = ("input_size", "output_size", "activation", "bias")

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        activation: Activation = "identity",
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: initialisation.Init = "pytorch",
        device: DeviceName = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.input_size = _checks.size("input_size", input_size)
        self.output_size = _checks.size("output_size", output_size)
        self.activation = _checks.choice("activation", activation, ACTIVATIONS)
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
        sizes = self.input_size, self.output_size
        kernel = self._device.dense(*sizes, self.dtype, self.precision, self.activation)
        self._packed = Packed(kernel, self.params, ("weight", "bias"))

    def __call__(
        self, x: ArrayLike, *, logits: bool = False, out: Array | None = None, num_threads: int | None = None
    ) -> Array:
        """Apply the head; keep nothing.

        Parameters
        ----------
        x : array_like, shape [..., I]
        logits : bool, optional
            Whether to skip the activation, for a loss that takes logits.
        out : ndarray, shape of `y`, optional
            Where to write `y`: of the head's dtype, C-contiguous, sharing no memory with `x`.
        num_threads : int, optional
            The most threads to use; `rnnfast.get_num_threads()` by default.

        Returns
        -------
        ndarray, shape [..., O]
            `out`, if given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape; nothing is written.
        """
        with self._device.active():
            return self._evaluate(x, logits, out, num_threads)

    def forward(
        self,
        x: ArrayLike,
        *,
        logits: bool = False,
        out: Array | None = None,
        tape: Tape | None = None,
        num_threads: int | None = None,
    ) -> tuple[Array, Tape]:
        """Apply the head and record what `backward` needs.

        The tape refers to `x`, which must not change before `backward`.

        Parameters
        ----------
        x, logits, out, num_threads
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
            recorder = Tape() if tape is None else checked(tape, self)
            return self._evaluate(x, logits, out, num_threads, recorder), recorder

    def _backward(
        self, tape: Tape, kept: _Recording, dy: Any, into: Gradients | None, wants_dx: bool, threads: int
    ) -> Grads:
        leading, port = kept.leading, self._device.ports[kept.direct]
        shape = (*leading, self.output_size)
        dz = port.checks.real_of_shape("dy", dy, self.dtype, shape, "[..., O]", contiguous=True)
        dz = port.enter(dz.reshape(-1, self.output_size))
        gradients = self._gradients(into)
        dx = self._device.empty(kept.x.shape, self.dtype) if wants_dx else None

        tape.spend()
        if kept.kept is not None:
            dy_rows, dz = dz, tape.buffer("dz", dz.shape, self.dtype)
            dz[...] = dy_rows
            self._packed.kernel.differentiate(kept.kept, dz)
        panels = tape.buffer("dpanels", (self._packed.kernel.panel_size,), self.dtype)
        if into is not None:
            self._packed.load_gradients(into, panels)
        (weights,) = tape.same_version(*panels_of([self._packed], [BACKWARD if wants_dx else INNER]))
        self._packed.kernel.backward(weights, kept.x, dz, dx, panels, into is not None, threads)
        store_all([self._packed], [panels], gradients)
        return Grads(None if dx is None else port.leave(dx.reshape(*leading, self.input_size)), None, gradients)

    def _evaluate(self, x: Any, logits: Any, out: Any, num_threads: Any, recorder: Tape | None = None) -> Array:
        """y of x; with a tape, recorded. Checks everything, then writes."""
        _checks.truth("logits", logits)
        threads = _checks.threads(num_threads) or 0
        port = self._device.port(x)
        rows, leading = self.check_x(port, x)
        count, width, shape = len(rows), self.output_size, (*leading, self.output_size)
        if out is not None:
            port.checks.output("out", out, shape, self.dtype, [("x", rows)])
        rows, panels, kernel = port.enter(rows), self._packed.panels(), self._packed.kernel
        if recorder is not None:
            begin(recorder, self, self.params)
        result = out if out is not None and port.direct else self._device.result(shape, self.dtype)
        y = result.reshape(count, width)
        kernel.forward(panels, rows, y, threads)
        kept = None
        if not logits and self.activation != "identity":
            of_input = self.activation in _OF_INPUT
            if recorder is not None:
                kept = recorder.buffer("kept", y.shape, self.dtype)
            if kept is not None and of_input:
                kept[...] = y
            kernel.activate(y)
            if kept is not None and not of_input:
                kept[...] = y
        if recorder is not None:
            recorder.finish(rows, _Recording(rows, port.direct, leading, kept))
        return port.leave(result, out)  # type: ignore[no-any-return]

    def check_x(self, port: Port, x: Any) -> tuple[Array, tuple[int, ...]]:
        """x as [N, I] and its leading axes."""
        array = port.checks.numbers("x", x)
        if array.ndim == 0 or array.shape[-1] != self.input_size:
            raise ValueError(f"x: expected [..., I] with I={self.input_size}, got {_checks.describe(array)}")
        count = math.prod(array.shape[:-1])  # before a copy is made
        _checks.elements(count * max(self.input_size, self.output_size), rows=count, output_size=self.output_size)
        rows = port.checks.real("x", array, self.dtype, contiguous=True).reshape(-1, self.input_size)
        return rows, array.shape[:-1]
