"""The oracle's stack of layers: gradients by finite differences, layers one by one, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from reference_problems import GOOD, IN, KINDS, LENGTHS, RESETS, B, H, T, X, check_gradient, draw_states, relu_margin
from registry import parts

from rnnfast import reference


def stack_case(kind, seed, from_ids=False):
    """Two layers in two directions: parameters, x, options with states, masks and dropout."""
    rng = np.random.default_rng(seed)
    params = reference.init_stack_params(kind, IN, H, rng, num_layers=2, bidirectional=True)
    x = rng.integers(0, IN, (T, B)) if from_ids else rng.normal(size=(T, B, IN))
    states = [tuple(draw_states(kind, rng, (4, B, H), ("h", "c")).values()) for _ in range(2)]
    state, reset_state = (pair if len(pair) == 2 else pair[0] for pair in states)
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


def with_part(state, index, moved):
    new = tuple(moved if number == index else part for number, part in enumerate(parts(state)))
    return new if isinstance(state, tuple) else new[0]


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
    dstate = tuple(rng.normal(size=part.shape) for part in parts(result.state))
    gradients = reference.stack_backward(result, dy, dstate if len(dstate) == 2 else dstate[0])

    def loss(params=params, x=x, **changed):
        moved = stack_call(kind, params, x, options | changed)
        outputs = [moved.y, *parts(moved.state)]
        return sum(float((d * output).sum()) for d, output in zip((dy, *dstate), outputs, strict=True))

    assert list(gradients.params) == list(params)
    for name, value in params.items():
        check_gradient(lambda moved, name=name: loss(params | {name: moved}), value, gradients.params[name])
    check_gradient(lambda moved: loss(x=moved), x, gradients.dx)
    for key, actual in (("state", gradients.dstate), ("reset_state", gradients.d_reset_state)):
        for index, part in enumerate(parts(options[key])):

            def loss_of_part(moved, key=key, index=index):
                return loss(**{key: with_part(options[key], index, moved)})

            check_gradient(loss_of_part, part, parts(actual)[index])


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
            resets_to = (reset_h[k], reset_c[k])
            final = reference.forward("lstm", own, y, h[k], c[k], **masks, reset_state=resets_to, reverse=d == 1)
            finals.append(final)
            outputs.append(finals[-1].y)
        y = np.concatenate(outputs, axis=-1) * dropout
    np.testing.assert_array_equal(result.y, y)
    np.testing.assert_array_equal(result.state[0], [final.state[0] for final in finals])
    np.testing.assert_array_equal(result.state[1], [final.state[1] for final in finals])


def test_stack_of_ids_without_state():
    params, ids, _ = stack_case("lstm", 23, from_ids=True)
    result = stack_call("lstm", params, ids, {})
    gradients = reference.stack_backward(result, result.y, (None, result.state[1]))
    hot = stack_call("lstm", params, np.eye(IN)[ids], {"state": (None, None)})
    expected = reference.stack_backward(hot, hot.y, (np.zeros((4, B, H)), hot.state[1]))
    assert gradients.dx is None
    for name, value in expected.params.items():
        np.testing.assert_array_equal(gradients.params[name], value)


def test_errors():
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
