"""Results that are equal bit by bit, for every instruction set, kind and dtype.

Any instruction set that has a fused multiply-add (but for NEON's, which no machine has beside another).
Any number of threads, any chunking, one-step calls, cells, neighbours in the batch, masks against separate calls.
Of the parameters' gradients this holds for chunks that end where a section does (csrc/sum_order.h); others are close.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from registry import (
    DTYPES,
    EVERY,
    FUSED,
    ISAS,
    Case,
    assert_close,
    assert_same_bits,
    make_cell,
    map_state,
    parts,
    spread,
)

import rnnfast
from rnnfast import _core

GRADIENTS_CLOSE = {np.float32: 2e-6, np.float64: 4e-15}  # of sums that are cut elsewhere

every = pytest.mark.parametrize(
    "case",
    [Case(kind, isa, dtype, T=14, B=7, H=37, I=19) for kind, isa, dtype in EVERY],
    ids=str,
)


def run(layer, data, *, threads=1, **masks):
    """All results of one forward and backward call as a flat list of arrays."""
    y, state, tape = layer.forward(data.x, data.state, num_threads=threads, **masks, **data.extra)
    grads = layer.backward(tape, data.dy, data.dstate, num_threads=threads)
    dx = () if grads.x is None else (grads.x,)
    return [y, *parts(state), *dx, *parts(grads.state), grads.params.flat]


def assert_all_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b))


# Enough work that several threads do take part: many rows; few rows and a large layer; both directions; ids; masks.
LARGE = (
    {"T": 20, "B": 33, "H": 96, "I": 40, "mask": "both"},
    {"T": 6, "B": 2, "H": 520, "I": 33},
    {"T": 20, "B": 20, "H": 64, "I": 100, "ids": True, "bidirectional": True, "num_layers": 2, "mask": "both"},
)


@pytest.mark.parametrize("large", LARGE, ids=("rows", "units", "stack"))
@pytest.mark.parametrize(("kind", "isa", "dtype"), EVERY)
def test_any_number_of_threads(isa, kind, dtype, large):
    case = Case(kind, isa, dtype, **large)
    layer, data = case.layer(), case.data
    one = run(layer, data, threads=1, **data.masks)
    for threads in (2, 3):
        assert_all_same(run(layer, data, threads=threads, **data.masks), one)


# Threads get neighbouring rows with about the same number of steps each; some may get none.
LENGTHS = {
    "one row has nearly all": [14, 1, 0, 1, 0, 0, 1],
    "the last has": [0, 1, 0, 0, 0, 0, 14],
    "empty rows at the end": [14, 13, 1, 0, 0, 0, 0],
    "all empty": [0] * 7,
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(("kind", "isa"), spread(ISAS))
def test_any_share_of_uneven_lengths(isa, kind, lengths):
    """Each row is one thread's."""
    case = Case(kind, isa, T=14, B=7, H=37, I=19, bidirectional=True)
    layer, data = case.layer(), case.data
    one = run(layer, data, threads=1, lengths=lengths)
    for threads in (2, 3):
        assert_all_same(run(layer, data, threads=threads, lengths=lengths), one)


def run_chunks(layer, data, bounds):
    """As `run`: chunks forward with the carried state, then backward from the last to the first into one Gradients."""
    state, chunks = data.state, []
    for begin, end in pairwise(bounds):
        masks = {
            "lengths": np.clip(data.masks["lengths"] - begin, 0, end - begin),
            "resets": data.masks["resets"][begin:end],
            **data.part(slice(begin, end)),
        }
        y, state, tape = layer.forward(data.x[begin:end], state, **masks)
        chunks.append((begin, end, y, tape))
    final = state
    dstate, into, dx = data.dstate, layer.params.zeros(), []
    for begin, end, _, tape in reversed(chunks):
        grads = layer.backward(tape, data.dy[begin:end], dstate, into=into)
        dstate = grads.state
        dx.insert(0, grads.x)
    y = np.concatenate([chunk[2] for chunk in chunks])
    return [y, *parts(final), np.concatenate(dx), *parts(dstate), into.flat]


@pytest.mark.parametrize("bounds", [tuple(range(15)), (0, 1, 6, 14), (0, 13, 14), (0, 0, 7, 14)], ids=str)
@every
def test_any_chunking(case, bounds):
    case = replace(case, num_layers=2, mask="both")
    layer, data = case.layer(), case.data
    *whole, whole_gradients = run(layer, data, **data.masks)
    *chunked, gradients = run_chunks(layer, data, bounds)
    assert_all_same(chunked, whole)
    assert_close(gradients, whole_gradients, GRADIENTS_CLOSE[case.dtype])


@every
def test_chunks_of_whole_sections(case):
    """Those have all bits of the whole, the parameters' gradients too."""
    case = replace(case, T=8, B=17_000, H=5, I=3, mask="both")
    assert rnnfast.section_steps(case.B) == 4
    layer, data = case.layer(), case.data
    whole = run(layer, data, threads=2, **data.masks)
    assert_all_same(run_chunks(layer, data, (0, 4, 8)), whole)


