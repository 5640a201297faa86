"""Sweeps over topics: held against every assignment of a tiny corpus, and against the prior."""

from __future__ import annotations

from ctypes import CDLL
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from scipy.stats import chi2

from storyzoo.errors import SettingError
from storyzoo.inference.engine.lowering.compiler import find_compiler
from storyzoo.inference.engine.lowering.library import build
from storyzoo.models.kernels import lda_gibbs
from storyzoo.models.kernels.lda_gibbs import Counts, TopicChain
from storyzoo.story import Data

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
KINDS = [pytest.param("code", marks=needs_compiler), "blocked"]

TINY: Data = {
    "length": torch.tensor([2, 2]),
    "word": torch.tensor([0, 1, 1, 2]),
    "count": torch.tensor([2, 1, 1, 2]),
    "n_words": 3,  # type: ignore[dict-item]
}
"""Six tokens: a a b in one document, b c c in another."""
ALPHA, ETA = np.array([0.7, 1.6]), 0.4


def functions(kind: str) -> CDLL | None:
    return build([lda_gibbs.SOURCE]).cdll if kind == "code" else None


def corpus(rng: np.random.Generator, documents: int = 30, words: int = 40) -> Data:
    """Counts without structure."""
    counts = rng.poisson(0.4, size=(documents, words)) + np.eye(documents, words, dtype=int)
    document, word = counts.nonzero()
    return {
        "length": torch.from_numpy(np.bincount(document)),
        "word": torch.from_numpy(word),
        "count": torch.from_numpy(counts[document, word]),
        "n_words": words,  # type: ignore[dict-item]
    }


def by_urns(z: tuple[int, ...]) -> float:
    """``log p(w, z)`` of TINY, a token after another as Polya's urns give them."""
    words, documents = [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]
    total = 0.0
    for i, k in enumerate(z):
        here = [j for j in range(i) if documents[j] == documents[i]]
        of_topic = [j for j in range(i) if z[j] == k]
        same_topic, same_word = (
            sum(z[j] == k for j in here),
            sum(words[j] == words[i] for j in of_topic),
        )
        total += np.log((same_topic + ALPHA[k]) / (len(here) + ALPHA.sum()))
        total += np.log((same_word + ETA) / (len(of_topic) + 3 * ETA))
    return total


def chain_at(z: tuple[int, ...], code: CDLL | None) -> TopicChain:
    chain = TopicChain(TINY, ALPHA, ETA, np.random.default_rng(0), code)
    chain.restore({"z": np.array(z, dtype=np.uint16), "concentration": ALPHA})
    return chain


def batch_z(values: np.ndarray, known: float) -> float:
    """How many standard errors, by 50 batches, the mean of a chain lies off."""
    batches = np.array([part.mean() for part in np.array_split(values, 50)])
    return float((values.mean() - known) / (batches.std(ddof=1) / np.sqrt(50)))


# -- the joint -----------------------------------------------------------------------------------


def test_the_log_joint_is_that_of_urns() -> None:
    for z in [(0, 0, 0, 0, 0, 0), (0, 1, 1, 0, 1, 1), (1, 1, 0, 0, 0, 1)]:
        assert chain_at(z, None).log_joint() == pytest.approx(by_urns(z), rel=1e-12)


def test_an_unknown_concentration_counts_its_prior() -> None:
    rng = np.random.default_rng(0)
    known = TopicChain(TINY, ALPHA, ETA, rng, None)
    unknown = TopicChain(TINY, ALPHA, ETA, rng, None, learn_alpha=True)
    now = np.array([0.3, 2.0])
    for chain in (known, unknown):
        chain.restore({"z": np.zeros(6, np.uint16), "concentration": now})
    prior = -(np.log(ALPHA) + now / ALPHA).sum()
    assert unknown.log_joint() == pytest.approx(known.log_joint() + prior, rel=1e-12)


