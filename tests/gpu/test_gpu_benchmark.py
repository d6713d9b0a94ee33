"""The program for a machine with a GPU, on toy cases in the simulator: it passes, and it fails where it must."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu import cases, checks, contestants, environment, public, report, rows, stages, timings
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.problems import Case, Problem
from rnnfast.bench import core
from rnnfast.cuda.kernel import Kernel
from rnnfast.cuda.plan import PRECISIONS
from rnnfast.cuda.sequence import CELLS
from rnnfast.description.cells import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
TOY = Case("gru_before", T=3, B=3, H=3, mask="both", reverse=True, swapped=True)
MULTIPROCESSORS = 132


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(contestants, "_SETS", 1)
    monkeypatch.setattr(core, "TURN", 1e-9)
    monkeypatch.chdir(tmp_path)  # where the file of lines goes


# ---------------------------------------------------------------------------------------------------------------------
# Checks


@pytest.mark.parametrize(
    "case",
    [
        TOY,
        Case("lstm", "bfloat16", T=2, H=4, mask="reset_state"),
        Case("elman_relu", "tf32", B=3, H=8, ids=True, mask="lengths", stepwise=True, bias=False),
    ],
    ids=str,
)
def test_toy_cases_pass(case):
    outcome = checks.check_case(case, 0)
    assert outcome.wrong == ()
    assert 0 < outcome.forward < 1e-2
    assert 0 < outcome.gradients < 1e-2


def spoil(monkeypatch, method, field, change):
    """Lets `change` at a field of a kernel's call (of states the first) after it has run, and says how often it has."""
    original, runs = getattr(Kernel, method), []

    def spoilt(self, call, *arguments, **options):
        original(self, call, *arguments, **options)
        runs.append(method)
        value = getattr(call, field)
        change(value[0] if isinstance(value, tuple) else value, len(runs))

    monkeypatch.setattr(Kernel, method, spoilt)


def off_by_a_thousandth(array, run):
    array[0] *= 1.001


def not_written(array, run):
    array[-1, -1] = np.nan


def a_bit_in_the_second_run(array, run):
    array[...] = np.nextafter(array, np.float32(np.inf)) if run == 2 else array


@pytest.mark.parametrize(
    ("method", "field", "change", "said"),
    [
        ("forward", "y", off_by_a_thousandth, "y: error"),
        ("forward", "final_state", not_written, "hT: error inf"),
        ("forward", "y", a_bit_in_the_second_run, "y: run 2 gives other bits"),
        ("backward", "dx", off_by_a_thousandth, "dx: error"),
        ("backward", "dstate", not_written, "dh0: error inf"),
        ("backward", "dpanels", off_by_a_thousandth, "weight_ih: error"),
    ],
)
def test_a_wrong_result_is_found(monkeypatch, method, field, change, said):
    spoil(monkeypatch, method, field, change)
    wrong = checks.check_case(Case("elman_tanh", stepwise=True), 0).wrong
    assert any(line.startswith(said) for line in wrong), wrong


def test_other_bits_of_inference_are_found(monkeypatch):
    spoil(monkeypatch, "forward", "y", lambda y, run: y.__setitem__(0, y[0] + np.float32(1e-7) * (run == 4)))
    assert checks.check_case(Case("elman_tanh", stepwise=True), 0).wrong == ("y: inference gives other bits",)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_values(monkeypatch):
    case = Case("elman_tanh", T=3, B=3, H=2, I=2, stepwise=True)
    assert checks.check_bad_values(case, 0).wrong == ()
    spoil(monkeypatch, "forward", "y", lambda y, run: y.__setitem__(np.isnan(y), 0))
    wrong = checks.check_bad_values(case, 0).wrong
    for what in ("NaN in x", "a length out of range", "an id out of range", "NaN in weight_hh"):
        assert any(line.startswith(what) for line in wrong), wrong


