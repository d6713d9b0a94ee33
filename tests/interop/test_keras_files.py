"""rnnfast.interop.keras without Keras: files that are made here are read, and those that are written are run here.

What Keras's layers compute is written out below, step by step in NumPy, float64. It shares nothing with the package.
"""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("h5py", reason="h5py, of the extra keras, reads .keras files")

import h5py

import rnnfast
from rnnfast.interop import keras as door

RNG = np.random.default_rng(0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "hard_sigmoid": lambda z: np.clip(z / 6 + 0.5, 0, 1),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.2 * z),
    "softmax": lambda z: (
        np.exp(z - z.max(-1, keepdims=True)) / np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
}


def step(kind, config, weights, x, states):
    """One step of a Keras cell: the new states, the first of which comes out."""
    kernel, recurrent, *bias = weights
    act = ACTIVATIONS[config.get("activation", "tanh")]
    gate = ACTIVATIONS[config.get("recurrent_activation", "sigmoid")]
    if kind == "SimpleRNN":
        return [act(x @ kernel + states[0] @ recurrent + (bias[0] if bias else 0))]
    if kind == "LSTM":
        i, f, c, o = np.split(x @ kernel + states[0] @ recurrent + (bias[0] if bias else 0), 4, axis=-1)
        c = gate(f) * states[1] + gate(i) * act(c)
        return [gate(o) * act(c), c]
    h = states[0]
    before, after = bias[0] if bias and bias[0].ndim == 2 else (bias[0] if bias else 0, 0)
    xz, xr, xh = np.split(x @ kernel + before, 3, axis=-1)
    if config.get("reset_after", True):
        hz, hr, hh = np.split(h @ recurrent + after, 3, axis=-1)
        z, r = gate(xz + hz), gate(xr + hr)
        new = act(xh + r * hh)
    else:
        uz, ur, uh = np.split(recurrent, 3, axis=-1)
        z, r = gate(xz + h @ uz), gate(xr + h @ ur)
        new = act(xh + (r * h) @ uh)
    return [z * h + (1 - z) * new]


def recur(kind, config, weights, x, mask):
    """Outputs in the order of the pass, and final states."""
    backwards, zero = config.get("go_backwards"), config.get("zero_output_for_mask")
    times = range(x.shape[1])[::-1] if backwards else range(x.shape[1])
    states = [np.zeros((len(x), config["units"]))] * (2 if kind == "LSTM" else 1)
    out, ys = np.zeros((len(x), config["units"])), []
    for t in times:
        new = step(kind, config, weights, x[:, t], states)
        here = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        out = np.where(here, new[0], 0 if zero else out)
        states = [np.where(here, one, old) for one, old in zip(new, states, strict=True)]
        ys.append(out)
    return (np.stack(ys, axis=1) if config.get("return_sequences") else out), states


MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
}


def run(layers, x):
    """A model of (class, config, weights) on one batch."""
    mask = None
    for kind, config, weights in layers:
        if kind == "Masking":
            mask = (x != config["mask_value"]).any(-1)
            x = x * mask[..., None]
        elif kind == "Embedding":
            mask = x != 0 if config.get("mask_zero") else None
            x = weights[0][x]
        elif kind == "Bidirectional":
            inner = config["layer"]["class_name"]
            halves = [config[key]["config"] for key in ("layer", "backward_layer")]
            (y, _), (back, _) = (recur(inner, one, w, x, mask) for one, w in zip(halves, weights, strict=True))
            back = back[:, ::-1] if halves[0].get("return_sequences") else back
            x = MERGES[config["merge_mode"]](y, back)
        elif kind in ("Dense", "TimeDistributed"):
            own = config["layer"]["config"] if kind == "TimeDistributed" else config
            x = ACTIVATIONS[own.get("activation", "linear")](x @ weights[0] + (weights[1] if len(weights) > 1 else 0))
        elif kind == "LayerNormalization":
            gamma = weights[0] if config.get("scale", True) else 1
            beta = weights[-1] if config.get("center", True) else 0
            centred = x - x.mean(-1, keepdims=True)
            deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + config.get("epsilon", 1e-3))
            x = gamma * centred / deviation + beta
        elif kind == "GlobalMaxPooling1D":
            x, mask = x.max(1), None
        elif kind == "GlobalAveragePooling1D":
            there = np.ones(x.shape[:2]) if mask is None else mask
            x, mask = (x * there[..., None]).sum(1) / there.sum(1)[:, None], None
        elif kind != "Dropout":
            x, _ = recur(kind, config, weights, x, mask)
    return x


