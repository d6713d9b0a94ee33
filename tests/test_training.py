"""`fit` against the loop written out, accumulation, early stopping, what is kept and what is refused."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

import rnnfast
from rnnfast import GRU, LSTM, Dense, Model, data, losses, optim, schedules, training

RNG = np.random.default_rng(0)
SEQUENCES = [RNG.normal(size=(count, 3)).astype(np.float32) for count in RNG.integers(2, 15, 40)]
LABELS = np.array([int(sequence[:, 0].sum() > 0) for sequence in SEQUENCES])


def classifier(dtype=np.float32, **options):
    layer = GRU(3, 12, rng=0, dtype=dtype, **options)
    return Model(rnn=layer, head=Dense(24 if options.get("bidirectional") else 12, 2, rng=1, dtype=dtype))


def batches(part=slice(0, 30), **options):
    options = {"batch_size": 8, "last_only": True, "rng": 3} | options
    return data.Batches(SEQUENCES[part], LABELS[part], **options)


HELD_OUT = batches(slice(30, 40), rng=None)


def learn(model=None, train=None, optimizer=None, **options):
    model = classifier() if model is None else model
    optimizer = optim.Adam(model.params, 1e-2) if optimizer is None else optimizer
    train = batches() if train is None else train
    return model, rnnfast.fit(model, losses.softmax_cross_entropy, optimizer, train, **options)


# The loop


def test_fit_is_the_loop_written_out():
    """With dropout, a frozen part, accumulation, a schedule, a plateau and the best epoch: the same bits."""
    groups = {"head.bias": {"frozen": True}, "*weight*": {"weight_decay": 0.1}}
    loss = losses.softmax_cross_entropy

    model = Model(rnn=LSTM(3, 6, 2, dropout=0.3, rng=0), head=Dense(6, 2, rng=1))
    optimizer = optim.AdamW(model.params, groups=groups)
    schedule = schedules.WarmUp(schedules.OnPlateau(2e-2, factor=0.5, patience=0), 5)
    train, gradients, tape = batches(), model.params.zeros(), None
    best, best_loss, best_epoch, values = None, math.inf, -1, []
    for epoch in range(12):
        both = list(train)
        for pair in (both[i : i + 2] for i in range(0, len(both), 2)):
            optimizer.lr = schedule(optimizer.steps)
            gradients.zero()
            for batch in pair:
                y, _, tape = model.forward(batch.x, **batch.inputs, tape=tape)
                _, dy = loss(y, batch.target)
                dy = dy * (len(batch.rows) / sum(len(one.rows) for one in pair))
                model.backward(tape, dy, into=gradients, input_gradient=False)
            optimizer.drop_frozen(gradients)
            optim.clip_grad_norm(gradients, 0.5)
            optimizer.step(gradients)
        sums = [loss(model(b.x, **b.inputs)[0], b.target, reduction="mean")[0] * len(b.rows) for b in HELD_OUT]
        values.append(sum(sums) / 10)
        schedule.observe(values[-1])
        if values[-1] < best_loss:
            best, best_loss, best_epoch = model.params.flat.copy(), values[-1], epoch

    other = Model(rnn=LSTM(3, 6, 2, dropout=0.3, rng=0), head=Dense(6, 2, rng=1))
    _, history = learn(
        other,
        optimizer=optim.AdamW(other.params, groups=groups),
        epochs=12,
        accumulate=2,
        validation=HELD_OUT,
        clip_norm=0.5,
        schedule=schedules.WarmUp(schedules.OnPlateau(2e-2, factor=0.5, patience=0), 5),
    )
    assert history.validation_loss.tolist() == values and history.best_epoch == best_epoch
    assert np.array_equal(other.params.flat, best)
    assert history.restored == (best_epoch < 11) and history.stopped == "epochs" and len(history) == 12
    assert history["updates"].tolist() == [2] * 12


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_it_learns_sequences_of_different_lengths(pack, batch_first):
    model = classifier(batch_first=batch_first)
    train = batches(pack=pack, batch_first=batch_first)
    held_out = batches(slice(30, 40), batch_first=batch_first)
    _, history = learn(
        model, train, epochs=30, validation=held_out, metrics={"accuracy": training.accuracy}, clip_norm=1.0
    )
    assert history["accuracy"].max() >= 0.8
    assert history.loss[-1] < history.loss[0] / 2
    assert (history["grad_norm"] > 0).all() and (history["lr"] == 1e-2).all() and (history["seconds"] > 0).all()


def test_packed_and_padded_batches_have_the_same_gradient():
    models = [classifier(np.float64) for _ in range(2)]
    for model, pack in zip(models, (False, True), strict=True):
        train = batches(pack=pack, batch_size=30)
        learn(model, train, optim.SGD(model.params, 0.1), epochs=1)
    np.testing.assert_allclose(models[0].params.flat, models[1].params.flat, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [False, True])
def test_accumulated_batches_are_one_batch(steps):
    """Of different numbers of targets, and of weights."""
    targets = [np.full(len(x), label) for x, label in zip(SEQUENCES, LABELS, strict=True)] if steps else LABELS
    weights = [np.full(len(x), 0.1 + n % 3) for n, x in enumerate(SEQUENCES)] if steps else np.arange(40) % 3 + 0.1
    models = [classifier(np.float64) for _ in range(2)]
    for model, size, accumulate in zip(models, (40, 7), (1, 6), strict=True):
        train = data.Batches(SEQUENCES, targets, weights=weights, batch_size=size, last_only=not steps)
        _, history = learn(model, train, optim.SGD(model.params, 0.1), epochs=1, accumulate=accumulate)
    assert history["updates"].tolist() == [1]
    np.testing.assert_allclose(models[0].params.flat, models[1].params.flat, rtol=1e-6, atol=1e-9)


def test_a_layer_by_itself_and_one_array():
    x, y = data.windows(np.sin(np.arange(200) / 7), 12, horizon=0)[0], np.zeros((12, 189, 4))
    layer = LSTM(1, 4, rng=0)
    _, history = learn(layer, data.Batches(x, y, batch_size=50), epochs=0)
    assert len(history) == 0 and history.best_epoch == -1 and history.loss.shape == (0,)
    first = rnnfast.fit(layer, losses.mean_squared_error, optim.SGD(layer.params, 1.0), data.Batches(x, y), epochs=3)
    assert first.loss[2] < first.loss[0]


def test_a_second_call_goes_on():
    """The optimiser's steps are what a schedule counts; two calls are one."""
    models = [classifier() for _ in range(2)]
    schedule = schedules.Linear(1e-2, 40)
    learn(models[0], epochs=6, schedule=schedule)
    train, optimizer = batches(), optim.Adam(models[1].params, 1e-2)
    for _ in range(2):
        learn(models[1], train, optimizer, epochs=3, schedule=schedule)
    assert np.array_equal(models[0].params.flat, models[1].params.flat)