def test_what_raises_is_a_failure_and_many_end_the_checks(monkeypatch, capsys):
    def refuse(self, *arguments, **options):
        raise RuntimeError("no\n device")

    monkeypatch.setattr(Kernel, "forward", refuse)
    monkeypatch.setattr(stages, "MAX_FAILURES", 2)
    many = [Case("gru_before", T=T) for T in range(1, 6)]
    assert main(["--checks-only", "--json", "a.json"], cases=many, bad_values=(), layers=()) == 1
    out = capsys.readouterr().out
    assert "  2 checks have failed: the others are left out" in out
    assert "2 checks, 2 failed; 3 left out" in out
    saved = json.loads(Path("a.json").read_text())["checks"]
    assert [(check["wrong"], check["forward"]) for check in saved] == [(["raised RuntimeError: no device"], "inf")] * 2


def test_what_is_not_to_be_read_is_poison():
    problem = Problem(Case("lstm", T=9, B=5, mask="lengths"), 0)
    x, dy = problem.inputs(poisoned=True)
    ended = np.arange(9)[:, None] >= problem.lengths
    assert ended.any()
    assert np.isnan(x[ended]).all()
    assert np.isnan(dy[ended]).all()
    assert np.isfinite(x[~ended]).all()


def test_a_state_on_the_other_side_of_relus_kink_has_the_other_gradient():
    problem = Problem(Case("elman_relu", T=1, B=1), 0)
    y = problem.expected()["y"]
    unit = int(np.argmax(y[0, 0]))
    moved = y.copy()
    moved[0, 0, unit] = 0
    assert y[0, 0, unit] > 0
    bias = problem.expected()["bias_ih"]
    bias[unit] = 0
    assert np.array_equal(problem.expected(moved)["bias_ih"], bias)


def test_public_layers(monkeypatch):
    case = Case("gru_before", T=3, B=2, H=3, mask="both")
    assert public.check(case, 0).wrong == ()
    spoil(monkeypatch, "forward", "y", off_by_a_thousandth)
    wrong = public.check(case, 0).wrong
    assert any(line.startswith("layer: y[0]: error") for line in wrong), wrong


def test_every_kind_meets_every_mask_direction_and_precision():
    seen = {(case.kind, case.mask, case.reverse, case.precision) for case in cases.CASES}
    assert seen >= set(product(CELLS, cases.MASKS, (False, True), PRECISIONS))
    for kind in CELLS:
        own = [case for case in cases.CASES if case.kind == kind]
        for flag in ("ids", "swapped", "bias"):
            assert {getattr(case, flag) for case in own} == {False, True}, (kind, flag)
    assert {case.H for case in cases.CASES} >= {1, 7, 17, 64, 100, 128, 256, 520, 1000, 1024}
    assert {case.B for case in cases.CASES} >= {1, 3, 16, 17, 33, 64, 130}
    assert max(case.T for case in cases.CASES) == 40


def test_the_checks_compile_few_kernels():
    every = [*cases.CASES, *cases.BAD_VALUES]
    kernels = cases.planned_kernels(every, MULTIPROCESSORS)
    assert 25 < len(kernels) <= 35
    assert {(family, precision) for family, precision, *_ in kernels} == set(
        product(("elman_tanh", "lstm", "gru_after"), PRECISIONS)
    )
    assert cases.planned_kernels(cases.BAD_VALUES, MULTIPROCESSORS) <= cases.planned_kernels(
        cases.CASES, MULTIPROCESSORS
    )
    assert cases.planned_kernels([TOY], MULTIPROCESSORS) == set()


# ---------------------------------------------------------------------------------------------------------------------
# Rows and times


def toy(group="masks", kind="gru_before", work="training", against=rows.UNMASKED, mask="lengths"):
    return rows.Row(group, kind, "float32", 3, 2, 3, work, against, 0.9, mask)


