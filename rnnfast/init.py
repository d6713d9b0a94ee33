"""Initial values of parameters.

Each function returns new float64 values, so that one seed gives a float32 and a float64 layer the same weights but for
rounding. The stacked matrix `[G*H, I]` of a gated cell is G matrices `[H, I]`: where a scheme depends on the number of
inputs and outputs, or makes a matrix orthogonal, it is one such block that counts, and each is drawn by itself.

The named schemes, for `init=` of layers, cells and heads:

- "pytorch" (default): everything from U(-1/sqrt(n), 1/sqrt(n)), n the hidden size (for a head, the input size).
- "xavier": Xavier uniform for input weights and heads, orthogonal recurrent weights, zero biases.
- "ids": as "pytorch", but the first layer's input weights from N(0, 0.5^2), for inputs that are ids. A column of them
  then begins as an embedding's row does; with "pytorch" it is some ten times as small, and all ids look alike at first.
  To recall the third of 12 ids, out of 40, an LSTM of 128 units learned in 800 updates in place of 1,600. But large
  weights also learn by heart: of 1,500 sequences alone it learned 44 %, with "pytorch" 98 %. Try both.

Or a function `init(name, shape, rng)` that returns an array for each parameter.

Sources: Xavier: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010).
Orthogonal: Saxe, McClelland & Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks" (2014). Forget bias: Jozefowicz, Zaremba & Sutskever, "An empirical exploration of recurrent network
architectures" (2015).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import Array
from ._device import holder
from ._words import Scheme

__all__ = ["SCHEMES", "embedding", "forget_bias", "orthogonal", "uniform", "xavier_normal", "xavier_uniform", "zeros"]

SCHEMES = ("pytorch", "xavier", "ids")

Init = Scheme | Callable[[str, tuple[int, ...], np.random.Generator], ArrayLike]
Draw = Callable[[tuple[int, ...], np.random.Generator], Array]


def uniform(shape: tuple[int, ...], n: int, rng: Any = None) -> Array:
    """PyTorch's default: U(-1/sqrt(n), 1/sqrt(n)).

    Parameters
    ----------
    shape : tuple of int
    n : int
        The hidden size of a recurrent layer, the input size of a head.
    rng : optional
        A seed or a generator, `np.random.default_rng(rng)`.

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> values = rnnfast.init.uniform((8, 3), 4, 0)
    >>> values.shape, bool(abs(values).max() <= 0.5)
    ((8, 3), True)
    """
    bound = 1.0 / math.sqrt(_checks.integer("n", n))
    return _checks.generator("rng", rng).uniform(-bound, bound, _shape(shape))


def xavier_uniform(shape: tuple[int, ...], rng: Any = None, *, gain: float = 1.0) -> Array:
    """Uniform values of variance 2 gain^2 / (outputs + inputs).

    Parameters
    ----------
    shape : tuple of int
        [outputs, inputs] of one gate.
    rng : optional
        A seed or a generator, `np.random.default_rng(rng)`.
    gain : float, optional

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> bool(abs(rnnfast.init.xavier_uniform((4, 2), 0)).max() <= 1.0)
    True
    """
    shape = _shape(shape)
    bound = math.sqrt(3.0) * _xavier_scale(shape, gain)
    return _checks.generator("rng", rng).uniform(-bound, bound, shape)


def xavier_normal(shape: tuple[int, ...], rng: Any = None, *, gain: float = 1.0) -> Array:
    """Normal values of variance 2 gain^2 / (outputs + inputs).

    Parameters
    ----------
    shape : tuple of int
        [outputs, inputs] of one gate.
    rng : optional
        A seed or a generator, `np.random.default_rng(rng)`.
    gain : float, optional

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> rnnfast.init.xavier_normal((4, 2), 0).shape
    (4, 2)
    """
    shape = _shape(shape)
    return _checks.generator("rng", rng).normal(0.0, _xavier_scale(shape, gain), shape)


def orthogonal(shape: tuple[int, ...], rng: Any = None, *, gain: float = 1.0) -> Array:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times `gain`.

    Parameters
    ----------
    shape : tuple of int
        [outputs, inputs] of one gate.
    rng : optional
        A seed or a generator, `np.random.default_rng(rng)`.
    gain : float, optional

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> q = rnnfast.init.orthogonal((4, 2), 0)
    >>> np.allclose(q.T @ q, np.eye(2))
    True
    """
    rows, columns = _matrix(shape)
    normal = _checks.generator("rng", rng).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # without the signs, q would not be uniformly distributed
    return _gain(gain) * (q if rows >= columns else q.T)


def embedding(shape: tuple[int, ...], rng: Any = None, *, scale: float = 0.5) -> Array:
    """Normal values of standard deviation `scale`: for input weights that ids choose columns of.

    ``init="ids"`` gives a layer such weights from the start.

    Parameters
    ----------
    shape : tuple of int
        [G*H, ids].
    rng : optional
        A seed or a generator, `np.random.default_rng(rng)`.
    scale : float, optional

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> import rnnfast
    >>> layer = rnnfast.LSTM(30, 128, init="ids", rng=0)
    >>> layer.update({"weight_ih_l0": rnnfast.init.embedding((4 * 128, 30), 0, scale=1.0)})  # another scale
    """
    spread = _checks.number("scale", scale)
    if spread < 0:
        raise ValueError(f"scale: expected a number of at least 0, got {spread}")
    return _checks.generator("rng", rng).normal(0.0, spread, _shape(shape))


