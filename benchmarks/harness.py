"""What every benchmark here shares: the work, its answers, alternating clocks, and the facts printed beside a speed.

A speed on a shared machine is a ratio: ours, the peer and the FMA peak run alternately in one process, and medians are
compared. Before anything is timed, its answer is asserted against the float64 oracle. Rejected: timeit of each in turn
(the machine's speed drifts by half within a minute) and best-of-n (it compares different moments).
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import rnnfast
from rnnfast import _core, reference

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
KINDS = {"LSTM": "lstm", "GRU": "gru_after", "RNN": "elman_tanh"}


@dataclass(frozen=True)
class Work:
    """One layer over one batch: float32, one direction, one layer."""

    cell: str
    T: int
    B: int
    I: int  # noqa: E741  (the notation of docs/design.md)
    H: int

    @property
    def name(self) -> str:
        return f"{self.cell:4} T={self.T} B={self.B} I={self.I} H={self.H}"

    def flop(self, training: bool) -> float:
        """Multiply-adds of the matrix products, counted twice; three times as many with backward."""
        return (6.0 if training else 2.0) * GATES[self.cell] * self.H * (self.I + self.H) * self.T * self.B

    def layer(self) -> Any:
        return getattr(rnnfast, self.cell)(self.I, self.H, rng=0)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(1)
        return (
            rng.standard_normal((self.T, self.B, self.I), dtype=np.float32),
            rng.standard_normal((self.T, self.B, self.H), dtype=np.float32),
        )


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-30))


def assert_answers(work: Work) -> tuple[float, float]:
    """Forward and gradient errors of our layer on this very work against the oracle; raises beyond the contract."""
    layer = work.layer()
    x, dy = work.arrays()
    y, _, tape = layer.forward(x)
    grads = layer.backward(tape, dy)
    params = {name.removesuffix("_l0"): np.asarray(value, np.float64) for name, value in layer.params.items()}
    want = reference.forward(KINDS[work.cell], params, x.astype(np.float64))
    dwant = reference.backward(want, dy.astype(np.float64))
    forward = relative_error(y, want.y)
    backward = max(
        relative_error(grads.x, dwant.dx),
        *(relative_error(grads.params[f"{name}_l0"], value) for name, value in dwant.params.items()),
    )
    if not (forward <= 1e-5 and backward <= 1e-4):
        raise AssertionError(f"{work.name}: error {forward:.1e} forward, {backward:.1e} backward: nothing is timed")
    return forward, backward


def alternate(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, run in turn `rounds` times after one unmeasured turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def ours(work: Work, training: bool, threads: int) -> Callable[[], Any]:
    """A call of our layer: inference into a given array, or forward and backward on a reused tape."""
    layer = work.layer()
    x, dy = work.arrays()
    if not training:
        out = np.empty_like(dy)
        return lambda: layer(x, out=out, num_threads=threads)
    tape = None

    def step() -> None:
        nonlocal tape
        _, _, tape = layer.forward(x, tape=tape, num_threads=threads)
        layer.backward(tape, dy, num_threads=threads)

    return step


def pytorch(work: Work, training: bool, threads: int) -> Callable[[], Any] | None:
    """The same work in PyTorch, dx included in training; None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    module = getattr(torch.nn, work.cell)(work.I, work.H)
    x, dy = (torch.from_numpy(a) for a in work.arrays())
    if not training:

        def infer() -> None:
            with torch.inference_mode():
                module(x)

        return infer
    x.requires_grad_(True)

    def step() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        y, _ = module(x)
        y.backward(dy)

    return step


def facts(threads: int) -> str:
    """One line of what a speed depends on."""
    try:
        import torch

        peer = f"PyTorch {torch.__version__}"
    except ImportError:
        peer = "PyTorch not installed"
    return ", ".join(
        [
            f"rnnfast {rnnfast.__version__}",
            _core.isa(),
            f"{threads} thread(s)",
            _core.build_info()["compiler"],
            f"NumPy {np.__version__}",
            peer,
            f"Python {platform.python_version()}",
            platform.machine(),
        ]
    )
