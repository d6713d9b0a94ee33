"""Streams: any walk over a sequence gives the bits of one call of the layer; a step with `out` allocates nothing."""

from __future__ import annotations

import copy
import json
import os
import pickle
import platform
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import numpy as np
import pytest
from registry import (
    DTYPES,
    ISAS,
    KINDS,
    TOLERANCES,
    Case,
    active_isa,
    assert_close,
    assert_same_bits,
    make_layer,
    map_state,
    oracle,
    parts,
    swap,
)
from shared import NOT_SIZES, OnlyDLPack, read_only, run_script, unaligned

import rnnfast
from rnnfast.stream import Stream

T = 70  # more than the 64 steps of an internal block, and not a multiple of them
OLD = 7.0  # what `out` holds before a call that must not write to it

every = pytest.mark.parametrize(("kind", "isa", "dtype"), list(product(KINDS, ISAS, DTYPES)))
# Layers, batch, units, features: both sides of each vector width, tiles of one row and of several.
SIZES = (
    (1, 1, 1, 1),
    (1, 1, 100, 33),
    (1, 3, 1, 40),
    (1, 9, 17, 16),
    (2, 1, 7, 100),
    (2, 3, 17, 5),
    (2, 9, 100, 3),
    (3, 1, 17, 1),
    (3, 3, 100, 17),
    (3, 9, 7, 7),
)
CUTS = {
    "steps": tuple(range(T + 1)),
    "whole": (0, T),
    "blocks": (0, 0, 1, 3, 64, 64, T, T),
    "halves": (0, 35, T),
    "mixed": (0, 1, 2, 66, 67, 68, T),
}


def cases(dtypes=DTYPES):
    """All sizes with all kinds and instruction sets."""
    for (layers, batch, units, features), kind, isa, dtype in product(SIZES, KINDS, ISAS, dtypes):
        yield Case(kind, isa, dtype, num_layers=layers, T=T, B=batch, H=units, I=features)


@pytest.fixture(autouse=True)
def one_thread():
    """Calls that don't ask for more get one thread: on a busy machine, threads wait long for each other."""
    before = rnnfast.get_num_threads()
    rnnfast.set_num_threads(1)
    yield
    rnnfast.set_num_threads(before)


def walk(stream, x, bounds):
    """The outputs over the blocks between the bounds, blocks of one step by `step`; with `out` where they begin odd."""
    y = np.full((*(x.shape if x.dtype.kind in "iu" else x.shape[:-1]), stream.hidden_size), OLD, stream.dtype)
    for begin, end in pairwise(bounds):
        call, x_now, y_now = stream.process, x[begin:end], y[begin:end]
        if end == begin + 1:
            call, x_now, y_now = stream.step, x[begin], y[begin]
        if begin % 2:
            assert call(x_now, y_now) is y_now
        else:
            y_now[...] = call(x_now)
    return y


def assert_same_state(actual, expected):
    assert type(actual) is type(expected)
    for a, b in zip(parts(actual), parts(expected), strict=True):
        assert_same_bits(a, b)


# Bitwise --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_any_cut_equals_one_call(case):
    layer, data = case.layer(), case.data
    y, final = layer(data.x, data.state)
    stream = layer.stream(case.B)
    for bounds in CUTS.values():
        stream.state = data.state
        assert_same_bits(walk(stream, data.x, bounds), y)
        assert_same_state(stream.state, final)


@pytest.mark.parametrize(("batch", "threads"), [(1, 2), (3, 2), (5, 3), (9, 3)])
@pytest.mark.parametrize(("kind", "isa", "weights"), list(product(KINDS, ISAS, ("float32", "bfloat16"))))
def test_any_number_of_threads(kind, isa, weights, batch, threads):
    """By units, with fewer than two rows for each thread; else by rows."""
    case = Case(kind, isa, num_layers=2, T=9, B=batch, H=40, I=5)
    layer, data = case.layer(), case.data
    alone = layer.stream(batch, weights=weights)
    alone.state = data.state
    y = alone.process(data.x)
    stream = layer.stream(batch, weights=weights, num_threads=threads)
    for bounds in ((0, 9), (0, 1, 4, 5, 9)):
        stream.state = data.state
        assert_same_bits(walk(stream, data.x, bounds), y)
        assert_same_state(stream.state, alone.state)


@every
def test_a_new_stream_starts_from_zeros(kind, isa, dtype):
    case = Case(kind, isa, dtype, num_layers=2, T=T, B=3, H=17, I=5, bias=False)
    layer, data = case.layer(), case.data
    stream = layer.stream(3)
    assert not any(part.any() for part in parts(stream.state))
    y, final = layer(data.x)
    assert_same_bits(stream.process(data.x), y)
    assert_same_state(stream.state, final)
    assert_same_bits(stream.process(data.x), layer(data.x, final)[0])  # on from there


