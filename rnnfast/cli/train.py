"""Training a character model by truncated BPTT, step by step, so that it can stop anywhere and go on bitwise the
same.

All that decides the weights is in `Settings`, in the text, and in what a checkpoint holds: parameters, the
optimiser's and the trainer's state, the generators of dropout, and the number of steps made, from which the place in
the text and the learning rate follow. Clocks decide nothing. This module knows nothing of terminals, and can be used
without them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checkpoint
from ..distributed import DataParallel
from ..heads import Dense
from ..layers import GRU, LSTM, RNN
from ..losses import softmax_cross_entropy
from ..model import Model
from ..optim import Adam
from ..schedules import Cosine, WarmUp
from ..tbptt import TBPTT, stateful_batches
from .corpus import Corpus

__all__ = ["CELLS", "CHARACTER_MODEL", "PRESETS", "Report", "Settings", "Training", "bits_per_character", "load_model"]

CELLS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
CHARACTER_MODEL = "character model"
_EXTRA = {"settings", "vocabulary", "digest", "step", "history", "sums", "trainer", "rng"}
_HELD_OUT_ROWS, _HELD_OUT_STEPS = 16, 256
_WARM_UP, _LAST_LR = 100, 0.02
_SHARDS = 4  # of a batch, for several ranks


@dataclass(frozen=True)
class Settings:
    """What decides a run, apart from the text.

    Attributes
    ----------
    cell : {"rnn", "gru", "lstm"}
    hidden, layers : int
        Units per layer, and layers.
    dropout : float
        Between layers.
    steps : int
        Updates; the learning rate's schedule ends with them.
    batch_size : int
        Places of the text that are read side by side.
    window : int
        Characters per row and update: k1.
    truncation : int or None
        Characters that gradients flow back: k2; None is the window.
    lr : float
        The highest learning rate.
    clip : float
        Bound for the gradient's norm.
    seed : int
    """

    cell: str = "lstm"
    hidden: int = 256
    layers: int = 1
    dropout: float = 0.0
    steps: int = 1500
    batch_size: int = 16
    window: int = 64
    truncation: int | None = None
    lr: float = 1e-2
    clip: float = 1.0
    seed: int = 0


PRESETS = {
    "quick": Settings(hidden=64, steps=500, window=32, lr=2e-2),
    "default": Settings(),
    "long": Settings(hidden=256, layers=2, dropout=0.3, steps=6000, lr=5e-3),
}


class Report(NamedTuple):
    """One line of the curve: averages since the line before, and the held-out text now."""

    step: int
    train_bpc: float
    held_out_bpc: float
    chars_per_second: float
    grad_norm: float


class Training:
    """A run: made anew, or taken up from a checkpoint with `resume`.

    Parameters
    ----------
    corpus : Corpus
    settings : Settings
    num_threads : int, optional
        As for the layers; decides nothing but the speed.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share the work, if there are several; all make one, and call the same methods.
    shards : int, optional
        Into how many parts each batch is cut for them; see `rnnfast.distributed`.

    Attributes
    ----------
    model : Model
        Ids in, logits out.
    step : int
        Updates made.
    history : list of Report
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: Settings,
        *,
        num_threads: int | None = None,
        comm: Any = None,
        shards: int | None = None,
    ) -> None:
        shards = _SHARDS if shards is None and comm is not None else shards
        self._start(corpus, settings, _build(settings, len(corpus.vocabulary)), num_threads, comm, shards)

    def _start(
        self,
        corpus: Corpus,
        settings: Settings,
        model: Model,
        num_threads: int | None,
        comm: Any,
        shards: int | None,
    ) -> None:
        if len(corpus.train) <= settings.batch_size or len(corpus.held_out) < 2:
            count = len(corpus.train) + len(corpus.held_out)
            raise ValueError(
                f"text: expected enough for {settings.batch_size} rows and a tenth held out, got {count} characters"
            )
        self.corpus, self.settings, self.model = corpus, settings, model
        self.step = 0
        self.history: list[Report] = []
        self._optimizer = Adam(model.params, settings.lr)
        decay = Cosine(settings.lr, settings.steps, last=settings.lr * _LAST_LR)
        self._schedule = WarmUp(decay, min(_WARM_UP, settings.steps))
        self._trainer = TBPTT(
            model,
            softmax_cross_entropy,
            self._optimizer,
            k1=settings.window,
            k2=settings.truncation,
            clip_norm=settings.clip,
            num_threads=num_threads,
        )
        self._parallel = None if shards is None else DataParallel(self._trainer, comm, shards=shards)
        self._windows: Any = self._parallel or self._trainer
        self._batches = stateful_batches(corpus.train, settings.batch_size, settings.window)
        self._num_threads = num_threads
        self._sums = {"bits": 0.0, "characters": 0, "norms": 0.0, "windows": 0}  # since the last report
        self._clock, self._clocked = 0.0, 0

    @classmethod
    def resume(
        cls,
        path: Path,
        corpus: Corpus,
        expected: Mapping[str, Any] | None = None,
        *,
        num_threads: int | None = None,
        comm: Any = None,
        shards: int | None = None,
    ) -> Training:
        """Take up the run that wrote a checkpoint.

        Parameters
        ----------
        path : Path
        corpus : Corpus
            The same text.
        expected : mapping, optional
            Settings that the run must have.
        num_threads : int, optional
        comm : mpi4py.MPI.Comm, optional
            Of a run that was begun with one; there may be another number of ranks, or none.
        shards : int, optional
            Those that the run must have.

        Returns
        -------
        Training
        """
        loaded = _load(path)
        checkpoint.remove_leftovers(path)
        extra = loaded.extra
        settings = Settings(**extra["settings"])
        for name, value in (expected or {}).items():
            if value != getattr(settings, name):
                raise ValueError(
                    f"{name}: expected {getattr(settings, name)!r}, with which {path} was begun, got {value!r}"
                )
        if extra["digest"] != corpus.digest:
            raise ValueError(f"text: expected the one with which {path} was begun, got another")
        found = len(extra["parallel"]["shards"]) if "parallel" in extra else None
        if found is None and comm is not None:
            raise ValueError(f"mpi: expected a checkpoint that was begun with --mpi, got {path}")
        if shards not in (None, found):
            raise ValueError(f"shards: expected {found}, with which {path} was begun, got {shards}")
        training = cls.__new__(cls)
        training._start(corpus, settings, loaded.model, num_threads, comm, found)
        training.step = extra["step"]
        training.history = [Report(*row) for row in extra["history"]]
        training._sums = extra["sums"]
        training._optimizer.load_state_dict(loaded.optimizer or {})
        training._windows.load_state_dict(extra["trainer" if found is None else "parallel"])
        training.model.set_rng_state(extra["rng"])
        return training

    @property
    def done(self) -> bool:
        """Whether all steps have been made."""
        return self.step >= self.settings.steps

    def advance(self) -> None:
        """One update; FloatingPointError if the training has blown up (the last checkpoint is good)."""
        began = time.perf_counter()
        window = self.step % len(self._batches)
        if window == 0:
            self._windows.reset()
        x, target = self._batches[window]
        following = len(self._batches[window + 1][0]) if window + 1 < len(self._batches) else None
        self._optimizer.lr = self._schedule(self.step)
        result = self._windows.step(x, target, following=following)
        if not math.isfinite(result.loss + result.grad_norm):
            raise FloatingPointError(
                f"loss {result.loss}, gradient norm {result.grad_norm} at step {self.step}: try a lower lr"
            )
        self.step += 1
        self._sums["bits"] += result.loss / math.log(2) * x.size
        self._sums["characters"] += x.size
        self._sums["norms"] += result.grad_norm
        self._sums["windows"] += 1
        self._clock += time.perf_counter() - began
        self._clocked += x.size

    def report(self) -> Report:
        """Evaluate on the held-out text, and begin new averages."""
        sums = self._sums
        line = Report(
            self.step,
            sums["bits"] / max(sums["characters"], 1),
            bits_per_character(self.model, self.corpus.held_out, num_threads=self._num_threads),
            self._clocked / max(self._clock, 1e-9),
            sums["norms"] / max(sums["windows"], 1),
        )
        self._sums = dict.fromkeys(sums, 0)
        self._clock, self._clocked = 0.0, 0
        self.history.append(line)
        return line

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        extra = {
            "kind": CHARACTER_MODEL,
            "settings": asdict(self.settings),
            "vocabulary": self.corpus.vocabulary,
            "digest": self.corpus.digest,
            "step": self.step,
            "history": [list(line) for line in self.history],
            "sums": self._sums,
            "trainer": None if self._parallel else self._trainer.state_dict(),
            "rng": self.model.rng_state(),
        }
        if self._parallel:
            self._parallel.save(path, extra=extra)
        else:
            checkpoint.save(path, self.model, optimizer=self._optimizer, extra=extra)


