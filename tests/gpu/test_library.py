"""The device's kernel with the step-wise engine, products and reductions, flat loops and losses, in the simulator."""

from __future__ import annotations

import numpy as np
import pytest
from device_problems import KINDS, MASKS, PRECISIONS, Problem, assert_close, on_device

from benchmarks.gpu import problems
from rnnfast import _flat, losses
from rnnfast._call import BackwardCall, ForwardCall
from rnnfast.cuda import arrays, blas, flat, graphs, persistent, reductions
from rnnfast.cuda import kernel as kernel_module
from rnnfast.cuda.kernel import Kernel
from rnnfast.cuda.plan import Plan, plan


@pytest.fixture(autouse=True)
def stepwise_only(monkeypatch):
    monkeypatch.setattr(kernel_module, "plan", lambda *_, **__: Plan("stepwise", None, None, "this test's"))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_agrees_with_the_oracle(kind, mask, reverse):
    Problem(kind, mask=mask, reverse=reverse, T=4, B=3, H=3).check()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_precisions(kind, precision):
    Problem(kind, precision=precision, mask="both", H=7, seed=1).check()


@pytest.mark.parametrize("kind", ["elman_tanh", "lstm", "gru_after"])
def test_the_persistent_engine_takes_the_same_calls(kind, monkeypatch):
    monkeypatch.setattr(kernel_module, "plan", plan)
    Problem(kind, precision="bfloat16", mask="both", T=2).check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [{"H": 1, "B": 1}, {"H": 7, "T": 1}, {"T": 0}, {"B": 0}])
def test_sizes_at_the_edge(kind, sizes):
    Problem(kind, **sizes).check()


@pytest.mark.parametrize("kind", ["elman_relu", "lstm", "gru_after", "gru_before"])
def test_ids(kind):
    Problem(kind, ids=True, mask="both", T=4, I=5).check()
    Problem(kind, ids=True, swapped=True, precision="bfloat16").check()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_swapped_axes_and_no_bias(precision):
    Problem("gru_after", swapped=True, bias=False, precision=precision).check()
    Problem("lstm", swapped=True, mask="lengths", precision=precision).check()


@pytest.mark.parametrize("kind", ["lstm", "gru_before"])
def test_inference_gives_the_bits_of_training(kind):
    problem = Problem(kind, mask="both")
    trained, inferred = problem.run(), problem.run(train=False)
    for name, value in inferred.items():
        assert value.tobytes() == trained[name].tobytes()


def test_the_state_of_an_empty_row_reaches_nothing_else():
    problem = Problem("lstm", mask="lengths", B=3)
    problem.lengths[1] = 0
    clean = problem.run()
    problem.h0[1] = np.nan
    found = problem.run()
    for name in ("y", "weight_ih", "weight_hh", "bias_hh"):
        assert found[name].tobytes() == clean[name].tobytes()


@pytest.mark.parametrize("bad", [-1, 9])
@pytest.mark.parametrize("ids", [False, True])
def test_a_length_out_of_range_makes_its_row_nan(ids, bad):
    problem = Problem("gru_after", mask="both", ids=ids, B=3, I=4)
    good = problem.run(train=False)
    problem.lengths[1] = bad
    found = problem.run(train=False)
    assert np.isnan(found["y"][:, 1]).all()
    assert np.isnan(found["hT"][1]).all()
    assert found["y"][:, ::2].tobytes() == good["y"][:, ::2].tobytes()


@pytest.mark.parametrize("ids", [False, True])
def test_the_input_may_have_any_strides(ids):
    problem = Problem("lstm", ids=ids, mask="lengths", precision="bfloat16")
    plain, backwards = problem.run(), problems.Call(problem)
    backwards._x, backwards._dy = (
        arrays.to_device(np.asarray(array)[::-1, ..., ::-1])[::-1, ..., ::-1] for array in (backwards._x, backwards._dy)
    )
    assert backwards._x.strides[0] < 0 > backwards._x.strides[-1]
    for name, value in backwards.run().items():
        assert value.tobytes() == plain[name].tobytes(), name


def test_an_id_out_of_range_makes_its_row_nan_from_there_on():
    problem = Problem("lstm", ids=True, T=3, B=2, I=4)
    problem.x[1, 0] = 4
    found = problem.run()
    assert np.isnan(found["y"][1:, 0]).all()
    assert np.isfinite(found["y"][0]).all()
    assert np.isfinite(found["y"][:, 1]).all()


