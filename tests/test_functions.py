"""The kernels' functions for described cells against the C library's in a wider type, in units in the last place."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from rnnfast import _core

WIDER = {np.float32: np.float64, np.float64: np.longdouble}
FUNCTIONS = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
}
MOST_ULP = {"sqrt": 0.5, "abs": 0, "sign": 0}  # 3 for the others
FUSED = [isa for isa in _core.isa_available() if isa != "baseline"]  # those with a fused multiply-add


def apply(function, x, isa):
    y = np.full_like(x, 7)
    _core.pointwise(function, x, y, isa)
    return y


@cache
def inputs(dtype):
    """Every 4099th float32, or random float64 of all sizes; and more where the functions are hardest. No denormals."""
    rng = np.random.default_rng(73)
    if dtype is np.float32:
        everywhere = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    else:
        everywhere = rng.integers(0, 1 << 64, 100_000, np.uint64, endpoint=False).view(np.float64)
    spread = rng.normal(size=20_000) * np.exp2(-rng.integers(0, np.finfo(dtype).nmant + 6, 20_000))
    parts = [
        everywhere,
        spread,
        1 + spread,
        rng.uniform(-1, 1, 50_000),
        rng.uniform(-110, 110, 50_000),  # exp in float32, from zero to infinity
        rng.uniform(-750, 750, 50_000),  # in float64
        rng.uniform(-1e4, 1e4, 50_000),
        np.arange(-6400, 6401) * (np.pi / 2),
        np.array([12_799.9, 12_800.1, 999_999.9, 1_000_000.1]),  # where sin and cos change their ways
    ]
    x = np.concatenate([part.astype(dtype) for part in parts])
    return x[~(np.abs(x) < np.finfo(dtype).tiny) | (x == 0)]


@cache
def exact_values(function, dtype):
    with np.errstate(all="ignore"):
        return FUNCTIONS[function](inputs(dtype).astype(WIDER[dtype]))


def needs_a_wider_type(dtype):
    if np.finfo(WIDER[dtype]).eps >= np.finfo(dtype).eps:
        pytest.skip("this platform's long double is no wider than double")


@pytest.mark.parametrize("isa", _core.isa_available())
@pytest.mark.parametrize("dtype", WIDER)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_error_in_ulp(function, dtype, isa):
    needs_a_wider_type(dtype)
    x, exact, info = inputs(dtype), exact_values(function, dtype), np.finfo(dtype)
    y = apply(function, x, isa)
    assert (np.isnan(y) == np.isnan(exact)).all()
    infinite = np.abs(exact) >= np.ldexp(exact.dtype.type(2 - info.eps / 2), info.maxexp - 1)  # once it is rounded
    assert (y[infinite] == np.copysign(np.inf, exact[infinite])).all()
    assert not np.isinf(y[~infinite]).any()
    flushed = np.abs(exact) < info.tiny
    assert np.isin(np.abs(y[flushed]), (0, info.tiny)).all()
    normal = np.isfinite(exact) & ~infinite & ~flushed
    with np.errstate(over="ignore"):
        rounded = np.minimum(np.abs(exact[normal]).astype(dtype), info.max)
    ulp = np.abs(y[normal] - exact[normal]) / np.spacing(rounded)
    print(f"{function} {dtype.__name__} {isa}: {ulp.max():.2f} ULP at {x[normal][ulp.argmax()]!r}")
    assert ulp.max() <= MOST_ULP.get(function, 3)


@pytest.mark.parametrize("isa", FUSED)
@pytest.mark.parametrize("dtype", WIDER)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_same_bits_with_a_fused_multiply_add(function, dtype, isa):
    x = inputs(dtype)
    np.testing.assert_array_equal(apply(function, x, isa), apply(function, x, FUSED[-1]))


@pytest.mark.parametrize("isa", _core.isa_available())
@pytest.mark.parametrize("dtype", WIDER)
@pytest.mark.parametrize(
    ("function", "expected"),
    {
        "exp": [np.inf, 0, 1, 1],
        "expm1": [np.inf, -1, 0, -0.0],
        "log": [np.inf, np.nan, -np.inf, -np.inf],
        "log1p": [np.inf, np.nan, 0, -0.0],
        "softplus": [np.inf, 0, np.log(2), np.log(2)],
        "sqrt": [np.inf, np.nan, 0, -0.0],
        "abs": [np.inf, np.inf, 0, 0],
        "sign": [1, -1, 0, 0],
        "sin": [np.nan, np.nan, 0, -0.0],
        "cos": [np.nan, np.nan, 1, 1],
    }.items(),
)
def test_special_values(function, expected, dtype, isa):
    """The functions of inf, -inf, 0, -0 and NaN; numbers below the smallest normal one count as zeros."""
    tiny = np.finfo(dtype).tiny / 4
    y = apply(function, np.array([np.inf, -np.inf, 0.0, -0.0, np.nan, tiny, -tiny], dtype), isa)
    expected = np.array([*expected, np.nan, *expected[2:]], dtype)
    np.testing.assert_array_equal(y[:5], expected[:5])
    np.testing.assert_array_equal(np.signbit(y[:4][expected[:4] == 0]), np.signbit(expected[:4][expected[:4] == 0]))
    np.testing.assert_allclose(y[5:], expected[5:], rtol=0, atol=tiny)


@pytest.mark.parametrize("isa", _core.isa_available())
@pytest.mark.parametrize("dtype", WIDER)
def test_known_results(dtype, isa):
    """Exact ones, and domains' ends."""
    info = np.finfo(dtype)

    def value(function, x):
        return apply(function, np.array([x], dtype), isa)[0]

    assert value("log", 1) == 0
    assert np.isnan(value("log", -1))
    assert np.isnan(value("log", -info.tiny))
    assert np.isnan(value("log1p", -1 - info.eps))
    assert value("log1p", -1) == -np.inf
    assert np.isnan(value("sqrt", -info.tiny))
    assert value("expm1", -1000) == -1
    assert value("softplus", 1000) == 1000
    assert value("softplus", -1000) == 0
    assert value("softplus", -30) == pytest.approx(np.exp(-30), rel=4 * float(info.eps))
    for function in ("expm1", "log1p", "sin"):
        for x in (info.tiny, -1.5 * info.tiny, info.eps / 4, -info.eps / 4):
            assert value(function, x) == dtype(x)


@pytest.mark.parametrize("isa", _core.isa_available())
def test_angles_of_any_size(isa):
    """The sine and cosine of 10^22, well known, and of the float64 that is nearest to a multiple of pi/2."""
    x = np.array([1e22, np.ldexp(6381956970095103.0, 797)])
    np.testing.assert_allclose(apply("sin", x, isa), [-0.8522008497671888018, 1], rtol=5e-16)
    np.testing.assert_allclose(apply("cos", x, isa), [0.5232147853951389455, -4.6871659242546276e-19], rtol=5e-16)


@pytest.mark.parametrize("isa", _core.isa_available())
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_float32_nan_gives_nan(function, isa):
    payloads = np.arange(0x7F800001, 1 << 31, 1009, dtype=np.uint32)
    x = np.concatenate([payloads, payloads | np.uint32(1 << 31)]).view(np.float32)
    assert np.isnan(apply(function, x, isa)).all()
