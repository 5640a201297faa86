"""NUTS: exact on what is known, the same whatever the cores, whole after every kind of ending."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
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
from storyzoo.inference.engine import samplers
from storyzoo.inference.engine.chains import ChainError, can_fork
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.lowering.compiler import find_compiler
from storyzoo.inference.engine.method import Outcome
from storyzoo.inference.engine.nutpie_nuts import UnavailableError
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.rows import STATISTICS, most_draws
from storyzoo.inference.engine.statistics import array_stats
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.nuts import NUTS, NutsInfo
from storyzoo.models.distributions.flat import Flat
from storyzoo.models.eight_schools import EightSchools
from storyzoo.story import Story
from tests.inference.interrupting import Interrupting
from tests.inference.unsampled import Coin, Counted

forks = pytest.mark.skipif(not can_fork("cpu"), reason="chains fork on Linux only")

SCHOOLS = {
    "effect": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "stderr": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
}
COVARIANCE = np.array([[4.0, 1.9, 0.0], [1.9, 1.0, 0.1], [0.0, 0.1, 0.25]])
QUIET = Progress(quiet=True)


@dataclass(frozen=True)
class Correlated(Story):
    """A normal vector seen once through unit noise: its posterior is known."""

    data_dims = {"y": ("feature",)}
    event_dims = {"x": ("feature",), "y": ("feature",)}

    def model(self, y: Tensor) -> None:
        covariance = torch.as_tensor(COVARIANCE)
        x = pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), covariance))
        pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)


@dataclass(frozen=True)
class Branching(Correlated):
    """The same, with a branch on a value: it can't be traced."""

    def model(self, y: Tensor) -> None:
        covariance = torch.as_tensor(COVARIANCE)
        x = pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), covariance))
        scale = 1.0 if x[0] > -100 else 2.0
        pyro.sample("y", dist.Normal(x, scale).to_event(1), obs=y)


@dataclass(frozen=True)
class Square(Story):
    """Only the square of x is seen: modes at plus and minus."""

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 3.0))
        pyro.sample("y", dist.Normal(x.square(), 0.1), obs=y)


@dataclass(frozen=True)
class Detached(Story):
    """A gradient that is not that of the density."""

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x.detach().exp(), 0.1), obs=y)


@cache
def target_of(story: Story) -> Target:
    if isinstance(story, EightSchools):
        return make_target(story, SCHOOLS)
    return make_target(
        story, {"y": np.array([1, -2, 0.5] if isinstance(story, Correlated) else 2.0)}
    )


def sample(story: Story, **options: Any) -> Outcome:
    """A short run: settings of NUTS, and what its ``run`` takes."""
    run: dict[str, Any] = {"seed": 0, "progress": QUIET, "checkpoint": None}
    run.update({name: options.pop(name) for name in run if name in options})
    method = NUTS(**{"chains": 2, "draws": 100, "warmup": 150, **options})
    return method.run(target_of(story), **run)


@cache
def schools() -> Outcome:
    """One run that several tests look at."""
    return sample(EightSchools(), chains=4, draws=300, warmup=300)


def stats_of(tree: DataTree) -> dict[str, np.ndarray]:
    return {str(k): np.asarray(v) for k, v in tree["sample_stats"].to_dataset().items()}


def draws_of(tree: DataTree, name: str) -> np.ndarray:
    return np.asarray(tree["posterior"][name])


def z_scores(draws: np.ndarray, known: np.ndarray, known_se: Any = 0.0) -> np.ndarray:
    """How many Monte Carlo standard errors the means of (chain, draw, k) lie off."""
    columns = draws.reshape(*draws.shape[:2], -1)
    ess = array_stats.ess(np.moveaxis(columns, 2, 0), chain_axis=1, draw_axis=2, method="mean")
    se = columns.std((0, 1)) / np.sqrt(ess)
    gap = columns.mean((0, 1)) - np.reshape(known, -1)
    return np.asarray(np.abs(gap) / np.sqrt(se**2 + np.reshape(known_se, -1) ** 2))


def same(a: DataTree, b: DataTree) -> bool:
    groups = ("posterior", "sample_stats", "warmup_sample_stats")
    return all(a[g].to_dataset().identical(b[g].to_dataset()) for g in groups)


# -- the draws ---------------------------------------------------------------------------------


