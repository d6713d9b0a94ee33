"""The oracle itself: finite differences, numbers worked out by hand, and masks against separate calls."""

import math
from itertools import pairwise, product

import numpy as np
import pytest

from rnnfast import reference

KINDS = sorted(reference.CELLS)
MASKS = ["none", "lengths", "resets", "both"]
BOTH = [False, True]
T, B, IN, H = 4, 3, 2, 2
LENGTHS = np.array([4, 0, 3])
RESETS = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]], dtype=bool)


def close(actual, expected, tolerance=1e-9):
    """Equal up to `tolerance`, relative to the largest expected value or to 1, whichever is larger."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max(initial=0.0)))


def check_gradient(f, value, gradient):
    """The gradient's components in two random directions: an error in any element shows in both."""
    directions = np.random.default_rng(0).normal(size=(2, *value.shape))
    directions /= np.linalg.norm(directions.reshape(2, -1), axis=1).reshape(2, *[1] * value.ndim)
    numerical = reference.numerical_gradient(lambda s: f(value + np.tensordot(s, directions, axes=1)), np.zeros(2))
    assert gradient.shape == value.shape
    close((directions * gradient).reshape(2, -1).sum(axis=1), numerical)


def check_every_element(f, value, gradient):
    close(gradient, reference.numerical_gradient(f, value))


def masks_of(name):
    lengths = LENGTHS if name in ("lengths", "both") else None
    resets = RESETS if name in ("resets", "both") else None
    return {"lengths": lengths, "resets": resets}


def draw_states(kind, rng, shape, names):
    """Arrays for the names of (h, c), the second for an LSTM only."""
    count = 2 if reference.CELLS[kind].has_c else 1
    return {name: rng.uniform(-1, 1, shape) for name in names[:count]}


def relu_margin(result):
    """How far the nearest pre-activation of an elman_relu is from the kink."""
    params = result.params
    bias = params["bias_ih"] + params["bias_hh"]
    return min(
        np.abs(step.x @ params["weight_ih"].T + step.saved[0] @ params["weight_hh"].T + bias).min(initial=np.inf)
        for step in result.steps
    )


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
    others = {name: value for name, value in arrays.items() if name not in params}
    return reference.forward(kind, params, others.pop("x"), **others, **options)


def loss_weights(result, seed):
    """Random factors for y and the final state: the loss is the sum of their products."""
    rng = np.random.default_rng(seed)
    outputs = [result.y, result.hT] + ([] if result.cT is None else [result.cT])
    return [rng.normal(size=output.shape) for output in outputs]


def loss_of(result, factors):
    outputs = [result.y, result.hT, result.cT][: len(factors)]
    return float(sum((factor * output).sum() for factor, output in zip(factors, outputs, strict=True)))


def gradients_by_name(gradients):
    named = {"x": gradients.dx, "h0": gradients.dh0, "c0": gradients.dc0}
    return named | {"reset_h": gradients.d_reset_h, "reset_c": gradients.d_reset_c} | gradients.params


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


# ---------------------------------------------------------------------------------------------------------------------
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


# ---------------------------------------------------------------------------------------------------------------------
# One step of each cell, by hand


def sigma(z):
    return 1 / (1 + math.exp(-z))


def one_step(kind, weight_ih, weight_hh, bias_ih, bias_hh, x, h_prev, c_prev=None):
    """A step of a cell with IN = H = B = 1: (h, c)."""
    params = {
        "weight_ih": np.array(weight_ih)[:, None],
        "weight_hh": np.array(weight_hh)[:, None],
        "bias_ih": bias_ih,
        "bias_hh": bias_hh,
    }
    c0 = None if c_prev is None else [[c_prev]]
    result = reference.forward(kind, params, [[[x]]], [[h_prev]], c0)
    assert result.y.item() == result.hT.item()
    return result.hT.item(), None if result.cT is None else result.cT.item()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("elman_tanh", math.tanh(-0.55)), ("elman_relu", 0.0), ("elman_sigmoid", 1 / (1 + math.exp(0.55)))],
)
def test_elman_by_hand(kind, expected):
    h, c = one_step(kind, [0.5], [-2.0], [0.25], [0.1], x=0.2, h_prev=0.5)  # 0.1 - 1 + 0.25 + 0.1 = -0.55
    assert h == pytest.approx(expected, rel=1e-14)
    assert c is None


