"""Where values lie: regions and their slots, scratch rows, and numbers.

A gate's slot holds its raw sum, then what backward needs of the step, then the gradient of the sum. So a kept row takes
the slot of a gate whose sum is no longer needed, its own gate's if it can. Each slot has a time from which on it may be
overwritten, in forward and in backward.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from .derivative import Adjoints
from .functions import PRIMITIVES
from .program import Place, Region
from .schedule import Schedule, rows_of_products
from .symbols import SOURCES, Node
from .trace import Chain, Trace

__all__ = ["Layout", "ScratchRow", "scratch_places"]


@dataclass
class _Slot:
    """A slot and its times.

    Attributes
    ----------
    single : bool
        Whether it is its region's only one, so that products and means can read it.
    busy : float
        The first stage of forward whose stores may overwrite it.
    read : float
        The last stage of backward that reads it.
    overwritten : float
        The stage of backward that stores a gradient in it.
    """

    place: Place
    domain: int
    single: bool
    busy: float = -1
    read: float = -1
    overwritten: float = math.inf


@dataclass(frozen=True)
class _Row:
    """A row that wants a slot: stored in stage `stage`, and needed until `until`; in backward, until `read`."""

    node: Node
    to: Hashable
    domain: int
    stage: int
    until: float
    read: float
    single: bool


class Layout:
    """The regions of a program, and where the values of its passes lie.

    Attributes
    ----------
    regions : list of Region
    scalars : int
    sums : list of Node
        In the order of their slots.
    places : dict
        Of nodes, and of whatever else a schedule stores to.
    """

    def __init__(self, trace: Trace) -> None:
        self.regions: list[Region] = []
        self.scalars = 0
        self.places: dict[Hashable, Place] = {}
        self._slots: list[_Slot] = []
        gates = [node for node in trace.sums if _chain(node).product is None]
        own = [node for node in trace.sums if _chain(node).product is not None]
        operands = list(dict.fromkeys(node.operands for node in gates))
        gates.sort(key=lambda node: _order(_chain(node), operands.index(node.operands)))
        self.sums = gates + own
        for sums in [gates, *([node] for node in own)]:
            if sums:
                self._add_sums(sums)
        for row in rows_of_products(trace):
            self.places[row] = self._region(_domain(row), 1)[0].place

    def _add_sums(self, sums: list[Node]) -> None:
        new = self._region(_domain(sums[0]), len(sums))
        self._slots += new
        self.places.update(zip(sums, (slot.place for slot in new), strict=True))

    def _region(self, domain: int, count: int) -> list[_Slot]:
        self.regions.append(Region(domain, count))
        number = len(self.regions) - 1
        return [_Slot(Place("slot", number, slot), domain, count == 1) for slot in range(count)]

    def scalar(self, key: Hashable) -> None:
        """A place for a number."""
        self.places[key] = Place("scalar", self.scalars)
        self.scalars += 1

    def place_training(self, forward: Schedule, backward: Schedule, adjoints: Adjoints, kept: list[Node]) -> None:
        """Places for what the training pass stores, and for the vectors' gradients.

        Parameters
        ----------
        forward, backward : Schedule
        adjoints : Adjoints
        kept : list of Node
            What forward stores for backward.
        """
        slots = {slot.place: slot for slot in self._slots}
        for node in self.sums:
            slot = slots[self.places[node]]
            slot.overwritten = backward.stages[adjoints.sums[node]]
            slot.busy = forward.last_read.get(node, forward.stages[node])
            if node in backward.last_read and node not in kept:
                slot.busy, slot.read = math.inf, backward.last_read[node]
        self._place(_rows(forward, backward, set(kept), set(self.places)))
        self._place_means(forward)
        for vector, d in adjoints.vectors.items():
            self.places["vector", vector] = self._vector(_domain(vector), backward.stages[d])

    def place_inference(self, trace: Trace, training: Trace, schedule: Schedule) -> None:
        """Places for a pass that was traced by itself: sums and rows of products where training has them.

        Parameters
        ----------
        trace, training : Trace
        schedule : Schedule
        """
        of_name = {_chain(node).name: node for node in training.sums}
        rows = {_chain(one).name: row for row, one in rows_of_products(training).items()}
        for node in trace.sums:
            self.places[node] = self.places[of_name[_chain(node).name]]
        for row, one in rows_of_products(trace).items():
            self.places[row] = self.places[rows[_chain(one).name]]
        for slot in self._slots:
            slot.busy, slot.read, slot.overwritten = -1, -1, math.inf
        slots = {slot.place: slot for slot in self._slots}
        for node in trace.sums:
            slots[self.places[node]].busy = schedule.last_read.get(node, schedule.stages[node])
        self._place(_rows(schedule, None, set(), set(self.places)))
        scalars, self.scalars = self.scalars, 0
        self._place_means(schedule)
        self.scalars = max(scalars, self.scalars)

    def _place_means(self, schedule: Schedule) -> None:
        for node in schedule.stages:
            if node.op == "mean":
                self.scalar(node)

    def _place(self, rows: list[_Row]) -> None:
        """First those that can take a slot of their own gate's, then the others."""
        others = []
        for row in rows:
            own = {self.places[node] for node in _own_sums(row.node)} if math.isinf(row.until) else set()
            if not self._take(row, [slot for slot in self._slots if slot.place in own]):
                others.append(row)
        for row in others:
            if not self._take(row, self._slots):
                self._slots += self._region(row.domain, 1)
                self._take(row, self._slots[-1:])

    def _take(self, row: _Row, slots: Iterable[_Slot]) -> bool:
        for slot in slots:
            fits = slot.domain == row.domain and (slot.single or not row.single)
            if fits and slot.busy <= row.stage and row.read <= slot.overwritten:
                slot.busy, slot.read = row.until, max(slot.read, row.read)
                self.places[row.to] = slot.place
                return True
        return False

    def _vector(self, domain: int, stage: int) -> Place:
        """The slot of a kept row that is no longer needed, or a new one, for a vector's gradient."""
        for slot in self._slots:
            if slot.domain == domain and slot.read <= stage and math.isinf(slot.overwritten):
                break
        else:
            (slot,) = self._region(domain, 1)
            self._slots.append(slot)
        slot.overwritten = stage
        return slot.place


