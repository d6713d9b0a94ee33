"""Weights that packages carry, end to end with the original's own outputs.

Run where the packages are: `pip install --no-deps silero-vad g2p-en`. Neither is imported with what it needs.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import pytest
from registry import assert_close

import rnnfast
from rnnfast import interop


def folder_of(package):
    """Where a package lies, which is not imported."""
    found = find_spec(package)
    if found is None:
        # Not in the extra `test`: these packages ask for others that nothing else here needs.
        pytest.skip(f"{package} is not installed")
    return Path(found.origin).parent


# silero-vad: a voice detector, convolutions around an LSTM of 128 units


def conv(x, weight, bias=None, *, stride=1, padding=0):
    """x [B, C, T], weight [O, C, K]."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2], axis=2)[:, :, ::stride]
    y = np.einsum("bctk,ock->bot", windows, weight, optimize=True)
    return y if bias is None else y + bias[:, None]


def silero(weights, lstm, chunks):
    """The published net by NumPy, but for its LSTM; chunks [T, 576] of one recording."""
    x = np.pad(chunks, ((0, 0), (0, 64)), mode="reflect")[:, None]
    x = conv(x, weights["stft.forward_basis_buffer"], stride=128)
    x = np.sqrt(x[:, :129] ** 2 + x[:, 129:] ** 2)
    for layer, stride in enumerate((1, 2, 2, 1)):
        own = f"encoder.{layer}.reparam_conv."
        x = np.maximum(conv(x, weights[own + "weight"], weights[own + "bias"], stride=stride, padding=1), 0)
    y, state = lstm(x[:, :, 0])  # all chunks at once: they are the steps
    logits = np.maximum(y, 0) @ weights["decoder.decoder.2.weight"][0, :, 0] + weights["decoder.decoder.2.bias"]
    return 1 / (1 + np.exp(-logits)), state


@pytest.fixture
def recording():
    """Noise that comes and goes, in chunks of 512 with 64 of the one before."""
    rng = np.random.default_rng(0)
    wave = rng.standard_normal(512 * 40) * (1 + np.sin(np.arange(512 * 40) / 3000)) * 0.1
    wave = np.concatenate([np.zeros(64), wave]).astype(np.float32)
    return np.stack([wave[start : start + 576] for start in range(0, 512 * 40, 512)])


@pytest.mark.filterwarnings("ignore")
def test_silero_vad_by_pytorch_s_names(recording):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    net = torch.jit.load(folder_of("silero_vad") / "data" / "silero_vad.jit")
    tensors = net.state_dict()
    expected = [net(torch.from_numpy(chunk[64:])[None], 16000).item() for chunk in recording]  # it keeps the 64 itself
    cell = interop.from_state_dict(tensors, "_model.decoder.rnn")
    assert type(cell).__name__ == "LSTMCell"
    lstm = rnnfast.LSTM(128, 128)
    lstm.load({f"{name}_l0": value for name, value in cell.params.items()})
    weights = {name.removeprefix("_model."): value.numpy() for name, value in tensors.items()}
    found, _ = silero(weights, lstm, recording)
    assert_close(found, np.array(expected), 1e-4)
    assert max(expected) > 2 * min(expected)


def test_silero_vad_s_safetensors():
    path = folder_of("silero_vad") / "data" / "silero_vad_16k.safetensors"
    cell = interop.from_safetensors(path, "lstm_cell")
    assert (type(cell).__name__, cell.input_size, cell.hidden_size) == ("LSTMCell", 128, 128)


@pytest.mark.filterwarnings("ignore")
def test_silero_vad_s_onnx_files(recording):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: nothing to compare with")
    pytest.importorskip("onnx", reason="onnx is an extra")
    paths = sorted((folder_of("silero_vad") / "data").glob("*.onnx"))
    assert paths
    for path in paths:
        graph, session = interop.onnx.load(path), runtime.InferenceSession(path)
        chunks = recording if "sequence" in path.name else recording[:1]
        known = {"input": chunks, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)}
        known |= {name: np.zeros((1, 1, 128), np.float32) for name in "hc"}
        feeds = {name: known[name] for name in graph.inputs}
        for wanted, found in zip(session.run(None, feeds), graph(feeds).values(), strict=True):
            assert_close(found, wanted, 1e-4)


# g2p-en: words to sounds, a GRU that reads and one that writes

WORDS = ["activationist", "rnnfast", "zyzzyva", "a", "peephole", "onomatopoeia"]


def original(monkeypatch):
    """The package's own class, without the corpora that it looks words up in."""
    folder_of("g2p_en")
    for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect"):
        monkeypatch.setitem(sys.modules, name, MagicMock(spec=ModuleType(name), __path__=[]))
        for attribute in ("pos_tag", "cmudict", "data", "TweetTokenizer", "engine"):
            setattr(sys.modules[name], attribute, MagicMock())
    from g2p_en import G2p

    return G2p()


def gru(variables, side):
    """A GRU of the package's names."""
    return interop.from_state_dict(
        {
            f"{kind}_{end}_l0": variables[f"{side}_{kind[0]}_{end}"]
            for kind in ("weight", "bias")
            for end in ("ih", "hh")
        }
    )


@pytest.mark.filterwarnings("ignore")  # a file that the package leaves open
def test_g2p_en(monkeypatch):
    theirs = original(monkeypatch)
    variables = dict(theirs.variables)
    encoder, decoder = gru(variables, "enc"), gru(variables, "dec")
    head = rnnfast.Dense(256, 74)
    head.load({"weight": variables["fc_w"], "bias": variables["fc_b"]})
    stream = decoder.stream()
    for word in WORDS:
        letters = [theirs.g2idx[letter] for letter in word] + [theirs.g2idx["</s>"]]
        y, state = encoder(variables["enc_emb"][letters])
        ids = np.array(letters)[None]
        expected = theirs.gru(variables["enc_emb"][ids], len(letters), *(variables[f"enc_{name}"] for name in
                                                                         ("w_ih", "w_hh", "b_ih", "b_hh")))  # fmt: skip
        assert_close(y, expected[0], 1e-5)
        stream.state = state[:, None]
        sounds, last = [], 2
        while len(sounds) < 20:
            last = int(head(stream.step(variables["dec_emb"][last][None])).argmax())
            if last == 3:
                break
            sounds.append(theirs.idx2p[last])
        assert sounds == theirs.predict(word)
