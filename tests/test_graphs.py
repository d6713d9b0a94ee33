"""Models that are not a chain: wiring, gradients by finite differences and PyTorch's, several inputs, tied weights."""

from __future__ import annotations

import copy
import json
import pickle
import re

import numpy as np
import pytest
from registry import assert_close, assert_same_bits

from rnnfast import (
    GRU,
    LSTM,
    RNN,
    TBPTT,
    Add,
    Concat,
    Dense,
    Dropout,
    Embedding,
    LayerNorm,
    Model,
    Pool,
    checkpoint,
    layers,
    losses,
    optim,
)

T, B = 6, 3
D = {"dtype": np.float64}


def two_heads(**options):
    return Model(
        rnn=LSTM(4, 5, rng=0, **D, **options),
        policy=Dense(5, 3, activation="softmax", rng=1, **D),
        value=Dense(5, 1, rng=2, **D),
        inputs={"policy": "rnn", "value": "rnn"},
    )


def skip():
    return Model(
        inside=Dense(4, 5, rng=3, **D),
        rnn=GRU(5, 5, rng=0, **D),
        sum=Add(),
        norm=LayerNorm(5, **D),
        both=Concat(),
        head=Dense(9, 2, rng=1, **D),
        inputs={"sum": ("rnn", "inside"), "both": ("norm", "x")},
    )


def translator(tied=True, **options):
    return Model(
        letters=Embedding(7, 3, rng=0, **D),
        encoder=LSTM(3, 4, 2, rng=1, **D, **options),
        words=Embedding(8, 4, rng=2, **D),
        decoder=LSTM(4, 4, 2, rng=3, **D, **options),
        head=Dense(4, 8, rng=4, **D),
        inputs={"letters": "x.source", "words": "x.target", "decoder": ("words", "encoder.state")},
        tied={"head.weight": "words.weight"} if tied else None,
    )


def inner():
    """An output that another part reads."""
    return Model(
        rnn=LSTM(4, 5, rng=0, **D),
        a=Dense(5, 6, activation="gelu", rng=1, **D),
        b=Dense(6, 2, activation="silu", rng=2, **D),
        outputs=("rnn", "a", "b"),
    )


def pooled(kind="mean", **options):
    return Model(
        drop=Dropout(0.0),
        rnn=LSTM(4, 5, rng=0, **D, **options),
        pool=Pool(
            kind, bidirectional=options.get("bidirectional", False), batch_first=options.get("batch_first", False)
        ),
        head=Dense(10 if options.get("bidirectional") else 5, 3, rng=1, **D),
    )


def siamese():
    return Model(
        left=GRU(4, 5, rng=0, **D),
        right=GRU(4, 5, rng=1, **D),
        one=Pool("last"),
        two=Pool("max"),
        both=Concat(),
        head=Dense(10, 2, rng=2, **D),
        inputs={"left": "x.a", "right": "x.b", "one": "left", "two": "right", "both": ("one", "two")},
        tied={"right": "left"},
    )


def inputs_of(model, rng, batch_first=False):
    """An input for a model, of which several have different numbers of steps."""

    def one(name, steps):
        shape = (B, steps) if batch_first else (steps, B)
        size = model._graph.sizes[name]
        if model._graph.reads_ids[name] == "ids":
            return rng.integers(0, size, shape)
        return rng.standard_normal((*shape, size))

    values = {name.removeprefix("x."): one(name, T - n) for n, name in enumerate(model._graph.inputs)}
    return values.get("x", values)


