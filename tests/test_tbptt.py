"""Truncated BPTT: the oracle's definition, full BPTT bitwise, carried state, masks and memory."""

from __future__ import annotations

import copy
import types
from functools import partial

import numpy as np
import pytest
from registry import FUSED, assert_close, assert_same, assert_same_bits, make_layer

from rnnfast import GRU, LSTM, TBPTT, Dense, Model, _core, reference
from rnnfast.losses import mean_squared_error, softmax_cross_entropy
from rnnfast.optim import SGD, Adam
from rnnfast.tbptt import NonFiniteError, stateful_batches

T, B, I, H, O = 13, 4, 3, 5, 2  # noqa: E741
WINDOWS = [(4, 4), (4, 7), (4, 8), (3, 11), (5, 13), (1, 1), (1, 6), (13, 13), (4, 20), (20, 30)]


def make(kind="lstm", dtype=np.float64, num_layers=1, isa=None, **options):
    """Equal arguments make equal models."""
    layer = make_layer(kind, I, H, isa=isa or _core.isa(), dtype=dtype, num_layers=num_layers, rng=1, **options)
    return Model(rnn=layer, head=Dense(H, O, dtype=dtype, rng=2))


def trainer_of(model, k1, k2=None, loss=mean_squared_error, lr=0.1, **options):
    return TBPTT(model, loss, SGD(model.params, lr), k1=k1, k2=k2, **options)


