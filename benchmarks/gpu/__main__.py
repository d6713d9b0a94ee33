"""``python -m benchmarks.gpu``: checks against the oracle, then times against PyTorch (cuDNN).

The status is 0 if every check passed and every row's results were right, whatever the times; 1 if not; 2 if the program
can't run here; 3 if something hung.
"""

from __future__ import annotations

import argparse
import math
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from . import environment
from .stages import HANGS, NOWHERE, Journal, Stage, complete, run, spawn

_ROUNDS, _QUICK_ROUNDS = 11, 5
_CHECK, _CELL, _ROW, _FACTS = 60.0, 180.0, 180.0, 90.0  # seconds after which one hangs; cells compile a dozen kernels


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="rows to time: a leading part of a name, or a glob")
    add("--list", action="store_true", help="show the rows and their targets, and do nothing")
    add("--quick", action="store_true", help="an eighth of the checks, a row of each group, few rounds")
    add("--checks", action="append", default=[], metavar="KIND[/PRECISION]", help="only these checks; several may be")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--checks-only", action="store_true", help="no times")
    only.add_argument("--no-checks", action="store_true", help="times only")
    add(
        "--budget",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="start no row later, counted from the first (300)",
    )
    add("--rounds", type=int, default=None, help=f"of each row ({_ROUNDS}; quick: {_QUICK_ROUNDS})")
    add("--seed", type=int, default=None, help="of the random data; a new one by default")
    add("--lines", type=Path, default=Path("gpu-benchmark.jsonl"), metavar="PATH", help="a line after every item")
    add("--resume", action="store_true", help="do only what that file lacks, and what raised")
    add("--json", type=Path, default=None, metavar="PATH", help="also write everything there at the end")
    add("--one-process", action="store_true", help="no processes: a hang then ends the run")
    add("--stage", help=argparse.SUPPRESS)  # what a process of its own does
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


class _Tables:
    """What is to be done: the checks and the rows that are asked for.

    Parameters
    ----------
    asked : argparse.Namespace
    cases, bad_values, layers, cells, rows : sequences or None
        Tables; None: the program's own.
    """

    def __init__(
        self, asked: argparse.Namespace, cases: Any, bad_values: Any, layers: Any, cells: Any, rows: Any
    ) -> None:
        from rnnfast.bench import core

        from . import cases as table
        from . import checks, described, public
        from .rows import quick

        if cells is None:
            cells = table.DESCRIBED if cases is None else ()
        cases = table.CASES if cases is None else cases
        bad_values = table.BAD_VALUES if bad_values is None else bad_values
        layers = public.CASES if layers is None else layers
        if asked.quick:
            cases, bad_values, rows = table.thinned(cases, 8), bad_values[:2], quick(rows)
            cells = table.thinned(cells, 8)
        all_checks = [checks.Check("", checks.check_case, case) for case in cases]
        all_checks += [checks.Check("bad values ", checks.check_bad_values, case) for case in bad_values]
        if environment.compiled():
            all_checks += [checks.Check("public layers ", public.check, case) for case in layers]
        of_cells = [checks.Check("described ", described.check, case) for case in cells]
        chosen = [] if asked.no_checks else core.select(asked.checks, [*all_checks, *of_cells], "checks")
        self.cells = [one for one in chosen if one.run is described.check]
        self.checks = [one for one in chosen if one.run is not described.check]
        self.rows = [] if asked.checks_only else rows
        # The public layers are not there where the package is not compiled.
        self.possible = [row for row in self.rows if row.group != "layer" or environment.compiled()]


def _facts(tables: _Tables, seed: int) -> dict[str, Any]:
    """What figures depend on; ends the process where there is no device."""
    from rnnfast.cuda import cache, shim

    from . import cases

    if not shim.available():
        print("no CUDA device, or no driver for it", file=sys.stderr)
        raise SystemExit(2)
    found = environment.facts() | {"seed": str(seed)}
    if tables.checks:
        kernels = cases.planned_kernels([check.case for check in tables.checks])
        found["checks"] = f"{len(tables.checks)}, for which {len(kernels)} persistent kernels are compiled"
    found["checks of described cells"] = str(len(tables.cells))
    found["compiled kernels are kept in"] = str(cache.folder())
    return found


def _stages(asked: argparse.Namespace, tables: _Tables, seed: int) -> list[Stage]:
    """Facts, checks, checks of described cells, rows: correctness before speed."""
    from rnnfast.bench import core

    from . import report, rows, timings

    doing: object = None

    def check(one: Any) -> dict[str, Any]:
        nonlocal doing
        if doing != (doing := (one.title, one.case.kind, one.case.precision)):
            _say(f"checking {one.title}{one.case.kind} {one.case.precision}")
        return asdict(one.run(one.case, seed))

    def wrong(record: dict[str, Any]) -> list[str]:
        return [f"  WRONG {record['name']} (seed {seed}): {line}" for line in record["wrong"]]

    timer = timings.Timer(seed, asked.rounds or (_QUICK_ROUNDS if asked.quick else _ROUNDS))
    table = core.Table(tables.possible, rows.GROUPS, lambda row: ["ours", row.against])
    by_name = {row.name: row for row in tables.rows}
    facts = SimpleNamespace(name="facts")
    return [
        *[Stage("facts", [facts], lambda _: {"facts": _facts(tables, seed)}, _shown, _FACTS)],
        *[Stage("checks", tables.checks, check, wrong, _CHECK)],
        *[Stage("cells", tables.cells, check, wrong, _CELL)],
        Stage(
            *("rows", tables.possible, lambda row: report.entry(timer(row))),
            *(lambda record: list(table.lines(report.result(by_name[record["name"]], record))), _ROW),
        ),
    ]


