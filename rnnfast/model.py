"""Model: layers and heads in a row, on one flat parameter buffer.

A model is called as a layer is, and keeps the same promises; its state is a dict from part name to state. When the
parts join a model, their parameters move into its buffer and become views of it, so an optimiser, clipping and a
checkpoint see one array, and the parts' packed weights see one version. Gradients are one array too: each part adds
to its slice.

Heads work on single steps and know nothing of lengths. So the model blanks beyond them what goes into a head and what
comes out of it: predictions there are zero, and neither `x` nor `dy` is read there, as in a layer.

Rejected: a graph of parts (two heads or a skip connection are a few lines in the caller's own loop); copying the
parts (the caller's `layer` and the model's would silently drift apart); attribute access to parts, which could
collide with methods.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import Array
from ._device import Device, Port
from ._part import Part, from_config
from ._recurrence import Arguments
from .embedding import Embedding
from .heads import Dense
from .layers import Recurrent
from .parameters import Gradients, Parameters, Store
from .tape import Grads, Tape, begin, checked, recording

__all__ = ["Model", "ModelTape"]

_Piece = Recurrent | Dense | Embedding
_Head = Dense | Embedding  # works on single steps


class ModelTape(Tape):
    """A model's tape: those of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Tape] = {}

    @property
    def nbytes(self) -> int:
        """The bytes of memory held, without the input."""
        return sum(tape.nbytes for tape in self.parts.values())


class _Rows(NamedTuple):
    """Where the rows of one call end."""

    lengths: Array | None  # int64 [B]; None where no row ends early
    batched: bool
    batch_first: bool
    device: Device
    direct: bool  # of the port through which the call came in
    last_only: bool  # whether the prediction has no axis for time

    def time_major(self, sequence: Array) -> Array:
        """The view of a sequence with time as its first axis."""
        return sequence.swapaxes(0, 1) if self.batched and self.batch_first else sequence

    def shape(self, inside: Array, features: int) -> tuple[int, ...]:
        """The shape of the prediction for an input."""
        leading = tuple(inside.shape[: 1 + self.batched])
        if self.last_only:
            leading = (leading[0 if self.batch_first else 1],) if self.batched else ()
        return *leading, features

    def blank(self, sequence: Array) -> Array:
        """Zero in place what lies beyond the lengths."""
        if self.lengths is not None:
            view = self.time_major(sequence)
            steps = self.device.arange(len(view))
            view[steps[:, None] >= self.lengths if self.batched else steps >= self.lengths] = 0
        return sequence

    def blanked(self, name: str, sequence: ArrayLike, dtype: np.dtype[Any] | None) -> ArrayLike:
        """A blanked copy of a sequence, of integers without a dtype; the sequence itself where no row ends early."""
        if self.lengths is None:
            return sequence
        checks = self.device.checks
        if dtype is None:
            return self.blank(checks.integers(name, sequence).copy())
        return self.blank(checks.real(name, sequence, dtype, copy=True))


