"""The CUDA device as the rooms outside know it: memory, checks, kernels, and the ways in and out.

All work goes to CuPy's current stream, and the memory is of CuPy's pool; no call here waits but those that hand numbers
to the host. A call that runs out of memory raises MemoryError. It has kept nothing: CuPy has given its free blocks back
to the driver before it gave up, and what the call held is released with it.

Random masks are those of the host: functions of seed, layer, step, row and unit (`flat.dropout`, `shim.uniform`).

Rejected: CuPy's random generators (their state lies on the device, so a checkpoint would have to read it back, and
their masks depend on CuPy's version).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _checks
from .._device import Device, Kernels, Port, stay
from ..description.program import Program
from . import arrays, checks, flat, shim
from .dense import Dense
from .described import Described
from .kernel import Kernel
from .stream import DeviceStream

__all__ = ["Cuda", "current"]

Array = Any  # a device array

_OLDEST = (8, 0)  # compute capability: tensor cores for tf32 and bfloat16


def _across(function: Any, value: Any) -> Any:
    """A structure of arrays, moved one by one; what is no array stays."""
    if isinstance(value, Mapping):
        return {name: _across(function, part) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_across(function, part) for part in value)
    return function(value) if hasattr(value, "dtype") else value


def _leave(value: Any, out: Any = None) -> Any:
    if out is None:
        return _across(arrays.to_host, value)
    if isinstance(value, tuple):
        return tuple(_leave(part, own) for part, own in zip(value, out, strict=True))
    out[...] = arrays.to_host(value)
    return out


_INSIDE = Port(checks, stay, stay)
_ACROSS = Port(_checks, functools.partial(_across, arrays.to_device), _leave, direct=False)


class Cuda(Device):
    """One CUDA device.

    Parameters
    ----------
    number : int
        As CuPy counts them.
    """

    name = "cuda"
    checks = checks
    flat = flat
    waits = True
    ports = {True: _INSIDE, False: _ACROSS}  # noqa: RUF012 - annotated in the base

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return current, ()  # what was made on one device may go on on another

    def __repr__(self) -> str:
        return f"{self.name}:{self.number}"

    @property
    def xp(self) -> ModuleType:
        """CuPy."""
        return arrays.xp()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device the current one; out of memory is a MemoryError that says so."""
        try:
            with arrays.on(self.number):
                yield
        except arrays.out_of_memory() as error:
            raise MemoryError(f"out of memory on CUDA device {self.number}: {error}") from error

    def port(self, x: Any) -> Port:
        """Arrays on the device are used as they are, those of the host are moved."""
        return self.ports[_checks.on_device(x)]

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Uninitialised memory of the pool."""
        return arrays.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Zeros."""
        with self.active():  # gradients are made outside of calls, too
            return arrays.zeros(shape, dtype)

    def arange(self, stop: int) -> Array:
        """The int64 numbers from 0 to `stop`."""
        return arrays.arange(stop)

    def take(self, name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """A checked copy of a caller's array, from wherever it lies."""
        port = self.port(value)
        with self.active():
            return port.enter(port.checks.real_of_shape(name, value, dtype, shape, copy=True))

    def bring(self, name: str, value: Any) -> Array:
        """A caller's array of real numbers, from wherever it lies."""
        port = self.port(value)
        with self.active():
            return port.enter(port.checks.numbers(name, value))

    def to_host(self, array: Any) -> Any:
        """A NumPy copy; waits for it."""
        if not arrays.is_device_array(array):
            return array
        with self.active():
            return arrays.to_host(array)

    def freeze(self, array: Array) -> None:
        """Nothing: CuPy has no read-only arrays."""

    def checksum(self, array: Array) -> int:
        """0: to look at the contents would be to wait for them."""
        return 0

    def kernels(self, dtype: np.dtype[Any], precision: str) -> Kernels:
        """What makes the kernels of cells."""

        def make(program: Program, fused: str | None, input_size: int, widths: tuple[int, ...]) -> Kernel | Described:
            if fused is None:
                return Described(program, widths, input_size, precision)
            return Kernel(fused, input_size, widths[0], precision)

        return make

    def stream(self, recurrence: Any, batch: int, weights: Any, num_threads: int) -> DeviceStream:
        """A part as a stream."""
        return DeviceStream(recurrence, batch, weights)

    def dense(self, input_size: int, output_size: int, dtype: np.dtype[Any], precision: str, activation: str) -> Dense:
        """The kernel of an affine map."""
        return Dense(input_size, output_size, precision, activation)

    def clip_norm(self, flat: Array, limit: float) -> Array:
        """Scale to a norm of at most `limit`; the norm before, an array without axes."""
        return self.flat.scale_to_norm(flat, limit)


@functools.cache
def _device(number: int) -> Cuda:
    found = shim.limits(number)
    if found.capability < _OLDEST:
        raise RuntimeError(
            f"device: expected a CUDA device of compute capability {_OLDEST[0]}.{_OLDEST[1]} or more, "
            f"got {found.name} of {found.capability[0]}.{found.capability[1]}"
        )
    return Cuda(number)


def current(array: Any = None) -> Cuda:
    """The current device, as CuPy sees it; or the one that an array lies on.

    Parameters
    ----------
    array : object, optional
        CuPy's, or another library's.

    Returns
    -------
    Cuda

    Raises
    ------
    ImportError
        CuPy is missing.
    RuntimeError
        There is no device, or it is too old.
    """
    try:
        arrays.xp()
    except ImportError as error:
        raise ImportError(
            f'rnnfast.cuda needs numba-cuda and CuPy: pip install "rnnfast[cuda]" (importing cupy said: {error})'
        ) from error
    if not shim.available():
        raise RuntimeError('device: expected a CUDA device for device="cuda", got none (no GPU, or no driver for it)')
    return _device(arrays.current_device() if array is None else arrays.device_of(array))
