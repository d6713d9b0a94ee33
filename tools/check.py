"""Everything that a change must pass, in one command: lint, format, types, sanitizers, tests.

Needs rnnfast installed with its `test` extra. Every step runs, whatever the others said; the status is 0 if all passed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (sys.executable, "-P", "-m")  # -P: the folder rnnfast/ here must not hide the installed, compiled package


def steps() -> dict[str, list[str]]:
    """The commands by name, in the order in which they run; the tests come last."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*"))
    return {
        "lint": [*PYTHON, "ruff", "check", "."],
        "format (Python)": [*PYTHON, "ruff", "format", "--check", "."],
        "format (C++)": [f"{Path(sys.executable).parent}/clang-format", "--dry-run", "--Werror", *sources],
        "types": [*PYTHON, "mypy"],
        "sanitizers": [sys.executable, "tools/sanitize.py"],
        "tests in the GPU simulator": ["env", "NUMBA_ENABLE_CUDASIM=1", *PYTHON, "pytest", "-n", "auto", "tests/gpu"],
        "tests": [*PYTHON, "pytest", "-n", "auto", "--dist", "worksteal"],
    }


def main() -> int:
    """Runs all steps and names those that failed."""
    start = time.perf_counter()
    failed = []
    for name, command in steps().items():
        print(f"--- {name} (at {time.perf_counter() - start:.0f} s)", flush=True)
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print("failed:", ", ".join(failed), file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
