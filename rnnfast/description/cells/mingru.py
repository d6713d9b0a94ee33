"""The minimal GRU and LSTM, which have no recurrent matrix."""

from __future__ import annotations

from typing import Any

from ... import _checks
from ..cell import Cell, Gate
from ..functions import lerp, sigmoid, softplus, where
from ._options import settle


def _candidate(row: Any, positive: bool) -> Any:
    """The paper's g, which keeps h positive: x + 1/2 for x > 0, else sigmoid(x); or the row itself."""
    return where(row, row + 0.5, sigmoid(row)) if positive else row


class MinGRU(Cell):
    """The minimal GRU: gates of x alone.

    ::

        z = sigmoid(W_z x + b_z)
        h = (1 - z) * h_prev + z * g(W_n x + b_n)

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi (2024), "Were RNNs all we needed?", section 3.1: g is the
    identity. With `positive`, the form of their appendix B that is trained in log space: g(a) = a + 1/2 for a > 0, else
    sigmoid(a).

    Parameters, in the gate order z, n: `weight_ih` [2*H, I], `bias_ih` [2*H], from the layer's scheme.
    """

    name = "mingru"
    states = ("h",)
    gates = (Gate("z", h=False), Gate("n", h=False))
    positive: bool = False

    def __post_init__(self) -> None:
        settle(self, positive=_checks.truth("positive", self.positive))

    def step(self, gate: Any, state: Any) -> Any:
        z, n = sigmoid(gate.z), _candidate(gate.n, self.positive)
        return lerp(z, n, state.h)


class MinLSTM(Cell):
    """The minimal LSTM: gates of x alone, which add up to one, and no c.

    ::

        f, i = sigmoid(W_f x + b_f), sigmoid(W_i x + b_i)
        h = f / (f + i) * h_prev + i / (f + i) * g(W_n x + b_n)

    Source: Feng et al. (2024), "Were RNNs all we needed?", section 3.2; g and `positive` as in `MinGRU`.

    Parameters, in the gate order f, i, n: `weight_ih` [3*H, I], `bias_ih` [3*H], from the layer's scheme.
    """

    name = "minlstm"
    states = ("h",)
    gates = (Gate("f", h=False), Gate("i", h=False), Gate("n", h=False))
    positive: bool = False

    def __post_init__(self) -> None:
        settle(self, positive=_checks.truth("positive", self.positive))

    def step(self, gate: Any, state: Any) -> Any:
        f = sigmoid(softplus(-gate.i) - softplus(-gate.f))  # f / (f + i), also where both are too small for a float
        n = _candidate(gate.n, self.positive)
        return lerp(f, state.h, n)


EXAMPLES = {
    "mingru": MinGRU(),
    "mingru_positive": MinGRU(positive=True),
    "minlstm": MinLSTM(),
    "minlstm_positive": MinLSTM(positive=True),
}
LAYERS = {"MinGRU": MinGRU, "MinLSTM": MinLSTM}
