"""A GRU whose update gate an attention score scales."""

from __future__ import annotations

from typing import Any

from ..cell import Cell, Gate, Given
from ..functions import lerp, sigmoid, tanh


class AUGRU(Cell):
    """The GRU with attentional update gate: a score per step says how much of the step counts.

    ::

        r = sigmoid(W_r x + b_ir + U_r h_prev + b_hr)
        u = a * sigmoid(W_u x + b_iu + U_u h_prev + b_hu)
        n = tanh(W_n x + b_in + r * (U_n h_prev + b_hn))
        h = (1 - u) * h_prev + u * n

    Source: Zhou et al. (2019), "Deep interest evolution network for click-through rate prediction", equations 2 to 5
    and 12 to 13. The paper's u takes the new, unlike z of `GRU`, which keeps the old.

    Given: `a`, a number per row and step, in 0..1.

    Parameters, in the gate order r, u, n: `weight_ih` [3*H, I], `weight_hh` [3*H, H], `bias_ih`, `bias_hh` [3*H], from
    the layer's scheme.
    """

    name = "augru"
    states = ("h",)
    gates = ("r", "u", Gate("n", apart=True))
    given = (Given("a"),)

    def step(self, gate: Any, state: Any, given: Any) -> Any:
        r = sigmoid(gate.r)
        n = tanh(gate.n.x + r * gate.n.h)
        u = given.a * sigmoid(gate.u)
        return lerp(u, n, state.h)


EXAMPLES = {"augru": AUGRU()}
LAYERS = {"AUGRU": AUGRU}
