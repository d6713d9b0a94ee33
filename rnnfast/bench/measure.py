"""The clocks. Ours, each peer and the ceiling run alternately in one process, and medians are compared.

A) A speed on a shared machine is a ratio of times from the same moments. Rejected: timing each in turn (the machine's
   speed drifts by half within a minute), and the best of n (it compares different moments).
B) Calls that take less than `TURN` are made in batches that take as long, so that neither the clock's resolution nor
   the reading of it shows. Each contestant has the loop over its calls inside.
C) With several threads there is a pause before each turn, in which the threads of the turn before stop spinning
   (OpenBLAS's do after 0.1 s; with a shorter pause, whoever came after NumPy was measured at half its speed). It then
   begins with calls that are not counted: the contestant's own threads have to wake, and two that share a core at first
   have to part. Ceilings are measured after a pause as well (right after NumPy, a line took 264 ns or 1.4 us from core
   to core in place of 46, and two threads read less than they can).
D) With one thread, too, a turn begins with a call that is not counted, and each round has an order of its own (the same
   in each run): in a fixed order ours, the first, had paid up to 5 % for what the last peer had put into the caches,
   where a variant of ours, the second, had not.
E) A row whose rounds take long has fewer of them, three at least.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import _core
from . import memory
from .ours import OURS, tape_bytes
from .peers import PEERS, installed, library, limited
from .rows import BEST, FMA, READ, Row
from .work import Contestant, Work, check

__all__ = ["Result", "Verdict", "alternate", "columns", "contestants", "measure", "verify"]

TURN = 5e-3
"""Seconds that a turn takes at least."""
BUDGET = 30.0
"""Seconds after which a row ends, once it has had three rounds."""
PAUSE = 0.15
"""Seconds before a turn, with several threads."""
WARM = 0.1
"""Seconds of calls that are not counted, at least, after each pause."""
APART = "from core to core"
"""The column of seconds that a cache line takes; a virtual machine's cores can be moved while a row is measured."""
_WINDOW = 256  # rows (steps times batch) of a window of scratch


class Verdict(NamedTuple):
    """Whether a need is met.

    Attributes
    ----------
    need : str
    ratio : float or None
        What was reached; None where the other was not measured.
    reached : bool or None
        None where it can't be said, because a peer is not installed.
    asks : float or None
        Which part of the row's ceiling it would take: above 1 the need is beyond this machine.
    """

    need: str
    ratio: float | None
    reached: bool | None
    asks: float | None = None


@dataclass(frozen=True)
class Result:
    """What was measured of a row.

    Attributes
    ----------
    row : Row
    threads : int
    samples : dict of str to list of float
        Seconds per call (bytes, in the group memory), by column, in the order of the rounds: "ours", its variants,
        peers, the time that the row's FLOP or bytes take at its ceiling, and `APART`.
    errors : dict of str to float
        Of each contestant against the oracle, relative to the largest value.
    """

    row: Row
    threads: int
    samples: dict[str, list[float]]
    errors: dict[str, float]

    def median(self, column: str) -> float | None:
        """Of a column, None if it was not measured."""
        return statistics.median(self.samples[column]) if column in self.samples else None

    @property
    def ours(self) -> float:
        """The median of our own."""
        return statistics.median(self.samples["ours"])

    @property
    def best_peer(self) -> float | None:
        """The least median of a peer, None if there was none."""
        return min((statistics.median(self.samples[name]) for name in self.samples if library(name)), default=None)

    @property
    def ratio(self) -> float | None:
        """Of the best peer's to ours."""
        return None if self.best_peer is None else self.best_peer / self.ours

    @property
    def rate(self) -> float | None:
        """FLOP or bytes per second, None where neither bounds it."""
        amount = {FMA: self.row.flop, READ: self.row.bytes_read}.get(self.row.ceiling or "")
        return None if amount is None else amount / self.ours

    @property
    def fraction(self) -> float | None:
        """Of the ceiling."""
        ceiling = self.median(self.row.ceiling or "")
        return None if ceiling is None else ceiling / self.ours

    @property
    def apart(self) -> float:
        """Seconds from core to core, 0 with one thread."""
        return self.median(APART) or 0.0

    @property
    def verdicts(self) -> list[Verdict]:
        """Of the row's needs, as far as they apply. To be ahead of some peers is not yet to be ahead of the best."""
        verdicts = []
        missing = not self.samples.keys() >= PEERS.get(self.row.group, {}).keys()
        for need in self.row.needs:
            other = need.seconds or (self.best_peer if need.against == BEST else self.median(need.against))
            if other is None:
                verdicts.append(Verdict(str(need), None, None))
            elif other >= need.above:
                reached: bool | None = other / self.ours >= need.ratio
                reached = None if reached and missing and need.against == BEST else reached
                part = self.fraction and self.fraction * need.ratio * self.ours / other
                verdicts.append(Verdict(str(need), other / self.ours, reached, part))
        return verdicts

    @property
    def mark(self) -> str:
        """SHORT if a need is not met, open if one lacks its peer, ok if all are met, - if there is none."""
        reached = [verdict.reached for verdict in self.verdicts]
        return "SHORT" if False in reached else "open" if None in reached else "ok" if reached else "-"


