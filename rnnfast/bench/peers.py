"""The peers: PyTorch, ONNX Runtime, and loops in NumPy, each in its fastest sensible form, with our weights.

None is needed. One that is not installed has no version, and the table's head says so. They are imported only when
they are asked for, so that this module can be imported without them.

Choices: PyTorch steps its cells (its whole layer takes four times as long for one step) and infers in
`inference_mode`; Adam is the fused one. ONNX Runtime is run through bindings to preallocated arrays (a third to a half
faster than `run` with dictionaries); the states of its steps take turns. NumPy multiplies the inputs of all steps at
once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, repeat
from typing import Any

import numpy as np

from .. import config
from .described import DESCRIBED
from .ours import Maker, repeated
from .rows import CELLS
from .work import CHECKED_WINDOWS, CLIP, LEARNING_RATE, Answer, Array, Contestant, Work

__all__ = ["PEERS", "installed", "library", "limited", "torch_gradients"]


def installed() -> dict[str, str | None]:
    """The version of each peer, None where it is not installed."""
    return {"PyTorch": _version("torch"), "ONNX Runtime": _version("onnxruntime", "onnx"), "NumPy": _version("numpy")}


def _version(*modules: str) -> str | None:
    try:
        versions = [__import__(module).__version__ for module in modules]
    except ImportError:
        return None
    return str(versions[0])


def library(column: str) -> str:
    """The peer that a column like "PyTorch padded" belongs to; "" for one of ours."""
    return next((name for name in ("PyTorch", "ONNX Runtime", "NumPy") if column.startswith(name)), "")


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Inside, calls that do not say otherwise use so many threads: ours, PyTorch's, and the BLAS under NumPy's."""
    with ExitStack() as stack:
        stack.callback(config.set_num_threads, config.get_num_threads())
        config.set_num_threads(threads)
        if installed()["PyTorch"]:
            import torch

            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        with suppress(ImportError):  # without it NumPy's loops use the threads that their BLAS chooses
            import threadpoolctl

            stack.enter_context(threadpoolctl.threadpool_limits(threads, user_api="blas"))
        yield


# PyTorch


def _torch_module(work: Work, suffix: str = "") -> Any:
    import torch

    row = work.row
    found = DESCRIBED[row.cell] if row.group == "cells" else None
    name, options = (found.torch, found.arguments(row.I, row.H)) if found else (CELLS[row.cell][0], {})
    module = getattr(torch.nn, name + suffix)(row.I, row.H, **options)
    end = "" if suffix else "_l0"
    module.load_state_dict({name + end: torch.from_numpy(value) for name, value in work.params.items()})
    return module


def _h(state: Any) -> Any:
    """h of a state of PyTorch's."""
    return state[0] if isinstance(state, tuple) else state


def torch_steps(work: Work, threads: int) -> Contestant:
    """Steps of a cell."""
    import torch

    module, inputs = _torch_module(work, "Cell"), torch.from_numpy(work.x)

    def loop(n: int) -> None:
        with torch.inference_mode():
            x, state = inputs[0], None
            for _ in repeat(None, n):
                state = module(x, state)

    def answer() -> Answer:
        y, state = [], None
        with torch.inference_mode():
            for x in inputs:
                state = module(x, state)
                y.append(_h(state))
            return {"y": torch.stack(y).numpy()}

    return Contestant(work, loop, answer)


def torch_forward(work: Work, threads: int) -> Contestant:
    """Inference."""
    import torch

    module, x = _torch_module(work), torch.from_numpy(work.x)

    def call() -> Any:
        with torch.inference_mode():
            return module(x)[0]

    return Contestant(work, repeated(call), lambda: {"y": call().numpy()})


def torch_gradients(
    work: Work, parameters: dict[str, Any], forward: Callable[[Any], Any], dtype: Any = None
) -> Contestant:
    """Forward and backward of what has these parameters, dx included; `forward` maps x to y."""
    import torch

    x, dy, active = (torch.from_numpy(array).to(dtype or torch.float32) for array in (work.x, work.dy, work.active))
    leaves = {"dx": x, **parameters}
    for leaf in leaves.values():
        leaf.requires_grad_(True)

    def call() -> Any:
        for leaf in leaves.values():
            leaf.grad = None
        y = forward(x)
        y.backward(dy)
        return y

    def answer() -> Answer:
        y = call().detach() * active
        return {"y": y.numpy(), **{name: leaf.grad.numpy() for name, leaf in leaves.items()}}

    return Contestant(work, repeated(call), answer)


def _module_gradients(work: Work, module: Any, forward: Callable[[Any], Any]) -> Contestant:
    parameters = {name.removesuffix("_l0"): value for name, value in module.named_parameters()}
    return torch_gradients(work, parameters, forward)


def torch_training(work: Work, threads: int) -> Contestant:
    """Forward and backward. In a ragged batch the padding is computed too; where dy is 0 it changes no gradient."""
    module = _torch_module(work)
    return _module_gradients(work, module, lambda x: module(x)[0])


