"""The command line. What it needs beyond NumPy is the extra `cli`; without it, `main` says how to get it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from io import TextIOWrapper

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command `rnnfast`.

    Parameters
    ----------
    args : sequence of str, optional
        The arguments; by default those of the process.
    """
    if missing := [name for name in ("click", "tqdm", "safetensors") if find_spec(name) is None]:
        print(f"rnnfast: the command line needs {', '.join(missing)}: pip install rnnfast[cli]", file=sys.stderr)
        raise SystemExit(1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a sample may hold characters that a terminal can't show
    from .app import app

    app(args, prog_name="rnnfast")
