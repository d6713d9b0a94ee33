"""Several ranks: the bits of one, errors on all of them, checkpoints for any number, and a rank that dies."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("click", reason="needs the extra cli")
pytest.importorskip("safetensors", reason="needs the extra cli")

import ranks
from ranks import STEPS, WINDOW, bits, data, make, windows
from registry import assert_close

from rnnfast import AUGRU, GRU, LSTM, TBPTT, checkpoint, losses, optim
from rnnfast.cli import corpus
from rnnfast.cli.train import Training
from rnnfast.distributed import DataParallel, _add, _Node, _nodes_of, _share, world

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or MPIEXEC is None, reason="needs mpi4py and mpiexec (extra mpi)"
)
ENVIRONMENT = {
    **os.environ,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",  # other tests run at the same time
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])),
}


def launched(count, *command):
    """A running mpiexec of so many Pythons."""
    line = [MPIEXEC, "-n", str(count), sys.executable, "-P", *map(str, command)]
    return subprocess.Popen(
        line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def told(count, *arguments):
    """What each of so many ranks of `ranks.py` returns."""
    process = launched(count, ranks.__file__, *arguments)
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


# One process


@pytest.mark.parametrize("shards", [1, 2, 4, 8, 16])
def test_every_number_of_ranks_adds_in_one_order(shards):
    """What each rank adds by itself, then all of it: the tree of pairs, bit by bit."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(50).astype(np.float32) for _ in range(shards)]
    pairs = [value.copy() for value in values]
    while len(pairs) > 1:
        pairs = [a + b for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    for count in range(1, shards + 1):
        nodes: list[_Node] = []
        for rank in range(count):
            own: list[_Node] = []
            part = _share(shards, count, rank)
            for shard in range(part.start, part.stop):
                list(_add(own, _Node(shard, 1, values[shard].copy())))
            assert [(node.first, node.width) for node in own] == _nodes_of(part)
            for node in own:
                list(_add(nodes, node))
        assert len(nodes) == 1
        np.testing.assert_array_equal(nodes[0].total, pairs[0])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("masked", [False, True])
def test_one_process_is_the_trainer_to_rounding(reduction, masked):
    """Weights of the shards make the batch's mean of what the mask leaves in each."""

    def loss(prediction, target, **options):
        return losses.mean_squared_error(prediction, target, reduction=reduction, **options)

    def trainer():
        layer = LSTM(3, 2, dtype=np.float64, rng=0)
        return layer, TBPTT(layer, loss, optim.SGD(layer.params, 1e-2), k1=WINDOW, k2=9, clip_norm=0.5)

    (alone, plain), (layer, own) = trainer(), trainer()
    parallel = DataParallel(own, shards=8, reduction=reduction)
    for one, other in zip(windows(plain, masked=masked), windows(parallel, masked=masked), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-6, abs=1e-12)
        assert one.updated == other.updated
        assert one.steps == other.steps
    assert_close(np.array(layer.params.flat), np.array(alone.params.flat), 1e-6)


def test_a_window_that_is_skipped_or_refused():
    x, target, *_ = data(WINDOW)
    bad = target.copy()
    bad[0, 5, 0] = np.nan
    model, trainer = make(nonfinite="skip")
    parallel = DataParallel(trainer)
    parallel.step(x, target)
    before = np.array(model.params.flat)
    states = [clone.state for clone in parallel._clones]
    result = parallel.step(x, bad)
    assert (result.updated, result.skipped) == (False, 1)
    np.testing.assert_array_equal(model.params.flat, before)
    assert all(clone.state is state for clone, state in zip(parallel._clones, states, strict=True))
    assert parallel.step(x, target).updated
    model, trainer = make()
    with pytest.raises(FloatingPointError, match="expected a finite norm of the sum of all shards"):
        DataParallel(trainer).step(x, bad)


def test_extra_inputs_are_cut_with_the_rows():
    x, target, *_ = data(WINDOW)
    score = np.random.default_rng(1).random(x.shape[:2])
    weights = []
    for shards in (1, 8):
        layer = AUGRU(3, 2, dtype=np.float64, rng=0)
        trainer = TBPTT(layer, losses.mean_squared_error, optim.SGD(layer.params, 0.1), k1=WINDOW)
        DataParallel(trainer, shards=shards).step(x, target, given={"a": score})
        weights.append(np.array(layer.params.flat))
    assert_close(weights[1], weights[0], 1e-12)
    with pytest.raises(ValueError, match=r"given: expected leading axes \[6, 16\] as in x, got \[6, 15\]"):
        DataParallel(trainer).step(x, target, given={"a": score[:, :15]})


def test_a_window_without_targets_changes_no_weights():
    model, trainer = make()
    parallel = DataParallel(trainer)
    x, target, *_ = data(WINDOW)
    before = np.array(model.params.flat)
    assert not parallel.step(x, target, mask=np.zeros(x.shape[:2])).updated
    np.testing.assert_array_equal(model.params.flat, before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"shards": 3}, TypeError, "shards: expected a list of states, got int 3"),
        ({"shards": []}, ValueError, "expected a state of 8 shards, got one of 0"),
        ({"seed": -1}, ValueError, "seed: expected an integer in"),
        ({"more": 1}, ValueError, "state: expected one of state_dict"),
    ],
)
def test_a_state_that_is_none(change, error, message):
    _, trainer = make()
    parallel = DataParallel(trainer)
    with pytest.raises(error, match=message):
        parallel.load_state_dict(parallel.state_dict() | change)


