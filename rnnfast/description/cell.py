"""The class that a description derives from, and the wrappers that apply to every description."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from .declarations import Declared, Gate, Given, Product, State, Vector, declared
from .functions import Row, clip, lerp, where
from .kinds import Kinds
from .namespaces import Random, new_states
from .program import Program

__all__ = ["Cell", "Gate", "Given", "Product", "State", "Vector", "Wrapped"]


KINDS = Kinds()
"""The classes of cells."""


@dataclass_transform(frozen_default=True)
class Cell:
    """A recurrent cell: what it has, and its step.

    A subclass declares `states`, `gates`, `vectors`, `products` and `given`, as tuples of names or of `State`, `Gate`,
    ..., as class attributes, or as properties if they depend on options. Its annotated attributes are the options: the
    keyword arguments of its constructor. It is a frozen dataclass, so cells of equal options are equal.

    `step` takes any of the parameters `gate`, `state`, `vector`, `product`, `given` and `random`, and returns the new
    states in order. It is written with + - * / and the functions of `rnnfast.description.functions`.

    Attributes
    ----------
    name : str
        By default the class's name in lower case.
    states : tuple of str or State
        The first is the one that the layer's y shows.
    gates : tuple of str or Gate
        Each W x + b_ih + U h + b_hh by default: `gate.i`. h is the state `recurrent`.
    vectors : tuple of str or Vector
        Learned, one number per unit: `vector.p`.
    products : tuple of str or Product
        Matrices of their own: `product.r(row)`.
    given : tuple of str or Given
        Extra inputs per step: `given.a`.
    widths : mapping from str to int
        Widths of rows other than "hidden".
    heads : int
        `weight_hh` is block-diagonal, with as many blocks.
    recurrent : str or None
        The state that `weight_hh` multiplies. None: the first.
    fused : str or None
        The kernel written by hand that computes the same, if there is one.
    zoned : tuple of str or None
        The states that zoneout may hold back, where others are only true together; None: all.

    Examples
    --------
    >>> from rnnfast.description import Cell
    >>> from rnnfast.description.functions import lerp, tanh
    >>> class Leaky(Cell):
    ...     states = ("h",)
    ...     gates = ("n",)
    ...     leak: float = 0.5
    ...
    ...     def step(self, gate, state):
    ...         return lerp(self.leak, tanh(gate.n), state.h)
    >>> Leaky(leak=0.25)
    Leaky(leak=0.25)
    >>> [parameter.name for parameter in Leaky().program().parameters]
    ['weight_ih', 'weight_hh', 'bias_ih', 'bias_hh']
    """

    if TYPE_CHECKING:
        # Properties, so that a subclass may have either: a plain attribute or a property.
        @property
        def name(self) -> str: ...
        @property
        def states(self) -> tuple[str | State, ...]: ...
        @property
        def gates(self) -> tuple[str | Gate, ...]: ...
        @property
        def vectors(self) -> tuple[str | Vector, ...]: ...
        @property
        def products(self) -> tuple[str | Product, ...]: ...
        @property
        def given(self) -> tuple[str | Given, ...]: ...
        @property
        def widths(self) -> Mapping[str, int]: ...
        @property
        def heads(self) -> int: ...
        @property
        def recurrent(self) -> str | None: ...
        @property
        def fused(self) -> str | None: ...
        @property
        def zoned(self) -> tuple[str, ...] | None: ...
    else:
        states = ("h",)
        gates = vectors = products = given = ()
        widths = {}
        heads = 1
        recurrent = fused = zoned = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()  # type: ignore[assignment, method-assign]
        dataclasses.dataclass(frozen=True)(cls)
        KINDS.add(cls)

    def __post_init__(self) -> None:
        for field in _fields(self):  # options that come from JSON
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))

    def step(self, *namespaces: Any, **options: Any) -> Any:
        """The new states. See the class."""
        raise TypeError(f"{type(self).__name__}: expected a method step that returns the new states, got none")

    def read(self, row: Row, random: Random) -> Row:
        """What the gates' recurrent matrices see in place of a row: the row itself, but for dropout."""
        return row

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any] | None:
        """The initial value of a parameter.

        Parameters
        ----------
        name : str
            Without the suffix of layer and direction.
        shape : tuple of int
        rng : numpy.random.Generator

        Returns
        -------
        ndarray or None
            None: the layer's scheme decides.
        """
        for vector in declared(self).vectors:
            if vector.name == name and vector.initial is not None:
                return np.full(shape, vector.initial)
        return None

    def options(self) -> dict[str, Any]:
        """The options by name, of types that JSON has; the constructor takes them back."""
        return {field.name: _plain(getattr(self, field.name)) for field in _fields(self)}

    def check_sizes(self, hidden_size: int) -> None:
        """Checks that a hidden size divides into the heads.

        Parameters
        ----------
        hidden_size : int

        Raises
        ------
        ValueError
            If it, or the width of the recurrent state, does not.
        """
        found = declared(self)
        widths = {"hidden": hidden_size, **found.widths}
        for width in ("hidden", found.recurrent.width):
            if widths[width] % found.heads:
                what = "hidden_size" if width == "hidden" else width
                raise ValueError(f"{what}: expected a multiple of {found.heads} (heads), got {widths[width]}")

    def program(self, bias: bool = True) -> Program:
        """The step as a program, forward and backward.

        Parameters
        ----------
        bias : bool
            Whether the layer has biases.

        Returns
        -------
        Program

        Raises
        ------
        TypeError, ValueError
            If the step cannot be traced: the message names the line that is at fault.
        """
        if type(self).step is Cell.step:
            self.step()
        return _program(self, bool(bias))


