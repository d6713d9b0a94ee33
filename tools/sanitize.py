"""Builds rnnfast with sanitizers and runs the kernels' tests on that build.

    python tools/sanitize.py           # AddressSanitizer and UndefinedBehaviorSanitizer, with GCC
    python tools/sanitize.py thread    # ThreadSanitizer, with Clang and LLVM's OpenMP; before a release

Linux with these compilers only: elsewhere it says so and succeeds. The build goes into a temporary virtual environment
that borrows the packages of this one, so rnnfast's `test` extra must be here, and the rnnfast that is installed here
stays as it is. Of the kernels it has those for the CPU's best instruction set.

ThreadSanitizer needs LLVM's OpenMP runtime, whose Archer tells it where threads meet (Debian: clang-14,
libclang-rt-14-dev, libomp-14-dev). GCC's meets on futexes, which it can't see: it would report every parallel region.
It sees what our own modules read and write, not what NumPy does. No race is suppressed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "address": ("tests/test_kernels.py", "tests/test_arrays.py", "tests/stream", "tests/cells/test_interpreter.py"),
    "thread": (
        *("tests/test_kernels.py", "tests/stream", "tests/cells/test_interpreter.py"),
        *("tests/test_threads.py", "tests/test_versions.py"),
    ),
}
CLANG = ("clang", *(f"clang-{version}" for version in range(22, 13, -1)))
LAUNCHER = """
int Py_BytesMain(int, char **);
int main(int count, char **arguments) { return Py_BytesMain(count, arguments); }
"""


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def borrowing_environment(folder: Path) -> str:
    """A virtual environment in `folder` that also sees the packages installed here; returns its Python.

    A .pth file in a folder that itself comes from a .pth file isn't read, so an editable rnnfast stays out of sight.
    """
    venv.create(folder, symlinks=True)
    python = f"{folder}/bin/python"
    its_packages = output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(its_packages, "borrowed.pth").write_text("\n".join(borrowed))
    return python


def install(python: str, kind: str, compilers: tuple[str, str]) -> None:
    """Build for this environment."""
    build = ("--no-deps", f"-Ccmake.define.RNNFAST_SANITIZE={kind}", str(ROOT))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *build)
    subprocess.run(pip, check=True, env=os.environ | dict(zip(("CC", "CXX"), compilers, strict=True)))


def run_tests(kind: str, command: tuple[str, ...], environment: dict[str, str], *options: str) -> int:
    """The tests' exit status."""
    pytest = ("-P", "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", "-m", "not slow")
    return subprocess.run(
        [*command, *pytest, *options, *TESTS[kind]], cwd=ROOT, env=os.environ | environment
    ).returncode


def address(folder: Path) -> int:
    """Memory and undefined behaviour."""
    python = borrowing_environment(folder)
    install(python, "address", ("gcc", "g++"))
    # Python itself isn't built with the sanitizers, so their runtime libraries must be there before it starts.
    libraries = (output("g++", f"-print-file-name={name}.so") for name in ("libasan", "libubsan", "libstdc++"))
    environment = {
        "LD_PRELOAD": " ".join(str(Path(library).resolve()) for library in libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # nearly all of them are Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return run_tests("address", (python,), environment)


def thread(folder: Path) -> int:
    """Races; the reports are printed, and each counts."""
    clang = next(filter(shutil.which, CLANG))
    python = borrowing_environment(folder)
    install(python, "thread", (clang, clang.replace("clang", "clang++")))
    launcher = _launcher(clang, folder)
    # Daemons that are inside a call when Python ends are no leaks: a test is of them.
    options = "ignore_noninstrumented_modules=1 die_after_fork=0 report_thread_leaks=0"
    environment = {"TSAN_OPTIONS": f"{options} log_path={folder}/race"}
    # Without setarch, memory lies where the sanitizer of older versions doesn't expect any.
    # (One test limits the address space, of which the sanitizer takes terabytes.)
    status = run_tests("thread", ("setarch", "-R", launcher), environment, "-k", "not refuses_threads")
    races = [log.read_text() for log in folder.glob("race.*")]
    print("\n".join(races) or "no race in rnnfast's modules")
    return len(races) + status


def _launcher(clang: str, folder: Path) -> str:
    """A Python with Archer and the sanitizer's runtime linked in, which starts too late as a library."""
    source, program = folder / "launcher.c", folder / "bin" / "python-thread"
    source.write_text(LAUNCHER)
    known = {name: str(sysconfig.get_config_var(name) or "") for name in ("LIBDIR", "LIBPL", "LIBS", "SYSLIBS")}
    library = f"-lpython{sysconfig.get_config_var('LDVERSION')}"
    archer = Path(output(clang, "-print-resource-dir")).parents[1] / "libarcher.so"
    places = [f"-L{known['LIBPL']}", f"-L{known['LIBDIR']}", f"-Wl,-rpath,{known['LIBDIR']}"]
    more = [*known["LIBS"].split(), *known["SYSLIBS"].split(), "-rdynamic"]
    more += ["-Wl,--no-as-needed", str(archer), f"-Wl,-rpath,{archer.parent}"]
    subprocess.run([clang, "-fsanitize=thread", source, "-o", program, *places, library, *more], check=True)
    return str(program)


def main() -> int:
    """Builds, runs the tests; the exit status is 0 if all is well."""
    parser = argparse.ArgumentParser(description="Run the kernels' tests under sanitizers.")
    parser.add_argument("kind", nargs="?", choices=tuple(TESTS), default="address")
    chosen = parser.parse_args()
    run, compilers = {"address": (address, ("g++",)), "thread": (thread, CLANG)}[chosen.kind]
    if not (sys.platform == "linux" and any(map(shutil.which, compilers))):
        print(f"skipped: this needs Linux and {compilers[0]}")
        return 0
    with tempfile.TemporaryDirectory(prefix="rnnfast-sanitize-") as folder:
        return min(run(Path(folder)), 100)


if __name__ == "__main__":
    raise SystemExit(main())
