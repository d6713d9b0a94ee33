"""The fuzzer: what it finds, that it would find it, and that it calls everything."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
ROOMS = ("", "layers", "losses", "encoders", "init", "optim", "tbptt", "checkpoint", "config", "diagnostics", "data")
ROOMS += ("decode", "online", "schedules", "training")


@pytest.fixture(scope="module")
def tools():
    before = list(sys.path)
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module("fuzz"), importlib.import_module("fuzz_calls")
    finally:
        sys.path[:] = before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="its limits of memory are POSIX's")
def test_twenty_thousand_calls():
    command = [sys.executable, str(TOOLS / "fuzz.py"), "--calls", "20000", "--seed", "0", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("seed 0: 20000 calls, 0 findings of 0 kinds\n"), done.stdout + done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_called(tools, room):
    """Or stands in a list with the reason why not."""
    _, calls = tools
    module = importlib.import_module(f"rnnfast.{room}".rstrip("."))
    public = {name for name in module.__all__ if callable(getattr(module, name))}
    called = {part for name in calls.TARGETS for part in name.replace(".", " ").split()}
    called |= {cls.__name__ for cls in (*calls.NAMED, *calls.CELLS)}
    assert public - called - set(calls.EXEMPT) == set()


@pytest.mark.parametrize(
    ("function", "check", "found"),
    [
        (lambda x: x.nothing, None, "not an error of ours: AttributeError: "),
        (lambda x: np.zeros(2)[3], None, "not an error of ours: IndexError: "),
        (lambda x: int("x"), None, "not an error of ours: ValueError: invalid literal"),
        (lambda x: np.log(np.zeros(1)), None, "not an error of ours: RuntimeWarning: "),
    ],
)
def test_what_is_a_finding(tools, monkeypatch, function, check, found):
    fuzz, calls = tools
    monkeypatch.setattr(calls, "make", lambda rng: calls.Call("call", function, {"x": 1}, check))
    ended = {fuzz.one_call(0, number)[1] for number in range(20)}
    assert all(text.removeprefix("a good call was refused: ") in found + text for text in ended)
    assert any(text.startswith(found) for text in ended), ended


@pytest.mark.parametrize(("answer", "found"), [(1, None), (2, "a wrong answer: got 2")])
def test_a_wrong_answer_is_a_finding(tools, monkeypatch, answer, found):
    fuzz, calls = tools

    def check(answer):
        if answer != 1:
            raise AssertionError(f"got {answer}")

    monkeypatch.setattr(calls, "make", lambda rng: calls.Call("call", lambda: answer, {}, check))
    assert fuzz.one_call(0, 0) == ("call()", found)


def test_a_refused_call_that_has_written_is_a_finding(tools, monkeypatch):
    fuzz, calls = tools
    array = np.zeros(2)

    def half(x):
        array[0] += 1
        raise ValueError(f"x: expected nothing, got {x}")

    monkeypatch.setattr(calls, "make", lambda rng: calls.Call("call", half, {"x": 1}, None, (array,)))
    ended = {fuzz.one_call(0, number)[1] for number in range(20)}
    assert any(text.startswith("refused (x: expected nothing, got") for text in ended), ended


def test_crashes_and_hangs_are_blamed_on_their_call(tools, monkeypatch, tmp_path):
    """A script in the place of a batch: it begins with its first call, and dies or hangs in call 3 and in call 7."""
    fuzz, _ = tools
    script = tmp_path / "fuzz.py"
    script.write_text("""
import os, sys, time
seed, first, stop, progress = sys.argv[2:]
for number in range(int(first), int(stop)):
    with open(progress, "r+b") as file:
        file.write(number.to_bytes(8, "little"))
    if number == 3:
        os.abort()
    if number == 7:
        time.sleep(60)
""")
    monkeypatch.setattr(fuzz, "__file__", str(script))
    monkeypatch.setattr(fuzz, "HANGS", 1.0)
    found = list(fuzz.findings(0, 10, 1))
    assert [one.number for one in found] == [3, 7]
    assert found[0].what.startswith("ended the process: status -6")
    assert found[1].what.startswith("did not end in 1 s")
