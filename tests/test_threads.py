"""The threads of a call: how many, who may limit them, fork, Ctrl-C."""

from __future__ import annotations

import math
import os
import sys
import textwrap

import numpy as np
import pytest
from shared import run_script

import rnnfast
from rnnfast import _core, _quota

openmp = pytest.mark.skipif(_core.build_info()["openmp"] == "none", reason="built without OpenMP")


# How many -------------------------------------------------------------------------------------------------------------

DEFAULTS = {  # the environment, the default, and the most that a call may ask for
    "OpenMP": ({"OMP_NUM_THREADS": "5"}, 5, 5),
    "rnnfast": ({"OMP_NUM_THREADS": "2", "RNNFAST_NUM_THREADS": "7"}, 7, 7),
    "rnnfast wins": ({"OMP_NUM_THREADS": "5", "RNNFAST_NUM_THREADS": "7"}, 7, 7),
    "rnnfast wins with less": ({"OMP_NUM_THREADS": "5", "RNNFAST_NUM_THREADS": "1"}, 1, 5),
}
PRINT_THREADS = (
    "import rnnfast; print(rnnfast.get_num_threads(), *(rnnfast._core.threads_for(n, 1e9) for n in (0, 1, 9)))"
)


@openmp
@pytest.mark.parametrize(("environment", "default", "most"), DEFAULTS.values(), ids=DEFAULTS)
def test_the_environment_says_how_many(environment, default, most):
    """By default; a call may ask for fewer, or for as many as there are CPUs."""
    assert run_script(PRINT_THREADS, **environment).split() == [str(default), str(default), "1", str(most)]


# What Linux shows of a control group, and the CPUs that it may use.
QUOTAS = {
    "none": ({}, math.inf),
    "version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
    "no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
    "of a parent": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
        },
        0.5,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "3:memory:/c\n2:cpu,cpuacct:/c\n0::/\n",
            "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000\n",
        },
        4.0,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "2:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        math.inf,
    ),
    "not understood": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "some\n"}, math.inf),
}


