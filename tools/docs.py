"""Builds the documentation site into docs/_build/html, running the pages that are programs; a warning is an error.

Needs rnnfast installed with its `docs` extra. With PyTorch installed the pages compare with it.
Pages that have not changed are not run again: `--fresh` runs them all.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Sphinx's exit status."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier builds have made")
    parser.add_argument("--no-run", action="store_true", help="show the programs without running them")
    parser.add_argument(
        "--links", action="store_true", help="ask for every link that leaves the site, and build nothing"
    )
    arguments = parser.parse_args()

    out = ROOT / "docs" / "_build"
    if arguments.fresh:
        shutil.rmtree(out, ignore_errors=True)
    options = ["-D", "nb_execution_mode=off"] if arguments.no_run else []
    # -P: the folder rnnfast/ here must not hide the installed, compiled package.
    builder = "linkcheck" if arguments.links else "html"
    command = [sys.executable, "-P", "-m", "sphinx", "--fail-on-warning", "--keep-going", "-b", builder, *options]
    status = subprocess.run([*command, str(ROOT / "docs"), str(out / builder)]).returncode
    if not status and not arguments.links:
        print(f"site: {out / 'html' / 'index.html'}")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
