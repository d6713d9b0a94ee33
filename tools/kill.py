"""Kills `rnnfast train` at random moments, lets it resume, and compares the end with that of a run left alone.

    python tools/kill.py --times 100

A run that is killed with SIGKILL in the midst of anything (start, update, evaluation, the writing of a checkpoint)
must leave a checkpoint that loads, and must end with the same bits. The exit status is 0 if it does.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rnnfast import checkpoint

TRAIN = [sys.executable, "-P", "-m", "rnnfast", "train", "--text", "text", "--hidden", "16", "--batch-size", "4"]
TRAIN += ["--window", "10", "--steps", "400", "--checkpoint-every", "1", "--eval-every", "50", "--sample-length", "0"]
LATEST = 2.5  # seconds after a start; a run takes about one to begin


def content(path: Path) -> dict[str, Any]:
    """What decides how a run goes on, of a checkpoint that must be whole."""
    loaded = checkpoint.load(path)
    extra = {name: repr(loaded.extra[name]) for name in ("step", "trainer", "rng")}
    optimizer = {
        name: np.asarray(value).tobytes() for name, value in (loaded.optimizer or {}).items() if name != "name"
    }
    return {"weights": loaded.model.params.flat.tobytes(), **optimizer, **extra}


def killed(folder: Path, rng: np.random.Generator) -> bool:
    """Begin or go on, and kill after a random time; whether it was not at its end by then."""
    path = folder / "killed"
    before = content(path)["step"] if path.exists() else "0"
    process = subprocess.Popen(
        [*TRAIN, "--checkpoint", path.name, *(["--resume"] if path.exists() else [])],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    time.sleep(rng.uniform(0, LATEST))
    process.kill()
    _, errors = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"ended by itself: {errors.decode()}")
    if path.exists() and int(content(path)["step"]) < int(before):
        raise SystemExit("went back")
    return process.returncode != 0


def main() -> int:
    """Kills so many times; returns 0 if every run ended with the same bits."""
    parser = argparse.ArgumentParser(description="Kill training at random moments, and compare the ends.")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="rnnfast-kill-") as name:
        folder = Path(name)
        (folder / "text").write_text("".join(f"line {i}: naïve, {i * i}\n" for i in range(300)), encoding="utf-8")
        alone = subprocess.run([*TRAIN, "--checkpoint", "alone"], cwd=folder, capture_output=True)
        if alone.returncode:
            raise SystemExit(alone.stderr.decode())
        expected, times, ends = content(folder / "alone"), 0, 0
        while times < chosen.times or (folder / "killed").exists():
            if times < chosen.times:
                times += killed(folder, rng)
            else:
                subprocess.run([*TRAIN, "--checkpoint", "killed", "--resume"], cwd=folder, capture_output=True)
            if (folder / "killed").exists() and content(folder / "killed")["step"] == expected["step"]:
                if content(folder / "killed") != expected:
                    print("other bits than those of the run left alone")
                    return 1
                ends += 1
                os.remove(folder / "killed")
    print(f"{times} kills; {ends} runs ended with the bits of the run left alone")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
