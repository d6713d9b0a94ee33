"""rnnfast.interop.keras against Keras itself: every option of its recurrent layers, whole models, files both ways."""

from __future__ import annotations

import itertools
import json
import os
import warnings
import zipfile

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras", "3", reason="Keras needs a backend, and is too large for the extra test")
pytest.importorskip("h5py", reason="h5py, of the extra keras, reads .keras files")

import rnnfast
from rnnfast.interop import keras as door

pytestmark = pytest.mark.filterwarnings("ignore")
K = keras.layers
RNG = np.random.default_rng(0)
B, T, N = 3, 6, 4
X = RNG.standard_normal((B, T, N)).astype(np.float32)
MASK = RNG.random((B, T)) < 0.6
MASK[0], MASK[1, :2], MASK[2, -2:] = True, False, False

CELLS = {
    "SimpleRNN": (lambda **o: K.SimpleRNN(5, **o), [5]),
    "LSTM": (lambda **o: K.LSTM(5, **o), [5, 5]),
    "GRU": (lambda **o: K.GRU(5, **o), [5]),
    "GRU before": (lambda **o: K.GRU(5, reset_after=False, **o), [5]),
    "cell": (lambda **o: K.RNN(K.GRUCell(5), **o), [5]),
    "stacked": (lambda **o: K.RNN([K.LSTMCell(3), K.GRUCell(4), K.SimpleRNNCell(5)], **o), [3, 3, 4, 5]),
}
NAMES = "return_sequences", "return_state", "go_backwards"
FLAGS = [dict(zip(NAMES, values, strict=True)) for values in itertools.product([False, True], repeat=3)]
MERGES = "concat", "sum", "mul", "ave", None
ELEMENTWISE = (
    *("relu", "leaky_relu", "relu6", "celu", "elu", "selu", "softplus", "softsign", "squareplus", "soft_shrink"),
    *("sparse_plus", "silu", "tanh", "tanh_shrink", "sigmoid", "sparse_sigmoid", "exponential", "hard_sigmoid"),
    *("hard_silu", "hard_tanh", "hard_shrink", "linear", "mish", "log_sigmoid"),
)
"""All of Keras's but gelu, and those that work on whole rows: softmax, log_softmax, sparsemax, glu."""


def tensors(value):
    return keras.tree.map_structure(keras.ops.convert_to_tensor, value)


def flat(value):
    return [np.asarray(one.detach()) for one in keras.tree.flatten(value)]


def check(layer, x=X, mask=None, state=None, nested=None, scale=0.4):
    """A layer with random weights computes the same here."""
    layer.build(x.shape)
    layer.set_weights([scale * RNG.standard_normal(w.shape) for w in layer.get_weights()])
    options = {} if mask is None else {"mask": mask}
    if state is not None:
        options["initial_state"] = state
    theirs = dict(options) | ({"initial_state": nested} if nested is not None else {})
    expected = flat(layer(tensors(x), **tensors(theirs)))
    got = door.from_keras(layer)(x, **options)
    got = got if isinstance(got, list) else [got]
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, strict=True)


@pytest.mark.parametrize("name", CELLS)
def test_options_of_recurrent_layers(name):
    """288 combinations in all: what is returned, the order of the pass, masks, states to begin with."""
    make, widths = CELLS[name]
    for flags, (zero, mask), begins in itertools.product(FLAGS, [(0, None), (0, MASK), (1, MASK)], [False, True]):
        state = [RNG.standard_normal((B, width)).astype(np.float32) for width in widths] if begins else None
        nested = [state[:2], *state[2:]] if begins and name == "stacked" else None
        check(make(zero_output_for_mask=bool(zero), **flags), X, mask, state, nested)


@pytest.mark.parametrize("name", [name for name in CELLS if name != "cell"])
def test_options_of_bidirectional(name):
    """400 combinations in all."""
    make, _ = CELLS[name]
    for flags, merge, mask in itertools.product(FLAGS, MERGES, [None, MASK]):
        second = {"backward_layer": make(**{**flags, "go_backwards": False})} if flags["go_backwards"] else {}
        check(K.Bidirectional(make(**flags), merge_mode=merge, **second), X, mask)


def test_directions_of_two_kinds():
    for merge, sequences in itertools.product(MERGES, [False, True]):
        second = K.GRU(5, go_backwards=True, return_sequences=sequences)
        check(K.Bidirectional(K.LSTM(5, return_sequences=sequences), merge_mode=merge, backward_layer=second))


