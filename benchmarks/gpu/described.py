"""Calls of described cells on the device, and the float64 oracle's answers: any program, in every path.

What must not be read is NaN (x where no row runs, dy beyond the rows' ends), and what must be written is NaN before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rnnfast import reference
from rnnfast._call import BackwardCall, ForwardCall
from rnnfast.bench.core import error
from rnnfast.cuda import arrays
from rnnfast.cuda.described import Described
from rnnfast.description import Cell
from rnnfast.description.cells import CATALOGUE
from rnnfast.description.cells.block_gru import BlockGRU
from rnnfast.description.cells.lstm import LSTM
from rnnfast.description.declarations import declared

from .checks import Outcome
from .problems import BOUNDS, Case

__all__ = ["CELLS", "Problem", "check", "widths_of"]

CELLS: dict[str, Cell] = {
    **CATALOGUE,
    **reference.CELLS,
    "block_gru_8": BlockGRU(heads=8),
    "lstm_24": LSTM(heads=24),
}
"""All cells of the checks and rows, by name: the package's, and those of published times."""


def widths_of(cell: Cell, hidden: int) -> dict[str, int]:
    """The widths of a cell's domains by name, the hidden size first."""
    return {"hidden": hidden, **declared(cell).widths}


class Problem:
    """A call on the host in float32 numbers, and the oracle's answers in float64.

    Parameters
    ----------
    cell : Cell
    precision : str
    sizes : (int, int, int, int)
        T, B, I and H.
    seed : int
    masks : mapping
        ``lengths``, ``resets`` and ``skip``, of those that are to be; with any, reset states are given.
    reverse, bias, ids, zeros : bool
        `zeros`: no initial and no reset states.
    """

    def __init__(
        self,
        cell: Cell,
        precision: str = "float32",
        *,
        sizes: tuple[int, int, int, int],
        seed: int = 0,
        masks: Mapping[str, Any] | None = None,
        reverse: bool = False,
        bias: bool = True,
        ids: bool = False,
        zeros: bool = False,
    ) -> None:
        self.cell, self.program, self.precision, self.ids = cell, cell.program(bias), precision, ids
        self.steps, self.rows, self.inputs, hidden = sizes
        rng = np.random.default_rng(seed)
        found, widths = declared(cell), widths_of(cell, hidden)
        self.widths = tuple(widths.values())
        shape = self.steps, self.rows

        def normal(*shape: int) -> Any:
            return rng.normal(size=shape).astype(np.float32).astype(np.float64)

        params = reference.init_params(cell, self.inputs, hidden, rng, bias=bias)
        self.params = {name: value.astype(np.float32).astype(np.float64) for name, value in params.items()}
        self.x = rng.integers(0, self.inputs, shape) if ids else normal(*shape, self.inputs)
        shapes = [(self.rows, widths[state.width]) for state in found.states]
        self.state = tuple(None if zeros else normal(*one) for one in shapes)
        self.reset = tuple(normal(*one) if masks and not zeros else None for one in shapes)
        self.given = tuple(normal(*shape, *(() if one.width is None else (widths[one.width],))) for one in found.given)
        self.dy = tuple(normal(self.steps, *one) for one in shapes)
        self.dfinal = tuple(normal(*one) for one in shapes)
        self.masks = dict(masks or {})
        self.options = {"reverse": reverse, "seed": 2**63 + seed, "layer": 3, "first_step": 5}
        self._kernel = Described(self.program, self.widths, self.inputs, precision)
        self._memory: dict[str, Any] = {}

    @property
    def draws(self) -> bool:
        """Whether training has random masks."""
        return any(one.op.startswith("random") for stage in self.program.forward for one in stage.code)

    @property
    def jumps(self) -> bool:
        """Whether a derivative has two branches. Rounding moves values across, and a gradient by its whole size."""
        return any(one.op in ("sign", "where") for stage in self.program.backward for one in stage.code)

    def expected(self, *, training: bool = True) -> dict[str, Any]:
        """The oracle's answers by name."""
        result = reference.forward(
            self.cell, self.params, self.x, *self.state, **self.masks, **self.options,
            reset_state=self.reset, given=self.given, training=training,
        )  # fmt: skip
        named = _numbered("y", result.outputs) | _numbered("final", result.state)
        if training:
            found = reference.backward(result, self.dy, *self.dfinal)
            named |= _numbered("dstate", found.dstate) | _numbered("d_reset", found.d_reset_state)
            named |= _numbered("dgiven", found.dgiven) | found.params | ({} if self.ids else {"dx": found.dx})
        return named

    def _ended(self) -> Any:
        lengths = self.masks.get("lengths", np.full(self.rows, self.steps))
        return np.arange(self.steps)[:, None] >= lengths

    def _poisoned(self, array: Any) -> Any:
        """What no row runs in is not read."""
        if "lengths" not in self.masks or array.dtype.kind != "f":
            return array
        array = array.copy()
        array[self._ended() | self.masks.get("skip", False)] = np.nan
        return array

    def run(self, *, training: bool = True) -> dict[str, Any]:
        """All results, on the host, by the oracle's names.

        Arrays lie where they lay in the run before: the second one captures a graph, the third one replays it.
        """
        kernel, put = self._kernel, self._put
        x = put("x", self._poisoned(self.x))
        common: dict[str, Any] = {name: put(name, value) for name, value in self.masks.items()} | self.options
        for name, values in (("given", map(self._poisoned, self.given)), ("state", self.state)):
            common[name] = self._put_all(name, values)
        common["reset_state"] = self._put_all("reset", self.reset)
        y, final = self._blank("y", self.dy), self._blank("final", self.dfinal)
        tape = put("tape", np.full(kernel.tape_size(self.steps, self.rows), np.nan)) if training else None
        kernel.forward(ForwardCall(self._panels(), x, y, final_state=final, tape=tape, training=training, **common))
        named = _numbered("y", y) | _numbered("final", final)
        if training:
            dy = [one.copy() for one in self.dy]
            for one in dy:
                one[self._ended()] = np.nan
            d_state, d_reset = self._blank("dstate", self.dfinal), self._blank("d_reset", self.dfinal)
            d_given = self._blank("dgiven", self.given)
            (dx,) = (None,) if self.ids else self._blank("dx", [self.x])
            d_panels = put("dpanels", np.zeros(kernel.panel_size))
            of_y, of_final = self._put_all("dy", dy), self._put_all("dfinal", self.dfinal)
            kernel.backward(
                BackwardCall(
                    self._panels(), arrays.empty((0,)), x, tape, of_y, of_final, dx,
                    d_state, d_panels, d_reset_state=d_reset, dgiven=d_given, **common,
                )
            )  # fmt: skip
            named |= _numbered("dstate", d_state) | _numbered("d_reset", d_reset) | _numbered("dgiven", d_given)
            names = list(self.params)
            unpacked = dict(zip(names, self._blank("unpacked", self.params.values()), strict=True))
            kernel.unpack(d_panels, tuple(unpacked.get(one.name) for one in self.program.parameters))
            named |= unpacked | ({} if self.ids else {"dx": dx})
        return {name: arrays.to_host(one) for name, one in named.items()}

    def _put(self, name: str, array: Any) -> Any:
        """An array on the device, where the one of that name lay before."""
        if array is None:
            return None
        moved = arrays.to_device(array.astype(np.float32 if array.dtype.kind == "f" else array.dtype))
        found = self._memory.setdefault(name, moved)
        if found is not moved:
            found[...] = moved
        return found

    def _put_all(self, name: str, values: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(self._put(f"{name}{number}", one) for number, one in enumerate(values))

    def _blank(self, name: str, like: Iterable[Any]) -> tuple[Any, ...]:
        """NaN of the shapes of others."""
        return self._put_all(name, (np.full(one.shape, np.nan) for one in like))

    def _panels(self) -> Any:
        if "panels" not in self._memory:
            panels = self._put("panels", np.full(self._kernel.panel_size, np.nan))
            given = (self.params.get(one.name) for one in self.program.parameters)
            self._kernel.pack(self._put_all("parameter", given), panels)
        return self._memory["panels"]

    def errors(self, found: Mapping[str, Any], *, training: bool = True) -> dict[str, float]:
        """Of each result, relative to the largest value, or to a hundredth where all are less."""
        expected = self.expected(training=training)
        assert set(found) == set(expected)
        scales = {name: max(np.abs(value).max(initial=0.0), 1e-30) for name, value in expected.items()}
        return {name: error(found[name], value) * min(1.0, scales[name] / 1e-2) for name, value in expected.items()}

    def wrong(self, errors: Mapping[str, float]) -> list[str]:
        """What is off by more than twice what a fused kernel may be; gradients that jump, in float32 alone.

        With exponential gates four times: what is off by a sum in their arguments is so by a factor in each step.
        """
        exponential = any(one.op == "exp" for stage in self.program.forward for one in stage.code)
        times = 4 if exponential else 2
        allowed = {name: times * BOUNDS[self.precision][not _of_forward(name)] for name in errors}
        if self.jumps and self.precision != "float32":
            allowed |= {name: np.finfo(np.float32).max for name in errors if not _of_forward(name)}
        return [
            f"{name}: error {value:.2g}, more than {allowed[name]:g}"
            for name, value in errors.items()
            if not value <= allowed[name]
        ]


def _numbered(name: str, values: Any) -> dict[str, Any]:
    return {f"{name}{number}": value for number, value in enumerate(values)}


def _of_forward(name: str) -> bool:
    return name.startswith(("y", "final"))


def _masks(case: Case, rng: np.random.Generator) -> dict[str, Any]:
    if case.mask == "none":
        return {}
    lengths = rng.integers(0, case.T + 1, case.B)
    lengths[:2] = (case.T, max(0, case.T - 1))[: case.B]  # at least one row has steps, and one ends
    return {
        "lengths": lengths,
        "resets": rng.random((case.T, case.B)) < 0.3,
        "skip": rng.random((case.T, case.B)) < 0.2,
    }


def check(case: Case, seed: int) -> Outcome:
    """Compare a described cell's results with the oracle's; further runs, and inference, must give the same bits."""
    options = {"reverse": case.reverse, "bias": case.bias, "ids": case.ids, "seed": seed}
    masks = _masks(case, np.random.default_rng(seed))
    problem = Problem(CELLS[case.kind], case.precision, sizes=(case.T, case.B, case.I, case.H), masks=masks, **options)
    found = problem.run()
    errors = problem.errors(found)
    wrong = problem.wrong(errors)
    again = {"run 2": problem.run(), "run 3": problem.run()}
    if not problem.draws:
        again["inference"] = problem.run(training=False)
    for what, results in again.items():
        wrong += [f"{name}: {what} gives other bits" for name in results if _bits(results[name]) != _bits(found[name])]
    worst = [max((v for name, v in errors.items() if _of_forward(name) is part), default=0.0) for part in (True, False)]
    return Outcome(case, *worst, tuple(wrong))


def _bits(array: Any) -> bytes:
    return bytes(array.tobytes())
