"""What every benchmark of the project shares: rows and needs, turns, verdicts, and the report.

`rnnfast bench` and `benchmarks/gpu` are tables of rows, contestants that do a row's work, and this. Nothing is timed
before its answer has been compared. Nothing compiled is imported here, because `benchmarks/gpu` also runs where the
package has not been built.

How contestants take turns (`alternate`):

A) A speed on a shared machine is a ratio of times from the same moments. Rejected: timing each in turn (the machine's
   speed drifts by half within a minute), and the best of n (it compares different moments).
B) Calls that take less than a turn are made in batches that take as long, so that neither the clock's resolution nor
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
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

__all__ = [
    "BEST",
    "Column",
    "Need",
    "Result",
    "Table",
    "Verdict",
    "WrongAnswer",
    "alternate",
    "compare",
    "entry",
    "error",
    "host_clock",
    "listing",
    "quantity",
    "select",
    "summary",
]

BEST = "best peer"
TURN = 5e-3
"""Seconds that a turn takes at least."""
BUDGET = 30.0
"""Seconds after which a row ends, once it has had three rounds."""
WARM = 0.1
"""Seconds of calls that are not counted, at least, after each pause."""
_BYTES, _SECONDS = ("B", "kB", "MB", "GB"), ("ns", "us", "ms", "s")

Loop = Callable[[int], object]
"""``loop(n)`` makes n calls."""
Clock = Callable[[Loop, int], float]
"""``clock(loop, n)`` is the seconds that n calls take in all."""
Row = TypeVar("Row", bound=Any)
"""What is timed: a frozen dataclass with a `name` (parts with slashes between them), the name's first part as `group`,
and `needs`, a tuple of `Need`. What is merely chosen by name needs no more than that."""


# Rows


@dataclass(frozen=True)
class Need:
    """What a row must reach: `ratio` times the speed of something else.

    Attributes
    ----------
    against : str
        A column of the table, `BEST`, or whatever the suite's `Result.other` knows; or a name for `seconds`.
    ratio : float
        The least ratio of the other's time to ours.
    seconds : float, optional
        The other's time, where it is not measured here.
    above : float
        It is asked only where the other takes at least so many seconds.
    """

    against: str
    ratio: float
    seconds: float | None = None
    above: float = 0.0

    def __str__(self) -> str:
        if self.seconds is None and self.ratio < 1:
            return f"{self.ratio:.0%} of {self.against}"
        return f"{self.ratio:.3g}x {self.against}"


def select(names: Iterable[str], rows: Sequence[Row], what: str = "row") -> list[Row]:
    """The rows of some names, in the table's order.

    Parameters
    ----------
    names : iterable of str
        Names, leading parts of names (``forward``, ``forward/lstm``) or globs (``'*/gru/*'``); all rows if there are
        none.
    rows : sequence
        The table.
    what : str
        The argument's name, for the message.

    Returns
    -------
    list

    Raises
    ------
    ValueError
        A name selects nothing.
    """

    def selects(name: str, row: Any) -> bool:
        return f"{row.name}/".startswith(f"{name.rstrip('/')}/") or fnmatchcase(row.name, name)

    names = list(names)
    for name in names:
        if not any(selects(name, row) for row in rows):
            groups = ", ".join(dict.fromkeys(row.name.partition("/")[0] for row in rows))
            raise ValueError(
                f"{what}: expected a name, a leading part or a glob of one (groups: {groups}); got {name!r}"
            )
    return [row for row in rows if not names or any(selects(name, row) for name in names)]


# Answers


class WrongAnswer(ValueError):
    """A contestant's answer is not the oracle's; it is not timed."""


def error(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest expected value; infinite if missing, misshapen or not finite."""
    if found is None or found.shape != expected.shape:
        return math.inf
    difference = np.abs(np.subtract(found, expected, dtype=np.float64)).max(initial=0.0)
    relative = float(difference / max(np.abs(expected).max(initial=0.0), 1e-30))
    return relative if math.isfinite(relative) else math.inf


