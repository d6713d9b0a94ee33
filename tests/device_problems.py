"""Calls of the device's kernels on random data, with the oracle's answers: what the simulator's tests run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnnfast import reference
from rnnfast.cuda import arrays
from rnnfast.cuda.kernel import Kernel

KINDS = tuple(reference.CELLS)
PRECISIONS = ("float32", "tf32", "bfloat16")
BOUNDS = {"float32": (1e-5, 1e-4), "tf32": (2e-3, 2e-3), "bfloat16": (3e-2, 3e-2)}
"""Forward and gradients, relative to the largest value."""
MASKS = ("none", "lengths", "resets", "both", "reset_state")


def assert_close(actual, expected, bound, name=""):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, name
    assert np.isfinite(actual).all(), name
    error, largest = np.abs(actual - expected).max(initial=0.0), np.abs(expected).max(initial=0.0)
    assert error <= bound * max(largest, 1e-30), f"{name}: error {error:.3g}, largest value {largest:.3g}"


def on_device(value):
    return None if value is None else arrays.to_device(value)


@dataclass
class Problem:
    """One call of one kernel, forward and backward, with the oracle's answers."""

    kind: str
    precision: str = "float32"
    T: int = 3
    B: int = 2
    H: int = 4
    I: int = 3  # noqa: E741
    mask: str = "none"
    reverse: bool = False
    ids: bool = False
    bias: bool = True
    swapped: bool = False
    seed: int = 0

    def __post_init__(self):
        T, B, H, mask = self.T, self.B, self.H, self.mask
        rng = self.rng = np.random.default_rng(self.seed)
        self.has_c = self.kind == "lstm"
        self.params = reference.init_params(self.kind, self.I, H, rng, bias=self.bias)
        self.params = {name: np.asarray(value, np.float32) for name, value in self.params.items()}
        self.x = rng.integers(0, self.I, (T, B)) if self.ids else self.normal(T, B, self.I)
        self.dy, self.h0, self.dhT = self.normal(T, B, H), self.normal(B, H), self.normal(B, H)
        self.c0, self.dcT = (self.normal(B, H), self.normal(B, H)) if self.has_c else (None, None)
        self.lengths = rng.integers(0, T + 1, B) if mask in ("lengths", "both") else None
        if self.lengths is not None and B and T:
            self.lengths[0] = T - 1
        self.resets = rng.random((T, B)) < 0.5 if mask in ("resets", "both", "reset_state") else None
        given = mask == "reset_state"
        self.reset_h = self.normal(B, H) if given else None
        self.reset_c = self.normal(B, H) if given and self.has_c else None

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    @property
    def ended(self):
        lengths = np.full(self.B, self.T) if self.lengths is None else self.lengths
        return np.arange(self.T)[:, None] >= lengths

    def sequence(self, array):
        """A sequence on the device, as a view with swapped axes where that is asked for."""
        if not self.swapped:
            return arrays.to_device(array)
        return arrays.to_device(np.swapaxes(array, 0, 1)).swapaxes(0, 1)

    def new(self, *shape, dtype=np.float32):
        return self.sequence(np.full(shape, np.nan, dtype))

    def run(self, *, train=True):
        """All results of the device, by name, on the host."""
        T, B, H = self.T, self.B, self.H
        x, dy = self.x.copy(), self.dy.copy()
        x[self.ended] = -7 if x.dtype.kind == "i" else np.nan
        dy[self.ended] = np.nan
        kernel = Kernel(self.kind, self.I, H, self.precision)
        panels, gradients = arrays.empty((kernel.panel_size,)), arrays.zeros((kernel.panel_size,))
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        kernel.pack(*(on_device(self.params.get(name)) for name in names), panels)
        tape = arrays.empty((kernel.tape_size(T, B),)) if train else None
        y, hT = self.new(T, B, H), arrays.empty((B, H))
        cT = arrays.empty((B, H)) if self.has_c else None
        masks = {name: on_device(getattr(self, name)) for name in ("reset_h", "reset_c", "lengths", "resets")}
        masks |= {"reverse": self.reverse, "num_threads": 0}
        x, h0, c0 = self.sequence(x), on_device(self.h0), on_device(self.c0)
        kernel.forward(panels, x, y, h0, c0, hT, cT, **masks, tape=tape)
        found = {"y": y, "hT": hT, "cT": cT}
        if train:
            dh0, d_reset_h = arrays.empty((B, H)), arrays.empty((B, H))
            dc0, d_reset_c = (arrays.empty((B, H)), arrays.empty((B, H))) if self.has_c else (None, None)
            dx = None if x.ndim == 2 else self.new(T, B, self.I)
            kernel.backward(
                *(panels, arrays.empty((0,)), x, tape, self.sequence(dy), on_device(self.dhT), on_device(self.dcT)),
                *(dx, dh0, dc0, gradients),
                **masks, h0=h0, c0=c0, d_reset_h=d_reset_h, d_reset_c=d_reset_c,
            )  # fmt: skip
            unpacked = {name: arrays.empty(self.params[name].shape) if name in self.params else None for name in names}
            kernel.unpack(gradients, *unpacked.values())
            found |= {"dx": dx, "dh0": dh0, "dc0": dc0, "d_reset_h": d_reset_h, "d_reset_c": d_reset_c, **unpacked}
        return {name: arrays.to_host(value) for name, value in found.items() if value is not None}

    def expected(self):
        x, dy = self.x.copy(), self.dy.copy()
        x[self.ended], dy[self.ended] = 0, 0
        masks = {name: getattr(self, name) for name in ("reset_h", "reset_c", "lengths", "resets", "reverse")}
        result = reference.forward(self.kind, self.params, x, self.h0, self.c0, **masks)
        gradients = reference.backward(result, dy, self.dhT, self.dcT)
        found = {"y": result.y, "hT": result.hT, "cT": result.cT, **gradients.params}
        names = ("dx", "dh0", "dc0", "d_reset_h", "d_reset_c")
        return found | {name: getattr(gradients, name) for name in names}

    def check(self):
        found, expected = self.run(), self.expected()
        forward, backward = BOUNDS[self.precision]
        for name, value in expected.items():
            if value is not None:
                assert_close(found[name], value, forward if name in ("y", "hT", "cT") else backward, name)
        return found
