"""Learners: RTRL is the gradient of backpropagation, the local methods are the oracle's; updates, resets, memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from registry import DESCRIPTIONS, KINDS, assert_close

import rnnfast
from rnnfast import reference
from rnnfast.online import Learner, _check_layer

T, B, I = 5, 3, 2  # noqa: E741


class Recorder:
    """In the place of an optimiser: keeps the gradients of every step, and changes nothing."""

    def __init__(self):
        self.found = []

    def step(self, gradients):
        self.found.append({name: np.array(value) for name, value in gradients.items()})


def of_dy(prediction, target):
    """A loss whose gradient is the target."""
    return 0.0, target


def make(kind, hidden=5, dtype=np.float64):
    cell = DESCRIPTIONS[kind]
    return rnnfast.Recurrent(cell, I, -(-hidden // cell.heads) * cell.heads, dtype=dtype, rng=KINDS.index(kind))


def allowed(kind, method):
    try:
        _check_layer(make(kind), method)
    except ValueError:
        return False
    return True


EXACT = [kind for kind in KINDS if allowed(kind, "rtrl")]
LOCAL = [kind for kind in KINDS if allowed(kind, "snap1")]


def data(layer, steps=T):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((steps, B, n)).astype(layer.dtype) for n in (I, layer.hidden_size))
    extra = [one.name for one in layer._recurrence.layout.program.given]
    return x, dy, {name: rng.random((steps, B)).astype(layer.dtype) for name in extra}


def gradients_of_steps(layer, x, dy, given, method):
    recorder = Recorder()
    learner = layer.learner(of_dy, recorder, method=method, batch_size=B)
    y = []
    for t in range(len(x)):
        y.append(learner.step(x[t], dy[t], given={n: a[t] for n, a in given.items()} or None).prediction.copy())
    return np.stack(y), recorder.found, learner


def test_which_cells_have_which_method():
    assert {"indrnn", "sru", "mingru", "minlstm", "rglru", "lru_states"} <= set(EXACT)
    assert {"elman_tanh", "lstm", "gru_after", "gru_before", "mgu", "slstm_heads", "lstm_layer_norm"} <= set(LOCAL)
    assert set(EXACT) < set(LOCAL)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rtrl_is_backpropagation_over_the_same_window(kind, dtype):
    layer = make(kind, 7, dtype)
    x, dy, given = data(layer)
    y, found, learner = gradients_of_steps(layer, x, dy, given, "rtrl")
    expected_y, state, tape = layer.forward(x, given=given or None)
    bound = 1e-4 if dtype == np.float32 else 1e-11
    assert_close(y, expected_y, bound)
    for one, other in zip(np.atleast_1d(learner.state), np.atleast_1d(state), strict=True):
        assert_close(one, other, bound)
    for name, expected in layer.backward(tape, dy).params.items():
        assert_close(sum(step[name] for step in found), expected, bound)


@pytest.mark.parametrize("method", ["snap1", "rflo"])
@pytest.mark.parametrize("kind", LOCAL)
def test_local_methods_are_the_oracle_s(kind, method):
    layer = make(kind, 3 + KINDS.index(kind) % 3)
    x, dy, given = data(layer)
    y, found, _ = gradients_of_steps(layer, x, dy, given, method)
    params = {name.removesuffix("_l0"): value for name, value in layer.params.items()}
    expected = reference.online_reference(layer.cell, params, x, dy, method=method, given=list(given.values()))
    assert_close(y, expected.y, 1e-11)
    for own, step in zip(found, expected.gradients, strict=True):
        for name, value in step.items():
            scale = np.abs(value).max(initial=1e-3)
            assert np.abs(own[f"{name}_l0"] - value).max(initial=0) <= 1e-6 * scale, name


def test_snap_is_rtrl_where_the_recurrent_matrix_is_diagonal():
    """For the traces that there are: those of a unit's own parameters, which then are all that matter."""
    layer = make("lstm", 6)
    weight = np.array(layer.params["weight_hh_l0"]) * np.tile(np.eye(6), (4, 1))
    layer.update({"weight_hh_l0": weight})
    x, dy, given = data(layer)
    _, found, _ = gradients_of_steps(layer, x, dy, given, "snap1")
    _, _, tape = layer.forward(x)
    for name, expected in layer.backward(tape, dy).params.items():
        mask = np.tile(np.eye(6), (4, 1)) if name == "weight_hh_l0" else 1.0
        assert_close(sum(step[name] for step in found) * mask, expected * mask, 1e-11)