def compare(where: str, got: Mapping[str, Any], want: Mapping[str, Any], allowed: Callable[[str], float]) -> float:
    """Compare an answer with the oracle's.

    Parameters
    ----------
    where : str
        For the message.
    got, want : mapping of str to array
    allowed : callable
        From an array's name to the largest error allowed, relative to its largest value.

    Returns
    -------
    float
        The largest error.

    Raises
    ------
    WrongAnswer
        An array is missing, of another shape, or wrong.
    """
    if {key: value.shape for key, value in got.items()} != {key: value.shape for key, value in want.items()}:
        raise WrongAnswer(f"{where}: expected the arrays {sorted(want)}, got {sorted(got)} or other shapes; not timed")
    errors = {key: error(got[key], value) for key, value in want.items()}
    for key, found in errors.items():
        if not found <= allowed(key):
            raise WrongAnswer(f"{where}: error {found:.1e} in {key}, at most {allowed(key):.0e} is allowed; not timed")
    return max(errors.values())


# Turns


def host_clock(loop: Loop, calls: int) -> float:
    """Seconds by the host's clock."""
    begin = time.perf_counter()
    loop(calls)
    return time.perf_counter() - begin


def alternate(
    loops: Mapping[str, Loop],
    probes: Mapping[str, Callable[[], float]],
    rounds: int,
    pause: float = 0.0,
    *,
    clock: Clock = host_clock,
    first: int = 1,
) -> dict[str, list[float]]:
    """Run loops in turn, a few rounds, each in another order.

    Parameters
    ----------
    loops : mapping of str to callable
    probes : mapping of str to callable
        What is measured once a round besides, each by itself.
    rounds : int
        At most; fewer, but not less than three, where they would take more than `BUDGET` seconds.
    pause : float
        Seconds before each turn.
    clock : callable
    first : int
        Calls that each makes before anything is timed.

    Returns
    -------
    dict of str to list of float
        Seconds per call, and what the probes returned, per round.
    """
    turns = {name: _calls_per_turn(loop, clock, first) for name, loop in loops.items()}
    rounds = min(rounds, max(3, int(BUDGET / sum(max(TURN, seconds) for _, seconds in turns.values()))))
    samples: dict[str, list[float]] = {name: [] for name in (*loops, *probes)}
    with _no_garbage_collection():
        for number in range(rounds):
            for name in random.Random(number).sample(list(loops), len(loops)):
                loop, calls = loops[name], turns[name][0]
                if pause:
                    time.sleep(pause)
                    _warm_up(loop, WARM, clock)
                else:
                    loop(1)
                samples[name].append(clock(loop, calls) / calls)
            if pause and probes:
                time.sleep(pause)
                _warm_up(lambda _: [probe() for probe in probes.values()], WARM, host_clock)
            for name, probe in probes.items():
                samples[name].append(probe())
    return samples


def _calls_per_turn(loop: Loop, clock: Clock, first: int) -> tuple[int, float]:
    """How many calls a turn makes, and the seconds that it takes."""
    loop(first)
    _warm_up(loop, 2 * TURN, clock)
    calls, seconds = 1, 0.0
    while seconds < TURN / 2:
        calls *= 4 if seconds else 1
        seconds = clock(loop, calls)
    per_call = seconds / calls
    return max(1, round(TURN / per_call)), max(TURN, per_call)


def _warm_up(loop: Loop, seconds: float, clock: Clock) -> None:
    """Call for so long; by the clock, because a device's calls return before they are done."""
    spent = 0.0
    while spent < seconds:
        spent += clock(loop, 1)


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


