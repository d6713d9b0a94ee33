"""The benchmark suite: every row's answers on small variants, what selects rows, what is said, saved and drawn.

No test here depends on how long anything took.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Dict, List  # noqa: UP035  (what TorchScript reads)

import numpy as np
import pytest

pytest.importorskip("click", reason="needs the extra cli")
pytest.importorskip("tqdm", reason="needs the extra cli")
pytest.importorskip("safetensors", reason="needs the extra cli")

from click.testing import CliRunner

from rnnfast.bench import core, described, measure, memory, ours, peers, report, rows, work
from rnnfast.bench.core import Need, WrongAnswer
from rnnfast.bench.rows import FMA, GROUPS, READ, ROWS, Row, plan, select
from rnnfast.bench.work import CLIP, LEARNING_RATE, Contestant, Work
from rnnfast.cli.app import app
from rnnfast.cli.train import Settings


def tiny(row):
    """The same row, so small that it takes no time."""
    sizes = {"T": min(row.T, 6), "B": min(row.B, 3), "I": min(row.I, 5), "H": min(row.H, 8)}
    return replace(row, **sizes, of=row.of and tiny(row.of))


def kinds():
    """One row of each group, cell, work and label of memory; in the group scaling, of each group that it is about."""
    found = {}
    for row in ROWS:
        key = row.group, row.cell, row.work, row.unit == "B" and row.label, row.of and row.of.group
        found.setdefault(key, tiny(row))
    return list(found.values())


KINDS = kinds()
torch = None
if find_spec("torch"):
    import torch
    from torch import Tensor
    from torch.nn.functional import linear

    States = List[Tensor]  # noqa: UP006
    Params = Dict[str, Tensor]  # noqa: UP006
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is the group's oracle, and is not installed")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(core, "TURN", 1e-9)
    monkeypatch.setattr(measure, "PAUSE", 0.0)


@pytest.fixture
def table(monkeypatch):
    """Few and small rows in the table's place."""
    found = tuple(row for row in KINDS if row.group in ("forward", "training", "scaling") and row.cell == "gru")
    monkeypatch.setattr(rows, "ROWS", found)
    return found


@pytest.fixture
def no_peers(monkeypatch):
    for module in ("torch", "onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)


def run(*arguments, code=0):
    """The output of `rnnfast bench`, which must end with this code and without a traceback."""
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)], prog_name="rnnfast")
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.output


# Rows


@pytest.mark.parametrize(
    "row", [row for row in KINDS if row.label != "peak" and row.group != "cells"], ids=lambda row: row.name
)
def test_every_row_answers_right_and_is_measured(row):
    """`measure` raises if an answer of ours or of an installed peer is not the oracle's."""
    result = measure.measure(row, 2 if row.group in ("scaling", "python-threads") else 1, 1)
    assert set(measure.columns(row)) <= set(result.samples)
    assert all(value > 0 for values in result.samples.values() for value in values)
    assert result.errors["ours"] < (0.05 if "bf16" in result.row.name else 1e-4)
    assert (result.fraction is None) == (row.ceiling is None)
    asked = [need for need in row.needs if not need.above or result.other(need) >= need.above]
    assert len(result.verdicts) == len(asked)
    line = list(report.Table([row]).lines(result))[-1]
    assert line.startswith(row.name)
    assert result.mark in line


# Described cells


@pytest.fixture
def quickly(monkeypatch):
    """Nothing is compiled: that takes seconds for each row."""
    from rnnfast.bench import torch_cells

    monkeypatch.setitem(torch_cells.STEPS, "PyTorch compiled", lambda step: step)
    return torch_cells


