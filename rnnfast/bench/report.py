"""What is shown of a run: the table, the JSON file, the plot.

Lines are printed as they come, since a whole run takes long; hence the columns' widths are fixed beforehand.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core, checkpoint, config
from .measure import Result, Verdict, columns
from .peers import installed
from .rows import FMA, GROUPS, Row

__all__ = ["Table", "facts", "heading", "listing", "plot", "save", "summary"]

_BYTES, _SECONDS = ("B", "kB", "MB", "GB"), ("ns", "us", "ms", "s")


def facts(rounds: int) -> dict[str, str]:
    """What the figures depend on, by name."""
    peers = {name: version or "not installed, not compared" for name, version in installed().items()}
    if find_spec("threadpoolctl") is None:
        peers["NumPy"] += " (its BLAS uses as many threads as it likes: threadpoolctl is not installed)"
    return {
        "rnnfast": config.version(),
        "instruction set": _core.isa(),
        "compiler": _core.build_info()["compiler"],
        **peers,
        "Python": platform.python_version(),
        "CPU": f"{_cpu()}, {_cpus()} usable",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "rounds": f"{rounds} (fewer, at least 3, where they take long)",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model} ({platform.machine()})" if model else platform.machine()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quantity(value: float | None, unit: str) -> str:
    """Three digits and a unit: 1.89 us, 25.3 ms, 19.7 MB."""
    if value is None:
        return "-"
    if unit == "s":
        value *= 1e9
    names = _SECONDS if unit == "s" else _BYTES
    power = next((power for power in range(3) if value < 999.5 * 1000**power), 3)
    value /= 1000**power
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {names[power]}"


class Table:
    """The text: a heading where a group begins, and a line per result.

    Parameters
    ----------
    rows : iterable of Row
        All that will come, for the widths.
    """

    _end = f"{'ratio':>7} {'speed':>12} {'ceiling':>7} {'error':>7}  {'mark':5} at least"

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        self._width = max((len(row.name) for row in rows), default=0)
        self._columns: dict[str, list[str]] = {}
        for row in rows:
            names = self._columns.setdefault(row.group, [])
            names += (name for name in columns(row) if name not in names)
        self._group = ""

    def lines(self, result: Result) -> Iterator[str]:
        """The lines to print for a result."""
        group, names = result.row.group, self._columns[result.row.group]
        if self._group != group:
            self._group = group
            yield f"\n{group}: {GROUPS[group]}"
            yield f"{'row':{self._width}} threads{''.join(f'{name:>{self._wide(name)}}' for name in names)} {self._end}"
        per = result.row.T if group == "process" else 1  # steps
        shown = ((name, result.median(name)) for name in names)
        times = "".join(
            f"{_quantity(None if value is None else value / per, result.row.unit):>{self._wide(name)}}"
            for name, value in shown
        )
        ratio = "-" if result.ratio is None else f"{result.ratio:.2f}"
        unit = "GFLOP/s" if result.row.ceiling == FMA else "GB/s"
        speed = "-" if result.rate is None else f"{result.rate / 1e9:.1f} {unit}"
        percent = "-" if result.fraction is None else f"{result.fraction:.0%}"
        end = f"{ratio:>7} {speed:>12} {percent:>7} {result.errors['ours']:>7.0e}  {result.mark:5} {_needs(result)}"
        if result.apart:
            end += f"; cores {_quantity(result.apart, 's')} apart"
        yield f"{result.row.name:{self._width}} {result.threads:7}{times} {end}".rstrip()

    @staticmethod
    def _wide(name: str) -> int:
        return max(len(name), 7) + 2


def _needs(result: Result) -> str:
    """What must be reached, what was, where that is less, and whether the need is beyond the ceiling."""

    def found(verdict: Verdict) -> str:
        if verdict.reached is None:
            return " (not compared)"
        if verdict.reached:
            return ""
        beyond = f"; asks {verdict.asks:.0%} of {result.row.ceiling}" if verdict.asks and verdict.asks > 1 else ""
        return f" (got {verdict.ratio:.3g}{beyond})"

    return ", ".join(verdict.need + found(verdict) for verdict in result.verdicts)


def _title(result: Result) -> str:
    return f"{result.row.name}, {result.threads} thread{'s' * (result.threads > 1)}"


def heading(found: dict[str, str]) -> str:
    """The table's head."""
    return "\n".join(f"{name}: {value}" for name, value in found.items())