@pytest.mark.parametrize("activation", [*ELEMENTWISE, "softmax", "log_softmax", "gelu"])
def test_activations(activation):
    heads = (
        K.Dense(5, activation=activation),
        K.TimeDistributed(K.Dense(5, activation=activation)),
        K.Activation(activation),
    )
    for layer in heads:
        check(layer)
    if activation in ELEMENTWISE:
        small = {"scale": 0.1}  # some grow without bounds
        check(K.SimpleRNN(5, activation=activation, return_sequences=True), **small)
        for make in (K.LSTM, K.GRU):
            check(make(5, activation=activation, return_sequences=True), **small)
            check(make(5, recurrent_activation=activation, return_sequences=True), **small)
        check(K.GRU(5, activation=activation, recurrent_activation=activation, reset_after=False), **small)
    else:
        with pytest.raises(ValueError, match=r"layer 'lstm.*' \(LSTM\): activation: expected one of"):
            check(K.LSTM(5, activation=activation))


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU", "GRU before"])
def test_further_options(name):
    make, _ = CELLS[name]
    for options in ({"use_bias": False}, {"dropout": 0.3, "recurrent_dropout": 0.2}, {"unroll": True}):
        check(make(return_sequences=True, **options))
    check(make(return_sequences=True, dtype="float32"), X[:, :1])
    with pytest.raises(ValueError, match=r"\): expected a layer with weights, got one that is not built yet"):
        door.from_keras(make())
    double = make(return_sequences=True, dtype="float64")
    double.build((B, T, N))
    model = door.from_keras(double)
    assert model.dtype == np.float64
    theirs = flat(double(tensors(X.astype(np.float64))))[0]  # with PyTorch, as exact as float32 on some ways
    np.testing.assert_allclose(model(X), theirs, rtol=1e-5, atol=1e-6)


def test_stateful_layers():
    layer = K.LSTM(5, stateful=True, return_sequences=True)
    layer.build((B, T, N))
    model = door.from_keras(layer)
    for _ in range(3):
        np.testing.assert_allclose(model(X), flat(layer(tensors(X)))[0], rtol=1e-5, atol=1e-5)
    layer.reset_state()
    model.reset_states()
    np.testing.assert_allclose(model(X), flat(layer(tensors(X)))[0], rtol=1e-5, atol=1e-5)


def sequential():
    return keras.Sequential(
        [
            keras.Input((None, N)),
            K.Masking(0.0),
            K.Bidirectional(K.LSTM(4, return_sequences=True), merge_mode="ave", name="both"),
            K.Dropout(0.5),
            K.RNN(K.StackedRNNCells([K.LSTMCell(3), K.LSTMCell(3), K.GRUCell(2)]), return_sequences=True),
            K.TimeDistributed(K.Dense(3, activation="relu")),
            K.GRU(5, go_backwards=True, name="a name of its own"),
            K.Dense(2, activation="softmax"),
        ]
    )


def functional():
    ids = keras.Input((None,), dtype="int32")
    x = K.Embedding(9, 4, mask_zero=True)(ids)
    x = K.LSTM(4, return_sequences=True)(x)
    y, h = K.GRU(4, return_state=True)(x)
    return keras.Model(ids, [h, y])


def masked():
    x = keras.Input((None, N))
    return keras.Model(x, K.Dense(2)(K.SimpleRNN(3)(K.Masking(0.0)(x))))


def plain():
    return keras.Sequential([keras.Input((None, N)), K.LSTM(4, return_sequences=True), K.GRU(5), K.Dense(2)])


def averaged():
    x = keras.Input((None, N))
    y = K.LayerNormalization(epsilon=0.1)(K.LSTM(5, return_sequences=True)(K.Masking(0.0)(x)))
    return keras.Model(x, K.Dense(2)(K.LayerNormalization(scale=False)(K.GlobalAveragePooling1D()(y))))


def largest():
    layers = [K.GRU(5, return_sequences=True), K.LayerNormalization(center=False), K.GlobalMaxPooling1D()]
    return keras.Sequential([keras.Input((None, N)), *layers])


