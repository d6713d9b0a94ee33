"""The command line: training that can be killed, sampling, information, and mistakes that end in one line."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from registry import assert_same

from rnnfast import GRU, Dense, Model, checkpoint

pytest.importorskip("click", reason="needs the extra cli")
pytest.importorskip("tqdm", reason="needs the extra cli")
pytest.importorskip("safetensors", reason="needs the extra cli")

from click.testing import CliRunner

from rnnfast.cli import corpus
from rnnfast.cli.app import app
from rnnfast.cli.sample import sample
from rnnfast.cli.train import PRESETS, Settings, Training, bits_per_character, load_model

TINY = ["--hidden", "12", "--steps", "30", "--batch-size", "4", "--window", "10", "--sample-length", "20"]
COMMAND = [sys.executable, "-P", "-m", "rnnfast"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to be in, with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("".join(f"line {i}: naïve café ☃, {i * i}\n" for i in range(200)), encoding="utf-8")
    return tmp_path


def run(*arguments, code=0):
    """The output of a command, which must end with this code and without a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="rnnfast")
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def train(*arguments, code=0):
    return run("train", "--text", "text", *TINY, "--checkpoint", "a", *arguments, code=code)


def weights(path):
    """Everything in a checkpoint that decides what comes next, by name."""
    loaded = checkpoint.load(path)
    arrays = {**loaded.model.params, **{f"optimizer.{name}": value for name, value in loaded.optimizer.items()}}
    arrays |= {f"extra.{name}": loaded.extra[name] for name in ("step", "trainer", "rng", "sums")}
    return arrays | {"held out": [row[2] for row in loaded.extra["history"]]}


def assert_same_run(one, other):
    assert_same(weights(one), weights(other))


# Training


def test_training_prints_what_it_measures_and_learns(folder):
    output = train("--steps", 120, "--eval-every", 40, "--lr", 0.02, "--curve", "curve.csv")
    figures = r"train ([\d.]+)  held out ([\d.]+) bits per character +([\d,]+) characters/s  gradient norm ([\d.]+)$"
    lines = re.findall(r"^step +(\d+)  " + figures, output, re.MULTILINE)
    assert [int(line[0]) for line in lines] == [40, 80, 120]
    assert float(lines[-1][2]) < float(lines[0][2]) < 6
    with open("curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [40, 80, 120]
    assert all(float(row["chars_per_second"]) > 0 and float(row["grad_norm"]) > 0 for row in rows)
    assert [f"{float(row['held_out_bpc']):.3f}" for row in rows] == [line[2] for line in lines]
    assert output.splitlines()[-1]
    assert "\r" not in output
    assert sorted(os.listdir()) == ["a", "curve.csv", "text"]


def test_the_default_text_is_in_every_python(folder):
    output = run("train", "--preset", "quick", "--steps", 2, "--checkpoint", "a")
    assert re.search(r"\d{3},\d{3} characters to learn, \d{2},\d{3} held out", output)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_a_progress_bar_on_a_terminal_only(folder):
    import fcntl
    import struct
    import termios

    arguments = [*COMMAND, "train", "--text", "text", *TINY, "--checkpoint", "a"]
    master, terminal = os.openpty()
    os.set_blocking(master, False)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=terminal, timeout=120, check=True)
    shown = os.read(master, 100_000).decode()
    os.close(terminal)
    os.close(master)
    assert "/30 [" in shown
    assert b"/30 [" not in done.stdout
    done = subprocess.run([*arguments, "--overwrite"], capture_output=True, timeout=120, check=True)
    assert done.stderr == b""


def test_checkpoints_every_so_often(folder):
    training = Training(corpus.load(folder / "text"), Settings(hidden=5, steps=7, batch_size=4, window=10))
    while not training.done:
        training.advance()
        training.save(folder / f"{training.step}")
    for step in range(1, 8):
        assert load_model(folder / f"{step}")[1]["step"] == step


