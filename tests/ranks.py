"""What each rank of a test runs: ``mpiexec -n N python ranks.py NAME [ARGUMENT]...``; it prints one line of JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import partial

import numpy as np

import rnnfast
from rnnfast import LSTM, TBPTT, Dense, Model, losses, optim
from rnnfast.distributed import DataParallel, RankError, world

STEPS, ROWS, WINDOW = 34, 16, 6


def make(k2=9, clip=0.5, optimizer=optim.Adam, nonfinite="raise", batch_first=False, hidden=7):
    layers = LSTM(3, hidden, 2, dropout=0.3, batch_first=batch_first, rng=0)
    model = Model(rnn=layers, head=Dense(hidden, 2, rng=1))
    options = {"k1": WINDOW, "k2": k2, "clip_norm": clip, "nonfinite": nonfinite}
    return model, TBPTT(model, losses.mean_squared_error, optimizer(model.params, 1e-2), **options)


def data(steps=STEPS):
    rng = np.random.default_rng(0)
    x, target = (rng.standard_normal((steps, ROWS, n)).astype(np.float32) for n in (3, 2))
    lengths, mask = rng.integers(1, steps + 1, ROWS), rng.random((steps, ROWS)) < 0.8
    resets = rng.random((steps, ROWS)) < 0.1
    return x, target, lengths, mask, resets


def windows(trainer, begin=0, end=STEPS, masked=True, batch_first=False):
    """The results of all windows between two steps."""
    x, target, lengths, mask, resets = data()
    results = []
    for start in range(begin, end, WINDOW):
        own = slice(start, min(start + WINDOW, STEPS))
        arrays = [x[own], target[own], mask[own], resets[own]]
        x_own, target_own, mask_own, resets_own = [a.swapaxes(0, 1) for a in arrays] if batch_first else arrays
        options = {"mask": mask_own, "resets": resets_own, "lengths": np.clip(lengths - start, 0, own.stop - own.start)}
        results.append(trainer.step(x_own, target_own, **options if masked else {}))
    return results


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def trained(comm, *, shards=8, sharded=False, **options):
    """The losses, and the digest of the weights and of the optimiser's state."""
    model, trainer = make(**options)
    parallel = DataParallel(trainer, comm, shards=shards, shard_optimizer=sharded)
    results = windows(parallel, batch_first=options.get("batch_first", False))
    state = [value for value in parallel.optimizer_state().values() if isinstance(value, np.ndarray)]
    return [[one.loss, float(one.grad_norm), one.updated] for one in results], digest(model.params.flat, *state)


def bits(comm, path=None):
    """What must be the same for any number of ranks."""
    found = {
        "plain": trained(comm),
        "sharded": trained(comm, sharded=True),
        "momentum": trained(comm, optimizer=lambda *a: optim.SGD(*a, momentum=0.9), sharded=True, k2=None),
        "batch first": trained(comm, batch_first=True, shards=4),
        "sixteen": trained(comm, shards=16),
    }
    x, target, *_ = data(WINDOW)
    score = np.random.default_rng(1).random((WINDOW, ROWS)).astype(np.float32)
    layer = rnnfast.AUGRU(3, 2, recurrent_dropout=0.3, rng=0)
    trainer = TBPTT(layer, losses.mean_squared_error, optim.SGD(layer.params, 0.1), k1=WINDOW)
    parallel = DataParallel(trainer, comm, shards=4)
    results = [parallel.step(x, target, given={"a": score}, seed=3).loss for _ in range(2)]
    found["given"] = [results, digest(layer.params.flat)]

    layer = rnnfast.GRU(3, 5, rng=0)
    x = data()[0]

    def compute(rows):
        y, _, tape = layer.forward(x[:, rows])
        loss, dy = losses.mean_squared_error(y, np.zeros_like(y))
        return loss, layer.backward(tape, dy).params

    loss, gradients = DataParallel(layer, comm, shards=4).gradients(compute, ROWS)
    found["gradients"] = [loss, digest(gradients.flat)]
    if path is not None:
        _, trainer = make()
        parallel = DataParallel(trainer, comm, shards=8, shard_optimizer=True)
        windows(parallel, end=2 * WINDOW)
        parallel.save(path, extra={"note": 1})
        found["gone on"] = [one.loss for one in windows(parallel, begin=2 * WINDOW)]
    return found


