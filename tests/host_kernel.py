"""What the tests of the device's surroundings share: the host's kernels on simulated arrays, pairs of layers, calls."""

from __future__ import annotations

from itertools import product

import numpy as np
from registry import _class_of, assert_same_bits, map_state, parts

import rnnfast
from rnnfast import _core, reference
from rnnfast.cuda.arrays import SimulatedArray, to_device

KINDS = tuple(reference.CELLS)
WALKS = tuple(product(KINDS, (False, True)))
T, B, I, H = 4, 3, 3, 5  # noqa: E741


class HostKernel:
    """The host's kernel, on the memory of simulated arrays."""

    def __init__(self, kind, input_size, hidden_size, precision):
        self._kernel = _core.Kernel(kind, "float32", input_size, hidden_size)

    def prepare(self, panels, B):
        assert B > 0
        return "the panels are enough"

    def __getattr__(self, name):
        found = getattr(self._kernel, name)
        if not callable(found):
            return found

        def plain(value):
            if isinstance(value, tuple):
                parts = map(plain, value)
                return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
            assert type(value) is not np.ndarray, "an array of the host has come to the device's kernel"
            return value.view(np.ndarray) if isinstance(value, SimulatedArray) else value

        def call(*arguments, prepared=None):
            return found(*map(plain, arguments))

        return call


def pair(kind, **options):
    """A layer on the host and one on the device with equal weights."""
    cls, choice = _class_of(kind, "")
    return tuple(cls(I, H, **choice, **options, rng=1, device=name) for name in ("cpu", "cuda"))


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def state_of(layer, batch=B, seed=0):
    shape = (layer.num_layers * (1 + layer.bidirectional), batch, H)
    h, c = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    return (h, c) if isinstance(layer, rnnfast.LSTM) else h


def masks_of(layer):
    lengths, resets = np.array([4, 0, 2]), np.zeros((T, B), bool)
    resets[2, 0] = resets[1, 2] = True
    return {"lengths": lengths, "resets": resets, "reset_state": state_of(layer, seed=5)}


def moved(value):
    """On the device, whatever its structure."""
    if isinstance(value, dict):
        return {name: moved(part) for name, part in value.items()}
    return map_state(to_device, value) if isinstance(value, np.ndarray | tuple) else value


def same(actual, expected):
    for one, other in zip(parts(actual), parts(expected), strict=True):
        assert_same_bits(one, other)


def on_device(*values):
    return all(isinstance(array, SimulatedArray) for value in values for array in parts(value))
