"""Learning while a stream runs: an update at any step, with nothing of the steps before kept but *traces*.

A trace is the derivative of a unit's state by a parameter. Every step hands it on and adds what the parameter does in
the step itself; the gradient of a step's loss is its error times the traces (real-time recurrent learning, Williams &
Zipser 1989). A trace of every state by every parameter costs units times parameters. Here each unit has traces of its
own parameters alone, as many as there are parameters:

- "rtrl": exact, for cells whose units see nothing of each other but through the input: IndRNN, SRU, minGRU, minLSTM,
  the RG-LRU, the LRU without its readout. (Zucchet et al. 2023, "Online learning of long-range dependencies".)
- "snap1": any cell; what a unit hands itself through the diagonal of U counts, what it hands others does not.
  (Menick et al. 2020, "A practical sparse approximation for real time recurrent learning".)
- "rflo": any cell; U hands nothing on at all, only what a state keeps of itself does. (Murray 2019, "Local online
  learning in recurrent networks with random feedback", here with the loss's own gradient as feedback.)

Where products and means of computed rows follow each other in one step, other units are constants in each of them.

An update between two steps leaves traces of older parameters behind, as in all of these papers.

Rejected: exact traces of cells with a dense U (units times the memory and the time; truncated BPTT is better there);
stacks (a lower layer's parameters act through all units of the upper one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _flat
from ._checks import Array
from ._unitwise import UnitwiseStep
from ._words import Method
from .heads import Dense
from .layers import Recurrent
from .model import Model
from .optim import drop_frozen
from .parameters import Gradients
from .tape import Tape
from .tbptt import NonFiniteError

__all__ = ["METHODS", "Learned", "Learner"]

METHODS = ("rtrl", "snap1", "rflo")


class Learned(NamedTuple):
    """What one step was.

    Attributes
    ----------
    prediction : ndarray, shape [B, O]
        Of the layer or its head, as `x` has a batch axis or not; `out`, if that was given.
    loss : float or None
        None without a target.
    updated : bool
        Whether the parameters have changed.
    """

    prediction: Array
    loss: Any
    updated: bool


class Learner:
    """Learns from a stream step by step; see `rnnfast.online`. Usually made by ``layer.learner(...)``.

    Parameters
    ----------
    model : Recurrent or Model
        One layer in one direction forwards, on the CPU, without dropout or zoneout; or a model of such a layer and a
        `Dense`.
    loss : callable
        ``loss(prediction, target) -> (loss, dprediction)``, as those of `rnnfast.losses`.
    optimizer
        An optimiser on ``model.params``.
    method : {"snap1", "rflo", "rtrl"}
        "rtrl" is for cells whose units do not see each other's states.
    batch_size : int, optional
        Streams side by side.
    clip_norm : float, optional
        Bound for the gradient's norm.
    logits : bool, optional
        Let the head skip its activation, for a loss that takes logits.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, or the method is not for this cell.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import LSTM, losses, optim
    >>> layer = LSTM(2, 3, rng=0)
    >>> learner = layer.learner(losses.mean_squared_error, optim.SGD(layer.params, 0.1), method="snap1")
    >>> learned = learner.step(np.ones((1, 2)), np.zeros((1, 3)))
    >>> learned.prediction.shape, learned.updated
    ((1, 3), True)
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        optimizer: Any,
        *,
        method: Method = "snap1",
        batch_size: int = 1,
        clip_norm: float | None = None,
        logits: bool = False,
    ) -> None:
        layer_name, layer, head_name, head = _layer_and_head(model)
        if not callable(loss):
            raise TypeError(f"loss: expected a callable, got {_checks.describe(loss)}")
        if not callable(getattr(optimizer, "step", None)):
            raise TypeError(f"optimizer: expected an optimiser on model.params, got {_checks.describe(optimizer)}")
        if getattr(optimizer, "params", model.params) is not model.params:
            raise ValueError("optimizer: expected one on model.params, got one on other parameters")
        self.method = _checks.choice("method", method, METHODS)
        self.batch_size = _checks.size("batch_size", batch_size)
        self._clip = math.inf if clip_norm is None else _checks.limit("clip_norm", clip_norm)
        self._logits = _checks.truth("logits", logits)
        if self._logits and head is None:
            raise ValueError("logits: expected False for a layer without a head, got True")
        _check_layer(layer, self.method)
        self._model, self._layer, self._head = model, layer, head
        self._loss, self._optimizer = loss, optimizer
        self._gradients: Gradients = model.params.zeros()
        self._of_head = None if head is None else _slice(self._gradients, head_name, head.params)
        self._tape = Tape()
        self._store = layer.params.store
        self._program = layer._recurrence.layout.program
        own = _slice(self._gradients, layer_name, layer.params)
        names = [one.name for one in self._program.parameters]
        self._step = UnitwiseStep(
            self._program,
            {name: layer.params[f"{name}_l0"] for name in names},
            self.batch_size,
            layer.input_size,
            layer.hidden_size,
            layer.dtype,
            through_states=self.method != "rflo",
        )
        self._traces = [
            np.zeros((*one.direct.shape, one.source.shape[2]), layer.dtype) for one in self._step.influences
        ]
        gradients = [own[f"{one.name}_l0"] for one in self._step.influences]
        self._targets = [  # views of the gradients, block by block
            gradient.reshape(-1, layer.hidden_size, trace.shape[-1])[one.blocks]
            for one, gradient, trace in zip(self._step.influences, gradients, self._traces, strict=True)
        ]
        self._error = np.zeros((self.batch_size, layer.hidden_size), layer.dtype)
        self._pending = False
        self.reset()

    def __repr__(self) -> str:
        return f"Learner({self._model!r}, method={self.method!r}, batch_size={self.batch_size})"

    @property
    def nbytes(self) -> int:
        """The bytes of the traces."""
        return sum(trace.nbytes for trace in self._traces)

    @property
    def state(self) -> Any:
        """A copy of the state after the last step, in the layer's structure with a layer's axes: [1, B, H]."""
        states = tuple(row[None].copy() for row in self._step.before)
        return states if len(states) > 1 else states[0]

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Begin new sequences: initial states, and traces of zeros.

        Parameters
        ----------
        rows : array_like, optional
            The rows that begin anew: their numbers or a boolean mask [B]. By default all.
        """
        chosen = slice(None) if rows is None else _checks.rows("rows", rows, self.batch_size)
        for one, row in zip(self._program.states, self._step.before, strict=True):
            row[chosen] = one.initial
        for trace in self._traces:
            trace[:, chosen] = 0

    def step(
        self,
        x: ArrayLike,
        target: ArrayLike | None = None,
        *,
        given: Any = None,
        update: bool = True,
        out: Array | None = None,
    ) -> Learned:
        """One step of all streams; with a target, learn from it.

        Parameters
        ----------
        x : array_like, shape [B, I], or integer ids [B]
            Also without the batch axis, if B is 1; so are then the target's and the prediction.
        target : array_like, optional
            What the loss takes; None learns nothing in this step, whose traces are carried on.
        given : mapping from str to array_like, or array_like, optional
            The cell's extra inputs, each [B] or [B, H].
        update : bool, optional
            Whether the optimiser makes a step with the gradients since its last one; they add up otherwise.
        out : ndarray, shape of the prediction, optional
            Where to write it, of the layer's dtype; a layer's step with it takes no memory.

        Returns
        -------
        Learned

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape; nothing has changed.
        NonFiniteError
            The gradient is not finite. There was no update, and the gradients since the last one are gone; states and
            traces are no longer of use before `reset`.
        """
        if self._layer.params.store is not self._store:
            raise ValueError(
                "layer: expected its parameters where they were, but it has joined a model; make a new one"
            )
        batched = self._fill(x, given)
        _checks.truth("update", update)
        if out is not None:
            features = self._layer.hidden_size if self._head is None else self._head.output_size
            shape = (self.batch_size, features)[not batched :]
            out = _checks.output("out", out, shape, self._layer.dtype, ())
        step = self._step
        with np.errstate(all="ignore"):  # as in the kernels
            step.forward()
        prediction = self._predict()
        if not batched:
            prediction = prediction[0]
        loss = error = None
        if target is not None:
            loss, error = self._differentiated(prediction, target)
        with np.errstate(all="ignore"):
            step.backward()
        for one, trace, target_of in zip(step.influences, self._traces, self._targets, strict=True):
            gradient = None if error is None else target_of
            _flat.advance_traces(trace, step.handed, one.direct, one.source, error, gradient)
        np.copyto(step.before, step.after)
        if out is not None:
            np.copyto(out, prediction)
        self._pending |= error is not None
        updated = self._update() if update and self._pending else False
        return Learned(prediction.copy() if out is None else out, loss, updated)

    def state_dict(self) -> dict[str, Any]:
        """States, traces and the gradients that wait for an update, as copies.

        Returns
        -------
        dict
        """
        return {
            "states": self._step.before.copy(),
            "traces": [trace.copy() for trace in self._traces],
            "gradients": self._gradients.flat.copy() if self._pending else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            Of a learner of an equal model, with as many rows.

        Raises
        ------
        TypeError, ValueError
            It is not such a mapping; nothing has changed.
        """
        given = _checks.mapping("state", state)
        if set(given) != {"states", "traces", "gradients"}:
            raise ValueError(f"state: expected one of state_dict(), got the keys {sorted(map(str, given))}")
        traces = given["traces"]
        if not isinstance(traces, list | tuple) or len(traces) != len(self._traces):
            raise ValueError(f"traces: expected a list of {len(self._traces)} arrays, got {_checks.describe(traces)}")
        dtype = self._layer.dtype
        pairs = [("states", self._step.before, given["states"])]
        pairs += [(f"traces[{n}]", own, traces[n]) for n, own in enumerate(self._traces)]
        if given["gradients"] is not None:
            pairs.append(("gradients", self._gradients.flat, given["gradients"]))
        new = [_checks.real_of_shape(name, value, dtype, own.shape) for name, own, value in pairs]
        for (_, own, _), value in zip(pairs, new, strict=True):
            own[...] = value
        self._pending = given["gradients"] is not None
        if not self._pending:
            self._gradients.zero()

    def _fill(self, x: Any, given: Any) -> bool:
        """Check what a step is given and put it where the step reads it; whether `x` has a batch axis."""
        step, rows, size, dtype = self._step, self.batch_size, self._layer.input_size, self._layer.dtype
        array = _checks.numbers("x", x)
        ids = array.dtype.kind in "iu" and array.ndim < 2 and array.shape in ((), (rows,))
        batched = array.ndim + ids == 2
        if not batched and (rows != 1 or array.ndim + ids != 1):
            raise ValueError(f"x: expected [B, I] or ids [B] with B={rows}, got {_checks.describe(array)}")
        shape = ((rows,) if batched else ()) + (() if ids else (size,))
        if ids:
            _checks.shape("x", array, shape, "[B]" if batched else "")
            chosen = _checks.ids("x", array.reshape(1, rows), size, None)
        else:
            values = _checks.real_of_shape("x", array, dtype, shape, "[B, I]" if batched else "[I]")
        extra = self._check_given(given, batched)
        if ids:
            step.x.fill(0)
            step.x[np.arange(rows), chosen[0]] = 1
        else:
            np.copyto(step.x, values)
        for target, value in zip(step.given, extra, strict=True):
            np.copyto(target, value)
        return batched

    def _check_given(self, given: Any, batched: bool) -> list[Array]:
        known = self._program.given
        if given is None and not known:
            return []
        values = _checks.by_name("given", given, [one.name for one in known], self._layer.cell.name)
        found = []
        for one, value, target in zip(known, values, self._step.given, strict=True):
            shape = target.shape if one.domain is not None else target.shape[:1]
            checked = _checks.real_of_shape(
                f"given[{one.name!r}]", value, self._layer.dtype, shape if batched else shape[1:]
            )
            found.append(checked.reshape(target.shape))
        return found

    def _predict(self) -> Array:
        state: Array = self._step.after[0]
        if self._head is None:
            return state
        y, self._tape = self._head.forward(state, logits=self._logits, tape=self._tape)
        return np.asarray(y)

    def _differentiated(self, prediction: Array, target: Any) -> tuple[Any, Array]:
        """The loss and dLoss/dy of the layer; the head's gradients are added."""
        result = self._loss(prediction, target)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise TypeError(f"loss: expected it to return (loss, gradient), got {_checks.describe(result)}")
        name, dtype = "the loss's gradient", self._layer.dtype
        own = _checks.real_of_shape(name, result[1], dtype, prediction.shape).reshape(self.batch_size, -1)
        if self._head is None:
            np.copyto(self._error, own)
        else:
            np.copyto(self._error, self._head.backward(self._tape, own, into=self._of_head).x)
        return result[0], self._error

    def _update(self) -> bool:
        """The optimiser's step; True."""
        drop_frozen(self._optimizer, self._gradients)
        norm = self._model.params.device.clip_norm(self._gradients.flat, self._clip)
        try:
            if not math.isfinite(norm):
                raise NonFiniteError(f"gradient: expected a finite norm, got {norm}; no update was made")
            self._optimizer.step(self._gradients)
        finally:
            self._gradients.zero()
            self._pending = False
        return True


