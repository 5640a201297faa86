"""Uniform ranks: exact probabilities against enumeration and against draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from storyzoo.reports.uniformity import SMALLEST, band, p_value


def test_p_values_are_those_of_enumeration() -> None:
    count, among = 4, 3
    every = [np.array(ranks) for ranks in itertools.product(range(among + 1), repeat=count)]

    def least(ranks: np.ndarray) -> float:
        chances = []
        for place in range(among):
            seen = stats.binom(count, (place + 1) / (among + 1))
            number = int((ranks <= place).sum())
            chances.append(min(1.0, 2 * min(seen.cdf(number), seen.sf(number - 1))))
        return float(min(chances))

    found = np.array([least(ranks) for ranks in every])
    for ranks, value in list(zip(every, found, strict=True))[::5]:
        expected = (found <= value * (1 + 1e-9)).mean()
        assert p_value(ranks, among) == pytest.approx(expected, abs=1e-12)


def test_p_values_of_uniform_ranks_are_uniform() -> None:
    rng = np.random.default_rng(3)
    found = [p_value(rng.integers(0, 20, 60), 19) for _ in range(400)]
    for level in (0.05, 0.2, 0.5, 0.8):
        share = np.mean(np.array(found) <= level)
        assert share <= level + 3 * np.sqrt(level * (1 - level) / len(found))
        assert share >= level - 0.05 - 3 * np.sqrt(level * (1 - level) / len(found))


def test_band_holds_whole_lines_as_often_as_it_says() -> None:
    low, high = band(50, 19)
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(4000):
        shares = np.cumsum(np.bincount(rng.integers(0, 20, 50), minlength=20))[:19] / 50
        inside += bool(((shares >= low - 1e-12) & (shares <= high + 1e-12)).all())
    assert 0.945 <= inside / 4000 <= 0.975


def test_ranks_far_from_uniform_have_the_least_p() -> None:
    assert p_value(np.zeros(300, dtype=int), 99) == SMALLEST
    assert p_value(np.array([], dtype=int), 99) == 1.0


@pytest.mark.parametrize(("ratio", "power"), [(0.7, 0.9), (1.0, 0.0), (1.4, 0.9)])
def test_200_ranks_see_a_wrong_width(ratio: float, power: float) -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(60):
        place = stats.norm.cdf(rng.normal(size=200) / ratio)
        found.append(p_value(np.minimum((100 * place).astype(int), 99), 99) < 0.01)
    share = np.mean(found)
    assert share >= power if power else share <= 0.06
