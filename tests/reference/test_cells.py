"""One step of each cell of the oracle, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rnnfast import reference


def sigma(z):
    return 1 / (1 + math.exp(-z))


def one_step(kind, weight_ih, weight_hh, bias_ih, bias_hh, x, h_prev, c_prev=None):
    """A step of a cell with IN = H = B = 1: (h, c)."""
    params = {
        "weight_ih": np.array(weight_ih)[:, None],
        "weight_hh": np.array(weight_hh)[:, None],
        "bias_ih": bias_ih,
        "bias_hh": bias_hh,
    }
    state = [[[part]] for part in (h_prev, c_prev) if part is not None]
    result = reference.forward(kind, params, [[[x]]], *state)
    assert result.y.item() == result.state[0].item()
    return tuple(part.item() for part in result.state)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("elman_tanh", math.tanh(-0.55)), ("elman_relu", 0.0), ("elman_sigmoid", 1 / (1 + math.exp(0.55)))],
)
def test_elman_by_hand(kind, expected):
    (h,) = one_step(kind, [0.5], [-2.0], [0.25], [0.1], x=0.2, h_prev=0.5)  # 0.1 - 1 + 0.25 + 0.1 = -0.55
    assert h == pytest.approx(expected, rel=1e-14)


def test_elman_relu_by_hand_above_the_kink():
    (h,) = one_step("elman_relu", [0.5], [2.0], [0.25], [0.1], x=0.2, h_prev=0.5)  # 0.1 + 1 + 0.25 + 0.1
    assert h == pytest.approx(1.45, rel=1e-14)


def test_lstm_by_hand():
    h, c = one_step(
        "lstm",
        [0.5, -1, 2, 0.1],
        [1, 0.5, -0.4, 0.3],
        [0, 0.1, 0.2, 0.3],
        [0.4, 0, 0, 0],
        x=0.6,
        h_prev=0.5,
        c_prev=-0.7,
    )
    # i: 0.3 + 0.5 + 0.4; f: -0.6 + 0.25 + 0.1; g: 1.2 - 0.2 + 0.2; o: 0.06 + 0.15 + 0.3
    expected_c = sigma(-0.25) * -0.7 + sigma(1.2) * math.tanh(1.2)
    assert c == pytest.approx(expected_c, rel=1e-14)
    assert h == pytest.approx(sigma(0.51) * math.tanh(expected_c), rel=1e-14)


GRU_BY_HAND = {
    # r: 0.3 + 0.5 + 0.4; z: -0.6 + 0.25 + 0.1; n: 1.2 + 0.2 and the share of h_prev = 0.5, U_n = -0.4, b_hn = 0.7
    "gru_after": math.tanh(1.4 + sigma(1.2) * (-0.2 + 0.7)),
    "gru_before": math.tanh(1.4 + 0.7 - 0.4 * sigma(1.2) * 0.5),
}


@pytest.mark.parametrize("kind", GRU_BY_HAND)
def test_gru_by_hand(kind):
    (h,) = one_step(kind, [0.5, -1, 2], [1, 0.5, -0.4], [0, 0.1, 0.2], [0.4, 0, 0.7], x=0.6, h_prev=0.5)
    z = sigma(-0.25)
    assert h == pytest.approx((1 - z) * GRU_BY_HAND[kind] + z * 0.5, rel=1e-14)


def test_literal_values():
    """The same steps once more as bare numbers, so that an error in sigma here would show."""
    assert one_step("elman_tanh", [0.5], [-2.0], [0.25], [0.1], 0.2, 0.5)[0] == pytest.approx(
        -0.5005202111902, rel=1e-12
    )
    assert reference.sigmoid(np.array([0.0, math.log(3), -math.log(3)])) == pytest.approx([0.5, 0.75, 0.25], rel=1e-15)


def test_two_hidden_units_by_hand():
    """Weights are [out, in], not transposed."""
    params = {"weight_ih": [[1, 0], [0, 2]], "weight_hh": [[0, 3], [0, 0]]}
    result = reference.forward("elman_relu", params, [[[1, 1]]], [[5, 7]])
    np.testing.assert_array_equal(result.state[0], [[22, 2]])
