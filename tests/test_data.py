"""Data on its way to a layer: padding, packing, buckets, windows, episodes, missing values, scales, batches."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnfast import GRU, GRUD, LSTM, RNN, Dense, Embedding, Model, checkpoint, data, training
from rnnfast.losses import mean_squared_error, softmax_cross_entropy

COUNTS = [4, 1, 9, 3, 3, 7, 2]


def ragged(counts, features=3, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(count, features)).astype(dtype) for count in counts]


# Padding and packing


@pytest.mark.parametrize("batch_first", [False, True])
def test_padded_rows_hold_the_sequences(batch_first):
    sequences = ragged([*COUNTS, 0])
    x, lengths = data.pad(sequences, batch_first=batch_first)
    assert lengths.tolist() == [*COUNTS, 0] and lengths.dtype == np.int64 and x.dtype == np.float32
    rows = x if batch_first else x.swapaxes(0, 1)
    assert rows.shape == (8, 9, 3)
    for row, sequence in zip(rows, sequences, strict=True):
        assert np.array_equal(row[: len(sequence)], sequence) and not row[len(sequence) :].any()


def test_padding_takes_ids_and_the_common_dtype():
    assert data.pad([[1, 2], [3]]).x.dtype == np.int64
    assert data.pad([[1, 2], [0.5]]).x.dtype == np.float64
    assert data.pad([np.empty((0, 2)), np.empty((0, 2))]).x.shape == (0, 2, 2)


@pytest.mark.parametrize("hidden", [1, 7, 17, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_sequences_have_the_bits_of_calls_of_their_own(hidden, dtype, batch_first):
    """Outputs and gradients of the input, in two directions; the layer's states start anew with every sequence."""
    sequences = ragged(COUNTS, dtype=dtype)
    layer = LSTM(3, hidden, 2, bidirectional=True, batch_first=batch_first, dtype=dtype, rng=0)
    packed = data.pack(sequences, batch_first=batch_first)
    y, _, tape = layer.forward(packed.x, resets=packed.resets, lengths=packed.lengths)
    dy = np.random.default_rng(1).normal(size=y.shape).astype(dtype)
    dx = layer.backward(tape, dy).x
    for x, own, d_own, dx_own in zip(sequences, packed.unpack(y), packed.unpack(dy), packed.unpack(dx), strict=True):
        expected, _, tape = layer.forward(x)
        assert np.array_equal(own, expected)
        assert np.array_equal(dx_own, layer.backward(tape, np.ascontiguousarray(d_own)).x)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(0, 5), st.booleans())
def test_each_packed_step_has_one_place(counts, more, batch_first):
    sequences = [np.full(count, number) for number, count in enumerate(counts)]
    packed = data.pack(sequences, steps=max(counts) + more, batch_first=batch_first)
    assert packed.x.shape == packed.resets.shape == packed.ends.shape
    assert packed.lengths.sum() == sum(counts) and packed.lengths.max() <= max(counts) + more
    assert packed.resets.sum() == packed.ends.sum() == len(counts)
    for number, part in enumerate(packed.unpack(packed.x)):
        assert part.tolist() == [number] * counts[number]
    assert packed.last(packed.x).tolist() == list(range(len(counts)))
    put = packed.put(np.arange(len(counts)) + 1)
    assert np.array_equal(put != 0, packed.ends) and packed.last(put).tolist() == list(range(1, len(counts) + 1))
    ends = sum(
        1 for one in range(len(packed.lengths)) for other in range(one) if _fit(packed, one, other, counts, more)
    )
    assert ends == 0, "two rows that fit into one"


def _fit(packed, one, other, counts, more):
    return packed.lengths[one] + packed.lengths[other] <= max(counts) + more


def test_a_packed_row_wastes_little():
    counts = np.random.default_rng(0).integers(5, 200, 300)
    packed = data.pack([np.zeros(count) for count in counts])
    assert packed.lengths.sum() / packed.x.size > 0.95
    assert counts.sum() / data.pad([np.zeros(count) for count in counts]).x.size < 0.6  # what padding does with them


