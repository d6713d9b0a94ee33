"""How the threads of a simulated launch take turns: each waits at a lock of its own until all have come.

Numba's simulator starts a thread of the host for each thread of a kernel, and its manager looks at all of them in turn
without end, to see whether they wait for each other; Python's threads had to take turns of a tenth of a millisecond for
that to end. Here whoever comes last wakes the others, so a turn ends where a thread waits, not by the clock: half of
the time, and a quarter where the process keeps to one CPU. `_Launch` stands in for Numba's class while a launch runs.

Rejected: `threading.Barrier` (it does not know of threads that have ended).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from numba.cuda.simulator import kernel as _simulator

__all__ = ["launches"]


class _Thread(_simulator.BlockThread):  # type: ignore[misc]  # Numba has no types
    """One thread of a kernel."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.turn = threading.Lock()
        self.turn.acquire()

    def run(self) -> None:
        super().run()
        self._manager.leave(self)

    def syncthreads(self) -> None:
        self._manager.meet(self)
        self.turn.acquire()
        self.go_on()

    def go_on(self) -> None:
        """Ends the thread if another one has failed."""
        if self.abort:
            raise RuntimeError("another thread of the launch failed")


class _Launch(_simulator.BlockManager):  # type: ignore[misc]
    """All threads of a launch."""

    def run(self, grid_point: Any, *arguments: Any) -> None:
        """From the first thread's beginning to the last one's end; raises what the first that failed had raised."""
        points = np.ndindex(*self._block_dim)
        threads = [_Thread(lambda: self._f(*arguments), self, grid_point, point, self._debug) for point in points]
        self.lock, self.threads, self.running = threading.Lock(), threads, len(threads)
        self.waiting: list[_Thread] = []
        self.failure: BaseException | None = None
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failure:
            raise self.failure

    def meet(self, thread: _Thread) -> None:
        """The thread will wait for its turn."""
        with self.lock:
            self.waiting.append(thread)
            self._wake()

    def leave(self, thread: _Thread) -> None:
        """The thread has ended; if it failed, so do all others."""
        with self.lock:
            self.running -= 1
            if thread.exception and not self.failure:
                error, trace = thread.exception
                self.failure = error.with_traceback(trace)
                for other in self.threads:
                    other.abort = True
            self._wake()

    def _wake(self) -> None:
        if self.failure or len(self.waiting) == self.running:
            woken, self.waiting = self.waiting, []
            for thread in woken:
                thread.turn.release()


@contextmanager
def launches() -> Iterator[None]:
    """Within it launches run by these classes, and Python's threads by turns that end where one waits."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        with mock.patch.object(_simulator, "BlockManager", _Launch):
            yield
    finally:
        sys.setswitchinterval(before)
