"""The closed-form continuous-time cell."""

from __future__ import annotations

from typing import Any

from ... import _checks
from ..cell import Cell, Given
from ..functions import lerp, sigmoid, tanh
from ._options import settle


class CfC(Cell):
    """The closed-form continuous-time cell, without a backbone: time decides between two candidates.

    ::

        s = sigmoid((W_a x + U_a h_prev + b_a) * dt + W_b x + U_b h_prev + b_b)
        h = (1 - s) * tanh(W_g x + U_g h_prev + b_g) + s * tanh(W_n x + U_n h_prev + b_n)

    Source: Hasani et al. (2022), "Closed-form continuous-time neural networks", equation 10, in the form of the
    authors' code, whose time gate has two heads a and b, where the paper's has one, sigmoid(-f * dt). Their "no_gate"
    mode is `gated=False`: the first candidate is then not multiplied by 1 - s.

    Given: `dt`, the time since the previous step, a number per row and step.

    Parameters, in the gate order g, n, a, b: `weight_ih` [4*H, I], `weight_hh` [4*H, H], `bias_ih`, `bias_hh` [4*H],
    from the layer's scheme.
    """

    name = "cfc"
    states = ("h",)
    gates = ("g", "n", "a", "b")
    given = (Given("dt"),)
    gated: bool = True

    def __post_init__(self) -> None:
        settle(self, gated=_checks.truth("gated", self.gated))

    def step(self, gate: Any, given: Any) -> Any:
        s = sigmoid(gate.a * given.dt + gate.b)
        g, n = tanh(gate.g), tanh(gate.n)
        return lerp(s, n, g) if self.gated else g + s * n


EXAMPLES = {"cfc": CfC(), "cfc_no_gate": CfC(gated=False)}
LAYERS = {"CfC": CfC}