def is_the_known_posterior(draws: np.ndarray) -> bool:
    """Whether mean and covariance of draws of ``Correlated`` are those by hand."""
    precision = np.linalg.inv(COVARIANCE) + np.eye(3)
    mean = np.linalg.solve(precision, [1.0, -2, 0.5])
    off = draws - mean
    products = off[..., :, None] * off[..., None, :]
    of_mean, of_covariance = z_scores(draws, mean), z_scores(products, np.linalg.inv(precision))
    return bool(of_mean.max() < 4 and of_covariance.max() < 4)


def test_moments_of_a_correlated_normal() -> None:
    assert is_the_known_posterior(draws_of(sample(Correlated(), draws=500, warmup=200).tree, "x"))


def test_moments_without_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogDensity, "native", lambda self: None)
    tree, info = sample(Correlated(), draws=500, warmup=200)
    assert is_the_known_posterior(draws_of(tree, "x"))
    assert info.engine.startswith("nutpie's NUTS, density by ")


def test_moments_without_a_trace() -> None:
    tree, info = sample(Branching(), draws=120, warmup=60)
    assert is_the_known_posterior(draws_of(tree, "x"))
    assert isinstance(info, NutsInfo)
    assert (info.rung, info.engine.split(",")[0]) == ("eager", "Pyro's NUTS")
    assert (np.ptp(stats_of(tree)["step_size"], axis=1) == 0).all()


