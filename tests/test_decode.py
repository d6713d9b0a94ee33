"""A model's output as its next input, against calls over whole sequences and against all sequences that there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

import rnnfast
from rnnfast import GRU, LSTM, RNN, Concat, Dense, Embedding, LayerNorm, Model, decode
from rnnfast.reference import softmax

VOCABULARY = 6


def language(hidden=7, layers=1, dtype=np.float32, cell=LSTM, scale=1.0, **options):
    """A model of ids whose choices are far from even, and differ from step to step."""

    def init(name, shape, rng):
        return scale * rng.normal(size=shape)

    rnn = cell(VOCABULARY, hidden, layers, dtype=dtype, rng=0, init=init, **options)
    return Model(rnn=rnn, head=Dense(hidden, VOCABULARY, dtype=dtype, rng=1, init=init))


def flip(array, batch_first):
    return array.swapaxes(0, 1) if batch_first else array


def prompts(steps=4, rows=3, seed=0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (steps, rows))


def by_whole_calls(model, prompt, steps, choose):
    """The definition: at each step, a call over all that there is so far."""
    drawn = np.zeros((0, prompt.shape[1]), np.int64)
    for _ in range(steps):
        logits, _ = model(np.concatenate([prompt, drawn]), logits=True, ids=True)
        drawn = np.concatenate([drawn, choose(logits[-1])[None]])
    return drawn


# Ids


@pytest.mark.parametrize("hidden", [1, 7, 17, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", [LSTM, GRU, RNN, rnnfast.MinGRU])
def test_greedy_is_the_likeliest_of_whole_calls(hidden, dtype, cell):
    model, prompt = language(hidden, 2, dtype, cell), prompts()
    expected = by_whole_calls(model, prompt, 12, lambda logits: logits.argmax(axis=-1))
    found = decode.greedy(model, prompt, 12)
    assert np.array_equal(found.ids, expected) and found.lengths.tolist() == [12] * 3
    assert len({tuple(row) for row in expected.T}) > 1 or hidden == 1
    for row in range(3):
        alone = decode.greedy(model, prompt[:, row], 12)
        assert np.array_equal(alone.ids, expected[:, row]) and alone.lengths == 12


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_layout_is_the_models(batch_first):
    model, plain = language(batch_first=batch_first), language()
    prompt = prompts()
    for name, options in (("greedy", {}), ("sample", {"rng": 0}), ("beam", {"width": 3})):
        ours = getattr(decode, name)(model, flip(prompt, batch_first), 5, **options)
        theirs = getattr(decode, name)(plain, prompt, 5, **options)
        ids = ours.ids.swapaxes(-1, -2) if batch_first else ours.ids
        assert np.array_equal(ids, theirs.ids) and np.array_equal(ours.lengths, theirs.lengths)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 50])
def test_samples_are_drawn_with_the_models_probabilities(temperature, top_k):
    model, rows = language(), 20_000
    logits = model(np.array([[2]]), logits=True)[0][0, 0].astype(np.float64) / temperature
    if top_k is not None:
        logits[np.argsort(-logits)[top_k:]] = -np.inf
    drawn = decode.sample(model, np.full((1, rows), 2), 1, temperature=temperature, top_k=top_k, rng=0).ids[0]
    shares = np.bincount(drawn, minlength=VOCABULARY) / rows
    np.testing.assert_allclose(shares, softmax(logits), atol=0.015)
    assert (shares[logits == -np.inf] == 0).all()


def test_of_equal_scores_the_first_are_kept():
    model = language(scale=0.0)
    drawn = decode.sample(model, np.zeros((1, 500), int), 3, top_k=2, rng=0).ids
    assert set(drawn.ravel().tolist()) == {0, 1}
    assert not decode.greedy(model, prompts(), 3).ids.any()


def test_a_seed_makes_the_same_sample_and_cold_is_greedy():
    model, prompt = language(), prompts()
    one, two, other = (decode.sample(model, prompt, 30, rng=seed).ids for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    expected = decode.greedy(model, prompt, 30).ids
    for options in ({"temperature": 0}, {"top_k": 1}, {"temperature": 1e-6}):
        assert np.array_equal(decode.sample(model, prompt, 30, rng=0, **options).ids, expected)


@pytest.mark.parametrize("temperature", [1e-320, 1e-3, 1e300])
def test_no_temperature_warns_or_raises(temperature):
    """The coldest is greedy; a caller who wants NumPy's exceptions gets none of those in between."""
    model, prompt = language(scale=50.0), prompts()
    with np.errstate(all="raise"):
        drawn = decode.sample(model, prompt, 6, temperature=temperature, rng=0).ids
        decode.beam(model, prompt, 6)
    if temperature < 1e-300:
        np.testing.assert_array_equal(drawn, decode.greedy(model, prompt, 6).ids)


