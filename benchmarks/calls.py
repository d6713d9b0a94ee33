"""Microseconds of calls in which the kernels have next to nothing to do: ``python -m benchmarks.calls``.

``--against TREE`` runs the same calls in a process of another tree's package, which has its compiled modules beside it
(as a build in place leaves them), in turn with those of this one. Printed are the medians of the
rounds, one thread, in CPU time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

TURN = 0.02
"""Seconds of one turn."""


def calls():
    """What is measured, by name."""
    import numpy as np

    from rnnfast import GRU, LSTM, TBPTT, Dense, LSTMCell, Model, losses, optim

    layer, one = LSTM(1, 1, rng=0), np.ones((1, 1, 1), np.float32)
    gru, state, dy = GRU(32, 32, rng=0), np.zeros((1, 4, 32), np.float32), np.ones((8, 4, 32), np.float32)
    x, lengths = np.ones((8, 4, 32), np.float32), np.array([8, 3, 1, 8])
    head, cell = Dense(4, 4, rng=0), LSTMCell(1, 1, rng=0)
    zeros, step, rows = (np.zeros((1, 1), np.float32),) * 2, np.ones((1, 1), np.float32), np.ones((2, 4), np.float32)
    model = Model(rnn=LSTM(32, 64, 2, rng=0), head=Dense(64, 8, rng=0))
    series = np.ones((50, 1, 32), np.float32)
    small = Model(rnn=GRU(4, 4, rng=0), head=Dense(4, 4, rng=0))
    trainer = TBPTT(small, losses.softmax_cross_entropy, optim.Adam(small.params, 1e-3), k1=4, k2=4, clip_norm=1.0)
    ids = np.zeros((4, 2), np.int64)
    kept = {}

    def train():
        _, _, kept["layer"] = layer.forward(one, tape=kept.get("layer"))
        layer.backward(kept["layer"], one)

    def train_model():
        y, _, kept["model"] = small.forward(ids, tape=kept.get("model"))
        small.backward(kept["model"], y)

    return {
        "layer": lambda: layer(one),
        "layer, ragged, with a state": lambda: gru(x, state, lengths=lengths),
        "layer, out=": lambda: gru(x, state, out=dy),
        "layer, forward and backward": train,
        "cell": lambda: cell(step, zeros),
        "head": lambda: head(rows),
        "model of 2 layers and a head, T=50": lambda: model(series),
        "model, forward and backward": train_model,
        "TBPTT, an update": lambda: trainer.step(ids, ids),
    }


def work():
    """Answer each line, a name and how often to call it, with the seconds that took."""
    import rnnfast

    rnnfast.set_num_threads(1)
    known = calls()
    print(json.dumps(list(known)), flush=True)
    for line in sys.stdin:
        name, count = json.loads(line)
        call = known[name]
        call()
        began = time.process_time()
        for _ in range(count):
            call()
        print(json.dumps(time.process_time() - began), flush=True)


class Worker:
    """A process that makes the calls of one tree's package; None is the one that this process would import."""

    def __init__(self, tree):
        path = [str(tree)] if tree else []
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-P", str(Path(__file__).resolve()), "--worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.names = self._answer()

    def _answer(self):
        return json.loads(self.process.stdout.readline())

    def seconds(self, name, count):
        """What so many calls take."""
        print(json.dumps([name, count]), file=self.process.stdin, flush=True)
        return self._answer()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only calls with one of these in their names")
    parser.add_argument("--against", type=Path, metavar="TREE")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work()
    trees = {"here": None} | ({"there": options.against.resolve()} if options.against else {})
    workers = {column: Worker(tree) for column, tree in trees.items()}
    print(f"{'microseconds':<40}" + "".join(f"{column:>10}" for column in workers))
    for name in workers["here"].names:
        if options.words and not any(word in name for word in options.words):
            continue
        counts = {column: max(1, round(TURN * 100 / worker.seconds(name, 100))) for column, worker in workers.items()}
        rounds = [
            {c: worker.seconds(name, counts[c]) / counts[c] for c, worker in workers.items()}
            for _ in range(options.rounds)
        ]
        medians = [statistics.median(one[column] for one in rounds) * 1e6 for column in workers]
        print(f"{name:<40}" + "".join(f"{median:10.2f}" for median in medians), flush=True)
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()
    return None


if __name__ == "__main__":
    main()
