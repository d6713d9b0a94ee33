"""The recurrent layers: any cell's, with stacks, directions, masks and dropout; and the cells that have a name here.

A layer holds its options and its parameters; `_recurrence` takes its calls. `Recurrent` is of any description. The
others differ from it by what chooses the cell.

With `device="cuda"` the parameters lie on the CUDA device that is current when the layer is made. `x` then decides
where all arrays of a call lie: NumPy arrays are moved there and the results back; arrays on the device (CuPy's,
PyTorch's, Numba's) are used where they lie, on CuPy's current stream, and CuPy arrays come back without a wait. Values
that would have to be read for a check are not: a row with a length outside 0..T or with an id outside 0..I-1 comes out
as NaN. Gradients of the parameters stay on the device in any case.

Rejected: PyTorch's packed sequences (`lengths` needs no other layout of the data, and the kernels skip what is beyond);
a training flag on the layer (`forward` and the call say it, so that one layer can do both at once).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks
from ._axes import Axes
from ._device import HOST
from ._named import GRULayerOptions, LSTMLayerOptions, RNNLayerOptions, named
from ._part import Part, from_config
from ._recurrence import Arguments, Recurrence, build, cell_options, engine, pack
from ._walk import Layout
from ._words import Array, DeviceName, Method, Precision, State, StreamWeights
from .description import Cell
from .init import Init
from .parameters import Gradients
from .stream import Stream
from .tape import Grads, Tape

if TYPE_CHECKING:
    from .online import Learner
    from .optim import Optimizer

__all__ = [
    "AUGRU",
    "GRU",
    "GRUD",
    "LRU",
    "LSTM",
    "MGU",
    "RGLRU",
    "RNN",
    "SLSTM",
    "SRU",
    "BlockGRU",
    "CfC",
    "IndRNN",
    "Jordan",
    "LiGRU",
    "MinGRU",
    "MinLSTM",
    "Recurrent",
    "from_config",
]

_MOST_LAYERS = 4096  # each has a kernel of its own


class _Call(TypedDict, total=False):
    """For a type checker: what a call takes by name besides `return_states`, which decides what `y` is."""

    lengths: ArrayLike | None
    resets: ArrayLike | None
    reset_state: Any
    mask: ArrayLike | None
    given: Any
    out: Any
    num_threads: int | None
    last_only: bool
    ids: bool | None


class _TrainingCall(_Call, total=False):
    """The same of `forward`."""

    tape: Tape | None
    seed: int | None
    first_step: int
    recompute: int | Literal["auto"] | None
    memory: int | None


class Recurrent(Part, Generic[State]):
    """Layers of any cell.

    Parameters
    ----------
    cell : Cell
        The description of a step; see `rnnfast.Cell`.
    input_size : int
        The features of `x`.
    hidden_size : int
        H: the units, which are the features of a state unless the cell says otherwise.
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
    reverse : bool, optional
        Whether the layers run backwards in time instead: from each row's last step to its first. `y[t]` is still what
        belongs to `x[t]`, the final state is that after step 0, and parameters have the names of a forward layer.
    zoneout : float or mapping from str to float, optional
        The probability that a unit keeps its state in a step of `forward`; by the states' names, or the same for all.
    recurrent_dropout : float, optional
        The probability that a unit is hidden from the recurrent weights in `forward`, the same for a whole sequence.
    forget_bias : float, optional
        The initial bias of the gate named f, in place of what `init` gives; see `rnnfast.init.forget_bias`.
    sparse : bool, optional
        Whether `x` is always ids, and the gradient of the first layer's `weight_ih` holds the columns of those that
        occurred alone. Optimisers are then lazy; for large vocabularies. See `rnnfast.sparse`. On the host only.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights and the dropout: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier", "ids"} or callable, optional
        The initial weights; "ids" is for inputs that are ids. See `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 layers only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device; "bfloat16" also keeps the sequences on the tape in it. States
        and sums are in float32.

    Attributes
    ----------
    cell : Cell
        With zoneout and recurrent dropout around it, if there is any.
    params : Parameters
        The cell's, in its order, with `_l0` behind their names, then `_l0_reverse`, `_l1`, ...
    rng : numpy.random.Generator
        What the seeds of dropout and of random masks are drawn from.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, or two do not go together.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.

    Examples
    --------
    >>> from rnnfast.description.functions import lerp, tanh
    >>> class Leaky(rnnfast.Cell):
    ...     gates = ("n",)
    ...
    ...     def step(self, gate, state):
    ...         return lerp(0.5, tanh(gate.n), state.h)
    >>> layer = rnnfast.Recurrent(Leaky(), 8, 16, rng=0)
    >>> y, state = layer(np.zeros((20, 3, 8)))  # 20 steps of 3 rows
    >>> y.shape
    (20, 3, 16)
    """

    _options = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "reverse")
    cell: Cell
    input_size: int
    hidden_size: int
    bias: bool
    _recurrence: Recurrence

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        reverse: bool = False,
        zoneout: Any = 0.0,
        recurrent_dropout: float = 0.0,
        forget_bias: float | None = None,
        sparse: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "pytorch",
        device: DeviceName = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.num_layers = _checks.integer("num_layers", num_layers, maximum=_MOST_LAYERS)
        self.batch_first = _checks.truth("batch_first", batch_first)
        self.dropout = _checks.probability("dropout", dropout)
        self.bidirectional = _checks.truth("bidirectional", bidirectional)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout: expected 0 with num_layers=1, as there is nothing between layers then, got {self.dropout}",
                stacklevel=3 if hasattr(self, "_cell_options") else 2,
            )
        self.reverse = _checks.truth("reverse", reverse)
        if self.reverse and self.bidirectional:
            raise ValueError("reverse: expected False with bidirectional, got True: both directions are there already")
        self.sparse = _checks.truth("sparse", sparse)
        if self.sparse and device != HOST.name:
            raise ValueError(f"sparse: expected False with device={device!r}, got True")
        wrappers = zoneout, recurrent_dropout
        build(self, cell, input_size, hidden_size, bias, wrappers, forget_bias, dtype, rng, init, device, precision)

    _engine = engine

    def _more_options(self) -> dict[str, Any]:
        return cell_options(self) | ({"sparse": True} if self.sparse else {})

    @property
    def takes_ids(self) -> bool:
        """Whether `x` is ids whatever its dtype and shape: with `sparse`."""
        return self.sparse

    def _layout(self) -> Layout:
        sizes = self.input_size, self.hidden_size, self.num_layers
        ways = {"bidirectional": self.bidirectional, "reverse": self.reverse}
        return Layout(self.cell, *sizes, **ways, bias=self.bias, sparse=self.sparse)

    def _pack(self) -> None:
        pack(self, Axes(batch_first=self.batch_first))

    @overload
    def __call__(
        self, x: ArrayLike, state: Any = None, *, return_states: Literal[False] = ..., **options: Unpack[_Call]
    ) -> tuple[Array, State]: ...
    @overload
    def __call__(
        self, x: ArrayLike, state: Any = None, *, return_states: Literal[True], **options: Unpack[_Call]
    ) -> tuple[tuple[Array, ...], State]: ...
    @overload
    def __call__(
        self, x: ArrayLike, state: Any = None, *, return_states: bool, **options: Unpack[_Call]
    ) -> tuple[Any, State]: ...
    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Any = None,
        mask: ArrayLike | None = None,
        given: Any = None,
        out: Any = None,
        num_threads: int | None = None,
        return_states: bool = False,
        last_only: bool = False,
        ids: bool | None = None,
    ) -> tuple[Any, State]:
        """Run the layer; keep nothing, drop nothing out.

        Parameters
        ----------
        x : array_like, shape [T, B, I], [B, T, I] with `batch_first`, or [T, I]
            The input; or integer ids in 0..I-1, without the last axis, that stand for one-hot vectors (see
            ``init="ids"`` for weights to begin with).
        state : array_like, shape [L*D, B, H] or [L*D, H], or the tuple of several, as (h, c) of an LSTM, optional
            The initial state; zeros by default. Some cells' states have other widths than H, or another start.
        lengths : array_like of int, shape [B], optional
            Row `b` ends after `lengths[b]` steps: beyond, `y` is zero and `x` is not read. A row of length 0 ends with
            the state that it began with, so that a sequence in chunks ends as the whole does.
        resets : array_like of bool, shape as `x` without its last axis, optional
            Where a new segment starts: the state is zero (or `reset_state`) before that step.
        reset_state : as `state`, optional
            What resets put in place of zeros.
        mask : array_like of bool, shape as `x` without its last axis, optional
            Where it is false the states pass through untouched, `y` repeats, and `x` is not read: holes, padding.
        given : mapping from str to array_like, or array_like, optional
            The cell's extra inputs by name, each shaped as `x` without its last axis, or with the input's own width
            there; an array alone if the cell has one.
        out : ndarray, shape of `y`, optional
            Where to write `y`: of the layer's dtype, C-contiguous, sharing no memory with an input.
        num_threads : int, optional
            The most threads to use; `rnnfast.get_num_threads()` by default.
        return_states : bool, optional
            Whether `y` is a tuple with the sequence of every state of the last layer (so is `out`, then).
        last_only : bool, optional
            Whether `y` [B, D*H] or [D*H] has no axis for time: what each direction ends with, the first of the last
            layer's final states. Nothing of the size of a sequence is written for it.
        ids : bool, optional
            Whether `x` is ids. By default int32 and int64 [T, B] are. Integers that could be features as well must be
            told: with I in their last axis, of 8 or 16 bits, without a batch axis, or if I = 1.

        Returns
        -------
        y : ndarray, shape [T, B, D*H], [B, T, D*H] with `batch_first`, or [T, D*H]
            The last layer's first states.
        state : ndarray or tuple of ndarray
            The final state, each row's after its own last step.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written.
        """
        call = Arguments(
            *(x, state, lengths, resets, reset_state, mask, given, out, num_threads, return_states, last_only), ids=ids
        )
        return self._recurrence.evaluate(self, call, training=False)[:2]

    @overload
    def forward(
        self, x: ArrayLike, state: Any = None, *, return_states: Literal[False] = ..., **options: Unpack[_TrainingCall]
    ) -> tuple[Array, State, Tape]: ...
    @overload
    def forward(
        self, x: ArrayLike, state: Any = None, *, return_states: Literal[True], **options: Unpack[_TrainingCall]
    ) -> tuple[tuple[Array, ...], State, Tape]: ...
    @overload
    def forward(
        self, x: ArrayLike, state: Any = None, *, return_states: bool, **options: Unpack[_TrainingCall]
    ) -> tuple[Any, State, Tape]: ...
    def forward(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Any = None,
        mask: ArrayLike | None = None,
        given: Any = None,
        out: Any = None,
        tape: Tape | None = None,
        num_threads: int | None = None,
        return_states: bool = False,
        last_only: bool = False,
        seed: int | None = None,
        first_step: int = 0,
        recompute: int | Literal["auto"] | None = None,
        memory: int | None = None,
        ids: bool | None = None,
    ) -> tuple[Any, State, Tape]:
        """Run the layer for training, with dropout, and record what `backward` needs.

        The tape refers to `x`, which must not change before `backward`; all else it copies.

        Parameters
        ----------
        x, state, lengths, resets, reset_state, mask, given, out, num_threads, return_states, last_only, ids
            As in a call.
        tape : Tape, optional
            An old tape of this layer, to record in its memory; what it holds is lost.
        seed : int, optional
            Of the random masks (dropout, zoneout, recurrent dropout), in 0..2**63-1; drawn from `rng` by default.
        first_step : int, optional
            Where the first step of `x` is in its sequence, for the masks: chunks of one sequence with one seed, each
            with its first step, have the masks of the whole.
        recompute : int or "auto", optional
            Keep only the states at every so many steps on the tape; backward computes the steps between them again.
            The gradients are bitwise those without it. The number is rounded up to a quarter, a half or whole sections
            of the gradients' sums (`rnnfast.section_steps`). "auto": the longest segments, on two levels if need be,
            with which the tape fits into `memory`. With two directions or dropout, whole sequences are kept between
            layers.
        memory : int, optional
            The most bytes that the tape may have, with "auto".

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
        call = Arguments(
            *(x, state, lengths, resets, reset_state, mask, given, out, num_threads),
            *(return_states, last_only, seed, first_step, recompute, memory, ids),
        )
        y, final, recorder = self._recurrence.evaluate(self, call, training=True, old=tape)
        assert recorder is not None
        return y, final, recorder

    def backward(
        self,
        tape: Tape,
        dy: Any,
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
            dLoss/dy; None is zeros. Not read beyond the rows' lengths. With `return_states` in `forward` a tuple, of
            which each may be None.
        dstate : as `state`, optional
            dLoss/dstate of the final state; zeros by default. Each of several may be None.
        into : Gradients, optional
            Parameter gradients to add to.
        input_gradient : bool, optional
            Whether to compute `grads.x`.
        num_threads : int, optional
            As in a call.

        Returns
        -------
        Grads
            `x` (None for ids), `state`, `params` (`into`, if given), `reset_state` and `given` (None without any).

        Raises
        ------
        TypeError, ValueError
            The tape is used or of another layer, the parameters or the contents of `x` have changed since `forward`, or
            an argument is of a wrong kind or shape; nothing is written, and the tape is as it was.
        """
        return self._recurrence.backward(self, tape, dy, dstate, into, input_gradient, num_threads)

    def inspect(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Any = None,
        mask: ArrayLike | None = None,
        given: Any = None,
        layer: int = -1,
        reverse: bool = False,
    ) -> dict[str, Any]:
        """What the layer computes on its way: every gate and every state at every step, to look at.

        The names are those of the cell's description. An LSTM has ``i``, ``f``, ``g``, ``o`` (the gates, open at 1),
        the states ``h`` and ``c``, and the gates' sums ``gate.i``, ... before their activations. What `step` of a cell
        of your own has a variable for is there, too.

        Parameters
        ----------
        x, state, lengths, resets, reset_state, mask, given
            As in a call.
        layer : int, optional
            Which of the layers on top of each other; by default the last.
        reverse : bool, optional
            Whether to look at the second of two directions.

        Returns
        -------
        dict of str to ndarray of float64, shape [T, B, width], [B, T, width] with `batch_first`, or [T, width]
            States are as a call returns them. The others are NaN where no step is run: beyond the lengths, and where
            the mask is false.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range.

        Notes
        -----
        It is computed by `rnnfast.reference`, in float64 and without dropout, whatever the layer's dtype and device:
        equal to what the kernels compute but for rounding, and much slower.

        Examples
        --------
        >>> import numpy as np
        >>> import rnnfast
        >>> seen = rnnfast.LSTM(3, 4, rng=0).inspect(np.ones((10, 2, 3)))
        >>> sorted(seen)
        ['c', 'f', 'g', 'gate.f', 'gate.g', 'gate.i', 'gate.o', 'h', 'i', 'o']
        >>> seen["f"].shape, bool((seen["f"] > 0).all())
        ((10, 2, 4), True)
        """
        from . import _inside  # and with it the oracle, which nothing else here needs

        call = Arguments(x, state, lengths, resets, reset_state, mask, given)
        return _inside.inspect(self, call, layer, reverse)

    def stream(
        self, batch_size: int = 1, *, weights: StreamWeights | None = None, num_threads: int | None = None
    ) -> Stream:
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
            An argument is of a wrong kind or range, or the layer runs backwards in time, too, which needs a sequence's
            end first.
        """
        _checks.runs_forwards("stream", self)
        batch, threads = _checks.size("batch_size", batch_size), _checks.threads(num_threads)
        stream: Stream = self._recurrence.stream(batch, weights, threads)
        return stream

    def learner(
        self,
        loss: Callable[..., Any],
        optimizer: Optimizer,
        *,
        method: Method = "snap1",
        batch_size: int = 1,
        clip_norm: float | None = None,
    ) -> Learner:
        """What learns from a stream while it runs: no sequence is stored, and there is an update at any step.

        Parameters
        ----------
        loss : callable
            ``loss(prediction, target) -> (loss, dprediction)``.
        optimizer
            On ``layer.params``.
        method : {"snap1", "rflo", "rtrl"}, optional
            How the dependence of the state on the parameters is carried along; see `rnnfast.online`.
        batch_size : int, optional
            Streams side by side.
        clip_norm : float, optional
            Bound for the gradient's norm.

        Returns
        -------
        rnnfast.online.Learner

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or range, or the method is not for this layer.
        """
        from .online import Learner  # which is on a floor above

        return Learner(self, loss, optimizer, method=method, batch_size=batch_size, clip_norm=clip_norm)

    def flops(self, T: int, B: int, training: bool = False) -> int:
        """The floating-point operations of the products of one call: two for each multiplication and addition.

        Parameters
        ----------
        T, B : int
            Steps and rows.
        training : bool, optional
            Whether to count `forward` and `backward`: three times a call.

        Returns
        -------
        int

        Examples
        --------
        >>> rnnfast.LSTM(3, 5).flops(10, 2)
        6400
        """
        steps, batch = _checks.integer("T", T, 0), _checks.integer("B", B, 0)
        return 2 * self._recurrence.layout.work * steps * batch * (3 if _checks.truth("training", training) else 1)


@named
class RNN(Recurrent[Array]):
    """Elman layers."""

    if TYPE_CHECKING:

        def __init__(
            self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Unpack[RNNLayerOptions]
        ) -> None: ...


@named
class LSTM(Recurrent[tuple[Array, Array]]):
    """Long short-term memory; the state is the tuple (h, c)."""

    if TYPE_CHECKING:

        def __init__(
            self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Unpack[LSTMLayerOptions]
        ) -> None: ...


@named
class GRU(Recurrent[Array]):
    """Gated recurrent units."""

    if TYPE_CHECKING:

        def __init__(
            self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Unpack[GRULayerOptions]
        ) -> None: ...


@named
class Jordan(Recurrent[Array]):
    """Jordan's network: the context is the previous output."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class IndRNN(Recurrent[Array]):
    """Independently recurrent units: each sees its own state alone."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class LiGRU(Recurrent[Array]):
    """The light GRU: one gate, ReLU units."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class MGU(Recurrent[Array]):
    """The minimal gated unit: one gate."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class SLSTM(Recurrent[tuple[Array, Array, Array, Array]]):
    """The scalar LSTM of xLSTM: exponential gates, stabilised."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class BlockGRU(Recurrent[Array]):
    """Dreamer's GRU: block-diagonal recurrent weights, normalised sums."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class MinGRU(Recurrent[Array]):
    """The minimal GRU, whose gates see the input alone."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class MinLSTM(Recurrent[Array]):
    """The minimal LSTM, whose gates see the input alone."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class SRU(Recurrent[tuple[Array, Array]]):
    """Simple recurrent units."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class LRU(Recurrent[tuple[Array, Array, Array]]):
    """The linear recurrent unit: a complex diagonal recurrence."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class RGLRU(Recurrent[Array]):
    """The real-gated linear recurrent unit of Griffin."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class AUGRU(Recurrent[Array]):
    """A GRU whose update gate is scaled by an attention score; `given` is the score."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class GRUD(Recurrent[Array]):
    """The GRU with decay, for missing values; `given` has the mask and the time since the last value."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...


@named
class CfC(Recurrent[Array]):
    """The closed-form continuous-time cell; `given` is the time since the previous step."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None: ...
