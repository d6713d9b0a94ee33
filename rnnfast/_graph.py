"""How the parts of a model hang together: which part reads what, checked once, when the model is built.

A *value* is what a part reads or gives: the model's input `x`, one of several inputs `x.NAME`, or the output of a part,
under the part's name. `NAME.state` is the final state of a layer, with which another layer can begin. A part may read
values of parts before it only, so the parts in their order are an order of computation.

Each value that is a sequence has a *clock*: the input that its steps come from. Values of one clock have the same steps
and rows, and lengths, resets and masks belong to a clock. A part that reads two clocks at once makes them one. What has
been pooled over time has none.

Rejected: calls that are traced (what one writes would no longer be a list of parts, which has names, an order, a
configuration); names of inputs that are declared by being used (a misspelt part would be a new input, without a word).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import _checks
from .embedding import Embedding
from .heads import Dense
from .layers import Recurrent
from .parts import Concat, Plain, Pool

__all__ = ["Graph", "Node", "kind_of"]

_X = "x"


def kind_of(part: Any) -> str | None:
    """How a model handles a part; None: it can't be in one."""
    if isinstance(part, Recurrent):
        return "layer"
    if isinstance(part, Pool):
        return "pool"
    return "head" if isinstance(part, Dense | Embedding | Plain) else None


class Node(NamedTuple):
    """One part and what it reads.

    Attributes
    ----------
    name : str
    part : Part
    kind : {"layer", "pool", "head"}
    sources : tuple of str
        The values that it reads.
    begins : str or None
        The layer whose final state a layer begins with.
    clock : str or None
        Of the values read; None where they have no steps.
    read : bool
        Whether the output is read by a part or is one of the model's.
    outside : bool
        Whether it reads an input of the model.
    exposed : bool
        Whether it reads something that the caller could write to: an input or an output of the model.
    """

    name: str
    part: Any
    kind: str
    sources: tuple[str, ...]
    begins: str | None
    clock: str | None
    read: bool
    outside: bool
    exposed: bool


