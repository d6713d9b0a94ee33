"""The values that `step` is traced with: each remembers how it was computed, and knows what may be done with it.

A `Node` is one value of a step: an operation of `program.OPERATIONS`, or a source:

    "sum" of a product (`operands`: the row or the state that it multiplies, if any), "before" a state, "vector",
    "given", "mean" of rows; in backward "gradient" of a state, "back" through products, and "mean", too;

or one of two that compute nothing: "copy" (a row that is to be stored, although it could be loaded) and "stop" (through
which no gradient flows). A `Symbol` is what user code holds: a node with operators that append to the node's graph.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, NoReturn

__all__ = ["PASSES", "SOURCES", "Graph", "Node", "Symbol"]

SOURCES = frozenset({"sum", "before", "vector", "given", "mean", "gradient", "back"})
PASSES = frozenset({"copy", "stop"})


@dataclass(eq=False, slots=True)
class Node:
    """A value of a step.

    Attributes
    ----------
    op : str
    operands : tuple of Node
    value : object
        A constant, the stream of random numbers, or which source it is.
    domain : int or None
        The number of the row's width. None: one number per row of the batch, or a constant.
    index : int
        In the order of creation, which is a topological order.
    origin : int or None
        Of numbers: the domain whose mean they come from.
    line : str
        Where `step` made it.
    """

    op: str
    operands: tuple[Node, ...]
    value: Any
    domain: int | None
    index: int
    origin: int | None
    line: str


@dataclass
class Graph:
    """The values of one step.

    Attributes
    ----------
    where : str
        The cell's name, for messages.
    widths : tuple of str
        The names of the domains.
    steps : set of code
        The functions whose lines messages name. Empty: no lines are looked up.
    share : bool
        Whether an operation on the same operands is made once. A step that is being traced does not share: whether a
        product is fused into a sum depends on how often the user wrote it down.
    """

    where: str
    widths: tuple[str, ...]
    steps: set[CodeType] = field(default_factory=set)
    share: bool = False
    nodes: list[Node] = field(default_factory=list)
    _known: dict[Any, Node] = field(default_factory=dict)

    def add(self, op: str, operands: tuple[Node, ...] = (), value: Any = 0.0, domain: int | None = None) -> Node:
        """A node; the domain of an operation is that of its operands."""
        origin = None
        if op == "mean":
            origin = operands[0].domain if domain is None else None
        elif op not in SOURCES and operands:
            origin, domain = (self._common(op, what, operands) for what in ("origin", "domain"))
            if domain is not None and origin not in (None, domain):
                raise ValueError(
                    f"{self.where}: expected a mean in rows of the width {self.widths[origin or 0]!r} that it is the "
                    f"mean of, got rows of the width {self.widths[domain]!r}{self._line()}"
                )
            origin = origin if domain is None else None
        key = (op, operands, repr(value) if op == "const" else value, domain)  # 0.0 and -0.0 are two constants
        if key in self._known:
            return self._known[key]
        node = Node(op, operands, value, domain, len(self.nodes), origin, self._line())
        self.nodes.append(node)
        if self.share or op in SOURCES or op == "const":
            self._known[key] = node
        return node

    def restrict(self, nodes: list[Node]) -> None:
        """Forgets all but these nodes, which keep their order."""
        self.nodes[:] = nodes
        for index, node in enumerate(nodes):
            node.index = index
        kept = set(nodes)
        self._known = {key: node for key, node in self._known.items() if node in kept}

    def _common(self, op: str, what: str, operands: tuple[Node, ...]) -> int | None:
        found = {getattr(node, what) for node in operands} - {None}
        if len(found) > 1:
            names = sorted(self.widths[domain] for domain in found)
            raise ValueError(
                f"{self.where}: expected rows of one width in {op!r}, got the widths {names}{self._line()}"
            )
        return found.pop() if found else None

    def number(self, value: float) -> Node:
        return self.add("const", value=float(value))

    def refuse(self, error: type[Exception], expected: str, got: str) -> NoReturn:
        """Raises, naming the line of `step` that is being run."""
        raise error(f"{self.where}.step: expected {expected}, got {got}{self._line()}")

    def _line(self) -> str:
        """` (file:number: the line)` of `step`, where that is running."""
        frame = sys._getframe(1) if self.steps else None
        while frame is not None and frame.f_code not in self.steps:
            frame = frame.f_back
        if frame is None:
            return ""
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        return f" ({frame.f_code.co_filename}:{frame.f_lineno}: {text})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (not hasattr(value, "shape") and hasattr(value, "__index__"))


class Symbol:
    """A value in a step that is being traced. Its operators are + - * / and `abs`; all else is a named function."""

    __slots__ = ("graph", "node")
    __hash__ = None  # type: ignore[assignment]  # equality is refused, so symbols are no keys

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.node = node

    def make(self, op: str, *operands: Any, value: float = 0.0) -> Symbol:
        """An operation on symbols and numbers, in the graph of this one."""
        return Symbol(self.graph, self.graph.add(op, tuple(self._node(operand) for operand in operands), value))

    def _node(self, operand: Any) -> Node:
        if isinstance(operand, Symbol):
            return operand.node
        if _is_number(operand) or getattr(operand, "shape", None) == ():
            return self.graph.number(float(operand))
        if hasattr(operand, "shape"):
            self.graph.refuse(TypeError, "a row or a number", f"an array of shape {tuple(operand.shape)}")
        return self.graph.refuse(TypeError, "a row or a number", f"{type(operand).__name__} {operand!r}"[:80])

    def __add__(self, other: Any) -> Symbol:
        return self.make("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return self.make("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return self.make("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return self.make("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return self.make("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return self.make("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return self.make("div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self.make("div", other, self)

    def __neg__(self) -> Symbol:
        return self.make("neg", self)

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return self.make("abs", self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Symbol:
        operators: dict[str, Callable[[Any, Any], Symbol]] = {
            "add": lambda a, b: self.make("add", a, b),
            "subtract": lambda a, b: self.make("sub", a, b),
            "multiply": lambda a, b: self.make("mul", a, b),
            "divide": lambda a, b: self.make("div", a, b),
        }
        if method == "__call__" and ufunc.__name__ in operators and not options:
            return operators[ufunc.__name__](*inputs)  # a NumPy number, or an array, which `make` refuses
        return self._refuse_function(f"numpy.{ufunc.__name__}")

    def __array_function__(self, function: Any, *arguments: Any) -> Symbol:
        return self._refuse_function(f"numpy.{function.__name__}")

    def __array__(self, *arguments: Any, **options: Any) -> NoReturn:
        self.graph.refuse(TypeError, "functions of rnnfast.description.functions", "a NumPy array made of a row")

    def _refuse_function(self, name: str) -> NoReturn:
        self.graph.refuse(TypeError, "functions of rnnfast.description.functions", f"{name} of a row")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self.graph.refuse(TypeError, "functions of rnnfast.description.functions", f"a row's .{name}")

    def __bool__(self) -> NoReturn:
        self._refuse_branch("a branch on a row's values")

    def _refuse_branch(self, got: str) -> NoReturn:
        self.graph.refuse(TypeError, "where(c, a, b), which takes a where c > 0", got)

    def _refuse_comparison(self, other: Any) -> NoReturn:
        self._refuse_branch("a comparison of a row's values")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse_comparison

    def _refuse_number(self) -> NoReturn:
        self._refuse_function("a function of single numbers")

    __float__ = __int__ = __index__ = __len__ = __iter__ = _refuse_number

    def __getitem__(self, key: Any) -> NoReturn:
        self.graph.refuse(TypeError, "rows as a whole", "an element of a row")

    def __pow__(self, power: Any) -> Symbol:
        if isinstance(power, Symbol) or power != 2:
            self.graph.refuse(TypeError, "the power 2, or exp and log", f"the power {power!r}")
        return self.make("mul", self, self)

    def __repr__(self) -> str:
        return f"<row {self.node.op} {self.node.index}>"
