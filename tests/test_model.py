"""Model: equal to its parts called by hand, on one buffer, with a layer's promises about masks, tapes and errors."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from registry import assert_close, assert_same_bits

import rnnfast
from rnnfast import GRU, LSTM, RNN, Dense, Model, RNNCell, reference

T, B = 7, 4


def make(dtype=np.float32, activation="identity", **options):
    """A model of a layer and a head; equal arguments make equal weights."""
    layer = LSTM(3, 5, 2, dtype=dtype, rng=1, **options)
    size = 10 if options.get("bidirectional") else 5
    return Model(rnn=layer, head=Dense(size, 2, activation=activation, dtype=dtype, rng=2))


def parts_of_make(dtype=np.float32, **options):
    """The same weights as `make` has, in parts that are in no model."""
    return LSTM(3, 5, 2, dtype=dtype, rng=1, **options), Dense(5, 2, dtype=dtype, rng=2)


def data(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in ((T, B, 3), (T, B, 2))]


def test_it_equals_its_parts_called_by_hand():
    model, (layer, head) = make(), parts_of_make()
    x, dy = data()
    y, state, tape = model.forward(x)
    hidden, final, layer_tape = layer.forward(x)
    expected, head_tape = head.forward(hidden)
    assert_same_bits(y, expected)
    assert_same_bits(model(x)[0], expected)
    assert list(state) == ["rnn"]
    for actual, wanted in zip(state["rnn"], final, strict=True):
        assert_same_bits(actual, wanted)

    dstate = tuple(np.full_like(a, 0.5) for a in final)
    grads = model.backward(tape, dy, {"rnn": dstate})
    of_head = head.backward(head_tape, dy)
    of_layer = layer.backward(layer_tape, of_head.x, dstate)
    assert_same_bits(grads.x, of_layer.x)
    for actual, wanted in zip(grads.state["rnn"], of_layer.state, strict=True):
        assert_same_bits(actual, wanted)
    for prefix, part in (("rnn", of_layer), ("head", of_head)):
        for name, wanted in part.params.items():
            assert_same_bits(grads.params[f"{prefix}.{name}"], wanted)
    assert grads.reset_state is None


def test_it_agrees_with_the_oracle():
    model = make(np.float64)
    x, dy = data(dtype=np.float64)
    weights = {name.removeprefix("rnn."): value for name, value in model.params.items() if name.startswith("rnn.")}
    hidden = reference.stack_forward("lstm", weights, x, num_layers=2)
    head = {name: model.params[f"head.{name}"] for name in ("weight", "bias")}
    expected = reference.dense_forward(head, hidden.y)
    y, _, tape = model.forward(x)
    assert_close(y, expected.y, 1e-12)
    grads = model.backward(tape, dy)
    of_head = reference.dense_backward(expected, dy)
    assert_close(grads.x, reference.stack_backward(hidden, of_head.dx).dx, 1e-11)
    assert_close(grads.params["head.weight"], of_head.params["weight"], 1e-11)


def test_all_parameters_lie_in_one_buffer_with_one_version():
    layer, head = parts_of_make()
    names = [f"rnn.{name}" for name in layer.params] + [f"head.{name}" for name in head.params]
    values = np.concatenate([layer.params.flat, head.params.flat])
    model = Model(rnn=layer, head=head)
    assert list(model.params) == names
    assert_same_bits(np.array(model.params.flat), values)
    assert model.parts["rnn"] is layer
    for part in (layer, head):
        assert np.shares_memory(part.params.flat, model.params.flat)
        assert part.params.version == model.params.version

    x, _ = data()
    before = model(x)[0]
    with model.params.writing() as flat:
        flat *= 2
    assert_same_bits(np.array(layer.params.flat), 2 * values[: layer.params.size])
    assert not np.array_equal(model(x)[0], before)
    head.update({"bias": [7, 8]})
    assert model.params["head.bias"].tolist() == [7, 8]
    model.update({"head.bias": [1, 2]})
    assert head.params["bias"].tolist() == [1, 2]
    model.load({name: np.zeros(shape) for name, shape in model.params.shapes.items()})
    assert not model(x)[0].any()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("head_first", [False, True])
def test_rows_end_as_in_separate_calls(batch_first, head_first):
    def build():
        layer = GRU(3, 5, rng=1, batch_first=batch_first)
        first = {"encoder": Dense(3, 3, activation="sigmoid", rng=3)} if head_first else {}
        return Model(**first, rnn=layer, head=Dense(5, 2, activation="softmax", rng=2))

    def swap(array):
        return array.swapaxes(0, 1) if batch_first else array

    model = build()
    x, dy = data()
    lengths = np.array([7, 3, 0, 5])
    ended = np.arange(T)[:, None] >= lengths
    x[ended], dy[ended] = np.nan, np.nan
    y, state, tape = model.forward(swap(x), lengths=lengths)
    grads = model.backward(tape, swap(dy))
    assert not swap(y)[ended].any()
    assert not swap(grads.x)[ended].any()
    assert np.isfinite(grads.params.flat).all()
    assert_same_bits(model(swap(x), lengths=lengths)[0], y)
    for row, length in enumerate(lengths):
        part = slice(row, row + 1)
        alone, alone_state, alone_tape = model.forward(swap(x[:length, part]))
        assert_same_bits(np.array(swap(y)[:length, part]), np.array(swap(alone)))
        assert_same_bits(state["rnn"][:, part].copy(), alone_state["rnn"])
        alone_grads = model.backward(alone_tape, swap(dy[:length, part]))
        assert_same_bits(np.array(swap(grads.x)[:length, part]), np.array(swap(alone_grads.x)))


def test_unbatched_with_a_length():
    model = make()
    x, dy = data()
    y, state, tape = model.forward(x[:, 0], lengths=3)
    whole, whole_state = model(x[:3, :1])
    assert_same_bits(y[:3], whole[:, 0])
    assert not y[3:].any()
    assert_same_bits(state["rnn"][0], np.ascontiguousarray(whole_state["rnn"][0][:, 0]))
    assert model.backward(tape, dy[:, 0]).x.shape == (T, 3)


def test_ids_resets_states_and_chunks():
    model = Model(rnn=GRU(9, 5, rng=1), more=RNN(5, 4, rng=2), head=Dense(4, 9, rng=3))
    rng = np.random.default_rng(0)
    ids, resets = rng.integers(0, 9, (T, B)), rng.random((T, B)) < 0.3
    y, state = model(ids, resets=resets)
    half, carried = model(ids[:3], resets=resets[:3])
    rest, end = model(ids[3:], carried, resets=resets[3:])
    assert_same_bits(np.concatenate([half, rest]), y)
    assert list(state) == ["rnn", "more"]
    for name in state:
        assert_same_bits(end[name], state[name])
    one_hot = np.eye(9, dtype=np.float32)[ids]
    assert_same_bits(model(one_hot, resets=resets)[0].round(4), y.round(4))
    _, _, tape = model.forward(ids, {"more": carried["more"]})
    grads = model.backward(tape, np.ones_like(y))
    assert grads.x is None
    assert list(grads.state) == ["rnn", "more"]


def test_reset_state_has_a_gradient():
    model = make(np.float64)
    x, dy = data(dtype=np.float64)
    resets = np.zeros((T, B), bool)
    resets[3] = True
    start = tuple(np.full((2, B, 5), value) for value in (0.1, -0.2))
    y, _, tape = model.forward(x, resets=resets, reset_state={"rnn": start})
    grads = model.backward(tape, dy)
    later, _, tape = model.forward(x[3:], {"rnn": start})
    assert_same_bits(later, y[3:])
    expected = model.backward(tape, dy[3:])
    for actual, wanted in zip(grads.reset_state["rnn"], expected.state["rnn"], strict=True):
        assert_same_bits(actual, wanted)


def test_logits_skip_the_last_activation():
    model, plain = make(activation="softmax"), make()
    x, dy = data()
    assert_same_bits(model(x, logits=True)[0], plain(x)[0])
    assert np.allclose(model(x)[0].sum(axis=-1), 1)
    _, _, tape = model.forward(x, logits=True)
    _, _, plain_tape = plain.forward(x)
    assert_same_bits(model.backward(tape, dy).x, plain.backward(plain_tape, dy).x)
    with pytest.raises(ValueError, match="logits: expected a Dense"):
        Model(rnn=RNN(3, 5))(x, logits=True)


def test_out_receives_the_prediction():
    x, _ = data()
    for model, size in ((make(), 2), (Model(rnn=RNN(3, 5, rng=0)), 5)):
        out = np.empty((T, B, size), np.float32)
        y, _ = model(x, out=out)
        assert y is out
        assert_same_bits(out, model(x)[0])
        y, _, _ = model.forward(x, out=out)
        assert y is out
        with pytest.raises(ValueError, match="out: expected shape"):
            model(x, out=out[:-1])
        with pytest.raises(TypeError, match="out: expected dtype"):
            model(x, out=out.astype(np.float64))
    square = Model(head=Dense(3, 3))
    with pytest.raises(ValueError, match="out: expected memory of its own"):
        square(x, out=x)


def test_gradients_are_added_into():
    model = make()
    x, dy = data()
    _, _, tape = model.forward(x)
    into = model.params.zeros()
    model.backward(tape, dy, into=into)
    once = into.flat.copy()
    _, _, tape = model.forward(x, tape=tape)
    grads = model.backward(tape, dy, into=into, input_gradient=False)
    assert grads.params is into
    assert grads.x is None
    assert_close(into.flat, 2 * once, 1e-5)


def test_no_dy_means_zeros():
    model = make()
    x, dy = data()
    _, state, tape = model.forward(x)
    dstate = {"rnn": tuple(np.ones_like(a) for a in state["rnn"])}
    grads = model.backward(tape, None, dstate)
    _, _, tape = model.forward(x)
    zeros = model.backward(tape, np.zeros_like(dy), dstate)
    np.testing.assert_array_equal(grads.params.flat, zeros.params.flat)
    np.testing.assert_array_equal(grads.x, zeros.x)


def test_a_failed_backward_adds_nothing_and_leaves_the_tape():
    model = make()
    x, dy = data()
    _, state, tape = model.forward(x)
    into = model.params.zeros()
    good = {"rnn": state["rnn"]}
    calls = [
        ({"dy": dy[:-1]}, "dy: expected shape"),
        ({"dy": dy.astype(complex)}, "dy: expected an array of real"),
        ({"dstate": {"rnn": (state["rnn"][0][:1], None)}}, r"dstate\['rnn'\]\[0\]: expected shape"),
        ({"dstate": {"head": None}}, r"dstate: expected names among \['rnn'\]"),
        ({"dstate": state["rnn"]}, "dstate: expected a mapping"),
        ({"num_threads": 0}, "num_threads: expected"),
        ({"input_gradient": 1}, "input_gradient: expected True or False"),
    ]
    for change, message in calls:
        with pytest.raises((TypeError, ValueError), match=message):
            model.backward(tape, **{"dy": dy, "dstate": good, "into": into, **change})
        assert not into.flat.any()
    with pytest.raises(ValueError, match="into: expected the layout"):
        model.backward(tape, dy, into=make(np.float64).params.zeros())
    with pytest.raises(TypeError, match="into: expected Gradients"):
        model.backward(tape, dy, into=np.zeros(3))
    x *= 2
    with pytest.raises(ValueError, match="tape: expected x as it was"):
        model.backward(tape, dy, into=into)
    x /= 2
    model.backward(tape, dy, good, into=into)
    assert into.flat.any()


def test_tapes():
    model, other = make(), make()
    x, dy = data()
    _, _, tape = model.forward(x)
    with pytest.raises(ValueError, match="tape: expected a tape of this Model"):
        other.backward(tape, dy)
    with pytest.raises(ValueError, match="tape: expected a tape of this Model"):
        other.forward(x, tape=tape)
    model.backward(tape, dy)
    with pytest.raises(ValueError, match="used"):
        model.backward(tape, dy)
    size = tape.nbytes
    _, _, again = model.forward(x, tape=tape)
    assert again is tape
    assert tape.nbytes == size > 0
    with pytest.raises(TypeError, match="tape: expected a tape of a Model"):
        model.forward(x, tape=rnnfast.Tape())
    with model.params.writing():
        pass
    with pytest.raises(ValueError, match="tape: expected the parameters as they were"):
        model.backward(tape, dy)


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="parts: expected at least one"):
        Model()
    with pytest.raises(TypeError, match=r"rnn: expected a Recurrent \(RNN, LSTM, GRU, ...\), a Dense, an"):
        Model(rnn=RNNCell(3, 4))
    with pytest.raises(ValueError, match="head: expected input_size 8, the output of rnn, got 4"):
        Model(rnn=RNN(3, 4, bidirectional=True), head=Dense(4, 2))
    with pytest.raises(ValueError, match="head: expected dtype float32 as rnn has, got float64"):
        Model(rnn=RNN(3, 4), head=Dense(4, 2, dtype=np.float64))
    with pytest.raises(ValueError, match="batch_first: expected the same"):
        Model(a=RNN(3, 4, batch_first=True), b=RNN(4, 4))
    with pytest.raises(ValueError, match=r"identifiers, got 'a\.b'"):
        Model(**{"a.b": RNN(3, 4)})
    layer = RNN(3, 3)
    with pytest.raises(ValueError, match="a: expected a part that is in no model"):
        Model(a=layer, b=layer)
    Model(a=layer)
    for one in (layer, copy.copy(layer)):
        with pytest.raises(ValueError, match="b: expected a part that is in no model"):
            Model(b=one)
    plain = RNN(3, 3)
    with pytest.raises(ValueError, match="a: expected a part that is in no model"):
        Model(a=plain, b=copy.copy(plain))


def test_arguments_that_do_not_fit():
    model = make()
    x, _ = data()
    with pytest.raises(ValueError, match="x: expected"):
        model(x[None])
    with pytest.raises(ValueError, match="x: expected"):
        model(x[..., :2])
    with pytest.raises(ValueError, match=r"state: expected names among \['rnn'\], got \['head'\]"):
        model(x, {"head": 0})
    with pytest.raises(TypeError, match="state: expected a mapping"):
        model(x, model(x)[1]["rnn"])
    with pytest.raises(ValueError, match="lengths: expected values"):
        model(x, lengths=[T + 1] * B)
    with pytest.raises(TypeError, match="logits: expected True or False"):
        model(x, logits=1)
    with pytest.raises(ValueError, match="config: expected 'type'"):
        Model.from_config({"type": "LSTM"})


def test_config_round_trip():
    model = make(bidirectional=True)
    config = json.loads(json.dumps(model.config()))
    one, two = (Model.from_config(config, rng=3) for _ in range(2))
    assert one.config() == model.config()
    assert one.params.shapes == model.params.shapes
    assert_same_bits(np.array(one.params.flat), np.array(two.params.flat))
    assert "rnn=LSTM(" in repr(one)
    assert one.bidirectional
    assert not one.batch_first


def test_rng_state_decides_dropout():
    model = make(dropout=0.5)
    x, _ = data()
    kept = json.loads(json.dumps(model.rng_state()))
    first = model.forward(x)[0]
    assert not np.array_equal(model.forward(x)[0], first)
    model.set_rng_state(kept)
    assert_same_bits(model.forward(x)[0], first)
    with pytest.raises(ValueError, match=r"state: expected the names \['rnn'\], got \[\]"):
        model.set_rng_state({})


def test_a_bad_rng_state_changes_none():
    model = Model(one=LSTM(3, 4, rng=0), two=LSTM(4, 4, rng=1))
    kept = model.rng_state()
    other = Model(one=LSTM(3, 4, rng=2), two=LSTM(4, 4, rng=3)).rng_state()
    for bad in (None, 1, {}, {"bit_generator": "MT19937"}, {"bit_generator": "PCG64"}):
        with pytest.raises((TypeError, ValueError), match=r"state\['two'\]: expected a state from rng_state\(\)"):
            model.set_rng_state(other | {"two": bad})
        assert model.rng_state() == kept


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent(duplicate):
    model = make()
    x, _ = data()
    expected = model(x)[0]
    other = duplicate(model)
    assert_same_bits(other(x)[0], expected)
    with other.params.writing() as flat:
        flat += 1
    assert np.shares_memory(other.parts["head"].params.flat, other.params.flat)
    assert not np.array_equal(other(x)[0], expected)
    assert_same_bits(model(x)[0], expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_copy_of_a_part_is_in_no_model(duplicate):
    """It can join another; the parts of a model's copy are in that copy."""
    model = make()
    x, _ = data()
    expected = model(x)[0]
    layer, head = (duplicate(part) for part in model.parts.values())
    other = Model(rnn=layer, head=head)
    assert_same_bits(other(x)[0], expected)
    other.params.assign(np.zeros(other.params.size))
    assert not other(x)[0].any()
    assert_same_bits(model(x)[0], expected)
    with pytest.raises(ValueError, match="b: expected a part that is in no model"):
        Model(b=duplicate(model).parts["rnn"])


def test_threads_can_share_a_model():
    model = make()
    inputs = [data(seed) for seed in range(8)]

    def train(pair):
        y, _, tape = model.forward(pair[0])
        return y, model.backward(tape, pair[1]).params.flat

    alone = [train(pair) for pair in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(train, inputs * 4))
    for (y, flat), (expected_y, expected) in zip(together, alone * 4, strict=True):
        assert_same_bits(y, expected_y)
        assert_same_bits(flat, expected)
