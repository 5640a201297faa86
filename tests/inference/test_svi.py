"""Variational inference: exact where the guide holds the posterior, honest where it can't."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from storyzoo.errors import RunFolderError, SettingError, StoryError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.guides import LowRankGuide, MultivariateGuide, NormalGuide
from storyzoo.inference.engine.own_guide import OwnGuide
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.psis import k_hat
from storyzoo.inference.engine.slices import Slices
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.svi import SVI, SVIInfo
from storyzoo.models.gmm import GaussianMixture
from storyzoo.story import Data, Story
from tests.cases import CASES, Case, Mixture
from tests.inference import conjugate
from tests.inference.test_map import Breaking


def fitted(target: Target, seed: int = 0, **settings: Any) -> tuple[Any, SVIInfo]:
    """The tree and the info; two starts unless asked otherwise."""
    svi = SVI(**{"starts": 2, **settings})
    assert svi.refuses(target.story, target.structure) is None
    tree, info = svi.run(target, seed=seed, progress=Progress(quiet=True))
    assert isinstance(info, SVIInfo)
    return tree, info


def gaps(tree: Any) -> np.ndarray:
    """``log p - log q`` by draw."""
    stats = tree["sample_stats"]
    return np.asarray(stats["lp"] - stats["log_q"]).ravel()


# -- closed forms --------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["multivariate", "lowrank"])
def test_guide_that_holds_the_posterior_finds_it(guide: str) -> None:
    target, exact = conjugate.line()
    tree, info = fitted(target, guide=guide, draws=4000)
    assert info.settled
    assert info.stopped == "settled"
    assert info.elbo[-1] == pytest.approx(exact.log_evidence, abs=1e-3)
    beta = tree["posterior"]["beta"].values[0]
    sd = np.sqrt(np.diag(exact.covariance))
    np.testing.assert_allclose(beta.mean(0), exact.mean, atol=0.1 * sd.max())
    np.testing.assert_allclose(np.cov(beta.T), exact.covariance, rtol=0.15)
    assert k_hat(tree["sample_stats"]["lp"].values, tree["sample_stats"]["log_q"].values) < 0.5


def test_independent_guide_is_too_narrow_by_the_known_amount() -> None:
    target, exact = conjugate.line()
    precision = np.linalg.inv(exact.covariance)
    tree, info = fitted(target, guide="normal", draws=4000)
    beta = tree["posterior"]["beta"].values[0]
    np.testing.assert_allclose(beta.var(0), 1 / np.diag(precision), rtol=0.1)
    assert (beta.var(0) < 0.5 * np.diag(exact.covariance)).all()
    divergence = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert info.elbo[-1] == pytest.approx(exact.log_evidence - divergence, abs=5 * info.elbo_se)
    assert k_hat(tree["sample_stats"]["lp"].values, tree["sample_stats"]["log_q"].values) > 0.7


def test_elbo_stays_below_the_evidence() -> None:
    target, evidence = conjugate.centres()
    _, info = fitted(target)
    assert info.elbo[-1] < evidence + 3 * info.elbo_se
    # One of the two labellings is all that a single normal can cover.
    assert info.elbo[-1] == pytest.approx(evidence - math.log(2), abs=0.05)


def test_local_latents_are_fitted() -> None:
    target, exact = conjugate.schools()
    tree, info = fitted(target)
    assert info.elbo[-1] == pytest.approx(exact.log_evidence, abs=0.02)
    theta = tree["posterior"]["theta"].values[0]
    np.testing.assert_allclose(theta.mean(0), exact.mean[1:], atol=0.1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_of_story_is_fitted(case: Case) -> None:
    target = case.target()
    tree, info = fitted(target, max_steps=60, window=20, draws=50)
    assert set(target.structure.latents) == set(tree["posterior"].data_vars)
    assert np.isfinite(gaps(tree)).all()
    assert info.steps <= 60
    assert not any("no finite density" in note for note in info.notes)


# -- the guides ----------------------------------------------------------------------------


def flat_guides(starts: int = 2, dim: int = 4) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(starts, dim, generator=generator, dtype=torch.float64)
    unit = torch.rand(starts, dim, generator=generator, dtype=torch.float64) + 0.5
    return [
        NormalGuide(centre, unit),
        MultivariateGuide(centre, unit),
        LowRankGuide(centre, unit, 2, generator),
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_log_q_is_the_density_of_the_draws(place: int) -> None:
    guide, generator = flat_guides()[place], torch.Generator().manual_seed(1)
    noise = torch.randn(2, guide.size, generator=generator, dtype=torch.float64)
    parameters = guide.initial() + 0.3 * noise
    q, log_q = guide.draw(parameters, torch.tensor([0, 1]), 200_000, generator)
    for start in range(2):
        drawn = q[start]
        normal = torch.distributions.MultivariateNormal(drawn.mean(0), torch.cov(drawn.mT))
        torch.testing.assert_close(
            normal.log_prob(drawn[:50]), log_q[start, :50], atol=0.1, rtol=0.01
        )


def test_draws_of_a_start_are_its_own() -> None:
    guide = flat_guides()[0]
    parameters = guide.initial()
    second = guide.draw(parameters[1:], torch.tensor([1]), 3, torch.Generator().manual_seed(0))[0]
    gap = (second[0] - guide.centre[1]) / guide.unit[1]
    noise = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(gap, noise[0])


# -- minibatches ---------------------------------------------------------------------------


@pytest.mark.parametrize("local", [False, True])
def test_gradient_over_all_slices_is_the_whole_one(local: bool) -> None:
    target, _ = conjugate.schools() if local else conjugate.line(rows=12)
    density = target.density()
    guide = NormalGuide(
        torch.zeros(1, density.dim, dtype=torch.float64),
        torch.full((1, density.dim), 0.5, dtype=torch.float64),
    )

    def gradient(slices: Slices, batch: Any) -> torch.Tensor:
        leaf = torch.full((1, guide.size), 0.1, dtype=torch.float64, requires_grad=True)
        noise = torch.Generator().manual_seed(5)
        q, log_q = guide.draw(leaf, torch.tensor([0]), 3, noise, slices.weight(batch))
        _, slope = slices.density(q.detach()[0], batch)
        return torch.autograd.grad(((slope * q[0]).sum(-1) - log_q[0]).mean(), leaf)[0][0]

    whole = Slices(target, density, None)
    expected = gradient(whole, whole.first(torch.Generator()))
    slices = Slices(target, density, 3)
    generator = torch.Generator().manual_seed(0)
    batch, found, seen = slices.first(generator), [], []
    for _ in range(4):
        found.append(gradient(slices, batch))
        seen += slices.index(batch).tolist()
        batch = slices.next(batch, generator)
    assert sorted(seen) == list(range(12))
    torch.testing.assert_close(torch.stack(found).mean(0), expected)


def test_slices_find_what_all_rows_find() -> None:
    target, exact = conjugate.line(rows=200)
    _, info = fitted(target, batch_size=50, window=100)
    assert info.elbo[-1] == pytest.approx(exact.log_evidence, abs=0.1)
    assert info.gradient_evaluations < 16 * 2 * info.steps / 2


def test_slices_of_local_latents_go_by_example() -> None:
    target, exact = conjugate.schools(rows=24)
    tree, _ = fitted(target, guide="normal", batch_size=6, window=200)
    theta = tree["posterior"]["theta"].values[0]
    np.testing.assert_allclose(theta.mean(0), exact.mean[1:], atol=0.15)
    np.testing.assert_allclose(theta.std(0), math.sqrt(0.2), rtol=0.15)


def test_slices_of_a_mixture_with_discrete_sites() -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(m, 1, (40, 1)) for m in (-4, 4)])
    target = make_target(Mixture(), {"y": y})
    sliced = fitted(target, batch_size=20, starts=4, max_steps=800)[1]
    whole = fitted(target, starts=4)[1]
    assert sliced.elbo[-1] == pytest.approx(whole.elbo[-1], abs=0.5)


# -- the story's own guide -----------------------------------------------------------------


def test_own_guide_in_the_posteriors_family_is_exact() -> None:
    target, shape, inverse, evidence = conjugate.rate(conjugate.RateWithGuide())
    tree, info = fitted(target, guide="story", draws=4000, particles=32)
    assert info.elbo[-1] == pytest.approx(evidence, abs=0.01)
    rate = tree["posterior"]["rate"].values
    assert rate.mean() == pytest.approx(shape / inverse, rel=0.05)
    assert rate.std() == pytest.approx(math.sqrt(shape) / inverse, rel=0.1)
    # lp and log_q are of one measure: their difference is the evidence wherever q is p.
    assert gaps(tree).std() < 0.15


def test_gmm_fits_its_own_guide() -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(m, 1, (30, 2)) for m in (-3, 3)])
    story = GaussianMixture(n_components=2).scaled_to({"y": torch.tensor(y)})
    target = make_target(story, {"y": y})
    own = fitted(target, guide="story", max_steps=100)[1]
    full = fitted(target, max_steps=300)[1]
    assert own.elbo[-1] == pytest.approx(full.elbo[-1], abs=2)
    assert own.notes == ()


@dataclass(frozen=True)
class WithGuide(Story):
    """One mean, and whatever guide it is given."""

    kind: str = "program"

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide(self, data: Data) -> Callable[..., None] | None:
        if self.kind == "absent":
            return lambda y: None
        loc = pyro.param("loc", torch.tensor(0.5))
        scale = pyro.param("scale", torch.tensor(0.3), constraint=dist.constraints.positive)
        if self.kind == "extra":
            pyro.sample("nu", dist.Normal(loc, scale))
        if self.kind == "stiff":
            pyro.sample("mu", dist.Normal(loc, scale).has_rsample_(False))
        elif self.kind == "shape":  # indexes from the left, which a plate around it breaks
            drawn = dist.Normal(loc.expand(2), scale).to_event(1)
            pyro.sample("mu", dist.Normal(loc * drawn.event_shape[0] / 2, scale))
        else:
            pyro.sample("mu", dist.Normal(loc, scale))
        return None


def test_guide_may_be_the_program_itself() -> None:
    target = make_target(WithGuide(), {"y": np.array([1.0, 2.0, 0.5])})
    tree, _ = fitted(target, guide="story", draws=2000)
    assert tree["posterior"]["mu"].values.mean() == pytest.approx(3.5 / (3 + 1 / 9), abs=0.05)
    assert gaps(tree).std() < 0.05


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("absent", "draws no 'mu'"),
        ("extra", "'nu', which is no continuous latent"),
        ("stiff", "no reparametrised draws"),
    ],
)
def test_guide_that_does_not_fit_the_story(kind: str, said: str) -> None:
    target = make_target(WithGuide(kind), {"y": np.ones(3)})
    with pytest.raises(StoryError, match=said):
        fitted(target, guide="story")


def test_particles_at_once_are_as_one_by_one() -> None:
    target, *_ = conjugate.rate(conjugate.RateWithGuide())
    density = target.density()
    with target.context():
        guide = OwnGuide(target, density, 1, 0)
        assert guide.vectorised
        start, parameters = torch.tensor([0]), guide.initial()
        q, log_q = guide.draw(parameters, start, 500, torch.Generator().manual_seed(0))
        guide.vectorised = False
        alone, log_q_alone = guide.draw(parameters, start, 500, torch.Generator().manual_seed(0))
    assert q.shape == alone.shape == (1, 500, 1)
    assert float((q.mean() - alone.mean()).abs()) < 0.1
    assert float((log_q.mean() - log_q_alone.mean()).abs()) < 0.1


# -- the parameter store -------------------------------------------------------------------


def test_parameter_stores_are_never_touched() -> None:
    store = pyro.get_param_store()
    store.clear()
    pyro.param("shape", torch.tensor(123.0))
    torch.manual_seed(11)
    random_state = torch.get_rng_state()
    target, *_ = conjugate.rate(conjugate.RateWithGuide())
    first = fitted(target, guide="story", max_steps=40)[0]
    fitted(make_target(WithGuide(), {"y": np.ones(3)}), guide="story", max_steps=40)
    again = fitted(target, guide="story", max_steps=40)[0]
    assert first.identical(again)
    assert list(store.keys()) == ["shape"]
    assert float(pyro.param("shape").detach()) == 123.0
    assert torch.equal(random_state, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
    store.clear()


# -- stopping ------------------------------------------------------------------------------


def test_steps_run_out_and_say_so() -> None:
    target, _ = conjugate.line()
    _, info = fitted(target, max_steps=30)
    assert (info.stopped, info.settled, info.steps) == ("max_steps", False, 30)


def test_minutes_run_out_and_say_so() -> None:
    target, _ = conjugate.line()
    _, info = fitted(target, minutes=1e-9)
    assert (info.stopped, info.settled, info.steps) == ("minutes", False, 1)


def test_best_of_the_starts_is_kept() -> None:
    target, _ = conjugate.centres()
    tree, info = fitted(target, starts=3)
    assert len(info.starts) == 3
    assert info.starts[info.best] == max(info.starts)
    assert info.elbo[-1] == pytest.approx(gaps(tree).mean())
    assert len(info.elbo) <= 500


def test_interrupt_keeps_the_guide_as_it_stands() -> None:
    target, _ = conjugate.line()
    svi = SVI(starts=2, draws=100)
    tree, info = svi.run(target, seed=0, progress=Breaking(20))
    assert isinstance(info, SVIInfo)
    assert info.stopped == "interrupted"
    assert info.cut_short
    assert 0 < info.steps < 25
    assert np.isfinite(gaps(tree)).all()
    with pytest.raises(KeyboardInterrupt):
        svi.run(target, seed=0, progress=Breaking(0))


SIGNALLED = """
import numpy as np
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.svi import SVI
from storyzoo.models.eight_schools import EightSchools

