"""The benchmark suite: one table of rows, what each must reach, the peers beside us, and the clocks.

`rows` is the table; `work` the arrays of a row and the oracle's answers; `ours` and `peers` do the work; `measure`
times them (`memory` weighs them); `report` prints, saves and plots what came out. The command is `rnnfast bench`;
`benchmarks/` runs the same rows under pytest-benchmark. Nothing is timed before its answer has been compared with the
oracle's.
"""
