"""The device's tests: in Numba's simulator (``NUMBA_ENABLE_CUDASIM=1 pytest tests/gpu``), or compiled without a GPU.

A process either simulates or compiles, so each of the two runs leaves out what belongs to the other.
"""

from __future__ import annotations

try:
    from rnnfast.cuda.shim import SIMULATED
except ImportError:  # without the extra there is nothing to test here
    collect_ignore_glob = ["test_*.py"]
else:
    collect_ignore_glob = ["test_ptx.py"] if SIMULATED else ["test_[!p]*.py", "test_p[!t]*.py"]
