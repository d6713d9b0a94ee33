"""The pages of the site: each is in a table of contents, and the cells of those that run are Python.

What needs no building: `python tools/docs.py` builds the site and runs the pages.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.relative_to(DOCS).parts)
FENCE = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(page, kind):
    """The bodies of a page's fences of one kind."""
    return [body for name, body in FENCE.findall(page.read_text()) if name == kind]


def entries(page):
    """The pages that a page's tables of contents name."""
    lines = [line for body in fences(page, "{toctree}") for line in body.splitlines()]
    return [(page.parent / f"{line}.md").resolve() for line in lines if line and not line.startswith(":")]


def test_every_page_is_in_one_table_of_contents():
    named = [entry for page in PAGES for entry in entries(page)]
    assert sorted(named) == sorted(set(PAGES) - {DOCS / "index.md"})


RUN = [page for page in PAGES if "{code-cell}" in page.read_text()]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_code_cells_are_python(page):
    text = page.read_text()
    assert text.startswith("---\nfile_format: mystnb\n"), "without this head the cells are shown, and not run"
    cells = fences(page, "{code-cell}")
    assert len(cells) == text.count("```{code-cell}")
    for cell in cells:
        ast.parse(re.sub(r"^(:|%).*$", "", cell, flags=re.MULTILINE))


def test_pages_that_run_are_there():
    """At least these: the pattern above finds them."""
    assert {page.stem for page in RUN} >= {"quickstart", "lecture", "policy", "audio", "ragged", "text", "serving"}
