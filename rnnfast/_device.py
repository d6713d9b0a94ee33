"""Where the arrays of a part lie, and all that follows from it: memory, kernels, checks, loops over flat buffers.

The rooms above the kernels ask a `Device` for what differs between the host and a CUDA device, and know no more of it.
`HOST` is the one of NumPy and the C++ kernels; `rnnfast.cuda.device` has the other, imported when somebody asks for it.

A caller's arrays come in and go out through a `Port`, which `x` chooses. Arrays of the part's own device are used where
they lie. NumPy arrays for a part on a CUDA device are checked as they would be for one on the host, ranges of ids and
lengths included, then moved over in one go, and what is returned is moved back.

Rejected: `if device == "cuda"` wherever an array is made; arrays that carry their library with them (the array API
standard has no `out=`, and each call would look its functions up again); moving a host state or mask along silently
when `x` lies on the device (a copy through the host in every call, which nobody would find).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from . import _checks, _core, _flat
from ._memory import aligned_empty
from .stream import Stream

if TYPE_CHECKING:
    from ._checks import Array
    from .description.program import Program

__all__ = ["HOST", "PRECISIONS", "Device", "Host", "Port", "choose", "holder", "register", "stay"]

PRECISIONS = ("float32", "tf32", "bfloat16")


class Port(NamedTuple):
    """How the arrays of one call come in, and how what it returns goes out.

    `enter` and `leave` take an array, None, or a structure of them (a state, a dict of states).
    """

    checks: Any
    """`_checks`, or the module of the same functions for arrays on a device."""
    enter: Callable[[Any], Any]
    """From where the caller's arrays lie to where the part's do."""
    leave: Callable[..., Any]
    """The way back, ``leave(value, out=None)``, into the caller's `out` if there is one."""
    direct: bool = True
    """Whether both are the same place, so that `out` may be written at once."""

    def bring(self, name: str, value: Any) -> Any:
        """A caller's numbers where the part's lie; None, or what lies there, as it came."""
        return value if self.direct or value is None else self.enter(self.checks.numbers(name, value))


Kernels = Callable[["Program", str | None, int, tuple[int, ...]], Any]
"""Makes the kernel of one cell and direction, with `_core.Kernel`'s methods.

``make(program, fused, input_size, widths)``: `fused` is the kind of the hand-fused kernel to take, or None for one that
runs the program; the widths are those of its domains.
"""


