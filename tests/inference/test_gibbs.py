"""Gibbs sampling: a known posterior, the same bits for a seed, whole after every kind of ending."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from ctypes import CDLL, c_double
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
from xarray import DataTree

from storyzoo.errors import RunFolderError, SettingError
from storyzoo.inference.engine import resume
from storyzoo.inference.engine.chains import ChainError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.lowering.compiler import CHOICE, find_compiler
from storyzoo.inference.engine.method import Outcome
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.statistics import array_stats
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.gibbs import Gibbs, GibbsInfo
from storyzoo.models.lda import LatentDirichletAllocation
from storyzoo.reports.verdict import judge
from storyzoo.story import Data, Story
from tests.inference.interrupting import Interrupting

QUIET = Progress(quiet=True)
NOISE, SEEN = 0.5, 2.0


class Turns:
    """Given the other one, each of two normals is normal: precision 1 + NOISE**-2."""

    def __init__(self, seen: float, rng: np.random.Generator, scale: float) -> None:
        self.seen, self.scale, self.at = seen, scale, rng.normal(size=2) * 3

    def sweep(self, rng: np.random.Generator) -> None:
        precision = 1 + NOISE**-2
        for this, other in ((0, 1), (1, 0)):
            mean = (self.seen - self.at[other]) / NOISE**2 / precision
            self.at[this] = mean + self.scale * rng.normal() / np.sqrt(precision)

    def draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        return {"x": torch.from_numpy(self.at.copy())}

    def log_joint(self) -> float:
        residual = (self.seen - self.at.sum()) / NOISE
        squares = np.sum(self.at**2) + residual**2
        return float(-0.5 * squares - 1.5 * np.log(2 * np.pi) - np.log(NOISE))

    def state(self) -> dict[str, np.ndarray]:
        return {"at": self.at.copy()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.at = state["at"].copy()


@dataclass(frozen=True)
class TwoAddends(Story):
    """Two standard normals of which the sum was seen through noise."""

    data_dims = {"y": ()}
    event_dims = {"x": ("addend",)}

    def model(self, y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), NOISE), obs=y)

    def sweeps(self, data: Data, rng: np.random.Generator, code: CDLL | None) -> Turns:
        assert torch.get_default_dtype() is torch.float64
        scale = 1.0 if code is None else c_double.in_dll(code, "scale").value
        return Turns(float(data["y"]), rng, scale)


@dataclass(frozen=True)
class InMachineCode(TwoAddends):
    """The same with C of its own."""

    sweeps_source = "double scale = 1.0;"


@dataclass(frozen=True)
class NotInC(TwoAddends):
    """What no compiler takes."""

    sweeps_source = "double scale = ;"


class Broken(Turns):
    """Fails on the way."""

    def sweep(self, rng: np.random.Generator) -> None:
        if abs(self.at[0] - self.at[1]) > 3:
            raise ValueError("too far\napart")
        super().sweep(rng)


@dataclass(frozen=True)
class Breaking(TwoAddends):
    """Some chains break off."""

    def sweeps(self, data: Data, rng: np.random.Generator, code: CDLL | None) -> Broken:
        return Broken(float(data["y"]), rng, 1.0)


@dataclass(frozen=True)
class WithoutSweeps(Story):
    """The same, but for NUTS alone."""

    data_dims = {"y": ()}
    model = TwoAddends.model


@cache
def target_of(story: Story) -> Target:
    return make_target(story, {"y": np.asarray(SEEN)})


def sample(story: Story | None = None, **options: Any) -> Outcome:
    """A short run: settings of Gibbs, and what its ``run`` takes."""
    run: dict[str, Any] = {"seed": 0, "progress": QUIET, "checkpoint": None}
    run.update({name: options.pop(name) for name in run if name in options})
    settings = {"draws": 200, "warmup": 50, "thin": 2, **options}
    return Gibbs(**settings).run(target_of(story or TwoAddends()), **run)


def same(a: DataTree, b: DataTree) -> bool:
    return all(
        a[group].to_dataset().identical(b[group].to_dataset())
        for group in ("posterior", "sample_stats")
    )


# -- what is drawn -------------------------------------------------------------------------------


def draws_of(tree: DataTree, name: str) -> np.ndarray:
    """(chain, draw, …) of a site."""
    return np.asarray(tree["posterior"].to_dataset()[name])


def test_draws_are_of_the_known_posterior() -> None:
    tree, _ = sample(draws=2000)
    x = draws_of(tree, "x")
    precision = np.eye(2) + np.ones((2, 2)) / NOISE**2
    mean = np.linalg.solve(precision, np.full(2, SEEN / NOISE**2))
    off = x - mean
    products = (off[..., :, None] * off[..., None, :]).reshape(*x.shape[:2], 4)
    for values, known in ((off, np.zeros(2)), (products, np.linalg.inv(precision).ravel())):
        ess = array_stats.ess(np.moveaxis(values, 2, 0), method="mean")
        z = (values.mean((0, 1)) - known) / values.std((0, 1)) * np.sqrt(ess)
        assert np.abs(z).max() < 4


def test_lp_is_the_log_joint_where_the_chain_is() -> None:
    tree, _ = sample(draws=5)
    density = target_of(TwoAddends()).density(jacobian=False)
    for chain in range(4):
        draw = {"x": torch.as_tensor(draws_of(tree, "x")[chain, 3])}
        known = float(density(density.flatten(draw)))
        lp = tree["sample_stats"].to_dataset()["lp"]
        assert float(lp[chain, 3]) == pytest.approx(known)


def test_thinning_keeps_the_last_of_every_few_sweeps() -> None:
    every, _ = sample(draws=60, thin=1)
    third, info = sample(draws=20, thin=3)
    assert np.array_equal(draws_of(third, "x"), draws_of(every, "x")[:, 2::3])
    assert isinstance(info, GibbsInfo)
    assert (info.thin, info.warmup, info.gradient_evaluations) == (3, 50, 4 * (50 + 60))


def test_a_sound_run_is_trusted() -> None:
    tree, info = sample(draws=1000, thin=5)
    verdict = judge(tree, info, kind="draws", story=TwoAddends())
    assert verdict.verdict == "trust", verdict.headline


# -- machine code --------------------------------------------------------------------------------


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_the_storys_c_is_compiled() -> None:
    tree, info = sample(InMachineCode())
    assert info.engine == "the story's Gibbs sweeps, in machine code"
    assert same(tree, sample().tree)


def test_without_a_compiler_the_sweeps_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "none")
    tree, info = sample(InMachineCode())
    assert info.engine == "the story's Gibbs sweeps"
    assert info.notes == (
        "sweeps run without machine code, many times slower: "
        "STORYZOO_CC=none turns the C compiler off",
    )
    assert same(tree, sample().tree)


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_a_source_that_is_not_taken_is_told() -> None:
    assert "machine code, many times slower: " in sample(NotInC()).info.notes[0]


# -- bits ----------------------------------------------------------------------------------------


def test_same_seed_same_draws_whatever_the_cores() -> None:
    one, info = sample(cores=1)
    assert isinstance(info, GibbsInfo)
    assert info.cores == 1
    assert same(one, sample(cores=3).tree)
    assert not same(one, sample(seed=1).tree)


def test_the_same_draws_without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = sample().tree
    monkeypatch.setattr("storyzoo.inference.gibbs.can_fork", lambda device: False)
    assert same(sample().tree, beside)


# -- endings -------------------------------------------------------------------------------------


def test_ctrl_c_keeps_the_draws() -> None:
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.inference import test_gibbs

class Telling(test_gibbs.Progress):
    seen = 0
    def update(self, n=1, **postfix):
        before, self.seen = self.seen, self.seen + n
        if before < 200 <= self.seen:
            print("drawing", flush=True)

tree, info = test_gibbs.sample(draws=10**6, cores=2, chains=2, progress=Telling(quiet=True))
print(json.dumps([info.stopped, *tree["posterior"]["x"].shape, *info.notes]))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "drawing\n"
    os.kill(process.pid, signal.SIGINT)
    stopped, chains, draws, _, *notes = json.loads(process.communicate(timeout=60)[0])
    assert (process.returncode, stopped) == (0, "interrupted")
    assert chains * draws >= 100
    assert notes[-1] == f"{draws} of 1000000 draws per chain were made"


def test_ctrl_c_in_warmup_leaves_nothing() -> None:
    with pytest.raises(KeyboardInterrupt):
        sample(progress=Interrupting(after=0))


def test_minutes_end_a_run() -> None:
    tree, info = sample(draws=10**6, minutes=0.01)
    assert info.stopped == "minutes"
    assert 0 < tree["posterior"].sizes["draw"] < 10**6


@pytest.mark.parametrize("forked", [True, False])
def test_minutes_spent_in_warmup(monkeypatch: pytest.MonkeyPatch, forked: bool) -> None:
    monkeypatch.setattr("storyzoo.inference.gibbs.can_fork", lambda device: forked)
    with pytest.raises(SettingError, match="minutes=0.003 were spent before the first draw"):
        sample(warmup=10**7, minutes=0.003)


@pytest.mark.parametrize("forked", [True, False])
def test_a_chain_that_breaks_off_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, forked: bool
) -> None:
    monkeypatch.setattr("storyzoo.inference.gibbs.can_fork", lambda device: forked)
    with pytest.raises(ChainError, match=r"^gibbs: chain \d: ValueError: too far apart") as caught:
        sample(Breaking(), draws=2000)
    assert "\n" not in str(caught.value)


# -- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize("after", [1, 100])
def test_resumed_is_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked: bool, after: int
) -> None:
    whole, whole_info = sample(draws=60)
    monkeypatch.setattr("storyzoo.inference.gibbs.can_fork", lambda device: forked)
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    cut, cut_info = sample(draws=60, progress=Interrupting(after=after), checkpoint=checkpoint)
    assert cut_info.stopped == "interrupted"
    assert cut["posterior"].sizes["draw"] <= 60
    assert list(tmp_path.glob("checkpoint-chain*-0.npz"))
    monkeypatch.setattr("storyzoo.inference.gibbs.can_fork", lambda device: not forked)
    tree, info = sample(draws=60, checkpoint=checkpoint)
    assert same(tree, whole)
    assert isinstance(info, GibbsInfo)
    assert info.gradient_evaluations == whole_info.gradient_evaluations
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_from_every_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = sample(draws=40)
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    for after in (20, 60, 100, 140):
        stop = Interrupting(after=after)
        with suppress(KeyboardInterrupt):
            sample(draws=40, cores=1, progress=stop, checkpoint=checkpoint)
    tree, info = sample(draws=40, checkpoint=checkpoint)
    assert same(tree, whole)
    assert isinstance(info, GibbsInfo)
    assert info.resumed_draws > 0


@pytest.mark.parametrize("other", [{"seed": 1}, {"draws": 90}, {"thin": 3}])
def test_a_foreign_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    sample(progress=Interrupting(after=100), checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="belongs to a run with another story, data, seed"):
        sample(checkpoint=checkpoint, **other)


# -- memory --------------------------------------------------------------------------------------


def test_fewer_draws_are_kept_where_all_would_take_too_much() -> None:
    whole, _ = sample(draws=100)
    tree, info = sample(draws=100, megabytes=100 * 3 * 8 * 4 * 0.4e-6)
    assert np.array_equal(draws_of(tree, "x"), draws_of(whole, "x")[:, 2::3])
    assert info.notes[0].startswith("of 100 draws per chain 33 were kept, evenly: all would take")


def test_a_draw_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SettingError, match="gibbs: a draw of x takes .* raise it, or take fewer"):
        sample(megabytes=5e-5)


# -- what is refused -----------------------------------------------------------------------------


def test_refuses_a_story_without_sweeps() -> None:
    story = WithoutSweeps()
    refusal = Gibbs().refuses(story, target_of(TwoAddends()).structure)
    assert refusal == "it defines no sweeps; use nuts"
    assert Gibbs().refuses(TwoAddends(), target_of(TwoAddends()).structure) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "gibbs: chains=0 is impossible; it must be at least 1"),
        ({"draws": 0}, "draws=0"),
        ({"warmup": -1}, "warmup=-1 is impossible; it must be at least 0"),
        ({"thin": 0}, "thin=0"),
        ({"megabytes": 0}, "megabytes=0 is impossible; it must be above 0"),
        ({"minutes": 0}, "minutes=0"),
        ({"cores": 0}, "cores=0"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Gibbs(**settings)


# -- topics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_topics_that_made_the_words_are_found(learn_alpha: bool) -> None:
    rng = np.random.default_rng(0)
    topics = np.kron(np.eye(3), np.full(5, 0.2))  # five words each, of which no other has any
    mixture = rng.dirichlet(np.full(3, 0.3), size=60)
    counts = np.stack([rng.multinomial(50, share @ topics) for share in mixture])
    document, word = counts.nonzero()
    story = LatentDirichletAllocation(n_topics=3, alpha=0.3, eta=0.1, learn_alpha=learn_alpha)
    arrays = {
        "length": np.bincount(document),
        "word": word,
        "count": counts[document, word],
        "n_words": 15,
    }
    target = make_target(story, arrays)
    tree, _ = Gibbs(chains=2, draws=20, warmup=100).run(target, seed=0, progress=QUIET)
    for chain in range(2):
        found = draws_of(tree, "topics")[chain, -1]
        place = [int(found[:, 5 * k : 5 * k + 5].sum(1).argmax()) for k in range(3)]
        assert sorted(place) == [0, 1, 2]
        assert found[place] == pytest.approx(topics, abs=0.05)
        shares = draws_of(tree, "mixture")[chain, -1][:, place]
        assert np.abs(shares - mixture).mean() < 0.1
