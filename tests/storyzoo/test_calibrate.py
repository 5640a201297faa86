"""Many simulations: the same whatever the jobs, whole however they end, told on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import storyzoo as sz
from storyzoo.calibrate import Calibration, CalibrationFolder, calibrate
from storyzoo.cli import main
from storyzoo.errors import RefusedError, RunFolderError, SettingError, StoryError
from storyzoo.inference.engine.chains import can_fork
from storyzoo.inference.engine.method import Method, Outcome
from storyzoo.inference.engine.target import Target
from tests.cases import FlatRegression
from tests.inference.conjugate import Line
from tests.inference.engine.test_calibration import ExactLine

forks = pytest.mark.skipif(not can_fork("cpu"), reason="chains fork on Linux only")

X = np.random.default_rng(0).normal(size=(8, 2))
EXACT = ExactLine()
DATA: Mapping[str, Any] = {"x": X, "y": X @ [1.0, -0.5]}


def run(method: Method = EXACT, **given: Any) -> Calibration:
    """A small calibration."""
    return calibrate(Line(), DATA, method, **{"simulations": 12, "progress": False} | given)


def alike(one: Calibration, other: Calibration) -> bool:
    """Whether every rank and truth is the same."""
    a, b = one.evidence, other.evidence
    return np.array_equal(a.ranks, b.ranks) and np.array_equal(a.truths, b.truths)


@dataclass(frozen=True)
class Breaking(ExactLine):
    """Breaks off where the first outcome is above a limit."""

    limit: float = 0.0

    def run(self, target: Target, **given: Any) -> Outcome:
        if float(target.data["y"][0]) > self.limit:
            raise StoryError("the first outcome is too much")
        return super().run(target, **given)


@dataclass(frozen=True)
class Stopped(ExactLine):
    """Is interrupted where the first outcome is above zero."""

    def run(self, target: Target, **given: Any) -> Outcome:
        if float(target.data["y"][0]) > 0:
            raise KeyboardInterrupt
        return super().run(target, **given)


@forks
def test_jobs_change_nothing() -> None:
    assert alike(run(jobs=1), run(jobs=2))


@forks
def test_nuts_runs_side_by_side_as_alone() -> None:
    nuts = sz.NUTS(chains=2, draws=60, warmup=60)
    assert alike(run(nuts, simulations=3, jobs=1), run(nuts, simulations=3, jobs=2))


def test_more_simulations_can_be_added(tmp_path: Path) -> None:
    whole = run()
    first = run(simulations=5, out=tmp_path / "one")
    assert first.evidence.simulations == 5
    assert alike(run(out=tmp_path / "one", resume=True), whole)
    assert alike(run(out=tmp_path / "one", resume=True), whole), "nothing is left to run"


def test_an_interrupted_run_keeps_what_ended(tmp_path: Path) -> None:
    cut = run(Stopped(), out=tmp_path / "cut")
    assert cut.cut_short and 0 < cut.evidence.simulations < 12
    kept = CalibrationFolder(tmp_path / "cut").read_finished()
    whole = run()
    for number, ranked in kept.ranked.items():
        assert np.array_equal(ranked.rank, whole.evidence.ranks[number])


def test_fits_that_break_off_are_told() -> None:
    found = run(Breaking())
    assert 0 < found.evidence.simulations < 12
    assert found.evidence.simulations + len(found.evidence.failed) == 12
    assert "broke off" in found.judged.headline
    assert set(found.summary["failed"].values()) == {"the first outcome is too much"}


def test_where_every_fit_breaks_off_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="every fit broke off, simulation 0 since the first"):
        run(Breaking(limit=-1e9), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_folder(tmp_path: Path) -> None:
    found = run(out=tmp_path / "one")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"calibration.json", "ranks.nc", "summary.json", "report.html"}
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["verdict"] == found.verdict and summary["simulations"] == 12
    assert [q["name"] for q in summary["quantities"]] == list(found.table["name"])
    assert "Is ExactLine calibrated for line" in (tmp_path / "one" / "report.html").read_text()


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    run(out=tmp_path / "one", simulations=2)
    with pytest.raises(RunFolderError, match="holds another run"):
        run(out=tmp_path / "one", seed=1, resume=True)
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        run(out=tmp_path / "two", resume=True)


def test_refusals_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="can't be calibrated with map: map gives a point"):
        run(sz.MAP(), out=tmp_path / "no")
    with pytest.raises(RefusedError, match="the prior of beta is improper"):
        calibrate(FlatRegression(), {"x": X[:, 0], "y": X[:, 1]}, sz.NUTS(), out=tmp_path / "no")
    for wrong in ("simulations", "jobs"):
        with pytest.raises(SettingError, match="at least 1"):
            run(EXACT, out=tmp_path / "no", **{wrong: 0})
    assert not (tmp_path / "no").exists()


# -- the command line --------------------------------------------------------------------------


@pytest.mark.usefixtures("workdir")
def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    story = ["calibrate", "eight-schools", "--data", "eight-schools"]
    argv = [*story, "--method", "laplace", "--simulations", "6"]
    assert main([*argv, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["simulations"] == 6 and summary["method"] == "laplace"
    folder = Path("runs/eight-schools-eight-schools-calibrate-laplace-0")
    assert (folder / "report.html").exists()
    assert main([*argv[:-1], "24", "--resume", "--strict"]) == 3
    text = capsys.readouterr().out
    assert "SHIFTED" in text and "tau: draws lie too high" in text
    assert "24 simulations" in text and str(folder) in text


@pytest.mark.usefixtures("workdir")
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--method em", "em gives a point"),
        ("--method nuts --simulations 0", "--simulations 0: at least 1"),
        ("--method nuts --jobs 0", "--jobs 0: at least 1"),
        ("--method nuts --set centred=true,false", "give one value"),
        ("--method nuts --with drows=3", "did you mean 'draws'?"),
    ],
)
def test_command_refuses(more: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["calibrate", "eight-schools", "--data", "eight-schools", *more.split()]
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1
    assert not Path("runs").exists()