@pytest.mark.parametrize("batch", [1, 3])
@every
def test_ids(kind, isa, dtype, batch):
    case = Case(kind, isa, dtype, num_layers=2, T=T, B=batch, H=17, I=5, ids=True)
    layer, ids = case.layer(), case.data.x
    y, _ = layer(ids)
    stream = layer.stream(batch)
    for bounds in CUTS.values():
        stream.reset()
        assert_same_bits(walk(stream, ids, bounds), y)
    for make in (np.int8, np.uint16, ">i8", "<u8"):
        stream.reset()
        assert_same_bits(walk(stream, ids.astype(make), CUTS["mixed"]), y)
    stream.reset()
    assert_same_bits(np.stack([stream.step(row.tolist()) for row in ids]), y)
    stream.reset()
    wide = np.repeat(ids, 2, axis=1)[:, ::2]
    assert_same_bits(stream.process(wide), y)
    buffer = np.zeros(ids.nbytes + 1, np.uint8)[1:].view(np.int64).reshape(ids.shape)
    buffer[...] = ids
    stream.reset()
    assert_same_bits(stream.process(buffer), y)


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_needs_no_batch_axis(kind):
    """x [T, I] and [I], ids [T] and plain numbers; what comes out has no such axis either. Both may be mixed."""
    case = Case(kind, ISAS[-1], num_layers=2, T=T, B=1, H=17, I=5)
    layer, x = case.layer(), case.data.x
    y, _ = layer(x)
    stream = layer.stream()
    for bounds in CUTS.values():
        stream.reset()
        assert_same_bits(walk(stream, x[:, 0], bounds), y[:, 0])
    stream.reset()
    mixed = [stream.step(x[0])[0], stream.step(x[1, 0]), stream.step(x[2, 0].tolist()), stream.step(x[3].tolist())[0]]
    assert_same_bits(np.stack(mixed), y[:4, 0])

    ids = np.random.default_rng(0).integers(0, 5, T)
    y, _ = layer(ids)
    for make in (int, np.int16, np.int64, np.uint64, np.array, lambda number: np.array([number])[0]):
        stream.reset()
        steps = np.stack([stream.step(make(number)) for number in ids])
        assert_same_bits(steps, y)
    for block in (ids, ids.tolist(), ids[:, None], ids.astype(np.uint8)):
        stream.reset()
        assert_same_bits(stream.process(block).reshape(T, 17), y)
    stream.reset()
    out = np.empty(17, np.float32)
    assert stream.step(3, out) is out
    assert_same_bits(out, layer(np.array([3]))[0][0])


@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("kind", "dtype"), list(product(KINDS, DTYPES)))
def test_batch_first(kind, dtype, batch, ids):
    """Blocks are [B, T, I]; steps are as ever."""
    case = Case(kind, ISAS[-1], dtype, num_layers=2, T=T, B=batch, H=17, I=5, ids=ids, batch_first=True)
    layer, data = case.layer(), case.data
    y, final = layer(swap(case, data.x), data.state)
    stream = layer.stream(batch)
    for bounds in CUTS.values():
        stream.state = data.state
        for begin, end in pairwise(bounds):
            if end == begin + 1:
                assert_same_bits(stream.step(data.x[begin]), np.ascontiguousarray(y[:, begin]))
                continue
            out = np.full((batch, end - begin, 17), OLD, dtype) if begin % 2 else None
            block = swap(case, data.x[begin:end])
            result = stream.process(np.ascontiguousarray(block) if end % 2 else block, out)
            assert out is None or result is out
            assert_same_bits(result, np.ascontiguousarray(y[:, begin:end]))
        assert_same_state(stream.state, final)
    if batch == 1:
        stream.state = data.state
        assert_same_bits(stream.process(data.x[:, 0]), y[0])


def test_an_empty_block_changes_nothing():
    for case in (Case("lstm", ISAS[-1], T=0, B=3), Case("gru_after", ISAS[-1], T=0, B=3, batch_first=True)):
        stream, state = case.layer().stream(3), case.data.state
        stream.state = state
        shape = (3, 0, case.H) if case.batch_first else (0, 3, case.H)
        out = np.empty(shape, np.float32)
        for x in (case.data.x, np.empty((0, 3), np.int64)):
            block = swap(case, x)
            assert stream.process(block).shape == shape
            assert stream.process(block, out) is out
        assert_same_state(stream.state, state)
    stream = Case("lstm", ISAS[-1], T=0).layer().stream()
    assert stream.process(np.empty((0, 17))).shape == (0, 33)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_layers_too_large_for_the_private_buffers(weights, threads):
    """A block is then shorter than 64 steps, and the GIL is released."""
    layer = make_layer("lstm", 40, 300, isa=ISAS[-1], num_layers=2, rng=0)
    x = np.random.default_rng(0).standard_normal((20, 40, 40)).astype(np.float32)
    stream = layer.stream(40, weights=weights, num_threads=threads)
    expected = rounded(layer, ISAS[-1])(x)[0] if weights == "bfloat16" else layer(x)[0]
    for bounds in ((0, 20), (0, 1, 7, 20)):
        stream.reset()
        assert_same_bits(walk(stream, x, bounds), expected)


