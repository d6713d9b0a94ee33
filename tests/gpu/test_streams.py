"""More than one device and more than one stream: what the simulator has of them, and drivers that write down."""

from __future__ import annotations

import copy
import gc
import pickle
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

import rnnfast
from rnnfast import GRU, LSTM, TBPTT, Dense, LayerNorm, Model, losses, optim
from rnnfast import _device as devices
from rnnfast.cuda import arrays, blas, graphs, shim, streams
from rnnfast.cuda import kernel as kernel_module
from rnnfast.cuda.persistent import steps
from rnnfast.cuda.plan import Partition, Plan
from rnnfast.diagnostics import gradient_norm_by_distance

X = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)

# ---------------------------------------------------------------------------------------------------------------------
# Devices. In the simulator, whatever is done to an array of a device that is not current is an error.


@pytest.fixture
def stepwise(monkeypatch):
    """The engine that is quicker in the simulator."""
    monkeypatch.setattr(kernel_module, "plan", lambda *_, **__: Plan("stepwise", None, None, "this test's"))


def on_second(make):
    with arrays.on(1):
        return make()


def test_the_simulator_sees_work_outside_of_a_device():
    array = on_second(lambda: arrays.zeros((2,)))
    for work in (
        lambda: array + array,
        lambda: array.fill(1),
        lambda: array.copy(),
        lambda: array.__setitem__(0, 1),
        lambda: np.where(array > 0, array, array),
    ):
        with pytest.raises(RuntimeError, match=r"\(simulated\) device 1 while 0 is current"):
            work()
    assert on_second(lambda: array[1:] + 1).number == 1


@pytest.mark.usefixtures("stepwise")
def test_what_was_current_is_current_again():
    layer = on_second(lambda: GRU(3, 4, rng=0, device="cuda"))
    assert repr(layer.params.device) == "cuda:1"
    layer(X)
    assert arrays.current_device() == 0
    with pytest.raises(ValueError, match="x: expected"):
        layer(X[0, 0, 0])
    assert arrays.current_device() == 0


@pytest.mark.usefixtures("stepwise")
@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_a_call_runs_where_its_layer_lies(kind):
    """With another device current, and to the bits of a layer on that one."""
    layer, same = on_second(lambda: kind(3, 4, rng=0, device="cuda")), kind(3, 4, rng=0, device="cuda")
    for put in (np.asarray, lambda x: on_second(lambda: arrays.to_device(x))):
        y, _, tape = layer.forward(put(X))
        grads = layer.backward(tape, put(np.ones((4, 2, 4), np.float32)))
        expected, _, other = same.forward(X)
        wanted = same.backward(other, np.ones((4, 2, 4), np.float32))
        assert np.array_equal(np.asarray(y), expected)
        assert np.array_equal(np.asarray(grads.x), wanted.x)
        assert grads.params.flat.number == 1
        assert np.array_equal(np.asarray(grads.params.flat), np.asarray(wanted.params.flat))
        stream = layer.stream(2)
        assert np.array_equal(np.asarray(stream.process(put(X))), expected)
        stream.reset()
        stream.state = stream.state
        assert np.array_equal(np.asarray(stream.copy().step(put(X[0]))), expected[0])


def test_an_array_of_another_device_is_refused():
    layer, x = GRU(3, 4, device="cuda"), on_second(lambda: arrays.to_device(X))
    said = "expected an array on device 0, where the call runs, got one on device 1"
    with pytest.raises(ValueError, match=f"x: {said}"):
        layer(x)
    with pytest.raises(ValueError, match=f"state: {said}"):
        layer(arrays.to_device(X), on_second(lambda: arrays.zeros((1, 2, 4))))
    with pytest.raises(ValueError, match=f"mapping|weight_ih_l0|.*{said}"):
        layer.update({"weight_ih_l0": on_second(lambda: arrays.zeros((12, 3)))})
    with pytest.raises(ValueError, match=f"x: {said}"):
        layer.stream(2).step(x[0])
    with pytest.raises(ValueError, match=f"target: {said}"):
        losses.mean_squared_error(arrays.to_device(X), x)


