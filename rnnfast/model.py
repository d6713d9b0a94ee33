"""Model: layers, heads and other parts, wired to each other, on one flat parameter buffer.

A model is called as a layer is, and keeps the same promises; its state is a dict from part name to state. When the
parts join a model, their parameters move into its buffer and become views of it, so an optimiser, clipping and a
checkpoint see one array, and the parts' packed weights see one version. Gradients are one array too: each part adds
to its slice. Which part reads what is in a `Graph`, which is made and checked when the model is built. A walk goes
through its nodes in order, forward, and in reverse, backward; a value's gradient is the sum over its readers, the last
of them first.

Heads work on single steps and know nothing of lengths. So the model blanks beyond them what goes into a head and what
comes out of it: predictions there are zero, and neither `x` nor `dy` is read there, as in a layer.

Tied parameters lie in the buffer once, where the part has them that is named second; the other part reads them there,
and its gradients are added there.

Rejected: copying the parts (the caller's `layer` and the model's would silently drift apart); attribute access to
parts, which could collide with methods; loops in the graph (a state that goes from step to step is a cell's).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from . import _state as states
from ._checks import Array
from ._device import Device, Port
from ._graph import Graph, Node, kind_of
from ._model_stream import make_spec
from ._part import Part, from_config
from ._recurrence import Arguments
from ._words import StreamWeights
from .embedding import Embedding
from .heads import Dense
from .layers import Recurrent
from .parameters import Gradients, Parameters, Place, Store, adopt_all
from .parts import Dropout
from .stream import ModelStream
from .tape import Grads, Tape, begin, checked, recording

__all__ = ["Model", "ModelTape"]


class ModelTape(Tape):
    """A model's tape: those of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Tape] = {}
        self._sums: Gradients | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of memory held, without the input."""
        held = [] if self._sums is None else self._sums.arrays
        return sum(tape.nbytes for tape in self.parts.values()) + sum(array.nbytes for array in held)

    def sums(self, params: Parameters, into: Gradients) -> Gradients:
        """What the parts add to in the place of `into`, which is to be whole at every moment: a copy of it."""
        if self._sums is None:
            self._sums = Gradients.like(params)
        self._sums.take(into)
        return self._sums


class _Rows(NamedTuple):
    """The rows of the values of one clock, in one call."""

    leading: tuple[int, ...]  # the axes of a sequence before its features, as the caller has them
    batched: bool
    batch_first: bool
    device: Device
    lengths: Array | None = None  # int64 [B], checked
    ragged: Array | None = None  # the same; None where no row ends early
    resets: Any = None
    mask: Any = None

    @property
    def batch(self) -> int:
        """B; 1 where there is no batch axis."""
        return self.leading[0 if self.batch_first else 1] if self.batched else 1

    @property
    def steps(self) -> int:
        """T."""
        return self.leading[1 if self.batched and self.batch_first else 0]

    def time_major(self, sequence: Array) -> Array:
        """The view of a sequence with time as its first axis."""
        return sequence.swapaxes(0, 1) if self.batched and self.batch_first else sequence

    def blank(self, sequence: Array) -> Array:
        """Zero in place what lies beyond the lengths."""
        if self.ragged is not None:
            view = self.time_major(sequence)
            steps = self.device.arange(len(view))
            view[steps[:, None] >= self.ragged if self.batched else steps >= self.ragged] = 0
        return sequence

    def blanked(self, name: str, sequence: ArrayLike, dtype: np.dtype[Any] | None) -> ArrayLike:
        """A blanked copy of a sequence, of integers without a dtype; the sequence itself where no row ends early."""
        if self.ragged is None:
            return sequence
        checks = self.device.checks
        if dtype is None:
            return self.blank(checks.integers(name, sequence).copy())
        return self.blank(checks.real(name, sequence, dtype, copy=True))


class _Recording(NamedTuple):
    """What a model's forward keeps besides its parts' tapes."""

    direct: bool  # of the port through which the call came in
    rows: Mapping[str | None, _Rows]
    shapes: dict[str, tuple[int, ...]]  # of the outputs
    last_only: bool


class _Walk(NamedTuple):
    """What the parts of one call are run with."""

    call: Arguments
    direct: bool  # of the port through which the call came in
    values: dict[str, Any]
    rows: Mapping[str | None, _Rows]
    by_layer: Mapping[str, Mapping[str, Any]]  # states, reset states, extra inputs
    out: Mapping[str, Any]
    finals: dict[str, Any]  # the layers' final states
    recorder: ModelTape | None
    timeless: set[str]
    logits: bool
    several: str | None  # the layer that returns the sequences of all its states
    places: Mapping[str, int]  # of the parts that draw random numbers, among those


_BY_LAYER = ("state", "reset_state", "given")


class Model(Part):
    """Recurrent layers and other parts, each reading the one before or what `inputs` says.

    Parameters
    ----------
    **parts : Recurrent (RNN, LSTM, GRU, ...), Dense, Embedding, LayerNorm, Dropout, Pool, Add or Concat
        In order. Their sizes, dtypes and devices must fit, `batch_first` be the same for all, and each part be in this
        model alone.
    inputs : mapping from str to str or sequence of str, optional
        What parts read, by their names: "x", the model's input; the name of a part before them; or, where the model has
        several inputs, "x.NAME". `Add` and `Concat` read several values. A layer may read one value and besides it
        "OTHER.state": it begins with the final state of that layer. Those left out read the part before them, the
        first one "x".
    outputs : str or sequence of str, optional
        The parts whose outputs the model returns: that of one name as an array, those of several as a dict. By default
        all that no other part reads.
    tied : mapping from str to str, optional
        Parameters that are one: ``{"head.weight": "embed.weight"}`` puts the second, of the same shape, in the place of
        the first, which is no parameter of its own any more; ``{"b": "a"}`` does so with all parameters of a part.

    Attributes
    ----------
    params : Parameters
        All parameters: ``name.weight_ih_l0``, ... on one buffer; the parts' own `params` are views of it.
    dtype : numpy.dtype
    input_size : int or dict
        The features of `x`; of several inputs by their names.
    batch_first, bidirectional, reverse : bool
        Of the layers; `bidirectional` and `reverse` if any is.

    Raises
    ------
    TypeError, ValueError
        Something that is no part, parts that do not fit, a part that is in a model already, or a wiring that does not
        hold together.

    Examples
    --------
    Two heads on one layer:

    >>> import numpy as np
    >>> from rnnfast import LSTM, Dense, Model
    >>> model = Model(
    ...     rnn=LSTM(4, 8), policy=Dense(8, 2), value=Dense(8, 1), inputs={"policy": "rnn", "value": "rnn"}
    ... )
    >>> y, state = model(np.zeros((5, 3, 4)))
    >>> y["policy"].shape, y["value"].shape
    ((5, 3, 2), (5, 3, 1))

    An encoder, and a decoder that begins with its state:

    >>> from rnnfast import Embedding
    >>> model = Model(
    ...     letters=Embedding(30, 8), encoder=LSTM(8, 16), words=Embedding(20, 8), decoder=LSTM(8, 16),
    ...     head=Dense(16, 20),
    ...     inputs={"letters": "x.source", "words": "x.target", "decoder": ("words", "encoder.state")},
    ... )
    >>> y, state = model({"source": np.zeros((7, 3), int), "target": np.zeros((5, 3), int)})
    >>> y.shape
    (5, 3, 20)
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Any = None,
        tied: Mapping[str, str] | None = None,
        **parts: Any,
    ) -> None:
        _check_parts(parts)
        graph = Graph(parts, inputs, outputs)
        borrowed = _check_tied(parts, tied)
        self._parts: dict[str, Any] = dict(parts)
        self._graph = graph
        self._outputs = None if outputs is None else graph.outputs[0] if graph.single else list(graph.outputs)
        self._tied = dict(tied or {})
        owners = [part for part in parts.values() if part.params]
        timed = [part for part in parts.values() if hasattr(part, "batch_first")]
        layers = [node.part for node in graph.nodes if node.kind == "layer"]
        self.dtype = owners[0].dtype
        sizes = {value.removeprefix("x."): graph.sizes[value] for value in graph.inputs}
        self.input_size: Any = sizes.get("x", sizes)
        self.batch_first = bool(timed) and timed[0].batch_first
        self.bidirectional = any(layer.bidirectional for layer in layers)
        self.reverse = any(layer.reverse for layer in layers)
        shapes = {
            f"{name}.{key}": shape
            for name, part in parts.items()
            for key, shape in part.params.shapes.items()
            if (name, key) not in borrowed
        }
        store = Store(sum(map(math.prod, shapes.values())), self.dtype, owners[0].params.device)
        tables = {f"{name}.{key}": axis for name, part in parts.items() for key, axis in part.params.tables.items()}
        tables = {name: axis for name, axis in tables.items() if name in shapes}
        self.params = Parameters(shapes, self.dtype, store, tables=tables)
        places = self.params.places()
        self._offsets: dict[str, int] = {}
        offset = 0
        moves: list[tuple[Parameters, int, Mapping[str, Place]]] = []
        for name, part in parts.items():
            self._offsets[name] = offset
            if part.params:
                own = {key: places[".".join(of)] for (one, key), of in borrowed.items() if one == name}
                moves.append((part.params, offset, own))
                offset += part.params.size - sum(math.prod(part.params.shapes[key]) for key in own)
        adopt_all(store, moves, in_model=True)
        self._pack()

    def _pack(self) -> None:
        self._device = self.params.device
        for part in self._parts.values():
            part.params.in_model = True

    @property
    def takes_ids(self) -> bool:
        """Whether the one input is ids whatever its dtype, because nothing but an Embedding reads it."""
        return list(self._graph.reads_ids.values()) == ["ids"]

    @property
    def parts(self) -> dict[str, Part]:
        """The parts by name, in order."""
        return dict(self._parts)

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """What each part reads, as `inputs` of the constructor has it."""
        return dict(self._graph.reads)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The parts whose outputs the model returns; as an array where there is one and `returns_dict` is false."""
        return self._graph.outputs

    @property
    def returns_dict(self) -> bool:
        """Whether the model returns its outputs by their names."""
        return not self._graph.single

    @property
    def tied(self) -> dict[str, str]:
        """The parameters, or parts, that are tied to others, as `tied` of the constructor has them."""
        return dict(self._tied)

    @property
    def is_chain(self) -> bool:
        """Whether each part reads the one before alone, the last is the only output, and nothing is tied."""
        return self._graph.chain and not self._tied

    @property
    def unfit_for_windows(self) -> str | None:
        """What keeps the model from being trained window by window with a state that is carried on; None: nothing."""
        graph = self._graph
        if len(graph.inputs) > 1:
            return f"one input, got {', '.join(graph.inputs)}"
        if graph.linked:
            return "layers that begin with their own states, got one that begins with another's"
        if graph.timeless.intersection(graph.outputs):
            return "outputs with steps, got one that is pooled over time"
        return None

    def __repr__(self) -> str:
        shown = [f"{name}={part!r}" for name, part in self._parts.items()]
        shown += [f"{name}={value!r}" for name, value in self._wiring().items()]
        return f"Model({', '.join(shown)})"

    def _wiring(self) -> dict[str, Any]:
        """The arguments besides the parts that are not the default."""
        found = {"inputs": self._graph.wiring(), "outputs": self._outputs, "tied": self._tied}
        return {name: copy.deepcopy(value) for name, value in found.items() if value}

    def __call__(
        self,
        x: ArrayLike | Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        *,
        lengths: ArrayLike | Mapping[str, Any] | None = None,
        resets: ArrayLike | Mapping[str, Any] | None = None,
        reset_state: Mapping[str, Any] | None = None,
        mask: ArrayLike | Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        out: Any = None,
        logits: bool = False,
        num_threads: int | None = None,
        return_states: bool = False,
        last_only: bool = False,
        ids: bool | Mapping[str, bool] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Run the model: inference, which keeps nothing.

        Parameters
        ----------
        x : array_like, or mapping from str to array_like
            [T, B, I], ids [T, B] if a layer or an Embedding reads it, or unbatched [T, I], [T]; see the layers. Several
            inputs by their names.
        state, reset_state : mapping, optional
            States by the names of the layers among the parts; those left out are zeros. Layers that begin with another
            one's state are given none.
        lengths, resets, mask : array_like, or mapping from str to array_like, optional
            As for a layer; of several inputs by their names, and once for those that some part reads side by side.
            Beyond the lengths the prediction is 0; where the mask is false it repeats, but a head that reads an input
            of the model reads it there, too.
        given : mapping, optional
            Extra inputs by the names of the layers.
        out : ndarray, or mapping from str to ndarray, optional
            Receives the prediction; of several by their names.
        logits : bool
            The outputs that are heads skip their activations. There must be one, and no part may read it.
        num_threads : int, optional
            As for a layer.
        return_states : bool, optional
            Whether `y` is a tuple with the sequence of every state of the output, which must be a layer then, and one
            that no part reads.
        last_only : bool, optional
            Whether the last of the layers hands only its last output on, so that the prediction has no axis for time.
            All that follows that layer must depend on it alone; elsewhere in a model `Pool` says the same, and where
            all outputs are pooled this changes nothing.
        ids : bool, or mapping from str to bool, optional
            Whether `x` is ids, as for a layer; of several inputs by their names.

        Returns
        -------
        y : ndarray or dict
            The output, or the outputs by their names.
        state : dict
            The final states of the layers.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range.
        """
        call = Arguments(
            *(x, state, lengths, resets, reset_state, mask, given, out, num_threads, return_states, last_only), ids=ids
        )
        store = self.params.store
        with self._device.active():
            before = store.version
            y, states, _ = self._evaluate(call, logits, None)
            if store.version == before:
                return y, states
            with store.reading():  # another thread has changed the parameters meanwhile, between two parts perhaps
                return self._evaluate(call, logits, None)[:2]

    def forward(
        self,
        x: ArrayLike | Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        *,
        lengths: ArrayLike | Mapping[str, Any] | None = None,
        resets: ArrayLike | Mapping[str, Any] | None = None,
        reset_state: Mapping[str, Any] | None = None,
        mask: ArrayLike | Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        out: Any = None,
        tape: Tape | None = None,
        logits: bool = False,
        num_threads: int | None = None,
        return_states: bool = False,
        last_only: bool = False,
        seed: int | None = None,
        first_step: int = 0,
        recompute: int | str | None = None,
        memory: int | None = None,
        ids: bool | Mapping[str, bool] | None = None,
    ) -> tuple[Any, dict[str, Any], Tape]:
        """Run the model for training: with dropout, and a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, resets, reset_state, mask, given, out, logits, num_threads, return_states, last_only, ids
            As for inference.
        tape : Tape, optional
            An old tape of this model, whose memory is used again.
        seed, first_step : int, optional
            As for a layer, and for `Dropout`. Each part has masks of its own: of one seed the first that draws has
            those that it has alone, the others have others.
        recompute : int or "auto", optional
            As for a layer, in every layer of the model.
        memory : int, optional
            The bytes that the layers' tapes may have together, with "auto"; each has an equal part. What a head keeps
            is not counted.

        Returns
        -------
        y, state
            As from a call.
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
                *(return_states, last_only, seed, first_step, recompute, memory, ids),
            )
            y, states, recorder = self._evaluate(call, logits, ModelTape() if tape is None else tape)
        assert recorder is not None
        return y, states, recorder

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | Mapping[str, Any] | None,
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
        dy : array_like, or mapping from str to array_like, or None
            dLoss/dy, or dLoss/dlogits if the forward gave logits; None is zeros. Of several outputs by their names;
            those left out are zeros.
        dstate : mapping, optional
            dLoss/dstate by the names of the layers; those left out are zeros.
        into : Gradients, optional
            Gradients of `params` to add to, all at once when the work is done: an interruption (Ctrl-C) leaves nothing
            half added.
        input_gradient : bool
            Whether ``grads.x`` is wanted.
        num_threads : int, optional
            As for a layer.

        Returns
        -------
        Grads
            As a layer's, `state`, `reset_state` and `given` by the layers' names, without the state of a layer that
            begins with another one's; `x` of several inputs by their names.

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
        kept: _Recording = recording(tape, self, self.params)
        graph, port = self._graph, self._device.ports[kept.direct]
        tapes = tape.parts  # type: ignore[attr-defined]  # `forward` makes no others
        _checks.truth("input_gradient", input_gradient), _checks.threads(num_threads)
        dstates = self._by_layer(port, "dstate", dstate)
        self._check_dstates(dstates, kept)
        gradient = self._of_outputs(port, dy, kept)
        for node in graph.nodes:
            if node.exposed:  # raise now what would be raised in the midst of it
                recording(tapes[node.name], node.part, node.part.params)
        result = gradients = self._gradients(into)
        tape.spend()
        if into is None:
            gradients.zero()  # the parts add
        elif not into.scratch:
            gradients = tape.sums(self.params, into)  # type: ignore[attr-defined]
        d_state, d_reset_state, d_given = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        for node in reversed(graph.nodes):
            dy = gradient.pop(node.name, None)
            wanted = [input_gradient or value not in graph.clocks for value in node.sources]
            options: dict[str, Any] = {"input_gradient": any(wanted), "num_threads": num_threads}
            if node.part.params or node.part.params.borrowed:
                options["into"] = self._slice(gradients, node.name)
            if node.kind == "layer":
                dx, d_initial, _, d_reset, of_extra = node.part.backward(
                    tapes[node.name], dy, dstates.get(node.name), **options
                )
                if node.begins is None:
                    d_state[node.name] = d_initial
                else:
                    dstates = {**dstates, node.begins: _sum(dstates.get(node.begins), d_initial)}
                if d_reset is not None:
                    d_reset_state[node.name] = d_reset
                if of_extra is not None:
                    d_given[node.name] = of_extra
            elif dy is None:
                continue
            else:
                dx = node.part.backward(tapes[node.name], dy, **options).x
            for value, own in zip(node.sources, dx if isinstance(dx, tuple) else (dx,), strict=False):
                if input_gradient or value not in graph.clocks:
                    gradient[value] = _sum(gradient.get(value), own)
        d_x = {value.removeprefix("x."): gradient.get(value) for value in graph.inputs}
        given_back = d_x.get("x", d_x), dict(reversed(d_state.items())), d_reset_state or None, d_given or None
        dx, dstate, dreset_state, dgiven = map(port.leave, given_back)
        if gradients is not result:
            result.take(gradients)
        return Grads(dx, dstate, result, dreset_state, dgiven)

    def stream(
        self, batch_size: int = 1, *, weights: StreamWeights | None = None, num_threads: int | None = None
    ) -> ModelStream:
        """The model as a stream: it keeps its layers' states and runs step by step, at the lowest cost.

        Parameters
        ----------
        batch_size : int, optional
            Rows, each a sequence of its own.
        weights : {"float32", "float64", "bfloat16"}, optional
            How the layers' weights are stored; see `Recurrent.stream`.
        num_threads : int, optional
            The most threads that layers use. On a real-time thread use 1.

        Returns
        -------
        ModelStream
            With the weights of this moment and states of zeros.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or range; or the model can't be a stream: a layer runs backwards in time,
            begins with another one's state or has extra inputs, the model has several inputs, or it has parts other
            than layers, Dense, Embedding, Dropout, Add and Concat, or lies on a CUDA device.

        Examples
        --------
        >>> import numpy as np
        >>> from rnnfast import GRU, Dense, Model
        >>> model = Model(rnn=GRU(3, 8, rng=0), head=Dense(8, 2, rng=1))
        >>> stream, x = model.stream(), np.ones((10, 3), np.float32)
        >>> bool((stream.process(x) == model(x)[0]).all())
        True
        """
        batch, threads = _checks.size("batch_size", batch_size), _checks.threads(num_threads)
        graph, params, first = self._graph, self.params, self.batch_first
        return ModelStream._make(
            partial(make_spec, graph, params),
            {"batch": batch, "weights": weights, "num_threads": threads, "batch_first": first},
        )

    def config(self) -> dict[str, Any]:
        """A JSON-able description from which `from_config` builds an equal, freshly initialised model."""
        parts = {name: part.config() for name, part in self._parts.items()}
        return {"type": Part._kinds.name(type(self)), "parts": parts, **self._wiring()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, rng: Any = None) -> Model:
        """Build a model from what `config` returned: of this class, or the subclass whose configuration it is.

        A subclass is built of its parts and wiring; a constructor of its own is not called, as it isn't for a copy.

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
        options = dict(config)
        name = options.pop("type", None)
        kind = Part._kinds.get(name) if isinstance(name, str) else None
        if kind is None or not issubclass(kind, cls) or "parts" not in options:
            expected = f"'type', the name of {cls.__name__} or of a subclass of it, and 'parts'"
            raise ValueError(f"config: expected {expected}, got {_checks.describe(dict(config))}")
        built: Model = kind._build(options, rng)
        return built

    @classmethod
    def _build(cls, options: dict[str, Any], rng: Any) -> Model:
        wiring = {name: value for name, value in options.items() if name != "parts"}
        if "parts" not in options or not set(wiring) <= {"inputs", "outputs", "tied"}:
            expected = "'parts' beside the type, and perhaps 'inputs', 'outputs' and 'tied'"
            raise ValueError(f"config: expected {expected}, got {list(options)}")
        parts = _checks.mapping("config['parts']", options["parts"])
        generators = _checks.generator("rng", rng).spawn(len(parts))
        made = {name: from_config(part, rng=own) for (name, part), own in zip(parts.items(), generators, strict=True)}
        model = cls.__new__(cls)
        Model.__init__(model, **made, **wiring)
        return model

    def rng_state(self) -> dict[str, Any]:
        """The states of the generators of layers and of `Dropout`, which draws from them, by the parts' names."""
        return {name: part.rng.bit_generator.state for name, part in self._drawing()}

    def set_rng_state(self, state: Mapping[str, Any]) -> None:
        """Set these generators to what `rng_state` returned.

        Parameters
        ----------
        state : mapping
            The states by the names of all parts that have one.

        Raises
        ------
        TypeError, ValueError
            A name is missing or unknown, or a state is none of such a generator; nothing has changed.
        """
        drawing = dict(self._drawing())
        if set(_checks.mapping("state", state)) != set(drawing):
            raise ValueError(f"state: expected the names {list(drawing)}, got {list(state)}")
        for name, part in drawing.items():
            try:
                copy.deepcopy(part.rng.bit_generator).state = state[name]  # all or none
            except Exception as error:  # whatever the generator's own checks raise
                raise ValueError(f"state[{name!r}]: expected a state from rng_state(): {error}") from error
        for name, part in drawing.items():
            part.rng.bit_generator.state = state[name]

    def _drawing(self) -> Iterator[tuple[str, Any]]:
        """The parts that draw random numbers in `forward`."""
        return ((name, part) for name, part in self._parts.items() if hasattr(part, "dropout"))

    def _evaluate(self, call: Arguments, logits: Any, old: Tape | None) -> tuple[Any, dict[str, Any], ModelTape | None]:
        """One walk through the parts, recorded or not: check everything, then run."""
        graph = self._graph
        values, port, rows = self._enter(call)
        # Pooled outputs are one for each sequence already.
        last_only = _checks.truth("last_only", call.last_only) and not graph.timeless.issuperset(graph.outputs)
        if last_only and graph.last_layer is None:
            raise ValueError(
                "last_only: expected False for a model in which no layer is the last, with heads alone after it, got "
                "True; a Pool says where a sequence ends"
            )
        if logits is not False:
            self._check_logits(logits)
        several = self._check_states_of_output(call)
        by_layer = {field: self._by_layer(port, field, getattr(call, field)) for field in _BY_LAYER}
        out = {} if call.out is None else self._check_out(port, call, values, rows, by_layer, last_only)
        _checks.threads(call.num_threads)
        recorder = None if old is None else self._begin(call, values, rows, by_layer, old)
        timeless = graph.after_last if last_only else graph.timeless
        own = call._replace(memory=self._memory_of_one(call)) if recorder is not None else call
        places = {name: place for place, (name, _) in enumerate(self._drawing())}
        walk = _Walk(
            own, port.direct, values, rows, by_layer, out, {}, recorder, timeless, bool(logits), several, places
        )
        for node in graph.nodes:
            values[node.name] = self._run_layer(node, walk) if node.kind == "layer" else self._run_head(node, walk)
        if recorder is not None:
            shapes = {name: states.map_arrays(lambda one: one.shape, values[name]) for name in graph.outputs}
            recorder.finish(self._device.empty((0,), self.dtype), _Recording(port.direct, rows, shapes, last_only))
        found = {name: port.leave(values[name], out.get(name)) for name in graph.outputs}
        return found[graph.outputs[0]] if graph.single else found, port.leave(walk.finals), recorder

    @staticmethod
    def _run_layer(node: Node, walk: _Walk) -> Any:
        """The output of a layer, whose final state goes to `walk.finals`."""
        name, call, steps = node.name, walk.call, walk.rows[node.clock]
        x, of, recorder = walk.values[node.sources[0]], walk.by_layer, walk.recorder
        state = of["state"].get(name) if node.begins is None else walk.finals[node.begins]
        own = Arguments(
            x,
            state,
            steps.lengths,
            steps.resets,
            of["reset_state"].get(name),
            steps.mask,
            of["given"].get(name),
            walk.out.get(name) if walk.direct else None,
            call.num_threads,
            name == walk.several,
            not node.read or name in walk.timeless,
            call.seed,
            call.first_step,
            call.recompute,
            call.memory,
            x.ndim == len(steps.leading) if node.outside else None,
            walk.places[name],
        )
        old = None if recorder is None else recorder.parts.get(name)
        body, training = node.part._recurrence, recorder is not None
        y, walk.finals[name], tape = body.evaluate(node.part, own, training=training, old=old)
        if recorder is not None:
            recorder.parts[name] = tape
        return y

    def _run_head(self, node: Node, walk: _Walk) -> Array:
        """The output of another part."""
        name, part, steps, recorder = node.name, node.part, walk.rows[node.clock], walk.recorder
        inputs: Any = [walk.values[value] for value in node.sources]
        options: dict[str, Any] = {"num_threads": walk.call.num_threads}
        if node.kind == "pool":
            options |= {"lengths": steps.lengths, "mask": steps.mask}
        elif node.outside and steps.ragged is not None:
            dtype = None if isinstance(part, Embedding) else self.dtype
            inputs = [steps.blanked("x", one, dtype) for one in inputs]
        if name in walk.out and walk.direct and isinstance(part, Dense):
            options["out"] = walk.out[name]
        if walk.logits and isinstance(part, Dense) and name in self._graph.outputs:
            options["logits"] = True
        if recorder is None:
            y = part(*inputs, **options)
        elif isinstance(part, Dropout):
            call, rows = walk.call, steps.batch_first and steps.batched and name not in walk.timeless
            seeds = {"seed": call.seed, "first_step": call.first_step, "batch_first": rows, "place": walk.places[name]}
            y, recorder.parts[name] = part.record(inputs[0], recorder.parts.get(name), **seeds)
        else:
            y, recorder.parts[name] = part.forward(*inputs, tape=recorder.parts.get(name), **options)
        if steps.ragged is not None and name not in walk.timeless:
            steps.blank(y)
        return y  # type: ignore[no-any-return]

    def _check_logits(self, logits: Any) -> None:
        outputs = {name: self._parts[name] for name in self._graph.outputs}
        heads = [name for name, part in outputs.items() if isinstance(part, Dense)]
        if _checks.truth("logits", logits) and not heads:
            found = ", ".join(type(part).__name__ for part in outputs.values())
            raise ValueError(f"logits: expected a Dense as output, got {found}")
        for node in self._graph.nodes:
            if logits and (read := set(heads).intersection(node.sources)):
                raise ValueError(
                    f"logits: expected heads that no part reads, got {read.pop()}, which {node.name} reads"
                )

    def _check_states_of_output(self, call: Arguments) -> str | None:
        """The layer that returns the sequences of all its states, if one is to."""
        if call.outputs() != "states":
            return None
        nodes = [node for node in self._graph.nodes if node.name in self._graph.outputs]
        if (
            not self._graph.single
            or nodes[0].kind != "layer"
            or any(nodes[0].name in node.sources for node in self._graph.nodes)
        ):
            found = ", ".join(f"{node.name}, {type(node.part).__name__}" for node in nodes)
            raise ValueError(f"return_states: expected a layer as the only output, which no part reads, got {found}")
        return nodes[0].name

    def _memory_of_one(self, call: Arguments) -> int | None:
        """What each layer's forward is told of `memory`."""
        count = max(sum(node.kind == "layer" for node in self._graph.nodes), 1)
        return None if call.memory is None else _checks.integer("memory", call.memory) // count

    def _begin(
        self,
        call: Arguments,
        values: Mapping[str, Array],
        rows: Mapping[str | None, _Rows],
        by_layer: Mapping[str, Mapping[str, Any]],
        old: Tape,
    ) -> ModelTape:
        """The tape, spent, when all is checked that a part would refuse in the midst of the walk."""
        tape = checked(old, self)
        if not isinstance(tape, ModelTape):
            raise TypeError("tape: expected a tape of a Model, got one of no part")
        port = self._device.ports[True]
        recomputed = {"recompute": call.recompute, "memory": self._memory_of_one(call)}
        for node in self._graph.nodes:
            steps = rows[node.clock]
            if node.kind == "layer":
                body = node.part._recurrence
                options: dict[str, Any] = {field: given.get(node.name) for field, given in by_layer.items()}
                masks = {"lengths": steps.lengths, "resets": steps.resets, "mask": steps.mask}
                options |= {"seed": call.seed, "first_step": call.first_step, **recomputed}
                x = values.get(node.sources[0])
                if node.outside:
                    options["ids"] = x is not None and x.ndim == len(steps.leading)
                own = Arguments(x, **masks, **options)
                if node.outside:
                    run = body.check(port, own, node.part, training=False)
                else:
                    shape = np.broadcast_to(self.dtype.type(0), (steps.steps, steps.batch, body.layout.input_size))
                    run = body.check_all_but_x(port, own, shape, steps.batched)
                body.levels(node.part, own, run)
            elif node.outside and isinstance(node.part, Dense | Embedding):
                given = values[node.sources[0]]
                dtype = None if isinstance(node.part, Embedding) else self.dtype
                node.part.check_x(port, steps.blanked("x", given, dtype))
        begin(tape, self, self.params)
        return tape

    def _enter(self, call: Arguments) -> tuple[dict[str, Any], Port, dict[str | None, _Rows]]:
        """The inputs where the parameters lie, by the values' names; how they came there; their rows by clocks."""
        graph = self._graph
        given = {"x": call.x} if graph.inputs == ("x",) else self._by_input("x", call.x, complete=True)
        port = self._device.port(next(iter(given.values())))
        rows: dict[str | None, _Rows] = {}
        arrays: dict[str, Array] = {}
        for value, x in given.items():
            arrays[value], leading, batched = self._check_x(port, value, x, call.ids)
            new = _Rows(leading, batched, self.batch_first, self._device)
            same = rows.setdefault(graph.clocks[value], new)
            if leading != same.leading:
                other = next(one for one in arrays if graph.clocks[one] == graph.clocks[value])
                raise ValueError(
                    f"{value}: expected the steps and rows of {other}, {list(same.leading)}, got {list(leading)}"
                )
        first = next(iter(rows.values()))
        for clock, own in rows.items() if len(rows) > 1 else ():
            if (own.batched, own.batch) != (first.batched, first.batch):
                raise ValueError(
                    f"{clock}: expected as many rows as the other inputs have, {first.batch}, got {own.batch}"
                )
        lengths, resets, masks = (self._by_clock(name, getattr(call, name)) for name in ("lengths", "resets", "mask"))
        for clock, own in rows.items() if lengths or resets or masks else ():
            ends = port.checks.lengths(lengths.get(clock), own.steps, own.batch, batched=own.batched)
            rows[clock] = own._replace(
                lengths=port.enter(ends),
                ragged=port.enter(port.checks.ragged(ends, own.steps)),
                resets=port.bring("resets", resets.get(clock)),
                mask=port.bring("mask", masks.get(clock)),
            )
        if not port.direct:
            self._check_hidden(port, arrays, rows, lengths)
        rows[None] = first
        return {value: port.enter(array) for value, array in arrays.items()}, port, rows

    def _check_x(self, port: Port, value: str, x: Any, ids: Any) -> tuple[Array, tuple[int, ...], bool]:
        """One input as an array, its axes before the features, and whether it has a batch axis."""
        array = port.checks.numbers(value, x)
        reads, size = self._graph.reads_ids[value], self._graph.sizes[value]
        told = self._by_input("ids", ids).get(value) if isinstance(ids, Mapping) else ids
        means = reads == "ids"
        if reads == "either":
            means = _checks.means_ids(value, array, 3, size, told)
        elif told is not None and _checks.truth("ids", told) != means and len(self._graph.inputs) == 1:
            raise ValueError(f"ids: expected {means}, which is what reads {value} here takes, got {told}")
        axes = array.ndim + means
        if axes not in (2, 3):
            expected = "integer ids [T, B] or [T]" if reads == "ids" else "[T, B, I] or [T, I]"
            expected += ", or integer ids without the I axis" if reads == "either" else ""
            raise ValueError(f"{value}: expected {expected}; got {_checks.describe(array)}")
        leading = array.shape[: axes - 1]
        if axes == array.ndim and array.shape[-1] != size:
            letters = "[B, T, I] or [T, I]" if self.batch_first else "[T, B, I] or [T, I]"
            raise ValueError(f"{value}: expected {letters} with I={size}, got {_checks.describe(array)}")
        return array, leading, axes == 3

    def _check_hidden(
        self, port: Port, arrays: Mapping[str, Array], rows: Mapping[Any, _Rows], lengths: Mapping[Any, Any]
    ) -> None:
        """Check of inputs on the host what can't be seen any more when they are on the device."""
        for node in self._graph.nodes:
            if node.kind == "layer" and node.outside:
                body, value = node.part._recurrence, node.sources[0]
                ids = arrays[value].ndim == len(rows[node.clock].leading)
                view, batched = body.check_x(port.checks, arrays[value], ids)
                ends = port.checks.lengths(lengths.get(node.clock), *view.shape[:2], batched=batched)
                body.convert_x(port.checks, view, ends)

    def _by_input(self, name: str, values: Any, *, complete: bool = False) -> dict[str, Any]:
        """A caller's mapping from the names of the inputs, with the values' names."""
        known = {value.removeprefix("x."): value for value in self._graph.inputs}
        if not isinstance(values, Mapping):
            raise TypeError(
                f"{name}: expected a mapping from the inputs' names, {', '.join(known)}, got {_checks.describe(values)}"
            )
        wrong = [str(key) for key in values if key not in known]
        missing = [key for key in known if key not in values] if complete else []
        if wrong or missing:
            expected = "the names" if complete else "names among"
            raise ValueError(f"{name}: expected {expected} {list(known)}, got {list(values)}")
        return {known[key]: values[key] for key in known if key in values}

    def _by_clock(self, name: str, values: Any) -> dict[str | None, Any]:
        """A caller's lengths or masks by clocks."""
        if values is None:
            return {}
        clocks = self._graph.clocks
        if len(set(clocks.values())) == 1 and not isinstance(values, Mapping):
            return {next(iter(clocks.values())): values}
        found: dict[str | None, Any] = {}
        for value, own in self._by_input(name, values).items():
            if clocks[value] in found:
                raise ValueError(
                    f"{name}: expected them once for inputs that are read side by side, got {list(values)}"
                )
            found[clocks[value]] = own
        return found

    def _by_layer(self, port: Port, name: str, values: Any) -> Mapping[str, Any]:
        """A caller's dict of states or extra inputs, where the parameters lie."""
        if values is None:
            return {}
        if not isinstance(values, Mapping):
            raise TypeError(
                f"{name}: expected a mapping from the layers' names to states, got {_checks.describe(values)}"
            )
        layers = self._graph.beginning if name == "state" else self._graph.layers
        if not layers.keys() >= values.keys():
            surplus = [key for key in values if key not in layers]
            linked = [node for node in self._graph.nodes if node.name in surplus and node.begins]
            hint = f" ({linked[0].name} begins with the state of {linked[0].begins})" if linked else ""
            raise ValueError(f"{name}: expected names among {list(layers)}, got {surplus}{hint}")
        if port.direct:
            return values
        bring = _bring_given if name == "given" else _bring_state
        return {key: bring(layers[key], port, f"{name}[{key!r}]", value) for key, value in values.items()}

    def _of_outputs(self, port: Port, dy: Any, kept: _Recording) -> dict[str, Any]:
        """The gradients of the outputs, checked and blanked, by the outputs' names."""
        graph = self._graph
        if dy is None:
            return {}
        if not graph.single and not isinstance(dy, Mapping):
            known = ", ".join(graph.outputs)
            raise TypeError(f"dy: expected a mapping from the outputs' names, {known}, got {_checks.describe(dy)}")
        given = {graph.outputs[0]: dy} if graph.single else dy
        if wrong := [key for key in given if key not in graph.outputs]:
            raise ValueError(f"dy: expected names among {list(graph.outputs)}, got {wrong}")
        timeless = graph.after_last if kept.last_only else graph.timeless
        found = {}
        for node in graph.nodes:
            if (own := given.get(node.name)) is None:
                continue
            name = "dy" if graph.single else f"dy[{node.name!r}]"
            own = self._check_dy(port, name, own, kept.shapes[node.name])
            if node.kind == "head" and node.name not in timeless:
                own = kept.rows[node.clock].blanked(name, own, self.dtype)
            found[node.name] = own
        return found

    def _check_dy(self, port: Port, name: str, dy: Any, shape: Any) -> Any:
        """One gradient of an output, where the parameters lie; of several sequences a tuple with None for zeros."""
        if not shape or not isinstance(shape[0], tuple):
            return port.enter(port.checks.real_of_shape(name, dy, self.dtype, shape))
        if not isinstance(dy, tuple | list) or len(dy) != len(shape):
            raise TypeError(
                f"{name}: expected a tuple of {len(shape)}, as y is with return_states, got {_checks.describe(dy)}"
            )
        parts = [(f"{name}[{n}]", one, of) for n, (one, of) in enumerate(zip(dy, shape, strict=True))]
        return tuple(None if one is None else self._check_dy(port, part, one, of) for part, one, of in parts)

    def _check_out(
        self,
        port: Port,
        call: Arguments,
        values: Mapping[str, Array],
        rows: Mapping[str | None, _Rows],
        by_layer: Mapping[str, Mapping[str, Any]],
        last_only: bool,
    ) -> dict[str, Array]:
        """The caller's arrays to write to, by the outputs' names."""
        graph = self._graph
        if not graph.single and not isinstance(call.out, Mapping):
            known = ", ".join(graph.outputs)
            raise TypeError(
                f"out: expected a mapping from the outputs' names, {known}, got {_checks.describe(call.out)}"
            )
        given = {graph.outputs[0]: call.out} if graph.single else dict(call.out)
        if wrong := [key for key in given if key not in graph.outputs]:
            raise ValueError(f"out: expected names among {list(graph.outputs)}, got {wrong}")
        fields = ("state", "reset_state")
        inputs = [pair for field in fields for pair in _arrays(field, by_layer.get(field, {}))]
        inputs = [*values.items(), *inputs] if port.direct else []
        timeless = graph.after_last if last_only else graph.timeless
        for node in graph.nodes:
            if node.name in given:
                steps = rows[node.clock]
                leading = steps.leading
                if node.name in timeless:
                    leading = (steps.batch,) if steps.batched else ()
                name, out = "out" if graph.single else f"out[{node.name!r}]", given[node.name]
                layout = node.part._recurrence.layout if call.return_states else None
                widths = layout.state_widths if layout else (graph.sizes[node.name],)
                if len(widths) > 1 and (not isinstance(out, tuple | list) or len(out) != len(widths)):
                    raise TypeError(f"{name}: expected a tuple of {len(widths)} arrays, got {_checks.describe(out)}")
                given[node.name] = tuple(out) if len(widths) > 1 else out
                for one, width in zip(out if len(widths) > 1 else (out,), widths, strict=True):
                    features = layout.directions * width if layout else width
                    port.checks.output(name, one, (*leading, features), self.dtype, inputs)
                    inputs.append((name, one))
        return given

    def _check_dstates(self, dstates: Mapping[str, Any], kept: _Recording) -> None:
        """Raise before anything is added what the layers would raise in the midst of it."""
        for node in self._graph.nodes:
            if node.name in dstates:
                steps, body = kept.rows[node.clock], node.part._recurrence
                name = f"dstate[{node.name!r}]"
                body.check_states(self._device.checks, name, dstates[node.name], steps.batch, steps.batched, some=True)

    def _slice(self, gradients: Gradients, name: str) -> Gradients:
        """The gradients of one part: a view."""
        return gradients.part(self._parts[name].params, self._offsets[name])


