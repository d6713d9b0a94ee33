"""What spans more than one stream of CUDA: memory that is not ours, and grids that wait for themselves.

All work goes to CuPy's current stream. Within a stream, the order of launches is all that is needed: CuPy's pool hands
a temporary's memory to the next one of the same stream. Three things need more.

A) *Arrays of other libraries* (`keep`). PyTorch makes CuPy's stream wait for its own when it hands an array over, but
   its allocator knows nothing of our launches: a tensor that is freed after the call could be overwritten, by work on
   PyTorch's stream, while a kernel on ours still reads it. So the owner is kept, from when the last of our arrays on
   that memory is gone (the tape's, too) until an event, recorded on our stream then, has passed.
B) *Persistent grids* (`turn`). All blocks of such a grid wait for each other. Of two at once on two streams, each could
   hold a part of the multiprocessors and wait for the rest, forever; that the driver starts a cooperative grid whole or
   not at all is not documented. So on each device a stream waits, before it launches one, until the stream that has
   launched the one before is through. On one stream that costs a comparison.
C) *Captured work*. Our own graphs are in `graphs`. While the caller captures a stream, nothing here records an event on
   it or lets it wait: who replays such a graph keeps its arrays, and runs it beside no other call.

A CuPy array that was made on another stream is the caller's to order and to keep, as for CuPy's own functions.

Rejected: PyTorch's `record_stream` (it is one library's); a reference that is dropped by a function which the device
calls (to free memory is forbidden there); an event after every persistent launch (which programs of one stream would
pay for, too); a lock that is held until a grid ends (the host would wait).
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from . import shim

__all__ = ["keep", "turn"]

_left: deque[tuple[Any, Any]] = deque()
"""Events, and what is kept until they have passed."""


def _cuda() -> Any:
    """CuPy's module of streams and events; None in the simulator, which has neither."""
    if shim.SIMULATED:
        return None
    import cupy

    return cupy.cuda


def keep(array: Any, owner: Any) -> None:
    """Keep the owner of an array's memory until all that reads it has run.

    Parameters
    ----------
    array : CuPy array
        Made of the owner's memory just now; its views refer to it.
    owner : object
        Another library's array.
    """
    cuda = _cuda()
    if cuda is not None:
        gone = weakref.finalize(array, _gone, owner, cuda.get_current_stream(), cuda.Device().id)
        gone.atexit = False  # then the process gives all memory back


def _gone(owner: Any, stream: Any, device: int) -> None:
    """The last array of the owner's memory is. What has been launched may still read it."""
    cuda = _cuda()
    if not stream.is_capturing():
        with cuda.Device(device):
            event = cuda.Event(disable_timing=True)
            event.record(stream)
        _left.append((event, owner))
    _sweep()


def _sweep() -> None:
    """Let go of what nothing reads any more. Without a lock: the collector may call this in the midst of itself."""
    for _ in range(len(_left)):
        try:
            event, owner = _left.popleft()
        except IndexError:
            return
        if not event.done:
            _left.append((event, owner))


class _Turns:
    """The last stream, by device, that launched a grid whose blocks wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[int, Any] = {}

    def turn(self, launch: Callable[[], None]) -> None:
        """See the function."""
        cuda = _cuda()
        if cuda is None:
            launch()
            return
        stream, device = cuda.get_current_stream(), cuda.Device().id
        with self._lock:
            last: Any = self._last.get(device)
            alone = last is None or last.ptr == stream.ptr
            free = alone or not (stream.is_capturing() or last.is_capturing())
            if free and not alone:
                stream.wait_event(last.record())
            launch()
            if free:
                self._last[device] = stream


_turns = _Turns()


def turn(launch: Callable[[], None]) -> None:
    """Launch a grid whose blocks wait for each other, on the current stream: it begins when the one before is through.

    Parameters
    ----------
    launch : callable
        If it raises, nothing has been launched.
    """
    _turns.turn(launch)