# State and copies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_copied_out_and_in(kind):
    case = Case(kind, ISAS[-1], num_layers=2, B=3, H=7, I=5)
    stream, data = case.layer().stream(3), case.data
    given = map_state(np.copy, data.state)
    stream.state = given
    map_state(lambda part: part.fill(np.nan), given)
    assert_same_state(stream.state, data.state)
    map_state(lambda part: part.fill(np.nan), stream.state)
    assert_same_state(stream.state, data.state)
    assert [part.shape for part in parts(stream.state)] == [(2, 3, 7)] * len(parts(data.state))
    for make in (np.asfortranarray, lambda part: part.astype(np.float64), lambda part: part.tolist()):
        stream.reset()
        stream.state = map_state(make, data.state)
        assert_same_state(stream.state, data.state)
    stream.state = map_state(lambda part: part * np.nan, data.state)
    assert all(np.isnan(part).all() for part in parts(stream.state))
    if kind == "lstm":
        stream.state = list(data.state)
        assert_same_state(stream.state, data.state)


@pytest.mark.parametrize("kind", ["lstm", "gru_before"])
def test_one_row_takes_a_state_without_the_batch_axis(kind):
    case = Case(kind, ISAS[-1], num_layers=2, B=1, H=7)
    stream, state = case.layer().stream(), case.data.state
    stream.state = map_state(lambda part: part[:, 0], state)
    assert_same_state(stream.state, state)


@pytest.mark.parametrize("kind", KINDS)
def test_reset(kind):
    """Rows by numbers, also from the end, or by a mask; the others go on undisturbed."""
    case = Case(kind, ISAS[-1], num_layers=2, T=8, B=4, H=7, I=5)
    layer, data = case.layer(), case.data
    stream = layer.stream(4)
    for rows, chosen in [
        (None, [0, 1, 2, 3]),
        (2, [2]),
        (-1, [3]),
        ([0, 3], [0, 3]),
        (np.array([1, 1], np.uint8), [1]),
        ([], []),
        ([False, True, True, False], [1, 2]),
        (np.zeros(4, bool), []),
        (range(4), [0, 1, 2, 3]),
    ]:
        stream.state = data.state
        stream.process(data.x[:3])
        stream.reset() if rows is None else stream.reset(rows)
        resets = np.zeros((8, 4), bool)
        resets[3, chosen] = True
        assert_same_bits(stream.process(data.x[3:]), layer(data.x, data.state, resets=resets)[0][3:])


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [Stream.copy, copy.copy, copy.deepcopy])
def test_a_copy_goes_its_own_way(kind, weights, how):
    case = Case(kind, ISAS[-1], num_layers=2, T=20, B=3, H=17, I=5)
    layer, x = case.layer(), case.data.x
    stream = layer.stream(3, weights=weights, num_threads=2)
    stream.process(x[:7])
    other = how(stream)
    assert type(other) is Stream
    assert other is not stream
    assert (repr(other), other.dtype) == (repr(stream), stream.dtype)
    assert_same_state(other.state, stream.state)
    first = stream.process(x[7:])
    final = stream.state
    other.reset([0])
    other.step(x[0])
    assert_same_state(stream.state, final)
    stream.reset()
    stream.process(x[:7])
    again = how(stream)
    del stream, layer
    assert_same_bits(again.process(x[7:]), first)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_weights_are_frozen(weights):
    """Neither an update of the layer nor its end reaches a stream."""
    case = Case("gru_after", ISAS[-1], num_layers=2, T=20, B=3)
    layer, x = case.layer(), case.data.x
    stream = layer.stream(3, weights=weights)
    y = stream.process(x)
    layer.update({"weight_hh_l1": np.zeros((99, 33)), "bias_ih_l0": np.ones(99)})
    with layer.params.writing() as flat:
        flat[:50] = 0
    layer(x)  # packs the weights again
    stream.reset()
    assert_same_bits(stream.process(x), y)
    copied = stream.copy()
    copied.reset()
    newer = layer.stream(3, weights=weights).process(x)
    assert (newer != y).any()
    assert_same_bits(newer, rounded(layer, ISAS[-1])(x)[0] if weights == "bfloat16" else layer(x)[0])
    del layer, stream
    assert_same_bits(copied.process(x), y)


def test_what_a_stream_says_of_itself():
    stream = rnnfast.LSTM(5, 7, 2, dtype=np.float64).stream(3)
    assert repr(stream) == "Stream(batch_size=3, input_size=5, hidden_size=7, num_layers=2, weights='float64')"
    assert (stream.batch_size, stream.input_size, stream.hidden_size, stream.num_layers) == (3, 5, 7, 2)
    assert (stream.dtype, stream.weights) == (np.dtype(np.float64), "float64")
    one = rnnfast.RNN(5, 7).stream(weights="bfloat16")
    assert (one.batch_size, one.dtype, one.weights) == (1, np.dtype(np.float32), "bfloat16")
    for name in ("batch_size", "dtype", "weights", "anything"):
        with pytest.raises(AttributeError):
            setattr(stream, name, 1)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_stream_cannot_be_pickled(protocol):
    with pytest.raises(TypeError, match="Stream: cannot be pickled; pickle the layer and"):
        pickle.dumps(rnnfast.GRU(5, 7).stream(), protocol)


