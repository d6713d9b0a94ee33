"""The same bits on machines of other architectures, which can't be compared in one process.

`write` leaves digests of all that every description gives; where the environment's RNNFAST_BITS names such a file, the
test holds this machine's to it. `tools/aarch64.py` writes it with AVX2 and reads it with NEON.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells.test_interpreter import DESCRIPTIONS, FMA_ISAS, Problem

FILE = os.environ.get("RNNFAST_BITS")
SIZES = ((5, 7, 3, 34), (4, 1, 20, 2), (3, 2, 5, 100))


def rounded(array: Any) -> Any:
    """To three decimals, of a tuple each: what NumPy draws may have other last bits with another library of C."""
    if isinstance(array, tuple):
        return tuple(map(rounded, array))
    return array if array.dtype.kind == "i" else np.round(array, 3)


def digests(name: str) -> dict[str, str]:
    """Of each array of a description at some sizes, in both dtypes, forward and backward."""
    found = {}
    for sizes in SIZES:
        problem = Problem(name, sizes)
        problem.params = {key: rounded(array) for key, array in problem.params.items()}
        for key in ("state", "reset_state", "dfinal", "dy", "x", "given"):
            setattr(problem, key, rounded(getattr(problem, key)))
        for dtype in (np.float32, np.float64):
            for key, array in problem.run(FMA_ISAS[-1], dtype).items():
                found[f"{key} {sizes} {dtype.__name__}"] = hashlib.sha256(array.tobytes()).hexdigest()
    return found


def write(path: str) -> None:
    """A file of all descriptions' digests."""
    Path(path).write_text(json.dumps({name: digests(name) for name in DESCRIPTIONS}))


# Needs two architectures, of which one is emulated for minutes: `tools/aarch64.py` runs it, the checks do not.
@pytest.mark.skipif(not FILE, reason="RNNFAST_BITS names no file of another machine's digests")
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_bits_of_another_machine(name: str) -> None:
    expected = json.loads(Path(str(FILE)).read_text())[name]
    found = digests(name)
    assert list(found) == list(expected)
    assert [key for key in expected if found[key] != expected[key]] == []
