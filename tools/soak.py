"""Calls of each kind again and again: memory stays level, threads and processes get the same bits.

    python tools/soak.py --calls 100000

Each kind of call runs so many times in this process, after a warm-up; its resident memory may then have grown by no
more than a little. Then 32 threads call one layer, and streams of their own; then children by fork, spawn and
forkserver do. The exit status is the number of kinds that failed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from rnnfast import LSTM, TBPTT, Dense, LSTMCell, Model, Recurrent, checkpoint, encoders, losses, optim
from rnnfast.description.cells import CATALOGUE

WARM = 200
GROWTH = 4 << 20  # bytes
THREADS = 32


def resident() -> int:
    """The bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kinds(folder: Path) -> dict[str, Callable[[], object]]:
    """The calls by name."""
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((6, 3, 4), np.float32), rng.standard_normal((6, 3, 5), np.float32)
    ids = rng.integers(0, 4, (6, 3))
    layer, described = LSTM(4, 5, 2, rng=0), Recurrent(CATALOGUE["slstm"], 4, 5, rng=0)
    cell, dense = LSTMCell(4, 5, rng=0), Dense(4, 5, activation="softmax", rng=0)
    model = Model(rnn=LSTM(4, 8, rng=0), head=Dense(8, 5, rng=1))
    optimizer, gradients = optim.Adam(layer.params), layer.params.zeros()
    trainer = TBPTT(copy.deepcopy(model), losses.mean_squared_error, _Still(), k1=6)
    stream, out = layer.stream(3), np.empty((3, 5), np.float32)

    def train(part: Any) -> None:
        y, _, tape = part.forward(x)
        part.backward(tape, y)

    def refused() -> None:
        with contextlib.suppress(ValueError):
            layer(x, lengths=[9, 9, 9])

    def save_and_load() -> None:
        checkpoint.save(folder / "a", model)
        checkpoint.load(folder / "a")

    return {
        "a layer's call": lambda: layer(x),
        "a layer's call with ids": lambda: layer(ids),
        "forward and backward": lambda: train(layer),
        "a described cell": lambda: train(described),
        "a refused call": refused,
        "a stream's step": lambda: stream.step(x[0], out),
        "a stream of its own": lambda: layer.stream(3).process(x),
        "a cell's step": lambda: cell(x[0]),
        "a head": lambda: dense(x),
        "a model": lambda: train(model),
        "a window": lambda: trainer.step(x, target),
        "an optimiser's step": lambda: optimizer.step(gradients),
        "a loss": lambda: losses.mean_squared_error(x, x),
        "an encoder": lambda: encoders.one_hot(ids, 4),
        "a new layer": lambda: LSTM(4, 5, rng=0),
        "new values": lambda: layer.load({name: np.array(value) for name, value in layer.params.items()}),
        "a copy": lambda: copy.deepcopy(layer),
        "a checkpoint": save_and_load,
    }


class _Still:
    """An optimiser that changes nothing, so that no number grows."""

    def step(self, gradients: Any) -> None:
        """Nothing."""


def grown(call: Callable[[], object], calls: int) -> int:
    """By how many bytes memory grows."""
    for _ in range(WARM):
        call()
    before = resident()
    for _ in range(calls):
        call()
    return resident() - before


def answers(_: Any = None) -> bytes:
    """The bits that every thread and every process must get."""
    layer, x = LSTM(16, 64, 2, rng=0), np.random.default_rng(0).standard_normal((20, 8, 16), np.float32)
    y, _, tape = layer.forward(x)
    gradients = layer.backward(tape, y).params.flat
    return bytes(y.tobytes() + gradients.tobytes() + layer.stream(8).process(x).tobytes())


def in_threads(calls: int) -> bool:
    """Whether threads get the same from one layer at once."""
    layer, x = LSTM(16, 64, 2, rng=0), np.random.default_rng(0).standard_normal((20, 8, 16), np.float32)
    expected = layer(x)[0].tobytes()

    def work(_: int) -> bool:
        stream = layer.stream(8)
        for _ in range(calls):
            stream.reset()
            if layer(x)[0].tobytes() != expected or stream.process(x).tobytes() != expected:
                return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        return all(pool.map(work, range(THREADS)))


def in_processes(method: str) -> bool:
    """Whether children get the same; this process has used its threads before."""
    expected = answers()
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(answers, range(4)) == [expected] * 4


def main() -> int:
    """Runs everything; returns how many kinds failed."""
    parser = argparse.ArgumentParser(description="Call everything again and again.")
    parser.add_argument("--calls", type=int, default=100_000)
    chosen = parser.parse_args()
    if sys.platform != "linux":
        print("skipped: memory is read from /proc")
        return 0
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rnnfast-soak-") as name:
        for kind, call in kinds(Path(name)).items():
            by = grown(call, chosen.calls)
            failed += by > GROWTH
            print(f"{kind}: {chosen.calls} calls, memory {by / 2**20:+.1f} MiB{' FAILED' * (by > GROWTH)}", flush=True)
    same = {f"{THREADS} threads": in_threads(max(1, chosen.calls // 1000))}
    same |= {method: in_processes(method) for method in ("fork", "spawn", "forkserver")}
    for kind, holds in same.items():
        failed += not holds
        print(f"{kind}: {'the same bits' if holds else 'other bits FAILED'}", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
