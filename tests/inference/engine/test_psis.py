"""k-hat against theory, leave-one-out scores against exact ones."""

from __future__ import annotations

import warnings
from typing import Any

import arviz_base as azb
import arviz_stats
import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from storyzoo.inference.engine.psis import (
    elpd_loo,
    k_hat,
    k_threshold,
    pareto_weights,
    proposal_stats,
)

N = 48
"""Observations of the normal model below."""


def normal_fit(width: float, seed: int = 0, n_draws: int = 4000) -> tuple[xr.DataTree, float]:
    """Draws of the mean of N observations of sd 1 under a prior sd of 10, and the exact ELPD-LOO.

    The draws are of a normal whose sd is ``width`` times the posterior's.
    """
    rng = np.random.default_rng(seed)
    y = rng.normal(size=N)
    precision = N + 1 / 10**2
    mean, sd = y.sum() / precision, precision**-0.5
    left = precision - 1
    exact = norm.logpdf(y, (y.sum() - y) / left, np.sqrt(1 + 1 / left)).sum()
    mu = mean + width * sd * rng.normal(size=(1, n_draws))
    tree = azb.from_dict(
        {
            "posterior": {"mu": mu},
            "sample_stats": {
                "lp": norm.logpdf(mu, mean, sd),
                "log_q": norm.logpdf(mu, mean, width * sd),
            },
            "log_likelihood": {"y": norm.logpdf(y, mu[..., None], 1)},
        },
        dims={"y": ["point"]},
    )
    return tree, float(exact)


def test_k_hat_meets_theory() -> None:
    # For q = N(0, 1) and p = N(0, 2) the weights exp(3 x^2 / 8) / 2 have k = 1 - 1/4.
    found = []
    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=4000)
        found.append(k_hat(-(x**2) / 8, -(x**2) / 2))
    assert np.mean(found) == pytest.approx(0.75, abs=0.12)


def test_k_hat_fails_a_narrow_q_and_passes_a_wide_one() -> None:
    x = np.random.default_rng(0).normal(size=(1, 2000, 5))
    for width, sound in ((0.3, False), (1.0, True), (1.5, True)):
        log_p = norm.logpdf(width * x).sum(axis=-1)
        log_q = norm.logpdf(width * x, scale=width).sum(axis=-1)
        assert (k_hat(log_p, log_q) < k_threshold(2000)) is sound


def test_k_hat_of_odd_weights() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=100)
    assert k_hat(x, x) == 0.0
    assert np.isnan(k_hat(x[:10], 2 * x[:10]))
    assert k_hat(np.where(np.arange(100) == 0, 0.0, -np.inf), np.zeros(100)) == np.inf
    assert k_hat(np.where(np.arange(100) == 0, np.nan, x), np.zeros(100)) == np.inf
    assert k_hat(np.minimum(x, -0.5), np.zeros(100)) == np.inf
    assert np.isfinite(k_hat(np.where(np.arange(100) == 0, -np.inf, x / 9), np.zeros(100)))
    with pytest.raises(ValueError, match="100 draws"):
        k_hat(x, x[:50])


@pytest.mark.parametrize("spread", [30, 300, 1000, 1e4, 1e6])
def test_weights_that_underflow_fail(spread: float) -> None:
    # ArviZ's fit returns .03 for the last ones, as if q were nearly p.
    log_ratios = spread * np.random.default_rng(0).normal(size=4000)
    assert k_hat(log_ratios, np.zeros(4000)) > 5


def test_threshold() -> None:
    assert k_threshold(100) == pytest.approx(0.5)
    assert k_threshold(4000) == 0.7
    assert k_threshold(1) == 0.0


def test_loo_of_exact_draws_is_exact() -> None:
    tree, exact = normal_fit(1.0)
    for kind in ("draws", "approximation"):
        loo = elpd_loo(tree, kind)
        assert loo is not None
        assert loo.value == pytest.approx(exact, abs=0.1)
        assert loo.k_hats.dims == ("point",)
        assert float(loo.k_hats.max()) < loo.threshold
        assert loo.se == pytest.approx(np.sqrt(N * loo.pointwise.var(ddof=1).item()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_plain_loo_rewards_overconfidence_and_the_corrected_one_does_not(seed: int) -> None:
    tree, exact = normal_fit(0.6, seed)
    plain, corrected = elpd_loo(tree, "draws"), elpd_loo(tree, "approximation")
    assert plain is not None and corrected is not None
    assert plain.value > exact + 0.4
    assert abs(corrected.value - exact) < 0.25
    # Narrower still: what can't be corrected is told by the k-hats, which plain LOO's don't.
    tree, exact = normal_fit(0.3, seed)
    plain, corrected = elpd_loo(tree, "draws"), elpd_loo(tree, "approximation")
    assert plain is not None and corrected is not None
    assert exact < corrected.value < plain.value
    assert float(corrected.k_hats.max()) > corrected.threshold
    assert float(plain.k_hats.max()) < plain.threshold


def test_same_numbers_as_arviz() -> None:
    tree, _ = normal_fit(0.6)
    four = tree.map_over_datasets(
        lambda group: (
            group
            if not group
            else group.isel(chain=0, drop=True)
            .coarsen(draw=1000)
            .construct(draw=("chain", "draw"))
            .assign_coords(chain=range(4), draw=range(1000))
        )
    )
    arviz: Any = arviz_stats
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = arviz.loo(four, pointwise=True)
        stats = four["sample_stats"]
        corrected = arviz.loo_approximate_posterior(
            four, log_p=stats["lp"], log_q=stats["log_q"], pointwise=True
        )
    for kind, theirs in (("draws", plain), ("approximation", corrected)):
        ours = elpd_loo(four, kind)
        assert ours is not None
        assert ours.value == pytest.approx(theirs.elpd)
        assert ours.se == pytest.approx(theirs.se, rel=1 / N)  # 0.8 divides by N, 1.x by N - 1
        np.testing.assert_allclose(ours.k_hats, theirs.pareto_k)


def test_no_loo_without_draws_or_likelihood() -> None:
    tree, _ = normal_fit(1.0)
    assert elpd_loo(tree, "point") is None
    assert (
        elpd_loo(xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset()}), "draws")
        is None
    )
    bare = xr.DataTree.from_dict({g: tree[g].to_dataset() for g in ("posterior", "log_likelihood")})
    assert elpd_loo(bare, "approximation") is None


