"""A call with `out` allocates nothing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest
from shared import run_script

COUNTER = """
#include <errno.h>
#include <stddef.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
long long allocations;
static void count(void) { __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED); }
void *malloc(size_t n) { count(); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { count(); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { count(); return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { count(); return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { count(); return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    count();
    *p = __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}
"""
COUNTING = """
import ctypes, json, sys
from itertools import product, repeat
import numpy as np, rnnfast
from rnnfast import _core

threads = int(sys.argv[1])
# Threads that wait for each other are slow where other tests have the CPUs.
ROUNDS, KINDS = (1000, 4) if threads == 1 else (20, 2)
_core.set_small_work(0)
allocations = ctypes.c_longlong.in_dll(ctypes.CDLL(None), "allocations")

def nothing(rounds):
    before = allocations.value
    for _ in rounds:
        pass
    return allocations.value - before

def calls(rounds, call, x, out):
    before = allocations.value
    for _ in rounds:
        call(x, out)
    return allocations.value - before

def calls_without_out(rounds, call, x):
    before = allocations.value
    for _ in rounds:
        call(x)
    return allocations.value - before

nothing(repeat(None, ROUNDS))
found = {"an empty loop": nothing(repeat(None, ROUNDS))}

def measure(name, call, x, out, rounds=ROUNDS, warm=5):
    calls(repeat(None, warm), call, x, out)
    found[name] = calls(repeat(None, rounds), call, x, out)

rng = np.random.default_rng(0)
def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)

kinds = {
    "LSTM": rnnfast.LSTM, "GRU": rnnfast.GRU, "RNN": rnnfast.RNN,
    "GRU before": lambda *sizes, **options: rnnfast.GRU(*sizes, reset_after=False, **options),
}
for kind, weights, B, L, first in product([*kinds][:KINDS], ("float32", "bfloat16"), (1, 4), (1, 2), (False, True)):
    stream = kinds[kind](16, 24, L, batch_first=first, rng=0).stream(B, weights=weights, num_threads=threads)
    name = f"{kind} {weights} B={B} L={L} batch_first={first} "
    measure(name + "step", stream.step, normal(B, 16), normal(B, 24))
    block, out = ((B, 70), (B, 70)) if first else ((70, B), (70, B))
    measure(name + "process", stream.process, normal(*block, 16), normal(*out, 24), ROUNDS // 10, 1)
    if B == 1:
        measure(name + "unbatched step", stream.step, normal(16), normal(24))
        measure(name + "unbatched process", stream.process, normal(70, 16), normal(70, 24), ROUNDS // 10, 1)

# Enough work that the GIL is released, and that signals are looked for.
stream = rnnfast.LSTM(256, 256, 2, rng=0).stream(num_threads=threads)
measure("large step", stream.step, normal(256), normal(256), ROUNDS // 5)
steps = 2000 if threads == 1 else 500
measure("large process", stream.process, normal(steps, 256), normal(steps, 256), 2, 1)
double = rnnfast.LSTM(8, 9, dtype=np.float64, rng=0).stream(2, num_threads=threads)
measure("float64 step", double.step, rng.random((2, 8)), rng.random((2, 9)))

# Whole models: layers, heads and an embedding.
heads = ("identity", "sigmoid", "tanh", "softmax", "relu", "gelu", "silu", "softplus", "elu")
heads = heads[:9 if threads == 1 else 1]  # they run on the caller's thread
for B, first, head in [(1, False, head) for head in heads] + [(4, False, "tanh"), (4, True, "tanh")]:
    layer = rnnfast.LSTM(16, 24, batch_first=first, rng=0)
    whole = rnnfast.Model(rnn=layer, head=rnnfast.Dense(24, 5, activation=head, rng=0)).stream(B, num_threads=threads)
    name = f"model {head} B={B} batch_first={first} "
    measure(name + "step", whole.step, normal(B, 16), normal(B, 5), 100)
    block, out = ((B, 70), (B, 70)) if first else ((70, B), (70, B))
    measure(name + "process", whole.process, normal(*block, 16), normal(*out, 5), ROUNDS // 10, 1)
embedding, layer, head = rnnfast.Embedding(9, 16, rng=0), rnnfast.GRU(16, 24, rng=0), rnnfast.Dense(24, 9, rng=0)
words = rnnfast.Model(embedding=embedding, layer=layer, head=head).stream(4, num_threads=threads)
measure("words step", words.step, rng.integers(0, 9, 4), normal(4, 9), 100)
measure("words process", words.process, rng.integers(0, 9, (70, 4)), normal(70, 4, 9), ROUNDS // 10, 1)

x = normal(1, 256)
calls_without_out(repeat(None, 20), stream.step, x)
found["without out"] = calls_without_out(repeat(None, ROUNDS), stream.step, x)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """A library that counts what is allocated in a process that starts with it."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if platform.libc_ver()[0] != "glibc" or compiler is None:
        pytest.skip("what is counted is glibc's allocations, by a library that a C compiler must build")
    folder = tmp_path_factory.mktemp("counter")
    source, library = folder / "counter.c", folder / "counter.so"
    source.write_text(COUNTER)
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    probe = "import ctypes; print(ctypes.c_longlong.in_dll(ctypes.CDLL(None), 'allocations').value)"
    started = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, env=os.environ | {"LD_PRELOAD": str(library)}
    )
    assert started.returncode == 0, started.stderr
    assert int(started.stdout) > 1000  # it counts: Python cannot start with less
    return library


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "rounds"), [(1, 1000), (2, 20)])
def test_with_out_nothing_is_allocated(counter, threads, rounds):
    """Neither by Python nor by NumPy, by the kernels or by OpenMP's threads; process is counted a tenth as often."""
    found = json.loads(run_script(COUNTING, str(threads), LD_PRELOAD=str(counter), PYTHONMALLOC="malloc"))
    empty = found.pop("an empty loop")  # reading the counter makes a number, outside of the loop
    assert empty <= 4
    assert found.pop("without out") >= rounds  # so the counter does count
    assert len(found) > 40
    assert {name: count for name, count in found.items() if count != empty} == {}
