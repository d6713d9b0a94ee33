"""The gradients of a step: reverse mode, on the nodes of its trace.

The operations are walked in reverse. What flows into a value adds up in that order, and a product (or a negative) that
a derivative rule has made is fused into the sum. Rejected: summing contributions as they are needed, from the sources
on, which would leave the order of the additions to the order of the sources.
"""

from __future__ import annotations

from dataclasses import dataclass

from .functions import PRIMITIVES
from .symbols import SOURCES, Graph, Node, Symbol
from .trace import Trace

__all__ = ["Adjoints", "BackFrom", "differentiate"]


@dataclass(frozen=True)
class Adjoints:
    """Gradients of a step's loss.

    Attributes
    ----------
    first : int
        The index of the first node that is not the trace's.
    sums : dict of Node to Node
        Of each product's sums.
    states : tuple of Node or None
        What flows to each state before the step without passing a product.
        None: nothing.
    vectors, given : dict of Node to Node
    zero : Node
        The constant.
    """

    first: int
    sums: dict[Node, Node]
    states: tuple[Node | None, ...]
    vectors: dict[Node, Node]
    given: dict[Node, Node]
    zero: Node


@dataclass(frozen=True)
class BackFrom:
    """The `value` of a "back": the row whose gradient it is, and whether its first operand flows to that directly."""

    row: Node
    direct: bool


def differentiate(trace: Trace, domains: tuple[int, ...]) -> Adjoints:
    """The gradients, as nodes that are added to the trace's graph.

    Parameters
    ----------
    trace : Trace
    domains : tuple of int
        Of the states.

    Returns
    -------
    Adjoints

    Raises
    ------
    ValueError
        A number per row is used in rows of several widths, so that its gradient has no one place.
    """
    graph = trace.graph
    forward = list(graph.nodes)
    reached = _differentiable(forward)
    readers: dict[Node, list[Node]] = {}
    for node in trace.sums:
        for source in node.operands:
            readers.setdefault(source, []).append(node)
    flows: dict[Node, Symbol] = {}
    sums: dict[Node, Node] = {}

    def flow(node: Node, d: Symbol, contribution: Symbol | None) -> None:
        if contribution is None or node not in reached:
            return
        before = flows.get(node)
        try:
            flows[node] = (
                contribution if before is None else _accumulated(before, contribution, fresh=contribution is not d)
            )
        except ValueError as error:
            raise ValueError(f"{error}{node.line}") from None

    for index, (node, domain) in enumerate(zip(trace.outputs, domains, strict=True)):
        d = Symbol(graph, graph.add("gradient", (), index, domain))
        flow(node, d, d)
    for node in reversed(forward):
        if node.op == "sum":
            found = flows.get(node)
            sums[node] = graph.number(0.0) if found is None else found.node
            continue
        if node in readers and node.op != "before":
            flows[node] = _through_products(graph, flows.get(node), node, [sums[one] for one in readers[node]])
        d_node = flows.get(node)
        if d_node is None or node.op in SOURCES - {"mean"}:
            continue
        parts: tuple[Symbol | None, ...]
        if node.op == "mean":
            parts = _of_mean(d_node, node)
        else:
            operands = [Symbol(graph, operand) for operand in node.operands]
            parts = PRIMITIVES[node.op].derivative(d_node, Symbol(graph, node), *operands)
        for operand, part in zip(node.operands, parts, strict=True):
            flow(operand, d_node, part)

    zero = graph.number(0.0)

    def final(op: str) -> dict[Node, Node]:
        return {node: flows[node].node if node in flows else zero for node in forward if node.op == op}

    before = {node.value: flows[node].node for node in forward if node.op == "before" and node in flows}
    states = tuple(before.get(index) for index in range(len(domains)))
    return Adjoints(len(forward), sums, states, final("vector"), final("given"), zero)


def _differentiable(nodes: list[Node]) -> set[Node]:
    """The nodes that depend on something that has a gradient."""
    found: set[Node] = set()
    for node in nodes:
        if node.op in SOURCES or any(operand in found for operand in node.operands):
            found.add(node)
    return found


def _accumulated(total: Symbol, more: Symbol, fresh: bool) -> Symbol:
    """total + more; what a rule has made is fused."""
    node = more.node
    if not fresh:
        return total + more
    if node.op == "mul":
        return total.make("fma", *_operands(more), total)
    if node.op == "neg":
        (inner,) = _operands(more)
        return total.make("fnma", *_operands(inner), total) if inner.node.op == "mul" else total - inner
    return total + more


def _operands(symbol: Symbol) -> list[Symbol]:
    return [Symbol(symbol.graph, operand) for operand in symbol.node.operands]


def _through_products(graph: Graph, direct: Symbol | None, node: Node, gradients: list[Node]) -> Symbol:
    """A computed row's gradient: what flows to it directly, and back through the products that read it."""
    operands = (*([] if direct is None else [direct.node]), *gradients)
    return Symbol(graph, graph.add("back", operands, BackFrom(node, direct is not None), node.domain))


def _of_mean(d: Symbol, node: Node) -> tuple[Symbol, ...]:
    """Each row of a mean over n rows gets the mean of d, over n."""
    graph, count = d.graph, len(node.operands)
    spread = Symbol(graph, graph.add("mean", (d.node,), 0.0, node.operands[0].domain))
    part = spread if count == 1 else spread * (1.0 / count)
    return (part,) * count
