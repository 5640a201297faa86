"""EM: never down, equal to enumeration and to closed forms, and at the known optima."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from storyzoo.datasets import load
from storyzoo.errors import NoModeError, RefusedError, RunFolderError, SettingError
from storyzoo.inference.em import EM, Climb
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.method import Outcome, PointInfo
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import draws_of
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.models.kmeans import KMeans
from storyzoo.story import Story
from tests.cases import CASES, Case, Mixture, NestedPlates, TinyChain

RNG = np.random.default_rng(5)


@dataclass(frozen=True)
class PoissonMixture(Story):
    """Counts from a few rates; no hook, so its M-step is an ascent."""

    n_components: int = 2

    data_dims = {"y": ("row",)}
    event_dims = {"weight": ("component",)}
    examples = "row"
    exchangeable = {"component": ("component",)}

    def model(self, y: Any) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((self.n_components,), 2.0)))
        with pyro.plate("component", self.n_components):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.1))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(weight), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Poisson(rate[z]), obs=y)


COUNTS = np.concatenate([RNG.poisson(3, 40), RNG.poisson(20, 60)])
WITHOUT_MAXIMISE = [
    (NestedPlates(), {"y": RNG.normal(size=(3, 8)) + 2 * RNG.integers(2, size=(3, 8))}),
    (TinyChain(), {"y": np.repeat([-2.0, 2.0, -2.0], 6) + RNG.normal(size=18)}),
    (PoissonMixture(), {"y": COUNTS}),
    (Mixture(), {"y": CASES[0].arrays["y"]}),
]


def rng() -> np.random.Generator:
    """The same numbers in every test, whatever ran before."""
    return np.random.default_rng(1)


def iris() -> np.ndarray:
    table = load("iris").table
    assert table is not None
    return table.to_numpy()


def point_of(outcome: Outcome, target: Target) -> dict[str, torch.Tensor]:
    """The latents that a run ended at."""
    draws = draws_of(target.structure, outcome.tree["posterior"].to_dataset())
    return {name: torch.as_tensor(value[0, 0]) for name, value in draws.items()}


def run(target: Target, method: EM, seed: int = 0, checkpoint: Checkpoint | None = None) -> Outcome:
    return method.run(target, seed=seed, progress=Progress(quiet=True), checkpoint=checkpoint)


def info_of(outcome: Outcome) -> PointInfo:
    assert isinstance(outcome.info, PointInfo)
    return outcome.info


def assert_never_down(path: tuple[float, ...]) -> None:
    steps = np.diff(path)
    assert len(steps) > 1
    assert steps.min() > -1e-9 * abs(path[-1]), f"fell by {-steps.min()} at {steps.argmin()}"


@pytest.mark.parametrize("objective", ["posterior", "likelihood"])
@pytest.mark.parametrize(
    ("story", "arrays"), WITHOUT_MAXIMISE, ids=lambda value: getattr(value, "name", "")
)
def test_objective_never_falls_without_a_closed_step(
    story: Story, arrays: dict[str, Any], objective: Any
) -> None:
    target = make_target(story, arrays)
    method = EM(restarts=1, max_steps=12, objective=objective)
    assert_never_down(info_of(run(target, method)).path)


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("objective", ["posterior", "likelihood"])
@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_objective_never_falls_for_the_mixture(covariance: Any, objective: Any, hard: bool) -> None:
    story = GaussianMixture(n_components=3, covariance=covariance)
    target = scaled(story, iris())
    method = EM(restarts=2, max_steps=60, objective=objective, hard=hard)
    assert_never_down(info_of(run(target, method)).path)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_objective_never_falls_with_missing_values(covariance: Any) -> None:
    y = iris().copy()
    y[rng().random(y.shape) < 0.15] = np.nan
    target = scaled(GaussianMixture(n_components=2, covariance=covariance), y)
    assert_never_down(info_of(run(target, EM(restarts=1, max_steps=40))).path)


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)
def test_the_objective_is_the_density_it_says(case: Case) -> None:
    target = case.target()
    both: tuple[Literal["posterior", "likelihood"], ...] = ("posterior", "likelihood")
    for objective in both:
        outcome = run(target, EM(restarts=1, objective=objective))
        density = target.density(jacobian=False, prior=objective == "posterior")
        point = point_of(outcome, target)
        assert info_of(outcome).path[-1] == pytest.approx(float(density(density.flatten(point))))


@pytest.mark.parametrize(
    ("story", "arrays"), WITHOUT_MAXIMISE, ids=lambda value: getattr(value, "name", "")
)
def test_the_end_is_a_stationary_point(story: Story, arrays: dict[str, Any]) -> None:
    target = make_target(story, arrays)
    outcome = run(target, EM(restarts=1, tolerance=1e-12, max_steps=500))
    density = target.density(jacobian=False)
    _, gradient = density.value_and_gradient(density.flatten(point_of(outcome, target)))
    assert float(gradient.abs().max()) < 1e-3


def scaled(story: Story, y: np.ndarray) -> Target:
    target = make_target(story, {"y": y})
    return replace(target, story=story.scaled_to(target.data))


ORACLES = [
    ("iris", 2, -214.355),
    ("iris", 3, -180.185),
    ("wine:standardize=true", 3, -2068.028),
    ("faithful", 1, -1289.797),
    ("faithful", 2, -1130.264),
    ("faithful", 3, -1119.214),
]


@pytest.mark.parametrize(("data", "k", "best"), ORACLES)
def test_known_optima_of_the_likelihood(data: str, k: int, best: float, mirror: Path) -> None:
    """Total log likelihoods in nats, full covariance, the best sane mode of many starts."""
    table = load(data).table
    assert table is not None
    target = scaled(GaussianMixture(n_components=k), table.to_numpy())
    info = info_of(run(target, EM(restarts=30, objective="likelihood")))
    assert not info.degenerate[info.best]
    assert any(value == pytest.approx(best, abs=1e-3) for value in info.objectives)
    # On faithful three components have a sane mode that is higher still, at -1114.440.
    higher = {("faithful", 3): -1114.440}.get((data, k), best)
    assert info.objectives[info.best] == pytest.approx(higher, abs=1e-3)


KMEANS_ORACLES = [
    ("faithful", 2, 8901.7687),
    ("iris", 3, 78.8514),
    ("digits", 10, 1165154.0),
]


@pytest.mark.parametrize(("data", "k", "best"), KMEANS_ORACLES)
def test_known_optima_of_k_means(data: str, k: int, best: float, mirror: Path) -> None:
    """Inertia J under hard EM, which is Lloyd's algorithm."""
    dataset = load(data)
    y = dataset.table if dataset.table is not None else next(iter(dataset.arrays.values()))
    rows = np.asarray(y, dtype=float)
    flat = rows.reshape(len(rows), -1)
    target = make_target(KMeans(n_clusters=k), {"y": flat})
    outcome = run(target, EM(restarts=150 if data == "digits" else 40, hard=True))
    loc = point_of(outcome, target)["loc"]
    inertia = float(torch.cdist(target.data["y"], loc).square().min(1).values.sum())
    if data == "digits":  # 1165131.65 has been reached as well
        assert inertia <= best + 0.1
    else:
        assert inertia == pytest.approx(best, abs=1e-3)


