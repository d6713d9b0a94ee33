"""The walk over layers and directions, which layers, cells and streams share: layout, kernels, forward, backward.

Here everything is time-major with all axes: `x[T, B, I]` (or ids `[T, B]`), `y[T, B, D*width]`, states `[L*D, B,
width]`; what the caller's arrays look like is the business of `_recurrence`. Each layer and direction is one call of a
kernel. The two directions write into the two halves of one array, so nothing is ever concatenated; in backward the
second direction's dx goes to scratch and is added to the first's, always in this order.

A cell has up to two kernels: the interpreter, which runs any description, and for some a fused one, which gives the
same bits faster. A call takes the fused one where it needs nothing else (`Walk.interprets`).

Training keeps per layer its input, per direction the kernel's memory, and the dropout between layers. Gradients of the
parameters are made in panels (the kernel's own layout) and unpacked only when the whole backward is done; gradients to
add to are packed first, so that the sums go on where they stopped, and a call that fails has changed nothing.

Rejected: a loop over layers in C++ (it would save microseconds and need dropout, its generator and all of these shapes
there).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from . import _checks
from . import init as initialisation
from ._call import BackwardCall, ForwardCall
from ._checks import Array
from ._device import HOST, Port
from ._part import BACKWARD, INNER, Chosen, Packed, panels_of, store_all
from ._recompute import Stack, segmented
from .description.cell import Cell
from .description.declarations import declared
from .description.program import INPUT, Program
from .parameters import Gradients, Parameters
from .tape import Tape

__all__ = ["Layout", "Outputs", "Recording", "Run", "StreamSpec", "Walk"]

States = tuple[Array, ...]
Some = tuple[Array | None, ...]

DROPOUT = 2**32
"""The number of the dropout between layers among the streams of random numbers, which no state of a cell has."""

_FUSED_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Layout:
    """The names, shapes and widths of L layers of D directions of one cell.

    Parameters
    ----------
    cell : Cell
    input_size, hidden_size, num_layers : int
    bidirectional, reverse, bias : bool
        `reverse`: all layers run backwards in time, and there is no other direction.
    numbered : bool
        Whether parameters have the suffix of their layer, `_l0`; a step of a cell has none.
    sparse : bool
        Whether the input is always ids, and gradients of its matrices are sparse; see `rnnfast.sparse`.

    Attributes
    ----------
    program : Program
    widths : tuple of int
        Of the program's domains.
    state_widths : tuple of int
        Of the states.
    features : int
        Of the output of a layer: both directions of the first state.
    backwards : tuple of bool
        For each direction, whether it runs backwards in time.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        reverse: bool = False,
        bias: bool = True,
        numbered: bool = True,
        sparse: bool = False,
    ) -> None:
        self.cell, self.input_size, self.hidden_size, self.num_layers = cell, input_size, hidden_size, num_layers
        cell.check_sizes(hidden_size)
        self.directions = 2 if bidirectional else 1
        self.backwards = (reverse, True)[: self.directions]
        self.program: Program = cell.program(bias)
        self.widths = (hidden_size, *(cell.widths[name] for name in self.program.domains[1:]))
        self.state_widths = tuple(self.widths[state.domain] for state in self.program.states)
        self.features = self.directions * self.state_widths[0]
        self._numbered, self.sparse = numbered, sparse
        rows = sum(parameter.blocks * self.widths[parameter.domain] for parameter in self.program.parameters)
        _checks.elements(
            self.directions * rows * (input_size + num_layers * (hidden_size + self.features)),
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
        )

    @property
    def suffixes(self) -> list[str]:
        """What follows a parameter's name, for each layer and direction."""
        if not self._numbered:
            return [""]
        ends = ("", "_reverse")[: self.directions]
        return [f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def layer_input(self, k: int) -> int:
        """The input's features of layer and direction k."""
        return self.input_size if k < self.directions else self.features

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters, in order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for k, suffix in enumerate(self.suffixes):
            for one in self.program.parameters:
                rows: tuple[int, ...] = (one.blocks * self.widths[one.domain],)
                if one.columns is not None:
                    columns = self.layer_input(k) if one.columns == INPUT else self.widths[one.columns]
                    rows = (*rows, columns // one.heads)
                shapes[one.name + suffix] = rows
        return shapes

    @property
    def of_ids(self) -> list[str]:
        """The parameters in which each id of an input has a column."""
        names = [one.name for one in self.program.parameters if one.columns == INPUT]
        return [name + suffix for suffix in self.suffixes[: self.directions] for name in names]

    @property
    def tables(self) -> dict[str, int]:
        """Those with sparse gradients, with the axis of the ids."""
        return dict.fromkeys(self.of_ids, 1) if self.sparse else {}

    def initial(self, init: initialisation.Init, rng: np.random.Generator) -> dict[str, Array]:
        """The initial values: the caller's function's, the cell's own, or the scheme's."""
        if not callable(init):
            _checks.choice("init", init, initialisation.SCHEMES)
        shapes, values = self.shapes(), {}
        for suffix in self.suffixes:
            for one in self.program.parameters:
                name = one.name + suffix
                own = None if callable(init) else self.cell.initial(one.name, shapes[name], rng)
                if own is None:
                    blocks = one.blocks * one.heads
                    own = initialisation.value(name, shapes[name], init, rng, n=self.hidden_size, blocks=blocks)
                values[name] = own
        return values

    def forget_bias(self, values: dict[str, Array], bias: float) -> None:
        """Put a total bias into the gate named f."""
        gates = [gate.name for gate in declared(self.cell).gates if gate.x]
        if "f" not in gates or f"bias_ih{self.suffixes[0]}" not in values:
            reason = "a cell without a gate f" if "f" not in gates else "bias=False"
            raise ValueError(f"forget_bias: expected parameters with biases of a gate f, got {reason}")
        start = gates.index("f") * self.hidden_size
        for suffix in self.suffixes:
            for name, value in (("bias_ih", bias), ("bias_hh", 0.0)):
                if name + suffix in values:
                    changed = np.array(values[name + suffix])
                    changed[start : start + self.hidden_size] = value
                    values[name + suffix] = changed

    @cached_property
    def work(self) -> int:
        """The multiply-adds of one row's step."""
        return sum(math.prod(shape) for shape in self.shapes().values() if len(shape) == 2)

    @cached_property
    def random(self) -> bool:
        """Whether a training step has random masks."""
        return any(code.op.startswith("random") for stage in self.program.forward for code in stage.code)


class Run(NamedTuple):
    """The checked arguments of one call, on the part's device."""

    x: Array  # [T, B, I] of the layer's dtype, or ids int64 [T, B]
    batched: bool  # whether the caller's arrays have a batch axis
    state: States | None  # each [L*D, B, width]
    reset_state: States | None = None
    lengths: Array | None = None  # int64 [B]
    resets: Array | None = None  # bool [T, B]
    skip: Array | None = None  # bool [T, B]: where the states pass through
    given: tuple[Array, ...] = ()  # the extra inputs, each [T, B] or [T, B, width]
    seed: int = 0  # of random masks
    first_step: int = 0  # where the call's first step is in their count
    chosen: Array | None = None  # int64 [n], rising: the ids that occur, of which `x` has the places; None: all

    def enter(self, port: Port) -> Run:
        """The same where the part's arrays lie."""
        return self if port.direct else Run(*map(port.enter, self))


class Recording(NamedTuple):
    """What a training forward keeps on its tape."""

    run: Run
    direct: bool  # of the port through which the call came in
    outputs: str  # what `y` was: see `_recurrence`
    packed: list[Packed]
    inputs: list[Array]  # of each layer, [T, B, features] or ids
    memory: list[Array]  # of each layer and direction, the kernel's
    dropout: list[Array]  # between layers, [T, B, features], each 0 or 1 / (1 - p); empty without dropout
    levels: tuple[int, ...] = ()  # of segments that backward computes again: see `_recompute`
    stacked: bool = False  # whether a segment is of all layers, so that nothing of the sequence's length is kept


class Outputs(NamedTuple):
    """What one backward writes, apart from the parameters' gradients; None is not wanted."""

    dx: Array | None  # [T, B, I]
    state: States  # each [L*D, B, width]
    reset_state: States | None
    given: tuple[Array, ...]  # each as the extra input


class StreamSpec(NamedTuple):
    """What a stream, or the steps of a cell, is made of.

    Attributes
    ----------
    kernels, panels, pairs : list
        Of each layer: the kernel, its packed weights, and the same in bfloat16 or None.
    work : float
        Multiply-adds of a row's step.
    cell : str
        The cell's name, for messages.
    states : tuple of (str, int, float)
        Name, width and the number it starts from, of each state.
    given : tuple of (str, int or None)
        Name and width of each extra input; None is a number per row.
    batch_size, num_layers, input_size, hidden_size, num_threads : int
    dtype : numpy.dtype
    weights : str
        How the weights are stored.
    batch_first : bool
    params : Parameters
        What the weights were taken from.
    version : int
        Which of theirs.
    """

    kernels: list[Any]
    panels: list[Array]
    pairs: list[Array | None]
    work: float
    cell: str
    states: tuple[tuple[str, int, float], ...]
    given: tuple[tuple[str, int | None], ...]
    batch_size: int
    num_layers: int
    input_size: int
    hidden_size: int
    num_threads: int
    dtype: np.dtype[Any]
    weights: str
    batch_first: bool
    params: Parameters
    version: int


class Walk:
    """L layers of D directions, with their kernels and packed weights.

    Parameters
    ----------
    layout : Layout
    params : Parameters
        With the layout's shapes.
    precision : str
        Of products on a CUDA device.
    interpreted : bool
        Whether to have the interpreter also where a fused kernel would do.
    """

    def __init__(self, layout: Layout, params: Parameters, precision: str, *, interpreted: bool = False) -> None:
        self.layout, self.device, self.dtype = layout, params.device, params.dtype
        self._params, self._fused = params, None if interpreted else layout.cell.fused
        self._kernel = self.device.kernels(self.dtype, precision)
        self._packed: dict[bool, list[Packed]] = {}
        self._spent = -1, 0  # the version of the parameters, and the columns that were packed of it for calls of ids
        self.packed(self._fused is None)

    def packed(self, interpreted: bool = False) -> list[Packed]:
        """The kernels with their weights, of each layer and direction."""
        interpreted = interpreted or self._fused is None
        found = self._packed.get(interpreted)
        if found is None:
            layout = self.layout
            fused = None if interpreted else self._fused
            names = [one.name for one in layout.program.parameters] if interpreted else _FUSED_PARAMETERS
            found = self._packed[interpreted] = [
                Packed(
                    self._kernel(layout.program, fused, layout.layer_input(k), layout.widths),
                    self._params,
                    tuple([name + suffix for name in names]),
                )
                for k, suffix in enumerate(layout.suffixes)
            ]
        return found

    def packed_for(self, run: Run, wanted: int) -> list[Packed]:
        """Those that a call needs: `wanted` is how many states' sequences it writes, and a fused kernel writes one."""
        interpreted, layout = self._fused is None or run.skip is not None or wanted > 1, self.layout
        packed = self.packed(interpreted)
        if run.chosen is None:
            return packed
        kind, count = None if interpreted else self._fused, len(run.chosen)
        narrow = [
            Chosen(
                self._kernel(layout.program, kind, count, layout.widths),
                self._params,
                one.names,
                layout.of_ids,
                run.chosen,
            )
            for one in packed[: layout.directions]
        ]
        return [*narrow, *packed[layout.directions :]]

    def narrowed(self, run: Run, *, training: bool) -> Run:
        """The call with its ids counted among those that occur, where the weights of these alone are to be packed.

        That changes no bit; a sparse gradient is made by no other call.
        """
        if run.chosen is not None or run.x.ndim == 3 or self.device is not HOST:
            return run
        if not (self._fewer(run.x.size) or (training and self.layout.sparse)):
            return run
        ids = run.x
        if run.lengths is not None:  # beyond, they can be anything
            ids = np.where(np.arange(len(ids))[:, None] < run.lengths, ids, 0)
        chosen, places = np.unique(ids if ids.size else np.zeros(1, np.int64), return_inverse=True)
        return run._replace(x=places[: ids.size].reshape(ids.shape), chosen=chosen)

    def _fewer(self, ids: int) -> bool:
        """Whether to pack the columns of some ids for one call, and not all columns for all calls of this version.

        The first is repeated, with the recurrent weights, in each call; so it is done until all that it has packed of a
        version comes to what the second would have. So neither packs more than twice what was needed, whatever calls
        are still to come.
        """
        version, before = self._spent
        spent = ids + self.layout.hidden_size + (before if version == self._params.version else 0)
        self._spent = self._params.version, spent
        return spent < self.layout.input_size

    def stream(self, batch: int, *, weights: str, num_threads: int = 0, batch_first: bool = False) -> StreamSpec:
        """What a stream of the weights of this moment is made of."""
        layout, packed = self.layout, self.packed()
        version, panels = panels_of(packed)
        states = zip(layout.program.states, layout.state_widths, strict=True)
        given = [(one.name, None if one.domain is None else layout.widths[one.domain]) for one in layout.program.given]
        return StreamSpec(
            [one.kernel for one in packed],
            panels,
            [one.pairs(own) if weights == "bfloat16" else None for one, own in zip(packed, panels, strict=True)],
            layout.work,
            layout.cell.name,
            tuple([(state.name, width, state.initial) for state, width in states]),
            tuple(given),
            batch,
            layout.num_layers,
            layout.input_size,
            layout.hidden_size,
            num_threads,
            self.dtype,
            weights,
            batch_first,
            self._params,
            version,
        )

    # Forward

    def forward(
        self,
        run: Run,
        packed: list[Packed],
        y: Some,
        final: States,
        kept: Recording | None,
        tape: Any,
        source: Any,
        num_threads: int,
    ) -> None:
        """Write the last layer's `y`, of the first states or of none, [T, B, D*width]; and `final`, [L*D, B, width].

        With `kept`, record there and on the tape, and drop out between layers: `source` has `dropout`.
        """
        layout = self.layout
        directions, last = layout.directions, layout.num_layers - 1
        steps, batch = run.x.shape[:2]
        _, weights = panels_of(packed)
        if kept is not None and kept.stacked:
            kernel = self._stack(packed, kept.levels)
            kept.memory.append(tape.buffer("stack", (kernel.tape_size(steps, batch),), self.dtype))
            kernel.forward(
                ForwardCall(
                    weights,
                    run.x,
                    self._parts(y, 0),
                    _flattened(run.state),
                    _flattened(final),
                    _flattened(run.reset_state),
                    run.lengths,
                    run.resets,
                    layout.backwards[0],
                    kept.memory[0],
                    num_threads,
                    run.skip,
                    run.given,
                    run.seed,
                    run.first_step,
                    training=True,
                )
            )
            return
        inputs = run.x
        for layer in range(layout.num_layers):
            if kept is not None:
                if layer and source.dropout:
                    kept.dropout.append(self._drop_out(inputs, tape, layer, run, source.dropout))
                kept.inputs.append(inputs)
            outputs: Some = y
            if layer != last:
                inputs_above = self._between(tape, layer, (steps, batch, layout.features))
                outputs = (inputs_above,)
            for direction in range(directions):
                k = layer * directions + direction
                one, memory = packed[k], None
                kernel = one.kernel
                if kept is not None:
                    kernel = self._segmented(one, kept.levels)
                    memory = tape.buffer(("memory", k), (kernel.tape_size(steps, batch),), self.dtype)
                    kept.memory.append(memory)
                kernel.forward(
                    ForwardCall(
                        weights[k],
                        inputs,
                        self._parts(outputs, direction),
                        _at(run.state, k),
                        _at(final, k),
                        _at(run.reset_state, k),
                        run.lengths,
                        run.resets,
                        layout.backwards[direction],
                        memory,
                        num_threads,
                        run.skip,
                        run.given,
                        run.seed,
                        run.first_step,
                        k,
                        kept is not None,
                    )
                )
            if layer != last:
                inputs = inputs_above

    @property
    def _starts(self) -> list[tuple[int, float]]:
        """Each state's width, and the number that it starts from."""
        starts = [state.initial for state in self.layout.program.states]
        return list(zip(self.layout.state_widths, starts, strict=True))

    def _segmented(self, one: Packed, levels: tuple[int, ...]) -> Any:
        return segmented(one.kernel, levels, self._starts) if levels else one.kernel

    def _stack(self, packed: list[Packed], levels: tuple[int, ...]) -> Any:
        stack = Stack([one.kernel for one in packed], self.layout.features)
        return segmented(stack, levels, self._starts * len(packed))

    def stacks(self, dropout: bool) -> bool:
        """Whether segments are of all layers: not where directions meet between them, or dropout draws there."""
        return self.layout.num_layers > 1 and self.layout.directions == 1 and not dropout

    def tape_bytes(self, run: Run, packed: list[Packed], dropout: bool, levels: tuple[int, ...]) -> int:
        """The most bytes that a tape of this call has, with gradients of all inputs."""
        layout, (steps, batch) = self.layout, run.x.shape[:2]
        above, rows = layout.num_layers - 1, steps * batch
        if levels and self.stacks(dropout):
            size = self._stack(packed, levels).tape_size(steps, batch) + sum(one.kernel.gradient_size for one in packed)
            return int(size) * self.dtype.itemsize
        count = sum(self._segmented(one, levels).tape_size(steps, batch) + one.kernel.gradient_size for one in packed)
        count += rows * layout.features * (above * (1 + dropout) + min(above, 2))
        if layout.directions == 2:
            count += rows * max(layout.input_size if run.x.ndim == 3 else 0, layout.features if above else 0)
        if len(packed) > 1:
            count += sum(one.size for one in run.given)
        return int(count) * self.dtype.itemsize

    def _parts(self, sequences: Some | None, direction: int) -> Some | None:
        """One direction's parts of the last axes, one entry per state."""
        if not sequences:
            return None
        if self.layout.directions == 2:
            sequences = tuple([_half(sequence, direction) for sequence in sequences])
        missing = len(self.layout.state_widths) - len(sequences)
        return (*sequences, *(None,) * missing) if missing else sequences

    def _between(self, tape: Tape | None, layer: int, shape: tuple[int, ...]) -> Array:
        if tape is None:
            return self.device.empty(shape, self.dtype)
        return tape.buffer(("y", layer), shape, self.dtype)

    def _drop_out(self, inputs: Array, tape: Tape, layer: int, run: Run, p: float) -> Array:
        """Multiply a layer's inputs by a mask of 0 and 1 / (1 - p), and return it.

        As the cells' random masks, it is a function of the seed, the layer, the step, the row and the unit.
        """
        mask = tape.buffer(("dropout", layer), inputs.shape, self.dtype)
        self.device.flat.dropout(mask, run.seed, layer, DROPOUT, run.first_step, p)
        inputs *= mask
        return mask

    # Backward

    def backward(
        self,
        tape: Tape,
        kept: Recording,
        dy: Some | None,
        dfinal: Some | None,
        out: Outputs,
        into: Gradients | None,
        gradients: Gradients,
        num_threads: int,
    ) -> None:
        """Write what `out` asks for, and all of `gradients`: the sum with `into`, if that is given."""
        packed = kept.packed
        if into is None and kept.run.chosen is not None:  # new memory, of which only what occurs will be written
            for name in set(self.layout.of_ids) - gradients.sparse.keys():
                gradients[name].fill(0)
        panels = [tape.buffer(("dpanels", k), (one.kernel.gradient_size,), self.dtype) for k, one in enumerate(packed)]
        for one, own in zip(packed, panels, strict=True):
            if into is not None:
                one.load_gradients(into, own)
        lowest = [BACKWARD if out.dx is not None else INNER] * self.layout.directions
        backwards = lowest + [BACKWARD] * (len(packed) - len(lowest))
        weights = tuple(tape.same_version(*panels_of(packed, whats)) for whats in (None, backwards))
        call = _Back(tape, kept, packed, weights, panels, into is not None, dfinal, out, num_threads)
        if kept.stacked:
            self._stack_backward(call, dy)
        for layer in () if kept.stacked else reversed(range(self.layout.num_layers)):
            dx = tape.buffer(("dx", layer % 2), kept.inputs[layer].shape, self.dtype) if layer else out.dx
            self._layer_backward(call, layer, dy, dx)
            dy = (dx,)
        store_all(packed, panels, gradients)

    def _stack_backward(self, call: _Back, dy: Some | None) -> None:
        """Write what is asked for, of all layers, segment by segment."""
        kept, run, out = call.kept, call.kept.run, call.out
        self._stack(call.packed, kept.levels).backward(
            BackwardCall(
                call.weights[0],
                call.weights[1],
                run.x,
                kept.memory[0],
                self._parts(dy, 0),
                _flattened(call.dfinal),
                out.dx,
                _flattened(out.state),
                call.panels,
                _flattened(run.state),
                _flattened(run.reset_state),
                run.lengths,
                run.resets,
                self.layout.backwards[0],
                _flattened(out.reset_state),
                call.num_threads,
                run.skip,
                run.given,
                out.given,
                run.seed,
                run.first_step,
                adds=call.adds,
            )
        )

    def _layer_backward(self, call: _Back, layer: int, dy: Some | None, dx: Array | None) -> None:
        """Write dLoss/dinput of one layer into `dx`, before the dropout that made that input."""
        kept, run, shared = call.kept, call.kept.run, None
        for direction in range(self.layout.directions):
            k = layer * self.layout.directions + direction
            one, dgiven = call.packed[k], call.out.given
            if direction and dx is not None:
                shared = call.tape.buffer("second dx", dx.shape, self.dtype)
            if dgiven and k != len(call.packed) - self.layout.directions:  # not the first; all read the same
                dgiven = tuple([call.tape.buffer(("dgiven", n), d.shape, self.dtype) for n, d in enumerate(dgiven)])
            self._segmented(one, kept.levels).backward(
                BackwardCall(
                    call.weights[0][k],
                    call.weights[1][k],
                    kept.inputs[layer],
                    kept.memory[k],
                    self._parts(dy, direction),
                    _at(call.dfinal, k),
                    shared if direction else dx,
                    _at(call.out.state, k),
                    call.panels[k],
                    _at(run.state, k),
                    _at(run.reset_state, k),
                    run.lengths,
                    run.resets,
                    self.layout.backwards[direction],
                    _at(call.out.reset_state, k),
                    call.num_threads,
                    run.skip,
                    run.given,
                    dgiven,
                    run.seed,
                    run.first_step,
                    k,
                    call.adds,
                )
            )
            if dgiven is not call.out.given:
                for total, d in zip(call.out.given, dgiven, strict=True):
                    total += d
        if dx is not None:
            if shared is not None:
                dx += shared
            if layer and kept.dropout:
                dx *= kept.dropout[layer - 1]


class _Back(NamedTuple):
    """What one backward hands from layer to layer."""

    tape: Tape
    kept: Recording
    packed: list[Packed]
    weights: tuple[list[Array], ...]  # the panels of forward and of backward
    panels: list[Array]  # of the parameters' gradients
    adds: bool  # to what they hold
    dfinal: Some | None
    out: Outputs
    num_threads: int


def _at(states: Some | None, k: int) -> Some | None:
    """The states of one layer and direction."""
    return None if states is None else tuple([None if array is None else array[k] for array in states])


def _flattened(states: Some | None) -> Some | None:
    """All layers' states, one after the other."""
    count = 0 if states is None else max(0 if array is None else len(array) for array in states)
    parts = [_at(states, layer) or () for layer in range(count)]
    return tuple([state for part in parts for state in part]) if count else None


def _half(sequence: Array | None, direction: int) -> Array | None:
    """One direction's half of the last axis."""
    if sequence is None:
        return None
    width = sequence.shape[-1] // 2
    return sequence[..., direction * width : (direction + 1) * width]
