"""The step on symbols: what it computes, with single-use products fused into the sums that they are added to."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from types import CodeType
from typing import Any, NoReturn

from . import declarations
from .cell import Wrapped
from .declarations import Declared, Gate
from .namespaces import namespaces, new_states, step_line
from .symbols import Graph, Node, Symbol

__all__ = ["Chain", "Trace", "trace"]


@dataclass(frozen=True)
class Chain:
    """One chain of additions, the `value` of a "sum".

    Attributes
    ----------
    name : str
        The gate's, with ".x" or ".h" where they are apart, or ".name" of an own product.
    x, h : int or None
        The gate's block of `weight_ih` and of `weight_hh`.
    row : bool
        Whether `step` says what the recurrent side multiplies.
    product : declarations.Product or None
        An own product.
    """

    name: str
    x: int | None = None
    h: int | None = None
    row: bool = False
    product: declarations.Product | None = None


@dataclass(frozen=True)
class Trace:
    """What a step computes.

    Attributes
    ----------
    graph : Graph
        Its nodes are those that the new states depend on, in the order in which the step made them.
    outputs : tuple of Node
        The new states.
    """

    graph: Graph
    outputs: tuple[Node, ...]

    @property
    def sums(self) -> list[Node]:
        """The products' results."""
        return [node for node in self.graph.nodes if node.op == "sum"]


class _Tracer:
    """The `Work` of a trace: each source is one node, however often it is asked for."""

    def __init__(self, cell: Any, declared: Declared, training: bool) -> None:
        self.training = training
        self.declared = declared
        self.graph = Graph(declared.where, declared.domains, _steps(cell))
        self._called: set[str] = set()
        gates = declared.gates
        self._blocks = {
            "x": [gate.name for gate in gates if gate.x],
            "h": [gate.name for gate in gates if gate.h],
        }
        vectors = [vector.name for vector in declared.vectors]
        self._sources: dict[str, list[Any]] = {"vector": vectors, "given": [given.name for given in declared.given]}

    def refuse(self, error: type[Exception], expected: str, got: str) -> NoReturn:
        self.graph.refuse(error, expected, got)

    def sum(self, gate: Gate, side: str, row: Any) -> Symbol:
        name = f"{gate.name}.{side}" if gate.apart else gate.name
        if gate.h == "row":
            self._first(f"gate.{gate.name}")
        x = self._blocks["x"].index(gate.name) if side in ("x", "both") else None
        h = self._blocks["h"].index(gate.name) if side in ("h", "both") else None
        operands = () if h is None else (self._row(row, self.declared.recurrent.width, f"gate.{gate.name}"),)
        return self._add("sum", operands, Chain(name, x, h, gate.h == "row"), 0)

    def product(self, product: declarations.Product, row: Any) -> Symbol:
        self._first(f"product.{product.name}")
        operand = self._row(row, product.of, f"product.{product.name}")
        return self._add(
            "sum", (operand,), Chain(f".{product.name}", product=product), self.declared.domain(product.to)
        )

    def state(self, name: str) -> Symbol:
        states = self.declared.states
        index = [state.name for state in states].index(name)
        return self._add("before", (), index, self.declared.domain(states[index].width))

    def vector(self, name: str) -> Symbol:
        vector = next(vector for vector in self.declared.vectors if vector.name == name)
        return self._add("vector", (), name, self.declared.domain(vector.width))

    def given(self, name: str) -> Symbol:
        index = self._sources["given"].index(name)
        width = self.declared.given[index].width
        return self._add("given", (), index, None if width is None else self.declared.domain(width))

    def random(self, op: str, stream: int, width: str) -> Symbol:
        return self._add(op, (), float(stream), self.declared.domain(width))

    def copy(self, row: Any) -> Symbol:
        return Symbol.make(row, "copy", row)

    def _add(self, op: str, operands: tuple[Node, ...], value: Any, domain: int | None) -> Symbol:
        return Symbol(self.graph, self.graph.add(op, operands, value, domain))

    def _first(self, name: str) -> None:
        """Own matrices and row gates are used once, as each has one place for its sums."""
        if name in self._called:
            self.refuse(ValueError, f"{name} to be called once", "a second call")
        self._called.add(name)

    def _row(self, row: Any, width: str, what: str) -> Node:
        if not isinstance(row, Symbol):
            shape = f"an array of shape {tuple(row.shape)}" if hasattr(row, "shape") else f"{row!r}"
            self.refuse(TypeError, f"a row in {what}", shape)
        if row.node.domain != self.declared.domain(width):
            found = "a number" if row.node.domain is None else f"one of {self.declared.domains[row.node.domain]!r}"
            self.refuse(ValueError, f"a row of the width {width!r} in {what}", found)
        return row.node


