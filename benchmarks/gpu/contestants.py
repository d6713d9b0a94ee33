"""Who does a row's work: ours, PyTorch's modules (cuDNN), PyTorch's cells, and a barrier that does nothing else.

A contestant is a function ``call(i)`` that enqueues one call with the i-th set of inputs; sets take turns, so that no
input is in the cache because it was just used. Ours and the peers read the same memory where the precision lets them.

The peers are given what a user would give them: TF32 by PyTorch's switches, bfloat16 and fp16 as the module's dtype,
`inference_mode` for forward, and for training the gradients of the input and all parameters from `torch.autograd.grad`.
Ours overwrites one gradient buffer, which it zeroes each time, and one tape, as a training loop does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rnnfast import reference
from rnnfast._call import BackwardCall, ForwardCall
from rnnfast.cuda import arrays, shim, streams
from rnnfast.cuda.described import Described
from rnnfast.cuda.kernel import Kernel
from rnnfast.cuda.plan import plan
from rnnfast.description.declarations import declared

from .described import CELLS, widths_of
from .environment import compiled
from .problems import NAMES
from .rows import BARRIER, CELL, CUDNN, FP16, OUR_LSTM, SHORTER, UNMASKED, Row

__all__ = ["CLASSES", "Contestant", "Data", "exact", "ours", "peer"]

Contestant = Callable[[int], Any]
_SETS, _ENOUGH = 4, 120e6  # bytes: twice the cache
CLASSES = {"lstm": "LSTM", "gru_after": "GRU", "elman_tanh": "RNN"}
"""PyTorch's modules of our kinds."""


def _state_widths(row: Row) -> list[int]:
    cell = CELLS[row.kind]
    widths = widths_of(cell, row.H)
    return [widths[state.width] for state in declared(cell).states]


