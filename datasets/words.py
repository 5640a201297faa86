"""Text cut into words, a block of documents at once, by NumPy and Arrow.

The words are those of scikit-learn's ``CountVectorizer`` with its own ``token_pattern``
(``words``) or ``\\S+`` (``spaces``); a test holds both against it. This takes a third of its time,
since no word becomes a Python object before all its uses in the block have been gathered.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


class Kind(NamedTuple):
    """What a word is: an unbroken run of certain characters, of some length."""

    character: Callable[[str], bool]
    shortest: int


KINDS = {
    "words": Kind(lambda character: character.isalnum() or character == "_", 2),
    "spaces": Kind(lambda character: not character.isspace(), 1),
}
"""Letters, digits and underscores, two or more; or whatever stands between spaces."""


class Words(NamedTuple):
    """The words of a block of documents, one after another."""

    length: np.ndarray
    """``(document,)``: how many words each has, repeated ones too."""
    token: np.ndarray
    """``(token,)``: the place of each in ``distinct``."""
    distinct: list[str]


def cut(texts: Sequence[str], kind: str, lowercase: bool) -> Words:
    """The words of documents, in their order."""
    if lowercase:
        texts = [text.lower() for text in texts]
    code = _code_points("\n".join(["", *texts, ""]))
    inside = _characters(kind)[code]
    edge = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    start, end = edge[::2], edge[1::2]
    short = end - start < KINDS[kind].shortest
    inside[start[short]] = False  # the shortest word has two characters at most
    start, end = start[~short], end[~short]
    stop = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)
    length = np.diff(np.searchsorted(start, stop), prepend=0)
    encoded = _words(code[inside], end - start).dictionary_encode()
    token = encoded.indices.to_numpy().astype(np.int64)
    return Words(length, token, encoded.dictionary.to_pylist())


def _words(code: np.ndarray, size: np.ndarray) -> pa.LargeStringArray:
    """Words of so many code points each, from their code points without gaps."""
    import pyarrow as pa

    offset = np.concatenate([[0], np.cumsum(size)])
    if code.dtype == np.uint8:
        content = code.tobytes()
    else:
        width = 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)  # in UTF-8
        offset = np.concatenate([[0], np.cumsum(width)])[offset]
        content = code.tobytes().decode(_UTF32).encode()
    return pa.LargeStringArray.from_buffers(
        len(size), pa.py_buffer(offset.astype(np.int64)), pa.py_buffer(content)
    )


_UTF32 = f"utf-32-{sys.byteorder[0]}e"


def _code_points(text: str) -> np.ndarray:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode(_UTF32), np.uint32)


@functools.cache
def _characters(kind: str) -> np.ndarray:
    """For every code point, whether it may stand in a word."""
    allowed = KINDS[kind].character
    return np.fromiter(map(allowed, map(chr, range(sys.maxunicode + 1))), bool)