def data(steps=T, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((steps, B, I)).astype(dtype), rng.standard_normal((steps, B, O)).astype(dtype)


def masks(steps=T, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "lengths": np.array([steps, steps // 2, 0, 5]),
        "resets": rng.random((steps, B)) < 0.2,
        "mask": rng.random((steps, B)),
    }


def leaves(state):
    if isinstance(state, dict | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from leaves(part)
    else:
        yield state


# The definition


@pytest.mark.parametrize(("k1", "k2"), WINDOWS)
@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_what_the_oracle_computes(kind, k1, k2, masked):
    model = make(kind, num_layers=2)
    x, target = data()
    given = masks() if masked else {}
    expected = reference.tbptt_reference(
        kind, dict(model.params), x, target, loss="mse", k1=k1, k2=k2, lr=0.1, num_layers=2, **given
    )
    for window, result in zip(expected, trainer_of(model, k1, k2).run(x, target, **given), strict=True):
        assert result.steps == window.end - window.begin
        assert abs(result.loss - window.loss) <= 1e-12 * max(window.loss, 1)
        norm = np.sqrt(sum((gradient**2).sum() for gradient in window.gradients.values()))
        assert abs(result.grad_norm - norm) <= 1e-11 * norm
        for name, value in window.params.items():
            assert_close(model.params[name], value, 1e-11)


def test_ids_with_cross_entropy():
    model = Model(rnn=LSTM(6, H, dtype=np.float64, rng=1), head=Dense(H, 6, dtype=np.float64, rng=2))
    ids = np.random.default_rng(0).integers(0, 6, (T + 1, B))
    expected = reference.tbptt_reference(
        "lstm", dict(model.params), ids[:-1], ids[1:], loss="cross_entropy", k1=3, k2=5, lr=0.1
    )
    trainer = trainer_of(model, 3, 5, softmax_cross_entropy)
    for window, result in zip(expected, trainer.run(ids[:-1], ids[1:]), strict=True):
        assert result.loss == pytest.approx(window.loss, rel=1e-12)
    for name, value in expected[-1].params.items():
        assert_close(model.params[name], value, 1e-11)


@pytest.mark.parametrize("kind", FUSED)
def test_one_window_is_full_bptt_bitwise(kind):
    model, by_hand = (make(kind, np.float32, num_layers=2) for _ in range(2))
    x, target = data(dtype=np.float32)
    given = masks()
    trainer = TBPTT(model, mean_squared_error, Adam(model.params, 0.01), k1=T, k2=T)
    optimizer = Adam(by_hand.params, 0.01)
    state = None
    for _ in range(3):
        (result,) = trainer.run(x, target, **given)
        y, state, tape = by_hand.forward(x, state, lengths=given["lengths"], resets=given["resets"])
        loss, dy = mean_squared_error(y, target, mask=given["mask"], lengths=given["lengths"])
        optimizer.step(by_hand.backward(tape, dy, input_gradient=False).params)
        assert result.loss == loss
        assert_same_bits(np.array(model.params.flat), np.array(by_hand.params.flat))
        assert_same(result.state, state)
    assert_same(trainer.state, state)


@pytest.mark.parametrize(("k1", "k2"), [(4, 7), (4, 8), (3, 11), (1, 6)])
def test_every_cut_gives_the_same_gradient(k1, k2):
    """Without learning, a window's gradient is that of one uncut pass over [e - k2, e) from the state there."""
    model = make("gru_after", np.float32, num_layers=2)
    x, target = data(dtype=np.float32)
    trainer = trainer_of(model, k1, k2, lr=0.0)
    seen = []
    trainer._optimizer.step = lambda gradients: seen.append(gradients.flat.copy())
    results = list(trainer.run(x, target))
    for window, flat in enumerate(seen):
        begin, end = window * k1, min(window * k1 + k1, T)
        start = max(0, end - k2)
        state = model(x[:start])[1]
        y, _, tape = model.forward(x[start:end], state)
        loss, d = mean_squared_error(y[begin - start :], target[begin:end])
        dy = np.zeros_like(y)
        dy[begin - start :] = d
        assert loss == results[window].loss
        np.testing.assert_allclose(model.backward(tape, dy).params.flat, flat, rtol=1e-5, atol=1e-7)


def test_the_number_of_threads_changes_nothing():
    models = [make("lstm", np.float32, num_layers=2) for _ in range(3)]
    x, target = data(40, dtype=np.float32)
    for threads, model in enumerate(models, 1):
        list(trainer_of(model, 4, 7, num_threads=threads).run(x, target))
        assert_same_bits(np.array(model.params.flat), np.array(models[0].params.flat))


# Windows, states, resets


def test_steps_are_what_run_does():
    one, two = make(), make()
    x, target = data()
    first, second = trainer_of(one, 4, 7), trainer_of(two, 4, 7)
    results = list(first.run(x, target))
    for start in range(0, T, 4):
        stop = min(start + 4, T)
        result = second.step(x[start:stop], target[start:stop], following=min(4, T - stop) or None)
        assert result[:3] == results[start // 4][:3]
    assert_same_bits(np.array(one.params.flat), np.array(two.params.flat))


def test_windows_may_be_overwritten_once_they_are_trained():
    one, two = make(), make()
    x, target = data(12)
    list(trainer_of(one, 4, 10).run(x, target))
    trainer, buffer = trainer_of(two, 4, 10), np.empty((4, B, I))
    for start in range(0, 12, 4):
        buffer[...] = x[start : start + 4]
        trainer.step(buffer, target[start : start + 4])
        buffer[...] = np.nan
    assert_same_bits(np.array(one.params.flat), np.array(two.params.flat))


def test_a_long_run_can_be_made_in_parts():
    one, two = make(), make()
    x, target = data(24)
    list(trainer_of(one, 4, 7).run(x, target))
    trainer = trainer_of(two, 4, 7)
    list(trainer.run(x[:12], target[:12]))
    list(trainer.run(x[12:], target[12:]))
    assert_same_bits(np.array(one.params.flat), np.array(two.params.flat))


@pytest.mark.parametrize(("k1", "k2"), [(4, 4), (4, 7), (4, 12)])
def test_reset_rows_equals_resets_at_the_next_step(k1, k2):
    one, two = make("lstm"), make("lstm")
    x, target = data(16)
    by_call, by_mask = trainer_of(one, k1, k2), trainer_of(two, k1, k2)
    chosen = {4: [1, 3], 12: np.array([True, False, False, True])}
    for start in range(0, 16, 4):
        window, goal = x[start : start + 4], target[start : start + 4]
        resets = np.zeros((4, B), bool)
        if start in chosen:
            by_call.reset(chosen[start])
            resets[0, chosen[start]] = True
            assert not any(array[:, chosen[start]].any() for array in leaves(by_call.state))
        by_mask.step(window, goal, resets=resets)
        by_call.step(window, goal)
        assert_same_bits(np.array(one.params.flat), np.array(two.params.flat))
        assert_same(by_call.state, by_mask.state)


@pytest.mark.parametrize("k2", [4, 7])
def test_reset_waits_for_a_row_that_pauses(k2):
    model = make()
    x, target = data(12)
    trainer = trainer_of(model, 4, k2)
    trainer.step(x[:4], target[:4])
    trainer.reset(2)
    paused = trainer.step(x[4:8], target[4:8], lengths=[4, 4, 0, 4])
    assert not any(array[:, 2].any() for array in leaves(paused.state))
    assert all(array[:, 1].any() for array in leaves(paused.state))
    after = copy.deepcopy(trainer.state_dict())
    alone = make()
    alone.load(dict(model.params))
    goes_on = trainer.step(x[8:], target[8:])
    for array, expected in zip(leaves(goes_on.state), leaves(alone(x[8:, 2:3])[1]), strict=True):
        assert_same_bits(array[:, 2:3].copy(), expected)
    assert after["state"] is not None


def test_reset_forgets_everything():
    one, two = make(), make()
    x, target = data()
    trainer = trainer_of(one, 4, 7, lr=0.0)
    list(trainer.run(x, target))
    trainer.reset()
    assert trainer.state is None
    results = [result.loss for result in trainer.run(x[:, :2], target[:, :2])]  # another batch size is fine now
    fresh = trainer_of(two, 4, 7, lr=0.0)
    assert results == [result.loss for result in fresh.run(x[:, :2], target[:, :2])]


def test_the_state_can_be_set():
    model = make(dtype=np.float32)
    x, target = data(8, dtype=np.float32)
    state = model(x[:4])[1]
    trainer = trainer_of(model, 4, 7, lr=0.0)
    list(trainer.run(x, target))
    trainer.state = state
    state["rnn"][0][...] = 7  # the trainer has its own copy
    result = trainer.step(x[4:], target[4:])
    assert_same(result.state, model(x)[1])


@pytest.mark.parametrize("k2", [4, 9])
def test_rows_that_end_and_go_on(k2):
    """Windows whose rows pause give the gradients of the rows alone, which have no pauses."""
    lengths = [np.array([4, 2, 0, 3]), np.array([4, 4, 1, 0]), np.array([3, 4, 4, 4])]
    x, target = data(12)
    model = make()
    trainer = trainer_of(model, 4, k2, partial(mean_squared_error, reduction="sum"), lr=0.0)
    seen = []
    trainer._optimizer.step = lambda gradients: seen.append(gradients.flat.copy())
    for window, counts in enumerate(lengths):
        part = slice(4 * window, 4 * window + 4)
        trainer.step(x[part], target[part], lengths=counts)
    start = max(0, 12 - k2)
    expected = np.zeros_like(seen[-1])
    for row in range(B):
        steps = [4 * window + t for window in range(3) for t in range(lengths[window][row])]
        before = [t for t in steps if t < start]
        taken = [t for t in steps if t >= start]
        state = model(x[before, row : row + 1])[1]
        y, _, tape = model.forward(x[taken, row : row + 1], state)
        own = np.array([t >= 8 for t in taken])
        _, d = mean_squared_error(y, target[taken, row : row + 1], mask=own[:, None], reduction="sum")
        expected += model.backward(tape, d).params.flat
    assert_close(seen[-1], expected, 1e-12)


def test_nothing_beyond_the_lengths_is_read():
    one, two = make(), make()
    x, target = data()
    given = masks()
    list(trainer_of(one, 4, 7).run(x, target, **given))
    ended = np.arange(T)[:, None] >= given["lengths"]
    x[ended], target[ended], given["mask"][ended] = np.nan, np.nan, np.nan
    list(trainer_of(two, 4, 7).run(x, target, **given))
    assert np.isfinite(two.params.flat).all()
    assert_same_bits(np.array(one.params.flat), np.array(two.params.flat))


def test_batch_first_is_the_same_training():
    one, two = make("gru_after", num_layers=2), make("gru_after", num_layers=2, batch_first=True)
    x, target = data()
    given = masks()
    list(trainer_of(one, 4, 7).run(x, target, **given))
    swapped = {name: value if name == "lengths" else value.T for name, value in given.items()}
    list(trainer_of(two, 4, 7).run(x.swapaxes(0, 1), target.swapaxes(0, 1), **swapped))
    assert_close(two.params.flat, one.params.flat, 1e-13)


def test_a_bare_layer_and_a_loss_of_ones_own():
    layer = GRU(I, H, dtype=np.float64, rng=0)
    x, _ = data(6)
    calls = []

    def loss(y, target):
        calls.append(y.shape)
        return float(y.sum()), np.ones_like(y)

    trainer = TBPTT(layer, loss, SGD(layer.params, 0.0), k1=4)
    first, second = trainer.run(x, np.zeros((6, B)))
    y, state = layer(x)
    assert calls == [(4, B, H), (2, B, H)]
    assert first.loss + second.loss == pytest.approx(y.sum())
    assert_same_bits(trainer.state, state)


def test_logits_are_for_losses_that_take_them():
    def build(activation):
        return Model(rnn=LSTM(4, H, rng=1), head=Dense(H, 4, activation=activation, rng=2))

    ids = np.random.default_rng(0).integers(0, 4, (9, B))
    one, two = build("softmax"), build("identity")
    list(trainer_of(one, 4, loss=softmax_cross_entropy, logits=True).run(ids[:-1], ids[1:]))
    list(trainer_of(two, 4, loss=softmax_cross_entropy).run(ids[:-1], ids[1:]))
    assert_same_bits(np.array(one.params.flat), np.array(two.params.flat))


def test_clipping():
    x, target = data(4)
    model = make()
    before = model.params.flat.copy()
    result = trainer_of(model, 4, lr=1.0, clip_norm=1e-3).step(x, target)
    assert result.grad_norm > 1e-3
    assert np.linalg.norm(model.params.flat - before) == pytest.approx(1e-3, rel=1e-2)
    model = make()
    trainer_of(model, 4, lr=1.0, clip_value=1e-4).step(x, target)
    assert np.abs(model.params.flat - before).max() == pytest.approx(1e-4)


# Gradients that are not finite, and windows without targets


def everything(model, optimizer, trainer):
    """All that a step changes, as copies."""
    return copy.deepcopy((dict(model.params), optimizer.state_dict(), trainer.state_dict()))


def poisoned(where, value=np.nan):
    """Two windows of data, the second with a number in it that is not finite."""
    x, target = data(8)
    (x if where == "x" else target)[5, 1, 0] = value
    return x, target


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}, {"clip_value": 0.1}])
@pytest.mark.parametrize("k2", [4, 7])
@pytest.mark.parametrize(
    ("where", "message"), [("x", r"x: .* got nan at \[1, 1, 0\]"), ("target", "the loss's gradient: .* got nan at")]
)
def test_a_gradient_that_is_not_finite_is_refused(where, message, k2, clip):
    model, twin = make(), make()
    optimizer = Adam(model.params, 0.01)
    trainer = TBPTT(model, mean_squared_error, optimizer, k1=4, k2=k2, **clip)
    other = TBPTT(twin, mean_squared_error, Adam(twin.params, 0.01), k1=4, k2=k2, **clip)
    x, target = poisoned(where)
    for one in (trainer, other):
        one.step(x[:4], target[:4])
    before = everything(model, optimizer, trainer)
    with pytest.raises(NonFiniteError, match=rf"^{message}.* in window 1 of this trainer") as caught:
        trainer.step(x[4:], target[4:])
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FloatingPointError)
    assert_same(everything(model, optimizer, trainer), before)
    x, target = data(8)
    for one in (trainer, other):
        one.step(x[4:], target[4:])
    assert_same_bits(np.array(model.params.flat), np.array(twin.params.flat))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model, trainer: model.update({"head.bias": [0, np.inf]}), r"head.bias: .* got inf at \[1\]"),
        (
            lambda model, trainer: setattr(
                trainer, "state", {"rnn": (np.full((1, B, H), np.nan), np.zeros((1, B, H)))}
            ),
            r"state: .* got nan at \[0, 0, 0\]",
        ),
        (
            lambda model, trainer: setattr(trainer, "_loss", lambda y, target: (0.0, np.full_like(y, 1e308))),
            "the gradient of .* got -?(inf|nan)",
        ),
    ],
)
def test_the_error_names_the_first_array_that_is_not_finite(spoil, message):
    model = make()
    trainer = trainer_of(model, 4)
    spoil(model, trainer)
    with pytest.raises(NonFiniteError, match=message):
        trainer.step(*data(4))


