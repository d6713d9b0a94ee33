"""What is wrong is refused: the message names what came, and neither `out` nor the state has changed."""

from __future__ import annotations

import numpy as np
import pytest
from registry import assert_same, assert_same_bits, parts
from shared import NOT_REAL, NOT_SIZES, OLD, Subclass, bad_outs, refused, zeros

import rnnfast
from rnnfast.stream import Stream

B, I, H = 3, 2, 5  # noqa: E741


def bad_inputs():
    """Method, its first argument, the error, the message after the argument's name."""
    for method, shape in (("step", (B, I)), ("process", (4, B, I))):
        axes = r"\[B, I\]" if method == "step" else r"\[T, B, I\]"
        for make, message in NOT_REAL:
            yield method, make(shape), TypeError, message
        wrong = [(*shape[:-1], I + 1), (*shape[:-1], 0), (*shape[:-2], B + 1, I), (*shape[:-2], 1, I), (1, *shape)]
        for bad in [*wrong, (), (I,), (H,), (4, I), (I, B), (*shape[:-2], 0, I)]:
            expected = rf"expected {axes}.*shape \[{', '.join(map(str, bad))}\]"
            yield method, zeros(*bad), ValueError, expected
            yield method, zeros(*bad, dtype=np.float64), ValueError, expected
        for id_ in (-1, I, 2**40, -(2**63)):
            ids = np.zeros(shape[:-1], np.int64)
            ids[..., 1] = id_
            yield method, ids, ValueError, rf"expected ids in 0..{I - 1}, got {id_}$"
        huge = np.full(shape[:-1], 2**64 - 1, np.uint64)
        yield method, huge, ValueError, "expected ids in 0..1, got 18446744073709551615$"
        for bad in ((), (B + 1,), (1,), (B, 4, 1, 1)):
            ids = np.zeros((4, *bad) if method == "process" and len(bad) == 1 else bad, np.int64)
            yield method, ids, ValueError, f"expected {axes}"
        yield method, zeros(*shape[:-1]), ValueError, f"expected {axes}"  # ids, but as floats
        yield method, np.zeros(shape[:-1], bool), ValueError, f"expected {axes}"
    yield "step", 0, ValueError, r"expected \[B, I\], or integer ids"
    yield "step", 0.5, ValueError, r"expected \[B, I\], or integer ids"
    yield "step", True, ValueError, r"expected \[B, I\], or integer ids"


@pytest.mark.parametrize(("method", "value", "error", "message"), list(bad_inputs()))
@pytest.mark.parametrize("cls", [rnnfast.RNN, rnnfast.LSTM])
def test_inputs_are_refused(cls, method, value, error, message):
    stream = cls(I, H, rng=0).stream(B)
    stream.step(np.ones((B, I), np.float32))
    state = stream.state
    out = np.full((B, H) if method == "step" else (4, B, H), OLD, np.float32)
    name = "x" if method == "step" else "block"
    refused(lambda: getattr(stream, method)(value), error, f"{name}: {message}")
    refused(lambda: getattr(stream, method)(value, out), error, f"{name}: {message}")
    assert (out == OLD).all()
    assert_same(stream.state, state)


def test_inputs_of_one_row_and_of_batch_first_are_refused():
    stream = rnnfast.GRU(I, H).stream()
    for bad in (zeros(I + 1), zeros(2, I), zeros(1, 1, I), zeros(), np.zeros(2, int), np.zeros((1, 1), int)):
        expected = r"x: expected (\[B, I\] or \[I\](, or integer ids without the I axis; got| with [BI]=)|ids=True)"
        refused(lambda bad=bad: stream.step(bad), ValueError, expected)
    for bad in (zeros(4, I + 1), zeros(4, 2, I), zeros(I), np.zeros((4, 2), int)):
        expected = r"block: expected (\[T, B, I\] or \[T, I\](, or integer ids.*; got| with [BI]=)|ids=True)"
        refused(lambda bad=bad: stream.process(bad), ValueError, expected)
    refused(lambda: stream.step(I), ValueError, "x: expected ids in 0..1, got 2$")
    refused(lambda: stream.step(-1), ValueError, "x: expected ids in 0..1, got -1$")
    first = rnnfast.GRU(I, H, batch_first=True).stream(B)
    for bad in (zeros(4, B, I), zeros(B, 4, I + 1), zeros(4, B), np.zeros((4, B), int), np.zeros(B, int)):
        refused(lambda bad=bad: first.process(bad), ValueError, r"block: expected (\[B, T, I\]|ids=True)")
    assert not any(part.any() for stream in (stream, first) for part in parts(stream.state))


