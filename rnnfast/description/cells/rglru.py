"""Griffin's real-gated linear recurrent unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _checks
from ..cell import Cell, Gate
from ..functions import exp, expm1, maximum, sigmoid, softplus, sqrt
from ._initial import uniform_blocks
from ._options import settle


class RGLRU(Cell):
    """The real-gated linear recurrent unit: a diagonal recurrence whose decay a gate of x sets.

    ::

        r, i = sigmoid(W_r x + b_r), sigmoid(W_i x + b_i)
        a = sigmoid(decay) ^ (c * r)                                     (as exp(-c * r * softplus(-decay)))
        h = a * h_prev + sqrt(1 - a^2) * (i * (W_v x + b_v))

    Source: De et al. (2024), "Griffin: mixing gated linear recurrences with local attention for efficient language
    models", equations 1 to 4 and appendix A; c = 8. There i multiplies x itself, which a linear layer made as wide as
    h. Here that layer is W_v: at first the identity where x is as wide as h, which is the paper's cell.

    Parameters, in the gate order r, i, v: `weight_ih` [3*H, I], at first uniform with the variance 1 / I (W_v as said),
    `bias_ih` [3*H], at first zero, and the vector `decay` [H], the paper's Lambda, such that sigmoid(decay)^c is
    uniform in 0.9..0.999 at first.
    """

    name = "rglru"
    states = ("h",)
    gates = (Gate("r", h=False), Gate("i", h=False), Gate("v", h=False))
    vectors = ("decay",)
    c: float = 8.0

    def __post_init__(self) -> None:
        c = _checks.number("c", self.c)
        if c <= 0.0:
            raise ValueError(f"c: expected a number above 0, got {self.c!r}")
        settle(self, c=c)

    def step(self, gate: Any, state: Any, vector: Any) -> Any:
        r, i = sigmoid(gate.r), sigmoid(gate.i)
        log_a = -self.c * softplus(-vector.decay) * r
        scale = sqrt(maximum(-expm1(2.0 * log_a), 1e-12))  # sqrt has no derivative at 0, where a is 1
        a = exp(log_a)
        return a * state.h + scale * (i * gate.v)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        if name == "weight_ih":
            return uniform_blocks(shape, 3, rng, passed_on=2)
        if name == "decay":
            log_a = np.log(rng.uniform(0.9, 0.999, shape)) / self.c
            return log_a - np.log(-np.expm1(log_a))
        return np.zeros(shape)


EXAMPLES = {"rglru": RGLRU()}
LAYERS = {"RGLRU": RGLRU}
