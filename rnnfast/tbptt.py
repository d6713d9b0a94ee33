"""Truncated backpropagation through time: windows, the carried state, and where gradients stop.

A) An update is made after every window of (at most) k1 steps; its gradient flows back k2 >= k1 steps. The update
   after the steps `[begin, end)` is the gradient of the loss of those steps as a function of a pass over `[start,
   end)`, `start = max(0, end - k2)`. The state carried to `start` is a constant: the one that the previous window's
   pass, with the parameters it had, computed there.
B) So each pass is cut where the next window's pass will start. Every piece has its tape, and backward runs from the
   last piece to the first into one `Gradients`. So states and outputs have the bits of an uncut pass, and gradients of
   parameters agree with its to rounding (`section_steps`); with k1 = k2 = T there is one piece, and this is full BPTT,
   bitwise.
C) Between windows the trainer keeps the inputs and masks that the next pass repeats: the *context*, less than k2 steps.
   It is a list of pieces (`_pieces.py`), joined where that can be, so a pass has three pieces at most where no row ends
   and goes on.
D) Memory is bounded by k2: the tapes are handed back for reuse, and all windows share one `Gradients`.
E) With a model on a CUDA device all of this lies there. NumPy windows are moved over when they come; nothing is read
   back but the loss and the gradient's norm, so `grad_norm` and `state` are device arrays. Lengths that lie on the
   device are not looked at, and pieces with any are not joined.
F) A gradient that is not finite makes no update (`nonfinite=`). It is judged by its norm, which is at hand anyway; the
   array to blame is looked for only when there is an error to raise. On a CUDA device the norm must be waited for, once
   per window, before the optimiser may begin; with ``nonfinite="apply"`` it is not.
G) A window in which every target is masked makes no update either: an optimiser's momentum and weight decay would move
   the parameters for no reason in the data. (A gradient that is zero where there are targets does make one.)

Rejected: keeping the previous window's tapes and running only the new steps (cheaper, but half of the pass would
belong to older parameters, and the result would be the gradient of nothing); a flag on the state that detaches it
(the caller would have to remember); a skipped window whose state is carried on (one NaN in it would be in all windows
to come); an update on the device that makes itself void (the step count, the carried state and the error are the
host's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks, _pieces
from . import _state as states
from ._device import Device, Port, holder
from ._pieces import Piece
from ._recompute import levels
from ._words import NonFinite
from .diagnostics import gradient_norm_by_distance
from .optim import clip_grad_value, clip_to_norm, drop_frozen
from .tape import Tape

__all__ = ["TBPTT", "NonFiniteError", "StatefulBatches", "StepResult", "gradient_norm_by_distance", "stateful_batches"]

Array = NDArray[Any]
Loss = Callable[..., tuple[float, Array]]


class NonFiniteError(ValueError, FloatingPointError):
    """A gradient was not finite, so no update was made; says which array had the first NaN or infinity."""


class StepResult(NamedTuple):
    """What one window's step was.

    Attributes
    ----------
    loss : float
        Of the window's own steps.
    grad_norm : float
        The gradient's global L2 norm before clipping; not finite when training has blown up. On a CUDA device an array
        without axes, of which `float()` waits for the window's backward.
    steps : int
        The window's steps.
    state
        The state carried out of the window, in the model's structure and where the model lies. It is the trainer's own:
        copy it to change it.
    updated : bool
        Whether there was an update: not if the gradient was not finite and ``nonfinite="skip"``, nor if every target
        was masked.
    skipped : int
        How many windows this trainer has skipped so far because their gradients were not finite.
    """

    loss: float
    grad_norm: Any
    steps: int
    state: Any
    updated: bool = True
    skipped: int = 0


class _Carried(NamedTuple):
    """What goes from one window to the next."""

    state: Any = None
    """After the last window, in the model's structure; None is zeros."""
    start_state: Any = None
    """Where the next pass starts: before the context."""
    context: tuple[Piece, ...] | list[Piece] = ()
    """The steps that the next pass repeats."""
    restart: Array | None = None
    """The rows [B] that begin anew at the next step, though the pass starts before it."""
    windows: int = 0
    """How many came before."""
    skipped: int = 0
    """How many of them were skipped because their gradients were not finite."""
    steps: int = 0
    """How many steps came before, since the state was set."""

    def anew(self, state: Any) -> _Carried:
        """From a state, with nothing before it."""
        return _Carried(state, state, windows=self.windows, skipped=self.skipped)

    def begin_rows(self, chosen: Array, xp: Any) -> _Carried:
        """With zeros for some rows, by a mask [B]."""
        state = states.zero_rows(self.state, chosen, xp)
        if not self.context:
            return self.anew(state)._replace(steps=self.steps)
        return self._replace(state=state, restart=chosen if self.restart is None else self.restart | chosen)


