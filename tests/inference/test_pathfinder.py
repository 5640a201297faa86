"""Pathfinder: exact where the posterior is normal, near it elsewhere, honest where it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm

from storyzoo.binding import bind
from storyzoo.datasets import load
from storyzoo.datasets.posteriordb import reference_draws
from storyzoo.errors import RefusedError, SettingError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.psis import elpd_loo, k_hat, proposal_stats
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import draws_of
from storyzoo.inference.pathfinder import Pathfinder, PathfinderInfo, matched, systematic
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.reports.optimum_checks import paths_agree
from storyzoo.reports.verdict import Verdict, judge
from storyzoo.story import Story
from tests.cases import CASES, Case
from tests.inference import conjugate
from tests.inference.references import gaps
from tests.inference.test_map import EFFECTS, Breaking


def fitted(target: Target, seed: int = 0, **settings: Any) -> tuple[Any, PathfinderInfo]:
    """The tree and the info."""
    tree, info = Pathfinder(**settings).run(target, seed=seed, progress=Progress(quiet=True))
    assert isinstance(info, PathfinderInfo)
    return tree, info


def shape_of(tree: Any) -> float:
    """k-hat of the draws before they were resampled."""
    stats = proposal_stats(tree)
    return k_hat(stats["lp"].values, stats["log_q"].values)


def judged(target: Target, tree: Any, info: PathfinderInfo) -> Verdict:
    """The verdict on a fit."""
    return judge(tree, info, kind=Pathfinder.kind, story=target.story)


# -- normal posteriors ---------------------------------------------------------------------


@dataclass(frozen=True)
class Level(Story):
    """Independent unknowns, each seen once: one normal for all."""

    size: int = 1

    data_dims = {"y": ("place",)}
    event_dims = {"x": ("place",)}

    def model(self, y: Any) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 2.0).expand([self.size]).to_event(1))
        pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize("size", [1, 50, 500])
def test_level_is_exact(size: int) -> None:
    y = np.linspace(-1, 2, size)
    tree, info = fitted(make_target(Level(size), {"y": y}))
    evidence = norm(0.0, math.sqrt(5.0)).logpdf(y).sum()
    assert info.elbo[0] == pytest.approx(evidence, abs=1e-6)
    assert info.paths == pytest.approx([evidence] * 8, abs=1e-6)
    stats = proposal_stats(tree)
    np.testing.assert_allclose(stats["lp"] - stats["log_q"], evidence, atol=1e-6)
    assert shape_of(tree) == 0.0
    x = tree["posterior"]["x"].values[0]
    assert np.abs(x.mean(0) - 0.8 * y).max() < 4.5 * math.sqrt(0.8 / 1000)
    np.testing.assert_allclose(x.var(0), 0.8, rtol=0.25)


def test_correlated_normal_is_found() -> None:
    target, exact = conjugate.line()
    tree, info = fitted(target, draws=4000)
    assert shape_of(tree) < 0.3
    assert info.elbo[0] == pytest.approx(exact.log_evidence, abs=1e-3)
    beta = tree["posterior"]["beta"].values[0]
    sd = np.sqrt(np.diag(exact.covariance))
    assert (np.abs(beta.mean(0) - exact.mean) / sd).max() < 4 / math.sqrt(4000)
    np.testing.assert_allclose(np.cov(beta.T), exact.covariance, rtol=0.15)


def test_local_latents_are_part_of_the_normal() -> None:
    target, exact = conjugate.schools()
    tree, info = fitted(target)
    assert shape_of(tree) < 0.5
    assert exact.log_evidence - 0.5 < info.elbo[0] < exact.log_evidence + 3 * info.elbo_se
    draws = np.concatenate(
        [tree["posterior"]["mu"].values[0][:, None], tree["posterior"]["theta"].values[0]], axis=1
    )
    sd = np.sqrt(np.diag(exact.covariance))
    assert (np.abs(draws.mean(0) - exact.mean) / sd).max() < 4 / math.sqrt(1000)
    gap = np.cov(draws.T) - exact.covariance
    assert (np.abs(gap) / np.outer(sd, sd)).max() < 0.2


def test_log_q_is_the_density_of_the_mixture() -> None:
    """Over the reals ``E_q[p/q]`` is the evidence: true only where log_q is that of the draws."""
    target, evidence = conjugate.centres()
    tree, _ = fitted(target, draws=4000)
    stats = proposal_stats(tree)
    ratios = np.exp((stats["lp"] - stats["log_q"]).values - evidence)
    assert ratios.mean() == pytest.approx(1.0, abs=0.02)


# -- modes ---------------------------------------------------------------------------------


def test_both_labellings_are_kept_in_equal_parts() -> None:
    target, _ = conjugate.centres()
    tree, info = fitted(target)
    first = tree["posterior"]["loc"].values[0, :, 0] < 0
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    assert judged(target, tree, info).verdict == "approximate"


@dataclass(frozen=True)
class Squared(Story):
    """A number seen by its square alone: two modes, which the prior makes unequal."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        x = pyro.sample("x", dist.Normal(0.5, 1.5))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x**2, 0.6), obs=y)


