"""The kernels against the float64 oracle: every registered case through the public layers, then the raw binding."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from registry import (
    DESCRIBED_AXES,
    DESCRIBED_ROWS,
    DTYPES,
    FUSED,
    FUSED_AXES,
    FUSED_ROWS,
    ISAS,
    TOLERANCES,
    Case,
    assert_close,
    cases,
    map_state,
    oracle,
    parts,
    swap,
)

from rnnfast import _core, reference
from rnnfast._call import BackwardCall, ForwardCall


@pytest.mark.parametrize(("axes", "rows"), [(FUSED_AXES, FUSED_ROWS), (DESCRIBED_AXES, DESCRIBED_ROWS)])
def test_every_pair_of_values_of_two_axes_occurs(axes, rows):
    for first, second in combinations(axes, 2):
        seen = {(row[first], row[second]) for row in rows}
        assert seen == set(product(axes[first], axes[second]))


@pytest.mark.parametrize("case", cases(), ids=str)
def test_layer_agrees_with_the_oracle(case):
    check(case)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", FUSED)
def test_long_chains(isa, kind, dtype, threads):
    """Long chains of many rows, whose panels come in pieces; a row alone, whose panels do not, has the same bits."""
    case = Case(kind, isa, dtype, threads=threads, mask="both", I=650, H=401, T=2, B=70)
    layer = check(case)
    x, state = np.nan_to_num(case.data.x), case.data.state
    y, _ = layer(x, state, num_threads=threads)
    alone, _ = layer(x[:, :1], map_state(lambda part: part[:, :1].copy(), state), num_threads=threads)
    assert alone.tobytes() == y[:, :1].tobytes()


_answers: dict[Any, tuple[Any, Any]] = {}
"""The oracle's last ones: instruction sets and numbers of threads follow each other, and change nothing of them."""


def answers(case, layer):
    """The oracle's to a case whose data nobody has changed."""
    key = replace(case, isa="", threads=0), hashlib.sha256(layer.params.flat).digest()
    if key not in _answers:
        if len(_answers) == 4:
            del _answers[next(iter(_answers))]
        _answers[key] = oracle(case, layer)
    return _answers[key]


def check(case):
    """A layer's results and gradients against the oracle's; returns the layer."""
    layer, data = case.layer(), case.data
    forward_tolerance, backward_tolerance = TOLERANCES[np.dtype(case.dtype)]
    expected, expected_gradients = answers(case, layer)

    x, dy = swap(case, data.x), swap(case, data.dy)
    masks = data.masks
    masks = {name: swap(case, value) if name in ("resets", "mask") else value for name, value in masks.items()}
    if data.extra:
        masks["given"] = {name: swap(case, value) for name, value in data.extra["given"].items()}
    out = np.full_like(dy, np.nan, order="C")
    masks |= {"ids": True} if case.ids else {}
    y, state, tape = layer.forward(x, data.state, out=out, num_threads=case.threads, **masks)
    assert y is out
    assert_close(swap(case, y), expected.y, forward_tolerance)
    for actual, wanted in zip(parts(state), parts(expected.state), strict=True):
        assert_close(actual, wanted, forward_tolerance)

    inferred, inferred_state = layer(x, data.state, num_threads=case.threads, **masks)
    assert inferred.tobytes() == y.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(parts(inferred_state), parts(state), strict=True))

    grads = layer.backward(tape, dy, data.dstate, num_threads=case.threads)
    if case.ids:
        assert grads.x is None
    else:
        assert_close(swap(case, grads.x), expected_gradients.dx, backward_tolerance)
    for actual, wanted in zip(parts(grads.state), parts(expected_gradients.dstate), strict=True):
        assert_close(actual, wanted, backward_tolerance)
    if "reset_state" in masks:
        for actual, wanted in zip(parts(grads.reset_state), parts(expected_gradients.d_reset_state), strict=True):
            assert_close(actual, wanted, backward_tolerance)
    else:
        assert grads.reset_state is None
    if data.extra:
        for actual, wanted in zip(grads.given.values(), expected_gradients.dgiven, strict=True):
            assert_close(swap(case, actual), wanted, backward_tolerance)
    assert list(grads.params) == list(layer.params)
    for name in layer.params:
        assert_close(grads.params[name], expected_gradients.params[name], backward_tolerance)
    return layer