def _steps(cell: Any) -> set[CodeType]:
    """The code of the step that a user wrote: of the cell, or of the one that is wrapped."""
    while isinstance(cell, Wrapped):
        cell = cell.cell
    return {inspect.unwrap(type(cell).step).__code__}


def trace(cell: Any, declared: Declared, training: bool) -> Trace:
    """Calls the cell's step with symbols.

    Parameters
    ----------
    cell : Cell
    declared : Declared
    training : bool
        Whether wrappers draw masks.

    Returns
    -------
    Trace

    Raises
    ------
    TypeError, ValueError
        Whatever the step does that it may not, with its line.
    """
    tracer = _Tracer(cell, declared, training)
    rows = new_states(cell, declared, namespaces(cell, declared, tracer))
    outputs = tuple(
        _output(tracer, state, row, f"{number + 1}{step_line(cell)}")
        for number, (state, row) in enumerate(zip(declared.states, rows, strict=True))
    )
    found = _fused(tracer.graph, outputs)
    _check_all_used(declared, found)
    return found


def _output(tracer: _Tracer, state: declarations.State, row: Any, place: str) -> Node:
    expected = f"{tracer.declared.where}.step: expected a row of the width {state.width!r} as the new {state.name}"
    if not isinstance(row, Symbol):
        raise TypeError(f"{expected}, got {type(row).__name__} in place {place}")
    if row.node.domain != tracer.declared.domain(state.width):
        width = "a number" if row.node.domain is None else repr(tracer.declared.domains[row.node.domain])
        raise ValueError(f"{expected}, got {width}{row.node.line}")
    return row.node


def _check_all_used(declared: Declared, found: Trace) -> None:
    used = {node.value.name for node in found.sums}
    for gate in declared.gates:
        for name in (f"{gate.name}.x", f"{gate.name}.h") if gate.apart else (gate.name,):
            if name not in used:
                raise ValueError(f"{declared.where}.step: expected every gate to be used, got no use of gate.{name}")
    for product in declared.products:
        if f".{product.name}" not in used:
            raise ValueError(
                f"{declared.where}.step: expected every product to be used, got no use of product.{product.name}"
            )
    sources = {(node.op, node.value) for node in found.graph.nodes if node.op in ("vector", "given")}
    for vector in declared.vectors:
        if ("vector", vector.name) not in sources:
            raise ValueError(
                f"{declared.where}.step: expected every vector to be used, got no use of vector.{vector.name}"
            )
    for index, given in enumerate(declared.given):
        if ("given", index) not in sources:
            raise ValueError(
                f"{declared.where}.step: expected all that is given to be used, got no use of {given.name}"
            )


def reachable(outputs: tuple[Node, ...]) -> list[Node]:
    """The nodes that some depend on, in the order of their creation."""
    found: dict[Node, None] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting.extend(node.operands)
    return sorted(found, key=lambda node: node.index)


def _fused(graph: Graph, outputs: tuple[Node, ...]) -> Trace:
    """The graph again, in which a product that is used once, in a sum, is part of that sum."""
    nodes = reachable(outputs)
    uses = Counter(operand for node in nodes for operand in node.operands)
    uses.update(outputs)
    new = Graph(graph.where, graph.widths, share=True)
    made: dict[Node, Node] = {}

    def single(node: Node) -> bool:
        return node.op == "mul" and uses[node] == 1

    for node in nodes:
        op, operands = node.op, node.operands
        if op == "add" and single(operands[0]):
            op, operands = "fma", (*operands[0].operands, operands[1])
        elif op == "add" and single(operands[1]):
            op, operands = "fma", (*operands[1].operands, operands[0])
        elif op == "sub" and single(operands[1]):
            op, operands = "fnma", (*operands[1].operands, operands[0])
        made[node] = new.add(op, tuple(made[operand] for operand in operands), node.value, node.domain)
        made[node].line = node.line
    kept = reachable(tuple(made[node] for node in outputs))
    new.restrict(kept)
    return Trace(new, tuple(made[node] for node in outputs))
