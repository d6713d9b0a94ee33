"""What cells ask for as their initial values."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast.description.cells import CATALOGUE
from rnnfast.description.cells.indrnn import IndRNN
from rnnfast.description.cells.lru import LRU
from rnnfast.description.cells.lstm import LSTM
from rnnfast.description.cells.rglru import RGLRU
from rnnfast.description.cells.sru import SRU


def initial(cell, name, shape, seed=0):
    return cell.initial(name, shape, np.random.default_rng(seed))


def test_indrnn_remembers_and_does_not_grow():
    u = initial(IndRNN(), "u", (500,))
    assert 0.0 <= u.min() < 0.05 and 0.95 < u.max() <= 1.0
    assert initial(IndRNN(), "weight_ih", (5, 3)) is None


def test_rglru_decays_between_0_9_and_0_999():
    decay = initial(RGLRU(), "decay", (1000,))
    power = (1.0 / (1.0 + np.exp(-decay))) ** 8
    assert 0.9 <= power.min() < 0.901 and 0.998 < power.max() <= 0.999
    assert abs(power.mean() - 0.9495) < 0.004  # uniform: its standard deviation over 1000 is 0.0009


def test_lru_starts_in_the_ring_and_normalised():
    cell = LRU()
    nu, theta, gamma = (initial(cell, name, (64,)) for name in ("nu_log", "theta_log", "gamma_log"))
    radius = np.exp(-np.exp(nu))
    assert radius.min() == pytest.approx(0.9) and radius.max() == pytest.approx(0.999)
    np.testing.assert_allclose(np.exp(gamma), np.sqrt(1.0 - radius**2), rtol=1e-12)
    assert np.exp(theta).min() > 0.0 and np.exp(theta).max() <= np.pi / 10
    b = initial(cell, "weight_ih", (3 * 64, 50))
    assert b[:128].var() == pytest.approx(0.5 / 50, rel=0.1)
    assert b[128:].var() == pytest.approx(1.0 / 50, rel=0.1)
    assert initial(cell, "weight_re", (64, 64)).var() == pytest.approx(1.0 / 64, rel=0.1)


@pytest.mark.parametrize(("cell", "block", "blocks"), [(SRU(), 3, 4), (RGLRU(), 2, 3)])
def test_a_product_in_x_s_place_starts_as_x(cell, block, blocks):
    square = initial(cell, "weight_ih", (blocks * 6, 6)).reshape(blocks, 6, 6)
    wide = initial(cell, "weight_ih", (blocks * 6, 60)).reshape(blocks, 6, 60)
    np.testing.assert_array_equal(square[block], np.eye(6))
    for values in (np.delete(square, block, axis=0), wide):
        assert np.abs(values).max() <= np.sqrt(3.0 / values.shape[-1])
        assert np.abs(values).max() > 0.8 * np.sqrt(3.0 / values.shape[-1])
    assert not initial(cell, "bias_ih", (blocks * 6,)).any()


def test_gains_one_shifts_and_peepholes_zero():
    cell = LSTM(layer_norm=True, peephole=True)
    for vector in cell.vectors:
        value = initial(cell, vector.name, (7,))
        assert value is not None and (value == (1.0 if vector.name.startswith("gain") else 0.0)).all(), vector.name


@pytest.mark.parametrize("name", CATALOGUE)
def test_shapes_and_seeds(name):
    cell = CATALOGUE[name]
    sizes = {"hidden": 2 * cell.heads, **cell.widths}
    program = cell.program()
    for parameter in program.parameters:
        rows = parameter.blocks * sizes[program.domains[parameter.domain]]
        columns = {None: (), -1: (3,)}.get(parameter.columns)
        if columns is None:
            columns = (sizes[program.domains[parameter.columns]] // parameter.heads,)
        first, again = (initial(cell, parameter.name, (rows, *columns), seed=5) for _ in range(2))
        if first is not None:
            assert first.shape == (rows, *columns) and np.isfinite(first).all(), parameter.name
            np.testing.assert_array_equal(first, again)
