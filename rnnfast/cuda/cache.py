"""Machine code of kernels, kept in a folder from one process to the next.

To compile a kernel takes Numba seconds, to read it a millisecond. What decides a kernel's machine code is its *key*:

- the *identity* of its function: the bytecode, constants and defaults of it and of all device functions that it calls,
  with the values that they close over and the globals that they name (`identity`);
- the text of all modules of `rnnfast.cuda`, where the intrinsics are;
- versions: of this package, Python, Numba, numba-cuda, LLVM, and the libraries that compile and link (`shim`);
- the compute capability, the argument types and the options that it is compiled with.

A function with a value in it that has no identity is compiled in every process.

The folder is `FileStreamProgramCache`'s, of cuda.core: entries are written aside and moved into place, so any number of
processes may share it, and the entries that were not read for longest go when there are more than `MOST_BYTES`. What is
kept begins with a hash of the rest: an entry that was damaged is compiled anew and replaced. It is code for the GPU and
is never run, or unpickled, on the host.

Rejected: ``numba.cuda.jit(cache=True)``. In numba-cuda 0.30.4 it looks at a kernel's own source file alone and not at
those of the functions that it calls, refuses kernels that were written out (`pointwise`), raises for a damaged file,
and has one index for all kernels of a factory, which two processes write without a lock, so that a key can come to name
another kernel's code. Rejected, too: the LLVM code as a key (to make it is nine tenths of the work).
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np

__all__ = ["MOST_BYTES", "VARIABLE", "Code", "Unknown", "fetch", "folder", "identity", "key_of"]

VARIABLE = "RNNFAST_CACHE_DIR"
"""The environment's variable that names the folder; empty: nothing is kept."""
MOST_BYTES = 256 << 20
_DIGEST = hashlib.sha256().digest_size
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


class Code(NamedTuple):
    """A kernel's machine code, and its name in it."""

    name: str
    cubin: bytes


class Unknown(TypeError):
    """A value without an identity."""


def folder() -> Path | None:
    """Where code is kept: what `VARIABLE` says, or ``rnnfast/cuda`` in the user cache folder; None: it is not kept."""
    said = os.environ.get(VARIABLE)
    if said is not None:
        return Path(said) if said else None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "rnnfast" / "cuda"
    except RuntimeError:  # nobody's home
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Keys


def key_of(function: Callable[..., Any], names: Mapping[int, str], *others: Any) -> bytes | None:
    """The key of a kernel, or None where it has none.

    Parameters
    ----------
    function : callable
        Its Python function.
    names : mapping from int to str
        The names, by `id`, of objects that the text of `rnnfast.cuda` says all about.
    *others
        What else decides its code.

    Returns
    -------
    bytes or None
    """
    text = _text()
    if text is None:
        return None
    try:
        return hashlib.sha256(repr((text, others, identity(function, names))).encode()).digest()
    except Unknown:
        return None


@functools.cache
def _text() -> str | None:
    """A hash of the modules of `rnnfast.cuda`; None where they have no text."""
    here = Path(__file__).parent
    found = hashlib.sha256()
    paths = sorted(here.rglob("*.py"))
    for path in paths:
        found.update(repr((str(path.relative_to(here)), path.read_bytes())).encode())
    return found.hexdigest() if paths else None


def identity(value: Any, names: Mapping[int, str]) -> str:
    """What is the same for the same value in every process, and another for any other value.

    Parameters
    ----------
    value : object
        A number, string, array's scalar, tuple, type, module, function, or what Numba makes of one.
    names : mapping from int to str
        As of `key_of`.

    Returns
    -------
    str
        A hash.

    Raises
    ------
    Unknown
        Something in it is of no such type.
    """
    found = hashlib.sha256()
    for part in _parts(value, names, {}):
        found.update(repr(part).encode() + b"\n")
    return found.hexdigest()


