"""Parameters and gradients: names on one flat buffer.

All values of a layer, a head or a whole model lie tightly packed in one aligned array, in a fixed order; a name gives a
view of its slice. So an optimiser step, gradient clipping and a checkpoint are each one pass over one array. The views
of parameters are read-only and every write goes through `Parameters`, which moves a version, so that packed copies of
the weights can tell when they are stale. Gradients have the same layout and are plain writeable memory.

Rejected: one array per name with a hash over the contents to see changes (a pass over all weights per call), and a
setter per name (an optimiser would make as many passes as there are names).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks
from ._checks import Array

__all__ = ["Gradients", "Parameters", "Store", "aligned_empty"]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector

Shapes = Mapping[str, tuple[int, ...]]


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An uninitialised C-contiguous array that begins on a 64-byte boundary.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype-like

    Returns
    -------
    ndarray
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % _ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)


class Store:
    """A flat aligned array of parameters and the number of its last change.

    Parameters
    ----------
    size : int
        The number of values; they begin as zeros.
    dtype : dtype-like

    Attributes
    ----------
    array : ndarray, shape [size]
    version : int
        Rises with every change.
    """

    __slots__ = ("array", "version")

    def __init__(self, size: int, dtype: DTypeLike) -> None:
        self.array = aligned_empty((size,), dtype)
        self.array.fill(0)
        self.version = 0

    def __getstate__(self) -> tuple[Array, int]:
        return self.array, self.version

    def __setstate__(self, state: tuple[Array, int]) -> None:
        self.array, self.version = _aligned_copy(state[0]), state[1]


class _Named(Mapping[str, Array]):
    """Names in a fixed order on consecutive slices of one flat array."""

    _shapes: dict[str, tuple[int, ...]]
    _flat: Array
    _views: dict[str, Array]

    def _lay_out(self, shapes: Shapes, flat: Array) -> None:
        self._shapes = dict(shapes)
        self._flat = flat
        self._views = dict(_slices(self._shapes, flat))

    @property
    def flat(self) -> Array:
        """All values in order, a 1-D view."""
        return self._flat

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each name, in order."""
        return dict(self._shapes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of all values."""
        return self._flat.dtype

    @property
    def size(self) -> int:
        """The number of values."""
        return self._flat.size

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    # A Mapping compares contents, which arrays cannot do in one truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in self._shapes.items())
        return f"{type(self).__name__}({self.size} values of {self.dtype}: {listed})"


class Gradients(_Named):
    """Gradients with the names, shapes and layout of some `Parameters`; plain writeable memory.

    Usually made by `Parameters.zeros`. `gradients[name]` is a writeable view.

    Parameters
    ----------
    shapes : mapping from str to tuple of int
    dtype : dtype-like
    flat : ndarray, optional
        A 1-D array of the right size and dtype to lie on; by default a new one of zeros.
    """

    def __init__(self, shapes: Shapes, dtype: DTypeLike, flat: Array | None = None) -> None:
        size = _total(shapes)
        if flat is None:
            flat = aligned_empty((size,), dtype)
            flat.fill(0)
        self._lay_out(shapes, _checks.output("flat", flat, (size,), np.dtype(dtype), ()))

    def zero(self) -> None:
        """Set all gradients to zero."""
        self._flat.fill(0)

    def __getstate__(self) -> tuple[dict[str, tuple[int, ...]], Array]:
        return self._shapes, self._flat

    def __setstate__(self, state: tuple[dict[str, tuple[int, ...]], Array]) -> None:
        self._lay_out(state[0], _aligned_copy(state[1]))


class Parameters(_Named):
    """Named parameters: read-only views, written through methods that move a version.

    `parameters[name]` is a read-only view. A pickle or a deep copy takes the whole store, so parts that share one go on
    sharing its copy.

    Parameters
    ----------
    shapes : mapping from str to tuple of int
        The names and shapes, in order.
    dtype : dtype-like
    store : Store, optional
        The memory to lie on; by default a new one of zeros.
    offset : int, optional
        The first element in the store.
    """

    def __init__(self, shapes: Shapes, dtype: DTypeLike, store: Store | None = None, offset: int = 0) -> None:
        size = _total(shapes)
        if store is not None:
            _check_room(store, offset, size, np.dtype(dtype))
        self._bind(shapes, Store(size, dtype) if store is None else store, offset)

    def _bind(self, shapes: Shapes, store: Store, offset: int) -> None:
        self._store, self._offset = store, offset
        flat = store.array[offset : offset + _total(shapes)]
        flat.flags.writeable = False
        self._lay_out(shapes, flat)

    @property
    def store(self) -> Store:
        """The memory that the values lie on."""
        return self._store

    @property
    def version(self) -> int:
        """A number that rises with every change."""
        return self._store.version

    def zeros(self) -> Gradients:
        """New gradients of this layout, all zero.

        Returns
        -------
        Gradients
        """
        return Gradients(self._shapes, self.dtype)

    @contextmanager
    def writing(self) -> Iterator[Array]:
        """A writeable view of `flat` for the length of a `with` block.

        The version moves when the block ends, also by an exception; the view is read-only from then on.
        """
        flat = self._store.array[self._offset : self._offset + self.size]
        try:
            yield flat
        finally:
            flat.flags.writeable = False
            self._store.version += 1

    def assign(self, flat: ArrayLike) -> None:
        """Replace all values.

        Parameters
        ----------
        flat : array_like, shape [size]
            The values in the order of `flat`.

        Raises
        ------
        TypeError, ValueError
            The array is not real or has another shape; nothing is written.
        """
        values = _checks.real_of_shape("flat", flat, self.dtype, (self.size,))
        with self.writing() as target:
            target[...] = values

    def update(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace the named values.

        Parameters
        ----------
        mapping : mapping from str to array_like

        Raises
        ------
        TypeError, ValueError
            A name is unknown, or an array is not real or has another shape; nothing is written.
        """
        self._write(mapping, complete=False)

    def load(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace all values.

        Parameters
        ----------
        mapping : mapping from str to array_like
            Exactly the names of these parameters.

        Raises
        ------
        TypeError, ValueError
            A name is missing or unknown, or an array is not real or has another shape; nothing is written.
        """
        self._write(mapping, complete=True)

    def _write(self, mapping: Mapping[str, ArrayLike], *, complete: bool) -> None:
        given = _checks.mapping("mapping", mapping)
        surplus = [str(name) for name in given if name not in self._shapes]
        missing = [name for name in self._shapes if name not in given] if complete else []
        if surplus or missing:
            raise ValueError(
                f"mapping: expected the names {', '.join(self._shapes)}; "
                f"got surplus names [{', '.join(surplus)}], missing names [{', '.join(missing)}]"
            )
        # Copies, because a value may be a view of the very memory that is about to be written.
        values = {
            name: _checks.real_of_shape(name, value, self.dtype, self._shapes[name], copy=True)
            for name, value in given.items()
        }
        with self.writing() as flat:
            views = dict(_slices(self._shapes, flat))
            for name, value in values.items():
                views[name][...] = value

    def adopt(self, store: Store, offset: int) -> None:
        """Move the values into another store and lie there from now on.

        Parameters
        ----------
        store : Store
            The new memory. Its version rises above that of the old one, so the version seen here never falls.
        offset : int
            The first element in it.

        Raises
        ------
        TypeError, ValueError
            The store has another dtype or no room at `offset`; nothing has changed.
        """
        _check_room(store, offset, self.size, self.dtype)
        store.array[offset : offset + self.size] = self._flat
        store.version = max(store.version, self.version) + 1
        self._bind(self._shapes, store, offset)

    def __getstate__(self) -> tuple[dict[str, tuple[int, ...]], Store, int]:
        return self._shapes, self._store, self._offset

    def __setstate__(self, state: tuple[dict[str, tuple[int, ...]], Store, int]) -> None:
        self._bind(*state)


def _total(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _check_room(store: Any, offset: Any, size: int, dtype: np.dtype[Any]) -> None:
    if not isinstance(store, Store):
        raise TypeError(f"store: expected a Store, got {_checks.describe(store)}")
    if store.array.dtype != dtype:
        raise TypeError(f"store: expected dtype {dtype}, got {store.array.dtype}")
    if _checks.integer("offset", offset, 0) + size > store.array.size:
        raise ValueError(f"offset: expected at most {store.array.size - size}, got {offset}")


def _slices(shapes: Shapes, flat: Array) -> Iterator[tuple[str, Array]]:
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        yield name, flat[start:stop].reshape(shape)
        start = stop


def _aligned_copy(array: Array) -> Array:
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy
