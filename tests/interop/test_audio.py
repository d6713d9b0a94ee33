"""rnnfast.interop.audio: files of RTNeural, AIDA-X, GuitarML and Neural Amp Modeler, against readers of those layouts.

The readers here run a file's document sample by sample, in float64, as the programs that the formats belong to do. They
share nothing with the package.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import rnnfast
from rnnfast.interop import audio

RNG = np.random.default_rng(0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


ACTIVATIONS = {
    "": lambda z: z,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "sigmoid": sigmoid,
    "softmax": lambda z: np.exp(z - z.max()) / np.exp(z - z.max()).sum(),
}


def keras_lstm(weights):
    kernel, recurrent, bias = map(np.array, weights)
    h = c = np.zeros(len(recurrent))

    def step(x):
        nonlocal h, c
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h

    return step


def keras_gru(weights):
    kernel, recurrent, bias = map(np.array, weights)
    h = np.zeros(len(recurrent))

    def step(x):
        nonlocal h
        (xz, xr, xn), (hz, hr, hn) = np.split(x @ kernel + bias[0], 3), np.split(h @ recurrent + bias[1], 3)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xn + r * hn)
        return h

    return step


def read_rtneural(document):
    """RTNeural, and around it the gains and the skip of AIDA-X."""
    steps = []
    for layer in document["layers"]:
        weights = layer["weights"]
        if layer["type"] in ("lstm", "gru"):
            steps.append({"lstm": keras_lstm, "gru": keras_gru}[layer["type"]](weights))
            continue
        if layer["type"] != "activation":
            kernel, bias = np.array(weights[0]), np.array(weights[1] if len(weights) > 1 else 0)
            steps.append(lambda x, kernel=kernel, bias=bias: x @ kernel + bias)
        steps.append(ACTIVATIONS[layer["activation"]])
    before, after = (10 ** (document.get(key, 0) / 20) for key in ("in_gain", "out_gain"))

    def step(x):
        x = y = x * before
        for layer in steps:
            y = layer(y)
        return (y + x if document.get("in_skip") else y) * after

    return step


def read_guitarml(document):
    about = document["model_data"]
    tensors = {name: np.array(value) for name, value in document["state_dict"].items()}
    states = [np.zeros((2, about["hidden_size"])) for _ in range(about["num_layers"])]

    def step(x):
        y = x
        for n, (h, c) in enumerate(states):
            a = tensors[f"rec.weight_ih_l{n}"] @ y + tensors[f"rec.bias_ih_l{n}"]
            b = tensors[f"rec.weight_hh_l{n}"] @ h + tensors[f"rec.bias_hh_l{n}"]
            if about["unit_type"] == "LSTM":
                i, f, g, o = np.split(a + b, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                y = sigmoid(o) * np.tanh(c)
            elif about["unit_type"] == "GRU":
                (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
                z = sigmoid(az + bz)
                y = (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h
            else:
                y = np.tanh(a + b)
            states[n] = np.stack([y, c])
        return tensors["lin.weight"] @ y + tensors.get("lin.bias", 0) + (x[: about["skip"]] if about["skip"] else 0)

    return step


def read_nam(document):
    config, rest = document["config"], list(document["weights"])
    units = config["hidden_size"]

    def take(*shape):
        return np.array([rest.pop(0) for _ in range(math.prod(shape))]).reshape(shape)

    cells = []
    for n in range(config["num_layers"]):
        matrix, bias = take(4 * units, (units if n else config["input_size"]) + units), take(4 * units)
        cells.append([matrix, bias, take(units), take(units)])
    weight, bias = take(config.get("out_channels", 1), units), take(config.get("out_channels", 1))
    assert not rest

    def step(x):
        for cell in cells:
            i, f, g, o = np.split(cell[0] @ np.concatenate([x, cell[2]]) + cell[1], 4)
            cell[3] = sigmoid(f) * cell[3] + sigmoid(i) * np.tanh(g)
            x = cell[2] = sigmoid(o) * np.tanh(cell[3])
        return weight @ x + bias

    return step


def drawn(*shape):
    return (RNG.standard_normal(shape) / (1 + math.sqrt(shape[-1]))).tolist()


def rtneural(*kinds, channels=1, **more):
    """A document of layers, each (type, units, activation)."""
    layers, size = [], channels
    for kind, units, activation in kinds:
        weights = {
            "lstm": [drawn(size, 4 * units), drawn(units, 4 * units), drawn(4 * units)],
            "gru": [drawn(size, 3 * units), drawn(units, 3 * units), drawn(2, 3 * units)],
            "activation": [],
        }.get(kind, [drawn(size, units), drawn(units)])
        layers.append({"type": kind, "activation": activation, "shape": [None, None, units], "weights": weights})
        size = units
    return {"in_shape": [None, None, channels], "layers": layers, **more}


def without_biases(document):
    for layer in document["layers"]:
        layer["weights"] = layer["weights"][:1] if layer["type"] == "dense" else layer["weights"]
    return document


def guitarml(unit, units, count=1, channels=1, outputs=1, skip=1, bias=True):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[unit]
    tensors = {}
    for n in range(count):
        tensors[f"rec.weight_ih_l{n}"] = drawn(gates * units, units if n else channels)
        tensors[f"rec.weight_hh_l{n}"] = drawn(gates * units, units)
        tensors |= {f"rec.bias_{side}h_l{n}": drawn(gates * units) for side in "ih"}
    tensors["lin.weight"] = drawn(outputs, units)
    if bias:
        tensors["lin.bias"] = drawn(outputs)
    about = {"model": "SimpleRNN", "input_size": channels, "output_size": outputs, "skip": skip, "bias_fl": bias}
    return {
        "model_data": {**about, "unit_type": unit, "num_layers": count, "hidden_size": units},
        "state_dict": tensors,
    }


def nam(units, count=1, channels=1, outputs=None, **more):
    sizes = [4 * units * ((units if n else channels) + units + 1) + 2 * units for n in range(count)]
    config = {"input_size": channels, "hidden_size": units, "num_layers": count}
    if outputs is not None:
        config |= {"in_channels": channels, "out_channels": outputs}
    weights = drawn(sum(sizes) + (outputs or 1) * (units + 1))
    about = {"version": "0.5.2", "metadata": {"name": "amp"}, "architecture": "LSTM", "config": config}
    return {**about, "weights": (np.array(weights) * math.sqrt(len(weights) / (1 + units))).tolist(), **more}


DOCUMENTS = {
    **{
        f"lstm-{units}": (read_rtneural, rtneural(("lstm", units, "tanh"), ("dense", 1, "")))
        for units in (1, 7, 17, 40)
    },
    "gru": (read_rtneural, rtneural(("gru", 8, "tanh"), ("time-distributed-dense", 1, "tanh"))),
    "dense-gru-gru-lstm": (
        read_rtneural,
        rtneural(
            ("dense", 4, "tanh"),
            ("gru", 8, ""),
            ("gru", 3, ""),
            ("lstm", 5, ""),
            ("dense", 6, ""),
            ("activation", 6, "sigmoid"),
        ),
    ),
    "dense alone": (
        read_rtneural,
        rtneural(
            *(pair for name in ("relu", "elu", "tanh") for pair in (("dense", 6, ""), ("activation", 6, name))),
            channels=2,
        ),
    ),
    "no bias": (read_rtneural, without_biases(rtneural(("gru", 4, ""), ("dense", 3, "relu"), ("dense", 1, "")))),
    "softmax": (read_rtneural, rtneural(("lstm", 3, ""), ("dense", 4, "softmax"), channels=3)),
    "last-is-recurrent": (read_rtneural, rtneural(("gru", 2, "tanh"), channels=2)),
    "aida": (
        read_rtneural,
        rtneural(("lstm", 12, ""), ("dense", 1, ""), in_skip=1, in_gain=-3.5, out_gain=6.0, samplerate="48000"),
    ),
    "aida-no-skip": (read_rtneural, rtneural(("gru", 8, ""), ("dense", 1, ""), in_skip=0, in_gain=2, out_gain=-2)),
    **{f"guitarml-{unit}": (read_guitarml, guitarml(unit, 20)) for unit in ("LSTM", "GRU", "RNN")},
    "guitarml-conditioned": (read_guitarml, guitarml("LSTM", 16, 2, channels=3)),
    "guitarml-no-skip": (read_guitarml, guitarml("GRU", 9, skip=0, bias=False)),
    "guitarml-stereo": (read_guitarml, guitarml("LSTM", 9, channels=2, outputs=2, skip=2)),
    "nam-1": (read_nam, nam(1)),
    "nam-24": (read_nam, nam(24, 2, sample_rate=44100.0)),
    "nam-channels": (read_nam, nam(7, 3, channels=2, outputs=3)),
}


def written(tmp_path, document, name="model.json"):
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-13)])
def test_reads_what_the_format_says(name, dtype, tolerance, tmp_path):
    read, document = DOCUMENTS[name]
    model = audio.load(written(tmp_path, document), dtype=dtype)
    step, x = read(document), np.random.default_rng(1).standard_normal((200, model.input_size))
    expected = np.array([step(sample) for sample in x.astype(dtype).astype(np.float64)])
    y = model(x)
    assert y.dtype == dtype and y.shape == (200, model.output_size)
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    assert "model.json" in model.origin == model.model.origin
    assert all("model.json" in part.origin for part in model.model.parts.values())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_blocks_of_any_lengths_are_the_whole(name, tmp_path):
    model = audio.load(written(tmp_path, DOCUMENTS[name][1]))
    x = np.random.default_rng(1).standard_normal((130, model.input_size)).astype(np.float32)
    whole = model(x)
    for lengths in ([130], [1] * 130, [64, 2, 64], [0, 3, 0, 127]):
        blocks = [model.process(block) for block in np.split(x, np.cumsum(lengths)[:-1])]
        assert np.concatenate(blocks).tobytes() == whole.tobytes()
        model.reset()
    if model.input_size == model.output_size == 1:
        assert model.process(x[:50, 0]).tobytes() == whole[:50, 0].tobytes()
        assert model(x[:, 0]).shape == (130,)


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("lstm-17", ["rtneural", "aida-x", "guitarml", "nam"]),
        ("gru", ["rtneural", "aida-x"]),
        ("dense-gru-gru-lstm", ["rtneural"]),
        ("softmax", ["rtneural"]),
        ("aida", ["aida-x"]),
        ("guitarml-LSTM", ["guitarml", "aida-x"]),
        ("guitarml-GRU", ["guitarml", "aida-x"]),
        ("guitarml-RNN", ["guitarml"]),
        ("guitarml-stereo", ["guitarml"]),
        ("guitarml-no-skip", ["guitarml", "rtneural"]),
        ("nam-24", ["nam"]),
        ("nam-channels", ["nam"]),
    ],
)
def test_writes_what_the_formats_readers_read(name, formats, tmp_path):
    """The reader of the format computes what the model does, and so does the model that is read again."""
    model = audio.load(written(tmp_path, DOCUMENTS[name][1]), dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((60, model.input_size))
    for format in formats:
        path = tmp_path / f"out-{format}"
        audio.save(path, model, format)
        read = {"nam": read_nam, "guitarml": read_guitarml}.get(format, read_rtneural)
        step = read(json.loads(path.read_text()))
        np.testing.assert_allclose([step(sample) for sample in x], model(x), rtol=1e-12, atol=1e-12)
        again = audio.load(path, dtype=np.float64)
        np.testing.assert_allclose(again(x), model(x), rtol=1e-12, atol=1e-12)
        assert again.sample_rate == (None if format == "guitarml" else model.sample_rate)


def test_a_model_of_ones_own_goes_out_and_comes_in_with_the_same_bits(tmp_path):
    for bias in (True, False):
        rnn = rnnfast.LSTM(1, 9, 2, rng=0, bias=bias)
        model = rnnfast.Model(rnn=rnn, head=rnnfast.Dense(9, 1, rng=1, bias=bias))
        if bias:
            model.update({f"rnn.bias_hh_l{n}": np.zeros(36) for n in range(2)})  # two biases go out as their sum
        x = np.random.default_rng(1).standard_normal((50, 1), np.float32)
        for name in ("a.nam", "a.json"):
            audio.save(tmp_path / name, model)
            assert audio.load(tmp_path / name)(x).tobytes() == model(x)[0].tobytes()
    state = {
        "rnn": (np.random.default_rng(1).standard_normal((2, 9)), np.random.default_rng(1).standard_normal((2, 9)))
    }
    started = audio.AudioModel(model, state=state, sample_rate=48000.0, metadata={"gear": "amp"})
    audio.save(tmp_path / "b.nam", started)
    again = audio.load(tmp_path / "b.nam", dtype=np.float32)
    assert again(x).tobytes() == again.process(x).tobytes() == started(x).tobytes() != model(x)[0].tobytes()
    assert (again.sample_rate, again.metadata) == (48000.0, {"gear": "amp"})


def changed(document, *path, to):
    """A copy with one entry replaced, or without it."""
    document = json.loads(json.dumps(document))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return document


LSTM, GUITARML, NAM = DOCUMENTS["lstm-7"][1], DOCUMENTS["guitarml-LSTM"][1], DOCUMENTS["nam-24"][1]
LIES = {
    "nothing known": ({"weights": []}, "expected 'layers' .*RTNeural.*got \\['weights'\\]"),
    "names alone": ({"gru.weight_ih_l0": [[1.0]]}, r"got PyTorch's names alone; rnnfast\.interop\.from_state_dict"),
    "a list": ([1], "the file: expected an object, got list"),
    "no layers": (changed(LSTM, "layers", to=[]), "layers: expected a list of layers"),
    "a layer of another kind": (
        changed(LSTM, "layers", 0, "type", to="conv1d"),
        r"layers\[0\] \(conv1d\): expected a type",
    ),
    "no shape": (changed(LSTM, "layers", 0, "shape", to=None), r"layers\[0\] \(lstm\): expected 'shape'"),
    "no type": (changed(LSTM, "layers", 0, "type", to=None), r"layers\[0\]: expected 'type'"),
    "too few weights": (changed(LSTM, "layers", 0, "weights", to=[[1.0]]), "expected a list of 3 arrays, got 1 arrays"),
    "wrong shape": (
        changed(LSTM, "layers", 1, "weights", 0, to=[[1.0]]),
        r"layers\[1\] \(dense\): weights\[0\]: .*\[7, 1\]",
    ),
    "ragged": (
        changed(LSTM, "layers", 1, "weights", 0, 0, to=[]),
        r"layers\[1\] \(dense\): weights\[0\]: expected numbers",
    ),
    "text": (changed(LSTM, "layers", 1, "weights", 1, 0, to="a"), r"weights\[1\]: expected numbers"),
    "huge": (changed(LSTM, "layers", 0, "shape", to=[None, 2**24]), r"weights\[0\]: expected shape \[1, 67108864\]"),
    "beyond huge": (changed(LSTM, "in_shape", to=[10**30]), "in_shape: expected an integer in 1"),
    "activation": (
        changed(LSTM, "layers", 0, "activation", to="relu"),
        r"layers\[0\] \(lstm\): activation: expected 'tanh'",
    ),
    "head": (
        changed(LSTM, "layers", 1, "activation", to="cube"),
        r"layers\[1\] \(dense\): activation: expected one of",
    ),
    "lone activation": (
        changed(LSTM, "layers", 0, "type", to="activation"),
        "expected a dense layer without an activation",
    ),
    "skip": (changed(LSTM, "in_skip", to=2), "skip: expected 0, or all channels of the output"),
    "gain": (changed(LSTM, "in_gain", to=1e9), "in_gain: expected at most 300 dB"),
    "unit": (changed(GUITARML, "model_data", "unit_type", to="TCN"), "unit_type: expected one of 'LSTM', 'GRU', 'RNN'"),
    "net": (changed(GUITARML, "model_data", "model", to="RecNet"), "model: expected 'SimpleRNN', got 'RecNet'"),
    "missing": (changed(GUITARML, "state_dict", "lin.bias", to=None), "state_dict: expected 'lin.bias'"),
    "surplus": (changed(GUITARML, "state_dict", "lin.gain", to=[1.0]), "got also lin.gain"),
    "hidden": (
        changed(GUITARML, "model_data", "hidden_size", to=2**24),
        r"weight_ih_l0: expected shape \[67108864, 1\]",
    ),
    "stack": (changed(GUITARML, "model_data", "num_layers", to=2**24), "num_layers: expected as many layers as in"),
    "wavenet": (changed(NAM, "architecture", to="WaveNet"), "architecture: expected 'LSTM'.*got 'WaveNet'"),
    "short": (changed(NAM, "weights", 0, to=None), r"weights: expected \d+ numbers for the sizes in config, got \d+"),
    "deep": (changed(NAM, "config", "num_layers", to=2**24), r"weights: expected \d+ numbers for the sizes"),
    "wide": (changed(NAM, "config", "hidden_size", to=2**24), r"weights: expected \d+ numbers for the sizes"),
    "a float for a size": (changed(NAM, "config", "hidden_size", to=24.0), "hidden_size: expected an integer"),
    "not numbers": (changed(NAM, "weights", 0, to=[1.0]), "weights: expected numbers"),
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie(lie, tmp_path):
    document, message = LIES[lie]
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        audio.load(written(tmp_path, document))
    assert "model.json: " in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "{", '{"layers": ', "[" * 100_000, "\xff", '{"weights": [NaN]}', '{"a": Infinity}']
)
def test_damaged_files(text, tmp_path):
    path = tmp_path / "model.nam"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"model\.nam: truncated, damaged, or not JSON"):
        audio.load(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        audio.load(tmp_path / "nothing.nam")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        audio.load(tmp_path)


def test_numbers_beyond_float64_are_not_finite_weights(tmp_path):
    document = changed(NAM, "weights", 3, to="x")
    path = tmp_path / "model.nam"
    path.write_text(json.dumps(document).replace('"x"', "1e999"))
    with pytest.raises(ValueError, match="weights: expected finite weights, got 1 that are not"):
        audio.load(path)


@pytest.mark.parametrize(
    ("parts", "options", "format", "message"),
    [
        ({"a": rnnfast.RNN(1, 2)}, {}, "rtneural", "a: expected one of lstm, gru without options and forwards"),
        ({"a": rnnfast.LSTM(1, 2, peephole=True)}, {}, "rtneural", "a: expected one of lstm, gru"),
        ({"a": rnnfast.GRU(1, 2, reset_after=False)}, {}, "rtneural", "a: expected one of lstm, gru"),
        ({"a": rnnfast.LSTM(1, 1, bidirectional=True)}, {}, "rtneural", "a: expected one of lstm, gru"),
        ({"a": rnnfast.LSTM(1, 1, reverse=True)}, {}, "rtneural", "a: expected one of lstm, gru"),
        ({"a": rnnfast.LSTM(1, 1)}, {"skip": 1}, "rtneural", "skip: expected 0, as RTNeural has none, got 1"),
        ({"a": rnnfast.LSTM(1, 1)}, {"input_gain": 2}, "nam", "input_gain: expected 1.0, as Neural Amp Modeler"),
        ({"a": rnnfast.LSTM(1, 1)}, {}, "nam", "model: expected one recurrent layer and one Dense"),
        ({"a": rnnfast.GRU(1, 1), "b": rnnfast.Dense(1, 1)}, {}, "nam", "a: expected one of LSTM"),
        (
            {"a": rnnfast.LSTM(1, 1), "b": rnnfast.Dense(1, 1, activation="tanh")},
            {},
            "guitarml",
            "b: activation: expected 'identity', as GuitarML has no other",
        ),
        ({"a": rnnfast.LSTM(1, 1)}, {"state": {"a": (np.ones((1, 1)),) * 2}}, "rtneural", "state: expected None"),
        ({"a": rnnfast.LSTM(1, 1)}, {"output_gain": -1}, "aida-x", "output_gain: expected at least 0"),
        ({"a": rnnfast.LSTM(1, 1)}, {}, "onnx", "format: expected one of 'rtneural', 'aida-x', 'guitarml', 'nam'"),
    ],
)
def test_what_a_format_has_not(parts, options, format, message, tmp_path):
    parts = {name: rnnfast.layers.from_config(part.config()) for name, part in parts.items()}
    with pytest.raises(ValueError, match=message):
        audio.save(tmp_path / "out", audio.AudioModel(rnnfast.Model(**parts), **options), format)
    assert not (tmp_path / "out").exists()


def test_an_audio_model_refuses_what_does_not_fit():
    model = rnnfast.Model(a=rnnfast.LSTM(2, 3))
    with pytest.raises(TypeError, match="model: expected a Model, got"):
        audio.AudioModel(rnnfast.LSTM(1, 1))
    with pytest.raises(
        ValueError, match="skip: expected 0, or all channels of the output, with 2 channels in and 3 out"
    ):
        audio.AudioModel(model, skip=1)
    with pytest.raises(ValueError, match=r"x: expected \[T, 2\], got array of float64, shape \[5\]"):
        audio.AudioModel(model)(np.zeros(5))
    for state, message in (
        ({"b": 1}, r"state: expected names among \['a'\]"),
        ({"a": (np.zeros(3),) * 2}, r"expected shape"),
        (3, "state: expected a mapping"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            audio.AudioModel(model, state=state)
    with pytest.raises(ValueError, match="input_gain: expected a finite number"):
        audio.AudioModel(model, input_gain=math.inf)


def test_dropout_is_of_training_alone(tmp_path):
    model = rnnfast.Model(a=rnnfast.LSTM(1, 4, rng=0), drop=rnnfast.Dropout(0.5), b=rnnfast.Dense(4, 1, rng=1))
    amplifier, x = audio.AudioModel(model), np.random.default_rng(1).standard_normal((20, 1)).astype(np.float32)
    assert amplifier.process(x).tobytes() == amplifier(x).tobytes() == model(x)[0].tobytes()
    for format in ("rtneural", "guitarml", "nam"):
        audio.save(tmp_path / format, model, format)
        np.testing.assert_allclose(audio.load(tmp_path / format)(x), model(x)[0], rtol=1e-5, atol=1e-6)


def test_a_layer_or_head_alone(tmp_path):
    """It goes out as a copy, and stays free to become a part; heads without a recurrence stream too."""
    gru, x = rnnfast.GRU(1, 4, rng=0), np.random.default_rng(1).standard_normal((20, 1)).astype(np.float32)
    audio.save(tmp_path / "gru.json", gru)
    assert audio.load(tmp_path / "gru.json")(x).tobytes() == gru(x)[0].tobytes()
    rnnfast.Model(gru=gru)
    audio.save(tmp_path / "head.json", rnnfast.Dense(1, 2, activation="tanh", rng=0))
    head = audio.load(tmp_path / "head.json")
    assert head.process(x).tobytes() == head(x).tobytes()
