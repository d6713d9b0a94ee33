"""Parameters and gradients: names on one flat buffer.

All values of a layer, a head or a whole model lie tightly packed in one aligned array, in a fixed order; a name gives a
view of its slice. So an optimiser step, gradient clipping and a checkpoint are each one pass over one array. The views
of parameters are read-only and every write goes through `Parameters`, which moves a version, so that packed copies of
the weights can tell when they are stale. Gradients have the same layout and are plain writeable memory; those of tables
that are chosen from by ids can be apart, for the ids that occurred alone (`sparse`).

Threads may read while another writes. A write holds the store's lock, and who copies or packs the values takes it too,
so that nobody sees half of a write. Calls do not read the values but the panels packed from them, which nothing
changes; so a call waits only where it has to pack. A fork waits for the writes, too: the child has whole values.

Python's locks are not fair: one that writes in a loop would take the lock again before those who wait have woken up.
So readers take a turn first and keep it, and a write begins when nobody has one.

What NumPy calls read-only can still be written to: by its address (`ctypes`), or as a tensor that shares its memory
(`torch.from_numpy` warns). The layers do not notice that. DLPack, where a reader may ignore the flag, is refused.

On a CUDA device all is the same, but CuPy has no read-only arrays: who writes into a view of parameters there, and not
through the methods, must not expect the layers to notice. Pickles and copies go by way of the host.

Rejected: one array per name with a hash over the contents to see changes (a pass over all weights per call), and a
setter per name (an optimiser would make as many passes as there are names); a new array for every write in place of the
lock (all views would have to be made again, and the caller's would show old values).
"""

from __future__ import annotations

import itertools
import math
import operator
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import repeat
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks, _core, _flat
from ._checks import Array
from ._device import HOST, Device
from ._memory import aligned_empty
from .sparse import SparseGradient

__all__ = ["Gradients", "Parameters", "Store", "aligned_empty", "section_steps"]

Shapes = Mapping[str, tuple[int, ...]]
Place = tuple[int, tuple[int, ...]]
"""The first element in a store, and the shape."""


