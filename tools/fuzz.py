"""Calls everything public with good, odd and wrong arguments, and says what crashed, hung or answered wrongly.

    python tools/fuzz.py --calls 1000000 --jobs 2
    python tools/fuzz.py --seed 5 --only 1234     # one call again, in this process

Call number n of a seed is always the same call. A call is good, or the same numbers in another make (a list, Fortran
order, ...), or has one or two arguments spoiled. Good ones must be accepted, and their answers are compared with the
oracle; a spoiled one may be accepted or refused, but

- an error must be the package's own: ``argument: expected ..., got ...``, a ValueError or a TypeError;
- what is refused has written nothing;
- no call takes more than a few seconds, none ends the process, none warns.

Calls run in batches, each a process of its own: the one that is running when it dies or stops is the one to blame.
The exit status is the number of different findings.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_calls
import fuzz_values

BATCH = 5000
HANGS = 60.0  # seconds of one call after which its process is ended
SLOW = 3.0  # seconds of processor time of one call
MEMORY = 6 << 30  # bytes of address space that a batch may have

# Errors that a call may end in, and what their messages begin with.
OURS = re.compile(r"[^:]*: (.* )?(expected|cannot be|can't be)", re.DOTALL)
ALSO_OURS = re.compile(
    r".*(not a valid rnnfast checkpoint|damaged, or not a checkpoint of rnnfast|made by layer\.stream)"
)


AS_THEY_ARE = ("out", "into", "flat", "value")  # what is written to, and states whose lists have a meaning


class Finding(NamedTuple):
    """What one call did that it should not."""

    number: int
    call: str
    what: str


def one_call(seed: int, number: int, *, show: bool = False) -> tuple[str, str | None]:
    """Make a call; its name with its arguments, and what is wrong with how it ended."""
    rng = np.random.default_rng([seed, number])
    try:
        call = fuzz_calls.make(rng)
    except Exception as error:
        return "no call", f"the fuzzer itself failed: {type(error).__name__}: {error}"
    arguments, good = _changed(rng, call.arguments)
    good = good and call.sound
    shown = f"{call.name}({', '.join(f'{name}={_show(value)}' for name, value in arguments.items())})"
    before = [np.array(array) for array in call.kept]
    start = time.process_time()
    try:
        answer = call.function(**arguments)
    except MemoryError:
        return shown, "MemoryError" if good else None
    except Exception as error:
        if show:
            traceback.print_exc()
        wrong = _judged(error, good)
        if wrong is None and any(
            not np.array_equal(*pair, equal_nan=True) for pair in zip(before, call.kept, strict=True)
        ):
            wrong = f"refused ({error}), and has written all the same"
        return shown, wrong
    if (seconds := time.process_time() - start) > SLOW:
        return shown, f"took {seconds:.0f} s"
    if not good or call.check is None:
        return shown, None
    try:
        call.check(answer)
    except AssertionError as error:
        return shown, f"a wrong answer: {error}"
    return shown, None


def _changed(rng: np.random.Generator, arguments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The arguments, perhaps made otherwise or spoiled; whether they are still good."""
    kind = rng.random()
    if kind < 0.3 or not arguments:
        return arguments, True
    if kind < 0.4 and not any(name in AS_THEY_ARE for name in arguments):
        return {name: fuzz_values.another_make(rng, value) for name, value in arguments.items()}, True
    changed = dict(arguments)
    for name in rng.choice(list(arguments), 1 if kind < 0.8 else 2):
        changed[name] = fuzz_values.spoiled(rng, arguments[name])
    return changed, False


def _judged(error: Exception, good: bool) -> str | None:
    text = f"{type(error).__name__}: {error}"
    if good:
        return f"a good call was refused: {text}"
    kind = type(error)
    package = kind.__module__.startswith("rnnfast")
    if str(error) == fuzz_values.HOSTILE or re.match(r".*takes .* arguments?", str(error)):
        return None  # the caller's own object or function has raised it
    known = kind in (ValueError, TypeError, FileNotFoundError) or package
    if known and (OURS.match(str(error)) or ALSO_OURS.match(str(error))):
        return None
    return f"not an error of ours: {text}"


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {list(value.shape)}>"
    try:
        return repr(value)[:200]
    except Exception as error:  # of a list inside itself, for one
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _forbid_warnings() -> None:
    """But those of ours."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", OURS.pattern, UserWarning)


# Batches


def run_batch(seed: int, first: int, stop: int, progress: str) -> None:
    """Make the calls; print findings as lines of JSON; keep the number of the running call in the file `progress`."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _forbid_warnings()
    os.chdir(tempfile.mkdtemp(dir=Path(progress).parent))
    with open(progress, "r+b") as file, mmap.mmap(file.fileno(), 8) as running:
        for number in range(first, stop):
            running[:] = number.to_bytes(8, "little")
            shown, wrong = one_call(seed, number)
            if wrong is not None:
                print(json.dumps(Finding(number, shown, wrong)), flush=True)


