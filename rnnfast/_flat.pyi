from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

Flat = NDArray[float32] | NDArray[float64]

_Result = TypeVar("_Result")

def flushed(call: Callable[..., _Result], *arguments: object) -> _Result: ...
def run(calls: Iterable[Callable[[], object]]) -> None: ...
def commit(call: Callable[[], object], *assignments: tuple[object, str, Any]) -> None: ...
def sgd(
    params: Flat,
    gradients: Flat,
    momentum_buffer: Flat | None,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None: ...
def rmsprop(
    params: Flat,
    gradients: Flat,
    square_avg: Flat,
    grad_avg: Flat | None,
    momentum_buffer: Flat | None,
    *,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None: ...
def adam(
    params: Flat,
    gradients: Flat,
    exp_avg: Flat,
    exp_avg_sq: Flat,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None: ...
def scale_to_norm(array: Flat, max_norm: float) -> float: ...
def clamp(array: Flat, bound: float) -> None: ...
def add_rows(target: Flat, ids: NDArray[int64], order: NDArray[int64], rows: Flat, total: NDArray[float64]) -> None: ...
def advance_traces(
    traces: Flat,
    handed: Flat,
    direct: Flat,
    source: Flat,
    error: Flat | None,
    gradient: Flat | None,
) -> None: ...
def dropout(out: NDArray[Any], seed: int, layer: int, stream: int, first_step: int, p: float) -> None: ...
