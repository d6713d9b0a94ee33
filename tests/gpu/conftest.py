"""The device's tests: in Numba's simulator (``NUMBA_ENABLE_CUDASIM=1 pytest tests/gpu``), or compiled without a GPU.

A process either simulates or compiles, so each of the two runs skips what belongs to the other, and says so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for `benchmarks`, which is no part of the package

COMPILED = ("test_cache.py", "test_cupy.py", "test_ptx.py")

try:
    from rnnfast.cuda.shim import SIMULATED
except ImportError as error:
    SIMULATED, MISSING = None, str(error)

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if SIMULATED and WORKER and hasattr(os, "sched_setaffinity"):
    # Of the simulated threads, which are Python's, one runs at a time: on one CPU they wake each other at half the
    # cost. xdist's workers have one each; the process that starts them must keep all.
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[int(WORKER.removeprefix("gw")) % len(cpus)]})


def left_out(name):
    """Why this process has no use for a module, or None."""
    if SIMULATED is None:
        return MISSING
    if SIMULATED:
        return "the simulator compiles nothing" if name in COMPILED else None
    return None if name in COMPILED else "runs in the simulator: NUMBA_ENABLE_CUDASIM=1"


class LeftOut(pytest.Module):
    """A module that is not imported."""

    def collect(self):
        # Nothing is lost: `tools/check.py` runs this folder twice, simulated and compiled, and the checks fail if the
        # packages that both need are not there (no test left: pytest then ends with status 5).
        pytest.skip(left_out(self.path.name), allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if left_out(module_path.name) is not None:
        return LeftOut.from_parent(parent, path=module_path)
    return None
