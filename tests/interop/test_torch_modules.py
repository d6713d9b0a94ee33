"""Modules of PyTorch that run our kernels, compared with its own: values, gradients, what a program does to them."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
from registry import CATALOGUE, parts
from shared import refused

import rnnfast

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")

from rnnfast import torch as ours  # noqa: E402 - needs PyTorch

torch.set_num_threads(1)
F64 = torch.float64
CASES = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 3, "bias": False}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"proj_size": 2, "bidirectional": True}),
    ("GRU", {"bias": False, "batch_first": True}),
    ("GRU", {"num_layers": 2}),
]
every = pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.:DeprecationWarning"),
]


def pair(kind, sizes=(3, 5), dtype=F64, **options):
    """PyTorch's module and ours, of the same seed."""
    made = []
    for package in (torch.nn, ours):
        torch.manual_seed(0)
        made.append(getattr(package, kind)(*sizes, dtype=dtype, **options))
    return made


def state_of(module, batch):
    """An initial state, as one leaf or two."""
    directions = module.num_layers * (1 + module.bidirectional)
    widths = [module.proj_size or module.hidden_size, *([module.hidden_size] if module.mode == "LSTM" else [])]
    made = [torch.randn(directions, batch, width, dtype=F64).requires_grad_() for width in widths]
    return tuple(made) if len(made) > 1 else made[0]


def leaves(state):
    """The same numbers as leaves of another graph."""
    made = [one.detach().clone().requires_grad_() for one in parts(state)]
    return tuple(made) if len(made) > 1 else made[0]


def loss(y, state):
    return (y * y.detach().cos()).sum() + sum((one.sin() * 2).sum() for one in parts(state))


def compare(theirs, mine, call, x, state):
    """All values and gradients; `call` maps (module, x, state) to (y, state)."""
    results = []
    for module in (theirs, mine):
        own_x, own_state = x.detach().clone().requires_grad_(), leaves(state)
        y, final = call(module, own_x, own_state)
        loss(y, final).backward()
        inputs = [own_x, *parts(own_state), *module.parameters()]
        results.append([y, *parts(final), *(one.grad for one in inputs)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@every
def test_values_and_gradients_are_pytorch_s(kind, options):
    theirs, mine = pair(kind, **options)
    assert isinstance(mine, getattr(torch.nn, kind))
    assert all(map(torch.equal, theirs.parameters(), mine.parameters()))
    for batch in (1, 4):
        x = torch.randn(*((batch, 6, 3) if theirs.batch_first else (6, batch, 3)), dtype=F64)
        compare(theirs, mine, lambda module, *inputs: module(*inputs), x, state_of(theirs, batch))


@every
def test_packed_sequences(kind, options):
    theirs, mine = pair(kind, **options)
    utils, lengths = torch.nn.utils.rnn, [3, 6, 1, 6]
    x = torch.randn(*((4, 6, 3) if theirs.batch_first else (6, 4, 3)), dtype=F64)

    def call(module, x, state):
        packed = utils.pack_padded_sequence(x, lengths, module.batch_first, enforce_sorted=False)
        y, final = module(packed, state)
        assert isinstance(y, utils.PackedSequence)
        return utils.pad_packed_sequence(y, module.batch_first)[0], final

    compare(theirs, mine, call, x, state_of(theirs, 4))
    masked = mine(x, lengths=lengths)[0]
    torch.testing.assert_close(masked, call(theirs, x, None)[0])
    packed = utils.pack_sequence([torch.randn(n, 3, dtype=F64) for n in (5, 4, 1)])  # sorted, and told so
    for one, other in zip(mine(packed)[0], theirs(packed)[0], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other)


@every
def test_unbatched_input(kind, options):
    theirs, mine = pair(kind, **options)
    x = torch.randn(6, 3, dtype=F64)
    torch.testing.assert_close(mine(x), theirs(x))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_finite_differences(kind):
    module = pair(kind, (2, 3), bidirectional=True)[1]
    x, state = torch.randn(4, 2, 2, dtype=F64, requires_grad=True), state_of(module, 2)
    names = [name for name, _ in module.named_parameters()]

    def call(x, *rest):
        count = len(parts(state))
        own = rest[:count] if count > 1 else rest[0]
        with torch.no_grad():
            weights = dict(zip(names, rest[count:], strict=True))
        y, final = torch.func.functional_call(module, weights, (x, own), {"lengths": [4, 3]})
        return y, *parts(final)

    weights = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    assert torch.autograd.gradcheck(call, (x, *parts(state), *weights))


def test_resets_and_masks():
    module = pair("GRU")[1]
    x = torch.randn(6, 2, 3, dtype=F64, requires_grad=True)
    resets = torch.zeros(6, 2, dtype=torch.bool)
    resets[3] = True
    y, _ = module(x, resets=resets)
    torch.testing.assert_close(y[3:], module(x[3:])[0])
    mask = torch.ones(6, 2, dtype=torch.bool)
    mask[2] = False
    torch.testing.assert_close(module(x, mask=mask)[0][3:], module(torch.cat([x[:2], x[3:]]))[0][2:])
    y.sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda module: [parameter.data.mul_(0.5) for parameter in module.parameters()],
        lambda module: module.load_state_dict({k: v + 1 for k, v in module.state_dict().items()}),
        lambda module: module.load_state_dict({k: v + 1 for k, v in module.state_dict().items()}, assign=True),
        lambda module: module.float() and module.double(),
        lambda module: torch.nn.init.normal_(module.weight_hh_l0),
    ],
)
def test_weights_may_change_in_any_way(change):
    theirs, mine = pair("LSTM")
    x = torch.randn(4, 2, 3, dtype=F64)
    mine(x)
    for module in (theirs, mine):
        torch.manual_seed(1)
        change(module)
    torch.testing.assert_close(mine(x), theirs(x))


