"""Dreamer's GRU: blocks and a norm."""

from __future__ import annotations

from typing import Any

from ... import _checks
from ..cell import Cell, Vector
from ..functions import lerp, sigmoid, tanh
from ._norm import layer_norm, rms_norm
from ._options import settle


class BlockGRU(Cell):
    """Dreamer's GRU: the recurrent matrix in blocks, all sums normalised together, a gate that prefers the past.

    ::

        r, n, u = norm(W x + b_ih + U h_prev + b_hh)      (U is block-diagonal, one block per head)
        n = tanh(sigmoid(r) * n)
        u = sigmoid(u + update_bias)
        h = (1 - u) * h_prev + u * n

    The norm is over the 3*H numbers of a row: "rms", RMSNorm (Zhang & Sennrich 2019) with gains; "layer", layer norm
    (Ba et al. 2016) with gains and shifts; "none".

    Source: Hafner et al. (2023), "Mastering diverse domains through world models" (DreamerV3), whose sequence model is
    a GRU with block-diagonal recurrent weights and RMSNorm; the gates' order, the norm over all sums, the bias of -1
    and the reset after the product are those of the authors' GRU cell since DreamerV2 (2021), there with layer norm.
    The layers that Dreamer puts between x and the gates are not part of the cell.

    Parameters, in the gate order r, n, u: `weight_ih` [3*H, I], `weight_hh` [3*H, H/heads], `bias_ih`, `bias_hh` [3*H],
    from the layer's scheme; the vectors `gain_r`, `gain_n`, `gain_u` [H], at first 1, and `shift_r`, `shift_n`,
    `shift_u` [H], at first 0.
    """

    name = "block_gru"
    states = ("h",)
    gates = ("r", "n", "u")
    heads: int = 8
    norm: str = "rms"
    update_bias: float = -1.0
    eps: float = 1e-4

    def __post_init__(self) -> None:
        settle(
            self,
            heads=_checks.integer("heads", self.heads),
            norm=_checks.choice("norm", self.norm, ("rms", "layer", "none")),
            update_bias=_checks.number("update_bias", self.update_bias),
            eps=_checks.number("eps", self.eps),
        )

    @property
    def vectors(self) -> tuple[Vector, ...]:
        kinds = {"rms": {"gain": 1.0}, "layer": {"gain": 1.0, "shift": 0.0}, "none": {}}[self.norm]
        return tuple(Vector(f"{kind}_{gate}", initial=value) for kind, value in kinds.items() for gate in self.gates)

    def step(self, gate: Any, state: Any, vector: Any) -> Any:
        r, n, u = self._normalised(gate.r, gate.n, gate.u, vector)
        r, u = sigmoid(r), sigmoid(u + self.update_bias)
        n = tanh(r * n)
        return lerp(u, n, state.h)

    def _normalised(self, r: Any, n: Any, u: Any, vector: Any) -> tuple[Any, Any, Any]:
        if self.norm == "none":
            return r, n, u
        r, n, u = (layer_norm if self.norm == "layer" else rms_norm)(r, n, u, eps=self.eps)
        r, n, u = r * vector.gain_r, n * vector.gain_n, u * vector.gain_u
        if self.norm == "layer":
            r, n, u = r + vector.shift_r, n + vector.shift_n, u + vector.shift_u
        return r, n, u


EXAMPLES = {
    "block_gru": BlockGRU(heads=2),
    "block_gru_layer": BlockGRU(norm="layer", heads=2),
    "block_gru_plain": BlockGRU(norm="none", heads=2),
}
LAYERS = {"BlockGRU": BlockGRU}
