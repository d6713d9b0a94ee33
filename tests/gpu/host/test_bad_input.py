"""What a device refuses, and with which words."""

from __future__ import annotations

import numpy as np
import pytest
from host_kernel import B, H, I, T, moved, normal, pair, state_of
from registry import assert_same_bits

import rnnfast
from rnnfast.cuda import arrays
from rnnfast.cuda.arrays import to_device, to_host


def test_a_call_lies_in_one_place():
    here, there = pair("lstm")
    x, (h, c) = normal(T, B, I), state_of(here)
    mixed = [
        ({"state": (to_device(h), c)}, "state[1]"),
        ({"state": (h, to_device(c))}, "state[0]"),
        ({"lengths": np.full(B, T)}, "lengths"),
        ({"lengths": [T] * B}, "lengths"),
        ({"resets": np.zeros((T, B), bool)}, "resets"),
        ({"reset_state": (h, c)}, "reset_state[0]"),
        ({"out": np.zeros((T, B, H), np.float32)}, "out"),
    ]
    for options, name in mixed:
        with pytest.raises(TypeError) as raised:
            there(to_device(x), **options)
        assert str(raised.value).startswith(f"{name}: expected a"), raised.value
    for options, name in [({"state": moved((h, c))}, "state[0]"), ({"lengths": to_device(np.full(B, T))}, "lengths")]:
        for layer in (here, there):
            with pytest.raises(TypeError, match="expected an array on the host") as raised:
                layer(x, **options)
            assert str(raised.value).startswith(name)
    with pytest.raises(TypeError, match="x: expected an array on the host, got SimulatedArray"):
        here(to_device(x))
    y, _, tape = there.forward(to_device(x))
    with pytest.raises(TypeError, match="dy: expected an array on the CUDA device"):
        there.backward(tape, to_host(y))
    with pytest.raises(ValueError, match="into: expected Gradients on cuda:0"):
        there.backward(tape, y, into=here.params.zeros())
    there.backward(tape, y)


def test_what_a_device_does_not_have():
    for options, error, message in [
        ({"device": "tpu"}, ValueError, "device: expected one of 'cpu', 'cuda', got 'tpu'"),
        ({"device": 1}, TypeError, "device: "),
        ({"precision": "tf32"}, ValueError, "precision: expected 'float32' with device='cpu', got 'tf32'"),
        ({"device": "cuda", "precision": "fp8"}, ValueError, "precision: expected one of"),
        ({"device": "cuda", "dtype": np.float64}, TypeError, "dtype: expected float32 with device='cuda', got float64"),
    ]:
        for make in (rnnfast.LSTM, rnnfast.GRUCell, rnnfast.Dense):
            with pytest.raises(error) as raised:
                make(I, H, **options)
            assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((T, B, I + 1)), ValueError, r"x: expected \[T, B, I\] or \[T, I\] with I=3"),
        (np.zeros((T, B, I), complex), TypeError, "x: expected an array of real numbers"),
        (np.zeros(2), ValueError, "x: expected"),
    ],
)
def test_arrays_of_the_device_are_checked(x, error, message):
    _, there = pair("lstm")
    with pytest.raises(error, match=message):
        there(to_device(x))
    good = to_device(normal(T, B, I))
    for options in ({"lengths": np.ones(B)}, {"resets": np.zeros((T, B), int)}, {"state": (np.zeros((1, B, H)),) * 3}):
        with pytest.raises(TypeError, match=next(iter(options))):
            there(good, **moved(options))
    for options in ({"lengths": np.ones(B + 1, int)}, {"resets": np.zeros((T, 1), bool)}):
        with pytest.raises(ValueError, match=next(iter(options))):
            there(good, **moved(options))
    for out in (np.zeros((T, B, H)), np.zeros((T, B, H + 1), np.float32)):
        with pytest.raises((TypeError, ValueError), match="out: "):
            there(good, out=to_device(out))


def test_numpy_values_are_held_against_their_ranges():
    _, there = pair("lstm")
    with pytest.raises(ValueError, match=r"x: expected ids in 0..2, got 3"):
        there(np.full((T, B), I), ids=True)
    with pytest.raises(ValueError, match=f"lengths: expected values in 0..T, 0..{T}"):
        there(normal(T, B, I), lengths=np.full(B, T + 1))


def test_out_of_memory(monkeypatch):
    here, there = pair("gru_after")
    x = normal(T, B, I)
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "to_device", None)

        def fail(*arguments):
            raise MemoryError("cudaErrorMemoryAllocation")

        patch.setattr(arrays, "empty", fail)
        with pytest.raises(MemoryError, match=r"out of memory on CUDA device 0: cudaErrorMemoryAllocation"):
            there.forward(to_device(x))
    assert_same_bits(there(x)[0], here(x)[0])
