"""Small parts by themselves: against NumPy in float64, finite differences, and PyTorch's layer normalisation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from registry import assert_close, assert_same_bits

from rnnfast import Add, Concat, Dropout, LayerNorm, Pool, layers
from rnnfast.reference import random


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def assert_derivative(part, x, rng, **options):
    """Of a part's backward, by differences along a random direction of each input and parameter."""
    y, tape = part.forward(*x, **options)
    dy, step = rng.standard_normal(y.shape), 1e-6
    grads = part.backward(tape, dy)
    of_x = grads.x if isinstance(grads.x, tuple) else (grads.x,)
    for n, gradient in enumerate(of_x):
        direction = rng.standard_normal(x[n].shape)
        ends = [(part(*x[:n], x[n] + s * direction, *x[n + 1 :], **options) * dy).sum() for s in (step, -step)]
        assert abs((ends[0] - ends[1]) / (2 * step) - (gradient * direction).sum()) < 1e-7
    for name, gradient in grads.params.items():
        before, direction, ends = part.params[name].copy(), rng.standard_normal(gradient.shape), []
        for s in (step, -step):
            part.update({name: before + s * direction})
            ends.append((part(*x, **options) * dy).sum())
        part.update({name: before})
        assert abs((ends[0] - ends[1]) / (2 * step) - (gradient * direction).sum()) < 1e-7


@pytest.mark.parametrize("size", [1, 7, 17, 100])
@pytest.mark.parametrize("leading", [(), (4,), (5, 3), (0, 3)])
def test_layer_norm(size, leading, rng):
    x = rng.standard_normal((*leading, size)) * 3 + 1
    norm = LayerNorm(size, dtype=np.float64)
    norm.load({"weight": rng.standard_normal(size), "bias": rng.standard_normal(size)})
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    assert_close(norm(x), expected * norm.params["weight"] + norm.params["bias"], 1e-12)
    assert_derivative(norm, (x,), rng)
    single = LayerNorm(size, bias=False)
    single.load({"weight": norm.params["weight"]})
    y, tape = single.forward(x)
    assert y.dtype == np.float32
    assert_close(y, expected * norm.params["weight"], 1e-5)
    assert single.backward(tape, x).x.dtype == np.float32


