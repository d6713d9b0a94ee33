"""Which value is computed, loaded and stored in which stage.

A stage begins where products or means must have been finished for all units. A value that a later stage needs is loaded
there if it lies somewhere, computed again if that is cheap, and otherwise stored for it. Backward treats what forward
has computed in the same way: the results of functions are kept, sums and products are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from .derivative import Adjoints, BackFrom
from .functions import PRIMITIVES
from .symbols import SOURCES, Node
from .trace import Trace

__all__ = ["RANDOM", "At", "Block", "Schedule", "backward_schedule", "forward_schedule", "rows_of_products", "start_of"]

At = tuple[int, int]
"""A stage: its number, and the domain of its rows."""

RANDOM = frozenset({"random_step", "random_sequence"})


@dataclass
class Block:
    """One stage: the nodes that it computes and loads, and its stores: of a node, to what a layout has a place for."""

    computed: dict[Node, None] = field(default_factory=dict)
    loaded: dict[Node, None] = field(default_factory=dict)
    stores: list[tuple[Node, Hashable]] = field(default_factory=list)


class Schedule:
    """The stages of one pass.

    Parameters
    ----------
    stages : dict of Node to int
        When each node is computed first.
    loads : callable
        `loads(node, stage)`: whether a stage loads the node, instead of computing it.
    on_load : callable
        `on_load(schedule, node)` sees to it that a loaded node is stored before.
    """

    def __init__(
        self,
        stages: dict[Node, int],
        loads: Callable[[Node, int], bool],
        on_load: Callable[[Schedule, Node], None],
    ) -> None:
        self.stages = stages
        self.blocks: dict[At, Block] = {}
        self.last_read: dict[Node, float] = {}
        self._loads, self._on_load = loads, on_load
        self._stored: set[tuple[Node, Hashable]] = set()

    def block(self, at: At) -> Block:
        """The stage, made when it is first asked for."""
        return self.blocks.setdefault(at, Block())

    def home(self, node: Node, domain: int | None = None) -> At:
        """Where a node is computed first; a number, in the stage of the rows of `domain`."""
        found = node.domain if domain is None else domain
        assert found is not None
        return self.stages[node], found

    def store(self, node: Node, at: At, to: Hashable) -> None:
        """Stores a node in a stage, which computes or loads it for that."""
        if (node, to) not in self._stored:
            self._stored.add((node, to))
            self.block(at).stores.append((node, to))
            self._want(node, at)

    def read(self, node: Node, stage: float) -> None:
        """Notes that a stage reads a stored node."""
        self.last_read[node] = max(stage, self.last_read.get(node, -1))

    def _want(self, node: Node, at: At) -> None:
        block, waiting, loaded = self.block(at), [node], []
        while waiting:
            one = waiting.pop()
            if one in block.computed or one in block.loaded:
                continue
            if self._loads(one, at[0]):
                block.loaded[one] = None
                self.read(one, at[0])
                loaded.append(one)
            else:
                block.computed[one] = None
                waiting.extend(one.operands)
        for one in loaded:
            self._on_load(self, one)

    def touch(self, node: Node, stage: float) -> None:
        """Reads a source that is made before the stage's code, and sees to what it is made of."""
        self.read(node, stage)
        if node.op in SOURCES:
            self._on_load(self, node)


def rows_of_products(trace: Trace) -> dict[Node, Node]:
    """The computed rows that products read, each with the first sum of those that read it."""
    found: dict[Node, Node] = {}
    for node in trace.sums:
        for operand in node.operands:
            if operand.op != "before":
                found.setdefault(operand, node)
    return found


def _free(nodes: list[Node]) -> set[Node]:
    """The nodes that are never stored as rows: numbers, and what depends on vectors and constants alone."""
    constant: set[Node] = set()
    for node in nodes:
        if node.op in ("const", "vector") or (node.op in PRIMITIVES and constant.issuperset(node.operands)):
            constant.add(node)
    return constant | {node for node in nodes if node.domain is None}


def _kept(node: Node, free: set[Node]) -> bool:
    return node.op in PRIMITIVES and PRIMITIVES[node.op].kept and node not in free


def _forward_stages(nodes: list[Node]) -> dict[Node, int]:
    stages: dict[Node, int] = {}
    for node in nodes:
        operands = [(operand, stages[operand]) for operand in node.operands]
        if node.op == "sum":
            stages[node] = max((stage + (one.op != "before") for one, stage in operands), default=0)
        elif node.op == "mean":  # products' results are there as soon as the stage begins
            stages[node] = max(stage + (one.op not in ("sum", "before")) for one, stage in operands)
        else:
            stages[node] = max((stage for _, stage in operands), default=0)
    return stages


