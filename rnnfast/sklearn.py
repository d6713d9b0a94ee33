"""Sequence models as scikit-learn estimators: classify, regress and forecast sequences of any lengths.

`X` is one of

- a list of arrays, a sequence each: `[T, I]`, or `[T]` of one feature; lengths may differ;
- a padded array `[N, T, I]`; steps at a sequence's end that are all NaN are padding;
- a table `[N, T]`, as any scikit-learn estimator takes it: each row is a sequence of T numbers.

So lists and padded arrays go through `Pipeline`, `cross_val_score` and `GridSearchCV` without further arguments. Of an
array padded with zeros and known lengths, ``[x[:n] for x, n in zip(X, lengths)]`` makes a list.

An estimator is a `rnnfast.Model` of a recurrent layer and a `Dense` head, `model_` after `fit`, trained by
`rnnfast.training.fit`. Inputs, and targets that are numbers, are standardised by the estimator, since scikit-learn's
scalers take tables alone. The names of the parameters are those of scikit-learn's multilayer perceptrons where these
have them.

Needs scikit-learn 1.6 or newer: ``pip install "rnnfast[sklearn]"``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from . import _checks, data, layers, losses, optim, training
from ._checks import Array
from ._words import Activation
from .description import Cell
from .description.cells import LAYERS
from .heads import Dense
from .model import Model

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.utils import assert_all_finite, check_array, check_random_state, column_or_1d, compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f'rnnfast.sklearn needs scikit-learn 1.6 or newer ({error}): pip install "rnnfast[sklearn]"'
    ) from error

__all__ = ["SequenceClassifier", "SequenceForecaster", "SequenceRegressor"]

_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 + 0.5 * math.cos(math.pi * progress),
    "linear": lambda progress: 1.0 - progress,
}

_PARAMETERS = """
Parameters
----------
cell : str or Cell, optional
    The recurrent layer: "LSTM", "GRU", "RNN" or another layer's name, or a description; see `rnnfast.Recurrent`.
hidden_size, num_layers : int, optional
    Of the recurrent layer.
dropout : float, optional
    The probability of dropping an output between two layers, while training.
layer_options : dict, optional
    Further arguments of the layer, such as ``{"peephole": True}``.
scale : bool, optional
    Whether to standardise each feature over all steps of the sequences given to `fit`, and targets that are numbers.
batch_size : int, optional
    Sequences of one update. Those of like lengths go together.
learning_rate_init : float, optional
    Of AdamW, at the first epoch.
schedule : {"constant", "cosine", "linear"} or callable, optional
    What the learning rate is multiplied by: "cosine" and "linear" fall from 1 to 0 over `max_iter` epochs; a callable
    is given the progress, from 0 at the first epoch towards 1, and returns a factor. `partial_fit` has none.
weight_decay : float, optional
    Of AdamW.
clip_norm : float or None, optional
    The largest norm of a gradient.
max_iter : int, optional
    Epochs.
early_stopping : bool, optional
    Whether to hold a part of the sequences out, stop when the loss on it stays, and keep the best epoch's weights.
validation_fraction : float, optional
    How much is held out, in 0..1 without both ends.
n_iter_no_change, tol : int and float, optional
    Early stopping: after so many epochs in a row whose loss is not below the best by more than `tol`.
verbose : bool, optional
    Whether to show a progress bar, which needs tqdm.
random_state : int, RandomState or None, optional
    Of the initial weights, dropout, batches and the part held out.
num_threads : int, optional
    The most threads of one call; `rnnfast.get_num_threads()` by default. With a grid search in parallel, use 1.
"""
_SUPERVISED = """bidirectional : bool, optional
    Whether the layer also reads the sequence from its end.
per_step : bool, optional
    Whether each step has a target, and not each sequence. Then `y`, and what `predict` returns, is a list with an array
    [T, ...] for each sequence.
"""
_OWN = {
    "SequenceClassifier": """class_weight : dict, "balanced" or None, optional
    Weights of the classes, as in all of scikit-learn.
""",
    "SequenceRegressor": "",
    "SequenceForecaster": """horizon : int, optional
    How many steps to forecast.