def test_a_degenerate_component_is_named_and_never_best() -> None:
    """Two equal rows far away make a component of no volume: its likelihood has no bound."""
    y = np.concatenate([rng().normal(size=(60, 2)), np.full((2, 2), 9.0)])
    target = scaled(GaussianMixture(n_components=2), y)
    info = info_of(run(target, EM(restarts=12, objective="likelihood")))
    assert any("component" in text for text in info.degenerate)
    sane = [v for v, text in zip(info.objectives, info.degenerate, strict=True) if not text]
    if sane:
        assert info.objectives[info.best] == max(sane) and not info.degenerate[info.best]


def test_hard_em_gives_the_best_labelling_of_a_chain() -> None:
    arrays = {"y": np.repeat([-2.0, 2.0], 8) + rng().normal(size=16)}
    target = make_target(TinyChain(), arrays)
    outcome = run(target, EM(restarts=8, hard=True, max_steps=50))
    loc = point_of(outcome, target)["loc"].sort().values.tolist()
    assert loc == pytest.approx([-2, 2], abs=0.8)


def test_threads_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    y = rng().normal(size=(900, 3)) + 4 * (np.arange(900) % 2)[:, None]
    target = scaled(GaussianMixture(n_components=2), y)
    method = EM(restarts=1, max_steps=30)
    alone = info_of(run(target, method))
    monkeypatch.setattr("storyzoo.inference.em.THREADED_ROWS", 1)
    spread = info_of(run(target, method))
    np.testing.assert_allclose(spread.path, alone.path, rtol=1e-12)


