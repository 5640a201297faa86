"""The mode of the posterior: closed forms, coordinates, edges, and where there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from storyzoo.errors import NoModeError, RunFolderError, SettingError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.map import MAP, MAPInfo
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.story import Data, Story
from tests.cases import CASES, Case
from tests.inference import conjugate

EFFECTS = {
    "effect": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "stderr": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
}


def fitted(target: Target, seed: int = 0, **settings: Any) -> tuple[Any, MAPInfo]:
    """The posterior group of one point, and the info."""
    tree, info = MAP(**settings).run(target, seed=seed, progress=Progress(quiet=True))
    assert isinstance(info, MAPInfo)
    assert dict(tree["posterior"].sizes)["chain"] == dict(tree["posterior"].sizes)["draw"] == 1
    return tree["posterior"], info


class Breaking(Progress):
    """Interrupts the run after so many updates."""

    def __init__(self, after: int) -> None:
        super().__init__(quiet=True)
        self.left = after

    def update(self, n: int = 1, **postfix: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


# -- closed forms --------------------------------------------------------------------------


def test_line_has_the_mode_of_its_normal() -> None:
    target, exact = conjugate.line()
    posterior, info = fitted(target)
    np.testing.assert_allclose(posterior["beta"].values[0, 0], exact.mean, atol=1e-6)
    assert info.converged
    assert info.stopped == "settled"
    assert len(info.objectives) == 8
    assert np.ptp(info.objectives) < 1e-6
    assert info.path[-1] == info.objectives[info.best]
    assert info.degenerate == ("",) * 8


def test_likelihood_drops_the_prior() -> None:
    target, _ = conjugate.line()
    x, y = (target.data[name].numpy() for name in ("x", "y"))
    posterior, info = fitted(target, objective="likelihood")
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(posterior["beta"].values[0, 0], expected, atol=1e-6)
    assert not info.prior


def test_mode_is_that_of_the_rate_not_of_its_logarithm() -> None:
    target, shape, inverse, _ = conjugate.rate()
    posterior, _ = fitted(target)
    assert float(posterior["rate"].item()) == pytest.approx((shape - 1) / inverse, rel=1e-5)
    with_jacobian = target.density()
    log_mode = torch.tensor([shape / inverse], dtype=torch.float64).log()
    assert float(with_jacobian.value_and_gradient(log_mode)[1].abs()) < 1e-6


@pytest.mark.parametrize("concentration", [2.0, 1.0])
def test_mode_on_the_simplex(concentration: float) -> None:
    posterior, _ = fitted(conjugate.shares(concentration))
    counts = np.array([5.0, 2.0, 1.0]) + concentration - 1
    np.testing.assert_allclose(posterior["share"].values[0, 0], counts / counts.sum(), atol=1e-5)


def test_concentration_below_one_is_taken_in_the_softmax_basis() -> None:
    posterior, _ = fitted(conjugate.shares(0.3))
    counts = np.array([5.0, 2.0, 1.0]) + 0.3
    np.testing.assert_allclose(posterior["share"].values[0, 0], counts / counts.sum(), atol=1e-5)


def test_local_latents_are_part_of_the_point() -> None:
    target, exact = conjugate.schools()
    posterior, _ = fitted(target)
    assert posterior["mu"].item() == pytest.approx(exact.mean[0], abs=1e-5)
    np.testing.assert_allclose(posterior["theta"].values[0, 0], exact.mean[1:], atol=1e-5)


SOUND = [case for case in CASES if not isinstance(case.story, EightSchools)]


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.name)
def test_nothing_near_the_mode_is_higher(case: Case) -> None:
    target = case.target()
    posterior, info = fitted(target, restarts=4)
    assert info.converged
    density = target.density(jacobian=False)
    point = {
        name: torch.as_tensor(posterior[name].values.reshape(site.shape))
        for name, site in target.structure.latents.items()
    }
    mode = density.flatten(point)
    noise = torch.randn(20, density.dim, generator=torch.Generator().manual_seed(0))
    best = info.objectives[info.best]
    assert float(density(mode)) == pytest.approx(best, abs=1e-6)
    assert float(density.batch(mode + 0.1 * noise).max()) <= best + 1e-6


# -- where there is no mode ----------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_centred_eight_schools_has_no_mode(seed: int) -> None:
    target = make_target(EightSchools(centred=True), EFFECTS)
    with pytest.raises(NoModeError, match=r"^no mode exists.*'tau' goes to 0.*non-centred"):
        fitted(target, seed, restarts=2)


def test_non_centred_eight_schools_has_its_mode_on_the_edge() -> None:
    target = make_target(EightSchools(), EFFECTS)
    posterior, info = fitted(target)
    assert float(posterior["tau"].item()) < 1e-2
    assert any("edge" in note and "tau" in note for note in info.notes)
    assert np.ptp(info.objectives) < 1e-3


def test_separable_data_have_no_likeliest_slope() -> None:
    with pytest.raises(NoModeError, match=r"'slope'.*nothing holds it"):
        fitted(conjugate.separable(), restarts=2)


def test_one_collapsing_component_is_degenerate_and_not_counted() -> None:
    from sklearn.datasets import load_iris

    y = load_iris().data
    story = GaussianMixture(n_components=3).scaled_to({"y": torch.tensor(y)})
    _, info = fitted(make_target(story, {"y": y}), objective="likelihood")
    bad = [bool(text) for text in info.degenerate]
    assert any(bad)
    assert not bad[info.best]
    assert info.objectives[info.best] == pytest.approx(-180.185, abs=2e-3)


def test_degenerate_throughout_is_no_mode() -> None:
    y = np.random.default_rng(0).normal(size=(6, 2))
    target = make_target(GaussianMixture(n_components=3), {"y": y})
    with pytest.raises(NoModeError, match="all of 4 restarts ended degenerate"):
        fitted(target, objective="likelihood", restarts=4)


@dataclass(frozen=True)
class BadStart(conjugate.Line):
    """Its own starts are no good."""

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"beta": torch.full((2,), torch.nan)}


def test_starts_without_a_density_are_set_aside() -> None:
    target, exact = conjugate.line()
    posterior, info = fitted(replace(target, story=BadStart()), restarts=4)
    assert [bool(text) for text in info.degenerate] == [True, True, True, False]
    np.testing.assert_allclose(posterior["beta"].values[0, 0], exact.mean, atol=1e-6)


@dataclass(frozen=True)
class Units(Story):
    """Incomes in cents: the mean lies a million prior units away, its logarithms do not."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1e7))
        spread = pyro.sample("spread", dist.HalfNormal(1e7))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, spread), obs=y)