OPTIONS = [
    [],
    ["--cell", "gru", "--layers", "2", "--dropout", "0.4", "--truncation", "23"],
    ["--cell", "rnn", "--layers", "2", "--dropout", "0.2", "--truncation", "20", "--threads", "1"],
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_run_that_stops_anywhere_goes_on_bitwise(folder, options):
    train("--eval-every", 7, *options)
    settings = load_model(folder / "a")[1]["settings"]
    text = corpus.load(folder / "text")
    training = Training(text, Settings(**settings))
    while not training.done:
        training.advance()
        if training.step % 7 == 0 or training.done:
            training.report()
        training.save(folder / "b")
        training = Training.resume(folder / "b", text, num_threads=1 + training.step % 3)
    assert_same_run("a", "b")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL to kill a run with")
@pytest.mark.parametrize("options", OPTIONS[:2])
def test_a_killed_run_goes_on_bitwise(folder, options):
    every = ["--checkpoint-every", "3", "--eval-every", "20", "--steps", "120"]
    train(*every, *options)
    killed = [*COMMAND, "train", "--text", "text", *TINY, *every, *options, "--checkpoint", "b"]
    rng = np.random.default_rng(0)
    kills = 0
    for attempt in range(60):
        process = subprocess.Popen(
            killed + ["--resume"] * bool(attempt), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        before = None if not attempt else os.stat("b").st_mtime_ns
        while process.poll() is None and (not os.path.exists("b") or os.stat("b").st_mtime_ns == before):
            time.sleep(0.001)
        if kills < 4:
            time.sleep(rng.random() * 0.05)
            process.kill()
        output, errors = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), errors
        kills += process.returncode != 0
        load_model(folder / "b")  # whole at any moment
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills > 0
    assert b"step    120" in output
    assert_same_run("a", "b")
    assert sorted(os.listdir()) == ["a", "b", "text"]


def test_resuming_a_finished_run_shows_it_again(folder):
    train()
    before = hashlib.sha256((folder / "a").read_bytes()).digest()
    assert "step 30 of 30" in train("--resume")
    assert hashlib.sha256((folder / "a").read_bytes()).digest() == before


def test_the_same_seed_makes_the_same_run(folder):
    train()
    train("--checkpoint", "b", "--threads", 1)
    train("--checkpoint", "c", "--seed", 1)
    assert_same_run("a", "b")
    assert not np.array_equal(weights("a")["head.weight"], weights("c")["head.weight"])


def test_an_interrupt_says_how_to_go_on(folder, monkeypatch):
    real = Training.advance

    def interrupt(self):
        if self.step == 12:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(Training, "advance", interrupt)
    output = train("--checkpoint-every", 5, code=1)
    assert "Error: stopped after step 12; go on from a with --resume" in output
    assert load_model(folder / "a")[1]["step"] == 10


def test_a_training_that_blows_up_keeps_the_last_good_checkpoint(folder):
    output = train("--lr", 1e38, "--checkpoint-every", 1, code=1)
    assert re.search(r"Error: loss .* at step \d+: try a lower lr", output)
    assert all(np.isfinite(value).all() for value in load_model(folder / "a")[0].params.values())


# Mistakes


def test_an_existing_checkpoint_is_not_overwritten_by_accident(folder):
    train()
    before = (folder / "a").read_bytes()
    assert "Error: --checkpoint: a exists; go on with --resume, or begin anew with --overwrite" in train(code=1)
    assert (folder / "a").read_bytes() == before
    assert "exclude each other" in train("--resume", "--overwrite", code=2)
    train("--overwrite", "--seed", 5)
    assert load_model(folder / "a")[1]["settings"]["seed"] == 5


def test_resume_takes_no_other_settings_and_no_other_text(folder):
    train()
    assert run("train", "--text", "text", "--checkpoint", "a", "--resume")
    message = "Error: hidden: expected 12, with which a was begun, got 13"
    assert message in train("--hidden", 13, "--resume", code=1)
    assert "was begun, got" in run(
        "train", "--text", "text", "--checkpoint", "a", "--resume", "--preset", "quick", code=1
    )
    assert "Error: text: expected the one with which a was begun" in run(
        "train", "--checkpoint", "a", "--resume", code=1
    )
    assert "Error: path: expected a checkpoint file, but b does not exist" in train(
        "--checkpoint", "b", "--resume", code=1
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "text: can't read other: No such file or directory"),
        (b"", "text: expected a text, but other is empty"),
        (b"ab\xff", "text: expected UTF-8 in other, got byte 0xff at 2"),
        (b"a" * 100, "text: expected at least two distinct characters, got 1"),
        (b"abc", "text: expected enough for 4 rows and a tenth held out, got 3 characters"),
        (b"abcde" * 3, "text: expected enough for 4 rows and a tenth held out, got 15 characters"),
    ],
)
def test_texts_that_will_not_do(folder, content, message):
    if content is not None:
        (folder / "other").write_bytes(content)
    assert f"Error: {message}" in train("--text", "other", code=1)
    assert not (folder / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--hidden", "0"], "Invalid value for '--hidden'", 2),
        (["--steps", "many"], "Invalid value for '--steps'", 2),
        (["--lr", "0"], "Invalid value for '--lr'", 2),
        (["--lr", "nan"], "Error: lr: expected a finite number", 1),
        (["--clip", "nan"], "Error: clip_norm: expected a finite number", 1),
        (["--dropout", "1"], "Invalid value for '--dropout'", 2),
        (["--cell", "transformer"], "Invalid value for '--cell'", 2),
        (["--seed", "-1"], "Invalid value for '--seed'", 2),
        (["--threads", "0"], "Invalid value for '--threads'", 2),
        (["--truncation", "5"], "Error: k2: expected at least k1 = 10, got 5", 1),
        (["--batch-size", "100000"], "Error: text: expected enough for 100000 rows", 1),
        (["--checkpoint", "missing/a"], "Error: missing/a: No such file or directory", 1),
        (["--curve", "missing/c"], "Error: missing/c: No such file or directory", 1),
        (["--checkpoint", "."], "Invalid value for '--checkpoint'", 2),
        (["--text", "."], "Invalid value for '--text'", 2),
        (["surplus"], "Got the argument 'surplus'. A file to learn is an option: --text surplus", 2),
        (["surplus.csv"], "Got the argument 'surplus.csv'. A file to learn is an option: --data surplus.csv", 2),
        (["--epochs", "3"], "--epochs does not go with --task text", 2),
    ],
)
def test_options_that_will_not_do(folder, arguments, message, code):
    assert message in train(*arguments, code=code)
    assert os.listdir() == ["text"]