def test_rows_are_chosen_by_name():
    assert len({row.name for row in rows.ROWS}) == len(rows.ROWS)
    assert {row.group for row in rows.ROWS} == set(rows.GROUPS)
    assert core.select([], rows.ROWS) == list(rows.ROWS)
    assert {row.group for row in core.select(["floor", "stream/"], rows.ROWS)} == {"floor", "stream"}
    assert {row.H for row in core.select(["*-H1024/training"], rows.ROWS)} == {1024}
    assert {(row.group, row.kind) for row in core.select(["main/lstm"], rows.ROWS)} == {("main", "lstm")}
    assert len(rows.quick(rows.ROWS)) == len({(row.group, row.work) for row in rows.ROWS})
    with pytest.raises(ValueError, match=r"row: expected .* a leading part .* got 'mai'"):
        core.select(["mai"], rows.ROWS)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("main/lstm/tf32/T256-B64-H256/forward", 5),
        ("main/gru_after/float32/T256-B64-H1024/training", 3),
        ("main/lstm/bfloat16/T256-B16-H1024/forward", 6),
        ("main/gru_after/bfloat16/T256-B64-H1024/forward", 4),
        ("elman/elman_tanh/tf32/T256-B64-H1024/training", 4),
        ("small/lstm/tf32/T256-B16-H128/forward", 1.2),
        ("large/lstm/tf32/T256-B256-H2048/training", 0.95),
        ("masks/lstm/tf32/T256-B16-H256/forward/resets", 1 / 1.03),
        ("floor/lstm/tf32/T256-B16-H512/forward", 1 / 1.6),
    ],
)
def test_targets(name, target):
    assert [row.target for row in core.select([name], rows.ROWS)] == [target]


def test_contestants_take_turns():
    log = {"a": [], "b": []}
    samples = timings.alternate({name: log[name].append for name in log}, sets=2, rounds=3)
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3}
    for numbers in log.values():  # sets of inputs follow each other through all that is called
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= 6 + 3  # three times with every set before anything is timed


@pytest.mark.parametrize(("other", "mark"), [([1.0, 3.0, 2.0], "ok"), ([1.0], "SHORT"), ([], "open")])
def test_marks(other, mark):
    row = rows.Row("main", "lstm", "tf32", 256, 1, 256, "forward", rows.CUDNN, 2.0)
    assert timings.Result(row, {"ours": [1.0], rows.CUDNN: other}, {}).mark == mark
    assert timings.Result(row, {}, {}, ("error",)).mark == "WRONG"


@pytest.fixture
def no_torch(monkeypatch):
    there = environment._is_there
    monkeypatch.setattr(environment, "_is_there", lambda module: module != "torch" and there(module))


def test_without_torch_ours_is_timed_alone(no_torch, capsys, tmp_path):
    lone, own = toy(against=rows.CUDNN, mask="none"), toy()
    path = tmp_path / "found.json"
    status = main(["--json", str(path), "--rounds", "1"], cases=(TOY,), bad_values=(), layers=(), rows=(lone, own))
    out = capsys.readouterr().out
    assert status == 0
    assert "PyTorch is missing: ours is timed alone" in out
    found = json.loads(path.read_text())
    assert [(row["name"], row["mark"] == "open") for row in found["rows"]] == [(lone.name, True), (own.name, False)]
    assert found["rows"][0]["ours"][0] > 0
    assert found["checks"][0]["wrong"] == []


def test_the_command_fails_loudly_and_says_what_it_left_out(no_torch, monkeypatch, capsys):
    spoil(monkeypatch, "forward", "y", off_by_a_thousandth)
    assert main(["--budget", "0"], cases=(TOY,), bad_values=(), layers=(), rows=(toy(),)) == 1
    out = capsys.readouterr().out
    assert f"WRONG gru_before/float32/{TOY.call}" in out
    assert "1 checks, 1 failed" in out
    assert "left out: masks/gru_before/float32 (1)" in out
    assert out.splitlines()[-1].startswith("FAILED")


def test_a_row_that_raises_fails(no_torch, monkeypatch, capsys):
    def refuse(self, *arguments, **options):
        raise RuntimeError("no")

    monkeypatch.setattr(Kernel, "forward", refuse)
    assert main(["--no-checks"], rows=(toy(),)) == 1
    assert f"RAISED {toy().name}: RuntimeError: no" in capsys.readouterr().out