@pytest.mark.parametrize(("isa", "kind"), list(product(ISAS, FUSED)))
def test_gradients_accumulate_and_may_leave_parts_out(isa, kind):
    case = Case(kind, isa, T=5, B=3, bidirectional=True)
    layer, data = case.layer(), case.data
    plain = layer.backward(layer.forward(data.x, data.state)[2], data.dy, data.dstate)

    into = layer.params.zeros()
    into.flat[:] = 1
    added = layer.backward(layer.forward(data.x, data.state)[2], data.dy, data.dstate, into=into, input_gradient=False)
    assert added.params is into
    assert added.x is None
    np.testing.assert_allclose(into.flat, 1 + plain.params.flat, rtol=1e-5, atol=1e-5)

    only_state = layer.backward(layer.forward(data.x, data.state)[2], None, data.dstate)
    zeros = layer.backward(layer.forward(data.x, data.state)[2], np.zeros_like(data.dy), data.dstate)
    assert only_state.x.tobytes() == zeros.x.tobytes()
    assert only_state.params.flat.tobytes() == zeros.params.flat.tobytes()
    if kind == "lstm":
        half = layer.backward(layer.forward(data.x, data.state)[2], data.dy, (data.dstate[0], None))
        whole = (data.dstate[0], np.zeros_like(data.dstate[1]))
        zeros = layer.backward(layer.forward(data.x, data.state)[2], data.dy, whole)
        assert half.x.tobytes() == zeros.x.tobytes()


# The raw binding ------------------------------------------------------------------------------------------------------


class Call:
    """A call's fields by name, forward and backward, which a test may spoil; `part` is a state's place in a tuple."""

    def __init__(self, kind: str, isa: str, dtype: Any = np.float32, T: int = 4, B: int = 3, I: int = 5, H: int = 7):  # noqa: E741
        rng = np.random.default_rng(5)
        count = _core.CELLS[kind][1]

        def normal(*shape: int) -> Any:
            return rng.standard_normal(shape).astype(dtype)

        def poison(*shape: int) -> Any:
            return np.full(shape, np.nan, dtype)

        def states(make: Any) -> tuple[Any, ...]:
            return tuple(make(B, H) for _ in range(count))

        def of_h(array: Any) -> tuple[Any, ...]:
            return (array, None)[:count]

        self.kind, self.dtype = kind, dtype
        self.kernel = _core.Kernel(kind, np.dtype(dtype).name, I, H, isa)
        self.weights = reference.init_params(kind, I, H, rng)
        self.weights = {name: value.astype(dtype) for name, value in self.weights.items()}
        self.panels = np.zeros(self.kernel.panel_size, dtype)
        self.panels_backward = np.zeros(self.kernel.panel_size_backward, dtype)
        self.kernel.pack(tuple(self.weights.values()), self.panels)
        self.kernel.pack_backward(tuple(self.weights.values()), self.panels_backward)
        tape = np.zeros(self.kernel.tape_size(T, B), dtype)
        both = {
            "panels": self.panels,
            "x": normal(T, B, I),
            "tape": tape,
            "state": states(normal),
            "reset_state": states(normal),
            "lengths": rng.integers(1, T + 1, B),
            "resets": rng.random((T, B)) < 0.4,
            "reverse": False,
            "num_threads": 2,
        }
        self.forward = both | {"y": of_h(poison(T, B, H)), "final_state": states(poison)}
        self.backward = both | {
            "panels_backward": self.panels_backward,
            "dy": of_h(normal(T, B, H)),
            "dfinal": states(normal),
            "dx": poison(T, B, I),
            "dstate": states(poison),
            "dpanels": np.zeros(self.kernel.gradient_size, self.panels.dtype),
            "d_reset_state": states(poison),
        }

    def run_forward(self, **changes: Any) -> None:
        self.kernel.forward(ForwardCall(**self.forward | changes))

    def run_backward(self, **changes: Any) -> None:
        self.kernel.backward(BackwardCall(**self.backward | changes))


