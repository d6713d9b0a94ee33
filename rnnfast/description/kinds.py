"""Classes by the names that configurations have for them.

A name alone is enough for the package's own classes, so that a configuration means the same everywhere; and for those
of the user, of which the newest of a name counts: in a notebook a class is often defined again. A class that its name
alone would not find, as a user's `LSTM`, is named with its module: "my_cells.LSTM".
"""

from __future__ import annotations

from typing import Any

__all__ = ["Kinds"]

_PACKAGE = __name__.partition(".")[0] + "."


class Kinds:
    """The classes derived from one, by their names."""

    def __init__(self) -> None:
        self._classes: dict[str, Any] = {}

    def add(self, cls: type) -> None:
        """Make a class known, which has just been defined."""
        self._classes[_full(cls)] = cls
        known = self._classes.get(cls.__name__)
        if known is None or _ours(cls) or not _ours(known):
            self._classes[cls.__name__] = cls

    def name(self, cls: type) -> str:
        """What a configuration calls a class."""
        found = self._classes.get(cls.__name__)
        same = found is not None and _full(found) == _full(cls)
        return cls.__name__ if same else _full(cls)

    def get(self, name: Any) -> Any:
        """The class that a configuration calls so, or None. Where its module is not known, a user's of that name."""
        if not isinstance(name, str):
            return None
        found = self._classes.get(name)
        if found is None and "." in name:
            found = self._classes.get(name.rpartition(".")[2])
            return None if found is None or _ours(found) else found
        return found

    def names(self) -> list[str]:
        """The names without modules, for messages."""
        return sorted(name for name in self._classes if "." not in name)


def _full(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _ours(cls: type) -> bool:
    return cls.__module__.startswith(_PACKAGE)