def test_a_row_ends_with_stop():
    model, prompt = language(), prompts(rows=8)
    free = decode.sample(model, prompt, 20, rng=0).ids
    found = decode.sample(model, prompt, 20, rng=0, stop=3)
    for row in range(8):
        where = np.flatnonzero(free[:, row] == 3)
        end = where[0] if where.size else 20
        assert found.lengths[row] == end
        assert np.array_equal(found.ids[:end, row], free[:end, row]) and (found.ids[end:, row] == 3).all()
    assert (found.lengths < 20).any()


def test_prompts_of_different_lengths():
    model, prompt = language(), prompts(steps=5)
    prompt[3:, 1] = 10**6  # beyond the length, so not looked at
    lengths = [5, 3, 1]
    for name in ("greedy", "beam"):
        found = getattr(decode, name)(model, prompt, 6, lengths=lengths)
        for row, length in enumerate(lengths):
            alone = getattr(decode, name)(model, prompt[:length, row], 6)
            assert np.array_equal(found.ids[..., row], alone.ids)


def test_decoding_goes_on_from_a_state():
    model, prompt = language(layers=2), prompts()
    _, state = model(prompt[:2], ids=True)
    assert np.array_equal(decode.greedy(model, prompt[2:], 6, state=state).ids, decode.greedy(model, prompt, 6).ids)
    _, one = model(prompt[:2, 0], ids=True)
    found = decode.greedy(model, prompt[2:, 0], 6, state=one)
    assert np.array_equal(found.ids, decode.greedy(model, prompt[:, 0], 6).ids)


def test_parts_in_place_of_a_model():
    """The decoder of an encoder-decoder, which begins with the encoder's state."""
    encoder, decoder = GRU(3, 8, rng=0), GRU(4, 8, rng=1)
    embedding, head = Embedding(VOCABULARY, 4, rng=2), Dense(8, VOCABULARY, activation="softmax", rng=3)
    _, state = encoder(np.random.default_rng(0).normal(size=(9, 5, 3)))
    start = np.full((1, 5), 1)
    found = decode.greedy([embedding, decoder, head], start, 7, state=state)
    ids, carried = start[0], state
    for step in range(7):
        y, carried = decoder(embedding(ids[None]), carried)
        ids = head(y[0]).argmax(axis=-1)
        assert np.array_equal(found.ids[step], ids)
    assert np.array_equal(decode.greedy([embedding, decoder, head], start, 7, state=[state]).ids, found.ids)


def test_probabilities_are_scores_too():
    """A softmax head skips its activation, and so does not flatten what is drawn from."""
    model = language()
    again = Model(rnn=LSTM(VOCABULARY, 7), head=Dense(7, VOCABULARY, activation="softmax"))
    again.params.assign(model.params.flat)
    for options in ({"temperature": 0.5}, {"top_k": 3}):
        one, two = (decode.sample(any_model, prompts(), 20, rng=0, **options).ids for any_model in (model, again))
        assert np.array_equal(one, two)


@pytest.mark.parametrize("cell", [GRU, LSTM])
def test_no_rows_and_no_steps(cell):
    model = language(cell=cell)
    assert decode.greedy(model, np.zeros((3, 0), int), 4).ids.shape == (4, 0)
    assert decode.beam(model, np.zeros((3, 0), int), 4, width=2).ids.shape == (2, 4, 0)
    assert decode.greedy(model, prompts(), 0).ids.shape == (0, 3)
    assert decode.beam(model, prompts(), 0, width=2).scores.tolist() == [[0.0] * 3, [-np.inf] * 3]
    assert decode.forecast(cell(3, 3), np.zeros((2, 0, 3)), 4).shape == (4, 0, 3)
    assert decode.forecast(cell(3, 3), np.zeros((2, 3)), 0).shape == (0, 3)


# Beams


def every_sequence(model, prompt, steps, stop, penalty):
    """All sequences with the logarithms of their probabilities, the best first. `prompt` is of one row."""
    found = []
    for ids in itertools.product(range(VOCABULARY), repeat=steps):
        end = ids.index(stop) + 1 if stop in ids else steps
        if stop in ids and any(other != stop for other in ids[end:]):
            continue
        whole = np.concatenate([prompt, ids[: end - 1]]).astype(int)
        logits = model(whole, logits=True, ids=True)[0][len(prompt) - 1 :].astype(np.float64)
        score = sum(np.log(softmax(row)[one]) for row, one in zip(logits, ids, strict=False))
        found.append((score / end**penalty, score, ids, end - (stop in ids)))
    return sorted(found, key=lambda one: -one[0])