def test_the_kernels_read_the_fields_of_the_calls():
    assert ForwardCall._fields == _core.FORWARD_FIELDS
    assert BackwardCall._fields == _core.BACKWARD_FIELDS


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("isa", "kind", "dtype"), list(product(ISAS, FUSED, DTYPES)))
def test_raw_kernel_agrees_with_the_oracle(isa, kind, dtype, reverse):
    call = Call(kind, isa, dtype)
    forward, backward = call.forward, call.backward
    call.run_forward(reverse=reverse)
    call.run_backward(reverse=reverse)

    masks = {name: forward[name] for name in ("lengths", "resets", "reset_state")}
    result = reference.forward(kind, call.weights, forward["x"], *forward["state"], **masks, reverse=reverse)
    expected = reference.backward(result, backward["dy"][0], *backward["dfinal"])
    forward_tolerance, backward_tolerance = TOLERANCES[np.dtype(dtype)]
    assert_close(forward["y"][0], result.y, forward_tolerance)
    for actual, wanted in zip(forward["final_state"], result.state, strict=True):
        assert_close(actual, wanted, forward_tolerance)
    assert_close(backward["dx"], expected.dx, backward_tolerance)
    found = backward["dstate"] + backward["d_reset_state"]
    for actual, wanted in zip(found, (*expected.dstate, *expected.d_reset_state), strict=True):
        assert_close(actual, wanted, backward_tolerance)
    gradients = {name: np.full_like(value, np.nan) for name, value in call.weights.items()}
    call.kernel.unpack(backward["dpanels"][: call.kernel.panel_size], tuple(gradients.values()))
    for name, value in gradients.items():
        assert_close(value, expected.params[name], backward_tolerance)


@pytest.mark.parametrize(("isa", "kind", "dtype"), list(product(ISAS, FUSED, DTYPES)))
def test_unpack_is_the_inverse_of_pack(isa, kind, dtype):
    for sizes in ((1, 1), (3, 16), (17, 33), (40, 5)):
        call = Call(kind, isa, dtype, I=sizes[0], H=sizes[1])
        copies = {name: np.full_like(value, np.nan) for name, value in call.weights.items()}
        call.kernel.unpack(call.panels, tuple(copies.values()))
        for name, value in call.weights.items():
            np.testing.assert_array_equal(copies[name], value)


