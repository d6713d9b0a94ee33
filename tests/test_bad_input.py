"""What is wrong is refused: the message names the argument, what was expected and what came, and nothing is written."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
from registry import assert_same_bits
from shared import NOT_REAL, NOT_SIZES, OLD, bad_outs, refused, zeros

import rnnfast
from rnnfast import Parameters, init, layers
from rnnfast.parameters import Store

T, B, I, H = 4, 3, 2, 5  # noqa: E741


class NoBuffer:
    """It claims to be an array of another library, and is not."""

    def __dlpack__(self, **options):
        raise BufferError("on another device")

    def __dlpack_device__(self):
        return (2, 0)


# Constructors ---------------------------------------------------------------------------------------------------------

LAYERS = (rnnfast.RNN, rnnfast.LSTM, rnnfast.GRU)
CELLS = (rnnfast.RNNCell, rnnfast.LSTMCell, rnnfast.GRUCell)
NOT_BOOL = [(value, TypeError, "expected True or False, got") for value in (1, None, "yes", np.array([True, False]))]
OPTIONS = {
    "bias": NOT_BOOL,
    "dtype": [
        (value, TypeError, "expected float32 or float64, got")
        for value in (int, "f2", ">f4", "c8", None, "x", {"a": 1})
    ],
    "rng": [(-1, ValueError, "expected None, a seed or"), ("seed", TypeError, "expected None, a seed or")],
    "init": [
        ("he", ValueError, "expected one of 'pytorch', 'xavier', 'ids', got 'he'"),
        (3, TypeError, "expected one of 'pytorch', 'xavier', 'ids', got int 3"),
    ],
}
LAYER_OPTIONS = {
    "num_layers": NOT_SIZES,
    "batch_first": NOT_BOOL,
    "bidirectional": NOT_BOOL,
    "reverse": NOT_BOOL,
    "dropout": [
        (-0.1, ValueError, "expected a number in 0..1, got -0.1"),
        (1.5, ValueError, "expected a number in 0..1, got 1.5"),
        (float("nan"), ValueError, "expected a finite number, got nan"),
        ("half", TypeError, "expected a real number, got str 'half'"),
        (True, TypeError, "expected a real number, got bool True"),
        (1j, TypeError, "expected a real number, got complex 1j"),
    ],
}
OWN_OPTIONS = {
    "nonlinearity": [
        ("gelu", ValueError, r"expected one of \[.*'relu', .*'sigmoid', .*'tanh', .*\], got 'gelu'"),
        (None, TypeError, "expected a name, or a tuple of a name and numbers, got None"),
    ],
    "forget_bias": [
        ("one", TypeError, "expected a real number, got"),
        (np.inf, ValueError, "expected a finite number"),
    ],
    "reset_after": NOT_BOOL,
    "activation": [("sine", ValueError, "expected one of 'identity', 'sigmoid', .*, got 'sine'")],
}


def bad_constructions():
    own = dict(zip(LAYERS + CELLS, list(OWN_OPTIONS)[:3] * 2, strict=False)) | {rnnfast.Dense: "activation"}
    reordered = {rnnfast.LSTM: "forget_bias", rnnfast.LSTMCell: "forget_bias"}
    for cls, option in (own | reordered).items():
        table = OPTIONS | {option: OWN_OPTIONS[option]} | (LAYER_OPTIONS if cls in LAYERS else {})
        for name, rows in table.items():
            for value, error, message in rows:
                yield cls, (2, 3), {name: value}, error, f"{name}: {message}"
        second = "output_size" if cls is rnnfast.Dense else "hidden_size"
        for value, error, message in NOT_SIZES:
            yield cls, (value, 3), {}, error, f"input_size: {message}"
            yield cls, (2, value), {}, error, f"{second}: {message}"


@pytest.mark.parametrize(("cls", "sizes", "options", "error", "message"), list(bad_constructions()))
def test_constructors_refuse(cls, sizes, options, error, message):
    refused(lambda: cls(*sizes, **options), error, message)


@pytest.mark.parametrize("cls", [*LAYERS, *CELLS, rnnfast.Dense])
def test_sizes_beyond_any_memory_are_refused(cls):
    refused(lambda: cls(2**24, 2**24), ValueError, r"input_size=16777216, .*_size=16777216.*: .*2\*\*47 elements, got")
    if cls in LAYERS:
        refused(lambda: cls(1, 2**20, 4096), ValueError, "input_size=1, hidden_size=1048576, num_layers=4096: ")
        refused(lambda: cls(1, 1, 2**24), ValueError, r"num_layers: expected an integer in 1\.\.4096, got 16777216")


@pytest.mark.parametrize("cls", [*LAYERS, *CELLS, rnnfast.Dense])
def test_unknown_options_are_refused(cls):
    with pytest.raises(TypeError, match="hiden"):
        cls(2, 3, hiden=4)


def test_bad_configurations_are_refused():
    config = rnnfast.GRU(2, 3).config()
    refused(lambda: layers.from_config([1]), TypeError, "config: expected a mapping")
    refused(lambda: layers.from_config({}), ValueError, r"config\['type'\]: expected one of .*'LSTM'")
    refused(lambda: layers.from_config(config | {"type": "NTM"}), ValueError, r"config\['type'\]: .* got 'NTM'")
    refused(lambda: layers.from_config(config | {"typo": 1}), TypeError, "config: .*typo")
    refused(lambda: layers.from_config(config | {"dropout": 2}), ValueError, "dropout: ")


# Calls of layers ------------------------------------------------------------------------------------------------------

NOT_ARRAYS = [
    *((make((T, B, I)), message) for make, message in NOT_REAL),
    (NoBuffer(), "expected an array on the host, got NoBuffer on a CUDA device"),
]
STATE_SHAPES = [(1, B, H - 1), (1, B + 1, H), (2, B, H), (B, H), (1, 1, B, H), (1, 1, H), ()]


def bad_calls(cls):
    """Argument, its value, the error, the message after the argument's name."""
    lstm = cls is rnnfast.LSTM
    good = zeros(1, B, H)

    for value, message in NOT_ARRAYS:
        yield "x", value, TypeError, message
    for shape in ((T, B, I + 1), (T, B, 0), (T, I + 1), (), (I,), (1, T, B, I)):
        yield (
            "x",
            zeros(*shape),
            ValueError,
            rf"expected \[T, B, I\] or \[T, I\].*shape \[{', '.join(map(str, shape))}\]",
        )
    for bad in (-1, I, 2**40):
        ids = np.zeros((T, B), np.int64)
        ids[2, 1] = bad
        yield "x", ids, ValueError, rf"expected ids in 0..{I - 1}, got {bad} at step 2 of row 1"
    yield "x", np.full((T, B), 2**64 - 1, np.uint64), ValueError, "expected ids in 0..1, got 18446744073709551615"

    for name in ("state", "reset_state"):
        for shape in STATE_SHAPES:
            state = (good, zeros(*shape)) if lstm else zeros(*shape)
            yield name, state, ValueError, r"expected shape \[L\*D, B, H\] \[1, 3, 5\], got \["
        for bad in (good.astype("c8"), good.astype("O"), np.ma.masked_array(good), "text"):
            yield name, (good, bad) if lstm else bad, TypeError, "expected an array"
        if lstm:
            for bad in (good, (good,), (good, good, good), zeros(2, 1, B, H), {"h": good, "c": good}):
                yield name, bad, TypeError, r"expected a tuple \(h, c\), got"
            yield name, (None, good), TypeError, "expected an array of real numbers"

    for bad in ([1, 2, T + 1], [1, 2, -1], np.array([1, 2, 200], np.uint8), [1, 2, 2**62]):
        yield "lengths", bad, ValueError, rf"expected values in 0..T, 0..{T}, got {bad[2]} in row 2"
    for bad in ([1.0, 2.0, 3.0], [1.0, np.nan, 2.0], [True, False, True], np.array([], np.float64)):
        yield "lengths", bad, TypeError, "expected integers, got dtype"
    for bad in ([1, 2], [1, 2, 3, 4], [[1, 2, 3]], 3, []):
        yield "lengths", bad, ValueError, r"expected shape \[B\] \[3\], got \["
    yield "lengths", [1, 2, None], TypeError, "expected an array of real numbers"
    yield "lengths", [1, 2, 2**70], TypeError, "expected an array of real numbers"

    for bad in (zeros(T, B), np.zeros((T, B), np.int64), np.full((T, B), np.nan)):
        yield "resets", bad, TypeError, "expected booleans, got dtype"
    for shape in ((T, B + 1), (B, T), (T,), (T, B, 1), ()):
        yield "resets", np.zeros(shape, bool), ValueError, r"expected shape \[T, B\].*\[4, 3\], got \["

    for bad, error, message in NOT_SIZES:
        if bad is not None:
            yield "num_threads", bad, error, message


