"""What the pages of programs share: a program of ours and PyTorch's run in turn, and are counted."""

from __future__ import annotations

import importlib.util
import inspect
import time
from collections.abc import Callable
from typing import Any

from IPython.display import Markdown

import rnnfast

HAS_TORCH = importlib.util.find_spec("torch") is not None


def lines(program: Callable[..., Any]) -> int:
    """The lines of a function's body that are neither blank nor comments; statements over several lines count so."""
    body = inspect.getsource(program).splitlines()[1:]
    return sum(1 for line in body if line.strip() and not line.strip().startswith("#"))


def side_by_side(ours: Callable[[], Any], theirs: Callable[[], Any], result: str) -> tuple[dict[str, Any], Markdown]:
    """Run both programs on one thread; what they return, by their names, and a table of lines, seconds and results.

    What a program returns begins with the figure that the table shows under the heading `result`, as text.
    """
    programs = {"rnnfast": ours, "PyTorch": theirs}
    returned, rows = {}, [f"| | lines | CPU seconds | {result} |", "|---|---|---|---|"]
    rnnfast.set_num_threads(1)
    if HAS_TORCH:
        import torch

        torch.set_num_threads(1)
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports more, which is not the program's time
    for name, program in programs.items():
        if name == "PyTorch" and not HAS_TORCH:
            rows.append(f"| {name} | {lines(program)} | not installed here | |")
            continue
        began = time.process_time()
        returned[name] = program()
        seconds = time.process_time() - began
        rows.append(f"| {name} | {lines(program)} | {seconds:.2f} | {returned[name][0]} |")
    return returned, Markdown("\n".join(rows))