@lru_cache(maxsize=512)
def _program(cell: Cell, bias: bool) -> Program:
    from .assembly import program_of  # here, as nothing else in this module needs what traces

    return program_of(cell, bias)


def _fields(cell: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cell)


def _plain(value: Any) -> Any:
    if isinstance(value, Cell):
        return {"name": value.name, "options": value.options()}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


class Wrapped(Cell):
    """A cell with zoneout, recurrent dropout, or clipped states.

    Parameters
    ----------
    cell : Cell
    zoneout : float, or mapping from the names of states to floats
        Krueger et al. (2017), "Zoneout": with this probability a unit of the state keeps its previous value. In
        inference the new state is the mean of both. A number is for all states.
    recurrent_dropout : float
        Gal & Ghahramani (2016), "A theoretically grounded application of dropout in recurrent neural networks": units
        that the recurrent matrices do not see, the same ones at all steps of a sequence. The others are scaled by
        1 / (1 - p); nothing is dropped in inference.
    clip : mapping from the names of states to bounds
        New states are held within -bound and bound.

    Raises
    ------
    TypeError, ValueError
        No such state, numbers out of range.

    Examples
    --------
    >>> from rnnfast.description import Cell, Wrapped
    >>> class Plain(Cell):
    ...     gates = ("h",)
    ...
    ...     def step(self, gate):
    ...         return gate.h
    >>> Wrapped(Plain(), zoneout=0.1).states
    (State(name='h', width='hidden', initial=0.0),)
    """

    cell: Cell
    zoneout: Any = ()
    recurrent_dropout: float = 0.0
    clip: Any = ()

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            raise TypeError(f"cell: expected a Cell, got {self.cell!r}")
        settled = {
            "zoneout": self._per_state("zoneout", self.zoneout, _probability),
            "recurrent_dropout": _probability("recurrent_dropout", self.recurrent_dropout),
            "clip": self._per_state("clip", self.clip, _bound),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        if others := [name for name, _ in self.zoneout if self.zoned is not None and name not in self.zoned]:
            expected = f"a mapping with {', '.join(map(repr, self.zoned or ()))} alone for {self.name}"
            raise ValueError(
                f"zoneout: expected {expected}, whose other states belong together, got {', '.join(others)}"
            )
        if self.recurrent_dropout and not any(gate.h for gate in self._declared.gates):
            raise ValueError("recurrent_dropout: expected 0 for a cell without recurrent matrices, got a probability")

    def _per_state(self, what: str, values: Any, check: Callable[[str, Any], float]) -> tuple[tuple[str, float], ...]:
        """Numbers by state, in the states' order, those that do nothing left out."""
        names = [state.name for state in self._declared.states]
        try:
            one = isinstance(values, int | float)
            given = dict.fromkeys(names, values) if one else dict(() if values is None else values)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{what}: expected a number, or numbers by the states' names, got {values!r}") from error
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"{what}: expected names among {names}, got {unknown[0]!r}")
        checked = {name: check(f"{what}[{name!r}]", given[name]) for name in names if name in given}
        return tuple((name, value) for name, value in checked.items() if value)

    @property
    def _declared(self) -> Declared:
        return declared(self.cell)

    @property
    def name(self) -> str:
        """That of the wrapped cell, as what follows."""
        return self.cell.name

    @property
    def states(self) -> tuple[State, ...]:
        """The states."""
        return self._declared.states

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates."""
        return self._declared.gates

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """The learned vectors."""
        return self._declared.vectors

    @property
    def products(self) -> tuple[Product, ...]:
        """The matrices of its own."""
        return self._declared.products

    @property
    def given(self) -> tuple[Given, ...]:
        """The extra inputs."""
        return self._declared.given

    @property
    def widths(self) -> Mapping[str, int]:
        """The widths by name."""
        return self._declared.widths

    @property
    def heads(self) -> int:
        """The number of blocks of `weight_hh`."""
        return self._declared.heads

    @property
    def recurrent(self) -> str:
        """The state that `weight_hh` multiplies."""
        return self._declared.recurrent.name

    @property
    def zoned(self) -> tuple[str, ...] | None:
        """The states that zoneout may hold back."""
        return self.cell.zoned

    def check_sizes(self, hidden_size: int) -> None:
        """As the wrapped cell."""
        self.cell.check_sizes(hidden_size)

    def options(self) -> dict[str, Any]:
        """As of every cell; numbers of states by name."""
        return super().options() | {"zoneout": dict(self.zoneout), "clip": dict(self.clip)}

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any] | None:
        """What the wrapped cell says."""
        return self.cell.initial(name, shape, rng)

    def read(self, row: Row, random: Random) -> Row:
        """The row without the units that are dropped."""
        row = self.cell.read(row, random)
        p = self.recurrent_dropout
        if not p:
            return row
        if not random.training:
            return random.copy(row)
        u = random.sequence(len(self.states), self._declared.recurrent.width)
        return where(p - u, 0.0, row * (1.0 / (1.0 - p)))

    def step(self, gate: Any, state: Any, vector: Any, product: Any, given: Any, random: Random) -> Any:
        """The wrapped cell's step; then its states clipped, then zoned out."""
        spaces = {"gate": gate, "state": state, "vector": vector, "product": product, "given": given, "random": random}
        found = self._declared
        rows = new_states(self.cell, found, spaces)
        bounds, keeps = dict(self.clip), dict(self.zoneout)
        new = []
        for stream, (one, row) in enumerate(zip(found.states, rows, strict=True)):
            if one.name in bounds:
                row = clip(row, -bounds[one.name], bounds[one.name])
            if one.name in keeps:
                p, previous = keeps[one.name], getattr(state, one.name)
                if random.training:
                    row = where(p - random.step(stream, one.width), previous, row)
                else:
                    row = lerp(p, previous, row)
            new.append(row)
        return tuple(new)


def _probability(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name}: expected a probability, at least 0 and less than 1, got {value!r}")
    return float(value)


def _bound(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not value > 0.0:
        raise ValueError(f"{name}: expected a bound above 0, got {value!r}")
    return float(value)