# Of each cell's kinds of row one, in turn.
CELL_ROWS = [row for row in KINDS if row.group == "cells"]
CELL_ROWS = [row for n, row in enumerate(CELL_ROWS) if n % 3 == n // 3 % 3]


@needs_torch
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("row", CELL_ROWS, ids=lambda row: row.name)
def test_described_cells_answer_right_and_are_measured(quickly, row):
    result = measure.measure(row, 1, 1)
    # What PyTorch can't run (TorchScript, some derivatives) is said; the loop itself always runs.
    absent = [name for name in measure.columns(row) if name not in result.errors]
    assert all(any(f"{name} does not run here" in note for note in result.notes) for name in absent)
    assert set(absent) <= {"PyTorch scripted", "PyTorch compiled"}
    assert result.errors["ours"] < 1e-4
    assert len(result.verdicts) == len(row.needs)
    assert all(verdict.ratio is not None for verdict in result.verdicts)


def toy(x: Tensor, state: States, p: Params, given: States) -> States:
    """The GRU that resets before its product."""
    h = state[0]
    H = h.shape[-1]
    from_x = linear(x, p["weight_ih"], p["bias_ih"])
    gates = from_x[..., : 2 * H] + linear(h, p["weight_hh"][: 2 * H], p["bias_hh"][: 2 * H])
    r, z = gates.sigmoid().chunk(2, -1)
    n = (from_x[..., 2 * H :] + linear(r * h, p["weight_hh"][2 * H :], p["bias_hh"][2 * H :])).tanh()
    return [n + z * (h - n)]


@pytest.fixture
def cells(monkeypatch, quickly):
    """Described cells of layers that have hand-fused kernels: one of each kind."""
    for name in ("toy", "flat"):
        monkeypatch.setattr(quickly, name, toy if name == "toy" else quickly.gru, raising=False)
    table = {
        "toy": described.Described("GRU", {"reset_after": False}, "gated"),
        "flat": described.Described("GRU", {}, "diagonal"),
        "lstm": described.DESCRIBED["lstm"],
    }
    monkeypatch.setattr(rows, "DESCRIBED", table)
    monkeypatch.setattr(measure, "DESCRIBED", table)
    for name, found in table.items():
        monkeypatch.setitem(described.DESCRIBED, name, found)
    found = {(row.cell, row.work): tiny(row) for row in rows._described()}
    assert len(found) == 9
    return found


@needs_torch
@pytest.mark.parametrize("work", ["step", "forward", "training"])
@pytest.mark.parametrize("cell", ["toy", "flat", "lstm"])
def test_described_cells(cells, cell, work):
    row = cells[cell, work]
    result = measure.measure(row, 1, 1)
    torch_columns = ["PyTorch loop", "PyTorch compiled", "PyTorch scripted"]
    product = ["input product"] if work != "step" else []
    variants = {"toy": torch_columns, "flat": [*product, *torch_columns], "lstm": ["fused"]}[cell]
    assert list(result.errors) == ["ours", "our LSTM", *variants]
    assert max(result.errors.values()) < 1e-5
    assert ("one pass" in result.samples) == (cell == "flat" and work != "step")
    assert [verdict.need for verdict in result.verdicts] == {
        "toy": [*(["85% of our LSTM's rate"] if work != "step" else []), "20x best peer"],
        "flat": [*(["1x input product and 1.5 passes"] if work != "step" else []), "20x best peer"],
        "lstm": ["67% of fused"] if work == "step" else [],
    }[cell]
    line = list(report.Table([row]).lines(result))[-1]
    assert " GFLOP/s, our LSTM " in line
    assert ("PyTorch scripted after " in line) == (cell != "lstm")


@needs_torch
def test_needs_of_described_cells(cells):
    """The rate counts FLOP: the GRU has three quarters of the LSTM's."""
    samples = {"ours": [0.75], "our LSTM": [1.0], "PyTorch loop": [20.0], "PyTorch compiled": [30.0]}
    result = measure.Result(cells["toy", "forward"], samples, {"ours": 0.0})
    assert [verdict.ratio for verdict in result.verdicts] == [pytest.approx(1.0), pytest.approx(20 / 0.75)]
    assert [verdict.reached for verdict in result.verdicts] == [True, None]  # the scripted one might be faster
    samples = {"ours": [2.4], "our LSTM": [1.0], "input product": [1.0], "one pass": [1.0], "PyTorch loop": [20.0]}
    result = measure.Result(cells["flat", "forward"], samples, {"ours": 0.0})
    assert [verdict.reached for verdict in result.verdicts] == [True, False]
    assert result.verdicts[0].ratio == pytest.approx(2.5 / 2.4)


@needs_torch
def test_a_compiler_that_fails_is_said(cells, quickly, monkeypatch):
    def fail(step):
        raise RuntimeError("no C++\n compiler")

    monkeypatch.setitem(quickly.STEPS, "PyTorch compiled", fail)
    result = measure.measure(cells["toy", "forward"], 1, 1)
    assert "PyTorch compiled" not in result.samples
    assert "PyTorch compiled does not run here: RuntimeError: no C++ compiler" in result.notes
    with pytest.raises(work.Unavailable):
        measure.contestants(cells["toy", "forward"], 1, ["PyTorch compiled"])


@needs_torch
def test_a_described_cell_that_is_wrong_is_not_timed(cells, quickly, monkeypatch):
    monkeypatch.setattr(quickly, "toy", lambda x, state, p, given: [one * 0.999 for one in toy(x, state, p, given)])
    with pytest.raises(WrongAnswer, match=r"cells/toy/training/.*: ours: error .* in y"):
        measure.measure(cells["toy", "training"], 1, 1)


def test_described_cells_need_pytorch(monkeypatch):
    monkeypatch.setattr(rows, "find_spec", lambda name: None)
    assert not any(row.group == "cells" for row, _ in plan((), (1, 2)))
    with pytest.raises(ValueError, match="row: the group cells needs PyTorch"):
        plan(["cells/lstm"], (1,))


def test_the_table_of_described_cells():
    """Every cell has its five rows, and they have targets."""
    for name, found in described.DESCRIBED.items():
        mine = [row for row in ROWS if row.group == "cells" and row.cell == name]
        sizes = {(row.work, row.B, row.H) for row in mine}
        assert sizes == {("step", 1, 64), *((work, 32, H) for work in ("forward", "training") for H in (128, 256))}
        assert all(row.needs for row in mine) or found.kind == described.INTERPRETED


def test_every_described_cell_has_a_step_in_pytorch():
    """The steps can be imported without PyTorch, as all of the package can."""
    script = "import sys; sys.modules['torch'] = None\nfrom rnnfast.bench import described, torch_cells\n"
    script += "print(all(callable(getattr(torch_cells, name)) for name in described.DESCRIBED))"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_weights_in_bfloat16_err_more_than_float32():
    row = next(row for row in KINDS if row.group == "step-bf16")
    errors = measure.measure(row, 1, 1).errors
    assert errors["ours"] > 1e-5 > errors["float32 step"]


@pytest.mark.skipif(
    sys.platform == "win32", reason="resident memory is read from /proc or resource, which Windows lacks"
)
def test_peak_memory_is_that_of_the_call():
    """An array of 64 x 1024 gates' gradients and more must show, the interpreter itself must not."""
    found = memory.in_fresh_process(Row("memory", "lstm", 64, 16, 32, 256), "ours")
    assert 64 * 16 * 256 * 4 * 4 < found < 100e6


def test_a_process_that_fails_says_why():
    with pytest.raises(ChildProcessError, match="memory/lstm: nobody: KeyError: 'nobody'"):
        memory.in_fresh_process(Row("memory", "lstm", 2, 2, 2, 2), "nobody")


def test_tape_bytes_leave_out_backwards_scratch():
    work = Work(tiny(next(row for row in ROWS if row.group == "memory")))
    _, _, tape = work.layer.forward(work.x)
    assert ours.tape_bytes(work) == tape.nbytes


def test_the_character_row_is_the_command_lines_default():
    default = Settings()
    for row in select(["characters"]):
        assert (default.window, default.batch_size, default.hidden) == (row.T, row.B, row.H)
    assert (default.layers, default.lr, default.clip) == (1, LEARNING_RATE, CLIP)
    assert default.truncation in (None, default.window)


def test_names():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.group for row in ROWS} == set(GROUPS) == set(ours.OURS) | {"scaling"}
    assert set(peers.PEERS) <= set(GROUPS)
    assert select() == list(ROWS)
    assert {row.group for row in select(["step"])} == {"step"}
    assert {(row.group, row.cell) for row in select(["forward/lstm"])} == {("forward", "lstm")}
    assert [row.name for row in select(["process/gru/64", "ragged*"])] == [
        "process/gru/64",
        "ragged/lstm",
        "ragged/gru",
        "ragged/rnn",
    ]
    assert {row.cell for row in select(["*/gru", "*/gru/*"])} == {"gru"}
    for name in ("nonsense", "forward/ls", "", "/"):
        with pytest.raises(ValueError, match=r"^row: expected a name, .*groups: step, step-bf16, .*; got '"):
            select([name])