def test_what_lies_beyond_the_lengths_is_not_blamed():
    x, target = data(4)
    x[2:, 0], target[0, 0, 0] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match=r"^the loss's gradient"):
        trainer_of(make(), 4).step(x, target, lengths=[2, 4, 4, 4])


@pytest.mark.parametrize("k2", [4, 7])
def test_skipped_windows_leave_no_trace(k2):
    model, twin = make(), make()
    optimizer = Adam(model.params, 0.01)
    trainer = TBPTT(model, mean_squared_error, optimizer, k1=4, k2=k2, nonfinite="skip")
    other = TBPTT(twin, mean_squared_error, Adam(twin.params, 0.01), k1=4, k2=k2)
    x, target = poisoned("x", np.inf)
    first = trainer.step(x[:4], target[:4])
    before = everything(model, optimizer, trainer)
    results = [trainer.step(x[4:], target[4:]) for _ in range(2)]
    assert [(result.updated, result.skipped) for result in [first, *results]] == [(True, 0), (False, 1), (False, 2)]
    assert not any(np.isfinite(result.grad_norm) for result in results)
    assert_same(results[-1].state, first.state)
    assert_same(everything(model, optimizer, trainer), before)
    x, target = data(8)
    other.step(x[:4], target[:4])
    last = trainer.step(x[4:], target[4:])
    other.step(x[4:], target[4:])
    assert (last.updated, last.skipped) == (True, 2)
    assert_same_bits(np.array(model.params.flat), np.array(twin.params.flat))
    trainer.reset()
    assert trainer.step(x[4:], target[4:]).skipped == 2