def calls_of(classes):
    return [(cls, *row) for cls in classes for row in bad_calls(cls)]


@pytest.mark.parametrize(("cls", "name", "value", "error", "message"), calls_of(LAYERS))
def test_calls_of_layers_refuse(cls, name, value, error, message):
    layer = cls(I, H, rng=0)
    *_, tape = layer.forward(zeros(T, B, I))
    out = np.full((T, B, H), OLD, np.float32)
    arguments = {"x": zeros(T, B, I), "out": out} | {name: value}
    pattern = re.escape(name) + r"(\[\d\])?: " + message
    refused(lambda: layer(**arguments), error, pattern)
    refused(lambda: layer.forward(**arguments, tape=tape), error, pattern)
    assert (out == OLD).all()
    layer.backward(tape, zeros(T, B, H))  # it still holds what it held


def test_the_offending_id_is_found_within_the_lengths():
    layer = rnnfast.GRU(I, H, batch_first=True)
    ids = np.zeros((B, T), int)
    ids[0, 1:], ids[2, 2] = 9, 5
    refused(lambda: layer(ids, lengths=[1, T, T]), ValueError, "x: expected ids in 0..1, got 5 at step 2 of row 2")
    layer(ids, lengths=[1, T, 2])
    refused(
        lambda: layer(np.array([0, 0, 3]), ids=True), ValueError, "x: expected ids in 0..1, got 3 at step 2 of row 0"
    )