def test_modes_are_weighed_by_their_mass_not_by_the_paths_that_found_them() -> None:
    grid = np.linspace(-5, 5, 20001)
    log_p = norm(0.5, 1.5).logpdf(grid) + norm(grid**2, 0.6).logpdf(4.0)
    mass = np.exp(log_p - log_p.max())
    share = mass[grid < 0].sum() / mass.sum()
    target = make_target(Squared(), {"y": np.array([4.0])})
    tree, info = fitted(target, draws=4000, paths=12)
    x = tree["posterior"]["x"].values[0]
    assert 0.1 < share < 0.4
    assert (x < 0).mean() == pytest.approx(share, abs=0.02)
    assert sum(info.shares) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("shares", "heights", "found"),
    [
        ([0.5, 0.5, 0.0, 0.0], [-1.0, -1.0, -9.0, -9.0], 2),
        ([1.0, 0.0, 0.0, 0.0], [-1.0, -9.0, -9.0, -math.inf], 1),
        ([1.0, 0.0, 0.0, 0.0], [-1.0, -1.005, 3.0, -9.0], 2),  # one mode, a poorer normal
        ([0.9, 0.1, 0.0, 0.0], [math.inf, -2.0, math.inf, -9.0], 2),  # no top to compare
    ],
)
def test_the_place_of_the_weight_must_be_found_twice(
    shares: list[float], heights: list[float], found: int
) -> None:
    told = paths_agree(np.array(shares), np.array(heights))
    assert (told.value, told.passed) == (found, found >= 2)


# -- what is not normal --------------------------------------------------------------------


@cache
def schools() -> tuple[Target, Any, PathfinderInfo]:
    target = make_target(EightSchools(), EFFECTS)
    return target, *fitted(target, draws=4000)


@pytest.mark.usefixtures("mirror")
def test_eight_schools_are_near_the_reference() -> None:
    references = reference_draws("eight_schools-eight_schools_noncentered")
    target, tree, info = schools()
    draws = draws_of(target.structure, tree["posterior"].to_dataset())
    theta = draws["mu"][..., None] + draws["tau"][..., None] * draws["theta_raw"]
    ours = {"mu": draws["mu"], "tau": draws["tau"]}
    ours |= {f"theta[{j + 1}]": theta[..., j] for j in range(8)}
    for parameter, values in ours.items():
        reference = references[parameter]
        error = reference.std() * (4 / math.sqrt(min(info.weight_ess, 4000)) + 0.03)
        assert abs(values.mean() - reference.mean()) < error, parameter
        assert values.std() == pytest.approx(reference.std(), rel=0.15), parameter


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize("name", ["arK", "kidscore_momiq", "low_dim_gauss_mix"])
def test_means_are_those_of_the_reference(name: str) -> None:
    found = gaps(name, Pathfinder(draws=4000))
    for parameter in {parameter for parameter, _ in found}:
        mean, square = found[parameter, "mean"], found[parameter, "square"]
        sd = math.sqrt(square.wanted)
        assert abs(mean.found - mean.wanted) < 0.12 * sd, parameter
        assert math.sqrt(square.found) == pytest.approx(sd, rel=0.12), parameter


