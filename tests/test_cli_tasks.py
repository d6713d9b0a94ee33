"""`rnnfast train --task`: classes of sequences and series, from CSV and .npz files, and mistakes in one line."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from rnnfast import LSTM, checkpoint
from rnnfast.data import Standardizer
from rnnfast.encoders import LabelEncoder

pytest.importorskip("click", reason="needs the extra cli")
pytest.importorskip("tqdm", reason="needs the extra cli")
pytest.importorskip("safetensors", reason="needs the extra cli")

from click.testing import CliRunner

from rnnfast.cli import tasks
from rnnfast.cli.app import app

SMALL = ["--hidden", "12", "--epochs", "15"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, code=0):
    """The output of a command, which must end with this code and without a traceback."""
    result = CliRunner().invoke(app, ["train", *map(str, arguments)], prog_name="rnnfast")
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def gestures(count=60, seed=0):
    """Sequences that rise or fall, of different lengths, with their names."""
    rng = np.random.default_rng(seed)
    kinds = ["up" if rise else "down" for rise in rng.random(count) < 0.5]
    lengths = rng.integers(4, 12, count)
    slopes = [np.arange(length) * (1 if kind == "up" else -1) for kind, length in zip(kinds, lengths, strict=True)]
    return [np.stack([slope + rng.normal(size=len(slope)), rng.normal(size=len(slope))], 1) for slope in slopes], kinds


def write(path, names, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def write_gestures(path="data.csv"):
    sequences, kinds = gestures()
    rows = [
        [number, f"{a:.3f}", "" if step == 1 else f"{b:.3f}", kind]
        for number, (sequence, kind) in enumerate(zip(sequences, kinds, strict=True))
        for step, (a, b) in enumerate(sequence)
    ]
    write(path, ["id", "height", "noise", "label"], rows)


def accuracy_of(output):
    return float(re.search(r"held-out accuracy ([\d.]+)% of 12 sequences", output)[1])


# Classes


def test_classes_of_a_long_table(folder):
    """With holes; and the checkpoint has what it takes to use the model."""
    write_gestures()
    output = run("--task", "classification", "--data", "data.csv", *SMALL)
    assert output.startswith("60 sequences of height, noise; 2 classes\nepoch    1  loss")
    assert output.count("\nepoch") == 15 and accuracy_of(output) >= 90
    assert output == run("--task", "classification", "--data", "data.csv", *SMALL, "--overwrite")
    loaded = checkpoint.load("rnnfast-classes.safetensors")
    encoder = LabelEncoder.from_dict(loaded.extra["labels"])
    scale = Standardizer.from_dict(loaded.extra["scale"])
    sequences, kinds = gestures(seed=1)
    answers = [loaded.model(scale.apply(one), last_only=True)[0].argmax() for one in sequences]
    assert np.mean(np.array(encoder.decode(answers)) == kinds) > 0.9


def test_classes_of_a_wide_table_and_of_arrays(folder):
    sequences, kinds = gestures()
    write("wide.csv", [*"abcd", "class"], [[*one[:4, 0], kind] for one, kind in zip(sequences, kinds, strict=True)])
    output = run("--task", "classification", "--data", "wide.csv", *SMALL)
    assert "60 sequences of value; 2 classes" in output and accuracy_of(output) >= 80
    x = np.zeros((60, 11, 2))
    for row, one in zip(x, sequences, strict=True):
        row[: len(one)] = one
    np.savez("ragged.npz", x=x, y=np.array(kinds), lengths=[len(one) for one in sequences])
    output = run("--task", "classification", "--data", "ragged.npz", "--checkpoint", "c", "--cell", "lstm", *SMALL)
    assert "60 sequences of x0, x1; 2 classes" in output and accuracy_of(output) >= 90
    np.savez("flat.npz", x=x[:, :4, 0], y=np.arange(60) % 3)
    assert "60 sequences of x0; 3 classes" in run(
        "--task", "classification", "--data", "flat.npz", "--checkpoint", "d", *SMALL
    )


def test_columns_are_chosen_by_name(folder):
    write("odd.csv", ["who", "kind", "v"], [[n // 4, "ab"[n // 4 % 2], n] for n in range(40)])
    sequences, labels, names = tasks.read_sequences(folder / "odd.csv", "who", "kind")
    assert [one.ravel().tolist() for one in sequences[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels == list("ab" * 5) and names == ["v"]


# Series


def write_waves(path="waves.csv", steps=300):
    t = np.arange(steps)
    rows = [[f"day {n}", np.sin(n / 4), np.cos(n / 4) * 100 + 7] for n in t]
    write(path, ["date", "sine", "cosine"], rows)


def test_a_series_is_forecast(folder):
    write_waves()
    output = run("--task", "forecasting", "--data", "waves.csv", *SMALL, "--epochs", 40, "--horizon", 5)
    assert output.startswith("300 steps of sine, cosine\nepoch    1  loss")
    error, naive = map(float, re.search(r"error ([\d.]+) in 60 steps \(of the last value: ([\d.]+)\)", output).groups())
    assert error < naive / 4
    table = output[output.index("step,sine,cosine") :].strip().splitlines()
    coming = np.array([[float(cell) for cell in line.split(",")] for line in table[1:]])
    assert coming[:, 0].tolist() == [300, 301, 302, 303, 304]
    np.testing.assert_allclose(coming[:, 1], np.sin(coming[:, 0] / 4), atol=0.25)
    np.testing.assert_allclose(coming[:, 2], np.cos(coming[:, 0] / 4) * 100 + 7, atol=25)
    assert checkpoint.load("rnnfast-series.safetensors").extra["names"] == ["sine", "cosine"]


def test_one_column_of_a_series_and_arrays(folder):
    write_waves()
    output = run("--task", "forecasting", "--data", "waves.csv", "--target", "cosine", "--epochs", 1, "--window", 8)
    assert "300 steps of cosine" in output
    np.savez("x.npz", x=np.sin(np.arange(200) / 5))
    output = run("--task", "forecasting", "--data", "x.npz", "--epochs", 1, "--checkpoint", "c")
    assert "200 steps of x0" in output and "step,x0" in output


def test_what_a_model_file_holds(folder):
    write_waves()
    run("--task", "forecasting", "--data", "waves.csv", "--epochs", 1, "--hidden", 9)
    output = CliRunner().invoke(app, ["info", "rnnfast-series.safetensors"]).output
    for expected in (
        "rnn: GRU(input_size=2, hidden_size=9",
        "parameters: 371 of float32",
        "kind: forecaster",
        "window: 32",
    ):
        assert expected in output
    checkpoint.save("layer", LSTM(3, 4, rng=0))
    assert "layer: LSTM(input_size=3" in CliRunner().invoke(app, ["info", "layer"]).output


# Mistakes


def test_mistakes_end_in_one_line(folder):
    write_gestures()
    write("short.csv", ["a"], [[1.0]] * 9)
    write("words.csv", ["id", "v", "label"], [[0, "high", "up"]])
    write("several.csv", ["id", "v", "label"], [[0, 1, "up"], [0, 2, "down"]])
    write("few.csv", ["v", "label"], [[1, "up"]] * 9)
    (folder / "ragged.csv").write_text("a,b\n1\n")
    (folder / "empty.csv").write_text("a\n")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (folder / "bad.npz").write_bytes(b"nothing")
    np.savez("x.npz", x=np.zeros((4, 3)), y=np.zeros(3))
    np.savez("none.npz", z=np.zeros(3))
    classes, series = ["--task", "classification", "--data"], ["--task", "forecasting", "--data"]
    for arguments, message, code in (
        (["--task", "classification"], "--task classification needs --data", 2),
        (["--task", "regression"], "Invalid value for '--task'", 2),
        ([*classes, "data.csv", "--resume"], "--resume does not go with --task classification", 2),
        ([*series, "short.csv", "--preset", "quick"], "--preset does not go with --task forecasting", 2),
        ([*classes, "nothing.csv"], "nothing.csv: No such file or directory", 1),
        ([*classes, "nothing.npz"], "nothing.npz: expected an .npz file", 1),
        ([*classes, "data.csv", "--target", "kind"], "expected a column 'kind', got id, height, noise, label", 1),
        ([*classes, "data.csv", "--sequence", "row"], "expected a column 'row', got id, height", 1),
        ([*classes, "short.csv"], "expected a column named label or class or target or y, or --target, got a", 1),
        ([*classes, "words.csv"], "expected numbers in column 'v', got 'high' in line 2", 1),
        ([*classes, "several.csv"], "expected one class in each sequence, got several in '0'", 1),
        ([*classes, "few.csv"], "data: expected at least 5 sequences of 2 classes, got 9 of 1 classes", 1),
        ([*classes, "ragged.csv"], "expected 2 cells as in the first line, got 1 in line 2", 1),
        ([*classes, "empty.csv"], "expected a line of names and lines of values, got 1 lines", 1),
        ([*classes, "binary.csv"], "binary.csv: expected a CSV file", 1),
        ([*classes, "bad.npz"], "bad.npz: expected an .npz file of numbers", 1),
        ([*classes, "x.npz"], "expected x [N, T, I] or [N, T] and y [N], got (4, 3) and (3,)", 1),
        ([*classes, "none.npz"], "expected the arrays x, y; x, y is missing", 1),
        ([*series, "short.csv"], "data: expected more than a window of 32 steps, and a fifth more, got 9 steps", 1),
        ([*series, "data.csv", "--target", "label"], "expected numbers in column 'label', got", 1),
        ([*series, "data.csv", "--lr", "1e30"], "Error: gradient: expected a finite norm", 1),
    ):
        output = run(*arguments, code=code)
        assert message in output and "Traceback" not in output
        assert not list(folder.glob("*.safetensors"))
    (folder / "rnnfast-classes.safetensors").write_text("kept")
    assert "exists; replace it with --overwrite" in run(*classes, "data.csv", code=1)
    assert (folder / "rnnfast-classes.safetensors").read_text() == "kept"
