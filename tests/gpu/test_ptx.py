"""What would run on a GPU, without one: every kernel that a plan can ask for compiles, and keeps to its registers.

For the compute capabilities 8.0, 9.0 and 10.0: Numba's compiler to PTX, `ptxas` to machine code, and its report says no
spill, no stack and so no local memory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import numba
import numpy as np
import pytest
from description.descriptions import DESCRIPTIONS

from rnnfast import reference
from rnnfast.cuda import blas, cells, flat, persistent, pointwise, reductions, shim
from rnnfast.cuda.plan import PRECISIONS, ROWS_LEFT, plan
from rnnfast.cuda.sequence import CELLS

DEVICES = {(8, 0): (108, 166912), (9, 0): (132, 232448), (10, 0): (148, 232448)}
"""Multiprocessors, and bytes of shared memory of a block, of A100, H100 and H200, and B200."""
FAMILIES = ("elman_tanh", "lstm", "gru_after")


def ptxas() -> str:
    """The assembler of the package nvidia-cuda-nvcc, or the one on the path."""
    import nvidia

    found = [str(path) for folder in nvidia.__path__ for path in Path(folder).glob("*/bin/ptxas")]
    program = found[0] if found else shutil.which("ptxas")
    assert program, "ptxas is missing: pip install nvidia-cuda-nvcc"
    return program


def planned():
    """All (family, precision, fragments, orientation, whether backward) that a plan names.

    For H in 64..2048 and B in 1..256: below are the same kernels with fewer fragments.

    With the shared memory that the largest of their blocks ask for, by device.
    """
    seen = {}
    for family in FAMILIES:
        for precision in PRECISIONS:
            for hidden in range(64, 2049, 4):
                for capability, (multiprocessors, most) in DEVICES.items():
                    for batch in (1, 256):
                        device = {"multiprocessors": multiprocessors, "shared_bytes": most}
                        found = plan(family, hidden, batch, precision, **device)
                        for part, backward in ((found.forward, False), (found.backward, True)):
                            if part:
                                asked = seen.setdefault(
                                    (family, precision, part.fragments, part.orientation, backward), {}
                                )
                                tiles = 1 if backward else CELLS[family].gates
                                shared = part.shared_bytes(tiles, precision, backward=backward)
                                asked[capability] = max(shared, asked.get(capability, 0))
    # Neighbours share what is compiled for a product, and xdist gives neighbours to one process.
    rows = [(*key, asked) for key, asked in seen.items()]
    return sorted(rows, key=lambda row: (row[1], row[4], row[3], row[2], row[0]))


def name(value):
    """How a test's name says a value."""
    return getattr(value, "name", None)


