"""docs/install.md on OpenMP beside PyTorch: whose threads a call uses, and whose limits it keeps."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from shared import run_script

from rnnfast import _core

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"),
    pytest.mark.skipif("libgomp" not in _core.build_info()["openmp"], reason="built without libgomp"),
    pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is loaded"),
]

LOADED = """
def loaded():
    return {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}

def threads():
    return _core.threads_for(0, 1e12), torch.get_num_threads()
"""


def test_pytorch_first():
    """One pool: a limit that PyTorch is given holds for rnnfast; rnnfast's own does not hold for PyTorch."""
    script = """
import torch
import rnnfast
from rnnfast import _core
torch.set_num_threads(2)
assert threads() == (2, 2), threads()
torch.set_num_threads(1)
assert threads() == (1, 1), threads()
torch.set_num_threads(2)
rnnfast.set_num_threads(1)
assert threads() == (1, 2), threads()
"""
    run_script(LOADED + script, OMP_NUM_THREADS="2")


def test_rnnfast_first():
    """One pool of a build from source, two of a wheel that brings its own library; either way the sums are right."""
    script = """
import numpy as np
import rnnfast
from rnnfast import _core
layer, x = rnnfast.GRU(64, 128, rng=0), np.ones((20, 16, 64), np.float32)
before, own = layer(x, num_threads=2)[0], loaded()
assert len(own) == 1, own
import torch
torch.set_num_threads(2)
a = torch.ones(300, 300)
assert (a @ a).sum().item() == 300**3
assert layer(x, num_threads=2)[0].tobytes() == before.tobytes()
own_library = any("rnnfast.libs" in path for path in own)
assert len(loaded()) == (2 if own_library else 1), loaded()
torch.set_num_threads(1)
assert threads() == (2 if own_library else 1, 1), threads()
"""
    run_script(LOADED + script, OMP_NUM_THREADS="2")
