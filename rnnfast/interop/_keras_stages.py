"""What Keras's layers do to the arrays that go through them, with plain parts for what has weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .. import heads, layers
from .._checks import Array
from .._part import Part
from .._words import Pooling
from ..description import Cell
from ..embedding import Embedding
from ..parts import Dropout, LayerNorm, Pool
from ._build import filled
from ._keras_activations import function

__all__ = [
    "MERGES",
    "Dropped",
    "Embedded",
    "Function",
    "Head",
    "Masking",
    "Normal",
    "Pooled",
    "Recurrence",
    "Signal",
    "Stage",
    "Unit",
    "Way",
]

MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "ave": lambda a, b: (a + b) / 2,
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
    "mul": np.multiply,
    "sum": np.add,
}


class Signal(NamedTuple):
    """What goes from stage to stage."""

    outputs: list[Array]  # the first goes on
    mask: Array | None  # bool [B, T]: where it is false, a recurrent layer passes its states through
    states: dict[str, list[Array]]  # final states of the recurrent stages, by name


class Unit(NamedTuple):
    """One Keras cell."""

    kind: str
    cell: Cell
    units: int
    weights: dict[str, Array]
    recurrent_dropout: float

    def stored(self) -> int:
        """How many states it has."""
        return 2 if self.kind == "lstm" else 1


@dataclass
class Way:
    """One direction of a recurrent layer: its cells on top of each other."""

    units: list[Unit]
    backwards: bool
    zero_output: bool  # whether what comes out at masked steps is zero
    parts: list[Any] = field(default_factory=list)

    def run(self, x: Array, mask: Array | None, state: list[Array] | None, last: bool) -> tuple[Array, list[Array]]:
        """Outputs [B, T, H], each at its own step, or the last in the order of the pass [B, H]; and final states."""
        finals: list[Array] = []
        state = list(state) if state is not None else None
        for n, (unit, part) in enumerate(zip(self.units, self.parts, strict=True)):
            own = None if state is None else [state.pop(0)[None] for _ in range(unit.stored())]
            given = None if own is None else own[0] if len(own) == 1 else tuple(own)
            x, final = part(x, given, mask=mask, last_only=last and n == len(self.parts) - 1)
            finals += [one[0] for one in (final if isinstance(final, tuple) else (final,))]
        return self.masked(x, mask, last), finals

    def masked(self, y: Array, mask: Array | None, last: bool) -> Array:
        """Zero what Keras has as zero: before the first step that is not masked; or at all masked steps."""
        if mask is None:
            return y
        seen = mask if self.zero_output else _seen(mask, self.backwards)
        if last:
            seen = seen[:, 0 if self.backwards else -1]
        return np.where(seen[..., None], y, y.dtype.type(0))


def _seen(mask: Array, backwards: bool) -> Array:
    """Where a step that is not masked has been seen, in the order of the pass."""
    ordered = mask[:, ::-1] if backwards else mask
    seen = np.logical_or.accumulate(ordered, axis=1)
    return seen[:, ::-1] if backwards else seen


@dataclass
class Stage:
    """A Keras layer. Most of them only map what goes through them."""

    name: str
    kind: str

    def parts(self, dtype: np.dtype[Any], origin: str) -> Iterator[tuple[str, Part]]:
        """What it is made of, built now."""
        yield from ()

    def plain(self, last: bool) -> str | None:
        """None if its parts in a `Model` do all that it does, else what they don't; `last`: of the recurrent ones."""
        return None

    def arrays(self) -> Iterator[Array]:
        """Its weights."""
        yield from ()

    def __call__(self, signal: Signal, states: Mapping[str, list[Array]]) -> Signal:
        return signal


@dataclass
class Function(Stage):
    apply: Callable[[Array], Array]

    def plain(self, last: bool) -> str | None:
        return "is an activation of its own"

    def __call__(self, signal: Signal, states: Mapping[str, list[Array]]) -> Signal:
        return signal._replace(outputs=[self.apply(signal.outputs[0])])


@dataclass
class Dropped(Stage):
    """Keras's Dropout: nothing in a call, and a part of the `Model` that trains."""

    rate: float

    def parts(self, dtype: np.dtype[Any], origin: str) -> Iterator[tuple[str, Part]]:
        yield self.name, filled(Dropout(self.rate), {}, origin)