def test_coordinates_of_very_different_units() -> None:
    y = np.random.default_rng(0).normal(3e6, 1e5, 50)
    posterior, info = fitted(make_target(Units(), {"y": y}), restarts=3)
    assert np.ptp(info.objectives) < 1e-6
    assert posterior["mean"].item() == pytest.approx(y.mean(), rel=1e-5)
    assert posterior["spread"].item() == pytest.approx(y.std(), rel=1e-4)


# -- settings, seeds, and going on ---------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"restarts": 0}, "restarts=0"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"minutes": 0.0}, "minutes=0.0"),
        ({"objective": "prior"}, "posterior or likelihood"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        MAP(**settings)


def test_steps_run_out_and_say_so() -> None:
    target, _ = conjugate.schools()
    _, info = fitted(target, max_steps=1, restarts=2)
    assert info.stopped == "max_steps"
    assert not info.converged


def test_minutes_run_out_and_say_so() -> None:
    target, _ = conjugate.schools()
    _, info = fitted(target, minutes=1e-9, restarts=2)
    assert info.stopped == "minutes"


def test_same_seed_same_bits() -> None:
    target, _ = conjugate.schools()
    first, again, other = (fitted(target, seed)[0] for seed in (3, 3, 4))
    assert first.to_dataset().identical(again.to_dataset())
    assert not first.to_dataset().identical(other.to_dataset())


SIX = MAP(restarts=6)


def uneven() -> Target:
    """A story whose restarts take different numbers of steps."""
    return make_target(EightSchools(), EFFECTS)


def test_resumed_run_is_the_same_and_cheaper(tmp_path: Path) -> None:
    target, checkpoint = uneven(), Checkpoint(tmp_path / "checkpoint.npz")
    whole = SIX.run(target, seed=1, progress=Progress(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        SIX.run(target, seed=1, progress=Breaking(12), checkpoint=checkpoint)
    assert checkpoint.path.exists()
    resumed = SIX.run(target, seed=1, progress=Progress(quiet=True), checkpoint=checkpoint)
    assert not checkpoint.path.exists()
    assert whole.tree["posterior"].to_dataset().identical(resumed.tree["posterior"].to_dataset())
    before, after = whole.info, resumed.info
    assert isinstance(before, MAPInfo)
    assert isinstance(after, MAPInfo)
    assert after.resumed_evaluations > 50
    assert replace(after, resumed_evaluations=0, compile_seconds=0.0) == replace(
        before, compile_seconds=0.0
    )


def test_interrupt_keeps_the_restarts_that_ended(tmp_path: Path) -> None:
    target = uneven()
    steps = Counting()
    whole = SIX.run(target, seed=1, progress=steps)
    assert isinstance(whole.info, MAPInfo)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    last = Breaking(steps.count - 3)
    tree, info = SIX.run(target, seed=1, progress=last, checkpoint=checkpoint)
    assert isinstance(info, MAPInfo)
    assert info.stopped == "interrupted"
    assert info.cut_short
    assert 1 <= len(info.objectives) < 6
    assert set(info.objectives) <= set(whole.info.objectives)
    assert checkpoint.path.exists()


class Counting(Progress):
    """Counts updates."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.count = 0

    def update(self, n: int = 1, **postfix: Any) -> None:
        self.count += 1


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    target, checkpoint = uneven(), Checkpoint(tmp_path / "checkpoint.npz")
    with pytest.raises(KeyboardInterrupt):
        SIX.run(target, seed=1, progress=Breaking(3), checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="another story, data, seed or settings"):
        SIX.run(target, seed=2, progress=Progress(quiet=True), checkpoint=checkpoint)


def test_story_without_continuous_latents_is_refused() -> None:
    target, _ = conjugate.line()
    structure = replace(target.structure, sites={})
    assert "no continuous latent" in (MAP().refuses(target.story, structure) or "")
    assert MAP().refuses(target.story, target.structure) is None
