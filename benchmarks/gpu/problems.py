"""Calls of the device's kernels on fresh random data, and the float64 oracle's answers.

A) What must not be read is poison: NaN in x and dy where rows have ended, ids out of range there.
B) What must be written is poison before: outputs and tape are filled with bytes of 255, a NaN in every format, and so
   is the memory that the call's own temporaries will come from.
C) Where the gradient jumps, the device's y decides on which side it is. The derivative of relu is 0 or 1, and a state
   that rounding moves across zero moves a gradient by its whole size; in bfloat16 that happens in every call.
D) The arrays of a call are made once. So a second and a third run meet the same addresses, which is when the step-wise
   engine captures a graph and replays it.

Rejected: inputs of zeros or ones (they hide wrong indices), and a fixed seed (the same lucky numbers every time; the
program prints the seed that it drew).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnfast import reference
from rnnfast._call import BackwardCall, ForwardCall
from rnnfast.cuda import arrays, shim
from rnnfast.cuda.kernel import Kernel
from rnnfast.cuda.plan import Plan

__all__ = ["BOUNDS", "FORWARD", "NAMES", "Call", "Case", "Problem", "error", "make_kernel", "poison"]

BOUNDS = {"float32": (1e-5, 1e-4), "tf32": (2e-3, 2e-3), "bfloat16": (3e-2, 3e-2)}
"""What is allowed by precision, forward and gradients, relative to an array's largest value."""
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
FORWARD = ("y", "hT", "cT")
_FREE_MEMORY = 1 << 28  # bytes, more than any case takes


@dataclass(frozen=True)
class Case:
    """One layer and direction, and how it is called.

    Attributes
    ----------
    kind, precision : str
    T, B, I, H : int
    mask : {"none", "lengths", "resets", "both", "reset_state"}
    reverse, ids, bias : bool
    swapped : bool
        Whether the sequences are views with swapped axes.
    stepwise : bool
        Whether to take that engine where the planner would not.
    """

    kind: str
    precision: str = "float32"
    T: int = 3
    B: int = 2
    I: int = 3  # noqa: E741  (the notation of docs/design.md)
    H: int = 4
    mask: str = "none"
    reverse: bool = False
    ids: bool = False
    bias: bool = True
    swapped: bool = False
    stepwise: bool = False

    def __str__(self) -> str:
        flags = [name for name in ("reverse", "ids", "swapped", "stepwise") if getattr(self, name)]
        flags += [] if self.bias else ["no bias"]
        sizes = f"T={self.T} B={self.B} I={self.I} H={self.H}"
        return " ".join([self.kind, self.precision, sizes, f"mask={self.mask}", *flags])


class _Stepwise(Kernel):
    def _plan(self, B: int) -> Plan:
        return Plan("stepwise", None, None, "asked for")


def make_kernel(case: Case) -> Kernel:
    """The kernel of a case."""
    return (_Stepwise if case.stepwise else Kernel)(case.kind, case.I, case.H, case.precision)


class Problem:
    """The host's arrays of a case, and the oracle's answers.

    Parameters
    ----------
    case : Case
    seed : int
        Decides, with the case, all values.
    """

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        rng = self._rng = np.random.default_rng([seed, zlib.crc32(str(case).encode())])
        T, B, H = case.T, case.B, case.H
        has_c = case.kind == "lstm"
        params = reference.init_params(case.kind, case.I, H, rng, bias=case.bias)
        self.params = {name: np.asarray(value, np.float32) for name, value in params.items()}
        self.x = rng.integers(0, case.I, (T, B)) if case.ids else self._normal(T, B, case.I)
        self.dy, self.h0, self.dhT = self._normal(T, B, H), self._normal(B, H), self._normal(B, H)
        self.c0, self.dcT = (self._normal(B, H), self._normal(B, H)) if has_c else (None, None)
        self.lengths = rng.integers(0, T + 1, B) if case.mask in ("lengths", "both") else None
        if self.lengths is not None:
            self.lengths[:2] = (T, max(0, T - 1))[:B]  # at least one row has steps, and one ends
        self.resets = rng.random((T, B)) < 0.3 if case.mask in ("resets", "both", "reset_state") else None
        given = case.mask == "reset_state"
        self.reset_h = self._normal(B, H) if given else None
        self.reset_c = self._normal(B, H) if given and has_c else None

    def _normal(self, *shape: int) -> Any:
        return self._rng.standard_normal(shape, np.float32)

    @property
    def masks(self) -> dict[str, Any]:
        """The arguments of that name."""
        return {name: getattr(self, name) for name in ("lengths", "resets", "reset_h", "reset_c")}

    def inputs(self, poisoned: bool) -> tuple[Any, Any]:
        """x and dy, poisoned or zero where rows have ended."""
        x, dy = self.x.copy(), self.dy.copy()
        if self.lengths is not None:
            ended = np.arange(self.case.T)[:, None] >= self.lengths
            x[ended] = (-7 if self.case.ids else np.nan) if poisoned else 0
            dy[ended] = np.nan if poisoned else 0
        return x, dy

    def expected(self, y: Any = None) -> dict[str, Any]:
        """The oracle's answers by name; what the cell has none of is left out. `y` decides the sides of relu's kink."""
        x, dy = self.inputs(poisoned=False)
        masks = {"lengths": self.lengths, "resets": self.resets, "reverse": self.case.reverse}
        count = len(reference.CELLS[self.case.kind].states)
        state, reset_state = (self.h0, self.c0)[:count], (self.reset_h, self.reset_c)[:count]
        result = reference.forward(self.case.kind, self.params, x, *state, **masks, reset_state=reset_state)
        if self.case.kind == "elman_relu" and y is not None and y.shape == result.y.shape:
            # Backward looks at the sign of h, which it takes from here.
            steps = [replace(step, after=(y[step.t, step.rows],)) for step in result.steps]
            result = replace(result, steps=steps)
        gradients = reference.backward(result, dy, *(self.dhT, self.dcT)[:count])
        found = dict(zip(FORWARD, (result.y, *result.state), strict=False)) | {"dx": gradients.dx}
        found |= dict(zip(("dh0", "dc0"), gradients.dstate, strict=False))
        found |= dict(zip(("d_reset_h", "d_reset_c"), gradients.d_reset_state, strict=False))
        found |= gradients.params
        return {name: value for name, value in found.items() if value is not None}

    def errors(self, found: dict[str, Any]) -> dict[str, float]:
        """Of each result, relative to the largest value; infinite where one is missing, misshapen or not finite."""
        expected = self.expected(found.get("y"))
        return {name: error(found.get(name), value) for name, value in expected.items()}


