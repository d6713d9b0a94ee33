"""Everything around the device's kernels: how arrays come in and go out, parameters, training, streams.

The recurrence itself is the host's here (`HostKernel`), so every result must be the host's, bit by bit, but for what
the device computes in its own way: heads, losses, optimisers, dropout. A simulated array refuses to be mixed with one
of the host, and looks at memory that nobody has written see NaN.
"""

from __future__ import annotations

import copy
import pickle
from itertools import product

import numpy as np
import pytest
from registry import _class_of, assert_close, assert_same_bits, map_state, parts

import rnnfast
from rnnfast import _core, checkpoint, losses, optim, reference
from rnnfast.cuda import arrays, device
from rnnfast.cuda.arrays import SimulatedArray, to_device, to_host
from rnnfast.parameters import Store

KINDS = tuple(reference.CELLS)
WALKS = tuple(product(KINDS, (False, True)))
T, B, I, H = 4, 3, 3, 5  # noqa: E741


class HostKernel:
    """The host's kernel, on the memory of simulated arrays."""

    def __init__(self, kind, input_size, hidden_size, precision):
        self._kernel = _core.Kernel(kind, "float32", input_size, hidden_size)

    def prepare(self, panels, B, *, calls):
        assert B > 0
        return "the panels are enough"

    def __getattr__(self, name):
        found = getattr(self._kernel, name)
        if not callable(found):
            return found

        def plain(value):
            assert type(value) is not np.ndarray, "an array of the host has come to the device's kernel"
            return value.view(np.ndarray) if isinstance(value, SimulatedArray) else value

        def call(*arrays, prepared=None, **options):
            return found(*map(plain, arrays), **{k: plain(v) for k, v in options.items()})

        return call


@pytest.fixture(autouse=True)
def host_kernels(monkeypatch):
    monkeypatch.setattr(device, "Kernel", HostKernel)


@pytest.fixture
def no_way_back(monkeypatch):
    """Whatever copies to the host fails."""

    def refuse(array):
        raise AssertionError("copied to the host")

    monkeypatch.setattr(arrays, "to_host", refuse)


def pair(kind, **options):
    """A layer on the host and one on the device with equal weights."""
    cls, choice = _class_of(kind, "")
    return tuple(cls(I, H, **choice, **options, rng=1, device=name) for name in ("cpu", "cuda"))


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def state_of(layer, batch=B, seed=0):
    shape = (layer.num_layers * (1 + layer.bidirectional), batch, H)
    h, c = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    return (h, c) if isinstance(layer, rnnfast.LSTM) else h


def masks_of(layer):
    lengths, resets = np.array([4, 0, 2]), np.zeros((T, B), bool)
    resets[2, 0] = resets[1, 2] = True
    return {"lengths": lengths, "resets": resets, "reset_state": state_of(layer, seed=5)}


def moved(value):
    """On the device, whatever its structure."""
    if isinstance(value, dict):
        return {name: moved(part) for name, part in value.items()}
    return map_state(to_device, value) if isinstance(value, np.ndarray | tuple) else value


def same(actual, expected):
    for one, other in zip(parts(actual), parts(expected), strict=True):
        assert_same_bits(one, other)


def on_device(*values):
    return all(isinstance(array, SimulatedArray) for value in values for array in parts(value))


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
    y, (h, _), tape = here.forward(x)
    grads = here.backward(tape, y, (h, None))
    for given in (x, to_device(x)):
        as_given = to_device if on_device(given) else np.asarray
        out = as_given(np.empty_like(y))
        y_there, (h_there, _), tape = there.forward(given, out=out)
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


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def test_a_call_lies_in_one_place():
    here, there = pair("lstm")
    x, (h, c) = normal(T, B, I), state_of(here)
    mixed = [
        ({"state": (to_device(h), c)}, "state[1]"),
        ({"state": (h, to_device(c))}, "state[0]"),
        ({"lengths": np.full(B, T)}, "lengths"),
        ({"lengths": [T] * B}, "lengths"),
        ({"resets": np.zeros((T, B), bool)}, "resets"),
        ({"reset_state": (h, c)}, "reset_state[0]"),
        ({"out": np.zeros((T, B, H), np.float32)}, "out"),
    ]
    for options, name in mixed:
        with pytest.raises(TypeError) as raised:
            there(to_device(x), **options)
        assert str(raised.value).startswith(f"{name}: expected a"), raised.value
    for options, name in [({"state": moved((h, c))}, "state[0]"), ({"lengths": to_device(np.full(B, T))}, "lengths")]:
        for layer in (here, there):
            with pytest.raises(TypeError, match="expected an array on the host") as raised:
                layer(x, **options)
            assert str(raised.value).startswith(name)
    with pytest.raises(TypeError, match="x: expected an array on the host, got SimulatedArray"):
        here(to_device(x))
    y, _, tape = there.forward(to_device(x))
    with pytest.raises(TypeError, match="dy: expected an array on the CUDA device"):
        there.backward(tape, to_host(y))
    with pytest.raises(ValueError, match="into: expected Gradients on cuda:0"):
        there.backward(tape, y, into=here.params.zeros())
    there.backward(tape, y)