# bfloat16 -------------------------------------------------------------------------------------------------------------


def to_bfloat16(values):
    """float32 rounded to 8 significant bits, to nearest, ties to even; by exact arithmetic, for normal numbers."""
    mantissas, exponents = np.frexp(values.astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ldexp(np.rint(np.ldexp(mantissas, 8)), exponents - 8).astype(np.float32)


def rounded(layer, isa):
    """An equal layer whose weights, not its biases, are rounded to bfloat16."""
    with active_isa(isa):
        other = copy.deepcopy(layer)
    other.update({name: to_bfloat16(value) for name, value in layer.params.items() if name.startswith("weight")})
    return other


@pytest.mark.parametrize("case", list(cases([np.float32])), ids=str)
def test_bfloat16_is_the_layer_with_rounded_weights(case):
    """Bit by bit: the arithmetic stays in float32, and so do the biases."""
    layer, data = case.layer(), case.data
    same = rounded(layer, case.isa)
    y, final = same(data.x, data.state)
    stream = layer.stream(case.B, weights="bfloat16")
    for bounds in CUTS.values():
        stream.state = data.state
        assert_same_bits(walk(stream, data.x, bounds), y)
        assert_same_state(stream.state, final)
    ids = np.random.default_rng(0).integers(0, case.I, (T, case.B))
    y, _ = same(ids)
    for name in ("whole", "mixed"):
        stream.reset()
        assert_same_bits(walk(stream, ids, CUTS[name]), y)


@pytest.mark.parametrize("isa", ISAS)
def test_bfloat16_rounds_to_nearest_ties_to_even(isa):
    """Ties between even and odd neighbours, what lies next to ties, the ends of a binade, overflow to infinity."""
    upper = np.array([0x3F80, 0x3F81, 0x3FFE, 0x3FFF, 0xBF80, 0xBF81, 0x4012, 0x7F7F, 0xFF7F, 0x0080], np.uint32)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (upper[:, None] << 16 | lower).ravel().view(np.float32)
    layer = make_layer("elman_relu", len(values), 2, isa=isa, bias=False)
    layer.load({"weight_ih_l0": np.stack([values, -values]), "weight_hh_l0": np.zeros((2, 2))})
    expected = to_bfloat16(values)
    assert np.isinf(expected).sum() == 6
    stream = layer.stream(len(values), weights="bfloat16")
    found = stream.step(range(len(values)))  # one id to each row
    np.testing.assert_array_equal(found[:, 0] - found[:, 1], expected)


@pytest.mark.parametrize("isa", ISAS)
def test_bfloat16_keeps_nan_and_infinity(isa):
    """Also a NaN whose only bits are in the half that is cut off; and no neighbour is touched."""
    words = [0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7FC00000, 0x7F800000, 0xFF800000, 0x3FC00000, 0x80000000]
    values = np.array(words, np.uint32).view(np.float32)
    layer = make_layer("elman_tanh", 2, 8, isa=isa, bias=False)
    layer.load({"weight_ih_l0": np.stack([values, np.ones_like(values)], 1), "weight_hh_l0": np.zeros((8, 8))})
    assert layer.params["weight_ih_l0"][:, 0].tobytes() == values.tobytes()
    for id_, expected in ((0, [np.nan] * 4 + [1, -1, np.tanh(1.5), 0]), (1, [np.tanh(1.0)] * 8)):
        found = layer.stream(weights="bfloat16").step(id_)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_array_equal(found, layer.stream().step(id_))


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_nan_in_one_row_stays_there(weights):
    case = Case("lstm", ISAS[-1], num_layers=2, T=20, B=3)
    x = case.data.x.copy()
    expected = case.layer().stream(3, weights=weights).process(x)
    x[4, 1] = np.nan
    y = case.layer().stream(3, weights=weights).process(x)
    assert np.isnan(y[4:, 1]).all()
    assert_same_bits(y[:, [0, 2]], expected[:, [0, 2]])


@pytest.mark.parametrize(("kind", "isa"), list(product(KINDS, ISAS)))
def test_bfloat16_error(kind, isa, record_property):
    """Against the float64 oracle.

    With the rounded weights it is that of float32. With the layer's own weights it is what the rounding does: a weight
    is off by at most 2**-8 of itself, and by 2**-9 as a rule. Here a gate's sum, over 33 features of variance 1 and 100
    units |h| < 1, with PyTorch's initial weights of variance 1/300, has a deviation of at most sqrt(133 / 300); so it
    is off by sqrt(133 / 300) * 2**-9 as a rule, by 5 times that in the worst of 126,000 sums, and by a fifth more with
    what the steps before hand on: 2**-7.
    """
    case = Case(kind, isa, num_layers=2, T=T, B=9, H=100, I=33)
    layer, data = case.layer(), case.data
    stream = layer.stream(9, weights="bfloat16")
    stream.state = data.state
    y = stream.process(data.x)
    assert_close(y, oracle(case, rounded(layer, isa))[0].y, TOLERANCES[np.dtype(np.float32)][0])
    expected = oracle(case, layer)[0].y
    error = np.abs(y - expected).max() / np.abs(expected).max()
    if isa == ISAS[-1]:
        record_property(f"bfloat16 weights, {kind}: largest error relative to the largest value", f"{error:.2g}")
    assert 1e-5 < error < 2**-7


# No allocation --------------------------------------------------------------------------------------------------------

COUNTER = """
#include <errno.h>
#include <stddef.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
long long allocations;
static void count(void) { __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED); }
void *malloc(size_t n) { count(); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { count(); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { count(); return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { count(); return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { count(); return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    count();
    *p = __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}
"""
COUNTING = """
import ctypes, json, sys
from itertools import product, repeat
import numpy as np, rnnfast
from rnnfast import _core

threads, ROUNDS = int(sys.argv[1]), 1000
_core.set_small_work(0)
allocations = ctypes.c_longlong.in_dll(ctypes.CDLL(None), "allocations")

def nothing(rounds):
    before = allocations.value
    for _ in rounds:
        pass
    return allocations.value - before

def calls(rounds, call, x, out):
    before = allocations.value
    for _ in rounds:
        call(x, out)
    return allocations.value - before

def calls_without_out(rounds, call, x):
    before = allocations.value
    for _ in rounds:
        call(x)
    return allocations.value - before

nothing(repeat(None, ROUNDS))
found = {"an empty loop": nothing(repeat(None, ROUNDS))}

def measure(name, call, x, out, rounds=ROUNDS, warm=20):
    calls(repeat(None, warm), call, x, out)
    found[name] = calls(repeat(None, rounds), call, x, out)

rng = np.random.default_rng(0)
def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)

kinds = {
    "LSTM": rnnfast.LSTM, "GRU": rnnfast.GRU, "RNN": rnnfast.RNN,
    "GRU before": lambda *sizes, **options: rnnfast.GRU(*sizes, reset_after=False, **options),
}
for kind, weights, B, L, first in product(kinds, ("float32", "bfloat16"), (1, 4), (1, 2), (False, True)):
    stream = kinds[kind](16, 24, L, batch_first=first, rng=0).stream(B, weights=weights, num_threads=threads)
    name = f"{kind} {weights} B={B} L={L} batch_first={first} "
    measure(name + "step", stream.step, normal(B, 16), normal(B, 24))
    block, out = ((B, 70), (B, 70)) if first else ((70, B), (70, B))
    measure(name + "process", stream.process, normal(*block, 16), normal(*out, 24), 100)
    if B == 1:
        measure(name + "unbatched step", stream.step, normal(16), normal(24))
        measure(name + "unbatched process", stream.process, normal(70, 16), normal(70, 24), 100)

# Enough work that the GIL is released, and that signals are looked for.
stream = rnnfast.LSTM(256, 256, 2, rng=0).stream(num_threads=threads)
measure("large step", stream.step, normal(256), normal(256), 200)
measure("large process", stream.process, normal(2000, 256), normal(2000, 256), 3, 2)
double = rnnfast.LSTM(8, 9, dtype=np.float64, rng=0).stream(2, num_threads=threads)
measure("float64 step", double.step, rng.random((2, 8)), rng.random((2, 9)))

x = normal(1, 256)
calls_without_out(repeat(None, 20), stream.step, x)
found["without out"] = calls_without_out(repeat(None, ROUNDS), stream.step, x)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """A library that counts what is allocated in a process that starts with it."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if platform.libc_ver()[0] != "glibc" or compiler is None:
        pytest.skip("what is counted is glibc's allocations, by a library that a C compiler must build")
    folder = tmp_path_factory.mktemp("counter")
    source, library = folder / "counter.c", folder / "counter.so"
    source.write_text(COUNTER)
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    probe = "import ctypes; print(ctypes.c_longlong.in_dll(ctypes.CDLL(None), 'allocations').value)"
    started = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, env=os.environ | {"LD_PRELOAD": str(library)}
    )
    assert started.returncode == 0, started.stderr
    assert int(started.stdout) > 1000  # it counts: Python cannot start with less
    return library


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_with_out_nothing_is_allocated(counter, threads):
    """Neither by Python nor by NumPy, by the kernels or by OpenMP's threads; counted in 1000 calls (100 of process)."""
    found = json.loads(run_script(COUNTING, str(threads), LD_PRELOAD=str(counter), PYTHONMALLOC="malloc"))
    empty = found.pop("an empty loop")  # reading the counter makes a number, outside of the loop
    assert empty <= 4
    assert found.pop("without out") >= 1000  # so the counter does count
    assert len(found) > 100
    assert {name: count for name, count in found.items() if count != empty} == {}


