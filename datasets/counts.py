"""Counts of words as a sparse matrix without zeros: what every corpus becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Documents one after another, the words of each ascending: CSR whose rows are lengths.

    All arrays are int64; every count is at least 1.
    """

    length: np.ndarray
    """``(document,)``: how many different words a document has."""
    word: np.ndarray
    """``(entry,)``: a place in the vocabulary, 0 to ``n_words - 1``."""
    count: np.ndarray
    """``(entry,)``: how often the document has the word."""
    n_words: int

    @property
    def arrays(self) -> dict[str, np.ndarray | int]:
        """All by name, as a story of bags of words takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def document(self) -> np.ndarray:
        """``(entry,)``: the document of each entry."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def frequency(self) -> np.ndarray:
        """``(word,)``: in how many documents each word stands."""
        return np.bincount(self.word, minlength=self.n_words)

    @property
    def uses(self) -> np.ndarray:
        """``(word,)``: how often each word is used in all."""
        uses = np.bincount(self.word, self.count, self.n_words)
        return uses.astype(np.int64)

    @property
    def sizes(self) -> np.ndarray:
        """``(document,)``: how many words each document has, repeated ones too."""
        return np.bincount(self.document, self.count, len(self.length)).astype(np.int64)

    @property
    def tokens(self) -> int:
        """How many words there are in all."""
        return int(self.count.sum())

    def documents(self, keep: np.ndarray) -> Counts:
        """The documents that a mask ``(document,)`` keeps."""
        entries = np.repeat(keep, self.length)
        return Counts(self.length[keep], self.word[entries], self.count[entries], self.n_words)

    def renamed(self, place: np.ndarray, n_words: int) -> Counts:
        """The same documents over another vocabulary.

        ``place`` holds for each word of this vocabulary its place in the other, -1 for none: such
        words are left out.
        """
        word = place[self.word]
        known = word >= 0
        document, count = self.document[known], self.count[known]
        return ordered(document, word[known], count, len(self.length), n_words)


def count_tokens(length: np.ndarray, token: np.ndarray, n_words: int) -> Counts:
    """Counts of documents that are given token by token; negative tokens are left out.

    ``length`` ``(document,)`` says how many tokens each has, ``token`` ``(token,)`` which.
    """
    known = token >= 0
    key = (np.repeat(np.arange(len(length)), length) * n_words + token)[known]
    key.sort()
    first = np.flatnonzero(np.diff(key, prepend=-1))
    document, word = np.divmod(key[first], max(n_words, 1))
    count = np.diff(first, append=len(key))
    return Counts(np.bincount(document, minlength=len(length)), word, count, n_words)


def ordered(
    document: np.ndarray, word: np.ndarray, count: np.ndarray, n_documents: int, n_words: int
) -> Counts:
    """Entries ``(entry,)`` in any order, no two for the same document and word."""
    key = document * n_words + word
    if np.any(key[1:] < key[:-1]):
        order = np.argsort(key, kind="stable")
        word, count = word[order], count[order]
    length = np.bincount(document, minlength=n_documents)
    return Counts(length, word.astype(np.int64), count.astype(np.int64), n_words)


def joined(blocks: Sequence[Counts], n_words: int) -> Counts:
    """Blocks of documents one after another."""
    none = np.zeros(0, np.int64)
    return Counts(
        np.concatenate([none, *(block.length for block in blocks)]),
        np.concatenate([none, *(block.word for block in blocks)]),
        np.concatenate([none, *(block.count for block in blocks)]),
        n_words,
    )
