"""Likelihoods that are estimates: held against the exact ones of a story that hides its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp

from storyzoo.errors import IntractableError
from storyzoo.inference.engine.estimated import BOUNDS, ESTIMATED_DRAWS, estimates
from storyzoo.inference.engine.factors import parts_of, priors_of
from storyzoo.inference.engine.groups import complete
from storyzoo.inference.engine.heldout import discrete_values, fitted_scores, log_predictive
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Story
from tests.ising import Spins, exact, spins

POINT = {"bias": np.array([0.3]), "coupling": np.array([1.0])}


def target_of(**fields: float) -> Target:
    """Forty rows of spins, whose density nobody may ask for."""
    return make_target(Spins(**fields), spins())  # type: ignore[arg-type]


def wide(size: int = 12) -> dict[str, np.ndarray]:
    """Draws around the point, (size,) each."""
    rng = np.random.default_rng(1)
    return {name: value + 0.2 * rng.normal(size=size) for name, value in POINT.items()}


# -- the density -------------------------------------------------------------------------------


def test_structure_is_read_without_the_density() -> None:
    structure = target_of().structure
    assert list(structure.latents) == ["bias", "coupling"]
    assert structure.outcomes == ("v",)


def test_the_density_is_refused_with_the_reason() -> None:
    target = target_of()
    latents = {name: torch.tensor(0.1).double() for name in target.structure.latents}
    with pytest.raises(IntractableError, match="more states than anyone can count"):
        parts_of(target.story, target.data, latents, target.structure)
    with pytest.raises(IntractableError, match="more states"):
        target.density()(torch.zeros(2).double())


def test_priors_are_those_of_the_exact_story() -> None:
    hidden, known = target_of(), make_target(Spins(hidden=False), spins())
    q = torch.tensor([[0.5, -1.0], [0.1, 2.0]]).double()
    found = hidden.density(jacobian=False).log_prior(q)
    torch.testing.assert_close(found, known.density(jacobian=False).log_prior(q))
    torch.testing.assert_close(hidden.density().log_prior(q[0]), found[0])
    latents = {"bias": q[0, 0], "coupling": q[0, 1]}
    with hidden.context():
        alone, local = priors_of(hidden.story, hidden.data, latents, hidden.structure)
    assert float(alone) == pytest.approx(float(found[0])) and not local.any()


# -- estimates ---------------------------------------------------------------------------------


def test_estimates_lie_within_their_error_and_bounds_around_the_truth() -> None:
    target, truth = target_of(), exact(spins()["v"], 0.3, 1.0)
    for seed in range(20):
        found = estimates(target, POINT, seed)
        assert found.value.shape == found.lower.shape == found.upper.shape == (1, 40)
        off = found.value[0] - truth
        np.testing.assert_allclose(off, off[0], atol=1e-12)
        assert abs(off[0]) < 4 * found.standard_error[0] == pytest.approx(4 * 0.05)
        np.testing.assert_allclose(found.lower[0], truth - 0.1)
        np.testing.assert_allclose(found.upper[0], truth + 0.1)


def test_rows_scored_apart_and_together_agree() -> None:
    target = target_of()
    together = log_predictive(target, wide(), seed=3)
    apart = log_predictive(target.rows([5, 1]), wide(), seed=3)
    np.testing.assert_array_equal(apart.nats, together.nats[[5, 1]])
    assert not np.array_equal(log_predictive(target, wide(), seed=4).nats, together.nats)


def test_a_point_has_the_error_of_its_normaliser() -> None:
    found = log_predictive(target_of(), POINT)
    truth = exact(spins()["v"], 0.3, 1.0)
    assert (np.abs(found.nats - truth) < 0.2).all()
    np.testing.assert_allclose(found.se, 0.05)
    assert found.mean_se == pytest.approx(0.05)
    assert found.lower is not None and found.upper is not None
    np.testing.assert_allclose(found.lower, truth - 0.1)
    np.testing.assert_allclose(found.upper, truth + 0.1)


def test_bounds_that_cross_by_chance_are_put_in_order() -> None:
    found = log_predictive(target_of(gap=-0.02), POINT)
    assert found.lower is not None and found.upper is not None
    np.testing.assert_allclose(found.upper - found.lower, 0.02)


def test_few_of_many_draws_are_averaged_inside_the_logarithm() -> None:
    draws = wide()
    found = log_predictive(target_of(noise=0.0, gap=0.0), draws)
    places = [0, 4, 7, 11]
    assert len(places) == ESTIMATED_DRAWS
    v = spins()["v"]
    rows = [exact(v, draws["bias"][s], draws["coupling"][s]) for s in places]
    by_hand = logsumexp(rows, axis=0) - np.log(4)
    assert found.lower is not None and found.upper is not None
    for nats in (found.nats, found.lower, found.upper):
        np.testing.assert_allclose(nats, by_hand)


def test_errors_of_the_draws_add_up_as_said() -> None:
    draws = {name: np.repeat(value, 4) for name, value in POINT.items()}
    target = target_of(noise=0.1)
    runs = [log_predictive(target, draws, seed) for seed in range(300)]
    spread = np.std([run.nats.mean() for run in runs])
    # By the normalisers 0.1 / sqrt(4); their spread over the draws shows once more as Monte Carlo.
    assert spread == pytest.approx(0.05, rel=0.15)
    said = np.sqrt(np.mean([run.mean_se**2 for run in runs]))
    assert spread < said < 1.7 * spread


# -- the tree ----------------------------------------------------------------------------------


def test_groups_hold_estimates_bounds_and_priors() -> None:
    target = target_of()
    draws = {name: np.stack([value, value]) for name, value in wide(6).items()}
    tree, notes = complete(posterior_tree(target.structure, draws, {}), target, 0)
    assert {"log_prior", "log_likelihood", BOUNDS, "posterior_predictive"} <= set(tree.children)
    assert tree["log_prior"].sizes == {"chain": 2, "draw": 6}
    assert tree["log_likelihood"]["v"].dims == ("chain", "draw", "row")
    assert tree["log_likelihood"]["v"].shape == (1, ESTIMATED_DRAWS, 40)
    bounds = tree[BOUNDS].to_dataset()
    assert bounds["standard_error"].shape == (1, ESTIMATED_DRAWS)
    assert bounds["effective"].shape == (1, ESTIMATED_DRAWS)
    assert bool((bounds["lower"] < bounds["upper"]).all())
    assert (
        "log likelihoods are estimates at 4 of 12 draws, ± 0.05 nats per example: "
        "two spins have more states than anyone can count" in notes
    )


def test_scores_of_the_fitted_rows_are_read_from_the_tree() -> None:
    target = target_of()
    draws = {name: value[None] for name, value in wide().items()}
    tree, _ = complete(posterior_tree(target.structure, draws, {}), target, 7)
    found, anew = fitted_scores(tree, target), log_predictive(target, wide(), 7)
    assert found is not None
    for name in ("nats", "se", "mean_se", "lower", "upper", "values"):
        np.testing.assert_allclose(getattr(found, name), getattr(anew, name))


@dataclass(frozen=True)
class Mute(Spins):
    """Can't even be estimated."""

    log_likelihood_estimate = Story.log_likelihood_estimate  # type: ignore[assignment]


