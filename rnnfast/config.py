"""What is installed and in use: version, instruction set, threads, compiler, extras."""

from __future__ import annotations

import os
import re
from typing import Any, TextIO

from . import _checks, _core
from ._quota import limit_default_threads

__all__ = ["get_include", "get_num_threads", "info", "set_num_threads", "show_config", "version"]


limit_default_threads()


def version() -> str:
    """The version of the installed package.

    Returns
    -------
    str
    """
    from importlib import metadata  # not above: it would be a quarter of the time that importing rnnfast takes

    return metadata.version("rnnfast")


def get_include() -> str:
    """The folder of the C header `rnnfast/stream.h`, for a compiler's -I.

    Returns
    -------
    str

    Examples
    --------
    >>> os.path.exists(os.path.join(get_include(), "rnnfast", "stream.h"))
    True
    """
    return os.path.join(os.path.dirname(__file__), "include")


def get_num_threads() -> int:
    """The most threads that a call uses, unless its `num_threads` says otherwise.

    It is what `set_num_threads` set, else `RNNFAST_NUM_THREADS`, else `OMP_NUM_THREADS`, else the number of CPUs that
    this process may use: by its affinity, and by the quota of its control group (a container's `--cpus`). Where OpenMP
    is limited to fewer threads than it started with (`threadpoolctl`), no call of that Python thread uses more of them,
    whatever this number and `num_threads` say. A call of little work runs on one thread, and so does every call in a
    child after `fork`, which OpenMP's threads do not survive.

    Examples
    --------
    >>> rnnfast.get_num_threads() >= 1
    True

    Returns
    -------
    int
    """
    return _core.get_num_threads()


def set_num_threads(num_threads: int) -> None:
    """Set the most threads that a call uses. Results do not depend on it.

    Parameters
    ----------
    num_threads : int
        In 1..4096; more than there are CPUs if you wish, where a call's `num_threads` is at most their number.
        A limit on OpenMP (`get_num_threads`) goes before it.

    Raises
    ------
    TypeError, ValueError
        It is not such a number.

    Examples
    --------
    >>> before = rnnfast.get_num_threads()
    >>> rnnfast.set_num_threads(1)
    >>> rnnfast.get_num_threads()
    1
    >>> rnnfast.set_num_threads(before)
    """
    _core.set_num_threads(_checks.integer("num_threads", num_threads, maximum=4096))


def info() -> dict[str, Any]:
    """What `show_config` prints.

    Returns
    -------
    dict
        "version", "isa" (in use), "isa_available", "RNNFAST_ISA" (None where it is not set), "num_threads", what the
        build says of itself ("compiler", "openmp", ...), "cuda" (the current device, or that there is none), and
        "extras": the version of each optional package, None where it is not installed.
    """
    return {
        "version": version(),
        "isa": _core.isa(),
        "isa_available": _core.isa_available(),
        "RNNFAST_ISA": os.environ.get("RNNFAST_ISA"),
        "num_threads": get_num_threads(),
        **_core.build_info(),
        "cuda": _cuda(),
        "extras": _extras(),
    }


def show_config(file: TextIO | None = None) -> None:
    """Print version, instruction set, threads, OpenMP, compiler, CUDA device and extras.

    Parameters
    ----------
    file : text file, optional
        Where to print; the standard output by default.

    Examples
    --------
    >>> rnnfast.show_config()  # doctest: +ELLIPSIS
    version: ...
    """
    for name, value in info().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {found or 'not installed'}" for key, found in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        print(f"{name}: {value if value not in (None, '') else 'not set'}", file=file)


def _cuda() -> str:
    """The current CUDA device, or why there is none."""
    try:
        from .cuda import device, shim

        return shim.limits(device.current().number).name
    except Exception as error:  # whatever packages or a driver that are half there may raise
        return f"not available ({error})"


def _extras() -> dict[str, str | None]:
    """The version of each package that an extra requires, tests apart; None where it is not installed."""
    from importlib import metadata

    found: dict[str, str | None] = {}
    for requirement in metadata.requires("rnnfast") or ():
        parsed = re.match(r"""([\w.-]+).*extra == ['"](?!test)""", requirement)
        if parsed is not None and parsed[1] != "rnnfast":
            try:
                found[parsed[1]] = metadata.version(parsed[1])
            except metadata.PackageNotFoundError:
                found[parsed[1]] = None
    return dict(sorted(found.items()))
