"""The reading of ranks: which quantity fails, in which word, and what stands on the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy import stats

from storyzoo.inference.engine.method import Method
from storyzoo.models.eight_schools import EightSchools
from storyzoo.reports.calibration import (
    CALIBRATED,
    NARROW,
    ODD,
    SHIFTED,
    WIDE,
    Evidence,
    Judged,
    distinct,
    holm,
    judge,
)
from storyzoo.reports.page import calibration_page
from storyzoo.story import Story
from tests.reports.pages import HOSTILE, Drawn
from tests.reports.test_page import Reading

COUNT, AMONG = 200, 99


def ranks(ratio: float = 1.0, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Ranks under posteriors whose sd is so many times the right one, off by so many of it."""
    place = stats.norm.cdf(np.random.default_rng(seed).normal(shift, 1, COUNT) / ratio)
    return np.asarray(np.minimum((place * (AMONG + 1)).astype(int), AMONG), dtype=float)


def evidence(columns: dict[str, np.ndarray], **more: Any) -> Evidence:
    """Ranks by quantity; every truth is another."""
    found: dict[str, Any] = {
        "names": tuple(columns),
        "ranks": np.stack(list(columns.values()), axis=1),
        "truths": np.random.default_rng(1).normal(size=(COUNT, len(columns))),
        "among": AMONG,
        "divergences": np.zeros(COUNT),
        "ess": np.full(COUNT, np.nan),
        "failed": {},
    }
    return Evidence(**(found | more))


@pytest.mark.parametrize(
    ("given", "word", "said"),
    [
        ({}, CALIBRATED, "Calibrated as far as 200 simulations can see"),
        ({"ratio": 0.6}, NARROW, "ranks pile at both ends"),
        ({"ratio": 1.6}, WIDE, "ranks pile in the middle"),
        ({"shift": 0.5}, SHIFTED, "draws lie too low"),
        ({"shift": -0.5}, SHIFTED, "draws lie too high"),
        ({"shift": -4.0}, SHIFTED, "draws lie too high"),
    ],
)
def test_words(given: dict[str, Any], word: str, said: str) -> None:
    judged = judge(evidence({"mu": ranks(seed=8), "tau": ranks(**given)}))
    assert judged.verdict == word
    assert said in judged.headline
    assert judged.readings[0].name == "tau" or word == CALIBRATED


def test_a_quantity_of_parameters_and_data_is_not_called_narrow() -> None:
    judged = judge(evidence({"mu": ranks(), "log_joint": ranks(ratio=0.5)}))
    assert judged.verdict == ODD
    both = judge(evidence({"mu": ranks(ratio=0.6), "log_joint": ranks(ratio=0.3)}))
    assert both.verdict == NARROW and both.readings[0].name == "log_joint"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    every = np.arange(AMONG + 1.0).repeat(2)
    reading = judge(evidence({"mu": every})).readings[0]
    assert reading.coverage(50) == 0.5 and reading.coverage(90) == 0.9
    assert reading.shift == pytest.approx(0) and abs(reading.spread) < 0.01


def test_of_many_exact_quantities_none_fails() -> None:
    many = {f"x[{i}]": ranks(seed=i) for i in range(60)}
    judged = judge(evidence(many))
    assert judged.verdict == CALIBRATED
    assert min(reading.p for reading in judged.readings) < 0.05


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_constants_and_twins_are_judged_once() -> None:
    truth = np.random.default_rng(0).normal(size=(30, 2))
    same = truth[:, 0] * (1 + 1e-13)
    columns = np.column_stack([truth[:, 0], np.zeros(30), truth[:, 1], same, 1 - truth[:, 1]])
    assert distinct(columns) == [0, 2]
    assert distinct(columns[:3]) == [0, 1, 2, 3, 4]


def test_what_spoils_ranks_is_said() -> None:
    diverged = np.where(np.arange(COUNT) < 3, 2.0, 0.0)
    effective = np.where(np.arange(COUNT) < 5, 12.0, 900.0)
    judged = judge(
        evidence(
            {"tau": ranks(ratio=0.5)},
            divergences=diverged,
            ess=effective,
            failed={7: "no finite start", 9: "the same"},
        )
    )
    told = " ".join((judged.headline, *judged.notes, *judged.do_next))
    assert "2 fits broke off" in told and "simulation 7 has no ranks: no finite start" in told
    assert "divergent transitions in 3 of 200 fits" in told
    assert "5 of 200 fits have fewer than 99 effective draws" in told
    assert judged.do_next[0].startswith("3 of 200 fits had divergent transitions")


def test_a_rank_that_is_not_defined_is_left_out() -> None:
    holed = np.where(np.arange(COUNT) < 4, np.nan, ranks())
    judged = judge(evidence({"mu": holed}))
    assert len(judged.readings[0].ranks) == COUNT - 4
    assert "4 of 200 simulations have a quantity that is not finite" in judged.notes


@dataclass
class PageCalibration:
    """What the page reads."""

    judged: Judged
    story: Story = field(default_factory=EightSchools)
    method: Method = field(default_factory=Drawn)
    seed: int = 3
    data_name: str = "schools"
    seconds: float = 12.3
    summary: dict[str, Any] = field(
        default_factory=lambda: {"simulations": COUNT, "failed": {}, "draws_ranked": AMONG}
    )


def test_page() -> None:
    columns = {f"theta[{name}]": ranks(seed=i) for i, name in enumerate(HOSTILE)}
    columns |= {f"theta[{i}]": ranks(seed=i) for i in range(20)} | {"tau": ranks(ratio=0.5)}
    read = Reading()
    page = calibration_page(PageCalibration(judge(evidence(columns)), data_name=HOSTILE[0]))
    read.feed(page)
    text = " ".join("".join(read.text).split())
    assert not read.open and not read.unbalanced and not read.handlers
    assert len(set(read.ids)) == len(read.ids)
    assert all(address.startswith("#") for address in read.addresses)
    assert "Too narrow" in text and "tau: ranks pile at both ends" in text
    assert "12 worst of" in text and "more quantities" in text
    assert read.tags.count("figure") == 1 and "script" not in read.tags
