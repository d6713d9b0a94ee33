"""What it takes to test a kernel against all this: finite differences, and random parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .arguments import Array, Params, as_float64, choice
from .cells import CELLS
from .stack import suffix


def numerical_gradient(f: Callable[[Array], float], array: ArrayLike, eps: float = 1e-3) -> Array:
    """The gradient of `f` by 4th-order central differences: its error is O(eps^4) plus rounding of order 1e-16 / eps.

    Parameters
    ----------
    f : callable
        Takes an array like `array`, returns a float.
    array : array_like
        Where; not changed.
    eps : float

    Returns
    -------
    ndarray of the shape of `array`
    """
    point = as_float64("array", array)
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):

        def at(steps: int, index: tuple[int, ...] = index) -> float:
            moved = point.copy()
            moved[index] += steps * eps
            return f(moved)

        gradient[index] = (8.0 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12.0 * eps)
    return gradient


def init_params(kind: str, input_size: int, hidden_size: int, rng: np.random.Generator, *, bias: bool = True) -> Params:
    """Random parameters of one layer and direction, uniform in ``+-1/sqrt(hidden_size)`` as in PyTorch.

    Parameters
    ----------
    kind : str
        A key of `CELLS`.
    input_size, hidden_size : int
    rng : numpy.random.Generator
    bias : bool

    Returns
    -------
    dict of str to ndarray
        ``weight_ih`` [G*H, I], ``weight_hh`` [G*H, H], and with `bias` ``bias_ih``, ``bias_hh`` [G*H].

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    rows = choice("kind", kind, CELLS).gates * hidden_size
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
    if bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    bound = 1.0 / np.sqrt(hidden_size)
    return {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}


def init_stack_params(
    kind: str,
    input_size: int,
    hidden_size: int,
    rng: np.random.Generator,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
) -> Params:
    """Random parameters of a stack, as `init_params`, with PyTorch's names ``weight_ih_l0``, ...

    Parameters
    ----------
    kind, input_size, hidden_size, rng, bias
        As for `init_params`.
    num_layers : int
    bidirectional : bool

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    directions = (False, True) if bidirectional else (False,)
    params: Params = {}
    for layer in range(num_layers):
        size = input_size if layer == 0 else len(directions) * hidden_size
        for reverse in directions:
            one = init_params(kind, size, hidden_size, rng, bias=bias)
            params |= {name + suffix(layer, reverse): value for name, value in one.items()}
    return params