def test_a_row_that_is_wrong_is_found(monkeypatch):
    """Against PyTorch in float64, where it is installed."""
    pytest.importorskip("torch")
    monkeypatch.setattr(timings, "alternate", lambda found, sets, rounds: {name: [1.0] for name in found})
    row = toy(kind="elman_tanh", against=rows.CUDNN, mask="lengths")
    assert 0 < timings.measure(row, contestants.Data(row, 0), 0, rounds=1).errors["ours"] < 1e-5
    spoil(monkeypatch, "forward", "y", off_by_a_thousandth)
    found = timings.Timer(0, rounds=1)(row)
    assert found.mark == "WRONG"
    assert found.samples == {}
    assert f"WRONG {row.name}" in "\n".join(report.table([found], [], []))
    assert report.entry(found)["wrong"]


def test_the_barrier_ends():
    row = toy("floor", "elman_tanh", against=rows.BARRIER)
    call, steps = contestants.peer(row, None, 0)
    call(0)
    assert steps == row.T


# ---------------------------------------------------------------------------------------------------------------------
# Stages


def test_names_are_unique():
    every = [checks.Check("", None, case) for case in cases.CASES]
    every += [checks.Check("bad values ", None, case) for case in cases.BAD_VALUES]
    assert len({one.name for one in every}) == len(every)


def test_checks_are_chosen_by_kind_and_precision(capsys):
    many = [TOY, Case("gru_before", "tf32"), Case("lstm", "tf32")]
    nothing = {"bad_values": (), "layers": (), "rows": ()}
    assert main(["--checks", "gru_before/tf32", "--checks", "lstm"], cases=many, **nothing) == 0
    assert "2 checks, 0 failed; 0 left out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--checks", "gru_before/half"], cases=many, **nothing)
    assert "checks: expected a name" in capsys.readouterr().err


def lines():
    return [json.loads(line) for line in Path("gpu-benchmark.jsonl").read_text().splitlines()]


def test_a_run_goes_on_where_it_stopped(no_torch, monkeypatch, capsys):
    """What has a line is not done again, but for what raised; the seed is the first run's."""
    tables = {"cases": (TOY, Case("lstm")), "bad_values": (), "layers": (), "rows": (toy(),)}
    with monkeypatch.context() as broken:
        spoil(broken, "backward", "dx", lambda dx, run: 1 / 0)
        assert main(["--rounds", "1", "--seed", "5"], **tables) == 1
    first = lines()
    done = [f"gru_before/float32/{TOY.call}", f"lstm/float32/{Case('lstm').call}", toy().name]
    assert [line["name"] for line in first[1:]] == done
    assert all("ZeroDivisionError" in line["raised"] for line in first[1:])
    assert main(["--rounds", "1", "--resume", "--checks", "lstm", "--no-checks"], **tables) == 0
    assert [line.get("name") for line in lines()[len(first) :]] == [None, "facts", toy().name]
    with open("gpu-benchmark.jsonl", "a") as file:
        file.write('{"name": "lstm/float32/')  # the process died here
    capsys.readouterr()
    assert main(["--rounds", "1", "--resume"], **tables) == 0
    out = capsys.readouterr().out
    assert "seed: 5" in out
    assert "2 checks, 0 failed; 0 left out" in out
    names = [json.loads(line)["name"] for line in Path("gpu-benchmark.jsonl").read_text().splitlines()[-3:]]
    assert names == ["facts", *done[:2]]
    assert main(["--rounds", "1"], **tables) == 0
    assert Path("gpu-benchmark.jsonl.1").exists()
    assert len(lines()) == 4


def test_a_file_of_another_device_is_refused(capsys):
    tables = {"cases": (TOY,), "bad_values": (), "layers": (), "rows": ()}
    assert main([], **tables) == 0
    path = Path("gpu-benchmark.jsonl")
    path.write_text(path.read_text().replace('"device": "', '"device": "another '))
    assert main(["--resume"], **tables) == 2
    assert "resume: gpu-benchmark.jsonl is of another device" in capsys.readouterr().err


class Item(str):
    @property
    def name(self):
        return str(self)


