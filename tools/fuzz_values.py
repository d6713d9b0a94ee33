"""What the fuzzer puts in the place of good arguments: the same numbers in another make, and values that are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["HOSTILE", "another_make", "spoiled"]

Rng = np.random.Generator
HOSTILE = "asked too much"


class Hostile:
    """Raises a ValueError whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__array"):
            raise ValueError(HOSTILE)
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Any]:
        raise ValueError(HOSTILE)

    def __len__(self) -> int:
        raise ValueError(HOSTILE)

    def __float__(self) -> float:
        raise ValueError(HOSTILE)

    def __index__(self) -> int:
        raise ValueError(HOSTILE)

    def __repr__(self) -> str:
        return "Hostile()"


def _recursive() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


def _constant(constant: Any) -> Callable[[], Any]:
    return lambda: constant


ANYTHING: list[Callable[[], Any]] = [
    *map(_constant, (None, True, False, 0, 1, -1, 2, 7, 2**49, 2**31, 2**63, 2**64 - 1, 2**64)),
    *map(_constant, (-(2**63), 10**30, 0.0, 0.5, 1.5, -2.0, 1e308, 1e-320, math.nan, math.inf)),
    *map(_constant, ("", "text", "mean", "cpu", "µ\0", "\ud800", b"bytes", 1j, ..., slice(3))),
    *map(_constant, ([], (), [[]], [[1.0], [2.0, 3.0]], range(3), "1", [None], [{}], ["a"])),
    dict,
    set,
    object,
    Hostile,
    _recursive,
    lambda: {"a": 1},
    lambda: {1: 2},
    lambda: {"": {"": []}},
    lambda: Hostile,
    lambda: math,
    lambda: lambda *given, **named: None,
    lambda: iter([1, 2]),
    lambda: (one for one in (1, 2)),
    lambda: memoryview(b"abc"),
    lambda: np.zeros(0),
    lambda: np.zeros((0, 0)),
    lambda: np.zeros(()),
    lambda: np.array(3),
    lambda: np.zeros((2, 2, 2, 2, 2)),
    lambda: np.zeros((2, 3), complex),
    lambda: np.array(["x", "y"]),
    lambda: np.array([object(), None]),
    lambda: np.array("2020-01-01", "M8[D]"),
    lambda: np.zeros(2, [("a", "f4"), ("b", "i4")]),
    lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    lambda: np.broadcast_to(np.float32(0), (2**17, 2)),
    lambda: np.broadcast_to(np.float32(0), (2**12, 2**40, 1)),
    lambda: np.zeros((3, 0, 2**40)),
    lambda: np.float32(1),
    lambda: np.uint64(2**64 - 1),
    lambda: np.int8(-1),
    lambda: np.bool_(True),
    lambda: np.str_("text"),
    lambda: np.dtype("f4"),
    lambda: np.random.default_rng(0),
]


def _with_other_shape(rng: Rng, array: Any) -> Any:
    choice = rng.integers(7)
    if choice == 0 or not array.ndim:
        return array[None]
    axis = int(rng.integers(array.ndim))
    if choice == 1:
        return array.sum(axis=axis)
    if choice == 2:
        return np.concatenate([array, array], axis=axis)
    if choice == 3:
        return array[(slice(None),) * axis + (slice(1, None),)]
    if choice == 4:
        return array[(slice(None),) * axis + (slice(0, 0),)]
    return array.swapaxes(0, axis) if choice == 5 else np.expand_dims(array, axis)


def _with_other_numbers(rng: Rng, array: Any) -> Any:
    changed = np.array(array)
    if not changed.size:
        return changed
    kind = changed.dtype.kind
    values = {"f": (math.nan, math.inf, -math.inf, 1e38, -3.0, 1e-42), "b": (True, False)}.get(kind, (-1, 127, 5, 0))
    changed.flat[rng.integers(changed.size)] = values[rng.integers(len(values))]
    return changed


def _with_other_dtype(rng: Rng, array: Any) -> Any:
    names = ("f2", "f4", "f8", "g", "i1", "u1", "i8", "u8", "?", "c8", "O", "U3", ">f4", "m8[s]")
    with np.errstate(all="ignore"):
        return np.nan_to_num(array).astype(names[rng.integers(len(names))])