# Results


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
class Result(Generic[Row]):
    """What was measured of a row.

    Attributes
    ----------
    row : Row
    samples : dict of str to list of float
        By column, in the order of the rounds: "ours", and whatever else was measured. Empty if the answer was wrong.
    errors : dict of str to float
        Of each contestant against the oracle, relative to the largest value.
    notes : tuple of str
        What else there is to say.
    """

    row: Row
    samples: dict[str, list[float]]
    errors: dict[str, float]
    notes: tuple[str, ...] = ()

    def median(self, column: str) -> float | None:
        """Of a column, None if it was not measured."""
        return statistics.median(self.samples[column]) if self.samples.get(column) else None

    @property
    def ours(self) -> float:
        """The median of our own."""
        return statistics.median(self.samples["ours"])

    @property
    def best_peer(self) -> float | None:
        """The median that `ratio` is about, None if there is none."""
        return None

    @property
    def every_peer(self) -> bool:
        """Whether all peers that the row has were measured. To be ahead of some is not yet to be ahead of the best."""
        return True

    @property
    def ratio(self) -> float | None:
        """Of the best peer's time to ours."""
        return None if self.best_peer is None else self.best_peer / self.ours

    @property
    def fraction(self) -> float | None:
        """Of the ceiling, where there is one."""
        return None

    @property
    def ceiling(self) -> str | None:
        """The name of what bounds the row."""
        return None

    def other(self, need: Need) -> float | None:
        """The time that a need sets against ours, None where it was not measured."""
        return need.seconds or (self.best_peer if need.against == BEST else self.median(need.against))

    @property
    def verdicts(self) -> list[Verdict]:
        """Of the row's needs, as far as they apply."""
        verdicts = []
        for need in self.row.needs:
            other = self.other(need)
            if other is None:
                verdicts.append(Verdict(str(need), None, None))
            elif other >= need.above:
                reached: bool | None = other / self.ours >= need.ratio
                reached = None if reached and need.against == BEST and not self.every_peer else reached
                part = self.fraction and self.fraction * need.ratio * self.ours / other
                verdicts.append(Verdict(str(need), other / self.ours, reached, part))
        return verdicts

    @property
    def mark(self) -> str:
        """SHORT if a need is not met, open if one lacks its peer, ok if all are met, - if there is none; or WRONG."""
        if not self.samples:
            return "WRONG"
        reached = [verdict.reached for verdict in self.verdicts]
        return "SHORT" if False in reached else "open" if None in reached else "ok" if reached else "-"

    def cell(self, column: str) -> str:
        """A column's median, as the table shows it."""
        return quantity(self.median(column), "s")

    @property
    def remarks(self) -> list[str]:
        """What stands behind the needs in the table."""
        return list(self.notes)

    @property
    def needs(self) -> str:
        """What must be reached; what was, where that is less; and whether the need is beyond the ceiling."""
        if not self.samples:
            return ", ".join(map(str, self.row.needs))

        def found(verdict: Verdict) -> str:
            if verdict.reached is None:
                return " (not compared)"
            if verdict.reached:
                return ""
            beyond = f"; asks {verdict.asks:.0%} of {self.ceiling}" if verdict.asks and verdict.asks > 1 else ""
            return f" (got {verdict.ratio:.3g}{beyond})"

        return ", ".join(verdict.need + found(verdict) for verdict in self.verdicts)


AnyResult = Result[Any]


# The report. Lines are printed as they come, since a whole run takes long; hence the columns' widths are fixed before.


def quantity(value: float | None, unit: str) -> str:
    """Three digits and a unit: 1.89 us, 25.3 ms, 19.7 MB."""
    if value is None:
        return "-"
    if unit == "s":
        value *= 1e9
    names = _SECONDS if unit == "s" else _BYTES
    power = next((power for power in range(3) if value < 999.5 * 1000**power), 3)
    value /= 1000**power
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {names[power]}"


class Column(NamedTuple):
    """Of the text, besides times: what stands above it, how wide it is, and what it shows of a result."""

    head: str
    width: int
    text: Callable[[Any], str]


