"""Compile every GPU kernel with other versions of CUDA's toolkit than the installed one: `tests/gpu/test_ptx.py` again.

Kernels that keep to their registers with one version of libNVVM and ptxas may spill with another. The checks compile
with what is installed, the newest; this makes, for each version asked for, an environment whose compiler, assembler and
linker are of that version and all other packages the ones of this environment. It needs a package index.

    python tools/toolkits.py                     # the oldest that the extra `cuda` allows, and the newest
    python tools/toolkits.py 13.0.48 13.2        # these
    python tools/toolkits.py 13.0 -- -k lstm     # what follows goes to pytest
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-nvrtc", "nvidia-nvjitlink", "nvidia-nvvm")
OLDEST, NEWEST = "13.0", "13"


def environment(folder: Path, version: str) -> str:
    """Make an environment with a toolkit of this version, or the newest that begins so; its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    exact = version.count(".") == 2
    wanted = [f"{package}=={version}{'' if exact else '.*'}" for package in PACKAGES]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *wanted], check=True)
    query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    others = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    # Behind its own, so what it has wins; by `site`, because numba-cuda takes numba.cuda's place by a .pth file.
    lines = [f"import site; site.addsitedir({folder!r})" for folder in others]
    (Path(own) / "others.pth").write_text("\n".join(lines) + "\n")
    return python


def main(arguments: Sequence[str]) -> int:
    """Run the tests for each version; the number of versions that failed."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    versions, options = arguments[:end], arguments[end + 1 :]
    failed = []
    for version in versions or [OLDEST, NEWEST]:
        with tempfile.TemporaryDirectory() as folder:
            python = environment(Path(folder), version)
            print(f"--- {version}", flush=True)
            listing = [python, "-m", "pip", "list", "--path", str(next(Path(folder).rglob("site-packages")))]
            for line in subprocess.run(listing, check=True, capture_output=True, text=True).stdout.splitlines():
                if line.startswith(PACKAGES):
                    print("   ", line, flush=True)
            tests = ["-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_ptx.py", *options]
            if subprocess.run([python, *tests], cwd=ROOT, env=os.environ | {"RNNFAST_CACHE_DIR": ""}).returncode:
                failed.append(version)
    if failed:
        print("failed with:", ", ".join(failed), file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
