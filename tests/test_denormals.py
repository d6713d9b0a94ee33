"""Numbers below the smallest normal one: they count as zeros, nearly, and the caller's arithmetic keeps them.

That they cost no time either is for a benchmark to say.
"""

from __future__ import annotations

import ctypes
import functools
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from registry import DTYPES, FUSED, ISAS, TOLERANCES, Case, map_state, oracle, parts

from rnnfast import LSTM, Add, Dense, Dropout, LayerNorm, Pool, Recurrent, _core, _flat, losses, optim
from rnnfast.description.cells import CATALOGUE
from rnnfast.parameters import Parameters

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


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
@pytest.mark.parametrize("call", ["forward", "backward", "stream"])
def test_denormals_survive_in_a_signal_handler_that_interrupts_a_call(call):
    """The handler is the caller's code: it has the caller's mode, and the call goes on in its own."""
    layer, x = LSTM(64, 256, rng=0), np.zeros((1500, 16, 64), np.float32)
    found = []
    before = signal.signal(signal.SIGALRM, lambda *_: found.append(denormals_work()))
    try:
        _, _, tape = layer.forward(x)
        work = {
            "forward": lambda: layer(x),
            "backward": lambda: layer.backward(tape, None),
            "stream": lambda: layer.stream(16).process(x),
        }[call]
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found
    assert all(found)
    assert denormals_work()


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


def test_a_function_that_flushes_puts_the_mode_back():
    """Also after an exception, and inside a call like it."""

    def inside():
        assert not denormals_work()
        with pytest.raises(ZeroDivisionError):
            _flat.Flushed(lambda: 1 / 0)()
        return denormals_work()

    assert not _flat.Flushed(inside)()
    assert denormals_work()


OPTIMIZERS = {
    "adam": lambda params: optim.Adam(params, betas=(0.9, 0.95)),
    "adamw": lambda params: optim.AdamW(params, betas=(0.9, 0.95)),
    "rmsprop": lambda params: optim.RMSprop(params, alpha=0.9, centered=True, momentum=0.9),
    "sgd": lambda params: optim.SGD(params, 0.1, momentum=0.9),
    "nesterov": lambda params: optim.SGD(params, 0.1, momentum=0.9, nesterov=True),
}


def calls_that_flush():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 5, 3, 4)).astype(np.float32)
    p, ids = 1 / (1 + np.exp(-x)), rng.integers(0, 4, (5, 3))

    def there_and_back(part, *inputs, **options):
        y, tape = part.forward(*inputs, **options)
        part.backward(tape, y)

    def learn():
        layer = Recurrent(CATALOGUE["lstm"], 4, 4, rng=0)
        learner = layer.learner(losses.mean_squared_error, optim.SGD(layer.params, 0.1), batch_size=3)
        learner.step(x[0], dy[0])

    def optimise(make):
        params = params_of(np.float32)
        optimizer, gradients = make(params), params.zeros()
        optim.clip_grad_norm(gradients, 1.0)
        optimizer.step(gradients)

    return {
        "cross entropy": lambda: losses.softmax_cross_entropy(x, ids),
        "soft targets": lambda: losses.softmax_cross_entropy(x, ids, label_smoothing=0.1, class_weights=[1, 2, 3, 4]),
        "squares": lambda: losses.mean_squared_error(x, dy),
        "absolute": lambda: losses.mean_absolute_error(x, dy),
        "huber": lambda: losses.huber(x, dy),
        "binary": lambda: losses.binary_cross_entropy(x, p, logits=True),
        "probabilities": lambda: losses.binary_cross_entropy(p, p),
        "normalisation": lambda: there_and_back(LayerNorm(4), x),
        "mean": lambda: there_and_back(Pool("mean"), x, lengths=[1, 5, 0]),
        "sum": lambda: there_and_back(Add(), x, dy),
        "dropout": lambda: there_and_back(Dropout(0.5, rng=0), x),
        "a head": lambda: there_and_back(Dense(4, 2, activation="softmax", rng=0), x),
        "a learner": learn,
        **{name: functools.partial(optimise, make) for name, make in OPTIMIZERS.items()},
    }


