"""The one registry of cases, over which the generic tests run.

Every pair of values of any two axes occurs in at least one row (test_kernels.py holds that). The rows of cells with a
kernel written by hand are run for every instruction set of this machine and both dtypes; of the other descriptions
those are two axes more. A new cell or instruction set joins by being in the catalogue or in `isa_available()`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from allpairspy import AllPairs

import rnnfast
from rnnfast import Cell, _core, reference
from rnnfast._walk import Layout
from rnnfast.description.cells import CATALOGUE

DESCRIPTIONS: dict[str, Cell] = {cell.fused or name: cell for name, cell in CATALOGUE.items()}
"""The catalogue's cells; those with a kernel written by hand have its name."""
KINDS = tuple(DESCRIPTIONS)
FUSED = tuple(kind for kind, cell in DESCRIPTIONS.items() if cell.fused)
ISAS = tuple(_core.isa_available())
DTYPES = (np.float32, np.float64)
SIZES = (1, 3, 7, 15, 16, 17, 31, 33, 97, 100)  # astride the vector widths 4, 8 and 16


def spread(*axes: Any, kinds: tuple[str, ...] = KINDS) -> list[tuple[Any, ...]]:
    """Kinds with values of the axes: with a kernel by hand all products, of the others one row each, in turn."""
    rows = list(product(*axes))
    return [(kind, *row) for n, kind in enumerate(kinds) for row in (rows if kind in FUSED else [rows[n % len(rows)]])]


EVERY = spread(ISAS, DTYPES)
"""(kind, isa, dtype): of those with a kernel by hand all, of each other one."""

AXES: dict[str, tuple[Any, ...]] = {
    "bidirectional": (False, True),
    "num_layers": (1, 2, 3),
    "bias": (True, False),
    "batch_first": (False, True),
    "mask": ("none", "lengths", "resets", "both", "reset_state"),
    "ids": (False, True),
    "threads": (1, 2, 3),
    "H": SIZES,
    "I": SIZES,
    "T": (0, 1, 2, 33),
    "B": (0, 1, 5, 6, 7, 33),
}


def pairs(axes: dict[str, tuple[Any, ...]]) -> tuple[dict[str, Any], ...]:
    """Rows in which every pair of values of any two axes occurs."""
    return tuple(dict(zip(axes, values, strict=True)) for values in AllPairs(list(axes.values())))


FUSED_AXES = {"kind": FUSED} | AXES
FUSED_ROWS = pairs(FUSED_AXES)
DESCRIBED_AXES = {"kind": tuple(kind for kind in KINDS if kind not in FUSED), "isa": ISAS, "dtype": DTYPES} | AXES
DESCRIBED_AXES |= {"mask": (*AXES["mask"], "mask", "all"), "B": (0, 1, 5, 7, 33)}
DESCRIBED_AXES |= {"H": (2, 3, 16, 33, 100), "I": (1, 3, 17, 33)}  # a norm over one unit has nothing left to compare
DESCRIBED_ROWS = pairs(DESCRIBED_AXES)

# Relative to the largest value of an array: forward, gradients.
TOLERANCES = {np.dtype(np.float32): (1e-5, 1e-4), np.dtype(np.float64): (1e-12, 1e-11)}


