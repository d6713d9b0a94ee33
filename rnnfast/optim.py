"""Optimisers and gradient clipping: each step is one pass over the flat buffers of parameters and gradients.

The formulas, their defaults and the names of the state's arrays are PyTorch's. The loops are in `_flat.pyx`; here is
what they mean, what is checked, and what a checkpoint keeps.

A) Nothing judges the gradients' values: a step with a NaN or an infinity in them is taken as told. Who wants to skip it
   looks at the norm that `clip_grad_norm` returns.
B) A norm that is not finite scales nothing (PyTorch would turn every gradient into NaN): the caller can still look at
   the gradients and drop the step.
C) Every check comes before the first write, also in `load_state_dict`.
D) A step is whole or it is not: the loop that writes and the count of steps are one call of compiled code
   (`_flat.commit`), in which Ctrl-C can't fall. (On a CUDA device it can fall after the launch and before the count.)
E) The state's arrays lie where the parameters do, and so must the gradients; a state dictionary is on the host.
F) Groups are slices: names of one group that follow each other in the buffer are one call of the loop. Without groups
   there is one slice. All calls of a step are one call of compiled code (`_flat.run`), for D.
G) A table with a sparse gradient (`rnnfast.sparse`) is a slice of its own, and lazy: what belongs to the ids with a
   gradient is copied out, goes through the loop, and is written back.

Every optimiser takes ``groups``: what differs for some of the parameters, by patterns of their names (`fnmatch`'s:
``*``, ``?``, ``[...]``). A parameter is of the first group whose pattern its name matches; each pattern must match one.

- ``"lr_factor"``: the learning rate is multiplied by it.
- ``"weight_decay"``: in place of the optimiser's.
- ``"frozen"``: these parameters stay as they are, and so do their averages.

>>> import rnnfast
>>> from rnnfast import optim
>>> model = rnnfast.Model(encoder=rnnfast.GRU(4, 8, rng=0), head=rnnfast.Dense(8, 2, rng=0))
>>> groups = {"*bias*": {"weight_decay": 0.0}, "encoder.*": {"lr_factor": 0.1}}
>>> optimizer = optim.AdamW(model.params, 1e-3, weight_decay=0.01, groups=groups)
>>> optimizer = optim.Adam(model.params, groups={"encoder.*": {"frozen": True}})  # trains the head alone

Where a part has ``sparse=True``, a step changes only the rows of its table that have a gradient: see `rnnfast.sparse`.

`rnnfast.schedules` has learning rates that change from step to step.

Rejected: groups by lists of arrays (a buffer has names); a part that can be unfrozen in the midst of a run (Adam's
averages would be too young for its number of steps: begin with a new optimiser); `dampening`, `amsgrad` and `maximize`,
which hardly anybody sets.
"""

from __future__ import annotations

import functools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple

import numpy as np

from . import _checks, _flat
from ._checks import Array
from ._device import HOST
from .parameters import Gradients, Parameters, check_tables, write_all

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm", "clip_grad_value"]

_MAX_STEPS = 2**53  # beyond, a float64 cannot count

Groups = Mapping[str, Mapping[str, Any]]


def _at_least_0(name: str, value: Any) -> float:
    number = _checks.number(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected a number of at least 0, got {number}")
    return number


def _memory(name: str, value: Any) -> float:
    number = _checks.number(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), got {number}")
    return number


_GROUP_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "lr_factor": _at_least_0,
    "weight_decay": _at_least_0,
    "frozen": _checks.truth,
}


class _Span(NamedTuple):
    """Neighbours in the buffer that are of one group, or a table with a sparse gradient."""

    own: slice
    group: Mapping[str, Any]
    of: slice | str
    """Where their gradients are in their buffer, or the name of the sparse one."""


