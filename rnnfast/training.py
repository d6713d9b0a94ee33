"""Training over epochs: `fit`, and what it is made of.

`fit` holds nothing that its caller does not: it is a loop over public pieces. Written out, for one batch per update:

>>> import math
>>> import numpy as np
>>> import rnnfast
>>> from rnnfast import data, losses, optim, schedules, training
>>> rng = np.random.default_rng(0)
>>> x = [rng.normal(size=(length, 3)) for length in rng.integers(5, 20, 40)]
>>> labels = [int(sequence[:, 0].sum() > 0) for sequence in x]
>>> model = rnnfast.Model(rnn=rnnfast.GRU(3, 16, rng=0), head=rnnfast.Dense(16, 2, rng=1))
>>> train = data.Batches(x[:30], labels[:30], batch_size=10, last_only=True, rng=0)
>>> held_out = data.Batches(x[30:], labels[30:], last_only=True)
>>> optimizer, schedule = optim.Adam(model.params), schedules.Linear(1e-2, steps=60)

>>> gradients, tape = model.params.zeros(), None
>>> best, best_loss = None, math.inf
>>> for epoch in range(20):
...     for batch in train:
...         optimizer.lr = schedule(optimizer.steps)
...         y, _, tape = model.forward(batch.x, **batch.inputs, tape=tape)
...         loss, dy = losses.softmax_cross_entropy(y, batch.target, mask=batch.weights)
...         gradients.zero()
...         _ = model.backward(tape, dy, into=gradients, input_gradient=False)
...         norm = optim.clip_grad_norm(gradients, 1.0)
...         if math.isfinite(norm):
...             optimizer.step(gradients)
...     loss = training.evaluate(model, losses.softmax_cross_entropy, held_out)["loss"]
...     if loss < best_loss:
...         best, best_loss = model.params.flat.copy(), loss
>>> model.params.assign(best)

is to the last bit

>>> other = rnnfast.Model(rnn=rnnfast.GRU(3, 16, rng=0), head=rnnfast.Dense(16, 2, rng=1))
>>> train = data.Batches(x[:30], labels[:30], batch_size=10, last_only=True, rng=0)
>>> history = training.fit(
...     other, losses.softmax_cross_entropy, optim.Adam(other.params), train, epochs=20, validation=held_out,
...     schedule=schedule, clip_norm=1.0, nonfinite="skip",
... )
>>> np.array_equal(other.params.flat, model.params.flat)
True

`TBPTT` is for one long stream, or for sequences that are too long for one pass.

Rejected: a trainer object (what it would hold, the caller has); fractions of the data held out by `fit` (of windows of
one series, which overlap, they would be no test: who has the data can split it).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks
from ._checks import Array
from ._device import holder
from ._words import NonFinite
from .data import Batch, Batches
from .optim import clip_grad_norm, drop_frozen
from .parameters import Gradients
from .parts import Pool
from .tape import Tape
from .tbptt import Loss, NonFiniteError, differentiated

__all__ = ["Epoch", "History", "accuracy", "evaluate", "fit", "predict"]

Metrics = Mapping[str, Callable[..., float]]


class Epoch(NamedTuple):
    """What one epoch was; what callbacks are given.

    Attributes
    ----------
    number : int
        From 0.
    loss : float
        The mean over the targets of all updates, each with the parameters it had.
    validation_loss : float
        With the parameters after the epoch; NaN without validation.
    metrics : dict of str to float
        Of the validation.
    lr : float
        Of the last step.
    grad_norm : float
        The mean of the norms before clipping.
    updates, skipped : int
        Steps made, and steps left out because the gradient was not finite.
    seconds : float
    """

    number: int
    loss: float
    validation_loss: float
    metrics: dict[str, float]
    lr: float
    grad_norm: float
    updates: int
    skipped: int
    seconds: float


@dataclass(frozen=True, eq=False)
class History:
    """What `fit` returns: the epochs, as arrays [epochs].

    Attributes
    ----------
    epochs : list of Epoch
    best_epoch : int
        The one of the lowest validation loss (without validation, loss); -1 if there was none.
    stopped : str
        Why it ended: "epochs", "patience" or "callback".
    restored : bool
        Whether the model has the parameters of the best epoch, and not of the last.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    stopped: str = "epochs"
    restored: bool = False

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column by its name: an attribute of `Epoch`, or a metric."""
        if name in ("loss", "validation_loss", "lr", "grad_norm", "updates", "skipped", "seconds"):
            return np.array([getattr(epoch, name) for epoch in self.epochs])
        if self.epochs and name in self.epochs[0].metrics:
            return np.array([epoch.metrics[name] for epoch in self.epochs])
        known = [*Epoch._fields, *(self.epochs[0].metrics if self.epochs else ())]
        raise KeyError(f"{name!r}; there are {', '.join(one for one in known if one not in ('number', 'metrics'))}")

    @property
    def loss(self) -> NDArray[np.float64]:
        """The training loss of each epoch."""
        return self["loss"]

    @property
    def validation_loss(self) -> NDArray[np.float64]:
        """The validation loss after each epoch."""
        return self["validation_loss"]


def fit(
    model: Any,
    loss: Loss,
    optimizer: Any,
    batches: Iterable[Batch],
    *,
    epochs: int = 10,
    validation: Iterable[Batch] | None = None,
    schedule: Callable[[int], float] | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    nonfinite: NonFinite = "raise",
    patience: int | None = None,
    min_delta: float = 0.0,
    restore_best: bool = True,
    metrics: Metrics | None = None,
    callbacks: Iterable[Callable[[Epoch], Any]] = (),
    checkpoint: str | PathLike[str] | None = None,
    extra: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    logits: bool = False,
    num_threads: int | None = None,
) -> History:
    """Train a model over epochs; see the module for the loop written out.

    Parameters
    ----------
    model : Model or layer
    loss : callable
        ``loss(prediction, target) -> (loss, dprediction)``, a mean, and ``mask=`` besides where a batch has weights:
        one of `rnnfast.losses`, or your own.
    optimizer : Optimizer
        On ``model.params``.
    batches : Batches
        Or anything that can be gone through again and again and gives a `Batch` each time.
    epochs : int, optional
        The most epochs.
    validation : Batches, optional
        Evaluated after each epoch.
    schedule : callable, optional
        The learning rate by ``optimizer.steps``; see `rnnfast.schedules`. If it has a method `observe`, that is given
        the validation loss (without validation, the loss) after each epoch. By default ``optimizer.lr`` stays.
    clip_norm : float, optional
        The bound for the gradient's norm. Frozen parameters don't count.
    accumulate : int, optional
        Batches per update. Each counts by its number of targets (or their weights), so that the gradient is that of one
        batch of all their sequences; it takes the memory of one.
    nonfinite : {"raise", "skip", "apply"}, optional
        What becomes of a gradient with a NaN or an infinity in it: `NonFiniteError`, with all as it was before the
        update; no update, and on with the next batch; or the update all the same.
    patience : int, optional
        Stop after so many epochs in a row without a new best validation loss (without validation, loss).
    min_delta : float, optional
        By how much a loss must be lower than the best to be a new best.
    restore_best : bool, optional
        Whether the model has the parameters of the best epoch at the end. Matters with `validation` only.
    metrics : mapping from str to callable, optional
        ``metric(prediction, target) -> float``, and ``mask=`` besides where a batch has weights, such as `accuracy`;
        for the validation.
    callbacks : iterable of callable, optional
        Called with the `Epoch` after each one. Training stops if one returns True.
    checkpoint : path-like, optional
        The file to which every new best is saved, with the optimiser's state; see `rnnfast.checkpoint.save`.
    extra : mapping, optional
        What to save with it, such as the inputs' `Standardizer`. "epoch" and "best_loss" are added.
    progress : bool, optional
        Whether to show a bar; needs `tqdm`. By default where standard error is a terminal and it is installed.
    logits : bool, optional
        Whether the model's head skips its activation, for a loss that takes logits.
    num_threads : int, optional
        As for the layers.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, or two do not go together.
    NonFiniteError
        A gradient is not finite, and `nonfinite` is "raise".

    Notes
    -----
    A batch without any target that counts makes no update. A second call goes on where the first stopped: the steps
    that a schedule counts are the optimiser's.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnfast
    >>> from rnnfast import data, losses, optim
    >>> x, y = data.windows(np.sin(np.arange(300) / 5), 20)
    >>> model = rnnfast.Model(rnn=rnnfast.LSTM(1, 8, rng=0), head=rnnfast.Dense(8, 1, rng=0))
    >>> batches = data.Batches(x, y[0], last_only=True, rng=0)
    >>> history = rnnfast.fit(
    ...     model, losses.mean_squared_error, optim.Adam(model.params, 1e-2), batches, epochs=5
    ... )
    >>> bool(history.loss[-1] < history.loss[0] / 10)
    True
    """
    run = _Run(model, loss, optimizer, clip_norm, nonfinite, schedule, logits, num_threads)
    count, together = _checks.integer("epochs", epochs, 0), _checks.integer("accumulate", accumulate, maximum=2**31)
    waits = None if patience is None else _checks.integer("patience", patience)
    delta, restores = _checks.limit("min_delta", min_delta), _checks.truth("restore_best", restore_best)
    called = _callables("callbacks", dict(enumerate(callbacks)))
    measured = _callables("metrics", metrics or {})
    for name, given in (("batches", batches), ("validation", validation)):
        _check_batches(name, given, model) if given is not None or name == "batches" else None
    bar = _bar(progress, count, batches)

    rows: list[Epoch] = []
    best, best_loss, best_epoch, stopped = None, math.inf, -1, "epochs"
    with bar:
        for number in range(count):
            epoch = run.epoch(number, batches, together, bar)
            watched = epoch.loss
            if validation is not None:
                found = evaluate(model, loss, validation, metrics=measured, logits=logits, num_threads=num_threads)
                watched = found.pop("loss")
                epoch = epoch._replace(validation_loss=watched, metrics=found)
            rows.append(epoch)
            bar.set_postfix({"loss": f"{epoch.loss:.4g}", "validation": f"{epoch.validation_loss:.4g}"})
            getattr(schedule, "observe", _ignore)(watched)
            if watched < best_loss - (delta if math.isfinite(best_loss) else 0.0):
                best_loss, best_epoch = watched, number
                best = model.params.flat.copy() if restores and validation is not None else None
                if checkpoint is not None:
                    _save(checkpoint, model, optimizer, {**(extra or {}), "epoch": number, "best_loss": watched})
            if any([callback(epoch) is True for callback in called.values()]):
                stopped = "callback"
                break
            if waits is not None and number - best_epoch >= waits:
                stopped = "patience"
                break
    restored = best is not None and best_epoch < len(rows) - 1
    if restored:
        model.params.assign(best)
    return History(rows, best_epoch, stopped, restored)


class _Run:
    """The updates of one call of `fit`, and the memory that they share."""

    def __init__(
        self,
        model: Any,
        loss: Loss,
        optimizer: Any,
        clip_norm: Any,
        nonfinite: Any,
        schedule: Any,
        logits: Any,
        num_threads: Any,
    ) -> None:
        _check_model(model, loss)
        if not callable(getattr(optimizer, "step", None)):
            raise TypeError(f"optimizer: expected an optimiser on model.params, got {_checks.describe(optimizer)}")
        if getattr(optimizer, "params", model.params) is not model.params:
            raise ValueError("optimizer: expected one on model.params, got one on other parameters")
        if schedule is not None and not callable(schedule):
            raise TypeError(f"schedule: expected a function of the steps taken, got {_checks.describe(schedule)}")
        self._model, self._loss, self._optimizer, self._schedule = model, loss, optimizer, schedule
        self._limit = math.inf if clip_norm is None else _checks.limit("clip_norm", clip_norm)
        self._nonfinite = _checks.choice("nonfinite", nonfinite, ("raise", "skip", "apply"))
        self._options = _options(logits, num_threads)
        self._gradients: Gradients = model.params.zeros()
        self._gradients.scratch = True
        self._tape: Tape | None = None
        self._updates = 0

    def epoch(self, number: int, batches: Iterable[Batch], accumulate: int, bar: Any) -> Epoch:
        """One pass over the batches."""
        began = time.perf_counter()
        made: list[tuple[float, float, float]] = []  # of each update: loss, norm, total
        skipped = 0
        for together in _grouped(_each(batches), accumulate):
            total = sum(batch.total for batch in together)
            if total > 0:
                loss, norm, done = self._update(together, total)
                skipped += not done
                made += [(loss, norm, total)] if done else []
            bar.update(len(together))
        losses, norms, totals = np.array(made).T if made else np.full((3, 1), np.nan)
        mean, seconds = float(losses @ totals / totals.sum()), time.perf_counter() - began
        lr = float(getattr(self._optimizer, "lr", math.nan))
        return Epoch(number, mean, math.nan, {}, lr, float(norms.mean()), len(made), skipped, seconds)

    def _update(self, batches: list[Batch], total: float) -> tuple[float, float, bool]:
        """The loss, the gradient's norm, and whether there was an update."""
        if self._schedule is not None:
            self._optimizer.lr = self._schedule(self._optimizer.steps)
        self._gradients.zero()
        mean = 0.0
        for batch in batches:
            _check_target(batch)
            y, _, self._tape = self._model.forward(batch.x, **batch.inputs, tape=self._tape, **self._options)
            loss, dy = differentiated(self._loss, y, batch.target, batch.weights)
            if len(batches) > 1:
                dy = _scaled(dy, batch.total / total)
            self._model.backward(
                self._tape,
                dy,
                into=self._gradients,
                input_gradient=False,
                num_threads=self._options["num_threads"],
            )
            mean += _float("loss", loss) * (batch.total / total)
        drop_frozen(self._optimizer, self._gradients)
        norm = clip_grad_norm(self._gradients, self._limit)
        if not math.isfinite(norm) and self._nonfinite != "apply":
            if self._nonfinite == "raise":
                raise NonFiniteError(
                    f"gradient: expected a finite norm, got {norm} with a loss of {mean} after {self._updates} updates "
                    "of this call; the last one made is in the model (nonfinite='skip' would go on)"
                )
            return mean, norm, False
        self._optimizer.step(self._gradients)
        self._updates += 1
        return mean, norm, True


