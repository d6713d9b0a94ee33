from numpy import float32, float64
from numpy.typing import NDArray

Flat = NDArray[float32] | NDArray[float64]

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
def sum_of_squares(array: Flat) -> float: ...
def scale(array: Flat, factor: float) -> None: ...
def clamp(array: Flat, bound: float) -> None: ...
