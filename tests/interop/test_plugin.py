"""The C header rnnfast/stream.h: compiled, it gives the bits of the layers, allocates nothing, and reads no lies."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import rnnfast
from rnnfast.interop import audio, plugin

ROOT = Path(__file__).resolve().parents[2]
CC = os.environ.get("CC", "").split() or [shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")]
CXX = os.environ.get("CXX", "").split() or [shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")]
pytestmark = pytest.mark.skipif(None in CC + CXX or os.name != "posix", reason="needs a C and a C++ compiler")

ISA = rnnfast.config.info()["isa"]
FUSED = ["-mavx2", "-mfma"] if ISA in ("avx2", "avx512") else []
"""Without them fmaf is a call of the library, with the same bits; the baseline's kernels have no such instruction."""
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
INCLUDE = f"-I{rnnfast.get_include()}"
WRAPPED = """
#include <rnnfast/stream.h>
size_t sizes(void);
size_t sizes(void) { return sizeof(struct rnnfast_model); }
int load(struct rnnfast_model *model, const void *bytes, size_t size);
int load(struct rnnfast_model *model, const void *bytes, size_t size) { return rnnfast_model_read(model, bytes, size); }
size_t memory(const struct rnnfast_model *model);
size_t memory(const struct rnnfast_model *model) { return rnnfast_stream_size(model); }
void start(const struct rnnfast_model *model, float *memory);
void start(const struct rnnfast_model *model, float *memory) { rnnfast_stream_reset(model, memory); }
void run(const struct rnnfast_model *model, float *memory, const float *in, float *out, size_t frames);
void run(const struct rnnfast_model *model, float *memory, const float *in, float *out, size_t frames) {
    rnnfast_stream_process(model, memory, in, out, frames);
}
"""


def compiled(compiler, source, output, *options):
    command = [*compiler, *options, "-ffp-contract=off", *WARNINGS, INCLUDE, str(source), "-o", str(output), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return output


def opened(folder, *options):
    """The header's functions, compiled."""
    source = folder / "wrapped.c"
    source.write_text(WRAPPED)
    found = ctypes.CDLL(str(compiled(CC, source, folder / "wrapped.so", "-std=c99", "-shared", "-fPIC", *options)))
    found.sizes.restype = found.memory.restype = ctypes.c_size_t
    found.memory.argtypes, found.start.argtypes = [ctypes.c_void_p], [ctypes.c_void_p] * 2
    found.load.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    found.run.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_size_t]
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("plugin"), "-O3", *FUSED)


class Stream:
    """A stream of the header."""

    def __init__(self, library, data):
        self.compiled, self.bytes = library, np.frombuffer(data + b"\0" * (-len(data) % 4), np.uint32).copy()
        self.model = ctypes.create_string_buffer(library.sizes())
        self.status = library.load(self.model, self.bytes.ctypes.data, len(data))
        if not self.status:
            self.memory = np.full(library.memory(self.model), np.nan, np.float32)
            self.reset()

    def reset(self):
        self.compiled.start(self.model, self.memory.ctypes.data)

    def process(self, x, outputs):
        x, y = np.ascontiguousarray(x, np.float32), np.full((len(x), outputs), np.nan, np.float32)
        self.compiled.run(self.model, self.memory.ctypes.data, x.ctypes.data, y.ctypes.data, len(x))
        return y


