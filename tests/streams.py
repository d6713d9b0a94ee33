"""What the tests of streams share: sizes, walks over a sequence, layers with rounded weights."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
from registry import DESCRIPTIONS, DTYPES, ISAS, KINDS, Case, active_isa, spread
from shared import OLD

T = 70  # more than the 64 steps of an internal block, and not a multiple of them

# Layers, batch, units, features: both sides of each vector width, tiles of one row and of several.
WITHOUT_GIVEN = tuple(kind for kind in KINDS if not DESCRIPTIONS[kind].given)

SIZES = (
    (1, 1, 1, 1),
    (1, 1, 100, 33),
    (1, 3, 1, 40),
    (1, 9, 17, 16),
    (2, 1, 7, 100),
    (2, 3, 17, 5),
    (2, 9, 100, 3),
    (3, 1, 17, 1),
    (3, 3, 100, 17),
    (3, 9, 7, 7),
)
CUTS = {
    "steps": tuple(range(T + 1)),
    "whole": (0, T),
    "blocks": (0, 0, 1, 3, 64, 64, T, T),
    "halves": (0, 35, T),
    "mixed": (0, 1, 2, 66, 67, 68, T),
}


def cases(dtypes=DTYPES):
    """All sizes with all kinds of kernels by hand and instruction sets; other kinds with some sizes."""
    for kind, (layers, batch, units, features), isa, dtype in spread(SIZES, ISAS, dtypes, kinds=WITHOUT_GIVEN):
        yield Case(kind, isa, dtype, num_layers=layers, T=T, B=batch, H=units, I=features)


def walk(stream, x, bounds):
    """The outputs over the blocks between the bounds, blocks of one step by `step`; with `out` where they begin odd."""
    state = stream.state
    width = (state[0] if isinstance(state, tuple) else state).shape[-1]
    y = np.full((*(x.shape if x.dtype.kind in "iu" else x.shape[:-1]), width), OLD, stream.dtype)
    told = {"ids": True} if x.dtype.kind in "iu" else {}
    for begin, end in pairwise(bounds):
        call, x_now, y_now = stream.process, x[begin:end], y[begin:end]
        if end == begin + 1:
            call, x_now, y_now = stream.step, x[begin], y[begin]
        if begin % 2:
            assert call(x_now, y_now, **told) is y_now
        else:
            y_now[...] = call(x_now, **told)
    return y


def to_bfloat16(values):
    """float32 rounded to 8 significant bits, to nearest, ties to even; by exact arithmetic, for normal numbers."""
    mantissas, exponents = np.frexp(values.astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ldexp(np.rint(np.ldexp(mantissas, 8)), exponents - 8).astype(np.float32)


def rounded(layer, isa):
    """An equal layer whose weights, not its biases, are rounded to bfloat16."""
    with active_isa(isa):
        other = copy.deepcopy(layer)
    other.update({name: to_bfloat16(value) for name, value in layer.params.items() if name.startswith("weight")})
    return other
