"""The doors: models of other programs come in, and go out again, with the same numbers.

Every door is a module here that knows one format. It looks at all of a model before it builds anything, and says by the
layer's or node's name what it can't take. What it builds are plain parts, whose `origin` says where they came from.
Nothing below this package knows that it is here.

Numbers: float16 and bfloat16 widen to float32, which holds every one of them; float32 and float64 stay what they are.
Weights that are not finite are refused.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .pytorch import from_packed, from_torch, to_packed, to_torch
from .state_dict import from_safetensors, from_state_dict

__all__ = [
    "from_packed",
    "from_safetensors",
    "from_state_dict",
    "from_torch",
    "to_packed",
    "to_torch",
]

_ROOMS = ("audio", "keras", "onnx", "onnx_backend", "plugin")  # imported at their first use
_LATE = {"to_onnx": "onnx"}  # functions, and the rooms that they lie in


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    if name in _LATE:
        return getattr(import_module(f".{_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS, *_LATE])
