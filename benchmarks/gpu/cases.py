"""The table of what is checked.

Every kind meets every mask in both directions with every precision; sizes, ids, missing biases and swapped axes walk
along with steps that have no common divisor. Sizes lie astride the partitions: below, at and above a tile of 16 units,
a block of 128, a fragment's length, 16 and 32 rows of a group.

Each new (family, precision, fragments, orientation, direction) is a kernel that Numba compiles for two or three
seconds, which is most of the time that the checks take. So the sizes of a family differ by precision: most fragments in
float32, a few for the others; `timings` compares the rows that it times, which have further fragments, with
float64 again.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import prod

from rnnfast.cuda.cells import family_of
from rnnfast.cuda.plan import PRECISIONS, plan
from rnnfast.cuda.sequence import CELLS
from rnnfast.description.cells import CATALOGUE

from .problems import Case

__all__ = ["BAD_VALUES", "CASES", "DESCRIBED", "MASKS", "planned_kernels"]

MASKS = ("none", "lengths", "resets", "both", "reset_state")
_INPUTS = (5, 17, 64, 129)

# (H, B, T) by family and precision.
_SIZES = {
    ("lstm", "float32"): [(7, 3, 40), (64, 130, 8), (100, 33, 8), (1000, 17, 3), (1, 1, 12)],
    ("lstm", "tf32"): [(100, 64, 8), (128, 17, 20), (128, 1, 12)],
    ("lstm", "bfloat16"): [(128, 17, 20), (100, 3, 12)],
    ("gru_after", "float32"): [(128, 130, 6), (256, 64, 5), (100, 16, 20), (1024, 64, 2)],
    ("gru_after", "tf32"): [(128, 33, 12), (100, 130, 6)],
    ("gru_after", "bfloat16"): [(128, 33, 10), (256, 16, 6)],
    ("elman_tanh", "float32"): [(7, 3, 40), (100, 33, 12), (520, 64, 4), (17, 33, 12), (1, 1, 12)],
    ("elman_tanh", "tf32"): [(128, 16, 20), (100, 130, 6)],
    ("elman_tanh", "bfloat16"): [(100, 64, 8), (128, 17, 16)],
    ("gru_before", "float32"): [(7, 3, 30), (64, 33, 8), (520, 17, 3), (128, 130, 4), (1, 1, 12)],
    ("gru_before", "tf32"): [(100, 33, 8), (64, 130, 6)],
    ("gru_before", "bfloat16"): [(128, 17, 10), (100, 64, 6)],
}
_STEPWISE_SIZES = [(33, 3, 12), (128, 130, 4), (17, 16, 20)]


def _case(index: int, kind: str, precision: str, size: tuple[int, int, int], mask: str, reverse: bool) -> Case:
    H, B, T = size
    flags = {"ids": index % 3 == 2, "bias": index % 7 != 3, "swapped": index % 4 == 1}
    return Case(kind, precision, T, B, _INPUTS[index % 4], H, mask, reverse, **flags)


def _cases() -> Iterable[Case]:
    for kind, precision in product(CELLS, PRECISIONS):
        sizes = _SIZES[family_of(kind)[0], precision]
        for index, (reverse, mask) in enumerate(product((False, True), MASKS)):
            yield _case(index, kind, precision, sizes[(index + reverse) % len(sizes)], mask, reverse)


def _stepwise() -> Iterable[Case]:
    """The engine for what does not fit, where it would and where it would not."""
    index = 0
    for kind, precision in product(("elman_relu", "lstm", "gru_after"), PRECISIONS):
        for mask, reverse in (("both", False), ("reset_state", True)):
            case = _case(index, kind, precision, _STEPWISE_SIZES[index % 3], mask, reverse)
            yield Case(**vars(case) | {"stepwise": True})
            index += 1
    yield Case("lstm", "float32", 3, 130, 64, 1024, "lengths")
    yield Case("gru_after", "tf32", 3, 4, 64, 1100, "both", reverse=True)


CASES = (*_cases(), *_stepwise())
"""What is compared with the oracle."""

BAD_VALUES = tuple(
    Case(kind, precision, T=4, B=17, I=17, H=128 if (kind, precision) == ("gru_after", "bfloat16") else 100)
    for kind, precision in product(("elman_tanh", "lstm", "gru_after", "gru_before"), PRECISIONS)
)
"""What is run with NaN, infinities, lengths and ids out of range; of fragments that others have compiled."""


def _described() -> Iterable[Case]:
    """Every cell by its description, and those of published times at their sizes."""
    for index, (kind, precision) in enumerate(product([*CATALOGUE, "block_gru_8", "lstm_24"], PRECISIONS)):
        flags = {"reverse": index % 2 == 1, "ids": index % 5 == 4, "bias": index % 7 != 3}
        yield Case(kind, precision, 5, 9, 5, 48, "none" if index % 3 == 2 else "both", **flags)
    yield Case("block_gru_8", "tf32", 3, 16, 512, 512, "both")
    yield Case("block_gru_8", "bfloat16", 3, 16, 512, 512, "both")
    yield Case("lstm_24", "bfloat16", 3, 16, 768, 768)


DESCRIBED = tuple(_described())
"""What is run from descriptions, by the step-wise engine or in one walk; float32 and tf32 have the same kernels."""


def planned_kernels(cases: Iterable[Case], multiprocessors: int | None = None) -> set[tuple[str, str, int, str, str]]:
    """The kernels of the persistent engine that the planner asks for.

    By family, precision, fragments, the name of their orientation, and direction.

    Parameters
    ----------
    cases : iterable of Case
    multiprocessors : int, optional
        Of the device; those of the current one by default.

    Returns
    -------
    set of tuple
    """
    kernels = set()
    for case in cases:
        found = plan(case.kind, case.H, case.B, case.precision, multiprocessors=multiprocessors)
        if not case.stepwise and found.forward and found.backward:
            family = family_of(case.kind)[0]
            for part, direction in ((found.forward, "forward"), (found.backward, "backward")):
                kernels.add((family, case.precision, part.fragments, part.orientation.name, direction))
    return kernels


def thinned(cases: tuple[Case, ...], every: int) -> tuple[Case, ...]:
    """Every so manieth case, of those that are quick to compute on the host."""
    return tuple(case for case in cases if prod((case.T, case.B, case.H, case.H)) < 1e8)[::every]
