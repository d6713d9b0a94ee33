"""What all parts of a model share: parameters, configuration, packed weights.

A part is a recurrent layer, a cell, a head or a model. Its attributes of the names in `_options` are its constructor's
arguments, so that configuration, `repr` and reconstruction read one list. Kernels and packed weights are derived from
them and from the parameters; they are left out of pickles and copies and built again.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _flat
from ._cell_config import cell_of
from ._checks import Array
from ._device import HOST, Device
from ._memory import aligned_empty
from .description.kinds import Kinds
from .parameters import Gradients, Parameters, check_tables
from .tape import Grads, Tape, recording

__all__ = ["BACKWARD", "FORWARD", "INNER", "Chosen", "Packed", "Part", "Stateless", "from_config", "panels_of"]


FORWARD, BACKWARD, INNER = "forward", "backward", "backward without dx"
"""What panels are packed for."""


class Packed:
    """A kernel with its weights packed for it, packed again only when the parameters' version has moved.

    Threads may use it at once, and change the parameters meanwhile: panels are never written to again, and `panels_of`
    takes those of one version.

    Parameters
    ----------
    kernel : _core.Kernel or _core.Dense, or what a device has in their place
    params : Parameters
    names : tuple of str
        The parameters in the kernel's order; one that `params` lack (a bias) is packed as None.
    """

    def __init__(self, kernel: Any, params: Parameters, names: tuple[str, ...]) -> None:
        self.kernel = kernel
        self.params = params
        self.names = names
        self._panels: dict[str, tuple[int, Array | None]] = {}

    def panels(self) -> Array:
        """The panels that forward reads."""
        return panels_of([self])[1][0]

    def panels_backward(self) -> Array:
        """The panels that backward reads besides."""
        return panels_of([self], [BACKWARD])[1][0]

    def pairs(self, panels: Array) -> Array:
        """The panels' weights in bfloat16."""
        narrow = aligned_empty((self.kernel.pairs_size,), np.uint32)
        self.kernel.to_pairs(panels, narrow)
        return narrow

    def _arrays(self, source: Parameters | Gradients) -> tuple[Array | None, ...]:
        """The parameters, or their gradients, in the kernel's order."""
        return tuple(map(source.get, self.names))

    def filed(self, what: str, version: int) -> Array | None:
        """The panels, if they have been packed from this version."""
        found, panels = self._panels.get(what, (-1, None))
        if found != version and what == INNER:
            found, panels = self._panels.get(BACKWARD, (-1, None))
        return panels if found == version else None

    def file(self, what: str, version: int) -> Array:
        """The same, packed if need be, by who holds the store's lock."""
        panels = self.filed(what, version)
        if panels is None:
            kernel, params = self.kernel, self.params
            size = kernel.panel_size if what == FORWARD else kernel.panel_size_backward
            panels = params.device.empty((size,), params.dtype)
            self._pack(what, self._arrays(params), panels)
            self._panels[what] = version, panels
        return panels

    def _pack(self, what: str, arrays: tuple[Array | None, ...], panels: Array) -> None:
        if what == FORWARD:
            self.kernel.pack(arrays, panels)
        elif what == BACKWARD:
            self.kernel.pack_backward(arrays, panels)
        else:
            self.kernel.pack_backward(arrays, panels, False)

    def load_gradients(self, gradients: Gradients, panels: Array) -> None:
        """Put gradients into their panels, for backward to add to; nothing is left of a rounding."""
        size = self.kernel.panel_size
        self.kernel.pack(self._arrays(gradients), panels[:size])
        panels[size:] = 0

    def storing(self, panels: Array, gradients: Gradients) -> list[Callable[[], object]]:
        """The calls that write gradient panels into the gradients."""
        return [self._unpacking(panels, self._arrays(gradients))]

    def _unpacking(self, panels: Array, arrays: tuple[Array | None, ...]) -> Callable[[], object]:
        return partial(self.kernel.unpack, panels[: self.kernel.panel_size], arrays)