# When it stops and what is left


def falling_then_rising(losses_by_epoch):
    """A validation whose loss is what one says."""
    values = iter(losses_by_epoch)

    def loss(y, target, *, mask=None):
        if target.size == 1:  # the validation
            return next(values), y
        return losses.softmax_cross_entropy(y, target, mask=mask)

    return loss


@pytest.mark.parametrize("restore", [True, False])
def test_it_stops_when_the_validation_gets_no_better(restore):
    model = classifier()
    seen = []
    history = rnnfast.fit(
        model,
        falling_then_rising([3.0, 2.0, 1.99, 2.5, 2.5, 1.0]),
        optim.Adam(model.params, 1e-2),
        batches(),
        epochs=6,
        validation=data.Batches(SEQUENCES[:1], LABELS[:1], last_only=True),
        patience=2,
        min_delta=0.1,
        restore_best=restore,
        callbacks=[lambda epoch: seen.append((epoch.number, model.params.flat.copy()))],
    )
    assert history.stopped == "patience" and len(history) == 4 and history.best_epoch == 1
    assert history.restored is restore
    assert np.array_equal(model.params.flat, seen[1 if restore else 3][1])
    assert not np.array_equal(seen[1][1], seen[3][1])


def test_a_callback_stops():
    _, history = learn(epochs=9, callbacks=[lambda epoch: epoch.number == 1, lambda epoch: None])
    assert history.stopped == "callback" and len(history) == 2 and not history.restored
    assert np.isnan(history.validation_loss).all()
    with pytest.raises(KeyError, match=r"accuracy.*there are loss, validation_loss, lr, grad_norm"):
        history["accuracy"]


def test_the_best_is_saved(tmp_path):
    pytest.importorskip("safetensors", reason="needs the extra cli")
    scale = data.Standardizer.fit(np.concatenate(SEQUENCES))
    extra = {"scale": scale.to_dict()}
    model, history = learn(epochs=8, validation=HELD_OUT, checkpoint=tmp_path / "best", extra=extra)
    loaded = rnnfast.checkpoint.load(tmp_path / "best")
    assert np.array_equal(loaded.model.params.flat, model.params.flat)
    assert loaded.extra["epoch"] == history.best_epoch and loaded.extra["best_loss"] == history.validation_loss.min()
    assert loaded.optimizer["step"] == 4 * (history.best_epoch + 1)
    assert np.array_equal(loaded.extra["scale"]["mean"], scale.mean)
    found = training.evaluate(loaded.model, losses.softmax_cross_entropy, HELD_OUT)
    assert found["loss"] == history.validation_loss[history.best_epoch]


