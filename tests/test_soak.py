"""Memory stays level, and threads and processes get the same bits: a short run of tools/soak.py, which does more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from shared import run_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
pytest.importorskip("safetensors", reason="needs the extra cli")

SOAK = Path(__file__).resolve().parents[1] / "tools" / "soak.py"


@pytest.mark.slow
def test_a_few_hundred_calls_of_each_kind():
    command = [sys.executable, "-P", str(SOAK), "--calls", "300"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a stream's step: 300 calls" in done.stdout
    assert "forkserver: the same bits" in done.stdout


def test_a_leak_would_be_found():
    """In a process of its own, which has no memory to spare from other tests."""
    run_script(f"""
        import sys
        sys.path.append({str(SOAK.parent)!r})
        import soak
        kept = []
        assert soak.grown(lambda: kept.append(b"x" * 20_000), 1000) > soak.GROWTH
        assert soak.grown(lambda: b"x" * 20_000, 1000) < soak.GROWTH
    """)