class Chosen(Packed):
    """The same for some ids alone: of a matrix in which each id has a column, the kernel has theirs.

    Parameters
    ----------
    kernel, params, names
        As of `Packed`; the kernel's input has as many features as there are ids.
    of_ids : collection of str
        The parameters that are such matrices.
    ids : ndarray of int64, shape [n]
        Rising.
    """

    def __init__(
        self, kernel: Any, params: Parameters, names: tuple[str, ...], of_ids: Collection[str], ids: Array
    ) -> None:
        super().__init__(kernel, params, names)
        self._of_ids, self._ids = of_ids, ids

    def _arrays(self, source: Parameters | Gradients) -> tuple[Array | None, ...]:
        return tuple([self._array(source, name) for name in self.names])

    def _array(self, source: Parameters | Gradients, name: str) -> Array | None:
        if name not in self._of_ids:
            return source.get(name)
        if isinstance(source, Gradients) and name in source.sparse:
            return source.sparse[name].at(self._ids)
        return source[name].take(self._ids, axis=1)

    def storing(self, panels: Array, gradients: Gradients) -> list[Callable[[], object]]:
        arrays = self._arrays(gradients)
        calls = [self._unpacking(panels, arrays)]
        write: Any = operator.setitem
        for name, array in zip(self.names, arrays, strict=True):
            if array is not None and name in gradients.sparse:
                calls += gradients.sparse[name].replacing(self._ids, array)
            elif array is not None and name in self._of_ids:
                calls.append(partial(write, gradients[name], (slice(None), self._ids), array))
        return calls


def store_all(packed: Sequence[Packed], panels: Sequence[Array], gradients: Gradients) -> None:
    """Write the gradient panels of each into the gradients: one call of compiled code, in which Ctrl-C can't fall."""
    _flat.run([call for one, own in zip(packed, panels, strict=True) for call in one.storing(own, gradients)])


def panels_of(packed: Sequence[Packed], whats: Sequence[str] | None = None) -> tuple[int, list[Array]]:
    """Their panels, all of one version of the parameters, and that version; of forward, if `whats` does not say more.

    Where all are packed this takes no lock. Else it waits for a write that another thread is in.
    """
    params, wanted = packed[0].params, whats or repeat(FORWARD)
    version = params.version
    found: list[Any] = list(map(Packed.filed, packed, wanted, repeat(version)))
    if any(map(operator.is_, found, repeat(None))):
        with params.store.reading():
            version = params.version
            found = list(map(Packed.file, packed, wanted, repeat(version)))
    return version, found