def test_moments_without_nutpie(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise UnavailableError("nutpie is not installed")

    monkeypatch.setattr(samplers, "machinery", gone)
    monkeypatch.setattr(samplers, "public", gone)
    tree, info = sample(Correlated(), draws=400, warmup=100)
    assert is_the_known_posterior(draws_of(tree, "x"))
    assert info.engine.startswith("Pyro's NUTS")
    assert "nutpie is not installed" in info.notes[-1]


def test_a_mass_matrix_of_low_rank_saves_gradients() -> None:
    spent = {}
    for kind in ("diagonal", "lowrank"):
        tree = sample(Correlated(), draws=500, warmup=400, mass_matrix=kind).tree
        assert is_the_known_posterior(draws_of(tree, "x"))
        spent[kind] = stats_of(tree)["n_steps"].sum()
    assert spent["lowrank"] < 0.9 * spent["diagonal"]


def test_eight_schools_agree_with_reference_draws(mirror: Path) -> None:
    name = "eight_schools-eight_schools_noncentered.json"
    path = mirror / "posteriordb/reference_posteriors/draws/draws" / f"{name}.zip"
    if not path.is_file():
        pytest.skip("needs posteriordb's reference draws in STORYZOO_MIRROR")
    with zipfile.ZipFile(path) as packed:
        chains = json.loads(packed.read(name))
    names = ["mu", "tau", *(f"theta[{j}]" for j in range(1, 9))]
    reference = np.array([[chain[n] for n in names] for chain in chains]).transpose(0, 2, 1)
    tree = schools().tree
    mu, tau = draws_of(tree, "mu")[..., None], draws_of(tree, "tau")[..., None]
    ours = np.concatenate([mu, tau, mu + tau * draws_of(tree, "theta_raw")], -1)
    error = reference.std((0, 1)) / np.sqrt(reference.shape[0] * reference.shape[1])
    assert z_scores(ours, reference.mean((0, 1)), error).max() < 4
    assert schools().info.gradient_evaluations > 0


def test_the_centred_funnel_diverges() -> None:
    quick = {"chains": 4, "draws": 150, "warmup": 100, "max_tree_depth": 6, "target_accept": 0.7}
    tree, info = sample(EightSchools(centred=True), **quick)
    assert isinstance(info, NutsInfo)
    assert info.divergences == stats_of(tree)["diverging"].sum() > 0


def test_the_engine_is_told() -> None:
    info = schools().info
    assert isinstance(info, NutsInfo)
    if find_compiler() is None:
        assert info.rung == "torchscript"
        assert info.notes
    else:
        assert (info.rung, info.notes) == ("c", ())
        assert info.engine.startswith("nutpie's NUTS, density by machine code")


# -- what is told of each draw -----------------------------------------------------------------


def test_statistics_are_all_there_and_sane() -> None:
    tree, info = schools()
    stats = stats_of(tree)
    assert set(stats) == set(STATISTICS)
    assert all(np.isfinite(values).all() for values in stats.values())
    assert all(values.shape == (4, 300) for values in stats.values())
    depth, steps = stats["tree_depth"], stats["n_steps"]
    assert (2.0**depth - 1 <= steps).all()
    assert (steps < 2.0 ** (depth + 1)).all()
    assert ((stats["acceptance_rate"] >= 0) & (stats["acceptance_rate"] <= 1)).all()
    assert abs(stats["acceptance_rate"].mean() - 0.9) < 0.08
    assert not stats["reached_max_treedepth"].any()
    # nutpie takes steps of up to a tenth more or less than its warm-up ended with.
    assert isinstance(info, NutsInfo)
    middle = np.array(info.step_sizes)
    assert (np.abs(stats["step_size"] - middle[:, None]) < 0.11 * middle[:, None]).all()


def test_energy_is_potential_plus_kinetic() -> None:
    stats = stats_of(schools().tree)
    kinetic = stats["energy"] + stats["lp"]
    assert (kinetic >= 0).all()
    # Points are taken from the joint of q and r, so each momentum counts 1/2 on average.
    assert z_scores(kinetic[..., None], np.array([10 / 2])).max() < 4


def test_lp_is_the_density_at_the_draw() -> None:
    tree, density = schools().tree, target_of(EightSchools()).density()
    names = ("mu", "tau", "theta_raw")
    latents = {n: torch.as_tensor(draws_of(tree, n)[0]) for n in names}
    again = density.batch(density.flatten(latents))
    assert np.allclose(again.numpy(), stats_of(tree)["lp"][0], atol=1e-8)


def test_gradient_evaluations_are_counted() -> None:
    tree, info = schools()
    steps = sum(int(tree[g]["n_steps"].sum()) for g in ("sample_stats", "warmup_sample_stats"))
    # Beyond the trajectories: the starts, and the searches for a step size in each window.
    assert steps < info.gradient_evaluations < steps + 1000


def test_warmup_is_kept_apart() -> None:
    tree, info = schools()
    assert tree["warmup_sample_stats"].sizes == {"chain": 4, "draw": 300}
    assert tree["posterior"].sizes["draw"] == 300
    assert isinstance(info, NutsInfo)
    assert (info.chains, info.warmup, info.one_mode, info.stopped) == (4, 300, False, "done")
    assert np.ptp(np.asarray(tree["warmup_sample_stats"]["step_size"])) > 0


def test_depth_is_bounded() -> None:
    stats = stats_of(sample(EightSchools(), draws=20, warmup=20, max_tree_depth=2).tree)
    assert stats["tree_depth"].max() == 2
    assert stats["reached_max_treedepth"].any()
    # A tree that turns just as it reaches the bound was not cut by it.
    assert (stats["tree_depth"][stats["reached_max_treedepth"]] == 2).all()
    assert stats["n_steps"].max() == 3


# -- seeds, cores, starts ----------------------------------------------------------------------


@forks
def test_same_seed_same_draws_whatever_the_cores() -> None:
    short = {"draws": 30, "warmup": 40, "chains": 3}
    one, two = (sample(EightSchools(), cores=cores, **short) for cores in (1, 2))
    assert same(one.tree, two.tree)
    apart = {"compile_seconds", "cores"}
    told = [{k: v for k, v in run.info.as_dict().items() if k not in apart} for run in (one, two)]
    assert told[0] == told[1]
    other = sample(EightSchools(), seed=1, **short)
    assert not same(one.tree, other.tree)
    mu = draws_of(one.tree, "mu")
    assert len({tuple(chain) for chain in mu}) == 3


def test_the_same_draws_without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"draws": 10, "warmup": 15}
    forked = sample(Branching(), **short)
    monkeypatch.setattr(samplers, "can_fork", lambda device: False)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert same(sample(Branching(), **short).tree, forked.tree)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("start", ["prior", "uniform"])
def test_chains_start_apart(start: str) -> None:
    info = sample(Square(), chains=6, draws=20, warmup=40, start=start)[1]
    assert isinstance(info, NutsInfo)
    assert not info.one_mode
    assert info.start.startswith("each chain from its own")


def test_chains_start_where_pathfinder_draws() -> None:
    tree, info = sample(Correlated(), chains=3, draws=20, warmup=40, start="pathfinder")
    assert isinstance(info, NutsInfo)
    assert not info.one_mode
    assert "Pathfinder" in info.start
    assert len({tuple(chain) for chain in draws_of(tree, "x")[:, 0]}) == 3


def test_starts_at_one_mode_say_so() -> None:
    pytest.importorskip("storyzoo.inference.map")
    info = sample(Correlated(), draws=20, warmup=40, start="map")[1]
    assert isinstance(info, NutsInfo)
    assert info.one_mode
    assert "all chains beside one mode, found by map" in info.start


