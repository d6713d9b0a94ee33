"""What is done, in order, so that whatever happens costs one item: a process per stage, and a line per item in a file.

A *stage* is a list of named items (checks, or rows). A process does the items that the file lacks and adds a line after
each. An item that raises ends its process, because after an illegal access every later call would raise as well; one
that hangs is ended by its watchdog, and one that adds nothing in spite of it is killed. The stage's next process goes
on with the next item. A run that dies keeps all lines; one with ``--resume`` does what they lack, and once more what
raised.

Rejected: a process per item (each takes seconds to import, to open the device and to compile), and one for all (it was
so: the first hang ended the run, and what was known with it).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environment import ROOT, watchdog

__all__ = ["AGAIN", "DONE", "HANGS", "MAX_FAILURES", "NOWHERE", "Journal", "Stage", "complete", "plain", "run", "spawn"]

DONE, NOWHERE, HANGS, AGAIN = 0, 2, 3, 4
"""How a stage's process ends: all done, can't run here, an item hung, an item raised and the next process goes on."""
MAX_FAILURES = 20
"""Of a stage; then it ends."""
_PATIENCE = 30.0  # seconds that a process has beyond an item's limit to start, or to end itself

_ANEW = {"raised", "facts"}  # keys of what a run that goes on does once more

Record = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """Items that are done one after the other.

    Attributes
    ----------
    name : str
    items : sequence
        Each with a `name` that no other item has.
    do : callable
        From an item to its record, in JSON's types; ``wrong`` in it is true if the item failed.
    show : callable
        From a record to the lines to print.
    limit : float
        Seconds for one item.
    deadline : float
        On `time.perf_counter`: no item begins later.
    """

    name: str
    items: Sequence[Any]
    do: Callable[[Any], Record]
    show: Callable[[Record], Sequence[str]]
    limit: float
    deadline: float = float("inf")


class Journal:
    """The file of lines, and what it says: the newest record of each item.

    Parameters
    ----------
    path : Path
    resume : bool
        Whether to go on with the file, in which what has raised is to be tried again. Else a file of that name is moved
        aside.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path.resolve()
        if resume:
            self.read()
            self._write({"resumed": time.strftime("%Y-%m-%d %H:%M")})
        elif path.exists():
            number = next(n for n in range(1, 10**6) if not Path(f"{path}.{n}").exists())
            path.rename(f"{path}.{number}")
        self.read()

    @classmethod
    def opened(cls, path: Path) -> Journal:
        """The file as another process has begun it."""
        journal = cls.__new__(cls)
        journal.path = path.resolve()
        journal.read()
        return journal

    def read(self) -> None:
        """Read the file anew. A last line that its process could not finish is no line."""
        self.records: dict[str, Record] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if "resumed" in record:
                self.records = {name: kept for name, kept in self.records.items() if not kept.keys() & _ANEW}
            else:
                self.records[record["name"]] = record

    def add(self, stage: str, name: str, record: Record) -> Record:
        """Append a line, which is on the disk when this returns."""
        self.records[name] = {"stage": stage, "name": name, **plain(record)}
        self._write(self.records[name])
        return self.records[name]

    def _write(self, record: Record) -> None:
        with open(self.path, "ab") as file:
            torn = file.tell() and self.path.read_bytes()[-1:] != b"\n"
            file.write(b"\n" * bool(torn) + json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def of(self, stage: str) -> list[Record]:
        """A stage's records."""
        return [record for record in self.records.values() if record["stage"] == stage]

    def failed(self, stage: str) -> list[Record]:
        """Those that are wrong or have raised."""
        return [record for record in self.of(stage) if record.get("wrong") or "raised" in record]


def plain(value: Any) -> Any:
    """Infinity, which JSON lacks, as the text "inf"."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return str(value) if value == float("inf") else value


def run(stage: Stage, journal: Journal, say: Say, *, alone: bool) -> int:
    """Do what the journal lacks.

    Parameters
    ----------
    stage : Stage
    journal : Journal
    say : callable
        Prints a line as it comes.
    alone : bool
        Whether the process is the stage's own, and ends when an item raises.

    Returns
    -------
    int
        `DONE` or `AGAIN`.
    """
    for item in stage.items:
        if item.name in journal:
            continue
        if len(journal.failed(stage.name)) >= MAX_FAILURES:
            say(f"  {MAX_FAILURES} {stage.name} have failed: the others are left out")
            break
        if time.perf_counter() > stage.deadline:
            break
        with watchdog(f"{stage.name}: {item.name}", stage.limit):
            try:
                record = stage.do(item)
            except Exception as raised:  # a kernel that does not compile, or a device that is gone
                said = " ".join(str(raised).split())[:400]
                record = {"raised": f"{type(raised).__name__}: {said}"}
        record = journal.add(stage.name, item.name, record)
        for line in [f"RAISED {item.name}: {record['raised']}"] if "raised" in record else stage.show(record):
            say(line)
        if "raised" in record and alone:
            return AGAIN
    return DONE


def complete(stage: Stage, journal: Journal, say: Say, start: Callable[[Stage], int]) -> None:
    """Start processes until a stage is done, or can't be; what ends one is put down to the item that it was at."""
    while time.perf_counter() <= stage.deadline:
        status = start(stage)
        journal.read()
        if status == DONE or len(journal.failed(stage.name)) >= MAX_FAILURES:
            return
        item = next((item for item in stage.items if item.name not in journal), None)
        if item is None:
            return
        if status != AGAIN:
            said = "hangs" if status == HANGS else f"its process ended with status {status}"
            journal.add(stage.name, item.name, {"raised": said, "status": status})
            say(f"RAISED {item.name}: {said}")
            if status == NOWHERE:
                return


def spawn(stage: Stage, path: Path, arguments: Sequence[str]) -> int:
    """Run a stage in a process of its own; its status."""
    command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.gpu", *arguments, "--stage", stage.name]
    return watch(subprocess.Popen(command, cwd=ROOT), path, stage.limit + _PATIENCE)


def watch(process: subprocess.Popen[bytes], path: Path, seconds: float) -> int:
    """The status of a process, which is killed once it has added no line for so long."""
    size = None
    while True:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            if size == (size := path.stat().st_size if path.exists() else 0):
                process.kill()
                process.wait()
                return HANGS