def broken(count):
    """A loss whose gradient is NaN once."""
    calls = iter(range(10**6))

    def loss(y, target, *, mask=None):
        value, dy = losses.softmax_cross_entropy(y, target, mask=mask)
        return (math.nan, dy * math.nan) if next(calls) == count else (value, dy)

    return loss


def test_a_gradient_that_is_not_finite_makes_no_update():
    model = classifier()
    options = {"optimizer": optim.Adam(model.params), "batches": batches(), "epochs": 2}
    history = rnnfast.fit(model, broken(2), **options, nonfinite="skip")
    assert history["skipped"].tolist() == [1, 0] and history["updates"].tolist() == [3, 4]
    assert np.isfinite(history.loss).all() and np.isfinite(model.params.flat).all()
    before = model.params.flat.copy()
    with pytest.raises(rnnfast.tbptt.NonFiniteError, match="got nan with a loss of nan after 0 updates"):
        rnnfast.fit(model, broken(0), **options)
    assert np.array_equal(model.params.flat, before)
    rnnfast.fit(model, broken(0), **options, nonfinite="apply")
    assert np.isnan(model.params.flat).all()


def test_batches_without_targets_make_no_update():
    model = classifier()
    before = model.params.flat.copy()
    _, history = learn(model, batches(weights=np.zeros(30)), epochs=2)
    assert np.array_equal(model.params.flat, before) and history["updates"].tolist() == [0, 0]
    assert np.isnan(history.loss).all()
    assert math.isnan(training.evaluate(model, losses.softmax_cross_entropy, batches(weights=np.zeros(30)))["loss"])


# Evaluation


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_predictions_come_in_the_order_of_the_sequences(pack, last_only, batch_first):
    model = classifier(batch_first=batch_first)
    unlabelled = data.Batches(SEQUENCES, batch_size=7, rng=0, pack=pack, last_only=last_only, batch_first=batch_first)
    found = training.predict(model, unlabelled)
    assert len(found) == 40
    for sequence, own in zip(SEQUENCES, found, strict=True):
        assert np.array_equal(own, model(sequence, last_only=last_only)[0])


def test_a_model_of_two_outputs():
    """Policy and value on one layer: the losses' sum, and each output's part of the gradient."""

    def loss(y, target, *, mask=None):
        one, d_one = losses.softmax_cross_entropy(y["policy"], target, mask=mask)
        two, d_two = losses.mean_squared_error(y["value"], target[..., None].astype(np.float32), mask=mask)
        return one + two, {"policy": d_one, "value": d_two}

    def model():
        parts = {"rnn": GRU(3, 8, rng=0), "policy": Dense(8, 2, rng=1), "value": Dense(8, 1, rng=2)}
        return Model(**parts, inputs={"value": "rnn"})

    steps = [np.full(len(x), label) for x, label in zip(SEQUENCES, LABELS, strict=True)]
    one, two = model(), model()
    train = data.Batches(SEQUENCES, steps, batch_size=40)
    history = rnnfast.fit(one, loss, optim.SGD(one.params, 0.1), train, epochs=3)
    assert history.loss[2] < history.loss[0]
    parts = data.Batches(SEQUENCES, steps, batch_size=10)
    rnnfast.fit(two, loss, optim.SGD(two.params, 0.1), parts, epochs=3, accumulate=4)
    np.testing.assert_allclose(one.params.flat, two.params.flat, rtol=1e-3, atol=1e-5)
    found = training.predict(one, parts)
    assert found[3]["value"].shape == (len(SEQUENCES[3]), 1) and found[3]["policy"].shape == (len(SEQUENCES[3]), 2)
    with pytest.raises(TypeError, match="the loss's gradient: expected a mapping with names among"):
        rnnfast.fit(one, lambda y, target, mask: (0.0, y["value"]), optim.SGD(one.params, 0.1), train)


def test_predictions_of_one_array():
    x = RNG.normal(size=(5, 9, 3)).astype(np.float32)
    model = classifier()
    found = training.predict(model, data.Batches(x, batch_size=4, rng=1))
    assert np.array_equal(np.stack(found, axis=1), model(x)[0])


def test_logits_and_probabilities():
    model = Model(rnn=GRU(3, 4, rng=0), head=Dense(4, 2, activation="softmax", rng=0))
    probabilities = np.stack(training.predict(model, batches(rng=None)))
    logits = np.stack(training.predict(model, batches(rng=None), logits=True))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), probabilities, rtol=1e-5)
    history = learn(model, epochs=2, logits=True, validation=HELD_OUT)[1]
    assert history.validation_loss[1] < history.validation_loss[0]


