"""Nested R-hat: by hand, against ArviZ, and what it must see."""

from __future__ import annotations

import math

import numpy as np
import pytest

from storyzoo.inference.engine.statistics import array_stats
from storyzoo.reports.nested_r_hat import limit, nested_r_hat, normal_scores, of_values

RNG = np.random.default_rng(0)


def test_a_table_worked_by_hand() -> None:
    # Two superchains of two chains of two draws.
    values = np.array([[[0.0, 2], [2, 4], [4, 6], [6, 12]]])
    # Means of chains 1, 3, 5, 9; of superchains 2, 7; so B = 12.5.
    # Between chains 2 and 8; within chains (2 + 2) / 2 and (2 + 18) / 2; so W = (4 + 18) / 2.
    assert of_values(values, 2) == pytest.approx(np.sqrt(1 + 12.5 / 11))


def test_it_is_that_of_arviz() -> None:
    draws = RNG.normal(size=(3, 12, 7)) + np.repeat(RNG.normal(size=(3, 4, 1)), 3, axis=1)
    groups = np.repeat(np.arange(4), 3)
    other = array_stats.rhat_nested(draws, superchain_ids=groups, method="identity")
    assert of_values(draws, 4) == pytest.approx(other)


def test_with_one_chain_each_it_is_r_hat_but_for_a_factor() -> None:
    draws = RNG.normal(size=(2, 5, 9)) + RNG.normal(size=(2, 5, 1))
    plain = np.asarray(array_stats.rhat(draws, method="identity"))
    assert of_values(draws, 5) ** 2 == pytest.approx(plain**2 + 1 / 9)


def test_one_draw_each() -> None:
    values = RNG.normal(size=(1, 8, 1))
    groups = values.reshape(2, 4)
    expected = 1 + groups.mean(1).var(ddof=1) / groups.var(1, ddof=1).mean()
    assert of_values(values, 2) ** 2 == pytest.approx(expected)


def test_independent_draws_are_near_one_and_within_the_limit() -> None:
    draws = RNG.normal(size=(50, 64, 100))
    found = nested_r_hat(draws, 16)
    assert (found >= 1).all()
    assert found.max() < 1.004 < limit(64, 100, 16)


def test_superchains_stuck_apart_are_seen_however_short() -> None:
    draws = RNG.normal(size=(1, 64, 10)) + np.repeat(2 * RNG.normal(size=(1, 16, 1)), 4, axis=1)
    assert nested_r_hat(draws, 16)[0] > 1.4


def test_superchains_of_unlike_width_are_seen() -> None:
    width = np.repeat(np.array([1.0, 3.0] * 8), 4)[None, :, None]
    draws = RNG.normal(size=(1, 64, 50)) * width
    assert of_values(normal_scores(draws), 16)[0] < 1.05 < nested_r_hat(draws, 16)[0]


def test_it_does_not_depend_on_a_monotone_scale() -> None:
    draws = RNG.normal(size=(2, 8, 20))
    scores = normal_scores(draws)
    assert np.allclose(scores, normal_scores(np.exp(draws)))
    assert scores.mean() == pytest.approx(0, abs=1e-6)


def test_chains_must_be_shared_out_evenly() -> None:
    for chains, superchains in ((10, 4), (10, 1)):
        with pytest.raises(ValueError, match="10 chains can't be shared out"):
            of_values(RNG.normal(size=(1, chains, 5)), superchains)


def test_the_limit_is_what_independent_draws_can_reach() -> None:
    assert limit(2048, 1, 16) == 1.01
    assert limit(64, 1, 16) == pytest.approx(math.sqrt(1 + 1 / 4 + 1e-4))
    assert limit(64, 200, 16) == 1.01