RATIO = Column("ratio", 7, lambda result: "-" if result.ratio is None else f"{result.ratio:.2f}")
ERROR = Column("error", 7, lambda result: f"{result.errors['ours']:.0e}" if "ours" in result.errors else "-")


class Table:
    """The text: a heading where a group begins, and a line per result.

    Parameters
    ----------
    rows : iterable of Row
        All that will come, for the widths.
    groups : mapping of str to str
        What each group is.
    times : callable
        From a row to the columns of times.
    before, after : sequence of Column
        On either side of the times.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        groups: Mapping[str, str],
        times: Callable[[Row], Iterable[str]],
        before: Sequence[Column] = (),
        after: Sequence[Column] = (RATIO, ERROR),
    ) -> None:
        rows = list(rows)
        self._groups, self._before, self._after = groups, before, after
        self._width = max((len(row.name) for row in rows), default=0)
        self._times: dict[str, list[str]] = {}
        for row in rows:
            names = self._times.setdefault(row.group, [])
            names += (name for name in times(row) if name not in names)
        self._group = ""

    def lines(self, result: AnyResult) -> Iterator[str]:
        """The lines to print for a result."""
        group = result.row.group
        if self._group != group:
            self._group = group
            yield f"\n{group}: {self._groups[group]}"
            yield self._line(group, "row", str, lambda column: column.head, "mark", "at least")
        rest = "; ".join(filter(None, [result.needs, *result.remarks]))
        yield self._line(group, result.row.name, result.cell, lambda column: column.text(result), result.mark, rest)

    def _line(
        self, group: str, name: str, time: Callable[[str], str], text: Callable[[Column], str], mark: str, rest: str
    ) -> str:
        before, after = ("".join(f" {text(one):>{one.width}}" for one in part) for part in (self._before, self._after))
        times = "".join(f"{time(one):>{max(len(one), 7) + 2}}" for one in self._times[group])
        return f"{name:{self._width}}{before}{times}{after}  {mark:5} {rest}".rstrip()


def summary(results: Sequence[AnyResult]) -> list[str]:
    """How many rows reached what they must, and which did not."""
    count = Counter(result.mark for result in results)
    wrong = f"{count['WRONG']} are wrong, " if count["WRONG"] else ""
    lines = [
        f"{len(results)} rows: {wrong}{count['ok']} reach what they must, {count['SHORT']} fall short, "
        f"{count['open']} can't be judged without a peer, {count['-']} have no target."
    ]
    bad = [result for result in results if result.mark in ("SHORT", "WRONG")]
    return lines + [f"  {result.mark} {title(result)}: {result.needs}" for result in bad]


def title(result: AnyResult) -> str:
    """A result's name, with its threads if it says how many."""
    threads: int | None = getattr(result, "threads", None)
    return f"{result.row.name}" + ("" if threads is None else f", {threads} thread{'s' * (threads > 1)}")


def heading(facts: Mapping[str, str]) -> str:
    """What the figures depend on, above and below the table."""
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def listing(rows: Iterable[Any]) -> str:
    """Names and targets, without measuring."""
    rows = list(rows)
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.name:{width}}  {', '.join(map(str, row.needs))}".rstrip() for row in rows)


def entry(result: AnyResult) -> dict[str, Any]:
    """A result in JSON's types."""
    return {
        "name": result.row.name,
        "row": asdict(result.row),
        "columns": {name: _spread(values) for name, values in result.samples.items() if values},
        "errors": result.errors,
        "ratio": result.ratio if result.samples else None,
        "needs": [verdict._asdict() for verdict in result.verdicts] if result.samples else [],
        "mark": result.mark,
        "notes": list(result.notes),
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    low, high = np.quantile(values, (0.25, 0.75))
    median = statistics.median(values)
    return {
        "median": median,
        "quartiles": [float(low), float(high)],
        "min": min(values),
        "max": max(values),
        "all": values,
    }
