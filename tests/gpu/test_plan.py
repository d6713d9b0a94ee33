"""The planner: whatever it says must cover the layer and be resident at once."""

from __future__ import annotations

import pytest

from rnnfast.cuda import shim
from rnnfast.cuda.plan import MOST_BYTES, PRECISIONS, ROWS_LEFT, WEIGHTS_LEFT, plan, stored_at_once
from rnnfast.cuda.sequence import CELLS

DEVICES = {16: 101376, 108: 166912, 132: 232448, 148: 232448}
"""Multiprocessors, and the bytes of shared memory of a block: a small one, A100, H200, B200."""


def partitions(kind, hidden, batch, precision, multiprocessors):
    """The partitions of a plan with what they have to cover: length of K, and tiles; and whether backward."""
    shared = DEVICES[multiprocessors]
    found = plan(kind, hidden, batch, precision, multiprocessors=multiprocessors, shared_bytes=shared)
    if found.engine == "persistent":
        cell = CELLS[kind]
        yield found.forward, hidden, cell.gates, False
        yield found.backward, len(cell.recurrent) * hidden, 1, True


@pytest.mark.parametrize("multiprocessors", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["lstm", "gru_after", "elman_tanh"])
def test_every_plan_covers_the_layer_and_is_resident(kind, precision, multiprocessors):
    count = 0
    for hidden in [*range(1, 66), *range(68, 2049, 36), 100, 128, 256, 512, 768, 1000, 1024, 2048]:
        for batch in (1, 2, 16, 17, 33, 64, 127, 128, 129, 256, 1000):
            for part, length, tiles, backward in partitions(kind, hidden, batch, precision, multiprocessors):
                count += 1
                assert part.length >= length
                assert part.blocks == part.sets * part.parts
                assert part.units * part.sets >= hidden
                assert part.orientation == (WEIGHTS_LEFT if part.blocks == 1 else ROWS_LEFT)
                assert part.parts == 1 or (backward and part.units >= 8 * part.parts)
                assert part.threads % (part.units // part.parts) == 0
                assert part.stored % stored_at_once(tiles) == 0
                assert part.blocks == 1 or part.stored == 0
                assert part.rows * (part.groups - 1) < batch <= part.rows * part.groups
                reads = part.rows * (length // part.parts) * 4
                assert part.blocks == 1 or part.blocks * part.groups * reads <= MOST_BYTES
                assert part.blocks * part.groups <= multiprocessors
                assert part.threads <= 256
                assert part.threads * part.parts <= 64 * part.units  # a row and its unit are kept in one word
                shared = part.shared_bytes(tiles, precision, backward=backward)
                assert shared <= (DEVICES[multiprocessors] if part.stored else shim.UNASKED_SHARED)
                assert part.words(tiles, precision) <= 128
    assert count > 500


@pytest.mark.parametrize("multiprocessors", [108, 132, 148])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["lstm", "gru_after", "elman_tanh"])
def test_up_to_128_units_are_one_block(kind, precision, multiprocessors):
    for hidden in range(1, 129):
        for batch in (1, 16, 64):
            found = list(partitions(kind, hidden, batch, precision, multiprocessors))
            assert len(found) == 2
            for part, *_ in found:
                assert part.blocks == 1
                # An element of a step for each thread that finishes.
                assert part.rows == 1 or part.rows * part.units <= part.threads
    assert all(part.blocks > 1 for part, *_ in partitions(kind, 129, 16, precision, multiprocessors))


def test_what_registers_do_not_hold_of_one_block_lies_in_shared_memory():
    for precision, forward, backward in (("tf32", (4, 4), (16, 16)), ("bfloat16", (8, 0), (32, 0))):
        found = plan("lstm", 128, 16, precision, multiprocessors=132)
        assert (found.forward.fragments, found.forward.stored) == forward
        assert (found.backward.fragments, found.backward.stored) == backward
    found = plan("gru_after", 128, 16, multiprocessors=132)
    assert (found.backward.fragments, found.backward.stored) == (16, 8)
    assert plan("elman_tanh", 128, 16, multiprocessors=132).forward.stored == 0


def test_where_one_block_does_not_fit_there_are_several():
    # The stored weights and the sums of four gates are 158 KB.
    for shared, blocks in ((161808, 1), (161807, 16)):
        found = plan("lstm", 128, 16, "tf32", multiprocessors=108, shared_bytes=shared)
        assert (found.forward.blocks, found.backward.blocks) == (blocks, 1)
    assert plan("lstm", 128, 16, "tf32", multiprocessors=108, shared_bytes=48 * 1024).backward.blocks == 16


def test_groups_share_the_batch_where_there_is_room():
    found = plan("lstm", 256, 64, "tf32", multiprocessors=132)
    assert (found.forward.blocks, found.forward.groups, found.forward.rows) == (32, 4, 16)


def test_blocks_split_k_in_sets_where_the_step_is_the_shorter_for_it():
    found = plan("lstm", 1024, 64, "tf32", multiprocessors=132)
    # 16 sets, of 64 units and 8 blocks: 25 MB in place of 134, and the registers of one block of 8 units.
    assert (found.backward.sets, found.backward.parts, found.backward.units) == (16, 8, 64)
    assert found.backward.fragments * 4 == 128
    assert found.forward.parts == 1
    assert plan("lstm", 1024, 128, "tf32", multiprocessors=132).engine == "persistent"
    # 2 MB are 0.4 us, and a second hand-over 1.25.
    assert plan("lstm", 256, 16, "tf32", multiprocessors=132).backward.parts == 1


@pytest.mark.parametrize(("kind", "hidden", "batch"), [("gru_before", 64, 8), ("lstm", 2048, 8), ("lstm", 1024, 256)])
def test_what_does_not_fit_goes_step_by_step_and_says_why(kind, hidden, batch):
    found = plan(kind, hidden, batch, multiprocessors=132)
    assert found.engine == "stepwise"
    assert found.forward is None
    assert found.backward is None
    assert {"gru_before": "two products", "lstm": "units" if batch == 8 else "MB"}[kind] in found.reason


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gru", 8, 1), "kind: expected one of elman_tanh, .* got 'gru'"),
        (("lstm", 8, 1, "fp16"), "precision: expected one of float32, tf32, bfloat16, got 'fp16'"),
        (("lstm", 0, 1), "hidden_size: expected an integer of at least 1, got 0"),
        (("lstm", 8, -1), "batch_size: expected an integer of at least 1, got -1"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        plan(*arguments, multiprocessors=132)


def test_without_a_device_the_number_of_multiprocessors_must_be_given(monkeypatch):
    monkeypatch.setattr(shim, "available", lambda: False)
    with pytest.raises(RuntimeError, match="multiprocessors: expected a number where there is no CUDA device"):
        plan("lstm", 64, 1)
