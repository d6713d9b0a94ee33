"""What `step` is called with: `gate`, `state`, `vector`, `product`, `given` and `random`, over whatever works on rows.

A `Work` says what a gate's sum, a state or a product is: symbols while a step is traced, float64 arrays in the oracle.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn, Protocol

from .declarations import Declared, Gate, Product
from .functions import Row

__all__ = ["Apart", "Namespace", "Random", "Work", "namespaces", "new_states"]


class Work(Protocol):
    """What rows are, and where they come from."""

    training: bool

    def sum(self, gate: Gate, side: str, row: Row | None) -> Row:
        """A gate's sum: of `side` "both", "x" or "h". `row` is what the recurrent side multiplies."""

    def product(self, product: Product, row: Row) -> Row:
        """A matrix times a row."""

    def state(self, name: str) -> Row:
        """A state before the step."""

    def vector(self, name: str) -> Row:
        """A learned vector."""

    def given(self, name: str) -> Row:
        """An extra input."""

    def random(self, op: str, stream: int, width: str) -> Row:
        """Uniform numbers in [0, 1), one per unit: "random_step" or "random_sequence"."""

    def copy(self, row: Row) -> Row:
        """The row again, stored as if it had been computed."""

    def refuse(self, error: type[Exception], expected: str, got: str) -> NoReturn:
        """Raises, naming the line of `step`."""


class Namespace:
    """Values by name; an unknown name is refused with the known ones."""

    def __init__(self, what: str, values: Mapping[str, Callable[[], Any]], work: Work) -> None:
        self._what, self._values, self._work = what, values, work

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._values:
            self._work.refuse(ValueError, f"{self._what}. and one of {list(self._values)}", f"{self._what}.{name}")
        return self._values[name]()


class Apart:
    """Both sides of a gate, each a row: `x` and `h`."""

    def __init__(self, x: Callable[[], Row], h: Callable[[], Row]) -> None:
        self._x, self._h = x, h

    @property
    def x(self) -> Row:
        """W x + b_ih."""
        return self._x()

    @property
    def h(self) -> Row:
        """U h + b_hh."""
        return self._h()


class Random:
    """Random numbers, for wrappers: functions of seed, layer, stream, step, row of the batch, and unit.

    Attributes
    ----------
    training : bool
        Whether masks are to be drawn at all.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self.training = work.training

    def step(self, stream: int, width: str = "hidden") -> Row:
        """Uniform numbers in [0, 1), new ones at each step."""
        return self._work.random("random_step", stream, width)

    def sequence(self, stream: int, width: str = "hidden") -> Row:
        """Uniform numbers in [0, 1), the same ones at all steps."""
        return self._work.random("random_sequence", stream, width)

    def copy(self, row: Row) -> Row:
        """The row, stored as one that a mask was applied to, so that training and inference have the same products."""
        return self._work.copy(row)


def namespaces(cell: Any, declared: Declared, work: Work) -> dict[str, Any]:
    """All that a step may be called with, by the name of its parameter."""
    random = Random(work)
    read: list[Row] = []

    def recurrent() -> Row:
        """What the gates' recurrent matrices multiply; made once, as it may be computed."""
        if not read:
            read.append(cell.read(work.state(declared.recurrent.name), random))
        return read[0]

    def gate(one: Gate) -> Any:
        if one.h == "row":
            return lambda row: work.sum(one, "both" if one.x else "h", cell.read(row, random))
        if one.apart:
            return Apart(lambda: work.sum(one, "x", None), lambda: work.sum(one, "h", recurrent()))
        if not one.h:
            return work.sum(one, "x", None)
        return work.sum(one, "both" if one.x else "h", recurrent())

    def space(what: str, values: Iterable[Any], get: Callable[[Any], Any]) -> Namespace:
        return Namespace(what, {value.name: partial(get, value) for value in values}, work)

    return {
        "gate": space("gate", declared.gates, gate),
        "state": space("state", declared.states, lambda state: work.state(state.name)),
        "vector": space("vector", declared.vectors, lambda vector: work.vector(vector.name)),
        "product": space("product", declared.products, lambda product: partial(work.product, product)),
        "given": space("given", declared.given, lambda given: work.given(given.name)),
        "random": random,
    }


def new_states(cell: Any, declared: Declared, spaces: Mapping[str, Any]) -> tuple[Row, ...]:
    """`cell.step` called with those of the namespaces that it takes: the new states, as many as there are."""
    where = f"{declared.where}.step"
    names = list(inspect.signature(cell.step).parameters)
    unknown = [name for name in names if name not in spaces]
    if unknown:
        raise TypeError(f"{where}: expected parameters among {list(spaces)}, got {unknown[0]!r}")
    rows = cell.step(**{name: spaces[name] for name in names})
    rows = rows if isinstance(rows, tuple | list) else (rows,)
    if len(rows) != len(declared.states):
        states = ", ".join(state.name for state in declared.states)
        got = f"{len(rows)} value{'' if len(rows) == 1 else 's'}{step_line(cell)}"
        raise ValueError(f"{where}: expected the new states {states}, in this order, got {got}")
    return tuple(rows)


def step_line(cell: Any) -> str:
    """` (file:number: the line)` at which the step that a user wrote begins: of the cell, or of one inside it."""
    while hasattr(cell, "cell"):
        cell = cell.cell
    code = inspect.unwrap(type(cell).step).__code__
    text = linecache.getline(code.co_filename, code.co_firstlineno).strip()
    return f" ({code.co_filename}:{code.co_firstlineno}: {text})"
