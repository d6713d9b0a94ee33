"""What the classes' and the layers' options are, which go together, and what is said of those that do not."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

from rnnfast.description.cells import CATALOGUE, CLASSES, LAYERS
from rnnfast.description.cells.elman import Elman, rnn_cell
from rnnfast.description.cells.gru import GRU, gru_cell
from rnnfast.description.cells.lstm import LSTM, lstm_cell


def test_every_class_and_option_is_in_the_catalogue():
    for cls in CLASSES.values():
        examples = [cell for cell in CATALOGUE.values() if type(cell) is cls]
        assert examples, f"{cls.__name__}: no example"
        for option in dataclasses.fields(cls):
            if option.name not in ("eps", "c", "update_bias"):  # numbers of the formulas, in each example
                values = {getattr(cell, option.name) for cell in examples}
                assert values - {option.default}, f"{cls.__name__}.{option.name}: no example has other than the default"


def test_examples_differ():
    assert len(set(CATALOGUE.values())) == len(CATALOGUE)


@pytest.mark.parametrize("cls", CLASSES.values(), ids=list(CLASSES))
def test_docstring_names_source_options_and_parameters(cls):
    text = inspect.getdoc(cls)
    assert "Source: " in text and "::\n" in text
    for cell in CATALOGUE.values():
        if type(cell) is cls:
            for parameter in cell.program().parameters:
                family = rf"`{parameter.name.rpartition('_')[0]}_\w`, \.\.\."  # one of several gates' vectors
                assert f"`{parameter.name}`" in text or re.search(family, text), parameter.name
    for option in dataclasses.fields(cls):
        if option.name not in ("eps", "c"):
            assert option.name in text


def test_layers_take_what_users_look_for():
    options = {name: set(inspect.signature(make).parameters) for name, make in LAYERS.items()}
    assert options["RNN"] >= {"nonlinearity", "leak"}
    assert options["LSTM"] >= {
        "proj_size",
        "peephole",
        "coupled",
        "cell_clip",
        "proj_clip",
        "layer_norm",
        "heads",
        "zoneout",
        "recurrent_dropout",
        "activations",
    }
    assert options["GRU"] >= {"layer_norm", "heads", "zoneout", "recurrent_dropout", "activations", "reset_after"}
    assert set(options) == {"RNN", "LSTM", "GRU", "Jordan", "IndRNN", "LiGRU", "MGU", "SLSTM", "BlockGRU"} | {
        "MinGRU",
        "MinLSTM",
        "SRU",
        "LRU",
        "RGLRU",
        "AUGRU",
        "GRUD",
        "CfC",
    }


def test_defaults_are_the_known_cells():
    assert rnn_cell() == Elman() and lstm_cell() == LSTM() and gru_cell() == GRU()
    assert (rnn_cell().fused, lstm_cell().fused) == ("elman_tanh", "lstm")
    assert (gru_cell().fused, gru_cell(reset_after=False).fused) == ("gru_after", "gru_before")


def test_options_come_back_equal():
    for cell in CATALOGUE.values():
        assert type(cell)(**cell.options()) == cell


@pytest.mark.parametrize("name", sorted(name for name, cell in CATALOGUE.items() if type(cell) in (Elman, LSTM, GRU)))
def test_only_the_plain_cells_are_fused(name):
    plain = {
        "elman": "elman_tanh",
        "elman_relu": "elman_relu",
        "elman_sigmoid": "elman_sigmoid",
        "lstm": "lstm",
        "gru_after": "gru_after",
        "gru_before": "gru_before",
    }
    assert CATALOGUE[name].fused == plain.get(name)


REFUSED = [
    (lstm_cell, {"proj_clip": 1.0}, "proj_clip: expected None without proj_size, got 1.0"),
    (lstm_cell, {"proj_size": 4, "heads": 2}, "heads: expected 1 with proj_size, got 2: the projection mixes"),
    (lstm_cell, {"proj_size": -1}, "proj_size: expected an integer of at least 0, got -1"),
    (lstm_cell, {"cell_clip": 0.0}, "cell_clip: expected a number above 0, or None"),
    (lstm_cell, {"activations": ("sigmoid", "tanh")}, "activations: expected 3 activations"),
    (lstm_cell, {"activations": "tanh"}, "activations: expected 3 activations"),
    (gru_cell, {"layer_norm": True, "reset_after": False}, "layer_norm: expected False without reset_after, got True"),
    (gru_cell, {"activations": ("sigmoid", "tanh", "tanh")}, "activations: expected 2 activations"),
    (rnn_cell, {"leak": 0.0}, "leak: expected a number above 0 and at most 1, got 0.0"),
    (rnn_cell, {"leak": 1.5}, "leak: expected a number above 0 and at most 1, got 1.5"),
    (LAYERS["SLSTM"], {"forget": "relu"}, "forget: expected one of 'sigmoid', 'exp', got 'relu'"),
    (LAYERS["BlockGRU"], {"norm": "batch"}, "norm: expected one of 'rms', 'layer', 'none', got 'batch'"),
    (LAYERS["Jordan"], {"decay": 2.0}, "decay: expected a number in 0..1, got 2.0"),
    (LAYERS["RGLRU"], {"c": 0.0}, "c: expected a number above 0, got 0.0"),
]


@pytest.mark.parametrize(("make", "options", "message"), REFUSED)
def test_refused(make, options, message):
    with pytest.raises(ValueError) as error:
        make(**options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lstm_cell, {"peephole": "yes"}),
        (lstm_cell, {"cell_clip": "3"}),
        (lstm_cell, {"proj_size": 1.5}),
        (LAYERS["MinGRU"], {"positive": 1}),
        (LAYERS["LRU"], {"readout": None}),
    ],
)
def test_of_a_wrong_kind(make, options):
    (name,) = options
    with pytest.raises(TypeError, match=f"^{name}: expected "):
        make(**options)
