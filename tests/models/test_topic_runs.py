"""Topics by every method: the same measures are told of all, and known topics are found again."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import storyzoo as sz
from storyzoo.fit import Fit
from storyzoo.inference.em import EM
from storyzoo.inference.engine.method import Method
from storyzoo.inference.gibbs import Gibbs
from storyzoo.inference.svi import SVI
from storyzoo.models.kernels.topic_measures import agreement, diversity, has_c_v, npmi
from storyzoo.models.lda import LatentDirichletAllocation
from tests.models.corpora import drawn_corpus

KNOWN = drawn_corpus(np.random.default_rng(7))
STORY = LatentDirichletAllocation(n_topics=4, alpha=0.2)
METHODS: dict[str, Method] = {
    "em": EM(restarts=3, max_steps=200),
    "em-collapsed": EM(collapsed=True, restarts=3),
    "svi": SVI(guide="natural", batch_size=50, draws=100),
    "svi-amortised": SVI(guide="story", particles=4, starts=2, max_steps=300, draws=100),
    "gibbs": Gibbs(chains=2, draws=40, warmup=200, thin=2, cores=1),
}


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit]:
    return {
        name: sz.fit(STORY, KNOWN.arrays, method, holdout=0.2, progress=False)
        for name, method in METHODS.items()
    }


def mean_topics(fit: Fit) -> np.ndarray:
    topics = fit.tree["posterior"].to_dataset()["topics"]
    return topics.mean(("chain", "draw")).to_numpy()


def fitted_corpus(fit: Fit) -> dict[str, Any]:
    return {name: np.asarray(fit.target.data[name]) for name in ("length", "word", "count")}


@pytest.mark.parametrize("name", METHODS)
def test_known_topics_are_found_again_up_to_their_order(fits: dict[str, Fit], name: str) -> None:
    gaps = 0.5 * np.abs(KNOWN.topics[:, None] - mean_topics(fits[name])[None]).sum(-1)
    rows, order = linear_sum_assignment(gaps)
    assert gaps[rows, order].max() < 0.1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_tells_the_same_measures(fits: dict[str, Fit], name: str) -> None:
    fit = fits[name]
    metrics = fit.summary["metrics"]
    topics = mean_topics(fit)
    assert metrics["npmi"] == pytest.approx(float(npmi(topics, fitted_corpus(fit)).mean()))
    assert metrics["topic_diversity"] == pytest.approx(diversity(topics))
    assert ("c_v" in metrics) == has_c_v()
    left_to_right = "heldout_left_to_right_nats_per_word"
    for key in ("heldout_perplexity", left_to_right, "heldout_left_to_right_nats_per_example"):
        assert math.isfinite(metrics[key]) and metrics[f"{key}_se"] > 0
    assert metrics[f"{left_to_right}_se_over_particles"] < metrics[f"{left_to_right}_se"]
    whole = metrics["heldout_left_to_right_nats_per_example"]
    assert whole == pytest.approx(80 * metrics[left_to_right])  # documents of eighty words each


@pytest.mark.parametrize("name", METHODS)
def test_reading_from_left_to_right_agrees_with_importance_weights(
    fits: dict[str, Fit], name: str
) -> None:
    """Two ways to one number, at topics that hardly vary."""
    metrics = fits[name].summary["metrics"]
    other = metrics["heldout_log_likelihood_nats_per_example"]
    assert metrics["heldout_left_to_right_nats_per_example"] == pytest.approx(other, abs=0.5)


def test_methods_agree_on_the_topics(fits: dict[str, Fit]) -> None:
    for one, other in itertools.combinations(fits.values(), 2):
        assert agreement([mean_topics(one), mean_topics(other)]).shared == 1


def test_chains_that_share_topics_say_so(fits: dict[str, Fit]) -> None:
    metrics = fits["gibbs"].summary["metrics"]
    assert metrics["shared_topics"] == 4
    assert metrics["topic_cosine"] > 0.99
    assert "shared_topics" not in fits["svi"].summary["metrics"]


def test_restarts_are_kept_and_held_against_each_other(fits: dict[str, Fit]) -> None:
    fit = fits["em-collapsed"]
    ends = fit.tree["restarts"]["topics"]
    assert ends.dims == ("restart", "topic", "word") and ends.shape == (3, 4, 60)
    best = fit.info.best  # type: ignore[attr-defined]
    np.testing.assert_array_equal(ends[best], mean_topics(fit))
    expected = agreement(list(ends.to_numpy())).shared * 4
    assert fit.summary["metrics"]["shared_topics"] == pytest.approx(expected)
    page = fit.report()
    assert f"Two restarts share {expected:.1f} of 4 topics on average" in page


def test_leave_one_out_of_documents_is_refused_for_held_out_ones(fits: dict[str, Fit]) -> None:
    """With mixtures among the draws, leaving a document out leaves its mixture untold."""
    checks = {check["name"]: check for check in fits["gibbs"].summary["checks"]}
    found = checks["k_hat_loo"]
    assert found["scope"] == "loo" and not found["passed"]
    assert "at document " in found["where"]
    assert "Compare by held-out data instead of ELPD-LOO" in found["advice"]
    assert "held-out data instead of ELPD-LOO" in fits["gibbs"].report()
