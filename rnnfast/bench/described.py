"""The table of the group cells: cells that are written as descriptions, and what each must reach.

A line says which layer of ours it is, with which options, what kind of cell, and what PyTorch has. The step that a user
of PyTorch would write is the function of the line's name in `torch_cells`; in float64 it is also the oracle, a formula
that was not derived from the description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import rnnfast

from .core import BEST, Need

__all__ = ["DESCRIBED", "GIVEN", "PASSES", "RATE", "Described", "layer", "multiply_adds", "needs"]

INTERPRETED = "interpreted"
"""A layer's `_engine` that runs a cell without its hand-fused kernel."""
LSTM, FUSED, PRODUCT, PASS = "our LSTM", "fused", "input product", "one pass"
"""Columns: our LSTM of the same sizes, the hand-fused kernel of the same cell, the product with the input alone, and
the time that writing and reading its results once takes at the measured bandwidth."""
RATE = "our LSTM's rate"
"""The time that the row would take at the FLOP rate of our LSTM."""
PASSES = "input product and 1.5 passes"
"""The time of the product with the input, and one and a half times that of a pass over its results."""
GIVEN: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "a": lambda rng, shape: rng.random(shape[:2], np.float32),
    "dt": lambda rng, shape: rng.random(shape[:2], np.float32),
    "mask": lambda rng, shape: (rng.random(shape) < 0.5).astype(np.float32),
    "delta": lambda rng, shape: rng.random(shape, np.float32),
}
"""What cells are given besides x, by name: random values for an x of this shape."""

Sizes = Callable[[int, int], dict[str, Any]]


@dataclass(frozen=True)
class Described:
    """A cell of the group.

    Attributes
    ----------
    layer : str
        Our class.
    options : dict, or callable
        Of its constructor; or what makes them of I and H.
    kind : {"gated", "plain", "blocks", "diagonal", "interpreted"}
        Gated with a dense U, where our LSTM's rate is asked for; without gates; with a U in blocks; without a U; or a
        cell that has a hand-fused kernel, run without it.
    states : int
        How many there are, all zero at first.
    torch : str
        PyTorch's layer of the same parameters, if it has one.
    given : tuple of str
        The inputs besides x, of `GIVEN`.
    """

    layer: str
    options: dict[str, Any] | Sizes
    kind: str
    states: int = 1
    torch: str = ""
    given: tuple[str, ...] = ()

    def arguments(self, I: int, H: int) -> dict[str, Any]:  # noqa: E741
        """The constructor's options at these sizes."""
        return self.options(I, H) if callable(self.options) else self.options

    def width(self, H: int) -> int:
        """Of y."""
        return int(self.arguments(0, H).get("proj_size", H))

    def variants(self, work: str) -> Iterator[str]:
        """Columns of ours beside "ours"."""
        yield LSTM
        if self.kind == INTERPRETED:
            yield FUSED
        if self.kind == "diagonal" and work != "step":
            yield PRODUCT

    @property
    def peers(self) -> tuple[str, ...]:
        """PyTorch's columns: its layer, or else the loops over a cell."""
        if self.kind == INTERPRETED:
            return ()
        return ("PyTorch layer",) if self.torch else ("PyTorch loop", "PyTorch compiled", "PyTorch scripted")


def _projected(I: int, H: int) -> dict[str, Any]:  # noqa: E741
    return {"proj_size": H // 2}


def _every_feature(I: int, H: int) -> dict[str, Any]:  # noqa: E741
    return {"features": I}


DESCRIBED = {
    "rnn": Described("RNN", {}, "interpreted"),
    "lstm": Described("LSTM", {}, "interpreted", states=2),
    "gru": Described("GRU", {}, "interpreted"),
    "lstm_proj": Described("LSTM", _projected, "gated", states=2, torch="LSTM"),
    "lstm_peephole": Described("LSTM", {"peephole": True}, "gated", states=2),
    "lstm_coupled": Described("LSTM", {"coupled": True}, "gated", states=2),
    "lstm_clip": Described("LSTM", {"cell_clip": 0.5}, "gated", states=2),
    "lstm_layer_norm": Described("LSTM", {"layer_norm": True}, "gated", states=2),
    "gru_layer_norm": Described("GRU", {"layer_norm": True}, "gated"),
    "ligru": Described("LiGRU", {}, "gated"),
    "mgu": Described("MGU", {}, "gated"),
    "slstm": Described("SLSTM", {}, "gated", states=4),
    "augru": Described("AUGRU", {}, "gated", given=("a",)),
    "grud": Described("GRUD", _every_feature, "gated", given=("mask", "delta")),
    "cfc": Described("CfC", {}, "gated", given=("dt",)),
    "rnn_leak": Described("RNN", {"leak": 0.3}, "plain"),
    "jordan": Described("Jordan", {}, "plain"),
    "block_gru": Described("BlockGRU", {"heads": 8}, "blocks"),
    "lru": Described("LRU", {}, "blocks", states=3),
    "lru_states": Described("LRU", {"readout": False}, "diagonal", states=2),
    "indrnn": Described("IndRNN", {}, "diagonal"),
    "mingru": Described("MinGRU", {}, "diagonal"),
    "minlstm": Described("MinLSTM", {}, "diagonal"),
    "sru": Described("SRU", {}, "diagonal", states=2),
    "rglru": Described("RGLRU", {}, "diagonal"),
}
"""By name: of the rows, and of the step in `torch_cells`."""


def layer(cell: str, I: int, H: int) -> Any:  # noqa: E741
    """Our layer."""
    found = DESCRIBED[cell]
    made = getattr(rnnfast, found.layer)(I, H, rng=0, **found.arguments(I, H))
    if found.kind == INTERPRETED:
        made._engine = INTERPRETED
    return made


@lru_cache
def multiply_adds(cell: str, I: int, H: int) -> int:  # noqa: E741
    """Of all products of a step of one row: each weight is used once."""
    params = layer(cell, I, H).params
    return sum(int(value.size) for name, value in params.items() if name.startswith("weight"))


def results(cell: str, T: int, B: int, I: int, H: int) -> int:  # noqa: E741
    """How many numbers the product with the input has."""
    return T * B * len(layer(cell, I, H).params["weight_ih_l0"])


def needs(cell: str, work: str) -> Iterator[Need]:
    """What a row of the group must reach."""
    found = DESCRIBED[cell]
    if found.kind == "gated" and work != "step":
        yield Need(RATE, 0.85)
    if found.kind == "diagonal" and work != "step":
        yield Need(PASSES, 1)
    if found.kind == INTERPRETED:
        yield from [Need(FUSED, 1 / 1.5)] if work == "step" else []
    else:
        yield Need(BEST, 1 if found.torch else 20)