class Optimizer(ABC):
    """What all optimisers share: the learning rate, the flat state arrays, and their way into a checkpoint.

    A subclass gives the checks of its hyperparameters, the names of its state's arrays, and the update.
    """

    name: ClassVar[str]
    _checks_of: ClassVar[Mapping[str, Callable[[str, Any], Any]]]

    def __init__(self, params: Parameters, hyper: Mapping[str, Any], groups: Groups | None) -> None:
        if not isinstance(params, Parameters):
            raise TypeError(f"params: expected a Parameters, such as layer.params, got {type(params).__name__}")
        self._params = params
        self._hyper = self._checked(hyper)
        self._groups = _checked_groups(params, {} if groups is None else groups)
        self._spans = _spans(params, self._groups)
        self._arrays = {
            name: params.device.zeros((params.size,), params.dtype) for name in self._array_names(self._hyper)
        }
        self._steps = 0
        self._kept: slice | None = None

    @property
    def lr(self) -> float:
        """The learning rate; assign to it to change it."""
        return float(self._hyper["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        self._hyper["lr"] = _at_least_0("lr", value)

    @property
    def params(self) -> Parameters:
        """The parameters that are optimised."""
        return self._params

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """What differs for some of the parameters, by patterns of their names; a copy."""
        return {pattern: dict(group) for pattern, group in self._groups.items()}

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return self._steps

    def step(self, gradients: Gradients) -> None:
        """Change the parameters by one step.

        Parameters
        ----------
        gradients : Gradients
            Of the layout of the parameters. Its values are not judged: one that is not finite makes its parameter so.

        Raises
        ------
        TypeError, ValueError
            The gradients are not of these parameters; nothing has changed.
        """
        _check_gradients(gradients)
        if gradients.dtype != self._params.dtype:
            raise TypeError(f"gradients: expected dtype {self._params.dtype}, got {gradients.dtype}")
        _check_layout(gradients, self._params)
        device = self._params.device
        if gradients.device is not device:
            raise ValueError(f"gradients: expected them on {device}, as the parameters, got {gradients.device}")
        with device.active(), self._params.in_place() as flat:
            done = (self, "_steps", self._steps + 1), *gradients.along, (gradients, "along", ())
            spans = self._spans if self._kept is None else _within(self._spans, self._kept)
            updates = [
                call for span in spans if not span.group.get("frozen") for call in self._calls(flat, gradients, span)
            ]
            _flat.commit(functools.partial(_flat.run, updates), *done)

    def _calls(self, flat: Array, gradients: Gradients, span: _Span) -> list[Callable[[], object]]:
        """The calls that make a step of some neighbours."""
        arrays, hyper = self._of(span.own, span.group)
        if isinstance(span.of, slice):
            return [self._update(flat[span.own], gradients.flat[span.of], arrays, hyper)]
        sparse = gradients.sparse[span.of]
        ids, values = sparse.changed()
        wholes = [whole.reshape(sparse.shape) for whole in (flat[span.own], *arrays.values())]
        parts = [whole.take(ids, sparse.axis) for whole in wholes]
        param, *own = [part.reshape(-1) for part in parts]
        update = self._update(param, values.reshape(-1), dict(zip(arrays, own, strict=True)), hyper)
        write: Any = operator.setitem
        index = sparse.index(ids)
        return [
            update,
            *(functools.partial(write, whole, index, part) for whole, part in zip(wholes, parts, strict=True)),
        ]

    def drop_frozen(self, gradients: Gradients) -> None:
        """Zero the gradients of frozen parameters, so that they don't count in a norm. `fit` and `TBPTT` do it.

        Parameters
        ----------
        gradients : Gradients
            Changed in place, if anything is frozen.
        """
        _check_gradients(gradients, changed=True)
        _check_layout(gradients, self._params)
        with gradients.device.active():
            for _, group, of in self._spans:
                if not group.get("frozen"):
                    continue
                if isinstance(of, slice):
                    gradients.flat[of] = 0
                else:
                    gradients.sparse[of].clear()

    def keep(self, own: slice) -> None:
        """Keep the state of a slice of the flat buffer alone, and change no other parameters from now on.

        For processes that share the work; see `rnnfast.distributed`. `state_dict` then has the slice's arrays, while
        `load_state_dict` takes whole ones.

        Parameters
        ----------
        own : slice
            With a start and a stop.

        Raises
        ------
        ValueError
            Gradients of some parameters are sparse.
        """
        if self._params.tables:
            raise ValueError(f"own: expected parameters without sparse gradients, got {', '.join(self._params.tables)}")
        self._kept = own
        self._arrays = self._parts_of(self._arrays)

    def _parts_of(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Copies of the slices that are kept."""
        with self._params.device.active():
            return {name: array[self._kept].copy() for name, array in arrays.items()}

    def _of(self, own: slice, group: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
        """The state's arrays and the hyperparameters of some neighbours."""
        hyper = {**self._hyper, "lr": self._hyper["lr"] * group.get("lr_factor", 1.0)}
        hyper["weight_decay"] = group.get("weight_decay", hyper["weight_decay"])
        first = 0 if self._kept is None else self._kept.start
        part = slice(own.start - first, own.stop - first)
        return {name: array[part] for name, array in self._arrays.items()}, hyper

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, besides the parameters.

        Returns
        -------
        dict
            "name", "step" (steps taken), the hyperparameters ("lr", ...) as plain numbers, "groups" if there are any,
            and copies of the state's arrays, flat, as NumPy arrays.
        """
        device = self._params.device
        with device.active():
            arrays = {name: device.to_host(array.copy()) for name, array in self._arrays.items()}
        groups = {"groups": self.groups} if self._groups else {}
        return {"name": self.name, "step": self._steps, **self._hyper, **groups, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another optimiser of this kind stood; its hyperparameters and groups replace the ones here.

        Parameters
        ----------
        state : mapping
            From `state_dict`; the arrays are copied.

        Raises
        ------
        TypeError, ValueError
            Something is missing, surplus, of the wrong kind, size or range; nothing has changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a mapping from state_dict(), got {_checks.describe(state)}")
        if not isinstance(name := state.get("name"), str) or name != self.name:
            raise ValueError(f"state: expected the state of {self.name!r}, got {name!r}")
        _check_keys(state, {"name", "step", *self._hyper}, complete=False)
        steps = _checks.integer("step", state["step"], 0, _MAX_STEPS)
        hyper = self._checked({name: state[name] for name in self._hyper})
        groups = _checked_groups(self._params, state.get("groups", {}))
        names = self._array_names(hyper)
        _check_keys(state, {"name", "step", *hyper, *names, *({"groups"} & set(state))}, complete=True)
        size, dtype = self._params.size, self._params.dtype
        device = self._params.device
        for name in names:
            if (found := device.bring(name, state[name]).dtype) != dtype:
                raise TypeError(f"{name}: expected dtype {dtype}, got {found}")
        arrays = {name: device.take(name, state[name], dtype, (size,)) for name in names}
        spans = _spans(self._params, groups)
        if self._kept is not None:
            arrays = self._parts_of(arrays)
        # One line, so all of them or none.
        self._steps, self._hyper, self._groups, self._spans, self._arrays = steps, hyper, groups, spans, arrays

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value}" for name, value in self._hyper.items())
        listed += f", groups={self.groups}" if self._groups else ""
        return f"{type(self).__name__}({listed}; {self._steps} steps of {self._params.size} {self._params.dtype})"

    def _checked(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters as plain numbers; an error names the one that is wrong."""
        return {name: check(name, hyper[name]) for name, check in self._checks_of.items()}

    @staticmethod
    @abstractmethod
    def _array_names(hyper: Mapping[str, Any]) -> tuple[str, ...]:
        """The arrays that these hyperparameters need."""

    @abstractmethod
    def _update(
        self, flat: Array, gradients: Array, arrays: Mapping[str, Array], hyper: Mapping[str, Any]
    ) -> Callable[[], object]:
        """The call that writes the next parameters into `flat` and the next state into its arrays."""


class SGD(Optimizer):
    """Stochastic gradient descent.

    ::

        d = gradient + weight_decay * param
        v = momentum * v + d
        param -= lr * v                          (nesterov: lr * (d + momentum * v))

    Parameters
    ----------
    params : Parameters
        What to optimise: `layer.params` or `model.params`.
    lr : float
        The learning rate, at least 0.
    momentum : float
        At least 0. State: "momentum_buffer", unless it is 0.
    nesterov : bool
        Look ahead; needs a momentum.
    weight_decay : float
        At least 0.
    groups : mapping, optional
        What differs for some of the parameters; see `rnnfast.optim`.

    Examples
    --------
    >>> layer = rnnfast.GRU(3, 4, rng=0)
    >>> optimizer = rnnfast.optim.SGD(layer.params, 0.1, momentum=0.9)
    >>> y, _, tape = layer.forward(np.ones((5, 2, 3)))
    >>> optimizer.step(layer.backward(tape, y).params)  # of half the sum of the squares of y
    >>> optimizer.steps
    1
    """

    name = "sgd"
    _checks_of = {  # noqa: RUF012 - annotated in the base
        "lr": _at_least_0,
        "momentum": _at_least_0,
        "nesterov": _checks.truth,
        "weight_decay": _at_least_0,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        hyper = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, hyper, groups)

    def _checked(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        checked = super()._checked(hyper)
        if checked["nesterov"] and checked["momentum"] == 0:
            raise ValueError("nesterov: expected a momentum above 0 to go with it, got momentum=0")
        return checked

    @staticmethod
    def _array_names(hyper: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if hyper["momentum"] > 0 else ()

    def _update(
        self, flat: Array, gradients: Array, arrays: Mapping[str, Array], hyper: Mapping[str, Any]
    ) -> Callable[[], object]:
        buffers = flat, gradients, arrays.get("momentum_buffer")
        return functools.partial(self._params.device.flat.sgd, *buffers, **hyper)


class RMSprop(Optimizer):
    """RMSprop.

    ::

        d = gradient + weight_decay * param
        s = alpha * s + (1 - alpha) * d^2
        m = alpha * m + (1 - alpha) * d          (centered; else 0)
        u = d / (sqrt(s - m^2) + eps)
        v = momentum * v + u
        param -= lr * v

    Rounding can make `s - m^2` negative; it then counts as 0.

    Parameters
    ----------
    params : Parameters
        What to optimise: `layer.params` or `model.params`.
    lr : float
        The learning rate, at least 0.
    alpha : float
        The memory of the averages, in [0, 1). State: "square_avg".
    eps : float
        At least 0.
    momentum : float
        At least 0. State: "momentum_buffer", unless it is 0.
    centered : bool
        Divide by an estimate of the standard deviation. State: "grad_avg".
    weight_decay : float
        At least 0.
    groups : mapping, optional
        What differs for some of the parameters; see `rnnfast.optim`.

    Examples
    --------
    >>> layer = rnnfast.GRU(3, 4, rng=0)
    >>> optimizer = rnnfast.optim.RMSprop(layer.params)
    >>> y, _, tape = layer.forward(np.ones((5, 2, 3)))
    >>> optimizer.step(layer.backward(tape, y).params)  # of half the sum of the squares of y
    >>> optimizer.steps
    1
    """

    name = "rmsprop"
    _checks_of = {  # noqa: RUF012
        "lr": _at_least_0,
        "alpha": _memory,
        "eps": _at_least_0,
        "momentum": _at_least_0,
        "centered": _checks.truth,
        "weight_decay": _at_least_0,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        hyper = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "centered": centered}
        super().__init__(params, {**hyper, "weight_decay": weight_decay}, groups)

    @staticmethod
    def _array_names(hyper: Mapping[str, Any]) -> tuple[str, ...]:
        optional = (("grad_avg", hyper["centered"]), ("momentum_buffer", hyper["momentum"] > 0))
        return ("square_avg", *(name for name, needed in optional if needed))

    def _update(
        self, flat: Array, gradients: Array, arrays: Mapping[str, Array], hyper: Mapping[str, Any]
    ) -> Callable[[], object]:
        hyper = {name: value for name, value in hyper.items() if name != "centered"}
        optional = arrays.get("grad_avg"), arrays.get("momentum_buffer")
        buffers = flat, gradients, arrays["square_avg"], *optional
        return functools.partial(self._params.device.flat.rmsprop, *buffers, **hyper)


class Adam(Optimizer):
    """Adam.

    ::

        d = gradient + weight_decay * param
        m = beta1 * m + (1 - beta1) * d
        v = beta2 * v + (1 - beta2) * d^2
        param -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)     (t: the step, from 1)

    Parameters
    ----------
    params : Parameters
        What to optimise: `layer.params` or `model.params`.
    lr : float
        The learning rate, at least 0.
    betas : (float, float)
        The memories of the two averages, in [0, 1). State: "exp_avg", "exp_avg_sq"; "beta1" and "beta2" in a state
        dictionary.
    eps : float
        At least 0.
    weight_decay : float
        At least 0.
    groups : mapping, optional
        What differs for some of the parameters; see `rnnfast.optim`.

    Examples
    --------
    >>> layer = rnnfast.GRU(3, 4, rng=0)
    >>> optimizer = rnnfast.optim.Adam(layer.params, 1e-3)
    >>> y, _, tape = layer.forward(np.ones((5, 2, 3)))
    >>> optimizer.step(layer.backward(tape, y).params)  # of half the sum of the squares of y
    >>> optimizer.steps
    1
    """

    name = "adam"
    _checks_of = {  # noqa: RUF012
        "lr": _at_least_0,
        "beta1": _memory,
        "beta2": _memory,
        "eps": _at_least_0,
        "weight_decay": _at_least_0,
    }
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError) as error:
            raise TypeError(f"betas: expected two numbers, got {_checks.describe(betas)}") from error
        hyper = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, hyper, groups)

    @staticmethod
    def _array_names(hyper: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _update(
        self, flat: Array, gradients: Array, arrays: Mapping[str, Array], hyper: Mapping[str, Any]
    ) -> Callable[[], object]:
        counted = {"step": self._steps + 1, "decoupled": self._decoupled}
        return functools.partial(self._params.device.flat.adam, flat, gradients, *arrays.values(), **counted, **hyper)


class AdamW(Adam):
    """Adam with decoupled weight decay: `param` is first multiplied by `1 - lr * weight_decay`.

    ::

        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient^2
        param -= lr * weight_decay * param
        param -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)     (t: the step, from 1)

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, groups
        As for `Adam`; `weight_decay` is 0.01 by default.

    Examples
    --------
    >>> layer = rnnfast.GRU(3, 4, rng=0)
    >>> optimizer = rnnfast.optim.AdamW(layer.params, 1e-3, weight_decay=0.01)
    >>> y, _, tape = layer.forward(np.ones((5, 2, 3)))
    >>> optimizer.step(layer.backward(tape, y).params)  # of half the sum of the squares of y
    >>> optimizer.steps
    1
    """

    name = "adamw"
    _decoupled = True

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        groups: Groups | None = None,
    ) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay, groups=groups)


def clip_grad_norm(gradients: Gradients, max_norm: float) -> float:
    """Scale all gradients so that their common L2 norm is at most `max_norm`.

    Parameters
    ----------
    gradients : Gradients
        Scaled in place, by `max_norm / (norm + 1e-6)` as in PyTorch, where that is below 1.
    max_norm : float
        At least 0; infinity only measures.

    Returns
    -------
    float
        The norm before, summed in float64 in one fixed order. If it is not finite, nothing has been scaled. (For
        gradients on a CUDA device the call waits for it.)

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; nothing has changed.

    Examples
    --------
    >>> gradients = rnnfast.Dense(1, 2, bias=False).params.zeros()
    >>> gradients.flat[...] = 3.0, 4.0
    >>> rnnfast.optim.clip_grad_norm(gradients, 1.0)
    5.0
    >>> gradients.flat.round(3)
    array([0.6, 0.8], dtype=float32)
    """
    _check_gradients(gradients, changed=True)
    limit = _checks.limit("max_norm", max_norm)
    with gradients.device.active():
        return float(clip_to_norm(gradients, limit))


def clip_to_norm(gradients: Gradients, limit: float) -> Any:
    """`clip_grad_norm` where all is checked: on a CUDA device the norm is an array, for which nobody waits."""
    clip, arrays = gradients.device.clip_norm, gradients.arrays
    if len(arrays) == 1:
        return clip(gradients.flat, limit)
    whole = np.concatenate(arrays)
    norm = clip(whole, limit)
    parts = np.split(whole, np.cumsum([array.size for array in arrays])[:-1])
    write_all(arrays, parts)
    return norm


def clip_grad_value(gradients: Gradients, bound: float) -> None:
    """Clamp every gradient to `[-bound, bound]`; NaN stays NaN.

    Parameters
    ----------
    gradients : Gradients
        Clamped in place.
    bound : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; nothing has changed.

    Examples
    --------
    >>> gradients = rnnfast.Dense(1, 2, bias=False).params.zeros()
    >>> gradients.flat[...] = 3.0, 4.0
    >>> rnnfast.optim.clip_grad_value(gradients, 3.5)
    >>> gradients.flat
    array([3. , 3.5], dtype=float32)
    """
    _check_gradients(gradients, changed=True)
    limit = _checks.limit("bound", bound)
    with gradients.device.active():
        clamp = gradients.device.flat.clamp
        _flat.run([functools.partial(clamp, array, limit) for array in gradients.arrays])


def drop_frozen(optimizer: Any, gradients: Gradients) -> None:
    """`Optimizer.drop_frozen`, of an optimiser that has it: it may be the caller's own."""
    if hasattr(optimizer, "drop_frozen"):
        optimizer.drop_frozen(gradients)


def _checked_groups(params: Parameters, groups: Any) -> dict[str, dict[str, Any]]:
    """The groups as plain numbers, in their order."""
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups: expected a mapping from patterns of names, got {_checks.describe(groups)}")
    checked: dict[str, dict[str, Any]] = {}
    for pattern, group in groups.items():
        name = f"groups[{pattern!r}]"
        if not isinstance(pattern, str) or not any(fnmatchcase(key, pattern) for key in params):
            raise ValueError(f"groups: expected patterns of the names {', '.join(params)}; got {pattern!r}")
        if not isinstance(group, Mapping) or not set(group) <= set(_GROUP_CHECKS):
            raise ValueError(f"{name}: expected keys among {', '.join(_GROUP_CHECKS)}, got {_checks.describe(group)}")
        checked[pattern] = {key: _GROUP_CHECKS[key](f"{name}[{key!r}]", value) for key, value in group.items()}
    return checked


def _spans(params: Parameters, groups: Groups) -> list[_Span]:
    """The buffer cut where another group begins, and around tables."""
    spans: list[_Span] = []
    start = begin = 0  # in the parameters' buffer, in the gradients'
    for name, shape in params.shapes.items():
        size = math.prod(shape)
        own, of = slice(start, start + size), slice(begin, begin + size)
        group = next((group for pattern, group in groups.items() if fnmatchcase(name, pattern)), {})
        start += size
        if name in params.tables:
            spans.append(_Span(own, group, name))
            continue
        begin += size
        if spans and spans[-1].group == group and isinstance(before := spans[-1].of, slice):
            own, of = slice(spans.pop().own.start, own.stop), slice(before.start, of.stop)
        spans.append(_Span(own, group, of))
    return spans


def _within(spans: list[_Span], part: slice) -> list[_Span]:
    """What lies in a part of the buffer."""
    cut = [(slice(max(own.start, part.start), min(own.stop, part.stop)), group) for own, group, _ in spans]
    return [_Span(own, group, own) for own, group in cut if own.start < own.stop]


def _check_layout(gradients: Gradients, params: Parameters) -> None:
    if list(gradients.shapes.items()) != list(params.shapes.items()):
        raise ValueError(f"gradients: expected the layout of {params!r}, got {gradients!r}")
    check_tables("gradients", gradients, params)


def _check_gradients(gradients: Gradients, *, changed: bool = False) -> None:
    if not isinstance(gradients, Gradients):
        raise TypeError(f"gradients: expected a Gradients, such as grads.params, got {type(gradients).__name__}")
    if changed and gradients.device is HOST and not gradients.flat.flags.writeable:
        raise ValueError("gradients: expected writeable memory, got Gradients whose `flat` is read-only")


def _check_keys(state: Mapping[str, Any], keys: set[str], *, complete: bool) -> None:
    missing = sorted(keys - set(state))
    surplus = sorted(map(str, set(state) - keys)) if complete else []
    if missing or surplus:
        found = [f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("surplus", surplus)) if names]
        raise ValueError(f"state: expected {', '.join(sorted(keys))}, got {'; '.join(found)}")
