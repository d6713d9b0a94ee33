"""What every test of streams needs."""

from __future__ import annotations

import pytest

import rnnfast


@pytest.fixture(autouse=True)
def one_thread():
    """Calls that don't ask for more get one thread: on a busy machine, threads wait long for each other."""
    before = rnnfast.get_num_threads()
    rnnfast.set_num_threads(1)
    yield
    rnnfast.set_num_threads(before)
