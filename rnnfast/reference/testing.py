"""What it takes to test a kernel against all this: finite differences, and random parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ..description import Cell
from .arguments import Array, Params, as_float64
from .cells import cell_of
from .interpreter import expected_shape
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


def init_params(
    cell: str | Cell, input_size: int, hidden_size: int, rng: np.random.Generator, *, bias: bool = True
) -> Params:
    """Random parameters of one layer and direction, uniform in ``+-1/sqrt(hidden_size)`` as in PyTorch.

    Parameters
    ----------
    cell : str or Cell
        A key of `CELLS`, or a description.
    input_size, hidden_size : int
    rng : numpy.random.Generator
    bias : bool

    Returns
    -------
    dict of str to ndarray
        ``weight_ih`` [G*H, I], ``weight_hh`` [G*H, H], with `bias` ``bias_ih``, ``bias_hh`` [G*H], and what else the
        cell has, all from the same distribution, whatever the cell's own initial values are.

    Raises
    ------
    ValueError
        For an unknown cell, or a hidden size that does not divide into its heads.
    """
    cell = cell_of(cell)
    cell.check_sizes(hidden_size)
    widths = (hidden_size, *cell.widths.values())
    bound = 1.0 / np.sqrt(hidden_size)
    return {
        parameter.name: rng.uniform(-bound, bound, expected_shape(parameter, input_size, widths))
        for parameter in cell.program(bias).parameters
    }


def init_stack_params(
    cell: str | Cell,
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
    cell, input_size, hidden_size, rng, bias
        As for `init_params`.
    num_layers : int
    bidirectional : bool

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        For an unknown cell.
    """
    cell = cell_of(cell)
    directions = (False, True) if bidirectional else (False,)
    output_size = (hidden_size, *cell.widths.values())[cell.program().states[0].domain]
    params: Params = {}
    for layer in range(num_layers):
        size = input_size if layer == 0 else len(directions) * output_size
        for reverse in directions:
            one = init_params(cell, size, hidden_size, rng, bias=bias)
            params |= {name + suffix(layer, reverse): value for name, value in one.items()}
    return params
