from collections.abc import Callable, Iterable
from typing import Any

from numpy import float32, float64, int64
from numpy.typing import NDArray

_Flat = NDArray[float32] | NDArray[float64]

class Flushed:
    def __init__(self, call: Callable[..., Any]) -> None: ...
    def __call__(self, *arguments: object, **options: object) -> Any: ...

def padding(memory: object, alignment: int) -> int: ...
def run(calls: Iterable[Callable[[], object]]) -> None: ...
def commit(call: Callable[[], object], *assignments: tuple[object, str, Any]) -> None: ...
def sgd(
    params: _Flat,
    gradients: _Flat,
    momentum_buffer: _Flat | None,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None: ...
def rmsprop(
    params: _Flat,
    gradients: _Flat,
    square_avg: _Flat,
    grad_avg: _Flat | None,
    momentum_buffer: _Flat | None,
    *,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None: ...
def adam(
    params: _Flat,
    gradients: _Flat,
    exp_avg: _Flat,
    exp_avg_sq: _Flat,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None: ...
def scale_to_norm(array: _Flat, max_norm: float) -> float: ...
def clamp(array: _Flat, bound: float) -> None: ...
def add_rows(
    target: _Flat, ids: NDArray[int64], order: NDArray[int64], rows: _Flat, total: NDArray[float64]
) -> None: ...
def advance_traces(
    traces: _Flat,
    handed: _Flat,
    direct: _Flat,
    source: _Flat,
    error: _Flat | None,
    gradient: _Flat | None,
) -> None: ...
def seed_of(seed: int, place: int) -> int: ...
def dropout(out: NDArray[Any], seed: int, layer: int, stream: int, first_step: int, p: float) -> None: ...