@every
def test_chunks_with_a_reset_state(case):
    case = replace(case, num_layers=2, mask="reset_state")
    layer, data = case.layer(), case.data
    whole, final = layer(data.x, data.state, **data.masks, **data.extra)
    state, outputs = data.state, []
    for begin, end in pairwise((0, 1, 5, 14)):
        masks = data.masks | {"resets": data.masks["resets"][begin:end]} | data.part(slice(begin, end))
        y, state = layer(data.x[begin:end], state, **masks)
        outputs.append(y)
    assert_all_same([np.concatenate(outputs), *parts(state)], [whole, *parts(final)])


@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
@every
def test_cells(case, ids):
    """A cell stepped over the sequence, forward and backward."""
    case = replace(case, ids=ids)
    layer, data = case.layer(), case.data
    y, final, tape = layer.forward(data.x, data.state, **data.extra)
    grads = layer.backward(tape, data.dy, data.dstate)

    cell = make_cell(case.kind, case.I, case.H, isa=case.isa, dtype=case.dtype)
    cell.load({name.removesuffix("_l0"): value for name, value in layer.params.items()})
    state, inferred = (map_state(lambda part: part[0], data.state) for _ in range(2))
    tapes = []
    for t in range(case.T):
        extra = data.part(t)
        inferred = cell(data.x[t], inferred, **extra)
        state, tape = cell.forward(data.x[t], state, **extra)
        tapes.append(tape)
        assert_all_same([parts(state)[0], *parts(inferred)], [y[t], *parts(state)])
    assert_all_same(parts(state), [part[0] for part in parts(final)])

    dstate = map_state(lambda part: part[0], data.dstate)
    for t in reversed(range(case.T)):
        dh, *dc = parts(dstate)
        dh = dh + data.dy[t]
        step = cell.backward(tapes[t], (dh, *dc) if dc else dh)
        dstate = step.state
        if not ids:
            assert_same_bits(step.x, grads.x[t])
    assert_all_same(parts(dstate), [part[0] for part in parts(grads.state)])


@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
@every
def test_rows_do_not_know_their_neighbours(case, ids):
    """A row alone, in a batch, and cut to its length."""
    case = replace(case, ids=ids, bidirectional=True, num_layers=2, mask="lengths")
    layer, data = case.layer(), case.data
    y, state, tape = layer.forward(data.x, data.state, **data.masks, **data.extra)
    grads = layer.backward(tape, data.dy, data.dstate)
    for b, length in enumerate(data.masks["lengths"]):
        x, dy = data.x[:length, b : b + 1], data.dy[:length, b : b + 1]
        row_state, row_dstate = (
            map_state(lambda part, b=b: part[:, b : b + 1].copy(), whole) for whole in (data.state, data.dstate)
        )
        row_y, row_final, row_tape = layer.forward(x, row_state, **data.part(slice(length), slice(b, b + 1)))
        row = layer.backward(row_tape, dy, row_dstate)
        assert_same_bits(row_y[:, 0], np.ascontiguousarray(y[:length, b]))
        assert not y[length:, b].any()
        assert_all_same(parts(row_final), [part[:, b : b + 1] for part in parts(state)])
        assert_all_same(parts(row.state), [part[:, b : b + 1] for part in parts(grads.state)])
        if not ids:
            assert_same_bits(row.x[:, 0], np.ascontiguousarray(grads.x[:length, b]))
            assert not grads.x[length:, b].any()


@every
def test_resets_are_separate_calls(case):
    """One call per segment, in both directions at once.

    The initial state enters at the first segment of the forward direction and at the last of the reverse one. With one
    row, parameter gradients are sums against the direction's own time: over the segments from the last to the
    first in the forward direction, from the first to the last in the reverse one.
    """
    case = replace(case, bidirectional=True, mask="resets", B=1)
    layer, data = case.layer(), case.data
    resets = data.masks["resets"]
    resets[[0, 4, 9]] = [[False], [True], [True]]
    whole_y, whole_final, tape = layer.forward(data.x, data.state, **data.masks, **data.extra)
    whole = layer.backward(tape, data.dy, data.dstate)
    bounds = [0, *(t for t in np.flatnonzero(resets) if t > 0), case.T]
    segments = [slice(*ends) for ends in pairwise(bounds)]

    def ends(state, forward, reverse):
        """The forward half of a state if `forward`, the reverse half if `reverse`, else zeros."""
        return map_state(lambda part: part * np.array([forward, reverse], part.dtype).reshape(2, 1, 1), state)

    def run_segments(order):
        """All segments in an order, which is that of backward: y, final states, dx, initial gradients, parameters'."""
        into, results = layer.params.zeros(), {}
        for n in range(len(segments))[::order]:
            segment, first, last = segments[n], n == 0, n == len(segments) - 1
            y, final, tape = layer.forward(data.x[segment], ends(data.state, first, last), **data.part(segment))
            grads = layer.backward(tape, data.dy[segment], ends(data.dstate, last, first), into=into)
            results[n] = y, parts(final), grads.x, parts(grads.state)
        return *zip(*(results[n] for n in range(len(segments))), strict=True), into

    y, final, dx, dstate, last_to_first = run_segments(-1)
    *_, first_to_last = run_segments(1)
    assert_same_bits(np.concatenate(y), whole_y)
    assert_same_bits(np.concatenate(dx), whole.x)
    for n, wanted in enumerate(parts(whole_final)):
        assert_all_same([final[-1][n][0], final[0][n][1]], wanted)
    for n, wanted in enumerate(parts(whole.state)):
        assert_all_same([dstate[0][n][0], dstate[-1][n][1]], wanted)
    for name, wanted in whole.params.items():
        into = first_to_last if name.endswith("_reverse") else last_to_first
        assert_close(into[name], wanted, GRADIENTS_CLOSE[case.dtype])


