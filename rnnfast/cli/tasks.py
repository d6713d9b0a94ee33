"""Learning from tables: classes of sequences, and the next values of series. No terminal is needed here.

What files may hold, and what is made of it when nothing more is said, is in `read_sequences` and `read_series`. Missing
values (empty cells, NaN) are taken for the mean. A fifth is held out: of sequences at random, of a series its end.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checkpoint
from ..data import Batches, Standardizer, windows
from ..decode import forecast
from ..encoders import LabelEncoder
from ..heads import Dense
from ..losses import mean_squared_error, softmax_cross_entropy
from ..model import Model
from ..optim import Adam
from ..schedules import Cosine
from ..training import Epoch, accuracy, fit
from .train import CELLS

__all__ = ["Outcome", "TaskSettings", "learn_classes", "learn_series", "read_sequences", "read_series"]

_HELD_OUT = 0.2
_SEQUENCE, _TARGET = ("sequence", "series", "id"), ("label", "class", "target", "y")

Array = NDArray[np.float64]
Show = Callable[[str], None]


@dataclass(frozen=True)
class TaskSettings:
    """What decides a run, apart from the data; the names are those of the command's options."""

    cell: str = "gru"
    hidden: int = 64
    layers: int = 1
    dropout: float = 0.0
    epochs: int = 30
    batch_size: int = 32
    window: int = 32
    lr: float = 5e-3
    clip: float = 1.0
    seed: int = 0


class Outcome(NamedTuple):
    """What there is to say at the end."""

    model: Model
    extra: dict[str, Any]
    lines: list[str]


# Files


def read_sequences(path: Path, sequence: str | None, target: str | None) -> tuple[list[Array], list[str], list[str]]:
    """Sequences [T_i, I], a class for each, and the features' names.

    A `.npz` file has arrays `x` [N, T, I] or [N, T], `y` [N] and perhaps `lengths` [N]. A CSV file has a line of names
    and a column of classes (`target`; by default one named label, class, target or y). With a column that says which
    sequence a line is of (`sequence`; by default one named sequence, series or id), each line is a step; without, each
    line is a sequence of one feature, step by step.
    """
    if path.suffix == ".npz":
        found = _arrays(path, ("x", "y"))
        x, y = found["x"].astype(np.float64), found["y"]
        x = x[..., None] if x.ndim == 2 else x
        if x.ndim != 3 or y.shape != x.shape[:1]:
            raise ValueError(f"{path}: expected x [N, T, I] or [N, T] and y [N], got {found['x'].shape} and {y.shape}")
        lengths = found.get("lengths", np.full(len(x), x.shape[1]))
        if lengths.shape != y.shape or (lengths < 1).any() or (lengths > x.shape[1]).any():
            raise ValueError(f"{path}: expected lengths in 1..{x.shape[1]}, one for each sequence")
        names = [f"x{number}" for number in range(x.shape[2])]
        return [one[:length] for one, length in zip(x, lengths, strict=True)], [str(one) for one in y.tolist()], names
    names, rows = _table(path)
    goal = _column(path, names, target, _TARGET, "target")
    steps = _column(path, names, sequence, _SEQUENCE, "sequence", needed=sequence is not None)
    assert goal is not None
    features = [number for number in range(len(names)) if number not in (goal, steps)]
    values = _numbers(path, names, rows, features)
    labels = [row[goal] for row in rows]
    if steps is None:
        return list(values[:, :, None]), labels, ["value"]
    lines: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        lines.setdefault(row[steps], []).append(number)
    for name, own in lines.items():
        if len({labels[number] for number in own}) > 1:
            raise ValueError(f"{path}: expected one class in each sequence, got several in {name!r}")
    return (
        [values[own] for own in lines.values()],
        [labels[own[0]] for own in lines.values()],
        [names[number] for number in features],
    )


