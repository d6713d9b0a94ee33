"""Compiled kernels that are kept: what decides an entry, and what becomes of one that is damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from description.descriptions import DESCRIPTIONS

from rnnfast.cuda import blas, cache, flat, persistent, pointwise, reductions, shim
from rnnfast.cuda.plan import PRECISIONS, ROWS_LEFT, WEIGHTS_LEFT
from rnnfast.cuda.sequence import CELLS

CODE = cache.Code("kernel", b"\x7fELF and so on \0\xff")


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    cache._opened.cache_clear()
    cache._warn.cache_clear()
    return tmp_path / "kept"


def never():
    raise AssertionError("compiled once more")


def only_entry(place):
    (path,) = (path for path in place.rglob("*") if path.is_file())
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Keys


def made(text, name="kernel", **scope):
    """A function of a text, as the written kernels are."""
    scope["__name__"] = "somewhere"
    exec(text, scope)
    return scope[name]


def identity(function):
    return cache.identity(function, {})


INNER = "def inner(x): return x + {0}\ndef kernel(x): return inner(x) * K\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (made("def kernel(x): return x + 1"), made("def kernel(x): return x + 2")),
        (made("def kernel(x): return x + 1"), made("def kernel(x): return x + 1.0")),
        (made("def kernel(x): return x + 1"), made("def kernel(x): return x - 1")),
        (made("def kernel(x, y=1): return x"), made("def kernel(x, y=2): return x")),
        (made(INNER.format(1), K=np.float32(2)), made(INNER.format(3), K=np.float32(2))),
        (made(INNER.format(1), K=np.float32(2)), made(INNER.format(1), K=np.float32(3))),
        (made(INNER.format(1), K=np.float32(0.0)), made(INNER.format(1), K=np.float32(-0.0))),
        (made(INNER.format(1), K=True), made(INNER.format(1), K=1)),
        (made("def kernel(x): return K.a(x)", K=np), made("def kernel(x): return K.a(x)", K=os)),
        (made("def kernel(x): return [K for _ in x]", K=1), made("def kernel(x): return [K for _ in x]", K=2)),
    ],
)
def test_whatever_a_kernel_says_is_in_its_identity(one, other):
    assert identity(one) == identity(one)
    assert identity(one) != identity(other)


def test_so_is_what_it_closes_over():
    def outer(value, call=len):
        return lambda x: call(x) + value

    assert identity(outer(1)) == identity(outer(1))
    assert len({identity(outer(value)) for value in (1, 2, 1.0, (1,), ROWS_LEFT, WEIGHTS_LEFT)}) == 6
    assert identity(outer(1)) != identity(outer(1, max))
    assert identity(outer(1, outer(2))) != identity(outer(1, outer(3)))
    with pytest.raises(cache.Unknown, match="list has no identity"):
        identity(outer([1]))
    assert cache.key_of(outer([1]), {}) is None


def test_functions_that_call_each_other_have_one():
    text = "def kernel(x): return inner(x)\ndef inner(x): return kernel(x) + {0}\n"
    assert identity(made(text.format(1))) == identity(made(text.format(1)))
    assert identity(made(text.format(1))) != identity(made(text.format(2)))


def test_every_kernel_has_a_key_of_its_own():
    kernels = {"sgd": flat._sgd, "rmsprop": flat._rmsprop, "adam": flat._adam, "parts": reductions._add_parts}
    for precision in PRECISIONS:
        for family in ("elman_tanh", "lstm", "gru_after"):
            assert family in CELLS
            for where in (ROWS_LEFT, WEIGHTS_LEFT):
                for fragments in (2, 4):
                    key = family, precision, where.name, fragments
                    kernels["forward", *key] = persistent.forward_kernel(family, precision, fragments, where)
                    kernels["backward", *key] = persistent.backward_kernel(family, precision, fragments, where)
            for backward in (False, True):
                kernels["pack", family, precision, backward] = persistent.pack_kernel(family, precision, backward)
    for precision in ("float32", "bfloat16"):
        kernels["sums", precision] = reductions._sums_kernel(precision)
        kernels["copy", precision] = blas._copy_kernel(precision == "bfloat16")
    for name in ("lstm", "gru_before", "conditions"):
        code = pointwise.pointwise(DESCRIPTIONS[name].program(), False)
        kernels["described", name] = next(one.kernel for _, one in code.forward if one)
    keys = {cache.key_of(one.function, shim._own_names()) for one in kernels.values()}
    assert None not in keys
    assert len(keys) == len({id(one) for one in kernels.values()})


def test_what_else_is_in_a_key(monkeypatch):
    one = made("def kernel(x): return x")
    key = cache.key_of(one, {}, "sm_90a", ("nvvm 1",))
    assert key == cache.key_of(one, {}, "sm_90a", ("nvvm 1",))
    assert key != cache.key_of(one, {}, "sm_90", ("nvvm 1",))
    assert key != cache.key_of(one, {}, "sm_90a", ("nvvm 2",))
    monkeypatch.setattr(cache, "_text", lambda: "another text of the modules")
    assert key != cache.key_of(one, {}, "sm_90a", ("nvvm 1",))
    monkeypatch.setattr(cache, "_text", lambda: None)
    assert cache.key_of(one, {}, "sm_90a", ("nvvm 1",)) is None


def test_the_toolchain_is_named():
    found = shim.toolchain()
    for part in ("numba-cuda 0.30", "llvmlite ", "libnvvm", "nvJitLink"):
        assert any(part.lower() in one.lower() for one in found), (part, found)


# ---------------------------------------------------------------------------------------------------------------------
# Entries


def test_what_is_made_is_kept(place):
    assert cache.fetch(b"key", lambda: CODE) == CODE
    assert cache.fetch(b"key", never) == CODE
    other = CODE._replace(name="other")
    assert cache.fetch(b"another", lambda: other) == other
    assert len([path for path in place.rglob("*") if path.is_file()]) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ],
)
def test_what_is_damaged_is_made_anew(place, damage):
    cache.fetch(b"key", lambda: CODE)
    path = only_entry(place)
    path.write_bytes(damage(path.read_bytes()))
    other = CODE._replace(cubin=b"new")
    assert cache.fetch(b"key", lambda: other) == other
    assert cache.fetch(b"key", never) == other


def test_what_raises_keeps_nothing(place):
    with pytest.raises(AssertionError, match="compiled once more"):
        cache.fetch(b"key", never)
    assert cache.fetch(b"key", lambda: CODE) == CODE


def test_where(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, "")
    assert cache.folder() is None
    assert cache.fetch(b"key", lambda: CODE) == CODE
    with pytest.raises(AssertionError, match="compiled once more"):
        cache.fetch(b"key", never)
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "rnnfast" / "cuda"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "rnnfast" / "cuda"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache.folder() == tmp_path / "local" / "rnnfast" / "cuda"


def test_a_folder_that_can_t_be_is_said_once(monkeypatch, place):
    place.write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match=r"can't be kept in .*kept .*RNNFAST_CACHE_DIR names another folder"):
        assert cache.fetch(b"key", lambda: CODE) == CODE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.fetch(b"key", lambda: CODE) == CODE


def test_what_was_not_read_for_longest_goes_first(monkeypatch, place):
    monkeypatch.setattr(cache, "MOST_BYTES", 3000)
    big = CODE._replace(cubin=bytes(1000))
    for key in (b"a", b"b"):
        cache.fetch(key, lambda: big)
    cache.fetch(b"a", never)
    cache.fetch(b"c", lambda: big)
    assert cache.fetch(b"a", never) == big
    with pytest.raises(AssertionError, match="compiled once more"):
        cache.fetch(b"b", never)


SCRIPT = """
from rnnfast.cuda import flat, shim
print(len(shim.compile_cubin(flat._sgd, (9, 0))))
"""


def test_two_processes_compile_one_kernel_and_both_read_it(monkeypatch, place):
    """At once and for one folder; their hashes of strings differ."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SCRIPT], stdout=subprocess.PIPE, env=environ, text=True
    ) as other:
        own = shim.compile_cubin(flat._sgd, (9, 0))
        size = int(other.communicate()[0])
    assert other.returncode == 0
    monkeypatch.setattr(shim._Compiled, "_compile", lambda self, target: never())
    assert shim.compile_cubin(flat._sgd, (9, 0)) == own
    assert own.startswith(b"\x7fELF")
    assert size == len(own)
    assert Path(only_entry(place)).read_bytes().endswith(own)
    with pytest.raises(AssertionError, match="compiled once more"):
        shim.compile_cubin(flat._sgd, (8, 0))
