"""The kernels' sigmoid and tanh against the C library's in a wider type, in units in the last place."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast import _core

WIDER = {np.float32: np.float64, np.float64: np.longdouble}
FUNCTIONS = {"tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}


def apply(function, x, isa):
    y = np.full_like(x, np.nan)
    _core.pointwise(function, x, y, isa)
    return y


@pytest.mark.parametrize("isa", _core.isa_available())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_error_in_ulp(function, dtype, isa):
    """At most 3 ULP over both signs, from the smallest normal number to beyond saturation."""
    if np.finfo(WIDER[dtype]).eps >= np.finfo(dtype).eps:
        pytest.skip("this platform's long double is no wider than double")
    magnitudes = np.concatenate([np.geomspace(np.finfo(dtype).tiny, 1, 200_000), np.linspace(0, 800, 400_001)])
    x = np.concatenate([magnitudes, -magnitudes]).astype(dtype)
    with np.errstate(over="ignore"):  # exp(800) is inf in the wider type of float32, and 1 / inf is right
        exact = FUNCTIONS[function](x.astype(WIDER[dtype]))
    normal = np.abs(exact) >= 2 * np.finfo(dtype).tiny
    ulp = np.abs(apply(function, x, isa) - exact) / np.spacing(np.abs(exact).astype(dtype))
    print(f"{function} {dtype.__name__} {isa}: {ulp[normal].max():.2f} ULP")
    assert ulp[normal].max() <= 3
    assert np.abs(apply(function, x, isa)[~normal]).max() <= 4 * np.finfo(dtype).tiny


@pytest.mark.parametrize("isa", _core.isa_available())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype, isa):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    tanh, sigmoid = apply("tanh", x, isa), apply("sigmoid", x, isa)
    assert np.isnan(tanh[0])
    assert np.isnan(sigmoid[0])
    assert tanh[1:].tolist() == [1, -1, 0, 0]
    assert np.signbit(tanh[4])
    assert sigmoid[1] == 1
    assert 0 <= sigmoid[2] <= 2 * np.finfo(dtype).tiny
    assert sigmoid[3:].tolist() == [0.5, 0.5]
