"""Drawing text from a trained character model, one character at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .corpus import decode, encode

__all__ = ["sample"]


def sample(
    model: Any,
    vocabulary: str,
    prompt: str,
    length: int,
    *,
    temperature: float = 1.0,
    rng: int | np.random.Generator | None = None,
    num_threads: int | None = None,
) -> str:
    """Continue a prompt.

    Parameters
    ----------
    model : Model
        Takes ids, gives logits over the vocabulary.
    vocabulary : str
        The characters by id.
    prompt : str
        What to continue; not empty.
    length : int
        How many characters to draw.
    temperature : float
        The logits are divided by it; 0 takes the likeliest character each time.
    rng : optional
        Seed or generator, as for `numpy.random.default_rng`.
    num_threads : int, optional
        As for the layers.

    Returns
    -------
    str
        The drawn characters, without the prompt.
    """
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature: expected a finite number >= 0, got {temperature}")
    if not prompt:
        raise ValueError("prompt: expected at least one character, got an empty string")
    rng = np.random.default_rng(rng)
    try:
        ids = encode(prompt, vocabulary)
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from error
    drawn = np.empty(length, np.int64)
    state = None
    for step in range(length):
        logits, state = model(ids[:, None], state, num_threads=num_threads)
        drawn[step] = _draw(logits[-1, 0], temperature, rng)
        ids = drawn[step : step + 1]
    return decode(drawn, vocabulary)


def _draw(logits: NDArray[Any], temperature: float, rng: np.random.Generator) -> int:
    """One id from the softmax of `logits / temperature`."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    cumulative = np.cumsum(np.exp(scaled))
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
