"""Topics: exact where it can be gone through, recovered where they are known, never dense."""

from __future__ import annotations

import math
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

import storyzoo as sz
from storyzoo.datasets import load
from storyzoo.errors import DataError, RefusedError, SettingError
from storyzoo.inference.em import EM
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.enumeration import responsibilities
from storyzoo.inference.engine.heldout import log_completion, log_predictive
from storyzoo.inference.engine.method import Outcome, PointInfo
from storyzoo.inference.engine.one_more import one_more
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import draws_of
from storyzoo.models.kernels import lda
from storyzoo.models.kernels.cvb0 import CollapsedTopics
from storyzoo.models.lda import LatentDirichletAllocation
from tests.inference.test_em import StopAfter
from tests.models.corpora import (
    TINY,
    Known,
    drawn_corpus,
    every_z,
    log_evidence,
    log_polya,
    log_words,
    tokens,
)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def tiny(**fields: Any) -> Target:
    return make_target(LatentDirichletAllocation(n_topics=2, **fields), TINY)


def point(target: Target, seed: int = 0) -> dict[str, torch.Tensor]:
    """A draw from the prior."""
    density = target.density()
    with target.context():
        return density.draw(torch.Generator().manual_seed(seed))


def run(target: Target, method: EM, seed: int = 0, checkpoint: Checkpoint | None = None) -> Outcome:
    return method.run(target, seed=seed, progress=Progress(quiet=True), checkpoint=checkpoint)


def info_of(outcome: Outcome) -> PointInfo:
    assert isinstance(outcome.info, PointInfo)
    return outcome.info


def latents_of(outcome: Outcome, target: Target) -> dict[str, torch.Tensor]:
    draws = draws_of(target.structure, outcome.tree["posterior"].to_dataset())
    return {name: torch.as_tensor(value[0, 0]) for name, value in draws.items()}


# -- exact, on corpora that can be gone through ------------------------------------------------


def test_the_marginal_is_the_sum_over_every_z() -> None:
    target = tiny()
    latents = point(target)
    topics, mixture = latents["topics"].numpy(), latents["mixture"].numpy()
    document, word = tokens(TINY)
    found = target.story.marginal(latents, target.data)
    for d in range(3):
        own = word[document == d]
        terms = [
            np.log(mixture[d, z]).sum() + np.log(topics[z, own]).sum() for z in every_z(len(own), 2)
        ]
        assert found is not None and float(found[d]) == pytest.approx(logsumexp(terms))


