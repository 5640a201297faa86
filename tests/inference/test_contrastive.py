"""Contrastive divergence: the modes that exact gradients find, by the model's own chains."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storyzoo.errors import RunFolderError, SettingError, StoryError
from storyzoo.inference import METHODS, load_method
from storyzoo.inference.contrastive import Contrastive, ContrastiveInfo, settled_at_the_top
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.learning_curve import Likelihoods, Point, split_rows
from storyzoo.inference.engine.method import Info
from storyzoo.inference.engine.own_gradient import OwnGradient
from storyzoo.inference.engine.prior import LogPrior
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.reports.verdict import judge
from storyzoo.run import fit
from storyzoo.story import Data, Fantasies, Latents
from tests import ising
from tests.inference import conjugate
from tests.inference.dreaming import Bell, DreamingSpins, Gradient, bell, dreaming, exact_mode
from tests.inference.test_map import Breaking


def fitted(
    target: Target, seed: int = 0, **settings: Any
) -> tuple[dict[str, float], ContrastiveInfo]:
    """The point and the info."""
    contrastive = Contrastive(**{"max_steps": 3000, "validation": 0.0, **settings})
    assert contrastive.refuses(target.story, target.structure) is None
    tree, info = contrastive.run(target, seed=seed, progress=Progress(quiet=True))
    assert isinstance(info, ContrastiveInfo)
    return {str(name): v.item() for name, v in tree["posterior"].data_vars.items()}, info


# -- the gradient --------------------------------------------------------------------------


@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("prior", [True, False])
def test_gradient_is_that_of_the_exact_density(jacobian: bool, prior: bool) -> None:
    target, known = bell(hidden=True), bell(hidden=False)
    priors = LogPrior.of(target, jacobian=jacobian, prior=prior)
    q = torch.tensor([0.7, -0.4], dtype=torch.float64)
    _, exact = known.density(jacobian=jacobian, prior=prior).value_and_gradient(q)
    fantasies = Fantasies(torch.Generator().manual_seed(0), count=2_000_000)
    with target.context():
        found = OwnGradient(target, priors)(q, torch.arange(300), fantasies).gradient
    np.testing.assert_allclose(found, exact, atol=1.5)  # 4 errors of 2e6 dreams


def test_slices_weigh_as_much_as_all_rows() -> None:
    target = bell()
    gradient = OwnGradient(target, LogPrior.of(target))
    q = torch.tensor([0.7, -0.4], dtype=torch.float64)
    slices = torch.arange(300).reshape(6, 50)

    def told(index: torch.Tensor) -> torch.Tensor:
        fantasies = Fantasies(torch.Generator().manual_seed(0), count=100)
        with target.context():
            return gradient(q, index, fantasies).gradient

    parts = torch.stack([told(index) for index in slices]).mean(0)
    np.testing.assert_allclose(parts, told(torch.arange(300)), rtol=1e-10)


def test_direction_is_asked_on_the_scale_of_the_sites() -> None:
    target = bell()
    gradient = OwnGradient(target, LogPrior.of(target))
    q = torch.tensor([0.7, -0.4], dtype=torch.float64)
    whole = torch.tensor([3.0, 5.0], dtype=torch.float64)
    fantasies = Fantasies(torch.Generator(), centred=True)
    with target.context():
        turned = gradient.directed(q, whole, fantasies)
        left = gradient.directed(q, whole, replace(fantasies, centred=False))
    scale = float(torch.tensor(-0.4, dtype=torch.float64).exp())
    np.testing.assert_allclose(turned, [scale**2 * 3.0, 0.5 * 5.0])
    assert left is whole


@dataclass(frozen=True)
class Silent(Bell):
    """Forgets one of its sites."""

    def stochastic_gradient(self, latents: Latents, batch: Data, state: Fantasies) -> Gradient:
        gradient, after = super().stochastic_gradient(latents, batch, state)
        return {"loc": gradient["loc"]}, after


def test_gradient_that_lacks_a_site_is_named() -> None:
    target = make_target(Silent(), {"y": np.ones(5)})
    with pytest.raises(
        StoryError, match=r"must give 'scale' a gradient of shape \(\); it gave none"
    ):
        fitted(target, max_steps=2)


# -- known modes ---------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["posterior", "likelihood"])
def test_spins_reach_the_exact_mode(objective: str) -> None:
    target = dreaming()
    exact = exact_mode(target, objective)
    point, info = fitted(target, objective=objective)
    assert point == pytest.approx(exact, abs=0.04)
    assert info.prior == (objective == "posterior")
    assert info.stopped == "settled"


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("optimiser", ["adam", "momentum"])
def test_positive_site_reaches_the_mode_of_the_constrained_density(
    optimiser: str, centred: bool
) -> None:
    target = bell()
    exact = exact_mode(target)
    rate = 0.05 if optimiser == "momentum" else 0.01
    point, _ = fitted(target, optimiser=optimiser, centred=centred, learning_rate=rate)
    assert point == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("sweeps", [1, 3])
def test_chains_begun_at_the_data_stay_where_the_data_are_the_model(sweeps: int) -> None:
    """Rows in just the proportions of a model are a fixed point of contrastive divergence."""
    rows = np.repeat(ising.STATES, [40, 10, 10, 40], axis=0)
    point, _ = fitted(
        make_target(DreamingSpins(), {"v": rows}),
        objective="likelihood", persistent=False, sweeps=sweeps, learning_rate=0.5,
    )  # fmt: skip
    assert point == pytest.approx({"bias": np.log(0.25), "coupling": 2 * np.log(4)}, abs=0.1)


# -- the learning curve --------------------------------------------------------------------


def test_exact_curve_ends_at_the_likelihood_of_the_answer() -> None:
    target = dreaming(hidden=False)
    point, info = fitted(target, max_steps=400, curve=8, validation=0.25, keep="average")
    assert info.exact
    assert info.curve_steps == tuple(range(0, 401, 50))
    split = split_rows(400, 0.25, np.random.default_rng(np.random.SeedSequence(0).spawn(3)[0]))
    rows = np.asarray(target.data["v"])
    for scores, places in ((info.training, split.training), (info.validation, split.validation)):
        by_hand = ising.exact(rows[places], point["bias"], point["coupling"])
        assert scores[-1] == pytest.approx(by_hand.mean())
    assert info.training[-1] > info.training[0]
    assert set(info.normaliser_se) == {0.0}


def test_estimated_curve_has_the_normalisers_error() -> None:
    target = dreaming()
    point, info = fitted(target, max_steps=400, curve=4, validation=0.25, keep="average")
    assert not info.exact
    assert info.normaliser_se == (0.05,) * 5
    split = split_rows(400, 0.25, np.random.default_rng(np.random.SeedSequence(0).spawn(3)[0]))
    truth = ising.exact(
        np.asarray(target.data["v"])[split.training], point["bias"], point["coupling"]
    )
    assert info.training[-1] == pytest.approx(truth.mean(), abs=0.2)
    over_rows = truth.std(ddof=1) / np.sqrt(300)
    assert info.training_se[-1] == pytest.approx(np.hypot(over_rows, 0.05), rel=1e-6)


def test_story_without_an_estimate_has_no_curve_and_says_so() -> None:
    _, info = fitted(bell(), max_steps=5)
    assert info.training == info.validation == ()
    assert any("no learning curve" in note for note in info.notes)


def test_rows_are_kept_apart_where_there_are_many() -> None:
    rng = np.random.default_rng(0)
    few, many = split_rows(499, None, rng), split_rows(500, None, rng)
    assert (len(few.training), len(few.validation)) == (499, 0)
    assert (len(many.training), len(many.validation)) == (450, 50)
    assert sorted([*many.training, *many.validation]) == list(range(500))
    assert len(split_rows(3, 0.99, rng).training) == 1


def test_many_rows_are_scored_in_part() -> None:
    target = dreaming(hidden=False, n=5000)
    likelihoods = Likelihoods(target, split_rows(5000, 0.5, np.random.default_rng(0)))
    scores = likelihoods(torch.zeros(2, dtype=torch.float64), np.random.default_rng(0))
    assert scores.training.shape == scores.validation.shape == (2000,)
    np.testing.assert_allclose(scores.training, -np.log(4))


def test_best_point_on_rows_kept_apart_is_kept() -> None:
    """A learning rate that never settles: some point on the way is better than the last."""
    target = dreaming(hidden=False, n=60)
    settings: dict[str, Any] = {
        "max_steps": 200, "curve": 40, "validation": 0.3, "learning_rate": 3.0, "batch_size": 5,
        "chains": 5,
    }  # fmt: skip
    _, best = fitted(target, **settings)
    _, last = fitted(target, keep="average", **settings)
    place = int(np.argmax(best.validation))
    assert best.validation == last.validation
    assert best.kept_step == best.curve_steps[place] < 200
    assert best.over_fitting == 0.0
    assert last.kept_step == 200
    assert last.over_fitting == pytest.approx(last.validation[place] - last.validation[-1])


def test_highest_point_is_kept_where_no_rows_are_apart() -> None:
    target = dreaming(hidden=False, n=60)
    point, info = fitted(
        target, max_steps=200, curve=40, learning_rate=3.0, batch_size=5, chains=5,
        objective="likelihood",
    )  # fmt: skip
    assert info.validation == ()
    assert info.kept_step == info.curve_steps[int(np.argmax(info.training))] < 200
    by_hand = ising.exact(np.asarray(target.data["v"]), point["bias"], point["coupling"])
    assert max(info.training) == pytest.approx(by_hand.mean())


def curve(*scores: float, error: float = 0.0) -> list[Point]:
    """Points at equal steps."""
    return [Point(10 * n, score, 0.1, 0.0, 0.1, error) for n, score in enumerate(scores)]


def test_curve_is_settled_only_at_its_top() -> None:
    assert settled_at_the_top(curve(-10.0, -6.0, -5.0, -4.91, -4.9))
    assert not settled_at_the_top(curve(-10.0, -8.0, -7.0, -6.0, -5.0))
    assert not settled_at_the_top(curve(-10.0, -4.0, -5.0, -5.0, -5.0))
    assert settled_at_the_top(curve(-10.0, -4.0, -5.0, -5.0, -5.0, error=0.5))


# -- the verdict ---------------------------------------------------------------------------


def checks_of(info: Info) -> dict[str, bool]:
    """Names of the checks of a point, and whether they passed."""
    tree, _ = Contrastive(max_steps=2, validation=0.0).run(
        bell(), seed=0, progress=Progress(quiet=True)
    )
    verdict = judge(tree, info, kind="point", story=Bell())
    return {c.name: c.passed for c in verdict.checks}


def test_verdict_is_a_point_estimate() -> None:
    answer = fit(
        DreamingSpins(), dict(ising.spins(600)), Contrastive(max_steps=2000), progress=False
    )
    assert answer.verdict.verdict == "point estimate"
    names = {check.name for check in answer.verdict.checks}
    assert {"learning_curve", "over_fitting"} <= names
    assert any("60 of 600 rows were kept apart" in note for note in answer.verdict.notes)


def test_curve_that_rises_and_rows_told_worse_fail() -> None:
    told = ContrastiveInfo(training=(-3.0, -2.0), validation=(-2.0, -3.0), stopped="max_steps")
    bad = replace(told, converged=False, over_fitting=1.0, over_fitting_se=0.2)
    assert checks_of(bad) == {"finite": True, "learning_curve": False, "over_fitting": False}
    good = replace(told, converged=True, over_fitting=1.0, over_fitting_se=0.6)
    assert checks_of(good) == {"finite": True, "learning_curve": True, "over_fitting": True}


# -- stopping and going on -----------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"persistent": False, "keep": "last"}, {"optimiser": "adam"}]
)
def test_resumed_run_is_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    target = dreaming()
    contrastive = Contrastive(max_steps=60, validation=0.2, batch_size=50, **settings)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    whole = contrastive.run(target, seed=1, progress=Progress(quiet=True))
    partly = contrastive.run(target, seed=1, progress=Breaking(33), checkpoint=checkpoint)
    assert partly.info.stopped == "interrupted"
    assert partly.info.cut_short
    resumed = contrastive.run(target, seed=1, progress=Progress(quiet=True), checkpoint=checkpoint)
    assert not checkpoint.path.exists()
    assert whole.tree.identical(resumed.tree)
    assert isinstance(resumed.info, ContrastiveInfo)
    assert isinstance(whole.info, ContrastiveInfo)
    assert resumed.info.resumed_steps == 33
    same: dict[str, Any] = {"compile_seconds": 0.0, "resumed_steps": 0}
    assert replace(resumed.info, **same) == replace(whole.info, **same)


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    target = dreaming()
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    Contrastive().run(target, seed=0, progress=Breaking(5), checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="another story, data, seed or settings"):
        Contrastive(sweeps=2).run(
            target, seed=0, progress=Progress(quiet=True), checkpoint=checkpoint
        )


def test_interrupt_before_the_first_step_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        Contrastive().run(dreaming(), seed=0, progress=Breaking(0))


def test_minutes_run_out_and_say_so() -> None:
    _, info = fitted(dreaming(), minutes=1e-6)
    assert info.stopped == "minutes"
    assert info.steps == 1
    assert not info.converged


SIGNALLED = """
from storyzoo.inference.contrastive import Contrastive
from storyzoo.inference.engine.progress import Progress
from tests.inference.dreaming import dreaming

