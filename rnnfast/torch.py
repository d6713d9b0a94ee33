"""Modules of PyTorch that run rnnfast's kernels: a PyTorch program changes one line.

`rnnfast.torch.LSTM`, `GRU` and `RNN` are PyTorch's own classes, with their constructors, initial weights and state
dictionaries; the forward and backward are ours, and calls take `lengths`, `resets` and `mask` besides. `Recurrent` is
the module of any layer of rnnfast's.

On the CPU alone; `torch.compile` goes around the calls. Tensors are read and written where they lie. The weights are
PyTorch's, which any optimiser may change in any way; so each call takes their checksums, and packs them again if these
have moved.

Rejected: to tell by PyTorch's version counters whether weights have changed (`p.data.add_()` does not move them); one
memory for both (`module.double()` and loading with `assign=True` replace it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from . import _checks, _core, layers
from ._checks import Array

__all__ = ["GRU", "LSTM", "RNN", "Chain", "Recurrent"]

_OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")


_DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


class _Twin:
    """A layer that computes with the weights of a module of PyTorch's.

    Parameters
    ----------
    layer : Recurrent
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.states = tuple(one.name for one in layer._recurrence.layout.program.states)
        self.random = bool(layer._recurrence.layout.random)
        self._sums: list[int] = []
        self._version = -1

    def __reduce__(self) -> Any:
        return _Twin, (self.layer,)

    def synchronise(self, names: Iterable[str], weights: Iterable[Any]) -> None:
        """The layer's parameters become these, if they are not."""
        arrays = [_array(weight) for weight in weights]
        sums = [_core.checksum(array) for array in arrays]
        if sums != self._sums or self._version != self.layer.params.version:
            self.layer.load(dict(zip(names, arrays, strict=True)))
            self._sums, self._version = sums, self.layer.params.version


class _Call:
    """A call that is recorded, and can be run again for a second backward of the same graph."""

    def __init__(self, twin: _Twin, names: list[str], options: dict[str, Any], dropout: float, training: bool) -> None:
        self.twin, self.names, self.options = twin, names, options
        self._dropout = dropout if training else 0.0
        if twin.random and not training:
            raise ValueError(
                "eval: expected torch.no_grad() around a call of a layer with zoneout or recurrent dropout, which are "
                "random in every call that can be differentiated"
            )
        # From PyTorch's generator, so that torch.manual_seed decides; not drawn where nothing is random.
        self._seed = int(torch.randint(2**62, ())) if twin.random or self._dropout else 0

    def run(self, x: Array, state: Any) -> tuple[Any, Any, Any]:
        """y, the final state, and the tape."""
        layer = self.twin.layer
        if self._dropout:
            layer.rng = np.random.default_rng(self._seed)
        layer.dropout = self._dropout
        result: tuple[Any, Any, Any] = layer.forward(x, state, seed=self._seed, **self.options)
        return result


class _Run(torch.autograd.Function):
    """y and the final states, from a call, x, the initial states (None or tensors), and the parameters."""

    @staticmethod
    def forward(ctx: Any, call: _Call, states: int, *tensors: Any) -> Any:
        x, *rest = tensors
        y, final, ctx.tape = call.run(_array(x), _state(rest[:states]))
        ctx.call, ctx.states = call, states
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return torch.from_numpy(y), *map(torch.from_numpy, _parts(final))

    @staticmethod
    def backward(ctx: Any, dy: Any, *dstates: Any) -> Any:
        saved = ctx.saved_tensors  # asked for, it refuses weights or inputs that have been changed in place
        with torch.no_grad():
            grads = _gradients(ctx, saved, dy, dstates)
        if torch.is_grad_enabled():
            sources = [one for one in (dy, *dstates, *saved) if one is not None and one.requires_grad]
            made = iter(_FirstOnly.apply(len(sources), *sources, *(one for one in grads if one is not None)))
            grads = [None if one is None else next(made) for one in grads]
        return None, None, *grads


def _gradients(ctx: Any, saved: Any, dy: Any, dstates: Any) -> list[Any]:
    """Of x, the initial states and the parameters; None for what has none."""
    x, *rest = saved
    layer = ctx.call.twin.layer
    ctx.call.twin.synchronise(ctx.call.names, rest[ctx.states :])
    if not ctx.tape.serves(layer.params):  # a second backward, or a call with other weights came between
        ctx.tape = ctx.call.run(_array(x), _state(rest[: ctx.states]))[2]
    wanted = ctx.needs_input_grad[2:]
    given = [None if one is None else _array(one) for one in dstates]
    found = layer.backward(
        ctx.tape,
        None if dy is None else _array(dy),
        None if all(one is None for one in given) else tuple(given) if len(given) > 1 else given[0],
        input_gradient=wanted[0],
    )
    arrays = [found.x, *_parts(found.state)[: ctx.states], *(found.params[name] for name in ctx.call.names)]
    return [torch.from_numpy(one) if wants else None for one, wants in zip(arrays, wanted, strict=True)]


