"""The clock: ours and the other take turns in one process, and medians are compared.

A) A turn is a pair of device events around so many calls that it takes `TURN` seconds at least, both contestants'
   alike: a call's way through Python then runs beside the device's work on the call before, as in a training loop.
B) Before that each is called three times with every set of inputs, by which time kernels are compiled, graphs
   captured, and memory is in the pools.
C) Where PyTorch can say it in float64 (without resets, and soon enough), the row's own results are compared, before
   anything is timed.

Rejected: the best of n (it compares different moments); each contestant in a run of its own (a GPU's clock drifts with
its temperature).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rnnfast.cuda import arrays, shim

from .contestants import Contestant, Data, exact, ours, peer
from .environment import compiled, missing_peers, watchdog
from .problems import BOUNDS, error, poison
from .rows import BARRIER, SHORTER, UNMASKED, Row

__all__ = ["Result", "alternate", "measure", "run"]

TURN = 3e-3
"""Seconds that a turn takes at least."""
_MOST_CALLS = 500
_CHEAP = 4e7  # elements of y up to which the host compares them
_WATCH = 180.0  # seconds after which a row counts as hung


@dataclass(frozen=True)
class Result:
    """Of a row.

    Attributes
    ----------
    row : Row
    ours, other : list of float
        Seconds per time step, by round; the other's is empty where it is missing.
    error : float or None
        The worst of y and the gradients, relative to an array's largest value; None where nothing says what is exact.
    wrong : bool
        Whether the error is beyond what the precision allows.
    """

    row: Row
    ours: list[float]
    other: list[float]
    error: float | None
    wrong: bool

    @property
    def ratio(self) -> float | None:
        """Of the other's median to ours."""
        return statistics.median(self.other) / statistics.median(self.ours) if self.other else None

    @property
    def mark(self) -> str:
        """WRONG, SHORT of its target, ok, or - where the other is missing."""
        if self.wrong:
            return "WRONG"
        return "-" if self.ratio is None else "ok" if self.ratio >= self.row.target else "SHORT"


def _clock(call: Contestant, calls: int, first: int) -> float:
    """Seconds per call, of so many calls from the first-th on."""
    if shim.SIMULATED:
        begin = time.perf_counter()
        for i in range(first, first + calls):
            call(i)
        return (time.perf_counter() - begin) / calls
    cuda = arrays.xp().cuda
    begin, end = cuda.Event(), cuda.Event()
    begin.record()
    for i in range(first, first + calls):
        call(i)
    end.record()
    end.synchronize()
    return float(cuda.get_elapsed_time(begin, end)) * 1e-3 / calls


def alternate(contestants: Mapping[str, Contestant], sets: int, rounds: int) -> dict[str, list[float]]:
    """Run contestants in turn.

    Parameters
    ----------
    contestants : mapping of str to callable
    sets : int
        Of inputs; all are used in the calls that are not counted.
    rounds : int

    Returns
    -------
    dict of str to list of float
        Seconds per call, by round.
    """
    calls = {}
    for name, call in contestants.items():
        _clock(call, 3 * sets, 0)
        calls[name] = max(1, min(_MOST_CALLS, math.ceil(TURN / max(_clock(call, sets, 0), 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, call in contestants.items():
            samples[name].append(_clock(call, calls[name], number * calls[name]))
    return samples


def measure(row: Row, data: Data, seed: int, rounds: int) -> Result:
    """Check a row's results, then time it."""
    call, results = ours(row, data)
    found = None
    comparable = row.mask != "resets" and row.T * row.B * row.H <= _CHEAP
    if results is not None and missing_peers() is None and comparable:
        for array in (results.y, results.dx):
            poison(array)
        call(0)
        found = _worst(results.results(row.work), exact(row, data))
    contestants, steps = {"ours": call}, {"ours": row.T}
    if missing_peers() is None or row.against in (BARRIER, UNMASKED, SHORTER):
        contestants["other"], steps["other"] = peer(row, data, seed)
    samples = alternate(contestants, len(data.x), rounds)
    per_step = {name: [value / steps[name] for value in values] for name, values in samples.items()}
    wrong = found is not None and not found <= max(BOUNDS[row.precision])
    return Result(row, per_step["ours"], per_step.get("other", []), found, wrong)


def _worst(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    return max(error(arrays.to_host(found[name]), value) for name, value in expected.items())


def run(
    rows: Iterable[Row], seed: int, rounds: int, deadline: float, say: Callable[[str], None]
) -> tuple[list[Result], list[Row], list[str]]:
    """Measure rows.

    Parameters
    ----------
    rows : iterable of Row
    seed, rounds : int
    deadline : float
        On `time.perf_counter`; rows that have not begun by then are left out.
    say : callable
        Prints a line as it comes.

    Returns
    -------
    results : list of Result
    skipped : list of Row
        Those left out, for want of time or of the compiled package.
    raised : list of str
        What rows have raised.
    """
    results: list[Result] = []
    skipped: list[Row] = []
    raised: list[str] = []
    data, of = None, None
    for row in rows:
        if time.perf_counter() > deadline or (row.group == "layer" and not compiled()):
            skipped.append(row)
            continue
        with watchdog(row.name, _WATCH):
            try:
                if of != (of := (row.kind, row.data)):
                    data = None
                    _free_memory()
                    data = Data(row, seed)
                result = measure(row, data, seed, rounds)
            except Exception as error_raised:  # the next row may do
                said = " ".join(str(error_raised).split())[:300]
                raised.append(f"{row.name}: {type(error_raised).__name__}: {said}")
                say(f"RAISED {raised[-1]}")
                continue
        results.append(result)
        say(line(result))
    return results, skipped, raised


def _free_memory() -> None:
    """What the rows before have left in the pools, CuPy's and PyTorch's, goes back to the device."""
    if shim.SIMULATED:
        return
    arrays.xp().get_default_memory_pool().free_all_blocks()
    if missing_peers() is None:
        import torch

        torch.cuda.empty_cache()


def heading() -> str:
    """Above the lines."""
    return f"{'row':52} {'ours':>7} {'other':>7} {'ratio':>6} {'target':>6}  mark  {'error':>7}  against (us per step)"


def line(result: Result) -> str:
    """One row's result."""
    row, ratio = result.row, result.ratio
    mine = f"{statistics.median(result.ours) * 1e6:.2f}"
    other = f"{statistics.median(result.other) * 1e6:.2f}" if result.other else "-"
    relative = "-" if ratio is None else f"{ratio:.2f}"
    off = "-" if result.error is None else f"{result.error:.1e}"
    figures = f"{mine:>7} {other:>7} {relative:>6} {row.target:>6.3g}"
    return f"{row.name:52} {figures}  {result.mark:5} {off:>7}  {row.against}"
