"""What is printed at the end, and saved: a reply may show no more of a run than its last lines."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rnnfast.bench import core

from .checks import Outcome
from .rows import GROUPS, Row
from .stages import plain
from .timings import Result

__all__ = ["entry", "result", "save", "table"]


def entry(found: Result) -> dict[str, Any]:
    """A result in JSON's types."""
    samples = found.samples
    return core.entry(found) | {
        "ours": samples.get("ours", []),
        "other": samples.get(found.row.against, []),
        "error": found.errors.get("ours"),
        "wrong": found.mark == "WRONG",
    }


def result(row: Row, record: dict[str, Any]) -> Result:
    """The result that an entry holds."""
    samples = {name: column["all"] for name, column in record["columns"].items()}
    return Result(row, samples, record["errors"], tuple(record["notes"]))


def table(results: Sequence[Result], skipped: Sequence[Row], raised: Sequence[str]) -> list[str]:
    """A line per group and precision, then the rows that fall short, and those that are missing."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for found in results:
        groups[found.row.group, found.row.precision].append(found)
    lines = ["group  precision   rows  ok  ratio: least, median, most   worst error"]
    for (group, precision), members in groups.items():
        ratios = sorted(found.ratio for found in members if found.samples and found.ratio is not None)
        spread = f"{ratios[0]:6.2f} {statistics.median(ratios):6.2f} {ratios[-1]:6.2f}" if ratios else f"{'-':>20}"
        errors = [error for found in members for error in found.errors.values()]
        good = sum(found.mark == "ok" for found in members)
        worst = f"{max(errors):.1e}" if errors else "-"
        lines.append(f"{group:6} {precision:9} {len(members):6} {good:3}  {spread}   {worst:>8}  {GROUPS[group]}")
    lines += ["", *core.summary(results)]
    lines += [f"RAISED {said}" for said in raised]
    if skipped:
        counts: dict[str, int] = defaultdict(int)
        for row in skipped:
            counts[f"{row.group}/{row.kind}/{row.precision}"] += 1
        lines.append("left out: " + ", ".join(f"{name} ({count})" for name, count in counts.items()))
    return lines


def save(
    path: Path,
    facts: dict[str, str],
    outcomes: Sequence[Outcome],
    results: Sequence[Result],
    skipped: Sequence[Row],
    raised: Sequence[str],
) -> None:
    """Write everything as JSON; an infinite error is the text "inf"."""
    found = {
        "facts": facts,
        "checks": [plain(asdict(outcome)) for outcome in outcomes],
        "rows": [plain(entry(found)) for found in results],
        "left out": [row.name for row in skipped],
        "raised": list(raised),
    }
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
