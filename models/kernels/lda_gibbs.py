"""Gibbs sweeps for latent Dirichlet allocation, with topics and mixtures integrated out.

The topic of one token of word v in document d, given those of all others (counts without it)::

    p(z = k | rest) ∝ (n_dk + alpha_k) (n_vk + eta) / (n_k + V eta)

The machine code evaluates that for all topics side by side, and looks for the new topic only where
the token leaves its old one, which settled chains do for one token in four. Weights are in single
precision, counts in whole numbers. Without a compiler a sweep is blocked: topics and mixtures are
drawn given every z, then every z at once given those. It leaves the same posterior invariant, but
takes ten times as long and more sweeps to settle.

Topics and mixtures given z are Dirichlet again, so that draws of them are exact. So is the update
of an unknown concentration: with A its sum, N_d the tokens of a document, and m_dk how many of its
n_dk tokens opened a table in Antoniak's (1974) urn,

    x_d ~ Beta(A, N_d)        m_dk ~ sum_{i < n_dk} Bernoulli(alpha_k / (alpha_k + i))
    alpha_k | m, x ~ Gamma(1 + sum_d m_dk, rate 1 / mean_k - sum_d log x_d)

Shapes: z (token,) of uint16, tokens in the order of the entries; counts of words ``(V, K)``, of
documents ``(D, K)``; all logarithms in nats.

Sources: Griffiths and Steyvers (2004), PNAS 101; the concentration as in Teh, Jordan, Beal and
Blei (2006), JASA 101, appendix. Random bits in C: xoshiro256++, Blackman and Vigna (2021).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gammaln
from torch import Tensor

from storyzoo.errors import SettingError
from storyzoo.story import Data

Array = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Topics = npt.NDArray[np.uint16]

LANES = 16
"""Topics that are weighed at a time; rows of counts are filled up to a multiple of it."""
AHEAD = 4
"""Tokens whose counts are asked for before they are needed."""
AT_ONCE = 16384
"""Tokens that a blocked sweep moves at a time, so that their weights stay in the cache."""
MOST_TOPICS = 2**16
"""What a token's topic, 16 bits, can name."""

SOURCE = """
#include <stdint.h>

static uint64_t turned(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

static uint64_t next_bits(uint64_t *s)
{
    uint64_t result = turned(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0]; s[3] ^= s[1]; s[1] ^= s[2]; s[0] ^= s[3];
    s[2] ^= t;
    s[3] = turned(s[3], 45);
    return result;
}

/* A topic in proportion to weight[K], of which u >= 0 is less than the sum. */
static int64_t pick(const float *weight, int64_t K, double u)
{
    int64_t block = 0, k;
    for (; block < K - LANES; block += LANES) {
        float sum = 0;
        for (int lane = 0; lane < LANES; ++lane) sum += weight[block + lane];
        if (u < sum) break;
        u -= sum;
    }
    for (k = block; k < block + LANES - 1 && u >= weight[k]; ++k) u -= weight[k];
    while (k > 0 && weight[k] == 0) --k;  /* rounding led past the last */
    return k;
}

/* K is a multiple of LANES; the topics that fill it up have alpha 0, and nothing ever is of them.
   length (D): tokens of each document; word and z (T); of_word (V, K), of_topic (K). */
void lda_sweep(int64_t D, int64_t T, int64_t K, const int64_t *length, const int32_t *word,
               const float *restrict alpha, float eta, float eta_sum, uint16_t *z,
               int32_t *restrict of_word, int32_t *restrict of_topic,
               int32_t *restrict of_document, float *restrict inverse, float *restrict weight,
               const uint64_t *seed)
{
    uint64_t bits[4] = {seed[0], seed[1], seed[2], seed[3]};
    for (int64_t k = 0; k < K; ++k) inverse[k] = 1.0f / (of_topic[k] + eta_sum);
    for (int64_t d = 0, t = 0; d < D; ++d) {
        int64_t end = t + length[d];
        for (int64_t k = 0; k < K; ++k) of_document[k] = 0;
        for (int64_t i = t; i < end; ++i) ++of_document[z[i]];
        for (; t < end; ++t) {
            int32_t *restrict row = of_word + word[t] * K;
            if (t + AHEAD < T) __builtin_prefetch(of_word + word[t + AHEAD] * K);
            int32_t old = z[t];
            float own = (of_document[old] - 1 + alpha[old]) * (row[old] - 1 + eta)
                      / (of_topic[old] - 1 + eta_sum);
            float others = 0;
            for (int32_t k = 0; k < (int32_t)K; ++k) {
                float w = (of_document[k] + alpha[k]) * (row[k] + eta) * inverse[k];
                w = k == old ? 0 : w;
                weight[k] = w;
                others += w;
            }
            double u = (double)(next_bits(bits) >> 11) * 0x1p-53 * (others + own);
            if (u >= others) continue;
            int64_t k = pick(weight, K, u);
            --of_document[old]; --row[old]; --of_topic[old];
            ++of_document[k]; ++row[k]; ++of_topic[k];
            inverse[old] = 1.0f / (of_topic[old] + eta_sum);
            inverse[k] = 1.0f / (of_topic[k] + eta_sum);
            z[t] = (uint16_t)k;
        }
    }
}
""".replace("LANES", str(LANES)).replace("AHEAD", str(AHEAD))
"""``lda_sweep``, which moves every token once, in order."""


