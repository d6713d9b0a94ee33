"""A program as plain tuples and numbers, for the C++ side.

Spaces and operations become their numbers in `SPACES` and `OPERATION_NUMBERS`. A place is (space, index, slot); None
stays None. An instruction is (operation, to, a, b, c, place, value): -1 for a register that it does not have, and
`place` is an index into the program's "places", or -1.

Keys and fields are those of the classes in `program.py`, in their order; what is a class there is a tuple here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from .program import OPERATIONS, Instruction, Place, Program, Space

__all__ = ["OPERATION_NUMBERS", "SPACES", "to_core"]

SPACES: dict[str, int] = {name: number for number, name in enumerate(get_args(Space))}
"""The number of each space."""

OPERATION_NUMBERS: dict[str, int] = {name: number for number, name in enumerate(OPERATIONS)}
"""The number of each operation."""

KINDS: dict[str, int] = {"weight": 0, "bias": 1, "vector": 2}
"""The number of each kind of parameter."""


def to_core(program: Program) -> dict[str, Any]:
    """The program as a dictionary of numbers and nested tuples.

    Parameters
    ----------
    program : Program

    Returns
    -------
    dict
        The fields of `Program`, and "places", to which instructions point.

    Examples
    --------
    >>> from rnnfast.description.cells.elman import Elman
    >>> to_core(Elman().program())["regions"]
    ((0, 1),)
    """
    places: dict[Place, int] = {}
    found = {field.name: _plain(getattr(program, field.name), places) for field in dataclasses.fields(program)}
    return found | {"places": tuple(_plain(place, places) for place in places)}


def _plain(value: Any, places: dict[Place, int]) -> Any:
    if isinstance(value, Place):
        return SPACES[value.space], value.index, value.slot
    if isinstance(value, Instruction):
        number = -1 if value.place is None else places.setdefault(value.place, len(places))
        registers = (*value.operands, -1, -1, -1)[:3]
        return OPERATION_NUMBERS[value.op], value.to, *registers, number, value.value
    if isinstance(value, tuple):
        return tuple(_plain(part, places) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(_plain(getattr(value, field.name), places) for field in dataclasses.fields(value))
    return KINDS.get(value, value) if isinstance(value, str) else value
