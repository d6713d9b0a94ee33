"""The clock on a device: pairs of events. How contestants take turns is `rnnfast.bench.core`'s.

A) A turn is a pair of device events around its calls: a call's way through Python then runs beside the device's work on
   the call before, as in a training loop.
B) Before that each is called three times with every set of inputs, by which time kernels are compiled, graphs
   captured, and memory is in the pools.
C) Where PyTorch can say it in float64 (without resets, and soon enough), the row's own results are compared, before
   anything is timed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from rnnfast.bench import core
from rnnfast.cuda import arrays, shim

from .contestants import CLASSES, Contestant, Data, exact, ours, peer
from .environment import missing_peers
from .problems import BOUNDS, poison
from .rows import OWN, Row

__all__ = ["Result", "Timer", "alternate", "measure"]

_CHEAP = 4e7  # elements of y up to which the host compares them


@dataclass(frozen=True)
class Result(core.Result[Row]):
    """What was measured of a row: seconds per time step, ours and the other's, which is missing without its library."""

    @property
    def best_peer(self) -> float | None:
        """The other's median, or its published time."""
        return self.row.seconds or self.median(self.row.against)

    def cell(self, column: str) -> str:
        """A published time stands in the other's column."""
        return core.quantity(self.row.seconds, "s") if self.row.seconds and column != "ours" else super().cell(column)


def _clock(loop: core.Loop, calls: int) -> float:
    """Seconds between two events around so many calls."""
    if shim.SIMULATED:
        return core.host_clock(loop, calls)
    cuda = arrays.xp().cuda
    begin, end = cuda.Event(), cuda.Event()
    begin.record()
    loop(calls)
    end.record()
    end.synchronize()
    return float(cuda.get_elapsed_time(begin, end)) * 1e-3


def _loop(call: Contestant) -> core.Loop:
    """A loop over a contestant, which goes on with the sets of inputs where it stopped."""
    numbers = itertools.count()

    def loop(n: int) -> None:
        for _ in range(n):
            call(next(numbers))

    return loop


def alternate(contestants: Mapping[str, Contestant], sets: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per call of contestants that take turns; all sets of inputs are used before anything is timed."""
    loops = {name: _loop(call) for name, call in contestants.items()}
    return core.alternate(loops, {}, rounds, clock=_clock, first=3 * sets)


def measure(row: Row, data: Data, seed: int, rounds: int) -> Result:
    """Check a row's results, then time it; WrongAnswer if they are not right."""
    call, results = ours(row, data)
    errors = {}
    comparable = row.kind in CLASSES and row.mask != "resets" and row.T * row.B * row.H <= _CHEAP
    if results is not None and missing_peers() is None and comparable:
        for array in (results.y, results.dx):
            poison(array)
        call(0)
        want = exact(row, data)
        got = {name: arrays.to_host(value) for name, value in results.results(row.work).items()}
        errors["ours"] = core.compare(row.name, got, want, lambda name: max(BOUNDS[row.precision]))
    contestants, steps = {"ours": call}, {"ours": row.T}
    if row.seconds is None and (row.against in OWN or missing_peers() is None):
        contestants[row.against], steps[row.against] = peer(row, data, seed)
    samples = alternate(contestants, len(data.x), rounds)
    return Result(row, {name: [value / steps[name] for value in values] for name, values in samples.items()}, errors)


class Timer:
    """Measures rows one after the other; those of the same data share it."""

    def __init__(self, seed: int, rounds: int) -> None:
        self._seed, self._rounds = seed, rounds
        self._data: Data | None = None
        self._of: object = None

    def __call__(self, row: Row) -> Result:
        """The row's result; a wrong one has no times."""
        if self._data is None or self._of != (row.kind, row.data):
            self._data, self._of = None, (row.kind, row.data)
            _free_memory()
            self._data = Data(row, self._seed)
        try:
            return measure(row, self._data, self._seed, self._rounds)
        except core.WrongAnswer as wrong:
            return Result(row, {}, {}, (str(wrong),))


def _free_memory() -> None:
    """What the rows before have left in the pools, CuPy's and PyTorch's, goes back to the device."""
    if shim.SIMULATED:
        return
    arrays.xp().get_default_memory_pool().free_all_blocks()
    if missing_peers() is None:
        import torch

        torch.cuda.empty_cache()