def torch_packed(work: Work, threads: int) -> Contestant:
    """Forward and backward of a packed sequence."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    module, lengths = _torch_module(work), torch.from_numpy(work.masks["lengths"])

    def forward(x: Any) -> Any:
        y, _ = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(y, total_length=work.row.T)[0]

    return _module_gradients(work, module, forward)


def torch_resets(work: Work, threads: int) -> Contestant:
    """Forward and backward of a loop over a cell, which multiplies the state by 0 where an episode begins."""
    import torch

    module = _torch_module(work, "Cell")
    keep = torch.from_numpy(~work.masks["resets"][..., None]).float().unbind()
    zeros = torch.zeros(work.row.B, work.row.H)

    def forward(x: Any) -> Any:
        y, state = [], (zeros, zeros) if work.row.cell == "lstm" else zeros
        for x_t, keep_t in zip(x.unbind(), keep, strict=True):
            masked = tuple(part * keep_t for part in state) if isinstance(state, tuple) else state * keep_t
            state = module(x_t, masked)
            y.append(_h(state))
        return torch.stack(y)

    return _module_gradients(work, module, forward)


def torch_layer(work: Work, threads: int) -> Contestant:
    """A described cell's layer; its steps are calls of one step, as there is no class of one step for it."""
    import torch

    module, inputs = _torch_module(work), torch.from_numpy(work.x)
    with warnings.catch_warnings(), torch.inference_mode():  # it warns once that oneDNN has no projection
        warnings.simplefilter("ignore", UserWarning)
        module(inputs[:1])
    if not work.row.single_step:
        return (torch_training if work.row.trains else torch_forward)(work, threads)

    def loop(n: int) -> None:
        with torch.inference_mode():
            x, state = inputs[:1], None
            for _ in repeat(None, n):
                _, state = module(x, state)

    def answer() -> Answer:
        with torch.inference_mode():
            return {"y": module(inputs)[0].numpy()}

    return Contestant(work, loop, answer)


def torch_cell(column: str) -> Maker:
    """A described cell written in PyTorch, looped over, compiled or scripted."""

    def make(work: Work, threads: int) -> Contestant:
        from .torch_cells import contestant

        return contestant(work, column)

    return make


def torch_characters(work: Work, threads: int) -> Contestant:
    """Windows of a text, from ids to updated weights."""
    import torch
    from torch.nn.functional import cross_entropy

    I, H = work.row.I, work.row.H  # noqa: E741
    one_hot = torch.eye(I)
    windows = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(work.x, work.target, strict=True)]

    def trainer() -> Callable[[Any, Any], float]:
        model = torch.nn.ModuleDict(
            {"rnn": getattr(torch.nn, CELLS[work.row.cell][0])(I, H), "head": torch.nn.Linear(H, I)}
        )
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in work.model().params.items()})
        parameters = list(model.parameters())
        optimizer = torch.optim.Adam(parameters, LEARNING_RATE, fused=True)
        state = None

        def step(ids: Any, target: Any) -> float:
            nonlocal state
            y, last = model["rnn"](one_hot[ids], state)
            loss = cross_entropy(model["head"](y).flatten(0, 1), target.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            state = tuple(part.detach() for part in last) if isinstance(last, tuple) else last.detach()
            return float(loss.detach())

        return step

    def answer() -> Answer:
        fresh = trainer()
        return {"loss": np.array([fresh(*window) for window in windows[:CHECKED_WINDOWS]])}

    running, batches = trainer(), cycle(windows)
    return Contestant(work, repeated(lambda: running(*next(batches))), answer)


# ONNX Runtime

_ONNX_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # i o f c; z r h


def _onnx_session(work: Work, steps: int, outputs: list[str], states: list[str], threads: int) -> Any:
    """A session of a one-node model; `states` are the initial states that are inputs."""
    import onnx
    import onnxruntime
    from onnx import helper

    row = work.row
    op = CELLS[row.cell][0]

    def gates(*names: str) -> Any:
        """Parameters in ONNX's order of gates, those of two names one after the other, with an axis of directions."""
        order = list(_ONNX_GATES[row.cell])
        parts = (
            work.params[name].reshape(row.gates, row.H, -1)[order].reshape(row.gates * row.H, -1) for name in names
        )
        return np.concatenate(list(parts))[None]

    weights = {"W": gates("weight_ih"), "R": gates("weight_hh"), "B": gates("bias_ih", "bias_hh")[..., 0]}
    shapes = {"X": [steps, row.B, row.I], "Y": [steps, 1, row.B, row.H]}

    def described(name: str) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes.get(name, [1, row.B, row.H]))

    options: dict[str, Any] = {"linear_before_reset": 1} if row.cell == "gru" else {}
    node = helper.make_node(op, ["X", "W", "R", "B", "", *states], outputs, hidden_size=row.H, **options)
    graph = helper.make_graph(
        [node],
        op,
        [described(name) for name in ["X", *states]],
        [described(name) for name in outputs if name],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def _bind(session: Any, inputs: dict[str, Array], outputs: dict[str, Array]) -> Any:
    from onnxruntime import OrtValue

    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
    return binding


def onnx_steps(work: Work, threads: int) -> Contestant:
    """Steps with the state in and out."""
    letters = "hc" if work.row.cell == "lstm" else "h"
    session = _onnx_session(work, 1, ["", *(f"Y_{s}" for s in letters)], [f"initial_{s}" for s in letters], threads)
    states = np.zeros((2, len(letters), 1, 1, work.row.H), np.float32)
    x = np.empty((1, 1, work.row.I), np.float32)

    def binding(before: Array, after: Array) -> Any:
        inputs = {f"initial_{s}": part for s, part in zip(letters, before, strict=True)}
        return _bind(session, {"X": x, **inputs}, {f"Y_{s}": part for s, part in zip(letters, after, strict=True)})

    turns = binding(states[0], states[1]), binding(states[1], states[0])

    def loop(n: int) -> None:
        run, (one, other) = session.run_with_iobinding, turns
        for _ in repeat(None, n):
            run(one)
            one, other = other, one

    def answer() -> Answer:
        states[:] = 0
        y = []
        for t, x_t in enumerate(work.x):
            x[0] = x_t
            session.run_with_iobinding(turns[t % 2])
            y.append(states[1 - t % 2, 0, 0].copy())
        return {"y": np.array(y)}

    return Contestant(work, loop, answer)


def onnx_forward(work: Work, threads: int) -> Contestant:
    """Inference."""
    session = _onnx_session(work, len(work.x), ["Y"], [], threads)
    y = np.empty_like(work.dy)
    binding = _bind(session, {"X": work.x}, {"Y": y[:, None]})

    def call() -> None:
        session.run_with_iobinding(binding)

    def answer() -> Answer:
        call()
        return {"y": y}

    return Contestant(work, repeated(call), answer)


# NumPy


def _sigmoid(z: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-z))
    return result


