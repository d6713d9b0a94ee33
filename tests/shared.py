"""What several test modules need besides the registry: arrays of odd makes, what must be refused, a new process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

OLD = 7.0  # what `out` holds before a call that must not write to it

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


class Subclass(np.ndarray):
    """Like ndarray."""


def strided(x):
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


MAKES = {
    "Fortran order": np.asfortranarray,
    "strided features": strided,
    "strided rows": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "sliced": lambda x: np.pad(x, 1, constant_values=np.nan)[(slice(1, -1),) * x.ndim],
    "read-only": read_only,
    "unaligned": unaligned,
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "float64": lambda x: x.astype(np.float64),
    "longdouble": lambda x: x.astype(np.longdouble),
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x),
    "DLPack": OnlyDLPack,
    "memory view": memoryview,
    "subclass": lambda x: x.view(Subclass),
}
"""Ways to hand in the numbers of a float array, of any number of axes."""


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


NOT_REAL = [
    *((lambda shape, dtype=dtype: np.zeros(shape, dtype), "expected an array of real numbers")
      for dtype in ("c8", "O", "U3", "S1", "M8[s]", "V8")),
    (lambda shape: np.ma.masked_array(zeros(*shape), mask=False), "expected an array without a mask"),
    (lambda shape: [np.ma.masked_array(zeros(*shape[1:]), mask=False)] * shape[0], "expected an array without a mask"),
    (lambda shape: "text", "expected an array of real numbers"),
    (lambda shape: None, "expected an array of real numbers"),
    (lambda shape: object(), "expected an array of real numbers"),
    (lambda shape: [[1.0], [2.0, 3.0]], "expected an array of real numbers"),
    (lambda shape: 2**70, "expected an array of real numbers"),
]  # fmt: skip
"""In place of a float array: makes one of a shape, message."""


def bad_outs(shape):
    """Arrays that a call for this shape, in float32, must not write to: array, error, message."""
    wide = (*shape[:-1], 2 * shape[-1])
    given = ", ".join(map(str, shape))
    yield np.full((*shape[:-1], shape[-1] + 1), OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \["
    yield np.full((1, *shape), OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \[1, "
    yield np.full(shape[1:], OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \["
    yield np.full((*shape[:-2], 1, shape[-1]), OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \["
    yield np.full((shape[0] + 1, *shape[1:]), OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \["
    yield np.full(shape, OLD), TypeError, "expected dtype float32, got float64"
    yield np.full(shape, 7, np.int32), TypeError, "expected dtype float32, got int32"
    yield np.full(shape, OLD, ">f4"), TypeError, "expected dtype float32, got >f4"
    yield np.full(shape, OLD, np.float32).tolist(), TypeError, "expected a NumPy array to write into, got list"
    yield OLD, TypeError, "expected a NumPy array to write into, got float"
    yield read_only(np.full(shape, OLD, np.float32)), ValueError, "expected an array that is writeable"
    yield read_only(np.full(shape, OLD, np.float32)).view(Subclass), ValueError, "expected an array that is writeable"
    yield np.full(wide, OLD, np.float32)[..., ::2], ValueError, "expected an array that is c_contiguous"
    yield np.full(shape, OLD, np.float32, order="F"), ValueError, "expected an array that is c_contiguous"
    yield unaligned(np.full(shape, OLD, np.float32)), ValueError, "expected an array that is aligned"


def refused(call, error, message):
    """Assert that a call raises `error` with a message that begins with this pattern."""
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    assert re.match(message, str(raised.value)), str(raised.value)


def run_script(script, *arguments, timeout=180, **environment):
    """Runs Python source in a new process whose environment says nothing else of threads; returns what it printed."""
    silent = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "RNNFAST_"))}
    command = [sys.executable, "-P", "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=silent | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
