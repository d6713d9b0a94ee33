"""Whole layers on the real kernels of the simulated device, against the same layers on the host."""

from __future__ import annotations

import numpy as np
import pytest
from numba.cuda.simulator.kernel import FakeCUDAKernel

import rnnfast
from rnnfast import _recompute
from rnnfast.cuda import arrays, kernel, persistent
from rnnfast.cuda.plan import Partition, Plan

T, B, I, H = 3, 2, 3, 4  # noqa: E741
MAKE = {
    "elman_relu": lambda **options: rnnfast.RNN(I, H, nonlinearity="relu", rng=0, **options),
    "lstm": lambda **options: rnnfast.LSTM(I, H, rng=0, **options),
    "gru_after": lambda **options: rnnfast.GRU(I, H, rng=0, **options),
    "gru_before": lambda **options: rnnfast.GRU(I, H, reset_after=False, rng=0, **options),
}


def close(found, expected, bound):
    if isinstance(expected, tuple):
        for pair in zip(found, expected, strict=True):
            close(*pair, bound)
        return
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found) - expected).max() <= bound * np.abs(expected).max()


def train(layer, x, dy, masks):
    """All results of a call and its backward."""
    y, state, tape = layer.forward(x, **masks)
    grads = layer.backward(tape, dy, state)
    return y, state, grads


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"reverse": True}], ids=str)
@pytest.mark.parametrize("kind", MAKE)
def test_a_layer_is_the_host_s(kind, options):
    rng = np.random.default_rng(0)
    host, device = MAKE[kind](**options), MAKE[kind](device="cuda", **options)
    x, dy = (rng.standard_normal((T, B, n), np.float32) for n in (I, (1 + host.bidirectional) * H))
    masks = {"lengths": np.array([3, 2]), "resets": rng.random((T, B)) < 0.4}
    wanted = train(host, x, dy, masks)
    found = train(device, x, dy, masks)
    close(found[0], wanted[0], 1e-5)
    close(found[1], wanted[1], 1e-5)
    close(found[2].x, wanted[2].x, 1e-4)
    close(found[2].state, wanted[2].state, 1e-4)
    close(arrays.to_host(found[2].params.flat), wanted[2].params.flat, 1e-4)


@pytest.mark.parametrize("name", ["LSTM", "IndRNN"])
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"reverse": True, "num_layers": 2}], ids=str)
def test_segments_computed_again_are_the_plain_pass(name, options, monkeypatch):
    monkeypatch.setattr(_recompute, "section_steps", lambda batch: 2)  # the host's; here sums agree to rounding
    rng = np.random.default_rng(0)
    steps, rows = 5, 2
    layer = getattr(rnnfast, name)(2, 3, device="cuda", rng=0, **options)
    x = rng.standard_normal((steps, rows, 2), np.float32)
    masks = {"lengths": rng.integers(0, steps + 1, rows), "resets": rng.random((steps, rows)) < 0.4}
    y, state, tape = layer.forward(x, **masks)
    plain = layer.backward(tape, y, state)
    found, _, tape = layer.forward(x, **masks, recompute=2)
    again = layer.backward(tape, y, state)
    close(found, y, 0)
    close(again.x, plain.x, 1e-6)
    close(again.state, plain.state, 1e-6)
    close(arrays.to_host(again.params.flat), arrays.to_host(plain.params.flat), 1e-5)


def test_the_last_output_alone():
    layer = rnnfast.LSTM(I, H, device="cuda", rng=0)
    x = np.random.default_rng(0).standard_normal((T, B, I), np.float32)
    close(layer(x, last_only=True)[0], layer(x)[0][-1], 0)


def test_training_on_ids_of_the_device_follows_the_host():
    ids = np.random.default_rng(1).integers(0, I, 13)
    weights = {}
    for name in ("cpu", "cuda"):
        options = {"device": name}
        model = rnnfast.Model(rnn=rnnfast.GRU(I, H, rng=0, **options), head=rnnfast.Dense(H, I, rng=1, **options))
        trainer = rnnfast.TBPTT(
            model,
            rnnfast.losses.softmax_cross_entropy,
            rnnfast.optim.Adam(model.params, 1e-2),
            k1=2,
            k2=4,
            clip_norm=0.5,
            logits=True,
        )
        stream = arrays.to_device(ids) if name == "cuda" else ids
        windows = rnnfast.tbptt.stateful_batches(stream, 2, 2)
        results = [trainer.step(x, target) for x, target in windows]
        weights[name] = np.asarray(model.params.flat), [result.loss for result in results]
    close(weights["cuda"][0], np.asarray(weights["cpu"][0]), 1e-4)
    assert np.allclose(weights["cuda"][1], weights["cpu"][1], rtol=1e-5)


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels in the order of their launches."""
    seen, launch = [], FakeCUDAKernel.__getitem__
    monkeypatch.setattr(
        FakeCUDAKernel, "__getitem__", lambda self, shape: seen.append(self.fn.__name__) or launch(self, shape)
    )
    return seen


@pytest.mark.parametrize(
    ("kind", "precision", "of_x", "of_id"),
    [
        ("lstm", "float32", ["persistent_forward"], ["_gather", "persistent_forward"]),
        ("lstm", "bfloat16", ["copy", "persistent_forward"], ["_gather", "persistent_forward"]),
        (
            "gru_before",
            "bfloat16",
            ["copy", "turn_0", "forward_0", "forward_1"],
            ["_gather", "turn_0", "forward_0", "forward_1"],
        ),
    ],
)
def test_a_step_of_a_stream_prepares_nothing(kind, precision, of_x, of_id, launches, monkeypatch):
    """Products are the library's, and not among these launches."""
    stream = MAKE[kind](device="cuda", precision=precision).stream()
    x = arrays.to_device(np.ones((1, I), np.float32))
    stream.step(x)
    stream.step(0)
    monkeypatch.setattr(arrays, "zeros", None)
    for given, expected in ((x, of_x), (0, of_id)):
        launches.clear()
        stream.step(given)
        assert launches == expected


def test_a_stream_s_calls_share_a_ring_and_its_copy_has_its_own(monkeypatch):
    two_blocks = Partition(1, 1, 1, 2, 1, 1)
    monkeypatch.setattr(kernel, "plan", lambda *_, **__: Plan("persistent", two_blocks, two_blocks, "this test's"))
    turns, forward = [], persistent.forward

    def watched(call, partition, weight, ring):
        forward(call, partition, weight, ring)
        turns.append(int(ring[2 * partition.slot_words]))

    monkeypatch.setattr(persistent, "forward", watched)
    layer = rnnfast.RNN(I, 12, rng=0, device="cuda")
    x = np.random.default_rng(0).standard_normal((5, 1, I), np.float32)
    stream = layer.stream()
    first = [stream.step(step) for step in x[:3]]
    other = stream.copy()
    rest = [stream.step(step) for step in x[3:]]
    assert turns == [1, 2, 3, 4, 5]
    close(other.process(x[3:]), np.stack(rest), 1e-6)
    assert turns[5:] == [2]
    close(np.stack([*first, *rest]), layer(x)[0], 1e-6)
