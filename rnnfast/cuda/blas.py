"""Products of matrices on the device, and the operands they take.

All large products are here: inputs and gradients over a whole sequence, and the recurrent product of the step-wise
engine. On a GPU they are cuBLAS's, on CuPy's current stream; its results are the same bits from run to run on one
stream of one device, because it uses no atomics unless asked to. In the simulator they are NumPy's, of operands rounded
as the tensor cores would.

A) An operand is *stored*: float32, or bfloat16 as uint16 where the precision says so. The result is always float32, and
   so is every sum.
B) `as_operand` is where a sequence becomes a matrix, once per call: rounded where it must be, cleared where rows have
   ended (a NaN there, times a gradient of zero, would be a NaN in the weights), and not copied where neither is needed
   and its strides are a matrix's.
C) A row whose length is outside 0..T can't be reported without waiting for the device: its operand is NaN, and with it
   all its results.

D) cuBLAS is called itself, in the library that CuPy has loaded, with CuPy's handle. CuPy's own `cublas.gemmEx` refuses
   to run while its stream is being captured (14.2; cupy/cupy#6290), and `graphs` captures products.

Rejected: CuPy's `matmul` (it takes bfloat16 not at all, and TF32 by an environment variable); batched products over the
steps of a sequence with swapped axes (one copy costs less than T small products).
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import arrays, elements, shim, twins
from .elements import first, runs, spoilt, stride
from .shim import float32

__all__ = ["as_operand", "as_stored", "cublas_handle", "gemm", "workspace"]

Array = Any  # a device array

_SCALARS = np.array([0, 1], np.float32)  # cuBLAS reads them on the host, when called
_ZERO, _ONE = (_SCALARS[k:].ctypes.data for k in (0, 1))
_ALLOC_FAILED = 3  # CUBLAS_STATUS_ALLOC_FAILED
_NAN = float32(np.nan)
_TYPES: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_longlong, "z": ctypes.c_size_t}
_WORKSPACE = {True: 32 << 20, False: 4 << 20}
"""Bytes that cuBLAS's guide recommends, from compute capability 9.0 on and before."""


def gemm(
    a: Array,
    b: Array,
    out: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    add: bool = False,
    precision: str,
) -> None:
    """``out = op(a) @ op(b)``, or ``out += ...`` with `add`; op transposes where it is asked to.

    Parameters
    ----------
    a, b : device arrays of two axes, stored; or of three
        Unit stride in the last axis; rows may be further apart. With three axes, the first counts products, which are
        made in one call.
    out : device array, float32 [M, N], or with an axis more
        Likewise.
    transpose_a, transpose_b, add : bool
    precision : {"float32", "tf32", "bfloat16"}
    """
    inner = a.shape[-2] if transpose_a else a.shape[-1]
    if not out.size:
        return
    if not inner:
        if not add:
            out.fill(0)
        return
    multiply = _simulated if shim.SIMULATED else _cublas
    multiply(a, b, out, inner, transpose_a, transpose_b, add, precision)


