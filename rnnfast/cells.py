"""The cells: one step of one layer, for programs that keep their own loop over time.

A cell runs the layers' kernels with T = 1, so its steps equal a layer's to the last bit. A layer over the whole
sequence is many times faster than a loop over a cell; a cell is for what happens between the steps.

Rejected: cells of their own in NumPy (other rounding than the layers').
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Unpack

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._axes import STEP
from ._device import HOST
from ._named import GRUCellOptions, LSTMCellOptions, RNNCellOptions, named
from ._part import Part
from ._recurrence import Arguments, Recurrence, build, cell_options, engine, pack
from ._walk import Layout
from ._words import Array, DeviceName, Precision, State
from .description import Cell
from .init import Init
from .parameters import Gradients
from .stream import Stepper, Steps, offer_vectorcall
from .tape import Grads, Tape

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RecurrentCell"]


class RecurrentCell(Stepper, Part, Generic[State]):
    """One step of any cell.

    Parameters
    ----------
    cell : Cell
        The description of the step; see `rnnfast.Cell`.
    input_size : int
        The features of `x`.
    hidden_size : int
        H: the units, which are the features of a state unless the cell says otherwise.
    bias : bool, optional
        Whether there are biases.
    zoneout : float or mapping from str to float, optional
        The probability that a unit keeps its state in `forward`; by the states' names, or the same for all.
    recurrent_dropout : float, optional
        The probability that a unit is hidden from the recurrent weights in `forward`.
    forget_bias : float, optional
        The initial bias of the gate named f, in place of what `init` gives; see `rnnfast.init.forget_bias`.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights and random masks: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier", "ids"} or callable, optional
        The initial weights; "ids" is for inputs that are ids. See `rnnfast.init`.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`. "cuda" has float32 cells only.
    precision : {"float32", "tf32", "bfloat16"}, optional
        What matrices are multiplied in on a CUDA device.

    Attributes
    ----------
    cell : Cell
        With zoneout and recurrent dropout around it, if there is any.
    params : Parameters
        The cell's, in its order.

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
    >>> cell = rnnfast.RecurrentCell(Leaky(), 8, 16, rng=0)
    >>> cell(np.zeros((3, 8))).shape  # 3 rows
    (3, 16)
    """

    _options = ("input_size", "hidden_size", "bias")
    cell: Cell
    input_size: int
    hidden_size: int
    bias: bool
    _recurrence: Recurrence
    dropout = 0.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        offer_vectorcall(cls)

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        zoneout: Any = 0.0,
        recurrent_dropout: float = 0.0,
        forget_bias: float | None = None,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "pytorch",
        device: DeviceName = "cpu",
        precision: Precision = "float32",
    ) -> None:
        wrappers = zoneout, recurrent_dropout
        build(self, cell, input_size, hidden_size, bias, wrappers, forget_bias, dtype, rng, init, device, precision)

    _engine = engine
    _more_options = cell_options

    def _layout(self) -> Layout:
        return Layout(self.cell, self.input_size, self.hidden_size, bias=self.bias, numbered=False)

    def _pack(self) -> None:
        pack(self, STEP)
        self._steps = None

    def _step(self, x: ArrayLike, state: Any, out: Any, given: Any, ids: Any) -> Any:
        """A call that is not the plain case, or not of these parameters and this batch yet."""
        result = self._recurrence.step(self, Arguments(x, state, out=out, given=given, ids=ids), training=False)[0]
        plain = self._device is HOST and given is None and isinstance(x, np.ndarray)
        if plain and x.dtype == self.dtype and x.size:  # type: ignore[union-attr]
            self._prepare(x.shape[0] if x.ndim == 2 else 1)  # type: ignore[union-attr]
        return result

    def _prepare(self, batch: int) -> None:
        """Have the next step of these parameters and this batch at the lowest cost."""
        if self._steps is None or not self._steps.serves(batch):
            store = self.params.store
            version = store.version
            self._steps = Steps(self._recurrence.walk.stream(batch, weights=self.dtype.name), store, version)

    def forward(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        out: Any = None,
        given: Any = None,
        tape: Tape | None = None,
        seed: int | None = None,
        first_step: int = 0,
        ids: bool | None = None,
    ) -> tuple[State, Tape]:
        """One step for training: record what `backward` needs.

        The tape refers to `x`, which must not change before `backward`; all else it copies.

        Parameters
        ----------
        x, state, out, given, ids
            As in a call.
        tape : Tape, optional
            An old tape of this cell, to record in its memory; what it holds is lost.
        seed, first_step : int, optional
            Of random masks, as for `Recurrent.forward`: steps of one sequence with one seed, each with its number, have
            the masks that a layer's call has.

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
        call = Arguments(x, state, out=out, given=given, seed=seed, first_step=first_step, ids=ids)
        final, recorder = self._recurrence.step(self, call, training=True, old=tape)
        assert recorder is not None
        return final, recorder

    def backward(self, tape: Tape, dstate: Any, *, into: Gradients | None = None, input_gradient: bool = True) -> Grads:
        """The gradients of a loss, from those with respect to the new state.

        Parameters
        ----------
        tape : Tape
            From `forward`; it is used up.
        dstate : as the state, or None
            dLoss/dstate of the new state; None is zeros. Each of several may be None.
        into : Gradients, optional
            Parameter gradients to add to.
        input_gradient : bool, optional
            Whether to compute `grads.x`.

        Returns
        -------
        Grads
            `x` (None for ids), `state`, `params` (`into`, if given) and `given`.

        Raises
        ------
        TypeError, ValueError
            The tape is used or of another cell, the parameters or the contents of `x` have changed since `forward`, or
            an argument is of a wrong kind or shape; nothing is written, and the tape is as it was.
        """
        return self._recurrence.backward(self, tape, None, dstate, into, input_gradient, None)


@named
class RNNCell(RecurrentCell[Array]):
    """One step of an Elman layer."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, **options: Unpack[RNNCellOptions]) -> None: ...


@named
class LSTMCell(RecurrentCell[tuple[Array, Array]]):
    """One step of an LSTM; the state is the tuple (h, c)."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, **options: Unpack[LSTMCellOptions]) -> None: ...


@named
class GRUCell(RecurrentCell[Array]):
    """One step of gated recurrent units."""

    if TYPE_CHECKING:

        def __init__(self, input_size: int, hidden_size: int, **options: Unpack[GRUCellOptions]) -> None: ...
