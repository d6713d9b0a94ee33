"""The generic oracle against the six cells written by hand, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
from reference.formulas import FORMULAS
from reference_problems import close

from rnnfast import reference

T, B, I, H = 6, 5, 4, 7  # noqa: E741


@pytest.mark.parametrize("kind", FORMULAS)
def test_layer_equals_a_loop_over_the_formulas(kind):
    rng = np.random.default_rng(40)
    formula = FORMULAS[kind]
    params = {name: 2 * value for name, value in reference.init_params(kind, I, H, rng).items()}
    x = rng.normal(size=(T, B, I))
    state = tuple(rng.normal(size=(B, H)) for _ in range(1 + formula.has_c))
    result = reference.forward(kind, params, x, *state)
    dy, *dstate = (rng.normal(size=array.shape) for array in (result.y, *result.state))
    gradients = reference.backward(result, dy, *dstate)

    saved, weight_hh, bias_hh = [], params["weight_hh"], params["bias_hh"]
    for t in range(T):
        a = x[t] @ params["weight_ih"].T + params["bias_ih"]
        state, kept = formula.step(a, state, weight_hh, bias_hh)
        saved.append(kept)
        for number, part in enumerate(state):
            close(result.outputs[number][t], part, 1e-15)
    dparams = {name: np.zeros_like(value) for name, value in params.items()}
    for t in reversed(range(T)):
        step = formula.step_backward(saved[t], weight_hh, (dstate[0] + dy[t], *dstate[1:]))
        dstate = step.dstate_prev
        close(gradients.dx[t], step.da @ params["weight_ih"], 1e-13)
        dparams["weight_ih"] += step.da.T @ x[t]
        dparams["weight_hh"] += step.dweight_hh
        dparams["bias_ih"] += step.da.sum(axis=0)
        dparams["bias_hh"] += step.dbias_hh
    for actual, part in zip(gradients.dstate, dstate, strict=True):
        close(actual, part, 1e-13)
    for name, value in dparams.items():
        close(gradients.params[name], value, 1e-13)
