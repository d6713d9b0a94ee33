"""One problem for a cell: sizes, parameters, inputs and gradients, all random and float64, and the oracle on it."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from rnnfast import reference
from rnnfast.description import Cell
from rnnfast.description.declarations import declared

MASKS = ("none", "lengths", "resets", "skip", "all")


class Problem:
    """What a call of the oracle takes.

    Parameters
    ----------
    cell : Cell
    T, B, input_size, hidden_size : int
    mask : str
        One of `MASKS`: which of lengths, resets (with a reset state) and the skip mask there are.
    scale : float
        The parameters are normal with this standard deviation. (Those of the cell's own choice are made of numbers that
        are special: zeros, ones, identities.)
    """

    def __init__(
        self, cell: Cell, *, T: int, B: int, input_size: int, hidden_size: int, mask: str, scale: float = 0.6
    ) -> None:
        self.cell = cell
        rng = np.random.default_rng(zlib.crc32(repr((cell, T, B, hidden_size, mask)).encode()))
        program, sizes = cell.program(), {"hidden": hidden_size, **cell.widths}
        self.widths = [sizes[domain] for domain in program.domains]
        self.params = {}
        for one in program.parameters:
            columns = {None: (), -1: (input_size,)}.get(one.columns)
            columns = (self.widths[one.columns] // one.heads,) if columns is None else columns
            self.params[one.name] = rng.normal(0.0, scale, (one.blocks * self.widths[one.domain], *columns))
        self.x = rng.normal(size=(T, B, input_size))
        self.state = self._states(rng, program, B)
        self.reset_state = self._states(rng, program, B)
        self.given = tuple(
            rng.uniform(0.1, 1.0, (T, B) if one.domain is None else (T, B, self.widths[one.domain]))
            for one in program.given
        )
        self.masks: dict[str, Any] = {}
        if mask in ("lengths", "all"):
            self.masks["lengths"] = np.resize([T, T - 1, 0, 1], B)
        if mask in ("resets", "all"):
            self.masks["resets"] = rng.random((T, B)) < 0.35
        if mask in ("skip", "all"):
            self.masks["skip"] = rng.random((T, B)) < 0.35
        self.dy = rng.normal(size=(T, B, self.state[0].shape[1]))
        self.dstate = tuple(rng.normal(size=value.shape) for value in self.state)

    def _states(self, rng: Any, program: Any, B: int) -> tuple[Any, ...]:
        """Normal; but a normaliser (sLSTM's n) is a sum of exponentials, so it is positive."""
        found = []
        for one in program.states:
            value = rng.normal(size=(B, self.widths[one.domain]))
            found.append(np.abs(value) + 0.5 if one.name == "n" else value)
        return tuple(found)

    def forward(self, **changes: Any) -> Any:
        """The oracle's result; `changes` are other values for `params`, `x`, `state`, `reset_state` or `given`."""
        values = {name: changes.get(name, getattr(self, name)) for name in ("params", "x", "state", "given")}
        masks = dict(self.masks)
        if "resets" in masks:
            masks["reset_state"] = changes.get("reset_state", self.reset_state)
        return reference.forward(
            self.cell, values["params"], values["x"], *values["state"], given=values["given"], **masks
        )

    def backward(self, result: Any) -> Any:
        return reference.backward(result, self.dy, *self.dstate)

    def loss(self, **changes: Any) -> float:
        """The scalar whose gradients `backward` returns."""
        result = self.forward(**changes)
        ends = sum((value * weight).sum() for value, weight in zip(result.state, self.dstate, strict=True))
        return float((result.y * self.dy).sum() + ends)

    @property
    def named_given(self) -> dict[str, Any]:
        """The given inputs by name."""
        return {one.name: value for one, value in zip(declared(self.cell).given, self.given, strict=True)}


def hidden_size(cell: Cell) -> int:
    """No multiple of 4, if the heads allow it."""
    return 5 if cell.heads == 1 else 3 * cell.heads
