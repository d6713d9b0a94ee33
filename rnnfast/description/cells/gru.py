"""The GRU, in its two forms."""

from __future__ import annotations

from typing import Any

from ... import _checks
from ..cell import Cell, Gate, Vector
from ..functions import activation, lerp
from ._norm import layer_norm
from ._options import check_activations, check_clip, clipped, refuse, settle, wrapped


class GRU(Cell):
    """Gated recurrent units.

    ::

        r = gates(W_r x + b_ir + U_r h_prev + b_hr)
        z = gates(W_z x + b_iz + U_z h_prev + b_hz)
        n = candidate(W_n x + b_in + r * (U_n h_prev + b_hn))        (reset_after)
        n = candidate(W_n x + b_in + U_n (r * h_prev) + b_hn)        (not reset_after)
        h = (1 - z) * n + z * h_prev

    Source: Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder", which resets before the
    product; after it, as in cuDNN and PyTorch, one product does for all gates. The options:

    - `layer_norm` (with `reset_after`): Ba, Kiros & Hinton (2016), "Layer normalization", supplement: U h + b_hh and
      W x + b_ih are normalised each by itself, those of r and z over the units of both together, those of n alone. One
      shift per gate, and for n one per side, as r stands between them. The paper's z takes the new; ours keeps the old.
    - `heads`: U is block-diagonal, one block per head.
    - `activations`: of the gates, of the candidate. `gate_clip`: a bound of what they are taken of, as ONNX's `clip`.

    Parameters, in the gate order r, z, n: `weight_ih` [3*H, I], `weight_hh` [3*H, H/heads], `bias_ih`, `bias_hh` [3*H],
    from the layer's scheme. Vectors [H]: `gain_x_r`, ..., `gain_h_r`, ..., at first 1; `shift_r`, `shift_z`,
    `shift_x_n`, `shift_h_n`, at first 0.
    """

    name = "gru"
    states = ("h",)
    reset_after: bool = True
    layer_norm: bool = False
    heads: int = 1
    activations: Any = ("sigmoid", "tanh")
    gate_clip: float | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        settle(
            self,
            reset_after=_checks.truth("reset_after", self.reset_after),
            layer_norm=_checks.truth("layer_norm", self.layer_norm),
            heads=_checks.integer("heads", self.heads),
            activations=check_activations("activations", self.activations, ("gates", "candidate")),
            gate_clip=check_clip("gate_clip", self.gate_clip),
        )
        if self.layer_norm and not self.reset_after:
            refuse("layer_norm", "False without reset_after", True, "it needs U_n h apart from W_n x, before the reset")

    @property
    def gates(self) -> tuple[Gate, ...]:
        n = Gate("n", apart=True) if self.reset_after else Gate("n", h="row")
        return Gate("r", apart=self.layer_norm), Gate("z", apart=self.layer_norm), n

    @property
    def vectors(self) -> tuple[Vector, ...]:
        if not self.layer_norm:
            return ()
        gains = [Vector(f"gain_{side}_{name}", initial=1.0) for side in "xh" for name in "rzn"]
        return (*gains, *(Vector(f"shift_{name}", initial=0.0) for name in ("r", "z", "x_n", "h_n")))

    @property
    def fused(self) -> str | None:
        return {GRU(): "gru_after", GRU(reset_after=False): "gru_before"}.get(self)

    def step(self, gate: Any, state: Any, vector: Any) -> Any:
        gates, candidate = map(activation, self.activations)
        r, z, n_x, n_h = self._normalised(gate, vector) if self.layer_norm else self._plain(gate)
        r, z = gates(clipped(r, self.gate_clip)), gates(clipped(z, self.gate_clip))
        n = n_x + r * n_h if self.reset_after else gate.n(r * state.h)
        n = candidate(clipped(n, self.gate_clip))
        return lerp(z, state.h, n)

    def _plain(self, gate: Any) -> tuple[Any, Any, Any, Any]:
        """The sums of r and z, and both sides of n's, if it has them."""
        return gate.r, gate.z, *((gate.n.x, gate.n.h) if self.reset_after else (None, None))

    def _normalised(self, gate: Any, vector: Any) -> tuple[Any, Any, Any, Any]:
        """The sums of r and z, and both sides of n's."""
        r_x, z_x = layer_norm(gate.r.x, gate.z.x, eps=self.eps)
        r_h, z_h = layer_norm(gate.r.h, gate.z.h, eps=self.eps)
        (n_x,), (n_h,) = layer_norm(gate.n.x, eps=self.eps), layer_norm(gate.n.h, eps=self.eps)
        r = r_x * vector.gain_x_r + r_h * vector.gain_h_r + vector.shift_r
        z = z_x * vector.gain_x_z + z_h * vector.gain_h_z + vector.shift_z
        return r, z, n_x * vector.gain_x_n + vector.shift_x_n, n_h * vector.gain_h_n + vector.shift_h_n


def gru_cell(
    reset_after: bool = True,
    layer_norm: bool = False,
    heads: int = 1,
    zoneout: Any = None,
    recurrent_dropout: float = 0.0,
    activations: Any = ("sigmoid", "tanh"),
) -> Cell:
    """The cell of a `GRU` layer with these options.

    Parameters
    ----------
    reset_after, layer_norm, heads, activations
        As of `GRU`.
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
    >>> gru_cell(reset_after=False).fused
    'gru_before'
    """
    cell = GRU(reset_after=reset_after, layer_norm=layer_norm, heads=heads, activations=activations)
    return wrapped(cell, zoneout, recurrent_dropout)


EXAMPLES = {
    "gru_after": GRU(),
    "gru_before": GRU(reset_after=False),
    "gru_layer_norm": GRU(layer_norm=True),
    "gru_heads": GRU(heads=2),
    "gru_before_heads": GRU(reset_after=False, heads=2),
    "gru_clip": GRU(gate_clip=0.5, activations=("hard_sigmoid", "softsign")),
}
LAYERS = {"GRU": gru_cell}