window : int or None, optional
    Training cuts longer series into pieces of so many steps; None keeps them whole.
""",
}
_ATTRIBUTES = """
Attributes
----------
model_ : Model
    ``rnn`` and ``head``. It works on standardised sequences, [T, B, I].
loss_curve_, validation_loss_curve_ : list of float
    The mean loss of each epoch; the latter with early stopping.
n_iter_ : int
    Epochs done.
mean_, scale_ : ndarray of float64, shape [I]
    By which inputs are standardised.
n_features_in_ : int
    The columns, if `X` was a table.
"""


def _parameters(cls: type) -> str:
    """The sections of an estimator's docstring that are not written in it."""
    shared = _SUPERVISED if issubclass(cls, _Supervised) else ""
    return textwrap.indent(_PARAMETERS + shared + _OWN[cls.__name__] + _ATTRIBUTES, "    ").strip()


class _Data(NamedTuple):
    """Sequences with their targets and weights."""

    x: list[Array]  # each [T, I], float32, standardised
    y: Array | list[Array]  # [N, ...], or per step a list of arrays [T, ...]
    weight: Array | list[Array]  # as y, without further axes

    def of(self, rows: Any) -> _Data:
        """Some of the sequences."""
        return _Data([self.x[n] for n in rows], _rows(self.y, rows), _rows(self.weight, rows))


def _rows(sequence: Array | list[Array], rows: Any) -> Any:
    return sequence[rows] if isinstance(sequence, np.ndarray) else [sequence[n] for n in rows]


def _lengths(x: list[Array]) -> Array:
    return np.array([len(one) for one in x], np.int64)


def _axes(X: Any) -> int | None:
    """The axes of a table or a padded array; None if X is sequences one by one."""
    if (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1) or isinstance(X, list | tuple):
        if len(X) and all(getattr(one, "ndim", 0) for one in X):
            return None
        try:
            return np.asarray(X).ndim
        except ValueError:  # lists of several lengths
            return None
    return int(X.ndim) if hasattr(X, "ndim") else np.asarray(X).ndim


def _unpadded(X: Array) -> list[Array]:
    """The sequences of a padded array, without the steps at their ends that are all NaN."""
    real = ~np.isnan(X).all(axis=2) if X.dtype.kind == "f" else np.ones(X.shape[:2], bool)
    lengths = np.where(real, np.arange(1, X.shape[1] + 1), 0).max(axis=1, initial=0)
    return [one[:length] for one, length in zip(X, lengths, strict=True)]


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn reads the parameters off the signature of __init__
class _SequenceEstimator(BaseEstimator):
    """What the three share: sequences in, the loop of training, batches of predictions."""

    cell: str | Cell = "LSTM"
    hidden_size: int = 32
    num_layers: int = 1
    dropout: float = 0.0
    layer_options: dict[str, Any] | None = None
    scale: bool = True
    batch_size: int = 32
    learning_rate_init: float = 0.01
    schedule: str | Callable[[float], float] = "constant"
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    max_iter: int = 100
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    tol: float = 1e-4
    verbose: bool = False
    random_state: Any = None
    num_threads: int | None = None

    _least_steps: ClassVar[int] = 1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # What goes in ----------------------------------------------------------------------------------------------------

    def _sequences(self, X: Any, *, reset: bool) -> list[Array]:
        """Checked sequences, each [T, I] of float64; `reset`: those of a first fit."""
        axes = _axes(X)
        is_table = axes not in (None, 3)
        if reset and not is_table:
            for name in ("n_features_in_", "feature_names_in_"):
                self.__dict__.pop(name, None)
        if is_table:
            known = reset or hasattr(self, "n_features_in_")
            options = {"dtype": np.float64, "ensure_min_features": self._least_steps if reset else 1}
            table = validate_data(self, X, reset=reset, **options) if known else check_array(X, **options)
            found = list(table[:, :, None])
        else:
            arrays = list(X) if axes is None else _unpadded(_checks.numbers("X", X))
            found = [self._sequence(f"X[{n}]", one) for n, one in enumerate(arrays)]
        if not found:
            raise ValueError("X: expected at least one sequence, got none")
        features = found[0].shape[1] if reset else self.model_.input_size
        for n, one in enumerate(found):
            if one.shape[1] != features:
                raise ValueError(f"X[{n}]: expected {features} features, as all sequences have, got {one.shape[1]}")
        return found

    @staticmethod
    def _sequence(name: str, value: Any) -> Array:
        array = _checks.numbers(name, value)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"{name}: expected [T, I] or [T], neither of them 0, got {_checks.describe(array)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity at step {_first_odd(array)}")
        return np.asarray(array, np.float64)

    def _standardised(self, sequences: list[Array]) -> list[Array]:
        with np.errstate(over="ignore"):
            found = [((one - self.mean_) / self.scale_).astype(np.float32) for one in sequences]
        for n, one in enumerate(found):
            if not np.isfinite(one).all():
                raise ValueError(f"X[{n}]: expected numbers within the range of float32, got larger ones")
        return found

    @property
    def _per_step(self) -> bool:
        """Whether each step has a target."""
        return not isinstance(self, _Supervised) or _checks.truth("per_step", self.per_step)

    def _by_sequence(self, name: str, values: Any, x: list[Array]) -> list[Array]:
        """A list of arrays, one for each sequence and as long as that."""
        if not isinstance(values, list | tuple | np.ndarray):
            raise TypeError(f"{name}: expected an array [T, ...] for each sequence, got {_checks.describe(values)}")
        check_consistent_length(x, values)
        arrays = [np.asarray(one) for one in values]
        for n, (one, sequence) in enumerate(zip(arrays, x, strict=True)):
            if one.ndim == 0 or len(one) < len(sequence) or (isinstance(values, list) and len(one) != len(sequence)):
                raise ValueError(f"{name}[{n}]: expected {len(sequence)} steps, as X[{n}] has, got {list(one.shape)}")
        return [one[: len(sequence)] for one, sequence in zip(arrays, x, strict=True)]

    # Training --------------------------------------------------------------------------------------------------------

    def _build(self, sequences: list[Array], outputs: int) -> None:
        """A new model for these sequences, and all that training carries from epoch to epoch."""
        steps = np.concatenate(sequences)
        scaled = _checks.truth("scale", self.scale)
        self.mean_ = steps.mean(axis=0) if scaled else np.zeros(steps.shape[1])
        self.scale_ = _spread(steps) if scaled else np.ones(steps.shape[1])
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=3)
        options: dict[str, Any] = {"dropout": self.dropout, "rng": int(seeds[0]), **(self.layer_options or {})}
        if isinstance(self, _Supervised):
            options["bidirectional"] = self.bidirectional
        sizes = steps.shape[1], self.hidden_size, self.num_layers
        rnn: layers.Recurrent
        if isinstance(self.cell, Cell):
            rnn = layers.Recurrent(self.cell, *sizes, **options)
        else:
            rnn = getattr(layers, _checks.choice("cell", self.cell, LAYERS))(*sizes, **options)
        head = Dense(rnn._recurrence.layout.features, outputs, activation=self._activation(), rng=int(seeds[1]))
        model = Model(rnn=rnn, head=head)
        rate, decay = self.learning_rate_init, self.weight_decay
        self._optimizer = optim.AdamW(model.params, rate, weight_decay=decay)
        self._rng = np.random.default_rng(seeds[2])
        self.model_ = model
        self.loss_curve_: list[float] = []
        self.n_iter_ = 0

    def _activation(self) -> Activation:
        return "identity"

    _loss: ClassVar[Any] = staticmethod(losses.mean_squared_error)

    def _batches(self, given: _Data, rng: np.random.Generator | None = None) -> data.Batches:
        options: dict[str, Any] = {"batch_size": self.batch_size, "last_only": not self._per_step, "rng": rng}
        return data.Batches(given.x, given.y, weights=given.weight, **options)

    def _train(self, given: _Data, epochs: int, **options: Any) -> training.History:
        """Epochs over these sequences, with the parameters that all training has."""
        batches = self._batches(given, self._rng)
        options |= {"clip_norm": self.clip_norm, "progress": bool(self.verbose), "num_threads": self.num_threads}
        history = training.fit(self.model_, self._loss, self._optimizer, batches, epochs=epochs, logits=True, **options)
        self.loss_curve_ += history.loss.tolist()
        self.n_iter_ += len(history)
        return history

    def _epoch(self, given: _Data) -> Self:
        """One epoch of `partial_fit`."""
        self._optimizer.lr = self.learning_rate_init
        self._train(given, 1)
        return self

    def _fit(self, given: _Data, strata: Array | None = None) -> Self:
        """All epochs."""
        epochs = _checks.integer("max_iter", self.max_iter)
        options: dict[str, Any] = {}
        self.__dict__.pop("validation_loss_curve_", None)
        if _checks.truth("early_stopping", self.early_stopping):
            kept, out = train_test_split(
                np.arange(len(given.x)),
                test_size=self._held_out_part(),
                random_state=int(self._rng.integers(2**31)),
                stratify=strata,
            )
            given, held_out = given.of(kept), given.of(out)
            patience = _checks.integer("n_iter_no_change", self.n_iter_no_change)
            options = {"validation": self._batches(held_out), "patience": patience, "min_delta": self.tol}
        updates = -(-len(given.x) // _checks.integer("batch_size", self.batch_size))
        options["schedule"] = lambda step: self.learning_rate_init * self._factor(step // updates / epochs)
        history = self._train(given, epochs, **options)
        if self.early_stopping:
            self.validation_loss_curve_: list[float] = history.validation_loss.tolist()
        return self

    def _held_out_part(self) -> float:
        part = _checks.number("validation_fraction", self.validation_fraction)
        if not 0 < part < 1:
            raise ValueError(f"validation_fraction: expected a number above 0 and below 1, got {part}")
        return part

    def _factor(self, progress: float) -> float:
        schedule = self.schedule
        if not callable(schedule):
            schedule = _SCHEDULES[_checks.choice("schedule", schedule, _SCHEDULES)]
        return _checks.number("schedule", schedule(progress))

    # What comes out --------------------------------------------------------------------------------------------------

    @property
    def _rows_at_once(self) -> int:
        return max(_checks.integer("batch_size", self.batch_size), 64)

    def _outputs(self, X: Any) -> tuple[list[Array], Array]:
        """The sequences, and the model's outputs, one after the other: [N, O], or [sum of T, O] per step."""
        check_is_fitted(self)
        x = self._standardised(self._sequences(X, reset=False))
        batches = data.Batches(x, batch_size=self._rows_at_once, last_only=not self._per_step)
        found = training.predict(self.model_, batches, num_threads=self.num_threads)
        joined = np.concatenate(found) if self._per_step else np.stack(found)
        return x, joined.astype(np.float64)


def _first_odd(array: Array) -> int:
    """The first step with a number that is not finite."""
    return int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])


def _spread(values: Array) -> Array:
    """Standard deviations by column; 1 where all values are the same."""
    found = values.std(axis=0)
    return np.where(found > 10 * np.finfo(np.float64).eps * np.abs(values).max(axis=0), found, 1.0)


@dataclass(kw_only=True, eq=False, repr=False)
class _Supervised(_SequenceEstimator):
    """With targets: one for each sequence, or for each step."""

    bidirectional: bool = False
    per_step: bool = False

    def _weights(self, sample_weight: Any, x: list[Array]) -> Array:
        """A weight for each target."""
        weights = np.asarray(_check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True))
        return np.repeat(weights, _lengths(x)) if self._per_step else weights

    def _targets(self, y: Any, x: list[Array]) -> Any:
        """The targets one after the other, if there is one for each step; else y as it is."""
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None")
        check_consistent_length(x, y)
        return np.concatenate(self._by_sequence("y", y, x)) if self._per_step else y

    def _data(self, x: list[Array], targets: Array, weights: Array) -> _Data:
        """The sequences with their targets and weights."""
        if not self._per_step:
            return _Data(x, targets, weights)
        return _Data(x, _split(targets, x), _split(weights, x))

    def _shaped(self, x: list[Array], values: Array) -> Any:
        """What a method returns: an array, or per step a list of arrays."""
        return _split(values, x) if self._per_step else values

    def predict(self, X: Any) -> Any:
        """The targets that the model expects.

        Parameters
        ----------
        X : list of array_like, or array_like
            Sequences; see the module.

        Returns
        -------
        ndarray, or list of ndarray with `per_step`
            As `y` in `fit`.
        """
        return self._shaped(*self._expected(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy of a classifier, the coefficient of determination of a regressor.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. With `per_step`, of all steps together.

        Returns
        -------
        float
        """
        x, predicted = self._expected(X)
        weights = None if sample_weight is None else self._weights(sample_weight, x)
        return float(self._metric(self._targets(y, x), predicted, sample_weight=weights))


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceClassifier(ClassifierMixin, _Supervised):
    """Puts sequences, or their steps, into classes.

    {parameters}

    Examples
    --------
    >>> X = [np.sin(rate * np.arange(length)) for rate, length in [(0.1, 40), (0.5, 30), (0.11, 50), (0.48, 35)]]
    >>> model = SequenceClassifier(hidden_size=8, max_iter=30, random_state=0).fit(X, ["slow", "fast", "slow", "fast"])
    >>> model.predict(X).tolist()
    ['slow', 'fast', 'slow', 'fast']
    """

    class_weight: Any = None

    score = _Supervised.score

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from labelled sequences.

        Parameters
        ----------
        X : list of array_like, or array_like
            Sequences; see the module.
        y : array_like, shape [N]
            Labels: numbers, strings, ... With `per_step` a list of arrays [T].
        sample_weight : array_like, shape [N], optional
            How much each sequence counts.

        Returns
        -------
        SequenceClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            Sequences, labels or parameters are not what they should be. `NonFiniteError`, also a ValueError, if a
            gradient is not finite.
        """
        sequences = self._sequences(X, reset=True)
        labels = self._labels(y, sequences)
        classes, ids = np.unique(labels, return_inverse=True)
        weights = self._weights(sample_weight, sequences) * compute_sample_weight(self.class_weight, labels)
        self._build(sequences, len(classes))
        self.classes_ = classes
        given = self._data(self._standardised(sequences), ids, weights)
        return self._fit(given, strata=None if self._per_step else ids)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Go on learning: one epoch over these sequences.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : array_like, optional
            All labels that there will be; needed in the first call.

        Returns
        -------
        SequenceClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            As by `fit`; or `classes` is missing in the first call, or `y` has labels beyond them, or `class_weight` is
            "balanced", which needs all labels at once.
        """
        if isinstance(self.class_weight, str):
            raise ValueError("class_weight: expected a dict or None for partial_fit, got 'balanced'; it takes weights")
        first = not hasattr(self, "model_")
        sequences = self._sequences(X, reset=first)
        labels = self._labels(y, sequences)
        known = np.unique(classes) if classes is not None else None if first else self.classes_
        if known is None:
            raise ValueError("classes: expected all labels in the first call of partial_fit, got None")
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes: expected {self.classes_}, as in the first call, got {known}")
        if unknown := sorted(set(labels.tolist()) - set(known.tolist())):
            raise ValueError(f"y: expected labels among the classes, {known}, got {unknown[0]!r}")
        weights = self._weights(sample_weight, sequences) * compute_sample_weight(self.class_weight, labels)
        if first:
            self._build(sequences, len(known))
            self.classes_ = known
        return self._epoch(self._data(self._standardised(sequences), np.searchsorted(known, labels), weights))

    def predict_proba(self, X: Any) -> Any:
        """The probabilities of the classes.

        Parameters
        ----------
        X : list of array_like, or array_like
            Sequences; see the module.

        Returns
        -------
        ndarray of float64, shape [N, C], or list of ndarray [T, C] with `per_step`
            In the order of `classes_`.
        """
        x, found = self._outputs(X)
        return self._shaped(x, found / found.sum(axis=1, keepdims=True))

    def _expected(self, X: Any) -> tuple[list[Array], Array]:
        x, found = self._outputs(X)
        return x, self.classes_[found.argmax(axis=1)]

    _metric = staticmethod(accuracy_score)

    def _labels(self, y: Any, x: list[Array]) -> Array:
        labels = column_or_1d(self._targets(y, x), warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        return np.asarray(labels)

    def _activation(self) -> Activation:
        return "softmax"

    _loss = staticmethod(losses.softmax_cross_entropy)


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceRegressor(RegressorMixin, _Supervised):
    """Predicts numbers from sequences, one or more for each sequence or for each step.

    {parameters}

    Examples
    --------
    >>> X = [np.random.default_rng(n).random(10 + n) for n in range(40)]
    >>> model = SequenceRegressor(hidden_size=8, random_state=0).fit(X, [x.max() - x.min() for x in X])
    >>> model.predict(X).shape
    (40,)
    """

    score = _Supervised.score

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from sequences and their numbers.

        Parameters
        ----------
        X : list of array_like, or array_like
            Sequences; see the module.
        y : array_like, shape [N] or [N, O]
            The targets. With `per_step` a list of arrays [T] or [T, O].
        sample_weight : array_like, shape [N], optional
            How much each sequence counts.

        Returns
        -------
        SequenceRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            Sequences, targets or parameters are not what they should be. `NonFiniteError`, also a ValueError, if a
            gradient is not finite.
        """
        sequences = self._sequences(X, reset=True)
        targets = self._numbers(y, sequences)
        weights = self._weights(sample_weight, sequences)
        self._begin(sequences, targets)
        return self._fit(self._data(self._standardised(sequences), self._scaled(targets), weights))

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go on learning: one epoch over these sequences.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. Means and standard deviations stay those of the first call.

        Returns
        -------
        SequenceRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            As by `fit`.
        """
        first = not hasattr(self, "model_")
        sequences = self._sequences(X, reset=first)
        targets = self._numbers(y, sequences)
        weights = self._weights(sample_weight, sequences)
        if first:
            self._begin(sequences, targets)
        elif targets.shape[1:] != self._target_shape:
            raise ValueError(f"y: expected targets of shape {self._target_shape}, got {targets.shape[1:]}")
        return self._epoch(self._data(self._standardised(sequences), self._scaled(targets), weights))

    def _begin(self, sequences: list[Array], targets: Array) -> None:
        columns = targets.reshape(len(targets), -1)
        self._build(sequences, columns.shape[1])
        self._target_shape = targets.shape[1:]
        self.y_mean_ = columns.mean(axis=0) if self.scale else np.zeros(columns.shape[1])
        self.y_scale_ = _spread(columns) if self.scale else np.ones(columns.shape[1])

    def _scaled(self, targets: Array) -> Array:
        return ((targets.reshape(len(targets), -1) - self.y_mean_) / self.y_scale_).astype(np.float32)

    def _expected(self, X: Any) -> tuple[list[Array], Array]:
        x, found = self._outputs(X)
        return x, (found * self.y_scale_ + self.y_mean_).reshape(-1, *self._target_shape)

    _metric = staticmethod(r2_score)

    def _numbers(self, y: Any, x: list[Array]) -> Array:
        targets = self._targets(y, x)
        return np.asarray(check_array(targets, ensure_2d=False, dtype=np.float64, input_name="y"))


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceForecaster(_SequenceEstimator):
    """Learns what comes next in sequences, and continues them.

    Training predicts each step from those before it. A forecast of several steps feeds the model its own predictions.

    {parameters}

    Examples
    --------
    >>> series = np.sin(0.3 * np.arange(200))
    >>> model = SequenceForecaster(hidden_size=16, horizon=5, random_state=0).fit([series[:150]])
    >>> model.predict([series[:150]]).shape  # of series[150:155]
    (1, 5)
    """

    _least_steps: ClassVar[int] = 2

    horizon: int = 1
    window: int | None = 100

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from series.

        Parameters
        ----------
        X : list of array_like, or array_like
            Series of at least 2 steps; see the module.
        y : None
            Ignored: series are their own targets.

        Returns
        -------
        SequenceForecaster
            Itself.

        Raises
        ------
        TypeError, ValueError
            Sequences or parameters are not what they should be. `NonFiniteError`, also a ValueError, if a gradient is
            not finite.
        """
        sequences = self._sequences(X, reset=True)
        pieces = self._pieces(sequences)
        self._build(sequences, sequences[0].shape[1])
        return self._fit(self._next_steps(pieces))

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Go on learning: one epoch over these series.

        Parameters
        ----------
        X, y
            As in `fit`. Means and standard deviations stay those of the first call.

        Returns
        -------
        SequenceForecaster
            Itself.

        Raises
        ------
        TypeError, ValueError
            As by `fit`.
        """
        first = not hasattr(self, "model_")
        sequences = self._sequences(X, reset=first)
        pieces = self._pieces(sequences)
        if first:
            self._build(sequences, sequences[0].shape[1])
        return self._epoch(self._next_steps(pieces))

    def predict(self, X: Any) -> Array:
        """The steps after the last.

        Parameters
        ----------
        X : list of array_like, or array_like
            The series so far; see the module.

        Returns
        -------
        ndarray, shape [N, horizon, I], or [N, horizon] if the series are rows of a table or arrays [T]
        """
        check_is_fitted(self)
        found = self._forecast(self._sequences(X, reset=False))
        bare = np.ndim(X[0]) == 1 if _axes(X) is None else _axes(X) == 2
        return found[:, :, 0] if bare else found

    def score(self, X: Any, y: Any = None) -> float:
        """The coefficient of determination of forecasts of each series' last `horizon` steps from those before them.

        Parameters
        ----------
        X : list of array_like, or array_like
            Series of more than `horizon` steps; see the module.
        y : None
            Ignored.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        sequences, horizon = self._sequences(X, reset=False), self._horizon
        for n, one in enumerate(sequences):
            if len(one) <= horizon:
                raise ValueError(f"X[{n}]: expected more steps than the horizon, {horizon}, got {len(one)}")
        found = self._forecast([one[:-horizon] for one in sequences])
        actual = np.stack([one[-horizon:] for one in sequences])
        return float(r2_score(*(one.reshape(-1, one.shape[2]) for one in (actual, found))))

    @property
    def _horizon(self) -> int:
        return _checks.integer("horizon", self.horizon)

    def _forecast(self, sequences: list[Array]) -> Array:
        """[N, horizon, I]."""
        x, result = self._standardised(sequences), np.empty((len(sequences), self._horizon, self.model_.input_size))
        for rows in data.bucketed(_lengths(x), self._rows_at_once):
            some, lengths = data.pad([x[n] for n in rows])
            y, state = self.model_(some, lengths=lengths, last_only=True, num_threads=self.num_threads)
            for step in range(self._horizon):
                if step:
                    y, state = self.model_(y[None], state, last_only=True, num_threads=self.num_threads)
                result[rows, step] = y
        return result * self.scale_ + self.mean_

    def _pieces(self, sequences: list[Array]) -> list[Array]:
        """The series cut into windows, each of which begins with the step that the one before ends with."""
        for n, one in enumerate(sequences):
            if len(one) < 2:
                raise ValueError(f"X[{n}]: expected at least 2 steps, the second to learn from the first, got 1")
        if self.window is None:
            return sequences
        size = _checks.integer("window", self.window)
        return [one[t : t + size + 1] for one in sequences for t in range(0, len(one) - 1, size)]

    def _next_steps(self, pieces: list[Array]) -> _Data:
        x = self._standardised(pieces)
        return _Data([one[:-1] for one in x], [one[1:] for one in x], [np.ones(len(one) - 1) for one in x])


def _split(values: Array, x: list[Array]) -> list[Array]:
    """Values of all steps, sorted to their sequences."""
    return np.split(values, np.cumsum(_lengths(x))[:-1])


for _class in (SequenceClassifier, SequenceRegressor, SequenceForecaster):
    _class.__doc__ = (_class.__doc__ or "").replace("{parameters}", _parameters(_class))