def spoiled(good: Any) -> list[Any]:
    """What must not come in the place of an array."""
    grown = np.zeros([n + 1 for n in good.shape], good.dtype)
    return [grown, good[..., None], good.ravel()[: good.size // 2], good.astype(np.complex64), [1, 2], "text", 3.0]


def spoiled_fields(fields: dict[str, Any], name: str) -> list[Any]:
    """The values that field `name` must not have; for states each part is spoiled, and the tuple."""
    good = fields[name]
    if isinstance(good, np.ndarray):
        return spoiled(good)
    bad = [good[0], [*good], (*good, None), (), "text"]
    for part, array in enumerate(good):
        if array is not None:
            bad += [(*good[:part], value, *good[part + 1 :]) for value in spoiled(array)]
    return bad


ARRAYS = ("panels", "x", "tape", "state", "reset_state", "lengths", "resets")


@pytest.mark.parametrize("name", [*ARRAYS, "y", "final_state"])
def test_raw_forward_refuses_wrong_arrays(name):
    call = Call("lstm", ISAS[-1])
    for bad in spoiled_fields(call.forward, name):
        with pytest.raises((ValueError, TypeError)):
            call.run_forward(**{name: bad})
    if name in ("y", "final_state", "tape"):
        good = call.forward[name]
        frozen = (good if name == "tape" else good[0]).copy()
        frozen.flags.writeable = False
        with pytest.raises((ValueError, TypeError)):
            call.run_forward(**{name: frozen if name == "tape" else (frozen, *good[1:])})


@pytest.mark.parametrize("name", [*ARRAYS, "panels_backward", "dy", "dfinal", "dx", "dstate", "dpanels",
                                  "d_reset_state"])  # fmt: skip
def test_raw_backward_refuses_wrong_arrays(name):
    call = Call("lstm", ISAS[-1])
    call.run_forward()
    for bad in spoiled_fields(call.backward, name):
        with pytest.raises((ValueError, TypeError)):
            call.run_backward(**{name: bad})


@pytest.mark.parametrize("kind", FUSED)
def test_fused_cells_refuse_what_only_described_cells_have(kind):
    call = Call(kind, ISAS[-1])
    T, B, _ = call.forward["x"].shape
    skip, given = np.zeros((T, B), bool), (np.zeros((T, B), np.float32),)
    for changes, message in (({"skip": skip}, "skip: expected None"), ({"given": given}, "given: expected")):
        with pytest.raises(ValueError, match=message):
            call.run_forward(**changes)
        with pytest.raises(ValueError, match=message):
            call.run_backward(**changes)
    with pytest.raises(ValueError, match="dgiven: expected"):
        call.run_backward(dgiven=given)
    if kind == "lstm":
        h = call.forward["y"][0]
        with pytest.raises(ValueError, match=r"y\[1\]: expected None"):
            call.run_forward(y=(h, h.copy()))
        with pytest.raises(ValueError, match=r"dy\[1\]: expected None"):
            call.run_backward(dy=(h, h.copy()))


@pytest.mark.parametrize("kind", FUSED)
def test_raw_forward_leaves_y_out(kind):
    call, other = Call(kind, ISAS[-1]), Call(kind, ISAS[-1])
    call.run_forward()
    for y in (None, (None,) * len(call.forward["y"])):
        other.run_forward(y=y)
        for actual, expected in zip(other.forward["final_state"], call.forward["final_state"], strict=True):
            assert actual.tobytes() == expected.tobytes()
        assert other.forward["tape"].tobytes() == call.forward["tape"].tobytes()


@pytest.mark.parametrize(
    "changes",
    [{"reverse": 1}, {"reverse": None}, {"num_threads": 1.5}, {"num_threads": 2**40}, {"training": 1}, {"seed": "1"},
     {"first_step": 2**70}, {"layer": None}],
    ids=str,
)  # fmt: skip
def test_raw_forward_refuses_wrong_numbers(changes):
    call = Call("gru_after", ISAS[-1])
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(changes))}: expected"):
        call.run_forward(**changes)


def test_raw_calls_are_tuples_of_all_fields():
    call = Call("gru_after", ISAS[-1])
    whole = ForwardCall(**call.forward)
    for bad in (whole[:-1], (*whole, None), list(whole), None, BackwardCall(**call.backward)):
        with pytest.raises(TypeError, match="call: expected a ForwardCall"):
            call.kernel.forward(bad)
    with pytest.raises(TypeError, match="call: expected a BackwardCall"):
        call.kernel.backward(whole)


@pytest.mark.parametrize("name", ["lengths", "x"])
def test_raw_forward_refuses_values_out_of_range(name):
    call = Call("gru_after", ISAS[-1])
    T, B, I = call.forward["x"].shape  # noqa: E741
    for value in (-1, I if name == "x" else T + 1, np.iinfo(np.int64).max, np.iinfo(np.int64).min):
        shape = (T, B) if name == "x" else (B,)
        with pytest.raises(ValueError):
            call.run_forward(**{name: np.full(shape, value, np.int64)})


