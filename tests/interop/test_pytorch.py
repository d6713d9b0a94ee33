"""PyTorch's modules in and out, its packed sequences, and what is refused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from registry import assert_close, parts
from shared import refused

import rnnfast
from rnnfast import interop

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
nn = torch.nn
torch.set_num_threads(1)

OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
    for layers, both, first, bias in product((1, 2), (False, True), (False, True), (False, True))
]
LAYERS = [
    *(("RNN", {"nonlinearity": name} | more) for name, more in product(("tanh", "relu"), OPTIONS)),
    *(("LSTM", {"proj_size": size} | more) for size, more in product((0, 1, 3), OPTIONS)),
    *(("GRU", more) for more in OPTIONS),
]
SIZES = {"RNN": (1, 1), "LSTM": (3, 17), "GRU": (5, 7)}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def numpy(tensors):
    return [tensor.detach().numpy() for tensor in parts(tensors)]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_layers(kind, options, dtype):
    torch.manual_seed(0)
    I, H = SIZES[kind]  # noqa: E741
    H = max(H, options.get("proj_size", 0) + 1)
    module = getattr(nn, kind)(I, H, **options, dtype=dtype)
    layer = interop.from_torch(module)
    assert (type(layer).__name__, layer.origin) == (kind, f"torch.nn.{kind}")
    x = torch.randn(6, 4, I, dtype=dtype)
    y, state = module(x)
    directions = options["num_layers"] * (1 + options["bidirectional"])
    start = [torch.randn(directions, x.shape[1 - options["batch_first"]], one.shape[-1], dtype=dtype)
             for one in parts(state)]  # fmt: skip
    expected, final = module(x, tuple(start) if kind == "LSTM" else start[0])
    found, found_state = layer(x, tuple(start) if kind == "LSTM" else start[0])
    assert_close(found, *numpy(expected), TOLERANCE[dtype])
    for one, other in zip(parts(found_state), numpy(final), strict=True):
        assert_close(one, other, TOLERANCE[dtype])
    assert_close(layer(x)[0], *numpy(y), TOLERANCE[dtype])
    again = interop.to_torch(layer)
    assert type(again) is type(module)
    assert torch.equal(again(x)[0], y)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell", "Linear", "Embedding"])
def test_cells_and_heads(kind, bias):
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64)
    options = {"padding_idx": 2} if kind == "Embedding" else {"bias": bias}
    module = getattr(nn, kind)(3, 5, dtype=torch.float64, **options)
    if kind == "Embedding":
        x = torch.tensor([0, 2, 1])
    part = interop.from_torch(module)
    assert type(part).__name__ == {"Linear": "Dense"}.get(kind, kind)
    for one, other in zip(parts(part(x)), numpy(module(x)), strict=True):
        assert_close(one, other, 1e-12)
    for one, other in zip(parts(interop.to_torch(part)(x)), parts(module(x)), strict=True):
        assert torch.equal(one, other)
    assert getattr(part, "padding_idx", 2) == 2


def test_norms_and_dropout():
    torch.manual_seed(0)
    norm = nn.LayerNorm(6, eps=1e-3, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight)
    net = nn.Sequential(nn.GRU(3, 6, dtype=torch.float64), norm, nn.Dropout(0.3)).eval()
    model = interop.from_torch(net)
    assert model.parts["dropout"].p == 0.3
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    assert_close(model(x)[0], norm(net[0](x)[0]).detach().numpy(), 1e-12)
    torch.testing.assert_close(interop.to_torch(model).eval()(x)[0], norm(net[0](x)[0]))


def test_a_sequential_is_a_model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3), nn.Softmax(dim=-1))
    model = interop.from_torch(net)
    assert list(model.parts) == ["embedding", "gru", "linear"]
    ids = torch.randint(9, (5, 7))
    expected = net[3](net[2](net[1](net[0](ids))[0]))
    y, state = model(ids)
    assert_close(y, expected.detach().numpy(), 1e-5)
    chain = interop.to_torch(model)
    out, final = chain(ids)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(final["gru"], torch.from_numpy(state["gru"]))
    assert interop.from_torch(chain).config() == model.config()
    named = nn.Sequential()
    named.add_module("encoder", nn.LSTM(3, 4))
    named.add_module("head", nn.Linear(4, 2))
    assert list(interop.from_torch(named).parts) == ["encoder", "head"]
    nested = nn.Sequential(named, nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()))
    assert list(interop.from_torch(nested).parts) == ["lstm", "linear", "linear_2"]
    alone = interop.to_torch(interop.from_torch(nested).parts["linear_2"])
    assert [type(one).__name__ for one in alone] == ["Linear", "Sigmoid"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_widen_exactly(dtype):
    module = nn.LSTM(3, 5).to(dtype)
    layer = interop.from_torch(module)
    assert layer.dtype == np.float32
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(layer.params[name], value.float().numpy())
    x = torch.randn(4, 2, 3).to(dtype)
    np.testing.assert_array_equal(layer(x)[0], layer(x.float())[0])


def test_weight_norm_comes_in_as_the_weights_it_computes():
    module = nn.utils.parametrizations.weight_norm(nn.LSTM(3, 5), "weight_hh_l0")
    x = torch.randn(4, 2, 3)
    assert_close(interop.from_torch(module)(x)[0], *numpy(module(x)[0]), 1e-5)


def test_packed_sequences_go_there_and_back():
    rows = [torch.randn(n, 3) for n in (2, 5, 1, 5)]
    packed = nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    x, lengths = interop.from_packed(packed)
    assert lengths.tolist() == [2, 5, 1, 5]
    for b, row in enumerate(rows):
        np.testing.assert_array_equal(x[: len(row), b], row.numpy())
    module = nn.GRU(3, 4, bidirectional=True)
    y, state = interop.from_torch(module)(x, lengths=lengths)
    expected, final = module(packed)
    torch.testing.assert_close(interop.to_packed(y, lengths), expected)
    assert_close(state, *numpy(final), 1e-5)


def nan_lstm():
    module = nn.LSTM(3, 4, 2)
    with torch.no_grad():
        module.weight_hh_l1[2, 1] = np.nan
    return module


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4)


REFUSED_IN = [
    (lambda: 3, TypeError, "module: expected a torch.nn.Module, got int 3"),
    (lambda: nn.Conv1d(1, 1, 1), TypeError, "module: expected one of PyTorch's RNN, .*, got Conv1d$"),
    (Net, TypeError, "module: .* got Net; it has rnn in it, which can come in one by one"),
    (
        lambda: nn.LSTM(3, 4, device="meta"),
        ValueError,
        "module.weight_ih_l0: expected a tensor with values, got one on",
    ),
    (nan_lstm, ValueError, "module.weight_hh_l1: expected finite weights, got 1 that are not"),
    (lambda: nn.Embedding(3, 4, max_norm=1.0), ValueError, "module: expected an Embedding without max_norm"),
    (lambda: nn.Sequential(nn.LSTM(3, 4), nn.Flatten()), TypeError, r"module\['1'\]: expected one of .* got Flatten"),
    (lambda: nn.LayerNorm((3, 4)), ValueError, "module: expected a LayerNorm of one axis with weights, got LayerNorm"),
    (lambda: nn.Sequential(nn.LSTM(3, 4), nn.Tanh()), ValueError, r"module\['1'\]: expected a Linear before a Tanh"),
    (lambda: nn.Sequential(nn.Linear(3, 4), nn.Softmax(0)), ValueError, r"module\['1'\]: expected Softmax with dim=-1"),
    (lambda: nn.Sequential(nn.LSTM(3, 4), nn.Linear(5, 1)), ValueError, "linear: expected input_size 4"),
    (lambda: nn.Sequential(nn.LSTMCell(3, 4)), TypeError, "lstmcell: expected a Recurrent"),
]
REFUSED_OUT = [
    (lambda: 3, TypeError, "part: expected a layer, cell, head or Model, got int 3"),
    (lambda: rnnfast.LSTM(3, 4, peephole=True), ValueError, "part: expected an RNN of tanh or relu, .* got LSTM"),
    (lambda: rnnfast.LSTM(3, 4, zoneout=0.1), ValueError, "part: expected an RNN of tanh or relu, .* got Wrapped"),
    (lambda: rnnfast.GRU(3, 4, reset_after=False), ValueError, "part: .* or a GRU with reset_after"),
    (lambda: rnnfast.GRU(3, 4, reverse=True), ValueError, "part: expected layers that run forwards or both ways"),
    (lambda: rnnfast.LSTMCell(3, 4, proj_size=2), ValueError, "part: expected an RNN of tanh or relu"),
    (lambda: rnnfast.Model(a=rnnfast.LSTM(3, 4), b=rnnfast.SLSTM(4, 4)), ValueError, r"part\['b'\]: expected an RNN"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED_IN, ids=lambda value: getattr(value, "__name__", None))
def test_what_can_not_come_in(make, error, message):
    refused(lambda: interop.from_torch(make()), error, message)


@pytest.mark.parametrize(("make", "error", "message"), REFUSED_OUT, ids=lambda value: getattr(value, "__name__", None))
def test_what_can_not_go_out(make, error, message):
    refused(lambda: interop.to_torch(make()), error, message)


def test_bad_packing():
    refused(lambda: interop.from_packed([1]), TypeError, "packed: expected a torch.nn.utils.rnn.PackedSequence, got")
    y = np.zeros((3, 2, 1), np.float32)
    refused(lambda: interop.to_packed(y[0], [1]), ValueError, r"y: expected \[T, B, features\], got")
    refused(lambda: interop.to_packed(y, [1, 0]), ValueError, "lengths: expected values in 1..T")
    refused(lambda: interop.to_packed(y, None), ValueError, "lengths: expected values in 1..T")
    refused(lambda: interop.to_packed(y, [1, 4]), ValueError, "lengths: expected values in 0..T")
