"""The option that chooses rows, and their cases."""

from __future__ import annotations

import pytest

from rnnfast.bench.rows import plan

# Rows that together take less than a minute, the oracle's answers included.
CHEAP = ["step/*/64", "cell/*/64", "process/*/64", "forward/*/T100-B1-I64-H64", "*/T100-B32-I64-H128", "characters"]


def pytest_addoption(parser) -> None:
    parser.addoption("--rows", nargs="+", default=CHEAP, help="names or globs of rows, as for `rnnfast bench`")


def pytest_generate_tests(metafunc) -> None:
    if {"row", "threads"} <= set(metafunc.fixturenames):
        try:
            planned = plan(metafunc.config.getoption("--rows"), (1, 2))
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
        cases = [(row, count) for row, count in planned if row.group not in ("scaling", "memory")]
        metafunc.parametrize(("row", "threads"), cases, ids=[f"{row.name}-{count}" for row, count in cases])
