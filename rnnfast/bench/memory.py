"""The peak of resident memory during one training call, each in a process of its own: ours, or PyTorch's.

    python -m rnnfast.bench.memory COLUMN CELL T B I H

prints the bytes by which the peak exceeds what was resident when the call began, after a tiny call that has loaded
whatever is loaded late. Where Linux has it, the peak is that of `/proc/self/status`, which can be reset; `ru_maxrss`,
used elsewhere, would be the parent's peak there, because it survives `exec`.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from . import peers
from .ours import OURS
from .rows import Row
from .work import Work

__all__ = ["in_fresh_process"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def in_fresh_process(row: Row, column: str) -> int:
    """The bytes that one training call adds at its peak.

    Parameters
    ----------
    row : Row
    column : str
        "ours" or "PyTorch".

    Returns
    -------
    int

    Raises
    ------
    ChildProcessError
        The process failed.
    """
    sizes = [str(size) for size in (row.T, row.B, row.I, row.H)]
    command = [sys.executable, "-P", "-m", __name__, column, row.cell, *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(f"{row.name}: {column}: {(done.stderr.splitlines() or ['no message'])[-1]}")
    return int(done.stdout)


def peak(reset: bool = False) -> int:
    """The largest resident memory so far, in bytes; with `reset`, since now."""
    if _STATUS.exists():
        if reset:
            with suppress(OSError):  # not allowed in some containers: then it is the peak of the whole process
                _CLEAR.write_text("5")
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _main(column: str, cell: str, *sizes: str) -> None:
    make = (OURS["memory"] | peers.PEERS["memory"])[column]
    T, B, I, H = map(int, sizes)  # noqa: E741
    with peers.limited(1):
        make(Work(Row("memory", cell, 2, 2, 8, 8)), 1).loop(1)
        contestant = make(Work(Row("memory", cell, T, B, I, H)), 1)
        before = peak(reset=True)
        contestant.loop(1)
        print(peak() - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
