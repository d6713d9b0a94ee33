"""Sequences longer than memory: the bits of the plain pass, for every cell, mask and direction; and what it saves."""

from __future__ import annotations

import numpy as np
import pytest
from registry import DTYPES, ISAS, KINDS, Case, assert_same, assert_same_bits, spread, swap

from rnnfast import LSTM, TBPTT, Dense, Model, _recompute, losses, optim, section_steps
from rnnfast._recompute import round_up

B, T = 2048, 20  # rows so many that 8 steps are a quarter of a section of the gradients' sums
MASKS = ("none", "lengths", "resets", "both", "mask", "all")


def calls(case, recompute=None, memory=None, seed=5, **more):
    """All that forward and backward return, and the tape's bytes."""
    data, layer = case.data, case.layer(**more)
    masks = {
        name: array if name in ("lengths", "reset_state") else swap(case, array) for name, array in data.masks.items()
    }
    given = {n: {k: swap(case, a) for k, a in one.items()} for n, one in data.extra.items()}
    x, dy = swap(case, data.x), swap(case, data.dy)
    options = {"num_threads": case.threads, "seed": seed, "first_step": 3}
    y, state, tape = layer.forward(x, data.state, **masks, **given, **options, recompute=recompute, memory=memory)
    grads = layer.backward(tape, dy, data.dstate, num_threads=case.threads)
    flat = np.array(grads.params.flat)
    return {
        "y": y,
        "state": state,
        "x": grads.x,
        "dstate": grads.state,
        "params": flat,
        "given": grads.given,
        "reset": grads.reset_state,
        "bytes": tape.nbytes,
    }


def assert_equal(found, plain):
    for name in plain.keys() - {"bytes"}:
        assert_same(found[name], plain[name])


@pytest.mark.parametrize(("kind", "mask"), spread(MASKS))
def test_the_bits_of_the_plain_pass(kind, mask):
    number = KINDS.index(kind)
    directions = 1 + (number + MASKS.index(mask)) % 2
    case = Case(
        kind=kind,
        isa=ISAS[-1],
        dtype=DTYPES[number % 2],
        bidirectional=directions == 2,
        num_layers=1 + number % 2,
        bias=number % 4 > 0,
        batch_first=number % 3 == 1,
        mask=mask,
        threads=1 + number % 2,
        H=(7, 17, 1, 16, 3)[number % 5],
        I=3,
        T=T,
        B=B,
    )
    plain, found = calls(case), calls(case, 8)
    assert found["bytes"] < plain["bytes"]
    assert_equal(found, plain)


@pytest.mark.parametrize("kind", ["lstm", "gru_after", "elman_tanh", "indrnn", "gru_before"])
@pytest.mark.parametrize("reverse", [False, True])
def test_random_masks_ids_and_an_input_without_gradient(kind, reverse):
    """Dropout between layers, zoneout and recurrent dropout are drawn once, however often a step is computed."""
    case = Case(kind, ISAS[-1], num_layers=2, mask="both", ids=True, H=16, I=5, T=T, B=B)
    options = {"dropout": 0.3, "zoneout": {"h": 0.2} if kind == "slstm" else 0.2, "reverse": reverse}
    options |= {"recurrent_dropout": 0.25} if kind != "indrnn" else {}
    assert_equal(calls(case, 8, seed=None, **options), calls(case, seed=None, **options))


@pytest.mark.parametrize(
    ("kind", "directions", "layers"), [("lstm", 1, 2), ("lstm", 2, 1), ("lru", 1, 1), ("lru", 2, 2)]
)
def test_auto_stays_within_its_memory(kind, directions, layers):
    """Less and less memory: no level, one, two; then an error that says how much is needed."""
    sizes = {"num_layers": layers, "H": 16, "I": 3, "T": 80, "B": B}
    case = Case(kind, ISAS[-1], bidirectional=directions == 2, mask="all", **sizes)
    plain = calls(case)
    assert calls(case, "auto", plain["bytes"] + 2**22)["bytes"] <= plain["bytes"]
    with pytest.raises(ValueError, match=r"at least \d+ bytes for T=80, B=2048, got 1$") as error:
        calls(case, "auto", 1)
    least = int(str(error.value).split()[4])
    assert least < plain["bytes"] / 2
    for memory in ((plain["bytes"] + least) // 2, (plain["bytes"] + 7 * least) // 8, least):
        found = calls(case, "auto", memory)
        assert found["bytes"] <= memory
        assert_equal(found, dict(plain))
    with pytest.raises(ValueError, match=f"at least {least} bytes"):
        calls(case, "auto", least - 1)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "augru", "elman_relu"])
def test_segments_of_a_stack_keep_nothing_of_the_sequence_s_length(kind, ids):
    """Three layers: what goes from layer to layer is in the segment; extra inputs and ids go to all or the first."""
    options = {"num_layers": 3, "H": 16, "I": 3, "B": B, "mask": "both", "ids": ids}
    short, long = (Case(kind, ISAS[-1], T=steps, **options) for steps in (24, 48))
    for case in (short, long):
        assert_equal(calls(case, 8), calls(case))
    states = 6 * B * 16 * 4 * 2 * (2 if kind == "lstm" else 1)
    assert calls(long, 8)["bytes"] - calls(short, 8)["bytes"] < states + 2**16


@pytest.mark.parametrize(("recompute", "reverse"), [(8, False), (16, True), (32, False), (64, True), (8, True)])
def test_segments_of_several_sections(recompute, reverse):
    """What rounding leaves of a bias goes on from segment to segment, within a section of 32 steps and no further."""
    case = Case("lstm", ISAS[-1], H=5, I=3, T=76, B=B, mask="both")
    assert section_steps(B) == 32
    assert_equal(calls(case, recompute, reverse=reverse), calls(case, reverse=reverse))


