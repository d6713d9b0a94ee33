"""What every test run needs before the first import of rnnfast."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

# `python -m pytest` puts the source tree first on the path, where rnnfast/ has no extension modules.
# An editable install finds its way without it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

settings.register_profile("rnnfast", deadline=None, derandomize=True, database=None)
settings.load_profile("rnnfast")

from rnnfast import _core  # noqa: E402  (only now is it sure which rnnfast this is)

_core.set_small_work(0)  # else the small calls of the tests would all run on one thread, whatever num_threads says
_core.set_cpus(4)  # else there are machines on which nothing runs on two or three threads
# Tests that want threads say how many; workers of pytest-xdist that all took every CPU would wait for each other.
_core.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--every-float32", action="store_true", help="measure activations at all float32 (minutes)")


def pytest_terminal_summary(terminalreporter):
    """Shows the figures that tests measured and recorded with `record_property`, those of xdist's workers too."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
