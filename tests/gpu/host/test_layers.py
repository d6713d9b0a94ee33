"""Layers and cells on the device are the host's: arrays of either place, layouts, strides."""

from __future__ import annotations

import numpy as np
import pytest
from host_kernel import WALKS, B, H, I, T, masks_of, moved, normal, on_device, pair, same, state_of
from registry import assert_close, assert_same_bits, map_state

import rnnfast
from rnnfast.cuda.arrays import to_device, to_host


@pytest.mark.parametrize(("kind", "bidirectional"), WALKS)
def test_numpy_arrays_come_back_as_numpy_arrays(kind, bidirectional):
    here, there = pair(kind, num_layers=2, bidirectional=bidirectional)
    x, state, masks = normal(T, B, I), state_of(here), masks_of(here)
    dy, dstate = normal(T, B, H * (1 + bidirectional)), state_of(here, seed=7)
    results = []
    for layer in (here, there):
        y, final, tape = layer.forward(x, state, **masks)
        same(layer(x, state, **masks)[0], y)
        results.append((y, final, layer.backward(tape, dy, dstate)))
    (y, final, grads), (y_there, final_there, grads_there) = results
    same(y_there, y)
    same(final_there, final)
    for name in ("x", "state", "reset_state"):
        same(getattr(grads_there, name), getattr(grads, name))
    assert on_device(grads_there.params.flat)
    assert_same_bits(to_host(grads_there.params.flat), grads.params.flat)


@pytest.mark.parametrize(("kind", "bidirectional"), WALKS)
def test_arrays_on_the_device_stay_there(kind, bidirectional, no_way_back):
    here, there = pair(kind, num_layers=2, bidirectional=bidirectional)
    x, state, masks = normal(T, B, I), state_of(here), masks_of(here)
    dy, dstate = normal(T, B, H * (1 + bidirectional)), state_of(here, seed=7)
    y, final, tape = here.forward(x, state, **masks)
    grads = here.backward(tape, dy, dstate)
    y_there, final_there, tape = there.forward(to_device(x), moved(state), **moved(masks))
    grads_there = there.backward(tape, to_device(dy), moved(dstate))
    assert on_device(y_there, final_there, grads_there.x, grads_there.state, grads_there.reset_state)
    same(map_state(to_host, y_there), y)
    same(map_state(to_host, final_there), final)
    for name in ("x", "state", "reset_state"):
        same(map_state(to_host, getattr(grads_there, name)), getattr(grads, name))
    assert_same_bits(to_host(grads_there.params.flat), grads.params.flat)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_layouts(batch_first, ids, batched):
    here, there = pair("lstm", batch_first=batch_first)
    axes = ((B, T) if batch_first else (T, B)) if batched else (T,)
    x = np.arange(np.prod(axes)).reshape(axes) % I if ids else normal(*axes, I)
    y, (h, _), tape = here.forward(x, ids=ids)
    grads = here.backward(tape, y, (h, None))
    for given in (x, to_device(x)):
        as_given = to_device if on_device(given) else np.asarray
        out = as_given(np.empty_like(y))
        y_there, (h_there, _), tape = there.forward(given, out=out, ids=ids)
        assert y_there is out
        assert_same_bits(to_host(y_there), y)
        assert_same_bits(to_host(h_there), h)
        found = there.backward(tape, as_given(y), (as_given(h), None))
        assert (found.x is None) == ids
        if not ids:
            assert_same_bits(to_host(found.x), grads.x)
        same(map_state(to_host, found.state), grads.state)


def test_strided_and_converted_arrays_of_the_device():
    here, there = pair("gru_after")
    x = normal(T, B, I)
    wide = np.zeros((T, B, 2 * I), np.float32)
    wide[..., ::2] = x
    for given in (to_device(wide)[..., ::2], to_device(x.astype(np.float64)), to_device(x[::-1])[::-1]):
        assert_same_bits(to_host(there(given)[0]), here(x)[0])


def test_cells():
    for name in ("RNNCell", "LSTMCell", "GRUCell"):
        here, there = (getattr(rnnfast, name)(I, H, rng=1, device=place) for place in ("cpu", "cuda"))
        x = normal(B, I)
        state, tape = here.forward(x)
        grads = here.backward(tape, state)
        found, tape = there.forward(x)
        same(found, state)
        same(there(x), state)
        same(there.backward(tape, found).state, grads.state)
        on, tape = there.forward(to_device(x))
        assert on_device(on)
        out = map_state(lambda array: to_device(np.empty_like(array)), state)
        assert there(to_device(x), out=out) is out
        same(map_state(to_host, out), state)
        assert_same_bits(to_host(there.backward(tape, on).x), grads.x)


def test_there_is_a_device(capsys):
    assert rnnfast.cuda.is_available()
    rnnfast.show_config()
    assert "cuda: simulator" in capsys.readouterr().out
    assert rnnfast.cuda.plan("lstm", 64, 1).engine == "persistent"


def test_the_kernels_themselves(monkeypatch):
    """Once through everything: the answers of the oracle."""
    monkeypatch.undo()
    here, there = pair("gru_before", num_layers=1)
    x, dy = normal(2, 2, I), normal(2, 2, H)
    y, _, tape = here.forward(x)
    grads = here.backward(tape, dy)
    found, _, tape = there.forward(x)
    assert_close(found, y.astype(np.float64), 1e-5)
    found_grads = there.backward(tape, dy)
    assert_close(found_grads.x, grads.x.astype(np.float64), 1e-4)
    assert_close(to_host(found_grads.params.flat), grads.params.flat.astype(np.float64), 1e-4)
