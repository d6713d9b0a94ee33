"""How the threads of a simulated launch take turns: each waits at a lock of its own until all have come.

Numba's simulator starts a thread of the host for each thread of a kernel, and its manager looks at all of them in turn
without end, to see whether they wait for each other; Python's threads had to take turns of a tenth of a millisecond for
that to end. Here whoever comes last wakes the others, so a turn ends where a thread waits, not by the clock: half of
the time, and a quarter where the process keeps to one CPU. `Launch` stands in for Numba's manager while a launch runs.

Rejected: `threading.Barrier` (it does not know of threads that have ended).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["Launch", "long_turns"]


class Thread(threading.Thread):
    """One thread of a kernel."""

    def __init__(self, launch: Launch, place: tuple[int, ...], call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.launch, self.threadIdx = launch, SimpleNamespace(**dict(zip("xyz", place, strict=True)))
        self._call, self._turn = call, threading.Lock()
        self._turn.acquire()

    def run(self) -> None:
        error: BaseException | None = None
        try:
            self._call()
        except BaseException as raised:  # pytest's own among them: whatever ends a thread, the others must hear of it
            error = raised
        self.launch.leave(self, error)

    @property
    def block(self) -> tuple[int, int]:
        """Which block of the launch it is in: the simulator's one block has all of them."""
        return self.threadIdx.y, self.threadIdx.z

    def sync(self) -> None:
        """Waits for all other threads of its block."""
        self.launch.meet(self)
        self._turn.acquire()
        self.go_on()

    def wake(self) -> None:
        """Ends the waiting."""
        self._turn.release()

    def go_on(self) -> None:
        """Ends the thread if another one has failed."""
        if self.launch.failure:
            raise RuntimeError("another thread of the launch failed")


class Launch:
    """All threads of a launch; what they share lives in `held`."""

    def __init__(self, function: Callable[..., object], grid: Any, block: tuple[int, ...], debug: bool) -> None:
        self.function, self.block = function, block
        self.held: dict[Any, Any] = {}
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        self._running = dict.fromkeys(np.ndindex(*block[1:]), block[0])
        self._waiting: dict[tuple[int, ...], list[Thread]] = {place: [] for place in self._running}

    def run(self, grid_point: Any, *arguments: Any) -> None:
        """From the first thread's beginning to the last one's end; raises what the first that failed had raised."""
        threads = [Thread(self, place, lambda: self.function(*arguments)) for place in np.ndindex(*self.block)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failure:
            raise self.failure

    def meet(self, thread: Thread) -> None:
        """The thread will wait for its turn."""
        with self._lock:
            self._waiting[thread.block].append(thread)
            self._wake(thread.block)

    def leave(self, thread: Thread, error: BaseException | None) -> None:
        """A thread has ended; if it failed, so will all others."""
        with self._lock:
            self._running[thread.block] -= 1
            self.failure = self.failure or error
            for block in self._waiting if self.failure else (thread.block,):
                self._wake(block)

    def _wake(self, block: tuple[int, ...]) -> None:
        if self.failure or len(self._waiting[block]) == self._running[block]:
            woken, self._waiting[block] = self._waiting[block], []
            for thread in woken:
                thread.wake()


@contextmanager
def long_turns() -> Iterator[None]:
    """A turn of Python's threads ends where one waits."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
