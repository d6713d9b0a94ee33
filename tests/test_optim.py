"""Optimisers: plain float64 loops, states bit by bit, clipping, bad input down to the flat loops, PyTorch."""

from __future__ import annotations

import copy
import json
import math
import pickle
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnfast import LSTM, Dense, LayerNorm, _flat, optim
from rnnfast.parameters import Gradients, Parameters

Array = np.ndarray[Any, np.dtype[Any]]

SHAPES = {"weight": (7, 5), "bias": (7,), "scalar": (), "none": (0, 3)}
SIZE = 43

CASES: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "sgd_decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.3}),
    "sgd_momentum": (optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "sgd_nesterov": (optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    "rmsprop": (optim.RMSprop, {}),
    "rmsprop_decay": (optim.RMSprop, {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.2}),
    "rmsprop_momentum": (optim.RMSprop, {"alpha": 0.8, "momentum": 0.7}),
    "rmsprop_centered": (optim.RMSprop, {"alpha": 0.9, "centered": True}),
    "rmsprop_all": (
        optim.RMSprop,
        {"lr": 0.02, "alpha": 0.5, "eps": 0.1, "momentum": 0.3, "centered": True, "weight_decay": 0.1},
    ),
    "adam": (optim.Adam, {}),
    "adam_all": (optim.Adam, {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.3}),
    "adam_no_memory": (optim.Adam, {"lr": 0.02, "betas": (0.0, 0.0)}),
    "adamw": (optim.AdamW, {}),
    "adamw_all": (optim.AdamW, {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.3}),
}
each_case = pytest.mark.parametrize(("kind", "options"), CASES.values(), ids=CASES.keys())
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def parameters(dtype: Any, seed: int = 0) -> Parameters:
    params = Parameters(SHAPES, dtype)
    params.assign(np.random.default_rng(seed).normal(size=SIZE))
    return params


def gradients_of(params: Parameters, count: int, seed: int = 1) -> list[Gradients]:
    rng = np.random.default_rng(seed)
    result = [params.zeros() for _ in range(count)]
    for gradients in result:
        gradients.flat[...] = rng.normal(size=SIZE) * np.exp(rng.normal(size=SIZE))
    return result


def bits(array: Array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


# --- the update rules -------------------------------------------------------------------------------------------------


def plain_sgd(
    p: float, grads: list[float], *, lr: float, momentum: float = 0, nesterov: bool = False, wd: float = 0
) -> float:
    v = 0.0
    for g in grads:
        g = g + wd * p
        v = momentum * v + g
        p = p - lr * (g + momentum * v if nesterov else v)
    return p


def plain_rmsprop(
    p: float,
    grads: list[float],
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0,
    centered: bool = False,
    wd: float = 0,
) -> float:
    square = mean = v = 0.0
    for g in grads:
        g = g + wd * p
        square = alpha * square + (1 - alpha) * g * g
        mean = alpha * mean + (1 - alpha) * g
        variance = square - mean * mean if centered else square
        v = momentum * v + g / (math.sqrt(variance) + eps)
        p = p - lr * v
    return p


def plain_adam(
    p: float,
    grads: list[float],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    wd: float = 0,
    decoupled: bool = False,
) -> float:
    m = v = 0.0
    for t, g in enumerate(grads, start=1):
        if decoupled:
            p = p - lr * wd * p
        else:
            g = g + wd * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p = p - lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def plain(kind: type[optim.Optimizer], options: dict[str, Any]) -> Callable[[float, list[float]], float]:
    options = dict(options)
    decay = options.pop("weight_decay", 1e-2 if kind is optim.AdamW else 0.0)
    if kind in (optim.Adam, optim.AdamW):
        return lambda p, grads: plain_adam(p, grads, wd=decay, decoupled=kind is optim.AdamW, **options)
    rule = {optim.SGD: plain_sgd, optim.RMSprop: plain_rmsprop}[kind]
    return lambda p, grads: rule(p, grads, wd=decay, **options)


@each_case
@each_dtype
def test_twenty_steps(kind: type[optim.Optimizer], options: dict[str, Any], dtype: Any) -> None:
    params = parameters(dtype)
    start = params.flat.astype(np.float64)
    steps = gradients_of(params, 20)
    optimizer = kind(params, **options)
    for gradients in steps:
        before = gradients.flat.copy()
        optimizer.step(gradients)
        assert bits(gradients.flat) == bits(before)
    assert optimizer.steps == 20
    rule = plain(kind, options)
    expected = [rule(float(start[i]), [float(gradients.flat[i]) for gradients in steps]) for i in range(SIZE)]
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    assert np.allclose(params.flat, expected, **tolerance)


@each_dtype
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 97, 1000])
def test_every_element_at_sizes_that_straddle_vectors(size: int, dtype: Any) -> None:
    """An element's result does not depend on where in the buffer it lies."""
    for kind, options in CASES.values():
        whole, single = Parameters({"p": (size,)}, dtype), Parameters({"p": (1,)}, dtype)
        whole.assign(np.full(size, 0.7))
        single.assign([0.7])
        pair = kind(whole, **options), kind(single, **options)
        for value in (0.3, -1.1, 0.2):
            for optimizer in pair:
                gradients = optimizer.params.zeros()
                gradients.flat[...] = value
                optimizer.step(gradients)
        assert bits(whole.flat) == bits(single.flat) * size


