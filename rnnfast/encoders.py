"""Symbols and labels to ids and back, and one-hot vectors.

A) Ids are int64, which layers take as they are: no one-hot array is needed for a first layer's input.
B) Text is looked up as a whole: its UTF-32 code points index one table. A corpus of ten million characters takes a
   fraction of a second, where a dictionary lookup per character takes one.
C) An encoder is a fixed list; its dictionary form goes into JSON, so a checkpoint can keep it.

Rejected: byte-pair and word tokenizers (SymbolEncoder takes any tokens, whoever made them); an implicit id for what is
unknown (it hides mistakes; `unknown=` asks for it).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _checks
from ._checks import Array

__all__ = ["LabelEncoder", "SymbolEncoder", "from_one_hot", "one_hot"]

Ids = NDArray[np.int64]

_UTF32, _ERRORS = "utf-32-le", "surrogatepass"  # a str may hold lone surrogates


class _Encoder:
    """A list of different hashables, and the way from each to its place in it."""

    _kind: str  # what the entries are called, in messages

    def __init__(self, entries: Iterable[Hashable]) -> None:
        self._entries = tuple(_hashables(f"{self._kind}s", entries))
        self._ids = {entry: index for index, entry in enumerate(self._entries)}
        if len(self._ids) < len(self._entries):
            twice = next(entry for index, entry in enumerate(self._entries) if self._ids[entry] != index)
            raise ValueError(f"{self._kind}s: expected different {self._kind}s, got {twice!r} twice")

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: object) -> bool:
        try:
            return entry in self._ids
        except TypeError:  # nothing that has no hash is in a list of hashables, nor is a tuple with such a thing in it
            return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Encoder) and type(other) is type(self) and other._entries == self._entries

    def __hash__(self) -> int:
        return hash(self._entries)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self._entries[:8])) + (", ..." if len(self) > 8 else "")
        return f"{type(self).__name__}({len(self)} {self._kind}s: {shown})"

    def _look_up(self, name: str, entries: Sequence[Any], otherwise: int | None = None) -> Ids:
        ids = np.empty(len(entries), np.int64)
        for position, entry in enumerate(entries):
            try:
                index = self._ids.get(entry, otherwise)
            except TypeError as error:
                raise TypeError(f"{name}: expected hashable {self._kind}s, got {entry!r} at {position}") from error
            if index is None:
                raise ValueError(f"{name}: expected one of the {len(self)} {self._kind}s, got {entry!r} at {position}")
            ids[position] = index
        return ids

    def _json_entries(self) -> list[Any]:
        for entry in self._entries:
            if not (entry is None or isinstance(entry, str | int | float | bool)):
                raise TypeError(f"{self._kind}s: expected strings, numbers, booleans or None for JSON, got {entry!r}")
        return list(self._entries)


class SymbolEncoder(_Encoder):
    """Symbols, such as the characters of a text, to ids 0..n-1 and back.

    Parameters
    ----------
    symbols : iterable of hashables
        The symbols in the order of their ids; a str is its characters.
    unknown : hashable, optional
        The symbol that stands for all others when encoding; it is appended to the symbols unless it is one of them.
        By default others are an error.

    Attributes
    ----------
    symbols : tuple
    unknown : hashable or None

    Examples
    --------
    >>> encoder = SymbolEncoder.fit("hello")
    >>> encoder.encode("hole")
    array([1, 3, 2, 0])
    >>> encoder.decode([1, 0, 2, 2, 3])
    'hello'
    """

    _kind = "symbol"

    def __init__(self, symbols: Iterable[Hashable], *, unknown: Hashable | None = None) -> None:
        listed = _hashables("symbols", symbols)
        if unknown is not None:
            (unknown,) = _hashables("unknown", [unknown])
            if unknown not in listed:
                listed.append(unknown)
        super().__init__(listed)
        self._unknown = unknown
        self._unknown_id = None if unknown is None else self._ids[unknown]
        # _codes[id] is the symbol's code point, _table[code point] its id; the last of the table is for all beyond it.
        self._codes: NDArray[np.uint32] | None = None
        if all(isinstance(symbol, str) and len(symbol) == 1 for symbol in self._entries):
            self._codes = _code_points("".join(map(str, self._entries)))
            self._table = np.full(int(self._codes.max(initial=0)) + 2, -1 if unknown is None else self._unknown_id)
            self._table[self._codes] = np.arange(len(self))

    @classmethod
    def fit(cls, text: Iterable[Hashable], *, unknown: Hashable | None = None) -> Self:
        """The encoder of all symbols that occur.

        Parameters
        ----------
        text : str or iterable of hashables
            The symbols of a str are its characters, in the order of their code points; other symbols come in the order
            of their first appearance.
        unknown : hashable, optional
            As for the class.

        Returns
        -------
        SymbolEncoder
        """
        return cls(
            sorted(set(text)) if isinstance(text, str) else dict.fromkeys(_hashables("text", text)), unknown=unknown
        )

    @property
    def symbols(self) -> tuple[Any, ...]:
        """The symbols in the order of their ids."""
        return self._entries

    @property
    def unknown(self) -> Any:
        """The symbol that stands for all others, or None."""
        return self._unknown

    def encode(self, text: Iterable[Hashable]) -> Ids:
        """Ids of the symbols.

        Parameters
        ----------
        text : str or iterable of hashables

        Returns
        -------
        ndarray of int64, shape [len(text)]

        Raises
        ------
        ValueError
            A symbol is unknown, and the encoder has no symbol for that; the message names it and its position.
        """
        if self._codes is None or not isinstance(text, str):
            return self._look_up("text", _sequence("text", text), self._unknown_id)
        ids: Ids = self._table.take(_code_points(text), mode="clip")
        if self._unknown is None and ids.size and ids.min() < 0:
            position = int(ids.argmin())
            raise ValueError(f"text: expected one of the {len(self)} symbols, got {text[position]!r} at {position}")
        return ids

    def decode(self, ids: ArrayLike) -> Any:
        """Symbols of the ids.

        Parameters
        ----------
        ids : array_like of int, shape [n]

        Returns
        -------
        str or list
            A str if all of the encoder's symbols are single characters.

        Raises
        ------
        ValueError
            An id is out of range; the message names it and its position.
        """
        array = _valid_ids(ids, len(self))
        if array.ndim != 1:
            raise ValueError(f"ids: expected one axis, got shape {array.shape}")
        if self._codes is not None:
            return self._codes[array].astype("<u4").tobytes().decode(_UTF32, _ERRORS)
        return [self._entries[index] for index in array]

    def to_dict(self) -> dict[str, Any]:
        """A form for JSON, from which `from_dict` makes an equal encoder.

        Returns
        -------
        dict
            "symbols" and "unknown".

        Raises
        ------
        TypeError
            A symbol is nothing that JSON keeps: a string, a number, a boolean or None.
        """
        return {"symbols": self._json_entries(), "unknown": self._unknown}

    @classmethod
    def from_dict(cls, form: Mapping[str, Any]) -> Self:
        """The encoder of a dictionary form.

        Parameters
        ----------
        form : mapping
            From `to_dict`.

        Returns
        -------
        SymbolEncoder
        """
        _check_form(form, {"symbols", "unknown"})
        return cls(form["symbols"], unknown=form["unknown"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymbolEncoder) and other._unknown == self._unknown and super().__eq__(other)

    __hash__ = _Encoder.__hash__


class LabelEncoder(_Encoder):
    """Labels of classes to ids 0..n-1, in sorted order, and back.

    Parameters
    ----------
    labels : iterable of hashables
        Different labels that can be sorted, in any order.

    Attributes
    ----------
    labels : tuple

    Examples
    --------
    >>> encoder = LabelEncoder.fit(["walk", "run", "walk"])
    >>> encoder.encode(["walk", "run"])
    array([1, 0])
    >>> encoder.decode([0, 0])
    ['run', 'run']
    """

    _kind = "label"

    def __init__(self, labels: Iterable[Hashable]) -> None:
        listed: list[Any] = _hashables("labels", labels)
        try:
            listed.sort()
        except TypeError as error:
            raise TypeError(f"labels: expected labels that can be sorted ({error})") from error
        super().__init__(listed)

    @classmethod
    def fit(cls, labels: Iterable[Hashable]) -> Self:
        """The encoder of all labels that occur.

        Parameters
        ----------
        labels : iterable of hashables, or ndarray of any shape

        Returns
        -------
        LabelEncoder
        """
        return cls(dict.fromkeys(_hashables("labels", labels)))

    @property
    def labels(self) -> tuple[Any, ...]:
        """The labels in the order of their ids."""
        return self._entries

    def encode(self, labels: Iterable[Hashable]) -> Ids:
        """Ids of the labels.

        Parameters
        ----------
        labels : iterable of hashables, or ndarray of any shape

        Returns
        -------
        ndarray of int64, shape [n], or the shape of the array

        Raises
        ------
        ValueError
            A label is unknown; the message names it and its position (in C order).
        """
        ids = self._look_up("labels", _sequence("labels", labels))
        return ids.reshape(labels.shape) if isinstance(labels, np.ndarray) else ids

    def decode(self, ids: ArrayLike) -> list[Any]:
        """Labels of the ids.

        Parameters
        ----------
        ids : array_like of int, at least one axis

        Returns
        -------
        list
            Nested, where the ids have more than one axis.

        Raises
        ------
        ValueError
            An id is out of range; the message names it and its position.
        """
        array = _valid_ids(ids, len(self))
        if array.ndim == 0:
            raise ValueError("ids: expected at least one axis, got a number")
        table = np.empty(len(self), object)
        for index, label in enumerate(self._entries):
            table[index] = label
        nested: list[Any] = table[array].tolist()
        return nested

    def to_dict(self) -> dict[str, Any]:
        """A form for JSON, from which `from_dict` makes an equal encoder.

        Returns
        -------
        dict
            "labels".

        Raises
        ------
        TypeError
            A label is nothing that JSON keeps: a string, a number or a boolean.
        """
        return {"labels": self._json_entries()}

    @classmethod
    def from_dict(cls, form: Mapping[str, Any]) -> Self:
        """The encoder of a dictionary form.

        Parameters
        ----------
        form : mapping
            From `to_dict`.

        Returns
        -------
        LabelEncoder
        """
        _check_form(form, {"labels"})
        return cls(form["labels"])


def one_hot(ids: ArrayLike, num_classes: int, dtype: DTypeLike = np.float32) -> Array:
    """Vectors of zeros with a one at each id.

    Layers take ids themselves as the input of a first layer, and are faster with them.

    Parameters
    ----------
    ids : array_like of int, shape [...]
        In 0..num_classes-1.
    num_classes : int
    dtype : dtype-like
        Any real dtype.

    Returns
    -------
    ndarray, shape [..., num_classes]

    Raises
    ------
    ValueError
        An id is out of range; the message names it and its position.

    Examples
    --------
    >>> one_hot([1, 0], 3)
    array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """
    count = _checks.integer("num_classes", num_classes, 0)
    try:
        real = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"dtype: expected a real dtype, got {dtype!r}") from error
    if real.kind not in "biuf":
        raise TypeError(f"dtype: expected a real dtype, got {real}")
    array = _valid_ids(ids, count)
    _checks.elements(max(array.size, 1) * count, ids=array.size, num_classes=count)
    hot = np.zeros((*array.shape, count), real)
    np.put_along_axis(hot, array[..., None], 1, axis=-1)
    return hot


def from_one_hot(vectors: ArrayLike) -> Ids:
    """The inverse of `one_hot`.

    Parameters
    ----------
    vectors : array_like, shape [..., num_classes]
        Each vector has one 1; all else is 0.

    Returns
    -------
    ndarray of int64, shape [...]

    Raises
    ------
    ValueError
        A vector is not one-hot; the message names its position. (For scores, use `argmax`.)

    Examples
    --------
    >>> from_one_hot([[0, 1, 0], [1, 0, 0]])
    array([1, 0])
    """
    array = _checks.numbers("vectors", vectors)
    if array.ndim == 0:
        raise ValueError("vectors: expected at least one axis, the classes, got a number")
    ones = array == 1
    wrong = (np.count_nonzero(ones, axis=-1) != 1) | (ones != (array != 0)).any(axis=-1)
    if wrong.any():
        position = np.argwhere(wrong)[0].tolist()
        raise ValueError(f"vectors: expected a single 1 among zeros, got {array[tuple(position)]} at {position}")
    if not array.shape[-1]:
        return np.zeros(array.shape[:-1], np.int64)
    return np.asarray(ones.argmax(axis=-1), np.int64)


def _hashables(name: str, values: Iterable[Hashable]) -> list[Hashable]:
    """A list of the values, NumPy's scalars as Python's, so that they print, sort and go into JSON as such."""
    listed: list[Any] = list(_sequence(name, values))
    for position, value in enumerate(listed):
        try:
            hash(value)
        except TypeError as error:
            raise TypeError(f"{name}: expected hashables, got {value!r} at {position}") from error
    return [value.item() if isinstance(value, np.number | np.bool_ | np.str_) else value for value in listed]


def _sequence(name: str, values: Iterable[Any]) -> Sequence[Any]:
    """What can be counted; the elements of an array as Python objects, which hash and print as such."""
    if isinstance(values, np.ndarray):
        flat: list[Any] = values.ravel().tolist()
        return flat
    try:
        return values if isinstance(values, list | tuple | str) else list(values)
    except TypeError as error:
        raise TypeError(f"{name}: expected an iterable, got {_checks.describe(values)}") from error


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode(_UTF32, _ERRORS), "<u4")


def _valid_ids(ids: ArrayLike, count: int) -> Array:
    array = _checks.integers("ids", ids)
    wrong = (array < 0) | (array >= count)
    if wrong.any():
        position = np.argwhere(wrong)[0].tolist()
        raise ValueError(f"ids: expected values in 0..{count - 1}, got {array[tuple(position)]} at {position}")
    return array.astype(np.intp, copy=False)


def _check_form(form: Mapping[str, Any], keys: set[str]) -> None:
    if not isinstance(form, Mapping):
        raise TypeError(f"form: expected a mapping from to_dict(), got {_checks.describe(form)}")
    if set(form) != keys:
        raise ValueError(
            f"form: expected the keys {', '.join(sorted(keys))}, got {', '.join(map(str, form)) or 'none'}"
        )
