"""Training over epochs, decoding, and a look inside: on the device as on the host."""

from __future__ import annotations

import numpy as np

from rnnfast import GRU, LSTM, Dense, Model, data, decode, fit, losses, optim, training

RNG = np.random.default_rng(0)
SEQUENCES = [RNG.normal(size=(count, 3)).astype(np.float32) for count in (4, 3, 2, 4)]


def trained(device):
    """With accumulation, groups and a frozen part: parameters, losses, predictions."""
    model = Model(rnn=GRU(3, 4, rng=0, device=device), head=Dense(4, 2, rng=1, device=device))
    groups = {"head.bias": {"frozen": True}, "*bias*": {"weight_decay": 0.0, "lr_factor": 0.5}}
    optimizer = optim.AdamW(model.params, 1e-2, weight_decay=0.1, groups=groups)
    batches = data.Batches(SEQUENCES, [0, 1, 0, 1], batch_size=2, last_only=True)
    options = {"epochs": 2, "accumulate": 2, "clip_norm": 1.0, "metrics": {"accuracy": training.accuracy}}
    history = fit(model, losses.softmax_cross_entropy, optimizer, batches, validation=batches, **options)
    weights = model.params.device.to_host(model.params.flat)
    return weights, history.loss, history.validation_loss, np.stack(training.predict(model, batches))


def test_training_is_that_of_the_host():
    for ours, host in zip(trained("cuda"), trained("cpu"), strict=True):
        np.testing.assert_allclose(ours, host, rtol=1e-4, atol=1e-6)


def test_decoding_is_that_of_the_host():
    def init(name, shape, rng):
        return rng.normal(size=shape)

    def decoded(device):
        rnn = LSTM(5, 4, rng=0, init=init, device=device)
        model = Model(rnn=rnn, head=Dense(4, 5, rng=1, init=init, device=device))
        found = decode.beam(model, [1, 2], 3, width=2)
        series = decode.forecast(LSTM(3, 3, rng=0, device=device), SEQUENCES[0], 3)
        return decode.greedy(model, [[1, 2], [0, 3]], 4).ids, found.ids, found.scores, series

    for ours, host in zip(decoded("cuda"), decoded("cpu"), strict=True):
        np.testing.assert_allclose(ours, host, rtol=1e-5, atol=1e-6)


def test_the_inside_of_a_layer():
    ours, host = (GRU(3, 4, rng=0, device=device).inspect(SEQUENCES[0]) for device in ("cuda", "cpu"))
    for name, value in host.items():
        assert np.array_equal(ours[name], value)
