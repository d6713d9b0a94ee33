"""Examples in docstrings run, and show what they say; functions of the public rooms have one.

An example begins where ``import numpy as np`` and ``import rnnfast`` have been.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import rnnfast

PACKAGES = {"plot": "matplotlib", "sklearn": "sklearn", "torch": "torch", "cli": "click", "checkpoint": "safetensors"}
"""What modules need beyond NumPy, by their names."""
WITH_EXAMPLES = ("data", "decode", "diagnostics", "encoders", "init", "optim", "plot", "schedules", "tbptt", "training")


def modules():
    """All of them but those of CUDA, whose examples would need a device."""
    found = [module.name for module in pkgutil.walk_packages(rnnfast.__path__, "rnnfast.", onerror=lambda name: None)]
    return [name for name in found if ".cuda" not in name and not name.endswith("__main__")]


def module_of(name):
    """The module, or a skip where it needs what is not here."""
    for part, package in PACKAGES.items():
        if f".{part}" in name:
            pytest.importorskip(package, reason=f"{name} needs {package}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{name} needs {error.name}")


@pytest.fixture
def pictures():
    """Figures that nobody sees, and that are closed."""
    matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plot")
    matplotlib.use("agg")
    yield
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("name", modules())
def test_examples_show_what_they_say(name, request, tmp_path, monkeypatch):
    module = module_of(name)
    if name == "rnnfast.plot":
        request.getfixturevalue("pictures")
    monkeypatch.chdir(tmp_path)  # examples may write files
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder().find(module, extraglobs={"np": np, "rnnfast": rnnfast}):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_the_page_on_training_shows_what_it_says():
    page = Path(__file__).resolve().parents[1] / "docs" / "training.md"
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert found.attempted > 20 and not found.failed


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_functions_have_an_example(name):
    module = module_of(f"rnnfast.{name}")
    functions = [one for one in module.__all__ if inspect.isfunction(getattr(module, one))]
    without = [one for one in functions if ">>>" not in (getattr(module, one).__doc__ or "")]
    assert not without


@pytest.mark.parametrize("name", rnnfast.__all__)
def test_classes_have_an_example(name):
    """Those that a program makes; others come from calls."""
    found = getattr(rnnfast, name)
    made = inspect.isclass(found) and name not in ("Gradients", "Grads", "Parameters", "Tape")
    if made or inspect.isfunction(found):
        assert ">>>" in (found.__doc__ or "")
