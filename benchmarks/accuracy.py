"""The errors of float32 gradients beside PyTorch's: `python -m benchmarks.accuracy [T,B ...]`.

Both run the same layer (I=16, H=32) on the same numbers and are compared with our layer in float64, which the tests
compare with the oracle. An error is the largest, relative to the largest value of the same gradient. PyTorch sums its
LSTM's bias gradients in two ways (oneDNN's by default); both are shown.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import rnnfast

SIZES = ((100, 32), (1000, 64), (2000, 128), (2000, 500))
KINDS = ("RNN", "GRU", "LSTM")
INPUTS, UNITS = 16, 32

Named = dict[str, np.ndarray[Any, Any]]


def ours(kind: str, x: Any, dy: Any, weights: Named, dtype: Any) -> Named:
    """The gradients of our layer of that dtype."""
    layer = getattr(rnnfast, kind)(INPUTS, UNITS, dtype=dtype)
    layer.load(weights)
    *_, tape = layer.forward(x.astype(dtype))
    return dict(layer.backward(tape, dy.astype(dtype), input_gradient=False).params)


def theirs(kind: str, x: Any, dy: Any, weights: Named, *, onednn: bool) -> Named:
    """PyTorch's in float32."""
    import torch

    layer = getattr(torch.nn, kind)(INPUTS, UNITS)
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    with torch.backends.mkldnn.flags(enabled=onednn):
        layer(torch.from_numpy(x))[0].backward(torch.from_numpy(dy))
    return {name: parameter.grad.numpy() for name, parameter in layer.named_parameters() if parameter.grad is not None}


def errors(found: Named, exact: Named) -> dict[str, float]:
    """Of each parameter's gradient."""
    return {name: float(np.abs(found[name] - value).max() / np.abs(value).max()) for name, value in exact.items()}


def compare(kind: str, steps: int, batch: int, tell: Callable[[str], None] = print) -> None:
    """A line for each parameter."""
    rng = np.random.default_rng(steps + batch)
    x, dy = (rng.standard_normal((steps, batch, width), dtype=np.float32) for width in (INPUTS, UNITS))
    weights = {name: np.array(value) for name, value in getattr(rnnfast, kind)(INPUTS, UNITS, rng=0).params.items()}
    exact = ours(kind, x, dy, weights, np.float64)
    own = errors(ours(kind, x, dy, weights, np.float32), exact)
    peers = [errors(theirs(kind, x, dy, weights, onednn=flag), exact) for flag in (True, False)]
    for name, error in own.items():
        best = min(peer[name] for peer in peers)
        shown = "  ".join(f"{peer[name]:8.1e}" for peer in peers)
        tell(f"{kind:5} {steps:5} {batch:4}  {name:13} {error:8.1e}  {shown}  {error / best:5.2f}")


def main(arguments: list[str]) -> None:
    """Compare all kinds at the sizes given as T,B, or at those of `SIZES`."""
    warnings.filterwarnings("ignore", message="TF32 acceleration")
    print(f"{'':5} {'T':>5} {'B':>4}  {'gradient':13} {'ours':>8}  {'PyTorch':>8}  {'(plain)':>8}  ours / its best")
    for size in arguments or [f"{steps},{batch}" for steps, batch in SIZES]:
        steps, batch = map(int, size.split(","))
        for kind in KINDS:
            compare(kind, steps, batch)


if __name__ == "__main__":
    main(sys.argv[1:])
