"""What one call of a row of the benchmark executes: `python tools/instructions.py 'forward/lstm/*' step/gru/64`.

Instruction counts by Valgrind's callgrind, which other programs on the machine do not disturb: a row's calls are run
a few times and many times, in processes of their own, and the difference is shared out. Printed are the instructions of
a call, how many of them lie outside of the kernels (`rnnfast._core`: Python, NumPy, the stream's Cython, the system),
how many are multiply-adds on vectors, how many of those the products need (FLOP / 2 / lanes), and the share of needed
ones in all instructions. A core that starts two multiply-adds and some five instructions in a cycle is bound by the
products from a share of 40 % on; below, by what is around them.

Needs valgrind and objdump (Debian: `apt install valgrind binutils`); the kernels that are measured are those of AVX2,
which is what valgrind knows. Rejected: `perf stat` (the machines that this is run on are virtual and have no counters);
the name profile.py (beside a script of that name, Python's own module can't be imported).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rnnfast import _core
from rnnfast.bench.measure import contestants
from rnnfast.bench.rows import Row, select

MOST_FLOP = 4e9  # of a call: valgrind takes about two minutes for it
COST = re.compile(r"(0x[0-9a-f]+|[+-]\d+|\*)((?: (?:\d+|[+-]\d+|\*))*) (\d+)")
NAME = re.compile(r"(ob|cob)=\((\d+)\)(?: (.*))?")


def executed(name: str, calls: int, folder: str) -> tuple[Counter[int], int]:
    """The instructions of so many calls: of the compiled kernels by address, and all others."""
    out = Path(folder, "callgrind.out")
    command = ["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={out}"]
    command += [sys.executable, "-P", __file__, "--calls", str(calls), name]
    subprocess.run(command, check=True, capture_output=True)
    return counts(out.read_text().splitlines())


def counts(lines: list[str]) -> tuple[Counter[int], int]:
    """What a file of callgrind says, in its compressed form: addresses relative to the line before, names by number."""
    objects: dict[str, str] = {}
    inside: Counter[int] = Counter()
    outside, address, ours, called = 0, 0, False, False
    for line in lines:
        if found := NAME.fullmatch(line):
            kind, number, path = found.groups()
            objects.setdefault(number, path)
            ours = "/_core." in objects[number] if kind == "ob" else ours
        elif line.startswith("calls="):
            called = True  # the next line is the cost of what was called, which is counted where it was spent
        elif found := COST.fullmatch(line):
            place = found[1]
            if place != "*":
                address = int(place, 16) if place.startswith("0x") else address + int(place)
            if not called and ours:
                inside[address] += int(found[3])
            elif not called:
                outside += int(found[3])
            called = False
    return inside, outside


def multiply_adds(path: str) -> set[int]:
    """The addresses of vector multiply-adds in a compiled module."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", path]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = (re.match(r"\s*([0-9a-f]+):\s+vfn?m(?:add|sub)\d+p[sd]", line) for line in lines)
    return {int(match[1], 16) for match in found if match}


def profile(row: Row, fused: set[int], folder: str) -> str:
    """A line of the table."""
    calls = max(1, min(2000, int(2e8 / (row.flop + 1e5))))
    (few, outside_few), (many, outside_many) = (executed(row.name, n, folder) for n in (1, 1 + calls))
    inside, outside = many - few, (outside_many - outside_few) // calls
    total = sum(inside.values()) // calls + outside
    done, needed = sum(count for at, count in inside.items() if at in fused) // calls, row.flop / 2 / 8
    figures = f"{total:14,d} {outside:12,d} {done:14,d} {needed:14,.0f} {needed / total:7.0%}"
    return f"{row.name:38}{figures}"


def run(name: str, calls: int) -> None:
    """So many calls of a row, after one that is there in both processes."""
    (contestant,) = contestants(select([name])[0], 1, ["ours"]).values()
    contestant.loop(1 + calls)


def main() -> None:
    """Prints the table; or, in the process that valgrind runs, makes the calls."""
    if sys.argv[1:2] == ["--calls"]:
        return run(sys.argv[3], int(sys.argv[2]))
    missing = [tool for tool in ("valgrind", "objdump") if not shutil.which(tool)]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    try:
        rows = select(sys.argv[1:])
    except ValueError as error:
        raise SystemExit(str(error)) from None
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    fused = multiply_adds(_core.__file__)
    print(f"{'row':38}{'instructions':>14} {'outside':>12} {'multiply-adds':>14} {'needed':>14} {'share':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            if row.of is None and row.unit == "s" and row.group != "python-threads" and row.flop <= MOST_FLOP:
                print(profile(row, fused, folder), flush=True)
    return None


if __name__ == "__main__":
    main()