def test_other_sequences_go_to_the_same_places():
    sequences = ragged(COUNTS)
    packed = data.pack(sequences)
    targets = [np.arange(count) for count in COUNTS]
    for part, target in zip(packed.unpack(packed.pack(targets)), targets, strict=True):
        assert np.array_equal(part, target)
    with pytest.raises(ValueError, match=r"sequences\[1\]: expected shape \[1\], got \[2\]"):
        packed.pack([np.arange(max(count, 2)) for count in COUNTS])
    with pytest.raises(ValueError, match="expected 7 sequences, got 2"):
        packed.pack(targets[:2])


@pytest.mark.parametrize("rng", [None, 0, 5])
def test_buckets_hold_each_sequence_once_and_similar_lengths(rng):
    counts = np.random.default_rng(3).integers(1, 1000, 505)
    batches = data.bucketed(counts, 10, rng=rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(505))
    assert sorted(map(len, batches))[0] == 5 and max(map(len, batches)) == 10
    padded = sum(counts[batch].max() * len(batch) for batch in batches)
    assert counts.sum() / padded > 0.95


def test_shuffled_buckets_differ_from_epoch_to_epoch():
    rng = np.random.default_rng(0)
    first, second = (data.bucketed(np.full(40, 3), 8, rng=rng) for _ in range(2))
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    assert [batch.tolist() for batch in data.bucketed([5] * 5, 2)] == [[0, 1], [2, 3], [4]]


# Series, episodes, missing values


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("horizon", "stride"), [(1, 1), (3, 2), (0, 5)])
def test_windows_and_what_follows_them(horizon, stride, batch_first):
    series = np.random.default_rng(0).normal(size=(23, 2))
    x, y = data.windows(series, 6, horizon=horizon, stride=stride, batch_first=batch_first)
    if not batch_first:
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)
    starts = list(range(0, 23 - 6 - horizon + 1, stride))
    assert x.shape == (len(starts), 6, 2) and y.shape == (len(starts), horizon, 2)
    for own, follows, start in zip(x, y, starts, strict=True):
        assert np.array_equal(own, series[start : start + 6])
        assert np.array_equal(follows, series[start + 6 : start + 6 + horizon])


def episodes(steps, rows, seed, next_step):
    """A made-up vector environment: at each step the episode that the observation is of, the flags, and what `step`
    returns with them. With `next_step` an extra step lies between two episodes, as in Gymnasium."""
    rng = np.random.default_rng(seed)
    number, ended = np.zeros(rows, int), np.zeros(rows, bool)
    seen, flags = [], []
    for _ in range(steps):
        seen.append(number.copy())
        done = rng.random(rows) < 0.3
        if next_step:
            done &= ~ended  # the step that resets ends nothing
            number += ended
        else:
            number += done
        flags.append(done)
        ended = done
    return np.array(seen), np.array(flags)


