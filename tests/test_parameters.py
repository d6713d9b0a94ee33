"""Parameters and gradients on their flat buffers, and what they begin as."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest

import rnnfast
from rnnfast import Gradients, Parameters, init
from rnnfast.parameters import Store, aligned_empty

SHAPES = {"a": (2, 3), "b": (4,), "empty": (0, 3), "c": (1, 1)}


@pytest.fixture
def params():
    made = Parameters(SHAPES, np.float32)
    made.assign(np.arange(11))
    return made


def copies(thing):
    yield copy.deepcopy(thing)
    yield pickle.loads(pickle.dumps(thing))


def address(array):
    return array.__array_interface__["data"][0]


# Layout ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (5, 7)])
def test_buffers_are_aligned(shape):
    for _ in range(20):
        array = aligned_empty(shape, np.float64)
        assert array.shape == shape
        assert array.dtype == np.float64
        assert array.flags.c_contiguous
        assert not array.size or address(array) % 64 == 0


def test_names_lie_packed_in_order(params):
    assert list(params) == list(SHAPES)
    assert params.shapes == SHAPES
    assert len(params) == 4
    assert params.size == 11
    assert params.dtype == np.float32
    assert address(params.flat) % 64 == 0
    np.testing.assert_array_equal(np.concatenate([params[name].ravel() for name in params]), params.flat)
    for name, shape in SHAPES.items():
        assert params[name].shape == shape
        assert not params[name].size or np.shares_memory(params[name], params.flat)
    assert "a" in params
    assert "d" not in params
    assert params.get("d") is None
    assert "a [2, 3]" in repr(params)
    assert params == params
    assert params != Parameters(SHAPES, np.float32)


def test_values_are_read_only(params):
    for view in (params.flat, *params.values()):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 1
    with pytest.raises(TypeError):
        params["a"] = np.zeros((2, 3))
    with pytest.raises(AttributeError):
        params.flat = np.zeros(11)


def test_every_write_moves_the_version(params):
    versions = [params.version]
    for write in (
        lambda: params.assign(np.ones(11)),
        lambda: params.update({"b": [1, 2, 3, 4]}),
        lambda: params.load({name: np.zeros(shape) for name, shape in SHAPES.items()}),
        lambda: params.adopt(Store(11, np.float32), 0),
    ):
        write()
        versions.append(params.version)
    assert versions == sorted(set(versions))


def test_writing_is_of_a_copy_which_takes_the_place_of_the_values_at_its_end(params):
    before = params.version
    with params.writing() as flat:
        flat[0] = 7
        kept = flat[:3]
        assert params["a"][0, 0] != 7
        assert params.version == before
    assert params.version > before
    assert params["a"][0, 0] == 7
    flat[0], kept[1] = 8, 8  # what is kept of it is nothing but memory
    assert 8 not in params.flat[:3]

    before, values = params.version, params.flat.copy()
    with pytest.raises(KeyError), params.writing() as flat:
        flat[0] = 9
        raise KeyError
    assert params.version == before
    np.testing.assert_array_equal(params.flat, values)


def test_writing_in_place_moves_the_version_first_and_last_also_after_an_exception(params):
    before = params.version
    with pytest.raises(KeyError), params.in_place() as flat:
        flat[0] = 9
        assert params.version > before
        began = params.version
        raise KeyError
    assert params.version > began
    assert params["a"][0, 0] == 9
    with pytest.raises(ValueError, match="read-only"):
        flat[0] = 8


def test_values_may_be_views_of_what_they_replace():
    params = Parameters({"a": (2,), "b": (2,)}, np.float32)
    params.assign([1, 2, 3, 4])
    params.update({"a": params["b"], "b": params["a"]})
    np.testing.assert_array_equal(params.flat, [3, 4, 1, 2])
    params.assign(params.flat[::-1])
    np.testing.assert_array_equal(params.flat, [2, 1, 4, 3])


# Stores ---------------------------------------------------------------------------------------------------------------


def test_parts_move_into_a_common_store(params):
    other = Parameters({"w": (2, 2)}, np.float32)
    other.assign([5, 6, 7, 8])
    for _ in range(10):
        other.update({"w": other["w"].copy()})
    whole = Parameters({f"p.{name}": shape for name, shape in SHAPES.items()} | {"q.w": (2, 2)}, np.float32)
    seen = params.version, other.version
    params.adopt(whole.store, 0)
    other.adopt(whole.store, params.size)
    np.testing.assert_array_equal(whole.flat, [*range(11), 5, 6, 7, 8])
    assert params.version == other.version == whole.version
    assert whole.version > max(seen)
    assert np.shares_memory(whole["p.a"], params["a"])
    with whole.writing() as flat:
        flat += 1
    np.testing.assert_array_equal(other["w"], [[6, 7], [8, 9]])
    other.update({"w": np.zeros((2, 2))})
    assert not whole["q.w"].any()
    assert params.version == whole.version


def test_a_layer_computes_with_what_its_store_holds():
    layer, fresh = rnnfast.LSTM(3, 4, rng=0), rnnfast.LSTM(3, 4)
    x = np.ones((2, 1, 3))
    y = layer(x)[0]
    store = Store(layer.params.size + 5, np.float32)
    layer.params.adopt(store, 5)
    np.testing.assert_array_equal(layer(x)[0], y)
    whole = Parameters({"rest": (5,), "layer": (layer.params.size,)}, np.float32, store)
    with whole.writing() as flat:
        flat *= 2
    fresh.load(layer.params)
    np.testing.assert_array_equal(layer(x)[0], fresh(x)[0])
    assert not np.array_equal(layer(x)[0], y)


def test_copies_have_their_own_values(params):
    for other in copies(params):
        assert (list(other), other.version) == (list(params), params.version)
        np.testing.assert_array_equal(other.flat, params.flat)
        assert address(other.flat) % 64 == 0
        assert not other["a"].flags.writeable
        other.assign(np.zeros(11))
        assert params.flat.any()


def test_copies_of_parts_that_share_a_store_share_its_copy(params):
    whole = Parameters({"p.all": (11,)}, np.float32)
    params.adopt(whole.store, 0)
    for whole2, params2 in copies((whole, params)):
        whole2.assign(np.full(11, 3))
        assert (params2["b"] == 3).all()
        assert not (params["b"] == 3).all()


# Gradients ------------------------------------------------------------------------------------------------------------


def test_gradients_have_the_layout_and_are_writeable(params):
    gradients = params.zeros()
    assert isinstance(gradients, Gradients)
    assert gradients.shapes == params.shapes
    assert gradients.dtype == params.dtype
    assert address(gradients.flat) % 64 == 0
    assert not gradients.flat.any()
    gradients["b"][...] = 2
    assert gradients.flat.sum() == 8
    for other in copies(gradients):
        np.testing.assert_array_equal(other.flat, gradients.flat)
        other["b"][...] = 5
        assert gradients.flat.sum() == 8
        assert other.flat.sum() == 20
    gradients.zero()
    assert not gradients.flat.any()


def test_gradients_may_lie_on_given_memory():
    memory = np.arange(5, dtype=np.float32)
    gradients = Gradients({"a": (2,), "b": (1,)}, np.float32, memory[1:4])
    gradients["a"][...] = 9
    np.testing.assert_array_equal(memory, [0, 9, 9, 3, 4])
    with pytest.raises(ValueError, match=r"flat: expected shape \[3\], got \[5\]"):
        Gradients({"a": (2,), "b": (1,)}, np.float32, memory)


# Initial values -------------------------------------------------------------------------------------------------------


def test_uniform_is_pytorchs():
    values = init.uniform((100, 100), 25, 0)
    assert np.abs(values).max() <= 0.2
    assert abs(values.std() - 0.2 / np.sqrt(3)) < 0.002
    layer = rnnfast.GRU(3, 16, rng=0)
    assert 0.24 < np.abs(layer.params.flat).max() <= 0.25
    head = rnnfast.Dense(100, 50, rng=0)
    assert 0.099 < np.abs(head.params.flat).max() <= 0.1


@pytest.mark.parametrize("scheme", [init.xavier_uniform, init.xavier_normal])
def test_xavier_variance(scheme):
    values = scheme((300, 100), 0, gain=2.0)
    assert abs(values.std() - 2 * np.sqrt(2 / 400)) < 0.003
    assert abs(values.mean()) < 0.003
    if scheme is init.xavier_uniform:
        assert np.abs(values).max() <= 2 * np.sqrt(6 / 400)


@pytest.mark.parametrize("shape", [(4, 4), (7, 3), (3, 7), (1, 1)])
def test_orthogonal(shape):
    q = init.orthogonal(shape, 0, gain=3.0)
    assert q.shape == shape
    gram = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(gram, 9 * np.eye(min(shape)), atol=1e-12)
    assert len({np.sign(init.orthogonal((1, 1), seed)[0, 0]) for seed in range(20)}) == 2


def test_the_xavier_scheme_counts_one_gate():
    layer = rnnfast.LSTM(10, 20, 2, bidirectional=True, init="xavier", dtype=np.float64, rng=0)
    for name, value in layer.params.items():
        if name.startswith("bias"):
            assert not value.any()
            continue
        for gate in np.split(value, 4):
            if name.startswith("weight_hh"):
                np.testing.assert_allclose(gate @ gate.T, np.eye(20), atol=1e-12)
            else:
                bound = np.sqrt(6 / sum(gate.shape))
                assert 0.9 * bound < np.abs(gate).max() <= bound


def test_forget_bias():
    for cls in (rnnfast.LSTM, rnnfast.LSTMCell):
        layer, plain = cls(3, 4, forget_bias=1.5, rng=0), cls(3, 4, rng=0)
        for name, value in layer.params.items():
            blocks, plain_blocks = np.split(value, 4), np.split(plain.params[name], 4)
            if name.startswith("bias"):
                assert (blocks[1] == (1.5 if "_ih" in name else 0)).all()
                del blocks[1], plain_blocks[1]
            np.testing.assert_array_equal(blocks, plain_blocks)
        plain.update(init.forget_bias(plain.params, 1.5))
        np.testing.assert_array_equal(plain.params.flat, layer.params.flat)
    integers = {"bias_ih": np.zeros(8, int)}
    assert init.forget_bias(integers, 1.5)["bias_ih"].tolist() == [0, 0, 1.5, 1.5, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="forget_bias: expected parameters with biases"):
        rnnfast.LSTM(3, 4, bias=False, forget_bias=1.0)


def test_weights_for_ids():
    """The first layer's, in both directions, as an embedding's; all else as by default."""
    layer = rnnfast.GRU(50, 20, 2, bidirectional=True, init="ids", dtype=np.float64, rng=0)
    for name, value in layer.params.items():
        first = name.startswith("weight_ih_l0")
        assert np.isclose(value.std(), 0.5, rtol=0.05) if first else np.abs(value).max() <= 20**-0.5, name
    assert np.isclose(rnnfast.GRUCell(50, 20, init="ids", rng=0).params["weight_ih"].std(), 0.5, rtol=0.05)
    assert np.abs(rnnfast.Dense(16, 4, init="ids", rng=0).params["weight"]).max() <= 0.25
    assert np.isclose(init.embedding((400, 50), 0, scale=2.0).std(), 2.0, rtol=0.02)
    with pytest.raises(ValueError, match="scale: expected a number of at least 0"):
        init.embedding((2, 2), scale=-1.0)


@pytest.mark.parametrize("scheme", init.SCHEMES)
def test_seeds_give_the_same_values_in_both_dtypes(scheme):
    single = rnnfast.GRU(3, 4, 2, init=scheme, rng=5)
    double = rnnfast.GRU(3, 4, 2, init=scheme, rng=np.random.default_rng(5), dtype=np.float64)
    np.testing.assert_array_equal(single.params.flat, double.params.flat.astype(np.float32))
    assert not np.array_equal(rnnfast.GRU(3, 4, 2, init=scheme).params.flat, single.params.flat)


def test_a_function_initialises():
    seen = []

    def fill(name, shape, rng):
        seen.append((name, shape))
        assert isinstance(rng, np.random.Generator)
        return np.full(shape, len(seen))

    cell = rnnfast.RNNCell(2, 3, init=fill)
    assert seen == list(cell.params.shapes.items())
    assert [value.flat[0] for value in cell.params.values()] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"init\('weight_ih'\): expected shape \[3, 2\], got \[2, 3\]"):
        rnnfast.RNNCell(2, 3, init=lambda name, shape, rng: np.zeros(shape[::-1]))
    with pytest.raises(TypeError, match=r"init\('weight_ih'\): expected an array of real numbers"):
        rnnfast.RNNCell(2, 3, init=lambda name, shape, rng: None)
    with pytest.raises(ValueError, match="init: expected one of 'pytorch', 'xavier', 'ids', got 'he'"):
        rnnfast.RNNCell(2, 3, init="he")
    assert not init.zeros((2, 3)).any()


# Configuration of the package -----------------------------------------------------------------------------------------


def test_show_config():
    text = io.StringIO()
    assert rnnfast.show_config(text) is None
    assert f"version: {rnnfast.__version__}\n" in text.getvalue()
    info = rnnfast.config.info()
    assert info["isa"] in info["isa_available"]
    assert info["extras"]["safetensors"] is None or info["extras"]["safetensors"][0].isdigit()
    for name in info:
        assert f"{name}: " in text.getvalue()


def test_num_threads_is_settable():
    before = rnnfast.get_num_threads()
    try:
        rnnfast.set_num_threads(3)
        assert rnnfast.get_num_threads() == 3
        for bad, error in ((0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError)):
            with pytest.raises(error, match="num_threads: expected an integer"):
                rnnfast.set_num_threads(bad)
        assert rnnfast.get_num_threads() == 3
    finally:
        rnnfast.set_num_threads(before)


def test_unknown_attributes_are_missing():
    with pytest.raises(AttributeError, match="no attribute 'LSTN'"):
        _ = rnnfast.LSTN
    assert {"LSTM", "checkpoint", "__version__"} <= set(dir(rnnfast))