@dataclass(frozen=True)
class Case:
    """One call of one layer: what to construct, what to feed it, with which instruction set and number of threads."""

    kind: str
    isa: str
    dtype: type[np.floating[Any]] = np.float32
    bidirectional: bool = False
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    mask: str = "none"
    ids: bool = False
    threads: int = 1
    H: int = 33
    I: int = 17  # noqa: E741
    T: int = 33
    B: int = 7

    def __str__(self) -> str:
        flags = [name for name in ("bidirectional", "bias", "batch_first", "ids") if getattr(self, name)]
        sizes = f"L{self.num_layers}-H{self.H}-I{self.I}-T{self.T}-B{self.B}"
        return "-".join([self.isa, self.dtype.__name__, self.kind, sizes, self.mask, f"threads{self.threads}", *flags])

    def __post_init__(self) -> None:
        heads = self.cell.heads
        narrow = self.cell.widths.get("proj", 0)  # a projection is narrower than the cell
        object.__setattr__(self, "H", -(-max(self.H, narrow + 1) // heads) * heads)

    @property
    def cell(self) -> Cell:
        """The description."""
        return DESCRIPTIONS[self.kind]

    @property
    def layout(self) -> Layout:
        """The widths and shapes."""
        options = {"bidirectional": self.bidirectional, "bias": self.bias}
        return Layout(self.cell, self.I, self.H, self.num_layers, **options)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the layer's class, apart from those that the kind decides."""
        names = ("num_layers", "bias", "batch_first", "bidirectional", "dtype")
        return {name: getattr(self, name) for name in names}

    def layer(self, **options: Any) -> Any:
        """A new layer; equal cases get equal weights."""
        return make_layer(self.kind, self.I, self.H, isa=self.isa, rng=1, **self.options | options)

    @cached_property
    def data(self) -> Data:
        """What to feed it, time-major; the same for every instruction set, dtype and number of threads."""
        like = replace(self, isa="", threads=0, dtype=np.float64)
        return Data(self, np.random.default_rng(zlib.crc32(str(like).encode())))


class Data:
    """Random arguments of one call, time-major. What is not to be read of `x`, ids and `dy` is rotten."""

    def __init__(self, case: Case, rng: np.random.Generator) -> None:
        T, B, layout = case.T, case.B, case.layout

        def normal(*shape: int) -> np.ndarray[Any, Any]:
            return rng.standard_normal(shape).astype(case.dtype)

        def state() -> Any:
            shape = layout.num_layers * layout.directions, B
            states = tuple(normal(*shape, width) for width in layout.state_widths)
            for state, values in zip(layout.program.states, states, strict=True):
                if state.name == "n":  # a normaliser, which the step divides by
                    np.abs(values, out=values)
                    values += case.dtype(0.5)
            return states if len(states) > 1 else states[0]

        self.x = rng.integers(0, case.I, (T, B)) if case.ids else normal(T, B, case.I)
        self.dy = normal(T, B, layout.features)
        self.state, self.dstate = state(), state()
        self.masks: dict[str, Any] = {}
        if case.mask in ("lengths", "both", "all"):
            self.masks["lengths"] = rng.integers(0, T + 1, B)
        if case.mask in ("resets", "both", "reset_state", "all"):
            self.masks["resets"] = rng.random((T, B)) < 0.2
        if case.mask in ("reset_state", "all"):
            self.masks["reset_state"] = state()
        if case.mask in ("mask", "all"):
            self.masks["mask"] = rng.random((T, B)) < 0.7
        ended = np.arange(T)[:, None] >= self.masks.get("lengths", np.full(B, T))
        self.x[ended | ~self.masks.get("mask", np.ones((T, B), bool))] = -1 if case.ids else np.nan
        self.dy[ended] = np.nan
        self.extra: dict[str, Any] = {}
        if layout.program.given:
            widths = {g.name: () if g.domain is None else (layout.widths[g.domain],) for g in layout.program.given}
            given = {name: rng.random((T, B, *width)).astype(case.dtype) for name, width in widths.items()}
            self.extra["given"] = given

    def part(self, steps: slice = slice(None), rows: slice = slice(None)) -> dict[str, Any]:
        """The extra inputs of some steps and rows, as an argument."""
        return {name: {key: array[steps, rows] for key, array in given.items()} for name, given in self.extra.items()}


@contextmanager
def active_isa(isa: str) -> Iterator[None]:
    """Layers that are constructed inside keep this instruction set."""
    before = _core.isa()
    _core.set_isa(isa)
    try:
        yield
    finally:
        _core.set_isa(before)


def _class_of(kind: str, suffix: str) -> tuple[Any, dict[str, Any]]:
    """A public class (suffix "" or "Cell") and the arguments that choose the kind."""
    family, _, variant = kind.partition("_")
    if kind not in FUSED:
        return getattr(rnnfast, "Recurrent" + suffix), {"cell": DESCRIPTIONS[kind]}
    if family == "elman":
        return getattr(rnnfast, "RNN" + suffix), {"nonlinearity": variant}
    return getattr(rnnfast, family.upper() + suffix), {"reset_after": variant == "after"} if variant else {}


def make_layer(kind: str, input_size: int, hidden_size: int, *, isa: str, **options: Any) -> Any:
    """A public layer of a kind, with an instruction set."""
    cls, choice = _class_of(kind, "")
    with active_isa(isa):
        return cls(input_size=input_size, hidden_size=hidden_size, **choice, **options)


def make_cell(kind: str, input_size: int, hidden_size: int, *, isa: str, **options: Any) -> Any:
    """A public cell of a kind, with an instruction set."""
    cls, choice = _class_of(kind, "Cell")
    with active_isa(isa):
        return cls(input_size=input_size, hidden_size=hidden_size, **choice, **options)


def parts(state: Any) -> tuple[Any, ...]:
    """A state as a tuple."""
    return state if isinstance(state, tuple) else (state,)


def map_state(function: Any, *states: Any) -> Any:
    """A state of the same structure, made part by part."""
    if isinstance(states[0], tuple):
        return tuple(function(*values) for values in zip(*states, strict=True))
    return function(*states)


def swap(case: Case, array: Any) -> Any:
    """Between time-major and the layer's own order of axes."""
    return array.swapaxes(0, 1) if case.batch_first else array


def oracle(case: Case, layer: Any) -> tuple[Any, Any]:
    """Forward and backward results of the float64 oracle, which gets no rotten values to stumble over."""
    data = case.data
    x, dy = (np.where(np.isnan(array), 0, array) for array in (data.x, data.dy))
    if case.ids:
        x = np.maximum(x, 0).astype(np.int64)
    options = {"num_layers": case.num_layers, "bidirectional": case.bidirectional} | data.masks
    if "mask" in options:
        options["skip"] = ~options.pop("mask")
    options["given"] = tuple(data.extra.get("given", {}).values())
    result = reference.stack_forward(case.cell, dict(layer.params), x, data.state, **options)
    return result, reference.stack_backward(result, dy, data.dstate)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Largest difference at most `tolerance` times the largest value."""
    assert actual.shape == expected.shape
    error = np.abs(np.asarray(actual, np.float64) - expected).max(initial=0.0)
    largest = np.abs(expected).max(initial=0.0)
    assert error <= tolerance * largest, f"error {error:.3g}, largest value {largest:.3g}"


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Equal, bit by bit."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


def assert_same(actual: Any, expected: Any) -> None:
    """Equal in type and structure, arrays bit by bit: states, state dictionaries, what a checkpoint holds."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        for pair in zip(actual, expected, strict=True):
            assert_same(*pair)
    elif isinstance(expected, np.ndarray):
        assert_same_bits(actual, expected)
    else:
        assert actual == expected


def cases() -> list[Case]:
    """All rows; those of kernels by hand for all instruction sets and dtypes; and a few calls large enough for several
    threads and blocks.
    """
    large = [
        {"kind": kind, "T": 3, "B": 5, "H": 1000, "I": 7, "threads": 3, "mask": "both"}
        for kind in ("lstm", "gru_after")
    ] + [
        {"kind": kind, "T": 33, "B": B, "H": 128, "I": 64, "threads": threads, "mask": "both"}
        for kind, (B, threads) in product(FUSED, ((1, 2), (33, 3)))
    ]
    fused = [Case(**row, isa=isa, dtype=dtype) for row, isa, dtype in product([*FUSED_ROWS, *large], ISAS, DTYPES)]
    return fused + [Case(**row) for row in DESCRIBED_ROWS]
