"""Langevin dynamics by noisy gradients: near the posterior, by as much as its steps say."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storyzoo.errors import RunFolderError, SettingError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.sgld import SGLD, SGLDInfo
from storyzoo.models.autoregression import Autoregression
from storyzoo.reports.verdict import judge
from tests.inference import conjugate
from tests.inference.dreaming import bell, dreaming
from tests.inference.test_map import Breaking


def fitted(target: Target, seed: int = 0, **settings: Any) -> tuple[Any, SGLDInfo]:
    """The tree and the info."""
    sgld = SGLD(**{"warmup": 500, **settings})
    assert sgld.refuses(target.story, target.structure) is None
    tree, info = sgld.run(target, seed=seed, progress=Progress(quiet=True))
    assert isinstance(info, SGLDInfo)
    return tree, info


# -- closed forms --------------------------------------------------------------------------


def test_whole_gradients_find_the_normal_posterior() -> None:
    """Its variance is wider by ``1 / (1 - step / 4)``: 2.6 % at a step of 0.1."""
    target, exact = conjugate.line(correlated=False)
    tree, info = fitted(target, draws=2000, batch_size=None)
    beta = tree["posterior"]["beta"].values.reshape(-1, 2)
    sd = np.sqrt(np.diag(exact.covariance))
    np.testing.assert_allclose(beta.mean(0), exact.mean, atol=0.1 * sd.max())
    np.testing.assert_allclose(beta.std(0), 1.013 * sd, rtol=0.04)
    assert info.step == 0.1
    assert info.gradient_noise < 0.01
    assert not info.estimated


def test_step_biases_the_variance_by_the_known_amount() -> None:
    """The chain ``x' = (1 - e/2) x + sqrt(e) z`` has the variance ``1 / (1 - e/4)``."""
    target, exact = conjugate.line(correlated=False)
    tree, _ = fitted(target, draws=4000, thin=5, batch_size=None, step=1.0)
    beta = tree["posterior"]["beta"].values.reshape(-1, 2)
    ratio = beta.var(0) / np.diag(exact.covariance)
    np.testing.assert_allclose(ratio, 1 / (1 - 1 / 4), rtol=0.12)


@pytest.mark.slow
def test_slices_add_the_noise_that_is_told() -> None:
    target, exact = conjugate.line(400, correlated=False)
    tree, info = fitted(target, draws=300, thin=30, batch_size=100)
    assert info.step == pytest.approx(0.2 / 3)
    assert 0.01 < info.gradient_noise < 0.1
    beta = tree["posterior"]["beta"].values.reshape(-1, 2)
    sd = np.sqrt(np.diag(exact.covariance))
    np.testing.assert_allclose(beta.mean(0), exact.mean, atol=0.25 * sd.max())
    np.testing.assert_allclose(beta.std(0), sd, rtol=0.15)