@pytest.mark.parametrize("k2", [4, 7])
@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_that_begin_in_a_skipped_window_begin_anew(k2, batch_first):
    """Row 0 began a sequence in it, row 1 would have, but beyond its length; the others go on from before."""
    layers = [LSTM(I, O, dtype=np.float64, rng=0, batch_first=batch_first) for _ in range(2)]
    x, target = poisoned("x")
    resets = np.zeros((4, B), bool)
    resets[2, 0] = resets[3, 1] = True
    trainer = trainer_of(layers[0], 4, k2, nonfinite="skip")
    other = trainer_of(layers[1], 4, k2)

    def arrange(array):
        return array.swapaxes(0, 1) if batch_first else array

    for one in (trainer, other):
        one.step(arrange(x[:4]), arrange(target[:4]))
    trainer.step(arrange(x[4:]), arrange(target[4:]), resets=arrange(resets), lengths=[4, 3, 4, 4])
    other.reset([0])
    assert_same(trainer.state, other.state)
    x, target = data(8)
    for one in (trainer, other):
        one.step(arrange(x[4:]), arrange(target[4:]))
    assert_same(trainer.state, other.state)
    assert_same_bits(np.array(layers[0].params.flat), np.array(layers[1].params.flat))


def test_applied_is_what_is_asked_for():
    model = make()
    x, target = poisoned("target", np.inf)
    result = trainer_of(model, 4, clip_norm=1.0, nonfinite="apply").step(x[4:], target[4:])
    assert not np.isfinite(result.grad_norm)
    assert (result.updated, result.skipped) == (True, 0)
    assert not np.isfinite(model.params.flat).all()


