"""ChEES-HMC: exact on what is known, the same bits for a seed, whole after every kind of ending."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints
from xarray import DataTree

from storyzoo.errors import RefusedError, RunFolderError, SettingError
from storyzoo.inference.chees import ChEES, ChEESInfo
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.chees_hmc import (
    Chains,
    Lengths,
    Transition,
    figures,
    halton,
    harmonic_mean,
    leapfrog,
    move,
    told_variance,
)
from storyzoo.inference.engine.method import Outcome
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.statistics import array_stats
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.models.distributions.flat import Flat
from storyzoo.models.eight_schools import EightSchools
from storyzoo.reports.verdict import judge
from storyzoo.story import Story
from tests.inference.interrupting import Interrupting
from tests.inference.references import assert_agrees
from tests.inference.unsampled import Coin, Counted

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

SCHOOLS = {
    "effect": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "stderr": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
}
COVARIANCE = np.array([[400.0, 19.0, 0.0], [19.0, 1.0, 0.01], [0.0, 0.01, 0.0025]])
NOISE = np.array([30.0, 1.0, 0.05])
SEEN = np.array([10.0, -2.0, 0.05])
QUIET = Progress(quiet=True)


@dataclass(frozen=True)
class Correlated(Story):
    """A normal vector of unlike widths seen once through noise: its posterior is known."""

    data_dims = {"y": ("feature",)}
    event_dims = {"x": ("feature",), "y": ("feature",)}

    def model(self, y: Tensor) -> None:
        covariance = torch.as_tensor(COVARIANCE)
        x = pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), covariance))
        pyro.sample("y", dist.Normal(x, torch.as_tensor(NOISE)).to_event(1), obs=y)


@dataclass(frozen=True)
class Branching(Correlated):
    """The same, but Python branches on a value: no graph can be had of it."""

    def model(self, y: Tensor) -> None:
        assert not y.isnan().any().item()
        x = pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), torch.as_tensor(COVARIANCE)))
        if float(x[0].detach()) < 1e9:
            pyro.sample("y", dist.Normal(x, torch.as_tensor(NOISE)).to_event(1), obs=y)


@dataclass(frozen=True)
class Square(Story):
    """Only the square of x is seen: modes at plus and minus."""

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 3.0))
        pyro.sample("y", dist.Normal(x.square(), 0.1), obs=y)


@dataclass(frozen=True)
class Unseen(Story):
    """A flat prior that no data speak against."""

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        x = pyro.sample("x", Flat(constraints.real))
        pyro.sample("y", dist.Normal(0.0 * x, 1.0), obs=y)


@cache
def target_of(story: Story, device: str = "cpu") -> Target:
    if isinstance(story, EightSchools):
        return make_target(story, SCHOOLS, device=device)
    seen: Any = SEEN if isinstance(story, Correlated) else 2.0
    return make_target(story, {"y": np.asarray(seen)}, device=device)


def sample(story: Story, device: str = "cpu", **options: Any) -> Outcome:
    """A short run: settings of ChEES, and what its ``run`` takes."""
    run: dict[str, Any] = {"seed": 0, "progress": QUIET, "checkpoint": None}
    run.update({name: options.pop(name) for name in run if name in options})
    short = {"chains": 32, "superchains": 8, "draws": 60, "warmup": 120}
    return ChEES(**{**short, **options}).run(target_of(story, device), **run)


@cache
def schools() -> Outcome:
    """One run that several tests look at."""
    return sample(EightSchools(), chains=64, superchains=16, draws=150, warmup=300)


def stats_of(tree: DataTree) -> dict[str, np.ndarray]:
    return {str(k): np.asarray(v) for k, v in tree["sample_stats"].to_dataset().items()}


def draws_of(tree: DataTree, name: str) -> np.ndarray:
    return np.asarray(tree["posterior"][name])


def z_scores(draws: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How many Monte Carlo standard errors the means of (chain, draw, k) lie off."""
    columns = draws.reshape(*draws.shape[:2], -1)
    ess = array_stats.ess(np.moveaxis(columns, 2, 0), chain_axis=1, draw_axis=2, method="mean")
    gap = columns.mean((0, 1)) - np.reshape(known, -1)
    return np.asarray(np.abs(gap) / columns.std((0, 1)) * np.sqrt(ess))


def is_the_known_posterior(draws: np.ndarray) -> bool:
    """Whether mean and covariance of draws of ``Correlated`` are those by hand."""
    precision = np.linalg.inv(COVARIANCE) + np.diag(NOISE**-2)
    off = draws - np.linalg.solve(precision, SEEN / NOISE**2)
    products = off[..., :, None] * off[..., None, :]
    of_mean, of_covariance = (
        z_scores(off, np.zeros(3)),
        z_scores(products, np.linalg.inv(precision)),
    )
    return bool(of_mean.max() < 4 and of_covariance.max() < 4)