def load_model(path: Path) -> tuple[Model, dict[str, Any]]:
    """The model of a checkpoint, and what else the run wrote: "vocabulary", "settings", "step", "history"."""
    loaded = _load(path)
    return loaded.model, loaded.extra


def bits_per_character(model: Model, ids: NDArray[np.int64], *, num_threads: int | None = None) -> float:
    """The model's mean surprise at a text.

    The text is read as a few contiguous rows side by side, each from a zero state, which overstates the figure a
    little.

    Parameters
    ----------
    model : Model
        Ids in, logits out.
    ids : int64 array, shape [N]
    num_threads : int, optional

    Returns
    -------
    float
        Bits per character.
    """
    state, nats, count = None, 0.0, 0
    for x, target in stateful_batches(ids, min(_HELD_OUT_ROWS, len(ids) - 1), _HELD_OUT_STEPS):
        logits, state = model(x, state, num_threads=num_threads, ids=True)
        nats += softmax_cross_entropy(logits, target, reduction="sum")[0]
        count += x.size
    return nats / count / math.log(2)


def _build(settings: Settings, characters: int) -> Model:
    for_layers, for_head = np.random.default_rng(settings.seed).spawn(2)
    layers = CELLS[settings.cell](
        characters, settings.hidden, settings.layers, dropout=settings.dropout, rng=for_layers
    )
    return Model(rnn=layers, head=Dense(settings.hidden, characters, rng=for_head))


def _load(path: Path) -> checkpoint.Checkpoint:
    loaded = checkpoint.load(path)
    if loaded.extra.get("kind") != CHARACTER_MODEL or loaded.optimizer is None or not loaded.extra.keys() >= _EXTRA:
        raise ValueError(f"{path}: expected a checkpoint of `rnnfast train`, got another one")
    return loaded