@pytest.mark.parametrize("cls", [rnnfast.GRU, rnnfast.LSTM])
@pytest.mark.parametrize(
    ("method", "x", "out", "error", "message"),
    [
        *(("step", x, *row) for x in (zeros(B, I), zeros(B, I).tolist(), [0, 1, 0]) for row in bad_outs((B, H))),
        *(("process", x, *row) for x in (zeros(4, B, I), np.zeros((4, B), int)) for row in bad_outs((4, B, H))),
    ],
)
def test_outputs_are_refused(cls, method, x, out, error, message):
    stream = cls(I, H, rng=0).stream(B)
    stream.step(np.ones((B, I), np.float32))
    state = stream.state
    refused(lambda: getattr(stream, method)(x, out), error, f"out: {message}")
    assert (np.array(out) == OLD).all()
    assert_same(stream.state, state)


def test_outputs_have_the_axes_of_the_input():
    """[H] for [I] and a number, [T, H] for [T, I]; the batch axis of one row is not made up."""
    stream = rnnfast.GRU(I, H).stream()
    refused(lambda: stream.step(zeros(I), zeros(1, H)), ValueError, r"out: expected shape \[5\], got \[1, 5\]")
    refused(lambda: stream.step(0, zeros(1, H)), ValueError, r"out: expected shape \[5\], got \[1, 5\]")
    refused(lambda: stream.step(zeros(1, I), zeros(H)), ValueError, r"out: expected shape \[1, 5\], got \[5\]")
    refused(lambda: stream.process(zeros(4, I), zeros(4, 1, H)), ValueError, r"out: expected shape \[4, 5\], got")
    refused(lambda: stream.process(zeros(4, 1, I), zeros(4, H)), ValueError, r"out: expected shape \[4, 1, 5\], got")
    first = rnnfast.GRU(I, H, batch_first=True).stream(B)
    refused(lambda: first.process(zeros(B, 4, I), zeros(4, B, H)), ValueError, r"out: expected shape \[3, 4, 5\], got")


