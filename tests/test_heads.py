"""Dense: against the oracle, at the ends of its activations, and its tapes."""

from __future__ import annotations

import numpy as np
import pytest

import rnnfast
from rnnfast import reference

ACTIVATIONS = ("identity", "sigmoid", "tanh", "softmax", "relu", "gelu", "silu", "softplus", "elu")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_agrees_with_the_oracle(activation, logits, bias, rng):
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        dense = rnnfast.Dense(7, 5, activation=activation, bias=bias, dtype=dtype, rng=0)
        x = rng.standard_normal((3, 4, 7)).astype(dtype)
        dy = rng.standard_normal((3, 4, 5)).astype(dtype)
        expected = reference.dense_forward(dict(dense.params), x, "identity" if logits else activation)
        wanted = reference.dense_backward(expected, dy)
        y, tape = dense.forward(x, logits=logits)
        grads = dense.backward(tape, dy)
        np.testing.assert_allclose(y, expected.y, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(dense(x, logits=logits), y)
        np.testing.assert_allclose(grads.x, wanted.dx, rtol=tolerance, atol=tolerance)
        for name, value in grads.params.items():
            np.testing.assert_allclose(value, wanted.params[name], rtol=10 * tolerance, atol=10 * tolerance)
        assert grads.state is None
        assert grads.reset_state is None
        assert {array.dtype for array in (y, grads.x, grads.params.flat)} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [1, 7, 17, 100, 1000])
def test_activations_of_any_width(activation, size, dtype, rng):
    """Over rows that are no multiple of what is done at once; against the oracle over a wide range."""
    dense = rnnfast.Dense(size, size, activation=activation, bias=False, dtype=dtype, rng=0)
    dense.load({"weight": np.eye(size)})
    x, dy = (rng.standard_normal((3, size)) * 8).astype(dtype), rng.standard_normal((3, size)).astype(dtype)
    x[0, 0] = 0
    expected = reference.dense_forward({"weight": np.eye(size)}, x, activation)
    y, tape = dense.forward(x)
    tolerance = {"rtol": 2e-6, "atol": 1e-7} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-15}
    np.testing.assert_allclose(y, expected.y, **tolerance)
    wanted = reference.dense_backward(expected, dy).dx
    np.testing.assert_allclose(
        dense.backward(tape, dy).x, wanted, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6
    )
    rows = np.concatenate([dense(row) for row in x]).reshape(3, size)
    np.testing.assert_array_equal(rows, y)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"identity"}))
def test_activations_are_pytorchs(activation):
    torch = pytest.importorskip("torch")
    z = np.concatenate([np.linspace(-90, 90, 2001), [0.0, -0.0, np.nan, np.inf]]).astype(np.float32)[:, None]
    if activation == "softmax":
        z = z[:2000].reshape(400, 5)
    dense = rnnfast.Dense(z.shape[1], z.shape[1], activation=activation, bias=False)
    dense.load({"weight": np.eye(z.shape[1])})
    x = torch.tensor(z.astype(np.float64), requires_grad=True)
    theirs = {"softmax": lambda a: torch.softmax(a, -1)}.get(activation, getattr(torch.nn.functional, activation))(x)
    theirs.sum().backward()
    y, tape = dense.forward(z)
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=3e-6, atol=1e-7)
    finite = np.isfinite(z).all(axis=1)
    gradient = dense.backward(tape, np.ones_like(y)).x
    np.testing.assert_allclose(gradient[finite], x.grad.numpy()[finite], rtol=3e-6, atol=5e-7)


