"""The public layers on the device, where the package is compiled: two layers of both directions, streams, training.

What the kernels compute is checked by `checks`. Here it is the way there and back: arrays of the host and of the
device, the walk over layers, the flat parameters, and windows of truncated backpropagation with loss and optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rnnfast import reference
from rnnfast.bench.core import error
from rnnfast.cuda import arrays

from .checks import Outcome
from .problems import BOUNDS, Case

__all__ = ["CASES", "check"]

CASES = (
    *(
        Case(kind, T=9, B=17, I=5, H=100, mask="both", ids=kind == "gru_after")
        for kind in reference.CELLS
        if kind != "elman_relu"
    ),
    Case("elman_relu", T=4, B=3, I=5, H=8, mask="both"),  # so small that no state comes too near to relu's kink
    Case("lstm", "tf32", T=9, B=17, I=5, H=100, mask="resets"),
    Case("gru_after", "bfloat16", T=9, B=17, I=5, H=128, mask="lengths"),
)
_LAYERS = 2


def _layer(case: Case, seed: int, **options: Any) -> Any:
    import rnnfast

    family, _, variant = case.kind.partition("_")
    cls = {"elman": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}[family]
    choice: dict[str, Any] = {"nonlinearity": variant} if family == "elman" else {}
    choice |= {"reset_after": variant == "after"} if family == "gru" else {}
    return cls(case.I, case.H, **choice, **options, device="cuda", precision=case.precision, rng=seed)


def _across(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_across(function, part) for part in value)
    return None if value is None else function(value)


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _stack(case: Case, seed: int) -> Iterator[tuple[str, bool, Any, Any, Any]]:
    """Name, whether of forward, the oracle's, and ours with arrays of the host and of the device."""
    rng = np.random.default_rng(seed)
    layer = _layer(case, seed, num_layers=_LAYERS, bidirectional=True)
    T, B = case.T, case.B

    def state() -> Any:
        h, c = (rng.standard_normal((2 * _LAYERS, B, case.H), np.float32) for _ in range(2))
        return (h, c) if case.kind == "lstm" else h

    x = rng.integers(0, case.I, (T, B)) if case.ids else rng.standard_normal((T, B, case.I), np.float32)
    initial, dstate, dy = state(), state(), rng.standard_normal((T, B, 2 * case.H), np.float32)
    masks: dict[str, Any] = {}
    if case.mask in ("lengths", "both"):
        masks["lengths"] = rng.integers(0, T + 1, B)
    if case.mask in ("resets", "both"):
        masks["resets"] = rng.random((T, B)) < 0.2

    def results(move: Callable[[Any], Any]) -> dict[str, Any]:
        moved = {name: move(value) for name, value in masks.items()}
        y, final, tape = layer.forward(move(x), _across(move, initial), **moved)
        grads = layer.backward(tape, move(dy), _across(move, dstate))
        found = {"y": y, "state": _parts(final), "dx": grads.x, "dstate": _parts(grads.state)}
        return found | {"params": tuple(grads.params[name] for name in layer.params)}

    params = {name: arrays.to_host(value) for name, value in layer.params.items()}
    options = {"num_layers": _LAYERS, "bidirectional": True, **masks}
    result = reference.stack_forward(case.kind, params, x, initial, **options)
    gradients = reference.stack_backward(result, dy, dstate)
    expected = {"y": result.y, "state": _parts(result.state), "dx": gradients.dx, "dstate": _parts(gradients.dstate)}
    expected["params"] = tuple(gradients.params[name] for name in layer.params)
    host, device = results(lambda array: array), results(arrays.to_device)
    for name, value in expected.items():
        columns = zip(_parts(value), _parts(host[name]), _parts(device[name]), strict=True)
        for k, (right, from_host, from_device) in enumerate(columns):
            if right is not None:
                yield f"{name}[{k}]", name in ("y", "state"), right, from_host, from_device


def _host(array: Any) -> Any:
    return arrays.to_host(array) if arrays.is_device_array(array) else array


def _check_stream(case: Case, seed: int) -> list[str]:
    """A stream by single steps gives what a call over the sequence gives."""
    layer = _layer(case, seed, num_layers=_LAYERS)
    x = np.random.default_rng(seed).standard_normal((case.T, case.B, case.I), np.float32)
    expected = layer(x)[0]
    stream = layer.stream(case.B)
    found = np.stack([stream.step(step) for step in x])
    off = error(found, expected)
    return [] if off <= 2 * BOUNDS[case.precision][0] else [f"stream: differs from the layer's call by {off:.2g}"]


def _check_training(case: Case, seed: int) -> list[str]:
    """A model's loss falls over a few windows of truncated backpropagation on arrays of the device."""
    import rnnfast

    layer = _layer(case, seed)
    head = rnnfast.Dense(case.H, case.I, activation="softmax", rng=seed, device="cuda")
    model = rnnfast.Model(rnn=layer, head=head)
    loss = rnnfast.losses.softmax_cross_entropy
    optimizer = rnnfast.optim.Adam(model.params, 1e-2)
    trainer = rnnfast.TBPTT(model, loss, optimizer, k1=case.T, clip_norm=1.0, logits=True)
    ids = arrays.to_device(np.random.default_rng(seed).integers(0, case.I, (case.T, case.B)))
    found = [float(trainer.step(ids, ids).loss) for _ in range(20)]
    return [] if found[-1] < 0.9 * found[0] else [f"training: the loss went from {found[0]:.3g} to {found[-1]:.3g}"]


def check(case: Case, seed: int) -> Outcome:
    """All checks of a case."""
    worst, wrong = {True: 0.0, False: 0.0}, []
    for name, forward, right, from_host, from_device in _stack(case, seed):
        bound = _LAYERS * BOUNDS[case.precision][0 if forward else 1]  # each layer adds its own
        off = error(_host(from_host), right)
        worst[forward] = max(worst[forward], off)
        if not off <= bound:
            wrong.append(f"layer: {name}: error {off:.2g}, more than {bound:g}")
        if _host(from_host).tobytes() != _host(from_device).tobytes():
            wrong.append(f"layer: {name}: arrays of the device give other bits than those of the host")
        if not arrays.is_device_array(from_device):
            wrong.append(f"layer: {name}: arrays of the device give one of the host")
    wrong += _check_stream(case, seed) + _check_training(case, seed)
    return Outcome(case, worst[True], worst[False], tuple(wrong))
