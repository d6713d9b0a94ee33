"""What `device="cuda"` says where it can't be had."""

from __future__ import annotations

from shared import run_script

WITHOUT = """
    import sys
    sys.modules[{name!r}] = None
    import numpy, rnnfast
"""
ATTEMPT = """
    for make in (lambda: rnnfast.LSTM(2, 3, device="cuda"), lambda: rnnfast.Dense(2, 3, device="cuda")):
        try:
            make()
        except (ImportError, RuntimeError) as error:
            print(type(error).__name__, error)
    print(rnnfast.cuda.is_available())
"""


def test_without_numba_the_error_says_what_to_install():
    script = WITHOUT.format(name="numba") + ATTEMPT
    script += """
    try:
        rnnfast.cuda.plan("lstm", 64, 1)
    except ImportError as error:
        print(error)
    rnnfast.show_config()
    """
    lines = run_script(script).splitlines()
    for line in (lines[0], lines[1]):
        assert line.startswith("ModuleNotFoundError rnnfast.cuda needs") or line.startswith("ImportError rnnfast.cuda")
        assert 'pip install "rnnfast[cuda]"' in line
    assert lines[2] == "False"
    assert 'pip install "rnnfast[cuda]"' in lines[3]
    assert any(line.startswith("cuda: not available (rnnfast.cuda needs") for line in lines)


def test_without_cupy_or_a_device_the_error_says_so():
    """Which of the two, or whether Numba too, is missing depends on the machine; there is an error in any case."""
    lines = run_script(WITHOUT.format(name="cupy") + ATTEMPT).splitlines()
    assert all(line.startswith(("ImportError", "RuntimeError")) for line in lines[:2]), lines
    assert lines[2:] == ["False"]


def test_the_host_needs_nothing_of_it():
    script = """
    import sys, numpy, rnnfast
    layer = rnnfast.LSTM(2, 3)
    y, state, tape = layer.forward(numpy.zeros((4, 1, 2)))
    layer.backward(tape, y)
    print("rnnfast.cuda" in sys.modules, "numba" in sys.modules, "cupy" in sys.modules)
    """
    assert run_script(script).split() == ["False"] * 3
