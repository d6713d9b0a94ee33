"""Promises about the whole package: what a new cell costs, docstrings, dependencies, size."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from shared import run_script

import rnnfast
from rnnfast.description.cells import LAYERS

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


NEW_CELL = """
from typing import Any
from ..cell import Cell
from ..functions import lerp, sigmoid, tanh

class NewCell(Cell):
    name = "new"
    states = ("h", "m")
    gates = ("z", "n")
    vectors = ("p",)
    rate: float = 0.3

    def step(self, gate: Any, state: Any, vector: Any) -> Any:
        m = self.rate * state.m + sigmoid(gate.z + vector.p * state.m)
        return lerp(sigmoid(m), tanh(gate.n), state.h), m

EXAMPLES = {"new": NewCell()}
LAYERS = {"New": NewCell}
"""
USE_OF_IT = """
import json, pickle, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import registry
from rnnfast import Recurrent, RecurrentCell, layers, reference
from rnnfast.description.cells import CATALOGUE

assert "new" in registry.KINDS  # so all generic tests run it
case = registry.Case("new", registry.ISAS[-1], np.float64, bidirectional=True, num_layers=2, mask="all", T=6, B=3)
layer, data = case.layer(), case.data
y, state, tape = layer.forward(data.x, data.state, **data.masks)
grads = layer.backward(tape, data.dy, data.dstate)
expected, gradients = registry.oracle(case, layer)
registry.assert_close(y, expected.y, 1e-12)
registry.assert_close(grads.x, gradients.dx, 1e-11)
for name, value in grads.params.items():
    registry.assert_close(value, gradients.params[name], 1e-11)

one = Recurrent(CATALOGUE["new"], 3, 5, rng=0)
x = np.ones((4, 2, 3), np.float32)
stream, step = one.stream(2), RecurrentCell(CATALOGUE["new"], 3, 5)
step.load({name.removesuffix("_l0"): value for name, value in one.params.items()})
assert stream.process(x).tobytes() == one(x)[0].tobytes()
assert step(x[0])[0].tobytes() == one(x)[0][0].tobytes()
other = layers.from_config(json.loads(json.dumps(one.config())), rng=0)
assert other(x)[0].tobytes() == pickle.loads(pickle.dumps(one))(x)[0].tobytes() == one(x)[0].tobytes()
"""


def overlay(original, copy, added):
    """A copy of a package by links, with one more file: `added` is its path and its text."""
    copy.mkdir()
    for entry in original.iterdir():
        if added[0].parts[0] != entry.name:
            (copy / entry.name).symlink_to(entry)
        else:
            overlay(entry, copy / entry.name, (Path(*added[0].parts[1:]), added[1]))
    if len(added[0].parts) == 1:
        (copy / added[0]).write_text(added[1])


def test_a_new_cell_is_one_file(tmp_path):
    """As docs/dev/add-a-cell.md says. With that file and no other edit: oracle, gradients, stream, configuration."""
    added = Path("description", "cells", "new.py")
    overlay(Path(rnnfast.__file__).parent, tmp_path / "rnnfast", (added, NEW_CELL))
    run_script(USE_OF_IT, str(ROOT / "tests"), PYTHONPATH=str(tmp_path))
    text = (ROOT / "docs" / "dev" / "add-a-cell.md").read_text()
    assert re.search(r"^Adding a cell touches 1 place:\n\n- `rnnfast/description/cells/", text, re.MULTILINE)


def test_the_source_folder_says_that_it_hides_the_package(tmp_path):
    """`import rnnfast` in a clone, where the installed package is not what Python finds."""
    source = Path(rnnfast.__file__).parent
    shutil.copytree(
        source, tmp_path / "rnnfast", ignore=shutil.ignore_patterns("*.so", "*.pyd", "*.dylib", "__pycache__")
    )
    command = [sys.executable, "-c", "import rnnfast"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: rnnfast: the folder {tmp_path / 'rnnfast'} has no compiled modules"), (
        done.stderr
    )
    assert "option -P" in last and "circular" not in done.stderr


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
    if module == "rnnfast.torch":
        pytest.importorskip("torch", reason="PyTorch is not installed, from whose classes the module's are derived")
    module = importlib.import_module(module)
    assert inspect.getdoc(module)
    assert [name for name, thing in public(module) if not inspect.getdoc(thing)] == []


def test_public_names_are_importable():
    names = "RNN LSTM GRU RNNCell LSTMCell GRUCell Dense Model TBPTT Parameters Gradients Grads Tape Cell"
    names += " Recurrent RecurrentCell " + " ".join(LAYERS)
    names += " init losses optim encoders reference tbptt checkpoint show_config get_num_threads set_num_threads"
    for name in names.split():
        assert hasattr(rnnfast, name), name


def test_importing_the_package_imports_numpy_and_nothing_else():
    script = "import sys, numpy; before = set(sys.modules); import rnnfast; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    foreign = roots - sys.stdlib_module_names - {"numpy", "rnnfast"}
    assert {name for name in foreign if not name.startswith(("_cython", "cython_runtime"))} == set()


def test_what_layers_do_not_need_is_imported_at_its_first_use():
    script = "import sys, rnnfast; print(*sys.modules); [getattr(rnnfast, name) for name in rnnfast.__all__]"
    done = subprocess.run([sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True)
    later = "data decode encoders online reference schedules tbptt training checkpoint cuda distributed interop plot"
    later += " sklearn torch diagnostics bench cli"
    assert {f"rnnfast.{name}" for name in later.split()} & set(done.stdout.split()) == set()


def imported_by(path):
    """The top-level packages that a source file imports at its module level."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_only_what_an_extra_brings_needs_more_than_numpy():
    extra = set()
    for path in sorted((ROOT / "rnnfast").rglob("*.py")):
        if set(imported_by(path)) - sys.stdlib_module_names - {"numpy", "rnnfast"}:
            extra.add(path.relative_to(ROOT / "rnnfast").as_posix())
    # The doors of ONNX are behind interop/onnx.py, which says what is missing.
    extra = {name for name in extra if not name.removeprefix("interop/").lstrip("_").startswith("onnx")}
    # The benchmark imports the PyTorch cells where there is a PyTorch.
    assert extra <= {"cli/app.py", "checkpoint.py", "bench/torch_cells.py", "torch.py"}, extra


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
