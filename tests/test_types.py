"""What `mypy --strict` says of programs that use rnnfast: nothing of a good one, and each mistake of a bad one."""

from __future__ import annotations

import os
import re
import sysconfig
from pathlib import Path

import pytest

import rnnfast

api = pytest.importorskip("mypy.api", reason="mypy, of the extra test, reads the types")

# Lines with a comment have a mistake; the comment is mypy's code for it.
PROGRAM = """
import numpy as np

import rnnfast
from rnnfast import losses, optim

x = np.zeros((4, 2, 3), np.float32)
layer = rnnfast.LSTM(3, 5, bidirectional=False, init="xavier", device="cpu", rng=0)
y, (h, c) = layer(x)
y, state, tape = layer.forward(x, recompute="auto", memory=1 << 20)
grads = layer.backward(tape, y)
z, last = rnnfast.GRU(3, 5)(x)
print(h.shape, c.dtype, last.shape, grads.params.names)  # attr-defined
model = rnnfast.Model(rnn=layer, head=rnnfast.Dense(5, 2, activation="softmax", rng=0))
trainer = rnnfast.TBPTT(model, losses.mean_squared_error, optim.Adam(model.params, 1e-3), k1=2, nonfinite="skip")
trainer.step(x, y).loss.hex()
stream = layer.stream(2, weights="bfloat16")
stream.step(x[0], out=y[0]).sum()
learner = rnnfast.LSTM(3, 5).learner(losses.huber, optim.SGD(layer.params, 0.1), method="rflo")
first, _ = rnnfast.LSTMCell(3, 5)(x[0])
sequences, end = layer(x, return_states=True)
print(y.mean(), sequences[1].shape)

rnnfast.LSMT(3, 5)  # attr-defined
rnnfast.LSTM(3, 5, bidirectionl=True)  # call-arg
rnnfast.LSTM(3, 5, device="gpu")  # arg-type
rnnfast.GRU(3, 5, init="xavir")  # arg-type
rnnfast.Dense(5, 2, activation="sofmax")  # arg-type
rnnfast.Pool("lst")  # arg-type
losses.mean_squared_error(y, x, reduction="avg")  # arg-type
rnnfast.TBPTT(model, losses.huber, optim.SGD(model.params, 0.1), k1=2, nonfinite="ignore")  # arg-type
stream.proces(x)  # attr-defined
stream.step(x[0], ids="yes")  # arg-type
layer.stream(2, weights="float16")  # arg-type
state.shape  # attr-defined
last.keys()  # attr-defined
y.shpe  # attr-defined
sequences.shape  # attr-defined
layer(x, length=[4, 2])  # call-overload
layer.forward(x, recompute="always")  # call-overload
y, state = layer.forward(x)  # misc
layer.backward(state, y)  # arg-type
model.parts["rnn"].parms  # attr-defined
model.stream().proces(x)  # attr-defined
learner.stepp(x)  # attr-defined
layer.learner(losses.huber, 0.1)  # arg-type
rnnfast.checkpoint.load("net.safetensors").modle  # attr-defined
rnnfast.fit(model, losses.huber, optim.SGD(model.params, 0.1), [], epochs=1, checkpoint=3)  # arg-type
"""


def test_mistakes_are_found(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    folder = Path(rnnfast.__file__).parents[1]
    installed = folder == Path(sysconfig.get_path("platlib"))  # there mypy looks, and wants no other hint
    path = os.pathsep.join(filter(None, ["" if installed else str(folder), os.environ.get("MYPYPATH")]))
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}", "--config-file="]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", path)
        patch.chdir(tmp_path)
        output, errors, _ = api.run([*options, "program.py"])
    found = set(re.findall(r"^program\.py:(\d+): error: .*\[([\w-]+)\]$", output, re.MULTILINE))
    lines = enumerate(PROGRAM.splitlines(), 1)
    assert {(number, code) for number, code in found} == {
        (str(number), line.partition("  # ")[2]) for number, line in lines if "  # " in line
    }, output + errors