def stage(*names, limit=0.2):
    def do(item):
        if item == "raises":
            raise RuntimeError("illegal access")
        return {"wrong": item == "wrong"}

    return stages.Stage("checks", [Item(name) for name in names], do, lambda record: [record["name"]], limit)


def test_what_ends_a_process_costs_one_item(tmp_path):
    """A process that raises, hangs or dies; the next one goes on behind it."""
    journal, said, started = stages.Journal(tmp_path / "lines"), [], []
    whole = stage("good", "raises", "hangs", "wrong", "dies", "last")

    def start(one):
        started.append(len(journal.records))
        rest = [item for item in one.items if item not in journal]
        ends = next((item for item in rest if item in ("hangs", "dies")), None)
        part = stages.Stage(one.name, rest[: rest.index(ends)] if ends else rest, one.do, one.show, one.limit)
        status = stages.run(part, stages.Journal.opened(journal.path), said.append, alone=True)
        return status or {"hangs": stages.HANGS, "dies": -11, None: stages.DONE}[ends]

    stages.complete(whole, journal, said.append, start)
    assert started == [0, 2, 3, 5]
    found = {name: record.get("raised", record.get("wrong")) for name, record in journal.records.items()}
    assert found == {
        "good": False,
        "raises": "RuntimeError: illegal access",
        "hangs": "hangs",
        "wrong": True,
        "dies": "its process ended with status -11",
        "last": False,
    }
    again = stages.Journal(journal.path, resume=True)
    assert list(again.records) == ["good", "wrong", "last"]


def test_a_process_without_a_device_is_not_started_again(tmp_path):
    journal, started = stages.Journal(tmp_path / "lines"), []
    stages.complete(stage("a", "b"), journal, print, lambda one: started.append(one) or stages.NOWHERE)
    assert len(started) == 1


def test_a_process_that_adds_no_line_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert stages.watch(process, tmp_path / "lines", 0.2) == stages.HANGS
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(4)"]) as process:
        assert stages.watch(process, tmp_path / "lines", 30) == stages.AGAIN


