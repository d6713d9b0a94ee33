"""xLSTM's scalar LSTM."""

from __future__ import annotations

from typing import Any

from ... import _checks
from ..cell import Cell
from ..functions import exp, maximum, sigmoid, softplus, tanh, where
from ._options import settle


class SLSTM(Cell):
    """The scalar LSTM of xLSTM: exponential gates, a normaliser n, a stabiliser m, heads.

    ::

        i, f, z, o = W x + b_ih + U h_prev + b_hh                        (U is block-diagonal, one block per head)
        log_f = log(sigmoid(f))                                          (or f itself, with forget="exp")
        m = max(log_f + m_prev, i)                                       (i at a sequence's first step)
        c = exp(log_f + m_prev - m) * c_prev + exp(i - m) * tanh(z)
        n = exp(log_f + m_prev - m) * n_prev + exp(i - m)
        h = sigmoid(o) * c / n

    Source: Beck et al. (2024), "xLSTM: extended long short-term memory", section 2.2, equations 8 to 17. All states
    start from zero; as in the authors' code, n_prev = 0 says that there is no past, whose m then does not count. (Else
    a first i far below m_prev = 0 would leave n = 0, and h = 0/0.) The norm over heads and the projections around the
    cell belong to xLSTM's block, not to the cell.

    Parameters, in the gate order i, f, z, o: `weight_ih` [4*H, I], `weight_hh` [4*H, H/heads], `bias_ih`, `bias_hh`
    [4*H], from the layer's scheme.
    """

    name = "slstm"
    states = ("h", "c", "n", "m")
    gates = ("i", "f", "z", "o")
    zoned = ("h",)  # c / n is a mean, and m their common scale: of different steps they are of nothing
    heads: int = 1
    forget: str = "sigmoid"

    def __post_init__(self) -> None:
        heads = _checks.integer("heads", self.heads)
        settle(self, heads=heads, forget=_checks.choice("forget", self.forget, ("sigmoid", "exp")))

    def step(self, gate: Any, state: Any) -> Any:
        log_f = gate.f if self.forget == "exp" else -softplus(-gate.f)
        past = where(state.n, log_f + state.m, gate.i)
        m = maximum(past, gate.i)
        f, i = exp(past - m), exp(gate.i - m)
        z, o = tanh(gate.z), sigmoid(gate.o)
        c = f * state.c + i * z
        n = f * state.n + i
        return o * (c / n), c, n, m


EXAMPLES = {"slstm": SLSTM(), "slstm_heads": SLSTM(heads=2), "slstm_exp": SLSTM(forget="exp")}
LAYERS = {"SLSTM": SLSTM}