def test_backward_adds_to_the_gradient_panels_if_told():
    kernel = Kernel("gru_after", 3, 2)
    once = [arrays.to_device(np.ones((2, 1, 3), np.float32)), arrays.zeros((1, 2))]
    panels = arrays.to_device(np.linspace(-1, 1, kernel.panel_size, dtype=np.float32))

    def run(gradients, adds):
        tape, y, dh0 = arrays.empty((kernel.tape_size(2, 1),)), arrays.empty((2, 1, 2)), arrays.empty((1, 2))
        kernel.forward(ForwardCall(panels, once[0], (y,), None, (dh0,), tape=tape))
        no_panels = arrays.empty((0,))
        call = BackwardCall(panels, no_panels, once[0], tape, (y,), None, None, (dh0,), gradients, adds=adds)
        kernel.backward(call)

    total, single = (arrays.to_device(np.full(kernel.panel_size, 7.0, np.float32)) for _ in range(2))
    run(total, adds=False)
    run(total, adds=True)
    run(single, adds=False)
    assert np.abs(single).max() > 0
    assert_close(total, 2 * single, 1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Products and reductions


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_gemm(precision, transpose_a, transpose_b):
    rng = np.random.default_rng(0)
    a, b, out = (rng.standard_normal(shape, np.float32) for shape in ((3, 4), (4, 5), (3, 5)))
    left, right = (np.ascontiguousarray(m.T) if t else m for m, t in ((a, transpose_a), (b, transpose_b)))
    left, right = (blas.as_stored(arrays.to_device(m), precision) for m in (left, right))
    target = arrays.to_device(np.pad(out, ((0, 0), (1, 2))))[:, 1:6]  # rows further apart than they are long
    options = {"transpose_a": transpose_a, "transpose_b": transpose_b, "precision": precision}
    blas.gemm(left, right, target, **options, add=True)
    bound = {"float32": 1e-6, "tf32": 1e-3, "bfloat16": 1e-2}[precision]
    assert_close(target, out + a @ b, bound)
    blas.gemm(left, right, target, **options)
    assert_close(target, a @ b, bound)


def test_gemm_of_empty_operands():
    out = arrays.to_device(np.ones((2, 3), np.float32))
    nothing = arrays.empty((2, 0)), arrays.empty((0, 3))
    blas.gemm(*nothing, out, add=True, precision="float32")
    assert (out == 1).all()
    blas.gemm(*nothing, out, precision="float32")
    assert (out == 0).all()


def test_as_stored_rounds_to_nearest_even():
    values = np.float32([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.3, np.inf])
    stored = blas.as_stored(arrays.to_device(values[None]), "bfloat16")
    back = (np.asarray(stored).astype(np.uint32) << 16).view(np.float32)[0]
    assert back.tolist() == [1, 1, 1 + 2**-6, 1 + 2**-7, np.float32(-3.296875), np.inf]


def test_as_operand_copies_only_what_it_must():
    x = arrays.to_device(np.ones((2, 3, 4), np.float32))
    assert np.shares_memory(blas.as_operand(x, None, "float32"), x)
    assert np.shares_memory(blas.as_operand(x[:, :, 1:3][:, :2][:1], None, "tf32"), x)
    assert not np.shares_memory(blas.as_operand(x.swapaxes(0, 1), None, "float32"), x)
    assert not np.shares_memory(blas.as_operand(x, None, "bfloat16"), x)


@pytest.mark.parametrize("rows", [1, 2, reductions.CHUNK, reductions.CHUNK + 1, reductions.CHUNK**2 + 1])
def test_column_sums(rows):
    matrix = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
    wide = arrays.to_device(np.pad(matrix, ((0, 0), (2, 1))))[:, 2:5]
    assert_close(reductions.column_sums(wide, "float32"), matrix.sum(axis=0, dtype=np.float64), 1e-5)


def test_column_sums_of_bfloat16():
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    stored = blas.as_stored(arrays.to_device(matrix), "bfloat16")
    assert reductions.column_sums(stored, "bfloat16").tolist() == matrix.sum(axis=0).tolist()


@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_scatter_add_is_the_one_hot_product(chunk, monkeypatch):
    monkeypatch.setattr(reductions, "CHUNK", chunk)
    rng = np.random.default_rng(chunk)
    ids, gradients = rng.integers(-1, 4, (5, 3)), rng.standard_normal((15, 2)).astype(np.float32)
    out = arrays.to_device(np.ones((2, 3), np.float32))
    reductions.scatter_add(arrays.to_device(gradients), arrays.to_device(ids), out, "float32")
    one_hot = (ids.reshape(-1, 1) == np.arange(3)).astype(np.float64)
    assert_close(out, 1 + gradients.T @ one_hot, 1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Graphs


class Graph:
    def __init__(self, log):
        self.launch = lambda: log.append("launched")


def test_a_key_runs_then_is_captured_then_replayed():
    log = []
    replays = graphs.Replays(lambda steps: log.append("captured") or Graph(log), 2)

    def run(key):
        log.clear()
        replays.run(key, lambda: log.append("run"))
        return list(log)

    assert run("a") == ["run"]
    assert run("a") == ["captured", "launched"]
    assert run("a") == ["launched"]
    assert run("b") == ["run"]
    assert run("a") == ["launched"]
    assert run("c") == ["run"]  # and forgets b, the least recently used
    assert run("a") == ["launched"]
    assert run("b") == ["run"]


def test_a_failed_capture_leaves_nothing_behind():
    def fail(steps):
        raise RuntimeError("no capture")

    replays, log = graphs.Replays(fail, 2), []
    replays.run("a", lambda: log.append("run"))
    with pytest.raises(RuntimeError, match="no capture"):
        replays.run("a", lambda: log.append("run"))
    replays.run("a", lambda: log.append("run"))
    assert log == ["run", "run"]


class CaptureStream:
    """Says what happens to it."""

    def __init__(self, log):
        self.log = log

    def __getattr__(self, name):
        return lambda: self.log.append(name) or "graph"

    def __enter__(self):
        self.log.append("current")

    def __exit__(self, *raised):
        self.log.append("left")


def test_a_capture_makes_the_handle_before_it_and_ends_in_any_case(monkeypatch):
    log = []
    monkeypatch.setattr(graphs, "_capture_stream", lambda device: CaptureStream(log))
    monkeypatch.setattr(blas, "cublas_handle", lambda: log.append("handle"))
    assert graphs._capture(lambda: log.append("steps")).graph == "graph"
    assert log == ["handle", "current", "begin_capture", "steps", "end_capture", "left"]
    with pytest.raises(ZeroDivisionError):
        graphs._capture(lambda: 1 / 0)
    assert log[-3:] == ["begin_capture", "end_capture", "left"]


# ---------------------------------------------------------------------------------------------------------------------
# Flat loops


def buffers(count, size=11):
    rng = np.random.default_rng(count)
    return [np.abs(rng.standard_normal(size)).astype(np.float32) for _ in range(count)]


ADAM = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.01}
OPTIMISERS = [
    ("sgd", 2, 1, {"lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.01}),
    ("sgd", 3, 0, {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01}),
    ("sgd", 3, 0, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0}),
    ("rmsprop", 3, 2, {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.0, "weight_decay": 0.01}),
    ("rmsprop", 5, 0, {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.9, "weight_decay": 0.01}),
    ("adam", 4, 0, {**ADAM, "step": 3, "decoupled": False}),
    ("adam", 4, 0, {**ADAM, "step": 1, "decoupled": True}),
]
"""Name, buffers that are there, buffers that are None, options."""


@pytest.mark.parametrize(("name", "count", "absent", "options"), OPTIMISERS)
def test_optimiser_steps_are_those_of_the_host(name, count, absent, options):
    host = buffers(count) + [None] * absent
    device = [on_device(array) for array in host]
    getattr(_flat, name)(*host, **options)
    getattr(flat, name)(*device, **options)
    for expected, actual in zip(host[:count], device, strict=False):
        assert_close(actual, expected, 1e-6)


def test_sums_scaling_and_clamping():
    values = np.float32([3, -4, 0.5])
    array = arrays.to_device(values)
    assert flat.sum_of_squares(array) == 25.25
    flat.scale(array, 2.0)
    assert array.tolist() == [6, -8, 1]
    array[2] = np.nan
    flat.clamp(array, 7.0)
    assert array[:2].tolist() == [6, -7]
    assert np.isnan(array[2])


@pytest.mark.parametrize(
    ("limit", "factor"), [(1.0, 1 / (5 + 1e-6)), (5.0, 5 / (5 + 1e-6)), (6.0, 1), (np.inf, 1), (0.0, 0)]
)
def test_scale_to_norm(limit, factor):
    array = arrays.to_device(np.float32([3, 4]))
    norm = flat.scale_to_norm(array, limit)
    assert arrays.is_device_array(norm)
    assert (norm.shape, float(norm)) == ((), 5.0)
    assert array.tolist() == (np.float32([3, 4]) * np.float32(factor)).tolist()


def test_scale_to_norm_leaves_gradients_that_are_not_finite():
    array = arrays.to_device(np.float32([3, np.inf]))
    assert np.isinf(flat.scale_to_norm(array, 1.0))
    assert array.tolist() == [3, np.inf]


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def loss_arguments(name, dtype):
    rng = np.random.default_rng(0)
    prediction = rng.standard_normal((4, 3, 5)).astype(dtype)
    if name == "softmax_cross_entropy":
        return prediction, rng.integers(0, 5, (4, 3)), {}
    target = rng.random((4, 3, 5)).astype(np.float32)
    if name == "binary_cross_entropy":
        return prediction, target, {"logits": True}
    return prediction, target, {}


LOSSES = ("softmax_cross_entropy", "mean_squared_error", "binary_cross_entropy", "mean_absolute_error", "huber")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("masked", ["none", "bool", "weights", "lengths", "both", "nothing"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_the_host(name, masked, reduction, dtype):
    prediction, target, options = loss_arguments(name, dtype)
    rng = np.random.default_rng(1)
    masks = {}
    if masked in ("bool", "both"):
        masks["mask"] = rng.random((4, 3)) < 0.5
    if masked == "weights":
        masks["mask"] = rng.integers(0, 3, (4, 3)).astype(np.float32)
    if masked == "nothing":
        masks["mask"] = np.zeros((4, 3), bool)
    if masked in ("lengths", "both"):
        masks["lengths"] = np.array([4, 0, 2])
    expected = getattr(losses, name)(prediction, target, **masks, **options, reduction=reduction)
    unused = masks.get("mask", np.ones((4, 3))) == 0
    if "lengths" in masks:
        unused |= np.arange(4)[:, None] >= masks["lengths"]
    prediction[unused], target[unused] = np.nan, -9 if target.dtype.kind == "i" else np.nan
    device = {key: arrays.to_device(value) for key, value in masks.items()}
    found = getattr(losses, name)(
        *map(arrays.to_device, (prediction, target)), **device, **options, reduction=reduction
    )
    assert isinstance(found[0], float)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert arrays.is_device_array(found[1])
    assert found[1].dtype == dtype
    assert_close(found[1], expected[1], 1e-6)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"ignore_index": 2}, {"class_weights": [1, 0, 2, 0.5, 1]}]
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_class_weights_smoothing_and_soft_targets_are_those_of_the_host(soft, options, reduction):
    rng = np.random.default_rng(0)
    logits, ids = rng.standard_normal((4, 3, 5)).astype(np.float32), rng.integers(0, 5, (4, 3))
    if soft:
        ids = rng.dirichlet(np.ones(5), (4, 3)).astype(np.float32)
        options = options | {"label_smoothing": 0.2} if "ignore_index" not in options else {}
    both = {"class_weights": [1, 1, 2, 3, 1]} | options if "label_smoothing" in options else options
    expected = losses.softmax_cross_entropy(logits, ids, reduction=reduction, **both)
    device = both | {k: arrays.to_device(np.array(v, np.float64)) for k, v in both.items() if k == "class_weights"}
    found = losses.softmax_cross_entropy(*map(arrays.to_device, (logits, ids)), reduction=reduction, **device)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert_close(found[1], expected[1], 1e-6)


@pytest.mark.parametrize("name", ["mean_squared_error", "binary_cross_entropy", "huber"])
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
def test_masks_of_elements_are_those_of_the_host(name, lengths):
    prediction, target, options = loss_arguments(name, np.float32)
    mask = np.random.default_rng(1).integers(0, 3, (4, 3, 5)).astype(np.float32)
    expected = getattr(losses, name)(prediction, target, mask=mask, lengths=lengths, **options)
    prediction[mask == 0] = np.nan
    ends = None if lengths is None else arrays.to_device(np.array(lengths))
    moved = map(arrays.to_device, (prediction, target))
    out = arrays.empty((4, 3, 5))
    found = getattr(losses, name)(*moved, mask=arrays.to_device(mask), lengths=ends, out=out, **options)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1] is out
    assert_close(out, expected[1], 1e-6)


def test_binary_cross_entropy_of_probabilities_and_batch_first():
    rng = np.random.default_rng(0)
    p, target = rng.random((3, 4, 2)).astype(np.float32), rng.random((3, 4, 2)) < 0.5
    p[0, 0] = 0, 1
    options = {"lengths": np.array([4, 1, 2]), "batch_first": True}
    expected = losses.binary_cross_entropy(p, target, **options)
    options["lengths"] = arrays.to_device(options["lengths"])
    out = arrays.empty(p.shape)
    found = losses.binary_cross_entropy(*map(arrays.to_device, (p, target)), **options, out=out)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1] is out
    assert_close(out, expected[1], 1e-6)


