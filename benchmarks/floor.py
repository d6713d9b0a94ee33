"""The floor table: inference and training of LSTM, GRU and Elman layers, ours, PyTorch's, and the measured FMA peak.

    python benchmarks/floor.py [--threads N] [--rounds N]

Prints GFLOP/s, the percentage of the FMA peak that the same process measures between the calls, the ratio to PyTorch,
and the largest error against the oracle (y for inference, all gradients for training).
"""

from __future__ import annotations

import argparse
import statistics

from harness import Work, alternate, assert_answers, facts, ours, pytorch

from rnnfast import _core

SIZES = ((100, 32, 128, 256), (100, 32, 64, 128), (1000, 16, 40, 128))
# Percent of the FMA peak that the first size must reach on one thread.
FLOOR = {("LSTM", False): 60, ("GRU", False): 60, ("LSTM", True): 45, ("GRU", True): 45}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    print(facts(arguments.threads))
    header = f"{'work':32} {'pass':9} {'ours':>7} {'PyTorch':>8} {'peak':>6}"
    print(f"{header}  GFLOP/s  {'% peak':>6} {'floor':>6} {'ratio':>6}  error")
    for size in SIZES:
        for cell in ("LSTM", "GRU", "RNN"):
            work = Work(cell, *size)
            errors = assert_answers(work)
            for training in (False, True):
                row(work, training, errors[training], arguments.threads, arguments.rounds)


def row(work: Work, training: bool, error: float, threads: int, rounds: int) -> None:
    peaks: list[float] = []
    calls = {"ours": ours(work, training, threads), "peak": lambda: peaks.append(_core.fma_peak())}
    peer = pytorch(work, training, threads)
    if peer:
        calls["PyTorch"] = peer
    seconds = alternate(calls, rounds)
    speed = {name: work.flop(training) / seconds[name] / 1e9 for name in seconds if name != "peak"}
    peak = statistics.median(peaks[1:]) * threads
    floor = FLOOR.get((work.cell, training)) if SIZES[0] == (work.T, work.B, work.I, work.H) and threads == 1 else None
    other = f"{speed['PyTorch']:8.1f}" if peer else "       -"
    ratio = f"{speed['ours'] / speed['PyTorch']:6.2f}" if peer else "     -"
    percent = 100 * speed["ours"] / peak
    mark = "" if floor is None or percent >= floor else "  BELOW THE FLOOR"
    print(
        f"{work.name:32} {'training' if training else 'inference':9} {speed['ours']:7.1f} {other} {peak:6.1f}"
        f"           {percent:5.0f}% {f'{floor}%' if floor else '-':>6} {ratio}  {error:.1e}{mark}",
        flush=True,
    )


if __name__ == "__main__":
    main()
