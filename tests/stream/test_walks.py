"""Any walk over a sequence gives the bits of one call of the layer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from registry import DTYPES, ISAS, Case, assert_same, assert_same_bits, make_layer, parts, spread, swap
from shared import OLD
from streams import CUTS, WITHOUT_GIVEN, T, cases, rounded, walk

every = pytest.mark.parametrize(("kind", "isa", "dtype"), spread(ISAS, DTYPES, kinds=WITHOUT_GIVEN))


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_any_cut_equals_one_call(case):
    layer, data = case.layer(), case.data
    y, final = layer(data.x, data.state)
    stream = layer.stream(case.B)
    for bounds in CUTS.values():
        stream.state = data.state
        assert_same_bits(walk(stream, data.x, bounds), y)
        assert_same(stream.state, final)


@pytest.mark.parametrize(("batch", "threads"), [(1, 2), (3, 2), (5, 3), (9, 3)])
@pytest.mark.parametrize(("kind", "isa", "weights"), spread(ISAS, ("float32", "bfloat16"), kinds=WITHOUT_GIVEN))
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
        assert_same(stream.state, alone.state)


@every
def test_a_new_stream_starts_from_zeros(kind, isa, dtype):
    case = Case(kind, isa, dtype, num_layers=2, T=T, B=3, H=17, I=5, bias=False)
    layer, data = case.layer(), case.data
    stream = layer.stream(3)
    assert not any(part.any() for part in parts(stream.state))
    y, final = layer(data.x)
    assert_same_bits(stream.process(data.x), y)
    assert_same(stream.state, final)
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


@pytest.mark.parametrize("kind", WITHOUT_GIVEN)
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
    y, _ = layer(ids, ids=True)
    for make in (int, np.int64, np.uint64, np.array, lambda number: np.array([number])[0]):
        stream.reset()
        steps = np.stack([stream.step(make(number)) for number in ids])
        assert_same_bits(steps, y)
    for block in (ids, ids.tolist(), ids[:, None], ids.astype(np.uint8)):
        stream.reset()
        assert_same_bits(stream.process(block, ids=True).reshape(y.shape), y)
    stream.reset()
    out = np.empty(y.shape[-1], np.float32)
    assert stream.step(3, out) is out
    assert_same_bits(out, layer(np.array([3]), ids=True)[0][0])


@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("kind", "dtype"), spread(DTYPES, kinds=WITHOUT_GIVEN))
def test_batch_first(kind, dtype, batch, ids):
    """Blocks are [B, T, I]; steps are as ever."""
    case = Case(kind, ISAS[-1], dtype, num_layers=2, T=T, B=batch, H=17, I=5, ids=ids, batch_first=True)
    layer, data = case.layer(), case.data
    told = {"ids": True} if ids else {}
    y, final = layer(swap(case, data.x), data.state, **told)
    stream = layer.stream(batch)
    for bounds in CUTS.values():
        stream.state = data.state
        for begin, end in pairwise(bounds):
            if end == begin + 1:
                assert_same_bits(stream.step(data.x[begin], **told), np.ascontiguousarray(y[:, begin]))
                continue
            out = np.full((batch, end - begin, y.shape[-1]), OLD, dtype) if begin % 2 else None
            block = swap(case, data.x[begin:end])
            result = stream.process(np.ascontiguousarray(block) if end % 2 else block, out, **told)
            assert out is None or result is out
            assert_same_bits(result, np.ascontiguousarray(y[:, begin:end]))
        assert_same(stream.state, final)
    if batch == 1:
        stream.state = data.state
        assert_same_bits(stream.process(data.x[:, 0], **told), y[0])


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
        assert_same(stream.state, state)
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