def read_series(path: Path, target: str | None) -> tuple[Array, list[str]]:
    """A series [N, I] and the features' names.

    A `.npz` file has an array `x` [N, I] or [N]. A CSV file has a line of names; each line after it is a step. Columns
    that are not numbers, such as dates, are left out; with `target` all others are.
    """
    if path.suffix == ".npz":
        x = _arrays(path, ("x",))["x"].astype(np.float64)
        if x.ndim not in (1, 2):
            raise ValueError(f"{path}: expected x [N, I] or [N], got {x.shape}")
        series = x[:, None] if x.ndim == 1 else x
        return series, [f"x{number}" for number in range(series.shape[1])]
    names, rows = _table(path)
    if target is not None:
        chosen = [_column(path, names, target, (), "target")]
    else:
        chosen = [n for n in range(len(names)) if all(_is_number(row[n]) for row in rows)]
    if not chosen:
        raise ValueError(f"{path}: expected a column of numbers, got none among {', '.join(names)}")
    columns = [number for number in chosen if number is not None]
    return _numbers(path, names, rows, columns), [names[number] for number in columns]


def _arrays(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: expected an .npz file of numbers: {error}") from error
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"{path}: expected the arrays {', '.join(needed)}; {', '.join(missing)} is missing")
    for name in {"x", "lengths"} & set(found):
        if found[name].dtype.kind not in ("biuf" if name == "x" else "iu"):
            raise ValueError(f"{path}: expected numbers in {name}, got dtype {found[name].dtype}")
    return found


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The line of names, and the others."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV file: {error}") from error
    if len(lines) < 2:
        raise ValueError(f"{path}: expected a line of names and lines of values, got {len(lines)} lines")
    names, rows = lines[0], lines[1:]
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise ValueError(
                f"{path}: expected {len(names)} cells as in the first line, got {len(row)} in line {number}"
            )
    return names, rows


def _column(
    path: Path, names: list[str], wanted: str | None, usual: tuple[str, ...], what: str, *, needed: bool = True
) -> int | None:
    """The number of a column, by its name or by one of the usual names."""
    lower = [name.strip().lower() for name in names]
    if wanted is not None:
        if wanted in names:
            return names.index(wanted)
    elif found := [lower.index(name) for name in usual if name in lower]:
        return found[0]
    if not needed:
        return None
    expected = f"a column {wanted!r}" if wanted is not None else f"a column named {' or '.join(usual)}, or --{what}"
    raise ValueError(f"{path}: expected {expected}, got {', '.join(names)}")


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _numbers(path: Path, names: list[str], rows: list[list[str]], columns: list[int]) -> Array:
    """Cells as numbers; empty ones are NaN."""
    values = np.empty((len(rows), len(columns)))
    for line, row in enumerate(rows):
        for place, column in enumerate(columns):
            if not _is_number(row[column]):
                raise ValueError(
                    f"{path}: expected numbers in column {names[column]!r}, got {row[column]!r} in line {line + 2}"
                )
            values[line, place] = float(row[column] or "nan")
    return values


# Learning


def learn_classes(
    sequences: list[Array], labels: list[str], settings: TaskSettings, show: Show, *, num_threads: int | None = None
) -> Outcome:
    """Learn which class a sequence is of; `show` is given a line after each epoch."""
    encoder = LabelEncoder.fit(labels)
    if len(encoder) < 2 or len(sequences) < 5:
        raise ValueError(
            f"data: expected at least 5 sequences of 2 classes, got {len(sequences)} of {len(encoder)} classes"
        )
    generators = np.random.default_rng(settings.seed).spawn(4)
    order = generators[0].permutation(len(sequences))
    cut = len(order) - max(1, round(len(order) * _HELD_OUT))
    scale = Standardizer.fit([sequences[number] for number in order[:cut]])
    x = [_filled(scale, one) for one in sequences]
    y = encoder.encode(labels)
    learned, held_out = (
        Batches([x[n] for n in own], y[own], batch_size=settings.batch_size, last_only=True, rng=rng)
        for own, rng in ((order[:cut], generators[1]), (order[cut:], None))
    )
    model = _build(settings, x[0].shape[1], len(encoder), generators[2:])

    def line(epoch: Epoch) -> None:
        show(f"epoch {epoch.number + 1:4d}  loss {epoch.loss:.4f}  held out {epoch.validation_loss:.4f}  "
             f"accuracy {epoch.metrics['accuracy']:.1%}")  # fmt: skip

    history = _fit(
        model, softmax_cross_entropy, learned, settings, line, num_threads, held_out, metrics={"accuracy": accuracy}
    )
    best = history["accuracy"][history.best_epoch]
    known = max(np.bincount(y[order[cut:]])) / (len(order) - cut)
    lines = [
        f"held-out accuracy {best:.1%} of {len(order) - cut} sequences (the commonest class: {known:.1%}), "
        f"after epoch {history.best_epoch + 1}"
    ]
    extra = {"kind": "classifier", "labels": encoder.to_dict(), "scale": scale.to_dict(), "settings": asdict(settings)}
    return Outcome(model, extra, lines)