class _FirstOnly(torch.autograd.Function):
    """Gradients as they are; to differentiate them is refused. What they depend on goes in before them."""

    @staticmethod
    def forward(ctx: Any, sources: int, *tensors: Any) -> Any:
        return tuple(tensor.view_as(tensor) for tensor in tensors[sources:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "rnnfast.torch: expected first derivatives alone, got a second backward through gradients "
            "(create_graph=True); PyTorch's own modules have second derivatives"
        )


def _array(tensor: Any) -> Array:
    """The memory of a tensor on the host."""
    if tensor.device.type != "cpu":
        raise ValueError(f"input: expected tensors on the CPU, got one on {tensor.device}")
    array: Array = tensor.detach().numpy()
    return array


def _plain(value: Any) -> Any:
    """A mask or the like: a tensor as an array, anything else as it is."""
    return _array(value) if isinstance(value, torch.Tensor) else value


def _state(tensors: Any) -> Any:
    """A state as a layer takes it."""
    arrays = tuple(map(_array, tensors))
    return None if not arrays else arrays if len(arrays) > 1 else arrays[0]


def _parts(state: Any) -> tuple[Any, ...]:
    """A state as a tuple."""
    return state if isinstance(state, tuple) else (state,)


def _apply(
    module: Any, twin: _Twin, input: Any, state: Any, weights: Mapping[str, Any], dropout: float, options: Any
) -> tuple[Any, Any]:
    """A call of a module: y and the final state."""
    if torch.jit.is_tracing():
        raise RuntimeError(
            "rnnfast.torch: expected a call outside torch.jit.trace and torch.onnx.export, which see no kernels but "
            "PyTorch's; torch.nn's module of the same name takes the same state dictionary"
        )
    states = () if state is None else tuple(state) if isinstance(state, tuple | list) else (state,)
    if states and len(states) != len(twin.states):
        raise ValueError(f"hx: expected the state ({', '.join(twin.states)}), got {len(states)} tensors")
    _check("input", input, twin.layer.dtype)
    for one in states:
        _check("hx", one, twin.layer.dtype)
    twin.synchronise(weights, weights.values())
    options = {name: _plain(value) for name, value in options.items() if value is not None}
    tensors = [input, *states, *weights.values()]
    if torch.is_grad_enabled() and any([tensor.requires_grad for tensor in tensors]):
        y, *final = _Run.apply(_Call(twin, list(weights), options, dropout, module.training), len(states), *tensors)
    else:
        result = twin.layer(_array(input), _state(states), **options)
        y, *final = map(torch.from_numpy, (result[0], *_parts(result[1])))
    return y, tuple(final) if len(final) > 1 else final[0]


def _outside(function: Any) -> Any:
    """A function around which `torch.compile` goes. Asked for while it compiles: PyTorch loads much code for this."""
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function


def _check(name: str, value: Any, dtype: np.dtype[Any]) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {_checks.describe(value)}")
    if value.is_floating_point() and _DTYPES.get(value.dtype) != dtype:
        raise ValueError(f"{name}: expected torch.{dtype.name}, which the weights are, got {value.dtype}")


class _Fast:
    """The forward of PyTorch's recurrent modules, on the layer that computes the same."""

    _kind: Any  # the layer's class
    _more: tuple[str, ...] = ()  # its own options

    def forward(
        self: Any, input: Any, hx: Any = None, *, lengths: Any = None, resets: Any = None, mask: Any = None
    ) -> tuple[Any, Any]:
        """The layer's output and its final state.

        Parameters
        ----------
        input : torch.Tensor or torch.nn.utils.rnn.PackedSequence
            As PyTorch's module takes it, on the CPU.
        hx : torch.Tensor, or a tuple of two for an LSTM, optional
            The initial state.
        lengths, resets, mask : tensor or array_like, optional
            As of `rnnfast.Recurrent`: steps of each row, starts of new segments, steps that count.

        Returns
        -------
        output : as `input`
        state : torch.Tensor or tuple of torch.Tensor

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape, dtype or range.
        """
        run = _outside(self._run)
        made: tuple[Any, Any] = run(input, hx, lengths, resets, mask)
        return made

    def _run(self: Any, input: Any, hx: Any, lengths: Any, resets: Any, mask: Any) -> tuple[Any, Any]:
        rnn = torch.nn.utils.rnn
        packed = isinstance(input, rnn.PackedSequence)
        if packed:
            if lengths is not None:
                raise ValueError("lengths: expected None with a packed sequence, which has lengths of its own")
            order = input.sorted_indices
            input, lengths = rnn.pad_packed_sequence(input, self.batch_first)
        weights = {name: getattr(self, name) for name in self._flat_weights_names}
        options = {"lengths": lengths, "resets": resets, "mask": mask}
        y, state = _apply(self, self._computes(weights), input, hx, weights, float(self.dropout), options)
        if packed:
            y = rnn.pack_padded_sequence(y, lengths, self.batch_first, enforce_sorted=order is None)
        return y, state

    def _computes(self: Any, weights: Mapping[str, Any]) -> _Twin:
        """The layer that computes; a new one when the module's dtype has changed."""
        kind = next(iter(weights.values())).dtype
        twin: _Twin | None = self.__dict__.get("_twin")
        if twin is None or twin.layer.dtype != _DTYPES.get(kind):
            if kind not in _DTYPES:
                raise TypeError(f"{type(self).__name__}: expected weights of float32 or float64, got {kind}")
            options = {name: getattr(self, name) for name in (*_OPTIONS, *self._more)}
            twin = self.__dict__["_twin"] = _Twin(self._kind(**options, dtype=_DTYPES[kind]))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_twin"}


class RNN(_Fast, torch.nn.RNN):
    """`torch.nn.RNN`, run by rnnfast; calls also take `lengths`, `resets` and `mask`.

    Parameters
    ----------
    *args, **kwargs
        As of `torch.nn.RNN`.

    Examples
    --------
    >>> from rnnfast.torch import RNN  # doctest: +SKIP
    >>> y, state = RNN(3, 5)(torch.ones(7, 2, 3), lengths=[7, 4])  # doctest: +SKIP
    """

    _kind, _more = layers.RNN, ("nonlinearity",)


class LSTM(_Fast, torch.nn.LSTM):
    """`torch.nn.LSTM`, run by rnnfast; calls also take `lengths`, `resets` and `mask`.

    Parameters
    ----------
    *args, **kwargs
        As of `torch.nn.LSTM`.

    Examples
    --------
    >>> from rnnfast.torch import LSTM  # doctest: +SKIP
    >>> y, (h, c) = LSTM(3, 5, num_layers=2)(torch.ones(7, 2, 3))  # doctest: +SKIP
    """

    _kind, _more = layers.LSTM, ("proj_size",)


class GRU(_Fast, torch.nn.GRU):
    """`torch.nn.GRU`, run by rnnfast; calls also take `lengths`, `resets` and `mask`.

    Parameters
    ----------
    *args, **kwargs
        As of `torch.nn.GRU`.

    Examples
    --------
    >>> from rnnfast.torch import GRU  # doctest: +SKIP
    >>> y, state = GRU(3, 5, bidirectional=True)(torch.ones(7, 2, 3))  # doctest: +SKIP
    """

    _kind = layers.GRU


class Recurrent(torch.nn.Module):
    """A module of PyTorch's that runs a layer of rnnfast's, of any cell.

    Parameters
    ----------
    layer : rnnfast.Recurrent (RNN, LSTM, GRU, SLSTM, ...)
        On the host. The module's parameters begin with its values, under its names; the layer is the module's own from
        now on.

    Raises
    ------
    TypeError, ValueError
        It is something else, or lies on a device.

    Examples
    --------
    >>> module = rnnfast.torch.Recurrent(rnnfast.MinGRU(3, 5))  # doctest: +SKIP
    """

    def __init__(self, layer: layers.Recurrent) -> None:
        super().__init__()
        if not isinstance(layer, layers.Recurrent):
            raise TypeError(f"layer: expected a layer of rnnfast (LSTM, SLSTM, ...), got {_checks.describe(layer)}")
        if layer.device != "cpu":
            raise ValueError(f"layer: expected one on the host, got device={layer.device!r}")
        if layer.sparse:
            raise ValueError("layer: expected one with sparse=False, whose gradients are tensors, got sparse=True")
        self._twin, self._dropout = _Twin(layer), layer.dropout
        for name, value in layer.params.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(np.array(value))))

    def extra_repr(self) -> str:
        """The layer, for `repr`."""
        return repr(self._twin.layer)

    def forward(
        self,
        input: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        mask: Any = None,
        given: Any = None,
    ) -> tuple[Any, Any]:
        """The layer's output and its final state.

        Parameters
        ----------
        input, state, lengths, resets, mask, given
            As of the layer; `input` and `state` are tensors. No gradient flows to `given`.

        Returns
        -------
        output : torch.Tensor
        state : torch.Tensor or tuple of torch.Tensor

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape, dtype or range.
        """
        extra = {name: _plain(one) for name, one in given.items()} if isinstance(given, Mapping) else given
        options = {"lengths": lengths, "resets": resets, "mask": mask, "given": extra}
        weights = dict(self.named_parameters())
        made: tuple[Any, Any] = _outside(_apply)(self, self._twin, input, state, weights, self._dropout, options)
        return made


class Chain(torch.nn.Sequential):
    """A Sequential of layers and heads, called as a `rnnfast.Model` is: what `rnnfast.interop.to_torch` makes of one.

    Parameters
    ----------
    *modules
        Modules in a row, recurrent ones among them.
    """

    def forward(self, input: Any, state: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The output, and the final states of the layers.

        Parameters
        ----------
        input : torch.Tensor
        state : mapping, optional
            Initial states by the layers' names.

        Returns
        -------
        output : torch.Tensor
        state : dict
        """
        final: dict[str, Any] = {}
        for name, module in self.named_children():
            if isinstance(module, torch.nn.RNNBase):
                input, final[name] = module(input, (state or {}).get(name))
            else:
                input = module(input)
        return input, final
