"""The LSTM."""

from __future__ import annotations

from typing import Any

from ..cell import Cell
from ..functions import sigmoid, tanh


class LSTM(Cell):
    """Long short-term memory.

    ::

        i, f, o = sigmoid(W x + b_ih + U h_prev + b_hh), g = tanh(W x + b_ih + U h_prev + b_hh)
        c = f * c_prev + i * g
        h = o * tanh(c)

    Source: Hochreiter & Schmidhuber (1997), "Long short-term memory", with the forget gate of Gers, Schmidhuber &
    Cummins (2000), "Learning to forget".
    """

    name = "lstm"
    states = ("h", "c")
    gates = ("i", "f", "g", "o")
    fused = "lstm"

    def step(self, gate: Any, state: Any) -> Any:
        i, f, g, o = sigmoid(gate.i), sigmoid(gate.f), tanh(gate.g), sigmoid(gate.o)
        c = f * state.c + i * g
        return o * tanh(c), c