def drawn(*shape):
    return RNG.standard_normal(shape) / np.sqrt(shape[-1])


def cell_weights(kind, config, inputs):
    gates, units = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}[kind], config["units"]
    weights = [drawn(inputs, gates * units), drawn(units, gates * units)]
    if config.get("use_bias", True):
        two = kind == "GRU" and config.get("reset_after", True)
        weights.append(drawn(*((2,) if two else ()), gates * units))
    return weights


def recurrent(kind, units, inputs, **options):
    config = {"units": units, **options}
    return kind, config, cell_weights(kind, config, inputs)


def bidirectional(kind, units, inputs, merge, **options):
    halves = [{"units": units, "go_backwards": back, "zero_output_for_mask": True, **options} for back in (False, True)]
    entries = [{"class_name": kind, "config": half} for half in halves]
    weights = [cell_weights(kind, half, inputs) for half in halves]
    return "Bidirectional", {"merge_mode": merge, "layer": entries[0], "backward_layer": entries[1]}, weights


def dense(units, inputs, **options):
    use = options.get("use_bias", True)
    return "Dense", {"units": units, **options}, [drawn(inputs, units), *([drawn(units)] if use else [])]


def norm(size, **options):
    weights = [1 + drawn(size) for key in ("scale", "center") if options.get(key, True)]
    return "LayerNormalization", options, weights


def distributed(units, inputs, **options):
    kind, config, weights = dense(units, inputs, **options)
    return "TimeDistributed", {"layer": {"class_name": kind, "config": config}}, weights


PATHS = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru", "Dense": "dense", "Embedding": "embedding"}
PATHS |= {"Bidirectional": "bidirectional", "TimeDistributed": "time_distributed"}
PATHS |= {"LayerNormalization": "layer_normalization"}


def written(path, layers, change=lambda config: config, dtype="<f4", patch=lambda file: None):
    """A file as Keras writes it."""
    data, counts, entries = io.BytesIO(), {}, []
    with h5py.File(data, "w") as file:
        for kind, config, weights in layers:
            number = counts[kind] = counts.get(kind, -1) + 1
            entries.append(
                {"class_name": kind, "config": {"name": f"{kind}-{number}", **config}, "registered_name": None}
            )
            if kind not in PATHS:
                continue
            group = f"layers/{PATHS[kind]}" + (f"_{number}" if number else "")
            places = {
                "Bidirectional": ["/forward_layer/cell", "/backward_layer/cell"],
                "TimeDistributed": ["/layer"],
                "Dense": [""],
                "Embedding": [""],
                "LayerNormalization": [""],
            }.get(kind, ["/cell"])
            for place, arrays in zip(places, weights if kind == "Bidirectional" else [weights], strict=True):
                for n, array in enumerate(arrays):
                    file[f"{group}{place}/vars/{n}"] = array.astype(dtype)
        patch(file)
    config = change({"class_name": "Sequential", "config": {"name": "sequential", "layers": entries}})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", data.getvalue())
    return path


