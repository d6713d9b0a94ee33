"""Scaling over ranks: ``mpiexec -n 2 python -m benchmarks.ranks``, and the same with ``-n 1``.

Each rank has one thread. "characters" is the command line's character model; "wide" an LSTM of 512 units with 128 rows.
Strong scaling has the same batch for any number of ranks, weak scaling a batch that grows with them. The times are rank
0's, of one update: compute (its shards' gradients), wait (for the slowest), reduce (the sum, and gathering it), update.

``python -m benchmarks.ranks --model MS MB UPDATE``, without MPI: what more ranks would make of it, from the measured
milliseconds of compute for a row, the gradient's size and the milliseconds of an update, on networks of stated figures.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from rnnfast import LSTM, TBPTT, Dense, Model, losses, optim, set_num_threads
from rnnfast.distributed import DataParallel, world

CASES = {  # rows, features (or characters), units, window
    "characters": (16, 103, 256, 64),
    "wide": (128, 64, 512, 32),
}


NETWORKS = {"InfiniBand, 2 us, 12 GB/s": (2e-6, 12e9), "Ethernet, 30 us, 1.2 GB/s": (30e-6, 1.2e9)}


def modelled(ranks, rows, compute, size, update, latency, bandwidth):
    """The efficiency of an update, against one rank that has all rows: what a rank computes, by all that it does.

    Each rank sends and receives every other's slice of the gradient, then all slices go round: twice ``ranks - 1``
    messages and twice the gradient. Before that the ranks agree, which is a gathering of a few bytes.
    """
    agreement = 2 * latency * np.log2(ranks)
    reduction = 2 * (ranks - 1) * latency + 2 * size * (ranks - 1) / ranks / bandwidth
    return rows * compute / (rows * compute + update + agreement + reduction)


def print_model(compute, megabytes, update):
    """A table: ranks down, rows of a rank across."""
    for name, network in NETWORKS.items():
        print(f"{name}; {compute} ms a row, {megabytes} MB, update {update} ms")
        print("| ranks | 1 row each | 8 | 64 |\n|---|---|---|---|")
        for ranks in (16, 64, 256, 1024):
            found = [
                modelled(ranks, rows, compute / 1e3, megabytes * 2**20, update / 1e3, *network) for rows in (1, 8, 64)
            ]
            print(f"| {ranks} | {' | '.join(f'{one:.0%}' for one in found)} |")


def trainer_of(name, rows):
    """A trainer, and a window for it."""
    _, features, hidden, window = CASES[name]
    rng = np.random.default_rng(0)
    model = Model(rnn=LSTM(features, hidden, rng=0), head=Dense(hidden, features, rng=1))
    ids = name == "characters"
    loss = losses.softmax_cross_entropy if ids else losses.mean_squared_error
    trainer = TBPTT(model, loss, optim.Adam(model.params, 1e-3), k1=window, clip_norm=1.0)
    if ids:
        return trainer, rng.integers(0, features, (2, window, rows))
    return trainer, rng.standard_normal((2, window, rows, features)).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--model", type=float, nargs=3, metavar=("MS", "MB", "UPDATE"))
    options = parser.parse_args()
    if options.model:
        print_model(*options.model)
        return
    set_num_threads(1)
    comm = world()
    for name in options.cases:
        rows = CASES[name][0]
        for scaling in ("strong", "weak"):
            batch = rows * (comm.Get_size() if scaling == "weak" else 1)
            trainer, (x, target) = trainer_of(name, batch)
            shards = max(options.shards, comm.Get_size()) * (comm.Get_size() if scaling == "weak" else 1)
            parallel = DataParallel(trainer, comm, shards=shards)
            parallel.step(x, target)
            best, parts = float("inf"), {}
            for _ in range(options.rounds):
                parallel.seconds.update(dict.fromkeys(parallel.seconds, 0.0))
                comm.Barrier()
                began = time.perf_counter()
                for _ in range(options.updates):
                    parallel.step(x, target)
                each = (time.perf_counter() - began) / options.updates
                if each < best:
                    best = each
                    parts = {part: 1e3 * spent / options.updates for part, spent in parallel.seconds.items()}
            if comm.Get_rank() == 0:
                listed = ", ".join(f"{part} {spent:.2f}" for part, spent in parts.items())
                size = parallel._params.size * 4 / 2**20
                what = f"{comm.Get_size()} ranks, {batch} rows in {shards} shards, gradient {size:.1f} MB"
                print(f"{name} {scaling}: {what}: {1e3 * best:.2f} ms an update ({listed})", flush=True)


if __name__ == "__main__":
    main()
