"""Small parts of models: dropout, layer normalisation, pooling over time, sums and joins of several inputs.

They are arithmetic on arrays and no kernels: each is a few passes over its input. All but `LayerNorm` have no
parameters; these work in the dtype of their input and where it lies, on the host or on a CUDA device.

A) What backward needs is kept in the tape's own memory, so the caller's `x` may change after `forward`.
B) Sums over features and steps are in float64.

Rejected: a part for each activation (`Dense` has them); broadcasting in `Add` (the commonest silent mistake).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks, _flat
from ._checks import Array
from ._device import Device, Port, choose, holder
from ._flushing import flushing_of
from ._part import Stateless
from ._walk import DROPOUT
from ._words import DeviceName, Pooling, Precision
from .parameters import Gradients, Parameters
from .tape import Grads, Tape, begin

__all__ = ["Add", "Concat", "Dropout", "LayerNorm", "Pool"]

_FLOATS = np.dtype(np.float32), np.dtype(np.float64)


class _Recording(NamedTuple):
    direct: bool  # of the port through which the call came in
    shape: tuple[int, ...]  # of y
    dtype: np.dtype[Any]
    kept: Any  # what the part needs


class Plain(Stateless):
    """A part without kernels. Not for use by itself: a subclass has `_apply` and `_differentiate`."""

    dtype: Any = None
    """None: that of the input."""
    init = None
    device = "cpu"
    several: ClassVar[bool] = False
    """Whether it takes several inputs."""

    def __init__(self) -> None:
        self.params = Parameters({}, np.float32)
        self._pack()

    def _pack(self) -> None:
        self._device = self.params.device

    def config(self) -> dict[str, Any]:
        """A JSON-able description, from which `rnnfast.layers.from_config` builds an equal part."""
        return {"type": Stateless._kinds.name(type(self))} | {name: getattr(self, name) for name in self._options}

    def features(self, sizes: list[int]) -> int:
        """The features of `y` for inputs of these; ValueError if they do not fit."""
        return sizes[0]

    def __call__(self, *x: Any, num_threads: int | None = None) -> Array:
        """Apply the part as inference does; keep nothing.

        Parameters
        ----------
        *x : array_like, shape [..., I]
            The input; `Add` and `Concat` take several.
        num_threads : int, optional
            Taken as by the other parts; one thread does the work.

        Returns
        -------
        ndarray

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape.
        """
        return self._run(x, {}, None, False, num_threads)[0]

    def forward(self, *x: Any, tape: Tape | None = None, num_threads: int | None = None) -> tuple[Array, Tape]:
        """Apply the part as training does, and record what `backward` needs.

        Parameters
        ----------
        *x, num_threads
            As in a call.
        tape : Tape, optional
            An old tape of this part, to record in its memory; what it holds is lost.

        Returns
        -------
        y : ndarray
        tape : Tape
            For one `backward`; the one given, if one was given.

        Raises
        ------
        TypeError, ValueError
            As a call; a tape keeps what it holds.
        """
        y, recorder = self._run(x, {}, tape, True, num_threads)
        assert recorder is not None
        return y, recorder

    def _backward(
        self, tape: Tape, kept: _Recording, dy: Any, into: Gradients | None, wants_dx: bool, threads: int
    ) -> Grads:
        device = tape._device
        with device.active():
            port = device.ports[kept.direct]
            given = port.enter(port.checks.real_of_shape("dy", dy, kept.dtype, kept.shape))
            gradients = self._gradients(into)
            if into is None:
                gradients.zero()
            tape.spend()
            with np.errstate(all="ignore"):  # numbers that are not finite are the caller's, as in the kernels
                dx = self._differentiate(device, kept.kept, given, gradients)
            return Grads(port.leave(dx if self.several else dx[0]) if wants_dx else None, None, gradients)

    @abstractmethod
    def _apply(self, device: Device, x: list[Array], tape: Tape | None, options: dict[str, Any]) -> tuple[Array, Any]:
        """y of checked inputs, in new memory, and what backward needs; with a tape, in whose memory it is, training."""

    @abstractmethod
    def _differentiate(self, device: Device, kept: Any, dy: Array, gradients: Gradients) -> tuple[Array, ...]:
        """dx of each input; `dy` is not written to."""

    def _run(
        self, given: tuple[Any, ...], options: dict[str, Any], old: Any, training: bool, num_threads: Any
    ) -> tuple[Array, Tape | None]:
        _checks.threads(num_threads)
        if len(given) != 1 and not (self.several and given):
            wanted = "one or more inputs" if self.several else "one input"
            raise TypeError(f"x: expected {wanted}, got {len(given)}")
        device = self._device if self.params else holder(given[0])
        port = device.port(given[0])
        with device.active():
            inputs = self._take(port, given)
            options = self._check(port, inputs, **options)
            recorder = None
            if training:
                recorder = begin(old, self, self.params)
                recorder._device = device
            with np.errstate(under="ignore", invalid="ignore"), np.errstate(all="ignore"):
                y, kept = self._apply(device, inputs, recorder, options)
            if recorder is not None:
                recorder.finish(device.empty((0,), y.dtype), _Recording(port.direct, y.shape, y.dtype, kept))
            return port.leave(y), recorder

    def _take(self, port: Port, given: tuple[Any, ...]) -> list[Array]:
        """The inputs as real arrays of one dtype, where the work is done."""
        names = ["x"] if len(given) == 1 else [f"x[{n}]" for n in range(len(given))]
        arrays = [port.checks.numbers(name, x) for name, x in zip(names, given, strict=True)]
        single = all(array.dtype.newbyteorder("=") == _FLOATS[0] for array in arrays)
        dtype = self.dtype or _FLOATS[not single]
        for name, array in zip(names, arrays, strict=True):
            if not array.ndim:
                raise ValueError(f"{name}: expected at least one axis, the features, got a number")
        converted = [port.checks.real(name, array, dtype) for name, array in zip(names, arrays, strict=True)]
        return [port.enter(array) for array in converted]

    def _check(self, port: Port, inputs: list[Array], **options: Any) -> dict[str, Any]:
        """The options of one call, checked; and whether the inputs' shapes will do."""
        return options


