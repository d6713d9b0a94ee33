"""The problems of `benchmarks.gpu`, in the simulator: calls of the device's kernels with the oracle's answers."""

from __future__ import annotations

import numpy as np

from benchmarks.gpu import problems
from benchmarks.gpu.cases import MASKS
from rnnfast import reference
from rnnfast.cuda import arrays
from rnnfast.cuda.plan import PRECISIONS

__all__ = ["KINDS", "MASKS", "PRECISIONS", "Problem", "assert_close", "on_device"]

KINDS = tuple(reference.CELLS)


def assert_close(actual, expected, bound):
    assert problems.error(np.asarray(actual), np.asarray(expected)) <= bound


def on_device(value):
    return None if value is None else arrays.to_device(value)


class Problem(problems.Problem):
    """One call of one kernel, forward and backward; what it is made of may be changed between runs."""

    def __init__(self, kind, precision="float32", *, seed=0, **options):
        super().__init__(problems.Case(kind, precision, **options), seed)

    def run(self, *, train=True):
        """All results of the device, by name, on the host."""
        return problems.Call(self).run(train=train)

    def check(self):
        """Compare them with the oracle's, and return them."""
        found = self.run()
        for name, error in self.errors(found).items():
            assert error <= problems.BOUNDS[self.case.precision][name not in problems.FORWARD], (name, error)
        return found
