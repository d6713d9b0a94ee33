"""The error of float32 gradients stays small however many steps and rows they are summed over.

What it is measured against is the same layer in float64, which other tests compare with the oracle. The bounds are what
PyTorch reaches: its float32 errors, relative to the largest value, are 3e-7 to 1.5e-6 for the weights of layers of
these sizes, and 1e-7 to 1e-6 for the biases (its LSTM's, which oneDNN sums: up to 2e-5).
"""

from __future__ import annotations

import numpy as np
import pytest

import rnnfast

SIZES = ((100, 32), (1500, 64), (4000, 1), (3, 20_000))
LAYERS = {
    "RNN": rnnfast.RNN,
    "LSTM": rnnfast.LSTM,
    "GRU": rnnfast.GRU,
    "LSTM with peepholes": lambda *sizes, **options: rnnfast.LSTM(*sizes, peephole=True, **options),
    "MinGRU": rnnfast.MinGRU,
}


def errors(kind, T, B, *, ids):
    """Of each parameter's gradient, relative to its largest value."""
    rng = np.random.default_rng(T + B)
    x = rng.integers(0, 3, (T, B)) if ids else rng.standard_normal((T, B, 3)).astype(np.float32)
    dy = rng.standard_normal((T, B, 20)).astype(np.float32)
    narrow, wide = (LAYERS[kind](3, 20, rng=0, dtype=dtype) for dtype in (np.float32, np.float64))
    wide.load(narrow.params)
    found = []
    for layer in (narrow, wide):
        *_, tape = layer.forward(x if ids else x.astype(layer.dtype))
        found.append(layer.backward(tape, dy.astype(layer.dtype), input_gradient=False).params)
    single, exact = found
    return {name: np.abs(single[name] - value).max() / np.abs(value).max() for name, value in exact.items()}


@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_errors_of_gradients_do_not_grow(kind, size, ids):
    for name, error in errors(kind, *size, ids=ids).items():
        assert error < (8e-7 if "weight_" in name else 5e-7), name


@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_biases_over_a_million_rows(kind):
    """A few roundings of the sum are left, not one for every 16384 rows (2.5e-7)."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((4000, 256, 2), np.float32), rng.standard_normal((4000, 256, 6), np.float32) + 0.3
    dy = dy.astype(np.float32)
    narrow, wide = (LAYERS[kind](2, 6, rng=0, dtype=dtype) for dtype in (np.float32, np.float64))
    wide.load(narrow.params)
    single, exact = (
        layer.backward(layer.forward(x.astype(layer.dtype))[2], dy.astype(layer.dtype), input_gradient=False).params
        for layer in (narrow, wide)
    )
    for name in ("bias_ih_l0", "bias_hh_l0"):
        assert np.abs(single[name] - exact[name]).max() / np.abs(exact[name]).max() < 1.5e-7, name


def test_errors_of_a_heads_gradients_do_not_grow():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((200_000, 20)), rng.standard_normal((200_000, 3))
    head = rnnfast.Dense(20, 3, rng=0)
    *_, tape = head.forward(x.astype(np.float32))
    grads = head.backward(tape, dy.astype(np.float32), input_gradient=False).params
    for name, exact in (("weight", dy.astype(np.float32).T.astype(float) @ x.astype(np.float32)), ("bias", dy.sum(0))):
        assert np.abs(grads[name] - exact).max() / np.abs(exact).max() < 5e-7, name