def test_out_receives_the_output(rng):
    dense = rnnfast.Dense(3, 4, activation="relu", rng=0)
    x, out = rng.standard_normal((2, 5, 3), np.float32), np.full((2, 5, 4), np.nan, np.float32)
    assert dense(x, out=out) is out
    np.testing.assert_array_equal(out, dense(x))
    out.fill(np.nan)
    y, tape = dense.forward(x, out=out)
    assert y is out
    out.fill(np.nan)  # the caller's
    assert np.isfinite(dense.backward(tape, np.ones_like(y)).x).all()
    assert dense(x[0, 0], out=out[0, 0]).shape == (4,)
    for wrong, message in (
        (out[0], "out: expected shape"),
        (out.astype(np.float64), "out: expected dtype float32"),
        (out.swapaxes(0, 1), "out: expected shape"),
        (out.tolist(), "out: expected a NumPy array"),
        (np.empty((5, 2, 4), np.float32).swapaxes(0, 1), "c_contiguous"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            dense(x, out=wrong)
    square = rnnfast.Dense(3, 3, rng=0)
    with pytest.raises(ValueError, match="out: expected memory of its own, got memory that it shares with x"):
        square(x, out=x)
    out = np.empty((2, 5, 4), np.float32)
    with pytest.raises(ValueError, match="tape: expected"):
        dense.forward(x, out=out, tape=square.forward(x)[1])


@pytest.mark.parametrize("leading", [(), (1,), (6,), (2, 3), (2, 0, 3), (0,), (2, 3, 4)])
def test_any_leading_axes(leading, rng):
    dense = rnnfast.Dense(3, 4, activation="softmax", rng=0)
    x = rng.standard_normal((*leading, 3), np.float32)
    y, tape = dense.forward(x)
    grads = dense.backward(tape, np.ones_like(y))
    assert y.shape == (*leading, 4)
    assert grads.x.shape == x.shape
    np.testing.assert_array_equal(y.reshape(-1, 4), dense(x.reshape(-1, 3)))


def test_layouts_do_not_matter(rng):
    dense = rnnfast.Dense(3, 4, activation="tanh", rng=0)
    x, dy = rng.standard_normal((2, 5, 3), np.float32), rng.standard_normal((2, 5, 4), np.float32)
    y, tape = dense.forward(x)
    grads = dense.backward(tape, dy)
    for make in (
        np.asfortranarray,
        lambda a: a.astype(np.float64),
        lambda a: a[::-1].copy()[::-1],
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a.swapaxes(0, 1).copy().swapaxes(0, 1),
        lambda a: a.tolist(),
        lambda a: a.astype(">f4"),
    ):
        y2, tape = dense.forward(make(x))
        grads2 = dense.backward(tape, make(dy))
        np.testing.assert_array_equal(y2, y)
        np.testing.assert_array_equal(grads2.x, grads.x)
        np.testing.assert_array_equal(grads2.params.flat, grads.params.flat)


def test_activations_stay_finite_and_precise():
    """Also where the plain formulas overflow, and where small values matter."""
    z = np.array([-1e4, -80.0, -20.0, -1.0, 0.0, 1.0, 20.0, 80.0, 1e4], np.float32)
    wide = z.astype(np.float64)
    for activation, expected in (("sigmoid", np.exp(-np.logaddexp(0, -wide))), ("tanh", np.tanh(wide))):
        dense = rnnfast.Dense(1, 1, activation=activation, bias=False)
        dense.load({"weight": [[1.0]]})
        y, tape = dense.forward(z[:, None])
        np.testing.assert_allclose(y[:, 0], expected, rtol=1e-6)
        assert np.isfinite(dense.backward(tape, np.ones_like(y)).x).all()
    dense = rnnfast.Dense(3, 3, activation="softmax", bias=False)
    dense.load({"weight": np.eye(3)})
    y, tape = dense.forward([[1e30, 0, -1e30], [-1e30, -1e30, -1e30], [88, 89, 90]])
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(y[:2], [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert np.isfinite(dense.backward(tape, np.ones_like(y)).x).all()


def test_gradients_add_up_and_tapes_are_reused(rng):
    dense = rnnfast.Dense(3, 4, activation="sigmoid", rng=0, dtype=np.float64)
    x, dy = rng.standard_normal((6, 3)), rng.standard_normal((6, 4))
    _, tape = dense.forward(x)
    grads = dense.backward(tape, dy)
    into = dense.params.zeros()
    into.flat[...] = 1
    y, reused = dense.forward(x, tape=tape)
    assert reused is tape
    y.fill(np.nan)  # the caller's
    added = dense.backward(tape, dy, into=into, input_gradient=False)
    assert added.params is into
    assert added.x is None
    np.testing.assert_allclose(into.flat, 1 + grads.params.flat, rtol=1e-13)
    _, tape = dense.forward(x[:2], tape=tape)
    assert dense.backward(tape, dy[:2]).x.shape == (2, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_caller_who_wants_exceptions_gets_none_for_what_underflows(activation, dtype):
    """exp of what is far below zero, and products with it, are 0 by intention."""
    dense = rnnfast.Dense(1, 4, activation=activation, dtype=dtype, rng=0)
    dense.load({"weight": [[800.0], [-800.0], [90.0], [0.0]], "bias": np.zeros(4)})
    with np.errstate(all="raise"):
        y, tape = dense.forward(np.array([[1.0], [-1.0], [0.01]], dtype))
        dense.backward(tape, np.full_like(y, np.finfo(dtype).tiny))
    assert np.isfinite(y).all()


@pytest.mark.parametrize("errors", ["raise", "warn", "ignore"])
def test_numbers_beyond_float32_are_named(errors):
    dense, layer = rnnfast.Dense(2, 2, rng=0), rnnfast.LSTM(2, 2, rng=0)
    x, tiny = np.array([[1.0, -1e300]]), np.full((3, 1, 2), 1e-300)
    before = layer.params.flat.copy()
    with np.errstate(all=errors):
        for name, call in {
            "x": lambda: dense(x),
            "x ": lambda: layer(x),
            "dy": lambda: dense.backward(dense.forward(np.ones((1, 2)))[1], x),
            r"state\[1\]": lambda: layer(np.zeros((1, 1, 2)), (np.zeros((1, 1, 2)), x[None])),
            "bias_hh_l0": lambda: layer.update({"bias_hh_l0": np.full(8, 1e300)}),
        }.items():
            with pytest.raises(
                ValueError, match=rf"^{name.strip()}: expected numbers within the range of float32, got"
            ):
                call()
        assert not dense.backward(dense.forward(tiny)[1], tiny).params["weight"].any()
        assert np.isinf(dense(np.array([[np.inf, 0]]))).any()
    np.testing.assert_array_equal(layer.params.flat, before)
