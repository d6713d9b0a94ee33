"""The persistent engine in the simulator: every fragment, mask and hand-over on calls of a few steps."""

from __future__ import annotations

import numpy as np
import pytest
from device_problems import MASKS, PRECISIONS, Problem

from rnnfast.cuda import kernel as kernel_module
from rnnfast.cuda.plan import Partition, Plan

FAMILIES = ("elman_tanh", "lstm", "gru_after")
# One block of one warp, which has 16 units: forward K = H <= 16, backward K = 4 H <= 32.
ONE_WARP = Partition(1, 1, 1, 1, 1, 3), Partition(1, 1, 2, 1, 1, 3)


@pytest.fixture
def use(monkeypatch):
    """Makes the kernels take given partitions, forward and backward."""

    def choose(forward, backward):
        monkeypatch.setattr(
            kernel_module, "plan", lambda *_, **__: Plan("persistent", forward, backward, "this test's")
        )

    choose(*ONE_WARP)
    return choose


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_masks(use, kind, mask):
    reverse = (MASKS.index(mask) + FAMILIES.index(kind)) % 2 == 1
    Problem(kind, mask=mask, reverse=reverse, T=4, B=3, H=7).check()


@pytest.mark.parametrize("reverse", [False, True])
def test_directions(use, reverse):
    Problem("lstm", mask="both", reverse=reverse, T=3, B=3, H=8).check()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_precisions(use, kind, precision):
    Problem(kind, precision=precision, mask="reset_state", T=3, B=2, H=5).check()


@pytest.mark.parametrize("kind", ["elman_relu", "elman_sigmoid"])
def test_activations(use, kind):
    Problem(kind, T=2, B=2, H=4).check()


@pytest.mark.parametrize("sizes", [{"H": 1, "B": 1}, {"T": 1, "H": 8}, {"H": 3, "swapped": True}, {"bias": False}])
def test_sizes_and_strides(use, sizes):
    Problem("gru_after", mask="lengths", **sizes).check()


@pytest.mark.parametrize(
    ("kind", "H", "B", "forward", "backward"),
    [
        # Blocks that hand over, in two groups of unequal rows.
        ("lstm", 12, 3, Partition(1, 1, 1, 2, 2, 2), Partition(1, 1, 4, 2, 2, 2)),
        # Warps that split K, two tiles of units in a block, and units that are not there.
        ("gru_after", 20, 2, Partition(2, 2, 1, 2, 1, 2), Partition(1, 2, 2, 3, 1, 2)),
        # More rows than the sums of one pass have room for, and a second half of 16.
        ("elman_tanh", 12, 35, Partition(1, 1, 1, 2, 1, 35), Partition(1, 1, 1, 2, 1, 35)),
        # The same in one block, whose tiles have 8 rows.
        ("elman_tanh", 8, 17, Partition(1, 1, 1, 1, 1, 17), Partition(1, 1, 1, 1, 1, 17)),
    ],
)
def test_partitions(use, kind, H, B, forward, backward):
    use(forward, backward)
    Problem(kind, mask="both", T=3 if kind == "lstm" else 2, B=B, H=H).check()


# One block, where the weights are the left operand, with a part of them in shared memory. Forward K = H, backward 4 H.
STORED = [
    # Units that are not there, and more fragments than there are.
    ("lstm", 20, 3, Partition(2, 1, 1, 1, 1, 3, 1), Partition(2, 1, 2, 1, 1, 3, 4)),
    # Warps that split K.
    ("gru_after", 20, 2, Partition(2, 2, 1, 1, 1, 2, 1), Partition(2, 2, 1, 1, 1, 2, 2)),
    # More rows than the sums have room for, and two groups of unequal rows.
    ("elman_tanh", 17, 19, Partition(2, 1, 1, 1, 1, 19, 2), Partition(2, 1, 1, 1, 2, 10, 2)),
]