class Counts(NamedTuple):
    """How many tokens are of each topic."""

    of_word: Whole
    """(V, K)"""
    of_document: Whole
    """(D, K)"""


class TopicChain:
    """A chain in the topics of all tokens, and in the concentration where it is unknown.

    ``alpha`` is (K,), the prior mean where the concentration is learned; ``code`` the compiled
    SOURCE. Every token starts with a topic at random.
    """

    def __init__(
        self,
        data: Data,
        alpha: Array,
        eta: float,
        rng: np.random.Generator,
        code: ctypes.CDLL | None,
        *,
        learn_alpha: bool = False,
    ) -> None:
        if len(alpha) > MOST_TOPICS:
            raise SettingError(f"n_topics={len(alpha)} is more than sweeps can name: {MOST_TOPICS}")
        length, word, count = (data[name].numpy() for name in ("length", "word", "count"))
        self._n_words, self._eta, self._code = int(data["n_words"]), eta, code
        of_entry = np.repeat(np.arange(len(length), dtype=np.int32), length)
        self._document = np.repeat(of_entry, count)
        self._word = np.repeat(word.astype(np.int32), count)
        self._length = np.bincount(self._document, minlength=len(length))
        self._mean = alpha if learn_alpha else None
        z = rng.integers(len(alpha), size=len(self._word), dtype=np.uint16)
        self.restore({"z": z, "concentration": alpha})

    def state(self) -> dict[str, Array | Topics]:
        """Every token's topic, and the concentration."""
        return {"z": self._z.copy(), "concentration": self._alpha}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        self._z, self._alpha = state["z"].copy(), state["concentration"]
        padded = -(-len(self._alpha) // LANES) * LANES
        self._of_word = self._table(self._word, self._n_words, padded).astype(np.int32)
        self._of_topic = self._of_word.sum(0, dtype=np.int32)

    def counts(self) -> Counts:
        """Tokens of each topic, by word and by document."""
        of_word = self._table(self._word, self._n_words, len(self._alpha))
        return Counts(of_word, self._of_document())

    def _of_document(self) -> Whole:
        return self._table(self._document, len(self._length), len(self._alpha))

    def _table(self, row: npt.NDArray[np.int32], n_rows: int, n_topics: int) -> Whole:
        cell = row.astype(np.int64) * n_topics + self._z
        return np.bincount(cell, minlength=n_rows * n_topics).reshape(n_rows, n_topics)

    # -- sweeps ----------------------------------------------------------------------------------

    def sweep(self, rng: np.random.Generator) -> None:
        """Move every token once, then the concentration."""
        if self._code is None:
            self._move_in_blocks(rng)
        else:
            self._move_one_by_one(self._code, rng)
        if self._mean is not None:
            self._alpha = draw_concentration(self._of_document(), self._alpha, self._mean, rng)

    def _move_one_by_one(self, code: ctypes.CDLL, rng: np.random.Generator) -> None:
        padded = self._of_word.shape[1]
        alpha, inverse, weight = np.zeros((3, padded), dtype=np.float32)
        alpha[: len(self._alpha)] = self._alpha
        bits = rng.integers(2**64, size=4, dtype=np.uint64)
        of_document = np.empty(padded, dtype=np.int32)
        code.lda_sweep(
            *map(ctypes.c_int64, (len(self._length), len(self._word), padded)),
            *map(_pointer, (self._length, self._word, alpha)),
            *map(ctypes.c_float, (self._eta, self._eta * self._n_words)),
            *map(_pointer, (self._z, self._of_word, self._of_topic)),
            *map(_pointer, (of_document, inverse, weight, bits)),
        )

    def _move_in_blocks(self, rng: np.random.Generator) -> None:
        """Topics and mixtures given z, then z given those: by inversion, some tokens at a time."""
        topics, mixture = draw(self.counts(), self._alpha, self._eta, rng)
        by_word, by_document = topics.T.astype(np.float32), mixture.astype(np.float32)
        for first in range(0, len(self._z), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            weight = by_document[self._document[some]] * by_word[self._word[some]]
            sums = weight.cumsum(1)
            u = rng.random((len(sums), 1), dtype=np.float32) * sums[:, -1:]
            self._z[some] = (sums[:, :-1] <= u).sum(1)

    # -- what is told ----------------------------------------------------------------------------

    def draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Topics and mixtures given where the chain is; the concentration as it is."""
        topics, mixture = draw(self.counts(), self._alpha, self._eta, rng)
        found = {"topics": topics, "mixture": mixture}
        if self._mean is not None:
            found["concentration"] = self._alpha
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def log_joint(self) -> float:
        """Log joint density of words, their topics and the concentration, nats."""
        found = log_joint(self.counts(), self._alpha, self._eta)
        if self._mean is not None:
            found -= float((np.log(self._mean) + self._alpha / self._mean).sum())
        return found


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


# -- given every token's topic ------------------------------------------------------------------


def draw(counts: Counts, alpha: Array, eta: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Topics ``(K, V)`` and mixtures ``(D, K)`` given z: exact draws of their Dirichlets."""
    topics = _dirichlet(counts.of_word.T.astype(np.float64) + eta, rng)
    return topics, _dirichlet(counts.of_document + alpha, rng)


def _dirichlet(concentration: Array, rng: np.random.Generator) -> Array:
    """A draw for each row; no value is zero, which small concentrations would round to."""
    log_gamma = np.log(rng.standard_gamma(concentration + 1))
    log_gamma += np.log1p(-rng.random(concentration.shape)) / concentration  # Marsaglia and Tsang
    log_gamma -= log_gamma.max(-1, keepdims=True)
    values: Array = np.exp(log_gamma)
    values /= values.sum(-1, keepdims=True)
    return values.clip(min=np.finfo(np.float32).tiny)


def log_joint(counts: Counts, alpha: Array, eta: float) -> float:
    """``log p(w, z | alpha, eta)``, nats: topics and mixtures integrated out.

    ``sum log B(counts + concentration) / B(concentration)`` over topics and over documents.
    """
    of_word, of_document = counts
    n_words = len(of_word)
    topics = _log_rising(of_word, np.full(1, eta)) - float(
        (gammaln(of_word.sum(0) + n_words * eta) - gammaln(n_words * eta)).sum()
    )
    total = alpha.sum()
    documents = _log_rising(of_document, alpha) - float(
        (gammaln(of_document.sum(1) + total) - gammaln(total)).sum()
    )
    return topics + documents


def _log_rising(counts: Whole, concentration: Array) -> float:
    """``sum log Gamma(n + c) / Gamma(c)``, of which zero counts add nothing."""
    seen = counts > 0
    c = np.broadcast_to(concentration, counts.shape)[seen]
    return float((gammaln(counts[seen] + c) - gammaln(c)).sum())


def draw_concentration(
    of_document: Whole, alpha: Array, mean: Array, rng: np.random.Generator
) -> Array:
    """The mixtures' concentration (K,) after an exact update; a priori Exponential, by its mean."""
    totals = of_document.sum(1)
    rate = 1 / mean - np.log(rng.beta(alpha.sum(), totals)).sum()
    above = _how_many_above(of_document)
    i = np.arange(len(above))[:, None]
    tables = rng.binomial(above, alpha / (alpha + i)).sum(0)
    return np.asarray(rng.gamma(1.0 + tables) / rate)


def _how_many_above(of_document: Whole) -> Whole:
    """(n, K): how many documents have more than i tokens of a topic, for i below the most."""
    n_topics = of_document.shape[1]
    cell = of_document * n_topics + np.arange(n_topics)
    size = (int(of_document.max()) + 1) * n_topics
    at_most = np.bincount(cell.ravel(), minlength=size).reshape(-1, n_topics).cumsum(0)
    above: Whole = len(of_document) - at_most[:-1]
    return above
