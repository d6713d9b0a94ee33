"""Cells as descriptions: a step written once, in Python, from which the kernels, the oracle and the docs follow.

`cell.py`: what a description is. `functions.py`: what a step may call. `program.py`: what a traced step comes to.
From the one to the other: `symbols.py` and `trace.py` (the step on symbols), `derivative.py` (its gradients),
`schedule.py` (which value in which stage), `slots.py` (where values lie), `assembly.py` (all together).
`core.py` hands a program to the C++ side.
"""

from __future__ import annotations

from .cell import Cell, Wrapped
from .declarations import Gate, Given, Product, State, Vector

__all__ = ["Cell", "Gate", "Given", "Product", "State", "Vector", "Wrapped"]
