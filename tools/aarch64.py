"""Builds rnnfast for AArch64 and runs the kernels' tests on that build under emulation.

So the NEON code is tested where there is no such machine; nothing is learnt about its speed. Debian's cross compiler
builds and qemu-user runs. The AArch64 Python with the libraries under it are Debian's packages, unpacked into a folder
by an apt that has its own lists there and an empty list of installed packages: nothing is installed into this system,
and root is not needed. NumPy and the test tools are wheels from PyPI. CMake is told that the emulated Python is its
interpreter, so it asks the right one for headers and for the extension modules' suffix.

Where rnnfast is installed in this Python, for a CPU with AVX2, the emulated NEON is held to the bits that AVX2 gives.

Rejected: `dpkg --add-architecture` (changes the system); a container or a whole emulated machine (much larger, and the
compiler would run under emulation too); compiling without CMake (a second list of sources and flags).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "tests/cells/test_machines.py",
    "tests/test_activations.py",
    "tests/test_bitwise.py",
    "tests/test_kernels.py",
    "tests/test_denormals.py",
)
DEFAULT = ("-m", "not slow", *TESTS)
TOOLS = {  # program: its Debian package
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
    "apt-get": "apt",
    "dpkg": "dpkg",
}
DEBIAN = ("python3", "libpython3-dev", "libgomp1", "libstdc++6")
PYPI = {"numpy", "pytest", "hypothesis", "allpairspy"}
WHEELS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")


def run(*command: str | Path) -> None:
    """Runs a command in the repository; if it fails, so does this script."""
    print("$", *command, flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def unpack_debian(folder: Path) -> Path:
    """Debian's AArch64 Python and all that it depends on, unpacked in `folder`; returns their root."""
    root, archives = folder / "debian", folder / "apt" / "archives"
    for needed in (folder / "apt" / "lists" / "partial", archives / "partial"):
        needed.mkdir(parents=True, exist_ok=True)
    (folder / "apt" / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::State": folder / "apt",
        "Dir::State::status": folder / "apt" / "status",
        "Dir::Cache": folder / "apt",
    }
    apt = ("apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items()))
    run(*apt, "update")
    run(*apt, "install", "--download-only", "--no-install-recommends", "--yes", *DEBIAN)
    for package in sorted(archives.glob("*.deb")):
        subprocess.run(("dpkg", "--extract", package, root), check=True)
    return root


def emulated_python(folder: Path, root: Path) -> Path:
    """A program that runs the AArch64 Python with the packages in `folder`/site, and as one word."""
    python, real = folder / "python", (root / "usr" / "bin" / "python3").resolve()
    paths = f"-E PYTHONHOME='{root}/usr' -E PYTHONPATH='{folder}/site'"
    python.write_text(f"#!/bin/sh\nexec qemu-aarch64 -L '{root}' {paths} '{real}' \"$@\"\n")
    python.chmod(0o755)
    return python


def output(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def build(folder: Path, python: Path, project: dict[str, str], requires: list[str]) -> None:
    """Compiles the extension modules and puts the package into `folder`/site."""
    venv.create(folder / "tools", with_pip=True)
    tools = folder / "tools" / "bin"
    run(tools / "pip", "install", "--quiet", "cmake>=3.20", "ninja", *requires)
    where = "import cython_cmake, pybind11; print(cython_cmake.__path__[0]); print(pybind11.get_cmake_dir())"
    cython_cmake, pybind11 = output(tools / "python", "-c", where).splitlines()
    include = f"-idirafter {folder}/debian/usr/include"  # Debian's pyconfig.h includes one from there
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_C_COMPILER": "aarch64-linux-gnu-gcc",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "CMAKE_CROSSCOMPILING_EMULATOR": "env",  # `python` emulates by itself, but CMake wants to hear of an emulator
        "CMAKE_C_FLAGS": include,
        "CMAKE_CXX_FLAGS": include,
        "CMAKE_MAKE_PROGRAM": tools / "ninja",
        "CMAKE_MODULE_PATH": f"{cython_cmake}/cmake",
        "CYTHON_EXECUTABLE": tools / "cython",
        "Python_EXECUTABLE": python,
        "pybind11_DIR": pybind11,
        "RNNFAST_WERROR": "ON",
        "SKBUILD": "2",
        "SKBUILD_PROJECT_NAME": project["name"],
        "SKBUILD_PROJECT_VERSION": project["version"],
        "SKBUILD_PROJECT_VERSION_FULL": project["version"],
    }
    cmake = tools / "cmake"
    run(cmake, "-S", ROOT, "-B", folder / "build", "-G", "Ninja", *(f"-D{k}={v}" for k, v in settings.items()))
    run(cmake, "--build", folder / "build")
    shutil.copytree(ROOT / "rnnfast", folder / "site" / "rnnfast", dirs_exist_ok=True)
    run(cmake, "--install", folder / "build", "--prefix", folder / "site")


def digests_here(folder: Path) -> dict[str, str]:
    """The environment that tells the tests of the bits that this machine gives, if it can tell."""
    path = folder / "bits.json"
    code = "import sys; sys.path.insert(0, 'tests'); from cells.test_machines import write; write(sys.argv[1])"
    if subprocess.run((sys.executable, "-P", "-c", code, path), cwd=ROOT).returncode:
        print("no bits of this machine to compare with: its Python needs rnnfast and the extra `test`", flush=True)
        return {}
    return {"RNNFAST_BITS": str(path)}


def main() -> int:
    """Builds, runs the tests, says what ran and how long it took; returns pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="build and keep everything here, not in a temporary folder")
    parser.add_argument("pytest", nargs="*", help=f"arguments of pytest after --, by default: {' '.join(DEFAULT)}")
    options = parser.parse_args()
    missing = [package for program, package in TOOLS.items() if not shutil.which(program)]
    if missing:
        print("missing; on Debian: apt-get install", *missing, file=sys.stderr)
        return 1
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    wanted = [line for line in wanted if re.split(r"[^\w.-]", line)[0] in PYPI]
    with tempfile.TemporaryDirectory(prefix="rnnfast-aarch64-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        root = unpack_debian(folder)
        python = emulated_python(folder, root)
        version = output(python, "-c", "import platform; print(platform.python_version())")
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", folder / "site")
        platform = (f"--python-version={version}", *(f"--platform={tag}" for tag in WHEELS))
        run(*pip, "--only-binary=:all:", *platform, *wanted)
        build(folder, python, project["project"], project["build-system"]["requires"])
        isas = output(python, "-P", "-c", "from rnnfast import _core; print(*_core.isa_available())")
        print(f"Python {version} emulated, instruction sets {isas}", flush=True)
        start = time.perf_counter()
        arguments = options.pytest or DEFAULT
        pytest = (python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
        status = subprocess.run(pytest, cwd=ROOT, env=os.environ | digests_here(folder)).returncode
        print(f"pytest {' '.join(arguments)}: status {status} after {time.perf_counter() - start:.0f} s")
        return status


if __name__ == "__main__":
    raise SystemExit(main())