class Batch:
    """A process that makes calls, and starts again behind one that ended or stopped it."""

    def __init__(self, seed: int, first: int, stop: int, folder: str) -> None:
        self._seed, self._stop = seed, stop
        self._path = Path(folder, f"{first}")
        self._start(first)

    def _start(self, first: int) -> None:
        self._path.write_bytes(first.to_bytes(8, "little"))
        self._output = open(f"{self._path}.out", "w+")  # noqa: SIM115 - as long as the process
        numbers = (str(number) for number in (self._seed, first, self._stop))
        command = [sys.executable, __file__, "--batch", *numbers, str(self._path)]
        self._process = subprocess.Popen(command, stdout=self._output, stderr=self._output)
        self._seen, self._since = -1, time.monotonic()

    def poll(self) -> tuple[bool, list[Finding]]:
        """Whether all calls are made, and what was found since."""
        status = self._process.poll()
        at = int.from_bytes(self._path.read_bytes(), "little")
        if at != self._seen:
            self._seen, self._since = at, time.monotonic()
        hangs = status is None and time.monotonic() - self._since > HANGS
        if status is None and not hangs:
            return False, []
        if hangs:
            self._process.kill()
            self._process.wait()
        self._output.seek(0)
        lines = self._output.read().splitlines()
        self._output.close()
        found = [Finding(*json.loads(line)) for line in lines if line.startswith("[")]
        if status == 0:
            return True, found
        said = " / ".join(line for line in lines if not line.startswith("["))[-300:]
        what = f"did not end in {HANGS:.0f} s" if hangs else f"ended the process: status {status} {said}"
        found.append(Finding(at, f"call {at}", what))
        if at + 1 >= self._stop:
            return True, found
        self._start(at + 1)
        return False, found


def findings(seed: int, calls: int, jobs: int) -> Iterator[Finding]:
    """All findings of so many calls."""
    with tempfile.TemporaryDirectory(prefix="rnnfast-fuzz-") as folder:
        waiting = [(first, min(first + BATCH, calls)) for first in range(0, calls, BATCH)][::-1]
        running: list[Batch] = []
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Batch(seed, *waiting.pop(), folder))
            time.sleep(0.05)
            for batch in list(running):
                done, found = batch.poll()
                yield from found
                if done:
                    running.remove(batch)


def main() -> int:
    """Prints the findings, of each kind the first; returns how many kinds there are."""
    parser = argparse.ArgumentParser(description="Call everything public with good, odd and wrong arguments.")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="make this one call, here, and show its error")
    parser.add_argument("--batch", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.batch:
        seed, first, stop = map(int, chosen.batch[:3])
        run_batch(seed, first, stop, chosen.batch[3])
        return 0
    if chosen.only is not None:
        _forbid_warnings()
        signal.alarm(int(HANGS))
        with tempfile.TemporaryDirectory(prefix="rnnfast-fuzz-") as folder:
            os.chdir(folder)
            print("\n".join(str(line) for line in one_call(chosen.seed, chosen.only, show=True)))
        return 0
    kinds: dict[str, int] = {}
    for found in findings(chosen.seed, chosen.calls, chosen.jobs):
        kind = found.call.partition("(")[0] + re.sub(r"\d+|'.*?'", "#", found.what)[:90]
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] == 1:
            print(f"{found.number}: {found.call}\n    {found.what}", flush=True)
    print(f"seed {chosen.seed}: {chosen.calls} calls, {sum(kinds.values())} findings of {len(kinds)} kinds")
    return len(kinds)


if __name__ == "__main__":
    raise SystemExit(min(main(), 100))
