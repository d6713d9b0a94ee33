"""Fused recurrent layers for NumPy: LSTM, GRU and Elman RNN, forward and backward, without a framework.

Importing this package imports no optional package; `rnnfast.checkpoint` and `rnnfast.cuda`, which need some, are
imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import config, encoders, init, layers, losses, optim, reference, tbptt
from .cells import GRUCell, LSTMCell, RNNCell
from .config import get_num_threads, set_num_threads, show_config
from .heads import Dense
from .layers import GRU, LSTM, RNN
from .model import Model
from .parameters import Gradients, Parameters
from .tape import Grads, Tape
from .tbptt import TBPTT

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "TBPTT",
    "Dense",
    "GRUCell",
    "Gradients",
    "Grads",
    "LSTMCell",
    "Model",
    "Parameters",
    "RNNCell",
    "Tape",
    "config",
    "encoders",
    "get_num_threads",
    "init",
    "layers",
    "losses",
    "optim",
    "reference",
    "set_num_threads",
    "show_config",
    "tbptt",
]


def __getattr__(name: str) -> Any:
    if name in ("checkpoint", "cuda"):
        return import_module(f".{name}", __name__)
    if name == "__version__":
        return config.version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "__version__", "checkpoint", "cuda"])
