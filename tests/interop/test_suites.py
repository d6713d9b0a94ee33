"""PyTorch's own inputs of its modules, and the command that counts what passes."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
import suites

torch = pytest.importorskip("torch", reason="PyTorch is not installed, whose tests these are")
pytest.importorskip("expecttest", reason="PyTorch's tests need it")

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", range(8))
def test_pytorch_s_own(block):
    """One of five; `tools/suites.py` runs them all."""
    chosen = list(suites.torch_modules())[5 * block :: 40]
    assert len(chosen) >= 40
    for name, check in chosen:
        if suites.BEYOND_FIRST in name:
            with pytest.raises(RuntimeError, match="expected first derivatives alone"):
                check()
        else:
            check()


def test_the_table_on_the_page_is_of_these_suites():
    page = (ROOT / "docs" / "interop.md").read_text()
    for suite in suites.SUITES.values():
        assert re.search(rf"^\| {re.escape(suite.title)} \| \d+ \| \d+ \|", page, re.MULTILINE), suite.title


def test_the_command_counts():
    pytest.importorskip("onnx", reason="onnx is an extra")
    command = [sys.executable, "-P", str(ROOT / "tools" / "suites.py"), "onnx-nodes"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"^\| ONNX node tests, RNN LSTM GRU \| \d\d \| 0 \| - \|$", done.stdout, re.MULTILINE)


def test_what_skips_itself_neither_passes_nor_fails():
    def skips():
        raise unittest.SkipTest("no pandas")

    def fails():
        raise ValueError("no peephole")

    cases = [("a", lambda: None), ("b", skips), ("c", fails)]
    counted = runpy.run_path(str(ROOT / "tools" / "suites.py"))["run"](suites.Suite("", (), lambda: iter(cases)), False)
    assert counted == (1, {"no peephole": 1})