@pytest.mark.parametrize("stop", [None, 2])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_a_wide_beam_finds_the_best_of_all_sequences(stop, penalty):
    model, prompt = language(dtype=np.float64), prompts(rows=2)
    found = decode.beam(model, prompt, 3, width=VOCABULARY**3, stop=stop, length_penalty=penalty)
    for row in range(2):
        expected = every_sequence(model, prompt[:, row], 3, stop, penalty)
        for place, (_, score, ids, length) in enumerate(expected):
            assert tuple(found.ids[place, :, row]) == ids and found.lengths[place, row] == length
            np.testing.assert_allclose(found.scores[place, row], score, rtol=1e-9)
        assert np.isneginf(found.scores[len(expected) :, row]).all()


@pytest.mark.parametrize("stop", [None, 0])
def test_a_beam_of_width_1_is_greedy(stop):
    model, prompt = language(), prompts(rows=5)
    narrow, expected = decode.beam(model, prompt, 15, width=1, stop=stop), decode.greedy(model, prompt, 15, stop=stop)
    assert np.array_equal(narrow.ids[0], expected.ids) and np.array_equal(narrow.lengths[0], expected.lengths)
    wide = decode.beam(model, prompt, 15, width=8, stop=stop)
    assert (wide.scores[0] >= narrow.scores[0] - 1e-9).all() and (wide.scores[0] > narrow.scores[0]).any()
    assert (np.diff(wide.scores, axis=0) <= 0).all()


# Vectors


