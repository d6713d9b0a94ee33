"""The compiled interpreter runs every description: against the oracle, and bit by bit against itself and fused kernels.

Every description, and some cells whose steps are random, are run with lengths, resets, a skip mask, given inputs and
all outputs: on every instruction set, in both dtypes, on one thread, on threads that partition rows, and on threads
that partition units.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from description.descriptions import DESCRIPTIONS
from description.test_random_cells import RandomCell
from registry import DTYPES, ISAS, TOLERANCES, assert_close, assert_same_bits

from rnnfast import _core, reference
from rnnfast._call import BackwardCall, ForwardCall
from rnnfast.description import Wrapped
from rnnfast.description.program import INPUT, OPERATIONS, Program
from rnnfast.reference import CELLS

RANDOM = {f"random {seed}": RandomCell(seed) for seed in range(1, 60) if seed % 5}
WRAPPED = {
    f"random {seed}": Wrapped(RandomCell(seed), zoneout=0.3, recurrent_dropout=0.4)
    for seed in range(5, 60, 5)
    if any(gate.h for gate in RandomCell(seed).gates)
}
EVERY = DESCRIPTIONS | RANDOM | WRAPPED
FMA_ISAS = tuple(isa for isa in ISAS if isa != "baseline")  # the baseline rounds a product before it adds
SHAPES = ((5, 3, 3, 6), (4, 33, 5, 34), (3, 1, 4, 2), (6, 2, 2, 66))  # T, B, I, H; two heads divide each H


def reads_x(cell: Any) -> bool:
    """Whether a cell has an input side."""
    return any(parameter.columns == INPUT for parameter in cell.program().parameters)


@cache
def core_program(name: str) -> Any:
    """The compiled side's copy of a program."""
    return _core.Program(EVERY[name].program())


def widths_of(name: str, hidden: int) -> tuple[int, ...]:
    """The program's widths."""
    cell = EVERY[name]
    return tuple(hidden if domain == "hidden" else cell.widths[domain] for domain in cell.program().domains)


