"""The benchmark of NUTS: our side tells the row's density, and figures are what they are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.mcmc import Answer, Row, shortfalls, summary
from benchmarks.mcmc_peers.environment import ROOT
from benchmarks.mcmc_peers.problems import PROBLEMS, Problem
from benchmarks.mcmc_peers.quality import Quality, distance, pooled, quality, relabelled
from benchmarks.mcmc_peers.stories import TELLINGS
from benchmarks.mcmc_peers.with_pyro import build as build_pyro
from benchmarks.mcmc_peers.worker import Task, Values, cpu_seconds, load, store
from storyzoo.inference.engine.target import make_target

POINTS = 3


def drawn(problem: Problem) -> tuple[Values, list[Values]]:
    """A row's data, and points of high density."""
    data = problem.data()
    return data, [problem.point(data, np.random.default_rng(seed)) for seed in range(POINTS)]


# -- the same posterior on every side --------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
def test_our_story_has_the_density_written_by_hand(name: str, mirror: Path) -> None:
    problem, telling = PROBLEMS[name], TELLINGS[name]
    data, points = drawn(problem)
    target = make_target(telling.story(data), {key: data[key] for key in telling.arguments})
    density = target.density(jacobian=False)
    apart = []
    for point in points:
        sites = {n: torch.as_tensor(v) for n, v in telling.to_sites(point).items()}
        with target.context():
            told = float(density.parts(density.flatten(sites)).total())
        apart.append(told - problem.log_density(point, data))
    assert np.ptp(apart) < 1e-8 * (1 + abs(problem.log_density(points[0], data)))


@pytest.mark.parametrize("name", ["eight_schools", "gmm", "hmm"])
def test_pyro_has_the_density_written_by_hand(name: str, mirror: Path) -> None:
    problem = PROBLEMS[name]
    data, points = drawn(problem)
    side = build_pyro(Task(name, data, cores=1, chains=1, draws=1, warmup=1))
    apart = [side.log_density(point) - problem.log_density(point, data) for point in points]
    assert np.ptp(apart) < 1e-8 * (1 + abs(problem.log_density(points[0], data)))


@pytest.mark.parametrize("name", PROBLEMS)
def test_parameters_follow_from_sites_and_back(name: str, mirror: Path) -> None:
    problem, telling = PROBLEMS[name], TELLINGS[name]
    _, points = drawn(problem)
    found = telling.to_parameters(dict(telling.to_sites(dict(points[0]))))
    for parameter, shape in problem.shapes.items():
        assert found[parameter].shape == shape
        np.testing.assert_allclose(found[parameter], points[0][parameter])


@pytest.mark.parametrize("name", [n for n, p in PROBLEMS.items() if p.reference is not None])
def test_the_reference_holds_every_parameter(name: str, mirror: Path) -> None:
    problem = PROBLEMS[name]
    assert problem.reference is not None
    known = quality(problem.reference(), problem.shapes)
    assert known.ess > 5000 and known.r_hat < 1.01
    assert np.isfinite(known.mean).all()


def test_data_are_the_same_each_time() -> None:
    for name in ("logistic", "gmm", "lda", "linear"):
        first, second = PROBLEMS[name].data(), PROBLEMS[name].data()
        assert all((first[key] == second[key]).all() for key in first)


# -- quality -----------------------------------------------------------------------------------


def independent(seed: int, shift: float = 0.0) -> Values:
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(shift, 1, (4, 1000)), "b": rng.normal(size=(4, 1000, 2))}


SHAPES: dict[str, tuple[int, ...]] = {"a": (), "b": (2,)}


def test_independent_draws_are_worth_their_number() -> None:
    found = quality(independent(0), SHAPES)
    assert 3200 < found.ess < 4800
    assert found.r_hat < 1.005
    np.testing.assert_allclose(found.error, 1 / np.sqrt(4000), rtol=0.1)


def test_the_least_ess_counts() -> None:
    draws = independent(0)
    draws["b"][..., 1] = np.repeat(draws["b"][:, :100, 1], 10, axis=1)
    assert quality(draws, SHAPES).ess < 700


def test_distance_is_in_joint_standard_errors() -> None:
    shifted = distance(quality(independent(0, shift=0.5), SHAPES), quality(independent(1), SHAPES))
    assert 0.4 * np.sqrt(2000) < shifted < 0.6 * np.sqrt(2000)
    assert distance(quality(independent(0), SHAPES), quality(independent(1), SHAPES)) < 4


