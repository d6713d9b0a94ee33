"""The LSTM, with all that has been added to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import _checks
from ..cell import Cell, Gate, Product, State, Vector
from ..functions import activation
from ._norm import layer_norm
from ._options import check_activations, check_clip, clipped, refuse, settle, wrapped


class LSTM(Cell):
    """Long short-term memory.

    ::

        i = gates(W_i x + b_ii + U_i h_prev + b_hi [+ p_i * c_prev])
        f = gates(W_f x + b_if + U_f h_prev + b_hf [+ p_f * c_prev])         (coupled: 1 - i)
        g = candidate(W_g x + b_ig + U_g h_prev + b_hg)
        c = clip(f * c_prev + i * g)
        o = gates(W_o x + b_io + U_o h_prev + b_ho [+ p_o * c])
        h = clip(P [o * output(c)])

    Source: Hochreiter & Schmidhuber (1997), "Long short-term memory", with the forget gate of Gers, Schmidhuber &
    Cummins (2000), "Learning to forget". The options:

    - `proj_size`: a projection P, h of this width (0: none); Sak, Senior & Beaufays (2014), PyTorch's names.
    - `peephole`: p; Gers & Schmidhuber (2000), "Recurrent nets that time and count", diagonal as in ONNX and Keras.
    - `coupled`: f = 1 - i, and no gate f: CIFG of Greff et al. (2015), "LSTM: a search space odyssey"; ONNX's
      input_forget.
    - `cell_clip`, `proj_clip`: bounds of c and of the projected h, as in TensorFlow; `gate_clip`: of the gates' sums
      with their peepholes, before the activations, as ONNX Runtime's `clip`.
    - `layer_norm`: Ba, Kiros & Hinton (2016), "Layer normalization", equations 20 to 22: U h + b_hh and W x + b_ih are
      normalised each by itself, over the units of all gates together, and tanh(c) is of the normalised c. The paper
      adds a shift to each of the two and a bias to their sum; here there is one shift per gate, since their sum is all
      that shows.
    - `heads`: U is block-diagonal, one block per head.
    - `activations`: of the gates, of the candidate, of c.

    Parameters, in the gate order i, f, g, o (coupled: i, g, o; G gates): `weight_ih` [G*H, I], `weight_hh` [G*H,
    R/heads], R the width of h, `bias_ih`, `bias_hh` [G*H]; `weight_hr` [R, H]; from the layer's scheme. Vectors [H]:
    `p_i`, `p_f`, `p_o`, at first 0; `gain_x_i`, ..., `gain_h_i`, ..., `gain_c`, at first 1; `shift_i`, ..., `shift_c`,
    at first 0.
    """

    name = "lstm"
    proj_size: int = 0
    peephole: bool = False
    coupled: bool = False
    cell_clip: float | None = None
    proj_clip: float | None = None
    gate_clip: float | None = None
    layer_norm: bool = False
    heads: int = 1
    activations: Any = ("sigmoid", "tanh", "tanh")
    eps: float = 1e-5

    def __post_init__(self) -> None:
        settle(
            self,
            proj_size=_checks.integer("proj_size", self.proj_size, minimum=0),
            peephole=_checks.truth("peephole", self.peephole),
            coupled=_checks.truth("coupled", self.coupled),
            cell_clip=check_clip("cell_clip", self.cell_clip),
            proj_clip=check_clip("proj_clip", self.proj_clip),
            gate_clip=check_clip("gate_clip", self.gate_clip),
            layer_norm=_checks.truth("layer_norm", self.layer_norm),
            heads=_checks.integer("heads", self.heads),
            activations=check_activations("activations", self.activations, ("gates", "candidate", "output")),
        )
        if self.proj_clip is not None and not self.proj_size:
            refuse("proj_clip", "None without proj_size", self.proj_clip, "there is no projection to clip")
        if self.heads != 1 and self.proj_size:
            refuse("heads", "1 with proj_size", self.heads, "the projection mixes the heads that U would keep apart")

    def check_sizes(self, hidden_size: int) -> None:
        """As every cell; and a projection is narrower than the cell's state.

        Parameters
        ----------
        hidden_size : int

        Raises
        ------
        ValueError
            If it is not, or the heads do not divide.
        """
        super().check_sizes(hidden_size)
        if self.proj_size >= hidden_size:
            raise ValueError(f"proj_size: expected less than hidden_size = {hidden_size}, got {self.proj_size}")

    @property
    def widths(self) -> Mapping[str, int]:
        return {"proj": self.proj_size} if self.proj_size else {}

    @property
    def states(self) -> tuple[State, ...]:
        return State("h", width="proj" if self.proj_size else "hidden"), State("c")

    @property
    def _names(self) -> tuple[str, ...]:
        return ("i", "g", "o") if self.coupled else ("i", "f", "g", "o")

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(Gate(name, apart=self.layer_norm) for name in self._names)

    @property
    def vectors(self) -> tuple[Vector, ...]:
        peepholes = [f"p_{name}" for name in self._names if name != "g"] if self.peephole else []
        gains = [f"gain_{side}_{name}" for side in "xh" for name in self._names] + ["gain_c"]
        shifts = [f"shift_{name}" for name in self._names] + ["shift_c"]
        zeros = peepholes + (shifts if self.layer_norm else [])
        ones = gains if self.layer_norm else []
        return tuple(Vector(name, initial=1.0) for name in ones) + tuple(Vector(name, initial=0.0) for name in zeros)

    @property
    def products(self) -> tuple[Product, ...]:
        return (Product("r", weight="weight_hr", bias=None, to="proj"),) if self.proj_size else ()

    @property
    def fused(self) -> str | None:
        return "lstm" if self == LSTM() else None

    def step(self, gate: Any, state: Any, vector: Any, product: Any) -> Any:
        gates, candidate, output = map(activation, self.activations)
        sums = self._normalised(gate, vector) if self.layer_norm else {n: getattr(gate, n) for n in self._names}

        def opened(name: str, c: Any) -> Any:
            row = sums[name] + getattr(vector, f"p_{name}") * c if self.peephole else sums[name]
            return gates(clipped(row, self.gate_clip))

        i = opened("i", state.c)
        f = 1.0 - i if self.coupled else opened("f", state.c)
        g = candidate(clipped(sums["g"], self.gate_clip))
        c = clipped(f * state.c + i * g, self.cell_clip)
        o = opened("o", c)
        h = o * output(self._normalised_cell(c, vector) if self.layer_norm else c)
        return (clipped(product.r(h), self.proj_clip) if self.proj_size else h), c

    def _normalised(self, gate: Any, vector: Any) -> dict[str, Any]:
        """The gates' sums: both sides normalised, times their gains, and the shifts."""
        sides = [
            [
                row * getattr(vector, f"gain_{side}_{name}")
                for row, name in zip(
                    layer_norm(*(getattr(getattr(gate, name), side) for name in self._names), eps=self.eps),
                    self._names,
                    strict=True,
                )
            ]
            for side in "xh"
        ]
        return {name: x + h + getattr(vector, f"shift_{name}") for name, x, h in zip(self._names, *sides, strict=True)}

    def _normalised_cell(self, c: Any, vector: Any) -> Any:
        return layer_norm(c, eps=self.eps)[0] * vector.gain_c + vector.shift_c


