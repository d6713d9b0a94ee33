"""The independently recurrent network."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cell import Cell, Gate
from ..functions import activation
from ._options import check_activation, settle


class IndRNN(Cell):
    """The independently recurrent network: each unit sees its own past alone.

    ::

        h = activation(W x + b_ih + u * h_prev)

    Source: Li, Li, Cook, Zhu & Gao (2018), "Independently recurrent neural network (IndRNN)", equation 2.

    Parameters: `weight_ih` [H, I], `bias_ih` [H], and the vector `u` [H], at first uniform in 0..1: the paper's choice
    for relu, with the bound 2^(1/T), which keeps h from growing over T steps, at its limit for a long T.
    """

    name = "indrnn"
    states = ("h",)
    gates = (Gate("h", h=False),)
    vectors = ("u",)
    activation: Any = "relu"

    def __post_init__(self) -> None:
        settle(self, activation=check_activation("activation", self.activation))

    def step(self, gate: Any, state: Any, vector: Any) -> Any:
        return activation(self.activation)(gate.h + vector.u * state.h)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        return rng.uniform(0.0, 1.0, shape) if name == "u" else super().initial(name, shape, rng)


EXAMPLES = {"indrnn": IndRNN(), "indrnn_tanh": IndRNN(activation="tanh")}
LAYERS = {"IndRNN": IndRNN}
