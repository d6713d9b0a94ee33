"""Embedding: a vector for each id, and the gradient of those that occur.

A row of the weight is looked up for each id, so the cost of a call grows with the ids and not with the vocabulary. So
does that of backward with `into=`: only the rows of ids that occur are touched. The sum of one row's gradients runs
over the ids in the order in which they occur, in float64, whatever the number of threads. With `sparse` there are no
other rows in the gradient (`rnnfast.sparse`), so that clipping and the optimiser cost no more either.

Rejected: one-hot vectors and a matrix product (that is what a layer does with ids itself: right for small vocabularies,
and the weights are then part of the layer); `np.add.at` (ten times slower, and its float32 sums drift for an id that
occurs often).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _checks, _flat
from . import init as initialisation
from ._checks import Array
from ._device import HOST, Port, choose
from ._part import Stateless
from ._words import DeviceName, Precision
from .parameters import Gradients, Parameters
from .tape import Grads, Tape, begin

__all__ = ["Embedding"]


class _Recording(NamedTuple):
    ids: Array  # int64 [N], the tape's own copy
    leading: tuple[int, ...]


class Embedding(Stateless):
    """A learned vector for each id: `y = weight[x]`.

    Before a layer it takes the place of one-hot vectors, which layers also take as plain ids: a layer's input weights
    then begin as those of any input, an embedding's as N(0, 1). That is ten and more times as large, and what ids are
    learned from much faster.

    Parameters
    ----------
    num : int
        How many ids there are, 0..num-1.
    dim : int
        The features of each vector.
    padding_idx : int, optional
        An id that stands for no symbol; a negative one counts from the end. Its vector begins as zeros, and its
        gradient is zero, so that it stays zero unless it is set.
    sparse : bool, optional
        Whether the gradient holds the rows of ids that occurred, and no others. Optimisers are then lazy; for large
        vocabularies. See `rnnfast.sparse`.
    dtype : dtype-like, optional
        float32 or float64.
    rng : optional
        Seeds the initial weights: `np.random.default_rng(rng)`.
    init : {"pytorch", "xavier"} or callable, optional
        The initial weights: "pytorch" is N(0, 1), "xavier" is Xavier uniform; or a function, see `rnnfast.init`.
    device : {"cpu"}, optional
        Only on the host.
    precision : {"float32"}, optional
        As of the other parts.

    Attributes
    ----------
    params : Parameters
        `weight` [num, dim].

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import Embedding
    >>> embedding = Embedding(10, 3, rng=0)
    >>> embedding(np.array([[1, 2], [3, 1]])).shape
    (2, 2, 3)
    """

    _options = ("num", "dim", "padding_idx")

    def __init__(
        self,
        num: int,
        dim: int,
        *,
        padding_idx: int | None = None,
        sparse: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: initialisation.Init = "pytorch",
        device: DeviceName = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.num = _checks.size("num", num)
        self.dim = _checks.size("dim", dim)
        self.padding_idx = None
        if padding_idx is not None:
            self.padding_idx = _checks.integer("padding_idx", padding_idx, -self.num, self.num - 1) % self.num
        self.sparse = _checks.truth("sparse", sparse)
        self.dtype = _checks.float_dtype("dtype", dtype)
        if _checks.choice("device", device, ("cpu", "cuda")) != HOST.name:
            raise ValueError("device: expected 'cpu', where an Embedding must lie, got 'cuda'")
        place, self.precision = choose(device, precision, self.dtype)
        self.device = place.name
        self.rng = _checks.generator("rng", rng)
        self.init = init if isinstance(init, str) else None
        _checks.elements(self.num * self.dim, num=self.num, dim=self.dim)
        shape = self.num, self.dim
        tables = {"weight": 0} if self.sparse else {}
        self.params = Parameters({"weight": shape}, self.dtype, device=place, tables=tables)
        if init == "pytorch":
            weight = self.rng.standard_normal(shape)
        else:
            weight = np.array(initialisation.value("weight", shape, init, self.rng, n=self.dim))
        if self.padding_idx is not None and not callable(init):
            weight[self.padding_idx] = 0
        self.params.load({"weight": weight})
        self._pack()

    def _pack(self) -> None:
        self._device = self.params.device

    def _more_options(self) -> dict[str, Any]:
        return {"sparse": True} if self.sparse else {}

    @property
    def input_size(self) -> int:
        """`num`: how many ids there are."""
        return self.num

    @property
    def output_size(self) -> int:
        """`dim`: the features of `y`."""
        return self.dim

    def __call__(self, x: ArrayLike, *, num_threads: int | None = None) -> Array:
        """Look the vectors up; keep nothing.

        Parameters
        ----------
        x : array_like of int, shape [...]
            Ids in 0..num-1.
        num_threads : int, optional
            Taken as by the other parts; one thread does the work.

        Returns
        -------
        ndarray, shape [..., dim]

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, or an id is out of range.
        """
        return self._look_up(self.check_x(HOST.port(x), x), num_threads)

    def forward(self, x: ArrayLike, *, tape: Tape | None = None, num_threads: int | None = None) -> tuple[Array, Tape]:
        """Look the vectors up and record what `backward` needs, which is a copy of the ids.

        Parameters
        ----------
        x, num_threads
            As in a call.
        tape : Tape, optional
            An old tape of this part, to record in its memory; what it holds is lost.

        Returns
        -------
        y : ndarray, shape [..., dim]
        tape : Tape
            For one `backward`; the one given, if one was given.

        Raises
        ------
        TypeError, ValueError
            As a call; a tape keeps what it holds.
        """
        ids = self.check_x(HOST.port(x), x)
        y = self._look_up(ids, num_threads)
        recorder = begin(tape, self, self.params)
        kept = recorder.buffer("ids", (ids.size,), np.dtype(np.int64))
        kept[...] = ids.ravel()
        recorder.finish(kept, _Recording(kept, ids.shape))
        return y, recorder

    def _backward(
        self, tape: Tape, kept: _Recording, dy: Any, into: Gradients | None, wants_dx: bool, threads: int
    ) -> Grads:
        shape = (*kept.leading, self.dim)
        rows = _checks.real_of_shape("dy", dy, self.dtype, shape, "[..., dim]", contiguous=True).reshape(-1, self.dim)
        gradients = self._gradients(into)
        if into is None:
            gradients.zero()
        ids = kept.ids
        if self.padding_idx is not None:
            used = ids != self.padding_idx
            ids, rows = ids[used], rows[used]
        order, total = np.argsort(ids, kind="stable"), np.empty(self.dim)
        sparse = gradients.sparse.get("weight")
        if sparse is None:
            tape.spend()
            _flat.add_rows(gradients["weight"], ids, order, rows, total)
            return Grads(None, None, gradients)
        chosen, places = np.unique(ids, return_inverse=True)
        target = sparse.at(chosen)
        tape.spend()
        _flat.add_rows(target, places, order, rows, total)
        _flat.run(sparse.replacing(chosen, target))
        return Grads(None, None, gradients)

    def check_x(self, port: Port, x: Any) -> Array:
        """The ids as an integer array of any shape, all of them in range."""
        ids: Array = port.checks.integers("x", x)
        wrong = (ids < 0) | (ids >= self.num)
        if wrong.any():
            position = tuple(map(int, np.argwhere(wrong)[0]))
            raise ValueError(f"x: expected ids in 0..{self.num - 1}, got {ids[position]} at {list(position)}")
        return ids

    def _look_up(self, ids: Array, num_threads: Any) -> Array:
        _checks.threads(num_threads)
        _checks.elements(ids.size * self.dim, ids=ids.size, dim=self.dim)
        with self.params.store.reading():  # all rows are of one version
            y: Array = self.params["weight"][ids]  # NumPy looks at the range again, so another thread can do no harm
        return y