@pytest.mark.parametrize("next_step", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_are_where_the_episode_of_the_observation_changes(next_step, batch_first):
    seen, done = episodes(40, 5, 0, next_step)
    flip = np.transpose if batch_first else np.asarray
    options = {"autoreset": "next_step" if next_step else "same_step", "batch_first": batch_first}
    resets = flip(data.from_dones(flip(done), **options))
    expected = np.concatenate([np.zeros((1, 5), bool), seen[1:] != seen[:-1]])
    assert np.array_equal(resets, expected) and expected.any()
    apart = np.random.default_rng(1).random(done.shape) < 0.5  # terminated or truncated
    assert np.array_equal(flip(data.from_dones(flip(done & apart), flip(done & ~apart), **options)), expected)
    cut = 17  # two rollouts, one after the other
    before = done[cut - 2 : cut] if next_step else done[cut - 1]
    second = flip(data.from_dones(flip(done[cut:]), before=before, **options))
    assert np.array_equal(second, expected[cut:])


def test_episodes_of_one_environment_and_of_none():
    assert data.from_dones(np.array([True, False]), before=np.array(True)).tolist() == [True, True]
    assert data.from_dones(np.zeros((0, 3), bool)).shape == (0, 3)
    assert data.from_dones(np.zeros((4, 0), bool)).shape == (4, 0)
    with pytest.raises(TypeError, match="terminated: expected booleans, got dtype int64"):
        data.from_dones([0, 1])
    with pytest.raises(ValueError, match=r"truncated: expected shape \[T, B\] \[2, 1\], got \[2, 2\]"):
        data.from_dones(np.zeros((2, 1), bool), np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match=r"before: expected shape \[2, B\]"):
        data.from_dones(np.zeros((2, 1), bool), before=[True], autoreset="next_step")


def with_holes(shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    x[rng.random(shape) < 0.4] = np.nan
    return x


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", [(9, 4, 2), (9, 2), (0, 4, 2), (9, 0, 2)])
def test_the_last_value_goes_into_a_hole(shape, batch_first):
    x = with_holes(shape)
    filled = data.fill_missing(x, fill="last", batch_first=batch_first)
    axis = 1 if batch_first and x.ndim == 3 else 0
    expected = np.zeros(shape)
    for place in np.ndindex(shape):
        for step in range(place[axis] + 1):
            value = x[(*place[:axis], step, *place[axis + 1 :])]
            expected[place] = expected[place] if np.isnan(value) else value
    assert np.array_equal(filled.x, expected)
    assert np.array_equal(filled.observed, ~np.isnan(x))
    assert np.array_equal(filled.mask, filled.observed.any(axis=-1))
    assert np.array_equal(data.fill_missing(x, skip="any").mask, filled.observed.all(axis=-1))
    assert np.array_equal(data.fill_missing(x, fill=7).x, np.where(np.isnan(x), 7, x))


def test_a_masked_array_says_itself_what_is_missing():
    x = np.ma.masked_array([[1.0, 2.0], [3.0, np.nan]], [[True, False], [False, False]])
    assert data.fill_missing(x).observed.tolist() == [[False, True], [True, False]]
    assert data.fill_missing(x, fill=-1.0).x.tolist() == [[-1.0, 2.0], [3.0, -1.0]]
    assert data.fill_missing(np.ma.masked_array([[1.0]])).observed.all()


def test_skipped_steps_leave_a_layer_as_if_they_were_not_there():
    x = with_holes((12, 3, 2))
    filled = data.fill_missing(x)
    layer = GRU(2, 5, dtype=np.float64, rng=0)
    _, state = layer(filled.x, mask=filled.mask)
    for row in range(3):
        there = filled.mask[:, row]
        assert np.array_equal(state[:, row], layer(filled.x[there, row])[1])


@pytest.mark.parametrize("batch_first", [False, True])
def test_time_since_the_last_observation(batch_first):
    observed = np.random.default_rng(0).random((8, 3, 2)) < 0.5
    times = np.cumsum(np.random.default_rng(1).random((8, 3)), axis=0)
    expected = np.zeros((8, 3, 2))
    for t in range(1, 8):  # the paper's recurrence
        gap = (times[t] - times[t - 1])[:, None]
        expected[t] = np.where(observed[t - 1], gap, gap + expected[t - 1])
    flip = (lambda array: array.swapaxes(0, 1)) if batch_first else np.asarray
    since = data.time_since(flip(observed), flip(times), batch_first=batch_first)
    np.testing.assert_allclose(flip(since), expected, rtol=1e-12, atol=1e-12)
    even = data.time_since(observed[:, 0], np.arange(8.0))
    assert np.array_equal(even, data.time_since(observed[:, 0]))


def test_missing_values_go_into_a_grud():
    filled = data.fill_missing(with_holes((6, 4, 2)).astype(np.float32))
    layer = GRUD(2, 5, features=2, rng=0)
    y, _ = layer(filled.x, given={"mask": filled.observed, "delta": data.time_since(filled.observed)})
    assert y.shape == (6, 4, 5) and np.isfinite(y).all()


# Scale


@pytest.mark.parametrize("shape", [(50,), (50, 3), (20, 4, 3)])
def test_standardised_features_have_mean_0_and_deviation_1(shape):
    x = np.random.default_rng(0).normal(100.0, 7.0, shape)
    scale = data.Standardizer.fit(x)
    z = scale.apply(x).reshape(-1, *shape[2:] if len(shape) > 2 else shape[1:])
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(scale.invert(scale.apply(x)), x, rtol=1e-12)
    assert scale.apply(x.astype(np.float32)).dtype == np.float32
    if len(shape) == 2:
        ragged = [x[:3], x[3:5]]
        np.testing.assert_allclose(np.concatenate(scale.invert(scale.apply(ragged))), x[:5], rtol=1e-12)


def test_a_scale_is_fitted_to_what_is_there():
    x = np.random.default_rng(0).normal(size=(6, 3, 2))
    lengths = np.array([6, 2, 0])
    kept = np.concatenate([x[:6, 0], x[:2, 1]])
    beyond = x.copy()
    for row, length in enumerate(lengths):
        beyond[length:, row] = np.inf
    for scale in (
        data.Standardizer.fit(beyond, lengths=lengths),
        data.Standardizer.fit(beyond.swapaxes(0, 1), lengths=lengths, batch_first=True),
        data.Standardizer.fit([x[:6, 0], x[:2, 1]]),
    ):
        np.testing.assert_allclose(scale.mean, kept.mean(axis=0))
        np.testing.assert_allclose(scale.std, kept.std(axis=0))
    holes = with_holes((40, 2))
    np.testing.assert_allclose(data.Standardizer.fit(holes).mean, np.nanmean(holes, axis=0))
    np.testing.assert_allclose(data.Standardizer.fit(holes).std, np.nanstd(holes, axis=0))
    assert data.Standardizer.fit(np.full((9, 1), 0.1)).std == 1.0
    with pytest.raises(ValueError, match="at least one value of each feature, got none of feature 1"):
        data.Standardizer.fit([[1.0, np.nan]])
    with pytest.raises(ValueError, match="expected finite numbers"):
        data.Standardizer.fit([[np.inf]])


def test_a_scale_is_kept_with_the_model(tmp_path):
    pytest.importorskip("safetensors", reason="needs the extra cli")
    scale = data.Standardizer.fit(np.random.default_rng(0).normal(size=(9, 3)))
    checkpoint.save(tmp_path / "file", GRU(3, 4), extra={"scale": scale.to_dict()})
    loaded = data.Standardizer.from_dict(checkpoint.load(tmp_path / "file").extra["scale"])
    assert np.array_equal(loaded.mean, scale.mean) and np.array_equal(loaded.std, scale.std)
    text = json.loads(json.dumps({name: value.tolist() for name, value in scale.to_dict().items()}))
    assert np.array_equal(data.Standardizer.from_dict(text).std, scale.std)
    for wrong in ({"mean": [1.0]}, {"mean": [1.0], "std": [0.0]}, {"mean": [1.0], "std": [1.0, 2.0]}):
        with pytest.raises(ValueError, match=r"form|std"):
            data.Standardizer.from_dict(wrong)


def test_a_scale_of_some_features():
    scale = data.Standardizer.fit([[1.0, 5.0], [3.0, 9.0]])
    assert scale.select(1).invert([0.0, 1.0]).tolist() == [7.0, 9.0]
    assert scale.select([0]).invert([[1.0]]).tolist() == [[3.0]]
    with pytest.raises(ValueError, match="features: expected numbers of 2 features"):
        scale.select(2)
    with pytest.raises(ValueError, match="x: expected 2 features in the last axis"):
        scale.apply([1.0])


# Batches


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_batches_have_the_loss_of_the_sequences_one_by_one(pack, last_only, batch_first):
    """However sequences are laid out, the sum of the losses over an epoch is that of each sequence by itself."""
    sequences = ragged(COUNTS, dtype=np.float64)
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(7, 2)) if last_only else [rng.normal(size=(count, 2)) for count in COUNTS]
    weights = rng.random(7) if last_only else [rng.random(count) for count in COUNTS]
    model = Model(
        rnn=LSTM(3, 5, dtype=np.float64, rng=0, batch_first=batch_first), head=Dense(5, 2, dtype=np.float64, rng=1)
    )
    layout = {"last_only": last_only, "pack": pack, "batch_first": batch_first, "batch_size": 3, "rng": 0}
    for own in (None, weights):
        expected = total = 0.0
        for number, x in enumerate(sequences):
            y, _ = model(x, last_only=last_only)
            mask = np.ones(y.shape[:-1]) if own is None else np.asarray(own[number])
            expected += mean_squared_error(y, targets[number], mask=mask, reduction="sum")[0]
            total += mask.sum()
        batches = data.Batches(sequences, targets, weights=own, **layout)
        assert len(batches) == 3 and len(list(batches)) == 3
        found = count = 0.0
        seen = []
        for batch in batches:
            y, _ = model(batch.x, **batch.inputs)
            masked = {} if batch.weights is None else {"mask": batch.weights}
            found += mean_squared_error(y, batch.target, reduction="sum", **masked)[0]
            count += batch.total
            seen += batch.rows.tolist()
        assert sorted(seen) == list(range(7))
        np.testing.assert_allclose([found, count], [expected, total], rtol=1e-12)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_flags_and_ids_go_along(pack, batch_first):
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 6, count) for count in COUNTS]
    flags = {name: [rng.random(count) < 0.5 for count in COUNTS] for name in ("resets", "mask")}
    layer = RNN(6, 4, dtype=np.float64, rng=0, batch_first=batch_first)
    batches = data.Batches(x, x, batch_size=4, pack=pack, batch_first=batch_first, **flags)
    expected = found = 0.0
    for number, ids in enumerate(x):
        y, _ = layer(ids, ids=True, **{name: flag[number] for name, flag in flags.items()})
        expected += y.sum()
    for batch in batches:
        y, _ = layer(batch.x, **batch.inputs)
        found += (y if batch.weights is None else y[batch.weights]).sum()
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_array_of_sequences(batch_first):
    x = np.arange(24.0).reshape(4, 6, 1)  # [T, N, I]
    target = x[..., 0].astype(int)
    flip = (lambda array: array.swapaxes(0, 1)) if batch_first else np.asarray
    batches = list(data.Batches(flip(x), flip(target), batch_size=4, batch_first=batch_first))
    assert [batch.rows.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert np.array_equal(flip(batches[1].x), x[:, 4:]) and np.array_equal(flip(batches[1].target), target[:, 4:])
    assert batches[0].inputs == {} and batches[0].weights is None and batches[0].total == 16
    lengths = [4, 1, 2, 0, 3, 4]
    batches = list(data.Batches(flip(x), flip(target), lengths=lengths, batch_size=6, batch_first=batch_first))
    assert batches[0].inputs["lengths"].tolist() == sorted(lengths) and batches[0].total == sum(lengths)
    packed = data.Batches(
        *(flip(part[:, :3]) for part in (x, target)), lengths=lengths[:3], pack=True, batch_first=batch_first
    )
    assert next(iter(packed)).total == 7


def test_batches_are_shuffled_by_their_own_generator():
    x = np.zeros((2, 20, 1))
    first, again = (data.Batches(x, x, batch_size=7, rng=3) for _ in range(2))
    one, two = ([batch.rows.tolist() for batch in first] for _ in range(2))
    assert one != two and sorted(np.concatenate(one)) == sorted(np.concatenate(two)) == list(range(20))
    assert one == [batch.rows.tolist() for batch in again]


def test_a_class_per_sequence_is_a_target_of_the_usual_loss():
    batch = next(iter(data.Batches(ragged(COUNTS), [0, 1, 1, 0, 1, 0, 1], batch_size=7, last_only=True)))
    model = Model(rnn=GRU(3, 4, bidirectional=True, rng=0), head=Dense(8, 2, rng=0))
    logits, _ = model(batch.x, **batch.inputs)
    assert np.isfinite(softmax_cross_entropy(logits, batch.target)[0])


def translator():
    """An encoder, and a decoder that begins with its state."""
    return Model(
        letters=Embedding(7, 4, rng=0, dtype=np.float64),
        encoder=LSTM(4, 6, rng=1, dtype=np.float64),
        words=Embedding(5, 4, rng=2, dtype=np.float64),
        decoder=LSTM(4, 6, rng=3, dtype=np.float64),
        head=Dense(6, 5, rng=4, dtype=np.float64),
        inputs={"letters": "x.source", "words": "x.target", "decoder": ("words", "encoder.state")},
    )


@pytest.mark.parametrize("arrays", [False, True])
def test_several_inputs_of_their_own_lengths(arrays):
    """The sum of the losses over an epoch is that of each pair by itself; predictions come in order."""
    rng, model = np.random.default_rng(0), translator()
    source, words = ([rng.integers(0, size, n) for n in rng.integers(1, 9, 11)] for size in (7, 5))
    goals = [rng.integers(0, 5, len(one)) for one in words]
    expected = sum(
        softmax_cross_entropy(model({"source": a[:, None], "target": b[:, None]})[0][:, 0], c, reduction="sum")[0]
        for a, b, c in zip(source, words, goals, strict=True)
    )
    x, lengths, target = {"source": source, "target": words}, None, goals
    if arrays:
        padded = {name: data.pad(column) for name, column in x.items()}
        x, lengths = ({name: one[place] for name, one in padded.items()} for place in (0, 1))
        target = data.pad(goals).x
    batches = data.Batches(x, target, lengths=lengths, batch_size=4, rng=0)
    found = total = 0.0
    for batch in batches:
        y, _ = model(batch.x, **batch.inputs)
        weights = {} if batch.weights is None else {"mask": batch.weights}
        found += softmax_cross_entropy(y, batch.target, reduction="sum", **weights)[0]
        total += batch.total
    np.testing.assert_allclose([found, total], [expected, sum(map(len, goals))], rtol=1e-12)
    for own, a, b in zip(training.predict(model, batches), source, words, strict=True):
        np.testing.assert_array_equal(own, model({"source": a, "target": b})[0])


SERIES = np.zeros((5, 4, 2))
WRONG = [
    (lambda: data.pad([]), ValueError, "sequences: expected at least one sequence, got none"),
    (lambda: data.pad("abc"), TypeError, "sequences: expected a list of arrays"),
    (lambda: data.pad([[1.0], [[2.0]]]), ValueError, r"sequences\[1\]: expected shape \[1\], got \[1, 1\]"),
    (lambda: data.pad([["a"]]), TypeError, r"sequences\[0\]: expected an array of real numbers"),
    (lambda: data.pad([3.0]), ValueError, r"sequences\[0\]: expected a sequence"),
    (lambda: data.pack([[1.0], []]), ValueError, "expected at least one step in each, got none in sequence 1"),
    (lambda: data.pack([[1.0], [1.0, 2.0]], steps=1), ValueError, "steps: expected at least 2, as sequence 1 has"),
    (lambda: data.bucketed([1.0], 2), TypeError, "lengths: expected integers"),
    (lambda: data.bucketed([-1], 2), ValueError, "lengths: expected numbers of at least 0"),
    (lambda: data.bucketed([1], 0), ValueError, "batch_size: expected an integer of at least 1"),
    (lambda: data.windows(np.zeros(4), 4), ValueError, r"series: expected at least steps \+ horizon = 5 steps, got 4"),
    (lambda: data.fill_missing(np.zeros(3)), ValueError, "x: expected"),
    (lambda: data.fill_missing(np.zeros((3, 1)), fill="mean"), ValueError, "fill: expected one of 'last'"),
    (lambda: data.Batches(SERIES, SERIES[:4]), ValueError, r"target: expected shape \[5, 4, 2\], got \[4, 4, 2\]"),
    (lambda: data.Batches(SERIES, np.zeros(5), last_only=True), ValueError, "target: expected 4 values, one per seq"),
    (lambda: data.Batches(SERIES, [1.0, 2.0]), ValueError, "target: expected one at every step, got one per sequence"),
    (lambda: data.Batches(SERIES, np.zeros(4)), ValueError, "target: expected one at every step, got one per sequence"),
    (lambda: data.Batches([[1.0]], SERIES), TypeError, "target: expected a list of 1 arrays, as x is"),
    (lambda: data.Batches([[1.0]], [[1.0, 2.0]]), ValueError, r"target\[0\]: expected shape \[1\], got \[2\]"),
    (lambda: data.Batches([[1.0]], [[1.0]], lengths=[1]), ValueError, "lengths: expected None with a list"),
    (lambda: data.Batches(SERIES, SERIES, lengths=[6, 1, 1, 1]), ValueError, "lengths: expected values in 0..T"),
    (lambda: data.Batches(SERIES, SERIES, mask=np.zeros((5, 4))), TypeError, "mask: expected booleans"),
    (lambda: data.Batches([[]], [[]], pack=True), ValueError, "x: expected at least one step in each"),
    (lambda: data.Batches({"a": SERIES}, SERIES, pack=True), ValueError, "x: expected one input to go with pack"),
    (
        lambda: data.Batches({}),
        ValueError,
        "x: expected one input to go with pack",
    ),
    (lambda: data.Batches({"a": SERIES, "b": SERIES[:, :3]}), ValueError, r"x\['a'\]: expected 3 sequences, got 4"),
    (
        lambda: data.Batches({"a": SERIES}, lengths={"b": [1]}),
        ValueError,
        "lengths: expected a mapping with names among",
    ),
    (lambda: data.Batches(np.zeros((3, 0, 1)), np.zeros((3, 0, 1))), ValueError, "x: expected at least one sequence"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_a_mistake_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