def _bring_state(layer: Recurrent, port: Port, name: str, value: Any) -> Any:
    return layer._recurrence.bring_state(port, name, value)


def _bring_given(layer: Recurrent, port: Port, name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: port.bring(f"{name}[{key!r}]", array) for key, array in value.items()}
    return port.bring(name, value)


def _arrays(name: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """The arrays of a caller's states."""
    return ((name, array if hasattr(array, "shape") else np.asarray(array)) for array in states.arrays(given))


def _sum(one: Any, two: Any) -> Any:
    """The sum of two gradients, arrays or states of one structure, in which None is zeros."""
    if one is None or two is None:
        return two if one is None else one
    if isinstance(one, tuple | list):
        return tuple(_sum(a, b) for a, b in zip(one, two, strict=True))
    return one + two


def _check_parts(parts: Mapping[str, Any]) -> None:
    """Whether these parts can make up one model."""
    if not parts:
        raise ValueError("parts: expected at least one part, got none")
    for name, part in parts.items():
        if kind_of(part) is None:
            raise TypeError(
                f"{name}: expected a Recurrent (RNN, LSTM, GRU, ...), a Dense, an Embedding or another part of models, "
                f"got {_checks.describe(part)}"
            )
        if not name.isidentifier() or name == "x":
            raise ValueError(f"parts: expected names other than 'x' that are identifiers, got {name!r}")
    for name, part in parts.items():
        if part.params.in_model or sum(other.params is part.params for other in parts.values()) > 1:
            raise ValueError(f"{name}: expected a part that is in no model yet; load() can copy weights to another one")
    owners = {name: part for name, part in parts.items() if part.params}
    if not owners:
        raise ValueError("parts: expected at least one part with parameters, got none")
    first, one = next(iter(owners.items()))
    for name, part in owners.items():
        if part.dtype != one.dtype:
            raise ValueError(f"{name}: expected dtype {one.dtype} as {first} has, got {part.dtype}")
        if part.params.device is not one.params.device:
            there, here = one.params.device, part.params.device
            raise ValueError(f"{name}: expected device {there} as {first} has, got {here}")
    if len({part.batch_first for part in parts.values() if hasattr(part, "batch_first")}) > 1:
        raise ValueError("batch_first: expected the same for all layers, got layers with and layers without it")


def _check_tied(parts: Mapping[str, Any], tied: Any) -> dict[tuple[str, str], tuple[str, str]]:
    """The parameters that are others', (part, name), and whose they are."""
    pairs: dict[tuple[str, str], tuple[str, str]] = {}
    known = {f"{name}.{key}": (name, key) for name, part in parts.items() for key in part.params}
    for one, other in ({} if tied is None else _checks.mapping("tied", tied)).items():
        if one in parts and other in parts:
            found = {(one, key): (other, key) for key in parts[one].params}
        elif one in known and other in known:
            found = {known[one]: known[other]}
        else:
            wrong = one if one not in parts and one not in known else other
            raise ValueError(
                f"tied: expected two parts or two of {', '.join(known)}; got {wrong!r} in {one!r}: {other!r}"
            )
        for (name, key), (owner, of) in found.items():
            shapes = parts[name].params.shapes[key], parts[owner].params.shapes.get(of)
            if shapes[0] != shapes[1]:
                has = "none" if shapes[1] is None else f"shape {list(shapes[1])}"
                raise ValueError(f"tied: expected {owner}.{of} of shape {list(shapes[0])}, as {name}.{key}, got {has}")
            axes = parts[name].params.tables.get(key), parts[owner].params.tables.get(of)
            if axes[0] != axes[1]:
                sparse, other = (f"{name}.{key}", f"{owner}.{of}")[:: 1 if axes[1] is None else -1]
                raise ValueError(
                    f"tied: expected two with sparse gradients of the same axis or two without, got {sparse} with one, "
                    f"tied to {other}, whose gradient is of all ids (sparse=False will do for both)"
                )
        pairs |= found
    for (name, key), (owner, of) in pairs.items():
        if (owner, of) in pairs or (name, key) == (owner, of):
            raise ValueError(f"tied: expected {owner}.{of} to be a parameter of its own, to which {name}.{key} is tied")
    return pairs
