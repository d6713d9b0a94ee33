"""Elman's network, and its leaky form."""

from __future__ import annotations

from typing import Any

from ... import _checks
from ..cell import Cell
from ..functions import activation, lerp
from ._options import check_activation, check_clip, clipped, settle, wrapped


class Elman(Cell):
    """Elman's network, whose context is its own previous state; with a leak it follows slowly.

    ::

        h = (1 - leak) * h_prev + leak * activation(W x + b_ih + U h_prev + b_hh)

    A leak of 1 is the plain network. `gate_clip` bounds what the activation is taken of, as ONNX's `clip` does.

    Source: Elman (1990), "Finding structure in time". The leak: Jaeger, Lukosevicius, Popovici & Siewert (2007),
    "Optimization and applications of echo state networks with leaky-integrator neurons", equation 2 with a = 1.

    Parameters: `weight_ih` [H, I], `weight_hh` [H, H], `bias_ih`, `bias_hh` [H], from the layer's scheme.
    """

    name = "elman"
    states = ("h",)
    gates = ("h",)
    activation: Any = "tanh"
    leak: float = 1.0
    gate_clip: float | None = None

    def __post_init__(self) -> None:
        leak = _checks.number("leak", self.leak)
        if not 0.0 < leak <= 1.0:
            raise ValueError(f"leak: expected a number above 0 and at most 1, got {self.leak!r}")
        settle(
            self,
            activation=check_activation("activation", self.activation),
            leak=leak,
            gate_clip=check_clip("gate_clip", self.gate_clip),
        )

    @property
    def fused(self) -> str | None:
        known = self.activation in ("tanh", "relu", "sigmoid") and self.leak == 1.0 and self.gate_clip is None
        return f"elman_{self.activation}" if known else None

    def step(self, gate: Any, state: Any) -> Any:
        h = activation(self.activation)(clipped(gate.h, self.gate_clip))
        return h if self.leak == 1.0 else lerp(self.leak, h, state.h)


def rnn_cell(
    nonlinearity: Any = "tanh", leak: float = 1.0, zoneout: Any = None, recurrent_dropout: float = 0.0
) -> Cell:
    """The cell of an `RNN` layer with these options.

    Parameters
    ----------
    nonlinearity : str or tuple, optional
        The activation, as `rnnfast.description.functions.activation` takes it: a name, or a tuple of one and numbers.
    leak : float, optional
        How far h follows in a step, above 0 and at most 1.
    zoneout : float or mapping from str to float, optional
        The probability that a unit keeps its state: of all states, or by state.
    recurrent_dropout : float, optional
        The probability that the recurrent matrices do not see a unit of h, the same units in all of a sequence.

    Returns
    -------
    Cell

    Raises
    ------
    TypeError, ValueError
        An option is of a wrong kind or range, or two do not go together: which, and why.

    Examples
    --------
    >>> rnn_cell("relu", leak=0.5)
    Elman(activation='relu', leak=0.5, gate_clip=None)
    """
    nonlinearity = check_activation("nonlinearity", nonlinearity)
    return wrapped(Elman(activation=nonlinearity, leak=leak), zoneout, recurrent_dropout)


EXAMPLES = {
    "elman": Elman(),
    "elman_relu": Elman(activation="relu"),
    "elman_sigmoid": Elman(activation="sigmoid"),
    "elman_leaky": Elman(leak=0.3),
    "elman_clip": Elman(activation=("affine", 0.7, 0.1), gate_clip=0.5),
}
LAYERS = {"RNN": rnn_cell}