def test_the_evidence_is_that_of_every_z() -> None:
    """The mean likelihood of prior draws, against topics and mixtures integrated out by formula."""
    target = tiny(alpha=0.7, eta=0.5)
    torch.manual_seed(0)
    n = 40_000
    latents = {
        "topics": torch.distributions.Dirichlet(torch.full((3,), 0.5)).sample((n, 2)).double(),
        "mixture": torch.distributions.Dirichlet(torch.full((2,), 0.7)).sample((n, 3)).double(),
    }

    def log_likelihood(topics: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        found = target.story.marginal({"topics": topics, "mixture": mixture}, target.data)
        assert found is not None
        return found.sum()

    values = torch.vmap(log_likelihood)(latents["topics"], latents["mixture"])
    estimate = float(values.logsumexp(0)) - math.log(n)
    error = float((values - estimate).exp().std() / math.sqrt(n))
    assert error < 0.02
    assert estimate == pytest.approx(log_evidence(TINY, 2, 0.7, 0.5), abs=4 * error)


def test_new_documents_score_as_every_z_does() -> None:
    """The importance estimate of ``log p(w_d | topics)`` against the sum over z."""
    target = tiny(alpha=0.7)
    topics = rng().dirichlet(np.ones(3), 2)
    found = log_predictive(target, {"topics": np.repeat(topics[None], 400, 0)})
    document, word = tokens(TINY)
    for d in range(3):
        exact = log_words(word[document == d], topics, 0.7)
        assert 0 < found.se[d] < 0.05
        assert found.nats[d] == pytest.approx(exact, abs=4 * found.se[d])
    assert found.sizes is not None and found.sizes.tolist() == [3, 2, 2]


def test_the_e_step_counts_what_enumeration_counts() -> None:
    target = tiny()
    latents = point(target, seed=3)
    with target.context():
        found = responsibilities(target.story, target.data, latents, target.structure)
        expected = target.story.expect(latents, target.data, False)
    assert expected is not None
    document, word = tokens(TINY)
    by_word, by_document = np.zeros((2, 3)), np.zeros((3, 2))
    np.add.at(by_word.T, word, found.by_site["z"].numpy().T)
    np.add.at(by_document, document, found.by_site["z"].numpy().T)
    np.testing.assert_allclose(expected.statistics["topics"], by_word, atol=1e-12)
    np.testing.assert_allclose(expected.by_example["mixture"], by_document, atol=1e-12)
    assert float(expected.log_likelihood) == pytest.approx(float(found.log_likelihood))


def test_hard_steps_take_the_best_topic_of_each_word() -> None:
    target = tiny()
    latents = point(target, seed=3)
    expected = target.story.expect(latents, target.data, True)
    assert expected is not None
    document, word = tokens(TINY)
    joint = latents["mixture"][document] * latents["topics"].T[word]
    assert float(expected.log_likelihood) == pytest.approx(float(joint.amax(1).log().sum()))
    best = np.bincount(joint.argmax(1), minlength=2)
    np.testing.assert_allclose(expected.statistics["topics"].sum(1), best)


# -- EM ----------------------------------------------------------------------------------------

KNOWN = drawn_corpus(rng(7))


@pytest.mark.parametrize("objective", ["posterior", "likelihood"])
@pytest.mark.parametrize("fields", [{}, {"alpha": 1.4, "eta": 1.1}, {"alpha": (0.1, 2, 1, 0.5)}])
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_the_objective_never_falls(objective: Any, fields: dict[str, Any], hard: bool) -> None:
    target = make_target(LatentDirichletAllocation(n_topics=4, **fields), KNOWN.arrays)
    path = info_of(run(target, EM(restarts=1, max_steps=40, objective=objective, hard=hard))).path
    steps = np.diff(path)
    assert len(steps) > 2 and steps.min() > -1e-9 * abs(path[-1])


@pytest.mark.parametrize("objective", ["posterior", "likelihood"])
@pytest.mark.parametrize("alpha", [0.3, 1.4])
def test_the_objective_is_the_density_in_the_softmax_basis(objective: Any, alpha: float) -> None:
    target = tiny(alpha=alpha, eta=0.5)
    outcome = run(target, EM(restarts=1, max_steps=5, objective=objective))
    density = target.density(jacobian=False, prior=objective == "posterior")
    found = float(density(density.flatten(latents_of(outcome, target))))
    assert info_of(outcome).path[-1] == pytest.approx(found, abs=1e-6)


def test_the_end_is_stationary() -> None:
    target = tiny(alpha=1.4, eta=1.2)
    outcome = run(target, EM(restarts=1, tolerance=1e-13, max_steps=5000))
    density = target.density(jacobian=False)
    _, gradient = density.value_and_gradient(density.flatten(latents_of(outcome, target)))
    assert float(gradient.abs().max()) < 1e-4


def test_threads_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    target = make_target(LatentDirichletAllocation(n_topics=4), KNOWN.arrays)
    method = EM(restarts=1, max_steps=20)
    alone = info_of(run(target, method))
    monkeypatch.setattr("storyzoo.inference.em.THREADED_ROWS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    np.testing.assert_allclose(info_of(run(target, method)).path, alone.path, rtol=1e-12)


def test_blocks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    target = make_target(LatentDirichletAllocation(n_topics=4), KNOWN.arrays)
    latents = point(target)
    whole = target.story.expect(latents, target.data, False)
    monkeypatch.setattr(lda, "_FEWEST_ENTRIES", 7)
    monkeypatch.setattr(lda, "_BLOCK_ELEMENTS", 1)
    parts = target.story.expect(latents, target.data, False)
    assert whole is not None and parts is not None
    np.testing.assert_allclose(parts.statistics["topics"], whole.statistics["topics"], rtol=1e-10)
    np.testing.assert_allclose(parts.by_example["mixture"], whole.by_example["mixture"])


def test_unknown_concentrations_have_no_mode() -> None:
    target = make_target(LatentDirichletAllocation(n_topics=4, learn_alpha=True), KNOWN.arrays)
    reason = EM().refuses(target.story, target.structure)
    assert reason is not None and "learn_alpha=true has no mode" in reason
    assert EM(collapsed=True).refuses(target.story, target.structure) is None


# -- CVB0 --------------------------------------------------------------------------------------


def matched(found: np.ndarray, known: Known) -> tuple[np.ndarray, np.ndarray]:
    """For each known topic the found one that is nearest, and their distances in variation."""
    gaps = 0.5 * np.abs(known.topics[:, None] - found[None]).sum(-1)
    rows, order = linear_sum_assignment(gaps)
    return order, gaps[rows, order]


@pytest.mark.parametrize("method", [EM(collapsed=True, restarts=5), EM(restarts=5, max_steps=200)])
def test_simulated_topics_are_recovered_up_to_their_order(method: EM) -> None:
    target = make_target(LatentDirichletAllocation(n_topics=4, alpha=0.2), KNOWN.arrays)
    latents = latents_of(run(target, method), target)
    order, gaps = matched(latents["topics"].numpy(), KNOWN)
    assert gaps.max() < 0.08
    off = np.abs(latents["mixture"].numpy()[:, order] - KNOWN.mixture).mean()
    assert off < 0.03


def test_the_score_foretells_each_word_from_all_others() -> None:
    """With every weight on one topic the counts are whole, and the formula can be written out."""
    target = tiny(alpha=0.3, eta=0.2)
    topics = CollapsedTopics(target.data, torch.tensor([0.3, 0.3]), 0.2, None, rng())
    z = torch.tensor([0, 1, 1, 0, 1])
    topics.weight.copy_(torch.nn.functional.one_hot(z, 2))
    counts = lda.count_weights(topics.weight, target.data, 3)
    topics.by_word, topics.by_document = counts.by_word + 0.2, counts.by_document + 0.3
    topics.by_topic = topics.by_word.sum(0)
    document = np.repeat(np.arange(3), TINY["length"])
    expected = 0.0
    for e, (d, v, n) in enumerate(zip(document, TINY["word"], TINY["count"], strict=True)):
        out = np.eye(2)[int(z[e])]
        left = counts.by_document[d].numpy() - out + 0.3
        whole = counts.by_word.sum(0).numpy() - out + 0.6
        share = (counts.by_word[v].numpy() - out + 0.2) / whole
        expected += n * np.log(float((left / left.sum()) @ share))
    assert topics.sweep().score == pytest.approx(expected, rel=1e-5)


def test_an_interrupted_collapsed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    target = make_target(LatentDirichletAllocation(n_topics=4, learn_alpha=True), KNOWN.arrays)
    method = EM(collapsed=True, restarts=2, max_steps=40, tolerance=0.0)
    whole = run(target, method)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    cut = method.run(target, seed=0, progress=StopAfter(25), checkpoint=checkpoint)
    assert cut.info.cut_short
    resumed = run(target, method, checkpoint=checkpoint)
    assert resumed.tree["posterior"].to_dataset().identical(whole.tree["posterior"].to_dataset())
    assert resumed.info == whole.info


def test_a_collapsed_answer_is_called_approximate() -> None:
    fit = sz.fit(LatentDirichletAllocation(n_topics=4), KNOWN.arrays, EM(collapsed=True))
    assert fit.verdict.verdict == "approximate"
    assert "without uncertainty" in fit.verdict.headline
    assert any("no mode" in note for note in fit.verdict.notes)
    assert "restarts" not in {check.name for check in fit.verdict.checks}


def test_collapsed_is_refused_where_there_is_no_such_form() -> None:
    with pytest.raises(RefusedError, match="it has no collapsed form"):
        sz.fit("gmm", "iris", EM(collapsed=True))


@pytest.mark.parametrize("settings", [{"hard": True}, {"objective": "likelihood"}])
def test_collapsed_goes_with_neither_hard_nor_likelihood(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="em: collapsed=True is impossible"):
        EM(collapsed=True, **settings)


@pytest.mark.slow
def test_perplexity_on_news_is_what_was_measured(mirror: Path) -> None:
    """BBC news, K = 20, by document completion: 904 was measured, scikit-learn's batch has 999."""
    fit = sz.fit(
        LatentDirichletAllocation(n_topics=20), "bbc-news", EM(collapsed=True), holdout=0.3
    )
    assert fit.summary["metrics"]["heldout_perplexity"] < 930
    assert fit.info.gradient_evaluations < 150
    assert load("bbc-news").test_rows is not None


# -- learned concentrations --------------------------------------------------------------------


def test_minka_s_fixed_point_is_the_mode_where_topics_are_known() -> None:
    """With every word's topic known the counts are whole: the mode of their Polya likelihood."""
    alpha, rate = np.array([0.2, 0.8, 2.0]), np.full(3, 1.5)
    words = 3 * 10
    document = {"length": np.full(200, 3), "word": np.tile(np.arange(3), 200), "n_words": 3}
    generator = rng()
    counts = np.stack([generator.multinomial(words, m) for m in generator.dirichlet(alpha, 200)])
    kept = counts > 0
    arrays = {
        **document,
        "length": kept.sum(1),
        "word": kept.nonzero()[1],
        "count": counts[kept],
    }
    data = {n: torch.as_tensor(v) if np.ndim(v) else v for n, v in arrays.items()}
    topics = CollapsedTopics(data, torch.ones(3), 0.01, torch.as_tensor(rate), rng())
    topics.weight.copy_(torch.nn.functional.one_hot(data["word"], 3))
    topics.by_document = lda.count_weights(topics.weight, data, 3).by_document + topics.alpha
    for _ in range(40):
        topics._learn()
    found = topics.alpha.double().numpy()

    def objective(a: np.ndarray) -> float:
        return log_polya(counts, a) - float(rate @ a)

    for k in range(3):
        for step in (-0.02, 0.02):
            assert objective(found) > objective(found * (1 + step * np.eye(3)[k]))
    np.testing.assert_allclose(found, alpha, rtol=0.25)


def test_unequal_concentrations_are_learned() -> None:
    alpha = np.array([0.1, 0.2, 0.4, 1.0])
    known = drawn_corpus(rng(3), documents=800, size=100, alpha=alpha)
    story = LatentDirichletAllocation(n_topics=4, learn_alpha=True)
    target = make_target(story, known.arrays)
    latents = latents_of(run(target, EM(collapsed=True, restarts=3)), target)
    order, gaps = matched(latents["topics"].numpy(), known)
    assert gaps.max() < 0.1
    np.testing.assert_allclose(latents["concentration"].numpy()[order], alpha, rtol=0.35)


# -- new documents -----------------------------------------------------------------------------

APART = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75]], dtype=torch.float64)
"""Two topics with no word in common: a word tells its topic."""
PAIR = {
    "length": np.array([2, 3]),
    "word": np.array([0, 2, 0, 1, 3]),
    "count": np.array([3, 1, 1, 1, 2]),
    "n_words": 4,
}