@dataclass
class Normal(Stage):
    """LayerNormalization of the last axis."""

    weights: dict[str, Array]
    epsilon: float

    def parts(self, dtype: np.dtype[Any], origin: str) -> Iterator[tuple[str, Part]]:
        part = LayerNorm(len(self.weights["weight"]), eps=self.epsilon, bias="bias" in self.weights, dtype=dtype, rng=0)
        self.part = filled(part, self.weights, origin)
        yield self.name, self.part

    def arrays(self) -> Iterator[Array]:
        yield from self.weights.values()

    def __call__(self, signal: Signal, states: Mapping[str, list[Array]]) -> Signal:
        part: Any = self.part
        return signal._replace(outputs=[part(signal.outputs[0])])


@dataclass
class Pooled(Stage):
    """GlobalAveragePooling1D, or GlobalMaxPooling1D, which does not look at the mask."""

    pooling: Pooling

    def parts(self, dtype: np.dtype[Any], origin: str) -> Iterator[tuple[str, Part]]:
        self.part = filled(Pool(self.pooling, batch_first=True), {}, origin)
        yield self.name, self.part

    def __call__(self, signal: Signal, states: Mapping[str, list[Array]]) -> Signal:
        part: Any = self.part
        mask = signal.mask if self.pooling == "mean" else None
        return signal._replace(outputs=[part(signal.outputs[0], mask=mask)], mask=None)


@dataclass
class Masking(Stage):
    value: float

    def __call__(self, signal: Signal, states: Mapping[str, list[Array]]) -> Signal:
        x = signal.outputs[0]
        mask = (x != x.dtype.type(self.value)).any(axis=-1)
        return signal._replace(outputs=[np.where(mask[..., None], x, x.dtype.type(0))], mask=mask)

    def plain(self, last: bool) -> str | None:
        return "finds the mask in its input; a Model is handed one, as mask="


@dataclass
class Embedded(Stage):
    weight: Array
    mask_zero: bool

    def parts(self, dtype: np.dtype[Any], origin: str) -> Iterator[tuple[str, Part]]:
        self.part = filled(Embedding(*self.weight.shape, dtype=dtype, rng=0), {"weight": self.weight}, origin)
        yield self.name, self.part

    def arrays(self) -> Iterator[Array]:
        yield self.weight

    def plain(self, last: bool) -> str | None:
        return "finds the mask in its ids; a Model is handed one, as mask=" if self.mask_zero else None

    def __call__(self, signal: Signal, states: Mapping[str, list[Array]]) -> Signal:
        ids = signal.outputs[0]
        part: Any = self.part
        whole = ids if ids.dtype.kind in "iu" else ids.astype(np.int64)
        return signal._replace(outputs=[part(whole)], mask=ids != 0 if self.mask_zero else signal.mask)


@dataclass
class Head(Stage):
    weights: dict[str, Array]
    activation: str

    def parts(self, dtype: np.dtype[Any], origin: str) -> Iterator[tuple[str, Part]]:
        outputs, inputs = self.weights["weight"].shape
        own = "identity" if self.activation == "linear" else self.activation
        native = own in heads.ACTIVATIONS
        self.after = None if native else function(self.name, self.activation)
        options: dict[str, Any] = {"activation": own if native else "identity", "bias": "bias" in self.weights}
        self.part = filled(heads.Dense(inputs, outputs, **options, dtype=dtype, rng=0), self.weights, origin)
        yield self.name, self.part

    def arrays(self) -> Iterator[Array]:
        yield from self.weights.values()

    def plain(self, last: bool) -> str | None:
        return None if self.after is None else f"has the activation {self.activation!r}, which a Dense has not"

    def __call__(self, signal: Signal, states: Mapping[str, list[Array]]) -> Signal:
        part: Any = self.part
        y = part(signal.outputs[0])
        return signal._replace(outputs=[y if self.after is None else self.after(y)])