def models():
    layers, dense, rng = rnnfast.layers, rnnfast.Dense, np.random.default_rng(0)
    for units in (1, 7, 17, 100):
        yield f"lstm {units}", {"a": layers.LSTM(1, units, rng=0), "b": dense(units, 1, rng=1)}, {}
        yield f"gru {units}", {"a": layers.GRU(2, units, rng=0), "b": dense(units, 2, rng=1)}, {}
        yield f"gru before {units}", {"a": layers.GRU(1, units, reset_after=False, rng=0)}, {}
        yield f"rnn {units}", {"a": layers.RNN(3, units, rng=0), "b": dense(units, 1, activation="tanh", rng=1)}, {}
    yield "stack", {"a": layers.LSTM(2, 9, 3, bias=False, rng=0), "b": dense(9, 4, bias=False, rng=1)}, {}
    mixed = {"a": dense(1, 5, activation="relu", rng=0), "b": layers.GRU(5, 8, rng=1), "c": layers.LSTM(8, 3, rng=2)}
    yield "mixed", {**mixed, "d": dense(3, 2, activation="sigmoid", rng=3)}, {}
    for name in ("relu", "sigmoid", "identity"):
        yield f"rnn of {name}", {"a": layers.RNN(1, 6, nonlinearity=name, rng=0)}, {}
    amplifier = {"a": layers.LSTM(1, 20, rng=0), "b": dense(20, 1, rng=1)}
    yield "skip", amplifier, {"skip": 1, "input_gain": 0.7, "output_gain": 1.9, "sample_rate": 48000.0}
    state = tuple(rng.standard_normal((2, 5)) for _ in range(2))
    yield "started", {"a": layers.LSTM(1, 5, 2, rng=0)}, {"state": {"a": state}}
    yield "gru started", {"a": layers.GRU(1, 5, rng=0)}, {"state": {"a": rng.standard_normal((1, 5))}}


@pytest.mark.parametrize("name", [name for name, _, _ in models()])
def test_the_same_bits(name, library, tmp_path):
    parts, around = next((parts, around) for found, parts, around in models() if found == name)
    model = audio.AudioModel(rnnfast.Model(**parts), **around)
    plugin.save(tmp_path / "model", model)
    x = np.random.default_rng(1).standard_normal((400, model.input_size)).astype(np.float32)
    expected = model(x)
    stream = Stream(library, (tmp_path / "model").read_bytes())
    for lengths in ([400], [0, 1, 63, 64, 0, 272]):
        blocks = [stream.process(block, model.output_size) for block in np.split(x, np.cumsum(lengths)[:-1])]
        y = np.concatenate(blocks)
        if ISA == "baseline":
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(y.view(np.uint32), expected.view(np.uint32))
        stream.reset()


def test_functions_of_extreme_numbers(library, tmp_path):
    """NaN goes through and infinities saturate, by the instruction and by the library's function."""
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 88, -88, 3e38, -3e38, 1e-30, 9.9, -10.1], np.float32)[:, None]
    for name in ("tanh", "sigmoid", "relu"):
        head = rnnfast.Dense(1, 1, activation=name, bias=False)
        head.load({"weight": np.ones((1, 1))})
        plugin.save(tmp_path / "head", head)
        for compiled_so in (library, opened(tmp_path, "-O2")):
            y = Stream(compiled_so, (tmp_path / "head").read_bytes()).process(x, 1)
            normal = np.where(np.abs(y) < np.finfo(np.float32).tiny, 0, y)  # the kernels flush what is smaller
            np.testing.assert_allclose(normal, head(x), rtol=1e-6, err_msg=name)


def test_a_plug_in_runs_without_python(tmp_path):
    program = compiled(CXX, ROOT / "examples" / "plugin.cpp", tmp_path / "plugin", "-std=c++17", "-O2", *FUSED)
    model = rnnfast.Model(lstm=rnnfast.LSTM(1, 20, rng=0), head=rnnfast.Dense(20, 1, rng=1))
    amplifier = audio.AudioModel(model, skip=1, output_gain=0.5)
    plugin.save(tmp_path / "amp.rnnfast", amplifier)
    x = np.random.default_rng(0).standard_normal(1000).astype("<f4")
    for frames in ("64", "1", "1000"):
        command = [program, tmp_path / "amp.rnnfast", frames]
        done = subprocess.run(command, input=x.tobytes(), capture_output=True, check=True)
        np.testing.assert_allclose(np.frombuffer(done.stdout, "<f4"), amplifier(x), rtol=1e-5, atol=1e-6)
    for argument, message in (("nothing", "truncated"), (program, "no model of rnnfast")):
        done = subprocess.run([program, tmp_path / argument, "64"], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr == f"plugin: {message}\n"


# nm is part of the binutils that every compiler needs on Linux; the plug-in's other tests run without it.
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_a_step_calls_nothing_that_allocates(tmp_path):
    """All that the compiled calls refer to: copies, and fmaf where there is no instruction for it."""
    source = tmp_path / "wrapped.c"
    source.write_text(WRAPPED)
    compiled(CC, source, tmp_path / "wrapped.o", "-std=c99", "-O2", "-c")
    listed = subprocess.run(["nm", "-u", tmp_path / "wrapped.o"], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].lstrip("_").partition("@")[0] for line in listed.splitlines()}
    assert names <= {"fmaf", "memcpy", "memcmp", "memset", "GLOBAL_OFFSET_TABLE_", "stack_chk_fail"}