class Graph:
    """The wiring of a model.

    Parameters
    ----------
    parts : mapping from str to Part
        Each of a kind that `kind_of` knows.
    inputs : mapping or None
        By the names of parts: a value, or several; by default the part before, and of the first part `x`.
    outputs : str, sequence of str or None
        Parts; by default those that no other part reads.

    Attributes
    ----------
    nodes : list of Node
        In order.
    inputs : tuple of str
        The model's inputs: `x`, or several `x.NAME`.
    outputs : tuple of str
    single : bool
        Whether the model's output is an array, and not a dict of several.
    clocks : dict from str to str
        Of each input.
    sizes : dict from str to int
        The features of each value.
    timeless : set of str
        The parts whose output has no axis for time.
    layers, beginning : dict from str to Recurrent
        All layers, and those that begin with states of their own.
    last_layer : str or None
        The layer that can hand on its last output alone: all that follows depends on it alone, step by step.
    """

    def __init__(self, parts: Mapping[str, Any], inputs: Any, outputs: Any) -> None:
        reads = self._sources(parts, inputs)
        given = dict.fromkeys(value for value in _all(reads) if value.split(".")[0] == _X)
        self.inputs: tuple[str, ...] = tuple(given)
        if not given:
            raise ValueError("inputs: expected a part that reads 'x', got none")
        if _X in given and len(given) > 1:
            raise ValueError(f"inputs: expected 'x' or several 'x.NAME', got {list(given)}")
        self.outputs, self.single = self._outputs(parts, reads, outputs)
        self.sizes: dict[str, int] = {}
        self.clocks: dict[str, str] = {value: value for value in given}
        self.timeless: set[str] = set()
        self.reads = reads
        clocks: dict[str, str | None] = dict(self.clocks)
        for name, part in parts.items():
            sequences, begins = _split(reads[name])
            _check_count(name, part, sequences, reads[name])
            if begins is not None:
                _check_states(name, part, begins, parts[begins])
            found = list(dict.fromkeys(self._clock(clocks[value]) for value in sequences))
            if len(found) > 1:
                if None in found:
                    raise ValueError(f"{name}: expected inputs that all have steps or all have none, got {sequences}")
                self.clocks |= {value: str(found[0]) for value, own in self.clocks.items() if own in found}
            clock = self._clock(found[0])
            if clock is None and kind_of(part) != "head":
                raise ValueError(f"{name}: expected an input with steps, got {sequences[0]}, which is pooled over time")
            clocks[name] = None if kind_of(part) == "pool" else clock
            if clocks[name] is None:
                self.timeless.add(name)
            self._check_sizes(parts, name, part, sequences)
        for name in parts:
            if name not in self.outputs and not any(value in (name, f"{name}.state") for value in _all(reads)):
                raise ValueError(f"{name}: expected a part that another one reads, or among outputs, got neither")
        self.nodes = [self._node(name, part, clocks) for name, part in parts.items()]
        self.layers = {node.name: node.part for node in self.nodes if node.kind == "layer"}
        self.beginning = {node.name: node.part for node in self.nodes if node.kind == "layer" and node.begins is None}
        self.last_layer, self.after_last = self._last_layer()
        self.reads_ids = {value: self._kind_of_input(value) for value in self.inputs}

    def _node(self, name: str, part: Any, clocks: Mapping[str, str | None]) -> Node:
        sequences, begins = _split(self.reads[name])
        return Node(
            name,
            part,
            str(kind_of(part)),
            sequences,
            begins,
            self._clock(clocks[sequences[0]]),
            name in self.outputs or name in _all(self.reads),
            any(value in self.clocks for value in sequences),
            any(value in self.clocks or value in self.outputs for value in sequences),
        )

    @property
    def chain(self) -> bool:
        """Whether each part reads the one before, and nothing else."""
        return self.single and self.wiring() == {} and self.outputs == (self.nodes[-1].name,)

    @property
    def linked(self) -> bool:
        """Whether a layer begins with another's state."""
        return any(node.begins for node in self.nodes)

    def wiring(self) -> dict[str, Any]:
        """The inputs that differ from a chain's, as `inputs` has them."""
        before = _X
        found: dict[str, Any] = {}
        for name, values in self.reads.items():
            if values != (before,):
                found[name] = values[0] if len(values) == 1 else list(values)
            before = name
        return found

    def _clock(self, clock: str | None) -> str | None:
        return None if clock is None else self.clocks[clock]

    @staticmethod
    def _sources(parts: Mapping[str, Any], inputs: Any) -> dict[str, tuple[str, ...]]:
        """What each part reads."""
        told = {} if inputs is None else dict(_checks.mapping("inputs", inputs))
        for name in told:
            if name not in parts:
                raise ValueError(f"inputs: expected names among {list(parts)}, got {name!r}")
        reads: dict[str, tuple[str, ...]] = {}
        before = _X
        for name in parts:
            values = told.get(name, before)
            values = (values,) if isinstance(values, str) else values
            if not isinstance(values, Sequence) or not values or not all(isinstance(value, str) for value in values):
                raise TypeError(
                    f"inputs[{name!r}]: expected the name of a value or several, got {_checks.describe(values)}"
                )
            for value in values:
                head, _, tail = value.partition(".")
                if value == _X or (head == _X and tail.isidentifier()):
                    continue
                known = [*reads, *(f"{one}.state" for one in reads if kind_of(parts[one]) == "layer")]
                if value not in known:
                    later = head in parts and head not in reads
                    hint = " (a part can read only what stands before it)" if later else ""
                    expected = ", ".join(["x", "x.NAME", *known])
                    raise ValueError(f"inputs[{name!r}]: expected one of {expected}; got {value!r}{hint}")
            reads[name] = tuple(values)
            before = name
        return reads

    @staticmethod
    def _outputs(
        parts: Mapping[str, Any], reads: Mapping[str, tuple[str, ...]], outputs: Any
    ) -> tuple[tuple[str, ...], bool]:
        if outputs is None:
            read = {value.removesuffix(".state") for value in _all(reads)}
            leaves = tuple(name for name in parts if name not in read)
            return leaves, len(leaves) == 1
        names = (outputs,) if isinstance(outputs, str) else outputs
        if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"outputs: expected the name of a part or several, got {_checks.describe(outputs)}")
        for name in names:
            if name not in parts:
                raise ValueError(f"outputs: expected names among {list(parts)}, got {name!r}")
        if len(set(names)) != len(names):
            raise ValueError(f"outputs: expected each name once, got {list(names)}")
        return tuple(names), isinstance(outputs, str)

    def _check_sizes(self, parts: Mapping[str, Any], name: str, part: Any, sources: tuple[str, ...]) -> None:
        """Whether a part fits what it reads; notes the features that it gives, and those of a model's input."""
        wanted = getattr(part, "input_size", None)
        for value in sources:
            if value in self.clocks:
                if value not in self.sizes and (found := self._size_of(value, parts)) is not None:
                    self.sizes[value] = found
                if value not in self.sizes:
                    raise ValueError(f"{name}: expected a part that says the size of {value}, got none")
            elif _reads_ids(part):
                what = "an Embedding" if isinstance(part, Embedding) else "a layer with sparse=True"
                raise ValueError(f"{name}: expected an input of the model, since {what} reads ids, got {value}")
            if wanted is not None and self.sizes[value] != wanted:
                what = f"as {value} has" if value in self.clocks else f"the output of {value}"
                others = [one for one, size in self.sizes.items() if size == wanted and one != value]
                hint = f" (inputs={{{name!r}: {others[-1]!r}}} has it read {others[-1]})" if others else ""
                raise ValueError(f"{name}: expected input_size {self.sizes[value]}, {what}, got {wanted}{hint}")
        sizes = [self.sizes[value] for value in sources]
        if isinstance(part, Plain):
            try:
                self.sizes[name] = part.features(sizes)
            except ValueError as error:
                raise ValueError(f"{name}: {error} from {', '.join(sources)}") from error
        else:
            layer = kind_of(part) == "layer"
            self.sizes[name] = part._recurrence.layout.features if layer else part.output_size
        if isinstance(part, Pool) and part.kind == "last" and kind_of(parts.get(sources[0])) == "layer":
            source = parts[sources[0]]
            for option in ("bidirectional", "reverse"):
                if getattr(part, option) != (has := getattr(source, option)):
                    raise ValueError(f"{name}: expected {option}={has}, as {sources[0]} has, got {not has}")

    def _size_of(self, value: str, parts: Mapping[str, Any]) -> int | None:
        """The features of a value, as a part says that reads it, or reads what another part only hands on."""
        for name, values in self.reads.items():
            if value in values:
                size = getattr(parts[name], "input_size", None)
                if size is None and not isinstance(parts[name], Concat):
                    size = self._size_of(name, parts)
                if size is not None:
                    return int(size)
        return None

    def _last_layer(self) -> tuple[str | None, set[str]]:
        layers = [n for n, node in enumerate(self.nodes) if node.kind == "layer"]
        if not layers:
            return None, set()
        after = {node.name for node in self.nodes[layers[-1] :]}
        follow = self.nodes[layers[-1] + 1 :]
        alone = all(node.kind == "head" and after.issuperset(node.sources) for node in follow)
        found = self.nodes[layers[-1]].name if alone and after.issuperset(self.outputs) else None
        return found, after | self.timeless

    def _kind_of_input(self, value: str) -> str:
        readers = [node.part for node in self.nodes if value in node.sources]
        embeds = list(map(_reads_ids, readers))
        if all(embeds):
            return "ids"
        either = all(isinstance(part, Embedding | Recurrent) for part in readers)
        if any(embeds) and not either:
            raise ValueError(f"inputs: expected {value} to be ids or real, but an Embedding and a head read it")
        return "ids" if any(embeds) else "either" if either else "real"


