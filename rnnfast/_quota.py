"""The CPU quota of the process's control group, such as a container's `--cpus=2`, which no count of CPUs shows.

Threads beyond a quota are stopped for the rest of each period, and the others wait for them at barriers.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

from . import _core

__all__ = ["cpus", "limit_default_threads"]


def cpus(root: Path = Path("/")) -> float:
    """The CPUs' worth of time that the process may use; infinity without a limit.

    `root` is where /proc and /sys are. Both versions of control groups are read; a limit may be on any ancestor.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    found = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            if not controllers:
                found.append(_read(root / "sys/fs/cgroup" / group / "cpu.max"))
            elif "cpu" in controllers.split(","):
                folder = root / "sys/fs/cgroup/cpu" / group
                found.append(_read(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    return min(found)


def _read(*files: Path) -> float:
    """The quotient of the two numbers in the files: time in each period; negative or "max" is no limit."""
    try:
        time, period = " ".join([file.read_text() for file in files]).split()
        return int(time) / int(period) if int(time) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def limit_default_threads() -> None:
    """Take no more threads by default than the quota is worth, unless the environment says how many."""
    allowed = cpus()
    if allowed < _core.get_num_threads() and not os.environ.keys() & {"RNNFAST_NUM_THREADS", "OMP_NUM_THREADS"}:
        _core.set_num_threads(max(1, int(allowed)))
