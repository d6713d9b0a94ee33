"""What is checked and measured where a GPU is at hand: ``python -m benchmarks.gpu``, from the root of a checkout.

It takes this checkout, CuPy, numba-cuda and, for the peers, PyTorch. No build: without the package's
compiled kernels it drives `rnnfast.cuda.kernel.Kernel`, which all layers on the device run, and leaves the public
layers out.

`environment` finds the package and says what is missing; `problems` are calls on random data with the oracle's answers,
`cases` the table of those that are checked, `checks` and `public` check them; `rows` is the table of what is timed,
`contestants` do the work, `timings` has the device's clock; `stages` does all that in processes and keeps a line of
each item; `report` prints. What rows, turns and verdicts are is said once for the CPU and for this, in
`rnnfast.bench.core`, which imports nothing that is compiled.
"""
