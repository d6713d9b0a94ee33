"""The simple recurrent unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cell import Cell, Gate
from ..functions import lerp, sigmoid
from ._initial import uniform_blocks


class SRU(Cell):
    """The simple recurrent unit: a light recurrence c, and a highway around it.

    ::

        f = sigmoid(W_f x + b_f + v_f * c_prev)
        r = sigmoid(W_r x + b_r + v_r * c_prev)
        c = f * c_prev + (1 - f) * (W_n x + b_n)
        h = r * c + (1 - r) * (W_p x + b_p)

    Source: Lei, Zhang, Wang, Dai & Artzi (2018), "Simple recurrent units for highly parallelizable recurrence",
    equations 1 to 4. There the highway carries x itself, times a constant; the authors' code carries W_p x where x and
    h differ in size. Here it is always W_p x, one product for all sizes: where they agree, W_p begins as the identity.
    The paper's form is W_p = alpha * identity, b_n = b_p = 0.

    Parameters, in the gate order n, f, r, p: `weight_ih` [4*H, I], at first uniform with the variance 1 / I, the
    authors' choice (W_p as said), `bias_ih` [4*H], at first zero, and the vectors `v_f`, `v_r` [H] from the layer's
    scheme.
    """

    name = "sru"
    states = ("h", "c")
    gates = (Gate("n", h=False), Gate("f", h=False), Gate("r", h=False), Gate("p", h=False))
    vectors = ("v_f", "v_r")

    def step(self, gate: Any, state: Any, vector: Any) -> Any:
        f = sigmoid(gate.f + vector.v_f * state.c)
        r = sigmoid(gate.r + vector.v_r * state.c)
        c = lerp(f, state.c, gate.n)
        return lerp(r, c, gate.p), c

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        if name == "weight_ih":
            return uniform_blocks(shape, 4, rng, passed_on=3)
        return np.zeros(shape) if name == "bias_ih" else super().initial(name, shape, rng)


EXAMPLES = {"sru": SRU()}
LAYERS = {"SRU": SRU}