def parameter_shapes(program: Program, input_size: int, widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """By name, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for parameter in program.parameters:
        rows = parameter.blocks * widths[parameter.domain]
        if parameter.columns is None:
            shapes[parameter.name] = (rows,)
        else:
            columns = input_size if parameter.columns == INPUT else widths[parameter.columns]
            shapes[parameter.name] = (rows, columns // parameter.heads)
    return shapes


class Problem:
    """The arguments of one call, in float64, for a cell and sizes. Where a step is not read it holds NaN."""

    def __init__(self, name: str, sizes: tuple[int, int, int, int], *, ids: bool = False) -> None:
        self.name, self.program = name, EVERY[name].program()
        T, B, I, H = sizes  # noqa: E741
        H = max(H, EVERY[name].widths.get("proj", 0) // 2 * 2 + 2)  # a projection is narrower than the cell
        self.sizes = T, B, I, H
        self.widths = widths_of(name, H)
        rng = np.random.default_rng(zlib.crc32(f"{name}{sizes}{ids}".encode()))
        self.params = {
            key: rng.uniform(-1, 1, shape) / np.sqrt(shape[-1] if len(shape) > 1 else 1)
            for key, shape in parameter_shapes(self.program, I, self.widths).items()
        }
        states = [self.widths[state.domain] for state in self.program.states]
        # Small and positive: cells divide by some of their states.
        self.state, self.reset_state = (tuple(rng.uniform(0.1, 0.9, (B, width)) for width in states) for _ in range(2))
        self.dfinal = tuple(rng.standard_normal((B, width)) for width in states)
        self.dy = tuple(rng.standard_normal((T, B, width)) for width in states)
        self.x: Any = rng.integers(0, I, (T, B)) if ids else rng.standard_normal((T, B, I))
        self.given = tuple(
            rng.uniform(0.1, 1, (T, B) if given.domain is None else (T, B, self.widths[given.domain]))
            for given in self.program.given
        )
        self.lengths = rng.integers(0, T + 1, B)
        self.lengths[0] = T
        self.resets, self.skip = rng.random((T, B)) < 0.3, rng.random((T, B)) < 0.3
        self.read = (np.arange(T)[:, None] < self.lengths) & ~self.skip

    def masks(self) -> dict[str, Any]:
        """What both sides take by name."""
        return {"lengths": self.lengths, "resets": self.resets, "skip": self.skip, "reset_state": self.reset_state}

    def oracle(self, **options: Any) -> tuple[Any, Any]:
        """Forward and backward results of the oracle."""
        options |= {"training": True, "seed": 7} if self.random else {}
        result = reference.forward(
            EVERY[self.name], self.params, self.x, *self.state, given=self.given, **self.masks(), **options
        )
        return result, reference.backward(result, self.dy, *self.dfinal)

    def run(self, isa: str, dtype: Any, *, threads: int = 1, kind: str = "", **options: Any) -> dict[str, Any]:
        """Everything the compiled kernel gives, by name; `kind` runs a fused one in its place."""

        def to(array: Any) -> Any:
            return np.ascontiguousarray(array, dtype)

        def rotten(array: Any) -> Any:
            copy = array.copy()
            copy[~self.read] = -1 if array.dtype.kind == "i" else np.nan
            return copy if array.dtype.kind == "i" else to(copy)

        T, B, I, H = self.sizes  # noqa: E741
        dtype_name = np.dtype(dtype).name
        if kind:
            kernel = _core.Kernel(kind, dtype_name, I, H, isa)
        else:
            kernel = _core.Kernel(core_program(self.name), dtype_name, I, self.widths, isa)
        params = tuple(map(to, self.params.values()))
        panels = np.full(kernel.panel_size, np.nan, dtype)
        backward = np.full(kernel.panel_size_backward, np.nan, dtype)
        kernel.pack(params, panels)
        kernel.pack_backward(params, backward)
        tape = np.full(kernel.tape_size(T, B), np.nan, dtype)
        x, given = rotten(self.x), tuple(map(rotten, self.given))
        state, reset_state = tuple(map(to, self.state)), tuple(map(to, self.reset_state))
        masks = {"lengths": self.lengths, "resets": self.resets, "skip": None if kind else self.skip} | options
        shown = [(T, B, array.shape[1]) for array in state]
        found: dict[str, Any] = {}
        for training in (False, True):
            y = tuple(np.full(shape, np.nan, dtype) if not (kind and i) else None for i, shape in enumerate(shown))
            final = tuple(np.full_like(array, np.nan) for array in state)
            kernel.forward(
                ForwardCall(
                    panels, x, y, state, final, reset_state, tape=tape if training else None, num_threads=threads,
                    given=given, training=training, seed=7, **masks,
                )
            )  # fmt: skip
            if training or not self.random:
                suffix = " in training" if training else ""
                found |= {f"y[{i}]{suffix}": array for i, array in enumerate(y) if array is not None}
                found |= {f"final[{i}]{suffix}": array for i, array in enumerate(final)}
        dx = None if x.ndim == 2 else np.full(x.shape, np.nan, dtype)
        dstate, d_reset = (tuple(np.full_like(array, np.nan) for array in state) for _ in range(2))
        dpanels = np.zeros(kernel.gradient_size, dtype)
        dgiven = tuple(np.full_like(array, np.nan) for array in given)
        dy = tuple(to(array) if not (kind and i) else None for i, array in enumerate(self.dy))
        for array in dy:
            if array is not None:
                array[np.arange(T)[:, None] >= self.lengths] = np.nan
        kernel.backward(
            BackwardCall(
                panels, backward, x, tape, dy, tuple(map(to, self.dfinal)), dx, dstate, dpanels, state, reset_state,
                d_reset_state=d_reset, num_threads=threads, given=given, dgiven=dgiven, seed=7, **masks,
            )
        )  # fmt: skip
        gradients = tuple(np.full_like(array, np.nan) for array in params)
        kernel.unpack(dpanels[: kernel.panel_size], gradients)
        found |= {f"dstate[{i}]": array for i, array in enumerate(dstate)}
        found |= {f"d_reset_state[{i}]": array for i, array in enumerate(d_reset)}
        found |= {f"dgiven[{i}]": array for i, array in enumerate(dgiven)}
        found |= dict(zip(self.params, gradients, strict=True))
        return found if dx is None else found | {"dx": dx}

    @property
    def random(self) -> bool:
        """Whether training draws masks."""
        return any(code.op.startswith("random") for stage in self.program.forward for code in stage.code)


def expected_of(problem: Problem, result: Any, gradients: Any) -> dict[str, tuple[Any, int]]:
    """The oracle's arrays under the names of `Problem.run`, and whether each is of forward (0) or backward (1)."""
    expected: dict[str, tuple[Any, int]] = {}
    for suffix in (" in training",) if problem.random else ("", " in training"):
        expected |= {f"y[{i}]{suffix}": (array, 0) for i, array in enumerate(result.outputs)}
        expected |= {f"final[{i}]{suffix}": (array, 0) for i, array in enumerate(result.state)}
    expected |= {f"dstate[{i}]": (array, 1) for i, array in enumerate(gradients.dstate)}
    expected |= {f"d_reset_state[{i}]": (array, 1) for i, array in enumerate(gradients.d_reset_state)}
    expected |= {f"dgiven[{i}]": (array, 1) for i, array in enumerate(gradients.dgiven)}
    expected |= {name: (array, 1) for name, array in gradients.params.items()}
    return expected if gradients.dx is None else expected | {"dx": (gradients.dx, 1)}


def test_the_operations_are_those_of_the_format():
    assert _core.OPERATIONS == OPERATIONS
    assert list(_core.OPERATIONS) == list(OPERATIONS)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, np.float32) for name in DESCRIPTIONS]
    + [pytest.param(name, np.float64, marks=pytest.mark.slow) for name in DESCRIPTIONS]
    + [(name, DTYPES[n % 2]) for n, name in enumerate(RANDOM | WRAPPED)],
)
def test_every_cell_agrees_with_the_oracle(name, dtype):
    """Forward and backward, every path, every instruction set, one thread and several, both directions."""
    tolerances = TOLERANCES[np.dtype(dtype)]
    for number, sizes in enumerate(SHAPES):
        problem = Problem(name, sizes)
        for reverse in (False, True):
            expected = expected_of(problem, *problem.oracle(reverse=reverse))
            isa, threads = ISAS[(number + reverse) % len(ISAS)], 1 + (number + reverse) % 3
            found = problem.run(isa, dtype, threads=threads, reverse=reverse)
            assert set(found) == set(expected)
            for key, (array, backward) in expected.items():
                assert_close(found[key], array, tolerances[backward])


