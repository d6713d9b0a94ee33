"""Streams of whole models: bitwise the model's call, by steps and blocks; states, weights, errors, threads."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from registry import assert_same_bits

from rnnfast import GRU, LSTM, RNN, Add, Concat, Dense, Dropout, Embedding, IndRNN, LayerNorm, Model, Pool

T = 70  # more than the steps of a block


def chain(dtype=np.float32, activation="identity", hidden=17, out=3, layers=1, **options):
    return Model(
        rnn=LSTM(4, hidden, layers, dtype=dtype, rng=0, **options),
        head=Dense(hidden, out, activation=activation, dtype=dtype, rng=1),
    )


def two_heads(dtype=np.float32, **options):
    return Model(
        rnn=GRU(4, 7, dtype=dtype, rng=0, **options),
        policy=Dense(7, 3, activation="softmax", dtype=dtype, rng=1),
        value=Dense(7, 1, dtype=dtype, rng=2),
        inputs={"policy": "rnn", "value": "rnn"},
    )


def words(dtype=np.float32, **options):
    return Model(
        embed=Embedding(11, 5, dtype=dtype, rng=0),
        drop=Dropout(0.5),
        rnn=LSTM(5, 7, dtype=dtype, rng=1, **options),
        head=Dense(7, 11, activation="softmax", dtype=dtype, rng=2),
    )


def skip(dtype=np.float32, **options):
    return Model(
        inside=Dense(4, 7, activation="gelu", dtype=dtype, rng=0),
        rnn=GRU(7, 7, dtype=dtype, rng=1, **options),
        sum=Add(),
        more=RNN(7, 100, dtype=dtype, rng=2, **options),
        both=Concat(),
        head=Dense(104, 2, activation="tanh", dtype=dtype, rng=3),
        inputs={"sum": ("rnn", "inside"), "both": ("more", "x")},
    )


def plain(dtype=np.float32, **options):
    return Model(first=IndRNN(4, 6, dtype=dtype, rng=0, **options), second=GRU(6, 1, dtype=dtype, rng=1, **options))


MODELS = {"chain": chain, "two heads": two_heads, "words": words, "skip": skip, "layers": plain}
each_model = pytest.mark.parametrize("name", MODELS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def inputs(model, batch, dtype, steps=T, batch_first=False):
    rng = np.random.default_rng(5)
    shape = (batch, steps) if batch_first else (steps, batch)
    if model.takes_ids:
        return rng.integers(0, model.input_size, shape)
    return rng.standard_normal((*shape, model.input_size)).astype(dtype)


def assert_equal(found, expected):
    if not isinstance(expected, dict):
        found, expected = {"": found}, {"": expected}
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert_same_bits(found[name], np.ascontiguousarray(value))


def assert_equal_states(found, expected):
    assert list(found) == list(expected)
    for name, one in expected.items():
        for a, b in zip(*(s if isinstance(s, tuple) else (s,) for s in (found[name], one)), strict=True):
            assert_same_bits(a, b)


def at(y, *index):
    return {name: value[index] for name, value in y.items()} if isinstance(y, dict) else y[index]


@each_model
@each_dtype
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_model_s_bits(name, dtype, batch, batch_first):
    model = MODELS[name](dtype, batch_first=batch_first)
    x = inputs(model, batch, dtype, batch_first=batch_first)
    y, state = model(x)
    stream = model.stream(batch)
    assert_equal(stream.process(x), y)
    assert_equal_states(stream.state, state)
    stream.reset()
    for t in range(5):
        index = (slice(None), t) if batch_first else (t,)
        assert_equal(stream.step(np.ascontiguousarray(x[index])), at(y, *index))
    index = (slice(None), slice(5, None)) if batch_first else (slice(5, None),)
    assert_equal(stream.process(x[index]), at(y, *index))
    if batch == 1:
        row = x[0] if batch_first else x[:, 0]
        stream.reset()
        whole = at(y, 0) if batch_first else at(y, slice(None), 0)
        assert_equal(stream.step(row[0]), at(whole, 0))
        assert_equal(stream.process(row[1:]), at(whole, slice(1, None)))
    none = (slice(None), slice(0, 0)) if batch_first else (slice(0, 0),)
    assert_equal(stream.process(x[none]), at(y, *none))


@pytest.mark.parametrize(
    "activation", ["identity", "sigmoid", "tanh", "softmax", "relu", "gelu", "silu", "softplus", "elu"]
)
@pytest.mark.parametrize("sizes", [(1, 1), (7, 1), (17, 100), (100, 7)])
@each_dtype
def test_heads_of_all_kinds(activation, sizes, dtype):
    model = chain(dtype, activation, *sizes, layers=2)
    x = inputs(model, 2, dtype, steps=9)
    expected = model(x)[0]
    assert_equal(model.stream(2).process(x), expected)
    stream = model.stream(2, num_threads=1)
    assert_equal(np.stack([stream.step(one) for one in x]), expected)


@each_model
@pytest.mark.parametrize("batch_first", [False, True])
def test_out(name, batch_first):
    model = MODELS[name](batch_first=batch_first)
    x = inputs(model, 2, np.float32, batch_first=batch_first)
    stream, same = model.stream(2), model.stream(2)
    expected = same.process(x)
    out = {key: np.full_like(value, np.nan) for key, value in expected.items()} if isinstance(expected, dict) else None
    if out is None:
        out = np.full_like(expected, np.nan)
        assert stream.process(x, out) is out
        assert_equal(out, expected)
        with pytest.raises(ValueError, match="out: expected shape"):
            stream.process(x, out[:1])
        with pytest.raises(TypeError, match="out: expected dtype"):
            stream.process(x, out.astype(np.float16))
    else:
        found = stream.process(x, out)
        assert found["value"] is out["value"]
        assert_equal(found, expected)
        with pytest.raises(ValueError, match=r"out\['value'\]: expected shape"):
            stream.process(x, {"value": out["policy"]})
        with pytest.raises(ValueError, match=r"out: expected names among \['policy', 'value'\], got \['rnn'\]"):
            stream.process(x, {"rnn": out["policy"]})
        with pytest.raises(TypeError, match="out: expected a mapping"):
            stream.process(x, out["policy"])
    step = np.ascontiguousarray(x[:, 0] if batch_first else x[0])
    assert_equal(stream.step(step), same.step(step))  # what was refused has changed nothing


def test_out_may_not_be_the_input_or_another_output():
    model = Model(rnn=RNN(3, 3, rng=0), a=Dense(3, 3, rng=1), b=Dense(3, 3, rng=2), inputs={"b": "rnn"})
    stream, x = model.stream(2), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"out\['a'\]: expected memory of its own, got memory that it shares with x"):
        stream.step(x, {"a": x})
    shared = np.empty((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"out\['b'\]: expected memory of its own"):
        stream.step(x, {"a": shared, "b": shared})


def test_states_are_read_set_and_reset():
    model = skip()
    stream, x = model.stream(3), inputs(skip(), 3, np.float32)
    y, _ = model(x)
    stream.process(x[:10])
    kept = stream.state
    first = stream.process(x[10:20])
    stream.state = kept
    assert_equal(stream.process(x[10:20]), first)
    stream.reset([1])
    assert not stream.state["rnn"][:, 1].any()
    assert stream.state["rnn"][:, 0].any()
    stream.reset()
    assert_equal(stream.process(x), y)
    for wrong, message in (
        ({"head": 0}, r"state: expected names among \['rnn', 'more'\], got \['head'\]"),
        ({"rnn": np.zeros((1, 2, 7))}, r"state\['rnn'\]: expected shape"),
        ({"rnn": np.zeros((1, 3, 7)), "more": 0}, r"state\['more'\]: expected shape"),
        (3, "state: expected a mapping"),
    ):
        before = stream.state
        with pytest.raises((TypeError, ValueError), match=message):
            stream.state = wrong
        for part, value in stream.state.items():
            assert_same_bits(value, before[part])
    with pytest.raises(ValueError, match="rows: expected"):
        stream.reset([3])
    with pytest.raises(AttributeError, match="state: cannot be deleted"):
        del stream.state


@each_model
def test_weights_are_those_of_one_moment_until_refresh(name):
    model = MODELS[name]()
    x = inputs(model, 2, np.float32, steps=6)
    stream = model.stream(2)
    assert (stream.version, stream.stale) == (model.params.version, False)
    before = stream.process(x)
    stream.reset()
    with model.params.writing() as flat:
        flat *= 0.5
    assert stream.stale
    assert_equal(stream.process(x), before)
    state = stream.state
    copied = stream.copy()
    stream.refresh()
    assert (stream.stale, copied.stale) == (False, True)
    assert_equal_states(stream.state, state)
    stream.reset()
    assert_equal(stream.process(x), model(x)[0])
    copied.reset()
    assert_equal(copied.process(x), before)


def test_copies_have_states_of_their_own():
    model = words()
    stream, ids = model.stream(), inputs(words(), 1, np.float32)
    stream.process(ids[:10])
    others = [stream.copy(), copy.copy(stream), copy.deepcopy(stream)]
    expected = stream.process(ids[10:])
    for other in others:
        assert_equal(other.process(ids[10:]), expected)
    with pytest.raises(TypeError, match="ModelStream: cannot be pickled"):
        pickle.dumps(stream)


def test_bfloat16_weights_of_layers():
    model = chain(hidden=16)
    x = inputs(model, 1, np.float32)
    stream, layer = model.stream(weights="bfloat16"), model.parts["rnn"].stream(weights="bfloat16")
    assert stream.weights == "bfloat16"
    assert_equal(stream.process(x), model.parts["head"](layer.process(x)))
    with pytest.raises(ValueError, match="weights: expected one of"):
        model.stream(weights="float16")


def test_ids_in_all_their_forms():
    model = words()
    expected = model(np.array([[3], [7]]))[0]
    for first, second in ((3, 7), (np.int64(3), np.int32(7)), ([3], [7]), (np.array([3]), np.array([7], np.uint8))):
        stream = model.stream()
        found = [stream.step(first), stream.step(second)]
        assert_same_bits(np.stack([one.reshape(1, -1) for one in found]), expected)
    one_hot = Model(rnn=LSTM(11, 4, rng=0), head=Dense(4, 2, rng=1))
    assert_equal(one_hot.stream().process(np.array([3, 7]), ids=True), one_hot(np.array([[3], [7]]))[0][:, 0])
    stream = model.stream(2)
    for wrong, message in (
        (np.array([3, 11]), "x: expected ids in 0..10, got 11"),
        ([-1, 0], "x: expected ids in 0..10, got -1"),
        (np.array([3]), r"x: expected \[B\] with B=2"),
        (3, r"x: expected \[B\], got"),
        (np.array([1.0, 2.0]), "x: expected integers"),
        (np.zeros((2, 11)), r"x: expected \[B\], got"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            stream.step(wrong)
    with pytest.raises(ValueError, match="ids: expected True"):
        stream.step([1, 2], ids=False)
    with pytest.raises(ValueError, match=r"x: expected ids in 0\.\.10, got 11"):
        stream.process(np.full((200, 2), 11))
    assert not stream.state["rnn"][0].any()


def test_inputs_of_other_kinds():
    model = chain()
    stream, x = model.stream(2), inputs(chain(), 2, np.float32)
    expected = stream.process(x)
    for other in (x.tolist(), x.astype(np.float64), np.asfortranarray(x), x.astype(">f4")):
        stream.reset()
        assert_equal(stream.process(other), expected)
    for wrong, message in (
        (x[0, :1], r"x: expected \[B, I\] with B=2"),
        (x[0, 0], r"x: expected \[B, I\], got"),
        (x[0, :, :3], r"x: expected \[B, I\] with I=4"),
        ("a", "x: expected an array of real numbers"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            stream.step(wrong)
    with pytest.raises(ValueError, match=r"block: expected \[T, B, I\] with B=2"):
        stream.process(x[:, :1])
    assert repr(stream).startswith("ModelStream(batch_size=2, input_size=4, output_size=3, layers=['rnn']")
    assert two_heads().stream().output_size == {"policy": 3, "value": 1}
    with pytest.raises(TypeError, match=r"made by model\.stream"):
        type(stream)()


def test_models_that_can_not_be_streams():
    for model, message in (
        (Model(rnn=LSTM(3, 4, bidirectional=True)), "only run forwards in time"),
        (Model(rnn=LSTM(3, 4), pool=Pool("mean")), "stream: expected layers, Dense, .* got pool, a Pool"),
        (Model(rnn=LSTM(3, 4), norm=LayerNorm(4)), "got norm, a LayerNorm"),
        (Model(head=Dense(3, 4)), "stream: expected a model with a recurrent layer"),
        (
            Model(a=LSTM(3, 4), b=LSTM(3, 4), inputs={"a": "x.a", "b": ("x.b", "a.state")}, outputs="b"),
            "stream: expected a model of one input",
        ),
        (
            Model(a=LSTM(3, 4), b=LSTM(4, 4), inputs={"b": ("a", "a.state")}),
            "stream: expected layers with states of their own, got b, begun by a",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model.stream()
    with pytest.raises(ValueError, match="batch_size: expected"):
        chain().stream(0)


def test_two_threads_in_one_stream_are_an_error():
    stream = Model(rnn=LSTM(8, 200, rng=0), head=Dense(200, 2, rng=0)).stream()
    x = np.zeros((3000, 8), np.float32)
    thread = threading.Thread(target=stream.process, args=(x,))
    thread.start()
    refused = 0
    while thread.is_alive():
        try:
            stream.step(x[0])
        except RuntimeError as error:
            assert "another thread is inside this stream" in str(error)
            refused += 1
        time.sleep(0.001)
    thread.join()
    assert refused


def test_a_busy_stream_refuses_every_use():
    """And the call that it is in ends as if nobody had asked."""
    stream = Model(rnn=LSTM(8, 200, rng=0), head=Dense(200, 2, rng=0)).stream()
    x = np.random.default_rng(0).standard_normal((3000, 8), np.float32)
    expected, state = stream.copy().process(x), stream.state
    uses = {
        "step": lambda: stream.step(x[0]),
        "process": lambda: stream.process(x[:2]),
        "reset": stream.reset,
        "read": lambda: stream.state,
        "write": lambda: setattr(stream, "state", state),
        "copy": stream.copy,
        "refresh": stream.refresh,
    }
    for name, use in uses.items():
        refused, answers, begun = 0, [], threading.Event()

        def work(answers=answers, begun=begun):
            begun.set()
            answers.append(stream.process(x))

        stream.reset()
        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        time.sleep(0.002)  # else the use might come first
        while thread.is_alive() and not refused:
            try:
                use()
            except RuntimeError as error:
                assert "another thread is inside this stream" in str(error)
                refused += 1
        thread.join()
        assert refused, name
        assert_same_bits(answers[0], expected)


def test_ctrl_c_leaves_the_states_from_before():
    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    stream = Model(rnn=LSTM(8, 100, rng=0), head=Dense(100, 2, rng=0)).stream()
    stream.step(np.ones(8))
    before = stream.state["rnn"][0]
    x = np.zeros((400_000, 8), np.float32)
    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Stopped):
            stream.process(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert_same_bits(stream.state["rnn"][0], before)
    stream.step(x[0])