class Dropout(Plain):
    """Zeros in random places of the input during training, in `forward`; in a call, the input itself.

    What stays is scaled by 1 / (1 - p), so that the expected value is the input's. As between layers, the places are a
    function of a seed, the step, the row and the feature: chunks of a sequence have those of the whole.

    Parameters
    ----------
    p : float, optional
        The probability of a zero, in 0..1.
    rng : optional
        Seeds what seeds are drawn from: `np.random.default_rng(rng)`.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.

    Notes
    -----
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (2014).

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import Dropout
    >>> y, tape = Dropout(0.5, rng=0).forward(np.ones(4))
    >>> y
    array([2., 0., 0., 0.])
    """

    _options = ("p",)

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        self.p = _checks.probability("p", p)
        self.rng = _checks.generator("rng", rng)
        super().__init__()

    @property
    def dropout(self) -> float:
        """`p`, under the name that layers have for it."""
        return self.p

    def forward(
        self,
        *x: Any,
        tape: Tape | None = None,
        num_threads: int | None = None,
        seed: int | None = None,
        first_step: int = 0,
        batch_first: bool = False,
    ) -> tuple[Array, Tape]:
        """Apply the part as training does, and record what `backward` needs.

        Parameters
        ----------
        *x : array_like, shape [T, B, I], [T, I] or [I]
            The input. Further axes before them count as steps.
        tape, num_threads
            As of the other parts.
        seed : int, optional
            In 0..2**63-1; drawn from `rng` by default.
        first_step : int, optional
            Where the input's first step is in the count of steps.
        batch_first : bool, optional
            Whether an input of three axes is [B, T, I].

        Returns
        -------
        y : ndarray
        tape : Tape
            For one `backward`; the one given, if one was given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or range; a tape keeps what it holds.

        Examples
        --------
        >>> import numpy as np
        >>> from rnnfast import Dropout
        >>> drop, x = Dropout(0.5), np.ones((6, 2, 8))
        >>> y, _ = drop.forward(x, seed=3)
        >>> chunk, _ = drop.forward(x[4:], seed=3, first_step=4)
        >>> bool((chunk == y[4:]).all())
        True
        """
        _checks.threads(num_threads)
        if len(x) != 1:
            raise TypeError(f"x: expected one input, got {len(x)}")
        return self.record(x[0], tape, seed=seed, first_step=first_step, batch_first=batch_first)

    def record(
        self, x: Any, tape: Tape | None, *, seed: Any, first_step: Any, batch_first: Any, place: int = 0
    ) -> tuple[Array, Tape]:
        """`forward` at a place among a model's parts that draw random numbers."""
        options = {"seed": seed, "first_step": first_step, "batch_first": batch_first, "place": place}
        y, recorder = self._run((x,), options, tape, True, None)
        assert recorder is not None
        return y, recorder

    def _check(self, port: Port, inputs: list[Array], **options: Any) -> dict[str, Any]:
        if options:
            if options["seed"] is not None:
                _checks.integer("seed", options["seed"], 0, 2**63 - 1)
            _checks.integer("first_step", options["first_step"], 0, 2**62)
            _checks.truth("batch_first", options["batch_first"])
        return options

    def _apply(self, device: Device, x: list[Array], tape: Tape | None, options: dict[str, Any]) -> tuple[Array, Any]:
        y = x[0].copy(order="C")
        if tape is None or not self.p:
            return y, None
        seed = int(self.rng.integers(2**63)) if options["seed"] is None else int(options["seed"])
        swapped = y.ndim == 3 and options["batch_first"]
        shape = y.swapaxes(0, 1).shape if swapped else y.shape
        factors = tape.buffer(("factors", y.dtype.char), shape, y.dtype)
        rows = shape[-2] if y.ndim > 2 else 1
        steps = math.prod(shape[:-2]) if y.ndim > 2 else math.prod(shape[:-1])
        by_step, seed = factors.reshape(steps, rows, shape[-1]), _flat.seed_of(seed, options["place"])
        device.flat.dropout(by_step, seed, 0, DROPOUT, int(options["first_step"]), self.p)
        factors = factors.swapaxes(0, 1) if swapped else factors
        flushing_of(device.xp).multiply(y, factors, out=y)
        return y, factors

    def _differentiate(self, device: Device, kept: Any, dy: Array, gradients: Gradients) -> tuple[Array, ...]:
        return (dy.copy(order="C") if kept is None else flushing_of(device.xp).multiply(dy, kept),)


