"""Builds rnnfast with AddressSanitizer and UndefinedBehaviorSanitizer and runs the kernels' tests on that build.

Linux with GCC only: elsewhere it says so and succeeds. The build goes into a temporary virtual environment that borrows
the packages of this one, so rnnfast's `test` extra must be here, and the rnnfast that is installed here stays as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/test_kernels.py", "tests/test_arrays.py", "tests/stream", "tests/cells/test_interpreter.py")
BUILD = ("-Ccmake.define.RNNFAST_SANITIZE=ON",)  # of the kernels those for the CPU's best instruction set


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def borrowing_environment(folder: str) -> str:
    """A virtual environment in `folder` that also sees the packages installed here; returns its Python.

    A .pth file in a folder that itself comes from a .pth file isn't read, so an editable rnnfast stays out of sight.
    """
    venv.create(folder, symlinks=True)
    python = f"{folder}/bin/python"
    its_packages = output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(its_packages, "borrowed.pth").write_text("\n".join(borrowed))
    return python


def main() -> int:
    """Builds, runs the tests, returns their exit status."""
    if not (sys.platform == "linux" and shutil.which("g++")):
        print("skipped: this needs Linux and g++")
        return 0
    with tempfile.TemporaryDirectory(prefix="rnnfast-sanitize-") as folder:
        python = borrowing_environment(folder)
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps")
        subprocess.run([*pip, *BUILD, str(ROOT)], check=True, env=os.environ | {"CC": "gcc", "CXX": "g++"})
        # Python itself isn't built with the sanitizers, so their runtime libraries must be there before it starts.
        libraries = (output("g++", f"-print-file-name={name}.so") for name in ("libasan", "libubsan", "libstdc++"))
        environment = os.environ | {
            "LD_PRELOAD": " ".join(str(Path(library).resolve()) for library in libraries),
            "ASAN_OPTIONS": "detect_leaks=0",  # nearly all of them are Python's own
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        pytest = (python, "-P", "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", "-m", "not slow")
        return subprocess.run([*pytest, *TESTS], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main())
