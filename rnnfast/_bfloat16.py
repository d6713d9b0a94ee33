"""Arrays of bfloat16, a type that NumPy lacks: widened to float32, which holds every one of its numbers.

Such arrays come from ml_dtypes (with safetensors, JAX, ONNX), or by DLPack from PyTorch. Nothing here imports these.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["from_dlpack", "is_bfloat16", "widened"]

_CODE = 20  # the offset, in DLPack's DLTensor, of the type's code, which its number of bits follows
_BFLOAT, _UNSIGNED = 4, 1

_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def is_bfloat16(array: NDArray[Any]) -> bool:
    """Whether an array has the dtype of ml_dtypes."""
    return array.dtype.name == "bfloat16"


def widened(bits: NDArray[Any]) -> NDArray[np.float32]:
    """A float32 array of a bfloat16 array, or of the uint16 array of its bits."""
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


class _Exporter:
    """A capsule of DLPack as NumPy wants it."""

    def __init__(self, capsule: Any, device: Any) -> None:
        self._capsule, self._device = capsule, device

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> Any:
        return self._device


def from_dlpack(value: Any) -> NDArray[np.float32] | None:
    """A float32 array of a bfloat16 tensor on the host, or None if `value` is no such tensor.

    NumPy knows no such type. So the capsule, which is ours alone, is told that it holds 16-bit integers.
    """
    capsule = value.__dlpack__()
    code = (ctypes.c_uint8 * 2).from_address(_pointer(capsule, b"dltensor") + _CODE)
    if tuple(code) != (_BFLOAT, 16):
        return None
    code[0] = _UNSIGNED
    return widened(np.from_dlpack(_Exporter(capsule, value.__dlpack_device__())))