def test_words_that_tell_their_topic_give_the_exact_mixture() -> None:
    story = LatentDirichletAllocation(n_topics=2, alpha=0.5)
    target = make_target(story, PAIR)
    with target.context():
        found = story.fold_in({"topics": APART}, target.data)["mixture"]
    assert isinstance(found, torch.distributions.Dirichlet)
    expected = [[3.5, 1.5], [2.5, 2.5]]
    np.testing.assert_allclose(found.concentration, expected, rtol=1e-4)


def test_words_that_tell_little_leave_the_mixture_open() -> None:
    """Two topics that are nearly alike: hardly anything is known beyond the prior's spread."""
    story = LatentDirichletAllocation(n_topics=2, alpha=0.5)
    target = make_target(story, PAIR)
    alike = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.26, 0.24, 0.26, 0.24]]).double()
    with target.context():
        apart = story.fold_in({"topics": APART}, target.data)["mixture"]
        found = story.fold_in({"topics": alike}, target.data)["mixture"]
    assert bool((found.variance > 1.5 * apart.variance).all())


def test_halves_make_the_whole_and_documents_of_one_word_are_left_out() -> None:
    arrays: dict[str, Any] = {
        "length": np.array([1, 2, 3]),
        "word": np.array([1, 0, 2, 0, 1, 3]),
        "count": np.array([1, 3, 2, 1, 1, 2]),
        "n_words": 4,
    }
    data = {n: torch.as_tensor(v) if np.ndim(v) else v for n, v in arrays.items()}
    halves = lda.halved(data, rng())
    assert halves.documents.tolist() == [1, 2]
    assert [int(half["count"].sum()) for half in halves[:2]] == [4, 5]
    tables = []
    for half in halves[:2]:
        table = np.zeros((2, 4))
        owner = np.repeat(np.arange(2), half["length"])
        np.add.at(table, (owner, half["word"].numpy()), half["count"].numpy())
        tables.append(table)
    np.testing.assert_array_equal(tables[0].sum(1), [2, 2])
    np.testing.assert_array_equal(tables[0] + tables[1], [[3, 0, 2, 0], [1, 1, 0, 2]])
    assert lda.halved(data, rng()).seen["word"].tolist() == halves.seen["word"].tolist()