def test_parameters_are_written_where_they_lie():
    layer = on_second(lambda: GRU(3, 4, rng=0, device="cuda"))
    params, ones = layer.params, np.ones((12, 3), np.float32)
    layer.update({"weight_ih_l0": ones})
    layer.update({"weight_ih_l0": on_second(lambda: arrays.to_device(ones))})
    kept = params.copy()
    params.assign(np.zeros(params.size, np.float32))
    with params.writing() as flat:
        on_second(lambda: flat.fill(2))
    layer.load(kept)
    assert (np.asarray(params["weight_ih_l0"]) == 1).all()
    assert all(value.number == 1 for value in params.values())
    params.zeros().zero()
    # A copy is made where it is asked for, as a pickle is.
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(np.asarray(other.params.flat), np.asarray(params.flat))


@pytest.mark.usefixtures("stepwise")
def test_training_runs_where_its_model_lies():
    def made():
        model = Model(
            norm=LayerNorm(3, device="cuda"),
            rnn=GRU(3, 4, rng=0, device="cuda"),
            head=Dense(4, 2, rng=1, device="cuda"),
        )
        return model, optim.AdamW(model.params, 1e-2)

    target = np.ones((4, 2, 2), np.float32)
    results = []
    for model, optimizer in (on_second(made), made()):
        trainer = TBPTT(model, losses.mean_squared_error, optimizer, k1=2, clip_norm=1.0)
        found = [float(trainer.step(x, y).loss) for x, y in ((X[:2], target[:2]), (X[2:], target[2:]))]
        trainer.load_state_dict(trainer.state_dict())
        optimizer.load_state_dict(optimizer.state_dict())
        y, _, tape = model.forward(X)
        gradients = model.backward(tape, np.ones_like(y)).params
        found += [optim.clip_grad_norm(gradients, 1.0)]
        optim.clip_grad_value(gradients, 0.01)
        optimizer.step(gradients)
        results.append([*found, *model.params.device.to_host(model.params.flat)])
    assert np.array_equal(*results)


@pytest.mark.usefixtures("stepwise")
def test_losses_and_diagnostics_run_where_their_arrays_lie():
    z, target = (on_second(lambda: arrays.to_device(X)) for _ in range(2))
    loss, gradient = losses.mean_squared_error(z, target)
    assert (loss, gradient.number) == (0, 1)
    assert devices.holder(z).number == 1
    assert devices.holder(X) is devices.HOST
    layer = on_second(lambda: rnnfast.RNN(3, 4, rng=0, device="cuda"))
    dy = on_second(lambda: arrays.to_device(np.ones((2, 4), np.float32)))
    assert gradient_norm_by_distance(layer, z, dy).shape == (4,)
    batches = rnnfast.tbptt.stateful_batches(z[:, 0], 1, 2)
    assert [x.number for x, _ in batches] == [1] * len(batches)


# ---------------------------------------------------------------------------------------------------------------------
# Streams


class Stream:
    """Writes down what it is told, in the log of its library."""

    def __init__(self, library, ptr):
        self.fake, self.ptr, self.captured = library, ptr, False

    def is_capturing(self):
        return self.captured

    def record(self):
        self.fake.log.append(("record", self.ptr))
        return f"event of {self.ptr}"

    def wait_event(self, event):
        self.fake.log.append(("wait", self.ptr, event))


class Event:
    def __init__(self, library):
        self.fake, self.done = library, False

    def record(self, stream):
        self.fake.log.append(("event", stream.ptr, self.fake.device))
        self.fake.events.append(self)


class Library:
    """CuPy's streams, events and devices, as far as they are used."""

    def __init__(self):
        self.log, self.events, self.device, self.stream = [], [], 0, None

    def get_current_stream(self):
        return self.stream

    def Event(self, *, disable_timing):
        assert disable_timing
        return Event(self)

    def Device(self, number=None):
        @contextmanager
        def device():
            before, self.device = self.device, number
            yield
            self.device = before

        return SimpleNamespace(id=self.device) if number is None else device()