def test_elman_relu_by_hand_above_the_kink():
    h, _ = one_step("elman_relu", [0.5], [2.0], [0.25], [0.1], x=0.2, h_prev=0.5)  # 0.1 + 1 + 0.25 + 0.1
    assert h == pytest.approx(1.45, rel=1e-14)


def test_lstm_by_hand():
    h, c = one_step(
        "lstm",
        [0.5, -1, 2, 0.1],
        [1, 0.5, -0.4, 0.3],
        [0, 0.1, 0.2, 0.3],
        [0.4, 0, 0, 0],
        x=0.6,
        h_prev=0.5,
        c_prev=-0.7,
    )
    # i: 0.3 + 0.5 + 0.4; f: -0.6 + 0.25 + 0.1; g: 1.2 - 0.2 + 0.2; o: 0.06 + 0.15 + 0.3
    expected_c = sigma(-0.25) * -0.7 + sigma(1.2) * math.tanh(1.2)
    assert c == pytest.approx(expected_c, rel=1e-14)
    assert h == pytest.approx(sigma(0.51) * math.tanh(expected_c), rel=1e-14)


GRU_BY_HAND = {
    # r: 0.3 + 0.5 + 0.4; z: -0.6 + 0.25 + 0.1; n: 1.2 + 0.2 and the share of h_prev = 0.5, U_n = -0.4, b_hn = 0.7
    "gru_after": math.tanh(1.4 + sigma(1.2) * (-0.2 + 0.7)),
    "gru_before": math.tanh(1.4 + 0.7 - 0.4 * sigma(1.2) * 0.5),
}


@pytest.mark.parametrize("kind", GRU_BY_HAND)
def test_gru_by_hand(kind):
    h, c = one_step(kind, [0.5, -1, 2], [1, 0.5, -0.4], [0, 0.1, 0.2], [0.4, 0, 0.7], x=0.6, h_prev=0.5)
    z = sigma(-0.25)
    assert h == pytest.approx((1 - z) * GRU_BY_HAND[kind] + z * 0.5, rel=1e-14)
    assert c is None


def test_literal_values():
    """The same steps once more as bare numbers, so that an error in sigma here would show."""
    assert one_step("elman_tanh", [0.5], [-2.0], [0.25], [0.1], 0.2, 0.5)[0] == pytest.approx(
        -0.5005202111902, rel=1e-12
    )
    assert reference.sigmoid(np.array([0.0, math.log(3), -math.log(3)])) == pytest.approx([0.5, 0.75, 0.25], rel=1e-15)


def test_two_hidden_units_by_hand():
    """Weights are [out, in], not transposed."""
    params = {"weight_ih": [[1, 0], [0, 2]], "weight_hh": [[0, 3], [0, 0]]}
    result = reference.forward("elman_relu", params, [[[1, 1]]], [[5, 7]])
    np.testing.assert_array_equal(result.hT, [[22, 2]])


# ---------------------------------------------------------------------------------------------------------------------
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
        close(whole.hT[b], alone.hT[0], 1e-14)
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
    np.testing.assert_array_equal(result.hT[b], arrays["h0"][b])
    np.testing.assert_array_equal(result.cT[b], arrays["c0"][b])
    np.testing.assert_array_equal(gradients.dh0[b], dhT[b])
    np.testing.assert_array_equal(gradients.dc0[b], dcT[b])
    assert not gradients.d_reset_h[b].any() and not gradients.d_reset_c[b].any()