def learn_series(
    series: Array,
    names: list[str],
    settings: TaskSettings,
    show: Show,
    *,
    horizon: int = 1,
    num_threads: int | None = None,
) -> Outcome:
    """Learn the next step of a series from the window before it, and forecast what comes after its end."""
    cut = len(series) - round(len(series) * _HELD_OUT)
    if cut <= settings.window or len(series) - cut < 1:
        raise ValueError(
            f"data: expected more than a window of {settings.window} steps, and a fifth more, got {len(series)} steps"
        )
    generators = np.random.default_rng(settings.seed).spawn(3)
    scale = Standardizer.fit(series[:cut])
    z = _filled(scale, series)
    x, y = windows(z[:cut], settings.window)
    x_held, y_held = windows(z[cut - settings.window :], settings.window)
    learned = Batches(x, y[0], batch_size=settings.batch_size, last_only=True, rng=generators[0])
    held_out = Batches(x_held, y_held[0], batch_size=256, last_only=True)
    model = _build(settings, z.shape[1], z.shape[1], generators[1:])

    def line(epoch: Epoch) -> None:
        show(f"epoch {epoch.number + 1:4d}  loss {epoch.loss:.5f}  held out {epoch.validation_loss:.5f}")

    history = _fit(model, mean_squared_error, learned, settings, line, num_threads, held_out)
    guess = scale.invert(model(x_held, last_only=True, num_threads=num_threads)[0].astype(np.float64))
    truth, last = series[cut:], scale.invert(x_held[-1])
    error, naive = (float(np.nanmean(np.abs(one - truth))) for one in (guess, last))
    lines = [
        f"held-out mean absolute error {error:.6g} in {len(truth)} steps (of the last value: {naive:.6g}), "
        f"after epoch {history.best_epoch + 1}"
    ]
    coming = scale.invert(forecast(model, z[-settings.window :], horizon, num_threads=num_threads).astype(np.float64))
    lines += ["", f"step,{','.join(names)}"]
    lines += [f"{len(series) + n},{','.join(f'{one:.6g}' for one in row)}" for n, row in enumerate(coming)]
    extra = {"kind": "forecaster", "names": names, "scale": scale.to_dict(), "settings": asdict(settings)}
    return Outcome(model, extra, lines)


def _filled(scale: Standardizer, values: Array) -> NDArray[np.float32]:
    """Standardised; what is missing is the mean."""
    return np.asarray(np.nan_to_num(scale.apply(values), nan=0.0), np.float32)


def _build(settings: TaskSettings, features: int, outputs: int, generators: list[np.random.Generator]) -> Model:
    for_layers, for_head = generators
    layer = CELLS[settings.cell](features, settings.hidden, settings.layers, dropout=settings.dropout, rng=for_layers)
    return Model(rnn=layer, head=Dense(settings.hidden, outputs, rng=for_head))


def _fit(
    model: Model,
    loss: Any,
    batches: Batches,
    settings: TaskSettings,
    line: Callable[[Epoch], None],
    num_threads: int | None,
    held_out: Batches,
    **options: Any,
) -> Any:
    return fit(
        model,
        loss,
        Adam(model.params, settings.lr),
        batches,
        epochs=settings.epochs,
        validation=held_out,
        schedule=Cosine(settings.lr, settings.epochs * len(batches), last=settings.lr * 0.02),
        clip_norm=settings.clip,
        callbacks=[line],
        progress=False,
        num_threads=num_threads,
        **options,
    )


def save(path: Path, outcome: Outcome) -> None:
    """Write the model and what it takes to use it, whole or not at all."""
    checkpoint.save(path, outcome.model, extra=outcome.extra)
