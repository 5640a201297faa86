"""R-hat and effective sample size of many elements at once: ArviZ's numbers, without its loop.

Rank-normalised split R-hat, the larger of bulk and folded, and effective sample sizes from Geyer's
initial monotone sequence, as ArviZ computes them one element after another; a corpus has a hundred
thousand elements. Draws are ``(element, chain, draw)`` throughout; results ``(element,)``.

Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16(2).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri
from scipy.stats import rankdata

Array = npt.NDArray[np.float64]

AT_ONCE = 2_000_000
"""Draws that are looked at together."""
TAILS = (0.05, 0.95)
"""Quantiles of the tail's effective sample size."""
ALIKE = float(np.finfo(np.float64).resolution)
"""Width up to which ArviZ takes an element for constant: its draws all count."""


def rhat(draws: Array) -> Array:
    """The larger of R-hat of the ranks and of the ranks of distances from the median."""
    return _in_blocks(_rhat, draws)


def ess_bulk(draws: Array) -> Array:
    """Effective sample size of the ranks."""
    return _in_blocks(lambda some: _ess(_normal_scores(_halves(some))), draws)


def ess_mean(draws: Array) -> Array:
    """Effective sample size for the mean."""
    return _in_blocks(lambda some: _ess(_halves(some)), draws)


def ess_tail(draws: Array) -> Array:
    """The smaller effective sample size of the two tails' quantiles."""
    return _in_blocks(_ess_tail, draws)


def _in_blocks(statistic: Callable[[Array], Array], draws: Array) -> Array:
    step = max(1, AT_ONCE // max(1, draws.shape[1] * draws.shape[2]))
    parts = [statistic(draws[i : i + step]) for i in range(0, len(draws), step)]
    return np.concatenate(parts) if parts else np.empty(0)


def _halves(draws: Array) -> Array:
    """Both halves of every chain, as chains: (element, 2 chain, draw // 2)."""
    half = draws.shape[2] // 2
    return np.concatenate([draws[..., :half], draws[..., -half:]], axis=1)


def _normal_scores(draws: Array) -> Array:
    """Normal quantiles of each element's ranks, with Blom's offset of 3/8."""
    flat = draws.reshape(len(draws), -1)
    rank = rankdata(flat, axis=1)
    scores: Array = ndtri((rank - 0.375) / (flat.shape[1] + 0.25))
    return scores.reshape(draws.shape)


def _rhat(draws: Array) -> Array:
    halves = _halves(draws)
    folded = np.abs(halves - np.median(halves, axis=(1, 2), keepdims=True))
    bulk, tail = (_plain_rhat(_normal_scores(each)) for each in (halves, folded))
    return np.where(tail > bulk, tail, bulk)  # where the tail's is unknown, the other


def _plain_rhat(draws: Array) -> Array:
    size = draws.shape[2]
    between = size * draws.mean(2).var(1, ddof=1)
    within = draws.var(2, ddof=1).mean(1)
    ratio: Array = np.sqrt((between / within + size - 1) / size)
    return ratio


def _ess_tail(draws: Array) -> Array:
    ends = np.quantile(draws, TAILS, axis=(1, 2))
    low, high = (_ess(_halves((draws <= end[:, None, None]).astype(float))) for end in ends)
    return np.minimum(low, high)


def _ess(draws: Array) -> Array:
    """Draws over the integrated autocorrelation time, whose even and odd lags go in pairs."""
    _, chains, size = draws.shape
    correlation = _autocorrelation(draws)
    pairs = max(1, (size - 1) // 2)  # of lags (2m, 2m + 1), as far as is looked
    even, odd = correlation[:, 0 : 2 * pairs : 2], correlation[:, 1 : 2 * pairs : 2]
    sums = even + odd
    positive = np.cumprod(sums > 0, axis=1, dtype=bool)
    last = np.minimum(positive.sum(1), pairs - 1)  # the first that is not positive is looked at too
    monotone = np.minimum.accumulate(sums, axis=1)
    before = np.arange(pairs) < last[:, None]
    rows = np.arange(len(draws))
    ending = np.where((even[rows, last] > 0) | (sums[rows, last] >= 0), even[rows, last], 0.0)
    time = -1 + 2 * np.where(before, monotone, 0.0).sum(1) + ending
    total = chains * size
    found: Array = total / np.maximum(time, 1 / np.log10(total))
    found[np.isnan(correlation).any(axis=1)] = np.nan
    constant = np.ptp(draws, axis=(1, 2)) < ALIKE
    found[constant] = total
    return found


def _autocorrelation(draws: Array) -> Array:
    """(element, lag): of all chains together, what lies between their means included."""
    _, chains, size = draws.shape
    mean = draws.mean(2)
    length = next_fast_len(2 * size)
    transformed = rfft(draws - mean[..., None], n=length, axis=2)
    power = (transformed.real**2 + transformed.imag**2).mean(1)  # the mean over chains is linear
    covariance = irfft(power, n=length, axis=1)[:, :size] / size
    within = covariance[:, :1] * size / (size - 1)
    every = covariance[:, :1] + (mean.var(1, ddof=1)[:, None] if chains > 1 else 0.0)
    found: Array = 1 - (within - covariance) / every
    found[:, 0] = 1
    return found
