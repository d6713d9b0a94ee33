"""ONNX's nodes RNN, LSTM and GRU on our layers: its own tests, random nodes, dtypes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from shared import refused

onnx = pytest.importorskip("onnx", reason="onnx is an extra")

import suites  # noqa: E402 - needs onnx

from rnnfast.interop import onnx as door  # noqa: E402
from rnnfast.interop import onnx_backend  # noqa: E402

NODE_TESTS = dict(suites.onnx_node_tests())


@pytest.mark.parametrize("name", NODE_TESTS)
def test_onnx_s_own(name):
    NODE_TESTS[name]()


def test_onnx_s_own_are_there():
    assert len(NODE_TESTS) >= 12  # those of onnx 1.19


@pytest.mark.parametrize("block", range(15))
def test_random_nodes_against_onnx_runtime(block):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: nothing to compare with")
    for seed in range(20 * block, 20 * (block + 1)):
        suites.check_random_node(seed)


def run(op, attributes, inputs):
    return door.load(suites.node_model(op, attributes, inputs))(inputs)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("seed", range(6))
def test_dtypes(seed, name):
    """Narrow numbers are widened, and only the result is rounded; float64 is computed in float64."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes comes with onnx")
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    op, attributes, inputs = suites.random_node(seed)
    narrow = {key: value.astype(dtype) if value.dtype == np.float32 else value for key, value in inputs.items()}
    wide = {key: value.astype(np.float32) if value.dtype == dtype else value for key, value in narrow.items()}
    expected = run(op, attributes, wide)
    for key, found in run(op, attributes, narrow).items():
        assert found.dtype == dtype
        if name == "float64":
            suites.close(found, expected[key], 1e-5)
        else:
            np.testing.assert_array_equal(found, expected[key].astype(dtype))


def test_a_row_of_length_0_ends_with_zeros():
    op, attributes, inputs = next(
        node for node in map(suites.random_node, range(100)) if {"sequence_lens", "initial_h"} <= set(node[2])
    )
    inputs["sequence_lens"][0] = 0
    found = run(op, attributes, inputs)
    assert not found["Y"][:, :, 0].any()
    assert not found["Y_h"][:, 0].any()


def test_weights_that_are_inputs_may_change():
    op, attributes, inputs = suites.random_node(3)
    graph = door.load(suites.node_model(op, attributes, inputs))
    first = graph(inputs)
    changed = inputs | {"W": -inputs["W"]}
    second = graph(changed)
    fresh = run(op, attributes, changed)
    for name, value in fresh.items():
        np.testing.assert_array_equal(second[name], value)
        np.testing.assert_array_equal(graph(inputs)[name], first[name])


def lstm(**change):
    """A valid LSTM node's attributes and inputs, with some of them changed; None takes one away."""
    rng = np.random.default_rng(0)
    shapes = {"X": (4, 2, 3), "W": (1, 20, 3), "R": (1, 20, 5), "B": (1, 40), "P": (1, 15)}
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs |= {name: change.pop(name) for name in list(change) if name[0].isupper() or name in ("initial_h",)}
    if "lengths" in change:
        inputs["sequence_lens"] = np.array(change.pop("lengths"), np.int32)
    return "LSTM", {"hidden_size": 5} | change, inputs


def zeros(*shape):
    return np.zeros(shape, np.float32)