def same(a: DataTree, b: DataTree) -> bool:
    groups = ("posterior", "sample_stats", "warmup_sample_stats")
    return all(a[g].to_dataset().identical(b[g].to_dataset()) for g in groups)


# -- the parts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normal:
    """A centred normal density of many points."""

    precision: Tensor

    def batch_value_and_gradient(self, q: Tensor) -> tuple[Tensor, Tensor]:
        gradient = -q @ self.precision
        return 0.5 * (q * gradient).sum(-1), gradient


@dataclass(frozen=True)
class Walled:
    """Flat inside, nan outside of the unit interval."""

    def batch_value_and_gradient(self, q: Tensor) -> tuple[Tensor, Tensor]:
        inside = (q.abs() < 1).all(-1)
        outside = torch.full_like(q, torch.nan)
        value = torch.where(inside, 0.0, torch.nan)
        return value.to(q), torch.where(inside.unsqueeze(-1), torch.zeros_like(q), outside)


def normal(scales: list[float]) -> Normal:
    return Normal(torch.diag(torch.tensor(scales, dtype=torch.float64) ** -2))


def at(density: Any, position: Tensor) -> Chains:
    return Chains(position, *density.batch_value_and_gradient(position))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_halton_fills_the_interval_evenly() -> None:
    assert sorted(halton(place) for place in range(1, 16)) == [i / 16 for i in range(1, 16)]


def test_harmonic_mean_is_set_by_the_least() -> None:
    assert float(harmonic_mean(torch.tensor([1.0, 0.5, 0.25]))) == pytest.approx(3 / 7)
    assert float(harmonic_mean(torch.tensor([1.0, 1.0, 0.0]))) == 0


def test_a_trajectory_can_be_gone_back() -> None:
    density = normal([1.0, 3.0])
    start = at(density, torch.randn(5, 2, dtype=torch.float64, generator=seeded()))
    momentum = torch.randn(5, 2, dtype=torch.float64, generator=seeded(1))
    lengths = Lengths(0.3, torch.tensor([1.0, 5.0], dtype=torch.float64), 7)
    end, thrown = leapfrog(density, start, momentum, lengths)
    back, _ = leapfrog(density, end, -thrown, lengths)
    assert torch.allclose(back.position, start.position, atol=1e-12)
    assert not torch.allclose(end.position, start.position, atol=0.1)


def test_variance_is_told_by_gradients_wherever_chains_are() -> None:
    scales = [0.01, 1.0, 300.0]
    density = normal(scales)
    far = 5 + 40 * torch.randn(50, 3, dtype=torch.float64, generator=seeded())
    found = told_variance(at(density, far)).exp()
    assert found.sqrt().tolist() == pytest.approx(scales)


def test_slope_is_the_derivative_of_the_criterion() -> None:
    density, variance = normal([1.0, 2.0]), torch.tensor([1.0, 4.0], dtype=torch.float64)
    half = torch.randn(2, 20, 2, dtype=torch.float64, generator=seeded())
    # Mirror images keep every mean at zero, whose motion the slope leaves out.
    position, momentum = torch.cat([half, -half], 1)
    start = at(density, position)

    def ended(time: float) -> Transition:
        end, thrown = leapfrog(density, start, momentum, Lengths(time / 2000, variance, 2000))
        sure = torch.ones(40, dtype=torch.float64)
        return Transition(end, end.position, thrown * variance, sure, sure, sure > 1)

    def criterion(time: float) -> float:
        size, before = ((x / variance.sqrt()).square().sum(-1) for x in (ended(time)[1], position))
        return float((size - before).square().mean() / 4 / before.mean().square())

    _, slope = figures(start, ended(0.8), variance.sqrt())
    assert slope == pytest.approx((criterion(0.801) - criterion(0.799)) / 0.002, rel=1e-4)


def test_what_is_not_finite_is_rejected_and_diverges() -> None:
    start = at(Walled(), torch.zeros(8, 2, dtype=torch.float64))
    lengths = Lengths(50.0, torch.ones(2, dtype=torch.float64), 3)
    made = move(Walled(), start, lengths, seeded())
    assert made.diverging.all() and (made.acceptance == 0).all()
    assert torch.equal(made.chains.position, start.position)
    assert made.energy.isfinite().all()


# -- the draws ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_moments_of_a_correlated_normal(device: str) -> None:
    outcome = sample(Correlated(), device, chains=64, superchains=16, draws=200, warmup=200)
    assert is_the_known_posterior(draws_of(outcome.tree, "x"))