def test_huge_outputs_are_refused_before_they_are_made():
    layer = rnnfast.RNN(1, 16)
    x = np.broadcast_to(np.zeros((1, 1, 1), np.float32), (2**24, 2**20, 1))
    refused(lambda: layer(x), ValueError, r"T=16777216, B=1048576, features=16: expected a product of at most 2\*\*47")


# Outputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "error", "message"), list(bad_outs((T, B, H))))
@pytest.mark.parametrize("cls", LAYERS)
def test_layers_refuse_outputs(cls, out, error, message):
    layer = cls(I, H)
    refused(lambda: layer(zeros(T, B, I), out=out), error, "out: " + message)
    refused(lambda: layer.forward(zeros(T, B, I), out=out), error, "out: " + message)
    assert (np.array(out) == OLD).all()


@pytest.mark.parametrize(("out", "error", "message"), list(bad_outs((B, H))))
@pytest.mark.parametrize("cls", CELLS)
def test_cells_refuse_outputs(cls, out, error, message):
    cell = cls(I, H)
    good = np.full((B, H), OLD, np.float32)
    given, name = ((good, out), r"out\[1\]") if cls is rnnfast.LSTMCell else (out, "out")
    refused(lambda: cell(zeros(B, I), out=given), error, f"{name}: {message}")
    refused(lambda: cell.forward(zeros(B, I), out=given), error, f"{name}: {message}")
    assert (good == OLD).all()
    assert (np.array(out) == OLD).all()