def columns(row: Row) -> list[str]:
    """The columns that are measured of a row: ours, variants, and installed peers."""
    if row.of is not None:
        return ["ours", "one thread"]
    if row.label == "tape":
        return ["ours", "bound"]
    versions = installed()
    return [*OURS[row.group], *(name for name in PEERS.get(row.group, {}) if versions[library(name)])]


def contestants(row: Row, threads: int, names: Sequence[str] | None = None) -> dict[str, Contestant]:
    """Those of a row, by column (of `names`, or all), ready to be checked and run."""
    work = Work(row.of or row)
    makers = OURS[work.row.group] | PEERS.get(work.row.group, {})
    if row.of is not None:
        makers["one thread"] = lambda work, _: makers["ours"](work, 1)
    return {name: makers[name](work, threads) for name in names or columns(row) if name in makers}


def verify(row: Row, found: Mapping[str, Contestant]) -> dict[str, float]:
    """The error of each contestant; WrongAnswer if one is beyond what is allowed."""

    def error(name: str, contestant: Contestant) -> float:
        if contestant.work.row.group == "step-bf16" and name != "float32 step" and not library(name):
            return check(name, contestant, forward=0.05, gradients=0.05)
        return check(name, contestant, forward=1e-4 if library(name) else 1e-5, gradients=1e-4)

    return {name: error(name, contestant) for name, contestant in found.items()}


def measure(row: Row, threads: int, rounds: int) -> Result:
    """Check a row's answers, then measure it.

    Parameters
    ----------
    row : Row
    threads : int
    rounds : int
        At most.

    Returns
    -------
    Result

    Raises
    ------
    WrongAnswer
        An answer is not the oracle's; nothing has been timed.
    """
    with limited(threads):
        found = contestants(row, threads)
        errors = verify(row, found)
        if row.group == "memory":
            return Result(row, threads, _bytes(row), errors)
        loops = {name: contestant.loop for name, contestant in found.items()}
        return Result(row, threads, alternate(loops, _probes(row, threads), rounds, PAUSE * (threads > 1)), errors)


def _probes(row: Row, threads: int) -> dict[str, Callable[[], float]]:
    """The time that the row's work takes at its ceiling, and how far apart several threads are, measured now."""
    probes: dict[str, Callable[[], float]] = {}
    if row.ceiling == FMA:
        probes[FMA] = lambda: row.flop / (_core.fma_peak() * threads * 1e9)
    elif row.ceiling == READ:
        # That of a buffer as large as what each step reads, over and over.
        probes[READ] = lambda: row.bytes_read / (_core.read_bandwidth(row.stepwise_bytes, threads=threads) * 1e9)
    if threads > 1:
        probes[APART] = _core.line_transfer
    return probes


def _bytes(row: Row) -> dict[str, list[float]]:
    if row.label == "tape":
        per_row = 4 * (row.gates + 2) * row.H
        return {"ours": [tape_bytes(Work(row))], "bound": [per_row * (row.T * row.B + _WINDOW)]}
    return {name: [memory.in_fresh_process(row, name)] for name in columns(row)}


def alternate(
    loops: Mapping[str, Callable[[int], Any]],
    probes: Mapping[str, Callable[[], float]],
    rounds: int,
    pause: float = 0.0,
) -> dict[str, list[float]]:
    """Run loops in turn, a few rounds, each in another order.

    Parameters
    ----------
    loops : mapping of str to callable
        ``loop(n)`` makes n calls.
    probes : mapping of str to callable
        What is measured once a round besides, each by itself.
    rounds : int
        At most; fewer, but not less than three, where they would take more than `BUDGET` seconds.
    pause : float
        Seconds before each turn.

    Returns
    -------
    dict of str to list of float
        Seconds per call, and what the probes returned, per round.
    """
    turns = {name: _calls_per_turn(loop) for name, loop in loops.items()}
    rounds = min(rounds, max(3, int(BUDGET / sum(max(TURN, seconds) for _, seconds in turns.values()))))
    samples: dict[str, list[float]] = {name: [] for name in (*loops, *probes)}
    with _no_garbage_collection():
        for number in range(rounds):
            for name in random.Random(number).sample(list(loops), len(loops)):
                loop, calls = loops[name], turns[name][0]
                if pause:
                    time.sleep(pause)
                    _warm_up(loop, WARM)
                else:
                    loop(1)
                begin = time.perf_counter()
                loop(calls)
                samples[name].append((time.perf_counter() - begin) / calls)
            if pause and probes:
                time.sleep(pause)
                _warm_up(lambda _: [probe() for probe in probes.values()], WARM)
            for name, probe in probes.items():
                samples[name].append(probe())
    return samples


def _calls_per_turn(loop: Callable[[int], Any]) -> tuple[int, float]:
    """How many calls a turn makes, and the seconds that it takes."""
    _warm_up(loop, 2 * TURN)
    calls, seconds = 1, 0.0
    while seconds < TURN / 2:
        calls *= 4 if seconds else 1
        begin = time.perf_counter()
        loop(calls)
        seconds = time.perf_counter() - begin
    per_call = seconds / calls
    return max(1, round(TURN / per_call)), max(TURN, per_call)


def _warm_up(loop: Callable[[int], Any], seconds: float) -> None:
    """Call for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        loop(1)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Inside no collection is made, which would be counted as the time of the call that it falls into."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
