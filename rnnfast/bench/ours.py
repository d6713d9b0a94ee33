"""Our own calls, as a user would write them: outputs given, tapes reused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle, repeat
from typing import Any

import numpy as np

import rnnfast

from ..losses import softmax_cross_entropy
from ..optim import Adam
from .described import FUSED, LSTM, PRODUCT
from .rows import CELLS, Row
from .work import CHECKED_WINDOWS, CLIP, LEARNING_RATE, Answer, Contestant, Work

__all__ = ["OURS", "Maker", "tape_bytes"]

Maker = Callable[[Work, int], Contestant]
"""Makes a contestant of a work and a number of threads."""


def repeated(call: Callable[[], object]) -> Callable[[int], None]:
    """A loop over a call that takes long enough for the loop not to matter."""

    def loop(n: int) -> None:
        for _ in repeat(None, n):
            call()

    return loop


def step(work: Work, threads: int, weights: str | None = None) -> Contestant:
    """A stream's steps."""
    stream = work.layer.stream(1, weights=weights, num_threads=threads)
    x, out = work.x[:, 0], np.empty(work.width, np.float32)
    given = work.masks.get("given", {})

    def at(t: int) -> Callable[..., Any]:
        """A step with what the cell is given at t, if anything."""
        return partial(stream.step, given={name: one[t, 0] for name, one in given.items()}) if given else stream.step

    def loop(n: int) -> None:
        step, first = at(0), x[0]
        for _ in repeat(None, n):
            step(first, out)

    def answer() -> Answer:
        stream.reset()
        return {"y": np.array([at(t)(x_t, out)[None].copy() for t, x_t in enumerate(x)])}

    return Contestant(work, loop, answer)


def step_bf16(work: Work, threads: int) -> Contestant:
    """A stream's steps, weights in bfloat16."""
    return step(work, threads, "bfloat16")


def cell(work: Work, threads: int) -> Contestant:
    """A cell's steps; two states take turns."""
    module = getattr(rnnfast, CELLS[work.row.cell][0] + "Cell")(work.row.I, work.row.H, rng=0)
    module.load(work.params)

    def state() -> Any:
        h, c = np.zeros((2, 1, work.row.H), np.float32)
        return (h, c) if work.row.cell == "lstm" else h

    def loop(n: int) -> None:
        x, one, other = work.x[0], state(), state()
        for _ in repeat(None, n):
            module(x, one, out=other)
            one, other = other, one

    def answer() -> Answer:
        h, y = state(), []
        for x in work.x:
            h = module(x, h)
            y.append(h[0] if work.row.cell == "lstm" else h)
        return {"y": np.array(y)}

    return Contestant(work, loop, answer)


def process(work: Work, threads: int) -> Contestant:
    """A block through a stream."""
    stream = work.layer.stream(1, num_threads=threads)
    x, out = work.x[:, 0], np.empty((work.row.T, work.row.H), np.float32)

    def answer() -> Answer:
        stream.reset()
        return {"y": stream.process(x, out)[:, None].copy()}

    return Contestant(work, repeated(lambda: stream.process(x, out)), answer)


def forward(work: Work, threads: int) -> Contestant:
    """Inference into a given array."""
    x, out = work.x, np.empty_like(work.dy)

    def answer() -> Answer:
        return {"y": work.layer(x, out=out, num_threads=threads, **work.masks)[0]}

    return Contestant(work, repeated(lambda: work.layer(x, out=out, num_threads=threads, **work.masks)), answer)


def training(work: Work, threads: int, masked: bool = True) -> Contestant:
    """Forward and backward on a reused tape."""
    layer, x, dy, out = work.layer, work.x, work.dy, np.empty_like(work.dy)
    masks: dict[str, Any] = work.masks if masked else {}
    tape = None

    def call() -> Any:
        nonlocal tape
        _, _, tape = layer.forward(x, out=out, tape=tape, num_threads=threads, **masks)
        return layer.backward(tape, dy, num_threads=threads)

    def answer() -> Answer:
        grads = call()
        params = {name.removesuffix("_l0"): value for name, value in grads.params.items()}
        return {"y": out * work.active, "dx": grads.x, **params}

    return Contestant(work, repeated(call), answer)


def padded(work: Work, threads: int) -> Contestant:
    """A ragged batch without its lengths: as dy is 0 beyond them, the gradients are the same."""
    return training(work, threads, masked=False)


def plain(work: Work, threads: int) -> Contestant:
    """The same sizes without a mask and with normal numbers: other work, with an answer of its own."""
    return training(Work(replace(work.row, group="training")), threads)