def test_an_optimiser_trains_both_alike():
    theirs, mine = pair("LSTM", num_layers=2)
    x, target = torch.randn(5, 3, 3, dtype=F64), torch.randn(5, 3, 5, dtype=F64)
    for module in (theirs, mine):
        optimizer = torch.optim.Adam(module.parameters(), 1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(module(x)[0], target).backward()
            optimizer.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_one_module_twice_in_a_graph_and_backward_twice():
    theirs, mine = pair("GRU")
    for module in (theirs, mine):
        torch.manual_seed(1)
        x = torch.randn(4, 2, 3, dtype=F64, requires_grad=True)
        y = module(x)[0].sum() + module(x.flip(0))[0].pow(2).sum()
        y.backward(retain_graph=True)
        y.backward()
        module.found = [x.grad, *(parameter.grad for parameter in module.parameters())]
    for one, other in zip(mine.found, theirs.found, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_is_of_training_alone_and_of_pytorch_s_seed():
    module = pair("LSTM", num_layers=2, dropout=0.5)[1]
    x = torch.randn(5, 3, 3, dtype=F64)
    torch.manual_seed(3)
    first, second = module(x)[0], module(x)[0]
    torch.manual_seed(3)
    assert torch.equal(module(x)[0], first)
    assert not torch.equal(first, second)
    grads = [torch.autograd.grad(first.sum(), module.weight_hh_l1, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*grads)
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])
    with torch.no_grad():
        assert torch.equal(module(x)[0], module.train()(x)[0]) is True


def test_second_derivatives_are_refused():
    module = pair("GRU")[1]
    x = torch.randn(4, 2, 3, dtype=F64, requires_grad=True)
    for target in ([x], list(module.parameters())):
        first = torch.autograd.grad(module(x)[0].sum(), target, create_graph=True)
        with pytest.raises(RuntimeError, match="expected first derivatives alone, got a second backward"):
            sum(one.sum() for one in first).backward()


def test_a_changed_input_is_refused():
    module = pair("GRU")[1]
    x = torch.randn(4, 2, 3, dtype=F64, requires_grad=True)
    inside = x * 1
    y = module(inside)[0]
    with torch.no_grad():
        inside += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_copies_and_files():
    module = pair("LSTM", num_layers=2)[1]
    x = torch.randn(4, 2, 3, dtype=F64)
    y = module(x)[0]
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(x)[0], y)
        twin.weight_ih_l0.data.zero_()
        assert torch.equal(module(x)[0], y)