def test_starts_at_several_modes_are_told_from_one() -> None:
    pytest.importorskip("storyzoo.inference.map")
    tree, info = sample(Square(), chains=6, draws=50, warmup=50, start="map")
    signs = np.sign(draws_of(tree, "x").mean(1))
    assert isinstance(info, NutsInfo)
    assert info.one_mode == (len(set(signs)) == 1)


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "story, reason", [(Counted(), "'n' has infinitely many values"), (Coin(), "use em")]
)
def test_refuses_with_the_reason(story: Story, reason: str) -> None:
    refusal = NUTS().refuses(story, target_of(story).structure)
    assert refusal is not None
    assert reason in refusal


def test_refuses_a_density_that_does_not_follow_its_gradient() -> None:
    with pytest.raises(RefusedError, match="does not follow its gradient"):
        sample(Detached())


def test_refuses_a_mass_matrix_that_only_nutpie_has() -> None:
    with pytest.raises(RefusedError, match=r"mass_matrix=lowrank can't be had .*diagonal$"):
        sample(Branching(), mass_matrix="lowrank")


def test_refuses_a_start_that_can_not_be_had() -> None:
    with pytest.raises(RefusedError, match="start=em can't be had"):
        sample(EightSchools(), start="em")


@pytest.mark.parametrize(
    "settings",
    [
        {"chains": 0},
        {"draws": 0},
        {"warmup": 0},
        {"max_tree_depth": 0},
        {"target_accept": 1.0},
        {"start": "mode"},
        {"mass_matrix": "dense"},
        {"minutes": 0.0},
        {"cores": 0},
    ],
)
def test_impossible_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        NUTS(**settings)


# -- improper posteriors -----------------------------------------------------------------------


@dataclass(frozen=True)
class Untouched(Story):
    """A flat prior that no data speak against."""

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("free", Flat(constraints.real))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


@dataclass(frozen=True)
class Separated(Story):
    """A logistic regression with flat priors; the data can be separated, so no slope is too big."""

    data_dims = {"x": ("row",), "y": ("row",)}
    examples = "row"

    def model(self, x: Tensor, y: Tensor) -> None:
        level = pyro.sample("level", Flat(constraints.real))
        slope = pyro.sample("slope", Flat(constraints.real))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=level + slope * x), obs=y)


@dataclass(frozen=True)
class FlatLogarithm(Story):
    """A scale whose logarithm is flat: as it goes to zero the data no longer tell."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Tensor) -> None:
        log_scale = pyro.sample("log_scale", Flat(constraints.real))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(log_scale.exp() * z, 3.0), obs=y)


@dataclass(frozen=True)
class HeavyTails(Story):
    """Proper, though most of ``wide`` lies beyond 1e8 and half of ``rare`` below e^-200."""

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        pyro.sample("wide", dist.Cauchy(0.0, 1e9))
        pyro.sample("scale", dist.HalfCauchy(1e9))
        pyro.sample("rare", dist.Gamma(0.003, 0.003))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


@dataclass(frozen=True)
class LargeUnits(Story):
    """Proper: the data themselves lie beyond 1e9."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Tensor) -> None:
        loc = pyro.sample("loc", Flat(constraints.real))
        scale = pyro.sample("scale", dist.HalfCauchy(1e9))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, scale), obs=y)


ROWS = np.linspace(-1, 1, 20)


@pytest.mark.parametrize(
    "story, data, site",
    [
        (Untouched(), {"y": np.array(0.5)}, "free"),
        (Separated(), {"x": ROWS, "y": (ROWS > 0.1).astype(float)}, "(slope|level)"),
        (FlatLogarithm(), {"y": ROWS}, "log_scale"),
    ],
    ids=["untouched", "separated", "flat-logarithm"],
)
def test_an_improper_posterior_is_said_so(
    story: Story, data: Any, site: str, tmp_path: Path
) -> None:
    method = NUTS(chains=2, draws=300, warmup=500, max_tree_depth=7)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    with pytest.raises(RefusedError, match=rf"^nuts can't fit \S+: '{site}' .*improper.*prior"):
        method.run(make_target(story, data), seed=0, progress=QUIET, checkpoint=checkpoint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "story, data",
    [(HeavyTails(), {"y": np.array(0.0)}), (LargeUnits(), {"y": 2e9 + 1e8 * ROWS})],
    ids=["heavy-tails", "large-units"],
)
def test_a_proper_posterior_far_out_is_no_false_alarm(story: Story, data: Any) -> None:
    method = NUTS(chains=2, draws=500, warmup=500)
    info = method.run(make_target(story, data), seed=0, progress=QUIET).info
    assert info.stopped == "done"