class TBPTT:
    """Trains a model by truncated backpropagation through time and owns the state that is carried along.

    Parameters
    ----------
    model : Model, RNN, LSTM or GRU
        In one direction; calls are batched. A Model must have one input, outputs with steps, and layers that begin with
        states of their own.
    loss : callable
        ``loss(prediction, target) -> (loss, dprediction)``, and ``mask=`` besides where there are masks or lengths:
        the losses of `rnnfast.losses`, or one's own. It is given arrays on the model's device.
    optimizer
        An optimiser on ``model.params``.
    k1 : int
        Steps per update.
    k2 : int, optional
        Steps that the gradient flows back, at least k1, which is the default.
    clip_norm, clip_value : float, optional
        Bounds for the gradient's norm and then for its elements.
    nonfinite : {"raise", "skip", "apply"}
        What becomes of a window whose gradient has a NaN or an infinity in it. "raise": `NonFiniteError`; parameters,
        optimiser and carried state stay as they are. "skip": the same without the error, and training goes on with the
        next window from the state before this one (rows that begin a new sequence in this one begin anew);
        `StepResult.skipped` counts. "apply": the update is made all the same. On a CUDA device the first two wait for
        each window's gradient.
    logits : bool
        Hand ``logits=True`` to the model (its head then skips the activation), for a loss that takes logits.
    num_threads : int, optional
        As for the layers.
    recompute, memory : optional
        As for the `forward` of the layers: only some of a pass's states are kept, the rest is computed again in
        backward. Where k2 > k1 a pass has two pieces or three, each with a tape of its own. A model of another kind
        must know the arguments.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, the model runs backwards in time, too, or the optimiser has other
        parameters.

    Examples
    --------
    >>> from rnnfast import losses, optim
    >>> model = rnnfast.Model(rnn=rnnfast.LSTM(26, 16, rng=0), head=rnnfast.Dense(16, 26, rng=1))
    >>> optimizer = optim.Adam(model.params, 1e-2)
    >>> trainer = rnnfast.TBPTT(model, losses.softmax_cross_entropy, optimizer, k1=10, k2=20)
    >>> letters = np.arange(1001) % 26
    >>> for x, target in trainer.batches(letters, batch_size=4):
    ...     result = trainer.step(x, target)
    >>> optimizer.steps, result.steps
    (25, 10)
    """

    def __init__(
        self,
        model: Any,
        loss: Loss,
        optimizer: Any,
        *,
        k1: int,
        k2: int | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        nonfinite: NonFinite = "raise",
        logits: bool = False,
        num_threads: int | None = None,
        recompute: int | Literal["auto"] | None = None,
        memory: int | None = None,
    ) -> None:
        self.k1 = _checks.integer("k1", k1)
        self.k2 = _checks.integer("k2", self.k1 if k2 is None else k2)
        if self.k2 < self.k1:
            raise ValueError(f"k2: expected at least k1 = {self.k1}, got {self.k2}")
        if not all(hasattr(model, name) for name in ("forward", "backward", "params", "bidirectional", "batch_first")):
            raise TypeError(f"model: expected a Model, RNN, LSTM or GRU, got {_checks.describe(model)}")
        if not callable(loss):
            raise TypeError(f"loss: expected a callable, got {_checks.describe(loss)}")
        _checks.runs_forwards("model", model)
        if (unfit := getattr(model, "unfit_for_windows", None)) is not None:
            raise ValueError(f"model: expected one with {unfit}; use its forward and backward, and an optimiser")
        if not callable(getattr(optimizer, "step", None)):
            raise TypeError(f"optimizer: expected an optimiser on model.params, got {_checks.describe(optimizer)}")
        if getattr(optimizer, "params", model.params) is not model.params:
            raise ValueError("optimizer: expected one on model.params, got one on other parameters")
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._clip_norm = _bound("clip_norm", clip_norm)
        self._clip_value = _bound("clip_value", clip_value)
        self._nonfinite = _checks.choice("nonfinite", nonfinite, ("raise", "skip", "apply"))
        self._options: dict[str, Any] = {"num_threads": _checks.threads(num_threads)} | (
            {"logits": True} if _checks.truth("logits", logits) else {}
        )
        levels(recompute, memory, 0, 0, lambda _: 0)  # whether they are what they may be
        recomputed: dict[str, Any] = {"recompute": recompute, "memory": memory}
        self._options |= {name: value for name, value in recomputed.items() if value is not None}
        self._time = 1 if model.batch_first else 0
        self._device: Device = model.params.device
        self._gradients = model.params.zeros()
        self._gradients.scratch = True
        self._tapes: list[Tape | None] = []
        self._carried = _Carried()

    @property
    def state(self) -> Any:
        """The carried state, in the model's structure; None is zeros. To set it is to begin anew, from there."""
        return self._carried.state

    @state.setter
    def state(self, state: Any) -> None:
        owned = self._owned("state", state)
        self._carried = self._carried.anew(owned)

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Zero the carried state, so that the next window begins a new sequence.

        Parameters
        ----------
        rows : array_like, optional
            The rows that begin anew: their numbers or a boolean mask [B]. By default all.

        Raises
        ------
        ValueError
            There are no such rows.
        """
        if rows is None:
            self._carried = self._carried.anew(None)
        elif (count := states.rows(self.state)) is not None:
            with self._device.active():
                chosen = self._moved("rows", _checks.rows("rows", rows, count))
                self._carried = self._carried.begin_rows(chosen, self._device.xp)

    def step(
        self,
        x: ArrayLike,
        target: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        following: int | None = None,
        ids: bool | None = None,
        given: Any = None,
        seed: int | None = None,
    ) -> StepResult:
        """Train on one window: one update, or none if the gradient is not finite or every target is masked.

        Parameters
        ----------
        x : array_like
            [T, B, I] or ids [T, B] with 1 <= T <= k1; [B, T, I] or [B, T] if the model is batch-first, and so below.
            The shape can't always tell one from the other: `batches` and ``stateful_batches(..., batch_first=)`` make
            windows of the right layout. A first window with less than k1 steps and k1 rows is refused unless there are
            `lengths` or a state to tell its rows by.
        target : array_like, or mapping from str to array_like
            [T, B, ...], what the loss takes; of several outputs by name, as the loss has it.
        mask : array_like, optional
            [T, B], for the loss.
        resets : array_like of bool, optional
            [T, B]: where new sequences begin.
        lengths : array_like of int, optional
            [B]: steps of the window that are there; the others contribute nothing.
        following : int, optional
            The steps of the next window, where that is known to be less than k1. Matters if k2 > k1: the next
            window's gradient flows back k2 steps only if its size was known.
        ids : bool, optional
            Whether `x` is ids. By default int32 and int64 [T, B] are; those of 8 or 16 bits must be told.
        given : array_like, or mapping from str to array_like, optional
            The extra inputs of the model's cells, as its `forward` takes them, with the axes of `x`.
        seed : int, optional
            Of the cells' random masks, in 0..2**63-1; drawn from `rng` by default, for each forward anew. With one seed
            for all windows of a sequence its masks are those of one forward over the whole: recurrent dropout then
            hides the same units at all of its steps.

        Returns
        -------
        StepResult

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; no parameter and no carried state has changed.
        NonFiniteError
            The gradient is not finite, and `nonfinite` is "raise"; nothing has changed. It is a ValueError and a
            FloatingPointError.
        """
        before, draws = self._carried, self._draws()
        try:
            with self._device.active():
                return self._step(self._window(x, resets, lengths, ids, given), target, mask, following, seed)
        except BaseException:
            if self._carried is before:  # there was no update: dropout has not drawn either
                for generator, state in draws:
                    generator.state = state
            raise

    def _step(self, window: Piece, target: Any, mask: Any, following: Any, seed: Any) -> StepResult:
        weights = self._weights(mask, window)
        target = _by_name("target", target, self._moved)
        following = self.k1 if following is None else min(self.k1, _checks.integer("following", following))
        before, after = self._cut_pass(window, following)

        seeds: dict[str, Any] = {}
        if seed is not None:
            _checks.integer("seed", seed, 0, 2**63 - 1)
            seeds = {"seed": seed, "first_step": self._carried.steps - _pieces.total(self._carried.context)}
        start_state, early = self._forward(before, self._carried.start_state, 0, seeds)
        state, late = self._forward(after, start_state, len(before), seeds)
        y = self._end(early + late, window.steps)
        loss, dy = differentiated(self._loss, y, target, weights)
        self._backward(before + after, dy, self._steps_of(y))
        drop_frozen(self._optimizer, self._gradients)
        norm = self._clip_to_norm()

        if self._nonfinite != "apply" and not math.isfinite(norm):
            if self._nonfinite == "raise":
                raise self._error(window, y, dy, norm)
            self._carried = self._skipped(window)
            return self._result(loss, norm, window, updated=False)
        carried = self._after(window, after, start_state, state)
        if learns := self._has_targets(weights):
            self._update(carried)
        self._carried = carried  # an optimiser of ours has done so in the midst of its step
        return self._result(loss, norm, window, updated=learns)

    def run(
        self,
        x: ArrayLike,
        targets: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        ids: bool | None = None,
        given: Any = None,
        seed: int | None = None,
    ) -> Iterator[StepResult]:
        """Train on whole arrays, window by window; the last window may be shorter.

        The carried state is taken up from what came before and carried on to what comes next: call `reset` for new
        sequences.

        Parameters
        ----------
        x, targets, mask, resets
            As for `step`, of any number of steps: [T, B, ...], or [B, T, ...] if the model is batch-first. Most
            shapes can be either, so nothing tells if the axes were exchanged.
        lengths : array_like of int, optional
            [B]: the rows' whole lengths, 0..T.
        ids, given, seed : optional
            As for `step`; `given` of all steps.

        Yields
        ------
        StepResult
            One per window.

        Raises
        ------
        TypeError, ValueError
            As for `step`; shapes are checked before the first window.
        """
        with self._device.active():
            whole = self._piece(x, resets, lengths, ids, given)
            self._check_rows(whole)
            goals = _by_name("targets", targets, self._device.bring)
            weights = None if mask is None else self._device.bring("mask", mask)
        for name, array in (*_listed("targets", goals), ("mask", weights)):
            if array is not None and array.shape[:2] != whole.x.shape[:2]:
                expected = f"leading axes {list(whole.x.shape[:2])} as in x"
                raise ValueError(f"{name}: expected {expected}, got shape {list(array.shape)}")
        return self._windows(whole, goals, weights, seed)

    def batches(self, stream: ArrayLike, batch_size: int) -> StatefulBatches:
        """Windows of one long stream for this trainer: `stateful_batches` with its `k1` and its model's layout.

        Parameters
        ----------
        stream : array_like, shape [N, ...]
            Ids or features.
        batch_size : int
            B, the number of contiguous rows.

        Returns
        -------
        StatefulBatches
            A sequence of ``(x, target)`` for `step`.

        Raises
        ------
        TypeError, ValueError
            As `stateful_batches`.

        Examples
        --------
        >>> import numpy as np
        >>> from rnnfast import LSTM, TBPTT, losses, optim
        >>> layer = LSTM(2, 4, batch_first=True, rng=0)
        >>> trainer = TBPTT(layer, losses.mean_squared_error, optim.SGD(layer.params, 0.1), k1=5)
        >>> x, target = trainer.batches(np.zeros((31, 2)), 3)[0]
        >>> x.shape
        (3, 5, 2)
        """
        return StatefulBatches(stream, batch_size, self.k1, batch_first=bool(self._time))

    def _windows(self, whole: Piece, targets: Any, mask: Array | None, seed: Any) -> Iterator[StepResult]:
        for start in range(0, whole.steps, self.k1):
            stop = min(start + self.k1, whole.steps)
            piece = whole.cut(start, stop)
            yield self.step(
                piece.x,
                self._cut(targets, start, stop),
                mask=None if mask is None else _pieces.along(mask, start, stop, self._time),
                resets=piece.resets,
                lengths=piece.lengths,
                following=min(self.k1, whole.steps - stop) or None,
                ids=piece.x.ndim == 2,
                given=piece.given,
                seed=seed,
            )

    def state_dict(self) -> dict[str, Any]:
        """What the trainer carries from window to window, as copies on the host: dicts, lists and tuples of arrays and
        None.

        Returns
        -------
        dict
        """
        carried = self._carried
        context = [{name: getattr(piece, name) for name in _KEPT} for piece in carried.context]
        kept = {"state": carried.state, "start_state": carried.start_state, "restart": carried.restart}
        on_host: dict[str, Any] = states.map_arrays(self._on_host, kept)
        context = [states.map_arrays(self._on_host, piece) for piece in context]
        return on_host | {"context": context, "steps": carried.steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Carry on from what `state_dict` returned.

        Parameters
        ----------
        state_dict : mapping
            Of a trainer with the same k1 and k2.

        Raises
        ------
        TypeError, ValueError
            It is not such a mapping; nothing has changed.
        """
        state_dict = {"steps": 0} | dict(_checks.mapping("state_dict", state_dict))  # which older ones lack
        _check_keys("state_dict", state_dict, {"state", "start_state", "context", "restart", "steps"})
        steps = _checks.integer("steps", state_dict["steps"], 0)
        if not isinstance(state_dict["context"], tuple | list):
            raise TypeError(f"context: expected a list, got {_checks.describe(state_dict['context'])}")
        pieces = [{"given": None} | dict(_checks.mapping("context", piece)) for piece in state_dict["context"]]
        for piece in pieces:
            _check_keys("context", piece, set(_KEPT))
        state, start_state = (self._owned(name, state_dict[name]) for name in ("state", "start_state"))
        with self._device.active():
            context = _pieces.joined(
                [self._piece(**piece, ids=getattr(piece["x"], "ndim", 3) == 2) for piece in pieces]
            )
            flags = _checks.flags("restart", state_dict["restart"], (states.rows(state) or 0,), "[B]")
            restart = None if flags is None else self._moved("restart", flags.copy())
        if _pieces.total(context) >= self.k2:
            raise ValueError(
                f"state_dict: expected a context of less than k2 = {self.k2} steps, got one of other k1 and k2"
            )
        self._carried = self._carried.anew(state)._replace(
            start_state=start_state, context=context, restart=restart, steps=steps
        )

    # What comes in

    def _moved(self, name: str, value: Any) -> Any:
        """A caller's array where the model lies; what lies there already, as it came."""
        return self._device.port(value).bring(name, value)

    def _on_host(self, array: Any) -> Any:
        """A copy of an array that lies where the model does."""
        with self._device.active():
            return self._device.to_host(array.copy())

    def _owned(self, name: str, state: Any) -> Any:
        """A copy of a caller's state, where the model lies."""

        def own(array: Any) -> Any:
            taken = self._device.bring(name, array).copy()
            if taken.ndim != 3:
                raise ValueError(f"{name}: expected arrays [L, B, H], got {_checks.describe(array)}")
            return taken

        with self._device.active():
            return states.map_arrays(own, state)

    def _piece(self, x: Any, resets: Any, lengths: Any, ids: Any = None, given: Any = None) -> Piece:
        """Checked arguments, where the model lies; lengths that end nothing are dropped."""
        port = self._device.port(x)
        checks = port.checks
        array = checks.numbers("x", x)
        told = ids if ids is not None or not getattr(self._model, "takes_ids", False) else array.dtype.kind in "iu"
        if array.ndim + _checks.means_ids("x", array, 3, self._model.input_size, told, single=False) != 3:
            raise ValueError(f"x: expected three axes, or integer ids with two, got {_checks.describe(array)}")
        steps, rows = array.shape[self._time], array.shape[1 - self._time]
        flags = checks.flags("resets", resets, array.shape[:2], "[B, T]" if self._time else "[T, B]")
        counts = checks.lengths(lengths, steps, rows)
        if array.ndim == 2:
            array = array.astype(np.int64)
        if not port.direct and array.ndim == 2:  # what can't be seen any more when it is on the device
            checks.ids("x", array.T if self._time else array, self._model.input_size, counts)
        counts = checks.ragged(counts, steps)
        given = _pieces.mapped(lambda value: self._given(port, value, array.shape[:2]), given)
        return Piece(port.enter(array), port.enter(flags), port.enter(counts), self._time, self._device, given)

    def _given(self, port: Port, value: Any, leading: tuple[int, ...]) -> Array:
        """One of the extra inputs, where the model lies; the model checks the rest."""
        array: Array = port.checks.numbers("given", value)
        if array.shape[:2] != leading:
            expected = f"leading axes {list(leading)} as in x"
            raise ValueError(f"given: expected {expected}, got shape {list(array.shape)}")
        entered: Array = port.enter(array)
        return entered

    def _window(self, x: Any, resets: Any, lengths: Any, ids: Any, given: Any = None) -> Piece:
        """A checked window, in which the rows that `reset` was called for begin anew."""
        window = self._piece(x, resets, lengths, ids, given)
        if not 1 <= window.steps <= self.k1:
            raise ValueError(
                f"x: expected 1 to k1 = {self.k1} steps, got {window.steps} in shape {list(window.x.shape)}, "
                f"which is {self._axes}"
            )
        self._check_rows(window)
        if self.state is None and lengths is None and window.steps < self.k1 == window.rows:
            raise ValueError(
                f"x: expected {self._axes}, got shape {list(window.x.shape)}: a first window of less than "
                f"k1 = {self.k1} steps, and as many rows, looks as if its axes were exchanged; for windows that short "
                "choose a lower k1"
            )
        restart = self._carried.restart
        return window if restart is None else window.restarted(restart)

    @property
    def _axes(self) -> str:
        """The axes of a window, for messages."""
        return f"[{'B, T' if self._time else 'T, B'}, ...], the model's batch_first being {bool(self._time)}"

    def _check_rows(self, piece: Piece) -> None:
        carried = states.rows(self.state)
        if carried not in (None, piece.rows):
            raise ValueError(
                f"x: expected {carried} rows, as the carried state has, got {piece.rows} in shape "
                f"{list(piece.x.shape)}, which is {self._axes}; reset() forgets the state"
            )

    def _weights(self, mask: ArrayLike | None, window: Piece) -> Array | None:
        """The mask for the loss: the caller's, and nothing where rows have ended."""
        weights = None if mask is None else self._device.bring("mask", mask)
        if weights is not None:
            _checks.shape("mask", weights, window.x.shape[:2])
        within = window.within()
        if weights is None or within is None:
            return within if weights is None else weights
        return self._device.xp.where(within, weights, weights.dtype.type(0))  # type: ignore[no-any-return]

    # One pass

    def _cut_pass(self, window: Piece, following: int) -> tuple[list[Piece], list[Piece]]:
        """The context and the window, cut in two where the pass of the next window, of `following` steps, starts."""
        pieces = [*self._carried.context, window]
        return _pieces.split(pieces, max(0, _pieces.total(pieces) - (self.k2 - following)))

    def _forward(
        self, pieces: list[Piece], state: Any, first_tape: int, seeds: dict[str, Any]
    ) -> tuple[Any, list[Array]]:
        """The state after the pieces, and the prediction for each; the first step in `seeds` moves along."""
        outputs = []
        for number, piece in enumerate(pieces, first_tape):
            self._tapes += [None] * (number + 1 - len(self._tapes))
            options = self._options | seeds | ({"ids": True} if piece.x.ndim == 2 else {})
            options |= {} if piece.given is None else {"given": piece.given}
            y, state, self._tapes[number] = self._model.forward(
                piece.x, state, resets=piece.resets, lengths=piece.lengths, tape=self._tapes[number], **options
            )
            outputs.append(y)
            if seeds:
                seeds["first_step"] += piece.steps
        return state, outputs

    def _end(self, outputs: list[Any], steps: int) -> Any:
        """The last steps of the outputs, which begin where an output does."""
        first = len(outputs)
        while steps > 0:
            first -= 1
            steps -= self._steps_of(outputs[first])
        own = outputs[first:]
        if len(own) == 1:
            return own[0]
        concatenate, time = self._device.xp.concatenate, self._time
        return states.map_arrays(lambda *parts: concatenate(parts, axis=time), *own)

    def _steps_of(self, y: Any) -> int:
        """The steps of an output, or of outputs by name."""
        return int(next(states.arrays(y)).shape[self._time])

    def _cut(self, arrays: Any, start: int, stop: int) -> Any:
        """Some of the steps of an array, or of arrays by name."""
        return states.map_arrays(lambda array: _pieces.along(array, start, stop, self._time), arrays)

    def _backward(self, pieces: list[Piece], dy: Any, stop: int) -> None:
        """The gradient of the pass into `self._gradients`; the steps of the context have no loss of their own."""
        self._gradients.zero()
        dstate = None
        for tape, piece in reversed(list(zip(self._tapes, pieces, strict=False))):
            own = self._cut(dy, stop - piece.steps, stop) if stop > 0 else None
            grads = self._model.backward(
                tape, own, dstate, into=self._gradients, input_gradient=False, num_threads=self._options["num_threads"]
            )
            dstate = grads.state
            stop -= piece.steps

    def _clip_to_norm(self) -> Any:
        """Scale the gradient to the largest norm; the norm before. One that is not finite scales nothing."""
        limit = math.inf if self._clip_norm is None else self._clip_norm
        return clip_to_norm(self._gradients, limit)

    def _update(self, carried: _Carried) -> None:
        """The optimiser's step, and with it what is carried on: both or none, whatever interrupts."""
        if self._clip_value is not None:
            clip_grad_value(self._gradients, self._clip_value)
        self._gradients.along = ((self, "_carried", carried),)
        self._optimizer.step(self._gradients)

    def _draws(self) -> list[tuple[Any, Any]]:
        """The generators that random masks draw from, and where they stand."""
        parts = getattr(self._model, "parts", {"": self._model}).values()
        generators = [part.rng.bit_generator for part in parts if hasattr(part, "rng")]
        return [(generator, generator.state) for generator in generators]

    def _has_targets(self, weights: Array | None) -> bool:
        """Whether any target counts, as far as one may look."""
        if weights is None or (self._device.waits and self._nonfinite == "apply"):
            return True
        return bool(weights.any())

    # What is carried on

    def _after(self, window: Piece, context: list[Piece], start_state: Any, state: Any) -> _Carried:
        """What is carried out of a window; the next pass starts from `start_state` and repeats `context`."""
        old = self._carried
        carried = old.anew(state)._replace(
            start_state=start_state,
            context=_pieces.joined(context),
            windows=old.windows + 1,
            steps=old.steps + window.steps,
        )
        if old.restart is None or window.lengths is None:
            return carried
        # Rows without a step in this window have not begun anew yet.
        return carried.begin_rows(old.restart & (window.lengths == 0), self._device.xp)

    def _skipped(self, window: Piece) -> _Carried:
        """What is carried past a window that was skipped: what was before, without the sequences that ended in it."""
        old = self._carried
        carried = old._replace(windows=old.windows + 1, skipped=old.skipped + 1)
        if window.resets is None:
            return carried
        within = window.within()
        begun: Any = window.resets if within is None else window.resets & within
        return carried.begin_rows(begun.any(axis=self._time), self._device.xp)

    def _result(self, loss: float, norm: Any, window: Piece, *, updated: bool) -> StepResult:
        return StepResult(loss, norm, window.steps, self.state, updated, self._carried.skipped)

    def _error(self, window: Piece, y: Any, dy: Any, norm: Any) -> NonFiniteError:
        """Names the first array with a number that is not finite, in the order of the computation."""
        within = window.within()
        ended = within is not None and window.x.ndim == 3
        x = self._device.xp.where(within[..., None], window.x, 0) if ended else window.x  # type: ignore[index]
        arrays = [
            ("x", x),
            *(("given", array) for array in states.arrays(window.given)),
            *(("state", array) for array in states.arrays(self._carried.start_state)),
            *self._model.params.items(),
            *_listed("the prediction", y),
            *_listed("the loss's gradient", dy),
            *((f"the gradient of {name}", array) for name, array in self._gradients.items()),
        ]
        found = f"gradient: expected a finite norm, got {float(norm)}"
        for name, array in arrays:
            values = np.asarray(self._device.to_host(array))
            if not (finite := np.isfinite(values)).all():
                where = tuple(map(int, np.argwhere(~finite)[0]))
                found = f"{name}: expected finite numbers, got {values[where]} at {list(where)}"
                break
        return NonFiniteError(
            f"{found}, in window {self._carried.windows} of this trainer (the first is 0); no update was made, and "
            "nothing has changed (nonfinite='skip' would go on with the next window)"
        )