def test_layer_norm_equals_pytorchs(rng):
    torch = pytest.importorskip("torch")
    x, dy = rng.standard_normal((2, 6, 5, 9))
    norm, theirs = LayerNorm(9, eps=1e-3, dtype=np.float64), torch.nn.LayerNorm(9, eps=1e-3, dtype=torch.float64)
    weights = {name: rng.standard_normal(9) for name in ("weight", "bias")}
    norm.load(weights)
    theirs.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    input_ = torch.tensor(x, requires_grad=True)
    out = theirs(input_)
    out.backward(torch.tensor(dy))
    y, tape = norm.forward(x)
    grads = norm.backward(tape, dy)
    assert_close(y, out.detach().numpy(), 1e-12)
    assert_close(grads.x, input_.grad.numpy(), 1e-11)
    for name, value in theirs.named_parameters():
        assert_close(grads.params[name], value.grad.numpy(), 1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout(p, dtype, rng):
    x = rng.standard_normal((50, 8, 10)).astype(dtype)
    drop = Dropout(p, rng=1)
    assert_same_bits(drop(x), x)
    assert drop(x) is not x
    y, tape = drop.forward(x)
    assert y.dtype == dtype
    kept = y != 0
    assert abs(kept.mean() - (1 - p)) < 0.03
    np.testing.assert_allclose(y[kept], x[kept] / (1 - p or 1), rtol=1e-6)
    dx = drop.backward(tape, np.ones_like(x)).x
    np.testing.assert_allclose(dx, kept / (1 - p or 1), rtol=1e-6)
    if p == 0.3:
        assert not np.array_equal(drop.forward(x)[0], y)
        assert_same_bits(Dropout(p, rng=1).forward(x)[0], y)


def test_the_other_byte_order(rng):
    x = rng.standard_normal((4, 3, 5)).astype(np.float32)
    for part in (LayerNorm(5), Pool("mean"), Dropout(0.5), Add()):
        y = part(x.astype(x.dtype.newbyteorder()))
        assert y.dtype == np.float32
        assert_same_bits(y, part(x))


def test_dropout_is_a_function_of_seed_step_row_and_feature(rng):
    drop, x = Dropout(0.4), rng.standard_normal((7, 3, 9)) + 10
    y, tape = drop.forward(x, seed=5)
    keys = random.mix(5, 0, 2**32, np.arange(7)[:, None], np.arange(3))
    expected = np.where(random.uniform(keys[..., None], np.arange(9)) >= 0.4, x / 0.6, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    np.testing.assert_allclose(drop.backward(tape, x).x, expected, rtol=1e-12)
    assert_same_bits(drop.forward(x[4:], seed=5, first_step=4)[0], y[4:])
    assert_same_bits(drop.forward(x[:, :2], seed=5)[0], y[:, :2])
    assert_same_bits(drop.forward(x[:, 0], seed=5)[0], y[:, 0])
    swapped, tape = drop.forward(x.swapaxes(0, 1), seed=5, batch_first=True)
    assert_same_bits(swapped.swapaxes(0, 1), y)
    np.testing.assert_allclose(drop.backward(tape, x.swapaxes(0, 1)).x.swapaxes(0, 1), expected, rtol=1e-12)
    assert (drop.forward(x, seed=6)[0] != y).any()
    for shape in ((0, 3, 9), (7, 0, 9), (0,)):
        assert drop.forward(np.ones(shape), seed=5)[0].shape == shape


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["last", "mean", "max"])
@pytest.mark.parametrize("direction", [{}, {"reverse": True}, {"bidirectional": True}])
@pytest.mark.parametrize("steps", [0, 1, 6])
def test_pool(kind, batch_first, direction, steps, rng):
    pool = Pool(kind, batch_first=batch_first, **direction)
    x = rng.standard_normal((steps, 4, 6))
    lengths = np.minimum([6, 0, 1, 3], steps)
    mask = rng.random((steps, 4)) < 0.7
    expected = np.zeros((4, 6))
    for row in range(4):
        own = x[: lengths[row], row]
        if kind != "last":
            own = own[mask[: lengths[row], row]]
        if len(own):
            expected[row] = {"last": own[-1], "mean": own.mean(axis=0), "max": own.max(axis=0)}[kind]
            if kind == "last" and direction:
                half = 0 if "reverse" in direction else 3
                expected[row, half:] = own[0, half:]
    spoilt = x.copy()
    spoilt[np.arange(steps)[:, None] >= lengths] = np.nan
    if kind != "last":
        spoilt[~mask] = np.nan

    def turn(array):
        return array.swapaxes(0, 1) if batch_first else array

    options = {"lengths": lengths, "mask": turn(mask)}
    assert_close(pool(turn(spoilt), **options), expected, 1e-14)
    if steps:
        assert_derivative(pool, (turn(x).copy(),), rng, **options)
        assert_derivative(pool, (turn(x).copy(),), rng)
        y, tape = pool.forward(turn(spoilt), **options)
        dx = pool.backward(tape, np.ones_like(y)).x
        assert np.isfinite(dx).all()
        assert not turn(dx)[np.arange(steps)[:, None] >= lengths].any()
    assert_same_bits(pool(x[:, 0]), pool(turn(x))[0])
    assert pool(x.astype(np.float32)[:, 0]).dtype == np.float32


def test_add_and_concat(rng):
    a, b, c = rng.standard_normal((3, 4, 2, 5))
    assert_close(Add()(a, b, c), a + b + c, 1e-15)
    assert_same_bits(Concat()(a, b[..., :2]), np.concatenate([a, b[..., :2]], axis=-1))
    for part in (Add(), Concat()):
        assert_derivative(part, (a, b, c), rng)
        assert_derivative(part, (a,), rng)
        _, tape = part.forward(a, b)
        assert part.backward(tape, part(a, b), input_gradient=False).x is None
    with pytest.raises(ValueError, match=r"x\[1\]: expected shape \[4, 2, 5\], got \[4, 2, 4\]"):
        Add()(a, b[..., :4])
    with pytest.raises(ValueError, match=r"x\[1\]: expected shape \[4, 2, 5\], got \[3, 2, 5\]"):
        Concat()(a, b[:3])


@pytest.mark.parametrize("make", [lambda: Dropout(0.5, rng=0), lambda: LayerNorm(5), Pool, Add, Concat])
def test_what_all_promise(make, rng):
    part = make()
    x = rng.standard_normal((4, 2, 5)).astype(np.float32)
    y, tape = part.forward(x)
    expected = y.copy()
    dy = rng.standard_normal(y.shape)
    kept = x.copy()
    x[...] = np.nan  # the caller's
    y[...] = np.nan
    dx = part.backward(tape, dy).x
    with pytest.raises(ValueError, match="tape: expected one that holds a forward"):
        part.backward(tape, dy)
    part.rng = np.random.default_rng(0)
    again, reused = part.forward(kept, tape=tape)
    assert reused is tape
    assert_same_bits(again, expected)
    again = part.backward(tape, dy).x
    for one, other in zip(*((d if isinstance(d, tuple) else (d,)) for d in (again, dx)), strict=True):
        assert_same_bits(one, other)
    _, tape = part.forward(kept)
    with pytest.raises(ValueError, match="dy: expected shape"):
        part.backward(tape, dy[..., :1])
    with pytest.raises(ValueError, match="tape: expected a tape of this"):
        make().backward(tape, dy)
    for wrong in ("a", None, 1 + 1j):
        with pytest.raises(TypeError, match="x: expected"):
            part(wrong)
    with pytest.raises(ValueError, match="x: expected at least one axis"):
        part(1.0)
    with pytest.raises(ValueError, match="num_threads"):
        part(kept, num_threads=0)
    again = layers.from_config(json.loads(json.dumps(part.config())))
    assert again.config() == part.config()
    assert repr(part).startswith(type(part).__name__ + "(")


def test_bad_options():
    for make, message in (
        (lambda: Dropout(1.5), "p: expected a number in 0..1"),
        (lambda: LayerNorm(0), "size: expected"),
        (lambda: LayerNorm(3, eps=0), "eps: expected a number above 0"),
        (lambda: Pool("median"), "kind: expected one of 'last', 'mean', 'max'"),
        (lambda: LayerNorm(3)(np.ones(4)), r"x: expected \[..., 3\]"),
        (lambda: Pool()(np.ones(4)), r"x: expected \[T, B, I\] or \[T, I\]"),
        (lambda: Pool()(np.ones((2, 3, 4)), lengths=[1, 2]), "lengths: expected shape"),
        (lambda: Pool("mean")(np.ones((2, 3, 4)), mask=np.ones((2, 3))), "mask: expected booleans"),
        (lambda: Pool(bidirectional=True)(np.ones((2, 3, 5))), "expected an even number of features"),
        (lambda: Add()(), "x: expected one or more inputs"),
        (lambda: Dropout()(1, 2), "x: expected one input, got 2"),
        (lambda: Dropout().forward(1, 2), "x: expected one input, got 2"),
        (lambda: Dropout().forward([1], seed=-1), "seed: expected an integer in"),
        (lambda: Dropout().forward([1], first_step=0.5), "first_step: expected an integer"),
        (lambda: Dropout().forward([1], batch_first=2), "batch_first: expected"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            make()
