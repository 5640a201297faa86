"""Calibration: exact draws pass, every kind of wrong ones fails, and labels can't be fooled by."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from storyzoo.inference.engine.calibration import RANKED, Calibrator, Ranked, Unfinished
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.lowering import cache
from storyzoo.inference.engine.method import Info, Kind, Method, Outcome
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.inference.map import MAP
from storyzoo.inference.nuts import NUTS
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.reports.calibration import (
    CALIBRATED,
    NARROW,
    ODD,
    SHIFTED,
    WIDE,
    Evidence,
    Judged,
    judge,
)
from storyzoo.story import Story
from tests.cases import CASES, FlatRegression, Mixture
from tests.inference.conjugate import Centres, Line, line

SIMULATIONS = 200


@dataclass(frozen=True)
class Sampler(Method):
    """Independent draws made from the data by hand."""

    kind: ClassVar[Kind] = "draws"

    draws: int = 400

    def sample(self, target: Target, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws ``(S, *shape)`` by site."""
        raise NotImplementedError

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        drawn = self.sample(target, np.random.default_rng(seed))
        values = {name: value[None] for name, value in drawn.items()}
        return Outcome(posterior_tree(target.structure, values, {}), Info())


@dataclass(frozen=True)
class ExactLine(Sampler):
    """The normal posterior of a regression; ``width`` times as wide, off by ``shift`` sd."""

    name: ClassVar[str] = "exact-line"

    width: float = 1.0
    shift: float = 0.0
    of_the_prior: bool = False

    def sample(self, target: Target, rng: np.random.Generator) -> dict[str, np.ndarray]:
        story = target.story
        assert isinstance(story, Line)
        x, y = (np.asarray(target.data[name]) for name in ("x", "y"))
        told = 0 if self.of_the_prior else 1
        precision = told * x.T @ x / story.noise**2 + np.eye(2) / story.spread**2
        covariance = np.linalg.inv(precision)
        mean = told * covariance @ x.T @ y / story.noise**2
        factor = np.linalg.cholesky(covariance)
        standard = self.shift + self.width * rng.normal(size=(self.draws, 2))
        return {"beta": mean + standard @ factor.T}


def evidence_of(calibrator: Calibrator, simulations: int = SIMULATIONS) -> Evidence:
    """Every simulation in turn."""
    found = [calibrator.ranked(number, 0) for number in range(simulations)]
    return Evidence(
        names=calibrator.quantities,
        ranks=np.array([one.rank for one in found]),
        truths=np.array([one.truth for one in found]),
        among=found[0].among,
        divergences=np.array([one.divergences for one in found], dtype=float),
        ess=np.array([one.ess for one in found]),
        failed={},
    )


def judged(target: Target, method: Method, simulations: int = SIMULATIONS) -> Judged:
    """What calibration says of a method."""
    return judge(evidence_of(Calibrator(target, method), simulations))


# -- right and wrong samplers ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "verdict"),
    [
        (ExactLine(), CALIBRATED),
        (ExactLine(width=0.7), NARROW),
        (ExactLine(width=1.5), WIDE),
        (ExactLine(shift=0.5), SHIFTED),
        (ExactLine(shift=-0.5), SHIFTED),
    ],
)
def test_a_sampler_is_told_from_a_wrong_one(method: ExactLine, verdict: str) -> None:
    target, _ = line(rows=8)
    assert judged(target, method).verdict == verdict


def test_draws_of_the_prior_are_seen_by_the_likelihood_alone() -> None:
    target, _ = line(rows=8)
    found = judged(target, ExactLine(of_the_prior=True))
    passed = {reading.name: reading.passed for reading in found.readings}
    assert passed == {"beta[0]": True, "beta[1]": True, "log_likelihood": False, "log_joint": False}
    assert found.verdict == ODD


def test_quantities_of_parameters_and_data_are_those_of_the_density() -> None:
    target, _ = line(rows=8)
    calibrator = Calibrator(target, ExactLine())
    truth, simulated = calibrator.simulate(np.random.default_rng([0, 3]))
    ranked = calibrator.ranked(3, 0)
    density = simulated.density()
    q = density.flatten(truth)
    values = dict(zip(calibrator.quantities, ranked.truth, strict=True))
    assert values["log_joint"] == pytest.approx(float(density(q)))
    assert values["log_likelihood"] == pytest.approx(float(density.log_likelihood(q).sum()))


@pytest.mark.parametrize("case", [c for c in CASES if not c.improper], ids=lambda c: c.name)
def test_every_story_can_be_ranked(case) -> None:  # type: ignore[no-untyped-def]
    """Draws of the prior stand in for a method: what is asked is that every number comes out."""
    target = case.target()

    @dataclass(frozen=True)
    class Prior(Sampler):
        name: ClassVar[str] = "prior"

        def sample(self, target: Target, rng: np.random.Generator) -> dict[str, np.ndarray]:
            simulator = Simulator(target)
            drawn = [simulator.prior(rng) for _ in range(12)]
            return {
                name: np.stack([np.asarray(one[name]) for one in drawn])
                for name in target.structure.latents
            }

    calibrator = Calibrator(target, Prior())
    if Simulator(target).refuses():
        assert calibrator.refuses()
        return
    ranked = calibrator.ranked(0, 1)
    assert ranked.among == 11
    assert len(calibrator.quantities) == len(ranked.rank) == len(set(calibrator.quantities))
    assert {"log_likelihood", "log_joint"} <= set(calibrator.quantities)
    assert np.isfinite(ranked.rank).all() and (ranked.rank <= 11).all()


