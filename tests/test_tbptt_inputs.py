"""Windows with extra inputs and with seeds, against calls of the layer over the same steps."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast import GRU, GRUD, LSTM, TBPTT, CfC, Dense, Model, losses, optim

T, B, I, H = 9, 3, 2, 5  # noqa: E741
RNG = np.random.default_rng(0)
X, TARGET = RNG.standard_normal((T, B, I)), RNG.standard_normal((T, B, H))
GIVEN = {
    "grud": {"mask": (RNG.random((T, B, I)) < 0.7).astype(float), "delta": RNG.random((T, B, I))},
    "cfc": RNG.random((T, B)),
}
LAYERS = {"grud": GRUD, "cfc": CfC}


def made(kind, **options):
    options |= {"features": I} if kind == "grud" else {}
    return LAYERS[kind](I, H, dtype=np.float64, rng=0, **options)


def given_of(kind):
    """By the cell's own names."""
    names = [one.name for one in made(kind)._recurrence.layout.program.given]
    given = GIVEN[kind]
    return dict(zip(names, given.values(), strict=True)) if isinstance(given, dict) else given


def cut(given, start, stop, *, swap=False):
    def one(array):
        part = array[start:stop]
        return part.swapaxes(0, 1) if swap else part

    return {name: one(array) for name, array in given.items()} if isinstance(given, dict) else one(given)


def trainer_of(layer, k1, k2=None, lr=0.1):
    return TBPTT(layer, losses.mean_squared_error, optim.SGD(layer.params, lr), k1=k1, k2=k2)


def by_hand(layer, given, k1, k2, lr=0.1):
    """Truncated BPTT over whole passes: losses, and the parameters at the end."""
    starts, found = {0: None}, []
    for begin in range(0, T, k1):
        end = min(begin + k1, T)
        start = max(0, end - k2)
        y, _, tape = layer.forward(X[start:end], starts[start], given=cut(given, start, end))
        for later in range(start, end + 1):
            if later > start:
                starts[later] = layer(X[start:later], starts[start], given=cut(given, start, later))[1]
        loss, d = losses.mean_squared_error(y[begin - start :], TARGET[begin:end])
        dy = np.zeros_like(y)
        dy[begin - start :] = d
        grads = layer.backward(tape, dy).params
        with layer.params.writing() as flat:
            flat -= lr * grads.flat
        found.append(loss)
    return found, layer.params.flat.copy()


@pytest.mark.parametrize(("k1", "k2"), [(9, 9), (3, 3), (3, 5), (2, 4), (4, 4)])
@pytest.mark.parametrize("kind", LAYERS)
def test_extra_inputs_are_cut_and_repeated_with_x(kind, k1, k2):
    given = given_of(kind)
    expected, params = by_hand(made(kind), given, k1, k2)
    for batch_first in (False, True):
        swap = (lambda array: array.swapaxes(0, 1)) if batch_first else np.asarray
        layer = made(kind, batch_first=batch_first)
        results = list(trainer_of(layer, k1, k2).run(swap(X), swap(TARGET), given=cut(given, 0, T, swap=batch_first)))
        np.testing.assert_allclose([one.loss for one in results], expected, rtol=1e-10)
        np.testing.assert_allclose(layer.params.flat, params, rtol=1e-8, atol=1e-12)


def test_extra_inputs_of_models_by_their_layers():
    given = given_of("grud")
    found = []
    for wrapped in (False, True):
        layer = made("grud")
        model = Model(rnn=layer, head=Dense(H, H, dtype=np.float64, rng=1)) if wrapped else None
        trainer = trainer_of(model or layer, 3, 5)
        told = {"rnn": given} if wrapped else given
        results = list(trainer.run(X, TARGET, given=told))
        assert len(results) == 3
        found.append(trainer.state_dict()["context"][0]["given"])
    for name in given:
        np.testing.assert_array_equal(found[1]["rnn"][name], found[0][name])


