"""What a cell is to its users: options, equality, initial values, wrappers."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from rnnfast import reference
from rnnfast.description import Cell, Gate, State, Vector, Wrapped
from rnnfast.description.cells.elman import Elman
from rnnfast.description.cells.gru import GRU
from rnnfast.description.cells.lstm import LSTM
from rnnfast.description.functions import activation, lerp


class Leaky(Cell):
    """Options, vectors with and without initial values, gates by an option."""

    vectors = ("p", Vector("gain", initial=1.5))
    leak: float = 0.5
    function: Any = ("leaky_relu", 0.1)

    @property
    def gates(self):
        return (Gate("n", h=self.leak < 1),)

    def step(self, gate, state, vector):
        new = activation(self.function)(gate.n) * vector.gain + vector.p
        return lerp(self.leak, new, state.h)


def test_options_show_in_equality_hash_and_repr():
    assert Leaky(0.25) == Leaky(leak=0.25) != Leaky()
    assert len({Leaky(), Leaky(0.5), Leaky(0.25)}) == 2
    assert repr(Leaky(0.25)) == "Leaky(leak=0.25, function=('leaky_relu', 0.1))"
    assert Leaky().name == "leaky"
    with pytest.raises(FrozenInstanceError):
        Leaky().leak = 1.0


def test_options_survive_json():
    cell = Leaky(0.125, function=("hard_sigmoid", 0.2, 0.5))
    assert cell.options() == {"leak": 0.125, "function": ["hard_sigmoid", 0.2, 0.5]}
    assert Leaky(**json.loads(json.dumps(cell.options()))) == cell
    options = Wrapped(cell, zoneout=0.5).options()
    expected = {"cell": {"name": "leaky", "options": cell.options()}, "zoneout": {"h": 0.5}, "recurrent_dropout": 0.0}
    assert json.loads(json.dumps(options)) == expected | {"clip": {}}


def test_cells_and_programs_can_be_pickled():
    cell = LSTM()
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert pickle.loads(pickle.dumps(cell.program())) == cell.program()


def test_programs_of_equal_cells_are_one():
    assert Leaky(0.25).program() is Leaky(0.25).program()
    assert Leaky(0.25).program() is not Leaky(0.25).program(bias=False)


def test_parameters_follow_the_gates():
    assert [p.name for p in Leaky().program().parameters] == [
        "weight_ih",
        "weight_hh",
        "bias_ih",
        "bias_hh",
        "p",
        "gain",
    ]
    assert [p.name for p in Leaky(1.0).program().parameters] == ["weight_ih", "bias_ih", "p", "gain"]
    assert [p.name for p in Leaky(1.0).program(bias=False).parameters] == ["weight_ih", "p", "gain"]


def test_initial_values():
    rng = np.random.default_rng(0)
    for cell in (Leaky(), Wrapped(Leaky(), zoneout=0.1)):
        np.testing.assert_array_equal(cell.initial("gain", (3,), rng), [1.5, 1.5, 1.5])
        assert cell.initial("p", (3,), rng) is None
        assert cell.initial("weight_ih", (3, 2), rng) is None


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (Elman(), "elman_tanh"),
        (Elman("relu"), "elman_relu"),
        (Elman("sigmoid"), "elman_sigmoid"),
        (Elman("elu"), None),
        (LSTM(), "lstm"),
        (GRU(), "gru_after"),
        (GRU(reset_after=False), "gru_before"),
        (Wrapped(LSTM(), clip={"c": 3.0}), None),
        (Leaky(), None),
    ],
)
def test_the_kernel_written_by_hand(cell, kind):
    assert cell.fused == kind
    assert kind is None or reference.CELLS[kind] == cell


def test_a_step_that_adds_in_place_changes_its_own_row_alone():
    class InPlace(Cell):
        states = ("h", "c")
        gates = ("i",)

        def step(self, gate, state):
            c = state.c
            c += gate.i
            return state.c - c, c

    params = {"weight_ih": [[1.0]], "weight_hh": [[0.0]]}
    result = reference.forward(InPlace(), params, [[[2.0]]], None, [[3.0]])
    assert [part.item() for part in result.state] == [-2.0, 5.0]
    assert reference.backward(result, [[[1.0]]]).dx.item() == -1.0


def test_initial_states_are_where_a_sequence_starts_and_what_a_reset_puts_in():
    class Counter(Cell):
        states = (State("n", initial=10.0),)
        gates = (Gate("x", h=False),)

        def step(self, gate, state):
            return state.n + gate.x

    resets = np.array([[False], [False], [True], [False]])
    result = reference.forward(Counter(), {"weight_ih": [[1.0]]}, np.ones((4, 1, 1)), resets=resets)
    np.testing.assert_array_equal(result.y.ravel(), [11.0, 12.0, 11.0, 12.0])