def test_accuracy_is_weighed():
    scores, target = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), [0, 0, 1]
    assert training.accuracy(scores, target) == pytest.approx(2 / 3)
    assert training.accuracy(scores, target, mask=[True, True, False]) == 0.5
    assert training.accuracy(scores, target, mask=[0.0, 1.0, 3.0]) == 0.75
    assert math.isnan(training.accuracy(np.zeros((0, 2)), np.zeros(0, int)))
    with pytest.raises(TypeError, match="target: expected integers"):
        training.accuracy(scores, [0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match=r"target: expected shape \[3\], got \[2\]"):
        training.accuracy(scores, [0, 1])


# The bar, and mistakes


def test_a_bar_if_it_is_wanted(capsys, monkeypatch):
    learn(epochs=1)
    assert capsys.readouterr().err == ""
    pytest.importorskip("tqdm", reason="needs the extra cli")
    learn(epochs=2, progress=True, validation=HELD_OUT)
    assert "8/8" in (shown := capsys.readouterr().err) and "validation" in shown
    monkeypatch.setitem(sys.modules, "tqdm", None)
    learn(epochs=1)
    with pytest.raises(ImportError, match=r'pip install "rnnfast\[cli\]"'):
        learn(epochs=1, progress=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs: expected an integer of at least 0"),
        ({"accumulate": 0}, ValueError, "accumulate: expected an integer in 1"),
        ({"patience": 1.5}, TypeError, "patience: expected an integer"),
        ({"patience": 0}, ValueError, "patience: expected an integer of at least 1"),
        ({"clip_norm": -1}, ValueError, "clip_norm: expected a number of at least 0"),
        ({"nonfinite": "ignore"}, ValueError, "nonfinite: expected one of 'raise', 'skip', 'apply'"),
        ({"schedule": 0.1}, TypeError, "schedule: expected a function of the steps taken"),
        ({"metrics": [training.accuracy]}, TypeError, "metrics: expected a mapping"),
        ({"callbacks": [3]}, TypeError, r"callbacks\[0\]: expected a function"),
        ({"train": 3}, TypeError, "batches: expected Batches"),
        ({"train": iter([])}, TypeError, "batches: expected Batches, or what can be gone through again"),
        ({"train": [SEQUENCES, LABELS]}, TypeError, "batches: expected Batches, such as data.Batches"),
        ({"validation": (SEQUENCES, LABELS)}, TypeError, "validation: expected Batches, such as data.Batches"),
        ({"train": data.Batches(SEQUENCES, last_only=True)}, ValueError, "batches: expected batches with targets"),
        ({"train": batches(batch_first=True)}, ValueError, "batches: expected batch_first=False as the model has it"),
        ({"model": classifier(bidirectional=True), "train": batches(pack=True)}, ValueError, "expected pack=False"),
        ({"optimizer": optim.Adam(classifier().params)}, ValueError, "optimizer: expected one on model.params"),
        ({"optimizer": 3}, TypeError, "optimizer: expected an optimiser"),
        ({"model": 3, "optimizer": 3}, TypeError, "model: expected a Model or a layer"),
    ],
)
def test_a_mistake_is_named(options, error, message):
    model = classifier()
    before = model.params.flat.copy()
    with pytest.raises(error, match=message):
        learn(**{"model": model, **options})
    assert np.array_equal(model.params.flat, before)


def test_a_loss_of_another_kind_is_named():
    model = classifier()
    with pytest.raises(TypeError, match=r"loss: expected it to return \(loss, gradient\)"):
        rnnfast.fit(model, lambda y, target: 1.0, optim.Adam(model.params), batches(), epochs=1)


@pytest.mark.parametrize("kind", ["last", "mean"])
def test_a_model_that_pools_learns_a_target_for_each_sequence(kind):
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((n, 3)) for n in (3, 9, 4, 8, 5, 7)]
    labels = np.array([0, 1, 0, 1, 1, 0])
    parts = {"rnn": rnnfast.GRU(3, 8, rng=0), "pool": rnnfast.Pool(kind), "head": rnnfast.Dense(8, 2, rng=1)}
    model = rnnfast.Model(**parts)
    batches = data.Batches(x, labels, batch_size=3, last_only=True, rng=0)
    history = rnnfast.fit(model, losses.softmax_cross_entropy, optim.Adam(model.params, 0.03), batches, epochs=30)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    packed = data.Batches(x, labels, batch_size=3, last_only=True, pack=True)
    with pytest.raises(ValueError, match=r"expected pack=False for a model that pools \(pool\), got True"):
        rnnfast.fit(model, losses.softmax_cross_entropy, optim.Adam(model.params), packed, epochs=1)
