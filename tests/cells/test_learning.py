"""Every cell of the catalogue learns, by truncated BPTT: a running mean of what it is told."""

from __future__ import annotations

import numpy as np
import pytest

import rnnfast
from rnnfast.description.cells import CATALOGUE
from rnnfast.losses import mean_squared_error

STEPS, ROWS, UNITS, UPDATES, DECAY = 25, 16, 16, 300, 0.7
UNBOUNDED = ("lstm_relu",)  # its states grow without end if they are carried on from window to window
MEMORYLESS = (1 - DECAY) ** 2 / (1 - DECAY**2) - (1 - DECAY) ** 2
"""The least mean squared error of who knows the present number alone."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_cell_learns_to_remember(name):
    """The error falls below half of what can be had without a memory."""
    rng = np.random.default_rng(1)
    cell = CATALOGUE[name]
    layer = rnnfast.Recurrent(cell, 1, UNITS, rng=rng)
    features = layer._recurrence.walk.layout.features
    model = rnnfast.Model(rnn=layer, head=rnnfast.Dense(features, 1, rng=rng))
    optimizer = rnnfast.optim.Adam(model.params, 1e-2)
    trainer = rnnfast.TBPTT(model, mean_squared_error, optimizer, k1=STEPS, clip_norm=1.0)
    mean = np.zeros((ROWS, 1), np.float32)
    losses = []
    for _ in range(UPDATES):
        if name in UNBOUNDED:
            mean = np.zeros_like(mean)
            trainer.reset()
        x = rng.choice([-1.0, 1.0], (STEPS, ROWS, 1)).astype(np.float32)
        target = np.empty_like(x)
        for t in range(STEPS):
            mean = target[t] = DECAY * mean + (1 - DECAY) * x[t]
        if given := given_of(cell, layer, (STEPS, ROWS)):
            losses.append(update(model, optimizer, x, target, {"rnn": given}))
        else:
            losses.append(trainer.step(x, target).loss)
        if len(losses) >= 20 and np.mean(losses[-20:]) < MEMORYLESS / 2:
            return
    raise AssertionError(f"the error stays at {np.mean(losses[-20:])}, of {MEMORYLESS} without a memory")


def given_of(cell, layer, shape):
    """The extra inputs of a cell that has some: ones, which say that all is as usual."""
    program = cell.program()
    widths = layer._recurrence.walk.layout.widths
    return {
        one.name: np.ones(shape if one.domain is None else (*shape, widths[one.domain]), np.float32)
        for one in program.given
    }


def update(model, optimizer, x, target, given):
    """One update on a window that begins from nothing, for `TBPTT` hands on no extra inputs."""
    y, _, tape = model.forward(x, given=given)
    loss, dy = mean_squared_error(y, target)
    grads = model.backward(tape, dy)
    rnnfast.optim.clip_grad_norm(grads.params, 1.0)
    optimizer.step(grads.params)
    return loss