class Part(ABC):
    """A part of a model. Not for use by itself."""

    _options: ClassVar[tuple[str, ...]] = ()
    _kinds: ClassVar[Kinds] = Kinds()

    params: Parameters
    rng: np.random.Generator
    dtype: np.dtype[Any]
    init: str | None
    """None where it was a function."""
    device: str
    _device: Device
    """That of `params`; set by `_pack`."""
    origin: str | None = None
    """Where a part came from that `rnnfast.interop` has brought in; None for others."""
    precision: str
    """Of products on a CUDA device; the other arithmetic is in float32 there."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Part._kinds.add(cls)

    @classmethod
    def _build(cls, options: dict[str, Any], rng: Any) -> Any:
        """A part of the arguments in a configuration."""
        if odd := [name for name in options if not isinstance(name, str)]:
            raise TypeError(f"config: expected names that are strings, got {_checks.describe(odd[0])}")
        try:
            if "cell" in options:
                options["cell"] = cell_of(options["cell"])
            return cls(rng=rng, **options)  # type: ignore[call-arg]
        except TypeError as error:
            raise TypeError(f"config: expected the arguments of {cls.__name__}: {error}") from error

    _derived: ClassVar[tuple[str, ...]] = ("_device", "_packed", "_recurrence")
    """What `_pack` makes; left out of pickles and copies."""

    @abstractmethod
    def _pack(self) -> None:
        """Make `_device` and what holds the kernels from the options and `params`."""

    def load(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace all parameters.

        Parameters
        ----------
        mapping : mapping from str to array_like
            Exactly the names of `params`, with their shapes.

        Raises
        ------
        TypeError, ValueError
            A name is missing or unknown, or an array is not real or has another shape; nothing is written.
        """
        self.params.load(mapping)

    def snapshot(self) -> dict[str, Array]:
        """The parameters of this moment, which later changes do not reach: `params.copy()`.

        Returns
        -------
        dict of str to array
            For `load`.

        Examples
        --------
        >>> head = rnnfast.Dense(3, 2, rng=0)
        >>> best = head.snapshot()
        >>> head.update({"bias": [1, 2]})
        >>> head.load(best)
        """
        return self.params.copy()

    def update(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace some parameters.

        Parameters
        ----------
        mapping : mapping from str to array_like
            Some of the names of `params`, with their shapes.

        Raises
        ------
        TypeError, ValueError
            A name is unknown, or an array is not real or has another shape; nothing is written.
        """
        self.params.update(mapping)

    def config(self) -> dict[str, Any]:
        """A JSON-able description, from which `rnnfast.layers.from_config` builds an equal, freshly initialised part.

        Returns
        -------
        dict
            "type" and the constructor's arguments, without `rng`, without `init` where that is a function, and without
            `device` and `precision` on the host.
        """
        options = {name: getattr(self, name) for name in self._options} | self._more_options()
        options["dtype"] = self.dtype.name
        if self.init is not None:
            options["init"] = self.init
        if self.device != HOST.name:
            options |= {"device": self.device, "precision": self.precision}
        return {"type": Part._kinds.name(type(self)), **options}

    def _more_options(self) -> dict[str, Any]:
        """Options to show beside those in `_options`."""
        return {}

    def __repr__(self) -> str:
        options = self.config()
        if "cell" in options:
            options["cell"] = cell_of(options["cell"])
        return f"{options.pop('type')}({', '.join(f'{name}={value!r}' for name, value in options.items())})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pack()

    def _gradients(self, into: Gradients | None) -> Gradients:
        """The gradients to write to, every one of them: `into` if it fits these parameters, else new memory."""
        if into is None:
            return Gradients.like(self.params)
        if not isinstance(into, Gradients):
            raise TypeError(f"into: expected Gradients or None, got {_checks.describe(into)}")
        if into.dtype != self.params.dtype or into._shapes != self.params._shapes:
            raise ValueError(f"into: expected the layout of params, {self.params!r}; got {into!r}")
        check_tables("into", into, self.params)
        if into.device is not self._device:
            raise ValueError(f"into: expected Gradients on {self._device}, as params are, got some on {into.device}")
        if self._device is HOST and not into.flat.flags.writeable:
            raise ValueError("into: expected writeable memory, got Gradients whose `flat` is read-only")
        return into


class Stateless(Part):
    """A part without a state. Not for use by itself."""

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike,
        *,
        into: Gradients | None = None,
        input_gradient: bool = True,
        num_threads: int | None = None,
    ) -> Grads:
        """The gradients of a loss.

        Parameters
        ----------
        tape : Tape
            From `forward`; it is used up.
        dy : array_like, shape of `y`
            dLoss/dy; of a head with `logits=True` in `forward`, dLoss/dlogits.
        into : Gradients, optional
            Parameter gradients to add to; of an `Embedding` only the rows of ids that occur are touched.
        input_gradient : bool, optional
            Whether to compute `grads.x`.
        num_threads : int, optional
            As in a call.

        Returns
        -------
        Grads
            `x`, of several inputs a tuple, None for ids; `params` (`into`, if given); `state` is None.

        Raises
        ------
        TypeError, ValueError
            The tape is used or of another part, the parameters or the contents of `x` have changed since `forward`, or
            an argument is of a wrong kind or shape; nothing is written, and the tape is as it was.
        """
        with self._device.active():
            kept = recording(tape, self, self.params)
            threads = _checks.threads(num_threads) or 0
            wants_dx = _checks.truth("input_gradient", input_gradient)
            return self._backward(tape, kept, dy, into, wants_dx, threads)

    @abstractmethod
    def _backward(self, tape: Tape, kept: Any, dy: Any, into: Gradients | None, wants_dx: bool, threads: int) -> Grads:
        """The same, of what `forward` has recorded; it checks `dy` and `into`, then spends the tape."""


def from_config(config: Mapping[str, Any], *, rng: Any = None) -> Any:
    """Build a part from what `config()` returned.

    Parameters
    ----------
    config : mapping
        "type" (the class's name) and the constructor's arguments.
    rng : optional
        Seeds the new part's initial values and dropout, `np.random.default_rng(rng)`.

    Returns
    -------
    Part
        A layer, a cell, a head or a model. Equal but for its freshly initialised parameters.

    Raises
    ------
    TypeError, ValueError
        There is no such type, or it does not take these arguments.
    """
    options = dict(_checks.mapping("config", config))
    name = options.pop("type", "")
    if (kind := Part._kinds.get(name)) is None:
        _checks.choice("config['type']", name, Part._kinds.names())
        raise ValueError(f"config['type']: expected a class that is defined here, got {name!r}: import it first")
    return kind._build(options, rng)
