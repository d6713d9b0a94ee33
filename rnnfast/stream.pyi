from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .parameters import Store

__all__ = ["Stream"]

class Stream:
    @staticmethod
    def _make(
        kernels: list[Any],
        panels: list[NDArray[Any]],
        pairs: list[NDArray[np.uint32] | None],
        batch: int,
        L: int,
        I: int,
        H: int,
        gates: int,
        has_c: bool,
        dtype: np.dtype[Any],
        num_threads: int,
        weights: str,
        batch_first: bool,
        /,
    ) -> Stream: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def weights(self) -> str: ...
    @property
    def state(self) -> Any: ...
    @state.setter
    def state(self, value: Any) -> None: ...
    def step(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
    def process(self, block: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
    def reset(self, rows: ArrayLike | None = None) -> None: ...
    def copy(self) -> Stream: ...
    def __copy__(self) -> Stream: ...
    def __deepcopy__(self, memo: Any) -> Stream: ...

class Steps:
    def __init__(
        self,
        kernel: Any,
        panels: NDArray[Any],
        store: Store,
        version: int,
        batch: int,
        I: int,
        H: int,
        gates: int,
        has_c: bool,
        dtype: np.dtype[Any],
    ) -> None: ...
    def serves(self, batch: int) -> bool: ...

class Stepper:
    _steps: Steps | None
    def __call__(self, x: ArrayLike, state: Any = None, *, out: Any = None) -> Any: ...

def offer_vectorcall(kind: type[Stepper]) -> None: ...
