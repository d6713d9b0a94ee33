"""The table: every row that is measured, and what it must reach.

A row is a piece of work of one size. The command, the cases under pytest-benchmark and the documentation read this one
table. What a row must reach is a ratio to another time that is measured in the same run (a peer's, a variant of ours,
or the time that its FLOP or bytes would take at a measured ceiling), or to a fixed time.

Rejected: a configuration file (these targets are the project's, not a user's), and a function per row (sizes and
targets would drift apart between command and tests).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from . import core, described
from .core import BEST, Need
from .described import DESCRIBED

__all__ = ["CELLS", "FMA", "GROUPS", "READ", "ROWS", "Row", "plan", "select"]

CELLS = {"lstm": ("LSTM", "lstm", 4), "gru": ("GRU", "gru_after", 3), "rnn": ("RNN", "elman_tanh", 1)}
"""The cells of the table: class, kind, gates."""

GROUPS = {
    "step": "one step of a stream, called from Python; B=1",
    "step-bf16": "the same with weights stored in bfloat16",
    "cell": "one step of a cell, called from Python; B=1",
    "process": "64 steps of a stream in one call; B=1; times per step",
    "forward": "a sequence, inference",
    "training": "a sequence, forward and backward, dx included",
    "ragged": "training with lengths uniform in 1..T",
    "resets": "training with 2 % resets",
    "denormals": "training with nine of ten inputs and gradients denormal",
    "characters": "the command line's character model, from ids to updated weights",
    "scaling": "two threads (ours) against one",
    "python-threads": "two Python threads running one layer (ours) against one; times for two calls",
    "memory": "a training call: bytes on the tape, and the process's peak above what it had before",
    "cells": "described cells: a sequence's inference and training, a stream's step; beside our LSTM",
}

FMA, READ = "FMA peak", "read bandwidth"
_CHECKED_STEPS = 8  # of a row of single steps
# ns per step of RTNeural's compiled, size-templated engine, called from C++ on a 2.5 GHz Skylake.
_RTNEURAL = {
    "lstm": {16: 171, 32: 486, 64: 1891, 128: 7337},
    "gru": {16: 169, 32: 392, 64: 1557, 128: 5535},
    "rnn": {},
}


@dataclass(frozen=True)
class Row:
    """One layer of one direction over one batch, float32.

    Attributes
    ----------
    group : str
        Of `GROUPS`.
    cell : str
        Of `CELLS`; in the group cells, of `described.DESCRIBED`.
    T, B, I, H : int
        Steps, rows, input and hidden size of one call.
    needs : tuple of Need
    label : str
        The name's last part.
    of : Row or None
        In the group scaling, the row that is run with two threads and with one.
    """

    group: str
    cell: str
    T: int
    B: int
    I: int  # noqa: E741  (the notation of docs/dev/glossary.md)
    H: int
    needs: tuple[Need, ...] = ()
    label: str = ""
    of: Row | None = None

    @property
    def name(self) -> str:
        """What selects it, like ``forward/lstm/T100-B1-I64-H64``."""
        if self.of is not None:
            return f"{self.group}/{self.of.name}"
        return "/".join(filter(None, (self.group, self.cell, self.label)))

    @property
    def gates(self) -> int:
        """Of the cell."""
        return CELLS[self.cell][2]

    @property
    def work(self) -> str:
        """What a call does: one step, inference, or training."""
        if self.group == "cells":
            return self.label.partition("/")[0]
        if self.group in ("step", "step-bf16", "cell"):
            return "step"
        trains = self.group in ("training", "ragged", "resets", "denormals", "characters", "memory")
        return "training" if trains else "forward"

    @property
    def single_step(self) -> bool:
        """Whether a call is one step, which reads every weight for two FLOP."""
        return self.work == "step"

    @property
    def checked_steps(self) -> int:
        """The steps whose answers are compared with the oracle's."""
        return _CHECKED_STEPS if self.single_step else self.T

    @property
    def trains(self) -> bool:
        """Whether a call includes backward."""
        return self.work == "training"

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """Of the rows of a ragged batch."""
        return np.random.default_rng(2).integers(1, self.T + 1, self.B) if self.group == "ragged" else None

    @property
    def weights(self) -> int:
        """How many numbers the weight matrices have."""
        if self.group == "cells":
            return described.multiply_adds(self.cell, self.I, self.H)
        return self.gates * self.H * (self.I + self.H)

    @property
    def flop(self) -> float:
        """Multiply-adds of the matrix products of one call, each counted twice; three times as many with backward."""
        steps = self.T * self.B if self.lengths is None else int(self.lengths.sum())
        weights = self.weights
        if self.group == "characters":  # one-hot ids cost no product, the head does
            weights = self.gates * self.H * self.H + self.H * self.I
        return (6.0 if self.trains else 2.0) * weights * steps

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weight matrices as they are stored."""
        return (2 if self.group == "step-bf16" else 4) * self.weights

    @property
    def stepwise_bytes(self) -> int:
        """The bytes of weights that every step reads: both matrices, or U alone where W serves many steps at once."""
        return self.weight_bytes if self.single_step else self.weight_bytes * self.H // (self.I + self.H)

    @property
    def bytes_read(self) -> int:
        """The bytes of weights that a call for one row reads: U once a step, W once."""
        return self.weight_bytes + (self.T - 1) * self.stepwise_bytes

    @property
    def ceiling(self) -> str | None:
        """What bounds it: the FMA peak, or where a weight is read for two FLOP, the bandwidth; or neither."""
        if self.group in ("scaling", "python-threads", "memory") or self.H == 1:
            return None
        return READ if self.B == 1 and not self.trains else FMA

    @property
    def unit(self) -> str:
        """Of what is measured: "s" or "B"."""
        return "B" if self.group == "memory" else "s"


def _sequence(group: str, cell: str, size: tuple[int, int, int, int], *needs: Need) -> Row:
    return Row(group, cell, *size, needs, "T{}-B{}-I{}-H{}".format(*size))


def _step_needs(H: int) -> tuple[Need, ...]:
    if H == 1:
        return (Need("limit of 200 ns", 1, seconds=200e-9),)
    if H <= 64:
        return Need("PyTorch", 50), Need("ONNX Runtime", 20)
    return Need(READ, 1 / 1.3), Need(BEST, 1)


def _process_needs(cell: str, H: int) -> Iterator[Need]:
    if ns := _RTNEURAL[cell].get(H):
        yield Need(f"RTNeural* ({ns} ns)", 1, seconds=64 * ns * 1e-9)
    if (cell, H) == ("lstm", 64):
        yield Need("20 GFLOP/s", 1 / 0.55, seconds=64 * 2 * 4 * H * (H + H) / 20e9)
    yield Need(BEST, 1)


def _table() -> Iterator[Row]:
    for cell in CELLS:
        for H in (1, 16, 64, 256, 512):
            yield Row("step", cell, 1, 1, H, H, _step_needs(H), str(H))
    for cell in CELLS:
        for H in (16, 64, 256, 512):
            faster = (Need("float32 step", 1.7),) if H >= 256 else ()
            yield Row("step-bf16", cell, 1, 1, H, H, (*faster, Need(BEST, 1)), str(H))
    for cell in CELLS:
        for H in (1, 16, 64, 256, 512):
            yield Row("cell", cell, 1, 1, H, H, _step_needs(H), str(H))
    for cell in CELLS:
        for H in (16, 32, 64, 128):
            yield Row("process", cell, 64, 1, H, H, tuple(_process_needs(cell, H)), str(H))

    batches = ((100, 32, 64, 128), (100, 32, 128, 256), (50, 64, 512, 512), (1000, 16, 40, 128))
    huge = (50, 128, 1024, 1024)
    for H, ratio in ((64, 3), (256, 1.5)):
        yield from (_sequence("forward", cell, (100, 1, H, H), Need(BEST, ratio)) for cell in CELLS)
    for size in batches:
        for cell in CELLS:
            yield _sequence("forward", cell, size, Need(BEST, 1), Need(FMA, 0.80 if cell == "lstm" else 0.75))
    yield from (_sequence("forward", cell, huge, Need(BEST, 1)) for cell in CELLS)
    for size in batches:
        for cell in CELLS:
            ratio = 6 if cell == "gru" and size[0] == 1000 else {"lstm": 1.7, "gru": 3, "rnn": 3}[cell]
            yield _sequence("training", cell, size, Need("PyTorch", ratio), Need(FMA, 0.65))
    yield from (_sequence("training", cell, huge, Need(BEST, 1)) for cell in CELLS)

    for cell in CELLS:
        packed = (Need("PyTorch", {"lstm": 10, "gru": 5}[cell]),) if cell != "rnn" else ()
        yield Row("ragged", cell, 200, 32, 64, 128, (*packed, Need(BEST, 1), Need("ours padded", 1.7)))
    for cell in CELLS:
        yield Row("resets", cell, 128, 8, 64, 256, (Need("PyTorch", 5), Need("ours without resets", 1 / 1.03)))
    for cell in CELLS:
        yield Row("denormals", cell, 100, 16, 64, 128, (Need("ours on normal input", 1 / 1.05),))
    for cell in CELLS:  # the sizes of rnnfast.cli.train.Settings, and the 103 characters of Python's help topics
        yield Row("characters", cell, 64, 16, 103, 256, (Need("PyTorch", 5 if cell == "gru" else 2.5),))


def _described() -> Iterator[Row]:
    """The group cells."""
    sizes = [("step", 1, 1, 64, "64")]
    sizes += [(work, 100, 32, H, f"T100-B32-I{H}-H{H}") for H in (128, 256) for work in ("forward", "training")]
    for cell in DESCRIBED:
        for work, T, B, H, size in sizes:
            yield Row("cells", cell, T, B, H, H, tuple(described.needs(cell, work)), f"{work}/{size}")


def _all() -> Iterator[Row]:
    """The table, and what is said of its rows as a whole."""
    table = tuple(_table())
    yield from table
    for row in table:
        if row.group != "cell":  # a cell takes no num_threads
            large = (Need("one thread", 1.7, above=5e-3),) if row.B >= 16 else ()
            yield replace(row, group="scaling", of=row, needs=(Need("one thread", 1 / 1.03), *large))
    for cell in CELLS:
        yield Row("python-threads", cell, 100, 32, 128, 256, (Need("one thread", 1.7),))
    for cell in CELLS:
        yield Row("memory", cell, 100, 32, 128, 256, (Need("bound", 1),), "tape")
        yield Row("memory", cell, 100, 32, 128, 256, (), "peak")
    yield from _described()


ROWS = tuple(_all())
"""All rows."""


def select(names: Iterable[str] = ()) -> list[Row]:
    """The rows of some names, in the table's order; see `core.select`."""
    return core.select(names, ROWS)