def _numpy_step(work: Work) -> Callable[[Array, Any], Any]:
    """One step, from the input's product with its weights and the state to the new state."""
    U, b = np.ascontiguousarray(work.params["weight_hh"].T), work.params["bias_hh"]

    def lstm(a: Array, state: Any) -> Any:
        h, c = state
        i, f, g, o = np.split(a + (h @ U + b), 4, axis=-1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(c), c

    def gru(a: Array, h: Any) -> Any:
        a_r, a_z, a_n = np.split(a, 3, axis=-1)
        u_r, u_z, u_n = np.split(h @ U + b, 3, axis=-1)
        z = _sigmoid(a_z + u_z)
        n = np.tanh(a_n + _sigmoid(a_r + u_r) * u_n)
        return n + z * (h - n)

    def rnn(a: Array, h: Any) -> Any:
        return np.tanh(a + (h @ U + b))

    return {"lstm": lstm, "gru": gru, "rnn": rnn}[work.row.cell]


def _numpy_zeros(work: Work) -> Any:
    h = np.zeros((work.row.B, work.row.H), np.float32)
    return (h, h) if work.row.cell == "lstm" else h


def numpy_steps(work: Work, threads: int) -> Contestant:
    """Steps."""
    step, W, b = _numpy_step(work), np.ascontiguousarray(work.params["weight_ih"].T), work.params["bias_ih"]

    def loop(n: int) -> None:
        x, state = work.x[0], _numpy_zeros(work)
        for _ in repeat(None, n):
            state = step(x @ W + b, state)

    def answer() -> Answer:
        y, state = [], _numpy_zeros(work)
        for x in work.x:
            state = step(x @ W + b, state)
            y.append(_h(state))
        return {"y": np.array(y)}

    return Contestant(work, loop, answer)


def numpy_forward(work: Work, threads: int) -> Contestant:
    """Inference."""
    step, W, b = _numpy_step(work), np.ascontiguousarray(work.params["weight_ih"].T), work.params["bias_ih"]
    y: Array = np.empty_like(work.dy)

    def call() -> Array:
        state = _numpy_zeros(work)
        for a, y_t in zip(work.x @ W + b, y, strict=True):
            state = step(a, state)
            y_t[:] = _h(state)
        return y

    return Contestant(work, repeated(call), lambda: {"y": call()})


_STEPS: dict[str, Maker] = {"PyTorch": torch_steps, "ONNX Runtime": onnx_steps, "NumPy": numpy_steps}
_FORWARD: dict[str, Maker] = {"PyTorch": torch_forward, "ONNX Runtime": onnx_forward, "NumPy": numpy_forward}

PEERS: dict[str, dict[str, Maker]] = {
    "step": _STEPS,
    "step-bf16": _STEPS,
    "cell": _STEPS,
    "process": _FORWARD,
    "forward": _FORWARD,
    "training": {"PyTorch": torch_training},
    "ragged": {"PyTorch": torch_packed, "PyTorch padded": torch_training},
    "resets": {"PyTorch": torch_resets},
    "characters": {"PyTorch": torch_characters},
    "memory": {"PyTorch": torch_training},
    "cells": {
        "PyTorch layer": torch_layer,
        **{column: torch_cell(column) for column in ("PyTorch loop", "PyTorch compiled", "PyTorch scripted")},
    },
}
"""Per group: the columns of the peers."""