class LayerNorm(Plain):
    """Layer normalisation of the last axis: `y = weight (x - mean) / sqrt(variance + eps) + bias`.

    Parameters
    ----------
    size : int
        The features of `x` and `y`.
    eps : float, optional
        Added to the variance, above 0.
    bias : bool, optional
        Whether there is a bias.
    dtype : dtype-like, optional
        float32 or float64.
    device : {"cpu", "cuda"}, optional
        Where the parameters lie and the work is done; see `rnnfast.layers`.
    precision : {"float32", "tf32", "bfloat16"}, optional
        As of the other parts; the work is in float32 on a CUDA device.
    rng : optional
        Taken as by the other parts; nothing is random.

    Attributes
    ----------
    params : Parameters
        `weight` [size], ones at first, and `bias` [size], zeros.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.
    ImportError, RuntimeError
        `device="cuda"` without the packages that it needs, or without a device.

    Notes
    -----
    Ba, Kiros & Hinton, "Layer normalization" (2016); names and defaults are PyTorch's.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import LayerNorm
    >>> LayerNorm(2)(np.array([[1, 3]])).round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    _options = ("size", "eps", "bias")

    def __init__(
        self,
        size: int,
        *,
        eps: float = 1e-5,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        device: DeviceName = "cpu",
        precision: Precision = "float32",
        rng: Any = None,
    ) -> None:
        self.size = _checks.size("size", size)
        self.eps = _checks.number("eps", eps)
        if self.eps <= 0:
            raise ValueError(f"eps: expected a number above 0, got {self.eps}")
        self.bias = _checks.truth("bias", bias)
        self.dtype = _checks.float_dtype("dtype", dtype)
        place, self.precision = choose(device, precision, self.dtype)
        self.device = place.name
        self.rng = _checks.generator("rng", rng)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("weight", "bias") if self.bias else ("weight",), (self.size,)
        )
        self.params = Parameters(shapes, self.dtype, device=place)
        self.params.update({"weight": np.ones(self.size)})
        self._pack()

    config = Stateless.config

    @property
    def input_size(self) -> int:
        """`size`: the features of `x` and `y`."""
        return self.size

    def _check(self, port: Port, inputs: list[Array], **options: Any) -> dict[str, Any]:
        if inputs[0].shape[-1] != self.size:
            raise ValueError(f"x: expected [..., {self.size}], got {_checks.describe(inputs[0])}")
        return options

    def _apply(self, device: Device, x: list[Array], tape: Tape | None, options: dict[str, Any]) -> tuple[Array, Any]:
        xp = flushing_of(device.xp)
        normal = xp.subtract(x[0], self._mean(xp, x[0]).astype(self.dtype))
        variance = self._mean(xp, xp.multiply(normal, normal, dtype=np.float64))
        scale = (1.0 / xp.sqrt(variance + self.eps)).astype(self.dtype)
        xp.multiply(normal, scale, out=normal)
        own = self.params.copy()  # of one version
        kept: Any = None
        if tape is not None:
            kept = tape.buffer("normal", normal.shape, self.dtype), tape.buffer("scale", scale.shape, self.dtype)
            kept[0][...], kept[1][...] = normal, scale
            kept = (*kept, own["weight"])
        xp.multiply(normal, own["weight"], out=normal)
        if self.bias:
            xp.add(normal, own["bias"], out=normal)
        return normal, kept

    def _mean(self, xp: Any, x: Array) -> Array:
        """Over the features, in float64."""
        mean: Array = xp.divide(xp.sum(x, axis=-1, keepdims=True, dtype=np.float64), self.size)
        return mean

    def _differentiate(self, device: Device, kept: Any, dy: Array, gradients: Gradients) -> tuple[Array, ...]:
        normal, scale, weight = kept
        xp, leading = flushing_of(device.xp), tuple(range(dy.ndim - 1))
        own = {"weight": xp.sum(xp.multiply(dy, normal), axis=leading, dtype=np.float64).astype(self.dtype)}
        if self.bias:
            own["bias"] = xp.sum(dy, axis=leading, dtype=np.float64).astype(self.dtype)
        d = xp.multiply(dy, weight)
        mean = self._mean(xp, d).astype(self.dtype)
        along = self._mean(xp, xp.multiply(d, normal)).astype(self.dtype)
        xp.subtract(d, mean, out=d)
        xp.subtract(d, xp.multiply(normal, along), out=d)
        xp.multiply(d, scale, out=d)
        adding = [partial(xp.add, gradients[name], value, out=gradients[name]) for name, value in own.items()]
        _flat.run(adding)  # one call of compiled code, which Ctrl-C can't part
        return (d,)


class Pool(Plain):
    """One vector for each sequence: its last step, or the mean or maximum of its steps.

    Parameters
    ----------
    kind : {"last", "mean", "max"}
        What to take of the steps within a row's length. "mean" and "max" also pass over those where `mask` is false.
    batch_first : bool, optional
        Whether sequences are [B, T, I] in place of [T, B, I].
    bidirectional, reverse : bool, optional
        For "last": as of the layer that `x` comes from. The half of a bidirectional layer that runs backwards in time,
        and all of a layer in reverse, have their last step at time 0.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import Pool
    >>> Pool("mean")(np.array([[[1.0]], [[3.0]], [[9.0]]]), lengths=[2])
    array([[2.]])
    """

    _options = ("kind", "batch_first", "bidirectional", "reverse")

    def __init__(
        self,
        kind: Pooling = "last",
        *,
        batch_first: bool = False,
        bidirectional: bool = False,
        reverse: bool = False,
        rng: Any = None,
    ) -> None:
        self.kind = _checks.choice("kind", kind, ("last", "mean", "max"))
        self.batch_first = _checks.truth("batch_first", batch_first)
        self.bidirectional = _checks.truth("bidirectional", bidirectional)
        self.reverse = _checks.truth("reverse", reverse)
        super().__init__()

    def features(self, sizes: list[int]) -> int:
        """As of the base."""
        if self.bidirectional and sizes[0] % 2:
            raise ValueError(f"expected an even number of features with bidirectional=True, got {sizes[0]}")
        return sizes[0]

    def __call__(  # type: ignore[override]
        self,
        x: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        num_threads: int | None = None,
    ) -> Array:
        """Pool; keep nothing.

        Parameters
        ----------
        x : array_like, shape [T, B, I], [B, T, I] with `batch_first`, or [T, I]
        lengths : array_like of int, shape [B], optional
            Row `b` ends after `lengths[b]` steps. One without any gives zeros.
        mask : array_like of bool, shape as `x` without its last axis, optional
            Where it is false, "mean" and "max" pass over a step.
        num_threads : int, optional
            Taken as by the other parts; one thread does the work.

        Returns
        -------
        ndarray, shape [B, I] or [I]

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind or shape.
        """
        return self._run((x,), {"lengths": lengths, "mask": mask}, None, False, num_threads)[0]

    def forward(  # type: ignore[override]
        self,
        x: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        tape: Tape | None = None,
        num_threads: int | None = None,
    ) -> tuple[Array, Tape]:
        """Pool, and record what `backward` needs; see `Plain.forward` and a call."""
        y, recorder = self._run((x,), {"lengths": lengths, "mask": mask}, tape, True, num_threads)
        assert recorder is not None
        return y, recorder

    def _check(self, port: Port, inputs: list[Array], **options: Any) -> dict[str, Any]:
        x = inputs[0]
        if x.ndim not in (2, 3):
            letters = "[B, T, I] or [T, I]" if self.batch_first else "[T, B, I] or [T, I]"
            raise ValueError(f"x: expected {letters}, got {_checks.describe(x)}")
        self.features([x.shape[-1]])
        batched = x.ndim == 3
        time = 1 if batched and self.batch_first else 0
        steps, rows = x.shape[time], x.shape[1 - time] if batched else 1
        lengths = port.checks.lengths(options["lengths"], steps, rows, batched=batched)
        letters = "[B, T]" if self.batch_first else "[T, B]"
        mask = port.checks.flags("mask", options["mask"], x.shape[:-1], letters if batched else "[T]")
        return {"lengths": port.enter(lengths), "mask": port.enter(mask), "batched": batched}

    def _view(self, sequence: Array, batched: bool) -> Array:
        """[T, B, ...]."""
        if not batched:
            return sequence[:, None]
        return sequence.swapaxes(0, 1) if self.batch_first else sequence

    def _apply(self, device: Device, x: list[Array], tape: Tape | None, options: dict[str, Any]) -> tuple[Array, Any]:
        xp, batched = device.xp, options["batched"]
        sequence = self._view(x[0], batched)
        (steps, rows, width), lengths, mask = sequence.shape, options["lengths"], options["mask"]
        counted: Any = None  # [T, B]: the steps that count
        if lengths is not None:
            counted = device.arange(steps)[:, None] < lengths
        if self.kind != "last" and mask is not None:
            there = self._view(mask.copy(), batched)
            counted = there if counted is None else counted & there
        y = device.zeros((rows, width), sequence.dtype)
        kept: Any = counted
        if self.kind == "last":
            last = (device.zeros((rows,), np.int64) + steps if lengths is None else lengths) - 1
            kept = last
            if steps:
                ends = xp.where((last >= 0)[:, None], self._ends(device, sequence, last), 0)
                y[...] = ends
        elif self.kind == "max":
            kept = device.zeros((rows, width), np.int64)
            if steps:
                seen = sequence if counted is None else xp.where(counted[..., None], sequence, -np.inf)
                kept[...] = seen.argmax(axis=0)
                some = kept[:0] if counted is None else counted.any(axis=0)[:, None]
                best = xp.take_along_axis(seen, kept[None], axis=0)[0]
                y[...] = best if counted is None else xp.where(some, best, 0)
                if counted is not None:
                    kept[...] = xp.where(some, kept, -1)
        else:
            seen = sequence if counted is None else xp.where(counted[..., None], sequence, 0)
            counts = device.zeros((rows,), np.float64) + (steps if counted is None else counted.sum(axis=0))
            share, flush = 1.0 / xp.maximum(counts, 1.0), flushing_of(xp)
            flush.multiply(flush.sum(seen, axis=0, dtype=np.float64), share[:, None], out=y)
            kept = counted, share
        result = y if batched else y[0]
        return result, None if tape is None else (kept, x[0].shape, batched)

    def _ends(self, device: Device, sequence: Array, last: Array) -> Array:
        """The step at which each feature of each row has its last value: [B, I]."""
        rows, first = device.arange(len(last)), sequence[0]
        ends: Array = sequence[device.xp.maximum(last, 0), rows]
        half = self._forwards(sequence.shape[-1])
        ends[:, half:] = first[:, half:]
        return ends

    def _forwards(self, width: int) -> int:
        """How many of the features run forwards in time."""
        return 0 if self.reverse else width // 2 if self.bidirectional else width

    def _differentiate(self, device: Device, kept: Any, dy: Array, gradients: Gradients) -> tuple[Array, ...]:
        xp = device.xp
        found, shape, batched = kept
        dx = device.zeros(shape, dy.dtype)
        d, view = dy if batched else dy[None], self._view(dx, batched)
        if not len(view):
            return (dx,)
        if self.kind == "last":
            d = xp.where((found >= 0)[:, None], d, 0)
            half, rows = self._forwards(d.shape[-1]), device.arange(len(d))
            view[xp.maximum(found, 0), rows, :half] = d[:, :half]
            view[0, :, half:] = d[:, half:]
        elif self.kind == "max":
            steps = device.arange(len(view))
            view[...] = xp.where(steps[:, None, None] == found, d, 0)
        else:
            counted, share = found
            each = device.empty(d.shape, d.dtype)
            flushing_of(xp).multiply(d, share[:, None], out=each)
            view[...] = each if counted is None else xp.where(counted[..., None], each, 0)
        return (dx,)


class Add(Plain):
    """The sum of several inputs of one shape: a skip connection.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import Add
    >>> Add()(np.ones(2), np.arange(2.0))
    array([1., 2.])
    """

    several = True

    def __init__(self, *, rng: Any = None) -> None:
        super().__init__()

    def features(self, sizes: list[int]) -> int:
        """As of the base."""
        if len(set(sizes)) != 1:
            raise ValueError(f"expected inputs of one size, got {sizes}")
        return sizes[0]

    def _check(self, port: Port, inputs: list[Array], **options: Any) -> dict[str, Any]:
        for n, one in enumerate(inputs):
            _checks.shape(f"x[{n}]", one, inputs[0].shape)
        return options

    def _apply(self, device: Device, x: list[Array], tape: Tape | None, options: dict[str, Any]) -> tuple[Array, Any]:
        y = x[0].copy(order="C")
        for one in x[1:]:
            flushing_of(device.xp).add(y, one, out=y)
        return y, len(x)

    def _differentiate(self, device: Device, kept: Any, dy: Array, gradients: Gradients) -> tuple[Array, ...]:
        return tuple([dy.copy(order="C") for _ in range(kept)])


class Concat(Plain):
    """The features of several inputs side by side.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import Concat
    >>> Concat()(np.ones((3, 2)), np.zeros((3, 1))).shape
    (3, 3)
    """

    several = True

    def __init__(self, *, rng: Any = None) -> None:
        super().__init__()

    def features(self, sizes: list[int]) -> int:
        """As of the base."""
        return sum(sizes)

    def _check(self, port: Port, inputs: list[Array], **options: Any) -> dict[str, Any]:
        for n, one in enumerate(inputs):
            _checks.shape(f"x[{n}]", one, (*inputs[0].shape[:-1], one.shape[-1]))
        return options

    def _apply(self, device: Device, x: list[Array], tape: Tape | None, options: dict[str, Any]) -> tuple[Array, Any]:
        return device.xp.concatenate(x, axis=-1), [one.shape[-1] for one in x]

    def _differentiate(self, device: Device, kept: Any, dy: Array, gradients: Gradients) -> tuple[Array, ...]:
        ends = np.cumsum([0, *kept])
        return tuple([dy[..., start:end].copy(order="C") for start, end in pairwise(ends)])