# Threads, signals, processes ------------------------------------------------------------------------------------------


def test_two_threads_in_one_stream():
    """Each call is refused or done as a whole, in some order: over all threads the results are those of one walk."""
    case = Case("lstm", ISAS[-1], T=40, B=9, H=100, I=33)
    layer, block = case.layer(), case.data.x
    stream, calls = layer.stream(9, num_threads=1), 30
    walk_alone = layer.stream(9)
    expected = [walk_alone.process(block).tobytes() for _ in range(2 * calls)]
    start = threading.Barrier(2)

    def run(_):
        done, refused = [], 0
        start.wait()
        while len(done) < calls and refused < 1_000_000:
            try:
                done.append(stream.process(block).tobytes())
            except RuntimeError as error:
                assert "another thread is inside this stream" in str(error)
                refused += 1
        return done

    with ThreadPoolExecutor(2) as pool:
        results = [result for done in pool.map(run, range(2)) for result in done]
    assert sorted(results) == sorted(expected[: len(results)])
    assert len(results) >= calls


def test_copies_run_in_threads_of_their_own():
    cases = [Case(kind, ISAS[-1], num_layers=2, T=T, B=9, H=100, I=33) for kind in ("lstm", "gru_before")]
    for case in cases:
        x, stream = case.data.x, case.layer().stream(9, num_threads=2)
        stream.process(x)
        copies = [stream.copy() for _ in range(4)]
        expected = stream.process(x).tobytes()
        with ThreadPoolExecutor(4) as pool:
            assert [y.tobytes() for y in pool.map(lambda copied, x=x: copied.process(x), copies)] == 4 * [expected]
        for copied in copies:
            assert_same_state(copied.state, stream.state)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_works_after_fork(threads):
    """Streams made before and after; the parent has used its threads, and goes on with them."""
    run_script(f"""
        import os, signal
        import numpy as np, rnnfast
        rnnfast._core.set_small_work(0)
        layer = rnnfast.LSTM(64, 128, 2, rng=0)
        x = np.random.default_rng(0).standard_normal((70, 4, 64), np.float32)
        for weights in ("float32", "bfloat16"):
            stream = layer.stream(4, weights=weights, num_threads={threads})
            stream.process(x)
            fresh, copied = layer.stream(4, weights=weights).process(x).tobytes(), stream.copy()
            expected = copied.process(x).tobytes()
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                ok = stream.process(x).tobytes() == expected
                ok &= layer.stream(4, weights=weights, num_threads={threads}).process(x).tobytes() == fresh
                stream.reset()
                ok &= np.stack([stream.step(row) for row in x]).tobytes() == fresh
                os._exit(not ok)
            assert os.waitpid(child, 0)[1] == 0
            assert stream.process(x).tobytes() == expected
    """)


