"""Counts without their zeros: what is checked of them before any story sees them.

A corpus of D documents and E distinct (document, word) pairs is ``length`` (D,), the distinct words
of each document, ``word`` (E,) and ``count`` (E,), which words and how often, the entries of a
document next to each other with their words ascending, and ``n_words``, the size V of the
vocabulary. No (D, V) table is made at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storyzoo.errors import DataError

ARGUMENTS = ("length", "word", "count", "n_words")
"""What a story of bags of words takes, by name."""

Names = Mapping[str, Sequence[Any]]
"""Names along ``document`` and ``word``, where they have some."""


def from_matrix(matrix: Any) -> dict[str, Any]:
    """The corpus of a scipy sparse matrix of counts (document, word); explicit zeros are left out.

    >>> from_matrix(csr_array([[0, 2, 1], [1, 0, 0]]))
    {'length': array([2, 1]), 'word': array([1, 2, 0]), 'count': array([2, 1, 1]), 'n_words': 3}
    """
    rows = matrix.tocsr().copy()
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return {
        "length": np.diff(rows.indptr).astype(np.int64),
        "word": rows.indices.astype(np.int64),
        "count": rows.data,
        "n_words": int(rows.shape[1]),
    }


def checked(name: str, arrays: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The corpus in whole numbers, entries in order; DataError on the first that is impossible."""
    if not isinstance(arrays["n_words"], int) or arrays["n_words"] < 1:
        raise DataError(
            f"{name}: n_words={arrays['n_words']!r}: give the size of the vocabulary, at least 1"
        )
    length = _whole(name, "length", arrays["length"], names)
    if (length < 1).any():
        place = int((length < 1).argmax())
        said = "has no words" if length[place] == 0 else f"has length {length[place]}"
        raise DataError(f"{name}: document {_named(names, 'document', place)} {said}: leave it out")
    _check_sizes(name, length, arrays)
    document = np.repeat(np.arange(len(length)), length)
    word = _whole(name, "word", arrays["word"], names, document)
    outside = (word < 0) | (word >= arrays["n_words"])
    if outside.any():
        place = int(outside.argmax())
        raise DataError(
            f"{name}: document {_named(names, 'document', document[place])} has word number "
            f"{word[place]}, but the vocabulary's {arrays['n_words']} words are numbered from 0"
        )
    count = _whole(name, "count", arrays["count"], names, document, word)
    if (count < 1).any():
        place = int((count < 1).argmax())
        raise DataError(
            f"{name}: {_place(names, document, word, place)} has count {count[place]}: "
            "counts are whole numbers above zero; leave out what does not occur"
        )
    return _ordered(length, document, word, count, arrays["n_words"])


def _check_sizes(name: str, length: np.ndarray, arrays: Mapping[str, Any]) -> None:
    for key in ("word", "count"):
        if len(arrays[key]) != length.sum():
            raise DataError(
                f"{name}: the documents' lengths add up to {length.sum()}, but {key!r} has "
                f"{len(arrays[key])} entries: make them agree"
            )


def _whole(
    name: str,
    key: str,
    values: np.ndarray,
    names: Names,
    document: np.ndarray | None = None,
    word: np.ndarray | None = None,
) -> np.ndarray:
    """Values as int64; DataError on the first that is no whole number."""
    if values.dtype.kind != "f":
        return values
    broken = ~np.isfinite(values) | (values != np.floor(values))
    if broken.any():
        place = int(broken.argmax())
        where = f"document {_named(names, 'document', place)}"
        if document is not None:
            where = _place(names, document, word, place)
        raise DataError(f"{name}: {where} has {key} {values[place]:g}: give whole numbers")
    return values.astype(np.int64)


def _place(names: Names, document: np.ndarray, word: np.ndarray | None, place: int) -> str:
    said = f"document {_named(names, 'document', document[place])}"
    return said if word is None else f"{said}, word {_named(names, 'word', word[place])}"


def _named(names: Names, dim: str, place: Any) -> str:
    """A name in quotes where there is one; documents count from 1, words as they are numbered."""
    if dim in names and int(place) < len(names[dim]):
        return f"{str(names[dim][int(place)])!r}"
    return str(int(place) + (dim == "document"))


def _ordered(
    length: np.ndarray, document: np.ndarray, word: np.ndarray, count: np.ndarray, n_words: int
) -> dict[str, Any]:
    """Words ascending within each document, and each of them once."""
    key = document * n_words + word
    if (np.diff(key) <= 0).any():
        key, inverse = np.unique(key, return_inverse=True)
        count = np.bincount(inverse, weights=count).astype(np.int64)
        word, length = key % n_words, np.bincount(key // n_words, minlength=len(length))
    return {"length": length, "word": word, "count": count, "n_words": n_words}
