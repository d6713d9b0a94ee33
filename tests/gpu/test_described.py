"""Described cells on the simulated device, against the oracle: every description in every path."""

from __future__ import annotations

import numpy as np
import pytest
from description.descriptions import DESCRIPTIONS

from benchmarks.gpu import described
from benchmarks.gpu.problems import Case
from rnnfast.cuda import arrays
from rnnfast.cuda.described import Described
from rnnfast.cuda.plan import engine_of

T, B, IN, H = 3, 3, 2, 4
LENGTHS = np.array([3, 1, 2])
RESETS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
SKIP = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
MASKED = {"lengths": LENGTHS, "resets": RESETS, "skip": SKIP}


def device(array):
    return arrays.to_device(array.astype(np.float32))


class Problem(described.Problem):
    """Of a small size, with every mask."""

    def __init__(self, cell, precision="float32", *, masked=True, **options):
        super().__init__(cell, precision, sizes=(T, B, IN, H), masks=MASKED if masked else None, **options)

    def check(self, *, training=True):
        found = self.run(training=training)
        assert self.wrong(self.errors(found, training=training)) == []
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
    if not problem.draws:
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


def test_gradients_that_jump_are_compared_in_float32_alone():
    cells = {name: Problem(described.CELLS[name]).jumps for name in ("elman_clip", "gru_clip", "indrnn", "lstm", "lru")}
    assert cells == {"elman_clip": True, "gru_clip": True, "indrnn": True, "lstm": False, "lru": False}
    for precision, bad in (("float32", ["dx", "y0"]), ("bfloat16", ["y0"])):
        problem = Problem(described.CELLS["indrnn"], precision)
        assert [one.partition(":")[0] for one in problem.wrong({"dx": 0.1, "y0": 0.1})] == bad
        assert len(problem.wrong({"dx": np.inf, "y0": 0.0})) == 1


@pytest.mark.parametrize(("kind", "mask"), [("block_gru_8", "both"), ("lstm_24", "none"), ("mingru", "both")])
def test_the_benchmark_s_check(kind, mask, monkeypatch):
    case = Case(kind, T=2, B=2, I=3, H=24, mask=mask, reverse=mask == "none")
    assert described.check(case, 0).wrong == ()
    original = Described.backward

    def off(self, call):
        original(self, call)
        call.dx[0] *= 1.01

    monkeypatch.setattr(Described, "backward", off)
    assert [line.partition(":")[0] for line in described.check(case, 0).wrong] == ["dx"]