def test_tied_mixture_of_iris_is_near_nuts() -> None:
    """Against means and sds of NUTS's 4 × 1000 draws: sizes of the parts, and their common shape.

    k-hat says that 21 dims are too many for the path's normals; the means are right all the same.
    """
    story = GaussianMixture(covariance="tied")
    bound = bind(story, load("iris"))
    target = make_target(story, bound.arrays, coords=bound.coords)
    tree, info = fitted(target, paths=3)
    weight = np.sort(tree["posterior"]["weight"].values[0], axis=-1)
    np.testing.assert_allclose(weight.mean(0), [0.294, 0.332, 0.374], atol=0.012)
    variances = np.diagonal(tree["posterior"]["covariance"].values[0], axis1=-2, axis2=-1)
    means, sds = np.array([0.271, 0.117, 0.196, 0.044]), np.array([0.033, 0.0135, 0.026, 0.0058])
    assert (np.abs(variances.mean(0) - means) / sds).max() < 0.5
    np.testing.assert_allclose(variances.std(0), sds, rtol=0.5)
    assert info.paths[info.best] == max(info.paths)


def test_centred_funnel_without_mode_is_taken_on_the_way() -> None:
    target = make_target(EightSchools(centred=True), EFFECTS)
    tree, info = fitted(target, paths=3, max_steps=150)
    assert all(t < n for t, n in zip(info.taken, info.lengths, strict=True))
    assert np.isfinite(tree["posterior"]["tau"]).all()
    assert float(tree["posterior"]["tau"].mean()) > 0.5
    assert "k_hat" in {check.name for check in judged(target, tree, info).checks}


@dataclass(frozen=True)
class Heavy(Story):
    """Cauchy unknowns that the data hardly speak of: any normal is too narrow."""

    data_dims = {"y": ("row",)}
    event_dims = {"x": ("place",)}
    examples = "row"

    def model(self, y: Any) -> None:
        x = pyro.sample("x", dist.Cauchy(0.0, 1.0).expand([8]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x.sum(), 1000.0), obs=y)


@pytest.mark.parametrize("resample", [True, False])
def test_too_narrow_is_told_by_k_hat(resample: bool) -> None:
    target = make_target(Heavy(), {"y": np.zeros(2)})
    tree, info = fitted(target, resample=resample)
    verdict = judged(target, tree, info)
    assert shape_of(tree) > 0.7
    assert verdict.verdict == "do not trust"
    assert {c.name for c in verdict.checks if not c.passed} == {"k_hat"}
    assert any("worth" in note for note in info.notes) is resample


@pytest.mark.parametrize(
    "case", [c for c in CASES if not isinstance(c.story, EightSchools)], ids=lambda case: case.name
)
def test_every_kind_of_story_is_fitted(case: Case) -> None:
    target = case.target()
    tree, _ = fitted(target, paths=2, draws=50, max_steps=200)
    assert set(target.structure.latents) == set(tree["posterior"].data_vars)
    assert tree["posterior"].sizes["draw"] == 50
    assert np.isfinite(proposal_stats(tree)["log_q"]).all()


# -- resampling ----------------------------------------------------------------------------


def test_resampled_draws_bring_no_second_weight() -> None:
    target, tree, info = schools()
    assert set(tree["sample_stats"].data_vars) == {"lp", "path"}
    assert tree["proposal_stats"].sizes == {"chain": 1, "draw": 8 * 4000}
    assert judged(target, tree, info).verdict in ("approximate", "do not trust")
    stats = tree["sample_stats"]
    q = target.density().flatten(
        {name: torch.as_tensor(tree["posterior"][name].values[0]) for name in ("mu", "tau")}
        | {"theta_raw": torch.as_tensor(tree["posterior"]["theta_raw"].values[0])}
    )
    again = target.density().batch(q).numpy()
    np.testing.assert_allclose(again, stats["lp"].values[0], atol=1e-8)
    tree = tree.assign({})
    tree["log_likelihood"] = type(tree)(tree["posterior"].to_dataset()[["theta_raw"]] * 0 - 1.0)
    loo = elpd_loo(tree, "approximation")
    assert loo is not None and loo.value == pytest.approx(-8.0)


