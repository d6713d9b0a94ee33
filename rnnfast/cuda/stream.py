"""A layer on the device as a stream: it keeps its state there and runs step by step.

It has the methods of `rnnfast.stream.Stream`, and calls the layer's kernels at once: no tape, no masks, and the weights
prepared once. A step is two launches: the input product, and the recurrence. Two states take turns; the one that a call
has not finished is never seen.

Rejected: a CUDA graph of the step (the caller's x and out lie elsewhere in each call, and copying them into the graph's
own takes as long as the launches that it saves).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

from .. import _checks
from .._axes import STEP
from .._call import ForwardCall
from .._part import panels_of

__all__ = ["DeviceStream"]

Array = Any  # a device array


class DeviceStream:
    """A recurrent layer on a CUDA device that keeps its state from call to call.

    Made by `layer.stream()`. Its weights are those of that moment: later updates of the layer do not reach it until
    `refresh` is called; `stale` says whether there were any. It takes
    arrays as its layer does: what lies on the device is used there and answered there, without a wait; NumPy arrays are
    moved over, and the answer back. A stream serves one thread at a time, may be copied, and cannot be pickled.

    Parameters
    ----------
    recurrence : Recurrence
        A layer's.
    batch_size : int
    weights : str or None
        "float32" or None: what else is multiplied in, the layer's `precision` says.

    Attributes
    ----------
    batch_size, input_size, hidden_size, num_layers : int
        B, I, H and L.
    dtype : numpy.dtype
        Of inputs, outputs and state.
    weights : str
        How the weights are stored: "float32".
    version : int
        The `version` of the layer's `params` that the weights were taken from.
    stale : bool
        Whether the layer's parameters have changed since.
    state : array or tuple of arrays
        The state on the device, [L, B, H], or the tuple (h, c) of an LSTM; reading gives a copy, setting is checked as
        a layer's `state` is ([L, H] will do if B = 1).

    Raises
    ------
    ValueError
        The weights are asked for in another form.
    """

    def __init__(self, recurrence: Any, batch_size: int, weights: str | None = None) -> None:
        if weights not in (None, "float32"):
            raise ValueError(f"weights: expected 'float32' on a CUDA device, where precision= decides; got {weights!r}")
        self.batch_size, self.weights = batch_size, "float32"
        layout = recurrence.layout
        self.input_size, self.hidden_size, self.num_layers = layout.input_size, layout.hidden_size, layout.num_layers
        self.dtype: np.dtype[Any] = recurrence.dtype
        self._recurrence, self._device, self._layout = recurrence, recurrence.device, layout
        self._lock = Lock()
        with self._device.active():
            self._take_weights()
            self._state = self._initial()
            self._next = self._initial()

    def _take_weights(self) -> None:
        packed = self._recurrence.walk.packed()
        version, panels = panels_of(packed)
        layers = list(zip([one.kernel for one in packed], panels, strict=True))
        prepared = self._prepare(layers)
        self.version, self._layers, self._prepared = version, layers, prepared
        self._params = packed[0].params

    def refresh(self) -> None:
        """Take the layer's present weights; the state is kept.

        Raises
        ------
        RuntimeError
            Another thread is inside this stream.
        """
        with self._alone():
            self._take_weights()

    @property
    def stale(self) -> bool:
        """See the class."""
        return bool(self._params.version != self.version)

    def _prepare(self, layers: list[tuple[Any, Array]]) -> list[Any]:
        return [kernel.prepare(panels, self.batch_size) for kernel, panels in layers]

    def _initial(self) -> tuple[Array, ...]:
        """What the state starts from."""
        shape, states = (self.num_layers, self.batch_size), []
        for state, width in zip(self._layout.program.states, self._layout.state_widths, strict=True):
            states.append(self._device.zeros((*shape, width), self.dtype))
            if state.initial:
                states[-1].fill(state.initial)
        return tuple(states)

    def __repr__(self) -> str:
        return (
            f"DeviceStream(batch_size={self.batch_size}, input_size={self.input_size}, "
            f"hidden_size={self.hidden_size}, num_layers={self.num_layers}, device={self._device!r})"
        )

    def __reduce__(self) -> Any:
        raise TypeError("DeviceStream: cannot be pickled; pickle the layer and the stream's state")

    def step(self, x: Any, out: Any = None, *, ids: bool | None = None) -> Any:
        """One step.

        Parameters
        ----------
        x : array, shape [B, I], or [I] if B = 1
            The input; or integer ids, [B] or of no axes, that stand for one-hot vectors.
        out : array, shape [B, H], or [H] where `x` is [I] or one id, optional
            Where to write the result: of the stream's dtype, C-contiguous, where `x` lies, sharing no memory with it.
        ids : bool, optional
            Whether `x` is ids, as for a layer.

        Returns
        -------
        array
            The last layer's hidden state; `out`, if given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape; nothing is written and the state is as it was.
        RuntimeError
            Another thread is inside this stream.
        """
        return self._walk("x", x, out, ids, time=False)

    def process(self, block: Any, out: Any = None, *, ids: bool | None = None) -> Any:
        """Many steps.

        Parameters
        ----------
        block : array, shape [T, B, I] ([B, T, I] if the layer is batch_first), or [T, I] if B = 1
            The inputs; or integer ids without the last axis.
        out : array, shape of the result, optional
            As for `step`.
        ids : bool, optional
            Whether `block` is ids, as for a layer.

        Returns
        -------
        array, shape [T, B, H] ([B, T, H] if batch_first), or [T, H]
            The last layer's hidden states; `out`, if given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape; nothing is written and the state is as it was.
        RuntimeError
            Another thread is inside this stream.
        """
        return self._walk("block", block, out, ids, time=True)

    def reset(self, rows: Any = None) -> None:
        """Zero the state.

        Parameters
        ----------
        rows : array_like, optional
            The rows that begin anew: their numbers or a boolean mask [B]. By default all.

        Raises
        ------
        TypeError, ValueError
            There are no such rows.
        """
        chosen = None if rows is None else np.flatnonzero(_checks.rows("rows", rows, self.batch_size)).tolist()
        with self._alone():
            for array, state in zip(self._state, self._layout.program.states, strict=True):
                for row in [slice(None)] if chosen is None else chosen:
                    array[:, row] = state.initial

    @property
    def state(self) -> Any:
        """The state; see the class."""
        with self._alone():
            copies = tuple(array.copy() for array in self._state)
        return copies if len(copies) > 1 else copies[0]

    @state.setter
    def state(self, value: Any) -> None:
        first = value[0] if len(self._state) > 1 and isinstance(value, tuple | list) and value else value
        with self._alone():
            port = self._device.port(first)
            batched = port.checks.numbers("state", first).ndim == 3 or self.batch_size > 1
            checked = self._recurrence.check_states(port.checks, "state", value, self.batch_size, batched)
            for own, given in zip(self._state, port.enter(checked), strict=True):
                own[...] = given

    def copy(self) -> DeviceStream:
        """A stream with this one's weights and state, which goes its own way.

        Returns
        -------
        DeviceStream
        """
        other = object.__new__(DeviceStream)
        with self._alone():
            vars(other).update(vars(self))
            other._state = tuple(array.copy() for array in self._state)
            other._next = self._initial()
            other._prepared = other._prepare(other._layers)  # the ring is one stream's
        other._lock = Lock()
        return other

    def __copy__(self) -> DeviceStream:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> DeviceStream:
        return self.copy()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """On the device, and the only one in this stream."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "another thread is inside this stream: a stream serves one at a time; give each its copy()"
            )
        try:
            with self._device.active():
                yield
        finally:
            self._lock.release()

    def _walk(self, name: str, x: Any, out: Any, ids: Any, *, time: bool) -> Any:
        with self._alone():
            port = self._device.port(x)
            sequence, batched = self._check(port.checks, name, x, ids, time)
            shape = (*sequence.shape[:2], self._layout.features)
            result = self._outside(shape, batched, time)
            if out is not None:
                port.checks.output("out", out, result, self.dtype, [(name, sequence)])
            y = out if out is not None and port.direct else self._device.result(result, self.dtype)
            self._run(port.enter(sequence), self._inside(y, batched, time))
            return port.leave(y, out)

    def _run(self, x: Array, y: Array) -> None:
        """From the state that is into the other one, which is the state when all is launched."""
        if not len(x):
            return
        last = self.num_layers - 1
        for k, (kernel, panels) in enumerate(self._layers):
            target = y if k == last else self._device.empty(y.shape, self.dtype)
            before, after = (tuple([array[k] for array in arrays]) for arrays in (self._state, self._next))
            y_of_states = (target, *(None,) * (len(before) - 1))
            kernel.forward(ForwardCall(panels, x, y_of_states, before, after), prepared=self._prepared[k])
            x = target
        self._state, self._next = self._next, self._state

    def _check(self, checks: Any, name: str, x: Any, ids: Any, time: bool) -> tuple[Array, bool]:
        """The time-major view [T, B, I], or ids [T, B], and whether `x` has an axis for the batch."""
        array = checks.numbers(name, x)
        rank, features, rows = 2 + time, self.input_size, self.batch_size
        is_ids = _checks.means_ids(name, array, rank, features, ids, single=rows == 1)
        batched = array.ndim + is_ids == rank
        if batched or array.ndim + is_ids == rank - 1:
            sequence = self._inside(array, batched, time)
            if is_ids and sequence.shape[1] == rows:
                return checks.ids(name, sequence, features, None), batched
            if not is_ids and sequence.shape[1:] == (rows, features):
                return checks.real(name, sequence, self.dtype), batched
        axes = self._axes(time).letters()
        expected = f"{axes} with B={rows}, I={features}, or integer ids without the I axis"
        raise ValueError(f"{name}: expected {expected}; got {_checks.describe(array)}")

    def _axes(self, time: bool) -> Any:
        return self._recurrence.axes if time else STEP

    def _inside(self, array: Array, batched: bool, time: bool) -> Array:
        """The time-major view with all axes of a caller's array."""
        return self._axes(time).view(array, batched)

    def _outside(self, shape: tuple[int, int, int], batched: bool, time: bool) -> tuple[int, ...]:
        """The shape of a caller's result."""
        shape_of: tuple[int, ...] = self._axes(time).shape(*shape, batched=batched)
        return shape_of