@every
def test_the_same_call_twice(case):
    """Also with memory of an old tape, and with other strides."""
    layer, data = case.layer(), case.data
    first = run(layer, data)
    assert_all_same(run(layer, data), first)

    *_, old = layer.forward(data.x, data.state, **data.extra)
    layer.backward(old, data.dy)
    y, state, tape = layer.forward(data.x, data.state, tape=old, **data.extra)
    assert tape is old
    grads = layer.backward(tape, data.dy, data.dstate)
    assert_all_same([y, *parts(state), grads.x, *parts(grads.state), grads.params.flat], first)

    wide = np.full((case.B, case.T + 1, case.I + 3), np.nan, case.dtype)
    view = wide[:, 1:, 2:-1].swapaxes(0, 1)
    view[...] = data.x
    y, state, tape = layer.forward(view, data.state, **data.extra)
    grads = layer.backward(tape, data.dy, data.dstate)
    assert_all_same([y, *parts(state), grads.x, *parts(grads.state), grads.params.flat], first)


WITH_FMA = [isa for isa in ISAS if isa != "baseline"]  # the baseline has no fused multiply-add: it rounds twice


@pytest.mark.skipif(len(WITH_FMA) < 2, reason=f"one instruction set with a fused multiply-add here: {WITH_FMA}")
@pytest.mark.parametrize("mask", ["none", "both", "reset_state"])
@pytest.mark.parametrize(("kind", "dtype"), list(product(FUSED, DTYPES)))
def test_any_instruction_set(kind, dtype, mask):
    """Forward and backward; sizes astride the vectors' and the canonical blocks' ends."""
    for H, B, ids in ((1, 1, False), (7, 7, True), (17, 1, False), (17, 7, False), (33, 7, True), (100, 7, False)):
        found = []
        for isa in WITH_FMA:
            case = Case(kind, isa, dtype, T=6, B=B, H=H, I=19, ids=ids, mask=mask, bidirectional=True, num_layers=2)
            layer, data = case.layer(), case.data
            found.append(run(layer, data, **data.masks))
        for other in found[1:]:
            assert_all_same(other, found[0])


@pytest.mark.skipif(len(WITH_FMA) < 2, reason=f"one instruction set with a fused multiply-add here: {WITH_FMA}")
@pytest.mark.parametrize(("kind", "dtype"), list(product(FUSED, DTYPES)))
def test_any_instruction_set_where_panels_come_in_pieces(kind, dtype):
    cases = [Case(kind, isa, dtype, T=3, B=40, H=392, I=600, mask="both") for isa in WITH_FMA]
    found = [run(case.layer(), case.data, threads=2, **case.data.masks) for case in cases]
    for other in found[1:]:
        assert_all_same(other, found[0])


@pytest.fixture
def impatient():
    """Threads leave a call to one of them at the first chance, as they do where other programs have the cores."""
    _core.set_patience(0)
    yield
    _core.set_patience(1_000_000)


@pytest.mark.parametrize("B", [1, 9])
@every
def test_threads_that_leave_a_call_to_one_of_them(case, B, impatient):
    """Among two parts of backward, and among two steps where they have parts of the units."""
    case = replace(case, T=700 // B, B=B, H=70, I=3, mask="both")
    layer, data = case.layer(), case.data
    assert_all_same(run(layer, data, threads=3, **data.masks), run(layer, data, threads=1, **data.masks))


def test_threads_that_leave_a_head_to_one_of_them(impatient):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((3000, 20), np.float32), rng.standard_normal((3000, 30), np.float32)
    head = rnnfast.Dense(20, 30, rng=0)
    found = []
    for threads in (1, 3):
        *_, tape = head.forward(x, num_threads=threads)
        grads = head.backward(tape, dy, num_threads=threads)
        found.append([grads.x, grads.params.flat])
    assert_all_same(*found)
