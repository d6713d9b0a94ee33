"""What is printed at the end, and saved: a reply may show no more of a run than its last lines."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .checks import Outcome
from .rows import GROUPS, Row
from .timings import Result, heading, line

__all__ = ["save", "table"]


def table(results: Sequence[Result], skipped: Sequence[Row], raised: Sequence[str]) -> list[str]:
    """A line per group and precision, then the rows that fall short, and those that are missing."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.row.group, result.row.precision].append(result)
    lines = ["group  precision   rows  ok  ratio: least, median, most   worst error"]
    for (group, precision), members in groups.items():
        ratios = sorted(result.ratio for result in members if result.ratio is not None)
        spread = f"{ratios[0]:6.2f} {statistics.median(ratios):6.2f} {ratios[-1]:6.2f}" if ratios else f"{'-':>20}"
        errors = [result.error for result in members if result.error is not None]
        good = sum(result.mark == "ok" for result in members)
        worst = f"{max(errors):.1e}" if errors else "-"
        lines.append(f"{group:6} {precision:9} {len(members):6} {good:3}  {spread}   {worst:>8}  {GROUPS[group]}")
    bad = [result for result in results if result.mark in ("SHORT", "WRONG")]
    if bad:
        lines += ["", heading(), *map(line, bad)]
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
    found: dict[str, Any] = {
        "facts": facts,
        "checks": [_plain(asdict(outcome)) for outcome in outcomes],
        "rows": [
            _plain(asdict(result)) | {"name": result.row.name, "ratio": result.ratio, "mark": result.mark}
            for result in results
        ],
        "left out": [row.name for row in skipped],
        "raised": list(raised),
    }
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return str(value) if value == float("inf") else value
