"""The examples run, end with a figure that is good enough, and draw where there is something to draw with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name, folder):
    """What an example prints; its plot, if there can be one, must be a picture."""
    path = folder / "plot.png"
    options = ["--plot", path] if find_spec("matplotlib") else []
    command = [sys.executable, "-P", EXAMPLES / name, *options]
    environment = os.environ | {"RNNFAST_NUM_THREADS": "1"}  # other tests have the other CPUs
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment).stdout
    assert not options or path.read_bytes().startswith(b"\x89PNG")
    return output


def test_forecast(tmp_path):
    output = run("forecast.py", tmp_path)
    ours, persistence, cycle = (float(error) for error in re.findall(r"RMSE +([\d.]+) over 79 years", output))
    assert ours < 0.6 * persistence < 0.6 * cycle


def test_digits(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra examples, has the images")
    accuracy = re.search(r"accuracy: ([\d.]+) of 450 held-out images", run("digits.py", tmp_path))
    assert float(accuracy[1]) >= 0.95


def test_your_own_cell(tmp_path):
    output = run("your_own_cell.py", tmp_path)
    called, streamed = (float(error) for error in re.findall(r"(?:sequences|step): +([\d.]+)", output))
    assert called == streamed < 0.01  # who always answers 1 has 0.167


def test_online(tmp_path):
    output = run("online.py", tmp_path)
    found = [float(error) for error in re.findall(r"RMSE ([\d.]+) since 1800", output)]
    exact, snap, rflo, windows, _, persistence = found
    assert max(exact, snap, rflo) < min(windows, 0.85 * persistence)