class Loud(Progress):
    def update(self, n=1, **postfix):
        print("climbing", flush=True)

effects = {"effect": np.linspace(-3, 28, 8), "stderr": np.full(8, 12.0)}
svi = SVI(starts=2, window=100_000, max_steps=1_000_000, draws=50)
info = svi.run(make_target(EightSchools(), effects), seed=0, progress=Loud(quiet=True)).info
print(info.stopped, flush=True)
"""


def test_a_real_signal_keeps_the_guide() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline() == "climbing\n"
        process.send_signal(signal.SIGINT)
        said = process.stdout.read().split()
    assert said[-1] == "interrupted"


@pytest.mark.parametrize(
    "settings",
    [
        {"guide": "multivariate"},
        {"guide": "lowrank"},
        {"guide": "normal", "batch_size": 5},
        {"guide": "normal"},
    ],
)
def test_resumed_run_is_the_same_and_cheaper(tmp_path: Path, settings: dict[str, Any]) -> None:
    target, _ = conjugate.schools()
    svi = SVI(**{"starts": 2, "max_steps": 80, "window": 20, "draws": 50, **settings})
    _same_after_resuming(svi, target, tmp_path)


def test_resumed_own_guide_is_the_same(tmp_path: Path) -> None:
    target, *_ = conjugate.rate(conjugate.RateWithGuide())
    _same_after_resuming(SVI(guide="story", starts=2, max_steps=60, window=20), target, tmp_path)


def _same_after_resuming(svi: SVI, target: Target, folder: Path) -> None:
    checkpoint = Checkpoint(folder / "checkpoint.npz")
    whole = svi.run(target, seed=1, progress=Progress(quiet=True))
    partly = svi.run(target, seed=1, progress=Breaking(33), checkpoint=checkpoint)
    assert partly.info.stopped == "interrupted"
    resumed = svi.run(target, seed=1, progress=Progress(quiet=True), checkpoint=checkpoint)
    assert not checkpoint.path.exists()
    assert whole.tree.identical(resumed.tree)
    assert isinstance(resumed.info, SVIInfo)
    assert isinstance(whole.info, SVIInfo)
    assert resumed.info.resumed_evaluations > 0
    same: dict[str, Any] = {"compile_seconds": 0.0, "resumed_evaluations": 0}
    assert replace(resumed.info, **same) == replace(whole.info, **same)


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    target, _ = conjugate.line()
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    SVI(starts=2).run(target, seed=0, progress=Breaking(5), checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="another story, data, seed or settings"):
        SVI(starts=3).run(target, seed=0, progress=Progress(quiet=True), checkpoint=checkpoint)


def test_same_seed_same_bits() -> None:
    target, _ = conjugate.line()
    first, again, other = (fitted(target, seed, max_steps=30)[0] for seed in (3, 3, 4))
    assert first.identical(again)
    assert not first.identical(other)


# -- refusals and settings -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guide": "flow"}, "guide=flow"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"window": 1}, "window=1"),
        ({"starts": 0}, "starts=0"),
        ({"rank": 0}, "rank=0"),
        ({"minutes": -1.0}, "minutes=-1.0"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        SVI(**settings)


def test_refusals_say_why() -> None:
    line, _ = conjugate.line()
    local, _ = conjugate.schools()

    def reason(svi: SVI, target: Target) -> str:
        return svi.refuses(target.story, target.structure) or ""

    assert reason(SVI(), line) == ""
    assert "no guide of its own" in reason(SVI(guide="story"), line)
    assert "guide=normal" in reason(SVI(batch_size=4), local)
    assert reason(SVI(guide="normal", batch_size=4), local) == ""
    rate, *_ = conjugate.rate(conjugate.RateWithGuide())
    assert "batch_size" in reason(SVI(guide="story", batch_size=4), rate)
    wide = replace(local.structure.sites["theta"], shape=(5000,))
    structure = replace(local.structure, sites={**local.structure.sites, "theta": wide})
    assert "too many" in (SVI().refuses(local.story, structure) or "")
