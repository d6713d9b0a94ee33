"""Whatever a call is given, it works or says in the house's words what it expected; and nothing is lost."""

from __future__ import annotations

import types

import numpy as np
import pytest

import rnnfast
from rnnfast import AUGRU, GRU, LSTM, TBPTT, Dense, Embedding, GRUCell, LSTMCell, Model, losses, optim
from rnnfast.encoders import LabelEncoder, SymbolEncoder, from_one_hot, one_hot

X = np.zeros((3, 2, 4), np.float32)
NONSENSE = [
    *(None, 3, -1, 0.5, "abc", b"x", [], [1], [[1, 2], [3]], {}, {"a": 1}, (), object(), True, float("nan")),
    *(2**64 - 1, -(2**70), np.datetime64(1, "s"), types, memoryview(b"abc"), range(3), slice(3), [2**64 - 1], [-3]),
    *(np.zeros(()), np.zeros(0), np.zeros((3, 2)), np.zeros((3, 2, 2)), np.zeros((2, 3, 2, 2)), np.array("x")),
    *(np.array([None]), np.zeros((3, 2, 2), complex), np.zeros((3, 2, 2), bool), np.array([2**64 - 1], np.uint64)),
]


def model():
    return Model(rnn=LSTM(4, 5, rng=0), head=Dense(5, 2, rng=1))


def trainer():
    made = model()
    return TBPTT(made, losses.mean_squared_error, optim.SGD(made.params, 0.1), k1=3)


def stepped():
    made = trainer()
    made.step(X, np.zeros((3, 2, 2)))
    return made


def backward(dy=None, dstate=None, tape=None, **options):
    made = model()
    y, _, own = made.forward(X)
    made.backward(own if tape is None else tape, y if dy is None else dy, dstate, **options)


def with_key(make, key, value):
    other = make()
    other.load_state_dict(make().state_dict() | {key: value})


def assign(thing, name, value):
    setattr(thing, name, value)


CALLS = {
    "dy": lambda v: backward(v),
    "dstate": lambda v: backward(dstate=v),
    "dstate of one": lambda v: backward(dstate={"rnn": v}),
    "into": lambda v: backward(into=v),
    "tape": lambda v: backward(tape=v),
    "trainer.state": lambda v: assign(trainer(), "state", v),
    "trainer.state of one": lambda v: assign(trainer(), "state", {"rnn": v}),
    "trainer.state of both": lambda v: assign(trainer(), "state", {"rnn": (v, v)}),
    "trainer.reset": lambda v: stepped().reset(v),
    "trainer.load_state_dict": lambda v: trainer().load_state_dict(v),
    **{
        f"trainer.load_state_dict {key}": lambda v, key=key: with_key(stepped, key, v)
        for key in ("state", "start_state", "context", "restart", "steps")
    },
    **{
        f"trainer.step {key}": lambda v, key=key: trainer().step(X, np.zeros((3, 2, 2)), **{key: v})
        for key in ("mask", "resets", "lengths", "following", "ids", "given", "seed")
    },
    "stream.reset": lambda v: LSTM(4, 5).stream(2).reset(v),
    "stream.state": lambda v: assign(LSTM(4, 5).stream(2), "state", v),
    "stream.step": lambda v: LSTM(4, 5).stream(2).step(v),
    "stream.step out": lambda v: LSTM(4, 5).stream(2).step(X[0], v),
    "stream.process given": lambda v: LSTM(4, 5).stream(2).process(X, given=v),
    "optimizer.load_state_dict": lambda v: optim.Adam(LSTM(4, 5).params).load_state_dict(v),
    **{
        f"optimizer.load_state_dict {key}": lambda v, key=key: with_key(lambda: optim.Adam(GRU(2, 3).params), key, v)
        for key in ("name", "step", "lr", "exp_avg")
    },
    "load": lambda v: LSTM(4, 5).load(v),
    "update": lambda v: LSTM(4, 5).update({"bias_ih_l0": v}),
    "assign": lambda v: LSTM(4, 5).params.assign(v),
    "symbols": SymbolEncoder,
    "encode": SymbolEncoder("abc").encode,
    "encode one": lambda v: SymbolEncoder(["aa", "b"]).encode([v]),
    "decode": SymbolEncoder("abc").decode,
    "labels": lambda v: LabelEncoder.fit(["a", "b"]).encode(v),
    "label": lambda v: LabelEncoder.fit(["a", "b"]).encode([v]),
    "one_hot": lambda v: one_hot(v, 3),
    "from_one_hot": from_one_hot,
    "cell": lambda v: LSTMCell(4, 5)(v),
    "cell state": lambda v: LSTMCell(4, 5)(X[0], v),
    "cell out": lambda v: GRUCell(4, 5)(X[0], None, v),
    "Dense": lambda v: Dense(4, 2)(v),
    "mean_squared_error mask": lambda v: losses.mean_squared_error(X, X, mask=v),
    "binary_cross_entropy mask": lambda v: losses.binary_cross_entropy(X, X, mask=v),
}


@pytest.mark.parametrize("name", CALLS)
def test_nonsense_is_answered_in_our_words(name):
    refused = 0
    for value in NONSENSE:
        try:
            CALLS[name](value)
        except (ValueError, TypeError) as error:
            refused += 1
            assert ": " in str(error), f"{value!r}: {error!r}"
            assert "expected" in str(error), f"{value!r}: {error!r}"
    assert refused > len(NONSENSE) // 3


