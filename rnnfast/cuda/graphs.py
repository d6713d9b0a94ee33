"""Sequences of launches that are replayed as a CUDA graph: what keeps a step's launch cost at two microseconds.

A graph holds the addresses it was captured with, so its key is everything that its launches depend on: the kind of
work, all sizes and strides, and all addresses. A training loop that reuses its tape, and whose arrays come from CuPy's
pool in the same order every time, arrives with the same key again and again.

The first call with a key simply runs: it compiles the kernels, lets cuBLAS allocate its workspace (neither may happen
in a capture), and a call that never comes back pays for no graph. The second call captures, and from there on the graph
is launched. `LIMIT` keys are remembered, the least recently used is forgotten.

Rejected: graphs that are updated with new addresses (as many calls as launches, which is the cost to be saved); capture
on the caller's stream (it may be the default stream, on which nothing can be captured).

Each graph has a workspace of its own for cuBLAS, 4 or 32 MB, and keeps it: two graphs may run at once on two streams.
The calls that only run are given one, too, so that all have the same bits. Two launches of one graph wait for each
other, by CUDA's own rule.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from . import arrays, blas, shim

__all__ = ["LIMIT", "Replays", "run"]

LIMIT = 32


class Replays:
    """What was captured, by key.

    Parameters
    ----------
    capture : callable
        Makes of steps a graph, an object with `launch`.
    limit : int
        How many keys are remembered.
    """

    def __init__(self, capture: Callable[[Callable[[], None]], Any], limit: int) -> None:
        self._capture, self._limit = capture, limit
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, key: Hashable, steps: Callable[[], None]) -> None:
        """Do the steps of a new key; launch the graph of a known one."""
        with self._lock:
            known = key in self._graphs
            graph = self._graphs.pop(key, None)
            if known and graph is None:
                graph = self._capture(steps)
            self._graphs[key] = graph
            if len(self._graphs) > self._limit:
                self._graphs.popitem(last=False)
        if graph is None:
            steps()
        else:
            graph.launch()


class _Captured(NamedTuple):
    """A graph, with the memory that its products work in."""

    graph: Any
    workspace: Any

    def launch(self) -> None:
        """On the current stream."""
        self.graph.launch()


def _capture(steps: Callable[[], None]) -> _Captured:
    stream = _capture_stream(arrays.current_device())
    blas.cublas_handle()  # each thread has its own, and to make one waits for the device
    with blas.workspace() as workspace, stream:  # allocated before: on the caller's stream, which launches the graph
        stream.begin_capture()
        try:
            steps()
        finally:
            graph = stream.end_capture()
    return _Captured(graph, workspace)


@functools.cache
def _capture_stream(device: int) -> Any:
    return arrays.xp().cuda.Stream(non_blocking=True)


_replays = Replays(_capture, LIMIT)


def run(steps: Callable[[], None], *depends: Any) -> None:
    """Do `steps`, launches on the current stream that allocate nothing; or replay them. The simulator has no graphs.

    Parameters
    ----------
    steps : callable
    *depends
        All that the launches depend on: strings, numbers, device arrays, None, and dataclasses of them.
    """
    if shim.SIMULATED:
        steps()
    else:
        with_workspace = functools.partial(_with_workspace, steps)
        _replays.run((arrays.current_device(), *map(_key, depends)), with_workspace)


def _with_workspace(steps: Callable[[], None]) -> None:
    with blas.workspace():
        steps()


def _key(value: Any) -> Hashable:
    if is_dataclass(value):
        return tuple(_key(getattr(value, field.name)) for field in fields(value))
    if arrays.is_device_array(value):
        return value.data.ptr, value.shape, value.strides
    return value  # type: ignore[no-any-return]
