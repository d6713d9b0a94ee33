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
from .heads import Dense
from .layers import GRU, LSTM, RNN, from_config
from .parameters import Gradients, Parameters, Store
from .tape import Grads, Tape, begin, recording

__all__ = ["Model", "ModelTape"]

_Part = RNN | LSTM | GRU | Dense


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

    def blank(self, sequence: Array) -> Array:
        """Zero in place what lies beyond the lengths."""
        if self.lengths is not None:
            view = sequence.swapaxes(0, 1) if self.batched and self.batch_first else sequence
            steps = self.device.arange(len(view))
            view[steps[:, None] >= self.lengths if self.batched else steps >= self.lengths] = 0
        return sequence

    def blanked(self, name: str, sequence: ArrayLike, dtype: np.dtype[Any]) -> ArrayLike:
        """A blanked copy of a sequence, or the sequence itself where no row ends early."""
        if self.lengths is None:
            return sequence
        return self.blank(self.device.checks.real(name, sequence, dtype, copy=True))


class Model:
    """Recurrent layers and heads, each working on the output of the one before.

    Parameters
    ----------
    **parts : RNN, LSTM, GRU or Dense
        In order. Their sizes, dtypes and devices must fit, `batch_first` be the same for all layers, and each part be
        in this model alone.

    Attributes
    ----------
    params : Parameters
        All parameters: ``name.weight_ih_l0``, ... on one buffer; the parts' own `params` are views of it.
    dtype : numpy.dtype
    input_size : int
        The first part's.
    batch_first, bidirectional : bool
        Of the layers; `bidirectional` if any is.

    Raises
    ------
    TypeError, ValueError
        Something that is no part, parts that do not fit, or a part that is in a model already.
    """

    def __init__(self, **parts: _Part) -> None:
        _check_parts(parts)
        self._parts: dict[str, Any] = dict(parts)
        layers = [part for part in parts.values() if not isinstance(part, Dense)]
        first = next(iter(parts.values()))
        self.dtype, self.input_size = first.dtype, first.input_size
        self.batch_first = bool(layers) and layers[0].batch_first
        self.bidirectional = any(layer.bidirectional for layer in layers)
        shapes = {f"{name}.{key}": shape for name, part in parts.items() for key, shape in part.params.shapes.items()}
        store = Store(sum(part.params.size for part in parts.values()), self.dtype, first.params.device)
        self._offsets: dict[str, int] = {}
        offset = 0
        for name, part in parts.items():
            part.params.adopt(store, offset)
            self._offsets[name] = offset
            offset += part.params.size
        self.params = Parameters(shapes, self.dtype, store)
        self._claim()

    def _claim(self) -> None:
        for part in self._parts.values():
            part.params.in_model = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._claim()

    @property
    def _device(self) -> Device:
        return self.params.device

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
        out: Array | None = None,
        logits: bool = False,
        num_threads: int | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Run the model: inference, which keeps nothing.

        Parameters
        ----------
        x : array_like
            [T, B, I], ids [T, B] if the first part is a layer, or unbatched [T, I], [T]; see the layers.
        state, reset_state : mapping, optional
            States by the names of the layers among the parts; those left out are zeros.
        lengths, resets : array_like, optional
            As for a layer. Beyond the lengths the prediction is 0.
        out : ndarray, optional
            Receives the prediction.
        logits : bool
            The last part, which must be a head then, skips its activation.
        num_threads : int, optional
            As for a layer.

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
            return self._evaluate(x, state, reset_state, lengths, resets, out, logits, num_threads, None)[:2]

    def forward(
        self,
        x: ArrayLike,
        state: Mapping[str, Any] | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Mapping[str, Any] | None = None,
        out: Array | None = None,
        tape: Tape | None = None,
        logits: bool = False,
        num_threads: int | None = None,
    ) -> tuple[Array, dict[str, Any], Tape]:
        """Run the model for training: with dropout, and a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, resets, reset_state, out, logits, num_threads
            As for inference.
        tape : Tape, optional
            An old tape of this model, whose memory is used again.

        Returns
        -------
        y : ndarray
        state : dict
        tape : Tape
            For one backward.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range.
        """
        recorder = begin(ModelTape() if tape is None else tape, self, self.params)
        if not isinstance(recorder, ModelTape):
            raise TypeError("tape: expected a tape of a Model, got one of no part")
        with self._device.active():
            y, states, rows = self._evaluate(x, state, reset_state, lengths, resets, out, logits, num_threads, recorder)
        first: Any = recorder.parts[next(iter(self._parts))]
        recorder.finish(first._x, rows)
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
            As a layer's, `state` and `reset_state` by the layers' names.

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
        names = list(self._parts)
        head_last = isinstance(self._parts[names[-1]], Dense)
        d: Any = rows.blanked("dy", dy, self.dtype) if head_last and dy is not None else dy
        states: dict[str, Any] = {}
        reset_states: dict[str, Any] = {}
        for name in reversed(names):
            part = self._parts[name]
            options: dict[str, Any] = {
                "into": self._slice(gradients, name),
                "input_gradient": input_gradient or name != names[0],
                "num_threads": num_threads,
            }
            if not isinstance(part, Dense):
                d, states[name], _, reset_states[name] = part.backward(tapes[name], d, given.get(name), **options)
            elif d is not None:
                d = part.backward(tapes[name], d, **options).x
        tape.spend()
        has_reset_states = any(value is not None for value in reset_states.values())
        given_back = d, dict(reversed(states.items())), reset_states if has_reset_states else None
        dx, dstates, dreset_states = map(port.leave, given_back)
        return Grads(dx, dstates, gradients, dreset_states)

    def load(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace all parameters; see `Parameters.load`."""
        self.params.load(mapping)

    def update(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace some parameters; see `Parameters.update`."""
        self.params.update(mapping)

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
        parts = _checks.mapping("config['parts']", config["parts"])
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
        return ((name, part) for name, part in self._parts.items() if not isinstance(part, Dense))

    def _evaluate(
        self,
        x: Any,
        state: Any,
        reset_state: Any,
        lengths: Any,
        resets: Any,
        out: Any,
        logits: Any,
        num_threads: Any,
        recorder: ModelTape | None,
    ) -> tuple[Array, dict[str, Any], _Rows]:
        """One walk through the parts, recorded or not."""
        port = self._device.port(x)
        inside, rows, ends = self._rows(port, x, lengths)
        given, given_resets = (
            self._by_layer(port, name, states) for name, states in (("state", state), ("reset_state", reset_state))
        )
        resets = port.bring("resets", resets)
        last = next(reversed(self._parts))
        if _checks.truth("logits", logits) and not isinstance(self._parts[last], Dense):
            raise ValueError(f"logits: expected a head as last part, got {type(self._parts[last]).__name__}")
        y, states = inside, {}
        for name, part in self._parts.items():
            run = part if recorder is None else part.forward
            options = {"num_threads": num_threads}
            if recorder is not None:
                options["tape"] = recorder.parts.get(name)
            if isinstance(part, Dense):
                result = run(y, logits=logits and name == last, **options)
                y, *tapes = (result,) if recorder is None else result
                rows.blank(y)
            else:
                options |= {"lengths": ends, "resets": resets, "reset_state": given_resets.get(name)}
                y, states[name], *tapes = run(
                    y, given.get(name), out=out if name == last and port.direct else None, **options
                )
            if recorder is not None:
                recorder.parts[name] = tapes[0]
        if out is not None and y is not out:
            inputs = [("x", inside), *_arrays("state", given)] if port.direct else []
            port.checks.output("out", out, y.shape, self.dtype, inputs)
        return port.leave(y, out), port.leave(states), rows

    def _rows(self, port: Port, x: Any, lengths: Any) -> tuple[Array, _Rows, Array | None]:
        """The input where the parameters lie, blanked if a head is first; where its rows end; the checked lengths."""
        array = port.checks.numbers("x", x)
        first = next(iter(self._parts.values()))
        head_first = isinstance(first, Dense)
        axes = array.ndim + (not head_first and array.dtype.kind in "iu" and array.ndim < 3)
        if axes not in (2, 3):
            expected = "[T, B, I] or [T, I]" + ("" if head_first else ", or integer ids without the I axis")
            raise ValueError(f"x: expected {expected}; got {_checks.describe(array)}")
        batched = axes == 3
        batch_axis = 0 if self.batch_first else 1
        steps, batch = (array.shape[1 - batch_axis], array.shape[batch_axis]) if batched else (array.shape[0], 1)
        ends = port.checks.lengths(lengths, steps, batch, batched=batched)
        if not port.direct and not head_first:  # what can't be seen any more when it is on the device
            first._convert_x(port.checks, first._check_x(port.checks, array)[0], ends)
        ragged = port.enter(port.checks.ragged(ends, steps))
        rows = _Rows(ragged, batched, self.batch_first, self._device, port.direct)
        inside = port.enter(array)
        blanked: Any = rows.blanked("x", inside, self.dtype) if head_first else inside
        return blanked, rows, port.enter(ends)

    def _by_layer(self, port: Port, name: str, states: Any) -> Mapping[str, Any]:
        """A caller's dict of states, where the parameters lie."""
        if states is None:
            return {}
        if not isinstance(states, Mapping):
            raise TypeError(
                f"{name}: expected a mapping from the layers' names to states, got {_checks.describe(states)}"
            )
        layers = dict(self._layers())
        if surplus := [key for key in states if key not in layers]:
            raise ValueError(f"{name}: expected names among {list(layers)}, got {surplus}")
        return {key: layers[key]._bring_state(port, f"{name}[{key!r}]", state) for key, state in states.items()}

    def _check_dstates(self, dstates: Mapping[str, Any], tapes: Mapping[str, Tape]) -> None:
        """Raise before anything is added what the layers would raise in the midst of it."""
        for name, layer in self._layers():
            run = recording(tapes[name], layer, layer.params).run
            checks = self._device.checks
            layer._check_states(
                checks, f"dstate[{name!r}]", dstates.get(name), run.x.shape[1], run.batched, halves=True
            )

    def _gradients(self, into: Any) -> Gradients:
        if into is None:
            return self.params.zeros()
        if not isinstance(into, Gradients):
            raise TypeError(f"into: expected Gradients or None, got {_checks.describe(into)}")
        if into.dtype != self.dtype or into.shapes != self.params.shapes:
            raise ValueError(f"into: expected the layout of params, {self.params!r}; got {into!r}")
        if into.device is not self._device:
            raise ValueError(f"into: expected Gradients on {self._device}, as params are, got some on {into.device}")
        return into

    def _slice(self, gradients: Gradients, name: str) -> Gradients:
        """The gradients of one part: a view."""
        params, start = self._parts[name].params, self._offsets[name]
        return Gradients(params.shapes, self.dtype, gradients.flat[start : start + params.size], self._device)


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
        if not isinstance(part, _Part):
            raise TypeError(f"{name}: expected an RNN, LSTM, GRU or Dense, got {_checks.describe(part)}")
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
        if part.input_size != _output_size(one):
            raise ValueError(
                f"{name}: expected input_size {_output_size(one)}, the output of {before}, got {part.input_size}"
            )
    if len({part.batch_first for part in parts.values() if not isinstance(part, Dense)}) > 1:
        raise ValueError("batch_first: expected the same for all layers, got layers with and layers without it")


def _output_size(part: _Part) -> int:
    return part.output_size if isinstance(part, Dense) else part.hidden_size * (2 if part.bidirectional else 1)
