"""Whole ONNX models: out and in again, through ONNX Runtime, from PyTorch, and files that lie."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from registry import parts
from shared import refused

import rnnfast
from rnnfast import interop
from rnnfast.description import cells

onnx = pytest.importorskip("onnx", reason="onnx is an extra")

import suites  # noqa: E402 - needs onnx
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

T, B = 6, 4
F64 = {"dtype": np.float64, "rng": 0}
MODELS = {
    "lstm": lambda: rnnfast.LSTM(3, 5, 2, bidirectional=True, rng=0),
    "gru": lambda: rnnfast.GRU(3, 17, batch_first=True, reset_after=False, rng=0),
    "rnn": lambda: rnnfast.RNN(3, 1, reverse=True, bias=False, nonlinearity=("leaky_relu", 0.3), rng=0),
    "options": lambda: rnnfast.LSTM(
        3, 7, peephole=True, coupled=True, activations=("hard_sigmoid", "linear", ("elu", 0.5)), rng=0,
        init=lambda name, shape, rng: rng.random(shape) - 0.5,
    ),
    "clip": lambda: rnnfast.Recurrent(cells.gru.GRU(gate_clip=0.3), 3, 5, bidirectional=True, rng=0),
    "dropout": lambda: rnnfast.LSTM(3, 5, recurrent_dropout=0.5, rng=0),
    "head": lambda: rnnfast.Model(
        rnn=rnnfast.GRU(3, 6, 2, batch_first=True, rng=0), head=rnnfast.Dense(6, 4, activation="softmax", rng=0)
    ),
    "ids": lambda: rnnfast.Model(
        table=rnnfast.Embedding(7, 3, rng=0), rnn=rnnfast.LSTM(3, 5, rng=0), head=rnnfast.Dense(5, 2, bias=False, rng=0)
    ),
    "relu": lambda: rnnfast.Model(
        rnn=rnnfast.GRU(3, 5, rng=0), norm=rnnfast.LayerNorm(5), drop=rnnfast.Dropout(0.5, rng=0),
        head=rnnfast.Dense(5, 4, activation="relu", rng=0), more=rnnfast.Dense(4, 2, activation="softplus", rng=0),
    ),
    "between": lambda: rnnfast.Model(
        a=rnnfast.Dense(3, 4, activation="tanh", rng=0), b=rnnfast.GRU(4, 5, bidirectional=True, rng=0)
    ),
}  # fmt: skip
every = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def sequence(part, steps, rows):
    rng = np.random.default_rng(steps)
    if isinstance(part, rnnfast.Model) and "table" in part.parts:
        return rng.integers(0, 7, (steps, rows))
    x = rng.standard_normal((steps, rows, 3)).astype(part.dtype)
    return x.swapaxes(0, 1).copy() if part.batch_first else x


def states_of(part, rows):
    """Random initial states: as the graph's inputs and as ours."""
    rng, feeds, ours = np.random.default_rng(0), {}, {}
    layers = part.parts if isinstance(part, rnnfast.Model) else {"": part}
    for name, layer in layers.items():
        if isinstance(layer, rnnfast.Recurrent):
            layout, prefix = layer._recurrence.layout, f"{name}." if name else ""
            count = layout.num_layers * layout.directions
            made = [rng.standard_normal((count, rows, width)).astype(part.dtype) for width in layout.state_widths]
            feeds |= {f"{prefix}{letter}0": one for letter, one in zip("hc", made, strict=False)}
            ours[name] = tuple(made) if len(made) > 1 else made[0]
    return feeds, ours if isinstance(part, rnnfast.Model) else ours[""]


def flat(state):
    return [one for part in (state.values() if isinstance(state, dict) else [state]) for one in parts(part)]


