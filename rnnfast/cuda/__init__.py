"""Recurrent layers on NVIDIA GPUs.

The layers themselves are those of `rnnfast`, with ``device="cuda"``. Here is what is asked about the device: whether
there is one, and how a layer would run on it. To import this package needs none of the packages of the extra `cuda`.

Layers on a device are float32. ``precision=`` says what matrices are multiplied in; states, sums and gate arithmetic
are float32 in any case. Against the float64 oracle, relative to an array's largest value, tests hold the errors of
results and of gradients below 1e-5 and 1e-4 ("float32"), 2e-3 and 2e-3 ("tf32"), 3e-2 and 3e-2 ("bfloat16"). Two runs
on one device give the same bits; chunks and the whole, or other batch sizes, may differ.
"""

from __future__ import annotations

from typing import Any

__all__ = ["is_available", "plan"]

try:
    from .plan import plan  # the function, in the place of the module of its name
except ImportError as error:
    _missing = str(error)

    def plan(*arguments: Any, **options: Any) -> Any:  # type: ignore[misc]  # its signature is beside the point here
        """The plan for one layer and direction; the packages that it needs are missing."""
        raise ImportError(_missing)


def is_available() -> bool:
    """Whether ``device="cuda"`` would work: the packages it needs, a driver, and a device that is new enough.

    Returns
    -------
    bool
    """
    try:
        from .device import current

        current()
    except Exception:  # whatever packages or a driver that are half there may raise
        return False
    return True
