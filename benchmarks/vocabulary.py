"""An update of a model of ids, with sparse gradients and without: ``python -m benchmarks.vocabulary``.

A step is forward, backward, clipping to a norm, and Adam, on new ids each time. Two models: an LSTM that takes ids, and
an Embedding before an LSTM. Beside them PyTorch's Embedding(sparse=True) and LSTM with SparseAdam and Adam, if it is
installed. The kinds are run in turn; printed are the medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from rnnfast import LSTM, Embedding, Model, optim, set_num_threads, show_config


class Ours:
    """A model of ours and its optimiser."""

    def __init__(self, model):
        self.model, self.optimizer = model, optim.Adam(model.params)
        self.gradients, self.tape = model.params.zeros(), None

    def step(self, ids, dy):
        """One update."""
        _, _, self.tape = self.model.forward(ids, tape=self.tape)
        self.gradients.zero()
        self.model.backward(self.tape, dy, into=self.gradients, input_gradient=False)
        optim.clip_grad_norm(self.gradients, 1.0)
        self.optimizer.step(self.gradients)


class Torch:
    """PyTorch's embedding and layer. Its clipping does not take sparse gradients, so that of the layer is clipped."""

    def __init__(self, torch, count, hidden):
        self.torch, self.table = torch, torch.nn.Embedding(count, hidden, sparse=True)
        self.layer = torch.nn.LSTM(hidden, hidden)
        self.optimizers = torch.optim.SparseAdam(self.table.parameters()), torch.optim.Adam(self.layer.parameters())

    def step(self, ids, dy):
        """One update."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        y, _ = self.layer(self.table(self.torch.from_numpy(ids)))
        y.backward(self.torch.from_numpy(dy))
        self.torch.nn.utils.clip_grad_norm_(self.layer.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()


def kinds(count, hidden, threads):
    """What is compared, by name."""
    made = {
        "LSTM of ids": Ours(LSTM(count, hidden, rng=0)),
        "LSTM of ids, sparse": Ours(LSTM(count, hidden, sparse=True, rng=0)),
    }
    for name, sparse in (("Embedding, LSTM", False), ("Embedding, LSTM, sparse", True)):
        made[name] = Ours(Model(embed=Embedding(count, hidden, sparse=sparse, rng=0), rnn=LSTM(hidden, hidden, rng=0)))
    try:
        import torch
    except ImportError:
        return made
    torch.set_num_threads(threads)
    return made | {"PyTorch's Embedding, LSTM, sparse": Torch(torch, count, hidden)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[1_000, 10_000, 100_000], metavar="V")
    parser.add_argument("--steps", type=int, default=10, metavar="T")
    parser.add_argument("--batch", type=int, default=16, metavar="B")
    parser.add_argument("--hidden", type=int, default=32, metavar="H")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    set_num_threads(options.threads)
    show_config()
    rng = np.random.default_rng(0)
    shape = options.steps, options.batch
    dy = rng.standard_normal((*shape, options.hidden), np.float32)
    for count in options.vocabulary:
        made = kinds(count, options.hidden, options.threads)
        found = {name: [] for name in made}
        for _ in range(options.rounds + 2):  # the first take the memory
            ids = rng.integers(0, count, shape)
            for name, one in made.items():
                began = time.perf_counter()
                one.step(ids, dy)
                found[name].append(time.perf_counter() - began)
        for name, seconds in found.items():
            print(
                f"V={count} T={shape[0]} B={shape[1]} H={options.hidden} {name}: {median(seconds):.2f} ms", flush=True
            )


def median(seconds):
    """In milliseconds, of all but the first two."""
    return 1e3 * statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