def test_completion_is_what_it_says() -> None:
    """Two draws of the topics; each word's probability is averaged over them, then logged."""
    story = LatentDirichletAllocation(n_topics=2, alpha=0.5)
    target = make_target(story, PAIR)
    other = APART.flip(0)[:, [1, 0, 3, 2]]
    draws = {"topics": np.stack([APART.numpy(), other.numpy()])}
    found = log_completion(target, draws, seed=5)
    assert found is not None and found.observation == "word"
    halves = lda.halved(target.data, np.random.default_rng([5, 4]))
    nats, size = 0.0, 0
    for d in range(2):
        seen, unseen = (
            np.concatenate(
                [
                    np.repeat(half["word"].numpy(), half["count"].numpy())[
                        np.repeat(np.repeat([0, 1], half["length"]), half["count"].numpy()) == d
                    ]
                ]
            )
            for half in halves[:2]
        )
        probability = np.zeros(len(unseen))
        for topics in draws["topics"]:
            own = np.bincount(topics[:, seen].argmax(0), minlength=2) + 0.5
            probability += own / own.sum() @ topics[:, unseen] / 2
        nats, size = nats + np.log(probability).sum(), size + len(unseen)
    assert found.nats == pytest.approx(nats / size, rel=1e-4)
    assert found.perplexity == pytest.approx(math.exp(-nats / size), rel=1e-3)