def error(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest expected value."""
    if found is None or found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    largest = np.abs(expected).max(initial=0.0)
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0) / max(largest, 1e-30))


def poison(array: Any) -> Any:
    """Fill a device array of float32 with NaN whose bytes are all 255."""
    if array.size:
        array.view(np.uint32).fill(0xFFFFFFFF)
    return array


def _poison_free_memory() -> None:
    """What the pool hands out next is poison. (The simulator's empty arrays always are.)"""
    if not shim.SIMULATED:
        arrays.xp().get_default_memory_pool().free_all_blocks()
        arrays.xp().empty(_FREE_MEMORY, np.uint8).fill(0xFF)


def _to_device(array: Any) -> Any:
    return None if array is None else arrays.to_device(array)


class Call:
    """A problem on the device, which may run any number of times.

    Parameters
    ----------
    problem : Problem
        Copied to the device.
    """

    def __init__(self, problem: Problem) -> None:
        case = self._case = problem.case
        T, B, H = case.T, case.B, case.H
        _poison_free_memory()
        self._kernel = make_kernel(case)
        self._panels = poison(arrays.empty((self._kernel.panel_size,)))
        self._kernel.pack(tuple(_to_device(problem.params.get(name)) for name in NAMES), self._panels)
        self._x, self._dy = map(self._sequence, problem.inputs(poisoned=True))
        self._count = 2 if case.kind == "lstm" else 1  # of states
        self._state, self._dfinal, reset_state = (
            tuple(_to_device(getattr(problem, name)) for name in names[: self._count])
            for names in (("h0", "c0"), ("dhT", "dcT"), ("reset_h", "reset_c"))
        )
        self._masks = {
            name: _to_device(value) for name, value in problem.masks.items() if not name.startswith("reset_")
        }
        self._masks |= {"reset_state": reset_state, "reverse": case.reverse}
        self._shapes = {name: value.shape for name, value in problem.params.items()}
        self._tape = arrays.empty((self._kernel.tape_size(T, B),))
        self._gradients = arrays.empty((self._kernel.panel_size,))
        state = ("hT", "dh0", "d_reset_h", *(("cT", "dc0", "d_reset_c") if case.kind == "lstm" else ()))
        self._out: dict[str, Any] = dict.fromkeys(("cT", "dc0", "d_reset_c", "dx"))
        self._out |= {name: arrays.empty((B, H)) for name in state}
        self._out["y"] = self._sequence(np.empty((T, B, H), np.float32))
        if not case.ids:
            self._out["dx"] = self._sequence(np.empty((T, B, case.I), np.float32))

    def _sequence(self, array: Any) -> Any:
        if not self._case.swapped:
            return arrays.to_device(array)
        return arrays.to_device(np.swapaxes(array, 0, 1)).swapaxes(0, 1)

    def run(self, *, train: bool = True) -> dict[str, Any]:
        """All results, on the host, by the oracle's names; without `train` those of inference."""
        out = self._out
        for array in (*out.values(), self._tape):
            if array is not None:
                poison(array)
        tape = self._tape if train else None
        final, dstate, d_reset_state = (
            tuple(out[name] for name in names[: self._count])
            for names in (("hT", "cT"), ("dh0", "dc0"), ("d_reset_h", "d_reset_c"))
        )
        y, dy = ((array, None)[: self._count] for array in (out["y"], self._dy))
        self._kernel.forward(ForwardCall(self._panels, self._x, y, self._state, final, tape=tape, **self._masks))
        if not train:
            return self._to_host({name: out[name] for name in FORWARD})
        self._gradients.fill(0)
        written = {"dx": out["dx"], "dstate": dstate, "d_reset_state": d_reset_state, "dpanels": self._gradients}
        read = {"tape": tape, "dy": dy, "dfinal": self._dfinal, "state": self._state, **self._masks}
        self._kernel.backward(BackwardCall(self._panels, arrays.empty((0,)), self._x, **read, **written))
        unpacked = {name: poison(arrays.empty(shape)) for name, shape in self._shapes.items()}
        self._kernel.unpack(self._gradients, tuple(unpacked.get(name) for name in NAMES))
        return self._to_host(out | unpacked)

    @staticmethod
    def _to_host(results: dict[str, Any]) -> dict[str, Any]:
        return {name: arrays.to_host(array) for name, array in results.items() if array is not None}
