"""What is checked and measured where a GPU is at hand: ``python -m benchmarks.gpu``, from the root of a checkout.

It takes this checkout, NumPy below 2.5, CuPy, numba-cuda and, for the peers, PyTorch. No build: without the package's
compiled kernels it drives `rnnfast.cuda.kernel.Kernel`, which all layers on the device run, and leaves the public
layers out.

`environment` finds the package and says what is missing; `problems` are calls on random data with the oracle's answers,
`cases` the table of those that are checked, `checks` runs them; `rows` is the table of what is timed, `contestants` do
the work, `timings` has the clock; `report` prints.

Rejected: the CPU's suite with a column for the GPU (its clock reads the host's, and it can't be imported where nothing
is compiled).
"""