@pytest.mark.parametrize("name", [name for name, cell in DESCRIPTIONS.items() if reads_x(cell)])
def test_ids_are_one_hot_rows(name):
    problem = Problem(name, (4, 5, 6, 10), ids=True)
    expected = expected_of(problem, *problem.oracle())
    found = problem.run(ISAS[-1], np.float64)
    for key, (array, backward) in expected.items():
        assert_close(found[key], array, TOLERANCES[np.dtype(np.float64)][backward])


# The sanitizers' build has the CPU's best set alone. The checks' build has both: on a CPU without AVX-512, emulated.
@pytest.mark.skipif(len(FMA_ISAS) < 2, reason="one instruction set with FMA here: nothing to compare")
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_instruction_set_gives_the_same_bits(name, dtype):
    """Forward and backward, all outputs; and so do threads, whether they partition rows or units."""
    for sizes in ((5, 7, 3, 34), (4, 1, 20, 2), (3, 2, 5, 100)):
        problem = Problem(name, sizes)
        one = problem.run(FMA_ISAS[0], dtype)
        for isa in FMA_ISAS[1:]:
            other = problem.run(isa, dtype)
            for key, array in one.items():
                assert_same_bits(other[key], array)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_any_number_of_threads_gives_the_same_bits(name, isa):
    for sizes in ((5, 33, 3, 34), (4, 1, 20, 66)):
        problem = Problem(name, sizes)
        one = problem.run(isa, np.float32, threads=1)
        for threads in (2, 3):
            other = problem.run(isa, np.float32, threads=threads)
            for key, array in one.items():
                assert_same_bits(other[key], array)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CELLS)
def test_the_fused_kernels_have_the_bits_of_their_descriptions(kind, isa, dtype):
    """What csrc/cells/ does by hand is what the interpreter makes of the description, bit by bit."""
    name = next(name for name, cell in DESCRIPTIONS.items() if cell.fused == kind)
    for sizes in ((5, 7, 3, 34), (4, 1, 20, 2), (3, 2, 5, 100), (9, 33, 17, 16)):
        problem = Problem(name, sizes)
        problem.skip[:] = False
        problem.read = np.arange(sizes[0])[:, None] < problem.lengths
        problem.dy = (problem.dy[0], *(np.zeros_like(dy) for dy in problem.dy[1:]))
        fused, described = problem.run(isa, dtype, kind=kind), problem.run(isa, dtype)
        for key, array in fused.items():
            assert_same_bits(described[key], array)