def test_threads_of_a_plan():
    assert {count for row, count in plan(["forward", "step"], (1, 2, 1))} == {1, 2}
    assert not any(row.group == "scaling" for row, _ in plan((), (2,)))
    assert {count for row, count in plan((), (1, 2)) if row.group == "scaling"} == {2}
    assert {count for row, count in plan(["python-threads", "memory"], (3,))} == {1, 2}
    for names in (["scaling"], ["scaling/step", "forward"], ["*ling*"]):
        with pytest.raises(ValueError, match="threads: expected both 1 and 2 for the group scaling, got 2"):
            plan(names, (2,))


def test_flop_and_bytes():
    row = Row("forward", "lstm", 10, 3, 5, 7)
    assert row.flop == 2 * 4 * 7 * (5 + 7) * 30
    assert replace(row, group="training").flop == 3 * row.flop
    ragged = replace(row, group="ragged")
    assert ragged.flop == 3 * row.flop * ragged.lengths.sum() / 30
    assert replace(row, group="step", T=1, B=1).weight_bytes == 4 * 4 * 7 * 12
    assert replace(row, group="step-bf16", T=1, B=1).weight_bytes == 2 * 4 * 7 * 12
    assert replace(row, group="step", T=1, B=1).bytes_read == 4 * 4 * 7 * 12
    one = replace(row, B=1)
    assert (one.stepwise_bytes, one.bytes_read) == (4 * 4 * 7 * 7, 4 * 4 * 7 * (5 + 7 * 10))
    assert (one.ceiling, row.ceiling, replace(one, group="training").ceiling) == (READ, FMA, FMA)


