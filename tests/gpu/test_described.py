"""Described cells on the simulated device, against the oracle: every description in every path."""

from __future__ import annotations

import numpy as np
import pytest
from description.descriptions import DESCRIPTIONS

from rnnfast import reference
from rnnfast._call import BackwardCall, ForwardCall
from rnnfast.cuda import arrays
from rnnfast.cuda.described import Described
from rnnfast.cuda.plan import engine_of
from rnnfast.description.declarations import declared

T, B, IN, H = 3, 3, 2, 4
LENGTHS = np.array([3, 1, 2])
RESETS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
SKIP = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
MASKED = {"lengths": LENGTHS, "resets": RESETS, "skip": SKIP}
BOUNDS = {"float32": (2e-5, 2e-4), "tf32": (4e-3, 4e-3), "bfloat16": (6e-2, 6e-2)}


def device(array):
    if array is None:
        return None
    dtype = np.float32 if array.dtype.kind == "f" else array.dtype
    return arrays.to_device(array.astype(dtype))


def close(found, expected, bound, name):
    assert found.shape == expected.shape, name
    error = np.abs(np.asarray(found, np.float64) - expected).max(initial=0.0)
    assert error <= bound * max(np.abs(expected).max(initial=0.0), 1e-2), (name, error)


class Problem:
    """A call on the host in float32 numbers, and the oracle's answers in float64."""

    def __init__(
        self, cell, precision="float32", *, seed=0, masked=True, reverse=False, bias=True, ids=False, zeros=False
    ):
        self.cell, self.program, self.precision, self.ids = cell, cell.program(bias), precision, ids
        rng = np.random.default_rng(seed)
        found = declared(cell)
        widths = {"hidden": H, **found.widths}
        self.widths = tuple(widths.values())

        def normal(*shape):
            return rng.normal(size=shape).astype(np.float32).astype(np.float64)

        params = reference.init_params(cell, IN, H, rng, bias=bias)
        self.params = {name: value.astype(np.float32).astype(np.float64) for name, value in params.items()}
        self.x = rng.integers(0, IN, (T, B)) if ids else normal(T, B, IN)
        shapes = [(B, widths[state.width]) for state in found.states]
        self.state = tuple(None if zeros else normal(*shape) for shape in shapes)
        self.reset = tuple(normal(*shape) if masked and not zeros else None for shape in shapes)
        self.given = tuple(normal(*((T, B) if one.width is None else (T, B, widths[one.width]))) for one in found.given)
        self.dy = tuple(normal(T, *shape) for shape in shapes)
        self.dfinal = tuple(normal(*shape) for shape in shapes)
        self.masks = dict(MASKED) if masked else {}
        self.options = {"reverse": reverse, "seed": 2**63 + seed, "layer": 3, "first_step": 5}

    def expected(self, *, training=True):
        result = reference.forward(
            self.cell, self.params, self.x, *self.state, **self.masks, **self.options,
            reset_state=self.reset, given=self.given, training=training,
        )  # fmt: skip
        named = {f"y{k}": array for k, array in enumerate(result.outputs)}
        named |= {f"final{k}": array for k, array in enumerate(result.state)}
        if training:
            found = reference.backward(result, self.dy, *self.dfinal)
            named |= {f"dstate{k}": array for k, array in enumerate(found.dstate)}
            named |= {f"d_reset{k}": array for k, array in enumerate(found.d_reset_state)}
            named |= {f"dgiven{k}": array for k, array in enumerate(found.dgiven)}
            named |= found.params | ({} if self.ids else {"dx": found.dx})
        return named

    def poisoned(self, array):
        """What no row runs in is not read."""
        if "lengths" not in self.masks or array.dtype.kind != "f":
            return array
        array = array.copy()
        array[(np.arange(T)[:, None] >= LENGTHS) | SKIP] = np.nan
        return array

    def run(self, *, training=True, kernel=None):
        kernel = kernel or Described(self.program, self.widths, IN, self.precision)
        panels = device(np.full(kernel.panel_size, np.nan))
        kernel.pack(tuple(device(self.params.get(one.name)) for one in self.program.parameters), panels)
        x = device(self.poisoned(self.x))
        common = {name: device(value) for name, value in self.masks.items()} | self.options
        common |= {"given": tuple(device(self.poisoned(one)) for one in self.given)}
        common |= {"state": tuple(map(device, self.state)), "reset_state": tuple(map(device, self.reset))}
        y = tuple(device(np.full(one.shape, np.nan)) for one in self.dy)
        final = tuple(device(np.full(one.shape, np.nan)) for one in self.dfinal)
        tape = device(np.full(kernel.tape_size(T, B), np.nan)) if training else None
        kernel.forward(ForwardCall(panels, x, y, final_state=final, tape=tape, training=training, **common))
        named = {f"y{k}": one for k, one in enumerate(y)} | {f"final{k}": one for k, one in enumerate(final)}
        if training:
            dy = []
            for one in self.dy:
                one = one.copy()
                one[np.arange(T)[:, None] >= self.masks.get("lengths", np.full(B, T))] = np.nan
                dy.append(device(one))
            dstate = tuple(device(np.full(one.shape, np.nan)) for one in self.dfinal)
            d_reset = tuple(device(np.full(one.shape, np.nan)) for one in self.dfinal)
            dgiven = tuple(device(np.full(one.shape, np.nan)) for one in self.given)
            dx = None if self.ids else device(np.full(self.x.shape, np.nan))
            dpanels = arrays.zeros((kernel.panel_size,))
            kernel.backward(
                BackwardCall(
                    panels, arrays.empty((0,)), x, tape, tuple(dy), tuple(map(device, self.dfinal)), dx, dstate,
                    dpanels, d_reset_state=d_reset, dgiven=dgiven, **common,
                )
            )  # fmt: skip
            named |= {f"dstate{k}": one for k, one in enumerate(dstate)}
            named |= {f"d_reset{k}": one for k, one in enumerate(d_reset)}
            named |= {f"dgiven{k}": one for k, one in enumerate(dgiven)}
            unpacked = {name: device(np.full(value.shape, np.nan)) for name, value in self.params.items()}
            kernel.unpack(dpanels, tuple(unpacked.get(one.name) for one in self.program.parameters))
            named |= unpacked | ({} if self.ids else {"dx": dx})
        return {name: arrays.to_host(one) for name, one in named.items()}

    def check(self, *, training=True):
        found, expected = self.run(training=training), self.expected(training=training)
        assert set(found) == set(expected)
        for name, value in expected.items():
            close(found[name], value, BOUNDS[self.precision][not name.startswith(("y", "final"))], name)
        return found


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_masks(name):
    Problem(DESCRIPTIONS[name], reverse=len(name) % 2 == 1).check()


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_plain_and_without_biases(name):
    Problem(DESCRIPTIONS[name], masked=False, bias=False, zeros=True).check()


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_inference(name):
    """Of cells that draw no masks the bits of training."""
    problem = Problem(DESCRIPTIONS[name])
    found = problem.check(training=False)
    if not any(one.op.startswith("random") for stage in problem.program.forward for one in stage.code):
        trained = problem.run()
        assert all(trained[key].tobytes() == value.tobytes() for key, value in found.items())


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("name", ["lstm", "gru_before", "widths", "manygates", "onlyvectors", "projected", "means"])
def test_precisions(name, precision):
    Problem(DESCRIPTIONS[name], precision).check()


@pytest.mark.parametrize("name", ["lstm", "manygates", "onlyvectors"])
def test_ids(name):
    Problem(DESCRIPTIONS[name], ids=True).check()


def test_what_is_made_of_the_parameters_is_kept_until_they_change():
    problem = Problem(DESCRIPTIONS["lstm"], "bfloat16")
    kernel = Described(problem.program, problem.widths, IN, "bfloat16")
    panels = device(np.ones(kernel.panel_size))
    kept = kernel._operands(panels)
    assert kernel._operands(panels) is kept
    assert kept.operand(0) is kept.operand(0)
    kernel.pack(tuple(device(problem.params[one.name]) for one in problem.program.parameters), panels)
    assert kernel._operands(panels) is not kept
    assert kernel._operands(device(np.ones(kernel.panel_size))).panels is not panels


def test_the_engine_follows_from_the_description():
    engines = {name: engine_of(cell.program()) for name, cell in DESCRIPTIONS.items()}
    assert engines["lstm"] == engines["widths"] == engines["onlyvectors"] == "stepwise"
    assert engines["nomatrix"] == "diagonal"
