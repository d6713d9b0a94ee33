"""The table of what is timed: each row with the time that it is compared with, and the ratio that it must reach.

All times are per time step, so that rows of different lengths can be compared. I = H, one layer, one direction. Rows
stand in the order in which they are measured: a run that is out of time leaves out the last ones, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from rnnfast.bench.core import Need
from rnnfast.description.cells import CATALOGUE

__all__ = ["GROUPS", "ROWS", "Row", "quick"]

GROUPS = {
    "floor": "forward, against one barrier of the whole grid",
    "small": "H <= 128, against cuDNN's kernels for small layers",
    "main": "H 256 to 1024, against cuDNN",
    "elman": "Elman, against cuDNN",
    "large": "large layers, against cuDNN",
    "long": "T = 2048, against cuDNN",
    "linear": "T = 2048, against ours at T = 256",
    "masks": "lengths or resets, against ours without",
    "fp16": "bfloat16 against cuDNN's persistent kernel for fp16",
    "stream": "a step of B = 1 by a call of its own, against PyTorch's cell",
    "layer": "the public layer, against cuDNN (where the package is compiled)",
    "block": "block GRU of 8 heads with resets, against published times of torchrl's Triton kernel on a GB200",
    "flash": "bfloat16 LSTM of one head and of 24, against FlashRNN's published times on an H100",
    "cells": "every described cell, beside our LSTM of the same size",
}

CUDNN, FP16, CELL, BARRIER = "cuDNN", "cuDNN fp16", "PyTorch's cell", "grid barrier"
UNMASKED, SHORTER, OUR_LSTM = "ours unmasked", "ours at T=256", "our LSTM"
OWN = (BARRIER, UNMASKED, SHORTER, OUR_LSTM)
"""Those that take no other library."""
TORCHRL, FLASHRNN = "torchrl's Triton", "FlashRNN"

_LIMIT = 16384  # rows times units up to which the higher ratio is asked for


@dataclass(frozen=True)
class Row:
    """What is timed.

    Attributes
    ----------
    group : str
        Of `GROUPS`.
    kind, precision : str
    T, B, H : int
    work : {"forward", "training"}
        Inference, or forward and backward with dx.
    against : str
        Whose time it is compared with.
    target : float
        The least ratio of the other's time to ours; 0 for none.
    mask : {"none", "lengths", "resets"}
    seconds : float, optional
        The other's time for a step, where it is published and not measured here.
    """

    group: str
    kind: str
    precision: str
    T: int
    B: int
    H: int
    work: str
    against: str
    target: float
    mask: str = "none"
    seconds: float | None = None

    @property
    def name(self) -> str:
        """What selects it, like ``main/lstm/tf32/T256-B16-H512/forward``."""
        parts = [self.group, self.kind, self.precision, f"T{self.T}-B{self.B}-H{self.H}", self.work]
        return "/".join(parts + ([] if self.mask == "none" else [self.mask]))

    @property
    def needs(self) -> tuple[Need, ...]:
        """The target, if there is one."""
        return (Need(self.against, self.target, self.seconds),) if self.target else ()

    @property
    def data(self) -> tuple[int, int, int, str]:
        """What decides its arrays: rows of one layer that follow each other share them."""
        return self.T, self.B, self.H, self.mask


_WORKS = ("forward", "training")
_MAIN = [(B, H) for H in (256, 512, 768, 1024) for B in (1, 8, 16, 32, 64) if B * H <= _LIMIT] + [(64, 1024)]


def _target(precision: str, B: int, H: int) -> float:
    high, low = (6.0, 4.0) if precision == "bfloat16" else (5.0, 3.0)
    return high if B * H <= _LIMIT else low


def _main(precision: str) -> Iterator[Row]:
    for kind, (B, H), work in product(("lstm", "gru_after"), _MAIN, _WORKS):
        yield Row("main", kind, precision, 256, B, H, work, CUDNN, _target(precision, B, H))


def _elman(precision: str, sizes: Sequence[tuple[int, int]]) -> Iterator[Row]:
    for (B, H), work in product(sizes, _WORKS):
        yield Row("elman", "elman_tanh", precision, 256, B, H, work, CUDNN, 4.0)


def _table() -> Iterator[Row]:
    for kind, B, H in product(("lstm", "gru_after"), (1, 16), (256, 512)):
        yield Row("floor", kind, "tf32", 256, B, H, "forward", BARRIER, 1 / 1.6)
    for H, kind, B, work in product((64, 128), ("lstm", "gru_after"), (1, 16), _WORKS):
        yield Row("small", kind, "tf32", 256, B, H, work, CUDNN, 1.2)
    yield from _main("tf32")
    yield from _elman("tf32", [(B, H) for B, H in _MAIN if H in (512, 1024)])
    for mask, (B, H), work in product(("lengths", "resets"), ((16, 256), (32, 512)), _WORKS):
        yield Row("masks", "lstm", "tf32", 256, B, H, work, UNMASKED, 1 / 1.03, mask)
    for kind, B, work in product(("lstm", "gru_after"), (1, 16), _WORKS):
        yield Row("long", kind, "tf32", 2048, B, 256, work, CUDNN, 5.0)
    for B, work in product((1, 16), _WORKS):
        yield Row("linear", "lstm", "tf32", 2048, B, 256, work, SHORTER, 0.95)
    for kind, H in product(("lstm", "gru_after"), (64, 256)):
        yield Row("stream", kind, "float32", 1, 1, H, "forward", CELL, 1.0)
    for kind, (B, H), work in product(("lstm", "gru_after"), ((128, 1024), (256, 2048)), _WORKS):
        yield Row("large", kind, "tf32", 256, B, H, work, CUDNN, 0.95)
    for work in _WORKS:
        yield Row("layer", "lstm", "tf32", 256, 16, 256, work, CUDNN, 5.0)
    for precision, (work, us) in product(("tf32", "bfloat16"), zip(_WORKS, (55, 122), strict=True)):
        yield Row("block", "block_gru_8", precision, 512, 16, 512, work, TORCHRL, 1.0, "resets", us / 1e6)
    for kind, times in (("lstm", (4.76, 13.3)), ("lstm_24", (1.41, 4.0))):
        for work, us in zip(_WORKS, times, strict=True):
            yield Row("flash", kind, "bfloat16", 1024, 16, 768, work, FLASHRNN, 1.0, seconds=us / 1e6)
    for work in _WORKS:
        yield Row("fp16", "lstm", "bfloat16", 1024, 16, 768, work, FP16, 1.0)
    yield from _main("float32")
    yield from _main("bfloat16")
    for precision in ("float32", "bfloat16"):
        yield from _elman(precision, [(16, 512), (64, 1024)])
        for kind, work in product(("lstm", "gru_after"), _WORKS):
            yield Row("small", kind, precision, 256, 16, 64, work, CUDNN, 1.2)
        for kind, work in product(("lstm", "gru_after"), _WORKS):
            yield Row("large", kind, precision, 256, 128, 1024, work, CUDNN, 0.95)
    for kind, work in product(CATALOGUE, _WORKS):
        if kind != "lstm":
            yield Row("cells", kind, "tf32", 256, 16, 256, work, OUR_LSTM, 0.0)


ROWS = tuple(_table())


def quick(rows: Sequence[Row]) -> list[Row]:
    """The first row of each group and kind of work."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row.group, row.work), row)
    return list(first.values())
