"""Arrays of every make; no copies of them; Python threads that share a layer."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from registry import FUSED, ISAS, Case, map_state, parts
from shared import MAKES, OnlyDLPack, read_only

CASE = Case("lstm", ISAS[-1], T=6, B=4, H=9, I=5)
LAYERS_MAKES = MAKES | {
    "reversed rows": lambda x: x[:, ::-1].copy()[:, ::-1],
    "swapped axes": lambda x: x.swapaxes(0, 1).copy().swapaxes(0, 1),
}


@pytest.mark.parametrize("make", list(LAYERS_MAKES.values()), ids=list(LAYERS_MAKES))
def test_every_make_of_array(make):
    """As x, dy and states; the results are those of plain arrays."""
    layer, data = CASE.layer(), CASE.data
    y, state, tape = layer.forward(data.x, data.state)
    grads = layer.backward(tape, data.dy, data.dstate)
    y2, state2, tape = layer.forward(make(data.x), map_state(make, data.state))
    grads2 = layer.backward(tape, make(data.dy), map_state(make, data.dstate))
    assert y2.tobytes() == y.tobytes()
    assert grads2.x.tobytes() == grads.x.tobytes()
    assert grads2.params.flat.tobytes() == grads.params.flat.tobytes()
    for actual, wanted in zip(parts(state2) + parts(grads2.state), parts(state) + parts(grads.state), strict=True):
        assert actual.tobytes() == wanted.tobytes()


def test_a_broadcast_input_is_an_input():
    """One row, seen B times through a stride of 0."""
    layer, data = CASE.layer(), CASE.data
    repeated = np.broadcast_to(data.x[:, :1], data.x.shape)
    assert layer(repeated)[0].tobytes() == layer(repeated.copy())[0].tobytes()


@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", ">i4", "bool", "f2"])
def test_real_dtypes_are_converted(dtype):
    """An integer array of full rank holds numbers, of one rank less holds ids, short ones on request; bool is never."""
    layer = CASE.layer()
    x = (np.arange(6 * 4 * 5).reshape(6, 4, 5) % 2).astype(dtype)
    assert layer(x)[0].tobytes() == layer(x.astype(np.float32))[0].tobytes()
    if np.dtype(dtype).kind in "iu":
        ids = (np.arange(24).reshape(6, 4) % 5).astype(dtype)
        np.testing.assert_allclose(layer(ids, ids=True)[0], layer(np.eye(5)[ids.astype(int)])[0], rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises((ValueError, TypeError), match="x"):
            layer(np.zeros((6, 4), dtype))


def test_out_must_not_overlap_an_input():
    layer = Case("lstm", ISAS[-1], H=5, I=5).layer()
    buffer = np.zeros(2 * 6 * 4 * 5, np.float32)
    x = buffer[: 6 * 4 * 5].reshape(6, 4, 5)
    for start in (0, 1, 60, 119):
        out = buffer[start : start + 120].reshape(6, 4, 5)
        with pytest.raises(ValueError, match="out"):
            layer(x, out=out)
    layer(x, out=buffer[120:].reshape(6, 4, 5))
    h = buffer[120:140].reshape(1, 4, 5)
    with pytest.raises(ValueError, match="out"):
        layer(x, (h, h), out=buffer[120:].reshape(6, 4, 5))
    assert not x.any()


@pytest.mark.parametrize("kind", FUSED)
def test_empty_calls(kind):
    for T, B in ((0, 3), (4, 0), (0, 0)):
        case = Case(kind, ISAS[-1], T=T, B=B, num_layers=2, H=4, I=3)
        layer, data = case.layer(), case.data
        y, state, tape = layer.forward(data.x, data.state)
        grads = layer.backward(tape, data.dy, data.dstate)
        assert y.shape == (T, B, 4)
        assert grads.x.shape == (T, B, 3)
        assert not grads.params.flat.any()
        for after, before in zip(
            parts(state) + parts(grads.state), parts(data.state) + parts(data.dstate), strict=True
        ):
            np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("kind", FUSED)
def test_unbatched_is_a_batch_of_one(kind):
    case = Case(kind, ISAS[-1], B=1, T=5, bidirectional=True, H=6, I=4)
    layer, data = case.layer(), case.data
    y, state, tape = layer.forward(data.x, data.state)
    grads = layer.backward(tape, data.dy, data.dstate)
    one, one_state, tape = layer.forward(data.x[:, 0], map_state(lambda part: part[:, 0], data.state))
    one_grads = layer.backward(tape, data.dy[:, 0], map_state(lambda part: part[:, 0], data.dstate))
    assert one.shape == (5, 12)
    for actual, wanted in zip(
        [one, *parts(one_state), one_grads.x, *parts(one_grads.state)],
        [y[:, 0], parts(state)[0][:, 0], *(part[:, 0] for part in parts(state)[1:]), grads.x[:, 0]]
        + [part[:, 0] for part in parts(grads.state)],
        strict=True,
    ):
        np.testing.assert_array_equal(actual, wanted)


def test_arguments_are_not_changed():
    case = Case("gru_before", ISAS[-1], mask="reset_state", bidirectional=True, num_layers=2)
    layer, data = case.layer(), case.data
    arguments = [data.x, data.dy, *parts(data.state), *parts(data.dstate), data.masks["resets"], layer.params.flat]
    before = [array.tobytes() for array in arguments]
    _, _, tape = layer.forward(data.x, data.state, **data.masks)
    layer.backward(tape, data.dy, data.dstate)
    assert [array.tobytes() for array in arguments] == before


# No copies ------------------------------------------------------------------------------------------------------------


def peak_memory(function):
    """The most memory that NumPy and Python held during a call, above what they held before."""
    function()  # whatever is made once
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["contiguous", "batch first", "sliced", "reversed", "read-only", "DLPack"])
def test_arrays_of_the_dtype_are_used_in_place(name):
    """Inputs of 4 MB; a call may hold a tenth of that beside the outputs given to it."""
    T, B, I = 128, 64, 128  # noqa: E741
    big = np.zeros((T + 2, B + 3, I + 5), np.float32)
    x = {
        "contiguous": np.zeros((T, B, I), np.float32),
        "batch first": np.zeros((B, T, I), np.float32),
        "sliced": big[1:-1, 2:-1, 3:-2],
        "reversed": np.zeros((T, B, I), np.float32)[::-1, ::-1],
        "read-only": read_only(np.zeros((T, B, I), np.float32)),
        "DLPack": OnlyDLPack(np.zeros((T, B, I), np.float32)),
    }[name]
    batch_first = name == "batch first"
    layer = Case("gru_after", ISAS[-1], H=2, I=I, batch_first=batch_first).layer()
    out = np.empty((B, T, 2) if batch_first else (T, B, 2), np.float32)
    assert peak_memory(lambda: layer(x, out=out)) < T * B * I * 4 / 10


# Surroundings ---------------------------------------------------------------------------------------------------------


def test_two_python_threads_share_a_layer():
    cases = [Case("lstm", ISAS[-1], mask="both", H=64, I=32, T=40, B=B, threads=2) for B in (3, 33)]
    layer = cases[0].layer()

    def run(case):
        y, _, tape = layer.forward(case.data.x, case.data.state, num_threads=case.threads, **case.data.masks)
        return y.tobytes() + layer.backward(tape, case.data.dy).params.flat.tobytes()

    expected = [run(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, cases * 20)) == expected * 20
