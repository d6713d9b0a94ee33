"""Classes of the user in configurations and checkpoints: defined again, derived, named as the package's are."""

from __future__ import annotations

import copy
import json
import sys
import textwrap
import types

import numpy as np
import pytest

import rnnfast
from rnnfast import GRU, LSTM, Dense, Model, Recurrent, checkpoint
from rnnfast.layers import from_config

X = np.random.default_rng(0).standard_normal((3, 2, 3)).astype(np.float32)


def defined(source, module):
    """The names of a piece of code, as of a cell of a notebook."""
    sys.modules.setdefault(module, types.ModuleType(module))
    names = {"__name__": module, "rnnfast": rnnfast}
    exec(textwrap.dedent(source), names)
    return types.SimpleNamespace(**{name: value for name, value in names.items() if isinstance(value, type)})


def rebuilt(part, tmp_path):
    """By its configuration in JSON, and by a checkpoint."""
    checkpoint.save(tmp_path / "part", part)
    loaded = checkpoint.load(tmp_path / "part").model
    np.testing.assert_array_equal(loaded.params.flat, part.params.flat)
    made = from_config(json.loads(json.dumps(part.config())), rng=0)
    assert type(made) is type(loaded)
    return loaded


CELL = """
    class Odd(rnnfast.Cell):
        gates = ("n",)
        scale: float = 0.5

        def step(self, gate, state):
            return {} * rnnfast.description.functions.tanh(gate.n)
"""


@pytest.fixture(autouse=True)
def _no_modules_stay():
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if not hasattr(sys.modules[name], "__file__"):
            del sys.modules[name]


def test_a_cell_that_was_defined_again_is_the_new_one(tmp_path):
    first = defined(CELL.format("self.scale"), "notebook")
    layer = Recurrent(first.Odd(scale=0.25), 3, 4, rng=0)
    assert rebuilt(layer, tmp_path).cell == first.Odd(scale=0.25)
    second = defined(CELL.format("2 * self.scale"), "notebook")
    found = rebuilt(layer, tmp_path)
    assert type(found.cell) is second.Odd
    np.testing.assert_allclose(found(X[:1])[0], 2 * layer(X[:1])[0], rtol=1e-6)
    again = defined(CELL.format("self.scale"), "notebook")  # the newest, however they are derived
    defined("class Base(rnnfast.Cell):\n    pass\nclass Odd2(Base):\n    pass", "notebook")
    assert type(rebuilt(layer, tmp_path).cell) is again.Odd


def test_a_cell_derived_from_one_of_the_same_name(tmp_path):
    base = defined(CELL.format("self.scale"), "library").Odd
    sys.modules["script"] = types.ModuleType("script")
    names = {"__name__": "script", "rnnfast": rnnfast, "Base": base}
    exec("class Odd(Base):\n    def step(self, gate, state):\n        return gate.n", names)
    derived = names["Odd"]
    assert type(rebuilt(Recurrent(derived(), 3, 4, rng=0), tmp_path).cell) is derived
    assert type(rebuilt(Recurrent(base(), 3, 4, rng=0), tmp_path).cell) is base


def test_a_cell_named_as_one_of_the_packages(tmp_path):
    mine = defined(CELL.format("self.scale").replace("Odd", "LSTM"), "notebook").LSTM
    assert type(rebuilt(Recurrent(mine(), 3, 4, rng=0), tmp_path).cell) is mine
    assert rebuilt(LSTM(3, 4, rng=0), tmp_path).cell == LSTM(3, 4).cell
    plain = Recurrent(LSTM(3, 4).cell, 3, 4, rng=0)
    assert rebuilt(plain, tmp_path).cell == LSTM(3, 4).cell


LAYER = """
    class {}(rnnfast.{}):
        version = {}
"""


def test_a_layer_that_was_defined_again_is_the_new_one(tmp_path):
    first = defined(LAYER.format("Mine", "GRU", 1), "notebook").Mine
    layer = first(3, 4, rng=0)
    assert rebuilt(layer, tmp_path).version == 1
    defined(LAYER.format("Mine", "GRU", 2), "notebook")
    assert rebuilt(layer, tmp_path).version == 2
    assert layer.config()["type"] == "Mine"


@pytest.mark.parametrize("name", ["LSTM", "Dense"])
def test_a_part_named_as_one_of_the_packages(tmp_path, name):
    mine = getattr(defined(LAYER.format(name, name, 1), "notebook"), name)
    part = mine(3, 4, rng=0)
    assert part.config()["type"] == f"notebook.{name}"
    assert type(rebuilt(part, tmp_path)) is mine
    theirs = getattr(rnnfast, name)
    assert theirs(3, 4).config()["type"] == name
    assert type(rebuilt(theirs(3, 4, rng=0), tmp_path)) is theirs
    assert f"notebook.{name}(" in repr(part)


def test_two_modules_with_a_class_of_one_name(tmp_path):
    one, two = (defined(LAYER.format("Twin", "GRU", n), f"module{n}").Twin for n in (1, 2))
    for cls in (one, two):
        assert type(rebuilt(cls(3, 4, rng=0), tmp_path)) is cls


def test_a_class_that_has_moved_is_found_by_its_name_and_one_that_is_gone_is_not():
    defined(LAYER.format("Moved", "GRU", 1), "notebook")
    config = GRU(3, 4).config()
    assert type(from_config(config | {"type": "elsewhere.Moved"})).__name__ == "Moved"
    for name in ("elsewhere.Gone", "elsewhere.LSTM"):
        with pytest.raises(ValueError, match=r"config\['type'\]: expected one of .*, got '" + name):
            from_config(config | {"type": name})
    with pytest.raises(TypeError, match=r"config\['type'\]: expected one of"):
        from_config(config | {"type": 3})


class Net(Model):
    """A constructor of its own."""

    def __init__(self, hidden):
        super().__init__(rnn=LSTM(3, hidden, rng=0), head=Dense(hidden, 2, rng=1))
        self.hidden = hidden

    def last(self, x):
        return self(x)[0][-1]


class Bare(Model):
    """No constructor."""


def test_subclasses_of_models_are_rebuilt(tmp_path):
    for model in (Net(4), Bare(rnn=LSTM(3, 4, rng=0)), Bare(inner=GRU(3, 4, rng=0), head=Dense(4, 1))):
        assert model.config()["type"] == type(model).__name__
        found = rebuilt(model, tmp_path)
        assert type(found) is type(model)
        np.testing.assert_array_equal(found(X)[0], model(X)[0])
        for cls in (Model, type(model)):
            assert type(cls.from_config(model.config())) is type(model)
        assert type(copy.deepcopy(model)) is type(model)
    assert rebuilt(Net(4), tmp_path).last(X).shape == (2, 2)
    with pytest.raises(
        ValueError, match=r"^config: expected 'type', the name of Net or of a subclass of it, and 'parts'"
    ):
        Net.from_config(Model(rnn=LSTM(3, 4)).config())
    with pytest.raises(ValueError, match=r"^config: expected 'type', the name of Model or of a subclass"):
        Model.from_config(LSTM(3, 4).config())


def test_subclasses_in_models(tmp_path):
    mine = defined(LAYER.format("LSTM", "LSTM", 1), "notebook").LSTM
    assert type(rebuilt(Bare(rnn=mine(3, 4, rng=0)), tmp_path).parts["rnn"]) is mine
