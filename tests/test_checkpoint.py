"""Checkpoints: what goes in comes out, whole or not at all, and no other file passes for one."""

from __future__ import annotations

import builtins
import json
import os

import numpy as np
import pytest
from registry import assert_same, assert_same_bits

from rnnfast import GRU, LSTM, Dense, Model, checkpoint
from rnnfast.optim import SGD, Adam

safetensors = pytest.importorskip("safetensors.numpy", reason="needs the extra cli")

EXTRA = {
    "step": 3,
    "rng": np.random.default_rng(0).bit_generator.state,
    "state": {"rnn": (np.arange(6.0).reshape(1, 2, 3), np.zeros((1, 2, 0)))},
    "list": [1, 2.5, None, True, "µ", [np.arange(3, dtype=np.int64), np.array([True])]],
    "scalars": (np.float64(0.1), np.int32(7), np.bool_(True)),
    "zero axes": np.array(1.5),
    "big-endian": np.arange(3, dtype=">f4"),
    "strided": np.arange(12.0)[::3],
    "not finite": float("inf"),
}


def trained(dtype=np.float32):
    model = Model(rnn=LSTM(3, 5, 2, dtype=dtype, rng=1), head=Dense(5, 2, dtype=dtype, rng=2))
    optimizer = Adam(model.params, 0.01)
    _, _, tape = model.forward(np.ones((4, 2, 3), dtype))
    optimizer.step(model.backward(tape, np.ones((4, 2, 2), dtype)).params)
    return model, optimizer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    model, optimizer = trained(dtype)
    checkpoint.save(path, model, optimizer=optimizer, extra=EXTRA)
    loaded = checkpoint.load(path)
    assert loaded.path == path
    assert loaded.model.config() == model.config()
    assert_same_bits(np.array(loaded.model.params.flat), np.array(model.params.flat))
    x = np.ones((3, 2, 3), dtype)
    assert_same_bits(loaded.model(x)[0], model(x)[0])
    assert_same(loaded.optimizer, optimizer.state_dict())
    Adam(loaded.model.params, 1.0).load_state_dict(loaded.optimizer)
    native = EXTRA | {"scalars": (0.1, 7, True), "big-endian": EXTRA["big-endian"].astype(np.float32)}
    assert_same(loaded.extra, native | {"strided": EXTRA["strided"].copy()})
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_layer_alone(tmp_path):
    layer = GRU(3, 4, reset_after=False, bidirectional=True, rng=0)
    checkpoint.save(tmp_path / "a", layer)
    loaded = checkpoint.load(tmp_path / "a")
    assert isinstance(loaded.model, GRU)
    assert loaded.model.config() == layer.config()
    assert_same_bits(np.array(loaded.model.params.flat), np.array(layer.params.flat))
    assert loaded.optimizer is None
    assert loaded.extra == {}


def test_any_safetensors_reader_gets_the_weights(tmp_path):
    model, optimizer = trained()
    checkpoint.save(tmp_path / "a", model, optimizer=optimizer)
    tensors = safetensors.load_file(tmp_path / "a")
    assert_same_bits(tensors["rnn.weight_ih_l0"], np.array(model.params["rnn.weight_ih_l0"]))
    assert {name for name in tensors if "/" not in name} == set(model.params)
    assert {name for name in tensors if "/" in name} == {"optimizer/exp_avg", "optimizer/exp_avg_sq"}


def test_equal_contents_make_equal_files(tmp_path):
    for name in "ab":
        model, optimizer = trained()
        checkpoint.save(tmp_path / name, model, optimizer=optimizer, extra=EXTRA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Whole or not at all


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "a"
    checkpoint.write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, step, fail)
    with pytest.raises(OSError, match=r"No space left on device.*a'$"):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_interrupt_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a"
    checkpoint.write_atomically(path, b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_saved_writes_nothing(tmp_path):
    model, _ = trained()
    for extra, message in [
        ({"a": {1: 2}}, "extra/a: expected keys that are strings"),
        ({"$a": 2}, "extra: expected keys that are strings not beginning with"),
        ({"a": [object()]}, "extra/a/0: expected dicts"),
        ({"a": np.array(["x"])}, "extra/a: expected an array of booleans or real numbers"),
        ({"a": np.zeros(2, complex)}, "extra/a: expected an array of booleans or real numbers"),
        ({"a": 1j}, "extra/a: expected dicts"),
    ]:
        with pytest.raises(TypeError, match=message):
            checkpoint.save(tmp_path / "a", model, extra=extra)
    for arguments, message in [
        ({"model": 3}, "model: expected a Model or layer, got int 3"),
        ({"model": model.params}, "model: expected a Model or layer, got Parameters"),
        ({"model": model, "optimizer": 3}, "optimizer: expected an optimiser or None, got int 3"),
        ({"model": model, "extra": [1]}, "extra: expected a mapping or None, got list"),
    ]:
        with pytest.raises(TypeError, match=message):
            checkpoint.save(tmp_path / "a", **arguments)
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="missing"):
        checkpoint.save(tmp_path / "missing" / "a", model)


