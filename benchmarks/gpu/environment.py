"""Where the program runs: what is missing, which package it drives, and the end of a call that does not end.

The package's `__init__` needs compiled modules, which a fresh machine with a GPU may have no means to build. So a
compiled package is used where there is one (the checkout's own, or an installed one that has `cuda`); else a bare
module takes the name `rnnfast`, whose submodules are the checkout's: `rnnfast.cuda.kernel` and `rnnfast.reference`
import nothing that is compiled.

Nothing here imports the package before `prepare`.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["compiled", "facts", "missing_peers", "obstacle", "prepare", "watchdog"]

ROOT = Path(__file__).resolve().parents[2]
_NEEDED = {"numba_cuda": "numba-cuda[cu13]>=0.30.4,<0.31", "cupy": "cupy-cuda13x[ctk]>=14"}


def obstacle() -> str | None:
    """What keeps the program from running here, and what to do about it; None if nothing does.

    Returns
    -------
    str or None
    """
    simulated = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"
    for module, package in _NEEDED.items():
        if not _is_there(module) and not (simulated and module == "cupy"):
            return f'{module} is missing: pip install "{package}"'
    return None


def _is_there(module: str) -> bool:
    return find_spec(module) is not None


def missing_peers() -> str | None:
    """What to say where PyTorch is missing."""
    return None if _is_there("torch") else "PyTorch is missing: ours is timed alone, and no target can be judged."


def _package() -> Path | None:
    """The folder of a package with compiled kernels and `cuda`."""
    for entry in (str(ROOT), *sys.path):
        folder = Path(entry or ".").resolve() / "rnnfast"
        if (folder / "cuda").is_dir() and PathFinder.find_spec("rnnfast._core", [str(folder)]):
            return folder
    return None


def prepare() -> None:
    """Make `rnnfast` importable; what has been imported already stays."""
    if "rnnfast" in sys.modules:
        return
    if folder := _package():
        sys.path.insert(0, str(folder.parent))
        import rnnfast  # noqa: F401
    else:
        bare = ModuleType("rnnfast")
        bare.__path__ = [str(ROOT / "rnnfast")]
        sys.modules["rnnfast"] = bare


def compiled() -> bool:
    """Whether the package that `prepare` found has its compiled kernels, and with them the public layers."""
    return "rnnfast._core" in sys.modules


def facts() -> dict[str, str]:
    """What figures depend on, by name."""
    from rnnfast.cuda import arrays, shim

    found = shim.limits()
    where = ", ".join(sys.modules["rnnfast"].__path__)
    lines = {
        "device": "{}, sm_{}{}, {} multiprocessors".format(found.name, *found.capability, found.multiprocessors),
        "driver": _driver(),
        "rnnfast": f"{where} ({'compiled: public layers too' if compiled() else 'not compiled: kernels only'})",
        "Python": f"{platform.python_version()}, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
    for package in ("numpy", "numba-cuda", "torch"):
        lines[package] = _version(package)
    if not shim.SIMULATED:
        cupy = arrays.xp()
        lines["cupy"] = f"{cupy.__version__}, CUDA runtime {cupy.cuda.runtime.runtimeGetVersion()}"
    if missing_peers() is None:
        import torch

        lines["cuDNN"] = str(torch.backends.cudnn.version())
    return lines


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


@contextmanager
def watchdog(what: str, seconds: float = 60.0) -> Iterator[None]:
    """End the process, with a message, if what is done inside takes longer: a grid that waits for itself never ends.

    A thread says what hung. Should a call into the driver keep all threads of Python from running, `faulthandler`,
    which needs none, ends the process five seconds later.
    """

    def give_up() -> None:
        print(f"HANGS: {what}: no end after {seconds:g} s; the process ends here", file=sys.__stderr__, flush=True)
        os._exit(3)

    timer: Any = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + 5, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        timer.cancel()