@pytest.mark.parametrize(("lengths", "state", "last_only"), list(product((False, True), repeat=3)))
@every
def test_out_and_in_again(make, lengths, state, last_only, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: nothing to compare with")
    part = make()
    path = tmp_path / "a.onnx"
    proto = interop.to_onnx(part, path, lengths=lengths, state=state, last_only=last_only)
    assert path.read_bytes() == proto.SerializeToString()
    session, graph = runtime.InferenceSession(path), interop.onnx.load(path)
    for steps, rows in ((T, B), (1, 1)):
        x = sequence(part, steps, rows)
        feeds, ours, options = {"x": x}, None, {"last_only": last_only}
        if lengths:
            feeds["lengths"] = np.array([steps, 3, 1, 2][:rows], np.int32)
            options["lengths"] = feeds["lengths"]
        if state:
            more, ours = states_of(part, rows)
            feeds |= more
        y, final = part(x, ours, **options)
        expected = [y, *(flat(final) if state else [])]
        found = [session.run(None, feeds), list(graph(feeds).values())]
        for one, other, wanted in zip(*found, expected, strict=True):
            suites.close(one, wanted, 1e-5)
            suites.close(other, wanted, 1e-5)
    model = graph.to_model()
    assert model.origin.startswith("ONNX a.onnx (opset 17, rnnfast")
    assert ("pool" in model.parts) == last_only
    again, _, tape = model.forward(x, lengths=options.get("lengths"))
    suites.close(again, part(x, **options)[0], 1e-5)
    assert np.isfinite(model.backward(tape, again).params.flat).all()


@every
@pytest.mark.parametrize("opset", [17, 22])
def test_opsets_and_shapes(make, opset):
    proto = interop.to_onnx(make(), opset=opset)
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    assert [one.version for one in inferred.opset_import] == [opset]
    names = [
        [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in inferred.graph.output
    ]
    assert names[0][:2] in (["time", "batch"], ["batch", "time"])
    assert interop.onnx.load(proto).to_model().params.size == make().params.size


@pytest.mark.parametrize("activation", rnnfast.heads.ACTIVATIONS)
def test_activations_of_heads(activation):
    head = rnnfast.Dense(3, 4, activation=activation, **F64)
    x = 3 * np.random.default_rng(0).standard_normal((T, B, 3))
    found = interop.onnx.load(interop.to_onnx(head, opset=14))(x)["y"]
    suites.close(found, head(x), 1e-7 if activation == "gelu" else 1e-12)  # the evaluator's erf is in float32


@pytest.mark.parametrize("opset", [14, 18])
@pytest.mark.parametrize("kind", ["last", "mean", "max"])
def test_pools(kind, opset):
    rnn = rnnfast.LSTM(3, 5, bidirectional=True, batch_first=True, rng=0)
    pool = rnnfast.Pool(kind, batch_first=True, bidirectional=kind == "last")
    model = rnnfast.Model(rnn=rnn, pool=pool, head=rnnfast.Dense(10, 2, rng=0))
    x = sequence(model, T, B)
    proto = interop.to_onnx(model, opset=opset)
    suites.close(interop.onnx.load(proto)(x)["y"], model(x)[0], 1e-6)
    assert [dim.dim_param for dim in proto.graph.output[0].type.tensor_type.shape.dim] == ["batch", ""]
    if kind == "last":
        suites.close(interop.onnx.load(proto).to_model()(x)[0], model(x)[0], 1e-6)


def test_each_direction_with_activations_of_its_own():
    op, attributes, inputs = next(
        made
        for made in map(suites.random_node, range(100))
        if made[1].get("activations", [0, 0])[::2] != made[1].get("activations", [0, 0])[1::2]
        and (made[0], made[1]["direction"], "sequence_lens" in made[2]) == ("RNN", "bidirectional", False)
    )
    weights = [(name, inputs[name]) for name in ("W", "R")]
    tail = [node("Transpose", ["Y"], ["t"], perm=[0, 2, 1, 3]), node("Reshape", ["t", "s"], ["y"])]
    size = 2 * attributes["hidden_size"]
    x = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "b", inputs["X"].shape[2]])]
    graph = interop.onnx.load(
        a_row(node(op, ["x", "W", "R"], ["Y"], **attributes), *tail, inputs=x,
              weights=[*weights, ("s", np.array([0, 0, size]))])
    )  # fmt: skip
    model = graph.to_model()
    assert list(model.parts) == ["rnn", "rnn_reverse", "rnn_both"]
    suites.close(model(inputs["X"])[0], graph(inputs["X"])["y"], 1e-6)


def test_float64_stays():
    layer = rnnfast.LSTM(3, 5, 2, peephole=True, **F64)
    graph = interop.onnx.load(interop.to_onnx(layer))
    x = np.random.default_rng(0).standard_normal((T, B, 3))
    np.testing.assert_array_equal(graph(x)["y"], layer(x)[0])
    assert graph.to_model().dtype == np.float64


