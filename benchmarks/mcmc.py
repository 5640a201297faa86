"""NUTS side by side: storyzoo, NumPyro, PyMC with nutpie, Stan, Pyro.

Every side samples the same posteriors (``mcmc_peers/problems.py`` holds them; the sides' log
densities are compared before anything is timed) with 4 chains of 1000 warm-up iterations and 1000
draws, in float64. The measure is the least bulk ESS over all constrained parameters, divided by
the seconds from the compiled model to the draws in memory, warm-up included, compiling apart. ESS,
R-hat and the rest are computed by one code for all. Sides take turns within each repeat, so that a
busy machine troubles all alike; figures are medians over repeats with different seeds. A side whose
run takes more than a minute is run once; one that spends more than ten minutes of each core's time
is given up.

Each side is a process of its own with one thread per chain, kept to one core or two. The peers live
in ``benchmarks/.peers``, which is made at first use (2 GB).

    python -m benchmarks.mcmc                                  # all of it: an hour or two
    python -m benchmarks.mcmc --rows eight_schools,hmm --cores 1 --repeats 1
    python -m benchmarks.mcmc --check                          # only compare the densities

``z`` is the greatest distance of a side's means from the reference, in joint Monte Carlo standard
errors: from posteriordb's draws where it has them, else from the consensus of the other sides.

Exits with 1 where storyzoo misses what it promises: more ESS per second than any peer on every row,
half as much again as the best on at least four.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.mcmc_peers.environment import SIDES, Side, SideError, Worker, make_environment
from benchmarks.mcmc_peers.problems import PROBLEMS, Problem
from benchmarks.mcmc_peers.quality import Quality, distance, pooled, quality, relabelled
from benchmarks.mcmc_peers.worker import Values, load, store
from storyzoo.errors import StoryzooError

OURS = "storyzoo"
CHAINS, DRAWS, WARMUP = 4, 1000, 1000
LIMIT = 600.0
"""CPU seconds on each core after which a run, or compiling, is given up."""
PATIENCE = 60.0
"""Seconds of a run above which it is not repeated."""
POINTS = 4
"""At which log densities are compared."""
AGREED = 1e-8
"""How far log densities may differ beside a constant, as a share of their size."""
SOUND = 1.02
"""R-hat below which a run counts in a consensus."""
AHEAD, WELL_AHEAD, ROWS_WELL_AHEAD = 1.0, 1.5, 4


@dataclass
class Answer:
    """One side on one row."""

    side: str
    built: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    """What the side told of each run."""
    qualities: list[Quality] = field(default_factory=list)
    failure: str = ""
    z: float | None = None

    def rate(self, clock: str) -> float:
        """ESS per second by a clock, ``wall`` or ``cpu``; zero where there was no run."""
        rates = [q.ess / run[clock] for q, run in zip(self.qualities, self.runs, strict=True)]
        return median(rates) if rates else 0.0

    def told(self, name: str) -> float | None:
        """Median of what the runs told."""
        found = [run[name] for run in self.runs if run[name] is not None]
        return median(found) if found else None


@dataclass(frozen=True)
class Row:
    """All sides on one problem."""

    problem: Problem
    cores: int
    answers: dict[str, Answer]
    reference: str

    def best_peer(self, clock: str) -> Answer | None:
        """The peer of the highest rate."""
        peers = [a for name, a in self.answers.items() if name != OURS and a.runs]
        return max(peers, key=lambda answer: answer.rate(clock), default=None)

    def ratio(self, clock: str) -> float | None:
        """Ours to the best peer's; None where either is missing."""
        ours, best = self.answers.get(OURS), self.best_peer(clock)
        if ours is None or best is None:
            return None
        return ours.rate(clock) / best.rate(clock)


