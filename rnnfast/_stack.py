"""The recurrent parts' common body: parameters, kernels, and the walk over layers and directions.

Here everything is time-major with all axes: `x[T, B, I]` (or ids `[T, B]`), `y[T, B, D*H]`, states `[L*D, B, H]`. What
the caller's arrays look like is the business of `layers` and `cells`, which hand in views. Each layer and direction is
one call of the binding. The two directions write into the two halves of one array, so nothing is ever concatenated; in
backward the second direction's dx goes to scratch and is added to the first's, always in this order.

Training keeps per layer its input, per direction the kernel's memory, and the dropout between layers. Gradients of the
parameters are made in panels (the kernel's own layout) and unpacked only when the whole backward is done; gradients to
add to are packed first, so that the sums go on where they stopped, and a call that fails has changed nothing.

Rejected: a loop over layers in C++ (it would save microseconds and need dropout, its generator and all of these shapes
there); transposing batch-first arrays (the kernels take strides).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from numpy.typing import DTypeLike

from . import _checks, _core
from . import init as initialisation
from ._call import BackwardCall, ForwardCall
from ._checks import Array
from ._device import Port, choose
from ._part import Packed, Part
from .parameters import Gradients, Parameters
from .tape import Grads, Tape, recording

_WEIGHTS, _BIASES = ("weight_ih", "weight_hh"), ("bias_ih", "bias_hh")

States = tuple[Array, ...]


class Run(NamedTuple):
    """The checked arguments of one call, on the part's device."""

    x: Array  # [T, B, I] of the layer's dtype, or ids int64 [T, B]
    batched: bool  # whether the caller's arrays have a batch axis
    state: States | None  # h, or h and c, each [L*D, B, H]
    reset_state: States | None = None
    lengths: Array | None = None  # int64 [B]
    resets: Array | None = None  # bool [T, B]

    def enter(self, port: Port) -> Run:
        """The same where the part's arrays lie."""
        return self if port.direct else Run(*map(port.enter, self))


class Recording(NamedTuple):
    """What a training forward keeps on its tape."""

    run: Run
    direct: bool  # of the port through which the call came in
    inputs: list[Array]  # of each layer, [T, B, features] or ids
    memory: list[Array]  # of each layer and direction, the kernel's
    dropout: list[Array]  # between layers, [T, B, D*H], each 0 or 1 / (1 - p); empty without dropout