LONG = {  # units, rows, steps: a block takes long, so the kernel looks for signals; or there are many short ones
    "long blocks": (2048, 1, 1000),
    "short blocks": (256, 1, 100_000),
    "blocks of few steps": (1024, 64, 400),
}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("units", "rows", "steps"), LONG.values(), ids=LONG)
def test_ctrl_c_stops_a_long_call(units, rows, steps, threads):
    """Within 0.2 s, at least once in a few tries, for test machines stall. The state is the one before the call."""
    waited = run_script(f"""
        import os, signal, threading, time
        import numpy as np, rnnfast
        signal.signal(signal.SIGINT, signal.default_int_handler)
        layer = rnnfast.LSTM(8, {units}, rng=0)
        x = np.random.default_rng(0).standard_normal(({steps}, {rows}, 8), np.float32)
        out = np.empty(({steps}, {rows}, {units}), np.float32)
        stream = layer.stream({rows}, num_threads={threads})
        stream.process(x[:3])
        before, expected = [part.tobytes() for part in stream.state], stream.copy().process(x[:5]).tobytes()

        def interrupt():
            global sent
            sent = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)

        waited = []
        while not waited or (min(waited) > 0.2 and len(waited) < 5):
            timer = threading.Timer(0.1, interrupt)
            timer.start()
            try:
                stream.process(x, out)
                timer.cancel()
                raise SystemExit("the call was over before it could be interrupted")
            except KeyboardInterrupt:
                waited.append(time.perf_counter() - sent)
            assert [part.tobytes() for part in stream.state] == before
            assert stream.copy().process(x[:5]).tobytes() == expected
        assert stream.process(x[:5]).tobytes() == expected
        print(min(waited))
    """, timeout=120)  # fmt: skip
    assert float(waited) < 0.2


@pytest.mark.slow
def test_a_signal_handler_finds_the_stream_busy():
    """It may not step, reset, read or write the state in the middle of a call; the call then ends as if it hadn't."""
    run_script("""
        import signal
        import numpy as np, rnnfast
        layer = rnnfast.LSTM(8, 256, rng=0)
        x = np.random.default_rng(0).standard_normal((20_000, 8), np.float32)
        stream, refused = layer.stream(num_threads=1), []
        zeros = (np.zeros((1, 1, 256)),) * 2
        uses = {
            "step": lambda: stream.step(x[0]),
            "process": lambda: stream.process(x[:2]),
            "reset": lambda: stream.reset(),
            "reset rows": lambda: stream.reset([0]),
            "get": lambda: stream.state,
            "set": lambda: setattr(stream, "state", zeros),
            "copy": lambda: stream.copy(),
        }

        def handler(number, frame):
            for name, use in uses.items():
                try:
                    use()
                except RuntimeError as error:
                    assert "inside this stream" in str(error)
                    refused.append(name)

        signal.signal(signal.SIGALRM, handler)
        for _ in range(5):  # the alarm comes too early where the machine stalls
            stream.reset()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            y = stream.process(x)
            if refused:
                break
        assert refused == list(uses), refused
        expected, final = layer(x)
        assert y.tobytes() == expected.tobytes()
        assert [part.tobytes() for part in stream.state] == [part.tobytes() for part in final]
    """)