def test_leftovers_of_killed_writers_can_be_removed(tmp_path):
    for name in ("a[1]", ".a[1].0123abcd.tmp", ".a1.0123abcd.tmp", "a[1].tmp"):
        (tmp_path / name).write_bytes(b"")
    checkpoint.remove_leftovers(tmp_path / "a[1]")
    assert sorted(os.listdir(tmp_path)) == [".a1.0123abcd.tmp", "a[1]", "a[1].tmp"]


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only some users make symbolic links")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "a")
    checkpoint.write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "a").read_bytes() == b"new"


# What is no checkpoint


def test_truncated_files(tmp_path):
    path = tmp_path / "a.safetensors"
    model, optimizer = trained()
    checkpoint.save(path, model, optimizer=optimizer, extra=EXTRA)
    data = path.read_bytes()
    cuts = [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 4, len(data) - 1]
    for content in [*(data[:cut] for cut in cuts), data + b"\0", b"\0" * 100, data[8:], b"PK\3\4" + data]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.safetensors: truncated, damaged, or not a checkpoint"):
            checkpoint.load(path)


def test_foreign_files(tmp_path):
    path = tmp_path / "a.safetensors"
    for metadata in (None, {"format": "pt"}, {"rnnfast": "{"}, {"rnnfast": "[]"}, {"rnnfast": '{"format": "x"}'}):
        safetensors.save_file({"weight": np.zeros(3)}, path, metadata=metadata)
        with pytest.raises(ValueError, match=r"a\.safetensors: truncated, damaged, or not a checkpoint"):
            checkpoint.load(path)


def test_missing_files_and_devices(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: expected a checkpoint file, but .*nope does not exist"):
        checkpoint.load(tmp_path / "nope")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        checkpoint.load(tmp_path)
    checkpoint.save(tmp_path / "a", trained()[0])
    with pytest.raises(ValueError, match=r"^device: expected one of 'cpu', 'cuda', got 'tpu'"):
        checkpoint.load(tmp_path / "a", device="tpu")


def rewrite(path, change):
    """Change a checkpoint's document and tensors."""
    with safetensors.safe_open(path, framework="numpy") as file:
        document = json.loads(file.metadata()["rnnfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    change(document, tensors)
    safetensors.save_file(tensors, path, metadata={"rnnfast": json.dumps(document)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: t.pop("head.bias"), "missing.*head.bias"),
        (lambda d, t: t.update(more=np.zeros(1)), "surplus.*more"),
        (lambda d, t: t.update({"extra/more": np.zeros(1)}), "tensors that nothing refers to: extra/more"),
        (lambda d, t: t.pop("optimizer/exp_avg"), "'optimizer/exp_avg' is missing"),
        (lambda d, t: t.update({"head.bias": np.zeros(3, np.float32)}), "head.bias: expected shape"),
        (lambda d, t: t.update({"head.bias": np.zeros(2)}), "head.bias: expected dtype float32, got float64"),
        (lambda d, t: d.pop("config"), "'config' is missing"),
        (lambda d, t: d.pop("extra"), "'extra' is missing"),
        (lambda d, t: d.update(extra=[]), "'extra' and 'optimizer' must be objects"),
        (lambda d, t: d.update(config=None), "'config' must be an object"),
        (lambda d, t: d["config"].update(type="Transformer"), "config"),
        (lambda d, t: d["config"]["parts"]["rnn"].update(hidden_size=-1), "hidden_size: expected"),
        (lambda d, t: d["config"]["parts"]["rnn"].update(hidden_size=2**60), "hidden_size"),
        (lambda d, t: d["config"]["parts"]["rnn"].update(colour="red"), "config"),
    ],
)
def test_damaged_contents(tmp_path, change, message):
    path = tmp_path / "a.safetensors"
    model, optimizer = trained()
    checkpoint.save(path, model, optimizer=optimizer)
    rewrite(path, change)
    with pytest.raises(ValueError, match=rf"a\.safetensors: not a valid rnnfast checkpoint: .*{message}"):
        checkpoint.load(path)


def test_the_state_of_another_optimizer(tmp_path):
    model, optimizer = trained()
    checkpoint.save(tmp_path / "a", model, optimizer=optimizer)
    with pytest.raises(ValueError, match="state: expected"):
        SGD(model.params, 0.1).load_state_dict(checkpoint.load(tmp_path / "a").optimizer)


def test_without_safetensors_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install rnnfast\[cli\]"):
        checkpoint.save(tmp_path / "a", trained()[0])
