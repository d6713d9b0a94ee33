"""How Keras lays out the weights of its layers, and RTNeural after it: kernels [in, out], other orders of gates.

==========  =====================  ===========================
layer       gates                  bias
==========  =====================  ===========================
SimpleRNN   one                    [H]
LSTM        i, f, c, o             [4*H]
GRU         z, r, h                [3*H]; `reset_after`: [2, 3*H]
==========  =====================  ===========================
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .._checks import Array

__all__ = ["GATES", "from_layout", "to_layout"]

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
"""Gates by the kind of cell."""


def _swapped(rows: Array) -> Array:
    """The rows of a GRU's gates in the order r, z, n, from z, r, n; or back."""
    first, second, third = np.split(rows, 3)
    return np.concatenate([second, first, third])


def from_layout(kind: str, kernel: Array, recurrent: Array, bias: Array | None) -> dict[str, Array]:
    """A layer's parameters, without the suffix, from what Keras has.

    Parameters
    ----------
    kind : {"rnn", "lstm", "gru"}
    kernel : ndarray, shape [I, G*H]
    recurrent : ndarray, shape [H, G*H]
    bias : ndarray, shape [G*H] or [2, G*H], or None

    Returns
    -------
    dict
        `weight_ih`, `weight_hh`, and with a bias `bias_ih`, `bias_hh`.
    """
    ordered = _swapped if kind == "gru" else np.asarray
    weights = {"weight_ih": ordered(kernel.T), "weight_hh": ordered(recurrent.T)}
    if bias is None:
        return weights
    sides = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    return weights | {"bias_ih": ordered(sides[0]), "bias_hh": ordered(sides[1])}


def to_layout(kind: str, weights: Mapping[str, Array], *, two_biases: bool = False) -> list[Array]:
    """What Keras has, from a layer's parameters: kernel, recurrent kernel and, if there is one, the bias.

    Parameters
    ----------
    kind : {"rnn", "lstm", "gru"}
    weights : mapping from str to ndarray
        As `from_layout` gives them.
    two_biases : bool, optional
        Whether the two biases stay apart, as of a GRU with `reset_after`; else they are added.

    Returns
    -------
    list of ndarray
    """
    ordered = _swapped if kind == "gru" else np.asarray
    result = [ordered(weights["weight_ih"]).T, ordered(weights["weight_hh"]).T]
    if "bias_ih" in weights:
        sides = [ordered(weights["bias_ih"]), ordered(weights["bias_hh"])]
        result.append(np.stack(sides) if two_biases else sides[0] + sides[1])
    return result