@pytest.fixture
def library(monkeypatch):
    found = Library()
    found.stream = Stream(found, 7)
    monkeypatch.setattr(streams, "_cuda", lambda: found)
    monkeypatch.setattr(streams, "_turns", streams._Turns())
    monkeypatch.setattr(streams, "_left", type(streams._left)())
    return found


class Foreign:
    """Another library's array. It counts those that are left."""

    left = 0

    def __init__(self):
        Foreign.left += 1

    def __del__(self):
        Foreign.left -= 1

    def __dlpack__(self):
        raise AssertionError("CuPy asks for it")


class View:
    """CuPy's array on another's memory."""


@pytest.fixture
def adopted(monkeypatch):
    """`arrays.adopt` with a CuPy that makes views."""
    xp = SimpleNamespace(ndarray=View, from_dlpack=lambda value: View())
    monkeypatch.setattr(arrays, "xp", lambda: xp)
    monkeypatch.setattr(arrays, "shim", SimpleNamespace(SIMULATED=False))
    monkeypatch.setattr(Foreign, "left", 0)
    return arrays.adopt


def test_another_library_s_memory_outlives_what_reads_it(library, adopted):
    """It is kept, after the last of our arrays on it is gone, until what was launched by then has run."""
    library.device = 3
    view = adopted(Foreign())
    library.device, library.stream = 0, Stream(library, 8)
    gc.collect()
    assert (Foreign.left, library.log) == (1, [])
    tape = [view]
    del view
    assert (Foreign.left, library.log) == (1, [])
    tape.clear()
    gc.collect()
    assert library.log == [("event", 7, 3)]  # of the call's stream and device, which are no longer current
    assert library.device == 0
    assert Foreign.left == 1
    del tape
    first = adopted(Foreign())
    del first
    assert (Foreign.left, len(library.events)) == (2, 2)
    library.events[0].done = True
    second = adopted(Foreign())
    library.events[1].done = True
    del second
    assert Foreign.left == 1  # its own event has not passed
    library.events[2].done = True
    streams._sweep()
    assert Foreign.left == 0


def test_our_own_arrays_are_left_alone(library, adopted):
    own = View()
    assert adopted(own) is own
    del own
    gc.collect()
    assert library.log == []


def test_nothing_is_recorded_on_a_stream_that_is_captured(library, adopted):
    view = adopted(Foreign())
    library.stream.captured = True
    del view
    gc.collect()
    assert (Foreign.left, library.log) == (0, [])


def launch(library, ptr=None, device=0):
    """A persistent launch on a stream, which is known by its number."""
    library.device = device
    library.stream = library.stream if ptr is None else Stream(library, ptr)
    streams.turn(lambda: library.log.append(("launch", library.stream.ptr)))


def test_persistent_grids_of_two_streams_follow_each_other(library):
    launch(library)
    launch(library)
    launch(library, 7)  # the same stream as another object
    assert library.log == [("launch", 7)] * 3
    library.log.clear()
    launch(library, 8)
    launch(library, 7)
    assert library.log == [
        *(("record", 7), ("wait", 8, "event of 7"), ("launch", 8)),
        *(("record", 8), ("wait", 7, "event of 8"), ("launch", 7)),
    ]


def test_those_of_two_devices_do_not_wait(library):
    launch(library, 7, device=0)
    launch(library, 8, device=1)
    launch(library, 7, device=0)
    assert [said[0] for said in library.log] == ["launch"] * 3


def test_a_captured_stream_neither_waits_nor_is_waited_for(library):
    launch(library, 7)
    library.stream = Stream(library, 8)
    library.stream.captured = True
    launch(library)
    launch(library, 7)
    assert [said[0] for said in library.log] == ["launch"] * 3
    library.log.clear()
    library.stream.captured = True
    launch(library, 9)
    assert library.log == [("launch", 9)]


def test_a_launch_that_fails_has_not_been(library):
    launch(library, 7)
    library.stream = Stream(library, 8)
    with pytest.raises(ZeroDivisionError):
        streams.turn(lambda: 1 / 0)
    library.log.clear()
    launch(library, 7)
    assert library.log == [("launch", 7)]


