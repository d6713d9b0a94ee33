"""Parameters that lie on the device: loading, copies, checkpoints, optimisers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from host_kernel import B, H, I, T, moved, normal, on_device, pair
from registry import assert_close, assert_same_bits

import rnnfast
from rnnfast import checkpoint, optim
from rnnfast.cuda.arrays import to_device, to_host
from rnnfast.parameters import Store


def test_parameters_are_on_the_device():
    here, there = pair("lstm", num_layers=2)
    assert on_device(there.params.flat, *there.params.values())
    before = there.params.version
    twice = {name: 2 * value for name, value in here.params.items()}
    here.load(twice)
    for values in (twice, moved(twice)):
        there.load(values)
        assert_same_bits(to_host(there.params.flat), here.params.flat)
        there.update({"bias_ih_l0": 0 * values["bias_ih_l0"]})
        assert not to_host(there.params["bias_ih_l0"]).any()
        there.params.assign(to_device(here.params.flat) if on_device(values["bias_ih_l0"]) else here.params.flat)
        assert_same_bits(to_host(there.params.flat), here.params.flat)
    assert there.params.version == before + 2 * 6  # it moves before a write and after it
    x = normal(T, B, I)
    assert_same_bits(there(x)[0], here(x)[0])
    with pytest.raises(TypeError, match="bias_ih_l0: expected an array on the host"):
        here.update({"bias_ih_l0": there.params["bias_ih_l0"]})
    with pytest.raises(ValueError, match="weight_ih_l0: expected shape"):
        there.update({"weight_ih_l0": to_device(np.zeros(3))})
    with pytest.raises(ValueError, match="store: expected one on cuda:0"):
        there.params.adopt(Store(there.params.size, np.float32), 0)


def test_a_forget_bias_can_be_set():
    here, there = pair("lstm", forget_bias=2.0)
    assert_same_bits(to_host(there.params.flat), here.params.flat)
    there.update(rnnfast.init.forget_bias(there.params, 0.5))
    assert (to_host(there.params["bias_ih_l0"])[H : 2 * H] == 0.5).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_copies(copied):
    _, there = pair("gru_after")
    model = rnnfast.Model(rnn=there, head=rnnfast.Dense(H, 2, device="cuda"))
    other = copied(model)
    gradients = copied(model.params.zeros())
    assert on_device(other.params.flat, gradients.flat)
    assert other.params.device is model.params.device is gradients.device
    assert_same_bits(to_host(other.params.flat), to_host(model.params.flat))
    before = model.params.version
    other.params.assign(np.zeros(other.params.size))
    assert model.params.version == before
    assert not other(normal(T, B, I))[0].any()


def test_config_and_checkpoint(tmp_path):
    model = rnnfast.Model(
        rnn=rnnfast.LSTM(I, H, rng=1, device="cuda", precision="tf32"),
        head=rnnfast.Dense(H, 2, device="cuda", precision="bfloat16"),
    )
    assert model.config()["parts"]["rnn"] | {"device": "cuda", "precision": "tf32"} == model.config()["parts"]["rnn"]
    assert "device" not in rnnfast.LSTM(I, H).config()
    optimizer = optim.Adam(model.params)
    gradients = model.params.zeros()
    gradients.flat[...] = 1
    optimizer.step(gradients)
    checkpoint.save(tmp_path / "model", model, optimizer=optimizer)
    loaded = checkpoint.load(tmp_path / "model")
    assert loaded.model.config() == model.config()
    assert on_device(loaded.model.params.flat)
    assert_same_bits(to_host(loaded.model.params.flat), to_host(model.params.flat))
    on_host = checkpoint.load(tmp_path / "model", device="cpu").model
    assert_same_bits(on_host.params.flat, to_host(model.params.flat))
    assert checkpoint.load(tmp_path / "model", device="cuda").model.config() == model.config()
    other = optim.Adam(loaded.model.params)
    other.load_state_dict(loaded.optimizer)
    for both in ((model, optimizer), (loaded.model, other)):
        both[1].step(both[0].params.zeros())
    assert_same_bits(to_host(loaded.model.params.flat), to_host(model.params.flat))


def test_a_model_lies_on_one_device():
    with pytest.raises(ValueError, match="head: expected device cuda:0 as rnn has, got cpu"):
        rnnfast.Model(rnn=rnnfast.GRU(I, H, device="cuda"), head=rnnfast.Dense(H, 2))


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam])
def test_optimisers_and_clipping(make, no_way_back):
    results = []
    for layer in pair("lstm"):
        gradients = layer.params.zeros()
        gradients.flat[...] = 1
        norm = optim.clip_grad_norm(gradients, 1.0)
        assert isinstance(norm, float)
        optim.clip_grad_value(gradients, 0.01)
        optimizer = make(layer.params, 0.1)
        optimizer.step(gradients)
        results.append((norm, to_host(layer.params.flat)))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    assert_close(results[1][1], results[0][1].astype(np.float64), 1e-6)
    here, there = pair("lstm")
    with pytest.raises(ValueError, match="gradients: expected them on cuda:0, as the parameters, got cpu"):
        make(there.params, 0.1).step(here.params.zeros())