def _cublas(
    a: Array, b: Array, out: Array, inner: int, transpose_a: bool, transpose_b: bool, add: bool, precision: str
) -> None:
    """cuBLAS takes columns where we have rows, so it is asked for the transpose: op(b)^T op(a)^T."""
    library, handle = _library(), cublas_handle()
    rows, columns = out.shape[-2:]
    kind, many = library.kinds[precision], out.ndim == 3

    def matrix(array: Array, stored: int) -> tuple[int, ...]:
        """Address, format and stride; of many, the stride between two, too."""
        return (array.data.ptr, stored, _row_stride(array), *([array.strides[0] // array.itemsize] if many else []))

    library.set_stream(handle, arrays.stream_pointer())
    if (space := _own.workspace) is not None:  # anew each time: to set the stream takes it away
        library.set_workspace(handle, space.data.ptr, space.nbytes)
    (library.gemm_many if many else library.gemm)(
        handle,
        *(int(transpose_b), int(transpose_a), columns, rows, inner, _ONE),
        *matrix(b, kind),
        *matrix(a, kind),
        _ONE if add else _ZERO,
        *matrix(out, library.kinds["float32"]),
        *([len(out)] if many else []),
        library.arithmetic[precision],
        library.algorithm,
    )


class _Own(threading.local):
    """What a thread's products are given to work in; None for cuBLAS's own."""

    workspace: Any = None


_own = _Own()


@contextmanager
def workspace() -> Iterator[Any]:
    """Memory for all products inside, and for nothing else: what holds it may be replayed beside other work.

    A second one inside is the first. cuBLAS chooses its algorithms by it, so the same products with a workspace have
    the same bits, captured or not; without it they allocate, which in a capture would become a part of the graph.
    """
    if _own.workspace is not None:
        yield _own.workspace
        return
    recent = shim.limits(arrays.current_device()).capability >= (9, 0)
    _own.workspace = arrays.empty((_WORKSPACE[recent],), np.uint8)
    try:
        yield _own.workspace
    finally:
        _own.workspace = None


def cublas_handle() -> int:
    """CuPy's handle of this thread and device, made by the first call."""
    return int(arrays.xp().cuda.device.get_cublas_handle())


@functools.cache
def _library() -> Any:
    """The functions and names of cuBLAS that are needed here."""
    cuda = arrays.xp().cuda
    cublas, runtime = cuda.cublas, cuda.runtime
    loaded = ctypes.CDLL(cublas.__file__)  # names are looked up in what it is linked to, too

    def check(status: int, *_: Any) -> None:
        if status == _ALLOC_FAILED:
            raise MemoryError("out of memory on the CUDA device: cuBLAS has none to work in")
        cublas.check_status(status)

    def function(name: str, types: str) -> Any:
        found = getattr(loaded, name)
        found.argtypes = [_TYPES[letter] for letter in types]
        found.errcheck = check
        return found

    return SimpleNamespace(
        set_stream=function("cublasSetStream_v2", "pp"),
        set_workspace=function("cublasSetWorkspace_v2", "ppz"),
        gemm=function("cublasGemmEx", "piiiiippiipiippiiii"),
        gemm_many=function("cublasGemmStridedBatchedEx", "piiiiippiilpiilppiiliii"),
        algorithm=cublas.CUBLAS_GEMM_DEFAULT,
        kinds={"float32": runtime.CUDA_R_32F, "tf32": runtime.CUDA_R_32F, "bfloat16": runtime.CUDA_R_16BF},
        arithmetic={
            "float32": cublas.CUBLAS_COMPUTE_32F,
            "tf32": cublas.CUBLAS_COMPUTE_32F_FAST_TF32,
            "bfloat16": cublas.CUBLAS_COMPUTE_32F,
        },
    )


def _row_stride(matrix: Array) -> int:
    """The elements between two rows; of a single row any number that is large enough."""
    return int(max(matrix.strides[-2] // matrix.itemsize, matrix.shape[-1], 1))


def _simulated(
    a: Array, b: Array, out: Array, inner: int, transpose_a: bool, transpose_b: bool, add: bool, precision: str
) -> None:
    left, right = _rounded(a, precision), _rounded(b, precision)
    with np.errstate(all="ignore"):
        left, right = (np.swapaxes(m, -1, -2) if t else m for m, t in ((left, transpose_a), (right, transpose_b)))
        product = left @ right
        target = np.asarray(out)
        target[...] = target + product if add else product


def _rounded(matrix: Array, precision: str) -> Any:
    """An operand as the tensor cores see it."""
    values = np.asarray(matrix)
    if precision == "bfloat16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if precision == "tf32":
        return twins.round_tf32(values)
    return values


# ---------------------------------------------------------------------------------------------------------------------
# Operands


def as_stored(matrix: Array, precision: str) -> Array:
    """A float32 matrix as an operand: itself, or a copy in bfloat16, rounded to nearest even.

    Parameters
    ----------
    matrix : device array, float32 [N, C]
        Unit stride in the last axis.
    precision : {"float32", "tf32", "bfloat16"}

    Returns
    -------
    device array, stored [N, C]
    """
    return as_operand(matrix[:, None], None, precision)


def as_operand(x: Array, lengths: Array | None, precision: str, skip: Array | None = None) -> Array:
    """A sequence as a stored matrix of its rows; the caller's memory where that will do.

    Parameters
    ----------
    x : device array, float32 [T, B, C]
        Any strides.
    lengths : device array, int64 [B], or None
        Where given, rows are zeros beyond their length, and NaN altogether where it is outside 0..T.
    precision : {"float32", "tf32", "bfloat16"}
    skip : device array, bool [T, B], or None
        Where given, rows are zeros in the steps that they skip.

    Returns
    -------
    device array, stored [T * B, C]
        Unit stride in the last axis.
    """
    T, B, C = x.shape
    if lengths is None and skip is None and precision != "bfloat16":
        matrix = x.reshape(T * B, C)
        fits = matrix.strides[1] == matrix.itemsize and matrix.strides[0] >= C * matrix.itemsize
        return matrix if fits else arrays.contiguous(matrix)
    if min(x.strides) < 0:
        x = arrays.contiguous(x)
    bfloat16 = precision == "bfloat16"
    out = arrays.empty((T * B, C), np.uint16 if bfloat16 else np.float32)
    flat, steps = arrays.cover(x)
    if out.size:
        masks = lengths, None if skip is None else arrays.contiguous(skip).reshape(-1)
        pointers = map(shim.pointer, (flat, *masks, out.reshape(-1)))
        _copy_kernel(bfloat16).launch(
            *elements.grid(out.size), (*pointers, T, B, C, *steps), stream=arrays.stream_pointer()
        )
    return out


@functools.cache
def _copy_kernel(bfloat16: bool) -> Any:
    put = elements.storer("bfloat16" if bfloat16 else "float32")

    @shim.kernel("pppp" + "i" * 6)
    def copy(
        source: Any,
        lengths: Any,
        skip: Any,
        out: Any,
        T: Any,
        B: Any,
        C: Any,
        by_step: Any,
        by_row: Any,
        by_feature: Any,
    ) -> None:
        for i in range(first(), T * B * C, stride()):
            t, b, k = i // (B * C), i // C % B, i % C
            value = float32(0)
            if spoilt(lengths, b, T):
                value = _NAN
            elif runs(lengths, skip, t, b, B):
                value = shim.load(source, t * by_step + b * by_row + k * by_feature)
            put(out, i, value)

    return copy