def test_what_a_device_does_not_have():
    for options, error, message in [
        ({"device": "tpu"}, ValueError, "device: expected one of 'cpu', 'cuda', got 'tpu'"),
        ({"device": 1}, TypeError, "device: "),
        ({"precision": "tf32"}, ValueError, "precision: expected 'float32' with device='cpu', got 'tf32'"),
        ({"device": "cuda", "precision": "fp8"}, ValueError, "precision: expected one of"),
        ({"device": "cuda", "dtype": np.float64}, TypeError, "dtype: expected float32 with device='cuda', got float64"),
    ]:
        for make in (rnnfast.LSTM, rnnfast.GRUCell, rnnfast.Dense):
            with pytest.raises(error) as raised:
                make(I, H, **options)
            assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((T, B, I + 1)), ValueError, r"x: expected \[T, B, I\] or \[T, I\] with I=3"),
        (np.zeros((T, B, I), complex), TypeError, "x: expected an array of real numbers"),
        (np.zeros(2), ValueError, "x: expected"),
    ],
)
def test_arrays_of_the_device_are_checked(x, error, message):
    _, there = pair("lstm")
    with pytest.raises(error, match=message):
        there(to_device(x))
    good = to_device(normal(T, B, I))
    for options in ({"lengths": np.ones(B)}, {"resets": np.zeros((T, B), int)}, {"state": (np.zeros((1, B, H)),) * 3}):
        with pytest.raises(TypeError, match=next(iter(options))):
            there(good, **moved(options))
    for options in ({"lengths": np.ones(B + 1, int)}, {"resets": np.zeros((T, 1), bool)}):
        with pytest.raises(ValueError, match=next(iter(options))):
            there(good, **moved(options))
    for out in (np.zeros((T, B, H)), np.zeros((T, B, H + 1), np.float32)):
        with pytest.raises((TypeError, ValueError), match="out: "):
            there(good, out=to_device(out))


def test_numpy_values_are_held_against_their_ranges():
    _, there = pair("lstm")
    with pytest.raises(ValueError, match=r"x: expected ids in 0..2, got 3"):
        there(np.full((T, B), I))
    with pytest.raises(ValueError, match=f"lengths: expected values in 0..T, 0..{T}"):
        there(normal(T, B, I), lengths=np.full(B, T + 1))


def test_out_of_memory(monkeypatch):
    here, there = pair("gru_after")
    x = normal(T, B, I)
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "to_device", None)

        def fail(*arguments):
            raise MemoryError("cudaErrorMemoryAllocation")

        patch.setattr(arrays, "empty", fail)
        with pytest.raises(MemoryError, match=r"out of memory on CUDA device 0: cudaErrorMemoryAllocation"):
            there.forward(to_device(x))
    assert_same_bits(there(x)[0], here(x)[0])


# ---------------------------------------------------------------------------------------------------------------------
# Parameters


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
    assert there.params.version == before + 6
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
        layer.params.device.draw(np.random.default_rng(0), gradients.flat)
        gradients.flat[...] = 1 + gradients.flat * 0
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


# ---------------------------------------------------------------------------------------------------------------------
# Heads, models, training


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "softmax"])
def test_heads(activation):
    here, there = (rnnfast.Dense(I, 2, activation=activation, rng=1, device=place) for place in ("cpu", "cuda"))
    x, dy = normal(T, B, I), normal(T, B, 2)
    y, tape = here.forward(x)
    grads = here.backward(tape, dy)
    for as_given in (np.asarray, to_device):
        found, tape = there.forward(as_given(x))
        found_grads = there.backward(tape, as_given(dy))
        assert on_device(found, found_grads.x) == (as_given is to_device)
        assert_close(to_host(found), y.astype(np.float64), 1e-5)
        assert_close(to_host(found_grads.x), grads.x.astype(np.float64), 1e-4)
        assert_close(to_host(found_grads.params.flat), grads.params.flat.astype(np.float64), 1e-4)
        added = there.backward(there.forward(as_given(x))[1], as_given(dy), into=found_grads.params)
        assert_close(to_host(added.params.flat), 2.0 * grads.params.flat, 1e-4)
    assert there(np.zeros((0, I))).shape == (0, 2)


