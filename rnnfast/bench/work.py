"""The work of a row: weights, inputs, and the oracle's answer to them.

All contestants of a row get the same arrays, and none is timed before its answer has been compared with what the
float64 oracle makes of this very work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import rnnfast

from .. import reference
from .core import compare
from .described import DESCRIBED, GIVEN, layer
from .rows import CELLS, Row

__all__ = ["Answer", "Contestant", "Unavailable", "Work", "check"]

Array = NDArray[Any]
Answer = dict[str, Array]
"""Arrays by name: "y"; with backward also "dx" and the parameters' names; of the character model its losses."""

LEARNING_RATE, CLIP, CHECKED_WINDOWS = 1e-2, 1.0, 3


class Unavailable(RuntimeError):
    """A contestant that does not run on this machine."""


class Work:
    """The arrays of a row.

    Parameters
    ----------
    row : Row

    Attributes
    ----------
    layer : LSTM, GRU or RNN
    params : dict of str to float32 array
        Its parameters, named as a cell's.
    x : array
        [T, B, I]; of the character model ids, [windows, T, B].
    dy : float32 array, shape [T, B, H]
        0 beyond the rows' lengths.
    target : int64 array, shape [windows, T, B]
        Of the character model.
    active : float32 array, shape [T, B, 1]
        1 within the rows' lengths, 0 beyond.
    masks : dict
        The call's `lengths`, `resets` or `given`, a dictionary of a cell's inputs besides x, [T, B] or [T, B, I].
    width : int
        Of y.
    """

    def __init__(self, row: Row) -> None:
        self.row = row
        rng = np.random.default_rng(1)
        steps, B = row.checked_steps, row.B
        self.layer = _layer(row)
        self.width = DESCRIBED[row.cell].width(row.H) if row.group == "cells" else row.H
        self.params = {name.removesuffix("_l0"): np.array(value) for name, value in self.layer.params.items()}
        self.masks: dict[str, Any] = {}
        if row.lengths is not None:
            self.masks["lengths"] = row.lengths
        if row.group == "resets":
            self.masks["resets"] = rng.random((steps, B)) < 0.02
        lengths = self.masks.get("lengths", np.full(B, steps))
        self.active = (np.arange(steps)[:, None] < lengths)[..., None].astype(np.float32)
        if row.group == "characters":
            ids = rng.integers(0, row.I, (8 * steps + 1, B))
            self.x: Array = ids[:-1].reshape(8, steps, B)
            self.target: Array = ids[1:].reshape(8, steps, B)
        else:
            self.x = rng.standard_normal((steps, B, row.I), dtype=np.float32)
            self.dy = rng.standard_normal((steps, B, self.width), dtype=np.float32) * self.active
        if row.group == "cells" and DESCRIBED[row.cell].given:
            self.masks["given"] = {name: GIVEN[name](rng, self.x.shape) for name in DESCRIBED[row.cell].given}
        if row.group == "denormals":
            for array in (self.x, self.dy):
                array[rng.random(array.shape) < 0.9] *= np.float32(1e-40)

    def model(self) -> rnnfast.Model:
        """A new character model; each is equal to the others."""
        return rnnfast.Model(rnn=_layer(self.row), head=rnnfast.Dense(self.row.H, self.row.I, rng=1))

    @property
    def want(self) -> Answer:
        """The oracle's answer."""
        return _oracle(replace(self.row, needs=(), label=self.row.label if self.row.group == "cells" else ""))

    def _answer(self) -> Answer:
        if self.row.group == "characters":
            return {"loss": self._losses()}
        if self.row.group == "cells":
            from .torch_cells import answer  # imports PyTorch, and this module

            return answer(self)
        kind = CELLS[self.row.cell][1]
        result = reference.forward(kind, self.params, self.x, **self.masks)
        if not self.row.trains:
            return {"y": result.y}
        gradients = reference.backward(result, self.dy)
        assert gradients.dx is not None
        return {"y": result.y, "dx": gradients.dx, **gradients.params}

    def _losses(self) -> Array:
        """Of the first windows, each after the updates of those before: what Adam made of the gradients shows here."""
        kind = CELLS[self.row.cell][1]
        params = {name: np.asarray(value, np.float64) for name, value in self.model().params.items()}
        m, v = ({name: np.zeros_like(value) for name, value in params.items()} for _ in range(2))
        losses, state = [], None
        for step, (x, target) in enumerate(zip(self.x, self.target, strict=True), 1):
            window = reference.tbptt_reference(
                kind, params, x, target, loss="cross_entropy", k1=len(x), lr=0.0, state=state
            )[0]
            losses.append(window.loss)
            if step == CHECKED_WINDOWS:
                break
            layer = {name.removeprefix("rnn."): value for name, value in params.items() if name.startswith("rnn.")}
            state = reference.stack_forward(kind, layer, x, state).state
            norm = np.sqrt(sum(np.square(g).sum() for g in window.gradients.values()))
            for name, gradient in window.gradients.items():
                g = gradient * min(1.0, CLIP / (norm + 1e-6))
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * np.square(g)
                root = np.sqrt(v[name] / (1 - 0.999**step)) + 1e-8
                params[name] = params[name] - LEARNING_RATE * m[name] / (1 - 0.9**step) / root
        return np.array(losses)


@lru_cache(maxsize=2)  # a row's contestants, one after the other, with one thread and with two; it is slow
def _oracle(row: Row) -> Answer:
    return Work(row)._answer()


def _layer(row: Row) -> Any:
    if row.group == "cells":
        return layer(row.cell, row.I, row.H)
    return getattr(rnnfast, CELLS[row.cell][0])(row.I, row.H, rng=0)


class Contestant(NamedTuple):
    """Something that does a row's work.

    Attributes
    ----------
    work : Work
        What it answers.
    loop : callable
        ``loop(n)`` makes n calls, in the loop that a user would write: nothing but the calls is in it.
    answer : callable
        ``answer()`` is what the calls come to.
    note : str
        What there is to say of it.
    """

    work: Work
    loop: Callable[[int], object]
    answer: Callable[[], Answer]
    note: str = ""


def check(name: str, contestant: Contestant, *, forward: float, gradients: float) -> float:
    """The error of a contestant's answer; WrongAnswer where it is larger than allowed for y, or for all else."""
    where = f"{contestant.work.row.name}: {name}"
    return compare(where, contestant.answer(), contestant.work.want, lambda key: forward if key == "y" else gradients)
