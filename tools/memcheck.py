"""Runs forward, backward and a stream of each kind of kernel under valgrind's memcheck; Linux with valgrind only.

    python tools/memcheck.py

An error counts where one of its innermost frames lies in a compiled module of rnnfast. Valgrind also reports some in
the interpreter and in NumPy: CPython reads the second digit of small integers before it knows that there is none, and
what it learns from that runs through everything Python does. A list of suppressions for those would be as long as the
interpreter; this is the one rule that suppresses them. Valgrind knows no AVX-512: the kernels are those for AVX2.

The exit status is the number of different errors.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FRAMES = 6  # how many of the innermost count
OURS = re.compile(r"\(in \S*/rnnfast/(_core|_flat|stream)\.")

CALLS = """
import numpy as np
import rnnfast
from rnnfast import optim
from rnnfast.description.cells import CATALOGUE

rng = np.random.default_rng(0)
for dtype in ("float32", "float64"):
    x = rng.standard_normal((5, 3, 4)).astype(dtype)
    for name in ("lstm", "gru_after", "gru_before", "elman", "slstm", "lstm_proj"):
        cell = CATALOGUE[name]
        layer = rnnfast.Recurrent(cell, 4, 7, 2, bidirectional=True, dtype=dtype, rng=0)
        masks = {"lengths": [5, 0, 3], "resets": rng.random((5, 3)) < 0.3}
        for inputs in (x, rng.integers(0, 4, (5, 3))):
            y, _, tape = layer.forward(inputs, num_threads=1, **masks)
            gradients = layer.backward(tape, y, num_threads=1).params
        optim.clip_grad_norm(gradients, 0.1)
        optim.Adam(layer.params).step(gradients)
        one = rnnfast.Recurrent(cell, 4, 7, 2, dtype=dtype, rng=0)
        for weights in (dtype, "bfloat16")[: 1 + (dtype == "float32")]:
            stream = one.stream(3, weights=weights, num_threads=1)
            stream.process(x)
            stream.step(x[0])
    dense = rnnfast.Dense(4, 5, activation="softmax", dtype=dtype, rng=0)
    y, tape = dense.forward(x)
    dense.backward(tape, y)
print("all calls are made")
"""


def errors(log: str) -> list[str]:
    """The errors in valgrind's log that are ours."""
    text = re.sub(r"^==\d+== ?", "", log, flags=re.MULTILINE)
    found = []
    for block in text.split("\n\n"):
        frames = re.findall(r"^ +(?:at|by) 0x\w+: .*$", block, re.MULTILINE)
        if any(OURS.search(frame) for frame in frames[:FRAMES]):
            found.append(block.strip())
    return found


def main() -> int:
    """Runs the calls; prints the errors and returns how many there are."""
    if sys.platform != "linux" or shutil.which("valgrind") is None:
        print("skipped: this needs Linux and valgrind")
        return 0
    with tempfile.TemporaryDirectory(prefix="rnnfast-memcheck-") as folder:
        log, calls = Path(folder, "log"), Path(folder, "calls.py")
        calls.write_text(CALLS)
        valgrind = ["valgrind", f"--log-file={log}", "--num-callers=20", "--error-limit=no"]
        environment = os.environ | {"PYTHONMALLOC": "malloc", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*valgrind, sys.executable, "-P", str(calls)], env=environment)
        found = errors(log.read_text())
    print("\n\n".join(found) or "no error in rnnfast's modules")
    return len(found) + (done.returncode != 0)


if __name__ == "__main__":
    raise SystemExit(main())