def lstm_cell(
    proj_size: int = 0,
    peephole: bool = False,
    coupled: bool = False,
    cell_clip: float | None = None,
    proj_clip: float | None = None,
    layer_norm: bool = False,
    heads: int = 1,
    zoneout: Any = None,
    recurrent_dropout: float = 0.0,
    activations: Any = ("sigmoid", "tanh", "tanh"),
) -> Cell:
    """The cell of an `LSTM` layer with these options.

    Parameters
    ----------
    proj_size, peephole, coupled, cell_clip, proj_clip, layer_norm, heads, activations
        As of `LSTM`.
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
    >>> lstm_cell(proj_size=64, peephole=True).widths
    {'proj': 64}
    """
    cell = LSTM(
        proj_size=proj_size,
        peephole=peephole,
        coupled=coupled,
        cell_clip=cell_clip,
        proj_clip=proj_clip,
        layer_norm=layer_norm,
        heads=heads,
        activations=activations,
    )
    return wrapped(cell, zoneout, recurrent_dropout)


EXAMPLES = {
    "lstm": LSTM(),
    "lstm_proj": LSTM(proj_size=3),
    "lstm_peephole": LSTM(peephole=True),
    "lstm_coupled": LSTM(coupled=True),
    "lstm_clip": LSTM(proj_size=3, cell_clip=0.3, proj_clip=0.1, gate_clip=1.0),
    "lstm_layer_norm": LSTM(layer_norm=True),
    "lstm_heads": LSTM(heads=2),
    "lstm_relu": LSTM(activations=("hard_sigmoid", "relu", "relu")),
    "lstm_everything": LSTM(
        proj_size=2, peephole=True, coupled=True, cell_clip=0.5, proj_clip=0.3, gate_clip=2.0, layer_norm=True
    ),
}
LAYERS = {"LSTM": lstm_cell}
