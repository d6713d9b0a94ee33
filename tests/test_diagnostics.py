"""How gradients shrink and grow with the distance in time, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from registry import FUSED, assert_close, make_layer

from rnnfast import GRU, LSTM, RNN, Model, _core, reference
from rnnfast.tbptt import gradient_norm_by_distance

T, B, I, H = 13, 4, 3, 5  # noqa: E741


def data(dtype=np.float64):
    return np.random.default_rng(0).standard_normal((T, B, I)).astype(dtype)


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("batch_first", [False, True])
def test_gradient_norms_are_those_of_the_oracle(kind, batch_first):
    layer = make_layer(kind, I, H, isa=_core.isa(), dtype=np.float64, batch_first=batch_first, rng=1)
    x = data()
    rng = np.random.default_rng(1)
    dy_last = rng.standard_normal((B, H))
    h = rng.standard_normal((1, B, H))
    state = (h, h.copy()) if kind == "lstm" else h
    norms = gradient_norm_by_distance(layer, x.swapaxes(0, 1) if batch_first else x, dy_last, state)
    expected = [np.linalg.norm(dy_last)]
    for t in reversed(range(1, T)):
        before = reference.stack_forward(kind, dict(layer.params), x[:t], state)
        rest = reference.stack_forward(kind, dict(layer.params), x[t:], before.state)
        dy = np.zeros_like(rest.y)
        dy[-1] = dy_last
        dh = reference.stack_backward(rest, dy).dstate
        expected.append(np.linalg.norm(dh[0] if kind == "lstm" else dh))
    assert_close(norms, np.array(expected), 1e-11)


def test_gradients_vanish_and_explode():
    for scale, grows in ((0.3, False), (3.0, True)):
        layer = RNN(I, H, nonlinearity="relu", dtype=np.float64, rng=1)
        layer.update({"weight_hh_l0": scale * np.eye(H), "bias_ih_l0": np.ones(H)})
        norms = gradient_norm_by_distance(layer, np.zeros((20, 2, I)), np.ones((2, H)))
        np.testing.assert_allclose(norms, norms[0] * scale ** np.arange(20), rtol=1e-10)
        assert (norms[-1] > norms[0]) == grows


def test_gradient_norms_leave_no_trace():
    layer = LSTM(I, H, 2, dropout=0.5, rng=0)
    x = data(np.float32)
    generator, version = layer.rng.bit_generator.state, layer.params.version
    norms = gradient_norm_by_distance(layer, x, np.ones((B, H)))
    assert norms.shape == (T,)
    assert layer.rng.bit_generator.state == generator
    assert layer.params.version == version
    assert gradient_norm_by_distance(layer, x[:, 0], np.ones(H)).shape == (T,)
    ids = np.zeros((T, B), int)
    assert gradient_norm_by_distance(layer, ids, np.ones((B, H))).shape == (T,)


def test_gradient_norm_arguments():
    x = data()
    with pytest.raises(TypeError, match=r"layer: expected a Recurrent \(RNN, LSTM, GRU, ...\), got Model"):
        gradient_norm_by_distance(Model(rnn=GRU(I, H)), x, np.ones((B, H)))
    with pytest.raises(ValueError, match="layer: expected layers that only run forwards"):
        gradient_norm_by_distance(GRU(I, H, bidirectional=True), x, np.ones((B, H)))
    for given, wrong in ((x, (B, H + 1)), (x[:1], (B, 1)), (x[:, 0], (B, H)), (x[:1, 0], ())):
        with pytest.raises(ValueError, match="dy_last: expected shape"):
            gradient_norm_by_distance(GRU(I, H), given, np.ones(wrong))
    for bad in (0.5, x[..., :2], x[0, 0]):
        with pytest.raises(ValueError, match="x: expected"):
            gradient_norm_by_distance(GRU(I, H), bad, np.ones((B, H)))