def evaluate(
    model: Any,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    metrics: Metrics | None = None,
    logits: bool = False,
    num_threads: int | None = None,
) -> dict[str, float]:
    """The mean loss of a model over batches, without dropout; and other means.

    Parameters
    ----------
    model, loss, metrics, logits, num_threads
        As for `fit`.
    batches : Batches

    Returns
    -------
    dict
        "loss" and the metrics, each the mean over all targets by their weights; NaN if there is none.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind, or the model, the loss or a metric does not take the batches.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnfast
    >>> from rnnfast import data, losses, training
    >>> batches = data.Batches(np.zeros((5, 4, 3)), np.zeros((5, 4, 8)))
    >>> training.evaluate(rnnfast.GRU(3, 8, bias=False), losses.mean_squared_error, batches)
    {'loss': 0.0}
    """
    _check_model(model, loss)
    _check_batches("batches", batches, model)
    measured = {"loss": _alone(loss), **_callables("metrics", metrics or {})}
    options = _options(logits, num_threads)
    sums = dict.fromkeys(measured, 0.0)
    total = 0.0
    for batch in _each(batches):
        _check_target(batch)
        if batch.total > 0:
            y, _ = model(batch.x, **batch.inputs, **options)
            weights = {} if batch.weights is None else {"mask": batch.weights}
            for name, measure in measured.items():
                sums[name] += _float(name, measure(y, batch.target, **weights)) * batch.total
            total += batch.total
    return {name: value / total if total else math.nan for name, value in sums.items()}


