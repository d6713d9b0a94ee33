"""Every check of what a caller passes in: arrays, sizes, options.

One rule for all messages: `argument: expected ..., got ...`. A bad type is a TypeError, a bad value a ValueError. The
checks return what the rest of the package works with (aligned native arrays, plain ints), so nothing is checked twice,
and they write nothing, so a call that fails has changed nothing.

Arrays come in through `numbers`, the one place that knows what an array may be: an ndarray, anything with `__dlpack__`
on the CPU, or what `np.asarray` makes of it; float16 is an array of real numbers as others are, and bfloat16, which
NumPy lacks, is widened to float32. `real` then converts at most once: float16 and bfloat16 exactly, float64 to the
nearest float32, ties to even. Rejected: `np.asarray(x, dtype)` in every call, which takes complex numbers (with a
warning), strings of digits, and the data of a masked array without its mask; and a copy for every strided array, since
batch-first and sliced arrays are the common case.

Arrays on a CUDA device are refused here; `rnnfast.cuda.checks` has the functions for them, under the same names. Who
checks a call's arrays is handed the one module or the other (`_device.Port`).
"""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _bfloat16

Array = NDArray[Any]

MAX_ELEMENTS = 2**47
_FOREIGN_ERRORS = (TypeError, ValueError, BufferError, RuntimeError, AttributeError)
_CUDA = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged


def describe(value: Any) -> str:
    """What came, in a few words."""
    if isinstance(value, np.ndarray):
        kind = "array" if type(value) is np.ndarray else type(value).__name__
        return f"{kind} of {value.dtype}, shape {_show(value.shape)}"
    if on_device(value):  # whose repr would copy it to the host
        known = f" of {value.dtype}, shape {_show(tuple(value.shape))}," if hasattr(value, "shape") else ""
        return f"{type(value).__name__}{known} on a CUDA device"
    text = " ".join(line.strip() for line in repr(value).splitlines())  # those of arrays have several
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def on_device(value: Any) -> bool:
    """Whether `value` is an array in the memory of a CUDA device: CuPy's, PyTorch's, Numba's, ..."""
    if type(value) is np.ndarray:
        return False
    if hasattr(value, "__dlpack_device__"):  # asked first: the interface of a tensor that requires a gradient raises
        try:
            return int(value.__dlpack_device__()[0]) in _CUDA
        except _FOREIGN_ERRORS:
            return False
    return hasattr(value, "__cuda_array_interface__")