def test_without_resampling_the_best_path_is_the_answer() -> None:
    target = make_target(EightSchools(), EFFECTS)
    tree, info = fitted(target, resample=False, paths=4)
    assert "proposal_stats" not in tree.children
    stats = tree["sample_stats"]
    assert (stats["path"] == info.best).all()
    gap = float((stats["lp"] - stats["log_q"]).mean())
    assert info.elbo[0] == info.paths[info.best] == max(info.paths) == pytest.approx(gap)
    assert info.distinct == 1000


def test_systematic_resampling_is_unbiased_and_even() -> None:
    weights = np.array([0.5, 0.25, 0.125, 0.125, 0.0])
    rng = np.random.default_rng(0)
    counts = np.array([np.bincount(systematic(weights, 10, rng), minlength=5) for _ in range(4000)])
    np.testing.assert_allclose(counts.mean(0), 10 * weights, atol=0.04)
    assert (np.abs(counts - 10 * weights) < 1).all()


@pytest.mark.parametrize(("draws", "dim"), [(25, 1), (25, 10), (25, 40), (1, 3), (2, 2)])
def test_matched_noise_has_the_moments_of_the_normal(draws: int, dim: int) -> None:
    noise = matched(np.random.default_rng(0).standard_normal((draws, dim)))
    assert noise.shape == (draws, dim)
    if draws > 1:
        np.testing.assert_allclose(noise.mean(0), 0.0, atol=1e-12)
        assert (noise**2).sum() == pytest.approx(draws * dim)
    if draws > dim:
        np.testing.assert_allclose(noise.T @ noise / draws, np.eye(dim), atol=1e-12)


