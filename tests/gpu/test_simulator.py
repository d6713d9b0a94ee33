"""A simulated launch: its threads wait for each other, and end together when one of them fails."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from rnnfast.cuda import shim
from rnnfast.cuda.shim import acquire, pointer, release_add, store, sync, thread

THREADS = 8


def launch(function, size=THREADS):
    """What a kernel leaves in an array of zeros."""
    array = np.zeros(size, np.float32)
    shim.kernel("pp")(function).launch(1, THREADS, (pointer(array), pointer(np.zeros(1, np.int32))))
    return array


def test_all_wait_for_the_last():
    seen = []

    def kernel(p, counter):
        seen.append(thread())
        sync()
        store(p, thread(), len(seen))

    assert (launch(kernel) == THREADS).all()


def test_who_has_ended_is_not_waited_for():
    def kernel(p, counter):
        if thread() % 2:
            return
        sync()
        store(p, thread(), 1)

    assert launch(kernel).sum() == THREADS / 2


@pytest.mark.parametrize("others", ["wait", "spin", "have ended"])
def test_a_failure_ends_all(others):
    """With the error of the first that failed: here the stores of the last three are outside of the array."""
    before = threading.active_count(), sys.getswitchinterval()

    def kernel(p, counter):
        store(p, thread(), 1)
        if others == "wait":
            sync()
        while others == "spin" and acquire(counter, 0) < THREADS:
            pass

    with pytest.raises(IndexError, match=r"index [567] outside an array of 5"):
        launch(kernel, size=5)
    assert (threading.active_count(), sys.getswitchinterval()) == before


def test_what_is_no_exception_ends_all_too():
    def kernel(p, counter):
        if thread() == 0:
            pytest.fail("told so")
        sync()

    with pytest.raises(pytest.fail.Exception, match="told so"):
        launch(kernel)


def test_who_spins_lets_the_others_run():
    def kernel(p, counter):
        release_add(counter, 0)
        while acquire(counter, 0) < THREADS:
            pass
        store(p, thread(), 1)

    assert launch(kernel).all()


def test_tf32_keeps_the_device_s_nan_and_rounds_ties_away_from_zero():
    """NumPy's NaN in, the device's out: with 0x1000 added to its bits it would be -0."""
    found = shim.round_tf32(np.float32(np.nan))
    assert np.isnan(found) and found.view(np.uint32) == 0x7FFFE000
    given = np.array([0x3F800FFF, 0x3F801000, 0xBF801000, 0x7F800000, 0xFF800000, 0x80000000], np.uint32)
    wanted = [0x3F800000, 0x3F802000, 0xBF802000, 0x7F800000, 0xFF800000, 0x80000000]
    assert [shim.round_tf32(x).view(np.uint32) for x in given.view(np.float32)] == wanted
    assert shim.round_tf32(given.view(np.float32)).view(np.uint32).tolist() == wanted


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_of_shared_memory_is_an_error(index):
    """NumPy would count a negative one from the end, and a GPU would take another block's word or fault."""
    shared = np.zeros(2, np.float32)
    for call in (
        lambda: shim.load_shared(shared, index),
        lambda: shim.store_shared(shared, index, 1),
        lambda: shim.recall(shared, index),
        lambda: shim.remember(shared, index, 1),
        lambda: shim.load2_words_shared(shared, 2 * index),
    ):
        with pytest.raises(IndexError, match="outside shared memory of 2 words"):
            call()
