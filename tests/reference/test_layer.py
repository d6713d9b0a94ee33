"""The oracle's layer: gradients by finite differences, masks against separate calls, what it refuses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from reference_problems import (
    BOTH,
    GOOD,
    IN,
    KINDS,
    LENGTHS,
    RESETS,
    B,
    H,
    T,
    X,
    check_every_element,
    check_gradient,
    close,
    draw_states,
    relu_margin,
)

from rnnfast import reference

STATES = ("h0", "c0"), ("reset_h", "reset_c")  # the names of arrays, in the order of a cell's states
MASKS = ["none", "lengths", "resets", "both"]


def masks_of(name):
    lengths = LENGTHS if name in ("lengths", "both") else None
    resets = RESETS if name in ("resets", "both") else None
    return {"lengths": lengths, "resets": resets}


def draw_case(kind, seed, *, masks, given_reset_state, reverse, from_ids=False, steps=T):
    """Arrays (parameters, x, states) and options of one call; for relu away from the kink."""
    while True:
        rng = np.random.default_rng(seed)
        arrays = {name: 2 * value for name, value in reference.init_params(kind, IN, H, rng).items()}
        arrays["x"] = rng.integers(0, IN, (steps, B)) if from_ids else rng.normal(size=(steps, B, IN))
        arrays |= draw_states(kind, rng, (B, H), ("h0", "c0"))
        if given_reset_state:
            arrays |= draw_states(kind, rng, (B, H), ("reset_h", "reset_c"))
        lengths, resets = masks_of(masks).values()
        options = {
            "lengths": lengths if lengths is None else np.minimum(lengths, steps),
            "resets": resets if resets is None else resets[:steps],
            "reverse": reverse,
        }
        if kind != "elman_relu" or relu_margin(call(kind, arrays, options)) > 0.05:
            return arrays, options
        seed += 1000


def call(kind, arrays, options):
    params = {name: value for name, value in arrays.items() if name.startswith(("weight", "bias"))}
    count = len(reference.CELLS[kind].states)
    state, reset_state = ([arrays.get(name) for name in names[:count]] for names in STATES)
    return reference.forward(kind, params, arrays["x"], *state, reset_state=reset_state, **options)


def loss_weights(result, seed):
    """Random factors for y and the final state: the loss is the sum of their products."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=output.shape) for output in (result.y, *result.state)]


def loss_of(result, factors):
    outputs = (result.y, *result.state)
    return float(sum((factor * output).sum() for factor, output in zip(factors, outputs, strict=True)))


def gradients_by_name(gradients):
    states = zip(STATES, (gradients.dstate, gradients.d_reset_state), strict=True)
    named = {name: value for names, values in states for name, value in zip(names, values, strict=False)}
    return {"x": gradients.dx} | named | gradients.params


def check_gradients(kind, arrays, options, check=check_gradient):
    """Every gradient of one layer against finite differences."""
    result = call(kind, arrays, options)
    factors = loss_weights(result, 7)
    gradients = gradients_by_name(reference.backward(result, *factors))
    for name, value in arrays.items():
        if value.dtype.kind != "f":
            assert gradients[name] is None
            continue

        def loss(moved, name=name):
            return loss_of(call(kind, arrays | {name: moved}, options), factors)

        check(loss, value, gradients[name])


# Gradients


@pytest.mark.parametrize("given_reset_state", BOTH)
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("reverse", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, reverse, masks, given_reset_state):
    check_gradients(kind, *draw_case(kind, 1, masks=masks, given_reset_state=given_reset_state, reverse=reverse))