# -- sweeps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_sweeps_visit_every_assignment_in_its_share(kind: str) -> None:
    states = list(product(range(2), repeat=6))
    log_joint = np.array([by_urns(z) for z in states])
    share = np.exp(log_joint - np.logaddexp.reduce(log_joint))
    rng = np.random.default_rng(1)
    chain = TopicChain(TINY, ALPHA, ETA, rng, functions(kind))
    kept, apart = 4000, 8  # so far apart that visits are nearly independent
    seen = np.zeros(len(states))
    for _ in range(kept):
        for _ in range(apart):
            chain.sweep(rng)
        seen[int("".join(map(str, chain.state()["z"])), 2)] += 1
    expected = kept * share
    small = expected < 5
    pooled = [np.append(x[~small], x[small].sum()) for x in (seen, expected)]
    statistic = ((pooled[0] - pooled[1]) ** 2 / pooled[1]).sum()
    assert chi2.sf(statistic, len(pooled[0]) - 1) > 1e-3


@needs_compiler
@pytest.mark.parametrize("n_topics", [2, 16, 17, 40])
def test_tables_of_counts_stay_those_of_the_topics(n_topics: int) -> None:
    rng = np.random.default_rng(2)
    data = corpus(rng)
    code = functions("code")
    chain = TopicChain(data, np.full(n_topics, 0.3), 0.1, rng, code)
    for _ in range(20):
        chain.sweep(rng)
    state = chain.state()
    assert state["z"].max() < n_topics
    again = TopicChain(data, np.full(n_topics, 0.3), 0.1, np.random.default_rng(5), code)
    again.restore(state)  # which counts anew
    for each in (chain, again):
        each.sweep(np.random.default_rng(3))
    assert np.array_equal(chain.state()["z"], again.state()["z"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learn_alpha", [False, True])
def test_the_same_seed_gives_the_same_chain(kind: str, learn_alpha: bool) -> None:
    ends = []
    for seed in (4, 4, 5):
        rng = np.random.default_rng(seed)
        data = corpus(np.random.default_rng(0))
        chain = TopicChain(
            data, np.full(5, 0.2), 0.1, rng, functions(kind), learn_alpha=learn_alpha
        )
        for _ in range(5):
            chain.sweep(rng)
        ends.append((chain.state()["z"], *chain.draw(rng).values()))
    assert all(np.array_equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not np.array_equal(ends[0][0], ends[2][0])


def test_a_state_is_apart_from_the_chain() -> None:
    chain = chain_at((0, 1, 0, 1, 0, 1), None)
    state = chain.state()
    for _ in range(5):
        chain.sweep(np.random.default_rng(0))
    assert state["z"].tolist() == [0, 1, 0, 1, 0, 1]


def test_more_topics_than_a_token_can_name_are_refused() -> None:
    with pytest.raises(SettingError, match="n_topics=70000 is more than sweeps can name: 65536"):
        TopicChain(TINY, np.full(70_000, 0.1), ETA, np.random.default_rng(0), None)


# -- given the topics of all tokens ---------------------------------------------------------------


def test_draws_are_dirichlet_about_the_counts() -> None:
    counts = Counts(np.array([[3, 0], [1, 1], [0, 7]]), np.array([[4, 1], [0, 7]]))
    rng = np.random.default_rng(6)
    pairs = [lda_gibbs.draw(counts, ALPHA, ETA, rng) for _ in range(20_000)]
    for place, concentration in ((0, counts.of_word.T + ETA), (1, counts.of_document + ALPHA)):
        drawn = np.stack([pair[place] for pair in pairs])
        total = concentration.sum(-1, keepdims=True)
        mean = concentration / total
        sd = np.sqrt(mean * (1 - mean) / (total + 1))
        assert np.abs(drawn.mean(0) - mean).max() < 4 * (sd / np.sqrt(len(pairs))).max()
        assert drawn.std(0) == pytest.approx(sd, rel=0.03)


def test_draws_of_tiny_concentrations_are_on_the_simplex_and_nowhere_zero() -> None:
    counts = Counts(np.zeros((500, 3), dtype=np.int64), np.zeros((1, 3), dtype=np.int64))
    topics, _ = lda_gibbs.draw(counts, np.full(3, 0.1), 1e-3, np.random.default_rng(0))
    assert topics.sum(1) == pytest.approx(np.ones(3))
    assert (topics > 0).all()


def test_the_concentration_is_drawn_from_its_posterior() -> None:
    of_document = np.array([[5, 0], [0, 3], [9, 1], [2, 0], [0, 12], [4, 4]])
    mean, rng = np.array([0.5, 1.5]), np.random.default_rng(7)
    alpha, draws = mean, []
    for _ in range(20_000):
        alpha = lda_gibbs.draw_concentration(of_document, alpha, mean, rng)
        draws.append(np.log(alpha))
    grid = np.linspace(-7, 4, 441)
    first, second = np.meshgrid(np.exp(grid), np.exp(grid), indexing="ij")
    total, log_p = first + second, 0.0
    for row in of_document:
        log_p = log_p + gammaln(total) - gammaln(total + row.sum())
        for k, a in enumerate((first, second)):
            log_p = log_p + gammaln(a + row[k]) - gammaln(a)
    log_p = log_p - first / mean[0] - second / mean[1] + np.log(first * second)  # in log alpha
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    for k, marginal in enumerate((weight.sum(1), weight.sum(0))):
        chain = np.stack(draws)[:, k]
        known = float(marginal @ grid)
        assert abs(batch_z(chain, known)) < 4
        assert abs(batch_z((chain - known) ** 2, float(marginal @ (grid - known) ** 2))) < 4


# -- the whole posterior -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_of_what_was_drawn_from_the_prior_are_uniform(kind: str) -> None:
    """Simulation-based calibration (Talts et al. 2018) of quantities that know no labels."""
    simulations, draws, apart = 300, 19, 15
    rng = np.random.default_rng(8)
    code = functions(kind)
    ranks = np.stack([_ranks(rng, code, draws, apart) for _ in range(simulations)])
    expected = simulations / 5
    for column in ranks.T:  # in five bins of four ranks each
        seen = np.bincount(column // 4, minlength=5)
        assert chi2.sf(((seen - expected) ** 2 / expected).sum(), 4) > 1e-3


def _ranks(rng: np.random.Generator, code: CDLL | None, draws: int, apart: int) -> np.ndarray:
    documents, words, tokens, mean, eta = 8, 6, 15, np.array([0.4, 0.8, 0.8]), 0.5
    alpha = rng.exponential(mean)
    topics = rng.dirichlet(np.full(words, eta), size=3)
    mixture = rng.dirichlet(alpha, size=documents)
    counts = np.stack([rng.multinomial(tokens, mixture[d] @ topics) for d in range(documents)])
    document, word = counts.nonzero()
    data: Data = {
        "length": torch.from_numpy(np.bincount(document)),
        "word": torch.from_numpy(word),
        "count": torch.from_numpy(counts[document, word]),
        "n_words": words,  # type: ignore[dict-item]
    }
    chain = TopicChain(data, mean, eta, rng, code, learn_alpha=True)
    told = []
    for sweep in range(apart * (draws + 5)):
        chain.sweep(rng)
        if sweep >= 5 * apart and sweep % apart == 0:
            found = {name: value.numpy() for name, value in chain.draw(rng).items()}
            told.append(_told(counts, **found))
    assert len(told) == draws
    return np.asarray((np.stack(told) < _told(counts, topics, mixture, alpha)).sum(0))


def _told(
    counts: np.ndarray, topics: np.ndarray, mixture: np.ndarray, concentration: np.ndarray
) -> np.ndarray:
    log_likelihood = (counts * np.log(np.maximum(mixture @ topics, 1e-300))).sum()
    return np.array(
        [log_likelihood, (topics**2).sum(), (mixture**2).sum(), concentration.sum()], dtype=float
    )