class Store:
    """A flat aligned array of parameters and the number of its last change.

    Parameters
    ----------
    size : int
        The number of values; they begin as zeros.
    dtype : dtype-like
    device : Device, optional
        Where they lie; on the host by default.

    Attributes
    ----------
    array : ndarray or cupy.ndarray, shape [size]
    version : int
        Rises with every change.
    device : Device
    turn, lock : threading.RLock
        The lock is held by who writes, and by who reads more than one value and needs all of one version: in a block of
        `reading`. Who has the lock and not the turn must not wait for the turn.
    """

    __slots__ = ("__weakref__", "array", "device", "lock", "turn", "version")

    def __init__(self, size: int, dtype: DTypeLike, device: Device = HOST) -> None:
        self._begin(device.zeros((size,), dtype), 0, device)

    def _begin(self, array: Array, version: int, device: Device) -> None:
        self.array, self.version, self.device = array, version, device
        self.turn, self.lock = threading.RLock(), threading.RLock()
        _STORES.add(self)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A block in which nobody else writes."""
        with self.turn, self.lock:
            yield

    def __getstate__(self) -> tuple[Array, int, Device]:
        with self.reading():
            return np.array(self.device.to_host(self.array)), self.version, self.device

    def __setstate__(self, state: tuple[Array, int, Device]) -> None:
        array, version, device = state
        self._begin(_placed_copy(array, device), version, device)


_STORES: weakref.WeakSet[Store] = weakref.WeakSet()
_forking: list[Store] = []


def _before_fork() -> None:
    """Wait for the writes of other threads. Nobody who holds one store's lock waits for another's."""
    _forking[:] = _STORES
    for store in _forking:
        store.turn.acquire()
        store.lock.acquire()


def _after_fork() -> None:
    for store in _forking:
        store.lock.release()
        store.turn.release()
    _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


class ParameterView(np.ndarray[Any, np.dtype[Any]]):
    """A read-only array that DLPack does not hand out: PyTorch, for one, makes a tensor of it that can be written to.

    What is computed from it is a plain array.
    """

    __array_priority__ = -1.0

    def __dlpack__(self, **options: Any) -> Any:
        if self.flags.writeable or options.get("copy"):
            return super().__dlpack__(**options)
        raise BufferError("parameters: expected a copy for DLPack, got the read-only view; take params[name].copy()")

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(np.asarray(self))


class _Named(Mapping[str, Array], ABC):
    """Names in a fixed order on consecutive slices of one flat array."""

    _shapes: dict[str, tuple[int, ...]]
    _flat: Array
    _views: dict[str, Array]

    def _lay_out(self, shapes: Shapes, flat: Array, apart: Collection[str] = ()) -> None:
        self._shapes = dict(shapes)
        self._flat = flat
        self._views = dict(_slices(_without(shapes, apart), flat))  # and what is borrowed, which has no name of its own

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
        return int(self._flat.size)

    @property
    @abstractmethod
    def device(self) -> Device:
        """Where the values lie."""

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    # A Mapping compares contents, which arrays cannot do in one truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in self._shapes.items())
        return f"{type(self).__name__}({self.size} values of {self.dtype}: {listed})"


def section_steps(batch_size: int) -> int:
    """How many steps a section of the parameters' gradients has on the host.

    The gradient of a parameter is a sum over all steps and rows. It is made of sections of some 65536 rows, counted
    from a call's first step, so that its error stays small. Chunks of a sequence whose lengths are multiples of a
    section have, run backward from the last to the first into one `Gradients`, the gradient's bits of the whole.
    States, outputs and dx have them wherever the sequence is cut.

    Parameters
    ----------
    batch_size : int
        At least 1.

    Returns
    -------
    int

    Examples
    --------
    >>> rnnfast.section_steps(32)
    2048
    """
    return _core.section_steps(_checks.size("batch_size", batch_size))


class Gradients(_Named):
    """Gradients with the names, shapes and layout of some `Parameters`; plain writeable memory.

    Usually made by `Parameters.zeros`. `gradients[name]` is a writeable view; of a table with a sparse gradient it is a
    read-only array that is made when it is asked for, and `flat` lacks it.

    Parameters
    ----------
    shapes : mapping from str to tuple of int
    dtype : dtype-like
    flat : ndarray or cupy.ndarray, optional
        A 1-D array of the right size and dtype to lie on; by default a new one of zeros.
    device : Device, optional
        Where they lie; on the host by default.
    tables : mapping from str to int, optional
        The names whose gradients are sparse, with the axis of the ids; see `rnnfast.sparse`.
    """

    scratch = False
    """Whether who made them zeroes them before each use, so that nobody sees what an interrupted sum has left there."""
    along: tuple[tuple[Any, str, Any], ...] = ()
    """Assignments (object, attribute, value) that the optimiser makes in the midst of the step which uses these
    gradients, so that no exception can part them from it."""

    def __init__(
        self,
        shapes: Shapes,
        dtype: DTypeLike,
        flat: Array | None = None,
        device: Device = HOST,
        tables: Mapping[str, int] | None = None,
    ) -> None:
        shapes, dtype = _checks.shapes("shapes", shapes), _checks.float_dtype("dtype", dtype)
        sparse = _sparse(shapes, tables or {}, dtype)
        size = _total(_without(shapes, sparse))
        with device.active():
            if flat is None:
                flat = device.zeros((size,), dtype)
            checked = device.checks.output("flat", flat, (size,), dtype, ())
        self._begin(shapes, checked, device, sparse)

    def _begin(self, shapes: Shapes, flat: Array, device: Device, sparse: Mapping[str, SparseGradient]) -> None:
        self._device, self._sparse = device, dict(sparse)
        self._parts: dict[Any, tuple[Parameters, Gradients]] = {}
        self._lay_out(shapes, flat, self._sparse)

    @classmethod
    def like(cls, params: Parameters) -> Gradients:
        """Gradients of some parameters, of values that are yet to be written: every backward makes them.

        Parameters
        ----------
        params : Parameters

        Returns
        -------
        Gradients
        """
        gradients = cls.__new__(cls)  # nothing is to be checked
        shapes, tables, dtype, device = params._shapes, params._tables, params.dtype, params.device
        sparse = _sparse(shapes, tables, dtype) if tables else {}
        size = _total(_without(shapes, sparse)) if sparse else params.size
        gradients._begin(shapes, device.empty((size,), dtype), device, sparse)
        if params._borrowed:
            tied = {name: shape for name, (_, shape) in params._borrowed.items()}
            lent = _sparse(tied, tables, dtype)
            gradients._borrow({name: device.zeros(shape, dtype) for name, shape in _without(tied, lent).items()}, lent)
        return gradients

    @property
    def device(self) -> Device:
        """Where the values lie."""
        return self._device

    @property
    def sparse(self) -> Mapping[str, SparseGradient]:
        """The gradients of tables that are held for the ids alone that occurred, by name."""
        return self._sparse

    @property
    def tables(self) -> dict[str, int]:
        """The names of `sparse`, with the axis of the ids."""
        return {name: one.axis for name, one in self._sparse.items() if name in self._shapes}

    @property
    def arrays(self) -> list[Array]:
        """All that is held, as writeable 1-D views: `flat`, and the values of `sparse`."""
        return [self._flat, *(one.values.reshape(-1) for one in self._sparse.values())]

    def __getitem__(self, name: str) -> Array:
        return self._views[name] if name not in self._sparse else self._sparse[name].dense()

    def take(self, other: Gradients) -> None:
        """Replace all values by those of other gradients of the same parameters, which Ctrl-C can't part.

        Parameters
        ----------
        other : Gradients
            Of the same layout and on the same device; not to be used any more.
        """
        held = [(one, "_held", other.sparse[name]._held) for name, one in self._sparse.items()]
        _flat.commit(partial(operator.setitem, self._flat, ..., other.flat), *held)

    def zero(self) -> None:
        """Set all gradients to zero."""
        with self._device.active():
            self._flat.fill(0)
        for one in self._sparse.values():
            one.clear()

    def part(self, params: Parameters, offset: int) -> Gradients:
        """The gradients of a model's part, as a view.

        Parameters
        ----------
        params : Parameters
            The part's.
        offset : int
            Where they begin in the model's.

        Returns
        -------
        Gradients
            The same object each time.
        """
        key = offset, id(params)
        found = self._parts.get(key)
        if found is None or found[0] is not params:
            found = self._parts[key] = params, self._part(params, offset)
        return found[1]

    def _part(self, params: Parameters, offset: int) -> Gradients:
        starts = {name: start for name, (start, _) in _places(self._shapes).items()}
        apart = {starts[name]: one for name, one in self._sparse.items()}

        def begin(start: int) -> int:
            """Where in `flat` what begins there among the parameters does."""
            return start - sum(math.prod(one.shape) for there, one in apart.items() if there < start)

        own = Gradients.__new__(Gradients)
        places, tables = _places(params.shapes, offset), params.tables
        size = _total(_without(params.shapes, tables))
        sparse = {name: apart[start] for name, (start, _) in places.items() if name in tables}
        own._begin(params.shapes, self._flat[begin(offset) : begin(offset) + size], self._device, sparse)
        tied = params.borrowed
        lent = {name: apart[start] for name, (start, _) in tied.items() if name in tables}
        views = {name: _at(self._flat, begin(start), shape) for name, (start, shape) in _without(tied, lent).items()}
        own._borrow(views, lent)
        return own

    def _borrow(self, views: Mapping[str, Array], sparse: Mapping[str, SparseGradient]) -> None:
        """Take in the gradients of tied parameters, which lie elsewhere."""
        self._views |= views
        self._sparse |= sparse

    def __getstate__(self) -> tuple[Any, ...]:
        return self._shapes, self._device.to_host(self._flat), self._device, self._sparse

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shapes, flat, device, *sparse = state  # older ones have none
        self._begin(shapes, _placed_copy(flat, device), device, *(sparse or ({},)))


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
    device : Device, optional
        Where a new store lies; on the host by default.
    tables : mapping from str to int, optional
        The names whose gradients are sparse, with the axis of the ids; see `rnnfast.sparse`.
    """

    in_model = False
    """Whether they lie in a model's buffer, which they can't leave. A shallow copy of their part shares them, and with
    them this; copies of themselves are in no model."""

    def __init__(
        self,
        shapes: Shapes,
        dtype: DTypeLike,
        store: Store | None = None,
        offset: int = 0,
        device: Device = HOST,
        tables: Mapping[str, int] | None = None,
    ) -> None:
        shapes, dtype = _checks.shapes("shapes", shapes), _checks.float_dtype("dtype", dtype)
        size = _total(shapes)
        if store is not None:
            _check_room(store, offset, size, dtype)
        self._bind(shapes, Store(size, dtype, device) if store is None else store, offset, {}, tables or {})

    def _bind(
        self,
        shapes: Shapes,
        store: Store,
        offset: int,
        borrowed: Mapping[str, Place],
        tables: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._store, self._offset, self._borrowed, self._tables = store, offset, dict(borrowed), dict(tables)
        flat = store.array[offset : offset + _total(shapes)]
        store.device.freeze(flat)
        self._lay_out(shapes, _protected(flat))
        for name, place in borrowed.items():
            view = _at(store.array, *place)
            store.device.freeze(view)
            self._views[name] = _protected(view)

    @property
    def borrowed(self) -> dict[str, Place]:
        """Tied parameters, which lie where another part of the model has them: names and (offset, shape) there."""
        return dict(self._borrowed)

    @property
    def tables(self) -> dict[str, int]:
        """The names whose gradients are sparse, tied ones too, with the axis of the ids; see `rnnfast.sparse`."""
        return dict(self._tables)

    def places(self) -> dict[str, Place]:
        """Where each of the values lies in the store, as (offset, shape)."""
        return _places(self._shapes, self._offset)

    @property
    def store(self) -> Store:
        """The memory that the values lie on."""
        return self._store

    @property
    def device(self) -> Device:
        """Where the values lie."""
        return self._store.device

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
        tables = {name: axis for name, axis in self._tables.items() if name in self._shapes}
        return Gradients(self._shapes, self.dtype, device=self.device, tables=tables)

    def copy(self) -> dict[str, Array]:
        """The values of this moment, all of one version, which later changes do not reach.

        Returns
        -------
        dict of str to array
            Writeable arrays of their own, where the parameters lie; for `load`.

        Examples
        --------
        >>> layer = rnnfast.LSTM(3, 4, rng=0)
        >>> best = layer.params.copy()
        >>> layer.update({"bias_ih_l0": [1] * 16})
        >>> layer.load(best)
        >>> bool((layer.params["bias_ih_l0"] == 1).any())
        False
        """
        with self.reading(), self.device.active():
            flat = _own(self._flat)
        return dict(_slices(self._shapes, flat))

    def reading(self) -> AbstractContextManager[None]:
        """A `with` block in which all that is read is of one version: writes of other threads wait.

        Examples
        --------
        >>> layer = rnnfast.LSTM(3, 4)
        >>> with layer.params.reading():
        ...     sums = [float(value.sum()) for value in layer.params.values()]
        """
        return self._store.reading()

    @contextmanager
    def writing(self) -> Iterator[Array]:
        """A copy of `flat` to change in a `with` block; at its end the values are replaced by it.

        An exception in the block leaves the parameters as they were. What is kept of the copy is no part of them.

        Examples
        --------
        >>> layer = rnnfast.LSTM(3, 4)
        >>> with layer.params.writing() as flat:
        ...     flat *= 0.5
        """
        with self.reading(), self.device.active():
            flat = _own(self._flat)
        yield flat
        with self.in_place() as target:
            write_all([target], [flat])

    @contextmanager
    def in_place(self) -> Iterator[Array]:
        """A writeable view of `flat`, for a block that calls nothing of the caller's: others wait.

        The version moves when the block begins and when it ends, also by an exception: one between the two lines at the
        end must not leave packed weights that are taken for the new ones.
        """
        with self._store.turn:  # whoever waits to read is first
            pass
        with self._store.lock, self.device.active():
            self._store.version += 1
            flat = self._store.array[self._offset : self._offset + self.size]
            try:
                yield flat
            finally:
                self.device.freeze(flat)
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
            The array is not real, has another shape, or is `flat` itself; nothing is written.
        """
        if _same(flat, self._flat):
            raise ValueError(f"flat: expected new values, got {_OWN_VIEWS}")
        values = self.device.take("flat", flat, self.dtype, (self.size,))
        with self.in_place() as target:
            write_all([target], [values])

    def update(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace the named values.

        Parameters
        ----------
        mapping : mapping from str to array_like

        Raises
        ------
        TypeError, ValueError
            A name is unknown, an array is not real or has another shape, or all are the parameters' own views; nothing
            is written.
        """
        self._write(mapping, complete=False)

    def load(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace all values.

        Parameters
        ----------
        mapping : mapping from str to array_like
            Exactly the names of these parameters. To keep values for later, `copy` them: `dict(params)` has views,
            which always show the present ones.

        Raises
        ------
        TypeError, ValueError
            A name is missing or unknown, an array is not real or has another shape, or all are the parameters' own
            views; nothing is written.
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
                + _prefix_hint(given, self._shapes)
            )
        if given and all(_same(value, self[name]) for name, value in given.items()):
            raise ValueError(f"mapping: expected new values, got {_OWN_VIEWS}")
        # Copies, because a value may be a view of the very memory that is about to be written.
        values = [self.device.take(name, value, self.dtype, self._shapes[name]) for name, value in given.items()]
        with self.in_place() as flat:
            views = dict(_slices(self._shapes, flat))
            write_all([views[name] for name in given], values)

    def adopt(self, store: Store, offset: int, borrowed: Mapping[str, Place] | None = None) -> None:
        """Move the values into another store and lie there from now on.

        Parameters
        ----------
        store : Store
            The new memory. Its version rises above that of the old one, so the version seen here never falls.
        offset : int
            The first element in it.
        borrowed : mapping from str to (int, tuple of int), optional
            Names that are tied, with where in the store they are from now on: these values are not moved.

        Raises
        ------
        TypeError, ValueError
            The store has another dtype or device, or no room at `offset`, or some of these are tied already; nothing
            has changed.
        """
        adopt_all(store, [(self, offset, borrowed or {})])

    def _moved(self, store: Store, offset: int, borrowed: Mapping[str, Place]) -> list[tuple[Any, str, Any]]:
        """Copy the values into another store; the assignments by which they lie there."""
        shapes = {name: shape for name, shape in self._shapes.items() if name not in borrowed}
        size = _total(shapes)
        _check_room(store, offset, size, self.dtype)
        if self._borrowed:
            raise ValueError(f"parameters: expected ones of their own, got tied ones, {', '.join(self._borrowed)}")
        if store.device is not self.device:
            raise ValueError(f"store: expected one on {self.device}, where the parameters lie, got {store.device}")
        with self._store.reading(), self.device.active():
            for name, target in _slices(shapes, store.array[offset : offset + size]):
                target[...] = self._views[name]
        there: Any = object.__new__(Parameters)
        there._bind(shapes, store, offset, borrowed, self._tables)
        return [(self, name, value) for name, value in vars(there).items()]

    def __getstate__(self) -> tuple[Any, ...]:
        return self._shapes, self._store, self._offset, self._borrowed, self._tables

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._bind(*state)  # older ones have no tables


def adopt_all(store: Store, moves: list[tuple[Parameters, int, Mapping[str, Place]]], **also: Any) -> None:
    """`Parameters.adopt` for several, each with its offset and what it borrows: all of them or none.

    The assignments are one call of compiled code, in which Ctrl-C can't fall. `also` are further attributes of each.
    """
    done = [one for params, offset, borrowed in moves for one in params._moved(store, offset, borrowed)]
    done += [(params, name, value) for params, _, _ in moves for name, value in also.items()]
    # Those of the old stores, too: for who asks them instead of these parameters, which are no longer there.
    done += [(params.store, "version", params.version + 1) for params, _, _ in moves]
    newest = max([store.version, *(params.version for params, _, _ in moves)])
    _flat.commit(_nothing, *done, (store, "version", newest + 1))


def check_tables(name: str, gradients: Gradients, params: Parameters) -> None:
    """Whether the same gradients are sparse; the shapes are."""
    if not gradients._sparse and not params._tables:
        return
    tables = {key: axis for key, axis in params._tables.items() if key in params._shapes}
    if gradients.tables != tables:
        wanted, found = (", ".join(one) or "nothing" for one in (tables, gradients.tables))
        raise ValueError(f"{name}: expected sparse gradients of {wanted}, as params.zeros() has, got some of {found}")


def _nothing() -> None:
    """Nothing."""


def _prefix_hint(given: Mapping[str, Any], wanted: Shapes) -> str:
    """Where in a whole net's dictionary the wanted names are, if they are all there behind a prefix."""
    first = next(iter(wanted), "")
    prefixes = sorted(name.removesuffix(first) for name in map(str, given) if name.endswith(f".{first}"))
    found = [repr(prefix) for prefix in prefixes if all(prefix + name in given for name in wanted)]
    if not found:
        return ""
    return f"; they are there behind the prefix {' or '.join(found)}: rnnfast.interop.from_state_dict takes a prefix"


def _total(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


_Value = TypeVar("_Value")


def _without(named: Mapping[str, _Value], apart: Collection[str]) -> Mapping[str, _Value]:
    return {name: value for name, value in named.items() if name not in apart} if apart else named


def _places(shapes: Shapes, offset: int = 0) -> dict[str, Place]:
    starts = itertools.accumulate(map(math.prod, shapes.values()), initial=offset)
    return {name: (start, shape) for start, (name, shape) in zip(starts, shapes.items(), strict=False)}


def _sparse(shapes: Shapes, tables: Mapping[str, int], dtype: np.dtype[Any]) -> dict[str, SparseGradient]:
    """New gradients of those of the shapes that are tables."""
    return {name: SparseGradient(shapes[name], axis, dtype) for name, axis in tables.items() if name in shapes}


def _at(flat: Array, start: int, shape: tuple[int, ...]) -> Array:
    return flat[start : start + math.prod(shape)].reshape(shape)


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


_OWN_VIEWS = (
    "the parameters' own views, which always show the present values; to keep values for later, take params.copy() or "
    "snapshot() in time"
)


def _same(value: Any, view: Array) -> bool:
    """Whether `value` is `view`, or another view of the very same numbers."""
    if value is view or not isinstance(value, np.ndarray) or not isinstance(view, np.ndarray):
        return value is view
    one, other = value.__array_interface__, view.__array_interface__
    return all(one[key] == other[key] for key in ("data", "shape", "strides", "typestr")) and value.size > 0


def _protected(view: Array) -> Array:
    """A view as callers get it."""
    return view.view(ParameterView) if type(view) is np.ndarray else view


def _own(view: Array) -> Array:
    """A writeable copy of a view that callers have, of the type that arrays have where it lies."""
    copied = view.copy()
    return copied.view(np.ndarray) if isinstance(copied, ParameterView) else copied


def write_all(targets: list[Array], values: list[Array]) -> None:
    """Write each of the values into its target, in one call of compiled code, which Ctrl-C can't part."""
    write: Any = operator.setitem
    deque(map(write, targets, repeat(...), values), maxlen=0)


def _placed_copy(array: Array, device: Device) -> Array:
    """A copy, on a device, of an array on the host."""
    with device.active():
        copy = device.empty(array.shape, array.dtype)
        copy[...] = device.take("array", array, array.dtype, array.shape)
    return copy