def predict(
    model: Any, batches: Iterable[Batch], *, logits: bool = False, num_threads: int | None = None
) -> list[Array]:
    """The model's output for each sequence, in the order in which the sequences came.

    Parameters
    ----------
    model, logits, num_threads
        As for `fit`.
    batches : Batches
        Shuffled, padded or packed: the outputs are put in order again.

    Returns
    -------
    list of ndarray, shape [T_i, ...]
        With ``last_only`` [...]: `np.stack` makes one array of them. Of a model with several outputs a list of dicts.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind, or the model does not take the batches.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnfast
    >>> from rnnfast import data, training
    >>> batches = data.Batches([np.ones((n, 3)) for n in (5, 2, 4)], batch_size=2)
    >>> [y.shape for y in training.predict(rnnfast.GRU(3, 8), batches)]
    [(5, 8), (2, 8), (4, 8)]
    """
    _check_model(model, len)
    _check_batches("batches", batches, model)
    options = _options(logits, num_threads)
    found: dict[int, Array] = {}
    for batch in _each(batches):
        y, _ = model(batch.x, **batch.inputs, **options)
        found |= dict(zip(batch.rows.tolist(), _split(batch, y), strict=True))
    return [found[row] for row in sorted(found)]


def accuracy(prediction: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None) -> float:
    """The share of entries whose largest score is that of their class: a metric for `fit` and `evaluate`.

    Parameters
    ----------
    prediction : array_like, shape [..., C]
        Scores, logits or probabilities.
    target : array_like of int, shape [...]
        The classes.
    mask : array_like of bool or weights, shape [...], optional
        What each entry counts.

    Returns
    -------
    float
        NaN where nothing counts.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or shape.

    Examples
    --------
    >>> accuracy([[0.1, 0.9], [0.8, 0.2]], [1, 1])
    0.5
    """
    scores, classes = _numbers("prediction", prediction), _checks.integers("target", _on_host(target))
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"prediction: expected [..., C], got {_checks.describe(scores)}")
    _checks.shape("target", classes, scores.shape[:-1])
    right = scores.argmax(axis=-1) == classes
    if mask is None:
        return float(right.mean()) if right.size else math.nan
    weights = _numbers("mask", mask)
    _checks.shape("mask", weights, classes.shape)
    total = float(weights.sum(dtype=np.float64))
    return float((weights * right).sum(dtype=np.float64)) / total if total else math.nan