def segments_of(resets, length):
    """The half-open step ranges that the resets cut a row of `length` steps into."""
    cuts = [0, *(t for t in range(1, length) if resets[t]), length]
    return [(start, end) for start, end in pairwise(cuts) if start < end]


def segment_start(arrays, b, first, discards_initial):
    """The initial state of one segment's own call: the row's, or the reset state."""
    of_row = first and not discards_initial
    names = {"h0": "h0" if of_row else "reset_h", "c0": "c0" if of_row else "reset_c"}
    return {part: arrays[name][[b]] for part, name in names.items() if part in arrays and name in arrays}


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
            alone = reference.forward(kind, params, arrays["x"][start:end, [b]], **state, reverse=reverse)
            close(whole.y[start:end, b], alone.y[:, 0], 1e-14)
            d_final = [part[[b]] for part in dstate] if (start, end) == last else []
            dalone = reference.backward(alone, dy[start:end, [b]], *d_final)
            close(gradients["x"][start:end, b], dalone.dx[:, 0], 1e-13)
            if (start, end) == last:
                close(whole.hT[b], alone.hT[0], 1e-14)
            if (start, end) == first:
                close(gradients["h0"][b], np.zeros(H) if discards else dalone.dh0[0], 1e-13)


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
    carried = {"h0": first.hT} | ({} if first.cT is None else {"c0": first.cT})
    rest = {"resets": RESETS[2:], "lengths": np.maximum(LENGTHS - 2, 0)}
    second = call(kind, arrays | carried | {"x": arrays["x"][2:]}, rest)
    np.testing.assert_array_equal(np.concatenate([first.y, second.y]), whole.y)
    np.testing.assert_array_equal(second.hT, whole.hT)


def test_no_steps():
    params = reference.init_params("lstm", IN, H, np.random.default_rng(0))
    h0, c0 = np.ones((B, H)), np.full((B, H), 2.0)
    result = reference.forward(
        "lstm", params, np.zeros((0, B, IN)), h0, c0, resets=np.zeros((0, B), bool), reverse=True
    )
    assert result.y.shape == (0, B, H)
    np.testing.assert_array_equal(result.hT, h0)
    np.testing.assert_array_equal(reference.backward(result, None, None, c0).dc0, c0)


# ---------------------------------------------------------------------------------------------------------------------
# Stacks


def stack_case(kind, seed, from_ids=False):
    """Two layers in two directions: parameters, x, options with states, masks and dropout."""
    rng = np.random.default_rng(seed)
    params = reference.init_stack_params(kind, IN, H, rng, num_layers=2, bidirectional=True)
    x = rng.integers(0, IN, (T, B)) if from_ids else rng.normal(size=(T, B, IN))
    states = [tuple(draw_states(kind, rng, (4, B, H), ("h", "c")).values()) for _ in range(2)]
    state, reset_state = (parts if len(parts) == 2 else parts[0] for parts in states)
    dropout_masks = [(rng.random((T, B, 2 * H)) < 0.7) / 0.7]
    return (
        params,
        x,
        {
            "state": state,
            "reset_state": reset_state,
            "dropout_masks": dropout_masks,
            "lengths": LENGTHS,
            "resets": RESETS,
        },
    )


def stack_call(kind, params, x, options):
    return reference.stack_forward(kind, params, x, num_layers=2, bidirectional=True, **options)


def stack_margin(result):
    return min(relu_margin(one) for results in result.layers for one in results)


def parts_of(state):
    return list(state) if isinstance(state, tuple) else [state]


def with_part(state, index, moved):
    parts = parts_of(state)
    parts[index] = moved
    return tuple(parts) if isinstance(state, tuple) else parts[0]


