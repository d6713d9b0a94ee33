"""Numbers below the smallest normal one: they count as zeros, nearly, and the caller's arithmetic keeps them.

That they cost no time either is for a benchmark to say.
"""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from registry import DTYPES, FUSED, ISAS, TOLERANCES, Case, map_state, oracle, parts

from rnnfast import _core

DENORMAL = {np.float32: 1e-40, np.float64: 1e-310}


def denormals_work():
    """Whether this thread's arithmetic, NumPy's included, keeps denormals."""
    tiny = np.full(8, 1e-40, np.float32)
    return bool(
        ((tiny * np.float32(0.5)) > 0).all() and ((tiny + tiny) > tiny).all() and np.float32(1e-40) * np.float32(1) > 0
    )


# The caller's mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
def test_denormals_survive_in_the_caller(isa):
    """Also after a call that failed, and in a Python thread that isn't the first."""
    case = Case("gru_after", isa, H=64, I=32, T=40, B=33)
    layer, data = case.layer(), case.data

    def survive():
        assert denormals_work()
        for threads in (1, 2):
            _, _, tape = layer.forward(data.x, data.state, num_threads=threads)
            assert denormals_work()
            layer.backward(tape, data.dy, num_threads=threads)
            assert denormals_work()
        with pytest.raises(ValueError, match="x"):
            layer(data.x[..., 1:])
        assert denormals_work()
        return True

    assert survive()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: survive(), range(4))) == [True] * 4


@pytest.mark.skipif(
    "libgomp" not in _core.build_info()["openmp"] or sys.platform != "linux",
    reason="calls GOMP_parallel, which only libgomp has, and only a shared one on Linux shows",
)
def test_denormals_survive_in_the_threads_of_openmp():
    """Which are other libraries' threads too: the same ones run a region of ours and then one that is not ours."""
    found = []
    region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: found.append(denormals_work()))
    case = Case("lstm", ISAS[-1], H=64, I=32, T=40, B=33)
    layer = case.layer()
    y, _, tape = layer.forward(case.data.x, num_threads=3)
    layer.backward(tape, y, num_threads=3)
    ctypes.CDLL("libgomp.so.1").GOMP_parallel(region, None, 3, 0)
    assert found == [True] * 3


# Results --------------------------------------------------------------------------------------------------------------


def assert_close_or_denormal(actual, expected, tolerance, dtype):
    """Within the tolerance of the largest value, or below what a sum of flushed terms may lose."""
    lost = 1e4 * float(np.finfo(dtype).tiny)
    error = np.abs(np.asarray(actual, np.float64) - expected).max(initial=0.0)
    assert error <= max(tolerance * np.abs(expected).max(initial=0.0), lost)


def spoil(case, layer, what):
    """Fills some of the arguments or parameters with denormals, or makes the states decay through them."""
    data, tiny = case.data, DENORMAL[case.dtype]

    def denormal(array):
        return np.copysign(case.dtype(tiny), array)

    if what in ("inputs", "all"):
        data.x, data.state = denormal(data.x), map_state(denormal, data.state)
    if what in ("gradients", "all"):
        data.dy, data.dstate = denormal(data.dy), map_state(denormal, data.dstate)
    if what in ("weights", "all"):
        # Not the biases: with a z that is flushed to zero, relu's derivative is rightly another one.
        layer.update({name: denormal(value) for name, value in layer.params.items() if "weight" in name})
    if what == "decay":  # no input, weak recurrence, closed gates: what is left of the state falls at every step
        data.x[:], data.dy[:] = 0, 0
        biases = np.full(
            layer.params["bias_ih_l0"].shape, -1 if case.kind in ("lstm", "gru_after", "gru_before") else 0
        )
        if case.kind.startswith("gru"):
            biases[2 * case.H :] = 0
        values = {name: 0.2 * value for name, value in layer.params.items() if "weight" in name}
        values |= {name: 0 * value for name, value in layer.params.items() if "bias" in name}
        layer.load(values | {"bias_ih_l0": biases})


@pytest.mark.parametrize("what", ["inputs", "weights", "gradients", "all", "decay"])
@pytest.mark.parametrize(("isa", "kind", "dtype"), list(product(ISAS, FUSED, DTYPES)))
def test_denormals_do_no_harm(isa, kind, dtype, what):
    """Forward and backward agree with the oracle, which keeps denormals (float64's own apart)."""
    case = Case(kind, isa, dtype, T=400 if what == "decay" else 6, B=5, threads=2)
    layer = case.layer()
    spoil(case, layer, what)
    data, (forward_tolerance, backward_tolerance) = case.data, TOLERANCES[np.dtype(dtype)]
    expected, gradients = oracle(case, layer)
    y, state, tape = layer.forward(data.x, data.state, num_threads=2)
    grads = layer.backward(tape, data.dy, data.dstate, num_threads=2)
    assert_close_or_denormal(y, expected.y, forward_tolerance, dtype)
    assert_close_or_denormal(grads.x, gradients.dx, backward_tolerance, dtype)
    for actual, wanted in zip(parts(state), parts(expected.state), strict=True):
        assert_close_or_denormal(actual, wanted, forward_tolerance, dtype)
    for actual, wanted in zip(parts(grads.state), parts(gradients.dstate), strict=True):
        assert_close_or_denormal(actual, wanted, backward_tolerance, dtype)
    for name, value in grads.params.items():
        assert_close_or_denormal(value, gradients.params[name], backward_tolerance, dtype)
