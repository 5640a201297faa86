"""Fits whose likelihood is an estimate: what they answer, write and print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storyzoo.cli import main
from storyzoo.fit import Fit
from storyzoo.inference import METHODS, MethodEntry
from storyzoo.run import compare, fit
from tests.ising import Planted, Spins, exact, spins

LIKELIHOOD = "log_likelihood_nats_per_example"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def hidden() -> Fit:
    table = pd.DataFrame(spins()["v"], columns=["left", "right"])
    return fit(Spins(sticky=0.0), table, Planted(), holdout=0.25, progress=False)


def saved(answer: Fit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fit's run folder; its method is known for as long as the test runs."""
    entry = MethodEntry("tests.ising:Planted", "a point that it was told", "point")
    monkeypatch.setitem(METHODS, "planted", entry)
    return answer.save(folder)


def truths(answer: Fit) -> np.ndarray:
    """Exact log likelihoods of the rows fitted."""
    return exact(np.asarray(answer.target.data["v"]), 0.3, 1.0)


def test_metrics_carry_error_and_bounds(hidden: Fit) -> None:
    metrics = hidden.summary["metrics"]
    truth = truths(hidden).mean()
    assert abs(metrics[LIKELIHOOD] - truth) < 4 * metrics[f"{LIKELIHOOD}_se"]
    assert metrics[f"{LIKELIHOOD}_se"] == pytest.approx(0.05)
    assert metrics[f"{LIKELIHOOD}_lower"] == pytest.approx(truth - 0.1)
    assert metrics[f"{LIKELIHOOD}_upper"] == pytest.approx(truth + 0.1)
    assert metrics["bits_per_dim"] == pytest.approx(-metrics[LIKELIHOOD] / (2 * np.log(2)))
    for name in ("log_likelihood_nats", LIKELIHOOD, "bits_per_dim"):
        assert {f"heldout_{name}{end}" for end in ("", "_se", "_lower", "_upper")} <= set(metrics)
    assert hidden.heldout is not None and hidden.heldout.lower is not None


def test_the_exact_story_has_the_same_metrics_without_bounds() -> None:
    answer = fit(Spins(hidden=False), spins(), Planted(), progress=False)
    metrics = answer.summary["metrics"]
    assert metrics[LIKELIHOOD] == pytest.approx(truths(answer).mean())
    assert set(metrics) == {"log_likelihood_nats", LIKELIHOOD, "bits_per_dim"}
    assert answer.log_density().nature == "exact, nats"


def test_new_rows_are_scored_with_error_and_bounds(hidden: Fit) -> None:
    found = hidden.log_density({"v": np.array([[1.0, 1.0], [0.0, 1.0]])})
    truth = exact(np.array([[1.0, 1.0], [0.0, 1.0]]), 0.3, 1.0)
    assert found.lower is not None and found.upper is not None
    np.testing.assert_allclose(found.lower, truth - 0.1)
    np.testing.assert_allclose(found.upper, truth + 0.1)
    assert (np.abs(found.nats - truth) < 4 * found.se).all()
    assert found.nature == "estimates, ± 0.05, bounds up to 0.2 apart, nats"


def test_what_is_estimated_and_how_chains_mix_is_noted(hidden: Fit) -> None:
    told = "\n".join(hidden.notes)
    assert "log likelihoods are estimates, ± 0.05 nats per example: two spins have" in told
    assert "predictive draws are simulated by 4 Markov chains: R-hat" in told
    page = hidden.report()
    assert "estimate with bounds" in page and "log likelihoods are estimates" in page


def test_a_likelihood_that_is_not_known_is_told_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = fit(Spins(gap=30.0), spins(), Planted(), progress=False)
    assert answer.verdict.verdict == "point estimate"
    assert "The likelihood is not known: bounds 30 nats apart." in answer.verdict.headline
    (check,) = (c for c in answer.summary["checks"] if c["name"] == "likelihood_known")
    assert (check["scope"], check["passed"], check["value"]) == ("likelihood", False, 30.0)
    page = answer.report()
    assert "not known: its bounds don" in page
    folder = saved(answer, tmp_path / "run", monkeypatch)
    loaded = Fit.load(folder, story=answer.story)
    assert loaded.verdict == answer.verdict
    assert json.loads((folder / "summary.json").read_text())["checks"] == answer.summary["checks"]


def test_the_command_line_says_what_each_number_is(
    hidden: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "new.csv").write_text("left,right\n1,1\n0,1\n")
    monkeypatch.setattr("storyzoo.commands._load_fit", lambda _: hidden)
    assert main(["score", "run", "--data", str(tmp_path / "new.csv")]) == 0
    said = capsys.readouterr()
    ends = ["log_density_nats", *(f"log_density_nats_{e}" for e in ("se", "lower", "upper"))]
    assert said.out.splitlines()[0].split(",") == ["row", *ends]
    assert said.err == "zoo: log_density_nats: estimates, ± 0.05, bounds up to 0.2 apart, nats\n"
    assert main(["simulate", "run", "-n", "3"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("zoo: simulated by 4 Markov chains: R-hat")
    assert len(said.out.splitlines()) == 4


def test_comparison_puts_estimates_beside_exact_scores() -> None:
    stories = [Spins(noise=0.01), replace(Spins(), hidden=False)]
    found = compare(stories, spins(200), [Planted()], progress=False)
    assert len(found.fits) == 2
    scores = found.table["heldout_log_likelihood_nats_per_example"]
    assert abs(scores[0] - scores[1]) < 0.04
    assert found.table["heldout_log_likelihood_nats_per_example_lower"].isna().tolist() == [
        False,
        True,
    ]
    assert "within its standard error" in found.reason
