"""The examples run, end with a figure that is good enough, and draw."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name, *arguments):
    command = [sys.executable, "-P", EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def test_forecast():
    errors = [float(error) for error in re.findall(r"RMSE +([\d.]+) over 79 years", run("forecast.py"))]
    ours, persistence, cycle = errors
    assert ours < 0.6 * persistence < cycle


def test_digits():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    accuracy = re.search(r"accuracy: ([\d.]+) of 450 held-out images", run("digits.py"))
    assert float(accuracy[1]) >= 0.95


@pytest.mark.parametrize("name", ["forecast.py", "digits.py"])
def test_plots(tmp_path, name):
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    if name == "digits.py":
        pytest.importorskip("sklearn", reason="needs scikit-learn")
    run(name, "--plot", str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