def test_a_trainer_goes_on_with_extra_inputs_and_seeds():
    given = given_of("cfc")
    layer = CfC(I, H, zoneout=0.3, dtype=np.float64, rng=0)
    trainer = trainer_of(layer, 2, 5)
    for start in (0, 2):
        trainer.step(X[start : start + 2], TARGET[start : start + 2], given=given[start : start + 2], seed=7)
    other_layer = CfC(I, H, zoneout=0.3, dtype=np.float64, rng=0)
    other_layer.load(layer.params)
    other = trainer_of(other_layer, 2, 5)
    other.load_state_dict(trainer.state_dict())
    for one in (trainer, other):
        one.step(X[4:6], TARGET[4:6], given=given[4:6], seed=7)
    np.testing.assert_array_equal(layer.params.flat, other_layer.params.flat)
    old = {name: value for name, value in trainer.state_dict().items() if name != "steps"}
    for piece in old["context"]:
        del piece["given"]
    trainer_of(CfC(I, H, rng=0), 2, 5).load_state_dict(old)  # of a version that knew neither


@pytest.mark.parametrize(("k1", "k2"), [(9, 9), (3, 3), (2, 5), (1, 4)])
@pytest.mark.parametrize("options", [{"zoneout": 0.4}, {"recurrent_dropout": 0.5}], ids=["zoneout", "dropout"])
def test_windows_of_one_seed_have_the_masks_of_the_whole(options, k1, k2):
    layer = LSTM(I, H, dtype=np.float64, rng=0, **options)
    y, _, _ = layer.forward(X, seed=5)
    expected = [losses.mean_squared_error(y[t : t + k1], TARGET[t : t + k1])[0] for t in range(0, T, k1)]
    trainer = trainer_of(layer, k1, k2, lr=0.0)
    np.testing.assert_array_equal([one.loss for one in trainer.run(X, TARGET, seed=5)], expected)
    trainer.reset()
    np.testing.assert_array_equal([one.loss for one in trainer.run(X, TARGET, seed=5)], expected)
    trainer.reset()
    assert [one.loss for one in trainer.run(X, TARGET, seed=6)] != expected
    trainer.reset()
    assert [one.loss for one in trainer.run(X, TARGET)] != expected


def test_rows_that_begin_anew_do_not_move_the_others_masks():
    layer = LSTM(I, H, dtype=np.float64, rng=0, zoneout=0.4)
    trainer = trainer_of(layer, 3, lr=0.0)
    trainer.step(X[:3], TARGET[:3], seed=5)
    trainer.reset([1])
    trainer.step(X[3:6], TARGET[3:6], seed=5)
    resets = np.zeros((6, B), bool)
    resets[3, 1] = True
    _, state, _ = layer.forward(X[:6], resets=resets, seed=5)
    np.testing.assert_array_equal(np.stack(trainer.state), np.stack(state))


def test_what_is_wrong_is_refused_and_nothing_has_changed():
    given = given_of("grud")
    layer = made("grud")
    trainer = trainer_of(layer, 3, 5)
    before = layer.params.flat.copy()
    name = next(iter(given))
    for wrong, error, message in (
        (None, ValueError, "given: expected the extra inputs"),
        ({name: given[name][:3]}, ValueError, "given: expected the extra inputs"),
        (cut(given, 0, 2), ValueError, r"given: expected leading axes \[3, 3\] as in x, got shape \[2, 3, 2\]"),
        ({**cut(given, 0, 3), name: "abc"}, TypeError, "given: expected an array of real numbers"),
    ):
        with pytest.raises(error, match=r"^" + message):
            trainer.step(X[:3], TARGET[:3], given=wrong)
    for seed, error in ((-1, ValueError), (2**63, ValueError), (0.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^seed: expected an integer"):
            trainer.step(X[:3], TARGET[:3], given=cut(given, 0, 3), seed=seed)
    with pytest.raises(ValueError, match=r"^given: expected None, as gru takes no extra input"):
        plain = GRU(I, H)
        trainer_of(plain, 3).step(X[:3], TARGET[:3], given=cut(given, 0, 3))
    np.testing.assert_array_equal(layer.params.flat, before)
    assert trainer.state is None
    with pytest.raises(ValueError, match=r"^x"):
        bad = cut(given, 0, 3)
        trainer.step(np.full((3, B, I), np.nan), TARGET[:3], given=bad)
    bad = {**cut(given, 0, 3), name: np.full((3, B, I), np.inf)}
    with pytest.raises(ValueError, match=r"^given: expected finite numbers, got inf"):
        trainer.step(X[:3], TARGET[:3], given=bad)
