"""A model's own output as its next input: text and other ids (`greedy`, `sample`, `beam`), and numbers (`forecast`).

What begins the sequence is read in one call. Then the model runs as a stream, so a step costs what the kernels' step
costs; the results have the same bits as one call over the whole sequence. (What can't be a stream, see `Model.stream`,
is called step by step.)

Where a function takes a model it also takes parts, ``[layer, head]``, that run one after the other: for the decoder of
an encoder-decoder, whose parts are called by themselves here. `state` is what it begins with.

Arrays are laid out as the model's: [T, B], or [B, T] with `batch_first`, or [T] for one sequence.

Rejected: top-p (`sample` with a `temperature` and `top_k` does what it is for; a function of one's own on logits is a
loop of four lines); a cache of prompts (a state is one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks
from . import _state as states
from ._checks import Array
from ._device import HOST, holder
from ._graph import Graph, kind_of
from ._model_stream import make_spec
from ._part import Part
from .heads import Dense
from .layers import Recurrent
from .model import Model
from .stream import ModelStream

__all__ = ["Beams", "Decoded", "beam", "forecast", "greedy", "sample"]

Ids = NDArray[np.int64]


class Decoded(NamedTuple):
    """Ids that a model has drawn.

    Attributes
    ----------
    ids : ndarray of int64, shape [T, B], [B, T] or [T]
        Without the prompt; `stop` from where a row has stopped.
    lengths : ndarray of int64, shape [B], or []
        The ids before `stop`.
    """

    ids: Ids
    lengths: Ids


class Beams(NamedTuple):
    """The likeliest continuations that a beam search has found, the best first.

    Attributes
    ----------
    ids : ndarray of int64, shape [W, T, B], [W, B, T] or [W, T]
        Without the prompt; `stop` from where one has stopped.
    lengths : ndarray of int64, shape [W, B], or [W]
        The ids before `stop`.
    scores : ndarray of float64, shape [W, B], or [W]
        The logarithm of each one's probability, `stop` included; -inf where there are fewer than W.
    """

    ids: Ids
    lengths: Ids
    scores: NDArray[np.float64]


def greedy(
    model: Any,
    prompt: ArrayLike,
    steps: int,
    *,
    state: Any = None,
    lengths: ArrayLike | None = None,
    stop: int | None = None,
    num_threads: int | None = None,
) -> Decoded:
    """Take the likeliest id at each step.

    Parameters
    ----------
    model : Model, layer, or sequence of parts
        Takes ids, gives a score for each id: logits, or probabilities whose head then skips its activation.
    prompt : array_like of int, shape [T, B], [B, T] with `batch_first`, or [T]
        What is to be continued; at least one id.
    steps : int
        How many ids to draw.
    state : optional
        What the model begins with before the prompt: of parts a list with a state for each layer.
    lengths : array_like of int, shape [B], optional
        Of prompts of different lengths, each at least 1.
    stop : int, optional
        The id after which a row has ended.
    num_threads : int, optional
        As for the layers.

    Returns
    -------
    Decoded

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, the model has two directions, or gives scores that are not numbers.

    Examples
    --------
    >>> import rnnfast
    >>> model = rnnfast.Model(rnn=rnnfast.GRU(5, 8, rng=0), head=rnnfast.Dense(8, 5, rng=0))
    >>> rnnfast.decode.greedy(model, [0, 1], 4).ids.shape
    (4,)
    """
    common = {"state": state, "lengths": lengths, "stop": stop, "num_threads": num_threads}
    return sample(model, prompt, steps, temperature=0.0, **common)


def sample(
    model: Any,
    prompt: ArrayLike,
    steps: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    rng: Any = None,
    state: Any = None,
    lengths: ArrayLike | None = None,
    stop: int | None = None,
    num_threads: int | None = None,
) -> Decoded:
    """Draw an id from the model's probabilities at each step.

    Parameters
    ----------
    model, prompt, steps, state, lengths, stop, num_threads
        As for `greedy`.
    temperature : float, optional
        The logits are divided by it: below 1 likely ids become likelier. 0 takes the likeliest.
    top_k : int, optional
        Only so many of the likeliest ids are drawn from; of equal ones the first.
    rng : optional
        Seed or generator.

    Returns
    -------
    Decoded

    Raises
    ------
    TypeError, ValueError
        As from `greedy`.

    Examples
    --------
    >>> import rnnfast
    >>> model = rnnfast.Model(rnn=rnnfast.GRU(5, 8, rng=0), head=rnnfast.Dense(8, 5, rng=0))
    >>> drawn = rnnfast.decode.sample(model, [[0, 1, 2]], 10, temperature=0.7, top_k=3, rng=0)  # three rows
    >>> drawn.ids.shape
    (10, 3)
    """
    heat = _checks.number("temperature", temperature)
    if heat < 0:
        raise ValueError(f"temperature: expected a number of at least 0, got {heat}")
    count = None if top_k is None else _checks.integer("top_k", top_k)
    generator = _checks.generator("rng", rng)

    def draw(scores: Array) -> Array:
        if heat == 0:
            return np.asarray(scores.argmax(axis=-1))
        if count is not None and count < scores.shape[-1]:
            rank = np.argsort(np.argsort(-scores, axis=-1, kind="stable"), axis=-1)
            scores = np.where(rank < count, scores, -np.inf)
        with np.errstate(over="ignore", under="ignore"):  # what is too far below the largest has no share
            shares = np.cumsum(np.exp((scores - scores.max(axis=-1, keepdims=True)) / heat), axis=-1)
        place = generator.random(len(scores)) * shares[:, -1]
        return np.asarray((shares <= place[:, None]).sum(axis=-1))

    return _draws(model, prompt, steps, state, lengths, stop, num_threads, draw)


def beam(
    model: Any,
    prompt: ArrayLike,
    steps: int,
    *,
    width: int = 4,
    length_penalty: float = 0.0,
    state: Any = None,
    lengths: ArrayLike | None = None,
    stop: int | None = None,
    num_threads: int | None = None,
) -> Beams:
    """Search for the likeliest sequence, keeping the `width` best beginnings at each step.

    Parameters
    ----------
    model, prompt, steps, state, lengths, stop, num_threads
        As for `greedy`, which is the search of width 1.
    width : int, optional
        W.
    length_penalty : float, optional
        What ranks is the logarithm of the probability divided by the length (with `stop`) to this power: above 0,
        longer sequences are favoured, whose probabilities are smaller by nature.

    Returns
    -------
    Beams

    Raises
    ------
    TypeError, ValueError
        As from `greedy`.

    Examples
    --------
    >>> import rnnfast
    >>> model = rnnfast.Model(rnn=rnnfast.GRU(5, 8, rng=0), head=rnnfast.Dense(8, 5, rng=0))
    >>> found = rnnfast.decode.beam(model, [0, 1], 4, width=3, stop=4)
    >>> found.ids.shape, bool(found.scores[0] >= found.scores[1])
    ((3, 4), True)
    """
    run = _Steps(model, num_threads)
    count, kept = _checks.integer("steps", steps, 0, _checks.MAX_ELEMENTS), _checks.size("width", width)
    power = _checks.number("length_penalty", length_penalty)
    if abs(power) > 100:
        raise ValueError(f"length_penalty: expected a number in -100..100, got {power}")
    logits = run.begin(prompt, state, lengths)
    batch, classes = logits.shape
    end = None if stop is None else _checks.integer("stop", stop, 0, classes - 1)
    run.take(np.repeat(np.arange(batch), kept))
    scores = np.full((batch, kept), -np.inf)
    scores[:, 0] = 0.0  # of W copies of the prompt, one counts
    sizes = np.zeros((batch, kept), np.int64)  # ids, with `stop`
    ended = np.zeros((batch, kept), np.bool_)
    ids = np.zeros((count, batch, kept), np.int64)
    log_shares = _log_softmax(logits)[:, None].repeat(kept, axis=1)
    for step in range(count):
        if end is not None:  # what has ended goes on with nothing but `stop`, for certain
            log_shares[ended] = -np.inf
            log_shares[ended, end] = 0.0
        totals = scores[:, :, None] + log_shares
        longer = np.repeat((sizes + ~ended)[:, :, None], classes, axis=2)
        best = np.argsort(-(totals / longer**power).reshape(batch, kept * classes), axis=1, kind="stable")[:, :kept]
        parents, ids[step] = np.divmod(best, classes)
        rows = np.arange(batch)[:, None]
        scores = np.take_along_axis(totals.reshape(batch, kept * classes), best, axis=1)
        sizes = np.take_along_axis(longer.reshape(batch, kept * classes), best, axis=1)
        ids[:step] = ids[:step, rows, parents]
        ended = np.zeros_like(ended) if end is None else ids[step] == end
        if ended.all():
            ids[step + 1 :] = ids[step]
            break
        if step + 1 < count:
            run.take((rows * kept + parents).ravel())
            log_shares = _log_softmax(run.step(ids[step].ravel())).reshape(batch, kept, classes)
    whole = sizes - (ended if end is not None else 0)
    found = ids.transpose(2, 1, 0) if run.batch_first else ids.transpose(2, 0, 1)
    if not run.batched:
        return Beams(ids[:, 0].T.copy(), whole[0], scores[0])
    return Beams(np.ascontiguousarray(found), whole.T.copy(), scores.T.copy())


def forecast(
    model: Any,
    x: ArrayLike,
    steps: int,
    *,
    state: Any = None,
    lengths: ArrayLike | None = None,
    feed: Callable[[Array, int], ArrayLike] | None = None,
    num_threads: int | None = None,
) -> Array:
    """Forecast a series: each step's output is the next step's input.

    Parameters
    ----------
    model : Model, layer, or sequence of parts
        Takes the values of one step and gives those of the next.
    x : array_like, shape [T, B, I], [B, T, I] with `batch_first`, or [T, I]
        The series so far; at least one step.
    steps : int
        How many steps to forecast.
    state, lengths, num_threads
        As for `greedy`.
    feed : callable, optional
        ``feed(y, step)`` makes the next input [B, I] of an output [B, O] and its number, from 0: to add what is known
        of the future, such as the time of day. By default the output is the input.

    Returns
    -------
    ndarray, shape [steps, B, O], [B, steps, O] or [steps, O]
        The first is the model's output at the last step of `x`.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or shape, or the model has two directions, or other sizes of input and output and
        there is no `feed`.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnfast
    >>> model = rnnfast.Model(rnn=rnnfast.LSTM(1, 8, rng=0), head=rnnfast.Dense(8, 1, rng=0))
    >>> rnnfast.decode.forecast(model, np.sin(np.arange(30.0))[:, None], 5).shape
    (5, 1)
    """
    run = _Steps(model, num_threads, ids=False)
    count = _checks.integer("steps", steps, 0, _checks.MAX_ELEMENTS)
    if feed is not None and not callable(feed):
        raise TypeError(f"feed: expected a function, got {_checks.describe(feed)}")
    y = run.begin(x, state, lengths)
    if feed is None and y.shape[-1] != run.features:
        raise ValueError(
            f"model: expected as many outputs as inputs, or feed= to make the one of the other, got {y.shape[-1]} and "
            f"{run.features}"
        )
    found = np.empty((count, *y.shape), y.dtype)
    for step in range(count):
        found[step] = y
        if step + 1 < count:
            y = run.step(y if feed is None else _fed(feed(y.copy(), step), (len(y), run.features)))
    if not run.batched:
        return found[:, 0]
    return np.ascontiguousarray(found.swapaxes(0, 1)) if run.batch_first else found


def _fed(x: ArrayLike, expected: tuple[int, int]) -> Array:
    array = _checks.numbers("feed's result", x)
    _checks.shape("feed's result", array, expected, "[B, I]")
    return array


def _draws(
    model: Any,
    prompt: ArrayLike,
    steps: int,
    state: Any,
    lengths: ArrayLike | None,
    stop: int | None,
    num_threads: int | None,
    draw: Callable[[Array], Array],
) -> Decoded:
    """An id from each step's scores, [B, C] in float64, until all rows have stopped."""
    run = _Steps(model, num_threads)
    count = _checks.integer("steps", steps, 0, _checks.MAX_ELEMENTS)
    scores = run.begin(prompt, state, lengths)
    end = None if stop is None else _checks.integer("stop", stop, 0, scores.shape[-1] - 1)
    ids = np.full((count, len(scores)), 0 if end is None else end, np.int64)
    going = np.ones(len(scores), np.bool_)
    for step in range(count):
        drawn = draw(_finite(scores))
        ids[step] = drawn if end is None else np.where(going, drawn, end)
        if end is not None and not (going := going & (drawn != end)).any():
            break
        if step + 1 < count:
            scores = run.step(ids[step])
    whole = np.full(len(scores), count) if end is None else (np.cumsum(ids == end, axis=0) == 0).sum(axis=0)
    if not run.batched:
        return Decoded(ids[:, 0], whole[0])
    return Decoded(ids.T.copy() if run.batch_first else ids, whole)


