"""What a document holds beside the words that count: words of no vocabulary, and gaps.

New documents have words that the vocabulary of a fit lacks, and how many is a sign of what they are
about. What is usual is told by the documents fitted, each read as if it were new: its words that
fewer than ``min_df`` of the *others* have would not be in the vocabulary either (as Good-Turing
estimates count what was seen once).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from storyzoo.datasets.counts import Counts

USUAL = 0.99
"""Share of all words that stand in documents whose share of unknown words is called usual."""
UNLIKELY = 0.01
"""Chance below which so many unknown words are no chance."""


class Unread(NamedTuple):
    """By document, ``(document,)``."""

    unknown: np.ndarray
    """Words that the vocabulary lacks; stop words are not among them."""
    gaps: np.ndarray | None
    """Gaps where a word is missing; None where counts were given, which have none."""

    @property
    def total(self) -> int:
        """All unknown words."""
        return int(self.unknown.sum())

    def of(self, keep: np.ndarray) -> Unread:
        """That of the documents that a mask keeps."""
        return Unread(self.unknown[keep], None if self.gaps is None else self.gaps[keep])


def joined_unread(blocks: Sequence[Unread]) -> Unread:
    """Blocks of documents one after another; all are text."""
    none = np.zeros(0, np.int64)
    return Unread(
        np.concatenate([none, *(block.unknown for block in blocks)]),
        np.concatenate([none, *(block.gaps for block in blocks if block.gaps is not None)]),
    )


def usual_unknown(counts: Counts, left_out: np.ndarray, least: float) -> float:
    """The largest usual share of unknown words: documents with more have 1 in 100 of all words.

    Counted by words, as shares of a few words say little. Word v of a document counts as unknown
    where the settings leave it out (``left_out`` (word,)), or would but for this document:
    ``frequency_v - 1 < max(least, 1)``.
    """
    rare = left_out | (counts.frequency - 1 < max(least, 1))
    n_documents = len(counts.length)
    unknown = np.bincount(counts.document, counts.count * rare[counts.word], n_documents)
    total = np.bincount(counts.document, counts.count, n_documents)
    shares = unknown / np.maximum(total, 1)
    order = np.argsort(shares)
    reached = np.cumsum(total[order]) >= USUAL * total.sum()
    return float(shares[order][reached.argmax()])


def many(unknown: np.ndarray, total: np.ndarray, usual: float) -> np.ndarray:
    """Whether documents have more unknown words than chance gives at the largest usual share.

    ``P(U >= unknown) < 0.01`` for ``U ~ Binomial(total, max(usual, 1 / total))``: one unknown word
    is usual anywhere.
    """
    from scipy.stats import binom

    rate = np.maximum(usual, 1 / np.maximum(total, 1))
    return np.asarray(binom.sf(unknown - 1, total, rate) < UNLIKELY)