def test_outputs_that_share_memory_are_refused():
    size = B * H
    memory = np.full(4 * size, OLD, np.float32)
    first, second = memory[:size].reshape(B, H), memory[size // 2 : size // 2 + size].reshape(B, H)
    apart = memory[2 * size : 3 * size].reshape(B, H)
    cell, lstm = rnnfast.GRUCell(H, H), rnnfast.LSTMCell(H, H)
    shares = "expected memory of its own, got memory that it shares with"
    refused(lambda: cell(first, apart, out=second), ValueError, f"out: {shares} x")
    refused(lambda: cell(apart, first, out=first), ValueError, f"out: {shares} state")
    refused(lambda: lstm(zeros(B, H), out=(first, second)), ValueError, rf"out\[1\]: {shares} out\[0\]")
    refused(lambda: lstm(zeros(B, H), (first, apart), out=(zeros(B, H), apart)), ValueError, rf"out\[1\]: {shares}")
    refused(lambda: lstm(zeros(B, H), out=first), TypeError, r"out: expected a tuple \(h, c\) of arrays, got array")
    refused(lambda: lstm(zeros(B, H), out=(first,)), TypeError, r"out: expected a tuple \(h, c\) of arrays, got tuple")
    gru = rnnfast.GRU(H, H)
    for name, array in (("x", first[:, None]), ("state", first[None]), ("reset_state", first[None])):
        steps = array.shape[0] if name == "x" else B
        x = array if name == "x" else zeros(steps, B, H)
        out = memory[: x.shape[0] * x.shape[1] * H].reshape(*x.shape)
        arguments = {"x": x, "out": out} | {name: array}
        refused(lambda a=arguments: gru(**a), ValueError, f"out: {shares} {name}")
    assert (memory == OLD).all()


# Backward of layers ---------------------------------------------------------------------------------------------------


def make_layer_tape(cls):
    layer = cls(I, H, rng=0)
    x = np.ones((T, B, I), np.float32)
    return layer, x, layer.forward(x)[2]


def bad_backwards(cls):
    lstm = cls is rnnfast.LSTM
    good = zeros(1, B, H)
    for value, message in NOT_ARRAYS:
        if value is not None:
            yield "dy", value, TypeError, message
    for shape in ((T, B, H + 1), (B, T, H), (T, B), ()):
        yield "dy", zeros(*shape), ValueError, r"expected shape \[4, 3, 5\], got \["
    for shape in STATE_SHAPES:
        dstate = (None, zeros(*shape)) if lstm else zeros(*shape)
        yield "dstate", dstate, ValueError, r"expected shape \[L\*D, B, H\] \[1, 3, 5\], got \["
    if lstm:
        for bad in (good, (good,), (None, None, None)):
            yield "dstate", bad, TypeError, r"expected a tuple \(h, c\), got"
    for bad in (zeros(3), {}, cls(I, H).params):
        yield "into", bad, TypeError, "expected Gradients or None, got"
    for other in (cls(I, H, bias=False), cls(I, H + 1), cls(I, H, dtype=np.float64), cls(I, H, 2)):
        yield "into", other.params.zeros(), ValueError, r"expected the layout of params, .*; got Gradients\("
    for bad, error, message in NOT_BOOL:
        yield "input_gradient", bad, error, message
    for bad, error, message in NOT_SIZES[:-2]:
        yield "num_threads", bad, error, message
    for bad in (None, 3, "tape"):
        yield "tape", bad, TypeError, "expected a Tape, got"


@pytest.mark.parametrize(
    ("cls", "name", "value", "error", "message"), [(cls, *row) for cls in LAYERS for row in bad_backwards(cls)]
)
def test_backward_of_layers_refuses(cls, name, value, error, message):
    layer, _, tape = make_layer_tape(cls)
    into = layer.params.zeros()
    arguments = {"tape": tape, "dy": np.ones((T, B, H), np.float32), "into": into} | {name: value}
    refused(lambda: layer.backward(**arguments), error, re.escape(name) + r"(\[\d\])?: " + message)
    assert not into.flat.any()
    layer.backward(tape, zeros(T, B, H), into=into)  # the tape is as good as before


PARTS = {
    "layer": (lambda: rnnfast.GRU(I, H, rng=0), (T, B, I), (T, B, H)),
    "cell": (lambda: rnnfast.GRUCell(I, H, rng=0), (B, I), (B, H)),
    "head": (lambda: rnnfast.Dense(I, H, activation="tanh", rng=0), (B, I), (B, H)),
}


@pytest.fixture(params=PARTS)
def recorded(request):
    """A part, its input, a tape of it, a gradient for its backward, and gradients to add to."""
    make, shape, result = PARTS[request.param]
    part, x = make(), np.ones(shape, np.float32)
    return part, x, part.forward(x)[-1], zeros(*result), part.params.zeros()


def test_a_tape_is_good_for_one_backward(recorded):
    part, _, tape, dy, into = recorded
    part.backward(tape, dy)
    refused(lambda: part.backward(tape, dy + 1, into=into), ValueError, "tape: expected one that holds a forward, got")
    assert not into.flat.any()
    refused(lambda: part.backward(rnnfast.Tape(), dy), ValueError, "tape: expected one that holds a forward, got")


def test_a_tape_belongs_to_its_part(recorded):
    part, x, tape, dy, into = recorded
    twin = type(part)(I, H, rng=0)
    name = type(part).__name__
    message = f"tape: expected a tape of this {name}, got one of another part"
    refused(lambda: twin.backward(tape, dy + 1, into=into), ValueError, message)
    refused(lambda: twin.forward(x, tape=tape), ValueError, message)
    refused(lambda: part.forward(x, tape="old"), TypeError, "tape: expected a Tape, got str 'old'")
    assert not into.flat.any()
    part.backward(tape, dy)


def test_parameters_must_not_change_before_backward(recorded):
    part, _, tape, dy, into = recorded
    part.update({})
    message = "tape: expected the parameters as they were in forward, got changed ones"
    refused(lambda: part.backward(tape, dy + 1, into=into), ValueError, message)
    assert not into.flat.any()


def test_x_must_not_change_before_backward(recorded):
    part, x, tape, dy, into = recorded
    x.flat[-1] += 1
    message = "tape: expected x as it was in forward, got changed contents"
    refused(lambda: part.backward(tape, dy + 1, into=into), ValueError, message)
    assert not into.flat.any()
    x.flat[-1] -= 1
    part.backward(tape, dy)


def test_ids_may_change_before_backward():
    """The tape has a copy."""
    layer = rnnfast.LSTM(I, H, batch_first=True)
    gradients = []
    for changed in (0, 1):
        ids = np.zeros((B, T), np.int64)
        y, _, tape = layer.forward(ids)
        ids[1, 2] = changed
        gradients.append(layer.backward(tape, y).params.flat)
    assert_same_bits(*gradients)


# Cells and heads ------------------------------------------------------------------------------------------------------


def bad_cell_calls(cls):
    lstm = cls is rnnfast.LSTMCell
    good = zeros(B, H)
    for value, message in NOT_ARRAYS:
        yield "x", value, TypeError, message
    for shape in ((B, I + 1), (I + 1,), (), (T, B, I)):
        yield "x", zeros(*shape), ValueError, r"expected \[B, I\] or \[I\]"
    yield "x", [0, I, 0], ValueError, "expected ids in 0..1, got 2 at step 0 of row 1"
    yield "x", -1, ValueError, "expected ids in 0..1, got -1 at step 0 of row 0"
    for shape in ((B, H + 1), (B + 1, H), (H,), (1, B, H)):
        state = (good, zeros(*shape)) if lstm else zeros(*shape)
        yield "state", state, ValueError, r"expected shape \[B, H\] \[3, 5\], got \["
    if lstm:
        yield "state", good, TypeError, r"expected a tuple \(h, c\), got array"


@pytest.mark.parametrize(
    ("cls", "name", "value", "error", "message"), [(cls, *row) for cls in CELLS for row in bad_cell_calls(cls)]
)
def test_calls_of_cells_refuse(cls, name, value, error, message):
    cell = cls(I, H)
    out = tuple(np.full((2, B, H), OLD, np.float32)) if cls is rnnfast.LSTMCell else np.full((B, H), OLD, np.float32)
    arguments = {"x": zeros(B, I), "out": out} | {name: value}
    for call in (cell, cell.forward):
        refused(lambda call=call: call(**arguments), error, name + r"(\[\d\])?: " + message)
    assert (np.array(out) == OLD).all()


@pytest.mark.parametrize("cls", CELLS)
def test_backward_of_cells_refuses(cls):
    cell = cls(I, H)
    _, tape = cell.forward(zeros(B, I))
    bad = (None, zeros(B, H + 1)) if cls is rnnfast.LSTMCell else zeros(B, H + 1)
    refused(
        lambda: cell.backward(tape, bad), ValueError, r"dstate(\[1\])?: expected shape \[B, H\] \[3, 5\], got \[3, 6\]"
    )
    refused(lambda: cell.backward(tape, "text"), TypeError, "dstate: expected")
    refused(lambda: cell.backward(tape, None, into=3), TypeError, "into: expected Gradients or None, got int 3")
    assert not cell.backward(tape, None).params.flat.any()


def test_heads_refuse():
    dense = rnnfast.Dense(I, H, activation="softmax")
    for call, (value, message) in product((dense, dense.forward), NOT_ARRAYS):
        refused(lambda call=call, value=value: call(value), TypeError, f"x: {message}")
    for call, shape in product((dense, dense.forward), ((), (I + 1,), (T, B, 0))):
        refused(lambda c=call, s=shape: c(zeros(*s)), ValueError, r"x: expected \[\.\.\., I\] with I=2, got array of")
    for call in (dense, dense.forward):
        refused(lambda call=call: call(zeros(T, I), logits=1), TypeError, "logits: expected True or False, got int 1")
        refused(
            lambda call=call: call(zeros(T, I), num_threads=0),
            ValueError,
            "num_threads: expected an integer in 1..4096, got 0",
        )
    _, tape = dense.forward(zeros(T, B, I))
    for bad in (zeros(T, B, I), zeros(T * B, H), zeros()):
        refused(
            lambda b=bad: dense.backward(tape, b), ValueError, r"dy: expected shape \[\.\.\., O\] \[4, 3, 5\], got \["
        )
    refused(lambda: dense.backward(tape, None), TypeError, "dy: expected an array of real numbers, got NoneType")
    refused(lambda: dense.backward(tape, zeros(T, B, H), into=1), TypeError, "into: expected Gradients or None, got")
    refused(lambda: dense.backward(tape, zeros(T, B, H), input_gradient=0), TypeError, "input_gradient: expected True")
    dense.backward(tape, zeros(T, B, H))


# Parameters -----------------------------------------------------------------------------------------------------------


def bad_mappings(layer):
    """Mappings that neither `update` nor `load` takes, and what the messages begin with."""
    good = dict(layer.params)
    name = "bias_hh_l0"
    names = ", ".join(good)
    yield good | {"weight": zeros(1)}, ValueError, rf"mapping: expected the names {names}; got surplus names \[weight\]"
    yield good | {3: zeros(1)}, ValueError, rf"mapping: expected the names {names}; got surplus names \[3\]"
    for shape in ((H + 1,), (H, 1), (), (1,), (0,)):
        yield (
            good | {name: zeros(*shape)},
            ValueError,
            rf"{name}: expected shape \[5\], got \[{', '.join(map(str, shape))}\]",
        )
    for bad in (zeros(H).astype("c8"), np.array(["1"] * H), None, np.ma.masked_array(zeros(H)), NoBuffer()):
        yield good | {name: bad}, TypeError, f"{name}: expected an array"
    for bad in (3, list(good.items()), None, "weights"):
        yield bad, TypeError, "mapping: expected a mapping from names to arrays, got"


def test_bad_mappings_change_nothing():
    layer = rnnfast.RNN(I, H)
    before, version = layer.params.flat.copy(), layer.params.version
    writes = layer.load, layer.update, layer.params.load, layer.params.update
    for write, (mapping, error, message) in product(writes, bad_mappings(layer)):
        refused(lambda w=write, m=mapping: w(m), error, message)
    for dropped in layer.params:
        partial = {name: value + 1 for name, value in layer.params.items() if name != dropped}
        message = rf"mapping: .*got surplus names \[\], missing names \[{dropped}\]"
        refused(lambda p=partial: layer.load(p), ValueError, message)
    for bad, error in ((zeros(layer.params.size + 1), ValueError), (zeros(1, layer.params.size), ValueError)):
        refused(lambda b=bad: layer.params.assign(b), error, r"flat: expected shape \[45\], got \[")
    refused(lambda: layer.params.assign(None), TypeError, "flat: expected an array of real numbers")
    np.testing.assert_array_equal(layer.params.flat, before)
    assert layer.params.version == version


def test_stores_that_do_not_fit_are_refused():
    params = Parameters({"a": (3,)}, np.float32)
    for store, offset, error, message in (
        (Store(3, np.float64), 0, TypeError, "store: expected dtype float32, got float64"),
        (Store(3, np.float32), 1, ValueError, "offset: expected at most 0, got 1"),
        (Store(5, np.float32), -1, ValueError, "offset: expected an integer of at least 0, got -1"),
        (zeros(3), 0, TypeError, "store: expected a Store, got array of float32"),
    ):
        own = params.store
        refused(lambda s=store, o=offset: params.adopt(s, o), error, message)
        refused(lambda s=store, o=offset: Parameters({"a": (3,)}, np.float32, s, o), error, message)
        assert params.store is own


def test_initial_values_refuse():
    for scheme in (init.xavier_uniform, init.xavier_normal, init.orthogonal):
        refused(lambda s=scheme: s((3,)), ValueError, r"shape: expected \[outputs, inputs\], got \[3\]")
        refused(lambda s=scheme: s((3, -1)), ValueError, "shape: expected an integer of at least 0, got -1")
        refused(lambda s=scheme: s((3, 2), gain="big"), TypeError, "gain: expected a real number, got str 'big'")
        refused(lambda s=scheme: s((3, 2), "seed"), TypeError, "rng: expected None, a seed or")
    refused(lambda: init.uniform((3,), 0), ValueError, "n: expected an integer of at least 1, got 0")
    for scheme in (init.xavier_normal, init.orthogonal, init.zeros, lambda shape: init.uniform(shape, 3)):
        refused(lambda s=scheme: s(3), TypeError, "shape: expected a tuple of integers, got int 3")
    refused(lambda: init.forget_bias({"weight": zeros(4)}), ValueError, "forget_bias: expected parameters with biases")
    for params in ({"bias_ih": zeros(6)}, {"bias_ih": zeros(2, 4)}, {"bias_ih": 1.0}, rnnfast.GRU(3, 4).params):
        refused(lambda params=params: init.forget_bias(params), ValueError, "bias_ih(_l0)?: expected an LSTM's bias")
    refused(lambda: init.forget_bias({"bias_ih": ["1"] * 4}), TypeError, "bias_ih: expected an array of real numbers")
