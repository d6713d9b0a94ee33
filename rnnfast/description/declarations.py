"""What a cell declares: its states, gates, vectors, products and extra inputs, and that they fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

__all__ = ["Declared", "Gate", "Given", "Product", "State", "Vector", "declared"]

_MOST = {"states": 8, "given": 8, "widths": 4, "parameters": 32}  # what the kernels' tables hold


@dataclass(frozen=True)
class State:
    """A state, carried from step to step.

    Parameters
    ----------
    name : str
    width : str
        "hidden", or a key of the cell's `widths`.
    initial : float
        What it starts from where no state is given, and after a reset.

    Examples
    --------
    >>> State("h", width="proj").width
    'proj'
    """

    name: str
    width: str = "hidden"
    initial: float = 0.0


@dataclass(frozen=True)
class Gate:
    """A gate: rows of `weight_ih` times x, rows of `weight_hh` times a state, and their biases.

    Parameters
    ----------
    name : str
    x : bool
        Whether it has an input side.
    h : bool or "row"
        Whether it has a recurrent side. "row": `step` says of which row, `gate.n(row)`.
    apart : bool
        `gate.n.x` and `gate.n.h` are two rows; otherwise `gate.n` is their sum, in one chain of additions.

    Examples
    --------
    >>> Gate("n", apart=True).h
    True
    """

    name: str
    x: bool = True
    h: bool | Literal["row"] = True
    apart: bool = False


@dataclass(frozen=True)
class Product:
    """A matrix of its own, times a row that `step` has computed: `product.r(row)`.

    Parameters
    ----------
    name : str
    weight : str or None
        The parameter, [width of `to`, width of `of`]. None: ``"weight_"`` and the name.
    bias : str or None
        The bias, [width of `to`]; None: it has none.
    to, of : str
        The widths of the result and of the row.

    Examples
    --------
    >>> Product("r", to="proj", bias=None).weight
    'weight_r'
    """

    name: str
    weight: str | None = None
    bias: str | None = None
    to: str = "hidden"
    of: str = "hidden"

    def __post_init__(self) -> None:
        if self.weight is None:
            object.__setattr__(self, "weight", f"weight_{self.name}")


@dataclass(frozen=True)
class Vector:
    """A learned vector, one number per unit.

    Parameters
    ----------
    name : str
    width : str
    initial : float or None
        What it is filled with at first. None: the layer's scheme decides.

    Examples
    --------
    >>> Vector("gain", initial=1.0).width
    'hidden'
    """

    name: str
    width: str = "hidden"
    initial: float | None = None


@dataclass(frozen=True)
class Given:
    """An extra input of every step.

    Parameters
    ----------
    name : str
    width : str or None
        None: one number per row of the batch.

    Examples
    --------
    >>> Given("dt").width is None
    True
    """

    name: str
    width: str | None = None


@dataclass(frozen=True)
class Declared:
    """A cell's declarations, in full and checked. `where` names the cell in messages."""

    where: str
    states: tuple[State, ...]
    gates: tuple[Gate, ...]
    vectors: tuple[Vector, ...]
    products: tuple[Product, ...]
    given: tuple[Given, ...]
    widths: Mapping[str, int] = field(compare=False)
    heads: int
    recurrent: State

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of all widths; the hidden size is the first."""
        return ("hidden", *self.widths)

    def domain(self, width: str) -> int:
        """The number of a width."""
        return self.domains.index(width)


def declared(cell: Any) -> Declared:
    """What `cell` declares.

    Parameters
    ----------
    cell : Cell

    Returns
    -------
    Declared

    Raises
    ------
    TypeError, ValueError
        Declarations of another kind, names twice, unknown widths, sides that do not go together.
    """
    try:
        hash(cell)
    except TypeError as error:
        raise TypeError(
            f"{type(cell).__name__}: expected options that have a hash, such as numbers, strings and tuples: {error}"
        ) from error
    return _declared(cell)


@lru_cache(maxsize=512)
def _declared(cell: Any) -> Declared:
    where = type(cell).__name__
    states = _all(where, "states", cell.states, State)
    if not states:
        raise ValueError(f"{where}.states: expected at least one state, got none")
    widths = dict(cell.widths)
    known = {state.name: state for state in states}
    recurrent = states[0].name if cell.recurrent is None else cell.recurrent
    if recurrent not in known:
        raise ValueError(f"{where}.recurrent: expected one of {list(known)}, got {recurrent!r}")
    found = Declared(
        where,
        states,
        _all(where, "gates", cell.gates, Gate),
        _all(where, "vectors", cell.vectors, Vector),
        _all(where, "products", cell.products, Product),
        _all(where, "given", cell.given, Given),
        widths,
        cell.heads,
        known[recurrent],
    )
    _check_widths(found)
    _check_sides(found)
    _check_parameters(found)
    return found


def _all(where: str, what: str, values: Any, kind: Any) -> tuple[Any, ...]:
    """Declarations of one kind; a name alone stands for one with its defaults."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{where}.{what}: expected a tuple of names or {kind.__name__}s, got {values!r}")
    found = tuple(kind(value) if isinstance(value, str) else value for value in values)
    for value in found:
        if not isinstance(value, kind):
            raise TypeError(f"{where}.{what}: expected names or {kind.__name__}s, got {value!r}")
        if not isinstance(value.name, str) or not value.name.isidentifier():
            raise ValueError(f"{where}.{what}: expected names that are Python names, got {value.name!r}")
    _once(where, what, [value.name for value in found])
    _at_most(where, what, found)
    return found