def check(kernel, folder, shared=None):
    """Compile a kernel for all devices, and read the assembler's reports; returns the PTX of the first.

    `shared` has the bytes of shared memory, by device, that a block asks for at its launch.
    """
    texts = shim.compile_ptx(kernel, *DEVICES)
    for capability, text in zip(DEVICES, texts, strict=True):
        target = "sm_{}{}{}".format(*shim.target_of(capability))
        assert f".target {target}\n" in text
        source = folder / "kernel.ptx"
        source.write_text(text)
        command = [ptxas(), "-v", f"-arch={target}", str(source), "-o", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said = done.stderr
        assert re.search(r"\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", said), said
        assert int(re.search(r"Used (\d+) registers", said)[1]) * kernel.threads <= 65536, said
        static = sum(int(size) for size in re.findall(r"(\d+) bytes smem", said))
        assert static + (shared or {}).get(capability, 0) <= DEVICES[capability][1]
    return texts[0]


ARGUMENTS = ("family", "precision", "fragments", "orientation", "backward", "shared")


@pytest.mark.parametrize(ARGUMENTS, planned(), ids=name)
def test_every_planned_kernel_compiles_without_spills(
    family, precision, fragments, orientation, backward, shared, tmp_path
):
    make = persistent.backward_kernel if backward else persistent.forward_kernel
    text = check(make(family, precision, fragments, orientation), tmp_path, shared)
    assert "mma.sync.aligned" in text
    assert ("cvt.rna.tf32.f32" in text) == (precision == "tf32")
    # Shared memory is reached as such: a generic volatile access would be one of system scope.
    assert "ld.volatile.shared.u32" in text and not re.search(r"(ld|st)\.volatile\.u32", text)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_packing_compiles_without_spills(family, precision, tmp_path):
    check(persistent.pack_kernel(family, precision, False), tmp_path)
    check(persistent.pack_kernel(family, precision, True), tmp_path)


WRITTEN = ("lstm", "gru_before", "nomatrix", "conditions", "means", "widths all", "manygates")
"""Between them they have every instruction but a few, means, walks, and random masks."""


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_described_cells_compile_without_spills(name, bfloat16, tmp_path):
    code = pointwise.pointwise(DESCRIPTIONS[name].program(), bfloat16)
    kernels = [*code.begin, *code.turn, *code.arrive, *code.finish, *code.end, *(code.walk or ())]
    for means, stage in (*code.inference, *code.forward, *code.backward):
        kernels += [*means, *([] if stage is None else [stage])]
    for one in {id(one): one for one in kernels}.values():
        check(one.kernel, tmp_path, dict.fromkeys(DEVICES, 256 if one.rows else 0))


def test_random_numbers_are_the_reference_s():
    """The device's source, compiled for the host: all its integers have 64 bits there, too."""
    scramble = numba.njit(shim.scramble.py_func)
    scope = shim.uniform.py_func.__globals__ | {"scramble": scramble, "float32": numba.float32}
    scope |= {"uint64": numba.uint64, "int64": numba.int64}
    draw = numba.njit(FunctionType(shim.uniform.py_func.__code__, scope))
    for words in ((0, 0, 0, 0, 0, 0), (2**63 - 1, 3, 2, -1, 5, 7), (-5, 1, 0, 2**40, 1000, 2047)):
        wanted = reference.random.uniform(reference.random.mix(*words[:-1]), words[-1])
        assert draw(*words) == np.float32(wanted)


def test_the_rest_compiles_without_spills(tmp_path):
    for precision in ("float32", "bfloat16"):
        check(reductions._sums_kernel(precision), tmp_path)
        check(reductions._parts_kernel(precision), tmp_path)
        check(blas._copy_kernel(precision == "bfloat16"), tmp_path)
    for kernel in (reductions._add_parts, reductions._gather, flat._sgd, flat._rmsprop, flat._adam):
        check(kernel, tmp_path)


def test_what_is_compiled_here_is_what_a_launch_compiles():
    """A launch asks the dispatcher, and Numba of a device of 9.0 for sm_90a; nothing is optimised at link time."""
    options = flat._adam._dispatcher.targetoptions
    assert options["lto"] is False
    assert options["launch_bounds"] == (256, 1)
    assert shim.target_of((8, 0)) == (8, 0, "")
    assert shim.target_of((9, 0)) == (9, 0, "a")
    assert shim.compile_cubin(flat._adam, (9, 0)).startswith(b"\x7fELF")


def test_a_numpy_without_row_stack_will_do():
    """NumPy 2.5 has none. The shim lends the name for one import and takes it back."""
    script = """
import numpy
vars(numpy).pop("row_stack", None)
numpy.__all__ = [name for name in numpy.__all__ if name != "row_stack"]  # from which SciPy imports all
assert not hasattr(numpy, "row_stack")
from rnnfast.cuda import flat, shim
assert not hasattr(numpy, "row_stack")
assert ".target sm_90" in shim.compile_ptx(flat._adam, (9, 0))[0]
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_families_are_kinds():
    assert [cells.family_of(kind) for kind in ("elman_relu", "lstm")] == [("elman_tanh", 1), ("lstm", 0)]


def test_a_spill_is_seen(tmp_path):
    """The check fails for a kernel that needs more registers than there are."""
    with pytest.raises(AssertionError, match="spill"):
        check(persistent.forward_kernel("lstm", "float32", 16, ROWS_LEFT), tmp_path)


class Driver:
    """A launcher that writes down what it is told."""

    def __init__(self):
        self.number, self.said = 0, []

    def device(self):
        return self.number

    def allow_shared(self, *given):
        self.said.append(("shared", *given))

    def resident_blocks(self, *given):
        self.said.append(("occupancy", *given))
        return 1

    def launch(self, function, grid, block, arguments, **options):
        self.said.append((function, grid, block, arguments, *options.values()))


@pytest.fixture
def driver(monkeypatch):
    fake = Driver()
    monkeypatch.setattr(shim._launch, "driver", lambda: fake)
    monkeypatch.setattr(
        shim._Compiled, "_load", lambda self, number: fake.said.append("load") or shim._Loaded(100 + number, 6)
    )
    return fake


def kernel_of(types):
    def named(*arguments):
        """Never compiled."""

    return shim._Compiled(named, types, 256)


def test_a_kernel_is_loaded_once_for_a_device(driver):
    kernel = kernel_of("pi")
    kernel.launch((2, 3), 64, (5, 6), shared=8, stream=12, cooperative=True)
    kernel.launch(4, 32, (7, 8))
    driver.number = 1
    kernel.launch(4, 32, (7, 8))
    assert driver.said == [
        "load",
        ("occupancy", 100, 64, 8),
        (100, (2, 3), 64, (5, 6), 8, 12, True),
        (100, 4, 32, (7, 8), 0, 0, False),
        "load",
        (101, 4, 32, (7, 8), 0, 0, False),
    ]


def test_shared_memory_is_asked_for_once_and_only_where_it_grows(driver):
    kernel = kernel_of("")
    for number, shared in ((0, 48 * 1024), (0, 100_000), (0, 64_000), (1, 64_000), (0, 200_000)):
        driver.number = number
        kernel.launch(1, 32, (), shared=shared)
    asked = [said for said in driver.said if said[0] == "shared"]
    assert asked == [("shared", 100, 0, 100_000), ("shared", 101, 1, 64_000), ("shared", 100, 0, 200_000)]


def test_blocks_that_wait_for_each_other_must_fit_and_the_driver_is_asked_once(driver):
    kernel = kernel_of("")
    for _ in range(2):
        kernel.launch((2, 3), 64, (), cooperative=True)
    with pytest.raises(RuntimeError, match=r"named: expected at most 6 blocks, .* got 8"):
        kernel.launch((2, 4), 64, (), cooperative=True)
    kernel.launch(100, 64, ())
    assert [said[0] for said in driver.said].count("occupancy") == 1


def test_a_kernel_without_all_its_arguments_is_not_launched(driver):
    with pytest.raises(TypeError, match="named: expected 2 arguments, got 1"):
        kernel_of("pi").launch(1, 32, (1,))
    assert driver.said == []