def main() -> int:
    """Run every row, print a table for each, and say which promises were missed."""
    options = _options()
    sides = [SIDES[name] for name in options.peers]
    try:
        if any(side.own_environment for side in sides):
            make_environment()
    except SideError as error:
        print(error)
        sides = [side for side in sides if not side.own_environment]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{os.cpu_count()} cores, load {load} at the start; {CHAINS} chains of {WARMUP} + {DRAWS}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(options.cache or folder).resolve()
        for name in options.rows:
            for cores in options.cores:
                rows.append(measure(PROBLEMS[name], sides, cores, cache, options))
                print(table(rows[-1]), flush=True)
                if options.json:
                    Path(options.json).write_text(json.dumps([_as_json(row) for row in rows]))
    if options.check:
        return int(any(answer.failure for row in rows for answer in row.answers.values()))
    print(versions(rows) + "\n\n" + summary(rows))
    missed = shortfalls(rows)
    print("\n" + ("\n".join(missed) or "every promise kept"))
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    listed: dict[str, Any] = {"type": lambda text: text.split(","), "metavar": "A,B"}
    parser.add_argument("--rows", **listed, default=list(PROBLEMS), help=", ".join(PROBLEMS))
    parser.add_argument("--peers", **listed, default=list(SIDES), help=", ".join(SIDES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", **listed, default=["1", "2"], help="1, 2 or 1,2")
    parser.add_argument("--json", metavar="OUT", help="also write every figure there")
    parser.add_argument("--cache", metavar="DIR", help="keep there what the sides compile")
    parser.add_argument("--check", action="store_true", help="only compare the log densities")
    options = parser.parse_args()
    for name, known in (("rows", PROBLEMS), ("peers", SIDES), ("cores", ["1", "2"])):
        unknown = [value for value in getattr(options, name) if value not in known]
        if unknown:
            parser.error(f"--{name}: no {unknown[0]!r}; there are {', '.join(known)}")
    options.cores = [int(cores) for cores in options.cores]
    if OURS not in options.peers:
        options.peers = [OURS, *options.peers]
    return options


# -- measuring -----------------------------------------------------------------------------------


def measure(
    problem: Problem, sides: Sequence[Side], cores: int, cache: Path, options: argparse.Namespace
) -> Row:
    """Build every side, compare their densities, then let them take turns."""
    answers = {side.name: Answer(side.name) for side in sides}
    data = problem.data()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = _settings(problem, data, cores, folder)
        workers = {}
        for side in sides:
            log = cache / f"{side.name}.log"
            workers[side.name] = Worker(side, settings, cores, cache, log)
            stack.callback(workers[side.name].end)
            _build(workers[side.name], answers[side.name], problem, data, folder)
        reference: Values = {}
        for repeat in range(0 if options.check else options.repeats):
            for name in _turns(list(workers), repeat):
                if _wanted(answers[name]):
                    _run(workers[name], answers[name], problem, repeat + 1, folder, reference)
    return Row(problem, cores, answers, _judge(problem, answers))


def _settings(problem: Problem, data: Values, cores: int, folder: Path) -> dict[str, Any]:
    """A task's, its arrays written to files; and the points at which densities are compared."""
    points = [problem.point(data, np.random.default_rng(seed)) for seed in range(POINTS)]
    stacked = {name: np.stack([point[name] for point in points]) for name in points[0]}
    for name, values in (("data", data), ("start", points[0]), ("points", stacked)):
        store(folder / f"{name}.npz", values)
    return {
        "row": problem.name,
        "data": str(folder / "data.npz"),
        "start": str(folder / "start.npz") if problem.informed else None,
        "cores": cores,
        "chains": CHAINS,
        "draws": DRAWS,
        "warmup": WARMUP,
    }


def _build(worker: Worker, answer: Answer, problem: Problem, data: Values, folder: Path) -> None:
    """Compile, and hold the side's log density against the one written by hand."""
    try:
        answer.built = worker.ask({"do": "build"}, LIMIT)
        path = folder / "points.npz"
        told = worker.ask({"do": "check", "points": str(path)}, LIMIT)["log_density"]
    except SideError as error:
        answer.failure = f"not available: {error}"
        return
    stacked = load(path)
    points = [{name: v[i] for name, v in stacked.items()} for i in range(POINTS)]
    wanted = np.array([problem.log_density(point, data) for point in points])
    apart = float(np.ptp(np.array(told) - wanted))
    answer.built["apart"] = apart
    if not apart < AGREED * float(1 + np.abs(wanted).max()):
        answer.failure = f"its log density is another: it differs by {apart:.2g} beside a constant"


def _turns(names: list[str], repeat: int) -> list[str]:
    """Another one begins in each repeat."""
    first = repeat % len(names)
    return names[first:] + names[:first]


def _wanted(answer: Answer) -> bool:
    return not answer.failure and all(run["wall"] < PATIENCE for run in answer.runs)


def _run(
    worker: Worker, answer: Answer, problem: Problem, seed: int, folder: Path, reference: Values
) -> None:
    """One run of one side; the first draws of a row become the reference for its labels."""
    out = folder / f"{answer.side}.npz"
    try:
        told = worker.ask({"do": "sample", "seed": seed, "out": str(out)}, LIMIT)
    except SideError as error:
        answer.failure = str(error)
        return
    draws = load(out)
    if not reference:
        reference.update({name: values[0].mean(0) for name, values in draws.items()})
    answer.runs.append(told)
    answer.qualities.append(quality(relabelled(draws, problem.labels, reference), problem.shapes))


def _judge(problem: Problem, answers: dict[str, Answer]) -> str:
    """Set every side's z; what it is measured from, in words."""
    if problem.reference is not None:
        known = quality(problem.reference(), problem.shapes)
        for answer in answers.values():
            if answer.qualities:
                answer.z = distance(pooled(answer.qualities), known)
        return "posteriordb's draws"
    for answer in answers.values():
        others = [other for other in answers.values() if other is not answer]
        sound = [q for other in others for q in other.qualities if q.r_hat < SOUND]
        if answer.qualities and sound:
            answer.z = distance(pooled(answer.qualities), pooled(sound))
    return "the consensus of the other sides"


# -- the tables ----------------------------------------------------------------------------------


def table(row: Row) -> str:
    """All sides on one row."""
    problem = row.problem
    cores = "1 core" if row.cores == 1 else f"{row.cores} cores"
    lines = [
        f"\n{problem.name} ({problem.says}), {cores}; z from {row.reference}",
        f"  {'side':<13}{'ESS/s':>9}{'ESS/CPU-s':>11}{'ESS':>7}{'R-hat':>8}{'div':>5}{'z':>6}"
        f"{'seconds':>9}{'CPU-s':>8}{'compile':>9}{'us/grad':>9}{'runs':>6}",
    ]
    lines += [_line(answer) for answer in row.answers.values()]
    for clock, words in (("wall", "second"), ("cpu", "CPU second")):
        ratio, best = row.ratio(clock), row.best_peer(clock)
        if ratio is not None and best is not None:
            lines.append(f"  ours / best peer's ESS per {words}: {ratio:.2f} ({best.side})")
    built = [a for a in row.answers.values() if a.built]
    lines.append("  starts: " + "; ".join(f"{a.side}: {a.built['start']}" for a in built))
    lines += [f"  {a.side}: {note}" for a in built for note in a.built["notes"]]
    return "\n".join(lines)


def _line(answer: Answer) -> str:
    name = f"  {answer.side:<13}"
    compiled = answer.built.get("compile_seconds")
    if not answer.runs:
        apart = answer.built.get("apart")
        checked = "" if apart is None else f"its log density agrees to {apart:.1g}; "
        return name + (answer.failure or checked + f"compiled in {compiled:.1f} s")
    ess = median(q.ess for q in answer.qualities)
    worst = max(q.r_hat for q in answer.qualities)
    cpu, steps = answer.told("cpu"), answer.told("gradients")
    each = "-" if cpu is None or steps is None else f"{1e6 * cpu / steps:.2f}"
    z = "-" if answer.z is None else f"{answer.z:.1f}"
    return (
        f"{name}{answer.rate('wall'):>9.1f}{answer.rate('cpu'):>11.1f}{ess:>7.0f}{worst:>8.3f}"
        f"{answer.told('divergences'):>5.0f}{z:>6}{answer.told('wall'):>9.2f}{cpu:>8.2f}"
        f"{compiled:>9.1f}{each:>9}{len(answer.runs):>6}"
        + (f"  then {answer.failure}" if answer.failure else "")
    )


def versions(rows: list[Row]) -> str:
    """What was measured, each side once."""
    found = {}
    for row in rows:
        for answer in row.answers.values():
            if answer.built:
                found[answer.side] = ", ".join(answer.built["versions"])
    return "\n" + "\n".join(f"{side}: {told}" for side, told in found.items())


def summary(rows: list[Row]) -> str:
    """The ratios, row by row."""
    lines = [
        f"{'ours / best peer':<18}{'cores':>6}{'by wall':>9}{'by CPU':>9}  R-hat, z: ours | best"
    ]
    for row in rows:
        ours, best = row.answers[OURS], row.best_peer("wall")
        wall, cpu = row.ratio("wall"), row.ratio("cpu")
        if wall is None or cpu is None or best is None:
            continue
        sides = " | ".join(_quality_in_words(answer) for answer in (ours, best) if answer.runs)
        lines.append(
            f"{row.problem.name:<18}{row.cores:>6}{wall:>9.2f}{cpu:>9.2f}  {sides} ({best.side})"
        )
    return "\n".join(lines)


def _quality_in_words(answer: Answer) -> str:
    z = "-" if answer.z is None else f"{answer.z:.1f}"
    return f"{max(q.r_hat for q in answer.qualities):.3f}, {z}"


def shortfalls(rows: list[Row]) -> list[str]:
    """The promises that were not kept."""
    missed = []
    for cores in sorted({row.cores for row in rows}):
        ratios = {row.problem.name: row.ratio("wall") for row in rows if row.cores == cores}
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        for name, ratio in known.items():
            if ratio < AHEAD:
                missed.append(f"MISSED at {name}, {cores} core(s): {ratio:.2f} times the best peer")
        well = sum(ratio >= WELL_AHEAD for ratio in known.values())
        if len(known) == len(PROBLEMS) and well < ROWS_WELL_AHEAD:
            missed.append(f"MISSED with {cores} core(s): {well} rows at {WELL_AHEAD} or more")
    return missed


def _as_json(row: Row) -> dict[str, Any]:
    sides = {
        name: {
            "built": answer.built,
            "runs": [
                {**run, "ess": q.ess, "r_hat": q.r_hat}
                for run, q in zip(answer.runs, answer.qualities, strict=True)
            ],
            "z": answer.z,
            "failure": answer.failure,
        }
        for name, answer in row.answers.items()
    }
    told = {"row": row.problem.name, "cores": row.cores, "reference": row.reference}
    return {**told, "ratio_wall": row.ratio("wall"), "ratio_cpu": row.ratio("cpu"), "sides": sides}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoryzooError as error:
        sys.exit(str(error))
