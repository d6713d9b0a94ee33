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


def small(path):
    """A checkpoint of all kinds of contents, and few bytes."""
    layer = GRU(1, 1, rng=0)
    extra = {
        "step": 3,
        "rate": 0.5,
        "big": [np.arange(3), np.array([[]], np.float32), np.array([True, False])],
        "n": "µ",
    }
    checkpoint.save(path, layer, optimizer=SGD(layer.params, 0.1, momentum=0.5), extra=extra)
    return path.read_bytes()


def contents(path):
    loaded = checkpoint.load(path)
    return loaded.model.config(), loaded.model.params.flat.tolist(), loaded.optimizer, loaded.extra


def test_files_cut_off_anywhere(tmp_path):
    path = tmp_path / "a.safetensors"
    data = small(path)
    for content in [*(data[:cut] for cut in range(len(data))), data + b"\0", b"\0" * 100, data[8:], b"PK\3\4" + data]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.safetensors: truncated, damaged, or not a checkpoint"):
            checkpoint.load(path)


def test_no_changed_bit_is_loaded(tmp_path):
    """One bit of each byte, and all of them in the bytes of tensors."""
    path = tmp_path / "a.safetensors"
    data = small(path)
    expected = contents(path)
    header, rng = 8 + int.from_bytes(data[:8], "little"), np.random.default_rng(0)
    for place in range(len(data)):
        for bit in range(8) if place >= header else [rng.integers(8)]:
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                found = contents(path)
            except ValueError as error:
                assert str(error).startswith(f"{path}: truncated, damaged, or not a checkpoint"), error
            else:  # such as the case of a hexadecimal digit
                assert place < header
                assert_same(found, expected)


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
    """Change a checkpoint's document and tensors, with checksums that fit, as who means harm would."""
    with safetensors.safe_open(path, framework="numpy") as file:
        document = json.loads(file.metadata()["rnnfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    change(document, tensors)
    document.pop("sha256")
    document["tensors"] = {name: checkpoint._digest_of(array) for name, array in tensors.items()}
    document["sha256"] = checkpoint._digest(json.dumps(document).encode())
    safetensors.save_file(tensors, path, metadata={"rnnfast": json.dumps(document)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: t.pop("head.bias"), "expected a tensor head.bias .2., which is missing"),
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
        (lambda d, t: d["config"]["parts"]["rnn"].update(hidden_size=9000), "rnn.weight_ih_l0: expected shape"),
        (lambda d, t: d["config"]["parts"]["rnn"].update(num_layers=2**24), "num_layers: expected an integer in"),
        (lambda d, t: d["config"]["parts"]["rnn"].update(num_layers=4096), "expected a tensor rnn.weight_ih_l2"),
        (lambda d, t: d["config"]["parts"]["rnn"].update(init="xavier", hidden_size=6000), "expected shape"),
        (lambda d, t: d["config"]["parts"]["rnn"].update(init="zeros"), "init: expected one of"),
        (lambda d, t: d["config"]["parts"]["rnn"].update(dtype="(1,f4"), "dtype: expected float32 or float64"),
        (lambda d, t: d["config"]["parts"]["head"].update(output_size=2**24), "head.weight: expected shape"),
        (lambda d, t: d["config"]["parts"].update(more={**d["config"], "parts": {}}), "at least one part"),
        (lambda d, t: d["config"]["parts"].update(more=[]), "config: expected a mapping"),
        (lambda d, t: d["config"].update(type=["LSTM"]), "config"),
        (lambda d, t: d["extra"].update({"$array": [1]}), r"\[1\] is missing"),
        (lambda d, t: d["extra"].update({"$array": "head.bias"}), "'head.bias' is missing"),
        (lambda d, t: d["optimizer"].update({"exp_avg": {"$tuple": 3}}), "not iterable"),
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


def header_only(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_documents_that_are_too_deep_or_have_other_dtypes(tmp_path):
    path = tmp_path / "a.safetensors"
    small(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        document = json.loads(file.metadata()["rnnfast"])
    deep = "[" * 50_000 + "]" * 50_000
    header_only(path, {"__metadata__": {"rnnfast": deep}})
    with pytest.raises(ValueError, match=r"damaged, or not a checkpoint of rnnfast: .*recursion"):
        checkpoint.load(path)
    for kind, size in (("BF16", 2), ("F8_E4M3", 1), ("C64", 8)):
        del document["sha256"]
        document["tensors"] = {"a": ""}
        document["sha256"] = checkpoint._digest(json.dumps(document).encode())
        tensor = {"dtype": kind, "shape": [1], "data_offsets": [0, size]}
        header_only(path, {"__metadata__": {"rnnfast": json.dumps(document)}, "a": tensor}, bytes(size))
        with pytest.raises(ValueError, match=f"damaged, or not a checkpoint of rnnfast: a: .* got {kind}"):
            checkpoint.load(path)


def test_files_of_another_format_are_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    for version in (1, 3):
        metadata = {"rnnfast": json.dumps({"format": f"rnnfast checkpoint {version}"})}
        safetensors.save_file({"weight": np.zeros(3)}, path, metadata=metadata)
        message = f"expected the format 'rnnfast checkpoint 2' in its metadata, got 'rnnfast checkpoint {version}'"
        with pytest.raises(ValueError, match=message):
            checkpoint.load(path)


def test_the_initial_scheme_is_kept_and_not_run(tmp_path, monkeypatch):
    model = Model(rnn=LSTM(3, 5, init="xavier"), head=Dense(5, 2, init=lambda name, shape, rng: np.ones(shape)))
    checkpoint.save(tmp_path / "a", model)
    monkeypatch.setattr("rnnfast.init.orthogonal", None)
    loaded = checkpoint.load(tmp_path / "a").model
    assert loaded.config() == model.config()
    assert loaded.config()["parts"]["rnn"]["init"] == "xavier"
    assert_same_bits(np.array(loaded.params.flat), np.array(model.params.flat))


def test_names_with_slashes_and_other_odd_ones(tmp_path):
    one, two, three = np.arange(2), np.arange(3), np.arange(4)
    extra = {"y/z": one, "y": {"z": two, "z'": three}, "": one, "\ud800": two, "\\ud800": one, "µ\0": three}
    checkpoint.save(tmp_path / "a", GRU(1, 1), extra=extra)
    assert_same(checkpoint.load(tmp_path / "a").extra, extra)


def test_what_nothing_could_load_is_not_saved(tmp_path):
    recursive = {}
    recursive["a"] = [recursive]
    deep = []
    for _ in range(98):
        deep = [deep]
    checkpoint.save(tmp_path / "a", GRU(1, 1), extra={"deep": deep, "large": 2**4096 - 1})
    assert_same(checkpoint.load(tmp_path / "a").extra, {"deep": deep, "large": 2**4096 - 1})
    before = (tmp_path / "a").read_bytes()
    for value, message in [
        (recursive, r"extra/a/0/a/\.\.\.: expected at most 100 levels of dicts and lists, got more"),
        ([deep, (deep,)], "extra/1/1/0.*: expected at most 100 levels"),
        (2**4096, "extra/1: expected integers of at most 4096 bits, got one of 4097"),
    ]:
        with pytest.raises(ValueError, match=message):
            checkpoint.save(tmp_path / "a", GRU(1, 1), extra=value if value is recursive else {"1": value})
    assert (tmp_path / "a").read_bytes() == before
