"""Gates far beyond what training should bring: the cells stay finite, forward and backward, and right."""

from __future__ import annotations

import numpy as np
import pytest
from cells.problems import Problem, hidden_size

from rnnfast.description.cells import CATALOGUE
from rnnfast.description.cells.mingru import MinLSTM
from rnnfast.description.cells.rglru import RGLRU
from rnnfast.description.cells.slstm import SLSTM

SIZES = {"T": 3, "B": 2, "input_size": 2, "hidden_size": 3, "mask": "none"}


def with_biases(cell, **gates):
    """A problem whose gates are the numbers given, and 0.3 those that are not."""
    problem = Problem(cell, **SIZES)
    names = [gate if isinstance(gate, str) else gate.name for gate in cell.gates]
    for name, value in problem.params.items():
        value[:] = np.repeat([gates.get(gate, 0.3) for gate in names], 3) if name == "bias_ih" else 0.0
    return problem


def finite(problem):
    result = problem.forward()
    gradients = problem.backward(result)
    arrays = [result.y, *result.state, gradients.dx, *gradients.dstate, *gradients.params.values()]
    assert all(np.isfinite(array).all() for array in arrays)
    return result


@pytest.mark.parametrize("i", [-900.0, 0.3, 900.0])
@pytest.mark.parametrize("f", [-900.0, 0.3, 900.0])
@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
def test_slstm_s_first_step_is_its_candidate(i, f, forget):
    """From zero states c / n is tanh(z) after one step, whatever the exponential gates are; and a mean of such later."""
    problem = with_biases(SLSTM(forget=forget), i=i, f=f)
    problem.state = tuple(np.zeros_like(value) for value in problem.state)
    expected = np.tanh(0.3) / (1.0 + np.exp(-0.3))
    np.testing.assert_allclose(finite(problem).y, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("f", "i", "kept"), [(-900.0, -900.0, 0.5), (-900.0, -901.0, 0.7310585786300049), (900.0, 900.0, 0.5)]
)
def test_minlstm_shares_even_what_underflows(f, i, kept):
    problem = with_biases(MinLSTM(), f=f, i=i, n=2.0)
    result = finite(problem)
    np.testing.assert_allclose(result.outputs[0][0], kept * problem.state[0] + (1.0 - kept) * 2.0, rtol=1e-12)


@pytest.mark.parametrize("r", [-900.0, 0.3, 900.0])
@pytest.mark.parametrize("decay", [-50.0, 3.0, 900.0])
def test_rglru_between_no_memory_and_no_decay(r, decay):
    problem = with_biases(RGLRU(), r=r)
    problem.params["decay"][:] = decay
    result = finite(problem)
    if r < 0.0 or decay > 100.0:  # a = 1
        np.testing.assert_allclose(result.y, np.broadcast_to(problem.state[0], result.y.shape), atol=1e-5)


@pytest.mark.parametrize("name", CATALOGUE)
def test_large_inputs(name):
    """x of the size 1000 saturates gates; nothing overflows, except where a cell is linear or relu and may grow."""
    cell = CATALOGUE[name]
    problem = Problem(cell, T=4, B=2, input_size=2, hidden_size=hidden_size(cell), mask="none")
    problem.x *= 1000.0
    finite(problem)
