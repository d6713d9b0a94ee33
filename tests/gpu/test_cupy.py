"""What the package calls of CuPy and cuBLAS is there, and as it expects: to look at it needs no GPU."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

import pytest

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

import rnnfast  # noqa: E402
from rnnfast.cuda import blas  # noqa: E402


def test_a_product_does_not_ask_whether_it_is_captured():
    """CuPy's own functions do, and refuse: without a driver they fail at that. cuBLAS misses its handle, no more."""
    library = blas._library()
    for call in (lambda: library.set_stream(None, 2), lambda: library.gemm(*[0] * 19)):
        with pytest.raises(cupy.cuda.cublas.CUBLASError, match="CUBLAS_STATUS_NOT_INITIALIZED"):
            call()


def test_a_cublas_without_memory_is_a_memory_error():
    status = cupy.cuda.cublas.CUBLASError(blas._ALLOC_FAILED)
    assert "ALLOC_FAILED" in str(status)
    with pytest.raises(MemoryError, match="cuBLAS"):
        blas._library().gemm.errcheck(blas._ALLOC_FAILED)


def test_whatever_is_called_of_xp_is_in_cupy():
    """The simulator has NumPy in its place, which has more."""
    names = set()
    for path in Path(rnnfast.__file__).parent.rglob("*.py"):
        names |= set(re.findall(r"\bxp(?:\(\))?\.([a-z_]\w*(?:\.[a-z_]\w*)*)", path.read_text()))
    assert {"where", "argsort", "lib.stride_tricks.as_strided", "cuda.get_current_stream"} <= names
    missing = {name for name in names if not _there(name)}
    assert missing == set()


def _there(name):
    try:
        reduce(getattr, name.split("."), cupy)
    except AttributeError:
        return False
    return True