def models(**options):
    for name in ("cpu", "cuda"):
        yield rnnfast.Model(
            rnn=rnnfast.LSTM(I, H, rng=1, device=name, **options),
            head=rnnfast.Dense(H, I, activation="softmax", rng=2, device=name),
        )


@pytest.mark.parametrize("batch_first", [False, True])
def test_models(batch_first):
    here, there = models(batch_first=batch_first)
    shape = (B, T) if batch_first else (T, B)
    x, dy, lengths = normal(*shape, I), normal(*shape, I), np.array([4, 0, 2])
    state = {"rnn": (normal(1, B, H), normal(1, B, H, seed=3))}
    resets = np.zeros(shape, bool)
    resets[1, 1] = True
    y, final, tape = here.forward(x, state, lengths=lengths, resets=resets)
    grads = here.backward(tape, dy, final)
    for as_given in (np.asarray, to_device):
        given = {name: map_state(as_given, part) for name, part in state.items()}
        masks = {"lengths": as_given(lengths), "resets": as_given(resets)}
        out = as_given(np.empty_like(y))
        found, found_final, tape = there.forward(as_given(x), given, **masks, out=out)
        found_grads = there.backward(tape, as_given(dy), found_final)
        assert found is out
        assert on_device(found_final["rnn"], found_grads.state["rnn"]) == (as_given is to_device)
        assert_close(to_host(found), y.astype(np.float64), 1e-5)
        same(map_state(to_host, found_final["rnn"]), final["rnn"])
        assert_close(to_host(found_grads.x), grads.x.astype(np.float64), 1e-4)
        assert_close(to_host(found_grads.params.flat), grads.params.flat.astype(np.float64), 1e-4)
    with pytest.raises(ValueError, match=r"x: expected ids in 0..2, got 3"):
        there(np.full((T, B), I))
    with pytest.raises(TypeError, match=r"state.*: expected an array on the CUDA device"):
        there(to_device(x), state)


@pytest.mark.parametrize("k2", [2, 5])
def test_training_stays_on_the_device(k2, no_way_back):
    """The same training as on the host, from windows of either place; nothing but losses is read back."""
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, I, (7, B)), rng.integers(0, I, (7, B))
    masks = {"resets": rng.random((7, B)) < 0.2, "lengths": np.array([7, 5, 6])}
    results = []
    for as_given, place in ((np.asarray, 0), (np.asarray, 1), (to_device, 1)):
        model = list(models())[place]
        trainer = rnnfast.TBPTT(
            model, losses.softmax_cross_entropy, optim.Adam(model.params), k1=2, k2=k2, clip_norm=0.5, logits=True
        )
        given = {name: as_given(mask) for name, mask in masks.items()}
        seen = list(trainer.run(as_given(ids), as_given(targets), **given))
        trainer.reset([1])
        seen.append(trainer.step(as_given(ids[:2]), as_given(targets[:2])))
        assert all(isinstance(result.loss, float) for result in seen)
        assert on_device(*(result.state["rnn"] for result in seen)) == bool(place)
        results.append(([(result.loss, float(result.grad_norm)) for result in seen], to_host(model.params.flat)))
    for numbers, flat in results[1:]:
        np.testing.assert_allclose(numbers, results[0][0], rtol=1e-4)
        assert_close(flat, results[0][1].astype(np.float64), 1e-4)


def test_a_trainers_state_goes_through_the_host():
    ids, targets = (np.random.default_rng(seed).integers(0, I, (8, B)) for seed in (0, 1))

    def trainer():
        model = list(models())[1]
        return rnnfast.TBPTT(
            model, losses.softmax_cross_entropy, optim.SGD(model.params, 0.1), k1=2, k2=3, logits=True
        ), model

    whole, model = trainer()
    expected = [result.loss for result in whole.run(ids, targets)]
    first, between = trainer()
    seen = [first.step(ids[t : t + 2], targets[t : t + 2]).loss for t in (0, 2)]
    carried = first.state_dict()
    assert type(carried["context"][0]["x"]) is np.ndarray
    second, after = trainer()
    second.load_state_dict(pickle.loads(pickle.dumps(carried)))
    after.params.assign(between.params.flat)
    seen += [second.step(ids[t : t + 2], targets[t : t + 2]).loss for t in (4, 6)]
    assert seen == expected
    assert_same_bits(to_host(after.params.flat), to_host(model.params.flat))
    second.state = {"rnn": (normal(1, B, H), normal(1, B, H))}
    assert on_device(second.state["rnn"])
    with pytest.raises(ValueError, match=r"x: expected ids in 0..2"):
        second.step(np.full((2, B), I), targets[:2])