class Device(ABC):
    """What a part asks of the place where its arrays lie."""

    name: str
    """As `device=` says it."""
    checks: Any
    """The checks of arrays that lie here."""
    ports: Mapping[bool, Port]
    """By `direct`, for calls that go back the way they came (backward)."""
    flat: Any
    """The loops over flat buffers: `_flat`, or the module of the same functions."""
    waits: bool
    """Whether to look at a value is to wait for all work before it."""

    @property
    @abstractmethod
    def xp(self) -> Any:
        """NumPy, or what takes its place."""

    @abstractmethod
    def active(self) -> AbstractContextManager[Any]:
        """Entered by every call that works here."""

    @abstractmethod
    def port(self, x: Any) -> Port:
        """How the arrays of a call with this `x` come in."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Uninitialised memory to work in."""

    def result(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Uninitialised memory to return."""
        return self.empty(shape, dtype)

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Zeros."""

    @abstractmethod
    def arange(self, stop: int) -> Array:
        """The int64 numbers from 0 to `stop`."""

    @abstractmethod
    def take(self, name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """A checked copy of a caller's array, from wherever it lies."""

    @abstractmethod
    def bring(self, name: str, value: Any) -> Array:
        """A caller's array of real numbers, from wherever it lies; no copy where it lies here."""

    @abstractmethod
    def to_host(self, array: Any) -> Any:
        """A NumPy array of an array that lies here; itself where it is one."""

    @abstractmethod
    def freeze(self, array: Array) -> None:
        """Make an array read-only, where there is such a thing."""

    @abstractmethod
    def checksum(self, array: Array) -> int:
        """A number that moves if the array's contents do, where reading them does not make the caller wait."""

    @abstractmethod
    def kernels(self, dtype: np.dtype[Any], precision: str) -> Kernels:
        """What makes the kernels of cells."""

    @abstractmethod
    def stream(self, recurrence: Any, batch: int, weights: Any, num_threads: int) -> Any:
        """A part as a stream: its `Recurrence`, rows, how the weights are to be stored (as the caller said it)."""

    @abstractmethod
    def dense(self, input_size: int, output_size: int, dtype: np.dtype[Any], precision: str, activation: str) -> Any:
        """The kernel of an affine map, of `_core.Dense`'s methods."""

    @abstractmethod
    def clip_norm(self, flat: Array, limit: float) -> Any:
        """Scale to a norm of at most `limit` (`optim.clip_grad_norm`); the norm before, a float or 0-d array."""


def stay(value: Any, out: Any = None) -> Any:
    """`Port.enter` and `Port.leave` for arrays that lie where they should."""
    if out is None or out is value:
        return value
    out[...] = value
    return out


_PORT = Port(_checks, stay, stay)
_NOTHING = nullcontext()


class Host(Device):
    """NumPy and the compiled kernels."""

    name = "cpu"
    checks = _checks
    flat = _flat
    waits = False
    ports = {True: _PORT}  # noqa: RUF012 - annotated in the base

    def __reduce__(self) -> str:
        return "HOST"  # there is one, also for pickles and copies

    def __repr__(self) -> str:
        return self.name

    @property
    def xp(self) -> Any:
        return np

    def active(self) -> AbstractContextManager[Any]:
        return _NOTHING

    def port(self, x: Any) -> Port:
        return _PORT

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return aligned_empty(shape, dtype)

    def result(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        # Aligned if it is large; a small one would only take longer to allocate.
        return np.empty(shape, dtype) if math.prod(shape) < 1024 else aligned_empty(shape, dtype)

    def arange(self, stop: int) -> Array:
        return np.arange(stop)

    def take(self, name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        return _checks.real_of_shape(name, value, dtype, shape, copy=True)

    def bring(self, name: str, value: Any) -> Array:
        return _checks.numbers(name, value)

    def to_host(self, array: Any) -> Any:
        return array

    def freeze(self, array: Array) -> None:
        array.flags.writeable = False

    def checksum(self, array: Array) -> int:
        return _core.checksum(array)

    def kernels(self, dtype: np.dtype[Any], precision: str) -> Kernels:
        isa = _core.isa()  # a part keeps it, whenever it makes a kernel

        def make(program: Program, fused: str | None, input_size: int, widths: tuple[int, ...]) -> Any:
            if fused is not None:
                return _core.Kernel(fused, dtype.name, input_size, widths[0], isa)
            return _core.Kernel(_core.Program(program), dtype.name, input_size, widths, isa)

        return make

    def stream(self, recurrence: Any, batch: int, weights: Any, num_threads: int) -> Any:
        choices = ("float32", "bfloat16") if recurrence.dtype == np.float32 else ("float64",)
        stored = choices[0] if weights is None else _checks.choice("weights", weights, choices)
        first = recurrence.axes.batch_first
        options = {"batch": batch, "weights": stored, "num_threads": num_threads, "batch_first": first}
        return Stream._make(recurrence.walk.stream, options)

    def dense(self, input_size: int, output_size: int, dtype: np.dtype[Any], precision: str, activation: str) -> Any:
        return _core.Dense(dtype.name, input_size, output_size, activation=activation)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        array = aligned_empty(shape, dtype)
        array.fill(0)
        return array

    def clip_norm(self, flat: Array, limit: float) -> float:
        return _flat.scale_to_norm(flat, limit)


HOST: Device = Host()


_OPEN: dict[str, Callable[..., Device]] = {"cpu": lambda: HOST}


def register(name: str, current: Callable[..., Device]) -> None:
    """Make a kind of device known under a name.

    Parameters
    ----------
    name : str
        As `device=` says it.
    current : callable
        Returns the device of this kind to use now, or with an argument the one that this array lies on; called when
        somebody asks for it. It raises ImportError or RuntimeError where there is none.
    """
    _OPEN[name] = current


def holder(array: Any) -> Device:
    """The device that an array lies on."""
    return _OPEN["cuda"](array) if _checks.on_device(array) else HOST


def choose(device: Any, precision: Any, dtype: np.dtype[Any]) -> tuple[Device, str]:
    """The device and the precision that a part's arguments ask for.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    precision : {"float32", "tf32", "bfloat16"}
        All but "float32" on a CUDA device only.
    dtype : numpy.dtype
        Of the part.

    Returns
    -------
    device : Device
    precision : str

    Raises
    ------
    TypeError, ValueError
        There is no such device or precision, or the device does not have it.
    ImportError, RuntimeError
        "cuda" without the packages that it needs, or without a device.
    """
    name = _checks.choice("device", device, _OPEN)
    chosen = _checks.choice("precision", precision, PRECISIONS)
    if name == HOST.name and chosen != "float32":
        raise ValueError(f"precision: expected 'float32' with device='cpu', got {chosen!r}")
    if name != HOST.name and dtype != np.float32:
        raise TypeError(f"dtype: expected float32 with device={name!r}, got {dtype}")
    return _OPEN[name](), chosen