def summary(results: Sequence[Result]) -> str:
    """How many rows reached what they must, and which did not."""
    count = Counter(result.mark for result in results)
    lines = [
        f"{len(results)} rows: {count['ok']} reach what they must, {count['SHORT']} fall short, "
        f"{count['open']} can't be judged without a peer, {count['-']} have no target."
    ]
    lines += (f"  SHORT {_title(result)}: {_needs(result)}" for result in results if result.mark == "SHORT")
    notes = [
        "ratio: the best peer's median to ours. ceiling: our part of the FMA peak (GFLOP/s) or, with one row, of the",
        "read bandwidth (GB/s) of a buffer as large as the weights that each step reads, measured in the same rounds.",
        "error: ours against the float64 oracle, relative to the largest value.",
    ]
    if any(result.apart for result in results):
        notes.append("cores apart: how long a cache line took from one to the other, in the same rounds.")
    if any("RTNeural" in str(need) for result in results for need in result.row.needs):
        notes.append("* RTNeural's figures are from another machine (a 2.5 GHz Skylake).")
    return "\n".join(["", *lines, "", *notes])


def listing(rows: Iterable[Row]) -> str:
    """Names and targets, without measuring."""
    rows = list(rows)
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.name:{width}}  {', '.join(map(str, row.needs))}".rstrip() for row in rows)


def as_json(found: dict[str, str], results: Iterable[Result]) -> dict[str, Any]:
    """Everything, in JSON's types."""

    def one(result: Result) -> dict[str, Any]:
        row = asdict(result.row)
        row["of"] = result.row.of and result.row.of.name
        return {
            "name": result.row.name,
            "row": row,
            "threads": result.threads,
            "unit": result.row.unit,
            "columns": {name: _spread(values) for name, values in result.samples.items()},
            "errors": result.errors,
            "flop": result.row.flop,
            "weight_bytes": result.row.weight_bytes,
            "bytes_read": result.row.bytes_read,
            "ratio": result.ratio,
            "speed": result.rate,
            "ceiling": result.row.ceiling,
            "fraction_of_ceiling": result.fraction,
            "needs": [verdict._asdict() for verdict in result.verdicts],
            "mark": result.mark,
        }

    return {"facts": found, "results": [one(result) for result in results]}


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


def save(path: Path, found: dict[str, str], results: Iterable[Result]) -> None:
    """Write the JSON file, whole or not at all."""
    checkpoint.write_atomically(path, (json.dumps(as_json(found, results), indent=1) + "\n").encode())


def plot(path: Path, found: dict[str, str], results: Iterable[Result]) -> None:
    """Draw the ratios to the best peer, on a logarithmic axis.

    Parameters
    ----------
    path : Path
        Its suffix decides the format.
    found : dict
        From `facts`.
    results : iterable of Result

    Raises
    ------
    ValueError
        Matplotlib is not installed, or does not know the format.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plot: needs matplotlib: pip install rnnfast[plot]") from None
    bars = [result for result in results if result.ratio is not None]
    figure = Figure(figsize=(8, 1.5 + 0.2 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [_title(result) for result in bars]
    colors = ["tab:red" if result.mark == "SHORT" else "tab:blue" for result in bars]
    axes.barh(range(len(bars)), [result.ratio or 1.0 for result in bars], color=colors)
    axes.set_yticks(range(len(bars)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the best peer (red: short of its target)")
    axes.set_title(f"rnnfast {found['rnnfast']}, {found['CPU']}", fontsize=8)
    figure.savefig(path, format=path.suffix[1:] or "png")
