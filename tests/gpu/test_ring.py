"""The hand-over: its protocol in every order of events, its words, and kernels whose blocks are far apart."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from device_problems import PRECISIONS, Problem

from rnnfast.cuda import kernel as kernel_module
from rnnfast.cuda import shim, twins
from rnnfast.cuda.persistent import product
from rnnfast.cuda.persistent.ring import placer, ring
from rnnfast.cuda.plan import ROWS_LEFT, WEIGHTS_LEFT, Partition, Plan


class Fault(AssertionError):
    """What must not be: a word lost, a stale one taken, or a group that waits forever."""


def walk(programs, slots, mask):
    """Tries every order of a group's events; returns how many states there are.

    A program is a block's list of ("write", place, turn) and ("read", place, turn), and ("sync",), before which all
    that it reads is read, and behind which all that it writes is written. Memory is weaker than a GPU's: a write is in
    flight until it lands, and those of different words land in any order, at any time, behind later reads too. Only
    the reads of a block between two syncs may come in any order, and the writes to one word land as they were written.
    """

    def tag(turn):
        return (1 + turn // slots) & mask

    first = (tuple((0, frozenset()) for _ in programs), (), ())
    seen, todo = {first}, [first]
    while todo:
        state = todo.pop()
        blocks, memory, flying = state
        words, following = dict(memory), []
        for index, (place, turn) in enumerate(flying):  # a write lands, if it is the oldest of its word
            word = (place, turn % slots)
            if not any((other, at % slots) == word for other, at in flying[:index]):
                rest = flying[:index] + flying[index + 1 :]
                following.append((blocks, tuple(sorted((words | {word: turn}).items())), rest))
        for number, (at, done) in enumerate(blocks):
            program = programs[number]
            end = next((i for i in range(at, len(program)) if program[i] == ("sync",)), len(program))
            if done == frozenset(range(at, end)):
                if end < len(program):
                    following.append((_moved(blocks, number, (end + 1, frozenset())), memory, flying))
                continue
            for step in range(at, end):
                if step in done:
                    continue
                what, place, turn = program[step]
                moved = _moved(blocks, number, (at, done | {step}))
                if what == "write":
                    following.append((moved, memory, (*flying, (place, turn))))
                    break  # a block's writes come in one order; they land in any
                there = words.get((place, turn % slots))
                if (0 if there is None else tag(there)) == tag(turn):  # else it looks again, which changes nothing
                    if there != turn:
                        raise Fault(f"block {number} took turn {there} of {place} for turn {turn}")
                    following.append((moved, memory, flying))
        finished = all(at + len(done) == len(programs[k]) for k, (at, done) in enumerate(blocks))
        if not following and not finished:
            raise Fault(f"all wait for each other: {state}")
        for one in following:
            if one not in seen:
                seen.add(one)
                todo.append(one)
    return len(seen)


def _moved(blocks, number, to):
    return (*blocks[:number], to, *blocks[number + 1 :])


def whole_group(blocks, turns):
    """Each block reads what all have written, and writes its own."""
    programs = []
    for own in range(blocks):
        program = [("write", own, 0)]
        for turn in range(turns):
            program += [("read", place, turn) for place in range(blocks)] + [("sync",)]
            if turn + 1 < turns:
                program.append(("write", own, turn + 1))
        programs.append(program)
    return programs


_SUMS = 4  # where the places of sums begin


def two_sets(turns):
    """Four blocks in two sets of two: block ``2 s + p`` reads part p, and hands its sums to the other of its set."""
    programs = []
    for own in range(4):
        mate, part = own ^ 1, own % 2
        program = [("write", own, 0)]
        for turn in range(turns):
            program += [("read", place, turn) for place in (2 * part, 2 * part + 1)] + [("sync",)]
            program += [("write", _SUMS + own, turn), ("sync",), ("read", _SUMS + mate, turn), ("sync",)]
            if turn + 1 < turns:
                program.append(("write", own, turn + 1))
        programs.append(program)
    return programs


@pytest.mark.parametrize(("blocks", "turns"), [(2, 4), (2, 6), (3, 4)])
@pytest.mark.parametrize("mask", [1, 0xFFF])
def test_two_slots_and_one_bit_are_enough_in_every_order(blocks, turns, mask):
    assert walk(whole_group(blocks, turns), 2, mask) > 100


def test_sets_too():
    assert walk(two_sets(3), 2, 1) > 1000


def test_one_slot_is_not():
    """So the walk finds what it looks for: a word overwritten before all have read it."""
    with pytest.raises(Fault, match=r"took turn|wait for each other"):
        walk(whole_group(2, 4), 1, 0xFFF)


def test_no_tag_is_not():
    with pytest.raises(Fault, match="took turn"):
        walk(whole_group(2, 3), 2, 0)


def test_nor_are_two_slots_where_sums_are_not_received():
    """Without the set's sums a block has seen its own part of K alone."""
    programs = [[event for event in program if event[1:] < (_SUMS,)] for program in two_sets(4)]
    with pytest.raises(Fault):
        walk(programs, 2, 1)


