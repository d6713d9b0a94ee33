"""``python -m benchmarks.gpu``: checks against the oracle, then times against PyTorch (cuDNN).

The status is 0 if every check passed and every row's results were right, whatever the times; 1 if not; 2 if the program
can't run here; 3 if something hung.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import environment
from .rows import ROWS, Row, quick, select

_ROUNDS, _QUICK_ROUNDS = 11, 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to time: a leading part of a name, or a glob")
    parser.add_argument("--list", action="store_true", help="show the rows and their targets, and do nothing")
    parser.add_argument("--quick", action="store_true", help="an eighth of the checks, a row of each group, few rounds")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--checks-only", action="store_true", help="no times")
    only.add_argument("--no-checks", action="store_true", help="times only")
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS", help="start no row later (300)")
    parser.add_argument("--rounds", type=int, default=None, help=f"of each row ({_ROUNDS}; quick: {_QUICK_ROUNDS})")
    parser.add_argument("--seed", type=int, default=None, help="of the random data; a new one by default")
    parser.add_argument("--json", type=Path, default=None, metavar="PATH", help="also write everything there")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


def main(
    arguments: Sequence[str] | None = None,
    *,
    cases: Any = None,
    bad_values: Any = None,
    layers: Any = None,
    rows: Sequence[Row] = ROWS,
) -> int:
    """The command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Of the command line by default.
    cases, bad_values, layers, rows : sequences, optional
        Other tables than the program's own.

    Returns
    -------
    int
        The status; see the module.
    """
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        chosen = select(asked.rows, rows)
    except ValueError as error:
        parser.error(str(error))
    if asked.list:
        _say("\n".join(f"{row.name:52} {row.target:.3g}x {row.against}" for row in chosen))
        return 0
    if said := environment.obstacle():
        print(said, file=sys.stderr)
        return 2
    begin = time.perf_counter()
    environment.prepare()
    from rnnfast.cuda import shim

    if not shim.available():
        print("no CUDA device, or no driver for it", file=sys.stderr)
        return 2
    from . import cases as table
    from . import checks, public, report, timings

    cases, bad_values = table.CASES if cases is None else cases, table.BAD_VALUES if bad_values is None else bad_values
    layers = public.CASES if layers is None else layers
    if asked.quick:
        cases, bad_values, chosen = table.thinned(cases, 8), bad_values[:2], quick(chosen)
    seed = secrets.randbits(31) if asked.seed is None else asked.seed
    facts = environment.facts() | {"seed": str(seed)}
    _say("\n".join(f"{name}: {value}" for name, value in facts.items()))

    outcomes: list[Any] = []
    if not asked.no_checks:
        count = len(table.planned_kernels([*cases, *bad_values]))
        _say(f"\n{len(cases)} cases, {len(bad_values)} with bad values; {count} persistent kernels to compile")
        outcomes = checks.run(cases, bad_values, seed, _say)
        if environment.compiled():
            outcomes += public.run(layers, seed, _say)
        else:
            _say("public layers: not checked, because the package is not compiled here")
        _say(f"checks took {time.perf_counter() - begin:.0f} s\n")

    results: list[Any] = []
    skipped: list[Row] = []
    raised: list[str] = []
    if not asked.checks_only:
        if said := environment.missing_peers():
            _say(said)
        _say(timings.heading())
        rounds = asked.rounds or (_QUICK_ROUNDS if asked.quick else _ROUNDS)
        results, skipped, raised = timings.run(chosen, seed, rounds, begin + asked.budget, _say)

    _say("\n" + "\n".join(f"{name}: {value}" for name, value in facts.items()))
    if not asked.checks_only:
        _say("\n" + "\n".join(report.table(results, skipped, raised)))
    failed = sum(bool(outcome.wrong) for outcome in outcomes)
    if not asked.no_checks:
        _say("\n" + "\n".join(checks.summary(outcomes)))
        _say(f"\n{len(outcomes)} checks, {failed} failed")
    if asked.json is not None:
        report.save(asked.json, facts, outcomes, results, skipped, raised)
    wrong = sum(result.wrong for result in results)
    _say(f"{'FAILED' if failed or wrong or raised else 'passed'} after {time.perf_counter() - begin:.0f} s")
    return int(bool(failed or wrong or raised))


if __name__ == "__main__":
    raise SystemExit(main())