@pytest.mark.parametrize("make", [sequential, functional, masked, plain, averaged, largest])
def test_models_and_their_files(make, tmp_path):
    model = make()
    x = np.array([[0, 2, 3, 0], [1, 8, 0, 0]]) if make is functional else X * MASK[..., None]
    model.set_weights([0.5 * RNG.standard_normal(w.shape) for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    expected = flat(model(tensors(x)))
    for ours in (door.load(tmp_path / "model.keras"), door.from_keras(model)):
        got = ours(x)
        for one, other in zip(got if isinstance(got, list) else [got], expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert door.load(tmp_path / "model.keras").origin == "model.keras, Keras"
    assert "keras." in ours.origin
    if make is plain:
        np.testing.assert_allclose(ours.model(x, last_only=True)[0], expected[0], rtol=1e-5, atol=1e-5)


def test_what_is_refused():
    x = keras.Input((None, N))
    two = keras.Model(x, K.Concatenate()([K.LSTM(3)(x), K.GRU(3)(x)]))
    with pytest.raises(ValueError, match=r"layer 'concatenate.*' \(Concatenate\): expected one input"):
        door.from_keras(two)
    _, h = K.GRU(3, return_state=True)(x)
    decoder = keras.Model(x, K.GRU(3)(x, initial_state=h))
    with pytest.raises(ValueError, match=r"layer 'gru.*' \(GRU\): expected one input|expected no further inputs"):
        door.from_keras(decoder)
    conv = keras.Sequential([keras.Input((None, N)), K.Conv1D(3, 2, name="front"), K.LSTM(3)])
    with pytest.raises(ValueError, match=r"layer 'front' \(Conv1D\): expected one of Activation, Bidirectional"):
        door.from_keras(conv)
    with pytest.raises(TypeError, match="layer: expected a Keras model or layer, got int 3"):
        door.from_keras(3)


def test_masks_that_are_not_of_a_layer():
    """A mask that a program makes itself is no part of what comes in, so it is refused and not left out."""
    x = keras.Input((None, N))
    shown = K.Masking(0.0)(x)
    for mask in (
        keras.ops.any(keras.ops.not_equal(x, 5.0), axis=-1),
        keras.ops.any(keras.ops.not_equal(K.Dense(N)(x), 0.0), axis=-1),
        keras.ops.all(keras.ops.not_equal(x, 0.0), axis=-1),
    ):
        for start in (x, shown):
            model = keras.Model(x, K.LSTM(3)(start, mask=mask))
            with pytest.raises(ValueError, match=r"layer 'lstm.*' \(LSTM\): mask: expected that of a Masking or Emb"):
                door.from_keras(model)


def test_a_changed_configuration_is_refused_in_our_words(tmp_path):
    """Any value in a functional model's configuration replaced by others."""
    functional().save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config, rng = json.loads(members["config.json"]), np.random.default_rng(0)

    def places(value, path=()):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield (*path, key)
            yield from places(inner, (*path, key))

    every = list(places(config))
    for place in [every[n] for n in rng.choice(len(every), 300)]:
        changed = json.loads(members["config.json"])
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = [None, 3, "x", [], {}, -1, [["gru", 0, 7]]][rng.integers(7)]
        with zipfile.ZipFile(tmp_path / "changed.keras", "w") as archive:
            for name, data in (members | {"config.json": json.dumps(changed)}).items():
                archive.writestr(name, data)
        try:
            door.load(tmp_path / "changed.keras")
        except (ValueError, TypeError) as error:
            assert "changed.keras: " in str(error) and "expected" in str(error), place


L, D = rnnfast.layers, rnnfast.Dense
OUT = {
    "lstm": lambda: rnnfast.Model(a=L.LSTM(N, 5, 2, rng=0), b=D(5, 3, activation="softmax", rng=1)),
    "gru": lambda: rnnfast.Model(a=L.GRU(N, 7, rng=0), b=L.GRU(7, 3, reset_after=False, rng=1)),
    "both": lambda: rnnfast.Model(a=L.GRU(N, 5, 2, bidirectional=True, rng=0), b=D(10, 2, bias=False, rng=1)),
    "rnn": lambda: rnnfast.Model(a=L.RNN(N, 5, nonlinearity="mish", bias=False), b=rnnfast.Dropout(0.1), c=D(5, 1)),
    "layer": lambda: L.LSTM(N, 5, bidirectional=True, rng=0),
    "double": lambda: L.GRU(N, 5, dtype=np.float64, recurrent_dropout=0.2, rng=0),
}


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("last", [False, True])
def test_keras_computes_what_goes_out(name, last):
    model = OUT[name]()
    theirs = door.to_keras(model, last_only=last)
    x = X.astype(model.dtype)
    y = model(x.swapaxes(0, 1), last_only=last)[0]
    tolerance = 1e-6 if name == "double" else 1e-5
    expected = flat(theirs(tensors(x)))[0]
    assert expected.dtype == model.dtype
    np.testing.assert_allclose(y if last else y.swapaxes(0, 1), expected, rtol=tolerance, atol=tolerance)
    again = door.from_keras(theirs)
    np.testing.assert_allclose(again(x), expected, rtol=tolerance, atol=tolerance)


def test_embedding_goes_out_and_trains_on():
    model = rnnfast.Model(a=rnnfast.Embedding(9, 4, rng=0), b=L.LSTM(4, 5, rng=1), c=D(5, 2, rng=2))
    ids = np.array([[0, 2, 3], [1, 8, 5]])
    theirs = door.to_keras(model)
    y = model(ids.T)[0].swapaxes(0, 1)
    np.testing.assert_allclose(flat(theirs(tensors(ids)))[0], y, rtol=1e-5, atol=1e-6)
    theirs.compile("sgd", "mse")
    assert np.isfinite(theirs.train_on_batch(ids, np.zeros_like(y)))
