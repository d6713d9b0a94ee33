"""Modules of PyTorch that run rnnfast's kernels: a PyTorch program changes one line.

`rnnfast.torch.LSTM`, `GRU` and `RNN` are PyTorch's own classes, with their constructors, initial weights and state
dictionaries; the forward and backward are ours, and calls take `lengths`, `resets` and `mask` besides. `Recurrent` is
the module of any layer of rnnfast's.

On the CPU alone. Tensors are read and written where they lie. The weights are PyTorch's, which any optimiser may change
in any way; so each call compares them with the packed ones, one pass over them, and packs them again if they differ.

Rejected: to tell by PyTorch's version counters whether weights have changed (`p.data.add_()` does not move them); one
memory for both (`module.double()` and loading with `assign=True` replace it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from . import _checks, layers
from ._checks import Array

__all__ = ["GRU", "LSTM", "RNN", "Chain", "Recurrent"]

_OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")


class _Call:
    """One call of a layer, which can be run again for a second backward of the same graph."""

    def __init__(
        self, layer: Any, names: list[str], options: dict[str, Any], *, training: bool, recorded: bool
    ) -> None:
        self.layer, self.names, self.options = layer, names, options
        self.training, self.recorded = training, recorded
        # From PyTorch's generator, so that torch.manual_seed decides; not drawn where nothing is random.
        random = recorded and (layer._recurrence.layout.random or layer.dropout > 0)
        self.seed = int(torch.randint(2**62, ())) if random and training else 0
        if random and not training and layer._recurrence.layout.random:
            raise ValueError(
                "eval: expected torch.no_grad() around a call of a layer with zoneout or recurrent dropout, which are "
                "random in every call that can be differentiated"
            )

    def run(self, x: Array, state: Any) -> tuple[Any, Any, Any]:
        """y, the final state, and the tape if there is to be a backward."""
        if not self.recorded:
            return *self.layer(x, state, **self.options), None
        dropout, self.layer.dropout = self.layer.dropout, self.layer.dropout if self.training else 0.0
        self.layer.rng = np.random.default_rng(self.seed)
        try:
            result: tuple[Any, Any, Any] = self.layer.forward(x, state, seed=self.seed, **self.options)
        finally:
            self.layer.dropout = dropout
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
        return torch.from_numpy(y), *map(torch.from_numpy, final if isinstance(final, tuple) else (final,))

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
    _synchronise(ctx.call.layer, dict(zip(ctx.call.names, rest[ctx.states :], strict=True)))
    if not ctx.tape.serves(ctx.call.layer.params):  # a second backward, or a call with other weights came between
        ctx.tape = ctx.call.run(_array(x), _state(rest[: ctx.states]))[2]
    wanted = ctx.needs_input_grad[2:]
    given = [None if one is None else _array(one) for one in dstates]
    found = ctx.call.layer.backward(
        ctx.tape,
        None if dy is None else _array(dy),
        None if all(one is None for one in given) else tuple(given) if len(given) > 1 else given[0],
        input_gradient=wanted[0],
    )
    initial = found.state if isinstance(found.state, tuple) else (found.state,)
    arrays = [found.x, *initial[: ctx.states], *(found.params[name] for name in ctx.call.names)]
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


def _synchronise(layer: Any, weights: Mapping[str, Any]) -> None:
    """The layer's parameters become these, if they are not."""
    arrays = {name: np.ascontiguousarray(_array(weight)) for name, weight in weights.items()}
    bits = np.dtype(f"u{layer.dtype.itemsize}")
    if not all(np.array_equal(layer.params[name].view(bits), array.view(bits)) for name, array in arrays.items()):
        layer.load(arrays)


def _apply(
    module: Any, layer: Any, input: Any, state: Any, weights: Mapping[str, Any], options: Any
) -> tuple[Any, Any]:
    """A call of a layer with PyTorch's tensors: y and the final state."""
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"input: expected a tensor, got {_checks.describe(input)}")
    count = len(layer._recurrence.layout.program.states)
    states = () if state is None else tuple(state) if isinstance(state, tuple | list) else (state,)
    if states and len(states) != count:
        names = ", ".join(one.name for one in layer._recurrence.layout.program.states)
        raise ValueError(f"hx: expected the state ({names}), got {len(states)} tensors")
    for name, one in [("input", input), *(("hx", one) for one in states)]:
        if not isinstance(one, torch.Tensor):
            raise TypeError(f"{name}: expected a tensor, got {_checks.describe(one)}")
        if one.is_floating_point() and str(one.dtype) != f"torch.{layer.dtype.name}":
            raise ValueError(f"{name}: expected torch.{layer.dtype.name}, which the weights are, got {one.dtype}")
    _synchronise(layer, weights)
    tensors = [input, *states, *weights.values()]
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    options = {name: _plain(value) for name, value in options.items() if value is not None}
    call = _Call(layer, list(weights), options, training=module.training, recorded=recorded)
    y, *final = _Run.apply(call, len(states), *tensors)
    return y, tuple(final) if count > 1 else final[0]


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
        rnn = torch.nn.utils.rnn
        packed = isinstance(input, rnn.PackedSequence)
        if packed:
            if lengths is not None:
                raise ValueError("lengths: expected None with a packed sequence, which has lengths of its own")
            order = input.sorted_indices
            input, lengths = rnn.pad_packed_sequence(input, self.batch_first)
        weights = {name: getattr(self, name) for name in self._flat_weights_names}
        options = {"lengths": lengths, "resets": resets, "mask": mask}
        y, state = _apply(self, self._layer(weights), input, hx, weights, options)
        if packed:
            y = rnn.pack_padded_sequence(y, lengths, self.batch_first, enforce_sorted=order is None)
        return y, state

    def _layer(self: Any, weights: Mapping[str, Any]) -> Any:
        """The layer; a new one when the module's dtype has changed."""
        dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
        layer = self.__dict__.get("_twin")
        if layer is None or layer.dtype.name != dtype:
            if dtype not in ("float32", "float64"):
                raise TypeError(f"{type(self).__name__}: expected weights of float32 or float64, got {dtype}")
            options = {name: getattr(self, name) for name in (*_OPTIONS, *self._more)}
            layer = self.__dict__["_twin"] = self._kind(**options, dtype=dtype)
        layer.dropout = float(self.dropout)
        return layer

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
        self.layer = layer
        for name, value in layer.params.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(np.array(value))))

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
        return _apply(self, self.layer, input, state, dict(self.named_parameters()), options)


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