def test_moments_of_a_story_that_can_not_be_traced() -> None:
    tree, info = sample(Branching(), chains=16, superchains=4, draws=60, warmup=60)
    assert "eager" in info.engine
    assert is_the_known_posterior(draws_of(tree, "x"))


@pytest.mark.parametrize(
    "name",
    [
        "eight_schools",
        "kidscore_momiq",
        pytest.param("low_dim_gauss_mix", marks=pytest.mark.slow),
    ],
)
def test_means_and_spreads_are_those_of_the_reference(name: str, mirror: Path) -> None:
    # Of 64 draws of the mixture's prior two lie where one component stays empty.
    start: Any = "uniform" if name == "low_dim_gauss_mix" else "prior"
    # The plain R-hat of so many short chains is some way above one.
    assert_agrees(name, ChEES(warmup=600, start=start), r_hat=1.03)


def test_the_centred_funnel_diverges() -> None:
    tree, info = sample(EightSchools(centred=True), longest=30)
    assert isinstance(info, ChEESInfo)
    assert info.divergences == stats_of(tree)["diverging"].sum() > 0


def test_eight_schools_can_be_trusted() -> None:
    verdict = judge(*schools(), kind="draws", story=EightSchools())
    assert verdict.verdict == "trust", verdict.headline
    by_name = {check.name: check for check in verdict.checks}
    assert "r_hat" not in by_name
    assert by_name["nested_r_hat"].threshold == 1.01
    assert by_name["ess_bulk"].threshold == 400
    assert not verdict.notes


def test_superchains_in_two_modes_can_not_be_trusted() -> None:
    verdict = judge(*sample(Square()), kind="draws", story=Square())
    failed = {check.name for check in verdict.checks if not check.passed}
    assert {"multimodality", "nested_r_hat"} <= failed
    assert verdict.verdict == "do not trust"


# -- what is told of each draw -----------------------------------------------------------------


def test_statistics_are_all_there_and_sane() -> None:
    tree, info = schools()
    stats = stats_of(tree)
    names = {"lp", "energy", "step_size", "acceptance_rate", "diverging", "n_steps"}
    assert set(stats) == names
    assert all(values.shape == (64, 150) for values in stats.values())
    assert all(np.isfinite(values).all() for values in stats.values())
    assert ((stats["acceptance_rate"] >= 0) & (stats["acceptance_rate"] <= 1)).all()
    assert isinstance(info, ChEESInfo)
    assert (stats["step_size"] == info.step_size).all()
    longest = math.ceil(info.trajectory_length / info.step_size)
    assert stats["n_steps"].min() == 1 and stats["n_steps"].max() == longest
    assert (np.ptp(stats["n_steps"], axis=0) == 0).all()
    assert tree["warmup_sample_stats"].sizes == {"chain": 64, "draw": 300}
    assert (info.chains, info.superchains, info.warmup, info.stopped) == (64, 16, 300, "done")


def test_the_step_size_meets_its_target() -> None:
    rates = stats_of(sample(Correlated(), draws=100, warmup=300).tree)["acceptance_rate"]
    harmonic = len(rates) / (1 / rates).sum(0)
    assert abs(harmonic.mean() - 0.651) < 0.15


def test_step_and_length_rest_at_the_end_of_warmup() -> None:
    steps = np.asarray(sample(Correlated()).tree["warmup_sample_stats"]["step_size"])[0]
    assert len(set(steps[:96])) > 90
    assert len(set(steps[96:])) == 1


def test_energy_is_potential_plus_kinetic() -> None:
    stats = stats_of(schools().tree)
    kinetic = stats["energy"] + stats["lp"]
    assert (kinetic >= 0).all()
    assert z_scores(kinetic[..., None], np.array([10 / 2])).max() < 4


def test_lp_is_the_density_at_the_draw() -> None:
    tree, density = schools().tree, target_of(EightSchools()).density()
    latents = {n: torch.as_tensor(draws_of(tree, n)[3]) for n in ("mu", "tau", "theta_raw")}
    again = density.batch(density.flatten(latents))
    assert np.allclose(again.numpy(), stats_of(tree)["lp"][3], atol=1e-8)


def test_gradient_evaluations_are_counted() -> None:
    tree, info = schools()
    steps = sum(int(tree[g]["n_steps"].sum()) for g in ("sample_stats", "warmup_sample_stats"))
    # Beyond the trajectories: the starts, and the search for a first step size.
    assert steps < info.gradient_evaluations < steps + 64 * 65