def test_raw_constructors_refuse_nonsense():
    for arguments in (
        ("peephole", "float32", 3, 3),
        ("described", "float32", 3, 3),
        ("lstm", "int32", 3, 3),
        ("lstm", "float32", 0, 3),
        ("lstm", "float32", 3, -1),
        ("lstm", "float32", 2**62, 2**62),
        ("lstm", "float32", 3, 3, "mmx"),
    ):
        with pytest.raises((ValueError, TypeError)):
            _core.Kernel(*arguments)
    kernel = _core.Kernel("lstm", "float32", 3, 3)
    for sizes in ((-1, 1), (1, -1), (2**62, 2**62)):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            kernel.tape_size(*sizes)
    with pytest.raises(ValueError):
        _core.set_isa("mmx")
    with pytest.raises(ValueError):
        _core.set_num_threads(0)


@pytest.mark.parametrize(("isa", "dtype"), list(product(ISAS, DTYPES)))
def test_raw_dense_agrees_with_the_oracle(isa, dtype):
    rng = np.random.default_rng(6)
    forward_tolerance, backward_tolerance = TOLERANCES[np.dtype(dtype)]
    for N, I, O in product((0, 1, 5, 33), (1, 17, 40), (1, 7, 33)):  # noqa: E741
        weight, bias, x, dy = (rng.standard_normal(shape).astype(dtype) for shape in ((O, I), (O,), (N, I), (N, O)))
        dense = _core.Dense(np.dtype(dtype).name, I, O, isa)
        panels = np.zeros(dense.panel_size, dtype)
        panels_backward = np.zeros(dense.panel_size_backward, dtype)
        dense.pack((weight, bias), panels)
        dense.pack_backward((weight, bias), panels_backward)
        y, dx, dpanels = np.full((N, O), np.nan, dtype), np.full((N, I), np.nan, dtype), np.zeros_like(panels)
        dense.forward(panels, x, y, 2)
        dense.backward(panels_backward, x, dy, dx, dpanels, False, 2)
        dweight, dbias = np.full_like(weight, np.nan), np.full_like(bias, np.nan)
        dense.unpack(dpanels, (dweight, dbias))
        result = reference.dense_forward({"weight": weight, "bias": bias}, x)
        expected = reference.dense_backward(result, dy)
        assert_close(y, result.y, forward_tolerance)
        assert_close(dx, expected.dx, backward_tolerance)
        assert_close(dweight, expected.params["weight"], backward_tolerance)
        assert_close(dbias, expected.params["bias"], backward_tolerance)


def test_raw_dense_refuses_wrong_arrays():
    dense = _core.Dense("float32", 3, 2)
    panels = np.zeros(dense.panel_size, np.float32)
    good = (panels, np.ones((4, 3), np.float32), np.empty((4, 2), np.float32))
    dense.forward(*good, 1)
    for position, bad in product(range(3), (np.zeros((5, 4), np.float32), np.zeros((4, 3)), None, "text")):
        with pytest.raises((ValueError, TypeError)):
            dense.forward(*good[:position], bad, *good[position + 1 :], 1)


@pytest.mark.parametrize("view", [np.s_[:], np.s_[::-1, 1:3], np.s_[:, :, ::2], np.s_[1:1]])
def test_checksum_sees_every_element_of_a_view_and_no_other(view):
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    inside = np.zeros(array.shape, bool)
    inside[view] = True
    before = _core.checksum(array[view])
    for index in np.ndindex(array.shape):
        array[index] += 1
        assert (_core.checksum(array[view]) != before) == inside[index]
        array[index] -= 1
    assert _core.checksum(array[view]) == before


def test_map_state_keeps_the_structure():
    assert map_state(lambda a, b: a + b, (1, 2), (3, 4)) == (4, 6)
    assert map_state(lambda a: -a, 1) == -1