@pytest.mark.parametrize("options", [{}, {"nonfinite": "apply"}, {"nonfinite": "skip"}])
@pytest.mark.parametrize("masked", [{"mask": np.zeros((4, B))}, {"lengths": np.zeros(B, int)}])
def test_a_window_without_targets_moves_no_parameter(masked, options):
    model = make()
    optimizer = Adam(model.params, 0.01, weight_decay=0.1)
    trainer = TBPTT(model, mean_squared_error, optimizer, k1=4, **options)
    x, target = data(8)
    trainer.step(x[:4], target[:4])
    params, kept = model.params.flat.copy(), optimizer.state_dict()
    expected = model(x[4:], trainer.state, lengths=masked.get("lengths"))[1]
    result = trainer.step(x[4:], target[4:], **masked)
    assert (result.loss, result.grad_norm, result.updated, result.skipped) == (0.0, 0.0, False, 0)
    assert_same_bits(model.params.flat.copy(), params)
    assert_same(optimizer.state_dict(), kept)
    assert_same(trainer.state, expected)  # time goes on
    assert trainer.step(x[4:], target[4:], mask=np.eye(4, B)).updated


def test_a_gradient_of_zero_is_an_update_where_there_are_targets():
    model = make()
    optimizer = SGD(model.params, 0.1, weight_decay=0.5)
    trainer = TBPTT(model, lambda y, target: (0.0, np.zeros_like(y)), optimizer, k1=4)
    before = model.params.flat.copy()
    assert trainer.step(*data(4)).updated
    assert_close(model.params.flat, before * 0.95, 1e-12)


# Memory and checkpoints


@pytest.mark.parametrize(("k1", "k2"), [(4, 4), (4, 7), (3, 20), (1, 20)])
def test_memory_is_bounded_by_k2_and_reused(k1, k2):
    model = make(num_layers=2)
    x, target = data(200)
    trainer = trainer_of(model, k1, k2)

    def held():
        context = sum(piece.x.nbytes for piece in trainer._carried.context)
        tapes = [(id(tape), tape.nbytes) for tape in trainer._tapes]
        assert context <= (k2 - 1) * B * I * 8
        return context, tapes, id(trainer._gradients.flat)

    sizes = [held() for _ in trainer.run(x, target)]
    early = [size for size in sizes[k2 : k2 + 5]]
    assert sizes[-10:-5] == early  # the run's end is ragged and may be cut elsewhere
    assert len(trainer._tapes) <= 3


@pytest.mark.parametrize(("k1", "k2"), [(4, 4), (4, 7), (4, 12)])
def test_state_dict_round_trip(k1, k2):
    model = make(num_layers=2, dropout=0.0)
    x, target = data(24)
    given = masks(24) | {"lengths": None}
    trainer = trainer_of(model, k1, k2)
    halves = [slice(0, 12), slice(12, 24)]
    first, second = ({name: None if v is None else v[part] for name, v in given.items()} for part in halves)
    list(trainer.run(x[:12], target[:12], **first))
    trainer.reset([1])
    carried, params = trainer.state_dict(), {name: value.copy() for name, value in model.params.items()}
    expected = [result.loss for result in trainer.run(x[12:], target[12:], **second)]

    other = make(num_layers=2)
    other.load(params)
    resumed = trainer_of(other, k1, k2)
    resumed.load_state_dict(carried)
    assert [result.loss for result in resumed.run(x[12:], target[12:], **second)] == expected
    assert_same_bits(np.array(other.params.flat), np.array(model.params.flat))


def test_state_dict_of_another_trainer():
    x, target = data(8)
    trainer = trainer_of(make(), 4, 8)
    list(trainer.run(x, target))
    with pytest.raises(ValueError, match="state_dict: expected a context of less than k2 = 4"):
        trainer_of(make(), 4).load_state_dict(trainer.state_dict())
    with pytest.raises(ValueError, match="state_dict: expected the keys"):
        trainer.load_state_dict({})


