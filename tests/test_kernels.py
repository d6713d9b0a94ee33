"""The kernels against the float64 oracle: every registered case through the public layers, then the raw binding."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from registry import (
    AXES,
    DTYPES,
    ISAS,
    KINDS,
    ROWS,
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


def test_every_pair_of_values_of_two_axes_occurs():
    for first, second in combinations(AXES, 2):
        seen = {(row[first], row[second]) for row in ROWS}
        assert seen == set(product(AXES[first], AXES[second]))


@pytest.mark.parametrize("case", cases(), ids=str)
def test_layer_agrees_with_the_oracle(case):
    check(case)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", ISAS)
def test_long_chains(isa, kind, dtype, threads):
    """Long chains of many rows, whose panels come in pieces; a row alone, whose panels do not, has the same bits."""
    case = Case(kind, isa, dtype, threads=threads, mask="both", I=650, H=401, T=2, B=70)
    layer = check(case)
    x, state = np.nan_to_num(case.data.x), case.data.state
    y, _ = layer(x, state, num_threads=threads)
    alone, _ = layer(x[:, :1], map_state(lambda part: part[:, :1].copy(), state), num_threads=threads)
    assert alone.tobytes() == y[:, :1].tobytes()


def check(case):
    """A layer's results and gradients against the oracle's; returns the layer."""
    layer, data = case.layer(), case.data
    forward_tolerance, backward_tolerance = TOLERANCES[np.dtype(case.dtype)]
    expected, expected_gradients = oracle(case, layer)

    x, dy = swap(case, data.x), swap(case, data.dy)
    masks = data.masks
    if "resets" in masks:
        masks = masks | {"resets": swap(case, masks["resets"])}
    out = np.full_like(dy, np.nan, order="C")
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
    assert list(grads.params) == list(layer.params)
    for name in layer.params:
        assert_close(grads.params[name], expected_gradients.params[name], backward_tolerance)
    return layer


@pytest.mark.parametrize(("isa", "kind"), list(product(ISAS, KINDS)))
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
    """Arguments of `Kernel.forward` and `Kernel.backward`, in order, as dictionaries that a test may spoil."""

    def __init__(self, kind: str, isa: str, dtype: Any = np.float32, T: int = 4, B: int = 3, I: int = 5, H: int = 7):  # noqa: E741
        rng = np.random.default_rng(5)

        def normal(*shape: int) -> Any:
            return rng.standard_normal(shape).astype(dtype)

        def poison(*shape: int) -> Any:
            return np.full(shape, np.nan, dtype)

        lstm = kind == "lstm"
        self.kind, self.dtype = kind, dtype
        self.kernel = _core.Kernel(kind, np.dtype(dtype).name, I, H, isa)
        self.weights = reference.init_params(kind, I, H, rng)
        self.weights = {name: value.astype(dtype) for name, value in self.weights.items()}
        self.panels = np.zeros(self.kernel.panel_size, dtype)
        self.panels_backward = np.zeros(self.kernel.panel_size_backward, dtype)
        self.kernel.pack(*self.weights.values(), self.panels)
        self.kernel.pack_backward(self.weights["weight_ih"], self.weights["weight_hh"], self.panels_backward)
        masks = {
            "reset_h": normal(B, H),
            "reset_c": normal(B, H) if lstm else None,
            "lengths": rng.integers(1, T + 1, B),
            "resets": rng.random((T, B)) < 0.4,
            "reverse": False,
            "num_threads": 2,
        }
        tape = np.zeros(self.kernel.tape_size(T, B), dtype)
        h0, c0 = normal(B, H), normal(B, H) if lstm else None
        x = normal(T, B, I)
        self.forward = {
            "panels": self.panels,
            "x": x,
            "y": poison(T, B, H),
            "h0": h0,
            "c0": c0,
            "hT": poison(B, H),
            "cT": poison(B, H) if lstm else None,
            "tape": tape,
            **masks,
        }
        self.backward = {
            "panels": self.panels,
            "panels_backward": self.panels_backward,
            "x": x,
            "tape": tape,
            "dy": normal(T, B, H),
            "dhT": normal(B, H),
            "dcT": normal(B, H) if lstm else None,
            "dx": poison(T, B, I),
            "dh0": poison(B, H),
            "dc0": poison(B, H) if lstm else None,
            "dpanels": np.zeros_like(self.panels),
            "h0": h0,
            "c0": c0,
            "d_reset_h": poison(B, H),
            "d_reset_c": poison(B, H) if lstm else None,
            **masks,
        }

    def run_forward(self, **changes: Any) -> None:
        positional = ("panels", "x", "y", "h0", "c0", "hT", "cT")
        arguments = self.forward | changes
        self.kernel.forward(*[arguments.pop(name) for name in positional], **arguments)

    def run_backward(self, **changes: Any) -> None:
        positional = ("panels", "panels_backward", "x", "tape", "dy", "dhT", "dcT", "dx", "dh0", "dc0", "dpanels")
        arguments = self.backward | changes
        self.kernel.backward(*[arguments.pop(name) for name in positional], **arguments)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("isa", "kind", "dtype"), list(product(ISAS, KINDS, DTYPES)))
def test_raw_kernel_agrees_with_the_oracle(isa, kind, dtype, reverse):
    call = Call(kind, isa, dtype)
    forward, backward = call.forward, call.backward
    call.run_forward(reverse=reverse)
    call.run_backward(reverse=reverse)

    def states(arrays: dict[str, Any], *names: str) -> list[Any]:
        return [arrays[name] for name in names if arrays[name] is not None]

    masks = {"lengths": forward["lengths"], "resets": forward["resets"], "reverse": reverse}
    reset_state = states(forward, "reset_h", "reset_c")
    initial = states(forward, "h0", "c0")
    result = reference.forward(kind, call.weights, forward["x"], *initial, **masks, reset_state=reset_state)
    expected = reference.backward(result, backward["dy"], *states(backward, "dhT", "dcT"))
    forward_tolerance, backward_tolerance = TOLERANCES[np.dtype(dtype)]
    assert_close(forward["y"], result.y, forward_tolerance)
    for actual, wanted in zip(states(forward, "hT", "cT"), result.state, strict=True):
        assert_close(actual, wanted, forward_tolerance)
    assert_close(backward["dx"], expected.dx, backward_tolerance)
    found = states(backward, "dh0", "dc0", "d_reset_h", "d_reset_c")
    for actual, wanted in zip(found, (*expected.dstate, *expected.d_reset_state), strict=True):
        assert_close(actual, wanted, backward_tolerance)
    gradients = {name: np.full_like(value, np.nan) for name, value in call.weights.items()}
    call.kernel.unpack(backward["dpanels"], *gradients.values())
    for name, value in gradients.items():
        assert_close(value, expected.params[name], backward_tolerance)


@pytest.mark.parametrize(("isa", "kind", "dtype"), list(product(ISAS, KINDS, DTYPES)))
def test_unpack_is_the_inverse_of_pack(isa, kind, dtype):
    for sizes in ((1, 1), (3, 16), (17, 33), (40, 5)):
        call = Call(kind, isa, dtype, I=sizes[0], H=sizes[1])
        copies = {name: np.full_like(value, np.nan) for name, value in call.weights.items()}
        call.kernel.unpack(call.panels, *copies.values())
        for name, value in call.weights.items():
            np.testing.assert_array_equal(copies[name], value)


@pytest.mark.parametrize(
    "name", ["panels", "x", "y", "h0", "c0", "hT", "cT", "tape", "reset_h", "reset_c", "lengths", "resets"]
)
def test_raw_forward_refuses_wrong_arrays(name):
    call = Call("lstm", ISAS[-1])
    good = call.forward[name]
    grown = np.zeros([n + 1 for n in good.shape], good.dtype)
    other = good.astype(np.complex64)
    for bad in (grown, good[..., None], good.ravel()[: good.size // 2], other, [1, 2], "text", 3.0):
        with pytest.raises((ValueError, TypeError)):
            call.run_forward(**{name: bad})
    if name in ("y", "hT", "cT", "tape"):
        frozen = good.copy()
        frozen.flags.writeable = False
        with pytest.raises((ValueError, TypeError)):
            call.run_forward(**{name: frozen})


@pytest.mark.parametrize("name", ["panels", "panels_backward", "x", "tape", "dy", "dhT", "dcT", "dx", "dh0", "dc0",
                                  "dpanels", "h0", "c0", "d_reset_h", "d_reset_c", "lengths", "resets"])  # fmt: skip
def test_raw_backward_refuses_wrong_arrays(name):
    call = Call("lstm", ISAS[-1])
    call.run_forward()
    good = call.backward[name]
    grown = np.zeros([n + 1 for n in good.shape], good.dtype)
    other = good.astype(np.complex64)
    for bad in (grown, good[..., None], good.ravel()[: good.size // 2], other, [1, 2], "text", 3.0):
        with pytest.raises((ValueError, TypeError)):
            call.run_backward(**{name: bad})


@pytest.mark.parametrize("name", ["lengths", "x"])
def test_raw_forward_refuses_values_out_of_range(name):
    call = Call("gru_after", ISAS[-1])
    T, B, I = call.forward["x"].shape  # noqa: E741
    for value in (-1, I if name == "x" else T + 1, np.iinfo(np.int64).max, np.iinfo(np.int64).min):
        shape = (T, B) if name == "x" else (B,)
        with pytest.raises(ValueError):
            call.run_forward(**{name: np.full(shape, value, np.int64), "reset_c": None})


def test_raw_constructors_refuse_nonsense():
    for arguments in (
        ("peephole", "float32", 3, 3),
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
        dense.pack(weight, bias, panels)
        dense.pack_backward(weight, panels_backward)
        y, dx, dpanels = np.full((N, O), np.nan, dtype), np.full((N, I), np.nan, dtype), np.zeros_like(panels)
        dense.forward(panels, x, y, 2)
        dense.backward(panels_backward, x, dy, dx, dpanels, 2)
        dweight, dbias = np.full_like(weight, np.nan), np.full_like(bias, np.nan)
        dense.unpack(dpanels, dweight, dbias)
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