def test_views_see_a_step_and_the_version_moves() -> None:
    params = parameters(np.float32)
    bias, version = params["bias"], params.version
    before = bias.copy()
    (gradients,) = gradients_of(params, 1)
    optim.SGD(params, 1.0).step(gradients)
    assert np.allclose(bias, before - gradients["bias"]) and params.version > version


def test_learning_rate_can_be_set() -> None:
    params = parameters(np.float64)
    optimizer = optim.SGD(params, 0.5)
    assert optimizer.lr == 0.5
    optimizer.lr = np.float32(0.25)
    assert optimizer.lr == 0.25 and type(optimizer.lr) is float
    before = params.flat.copy()
    (gradients,) = gradients_of(params, 1)
    optimizer.step(gradients)
    assert np.array_equal(params.flat, before - 0.25 * gradients.flat)
    for bad in (-1, math.nan, math.inf, "1", None, True, [1.0]):
        with pytest.raises((TypeError, ValueError), match="lr: expected"):
            optimizer.lr = bad
    assert optimizer.lr == 0.25


@each_dtype
def test_centered_rmsprop_survives_a_constant_gradient(dtype: Any) -> None:
    """The variance is then 0 up to rounding, on either side."""
    params = parameters(dtype)
    gradients = params.zeros()
    gradients.flat[...] = np.linspace(0.1, 3, SIZE)
    optimizer = optim.RMSprop(params, alpha=0.5, eps=1e-3, centered=True)
    for _ in range(200):
        optimizer.step(gradients)
    assert np.isfinite(params.flat).all()


@each_case
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_gradients_are_taken_as_told(
    kind: type[optim.Optimizer], options: dict[str, Any], bad: float
) -> None:
    params = parameters(np.float32)
    (gradients,) = gradients_of(params, 1)
    gradients.flat[5] = bad
    kind(params, **options).step(gradients)
    finite = np.isfinite(params.flat)
    assert not finite[5] and np.delete(finite, 5).all()


# --- state ------------------------------------------------------------------------------------------------------------


@each_case
@each_dtype
@pytest.mark.parametrize("way", ["dict", "pickle", "deepcopy"])
def test_state_round_trip_is_bitwise(
    kind: type[optim.Optimizer], options: dict[str, Any], dtype: Any, way: str
) -> None:
    params = parameters(dtype)
    steps = gradients_of(params, 9)
    optimizer = kind(params, **options)
    for gradients in steps[:5]:
        optimizer.step(gradients)
    optimizer.lr = 0.123
    if way == "dict":
        copied = parameters(dtype, seed=9)
        copied.assign(params.flat)
        other = kind(copied, **{**options, "lr": 7.0})
        state = optimizer.state_dict()
        scalars = json.loads(
            json.dumps({name: value for name, value in state.items() if not isinstance(value, np.ndarray)})
        )
        other.load_state_dict({**state, **scalars})
    else:
        other = pickle.loads(pickle.dumps(optimizer)) if way == "pickle" else copy.deepcopy(optimizer)
        copied = other.params
        assert not np.shares_memory(copied.flat, params.flat)
    for gradients in steps[5:]:
        optimizer.step(gradients)
        other.step(gradients)
    assert bits(copied.flat) == bits(params.flat)
    first, second = optimizer.state_dict(), other.state_dict()
    assert list(first) == list(second) and first["step"] == 9 and first["lr"] == 0.123
    for name, value in first.items():
        assert bits(value) == bits(second[name]) if isinstance(value, np.ndarray) else value == second[name]