# -- labels ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clouds(Story):
    """Five clouds of unit width and equal weight, in three dims."""

    data_dims = {"y": ("point", "feature")}
    event_dims = {"loc": ("feature",), "y": ("feature",)}
    examples = "point"
    exchangeable = {"component": ("component",)}
    label_values = {"z": "component"}

    def model(self, y: Tensor) -> None:
        with pyro.plate("component", 5):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand(y.shape[-1:]).to_event(1))
        with pyro.plate("point", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.full((5,), 0.2)))
            pyro.sample("y", dist.Normal(loc[z], 1.0).to_event(1), obs=y)


@dataclass(frozen=True)
class ExactClouds(Sampler):
    """Draws of the centres from their posterior, a mixture of normals over all labellings.

    Named from left to right, as a chain stays with one naming though all are as probable.
    """

    name: ClassVar[str] = "exact-clouds"

    width: float = 1.0

    def sample(self, target: Target, rng: np.random.Generator) -> dict[str, np.ndarray]:
        y = np.asarray(target.data["y"])
        labels = np.eye(5)[list(itertools.product(range(5), repeat=len(y)))]
        precision = labels.sum(1)[..., None] + 1.0
        mean = np.einsum("ank,nd->akd", labels, y) / precision
        weights = 0.5 * (precision * mean**2 - np.log(precision)).sum((1, 2))
        chosen = rng.choice(len(labels), size=self.draws, p=special.softmax(weights))
        noise = rng.normal(size=(self.draws, *mean.shape[1:]))
        drawn = mean[chosen] + noise / np.sqrt(precision[chosen])
        drawn = drawn.mean(0) + self.width * (drawn - drawn.mean(0))
        order = np.argsort(drawn[..., 0], axis=1)
        return {"loc": np.take_along_axis(drawn, order[..., None], axis=1)}


class MatchedToTruth(Calibrator):
    """What must not be done: each draw is named as it lies nearest to the truth."""

    def _matched(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        loc = values["loc"]
        gaps = ((loc[:, None] - loc[0][None, :, None]) ** 2).sum(-1)
        named = np.stack(
            [one[linear_sum_assignment(gap)[1]] for one, gap in zip(loc, gaps, strict=True)]
        )
        return {name: np.delete(v, 1, axis=0) for name, v in (values | {"loc": named}).items()}


class AsDrawn(Calibrator):
    """Labels left as they are."""

    def _matched(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.delete(value, 1, axis=0) for name, value in values.items()}


def few_points() -> Target:
    """So few points that the clouds are hard to tell apart."""
    return make_target(Clouds(), {"y": np.random.default_rng(0).normal(size=(4, 3))})


def test_labels_matched_to_a_draw_that_is_left_out_are_calibrated() -> None:
    found = judged(few_points(), ExactClouds())
    assert found.verdict == CALIBRATED, found.headline
    assert len(found.readings) == 15 + 2


def test_so_matched_a_narrow_sampler_still_fails() -> None:
    assert judged(few_points(), ExactClouds(width=0.6)).verdict == NARROW


@pytest.mark.parametrize("calibrator", [MatchedToTruth, AsDrawn])
def test_labels_matched_to_the_truth_or_not_at_all_fail(calibrator: type[Calibrator]) -> None:
    found = judge(evidence_of(calibrator(few_points(), ExactClouds())))
    failed = {reading.name for reading in found.readings if not reading.passed}
    assert failed and not failed & {"log_joint", "log_likelihood"}


def test_labels_that_mean_something_are_left_alone() -> None:
    @dataclass(frozen=True)
    class Uneven(Centres):
        def model(self, y: Tensor) -> None:
            with pyro.plate("component", 2):
                loc = pyro.sample("loc", dist.Normal(torch.tensor([0.0, 4.0]), 3.0))
            with pyro.plate("point", len(y)):
                z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5)))
                pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)

    calibrator = Calibrator(make_target(Uneven(), {"y": np.zeros(5)}), NUTS())
    assert calibrator.groups == {}
    assert "labels of 'component' were left as they are" in calibrator.notes[0]


# -- what is simulated and ranked --------------------------------------------------------------