def test_calls():
    graph = interop.onnx.load(interop.to_onnx(MODELS["lstm"](), lengths=True))
    x, lengths = np.ones((T, B, 3), np.float32), np.full(B, T, np.int32)
    assert graph({"x": x.tolist(), "lengths": lengths.tolist()}, ["y"])["y"].shape == (T, B, 10)
    assert (graph.inputs, graph.outputs) == (["x", "lengths"], ["y"])
    assert len(graph.nodes) == 2
    refused(lambda: graph(x), TypeError, r"inputs: expected a mapping with the names \['x', 'lengths'\], got array")
    refused(lambda: graph({"x": x}), ValueError, r"inputs: expected the names .*, missing \['lengths'\]")
    refused(lambda: graph({"x": x, "lengths": lengths, "z": x}), ValueError, r"inputs: .* got surplus \['z'\]")
    refused(lambda: graph({"x": x, "lengths": lengths}, ["z"]), ValueError, r"outputs: expected names among \['y'\]")
    refused(
        lambda: graph({"x": "x", "lengths": lengths}), TypeError, r"inputs\['x'\]: expected an array of real numbers"
    )
    refused(lambda: graph({"x": x[..., :2], "lengths": lengths}), ValueError, "node 'LSTM_0': x: expected")


OUT = [
    (lambda: 3, TypeError, "part: expected a layer, Dense, Embedding or Model, got int 3"),
    (lambda: rnnfast.LSTMCell(3, 4), TypeError, "part: expected a layer"),
    (lambda: rnnfast.LSTM(3, 4, proj_size=2), ValueError, "part: expected a cell that ONNX has, .* got LSTM"),
    (lambda: rnnfast.LSTM(3, 4, layer_norm=True), ValueError, "part: expected a cell that ONNX has"),
    (lambda: rnnfast.GRU(3, 4, zoneout=0.1), ValueError, "part: expected a cell that ONNX has, .* got Wrapped"),
    (lambda: rnnfast.RNN(3, 4, leak=0.5), ValueError, "part: expected a cell that ONNX has, .* got Elman"),
    (
        lambda: rnnfast.RNN(3, 4, nonlinearity="silu"),
        ValueError,
        "part: expected activations among Affine, .* got 'silu'",
    ),
    (lambda: rnnfast.Model(a=rnnfast.GRU(3, 4), b=rnnfast.SLSTM(4, 4)), ValueError, r"part\['b'\]: expected a cell"),
    (lambda: rnnfast.Model(a=rnnfast.GRU(3, 4), b=rnnfast.Dense(3, 4), inputs={"b": "x"}), ValueError,
     "part: expected a Model in which each part reads the one before"),
    (lambda: rnnfast.Model(a=rnnfast.Dense(3, 4), b=rnnfast.Pool("last")), ValueError,
     r"part\['b'\]: expected a layer of the same directions before"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), OUT, ids=range(len(OUT)))
def test_what_can_not_go_out(make, error, message, tmp_path):
    refused(lambda: interop.to_onnx(make(), tmp_path / "a.onnx"), error, message)
    assert not list(tmp_path.iterdir())


def test_options_of_the_way_out(tmp_path):
    layer = MODELS["rnn"]()
    refused(lambda: interop.to_onnx(layer, opset=13), ValueError, "opset: expected an integer in 14..")
    refused(lambda: interop.to_onnx(layer, lengths=1), TypeError, "lengths: expected True or False, got int 1")
    message = "lengths, state, last_only: expected False for a part without recurrent layers"
    refused(lambda: interop.to_onnx(rnnfast.Dense(3, 2), lengths=True), ValueError, message)
    with pytest.raises(OSError, match="missing"):
        interop.to_onnx(layer, tmp_path / "missing" / "a.onnx")


# Graphs of others


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("options", suites.EXPORTED, ids=str)
def test_what_pytorch_exports(kind, options):
    pytest.importorskip("torch", reason="PyTorch is not installed, whose exporter this is about")
    suites.check_export(kind, options, dynamo=False, trains=True)


def test_from_pytorch_through_onnx_and_its_runtime():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, where the model comes from")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed, through which it goes")
    torch.manual_seed(0)
    module, x = torch.nn.GRU(3, 7, 2, bidirectional=True, batch_first=True), torch.randn(B, T, 3)
    layer = interop.from_torch(module)
    proto = interop.to_onnx(layer)
    found = runtime.InferenceSession(proto.SerializeToString()).run(None, {"x": x.numpy()})[0]
    suites.close(found, module(x)[0].detach().numpy(), 1e-5)
    first, second = interop.onnx.load(proto).to_model().parts.values()
    weights = {name.replace("_l0", "_l1"): value for name, value in second.params.items()} | dict(first.params)
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(weights[name], value.numpy())