def test_state_names() -> None:
    params = parameters(np.float32)
    assert set(optim.SGD(params, 0.1).state_dict()) == {"name", "step", "lr", "momentum", "nesterov", "weight_decay"}
    assert set(optim.SGD(params, 0.1, momentum=0.5).state_dict()) >= {"momentum_buffer"}
    arrays = {"square_avg", "grad_avg", "momentum_buffer"}
    assert set(optim.RMSprop(params, momentum=0.5, centered=True).state_dict()) >= arrays
    state = optim.AdamW(params, betas=(0.5, 0.25)).state_dict()
    assert state["name"] == "adamw" and (state["beta1"], state["beta2"]) == (0.5, 0.25)
    assert state["exp_avg"].shape == state["exp_avg_sq"].shape == (SIZE,)
    assert state["exp_avg"].dtype == np.float32


def test_state_is_copied_both_ways() -> None:
    params = parameters(np.float64)
    optimizer = optim.Adam(params)
    (gradients,) = gradients_of(params, 1)
    optimizer.step(gradients)
    state = optimizer.state_dict()
    kept = state["exp_avg"].copy()
    state["exp_avg"][...] = 7
    assert np.array_equal(optimizer.state_dict()["exp_avg"], kept)
    state["exp_avg"][...] = kept
    read_only = {**state, "exp_avg": np.frombuffer(kept.tobytes())}
    optimizer.load_state_dict(read_only)
    optimizer.step(gradients)


