"""Learning rates by step: PyTorch's, and what a run that is taken up again has."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from rnnfast.schedules import Constant, Cosine, Linear, OnPlateau, WarmUp


def torch_rates(make, steps):
    """The rates of a scheduler of PyTorch's, from its first step on."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_rates_are_those_of_torch():
    steps = range(11)
    np.testing.assert_allclose(
        [Cosine(0.3, 10, last=0.01)(step) for step in steps],
        torch_rates(lambda schedulers, optimizer: schedulers.CosineAnnealingLR(optimizer, 10, eta_min=0.01), 11),
    )
    np.testing.assert_allclose(
        [Linear(0.3, 8, last=0.03)(step) for step in steps],
        torch_rates(lambda schedulers, optimizer: schedulers.LinearLR(optimizer, 1.0, 0.1, 8), 11),
    )
    np.testing.assert_allclose(
        [WarmUp(Constant(0.3), 4)(step) for step in steps],
        torch_rates(lambda schedulers, optimizer: schedulers.LinearLR(optimizer, 0.25, 1.0, 3), 11),
    )


@pytest.mark.parametrize("options", [{}, {"factor": 0.5, "patience": 0}, {"patience": 2, "threshold": 0.1}])
def test_a_plateau_is_that_of_torch(options):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=0.001, **options)
    ours = OnPlateau(0.3, last=0.001, **options)
    falling = np.random.default_rng(0).random(60) + np.maximum(0, 1 - np.arange(60) / 20)
    for loss in [*falling, math.nan, math.inf]:
        ours.observe(loss)
        theirs.step(loss)
        assert math.isclose(ours(0), optimizer.param_groups[0]["lr"])
    assert ours.lr < 0.3


def test_after_its_steps_a_rate_stays():
    assert [Cosine(1.0, 3)(step) for step in (3, 4, 10**9)] == [0.0] * 3
    assert Linear(1.0, 3, last=2.0)(10**9) == 2.0
    assert WarmUp(Cosine(1.0, 5), 2)(0) == 0.5


def test_a_plateau_goes_on_from_its_state():
    one = OnPlateau(1.0, factor=0.5, patience=1)
    for loss in (3.0, 2.0, 2.5):
        one.observe(loss)
    two = OnPlateau(9.0, factor=0.5, patience=1)
    two.load_state_dict(one.state_dict())
    for loss in (2.5, 1.0, 1.0, 1.0):
        one.observe(loss), two.observe(loss)
        assert one.lr == two.lr
    assert one.lr == 0.25
    fresh = OnPlateau(1.0)
    fresh.load_state_dict(OnPlateau(0.5).state_dict())
    assert fresh.lr == 0.5
    with pytest.raises(ValueError, match="state: expected the keys"):
        fresh.load_state_dict({"lr": 1.0})
    with pytest.raises(ValueError, match="waited: expected an integer of at least 0"):
        fresh.load_state_dict({"lr": 1.0, "best": None, "waited": -1})
    assert fresh.lr == 0.5


def test_a_warm_up_passes_losses_on():
    plateau = OnPlateau(1.0, factor=0.5, patience=0)
    schedule = WarmUp(plateau, 2)
    schedule.observe(1.0), schedule.observe(1.0)
    assert schedule(0) == 0.25
    WarmUp(Constant(1.0), 2).observe(1.0)


def test_schedules_compare_print_and_pickle():
    schedule = WarmUp(Cosine(0.1, 100), 10)
    assert pickle.loads(pickle.dumps(schedule)) == schedule == WarmUp(Cosine(0.1, 100), 10)
    assert repr(schedule) == "WarmUp(schedule=Cosine(lr=0.1, steps=100, last=0.0), steps=10)"
    assert "lr=0.5" in repr(OnPlateau(0.5))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant(-1.0), ValueError, "lr: expected a number of at least 0"),
        (lambda: Constant("0.1"), TypeError, "lr: expected a real number"),
        (lambda: Linear(0.1, 0), ValueError, "steps: expected an integer of at least 1"),
        (lambda: Cosine(0.1, 10.0), TypeError, "steps: expected an integer"),
        (lambda: Cosine(0.1, 10, last=math.nan), ValueError, "last: expected a finite number"),
        (lambda: WarmUp(0.1, 10), TypeError, "schedule: expected a schedule"),
        (lambda: OnPlateau(0.1, factor=1.0), ValueError, r"factor: expected a number in \(0, 1\)"),
        (lambda: OnPlateau(0.1, threshold=-0.1), ValueError, r"threshold: expected a number in \[0, 1\)"),
        (lambda: OnPlateau(0.1, patience=-1), ValueError, "patience: expected an integer of at least 0"),
    ],
)
def test_a_mistake_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