@pytest.mark.parametrize("reverse", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_one_step(kind, reverse):
    case = draw_case(kind, 2, masks="both", given_reset_state=True, reverse=reverse, steps=1)
    check_gradients(kind, *case, check=check_every_element)


@pytest.mark.parametrize("reverse", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_ids(kind, reverse):
    case = draw_case(kind, 3, masks="both", given_reset_state=True, reverse=reverse, from_ids=True)
    check_gradients(kind, *case)


@pytest.mark.parametrize("absent", [("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")])
@pytest.mark.parametrize("kind", ["elman_tanh", "lstm", "gru_after", "gru_before"])
def test_absent_biases_are_zeros_and_have_no_gradient(kind, absent):
    arrays, options = draw_case(kind, 4, masks="both", given_reset_state=False, reverse=False)
    zeros, nones = ({name: value for name in absent} for value in (np.zeros_like(arrays["bias_ih"]), None))
    missing = {name: value for name, value in arrays.items() if name not in absent}
    expected = call(kind, arrays | zeros, options)
    for given in (missing, arrays | nones):
        result = call(kind, given, options)
        close(result.y, expected.y, 0)
        assert set(reference.backward(result, None).params) == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"} - {
            *absent
        }
    check_gradients(kind, missing, options)


def test_absent_gradients_are_zeros():
    arrays, options = draw_case("lstm", 5, masks="both", given_reset_state=True, reverse=False)
    result = call("lstm", arrays, options)
    zeros = np.zeros((B, H))
    expected = gradients_by_name(reference.backward(result, np.zeros_like(result.y), arrays["h0"], zeros))
    actual = gradients_by_name(reference.backward(result, None, arrays["h0"]))
    for name, value in expected.items():
        close(actual[name], value, 0)
    assert not any(np.any(g) for g in gradients_by_name(reference.backward(result, None)).values())


@pytest.mark.parametrize("reverse", BOTH)
def test_backward_changes_neither_its_result_nor_its_arguments(reverse):
    arrays, options = draw_case("lstm", 6, masks="both", given_reset_state=True, reverse=reverse)
    copies = {name: value.copy() for name, value in arrays.items()}
    result = call("lstm", arrays, options)
    factors = loss_weights(result, 8)
    factor_copies = [factor.copy() for factor in factors]
    first, second = (gradients_by_name(reference.backward(result, *factors)) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, copies[name])
    for factor, copy in zip(factors, factor_copies, strict=True):
        np.testing.assert_array_equal(factor, copy)


def test_a_result_outlives_changes_to_its_parameters():
    arrays, options = draw_case("gru_after", 6, masks="none", given_reset_state=False, reverse=False)
    result = call("gru_after", arrays, options)
    expected = gradients_by_name(reference.backward(result, result.y))
    for value in arrays.values():
        value += 1
    actual = gradients_by_name(reference.backward(result, result.y))
    np.testing.assert_array_equal(actual["x"], expected["x"])


# Masks


@pytest.mark.parametrize("reverse", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_equal_rows_alone(kind, reverse):
    arrays, _ = draw_case(kind, 9, masks="none", given_reset_state=False, reverse=reverse)
    padded = arrays | {"x": arrays["x"].copy()}
    padded["x"][~reference.lengths_mask(LENGTHS, T, B)] = np.nan
    whole = call(kind, padded, {"lengths": LENGTHS, "reverse": reverse})
    dy, *dstate = loss_weights(whole, 10)
    dy[~reference.lengths_mask(LENGTHS, T, B)] = np.nan
    gradients = gradients_by_name(reference.backward(whole, dy, *dstate))
    dparams = {name: 0.0 for name in whole.params}
    for b, length in enumerate(LENGTHS):
        row = arrays | {name: arrays[name][b : b + 1] for name in ("h0", "c0") if name in arrays}
        alone = call(kind, row | {"x": arrays["x"][:length, b : b + 1]}, {"reverse": reverse})
        close(whole.y[:length, b], alone.y[:, 0], 1e-14)
        assert not whole.y[length:, b].any()
        close(whole.state[0][b], alone.state[0][0], 1e-14)
        dalone = gradients_by_name(reference.backward(alone, dy[:length, [b]], *(part[[b]] for part in dstate)))
        close(gradients["x"][:length, b], dalone["x"][:, 0], 1e-13)
        assert not gradients["x"][length:, b].any()
        close(gradients["h0"][b], dalone["h0"][0], 1e-13)
        dparams = {name: total + dalone[name] for name, total in dparams.items()}
    for name, total in dparams.items():
        close(gradients[name], total, 1e-13)


@pytest.mark.parametrize("reverse", BOTH)
def test_a_row_of_length_zero_hands_its_state_through(reverse):
    arrays, options = draw_case("lstm", 11, masks="both", given_reset_state=True, reverse=reverse)
    result = call("lstm", arrays, options)
    dy, dhT, dcT = loss_weights(result, 12)
    gradients = reference.backward(result, dy, dhT, dcT)
    b = int(np.flatnonzero(LENGTHS == 0)[0])
    assert RESETS[0, b]
    for final, name, d, expected in zip(result.state, ("h0", "c0"), gradients.dstate, (dhT, dcT), strict=True):
        np.testing.assert_array_equal(final[b], arrays[name][b])
        np.testing.assert_array_equal(d[b], expected[b])
    assert not any(d[b].any() for d in gradients.d_reset_state)


def segments_of(resets, length):
    """The half-open step ranges that the resets cut a row of `length` steps into."""
    cuts = [0, *(t for t in range(1, length) if resets[t]), length]
    return [(start, end) for start, end in pairwise(cuts) if start < end]


def segment_start(arrays, b, first, discards_initial):
    """The initial state of one segment's own call: the row's, or the reset state."""
    of_row = first and not discards_initial
    return [arrays[name][[b]] for name in STATES[0 if of_row else 1] if name in arrays]


@pytest.mark.parametrize("given_reset_state", BOTH)
@pytest.mark.parametrize("reverse", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_resets_equal_one_call_per_segment(kind, reverse, given_reset_state):
    arrays, _ = draw_case(kind, 13, masks="none", given_reset_state=given_reset_state, reverse=reverse)
    rng = np.random.default_rng(14)
    steps, resets = 9, rng.random((9, B)) < 0.3
    resets[0, 0] = True
    lengths = np.array([9, 8, 5])
    arrays["x"] = rng.normal(size=(steps, B, IN))
    whole = call(kind, arrays, {"resets": resets, "lengths": lengths, "reverse": reverse})
    dy, *dstate = loss_weights(whole, 15)
    gradients = gradients_by_name(reference.backward(whole, dy, *dstate))
    params = {name: value for name, value in arrays.items() if name.startswith(("weight", "bias"))}
    for b in range(B):
        segments = segments_of(resets[:, b], lengths[b])
        first, last = (segments[-1], segments[0]) if reverse else (segments[0], segments[-1])
        for start, end in segments:
            discards = bool(resets[0, b]) and not reverse
            state = segment_start(arrays, b, (start, end) == first, discards)
            alone = reference.forward(kind, params, arrays["x"][start:end, [b]], *state, reverse=reverse)
            close(whole.y[start:end, b], alone.y[:, 0], 1e-14)
            d_final = [part[[b]] for part in dstate] if (start, end) == last else []
            dalone = reference.backward(alone, dy[start:end, [b]], *d_final)
            close(gradients["x"][start:end, b], dalone.dx[:, 0], 1e-13)
            if (start, end) == last:
                close(whole.state[0][b], alone.state[0][0], 1e-14)
            if (start, end) == first:
                close(gradients["h0"][b], np.zeros(H) if discards else dalone.dstate[0][0], 1e-13)


def test_reset_at_step_zero_discards_the_initial_state_forward_only():
    arrays, _ = draw_case("gru_after", 16, masks="none", given_reset_state=False, reverse=False)
    resets = np.zeros((T, B), dtype=bool)
    resets[0] = True
    without_state = {name: value for name, value in arrays.items() if name != "h0"}
    for reverse, expected in ((False, without_state), (True, arrays)):
        actual = call("gru_after", arrays, {"resets": resets, "reverse": reverse})
        close(actual.y, call("gru_after", expected, {"reverse": reverse}).y, 0)


@pytest.mark.parametrize("reverse", BOTH)
def test_resets_beyond_lengths_are_not_read(reverse):
    arrays, options = draw_case("lstm", 17, masks="both", given_reset_state=True, reverse=reverse)
    cleared = RESETS & reference.lengths_mask(LENGTHS, T, B)
    assert (cleared != RESETS).any()
    np.testing.assert_array_equal(
        call("lstm", arrays, options).y, call("lstm", arrays, options | {"resets": cleared}).y
    )


@pytest.mark.parametrize("reverse", BOTH)
def test_ids_equal_one_hot_and_are_not_read_beyond_lengths(reverse):
    arrays, options = draw_case("gru_before", 18, masks="both", given_reset_state=True, reverse=reverse, from_ids=True)
    hot = call("gru_before", arrays | {"x": np.eye(IN)[arrays["x"]]}, options)
    arrays["x"][~reference.lengths_mask(LENGTHS, T, B)] = 99
    result = call("gru_before", arrays, options)
    np.testing.assert_array_equal(result.y, hot.y)
    actual, expected = (reference.backward(r, r.y).params for r in (result, hot))
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_arrays_of_full_rank_are_numbers(dtype):
    params = reference.init_params("lstm", IN, H, np.random.default_rng(0))
    x = np.arange(T * B * IN).reshape(T, B, IN)
    actual, expected = (reference.forward("lstm", params, x.astype(to)) for to in (dtype, np.float64))
    np.testing.assert_array_equal(actual.y, expected.y)
    np.testing.assert_array_equal(reference.backward(actual, x).dx, reference.backward(expected, x).dx)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_with_carried_state_equal_the_whole(kind):
    arrays, _ = draw_case(kind, 19, masks="none", given_reset_state=True, reverse=False)
    whole = call(kind, arrays, {"resets": RESETS, "lengths": LENGTHS})
    first = call(kind, arrays | {"x": arrays["x"][:2]}, {"resets": RESETS[:2], "lengths": np.minimum(LENGTHS, 2)})
    carried = dict(zip(STATES[0], first.state, strict=False))
    rest = {"resets": RESETS[2:], "lengths": np.maximum(LENGTHS - 2, 0)}
    second = call(kind, arrays | carried | {"x": arrays["x"][2:]}, rest)
    np.testing.assert_array_equal(np.concatenate([first.y, second.y]), whole.y)
    np.testing.assert_array_equal(second.state[0], whole.state[0])


def test_no_steps():
    params = reference.init_params("lstm", IN, H, np.random.default_rng(0))
    h0, c0 = np.ones((B, H)), np.full((B, H), 2.0)
    result = reference.forward(
        "lstm", params, np.zeros((0, B, IN)), h0, c0, resets=np.zeros((0, B), bool), reverse=True
    )
    assert result.y.shape == (0, B, H)
    np.testing.assert_array_equal(result.state[0], h0)
    np.testing.assert_array_equal(reference.backward(result, None, None, c0).dstate[1], c0)


def test_lengths_mask():
    np.testing.assert_array_equal(reference.lengths_mask([2, 0], 3, 2), [[1, 0], [1, 0], [0, 0]])
    assert reference.lengths_mask(None, 3, 2).all()


# Bad input


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (ValueError, "cell", ("rnn", GOOD, X), {}),
        (TypeError, "cell", (None, GOOD, X), {}),
        (ValueError, "missing .'weight_hh'", ("lstm", {"weight_ih": GOOD["weight_ih"]}, X), {}),
        (ValueError, "surplus .'weight'", ("lstm", GOOD | {"weight": 1.0}, X), {}),
        (ValueError, "weight_hh", ("lstm", GOOD | {"weight_hh": np.zeros(8)}, X), {}),
        (ValueError, "bias_ih", ("lstm", GOOD | {"bias_ih": np.zeros(7)}, X), {}),
        (ValueError, "weight_ih", ("gru_after", GOOD, X), {}),
        (ValueError, "x: ", ("lstm", GOOD, X[0]), {}),
        (ValueError, "x: ", ("lstm", GOOD, X[..., :2]), {}),
        (ValueError, "ids: ", ("lstm", GOOD, np.full((4, 5), 3)), {}),
        (ValueError, "ids: ", ("lstm", GOOD, np.full((4, 5), -1)), {}),
        (TypeError, "x: ", ("lstm", GOOD, X.astype(complex)), {}),
        (ValueError, "state h: ", ("lstm", GOOD, X, np.zeros((4, 2))), {}),
        (
            ValueError,
            "state: ",
            ("elman_tanh", {"weight_ih": [[1, 1, 1]], "weight_hh": [[1]]}, X, None, np.zeros(1)),
            {},
        ),
        (ValueError, "reset_state c: ", ("lstm", GOOD, X), {"reset_state": (None, np.zeros(2))}),
        (ValueError, "lengths: ", ("lstm", GOOD, X), {"lengths": [1, 2, 3, 4, 5]}),
        (ValueError, "lengths: ", ("lstm", GOOD, X), {"lengths": [-1, 2, 3, 4, 4]}),
        (ValueError, "lengths: ", ("lstm", GOOD, X), {"lengths": [4, 4]}),
        (TypeError, "lengths: ", ("lstm", GOOD, X), {"lengths": [1.0, 2, 3, 4, 4]}),
        (ValueError, "resets: ", ("lstm", GOOD, X), {"resets": np.zeros(4, bool)}),
    ],
)
def test_forward_errors(error, message, arguments, options):
    with pytest.raises(error, match=message):
        reference.forward(*arguments, **options)


def test_backward_errors():
    with pytest.raises(ValueError, match="dy: "):
        reference.backward(reference.forward("lstm", GOOD, X), X)