def test_no_loo_of_a_single_example() -> None:
    one = np.random.default_rng(0).normal(size=(2, 500, 1))
    assert elpd_loo(likelihoods(y=one), "draws") is None
    assert elpd_loo(likelihoods(y=one[..., 0]), "draws") is None


def likelihoods(**values: np.ndarray) -> xr.DataTree:
    dims = {name: ["point", "feature"][: value.ndim - 2] for name, value in values.items()}
    mu = np.random.default_rng(1).normal(size=(2, 500))
    return azb.from_dict({"posterior": {"mu": mu}, "log_likelihood": values}, dims=dims)


def test_sites_of_one_example_add_up() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(-1, 0.1, (2, 500, 3)), rng.normal(-1, 0.1, (2, 500, 3, 2))
    both = elpd_loo(likelihoods(a=a, b=b), "draws")
    alone = elpd_loo(likelihoods(sum=a + b.sum(axis=-1)), "draws")
    assert both is not None and alone is not None
    assert both.k_hats.dims == ("point",)
    assert both.value == pytest.approx(alone.value)


def test_sites_that_share_nothing_stand_side_by_side() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(-1, 0.1, (2, 500, 3)), rng.normal(-1, 0.1, (2, 500))
    loo = elpd_loo(likelihoods(a=a, b=b), "draws")
    assert loo is not None
    assert loo.k_hats["observation"].values.tolist() == ["a[0]", "a[1]", "a[2]", "b[0]"]


def test_missing_impossible_and_constant_likelihoods() -> None:
    y = np.random.default_rng(0).normal(-1, 0.1, (2, 500, 3))
    y[..., 0] = np.nan
    y[..., 1] = -2.0
    loo = elpd_loo(likelihoods(y=y), "draws")
    assert loo is not None
    assert np.isnan(loo.pointwise[0])
    assert float(loo.pointwise[1]) == pytest.approx(-2) and float(loo.k_hats[1]) == 0
    assert np.isfinite(loo.value)
    y[0, 0, 2] = -np.inf
    loo = elpd_loo(likelihoods(y=y), "draws")
    assert loo is not None
    assert loo.value == -np.inf and float(loo.k_hats[2]) == np.inf


def test_weights_that_differ_by_rounding_are_equal() -> None:
    log_q = np.random.default_rng(0).normal(-1000.0, 1.0, size=500)
    assert k_hat(log_q + 3.0 + 1e-12 * np.arange(500) % 7, log_q) == 0.0


def test_pareto_weights_are_normalised_and_their_tail_is_smooth() -> None:
    x = np.random.default_rng(0).normal(size=4000)
    log_weights, shape = pareto_weights(norm.logpdf(x, 0.5, 1.2), norm.logpdf(x))
    weights = np.exp(log_weights)
    assert weights.sum() == pytest.approx(1.0)
    assert shape == k_hat(norm.logpdf(x, 0.5, 1.2), norm.logpdf(x))
    assert weights @ x == pytest.approx(0.5, abs=0.1)
    plain = np.exp(norm.logpdf(x, 0.5, 1.2) - norm.logpdf(x))
    assert weights.max() < plain.max() / plain.sum()


def test_resampled_draws_are_judged_by_their_proposals() -> None:
    groups = {
        name: xr.Dataset({"lp": (("chain", "draw"), np.full((1, 3), value))})
        for name, value in (("sample_stats", 1.0), ("proposal_stats", 2.0))
    }
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset(), **groups})
    assert float(proposal_stats(tree)["lp"].max()) == 2.0
    without = xr.DataTree.from_dict({"sample_stats": groups["sample_stats"]})
    assert float(proposal_stats(without)["lp"].max()) == 1.0
    assert not proposal_stats(xr.DataTree()).data_vars
