"""The same work under pytest-benchmark, for comparing two commits: ``pytest benchmarks --benchmark-compare``.

Every case asserts its answer before it is timed (harness.assert_answers).
"""

from __future__ import annotations

import pytest
from harness import Work, assert_answers, ours

WORKS = [Work(cell, *size) for cell in ("LSTM", "GRU", "RNN") for size in ((100, 32, 128, 256), (100, 1, 64, 64))]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name.replace(" ", "-"))
def test_layer(benchmark, work: Work, training: bool, threads: int) -> None:
    errors = assert_answers(work)
    benchmark.extra_info.update(error=errors[training], gflop=work.flop(training) / 1e9)
    benchmark(ours(work, training, threads))
