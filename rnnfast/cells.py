"""The cells: one step of one layer, for programs that keep their own loop over time.

A cell runs the layers' kernels with T = 1, so its steps equal a layer's to the last bit. A layer over the whole
sequence is many times faster than a loop over a cell; a cell is for what happens between the steps.

Rejected: cells of their own in NumPy (other rounding than the layers'), and a layer per cell inside (its checks and
messages speak of sequences).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks
from ._checks import Array
from ._device import HOST
from ._stack import Run, _Stack
from .init import Init
from .parameters import Gradients
from .stream import Stepper, Steps, offer_vectorcall
from .tape import Grads, Tape, begin

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class _Cell(Stepper, _Stack):
    """What the three cells share: everything but the choice of the arithmetic."""

    _options: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "bias")
    _rank = 2
    _state_axes = "[B, H]"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        offer_vectorcall(cls)

    def __init__(self, kind: str, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(kind, input_size, hidden_size, ("",), **options)

    def _step(self, x: ArrayLike, state: Any, out: Any) -> Any:
        """A call that is not the plain case, or not of these parameters and this batch yet."""
        with self._device.active():
            result = self._evaluate(x, state, out, training=False)[0]
        if self._device is HOST and isinstance(x, np.ndarray) and x.dtype == self.dtype and x.size:
            self._prepare(x.shape[0] if x.ndim == 2 else 1)
        return result

    def _prepare(self, batch: int) -> None:
        """Have the next step of these parameters and this batch at the lowest cost."""
        if self._steps is None or not self._steps.serves(batch):
            store, packed = self.params.store, self._packed[0]
            version = store.version
            sizes = batch, self.input_size, self.hidden_size, self._gates, self._has_c
            self._steps = Steps(packed.kernel, packed.panels(), store, version, *sizes, self.dtype)

    def _pack(self) -> None:
        super()._pack()
        self._steps = None

    def forward(
        self, x: ArrayLike, state: Any = None, *, out: Any = None, tape: Tape | None = None
    ) -> tuple[Any, Tape]:
        """One step for training: record what `backward` needs.

        The tape refers to `x`, which must not change before `backward`; all else it copies.

        Parameters
        ----------
        x, state, out
            As in a call.
        tape : Tape, optional
            An old tape of this cell, to record in its memory; what it holds is lost.

        Returns
        -------
        state
            As from a call.
        tape : Tape
            For one `backward`; the one given, if one was given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written, and a tape keeps what it holds.
        """
        with self._device.active():
            final, recorder = self._evaluate(x, state, out, training=True, old=tape)
        assert recorder is not None
        return final, recorder

    def backward(self, tape: Tape, dstate: Any, *, into: Gradients | None = None, input_gradient: bool = True) -> Grads:
        """The gradients of a loss, from those with respect to the new state.

        Parameters
        ----------
        tape : Tape
            From `forward`; it is used up.
        dstate : as the state, or None
            dLoss/dstate of the new state; None is zeros. Either half of an LSTM's may be None.
        into : Gradients, optional
            Parameter gradients to add to.
        input_gradient : bool, optional
            Whether to compute `grads.x`.

        Returns
        -------
        Grads
            `x` (None for ids), `state` and `params` (`into`, if given).

        Raises
        ------
        TypeError, ValueError
            The tape is used or of another cell, the parameters or the contents of `x` have changed since `forward`, or
            an argument is of a wrong kind or shape; nothing is written, and the tape is as it was.
        """
        with self._device.active():
            return self._backward(tape, None, dstate, into, input_gradient, None)

    def _evaluate(
        self, x: Any, state: Any, out: Any, *, training: bool, old: Tape | None = None
    ) -> tuple[Any, Tape | None]:
        """Check everything, then allocate, then run."""
        port = self._device.port(x)
        checks = port.checks
        sequence, batched = self._check_x(checks, x)
        batch = sequence.shape[1]
        initial = self._check_states(checks, "state", state, batch, batched, copy=training)
        run = Run(self._convert_x(checks, sequence), batched, initial)
        given = None if out is None else self._check_out(checks, out, run)
        final = given if given is not None and port.direct else self._new_states(batch, batched)
        recorder = begin(old, self, self.params) if training else None
        y = self._device.result((1, batch, self.hidden_size), self.dtype)
        self._forward(run.enter(port), port, y, self._state_views(final, batched), recorder, 0)
        return self._structure(port.leave(final, given)), recorder

    def _check_out(self, checks: Any, out: Any, run: Run) -> tuple[Array, ...]:
        names = self._state_names("out")
        if len(names) > 1 and (not isinstance(out, tuple | list) or len(out) != len(names)):
            raise TypeError(f"out: expected a tuple (h, c) of arrays, got {_checks.describe(out)}")
        arrays = tuple(out) if len(names) > 1 else (out,)
        shape = self._state_shape(run.x.shape[1], run.batched)
        inputs = [("x", run.x), *(("state", array) for array in run.state or ())]
        for name, array in zip(names, arrays, strict=True):
            inputs.append((name, checks.output(name, array, shape, self.dtype, inputs)))
        return arrays

    # The caller's arrays: [B, features] or [features]; states [B, H] or [H].

    @property
    def _axes(self) -> str:
        return "[B, I] or [I]"

    def _sequence_shape(self, steps: int, batch: int, features: int, batched: bool) -> tuple[int, ...]:
        return (batch, features) if batched else (features,)

    def _sequence_view(self, array: Array, batched: bool) -> Array:
        return array[None] if batched else array[None, None]

    def _state_shape(self, batch: int, batched: bool) -> tuple[int, ...]:
        return self._sequence_shape(1, batch, self.hidden_size, batched)

    def _state_view(self, array: Array, batched: bool) -> Array:
        return self._sequence_view(array, batched)


class RNNCell(_Cell):
    """One step of an Elman layer: `h = act(W x + b_ih + U h_prev + b_hh)`.

    Parameters
    ----------
    input_size : int
        The features of `x`.
    hidden_size : int
        The features of the state.
    nonlinearity : {"tanh", "relu", "sigmoid"}, optional
        The activation.
    bias : bool, optional
        Whether there are biases.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier"} or callable, optional
        The initial weights; see `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 cells only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device.

    Attributes
    ----------
    params : Parameters
        `weight_ih` [H, I], `weight_hh` [H, H], `bias_ih` [H], `bias_hh` [H].

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.
    """

    _options = (*_Cell._options, "nonlinearity")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "pytorch",
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.nonlinearity = _checks.choice("nonlinearity", nonlinearity, ("tanh", "relu", "sigmoid"))
        kind = f"elman_{self.nonlinearity}"
        options = {"device": device, "precision": precision}
        super().__init__(kind, input_size, hidden_size, bias=bias, dtype=dtype, rng=rng, init=init, **options)


class LSTMCell(_Cell):
    """One step of an LSTM: `c = f * c_prev + i * g`, `h = o * tanh(c)`; the state is the tuple (h, c).

    Parameters
    ----------
    input_size : int
        The features of `x`.
    hidden_size : int
        The features of h and of c.
    bias : bool, optional
        Whether there are biases.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier"} or callable, optional
        The initial weights; see `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 cells only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device.
    forget_bias : float, optional
        The initial bias of the forget gate, in place of what `init` gives; see `rnnfast.init.forget_bias`.

    Attributes
    ----------
    params : Parameters
        In the gate order i, f, g, o: `weight_ih` [4*H, I], `weight_hh` [4*H, H], `bias_ih` [4*H], `bias_hh` [4*H].

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.
    """

    _options = (*_Cell._options, "forget_bias")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "pytorch",
        device: str = "cpu",
        precision: str = "float32",
        forget_bias: float | None = None,
    ) -> None:
        options = {"device": device, "precision": precision, "forget_bias": forget_bias}
        super().__init__("lstm", input_size, hidden_size, bias=bias, dtype=dtype, rng=rng, init=init, **options)


class GRUCell(_Cell):
    """One step of gated recurrent units: `h = (1 - z) * n + z * h_prev`.

    Parameters
    ----------
    input_size : int
        The features of `x`.
    hidden_size : int
        The features of the state.
    reset_after : bool, optional
        Whether the reset gate acts after the recurrent product (PyTorch) or before it (Cho et al. 2014); see `GRU`.
    bias : bool, optional
        Whether there are biases.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier"} or callable, optional
        The initial weights; see `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 cells only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device.

    Attributes
    ----------
    params : Parameters
        In the gate order r, z, n: `weight_ih` [3*H, I], `weight_hh` [3*H, H], `bias_ih` [3*H], `bias_hh` [3*H].

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.
    """

    _options = (*_Cell._options, "reset_after")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        reset_after: bool = True,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "pytorch",
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.reset_after = _checks.truth("reset_after", reset_after)
        kind = "gru_after" if self.reset_after else "gru_before"
        options = {"device": device, "precision": precision}
        super().__init__(kind, input_size, hidden_size, bias=bias, dtype=dtype, rng=rng, init=init, **options)
