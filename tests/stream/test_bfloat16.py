"""Weights in bfloat16: the layer with rounded weights, bit by bit."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from registry import (
    FUSED,
    ISAS,
    TOLERANCES,
    Case,
    assert_close,
    assert_same,
    assert_same_bits,
    make_layer,
    oracle,
)
from streams import CUTS, T, cases, rounded, to_bfloat16, walk


@pytest.mark.parametrize("case", list(cases([np.float32])), ids=str)
def test_bfloat16_is_the_layer_with_rounded_weights(case):
    """Bit by bit: the arithmetic stays in float32, and so do the biases."""
    layer, data = case.layer(), case.data
    same = rounded(layer, case.isa)
    y, final = same(data.x, data.state)
    stream = layer.stream(case.B, weights="bfloat16")
    for bounds in CUTS.values():
        stream.state = data.state
        assert_same_bits(walk(stream, data.x, bounds), y)
        assert_same(stream.state, final)
    ids = np.random.default_rng(0).integers(0, case.I, (T, case.B))
    y, _ = same(ids, ids=True)
    for name in ("whole", "mixed"):
        stream.reset()
        assert_same_bits(walk(stream, ids, CUTS[name]), y)


@pytest.mark.parametrize("isa", ISAS)
def test_bfloat16_rounds_to_nearest_ties_to_even(isa):
    """Ties between even and odd neighbours, what lies next to ties, the ends of a binade, overflow to infinity."""
    upper = np.array([0x3F80, 0x3F81, 0x3FFE, 0x3FFF, 0xBF80, 0xBF81, 0x4012, 0x7F7F, 0xFF7F, 0x0080], np.uint32)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (upper[:, None] << 16 | lower).ravel().view(np.float32)
    layer = make_layer("elman_relu", len(values), 2, isa=isa, bias=False)
    layer.load({"weight_ih_l0": np.stack([values, -values]), "weight_hh_l0": np.zeros((2, 2))})
    expected = to_bfloat16(values)
    assert np.isinf(expected).sum() == 6
    stream = layer.stream(len(values), weights="bfloat16")
    found = stream.step(range(len(values)))  # one id to each row
    np.testing.assert_array_equal(found[:, 0] - found[:, 1], expected)


@pytest.mark.parametrize("isa", ISAS)
def test_bfloat16_keeps_nan_and_infinity(isa):
    """Also a NaN whose only bits are in the half that is cut off; and no neighbour is touched."""
    words = [0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7FC00000, 0x7F800000, 0xFF800000, 0x3FC00000, 0x80000000]
    values = np.array(words, np.uint32).view(np.float32)
    layer = make_layer("elman_tanh", 2, 8, isa=isa, bias=False)
    layer.load({"weight_ih_l0": np.stack([values, np.ones_like(values)], 1), "weight_hh_l0": np.zeros((8, 8))})
    assert layer.params["weight_ih_l0"][:, 0].tobytes() == values.tobytes()
    for id_, expected in ((0, [np.nan] * 4 + [1, -1, np.tanh(1.5), 0]), (1, [np.tanh(1.0)] * 8)):
        found = layer.stream(weights="bfloat16").step(id_)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_array_equal(found, layer.stream().step(id_))


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_nan_in_one_row_stays_there(weights):
    case = Case("lstm", ISAS[-1], num_layers=2, T=20, B=3)
    x = case.data.x.copy()
    expected = case.layer().stream(3, weights=weights).process(x)
    x[4, 1] = np.nan
    y = case.layer().stream(3, weights=weights).process(x)
    assert np.isnan(y[4:, 1]).all()
    assert_same_bits(y[:, [0, 2]], expected[:, [0, 2]])


@pytest.mark.parametrize(("kind", "isa"), list(product(FUSED, ISAS)))
def test_bfloat16_error(kind, isa, record_property):
    """Against the float64 oracle.

    With the rounded weights it is that of float32. With the layer's own weights it is what the rounding does: a weight
    is off by at most 2**-8 of itself, and by 2**-9 as a rule. Here a gate's sum, over 33 features of variance 1 and 100
    units |h| < 1, with PyTorch's initial weights of variance 1/300, has a deviation of at most sqrt(133 / 300); so it
    is off by sqrt(133 / 300) * 2**-9 as a rule, by 5 times that in the worst of 126,000 sums, and by a fifth more with
    what the steps before hand on: 2**-7.
    """
    case = Case(kind, isa, num_layers=2, T=T, B=9, H=100, I=33)
    layer, data = case.layer(), case.data
    stream = layer.stream(9, weights="bfloat16")
    stream.state = data.state
    y = stream.process(data.x)
    assert_close(y, oracle(case, rounded(layer, isa))[0].y, TOLERANCES[np.dtype(np.float32)][0])
    expected = oracle(case, layer)[0].y
    error = np.abs(y - expected).max() / np.abs(expected).max()
    if isa == ISAS[-1]:
        record_property(f"bfloat16 weights, {kind}: largest error relative to the largest value", f"{error:.2g}")
    assert 1e-5 < error < 2**-7
