"""The GRU, in both forms."""

from __future__ import annotations

from typing import Any

from ..cell import Cell, Gate
from ..functions import lerp, sigmoid, tanh


class GRU(Cell):
    """The gated recurrent unit.

    ::

        r, z = sigmoid(W x + b_ih + U h_prev + b_hh)
        n = tanh(W_n x + b_in + r * (U_n h_prev + b_hn))         (reset_after)
        n = tanh(W_n x + b_in + U_n (r * h_prev) + b_hn)         (otherwise)
        h = (1 - z) * n + z * h_prev

    Source: Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder", with the reset before the
    product; after it in cuDNN and PyTorch.
    """

    name = "gru"
    states = ("h",)
    reset_after: bool = True

    @property
    def gates(self) -> tuple[str | Gate, ...]:
        return "r", "z", Gate("n", apart=True) if self.reset_after else Gate("n", h="row")

    @property
    def fused(self) -> str:
        return "gru_after" if self.reset_after else "gru_before"

    def step(self, gate: Any, state: Any) -> Any:
        r, z = sigmoid(gate.r), sigmoid(gate.z)
        n = tanh(gate.n.x + r * gate.n.h if self.reset_after else gate.n(r * state.h))
        return lerp(z, state.h, n)
