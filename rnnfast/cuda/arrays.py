"""Arrays on the device: CuPy's, or a stand-in for them where Numba simulates the device.

Every room of `rnnfast.cuda` makes, recognises and moves its arrays through here. The stand-in is NumPy memory of a
class of its own, `SimulatedArray`, which refuses arithmetic with arrays of the host as CuPy does, so that the
simulator's tests see whether a call mixes up host and device: what needs a host array calls `to_host`, and nothing else
does.

All work goes to CuPy's current stream, which is the caller's: ``with cupy.cuda.Stream(): layer(x)``.

Rejected: Numba's own device arrays (no arithmetic, no pool: each allocation waits for the device); a namespace object
that is handed through every call (there is one device library per process).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import local
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .._checks import on_device
from . import shim, streams

__all__ = [
    "SimulatedArray",
    "adopt",
    "arange",
    "contiguous",
    "cover",
    "current_device",
    "device_of",
    "empty",
    "is_device_array",
    "on",
    "out_of_memory",
    "stream_pointer",
    "to_device",
    "to_host",
    "xp",
    "zeros",
]


class SimulatedArray(np.ndarray[Any, Any]):
    """An array of the simulated device: NumPy's, and told apart from it by its class.

    What is computed from it is one too, also where NumPy by itself would return its own array (`where`) or a number.
    It lies on the device that was current when it was made, and what is done to it is an error while another one is:
    so the tests see work outside of `on`.
    """

    number: int

    def __array_finalize__(self, given: Any) -> None:
        self.number = getattr(given, "number", _current.number)

    def __dlpack_device__(self, **options: Any) -> Any:
        """A CUDA device."""
        return 2, self.number

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.get("out", ())
        if any(type(array) is np.ndarray for array in (*inputs, *out)):
            raise TypeError(f"{ufunc.__name__}: an array of the host together with one of the (simulated) device")
        _must_be_current(*inputs, *out)
        if out:
            options["out"] = tuple(map(_plain, out))
        result = getattr(ufunc, method)(*map(_plain, inputs), **options)
        return out[0] if out else _simulated(result)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        _must_be_current(*arguments)
        return _simulated(super().__array_function__(function, types, arguments, options))

    def __setitem__(self, key: Any, value: Any) -> None:
        _must_be_current(self, value)
        super().__setitem__(key, value)

    def fill(self, value: Any) -> None:
        _must_be_current(self)
        super().fill(value)

    def copy(self, order: Any = "C") -> Any:
        _must_be_current(self)
        return super().copy(order)


class _Current(local):
    """The simulated device that is current."""

    number = 0


_current = _Current()


def _must_be_current(*values: Any) -> None:
    for value in values:
        if isinstance(value, SimulatedArray) and value.number != _current.number:
            raise RuntimeError(f"an array of (simulated) device {value.number} while {_current.number} is current")


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, SimulatedArray) else value


def _simulated(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(_simulated, result))
    if isinstance(result, np.generic):
        result = np.asarray(result)
    return result.view(SimulatedArray) if type(result) is np.ndarray else result


def xp() -> ModuleType:
    """The library whose functions take device arrays: CuPy, or NumPy for the simulated device."""
    if shim.SIMULATED:
        return np
    import cupy

    return cupy  # type: ignore[no-any-return]


def is_device_array(value: object) -> bool:
    """Whether `value` lies on a device: CuPy's, PyTorch's or Numba's array there, or a simulated one."""
    return on_device(value)


def on(number: int) -> AbstractContextManager[Any]:
    """Make a device the current one; the one before is again afterwards."""
    return _on_simulated(number) if shim.SIMULATED else xp().cuda.Device(number)


@contextmanager
def _on_simulated(number: int) -> Iterator[None]:
    before, _current.number = _current.number, number
    try:
        yield
    finally:
        _current.number = before


def device_of(array: Any) -> int:
    """The number of the device that an array lies on, another library's (`is_device_array`) too."""
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[1])
    return int(adopt(array).device.id)


def adopt(value: Any) -> Any:
    """A foreign device array (`is_device_array`) as one of `xp`'s, without a copy; on the same device.

    Work on its memory may go on after the call, and after the caller has let go of it: see `streams`.
    """
    if shim.SIMULATED or isinstance(value, xp().ndarray):
        return value
    found = xp().from_dlpack(value) if hasattr(value, "__dlpack__") else xp().asarray(value)
    streams.keep(found, value)
    return found


def current_device() -> int:
    """The number of the device that new arrays lie on."""
    return _current.number if shim.SIMULATED else int(xp().cuda.Device().id)


def to_device(array: Any) -> Any:
    """A copy of a host array on the device, C-contiguous."""
    if shim.SIMULATED:
        return np.array(array, order="C").view(SimulatedArray)
    return xp().array(array, order="C")


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """A copy of a device array on the host; waits for it."""
    if shim.SIMULATED:
        return np.array(array, subok=False)
    return xp().asnumpy(array)  # type: ignore[no-any-return]


def empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Any:
    """An uninitialised array on the device (simulated: of NaN or large numbers, so that use before writing shows)."""
    if not shim.SIMULATED:
        return xp().empty(shape, dtype)
    array = np.empty(shape, dtype).view(SimulatedArray)
    array.view(np.uint8).fill(0xFF) if array.size and array.ndim else None
    return array


def zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Any:
    """Zeros on the device."""
    return np.zeros(shape, dtype).view(SimulatedArray) if shim.SIMULATED else xp().zeros(shape, dtype)


def contiguous(array: Any) -> Any:
    """A device array itself if it is C-contiguous, else a copy that is."""
    return array if array.flags.c_contiguous else array.copy(order="C")


def arange(stop: int) -> Any:
    """The int64 numbers from 0 to `stop` on the device."""
    return to_device(np.arange(stop)) if shim.SIMULATED else xp().arange(stop)


def out_of_memory() -> type[MemoryError]:
    """What is raised when the device has no more memory."""
    return MemoryError if shim.SIMULATED else xp().cuda.memory.OutOfMemoryError


def cover(view: Any) -> tuple[Any, tuple[int, ...]]:
    """The memory from a view's first element to its last as one flat array, and the view's strides in elements.

    Kernels take sequences this way, so that halves of an array and swapped axes need no copy and no other kernel.
    """
    steps = tuple(stride // view.itemsize for stride in view.strides)
    if not view.size:
        return view.reshape(-1), steps
    span = 1 + sum((size - 1) * step for size, step in zip(view.shape, steps, strict=True))
    flat = xp().lib.stride_tricks.as_strided(view, (span,), (view.itemsize,))
    return flat, steps


def stream_pointer() -> int:
    """The CUDA stream that work goes to: CuPy's current one."""
    return 0 if shim.SIMULATED else int(xp().cuda.get_current_stream().ptr)