def test_loading_replaces_hyperparameters_and_what_they_need() -> None:
    params = parameters(np.float32)
    with_momentum = optim.SGD(params, 0.1, momentum=0.9)
    plain_descent = optim.SGD(params, 0.5)
    state = with_momentum.state_dict()
    with_momentum.load_state_dict(plain_descent.state_dict())
    assert "momentum_buffer" not in with_momentum.state_dict()
    plain_descent.load_state_dict(state)
    assert plain_descent.state_dict()["momentum"] == 0.9 and "momentum_buffer" in plain_descent.state_dict()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"name": "adamw"}, ValueError, "state: expected the state of 'adam', got 'adamw'"),
        ({"name": None}, ValueError, "state: expected the state of 'adam'"),
        ({"step": ...}, ValueError, "state: expected .*, got missing: step"),
        ({"lr": ...}, ValueError, "got missing: lr"),
        ({"exp_avg": ...}, ValueError, "got missing: exp_avg"),
        ({"momentum_buffer": np.zeros(SIZE)}, ValueError, "got surplus: momentum_buffer"),
        ({"step": -1}, ValueError, "step: expected"),
        ({"step": 1.5}, TypeError, "step: expected"),
        ({"step": 2**70}, ValueError, "step: expected"),
        ({"lr": -1.0}, ValueError, "lr: expected"),
        ({"beta2": 1.0}, ValueError, r"beta2: expected a number in \[0, 1\), got 1.0"),
        ({"eps": "x"}, TypeError, "eps: expected"),
        ({"exp_avg_sq": np.zeros(SIZE + 1)}, ValueError, "exp_avg_sq: expected shape"),
        ({"exp_avg_sq": np.zeros((SIZE, 1))}, ValueError, "exp_avg_sq: expected shape"),
        ({"exp_avg_sq": np.zeros(SIZE, np.float32)}, TypeError, "exp_avg_sq: expected dtype float64, got float32"),
        ({"exp_avg_sq": None}, TypeError, "exp_avg_sq"),
    ],
)
def test_bad_states_change_nothing(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    params = parameters(np.float64)
    optimizer = optim.Adam(params)
    (gradients,) = gradients_of(params, 1)
    optimizer.step(gradients)
    before = optimizer.state_dict()
    state = {name: value for name, value in {**before, "lr": 9.0, **change}.items() if value is not ...}
    with pytest.raises(kind, match=message):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def test_a_state_is_a_mapping() -> None:
    with pytest.raises(TypeError, match="state: expected a mapping"):
        optim.SGD(parameters(np.float32), 0.1).load_state_dict([("name", "sgd")])


# --- clipping ---------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 31, 1000, 100_003])
def test_norm(size: int, dtype: Any) -> None:
    gradients = Gradients({"p": (size,)}, dtype)
    gradients.flat[...] = np.random.default_rng(size).normal(size=size)
    expected = math.sqrt(math.fsum(float(g) ** 2 for g in gradients.flat))
    before = gradients.flat.copy()
    norm = optim.clip_grad_norm(gradients, math.inf)
    assert type(norm) is float and norm == pytest.approx(expected, rel=1e-14)
    assert bits(gradients.flat) == bits(before)
    assert optim.clip_grad_norm(gradients, expected + 1) == norm and bits(gradients.flat) == bits(before)
    assert optim.clip_grad_norm(gradients, expected / 2) == norm
    assert np.allclose(gradients.flat, before / 2, rtol=1e-5)
    assert optim.clip_grad_norm(gradients, 0) == pytest.approx(norm / 2, rel=1e-5)
    assert not gradients.flat.any()


@each_dtype
def test_norm_does_not_depend_on_alignment(dtype: Any) -> None:
    values = np.random.default_rng(0).normal(size=1001).astype(dtype)
    norms = set()
    for offset in range(9):
        flat = np.empty(1001 + offset, dtype)[offset:]
        flat[...] = values
        norms.add(optim.clip_grad_norm(Gradients({"p": (1001,)}, dtype, flat), math.inf))
    assert len(norms) == 1


def test_norm_does_not_overflow_in_float32() -> None:
    gradients = Gradients({"p": (4,)}, np.float32)
    gradients.flat[...] = 1e30
    assert optim.clip_grad_norm(gradients, 1.0) == pytest.approx(2e30)
    assert np.allclose(gradients.flat, 0.5)


@each_dtype
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_scales_nothing(bad: float, dtype: Any) -> None:
    params = parameters(dtype)
    (gradients,) = gradients_of(params, 1)
    gradients.flat[3] = bad
    before = gradients.flat.copy()
    assert not math.isfinite(optim.clip_grad_norm(gradients, 1.0))
    assert bits(gradients.flat) == bits(before)


@each_dtype
def test_clip_grad_value(dtype: Any) -> None:
    gradients = Gradients({"p": (21,)}, dtype)
    gradients.flat[...] = np.linspace(-3, 3, 21)
    gradients.flat[:4] = math.nan, math.inf, -math.inf, -0.0
    expected = np.clip(gradients.flat, -0.5, 0.5)
    assert optim.clip_grad_value(gradients, 0.5) is None
    assert bits(gradients.flat) == bits(expected)
    optim.clip_grad_value(gradients, math.inf)
    assert bits(gradients.flat) == bits(expected)


@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=40), st.floats(0, 1e3))
def test_clipped_norms_hold(values: list[float], limit: float) -> None:
    gradients = Gradients({"p": (len(values),)}, np.float64)
    gradients.flat[...] = values
    norm = optim.clip_grad_norm(gradients, limit)
    assert norm == pytest.approx(math.sqrt(math.fsum(v * v for v in values)), rel=1e-13)
    clipped = optim.clip_grad_norm(gradients, math.inf)
    assert clipped <= limit * (1 + 1e-12) or clipped == norm <= limit + 1e-6
    assert clipped >= min(norm, limit) - 2e-6 * max(1.0, limit)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (optim.SGD, {"lr": -0.1}, ValueError, "lr: expected a number of at least 0, got -0.1"),
        (optim.SGD, {"lr": math.nan}, ValueError, "lr: expected a finite number"),
        (optim.SGD, {"lr": "fast"}, TypeError, "lr: expected a real number"),
        (optim.SGD, {"lr": True}, TypeError, "lr"),
        (optim.SGD, {"lr": 1j}, TypeError, "lr"),
        (optim.SGD, {"lr": 0.1, "momentum": -1}, ValueError, "momentum"),
        (optim.SGD, {"lr": 0.1, "nesterov": True}, ValueError, "nesterov: expected a momentum above 0"),
        (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": 1}, TypeError, "nesterov: expected True or False"),
        (optim.SGD, {"lr": 0.1, "weight_decay": math.inf}, ValueError, "weight_decay"),
        (optim.RMSprop, {"alpha": 1.0}, ValueError, r"alpha: expected a number in \[0, 1\), got 1.0"),
        (optim.RMSprop, {"eps": -1e-8}, ValueError, "eps"),
        (optim.RMSprop, {"momentum": None}, TypeError, "momentum"),
        (optim.RMSprop, {"centered": "yes"}, TypeError, "centered"),
        (optim.Adam, {"betas": (0.9, 1.0)}, ValueError, "beta2: expected"),
        (optim.Adam, {"betas": (-0.1, 0.9)}, ValueError, "beta1: expected"),
        (optim.Adam, {"betas": 0.9}, TypeError, "betas: expected two numbers"),
        (optim.Adam, {"betas": (0.9, 0.9, 0.9)}, TypeError, "betas: expected two numbers"),
        (optim.AdamW, {"weight_decay": -1}, ValueError, "weight_decay"),
    ],
)
def test_bad_hyperparameters(
    kind: type[optim.Optimizer], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(parameters(np.float32), **options)


@each_case
def test_bad_parameters(kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
    for bad in (None, {"p": np.zeros(3)}, np.zeros(3), parameters(np.float32).zeros()):
        with pytest.raises(TypeError, match="params: expected a Parameters"):
            kind(bad, **options)


@each_case
def test_bad_gradients_change_nothing(kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
    params = parameters(np.float32)
    optimizer = kind(params, **options)
    before = params.flat.copy()
    reordered = dict(reversed(SHAPES.items()))
    for bad, error, message in (
        (None, TypeError, "gradients: expected a Gradients"),
        (params.zeros().flat, TypeError, "gradients: expected a Gradients"),
        (params, TypeError, "gradients: expected a Gradients"),
        (Gradients(SHAPES, np.float64), TypeError, "gradients: expected dtype float32, got float64"),
        (Gradients({**SHAPES, "bias": (8,)}, np.float32), ValueError, "gradients: expected the layout"),
        (Gradients({**SHAPES, "weight": (5, 7)}, np.float32), ValueError, "gradients: expected the layout"),
        (Gradients(reordered, np.float32), ValueError, "gradients: expected the layout"),
        (Gradients({f"{name}_l0": shape for name, shape in SHAPES.items()}, np.float32), ValueError, "layout"),
    ):
        with pytest.raises(error, match=message):
            optimizer.step(bad)
    assert bits(params.flat) == bits(before) and optimizer.steps == 0


@pytest.mark.parametrize("bad", [-1.0, math.nan, -math.inf, "1", None, True])
def test_bad_limits(bad: Any) -> None:
    gradients = parameters(np.float32).zeros()
    with pytest.raises((TypeError, ValueError), match="max_norm: expected"):
        optim.clip_grad_norm(gradients, bad)
    with pytest.raises((TypeError, ValueError), match="bound: expected"):
        optim.clip_grad_value(gradients, bad)


@pytest.mark.parametrize(
    ("dtype", "magnitude", "limit"),
    [
        (np.float64, 1e154, 1.0),  # from here on the squares overflow
        (np.float64, 1e200, 1e-3),
        (np.float64, 1e306, 5.0),
        (np.float64, 1e300, 1e-12),  # where limit / norm is a denormal
        (np.float32, 1e36, 1e-3),
        (np.float32, 1e37, 1e-9),
    ],
)
def test_the_largest_gradients_are_clipped(dtype: Any, magnitude: float, limit: float) -> None:
    (gradients,) = gradients_of(parameters(dtype), 1)
    gradients.flat[:] /= np.abs(gradients.flat).max()
    direction = gradients.flat.astype(np.longdouble)
    gradients.flat[:] *= dtype(magnitude)
    expected = float(np.sqrt((direction**2).sum()) * magnitude)
    assert optim.clip_grad_norm(gradients, limit) == pytest.approx(expected, rel=1e-6)
    clipped = gradients.flat.astype(np.longdouble)
    assert float(np.sqrt((clipped**2).sum())) == pytest.approx(limit, rel=1e-5)
    assert np.allclose((clipped / limit).astype(float), (direction * magnitude / expected).astype(float), rtol=1e-5)


def test_the_norm_of_the_smallest_and_of_the_infinite() -> None:
    gradients = parameters(np.float64).zeros()
    assert optim.clip_grad_norm(gradients, 1.0) == 0
    gradients.flat[:2] = 3e-200, 4e-200  # whose squares are 0
    assert optim.clip_grad_norm(gradients, math.inf) == pytest.approx(5e-200)
    gradients.flat[:2] = math.inf, 1e300
    assert optim.clip_grad_norm(gradients, 1.0) == math.inf
    gradients.flat[:2] = math.nan, 1e300
    assert math.isnan(optim.clip_grad_norm(gradients, 1.0))
    assert gradients.flat[1] == 1e300


@pytest.mark.parametrize("bad", [None, np.zeros(3), {"p": np.zeros(3)}])
def test_only_gradients_are_clipped(bad: Any) -> None:
    for clip in (optim.clip_grad_norm, optim.clip_grad_value):
        with pytest.raises(TypeError, match="gradients: expected a Gradients"):
            clip(bad, 1.0)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("name", np.zeros(3)),
        ("name", None),
        ("lr", np.array("a")),
        ("lr", types),
        ("step", memoryview(b"1")),
        ("square_avg", memoryview(b"1")),
        ("square_avg", types),
        ("square_avg", (i for i in range(3))),
        ("square_avg", ["a"] * SIZE),
        ("centered", np.zeros(2)),
    ],
)
def test_a_state_dictionary_with_something_else_in_it(key: str, bad: Any) -> None:
    params = parameters(np.float64)
    optimizer = optim.RMSprop(params)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises((TypeError, ValueError), match=rf"^({key}|state): expected"):
        optimizer.load_state_dict(optimizer.state_dict() | {key: bad})
    assert repr(optimizer.state_dict()) == repr(before)


FLAT_CALLS: dict[str, tuple[int, Callable[..., object]]] = {
    "sgd": (3, lambda *a: _flat.sgd(*a, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "rmsprop": (5, lambda *a: _flat.rmsprop(*a, lr=0.1, alpha=0.9, eps=1e-8, momentum=0.9, weight_decay=0.1)),
    "adam": (
        4,
        lambda *a: _flat.adam(*a, step=1, lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, weight_decay=0.1, decoupled=False),
    ),
    "scale_to_norm": (1, lambda *a: _flat.scale_to_norm(*a, 1.0)),
    "clamp": (1, lambda *a: _flat.clamp(*a, 1.0)),
}
OPTIONAL = {("sgd", 2), ("rmsprop", 3), ("rmsprop", 4)}
READ_ONLY = {("sgd", 1), ("rmsprop", 1), ("adam", 1)}


@each_dtype
@pytest.mark.parametrize("name", FLAT_CALLS)
def test_flat_loops_trust_nothing(name: str, dtype: Any) -> None:
    count, call = FLAT_CALLS[name]
    size, itemsize = 9, np.dtype(dtype).itemsize
    read_only = np.ones(size, dtype)
    read_only.flags.writeable = False
    unaligned = np.zeros(size * itemsize + 1, np.uint8)[1:].view(dtype)
    bad: dict[str, Any] = {
        "none": None,
        "list": [1.0] * size,
        "strided": np.ones(2 * size, dtype)[::2],
        "matrix": np.ones((size, 1), dtype),
        "number": np.ones((), dtype),
        "swapped": np.ones(size, np.dtype(dtype).newbyteorder(">")),
        "integers": np.ones(size, f"i{itemsize}"),
        "complex": np.ones(size, complex),
        "half": np.ones(size, np.float16),
        "objects": np.ones(size, object),
        "unaligned": unaligned,
        "read-only": read_only,
    }
    if count > 1:
        bad |= {"short": np.ones(size - 1, dtype), "long": np.ones(size + 1, dtype), "empty": np.ones(0, dtype)}
        bad |= {"other": np.ones(size, np.float64 if dtype is np.float32 else np.float32)}
    for position in range(count):
        for what, value in bad.items():
            arrays: list[Any] = [np.ones(size, dtype) for _ in range(count)]
            arrays[position] = value
            if (what == "none" and (name, position) in OPTIONAL) or (
                what == "read-only" and (name, position) in READ_ONLY
            ):
                call(*arrays)
                continue
            with pytest.raises((TypeError, ValueError, BufferError)):
                call(*arrays)
            for index, array in enumerate(arrays):
                assert index == position or (array == 1).all()


def test_flat_adam_checks_its_step() -> None:
    a = np.ones(3)
    with pytest.raises(ValueError, match="step: expected at least 1"):
        _flat.adam(a, a, a, a, step=0, lr=0.1, beta1=0.9, beta2=0.9, eps=0.1, weight_decay=0.0, decoupled=False)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


@each_case
@each_dtype
def test_pytorch(kind: type[optim.Optimizer], options: dict[str, Any], dtype: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    params = parameters(dtype)
    leaf = torch.tensor(params.flat.copy(), requires_grad=True)
    theirs = getattr(torch.optim, kind.__name__)([leaf], **options)
    ours = kind(params, **options)
    for gradients in gradients_of(params, 20):
        leaf.grad = torch.tensor(gradients.flat)
        theirs.step()
        ours.step(gradients)
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    assert np.allclose(params.flat, leaf.detach().numpy(), **tolerance)


@each_dtype
@pytest.mark.parametrize("limit", [0.0, 0.5, 1e3])
def test_pytorch_clipping(limit: float, dtype: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    (gradients,) = gradients_of(parameters(dtype), 1)
    leaf = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    leaf.grad = torch.tensor(gradients.flat.astype(np.float64))
    expected = torch.nn.utils.clip_grad_norm_([leaf], limit).item()
    assert optim.clip_grad_norm(gradients, limit) == pytest.approx(expected, rel=1e-12)
    assert np.allclose(gradients.flat, leaf.grad.numpy(), rtol=1e-6)
    torch.nn.utils.clip_grad_value_([leaf], limit / 10)
    optim.clip_grad_value(gradients, limit / 10)
    assert np.allclose(gradients.flat, leaf.grad.numpy(), rtol=1e-6)


# --- groups -----------------------------------------------------------------------------------------------------------


@each_case
@each_dtype
def test_a_group_is_as_an_optimiser_of_its_own(kind: Any, options: dict[str, Any], dtype: Any) -> None:
    """Each parameter by itself, with what its group says; the same bits, the frozen ones as they were."""
    bias: dict[str, Any] = {"weight_decay": 0.05, "lr_factor": 0.5}
    settings = {"weight": {"lr_factor": 2.0}, "bias": bias, "scalar": {"frozen": True}, "none": {}}
    params = parameters(dtype)
    groups = {"bias": bias, "sc*": {"frozen": True}, "*e*": {"lr_factor": 2.0}}
    optimizer = kind(params, **options, groups=groups)
    base = kind(parameters(dtype), **options)
    for gradients in gradients_of(params, 4):
        optimizer.step(gradients)
    for name, shape in SHAPES.items():
        own = Parameters({name: shape}, dtype)
        own.load({name: parameters(dtype)[name]})
        group = settings[name]
        hyper = {**options, "lr": base.lr * float(group.get("lr_factor", 1.0))}
        alone = kind(own, **{**hyper, "weight_decay": group.get("weight_decay", base.state_dict()["weight_decay"])})
        for gradients in gradients_of(params, 4):
            one = own.zeros()
            one.flat[...] = gradients[name].ravel()
            if not group.get("frozen"):
                alone.step(one)
        assert bits(params[name]) == bits(own[name]), name
        if group.get("frozen"):
            assert bits(params[name]) == bits(parameters(dtype)[name])


def test_the_first_pattern_counts_and_each_must_match() -> None:
    params = parameters(np.float64)
    before = params["bias"].copy()
    optimizer = optim.SGD(params, 1.0, groups={"b*": {"lr_factor": 0.0}, "*": {"frozen": True}})
    optimizer.step(gradients_of(params, 1)[0])
    assert optimizer.groups == {"b*": {"lr_factor": 0.0}, "*": {"frozen": True}}
    assert np.array_equal(params.flat, parameters(np.float64).flat) and np.array_equal(params["bias"], before)
    for groups, message in (
        ({"wieght": {}}, "groups: expected patterns of the names weight, bias, scalar, none; got 'wieght'"),
        ({"bias": {"lr": 1.0}}, "expected keys among lr_factor, weight_decay, frozen"),
        ({"bias": {"lr_factor": -1.0}}, "expected a number of at least 0"),
        ({"bias": 3}, "expected keys among"),
        ({1: {}}, "expected patterns of the names"),
    ):
        with pytest.raises(ValueError, match=message):
            optim.Adam(params, groups=groups)
    with pytest.raises(TypeError, match="groups: expected a mapping"):
        optim.Adam(params, groups=[{"bias": {}}])
    with pytest.raises(TypeError, match=r"frozen.*expected True or False"):
        optim.Adam(params, groups={"bias": {"frozen": 1}})


def test_frozen_gradients_do_not_count_in_a_norm() -> None:
    params = parameters(np.float64)
    optimizer = optim.Adam(params, groups={"weight": {"frozen": True}})
    gradients = gradients_of(params, 1)[0]
    expected = np.linalg.norm(gradients.flat[35:])
    optimizer.drop_frozen(gradients)
    assert math.isclose(optim.clip_grad_norm(gradients, math.inf), expected)
    with pytest.raises(ValueError, match="gradients: expected the layout"):
        optimizer.drop_frozen(Parameters({"a": (3,)}, np.float64).zeros())


def test_groups_are_part_of_the_state() -> None:
    params, other = parameters(np.float32), parameters(np.float32)
    groups = {"bias": {"weight_decay": 0.0, "frozen": True}}
    one = optim.AdamW(params, groups=groups)
    for gradients in gradients_of(params, 2):
        one.step(gradients)
    state = json.loads(json.dumps({k: v for k, v in one.state_dict().items() if not hasattr(v, "shape")}))
    assert state["groups"] == groups
    other.assign(params.flat)
    two = optim.AdamW(other)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert two.groups == groups and "groups" in repr(two)
    for optimizer, own in ((one, params), (two, other), (pickle.loads(pickle.dumps(one)), None)):
        optimizer.step(gradients_of(own if own is not None else optimizer.params, 1)[0])
        assert own is None or bits(own.flat) == bits(params.flat)
    two.load_state_dict(optim.AdamW(other).state_dict())
    assert two.groups == {}
    with pytest.raises(ValueError, match="groups"):
        two.load_state_dict(one.state_dict() | {"groups": {"nothing": {}}})


def test_groups_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    params = parameters(np.float64)
    tensors = {name: torch.tensor(np.array(params[name]), requires_grad=True) for name in ("weight", "bias", "scalar")}
    theirs = torch.optim.AdamW(
        [
            {"params": [tensors["bias"], tensors["scalar"]], "weight_decay": 0.0},
            {"params": [tensors["weight"]], "lr": 1e-3},
        ],
        lr=1e-2,
        weight_decay=0.1,
    )
    groups = {"weight": {"lr_factor": 0.1}, "*": {"weight_decay": 0.0}}
    ours = optim.AdamW(params, 1e-2, weight_decay=0.1, groups=groups)
    for gradients in gradients_of(params, 5):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(np.array(gradients[name]))
        theirs.step()
        ours.step(gradients)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(params[name], tensor.detach().numpy(), rtol=1e-12)


def test_gradients_that_are_read_only():
    for part, x in ((LSTM(2, 3, rng=0), np.ones((2, 1, 2))), (Dense(2, 3, rng=0), np.ones(2)), (LayerNorm(2), [1, 2])):
        y, *_, tape = part.forward(x)
        into = part.params.zeros()
        into.flat.flags.writeable = False
        with pytest.raises(ValueError, match="into: expected writeable memory"):
            part.backward(tape, y, into=into)
        assert not into.flat.any()
        for clip in (optim.clip_grad_norm, optim.clip_grad_value):
            with pytest.raises(ValueError, match="gradients: expected writeable memory"):
                clip(into, 1.0)
        optim.SGD(part.params, 0.1).step(into)  # which reads them alone
        part.backward(part.forward(x)[-1], y)
