"""Learning rates that change: a schedule is a function from the number of steps taken to the next step's rate.

Before each step: ``optimizer.lr = schedule(optimizer.steps)``. `rnnfast.fit` does it. A schedule keeps nothing (but
`OnPlateau`, which must), so a run that is taken up from a checkpoint has the rates that it would have had. Any function
will do in place of one of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import _checks

__all__ = ["Constant", "Cosine", "Linear", "OnPlateau", "WarmUp"]


class _Checked:
    """A dataclass whose attributes are checked: rates and numbers of steps."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "steps":
                _checks.integer(name, value)
            elif name in ("lr", "last"):
                _rate(name, value)


@dataclass(frozen=True)
class Constant(_Checked):
    """The same rate at every step.

    Parameters
    ----------
    lr : float

    Examples
    --------
    >>> Constant(0.1)(1000)
    0.1
    """

    lr: float

    def __call__(self, step: int) -> float:
        """The rate of the step after `step` steps."""
        return self.lr


@dataclass(frozen=True)
class Linear(_Checked):
    """From one rate to another in equal steps, and there it stays.

    ::

        lr + (last - lr) * min(step / steps, 1)

    Parameters
    ----------
    lr : float
        The first step's.
    steps : int
        The step from which the rate is `last`.
    last : float, optional

    Examples
    --------
    >>> schedule = Linear(1.0, steps=4)
    >>> [schedule(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    lr: float
    steps: int
    last: float = 0.0

    def __call__(self, step: int) -> float:
        """The rate of the step after `step` steps."""
        return self.lr + (self.last - self.lr) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cosine(_Checked):
    """From one rate to another along half a cosine, and there it stays.

    ::

        last + (lr - last) * (1 + cos(pi * min(step / steps, 1))) / 2

    Source: Loshchilov & Hutter (2017), "SGDR: stochastic gradient descent with warm restarts", equation 5, of one run.

    Parameters
    ----------
    lr : float
        The first step's.
    steps : int
        The step from which the rate is `last`.
    last : float, optional

    Examples
    --------
    >>> schedule = Cosine(1.0, steps=4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    lr: float
    steps: int
    last: float = 0.0

    def __call__(self, step: int) -> float:
        """The rate of the step after `step` steps."""
        return self.last + (self.lr - self.last) * 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0)))


@dataclass(frozen=True)
class WarmUp(_Checked):
    """Another schedule with a linear rise at its beginning.

    ::

        schedule(step) * min((step + 1) / steps, 1)

    Parameters
    ----------
    schedule : callable
    steps : int
        The steps until the rate is the schedule's own.

    Examples
    --------
    >>> schedule = WarmUp(Constant(1.0), steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    schedule: Callable[[int], float]
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.schedule):
            raise TypeError(f"schedule: expected a schedule, got {_checks.describe(self.schedule)}")

    def __call__(self, step: int) -> float:
        """The rate of the step after `step` steps."""
        return self.schedule(step) * min((step + 1) / self.steps, 1.0)

    def observe(self, loss: float) -> None:
        """Tell the schedule within, if it wants to know."""
        if hasattr(self.schedule, "observe"):
            self.schedule.observe(loss)


class OnPlateau:
    """A rate that is lowered when a loss has stopped falling.

    After `patience` epochs in a row without a loss below ``best * (1 - threshold)``, the next such epoch multiplies the
    rate by `factor`. (PyTorch's `ReduceLROnPlateau`, with its defaults. A best loss below 0 must be undercut by as
    much.)

    Parameters
    ----------
    lr : float
        The first rate.
    factor : float, optional
        In (0, 1).
    patience : int, optional
        At least 0.
    threshold : float, optional
        By which part a loss must be lower to count, in [0, 1).
    last : float, optional
        The rate below which it does not fall.

    Attributes
    ----------
    lr : float
        The rate now.

    Examples
    --------
    >>> schedule = OnPlateau(1.0, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.observe(loss)
    >>> schedule(1000)
    0.5
    """

    def __init__(
        self, lr: float, *, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4, last: float = 0.0
    ) -> None:
        self.lr, self.last = _rate("lr", lr), _rate("last", last)
        self.factor, self.threshold = _checks.number("factor", factor), _checks.number("threshold", threshold)
        self.patience = _checks.integer("patience", patience, 0)
        for name, number, low in (("factor", self.factor, "("), ("threshold", self.threshold, "[")):
            if not (0 < number < 1 or (number == 0 and low == "[")):
                raise ValueError(f"{name}: expected a number in {low}0, 1), got {number}")
        self._best, self._waited = math.inf, 0

    def __call__(self, step: int) -> float:
        """The rate of the next step, whatever its number."""
        return self.lr

    def observe(self, loss: float) -> None:
        """Take note of an epoch's loss.

        Parameters
        ----------
        loss : float
            The validation loss, where there is one. NaN is no improvement.
        """
        if loss < self._best - abs(self._best if math.isfinite(self._best) else 0.0) * self.threshold:
            self._best, self._waited = float(loss), 0
        elif self._waited < self.patience:
            self._waited += 1
        else:
            self.lr, self._waited = max(self.lr * self.factor, self.last), 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint's `extra` keeps of it.

        Returns
        -------
        dict
            "lr", "best" and "waited"; "best" is None before the first loss.
        """
        return {"lr": self.lr, "best": self._best if math.isfinite(self._best) else None, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood.

        Parameters
        ----------
        state : mapping
            From `state_dict`.

        Raises
        ------
        TypeError, ValueError
            It is no such state; nothing has changed.
        """
        if set(_checks.mapping("state", state)) != {"lr", "best", "waited"}:
            raise ValueError(f"state: expected the keys best, lr, waited; got {sorted(map(str, state))}")
        best = math.inf if state["best"] is None else _checks.number("best", state["best"])
        lr, waited = _rate("lr", state["lr"]), _checks.integer("waited", state["waited"], 0)
        self.lr, self._best, self._waited = lr, best, waited

    def __repr__(self) -> str:
        return f"OnPlateau(lr={self.lr}, factor={self.factor}, patience={self.patience}, best={self._best})"


def _rate(name: str, value: Any) -> float:
    number = _checks.number(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected a number of at least 0, got {number}")
    return number