def test_pooling_halves_the_variance_of_a_mean() -> None:
    runs = [quality(independent(seed), SHAPES) for seed in range(4)]
    np.testing.assert_allclose(pooled(runs).error, runs[0].error / 2, rtol=0.1)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(AssertionError, match="b"):
        quality({"a": np.zeros((4, 10)), "b": np.zeros((4, 10, 3))}, SHAPES)


def test_chains_are_relabelled_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    loc, weight = np.array([[0.0, 1], [5, 6], [9, 9]]), np.array([0.2, 0.3, 0.5])
    draws = {
        "loc": loc + rng.normal(0, 0.1, (2, 50, 3, 2)),
        "weight": weight + rng.normal(0, 0.01, (2, 50, 3)),
    }
    order = [2, 0, 1]
    mixed = {name: values.copy() for name, values in draws.items()}
    for name in mixed:
        mixed[name][1] = mixed[name][1].take(order, axis=1)
    found = relabelled(mixed, {"loc": 0, "weight": 0}, {"loc": loc, "weight": weight})
    for name in draws:
        np.testing.assert_array_equal(found[name], draws[name])


# -- promises ------------------------------------------------------------------------------------


def row(name: str, ours: float, peer: float) -> Row:
    """A row on which both sides drew ESS in one second each."""

    def answer(side: str, ess: float) -> Answer:
        mean = np.zeros(1)
        run = {"wall": 1.0, "cpu": 1.0, "divergences": 0, "gradients": 10, "own_seconds": None}
        return Answer(side, {"versions": []}, [run], [Quality(ess, 1.0, mean, mean + 1)])

    answers = {"storyzoo": answer("storyzoo", ours), "pymc": answer("pymc", peer)}
    return Row(PROBLEMS[name], 1, answers, "nothing")


def test_a_row_behind_is_a_promise_missed() -> None:
    assert shortfalls([row("gmm", 300.0, 200.0)]) == []
    [missed] = shortfalls([row("gmm", 100.0, 200.0)])
    assert "gmm" in missed and "0.50" in missed


def test_four_rows_are_promised_well_ahead() -> None:
    rows = [row(name, 140.0, 100.0) for name in PROBLEMS]
    assert any("0 rows" in missed for missed in shortfalls(rows))
    assert "1.40" in summary(rows)


def test_a_side_that_gave_nothing_is_no_best_peer() -> None:
    found = row("gmm", 300.0, 200.0)
    found.answers["stan"] = Answer("stan", failure="not available: no compiler")
    best = found.best_peer("wall")
    assert best is not None and best.side == "pymc"


# -- the process ---------------------------------------------------------------------------------


def test_our_side_answers_jobs(tmp_path: Path, mirror: Path) -> None:
    problem = PROBLEMS["gmm"]
    data, points = drawn(problem)
    store(tmp_path / "data.npz", data)
    store(tmp_path / "start.npz", points[0])
    store(tmp_path / "points.npz", {n: np.stack([p[n] for p in points]) for n in points[0]})
    settings = {
        "row": "gmm",
        "data": str(tmp_path / "data.npz"),
        "start": str(tmp_path / "start.npz"),
        "cores": 1,
        "chains": 2,
        "draws": 20,
        "warmup": 30,
    }
    jobs = [
        settings,
        {"do": "build"},
        {"do": "check", "points": str(tmp_path / "points.npz")},
        {"do": "sample", "seed": 1, "out": str(tmp_path / "draws.npz")},
        {"do": "sample", "seed": 1, "out": "/nowhere/draws.npz"},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mcmc_peers.with_storyzoo"],
        input="\n".join(json.dumps(job) for job in jobs),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    built, checked, sampled, failed = map(json.loads, done.stdout.splitlines())
    assert built["start"] == "one given point"
    wanted = [problem.log_density(point, data) for point in points]
    assert np.ptp(np.array(checked["log_density"]) - wanted) < 1e-8
    assert sampled["wall"] > 0 and sampled["gradients"] > 100
    assert load(tmp_path / "draws.npz")["loc"].shape == (2, 20, 3, 2)
    assert "nowhere" in failed["error"]


WORK = "print(sum(range(5_000_000)), flush=True)"


def test_cpu_time_counts_children_that_have_ended() -> None:
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", WORK], check=True, capture_output=True)
    assert cpu_seconds() - before > 0.02


def test_cpu_time_counts_children_that_live() -> None:
    before = cpu_seconds()
    script = f"{WORK}; input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds() - before > 0.02
        child.communicate("\n")