@pytest.mark.parametrize("kind", KINDS)
def test_stack_gradients(kind):
    seed = next(
        seed
        for seed in range(20, 10000)
        if kind != "elman_relu" or stack_margin(stack_call(kind, *stack_case(kind, seed))) > 0.02
    )
    params, x, options = stack_case(kind, seed)
    result = stack_call(kind, params, x, options)
    rng = np.random.default_rng(21)
    dy = rng.normal(size=result.y.shape)
    dstate = tuple(rng.normal(size=part.shape) for part in parts_of(result.state))
    gradients = reference.stack_backward(result, dy, dstate if len(dstate) == 2 else dstate[0])

    def loss(params=params, x=x, **changed):
        moved = stack_call(kind, params, x, options | changed)
        outputs = [moved.y, *parts_of(moved.state)]
        return sum(float((d * output).sum()) for d, output in zip((dy, *dstate), outputs, strict=True))

    assert list(gradients.params) == list(params)
    for name, value in params.items():
        check_gradient(lambda moved, name=name: loss(params | {name: moved}), value, gradients.params[name])
    check_gradient(lambda moved: loss(x=moved), x, gradients.dx)
    for key, actual in (("state", gradients.dstate), ("reset_state", gradients.d_reset_state)):
        for index, part in enumerate(parts_of(options[key])):

            def loss_of_part(moved, key=key, index=index):
                return loss(**{key: with_part(options[key], index, moved)})

            check_gradient(loss_of_part, part, parts_of(actual)[index])


def test_stack_is_its_layers_one_by_one():
    params, x, options = stack_case("lstm", 22)
    result = stack_call("lstm", params, x, options)
    (h, c), (reset_h, reset_c) = options["state"], options["reset_state"]
    masks = {"lengths": LENGTHS, "resets": RESETS}
    y, finals = x, []
    for layer, dropout in enumerate([options["dropout_masks"][0], 1.0]):
        outputs = []
        for d, end in enumerate(["", "_reverse"]):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            own = {name: params[f"{name}_l{layer}{end}"] for name in names}
            k = 2 * layer + d
            resets_to = {"reset_h": reset_h[k], "reset_c": reset_c[k]}
            finals.append(reference.forward("lstm", own, y, h[k], c[k], **masks, **resets_to, reverse=d == 1))
            outputs.append(finals[-1].y)
        y = np.concatenate(outputs, axis=-1) * dropout
    np.testing.assert_array_equal(result.y, y)
    np.testing.assert_array_equal(result.state[0], [final.hT for final in finals])
    np.testing.assert_array_equal(result.state[1], [final.cT for final in finals])


def test_stack_of_ids_without_state():
    params, ids, _ = stack_case("lstm", 23, from_ids=True)
    result = stack_call("lstm", params, ids, {})
    gradients = reference.stack_backward(result, result.y, (None, result.state[1]))
    hot = stack_call("lstm", params, np.eye(IN)[ids], {"state": (None, None)})
    expected = reference.stack_backward(hot, hot.y, (np.zeros((4, B, H)), hot.state[1]))
    assert gradients.dx is None
    for name, value in expected.params.items():
        np.testing.assert_array_equal(gradients.params[name], value)


# ---------------------------------------------------------------------------------------------------------------------
# Heads and losses


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS.keys() - {"relu"}))
@pytest.mark.parametrize("bias", BOTH)
def test_dense_gradients(activation, bias):
    rng = np.random.default_rng(24)
    params = {"weight": rng.normal(size=(3, IN))} | ({"bias": rng.normal(size=3)} if bias else {})
    x, dy = rng.normal(size=(T, B, IN)), rng.normal(size=(T, B, 3))

    def loss(params, x):
        return float((reference.dense_forward(params, x, activation).y * dy).sum())

    gradients = reference.dense_backward(reference.dense_forward(params, x, activation), dy)
    check_every_element(lambda moved: loss(params, moved), x, gradients.dx)
    assert list(gradients.params) == list(params)
    for name, value in params.items():
        check_every_element(lambda moved, name=name: loss(params | {name: moved}, x), value, gradients.params[name])