# Measuring


def test_contestants_take_turns():
    order = []

    def loop(name):
        return lambda n: order.append((name, n))

    samples = core.alternate({"a": loop("a"), "b": loop("b")}, {"c": lambda: 7.0}, 9)
    assert samples["c"] == 9 * [7.0]
    assert [len(values) for values in samples.values()] == [9, 9, 9]
    turns = [(order[i], order[i + 1]) for i in range(len(order) - 36, len(order), 2)]
    for first, second in turns:
        assert first == (second[0], 1)  # not counted
    rounds = ["".join(turns[i][0][0] + turns[i + 1][0][0]) for i in range(0, 18, 2)]
    assert set(rounds) == {"ab", "ba"}


def test_long_rows_have_fewer_rounds(monkeypatch):
    monkeypatch.setattr(core, "BUDGET", 0.0)
    assert len(core.alternate({"a": lambda n: None}, {}, 9)["a"]) == 3
    assert len(core.alternate({"a": lambda n: None}, {}, 2)["a"]) == 2


def wrong(work, threads):
    def loop(n):
        raise AssertionError("timed")

    return Contestant(work, loop, lambda: {"y": work.want["y"] * np.float32(1.001)})


@pytest.mark.parametrize("name", ["NumPy", "ours"])
def test_a_wrong_answer_is_not_timed(monkeypatch, table, name):
    makers = ours.OURS if name == "ours" else peers.PEERS
    monkeypatch.setitem(makers["forward"], name, wrong)
    with pytest.raises(WrongAnswer, match=rf"forward/gru/.*: {name}: error 1.0e-03 in y, at most .*; not timed"):
        measure.measure(table[0], 1, 1)
    assert f"Error: {table[0].name}: {name}: error 1.0e-03 in y" in run("forward", code=1)


@pytest.mark.parametrize("answer", [{"y": np.zeros(3)}, {}, {"y": np.zeros((6, 1, 8)), "dx": np.zeros(1)}])
def test_an_answer_of_another_shape_is_wrong(monkeypatch, table, answer):
    monkeypatch.setitem(peers.PEERS["forward"], "NumPy", lambda work, _: Contestant(work, print, lambda: answer))
    with pytest.raises(WrongAnswer, match="expected the arrays"):
        measure.measure(table[0], 1, 1)