def forward_schedule(trace: Trace, nodes: list[Node], kept: list[Node]) -> Schedule:
    """The forward pass.

    Parameters
    ----------
    trace : Trace
    nodes : list of Node
        Those of the step itself.
    kept : list of Node
        What is stored for backward.

    Returns
    -------
    Schedule
    """
    stages, free = _forward_stages(nodes), _free(nodes)
    outputs, rows = set(trace.outputs), rows_of_products(trace)

    def loads(node: Node, stage: int) -> bool:
        if node.op in SOURCES:
            return True
        if stages[node] == stage or node.op == "const" or node.op in RANDOM:
            return False
        return node in outputs or node in rows or _kept(node, free)

    def on_load(schedule: Schedule, node: Node) -> None:
        if node.op == "mean":
            for row in node.operands:
                schedule.read(row, stages[node])
                if row.op not in ("sum", "before"):
                    schedule.store(row, schedule.home(row), row)
        elif node.op not in SOURCES and node not in outputs:
            schedule.store(node, schedule.home(node), node)

    schedule = Schedule(stages, loads, on_load)
    for index, node in enumerate(trace.outputs):
        schedule.store(node, schedule.home(node), ("after", index))
    for node in rows:
        schedule.store(node, schedule.home(node), node)
    for node in kept:
        schedule.store(node, schedule.home(node), ("copy", node) if node.op == "sum" else node)
    for node in trace.sums:
        schedule.block(schedule.home(node))
    return schedule


def start_of(schedule: Schedule, start: Node, domain: int | None, stage: float) -> None:
    """Sees to it that the row which a back product of some stage starts from is there: another's result, or stored."""
    schedule.touch(start, stage)
    if start.op != "back":
        schedule.store(start, schedule.home(start, domain), ("start", start))


def _backward_stages(nodes: list[Node], first: int) -> dict[Node, int]:
    stages: dict[Node, int] = {}
    for node in nodes:
        latest = max((stages[operand] for operand in node.operands), default=0)
        stages[node] = 0 if node.index < first else latest + (node.op in ("mean", "back"))
    return stages


def backward_schedule(trace: Trace, adjoints: Adjoints) -> Schedule:
    """The backward pass, but for the gradients of the states.

    Parameters
    ----------
    trace : Trace
    adjoints : Adjoints

    Returns
    -------
    Schedule
        Its `last_read` says what forward must keep, and until when.
    """
    nodes, first = trace.graph.nodes, adjoints.first
    stages, free = _backward_stages(nodes, first), _free(nodes[:first])
    outputs, rows = set(trace.outputs), rows_of_products(trace)
    in_slots = set(adjoints.sums.values())
    local = _local(nodes, first)

    def loads(node: Node, stage: int) -> bool:
        if node.op in SOURCES:
            return True
        if node.op == "const" or node.op in RANDOM:
            return False
        if node.index < first:
            return node in outputs or node in rows or _kept(node, free)
        return node not in local and stages[node] != stage

    def on_load(schedule: Schedule, node: Node) -> None:
        if node.index < first:
            return
        if node.op == "back" and isinstance(node.value, BackFrom) and node.value.direct:
            start_of(schedule, node.operands[0], node.domain, stages[node])
        elif node.op == "mean":
            (row,) = node.operands
            schedule.touch(row, stages[node])
            if row.op != "back" and row not in in_slots:
                schedule.store(row, schedule.home(row, node.domain), row)
        elif node.op not in SOURCES and node not in in_slots:
            schedule.store(node, schedule.home(node), node)

    schedule = Schedule(stages, loads, on_load)
    for node, d in adjoints.sums.items():
        schedule.store(d, schedule.home(d, node.domain), node)
    for node, d in adjoints.vectors.items():
        schedule.store(d, schedule.home(d, node.domain), ("vector", node))
    for node, d in adjoints.given.items():
        domain = node.domain if node.domain is not None else d.domain or 0
        schedule.store(d, schedule.home(d, domain), ("given", node))
    return schedule


def _local(nodes: list[Node], first: int) -> set[Node]:
    """What backward computes of forward's values alone, and so in any stage."""
    found = set(nodes[:first])
    for node in nodes[first:]:
        if node.op == "const" or (node.op not in SOURCES and all(operand in found for operand in node.operands)):
            found.add(node)
    return found
