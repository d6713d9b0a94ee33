"""Everything around the device's kernels: how arrays come in and go out, parameters, training, streams.

The recurrence itself is the host's here (`HostKernel`), so every result must be the host's, bit by bit, but for what
the device computes in its own way: heads, losses, optimisers, dropout. A simulated array refuses to be mixed with one
of the host, and looks at memory that nobody has written see NaN.
"""

from __future__ import annotations

import pytest
from host_kernel import HostKernel

from rnnfast.cuda import arrays, device


@pytest.fixture(autouse=True)
def host_kernels(monkeypatch):
    monkeypatch.setattr(device, "Kernel", HostKernel)


@pytest.fixture
def no_way_back(monkeypatch):
    """Whatever copies to the host fails."""

    def refuse(array):
        raise AssertionError("copied to the host")

    monkeypatch.setattr(arrays, "to_host", refuse)