def test_holes_and_covariates_are_those_of_the_data_at_hand() -> None:
    y = np.array([[1.0, np.nan], [0.0, 2.0], [np.nan, np.nan]])
    calibrator = Calibrator(make_target(Mixture(), {"y": y}), NUTS())
    _, simulated = calibrator.simulate(np.random.default_rng(0))
    assert (np.isnan(simulated.data["y"].numpy()) == np.isnan(y)).all()
    target, _ = line(rows=8)
    _, simulated = Calibrator(target, ExactLine()).simulate(np.random.default_rng(0))
    assert torch.equal(simulated.data["x"], target.data["x"])
    assert not torch.equal(simulated.data["y"], target.data["y"])


def test_ties_are_broken_evenly() -> None:
    @dataclass(frozen=True)
    class Rounded(ExactLine):
        def sample(self, target: Target, rng: np.random.Generator) -> dict[str, np.ndarray]:
            return {"beta": np.zeros((self.draws, 2))}

    class AtZero(Calibrator):
        def simulate(self, rng: np.random.Generator) -> tuple[dict[str, Tensor], Target]:
            latents, simulated = super().simulate(rng)
            return {"beta": torch.zeros_like(latents["beta"])}, simulated

    target, _ = line(rows=8)
    found = evidence_of(AtZero(target, Rounded()), 100)
    assert stats.chisquare(np.histogram(found.ranks[:, 0], bins=5, range=(0, 100))[0])[1] > 0.001


def test_a_simulation_is_the_same_however_often_it_is_run() -> None:
    target, _ = line(rows=8)
    first, again, other = (
        Calibrator(target, ExactLine()).ranked(number, seed)
        for number, seed in ((4, 0), (4, 0), (4, 1))
    )
    assert np.array_equal(first.row(), again.row(), equal_nan=True)
    assert not np.array_equal(first.truth, other.truth)
    kept = Ranked.from_row(first.row())
    assert np.array_equal(kept.rank, first.rank) and kept.among == first.among == RANKED


def test_what_a_story_identifies_is_ranked_alone() -> None:
    @dataclass(frozen=True)
    class Summed(Line):
        identified = ("total",)

        def model(self, x: Tensor, y: Tensor) -> None:
            super().model(x, y)
            beta = pyro.sample("gamma", dist.Normal(0.0, 1.0).expand((2,)).to_event(1))
            pyro.deterministic("total", beta.sum())

    target, _ = line(rows=8)
    calibrator = Calibrator(make_target(Summed(), dict(target.data)), ExactLine())
    assert calibrator.quantities == ("total", "log_likelihood", "log_joint")


def test_of_many_effects_some_are_ranked() -> None:
    target = make_target(EightSchools(), {"effect": np.arange(100.0), "stderr": np.full(100, 10.0)})
    names = Calibrator(target, NUTS()).quantities
    assert sum(name.startswith("theta[") for name in names) == 40


def test_too_few_draws_are_no_ranks() -> None:
    target, _ = line(rows=8)
    with pytest.raises(Unfinished, match="gave 2 draws: too few"):
        Calibrator(target, ExactLine(draws=2)).ranked(0, 0)


def test_interrupted_fits_interrupt() -> None:
    @dataclass(frozen=True)
    class Interrupted(ExactLine):
        def run(self, target: Target, **given) -> Outcome:  # type: ignore[no-untyped-def]
            outcome = super().run(target, **given)
            return outcome._replace(info=replace(outcome.info, stopped="interrupted"))

    target, _ = line(rows=8)
    with pytest.raises(KeyboardInterrupt):
        Calibrator(target, Interrupted()).ranked(0, 0)


# -- what is refused ---------------------------------------------------------------------------


def test_refusals_say_why() -> None:
    target, _ = line(rows=8)
    assert "a point, which has no draws" in str(Calibrator(target, MAP()).refuses())
    flat = make_target(FlatRegression(), {"x": np.arange(5.0), "y": np.arange(5.0)})
    assert "the prior of beta is improper" in str(Calibrator(flat, NUTS()).refuses())

    @dataclass(frozen=True)
    class Computed(Story):
        data_dims = {"y": ("row",)}

        def model(self, y: Tensor) -> None:
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            pyro.sample("square", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y**2)

    computed = make_target(Computed(), {"y": np.arange(5.0)})
    assert "computed from the data" in str(Calibrator(computed, NUTS()).refuses())
    assert Calibrator(target, NUTS()).refuses() is None


# -- samplers of the zoo -----------------------------------------------------------------------


def test_simulations_share_their_machine_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYZOO_CACHE", str(tmp_path))
    target = make_target(
        GaussianMixture(n_components=2), {"y": np.random.default_rng(0).normal(size=(23, 2))}
    )
    calibrator = Calibrator(target, NUTS(chains=2, draws=40, warmup=40))
    calibrator.ranked(0, 0)
    before = cache.usage()
    for number in range(1, 4):
        calibrator.ranked(number, 0)
    assert cache.usage() == before


@pytest.mark.slow
def test_nuts_is_calibrated_for_eight_schools() -> None:
    target = make_target(
        EightSchools(),
        {
            "effect": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
            "stderr": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
        },
    )
    nuts = NUTS(chains=4, draws=500, warmup=500, target_accept=0.95)
    found = judged(target, nuts)
    assert found.verdict == CALIBRATED, found.headline