SEALS = {
    "float32": (shim.seal_float32, 0xFFFFFFFE, 1),
    "tf32": (shim.seal_tf32, 0xFFFFE000, 0xFFF),
    "bfloat16": (shim.seal_bf16, 0xFFFF0000, 0xFFFF),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_value_keeps_what_it_is_under_any_tag(precision):
    seal, data, mask = SEALS[precision]
    assert product.ARITHMETIC[precision].tag_mask == mask
    # The device's NaN, NumPy's, and one whose last bit alone says that it is one.
    bits = np.array([0x7FFFFFFF, 0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0, 0x80000000], np.uint32)
    values = [*bits.view(np.float32), np.float32(1.2345678), np.float32(-3e-39), np.float32(3.4e38)]
    bound = {"float32": 2.0**-22, "tf32": 2.0**-11, "bfloat16": 2.0**-8}[precision]
    for value in values:
        for tag in (0, 1, mask // 2, mask):
            word = int(seal(value, np.uint32(tag)))
            assert word & mask == tag
            kept = np.uint32(word & data).view(np.float32)
            if np.isfinite(value) and abs(value) < 3.39e38:
                assert abs(float(kept) - float(value)) <= max(bound * abs(float(value)), 1e-40)
            else:
                np.testing.assert_equal(np.isnan(kept), np.isnan(value))


@pytest.mark.parametrize("orientation", [ROWS_LEFT, WEIGHTS_LEFT], ids=lambda one: one.name)
def test_every_element_has_a_place_of_its_own(orientation):
    """And a lane finds the quads of its rows there, in the order of the tensor cores' registers."""
    partition = Partition(1, 2, 2, 1 if orientation == WEIGHTS_LEFT else 2, 1, 40)
    of_k, of_row = placer(orientation)
    places = {
        of_k(k) + of_row(row, partition.tile_words): (row, k) for row in range(40) for k in range(partition.length)
    }
    assert len(places) == 40 * partition.length
    assert max(places) < partition.slot_words
    assert ring(partition).size >= 2 * partition.slot_words
    fragment, lane = 1, 4 * 3 + 2  # the quad 2 of row 3
    first = partition.tile_words + fragment * 16 * orientation.rows + 4 * lane
    if orientation == WEIGHTS_LEFT:
        assert [places[first + q] for q in range(4)] == [(11, 24 + q) for q in range(4)]
    else:
        for half in range(2):
            found = [places[first + 128 * half + q] for q in range(4)]
            k = 24 + 2 * half
            assert found == [(19, k), (27, k), (19, k + 1), (27, k + 1)]


@pytest.fixture
def uneven(monkeypatch):
    """Blocks that wait before they hand over, each for a time of its own, and rows whose words come in any order."""
    draw = random.Random(3)

    def late(function):
        def wait(*arguments):
            if draw.random() < 0.05:
                time.sleep(draw.choice((0.0002, 0.002)) * (1 + twins.block()))
            function(*arguments)

        return wait

    monkeypatch.setattr(shim, "publish", late(shim.publish))
    monkeypatch.setattr(shim, "publish_sum", late(shim.publish_sum))

    def choose(forward, backward):
        chosen = Plan("persistent", forward, backward, "this test's")
        monkeypatch.setattr(kernel_module, "plan", lambda *_, **__: chosen)

    return choose


@pytest.mark.parametrize("precision", PRECISIONS)
def test_blocks_that_are_late_change_no_bit(uneven, monkeypatch, precision):
    uneven(Partition(1, 1, 1, 2, 1, 2), Partition(1, 1, 2, 4, 1, 2, 0, 2))
    problem = Problem("lstm", precision, mask="both", T=4, B=2, H=12)
    found = problem.check()
    monkeypatch.setattr(shim, "publish", twins.publish)
    monkeypatch.setattr(shim, "publish_sum", twins.publish_sum)
    wanted = problem.run()
    assert all(value.tobytes() == wanted[name].tobytes() for name, value in found.items())


def test_a_block_that_never_comes_is_an_error(uneven, monkeypatch):
    uneven(Partition(1, 1, 1, 2, 1, 1), Partition(1, 1, 4, 2, 1, 1))
    monkeypatch.setattr(product, "MOST_LOOKS", 50)
    monkeypatch.setattr(shim, "publish", lambda p, i, word: None if twins.block() else twins.publish(p, i, word))
    with pytest.raises(RuntimeError, match="waited in vain"):
        Problem("elman_tanh", "tf32", T=2, B=1, H=12).run()


def test_calls_with_one_ring_go_on_from_turn_to_turn(monkeypatch):
    """With a ring that an earlier call has used, odd and even turns: nothing of it is taken for the call's own."""
    partition = Partition(1, 1, 1, 2, 1, 2)
    kept = ring(partition)
    monkeypatch.setattr(kernel_module.persistent, "ring", lambda _: kept)
    chosen = Plan("persistent", partition, Partition(1, 1, 1, 2, 1, 2), "this test's")
    monkeypatch.setattr(kernel_module, "plan", lambda *_, **__: chosen)
    problem = Problem("elman_tanh", "float32", T=3, B=2, H=12)
    first = problem.run(train=False)
    for calls in range(2, 5):
        again = problem.run(train=False)
        assert all(value.tobytes() == again[name].tobytes() for name, value in first.items())
        assert kept[2 * partition.slot_words] == 3 * calls
