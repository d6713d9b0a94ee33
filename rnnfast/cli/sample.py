"""Drawing text from a trained character model, one character at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..decode import sample as draw
from .corpus import decode, encode

__all__ = ["sample"]


def sample(
    model: Any,
    vocabulary: str,
    prompt: str,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
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
    top_k : int, optional
        Only so many of the likeliest characters are drawn from.
    rng : optional
        Seed or generator, as for `numpy.random.default_rng`.
    num_threads : int, optional
        As for the layers.

    Returns
    -------
    str
        The drawn characters, without the prompt.
    """
    if not prompt:
        raise ValueError("prompt: expected at least one character, got an empty string")
    try:
        ids = encode(prompt, vocabulary)
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from error
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "rng": rng, "num_threads": num_threads}
    return decode(draw(model, ids, length, **options).ids, vocabulary)
