"""Training on several processes, by MPI: rows of the batch are dealt to ranks, and their number changes no bit.

A) The batch is cut into *shards*, a number that is chosen once. Each has a gradient of its own, and the gradients are
   added in one fixed tree over the shards. Ranks only choose who computes which shards, so weights are bitwise the same
   for any number of ranks, and a run that was begun by one number is gone on with by another.
B) Every rank has the whole model, calls `step` with the same whole batch, and makes the same update. Nothing but
   gradients and a few numbers is sent.
C) The sum: each rank adds what is below one node of the tree, sends every other rank its slice of that, adds the slices
   that it receives in the tree's order, and gathers the slices of all. So a rank sends and receives the size of the
   gradient twice, whatever the number of ranks.
D) Before anything is summed the ranks tell each other whether they could do their part. If one could not, Ctrl-C
   included, none makes an update: it raises its error, the others a `RankError` that names it. So do those that still
   make steps when a rank's program has ended: at its end it says so. A rank that dies is the launcher's business:
   ``mpiexec`` ends the others. Start a script with ``python -m mpi4py``, so that an exception which nobody catches does
   the same.
E) Random numbers of dropout are functions of a seed, the step and the shard.
F) With one process and without `mpi4py` all of this works, too: it is what several ranks must agree with.

Rejected: MPI's own reduction (its order depends on the number of ranks and on the network); a gradient for each row
(shards of one row: a call of a kernel for each); sending gradients while backward still computes (a layer's gradient is
complete when all steps are done, at the end of its part of backward); a timeout for silent ranks (a slow one is not a
dead one).
"""

from __future__ import annotations

import atexit
import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _core, checkpoint, config
from ._checks import Array
from .optim import clip_grad_value, drop_frozen
from .parameters import Gradients, Parameters
from .tbptt import TBPTT, NonFiniteError, StepResult

__all__ = ["DataParallel", "RankError", "world"]

_SAME_BITS = {"avx2", "avx512"}


class RankError(RuntimeError):
    """Another rank could not go on; the message names it and says why. Nothing has changed on this one."""


def world() -> Any:
    """All processes of this run: ``mpi4py.MPI.COMM_WORLD``.

    Returns
    -------
    mpi4py.MPI.Comm

    Raises
    ------
    ImportError
        mpi4py, or the MPI library that it needs, is not installed.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ImportError(f'training on several processes needs MPI: pip install "rnnfast[mpi]" ({error})') from error
    return MPI.COMM_WORLD


_ENDED = "its program has ended"


class _Others:
    """The other ranks of a communicator, and whether all of them still go on."""

    def __init__(self, comm: Any) -> None:
        self._comm, self.go_on = comm, True

    def tell_of_the_end(self) -> None:
        """At a program's end: ranks that still make steps hear of it, and do not wait for this one."""
        if self.go_on:
            self._comm.allgather((_ENDED, None))


class _Alone:
    """One process: what is asked of a communicator, without MPI."""

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return 1

    def Dup(self) -> _Alone:
        return self

    def allgather(self, value: Any) -> list[Any]:
        return [value]

    def bcast(self, value: Any, root: int = 0) -> Any:
        return value


class _Node(NamedTuple):
    """A node of the tree: the sum of the shards ``first, ..., first + width - 1``."""

    first: int
    width: int
    total: Array


def _add(nodes: list[_Node], new: _Node) -> Iterator[Array]:
    """Put a node behind those on its left; siblings become their sum. Yields the memory that is free again."""
    nodes.append(new)
    while len(nodes) > 1:
        left, right = nodes[-2:]
        if left.width != right.width or left.first % (2 * left.width):
            return
        np.add(left.total, right.total, out=left.total)
        nodes[-2:] = [_Node(left.first, 2 * left.width, left.total)]
        yield right.total


