"""Calibrate it: many simulations of known truth, each fitted, and what their ranks come to.

Simulations are independent of one another: each has its own seed, runs in a process of its own
where there are several at a time, and is kept when it ends, so that Ctrl-C loses only those under
way and more can be added later.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from xarray import Dataset, DataTree

from storyzoo.datasets.dataset import Dataset as Rows
from storyzoo.errors import RefusedError, SettingError, StoryzooError
from storyzoo.folder import RunFolder
from storyzoo.inference import load_method
from storyzoo.inference.engine.calibration import Calibrator, Ranked
from storyzoo.inference.engine.chains import can_fork, run_chains
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.reports.calibration import Evidence, Judged, judge, summary_of
from storyzoo.reports.page import calibration_page
from storyzoo.run import describe, prepare
from storyzoo.story import Story

SECONDS = 5.0
"""Wall time between two writes of what is finished."""


@dataclass
class Calibration:
    """What :func:`storyzoo.calibrate` returns."""

    story: Story
    method: Method
    seed: int
    data_name: str
    judged: Judged
    evidence: Evidence
    seconds: float
    cut_short: bool
    summary: dict[str, Any]
    """As in ``summary.json``."""
    folder: Path | None = None

    @property
    def verdict(self) -> str:
        """``calibrated``, ``too narrow``, ``too wide``, ``shifted`` or ``not calibrated``."""
        return self.judged.verdict

    @property
    def table(self) -> pd.DataFrame:
        """A row for each quantity, worst first."""
        return pd.DataFrame(self.summary["quantities"])

    def __repr__(self) -> str:
        what = f"{self.story.name} on {self.data_name} by {self.method.name}"
        return f"Calibration({what}, {self.evidence.simulations} simulations: {self.verdict})"


@dataclass
class Finished:
    """The simulations that have ended, by number."""

    ranked: dict[int, Ranked] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    """Why there are no ranks."""
    seconds: float = 0.0

    def evidence(self, names: tuple[str, ...]) -> Evidence:
        """All that was ranked, in the order of the simulations.

        Where a fit gave fewer draws than the others, its rank is no rank among as many.
        """
        among = max((one.among for one in self.ranked.values()), default=0)
        whole = {n: one for n, one in sorted(self.ranked.items()) if one.among == among}
        short = {
            number: f"its fit gave only {one.among + 1} draws"
            for number, one in self.ranked.items()
            if number not in whole
        }
        empty = np.zeros((0, len(names)))
        return Evidence(
            names=names,
            ranks=np.array([one.rank for one in whole.values()]) if whole else empty,
            truths=np.array([one.truth for one in whole.values()]) if whole else empty,
            among=among,
            divergences=np.array([one.divergences for one in whole.values()], dtype=float),
            ess=np.array([one.ess for one in whole.values()]),
            failed=dict(sorted((self.failed | short).items())),
        )


@dataclass(frozen=True)
class CalibrationFolder(RunFolder):
    """The files of one calibration: those of a run, but for what was fitted."""

    @property
    def description(self) -> Path:
        """All that went in."""
        return self.path / "calibration.json"

    @property
    def draws(self) -> Path:
        """Ranks and truths by simulation and quantity."""
        return self.path / "ranks.nc"

    def write_finished(self, finished: Finished, names: tuple[str, ...]) -> None:
        """Write ``ranks.nc``."""
        self.write_tree(_as_tree(finished, names))

    def read_finished(self) -> Finished:
        """What ``ranks.nc`` holds; nothing where there is none yet."""
        return _from_tree(self.read_tree()) if self.draws.exists() else Finished()


def calibrate(
    story: Story | str,
    data: Rows | Mapping[str, Any] | pd.DataFrame | str,
    method: Method | str,
    *,
    simulations: int = 200,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "cpu",
    target: str | None = None,
    jobs: int = 1,
    resume: bool = False,
    progress: bool = True,
) -> Calibration:
    """Fit ``simulations`` data sets of known truth by a method, and see whether ranks are uniform.

    Of ``data`` the shape is taken, with covariates and holes, and the scales of the priors. With
    ``out`` a folder is written; with ``resume`` the simulations that it holds are kept, and those
    that are missing are added. ``jobs`` run at a time.

    Raises RefusedError where story or method can't be calibrated, or where every fit broke off,
    and the errors of :func:`storyzoo.fit`.
    """
    if simulations < 1:
        raise SettingError(f"simulations={simulations} is impossible; it must be at least 1")
    if jobs < 1:
        raise SettingError(f"jobs={jobs} is impossible; it must be at least 1")
    method = load_method(method)() if isinstance(method, str) else method
    task = prepare(story, data, holdout=0.0, device=device, target=target)
    calibrator = Calibrator(task.train, method)
    reason = calibrator.refuses()
    if reason is not None:
        raise RefusedError(f"{task.story.name} can't be calibrated with {method.name}: {reason}")
    description = describe(task, method, seed, None)
    folder = None if out is None else CalibrationFolder(Path(out))
    new = folder is not None and not folder.path.exists()
    finished = _claimed(folder, description, resume)
    try:
        stopped = _run(calibrator, finished, simulations, seed, jobs, folder, progress)
        evidence = _evidence(finished, calibrator, stopped)
    except (StoryzooError, KeyboardInterrupt):
        if folder is not None and new and not finished.ranked:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    answer = Calibration(
        story=task.story,
        method=method,
        seed=seed,
        data_name=task.bound.name,
        judged=judge(evidence, (*task.bound.notes, *calibrator.notes)),
        evidence=evidence,
        seconds=finished.seconds,
        cut_short=stopped == "interrupted",
        summary={},
    )
    answer.summary = _summary(answer)
    if folder is not None:
        folder.write_finished(finished, calibrator.quantities)
        folder.write_summary(answer.summary)
        folder.write_report(calibration_page(answer))
        answer.folder = folder.path
    return answer


def _claimed(
    folder: CalibrationFolder | None, description: Mapping[str, Any], resume: bool
) -> Finished:
    """What the folder holds of this calibration, the folder taken."""
    if folder is None:
        return Finished()
    folder.claim(description, resume)
    folder.write_description(description)
    return folder.read_finished() if resume else Finished()


def _run(
    calibrator: Calibrator,
    finished: Finished,
    simulations: int,
    seed: int,
    jobs: int,
    folder: CalibrationFolder | None,
    progress: bool,
) -> str:
    """Run the simulations that are missing; says how it ended."""
    begun, before = time.monotonic(), finished.seconds
    written = begun
    missing = [n for n in range(simulations) if n not in finished.ranked]
    forked = jobs > 1 and can_fork(calibrator.target.device)
    if forked:
        calibrator = _ready_to_fork(calibrator)
    bar = Progress(
        f"{calibrator.target.story.name} by {calibrator.method.name}", quiet=not progress
    )
    bar.start(len(missing))

    def keep(number: int, rows: np.ndarray) -> None:
        nonlocal written
        finished.ranked[number] = Ranked.from_row(rows[0])
        finished.failed.pop(number, None)
        finished.seconds = before + time.monotonic() - begun
        if folder is not None and time.monotonic() - written > SECONDS:
            folder.write_finished(finished, calibrator.quantities)
            written = time.monotonic()

    try:
        gathered = run_chains(
            {number: partial(_one, calibrator, number, seed) for number in missing},
            cores=jobs if forked else 1,
            forked=forked,
            budget=Budget(None),
            on_rows=lambda _, rows: bar.update(len(rows)),
            on_end=keep,
        )
    finally:
        bar.close()
    finished.failed.update(gathered.failures)
    finished.seconds = before + time.monotonic() - begun
    return gathered.stopped


def _one(calibrator: Calibrator, number: int, seed: int) -> Iterator[np.ndarray]:
    """The one row of a simulation."""
    yield calibrator.ranked(number, seed).row()


def _ready_to_fork(calibrator: Calibrator) -> Calibrator:
    """One core for each fit, and the machine code of all of them loaded once, before the fork."""
    calibrator.target.density().native()
    settings: Any = calibrator.method
    if hasattr(settings, "cores"):
        return Calibrator(calibrator.target, replace(settings, cores=1))
    return calibrator


def _evidence(finished: Finished, calibrator: Calibrator, stopped: str) -> Evidence:
    """What was ranked. Raises RefusedError where nothing was, with the first reason."""
    if finished.ranked:
        return finished.evidence(calibrator.quantities)
    if stopped == "interrupted":
        raise KeyboardInterrupt
    number, reason = next(iter(sorted(finished.failed.items())))
    raise RefusedError(
        f"{calibrator.target.story.name} can't be calibrated with {calibrator.method.name}: "
        f"every fit broke off, simulation {number} since {reason}"
    )


def _summary(answer: Calibration) -> dict[str, Any]:
    """As ``summary.json`` keeps it."""
    evidence = answer.evidence
    return {
        "story": answer.story.name,
        "data": answer.data_name,
        "method": answer.method.name,
        "seed": answer.seed,
        "seconds": answer.seconds,
        "cut_short": answer.cut_short,
        "simulations": evidence.simulations,
        "draws_ranked": evidence.among,
        "fits_with_divergences": int((evidence.divergences > 0).sum()),
        "failed": {str(number): reason for number, reason in evidence.failed.items()},
        "verdict": answer.judged.verdict,
        "headline": answer.judged.headline,
        "quantities": summary_of(answer.judged),
    }


# -- the file of ranks -------------------------------------------------------------------------


def _as_tree(finished: Finished, names: tuple[str, ...]) -> DataTree:
    numbers = sorted(finished.ranked)
    kept = [finished.ranked[number] for number in numbers]
    by_both, by_one = ("simulation", "quantity"), ("simulation",)
    shape = (len(kept), len(names))
    values = Dataset(
        {
            "rank": (by_both, np.array([one.rank for one in kept]).reshape(shape)),
            "truth": (by_both, np.array([one.truth for one in kept]).reshape(shape)),
            "draws_ranked": (by_one, np.array([one.among for one in kept], dtype=np.int64)),
            "divergences": (by_one, np.array([one.divergences for one in kept], dtype=np.int64)),
            "ess_bulk": (by_one, np.array([one.ess for one in kept], dtype=np.float64)),
        },
        coords={"simulation": np.array(numbers, dtype=np.int64), "quantity": list(names)},
    )
    failed = {str(number): reason for number, reason in finished.failed.items()}
    tree = DataTree.from_dict({"/ranks": values})
    tree.attrs.update(failed=json.dumps(failed), seconds=finished.seconds)
    return tree


def _from_tree(tree: DataTree) -> Finished:
    values = tree["ranks"].to_dataset()
    ranked = {
        int(number): Ranked(
            rank=values["rank"].values[place],
            truth=values["truth"].values[place],
            among=int(values["draws_ranked"].values[place]),
            divergences=int(values["divergences"].values[place]),
            ess=float(values["ess_bulk"].values[place]),
        )
        for place, number in enumerate(values["simulation"].values)
    }
    failed = {int(number): reason for number, reason in json.loads(tree.attrs["failed"]).items()}
    return Finished(ranked, failed, float(tree.attrs["seconds"]))
