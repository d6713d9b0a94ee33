"""Streams among threads, signal handlers, forks and Ctrl-C."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from registry import ISAS, Case, assert_same
from shared import run_script
from streams import T

import rnnfast


def test_two_threads_in_one_stream():
    """Each call is refused or done as a whole, in some order: over all threads the results are those of one walk."""
    case = Case("lstm", ISAS[-1], T=40, B=9, H=100, I=33)
    layer, block = case.layer(), case.data.x
    stream, calls = layer.stream(9, num_threads=1), 30
    walk_alone = layer.stream(9)
    expected = [walk_alone.process(block).tobytes() for _ in range(2 * calls)]
    start = threading.Barrier(2)

    def run(_):
        done, refused = [], 0
        start.wait()
        while len(done) < calls and refused < 1_000_000:
            try:
                done.append(stream.process(block).tobytes())
            except RuntimeError as error:
                assert "another thread is inside this stream" in str(error)
                refused += 1
        return done

    with ThreadPoolExecutor(2) as pool:
        results = [result for done in pool.map(run, range(2)) for result in done]
    assert sorted(results) == sorted(expected[: len(results)])
    assert len(results) >= calls


def test_copies_run_in_threads_of_their_own():
    cases = [Case(kind, ISAS[-1], num_layers=2, T=T, B=9, H=100, I=33) for kind in ("lstm", "gru_before")]
    for case in cases:
        x, stream = case.data.x, case.layer().stream(9, num_threads=2)
        stream.process(x)
        copies = [stream.copy() for _ in range(4)]
        expected = stream.process(x).tobytes()
        with ThreadPoolExecutor(4) as pool:
            assert [y.tobytes() for y in pool.map(lambda copied, x=x: copied.process(x), copies)] == 4 * [expected]
        for copied in copies:
            assert_same(copied.state, stream.state)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_works_after_fork(threads):
    """Streams made before and after; the parent has used its threads, and goes on with them."""
    run_script(f"""
        import os, signal
        import numpy as np, rnnfast
        rnnfast._core.set_small_work(0)
        layer = rnnfast.LSTM(64, 128, 2, rng=0)
        x = np.random.default_rng(0).standard_normal((70, 4, 64), np.float32)
        for weights in ("float32", "bfloat16"):
            stream = layer.stream(4, weights=weights, num_threads={threads})
            stream.process(x)
            fresh, copied = layer.stream(4, weights=weights).process(x).tobytes(), stream.copy()
            expected = copied.process(x).tobytes()
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                ok = stream.process(x).tobytes() == expected
                ok &= layer.stream(4, weights=weights, num_threads={threads}).process(x).tobytes() == fresh
                stream.reset()
                ok &= np.stack([stream.step(row) for row in x]).tobytes() == fresh
                os._exit(not ok)
            assert os.waitpid(child, 0)[1] == 0
            assert stream.process(x).tobytes() == expected
    """)


LONG = {  # units, rows, steps: a block takes long, so the kernel looks for signals; or there are many short ones
    "long blocks": (2048, 1, 1000),
    "short blocks": (256, 1, 100_000),
    "blocks of few steps": (1024, 64, 400),
}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("units", "rows", "steps"), LONG.values(), ids=LONG)
def test_ctrl_c_stops_a_long_call(units, rows, steps, threads):
    """Within 0.2 s, at least once in a few tries, for test machines stall. The state is the one before the call."""
    waited = run_script(f"""
        import os, signal, threading, time
        import numpy as np, rnnfast
        signal.signal(signal.SIGINT, signal.default_int_handler)
        layer = rnnfast.LSTM(8, {units}, rng=0)
        x = np.random.default_rng(0).standard_normal(({steps}, {rows}, 8), np.float32)
        out = np.empty(({steps}, {rows}, {units}), np.float32)
        stream = layer.stream({rows}, num_threads={threads})
        stream.process(x[:3])
        before, expected = [part.tobytes() for part in stream.state], stream.copy().process(x[:5]).tobytes()

        def interrupt():
            global sent
            sent = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)

        waited = []
        while not waited or (min(waited) > 0.2 and len(waited) < 5):
            timer = threading.Timer(0.1, interrupt)
            timer.start()
            try:
                stream.process(x, out)
                timer.cancel()
                raise SystemExit("the call was over before it could be interrupted")
            except KeyboardInterrupt:
                waited.append(time.perf_counter() - sent)
            assert [part.tobytes() for part in stream.state] == before
            assert stream.copy().process(x[:5]).tobytes() == expected
        assert stream.process(x[:5]).tobytes() == expected
        print(min(waited))
    """, timeout=120)  # fmt: skip
    assert float(waited) < 0.2


@pytest.mark.slow
def test_a_signal_handler_finds_the_stream_busy():
    """It may not step, reset, read or write the state in the middle of a call; the call then ends as if it hadn't."""
    run_script("""
        import signal
        import numpy as np, rnnfast
        layer = rnnfast.LSTM(8, 256, rng=0)
        x = np.random.default_rng(0).standard_normal((20_000, 8), np.float32)
        stream, refused = layer.stream(num_threads=1), []
        zeros = (np.zeros((1, 1, 256)),) * 2
        uses = {
            "step": lambda: stream.step(x[0]),
            "process": lambda: stream.process(x[:2]),
            "reset": lambda: stream.reset(),
            "reset rows": lambda: stream.reset([0]),
            "get": lambda: stream.state,
            "set": lambda: setattr(stream, "state", zeros),
            "copy": lambda: stream.copy(),
        }

        def handler(number, frame):
            for name, use in uses.items():
                try:
                    use()
                except RuntimeError as error:
                    assert "inside this stream" in str(error)
                    refused.append(name)

        signal.signal(signal.SIGALRM, handler)
        for _ in range(5):  # the alarm comes too early where the machine stalls
            stream.reset()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            y = stream.process(x)
            if refused:
                break
        assert refused == list(uses), refused
        expected, final = layer(x)
        assert y.tobytes() == expected.tobytes()
        assert [part.tobytes() for part in stream.state] == [part.tobytes() for part in final]
    """)


def test_threads_share_a_cell():
    """Each batch size makes the cell's machinery anew, while the other thread may be inside the old one."""
    cell = rnnfast.GRUCell(256, 256, rng=0)
    inputs = [np.random.default_rng(rows).standard_normal((rows, 256), dtype=np.float32) for rows in (1, 2)]
    wanted = [cell(x) for x in inputs]

    def calls(x, want):
        return all(np.array_equal(cell(x), want) for _ in range(300))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(calls, inputs, wanted))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_another_thread_is_inside():
    """That thread stays in the parent: in the child, and in the child's child, the stream is free, and in its state."""
    run_script("""
        import os, signal, threading
        import numpy as np, rnnfast

        layer = rnnfast.LSTM(64, 256, rng=0)
        stream, x = layer.stream(8), np.random.default_rng(0).standard_normal((3000, 8, 64), np.float32)
        stream.process(x[:1])
        before, expected = stream.state, stream.copy().process(x[:5])
        thread = threading.Thread(target=stream.process, args=(x,))
        thread.start()
        while True:
            try:
                stream.state
            except RuntimeError:
                break
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            grandchild = os.fork()
            ok = all(np.array_equal(*pair) for pair in zip(stream.state, before))
            ok &= np.array_equal(stream.process(x[:5]), expected)
            stream.reset()
            os._exit(not ok or (grandchild and os.waitpid(grandchild, 0)[1]))
        try:
            stream.state
            raise SystemExit("the fork came too late to test anything")
        except RuntimeError:
            pass
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        stream.state
    """)
