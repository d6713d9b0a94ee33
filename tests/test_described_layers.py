"""What layers, cells and streams do with any description: masks, extra inputs, outputs, random masks, configuration."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from registry import (
    DESCRIPTIONS,
    FUSED,
    ISAS,
    KINDS,
    Case,
    assert_same,
    assert_same_bits,
    make_cell,
    map_state,
    parts,
)
from shared import refused

import rnnfast
from rnnfast import Cell, Dense, Model, Recurrent, RecurrentCell
from rnnfast.description.cells import LAYERS
from rnnfast.description.functions import lerp, sigmoid, tanh
from rnnfast.layers import from_config

T, B, I, H = 9, 3, 4, 6  # noqa: E741
OPTIONS = {"GRUD": {"features": I}, "BlockGRU": {"heads": 2}}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_name = pytest.mark.parametrize("name", LAYERS)


class Own(Cell):
    """h = lerp(sigmoid(gate.z), rate * tanh(gate.n), h), c counts; nobody has published it."""

    states = ("h", "c")
    gates = ("z", "n")
    vectors = ("p",)
    rate: float = 0.5

    def step(self, gate, state, vector):
        c = self.rate * state.c + vector.p
        return lerp(sigmoid(gate.z), self.rate * tanh(gate.n), state.h), c


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def case_of(kind, **options):
    return Case(kind, ISAS[-1], **{"T": T, "B": B, "H": H, "I": I, **options})


def all_of(grads):
    given = tuple((grads.given or {}).values())
    return [grads.x, *parts(grads.state), grads.params.flat, *given]


# Outputs --------------------------------------------------------------------------------------------------------------


@every_kind
def test_the_sequences_of_all_states(kind):
    """Against one call per step; their gradients against those of the states handed from step to step."""
    case = case_of(kind, num_layers=2)
    layer, data = case.layer(), case.data
    y, final, tape = layer.forward(data.x, data.state, return_states=True, **data.extra)
    assert_same_bits(y[0], layer(data.x, data.state, **data.extra)[0])
    assert_same(layer(data.x, data.state, return_states=True, **data.extra), (y, final))
    state, into, tapes = data.state, layer.params.zeros(), []
    for t in range(T):
        _, state, step = layer.forward(data.x[t : t + 1], state, **data.part(slice(t, t + 1)))
        tapes.append(step)
        for sequence, one in zip(y, parts(state), strict=True):
            assert_same_bits(sequence[t], np.array(one[1]))

    dy = tuple(normal(*sequence.shape, seed=n) for n, sequence in enumerate(y))
    grads = layer.backward(tape, dy, data.dstate)
    dstate = data.dstate
    for t in reversed(range(T)):
        dstate = map_state(np.copy, dstate)
        for d, own in zip(parts(dstate), dy, strict=True):
            d[1] += own[t]
        dstate = layer.backward(tapes[t], None, dstate, into=into).state
    for actual, wanted in zip([grads.params.flat, *parts(grads.state)], [into.flat, *parts(dstate)], strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    some = (None, *dy[1:])
    zeros = (np.zeros_like(dy[0]), *dy[1:])
    tapes = [layer.forward(data.x, data.state, return_states=True, **data.extra)[2] for _ in range(2)]
    for one, other in zip(
        *(all_of(layer.backward(t, d)) for t, d in zip(tapes, (some, zeros), strict=True)), strict=True
    ):
        assert_same_bits(one, other)


@pytest.mark.parametrize("batch_first", [False, True])
@every_kind
def test_the_last_output_alone(kind, batch_first):
    """It is what each direction ends with, and its gradient that of the final state."""
    case = case_of(kind, num_layers=2, bidirectional=True, mask="lengths")
    layer, data = case.layer(batch_first=batch_first), case.data
    x = data.x.swapaxes(0, 1) if batch_first else data.x
    extra = {"given": {n: a.swapaxes(0, 1) if batch_first else a for n, a in data.extra.get("given", {}).items()}}
    extra = extra if data.extra else {}
    y, final, tape = layer.forward(x, data.state, last_only=True, **data.masks, **extra)
    first = parts(final)[0]
    assert_same_bits(y, np.concatenate([first[2], first[3]], axis=-1))
    out = np.empty_like(y)
    assert layer(x, data.state, last_only=True, out=out, **data.masks, **extra)[0] is out
    assert_same_bits(out, y)
    dy = normal(*y.shape)
    grads = layer.backward(tape, dy, data.dstate)
    *_, tape = layer.forward(x, data.state, **data.masks, **extra)
    dstate = map_state(np.copy, data.dstate)
    parts(dstate)[0][2] += dy[:, : first.shape[-1]]
    parts(dstate)[0][3] += dy[:, first.shape[-1] :]
    for one, other in zip(all_of(grads), all_of(layer.backward(tape, None, dstate)), strict=True):
        assert_same_bits(one, other)


def test_the_last_output_takes_no_memory_of_a_sequence():
    import tracemalloc

    layer, x = rnnfast.LSTM(1, 256, rng=0), normal(500, 8, 1)
    layer(x, last_only=True)
    tracemalloc.start()
    layer(x, last_only=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500 * 8 * 256 * 4 / 10


# Masks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [False, True])
@every_kind
def test_a_mask_is_as_if_the_steps_were_not_there(kind, ids):
    """Row by row, bitwise: the same calls without the steps; y repeats between them; what is masked may be rotten."""
    case = case_of(kind, num_layers=2, mask="mask", ids=ids)
    layer, data, mask = case.layer(), case.data, case.data.masks["mask"]
    mask[:3, 1] = False  # left padding
    y, final, tape = layer.forward(data.x, data.state, mask=mask, **data.extra)
    grads = layer.backward(tape, np.where(mask[..., None], data.dy, 0), data.dstate)
    for b in range(B):
        there = np.flatnonzero(mask[:, b])
        row = slice(b, b + 1)
        given = {name: {k: a[there, row] for k, a in v.items()} for name, v in data.extra.items()}
        state, dstate = (map_state(lambda part, r=row: part[:, r].copy(), s) for s in (data.state, data.dstate))
        alone, end, tape = layer.forward(data.x[there, row], state, **given)
        assert_same_bits(np.ascontiguousarray(y[there, row]), alone)
        assert_same(map_state(lambda part, r=row: part[:, r].copy(), final), end)
        for t in set(range(1, T)) - set(there):
            assert_same_bits(y[t, b], y[t - 1, b])
        expected = layer.backward(tape, data.dy[there, row].copy(), dstate)
        if not ids:
            assert_same_bits(np.ascontiguousarray(grads.x[there, row]), expected.x)
            assert not grads.x[~mask[:, b], b].any()
        assert_same(map_state(lambda part, r=row: part[:, r].copy(), grads.state), expected.state)
    assert np.isfinite(grads.params.flat).all()


def test_a_mask_that_hides_nothing_changes_no_bit():
    case = case_of("lstm")
    layer, data = case.layer(), case.data
    assert_same(layer(data.x, mask=np.ones((T, B), bool)), layer(data.x))


# Engines, random masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", FUSED)
def test_the_interpreter_gives_the_bits_of_kernels_by_hand(kind, isa):
    case = Case(kind, isa, num_layers=2, bidirectional=True, mask="both", T=T, B=5, H=37, I=19)
    data, results = case.data, []
    for engine in ("fused", "interpreted"):
        layer = case.layer()
        layer._engine = engine
        y, final, tape = layer.forward(data.x, data.state, **data.masks)
        results.append([y, *parts(final), *all_of(layer.backward(tape, data.dy, data.dstate))])
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)


RANDOM = {"zoneout": 0.3, "recurrent_dropout": 0.4}


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "MGU", "SLSTM"])
def test_random_masks_know_neither_chunks_nor_threads(name):
    held = {"zoneout": {"h": 0.3}} if name == "SLSTM" else {}
    layer = getattr(rnnfast, name)(I, H, 2, **RANDOM | held, rng=0)
    x = normal(T, B, I)
    y, final, tape = layer.forward(x, seed=5, num_threads=2)
    grads = layer.backward(tape, np.ones_like(y))
    state, outputs, tapes = None, [], []
    for begin, end in ((0, 1), (1, 5), (5, T)):
        one, state, tape = layer.forward(x[begin:end], state, seed=5, first_step=begin)
        outputs.append(one)
        tapes.append(tape)
    assert_same_bits(np.concatenate(outputs), y)
    assert_same(state, final)
    dstate, into = None, layer.params.zeros()
    for one, tape in zip(outputs[::-1], tapes[::-1], strict=True):
        dstate = layer.backward(tape, np.ones_like(one), dstate, into=into).state
    np.testing.assert_allclose(into.flat, grads.params.flat, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(layer.forward(x, seed=6)[0], y)
    layer.rng = np.random.default_rng(1)
    first = layer.forward(x)[0]
    assert not np.array_equal(layer.forward(x)[0], first)
    layer.rng = np.random.default_rng(1)
    assert_same_bits(layer.forward(x)[0], first)
    assert_same(layer(x), layer(x))


def test_a_cell_draws_the_masks_of_its_layer():
    layer, cell = rnnfast.LSTM(I, H, **RANDOM, rng=0), rnnfast.LSTMCell(I, H, **RANDOM)
    cell.load({name.removesuffix("_l0"): value for name, value in layer.params.items()})
    x, state = normal(T, B, I), None
    y, _, _ = layer.forward(x, seed=3)
    for t in range(T):
        state, _ = cell.forward(x[t], state, seed=3, first_step=t)
        assert_same_bits(state[0], y[t])


def test_zoneout_keeps_units_with_its_probability():
    layer = rnnfast.RNN(1, 400, zoneout={"h": 0.25}, rng=0)
    start = np.full((1, 50, 400), 7.0, np.float32)
    kept = layer.forward(normal(1, 50, 1), start, seed=0)[1] == 7
    assert abs(kept.mean() - 0.25) < 0.01
    plain = rnnfast.RNN(1, 400, rng=0)
    expected = 0.25 * start + 0.75 * plain(normal(1, 50, 1), start)[1]
    np.testing.assert_allclose(layer(normal(1, 50, 1), start)[1], expected, rtol=1e-6)


# Named classes, configuration -----------------------------------------------------------------------------------------


def named(name, **options):
    layer = getattr(rnnfast, name)(I, H, rng=0, **OPTIONS.get(name, {}), **options)
    layout = layer._recurrence.layout
    given = {g.name: (T, B) if g.domain is None else (T, B, layout.widths[g.domain]) for g in layout.program.given}
    return layer, {"given": {n: np.abs(normal(*shape)) for n, shape in given.items()}} if given else {}


@every_name
def test_named_classes(name):
    """Step by step in a stream, from their configuration, from a pickle; documented, with a signature."""
    layer, extra = named(name)
    x = normal(T, B, I)
    y, state = layer(x, **extra)
    stream = layer.stream(B)
    for t in range(T):
        given = {n: a[t] for n, a in extra["given"].items()} if extra else None
        assert_same_bits(stream.step(x[t], given=given), y[t])
    assert_same(stream.state, state)
    stream.reset()
    out = np.empty_like(y)
    assert stream.process(x, out, **extra) is out
    assert_same_bits(out, y)
    built = from_config(json.loads(json.dumps(layer.config())), rng=0)
    assert repr(built) == repr(layer)
    for other in (built, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is type(layer)
        assert_same(other(x, **extra), (y, state))
    text = type(layer).__doc__
    assert "Source: " in text
    assert "Parameters\n----------" in text
    assert "hidden_size" in str(type(layer).__signature__)
    assert layer.flops(T, B, training=True) == 3 * layer.flops(T, B) > 0


def test_options_show_in_the_configuration_where_they_are_not_the_default():
    layer = rnnfast.LSTM(3, 4, proj_size=2, peephole=True, zoneout=0.1, rng=0)
    config = layer.config()
    assert config["proj_size"] == 2
    assert config["zoneout"] == 0.1
    assert "coupled" not in config
    assert layer.params["weight_hr_l0"].shape == (2, 4)
    assert [part.shape for part in layer(normal(2, 1, 3))[1]] == [(1, 1, 2), (1, 1, 4)]
    both = rnnfast.LSTM(3, 4, 2, proj_size=2, bidirectional=True, rng=0)
    assert both.params["weight_ih_l1"].shape == (16, 4)
    model = Model(rnn=both, head=Dense(4, 1))
    assert model(normal(2, 1, 3))[0].shape == (2, 1, 1)


def test_a_cell_of_ones_own():
    layer = Recurrent(Own(rate=0.25), I, H, 2, bidirectional=True, rng=0, recurrent_dropout=0.1)
    x = normal(T, B, I)
    y, _, tape = layer.forward(x)
    assert y.shape == (T, B, 2 * H)
    assert layer.backward(tape, y).params.shapes == layer.params.shapes
    built = from_config(json.loads(json.dumps(layer.config())), rng=0)
    assert built.cell == layer.cell
    assert "cell=Own(rate=0.25)" in repr(layer)
    for other in (built, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same(other(x), layer(x))
    cell = RecurrentCell(Own(), I, H, rng=0)
    one = make_cell("lstm", I, H, isa=ISAS[-1])
    assert len(cell(x[0])) == len(one(x[0])) == 2
    assert_same(cell(x[0], cell(x[0])), cell.forward(x[0], cell.forward(x[0])[0])[0])
    assert_same(from_config(json.loads(json.dumps(cell.config())), rng=0)(x[0]), cell(x[0]))


def test_the_newest_definition_of_a_class_counts():
    def define(factor):
        class Mine(Cell):
            gates = ("n",)

            def step(self, gate):
                return factor * tanh(gate.n)

        return Mine

    first, second = define(1.0), define(2.0)
    config = Recurrent(first(), I, H, rng=0).config()
    assert type(from_config(config).cell) is second
    refused(
        lambda: from_config(config | {"cell": {"type": "NeverDefined"}}),
        ValueError,
        r"config\['cell'\]: expected the class of a cell that is defined here, .*got 'NeverDefined': import or define",
    )
    refused(lambda: from_config(config | {"cell": {"type": "Own", "rat": 1}}), TypeError, r"config.*rat")


# Bad input ------------------------------------------------------------------------------------------------------------


def test_calls_are_refused():
    layer, score = rnnfast.AUGRU(I, H, rng=0), np.ones((T, B), np.float32)
    x = normal(T, B, I)
    assert_same(layer(x, given=score), layer(x, given={"a": score}))
    name = "given: expected the extra inputs of augru by name, a, got"
    refused(lambda: layer(x), ValueError, f"{name} None")
    refused(lambda: layer(x, given={"b": score}), ValueError, rf"{name} \['b'\]")
    refused(
        lambda: layer(x, given={"a": score[1:]}), ValueError, r"given\['a'\]: expected shape \[T, B\] or \[T\] \[9, 3\]"
    )
    refused(lambda: layer(x, given="score"), TypeError, r"given\['a'\]: expected an array of real numbers")
    refused(lambda: layer.stream(B).step(x[0]), ValueError, f"{name} None")
    plain = rnnfast.GRU(I, H)
    refused(lambda: plain(x, given=score), ValueError, "given: expected None, as gru takes no extra input, got array")
    refused(lambda: plain.stream(B).step(x[0], given=score), ValueError, "given: expected None, as gru takes no")
    for bad, error in (("yes", TypeError), (np.ones((T, B)), TypeError), (np.ones((B, T), bool), ValueError)):
        refused(lambda bad=bad: plain(x, mask=bad), error, "mask: expected")
    refused(lambda: plain(x, last_only=1), TypeError, "last_only: expected True or False")
    refused(
        lambda: plain(x, last_only=True, return_states=True), ValueError, "last_only: expected False with return_st"
    )
    for bad, error in ((-1, ValueError), (2**63, ValueError), (1.5, TypeError)):
        refused(lambda bad=bad: plain.forward(x, seed=bad), error, "seed: expected an integer")
    y, _, tape = plain.forward(x, return_states=True)
    refused(lambda: plain.backward(tape, y[0]), TypeError, "dy: expected a tuple of 1, as y is with return_states")
    plain.backward(tape, y)


def test_constructions_are_refused():
    refused(lambda: Recurrent("lstm", I, H), TypeError, "cell: expected a Cell, got str 'lstm'")
    refused(lambda: rnnfast.LSTM(I, 5, heads=2), ValueError, "hidden_size: expected a multiple of 2")
    refused(lambda: rnnfast.LSTM(I, H, proj_clip=1.0), ValueError, "proj_clip: expected None without proj_size")
    refused(lambda: rnnfast.LSTM(I, H, coupled=True, forget_bias=1.0), ValueError, "forget_bias: .* without a gate f")
    refused(lambda: rnnfast.GRU(I, H, layer_norm=True, reset_after=False), ValueError, "layer_norm: expected False")
    refused(lambda: rnnfast.RNN(I, H, zoneout=1.5), ValueError, "zoneout.*: expected a probability")
    for zoneout in (0.1, {"h": 0.1, "n": 0.1}):
        refused(
            lambda zoneout=zoneout: rnnfast.SLSTM(I, H, zoneout=zoneout), ValueError, "zoneout: expected .* 'h' alone"
        )
    for size in (H, H + 1):
        refused(
            lambda size=size: rnnfast.LSTM(I, H, proj_size=size), ValueError, f"proj_size: expected less than .*{H}"
        )
    with pytest.warns(UserWarning, match=r"^dropout: expected 0 with num_layers=1") as found:
        rnnfast.LSTM(I, H, dropout=0.5)
    assert found[0].filename == __file__
    refused(lambda: rnnfast.RNN(I, H, zoneout={"c": 0.5}), ValueError, "zoneout: expected names among")
    refused(lambda: rnnfast.MinGRU(I, H, recurrent_dropout=0.5), ValueError, "recurrent_dropout: expected 0 for a cell")


def test_forget_bias_is_of_the_gate_named_f():
    for name in ("LSTM", "SLSTM", "MGU"):
        layer = getattr(rnnfast, name)(3, 5, forget_bias=1.5, rng=0)
        gates = [gate if isinstance(gate, str) else gate.name for gate in layer.cell.gates]
        start = 5 * gates.index("f")
        assert (layer.params["bias_ih_l0"][start : start + 5] == 1.5).all()
        assert not (layer.params["bias_hh_l0"][start : start + 5]).any()


# Models ---------------------------------------------------------------------------------------------------------------


def build(**options):
    parts = {"one": rnnfast.AUGRU(I, H, rng=0, **options), "two": rnnfast.LSTM(H, 5, rng=1, **options)}
    return Model(**parts, head=Dense(5, 2, rng=2))


@pytest.mark.parametrize("batch_first", [False, True])
def test_models_hand_on_masks_extra_inputs_and_the_last_output(batch_first):
    model = build(batch_first=batch_first)
    one, two, head = model.parts.values()

    def swap(array):
        return np.ascontiguousarray(array.swapaxes(0, 1)) if batch_first else array

    x, score, mask = (swap(array) for array in (normal(T, B, I), np.abs(normal(T, B)), normal(T, B, seed=1) < 0.5))
    y, state, tape = model.forward(x, mask=mask, given={"one": score}, last_only=True)
    below, _ = one(x, mask=mask, given=score)
    last, final = two(below, mask=mask, last_only=True)
    assert_same_bits(y, head(last))
    assert_same(state["two"], final)
    grads = model.backward(tape, np.ones_like(y))
    assert grads.given["one"]["a"].shape == score.shape
    assert grads.x.shape == x.shape
    assert not grads.x[~mask].any()
    refused(lambda: Model(head=Dense(I, 2))(x, last_only=True), ValueError, "last_only: expected False for a model")
    refused(lambda: model(x, given={"two": score}), ValueError, "given: expected")


def test_a_refused_forward_of_a_model_keeps_its_tape():
    model = build()
    x, score, dy = normal(T, B, I), {"one": np.ones((T, B), np.float32)}, normal(T, B, 2)
    *_, tape = model.forward(x, given=score)
    expected = model.backward(tape, dy).params.flat
    *_, tape = model.forward(x, given=score)
    out = np.full((T, B, 2), 7, np.float32)
    for change in (
        {"x": x[..., 1:]},
        {"state": {"two": (np.zeros((1, B, 5)),)}},
        {"reset_state": {"two": np.zeros(3)}},
        {"lengths": [T + 1] * B},
        {"resets": np.ones((B, T), bool)},
        {"mask": np.ones((T, B))},
        {"given": None},
        {"num_threads": 0},
        {"seed": -1},
        {"out": out[1:]},
        {"logits": 1},
    ):
        with pytest.raises((TypeError, ValueError)):
            model.forward(**{"x": x, "given": score, "out": out} | change, tape=tape)
        assert (out == 7).all()
    assert_same_bits(model.backward(tape, dy).params.flat, expected)


def test_every_description_has_a_name_of_its_own():
    assert len({id(cell) for cell in DESCRIPTIONS.values()}) == len(DESCRIPTIONS)