def test_held_out_documents_are_scored_and_told_of(tmp_path: Path) -> None:
    fit = sz.fit(
        LatentDirichletAllocation(n_topics=4, alpha=0.2),
        KNOWN.arrays,
        EM(collapsed=True),
        holdout=0.2,
        out=tmp_path / "run",
    )
    metrics = fit.summary["metrics"]
    probability = KNOWN.mixture @ KNOWN.topics
    entropy = -(probability * np.log(probability.clip(min=1e-300))).sum(1).mean()
    assert math.exp(entropy) < metrics["heldout_perplexity"] < 1.25 * math.exp(entropy)
    per_word = metrics["heldout_completion_nats_per_word"]
    assert metrics["heldout_perplexity"] == pytest.approx(math.exp(-per_word))
    again = sz.Fit.load(tmp_path / "run")
    for answer in (fit, again):
        frame = answer.latent(dict(KNOWN.arrays))
        assert frame.shape == (300, 8)
        means, sds = frame.to_numpy()[:, :4], frame.to_numpy()[:, 4:]
        np.testing.assert_allclose(means.sum(1), 1)
        order, _ = matched(np.asarray(answer.tree["posterior"]["topics"])[0, 0], KNOWN)
        z = (means[:, order] - KNOWN.mixture) / sds[:, order]
        large = KNOWN.mixture > 0.1
        assert 0.5 < np.sqrt((z[large] ** 2).mean()) < 2.0
    score = again.log_density(KNOWN.arrays)
    assert score.nats.shape == (300,) and score.sizes is not None
    assert (score.sizes == 80).all()


