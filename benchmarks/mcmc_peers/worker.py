"""One side of the benchmark as a process: jobs come in as JSON lines, answers go out alike.

A side is a program that samples: ours, or a peer's, each in its own environment, so this file needs
NumPy alone. The first line names the row, its data and the settings; each later line is a job::

    {"do": "build"}                          {"compile_seconds", "versions", "start", "notes"}
    {"do": "check", "points": FILE}          {"log_density": [...]}
    {"do": "sample", "seed": 1, "out": FILE} {"wall", "cpu", "divergences", …}

Whatever a side raises is answered as ``{"error": "..."}``. What a side prints goes to stderr.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np

Values = dict[str, np.ndarray]
"""By name: one point's constrained values, draws (chain, draw, …), or the data."""


@dataclass(frozen=True)
class Task:
    """What a side is asked to sample."""

    row: str
    data: Values
    cores: int
    chains: int
    draws: int
    warmup: int
    start: Values | None = None
    """Constrained values at which every chain starts; None leaves it to the side."""


class Drawn(NamedTuple):
    """Draws in memory."""

    draws: Values
    divergences: int
    gradients: int | None = None
    """Gradient evaluations, warm-up included, where a side tells."""
    own_seconds: float | None = None
    """CPU time of the chains alone, where a side tells."""


class Sampler(Protocol):
    """A compiled model."""

    @property
    def start(self) -> str:
        """Where chains start, in words."""

    @property
    def notes(self) -> Sequence[str]:
        """What else is to be told."""

    def log_density(self, point: Values) -> float:
        """Of the constrained values, without Jacobian, up to a constant."""

    def sample(self, seed: int) -> Drawn:
        """All chains: what is timed."""


Build = Callable[[Task], Sampler]


def serve(build: Build, packages: Iterable[str]) -> None:
    """Answer jobs until the input ends."""
    jobs, answers = sys.stdin, _answers()
    task = _task(json.loads(jobs.readline()))
    sampler: Sampler | None = None
    for line in jobs:
        job = json.loads(line)
        try:
            if job["do"] == "build":
                began = time.perf_counter()
                sampler = build(task)
                answer = {
                    "compile_seconds": time.perf_counter() - began,
                    "versions": [f"{name} {importlib.metadata.version(name)}" for name in packages],
                    "start": sampler.start,
                    "notes": list(sampler.notes),
                }
            else:
                assert sampler is not None, "build comes first"
                answer = _check(sampler, job) if job["do"] == "check" else _sample(sampler, job)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answers() -> TextIO:
    """The process's own stdout; whatever else writes to it goes to stderr from here on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _task(settings: dict[str, Any]) -> Task:
    given = {name: load(settings[name]) if settings[name] else None for name in ("data", "start")}
    return Task(**{**settings, **given})


def _check(sampler: Sampler, job: dict[str, Any]) -> dict[str, Any]:
    stacked = load(job["points"])
    count = len(next(iter(stacked.values())))
    points = [{name: values[i] for name, values in stacked.items()} for i in range(count)]
    return {"log_density": [sampler.log_density(point) for point in points]}


def _sample(sampler: Sampler, job: dict[str, Any]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), cpu_seconds()
    drawn = sampler.sample(job["seed"])
    answer = {"wall": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu}
    store(job["out"], drawn.draws)
    told = drawn._asdict()
    del told["draws"]
    return {**answer, **told}


def store(path: str | Path, values: Values) -> None:
    """Write arrays to a file."""
    named: dict[str, Any] = {**values}
    np.savez(path, **named)


def load(path: str | Path) -> Values:
    """Read arrays from a file."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def cpu_seconds() -> float:
    """CPU time of this process, its children and theirs, living or ended.

    That of the living children is read off /proc, in hundredths of a second.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + _of_children(os.getpid())


def _of_children(process: int) -> float:
    ticks, total = os.sysconf("SC_CLK_TCK"), 0.0
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            try:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            total += sum(map(int, fields[11:15])) / ticks + _of_children(child)
    return total
