"""Corpora to test topics on: tiny ones, and ones drawn from known topics."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln, logsumexp

TINY: dict[str, Any] = {
    "length": np.array([2, 1, 2]),
    "word": np.array([0, 2, 1, 0, 1]),
    "count": np.array([2, 1, 2, 1, 1]),
    "n_words": 3,
}
"""Three documents of three, two and two words."""


@dataclass(frozen=True)
class Known:
    """A corpus with the topics (K, V) and mixtures (D, K) that it was drawn from."""

    arrays: dict[str, Any]
    topics: np.ndarray
    mixture: np.ndarray


def drawn_corpus(
    rng: np.random.Generator,
    *,
    k: int = 4,
    n_words: int = 60,
    documents: int = 300,
    size: int = 80,
    alpha: float | np.ndarray = 0.2,
    eta: float = 0.05,
) -> Known:
    """Documents of ``size`` words each."""
    topics = rng.dirichlet(np.full(n_words, eta), k)
    mixture = rng.dirichlet(np.broadcast_to(alpha, k), documents)
    counts = np.stack([rng.multinomial(size, m @ topics / (m @ topics).sum()) for m in mixture])
    document, word = counts.nonzero()
    arrays = {
        "length": np.bincount(document, minlength=documents),
        "word": word,
        "count": counts[document, word],
        "n_words": n_words,
    }
    return Known(arrays, topics, mixture)


def tokens(arrays: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The document and the word of every token."""
    document = np.repeat(np.arange(len(arrays["length"])), arrays["length"])
    count = arrays["count"]
    return np.repeat(document, count), np.repeat(arrays["word"], count)


def every_z(n: int, k: int) -> list[np.ndarray]:
    """All assignments of n tokens to k topics."""
    return [np.array(z) for z in itertools.product(range(k), repeat=n)]


def log_polya(counts: np.ndarray, alpha: np.ndarray | float) -> float:
    """``log Dirichlet-multinomial`` of sequences with these counts (…, K), summed, nats."""
    a = np.broadcast_to(alpha, counts.shape)
    each = gammaln(a.sum(-1)) - gammaln((a + counts).sum(-1))
    return float((each + (gammaln(a + counts) - gammaln(a)).sum(-1)).sum())


def log_evidence(arrays: dict[str, Any], k: int, alpha: float, eta: float) -> float:
    """``log p(w)`` with topics and mixtures integrated out, by going through every z."""
    document, word = tokens(arrays)
    terms = []
    for z in every_z(len(word), k):
        by_document = np.zeros((len(arrays["length"]), k))
        by_word = np.zeros((k, arrays["n_words"]))
        np.add.at(by_document, (document, z), 1)
        np.add.at(by_word, (z, word), 1)
        terms.append(log_polya(by_document, alpha) + log_polya(by_word, eta))
    return float(logsumexp(terms))


def log_words(word: np.ndarray, topics: np.ndarray, alpha: float) -> float:
    """``log p(words of one document | topics)``, its mixture integrated out, through every z."""
    k = len(topics)
    terms = [
        log_polya(np.bincount(z, minlength=k), alpha) + np.log(topics[z, word]).sum()
        for z in every_z(len(word), k)
    ]
    return float(logsumexp(terms))