def test_the_persistent_engine_takes_turns_where_blocks_wait_for_each_other(monkeypatch):
    taken = []

    def turn(launch):
        taken.append("in")
        launch()
        taken.append("out")

    monkeypatch.setattr(streams, "turn", turn)
    kernel = SimpleNamespace(launch=lambda *_, cooperative, **__: taken.append(cooperative))
    for blocks in (1, 2):
        steps.launch(kernel, Partition(1, 1, 1, blocks, 3, 16), 0, (None,), (5,))
    assert taken == [False, "in", True, "out"]


# ---------------------------------------------------------------------------------------------------------------------
# What captured products work in


class Products:
    """cuBLAS's functions, as far as they are called."""

    def __init__(self):
        self.log = []
        self.kinds = self.arithmetic = {"float32": 0}
        self.algorithm = 0

    def set_stream(self, handle, stream):
        self.log.append("stream")

    def set_workspace(self, handle, address, size):
        self.log.append(("workspace", address, size))

    def gemm(self, *arguments):
        self.log.append("product")


@pytest.fixture
def products(monkeypatch):
    """Products by a library that writes down; arrays have addresses."""
    found = Products()
    monkeypatch.setattr(blas, "_library", lambda: found)
    monkeypatch.setattr(blas, "cublas_handle", lambda: 1)
    monkeypatch.setattr(
        blas.arrays, "empty", lambda shape, dtype: SimpleNamespace(data=SimpleNamespace(ptr=id(shape)), nbytes=shape[0])
    )
    return found


def product():
    matrix = SimpleNamespace(data=SimpleNamespace(ptr=1), shape=(2, 2), strides=(8, 4), itemsize=4, ndim=2)
    blas._cublas(matrix, matrix, matrix, 2, False, False, False, "float32")


def test_a_product_has_the_workspace_that_was_given(products):
    product()
    assert products.log == ["stream", "product"]
    products.log.clear()
    with blas.workspace() as space:
        product()
        with blas.workspace() as inner:
            assert inner is space
        product()
    product()
    given = ("workspace", space.data.ptr, 32 << 20)
    assert products.log == ["stream", given, "product"] * 2 + ["stream", "product"]


def test_an_older_device_has_a_smaller_one(products, monkeypatch):
    monkeypatch.setattr(shim, "limits", lambda device: shim.Limits(108, 166912, (8, 0)))
    with blas.workspace() as space:
        assert space.nbytes == 4 << 20


class CaptureStream:
    def __init__(self, log):
        self.log = log

    def begin_capture(self):
        self.log.append("begin")

    def end_capture(self):
        self.log.append("end")
        return SimpleNamespace(launch=lambda: self.log.append("replay"))

    def __enter__(self):
        self.log.append("current")

    def __exit__(self, *raised):
        self.log.append("left")


def test_each_graph_has_a_workspace_of_its_own_and_keeps_it(products, monkeypatch):
    """And a call that only runs has one of the same size, so that cuBLAS chooses the same algorithm."""
    monkeypatch.setattr(graphs, "shim", SimpleNamespace(SIMULATED=False))
    monkeypatch.setattr(graphs, "_capture_stream", lambda device: CaptureStream(products.log))
    replays = graphs.Replays(graphs._capture, 2)
    monkeypatch.setattr(graphs, "_replays", replays)
    logs = []
    for key in ("a", "a", "a", "b", "b"):
        products.log.clear()
        graphs.run(product, key)
        logs.append(list(products.log))
    sizes = [[said[2] for said in log if said[0] == "workspace"] for log in logs]
    assert sizes == [[32 << 20], [32 << 20], [], [32 << 20], [32 << 20]]
    assert [said for said in logs[1] if said[0] != "workspace"] == [
        *("current", "begin", "stream", "product", "end", "left", "replay")
    ]
    assert logs[2] == ["replay"]
    one, other = (graph.workspace for graph in replays._graphs.values())
    assert one is not other
    assert {said[1] for log in (logs[1], logs[4]) for said in log if said[0] == "workspace"} == {
        one.data.ptr,
        other.data.ptr,
    }
