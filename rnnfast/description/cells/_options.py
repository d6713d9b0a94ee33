"""What the families share in checking and applying their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ... import _checks
from ..cell import Cell, Wrapped
from ..functions import activation, clip


def refuse(name: str, expected: str, value: Any, reason: str) -> NoReturn:
    """Refuses options that do not go together: which, and why."""
    raise ValueError(f"{name}: expected {expected}, got {value!r}: {reason}")


def settle(cell: Cell, **values: Any) -> None:
    """Puts checked options in place of those given: for `__post_init__`, since a cell cannot be changed later."""
    for name, value in values.items():
        object.__setattr__(cell, name, value)


def check_activation(name: str, value: Any) -> Any:
    """The name of a function, or (name, alpha, beta): as a tuple, which has a hash, and known to `activation`."""
    spelled = tuple(value) if isinstance(value, list) else value
    try:
        activation(spelled)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}{str(error).removeprefix('activation')}") from error
    return spelled


def check_activations(name: str, value: Any, roles: tuple[str, ...]) -> tuple[Any, ...]:
    """One activation for each role, as a tuple."""
    if not isinstance(value, list | tuple) or len(value) != len(roles):
        raise ValueError(f"{name}: expected {len(roles)} activations, of {', '.join(roles)}, got {value!r}")
    return tuple(check_activation(name, one) for one in value)


def check_clip(name: str, value: Any) -> float | None:
    """None, or a bound above zero."""
    bound = None if value is None else _checks.number(name, value)
    if bound is not None and bound <= 0.0:
        raise ValueError(f"{name}: expected a number above 0, or None for no bound, got {value!r}")
    return bound


def clipped(row: Any, bound: float | None) -> Any:
    return row if bound is None else clip(row, -bound, bound)


def wrapped(cell: Cell, zoneout: float | Mapping[str, float] | None, recurrent_dropout: float) -> Cell:
    """The cell, with the wrappers that are asked for."""
    found = Wrapped(cell, zoneout=zoneout, recurrent_dropout=recurrent_dropout)
    return found if found.zoneout or found.recurrent_dropout else cell