def test_nothing_is_copied():
    """Input and output are the tensors' own memory, where that is as the kernels read it."""
    module = pair("GRU", dtype=torch.float32)[1]
    seen = []

    class Spy(rnnfast.GRU):
        def __call__(self, x, *args, **options):
            y, state = super().__call__(x, *args, **options)
            seen.append((x.ctypes.data, y.ctypes.data))
            return y, state

    module.__dict__["_twin"] = ours._Twin(Spy(3, 5))
    x = torch.randn(4, 2, 3)
    with torch.no_grad():
        y, _ = module(x)
    assert seen == [(x.data_ptr(), y.data_ptr())]


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_module_of_any_cell(name):
    layer = rnnfast.Recurrent(CATALOGUE[name], 3, 4, num_layers=2, dtype=np.float64, rng=0)
    twin = pickle.loads(pickle.dumps(layer))
    module = ours.Recurrent(layer)
    assert repr(layer) in repr(module)
    x = torch.randn(5, 2, 3, dtype=F64, requires_grad=True)
    rng = np.random.default_rng(0)
    given = {one.name: rng.random((5, 2) if one.domain is None else (5, 2, twin._recurrence.layout.widths[one.domain]))
             for one in twin._recurrence.layout.program.given}  # fmt: skip
    y, state = module(x, lengths=torch.tensor([5, 3]), given=given or None)
    loss(y, state).backward()
    own_y, own_state, tape = twin.forward(x.detach(), lengths=[5, 3], given=given or None)
    np.testing.assert_array_equal(y.detach(), own_y)
    dstate = tuple(2 * np.cos(part) for part in parts(own_state))
    grads = twin.backward(tape, np.cos(own_y), dstate if len(dstate) > 1 else dstate[0])
    np.testing.assert_allclose(x.grad, grads.x, rtol=1e-12, atol=1e-14)
    for key, parameter in module.named_parameters():
        np.testing.assert_allclose(parameter.grad, grads.params[key], rtol=1e-12, atol=1e-14)


def test_a_random_cell_that_is_differentiated_in_eval_is_refused():
    module = ours.Recurrent(rnnfast.LSTM(3, 4, zoneout=0.5)).eval()
    x = torch.ones(4, 2, 3)
    with torch.no_grad():
        assert torch.equal(module(x)[0], module(x)[0])
    refused(lambda: module(x), ValueError, r"eval: expected torch.no_grad\(\)")


def test_compile_and_trace():
    module = pair("LSTM", dtype=torch.float32)[1]
    x = torch.randn(4, 2, 3)
    with torch.no_grad():
        compiled = torch.compile(module, backend="eager")
        torch.testing.assert_close(compiled(x)[0], module(x)[0])
    refused(lambda: torch.jit.trace(module, x), RuntimeError, "rnnfast.torch: expected a call outside torch.jit.trace")


def test_what_is_refused():
    module, x = pair("LSTM", dtype=torch.float32)[1], torch.ones(4, 2, 3)
    h = torch.zeros(1, 2, 5)
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(2, 3)])
    for call, error, message in [
        (lambda: module(np.ones((4, 2, 3))), TypeError, "input: expected a tensor, got array of float64"),
        (lambda: module(x.double()), ValueError, "input: expected torch.float32, which the weights are, got torch.flo"),
        (lambda: module(torch.ones(4, 2, 7)), ValueError, r"x: expected \[T, B, I\] or \[T, I\] with I=3"),
        (lambda: module(x, h), ValueError, r"hx: expected the state \(h, c\), got 1 tensors"),
        (lambda: module(x, (h, 3)), TypeError, "hx: expected a tensor, got int 3"),
        (lambda: module(x, (h, h[:, :1])), ValueError, r"state\[1\]: expected shape \[L\*D, B, H\] \[1, 2, 5\], got"),
        (lambda: module(x, lengths=[5, 4]), ValueError, "lengths: expected values in 0..T, 0..4, got 5 in row 0"),
        (lambda: module(packed, lengths=[2]), ValueError, "lengths: expected None with a packed sequence"),
        (lambda: module(x.to("meta")), ValueError, "input: expected tensors on the CPU, got one on meta"),
        (
            lambda: copy.deepcopy(module).half()(x.half()),
            TypeError,
            "LSTM: expected weights of float32 or float64, got",
        ),
        (lambda: ours.Recurrent(3), TypeError, "layer: expected a layer of rnnfast"),
    ]:
        refused(call, error, message)