def test_windows_of_a_stream_on_the_device(no_way_back):
    ids = np.arange(20)
    for (x, target), (x_there, target_there) in zip(
        rnnfast.tbptt.stateful_batches(ids, 2, 4),
        rnnfast.tbptt.stateful_batches(to_device(ids), 2, 4),
        strict=True,
    ):
        assert on_device(x_there, target_there)
        assert_same_bits(to_host(x_there), x)
        assert_same_bits(to_host(target_there), target)


def test_gradient_norms():
    here, there = pair("gru_after")
    x, dy = normal(T, B, I), normal(B, H)
    expected = rnnfast.tbptt.gradient_norm_by_distance(here, x, dy)
    for as_given in (np.asarray, to_device):
        np.testing.assert_array_equal(
            rnnfast.tbptt.gradient_norm_by_distance(there, as_given(x), as_given(dy)), expected
        )


def test_dropout_is_decided_by_the_seed():
    def run(seed):
        layer = rnnfast.GRU(I, 64, 2, dropout=0.25, rng=seed, device="cuda")
        y, _, tape = layer.forward(np.ones((8, 8, I)))
        return y, to_host(tape._recording.dropout[0])

    (y, mask), (again, mask_again), (_, other) = run(3), run(3), run(4)
    assert_same_bits(again, y)
    assert_same_bits(mask_again, mask)
    assert (mask != other).any()
    assert set(np.unique(mask)) == {0, np.float32(4 / 3)}
    assert abs((mask == 0).mean() - 0.25) < 0.03  # 4096 draws: 0.007 is a standard deviation


# ---------------------------------------------------------------------------------------------------------------------
# Streams


@pytest.mark.parametrize("kind", ["lstm", "gru_before"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("as_given", [np.asarray, to_device])
def test_streams(kind, batch_first, as_given):
    _, there = pair(kind, num_layers=2, batch_first=batch_first)
    x = normal(T, B, I)
    order = (lambda array: array.swapaxes(0, 1)) if batch_first else (lambda array: array)
    y, final = there(order(x))
    stream = there.stream(B)
    first = [stream.step(as_given(x[t])) for t in range(2)]
    rest = stream.process(as_given(np.ascontiguousarray(order(x[2:]))))
    assert on_device(*first, rest) == (as_given is to_device)
    assert_same_bits(np.stack([*map(to_host, first), *order(to_host(rest))]), np.ascontiguousarray(order(y)))
    same(map_state(to_host, stream.state), final)

    other = copy.copy(stream)
    stream.reset([0, 2])
    assert not to_host(parts(stream.state)[0])[:, [0, 2]].any()
    same(map_state(to_host, other.state), final)
    other.reset()
    other.state = final
    same(map_state(to_host, other.state), final)
    out = as_given(np.empty((B, H), np.float32))
    assert other.step(as_given(x[0]), out) is out
    there.params.assign(np.zeros(there.params.size))
    assert to_host(other.step(as_given(x[0]))).any(), "the weights are those of the stream's beginning"


def test_streams_of_one_row_and_of_ids():
    _, there = pair("lstm")
    stream = there.stream()
    y, _ = there(np.array([0, 1, 2]))
    assert_same_bits(np.concatenate([stream.step(0)[None], stream.process(np.array([1, 2]))]), y)
    for x, message in [(np.full(1, I), "ids in 0..2"), (np.zeros((2, I)), "x: expected"), (np.zeros(I + 1), "x: exp")]:
        with pytest.raises(ValueError, match=message):
            stream.step(x)
    with pytest.raises(ValueError, match="weights: expected 'float32'"):
        there.stream(weights="bfloat16")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(stream)
    with stream._alone(), pytest.raises(RuntimeError, match="another thread"):
        stream.step(0)
    h, c = state = normal(1, 1, H), normal(1, 1, H, seed=1)
    for given in (state, (h[0], c[0]), map_state(to_device, state)):
        stream.reset()
        stream.state = given
        same(map_state(to_host, stream.state), state)
    for wrong, error in [(h, TypeError), ((None, c), TypeError), ((h, c[..., 1:]), ValueError)]:
        with pytest.raises(error, match="state"):
            stream.state = wrong
    with pytest.raises(TypeError, match=r"state\[1\]: expected an array on the CUDA device"):
        stream.state = to_device(h), c
    same(map_state(to_host, stream.state), state)


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
