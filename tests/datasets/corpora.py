"""Small corpora that tests of text and counts share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storyzoo.datasets.counts import Counts, count_tokens
from storyzoo.datasets.dataset import Dataset


def random_counts(seed: int, n_documents: int = 40, n_words: int = 30) -> Counts:
    """Documents of 1 to 60 tokens; every word may be used."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 60, n_documents)
    return count_tokens(length, rng.integers(0, n_words, length.sum()), n_words)


def counts_of(dataset: Dataset) -> Counts:
    """The arrays of a data set of text."""
    return Counts(**dataset.arrays)  # type: ignore[arg-type]


def same(one: Counts, other: Counts) -> bool:
    """Whether two corpora are the same, entry by entry."""
    pairs = zip(one.arrays.values(), other.arrays.values(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def as_uci(counts: Counts) -> str:
    """UCI's bag of words."""
    head = [len(counts.length), counts.n_words, len(counts.word)]
    entries = zip(counts.document + 1, counts.word + 1, counts.count, strict=True)
    return "".join([*(f"{n}\n" for n in head), *(f"{d} {w} {c}\n" for d, w, c in entries)])


def as_lda_c(counts: Counts) -> str:
    """LDA-C."""
    ends = np.cumsum(counts.length)[:-1]
    documents = zip(np.split(counts.word, ends), np.split(counts.count, ends), strict=True)
    return "".join(
        " ".join([str(len(word)), *(f"{w}:{c}" for w, c in zip(word, count, strict=True))]) + "\n"
        for word, count in documents
    )


def as_text(counts: Counts, words: list[str]) -> str:
    """A line per document, each word as often as it is counted."""
    ends = np.cumsum(counts.length)[:-1]
    documents = zip(np.split(counts.word, ends), np.split(counts.count, ends), strict=True)
    return "".join(
        " ".join(w for i, c in zip(word, count, strict=True) for w in [words[i]] * c) + "\n"
        for word, count in documents
    )


def as_csr(counts: Counts) -> Any:
    """SciPy's sparse matrix, documents by words."""
    from scipy import sparse

    indptr = np.concatenate([[0], np.cumsum(counts.length)])
    shape = (len(counts.length), counts.n_words)
    return sparse.csr_array((counts.count, counts.word, indptr), shape)


def write(path: str, content: str | bytes) -> str:
    """Write a file in the current folder; returns its path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
