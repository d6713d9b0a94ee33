"""The page of cells is what the descriptions say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from rnnfast.description import cells

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    """tools/cells.py."""
    found = importlib.util.spec_from_file_location("page_of_cells", ROOT / "tools" / "cells.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_is_what_the_descriptions_say(tool):
    assert tool.PAGE == ROOT / "docs" / "cells.md"
    assert tool.PAGE.read_text() == tool.page(), "run python tools/cells.py"


def test_every_cell_of_the_catalogue_is_on_the_page(tool):
    page = tool.page()
    for name, cell in cells.CATALOGUE.items():
        assert f"\n| {name} | " in page
        for parameter in cell.program().parameters:
            assert parameter.name in page
    for layer in cells.LAYERS:
        assert f"\n## {layer}\n" in page and f"](#{layer.lower()})" in page


def test_prose_of_docstrings_becomes_a_sentence_a_line(tool):
    found = tool.markdown(
        "Zhou et al. (2019) say so. It is 3*H,\nor `4*H`.\n\n::\n\n    y = a * b\n\n- one. Two.\n- three\n"
    )
    expected = (
        "Zhou et al. (2019) say so.\nIt is 3\\*H, or `4*H`.\n\n```text\ny = a * b\n```\n\n- one.\n  Two.\n- three"
    )
    assert found == expected
