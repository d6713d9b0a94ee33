"""rnnfast.sklearn: scikit-learn's own checks, what the estimators learn, and what they refuse."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.6", reason="rnnfast.sklearn is an extra")

from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import rnnfast
from rnnfast.sklearn import SequenceClassifier, SequenceForecaster, SequenceRegressor

SMALL = {"hidden_size": 8, "max_iter": 30, "num_threads": 1}


def not_expected(estimator):
    """The checks that are not expected to pass, and why."""
    reason = "batches are drawn from the sequences: one of weight 2 is not in the batches of two equal ones"
    return {"check_sample_weight_equivalence_on_dense_data": reason} if hasattr(estimator, "per_step") else {}


@parametrize_with_checks(
    [SequenceClassifier(**SMALL), SequenceRegressor(**SMALL), SequenceForecaster(**SMALL)],
    expected_failed_checks=not_expected,
)
def test_what_scikit_learn_asks_of_estimators(estimator, check):
    check(estimator)


def waves(count, seed=0, features=1):
    """Sines of two rates in noise, of lengths 10 to 39, and which of the two rates."""
    rng = np.random.default_rng(seed)
    fast = np.arange(count) % 2
    X = []
    for one in fast:
        t = np.arange(rng.integers(10, 40))[:, None] + rng.uniform(0, 9)
        X.append(np.sin((0.3 + 0.6 * one) * t) + 0.1 * rng.standard_normal((len(t), features)))
    return X, fast


def padded(X):
    result = np.full((len(X), max(map(len, X)), X[0].shape[1]), np.nan)
    for row, one in zip(result, X, strict=True):
        row[: len(one)] = one
    return result


def test_a_classifier_learns_what_the_shape_of_a_table_does_not_show():
    (X, y), (held_out, truth) = waves(80), waves(60, seed=1)
    names = np.array(["slow", "fast"])
    model = SequenceClassifier(hidden_size=12, max_iter=40, random_state=0).fit(X, names[y])
    assert model.classes_.tolist() == ["fast", "slow"]
    assert model.score(held_out, names[truth]) >= 0.95
    means = [[one.mean(), one.std()] for one in X], [[one.mean(), one.std()] for one in held_out]
    assert RidgeClassifier().fit(means[0], y).score(means[1], truth) < 0.8
    probabilities = model.predict_proba(held_out)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(held_out))
    assert log_loss(names[truth], probabilities, labels=model.classes_) < 0.3
    assert not hasattr(model, "n_features_in_")


def test_lists_and_padded_arrays_are_the_same_sequences():
    X, y = waves(20, features=2)
    options = {**SMALL, "random_state": 0, "max_iter": 3}
    one, other = SequenceClassifier(**options).fit(X, y), SequenceClassifier(**options).fit(padded(X), y)
    assert one.model_.params.flat.tobytes() == other.model_.params.flat.tobytes()
    assert one.predict_proba(X).tobytes() == other.predict_proba(padded(X)).tobytes()
    alone = np.concatenate([one.predict_proba([x]) for x in X])
    np.testing.assert_allclose(alone, one.predict_proba(X), rtol=1e-6)
    lists = [x[:, 0].tolist() for x in X]
    assert SequenceClassifier(**options).fit(lists, y).score([x[:, 0] for x in X], y) > 0


def test_model_is_the_model():
    """What predict_proba says is what model_ says of the standardised sequence, one at a time."""
    X, y = waves(12, features=3)
    model = SequenceClassifier(cell="GRU", bidirectional=True, num_layers=2, **SMALL).fit(X, y)
    assert isinstance(model.model_, rnnfast.Model)
    np.testing.assert_allclose(model.mean_, np.concatenate(X).mean(axis=0))
    for x, expected in zip(X, model.predict_proba(X), strict=True):
        scaled = ((x - model.mean_) / model.scale_).astype(np.float32)
        np.testing.assert_allclose(model.model_(scaled, last_only=True)[0], expected, rtol=2e-6)


@pytest.mark.parametrize("shape", [(), (2,)], ids=["one", "two"])
def test_a_regressor_learns(shape):
    X, fast = waves(120)
    y = 1000 + 50 * (np.stack([fast, [one[-1, 0] for one in X]], axis=1) if shape else fast)
    model = SequenceRegressor(hidden_size=16, max_iter=100, random_state=0).fit(X[:80], y[:80])
    predicted = model.predict(X[80:])
    assert predicted.shape == (40, *shape)
    assert model.score(X[80:], y[80:]) == pytest.approx(r2_score(y[80:], predicted))
    assert model.score(X[80:], y[80:]) > 0.5


def test_a_target_for_each_step():
    """The running mean, and its sign as a class."""
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((length, 1)) for length in rng.integers(5, 30, 100)]
    y = [np.cumsum(one[:, 0]) for one in X]
    regressor = SequenceRegressor(per_step=True, cell="RNN", max_iter=30, random_state=0).fit(X[:70], y[:70])
    predicted = regressor.predict(X[70:])
    assert [len(one) for one in predicted] == [len(one) for one in X[70:]]
    flat = np.concatenate(y[70:]), np.concatenate(predicted)
    assert 0.8 < r2_score(*flat) == pytest.approx(regressor.score(X[70:], y[70:]))
    signs = [np.where(one > 0, "up", "down") for one in y]
    classifier = SequenceClassifier(per_step=True, max_iter=30, random_state=0).fit(X[:70], signs[:70])
    assert classifier.predict_proba(X[70:])[3].shape == (len(X[73]), 2)
    flat = np.concatenate(signs[70:]), np.concatenate(classifier.predict(X[70:]))
    assert 0.85 < accuracy_score(*flat) == pytest.approx(classifier.score(X[70:], signs[70:]))
    with pytest.raises(ValueError, match=r"y\[1\]: expected \d+ steps, as X\[1\] has"):
        regressor.fit(X[:2], [y[0], y[1][1:]])


def test_a_forecaster_continues_series():
    t = np.arange(400)
    series = np.stack([5 + np.sin(0.3 * t), 100 * np.cos(0.3 * t)], axis=1)
    model = SequenceForecaster(hidden_size=24, horizon=20, window=50, max_iter=150, schedule="cosine", random_state=0)
    model.fit([series[:300]])
    found = model.predict([series[:300], series[:250]])
    assert found.shape == (2, 20, 2)
    for one, start in zip(found, (300, 250), strict=True):
        assert r2_score(series[start : start + 20], one) > 0.9
    assert model.score([series[:320]]) == pytest.approx(r2_score(series[300:320], found[0]), rel=1e-4)
    scalar = clone(model).set_params(max_iter=2).fit([series[:100, 0]])
    assert scalar.predict([series[:50, 0]]).shape == scalar.predict(series[None, :50, 0]).shape == (1, 20)
    assert scalar.predict(series[None, :50, :1]).shape == (1, 20, 1)
    with pytest.raises(ValueError, match=r"X\[0\]: expected more steps than the horizon, 20, got 20"):
        model.score([series[:20]])


def test_early_stopping_keeps_the_best_epoch():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 6, 1)), rng.integers(0, 2, 40)  # nothing to learn but the noise
    options = {"hidden_size": 16, "random_state": 0, "early_stopping": True, "validation_fraction": 0.25, "tol": 0.0}
    model = SequenceClassifier(**options, n_iter_no_change=3).fit(X, y)
    losses = model.validation_loss_curve_
    assert len(losses) == model.n_iter_ < 100
    best = int(np.argmin(losses))
    assert best == model.n_iter_ - 4
    shorter = SequenceClassifier(**options, n_iter_no_change=3, max_iter=best + 1).fit(X, y)
    assert shorter.model_.params.flat.tobytes() == model.model_.params.flat.tobytes()
    assert not hasattr(SequenceClassifier(**SMALL).fit(X, y), "validation_loss_curve_")


def test_the_schedule_decides_the_learning_rate():
    X, y = waves(10)
    seen = []

    def schedule(progress):
        seen.append(progress)
        return float(progress < 0.5)

    options = {**SMALL, "random_state": 0, "weight_decay": 0.1}
    frozen = SequenceClassifier(**{**options, "max_iter": 4}, schedule=schedule).fit(X, y)
    assert seen == [0, 0.25, 0.5, 0.75]
    half = SequenceClassifier(**{**options, "max_iter": 2}).fit(X, y)
    assert frozen.model_.params.flat.tobytes() == half.model_.params.flat.tobytes()
    linear = SequenceClassifier(**{**options, "max_iter": 2}, schedule="linear").fit(X, y)
    by_hand = SequenceClassifier(**{**options, "max_iter": 2}, schedule=lambda progress: 1 - progress).fit(X, y)
    assert linear.model_.params.flat.tobytes() == by_hand.model_.params.flat.tobytes()


def test_weights_of_classes_and_of_sequences():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 5)), np.arange(60) % 6 // 5  # five of class 0 for each of class 1
    options = {**SMALL, "random_state": 0}
    plain = SequenceClassifier(**options).fit(X, y).predict_proba(X)[:, 1].mean()
    balanced = SequenceClassifier(**options, class_weight="balanced").fit(X, y)
    assert plain < 0.25 < 0.4 < balanced.predict_proba(X)[:, 1].mean() < 0.6
    weighted = SequenceClassifier(**options).fit(X, y, sample_weight=np.where(y, 3.0, 0.6))
    np.testing.assert_allclose(weighted.predict_proba(X), balanced.predict_proba(X), rtol=1e-5)
    ignored = SequenceRegressor(**options).fit(X, np.where(y, 1e6, X[:, -1]), sample_weight=1 - y)
    assert abs(ignored.predict(X[y == 0]) * 1.0).max() < 5e5


def test_partial_fit_goes_on():
    X, y = waves(64)
    model = SequenceClassifier(hidden_size=12, random_state=0, batch_size=16)
    for epoch in range(30):
        model.partial_fit(X[:32], y[:32], classes=[0, 1])
        model.partial_fit(X[32:], y[32:])
        if epoch == 15:
            model = pickle.loads(pickle.dumps(model))
    assert model.n_iter_ == 60 and len(model.loss_curve_) == 60
    assert model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]
    assert model.score(X, y) > 0.9
    one, other = (clone(model).partial_fit(X, y, classes=[0, 1]) for _ in range(2))
    copy = pickle.loads(pickle.dumps(one))
    for each in (one, copy):
        each.partial_fit(X, y)
    assert one.model_.params.flat.tobytes() == copy.model_.params.flat.tobytes() != other.model_.params.flat.tobytes()
    with pytest.raises(ValueError, match="classes: expected all labels in the first call"):
        clone(model).partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y: expected labels among the classes, \[0 1\], got 2"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match=r"classes: expected \[0 1\], as in the first call"):
        model.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="class_weight: expected a dict or None"):
        SequenceClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])
    regressor = SequenceRegressor(random_state=0)
    for _ in range(3):
        regressor.partial_fit(X, 1.0 * y)
    with pytest.raises(ValueError, match=r"y: expected targets of shape \(\), got \(2,\)"):
        regressor.partial_fit(X, np.zeros((64, 2)))
    forecaster = SequenceForecaster(random_state=0)
    assert forecaster.partial_fit(X).partial_fit(X).n_iter_ == 2


def test_pipelines_and_searches_take_sequences():
    X, y = waves(24)
    halved = FunctionTransformer(lambda sequences: [one[::2] for one in sequences])
    pipeline = make_pipeline(halved, SequenceClassifier(**SMALL, random_state=0))
    assert cross_val_score(pipeline, X, y, cv=3).shape == (3,)
    search = GridSearchCV(pipeline, {"sequenceclassifier__cell": ["GRU", "LSTM"]}, cv=2).fit(X, y)
    assert search.best_params_["sequenceclassifier__cell"] in ("GRU", "LSTM")
    grid = {"hidden_size": [2, 4], "max_iter": [5]}
    search = GridSearchCV(SequenceRegressor(num_threads=1), grid, cv=2).fit(padded(X), 1.0 * y)
    assert search.best_estimator_.model_.parts["rnn"].hidden_size == search.best_params_["hidden_size"]


def test_any_cell():
    X, y = waves(12)
    for options in (
        {"cell": "MinGRU"},
        {"cell": rnnfast.description.cells.CATALOGUE["lstm_peephole"]},
        {"cell": "LSTM", "layer_options": {"proj_size": 3, "zoneout": 0.1}, "num_layers": 2, "dropout": 0.2},
        {"cell": "RNN", "clip_norm": None, "scale": False, "weight_decay": 0.1},
    ):
        model = clone(SequenceClassifier(**SMALL, random_state=0, **options)).fit(X, y)
        assert np.isfinite(model.loss_curve_).all() and model.loss_curve_[-1] < model.loss_curve_[0]


def test_verbose_shows_a_bar(capfd):
    X, y = waves(8)
    SequenceClassifier(**{**SMALL, "max_iter": 3}, verbose=True).fit(X, y)
    assert "100%" in capfd.readouterr().err


ONE = [np.ones((3, 2)), np.zeros((4, 2))]


@pytest.mark.parametrize(
    ("options", "X", "y", "error", "message"),
    [
        ({}, [], [], ValueError, "Expected 2D array|at least one"),
        ({}, np.empty((0, 3, 1)), [], ValueError, "X: expected at least one sequence, got none"),
        (
            {},
            [ONE[0], np.ones((4, 3))],
            [0, 1],
            ValueError,
            r"X\[1\]: expected 2 features, as all sequences have, got 3",
        ),
        ({}, [ONE[0], np.ones((0, 2))], [0, 1], ValueError, r"X\[1\]: expected \[T, I\] or \[T\], neither of them 0"),
        ({}, [ONE[0], np.ones((4, 2, 2))], [0, 1], ValueError, r"X\[1\]: expected \[T, I\] or \[T\]"),
        ({}, [ONE[0], ONE[1] * np.nan], [0, 1], ValueError, r"X\[1\]: expected finite numbers, got .* at step 0"),
        ({}, [ONE[0], ONE[1] + 1j], [0, 1], TypeError, r"X\[1\]: expected an array of real numbers"),
        ({"scale": False}, [ONE[0], ONE[0] * 1e60], [0, 1], ValueError, r"X\[1\]: expected numbers within the range"),
        ({}, np.full((2, 3, 1), np.nan), [0, 1], ValueError, r"X\[0\]: expected \[T, I\] or \[T\]"),
        ({}, ONE, [0], ValueError, "inconsistent numbers of samples"),
        ({}, ONE, None, ValueError, "requires y to be passed"),
        ({"cell": "LTSM"}, ONE, [0, 1], ValueError, "cell: expected one of .*, got 'LTSM'"),
        ({"hidden_size": 0}, ONE, [0, 1], ValueError, "hidden_size: expected an integer"),
        ({"batch_size": 0}, ONE, [0, 1], ValueError, "batch_size: expected an integer of at least 1"),
        ({"max_iter": 1.5}, ONE, [0, 1], TypeError, "max_iter: expected an integer"),
        ({"schedule": "cos"}, ONE, [0, 1], ValueError, "schedule: expected one of 'constant', 'cosine', 'linear'"),
        ({"learning_rate_init": -1}, ONE, [0, 1], ValueError, "lr: expected a number of at least 0"),
        (
            {"early_stopping": True, "validation_fraction": 2},
            ONE,
            [0, 1],
            ValueError,
            "validation_fraction: expected a",
        ),
        ({"per_step": 1}, ONE, [0, 1], TypeError, "per_step: expected True or False"),
        ({"per_step": True}, ONE, [0, 1], ValueError, r"y\[0\]: expected 3 steps, as X\[0\] has"),
        ({"layer_options": {"peepholes": True}}, ONE, [0, 1], TypeError, "peepholes"),
    ],
)
def test_refused(options, X, y, error, message):
    with pytest.raises(error, match=message):
        SequenceClassifier(**{**SMALL, **options}).fit(X, y)


def test_refused_after_fit():
    X, y = waves(8, features=2)
    model = SequenceClassifier(**SMALL).fit(X, y)
    with pytest.raises(ValueError, match=r"X\[0\]: expected 2 features, as all sequences have, got 1"):
        model.predict([x[:, 0] for x in X])
    table = SequenceClassifier(**SMALL).fit(np.ones((4, 5)), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="X has 4 features, but SequenceClassifier is expecting 5"):
        table.predict(np.ones((4, 4)))
    assert table.predict([np.ones(7)]).shape == (1,)
    with pytest.raises(rnnfast.tbptt.NonFiniteError, match="gradient: expected a finite norm"):
        SequenceRegressor(**SMALL, cell="RNN", layer_options={"nonlinearity": "identity"}, clip_norm=None).set_params(
            learning_rate_init=1e30
        ).fit(X, y)