def characters(work: Work, threads: int) -> Contestant:
    """Windows of a text through `TBPTT`, from ids to updated weights."""

    def trainer() -> rnnfast.TBPTT:
        model = work.model()
        optimizer = Adam(model.params, LEARNING_RATE)
        return rnnfast.TBPTT(
            model, softmax_cross_entropy, optimizer, k1=work.row.T, clip_norm=CLIP, num_threads=threads
        )

    def answer() -> Answer:
        windows = list(zip(work.x, work.target, strict=True))[:CHECKED_WINDOWS]
        fresh = trainer()
        return {"loss": np.array([fresh.step(x, target).loss for x, target in windows])}

    running, windows = trainer(), cycle(zip(work.x, work.target, strict=True))
    return Contestant(work, repeated(lambda: running.step(*next(windows))), answer)


def python_threads(work: Work, threads: int) -> Contestant:
    """As many Python threads as given, run one layer, which makes two calls per turn in all."""
    outs = [np.empty_like(work.dy) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def calls(out: Any, n: int) -> None:
        for _ in repeat(None, n):
            work.layer(work.x, out=out, num_threads=1)

    def loop(n: int) -> None:
        list(pool.map(calls, outs, [2 * n // threads] * threads))

    def answer() -> Answer:
        loop(1)
        return {"y": max(outs, key=lambda out: float(np.abs(out - work.want["y"]).max()))}  # the worst

    return Contestant(work, loop, answer)


def described(work: Work, threads: int) -> Contestant:
    """A described cell, or one of the other groups': a step, inference or training, as the row says."""
    return {"step": step, "forward": forward, "training": training}[work.row.work](work, threads)


def fused(work: Work, threads: int, cell: str = "") -> Contestant:
    """The same work by the hand-fused kernel, of this cell or of another: an answer of its own."""
    row = replace(work.row, group=work.row.work, cell=cell or work.row.cell, needs=())
    return described(Work(row), threads)


class _Product(Work):
    """The product of a row's input with the weights of all gates, and its gradients."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.params = {"weight": self.params["weight_ih"], "bias": self.params["bias_ih"]}
        self.layer = rnnfast.Dense(row.I, len(self.params["bias"]))
        self.layer.load(self.params)
        self.dy = np.random.default_rng(3).standard_normal((*self.x.shape[:2], len(self.params["bias"])), np.float32)

    @property
    def want(self) -> Answer:
        weight, x, dy = (value.astype(np.float64) for value in (self.params["weight"], self.x, self.dy))
        found = {"y": x @ weight.T + self.params["bias"]}
        if self.row.trains:
            found |= {"dx": dy @ weight, "weight": np.einsum("tbo,tbi->oi", dy, x), "bias": dy.sum((0, 1))}
        return found


def product(work: Work, threads: int) -> Contestant:
    """The product with the input alone; with backward its two products more."""
    work = _Product(work.row)
    dense, x, tape = work.layer, work.x, None

    def call() -> Answer:
        nonlocal tape
        if not work.row.trains:
            return {"y": dense(x)}
        y, tape = dense.forward(x, tape=tape)
        grads = dense.backward(tape, work.dy)
        return {"y": y, "dx": grads.x, **grads.params}

    return Contestant(work, repeated(call), call)


OURS: dict[str, dict[str, Maker]] = {
    "step": {"ours": step},
    "step-bf16": {"ours": step_bf16, "float32 step": step},
    "cell": {"ours": cell},
    "process": {"ours": process},
    "forward": {"ours": forward},
    "training": {"ours": training},
    "ragged": {"ours": training, "ours padded": padded},
    "resets": {"ours": training, "ours without resets": plain},
    "denormals": {"ours": training, "ours on normal input": plain},
    "characters": {"ours": characters},
    "python-threads": {"ours": python_threads, "one thread": lambda work, threads: python_threads(work, 1)},
    "memory": {"ours": training},
    "cells": {"ours": described, LSTM: partial(fused, cell="lstm"), FUSED: fused, PRODUCT: product},
}
"""Per group: what is measured, first of all "ours", and the variants of it that are columns beside it."""


def tape_bytes(work: Work) -> int:
    """The bytes that a training call keeps from forward for backward.

    The tape's other buffers are backward's scratch: gradients in the kernels' layout ("dpanels"), as large as the
    weights whatever T and B are, and in stacks dx between layers ("dx", "second dx").
    """
    _, _, tape = work.layer.forward(work.x, **work.masks)
    work.layer.backward(tape, work.dy)
    scratch = ("dpanels", "dx", "second dx")
    kept = {
        key: buffer for key, buffer in tape._buffers.items() if (key if isinstance(key, str) else key[0]) not in scratch
    }
    return sum(buffer.nbytes for buffer in kept.values())