def _finite(scores: Array) -> Array:
    """Scores in float64; -inf, of an id that can't be, is one."""
    wide = scores.astype(np.float64)
    if np.isnan(wide).any() or np.isposinf(wide).any() or (wide.size and np.isneginf(wide).all(axis=-1).any()):
        raise ValueError("model: expected scores that are numbers, got NaN or infinity")
    return wide


def _log_softmax(scores: Array) -> Array:
    wide = _finite(scores)
    wide = wide - wide.max(axis=-1, keepdims=True)
    with np.errstate(under="ignore"):
        return np.asarray(wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True)))


class _Steps:
    """A model that is fed a sequence, then step by step.

    Attributes
    ----------
    batch_first, batched : bool
        Of what it was fed first.
    features : int
        Of the input.
    """

    def __init__(self, model: Any, num_threads: Any, *, ids: bool = True) -> None:
        self._ids = ids
        self._model = model if isinstance(model, Model) else None
        parts = _parts_of(model)
        self._layers = {name: part for name, part in parts.items() if isinstance(part, Recurrent)}
        if not self._layers:
            raise ValueError("model: expected a recurrent layer in it, got none")
        first, begins, ends = next(iter(self._layers.values())), *([*parts.values()][n] for n in (0, -1))
        if any(part.bidirectional or part.reverse for part in self._layers.values()):
            raise ValueError("model: expected layers that run forwards, got one that needs the end of a sequence")
        self._options: dict[str, Any] = {"num_threads": _checks.threads(num_threads)}
        self._graph = Graph(parts, None, None) if self._model is None else self._model._graph
        self._logits: dict[str, Any] = {"logits": True} if ids and isinstance(ends, Dense) else {}
        self.batch_first = bool(first.batch_first)
        self.batched = True
        self.features = int(getattr(begins, "input_size", 0))
        self._state: Any = None  # by the names of the layers
        self._params = first.params
        dtypes = {part.dtype for part in parts.values()} - {None}
        self._streams = len(dtypes) == 1 and all(part.params.device is HOST for part in parts.values())
        self._stream: Any = None

    def begin(self, x: ArrayLike, state: Any, lengths: ArrayLike | None) -> Array:
        """The output [B, O] at the last step of each row."""
        array = _checks.integers("prompt", x) if self._ids else _checks.numbers("x", x)
        axes = 2 if array.dtype.kind in "iu" and array.ndim < 3 else 3
        self.batched = array.ndim == axes
        steps = array.shape[self.batched and self.batch_first] if array.ndim in (axes, axes - 1) else 0
        if not steps:
            name, expected = ("prompt", "ids [T, B] or [T]") if self._ids else ("x", "[T, B, I] or [T, I]")
            raise ValueError(f"{name}: expected {expected} with at least one step, got {_checks.describe(array)}")
        ends = None if lengths is None else np.atleast_1d(_checks.integers("lengths", lengths))
        if ends is not None and (ends < 1).any():
            raise ValueError("lengths: expected at least one step in each prompt, got a row with none")
        if not self.batched:
            array = array[None] if self.batch_first else array[:, None]
            state = states.map_arrays(lambda part: np.asarray(part)[:, None], state)
        return self._read(array, self._given(state), ends)

    def step(self, x: Array) -> Array:
        """The next output [B, O], after the input [B, I] or ids [B]."""
        if self._stream is None:
            return self._read(x[:, None] if self.batch_first else x[None], self._state, None)
        told = {"ids": True} if x.ndim == 1 and self._graph.reads_ids["x"] == "either" else {}
        return np.asarray(self._stream.step(x, **told))

    def take(self, rows: Array) -> None:
        """Go on with other rows in place of these: some, or some of them several times."""
        if self._stream is not None:
            self._state = self._stream.state
        self._state = states.map_arrays(lambda part: holder(part).to_host(part)[:, rows], self._state)
        self._open(len(rows))

    def _read(self, x: Array, state: Any, lengths: Any) -> Array:
        """One call over a sequence; the state after it is kept."""
        y = self._of_parts(x, state, lengths) if self._model is None else self._of_model(x, state, lengths)
        y = np.asarray(holder(y).to_host(y))
        self._open(len(y))
        return y

    def _of_model(self, x: Array, state: Any, lengths: Any) -> Any:
        told: dict[str, Any] = {"ids": True} if x.ndim == 2 else {}
        last = self._graph.last_layer is not None
        assert self._model is not None
        y, self._state = self._model(x, state, lengths=lengths, last_only=last, **told, **self._options, **self._logits)
        if getattr(y, "ndim", 0) != 3 - last:
            raise ValueError("model: expected one output, with a value at every step; got several, or a pooled one")
        if last:
            return y
        rows = y if self.batch_first else y.swapaxes(0, 1)
        rows = holder(rows).to_host(rows)
        return rows[np.arange(len(rows)), -1 if lengths is None else lengths - 1]

    def _of_parts(self, x: Any, state: Any, lengths: Any) -> Any:
        self._state = {}
        for node in self._graph.nodes:
            if node.kind == "layer":
                options = {"ids": True} if x.ndim == 2 else {}
                last = node.name == self._graph.last_layer
                given = (state or {}).get(node.name)
                x, after = node.part(x, given, lengths=lengths, last_only=last, **options, **self._options)
                self._state[node.name] = after
            elif isinstance(node.part, Dense):
                x = node.part(x, **self._options, **(self._logits if node.name in self._graph.outputs else {}))
            else:
                x = node.part(x)
        return x

    def _open(self, rows: int) -> None:
        """A stream of so many rows that goes on from the state."""
        if not rows or not self._streams:
            return
        if self._stream is None or self._stream.batch_size != rows:
            source = partial(make_spec, self._graph, self._params, logits=bool(self._logits))
            options = {"batch": rows, "weights": None, "batch_first": self.batch_first, **self._options}
            try:
                self._stream = ModelStream._make(source, options)
            except ValueError:  # it can't be a stream
                self._streams = False
                return
        self._stream.state = self._state

    def _given(self, state: Any) -> Any:
        """The caller's state by the names of the layers."""
        if state is None or self._model is not None:
            return state
        if len(self._layers) == 1 and not (isinstance(state, list) and len(state) == 1):
            state = [state]
        if not isinstance(state, tuple | list) or len(state) != len(self._layers):
            raise ValueError(
                f"state: expected {len(self._layers)} states, one per layer, got {_checks.describe(state)}"
            )
        return dict(zip(self._layers, state, strict=True))


def _parts_of(model: Any) -> dict[str, Any]:
    """The parts of a model by name, or of a list by number."""
    if isinstance(model, Model):
        return dict(model.parts)
    parts = [model] if isinstance(model, Part) else model
    if not isinstance(parts, Sequence) or not parts or not all(map(_steps_alone, parts)):
        raise TypeError(f"model: expected a Model, a layer, or a list of parts, got {_checks.describe(model)}")
    return {str(number): part for number, part in enumerate(parts)}


def _steps_alone(part: Any) -> bool:
    """Whether a part can go step by step: a layer, or one that looks at each step by itself."""
    return kind_of(part) in ("layer", "head") and not getattr(part, "several", False)