def test_draws_cut_short_of_an_improper_posterior_are_refused() -> None:
    method = NUTS(chains=1, draws=10**6, warmup=100, max_tree_depth=7, minutes=0.02)
    with pytest.raises(RefusedError, match="'free' .*improper"):
        method.run(make_target(Untouched(), {"y": np.array(0.5)}), seed=0, progress=QUIET)


# -- cut short ---------------------------------------------------------------------------------


def test_what_is_kept_of_chains_of_unequal_length() -> None:
    assert most_draws({0: 10, 1: 10, 2: 10}) == ([0, 1, 2], 10)
    assert most_draws({0: 10, 1: 9, 2: 2}) == ([0, 1], 9)
    assert most_draws({0: 1000, 1: 3}) == ([0], 1000)
    assert most_draws({0: 0, 1: 0}) == ([0, 1], 0)


def test_minutes_cut_chains_to_equal_length() -> None:
    tree, info = sample(Correlated(), draws=10**6, warmup=20, minutes=0.04)
    assert info.stopped == "minutes"
    assert 0 < tree["posterior"].sizes["draw"] < 10**6
    assert "of 1000000 draws per chain were made" in info.notes[-1]


def test_minutes_spent_in_warmup() -> None:
    with pytest.raises(SettingError, match="spent in warm-up"):
        sample(EightSchools(), warmup=10**6, minutes=0.01)


def test_ctrl_c_in_warmup_leaves_nothing() -> None:
    with pytest.raises(KeyboardInterrupt):
        sample(EightSchools(), warmup=10**6, progress=Interrupting(after=20))


@forks
def test_ctrl_c_keeps_the_draws(tmp_path: Path) -> None:
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from multiprocessing import active_children
import test_nuts
from storyzoo.inference.engine.nutpie_nuts import UnavailableError
from storyzoo.inference.engine.progress import Progress

class Telling(Progress):
    seen = 0
    def update(self, n=1, **postfix):
        before, self.seen = self.seen, self.seen + n
        if before < 200 <= self.seen:
            print("drawing", flush=True)

tree, info = test_nuts.sample(
    test_nuts.EightSchools(), draws=10**6, warmup=20, progress=Telling(quiet=True)
)
sizes = dict(tree["posterior"].sizes)
print(json.dumps([info.stopped, sizes["chain"], sizes["draw"], len(active_children())]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "drawing\n"
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C goes to parent and children
    stopped, chains, draws, left = json.loads(process.communicate(timeout=60)[0])
    assert (process.returncode, stopped, left) == (0, "interrupted", 0)
    assert chains >= 1
    assert draws > 10


@forks
def test_a_killed_chain_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*position: Any, **settings: Any) -> Iterator[np.ndarray]:
        yield np.zeros(20)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(samplers, "walk", die)
    with pytest.raises(ChainError, match=r"^nuts: chain 0: its process was killed by SIGKILL.*$"):
        sample(Branching())


# -- resume ------------------------------------------------------------------------------------


def test_resumed_is_bit_identical_and_spends_less(tmp_path: Path) -> None:
    settings = {"chains": 3, "draws": 100, "warmup": 50, "cores": 1}
    whole, whole_info = sample(EightSchools(), **settings)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    stop = Interrupting(after=250)
    cut, cut_info = sample(EightSchools(), progress=stop, checkpoint=checkpoint, **settings)
    assert cut_info.stopped == "interrupted"
    assert cut["posterior"].sizes["draw"] <= 100
    assert checkpoint.child("chain0").path.exists()
    tree, info = sample(EightSchools(), checkpoint=checkpoint, **settings)
    assert same(tree, whole)
    assert isinstance(info, NutsInfo)
    assert 0 < info.resumed_evaluations < info.gradient_evaluations
    assert info.gradient_evaluations == whole_info.gradient_evaluations
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [{"seed": 1}, {"draws": 90}, {"target_accept": 0.8}])
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    with suppress(KeyboardInterrupt):
        sample(EightSchools(), progress=Interrupting(after=1), checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="belongs to a run with another story, data, seed"):
        sample(EightSchools(), checkpoint=checkpoint, **other)


def test_a_run_may_be_resumed_on_other_cores(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    short = {"draws": 20, "warmup": 20, "checkpoint": checkpoint}
    with suppress(KeyboardInterrupt):
        sample(EightSchools(), progress=Interrupting(after=1), cores=1, **short)
    assert sample(EightSchools(), cores=2, minutes=10.0, **short).info.stopped == "done"
