"""What layers and cells share: how one is built, and its calls, from the caller's arrays to what the caller gets.

Each has a `Recurrence`, which checks, takes memory, makes views and sends the walk off. It asks the part itself for
what may change while it lives: its generator and its dropout.

Rejected: a base class of both (a layer's class would then be four levels deep); a layer inside a cell (its checks and
messages speak of sequences).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _checks, _flat
from . import init as initialisation
from ._axes import STEP, Axes, Shapes, state_shapes, y_shapes
from ._cell_config import cell_config
from ._checks import Array
from ._device import Port, choose
from ._recompute import levels as segments
from ._walk import Layout, Outputs, Recording, Run, States, Walk
from .description import Cell, Wrapped
from .parameters import Gradients, Parameters
from .tape import Grads, Tape, begin, recording

__all__ = ["Arguments", "Recurrence", "build", "cell_options", "engine", "pack"]


class Arguments(NamedTuple):
    """A call's arguments as the caller gave them."""

    x: Any
    state: Any = None
    lengths: Any = None
    resets: Any = None
    reset_state: Any = None
    mask: Any = None
    given: Any = None
    out: Any = None
    num_threads: Any = None
    return_states: Any = False
    last_only: Any = False
    seed: Any = None
    first_step: Any = 0
    recompute: Any = None
    memory: Any = None
    ids: Any = None
    place: int = 0
    """Which of a model's parts that draw random numbers it is, so that no two have the same of one seed."""

    def outputs(self) -> str:
        """What y is: "sequence", of the first state; "states", of all of them; "last", without an axis for time."""
        if self.return_states is False and self.last_only is False:
            return "sequence"
        states, last = _checks.truth("return_states", self.return_states), _checks.truth("last_only", self.last_only)
        if states and last:
            raise ValueError("last_only: expected False with return_states, got True: the final state has all of them")
        return "states" if states else "last" if last else "sequence"