# -- failures ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Brittle(Story):
    """Has no density below zero, where some of its own starts lie."""

    bad: float = 0.5

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        x = pyro.sample("x", dist.Normal(3.0, 0.1))
        scale = torch.where(x < 0, torch.full_like(x, torch.nan), torch.ones_like(x))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x, scale), obs=y)

    def initial(self, data: Any, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Below zero with probability ``bad``."""
        return {"x": torch.tensor(-1.0 if rng.random() < self.bad else 3.0)}


def test_failed_paths_are_counted_and_named() -> None:
    target = make_target(Brittle(), {"y": np.array([3.0, 3.2])})
    tree, info = fitted(target)
    failed = [n for n, failure in enumerate(info.failures) if failure]
    assert 0 < len(failed) < 8
    said = next(note for note in info.notes if "failed" in note)
    assert said.startswith(f"{len(failed)} of 8 paths failed and were left out: {failed[0]}")
    assert all(info.paths[n] == -math.inf and info.shares[n] == 0 for n in failed)
    assert float(tree["posterior"]["x"].mean()) == pytest.approx(3.0, abs=0.02)
    assert judged(target, tree, info).verdict == "approximate"


def test_when_all_paths_fail_one_line_says_so() -> None:
    target = make_target(Brittle(bad=1.0), {"y": np.array([3.0, 3.2])})
    with pytest.raises(RefusedError, match=r"can't fit brittle: all 3 paths failed \(no ") as told:
        fitted(target, paths=3)
    assert "\n" not in str(told.value)


@dataclass(frozen=True)
class Hopeless(Brittle):
    """Has no density anywhere."""

    def model(self, y: Any) -> None:
        x = pyro.sample("x", dist.Normal(3.0, 0.1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x, math.inf), obs=y)


def test_no_finite_start_is_told_with_its_place() -> None:
    target = make_target(Hopeless(), {"y": np.array([3.0, 3.2])})
    with pytest.raises(RefusedError, match=r"(?s)failed.*narrower priors"):
        fitted(target, paths=4)


def test_one_path_says_what_it_did_not_look_for() -> None:
    target, _ = conjugate.line()
    _, info = fitted(target, paths=1)
    assert "one path only: other modes were not looked for" in info.notes


@pytest.mark.parametrize("setting", ["paths", "draws", "max_steps", "elbo_draws", "memory"])
def test_impossible_settings(setting: str) -> None:
    wrong: Any = {setting: 0}
    with pytest.raises(SettingError, match=f"pathfinder: {setting}=0 is impossible"):
        Pathfinder(**wrong)


def test_a_story_without_continuous_sites_is_refused() -> None:
    target, _ = conjugate.line()
    empty = replace(target.structure, sites={})
    assert "no continuous" in (Pathfinder().refuses(target.story, empty) or "")
    assert Pathfinder().refuses(target.story, target.structure) is None


# -- seeds, interruption, budgets ----------------------------------------------------------


def test_same_seed_same_bits() -> None:
    target = make_target(EightSchools(), EFFECTS)
    first, again, other = (fitted(target, seed, paths=3, draws=100)[0] for seed in (3, 3, 4))
    assert first.identical(again)
    assert not first.identical(other)


def test_interrupted_run_keeps_its_paths_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    target = make_target(EightSchools(), EFFECTS)
    method, checkpoint = Pathfinder(paths=5, draws=100), Checkpoint(tmp_path / "checkpoint.npz")
    whole = method.run(target, seed=1, progress=Progress(quiet=True))
    cut = method.run(target, seed=1, progress=Breaking(3), checkpoint=checkpoint)
    assert isinstance(whole.info, PathfinderInfo) and isinstance(cut.info, PathfinderInfo)
    assert cut.info.stopped == "interrupted"
    assert len(cut.info.paths) == 3
    assert "3 of 5 paths were followed" in cut.info.notes
    assert checkpoint.path.exists()
    resumed = method.run(target, seed=1, progress=Progress(quiet=True), checkpoint=checkpoint)
    assert isinstance(resumed.info, PathfinderInfo)
    assert resumed.tree.identical(whole.tree)
    assert resumed.info.gradient_evaluations == whole.info.gradient_evaluations
    assert 0 < resumed.info.resumed_evaluations < resumed.info.gradient_evaluations
    assert resumed.info.paths == whole.info.paths
    assert not checkpoint.path.exists()


def test_interrupted_before_the_first_path_there_is_no_answer(tmp_path: Path) -> None:
    target = make_target(EightSchools(), EFFECTS)
    with pytest.raises(KeyboardInterrupt):
        Pathfinder().run(target, seed=1, progress=Breaking(0))


def test_spent_minutes_keep_at_least_one_path() -> None:
    target = make_target(EightSchools(), EFFECTS)
    _, info = fitted(target, minutes=1e-9)
    assert info.stopped == "minutes"
    assert len(info.paths) == 1


# -- starts for chains ---------------------------------------------------------------------


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(child) for child in np.random.SeedSequence(5).spawn(count)]


def test_starts_are_draws_of_the_posterior_where_it_is_normal() -> None:
    target, exact = conjugate.schools()
    points = Pathfinder().starts(target, target.density(), generators(60)).numpy()
    assert points.shape == (60, 13)
    sd = np.sqrt(np.diag(exact.covariance))
    scores = (points - exact.mean) / sd
    assert np.abs(scores.mean(0)).max() < 4.5 / math.sqrt(60)
    assert 0.7 < scores.std() < 1.3
    again = Pathfinder().starts(target, target.density(), generators(60)).numpy()
    np.testing.assert_array_equal(points, again)


def test_starts_lie_in_both_modes() -> None:
    target = make_target(Squared(), {"y": np.array([4.0])})
    points = Pathfinder().starts(target, target.density(), generators(20)).numpy().ravel()
    assert 0 < (points < 0).mean() < 1
    np.testing.assert_allclose(np.abs(points), 2.0, atol=0.8)


def test_where_a_path_fails_its_prior_draw_is_the_start() -> None:
    """Next to the edge of the support every normal reaches over it."""
    target = make_target(Edge(), {"y": np.array([0.0])})
    density = target.density()
    found = Pathfinder().starts(target, density, generators(3))
    prior = torch.stack([density.start(rng) for rng in generators(3)])
    torch.testing.assert_close(found, prior)


@dataclass(frozen=True)
class Edge(Story):
    """Rises towards an edge beyond which there is nothing."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        scale = torch.where(x > 0, torch.full_like(x, torch.inf), torch.full_like(x, 1e3))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(1e4 * x, scale), obs=y)