def quadrature(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and deviations of two spins' bias and coupling, on a grid."""
    bias, coupling = np.meshgrid(np.linspace(-3, 3, 241), np.linspace(-6, 6, 241), indexing="ij")
    size = np.log(1 + 2 * np.exp(bias) + np.exp(2 * bias + coupling))
    joint = (rows.sum() * bias + rows.prod(-1).sum() * coupling) - len(rows) * size
    joint += -0.5 * bias**2 - 0.5 * (coupling / 2) ** 2
    weight = np.exp(joint - joint.max())
    weight /= weight.sum()
    grids = np.stack([bias, coupling])
    mean = (weight * grids).sum((1, 2))
    return mean, np.sqrt((weight * (grids - mean[:, None, None]) ** 2).sum((1, 2)))


@pytest.mark.slow
def test_own_gradient_finds_the_posterior_of_a_hidden_likelihood() -> None:
    target = dreaming(n=100)
    tree, info = fitted(target, draws=1000, thin=12, batch_size=50, fantasies=200)
    assert info.estimated
    mean, sd = quadrature(np.asarray(target.data["v"]))
    draws = np.stack([tree["posterior"][n].values.ravel() for n in ("bias", "coupling")])
    np.testing.assert_allclose(draws.mean(1), mean, atol=0.3 * sd.max())
    np.testing.assert_allclose(draws.std(1), sd, rtol=0.2)


@pytest.mark.slow
def test_positive_site_is_drawn_with_its_jacobian() -> None:
    """A normal with a scale of its own: nearly normal posteriors, sd s/sqrt(N), s/sqrt(2N)."""
    tree, _ = fitted(bell(), draws=500, batch_size=150)
    y = np.random.default_rng(0).normal(1.0, 0.5, size=300)
    loc, scale = (tree["posterior"][name].values.ravel() for name in ("loc", "scale"))
    s = y.std()
    assert loc.mean() == pytest.approx(y.mean(), abs=0.25 * s / np.sqrt(300))
    assert loc.std() == pytest.approx(s / np.sqrt(300), rel=0.15)
    assert scale.mean() == pytest.approx(s, abs=0.4 * s / np.sqrt(600))
    assert scale.std() == pytest.approx(s / np.sqrt(600), rel=0.15)


def test_exact_gradient_may_be_asked_for() -> None:
    """Of a story that has its own too."""
    _, info = fitted(dreaming(hidden=False), draws=5, gradient="exact", batch_size=None)
    assert not info.estimated
    assert "slices of the density (all examples)" in info.engine


def test_local_latents_are_drawn() -> None:
    target, exact = conjugate.schools()
    tree, _ = fitted(target, draws=1500)
    theta = tree["posterior"]["theta"].values.reshape(-1, 12)
    np.testing.assert_allclose(theta.mean(0), exact.mean[1:], atol=0.1)
    sd = np.sqrt(np.diag(exact.covariance))[1:]
    np.testing.assert_allclose(theta.std(0), sd, rtol=0.12)


def test_falling_steps_keep_draws_at_equal_shares_of_the_way() -> None:
    """With a falling step the last draws are more gradients apart than the first."""
    target, exact = conjugate.line(correlated=False)
    settings: dict[str, Any] = {"draws": 1000, "batch_size": None, "step": 0.3, "decay": 0.5}
    tree, info = fitted(target, **settings)
    assert tree["posterior"].sizes["draw"] == 1000
    assert info.steps == 500 + 20_000
    beta = tree["posterior"]["beta"].values.reshape(-1, 2)
    np.testing.assert_allclose(beta.std(0), np.sqrt(np.diag(exact.covariance)), rtol=0.08)


# -- the verdict ---------------------------------------------------------------------------


def judged(target: Target, **settings: Any) -> tuple[str, set[str]]:
    """The word, and the checks that failed."""
    tree, info = fitted(target, **settings)
    verdict = judge(tree, info, kind="approximation", story=target.story)
    assert {"r_hat", "ess_bulk", "gradient_noise"} <= {c.name for c in verdict.checks}
    assert "k_hat" not in {c.name for c in verdict.checks}
    return verdict.verdict, {c.name for c in verdict.checks if not c.passed}


def test_sound_chains_are_approximate_and_no_more() -> None:
    target, _ = conjugate.line(correlated=False)
    word, failed = judged(target, draws=1000, thin=40, batch_size=None)
    assert (word, failed) == ("approximate", set())


def test_chains_that_have_not_mixed_are_not_trusted() -> None:
    target, _ = conjugate.line(correlated=False)
    word, failed = judged(target, draws=100, thin=1, batch_size=None, step=0.001)
    assert word == "do not trust"
    assert "r_hat" in failed


def test_noise_that_is_not_drowned_fails() -> None:
    target, _ = conjugate.line(200, correlated=False)
    word, failed = judged(target, draws=200, thin=10, batch_size=4, step=0.1)
    assert word == "do not trust"
    assert "gradient_noise" in failed


# -- stopping and going on -----------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
def test_resumed_run_is_the_same(tmp_path: Path, own: bool) -> None:
    target = dreaming() if own else conjugate.line()[0]
    sgld = SGLD(chains=2, warmup=20, draws=10, thin=3, batch_size=16, decay=0.3)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    whole = sgld.run(target, seed=1, progress=Progress(quiet=True))
    partly = sgld.run(target, seed=1, progress=Breaking(55), checkpoint=checkpoint)
    assert partly.info.stopped == "interrupted"
    assert 0 < partly.tree["posterior"].sizes["draw"] < 10
    resumed = sgld.run(target, seed=1, progress=Progress(quiet=True), checkpoint=checkpoint)
    assert not checkpoint.path.exists()
    assert whole.tree.identical(resumed.tree)
    assert isinstance(resumed.info, SGLDInfo)
    assert isinstance(whole.info, SGLDInfo)
    assert resumed.info.resumed_steps == 35
    same: dict[str, Any] = {"compile_seconds": 0.0, "resumed_steps": 0}
    assert replace(resumed.info, **same) == replace(whole.info, **same)


def test_resumed_in_warm_up_is_the_same(tmp_path: Path) -> None:
    target = dreaming()
    sgld = SGLD(chains=2, warmup=20, draws=10, thin=3, batch_size=16)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    whole = sgld.run(target, seed=1, progress=Progress(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        sgld.run(target, seed=1, progress=Breaking(31), checkpoint=checkpoint)
    resumed = sgld.run(target, seed=1, progress=Progress(quiet=True), checkpoint=checkpoint)
    assert whole.tree.identical(resumed.tree)


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    target = dreaming()
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    with pytest.raises(KeyboardInterrupt):
        SGLD().run(target, seed=0, progress=Breaking(5), checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="another story, data, seed or settings"):
        SGLD().run(target, seed=1, progress=Progress(quiet=True), checkpoint=checkpoint)


def test_minutes_spent_in_warm_up_leave_nothing() -> None:
    with pytest.raises(SettingError, match="spent in warm-up"):
        fitted(dreaming(), minutes=1e-6)


SIGNALLED = """
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.sgld import SGLD
from tests.inference.dreaming import dreaming

class Loud(Progress):
    def update(self, n=1, **postfix):
        print("walking", flush=True)

sgld = SGLD(warmup=1, thin=1, draws=1_000_000)
info = sgld.run(dreaming(), seed=0, progress=Loud(quiet=True)).info
print(info.stopped, flush=True)
"""


def test_a_real_signal_keeps_the_draws() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(60):
            assert process.stdout.readline() == "walking\n"
        process.send_signal(signal.SIGINT)
        said = process.stdout.read().split()
    assert said[-1] == "interrupted"


def test_same_seed_same_bits() -> None:
    target = dreaming()
    first, again, other = (fitted(target, seed, warmup=5, draws=5, thin=2)[0] for seed in (3, 3, 4))
    assert first.identical(again)
    assert not first.identical(other)


def test_steps_that_run_away_say_what_to_set() -> None:
    """Eight columns that are all but one: a step of a width of each overshoots their sum."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 1)) + 0.01 * rng.normal(size=(40, 8))
    target = make_target(conjugate.Line(), {"x": x, "y": x.sum(1)})
    with pytest.raises(SettingError, match=r"chain \d ran away at step \d+.*step=0.1"):
        fitted(target, batch_size=None, step=1.0)


# -- refusals and settings -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chains": 0}, "chains=0"),
        ({"draws": 0}, "draws=0"),
        ({"thin": 0}, "thin=0"),
        ({"warmup": 0}, "warmup=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"step": 0.0}, "step=0.0"),
        ({"step": 1.5}, "step=1.5"),
        ({"decay": 2.0}, "decay=2.0"),
        ({"gradient": "noisy"}, "gradient=noisy"),
        ({"fantasies": 0}, "fantasies=0"),
        ({"minutes": -1.0}, "minutes=-1.0"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        SGLD(**settings)


def test_refusals_say_why() -> None:
    def reason(sgld: SGLD, target: Target) -> str:
        return sgld.refuses(target.story, target.structure) or ""

    local, _ = conjugate.schools()
    assert reason(SGLD(), local) == ""
    assert "use batch_size=none" in reason(SGLD(batch_size=4), local)
    line, _ = conjugate.line()
    assert "no gradient of its own" in reason(SGLD(gradient="estimated"), line)
    assert "can't be computed" in reason(SGLD(gradient="exact"), dreaming())
    assert reason(SGLD(), dreaming()) == ""


def test_story_without_independent_examples_is_seen_whole() -> None:
    target = make_target(Autoregression(), {"y": np.sin(np.arange(30.0))})
    assert "no independent examples" in (SGLD().refuses(target.story, target.structure) or "")
    assert SGLD(batch_size=None).refuses(target.story, target.structure) is None