def plan(names: Sequence[str] = (), threads: Sequence[int] = (1,)) -> list[tuple[Row, int]]:
    """What is to be measured: rows, each with its number of threads.

    Parameters
    ----------
    names : sequence of str
        As for `select`.
    threads : sequence of int
        Every row is measured with each of these, except where it has a number of its own. The group scaling needs 1
        and 2, and is left out of a whole run without them. So is the group cells without PyTorch, its oracle.

    Returns
    -------
    list of (Row, int)

    Raises
    ------
    ValueError
        A name selects nothing, or only what can't be measured with these threads.
    """
    rows = select(names)
    if not {1, 2} <= set(threads):
        given = ", ".join(map(str, threads))
        rows = _without("scaling", rows, names, f"threads: expected both 1 and 2 for the group scaling, got {given}")
    if find_spec("torch") is None:
        rows = _without("cells", rows, names, "row: the group cells needs PyTorch, its oracle: pip install torch")
    fixed = {"scaling": (2,), "python-threads": (2,), "memory": (1,)}
    return [(row, count) for row in rows for count in fixed.get(row.group, tuple(dict.fromkeys(threads)))]


def _without(group: str, rows: Sequence[Row], names: Sequence[str], said: str) -> list[Row]:
    """The rows of other groups; ValueError if there are none, or if the group was asked for."""
    rest = [row for row in rows if row.group != group]
    if not rest or any(name.startswith(group) for name in names):
        raise ValueError(said)
    return rest