# Arrays ---------------------------------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """Like ndarray."""


MAKES = {
    "Fortran order": np.asfortranarray,
    "strided features": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "strided rows": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "sliced": lambda x: np.pad(x, 1)[(slice(1, -1),) * x.ndim],
    "read-only": read_only,
    "unaligned": unaligned,
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "float64": lambda x: x.astype(np.float64),
    "longdouble": lambda x: x.astype(np.longdouble),
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x),
    "DLPack": OnlyDLPack,
    "memory view": memoryview,
    "subclass": lambda x: x.view(Subclass),
}


@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch first"])
@pytest.mark.parametrize("make", list(MAKES.values()), ids=list(MAKES))
def test_every_make_of_array(make, batch_first):
    """As x, block and state; the results are plain arrays with the results of plain arrays."""
    case = Case("lstm", ISAS[-1], num_layers=2, T=6, B=4, H=9, I=5, batch_first=batch_first)
    layer, data = case.layer(), case.data
    block = np.ascontiguousarray(swap(case, data.x))
    y, final = layer(block, data.state)
    stream = layer.stream(4)
    stream.state = map_state(make, data.state)
    result = stream.process(make(block))
    assert type(result) is np.ndarray
    assert_same_bits(result, y)
    assert_same_state(stream.state, final)
    stream.state = data.state
    steps = [stream.step(make(x), np.empty((4, 9), np.float32)) for x in data.x]
    assert_same_bits(np.stack(steps, axis=1 if batch_first else 0), y)
    one = layer.stream()
    assert_same_bits(one.step(make(data.x[0, 0])), layer(data.x[:1, 0])[0][0])


@pytest.mark.parametrize("dtype", ["f2", "i1", "u2", "i8", ">i4", "bool"])
def test_real_dtypes_are_converted(dtype):
    """An integer array of full rank holds numbers; bool is never ids."""
    layer = Case("gru_after", ISAS[-1], H=9, I=5).layer()
    x = (np.arange(6 * 4 * 5).reshape(6, 4, 5) % 2).astype(dtype)
    y = layer(x.astype(np.float32))[0]
    stream = layer.stream(4)
    assert_same_bits(stream.process(x), y)
    stream.reset()
    assert_same_bits(np.stack([stream.step(row) for row in x]), y)


def test_any_memory_will_do_for_out():
    """A subclass, a part of a larger array, memory that lies next to x."""
    case = Case("lstm", ISAS[-1], T=6, B=4, H=9, I=9)
    layer, x = case.layer(), case.data.x
    y = layer(x)[0]
    memory = np.zeros(2 * x.size, np.float32)
    beside = memory[: x.size].reshape(x.shape)
    beside[...] = x
    for out in (
        memory[x.size :].reshape(y.shape),
        np.empty((9, 4, 9), np.float32)[2:8],
        np.empty(y.shape, np.float32).view(Subclass),
    ):
        stream = layer.stream(4)
        assert stream.process(beside, out) is out
        np.testing.assert_array_equal(out, y)
        stream.reset()
        out[...] = 0
        for row, into in zip(beside, out, strict=True):
            assert stream.step(row, into) is into
        np.testing.assert_array_equal(out, y)
        stream.reset()
        out[...] = 0
        stream.step(beside[0], out=out[0])
        stream.process(block=beside[1:], out=out[1:])
        np.testing.assert_array_equal(out, y)


def test_arguments_are_not_changed():
    case = Case("gru_before", ISAS[-1], num_layers=2, B=4)
    layer, data = case.layer(), case.data
    arguments = [data.x, *parts(data.state), layer.params.flat]
    before = [array.tobytes() for array in arguments]
    stream = layer.stream(4, weights="bfloat16")
    stream.state = data.state
    stream.process(data.x)
    stream.step(data.x[0])
    assert [array.tobytes() for array in arguments] == before


# Bad input ------------------------------------------------------------------------------------------------------------

B, I, H = 3, 2, 5  # noqa: E741


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def refused(call, error, message):
    """Assert that a call raises `error` with a message that begins with this pattern."""
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    assert re.match(message, str(raised.value)), str(raised.value)


NOT_REAL = [
    *((lambda shape, dtype=dtype: np.zeros(shape, dtype), "expected an array of real numbers")
      for dtype in ("c8", "O", "U3", "S1", "M8[s]", "V8")),
    (lambda shape: np.ma.masked_array(zeros(*shape), mask=False), "expected an array without a mask"),
    (lambda shape: "text", "expected an array of real numbers"),
    (lambda shape: None, "expected an array of real numbers"),
    (lambda shape: object(), "expected an array of real numbers"),
    (lambda shape: [[1.0], [2.0, 3.0]], "expected an array of real numbers"),
    (lambda shape: 2**70, "expected an array of real numbers"),
]  # fmt: skip


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
    assert_same_state(stream.state, state)