class Loud(Progress):
    def update(self, n=1, **postfix):
        print("climbing", flush=True)

info = Contrastive(max_steps=10_000_000).run(dreaming(), seed=0, progress=Loud(quiet=True)).info
print(info.stopped, flush=True)
"""


def test_a_real_signal_keeps_the_point() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline() == "climbing\n"
        process.send_signal(signal.SIGINT)
        said = process.stdout.read().split()
    assert said[-1] == "interrupted"


def test_same_seed_same_bits() -> None:
    target = dreaming()
    first, again, other = (fitted(target, seed, max_steps=30)[0] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_steps_that_run_away_say_what_to_set() -> None:
    with pytest.raises(SettingError, match=r"ran away at step \d+.*learning_rate="):
        fitted(bell(), learning_rate=1e6)


# -- refusals and settings -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": "elbo"}, "objective=elbo"),
        ({"optimiser": "sgd"}, "optimiser=sgd"),
        ({"keep": "first"}, "keep=first"),
        ({"chains": 0}, "chains=0"),
        ({"sweeps": 0}, "sweeps=0"),
        ({"curve": 0}, "curve=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"minutes": -1.0}, "minutes=-1.0"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Contrastive(**settings)


def test_story_without_the_hook_is_refused_in_a_line() -> None:
    line, _ = conjugate.line()
    reason = Contrastive().refuses(line.story, line.structure)
    assert reason is not None
    assert "no gradient of its own" in reason
    assert "\n" not in reason


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("contrastive", "sgld")])
def test_methods_that_need_the_density_refuse(name: str) -> None:
    target = dreaming()
    reason = load_method(name)().refuses(target.story, target.structure) or ""
    assert "contrastive" in reason
    assert (
        "no M-step is closed" if name == "em" else "more states than anyone can count"
    ) in reason
    known = dreaming(hidden=False)
    if name not in ("em", "gibbs"):  # which ask for more than a density
        assert load_method(name)().refuses(known.story, known.structure) is None


def test_refused_where_the_story_gives_no_gradient_either() -> None:
    target = make_target(ising.Spins(), ising.spins())
    for name in METHODS:
        reason = load_method(name)().refuses(target.story, target.structure) or ""
        assert "stochastic_gradient" in reason
