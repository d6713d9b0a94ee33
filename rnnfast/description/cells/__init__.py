"""The cells that come with the package, one file per family.

A cell is added by adding its file: a `Cell` subclass, and beside it

- `EXAMPLES`: representative instances by name, over which tests, documentation and benchmarks iterate;
- `LAYERS`: what makes the cell of a layer class, by the class's name: the cell class, or a function. Its keyword
  arguments are the layer's options.

Rejected: a list of the files here (a second place to edit); registration by a decorator (an import would have to run
first in any case, and two cells of one name would only be noticed if it were written for that).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from ..cell import Cell

__all__ = ["CATALOGUE", "CLASSES", "LAYERS"]


def _collect(attribute: str) -> dict[str, Any]:
    """The entries of all files' dictionaries of this name, each name once."""
    found: dict[str, Any] = {}
    for module in _modules:
        for name, value in getattr(module, attribute).items():
            if name in found:
                raise ValueError(f"{module.__name__}.{attribute}: expected a new name, got {name!r} a second time")
            found[name] = value
    return found


def _classes() -> dict[str, type[Cell]]:
    """The files' own Cell subclasses, by the name that their instances have."""
    return {
        str(value.name): value
        for module in _modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Cell) and value.__module__ == module.__name__
    }


_modules = [
    importlib.import_module(f"{__name__}.{info.name}")
    for info in pkgutil.iter_modules(__path__)
    if not info.name.startswith("_")
]

CATALOGUE: dict[str, Cell] = _collect("EXAMPLES")
"""Representative instances by name: every class, and every option at least once."""

CLASSES: dict[str, type[Cell]] = _classes()
"""The classes by their cell's name."""

LAYERS: dict[str, Callable[..., Cell]] = _collect("LAYERS")
"""What makes a layer's cell of its options, by the name of the layer class."""
