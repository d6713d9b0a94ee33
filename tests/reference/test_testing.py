"""Finite differences themselves, and the oracle's random parameters."""

from __future__ import annotations

import numpy as np
import pytest
from reference_problems import KINDS, close

from rnnfast import reference


def test_numerical_gradient_is_exact_for_polynomials_of_degree_four():
    x = np.array([[0.5, -1.0], [2.0, 0.0]])
    expected = 4 * x**3 - 3 * x**2 + 1
    close(reference.numerical_gradient(lambda v: float((v**4 - v**3 + v).sum()), x, eps=0.1), expected, 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_init_params(kind):
    gates = {"lstm": 4, "gru_after": 3, "gru_before": 3}.get(kind, 1)
    params = reference.init_params(kind, 5, 9, np.random.default_rng(0))
    shapes = {
        "weight_ih": (9 * gates, 5),
        "weight_hh": (9 * gates, 9),
        "bias_ih": (9 * gates,),
        "bias_hh": (9 * gates,),
    }
    assert {name: value.shape for name, value in params.items()} == shapes
    assert all((np.abs(value) <= 1 / 3).all() for value in params.values())
    assert set(reference.init_params(kind, 5, 9, np.random.default_rng(0), bias=False)) == {"weight_ih", "weight_hh"}