def _numbers(name: str, array: Any) -> Array:
    return _checks.numbers(name, _on_host(array))


def _on_host(array: Any) -> Any:
    return holder(array).to_host(array) if _checks.on_device(array) else array


def _split(batch: Batch, y: Any) -> list[Any]:
    """The output for each sequence of a batch."""
    if not isinstance(y, Mapping):
        return batch.split(_on_host(y))
    rows = [_split(batch, one) for one in y.values()]
    return [dict(zip(y, row, strict=True)) for row in zip(*rows, strict=True)]


def _scaled(dy: Any, factor: float) -> Any:
    return {name: one * factor for name, one in dy.items()} if isinstance(dy, Mapping) else dy * factor


def _grouped(batches: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """So many batches at a time."""
    each = iter(batches)
    while together := list(islice(each, count)):
        yield together


def _options(logits: Any, num_threads: Any) -> dict[str, Any]:
    """What goes into every call of the model; a layer does not know logits."""
    options: dict[str, Any] = {"num_threads": _checks.threads(num_threads)}
    return options | ({"logits": True} if _checks.truth("logits", logits) else {})


def _check_model(model: Any, loss: Any) -> None:
    if not all(hasattr(model, name) for name in ("forward", "backward", "params", "batch_first")):
        raise TypeError(f"model: expected a Model or a layer, got {_checks.describe(model)}")
    if not callable(loss):
        raise TypeError(f"loss: expected a callable, got {_checks.describe(loss)}")


def _alone(loss: Loss) -> Callable[..., float]:
    """The loss without its gradient."""

    def measure(*given: Any, **weights: Any) -> Any:
        result = loss(*given, **weights)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise TypeError(f"loss: expected it to return (loss, gradient), got {_checks.describe(result)}")
        return result[0]

    return measure


def _float(name: str, value: Any) -> float:
    """What the caller's function has returned; it may be no finite number."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected it to return a number, got {_checks.describe(value)}") from error


def _each(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, each of which must be one."""
    for batch in batches:
        if not isinstance(batch, Batch):
            raise TypeError(
                f"batches: expected data.Batch tuples, as data.Batches gives, got {_checks.describe(batch)}"
            )
        yield batch


def _check_batches(name: str, batches: Any, model: Any) -> None:
    if not isinstance(batches, Iterable):
        raise TypeError(f"{name}: expected Batches, got {_checks.describe(batches)}")
    if isinstance(batches, Iterator):
        raise TypeError(f"{name}: expected Batches, or what can be gone through again, got {_checks.describe(batches)}")
    if isinstance(batches, np.ndarray):
        raise TypeError(f"{name}: expected Batches, such as data.Batches(x, target), got {_checks.describe(batches)}")
    if isinstance(batches, tuple | list) and not all(isinstance(batch, Batch) for batch in batches):
        raise TypeError(f"{name}: expected Batches, such as data.Batches(x, target), got a {type(batches).__name__}")
    if not isinstance(batches, Batches):
        return
    if batches.batch_first != model.batch_first:
        raise ValueError(
            f"{name}: expected batch_first={model.batch_first} as the model has it, got {batches.batch_first}"
        )
    if batches.pack and batches.last_only and model.bidirectional:
        raise ValueError(
            f"{name}: expected pack=False or last_only=False for a model of two directions, got both: what the "
            "backward direction ends with is at a sequence's first step"
        )
    pooled = [name for name, part in getattr(model, "parts", {}).items() if isinstance(part, Pool)]
    if batches.pack and pooled:
        raise ValueError(
            f"{name}: expected pack=False for a model that pools ({', '.join(pooled)}), got True: a row holds several "
            "sequences"
        )


def _check_target(batch: Batch) -> None:
    if batch.target is None:
        raise ValueError("batches: expected batches with targets, got some without; data.Batches(x, target) has them")


def _callables(name: str, given: Any) -> dict[Any, Callable[..., Any]]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected a mapping from names to functions, got {_checks.describe(given)}")
    for key, value in given.items():
        if not callable(value):
            raise TypeError(f"{name}[{key!r}]: expected a function, got {_checks.describe(value)}")
    return dict(given)


def _ignore(loss: float) -> None:
    """What a schedule that doesn't want to know does with a loss."""


class _NoBar:
    """In place of a progress bar."""

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *reason: object) -> None: ...

    def update(self, count: int) -> None:
        """Nothing is shown."""

    def set_postfix(self, values: Mapping[str, str]) -> None:
        """Nothing is shown."""


def _bar(progress: bool | None, epochs: int, batches: Any) -> Any:
    """A progress bar over all batches of all epochs."""
    wanted = sys.stderr.isatty() if progress is None else _checks.truth("progress", progress)
    if not wanted:
        return _NoBar()
    try:
        from tqdm import tqdm
    except ImportError as error:
        if progress is None:
            return _NoBar()
        raise ImportError('progress: a bar needs tqdm: pip install "rnnfast[cli]"') from error
    return tqdm(total=epochs * len(batches) if hasattr(batches, "__len__") else None, unit="batch")


def _save(path: str | PathLike[str], model: Any, optimizer: Any, extra: Mapping[str, Any]) -> None:
    from . import checkpoint  # at its first use: it needs a package

    checkpoint.save(path, model, optimizer=optimizer, extra=extra)