def test_files_that_are_no_checkpoints(folder):
    train()
    (folder / "cut").write_bytes((folder / "a").read_bytes()[:-1])
    checkpoint.save(folder / "model", Model(rnn=GRU(3, 4), head=Dense(4, 3)))
    for command in (["sample"], ["info"], ["train", "--text", "text", "--resume", "--checkpoint"]):
        assert "Error: cut: truncated, damaged, or not a checkpoint of rnnfast" in run(*command, "cut", code=1)
        assert "Error: text: truncated, damaged, or not a checkpoint of rnnfast" in run(*command, "text", code=1)
        if command != ["info"]:  # which shows any
            assert "Error: model: expected a checkpoint of `rnnfast train`" in run(*command, "model", code=1)
        assert "Error: path: expected a checkpoint file, but nope does not exist" in run(*command, "nope", code=1)


# Sampling and information


def test_sample(folder):
    train()
    arguments = ["sample", "a", "--prompt", "line 1", "--length", 50]
    one = run(*arguments, "--seed", 3)
    assert one == run(*arguments, "--seed", 3, "--threads", 1) != run(*arguments, "--seed", 4)
    assert one.startswith("line 1")
    assert len(one) == len("line 1") + 50 + 1
    assert run(*arguments, "--temperature", 0) == run(*arguments, "--temperature", 0)
    assert run("sample", "a", "--length", 0) == "\n\n"
    assert "Error: prompt: expected only characters that the model knows, got 'Ωß'" in run(
        "sample", "a", "--prompt", "ßΩ a"[:2], code=1
    ).replace("ßΩ", "Ωß")
    assert "Error: prompt: expected at least one character" in run("sample", "a", "--prompt", "", code=1)
    assert "Invalid value for '--temperature'" in run("sample", "a", "--temperature", -1, code=2)
    assert "Error: temperature: expected a finite number" in run("sample", "a", "--temperature", "inf", code=1)
    assert "Missing argument 'CHECKPOINT'" in run("sample", code=2)


