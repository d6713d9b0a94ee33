"""Promises about the whole package: what a new cell costs, docstrings, dependencies, size."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import rnnfast

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    f"rnnfast.{module.name}" for module in pkgutil.iter_modules(rnnfast.__path__) if not module.name.startswith("_")
)


def test_what_an_instruction_set_touches():
    """docs/dev/add-an-isa.md lists the places, and says how many they are; each of them names the existing ones."""
    text = (ROOT / "docs" / "dev" / "add-an-isa.md").read_text()
    places = re.search(r"^Adding an instruction set touches (\d+) places:\n\n((?:- .*\n)+)", text, re.MULTILINE)
    assert places, "docs/dev/add-an-isa.md does not say what adding an instruction set touches"
    files = re.findall(r"^- `([^`]+)`", places[2], re.MULTILINE)
    assert len(files) == int(places[1])
    for file in files:
        assert "avx512" in (file + (ROOT / file).read_text()).lower(), f"{file} does not mention avx512"


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_of_markdown(page):
    """At most 120 characters, but for rows of tables and what stands in fences; links lead somewhere."""
    fenced, text = False, page.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        assert fenced or line.startswith("|") or len(line) <= 120, f"line {number} has {len(line)} characters"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert "://" in link or (page.parent / link).exists(), f"{link} is not there"


def public(module):
    """The public functions and classes of a module, and the public methods and properties of those classes."""
    for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)) or not thing.__module__.startswith("rnnfast"):
            continue
        yield name, thing
        if inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                if not attribute.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                    yield f"{name}.{attribute}", value


@pytest.mark.parametrize("module", ["rnnfast", *MODULES])
def test_every_public_name_has_a_docstring(module):
    module = importlib.import_module(module)
    assert inspect.getdoc(module)
    assert [name for name, thing in public(module) if not inspect.getdoc(thing)] == []


def test_public_names_are_importable():
    names = "RNN LSTM GRU RNNCell LSTMCell GRUCell Dense Model TBPTT Parameters Gradients Grads Tape"
    names += " init losses optim encoders reference tbptt checkpoint show_config get_num_threads set_num_threads"
    for name in names.split():
        assert hasattr(rnnfast, name), name


def test_importing_the_package_imports_numpy_and_nothing_else():
    script = "import sys, numpy; before = set(sys.modules); import rnnfast; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    foreign = roots - sys.stdlib_module_names - {"numpy", "rnnfast"}
    assert {name for name in foreign if not name.startswith(("_cython", "cython_runtime"))} == set()


def imported_by(path):
    """The top-level packages that a source file imports at its module level."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_only_the_command_line_and_checkpoints_need_more_than_numpy():
    extra = {}
    for path in sorted((ROOT / "rnnfast").rglob("*.py")):
        foreign = set(imported_by(path)) - sys.stdlib_module_names - {"numpy", "rnnfast"}
        if foreign:
            extra[path.relative_to(ROOT / "rnnfast").parts[0]] = foreign
    assert set(extra) <= {"cli", "cli.py", "checkpoint.py"}, extra


def test_one_module_knows_the_gpu_compiler():
    """A move to another compiler with Numba's programming model changes rnnfast/cuda/shim.py and nothing else."""
    importers = set()
    for path in (ROOT / "rnnfast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            if {name.partition(".")[0] for name in names} & {"numba", "llvmlite"}:
                importers.add(path.relative_to(ROOT).as_posix())
    assert importers == {"rnnfast/cuda/shim.py"}


def test_the_wheel_stays_small():
    """Under 5 MB: what the extension modules come to when compressed, as in a wheel."""
    modules = [importlib.import_module(f"rnnfast.{name}").__file__ for name in ("_core", "_flat", "stream")]
    assert sum(len(zlib.compress(Path(module).read_bytes())) for module in modules) < 5e6