@pytest.mark.parametrize("hidden", [1, 7, 17, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_forecast_is_that_of_whole_calls(hidden, dtype, batch_first):
    rnn = LSTM(2, hidden, 2, dtype=dtype, rng=0, batch_first=batch_first)
    model = Model(rnn=rnn, head=Dense(hidden, 2, activation="tanh", dtype=dtype, rng=1))
    x = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(dtype)
    whole = x
    for _ in range(5):
        y = flip(model(flip(whole, batch_first))[0], batch_first)
        whole = np.concatenate([whole, y[-1:]])
    found = decode.forecast(model, flip(x, batch_first), 5)
    assert found.dtype == dtype and np.array_equal(flip(found, batch_first), whole[6:])
    assert np.array_equal(decode.forecast(model, x[:, 1], 5), whole[6:, 1])


def test_what_is_known_of_the_future_is_fed():
    model = Model(rnn=GRU(3, 5, rng=0), head=Dense(5, 1, rng=1))
    hours = np.arange(12.0)

    def inputs(y, step):
        return np.concatenate([y, np.sin(hours[step] * np.array([[1.0, 2.0]])).repeat(len(y), axis=0)], axis=1)

    x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    found = decode.forecast(model, x, 4, feed=inputs)
    y, state = model(x)
    y = y[-1]
    for step in range(4):
        assert np.array_equal(found[step], y)
        (y,), state = model(inputs(y, step)[None], state)
    with pytest.raises(ValueError, match="expected as many outputs as inputs, or feed="):
        decode.forecast(model, x, 4)
    with pytest.raises(ValueError, match=r"feed's result: expected shape \[B, I\] \[2, 3\], got \[2, 1\]"):
        decode.forecast(model, x, 4, feed=lambda y, step: y)


def test_a_head_first_and_a_layer_alone():
    x = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    model = Model(before=Dense(4, 5, rng=0), rnn=LSTM(5, 4, rng=1))
    layer = LSTM(4, 4, rng=0)
    for one in (model, layer):
        whole = x
        for _ in range(4):
            whole = np.concatenate([whole, one(whole)[0][-1:]])
        assert np.array_equal(decode.forecast(one, x, 4), whole[6:])


def test_models_that_are_no_chain():
    """A skip connection; tied weights; parts without kernels."""
    skip = Model(
        embed=Embedding(VOCABULARY, 5, rng=0),
        rnn=GRU(5, 4, rng=1),
        both=Concat(),
        head=Dense(9, VOCABULARY, rng=2),
        inputs={"both": ("embed", "rnn")},
    )
    tied = Model(
        embed=Embedding(VOCABULARY, 5, rng=0),
        rnn=LSTM(5, 5, rng=1),
        head=Dense(5, VOCABULARY, rng=2),
        tied={"head.weight": "embed.weight"},
    )
    small = Model(embed=Embedding(VOCABULARY, 5, rng=0), norm=LayerNorm(5), rnn=GRU(5, 4), head=Dense(4, VOCABULARY))
    for model in (skip, tied, small):
        expected = by_whole_calls(model, prompts(), 9, lambda logits: logits.argmax(axis=-1))
        assert np.array_equal(decode.greedy(model, prompts(), 9).ids, expected)
        assert np.array_equal(decode.beam(model, prompts(), 9, width=1).ids[0], expected)
        ragged = decode.greedy(model, prompts(), 3, lengths=[4, 2, 1])
        assert np.array_equal(ragged.ids[:, 1], decode.greedy(model, prompts()[:2, 1], 3).ids)


@pytest.mark.parametrize("activation", ["identity", "softmax"])
def test_what_can_be_a_stream_is_called_once(monkeypatch, activation):
    """A chain, a skip connection, an embedding; a head that skips its activation does so in the stream, too."""
    embed, rnn = Embedding(VOCABULARY, 5, rng=0), GRU(5, 4, rng=1)
    head = Dense(9, VOCABULARY, activation=activation, rng=2)
    model = Model(embed=embed, rnn=rnn, both=Concat(), head=head, inputs={"both": ("embed", "rnn")})
    expected = by_whole_calls(model, prompts(), 9, lambda logits: logits.argmax(axis=-1))
    called = []
    whole = Model.__call__
    monkeypatch.setattr(Model, "__call__", lambda *given, **options: called.append(1) or whole(*given, **options))
    assert np.array_equal(decode.greedy(model, prompts(), 9).ids, expected)
    assert len(called) == 1


def test_parts_that_can_be_no_stream_are_called_step_by_step():
    """Layer normalisation; parts of several dtypes."""
    embed, head = Embedding(VOCABULARY, 5, rng=0), Dense(4, VOCABULARY, rng=2)
    for parts in ([embed, LayerNorm(5), GRU(5, 4, rng=1), head], [embed, GRU(5, 4, dtype=np.float64, rng=1), head]):
        x, state = prompts(rows=2), None
        found = decode.greedy(parts, x, 6).ids
        for step in range(6):
            y = x
            for part in parts:
                y, state = part(y, state) if isinstance(part, GRU) else (part(y), state)
            assert np.array_equal(found[step], y[-1].argmax(axis=-1))
            x = found[step][None]


# Mistakes


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: decode.greedy(3, prompts(), 4), TypeError, "model: expected a Model, a layer, or a list of parts"),
        (lambda: decode.greedy([], prompts(), 4), TypeError, "model: expected a Model, a layer, or a list of parts"),
        (lambda: decode.greedy(Dense(2, 2), [[1.0]], 4), ValueError, "model: expected a recurrent layer"),
        (
            lambda: decode.greedy(Model(rnn=GRU(6, 3, bidirectional=True), head=Dense(6, 6)), prompts(), 4),
            ValueError,
            "model: expected layers that run forwards",
        ),
        (lambda: decode.greedy(GRU(6, 6, reverse=True), prompts(), 4), ValueError, "model: expected layers that run"),
        (lambda: decode.greedy(language(), [], 4), ValueError, "prompt: expected .* with at least one step"),
        (lambda: decode.greedy(language(), np.zeros((0, 3), int), 4), ValueError, "prompt: expected"),
        (lambda: decode.greedy(language(), [0.5], 4), TypeError, "prompt: expected integers"),
        (lambda: decode.forecast(GRU(3, 3), np.zeros((0, 3)), 4), ValueError, "x: expected .* with at least one step"),
        (lambda: decode.greedy(language(), [9], 4), ValueError, r"x: expected ids in 0\.\.5, got 9"),
        (lambda: decode.greedy(language(), "ab", 4), TypeError, "prompt: expected an array of real numbers"),
        (lambda: decode.greedy(language(), prompts(), -1), ValueError, "steps: expected an integer in 0"),
        (lambda: decode.greedy(language(), prompts(), 4, stop=6), ValueError, r"stop: expected an integer in 0\.\.5"),
        (lambda: decode.greedy(language(), prompts(), 4, lengths=[1, 0, 2]), ValueError, "lengths: expected at least"),
        (lambda: decode.greedy(language(), prompts(), 4, state={"gru": 0}), ValueError, "state: expected names"),
        (
            lambda: decode.greedy([GRU(6, 6), GRU(6, 6)], prompts(), 4, state=[None]),
            ValueError,
            "state: expected 2 states, one per layer",
        ),
        (lambda: decode.sample(language(), prompts(), 4, temperature=-1), ValueError, "temperature: expected"),
        (
            lambda: decode.sample(language(), prompts(), 4, top_k=0),
            ValueError,
            "top_k: expected an integer of at least",
        ),
        (lambda: decode.beam(language(), prompts(), 4, width=0), ValueError, "width: expected an integer in 1"),
        (lambda: decode.greedy(language(scale=np.nan), prompts(), 4), ValueError, "model: expected scores that are"),
        (lambda: decode.beam(language(scale=np.nan), prompts(), 4), ValueError, "model: expected scores that are"),
        (lambda: decode.forecast(GRU(3, 3), np.zeros((2, 3)), 4, feed=3), TypeError, "feed: expected a function"),
    ],
)
def test_a_mistake_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