def _spoiled_array(rng: Rng, array: Any) -> Any:
    changes = (_with_other_shape, _with_other_shape, _with_other_numbers, _with_other_dtype, _as_other_thing)
    return changes[rng.integers(len(changes))](rng, array)


def _as_other_thing(rng: Rng, array: Any) -> Any:
    changes: tuple[Callable[[], Any], ...] = (
        array.tolist,
        lambda: np.ma.masked_array(array, np.zeros(array.shape, bool)),
        lambda: np.broadcast_to(np.zeros((), array.dtype), (2**40, 0, *array.shape[1:])),
        lambda: np.broadcast_to(np.zeros((), array.dtype), (*array.shape[:-1], 2**40)),
        lambda: np.broadcast_to(np.zeros((), array.dtype), array.shape),
        lambda: [array, array],
        lambda: (array,),
        lambda: {"a": array},
        lambda: _read_only(array),
        lambda: array.flat,
    )
    return changes[rng.integers(len(changes))]()


def _read_only(array: Any) -> Any:
    own = np.array(array)
    own.flags.writeable = False
    return own


def _spoiled_number(rng: Rng, value: Any) -> Any:
    values = (value + 1, value - 1, -value, value * 2**60, float(value), float(value) + 0.5, str(value), [value], None)
    return values[rng.integers(len(values))]


def _spoiled_mapping(rng: Rng, value: dict[Any, Any]) -> Any:
    changed, keys = dict(value), list(value)
    choice = rng.integers(6)
    if choice == 0:
        return list(value.items())
    if choice == 1:
        return changed | {("more", 1, None)[rng.integers(3)]: 1}
    if not keys:
        return None
    key = keys[rng.integers(len(keys))]
    if choice == 2:
        del changed[key]
    else:
        changed[key] = spoiled(rng, value[key])
    return changed


def _spoiled_sequence(rng: Rng, value: Any) -> Any:
    choice = rng.integers(5)
    if choice == 0:
        return list(value) if isinstance(value, tuple) else tuple(value)
    if choice == 1:
        return value[:-1]
    if choice == 2 or not value:
        return value + value[:1]
    changed = list(value)
    place = rng.integers(len(changed))
    changed[place] = spoiled(rng, changed[place])
    return type(value)(changed) if type(value) in (list, tuple) else changed


def spoiled(rng: Rng, value: Any) -> Any:
    """Another value, which may be wrong, and may look much like the right one."""
    if rng.random() < 0.35:
        return ANYTHING[rng.integers(len(ANYTHING))]()
    if isinstance(value, np.ndarray):
        return _spoiled_array(rng, value)
    if isinstance(value, bool):
        return (not value, int(value), None, "True", np.bool_(value))[rng.integers(5)]
    if isinstance(value, int | float):
        return _spoiled_number(rng, value)
    if isinstance(value, dict):
        return _spoiled_mapping(rng, value)
    if isinstance(value, list | tuple):
        return _spoiled_sequence(rng, value)
    return ANYTHING[rng.integers(len(ANYTHING))]()


def _strided(array: Any) -> Any:
    wide = np.repeat(array, 2, axis=-1)
    return wide[..., ::2]


def _unaligned(array: Any) -> Any:
    own = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    own[...] = array
    return own


MAKES: tuple[Callable[[Any], Any], ...] = (
    np.asfortranarray,
    _strided,
    _read_only,
    _unaligned,
    lambda array: array.astype(array.dtype.newbyteorder()),
    lambda array: array[::-1].copy()[::-1],
    lambda array: np.pad(array, 1)[(slice(1, -1),) * array.ndim],
    lambda array: array.tolist() if array.size else array,
    lambda array: memoryview(np.ascontiguousarray(array).data),
)


def another_make(rng: Rng, value: Any) -> Any:
    """The same numbers: arrays in other layouts, byte orders and types."""
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "fib":
        return MAKES[rng.integers(len(MAKES))](value)
    if isinstance(value, tuple):
        return tuple(another_make(rng, one) for one in value)
    return value