def _share(count: int, size: int, rank: int) -> slice:
    """A rank's part of so many things."""
    return slice(count * rank // size, count * (rank + 1) // size)


class _Sum:
    """The sum of all shards' gradients, in one order for any number of ranks."""

    def __init__(self, params: Parameters, shards: int, comm: Any) -> None:
        self._comm, self._rank, self._size = comm, comm.Get_rank(), comm.Get_size()
        self._shards, self._elements, self._dtype = shards, params.size, params.dtype
        self._nodes: list[_Node] = []
        self._free: list[Array] = []

    def begin(self) -> None:
        """Forget what was added."""
        self._free += [node.total for node in self._nodes]
        self._nodes.clear()

    def add(self, shard: int, gradient: Array, weight: float) -> None:
        """This rank's next shard's gradient, times a weight."""
        own = self._free.pop() if self._free else np.empty(self._elements, self._dtype)
        np.multiply(gradient, self._dtype.type(weight), out=own)
        self._free += _add(self._nodes, _Node(shard, 1, own))

    def total(self, out: Array) -> None:
        """Write the sum, on every rank."""
        if self._size == 1:
            np.copyto(out, self._nodes[0].total)
            return
        layout = [_nodes_of(_share(self._shards, self._size, rank)) for rank in range(self._size)]
        parts = [_share(self._elements, self._size, rank) for rank in range(self._size)]
        sent = np.concatenate([node.total[part] for part in parts for node in self._nodes])
        lengths = [part.stop - part.start for part in parts]
        own = lengths[self._rank]
        received = np.empty(own * sum(map(len, layout)), self._dtype)
        sent_counts = [len(self._nodes) * length for length in lengths]
        self._comm.Alltoallv([sent, sent_counts], [received, [own * len(nodes) for nodes in layout]])
        nodes: list[_Node] = []
        rows = received.reshape(-1, own)
        for (first, width), row in zip((node for of_rank in layout for node in of_rank), rows, strict=True):
            list(_add(nodes, _Node(first, width, row)))
        _gather(self._comm, nodes[0].total, out)


def _gather(comm: Any, own: Array, out: Array) -> None:
    """All ranks' shares of a flat array, on every rank."""
    if (size := comm.Get_size()) == 1:
        np.copyto(out, own)
        return
    parts = [_share(len(out), size, rank) for rank in range(size)]
    comm.Allgatherv(np.ascontiguousarray(own), [out, [part.stop - part.start for part in parts]])


def _nodes_of(shards: slice) -> list[tuple[int, int]]:
    """The tree's largest nodes that some neighbouring shards fill."""
    nodes: list[_Node] = []
    for shard in range(shards.start, shards.stop):
        list(_add(nodes, _Node(shard, 1, np.empty(0))))
    return [(node.first, node.width) for node in nodes]


class _Collector:
    """In the place of a shard's optimiser: leaves the gradient where it is."""

    def __init__(self, params: Parameters) -> None:
        self.params = params

    def step(self, gradients: Gradients) -> None:
        gradients.along = ()


class DataParallel:
    """Trains one model on several ranks with the rows of each batch; see `rnnfast.distributed`.

    All ranks make one with equal arguments, at the same time, and call the same methods in the same order.

    Parameters
    ----------
    trainer : TBPTT, Model or layer
        With a trainer there is `step`; of a model or layer alone there is `gradients`. The parameters must lie on the
        CPU. Those of rank 0 are sent to all ranks.
    comm : mpi4py.MPI.Comm, optional
        The ranks; this process alone by default. `world` has all.
    shards : int, optional
        Into how many parts each batch is cut: a power of two, at least as many as ranks, that divides the rows. It
        decides the last bits of the weights; the number of ranks does not.
    reduction : {"mean", "sum"}, optional
        What the loss is over its rows and steps. Means of shards are weighted by how many targets count in them.
    shard_optimizer : bool, optional
        Whether each rank keeps the optimiser's state of its slice of the parameters alone, and sends its new parameters
        to the others.
    strict : bool, optional
        Whether instruction sets whose bits differ are refused; else there is a warning.

    Attributes
    ----------
    rank, size : int
        This rank, and how many there are.
    seconds : dict of str to float
        What this rank has spent so far: "compute" (gradients), "wait" (for the others), "reduce", "update".

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range; or ranks have other models, options, versions or (`strict`) instruction
        sets. All ranks raise.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import LSTM, TBPTT, losses, optim
    >>> from rnnfast.distributed import DataParallel
    >>> layer = LSTM(3, 4, rng=0)
    >>> trainer = TBPTT(layer, losses.mean_squared_error, optim.Adam(layer.params), k1=5)
    >>> parallel = DataParallel(trainer)  # of this process alone; with MPI: DataParallel(trainer, world())
    >>> parallel.step(np.zeros((5, 16, 3)), np.ones((5, 16, 4))).steps
    5
    """

    def __init__(
        self,
        trainer: Any,
        comm: Any = None,
        *,
        shards: int = 8,
        reduction: Literal["mean", "sum"] = "mean",
        shard_optimizer: bool = False,
        strict: bool = False,
    ) -> None:
        comm = _Alone() if comm is None else comm
        if not all(hasattr(comm, name) for name in ("Get_rank", "Get_size", "allgather", "Dup")):
            raise TypeError(f"comm: expected an MPI communicator, got {_checks.describe(comm)}")
        self._comm = comm.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.seconds = dict.fromkeys(("compute", "wait", "reduce", "update"), 0.0)
        self._others = _Others(self._comm)
        self._trainer: Any = None
        self._model: Any = trainer
        if isinstance(trainer, TBPTT):
            self._trainer, self._model = trainer, trainer._model
        with self._together():
            self._check(trainer, shards, reduction, shard_optimizer, strict)
        self._compare()
        if self._strict and self._differing_bits():
            raise ValueError(f"ranks: expected instruction sets of the same bits, got {self._differing_bits()}")
        if self._differing_bits() and self.rank == 0:
            warnings.warn(f"ranks have instruction sets of different bits: {self._differing_bits()}", stacklevel=2)
        with self._params.writing() as flat:
            flat[...] = self._comm.bcast(np.array(flat), root=0)
        rngs = [part.rng for part in _parts(self._model) if hasattr(part, "rng")]
        if self.size > 1:  # from here on all ranks have one
            atexit.register(self._others.tell_of_the_end)
        self._seed = self._comm.bcast(int(rngs[0].integers(2**63)) if rngs and self.rank == 0 else 0, root=0)
        self._steps = 0
        self._total = self._params.zeros()
        self._sum = _Sum(self._params, self._shards, self._comm)
        self._mine = range(*_share(self._shards, self.size, self.rank).indices(self._shards))
        self._clones = [self._clone() for _ in self._mine] if self._trainer is not None else []
        if self._sharded:
            self._trainer._optimizer.keep(_share(self._params.size, self.size, self.rank))

    def __repr__(self) -> str:
        return f"DataParallel({self._model!r}, rank {self.rank} of {self.size}, shards={self._shards})"

    def step(
        self,
        x: ArrayLike,
        target: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        following: int | None = None,
        ids: bool | None = None,
        given: Any = None,
        seed: int | None = None,
    ) -> StepResult:
        """Train on one window; as `TBPTT.step`, with the whole batch on every rank.

        Parameters
        ----------
        x, target, mask, resets, lengths, following, ids, given, seed
            As for `TBPTT.step`. Of one seed every shard makes one of its own.

        Returns
        -------
        StepResult
            The same on every rank. `state` is None: each rank has that of its own shards.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong, or ranks have other batches; nothing has changed on any rank.
        NonFiniteError
            The sum of the gradients is not finite, and the trainer's `nonfinite` is "raise"; nothing has changed.
        RankError
            Another rank could not do its part; nothing has changed.
        """
        if self._trainer is None:
            raise TypeError("step: expected a DataParallel of a TBPTT, got one of a model; it has gradients()")
        before = [clone._carried for clone in self._clones]
        arrays = {"x": x, "target": target, "mask": mask, "resets": resets, "lengths": lengths, "given": given}
        try:
            batches, weights, steps = self._same_batches(arrays, {"following": following, "ids": ids, "seed": seed})
            own_seed = None if seed is None else int(seed)
            losses = self._computed(
                weights,
                lambda shard, n: self._shard_step(
                    self._clones[n],
                    batches[shard],
                    shard,
                    following=following,
                    ids=ids,
                    seed=None if own_seed is None else int(np.random.default_rng((own_seed, shard)).integers(2**63)),
                ),
            )
            result = self._updated(sum(w * one for w, one in zip(weights, losses, strict=True)), steps, sum(weights))
        except BaseException:
            self._restore(before)
            raise
        if not result.updated and result.skipped > (before[0].skipped if before else 0):
            self._skip(before, batches, ids)
        self._steps += 1
        return result

    def gradients(self, compute: Callable[[slice], tuple[float, Gradients]], rows: int) -> tuple[float, Gradients]:
        """The loss and the gradients of a batch, of which this rank computes its shards; the same on every rank.

        Parameters
        ----------
        compute : callable
            ``compute(slice) -> (loss, Gradients)`` of some rows of the batch, by the model of this rank.
        rows : int
            Of the batch.

        Returns
        -------
        loss : float
        gradients : Gradients
            Of all rows: the mean, or the sum, of those of the shards. The next call writes over them.

        Raises
        ------
        TypeError, ValueError, RankError
            As `step`.
        """
        with self._together():
            if not callable(compute):
                raise TypeError(f"compute: expected a callable, got {_checks.describe(compute)}")
            part = self._rows_of_a_shard(_checks.integer("rows", rows))
        weights = [1 / self._shards if self._mean else 1.0] * self._shards

        def shard_gradient(shard: int, n: int) -> tuple[float, Array]:
            with self._drawing(shard):
                loss, found = compute(slice(shard * part, (shard + 1) * part))
            if not isinstance(found, Gradients) or found.shapes != self._params.shapes:
                raise TypeError(f"compute: expected it to return (loss, Gradients of the model), got {found!r}")
            return float(loss), found.flat

        losses = self._computed(weights, shard_gradient)
        self._steps += 1
        self._timed("reduce", lambda: self._sum.total(self._total.flat))
        return sum(w * one for w, one in zip(weights, losses, strict=True)), self._total

    def reset(self) -> None:
        """Zero the carried states of all shards, so that the next window begins new sequences."""
        for clone in self._clones:
            clone.reset()

    def state_dict(self) -> dict[str, Any]:
        """What is carried from window to window, of all shards, on every rank; any number of ranks can go on from it.

        Returns
        -------
        dict
        """
        shards = self._comm.allgather([clone.state_dict() for clone in self._clones])
        return {
            "seed": self._seed,
            "steps": self._steps,
            "shards": [one for of_rank in shards for one in of_rank],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, on any number of ranks.

        Parameters
        ----------
        state : mapping
            The same on every rank, of as many shards.

        Raises
        ------
        TypeError, ValueError, RankError
            It is not such a mapping; nothing has changed.
        """
        with self._together():
            given = _checks.mapping("state", state)
            if set(given) != {"seed", "steps", "shards"}:
                raise ValueError(f"state: expected one of state_dict(), got the keys {sorted(map(str, given))}")
            shards = given["shards"]
            if not isinstance(shards, list | tuple):
                raise TypeError(f"shards: expected a list of states, got {_checks.describe(shards)}")
            if len(shards) != (self._shards if self._trainer is not None else 0):
                raise ValueError(f"shards: expected a state of {self._shards} shards, got one of {len(shards)}")
            seed = _checks.integer("seed", given["seed"], 0, 2**63 - 1)
            steps = _checks.integer("steps", given["steps"], 0)
            fresh = [self._clone() for _ in self._clones]
            for shard, clone in zip(self._mine, fresh, strict=False):
                clone.load_state_dict(shards[shard])
        self._clones, self._seed, self._steps = fresh, seed, steps

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's whole state, on every rank, wherever its parts are kept.

        Returns
        -------
        dict
            For the optimiser's `load_state_dict`.
        """
        optimizer = self._trainer._optimizer
        own: dict[str, Any] = optimizer.state_dict()
        if not self._sharded:
            return own
        whole = dict(own)
        for name, value in own.items():
            if isinstance(value, np.ndarray):
                whole[name] = np.empty(self._params.size, value.dtype)
                _gather(self._comm, value, whole[name])
        return whole

    def save(self, path: str | os.PathLike[str], *, extra: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint, whole or not at all: rank 0 writes, and all ranks wait for it.

        Parameters
        ----------
        path : path-like
        extra : mapping, optional
            As for `rnnfast.checkpoint.save`; "parallel" is added, for `load_state_dict`.

        Raises
        ------
        OSError, TypeError, RankError
            Rank 0 could not write it; a file that was there is as it was.
        """
        has_state = hasattr(getattr(self._trainer, "_optimizer", None), "state_dict")
        parallel, whole = self.state_dict(), _Whole(self.optimizer_state()) if has_state else None
        with self._together():
            if self.rank == 0:
                checkpoint.save(path, self._model, optimizer=whole, extra={**(extra or {}), "parallel": parallel})

    # What ranks tell each other

    @contextmanager
    def _together(self) -> Iterator[None]:
        """All ranks do something; if one can't, all raise: that one its error, the others a `RankError`."""
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
        self._agree(failure)

    def _agreed(self, compute: Callable[[], Any]) -> list[Any]:
        """What each rank computes; if one can't, all raise, as in `_together`."""
        failure, value = None, None
        try:
            value = compute()
        except BaseException as error:  # Ctrl-C too: else the others would wait for this rank
            failure = error
        return self._agree(failure, value)

    def _agree(self, failure: BaseException | None, value: Any = None) -> list[Any]:
        """Tell the other ranks of a failure, or hand them a value; all ranks' values."""
        if not self._others.go_on:
            raise RankError("ranks: expected all to go on; one has ended before")
        told = None if failure is None else f"{type(failure).__name__}: {failure}"
        found = self._timed("wait", lambda: self._comm.allgather((told, value)))
        self._others.go_on = all(what != _ENDED for what, _ in found)
        if failure is not None:
            raise failure
        failures = [f"rank {rank}: {what}" for rank, (what, _) in enumerate(found) if what is not None]
        if failures:
            raise RankError(f"ranks: expected all to go on; {'; '.join(failures)}")
        return [one for _, one in found]

    def _compare(self) -> None:
        """Refuse ranks that are not alike."""
        model, trainer = self._model, self._trainer

        def own() -> tuple[dict[str, Any], str]:
            told: dict[str, Any] = {
                "version": config.version(),
                "model": model.config(),
                "parameters": (dict(self._params.shapes), self._params.dtype.name),
                "options": self._options,
            }
            if trainer is not None:
                optimizer = trainer._optimizer.state_dict() if hasattr(trainer._optimizer, "state_dict") else {}
                told["trainer"] = (trainer.k1, trainer.k2, trainer._clip_norm, trainer._clip_value, trainer._nonfinite)
                told["loss"] = getattr(trainer._loss, "__qualname__", type(trainer._loss).__qualname__)
                told["loss's options"] = {n: value for n, value in trainer._options.items() if n != "num_threads"}
                told["optimizer"] = {
                    name: value for name, value in optimizer.items() if not isinstance(value, np.ndarray)
                }
            return told, _core.isa()

        found = self._agreed(own)
        self._isas = [isa for _, isa in found]
        for name, value in found[0][0].items():
            others = [rank for rank, (one, _) in enumerate(found) if one.get(name) != value]
            if others:
                other = found[others[0]][0].get(name)
                raise ValueError(
                    f"ranks: expected the same {name} on all, got {value!r} on rank 0, {other!r} on rank {others[0]}"
                )

    def _differing_bits(self) -> str:
        """The ranks' instruction sets, if they do not give the same bits."""
        kinds = {"fused" if isa in _SAME_BITS else isa for isa in self._isas}
        return ", ".join(f"{isa} on rank {rank}" for rank, isa in enumerate(self._isas)) if len(kinds) > 1 else ""

    def _same_batches(
        self, arrays: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], list[float], int]:
        """What `_cut` makes of the arrays; ranks that have others, or other options, are refused."""
        cut: list[tuple[list[dict[str, Any]], list[float], int]] = []

        def own() -> dict[str, list[Any]]:
            if options["seed"] is not None:
                _checks.integer("seed", options["seed"], 0, 2**63 - 1)
            cut.append(self._cut(arrays))
            found = {name: [_fingerprint(one) for one in _leaves(value)] for name, value in arrays.items()}
            return found | {name: [repr(value)] for name, value in options.items()}

        found = self._agreed(own)
        for name, value in found[0].items():
            others = [rank for rank, one in enumerate(found) if one[name] != value]
            if others:
                raise ValueError(f"{name}: expected the same on all ranks, got another on rank {others[0]}")
        return cut[0]

    # One step

    def _check(self, trainer: Any, shards: Any, reduction: Any, shard_optimizer: Any, strict: Any) -> None:
        params = getattr(self._model, "params", None)
        if not isinstance(params, Parameters):
            raise TypeError(f"trainer: expected a TBPTT, a Model or a layer, got {_checks.describe(trainer)}")
        self._params = params
        if params.device.name != "cpu":
            raise ValueError(f"trainer: expected parameters on the CPU, got some on {params.device}")
        if params.tables:
            raise ValueError(f"trainer: expected parts with sparse=False, got sparse {', '.join(params.tables)}")
        self._shards = _checks.integer("shards", shards)
        if self._shards & (self._shards - 1):
            raise ValueError(f"shards: expected a power of two, got {self._shards}")
        if self._shards < self.size:
            raise ValueError(f"shards: expected at least one for each of {self.size} ranks, got {self._shards}")
        self._mean = _checks.choice("reduction", reduction, ("mean", "sum")) == "mean"
        self._sharded = _checks.truth("shard_optimizer", shard_optimizer)
        if self._sharded and not hasattr(getattr(self._trainer, "_optimizer", None), "keep"):
            raise ValueError("shard_optimizer: expected a TBPTT with an optimiser of rnnfast.optim to go with it")
        self._strict = _checks.truth("strict", strict)
        self._options = {"shards": self._shards, "reduction": reduction, "shard_optimizer": self._sharded}

    def _clone(self) -> TBPTT:
        """A trainer for one shard: the user's, with a state of its own, whose gradient is left where it is."""
        clone = copy.copy(self._trainer)
        clone._optimizer, clone._nonfinite = _Collector(self._params), "apply"
        clone._clip_norm = clone._clip_value = None
        clone._carried = type(self._trainer._carried)()
        return clone  # type: ignore[no-any-return]  # tapes and gradients are one trainer's: shards take turns

    def _rows_of_a_shard(self, rows: int) -> int:
        if rows % self._shards:
            raise ValueError(f"batch: expected rows that divide into {self._shards} shards, got {rows}; see shards=")
        return rows // self._shards

    def _cut(self, arrays: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[float], int]:
        """The shards' arrays, their weights in the loss, and the steps."""
        axis = self._trainer._time
        whole = {name: _mapped(partial(_checks.numbers, name), value) for name, value in arrays.items()}
        x = whole["x"]
        if x is None or x.ndim < 2:
            raise ValueError(f"x: expected at least the axes of steps and rows, got {_checks.describe(arrays['x'])}")
        steps, rows = x.shape[axis], x.shape[1 - axis]
        part = self._rows_of_a_shard(rows)
        for name, value in whole.items():
            expected = (rows,) if name == "lengths" else x.shape[:2]
            for shape in [one.shape for one in _leaves(value)]:
                if shape[: len(expected)] != expected:
                    raise ValueError(f"{name}: expected leading axes {list(expected)} as in x, got {list(shape)}")
        counted = np.ones(x.shape[:2]) if whole["mask"] is None else whole["mask"].astype(np.float64)
        if whole["lengths"] is not None:
            counted = counted * (np.expand_dims(np.arange(steps), 1 - axis) < np.expand_dims(whole["lengths"], axis))
        batches, counts = [], []
        for shard in range(self._shards):
            own = slice(shard * part, (shard + 1) * part)
            index = (own,) if axis else (slice(None), own)
            batches.append(
                {
                    name: _mapped(partial(_part, own if name == "lengths" else index), value)
                    for name, value in whole.items()
                }
            )
            counts.append(float(counted[index].sum()))
        total = sum(counts)
        if not self._mean:
            return batches, [float(count > 0) for count in counts], steps
        return batches, [count / total if total else 0.0 for count in counts], steps

    def _shard_step(self, clone: TBPTT, batch: dict[str, Any], shard: int, **options: Any) -> tuple[float, Array]:
        with self._drawing(shard):
            result = clone.step(**batch, **options)
        return float(result.loss), clone._gradients.flat

    def _computed(self, weights: list[float], compute: Callable[[int, int], tuple[float, Array]]) -> list[float]:
        """This rank's shards' gradients, into the sum; the losses of all shards."""
        self._sum.begin()

        def own() -> list[float]:
            began, losses = time.perf_counter(), []
            for n, shard in enumerate(self._mine):
                loss, gradient = compute(shard, n)
                losses.append(loss if weights[shard] else 0.0)
                self._sum.add(shard, gradient, weights[shard])
            self.seconds["compute"] += time.perf_counter() - began
            return losses

        return [loss for of_rank in self._agreed(own) for loss in of_rank]

    def _updated(self, loss: float, steps: int, weight: float) -> StepResult:
        """The sum, and the update with it, as the trainer would make it."""
        trainer, total = self._trainer, self._total
        optimizer = trainer._optimizer
        self._timed("reduce", lambda: self._sum.total(total.flat))
        began = time.perf_counter()
        skipped = self._clones[0]._carried.skipped
        drop_frozen(optimizer, total)
        limit = math.inf if trainer._clip_norm is None else trainer._clip_norm
        norm = self._params.device.clip_norm(total.flat, limit)
        if trainer._nonfinite != "apply" and not math.isfinite(norm):
            if trainer._nonfinite == "raise":
                raise NonFiniteError(
                    f"gradient: expected a finite norm of the sum of all shards, got {norm}; no update was made, and "
                    "nothing has changed (nonfinite='skip' would go on with the next window)"
                )
            return StepResult(loss, norm, steps, None, False, skipped + 1)
        if weight:
            if trainer._clip_value is not None:
                clip_grad_value(total, trainer._clip_value)
            optimizer.step(total)
        self.seconds["update"] += time.perf_counter() - began
        if weight and self._sharded:
            self._timed("reduce", self._share_parameters)
        return StepResult(loss, norm, steps, None, bool(weight), skipped)

    def _share_parameters(self) -> None:
        """Each rank's slice of the new parameters, to all."""
        with self._params.writing() as flat:
            own = flat[_share(len(flat), self.size, self.rank)].copy()
            _gather(self._comm, own, flat)

    def _restore(self, carried: list[Any]) -> None:
        for clone, before in zip(self._clones, carried, strict=True):
            clone._carried = before

    def _skip(self, before: list[Any], batches: list[dict[str, Any]], ids: bool | None) -> None:
        """Go on past a window without an update, as the trainer would."""
        self._restore(before)
        for clone, shard in zip(self._clones, self._mine, strict=True):
            batch = batches[shard]
            clone._carried = clone._skipped(
                clone._window(batch["x"], batch["resets"], batch["lengths"], ids, batch["given"])
            )

    @contextmanager
    def _drawing(self, shard: int) -> Iterator[None]:
        """Generators of the step and the shard in the place of the parts' own."""
        parts = [part for part in _parts(self._model) if hasattr(part, "rng")]
        own = [part.rng for part in parts]
        try:
            for number, part in enumerate(parts):
                part.rng = np.random.default_rng((self._seed, self._steps, shard, number))
            yield
        finally:
            for part, rng in zip(parts, own, strict=True):
                part.rng = rng

    def _timed(self, what: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return call()
        finally:
            self.seconds[what] += time.perf_counter() - began


class _Whole(NamedTuple):
    """An optimiser's state, for a checkpoint."""

    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.state


def _parts(model: Any) -> list[Any]:
    return list(getattr(model, "parts", {"": model}).values())


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """An array, None, or arrays by name, each through a function."""
    if isinstance(value, Mapping):
        return {name: _mapped(function, one) for name, one in value.items()}
    return None if value is None else function(value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif value is not None:
        yield value


def _part(index: Any, array: Array) -> Array:
    return array[index]  # type: ignore[no-any-return]


def _fingerprint(value: Any) -> tuple[Any, ...]:
    array = np.ascontiguousarray(_checks.numbers("array", value))
    return array.shape, array.dtype.str, _core.checksum(array)
