"""The normal at the mode: exact where the posterior is normal, and what it says of the evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from storyzoo.errors import NoModeError, RefusedError, SettingError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.psis import k_hat
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.laplace import Laplace, LaplaceInfo, hessian, label_modes
from storyzoo.models.eight_schools import EightSchools
from storyzoo.story import Story
from tests.cases import CASES, MIXTURE_POINT, Case, Mixture
from tests.inference import conjugate
from tests.inference.test_map import EFFECTS, Breaking


def fitted(target: Target, seed: int = 0, **settings: Any) -> tuple[Any, LaplaceInfo]:
    """The tree and the info."""
    tree, info = Laplace(**settings).run(target, seed=seed, progress=Progress(quiet=True))
    assert isinstance(info, LaplaceInfo)
    return tree, info


# -- closed forms --------------------------------------------------------------------------


def test_line_is_exact() -> None:
    target, exact = conjugate.line()
    tree, info = fitted(target, draws=4000)
    assert info.log_evidence == pytest.approx(exact.log_evidence, abs=1e-8)
    stats = tree["sample_stats"]
    np.testing.assert_allclose(stats["lp"] - stats["log_q"], exact.log_evidence, atol=1e-6)
    beta = tree["posterior"]["beta"].values[0]
    sd = np.sqrt(np.diag(exact.covariance))
    np.testing.assert_allclose(beta.mean(0), exact.mean, atol=4 * sd.max() / math.sqrt(4000))
    np.testing.assert_allclose(np.cov(beta.T), exact.covariance, rtol=0.15)
    assert info.label_modes == 1
    assert info.converged


def test_local_latents_are_part_of_the_normal() -> None:
    target, exact = conjugate.schools()
    tree, info = fitted(target)
    assert info.log_evidence == pytest.approx(exact.log_evidence, abs=1e-8)
    assert tree["posterior"]["theta"].shape == (1, 1000, 12)


def test_rate_by_hand() -> None:
    """On the log scale: mode a/b, curvature a; the evidence is Stirling's formula for Gamma(a)."""
    target, shape, inverse, exact = conjugate.rate()
    tree, info = fitted(target, draws=2000)
    log_rate = np.log(tree["posterior"]["rate"].values)
    assert log_rate.mean() == pytest.approx(math.log(shape / inverse), abs=0.02)
    assert log_rate.std() == pytest.approx(shape**-0.5, rel=0.08)
    stirling = (shape - 0.5) * math.log(shape) - shape + 0.5 * math.log(2 * math.pi)
    assert info.log_evidence == pytest.approx(exact - math.lgamma(shape) + stirling, abs=1e-7)


@pytest.mark.parametrize(
    "case", [c for c in CASES if not isinstance(c.story, EightSchools)], ids=lambda case: case.name
)
def test_every_kind_of_story_is_fitted(case: Case) -> None:
    target = case.target()
    tree, info = fitted(target, restarts=4, draws=50)
    assert set(target.structure.latents) == set(tree["posterior"].data_vars)
    assert np.isfinite(tree["sample_stats"]["log_q"]).all()
    assert (info.log_evidence is None) == case.improper


# -- label modes ---------------------------------------------------------------------------


def test_evidence_counts_both_labellings() -> None:
    target, exact = conjugate.centres()
    tree, info = fitted(target)
    assert info.label_modes == 2
    assert info.log_evidence == pytest.approx(exact, abs=0.02)
    stats = tree["sample_stats"]  # the draws stay at one of the two
    gap = float((stats["lp"] - stats["log_q"]).mean())
    assert gap == pytest.approx(exact - math.log(2), abs=0.05)


