"""Are ranks uniform? Their ECDF against limits that hold all of it at once, without simulation.

Of S ranks, each one of 0, …, L with equal chance, ``R_i`` are at most i: binomial, of S trials with
probability ``z_i = (i+1)/(L+1)``. A pointwise probability ``p_i`` is the two-sided one of ``R_i``;
the least of them over all i is the statistic, and its distribution is exact: the counts are a
Markov chain, ``R_{i+1} - R_i`` being binomial of ``S - R_i`` trials.

Source: Säilynoja, Bürkner and Vehtari (2022), "Graphical test for discrete uniformity and its
applications in goodness-of-fit evaluation and multiple sample comparison", Statistics and
Computing 32:32, §2.2.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy
from scipy.stats import binom

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

SLACK = 1e-9
"""Relative, so that a probability is not below itself by rounding."""
SMALLEST = 1e-13
"""A p-value that is less is shown as this: below, one minus a sum is rounding."""


def p_value(ranks: NDArray[np.integer], among: int) -> float:
    """Chance of an ECDF as far from uniform as that of ``ranks`` (S,), each of 0, …, ``among``."""
    if not len(ranks):
        return 1.0
    counts = np.cumsum(np.bincount(ranks, minlength=among + 1))[:among]
    places = np.arange(among)
    least = float(_pointwise(len(ranks), among)[places, counts].min())
    return max(SMALLEST, 1.0 - _chance_within(len(ranks), among, least * (1 + SLACK)))


@lru_cache(maxsize=64)
def band(count: int, among: int, level: float = 0.95) -> tuple[Array, Array]:
    """Limits (among,) of the share of ``count`` ranks that are at most 0, 1, …, ``among - 1``.

    With probability ``level`` or a little more, as counts are whole, no share is beyond them.
    """
    low, high = 0.0, 1.0
    for _ in range(30):  # the chance within falls as the pointwise limit rises
        middle = (low + high) / 2
        inside = _chance_within(count, among, middle) >= level
        low, high = (middle, high) if inside else (low, middle)
    first, last = _limits(count, among, low)
    return first / count, last / count


@lru_cache(maxsize=8)
def _pointwise(count: int, among: int) -> Array:
    """``p[i, r]``: two-sided probability that r of ``count`` ranks are at most i."""
    shares = (np.arange(among) + 1) / (among + 1)
    numbers = np.arange(count + 1)
    below = binom.cdf(numbers, count, shares[:, None])
    above = binom.sf(numbers - 1, count, shares[:, None])
    both: Array = np.minimum(1.0, 2 * np.minimum(below, above))
    return both


def _limits(count: int, among: int, least: float) -> tuple[Counts, Counts]:
    """The fewest and the most ranks at each place whose probability is above ``least``."""
    inside = _pointwise(count, among) > least
    first = inside.argmax(axis=1)
    last = count - inside[:, ::-1].argmax(axis=1)
    return np.where(inside.any(axis=1), first, 1), np.where(inside.any(axis=1), last, 0)


def _chance_within(count: int, among: int, least: float) -> float:
    """Probability that at every place the pointwise probability is above ``least``."""
    first, last = _limits(count, among, least)
    if (first > last).any():
        return 0.0
    log_factorial = gammaln(np.arange(count + 1) + 1.0)
    before, chances = np.array([0]), np.array([1.0])
    for place in range(among):
        after = np.arange(first[place], last[place] + 1)
        chances = chances @ _steps(count, before, after, 1 / (among + 1 - place), log_factorial)
        before = after
    return float(chances.sum())


def _steps(count: int, before: Counts, after: Counts, share: float, log_factorial: Array) -> Array:
    """``P(R_{i+1} = after | R_i = before)``: binomial of the ranks that are left."""
    left = (count - before)[:, None]
    more = after[None] - before[:, None]
    possible = (more >= 0) & (more <= left)
    more = np.where(possible, more, 0)
    ways = log_factorial[left] - log_factorial[more] - log_factorial[left - more]
    chance = np.exp(ways + xlogy(more, share) + xlog1py(left - more, -share))
    return np.where(possible, chance, 0.0)