def test_dense_by_hand():
    params = {"weight": [[1, 2], [3, 4], [0, 0]], "bias": [0.5, 0, 1]}
    np.testing.assert_array_equal(reference.dense_forward(params, [10, 1]).y, [12.5, 34, 1])
    e = [math.exp(z) for z in (0.5, 0, 1)]
    actual = reference.dense_forward(params, [0, 0], "softmax").y
    np.testing.assert_allclose(actual, [value / sum(e) for value in e], rtol=1e-15)


WEIGHTS = np.array([[1, 0, 2], [0.5, 1, 0], [0, 0, 1], [1, 1, 1]])


def loss_cases():
    rng = np.random.default_rng(25)
    features = (T, B, 3)
    p, t = rng.uniform(0.3, 0.7, features), rng.uniform(0, 1, features)
    return {
        "cross_entropy": (reference.softmax_cross_entropy, rng.normal(size=features), rng.integers(0, 3, (T, B)), {}),
        "mse": (reference.mean_squared_error, rng.normal(size=features), rng.normal(size=features), {}),
        "bce": (reference.binary_cross_entropy, p, t, {}),
        "bce_logits": (reference.binary_cross_entropy, rng.normal(size=features), t, {"logits": True}),
    }


LOSS_CASES = loss_cases()


@pytest.mark.parametrize("mask", [None, WEIGHTS, WEIGHTS > 0], ids=["all", "weights", "bool"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSS_CASES)
def test_loss_gradients(name, reduction, mask):
    function, prediction, target, options = LOSS_CASES[name]
    options = options | {"mask": mask, "reduction": reduction}
    _, gradient = function(prediction, target, **options)
    check_every_element(lambda moved: function(moved, target, **options)[0], prediction, gradient)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_loss_mean_divides_by_the_weights_and_sum_adds_entries(name):
    function, prediction, target, options = LOSS_CASES[name]
    entries = np.array([[function(prediction[t, b], target[t, b], **options)[0] for b in range(B)] for t in range(T)])
    features = 1 if name == "cross_entropy" else prediction.shape[-1]
    mean, _ = function(prediction, target, mask=WEIGHTS, **options)
    total, _ = function(prediction, target, mask=WEIGHTS, reduction="sum", **options)
    assert mean == pytest.approx((WEIGHTS * entries).sum() / WEIGHTS.sum(), rel=1e-14)
    assert total == pytest.approx(mean * WEIGHTS.sum() * features, rel=1e-14)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_masked_entries_of_losses_are_not_read(name):
    function, prediction, target, options = LOSS_CASES[name]
    expected = function(prediction, target, mask=WEIGHTS, **options)
    prediction, target = prediction.copy(), target.copy()
    prediction[WEIGHTS == 0] = np.nan
    target[WEIGHTS == 0] = -9 if name == "cross_entropy" else np.nan
    actual = function(prediction, target, mask=WEIGHTS, **options)
    assert actual[0] == expected[0]
    np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSS_CASES)
def test_no_unmasked_entry_gives_zero(name, reduction):
    function, prediction, target, options = LOSS_CASES[name]
    loss, gradient = function(prediction, target, mask=np.zeros((T, B)), reduction=reduction, **options)
    assert loss == 0
    assert not gradient.any()


def test_losses_by_hand():
    loss, gradient = reference.softmax_cross_entropy([[math.log(3), 0.0]], [0])
    assert loss == pytest.approx(math.log(4 / 3), rel=1e-14)
    np.testing.assert_allclose(gradient, [[-0.25, 0.25]], rtol=1e-14)
    loss, gradient = reference.mean_squared_error([[1.0, 5.0]], [[0.0, 2.0]])
    assert loss == 5.0
    np.testing.assert_array_equal(gradient, [[1.0, 3.0]])
    loss, gradient = reference.binary_cross_entropy([[0.25]], [[1.0]])
    assert loss == pytest.approx(math.log(4), rel=1e-14)
    np.testing.assert_allclose(gradient, [[-4.0]], rtol=1e-14)
    loss, gradient = reference.binary_cross_entropy([[-math.log(3)]], [[1.0]], logits=True)
    assert loss == pytest.approx(math.log(4), rel=1e-14)
    np.testing.assert_allclose(gradient, [[-0.75]], rtol=1e-14)


