"""Jordan's network: the context is the previous output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import _checks
from ..cell import Cell, Product, State
from ..functions import activation
from ._options import check_activation, settle


class Jordan(Cell):
    """Jordan's network, whose context is its own previous output.

    ::

        h  = activation(W x + b_ih + U s_prev + b_hh)
        y  = output_activation(V h + b_y)
        s  = decay * s_prev + y

    Without a decay s is y itself, and y is the only state. `h` is no state: it lives for one step.

    Source: Jordan (1986), "Serial order: a parallel distributed processing approach", ICS Report 8604: the state units
    copy the output units, with the connections mu (here `decay`) to themselves. His are logistic units; here the
    defaults are tanh units and a linear output, as in today's use.

    Parameters: `weight_ih` [H, I], `weight_hh` [H, O], `bias_ih`, `bias_hh` [H], `weight_hy` [O, H], `bias_y` [O], O
    being `output_size`, or H where that is 0. All from the layer's scheme.
    """

    name = "jordan"
    gates = ("h",)
    output_size: int = 0
    activation: Any = "tanh"
    output_activation: Any = "identity"
    decay: float = 0.0

    def __post_init__(self) -> None:
        settle(
            self,
            output_size=_checks.integer("output_size", self.output_size, minimum=0),
            activation=check_activation("activation", self.activation),
            output_activation=check_activation("output_activation", self.output_activation),
            decay=_checks.probability("decay", self.decay),
        )

    @property
    def _width(self) -> str:
        return "output" if self.output_size else "hidden"

    @property
    def widths(self) -> Mapping[str, int]:
        return {"output": self.output_size} if self.output_size else {}

    @property
    def states(self) -> tuple[State, ...]:
        y = State("y", width=self._width)
        return (y, State("s", width=self._width)) if self.decay else (y,)

    @property
    def recurrent(self) -> str:
        return "s" if self.decay else "y"

    @property
    def products(self) -> tuple[Product, ...]:
        return (Product("y", weight="weight_hy", bias="bias_y", to=self._width),)

    def step(self, gate: Any, state: Any, product: Any) -> Any:
        h = activation(self.activation)(gate.h)
        y = activation(self.output_activation)(product.y(h))
        return (y, self.decay * state.s + y) if self.decay else y


EXAMPLES = {
    "jordan": Jordan(),
    "jordan_decay": Jordan(output_size=3, activation="sigmoid", output_activation="tanh", decay=0.5),
}
LAYERS = {"Jordan": Jordan}