def _parts(value: Any, names: Mapping[int, str], seen: dict[int, int]) -> Iterator[Any]:
    """The value as a sequence of what `repr` tells apart; `seen` numbers the functions on the way."""
    kind = type(value)
    if kind in _PLAIN:
        yield kind.__name__, value
    elif id(value) in names:
        yield "name", names[id(value)]
    elif isinstance(value, np.generic):
        yield value.dtype.str, value.tobytes()
    elif isinstance(value, tuple):
        yield kind.__module__, kind.__qualname__, len(value)
        for part in value:
            yield from _parts(part, names, seen)
    elif isinstance(value, frozenset):
        yield "frozenset", sorted(identity(part, names) for part in value)
    elif isinstance(value, ModuleType):
        yield "module", value.__name__
    elif isinstance(value, type | BuiltinFunctionType):
        yield "object", value.__module__, value.__qualname__
    elif isinstance(value, CodeType):
        yield from _code_parts(value, names, seen)
    elif isinstance(function := getattr(value, "py_func", value), FunctionType):
        yield "function", kind.__name__, repr(sorted(getattr(value, "targetoptions", {}).items(), key=str))
        yield from _function_parts(function, names, seen)
    else:
        raise Unknown(f"{kind.__name__} has no identity")


def _code_parts(code: CodeType, names: Mapping[int, str], seen: dict[int, int]) -> Iterator[Any]:
    yield "code", code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    yield code.co_argcount, code.co_kwonlyargcount, code.co_flags
    yield from _parts(code.co_consts, names, seen)


def _function_parts(function: FunctionType, names: Mapping[int, str], seen: dict[int, int]) -> Iterator[Any]:
    if id(function) in seen:
        yield "seen", seen[id(function)]
        return
    seen[id(function)] = len(seen)
    yield function.__module__, function.__qualname__
    yield from _parts(function.__code__, names, seen)
    yield from _parts(function.__defaults__, names, seen)
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, names, seen)
    scope = function.__globals__
    for name in _names_of(function.__code__):
        if name in scope:
            yield name
            yield from _parts(scope[name], names, seen)


def _names_of(code: CodeType) -> Iterator[str]:
    """All names that a function's code and the code inside it may take from its globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_of(constant)


# ---------------------------------------------------------------------------------------------------------------------
# Entries


def fetch(key: bytes | None, make: Callable[[], Code]) -> Code:
    """The code of a key: as it was kept, or made now and kept.

    Parameters
    ----------
    key : bytes or None
        As `key_of` gives it; of None nothing is kept.
    make : callable
        Compiles.

    Returns
    -------
    Code
    """
    place = None if key is None else folder()
    if place is None:
        return make()
    try:
        entries = _opened(place)
        found = None if entries is None else _unsealed(entries.get(key))
    except OSError as error:
        _warn(place, str(error.strerror))
        return make()
    if found is not None:
        return found
    code = make()
    if entries is not None:
        try:
            entries[key] = _sealed(code)
        except OSError as error:
            _warn(place, str(error.strerror))
    return code


@functools.lru_cache(maxsize=4)
def _opened(place: Path) -> Any:
    """The folder's entries; None with a cuda.core before 1.0, which can't keep any."""
    try:
        from cuda.core.utils import FileStreamProgramCache
    except ImportError:
        return None
    return FileStreamProgramCache(place, max_size_bytes=MOST_BYTES)


def _sealed(code: Code) -> bytes:
    rest = code.name.encode() + b"\0" + code.cubin
    return hashlib.sha256(rest).digest() + rest


def _unsealed(entry: bytes | None) -> Code | None:
    """The code of an entry; None if there is none, or it is damaged."""
    if entry is None or hashlib.sha256(entry[_DIGEST:]).digest() != entry[:_DIGEST]:
        return None
    name, _, cubin = entry[_DIGEST:].partition(b"\0")
    return Code(name.decode(), cubin)


@functools.cache
def _warn(place: Path, reason: str) -> None:
    said = f"compiled kernels can't be kept in {place} ({reason}): each process compiles its own; "
    warnings.warn(said + f"{VARIABLE} names another folder, or none if it is empty", RuntimeWarning, stacklevel=2)