def _layer_and_head(model: Any) -> tuple[str, Any, str, Any]:
    """The layer and the head of a model, each with what its parameters' names begin with."""
    if isinstance(model, Recurrent):
        return "", model, "", None
    parts = list(model.parts.items()) if isinstance(model, Model) and model.is_chain else []
    if (
        not 1 <= len(parts) <= 2
        or not isinstance(parts[0][1], Recurrent)
        or not isinstance(parts[-1][1], Recurrent | Dense)
    ):
        raise TypeError(
            f"model: expected a recurrent layer, or a Model of one and at most a Dense behind it, "
            f"got {_checks.describe(model)}"
        )
    if len(parts) == 2 and isinstance(parts[1][1], Recurrent):
        raise ValueError(
            "model: expected one recurrent layer, got two: lower layers act through all units of the upper"
        )
    (name, layer), (head_name, head) = parts[0], parts[1] if len(parts) == 2 else ("", None)
    return f"{name}.", layer, f"{head_name}.", head


def _slice(gradients: Gradients, prefix: str, params: Any) -> Gradients:
    """The gradients of one part: a view."""
    shapes = gradients.shapes
    names = list(shapes)
    return gradients.part(
        params, sum(math.prod(shapes[name]) for name in names[: names.index(prefix + next(iter(params)))])
    )


