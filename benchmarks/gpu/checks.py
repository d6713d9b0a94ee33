"""The checks: every case against the oracle, run again for the same bits, and with values that no case has.

A check returns what is wrong with it, in words. What raises or hangs is the business of `stages`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .problems import BOUNDS, FORWARD, Call, Case, Problem

__all__ = ["Check", "Outcome", "check_bad_values", "check_case", "outcome", "summary"]


@dataclass(frozen=True)
class Outcome:
    """Of one check.

    Attributes
    ----------
    case : Case
    forward, gradients : float
        The worst error of each, relative to an array's largest value.
    wrong : tuple of str
        What is; empty if all is well.
    """

    case: Case
    forward: float
    gradients: float
    wrong: tuple[str, ...]


class Check(NamedTuple):
    """A case, and what is done with it.

    Attributes
    ----------
    title : str
        What tells the checks of one case apart.
    run : callable
        From a case and a seed to an outcome.
    case : Case
    """

    title: str
    run: Callable[[Case, int], Outcome]
    case: Case

    @property
    def name(self) -> str:
        """What selects it, like ``lstm/tf32/bad values T=4 B=17 I=17 H=100 mask=none``."""
        return f"{self.case.kind}/{self.case.precision}/{self.title}{self.case.call}"


def check_case(case: Case, seed: int) -> Outcome:
    """Compare all results with the oracle's; runs again, and inference, must give the same bits."""
    problem = Problem(case, seed)
    call = Call(problem)
    found = call.run()
    errors = problem.errors(found)
    bounds = dict(zip((True, False), BOUNDS[case.precision], strict=True))
    wrong = [
        f"{name}: error {value:.2g}, more than {bounds[name in FORWARD]:g}"
        for name, value in errors.items()
        if not value <= bounds[name in FORWARD]
    ]
    for number in (2, 3):  # the step-wise engine captures a graph in the second run, and replays it in the third
        wrong += (f"{name}: run {number} gives other bits" for name in _differing(found, call.run()))
    wrong += (f"{name}: inference gives other bits" for name in _differing(found, call.run(train=False)))
    worst = [max((v for name, v in errors.items() if (name in FORWARD) is part), default=0.0) for part in (True, False)]
    return Outcome(case, *worst, tuple(wrong))


def _differing(first: dict[str, Any], again: dict[str, Any]) -> list[str]:
    return [name for name, value in again.items() if value.tobytes() != first[name].tobytes()]


def check_bad_values(case: Case, seed: int) -> Outcome:
    """NaN in the input stays in its row, and in the weights it is everywhere; infinities only have to end.

    The same for a length and an id out of range, which the device can't report and turns into NaN.
    """
    wrong = []
    T, B = case.T, case.B
    others = [b for b in range(B) if b != 2]

    def changed(what: Callable[[Problem], None], **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """All results, before and after a change."""
        problem = Problem(replace(case, **options), seed)
        before = Call(problem).run()
        what(problem)
        return before, Call(problem).run()

    def spoil_row(name: str, what: Callable[[Problem], None], first: int, **options: Any) -> None:
        before, after = changed(what, **options)
        if not np.isnan(after["y"][first:, 2]).all():
            wrong.append(f"{name}: y of its row is not NaN")
        if after["y"][:, others].tobytes() != before["y"][:, others].tobytes():
            wrong.append(f"{name}: y of other rows has changed")
        if name != "an id out of range" and not np.isnan(after["weight_hh"]).any():
            wrong.append(f"{name}: the gradient of weight_hh has no NaN")

    def in_x(value: float) -> Callable[[Problem], None]:
        return lambda problem: problem.x.__setitem__((1, 2, 0), value)

    def in_weights(value: float) -> Callable[[Problem], None]:
        return lambda problem: problem.params["weight_hh"].__setitem__((0, 0), value)

    spoil_row("NaN in x", in_x(np.nan), 1)
    spoil_row("a length out of range", lambda p: p.lengths.__setitem__(2, T + 3), 0, mask="lengths")
    spoil_row("an id out of range", lambda p: p.x.__setitem__((1, 2), case.I), 1, ids=True)
    before, after = changed(in_x(np.inf))
    if after["y"][:, others].tobytes() != before["y"][:, others].tobytes():
        wrong.append("infinity in x: y of other rows has changed")
    _, after = changed(in_weights(np.nan))
    if not np.isnan(after["y"][1:]).all():
        wrong.append("NaN in weight_hh: not all of y[1:] is NaN")
    changed(in_weights(np.inf))
    return Outcome(case, 0.0, 0.0, tuple(wrong))


def outcome(case: Case, record: dict[str, Any]) -> Outcome:
    """The outcome that a stage has recorded; what has raised is wrong."""
    if "raised" in record:
        return Outcome(case, np.inf, np.inf, (f"raised {record['raised']}",))
    return Outcome(case, float(record["forward"]), float(record["gradients"]), tuple(record["wrong"]))


def summary(outcomes: Iterable[Outcome]) -> list[str]:
    """The worst error per kind and precision, and the number of checks that failed."""
    found = defaultdict(list)
    for outcome in outcomes:
        found[outcome.case.kind, outcome.case.precision].append(outcome)
    lines = ["worst errors    precision   forward  gradients  checks  failed   (allowed: forward, gradients)"]
    for (kind, precision), group in found.items():
        forward, gradients = max(o.forward for o in group), max(o.gradients for o in group)
        failed = sum(bool(outcome.wrong) for outcome in group)
        allowed = "{:g}, {:g}".format(*BOUNDS[precision])
        lines.append(
            f"{kind:15} {precision:10} {forward:8.1e} {gradients:10.1e} {len(group):7} {failed:7}   ({allowed})"
        )
    return lines
