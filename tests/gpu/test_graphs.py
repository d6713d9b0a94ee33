"""Models of many parts on the simulated device, against the same models on the host."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast import GRU, LSTM, Add, Concat, Dense, Dropout, Embedding, LayerNorm, Model, Pool
from rnnfast.cuda import arrays


def many_parts(**options):
    return Model(
        norm=LayerNorm(4, **options),
        drop=Dropout(0.0),
        rnn=GRU(4, 6, rng=0, **options),
        sum=Add(),
        both=Concat(),
        pool=Pool("mean"),
        head=Dense(16, 2, activation="silu", rng=1, **options),
        inputs={"sum": ("rnn", "rnn"), "both": ("sum", "norm", "rnn")},
    )


def largest(**options):
    layer = LSTM(4, 6, rng=0, **options)
    return Model(rnn=layer, pool=Pool("max"), head=Dense(6, 2, activation="softplus", rng=1, **options))


def last_of_both(**options):
    layer = LSTM(4, 6, rng=0, bidirectional=True, **options)
    pool, head = Pool("last", bidirectional=True), Dense(12, 2, activation="elu", rng=1, **options)
    return Model(rnn=layer, pool=pool, head=head)


def two_heads(**options):
    heads = {"p": Dense(6, 2, activation="relu", rng=1, **options), "v": Dense(6, 1, rng=2, **options)}
    return Model(rnn=LSTM(4, 6, rng=0, **options), **heads, inputs={"v": "rnn"})


def siamese(**options):
    layers = {"a": LSTM(4, 6, rng=0, **options), "b": LSTM(4, 6, rng=1, **options)}
    wiring = {"a": "x.a", "b": ("x.b", "a.state")}
    return Model(**layers, head=Dense(6, 2, rng=2, **options), inputs=wiring, tied={"b": "a"})


def as_dict(value):
    return value if isinstance(value, dict) else {"": value}


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("make", [many_parts, largest, last_of_both, two_heads, siamese])
def test_they_are_the_host_s(make, direct):
    def put(value):
        if isinstance(value, dict):
            return {name: put(one) for name, one in value.items()}
        return arrays.to_device(value) if direct else value

    host, device = make(), make(device="cuda")
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    lengths = np.array([4, 0, 2])
    if make is siamese:
        x, lengths = {"a": x, "b": x[:4].copy()}, {"a": lengths, "b": lengths}
    y, _, tape = host.forward(x, lengths=lengths)
    found, _, found_tape = device.forward(put(x), lengths=put(lengths))
    for name, value in as_dict(y).items():
        np.testing.assert_allclose(np.asarray(as_dict(found)[name]), value, atol=1e-6)
    dy = {name: np.ones_like(value) for name, value in y.items()} if isinstance(y, dict) else np.ones_like(y)
    grads, of_device = host.backward(tape, dy), device.backward(found_tape, put(dy))
    scale = np.abs(grads.params.flat).max()
    np.testing.assert_allclose(np.asarray(of_device.params.flat), grads.params.flat, atol=1e-6 * scale)
    for name, value in as_dict(grads.x).items():
        np.testing.assert_allclose(np.asarray(as_dict(of_device.x)[name]), value, atol=1e-6)


def test_what_is_on_the_host_alone():
    with pytest.raises(ValueError, match="device: expected 'cpu', where an Embedding must lie"):
        Embedding(3, 4, device="cuda")
    with pytest.raises(ValueError, match=r"activation: expected one of .* with device='cuda', got 'gelu'"):
        Dense(3, 4, activation="gelu", device="cuda")
    with pytest.raises(ValueError, match="rnn: expected device cpu as embed has, got cuda"):
        Model(embed=Embedding(3, 4), rnn=LSTM(4, 6, device="cuda"))
    with pytest.raises(ValueError, match="stream: expected a model on the host"):
        largest(device="cuda").stream()
