"""Descriptions of cells as JSON-able configurations, and back.

A cell is its class's name, as `description/kinds.py` has it, and its options.
"""

from __future__ import annotations

from typing import Any

from . import _checks
from .description import Cell, Wrapped
from .description.cell import KINDS

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
    return {"type": KINDS.name(type(cell)), **options}


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
    kind = KINDS.get(name)
    if kind is None:
        listed = ", ".join(KINDS.names())
        raise ValueError(
            f"config['cell']: expected the class of a cell that is defined here, one of {listed}; got {name!r}: "
            "import or define the class first"
        )
    if "cell" in options:
        options["cell"] = cell_of(options["cell"])
    try:
        cell: Cell = kind(**options)
        return cell
    except TypeError as error:
        raise TypeError(f"config['cell']: {error}") from error