class Data:
    """The arrays of a row on the device.

    Attributes
    ----------
    x, dy : list of arrays [T, B, H]
        One of each per set.
    params : dict of str to array
    masks : dict of str to array or None
        ``lengths`` and ``resets``.
    """

    def __init__(self, row: Row, seed: int) -> None:
        rng = np.random.default_rng(seed)
        T, B, H = row.T, row.B, row.H
        sets = int(min(_SETS, max(1, _ENOUGH // (8 * T * B * H))))

        def sequences(width: int) -> list[Any]:
            return [arrays.to_device(rng.standard_normal((T, B, width), np.float32)) for _ in range(sets)]

        cell = CELLS[row.kind]
        self.kind, self.x, self.dy = row.kind, sequences(H), sequences(_state_widths(row)[0])
        widths = widths_of(cell, H)
        shapes = [() if one.width is None else (widths[one.width],) for one in declared(cell).given]
        self.given = tuple(arrays.to_device(rng.random((T, B, *shape), np.float32)) for shape in shapes)
        params = reference.init_params(cell, H, H, rng)
        self.params = {name: arrays.to_device(np.asarray(value, np.float32)) for name, value in params.items()}
        self.masks: dict[str, Any] = dict.fromkeys(("lengths", "resets"))
        if row.mask == "lengths":
            self.masks["lengths"] = arrays.to_device(rng.integers(1, T + 1, B))
        if row.mask == "resets":
            self.masks["resets"] = arrays.to_device(rng.random((T, B)) < 0.02)


# ---------------------------------------------------------------------------------------------------------------------
# Ours


def _state(row: Row) -> tuple[Any, ...]:
    """Memory for the states."""
    return tuple(arrays.empty((row.B, width)) for width in _state_widths(row))


def _kernel(row: Row) -> Kernel | Described:
    """Of the kinds that have one by hand that, else the one that runs the description."""
    if row.kind in reference.CELLS:
        return Kernel(row.kind, row.H, row.H, row.precision)
    cell = CELLS[row.kind]
    return Described(cell.program(), tuple(widths_of(cell, row.H).values()), row.H, row.precision)


class Ours:
    """One layer's kernel with memory of its own for results.

    Parameters
    ----------
    row : Row
        Kind, precision and sizes.
    data : Data
    masked : bool
        Whether to use the data's masks.
    """

    def __init__(self, row: Row, data: Data, *, masked: bool = True) -> None:
        T, B, H = row.T, row.B, row.H
        self._data = data
        self._kernel, self._names = _kernel(row), [one.name for one in CELLS[row.kind].program().parameters]
        self._panels = arrays.empty((self._kernel.panel_size,))
        self._kernel.pack(tuple(data.params[name] for name in self._names), self._panels)
        self._masks: dict[str, Any] = {"given": data.given} | (data.masks if masked else {})
        self.y, self.dx = arrays.empty((T, B, _state_widths(row)[0])), arrays.empty((T, B, H))
        self._final, self._d_initial = _state(row), _state(row)
        self.gradients = arrays.empty((self._kernel.panel_size,))
        self._tape = arrays.empty((self._kernel.tape_size(T, B) if row.work == "training" else 0,))

    def forward(self, i: int) -> None:
        """Inference."""
        self._forward(i, None)

    def _forward(self, i: int, tape: Any) -> None:
        x = self._data.x[i % len(self._data.x)]
        y = _first_of(self.y, self._final)
        self._kernel.forward(ForwardCall(self._panels, x, y, None, self._final, tape=tape, **self._masks))

    def training(self, i: int) -> None:
        """Forward and backward."""
        self._forward(i, self._tape)
        self.gradients.fill(0)
        k = i % len(self._data.x)
        x, dy = self._data.x[k], self._data.dy[k]
        of_y = _first_of(dy, self._final)
        arrays_of_call = (self._panels, None, x, self._tape, of_y, None, self.dx, self._d_initial, self.gradients)
        self._kernel.backward(BackwardCall(*arrays_of_call, **self._masks))

    def results(self, work: str) -> dict[str, Any]:
        """What the last call has written: y, and after training dx and the parameters' gradients."""
        if work == "forward":
            return {"y": self.y}
        unpacked = {name: arrays.empty(self._data.params[name].shape) for name in self._names}
        self._kernel.unpack(self.gradients, tuple(unpacked.values()))
        return {"y": self.y, "dx": self.dx, **unpacked}


def _first_of(sequence: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of the states' sequences the first alone."""
    return (sequence, *(None,) * (len(states) - 1))


class _Steps:
    """A stream's step: the kernel on one step, two states taking turns."""

    def __init__(self, row: Row, data: Data) -> None:
        self._one = Ours(row, data)
        self._prepared = self._one._kernel.prepare(self._one._panels, row.B)
        self._states = [_state(row), _state(row)]
        for array in (*self._states[0], *self._states[1]):
            array.fill(0)

    def __call__(self, i: int) -> None:
        one, (before, after) = self._one, self._states
        x = one._data.x[i % len(one._data.x)]
        y = _first_of(one.y, before)
        call = ForwardCall(one._panels, x, y, before, after, **one._masks)
        one._kernel.forward(call, prepared=self._prepared)
        self._states = [after, before]


def ours(row: Row, data: Data) -> tuple[Contestant, Ours | None]:
    """Our contestant, and the object with its results where they can be compared with `exact`."""
    if row.group == "stream":
        return _stream(row, data), None
    if row.group == "layer":
        return _layer(row, data), None
    one = Ours(row, data)
    return getattr(one, row.work), one


def _public(row: Row, data: Data) -> Any:
    import rnnfast

    cls = {"lstm": rnnfast.LSTM, "gru_after": rnnfast.GRU, "elman_tanh": rnnfast.RNN}[row.kind]
    layer = cls(row.H, row.H, device="cuda", precision=row.precision)
    layer.load({f"{name}_l0": value for name, value in data.params.items()})
    return layer


def _stream(row: Row, data: Data) -> Contestant:
    if not compiled():
        return _Steps(row, data)
    stream, out = _public(row, data).stream(), arrays.empty((1, row.H))
    steps = [x[0] for x in data.x]
    return lambda i: stream.step(steps[i % len(steps)], out)


def _layer(row: Row, data: Data) -> Contestant:
    layer = _public(row, data)
    tape = None

    def forward(i: int) -> None:
        layer(data.x[i % len(data.x)])

    def training(i: int) -> None:
        nonlocal tape
        _, _, tape = layer.forward(data.x[i % len(data.x)], tape=tape)
        layer.backward(tape, data.dy[i % len(data.x)])

    return forward if row.work == "forward" else training


# ---------------------------------------------------------------------------------------------------------------------
# The others


def peer(row: Row, data: Data, seed: int) -> tuple[Contestant, int]:
    """The contestant that a row is compared with, and its steps per call."""
    if row.against == BARRIER:
        return _barrier(row), row.T
    if row.against == UNMASKED:
        return getattr(Ours(row, data, masked=False), row.work), row.T
    if row.against == OUR_LSTM:
        lstm = Row(**vars(row) | {"kind": "lstm"})
        return getattr(Ours(lstm, Data(lstm, seed)), row.work), row.T
    if row.against == SHORTER:
        shorter = Row(**vars(row) | {"T": 256})
        return getattr(Ours(shorter, Data(shorter, seed)), row.work), shorter.T
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = row.precision == "tf32"
    if row.against == CELL:
        return _cell(torch, row, data), 1
    dtype = {CUDNN: torch.bfloat16 if row.precision == "bfloat16" else torch.float32, FP16: torch.float16}[row.against]
    return _cudnn(torch, row, data, dtype), row.T


def _tensor(torch: Any, array: Any) -> Any:
    return torch.from_numpy(np.asarray(array)) if shim.SIMULATED else torch.from_dlpack(array)


def _module(torch: Any, cls: Any, data: Data, dtype: Any, suffix: str) -> Any:
    """A module of PyTorch with the data's parameters."""
    hidden = data.params["weight_hh"].shape[1]
    module = cls(hidden, hidden)
    module.load_state_dict({name + suffix: _tensor(torch, value).cpu() for name, value in data.params.items()})
    return module.to("cpu" if shim.SIMULATED else "cuda", dtype)


def _cudnn(torch: Any, row: Row, data: Data, dtype: Any) -> Contestant:
    module = _module(torch, getattr(torch.nn, CLASSES[row.kind]), data, dtype, "_l0")
    module.flatten_parameters()
    inputs = [_tensor(torch, x).to(dtype) for x in data.x]
    if row.work == "forward":

        def forward(i: int) -> Any:
            with torch.inference_mode():
                return {"y": module(inputs[i % len(inputs)])[0]}

        return forward
    weights = [getattr(module, f"{name}_l0") for name in NAMES]
    leaves = [x.detach().requires_grad_() for x in inputs]
    dys = [_tensor(torch, dy).to(dtype) for dy in data.dy]

    def training(i: int) -> Any:
        x = leaves[i % len(leaves)]
        y = module(x)[0]
        gradients = torch.autograd.grad(y, [x, *weights], dys[i % len(dys)])
        return dict(zip(("y", "dx", *NAMES), (y, *gradients), strict=True))

    return training


def _cell(torch: Any, row: Row, data: Data) -> Contestant:
    cls = {"lstm": torch.nn.LSTMCell, "gru_after": torch.nn.GRUCell}[row.kind]
    cell = _module(torch, cls, data, torch.float32, "")
    inputs = [_tensor(torch, x)[0] for x in data.x]
    state = None

    def step(i: int) -> None:
        nonlocal state
        with torch.inference_mode():
            state = cell(inputs[i % len(inputs)], state)

    return step


def _barrier(row: Row) -> Contestant:
    """As many barriers of all multiprocessors as the row has steps: one counter, to which each block adds one."""
    blocks = shim.limits().multiprocessors
    found = plan(row.kind, row.H, row.B, row.precision).forward
    threads = found.threads if found else 256

    def call(i: int) -> None:
        counter = arrays.zeros((1,), np.int32)
        arguments = (shim.pointer(counter), row.T, blocks)
        stream = arrays.stream_pointer()
        streams.turn(lambda: _barriers.launch((blocks, 1), threads, arguments, stream=stream, cooperative=True))

    return call


@shim.kernel("pii")
def _barriers(counter: Any, steps: Any, blocks: Any) -> None:
    step = 0
    while step < steps:
        step += 1
        shim.sync()
        if shim.thread() == 0:
            shim.release_add(counter, 0)
            while shim.acquire(counter, 0) < step * blocks:
                pass
        shim.sync()


def exact(row: Row, data: Data) -> dict[str, Any]:
    """The results of a row's work on the first set of inputs, computed by PyTorch in float64; None where it can't."""
    import torch

    double = Row(**vars(row) | {"precision": "float64"})
    lengths = data.masks["lengths"]
    if lengths is None:
        return _host(_cudnn(torch, double, _first(data), torch.float64)(0))
    # Nothing comes back from beyond a row's end if dy is zero there, and y is zero there by contract.
    ended = np.arange(row.T)[:, None] >= arrays.to_host(lengths)
    dy = arrays.to_host(data.dy[0])
    dy[ended] = 0
    found = _host(_cudnn(torch, double, _first(data, arrays.to_device(dy)), torch.float64)(0))
    found["y"][ended] = 0
    return found


def _first(data: Data, dy: Any = None) -> Data:
    """The first set of inputs."""
    first = object.__new__(Data)
    vars(first).update(vars(data) | {"x": data.x[:1], "dy": data.dy[:1] if dy is None else [dy]})
    return first


def _host(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
