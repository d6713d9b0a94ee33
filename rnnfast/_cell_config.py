"""Descriptions of cells as JSON-able configurations, and back.

A cell is its class's name and its options. The package's own classes come first, so that a configuration means the same
everywhere; then those that the user has defined, of which the newest of a name counts: in a notebook a class is often
defined again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import _checks
from .description import Cell, Wrapped, cells

__all__ = ["cell_config", "cell_of"]


def cell_config(cell: Cell) -> dict[str, Any]:
    """A JSON-able description of a cell.

    Parameters
    ----------
    cell : Cell

    Returns
    -------
    dict
        "type", the class's name, and the options.
    """
    options = cell.options()
    if isinstance(cell, Wrapped):
        options["cell"] = cell_config(cell.cell)
    return {"type": type(cell).__name__, **options}


def cell_of(config: Any) -> Cell:
    """The cell that `cell_config` described.

    Parameters
    ----------
    config : mapping

    Returns
    -------
    Cell

    Raises
    ------
    TypeError, ValueError
        There is no such class (any more), or it does not take these options.
    """
    options = dict(_checks.mapping("config['cell']", config))
    name = options.pop("type", None)
    known: dict[str, type[Cell]] = {cls.__name__: cls for cls in _subclasses(Cell)}
    known |= {cls.__name__: cls for cls in cells.CLASSES.values()} | {"Wrapped": Wrapped}
    if name not in known:
        listed = ", ".join(sorted(known))
        raise ValueError(
            f"config['cell']: expected the class of a cell that is defined here, one of {listed}; got {name!r}: "
            "import or define the class first"
        )
    if "cell" in options:
        options["cell"] = cell_of(options["cell"])
    try:
        return known[name](**options)
    except TypeError as error:
        raise TypeError(f"config['cell']: {error}") from error


def _subclasses(cls: type[Cell]) -> Iterator[type[Cell]]:
    """All that are derived from it, in the order of their definition."""
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)