def test_a_model_with_a_head():
    """The head's gradient is its own, the layer's error what the head hands back."""
    model = rnnfast.Model(
        rnn=rnnfast.IndRNN(I, 4, dtype=np.float64, rng=0),
        head=rnnfast.Dense(4, 3, activation="softmax", dtype=np.float64, rng=1),
    )
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((T, B, I)), rng.integers(0, 3, (T, B))
    recorder = Recorder()

    def loss(prediction, target):
        return rnnfast.losses.softmax_cross_entropy(prediction, target, reduction="sum")

    learner = Learner(model, loss, recorder, method="rtrl", batch_size=B, logits=True)
    losses = [learner.step(x[t], target[t]).loss for t in range(T)]
    y, _, tape = model.forward(x, logits=True)
    whole, dy = loss(y, target)
    assert sum(losses) == pytest.approx(whole)
    for name, expected in model.backward(tape, dy).params.items():
        assert_close(sum(step[name] for step in recorder.found), expected, 1e-11)


def test_gradients_add_up_until_an_update():
    layer = make("lstm")
    x, dy, _ = data(layer)
    _, found, _ = gradients_of_steps(layer, x, dy, {}, "snap1")
    recorder = Recorder()
    learner = layer.learner(of_dy, recorder, batch_size=B)
    learned = [learner.step(x[t], dy[t] if t != 2 else None, update=t == T - 1) for t in range(T)]
    assert [one.updated for one in learned] == [False] * (T - 1) + [True]
    assert [one.loss is None for one in learned] == [t == 2 for t in range(T)]
    assert len(recorder.found) == 1
    for name, total in recorder.found[0].items():
        assert_close(total, sum(step[name] for t, step in enumerate(found) if t != 2), 1e-12)
    learner.step(x[0])
    assert len(recorder.found) == 1, "there was nothing to update with"


def test_updates_are_the_optimiser_s():
    """Each step's gradient is that of the parameters of the moment, and the layer's panels follow them."""
    layer, other = make("gru_after"), make("gru_after")
    x, dy, _ = data(layer, 1)
    layer.learner(of_dy, rnnfast.optim.SGD(layer.params, 0.5), batch_size=B).step(x[0], dy[0])
    _, _, tape = other.forward(x)
    rnnfast.optim.SGD(other.params, 0.5).step(other.backward(tape, dy).params)
    for name, value in other.params.items():
        assert_close(layer.params[name], np.asarray(value), 1e-12)
    assert_close(layer(x)[0], other(x)[0], 1e-12)


def test_it_learns():
    """A sum of the last inputs, from one step to the next."""
    rng = np.random.default_rng(0)
    for kind, method in (("lstm", "snap1"), ("lstm", "rflo"), ("indrnn", "rtrl")):
        model = rnnfast.Model(rnn=make(kind, 16, np.float32), head=rnnfast.Dense(16, 1, rng=0))
        optimizer = rnnfast.optim.Adam(model.params, 1e-2)
        learner = Learner(model, rnnfast.losses.mean_squared_error, optimizer, method=method, batch_size=8)
        x = rng.standard_normal((400, 8, I)).astype(np.float32)
        target = (x[:, :, :1] + np.roll(x[:, :, :1], 1, 0) + np.roll(x[:, :, :1], 2, 0)) / 2
        errors = [learner.step(x[t], target[t]).loss for t in range(2, 400)]
        assert np.mean(errors[-50:]) < 0.3 * np.mean(errors[:50]), (kind, method)


def test_frozen_parameters_stay_and_predictions_are_one_s_own():
    layer = make("lstm")
    before = np.array(layer.params["weight_hh_l0"])
    optimizer = rnnfast.optim.SGD(layer.params, 0.1, groups={"weight_hh*": {"frozen": True}})
    learner, out = layer.learner(of_dy, optimizer, batch_size=B), np.empty((B, 5))
    x, dy, _ = data(layer)
    first = learner.step(x[0], dy[0]).prediction
    kept = first.copy()
    assert learner.step(x[1], dy[1], out=out).prediction is out
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(layer.params["weight_hh_l0"], before)