class Recurrence:
    """The calls of one part.

    Parameters
    ----------
    layout : Layout
    axes : Axes
        Of the caller's arrays.
    params : Parameters
    precision : str
    interpreted : bool
        See `Walk`.
    """

    def __init__(
        self, layout: Layout, axes: Axes, params: Parameters, precision: str, *, interpreted: bool = False
    ) -> None:
        self.layout, self.axes = layout, axes
        self.device, self.dtype, self._params = params.device, params.dtype, params
        self.walk = Walk(layout, params, precision, interpreted=interpreted)
        self._states, self._extra = layout.program.states, layout.program.given
        domains = ("H", *layout.program.domains[1:])
        self._state_letters = [axes.state_letters(domains[state.domain]) for state in self._states]
        self._widths = tuple([layout.directions * width for width in layout.state_widths])
        self._features = {"sequence": self._widths[0], "states": max(self._widths), "last": 1}
        """The most features of a step that a call writes or, of ids, reads."""
        self._letters, self._rank, self._layers = axes.letters(), axes.rank, layout.num_layers * layout.directions

    # Checks of the caller's arrays

    def check_x(self, checks: Any, x: Any, ids: Any = None) -> tuple[Array, bool]:
        """The time-major view of `x`, not yet converted (with two axes it is ids), and whether it has a batch axis."""
        array = checks.numbers("x", x)
        rank, size = self._rank, self.layout.input_size
        if self.layout.sparse:
            if ids is not None and not _checks.truth("ids", ids):
                raise ValueError("ids: expected True for a layer with sparse=True, got False")
            ids = True
        ids = _checks.means_ids("x", array, rank, size, ids)
        batched = array.ndim + ids == rank
        if not batched and array.ndim + ids != rank - 1:
            expected = f"{self._letters}, or integer ids without the I axis"
            raise ValueError(f"x: expected {expected}; got {_checks.describe(array)}")
        if not ids and array.shape[-1] != size:
            raise ValueError(f"x: expected {self._letters} with I={size}, got {_checks.describe(array)}")
        return self.axes.view(array, batched), batched

    def convert_x(self, checks: Any, array: Array, lengths: Array | None = None) -> Array:
        """The view `array` of x as the kernels take it."""
        converted: Array = (
            checks.ids("x", array, self.layout.input_size, lengths)
            if array.ndim == 2
            else checks.real("x", array, self.dtype)
        )
        return converted

    def _parts(self, name: str, value: Any, what: str = "") -> tuple[tuple[str, Any], ...]:
        """The arrays of a caller's state, each with its name for messages."""
        if len(self._states) == 1:
            return ((name, value),)
        if not isinstance(value, tuple | list) or len(value) != len(self._states):
            names = ", ".join(state.name for state in self._states)
            raise TypeError(f"{name}: expected a tuple ({names}){what}, got {_checks.describe(value)}")
        return tuple([(f"{name}[{n}]", array) for n, array in enumerate(value)])

    def _state_shapes(self, batch: int, batched: bool) -> Shapes:
        return state_shapes(self.axes, self._layers, batch, self.layout.state_widths, batched)

    def check_states(
        self,
        checks: Any,
        name: str,
        value: Any,
        batch: int,
        batched: bool,
        *,
        some: bool = False,
        copy: bool = False,
    ) -> tuple[Any, ...] | None:
        """The views [L*D, B, width] of a caller's state; with `some`, each of several may be None."""
        if value is None:
            return None
        views: list[Array | None] = []
        parts, shapes = self._parts(name, value), self._state_shapes(batch, batched)
        for letters, (part, array), shape in zip(self._state_letters, parts, shapes, strict=True):
            if array is None and some and len(parts) > 1:
                views.append(None)
                continue
            checked = checks.real_of_shape(part, array, self.dtype, shape, letters, contiguous=True, copy=copy)
            views.append(self.axes.state_view(checked, batched))
        return tuple(views)

    def bring_state(self, port: Port, name: str, value: Any) -> Any:
        """A caller's state where the parameters lie, not yet checked for more than being numbers."""
        if len(self._states) == 1:
            return port.bring(name, value)
        if isinstance(value, tuple | list) and len(value) == len(self._states):
            return tuple(port.bring(part, array) for part, array in self._parts(name, value))
        return value

    def _flags(self, checks: Any, name: str, value: Any, steps: int, batch: int, batched: bool) -> Array:
        """The time-major view of a caller's booleans."""
        shape = self.axes.shape(steps, batch, batched=batched)
        return self.axes.view(checks.flags(name, value, shape, self.axes.letters("")), batched)

    def _given(
        self, checks: Any, given: Any, steps: int, batch: int, batched: bool, *, copy: bool
    ) -> tuple[Array, ...]:
        """The time-major views of the extra inputs."""
        known, views = self._extra, []
        values = _checks.by_name("given", given, [one.name for one in known], self.layout.cell.name)
        for one, value in zip(known, values, strict=True):
            domain = one.domain
            widths = () if domain is None else (self.layout.widths[domain],)
            letters = self.axes.letters("" if domain is None else f", {self.layout.program.domains[domain]}")
            shape = self.axes.shape(steps, batch, *widths, batched=batched)
            name = f"given[{one.name!r}]"
            checked = checks.real_of_shape(name, value, self.dtype, shape, letters, contiguous=True, copy=copy)
            views.append(self.axes.view(checked, batched))
        return tuple(views)

    def check(self, port: Port, call: Arguments, source: Any, *, training: bool) -> Run:
        """The checked arguments, as they came."""
        sequence, batched = self.check_x(port.checks, call.x, call.ids)
        return self._check(port, call, sequence, batched, source, training)

    def check_all_but_x(self, port: Port, call: Arguments, sequence: Array, batched: bool) -> Run:
        """Refuse what `check` would refuse for an input of this shape, which is not looked at."""
        return self._check(port, call, sequence, batched, None, training=False)

    def _check(self, port: Port, call: Arguments, sequence: Array, batched: bool, source: Any, training: bool) -> Run:
        checks, (steps, batch) = port.checks, sequence.shape[:2]
        lengths = skip = resets = state = reset_state = None
        given: tuple[Array, ...] = ()
        seed = first = 0
        if call.lengths is not None:
            lengths = checks.lengths(call.lengths, steps, batch, batched=batched)
        if call.mask is not None:
            skip = (~self._flags(checks, "mask", call.mask, steps, batch, batched)).copy(order="C")
            if checks is _checks and not skip.any():  # a fused kernel will do
                skip = None
            elif source is not None and sequence.ndim == 2:  # ids there are not to be read
                sequence = (self.device.xp if port.direct else np).where(skip, 0, sequence)
        features = self._features[call.outputs()]
        if sequence.ndim == 3 and sequence.shape[2] > features:
            features = sequence.shape[2]
        _checks.elements(steps * batch * features, T=steps, B=batch, features=features)  # before a copy is made
        if source is not None:
            sequence = self.convert_x(checks, sequence, lengths)
        if call.state is not None:
            state = self.check_states(checks, "state", call.state, batch, batched, copy=training)
        if call.reset_state is not None:
            reset_state = self.check_states(checks, "reset_state", call.reset_state, batch, batched, copy=training)
        if call.resets is not None:
            resets = self._flags(checks, "resets", call.resets, steps, batch, batched).copy(order="C")
        if call.given is not None or self._extra:
            given = self._given(checks, call.given, steps, batch, batched, copy=training)
        if call.seed is not None:
            seed = _checks.integer("seed", call.seed, 0, 2**63 - 1)
        if type(call.first_step) is not int or call.first_step:
            first = _checks.integer("first_step", call.first_step, 0, 2**62)
        return Run(sequence, batched, state, reset_state, lengths, resets, skip, given, seed, first)

    def _check_out(self, checks: Any, out: Any, shapes: Shapes, run: Run, what: str) -> tuple[Any, ...]:
        """The caller's arrays to write to, one for each shape."""
        inputs = [("x", run.x)]
        for name, states in (("state", run.state), ("reset_state", run.reset_state)):
            inputs += [(name, array) for array in states or ()]
        inputs += [(f"given[{one.name!r}]", array) for one, array in zip(self._extra, run.given, strict=True)]
        parts = self._parts("out", out, what) if len(shapes) > 1 else (("out", out),)
        for (name, array), shape in zip(parts, shapes, strict=True):
            inputs.append((name, checks.output(name, array, shape, self.dtype, inputs)))
        return tuple(out) if len(shapes) > 1 else (out,)  # a tuple of the caller's is returned as it is

    # Memory

    def _structure(self, arrays: tuple[Any, ...]) -> Any:
        """A state as the caller knows it: an array, or the tuple of several."""
        return arrays if len(arrays) > 1 else arrays[0]

    def _new_states(self, batch: int, batched: bool) -> tuple[States, States]:
        """Memory for states as the caller gets them, and the views of it."""
        arrays = tuple([self.device.result(shape, self.dtype) for shape in self._state_shapes(batch, batched)])
        return arrays, self.axes.state_views(arrays, batched)

    def _shapes_of_y(self, outputs: str, run: Run) -> Shapes:
        return y_shapes(self.axes, outputs, *run.x.shape[:2], self._widths, run.batched)

    def _last_layer(self, states: Array, y: Array, batched: bool) -> tuple[Array, Array]:
        """Of states [L*D, B, width] the last layer's [D, B, width]; of y without time the same."""
        directions, width = self.layout.directions, self.layout.state_widths[0]
        rows = STEP.view(y, batched)[0]
        return states[-directions:], rows.reshape(len(rows), directions, width).swapaxes(0, 1)

    # Calls

    def evaluate(
        self, source: Any, call: Arguments, *, training: bool, old: Tape | None = None
    ) -> tuple[Any, Any, Tape | None]:
        """A layer's call: check everything, then allocate, then run. Returns y, the final state and the tape."""
        with self.device.active():
            port = self.device.port(call.x)
            run = self.walk.narrowed(self.check(port, call, source, training=training), training=training)
            threads, outputs = _checks.threads(call.num_threads), call.outputs()
            batch = run.x.shape[1]
            shapes = self._shapes_of_y(outputs, run)
            out = None if call.out is None else self._check_out(port.checks, call.out, shapes, run, " of arrays")
            levels = self.levels(source, call, run, len(shapes)) if training else ()
            y = out if out is not None and port.direct else [self.device.result(shape, self.dtype) for shape in shapes]
            recorder = begin(old, source, self._params) if training else None
            run = self._seeded(call, run, source) if training else run
            final, views = self._new_states(batch, run.batched)
            inside = () if outputs == "last" else tuple([self.axes.view(one, run.batched) for one in y])
            self._run(source, run.enter(port), port.direct, outputs, inside, views, recorder, threads or 0, levels)
            if outputs == "last":
                last, target = self._last_layer(views[0], y[0], run.batched)
                target[...] = last
            result = port.leave(tuple(y), out)
            return result if outputs == "states" else result[0], port.leave(self._structure(final)), recorder

    def step(self, source: Any, call: Arguments, *, training: bool, old: Tape | None = None) -> tuple[Any, Tape | None]:
        """A cell's call: `out` is the new state, which is returned, and the tape."""
        with self.device.active():
            port = self.device.port(call.x)
            run = self.walk.narrowed(self.check(port, call, source, training=training), training=training)
            batch = run.x.shape[1]
            shapes = self._state_shapes(batch, run.batched)
            out = None if call.out is None else self._check_out(port.checks, call.out, shapes, run, " of arrays")
            if out is not None and port.direct:
                final, views = out, self.axes.state_views(out, run.batched)
            else:
                final, views = self._new_states(batch, run.batched)
            recorder = begin(old, source, self._params) if training else None
            run = self._seeded(call, run, source) if training else run
            y = self.device.result((1, batch, self.layout.features), self.dtype)
            self._run(source, run.enter(port), port.direct, "step", (y,), views, recorder, 0)
            return self._structure(port.leave(final, out)), recorder

    def _seeded(self, call: Arguments, run: Run, source: Any) -> Run:
        """The arguments of a forward that nothing refuses any more, with a seed if it needs one and was given none."""
        drops = source.dropout and self.layout.num_layers > 1
        if call.seed is None and not (drops or self.layout.random):
            return run
        seed = run.seed if call.seed is not None else int(source.rng.integers(2**63))
        return run._replace(seed=_flat.seed_of(seed, call.place))

    def levels(self, source: Any, call: Arguments, run: Run, wanted: int = 1) -> tuple[int, ...]:
        """The checked segments that backward is to compute again; `wanted` is how many states' sequences y has."""
        if call.recompute is None and call.memory is None:
            return ()
        run, dropout = self.walk.narrowed(run, training=True), bool(source.dropout)
        packed = self.walk.packed_for(run, wanted)
        steps, batch = run.x.shape[:2]
        return segments(
            call.recompute,
            call.memory,
            steps,
            batch,
            lambda chosen: self.walk.tape_bytes(run, packed, dropout, chosen),
        )

    def _run(
        self,
        source: Any,
        run: Run,
        direct: bool,
        outputs: str,
        y: tuple[Array, ...],
        final: States,
        recorder: Tape | None,
        threads: int,
        levels: tuple[int, ...] = (),
    ) -> None:
        """The walk, recorded or not."""
        kept, packed = None, self.walk.packed_for(run, len(y))
        if recorder is not None:
            stacked = bool(levels) and self.walk.stacks(bool(source.dropout))
            kept = Recording(run, direct, outputs, packed, [], [], [], levels, stacked)
        self.walk.forward(run, packed, y, final, kept, recorder, source, threads)
        if recorder is not None:
            recorder.finish(run.x, kept)

    def backward(
        self,
        source: Any,
        tape: Any,
        dy: Any,
        dstate: Any,
        into: Gradients | None,
        input_gradient: Any,
        num_threads: Any,
    ) -> Grads:
        """All of backward, from the caller's arguments to what the caller gets."""
        with self.device.active():
            kept: Recording = recording(tape, source, self._params)
            run, port, (steps, batch) = kept.run, self.device.ports[kept.direct], kept.run.x.shape[:2]
            batched, axes = run.batched, self.axes
            threads = _checks.threads(num_threads)
            wants_dx = _checks.truth("input_gradient", input_gradient) and run.x.ndim == 3
            dfinal = port.enter(self.check_states(port.checks, "dstate", dstate, batch, batched, some=True))
            sequences = self._check_dy(port, dy, kept)
            gradients = source._gradients(into)
            new = self.device.result
            dx = (
                new(axes.shape(steps, batch, self.layout.input_size, batched=batched), self.dtype) if wants_dx else None
            )
            initial, initial_views = self._new_states(batch, batched)
            reset, reset_views = (None, None) if run.reset_state is None else self._new_states(batch, batched)
            for array in (reset or ()) if into is not None else ():
                array.fill(0)  # the kernels add to it, as they add to `into`
            dgiven: tuple[Array, ...] = ()
            if run.given:
                dgiven = tuple([new(axes.shape(*one.shape, batched=batched), self.dtype) for one in run.given])

            tape.spend()
            if kept.outputs == "last" and sequences is not None:
                dfinal = self._with_last(dfinal, sequences[0], batch, batched)
                sequences = None
            out = Outputs(
                None if dx is None else axes.view(dx, batched),
                initial_views,
                reset_views,
                tuple([axes.view(one, batched) for one in dgiven]) if dgiven else (),
            )
            self.walk.backward(tape, kept, sequences, dfinal, out, into, gradients, threads or 0)
            of_given = None
            if dgiven:
                of_given = port.leave(dict(zip([one.name for one in self._extra], dgiven, strict=True)))
            return Grads(
                port.leave(dx),
                port.leave(self._structure(initial)),
                gradients,
                None if reset is None else port.leave(self._structure(reset)),
                of_given,
            )

    def stream(self, batch: int, weights: Any, threads: int | None) -> Any:
        """The part as a stream."""
        hidden = self.layout.hidden_size
        _checks.elements(batch * (self.layout.input_size + 8 * hidden), batch_size=batch, hidden_size=hidden)
        with self.device.active():
            return self.device.stream(self, batch, weights, threads or 0)

    def _check_dy(self, port: Port, dy: Any, kept: Recording) -> tuple[Array | None, ...] | None:
        """The time-major views of dLoss/dy, one for each sequence that y had; of y without time, as it is."""
        if dy is None:
            return None
        shapes = self._shapes_of_y(kept.outputs, kept.run)
        if kept.outputs == "sequence":
            checked = port.checks.real_of_shape("dy", dy, self.dtype, shapes[0])
            return (port.enter(self.axes.view(checked, kept.run.batched)),)
        parts: tuple[tuple[str, Any], ...] = (("dy", dy),)
        if kept.outputs == "states":
            if not isinstance(dy, tuple | list) or len(dy) != len(shapes):
                expected = f"a tuple of {len(shapes)}, as y is with return_states"
                raise TypeError(f"dy: expected {expected}, got {_checks.describe(dy)}")
            parts = tuple([(f"dy[{n}]", one) for n, one in enumerate(dy)])
        views: list[Array | None] = []
        for (name, one), shape in zip(parts, shapes, strict=True):
            checked = None if one is None else port.checks.real_of_shape(name, one, self.dtype, shape)
            if checked is not None and kept.outputs != "last":
                checked = self.axes.view(checked, kept.run.batched)
            views.append(port.enter(checked))
        return tuple(views)

    def _with_last(self, dfinal: Any, dy: Any, batch: int, batched: bool) -> tuple[Any, ...]:
        """The final states' gradients, with that of y without time in it: y is the last layer's first state."""
        count = self.layout.num_layers * self.layout.directions
        first = self.device.zeros((count, batch, self.layout.state_widths[0]), self.dtype)
        rest = (None,) * (len(self._states) - 1) if dfinal is None else dfinal[1:]
        if dfinal is not None and dfinal[0] is not None:
            first += dfinal[0]
        target, added = self._last_layer(first, dy, batched)
        target += added
        return (first, *rest)


