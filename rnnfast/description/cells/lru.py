"""The linear recurrent unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import _checks
from ..cell import Cell, Gate, Product
from ..functions import cos, exp, sin
from ._options import settle


class LRU(Cell):
    """The linear recurrent unit: a complex diagonal recurrence that cannot grow, and its real projection.

    ::

        lambda = exp(-exp(nu_log) + i exp(theta_log))
        s = lambda * s_prev + exp(gamma_log) * (B x)          (complex: s = re + i im)
        y = Re(C s) + D x

    Source: Orvieto et al. (2023), "Resurrecting recurrent neural networks for long sequences", section 3 and appendix
    A. abs(lambda) < 1 whatever nu_log is. D is a matrix here, as y need not be as wide as x; the paper's is diagonal. B
    and D have biases where the layer has. With `readout=False` the cell ends with the recurrence, states re and im, of
    which re is shown: no step then waits for a product, and C and D may stand above the layer.

    Parameters, in the gate order re, im, d: `weight_ih` [3*H, I], `bias_ih` [3*H] (without the readout re, im);
    `weight_re`, `weight_im` [H, H], C's parts; the vectors `nu_log`, `theta_log`, `gamma_log` [H]. As in the paper at
    first: abs(lambda)^2 uniform in 0.9^2..0.999^2 (evenly spaced, so that gamma can follow), the phases uniform in
    0..pi / 10, gamma = sqrt(1 - abs(lambda)^2); B's and C's parts normal with the variances 1 / (2 I) and 1 / H, D's
    1 / I; no biases.
    """

    name = "lru"
    vectors = ("nu_log", "theta_log", "gamma_log")
    readout: bool = True

    def __post_init__(self) -> None:
        settle(self, readout=_checks.truth("readout", self.readout))

    @property
    def states(self) -> tuple[str, ...]:
        return ("y", "re", "im") if self.readout else ("re", "im")

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(Gate(name, h=False) for name in ("re", "im", *(["d"] if self.readout else [])))

    @property
    def products(self) -> tuple[Product, ...]:
        names = ("re", "im") if self.readout else ()
        return tuple(Product(name, weight=f"weight_{name}", bias=None) for name in names)

    def step(self, gate: Any, state: Any, vector: Any, product: Any) -> Any:
        radius, angle, gamma = exp(-exp(vector.nu_log)), exp(vector.theta_log), exp(vector.gamma_log)
        a, b = radius * cos(angle), radius * sin(angle)
        re = a * state.re - b * state.im + gamma * gate.re
        im = a * state.im + b * state.re + gamma * gate.im
        return (product.re(re) - product.im(im) + gate.d, re, im) if self.readout else (re, im)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        squared = np.linspace(0.9**2, 0.999**2, shape[0])
        if name == "weight_ih":
            variances: Sequence[float] = (0.5, 0.5, 1.0)[: len(self.gates)]
            normal = rng.normal(size=(len(variances), shape[0] // len(variances), shape[1]))
            return (normal * np.sqrt(np.divide(variances, max(shape[1], 1)))[:, None, None]).reshape(shape)
        if name.startswith("weight"):
            return rng.normal(size=shape) / np.sqrt(shape[1])
        values = {"nu_log": np.log(-0.5 * np.log(squared)), "gamma_log": 0.5 * np.log(1.0 - squared)}
        if name == "theta_log":
            return np.log(rng.uniform(1e-3, 1.0, shape) * np.pi / 10.0)
        return values.get(name, np.zeros(shape))


EXAMPLES = {"lru": LRU(), "lru_states": LRU(readout=False)}
LAYERS = {"LRU": LRU}
