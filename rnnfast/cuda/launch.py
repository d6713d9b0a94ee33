"""How a kernel is launched: by the driver itself, with its arguments in a buffer that stays where it is.

All arguments of our kernels are 64-bit integers (`shim`), so one buffer of them, and one list of the places in it,
serve every kernel. Each thread has its own pair: a launch writes the numbers and makes one foreign call, which has read
them when it returns. Numba's way (an object for each argument and for the stream, looked up and checked in each launch)
takes 50 to 85 us of the host for a kernel of 33 arguments; that is ten steps of a small layer.

Rejected: the driver's functions of cuda.bindings (they convert each argument by itself); a buffer shared by all threads
under a lock (a lock for what costs nothing); a check of the occupancy in each launch (it depends on kernel, block and
shared memory alone, so it is asked for once).
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["MOST_ARGUMENTS", "Launcher", "driver"]

MOST_ARGUMENTS = 64
_INVALID_CONTEXT, _OUT_OF_MEMORY = 201, 2
_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # CUfunction_attribute

_POINTER, _INT, _UNSIGNED = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_LAUNCH = [_POINTER, *[_UNSIGNED] * 7, _POINTER, _POINTER]  # function, grid, block, shared bytes, stream, arguments
_TYPES: dict[str, list[Any]] = {
    "cuLaunchKernel": [*_LAUNCH, _POINTER],
    "cuLaunchCooperativeKernel": _LAUNCH,
    "cuCtxGetDevice": [_POINTER],
    "cuGetErrorName": [_INT, _POINTER],
    "cuKernelSetAttribute": [_INT, _INT, _POINTER, _INT],
    "cuOccupancyMaxActiveBlocksPerMultiprocessor": [_POINTER, _POINTER, _INT, ctypes.c_size_t],
}


class _Arguments(threading.local):
    """A thread's buffer, and the addresses of its numbers."""

    def __init__(self) -> None:
        self.numbers = (ctypes.c_int64 * MOST_ARGUMENTS)()
        first = ctypes.addressof(self.numbers)
        self.places = (ctypes.c_void_p * MOST_ARGUMENTS)(*(first + 8 * k for k in range(MOST_ARGUMENTS)))
        self.at = ctypes.addressof(self.places)


class Launcher:
    """The functions of the driver that a launch takes.

    Parameters
    ----------
    library : object
        The driver's library, or one with functions of the same names.
    """

    def __init__(self, library: Any) -> None:
        for name, types in _TYPES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, _INT
        self._library, self._arguments = library, _Arguments()
        self._launch, self._launch_together = library.cuLaunchKernel, library.cuLaunchCooperativeKernel
        self._device_of_context = library.cuCtxGetDevice

    def launch(
        self,
        function: int,
        grid: int | tuple[int, int],
        block: int,
        arguments: Sequence[int],
        *,
        shared: int = 0,
        stream: int = 0,
        cooperative: bool = False,
    ) -> None:
        """Run a kernel.

        Parameters
        ----------
        function : int
            A CUfunction or CUkernel.
        grid : int or (int, int)
            Blocks.
        block : int
            The threads of each.
        arguments : sequence of int
            At most `MOST_ARGUMENTS`.
        shared : int
            Bytes of dynamic shared memory.
        stream : int
            A CUstream of the current context.
        cooperative : bool
            Whether its blocks wait for each other: the driver then refuses a grid that is not resident at once.

        Raises
        ------
        RuntimeError, MemoryError
            The driver refused; the message has its name for the reason.
        """
        buffer = self._arguments
        buffer.numbers[: len(arguments)] = arguments  # type: ignore[call-overload]  # any sequence will do
        x, y = grid if isinstance(grid, tuple) else (grid, 1)
        if cooperative:
            status = self._launch_together(function, x, y, 1, block, 1, 1, shared, stream, buffer.at)
        else:
            status = self._launch(function, x, y, 1, block, 1, 1, shared, stream, buffer.at, None)
        if status:
            raise self._error(status, f"a grid of {x} x {y} blocks of {block} threads and {shared} bytes")

    def device(self) -> int:
        """The number of the current context's device; -1 where no context is current."""
        number = ctypes.c_int()
        status = self._device_of_context(ctypes.byref(number))
        if status == _INVALID_CONTEXT:
            return -1
        self._check(status, "the current device")
        return number.value

    def allow_shared(self, function: int, device: int, size: int) -> None:
        """Have the driver allow blocks of a CUkernel so many bytes of dynamic shared memory."""
        status = self._library.cuKernelSetAttribute(_MAX_DYNAMIC_SHARED_SIZE_BYTES, size, function, device)
        self._check(status, f"{size} bytes of shared memory")

    def resident_blocks(self, function: int, block: int, shared: int) -> int:
        """The blocks of so many threads and bytes that are resident at once on a multiprocessor."""
        count = ctypes.c_int()
        query = self._library.cuOccupancyMaxActiveBlocksPerMultiprocessor
        self._check(query(ctypes.byref(count), function, block, shared), "the occupancy")
        return count.value

    def _check(self, status: int, what: str) -> None:
        if status:
            raise self._error(status, what)

    def _error(self, status: int, what: str) -> Exception:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(status, ctypes.byref(text))
        said = f"the CUDA driver said {(text.value or b'an unknown error').decode()} ({status}) to {what}"
        return MemoryError(said) if status == _OUT_OF_MEMORY else RuntimeError(said)


@functools.cache
def driver() -> Launcher:
    """The launcher of this machine's driver."""
    return Launcher(ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"))