def test_losses_and_activations_do_not_overflow():
    huge = np.array([[800.0, -800.0]])
    assert reference.softmax_cross_entropy(huge, [1])[0] == 1600
    assert reference.binary_cross_entropy(huge, [[0.0, 1.0]], logits=True)[0] == 800
    np.testing.assert_array_equal(reference.sigmoid(huge), [[1.0, 0.0]])
    np.testing.assert_array_equal(reference.softmax(huge), [[1.0, 0.0]])


# ---------------------------------------------------------------------------------------------------------------------
# Truncated BPTT

STEPS, OUTPUTS = 7, 3


def tbptt_case(kind, loss, seed=26):
    rng = np.random.default_rng(seed)
    params = {f"rnn.{name}": 2 * p for name, p in reference.init_stack_params(kind, IN, H, rng).items()}
    params |= {"head.weight": rng.normal(size=(OUTPUTS, H)), "head.bias": rng.normal(size=OUTPUTS)}
    x = rng.normal(size=(STEPS, B, IN))
    shape = (STEPS, B, OUTPUTS)
    target = rng.normal(size=shape) if loss == "mse" else rng.integers(0, OUTPUTS, shape[:2])
    masks = {"resets": rng.random((STEPS, B)) < 0.25, "lengths": np.array([7, 4, 1])}
    return params, x, target, masks


def layer_pass(kind, params, x, state, resets, lengths):
    own = {name[4:-3]: value for name, value in params.items() if name.startswith("rnn.")}
    return reference.forward(kind, own, x, *state, resets=resets, lengths=lengths)


def window_loss(kind, params, x, target, state, masks, loss, window):
    """The loss of the steps [begin, end) of a pass over [start, end), entry by entry."""
    start, begin, end = window
    lengths = np.clip(masks["lengths"] - start, 0, end - start)
    result = layer_pass(kind, params, x[start:end], state, masks["resets"][start:end], lengths)
    losses = []
    for t, b in product(range(begin, end), range(B)):
        if t < masks["lengths"][b]:
            output = params["head.weight"] @ result.y[t - start, b] + params["head.bias"]
            if loss == "mse":
                losses.append(((output - target[t, b]) ** 2).mean())
            else:
                losses.append(math.log(np.exp(output).sum()) - output[target[t, b]])
    return sum(losses) / len(losses) if losses else 0.0


