"""Agreement with PyTorch's nn.RNN, nn.LSTM and nn.GRU, forward and backward, with weights from their state_dict."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from registry import ISAS, TOLERANCES, Case, assert_close, map_state, parts, swap

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
torch.set_num_threads(1)

KINDS = ("elman_tanh", "elman_relu", "lstm", "gru_after")  # those that PyTorch has
SHAPES = (
    {"num_layers": 1, "bidirectional": False, "batch_first": False, "bias": True},
    {"num_layers": 3, "bidirectional": False, "batch_first": True, "bias": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": False, "bias": True},
    {"num_layers": 1, "bidirectional": True, "batch_first": True, "bias": False},
)
every = pytest.mark.parametrize(
    "case",
    [
        Case(kind, ISAS[-1], dtype, T=9, B=5, H=21, I=13, **shape)
        for kind, dtype, shape in product(KINDS, (np.float32, np.float64), SHAPES)
    ],
    ids=str,
)


def twin(case):
    """PyTorch's module, and rnnfast's layer with the same weights."""
    family, _, nonlinearity = case.kind.partition("_")
    cls = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[family]
    choice = {"nonlinearity": nonlinearity} if family == "elman" else {}
    torch.manual_seed(0)
    options = case.options | {"dtype": torch.float32 if case.dtype == np.float32 else torch.float64}
    module = cls(case.I, case.H, **choice, **options)
    layer = case.layer()
    layer.load(module.state_dict())
    return module, layer


def tensor(array):
    return torch.tensor(array, requires_grad=array.dtype.kind == "f")


def compare(case, module, layer, run_module):
    """Runs both, forward and backward, and compares all that comes out. `run_module` maps (x, state) to (y, state)."""
    data = case.data
    x, dy = swap(case, data.x), swap(case, data.dy)
    forward_tolerance, backward_tolerance = TOLERANCES[np.dtype(case.dtype)]

    inputs = tensor(np.nan_to_num(x)), map_state(tensor, data.state)
    expected, expected_state = run_module(*inputs)
    loss = (expected * tensor(np.nan_to_num(dy))).sum()
    for part, gradient in zip(parts(expected_state), parts(data.dstate), strict=True):
        loss = loss + (part * tensor(gradient)).sum()
    loss.backward()

    y, state, tape = layer.forward(x, data.state, **data.masks)
    grads = layer.backward(tape, dy, data.dstate)
    assert_close(y, expected.detach().numpy(), forward_tolerance)
    assert_close(grads.x, inputs[0].grad.numpy(), backward_tolerance)
    for actual, wanted in zip(parts(state), parts(expected_state), strict=True):
        assert_close(actual, wanted.detach().numpy(), forward_tolerance)
    for actual, wanted in zip(parts(grads.state), parts(inputs[1]), strict=True):
        assert_close(actual, wanted.grad.numpy(), backward_tolerance)
    for name, parameter in module.named_parameters():
        assert_close(grads.params[name], parameter.grad.numpy(), backward_tolerance)


@every
def test_layers_agree(case):
    module, layer = twin(case)
    compare(case, module, layer, module)


@every
def test_lengths_agree_with_packed_sequences(case):
    case = replace(case, mask="lengths")
    lengths = case.data.masks["lengths"] = np.array([3, 9, 1, 9, 4])
    ended = np.arange(case.T)[:, None] >= lengths
    case.data.x[np.isnan(case.data.x)] = 0.5
    case.data.dy[np.isnan(case.data.dy)] = 0.5
    case.data.x[ended] = case.data.dy[ended] = np.nan
    module, layer = twin(case)
    utils = torch.nn.utils.rnn

    def packed(x, state):
        pack = utils.pack_padded_sequence(x, torch.tensor(lengths), case.batch_first, enforce_sorted=False)
        y, state = module(pack, state)
        return utils.pad_packed_sequence(y, case.batch_first, total_length=case.T)[0], state

    compare(case, module, layer, packed)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_the_names_and_shapes_of_pytorch(kind):
    module, layer = twin(Case(kind, ISAS[-1], num_layers=2, bidirectional=True, H=5, I=3))
    assert layer.params.shapes == {name: tuple(value.shape) for name, value in module.state_dict().items()}
    module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in layer.params.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_arrays(kind):
    """Anything with DLPack on the CPU goes in."""
    _, layer = twin(case := Case(kind, ISAS[-1], H=5, I=3, T=4, B=2))
    x, state = case.data.x, case.data.state
    y, _ = layer(torch.from_numpy(x), map_state(torch.from_numpy, state))
    np.testing.assert_array_equal(y, layer(x, state)[0])
