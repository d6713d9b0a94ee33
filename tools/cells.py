"""Writes docs/cells.md: the page of cells, from their descriptions.

python tools/cells.py            # writes the page
python tools/cells.py --check    # fails if the page is not what the descriptions say
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from pathlib import Path

from rnnfast.description import Cell, cells
from rnnfast.description.program import INPUT, Program

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cells.md"
HEAD = """# The cells

This page lists every cell that comes with rnnfast: what it computes, where it is from, and its parameters.
It is made by `python tools/cells.py` from the descriptions in `rnnfast/description/cells/`.
How to write one of your own is in [add-a-cell.md](dev/add-a-cell.md).

Each layer is made as `rnnfast.LAYER(input_size, hidden_size, num_layers, **options)`.
All layers also take `zoneout`, and those with a recurrent matrix `recurrent_dropout`.

In formulas, `h_prev` is the state before the step, and `*` is elementwise; `W x` and `U h_prev` are products.
In shapes, I is `input_size` and H is `hidden_size`; `4*H` is four blocks of H rows, one per gate, in the gates' order.
Other widths have names of their own: `proj` is `proj_size`, `output` is `output_size`.

The columns of the tables:

- *recurrent matrix*: whether `weight_hh` is dense or block-diagonal.
  In a cell without one, each unit sees its own past alone.
- *stages*: the parts of a step.
  All units of a row must have finished one before the next begins.
- *kernel*: a fused one is written by hand; all others are interpreted from the description.
"""
WIDTH = 120


def sentences(paragraph: str, width: int = WIDTH) -> list[str]:
    """Lines of Markdown: a sentence each, wrapped where it is long; asterisks outside of code are escaped."""
    text = " ".join(paragraph.split())
    parts = text.split("`")
    text = "`".join(part if number % 2 else part.replace("*", r"\*") for number, part in enumerate(parts))
    found = re.split(r"(?<=[.?!])(?<!al\.) (?=[A-Z`\"(])", text)
    return [line for one in found for line in textwrap.wrap(one, width, break_long_words=False, break_on_hyphens=False)]


def markdown(docstring: str) -> str:
    """A docstring as Markdown: formulas in fences, a sentence per line."""
    lines: list[str] = []
    for block in docstring.split("\n\n"):
        if block == "::":
            continue
        if block.startswith("    "):
            lines += ["```text", *textwrap.dedent(block).rstrip().split("\n"), "```", ""]
        elif block.startswith("- "):
            for item in re.split(r"^- ", block, flags=re.MULTILINE)[1:]:
                first, *rest = sentences(item, WIDTH - 2)
                lines += [f"- {first}", *(f"  {line}" for line in rest)]
            lines.append("")
        else:
            lines += [*sentences(block), ""]
    return "\n".join(lines).rstrip()


def shape_of(program: Program, number: int) -> str:
    """A parameter's shape."""
    parameter = program.parameters[number]
    units = "H" if parameter.domain == 0 else program.domains[parameter.domain]
    rows = units if parameter.blocks == 1 else f"{parameter.blocks}*{units}"
    if parameter.columns is None:
        return f"[{rows}]"
    columns = (
        "I" if parameter.columns == INPUT else "H" if parameter.columns == 0 else program.domains[parameter.columns]
    )
    return f"[{rows}, {columns}{'' if parameter.heads == 1 else '/heads'}]"


def parameters(program: Program) -> str:
    """All names and shapes; neighbours of one shape share it."""
    groups: list[tuple[str, list[str]]] = []
    for number, parameter in enumerate(program.parameters):
        shape = shape_of(program, number)
        if not groups or groups[-1][0] != shape:
            groups.append((shape, []))
        groups[-1][1].append(parameter.name)
    return "; ".join(f"`{', '.join(names)} {shape}`" for shape, names in groups)


def recurrent_matrix(program: Program) -> str:
    """What `weight_hh` is."""
    found = [parameter.heads for parameter in program.parameters if parameter.name == "weight_hh"]
    return "none" if not found else "block-diagonal" if found[0] > 1 else "dense"


def options(cell: Cell) -> str:
    """The options that are not the class's defaults."""
    given = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}  # type: ignore[arg-type]
    plain = {field.name: field.default for field in dataclasses.fields(cell)}  # type: ignore[arg-type]
    changed = [f"{name}={value!r}" for name, value in given.items() if value != plain[name]]
    return f"`{', '.join(changed)}`" if changed else "none"


def examples(cell_class: type[Cell]) -> dict[str, Cell]:
    """The catalogue's instances of a class, by name."""
    return {name: cell for name, cell in cells.CATALOGUE.items() if type(cell) is cell_class}


def layer_of(cell_class: type[Cell]) -> str:
    """The name of the layer class."""
    return next(name for name, make in cells.LAYERS.items() if type(make()) is cell_class)


def overview() -> str:
    """One row per class."""
    lines = ["| layer | what it is | states | recurrent matrix | kernel |", "|---|---|---|---|---|"]
    for cell_class in cells.CLASSES.values():
        name, cell = layer_of(cell_class), next(iter(examples(cell_class).values()))
        program = cell.program()
        what = " ".join((inspect.getdoc(cell_class) or "").split("\n\n")[0].split()).rstrip(".")
        states = ", ".join(state.name for state in program.states)
        kernel = "fused" if cell.fused else "interpreted"
        lines.append(f"| [{name}](#{name.lower()}) | {what} | {states} | {recurrent_matrix(program)} | {kernel} |")
    return "\n".join(lines)


def section(cell_class: type[Cell]) -> str:
    """One class: its docstring, its layer, and a row for each of its examples."""
    layer = layer_of(cell_class)
    make = inspect.signature(cells.LAYERS[layer])
    own = [str(one.replace(annotation=one.empty)) for one in make.parameters.values()]
    title = f"## {layer}"
    lines = [title, "", markdown(inspect.getdoc(cell_class) or ""), ""]
    taken = f", options `{', '.join(own)}`" if own else ""
    lines += [*sentences(f"Layer: `rnnfast.{layer}`{taken}."), ""]
    lines += ["| example | options | states | parameters | recurrent matrix | stages | kernel |", "|---|" + "---|" * 6]
    for name, cell in examples(cell_class).items():
        program = cell.program()
        states = ", ".join(state.name for state in program.states)
        kernel = f"fused: `{cell.fused}`" if cell.fused else "interpreted"
        cells_of_row = (name, options(cell), states, parameters(program), recurrent_matrix(program))
        lines.append(f"| {' | '.join(cells_of_row)} | {len(program.inference)} | {kernel} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    return "\n\n".join([HEAD.rstrip(), overview(), *(section(one) for one in cells.CLASSES.values())]) + "\n"


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
