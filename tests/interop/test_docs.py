"""The code blocks of docs/interop.md run, each door's in one go, from an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shared import run_script

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "interop.md").read_text()
DOORS = {title: re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
         for title, text in (part.split("\n", 1) for part in PAGE.split("\n## ")[1:])}  # fmt: skip
NEEDS = {"PyTorch": ("torch",), "ONNX": ("onnx",), "Keras": ("h5py",), "scikit-learn": ("sklearn",)}
"""The packages that a door's blocks import."""


@pytest.mark.parametrize("door", [door for door, blocks in DOORS.items() if blocks])
def test_the_door_s_code_runs(door, tmp_path):
    for package in NEEDS.get(door, ()):
        pytest.importorskip(package, reason=f"{package} is not installed, which the page's code imports")
    run_script(f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(DOORS[door]))