def differentiated(loss: Loss, y: Any, target: Any, weights: Any) -> tuple[float, Any]:
    """The loss and its gradient, or those of outputs by name; checked, because it may be the caller's own function."""
    result = loss(y, target) if weights is None else loss(y, target, mask=weights)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(f"loss: expected it to return (loss, gradient), got {_checks.describe(result)}")
    if not isinstance(y, Mapping):
        return result[0], _gradient("the loss's gradient", result[1], y)
    name = "the loss's gradient"
    if not isinstance(result[1], Mapping) or not set(result[1]) <= set(y):
        raise TypeError(f"{name}: expected a mapping with names among {list(y)}, got {_checks.describe(result[1])}")
    return result[0], {key: _gradient(f"{name}[{key!r}]", dy, y[key]) for key, dy in result[1].items()}


def _gradient(name: str, dy: Any, y: Array) -> Array:
    """A gradient that lies where the output does."""
    array: Array = holder(y).checks.numbers(name, dy)
    _checks.shape(name, array, y.shape)
    return array


def _by_name(name: str, value: Any, bring: Callable[[str, Any], Any]) -> Any:
    """A caller's array, or arrays by name, brought in."""
    if not isinstance(value, Mapping):
        return bring(name, value)
    return {key: bring(f"{name}[{key!r}]", array) for key, array in value.items()}