@pytest.mark.parametrize(("kind", "H", "B", "forward", "backward"), STORED)
def test_stored_weights(use, kind, H, B, forward, backward):
    use(forward, backward)
    Problem(kind, mask="both", reverse=kind == "gru_after", T=2, B=B, H=H).check()


@pytest.mark.parametrize("precision", PRECISIONS[1:])
@pytest.mark.parametrize(("kind", "H", "B", "forward", "backward"), STORED[:2])
def test_stored_weights_in_other_precisions(use, kind, H, B, forward, backward, precision):
    use(forward, backward)
    Problem(kind, precision=precision, mask="reset_state", T=2, B=B, H=H).check()


# Blocks that split K backward, in sets: K <= parts x split_warps x fragments x 16.
SETS = [
    # Two sets of two blocks, units that are not there, and two groups of unequal rows.
    ("lstm", 12, 3, Partition(1, 1, 1, 2, 2, 2), Partition(1, 1, 2, 4, 2, 2, 0, 2)),
    # Two tiles of units, and warps that split K, too.
    ("gru_after", 12, 2, Partition(2, 1, 1, 1, 1, 2), Partition(2, 2, 1, 2, 1, 2, 0, 2)),
    # Parts of K that are not there, and more rows than the sums of one pass have room for.
    ("elman_tanh", 12, 35, Partition(1, 1, 1, 2, 1, 35), Partition(1, 1, 1, 8, 1, 35, 0, 4)),
]


@pytest.mark.parametrize(("kind", "H", "B", "forward", "backward"), SETS)
def test_sets(use, kind, H, B, forward, backward):
    use(forward, backward)
    reverse, mask = kind == "lstm", "reset_state" if kind == "gru_after" else "both"
    problem = Problem(kind, mask=mask, reverse=reverse, T=2 if B > 3 else 3, B=B, H=H)
    first = problem.check()
    if B < 3:
        second = problem.run()
        assert all(value.tobytes() == second[name].tobytes() for name, value in first.items())


@pytest.mark.parametrize("sizes", [{"T": 1}, {"T": 2, "precision": "tf32"}, {"T": 2, "precision": "bfloat16"}])
def test_sets_of_one_step_and_in_other_precisions(use, sizes):
    kind, H, B, *partitions = SETS[0]
    use(*partitions)
    Problem(kind, mask="lengths", B=B, H=H, **sizes).check()


@pytest.mark.parametrize("kind", FAMILIES)
def test_two_runs_and_inference_give_the_same_bits(use, kind):
    problem = Problem(kind, mask="both", T=3, H=6)
    first, second, inferred = problem.run(), problem.run(), problem.run(train=False)
    assert all(value.tobytes() == second[name].tobytes() for name, value in first.items())
    assert all(value.tobytes() == first[name].tobytes() for name, value in inferred.items())


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # the twins are NumPy's arithmetic
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_comes_out_and_keeps_no_block_waiting(use, bad, precision):
    use(Partition(1, 1, 1, 2, 1, 2), Partition(1, 1, 4, 2, 1, 2))
    problem = Problem("lstm", precision, T=2, B=2, H=12)
    problem.x[0, 1] = bad
    found = problem.run()
    if np.isnan(bad):
        assert np.isnan(found["y"][:, 1]).all()
        assert np.isnan(found["weight_hh"]).any()
        assert np.isnan(found["weight_ih"]).any()
    assert np.isfinite(found["y"][:, 0]).all()
    problem.params["weight_hh"][3, 2] = bad
    found = problem.run()
    assert not np.isfinite(found["weight_hh"]).all()
    if np.isnan(bad):
        assert np.isnan(found["y"][1:, :, 3]).all()


def test_the_state_of_an_empty_row_reaches_nothing_else(use):
    problem = Problem("lstm", mask="lengths", B=3)
    problem.lengths[1] = 0
    clean = problem.run()
    problem.h0[1] = np.nan
    found = problem.run()
    for name in ("y", "weight_ih", "weight_hh", "bias_hh"):
        assert found[name].tobytes() == clean[name].tobytes()