def masks_of(model, x, rng):
    """Lengths, some of them zero, and resets, where a model takes them."""
    if isinstance(x, dict):
        steps = {name: len(array) for name, array in x.items()}
        lengths = {name: rng.permutation([0, count // 2, count]) for name, count in steps.items()}
        resets = {name: rng.random((count, B)) < 0.2 for name, count in steps.items()}
    else:
        lengths, resets = rng.permutation([0, T // 2, T]), rng.random((T, B)) < 0.2
    return {"lengths": lengths, "resets": resets}


def as_dict(y):
    return y if isinstance(y, dict) else {"": y}


MODELS = {
    "two heads": two_heads,
    "skip": skip,
    "translator": translator,
    "untied": lambda: translator(tied=False),
    "inner": inner,
    "mean": pooled,
    "max": lambda: pooled("max"),
    "last": lambda: pooled("last"),
    "last of both": lambda: pooled("last", bidirectional=True),
    "siamese": siamese,
}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_by_finite_differences(name, ragged):
    """Of every parameter, and of the inputs, along random directions."""
    rng = np.random.default_rng(7)
    model = MODELS[name]()
    x = inputs_of(model, rng)
    masks = masks_of(model, x, rng) if ragged else {}
    y, _, tape = model.forward(x, **masks)
    weights = {key: rng.standard_normal(value.shape) for key, value in as_dict(y).items()}
    dy = weights if isinstance(y, dict) else weights[""]

    def loss(x):
        return sum((weights[key] * value).sum() for key, value in as_dict(model(x, **masks)[0]).items())

    grads = model.backward(tape, dy)
    start, step = np.array(model.params.flat), 1e-6
    for key, gradient in grads.params.items():
        direction = model.params.zeros()
        direction[key][...] = rng.standard_normal(gradient.shape)
        ends = []
        for sign in (1, -1):
            model.params.assign(start + sign * step * direction.flat)
            ends.append(loss(x))
        model.params.assign(start)
        expected = (ends[0] - ends[1]) / (2 * step)
        assert abs((gradient * direction[key]).sum() - expected) < 1e-7 * (1 + abs(expected)), key
    for key, gradient in (grads.x if isinstance(grads.x, dict) else {"": grads.x}).items():
        array = x[key] if key else x
        if array.dtype.kind == "i":
            assert gradient is None
            continue
        direction = rng.standard_normal(array.shape)
        ends = [loss(x | {key: array + s * step * direction} if key else array + s * step * direction) for s in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
        assert abs((gradient * direction).sum() - expected) < 1e-7 * (1 + abs(expected))


@pytest.mark.parametrize("name", MODELS)
def test_rows_alone_give_the_same_bits(name):
    """With lengths, whatever lies beyond them; one row of a batch is what it is alone."""
    rng = np.random.default_rng(3)
    model = MODELS[name]()
    x = inputs_of(model, rng)
    lengths = masks_of(model, x, rng)["lengths"]
    y = as_dict(model(x, lengths=lengths)[0])

    def beyond(array, ends):
        array = array.copy()
        ended = np.arange(len(array))[:, None] >= ends
        array[ended] = -5 if array.dtype.kind == "i" else np.nan
        return array

    spoilt = {key: beyond(x[key], lengths[key]) for key in x} if isinstance(x, dict) else beyond(x, lengths)
    for key, value in as_dict(model(spoilt, lengths=lengths)[0]).items():
        assert_same_bits(value, y[key])
    for row in range(B):
        if isinstance(x, dict):
            alone = as_dict(model({key: x[key][: lengths[key][row], row] for key in x})[0])
        else:
            alone = as_dict(model(x[: lengths[row], row])[0])
        for key, value in alone.items():
            if value.ndim == 1:
                assert_same_bits(value, y[key][row])
            else:
                assert_same_bits(value, y[key][: len(value), row].copy())


def test_a_translator_equals_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    model = translator()
    x, dy = inputs_of(model, rng), rng.standard_normal((T - 1, B, 8))
    y, _, tape = model.forward(x)
    grads = model.backward(tape, dy)

    weights = {name: torch.tensor(np.array(value), requires_grad=True) for name, value in model.params.items()}

    def lstm(prefix, x, state):
        layer = torch.nn.LSTM(x.shape[-1], 4, 2, dtype=torch.float64)
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        return torch.func.functional_call(layer, own, (x, state))

    source, target = torch.tensor(x["source"]), torch.tensor(x["target"])
    zeros = torch.zeros(2, B, 4, dtype=torch.float64)
    _, state = lstm("encoder.", weights["letters.weight"][source], (zeros, zeros))
    hidden, _ = lstm("decoder.", weights["words.weight"][target], state)
    out = hidden @ weights["words.weight"].T + weights["head.bias"]
    out.backward(torch.tensor(dy))
    assert_close(y, out.detach().numpy(), 1e-12)
    assert set(weights) == set(grads.params)
    for name, value in weights.items():
        assert_close(grads.params[name], value.grad.numpy(), 1e-11)


def test_two_heads_equal_the_parts_by_hand():
    model, rng = two_heads(), np.random.default_rng(1)
    rnn, policy, value = LSTM(4, 5, rng=0, **D), Dense(5, 3, activation="softmax", rng=1, **D), Dense(5, 1, rng=2, **D)
    x, dp, dv = rng.standard_normal((T, B, 4)), rng.standard_normal((T, B, 3)), rng.standard_normal((T, B, 1))
    y, state, tape = model.forward(x)
    hidden, final, of_rnn = rnn.forward(x)
    p, of_policy = policy.forward(hidden)
    v, of_value = value.forward(hidden)
    assert list(y) == ["policy", "value"]
    assert_same_bits(y["policy"], p)
    assert_same_bits(y["value"], v)
    assert_same_bits(state["rnn"][1], final[1])
    grads = model.backward(tape, {"policy": dp, "value": dv})
    heads = value.backward(of_value, dv), policy.backward(of_policy, dp)
    expected = rnn.backward(of_rnn, heads[0].x + heads[1].x)
    assert_same_bits(grads.x, expected.x)
    assert_same_bits(grads.params["rnn.weight_hh_l0"], expected.params["weight_hh_l0"])
    logits, _ = model(x, logits=True)
    assert_same_bits(logits["policy"], policy(hidden, logits=True))
    _, _, tape = model.forward(x, tape=tape)
    one = model.backward(tape, {"value": dv})
    assert not one.params["policy.weight"].any()
    assert_same_bits(one.params["value.weight"], heads[0].params["weight"])
    out = {"value": np.empty((T, B, 1))}
    again, _ = model(x, out=out)
    assert again["value"] is out["value"]
    assert_same_bits(again["value"], v)


def test_a_model_tells_its_wiring():
    model = translator()
    assert model.inputs["decoder"] == ("words", "encoder.state")
    assert model.inputs["encoder"] == ("letters",)
    assert model.outputs == ("head",)
    assert model.tied == {"head.weight": "words.weight"}
    assert not model.returns_dict
    assert two_heads().returns_dict
    assert [MODELS[name]().is_chain for name in ("two heads", "skip", "untied", "mean")] == [False, False, False, True]


def test_outputs_may_be_chosen():
    rng = np.random.default_rng(1)
    parts = {"rnn": RNN(4, 5, rng=0), "a": Dense(5, 2, rng=1), "b": Dense(2, 3, rng=2)}
    x = rng.standard_normal((T, B, 4), np.float32)
    plain, inner = Model(**copy.deepcopy(parts)), Model(**copy.deepcopy(parts), outputs=("rnn", "b"))
    y, _ = inner(x)
    assert list(y) == ["rnn", "b"]
    assert_same_bits(y["b"], plain(x)[0])
    assert y["rnn"].shape == (T, B, 5)
    first = Model(**copy.deepcopy(parts) | {"b": Dense(5, 3)}, inputs={"b": "rnn"}, outputs=["a", "b"])
    assert list(first(x)[0]) == ["a", "b"]
    y, _, tape = inner.forward(x)
    y["rnn"][...] = 0  # a part reads it
    with pytest.raises(ValueError, match="tape: expected x as it was"):
        inner.backward(tape, y)


def test_a_decoder_begins_with_the_encoders_state():
    model, rng = translator(tied=False), np.random.default_rng(0)
    x = inputs_of(model, rng)
    y, state = model(x)
    parts = model.parts
    _, final = parts["encoder"](parts["letters"](x["source"]))
    hidden, _ = parts["decoder"](parts["words"](x["target"]), final)
    assert_same_bits(y, parts["head"](hidden))
    assert list(state) == ["encoder", "decoder"]
    with pytest.raises(
        ValueError, match=r"state: expected names among \['encoder'\], got \['decoder'\] \(decoder begins"
    ):
        model(x, {"decoder": final})
    y, _, tape = model.forward(x, {"encoder": final})
    grads = model.backward(tape, np.ones_like(y), {"decoder": state["decoder"], "encoder": (None, final[0])})
    assert list(grads.state) == ["encoder"]
    assert grads.x == {"source": None, "target": None}


def test_tied_parameters_are_one():
    model = translator()
    assert "head.weight" not in model.params
    assert list(model.parts["head"].params) == ["bias"]
    size = sum(np.prod(shape, dtype=int) for shape in model.params.shapes.values())
    assert model.params.size == size
    x = inputs_of(model, np.random.default_rng(0))
    before = model(x)[0]
    model.update({"words.weight": np.zeros((8, 4))})
    after = model(x)[0]
    assert_close(after, np.broadcast_to(model.params["head.bias"], after.shape), 0)
    assert not np.array_equal(before, after)
    # Alone, the head's gradient comes with the call, and is not lost.
    head = model.parts["head"]
    y, tape = head.forward(np.ones((2, 4)))
    assert head.backward(tape, np.ones((2, 8))).params["weight"].tolist() == np.full((8, 4), 2.0).tolist()
    assert_same_bits(head(np.ones((2, 4))), y)
    with pytest.raises(ValueError, match="surplus names"):
        head.update({"weight": np.zeros((8, 4))})
    with pytest.raises(ValueError, match="expected ones of their own, got tied ones, weight"):
        Model(head=copy.deepcopy(head))


def test_what_can_not_be_tied():
    def build(tied):
        return lambda: Model(embed=Embedding(8, 4), rnn=RNN(4, 4), head=Dense(4, 8), tied=tied)

    for tied, message in {
        "head.weight": "tied: expected a mapping",
        ("head.weight", "embed.wait"): "tied: expected two parts or two of embed.weight, .*; got 'embed.wait'",
        ("head.bias", "embed.weight"): r"tied: expected embed.weight of shape \[8\], as head.bias, got shape \[8, 4\]",
        ("head", "embed"): r"tied: expected embed.bias of shape \[8\], as head.bias, got none",
        ("head.weight", "head.weight"): "to be a parameter of its own",
    }.items():
        with pytest.raises((TypeError, ValueError), match=message):
            build(dict([tied]) if isinstance(tied, tuple) else tied)()


@pytest.mark.parametrize("name", MODELS)
def test_configuration_checkpoint_and_copies(name, tmp_path):
    model = MODELS[name]()
    x = inputs_of(model, np.random.default_rng(0))
    expected = as_dict(model(x)[0])
    again = layers.from_config(json.loads(json.dumps(model.config())), rng=0)
    assert again.config() == model.config()
    assert repr(again) == repr(model)
    assert again.params.shapes == model.params.shapes
    again.load(model.params)
    checkpoint.save(tmp_path / "a.safetensors", model)
    loaded = checkpoint.load(tmp_path / "a.safetensors").model
    for other in (again, loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for key, value in as_dict(other(x)[0]).items():
            assert_same_bits(value, expected[key])
        other.params.assign(np.zeros(other.params.size))
        assert not any(
            value.any() for value in as_dict(other(x, logits=isinstance(x, dict))[0]).values() if value.ndim == 1
        )
    for key, value in as_dict(model(x)[0]).items():
        assert_same_bits(value, expected[key])


@pytest.mark.parametrize("kind", ["last", "mean", "max"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_pooling_in_a_model(kind, bidirectional, batch_first):
    model = pooled(kind, bidirectional=bidirectional, batch_first=batch_first)
    rng = np.random.default_rng(0)
    x = inputs_of(model, rng, batch_first)
    lengths = np.array([T, 0, 2])
    y, _ = model(x, lengths=lengths)
    assert y.shape == (B, 3)
    if kind == "last":
        plain = Model(**{name: copy.deepcopy(model.parts[name]) for name in ("rnn", "head")})
        assert_same_bits(plain(x, lengths=lengths, last_only=True)[0], y)
    assert_same_bits(model(x[0] if batch_first else x[:, 0])[0], y[0])


def test_last_only_where_it_has_a_meaning():
    x = np.ones((T, B, 4))
    model = two_heads()
    y, _, tape = model.forward(x, last_only=True)
    whole, _ = model(x)
    for key in y:
        assert_same_bits(y[key], whole[key][-1])
    assert model.backward(tape, y).x.shape == x.shape
    with pytest.raises(ValueError, match="last_only: expected False for a model in which no layer is the last"):
        skip()(x, last_only=True)
    model = pooled("mean")  # one output for each sequence in any case
    assert_same_bits(model(x, last_only=True)[0], model(x)[0])


def test_inputs_that_are_read_side_by_side():
    """Two inputs of one clock: the same steps and rows, and one set of lengths."""
    model = Model(
        word=Embedding(9, 3, rng=0),
        tag=Embedding(4, 2, rng=1),
        both=Concat(),
        rnn=RNN(5, 4, rng=2),
        inputs={"word": "x.word", "tag": "x.tag", "both": ("word", "tag")},
    )
    rng = np.random.default_rng(0)
    x = {"word": rng.integers(0, 9, (T, B)), "tag": rng.integers(0, 4, (T, B))}
    y, _ = model(x, lengths=[T, 1, 0])
    assert_same_bits(model(x, lengths={"tag": [T, 1, 0]})[0], y)
    assert model.input_size == {"word": 9, "tag": 4}
    for wrong, message in (
        ({"word": x["word"]}, r"x: expected the names \['word', 'tag'\], got \['word'\]"),
        (x | {"tagg": 0}, "x: expected the names"),
        (x["word"], "x: expected a mapping from the inputs' names, word, tag"),
        (x | {"tag": x["tag"][:-1]}, r"x.tag: expected the steps and rows of x.word, \[6, 3\], got \[5, 3\]"),
        (x | {"tag": np.ones((T, B, 2))}, "x.tag: expected integer ids"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            model(wrong)
    with pytest.raises(ValueError, match="lengths: expected them once for inputs that are read side by side"):
        model(x, lengths={"tag": [1, 1, 1], "word": [1, 1, 1]})


def test_wiring_that_does_not_hold_together():
    def build(inputs=None, outputs=None, **parts):
        options = {"rnn": LSTM(4, 5), "a": Dense(5, 2), "b": Dense(5, 3)} | parts
        return lambda: Model(**options, inputs=inputs, outputs=outputs)

    heads = {"b": "rnn"}
    cases = [
        (build(), r"b: expected input_size 2, the output of a, got 5 \(inputs={'b': 'rnn'} has it read rnn\)"),
        (build({"b": "rrn"}), r"inputs\['b'\]: expected one of x, x.NAME, rnn, a, rnn.state; got 'rrn'"),
        (build({"rnn": "a"}), r"got 'a' \(a part can read only what stands before it\)"),
        (build({"c": "rnn"}), r"inputs: expected names among \['rnn', 'a', 'b'\], got 'c'"),
        (build("rnn"), "inputs: expected a mapping"),
        (build({"b": 3}), r"inputs\['b'\]: expected the name of a value or several, got int 3"),
        (build({"b": ()}), r"inputs\['b'\]: expected the name"),
        (build(heads | {"a": ("rnn", "rnn")}), "a: expected one value to read besides a state, got .*Concat"),
        (build(heads | {"a": "a.state"}), "inputs"),
        (build(heads | {"a": ("rnn", "rnn.state")}), "a: expected no state, since it is no layer"),
        (build(heads, "b"), "a: expected a part that another one reads, or among outputs"),
        (build(heads, "c"), r"outputs: expected names among \['rnn', 'a', 'b'\], got 'c'"),
        (build(heads, 3), "outputs: expected the name of a part or several"),
        (build(heads, ("a", "a", "b")), "outputs: expected each name once"),
        (
            build({"rnn": "x.a", "b": "x"}, b=Dense(4, 3)),
            r"inputs: expected 'x' or several 'x.NAME', got \['x.a', 'x'\]",
        ),
        (build(heads, a=Embedding(5, 3)), "a: expected an input of the model, since an Embedding reads ids, got rnn"),
        (build({"b": "x"}, b=Embedding(4, 3), rnn=Dense(4, 5)), "inputs: expected x to be ids or real"),
        (build(heads, rnn=Concat()), "rnn: expected a part that says the size of x"),
        (build(heads, a=LayerNorm(4)), "a: expected input_size 5, the output of rnn, got 4"),
        (build({"b": ("rnn", "a")}, b=Add()), r"b: expected inputs of one size, got \[5, 2\] from rnn, a"),
        (build(heads, a=Pool("last", bidirectional=True)), "a: expected"),
        (build({"b": ("rnn", "a")}, a=Pool(), b=Concat()), "b: expected inputs that all have steps or all have none"),
        (build({"b": "a"}, a=Pool(), b=LSTM(5, 2)), "b: expected an input with steps, got a, which is pooled"),
        (build({"b": ("rnn", "rnn.state")}, b=GRU(5, 5)), "b: expected states like those of rnn, with which it begins"),
        (
            build({"b": ("rnn", "rnn.state")}, b=LSTM(5, 4)),
            r"widths \[5, 5\]; got 1 layers, widths \[4, 4\]",
        ),
    ]
    for make, message in cases:
        with pytest.raises((TypeError, ValueError), match=":") as found:
            make()
        assert re.search(message, str(found.value))
    with pytest.raises(ValueError, match="parts: expected at least one part with parameters"):
        Model(drop=Dropout())
    with pytest.raises(ValueError, match="parts: expected names other than 'x'"):
        Model(x=LSTM(4, 5))


def test_arguments_that_do_not_fit():
    model, x = two_heads(), np.ones((T, B, 4))
    y, _, tape = model.forward(x)
    for dy, message in (
        (y["policy"], "dy: expected a mapping from the outputs' names, policy, value"),
        (y | {"rnn": 0}, r"dy: expected names among \['policy', 'value'\], got \['rnn'\]"),
        (y | {"value": y["policy"]}, r"dy\['value'\]: expected shape"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            model.backward(tape, dy)
    model.backward(tape, y)
    with pytest.raises(TypeError, match="out: expected a mapping"):
        model(x, out=y["policy"])
    with pytest.raises(ValueError, match=r"out\['value'\]: expected memory of its own"):
        square = Model(rnn=RNN(4, 4), a=Dense(4, 4), value=Dense(4, 4), inputs={"value": "rnn"})
        x = np.ones((T, B, 4), np.float32)
        square(x, out={"value": x})
    with pytest.raises(ValueError, match="logits: expected heads that no part reads, got a, which b reads"):
        Model(rnn=RNN(4, 4), a=Dense(4, 4), b=Dense(4, 4), outputs=("a", "b"))(x, logits=True)


def test_dropout_draws_from_the_models_generators():
    def build():
        return Model(rnn=RNN(4, 40, rng=0), drop=Dropout(0.5, rng=1), head=Dense(40, 2, rng=2))

    model, x = build(), np.ones((T, B, 4), np.float32)
    assert list(model.rng_state()) == ["rnn", "drop"]
    kept = model.rng_state()
    first = model.forward(x)[0]
    assert not np.array_equal(model.forward(x)[0], first)
    model.set_rng_state(kept)
    assert_same_bits(model.forward(x)[0], first)
    assert_same_bits(model(x)[0], model(x)[0])
    # A window that fails has not drawn.
    trainer = TBPTT(model, losses.mean_squared_error, optim.SGD(model.params, 0.1), k1=T)
    kept = model.rng_state()
    with pytest.raises(ValueError, match="target"):
        trainer.step(x, np.zeros((T, B, 3)))
    assert model.rng_state() == kept


@pytest.mark.parametrize("batch_first", [False, True])
def test_of_one_seed_no_two_parts_have_the_same_masks(batch_first):
    """A chunk has the masks of the whole, the first part that draws those that it has alone."""

    def zeros(**options):
        rnn = LSTM(8, 8, 2, dropout=0.5, rng=0, batch_first=batch_first)
        other = LSTM(8, 8, 2, dropout=0.5, rng=0, batch_first=batch_first)
        parts = {"one": Dropout(0.5, rng=0), "two": Dropout(0.5, rng=0), "rnn": rnn, "other": other}
        model = Model(**parts, inputs=dict.fromkeys(parts, "x"))
        y, _, tape = model.forward(x, **options)
        masks = [tape.parts[name]._recording.dropout[0] for name in ("rnn", "other")]
        masks = [mask.swapaxes(0, 1) if batch_first else mask for mask in masks]
        return [array != 0 for array in (y["one"], y["two"], *masks)]

    x = np.ones((3, 6, 8) if batch_first else (6, 3, 8), np.float32)
    whole, axis = zeros(seed=3), 1 if batch_first else 0
    for n, one in enumerate(whole):
        assert 0.2 < one.mean() < 0.8
        assert not any(np.array_equal(one, two) for two in whole[:n])
    assert_same_bits(whole[0], Dropout(0.5).forward(x, seed=3, batch_first=batch_first)[0] != 0)
    x = x[:, 4:] if batch_first else x[4:]
    for one, two in zip(zeros(seed=3, first_step=4), whole, strict=True):
        assert_same_bits(one, two.take([4, 5], axis=axis))


def test_truncated_bptt_of_graphs():
    """What has one input and one output with steps trains as a chain does; the rest is refused when it is built."""
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((12, B, 4)), rng.standard_normal((12, B, 2))
    model, same = skip(), skip()
    trainer = TBPTT(model, losses.mean_squared_error, optim.SGD(model.params, 0.1), k1=12)
    result = trainer.step(x, target)
    y, state, tape = same.forward(x)
    loss, dy = losses.mean_squared_error(y, target)
    grads = same.backward(tape, dy)
    optim.SGD(same.params, 0.1).step(grads.params)
    assert result.loss == loss
    assert_same_bits(result.state["rnn"], state["rnn"])
    assert_same_bits(np.array(model.params.flat), np.array(same.params.flat))
    for wrong, message in (
        (translator(), "one input"),
        (pooled(), "outputs with steps"),
    ):
        with pytest.raises(ValueError, match=f"model: expected .*{message}"):
            TBPTT(wrong, losses.mean_squared_error, optim.SGD(wrong.params, 0.1), k1=4)


@pytest.mark.parametrize(("k1", "k2"), [(12, 12), (4, 4), (4, 10)])
def test_truncated_bptt_of_several_outputs(k1, k2):
    """The same updates as a single output that is both side by side, of which one part has its own loss."""

    def parts():
        return {"rnn": LSTM(4, 5, rng=0, **D), "p": Dense(5, 2, rng=1, **D), "v": Dense(5, 1, rng=2, **D)}

    def both():
        return Model(**parts(), inputs={"v": "rnn"})

    def joined():
        return Model(**parts(), y=Concat(), inputs={"v": "rnn", "y": ("p", "v")})

    def loss_of_both(y, target, mask=None):
        p = losses.mean_squared_error(y["p"], target["p"], mask=mask, reduction="sum")
        v = losses.mean_squared_error(y["v"], target["v"], mask=mask, reduction="sum")
        return p[0] + v[0], {"p": p[1], "v": v[1]}

    def loss_of_joined(y, target, mask=None):
        return losses.mean_squared_error(y, target, mask=mask, reduction="sum")

    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((12, B, 4)), rng.standard_normal((12, B, 3))
    named = {"p": target[..., :2], "v": target[..., 2:]}
    results = []
    for model, loss, goal in ((both(), loss_of_both, named), (joined(), loss_of_joined, target)):
        trainer = TBPTT(model, loss, optim.SGD(model.params, 0.01), k1=k1, k2=k2)
        found = [result.loss for result in trainer.run(x, goal, lengths=[12, 7, 2])]
        results.append((np.array(found), np.array(model.params.flat)))
    assert_close(results[0][0], results[1][0], 1e-12)
    assert_close(results[0][1], results[1][1], 1e-12)
    model = both()
    trainer = TBPTT(model, loss_of_both, optim.SGD(model.params, 0.01), k1=12)
    with pytest.raises(ValueError, match=r"targets\['v'\]: expected leading axes"):
        next(trainer.run(x, named | {"v": target[1:, :, 2:]}))
    with pytest.raises(ValueError, match=r"the loss's gradient\['v'\]: expected shape"):
        TBPTT(model, lambda y, t: (0.0, {"v": y["p"]}), optim.SGD(model.params, 0.1), k1=12).step(x, named)
    with pytest.raises(ValueError, match=r"the loss's gradient\['p'\]: expected finite numbers, got nan"):
        TBPTT(model, lambda y, t: (0.0, {"p": y["p"] * np.nan}), optim.SGD(model.params, 0.1), k1=12).step(x, named)
    only = TBPTT(model, lambda y, t: (0.0, {"p": y["p"]}), optim.SGD(model.params, 0.1), k1=12)
    before = model.params["v.weight"].copy()
    only.step(x, named)
    assert_same_bits(model.params["v.weight"].copy(), before)
