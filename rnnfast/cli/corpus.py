"""The text that a character model learns: characters to ids, the part held out, and a hash to know the text again.

The default text is that of Python's own help topics, which every Python carries, so that `rnnfast train` needs
neither a download nor a file. The vocabulary is that of the whole text; the last tenth is held out (in one piece:
parts picked at random would lie between training text almost equal to them).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Corpus", "decode", "encode", "help_topics", "load"]

HELD_OUT = 0.1


@dataclass(frozen=True)
class Corpus:
    """A text as ids.

    Attributes
    ----------
    vocabulary : str
        The distinct characters in code point order; a character's id is its place here.
    train, held_out : int64 arrays
        The ids of the two parts.
    digest : str
        SHA-256 of the text.
    """

    vocabulary: str
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    digest: str

    @classmethod
    def from_text(cls, text: str) -> Corpus:
        """Split a text; one without at least two distinct characters is an error."""
        vocabulary = "".join(sorted(set(text)))
        if len(vocabulary) < 2:
            raise ValueError(f"text: expected at least two distinct characters, got {len(vocabulary)}")
        ids = encode(text, vocabulary)
        cut = len(ids) - int(len(ids) * HELD_OUT)
        return cls(vocabulary, ids[:cut], ids[cut:], hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def help_topics() -> str:
    """The text of Python's help topics; it differs a little from one Python version to the next."""
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics))


def load(path: Path | None) -> Corpus:
    """The corpus in a UTF-8 file, or the default one."""
    if path is None:
        return Corpus.from_text(help_topics())
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text: expected UTF-8 in {path}, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from error
    except OSError as error:
        raise ValueError(f"text: can't read {path}: {error.strerror}") from error
    if not text:
        raise ValueError(f"text: expected a text, but {path} is empty")
    return Corpus.from_text(text)


def encode(text: str, vocabulary: str) -> NDArray[np.int64]:
    """The ids of a text; characters outside the vocabulary are an error that names them."""
    index = {character: place for place, character in enumerate(vocabulary)}
    if unknown := sorted(set(text) - index.keys()):
        raise ValueError(f"expected only characters that the model knows, got {''.join(unknown)!r}")
    return np.fromiter((index[character] for character in text), np.int64, len(text))


def decode(ids: NDArray[np.int64], vocabulary: str) -> str:
    """The text of ids."""
    return "".join(vocabulary[i] for i in ids)
