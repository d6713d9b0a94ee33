"""Your own cell: describe one step in fifteen lines, train it, stream it.

`Slow` is a gated cell with a second, slow state: a running average of h, each unit at a rate that it learns. Nobody has
published it. From the description below follow the kernels, forward and backward, masks, streams and checkpoints; there
is nothing to compile.

The task is the adding problem (Hochreiter & Schmidhuber 1997): a sequence of random numbers, two of them marked; the
target, after the last step, is the sum of the marked ones. Who always answers 1 has a mean squared error of 1/6.

    python examples/your_own_cell.py --plot adding.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import rnnfast
from rnnfast.description import Cell, Vector
from rnnfast.description.functions import lerp, sigmoid, tanh

STEPS, ROWS, UNITS, UPDATES, LR = 30, 64, 32, 1200, 1e-2


class Slow(Cell):
    """A gated cell that also remembers slowly.

    ::

        z = sigmoid(W_z x + b_iz + U_z h_prev + b_hz)
        s = s_prev + sigmoid(rate) * (h_prev - s_prev)
        h = z * h_prev + (1 - z) * tanh(W_n x + b_in + U_n h_prev + b_hn + gain * s)
    """

    name = "slow"
    states = ("h", "s")
    gates = ("z", "n")
    vectors = (Vector("rate", initial=-2.0), Vector("gain", initial=1.0))

    def step(self, gate, state, vector):
        s = lerp(sigmoid(vector.rate), state.h, state.s)
        h = lerp(sigmoid(gate.z), state.h, tanh(gate.n + vector.gain * s))
        return h, s


def batch(rng, rows=ROWS):
    """Numbers and marks [T, B, 2], and the sums of the marked numbers [B, 1]."""
    numbers, marks = rng.random((STEPS, rows)), np.zeros((STEPS, rows))
    first, second = rng.integers(0, STEPS // 2, rows), rng.integers(STEPS // 2, STEPS, rows)
    for place in (first, second):
        marks[place, np.arange(rows)] = 1.0
    x = np.stack([numbers, marks], axis=2).astype(np.float32)
    return x, (numbers * marks).sum(axis=0)[:, None].astype(np.float32)


def train(layer, head, rng):
    """Adam on the error after the last step; the errors, one per update."""
    optimizers = [rnnfast.optim.Adam(part.params, LR) for part in (layer, head)]
    errors = []
    for _ in range(UPDATES):
        x, target = batch(rng)
        y, _, tape = layer.forward(x, last_only=True)
        answer, head_tape = head.forward(y)
        error, d_answer = rnnfast.losses.mean_squared_error(answer, target)
        head_grads = head.backward(head_tape, d_answer)
        grads = layer.backward(tape, head_grads.x)
        rnnfast.optim.clip_grad_norm(grads.params, 1.0)
        for optimizer, gradients in zip(optimizers, (grads.params, head_grads.params), strict=True):
            optimizer.step(gradients)
        errors.append(error)
    return errors


def stream_error(layer, head, x, target):
    """The same answer step by step, as a program would that gets one number at a time."""
    stream = layer.stream(batch_size=x.shape[1])
    for x_t in x:
        y = stream.step(x_t)
    return float(np.mean((head(y) - target) ** 2))


def plot(path, errors):
    """Draw the errors while training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="update", ylabel="mean squared error", title="The adding problem", yscale="log")
    axes.plot(errors, "C0-", label="Slow")
    axes.axhline(1 / 6, color="k", linestyle=":", label="always 1")
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main():
    """Train, test, stream."""
    parser = argparse.ArgumentParser(description="Train a cell of one's own on the adding problem.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot (needs rnnfast[plot])")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    layer = rnnfast.Recurrent(Slow(), 2, UNITS, rng=rng)
    head = rnnfast.Dense(UNITS, 1, rng=rng)
    errors = train(layer, head, rng)
    x, target = batch(rng, rows=500)
    y, _ = layer(x, last_only=True)
    print(f"mean squared error on 500 new sequences: {np.mean((head(y) - target) ** 2):.4f} (always 1: {1 / 6:.4f})")
    print(f"the same as a stream, step by step:      {stream_error(layer, head, x, target):.4f}")
    if arguments.plot is not None:
        plot(arguments.plot, errors)


if __name__ == "__main__":
    main()