@pytest.mark.parametrize("name", calls_that_flush())
def test_every_line_of_python_has_the_callers_mode(name):
    """A signal handler can run before any of them, NumPy's own (in `copyto`, for one) included."""
    kept, tiny, one = [], np.float32(1e-40), np.float32(1)

    def watch(*_):
        kept.append(bool(tiny * one > 0))
        return watch

    call, before = calls_that_flush()[name], sys.gettrace()
    sys.settrace(watch)
    try:
        call()
    finally:
        sys.settrace(before)
    assert len(kept) > 20
    assert all(kept)


def params_of(dtype, size=37):
    params = Parameters({"a": (size,)}, dtype)
    params.assign(np.random.default_rng(0).standard_normal(size))
    return params


def has_denormals(*arrays):
    return any(((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)).any() for array in arrays)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_averages_fall_to_zero(make, dtype):
    """And not to denormals, where they would stay, and each step would take many times as long."""
    params = params_of(dtype)
    optimizer, gradients = make(params), params.zeros()
    gradients.flat[:] = np.random.default_rng(1).standard_normal(params.size)
    optimizer.step(gradients)
    gradients.zero()
    for _ in range(2000 if dtype == np.float32 else 15000):
        optimizer.step(gradients)
        assert not has_denormals(*optimizer._arrays.values())
    assert optimizer._arrays
    assert not any(array.any() for array in optimizer._arrays.values())
    assert np.isfinite(params.flat).all()
    assert denormals_work()


@pytest.mark.parametrize("dtype", DTYPES)
def test_optimisers_and_clipping_flush_for_themselves_only(dtype):
    def work():
        params = params_of(dtype)
        gradients = params.zeros()
        for make in OPTIMIZERS.values():
            gradients.flat[:] = DENORMAL[dtype]
            make(params).step(gradients)
        assert optim.clip_grad_norm(gradients, 1.0) == 0
        optim.clip_grad_value(gradients, 1.0)
        with pytest.raises(TypeError):
            _flat.clamp(gradients.flat.astype(np.int64), 1.0)

    work()
    assert denormals_work()

    def set_by_the_caller():
        work()
        return denormals_work()

    assert not _flat.Flushed(set_by_the_caller)()


@pytest.mark.parametrize("make", [optim.Adam, optim.RMSprop])
def test_an_eps_that_is_a_denormal_still_keeps_zero_from_being_divided_by_zero(make):
    params = params_of(np.float32)
    optimizer = make(params, eps=1e-42)
    optimizer.step(params.zeros())
    assert np.isfinite(params.flat).all()


def loss_calls(dtype):
    """Predictions so sure that exp of them, or their product with a small weight, is a denormal."""
    z = np.array([[0, -0.99, -1.001, -1.01, -1.02], [0, 0.1, -0.5, -0.9, -0.95]]) * -np.log(np.finfo(dtype).tiny)
    z = z.astype(dtype)
    target = np.zeros_like(z)
    return {
        "cross entropy": lambda: losses.softmax_cross_entropy(z, np.zeros(2, int)),
        "squares": lambda: losses.mean_squared_error(np.full_like(z, np.finfo(dtype).tiny), target),
        "binary": lambda: losses.binary_cross_entropy(z, target, logits=True),
        "probabilities": lambda: losses.binary_cross_entropy(np.full_like(z, np.finfo(dtype).tiny), target),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", loss_calls(np.float32))
def test_gradients_of_losses_have_no_denormals(name, dtype):
    loss, gradient = loss_calls(dtype)[name]()
    assert np.isfinite(loss)
    assert not has_denormals(gradient)
    assert denormals_work()


def test_a_loss_that_refuses_its_arguments_leaves_the_mode():
    with pytest.raises(ValueError, match="ids"):
        losses.softmax_cross_entropy(np.zeros((2, 3)), [0, 3])
    assert denormals_work()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "tanh"])
def test_heads_have_no_denormals(activation, dtype):
    dense = Dense(1, 5, activation=activation, dtype=dtype, rng=0)
    scale = -np.log(np.finfo(dtype).tiny)
    dense.load({"weight": np.array([[0, -0.99, -1.001, -1.01, -1.02]]).T * scale, "bias": np.zeros(5)})
    y, tape = dense.forward(np.ones((1, 1)))
    grads = dense.backward(tape, np.array([[1e-3, -1e-3, 1e-3, 1e-3, 1e-3]]))
    assert not has_denormals(y, grads.x, grads.params.flat)
    assert denormals_work()


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
