"""The recurrent layers: RNN, LSTM, GRU, with stacks, directions, masks and dropout.

A layer checks its arguments, allocates what it returns, and hands time-major views to the walk in `_stack`. The three
differ by the kind of their cell and by the options that choose it.

With `device="cuda"` the parameters lie on the CUDA device that is current when the layer is made. `x` then decides
where all arrays of a call lie: NumPy arrays are moved there and the results back; arrays on the device (CuPy's,
PyTorch's, Numba's) are used where they lie, on CuPy's current stream, and CuPy arrays come back without a wait. Values
that would have to be read for a check are not: a row with a length outside 0..T or with an id outside 0..I-1 comes out
as NaN. Gradients of the parameters stay on the device in any case.

Rejected: PyTorch's packed sequences (`lengths` needs no other layout of the data, and the kernels skip what is beyond);
a training flag on the layer (`forward` and the call say it, so that one layer can do both at once).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks
from ._checks import Array
from ._device import HOST
from ._part import from_config
from ._stack import Run, _Stack
from .init import Init
from .parameters import Gradients
from .stream import Stream
from .tape import Grads, Tape, begin

__all__ = ["GRU", "LSTM", "RNN", "from_config"]


class _Recurrent(_Stack):
    """What the three layers share: everything but the choice of the cell."""

    _options: ClassVar[tuple[str, ...]] = (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
    )
    _rank = 3
    _state_axes = "[L*D, B, H]"

    def __init__(
        self,
        kind: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        **options: Any,
    ) -> None:
        self.num_layers = _checks.size("num_layers", num_layers)
        self.batch_first = _checks.truth("batch_first", batch_first)
        self.dropout = _checks.probability("dropout", dropout)
        self.bidirectional = _checks.truth("bidirectional", bidirectional)
        ends = ("", "_reverse") if self.bidirectional else ("",)
        suffixes = (f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends)
        super().__init__(kind, input_size, hidden_size, suffixes, **options)

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Any = None,
        out: Array | None = None,
        num_threads: int | None = None,
    ) -> tuple[Array, Any]:
        """Run the layer; keep nothing, drop nothing out.

        Parameters
        ----------
        x : array_like, shape [T, B, I], [B, T, I] with `batch_first`, or [T, I]
            The input; or integer ids in 0..I-1, without the last axis, that stand for one-hot vectors.
        state : array_like, shape [L*D, B, H] or [L*D, H], or a tuple (h, c) of them for an LSTM, optional
            The initial state; zeros by default.
        lengths : array_like of int, shape [B], optional
            Row `b` ends after `lengths[b]` steps: beyond, `y` is zero and `x` is not read.
        resets : array_like of bool, shape as `x` without its last axis, optional
            Where a new segment starts: the state is zero (or `reset_state`) before that step.
        reset_state : as `state`, optional
            What resets put in place of zeros.
        out : ndarray, shape of `y`, optional
            Where to write `y`: of the layer's dtype, C-contiguous, sharing no memory with an input.
        num_threads : int, optional
            The most threads to use; `rnnfast.get_num_threads()` by default.

        Returns
        -------
        y : ndarray, shape [T, B, D*H], [B, T, D*H] with `batch_first`, or [T, D*H]
            The last layer's hidden states.
        state : ndarray or tuple of ndarray
            The final state, each row's after its own last step.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written.
        """
        with self._device.active():
            return self._evaluate(x, state, lengths, resets, reset_state, out, num_threads, training=False)[:2]

    def forward(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Any = None,
        out: Array | None = None,
        tape: Tape | None = None,
        num_threads: int | None = None,
    ) -> tuple[Array, Any, Tape]:
        """Run the layer for training, with dropout, and record what `backward` needs.

        The tape refers to `x`, which must not change before `backward`; all else it copies.

        Parameters
        ----------
        x, state, lengths, resets, reset_state, out, num_threads
            As in a call.
        tape : Tape, optional
            An old tape of this layer, to record in its memory; what it holds is lost.

        Returns
        -------
        y, state
            As from a call.
        tape : Tape
            For one `backward`; the one given, if one was given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written, and a tape keeps what it holds.
        """
        with self._device.active():
            y, final, recorder = self._evaluate(
                x, state, lengths, resets, reset_state, out, num_threads, training=True, old=tape
            )
        assert recorder is not None
        return y, final, recorder

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | None,
        dstate: Any = None,
        *,
        into: Gradients | None = None,
        input_gradient: bool = True,
        num_threads: int | None = None,
    ) -> Grads:
        """The gradients of a loss, from those with respect to what `forward` returned.

        Parameters
        ----------
        tape : Tape
            From `forward`; it is used up.
        dy : array_like, shape of `y`, or None
            dLoss/dy; None is zeros. Not read beyond the rows' lengths.
        dstate : as `state`, optional
            dLoss/dstate of the final state; zeros by default. Either half of an LSTM's may be None.
        into : Gradients, optional
            Parameter gradients to add to.
        input_gradient : bool, optional
            Whether to compute `grads.x`.
        num_threads : int, optional
            As in a call.

        Returns
        -------
        Grads
            `x` (None for ids), `state`, `params` (`into`, if given) and `reset_state` (None if none was given).

        Raises
        ------
        TypeError, ValueError
            The tape is used or of another layer, the parameters or the contents of `x` have changed since `forward`, or
            an argument is of a wrong kind or shape; nothing is written, and the tape is as it was.
        """
        with self._device.active():
            return self._backward(tape, dy, dstate, into, input_gradient, num_threads)

    def stream(self, batch_size: int = 1, *, weights: str | None = None, num_threads: int | None = None) -> Any:
        """The layer as a stream: it keeps its state and runs step by step, at the lowest cost.

        Parameters
        ----------
        batch_size : int, optional
            Rows, each a sequence of its own.
        weights : {"float32", "float64", "bfloat16"}, optional
            How the weights are stored; the layer's dtype by default. "bfloat16" (for a float32 layer) halves the bytes
            that a step reads; the arithmetic stays in float32. On a CUDA device only "float32": `precision` decides.
        num_threads : int, optional
            The most threads to use; `rnnfast.get_num_threads()` by default. On a real-time thread use 1.

        Returns
        -------
        Stream
            With the weights of this moment and a state of zeros; on a CUDA device a `rnnfast.cuda.stream.DeviceStream`,
            which has the same methods.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or range, or the layer is bidirectional, which needs a sequence's end first.
        """
        if self.bidirectional:
            raise ValueError(f"stream: expected a layer of one direction, got a bidirectional {type(self).__name__}")
        batch = _checks.size("batch_size", batch_size)
        threads = _checks.threads(num_threads)
        if self._device is not HOST:
            from .cuda.stream import DeviceStream

            return DeviceStream(self, batch, weights)
        choices = ("float32", "bfloat16") if self.dtype == np.float32 else ("float64",)
        stored = choices[0] if weights is None else _checks.choice("weights", weights, choices)
        _checks.elements(
            batch * (self.input_size + 8 * self.hidden_size), batch_size=batch, hidden_size=self.hidden_size
        )
        kernels, panels = [p.kernel for p in self._packed], [p.panels() for p in self._packed]
        pairs = [
            p.pairs(panel) if stored == "bfloat16" else None for p, panel in zip(self._packed, panels, strict=True)
        ]
        return Stream._make(
            kernels,
            panels,
            pairs,
            batch,
            self.num_layers,
            self.input_size,
            self.hidden_size,
            self._gates,
            self._has_c,
            self.dtype,
            threads or 0,
            stored,
            self.batch_first,
        )

    def _evaluate(
        self,
        x: Any,
        state: Any,
        lengths: Any,
        resets: Any,
        reset_state: Any,
        out: Any,
        num_threads: Any,
        *,
        training: bool,
        old: Tape | None = None,
    ) -> tuple[Array, Any, Tape | None]:
        """Check everything, then allocate, then run."""
        port = self._device.port(x)
        checks = port.checks
        sequence, batched = self._check_x(checks, x)
        steps, batch = sequence.shape[:2]
        checked_lengths = checks.lengths(lengths, steps, batch, batched=batched)
        run = Run(
            self._convert_x(checks, sequence, checked_lengths),
            batched,
            self._check_states(checks, "state", state, batch, batched, copy=training),
            self._check_states(checks, "reset_state", reset_state, batch, batched, copy=training),
            checked_lengths,
            self._check_resets(checks, resets, steps, batch, batched),
        )
        threads = _checks.threads(num_threads)
        given = None if out is None else self._check_out(checks, out, run)
        y = given if given is not None and port.direct else self._new_sequence(steps, batch, self._features, batched)
        recorder = begin(old, self, self.params) if training else None
        final = self._new_states(batch, batched)
        views = self._sequence_view(y, batched), self._state_views(final, batched)
        self._forward(run.enter(port), port, *views, recorder, threads or 0)
        return port.leave(y, given), port.leave(self._structure(final)), recorder

    def _check_resets(self, checks: Any, resets: Any, steps: int, batch: int, batched: bool) -> Array | None:
        """A copy of the resets, bool [T, B]."""
        if resets is None:
            return None
        shape = self._sequence_shape(steps, batch, 1, batched)[:-1]
        array = checks.flags("resets", resets, shape, self._axes.replace(", I", ""))
        return self._sequence_view(array, batched).copy(order="C")

    def _check_out(self, checks: Any, out: Any, run: Run) -> Any:
        shape = self._sequence_shape(run.x.shape[0], run.x.shape[1], self._features, run.batched)
        states = [("state", array) for array in run.state or ()]
        resets = [("reset_state", array) for array in run.reset_state or ()]
        return checks.output("out", out, shape, self.dtype, [("x", run.x), *states, *resets])

    # The caller's arrays: [T, B, features], [B, T, features] or [T, features]; states [L*D, B, H] or [L*D, H].

    @property
    def _axes(self) -> str:
        return "[B, T, I] or [T, I]" if self.batch_first else "[T, B, I] or [T, I]"

    def _sequence_shape(self, steps: int, batch: int, features: int, batched: bool) -> tuple[int, ...]:
        if not batched:
            return steps, features
        return (batch, steps, features) if self.batch_first else (steps, batch, features)

    def _sequence_view(self, array: Array, batched: bool) -> Array:
        if not batched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _state_shape(self, batch: int, batched: bool) -> tuple[int, ...]:
        states = self.num_layers * self._directions
        return (states, batch, self.hidden_size) if batched else (states, self.hidden_size)

    def _state_view(self, array: Array, batched: bool) -> Array:
        return array if batched else array[:, None]


class RNN(_Recurrent):
    """Elman layers: `h = act(W x + b_ih + U h_prev + b_hh)`.

    Parameters
    ----------
    input_size : int
        The features of `x`.
    hidden_size : int
        The features of a state.
    num_layers : int, optional
        Layers on top of each other.
    nonlinearity : {"tanh", "relu", "sigmoid"}, optional
        The activation.
    bias : bool, optional
        Whether there are biases.
    batch_first : bool, optional
        Whether `x` and `y` are [B, T, features] in place of [T, B, features]; states are not affected.
    dropout : float, optional
        The probability of dropping an output between two layers in `forward`, in 0..1.
    bidirectional : bool, optional
        Whether each layer also runs backwards in time; `y` then has the features of both directions.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights and the dropout: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier"} or callable, optional
        The initial weights; see `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 layers only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device; "bfloat16" also keeps the sequences on the tape in it. States
        and sums are in float32.

    Attributes
    ----------
    params : Parameters
        `weight_ih_l0` [H, I], `weight_hh_l0` [H, H], `bias_ih_l0` [H], `bias_hh_l0` [H], then `..._l0_reverse`,
        `..._l1`.
    rng : numpy.random.Generator
        What dropout draws from.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.
    """

    _options = (*_Recurrent._options, "nonlinearity")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "pytorch",
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.nonlinearity = _checks.choice("nonlinearity", nonlinearity, ("tanh", "relu", "sigmoid"))
        super().__init__(
            f"elman_{self.nonlinearity}",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            rng=rng,
            init=init,
            device=device,
            precision=precision,
        )


class LSTM(_Recurrent):
    """Long short-term memory: `c = f * c_prev + i * g`, `h = o * tanh(c)`; the state is the tuple (h, c).

    Parameters
    ----------
    input_size : int
        The features of `x`.
    hidden_size : int
        The features of h and of c.
    num_layers : int, optional
        Layers on top of each other.
    bias : bool, optional
        Whether there are biases.
    batch_first : bool, optional
        Whether `x` and `y` are [B, T, features] in place of [T, B, features]; states are not affected.
    dropout : float, optional
        The probability of dropping an output between two layers in `forward`, in 0..1.
    bidirectional : bool, optional
        Whether each layer also runs backwards in time; `y` then has the features of both directions.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights and the dropout: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier"} or callable, optional
        The initial weights; see `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 layers only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device; "bfloat16" also keeps the sequences on the tape in it. States
        and sums are in float32.
    forget_bias : float, optional
        The initial bias of the forget gates, in place of what `init` gives; see `rnnfast.init.forget_bias`.

    Attributes
    ----------
    params : Parameters
        In the gate order i, f, g, o: `weight_ih_l0` [4*H, I], `weight_hh_l0` [4*H, H], `bias_ih_l0` [4*H],
        `bias_hh_l0` [4*H], then `..._l0_reverse`, `..._l1`.
    rng : numpy.random.Generator
        What dropout draws from.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.
    """

    _options = (*_Recurrent._options, "forget_bias")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "pytorch",
        device: str = "cpu",
        precision: str = "float32",
        forget_bias: float | None = None,
    ) -> None:
        super().__init__(
            "lstm",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            rng=rng,
            init=init,
            device=device,
            precision=precision,
            forget_bias=forget_bias,
        )


class GRU(_Recurrent):
    """Gated recurrent units: `h = (1 - z) * n + z * h_prev`.

    Parameters
    ----------
    input_size : int
        The features of `x`.
    hidden_size : int
        The features of a state.
    num_layers : int, optional
        Layers on top of each other.
    reset_after : bool, optional
        Whether the reset gate acts after the recurrent product, `n = tanh(W_n x + b_in + r * (U_n h_prev + b_hn))`, as
        in PyTorch and cuDNN; or before it, `n = tanh(W_n x + b_in + U_n (r * h_prev) + b_hn)`, as in Cho et al. (2014).
    bias : bool, optional
        Whether there are biases.
    batch_first : bool, optional
        Whether `x` and `y` are [B, T, features] in place of [T, B, features]; states are not affected.
    dropout : float, optional
        The probability of dropping an output between two layers in `forward`, in 0..1.
    bidirectional : bool, optional
        Whether each layer also runs backwards in time; `y` then has the features of both directions.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights and the dropout: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier"} or callable, optional
        The initial weights; see `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 layers only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device; "bfloat16" also keeps the sequences on the tape in it. States
        and sums are in float32.

    Attributes
    ----------
    params : Parameters
        In the gate order r, z, n: `weight_ih_l0` [3*H, I], `weight_hh_l0` [3*H, H], `bias_ih_l0` [3*H],
        `bias_hh_l0` [3*H], then `..._l0_reverse`, `..._l1`.
    rng : numpy.random.Generator
        What dropout draws from.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.
    """

    _options = (*_Recurrent._options, "reset_after")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        reset_after: bool = True,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "pytorch",
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.reset_after = _checks.truth("reset_after", reset_after)
        super().__init__(
            "gru_after" if self.reset_after else "gru_before",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            rng=rng,
            init=init,
            device=device,
            precision=precision,
        )