class Model(Part):
    """Recurrent layers and heads, each working on the output of the one before.

    Parameters
    ----------
    **parts : Recurrent (RNN, LSTM, GRU, ...) or Dense
        In order. Their sizes, dtypes and devices must fit, `batch_first` be the same for all layers, and each part be
        in this model alone.

    Attributes
    ----------
    params : Parameters
        All parameters: ``name.weight_ih_l0``, ... on one buffer; the parts' own `params` are views of it.
    dtype : numpy.dtype
    input_size : int
        The first part's.
    batch_first, bidirectional, reverse : bool
        Of the layers; `bidirectional` and `reverse` if any is.

    Raises
    ------
    TypeError, ValueError
        Something that is no part, parts that do not fit, or a part that is in a model already.
    """

    def __init__(self, **parts: _Piece) -> None:
        _check_parts(parts)
        self._parts: dict[str, Any] = dict(parts)
        layers = [part for part in parts.values() if not isinstance(part, _Head)]
        first = next(iter(parts.values()))
        self.dtype, self.input_size = first.dtype, first.input_size
        self.batch_first = bool(layers) and layers[0].batch_first
        self.bidirectional = any(layer.bidirectional for layer in layers)
        self.reverse = any(layer.reverse for layer in layers)
        shapes = {f"{name}.{key}": shape for name, part in parts.items() for key, shape in part.params.shapes.items()}
        store = Store(sum(part.params.size for part in parts.values()), self.dtype, first.params.device)
        self._offsets: dict[str, int] = {}
        offset = 0
        for name, part in parts.items():
            part.params.adopt(store, offset)
            self._offsets[name] = offset
            offset += part.params.size
        self.params = Parameters(shapes, self.dtype, store)
        self._pack()

    def _pack(self) -> None:
        self._device = self.params.device
        for part in self._parts.values():
            part.params.in_model = True

    @property
    def parts(self) -> dict[str, Any]:
        """The parts by name, in order."""
        return dict(self._parts)

    def __repr__(self) -> str:
        return f"Model({', '.join(f'{name}={part!r}' for name, part in self._parts.items())})"

    def __call__(
        self,
        x: ArrayLike,
        state: Mapping[str, Any] | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Mapping[str, Any] | None = None,
        mask: ArrayLike | None = None,
        given: Mapping[str, Any] | None = None,
        out: Array | None = None,
        logits: bool = False,
        num_threads: int | None = None,
        last_only: bool = False,
    ) -> tuple[Array, dict[str, Any]]:
        """Run the model: inference, which keeps nothing.

        Parameters
        ----------
        x : array_like
            [T, B, I], ids [T, B] if the first part is a layer, or unbatched [T, I], [T]; see the layers.
        state, reset_state : mapping, optional
            States by the names of the layers among the parts; those left out are zeros.
        lengths, resets, mask : array_like, optional
            As for a layer. Beyond the lengths the prediction is 0; where the mask is false it repeats, unless the first
            part is a head, which reads its input there.
        given : mapping, optional
            Extra inputs by the names of the layers.
        out : ndarray, optional
            Receives the prediction.
        logits : bool
            The last part, which must be a head then, skips its activation.
        num_threads : int, optional
            As for a layer.
        last_only : bool, optional
            Whether the last of the layers hands only its last output on, so that the prediction has no axis for time.

        Returns
        -------
        y : ndarray
            The last part's output.
        state : dict
            The final states of the layers.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range.
        """
        with self._device.active():
            call = Arguments(x, state, lengths, resets, reset_state, mask, given, out, num_threads, last_only=last_only)
            return self._evaluate(call, logits, None)[:2]

    def forward(
        self,
        x: ArrayLike,
        state: Mapping[str, Any] | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Mapping[str, Any] | None = None,
        mask: ArrayLike | None = None,
        given: Mapping[str, Any] | None = None,
        out: Array | None = None,
        tape: Tape | None = None,
        logits: bool = False,
        num_threads: int | None = None,
        last_only: bool = False,
        seed: int | None = None,
        first_step: int = 0,
        recompute: int | str | None = None,
        memory: int | None = None,
    ) -> tuple[Array, dict[str, Any], Tape]:
        """Run the model for training: with dropout, and a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, resets, reset_state, mask, given, out, logits, num_threads, last_only
            As for inference.
        tape : Tape, optional
            An old tape of this model, whose memory is used again.
        seed, first_step : int, optional
            As for a layer; every layer has masks of its own.
        recompute : int or "auto", optional
            As for a layer, in every layer of the model.
        memory : int, optional
            The bytes that the layers' tapes may have together, with "auto"; each has an equal part. What a head keeps
            is not counted.

        Returns
        -------
        y : ndarray
        state : dict
        tape : Tape
            For one backward.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; a tape keeps what it holds.
        """
        with self._device.active():
            call = Arguments(
                *(x, state, lengths, resets, reset_state, mask, given, out, num_threads),
                last_only=last_only,
                seed=seed,
                first_step=first_step,
                recompute=recompute,
                memory=memory,
            )
            y, states, recorder = self._evaluate(call, logits, ModelTape() if tape is None else tape)
        assert recorder is not None
        return y, states, recorder

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | None,
        dstate: Mapping[str, Any] | None = None,
        *,
        into: Gradients | None = None,
        input_gradient: bool = True,
        num_threads: int | None = None,
    ) -> Grads:
        """Gradients of a loss, from those with respect to the prediction and the final states.

        Parameters
        ----------
        tape : Tape
            Of a forward of this model; it is used up.
        dy : array_like or None
            dLoss/dy, or dLoss/dlogits if the forward gave logits; None is zeros.
        dstate : mapping, optional
            dLoss/dstate by the names of the layers; those left out are zeros.
        into : Gradients, optional
            Gradients of `params` to add to.
        input_gradient : bool
            Whether ``grads.x`` is wanted.
        num_threads : int, optional
            As for a layer.

        Returns
        -------
        Grads
            As a layer's, `state`, `reset_state` and `given` by the layers' names.

        Raises
        ------
        TypeError, ValueError
            As a layer's backward: nothing has been added, and the tape is as it was.
        """
        with self._device.active():
            return self._backward(tape, dy, dstate, into, input_gradient, num_threads)

    def _backward(
        self, tape: Tape, dy: Any, dstate: Any, into: Any, input_gradient: Any, num_threads: int | None
    ) -> Grads:
        rows: _Rows = recording(tape, self, self.params)
        port = self._device.ports[rows.direct]
        tapes = tape.parts  # type: ignore[attr-defined]  # `forward` makes no others
        _checks.truth("input_gradient", input_gradient), _checks.threads(num_threads)
        given = self._by_layer(port, "dstate", dstate)
        self._check_dstates(given, tapes)
        dy = port.bring("dy", dy)
        gradients = self._gradients(into)
        if into is None:
            gradients.zero()  # the parts add
        names = list(self._parts)
        head_last = isinstance(self._parts[names[-1]], _Head)
        d: Any = rows.blanked("dy", dy, self.dtype) if head_last and dy is not None and not rows.last_only else dy
        states: dict[str, Any] = {}
        reset_states: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name in reversed(names):
            part = self._parts[name]
            options: dict[str, Any] = {
                "into": self._slice(gradients, name),
                "input_gradient": input_gradient or name != names[0],
                "num_threads": num_threads,
            }
            if not isinstance(part, _Head):
                d, states[name], _, reset_states[name], extra[name] = part.backward(
                    tapes[name], d, given.get(name), **options
                )
            elif d is not None:
                d = part.backward(tapes[name], d, **options).x
        tape.spend()
        has_reset_states = any(value is not None for value in reset_states.values())
        of_extra = {name: value for name, value in extra.items() if value is not None}
        given_back = d, dict(reversed(states.items())), reset_states if has_reset_states else None, of_extra or None
        dx, dstates, dreset_states, dgiven = map(port.leave, given_back)
        return Grads(dx, dstates, gradients, dreset_states, dgiven)

    def config(self) -> dict[str, Any]:
        """A JSON-able description from which `from_config` builds an equal, freshly initialised model."""
        return {"type": "Model", "parts": {name: part.config() for name, part in self._parts.items()}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, rng: Any = None) -> Model:
        """Build a model from what `config` returned.

        Parameters
        ----------
        config : mapping
        rng : optional
            Seed or generator; each part gets a generator of its own, spawned from it.

        Returns
        -------
        Model
        """
        config = _checks.mapping("config", config)
        if set(config) != {"type", "parts"} or config["type"] != cls.__name__:
            raise ValueError(
                f"config: expected 'type', which is 'Model', and 'parts', got {_checks.describe(dict(config))}"
            )
        return cls._build({"parts": config["parts"]}, rng)

    @classmethod
    def _build(cls, options: dict[str, Any], rng: Any) -> Model:
        if set(options) != {"parts"}:
            raise ValueError(f"config: expected 'parts' beside the type, got {list(options)}")
        parts = _checks.mapping("config['parts']", options["parts"])
        generators = _checks.generator("rng", rng).spawn(len(parts))
        return cls(
            **{name: from_config(part, rng=own) for (name, part), own in zip(parts.items(), generators, strict=True)}
        )

    def rng_state(self) -> dict[str, Any]:
        """The states of the layers' generators, from which dropout draws, by the layers' names."""
        return {name: layer.rng.bit_generator.state for name, layer in self._layers()}

    def set_rng_state(self, state: Mapping[str, Any]) -> None:
        """Set the layers' generators to what `rng_state` returned.

        Parameters
        ----------
        state : mapping
            The states by the names of all layers.

        Raises
        ------
        TypeError, ValueError
            A name is missing or unknown, or a state is none of such a generator; nothing has changed.
        """
        layers = dict(self._layers())
        if set(_checks.mapping("state", state)) != set(layers):
            raise ValueError(f"state: expected the names {list(layers)}, got {list(state)}")
        for name, layer in layers.items():
            try:
                copy.deepcopy(layer.rng.bit_generator).state = state[name]  # all or none
            except (TypeError, ValueError, KeyError) as error:
                raise ValueError(f"state[{name!r}]: expected a state from rng_state(): {error}") from error
        for name, layer in layers.items():
            layer.rng.bit_generator.state = state[name]

    def _layers(self) -> Iterator[tuple[str, Any]]:
        return ((name, part) for name, part in self._parts.items() if not isinstance(part, _Head))

    def _evaluate(
        self, call: Arguments, logits: Any, old: Tape | None
    ) -> tuple[Array, dict[str, Any], ModelTape | None]:
        """One walk through the parts, recorded or not: check everything, then run."""
        port = self._device.port(call.x)
        inside, rows, ends = self._rows(port, call)
        names = list(self._parts)
        last, last_layer = names[-1], [None, *dict(self._layers())][-1]
        by_layer = {
            field: self._by_layer(port, field, getattr(call, field)) for field in ("state", "reset_state", "given")
        }
        masks = {name: port.bring(name, getattr(call, name)) for name in ("resets", "mask")}
        shared = {"lengths": ends, "num_threads": call.num_threads, **masks}
        if _checks.truth("logits", logits) and not isinstance(self._parts[last], Dense):
            raise ValueError(f"logits: expected a Dense as last part, got {type(self._parts[last]).__name__}")
        if call.out is not None:
            arrays = [pair for field in ("state", "reset_state") for pair in _arrays(field, by_layer[field])]
            inputs = [("x", inside), *arrays] if port.direct else []
            port.checks.output("out", call.out, rows.shape(inside, _output_size(self._parts[last])), self.dtype, inputs)
        _checks.threads(call.num_threads)
        recorder = self._begin(call, inside, rows, by_layer, shared, old)
        if recorder is not None:
            shared |= {"seed": call.seed, "first_step": call.first_step, **self._recomputed(call)}
        y: Any = inside
        states: dict[str, Any] = {}
        for name, part in self._parts.items():
            run = part if recorder is None else part.forward
            options: dict[str, Any] = {} if recorder is None else {"tape": recorder.parts.get(name)}
            if isinstance(part, _Head):
                if isinstance(part, Dense):
                    options["logits"] = logits and name == last
                result = run(y, num_threads=call.num_threads, **options)
                y, *tapes = (result,) if recorder is None else result
                if not rows.last_only:
                    rows.blank(y)
            else:
                options |= {field: values.get(name) for field, values in by_layer.items()}
                out = call.out if name == last and port.direct else None
                y, states[name], *tapes = run(
                    y, out=out, last_only=rows.last_only and name == last_layer, **shared, **options
                )
            if recorder is not None:
                recorder.parts[name] = tapes[0]
        if recorder is not None:
            first: Any = recorder.parts[names[0]]
            recorder.finish(first._x, rows)
        return port.leave(y, call.out), port.leave(states), recorder

    def _recomputed(self, call: Arguments) -> dict[str, Any]:
        """What each layer's forward is told of `recompute`."""
        count, memory = max(len(dict(self._layers())), 1), call.memory
        return {
            "recompute": call.recompute,
            "memory": None if memory is None else _checks.integer("memory", memory) // count,
        }

    def _begin(
        self,
        call: Arguments,
        inside: Array,
        rows: _Rows,
        by_layer: Mapping[str, Mapping[str, Any]],
        shared: Mapping[str, Any],
        old: Tape | None,
    ) -> ModelTape | None:
        """The tape, spent, when all is checked that a part would refuse in the midst of the walk; None without one."""
        if old is None:
            return None
        tape = checked(old, self)
        if not isinstance(tape, ModelTape):
            raise TypeError("tape: expected a tape of a Model, got one of no part")
        port = self._device.ports[True]
        for n, (name, part) in enumerate(self._parts.items()):
            if isinstance(part, _Head):
                if n == 0:
                    part.check_x(port, inside)
                continue
            body = part._recurrence
            options = {field: values.get(name) for field, values in by_layer.items()}
            steps = {"seed": call.seed, "first_step": call.first_step, **self._recomputed(call)}
            call_of_part = Arguments(inside, **steps, **shared, **options)
            if n == 0:
                run = body.check(port, call_of_part, part, training=False)
            else:
                run = body.check_all_but_x(port, call_of_part, rows.time_major(inside), rows.batched)
            body.levels(part, call_of_part, run)
        begin(tape, self, self.params)
        return tape

    def _rows(self, port: Port, call: Arguments) -> tuple[Array, _Rows, Array | None]:
        """The input where the parameters lie, blanked if a head is first; where its rows end; the checked lengths."""
        array = port.checks.numbers("x", call.x)
        first = next(iter(self._parts.values()))
        head_first = isinstance(first, _Head)
        embeds = isinstance(first, Embedding)
        axes = array.ndim + (embeds or (not head_first and array.dtype.kind in "iu" and array.ndim < 3))
        if axes not in (2, 3):
            expected = "integer ids [T, B] or [T]" if embeds else "[T, B, I] or [T, I]"
            expected += "" if head_first else ", or integer ids without the I axis"
            raise ValueError(f"x: expected {expected}; got {_checks.describe(array)}")
        batched = axes == 3
        batch_axis = 0 if self.batch_first else 1
        steps, batch = (array.shape[1 - batch_axis], array.shape[batch_axis]) if batched else (array.shape[0], 1)
        ends = port.checks.lengths(call.lengths, steps, batch, batched=batched)
        if not port.direct and not head_first:  # what can't be seen any more when it is on the device
            body = first._recurrence
            body.convert_x(port.checks, body.check_x(port.checks, array)[0], ends)
        last_only = _checks.truth("last_only", call.last_only)
        if last_only and not dict(self._layers()):
            raise ValueError("last_only: expected False for a model without recurrent layers, got True")
        ragged = port.enter(port.checks.ragged(ends, steps))
        rows = _Rows(ragged, batched, self.batch_first, self._device, port.direct, last_only)
        inside = port.enter(array)
        blanked: Any = inside
        if head_first:
            blanked = rows.blanked("x", inside, None if embeds else self.dtype)
        return blanked, rows, port.enter(ends)

    def _by_layer(self, port: Port, name: str, values: Any) -> Mapping[str, Any]:
        """A caller's dict of states or extra inputs, where the parameters lie."""
        if values is None:
            return {}
        if not isinstance(values, Mapping):
            raise TypeError(
                f"{name}: expected a mapping from the layers' names to states, got {_checks.describe(values)}"
            )
        layers = dict(self._layers())
        if surplus := [key for key in values if key not in layers]:
            raise ValueError(f"{name}: expected names among {list(layers)}, got {surplus}")
        bring = _bring_given if name == "given" else _bring_state
        return {key: bring(layers[key], port, f"{name}[{key!r}]", value) for key, value in values.items()}

    def _check_dstates(self, dstates: Mapping[str, Any], tapes: Mapping[str, Tape]) -> None:
        """Raise before anything is added what the layers would raise in the midst of it."""
        for name, layer in self._layers():
            run = recording(tapes[name], layer, layer.params).run
            body, shape = layer._recurrence, (run.x.shape[1], run.batched)
            body.check_states(self._device.checks, f"dstate[{name!r}]", dstates.get(name), *shape, some=True)

    def _slice(self, gradients: Gradients, name: str) -> Gradients:
        """The gradients of one part: a view."""
        params, start = self._parts[name].params, self._offsets[name]
        return Gradients(params.shapes, self.dtype, gradients.flat[start : start + params.size], self._device)


