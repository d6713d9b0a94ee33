"""Fused recurrent layers for NumPy: LSTM, GRU and Elman RNN, forward and backward, without a framework.

Importing this package imports no optional package; the rooms that need some (`checkpoint`, `cuda`, `distributed`,
`interop`, `plot`, `sklearn`, `torch`) are imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import (
    _built,  # noqa: F401 - first of all
    _device,
    config,
    data,
    decode,
    encoders,
    init,
    layers,
    losses,
    online,
    optim,
    reference,
    schedules,
    tbptt,
    training,
)
from .cells import GRUCell, LSTMCell, RecurrentCell, RNNCell
from .config import get_include, get_num_threads, set_num_threads, show_config
from .description import Cell
from .embedding import Embedding
from .heads import Dense
from .layers import (
    AUGRU,
    GRU,
    GRUD,
    LRU,
    LSTM,
    MGU,
    RGLRU,
    RNN,
    SLSTM,
    SRU,
    BlockGRU,
    CfC,
    IndRNN,
    Jordan,
    LiGRU,
    MinGRU,
    MinLSTM,
    Recurrent,
)
from .model import Model
from .online import Learner
from .parameters import Gradients, Parameters, section_steps
from .parts import Add, Concat, Dropout, LayerNorm, Pool
from .tape import Grads, Tape
from .tbptt import TBPTT
from .training import fit

__all__ = [
    "AUGRU",
    "GRU",
    "GRUD",
    "LRU",
    "LSTM",
    "MGU",
    "RGLRU",
    "RNN",
    "SLSTM",
    "SRU",
    "TBPTT",
    "Add",
    "BlockGRU",
    "Cell",
    "CfC",
    "Concat",
    "Dense",
    "Dropout",
    "Embedding",
    "GRUCell",
    "Gradients",
    "Grads",
    "IndRNN",
    "Jordan",
    "LSTMCell",
    "LayerNorm",
    "Learner",
    "LiGRU",
    "MinGRU",
    "MinLSTM",
    "Model",
    "Parameters",
    "Pool",
    "RNNCell",
    "Recurrent",
    "RecurrentCell",
    "Tape",
    "config",
    "data",
    "decode",
    "encoders",
    "fit",
    "get_include",
    "get_num_threads",
    "init",
    "layers",
    "losses",
    "online",
    "optim",
    "reference",
    "schedules",
    "section_steps",
    "set_num_threads",
    "show_config",
    "tbptt",
    "training",
]


_ROOMS = ("checkpoint", "cuda", "distributed", "interop", "plot", "sklearn", "torch")


def _cuda() -> _device.Device:
    """The current CUDA device; imports what it needs."""
    device: _device.Device = import_module(".cuda.device", __name__).current()
    return device


_device.register("cuda", _cuda)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    if name == "__version__":
        return config.version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "__version__", *_ROOMS])
