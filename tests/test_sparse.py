"""Sparse gradients: those of tables by the ids that occurred, and optimisers that leave the rest alone."""

from __future__ import annotations

import copy
import json
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from registry import DTYPES, ISAS, KINDS, Case, assert_close, assert_same, assert_same_bits, swap
from test_interrupted import interrupted_everywhere

import rnnfast
from rnnfast import GRU, LSTM, TBPTT, Dense, Dropout, Embedding, Gradients, Model, data, layers, losses, optim

V = 50
OPTIMIZERS = {
    "sgd": lambda params, **more: optim.SGD(params, 0.1, **more),
    "momentum": lambda params, **more: optim.SGD(params, 0.1, momentum=0.9, nesterov=True, **more),
    "rmsprop": lambda params, **more: optim.RMSprop(params, momentum=0.5, centered=True, **more),
    "adam": lambda params, **more: optim.Adam(params, 0.01, **more),
    "adamw": lambda params, **more: optim.AdamW(params, 0.01, **more),
}
MASKS = ("none", "lengths", "reset_state", "mask", "all")


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def pair(make):
    """The same part with sparse gradients and without."""
    sparse, plain = make(sparse=True), make()
    plain.load(dict(sparse.params))
    return sparse, plain


def packing_all(layer):
    """The layer, which from now on packs its whole matrix for any call."""
    layer._recurrence.walk.narrowed = lambda run, training: run
    return layer


def equal(sparse, plain):
    """Gradients, name by name."""
    assert list(sparse) == list(plain)
    for name in plain:
        assert_same_bits(sparse[name], plain[name])


# Gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (0, 3), (4, 0), (5, 3)])
def test_an_embedding_has_the_bits_of_the_dense_gradient(shape, dtype, rng):
    parts = pair(lambda **sparse: Embedding(V, 3, padding_idx=2, dtype=dtype, rng=0, **sparse))
    calls = [(rng.integers(0, 9, shape), rng.standard_normal((*shape, 3)).astype(dtype)) for _ in range(3)]
    found = []
    for part in parts:
        into = part.params.zeros()
        for n, (ids, dy) in enumerate(calls):
            y, tape = part.forward(ids)
            assert part.backward(tape, dy, into=into if n else None).params is into or not n
        found.append((y, into))
    (y, sparse), (expected, plain) = found
    assert_same_bits(y, expected)
    equal(sparse, plain)
    held, ids = sparse.sparse["weight"], np.unique([ids for ids, _ in calls[1:]])
    np.testing.assert_array_equal(held.ids, ids[ids != 2])
    assert held.values.shape == (len(held.ids), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_have_the_bits_of_the_dense_call(kind):
    """Outputs, states and gradients of every cell, with every mask and garbage where nothing is to be read.

    Without `sparse`, too: in training a layer packs the ids that occur, where they are fewer than the columns.
    """
    for number, mask in enumerate(MASKS, KINDS.index(kind)):
        case = Case(
            kind=kind,
            isa=ISAS[number % len(ISAS)],
            dtype=DTYPES[number % 2],
            bidirectional=number % 2 == 1,
            num_layers=1 + number % 2,
            bias=number % 4 > 0,
            batch_first=number % 3 == 1,
            mask=mask,
            ids=True,
            threads=1 + number % 3,
            H=(7, 17, 1, 16, 3)[number % 5],
            I=V,
            T=(0, 5, 9)[number % 3],
            B=4,
        )
        given = case.data
        found = []
        options: dict[str, Any] = {"num_threads": case.threads} | given.masks
        options |= {name: swap(case, options[name]) for name in ("resets", "mask") if name in options}
        options |= {name: {key: swap(case, one) for key, one in more.items()} for name, more in given.extra.items()}
        for layer in (packing_all(case.layer()), case.layer(), case.layer(sparse=True)):
            call = swap(case, given.x), given.state
            into = layer.params.zeros()
            inference = layer(*call, **options)
            for more in ({}, {"into": into}, {"into": into}):
                y, state, tape = layer.forward(*call, **options)
                grads = layer.backward(tape, swap(case, given.dy), given.dstate, **more, num_threads=case.threads)
                assert grads.x is None
                found.append(grads.params)
            found.append([y, state, inference, grads.state, grads.reset_state, grads.given])
        for n, expected in enumerate(found[:4]):
            for one in (found[4 + n], found[8 + n]):
                equal(one, expected) if n < 3 else assert_same(one, expected)


def test_many_calls_of_one_version_pack_all_columns_once():
    """Until then, each packs its own: together no more than all."""
    packed = []

    class Kernel:
        def __init__(self, kernel, columns):
            self._kernel, self._columns = kernel, columns

        def __getattr__(self, name):
            return getattr(self._kernel, name)

        def pack(self, params, panels):
            packed.append(self._columns)
            self._kernel.pack(params, panels)

    for sparse in (False, True):
        layer = LSTM(1000, 3, sparse=sparse, rng=0)
        walk = layer._recurrence.walk
        make = walk._kernel
        walk._kernel = lambda program, fused, columns, widths, make=make: Kernel(
            make(program, fused, columns, widths), columns
        )
        walk._packed.clear()
        for _ in range(2):
            state = None
            for t in range(300):
                _, state = layer([[t]], state)
            assert 100 < packed.index(1000) < 300
            assert packed == [1] * packed.index(1000) + [1000]
            packed.clear()
            layer.update({"bias_ih_l0": np.ones(12)})


def test_a_cell_in_training(rng):
    """The step of a cell packs what occurs, too."""
    found = []
    for narrow in (True, False):
        cell = rnnfast.LSTMCell(V, 3, rng=0)
        if not narrow:
            packing_all(cell)
        state, tape = cell.forward(np.array([7, 3, 7]))
        assert (tape._recording.run.chosen is not None) == narrow
        found.append(cell.backward(tape, state).params)
    equal(*found)


def test_segments_that_are_computed_again(rng):
    """One layer by itself, and two as one."""
    batch = 4096
    ids = rng.integers(0, V, (3 * rnnfast.section_steps(batch), batch))
    for count in (1, 2):
        found = []
        for how in ({}, {"recompute": 1}):
            layer = GRU(V, 2, count, sparse=True, rng=0)
            y, _, tape = layer.forward(ids, **how)
            found.append((layer.backward(tape, y).params, tape.nbytes))
        equal(found[1][0], found[0][0])
        assert found[1][1] < found[0][1]


def test_what_a_call_adds_to_may_have_other_ids(rng):
    """Sums go on where they stopped, as those of the dense gradient."""
    found = []
    for layer in pair(lambda **sparse: GRU(V, 5, 2, rng=0, **sparse)):
        ids, into = np.random.default_rng(0).integers(0, V, (3, 6, 4)), layer.params.zeros()
        into.flat[:] = 1 if not into.sparse else into.flat + 1
        if not into.sparse:
            into["weight_ih_l0"][:] = 0
        for x in ids:
            y, _, tape = layer.forward(x)
            layer.backward(tape, y, into=into)
        found.append(into)
    equal(*found)
    np.testing.assert_array_equal(found[0].sparse["weight_ih_l0"].ids, np.unique(ids))


def test_finite_differences(rng):
    layer = LSTM(V, 3, sparse=True, dtype=np.float64, rng=0)
    ids, dy = rng.integers(0, 5, (4, 2)), rng.standard_normal((4, 2, 3))
    _, _, tape = layer.forward(ids)
    sparse = layer.backward(tape, dy).params.sparse["weight_ih_l0"]
    weight = np.array(layer.params["weight_ih_l0"])
    for row, place in ((0, 0), (5, 1), (11, len(sparse.ids) - 1)):
        column, ends = sparse.ids[place], []
        for step in (1e-6, -1e-6):
            moved = weight.copy()
            moved[row, column] += step
            layer.update({"weight_ih_l0": moved})
            ends.append((layer(ids)[0] * dy).sum())
        np.testing.assert_allclose(sparse.values[row, place], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-9)


def test_nothing_of_the_size_of_the_vocabulary_is_made_or_read(rng):
    """A whole update, of a vocabulary of which all but the ids that occur are NaN."""
    count = 200_000
    ids = rng.integers(0, count, (5, 4))
    for make in (
        lambda: LSTM(count, 8, sparse=True, init=lambda name, shape, rng: np.zeros(shape)),
        lambda: Model(a=Embedding(count, 8, sparse=True, init=lambda *_: np.zeros((count, 8))), rnn=LSTM(8, 8, rng=0)),
    ):
        model = make()
        name = next(iter(model.params.tables))
        weight = np.full(model.params.shapes[name], np.nan, np.float32)
        axis = model.params.tables[name]
        weight[(slice(None),) * axis + (ids.ravel(),)] = 0.1
        model.update({name: weight})
        optimizer = optim.Adam(model.params)
        tracemalloc.start()
        _, _, tape = model.forward(ids)
        gradients = model.backward(tape, np.ones((5, 4, 8))).params
        norm = optim.clip_grad_norm(gradients, 0.1)
        optimizer.step(gradients)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert np.isfinite(norm)
        assert most < 400_000
        moved = ~(np.isnan(model.params[name]) | (model.params[name] == np.float32(0.1)))
        np.testing.assert_array_equal(np.flatnonzero(moved.any(axis=1 - axis)), np.unique(ids))


# Optimisers


def tables(dtype=np.float32):
    """Parameters of which two are tables, and the same without."""
    shapes = {"a": (3, 2), "b": (V, 4), "c": (5,), "d": (4, V)}
    made = [rnnfast.Parameters(shapes, dtype, tables=chosen) for chosen in ({"b": 0, "d": 1}, {})]
    values = np.random.default_rng(0).standard_normal(made[0].size)
    for params in made:
        params.assign(values)
    return made


def random_gradients(pair_of_params, rng):
    sparse, plain = (params.zeros() for params in pair_of_params)
    for name in ("a", "c"):
        plain[name][...] = sparse[name][...] = rng.standard_normal(plain[name].shape)
    for name, one in sparse.sparse.items():
        ids = np.sort(rng.choice(V, 6, replace=False))
        values = rng.standard_normal(one.index(ids) and plain[name][one.index(ids)].shape).astype(plain.dtype)
        values[one.index(np.array([1]))] = 0  # an id that occurred, and has no gradient
        for call in one.replacing(ids, values):
            call()
        plain[name][one.index(ids)] = values
    return sparse, plain


@pytest.mark.parametrize(
    "more", [{}, {"weight_decay": 0.1}, {"groups": {"[bc]": {"lr_factor": 0.5}, "d": {"weight_decay": 0.2}}}]
)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lazy_step(kind, more, dtype, rng):
    """Bitwise the dense step, after which all that belongs to a zero row is put back."""
    both = tables(dtype)
    lazy, plain = (OPTIMIZERS[kind](params, **more) for params in both)
    for _ in range(4):
        gradients = random_gradients(both, rng)
        before = both[1].copy(), plain.state_dict()
        lazy.step(gradients[0])
        plain.step(gradients[1])
        after = both[1].copy(), plain.state_dict()
        starts = {name: start for name, (start, _) in both[1].places().items()}
        for name, axis in both[0].tables.items():
            still = ~gradients[1][name].any(axis=1 - axis)
            index = (slice(None),) * axis + (still,)
            after[0][name][index] = before[0][name][index]
            for key, array in after[1].items():
                if isinstance(array, np.ndarray):
                    part = slice(starts[name], starts[name] + after[0][name].size)
                    whole, old = (one[part].reshape(after[0][name].shape) for one in (array, before[1][key]))
                    whole[index] = old[index]
        both[1].load(after[0])
        plain.load_state_dict(after[1])
        assert_same_bits(np.asarray(both[0].flat), np.asarray(both[1].flat))
        assert_same(lazy.state_dict(), plain.state_dict())
    other = OPTIMIZERS[kind](both[0])
    other.load_state_dict(lazy.state_dict())
    assert_same(other.state_dict(), lazy.state_dict())


def test_adam_is_sparse_adam(rng):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    embedding = Embedding(V, 4, sparse=True, dtype=np.float64, rng=0)
    module = rnnfast.interop.to_torch(embedding)
    assert module.sparse
    assert rnnfast.interop.from_torch(module).sparse
    ours, theirs = (
        optim.Adam(embedding.params, 0.1, eps=1e-30),
        torch.optim.SparseAdam(module.parameters(), 0.1, eps=1e-30),
    )
    for _ in range(5):
        ids, dy = rng.integers(0, V, (3, 2)), rng.standard_normal((3, 2, 4))
        _, tape = embedding.forward(ids)
        ours.step(embedding.backward(tape, dy).params)
        theirs.zero_grad()
        module(torch.from_numpy(ids)).backward(torch.from_numpy(dy))
        theirs.step()
    assert_close(embedding.params["weight"], module.weight.detach().numpy(), 1e-12)


def test_clipping(rng):
    both = tables()
    for limit in (0.5, 1e9):
        sparse, plain = random_gradients(both, rng)
        found, expected = (optim.clip_grad_norm(one, limit) for one in (sparse, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        for name in plain:
            assert_close(sparse[name], plain[name], 1e-6 if limit < 1 else 0)
        for one in (sparse, plain):
            optim.clip_grad_value(one, 0.02)
        assert max(np.abs(one).max() for one in sparse.arrays) <= np.float32(0.02)
    sparse.sparse["b"].values[0, 0] = np.nan
    assert np.isnan(optim.clip_grad_norm(sparse, 1.0))


def test_frozen_tables(rng):
    params, _ = both = tables()
    sparse, _ = random_gradients(both, rng)
    optimizer = optim.Adam(params, groups={"b": {"frozen": True}})
    before = params.copy()
    optimizer.drop_frozen(sparse)
    assert not len(sparse.sparse["b"].ids)
    assert len(sparse.sparse["d"].ids) == 6
    optimizer.step(sparse)
    assert_same_bits(np.asarray(params["b"]), before["b"])
    assert (params["d"] != before["d"]).any()


# Training


def two_windows(model, optimizer, rng):
    trainer = TBPTT(model, losses.mean_squared_error, optimizer, k1=3, k2=5)
    for _ in range(4):
        trainer.step(rng.integers(0, V, (3, 4)), rng.standard_normal((3, 4, 2)).astype(np.float32))


MODELS = {
    "layer": lambda **sparse: Model(
        rnn=LSTM(V, 6, 2, dropout=0.2, bidirectional=False, rng=0, **sparse), head=Dense(6, 2, rng=1)
    ),
    "embedding": lambda **sparse: Model(
        e=Embedding(V, 5, rng=0, **sparse), drop=Dropout(0.1, rng=0), rnn=GRU(5, 6, rng=0), head=Dense(6, 2, rng=1)
    ),
    "both": lambda **sparse: Model(
        e=Embedding(V, 6, rng=0, **sparse),
        one=LSTM(6, 6, rng=0),
        two=GRU(V, 6, rng=0, **sparse),
        sum=rnnfast.Add(),
        head=Dense(6, 2, rng=1),
        inputs={"two": "x", "sum": ("one", "two")},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_plain_descent_is_exact_in_windows(name):
    models = MODELS[name](sparse=True), MODELS[name]()
    for model in models:
        two_windows(model, optim.SGD(model.params, 0.5), np.random.default_rng(0))
    assert_same_bits(np.asarray(models[0].params.flat), np.asarray(models[1].params.flat))


@pytest.mark.parametrize("name", MODELS)
def test_plain_descent_is_exact_over_epochs(name, rng):
    x = [rng.integers(0, V, length) for length in rng.integers(1, 6, 12)]
    target = [rng.standard_normal((len(one), 2)).astype(np.float32) for one in x]
    models = MODELS[name](sparse=True), MODELS[name]()
    for model in models:
        batches = data.Batches(x, target, batch_size=3, rng=0)
        rnnfast.fit(model, losses.mean_squared_error, optim.SGD(model.params, 0.5), batches, epochs=2, accumulate=2)
    assert_same_bits(np.asarray(models[0].params.flat), np.asarray(models[1].params.flat))


def test_ids_beyond_the_lengths_are_not_touched():
    """A model blanks them to zeros, and row 0 does not move for it."""
    model = MODELS["embedding"](sparse=True)
    optimizer, before = optim.Adam(model.params), model.params.copy()
    y, _, tape = model.forward(np.full((4, 2), 7), lengths=[2, 3])
    optimizer.step(model.backward(tape, np.ones_like(y)).params)
    changed = (model.params["e.weight"] != before["e.weight"]).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [7])


def test_a_gradient_that_is_not_finite_makes_no_update():
    layer = GRU(V, 2, sparse=True, rng=0)
    trainer = TBPTT(layer, losses.mean_squared_error, optim.Adam(layer.params), k1=3)
    before = layer.params.copy()
    with pytest.raises(rnnfast.tbptt.NonFiniteError):
        trainer.step(np.ones((3, 2), int), np.full((3, 2, 2), np.nan))
    assert_same({name: np.asarray(value) for name, value in layer.params.items()}, before)


def test_an_update_that_is_interrupted():
    def make():
        model = Model(e=Embedding(9, 2, sparse=True, rng=0), rnn=LSTM(2, 2, rng=0))
        return model, TBPTT(model, losses.mean_squared_error, optim.Adam(model.params), k1=2, clip_norm=0.1)

    def look(thing):
        return copy.deepcopy((dict(thing[0].params), thing[1]._optimizer.state_dict(), thing[1].state_dict()))

    x = np.array([[1, 2], [3, 1]])
    interrupted_everywhere(make, lambda thing: thing[1].step(x, np.ones((2, 2, 2))), look)


def test_gradients_that_are_added_to_and_clipped_when_interrupted():
    x = np.array([[1, 2], [3, 1]])

    def make():
        layer = LSTM(9, 2, sparse=True, rng=0)
        into = layer.params.zeros()
        _, _, tape = layer.forward(x + 1)
        return layer, layer.backward(tape, np.ones((2, 2, 2)), into=into).params

    def add(thing):
        y, _, tape = thing[0].forward(x)
        thing[0].backward(tape, y, into=thing[1])

    for call in (add, lambda thing: optim.clip_grad_norm(thing[1], 0.1)):
        interrupted_everywhere(make, call, lambda thing: {name: value.copy() for name, value in thing[1].items()})


# What they are


def test_gradients_by_name(rng):
    model = MODELS["both"](sparse=True)
    assert model.params.tables == {"e.weight": 0, "two.weight_ih_l0": 1}
    y, _, tape = model.forward(ids := rng.integers(0, V, (3, 2)))
    grads = model.backward(tape, y).params
    assert grads.flat.size + V * 6 + V * 18 == model.params.size
    assert repr(grads.sparse["e.weight"]).startswith(f"SparseGradient({len(np.unique(ids))} of 50 rows of [50, 6]")
    with pytest.raises(ValueError, match="read-only"):
        grads["e.weight"][0] = 1
    for clone in (pickle.loads(pickle.dumps(grads)), copy.deepcopy(grads)):
        assert isinstance(clone, Gradients)
        equal(clone, grads)
        clone.zero()
        assert not any(clone[name].any() for name in clone)
    assert any(grads[name].any() for name in grads)


def test_copies_and_configurations(rng, tmp_path):
    ids = rng.integers(0, V, (3, 2))
    for name, make in MODELS.items():
        model = make(sparse=True)
        clones = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
        clones.append(layers.from_config(json.loads(json.dumps(model.config()))))
        clones[-1].load(dict(model.params))
        for clone in clones:
            assert clone.params.tables == model.params.tables, name
            assert_same_bits(clone(ids)[0], model(ids)[0])
    assert "sparse" not in LSTM(3, 4).config()
    assert "sparse=True" in repr(LSTM(3, 4, sparse=True))


def test_checkpoints_go_on_either_way(rng, tmp_path):
    pytest.importorskip("safetensors", reason="checkpoints need safetensors")
    model = MODELS["both"](sparse=True)
    optimizer = optim.Adam(model.params)
    two_windows(model, optimizer, rng)
    rnnfast.checkpoint.save(tmp_path / "a.safetensors", model, optimizer=optimizer)
    loaded = rnnfast.checkpoint.load(tmp_path / "a.safetensors")
    assert loaded.model.params.tables == model.params.tables
    other = optim.Adam(loaded.model.params)
    other.load_state_dict(loaded.optimizer)
    plain = MODELS["both"]()
    optim.Adam(plain.params).load_state_dict(loaded.optimizer)
    for one, its in ((model, optimizer), (loaded.model, other)):
        two_windows(one, its, np.random.default_rng(1))
    assert_same_bits(np.asarray(loaded.model.params.flat), np.asarray(model.params.flat))


def test_streams_and_ids_of_any_dtype(rng):
    layer = LSTM(V, 4, sparse=True, rng=0)
    ids = rng.integers(0, V, 6)
    y, _ = layer(ids)  # one sequence, which without `sparse` would need ids=True
    assert_same_bits(layer.stream().process(ids, ids=True), y)
    assert_same_bits(layer(ids.astype(np.uint8))[0], y)
    model = Model(rnn=layer)
    assert_same_bits(model(ids.astype(np.uint8))[0], y)
    assert_same_bits(model.stream().process(ids), y)


def test_tied_embeddings_share_a_sparse_gradient(rng):
    def make(**sparse):
        return Model(
            a=Embedding(V, 4, rng=0, **sparse),
            b=Embedding(V, 4, rng=1, **sparse),
            one=GRU(4, 4, rng=0),
            two=GRU(4, 4, rng=1),
            sum=rnnfast.Add(),
            inputs={"a": "x.a", "b": "x.b", "one": "a", "two": "b", "sum": ("one", "two")},
            tied={"b": "a"},
        )

    models = make(sparse=True), make()
    x = {"a": rng.integers(0, V, (3, 2)), "b": rng.integers(0, V, (3, 2))}
    found = []
    for model in models:
        y, _, tape = model.forward(x)
        found.append(model.backward(tape, y).params)
        optim.SGD(model.params, 0.1).step(found[-1])
    equal(*found)
    assert_same_bits(np.asarray(models[0].params.flat), np.asarray(models[1].params.flat))
    np.testing.assert_array_equal(found[0].sparse["a.weight"].ids, np.unique([x["a"], x["b"]]))
    one, two = (
        Model(
            a=LSTM(V, 4, rng=0, **sparse), b=LSTM(V, 4, rng=1, **sparse), inputs={"a": "x", "b": "x"}, tied={"b": "a"}
        )
        for sparse in ({"sparse": True}, {})
    )
    grads = []
    for model in (one, two):
        y, _, tape = model.forward(x["a"])
        grads.append(model.backward(tape, {"a": y["a"], "b": 2 * y["b"]}).params)
    equal(*grads)
    alone = models[0].parts["b"]
    _, tape = alone.forward(x["b"])
    grads = alone.backward(tape, np.ones((3, 2, 4))).params
    np.testing.assert_array_equal(grads.sparse["weight"].ids, np.unique(x["b"]))


# What is refused


def test_refused():
    layer, plain = LSTM(V, 3, sparse=True, rng=0), LSTM(V, 3, rng=0)
    model = Model(e=Embedding(V, 3, sparse=True, rng=0), rnn=LSTM(3, 3, rng=0))
    trainer = TBPTT(model, losses.mean_squared_error, optim.SGD(model.params, 0.1), k1=3)
    _, _, tape = layer.forward(np.zeros((2, 2), int))
    with_tied = {"e": Embedding(V, 3, sparse=True), "rnn": LSTM(3, 3), "head": Dense(3, V)}
    for call, message in (
        (lambda: LSTM(V, 3, sparse=1), "sparse: expected True or False, got int 1"),
        (lambda: Embedding(V, 3, sparse="yes"), "sparse: expected True or False"),
        (lambda: LSTM(V, 3, sparse=True, device="cuda"), "sparse: expected False with device='cuda', got True"),
        (lambda: layer(np.zeros((2, 2, V))), "x: expected integers with ids=True, got array of float64"),
        (lambda: layer(np.zeros((2, 2), int), ids=False), "ids: expected True for a layer with sparse=True, got False"),
        (lambda: layer(np.full((2, 2), V)), "x: expected ids in 0..49, got 50 at step 0 of row 0"),
        (
            lambda: layer.backward(tape, None, into=plain.params.zeros()),
            "into: expected sparse gradients of weight_ih_l0",
        ),
        (
            lambda: optim.SGD(plain.params, 1).step(layer.params.zeros()),
            "gradients: expected sparse gradients of nothing",
        ),
        (
            lambda: optim.SGD(layer.params, 1).keep(slice(0, 4)),
            "own: expected parameters without sparse gradients, got",
        ),
        (lambda: Model(a=LSTM(4, V), b=layer), "b: expected an input of the model, since a layer with sparse=True"),
        (lambda: Model(**with_tied, tied={"head.weight": "e.weight"}), "tied: expected two with sparse gradients"),
        (
            lambda: rnnfast.distributed.DataParallel(trainer),
            "trainer: expected parts with sparse=False, got sparse e.w",
        ),
        (
            lambda: layer.learner(losses.mean_squared_error, optim.SGD(layer.params, 0.1)),
            "layer: expected one with sparse=False to learn while a stream runs",
        ),
    ):
        with pytest.raises((ValueError, TypeError)) as refused:
            call()
        assert str(refused.value).startswith(message)
    assert layer.backward(tape, None).params.sparse  # the tape is as it was
    assert not with_tied["e"].params.in_model


def test_no_torch_module_of_a_sparse_layer():
    pytest.importorskip("torch", reason="needs PyTorch")
    with pytest.raises(ValueError, match=r"^layer: expected one with sparse=False"):
        rnnfast.torch.Recurrent(LSTM(V, 3, sparse=True))
