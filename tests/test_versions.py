"""Who reads parameters while another thread writes sees one version whole; who keeps them can."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import time

import numpy as np
import pytest

import rnnfast
from rnnfast import GRU, LSTM, Dense, LayerNorm, Model, RNNCell, optim

PARTS = {
    "layer": lambda: LSTM(3, 9, 3, rng=0, bidirectional=True),
    "head": lambda: Dense(3, 40, rng=0),
    "model": lambda: Model(rnn=GRU(3, 9, 2, rng=0), head=Dense(9, 4, rng=1), top=LSTM(4, 5, rng=2)),
}
WRITES = {
    "load": lambda part, mapping: part.load(mapping),
    "update": lambda part, mapping: part.update(mapping),
    "assign": lambda part, mapping: part.params.assign(np.concatenate([one.ravel() for one in mapping.values()])),
}
X = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _short_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def answer(part):
    found = part(X)
    return (found[0] if isinstance(found, tuple) else found).tobytes()


def other_values(part):
    return {name: value * np.float32(-0.5) for name, value in part.params.items()}


def meanwhile(write, read, count=30):
    """What `read` gave in threads, `count` times each, while this one wrote."""
    answers, ends, errors = set(), [], []

    def reader():
        try:
            for _ in range(count):
                answers.add(read())
        except BaseException as error:
            errors.append(error)
        ends.append(True)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(ends) < len(threads):
        write()
        time.sleep(2e-4)  # or nobody else would get the lock on a busy machine
    for thread in threads:
        thread.join()
    assert not errors
    return answers


@pytest.mark.parametrize(
    ("kind", "way"), [*((kind, "load") for kind in PARTS), *(("model", way) for way in WRITES if way != "load")]
)
def test_an_answer_belongs_to_one_version(kind, way):
    part = PARTS[kind]()
    versions = [part.snapshot(), other_values(part)]
    expected = set()
    for version in versions:
        part.load(version)
        expected.add(answer(part))
    assert len(expected) == 2

    def write():
        for version in versions:
            WRITES[way](part, version)

    assert meanwhile(write, lambda: answer(part)) <= expected


def test_an_answer_during_an_optimisers_steps_belongs_to_one_of_them():
    def made():
        part = PARTS["model"]()
        optimizer, gradients = optim.SGD(part.params, 0.01), part.params.zeros()
        gradients.flat[:] = np.random.default_rng(1).standard_normal(gradients.size)
        return part, lambda: optimizer.step(gradients)

    part, step = made()
    count = 0

    def write():
        nonlocal count
        step()
        count += 1

    found = meanwhile(write, lambda: answer(part), 15)
    part, step = made()
    expected = {answer(part)}
    for _ in range(count):
        step()
        expected.add(answer(part))
    assert found <= expected


def test_copies_pickles_streams_and_snapshots_are_of_one_version():
    part = LSTM(3, 64, 2, rng=0)
    versions = [np.full(part.params.size, value, np.float32) for value in (0.0, 0.25)]
    streams = set()
    for version in versions:
        part.params.assign(version)
        streams.add(part.stream().process(X[:, 0]).tobytes())

    def write():
        for version in versions:
            part.params.assign(version)

    reads = {
        "snapshot": lambda: len({value.tobytes()[:4] for one in part.snapshot().values() for value in (one[-1:], one)}),
        "writing": lambda: len(set(list_of(part)[::997])),
        "pickle": lambda: len(set(pickle.loads(pickle.dumps(part)).params.flat[::997].tolist())),
    }
    for name, read in reads.items():
        assert meanwhile(write, read, 20) == {1}, name
    assert meanwhile(write, lambda: part.stream().process(X[:, 0]).tobytes(), 20) <= streams


def test_checkpoints_and_exports_are_of_one_version(tmp_path):
    """And the optimiser in a checkpoint is of the same moment."""
    part = Model(rnn=LSTM(1, 16, rng=0), head=Dense(16, 1, rng=1))
    optimizer, gradients = optim.SGD(part.params, 1.0), part.params.zeros()
    part.params.assign(np.zeros(part.params.size))
    gradients.flat[:] = -1

    def saved():
        rnnfast.checkpoint.save(tmp_path / f"{threading.get_ident()}", part, optimizer=optimizer)
        found = rnnfast.checkpoint.load(tmp_path / f"{threading.get_ident()}")
        return {*found.model.params.flat.tolist()} == {float(found.optimizer["step"])}

    def exported():
        rnnfast.interop.plugin.save(tmp_path / f"{threading.get_ident()}", part)
        values = np.frombuffer((tmp_path / f"{threading.get_ident()}").read_bytes()[-4000:], "<f4")
        return {*values.tolist()} <= {0, values[-1], 2 * values[-1]}  # a state of zeros; biases, sums of two

    for read in (saved, exported):
        assert meanwhile(lambda: optimizer.step(gradients), read, 20) == {True}


def test_a_writer_without_rest_starves_nobody():
    """Who must pack again gets the lock, although the writer takes it again at once."""
    part = PARTS["model"]()
    values, ends = part.params.flat.copy(), threading.Event()

    def write():
        while not ends.is_set():
            part.params.assign(values)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    sys.setswitchinterval(0.005)  # the default
    start = time.perf_counter()
    for _ in range(20):
        part(X), part.snapshot(), part.stream().process(X[:, 0])
    took = time.perf_counter() - start
    ends.set()
    for writer in writers:
        writer.join()
    assert took < 10


def list_of(part):
    with pytest.raises(ZeroDivisionError), part.params.writing() as flat:
        values = flat.tolist()
        _ = 1 / 0
    return values


def test_a_first_packing_in_several_threads():
    for _ in range(20):
        part = PARTS["model"]()
        answers = meanwhile(lambda: None, lambda part=part: answer(part), 1)
        assert answers == {answer(part)}


def test_updates_of_several_threads_are_all_kept():
    part = Dense(8, 8)
    names = ("weight", "bias")
    ends = []

    def writer(name):
        for number in range(200):
            part.update({name: np.full(part.params.shapes[name], number, np.float32)})
        ends.append(name)

    threads = [threading.Thread(target=writer, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (part.params.flat == 199).all()


def test_backward_refuses_what_another_thread_has_changed_in_its_midst(monkeypatch):
    """The version is looked at again where the weights are taken."""
    layer = LSTM(3, 4, rng=0)
    y, _, tape = layer.forward(X)
    spend = rnnfast.tape.Tape.spend
    monkeypatch.setattr(rnnfast.tape.Tape, "spend", lambda self: (layer.load(other_values(layer)), spend(self)))
    into = layer.params.zeros()
    with pytest.raises(ValueError, match=r"^tape: expected the parameters as they were in forward"):
        layer.backward(tape, y, into=into)
    assert not into.flat.any()


def test_of_two_backwards_of_one_tape_one_is_refused():
    """Whatever comes between the look at the tape and its use."""
    for part in (LSTM(3, 4, rng=0), Dense(3, 4, rng=0), LayerNorm(3), PARTS["model"]()):
        y, *_, tape = part.forward(X)
        refused, start = [], threading.Barrier(8)

        def work(part=part, y=y, tape=tape, refused=refused, start=start):
            start.wait()
            try:
                part.backward(tape, y)
            except ValueError as error:
                assert "got a used one" in str(error)
                refused.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 7


def test_a_copy_of_a_tape_is_an_empty_one():
    part = PARTS["model"]()
    y, _, tape = part.forward(X)
    for other in (copy.copy(tape), copy.deepcopy(tape), pickle.loads(pickle.dumps(tape))):
        with pytest.raises(ValueError, match="got a used one"):
            part.backward(other, y)
        part.forward(X, tape=other)
    part.backward(tape, y)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_falls_into_no_write():
    layer = LSTM(3, 256, rng=0)
    versions = [np.full(layer.params.size, value, np.float32) for value in (0.0, 0.25)]
    layer.params.assign(versions[1])
    stop = threading.Event()

    def writer():
        while not stop.is_set():
            for version in versions:
                layer.params.assign(version)

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                whole = len(set(layer.params.flat[::997].tolist())) == 1
                layer.params.assign(versions[0])  # and the lock is free
                os._exit(0 if whole else 3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


# What is kept ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PARTS)
def test_a_snapshot_brings_the_values_back(kind):
    part = PARTS[kind]()
    best, expected = part.snapshot(), answer(part)
    assert list(best) == list(part.params)
    assert all(type(value) is np.ndarray and value.flags.writeable for value in best.values())
    part.load(other_values(part))
    assert answer(part) != expected
    part.load(best)
    assert answer(part) == expected
    best[next(iter(best))][...] = 7
    assert answer(part) == expected


def test_what_only_looks_like_a_snapshot_is_refused():
    layer = LSTM(3, 4, rng=0)
    params = layer.params
    kept = dict(params)
    layer.update({"bias_ih_l0": np.ones(16)})
    version = params.version
    for load in (
        lambda: layer.load(kept),
        lambda: layer.load(params),
        lambda: layer.load({name: np.asarray(value) for name, value in params.items()}),
        lambda: layer.update({"bias_ih_l0": kept["bias_ih_l0"]}),
        lambda: params.assign(params.flat),
    ):
        with pytest.raises(ValueError, match=r"^(mapping|flat): expected new values, got the parameters' own views"):
            load()
    assert params.version == version
    layer.load({**kept, "bias_ih_l0": np.zeros(16)})  # some may stay
    assert not params["bias_ih_l0"].any()
    LSTM(3, 4).load(params)  # those of another


# Views ----------------------------------------------------------------------------------------------------------------


def test_dlpack_of_parameters_is_refused_and_of_their_copies_is_not():
    layer = LSTM(3, 4, rng=0)
    for view in (layer.params["weight_ih_l0"], layer.params["weight_ih_l0"][:2], layer.params.flat):
        with pytest.raises(BufferError, match=r"^parameters: expected a copy for DLPack"):
            view.__dlpack__(max_version=(1, 0))
        with pytest.raises(BufferError):
            np.from_dlpack(view)
        copied = np.from_dlpack(view.copy())
        copied[...] = 9
    assert not (layer.params.flat == 9).any()


def test_torch_gets_no_tensor_of_the_parameters_memory():
    torch = pytest.importorskip("torch")
    layer = LSTM(3, 4, rng=0)
    with pytest.raises(BufferError):
        torch.from_dlpack(layer.params["weight_ih_l0"])
    torch.from_dlpack(layer.params["weight_ih_l0"].copy())[...] = 9
    with pytest.warns(UserWarning, match="not writable"):
        torch.from_numpy(layer.params["weight_ih_l0"])
    assert not (layer.params.flat == 9).any()


def test_views_are_plain_arrays_in_all_else():
    params = RNNCell(3, 4, rng=0).params
    view = params["weight_ih"]
    assert isinstance(view, np.ndarray)
    assert repr(view) == repr(np.array(view))
    unpickled = pickle.loads(pickle.dumps(view))
    for result in (view + 1, view @ view.T, np.tanh(view), np.concatenate([view, view]), unpickled):
        assert type(result) is np.ndarray
    assert type(view.sum()) is np.float32
    assert_same = np.testing.assert_array_equal
    assert_same(np.from_dlpack(view + 1), np.array(view) + 1)


# Streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_stream_takes_the_present_weights_when_it_is_told(weights):
    layer = LSTM(3, 9, 2, rng=0)
    stream = layer.stream(2, weights=weights)
    copied = stream.copy()
    y = stream.process(X)
    assert (stream.version, stream.stale) == (layer.params.version, False)
    state = stream.state
    layer.load(other_values(layer))
    assert stream.stale
    assert stream.version < layer.params.version
    again = copied.process(X)
    np.testing.assert_array_equal(again, y)
    stream.refresh()
    assert (stream.version, stream.stale, copied.stale) == (layer.params.version, False, True)
    fresh = layer.stream(2, weights=weights)
    fresh.state = state
    np.testing.assert_array_equal(stream.process(X), fresh.process(X))
    np.testing.assert_array_equal(np.stack(stream.state), np.stack(fresh.state))
    copied.refresh()
    copied.reset()
    fresh.reset()
    np.testing.assert_array_equal(copied.process(X), fresh.process(X))
    del layer, fresh
    stream.step(X[0])


def test_a_stream_knows_its_layer_when_that_has_joined_a_model():
    layer = GRU(3, 9, rng=0)
    stream = layer.stream()
    model = Model(rnn=layer, head=Dense(9, 2, rng=1))
    stream.refresh()
    assert not stream.stale
    model.update({"rnn.bias_ih_l0": np.ones(27)})
    assert stream.stale
    stream.refresh()
    np.testing.assert_array_equal(stream.process(X[:, 0]), layer(X[:, 0])[0])


def test_a_stream_is_refreshed_by_one_thread_at_a_time():
    layer = GRU(3, 300, rng=0)
    stream = layer.stream(64)
    x = np.zeros((200, 64, 3), np.float32)
    thread = threading.Thread(target=lambda: stream.process(x))
    thread.start()
    refused = 0
    while thread.is_alive():
        try:
            stream.refresh()
        except RuntimeError as error:
            refused += "another thread is inside this stream" in str(error)
    thread.join()
    assert refused
