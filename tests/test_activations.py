"""The kernels' sigmoid and tanh against the C library's in a wider type, in units in the last place."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast import _core

WIDER = {np.float32: np.float64, np.float64: np.longdouble}
FUNCTIONS = {"tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
ONE, INFINITY = 0x3F800000, 0x7F800000  # float32 as integers: the positive ones are those below INFINITY, in order


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


def exact_values(function, x):
    """The function of one chunk of float32, in float64."""
    x = x.astype(np.float64)
    if function == "tanh" and np.abs(x).max() < 2**-13:
        return x - x * x * x / 3  # the next term is a millionth of an ULP, and this is several times faster
    with np.errstate(over="ignore"):
        return FUNCTIONS[function](x)


def ulp_of_float32(exact):
    """The distance of neighbouring float32 just below float64 values > 0: 2**-23 of a power of two.

    Below, for where float64 says 1 the exact value is not quite that, and the float32 there lie half as far apart.
    """
    return np.ldexp(((exact.view(np.int64) - 1) & (0x7FF << 52)).view(np.float64), -23)


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_error_over_float32(function, record_property, request):
    """The largest error in ULP, for the active instruction set, of a twentieth of all 2**32 inputs.

    With --every-float32 of all of them; every one is computed. Not every one is compared with its own exact value.
    Negative inputs of tanh need none in a chunk where the results are, bit by bit, those of the positive ones but for
    the sign. And where the results of a whole chunk, against the exact ones at both its ends, aren't as wrong as the
    worst so far, no single one is: the exact function is monotonic.
    """
    isa, chunk = _core.isa(), 1 << 20
    least = 2 * float(np.finfo(np.float32).tiny)  # below, results may be flushed to zero
    worst, where = 0.0, np.nan
    every = request.config.getoption("--every-float32")
    for begin in sorted(range(0, INFINITY, chunk), key=lambda bits: abs(bits - ONE))[:: 1 if every else 19]:
        x = np.arange(begin, begin + chunk, dtype=np.uint32).view(np.float32)
        results = [(x, apply(function, x, isa)), (-x, apply(function, -x, isa))]
        if function == "tanh":  # the exact one is odd
            results[1] = x, -results[1][1]
            if (results[0][1].view(np.uint32) == results[1][1].view(np.uint32)).all():
                del results[1]
        for x, y in results:
            low, high = np.sort(exact_values(function, x[[0, -1]]))
            if high < least:
                assert np.abs(y).max() <= 2 * least
                continue
            if low >= least and max(y.max() - low, high - y.min()) <= worst * ulp_of_float32(low):
                continue
            exact = exact_values(function, x)
            assert np.abs(y[exact < least]).max(initial=0) <= 2 * least
            error = np.where(exact < least, 0, np.abs(y - exact) / ulp_of_float32(exact))
            i = error.argmax()
            if not error[i] <= worst:  # NaN is worse than anything
                worst, where = error[i], x[i]
    record_property(
        f"{function}, {'all' if every else 'some'} float32, {isa}",
        f"at most {worst:.3f} ULP, at {float(where).hex()} = {where:.9g}",
    )
    assert worst <= 3


@pytest.mark.parametrize("isa", _core.isa_available())
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_float32_nan_gives_nan(function, isa):
    payloads = np.arange(INFINITY + 1, 1 << 31, 1009, dtype=np.uint32)
    x = np.concatenate([payloads, payloads | np.uint32(1 << 31)]).view(np.float32)
    assert np.isnan(apply(function, x, isa)).all()
