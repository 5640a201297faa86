"""Diagnostics of many elements at once are ArviZ's of each."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from storyzoo.inference.engine import rank_statistics
from storyzoo.inference.engine.rank_statistics import ess_bulk, ess_mean, ess_tail, rhat
from storyzoo.inference.engine.statistics import array_stats

STATISTICS = {
    "rhat": (rhat, array_stats.rhat),
    "bulk": (ess_bulk, lambda draws: array_stats.ess(draws, method="bulk")),
    "mean": (ess_mean, lambda draws: array_stats.ess(draws, method="mean")),
    "tail": (ess_tail, lambda draws: array_stats.ess(draws, method="tail", prob=(0.05, 0.95))),
}


def elements(chains: int, draws: int) -> np.ndarray:
    """Series that mix well, badly, by turns and not at all, with ties, and constant ones."""
    rng = np.random.default_rng(0)
    series = []
    for memory in (-0.9, -0.5, 0.0, 0.3, 0.9, 0.99, 1.0) * 3:
        steps = rng.normal(size=(draws, chains))
        for before, now in zip(steps[:-1], steps[1:], strict=True):
            now += memory * before
        series.append(steps.T)
    stuck = np.repeat(np.arange(chains, dtype=float)[:, None], draws, axis=1)
    once = np.zeros((chains, draws))
    once[0, 0] = 1
    return np.stack([*series, series[3].round(), 1e-20 * series[4], stuck, once, 0 * once + 0.1])


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("draws", [4, 5, 6, 7, 8, 21, 100, 101])
@pytest.mark.parametrize("chains", [2, 5])
def test_each_is_arvizs(statistic: str, chains: int, draws: int) -> None:
    ours, theirs = STATISTICS[statistic]
    series = elements(chains, draws)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found, known = ours(series), np.asarray(theirs(series), dtype=float)
    stuck = known > 1e12  # rounding decides between this and infinity
    assert np.array_equal(stuck, found > 1e12)
    assert found[~stuck] == pytest.approx(known[~stuck], rel=1e-8, nan_ok=True)


def test_one_chain_has_an_effective_sample_size() -> None:
    series = elements(1, 50)
    for statistic in ("bulk", "mean", "tail"):
        ours, theirs = STATISTICS[statistic]
        assert ours(series) == pytest.approx(np.asarray(theirs(series)), rel=1e-8, nan_ok=True)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    series = elements(4, 30)[:-3]
    whole = ess_bulk(series)
    monkeypatch.setattr(rank_statistics, "AT_ONCE", 1)
    assert np.array_equal(ess_bulk(series), whole)


def test_nothing_is_had_of_nothing() -> None:
    assert rhat(np.empty((0, 4, 100))).shape == (0,)