def test_losses_make_what_is_out_of_range_nan():
    logits, ids = arrays.to_device(np.zeros((2, 3), np.float32)), arrays.to_device(np.array([0, 3]))
    loss, gradient = losses.softmax_cross_entropy(logits, ids)
    assert np.isnan(loss)
    assert np.isnan(gradient[1]).all()
    assert np.isfinite(gradient[0]).all()
    prediction = arrays.to_device(np.zeros((2, 1, 3), np.float32))
    weights = arrays.to_device(np.float32([[1], [-1]]))
    assert np.isnan(losses.mean_squared_error(prediction, prediction, mask=weights)[0])
    lengths = arrays.to_device(np.array([3]))
    assert np.isnan(losses.mean_squared_error(prediction, prediction, lengths=lengths)[0])
    assert np.isnan(losses.binary_cross_entropy(prediction, prediction + 2, logits=True)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_losses_refuse_host_arrays(name):
    prediction, target, options = loss_arguments(name, np.float32)
    function = getattr(losses, name)
    second = "ids" if name == "softmax_cross_entropy" else "target"
    with pytest.raises(TypeError, match=f"{second}: expected an array on the CUDA device"):
        function(arrays.to_device(prediction), target, **options)
    on = [arrays.to_device(array) for array in (prediction, target)]
    with pytest.raises(TypeError, match="mask: expected an array on the CUDA device"):
        function(*on, mask=np.ones((4, 3), bool), **options)
    with pytest.raises(ValueError, match="out: expected memory of its own"):
        function(*on, out=on[0], **options)


@pytest.mark.parametrize("kind", ["lstm", "gru_after"])
def test_u_is_packed_once_while_the_parameters_are_the_same(kind, monkeypatch):
    monkeypatch.setattr(kernel_module, "plan", plan)
    made, packed = [], persistent.packed
    monkeypatch.setattr(
        persistent, "packed", lambda *given, backward: made.append(backward) or packed(*given, backward=backward)
    )
    call = problems.Call(Problem(kind, T=2))
    first = call.run()
    assert made == [False, True]
    second = call.run()
    assert made == [False, True]
    assert all(value.tobytes() == second[name].tobytes() for name, value in first.items())
    params = tuple(None if one is None else one * 2 for one in call._kernel._views(call._panels))
    call._kernel.pack(params, call._panels)
    third = call.run()
    assert made == [False, True] * 2
    assert not np.array_equal(third["y"], first["y"])


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_dropout_is_that_of_the_host(p):
    for shape in ((3, 2, 7), (0, 2, 3), (2, 3, 100)):
        wanted = np.empty(shape, np.float32)
        _flat.dropout(wanted, 2**63 - 5, 3, 2**32, 7, p)
        found = arrays.to_device(np.full(shape, np.nan, np.float32))
        flat.dropout(found, 2**63 - 5, 3, 2**32, 7, p)
        np.testing.assert_array_equal(arrays.to_host(found), wanted)
