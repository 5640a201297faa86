"""What is told of topics: their words, how large they are, how far apart, how often they return.

Topics are rows ``(K, V)`` of probabilities over the vocabulary, mixtures rows ``(D, K)`` of
probabilities over the topics.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

LAMBDA = 0.6
"""Weight of probability against lift, at which people knew topics best (see ``relevance``)."""

SHARED = 0.8
"""Cosine from which two topics count as one, here as in the metric ``shared_topics``."""

Array = NDArray[np.float64]
Places = NDArray[np.int_]


@dataclass(frozen=True)
class Corpus:
    """Counts without their zeros: entries (E,) of documents that follow one another."""

    document: Places
    """(E,): the document of each entry."""
    word: Places
    count: Array
    n_documents: int

    def word_shares(self, n_words: int) -> Array:
        """(V,): each word's share of all words."""
        total = np.bincount(self.word, self.count, n_words).astype(float)
        shares: Array = total / max(total.sum(), 1.0)
        return shares

    def sizes(self) -> Array:
        """(D,): words of each document, repeats counted."""
        return np.bincount(self.document, self.count, self.n_documents).astype(float)


def corpus_of(length: Places, word: Places, count: Places) -> Corpus:
    """A corpus from the number of entries of each document (D,), and the entries (E,)."""
    document = np.repeat(np.arange(len(length)), length)
    return Corpus(document, word, np.asarray(count, float), len(length))


def relevance(topics: Array, shares: Array, weight: float = LAMBDA) -> Array:
    """``weight log topics_kv + (1 - weight) log(topics_kv / shares_v)``: (K, V).

    High for words that are frequent in a topic and rarer elsewhere; a word that the documents
    lack has none (minus infinity). Source: Sievert and Shirley (2014), ILLVI, eq. 1; people told
    topics best by a weight of about 0.6.
    """
    tiny = np.finfo(float).tiny
    log_topics = np.log(np.maximum(topics, tiny))
    lift = log_topics - np.log(np.maximum(shares, tiny))
    found: Array = np.where(shares > 0, weight * log_topics + (1 - weight) * lift, -np.inf)
    return found


def divergences(topics: Array) -> Array:
    """Jensen-Shannon divergence of each two topics, bits: (K, K), between 0 and 1.

    Its square root is a distance (Endres and Schindelin 2003, IEEE Trans. Inf. Theory 49).
    """
    apart = np.zeros((len(topics), len(topics)))
    entropy = _entropy(topics)
    for k in range(len(topics) - 1):
        both = _entropy((topics[k] + topics[k + 1 :]) / 2)
        apart[k, k + 1 :] = apart[k + 1 :, k] = both - (entropy[k] + entropy[k + 1 :]) / 2
    return np.clip(apart, 0.0, 1.0)


def _entropy(topics: Array) -> Array:
    """Bits, by row."""
    found: Array = -(topics * np.log2(np.maximum(topics, np.finfo(float).tiny))).sum(-1)
    return found


def scaled(squared: Array) -> tuple[Array, float]:
    """Places in the plane (K, 2) whose distances are nearest to those given, squared, (K, K).

    Classical scaling: the two leading eigenvectors of ``-1/2 J squared J``, J taking means off
    (Torgerson 1952, Psychometrika 17). Beside them what share of the spread they show.
    """
    centred = squared - squared.mean(0)
    centred = -0.5 * (centred - centred.mean(1, keepdims=True))
    values, vectors = np.linalg.eigh(centred)
    values = np.maximum(values[::-1], 0.0)
    vectors = vectors[:, ::-1][:, :2]
    sign = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    places = vectors * sign * np.sqrt(values[:2])
    return places, float(values[:2].sum() / max(values.sum(), 1e-300))


def cosines(ones: Array, others: Array) -> Array:
    """Cosines of the words' probabilities of two runs' topics: (K, L), from 0 to 1."""
    lengths = np.linalg.norm(ones, axis=1)[:, None] * np.linalg.norm(others, axis=1)
    found: Array = ones @ others.T / np.maximum(lengths, 1e-300)
    return found


def best_matches(common: Array) -> Places:
    """(K,): the partner of each row, alike as can be in all; -1 where there is none."""
    partner = np.full(len(common), -1)
    rows, columns = linear_sum_assignment(-common)
    partner[rows] = columns
    return partner


def agreement(chains: Array) -> Array:
    """How alike the topics of each two chains ``(C, K, V)`` are, matched one to one: (K, C, C).

    Entry (k, a, b) is the cosine of topic k of chain a with its match in chain b: the matching for
    which the cosines have the greatest sum (Greene, O'Callaghan and Cunningham 2014, ECML PKDD).
    """
    found = np.ones((chains.shape[1], len(chains), len(chains)))
    for a, b in itertools.combinations(range(len(chains)), 2):
        alike = cosines(chains[a], chains[b])
        partner = best_matches(alike)
        found[:, a, b] = alike[np.arange(len(alike)), partner]
        found[partner, b, a] = found[:, a, b]
    return found


def shares_of(mixture: Array, sizes: Array) -> Array:
    """Share of all words that each topic has: mixtures ``(..., D, K)`` weighted by sizes (D,)."""
    found: Array = np.einsum("...dk,d->...k", mixture, sizes / max(sizes.sum(), 1.0))
    return found


def telling_words(corpus: Corpus, document: int, topic: Array, shares: Array) -> Places:
    """Words of a document, those first that speak most for a topic (V,) against all documents.

    By ``count log(topic_v / shares_v)``; words that speak against it are left out.
    """
    first, last = np.searchsorted(corpus.document, [document, document + 1])
    word, count = corpus.word[first:last], corpus.count[first:last]
    tiny = np.finfo(float).tiny
    said = count * np.log(np.maximum(topic[word], tiny) / np.maximum(shares[word], tiny))
    order = np.argsort(-said, kind="stable")
    return word[order[said[order] > 0]]