def test_samples_follow_the_models_distribution():
    """From the letter a, a model with these logits draws a, b and c in the proportions of their softmax."""
    model = Model(rnn=GRU(3, 2, rng=0), head=Dense(2, 3, rng=0))
    model.update({"head.weight": np.zeros((3, 2)), "head.bias": np.log([0.5, 0.3, 0.2])})
    for temperature, expected in ((1.0, [0.5, 0.3, 0.2]), (0.5, np.array([25, 9, 4]) / 38), (0, [1, 0, 0])):
        drawn = sample(model, "abc", "a", 1000, temperature=temperature, rng=0, num_threads=1)
        assert [drawn.count(letter) / 1000 for letter in "abc"] == pytest.approx(expected, abs=0.05)


def test_bits_per_character_of_a_model_that_knows_nothing():
    model = Model(rnn=GRU(8, 2, rng=0), head=Dense(2, 8, rng=0))
    model.update({"head.weight": np.zeros((8, 2)), "head.bias": np.zeros(8)})
    ids = np.random.default_rng(0).integers(0, 8, 1000)
    assert bits_per_character(model, ids) == pytest.approx(3.0)
    assert bits_per_character(model, ids[:2]) == pytest.approx(3.0)


def test_info(folder):
    output = run("info")
    assert "isa" in output
    train("--eval-every", 30)
    output = run("info", "a")
    for expected in ("rnn: LSTM(input_size=", "head: Dense(", "hidden: 12", "step: 30", "bits per character"):
        assert expected in output


def test_presets_are_settings():
    assert PRESETS["default"] == Settings()
    assert set(asdict(replace(PRESETS["long"]))) == set(asdict(Settings()))


def test_corpus():
    text = corpus.help_topics()
    split = corpus.Corpus.from_text(text)
    whole = np.concatenate([split.train, split.held_out])
    assert corpus.decode(whole, split.vocabulary) == text
    assert len(split.held_out) == len(text) // 10
    assert split.digest == corpus.Corpus.from_text(text).digest != corpus.Corpus.from_text(text + " ").digest


def test_help_and_version():
    assert "train" in run("--help")
    assert re.search(r"\d+\.\d+", run("--version"))
    assert "--resume" in run("train", "--help")
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: rnnfast [OPTIONS] COMMAND")


def test_a_terminal_that_lacks_characters(folder):
    train()
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    command = [*COMMAND, "sample", "a", "--prompt", "naïve ☃", "--length", "0"]
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert done.stdout == "naïve ?\n".encode("latin-1")


@pytest.mark.parametrize("missing", ["click", "tqdm", "safetensors"])
def test_without_the_extra_it_says_what_to_install(missing):
    script = (
        "import importlib.util as u, rnnfast.cli as c; find = u.find_spec; "
        f"c.find_spec = lambda name: None if name == {missing!r} else find(name); c.main(['info'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"rnnfast: the command line needs {missing}: pip install rnnfast[cli]\n"