@pytest.mark.parametrize("standard", ["c99", "c11", "c++11", "c++20"])
def test_standards(standard, tmp_path):
    source = tmp_path / ("wrapped.cpp" if "+" in standard else "wrapped.c")
    source.write_text(WRAPPED)
    compiled(CXX if "+" in standard else CC, source, tmp_path / "wrapped.o", f"-std={standard}", "-O1", "-c")
    command = [*CC, "-ffast-math", INCLUDE, "-c", str(tmp_path / source), "-o", str(tmp_path / "fast.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "-ffast-math takes its functions apart" in done.stderr


def test_files_that_lie(library, tmp_path):
    model = rnnfast.Model(a=rnnfast.LSTM(1, 3, rng=0), b=rnnfast.Dense(3, 1, rng=1))
    plugin.save(tmp_path / "model", model)
    data = (tmp_path / "model").read_bytes()
    assert Stream(library, data).status == 0
    statuses = {Stream(library, data[:size]).status for size in range(len(data))}
    assert statuses == {1}  # truncated, at every length
    assert Stream(library, data + b"\0\0\0\0").status == 1
    assert Stream(library, b"RNNFAST2" + data[8:]).status == 2
    words = np.frombuffer(data, np.uint32)
    for place in (*range(2, 9), *range(9, 17)):  # counts, gains, and the two parts' entries
        for value in (0, 1, 2, 3, 2**16, 2**24, 2**31, 2**32 - 1, 0x7F800000):
            changed = words.copy()
            changed[place] = value
            stream = Stream(library, changed.tobytes())
            if not stream.status:  # what it says is another model, of the same size
                stream.process(np.ones((3, max(1, words[2]))), 1)
    changed = words.copy()
    changed[-1] = 0x7FC00000
    assert Stream(library, changed.tobytes()).status == 3  # NaN
    stream = Stream(library, data)
    shifted = np.frombuffer(b"\0" * 4 + data, np.uint8).copy()
    assert library.load(stream.model, shifted.ctypes.data + 5, len(data) - 1) == 4


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (rnnfast.LSTM(1, 2, peephole=True), "part: expected an RNN, LSTM or GRU without further options"),
        (rnnfast.GRU(1, 1, bidirectional=True), "part: expected an RNN, LSTM or GRU"),
        (rnnfast.GRU(1, 1, reverse=True), "part: expected an RNN, LSTM or GRU"),
        (rnnfast.RNN(1, 1, nonlinearity="elu"), "part: expected an RNN, LSTM or GRU"),
        (rnnfast.Dense(1, 2, activation="softmax"), "part: activation: expected one of 'identity', 'tanh', 'relu'"),
        (rnnfast.LSTM(1, 1, num_layers=65), "model: expected at most 64 layers and heads, got 65"),
    ],
)
def test_what_the_header_has_not(part, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plugin.save(tmp_path / "no", part)
    assert not (tmp_path / "no").exists()
    with pytest.raises(TypeError, match="model: expected a Model, got"):
        plugin.save(tmp_path / "no", 3)
