"""Normalisation over the units of rows, written with means: for the cells that normalise their sums."""

from __future__ import annotations

from typing import Any

from ..functions import mean, sqrt


def layer_norm(*rows: Any, eps: float) -> list[Any]:
    """Ba, Kiros & Hinton (2016): each number less the mean of all, over their standard deviation.

    The mean and the variance are over the units of all `rows` together, as if they were one long row.
    """
    centre = mean(*rows)
    centred = [row - centre for row in rows]
    scale = 1.0 / sqrt(mean(*[row * row for row in centred]) + eps)
    return [row * scale for row in centred]


def rms_norm(*rows: Any, eps: float) -> list[Any]:
    """Zhang & Sennrich (2019): each number over the root of the mean square of all, those of all `rows` together."""
    scale = 1.0 / sqrt(mean(*[row * row for row in rows]) + eps)
    return [row * scale for row in rows]
