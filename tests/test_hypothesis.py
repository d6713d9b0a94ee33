"""Properties over random calls: agreement with the oracle, chunks equal the whole, nonsense is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import AXES, DTYPES, FUSED, ISAS, TOLERANCES, Case, assert_close, assert_same_bits, oracle, parts, swap

cases = st.builds(
    Case,
    kind=st.sampled_from(FUSED),
    isa=st.sampled_from(ISAS),
    dtype=st.sampled_from(DTYPES),
    bidirectional=st.booleans(),
    num_layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    mask=st.sampled_from(AXES["mask"]),
    ids=st.booleans(),
    threads=st.integers(1, 3),
    H=st.integers(1, 40),
    I=st.integers(1, 40),
    T=st.integers(0, 12),
    B=st.integers(0, 9),
)


@settings(max_examples=150)
@given(cases)
def test_layer_agrees_with_the_oracle(case):
    layer, data = case.layer(), case.data
    expected, expected_gradients = oracle(case, layer)
    forward_tolerance, backward_tolerance = TOLERANCES[np.dtype(case.dtype)]
    masks = data.masks | ({"ids": True} if case.ids else {})
    if "resets" in masks:
        masks = masks | {"resets": swap(case, masks["resets"])}
    y, state, tape = layer.forward(swap(case, data.x), data.state, num_threads=case.threads, **masks)
    grads = layer.backward(tape, swap(case, data.dy), data.dstate, num_threads=case.threads)
    assert_close(swap(case, y), expected.y, forward_tolerance)
    for actual, wanted in zip(parts(state), parts(expected.state), strict=True):
        assert_close(actual, wanted, forward_tolerance)
    for actual, wanted in zip(parts(grads.state), parts(expected_gradients.dstate), strict=True):
        assert_close(actual, wanted, backward_tolerance)
    for name in layer.params:
        assert_close(grads.params[name], expected_gradients.params[name], backward_tolerance)


@settings(max_examples=60)
@given(cases, st.data())
def test_chunks_equal_the_whole(case, draw):
    case = replace(case, bidirectional=False, batch_first=False, mask="both")
    layer, data = case.layer(), case.data
    cuts = draw.draw(st.lists(st.integers(0, case.T), max_size=4).map(sorted))
    told = {"ids": True} if case.ids else {}
    y, final, tape = layer.forward(data.x, data.state, **data.masks, **told)
    whole = layer.backward(tape, data.dy, data.dstate)

    state, outputs, tapes = data.state, [], []
    bounds = list(pairwise([0, *cuts, case.T]))
    for begin, end in bounds:
        lengths = np.clip(data.masks["lengths"] - begin, 0, end - begin)
        masks = {"lengths": lengths, "resets": data.masks["resets"][begin:end], **told}
        chunk, state, tape = layer.forward(data.x[begin:end], state, num_threads=case.threads, **masks)
        outputs.append(chunk)
        tapes.append(tape)
    dstate, into = data.dstate, layer.params.zeros()
    for (begin, end), tape in reversed(list(zip(bounds, tapes, strict=True))):
        dstate = layer.backward(tape, data.dy[begin:end], dstate, into=into).state
    assert_same_bits(np.concatenate(outputs), y)
    for actual, wanted in zip([*parts(state), *parts(dstate)], [*parts(final), *parts(whole.state)], strict=True):
        assert_same_bits(actual, wanted)
    assert_close(into.flat, whole.params.flat, TOLERANCES[np.dtype(case.dtype)][1])


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
arrays = st.builds(
    lambda shape, dtype, value: np.full(shape, value).astype(dtype),
    shapes,
    st.sampled_from(["f4", "f8", ">f4", "f2", "i8", "u1", "bool", "c8", "S3", "U2", "O", "M8[s]", "V4"]),
    st.integers(-2, 5),
)
anything = st.one_of(arrays, st.none(), st.integers(-2, 5), st.text(max_size=3), st.lists(st.floats(), max_size=3))


@settings(max_examples=300)
@given(
    kind=st.sampled_from(("lstm", "gru_before")),
    x=st.one_of(st.just(np.ones((3, 2, 4), np.float32)), anything),
    state=st.one_of(st.none(), anything, st.tuples(anything, anything)),
    options=st.fixed_dictionaries(
        {}, optional={name: anything for name in ("lengths", "resets", "reset_state", "out", "num_threads", "tape")}
    ),
    dy=anything,
    dstate=st.one_of(st.none(), anything, st.tuples(anything, anything)),
)
def test_nonsense_is_refused(kind, x, state, options, dy, dstate):
    """Whatever the arguments are, a call returns or raises ValueError or TypeError, and the layer still works."""
    layer = Case(kind, ISAS[-1], I=4, H=3).layer()
    try:
        y, _, tape = layer.forward(x, state, **options)
        assert y.dtype == np.float32
        layer.backward(tape, dy, dstate)
    except (ValueError, TypeError) as error:
        assert str(error)
    y, _ = layer(np.ones((3, 2, 4), np.float32))
    assert np.isfinite(y).all()