def test_a_state_dict_that_is_none_changes_nothing():
    x, target = data(10)
    trainer, other = trainer_of(make(), 4, 8), trainer_of(make(), 4, 8)
    for one in (trainer, other):
        list(one.run(x[:6], target[:6]))
        one.reset([1])
    good = trainer.state_dict()
    for bad, message in [
        (None, "state_dict: expected a mapping"),
        (good | {"context": None}, "context: expected a list"),
        (good | {"context": [x]}, "context: expected a mapping"),
        (good | {"context": [{"x": x}]}, "context: expected the keys"),
        (good | {"restart": np.ones(B)}, "restart: expected booleans"),
        (good | {"restart": np.ones(B + 1, bool)}, r"restart: expected shape \[B\] \[4\]"),
        (good | {"state": np.zeros(H)}, r"state: expected arrays \[L, B, H\]"),
        (good | {"start_state": "zeros"}, "state: expected an array of real numbers"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            trainer.load_state_dict(bad)
    assert_same(trainer.step(x[6:], target[6:]).state, other.step(x[6:], target[6:]).state)


@pytest.mark.parametrize("bad", [memoryview(b"1234"), types, (i for i in range(3)), object(), [[1, [2]]], b"zeros"])
def test_what_is_no_array_of_numbers_is_refused(bad):
    x, target = data(10)
    trainer, other = trainer_of(make(), 4, 8), trainer_of(make(), 4, 8)
    for one in (trainer, other):
        list(one.run(x[:6], target[:6]))
        one.reset([1])
    good = trainer.state_dict()
    piece = good["context"][0]
    for argument, call in [
        ("state", lambda: setattr(trainer, "state", bad)),
        ("state", lambda: setattr(trainer, "state", {"rnn": (bad, bad)})),
        ("rows", lambda: trainer.reset([bad])),
        ("state", lambda: trainer.load_state_dict(good | {"state": {"rnn": (bad, bad)}})),
        ("start_state", lambda: trainer.load_state_dict(good | {"start_state": bad})),
        ("restart", lambda: trainer.load_state_dict(good | {"restart": bad})),
        ("x", lambda: trainer.load_state_dict(good | {"context": [piece | {"x": bad}]})),
        ("resets", lambda: trainer.load_state_dict(good | {"context": [piece | {"resets": bad}]})),
        ("lengths", lambda: trainer.load_state_dict(good | {"context": [piece | {"lengths": bad}]})),
    ]:
        with pytest.raises((TypeError, ValueError), match=rf"^{argument}: expected"):
            call()
    assert_same(trainer.step(x[6:], target[6:]).state, other.step(x[6:], target[6:]).state)


@pytest.mark.parametrize("bad", [2**64 - 1, 2**63, -(2**63) - 1, 2**200, [2**64 - 1], [2**200], -B - 1])
def test_row_numbers_beyond_every_integer(bad):
    trainer = trainer_of(make(), 4)
    state = trainer.step(*data(4)).state
    with pytest.raises(ValueError, match=r"^rows: expected row numbers below 4"):
        trainer.reset(bad)
    assert_same(trainer.state, state)


def test_a_state_of_another_kind_is_refused_when_it_is_set():
    x, target = data(4)
    trainer = trainer_of(make(), 4)
    carried = trainer.step(x, target).state
    for bad in (np.zeros(H), {"rnn": 1.0}, {"rnn": (np.zeros((B, H)), np.zeros((B, H)))}, "zeros", object()):
        with pytest.raises((TypeError, ValueError), match=r"^state: expected"):
            trainer.state = bad
    assert_same(trainer.state, carried)


@pytest.mark.parametrize("result", [None, 1.0, (1.0,), (1.0, 2.0, 3.0), np.zeros((4, B, O))])
def test_a_loss_must_return_its_gradient_too(result):
    model = make()
    before = model.params.flat.copy()
    x, target = data(4)
    with pytest.raises(TypeError, match=r"loss: expected it to return \(loss, gradient\), got"):
        trainer_of(model, 4, loss=lambda y, target: result).step(x, target)
    assert_same_bits(model.params.flat, before)


# What does not fit


def test_constructor_arguments():
    model, layer = make(), LSTM(I, H, bidirectional=True)
    for error, message, call in [
        (ValueError, "k1: expected an integer of at least 1", lambda: trainer_of(model, 0)),
        (TypeError, "k1: expected an integer", lambda: trainer_of(model, 2.0)),
        (ValueError, "k2: expected at least k1 = 4, got 3", lambda: trainer_of(model, 4, 3)),
        (TypeError, "loss: expected a callable", lambda: trainer_of(model, 4, loss="mse")),
        (TypeError, "model: expected a Model", lambda: TBPTT(Dense(2, 2), max, None, k1=4)),
        (ValueError, "model: expected layers that only run forwards", lambda: trainer_of(layer, 4)),
        (ValueError, "optimizer: expected one on model.params", lambda: TBPTT(model, max, SGD(layer.params, 1), k1=4)),
        (ValueError, "clip_norm: expected a number > 0", lambda: trainer_of(model, 4, clip_norm=0)),
        (ValueError, "clip_value: expected a finite number", lambda: trainer_of(model, 4, clip_value=np.nan)),
        (TypeError, "clip_norm: expected a real number", lambda: trainer_of(model, 4, clip_norm="1")),
        (TypeError, "clip_norm: expected a real number", lambda: trainer_of(model, 4, clip_norm=True)),
        (
            ValueError,
            "nonfinite: expected one of 'raise', 'skip', 'apply'",
            lambda: trainer_of(model, 4, nonfinite="no"),
        ),
        (TypeError, "nonfinite: expected one of", lambda: trainer_of(model, 4, nonfinite=None)),
        (TypeError, "logits: expected True or False", lambda: trainer_of(model, 4, logits="no")),
        (TypeError, "optimizer: expected an optimiser", lambda: TBPTT(model, max, None, k1=4)),
        (ValueError, "num_threads: expected an integer", lambda: trainer_of(model, 4, num_threads=0)),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_a_failed_step_changes_nothing():
    model, twin = make(), make()
    x, target = data(12)
    trainer, other = trainer_of(model, 4, 7), trainer_of(twin, 4, 7)
    trainer.step(x[:4], target[:4])
    other.step(x[:4], target[:4])
    before = model.params.flat.copy()
    window, goal = x[4:8], target[4:8]
    for error, message, arguments in [
        (ValueError, "x: expected 1 to k1 = 4 steps, got 5", (x[4:9], target[4:9])),
        (ValueError, "x: expected 1 to k1 = 4 steps, got 0", (x[:0], target[:0])),
        (ValueError, "x: expected 4 rows, as the carried state has, got 3", (window[:, :3], goal[:, :3])),
        (ValueError, "x: expected three axes, or integer ids", (window[0], goal)),
        (ValueError, "x: expected", (window[..., :2], goal)),
        (ValueError, "target: expected", (window, goal[:3])),
        (TypeError, "x: expected an array of real numbers", (window.astype(complex), goal)),
        (ValueError, "mask: expected shape", (window, goal, {"mask": np.ones((3, B))})),
        (ValueError, "lengths: expected values in", (window, goal, {"lengths": [5] * B})),
        (TypeError, "resets: expected booleans", (window, goal, {"resets": np.ones((4, B))})),
        (ValueError, "following: expected", (window, goal, {"following": 0})),
    ]:
        keywords = arguments[2] if len(arguments) == 3 else {}
        with pytest.raises(error, match=message):
            trainer.step(*arguments[:2], **keywords)
        assert_same_bits(model.params.flat.copy(), before)
    with pytest.raises(ValueError, match="targets: expected leading axes"):
        trainer.run(x, target[:5])
    with pytest.raises(ValueError, match="mask: expected leading axes"):
        trainer.run(x, target, mask=np.ones((2, B)))
    with pytest.raises(ValueError, match="rows: expected row numbers below 4"):
        trainer.reset([4])
    with pytest.raises(ValueError, match="rows: expected row numbers below 4"):
        trainer.reset(0.5)
    list(trainer.run(x[4:], target[4:]))
    list(other.run(x[4:], target[4:]))
    assert_same_bits(np.array(model.params.flat), np.array(twin.params.flat))


def test_a_gradient_of_the_wrong_shape():
    trainer = trainer_of(make(), 4, loss=lambda y, target: (0.0, y[..., :1]))
    with pytest.raises(ValueError, match="the loss's gradient: expected shape"):
        trainer.step(*data(4))


# Stateful batches


@pytest.mark.parametrize(("size", "rows", "k1"), [(101, 4, 6), (101, 1, 100), (101, 100, 3), (25, 4, 3), (9, 4, 5)])
def test_stateful_batches_cover_the_stream(size, rows, k1):
    stream = np.arange(size)
    batches = stateful_batches(stream, rows, k1)
    length = (size - 1) // rows
    assert len(batches) == -(-length // k1)
    x, target = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(x.T, stream[: rows * length].reshape(rows, length))
    np.testing.assert_array_equal(target, x + 1)
    assert [len(window) for window, _ in batches][:-1] == [k1] * (len(batches) - 1)
    assert 1 <= len(batches[-1][0]) <= k1
    np.testing.assert_array_equal(batches[0][0], x[:k1])


@pytest.mark.parametrize("features", [(), (3,)])
def test_stateful_batches_of_either_layout(features):
    stream = np.random.default_rng(0).standard_normal((50, *features))
    for (x, target), (x_first, target_first) in zip(
        stateful_batches(stream, 4, 5), stateful_batches(stream, 4, 5, batch_first=True), strict=True
    ):
        assert_same_bits(x_first, x.swapaxes(0, 1).copy())
        assert_same_bits(target_first, target.swapaxes(0, 1).copy())
        assert x_first.flags.c_contiguous
        assert target_first.flags.c_contiguous


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("rows", [2, 4, 6])
def test_a_trainers_batches_have_its_layout(batch_first, rows):
    """The rows are fewer than k1, as many, or more: no shape gives it away where they are as many."""
    stream = np.random.default_rng(0).standard_normal((61, I))
    trained = []
    for first in (batch_first, False):
        layer = LSTM(I, I, dtype=np.float64, rng=0, batch_first=first)
        trainer = trainer_of(layer, 4)
        for x, target in trainer.batches(stream, rows):
            trainer.step(x, target)
        assert trainer.state[0].shape == (1, rows, I)
        trained.append(layer.params.flat)
    assert_close(*trained, 1e-13)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("rows", "message"), [(2, "looks as if its axes"), (3, "looks as if"), (6, "expected 1 to k1")]
)
def test_windows_of_the_other_layout_are_refused(batch_first, rows, message):
    stream = np.random.default_rng(0).standard_normal((121, I))
    layer = LSTM(I, I, dtype=np.float64, rng=0, batch_first=batch_first)
    before = layer.params.flat.copy()
    trainer = trainer_of(layer, 4)
    windows = stateful_batches(stream, rows, 4, batch_first=not batch_first)
    with pytest.raises(ValueError, match=f"x: .*{message}"):
        trainer.step(*windows[0])
    assert_same_bits(layer.params.flat.copy(), before)
    assert trainer.state is None


def test_windows_of_the_other_layout_can_be_told_by_the_carried_state():
    """With as many rows as steps the first windows pass; the shorter one at the end does not."""
    stream = np.random.default_rng(0).standard_normal((59, I))
    layer = LSTM(I, I, dtype=np.float64, rng=0, batch_first=True)
    trainer = trainer_of(layer, 4)
    *windows, last = stateful_batches(stream, 4, 4)
    for window in windows:
        trainer.step(*window)
    with pytest.raises(ValueError, match=r"x: expected 4 rows.*got 2 in shape \[2, 4, 3\], which is \[B, T, ...\]"):
        trainer.step(*last)


def test_a_short_first_window_is_welcome_where_its_rows_are_known():
    x, target = data(2)
    for known in ({"lengths": [2, 1, 2, 0]}, {}):
        trainer = trainer_of(make(), 4)
        if not known:
            trainer.state = {"rnn": tuple(np.zeros((1, B, H)) for _ in range(2))}
        assert trainer.step(x, target, **known).steps == 2
    assert trainer_of(make(), 3).step(x, target).steps == 2
    assert [result.steps for result in trainer_of(make(), 2).run(x[:1], target[:1])] == [1]


def test_stateful_batches_of_features():
    stream = np.random.default_rng(0).standard_normal((50, 3))
    (x, target), *_ = stateful_batches(stream, 4, 5)
    assert x.shape == target.shape == (5, 4, 3)
    assert_same_bits(target[:-1], x[1:])


def test_stateful_batches_arguments():
    with pytest.raises(ValueError, match=r"stream: expected more than batch_size = 4 elements, got shape \[4\]"):
        stateful_batches(np.arange(4), 4, 2)
    with pytest.raises(ValueError, match="batch_size: expected"):
        stateful_batches(np.arange(4), 0, 2)
    with pytest.raises(ValueError, match="k1: expected"):
        stateful_batches(np.arange(4), 1, 0)
    with pytest.raises(TypeError, match="batch_first: expected True or False"):
        stateful_batches(np.arange(4), 1, 1, batch_first=1)
    with pytest.raises(IndexError):
        stateful_batches(np.arange(9), 1, 4)[2]


def test_frozen_parameters_do_not_count_in_the_norm():
    """Clipped to the norm of what learns: the step of an optimiser that has no frozen part is another."""
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    norms = []
    for groups in (None, {"rnn.*": {"frozen": True}}):
        model = Model(rnn=GRU(3, 4, rng=0), head=Dense(4, 2, rng=1))
        before = model.params.flat.copy()
        optimizer = SGD(model.params, 1.0, groups=groups)
        trainer = TBPTT(model, mean_squared_error, optimizer, k1=5, clip_norm=1e-3)
        result = trainer.step(x, np.ones((5, 2, 2), np.float32))
        norms.append(result.grad_norm)
        moved = model.params.flat - before
        assert np.isclose(np.linalg.norm(moved), 1e-3, rtol=1e-2)
        assert groups is None or not moved[: model.parts["rnn"].params.size].any()
    assert norms[1] < norms[0]
