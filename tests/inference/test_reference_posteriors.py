"""NUTS against posteriordb's reference draws: every mean and spread within Monte Carlo error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from storyzoo.cli import main
from storyzoo.inference.nuts import NUTS
from tests.inference.references import REFERENCES, assert_agrees


@pytest.mark.parametrize("name", REFERENCES)
def test_means_and_spreads_are_those_of_the_reference(name: str, mirror: Path) -> None:
    assert_agrees(name, NUTS(draws=2000, warmup=1000, chains=4))


@pytest.mark.parametrize(
    ("story", "posterior", "fields"),
    [
        ("eight-schools", "eight_schools-eight_schools_noncentered", []),
        ("autoregression", "arK-arK", ["--set", "order=5"]),
        ("ordered-mixture", "low_dim_gauss_mix-low_dim_gauss_mix", ["--set", "spread=2"]),
        ("linear-regression", "kidiq-kidscore_momiq", []),
    ],
)
def test_posteriors_are_fitted_from_the_command_line(
    story: str, posterior: str, fields: list[str], mirror: Path, workdir: Path
) -> None:
    data = ["--data", f"posteriordb:{posterior}"]
    method = ["--method", "nuts", "--with", "draws=200", "--with", "warmup=300"]
    assert main(["fit", story, *data, *fields, *method, "--out", "run"]) == 0
    summary = json.loads((workdir / "run/summary.json").read_text())
    assert summary["data"] == f"posteriordb:{posterior}"
    assert summary["metrics"]["r_hat_max"] < 1.1