def test_nan_is_wrong(monkeypatch, table):
    def maker(work, threads):
        return Contestant(work, print, lambda: {"y": work.want["y"] * np.nan})

    monkeypatch.setitem(peers.PEERS["forward"], "NumPy", maker)
    with pytest.raises(WrongAnswer, match="error inf"):
        measure.measure(table[0], 1, 1)


# Verdicts


def result(needs, **samples):
    row = replace(select(["forward/lstm/T100-B32-I64-H128"])[0], needs=tuple(needs))
    return measure.Result(row, {name.replace("_", " "): [value] for name, value in samples.items()}, {"ours": 0.0})


def test_verdicts():
    all_peers = {"PyTorch": 6.0, "ONNX_Runtime": 3.0, "NumPy": 9.0}
    assert result([Need("best peer", 3)], ours=1.0, **all_peers).mark == "ok"
    assert result([Need("best peer", 3)], ours=1.1, **all_peers).mark == "SHORT"
    assert result([Need("PyTorch", 6)], ours=1.0, **all_peers).mark == "ok"
    assert result([Need("PyTorch", 6)], ours=1.0, NumPy=9.0).mark == "open"
    assert result([Need("best peer", 3)], ours=1.0, NumPy=9.0).mark == "open"  # PyTorch might be faster
    assert result([Need("best peer", 3)], ours=1.0, NumPy=2.0).mark == "SHORT"
    assert result([Need("limit", 1, seconds=1.0)], ours=1.1).mark == "SHORT"
    assert result([Need("FMA peak", 0.8)], ours=1.0, FMA_peak=0.8).mark == "ok"
    assert result([], ours=1.0).mark == "-"
    large = [Need("one thread", 1.7, above=5e-3)]
    assert result(large, ours=1.0, one_thread=1.5).mark == "SHORT"
    assert result(large, ours=1e-3, one_thread=1.5e-3).mark == "-"
    best = result([], ours=2.0, FMA_peak=1.0, **all_peers)
    assert (best.ratio, best.fraction, best.best_peer) == (1.5, 0.5, 3.0)


def test_a_sentence_to_quote():
    found = report.facts(3) | {"CPU": "Some CPU (x86_64), 2 usable", "rnnfast": "1.2", "NumPy": "2.1", "PyTorch": "2.9"}
    assert next(iter(report.facts(3))) == "CPU"
    assert report.sentence(found, []) == report.sentence(found, [result([], ours=1.0)]) == ""
    one = result([], ours=1.0, NumPy=3.0)
    assert report.sentence(found, [one]) == (
        "On Some CPU (x86_64), 2 usable, with 1 thread, rnnfast 1.2 is 3.0 times as fast as NumPy 2.1 (one row)."
    )
    several = [one, result([], ours=1.0, NumPy=9.0, PyTorch=2.0), result([], ours=2.0, PyTorch=20.0)]
    assert report.sentence(found, several) == (
        "On Some CPU (x86_64), 2 usable, with 1 thread, rnnfast 1.2 is 3.0 times as fast as the fastest of "
        "PyTorch 2.9 and NumPy 2.1 (the median of 3 rows, which go from 2.0 to 10.0)."
    )


def test_the_distance_of_cores_is_shown_where_it_was_measured():
    near, far = result([], ours=1.0), result([], ours=1.0, from_core_to_core=2.12e-7)
    assert (near.apart, far.apart) == (0.0, 2.12e-7)
    for one, shown in ((near, False), (far, True)):
        assert ("cores 212 ns apart" in list(report.Table([one.row]).lines(one))[-1]) == shown
        assert ("cores apart: " in report.summary([one])) == shown
    for ceiling in (READ, FMA, None):
        row = next(row for row in ROWS if row.ceiling == ceiling)
        own = {ceiling} - {None}
        assert set(measure._probes(row, 1)) == own
        assert set(measure._probes(row, 2)) == own | {measure.APART}


# The command


