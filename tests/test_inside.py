"""Gates and states by name, against formulas written by hand, against the kernels, and in pictures."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from registry import DESCRIPTIONS

import rnnfast
from rnnfast import GRU, LSTM, RNN, Recurrent, training
from rnnfast.diagnostics import gradient_norm_by_distance
from rnnfast.reference import sigmoid


def sequence(steps=6, rows=3, features=4, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, rows, features))


# By hand


@pytest.mark.parametrize("hidden", [1, 7, 17, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gates_of_an_lstm(hidden, dtype):
    layer, x = LSTM(4, hidden, dtype=dtype, rng=0), sequence().astype(dtype)
    seen = layer.inspect(x)
    p = {name: value.astype(np.float64) for name, value in layer.params.items()}
    h = c = np.zeros((3, hidden))
    for t in range(6):
        sums = x[t] @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
        i, f, g, o = np.split(sums, 4, axis=1)
        for name, expected in zip("ifgo", (i, f, g, o), strict=True):
            np.testing.assert_allclose(seen[f"gate.{name}"][t], expected, rtol=1e-9, atol=1e-12)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        for name, expected in zip("ifgohc", (i, f, g, o, h, c), strict=True):
            np.testing.assert_allclose(seen[name][t], expected, rtol=1e-9, atol=1e-12)
    assert set(seen) == {*"ifgohc", *(f"gate.{name}" for name in "ifgo")}
    assert all(value.dtype == np.float64 for value in seen.values())


@pytest.mark.parametrize("after", [True, False])
def test_the_gates_of_a_gru(after):
    layer, x = GRU(4, 5, dtype=np.float64, reset_after=after, rng=0), sequence()
    seen, h = layer.inspect(x), np.zeros((3, 5))
    p = {name.removesuffix("_l0"): value for name, value in layer.params.items()}
    for t in range(6):
        xr, xz, xn = np.split(x[t] @ p["weight_ih"].T + p["bias_ih"], 3, axis=1)
        hr, hz, hn = np.split(h @ p["weight_hh"].T + p["bias_hh"], 3, axis=1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        hn = r * hn if after else (r * h) @ p["weight_hh"][10:].T + p["bias_hh"][10:]
        n = np.tanh(xn + hn)
        h = (1 - z) * n + z * h
        for name, expected in zip("rznh", (r, z, n, h), strict=True):
            np.testing.assert_allclose(seen[name][t], expected, rtol=1e-9, atol=1e-12)


# Every cell, every option of a call


def given_of(cell, steps, rows, seed=0):
    rng = np.random.default_rng(seed)
    widths = {one.name: () if one.domain is None else (cell.features,) for one in cell.program().given}
    return {name: rng.random((steps, rows, *width)) for name, width in widths.items()} or None


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_the_states_are_the_layers(kind):
    """In the second of two layers and directions, with lengths, resets, holes, and states to begin with."""
    cell, rng = DESCRIPTIONS[kind], np.random.default_rng(1)
    layer = Recurrent(cell, 4, 6, 2, bidirectional=True, dtype=np.float64, rng=0)
    x = sequence(7, 3)
    _, state = layer(x, given=given_of(cell, 7, 3))
    call = {
        "lengths": [7, 4, 0],
        "resets": rng.random((7, 3)) < 0.3,
        "mask": rng.random((7, 3)) < 0.7,
        "given": given_of(cell, 7, 3),
    }
    outputs, _ = layer(x, state, reset_state=state, return_states=True, **call)
    names = [one.name for one in cell.program().states]
    outputs = outputs if len(names) > 1 else (outputs if isinstance(outputs, tuple) else (outputs,))
    run = call["mask"] & (np.arange(7)[:, None] < call["lengths"])
    for reverse in (False, True):
        seen = layer.inspect(x, state, reset_state=state, reverse=reverse, **call)
        for name, both in zip(names, outputs, strict=True):
            half = np.split(both, 2, axis=2)[reverse]
            np.testing.assert_allclose(seen[name], half, rtol=1e-7, atol=1e-10, err_msg=name)
        for name in set(seen) - set(names):
            assert np.isnan(seen[name][~run]).all() and np.isfinite(seen[name][run]).all(), name
        for gate in cell.gates:
            name = gate if isinstance(gate, str) else gate.name
            assert any(key.startswith(f"gate.{name}") for key in seen)


def test_the_layer_that_is_asked_for():
    layer, x = LSTM(4, 5, 3, dtype=np.float64, rng=0), sequence()
    last = layer.inspect(x)
    assert np.array_equal(last["h"], layer.inspect(x, layer=2)["h"])
    single = LSTM(4, 5, dtype=np.float64)
    single.load({name: value for name, value in layer.params.items() if name.endswith("_l0")})
    first = layer.inspect(x, layer=0)
    for name, value in single.inspect(x).items():
        assert np.array_equal(first[name], value)
    assert np.array_equal(layer.inspect(x, layer=-3)["f"], first["f"])


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_layout_is_the_calls(batch_first):
    x = sequence()
    layer = GRU(4, 5, dtype=np.float64, batch_first=batch_first, rng=0)
    own = x.swapaxes(0, 1) if batch_first else x
    seen = layer.inspect(own)
    np.testing.assert_allclose(seen["h"], layer(own)[0], rtol=1e-12)
    alone = layer.inspect(x[:, 1])
    row = seen["z"][1] if batch_first else seen["z"][:, 1]
    np.testing.assert_allclose(alone["z"], row, rtol=1e-12)


def test_a_layer_that_runs_backwards():
    layer, x = LSTM(4, 5, reverse=True, dtype=np.float64, rng=0), sequence()
    np.testing.assert_allclose(layer.inspect(x)["h"], layer(x)[0], rtol=1e-12)


def test_ids_no_steps_and_no_rows():
    layer = LSTM(4, 5, rng=0)
    ids = np.array([[0, 3], [2, 1]])
    np.testing.assert_allclose(layer.inspect(ids)["h"], layer(ids)[0], rtol=1e-5, atol=1e-6)
    for shape in ((0, 3, 4), (6, 0, 4), (0, 4)):
        seen = layer.inspect(np.zeros(shape))
        assert all(value.shape == (*shape[:-1], 5) for value in seen.values()) and "f" in seen


def test_the_inference_of_wrapped_cells():
    layer, x = LSTM(4, 5, zoneout=0.3, recurrent_dropout=0.2, dtype=np.float64, rng=0), sequence()
    seen = layer.inspect(x)
    np.testing.assert_allclose(seen["h"], layer(x)[0], rtol=1e-12)
    assert {"i", "f", "g", "o"} <= set(seen)


def test_a_cell_of_ones_own():
    from rnnfast.description.functions import lerp, tanh

    class Leaky(rnnfast.Cell):
        gates = ("n",)

        def step(self, gate, state):
            candidate = tanh(gate.n)
            return lerp(0.5, candidate, state.h)

    layer, x = Recurrent(Leaky(), 4, 5, dtype=np.float64, rng=0), sequence()
    before = sys.getprofile()
    seen = layer.inspect(x)
    assert set(seen) == {"gate.n", "candidate", "h"} and sys.getprofile() is before
    np.testing.assert_allclose(seen["candidate"], np.tanh(seen["gate.n"]))


def test_mistakes_are_named():
    layer, x = LSTM(4, 5), sequence()
    with pytest.raises(ValueError, match=r"layer: expected an integer in -1\.\.0, got 1"):
        layer.inspect(x, layer=1)
    with pytest.raises(ValueError, match="reverse: expected False for a layer of one direction"):
        layer.inspect(x, reverse=True)
    with pytest.raises(ValueError, match="x: expected"):
        layer.inspect(np.zeros((3, 2, 9)))
    with pytest.raises(TypeError, match="resets: expected booleans"):
        layer.inspect(x, resets=np.zeros((6, 3)))


# Pictures


@pytest.fixture
def plot():
    matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plot")
    matplotlib.use("agg")
    from rnnfast import plot

    yield plot
    matplotlib.pyplot.close("all")


def test_loss_curves(plot):
    rows = [training.Epoch(n, 1 / (n + 1), 0.5 + abs(n - 2), {}, 0.1, 1.0, 3, 0, 0.1) for n in range(5)]
    ax = plot.loss_curves(training.History(rows, best_epoch=2))
    training_curve, validation, best = ax.lines
    assert training_curve.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert validation.get_ydata().tolist() == [2.5, 1.5, 0.5, 1.5, 2.5] and best.get_xdata() == [3, 3]
    assert ax.get_xlabel() == "epoch" and ax.get_ylabel() == "loss"
    without = training.History([row._replace(validation_loss=np.nan) for row in rows], best_epoch=4)
    assert len(plot.loss_curves(without).lines) == 2
    assert plot.loss_curves(training.History()).lines[:] == []
    assert plot.loss_curves({"a": [1.0], "b": [2.0]}, ax=ax) is ax
    ax.figure.canvas.draw()


def test_gradient_norms(plot):
    x, dy = sequence(20), np.ones((3, 5))
    norms = {"RNN": gradient_norm_by_distance(RNN(4, 5, rng=0), x, dy)}
    ax = plot.gradient_norm_by_distance(norms)
    assert np.array_equal(ax.lines[0].get_ydata(), norms["RNN"]) and ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["RNN"]
    alone = plot.gradient_norm_by_distance([1.0, 0.5, 0.0])
    assert np.isnan(alone.lines[0].get_ydata()[2]) and alone.get_legend() is None
    alone.figure.canvas.draw()


def test_gates(plot):
    seen = LSTM(4, 5, rng=0).inspect(sequence(), lengths=[6, 4, 2])
    axes = plot.gates(seen, row=1)
    assert sorted(ax.get_title() for ax in axes) == sorted("ifgoch")
    for ax in axes:
        (image,) = ax.images
        assert np.array_equal(image.get_array().filled(np.nan), seen[ax.get_title()][:, 1].T, equal_nan=True)
        low, high = image.get_clim()
        assert (low, high) == (0, 1) if ax.get_title() in "ifo" else low == -high
    axes[0].figure.canvas.draw()
    (ax,) = plot.gates({"z": np.zeros((4, 2))}, ["z"], axes=axes[0])
    assert ax is axes[0]
    first = plot.gates(GRU(4, 5, batch_first=True).inspect(sequence()), ["z"], row=5, batch_first=True)
    assert first[0].images[0].get_array().shape == (5, 3)


def test_a_confusion_matrix(plot):
    rng = np.random.default_rng(0)
    target, found = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    metrics = pytest.importorskip("sklearn.metrics", reason="compares with scikit-learn")
    expected = metrics.confusion_matrix(target, found)
    ax = plot.confusion_matrix(target, found)
    assert [int(text.get_text()) for text in ax.texts] == expected.ravel().tolist()
    ax = plot.confusion_matrix(target, found, labels=["north", "east", "south", "west"], normalize=True)
    shares = expected / expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([float(text.get_text()) for text in ax.texts], shares.ravel(), atol=0.0051)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["north", "east", "south", "west"]
    ax.figure.canvas.draw()


def test_what_cannot_be_drawn_is_named(plot):
    for call, error, message in (
        (lambda: plot.loss_curves(3), TypeError, "history: expected a mapping"),
        (lambda: plot.loss_curves({"a": [[1.0]]}), ValueError, r"history\['a'\]: expected one axis"),
        (lambda: plot.loss_curves({"a": [1.0]}, ax=3), TypeError, "ax: expected matplotlib's Axes or None"),
        (lambda: plot.gradient_norm_by_distance("a"), TypeError, "norms: expected an array of real numbers"),
        (lambda: plot.gates({"f": np.zeros((3, 2))}, ["i"]), ValueError, "names: expected some of f; got i"),
        (lambda: plot.gates({}), ValueError, "names: expected some of"),
        (lambda: plot.gates({"f": np.zeros((3, 2, 4))}, row=2), ValueError, r"row: expected an integer in 0\.\.1"),
        (lambda: plot.gates({"f": np.zeros(3)}), ValueError, r"activations\['f'\]: expected"),
        (lambda: plot.gates({"f": np.zeros((3, 2))}, axes=[]), ValueError, "axes: expected 1 of matplotlib's Axes"),
        (lambda: plot.confusion_matrix([0, 1], [0]), ValueError, r"prediction: expected shape \[2\], got \[1\]"),
        (lambda: plot.confusion_matrix([0.0], [0.0]), TypeError, "target: expected integers"),
        (lambda: plot.confusion_matrix([0], [3], labels="ab"), ValueError, r"expected classes in 0\.\.1"),
        (lambda: plot.confusion_matrix([], []), ValueError, "target: expected at least one class"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_without_matplotlib(plot, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "rnnfast\[plot\]"'):
        plot.loss_curves({"a": [1.0]})