def test_inputs_of_one_row_and_of_batch_first_are_refused():
    stream = rnnfast.GRU(I, H).stream()
    for bad in (zeros(I + 1), zeros(2, I), zeros(1, 1, I), zeros(), np.zeros(2, int), np.zeros((1, 1), int)):
        expected = r"x: expected \[B, I\] or \[I\](, or integer ids without the I axis; got| with [BI]=)"
        refused(lambda bad=bad: stream.step(bad), ValueError, expected)
    for bad in (zeros(4, I + 1), zeros(4, 2, I), zeros(I), np.zeros((4, 2), int)):
        expected = r"block: expected \[T, B, I\] or \[T, I\](, or integer ids.*; got| with [BI]=)"
        refused(lambda bad=bad: stream.process(bad), ValueError, expected)
    refused(lambda: stream.step(I), ValueError, "x: expected ids in 0..1, got 2$")
    refused(lambda: stream.step(-1), ValueError, "x: expected ids in 0..1, got -1$")
    first = rnnfast.GRU(I, H, batch_first=True).stream(B)
    for bad in (zeros(4, B, I), zeros(B, 4, I + 1), zeros(4, B), np.zeros((4, B), int), np.zeros(B, int)):
        refused(lambda bad=bad: first.process(bad), ValueError, r"block: expected \[B, T, I\]")
    assert not any(part.any() for stream in (stream, first) for part in parts(stream.state))


def bad_outs(shape):
    """Arrays that a call for this shape must not write to."""
    wide = (*shape[:-1], 2 * shape[-1])
    given = ", ".join(map(str, shape))
    yield np.full((*shape[:-1], shape[-1] + 1), OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \["
    yield np.full((1, *shape), OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \[1, "
    yield np.full(shape[1:], OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \["
    yield np.full((*shape[:-2], 1, H), OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \["
    yield np.full((shape[0] + 1, *shape[1:]), OLD, np.float32), ValueError, rf"expected shape \[{given}\], got \["
    yield np.full(shape, OLD), TypeError, "expected dtype float32, got float64"
    yield np.full(shape, 7, np.int32), TypeError, "expected dtype float32, got int32"
    yield np.full(shape, OLD, ">f4"), TypeError, "expected dtype float32, got >f4"
    yield np.full(shape, OLD, np.float32).tolist(), TypeError, "expected a NumPy array to write into, got list"
    yield OLD, TypeError, "expected a NumPy array to write into, got float"
    yield read_only(np.full(shape, OLD, np.float32)), ValueError, "expected an array that is writeable"
    yield read_only(np.full(shape, OLD, np.float32)).view(Subclass), ValueError, "expected an array that is writeable"
    yield np.full(wide, OLD, np.float32)[..., ::2], ValueError, "expected an array that is c_contiguous"
    yield np.full(shape, OLD, np.float32, order="F"), ValueError, "expected an array that is c_contiguous"
    yield unaligned(np.full(shape, OLD, np.float32)), ValueError, "expected an array that is aligned"


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
    assert_same_state(stream.state, state)


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
    out = np.zeros((B, H), np.float32)
    refuse(stream.step, out.ravel()[: 2 * B].view(np.int64), out)
    assert not out.any()
    assert_same_state(stream.state, state)

    expected = stream.copy().step(x)
    for apart in (memory[size : 2 * size].reshape(B, H), x):
        stream.reset()
        assert_same_bits(stream.step(x if apart is not x else x.astype(np.float64), apart), expected)


STATE_SHAPES = [(1, B, H - 1), (1, B + 1, H), (2, B, H), (B, H), (1, 1, B, H), (1, 1, H), (1, H), (H,), ()]


@pytest.mark.parametrize("cls", [rnnfast.RNN, rnnfast.LSTM])
def test_states_are_refused(cls):
    stream, good, lstm = cls(I, H).stream(B), zeros(1, B, H), cls is rnnfast.LSTM
    stream.step(np.ones((B, I), np.float32))
    state = stream.state

    def refuse(value, error, message):
        refused(lambda: setattr(stream, "state", value), error, message)
        assert_same_state(stream.state, state)

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
    assert_same_state(stream.state, state)


def test_rows_to_reset_are_refused():
    stream = rnnfast.LSTM(I, H).stream(B)
    stream.step(np.ones((B, I), np.float32))
    state = stream.state
    wrong = [B, -B - 1, [0, B], [0.0], "all", [True], [True] * (B + 1), np.ones((B, 2), bool), object(), [[0], "x"]]
    message = r"rows: expected row numbers below 3 or a mask \[3\]"
    for rows in wrong:
        refused(lambda rows=rows: stream.reset(rows), ValueError, message)
        assert_same_state(stream.state, state)


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
    refused(lambda: both.stream(), ValueError, "stream: expected a layer of one direction, got a bidirectional GRU")
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
        getattr(stream, method)(zeros(I), None, None)
    with pytest.raises(TypeError):
        getattr(stream, method)(zeros(4, I), output=None)