def _check_layer(layer: Any, method: str) -> None:
    """Refuse what can't be learnt this way."""
    layout = layer._recurrence.layout
    program = layout.program
    if layer.device != "cpu":
        raise ValueError(f"layer: expected one on the CPU, got device={layer.device!r}")
    if layer.sparse:
        raise ValueError("layer: expected one with sparse=False to learn while a stream runs, got sparse=True")
    for name, value in (("num_layers", layout.num_layers), ("directions", layout.directions)):
        if value != 1:
            raise ValueError(f"{name}: expected 1 to learn while a stream runs, got {value}")
    if layout.backwards[0]:
        raise ValueError("reverse: expected False to learn while a stream runs, got True")
    if layout.random:
        raise ValueError("layer: expected one without zoneout and recurrent dropout, got random masks")
    if len(program.domains) > 1:
        raise ValueError(
            f"layer: expected a cell whose rows all have the hidden width, got {layer.cell.name!r} with the widths "
            f"{dict(layer.cell.widths)}"
        )
    coupled = any(product.left is not None for product in program.products)
    if method == "rtrl" and (coupled or any(stage.means for stage in program.forward)):
        raise ValueError(
            f"method: expected 'snap1' or 'rflo' for {layer.cell.name!r}, whose units see each other's rows, got 'rtrl'"
        )
