"""N-grams: counts by hand, a posterior in closed form, every method exact."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import storyzoo as sz
from storyzoo.errors import DataError
from storyzoo.inference.engine.target import make_target
from storyzoo.models.ngram import IndependentDraws, NGram
from tests.models.recurrences import WORDS, pieces


def context_by_hand(order: int, before: list[int], n_tokens: int) -> int:
    padded = [n_tokens] * order + before
    last = padded[len(padded) - order + 1 :]
    return sum(s * (n_tokens + 1) ** i for i, s in enumerate(reversed(last)))


def counted(order: int, end: bool = True) -> np.ndarray:
    n = WORDS["n_tokens"]
    table = np.zeros(((n + 1) ** (order - 1), n + end))
    for piece in pieces(WORDS["token"], WORDS["length"]):
        symbols = [*piece.tolist(), *([n] if end else [])]
        for place, symbol in enumerate(symbols):
            table[context_by_hand(order, symbols[:place], n), symbol] += 1
    return table


@pytest.mark.parametrize("order", [1, 2, 3])
def test_counts_are_those_by_hand(order: int) -> None:
    target = make_target(NGram(order=order), WORDS)
    with target.context():
        found = NGram(order=order).counts(target.data).numpy()
    np.testing.assert_array_equal(found, counted(order))
    without = make_target(NGram(order=order, end="no"), WORDS)
    with without.context():
        found = NGram(order=order, end="no").counts(without.data).numpy()
    np.testing.assert_array_equal(found, counted(order, end=False))


@pytest.mark.parametrize("end", ["yes", "no"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_steps_one_by_one_give_the_marginal(order: int, end: Any) -> None:
    story = NGram(order=order, end=end)
    target = make_target(story, WORDS)
    size = target.structure.sites["next"].shape
    table = np.random.default_rng(0).dirichlet(np.ones(size[1]), size[0])
    latents = {"next": torch.as_tensor(table)}
    with target.context():
        marginal = story.marginal(latents, target.data)
    for piece, nats in zip(pieces(WORDS["token"], WORDS["length"]), marginal, strict=True):
        state, total = None, 0.0
        for symbol in [*piece.tolist(), *([3] if end == "yes" else [])]:
            told, inner = story.step(latents, state)
            total += float(told.log_prob(torch.tensor(symbol)))
            state = (inner, torch.tensor(symbol))
        assert total == pytest.approx(float(nats))


def test_all_strings_and_the_tail_sum_to_one() -> None:
    most = 6
    strings = [s for size in range(most + 1) for s in itertools.product(range(2), repeat=size)]
    data = {
        "token": np.array([symbol for s in strings for symbol in s]),
        "length": np.array([len(s) for s in strings]),
        "n_tokens": 2,
    }
    story = NGram(order=2, end="yes")
    target = make_target(story, data)
    table = np.random.default_rng(1).dirichlet(np.ones(3), 3)
    with target.context():
        told = story.marginal({"next": torch.as_tensor(table)}, target.data).exp().sum()
    alive = np.eye(3)[2]  # START
    for _ in range(most + 1):
        alive = np.append(alive @ table[:, :2], 0.0)
    assert float(told) + alive.sum() == pytest.approx(1)


def test_variational_inference_is_the_posterior_itself() -> None:
    found = sz.fit(NGram(order=2), WORDS, sz.SVI(draws=4000), progress=False)
    posterior = counted(2) + 0.5
    mean = posterior / posterior.sum(1, keepdims=True)
    draws = np.asarray(found.tree["posterior"]["next"]).reshape(-1, *mean.shape)
    error = np.sqrt(mean * (1 - mean) / (posterior.sum(1, keepdims=True) + 1) / 4000)
    assert (np.abs(draws.mean(0) - mean) < 5 * error).all()
    chain = IndependentDraws(NGram(order=2, end="yes"), found.target.data)
    assert found.summary["metrics"]["elbo_nats"] == pytest.approx(chain.log_joint(), abs=1e-6)
    assert found.summary["metrics"]["k_hat"] < 0.1


def test_gibbs_draws_are_independent_draws_of_the_posterior() -> None:
    method = sz.Gibbs(chains=4, draws=500, warmup=0, thin=1)
    found = sz.fit(NGram(order=2), WORDS, method, progress=False)
    assert found.verdict.verdict == "trust"
    posterior = counted(2) + 0.5
    draws = np.asarray(found.tree["posterior"]["next"]).reshape(-1, *posterior.shape)
    for context, symbol in ((0, 1), (3, 0), (2, 2)):
        a, rest = posterior[context, symbol], posterior[context].sum() - posterior[context, symbol]
        assert stats.kstest(draws[:, context, symbol], stats.beta(a, rest).cdf).pvalue > 1e-3


@pytest.mark.parametrize("optimiser", ["auto", "quasi-newton"])
@pytest.mark.parametrize(("concentration", "added"), [(2.0, 1.0), (0.5, 0.5)])
def test_a_mode_is_counts_and_prior(concentration: float, added: float, optimiser: Any) -> None:
    method = sz.MAP(restarts=2, optimiser=optimiser)
    found = sz.fit(NGram(order=2, concentration=concentration), WORDS, method, progress=False)
    mode = (counted(2) + added) / (counted(2) + added).sum(1, keepdims=True)
    np.testing.assert_allclose(np.asarray(found.tree["posterior"]["next"])[0, 0], mode, atol=1e-6)
    density = found.target.density(jacobian=False)
    height = density(density.flatten({"next": torch.as_tensor(mode)}))
    assert found.summary["metrics"]["objective_nats"] == pytest.approx(float(height))


def test_the_likelihoods_mode_is_the_shares_of_the_counts() -> None:
    method = sz.MAP(objective="likelihood")
    found = sz.fit(NGram(order=2), WORDS, method, progress=False)
    assert found.verdict.verdict == "point estimate"
    assert not any("--with restarts" in step for step in found.verdict.do_next)
    shares = counted(2) / counted(2).sum(1, keepdims=True)
    np.testing.assert_allclose(np.asarray(found.tree["posterior"]["next"])[0, 0], shares, atol=1e-9)


@pytest.mark.parametrize(
    "method",
    [sz.NUTS(draws=1000, warmup=300), sz.Gibbs(chains=4, draws=500, warmup=0, thin=1), sz.SVI()],
    ids=lambda method: method.name,
)
def test_methods_that_draw_give_the_posteriors_moments(method: Any) -> None:
    found = sz.fit(NGram(order=2, concentration=2.0), WORDS, method, progress=False)
    assert found.verdict.verdict in ("trust", "approximate")
    posterior = counted(2) + 2.0
    total = posterior.sum(1, keepdims=True)
    mean = posterior / total
    sd = np.sqrt(mean * (1 - mean) / (total + 1))
    draws = np.asarray(found.tree["posterior"]["next"]).reshape(-1, *mean.shape)
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * sd.max() / np.sqrt(1000))
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.12)


def test_a_table_that_is_too_large_is_refused() -> None:
    with pytest.raises(DataError, match="needs a table of .* numbers"):
        make_target(NGram(order=9), {**WORDS, "n_tokens": 60})