def test_stages_are_processes():
    """The program's own tables, in the simulator: a process for the facts, and one for the checks."""
    case = min((case for case in cases.CASES if case.kind == "elman_relu"), key=lambda case: case.T * case.B * case.H)
    name = f"{case.kind}/{case.precision}/{case.call}"
    command = [
        sys.executable,
        "-P",
        "-c",
        PATHS + "import sys\nfrom benchmarks.gpu.__main__ import main\nsys.exit(main())",
    ]
    command += ["--checks", glob.escape(name), "--checks-only", "--lines", "a.jsonl", "--json", "a.json"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 checks, 0 failed; 0 left out" in done.stdout
    assert [json.loads(line)["name"] for line in Path("a.jsonl").read_text().splitlines()] == ["facts", name]
    assert json.loads(Path("a.json").read_text())["checks"][0]["case"]["kind"] == case.kind


# ---------------------------------------------------------------------------------------------------------------------
# Where it runs


def test_what_is_missing_ends_the_program(monkeypatch, capsys):
    assert environment.obstacle() is None
    monkeypatch.setattr(environment, "_is_there", lambda module: False)
    assert main([]) == 2
    assert "numba_cuda is missing" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(environment, "_is_there", lambda module: module != "numba_cuda")
    assert environment.obstacle() == 'numba_cuda is missing: pip install "numba-cuda[cu13]>=0.30.4,<0.31"'


def run(script):
    return subprocess.run([sys.executable, "-P", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)


PATHS = f"import sys; sys.path[:0] = {[str(ROOT)]!r}\nfrom benchmarks.gpu import environment\n"


def test_without_compiled_kernels_the_device_s_are_there():
    done = run(
        PATHS + "environment._package = lambda: None\nenvironment.prepare()\n"
        "import benchmarks.gpu.checks, benchmarks.gpu.timings\n"
        "print(environment.compiled(), 'rnnfast._core' in sys.modules)"
    )
    assert (done.stdout.split(), done.stderr) == (["False", "False"], "")


def test_what_hangs_is_ended():
    done = run(PATHS + "import time\nwith environment.watchdog('this call', 0.2): time.sleep(30)")
    assert done.returncode == 3
    assert "HANGS: this call: no end after 0.2 s" in done.stderr
    done = run(PATHS + "import time\nwith environment.watchdog('this', 0.2): pass\ntime.sleep(0.5); print('alive')")
    assert done.stdout == "alive\n"


# ---------------------------------------------------------------------------------------------------------------------
# Described cells


def test_every_cell_is_among_the_checks_and_the_rows():
    assert {case.kind for case in cases.DESCRIBED} == {*CATALOGUE, "block_gru_8", "lstm_24"}
    for kind in CATALOGUE:
        own = [case for case in cases.DESCRIBED if case.kind == kind]
        assert {case.precision for case in own} == set(PRECISIONS)
    assert {case.mask for case in cases.DESCRIBED} == {"none", "both"}
    beside = [(row.kind, row.work) for row in rows.ROWS if row.group == "cells"]
    assert beside == [(kind, work) for kind in CATALOGUE if kind != "lstm" for work in ("forward", "training")]


def test_checks_of_described_cells_are_a_stage(capsys):
    tables = {"cases": (), "bad_values": (), "layers": (), "rows": ()}
    case = Case("mgu", T=2, B=2, H=4, mask="both")
    assert main(["--checks", "mgu"], **tables, cells=(case, Case("lru", T=1))) == 0
    out = capsys.readouterr().out
    assert "checking described mgu float32" in out
    assert "1 checks, 0 failed; 0 left out" in out
    assert [line["stage"] for line in lines()] == ["facts", "cells"]


@pytest.mark.parametrize("kind", ["augru", "lstm_proj", "slstm", "grud", "block_gru_8", "mingru"])
@pytest.mark.parametrize("work", ["forward", "training"])
def test_a_described_cell_is_timed_beside_our_lstm(kind, work, monkeypatch):
    """Its extra inputs, states and widths of their own; resets."""
    once = {name: lambda call: [call(0) or 2.0] for name in ("ours", rows.OUR_LSTM)}
    monkeypatch.setattr(timings, "alternate", lambda found, *_: {name: once[name](found[name]) for name in once})
    row = rows.Row("cells", kind, "tf32", 2, 2, 8, work, rows.OUR_LSTM, 0.0, "resets")
    found = timings.Timer(0, rounds=1)(row)
    assert (found.ratio, found.mark, found.errors) == (1.0, "-", {})


def test_a_row_against_a_published_time(monkeypatch):
    """Its peer is not run."""
    monkeypatch.setattr(timings, "alternate", lambda found, sets, rounds: {name: [6.0] for name in found})
    row = rows.Row("block", "block_gru_8", "bfloat16", 3, 1, 8, "forward", rows.TORCHRL, 1.0, "resets", 4.0)
    found = timings.Timer(0, rounds=1)(row)
    assert list(found.samples) == ["ours"]
    assert (found.ratio, found.mark, found.cell(rows.TORCHRL)) == (2.0, "ok", "4.00 s")
    assert report.result(row, json.loads(json.dumps(report.entry(found)))).mark == "ok"
    published = {row.name: row.seconds for row in rows.ROWS if row.seconds}
    assert published["flash/lstm_24/bfloat16/T1024-B16-H768/training"] == 4.0e-6
    assert published["block/block_gru_8/tf32/T512-B16-H512/forward/resets"] == 55e-6


def test_rows_have_their_budget_however_long_the_checks_took(no_torch, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("benchmarks.gpu.__main__.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: now[0], strftime=stages.time.strftime))
    slow = checks.check_case
    monkeypatch.setattr(checks, "check_case", lambda *given: now.__setitem__(0, 1e6) or slow(*given))
    assert main(["--rounds", "1", "--budget", "5"], cases=(TOY,), bad_values=(), layers=(), rows=(toy(),)) == 0
    assert [line["name"] for line in lines()][-1] == toy().name