MODELS = {
    "lstm": [recurrent("LSTM", 7, 4), dense(3, 7, activation="softmax")],
    "units of 1": [recurrent("LSTM", 1, 4, return_sequences=True), recurrent("GRU", 1, 1), dense(1, 1)],
    "100 units": [recurrent("GRU", 100, 4, return_sequences=True)],
    "two of a class": [recurrent("LSTM", 5, 4, return_sequences=True), recurrent("LSTM", 3, 5)],
    "gru before": [recurrent("GRU", 17, 4, reset_after=False, return_sequences=True)],
    "no bias": [recurrent(kind, 4, 4, use_bias=False, return_sequences=True) for kind in ("GRU", "LSTM", "SimpleRNN")],
    "backwards": [
        recurrent("GRU", 5, 4, go_backwards=True, return_sequences=True),
        recurrent("LSTM", 3, 5, go_backwards=True),
    ],
    "activations": [
        recurrent("SimpleRNN", 5, 4, activation="leaky_relu", return_sequences=True),
        recurrent("LSTM", 4, 5, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True),
        dense(3, 4, activation="leaky_relu", use_bias=False),
    ],
    **{
        f"both, {merge}": [
            bidirectional("LSTM", 5, 4, merge, return_sequences=True),
            dense(2, 10 if merge == "concat" else 5),
        ]
        for merge in ("concat", "sum", "mul", "ave")
    },
    "both, last": [
        bidirectional("GRU", 5, 4, "concat", return_sequences=True),
        bidirectional("SimpleRNN", 3, 10, "sum"),
    ],
    "masked": [
        ("Masking", {"mask_value": 0.0}, []),
        ("Dropout", {"rate": 0.5}, []),
        recurrent("LSTM", 5, 4, return_sequences=True, go_backwards=True),
        bidirectional("GRU", 3, 5, "concat", return_sequences=True),
        distributed(6, 6, activation="tanh"),
        recurrent("GRU", 4, 6),
    ],
    "dropout": [recurrent("GRU", 5, 4, return_sequences=True), ("Dropout", {"rate": 0.5}, []), dense(2, 5)],
    "heads alone": [dense(5, 4, activation="tanh"), dense(2, 5)],
    "norm, mean": [
        norm(4),
        recurrent("LSTM", 5, 4, return_sequences=True),
        norm(5, center=False, epsilon=0.1),
        ("GlobalAveragePooling1D", {"keepdims": False}, []),
        norm(5, scale=False),
        dense(2, 5),
    ],
    "max": [recurrent("GRU", 5, 4, return_sequences=True), ("GlobalMaxPooling1D", {}, []), dense(2, 5)],
    **{
        f"masked, {kind}": [
            ("Masking", {"mask_value": 0.0}, []),
            recurrent("GRU", 5, 4, return_sequences=True),
            norm(5),
            (kind, {}, []),
            dense(2, 5),
        ]
        for kind in ("GlobalAveragePooling1D", "GlobalMaxPooling1D")
    },
}  # fmt: skip


def inputs(rows=3, steps=9):
    x = np.random.default_rng(1).standard_normal((rows, steps, 4))
    x[0, :2] = x[1, 4:6] = x[2, 6:] = 0  # masked at the start, in the middle, at the end
    return x


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("<f4", 2e-6), ("<f8", 1e-13)])
def test_reads_what_keras_computes(name, dtype, tolerance, tmp_path):
    layers, x = MODELS[name], inputs()
    model = door.load(written(tmp_path / "model.keras", layers, dtype=dtype))
    y = model(x)
    assert y.dtype == np.dtype(dtype) == model.dtype
    np.testing.assert_allclose(y, run(layers, x), rtol=10 * tolerance, atol=tolerance)
    assert model.origin == "model.keras, Keras" == next(iter(model.parts.values())).origin
    alone = np.concatenate([model(x[b : b + 1]) for b in range(3)])
    np.testing.assert_allclose(alone, y, rtol=tolerance, atol=tolerance)


