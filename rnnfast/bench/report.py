"""What is shown of a run: the table, the JSON file, the plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import _core, checkpoint, config
from . import core
from .core import heading, listing
from .measure import Result, columns
from .peers import installed, library
from .rows import FMA, GROUPS, Row

__all__ = ["Table", "facts", "heading", "listing", "plot", "save", "sentence", "summary"]


def facts(rounds: int) -> dict[str, str]:
    """What the figures depend on, by name."""
    peers = {name: version or "not installed, not compared" for name, version in installed().items()}
    if find_spec("threadpoolctl") is None:
        peers["NumPy"] += " (its BLAS uses as many threads as it likes: threadpoolctl is not installed)"
    return {
        "CPU": f"{_cpu()}, {_cpus()} usable",
        "rnnfast": config.version(),
        "instruction set": _core.isa(),
        "compiler": _core.build_info()["compiler"],
        **peers,
        "Python": platform.python_version(),
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


def _speed(result: Result) -> str:
    unit = "GFLOP/s" if result.row.ceiling == FMA else "GB/s"
    return "-" if result.rate is None else f"{result.rate / 1e9:.1f} {unit}"


def _ceiling(result: Result) -> str:
    return "-" if result.fraction is None else f"{result.fraction:.0%}"


_BEFORE = [core.Column("threads", 7, lambda result: str(result.threads))]
_AFTER = [core.RATIO, core.Column("speed", 12, _speed), core.Column("ceiling", 7, _ceiling), core.ERROR]


class Table(core.Table):
    """The text of a run over some rows."""

    def __init__(self, rows: Iterable[Row]) -> None:
        super().__init__(rows, GROUPS, columns, _BEFORE, _AFTER)


def summary(results: Sequence[Result]) -> str:
    """How many rows reached what they must, and which did not."""
    notes = [
        "ratio: the best peer's median to ours. ceiling: our part of the FMA peak (GFLOP/s) or, with one row, of the",
        "read bandwidth (GB/s) of a buffer as large as the weights that each step reads, measured in the same rounds.",
        "error: ours against the float64 oracle, relative to the largest value.",
    ]
    if any(result.apart for result in results):
        notes.append("cores apart: how long a cache line took from one to the other, in the same rounds.")
    if any("RTNeural" in str(need) for result in results for need in result.row.needs):
        notes.append("* RTNeural's figures are from another machine (a 2.5 GHz Skylake).")
    return "\n".join(["", *core.summary(results), "", *notes])


def sentence(found: dict[str, str], results: Sequence[Result]) -> str:
    """What one can tell others: how many times as fast as the best peer, and where; "" where nothing was compared."""
    compared = [result for result in results if result.ratio is not None and result.row.unit == "s"]
    if not compared:
        return ""
    ratios = [result.ratio for result in compared if result.ratio is not None]
    names = sorted({library(name) for result in compared for name in result.samples} - {""}, key=list(found).index)
    peers = " and ".join(filter(None, [", ".join(f"{name} {found[name]}" for name in names[:-1]), names[-1]]))
    peers += f" {found[names[-1]]}"
    threads = sorted({result.threads for result in compared})
    count = f"{' and '.join(map(str, threads))} thread{'s' * (threads != [1])}"
    rows = f"the median of {len(ratios)} rows, which go from {min(ratios):.1f} to {max(ratios):.1f}"
    fastest = f"the fastest of {peers}" if len(names) > 1 else peers
    return (
        f"On {found['CPU']}, with {count}, rnnfast {found['rnnfast']} is {statistics.median(ratios):.1f} times as fast "
        f"as {fastest} ({rows if len(ratios) > 1 else 'one row'})."
    )


def as_json(found: dict[str, str], results: Iterable[Result]) -> dict[str, Any]:
    """Everything, in JSON's types."""

    def one(result: Result) -> dict[str, Any]:
        row, found = result.row, core.entry(result)
        found["row"]["of"] = row.of and row.of.name
        return found | {
            "threads": result.threads,
            "unit": row.unit,
            "flop": row.flop,
            "weight_bytes": row.weight_bytes,
            "bytes_read": row.bytes_read,
            "speed": result.rate,
            "ceiling": row.ceiling,
            "fraction_of_ceiling": result.fraction,
        }

    return {"facts": found, "results": [one(result) for result in results]}


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
    names = [core.title(result) for result in bars]
    colors = ["tab:red" if result.mark == "SHORT" else "tab:blue" for result in bars]
    axes.barh(range(len(bars)), [result.ratio or 1.0 for result in bars], color=colors)
    axes.set_yticks(range(len(bars)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the best peer (red: short of its target)")
    axes.set_title(f"rnnfast {found['rnnfast']}, {found['CPU']}", fontsize=8)
    figure.savefig(path, format=path.suffix[1:] or "png")
