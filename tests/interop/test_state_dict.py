"""State dictionaries and safetensors files, without PyTorch; narrow numbers; files of other programs."""

from __future__ import annotations

import numpy as np
import pytest
from registry import assert_same_bits
from shared import refused

import rnnfast
from rnnfast import checkpoint, interop

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is an extra")

PARTS = [
    rnnfast.RNN(3, 5, rng=0),
    rnnfast.LSTM(3, 5, 2, bidirectional=True, rng=0),
    rnnfast.LSTM(2, 7, 3, proj_size=1, bias=False, rng=0),
    rnnfast.LSTM(2, 4, proj_size=1, rng=0, dtype=np.float64),
    rnnfast.GRU(1, 1, bidirectional=True, bias=False, rng=0),
    rnnfast.GRU(100, 17, 2, rng=0, dtype=np.float64),
    rnnfast.RNNCell(3, 5, rng=0),
    rnnfast.LSTMCell(3, 1, rng=0),
    rnnfast.GRUCell(1, 5, bias=False, rng=0),
    rnnfast.Dense(3, 2, rng=0),
    rnnfast.Dense(3, 2, bias=False, rng=0),
]


def prefixed(part, prefix):
    return {prefix + name: np.array(value) for name, value in part.params.items()}


@pytest.mark.parametrize("prefix", ["", "net.rnn."])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_all_but_the_activation_follows_from_the_names(part, prefix, tmp_path):
    tensors = prefixed(part, prefix) | ({"other.weight": np.full(3, np.nan)} if prefix else {})
    found = interop.from_state_dict(tensors, prefix)
    assert found.config() == part.config()
    assert_same_bits(found.params.flat, part.params.flat)
    safetensors.save_file(tensors, tmp_path / "a.safetensors")
    read = interop.from_safetensors(tmp_path / "a.safetensors", prefix.removesuffix("."))
    assert read.config() == part.config()
    assert_same_bits(read.params.flat, part.params.flat)
    assert read.origin.startswith("a.safetensors, PyTorch state dictionary")