def a_row(*nodes, weights=(), inputs=None, output="y"):
    """A model of some nodes."""
    x = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "b", 3])]
    y = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights]
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "g", x, y, tensors), opset_imports=opsets, ir_version=8)


W, R = np.ones((1, 5, 3), np.float32) / 9, np.ones((1, 5, 5), np.float32) / 9
SQUARE = ("M", np.ones((3, 3), np.float32))
node = helper.make_node
NO_ROWS = [
    (a_row(node("RNN", ["x", "W", "R"], ["Y"], name="rnn"), node("Relu", ["Y"], ["y"], name="last"),
           weights=[("W", W), ("R", R)]), "ONNX model .*, node 'last': expected RNN, LSTM, .* got Relu"),
    (a_row(node("MatMul", ["x", "M"], ["a"]), node("Add", ["a", "x"], ["y"]), weights=[SQUARE]),
     "ONNX model .*, the Add node of y: expected .* got an input, 'a', where a weight stands"),
    (a_row(node("MatMul", ["x", "M"], ["y"]), weights=[SQUARE],
           inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, [10**6, 10**6, 3])]),
     "ONNX model .*: expected inputs of at most 16777216 numbers to try it on, got"),
    (a_row(node("MatMul", ["x", "M"], ["a"]), node("Tanh", ["a"], ["b"]), node("Mul", ["b", "b"], ["y"]),
           weights=[SQUARE]), "ONNX model .*, the Mul node of y: expected RNN, LSTM"),
    (a_row(node("MatMul", ["x", "M"], ["a"]), node("Slice", ["a", "s", "e"], ["y"]),
           weights=[SQUARE, ("s", np.array([1])), ("e", np.array([3]))]),
     "ONNX model .*: expected a row of layers and heads; a model of dense has another output: shape"),
    (a_row(node("MatMul", ["x", "z"], ["y"]), inputs=[helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 3])
                                                      for name in "xz"]), ".*: expected one input beside lengths"),
]  # fmt: skip


@pytest.mark.parametrize(("proto", "message"), NO_ROWS, ids=range(len(NO_ROWS)))
def test_graphs_that_are_no_row_of_parts(proto, message):
    graph = interop.onnx.load(proto)
    refused(graph.to_model, ValueError, message)


# Files that lie