def test_without_an_estimate_there_is_no_likelihood_and_the_reason_is_told() -> None:
    target = make_target(Mute(), spins())
    draws = {name: value[None] for name, value in POINT.items()}
    tree, notes = complete(posterior_tree(target.structure, draws, {}), target, 0)
    assert {"log_likelihood", BOUNDS}.isdisjoint(tree.children) and "log_prior" in tree.children
    assert any("no log likelihood: two spins have more states" in note for note in notes)
    assert fitted_scores(tree, target) is None
    with pytest.raises(IntractableError, match="has no log likelihood: two spins"):
        log_predictive(target, POINT)


# -- what bits are counted per -----------------------------------------------------------------


@dataclass(frozen=True)
class Coins(Story):
    """Rows of three coins; or of three heights, which have no bits."""

    heights: bool = False

    data_dims = {"y": ("coin", "row")}
    examples = "row"

    def model(self, y: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        of = dist.Normal(p, 1.0) if self.heights else dist.Bernoulli(p)
        with pyro.plate("coin", len(y), dim=-2), pyro.plate("row", y.shape[1], dim=-1):
            pyro.sample("y", of, obs=y)


def test_discrete_values_are_those_observed() -> None:
    y = np.array([[0.0, 1.0], [1.0, np.nan], [1.0, np.nan]])
    counted = discrete_values(make_target(Coins(), {"y": y}))
    assert counted is not None and counted.tolist() == [3.0, 1.0]
    assert discrete_values(make_target(Coins(heights=True), {"y": y})) is None
