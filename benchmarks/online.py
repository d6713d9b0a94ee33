"""Microseconds per learning step: ``python -m benchmarks.online``.

A step is everything that `Learner.step` does with a target, one stream: forward, traces, gradient, an SGD update. The
loss hands its target back as gradient. Beside it, one step of truncated backpropagation over one step and over 16,
each with an update. The fastest of several rounds is taken.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np

from rnnfast import GRU, LRU, LSTM, RNN, SRU, TBPTT, optim, set_num_threads, show_config

CASES = {
    "RNN snap1": (RNN, "snap1"),
    "GRU snap1": (GRU, "snap1"),
    "LSTM snap1": (LSTM, "snap1"),
    "LSTM rflo": (LSTM, "rflo"),
    "SRU rtrl": (SRU, "rtrl"),
    "LRU rtrl": (lambda *sizes, **options: LRU(*sizes, readout=False, **options), "rtrl"),
}


def handed_back(prediction, target, mask=None):
    """A loss that takes no time."""
    return 0.0, target


def fastest(call, rounds):
    """The least microseconds of a call."""
    call()
    began = time.perf_counter()
    call()
    count = max(1, int(0.1 / max(time.perf_counter() - began, 1e-6)))
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, (time.perf_counter() - began) / count)
    return best * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 128, 512], metavar="H")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    set_num_threads(1)
    show_config()
    rng = np.random.default_rng(0)
    for hidden in options.hidden:
        x = rng.standard_normal((16, 1, hidden)).astype(np.float32)
        dy = (1e-3 * rng.standard_normal((16, 1, hidden))).astype(np.float32)
        for name, (layer, method) in CASES.items():
            own = layer(hidden, hidden, rng=0)
            learner = own.learner(handed_back, optim.SGD(own.params, 1e-6), method=method)
            each = fastest(partial(learner.step, x[0], dy[0]), options.rounds)
            print(f"H={hidden:4d} {name:>11}: {each:8.1f} us, traces {learner.nbytes / 2**20:6.2f} MB", flush=True)
        for k2 in (1, 16):
            own = LSTM(hidden, hidden, rng=0)
            trainer = TBPTT(own, handed_back, optim.SGD(own.params, 1e-6), k1=1, k2=k2)
            for t in range(16):
                trainer.step(x[t : t + 1], dy[t : t + 1])
            each = fastest(partial(trainer.step, x[:1], dy[:1]), options.rounds)
            print(f"H={hidden:4d} {f'LSTM, TBPTT over {k2}':>11}: {each:8.1f} us", flush=True)


if __name__ == "__main__":
    main()