def _once(where: str, what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}.{what}: expected each name once, got {name!r} {names.count(name)} times")


def _at_most(where: str, what: str, values: Any) -> None:
    if len(values) > _MOST.get(what, len(values)):
        raise ValueError(f"{where}.{what}: expected at most {_MOST[what]}, got {len(values)}")


def _check_widths(found: Declared) -> None:
    where, names = found.where, found.domains
    _once(where, "widths", list(names))
    _at_most(where, "widths", names)
    for name, size in found.widths.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{where}.widths: expected {name!r} to be an integer above 0, got {size!r}")
    used = [(state.name, state.width) for state in found.states]
    used += [(vector.name, vector.width) for vector in found.vectors]
    used += [(value.name, value.width) for value in found.given if value.width is not None]
    used += [(value.name, width) for value in found.products for width in (value.to, value.of)]
    for name, width in used:
        if width not in names:
            raise ValueError(f"{where}: expected the width of {name!r} to be one of {list(names)}, got {width!r}")
    if isinstance(found.heads, bool) or not isinstance(found.heads, int) or found.heads < 1:
        raise ValueError(f"{where}.heads: expected an integer above 0, got {found.heads!r}")


def _check_sides(found: Declared) -> None:
    for gate in found.gates:
        name = f"{found.where}.gates: {gate.name!r}"
        if gate.h not in (True, False, "row"):
            raise ValueError(f"{name}: expected h to be True, False or 'row', got {gate.h!r}")
        if not gate.x and gate.h is False:
            raise ValueError(f"{name}: expected a side of x or of h, got neither")
        if gate.apart and (not gate.x or gate.h is not True):
            raise ValueError(f"{name}: expected x=True and h=True with apart=True, got x={gate.x}, h={gate.h!r}")


def _check_parameters(found: Declared) -> None:
    if not (found.gates or found.products or found.vectors):
        raise ValueError(f"{found.where}: expected a gate, a product or a vector, got a cell without parameters")
    own = [name for product in found.products for name in (product.weight, product.bias) if name is not None]
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", *own, *(vector.name for vector in found.vectors)]
    _once(found.where, "parameters", names)
    _at_most(found.where, "parameters", names)
