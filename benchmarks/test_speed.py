"""Our own rows under pytest-benchmark, for comparing two commits: ``pytest benchmarks --benchmark-compare``.

Rows are chosen as for `rnnfast bench`, which compares them with the peers: ``pytest benchmarks --rows forward/lstm``.
Every case asserts its answer before it is timed. Short calls are made many at a time, a number that depends on the row
alone, so that the times of two commits can be compared.
"""

from __future__ import annotations

from rnnfast.bench.measure import contestants, verify
from rnnfast.bench.peers import limited
from rnnfast.bench.rows import Row


def test_row(benchmark, row: Row, threads: int) -> None:
    calls = int(min(5000, max(1, 1e8 / row.flop)))
    with limited(threads):
        ours = contestants(row, threads, ["ours"])
        errors = verify(row, ours)
        benchmark.extra_info.update(error=errors["ours"], calls=calls, flop=row.flop * calls)
        benchmark.pedantic(ours["ours"].loop, args=(calls,), rounds=9, warmup_rounds=1)