def raised(call):
    """What a call raises, as text."""
    try:
        call()
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def ends_early(comm):
    """What a rank is told that makes one step more than the others."""
    x, target, *_ = data(WINDOW)
    parallel = DataParallel(make()[1], comm)
    parallel.step(x, target)
    if comm.Get_rank() == 0:
        again = raised(lambda: parallel.step(x, target)), raised(lambda: parallel.step(x, target))
        print(json.dumps(again), flush=True)


def errors(comm):
    """What each rank is told of the mistakes of one; the last rank makes them."""
    bad = comm.Get_rank() == comm.Get_size() - 1
    x, target, *_ = data(WINDOW)
    found = {}
    found["model"] = raised(lambda: DataParallel(make(hidden=8 if bad else 7)[1], comm))
    found["option"] = raised(lambda: DataParallel(make()[1], comm, reduction="sum" if bad else "mean"))
    found["argument"] = raised(lambda: DataParallel(make()[1], comm, shards=3 if bad else 4))
    found["few shards"] = raised(lambda: DataParallel(make()[1], comm, shards=1))
    real = rnnfast._core.isa
    rnnfast.distributed._core.isa = (lambda: "baseline") if bad else (lambda: "avx2")
    found["strict"] = raised(lambda: DataParallel(make()[1], comm, strict=True))
    rnnfast.distributed._core.isa = real

    model, trainer = make()
    parallel = DataParallel(trainer, comm)
    parallel.step(x, target)
    before, state = np.array(model.params.flat), parallel.state_dict()
    found["batch"] = raised(lambda: parallel.step(x + 1 if bad else x, target))
    found["rows"] = raised(lambda: parallel.step(x[:, :12], target[:, :12]))
    found["given"] = raised(lambda: parallel.step(x, target, given={"a": x[..., 0] + bad}))
    found["shape"] = raised(lambda: parallel.step(x[..., :2] if bad else x, target))
    trainer_loss = parallel._clones[0]._loss

    found["option of a step"] = raised(lambda: parallel.step(x, target, seed=2 if bad else 1))

    def fails(problem, prediction, target, **options):
        raise problem

    for name, problem in (("loss", OSError("no disk")), ("ctrl-c", KeyboardInterrupt())):
        for clone in parallel._clones:
            clone._loss = partial(fails, problem) if bad else trainer_loss
        found[name] = raised(lambda: parallel.step(x, target))
    for clone in parallel._clones:
        clone._loss = trainer_loss
    found["not finite"] = raised(lambda: parallel.step(x, np.where(target == target[0, 0, 0], np.inf, target)))
    found["state"] = raised(lambda: parallel.load_state_dict({} if bad else state))
    path = "/no/such/folder/a" if comm.Get_rank() == 0 else "never"
    found["save"] = raised(lambda: parallel.save(path))
    after = parallel.state_dict()
    same = all(
        digest(*rnnfast._state.arrays(a["state"])) == digest(*rnnfast._state.arrays(b["state"]))
        for a, b in zip(state["shards"], after["shards"], strict=True)
    )
    found["unchanged"] = bool(np.array_equal(before, model.params.flat)) and same and state["steps"] == after["steps"]
    found["goes on"] = raised(lambda: parallel.step(x, target))
    found["RankError"] = issubclass(RankError, RuntimeError)
    return found


if __name__ == "__main__":
    comm = world()
    result = globals()[sys.argv[1]](comm, *sys.argv[2:])
    everything = comm.gather(result) if result is not None else None
    if comm.Get_rank() == 0 and everything is not None:
        print(json.dumps(everything), flush=True)
