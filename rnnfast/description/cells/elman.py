"""Elman's network."""

from __future__ import annotations

from typing import Any

from ..cell import Cell
from ..functions import activation


class Elman(Cell):
    """Elman's network: h = activation(W x + b_ih + U h_prev + b_hh).

    Source: Elman (1990), "Finding structure in time".
    """

    name = "elman"
    states = ("h",)
    gates = ("h",)
    activation: Any = "tanh"

    @property
    def fused(self) -> str | None:
        known = self.activation in ("tanh", "relu", "sigmoid")
        return f"elman_{self.activation}" if known else None

    def step(self, gate: Any) -> Any:
        return activation(self.activation)(gate.h)
