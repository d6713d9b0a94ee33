"""A row is measured: its answers are checked, then ours, each peer and the ceiling take turns (`core.alternate`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from .. import _core
from . import core, described, memory
from .described import DESCRIBED, LSTM, PASS, PASSES, PRODUCT, RATE
from .ours import OURS, Maker, tape_bytes
from .peers import PEERS, installed, library, limited
from .rows import FMA, READ, Row
from .work import Contestant, Unavailable, Work, check

__all__ = ["Result", "columns", "contestants", "measure", "verify"]

PAUSE = 0.15
"""Seconds before a turn, with several threads."""
APART = "from core to core"
"""The column of seconds that a cache line takes; a virtual machine's cores can be moved while a row is measured."""
_WINDOW = 256  # rows (steps times batch) of a window of scratch


@dataclass(frozen=True)
class Result(core.Result[Row]):
    """What was measured of a row.

    Attributes
    ----------
    samples : dict of str to list of float
        Seconds per call (bytes, in the group memory): "ours", its variants, peers, the time that the row's FLOP or
        bytes take at its ceiling, and `APART`.
    threads : int
    """

    threads: int = 1

    @property
    def best_peer(self) -> float | None:
        """The least median of a peer, None if there was none."""
        return min((statistics.median(self.samples[name]) for name in self.samples if library(name)), default=None)

    @property
    def every_peer(self) -> bool:
        """Whether all of the group were installed."""
        return self.row.of is not None or all(name in self.samples for name in makers(self.row) if library(name))

    @property
    def _lstm_flop(self) -> float:
        """Of our LSTM at the same work, in the group cells."""
        return replace(self.row, group=self.row.work, cell="lstm").flop

    def other(self, need: core.Need) -> float | None:
        """The time that a need sets against ours; the group cells has two that are computed."""
        lstm, product, one = (self.median(name) for name in (LSTM, PRODUCT, PASS))
        if need.against == RATE and lstm is not None:
            return lstm * self.row.flop / self._lstm_flop
        if need.against == PASSES and product is not None and one is not None:
            return product + 1.5 * one
        return super().other(need)

    @property
    def rate(self) -> float | None:
        """FLOP or bytes per second, None where neither bounds it."""
        amount = {FMA: self.row.flop, READ: self.row.bytes_read}.get(self.row.ceiling or "")
        return None if amount is None else amount / self.ours

    @property
    def ceiling(self) -> str | None:
        """The row's."""
        return self.row.ceiling

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
    def remarks(self) -> list[str]:
        """FLOP rates, ours and our LSTM's; the notes; and how far apart the cores are."""
        lstm = self.median(LSTM)
        rates = lstm and (self.row.flop / self.ours / 1e9, self._lstm_flop / lstm / 1e9)
        beside = "{:.1f} GFLOP/s, our LSTM {:.1f}".format(*rates) if rates else ""
        apart = f"cores {core.quantity(self.apart, 's')} apart" if self.apart else ""
        return [line for line in (beside, *self.notes, apart) if line]

    def cell(self, column: str) -> str:
        """A column's median; of the group process, per step."""
        value = self.median(column)
        per = self.row.T if self.row.group == "process" else 1
        return core.quantity(None if value is None else value / per, self.row.unit)


def makers(row: Row) -> dict[str, Maker]:
    """What makes the contestants of a row, by column: ours first, then the peers."""
    found = OURS[row.group] | PEERS.get(row.group, {})
    if row.group != "cells":
        return found
    cell = DESCRIBED[row.cell]
    return {name: found[name] for name in ("ours", *cell.variants(row.work), *cell.peers)}


def columns(row: Row) -> list[str]:
    """The columns that are measured of a row: ours, variants, and installed peers."""
    if row.of is not None:
        return ["ours", "one thread"]
    if row.label == "tape":
        return ["ours", "bound"]
    versions = installed()
    return [name for name in makers(row) if not library(name) or versions[library(name)]]


def contestants(
    row: Row, threads: int, names: Sequence[str] | None = None, notes: list[str] | None = None
) -> dict[str, Contestant]:
    """Those of a row, by column (of `names`, or all), ready to be checked and run.

    What does not run here is left out, and `notes` says so; without `notes` it raises Unavailable.
    """
    work = Work(row.of or row)
    known = makers(work.row)
    if row.of is not None:
        known["one thread"] = lambda work, _: known["ours"](work, 1)
    found = {}
    for name in names or columns(row):
        try:
            if name in known:
                found[name] = known[name](work, threads)
        except Unavailable as error:
            if notes is None:
                raise
            notes.append(str(error))
    if notes is not None:
        notes += (contestant.note for contestant in found.values() if contestant.note)
    return found


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
        notes: list[str] = []
        found = contestants(row, threads, notes=notes)
        errors = verify(row, found)
        if row.group == "memory":
            samples = _bytes(row)
        else:
            loops = {name: contestant.loop for name, contestant in found.items()}
            samples = core.alternate(loops, _probes(row, threads), rounds, PAUSE * (threads > 1))
    return Result(row, samples, errors, tuple(notes), threads)


def _probes(row: Row, threads: int) -> dict[str, Callable[[], float]]:
    """The time that the row's work takes at its ceiling, and how far apart several threads are, measured now."""
    probes: dict[str, Callable[[], float]] = {}
    if row.ceiling == FMA:
        probes[FMA] = lambda: row.flop / (_core.fma_peak() * threads * 1e9)
    elif row.ceiling == READ:
        # That of a buffer as large as what each step reads, over and over.
        probes[READ] = lambda: row.bytes_read / (_core.read_bandwidth(row.stepwise_bytes, threads=threads) * 1e9)
    if row.group == "cells" and DESCRIBED[row.cell].kind == "diagonal" and not row.single_step:
        # Written and read once; in training thrice, as there are three products: forward, to dx, to the weights.
        size = 4 * described.results(row.cell, row.T, row.B, row.I, row.H)
        moved = 2 * size * (3 if row.trains else 1)
        probes[PASS] = lambda: moved / (_core.read_bandwidth(size, threads=threads) * 1e9)
    if threads > 1:
        probes[APART] = _core.line_transfer
    return probes


def _bytes(row: Row) -> dict[str, list[float]]:
    if row.label == "tape":
        per_row = 4 * (row.gates + 2) * row.H
        return {"ours": [tape_bytes(Work(row))], "bound": [per_row * (row.T * row.B + _WINDOW)]}
    return {name: [memory.in_fresh_process(row, name)] for name in columns(row)}