def _bounded(stage: Stage, budget: float) -> Stage:
    """The stage as it begins now: rows have so many seconds, however long the checks before them took."""
    return replace(stage, deadline=time.perf_counter() + budget) if stage.name == "rows" else stage


def _shown(record: dict[str, Any]) -> list[str]:
    """Facts as lines."""
    return [f"{name}: {value}" for name, value in record["facts"].items()]


def main(
    arguments: Sequence[str] | None = None,
    *,
    cases: Any = None,
    bad_values: Any = None,
    layers: Any = None,
    cells: Any = None,
    rows: Any = None,
) -> int:
    """The command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Of the command line by default.
    cases, bad_values, layers, cells, rows : sequences, optional
        Other tables than the program's own; then there are no processes, which would not know them.

    Returns
    -------
    int
        The status; see the module.
    """
    begin = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    asked = parser.parse_args(arguments)
    alone = asked.one_process or any(table is not None for table in (cases, bad_values, layers, cells, rows))
    environment.prepare()
    from rnnfast.bench import core

    from .rows import ROWS

    try:
        chosen = core.select(asked.rows, ROWS if rows is None else rows)
        if asked.list:
            _say(core.listing(chosen))
            return 0
        if said := environment.obstacle():
            print(said, file=sys.stderr)
            return 2
        tables = _Tables(asked, cases, bad_values, layers, cells, chosen)
    except ValueError as error:
        parser.error(str(error))
    if asked.stage:
        (stage,) = (one for one in _stages(asked, tables, asked.seed) if one.name == asked.stage)
        stage = _bounded(stage, asked.budget)
        return run(stage, Journal.opened(asked.lines), _say, alone=True)
    try:
        return _all(asked, arguments, tables, begin, alone)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")


def _all(asked: argparse.Namespace, arguments: Sequence[str], tables: _Tables, begin: float, alone: bool) -> int:
    """All stages, in processes or in this one, and the report."""
    before = Journal.opened(asked.lines).records.get("facts", {}).get("facts", {}) if asked.resume else {}
    journal = Journal(asked.lines, asked.resume)
    seed = asked.seed if asked.seed is not None else int(before.get("seed", secrets.randbits(31)))

    def start(stage: Stage) -> int:
        if alone:
            try:
                return run(stage, journal, _say, alone=False)
            except SystemExit as end:
                return int(end.code or 0)
        left = [] if math.isinf(stage.deadline) else ["--budget", f"{stage.deadline - time.perf_counter():.1f}"]
        return spawn(stage, journal.path, [*arguments, "--seed", str(seed), "--lines", str(journal.path), *left])

    for stage in _stages(asked, tables, seed):
        stage = _bounded(stage, asked.budget)
        if stage.name == "rows" and tables.rows and (said := environment.missing_peers()):
            _say(said)
        complete(stage, journal, _say, start)
        _say(f"{stage.name}: done at {time.perf_counter() - begin:.0f} s\n")
        if stage.name == "facts":
            found = journal.records["facts"]
            if "raised" in found:
                return found["status"] if found.get("status") in (NOWHERE, HANGS) else 1
            facts = found["facts"]
            if other := [name for name in ("device", "driver") if before.get(name, facts[name]) != facts[name]]:
                print(f"resume: {asked.lines} is of another {' and '.join(other)}", file=sys.stderr)
                return 2
    return _report(asked, tables, journal, begin)


def _report(asked: argparse.Namespace, tables: _Tables, journal: Journal, begin: float) -> int:
    """What the journal says, printed and saved; the status."""
    from . import checks, report

    every = [*tables.checks, *tables.cells]
    outcomes = [checks.outcome(one.case, journal.records[one.name]) for one in every if one.name in journal]
    done = [(row, journal.records[row.name]) for row in tables.rows if row.name in journal]
    results = [report.result(row, record) for row, record in done if "raised" not in record]
    raised = [f"{row.name}: {record['raised']}" for row, record in done if "raised" in record]
    skipped = [row for row in tables.rows if row.name not in journal]
    facts = journal.records["facts"]["facts"]
    _say("\n".join(f"{name}: {value}" for name, value in facts.items()))
    if tables.rows:
        _say("\n" + "\n".join(report.table(results, skipped, raised)))
    failed = sum(bool(outcome.wrong) for outcome in outcomes)
    if every:
        _say("\n" + "\n".join(checks.summary(outcomes)))
        _say(f"\n{len(outcomes)} checks, {failed} failed; {len(every) - len(outcomes)} left out")
    if asked.json is not None:
        report.save(asked.json, facts, outcomes, results, skipped, raised)
    bad = bool(failed or raised or any(result.mark == "WRONG" for result in results))
    _say(f"{'FAILED' if bad else 'passed'} after {time.perf_counter() - begin:.0f} s; lines: {journal.path}")
    return HANGS if any(record.get("status") == HANGS for record in journal.records.values()) else int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