def test_reset_begins_anew():
    _, trainer = make()
    parallel = DataParallel(trainer, shards=4)
    windows(parallel, end=WINDOW)
    parallel.reset()
    assert all(clone.state is None for clone in parallel._clones)


BAD = [
    ({"shards": 3}, ValueError, "shards: expected a power of two, got 3"),
    ({"shards": 0}, ValueError, "shards: expected an integer of at least 1"),
    ({"reduction": "max"}, ValueError, "reduction: expected one of"),
    ({"comm": 3}, TypeError, "comm: expected an MPI communicator, got int 3"),
    ({"strict": 1}, TypeError, "strict: expected"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        DataParallel(make()[1], **options)


def test_what_needs_a_trainer():
    layer = GRU(3, 4, rng=0)
    with pytest.raises(TypeError, match="trainer: expected a TBPTT, a Model or a layer"):
        DataParallel(3)
    with pytest.raises(ValueError, match="shard_optimizer: expected a TBPTT"):
        DataParallel(layer, shard_optimizer=True)
    parallel = DataParallel(layer)
    with pytest.raises(TypeError, match="step: expected a DataParallel of a TBPTT"):
        parallel.step(np.zeros((2, 8, 3)), np.zeros((2, 8, 4)))
    with pytest.raises(ValueError, match="rows that divide into 8 shards, got 12"):
        parallel.gradients(lambda rows: None, 12)
    with pytest.raises(TypeError, match="compute: expected it to return"):
        parallel.gradients(lambda rows: (0.0, None), 16)


def test_mpi_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r'pip install "rnnfast\[mpi\]"'):
        world()


def test_an_optimiser_keeps_a_slice():
    """Slices side by side make the whole step, and load from a whole state."""
    whole, cut = GRU(3, 5, rng=0), GRU(3, 5, rng=0)
    gradients = whole.params.zeros()
    gradients.flat[:] = np.random.default_rng(0).standard_normal(gradients.size)
    groups = {"bias*": {"lr_factor": 0.5}, "weight_hh*": {"frozen": True}}
    reference = optim.Adam(whole.params, groups=groups)
    slices = [slice(0, 70), slice(70, cut.params.size)]
    parts = [optim.Adam(cut.params, groups=groups) for _ in slices]
    for part, own in zip(parts, slices, strict=True):
        part.keep(own)
    for _ in range(3):
        reference.step(gradients)
        for part in parts:
            part.step(gradients)
    np.testing.assert_array_equal(cut.params.flat, whole.params.flat)
    state = reference.state_dict()
    for name in ("exp_avg", "exp_avg_sq"):
        np.testing.assert_array_equal(np.concatenate([part.state_dict()[name] for part in parts]), state[name])
    parts[0].load_state_dict({**state, "exp_avg": state["exp_avg"] + 1})
    np.testing.assert_array_equal(parts[0].state_dict()["exp_avg"], state["exp_avg"][:70] + 1)


# Several


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process without MPI gets."""
    return json.loads(json.dumps(bits(None, tmp_path_factory.mktemp("alone") / "a")))


@needs_mpi
@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_ranks_has_the_same_bits(count, alone, tmp_path):
    """Losses, norms, weights and the optimiser's state; and one process goes on from the checkpoint of several."""
    path = tmp_path / "a"
    found = told(count, "bits", path)
    assert found == [alone] * count

    loaded = checkpoint.load(path)
    assert loaded.extra["note"] == 1
    optimizer = optim.Adam(loaded.model.params)
    optimizer.load_state_dict(loaded.optimizer)
    options = {"k1": WINDOW, "k2": 9, "clip_norm": 0.5}
    parallel = DataParallel(TBPTT(loaded.model, losses.mean_squared_error, optimizer, **options), shards=8)
    parallel.load_state_dict(loaded.extra["parallel"])
    assert [one.loss for one in windows(parallel, begin=2 * WINDOW, end=STEPS)] == alone["gone on"]


@needs_mpi
def test_mistakes_are_told_on_all_ranks():
    first, last = told(2, "errors")
    for name in ("model", "option", "few shards", "strict", "batch", "rows", "given", "not finite"):
        assert first[name] == last[name], name
    assert "ranks: expected the same model on all, got" in first["model"]
    assert "ranks: expected the same options on all" in first["option"]
    assert first["few shards"] == "ValueError: shards: expected at least one for each of 2 ranks, got 1"
    assert "avx2 on rank 0, baseline on rank 1" in first["strict"]
    assert first["batch"] == "ValueError: x: expected the same on all ranks, got another on rank 1"
    assert first["given"] == "ValueError: given: expected the same on all ranks, got another on rank 1"
    assert "batch: expected rows that divide into 8 shards, got 12" in first["rows"]
    assert first["not finite"].startswith("NonFiniteError")
    assert last["argument"] == "ValueError: shards: expected a power of two, got 3"
    assert first["argument"] == f"RankError: ranks: expected all to go on; rank 1: {last['argument']}"
    assert last["loss"] == "OSError: no disk"
    assert first["loss"] == "RankError: ranks: expected all to go on; rank 1: OSError: no disk"
    assert first["option of a step"] == "ValueError: seed: expected the same on all ranks, got another on rank 1"
    assert last["ctrl-c"].startswith("KeyboardInterrupt")
    assert first["ctrl-c"].startswith("RankError: ranks: expected all to go on; rank 1: KeyboardInterrupt")
    assert "rank 1: ValueError: state: expected one of state_dict()" in first["state"]
    assert first["save"].startswith("FileNotFoundError")
    assert last["save"].startswith("RankError: ranks: expected all to go on; rank 0: FileNotFoundError")
    for one in (first, last):
        assert one["unchanged"]
        assert one["goes on"] == "nothing"


@needs_mpi
def test_a_rank_that_makes_more_steps_than_another_does_not_wait_forever():
    once, again = told(2, "ends_early")
    assert once == "RankError: ranks: expected all to go on; rank 1: its program has ended"
    assert again == "RankError: ranks: expected all to go on; one has ended before"


def children(pid):
    """The processes that a process has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return sorted(map(int, listed.stdout.split()))


TRAIN = ["-m", "rnnfast", "train", "--mpi", "--hidden", "12", "--batch-size", "8", "--window", "8"]
TRAIN += ["--dropout", "0.2", "--layers", "2", "--sample-length", "0", "--threads", "1", "--eval-every", "1000000"]


@needs_mpi
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks with Linux's ps")
def test_a_rank_that_is_killed_ends_the_run_and_the_next_goes_on(tmp_path):
    path = tmp_path / "a"
    endless = launched(2, *TRAIN, "--steps", 10**6, "--checkpoint-every", 3, "--checkpoint", path)
    deadline = time.monotonic() + 60
    step = 0
    while step < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
        step = checkpoint.load(path).extra["step"] if path.exists() else 0
    os.kill(children(endless.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    _, err = endless.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert endless.returncode != 0
    assert "rank 1" in err
    assert [found.name for found in tmp_path.iterdir()] == ["a"]

    step = checkpoint.load(path).extra["step"]
    assert step >= 3
    text = corpus.load(None)
    resumed = Training.resume(path, text, num_threads=1)
    straight = Training(text, resumed.settings, num_threads=1, shards=4)
    resumed.advance()
    for _ in range(step + 1):
        straight.advance()
    np.testing.assert_array_equal(resumed.model.params.flat, straight.model.params.flat)


@needs_mpi
def test_the_command_goes_on_with_another_number_of_ranks(tmp_path):
    path, whole = tmp_path / "a", tmp_path / "b"
    for count, file, more in ((2, path, ()), (1, whole, ())):
        process = launched(count, *TRAIN, "--steps", 9, "--checkpoint-every", 4, "--checkpoint", file, *more)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.count("step      9") == 1, "progress is the first rank's"
    one, other = checkpoint.load(path), checkpoint.load(whole)
    np.testing.assert_array_equal(one.model.params.flat, other.model.params.flat)
    for name, value in one.optimizer.items():
        np.testing.assert_array_equal(value, other.optimizer[name])

    process = launched(2, *TRAIN, "--steps", 9, "--checkpoint", path)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "exists; go on with --resume" in err