def _bring_state(layer: Recurrent, port: Port, name: str, value: Any) -> Any:
    return layer._recurrence.bring_state(port, name, value)


def _bring_given(layer: Recurrent, port: Port, name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: port.bring(f"{name}[{key!r}]", array) for key, array in value.items()}
    return port.bring(name, value)


def _arrays(name: str, states: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """The arrays of a caller's states."""
    for state in states.values():
        yield from (
            (name, array if hasattr(array, "shape") else np.asarray(array))
            for array in (state if isinstance(state, tuple | list) else [state])
            if array is not None
        )


def _check_parts(parts: Mapping[str, Any]) -> None:
    """Whether these parts can make up one model."""
    if not parts:
        raise ValueError("parts: expected at least one part, got none")
    for name, part in parts.items():
        if not isinstance(part, _Piece):
            raise TypeError(
                f"{name}: expected a Recurrent (RNN, LSTM, GRU, ...), a Dense or an Embedding, "
                f"got {_checks.describe(part)}"
            )
        if not name.isidentifier():
            raise ValueError(f"parts: expected names that are identifiers, got {name!r}")
        if part.params.in_model or sum(other.params is part.params for other in parts.values()) > 1:
            raise ValueError(f"{name}: expected a part that is in no model yet; load() can copy weights to another one")
    for (before, one), (name, part) in pairwise(parts.items()):
        if part.dtype != one.dtype:
            raise ValueError(f"{name}: expected dtype {one.dtype} as {before} has, got {part.dtype}")
        if part.params.device is not one.params.device:
            there, here = one.params.device, part.params.device
            raise ValueError(f"{name}: expected device {there} as {before} has, got {here}")
        if isinstance(part, Embedding):
            raise ValueError(
                f"{name}: expected an Embedding as the first part, since it reads ids, got one after {before}"
            )
        if part.input_size != _output_size(one):
            raise ValueError(
                f"{name}: expected input_size {_output_size(one)}, the output of {before}, got {part.input_size}"
            )
    if len({part.batch_first for part in parts.values() if not isinstance(part, _Head)}) > 1:
        raise ValueError("batch_first: expected the same for all layers, got layers with and layers without it")


def _output_size(part: _Piece) -> int:
    return part.output_size if isinstance(part, _Head) else part._recurrence.layout.features