def test_rows_begin_anew():
    layer = make("sru")
    x, dy, _ = data(layer, 6)
    learners = [layer.learner(of_dy, Recorder(), method="rtrl", batch_size=B) for _ in range(2)]
    for t in range(6):
        if t == 3:
            learners[0].reset([1])
        learners[0].step(x[t], dy[t])
    for t in range(3, 6):
        learners[1].step(x[t], dy[t])
    for own, fresh in zip(learners[0]._traces, learners[1]._traces, strict=True):
        np.testing.assert_array_equal(own[:, 1], fresh[:, 1])
        assert not np.array_equal(own[:, 0], fresh[:, 0])
    learners[0].reset()
    assert not any(trace.any() for trace in learners[0]._traces)


def test_it_goes_on_from_a_state_dictionary():
    layer = make("slstm")
    x, dy, _ = data(layer, 6)
    recorder, others = Recorder(), Recorder()
    learner, other = (layer.learner(of_dy, one, batch_size=B) for one in (recorder, others))
    for t in range(3):
        learner.step(x[t], dy[t], update=False)
    other.load_state_dict(learner.state_dict())
    for one in (learner, other):
        for t in range(3, 6):
            one.step(x[t], dy[t], update=t == 5)
    for name, value in recorder.found[0].items():
        np.testing.assert_array_equal(others.found[0][name], value)
    for bad in ({}, {**learner.state_dict(), "traces": []}, {**learner.state_dict(), "states": np.zeros(3)}):
        before = other.state_dict()
        with pytest.raises(ValueError, match="expected"):
            other.load_state_dict(bad)
        np.testing.assert_array_equal(other.state_dict()["states"], before["states"])


def test_ids_and_a_step_without_a_batch_axis():
    layer = make("lstm")
    hot = layer.learner(of_dy, Recorder())
    cold = layer.learner(of_dy, Recorder())
    for id in (1, 0, 1):
        one, other = hot.step(np.array(id)), cold.step(np.eye(I)[[id]])
        assert one.prediction.shape == (5,)
        np.testing.assert_array_equal(one.prediction, other.prediction[0])
    many, others = (layer.learner(of_dy, Recorder(), batch_size=B) for _ in range(2))
    ids = np.array([1, 0, 1])
    np.testing.assert_array_equal(many.step(ids).prediction, others.step(np.eye(I)[ids]).prediction)


@pytest.mark.parametrize("kind", ["lstm", "gru_after", "indrnn", "lstm_layer_norm"])
def test_a_step_takes_no_memory(kind):
    hidden, rows = 1024, 2
    layer = rnnfast.Recurrent(DESCRIPTIONS[kind], 16, hidden, rng=0)
    learner = layer.learner(of_dy, rnnfast.optim.SGD(layer.params, 1e-3), batch_size=rows)
    x, dy = np.ones((rows, 16), np.float32), np.full((rows, hidden), 1e-3, np.float32)
    out = np.empty_like(dy)
    for _ in range(3):
        learner.step(x, dy, out=out)
    tracemalloc.start()
    try:
        learner.step(x, dy, out=out)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            learner.step(x, dy, out=out)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < dy.nbytes, "no array of the size of a state, let alone of a trace"
    assert after - before < dy.nbytes


def test_a_gradient_that_is_not_finite():
    layer = make("lstm")
    learner = layer.learner(of_dy, rnnfast.optim.SGD(layer.params, 0.1), batch_size=B)
    before = np.array(layer.params.flat)
    with pytest.raises(rnnfast.tbptt.NonFiniteError, match="expected a finite norm"):
        learner.step(np.ones((B, I)), np.full((B, 5), np.nan))
    np.testing.assert_array_equal(layer.params.flat, before)
    learner.reset()
    assert learner.step(np.ones((B, I)), np.ones((B, 5))).updated