def test_what_names_do_not_say():
    relu = interop.from_state_dict(prefixed(PARTS[0], ""), nonlinearity="relu", batch_first=True, dtype=np.float64)
    assert (relu.nonlinearity, relu.batch_first, relu.dtype) == ("relu", True, np.float64)
    table = interop.from_state_dict({"weight": np.ones((4, 2))}, embedding=True)
    assert (type(table).__name__, table.num, table.dim) == ("Embedding", 4, 2)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_narrow_numbers_widen_exactly(name, tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed, which has bfloat16")
    dtype = np.dtype(name if name == "float16" else ml_dtypes.bfloat16)
    layer = rnnfast.LSTM(3, 5, rng=0)
    tensors = {key: value.astype(dtype) for key, value in layer.params.items()}
    safetensors.save_file(tensors, tmp_path / "a.safetensors")
    for found in (interop.from_state_dict(tensors), interop.from_safetensors(tmp_path / "a.safetensors")):
        assert found.dtype == np.float32
        for key, value in tensors.items():
            assert_same_bits(found.params[key], value.astype(np.float32))
    x = np.random.default_rng(0).standard_normal((9, 4, 3)).astype(dtype)
    for view in (x, x[::2], x[:, ::-1], x[:, :, :1].repeat(3, axis=2)):
        assert_same_bits(layer(view)[0], layer(view.astype(np.float32))[0])


def without(name):
    tensors = prefixed(rnnfast.LSTM(3, 5, 2, rng=0), "")
    del tensors[name]
    return tensors


NET = prefixed(PARTS[1], "encoder.rnn.") | prefixed(PARTS[-1], "head.")
REFUSED = [
    (3, "", TypeError, "tensors: expected a mapping from names to arrays, got int 3"),
    (NET, 3, TypeError, "prefix: expected a string, got int 3"),
    (NET, "", ValueError, r"prefix: expected that of .*, got ''; modules are behind \['encoder.rnn.', 'head.'\]"),
    ({"a": 1}, "", ValueError, r"prefix: expected that of .*, got ''; the names are \['a'\]"),
    (without("bias_hh_l1"), "", ValueError, "tensors: expected 'bias_hh_l1' of a LSTM, got no such name"),
    (without("weight_hh_l0"), "", ValueError, "tensors: expected 'weight_hh_l0' beside 'weight_ih_l0'"),
    (without("weight_ih_l0"), "", ValueError, "prefix: expected that of an RNN, LSTM"),
    (NET | {"head.scale": 1.0}, "head", ValueError, r"tensors: expected those .*, got also \['head.scale'\]"),
    (NET | {"head.weight": np.ones(3)}, "head", ValueError, r"tensors\['head.weight'\]: expected a matrix, got array"),
    (NET | {"head.weight": np.full((2, 3), np.inf)}, "head", ValueError, r"tensors\['head.weight'\]: expected finite"),
    (NET | {"head.weight": "x"}, "head", TypeError, r"tensors\['head.weight'\]: expected an array of real numbers"),
    ({"weight_ih_l0": np.ones((10, 3)), "weight_hh_l0": np.ones((10, 5))}, "", ValueError,
     r"tensors: expected matrices of .*, got weight_ih_l0 \[10, 3\] and weight_hh_l0 \[10, 5\]"),
    ({"weight_ih_l0": np.ones((20, 3)), "weight_hh_l0": np.ones((20, 0))}, "", ValueError, ".* expected a matrix"),
    (without("weight_ih_l1") | {"weight_ih_l1": np.ones((20, 4))}, "", ValueError,
     r"tensors\['weight_ih_l1'\]: expected shape \[20, 5\], got \[20, 4\]"),
]  # fmt: skip


def test_bad_options():
    for part in PARTS[:2]:
        tensors = prefixed(part, "")
        message = "nonlinearity: expected one of 'tanh', 'relu', got 'gelu'"
        refused(lambda tensors=tensors: interop.from_state_dict(tensors, nonlinearity="gelu"), ValueError, message)
    refused(lambda: interop.from_state_dict(tensors, batch_first=1), TypeError, "batch_first: expected True or False")
    refused(lambda: interop.from_state_dict(tensors, dtype="float16"), TypeError, "dtype: expected float32 or float64")


@pytest.mark.parametrize(("tensors", "prefix", "error", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(tensors, prefix, error, message):
    refused(lambda: interop.from_state_dict(tensors, prefix), error, message)


def test_a_layer_that_is_given_a_whole_net_hints_at_the_prefix():
    layer = rnnfast.LSTM(3, 5, 2, bidirectional=True)
    with pytest.raises(ValueError, match=r"they are there behind the prefix 'encoder.rnn.': rnnfast.interop"):
        layer.load(NET)
    with pytest.raises(ValueError, match=r"missing names \[weight, bias\]$"):
        rnnfast.Dense(3, 2).load({"head.weight": np.ones((2, 3)), "x": 1})


def test_files_that_lie(tmp_path):
    path = tmp_path / "a.safetensors"
    refused(lambda: interop.from_safetensors(path), FileNotFoundError, "path: expected a safetensors file, but")
    refused(lambda: interop.from_safetensors(tmp_path), FileNotFoundError, "path: .* is not a file")
    data = safetensors.save(prefixed(PARTS[0], ""))
    huge = b'{"weight":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4000000000000000000]}}'
    lies = [data[:cut] for cut in (0, 1, 8, 100, len(data) - 1)]
    for content in (*lies, data + b"\0", b"PK\3\4" + data, len(huge).to_bytes(8, "little") + huge):
        path.write_bytes(content)
        refused(lambda: interop.from_safetensors(path), ValueError, r".*a\.safetensors: truncated, damaged, or not a")


def test_a_checkpoint_tells_another_program_s_file_from_a_damaged_one(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.save_file(prefixed(PARTS[0], ""), path)
    refused(lambda: checkpoint.load(path), ValueError, r".*a\.safetensors: .* rnnfast.interop.from_safetensors reads")
    checkpoint.save(path, PARTS[0])
    assert interop.from_safetensors(path).config() == PARTS[0].config()