class _Stack(Part):
    """L layers of D directions of one kind of cell. Not for use by itself."""

    _rank: ClassVar[int]
    """The axes of a batch of real inputs."""
    _state_axes: ClassVar[str]
    """Those of a batch of states, for messages."""

    input_size: int
    hidden_size: int
    bias: bool
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0

    def __init__(
        self,
        kind: str,
        input_size: int,
        hidden_size: int,
        suffixes: Iterable[str],
        *,
        bias: bool,
        dtype: DTypeLike,
        rng: Any,
        init: initialisation.Init,
        device: str,
        precision: str,
        forget_bias: float | None = None,
    ) -> None:
        self._kind = kind
        self._gates, states = _core.CELLS[kind]
        self._has_c = states > 1
        self.input_size = _checks.size("input_size", input_size)
        self.hidden_size = _checks.size("hidden_size", hidden_size)
        self.bias = _checks.truth("bias", bias)
        self.dtype = _checks.float_dtype("dtype", dtype)
        place, self.precision = choose(device, precision, self.dtype)
        self.device = place.name
        self.rng = _checks.generator("rng", rng)
        self.init = init if isinstance(init, str) else None
        self.forget_bias = None if forget_bias is None else _checks.number("forget_bias", forget_bias)
        self._check_size()
        self._suffixes = tuple(suffixes)

        shapes = self._shapes()
        values = initialisation.initial(shapes, init, self.rng, n=self.hidden_size, gates=self._gates)
        if self.forget_bias is not None:
            values |= initialisation.forget_bias(values, self.forget_bias)
        self.params = Parameters(shapes, self.dtype, device=place)
        self.params.load(values)
        self._pack()

    # Sizes and kernels

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _features(self) -> int:
        return self._directions * self.hidden_size

    def _input_size(self, k: int) -> int:
        return self.input_size if k < self._directions else self._features

    def _check_size(self) -> None:
        rows = self._directions * self._gates * self.hidden_size
        columns = self.input_size + (self.num_layers - 1) * self._features + self.num_layers * (self.hidden_size + 2)
        sizes = {"input_size": self.input_size, "hidden_size": self.hidden_size, "num_layers": self.num_layers}
        _checks.elements(rows * columns, **sizes)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        rows = self._gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for k, suffix in enumerate(self._suffixes):
            for name, columns in zip(_WEIGHTS, (self._input_size(k), self.hidden_size), strict=True):
                shapes[name + suffix] = (rows, columns)
            for name in _BIASES if self.bias else ():
                shapes[name + suffix] = (rows,)
        return shapes

    def _pack(self) -> None:
        self._device = self.params.device
        self._packed = [
            Packed(
                self._device.kernel(self._kind, self._input_size(k), self.hidden_size, self.dtype, self.precision),
                self.params,
                tuple(name + suffix for name in _WEIGHTS + _BIASES),
            )
            for k, suffix in enumerate(self._suffixes)
        ]

    # The caller's arrays

    @property
    @abstractmethod
    def _axes(self) -> str:
        """The axes of a caller's input, for messages."""

    @abstractmethod
    def _sequence_shape(self, steps: int, batch: int, features: int, batched: bool) -> tuple[int, ...]:
        """The shape of a caller's sequence."""

    @abstractmethod
    def _sequence_view(self, array: Array, batched: bool) -> Array:
        """The time-major view of a caller's sequence."""

    @abstractmethod
    def _state_shape(self, batch: int, batched: bool) -> tuple[int, ...]:
        """The shape of a caller's state."""

    @abstractmethod
    def _state_view(self, array: Array, batched: bool) -> Array:
        """The view [L*D, B, H] of a caller's state."""

    def _state_names(self, name: str) -> tuple[str, ...]:
        return (f"{name}[0]", f"{name}[1]") if self._has_c else (name,)

    def _check_x(self, checks: Any, x: Any) -> tuple[Array, bool]:
        """The time-major view of `x`, not yet converted (with two axes it is ids), and whether it has a batch axis."""
        array = checks.numbers("x", x)
        ids = array.dtype.kind in "iu" and array.ndim < self._rank
        batched = array.ndim + ids == self._rank
        if not batched and array.ndim + ids != self._rank - 1:
            expected = f"{self._axes}, or integer ids without the I axis"
            raise ValueError(f"x: expected {expected}; got {_checks.describe(array)}")
        if not ids and array.shape[-1] != self.input_size:
            raise ValueError(f"x: expected {self._axes} with I={self.input_size}, got {_checks.describe(array)}")
        return self._sequence_view(array, batched), batched

    def _convert_x(self, checks: Any, array: Array, lengths: Array | None = None) -> Array:
        converted: Array
        if array.ndim == 2:
            converted = checks.ids("x", array, self.input_size, lengths)
        else:
            converted = checks.real("x", array, self.dtype)
        return converted

    def _check_states(
        self,
        checks: Any,
        name: str,
        value: Any,
        batch: int,
        batched: bool,
        *,
        halves: bool = False,
        copy: bool = False,
    ) -> tuple[Any, ...] | None:
        """The views [L*D, B, H] of a caller's state; with `halves`, each of an LSTM's may be None."""
        if value is None:
            return None
        names = self._state_names(name)
        if len(names) == 1:
            value = (value,)
        elif not isinstance(value, tuple | list) or len(value) != len(names):
            raise TypeError(f"{name}: expected a tuple (h, c), got {_checks.describe(value)}")
        shape = self._state_shape(batch, batched)

        def check(part: str, array: Any) -> Array | None:
            if array is None and halves:
                return None
            checked = checks.real_of_shape(part, array, self.dtype, shape, self._state_axes, contiguous=True, copy=copy)
            return self._state_view(checked, batched)

        return tuple(check(part, array) for part, array in zip(names, value, strict=True))

    def _bring_state(self, port: Port, name: str, value: Any) -> Any:
        """A caller's state where the parameters lie, not yet checked for more than being numbers."""
        if isinstance(value, tuple | list) and self._has_c and len(value) == 2:
            return tuple(port.bring(part, array) for part, array in zip(self._state_names(name), value, strict=True))
        return value if self._has_c else port.bring(name, value)

    def _new_sequence(self, steps: int, batch: int, features: int, batched: bool) -> Array:
        _checks.elements(steps * batch * features, T=steps, B=batch, features=features)
        return self._device.result(self._sequence_shape(steps, batch, features, batched), self.dtype)

    def _new_states(self, batch: int, batched: bool) -> States:
        shape = self._state_shape(batch, batched)
        new = self._device.result
        return (new(shape, self.dtype), new(shape, self.dtype)) if self._has_c else (new(shape, self.dtype),)

    def _state_views(self, states: States, batched: bool) -> States:
        return tuple([self._state_view(array, batched) for array in states])

    # Forward

    def _forward(self, run: Run, port: Port, y: Array, final: States, recorder: Tape | None, num_threads: int) -> None:
        """Write `y` [T, B, D*H] and the `final` states [L*D, B, H]; with a tape, record and drop out between layers."""
        steps, batch = run.x.shape[:2]
        directions = self._directions
        shape = steps, batch, directions * self.hidden_size
        kept = Recording(run, port.direct, [], [], [])
        inputs = run.x
        for layer in range(self.num_layers):
            if recorder is not None:
                if layer and self.dropout:
                    kept.dropout.append(self._drop_out(inputs, recorder, layer))
                kept.inputs.append(inputs)
            last = layer == self.num_layers - 1
            outputs = y if last else self._buffer(recorder, ("y", layer), shape)
            for direction in range(directions):
                k = layer * directions + direction
                packed, memory = self._packed[k], None
                if recorder is not None:
                    memory = recorder.buffer(("memory", k), (packed.kernel.tape_size(steps, batch),), self.dtype)
                    kept.memory.append(memory)
                packed.kernel.forward(
                    ForwardCall(
                        packed.panels(),
                        inputs,
                        self._half(outputs, direction),
                        _of(run.state, k),
                        _of(final, k),
                        _of(run.reset_state, k),
                        run.lengths,
                        run.resets,
                        direction == 1,
                        memory,
                        num_threads,
                    )
                )
            inputs = outputs
        if recorder is not None:
            recorder.finish(run.x, kept)

    def _drop_out(self, inputs: Array, recorder: Tape, layer: int) -> Array:
        """Draw a mask of 0 and 1 / (1 - p), multiply a layer's inputs by it, and return it."""
        mask = recorder.buffer(("dropout", layer), inputs.shape, self.dtype)
        self._device.draw(self.rng, mask)
        scale = 1.0 / (1.0 - self.dropout) if self.dropout < 1.0 else 0.0
        self._device.xp.multiply(mask >= self.dropout, self.dtype.type(scale), out=mask)
        inputs *= mask
        return mask

    def _buffer(self, recorder: Tape | None, key: Any, shape: tuple[int, ...]) -> Array:
        return self._device.empty(shape, self.dtype) if recorder is None else recorder.buffer(key, shape, self.dtype)

    # Backward

    def _backward(
        self,
        recorder: Any,
        dy: Any,
        dstate: Any,
        into: Gradients | None,
        input_gradient: bool,
        num_threads: int | None,
    ) -> Grads:
        """All of backward, from the caller's arguments to what the caller gets."""
        kept: Recording = recording(recorder, self, self.params)
        run, port, (steps, batch) = kept.run, self._device.ports[kept.direct], kept.run.x.shape[:2]
        threads = _checks.threads(num_threads)
        wants_dx = _checks.truth("input_gradient", input_gradient) and run.x.ndim == 3
        dfinal = port.enter(self._check_states(port.checks, "dstate", dstate, batch, run.batched, halves=True))
        if dy is not None:
            shape = self._sequence_shape(steps, batch, self._features, run.batched)
            dy = self._sequence_view(port.checks.real_of_shape("dy", dy, self.dtype, shape), run.batched)
            dy = port.enter(dy)
        gradients = self._gradients(into)
        dx = self._new_sequence(steps, batch, self.input_size, run.batched) if wants_dx else None
        initial = self._new_states(batch, run.batched)
        reset = None if run.reset_state is None else self._new_states(batch, run.batched)

        recorder.spend()
        walk = _Walk(
            recorder,
            kept,
            dfinal,
            self._state_views(initial, run.batched),
            None if reset is None else self._state_views(reset, run.batched),
            into,
            threads or 0,
        )
        for layer in reversed(range(self.num_layers)):
            target = recorder.buffer(("dx", layer % 2), kept.inputs[layer].shape, self.dtype) if layer else None
            if not layer and dx is not None:
                target = self._sequence_view(dx, run.batched)
            self._layer_backward(walk, layer, dy, target)
            dy = target
        for k, packed in enumerate(self._packed):
            packed.store_gradients(walk.panels(k, packed.kernel.panel_size), gradients)
        reset_gradient = None if reset is None else self._structure(reset)
        return Grads(port.leave(dx), port.leave(self._structure(initial)), gradients, port.leave(reset_gradient))

    def _layer_backward(self, walk: _Walk, layer: int, dy: Array | None, dx: Array | None) -> None:
        """Write dLoss/dinput of one layer into `dx`, before the dropout that made that input."""
        kept, shared = walk.recording, None
        for direction in range(self._directions):
            k = layer * self._directions + direction
            packed = self._packed[k]
            dpanels = walk.panels(k, packed.kernel.panel_size)
            packed.load_gradients(walk.into, dpanels)
            if direction and dx is not None:
                shared = walk.recorder.buffer("second dx", dx.shape, self.dtype)
            run = kept.run
            packed.kernel.backward(
                BackwardCall(
                    packed.panels(),
                    packed.panels_backward(),
                    kept.inputs[layer],
                    kept.memory[k],
                    None if dy is None else self._half(dy, direction),
                    _of(walk.final, k),
                    shared if direction else dx,
                    _of(walk.initial, k),
                    dpanels,
                    _of(run.state, k),
                    _of(run.reset_state, k),
                    run.lengths,
                    run.resets,
                    direction == 1,
                    _of(walk.reset, k),
                    walk.num_threads,
                )
            )
        if dx is not None:
            if shared is not None:
                dx += shared
            if layer and kept.dropout:
                dx *= kept.dropout[layer - 1]

    def _half(self, sequence: Array, direction: int) -> tuple[Array | None, ...]:
        """One direction's part of an output or its gradient, for the first state; the others have no sequences."""
        if self.bidirectional:
            sequence = sequence[..., direction * self.hidden_size : (direction + 1) * self.hidden_size]
        return (sequence, None) if self._has_c else (sequence,)

    def _structure(self, states: States) -> Any:
        """A state as the caller knows it: the array h, or the tuple (h, c)."""
        return states if len(states) > 1 else states[0]


class _Walk(NamedTuple):
    """What one backward hands from layer to layer."""

    recorder: Tape
    recording: Recording
    final: tuple[Any, ...] | None
    initial: States
    reset: States | None
    into: Gradients | None
    num_threads: int

    def panels(self, k: int, size: int) -> Array:
        """The gradient panels of one layer and direction."""
        return self.recorder.buffer(("dpanels", k), (size,), self.initial[0].dtype)


def _of(states: tuple[Any, ...] | None, k: int) -> tuple[Array | None, ...] | None:
    """The states of one layer and direction, each None if there is none."""
    return None if states is None else tuple([None if state is None else state[k] for state in states])