def zeros(shape: tuple[int, ...], rng: Any = None) -> Array:
    """Zeros; `rng` is taken, and not used, so that all of these functions are called alike.

    Parameters
    ----------
    shape : tuple of int
    rng : optional

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> rnnfast.init.zeros((2,))
    array([0., 0.])
    """
    return np.zeros(_shape(shape))


def forget_bias(params: Mapping[str, ArrayLike], value: float = 1.0) -> dict[str, Array]:
    """The biases of an LSTM with those of the forget gates replaced, so that it begins by remembering.

    Parameters
    ----------
    params : mapping from str to array_like
        An LSTM's or LSTMCell's parameters.
    value : float, optional
        The forget gates' total bias: it is put into `bias_ih`, and that part of `bias_hh` is zero.

    Returns
    -------
    dict
        New arrays of all biases, for `layer.update`.

    Raises
    ------
    TypeError, ValueError
        There are no biases, or they are not an LSTM's.

    Examples
    --------
    >>> import rnnfast
    >>> layer = rnnfast.LSTM(3, 4)
    >>> layer.update(rnnfast.init.forget_bias(layer.params, 1.0))
    """
    value = _checks.number("forget_bias", value)
    given = {name: array for name, array in _checks.mapping("params", params).items() if "bias_" in str(name)}
    biases = {name: _lstm_bias(name, holder(array).to_host(array), params) for name, array in given.items()}
    if not biases:
        raise ValueError("forget_bias: expected parameters with biases, got none (bias=False)")
    for name, array in biases.items():
        hidden = len(array) // 4
        own = _checks.real("forget_bias", value, array.dtype)
        array[hidden : 2 * hidden] = own if "bias_ih" in name else 0.0
    return biases


def _lstm_bias(name: str, bias: ArrayLike, params: Mapping[str, Any]) -> Array:
    """A copy, in a floating dtype, of a bias of four gates; the recurrent weights, if there, say what H is."""
    array = _checks.numbers(name, bias)
    weights = params.get(re.sub("bias_.h", "weight_hh", name))
    sizes = array.shape if weights is None else tuple(4 * size for size in np.shape(weights)[-1:])
    if array.shape != sizes or len(sizes) != 1 or sizes[0] % 4:
        raise ValueError(f"{name}: expected an LSTM's bias, of shape [4*H], got {_checks.describe(array)}")
    return np.array(array, array.dtype if array.dtype.kind == "f" else np.float64)


class Given:
    """Initial values that are at hand, for a part that is built again.

    Parameters
    ----------
    values : callable
        ``values(name, shape)`` gives a parameter's.
    scheme : str or None
        What the part was first made with.
    """

    def __init__(self, values: Callable[[str, tuple[int, ...]], Array], scheme: Any) -> None:
        self._values = values
        self.scheme = None if scheme is None else _checks.choice("init", scheme, SCHEMES)

    def __call__(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """The values of one parameter."""
        return self._values(name, shape)


def scheme_of(init: Any) -> str | None:
    """The scheme's name, for a configuration; None for a function."""
    if isinstance(init, Given):
        return init.scheme
    return init if isinstance(init, str) else None


def value(name: str, shape: tuple[int, ...], init: Init, rng: np.random.Generator, *, n: int, blocks: int = 1) -> Array:
    """The initial value of one parameter.

    Parameters
    ----------
    name : str
    shape : tuple of int
    init : str or callable
        A named scheme or a function of name, shape and rng.
    rng : numpy.random.Generator
    n : int
        What the "pytorch" scheme divides by.
    blocks : int, optional
        How many matrices are stacked in it.

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError, ValueError
        There is no such scheme, or the function returned something else than real values of the shape.
    """
    if callable(init):
        given = _checks.numbers(f"init({name!r})", init(name, shape, rng))
        _checks.shape(f"init({name!r})", given, shape)
        return given
    if _checks.choice("init", init, SCHEMES) == "ids" and re.fullmatch("weight_ih(_l0(_reverse)?)?", name):
        return embedding(shape, rng)
    if init != "xavier" or (len(shape) == 1 and not name.startswith("bias")):
        return uniform(shape, n, rng)
    draw = _xavier_draw(name)
    return np.concatenate([draw((shape[0] // blocks, *shape[1:]), rng) for _ in range(blocks)])


def _xavier_draw(name: str) -> Draw:
    if name.startswith("bias"):
        return zeros
    return orthogonal if name.startswith("weight_hh") else xavier_uniform


def _shape(shape: Any) -> tuple[int, ...]:
    axes = _checks.axes("shape", shape)
    _checks.elements(math.prod(axes), **{f"shape[{n}]": axis for n, axis in enumerate(axes)})
    return axes


def _matrix(shape: Any) -> tuple[int, int]:
    axes = _shape(shape)
    if len(axes) != 2:
        raise ValueError(f"shape: expected [outputs, inputs], got {list(axes)}")
    return axes[0], axes[1]


def _xavier_scale(shape: Any, gain: float) -> float:
    rows, columns = _matrix(shape)
    return _gain(gain) * math.sqrt(2.0 / max(rows + columns, 1))


def _gain(gain: Any) -> float:
    number = _checks.number("gain", gain)
    if not 0 <= number <= 1e100:
        raise ValueError(f"gain: expected a number in 0..1e100, got {number}")
    return number
