"""Writes docs/cells.md: the table of cells, from their descriptions.

    python tools/cells.py            # writes the page
    python tools/cells.py --check    # fails if the page is not what the descriptions say
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from rnnfast.description import cells
from rnnfast.description.program import INPUT, Program

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cells.md"
HEAD = """# The cells

This page lists every cell that comes with rnnfast: what it computes, where it is from, and its parameters.
It is made by `python tools/cells.py` from the descriptions in `rnnfast/description/cells/`.
`G*H` is G blocks of `hidden_size` rows. Sizes of other widths have their own names.
"""


def shape_of(program: Program, number: int) -> str:
    """A parameter's name and shape."""
    parameter = program.parameters[number]
    units = "H" if parameter.domain == 0 else program.domains[parameter.domain]
    rows = units if parameter.blocks == 1 else f"{parameter.blocks}*{units}"
    if parameter.columns is None:
        return f"`{parameter.name}` [{rows}]"
    columns = "I" if parameter.columns == INPUT else "H" if parameter.columns == 0 else program.domains[parameter.columns]
    return f"`{parameter.name}` [{rows}, {columns}{'' if parameter.heads == 1 else '/heads'}]"


def section(layer: str, cell_class: type[cells.Cell]) -> str:
    """One class: its docstring, and a row for each of its examples."""
    lines = [f"## {cell_class.__name__}", "", inspect.getdoc(cell_class) or "", ""]
    lines += [f"Layer: `rnnfast.{layer}`.", ""] if layer else []
    lines += ["| example | states | parameters | products, stages | kernel |", "|---|---|---|---|---|"]
    for name, cell in cells.CATALOGUE.items():
        if type(cell) is not cell_class:
            continue
        program = cell.program()
        states = ", ".join(state.name for state in program.states)
        shapes = ", ".join(shape_of(program, number) for number in range(len(program.parameters)))
        counts = f"{len(program.products)}, {len(program.inference)}"
        lines.append(f"| {name} | {states} | {shapes} | {counts} | {cell.fused or 'interpreted'} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    layers = {made: name for name, made in cells.LAYERS.items()}
    return "\n\n".join([HEAD.rstrip(), *(section(layers.get(c, ""), c) for c in cells.CLASSES.values())]) + "\n"


def main() -> int:
    """Write the page, or compare."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() == text:
            return 0
        print(f"{PAGE}: run python tools/cells.py", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