REFUSED = [
    (lstm(activations=["Tanh"]), "the LSTM node of Y, Y_h, Y_c: activations: expected 3 functions, got"),
    (
        lstm(activations=["Gelu"] * 3),
        "the LSTM node of .*: activations: expected functions among Affine, .*, got 'Gelu'",
    ),
    (
        lstm(activations=["Affine", "Tanh", "Tanh"]),
        ".*: activation_alpha: expected a finite number for Affine, got nan",
    ),
    (
        lstm(direction="sideways"),
        ".*: direction: expected one of 'forward', 'reverse', 'bidirectional', got 'sideways'",
    ),
    (lstm(layout=2), ".*: layout: expected an integer in 0..1, got 2"),
    (lstm(clip=-1.0), ".*: clip: expected a number above 0, got -1.0"),
    (lstm(hidden_size=0), ".*: hidden_size: expected an integer in"),
    (lstm(hidden_size=7), ".*: W: expected shape .1, 28, 3., got .1, 20, 3."),
    (
        lstm(linear_before_reset=1),
        "model: expected a valid ONNX model, got Unrecognized attribute: linear_before_reset",
    ),
    (lstm(W=zeros(2, 20, 3)), ".*: W: expected shape .1, 20, 3., got .2, 20, 3."),
    (lstm(W=zeros(20, 3)), ".*: W: expected three axes, got array of float32, shape .20, 3."),
    (lstm(R=zeros(1, 20, 0)), ".*: R: expected three axes, got"),
    (lstm(B=zeros(1, 20)), ".*: B: expected shape .1, 40., got .1, 20."),
    (lstm(P=zeros(1, 5)), ".*: P: expected shape .1, 15., got .1, 5."),
    (lstm(X=zeros(4, 3)), ".*: X: expected three axes, got"),
    (lstm(X=zeros(4, 2, 4)), ".*: x: expected .T, B, I. or .T, I. with I=3, got"),
    (lstm(initial_h=zeros(1, 3, 5)), ".*: initial_h: expected shape .1, 2, 5., got .1, 3, 5."),
    (lstm(lengths=[5, 1]), ".*: lengths: expected values in 0..T, 0..4, got 5 in row 0"),
    (lstm(lengths=[1]), ".*: lengths: expected shape .B. .2., got .1."),
    (lstm(R=np.full((1, 20, 5), np.nan, np.float32)), ".*: R: expected finite weights, got 100 that are not"),
]


@pytest.mark.parametrize(("node", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(node, message):
    refused(lambda: run(*node), ValueError, message)


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
@pytest.mark.parametrize("seed", range(8))
def test_nodes_in_functions_and_branches(seed, domain):
    """None of them is left to the evaluator's own operators, which know no lengths and no activations."""
    helper = onnx.helper
    op, attributes, inputs = suites.random_node(seed)
    expected = run(op, attributes, inputs)
    model = suites.node_model(op, attributes, inputs)
    node, names = model.graph.node[0], list(inputs)
    node.domain = domain
    opset = helper.make_opsetid(domain, 14)
    opsets = [opset, helper.make_opsetid("own", 1)]
    body = helper.make_function("own", "F", names, list(expected), [node], [opset])
    call = helper.make_node("F", names, list(expected), domain="own")
    graph = helper.make_graph([call], "g", model.graph.input, model.graph.output)
    within = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[body])
    values = [helper.make_empty_tensor_value_info(f"inner_{name}") for name in expected]
    inner = helper.make_node(op, node.input, [one.name for one in values], domain=domain, **attributes)
    branch = helper.make_graph([inner], "branch", [], values)
    choice = helper.make_node("If", ["yes"], list(expected), then_branch=branch, else_branch=branch, domain=domain)
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    graph = helper.make_graph([choice], "g", model.graph.input, model.graph.output, [yes])
    chosen = helper.make_model(graph, opset_imports=opsets[:1], ir_version=8)
    for made in (within, chosen):
        found = door.load(made)(inputs)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_the_backend():
    op, attributes, inputs = suites.random_node(5)
    model = suites.node_model(op, attributes, inputs)
    expected = run(op, attributes, inputs)
    rep = onnx_backend.prepare(model)
    given = [inputs[name] for name in rep.graph.inputs]
    for found in (rep.run(given), rep.run(inputs), onnx_backend.run_model(model, given)):
        assert all(map(np.array_equal, found, expected.values()))
    assert all(map(np.array_equal, onnx_backend.run_node(model.graph.node[0], given), expected.values()))
    assert onnx_backend.supports_device("CPU")
    assert not onnx_backend.supports_device("CUDA:0")
    refused(lambda: onnx_backend.prepare(model, "CUDA"), ValueError, "device: expected 'CPU', got 'CUDA'")
    refused(lambda: rep.run([*given, given[0]]), ValueError, "inputs: expected at most")
    assert onnx_backend.RnnfastBackend.is_compatible(model)
    model.opset_import[0].version = 1000
    assert not onnx_backend.RnnfastBackend.is_compatible(model)
