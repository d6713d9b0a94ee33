"""Other people's test suites, as cases to run on us: a name, and a function that raises where we fall short.

The tests run some of them; `tools/suites.py` runs them all and counts.

- ONNX's node tests, through our backend.
- Random nodes RNN, LSTM and GRU, with all attributes, against ONNX Runtime. The node tests are weak: they notice
  nothing when the lengths are ignored.
- Models that PyTorch's exporters write: they run, and become models that train.
- PyTorch's module inputs and error inputs, on `rnnfast.torch` and through `from_torch` and `to_torch`.
- scikit-learn's checks of estimators.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from rnnfast import interop

Check = Callable[[], None]


class Suite(NamedTuple):
    """A suite and its cases."""

    title: str
    needs: tuple[str, ...]  # packages
    cases: Callable[[], Iterator[tuple[str, Check]]]


def close(actual: Any, expected: Any, tolerance: float) -> None:
    """Largest difference at most `tolerance` times the largest value, or 1."""
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    error = np.abs(np.asarray(actual, np.float64) - expected).max(initial=0.0)
    assert error <= tolerance * max(1.0, np.abs(expected).max(initial=0.0)), f"error {error:.3g}"


# ONNX -----------------------------------------------------------------------------------------------------------------


def onnx_node_tests(pattern: str = "(lstm|gru|rnn)") -> Iterator[tuple[str, Check]]:
    """Those whose names have the pattern in them."""
    import onnx.backend.test
    import pytest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suite = onnx.backend.test.BackendTest(interop.onnx_backend.RnnfastBackend, __name__)
        suite.include(pattern)
        cases = suite.test_cases
    for cls in cases.values():
        for name in sorted(dir(cls)):
            if name.startswith("test_") and name.endswith("_cpu"):
                function = getattr(cls, name)
                if not getattr(function, "__unittest_skip__", False):
                    yield name, _quiet(lambda cls=cls, name=name: getattr(cls(name), name)(), pytest.skip.Exception)


def _quiet(function: Callable[[], Any], skipped: type[BaseException]) -> Check:
    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the evaluator's NumPy code
            function()

    return run


FUNCTIONS = {
    "Affine": 2, "Elu": 1, "HardSigmoid": 2, "LeakyRelu": 1, "Relu": 0, "ScaledTanh": 2, "Sigmoid": 0, "Softplus": 0,
    "Softsign": 0, "Tanh": 0, "ThresholdedRelu": 1,
}  # fmt: skip
"""ONNX's activations, and how many numbers each takes."""
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def random_node(seed: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """An operator, attributes, and inputs in layout 0."""
    rng = np.random.default_rng(seed)
    op = str(rng.choice(list(GATES)))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D, G = 1 + (direction == "bidirectional"), GATES[op]
    H, I, B, T = (int(rng.choice(sizes)) for sizes in ((1, 3, 7, 17), (1, 2, 5), (1, 2, 5), (1, 2, 6)))  # noqa: E741
    attributes: dict[str, Any] = {"direction": direction, "hidden_size": H}
    if rng.random() < 0.5:
        names = [str(name) for name in rng.choice(list(FUNCTIONS), {"RNN": 1, "GRU": 2, "LSTM": 3}[op] * D)]
        attributes["activations"] = names
        for which, fewest in (("alpha", 1), ("beta", 2)):
            if values := [float(rng.uniform(0.1, 1.0)) for name in names if FUNCTIONS[name] >= fewest]:
                attributes[f"activation_{which}"] = values
    if rng.random() < 0.3:
        attributes["clip"] = float(rng.uniform(0.1, 2.0))
    if op == "LSTM" and rng.random() < 0.3:
        attributes["input_forget"] = 1
    if op == "GRU" and rng.random() < 0.5:
        attributes["linear_before_reset"] = 1

    def normal(*shape: int) -> Any:
        return (0.4 * rng.standard_normal(shape)).astype(np.float32)

    inputs = {"X": normal(T, B, I), "W": normal(D, G * H, I), "R": normal(D, G * H, H)}
    inputs["R"] /= np.sqrt(np.float32(H))  # some activations grow without bound
    optional: dict[str, Any] = {
        "B": lambda: normal(D, 2 * G * H),
        "sequence_lens": lambda: rng.integers(0, T + 1, B).astype(np.int32),
        "initial_h": lambda: normal(D, B, H),
    }
    if op == "LSTM":
        optional |= {"initial_c": lambda: normal(D, B, H), "P": lambda: normal(D, 3 * H)}
    for name, make in optional.items():
        if rng.random() < 0.5:
            inputs[name] = make()
    return op, attributes, inputs


def node_model(op: str, attributes: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """A model of one node, with all of its inputs as the graph's."""
    from onnx import helper

    order = ("X", "W", "R", "B", "sequence_lens", "initial_h", *(("initial_c", "P") if op == "LSTM" else ()))
    outputs = ("Y", "Y_h", *(("Y_c",) if op == "LSTM" else ()))
    node = helper.make_node(op, [name if name in inputs else "" for name in order], outputs, **attributes)
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    kind = helper.np_dtype_to_tensor_dtype(inputs["X"].dtype)
    made = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    graph = helper.make_graph([node], "node", values, made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def batch_first(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs in layout 1."""
    swapped = {name for name in ("X", "initial_h", "initial_c") if name in inputs}
    return {name: array.swapaxes(0, 1).copy() if name in swapped else array for name, array in inputs.items()}


def check_random_node(seed: int) -> None:
    """Against ONNX Runtime, which has layout 0 alone; ours are run in both."""
    import onnxruntime

    op, attributes, inputs = random_node(seed)
    session = onnxruntime.InferenceSession(node_model(op, attributes, inputs).SerializeToString())
    expected = session.run(None, inputs)
    found = interop.onnx.load(node_model(op, attributes, inputs))(inputs)
    for one, wanted in zip(found.values(), expected, strict=True):
        close(one, wanted, 1e-4)
    swapped = batch_first(inputs)
    again = interop.onnx.load(node_model(op, attributes | {"layout": 1}, swapped))(swapped)
    for name, one in again.items():
        np.testing.assert_array_equal(one, found[name].transpose((2, 0, 1, 3) if name == "Y" else (1, 0, 2)))


def onnx_random_nodes(count: int = 1500) -> Iterator[tuple[str, Check]]:
    """As many nodes."""
    for seed in range(count):
        yield f"seed {seed}", lambda seed=seed: check_random_node(seed)  # type: ignore[misc]


# PyTorch --------------------------------------------------------------------------------------------------------------

KINDS = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "Linear", "Embedding")
BEYOND_FIRST = "second derivatives"


def torch_modules() -> Iterator[tuple[str, Check]]:
    """PyTorch's own inputs of its modules: values, gradients, round trips, errors, second derivatives."""
    import torch
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        kind = info.name.removeprefix("nn.")
        if kind not in KINDS:
            continue
        for dtype in (torch.float32, torch.float64):
            for training in (False, True):
                options = {"device": "cpu", "dtype": dtype, "training": training}
                torch.manual_seed(0)
                for n, one in enumerate(info.module_inputs_func(info, requires_grad=True, **options)):
                    name = f"{kind} {n} {dtype} {'train' if training else 'eval'}"
                    yield from _of_input(name, kind, one, dtype)
                if info.module_error_inputs_func is not None:
                    for n, one in enumerate(info.module_error_inputs_func(info, requires_grad=False, **options)):
                        yield (
                            f"{kind} error {n} {dtype}",
                            lambda one=one, kind=kind, dtype=dtype: _refuses(kind, one, dtype),
                        )


def _made(kind: str, arguments: Any, dtype: Any) -> tuple[Any, Any]:
    """PyTorch's module and ours of the same seed; of what `rnnfast.torch` has not, the part."""
    import torch

    import rnnfast.torch

    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(*arguments.args, **arguments.kwargs).to(dtype)
    if not hasattr(rnnfast.torch, kind):
        return theirs, interop.from_torch(theirs)
    torch.manual_seed(1)
    return theirs, getattr(rnnfast.torch, kind)(*arguments.args, **arguments.kwargs).to(dtype)


def _flat(results: Any) -> list[Any]:
    import torch

    if results is None:
        return []
    return (
        [results]
        if isinstance(results, torch.Tensor | np.ndarray)
        else [one for part in results for one in _flat(part)]
    )


def _arrays(results: Any) -> list[Any]:
    return [one.detach().numpy() if hasattr(one, "detach") else one for one in _flat(results)]


def _leaves(value: Any) -> Any:
    """Copies of all tensors, leaves of a graph of their own."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.is_floating_point())
    return tuple(_leaves(one) for one in value) if isinstance(value, tuple | list) else value


def _of_input(name: str, kind: str, given: Any, dtype: Any) -> Iterator[tuple[str, Check]]:
    import torch

    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    given_inputs = (*given.forward_input.args, *given.forward_input.kwargs.values())

    def values() -> None:
        theirs, mine = _made(kind, given.constructor_input, dtype)
        inputs = _leaves(given_inputs)
        plain = inputs if isinstance(mine, torch.nn.Module) else _detached(inputs)
        for one, wanted in zip(_arrays(mine(*plain)), _arrays(theirs(*inputs)), strict=True):
            close(one, wanted, tolerance)

    def gradients() -> None:
        theirs, mine = _made(kind, given.constructor_input, dtype)
        found = []
        for module in (theirs, mine):
            inputs = _leaves(given_inputs)
            sum((one * (n + 1)).sum() for n, one in enumerate(_flat(module(*inputs)))).backward()
            leaves = [*_flat(inputs), *module.parameters()]
            found.append([one.grad.numpy() for one in leaves if one.grad is not None])
        for one, wanted in zip(*found, strict=True):
            close(one, wanted, 10 * tolerance)

    def round_trip() -> None:
        theirs, _ = _made(kind, given.constructor_input, dtype)
        again = interop.to_torch(interop.from_torch(theirs))
        inputs = _leaves(given_inputs)
        for one, wanted in zip(_flat(again(*inputs)), _flat(theirs(*inputs)), strict=True):
            assert torch.equal(one, wanted)

    def second() -> None:
        _, mine = _made(kind, given.constructor_input, dtype)
        inputs = _leaves(given_inputs)
        first = torch.autograd.grad(_flat(mine(*inputs))[0].sum(), [*_flat(inputs)][:1], create_graph=True)
        first[0].pow(2).sum().backward()

    yield f"{name}, values", values
    yield f"{name}, round trip", round_trip
    if not kind.endswith("Cell") and kind not in ("Linear", "Embedding"):
        yield f"{name}, gradients", gradients
        yield f"{name}, {BEYOND_FIRST}", second


def _detached(inputs: Any) -> Any:
    import torch

    return inputs.detach() if isinstance(inputs, torch.Tensor) else tuple(_detached(one) for one in inputs)


def _refuses(kind: str, given: Any, dtype: Any) -> None:
    """An error that PyTorch raises is one of ours, too."""
    import torch

    error = given.module_error_input
    try:
        _, mine = _made(kind, error.constructor_input, dtype)
        inputs = error.forward_input.args
        mine(*(inputs if isinstance(mine, torch.nn.Module) else _detached(inputs)))
    except (TypeError, ValueError, RuntimeError):
        return
    raise AssertionError("nothing was refused")


EXPORTED = (
    {},
    {"num_layers": 2, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"bidirectional": True, "batch_first": True, "bias": False},
)
"""Of the layer that is exported."""


def check_export(kind: str, options: dict[str, Any], *, dynamo: bool, trains: bool) -> None:
    """A layer and a head as PyTorch's exporter writes them: the graph's values; with `trains`, those of the model."""
    import io

    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(torch.nn, kind)(3, 5, **options)
            self.head = torch.nn.Linear(5 * (1 + options.get("bidirectional", False)), 2)

        def forward(self, x: Any) -> Any:
            return torch.sigmoid(self.head(self.rnn(x)[0]))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(6, 4, 3)
    buffer = io.BytesIO()
    axes: dict[str, Any] = {} if dynamo else {"dynamic_axes": {name: {0: "a", 1: "b"} for name in "xy"}}
    torch.onnx.export(net, (x,), buffer, input_names=["x"], output_names=["y"], dynamo=dynamo, verbose=False, **axes)
    graph = interop.onnx.load(buffer.getvalue())
    expected = net(x).detach().numpy()
    close(graph(x.numpy())["y"], expected, 1e-5)
    if trains:
        model = graph.to_model()
        close(model(x.numpy())[0], expected, 1e-5)
        layers = options.get("num_layers", 1)
        assert [type(part).__name__ for part in model.parts.values()] == [kind] * layers + ["Dense"]
        assert model.batch_first == options.get("batch_first", False)


def torch_exports() -> Iterator[tuple[str, Check]]:
    """By both of PyTorch's exporters."""
    for dynamo, kind, options, trains in product((False, True), ("RNN", "LSTM", "GRU"), EXPORTED, (False, True)):
        name = f"{kind} {options} {'dynamo' if dynamo else 'TorchScript'}, {'model' if trains else 'graph'}"

        def check(kind: str = kind, options: Any = options, dynamo: bool = dynamo, trains: bool = trains) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    check_export(kind, options, dynamo=dynamo, trains=trains)
                except ValueError as error:
                    if dynamo and kind == "RNN":
                        raise ValueError("a model of loops that the exporter has written out") from error
                    raise

        yield name, check


# scikit-learn ---------------------------------------------------------------------------------------------------------


def sklearn_checks() -> Iterator[tuple[str, Check]]:
    """What scikit-learn asks of estimators, of each of ours."""
    from sklearn.utils.estimator_checks import estimator_checks_generator

    from rnnfast.sklearn import SequenceClassifier, SequenceForecaster, SequenceRegressor

    for kind in (SequenceClassifier, SequenceRegressor, SequenceForecaster):
        estimator = kind(hidden_size=8, max_iter=30, num_threads=1)
        for number, (one, check) in enumerate(estimator_checks_generator(estimator)):

            def quiet(one: Any = one, check: Any = check) -> None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        check(one)
                    except AssertionError as error:
                        if check.func.__name__.startswith("check_sample_weight_equivalence"):
                            raise ValueError("weights that do what repeated rows do: batches are random") from error
                        raise

            yield f"{kind.__name__} {number}, {check.func.__name__}", quiet


SUITES = {
    "onnx-nodes": Suite("ONNX node tests, RNN LSTM GRU", ("onnx",), onnx_node_tests),
    "onnx-random": Suite("random ONNX nodes against ONNX Runtime", ("onnx", "onnxruntime"), onnx_random_nodes),
    "torch-exports": Suite(
        "models exported by torch.onnx, both exporters", ("onnx", "torch", "onnxscript"), torch_exports
    ),
    "torch-modules": Suite("PyTorch's module inputs and error inputs", ("torch", "expecttest"), torch_modules),
    "sklearn-checks": Suite("scikit-learn's checks of estimators", ("sklearn",), sklearn_checks),
}
