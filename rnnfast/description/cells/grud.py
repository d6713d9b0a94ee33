"""A GRU for values that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import _checks
from ..cell import Cell, Gate, Given, Product
from ..functions import exp, lerp, relu, sigmoid, tanh
from ._options import settle


class GRUD(Cell):
    """The GRU-D: the state decays while inputs are missing, and the gates see which ones are.

    ::

        d = exp(-max(0, W_d delta + b_d)) * h_prev
        r = sigmoid(W_r x + b_ir + U_r d + b_hr + V_r mask)
        z = sigmoid(W_z x + b_iz + U_z d + b_hz + V_z mask)
        n = tanh(W_n x + b_in + U_n (r * d) + b_hn + V_n mask)
        h = (1 - z) * d + z * n

    Source: Che, Purushotham, Cho, Sontag & Liu (2018), "Recurrent neural networks for multivariate time series with
    missing values", equations 10 to 16. The paper's z takes the new, unlike that of `GRU`.

    Given, both of width `features`: `mask`, 1 where a feature was observed, else 0, and `delta`, the time since it was
    observed last. `x` is what the paper calls x-hat: missing features already filled in.

    Parameters, in the gate order r, z, n: `weight_ih` [3*H, I], `weight_hh` [3*H, H], `bias_ih`, `bias_hh` [3*H];
    `weight_d` [H, F], `bias_d` [H]; `weight_mr`, `weight_mz`, `weight_mn` [H, F]; from the layer's scheme.
    """

    name = "grud"
    states = ("h",)
    gates = (Gate("r", h="row"), Gate("z", h="row"), Gate("n", h="row"))
    given = (Given("mask", width="features"), Given("delta", width="features"))
    products = (
        Product("d", weight="weight_d", bias="bias_d", to="hidden", of="features"),
        *(Product(f"m{n}", weight=f"weight_m{n}", bias=None, to="hidden", of="features") for n in "rzn"),
    )
    features: int = 1

    def __post_init__(self) -> None:
        settle(self, features=_checks.size("features", self.features))

    @property
    def widths(self) -> Mapping[str, int]:
        return {"features": self.features}

    def step(self, gate: Any, state: Any, product: Any, given: Any) -> Any:
        d = exp(-relu(product.d(given.delta))) * state.h
        r = sigmoid(gate.r(d) + product.mr(given.mask))
        z = sigmoid(gate.z(d) + product.mz(given.mask))
        n = tanh(gate.n(r * d) + product.mn(given.mask))
        return lerp(z, n, d)


EXAMPLES = {"grud": GRUD(features=3)}
LAYERS = {"GRUD": GRUD}