def test_same_seed_same_bits() -> None:
    target = CASES[0].target()
    first, second = (run(target, EM(restarts=3), seed=4) for _ in range(2))
    assert first.tree["posterior"].to_dataset().identical(second.tree["posterior"].to_dataset())
    assert first.info == second.info


class StopAfter(Progress):
    """Presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(quiet=True)
        self.left = steps

    def update(self, n: int = 1, **postfix: Any) -> None:
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    target = scaled(GaussianMixture(n_components=3), iris())
    method, checkpoint = EM(restarts=3), Checkpoint(tmp_path / "checkpoint.npz")
    whole = run(target, method)
    cut = method.run(target, seed=0, progress=StopAfter(5), checkpoint=checkpoint)
    assert cut.info.cut_short and cut.info.gradient_evaluations <= 18
    rest = Climb(method, target, 0, checkpoint)
    already = rest.passes
    resumed = run(target, method, checkpoint=checkpoint)
    assert already == cut.info.gradient_evaluations > 0
    assert resumed.tree["posterior"].to_dataset().identical(whole.tree["posterior"].to_dataset())
    assert resumed.info == whole.info
    assert checkpoint.load() is None


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    target = scaled(GaussianMixture(n_components=3), iris())
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    EM(restarts=3).run(target, seed=0, progress=StopAfter(3), checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="another story, data, seed or"):
        run(target, EM(restarts=4), checkpoint=checkpoint)


def test_minutes_end_a_run() -> None:
    info = info_of(run(CASES[0].target(), EM(restarts=2, minutes=0)))
    assert info.stopped == "minutes" and not info.converged


def test_refusals_name_the_reason() -> None:
    schools = CASES[2].target()
    assert "no discrete site" in str(EM().refuses(EightSchools(), schools.structure))


@dataclass(frozen=True)
class LabelledPrior(Story):
    """The prior of a parameter depends on a label: its two steps can't be taken apart."""

    data_dims = {"y": ("row",)}

    def model(self, y: Any) -> None:
        a = pyro.sample("a", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        loc = pyro.sample("loc", dist.Normal(4.0 * a, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def test_a_prior_under_a_label_is_refused() -> None:
    target = make_target(LabelledPrior(), {"y": np.array([0.1, 0.4])})
    with pytest.raises(RefusedError, match="prior of 'loc' depends on a discrete site"):
        run(target, EM(restarts=1))


@dataclass(frozen=True)
class Bottomless(Story):
    """A likelihood that rises for ever as a scale shrinks onto the single repeated value."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(0.0 * z, scale), obs=y)


def test_an_ascent_without_bound_ends_with_no_mode() -> None:
    target = make_target(Bottomless(), {"y": np.zeros(4)})
    with pytest.raises(NoModeError, match="no mode exists"):
        run(target, EM(restarts=2, objective="likelihood"))


@pytest.mark.parametrize(
    "settings",
    [{"restarts": 0}, {"max_steps": 0}, {"tolerance": -1.0}, {"objective": "evidence"}],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="em: .* is impossible; it must be"):
        EM(**settings)