def test_the_table_and_its_head(table):
    output = run("--rounds", 1, "--threads", 1, "--threads", 2)
    for expected in (
        "rnnfast: ",
        "instruction set: ",
        "PyTorch: ",
        "ONNX Runtime: ",
        f"NumPy: {np.__version__}",
        "CPU: ",
    ):
        assert f"\n{expected}" in f"\n{output}"
    for row in table:
        lines = [line for line in output.splitlines() if line.startswith(f"{row.name} ")]
        assert len(lines) == (1 if row.group == "scaling" else 2)
    assert (
        f"{2 * sum(row.group != 'scaling' for row in table) + sum(row.group == 'scaling' for row in table)} rows:"
        in output
    )


def test_a_missing_peer_is_said(table, no_peers):
    output = run("forward", "--rounds", 1)
    assert "PyTorch: not installed, not compared" in output
    assert "ONNX Runtime: not installed, not compared" in output
    line = next(line for line in output.splitlines() if line.startswith("row "))
    assert "NumPy" in line
    assert "PyTorch" not in line
    output = run("training", "--rounds", 1)
    assert "3x PyTorch (not compared)" in output


def test_json_holds_everything(table, tmp_path):
    file = tmp_path / "a.json"
    output = run("--rounds", 3, "--json", file)
    saved = json.loads(file.read_text())
    assert saved["facts"]["NumPy"].startswith(np.__version__)
    found = saved["results"]
    assert [entry["name"] for entry in found] == [row.name for row in table if row.group != "scaling"]
    for entry in found:
        assert set(entry["errors"]) <= set(entry["columns"])
        for column in entry["columns"].values():
            assert len(column["all"]) == 3
            assert column["median"] == statistics.median(column["all"])
            assert (
                column["min"] <= column["quartiles"][0] <= column["median"] <= column["quartiles"][1] <= column["max"]
            )
        line = next(line for line in output.splitlines() if line.startswith(entry["name"] + " "))
        assert entry["mark"] in line
        amount = entry["flop"] if entry["ceiling"] == FMA else entry["bytes_read"]
        assert entry["speed"] == pytest.approx(amount / entry["columns"]["ours"]["median"])


def test_json_is_written_row_by_row(table, tmp_path, monkeypatch):
    real = measure.measure

    def stop(row, threads, rounds):
        if row.group == "training":
            raise KeyboardInterrupt
        return real(row, threads, rounds)

    monkeypatch.setattr("rnnfast.cli.app.measure", stop)
    assert "Aborted!" in run("--rounds", 1, "--json", tmp_path / "a.json", code=1)
    assert len(json.loads((tmp_path / "a.json").read_text())["results"]) == 1


def test_plot(table, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    run("forward", "--rounds", 1, "--plot", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    message = run("forward", "--rounds", 1, "--plot", tmp_path / "a.nonsense", code=1)
    assert "Error: Format 'nonsense' is not supported" in message


def test_list():
    lines = run("--list", "forward/gru", "memory").splitlines()
    assert [line.split()[0] for line in lines] == [row.name for row in select(["forward/gru", "memory"])]
    assert lines[0].endswith("  3x best peer")


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["nonsense"], "Error: row: expected a name, a leading part or a glob of one (groups: step, ", 1),
        (["--list", "nonsense"], "Error: row: expected", 1),
        (["scaling"], "Error: threads: expected both 1 and 2 for the group scaling, got 1", 1),
        (["--rounds", "0"], "Invalid value for '--rounds'", 2),
        (["--rounds", "-3"], "Invalid value for '--rounds'", 2),
        (["--rounds", "many"], "Invalid value for '--rounds'", 2),
        (["--threads", "0"], "Invalid value for '--threads'", 2),
        (["--json", "missing/a"], "Error: missing/a: No such file or directory", 1),
        (["--json", "."], "Invalid value for '--json'", 2),
    ],
)
def test_bad_input_is_said_before_anything_is_measured(tmp_path, monkeypatch, arguments, message, code):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rnnfast.cli.app.measure", None)
    assert message in run(*arguments, code=code)
    assert list(tmp_path.iterdir()) == []


def test_plots_that_cannot_be_drawn_are_said_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rnnfast.cli.app.measure", None)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib.figure", None)
        assert "Error: plot: needs matplotlib: pip install rnnfast[plot]" in run("--plot", "a.png", code=1)
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    assert "Error: missing/a.png: No such file or directory" in run("--plot", "missing/a.png", code=1)
