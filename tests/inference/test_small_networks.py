"""Draws of all weights of a network that is small enough, by a whole command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import storyzoo as sz
from storyzoo.cli import main

pytestmark = pytest.mark.usefixtures("workdir")


def written() -> None:
    """Two dozen words in which a and b take turns more often than not."""
    rng = np.random.default_rng(0)
    words = []
    for _ in range(24):
        word = rng.choice(["a", "b"])
        while len(word) < 6 and rng.random() < 0.8:
            other = "b" if word[-1] == "a" else "a"
            word += other if rng.random() < 0.9 else word[-1]
        words.append(word)
    Path("words.txt").write_text("\n".join(words) + "\n")


@pytest.mark.slow
def test_the_no_u_turn_sampler_comes_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """R-hat is judged on what words are worth, as hidden units are interchangeable."""
    written()
    asked = (
        "fit sequence --data words.txt:codec=characters,by=line --method nuts --holdout 0.25 "
        "--set core=rnn --set n_hidden=4 --set n_embedding=2 --set weight_sd=0.5 "
        "--with draws=150 --with warmup=150 --out run"
    )
    done = main(asked.split())
    said = capsys.readouterr()
    assert (done, said.err) == (0, "")
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["verdict"] in ("trust", "too short")
    found = sz.Fit.load("run")
    assert any("judged on what is identified" in note for note in found.verdict.notes)
    # Eighteen words teach a little: more than a fair choice among a, b and END.
    metrics = summary["metrics"]
    rate = metrics["heldout_log_likelihood_nats_per_step"]
    assert rate > -np.log(3)
    assert metrics["heldout_step_by_step_nats_per_step"] == pytest.approx(rate, abs=0.05)