def test_ids_and_their_mask(tmp_path):
    ids = np.array([[0, 0, 3, 1], [2, 5, 0, 0], [1, 0, 2, 4]])
    for mask_zero in (False, True):
        embedding = "Embedding", {"input_dim": 6, "output_dim": 4, "mask_zero": mask_zero}, [drawn(6, 4)]
        layers = [embedding, recurrent("GRU", 5, 4, return_sequences=True), recurrent("LSTM", 3, 5)]
        model = door.load(written(tmp_path / "model.keras", layers))
        np.testing.assert_allclose(model(ids), run(layers, ids), rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(model(ids.astype(np.float32)), model(ids))
    with pytest.raises(ValueError, match=r"model: .*layer 'Embedding-0' \(Embedding\) finds the mask in its ids"):
        _ = model.model


@pytest.mark.parametrize(
    "name", [*("lstm", "two of a class", "no bias", "both, concat", "dropout"), *("heads alone", "norm, mean", "max")]
)
def test_a_plain_model_is_a_model(name, tmp_path):
    model = door.load(written(tmp_path / "model.keras", MODELS[name]))
    x = inputs().astype(np.float32)
    pools = any(isinstance(part, rnnfast.Pool) for part in model.parts.values())
    last = {"last_only": True} if model(x).ndim == 2 and not pools else {}
    y, _ = model.model(x, **last)
    np.testing.assert_array_equal(y, model(x))
    assert model.model.origin == model.origin
    assert name != "dropout" or model.model.parts["Dropout_0"].p == 0.5
    optimizer = rnnfast.optim.SGD(model.model.params, 0.1)
    gradients = model.model.params.zeros()
    gradients.flat[...] = 1
    optimizer.step(gradients)
    assert not np.array_equal(model(x), y)  # the same weights


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("backwards", r"layer 'GRU-0' \(GRU\) hands its outputs on in the order of the pass"),
        ("both, sum", r"layer 'Bidirectional-0' \(Bidirectional\) merges its directions by 'sum'"),
        ("masked", r"layer 'Masking-0' \(Masking\) finds the mask in its input"),
        ("activations", r"layer 'Dense-0' \(Dense\) has the activation 'leaky_relu', which a Dense has not"),
    ],
)
def test_what_is_no_model(name, reason, tmp_path):
    model = door.load(written(tmp_path / "model.keras", MODELS[name]))
    with pytest.raises(ValueError, match=reason):
        _ = model.model