def test_one_more_word_is_foretold_by_the_mixture_of_the_others() -> None:
    """Words that tell their topic: the mixture is that of counts and alpha, in each draw."""
    story = LatentDirichletAllocation(n_topics=2, alpha=0.5)
    target = make_target(story, PAIR)
    draws = {"topics": np.stack([APART.numpy(), APART.numpy()[:, [1, 0, 3, 2]]])}
    found = one_more(target, draws, np.array([1, 0]), most=4)
    shares = np.array([[2.5, 2.5], [3.5, 1.5]]) / 5
    each = np.einsum("dk,skv->sdv", shares, draws["topics"])
    mean, sd = each.mean(0), each.std(0)
    assert found.value.shape == (2, 4)
    np.testing.assert_allclose(found.probability.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        found.probability, np.take_along_axis(mean, found.value, 1), rtol=1e-4
    )
    np.testing.assert_allclose(found.sd, np.take_along_axis(sd, found.value, 1), atol=1e-5)
    assert (np.diff(found.probability) <= 0).all()


def test_a_word_taken_out_is_found_again_in_its_topic() -> None:
    """Held-out words have the probability that completion gives them, by known topics."""
    fit = sz.fit(LatentDirichletAllocation(n_topics=4, alpha=0.2), KNOWN.arrays, EM(collapsed=True))
    found = fit.foretell(dict(KNOWN.arrays), most=60)
    assert list(found.columns) == ["document", "word", "probability"]
    table = found.pivot(index="document", columns="word", values="probability").to_numpy()
    truth = KNOWN.mixture @ KNOWN.topics
    assert np.abs(table - truth).sum(1).mean() < 0.25  # of at most 2; even words are 1.4 away
    even = np.abs(1 / 60 - truth).sum(1).mean()
    assert even > 1.0


def test_draws_say_how_sure_a_word_is() -> None:
    fit = sz.fit(LatentDirichletAllocation(n_topics=2), TINY, sz.Gibbs(2, 40, 20), progress=False)
    found = fit.foretell(most=2)
    assert list(found.columns) == ["document", "word", "probability", "sd"]
    assert len(found) == 3 * 2 and (found["sd"] > 0).all()


def test_a_document_s_other_words_are_named() -> None:
    fit = sz.fit(LatentDirichletAllocation(n_topics=4), KNOWN.arrays, EM(collapsed=True))
    fewer = {**PAIR, "n_words": 59}
    with pytest.raises(DataError, match="it has 59 words, but the fit was to 60"):
        fit.latent(fewer)


# -- form of the data --------------------------------------------------------------------------