@dataclass
class Recurrence(Stage):
    ways: list[Way]  # one, or two of Bidirectional
    sequences: bool
    states: bool
    stateful: bool
    merge: str | None = None  # of Bidirectional; None hands on both

    @property
    def together(self) -> bool:
        """Whether one bidirectional part does for both ways."""
        if len(self.ways) != 2:
            return False
        first, second = self.ways
        alike = len(first.units) == len(second.units) == 1 and not first.backwards
        one, other = first.units[0], second.units[0]
        same = one.cell == other.cell and one.units == other.units and one.weights.keys() == other.weights.keys()
        return alike and same and one.recurrent_dropout == other.recurrent_dropout

    def arrays(self) -> Iterator[Array]:
        for way in self.ways:
            for unit in way.units:
                yield from unit.weights.values()

    def parts(self, dtype: np.dtype[Any], origin: str) -> Iterator[tuple[str, Part]]:
        if self.together:
            unit, other = (way.units[0] for way in self.ways)
            weights = _suffixed(unit, "_l0") | _suffixed(other, "_l0_reverse")
            self.both = filled(_layer(unit, dtype, bidirectional=True), weights, origin)
            yield self.name, self.both
            return
        for way, side in zip(self.ways, ("", "_backward"), strict=False):
            way.parts = [
                filled(_layer(unit, dtype, reverse=way.backwards), _suffixed(unit, "_l0"), origin) for unit in way.units
            ]
            yield from ((self.name + side, part) for part in way.parts)

    def plain(self, last: bool) -> str | None:
        if len(self.ways) == 2 and not (self.together and self.merge == "concat"):
            return f"merges its directions by {self.merge!r}, or has different ones"
        if self.sequences and any(way.backwards for way in self.ways) and not self.together:
            return "hands its outputs on in the order of the pass, from the last step to the first"
        if not self.sequences and not last:
            return "hands on its last output alone"
        return None

    def __call__(self, signal: Signal, states: Mapping[str, list[Array]]) -> Signal:
        x, mask, last = signal.outputs[0], signal.mask, not self.sequences
        given = states.get(self.name)
        if self.together:
            ys, finals = self._run_both(x, mask, given, last)
        else:
            ys, finals = self._run_ways(x, mask, given, last)
        outputs = ys
        if len(ys) == 2 and self.merge is not None:
            outputs = [MERGES[self.merge](*ys)]
        if self.states:
            outputs = [*outputs, *finals]
        return Signal(outputs, mask if self.sequences else None, signal.states | {self.name: finals})

    def _run_ways(self, x: Array, mask: Array | None, given: Any, last: bool) -> tuple[list[Array], list[Array]]:
        ys, finals = [], []
        for n, way in enumerate(self.ways):
            own = None
            if given is not None:
                count = sum(unit.stored() for unit in way.units)
                own, given = given[:count], given[count:]
            y, final = way.run(x, mask, own, last)
            # Keras hands on the order of the pass, and Bidirectional turns that of its second layer round.
            ys.append(y if last or way.backwards == (n == 1) else y[:, ::-1])
            finals += final
        return ys, finals

    def _run_both(self, x: Array, mask: Array | None, given: Any, last: bool) -> tuple[list[Array], list[Array]]:
        part: Any = self.both
        count = self.ways[0].units[0].stored()
        state = None
        if given is not None:
            state = tuple(np.stack([given[n], given[count + n]]) for n in range(count))
        y, final = part(x, state if state is None or count > 1 else state[0], mask=mask, last_only=last)
        arrays = final if isinstance(final, tuple) else (final,)
        halves = np.split(y, 2, axis=-1)
        ys = [way.masked(half, mask, last) for way, half in zip(self.ways, halves, strict=True)]
        return ys, [one[d] for d in range(2) for one in arrays]


def _layer(unit: Unit, dtype: np.dtype[Any], **options: Any) -> Part:
    """A layer of one cell: of the class that has its name, where that takes all of its options."""
    options |= {"bias": "bias_ih" in unit.weights, "batch_first": True, "dtype": dtype, "rng": 0}
    options["recurrent_dropout"] = unit.recurrent_dropout
    sizes = unit.weights["weight_ih"].shape[1], unit.units
    cell: Any = unit.cell
    if unit.kind == "rnn":
        return layers.RNN(*sizes, nonlinearity=cell.activation, **options)
    if unit.kind == "lstm":
        return layers.LSTM(*sizes, activations=cell.activations, **options)
    return layers.GRU(*sizes, activations=cell.activations, reset_after=cell.reset_after, **options)


def _suffixed(unit: Unit, suffix: str) -> dict[str, Array]:
    return {name + suffix: value for name, value in unit.weights.items()}
