"""Fused recurrent layers for NumPy: LSTM, GRU and Elman RNN, forward and backward, without a framework.

Importing this package imports no optional package, and of its own modules those that layers need. The others are
imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import (
    _built,  # noqa: F401 - first of all
    _device,
    config,
    init,
    layers,
    losses,
    optim,
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
from .parameters import Gradients, Parameters, section_steps
from .parts import Add, Concat, Dropout, LayerNorm, Pool
from .tape import Grads, Tape

if TYPE_CHECKING:  # what `__getattr__` imports
    from . import (
        checkpoint,  # noqa: F401
        cuda,  # noqa: F401
        data,
        decode,
        distributed,  # noqa: F401
        encoders,
        interop,  # noqa: F401
        online,
        plot,  # noqa: F401
        reference,
        schedules,
        sklearn,  # noqa: F401
        tbptt,
        torch,  # noqa: F401
        training,
    )
    from .online import Learner
    from .tbptt import TBPTT
    from .training import fit

    __version__: str

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


# Imported at their first use; these need an optional package, and are not in `__all__`.
_ROOMS = ("checkpoint", "cuda", "distributed", "interop", "plot", "sklearn", "torch")
_LATER = ("data", "decode", "encoders", "online", "reference", "schedules", "tbptt", "training", *_ROOMS)
_FROM = {"Learner": "online", "TBPTT": "tbptt", "fit": "training"}


def _cuda(*array: Any) -> _device.Device:
    """The current CUDA device, or the one that an array lies on; imports what it needs."""
    device: _device.Device = import_module(".cuda.device", __name__).current(*array)
    return device


_device.register("cuda", _cuda)


if not TYPE_CHECKING:  # a type checker would take every name for one

    def __getattr__(name: str) -> Any:
        if name in _LATER:
            return import_module(f".{name}", __name__)
        if name in _FROM:
            return getattr(import_module(f".{_FROM[name]}", __name__), name)
        if name == "__version__":
            return config.version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_FROM, "__version__"})