@pytest.mark.parametrize(
    ("weights", "locations", "count"),
    [
        ([0.2, 0.3, 0.5], [0.0, 1.0, 2.0], 6),
        ([0.25, 0.25, 0.5], [1.0, 1.0, 2.0], 3),
        ([1 / 3, 1 / 3, 1 / 3], [1.0, 1.0, 1.0], 1),
    ],
)
def test_like_components_are_counted_once(
    weights: list[float], locations: list[float], count: int
) -> None:
    target = make_target(Mixture(n_components=3), {"y": np.zeros((4, 1))})
    point = {
        "weight": torch.tensor(weights, dtype=torch.float64),
        "loc": torch.tensor(locations, dtype=torch.float64)[:, None],
        "scale": torch.ones(3, 1, dtype=torch.float64),
    }
    assert label_modes(target, point) == count


# -- the Hessian ---------------------------------------------------------------------------


def test_hessian_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    y = np.random.default_rng(0).normal(size=(20, 2))
    density = make_target(Mixture(), {"y": y}).density()
    q = density.flatten({name: torch.as_tensor(v) for name, v in MIXTURE_POINT.items()})
    exact = hessian(density, q)

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(torch.func, "jacrev", refuse)
    differences = hessian(density, q)
    assert not torch.equal(exact, differences)
    torch.testing.assert_close(exact, differences, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Unidentified(Story):
    """Only the sum of two numbers is seen; nothing tells them apart."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1e6))
        b = pyro.sample("b", dist.Normal(0.0, 1e6))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def test_flat_direction_is_named() -> None:
    target = make_target(Unidentified(), {"y": np.ones(50)})
    with pytest.raises(RefusedError, match=r"flat along '[ab]'.*narrower prior"):
        fitted(target, restarts=2)


def test_no_mode_no_normal() -> None:
    with pytest.raises(NoModeError, match="'tau' goes to 0"):
        fitted(make_target(EightSchools(centred=True), EFFECTS), restarts=2)


def test_funnel_is_seen_by_k_hat() -> None:
    tree, info = fitted(make_target(EightSchools(), EFFECTS))
    stats = tree["sample_stats"]
    assert k_hat(stats["lp"].values, stats["log_q"].values) > 0.7
    assert info.log_evidence is not None


# -- refusals, settings, seeds -------------------------------------------------------------


def test_improper_prior_has_no_evidence() -> None:
    x = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
    data = {"x": x, "y": np.array([0.0, 1, 0, 1, 0, 1])}
    _, info = fitted(make_target(conjugate.FlatLogistic(), data), restarts=2)
    assert info.log_evidence is None
    assert any("improper" in note for note in info.notes)


def test_too_many_dims_are_refused() -> None:
    target, _ = conjugate.schools()
    structure = target.structure
    wide = replace(structure.sites["theta"], shape=(5000,))
    wide_structure = replace(structure, sites={**structure.sites, "theta": wide})
    assert "5001" in (Laplace().refuses(target.story, wide_structure) or "")
    assert Laplace().refuses(target.story, structure) is None


def test_impossible_settings() -> None:
    with pytest.raises(SettingError, match="laplace: draws=0"):
        Laplace(draws=0)


def test_same_seed_same_bits() -> None:
    target, _ = conjugate.schools()
    first, again, other = (fitted(target, seed)[0] for seed in (3, 3, 4))
    assert first.identical(again)
    assert not first.identical(other)


def test_resumed_run_is_the_same_and_cheaper(tmp_path: Path) -> None:
    target = make_target(EightSchools(), EFFECTS)
    laplace, checkpoint = Laplace(restarts=4), Checkpoint(tmp_path / "checkpoint.npz")
    whole = laplace.run(target, seed=1, progress=Progress(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        laplace.run(target, seed=1, progress=Breaking(10), checkpoint=checkpoint)
    resumed = laplace.run(target, seed=1, progress=Progress(quiet=True), checkpoint=checkpoint)
    assert whole.tree.identical(resumed.tree)
    assert isinstance(resumed.info, LaplaceInfo)
    assert resumed.info.resumed_evaluations > 30
    assert resumed.info.gradient_evaluations == whole.info.gradient_evaluations
    assert not checkpoint.path.exists()
