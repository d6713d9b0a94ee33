"""Truncated backpropagation through time: windows, the carried state, and where gradients stop.

A) An update is made after every window of (at most) k1 steps; its gradient flows back k2 >= k1 steps. The update
   after the steps `[begin, end)` is the gradient of the loss of those steps as a function of a pass over `[start,
   end)`, `start = max(0, end - k2)`. The state carried to `start` is a constant: the one that the previous window's
   pass, with the parameters it had, computed there.
B) So each pass is cut where the next window's pass will start. Every piece has its tape, and backward runs from the
   last piece to the first into one `Gradients`. Chunking changes no bit, hence neither does the cut; with k1 = k2 = T
   there is one piece, and this is full BPTT, bitwise.
C) Between windows the trainer keeps the inputs and masks that the next pass repeats (the *context*, less than k2
   steps) as pieces which each have one set of lengths. A row that ends within one window and goes on in the next
   can't be described by one set, so such windows stay separate pieces; all others are joined, and a pass has three
   pieces at most.
D) Memory is bounded by k2: the tapes are handed back for reuse, and all windows share one `Gradients`.
E) With a model on a CUDA device all of this lies there. NumPy windows are moved over when they come; nothing is read
   back but the loss, so `grad_norm` and `state` are device arrays. Lengths that lie on the device are not looked at,
   and pieces with any are not joined.

Rejected: keeping the previous window's tapes and running only the new steps (cheaper, but half of the pass would
belong to older parameters, and the result would be the gradient of nothing); a flag on the state that detaches it
(the caller would have to remember).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks
from ._device import Device, holder
from .diagnostics import gradient_norm_by_distance
from .optim import clip_grad_value
from .tape import Tape

__all__ = ["TBPTT", "StatefulBatches", "StepResult", "gradient_norm_by_distance", "stateful_batches"]

Array = NDArray[Any]
Loss = Callable[..., tuple[float, Array]]


class StepResult(NamedTuple):
    """What one update was.

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
    """

    loss: float
    grad_norm: Any
    steps: int
    state: Any


class _Piece(NamedTuple):
    """Consecutive steps that one forward call can take."""

    x: Array
    resets: Array | None
    lengths: Array | None
    steps: int


class TBPTT:
    """Trains a model by truncated backpropagation through time and owns the state that is carried along.

    Parameters
    ----------
    model : Model, RNN, LSTM or GRU
        In one direction; calls are batched.
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
    logits : bool
        Hand ``logits=True`` to the model (its head then skips the activation), for a loss that takes logits.
    num_threads : int, optional
        As for the layers.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, the model is bidirectional, or the optimiser has other parameters.
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
        logits: bool = False,
        num_threads: int | None = None,
    ) -> None:
        self.k1 = _checks.integer("k1", k1)
        self.k2 = _checks.integer("k2", self.k1 if k2 is None else k2)
        if self.k2 < self.k1:
            raise ValueError(f"k2: expected at least k1 = {self.k1}, got {self.k2}")
        if not all(hasattr(model, name) for name in ("forward", "backward", "params", "bidirectional", "batch_first")):
            raise TypeError(f"model: expected a Model, RNN, LSTM or GRU, got {_checks.describe(model)}")
        if not callable(loss):
            raise TypeError(f"loss: expected a callable, got {_checks.describe(loss)}")
        if model.bidirectional:
            raise ValueError(
                "model: expected layers in one direction, got a bidirectional one, whose state can't be carried on"
            )
        if not callable(getattr(optimizer, "step", None)):
            raise TypeError(f"optimizer: expected an optimiser on model.params, got {_checks.describe(optimizer)}")
        if getattr(optimizer, "params", model.params) is not model.params:
            raise ValueError("optimizer: expected one on model.params, got one on other parameters")
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._clip_norm = _bound("clip_norm", clip_norm)
        self._clip_value = _bound("clip_value", clip_value)
        self._options: dict[str, Any] = {"num_threads": _checks.threads(num_threads)} | (
            {"logits": True} if _checks.truth("logits", logits) else {}
        )
        self._time = 1 if model.batch_first else 0
        self._device: Device = model.params.device
        self._gradients = model.params.zeros()
        self._tapes: list[Tape] = []
        self._forget(None)

    def _forget(self, state: Any) -> None:
        """Begin anew from a state."""
        self._state = self._start_state = state
        self._context: list[_Piece] = []
        self._restart: NDArray[np.bool_] | None = None

    @property
    def state(self) -> Any:
        """The carried state, in the model's structure; None is zeros. To set it is to begin anew, from there."""
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        owned = self._owned(state)
        _rows(owned)
        self._forget(owned)

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
            self._forget(None)
            return
        count = _rows(self._state)
        if count is None:
            return
        with self._device.active():
            self._begin_rows(self._moved("rows", _checks.rows("rows", rows, count)))

    def _owned(self, state: Any) -> Any:
        """A copy of a caller's state, where the model lies."""

        def own(array: Any) -> Any:
            port = self._device.port(array)
            return copy.deepcopy(array) if port.direct else port.bring("state", array)

        with self._device.active():
            return _map_state(own, state)

    def _moved(self, name: str, value: Any) -> Any:
        """A caller's array where the model lies; what lies there already, as it came."""
        return self._device.port(value).bring(name, value)

    def _begin_rows(self, fresh: NDArray[np.bool_]) -> None:
        """Zero the carried state of rows; passes that begin earlier will zero it when they come to this point."""
        where = self._device.xp.where
        self._state = _map_state(lambda a: where(fresh[:, None], a.dtype.type(0), a), self._state)
        if self._context:
            self._restart = fresh if self._restart is None else self._restart | fresh
        else:
            self._start_state = self._state

    def step(
        self,
        x: ArrayLike,
        target: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        following: int | None = None,
    ) -> StepResult:
        """Train on one window: one update.

        Parameters
        ----------
        x : array_like
            [T, B, I] or ids [T, B] with 1 <= T <= k1 (first two axes swapped if the model is batch-first; so below).
        target : array_like
            [T, B, ...], what the loss takes.
        mask : array_like, optional
            [T, B], for the loss.
        resets : array_like of bool, optional
            [T, B]: where new sequences begin.
        lengths : array_like of int, optional
            [B]: steps of the window that are there; the others contribute nothing.
        following : int, optional
            The steps of the next window, where that is known to be less than k1. Matters if k2 > k1: the next
            window's gradient flows back k2 steps only if its size was known.

        Returns
        -------
        StepResult

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; no parameter and no carried state has changed.
        """
        with self._device.active():
            return self._step(x, target, mask, resets, lengths, following)

    def _step(self, x: Any, target: Any, mask: Any, resets: Any, lengths: Any, following: Any) -> StepResult:
        window = self._piece(x, resets, lengths)
        if not 1 <= window.steps <= self.k1:
            raise ValueError(f"x: expected 1 to k1 = {self.k1} steps, got {window.steps}")
        self._check_rows(window)
        weights, target = self._weights(mask, window), self._moved("target", target)
        following = self.k1 if following is None else min(self.k1, _checks.integer("following", following))
        before, after = self._pieces(self._restarted(window), following)
        y, state, start_state = self._forward(before, after, window.steps)
        result = self._loss(y, target) if weights is None else self._loss(y, target, mask=weights)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise TypeError(f"loss: expected it to return (loss, gradient), got {_checks.describe(result)}")
        loss, dy = result
        dy = self._device.checks.numbers("the loss's gradient", dy)
        _checks.shape("the loss's gradient", dy, y.shape)
        self._backward(before + after, dy)
        norm = self._update()
        waiting = self._restart
        self._state, self._start_state, self._context, self._restart = state, start_state, self._joined(after), None
        if waiting is not None and window.lengths is not None:
            self._begin_rows(waiting & (window.lengths == 0))  # rows that had no step at which to begin anew
        return StepResult(loss, norm, window.steps, self._state)

    def run(
        self,
        x: ArrayLike,
        targets: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> Iterator[StepResult]:
        """Train on whole arrays, window by window; the last window may be shorter.

        The carried state is taken up from what came before and carried on to what comes next: call `reset` for new
        sequences.

        Parameters
        ----------
        x, targets, mask, resets
            As for `step`, of any number of steps.
        lengths : array_like of int, optional
            [B]: the rows' whole lengths, 0..T.

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
            whole = self._piece(x, resets, lengths)
            goals = self._device.bring("targets", targets)
            weights = None if mask is None else self._device.bring("mask", mask)
        self._check_rows(whole)
        for name, array in (("targets", goals), ("mask", weights)):
            if array is not None and array.shape[:2] != whole.x.shape[:2]:
                expected = f"leading axes {list(whole.x.shape[:2])} as in x"
                raise ValueError(f"{name}: expected {expected}, got shape {list(array.shape)}")
        return self._windows(whole, goals, weights)

    def _windows(self, whole: _Piece, targets: Array, mask: Array | None) -> Iterator[StepResult]:
        for start in range(0, whole.steps, self.k1):
            stop = min(start + self.k1, whole.steps)
            piece = self._cut(whole, start, stop)
            yield self.step(
                piece.x,
                _steps(targets, start, stop, self._time),
                mask=None if mask is None else _steps(mask, start, stop, self._time),
                resets=piece.resets,
                lengths=piece.lengths,
                following=min(self.k1, whole.steps - stop) or None,
            )

    def state_dict(self) -> dict[str, Any]:
        """What the trainer carries from window to window, as copies on the host: dicts, lists and tuples of arrays and
        None.

        Returns
        -------
        dict
        """
        context = [{"x": piece.x, "resets": piece.resets, "lengths": piece.lengths} for piece in self._context]
        carried = {"state": self._state, "start_state": self._start_state, "context": context, "restart": self._restart}
        return copy.deepcopy(_map_state(self._device.to_host, carried))

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
        _check_keys("state_dict", state_dict, {"state", "start_state", "context", "restart"})
        if not isinstance(state_dict["context"], tuple | list):
            raise TypeError(f"context: expected a list, got {_checks.describe(state_dict['context'])}")
        for piece in state_dict["context"]:
            _check_keys("context", piece, {"x", "resets", "lengths"})
        carried = copy.deepcopy(dict(state_dict))
        rows, _ = _rows(carried["state"]), _rows(carried["start_state"])
        with self._device.active():
            context = [self._piece(**piece) for piece in carried["context"]]
            restart = self._moved("restart", _checks.flags("restart", carried["restart"], (rows or 0,), "[B]"))
        if sum(piece.steps for piece in context) >= self.k2:
            raise ValueError(
                f"state_dict: expected a context of less than k2 = {self.k2} steps, got one of other k1 and k2"
            )
        self._forget(self._owned(carried["state"]))
        self._start_state, self._context, self._restart = self._owned(carried["start_state"]), context, restart

    # One pass

    def _piece(self, x: ArrayLike, resets: ArrayLike | None, lengths: ArrayLike | None) -> _Piece:
        """Checked arguments, where the model lies; lengths that end nothing are dropped."""
        port = self._device.port(x)
        checks = port.checks
        array = checks.numbers("x", x)
        if array.ndim != (2 if array.dtype.kind in "iu" and array.ndim == 2 else 3):
            raise ValueError(f"x: expected three axes, or integer ids with two, got {_checks.describe(array)}")
        steps, rows = array.shape[self._time], array.shape[1 - self._time]
        flags = checks.flags("resets", resets, array.shape[:2], "[B, T]" if self._time else "[T, B]")
        counts = checks.lengths(lengths, steps, rows)
        if not port.direct and array.ndim == 2:  # what can't be seen any more when it is on the device
            checks.ids("x", array.T if self._time else array, self._model.input_size, counts)
        counts = checks.ragged(counts, steps)
        return _Piece(port.enter(array), port.enter(flags), port.enter(counts), steps)

    def _check_rows(self, piece: _Piece) -> None:
        rows, carried = piece.x.shape[1 - self._time], _rows(self._state)
        if carried not in (None, rows):
            raise ValueError(f"x: expected {carried} rows, as the carried state has, got {rows}; reset() forgets it")

    def _restarted(self, window: _Piece) -> _Piece:
        """The window, with resets at its first step for the rows that `reset` was called for."""
        if self._restart is None:
            return window
        fresh = self._device.xp.expand_dims(self._restart, self._time)
        resets = self._device.zeros(window.x.shape[:2], np.bool_)
        if window.resets is not None:
            resets[...] = window.resets
        _steps(resets, 0, 1, self._time)[...] |= fresh
        return window._replace(resets=resets)

    def _pieces(self, window: _Piece, following: int) -> tuple[list[_Piece], list[_Piece]]:
        """The context and the window, cut in two where the pass of the next window, of `following` steps, starts."""
        pieces = [*self._context, window]
        before: list[_Piece] = []
        left = max(0, sum(piece.steps for piece in pieces) - (self.k2 - following))
        while left:
            piece = pieces.pop(0)
            if piece.steps > left:
                pieces.insert(0, self._cut(piece, left, piece.steps))
                piece = self._cut(piece, 0, left)
            before.append(piece)
            left -= piece.steps
        return before, pieces

    def _forward(self, before: list[_Piece], after: list[_Piece], window_steps: int) -> tuple[Array, Any, Any]:
        """The window's prediction, the state after it, and the state between `before` and `after`."""
        pieces = before + after
        to_come = sum(piece.steps for piece in pieces)
        outputs = []
        state = start_state = self._start_state
        for number, piece in enumerate(pieces):
            old = self._tapes[number] if number < len(self._tapes) else None
            y, state, tape = self._model.forward(
                piece.x, state, resets=piece.resets, lengths=piece.lengths, tape=old, **self._options
            )
            if old is None:
                self._tapes.append(tape)
            if number + 1 == len(before):
                start_state = state
            if to_come <= window_steps:
                outputs.append(y)
            to_come -= piece.steps
        y = outputs[0] if len(outputs) == 1 else self._device.xp.concatenate(outputs, axis=self._time)
        return y, state, start_state

    def _backward(self, pieces: list[_Piece], dy: Array) -> None:
        """The gradient of the pass into `self._gradients`; the steps of the context have no loss of their own."""
        self._gradients.zero()
        dstate = None
        stop = dy.shape[self._time]
        for tape, piece in reversed(list(zip(self._tapes, pieces, strict=False))):
            own = _steps(dy, stop - piece.steps, stop, self._time) if stop > 0 else None
            grads = self._model.backward(
                tape, own, dstate, into=self._gradients, input_gradient=False, num_threads=self._options["num_threads"]
            )
            dstate = grads.state
            stop -= piece.steps

    def _update(self) -> Any:
        """Clip and step; the norm before clipping."""
        limit = math.inf if self._clip_norm is None else self._clip_norm
        norm = self._device.clip_norm(self._gradients.flat, limit)
        if self._clip_value is not None:
            clip_grad_value(self._gradients, self._clip_value)
        self._optimizer.step(self._gradients)
        return norm

    def _joined(self, pieces: list[_Piece]) -> list[_Piece]:
        """The pieces joined where one call can take them; copies, because the caller may use the arrays again."""
        groups: list[list[_Piece]] = []
        for piece in pieces:
            if groups and self._joinable(groups[-1][-1], piece):
                groups[-1].append(piece)
            else:
                groups.append([piece])
        return [self._join(group) for group in groups]

    # Pieces

    def _cut(self, piece: _Piece, start: int, stop: int) -> _Piece:
        """Some of a piece's steps, as views."""
        resets = None if piece.resets is None else _steps(piece.resets, start, stop, self._time)
        lengths = None if piece.lengths is None else self._device.xp.clip(piece.lengths - start, 0, stop - start)
        return _Piece(_steps(piece.x, start, stop, self._time), resets, lengths, stop - start)

    def _joinable(self, a: _Piece, b: _Piece) -> bool:
        """Whether one call can take both: no row goes on after it had ended, as far as it can be told."""
        if a.x.ndim != b.x.ndim or a.x.dtype != b.x.dtype:
            return False
        if a.lengths is None or self._device.waits:
            return a.lengths is None
        goes_on = True if b.lengths is None else b.lengths > 0
        return not np.any((a.lengths < a.steps) & goes_on)

    def _join(self, pieces: list[_Piece]) -> _Piece:
        device, axis = self._device, self._time
        x = device.xp.concatenate([piece.x for piece in pieces], axis=axis)
        resets = lengths = None
        if any(piece.resets is not None for piece in pieces):
            with_resets = [
                device.zeros(piece.x.shape[:2], np.bool_) if piece.resets is None else piece.resets for piece in pieces
            ]
            resets = device.xp.concatenate(with_resets, axis=axis)
        if any(piece.lengths is not None for piece in pieces):
            lengths = device.zeros((x.shape[1 - axis],), np.int64)
            for piece in pieces:
                lengths += piece.steps if piece.lengths is None else piece.lengths
        return _Piece(x, resets, lengths, x.shape[axis])

    def _weights(self, mask: ArrayLike | None, window: _Piece) -> Array | None:
        """The mask for the loss: the caller's, and nothing where rows have ended."""
        weights = None if mask is None else self._device.bring("mask", mask)
        if weights is not None:
            _checks.shape("mask", weights, window.x.shape[:2])
        if window.lengths is None:
            return weights
        xp, axis = self._device.xp, self._time
        steps = self._device.arange(window.steps)
        active: Array = xp.expand_dims(steps, 1 - axis) < xp.expand_dims(window.lengths, axis)
        return active if weights is None else xp.where(active, weights, weights.dtype.type(0))


class StatefulBatches:
    """One long stream as B rows that are read side by side, window by window; see `stateful_batches`."""

    def __init__(self, stream: ArrayLike, batch_size: int, k1: int) -> None:
        array = holder(stream).checks.numbers("stream", stream)
        rows, self._k1 = _checks.integer("batch_size", batch_size), _checks.integer("k1", k1)
        if array.ndim < 1 or len(array) <= rows:
            raise ValueError(f"stream: expected more than batch_size = {rows} elements, got shape {list(array.shape)}")
        self._length = (len(array) - 1) // rows
        end = rows * self._length
        self._x, self._target = (
            part.reshape(rows, self._length, *array.shape[1:]).swapaxes(0, 1)
            for part in (array[:end], array[1 : end + 1])
        )

    def __len__(self) -> int:
        return -(-self._length // self._k1)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        start = range(0, self._length, self._k1)[index]
        x, target = (part[start : start + self._k1].copy(order="C") for part in (self._x, self._target))
        return x, target

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return (self[index] for index in range(len(self)))


def stateful_batches(stream: ArrayLike, batch_size: int, k1: int) -> StatefulBatches:
    """Cut one long stream into rows for stateful training: row b of a window goes on where row b of the window before
    stopped.

    Parameters
    ----------
    stream : array_like, shape [N, ...]
        Ids or features; on a CUDA device the windows lie there too.
    batch_size : int
        B: the number of contiguous rows. Each has (N - 1) // B steps; at most B - 1 elements at the end of the stream
        have no place.
    k1 : int
        Steps per window; the last window is shorter if the rows don't divide.

    Returns
    -------
    StatefulBatches
        A sequence (it has a length and an index, and can be gone through again) of ``(x, target)``, each [T, B, ...];
        the target is the stream one step on.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, or the stream is too short for so many rows.
    """
    return StatefulBatches(stream, batch_size, k1)


# Arrays and states along time


def _steps(array: Array, start: int, stop: int, axis: int) -> Array:
    """A view of some steps."""
    return array[:, start:stop] if axis else array[start:stop]


def _leaves(state: Any) -> Iterator[Any]:
    """The arrays of a state, whatever its structure."""
    if isinstance(state, Mapping | tuple):
        for part in state.values() if isinstance(state, Mapping) else state:
            yield from _leaves(part)
    elif state is not None:
        yield state if hasattr(state, "shape") else _checks.numbers("state", state)


def _map_state(function: Callable[[Any], Any], state: Any) -> Any:
    """A state of the same structure, made array by array."""
    if isinstance(state, Mapping):
        return {name: _map_state(function, part) for name, part in state.items()}
    if isinstance(state, tuple | list):
        return type(state)(_map_state(function, part) for part in state)
    return None if state is None else function(state)


def _rows(state: Any) -> int | None:
    """The rows of a batched state [L*D, B, H]; None where there is no array to tell by."""
    array = next(_leaves(state), None)
    if array is not None and len(array.shape) < 3:
        raise ValueError(f"state: expected arrays [L, B, H], got {_checks.describe(array)}")
    return None if array is None else int(array.shape[-2])


def _check_keys(name: str, value: Any, keys: set[str]) -> None:
    if (found := set(_checks.mapping(name, value))) != keys:
        raise ValueError(f"{name}: expected the keys {sorted(keys)}, got {sorted(map(str, found))}")


def _bound(name: str, value: Any) -> float | None:
    bound = None if value is None else _checks.limit(name, value)
    if bound == 0:
        raise ValueError(f"{name}: expected a number > 0 or None, got {value}")
    return bound
