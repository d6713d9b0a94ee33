"""The light gated recurrent unit."""

from __future__ import annotations

from typing import Any

from ..cell import Cell
from ..functions import activation, lerp, sigmoid
from ._options import check_activation, settle


class LiGRU(Cell):
    """The light GRU: no reset gate, and relu in place of tanh.

    ::

        z = sigmoid(W_z x + b_iz + U_z h_prev + b_hz)
        n = activation(W_n x + b_in + U_n h_prev + b_hn)
        h = (1 - z) * n + z * h_prev

    Source: Ravanelli, Brakel, Omologo & Bengio (2018), "Light gated recurrent units for speech recognition", section
    III, without its batch normalisation of W x: a step may not depend on other rows. (A normalisation with fixed
    statistics, as it is after training, is a factor and a shift of `weight_ih` and `bias_ih`.)

    Parameters, in the paper's gate order z, n (SpeechBrain stacks n first): `weight_ih` [2*H, I], `weight_hh` [2*H, H],
    `bias_ih`, `bias_hh` [2*H], from the layer's scheme.
    """

    name = "ligru"
    states = ("h",)
    gates = ("z", "n")
    activation: Any = "relu"

    def __post_init__(self) -> None:
        settle(self, activation=check_activation("activation", self.activation))

    def step(self, gate: Any, state: Any) -> Any:
        z, n = sigmoid(gate.z), activation(self.activation)(gate.n)
        return lerp(z, state.h, n)


EXAMPLES = {"ligru": LiGRU(), "ligru_tanh": LiGRU(activation="tanh")}
LAYERS = {"LiGRU": LiGRU}
