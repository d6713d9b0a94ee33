"""What several test modules need besides the registry: arrays of odd makes, wrong sizes, Python in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np

NOT_SIZES = [
    (0, ValueError, "expected an integer in 1..\\d+, got 0"),
    (-3, ValueError, "expected an integer in 1..\\d+, got -3"),
    (2**24 + 1, ValueError, "expected an integer in 1..\\d+, got 16777217"),
    (10**30, ValueError, "expected an integer in 1..\\d+, got 10{30}"),
    (2.0, TypeError, "expected an integer, got float 2.0"),
    (True, TypeError, "expected an integer, got bool True"),
    (np.True_, TypeError, "expected an integer, got"),
    ("3", TypeError, "expected an integer, got str '3'"),
    (None, TypeError, "expected an integer, got NoneType None"),
    (np.zeros(2), TypeError, "expected an integer, got array of float64, shape "),
]
"""Of a layer or a batch: value, error, message."""


def unaligned(x):
    buffer = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    buffer[...] = x
    assert not buffer.flags.aligned
    return buffer


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


class OnlyDLPack:
    """An array of another library: no buffer, no __array__."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def run_script(script, *arguments, timeout=180, **environment):
    """Runs Python source in a new process whose environment says nothing else of threads; returns what it printed."""
    silent = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "RNNFAST_"))}
    command = [sys.executable, "-P", "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=silent | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