def _reads_ids(part: Any) -> bool:
    """Whether a part reads ids and nothing else."""
    return isinstance(part, Embedding) or (isinstance(part, Recurrent) and part.takes_ids)


def _all(reads: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [value for values in reads.values() for value in values]


def _split(values: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """The values that a part reads step by step, and the layer whose state it begins with."""
    states = [value.removesuffix(".state") for value in values if _is_state(value)]
    return tuple(value for value in values if not _is_state(value)), next(iter(states), None)


def _is_state(value: str) -> bool:
    return value.endswith(".state") and not value.startswith("x.")


def _check_count(name: str, part: Any, sequences: tuple[str, ...], values: tuple[str, ...]) -> None:
    several = isinstance(part, Plain) and part.several
    if len(values) - len(sequences) > (kind_of(part) == "layer"):
        wanted = "the state of one layer" if kind_of(part) == "layer" else "no state, since it is no layer"
        raise ValueError(f"{name}: expected {wanted}, got {list(values)}")
    if not sequences or (len(sequences) > 1 and not several):
        wanted = "one or more values" if several else "one value"
        raise ValueError(
            f"{name}: expected {wanted} to read besides a state, got {list(values)} (Concat joins several)"
        )


def _check_states(name: str, part: Any, source: str, other: Any) -> None:
    """Whether one layer can begin with the other's state."""
    one, two = ([part._recurrence._layers, *part._recurrence.layout.state_widths] for part in (part, other))
    if one != two:
        raise ValueError(
            f"{name}: expected states like those of {source}, with which it begins: {two[0]} layers times directions, "
            f"widths {two[1:]}; got {one[0]} layers, widths {one[1:]}"
        )