# -- starts and seeds --------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["prior", "uniform"])
def test_superchains_start_at_one_point_each(start: str) -> None:
    # Every proposal of so long a step is rejected: the draws are the starts.
    stuck: dict[str, Any] = {"warmup": 1, "draws": 1, "longest": 1, "start": start}
    tree, info = sample(Square(), chains=12, superchains=4, **stuck)
    lp = np.asarray(tree["warmup_sample_stats"]["lp"])[:, 0].reshape(4, 3)
    still = ~np.asarray(tree["warmup_sample_stats"]["acceptance_rate"] > 0)[:, 0].reshape(4, 3)
    assert info.start.startswith("each superchain from its own")
    for values, rejected in zip(lp, still, strict=True):
        assert len(set(values[rejected])) <= 1
    assert len(set(lp[:, 0])) == 4


def test_same_seed_same_bits() -> None:
    one, two, other = (sample(EightSchools(), seed=seed) for seed in (0, 0, 1))
    assert same(one.tree, two.tree)
    assert not same(one.tree, other.tree)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    sample(Square(), warmup=2, draws=2)
    assert torch.equal(torch.random.get_rng_state(), before)


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "story, reason", [(Counted(), "'n' has infinitely many values"), (Coin(), "use em")]
)
def test_refuses_with_the_reason(story: Story, reason: str) -> None:
    refusal = ChEES().refuses(story, target_of(story).structure)
    assert refusal is not None and reason in refusal


def test_refuses_an_improper_posterior() -> None:
    with pytest.raises(RefusedError, match="chees can't fit unseen: 'x' ran off"):
        sample(Unseen(), draws=100, warmup=400)


@pytest.mark.parametrize(
    "settings",
    [
        {"chains": 60},
        {"chains": 8},
        {"superchains": 1},
        {"draws": 0},
        {"warmup": 0},
        {"longest": 0},
        {"target_accept": 1.0},
        {"start": "mode"},
        {"minutes": 0.0},
    ],
)
def test_impossible_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        ChEES(**settings)


# -- cut short ---------------------------------------------------------------------------------


def test_minutes_keep_the_draws() -> None:
    tree, info = sample(Correlated(), draws=10**6, warmup=20, minutes=0.02)
    assert info.stopped == "minutes"
    assert 0 < tree["posterior"].sizes["draw"] < 10**6
    assert "of 1000000 draws per chain were made" in info.notes[-1]


def test_minutes_spent_in_warmup() -> None:
    with pytest.raises(SettingError, match="spent in warm-up"):
        sample(Correlated(), warmup=10**6, minutes=0.005)


def test_ctrl_c_in_warmup_leaves_nothing() -> None:
    with pytest.raises(KeyboardInterrupt):
        sample(Correlated(), warmup=10**6, progress=Interrupting(after=20))


def test_ctrl_c_keeps_the_draws() -> None:
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.inference import test_chees
from storyzoo.inference.engine.progress import Progress

class Telling(Progress):
    seen = 0
    def update(self, n=1, **postfix):
        before, self.seen = self.seen, self.seen + n
        if before < 50 <= self.seen:
            print("drawing", flush=True)

tree, info = test_chees.sample(
    test_chees.EightSchools(), draws=10**6, warmup=20, progress=Telling(quiet=True)
)
print(json.dumps([info.stopped, *tree["posterior"]["mu"].shape]))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "drawing\n"
    os.kill(process.pid, signal.SIGINT)
    stopped, chains, draws = json.loads(process.communicate(timeout=60)[0])
    assert (process.returncode, stopped, chains) == (0, "interrupted", 32)
    assert draws >= 30


# -- resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [40, 150])
def test_resumed_is_bit_identical_and_spends_less(tmp_path: Path, after: int) -> None:
    whole, whole_info = sample(EightSchools())
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    stop: dict[str, Any] = {"progress": Interrupting(after=after), "checkpoint": checkpoint}
    if after < 120:
        with pytest.raises(KeyboardInterrupt):
            sample(EightSchools(), **stop)
    else:
        cut, cut_info = sample(EightSchools(), **stop)
        assert cut_info.stopped == "interrupted"
        assert 0 < cut["posterior"].sizes["draw"] < 60
    tree, info = sample(EightSchools(), checkpoint=checkpoint)
    assert same(tree, whole)
    assert isinstance(info, ChEESInfo)
    assert 0 < info.resumed_evaluations < info.gradient_evaluations
    assert info.gradient_evaluations == whole_info.gradient_evaluations
    assert info.divergences == whole_info.as_dict()["divergences"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [{"seed": 1}, {"draws": 90}, {"target_accept": 0.9}])
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    with pytest.raises(KeyboardInterrupt):
        sample(EightSchools(), progress=Interrupting(after=3), checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="belongs to a run with another story, data, seed"):
        sample(EightSchools(), checkpoint=checkpoint, **other)