@pytest.mark.parametrize(("files", "expected"), QUOTAS.values(), ids=QUOTAS)
def test_a_container_says_how_many_cpus(files, expected, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _quota.cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "default"), [(math.inf, 8), (2.5, 2), (0.5, 1), (100.0, 8)], ids=["none", "2.5", "0.5", "100"]
)
def test_the_default_stays_within_the_quota(quota, default, monkeypatch):
    before = _core.get_num_threads()
    monkeypatch.setattr(_quota, "cpus", lambda: quota)
    for name in ("RNNFAST_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    try:
        _core.set_num_threads(8)
        _quota.limit_default_threads()
        assert _core.get_num_threads() == default
        _core.set_num_threads(8)
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
        _quota.limit_default_threads()
        assert _core.get_num_threads() == 8
    finally:
        _core.set_num_threads(before)


@openmp
def test_more_threads_never_lengthen_the_longest_share():
    """Nor is there one without a share, which would wait for the others for nothing."""
    run_script("""
        from rnnfast import _core

        _core.set_cpus(64)
        _core.set_small_work(0)  # a busy machine is no reason for fewer threads

        def threads(n, batch, parts):
            return _core.threads_for_steps(n, 1e9, 100, batch, parts)

        def longest(threads, batch, parts):  # in parts of rows, by how the kernels partition a call
            if threads == 1 or batch >= 2 * threads:
                return -(-batch // threads) * parts
            return batch * -(-parts // threads)

        for parts in (1, 2, 3, 6, 8, 22):
            for batch in range(1, 70):
                chosen = [threads(n, batch, parts) for n in range(1, 65)]
                shares = [longest(n, batch, parts) for n in chosen]
                assert shares == sorted(shares, reverse=True), (parts, batch, shares)
                assert all(n <= batch // 2 if batch >= 2 * n else n <= parts for n in chosen if n > 1)
            assert [threads(n, 32, parts) for n in (16, 17, 24, 32, 64)] == [16] * 5
    """)


@openmp
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space and looks into /proc")
def test_where_the_system_refuses_threads_there_are_fewer():
    """And a warning; OpenMP alone would end the process."""
    run_script("""
        import resource, warnings
        import numpy as np, rnnfast
        rnnfast._core.set_cpus(64)
        layer = rnnfast.LSTM(64, 64, rng=0)
        x = np.random.default_rng(0).standard_normal((50, 256, 64), np.float32)
        expected = layer(x, num_threads=1)[0]
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, -1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            y = layer(x, num_threads=64)[0]
        assert np.array_equal(y, expected)
        assert "num_threads: the system refuses more threads" in str(caught[0].message), caught
    """)


WORK = {
    "forward": "layer(x)",
    "backward": "layer.backward(layer.forward(x)[2], np.ones((3000, 8, 64), np.float32))",
    "on two threads": "layer(x, num_threads=2)",
    "stream": "layer.stream(8).process(x)",
    "head": "head(x)",
    "packing": "layer.update({'bias_ih_l0': np.zeros(256, np.float32)}), layer(x[:1])",
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_a_daemon_may_be_inside_a_call_when_the_interpreter_ends(work):
    run_script(f"""
        import threading, time
        import numpy as np, rnnfast
        rnnfast._core.set_cpus(2)
        layer, head = rnnfast.LSTM(32, 64, rng=0), rnnfast.Dense(32, 500, rng=0)
        x = np.zeros((3000, 8, 32), np.float32)
        started = threading.Event()

        def work():
            while True:
                started.set()
                {work}

        threading.Thread(target=work, daemon=True).start()
        started.wait()
        time.sleep(0.05)
    """)


def test_no_rows_are_no_work():
    """However many steps there are."""
    x = np.empty((2**40, 0, 3), np.float32)
    for layer in (rnnfast.LSTM(3, 4, bidirectional=True), rnnfast.SLSTM(3, 4), rnnfast.GRU(3, 4, num_layers=2)):
        y, _, tape = layer.forward(x)
        assert y.shape == (2**40, 0, 8 if layer.bidirectional else 4)
        grads = layer.backward(tape, y)
        assert grads.x.shape == x.shape
        assert not grads.params.flat.any()
        assert layer(np.empty((2**40, 0), np.int64))[0].shape == y.shape


@openmp
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system knows no affinity")
def test_without_a_word_it_is_the_usable_cpus():
    usable = sorted(os.sched_getaffinity(0))
    assert run_script(PRINT_THREADS).split()[0] == str(len(usable))
    one = f"import os; os.sched_setaffinity(0, {{{usable[-1]}}})\n"
    assert run_script(one + PRINT_THREADS).split()[0] == "1"


def test_small_work_runs_on_one_thread():
    assert run_script("import rnnfast; print(rnnfast._core.threads_for(3, 1e4))") == "1\n"


@openmp
def test_threadpoolctl_sees_and_limits_the_threads():
    """What is limited is what runs: the process has no more threads after a limited call than before it."""
    run_script("""
        import os, sys
        import numpy as np, rnnfast
        from rnnfast import _core
        from threadpoolctl import threadpool_info, threadpool_limits

        _core.set_small_work(0)  # a busy machine is no reason for fewer threads

        def running():
            return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else None

        def run(threads):
            y, _, tape = layer.forward(x, num_threads=threads)
            return y.tobytes() + layer.backward(tape, y, num_threads=threads).params.flat.tobytes()

        assert [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"] == [4]
        layer = rnnfast.LSTM(64, 128, rng=0)
        x = np.random.default_rng(0).standard_normal((20, 32, 64), np.float32)
        before = running()
        with threadpool_limits(1):
            assert [_core.threads_for(asked, 1e9) for asked in (0, 1, 3)] == [1, 1, 1]
            one = run(3)
            assert running() == before
            with threadpool_limits(2, user_api="openmp"):
                assert [_core.threads_for(asked, 1e9) for asked in (0, 1, 3)] == [2, 1, 2]
            assert _core.threads_for(3, 1e9) == 1
            assert rnnfast.get_num_threads() == 4
        assert [_core.threads_for(asked, 1e9) for asked in (0, 3, 6)] == [4, 3, 4]
        assert run(3) == one
        assert before is None or running() == before + 2
        with threadpool_limits(8):
            assert [_core.threads_for(asked, 1e9) for asked in (0, 9)] == [4, 4]
    """, OMP_NUM_THREADS="4")  # fmt: skip


@openmp
def test_a_limit_at_import_ends_with_the_limit():
    libraries = run_script("""
        import rnnfast, threadpoolctl
        print([pool["filepath"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"][0])
    """)
    run_script(f"""
        import ctypes
        openmp = ctypes.CDLL({libraries.strip()!r})
        openmp.omp_set_num_threads(1)
        from rnnfast import _core
        assert _core.threads_for(0, 1e9) == 1
        assert _core.threads_for(3, 1e9) == 1
        openmp.omp_set_num_threads(4)
        assert _core.threads_for(0, 1e9) == 4
        assert _core.threads_for(9, 1e9) == 4
    """, OMP_NUM_THREADS="4")  # fmt: skip


@openmp
def test_the_time_from_core_to_core():
    script = """
        import os, signal, threadpoolctl
        from rnnfast import _core
        signal.alarm(30)
        assert 1e-9 < _core.line_transfer() < 1e-2
        with threadpoolctl.threadpool_limits(1):
            assert _core.line_transfer() == 0
        if hasattr(os, "fork"):
            child = os.fork()
            if child == 0:
                os._exit(_core.line_transfer() != 0)
            assert os.waitpid(child, 0)[1] == 0
    """
    run_script(script, OMP_NUM_THREADS="2")


# Fork -----------------------------------------------------------------------------------------------------------------

CHILDREN = {
    "os.fork": """
        child = os.fork()
        if child == 0:
            os._exit(train() != expected)
        assert os.waitpid(child, 0)[1] == 0
    """,
    "multiprocessing": """
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(train, range(6)) == 6 * [expected]
    """,
    "a child's child": """
        child = os.fork()
        if child == 0:
            assert train() == expected
            child = os.fork()
            if child == 0:
                os._exit(train() != expected)
            os._exit(os.waitpid(child, 0)[1] != 0)
        assert os.waitpid(child, 0)[1] == 0
    """,
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("children", CHILDREN.values(), ids=CHILDREN)
def test_a_child_works_after_fork(children):
    """The parent has used several threads; the child trains with as many, to the same bits. An alarm ends a hang."""
    common = """
        import multiprocessing, os, signal
        import numpy as np, rnnfast
        layer = rnnfast.LSTM(64, 128, num_layers=2, bidirectional=True, rng=0)
        head = rnnfast.Dense(256, 64, rng=1)
        x = np.random.default_rng(0).standard_normal((30, 32, 64), np.float32)

        def train(_=None):
            signal.alarm(30)
            y, _, tape = layer.forward(x, num_threads=3)
            z, head_tape = head.forward(y, num_threads=3)
            grads = head.backward(head_tape, z, num_threads=3)
            return z.tobytes() + layer.backward(tape, grads.x, num_threads=3).params.flat.tobytes()

        expected = train()
    """
    script = textwrap.dedent(common) + textwrap.dedent(children) + "assert train() == expected"
    run_script(script)


# Ctrl-C ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_ctrl_c_stops_a_long_call(phase, rows, threads):
    """Within 0.2 s, at least once in a few tries, for test machines stall. And nothing half done passes for done."""
    steps = {("forward", 1): 20_000, ("forward", 64): 400, ("backward", 1): 2000, ("backward", 64): 100}[phase, rows]
    waited = run_script(f"""
        import os, signal, threading, time
        import numpy as np, rnnfast
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rng = np.random.default_rng(0)
        layer = rnnfast.LSTM(8, 1024, rng=0)
        x = rng.standard_normal(({steps}, {rows}, 8), np.float32)
        recorded = x[:3] if "{phase}" == "forward" else x
        dy = np.ones((len(recorded), {rows}, 1024), np.float32)
        into = layer.params.zeros()

        def train():
            y, state, tape = layer.forward(x[:3], num_threads={threads})
            return y.tobytes() + layer.backward(tape, y, num_threads={threads}).params.flat.tobytes()

        def call():
            if "{phase}" == "forward":
                layer.forward(x, tape=tape, num_threads={threads})
            else:
                layer.backward(tape, dy, into=into, num_threads={threads})

        def interrupt():
            global sent
            sent = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)

        expected, waited = train(), []
        while not waited or (min(waited) > 0.2 and len(waited) < 5):
            _, _, tape = layer.forward(recorded, num_threads=2)
            timer = threading.Timer(0.1, interrupt)
            timer.start()
            try:
                call()
                timer.cancel()
                raise SystemExit("the call was over before it could be interrupted")
            except KeyboardInterrupt:
                waited.append(time.perf_counter() - sent)
            assert not into.flat.any()
            try:
                layer.backward(tape, dy)
                raise SystemExit("the tape passes for a whole one")
            except ValueError as error:
                assert "tape: expected one that holds a forward, got a used one" in str(error)
            assert train() == expected
        print(min(waited))
    """, timeout=120)  # fmt: skip
    assert float(waited) < 0.2


# Other threads that write meanwhile -----------------------------------------------------------------------------------


def test_another_thread_writes_to_the_ids():
    """What was checked is what is read: an answer or an error of ours, and no access by an id that nobody has seen."""
    run_script("""
        import threading, time
        import numpy as np, rnnfast

        layers = [rnnfast.LSTM(5, 8, rng=0), rnnfast.LSTM(5, 8, peephole=True, rng=0)]  # fused, and interpreted
        ids, stop, answers = np.zeros((3000, 1), np.int64), threading.Event(), 0

        def write():
            while not stop.is_set():
                for wrong in (2**40, -(2**40)):
                    ids[:] = wrong
                    ids[:] = 0
                    time.sleep(1e-3)  # some calls find good ids

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        for layer in layers:
            stream = layer.stream()
            for _ in range(60):
                try:
                    stream.process(ids)
                    y, _, tape = layer.forward(ids)
                    assert np.isfinite(layer.backward(tape, y).params.flat).all()
                    answers += 1
                except ValueError as error:
                    assert "expected ids in 0..4, got" in str(error), error
        stop.set()
        thread.join()
        assert answers
    """)