@pytest.mark.parametrize("after", [("GlobalMaxPooling1D", {}, []), recurrent("GRU", 3, 5)])
def test_no_steps_are_left(after, tmp_path):
    for before in ([recurrent("GRU", 5, 4)], [("GlobalAveragePooling1D", {}, []), dense(5, 4)]):
        with pytest.raises(ValueError, match=r"expected \[B, T, I\], got \[B, I\], of '(GRU|GlobalAverage)"):
            door.load(written(tmp_path / "model.keras", [*before, after]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": 1}, "expected axis=-1, the last, got 1"),
        ({"rms_scaling": True}, "expected rms_scaling=False, got True"),
        ({"epsilon": 0}, "epsilon: expected a number above 0, got 0"),
        ({"scale": False, "center": False}, "expected scale or center, whose weights say the size, got neither"),
    ],
)
def test_norms_that_do_not_come_in(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        door.load(written(tmp_path / "model.keras", [norm(4, **options)]))


def test_states(tmp_path):
    lstm = recurrent("LSTM", 5, 4, return_sequences=True, return_state=True, stateful=True)
    x = inputs()
    model = door.load(written(tmp_path / "model.keras", [lstm], dtype="<f8"))
    y, h, c = model(x[:, :4])
    np.testing.assert_array_equal(h, y[:, -1])
    rest = model(x[:, 4:])[0]
    np.testing.assert_allclose(np.concatenate([y, rest], 1), run([lstm], x), rtol=1e-12)
    model.reset_states()
    np.testing.assert_array_equal(model(x[:, :4])[0], y)
    np.testing.assert_array_equal(model(x[:, 4:], initial_state=[h, c])[0], rest)
    with pytest.raises(ValueError, match="x: expected 3 rows, as 'LSTM-0', which is stateful, has had, got 2"):
        model(x[:2])
    with pytest.raises(ValueError, match="initial_state: expected 2 states, got 1"):
        model(x, initial_state=h)
    with pytest.raises(ValueError, match=r"initial_state\[1\]: expected shape \[B, H\] \[3, 5\], got \[3, 4\]"):
        model(x, initial_state=[h, c[:, :4]])


def own(path):
    """What is in a file that the package wrote, for `run`."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    layers, counts = [], {}
    for entry in config["config"]["layers"][1:]:
        kind = entry["class_name"]
        counts[kind] = counts.get(kind, -1) + 1
        group = file.get(f"layers/{PATHS.get(kind)}" + (f"_{counts[kind]}" if counts[kind] else ""))

        def arrays(place, group=group):
            return [np.asarray(group[f"{place}vars/{n}"], np.float64) for n in range(len(group[f"{place}vars"]))]

        if kind == "Bidirectional":
            weights = [arrays("forward_layer/cell/"), arrays("backward_layer/cell/")]
        elif kind not in PATHS:
            weights = []
        else:
            weights = arrays("" if kind in ("Dense", "Embedding", "LayerNormalization") else "cell/")
        layers.append((kind, entry["config"], weights))
    return layers


L, D = rnnfast.layers, rnnfast.Dense
OUT = {
    "stack": lambda: {"a": L.LSTM(4, 5, 2, rng=0), "b": D(5, 3, activation="softmax", rng=1)},
    "gru": lambda: {"a": L.GRU(4, 7, rng=0), "b": L.GRU(7, 3, reset_after=False, rng=1)},
    "both": lambda: {"a": L.GRU(4, 5, 2, bidirectional=True, rng=0), "b": D(10, 2, bias=False, rng=1)},
    "rnn": lambda: {"a": L.RNN(4, 5, nonlinearity="relu", rng=0, bias=False), "b": L.RNN(5, 3, rng=1)},
    "options": lambda: {"a": L.LSTM(4, 3, activations=(("hard_sigmoid", 1 / 6, 0.5), "relu", "relu"), rng=0)},
    "recurrent dropout": lambda: {"a": L.GRU(4, 3, recurrent_dropout=0.3, rng=0)},
    "heads": lambda: {"a": D(4, 3, activation="tanh", rng=0), "b": D(3, 2, rng=1)},
    "dropout": lambda: {"a": L.GRU(4, 3, rng=0), "b": rnnfast.parts.Dropout(0.3), "c": D(3, 2, rng=1)},
    "batch first": lambda: {"a": L.GRU(4, 3, rng=0, batch_first=True)},
    "norm": lambda: {
        "n": rnnfast.LayerNorm(4, eps=0.1),
        "a": L.GRU(4, 3, rng=0),
        "o": rnnfast.LayerNorm(3, bias=False),
    },
    **{
        kind: lambda kind=kind: {"a": L.GRU(4, 3, rng=0), "p": rnnfast.Pool(kind), "b": D(3, 2, rng=1)}
        for kind in ("mean", "max")
    },
}


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("last", [False, True])
def test_writes_what_keras_computes(name, last, tmp_path):
    pools = name in ("mean", "max")
    if last and pools:
        with pytest.raises(ValueError, match="last_only: expected False for a model with a Pool"):
            door.save(tmp_path / "no.keras", rnnfast.Model(**OUT[name]()), last_only=True)
        return
    if last and name == "heads":
        with pytest.raises(ValueError, match="last_only: expected False without a recurrent layer"):
            door.save(tmp_path / "no.keras", rnnfast.Model(**OUT[name]()), last_only=True)
        return
    model = rnnfast.Model(**OUT[name]())
    path = tmp_path / "out.keras"
    door.save(path, model, last_only=last)
    x = inputs().astype(np.float32)
    time_major = x if name == "batch first" else x.swapaxes(0, 1)
    y = model(time_major, **({"last_only": True} if last else {}))[0]
    y = y if last or pools or name == "batch first" else y.swapaxes(0, 1)
    np.testing.assert_allclose(run(own(path), x.astype(np.float64)), y, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(door.load(path)(x), y, rtol=1e-6, atol=1e-7)


def test_a_layer_alone_goes_out(tmp_path):
    reverse, ids = rnnfast.LSTM(4, 3, reverse=True, rng=0), np.array([[1, 2, 0]])
    door.save(tmp_path / "a.keras", reverse, last_only=True)
    x = inputs().astype(np.float32)
    np.testing.assert_allclose(
        door.load(tmp_path / "a.keras")(x), reverse(x.swapaxes(0, 1), last_only=True)[0], rtol=1e-6
    )
    embedding = rnnfast.Embedding(3, 2, rng=0)
    door.save(tmp_path / "b.keras", embedding)
    np.testing.assert_array_equal(door.load(tmp_path / "b.keras")(ids), embedding(ids))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (rnnfast.LSTM(4, 3, peephole=True), "layer: expected an RNN, LSTM or GRU with options that Keras has"),
        (rnnfast.LSTM(4, 3, activations=("sigmoid", "tanh", "relu")), "layer: expected an RNN, LSTM or GRU"),
        (rnnfast.LSTM(4, 3, zoneout=0.1), "layer: expected an RNN, LSTM or GRU"),
        (rnnfast.RNN(4, 3, leak=0.5), "layer: expected an RNN, LSTM or GRU"),
        (rnnfast.MGU(4, 3), "layer: expected an RNN, LSTM or GRU"),
        (rnnfast.GRU(4, 3, activations=(("hard_sigmoid", 0.2, 0.5), "tanh")), "expected an activation that Keras"),
        (rnnfast.GRU(4, 3, reverse=True), "layer: expected reverse=False, as Keras turns the order"),
        (rnnfast.Model(a=rnnfast.GRU(4, 3), b=rnnfast.Pool()), "b: expected a layer, Dense, Embedding, LayerNorm"),
    ],
)  # fmt: skip
def test_what_keras_has_not(part, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        door.save(tmp_path / "no.keras", part)
    assert not (tmp_path / "no.keras").exists()


def set_in(*keys, to):
    def change(config):
        inner = config
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        return config

    return change


LAYERS = ("config", "layers")
LSTM = [recurrent("LSTM", 5, 4), dense(2, 5)]


def replace(name, value, **options):
    def patch(file):
        del file[name]
        file.create_dataset(name, data=value, **options)

    return patch


def huge(file):
    del file["layers/dense/vars/0"]
    file.create_dataset("layers/dense/vars/0", shape=(2**22, 2**22), dtype="f4", chunks=(1024, 1024))


def link(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = h5py.SoftLink("/layers/dense/vars/1")


def option(number, key, to):
    return {"change": set_in(*LAYERS, number, "config", key, to=to)}


def kernel(value):
    return {"patch": replace("layers/dense/vars/0", value)}


def group_for_array(file):
    del file["layers/dense/vars/0"]
    file.create_group("layers/dense/vars/0")


CELL, DENSE = r"layer 'LSTM-0' \(LSTM\): ", r"layer 'Dense-0' \(Dense\): "
LIES = {
    "class": ({"change": set_in(*LAYERS, 0, "class_name", to="Attention")}, r"'LSTM-0' \(Attention\): expected one of"),
    "no layers": ({"change": set_in(*LAYERS, to=[])}, "config: layers: expected a list of layers"),
    "no config": ({"change": lambda config: [1]}, "config: expected an object"),
    "a layer that is none": ({"change": set_in(*LAYERS, 0, to=3)}, "layer: expected a layer's class_name and config"),
    "units": (option(0, "units", 6), CELL + r"kernel: expected shape \[any, 24\], got \[4, 20\]"),
    "huge units": (option(0, "units", 2**24), CELL + "kernel: expected shape"),
    "units that are none": (option(0, "units", "5"), CELL + "units: expected an integer"),
    "flag": (option(0, "return_sequences", 1), CELL + "return_sequences: expected True"),
    "activation": (option(0, "activation", "softmax"), CELL + "activation: expected one of"),
    "lambda": (
        option(0, "activation", {"class_name": "__lambda__"}),
        CELL + "activation: expected an activation by its",
    ),
    "quantized": (option(1, "quantization_config", {"a": 1}), DENSE + "expected a layer of Keras's own"),
    "custom": ({"change": set_in(*LAYERS, 1, "registered_name", to="my>Dense")}, DENSE + "expected a layer of Keras's"),
    "missing": (
        {"patch": lambda file: file.pop("layers/dense/vars/1")},
        DENSE + "expected layers/dense/vars/1 with its",
    ),
    "wrong shape": (kernel(np.ones((6, 2), "f4")), DENSE + "expected 5 inputs, as come in, got 6"),
    "transposed": (kernel(np.ones((2, 5), "f4")), DENSE + r"kernel: expected shape \[any, 2\], got \[2, 5\]"),
    "empty": (kernel(np.ones((0, 2), "f4")), DENSE + "kernel: expected shape"),
    "NaN": (kernel(np.full((5, 2), np.nan)), DENSE + "kernel: expected finite weights"),
    "text": (kernel(np.full((5, 2), b"x")), DENSE + "kernel: expected an array of real numbers"),
    "a group": ({"patch": group_for_array}, DENSE + "kernel: expected an array"),
    "huge array": ({"patch": huge}, DENSE + "kernel: expected an array no larger than the file"),
    "external": ({"patch": link}, DENSE + "expected layers/dense/vars/0"),
    "soft link": ({"patch": soft}, DENSE + "expected layers/dense/vars/0"),
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie(lie, tmp_path):
    options, message = LIES[lie]
    path = written(tmp_path / "model.keras", LSTM, **options)
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        door.load(path)
    assert "model.keras: " in str(raised.value)


def test_damaged_files(tmp_path):
    whole = written(tmp_path / "model.keras", LSTM).read_bytes()
    path = tmp_path / "damaged.keras"
    for data in (b"", whole[:100], whole[: len(whole) // 2], whole[:-30], b"x" * 1000, whole[:-30] + b"x" * 30):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"damaged\.keras: "):
            door.load(path)
    rng = np.random.default_rng(0)
    for _ in range(200):  # any byte: refused in our words, or of no consequence
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(data))
        try:
            door.load(path)
        except (ValueError, TypeError) as error:
            assert "damaged.keras: " in str(error)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        door.load(tmp_path / "nothing.keras")


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_a_zip_bomb(member, tmp_path):
    with zipfile.ZipFile(written(tmp_path / "model.keras", LSTM)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = b" " * 50_000_000
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=rf"{member}: expected at most \d+ bytes, got 50000000"):
        door.load(path)


def test_bfloat16_weights_widen(tmp_path):
    def patch(file):
        rows = file["layers/dense/vars/0"]
        wide = rows[()].astype("<f4").view(np.uint32) >> 16
        replace("layers/dense/vars/0", wide.astype(np.uint16))(file)
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"

    model = door.load(written(tmp_path / "model.keras", LSTM, patch=patch))
    exact = LSTM[1][2][0].astype(np.float32)
    np.testing.assert_allclose(model.parts["Dense_0"].params["weight"].T, exact, rtol=2**-7)


def test_calls_that_do_not_fit(tmp_path):
    model = door.load(written(tmp_path / "model.keras", LSTM))
    with pytest.raises(ValueError, match=r"x: expected \[B, T, I\], got array of float64, shape \[9, 4\]"):
        model(np.zeros((9, 4)))
    with pytest.raises(ValueError, match=r"mask: expected shape \[B, T\] \[3, 9\], got \[3, 8\]"):
        model(inputs(), mask=np.ones((3, 8), bool))
    with pytest.raises(ValueError, match="I=4"):
        model(np.zeros((3, 9, 5)))
    with pytest.raises(TypeError, match="model: expected a Model, a layer, a Dense or an Embedding, got"):
        door.save(tmp_path / "x.keras", 3)