@pytest.mark.parametrize("first", [False, True], ids=["", "batch first"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_outputs_that_share_memory_are_refused(weights, first):
    """All of it or an end; where x is converted first, it shares none."""
    stream, size = rnnfast.LSTM(H, H, 2, batch_first=first).stream(B, weights=weights), B * H
    state, memory = stream.state, np.full(8 * size, OLD, np.float32)

    def refuse(call, x, out):
        name = "x" if call == stream.step else "block"
        message = f"out: expected memory of its own, got memory that it shares with {name}$"
        refused(lambda: call(x, out), ValueError, message)

    x = memory[:size].reshape(B, H)
    for start in (0, 1, H, size - 1):
        other = memory[start : start + size].reshape(B, H)
        refuse(stream.step, x, other)
        refuse(stream.step, other, x)
    refuse(stream.step, x.view(Subclass), x)
    block = memory[: 4 * size].reshape((B, 4, H) if first else (4, B, H))
    for start in (0, 1, size, 4 * size - 1):
        other = memory[start : start + 4 * size].reshape(block.shape)
        refuse(stream.process, block, other)
        refuse(stream.process, other, block)
    assert (memory == OLD).all()
    assert_same(stream.state, state)

    expected = stream.copy().step(x)
    for apart in (memory[size : 2 * size].reshape(B, H), x):
        stream.reset()
        assert_same_bits(stream.step(x if apart is not x else x.astype(np.float64), apart), expected)
    stream.reset()
    out = np.zeros((B, H), np.float32)  # of ids, too, a copy is read
    expected = stream.copy().step(np.zeros(B, np.int64))
    assert_same_bits(stream.step(out.ravel()[: 2 * B].view(np.int64), out), expected)


STATE_SHAPES = [(1, B, H - 1), (1, B + 1, H), (2, B, H), (B, H), (1, 1, B, H), (1, 1, H), (1, H), (H,), ()]


@pytest.mark.parametrize("cls", [rnnfast.RNN, rnnfast.LSTM])
def test_states_are_refused(cls):
    stream, good, lstm = cls(I, H).stream(B), zeros(1, B, H), cls is rnnfast.LSTM
    stream.step(np.ones((B, I), np.float32))
    state = stream.state

    def refuse(value, error, message):
        refused(lambda: setattr(stream, "state", value), error, message)
        assert_same(stream.state, state)

    name = r"state\[1\]: " if lstm else "state: "
    for shape in STATE_SHAPES:
        bad = zeros(*shape)
        refuse((good, bad) if lstm else bad, ValueError, name + r"expected shape \[L, B, H\] \[1, 3, 5\], got \[")
    for bad in (good.astype("c8"), good.astype("O"), np.ma.masked_array(good), "text", None):
        refuse((good, bad) if lstm else bad, TypeError, name + "expected an array")
    if lstm:
        for bad in (good, (good,), (good, good, good), {"h": good, "c": good}, None, "hc", zeros(2, 1, B, H)):
            refuse(bad, TypeError, r"state: expected a tuple \(h, c\), got")
    with pytest.raises(AttributeError, match=r"state: cannot be deleted; reset\(\) zeroes it"):
        del stream.state
    assert_same(stream.state, state)


def test_rows_to_reset_are_refused():
    stream = rnnfast.LSTM(I, H).stream(B)
    stream.step(np.ones((B, I), np.float32))
    state = stream.state
    wrong = [B, -B - 1, [0, B], [0.0], "all", [True], [True] * (B + 1), np.ones((B, 2), bool), object(), [[0], "x"]]
    message = r"rows: expected row numbers below 3 or a mask \[3\]"
    for rows in wrong:
        refused(lambda rows=rows: stream.reset(rows), ValueError, message)
        assert_same(stream.state, state)


def test_streams_are_refused():
    layer = rnnfast.LSTM(I, H)
    for value, error, message in NOT_SIZES:
        refused(lambda value=value: layer.stream(value), error, f"batch_size: {message}")
        if value is not None:  # which is the default number
            refused(lambda value=value: layer.stream(num_threads=value), error, f"num_threads: {message}")
    refused(lambda: rnnfast.RNN(2**23, 1).stream(2**24), ValueError, r"batch_size=16777216, hidden_size=1: ")
    choices = "weights: expected one of 'float32', 'bfloat16', got"
    for value in ("int8", "float64", "float16", "", "BFLOAT16"):
        refused(lambda value=value: layer.stream(weights=value), ValueError, f"{choices} '{value}'")
    for value in (np.float32, 16, True, b"bfloat16"):
        refused(lambda value=value: layer.stream(weights=value), TypeError, choices)
    double = rnnfast.LSTM(I, H, dtype=np.float64)
    for value in ("float32", "bfloat16"):
        message = f"weights: expected one of 'float64', got '{value}'"
        refused(lambda value=value: double.stream(weights=value), ValueError, message)
    assert double.stream(weights="float64").weights == "float64"
    both = rnnfast.GRU(I, H, bidirectional=True)
    message = "stream: expected layers that only run forwards in time, got GRU with "
    refused(lambda: both.stream(), ValueError, message + "bidirectional=True")
    refused(lambda: rnnfast.GRU(3, 5, reverse=True).stream(), ValueError, message + "reverse=True")
    refused(lambda: layer.stream(1, "bfloat16"), TypeError, ".*positional argument")


def test_a_stream_is_made_by_its_layer_only():
    refused(Stream, TypeError, r"Stream: made by layer.stream\(\), not directly")
    refused(lambda: Stream(rnnfast.GRU(I, H)), TypeError, r"Stream: made by layer.stream\(\), not directly")
    refused(rnnfast.GRU(I, H).stream().__init__, TypeError, "Stream: made by")
    empty = Stream.__new__(Stream)
    for use in (
        lambda: empty.step(zeros()),
        lambda: empty.step(zeros(0, 0)),
        lambda: empty.process(zeros(0, 0, 0)),
        empty.reset,
        empty.copy,
        lambda: empty.state,
        lambda: setattr(empty, "state", zeros(0, 0, 0)),
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            use()


@pytest.mark.parametrize("method", ["step", "process"])
def test_calls_need_their_argument(method):
    stream = rnnfast.GRU(I, H).stream()
    with pytest.raises(TypeError):
        getattr(stream, method)()
    with pytest.raises(TypeError):
        getattr(stream, method)(zeros(I), None, None, None)
    with pytest.raises(TypeError):
        getattr(stream, method)(zeros(4, I), output=None)