def _chain(node: Node) -> Chain:
    assert isinstance(node.value, Chain)
    return node.value


def _domain(node: Node) -> int:
    assert node.domain is not None
    return node.domain


def _order(chain: Chain, operand: int) -> tuple[int, int, int]:
    """Slots of one source are neighbours: recurrent sides alone, both sides, x with a row, x alone, a row alone."""
    if chain.row:
        return (2 if chain.x is not None else 4), operand, chain.h or 0
    if chain.h is not None:
        return (0 if chain.x is None else 1), 0, chain.h
    return 3, 0, chain.x or 0


def _own_sums(node: Node) -> list[Node]:
    """The sums that a value depends on with no other kept value in between."""
    found, waiting = [], [node] if node.op == "sum" else list(node.operands)
    while waiting:
        one = waiting.pop(0)
        if one.op == "sum":
            found.append(one)
        elif one.op not in SOURCES and one.op in PRIMITIVES and not PRIMITIVES[one.op].kept:
            waiting.extend(one.operands)
    return found


def _rows(forward: Schedule, backward: Schedule | None, kept: set[Node], placed: set[Hashable]) -> list[_Row]:
    """What forward stores and has no place for yet, by stages."""
    of_means = {row for node in forward.stages if node.op == "mean" for row in node.operands}
    found = []
    for (stage, domain), block in forward.blocks.items():
        for node, to in block.stores:
            if to in placed or (isinstance(to, tuple) and to[0] == "after"):
                continue
            until = math.inf if node in kept else forward.last_read[node]
            read = -1 if backward is None or node not in kept else backward.last_read[node]
            single = node in of_means and to is node
            found.append(_Row(node, to, domain, stage, until, read, single))
    return sorted(found, key=lambda row: (row.stage, row.node.index))


@dataclass(frozen=True)
class ScratchRow:
    """A row that lives for one step backward, from `written` to `read`: times within a step."""

    key: Hashable
    domain: int
    written: float
    read: float


def scratch_places(rows: list[ScratchRow]) -> tuple[dict[Hashable, Place], tuple[int, ...]]:
    """Places for rows, and the domains of as few rows as hold them.

    Parameters
    ----------
    rows : list of ScratchRow

    Returns
    -------
    places : dict
    domains : tuple of int
    """
    places: dict[Hashable, Place] = {}
    domains: list[int] = []
    free_from: list[float] = []
    for row in sorted(rows, key=lambda row: row.written):
        fitting = (n for n, domain in enumerate(domains) if domain == row.domain and free_from[n] < row.written)
        number = next(fitting, len(domains))
        if number == len(domains):
            domains.append(row.domain)
            free_from.append(0.0)
        free_from[number] = row.read
        places[row.key] = Place("scratch", number)
    return places, tuple(domains)