@pytest.mark.parametrize("size", [2**24 + 1, 2**62, 2**70, 0, -1])
def test_sizes_beyond_reason(size):
    for make in (LSTM, GRUCell, Dense, Embedding):
        for arguments in ((size, 5), (5, size)):
            with pytest.raises(ValueError, match=r": expected an integer in 1\.\.16777216"):
                make(*arguments)


MODELS = {
    "head last": (model, {}),
    "head first": (lambda: Model(a=Dense(4, 4), rnn=GRU(4, 5, 2, dropout=0.5), b=Dense(5, 3), c=LSTM(3, 5)), {}),
    "given": (lambda: Model(rnn=AUGRU(4, 5), b=LSTM(5, 5, zoneout=0.2)), {"given": {"rnn": np.ones((3, 2))}}),
    "ids": (lambda: Model(e=Embedding(4, 4), rnn=GRU(4, 5)), {}),
}
ARGUMENTS = ["x", "state", "lengths", "resets", "mask", "reset_state", "given", "out", "logits", "num_threads"]
ARGUMENTS += ["return_states", "last_only", "ids", "seed", "first_step", "recompute", "memory"]


@pytest.mark.parametrize("name", MODELS)
def test_a_refused_forward_leaves_the_tape_as_it_was(name):
    make, options = MODELS[name]
    x = np.zeros((3, 2), int) if name == "ids" else X
    for argument in ARGUMENTS:
        values = NONSENSE
        if argument in ("state", "reset_state", "given"):
            values = [*({part: value} for part in ("rnn", "b", "c") for value in NONSENSE), *NONSENSE]
        for value in values[:: 2 if argument in ("x", "state") else 5]:
            made = make()
            y, _, tape = made.forward(x, **options)
            given = {"x": x} | options | {argument: value}
            try:
                made.forward(**given, tape=tape)
            except (ValueError, TypeError) as error:
                assert "expected" in str(error), f"{argument}={value!r}: {error!r}"
                made.backward(tape, np.ones_like(y))


def test_strides_of_axes_of_length_one_mean_nothing():
    records = np.zeros(5, dtype=[("x", "f4", (2, 4)), ("other", "i4")])
    out = np.zeros(5, dtype=[("y", "f4", (2, 5)), ("other", "i4")])
    layer = LSTM(4, 5, rng=0)
    for step in range(5):
        x, y = records["x"][step : step + 1], out["y"][step : step + 1]
        np.testing.assert_array_equal(layer(x, out=y)[0], layer(x.copy())[0])


# The caller's mode of errors, sizes before memory ---------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softmax", "softplus", "gelu", "silu", "elu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_callers_mode_of_floating_point_errors_does_not_matter(activation, dtype):
    head = Dense(3, 4, activation=activation, dtype=dtype, rng=0)
    x = np.array([[0, 0, 0], [200, -300, 1], [1e4, 3e4, -1e4], [1e-30, -1e-30, 0]], dtype)
    y, tape = head.forward(x)
    grads = head.backward(tape, np.full_like(y, 1e-30))
    logits, small = 1e4 * y, 1e-30 * y
    with np.errstate(all="raise"):
        inside, tape = head.forward(x)
        inside_grads = head.backward(tape, np.full_like(y, 1e-30))
        layer = LSTM(3, 4, dtype=dtype, rng=0)
        h, _, tape = layer.forward(x[:, None])
        layer.backward(tape, np.full_like(h, 1e-30))
        losses.softmax_cross_entropy(logits, np.zeros(4, int))
        losses.binary_cross_entropy(logits, np.ones_like(y), logits=True)
        losses.mean_squared_error(y, small)
    np.testing.assert_array_equal(inside, y)
    np.testing.assert_array_equal(inside_grads.params.flat, grads.params.flat)


@pytest.mark.parametrize("mode", ["raise", "warn", "ignore"])
def test_numbers_beyond_the_range_name_their_argument(mode):
    layer, head = LSTM(4, 5, rng=0), Dense(4, 2)
    big = np.full((3, 2, 4), 1e300)
    with np.errstate(all=mode):
        for call, name in (
            (lambda: layer(big), "x"),
            (lambda: head(big), "x"),
            (lambda: layer(X, (np.full((1, 2, 5), 1e300), np.zeros((1, 2, 5)))), r"state\[0\]"),
            (lambda: layer.update({"bias_ih_l0": np.full(20, 1e300)}), "bias_ih_l0"),
            (lambda: layer.stream(2).process(big), "block"),
        ):
            with pytest.raises(
                ValueError, match=rf"^{name}: expected numbers within the range of float32, got .*1e\+300"
            ):
                call()


LAYER, HEADS = LSTM(8, 4), (Dense(8, 2), Dense(8, 64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes_are_looked_at_before_memory_is_taken(monkeypatch, dtype):
    """Arrays of stride 0 are as large as they like; not one of them is copied to find out."""
    wide = np.broadcast_to(np.zeros((1, 1, 1), dtype), (2**25, 2**20, 8))
    rows = np.broadcast_to(np.zeros((1, 1), dtype), (2**45, 8))

    def copied(*arguments, **options):
        raise AssertionError("a copy was made")

    monkeypatch.setattr(rnnfast._checks, "_converted", copied)
    for call in (lambda: LAYER(wide), lambda: LAYER.forward(wide), *(lambda head=head: head(rows) for head in HEADS)):
        with pytest.raises(ValueError, match=r"expected a product of at most 2\*\*47 elements"):
            call()