def test_rows_take_their_own_words_along() -> None:
    target = tiny()
    some = target.rows([2, 0])
    assert some.data["word"].tolist() == [0, 1, 0, 2]
    assert some.data["count"].tolist() == [1, 1, 2, 1]
    latents = point(target)
    whole = target.story.marginal(latents, target.data)
    own = {**latents, "mixture": latents["mixture"][[2, 0]]}
    found = some.story.marginal(own, some.data)
    assert whole is not None and found is not None
    torch.testing.assert_close(found, whole[[2, 0]])


def test_slices_estimate_the_whole() -> None:
    target = tiny()
    density = target.density()
    q = density.flatten(point(target))
    estimates = [float(density.on_rows(torch.tensor([d]))(q)) for d in range(3)]
    assert np.mean(estimates) == pytest.approx(float(density(q)))


def test_the_order_of_topics_documents_and_words_means_nothing() -> None:
    target = tiny(alpha=0.4)
    latents = point(target)
    density = target.density()
    value = float(density(density.flatten(latents)))
    flipped = {"topics": latents["topics"].flip(0), "mixture": latents["mixture"].flip(1)}
    assert float(density(density.flatten(flipped))) == pytest.approx(value)
    rows = target.rows([2, 1, 0])
    turned = {**latents, "mixture": latents["mixture"].flip(0)}
    by_rows = rows.density()
    assert float(by_rows(by_rows.flatten(turned))) == pytest.approx(value)
    renamed = make_target(target.story, {**TINY, "word": 2 - TINY["word"]}).density()
    mirrored = {**latents, "topics": latents["topics"].flip(1)}
    assert float(renamed(renamed.flatten(mirrored))) == pytest.approx(value)


def test_simulated_documents_follow_the_mixtures() -> None:
    target = make_target(LatentDirichletAllocation(n_topics=2), PAIR)
    mixture = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    generator, table = rng(), np.zeros((2, 4))
    simulator = Simulator(target)
    for _ in range(2000):
        data = simulator.data({"topics": APART, "mixture": mixture}, generator)
        owner = np.repeat([0, 1], data["length"])
        np.add.at(table, (owner, data["word"].numpy()), data["count"].numpy())
    np.testing.assert_allclose(table / 8000, mixture @ APART, atol=0.02)


def test_documents_by_words_are_never_a_table() -> None:
    """100,000 documents over 100,000 words: 80 GB if anything were dense."""
    generator, documents, n_words = rng(), 100_000, 100_000
    word = generator.integers(n_words, size=(documents, 6))
    matrix = scipy.sparse.csr_array(
        (np.ones(word.size), word.ravel(), np.arange(0, word.size + 1, 6)),
        shape=(documents, n_words),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    story = LatentDirichletAllocation(n_topics=3)
    for method in (EM(collapsed=True, max_steps=2), EM(restarts=1, max_steps=2)):
        fit = sz.fit(story, {"counts": matrix}, method, holdout=0.01)
        assert math.isfinite(fit.summary["metrics"]["heldout_perplexity"])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 3_000_000, f"{grown} kB"


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_topics": 1}, "n_topics=1 must be at least 2"),
        ({"n_topics": 2.5}, "n_topics=2.5 must be at least 2"),
        ({"alpha": 0.0}, "alpha=0.0 must be above zero"),
        ({"eta": -1.0}, "eta=-1.0 must be above zero"),
        ({"n_topics": 3, "alpha": (1.0, 2.0)}, "alpha has 2 values for 3 topics"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        LatentDirichletAllocation(**fields)


def test_more_topics_than_words_are_refused() -> None:
    with pytest.raises(DataError, match="4 topics for 3 words: set n_topics to at most 3"):
        make_target(LatentDirichletAllocation(n_topics=4), TINY)


def test_counts_can_not_be_filled_in() -> None:
    fit = sz.fit(LatentDirichletAllocation(n_topics=2), TINY, EM(collapsed=True))
    with pytest.raises(RefusedError, match="nothing can be missing: ask `foretell`"):
        fit.impute()