REFUSED = [
    (lambda: rnnfast.LSTM(2, 3, 2), {}, ValueError, "num_layers: expected 1"),
    (lambda: rnnfast.LSTM(2, 3, bidirectional=True), {}, ValueError, "directions: expected 1"),
    (lambda: rnnfast.LSTM(2, 3, reverse=True), {}, ValueError, "reverse: expected False"),
    (lambda: rnnfast.LSTM(2, 3, zoneout=0.1), {}, ValueError, "without zoneout"),
    (lambda: rnnfast.LSTM(2, 3, proj_size=2), {}, ValueError, "rows all have the hidden width, got 'lstm'"),
    (lambda: rnnfast.LSTM(2, 3), {"method": "rtrl"}, ValueError, "expected 'snap1' or 'rflo' for 'lstm'"),
    (lambda: rnnfast.LSTM(2, 3), {"method": "uoro"}, ValueError, "method: expected one of"),
    (lambda: rnnfast.LSTM(2, 3), {"batch_size": 0}, ValueError, "batch_size: expected"),
    (lambda: rnnfast.LSTM(2, 3), {"logits": True}, ValueError, "logits: expected False for a layer"),
    (lambda: rnnfast.Dense(2, 3), {}, TypeError, "model: expected a recurrent layer"),
    (lambda: rnnfast.Model(a=rnnfast.LSTM(2, 3), b=rnnfast.LSTM(3, 3)), {}, ValueError, "expected one recurrent layer"),
]


@pytest.mark.parametrize(("make_model", "options", "error", "message"), REFUSED)
def test_what_can_not_be_learnt_this_way(make_model, options, error, message):
    with pytest.raises(error, match=message):
        Learner(make_model(), of_dy, Recorder(), **options)


def test_bad_arguments_of_the_constructor():
    layer, other = make("lstm"), make("lstm")
    with pytest.raises(TypeError, match="loss: expected a callable"):
        layer.learner(3, Recorder())
    with pytest.raises(TypeError, match="optimizer: expected an optimiser"):
        layer.learner(of_dy, None)
    with pytest.raises(ValueError, match=r"optimizer: expected one on model\.params"):
        layer.learner(of_dy, rnnfast.optim.SGD(other.params, 0.1))


BAD_STEPS = [
    ({"x": np.zeros((B, I + 1))}, ValueError, "x: expected shape"),
    ({"x": np.zeros((B + 1, I))}, ValueError, "x: expected shape"),
    ({"x": np.zeros(I)}, ValueError, r"x: expected \[B, I\] or ids \[B\]"),
    ({"x": np.full(B, I)}, ValueError, "x: expected ids in"),
    ({"x": np.zeros((B, I), complex)}, TypeError, "x: expected an array of real numbers"),
    ({"given": {"dt": np.ones(B)}}, ValueError, "given: expected"),
    ({"target": np.zeros((B, 4))}, ValueError, "the loss's gradient: expected shape"),
    ({"update": 1}, TypeError, "update: expected"),
    ({"out": np.zeros((B, 4))}, ValueError, "out: expected shape"),
    ({"out": np.zeros((B, 5), np.float32)}, TypeError, "out: expected dtype float64"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_STEPS)
def test_a_bad_step_changes_nothing(arguments, error, message):
    layer = make("lstm")
    learner, other = (layer.learner(of_dy, Recorder(), batch_size=B) for _ in range(2))
    x, dy, _ = data(layer)
    for one in (learner, other):
        one.step(x[0], dy[0], update=False)
    with pytest.raises(error, match=message):
        learner.step(**{"x": x[1], "target": dy[1], **arguments})
    for one in (learner, other):
        one.step(x[1], dy[1], update=False)
    for own, expected in zip(learner._traces, other._traces, strict=True):
        np.testing.assert_array_equal(own, expected)
    np.testing.assert_array_equal(learner._gradients.flat, other._gradients.flat)


def test_a_layer_that_has_joined_a_model_is_refused():
    layer = rnnfast.LSTM(I, 3, rng=0)
    learner = layer.learner(of_dy, Recorder())
    rnnfast.Model(rnn=layer)
    with pytest.raises(ValueError, match="it has joined a model"):
        learner.step(np.zeros((1, I)))