@pytest.mark.parametrize("reverse", [False, True])
def test_segments_of_segments(reverse):
    case = Case("gru_before", ISAS[-1], num_layers=1 + reverse, H=5, I=3, T=108, B=B, mask="both")
    plain = calls(case, reverse=reverse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_recompute, "_candidates", lambda steps, batch: [(64, 8)])
        assert_equal(calls(case, "auto", 2**30, reverse=reverse), plain)


@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (5, 0), (0, 0), (1, 1), (600, 1), (8, B)])
def test_few_steps_and_no_rows(steps, rows):
    case = Case("lstm", ISAS[-1], H=3, I=2, T=steps, B=rows)
    plain = calls(case)
    for found in (calls(case, 1), calls(case, "auto", 2**24)):
        assert_equal(found, dict(plain))


@pytest.mark.parametrize("batch", [1, 3, 8, 100, 512, 1000])
def test_segments_are_whole_sections_or_a_half_or_a_quarter(batch):
    section = section_steps(batch)
    for steps in (1, 7, 511, 513, section // 2, section // 2 + 1, section + 1):
        rounded = round_up(steps, batch)
        assert rounded >= steps
        assert rounded in (section // 4, section // 2) or rounded % section == 0
        assert rounded in (section // 4, section // 2, section) or rounded - steps < section


@pytest.mark.parametrize("steps", [0, 1, 2048, 2049, 4097, 10_000, 100_000])
def test_candidates_reach_down_to_a_quarter(steps):
    found = list(_recompute._parts(steps, 8))
    assert found == sorted(set(found), reverse=True)
    assert all(0 < length < steps and round_up(length, 8) == length for length in found)
    assert (2048 in found) == (steps > 2048)
    assert (4096 in found) == (steps > 4096)


def test_a_tape_is_used_again_with_and_without():
    case = Case("lstm", ISAS[-1], H=8, I=3, T=40, B=B)
    layer, data = case.layer(), case.data
    plain = layer.backward(layer.forward(data.x)[2], data.dy).params.flat
    tape = None
    for recompute in (8, None, 16, 24):
        tape = layer.forward(data.x, tape=tape, recompute=recompute)[2]
        assert_same_bits(np.array(layer.backward(tape, data.dy).params.flat), np.array(plain))


@pytest.mark.parametrize("k2", [16, 40])
def test_truncated_backpropagation(k2):
    """Weights, states and losses of a trainer, with the same draws of dropout."""

    def trained(**options):
        layer = LSTM(3, 8, 2, dropout=0.2, rng=0)
        model = Model(rnn=layer, head=Dense(8, 2, rng=1))
        trainer = TBPTT(model, losses.mean_squared_error, optim.Adam(model.params), k1=16, k2=k2, **options)
        rng = np.random.default_rng(0)
        x, target = (rng.standard_normal((60, B, n)).astype(np.float32) for n in (3, 2))
        lengths = rng.integers(0, 61, B)
        results = list(trainer.run(x, target, lengths=lengths))
        return np.array(model.params.flat), [one.loss for one in results], trainer.state

    plain = trained()
    assert_same(trained(recompute=8), plain)
    assert_same(trained(recompute="auto", memory=40_000_000), plain)


def test_what_a_model_is_told_reaches_its_layers():
    x = np.random.default_rng(0).standard_normal((64, B, 3)).astype(np.float32)

    def run(**options):
        model = Model(a=LSTM(3, 8, rng=0), b=LSTM(8, 8, rng=1), head=Dense(8, 2, rng=2))
        y, _, tape = model.forward(x, **options)
        held = tape.nbytes
        return held, np.array(model.backward(tape, np.ones_like(y)).params.flat)

    (whole, expected), (some, found) = run(), run(recompute=8)
    assert some < whole
    assert_same_bits(found, expected)
    with pytest.raises(ValueError, match="memory: expected at least"):
        run(recompute="auto", memory=1000)


BAD = [
    ({"recompute": 0}, ValueError, "recompute: expected an integer of at least 1, got 0"),
    ({"recompute": 2.5}, TypeError, "recompute: expected an integer, got float 2.5"),
    ({"recompute": "all"}, ValueError, "recompute: expected an integer or 'auto', got 'all'"),
    ({"recompute": "auto"}, ValueError, "memory: expected the bytes that the tape may have"),
    ({"recompute": "auto", "memory": -1}, ValueError, "memory: expected an integer of at least 1, got -1"),
    ({"recompute": 8, "memory": 1000}, ValueError, "memory: expected None unless recompute='auto', got int 1000"),
    ({"memory": 1000}, ValueError, "memory: expected None unless recompute='auto', got int 1000"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments(options, error, message):
    """They are refused before anything is written, and a trainer refuses them at once."""
    layer, x = LSTM(3, 4, 2, dropout=0.5, rng=0), np.zeros((3, 2, 3), np.float32)
    model = Model(rnn=LSTM(3, 4, 2, dropout=0.5, rng=0))
    tape, whole = layer.forward(x)[2], model.forward(x)[2]
    before = layer.rng.bit_generator.state, model.rng_state()
    with pytest.raises(error, match=message):
        layer.forward(x, tape=tape, **options)
    with pytest.raises(error, match=message):
        model.forward(x, tape=whole, **options)
    with pytest.raises(error, match=message):
        TBPTT(layer, losses.mean_squared_error, optim.SGD(layer.params, 0.1), k1=3, **options)
    assert before == (layer.rng.bit_generator.state, model.rng_state())
    layer.backward(tape, np.zeros((3, 2, 4), np.float32))
    model.backward(whole, np.zeros((3, 2, 4), np.float32))