def lies():
    """(bytes, message)"""
    good = interop.to_onnx(MODELS["gru"]())
    data = good.SerializeToString()
    damaged = "truncated, damaged, or not an ONNX file"
    for cut in (0, 1, 10, len(data) // 2, len(data) - 1):
        yield data[:cut], "truncated, damaged, or not an ONNX file|expected a valid ONNX model|tensor"
    yield b"PK\3\4" + data, damaged
    yield b"\0" * 64, damaged

    def changed(change):
        proto = onnx.ModelProto.FromString(data)
        change(proto)
        return proto.SerializeToString()

    def initializer(name, **values):
        def change(proto):
            tensor = next(one for one in proto.graph.initializer if one.name == name)
            for field, value in values.items():
                if field == "dims":
                    tensor.ClearField("dims")
                    tensor.dims.extend(value)
                else:
                    setattr(tensor, field, value)

        return change

    yield (
        changed(initializer("W_l0", dims=[10**9, 10**9])),
        "tensor 'W_l0': expected 4000000000000000000 numbers or bytes",
    )
    yield changed(initializer("W_l0", dims=[1, -51, 3])), "tensor 'W_l0': expected sizes of at least 0"
    yield changed(initializer("W_l0", dims=[1, 17, 9])), "node 'GRU_1': W: expected shape"
    yield data.replace(b"GRU_1", b"GRU\xa01"), "names in it are no text"
    yield data.replace(b"GRU", b"\xffRU"), "names in it are no text"

    def element(proto):
        proto.graph.input[0].type.tensor_type.elem_type = 33

    yield changed(element), "'x': expected one of ONNX's data types, got 33"
    yield changed(initializer("W_l0", data_type=999)), "tensor 'W_l0': expected one of ONNX's data types, got 999"
    yield changed(initializer("W_l0", data_type=TensorProto.DOUBLE)), "tensor 'W_l0': expected 1224 numbers or bytes"
    nan = np.full((1, 51, 3), np.nan, np.float32).tobytes()
    yield changed(initializer("W_l0", raw_data=nan)), "node 'GRU_1': W: expected finite weights, got 153 that are not"

    def opset(proto):
        proto.opset_import[0].version = 1000

    yield changed(opset), r"expected an opset in 1..\d+, which onnx .* knows, got 1000"
    yield changed(lambda proto: proto.ClearField("opset_import")), "expected a valid ONNX model"
    yield changed(lambda proto: setattr(proto.graph.node[1], "op_type", "Gru")), "node 'GRU_1': expected an operator"
    yield (
        changed(lambda proto: setattr(proto.graph.node[1], "domain", "com.x")),
        "expected an operator .* got com.x.GRU",
    )
    yield changed(lambda proto: proto.graph.node[1].attribute.extend([helper.make_attribute("colour", 1)])), "colour"
    far = onnx.ModelProto.FromString(data)
    far.graph.node.add(op_type="LayerNormalization", input=["y", "y"], output=["z"], name="norm").attribute.add(
        name="axis", i=-(2**40), type=onnx.AttributeProto.INT
    )
    yield far.SerializeToString(), f"node 'norm': expected an axis of an array, got -{2**40}"
    huge = helper.make_attribute("hidden_size", 2**40)
    yield changed(lambda proto: proto.graph.node[1].attribute.extend([huge])), "hidden_size"


@pytest.mark.parametrize("number", range(len(list(lies()))))
def test_files_that_lie(number, tmp_path):
    path = tmp_path / "a.onnx"
    data, message = list(lies())[number]
    path.write_bytes(data)

    def use():
        interop.onnx.load(path)(np.ones((2, 3, 3), np.float32))

    with pytest.raises(ValueError, match=f"a.onnx.*({message})|{message}"):
        use()


def external(tmp_path, **entries):
    """A model whose W lies in another file, with some of what it says about that changed."""
    proto = interop.to_onnx(MODELS["gru"]())
    tensor = next(one for one in proto.graph.initializer if one.name == "W_l0")
    data = tensor.raw_data
    (tmp_path / "w.bin").write_bytes(b"\0" * 8 + data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin", "offset": 8, "length": len(data)} | entries).items():
        tensor.external_data.add(key=key, value=str(value))
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "a.onnx"


def test_external_data(tmp_path):
    x = np.ones((2, 3, 3), np.float32)
    found = interop.onnx.load(external(tmp_path))(x)["y"]
    np.testing.assert_array_equal(found, MODELS["gru"]()(x)[0])
    message = ".*tensor 'W_l0': expected data in the model"
    refused(lambda: interop.onnx.load(external(tmp_path).read_bytes()), ValueError, message)
    for entries, message in [
        ({"location": "../w.bin"}, "expected data within the model's folder, got '../w.bin'"),
        ({"location": "/etc/passwd"}, "expected data within the model's folder, got '/etc/passwd'"),
        ({"location": ""}, "expected data within the model's folder, got ''"),
        ({"location": "none.bin"}, "expected a file 'none.bin' beside the model, got none"),
        ({"offset": 9}, r"expected bytes within the 620 of 'w.bin', got 9 to 621"),
        ({"offset": -8}, r"expected bytes within the 620 of 'w.bin', got -8 to"),
        ({"length": 10**15}, "expected bytes within the 620 of 'w.bin', got 8 to"),
        ({"length": 600}, "expected 612 numbers or bytes for shape .*, got 600"),
        ({"length": "x"}, "expected an offset and a length in 'w.bin'"),
    ]:
        refused(lambda entries=entries: interop.onnx.load(external(tmp_path, **entries)), ValueError,
                rf".*a.onnx, tensor 'W_l0': {message}")  # fmt: skip
    outside = tmp_path.parent / "outside.bin"
    outside.write_bytes(b"\0" * 612)
    (tmp_path / "link.bin").symlink_to(outside)
    path = external(tmp_path, location="link.bin", offset=0)
    refused(lambda: interop.onnx.load(path), ValueError, ".*expected data within the model's folder, got 'link.bin'")


def test_missing_files(tmp_path):
    refused(lambda: interop.onnx.load(tmp_path / "a.onnx"), FileNotFoundError, "source: expected an ONNX file, but")
    refused(lambda: interop.onnx.load(tmp_path), FileNotFoundError, "source: .* is not a file")
    refused(lambda: interop.onnx.load(3), TypeError, "source: expected a path, bytes or an onnx.ModelProto, got int 3")
