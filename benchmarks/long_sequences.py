"""Training on sequences longer than memory, beside the plain pass: ``python -m benchmarks.long_sequences``.

LSTM layers in float32, forward and backward, dx left out. The two are run in turn, and the median of the rounds is
taken; the gradients are compared bit by bit. "Tape" is what forward leaves for backward, without x and y, which are the
caller's.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from rnnfast import LSTM, set_num_threads, show_config

MB = 2**20


def training(layer, x, dy, out, **options):
    """The seconds, the tape and the gradients of one call."""
    began = time.perf_counter()
    _, _, tape = layer.forward(x, out=out, **options)
    gradients = layer.backward(tape, dy, input_gradient=False).params
    return time.perf_counter() - began, tape, np.array(gradients.flat)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[20_000, 100_000], metavar="T")
    parser.add_argument("--batch", type=int, default=8, metavar="B")
    parser.add_argument("--hidden", type=int, default=256, metavar="H")
    parser.add_argument("--features", type=int, default=64, metavar="I")
    parser.add_argument("--layers", type=int, default=1, metavar="L")
    parser.add_argument("--memory", type=int, nargs="+", default=[256], metavar="MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    set_num_threads(options.threads)
    show_config()
    rng = np.random.default_rng(0)
    layer = LSTM(options.features, options.hidden, options.layers, rng=0)
    for steps in options.steps:
        x = rng.standard_normal((steps, options.batch, options.features), np.float32)
        dy = rng.standard_normal((steps, options.batch, options.hidden), np.float32)
        kinds = {"plain": {}} | {
            f"within {megabytes} MB": {"recompute": "auto", "memory": megabytes * MB} for megabytes in options.memory
        }
        out = np.empty_like(dy)
        found = {name: [training(layer, x, dy, out, **how)] for name, how in kinds.items()}  # takes the memory
        for _ in range(options.rounds):
            for name, how in kinds.items():
                found[name].append(training(layer, x, dy, out, tape=found[name][0][1], **how))
        plain = statistics.median(seconds for seconds, _, _ in found["plain"][1:])
        for name, rounds in found.items():
            seconds = statistics.median(one for one, _, _ in rounds[1:])
            same = all(np.array_equal(found["plain"][0][2], one) for _, _, one in rounds)
            what = f"T={steps} B={options.batch} H={options.hidden} L={options.layers} {name}"
            print(
                f"{what}: tape {rounds[0][1].nbytes / MB:.0f} MB, "
                f"{seconds:.2f} s, {seconds / plain:.2f} of plain, bits {'equal' if same else 'NOT EQUAL'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