def _listed(name: str, value: Any) -> list[tuple[str, Any]]:
    """An array, or arrays by name, each with its own."""
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [(f"{name}[{key!r}]", array) for key, array in value.items()]


class StatefulBatches:
    """One long stream as B rows that are read side by side, window by window; see `stateful_batches`."""

    def __init__(self, stream: ArrayLike, batch_size: int, k1: int, *, batch_first: bool = False) -> None:
        self._batch_first = _checks.truth("batch_first", batch_first)
        device = holder(stream)
        with device.active():
            array = device.checks.numbers("stream", stream)
        rows, self._k1 = _checks.integer("batch_size", batch_size), _checks.integer("k1", k1)
        if array.ndim < 1 or len(array) <= rows:
            raise ValueError(f"stream: expected more than batch_size = {rows} elements, got shape {list(array.shape)}")
        self._length = (len(array) - 1) // rows
        end = rows * self._length
        self._x, self._target = (
            part.reshape(rows, self._length, *array.shape[1:]) for part in (array[:end], array[1 : end + 1])
        )

    def __len__(self) -> int:
        return -(-self._length // self._k1)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        start = range(0, self._length, self._k1)[index]
        x, target = (part[:, start : start + self._k1] for part in (self._x, self._target))
        if not self._batch_first:
            x, target = x.swapaxes(0, 1), target.swapaxes(0, 1)
        with holder(x).active():
            return x.copy(order="C"), target.copy(order="C")

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return (self[index] for index in range(len(self)))


def stateful_batches(stream: ArrayLike, batch_size: int, k1: int, *, batch_first: bool = False) -> StatefulBatches:
    """Cut one long stream into rows for stateful training: row b of a window goes on where row b of the window before
    stopped.

    `TBPTT.batches` does the same with the trainer's own `k1` and its model's layout, so that they can't differ.

    Parameters
    ----------
    stream : array_like, shape [N, ...]
        Ids or features; on a CUDA device the windows lie there too.
    batch_size : int
        B: the number of contiguous rows. Each has (N - 1) // B steps; at most B - 1 elements at the end of the stream
        have no place.
    k1 : int
        Steps per window; the last window is shorter if the rows don't divide.
    batch_first : bool
        As the model has it: windows [B, T, ...].

    Returns
    -------
    StatefulBatches
        A sequence (it has a length and an index, and can be gone through again) of ``(x, target)``, each [T, B, ...],
        or [B, T, ...] with `batch_first`; the target is the stream one step on.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, or the stream is too short for so many rows.

    Examples
    --------
    >>> from rnnfast.tbptt import stateful_batches
    >>> for x, target in stateful_batches(np.arange(9), 2, 3):
    ...     print(x.T.tolist(), target.T.tolist())
    [[0, 1, 2], [4, 5, 6]] [[1, 2, 3], [5, 6, 7]]
    [[3], [7]] [[4], [8]]
    """
    return StatefulBatches(stream, batch_size, k1, batch_first=batch_first)


_KEPT = ("x", "resets", "lengths", "given")  # of a piece, in a state dictionary


def _check_keys(name: str, value: Any, keys: set[str]) -> None:
    if (found := set(_checks.mapping(name, value))) != keys:
        raise ValueError(f"{name}: expected the keys {sorted(keys)}, got {sorted(map(str, found))}")


def _bound(name: str, value: Any) -> float | None:
    bound = None if value is None else _checks.limit(name, value)
    if bound == 0:
        raise ValueError(f"{name}: expected a number > 0 or None, got {value}")
    return bound
