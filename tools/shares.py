"""Where the time of a row of the benchmark goes: `python tools/shares.py --threads 2 'training/lstm/*' forward/rnn`.

Samples of the running program by `perf`: a row's calls are made a few times and many times, in processes of their own,
and the difference is shared out by the function that was running:

- products: the loops of the matrix products, the only part that the share of the FMA peak speaks of
- cells: activations and the cells' own arithmetic, forward and backward, with the tape's reading and writing
- packing: the weights' gradients' operands turned and packed, and their results read and written
- steps: everything else in the kernels: who is whose row, the way into a product, waiting for other threads
- outside: Python, NumPy, the system (and there threads that have waited for some microseconds)

Needs perf (Debian: `apt install linux-perf`), on Linux, and a build that has its functions' names, `pip install . -C
install.strip=false`. Rejected: instruction counts (`tools/instructions.py`; Valgrind knows no AVX-512, and the tool no
second thread), hardware counters (virtual machines often have none; the clock does).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rnnfast.bench.measure import contestants
from rnnfast.bench.rows import Row, plan, select

FREQUENCY = 4000  # samples a second of each thread
LONG = 3.0  # seconds or so that the many calls take
GROUPS = {  # the first that is found in a function's name
    "products": ("::multiply<", "::tiles<"),
    "packing": ("::turn<", "::weight_gradients<"),
    "cells": ("::phase<", "::transition", "::start(", "::second_phase"),
    "steps": ("rnnfast::",),
    "outside": ("",),
}
LINE = re.compile(r"\s*[\d.]+%\s+(\d+)\s+(\S+)\s+\[(.)\] (.+)")


def group(module: str, function: str) -> str:
    """The group of `GROUPS` that a function belongs to."""
    if module.startswith("_core.") and function.startswith("0x"):
        raise SystemExit("this build has no names of functions: pip install . -C install.strip=false")
    return next(name for name, parts in GROUPS.items() if any(part in function for part in parts))


def output(command: list[str]) -> str:
    """What a command prints; if it fails, what it says of that ends this script."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} {command[1]}: {done.stderr.strip()}")
    return done.stdout


def samples(row: str, threads: int, calls: int, folder: str) -> Counter[str]:
    """The samples of so many calls, by group."""
    data = Path(folder, "perf.data")
    record = ["perf", "record", "--quiet", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", str(data)]
    ours = [sys.executable, "-P", __file__, "--calls", str(calls), "--threads", str(threads), row]
    output([*record, *ours])
    report = ["perf", "report", "-i", str(data), "--stdio", "--no-children"]
    report += ["--show-nr-samples", "--sort", "dso,symbol"]
    found: Counter[str] = Counter()
    for line in output(report).splitlines():
        if match := LINE.match(line):
            found[group(match[2], match[4])] += int(match[1])
    return found


def line(row: Row, threads: int, folder: str) -> str:
    """A line of the table."""
    calls = max(3, int(LONG / (row.flop / (1.5e11 * threads) + (2e-7 if row.single_step else 2e-5))))
    found = samples(row.name, threads, 1 + calls, folder)
    found.subtract(samples(row.name, threads, 1, folder))
    total = sum(max(0, found[name]) for name in GROUPS)
    if not total:
        raise SystemExit(f"{row.name}: perf took no sample")
    shares = "".join(f"{max(0, found[name]) / total:10.0%}" for name in GROUPS)
    return f"{row.name:38}{threads:8}{shares}"


def main() -> None:
    """Prints the table; or, in the process that perf looks at, makes the calls."""
    parser = argparse.ArgumentParser(description="Where the time of a row of the benchmark goes.")
    parser.add_argument("row", nargs="+")
    parser.add_argument("--threads", type=int, action="append", help="by default 1; may be given several times")
    parser.add_argument("--calls", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    threads = arguments.threads or [1]
    if min(threads) < 1:
        parser.error(f"argument --threads: expected at least 1, got {min(threads)}")
    if arguments.calls is not None:
        (contestant,) = contestants(select(arguments.row)[0], threads[0], ["ours"]).values()
        contestant.loop(arguments.calls)
        return
    if not shutil.which("perf"):
        raise SystemExit("not installed: perf")
    try:
        rows = plan(arguments.row, threads)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"{'row':38}{'threads':>8}{''.join(f'{name:>10}' for name in GROUPS)}")
    with tempfile.TemporaryDirectory() as folder:
        for row, count in rows:
            if row.of is None and row.unit == "s":
                print(line(row, count, folder), flush=True)


if __name__ == "__main__":
    main()