def states_of_pass(kind, params, x, state, masks, start, end):
    """The state before every step of a pass over [start, end], from calls of every length."""
    states = {}
    for stop in range(start, end + 1):
        lengths = np.clip(masks["lengths"] - start, 0, stop - start)
        result = layer_pass(kind, params, x[start:stop], state, masks["resets"][start:stop], lengths)
        states[stop] = (result.hT,) if result.cT is None else (result.hT, result.cT)
    return states


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 3), (3, 5), (2, 7), (4, 4), (7, 7), (9, 12)])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("kind", ["elman_tanh", "lstm", "gru_before"])
def test_tbptt_windows_by_finite_differences(kind, loss, k1, k2):
    """Follow the definition with finite differences for gradients, and the states of passes kept in full."""
    params, x, target, masks = tbptt_case(kind, loss)
    beyond = ~reference.lengths_mask(masks["lengths"], STEPS, B)
    x[beyond], target[beyond] = np.nan, np.nan if loss == "mse" else -9
    lr = 0.1
    windows = reference.tbptt_reference(kind, params, x, target, loss=loss, k1=k1, k2=k2, lr=lr, **masks)
    count = 2 if kind == "lstm" else 1
    states = {0: (np.zeros((B, H)),) * count}
    assert [window.end for window in windows] == [*range(k1, STEPS, k1), STEPS]
    for window in windows:
        ranges = (window.start, window.begin, window.end)
        assert ranges == (max(0, window.end - k2), (window.end - 1) // k1 * k1, window.end)
        state = states[window.start]
        arguments = (x, target, state, masks, loss, ranges)
        assert window.loss == pytest.approx(window_loss(kind, params, *arguments), rel=1e-13, abs=1e-15)
        for name in ("rnn.weight_hh_l0", "head.weight"):

            def loss_at(moved, name=name, params=params, arguments=arguments):
                return window_loss(kind, params | {name: moved}, *arguments)

            check_gradient(loss_at, params[name], window.gradients[name])
        states = states_of_pass(kind, params, x, state, masks, window.start, window.end)
        assert set(window.params) == set(params)
        for parameter, value in params.items():
            np.testing.assert_array_equal(window.params[parameter], value - lr * window.gradients[parameter])
        params = window.params


def test_tbptt_all_gradients_of_the_whole():
    """k1 = k2 = T is full backpropagation through time; here with two layers, an initial state and weights."""
    rng = np.random.default_rng(27)
    params = {f"rnn.{n}": p for n, p in reference.init_stack_params("lstm", IN, H, rng, num_layers=2).items()}
    params |= {"head.weight": rng.normal(size=(OUTPUTS, H))}
    x, target = rng.normal(size=(T, B, IN)), rng.normal(size=(T, B, OUTPUTS))
    state = (rng.normal(size=(2, B, H)), rng.normal(size=(2, B, H)))
    options = {"loss": "mse", "k1": T, "lr": 0.5, "num_layers": 2, "state": state, "mask": WEIGHTS, "resets": RESETS}

    def loss(params):
        return reference.tbptt_reference("lstm", params, x, target, **options)[0].loss

    (window,) = reference.tbptt_reference("lstm", params, x, target, **options)
    for name, value in params.items():
        check_gradient(lambda moved, name=name: loss(params | {name: moved}), value, window.gradients[name])


def test_tbptt_learning_rate_zero_carries_the_state_of_the_whole_pass():
    params, x, target, masks = tbptt_case("gru_after", "mse")
    whole, *_ = reference.tbptt_reference("gru_after", params, x, target, loss="mse", k1=STEPS, lr=0, **masks)
    windows = reference.tbptt_reference("gru_after", params, x, target, loss="mse", k1=2, k2=3, lr=0, **masks)
    entries = [reference.lengths_mask(masks["lengths"], STEPS, B)[w.begin : w.end].sum() for w in windows]
    mean = sum(n * w.loss for n, w in zip(entries, windows, strict=True)) / sum(entries)
    assert mean == pytest.approx(whole.loss, rel=1e-14)


def test_tbptt_window_without_entries_changes_nothing():
    params, x, target, _ = tbptt_case("lstm", "mse")
    mask = np.ones((STEPS, B))
    mask[2:4] = 0
    target[2:4] = np.nan
    windows = reference.tbptt_reference("lstm", params, x, target, loss="mse", k1=2, lr=0.1, mask=mask)
    assert windows[1].loss == 0
    assert not any(np.any(value) for value in windows[1].gradients.values())
    for name, value in windows[0].params.items():
        np.testing.assert_array_equal(windows[1].params[name], value)


# ---------------------------------------------------------------------------------------------------------------------
# Helpers and errors


def test_numerical_gradient_is_exact_for_polynomials_of_degree_four():
    x = np.array([[0.5, -1.0], [2.0, 0.0]])
    expected = 4 * x**3 - 3 * x**2 + 1
    close(reference.numerical_gradient(lambda v: float((v**4 - v**3 + v).sum()), x, eps=0.1), expected, 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_init_params(kind):
    gates = {"lstm": 4, "gru_after": 3, "gru_before": 3}.get(kind, 1)
    params = reference.init_params(kind, 5, 9, np.random.default_rng(0))
    shapes = {
        "weight_ih": (9 * gates, 5),
        "weight_hh": (9 * gates, 9),
        "bias_ih": (9 * gates,),
        "bias_hh": (9 * gates,),
    }
    assert {name: value.shape for name, value in params.items()} == shapes
    assert all((np.abs(value) <= 1 / 3).all() for value in params.values())
    assert set(reference.init_params(kind, 5, 9, np.random.default_rng(0), bias=False)) == {"weight_ih", "weight_hh"}


def test_lengths_mask():
    np.testing.assert_array_equal(reference.lengths_mask([2, 0], 3, 2), [[1, 0], [1, 0], [0, 0]])
    assert reference.lengths_mask(None, 3, 2).all()


GOOD = {"weight_ih": np.zeros((8, 3)), "weight_hh": np.zeros((8, 2)), "bias_ih": np.zeros(8)}
X = np.zeros((4, 5, 3))


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (ValueError, "kind", ("rnn", GOOD, X), {}),
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
        (ValueError, "h0: ", ("lstm", GOOD, X, np.zeros((4, 2))), {}),
        (ValueError, "c0: ", ("elman_tanh", {"weight_ih": [[1, 1, 1]], "weight_hh": [[1]]}, X, None, np.zeros(1)), {}),
        (ValueError, "reset_c: ", ("lstm", GOOD, X), {"reset_c": np.zeros(2)}),
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


def test_other_errors():
    result = reference.forward("lstm", GOOD, X)
    with pytest.raises(ValueError, match="dy: "):
        reference.backward(result, X)
    stacked = {f"{name}_l0": value for name, value in GOOD.items()}
    for options, message in [
        ({"state": np.zeros((1, 5, 2))}, "state: "),
        ({"state": (np.zeros((2, 5, 2)), None)}, "state: "),
        ({"dropout_masks": [1.0]}, "dropout_masks: "),
        ({"num_layers": 2}, "missing"),
    ]:
        with pytest.raises(ValueError, match=message):
            reference.stack_forward("lstm", stacked, X, **options)
    with pytest.raises(ValueError, match="surplus"):
        reference.stack_forward("lstm", stacked | {"weight_ih_l1": GOOD["weight_ih"]}, X)
    with pytest.raises(ValueError, match="activation"):
        reference.dense_forward({"weight": np.zeros((2, 3))}, X, "gelu")
    with pytest.raises(ValueError, match="x: "):
        reference.dense_forward({"weight": np.zeros((2, 4))}, X)
    with pytest.raises(ValueError, match="missing"):
        reference.dense_forward({}, X)


def test_loss_errors():
    with pytest.raises(ValueError, match="reduction"):
        reference.mean_squared_error(X, X, reduction="none")
    with pytest.raises(ValueError, match="mask"):
        reference.mean_squared_error(X, X, mask=np.full((4, 5), -1.0))
    with pytest.raises(ValueError, match="target"):
        reference.mean_squared_error(X, X[..., :1])
    with pytest.raises(ValueError, match="ids"):
        reference.softmax_cross_entropy(X, np.full((4, 5), 3))
    with pytest.raises(TypeError, match="ids"):
        reference.softmax_cross_entropy(X, np.zeros((4, 5)))
    with pytest.raises(ValueError, match="logits=True"):
        reference.binary_cross_entropy(X, X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1"),
        ({"k1": 2, "k2": 1}, "k2"),
        ({"k1": 2, "loss": "l1"}, "loss"),
        ({"k1": 2, "num_layers": 2}, "miss"),
    ],
)
def test_tbptt_errors(options, message):
    params, x, target, _ = tbptt_case("lstm", "mse")
    with pytest.raises(ValueError, match=message):
        reference.tbptt_reference("lstm", params, x, target, **{"loss": "mse", "lr": 0.1} | options)