def numbers(name: str, value: Any) -> Array:
    """`value` as an ndarray of real numbers; its own memory if it has any.

    Raises TypeError for masked arrays and for anything but booleans, integers and real floats.
    """
    array = value if type(value) is np.ndarray else _as_array(name, value)
    if array.dtype.kind == "V" and _bfloat16.is_bfloat16(array):
        array = _bfloat16.widened(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected an array of real numbers, got {describe(value)} (dtype {array.dtype})")
    return array


def _as_array(name: str, value: Any) -> Array:
    if on_device(value):
        raise TypeError(
            f"{name}: expected an array on the host, got {describe(value)}; device='cuda' takes those, "
            "if all arrays of the call lie there"
        )
    # A sequence of masked arrays, too, would lose its masks without a word.
    if any(
        isinstance(part, np.ma.MaskedArray) for part in (value, *(value if isinstance(value, list | tuple) else ()))
    ):
        raise TypeError(f"{name}: expected an array without a mask, got {describe(value)}; fill it, or use lengths=")
    try:
        foreign = not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__")
        return _from_dlpack(value) if foreign else np.asarray(value)
    except _FOREIGN_ERRORS as error:
        raise TypeError(f"{name}: expected an array of real numbers, got {type(value).__name__} ({error})") from error


def _from_dlpack(value: Any) -> Array:
    try:
        return np.from_dlpack(value)
    except _FOREIGN_ERRORS:
        widened = _bfloat16.from_dlpack(value)
        if widened is None:
            raise
        return widened


def real(name: str, value: Any, dtype: np.dtype[Any], *, contiguous: bool = False, copy: bool = False) -> Array:
    """`value` as an aligned, native array of `dtype` with unit stride in its last axis.

    It is the caller's memory where that already fits, unless `copy`; else it is converted, once.
    """
    return _converted(name, numbers(name, value), dtype, contiguous, copy)


def _converted(name: str, array: Array, dtype: np.dtype[Any], contiguous: bool, copy: bool) -> Array:
    """The array itself if it fits; a ValueError where a finite number would become infinite."""
    flags = array.flags
    fits = flags.c_contiguous or (not contiguous and (array.shape[-1] == 1 or array.strides[-1] == array.itemsize))
    if array.dtype == dtype and flags.aligned and fits and not copy:
        return array
    try:
        with np.errstate(over="raise", under="ignore"):
            return np.array(array, dtype=dtype, order="C")
    except FloatingPointError as error:
        largest = np.abs(array[np.isfinite(array)]).max()
        raise ValueError(f"{name}: expected numbers within the range of {dtype}, got one of size {largest}") from error


def shape(name: str, array: Array, expected: tuple[int, ...], letters: str = "") -> None:
    """ValueError unless `array` has the `expected` shape; `letters` says what its axes are."""
    if array.shape != expected:
        axes = f" {letters}" if letters else ""
        raise ValueError(f"{name}: expected shape{axes} {_show(expected)}, got {_show(array.shape)}")


def shaped(numbers: Callable[..., Array], converted: Callable[..., Array]) -> Callable[..., Array]:
    """`real_of_shape`, made of the two halves of `real`, here and in `rnnfast.cuda.checks`."""

    def real_of_shape(
        name: str,
        value: Any,
        dtype: np.dtype[Any],
        expected: tuple[int, ...],
        letters: str = "",
        *,
        contiguous: bool = False,
        copy: bool = False,
    ) -> Array:
        """`real` of one shape, which is checked before anything is converted."""
        array = numbers(name, value)
        shape(name, array, expected, letters)
        return converted(name, array, dtype, contiguous, copy)

    return real_of_shape


real_of_shape = shaped(numbers, _converted)


def output(
    name: str, out: Any, expected: tuple[int, ...], dtype: np.dtype[Any], inputs: Iterable[tuple[str, Array | None]]
) -> Array:
    """The caller's array to write into: it must match exactly and share no memory with an input."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array to write into, got {describe(out)}")
    if out.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {out.dtype}")
    shape(name, out, expected)
    flags = out.flags
    if not flags.carray:
        wanted = next(flag for flag in ("writeable", "c_contiguous", "aligned") if not getattr(flags, flag))
        raise ValueError(f"{name}: expected an array that is {wanted}, got one that is not")
    for other, array in inputs:
        if array is not None and np.may_share_memory(out, array) and np.shares_memory(out, array):
            raise ValueError(f"{name}: expected memory of its own, got memory that it shares with {other}")
    return out


def means_ids(name: str, array: Array, rank: int, size: int, ids: Any, *, single: bool = True) -> bool:
    """Whether `array` is ids in 0..size-1 that stand for one-hot vectors, and not features.

    Features of a batch have `rank` axes; `single` says whether one sequence may come alone, without the batch axis.
    `ids` is what the caller says. If that is None, integers with an axis less than features are ids where nothing else
    can be meant; where something can, it is a ValueError.
    """
    integer, axes = array.dtype.kind in "iu", array.ndim
    if ids is not None:
        if truth("ids", ids) and not integer:
            raise TypeError(f"{name}: expected integers with ids=True, got {describe(array)}")
        return bool(ids)
    if not integer or axes >= rank:
        return False
    doubts = {
        f"their last axis has input_size = {size}": single and axes == rank - 1 and array.shape[-1] == size,
        "they have few bits, as images and sound do": array.dtype.itemsize < 4,
        "input_size is 1": size == 1,
        "there is no batch axis": axes == rank - 2 > 0,
    }
    for doubt, doubtful in doubts.items():
        if doubtful:
            raise ValueError(
                f"{name}: expected ids=True if these integers are ids in 0..{size - 1}, or ids=False if they are "
                f"features [..., {size}]; could be either, as {doubt}: got {describe(array)}"
            )
    return True


def ids(name: str, array: Array, count: int, lengths: Array | None) -> Array:
    """A copy of `array` [T, B] of integers as int64 ids; those within the lengths must be in 0..count-1.

    It is the copy that is checked, and the kernel reads no other: it finds its memory by the ids, while other threads
    may write to the caller's array.
    """
    own = np.array(array, dtype=np.int64)
    if own.size and (own.min() < 0 or own.max() >= count):
        bad = (own < 0) | (own >= count)
        if lengths is not None:
            bad &= np.arange(len(own))[:, None] < lengths
        if bad.any():
            t, b = (int(index) for index in np.argwhere(bad)[0])
            raise ValueError(f"{name}: expected ids in 0..{count - 1}, got {array[t, b]} at step {t} of row {b}")
    return own


def integers(name: str, value: Any) -> Array:
    """`value` as an array of integers; floats are refused even where they are whole, and so are booleans."""
    array = numbers(name, value)
    if not array.size and not hasattr(value, "dtype"):
        array = array.astype(np.int64)  # an empty list has no integers to tell by
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    return array


def lengths(value: Any, steps: int, rows: int, *, batched: bool = True) -> Array | None:
    """A copy of the rows' lengths, int64 [B]; an unbatched sequence has one, a number or [1]."""
    if value is None:
        return None
    array = integers("lengths", value)
    if not batched and array.ndim == 0:
        array = array[None]
    shape("lengths", array, (rows,), "[B]")
    own = np.array(array, dtype=np.int64)
    wrong = np.flatnonzero((own < 0) | (own > steps))
    if wrong.size:
        raise ValueError(f"lengths: expected values in 0..T, 0..{steps}, got {array[wrong[0]]} in row {wrong[0]}")
    return own


def ragged(lengths: Array | None, steps: int) -> Array | None:
    """The lengths, or None where no row ends before the last step."""
    return None if lengths is None or (lengths == steps).all() else lengths


def flags(name: str, value: Any, expected: tuple[int, ...], letters: str) -> Array | None:
    """An array of booleans; 0 and 1 of another dtype are refused, because a mask of ids or weights looks the same."""
    if value is None:
        return None
    array = numbers(name, value)
    if not array.size and not hasattr(value, "dtype"):
        array = array.astype(bool)
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: expected booleans, got dtype {array.dtype}")
    shape(name, array, expected, letters)
    return array


def rows(name: str, value: Any, count: int) -> Array:
    """Which of `count` rows are meant, as a mask: by their numbers, each once, or by a mask [count]."""
    wanted = f"{name}: expected row numbers below {count} or a mask [{count}]"
    if isinstance(value, bool | np.bool_):  # NumPy would take it for all or none
        raise TypeError(f"{wanted}, got {value}")
    chosen = np.zeros(count, np.bool_)
    try:
        index = np.asarray(value, None if np.size(value) else np.intp)
        if index.ndim > 1 or index.size > count:
            raise IndexError(f"got shape {_show(index.shape)}")
        if index.dtype.kind == "u" and (index >= count).any():  # NumPy takes 2**64 - 1 for -1
            raise IndexError(f"got {index.max()}")
        chosen[index] = True
    except (IndexError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{wanted}: {error}") from error
    return chosen


def integer(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """An integer of at least `minimum` and at most `maximum`; a bool is not one."""
    try:
        number = operator.index(value)
    except Exception:  # whatever a caller's object raises
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected an integer, got {describe(value)}")
    if number < minimum or (maximum is not None and number > maximum):
        wanted = f"of at least {minimum}" if maximum is None else f"in {minimum}..{maximum}"
        raise ValueError(f"{name}: expected an integer {wanted}, got {number}")
    return number


def number(name: str, value: Any) -> float:
    """A finite real number."""
    if isinstance(value, bool | np.bool_ | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{name}: expected a real number, got {describe(value)}")
    try:
        result = float(value)
    except Exception as error:  # whatever a caller's object raises
        raise TypeError(f"{name}: expected a real number, got {describe(value)}") from error
    if not math.isfinite(result):
        raise ValueError(f"{name}: expected a finite number, got {result}")
    return result


def limit(name: str, value: Any) -> float:
    """A real number of at least 0, infinity included."""
    result = math.inf if isinstance(value, float) and value == math.inf else number(name, value)
    if result < 0:
        raise ValueError(f"{name}: expected a number of at least 0, got {result}")
    return result


def probability(name: str, value: Any) -> float:
    """A real number in 0..1."""
    result = number(name, value)
    if not 0.0 <= result <= 1.0:
        raise ValueError(f"{name}: expected a number in 0..1, got {result}")
    return result


def truth(name: str, value: Any) -> bool:
    """True or False, and nothing that only passes for one."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")
    return bool(value)


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """One of the strings `choices`."""
    options = tuple(choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(map(repr, options))}, got {describe(value)}")
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def float_dtype(name: str, value: DTypeLike) -> np.dtype[Any]:
    """float32 or float64, native."""
    try:
        dtype = np.dtype(value if value is not None else np.void)  # NumPy takes None for float64
    except Exception:  # of "(1,f4" a SyntaxError; of an object with a dtype whatever that raises
        dtype = np.dtype(np.void)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{name}: expected float32 or float64, got {value!r}")
    return dtype


def generator(name: str, value: Any) -> np.random.Generator:
    """`np.random.default_rng(value)` (SPEC 7)."""
    wanted = f"{name}: expected None, a seed or a numpy.random.Generator"
    # NumPy looks into lists of lists, and follows one that is inside itself until the process dies.
    if isinstance(value, list | tuple) and not all(isinstance(one, int | np.integer) for one in value):
        raise TypeError(f"{wanted}, got {describe(value)}")
    try:
        return np.random.default_rng(value)
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{wanted}, got {describe(value)}") from error


def axes(name: str, value: Any) -> tuple[int, ...]:
    """The sizes of an array's axes, each an integer of at least 0."""
    try:
        sizes = tuple(value)
    except Exception as error:  # whatever a caller's object raises
        raise TypeError(f"{name}: expected a tuple of integers, got {describe(value)}") from error
    return tuple([integer(name, size, 0) for size in sizes])


def shapes(name: str, value: Any) -> dict[str, tuple[int, ...]]:
    """Names with shapes, in order."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a mapping from names to shapes, got {describe(value)}")
    if odd := [one for one in value if not isinstance(one, str)]:
        raise TypeError(f"{name}: expected names that are strings, got {describe(odd[0])}")
    found = {one: axes(f"{name}[{one!r}]", shape) for one, shape in value.items()}
    elements(sum(math.prod(max(size, 1) for size in shape) for shape in found.values()))  # NumPy counts so, too
    return found


def path(name: str, value: Any) -> Path:
    """A place for a file."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected a str or a path, got {describe(value)}")
    if "\0" in str(value):
        raise ValueError(f"{name}: expected a path without a null character, got {str(value)!r}")
    return Path(value)


def options(owner: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse names that a constructor doesn't have, with the one that may have been meant."""
    known = list(known)
    for name in given:
        if name in known:
            continue
        meant = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {meant[0]}?" if meant else ""
        raise TypeError(f"{owner}: expected the options {', '.join(known)}; got {name}{hint}")


def size(name: str, value: Any) -> int:
    """An integer in 1..2**24: what the kernels take."""
    return integer(name, value, maximum=2**24)


def threads(value: Any) -> int | None:
    """The `num_threads` of one call, in 1..4096; None is the default."""
    return None if value is None else integer("num_threads", value, maximum=4096)


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """A mapping from names to arrays."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a mapping from names to arrays, got {describe(value)}")
    return value


def by_name(name: str, value: Any, known: list[str], owner: str) -> list[Any]:
    """The values of a mapping with exactly these names, in their order; of one name, the value alone will do."""
    if not known:
        if value is None:
            return []
        raise ValueError(f"{name}: expected None, as {owner} takes no extra input, got {describe(value)}")
    if len(known) == 1 and value is not None and not isinstance(value, Mapping):
        return [value]
    expected = f"the extra inputs of {owner} by name, {', '.join(known)}"
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}")
    if value is None or set(value) != set(known):
        raise ValueError(f"{name}: expected {expected}, got {None if value is None else list(value)}")
    return [value[one] for one in known]


def runs_forwards(name: str, part: Any) -> None:
    """ValueError if a layer or model runs backwards in time, too, so that no state can be carried on."""
    for option in ("bidirectional", "reverse"):
        if getattr(part, option, False):
            raise ValueError(
                f"{name}: expected layers that only run forwards in time, got {type(part).__name__} with {option}=True"
            )


def elements(count: int, **sizes: int) -> None:
    """ValueError if an array of `count` elements, the product of `sizes`, is beyond what a machine can address."""
    if count > MAX_ELEMENTS:
        listed = ", ".join(f"{name}={size}" for name, size in sizes.items()) or "shapes"
        raise ValueError(f"{listed}: expected a product of at most 2**47 elements, got {count}")


def _show(axes: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, axes))}]"
