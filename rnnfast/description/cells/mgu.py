"""The minimal gated unit."""

from __future__ import annotations

from typing import Any

from ..cell import Cell, Gate
from ..functions import lerp, sigmoid, tanh


class MGU(Cell):
    """The minimal gated unit: a GRU whose one gate both forgets and resets.

    ::

        f = sigmoid(W_f x + b_if + U_f h_prev + b_hf)
        n = tanh(W_n x + b_in + U_n (f * h_prev) + b_hn)
        h = (1 - f) * h_prev + f * n

    Source: Zhou, Wu, Zhang & Zhou (2016), "Minimal gated unit for recurrent neural networks", equations 6 to 8.

    Parameters, in the gate order f, n: `weight_ih` [2*H, I], `weight_hh` [2*H, H], `bias_ih`, `bias_hh` [2*H], from the
    layer's scheme.
    """

    name = "mgu"
    states = ("h",)
    gates = ("f", Gate("n", h="row"))

    def step(self, gate: Any, state: Any) -> Any:
        f = sigmoid(gate.f)
        n = tanh(gate.n(f * state.h))
        return lerp(f, n, state.h)


EXAMPLES = {"mgu": MGU()}
LAYERS = {"MGU": MGU}