def build(
    part: Any,
    cell: Any,
    input_size: Any,
    hidden_size: Any,
    bias: Any,
    wrappers: tuple[Any, Any],
    forget_bias: Any,
    dtype: Any,
    rng: Any,
    init: initialisation.Init,
    device: Any,
    precision: Any,
) -> None:
    """Check what layers and cells are told alike, set their attributes, and make their parameters.

    `wrappers` are zoneout and recurrent dropout. The part has `_layout`, which says what its parameters are.
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: expected a Cell, got {_checks.describe(cell)}")
    part.input_size = _checks.size("input_size", input_size)
    part.hidden_size = _checks.size("hidden_size", hidden_size)
    part.bias = _checks.truth("bias", bias)
    part.dtype = _checks.float_dtype("dtype", dtype)
    place, part.precision = choose(device, precision, part.dtype)
    part.device = place.name
    part.rng = _checks.generator("rng", rng)
    part.init = initialisation.scheme_of(init)
    part.forget_bias = None if forget_bias is None else _checks.number("forget_bias", forget_bias)
    part.zoneout, part.recurrent_dropout = wrappers
    wrapped = Wrapped(cell, zoneout=part.zoneout, recurrent_dropout=part.recurrent_dropout)
    part.cell = wrapped if wrapped.zoneout or wrapped.recurrent_dropout else cell
    layout: Layout = part._layout()
    values = layout.initial(init, part.rng)
    if part.forget_bias is not None:
        layout.forget_bias(values, part.forget_bias)
    part.params = Parameters(layout.shapes(), part.dtype, device=place, tables=layout.tables)
    part.params.load(values)
    part._pack()


def pack(part: Any, axes: Axes) -> None:
    """A part's `_pack`."""
    part._device = part.params.device
    part._recurrence = Recurrence(
        part._layout(), axes, part.params, part.precision, interpreted=part._engine == "interpreted"
    )


def _set_engine(part: Any, name: str) -> None:
    vars(part)["_chosen_engine"] = _checks.choice("_engine", name, ("fused", "interpreted"))
    part._pack()


engine = property(lambda part: vars(part).get("_chosen_engine", "fused"), _set_engine)
"""A part's `_engine`: "interpreted" keeps it from its cell's hand-fused kernel. For tests and benchmarks."""


def cell_options(part: Any) -> dict[str, Any]:
    """What a configuration says of the cell: options of a named class that are not the default, or all of the cell."""
    wrapped = any((part.zoneout, part.recurrent_dropout))
    options: dict[str, Any] = {}
    if hasattr(part, "_cell_options"):
        options = {name: getattr(part, name) for name in part._cell_options}
    else:
        options = {"cell": cell_config(part.cell.cell if wrapped else part.cell)}
    defaults = getattr(part, "_cell_options", {}) | {"zoneout": 0.0, "recurrent_dropout": 0.0, "forget_bias": None}
    options |= {name: getattr(part, name) for name in ("zoneout", "recurrent_dropout", "forget_bias")}
    return {name: value for name, value in options.items() if name not in defaults or value != defaults[name]}
