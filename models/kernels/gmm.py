"""The E-step of a Gaussian mixture as two matrix products per block of rows.

With precisions ``P_k``, in coordinates shifted and scaled to the mixture's own mean and spread,

    log w_k N(x | loc_k, P_k^-1) = sum_{i<=j} a_kij x_i x_j + sum_i b_ki x_i + c_k

is linear in the features ``(x_i x_j, x_i, 1)``: one product of the natural parameters (K, F) with
a block of features (F, rows) gives the log joint, and one product of the responsibilities with
the same block gives all moments. Blocks fit the cache; the accumulators are float64. Diagonal
covariances need only the features ``(x_i^2, x_i, 1)``, and a mask where values are missing.

Squares about one common shift cancel where a component is very narrow for the mixture's spread;
then each block is centred on each component instead, in float64, which costs several times more.

Moments are about each component's own location, the ``origin``, so that the M-step has nothing to
cancel; ``origin`` and ``rows`` travel with them and everything adds up over chunks, which a caller
may run in threads of its own: blocks are too small to be worth sharing out within one.

Source: Dempster, Laird and Rubin (1977), JRSS B 39(1); with missing values Ghahramani and Jordan
(1994), NIPS 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from storyzoo.models.distributions.inverse_wishart import cholesky, log_diagonal
from storyzoo.models.kernels.gaussian import LOG_2PI, Pattern, conditional, has_missing, patterns

_BLOCK_ENTRIES = 2048 * 153
"""Features per block: 2048 rows of 16 columns, which stay in a core's second-level cache."""
_MOST_ROWS = 16384
_ROUNDING = {torch.float64: 1e-8, torch.float32: 2e-3}
"""Largest rounding error of a row's log density that the common shift may make, in nats."""


class Mixture(NamedTuple):
    """Parameters of K Gaussians; one of covariance (K or 1, D, D) and variance (K, D) is given."""

    weight: Tensor
    loc: Tensor
    covariance: Tensor | None = None
    variance: Tensor | None = None


class Moments(NamedTuple):
    """Sums over rows, about each component's location."""

    log_likelihood: Tensor
    mass: Tensor
    """(K,): expected number of rows."""
    first: Tensor
    """(K, D): ``sum_n r_nk (x_n - loc_k)``."""
    second: Tensor
    """(K, D, D), or (K, D) for variances."""
    seen: Tensor | None = None
    """(K, D), for variances: expected number of observed values."""


class Frame(NamedTuple):
    """Coordinates ``(x - shift) / scale`` in which squares stay near one."""

    shift: Tensor
    scale: Tensor


Fill = Callable[[Tensor, Tensor, Frame], None]
"""Writes the features of rows (B, D) into a block (F, B)."""


def expect(mixture: Mixture, y: Tensor, hard: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Log likelihood (nats) and additive statistics of the rows y (N, D), NaN where missing.

    ``rows`` (), ``origin`` (K, D) = rows * loc, ``count`` (K,), ``first`` (K, D), and ``second``:
    (K, D, D) for full covariances, summed to (D, D) for a tied one; (K, D) for variances, where
    ``seen`` (K, D) counts the observed values. With ``hard`` each row belongs to its best
    component alone and the log likelihood is the joint one at that label.
    """
    with torch.no_grad(), one_thread():
        mixture = _in_double(mixture)
        if mixture.covariance is None:
            moments = _independent(mixture, y, hard)
        elif has_missing(y):
            moments = _with_missing(mixture, y, hard)
        else:
            moments = _complete(mixture, y, hard)
        rows = moments.mass.new_tensor(len(y))
        statistics = {
            "rows": rows,
            "origin": rows * mixture.loc,
            "count": moments.mass,
            "first": moments.first,
            "second": moments.second,
        }
        if moments.seen is not None:
            statistics["seen"] = moments.seen
        if mixture.covariance is not None and len(mixture.covariance) < len(mixture.loc):
            statistics["second"] = moments.second.sum(0)
        return moments.log_likelihood, statistics


@contextmanager
def one_thread() -> Iterator[None]:
    """No threads within an operation, where they would wait for each other at every block."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_double(mixture: Mixture) -> Mixture:
    return Mixture(
        mixture.weight.double(),
        mixture.loc.double(),
        None if mixture.covariance is None else mixture.covariance.double(),
        None if mixture.variance is None else mixture.variance.double(),
    )


# -- full and tied covariances ---------------------------------------------------------------


def _complete(mixture: Mixture, y: Tensor, hard: bool) -> Moments:
    assert mixture.covariance is not None
    size = y.shape[1]
    factor = cholesky(mixture.covariance)
    frame = _frame(mixture, mixture.covariance.diagonal(dim1=-2, dim2=-1))
    whitener = torch.linalg.solve_triangular(factor, frame.scale.diag(), upper=False)
    constant = _log(mixture.weight) - log_diagonal(factor) - 0.5 * size * LOG_2PI
    if _cancels(whitener.square().sum((-2, -1)), y.dtype):
        return _complete_centred(mixture.loc, whitener / frame.scale, constant, y, hard)
    mean = (mixture.loc - frame.shift) / frame.scale
    precision = whitener.mT @ whitener
    linear = (precision @ mean.unsqueeze(-1)).squeeze(-1)
    constant = constant - 0.5 * (linear * mean).sum(-1)
    i, j = torch.triu_indices(size, size, device=y.device)
    quadratic = precision[:, i, j] * torch.where(i == j, -0.5, -1.0)
    natural = torch.cat([quadratic.expand(len(mean), -1), linear, constant.unsqueeze(-1)], 1)
    log_likelihood, sums = _sweep(natural, y, frame, _fill_products, hard)
    products, first, count = sums.split([len(i), size, 1], 1)
    second = sums.new_empty(len(mean), size, size)
    second[:, i, j] = second[:, j, i] = products
    crossed = first.unsqueeze(-1) * mean.unsqueeze(-2)
    second += count.unsqueeze(-1) * mean.unsqueeze(-1) * mean.unsqueeze(-2) - crossed - crossed.mT
    return Moments(
        log_likelihood,
        count.squeeze(-1),
        (first - count * mean) * frame.scale,
        second * torch.outer(frame.scale, frame.scale),
    )


def _fill_products(block: Tensor, rows: Tensor, frame: Frame) -> None:
    """Features ``x_i x_j`` for i <= j, then ``x_i``, then one."""
    size = rows.shape[1]
    x = block[-1 - size : -1]
    _into_frame(rows, frame, x)
    at = 0
    for i in range(size):
        torch.mul(x[i], x[i:], out=block[at : at + size - i])
        at += size - i


def _complete_centred(
    loc: Tensor, whitener: Tensor, constant: Tensor, y: Tensor, hard: bool
) -> Moments:
    """The same sums with each block centred on each component: nothing cancels."""
    k, size = loc.shape
    total, count, first = loc.new_zeros(()), loc.new_zeros(k), torch.zeros_like(loc)
    second = loc.new_zeros(k, size, size)
    for rows in y.split(_rows_per_block(k * size)):
        deviation = rows.double().mT - loc.unsqueeze(-1)
        log_joint = constant.unsqueeze(-1) - 0.5 * (whitener @ deviation).square().sum(1)
        total += _to_responsibility(log_joint, hard)
        weighted = deviation * log_joint.unsqueeze(1)
        count += log_joint.sum(1)
        first += weighted.sum(-1)
        second += weighted @ deviation.mT
    return Moments(total, count, first, second)


def _with_missing(mixture: Mixture, y: Tensor, hard: bool) -> Moments:
    """Each pattern of missingness by itself: its observed moments, carried over to all columns.

    What is missing has its conditional mean, linear in the observed deviation, and adds its
    conditional covariance to the second moment.
    """
    assert mixture.covariance is not None
    k, size = mixture.loc.shape
    total, count = mixture.loc.new_zeros(()), mixture.loc.new_zeros(k)
    first, second = torch.zeros_like(mixture.loc), mixture.loc.new_zeros(k, size, size)
    for pattern in patterns(y):
        o, m = pattern.observed, pattern.missing
        seen = _of_pattern(mixture, y, pattern, hard)
        given = conditional(mixture.covariance, pattern)
        carry = mixture.loc.new_zeros(len(mixture.covariance), size, len(o))
        carry[:, o, torch.arange(len(o), device=o.device)] = 1.0
        carry[:, m] = given.regression
        total += seen.log_likelihood
        count += seen.mass
        first += (carry @ seen.first.unsqueeze(-1)).squeeze(-1)
        second += carry @ seen.second @ carry.mT
        second[:, m.unsqueeze(-1), m] += seen.mass[:, None, None] * given.residual
    return Moments(total, count, first, second)


def _of_pattern(mixture: Mixture, y: Tensor, pattern: Pattern, hard: bool) -> Moments:
    """Moments of the observed columns of a pattern's rows; rows without any follow the weights."""
    assert mixture.covariance is not None
    o, n = pattern.observed, len(pattern.rows)
    if len(o):
        covariance = mixture.covariance[:, o][:, :, o]
        seen = Mixture(mixture.weight, mixture.loc[:, o], covariance)
        return _complete(seen, y[pattern.rows][:, o], hard)
    log_joint = _log(mixture.weight).unsqueeze(-1).repeat(1, n)
    total = _to_responsibility(log_joint, hard)
    k = len(mixture.loc)
    nothing = mixture.loc.new_zeros(k, 0)
    return Moments(total, log_joint.sum(1), nothing, nothing.new_zeros(k, 0, 0))


# -- variances: independent features ---------------------------------------------------------


def _independent(mixture: Mixture, y: Tensor, hard: bool) -> Moments:
    assert mixture.variance is not None
    size, missing = y.shape[1], has_missing(y)
    frame = _frame(mixture, mixture.variance)
    precision = frame.scale.square() / mixture.variance
    if _cancels(precision.sum(-1), y.dtype):
        return _independent_centred(mixture, y, hard)
    mean = (mixture.loc - frame.shift) / frame.scale
    log_weight = _log(mixture.weight).unsqueeze(-1)
    constant = -0.5 * (mixture.variance.log() + LOG_2PI + precision * mean.square())
    terms = [constant, log_weight] if missing else [constant.sum(-1, keepdim=True) + log_weight]
    natural = torch.cat([-0.5 * precision, precision * mean, *terms], 1)
    fill = _fill_masked_squares if missing else _fill_squares
    log_likelihood, sums = _sweep(natural, y, frame, fill, hard)
    squares, first, count = sums[:, :size], sums[:, size : 2 * size], sums[:, -1]
    seen = sums[:, 2 * size : -1] if missing else count.unsqueeze(-1).expand_as(first)
    second = squares - 2 * mean * first + seen * mean.square()
    moved = (first - seen * mean) * frame.scale
    return Moments(log_likelihood, count, moved, second * frame.scale.square(), seen)


def _fill_squares(block: Tensor, rows: Tensor, frame: Frame) -> None:
    """Features ``x_i^2``, then ``x_i``, then one."""
    size = rows.shape[1]
    x = block[size : 2 * size]
    _into_frame(rows, frame, x)
    torch.square(x, out=block[:size])


def _fill_masked_squares(block: Tensor, rows: Tensor, frame: Frame) -> None:
    """Features ``x_i^2``, ``x_i``, whether column i is observed, then one; zero where missing."""
    size = rows.shape[1]
    x = block[size : 2 * size]
    _into_frame(rows, frame, x)
    missing = torch.isnan(x)
    x.masked_fill_(missing, 0.0)
    torch.square(x, out=block[:size])
    block[2 * size : 3 * size] = ~missing


def _independent_centred(mixture: Mixture, y: Tensor, hard: bool) -> Moments:
    """The same sums with each block centred on each component: nothing cancels."""
    assert mixture.variance is not None
    loc, variance = mixture.loc, mixture.variance
    k, size = loc.shape
    total, count = loc.new_zeros(()), loc.new_zeros(k)
    first, second, seen = torch.zeros_like(loc), torch.zeros_like(loc), torch.zeros_like(loc)
    log_terms = -0.5 * (variance.log() + LOG_2PI)
    for rows in y.split(_rows_per_block(k * size)):
        deviation = rows.double().mT - loc.unsqueeze(-1)
        observed = (~torch.isnan(rows.mT)).double()
        deviation.nan_to_num_(0.0)
        log_joint = (deviation.square() / variance.unsqueeze(-1)).sum(1).mul_(-0.5)
        log_joint += log_terms @ observed + _log(mixture.weight).unsqueeze(-1)
        total += _to_responsibility(log_joint, hard)
        weighted = deviation * log_joint.unsqueeze(1)
        count += log_joint.sum(1)
        first += weighted.sum(-1)
        second += (weighted * deviation).sum(-1)
        seen += log_joint @ observed.mT
    return Moments(total, count, first, second, seen)


# -- the pieces they share -------------------------------------------------------------------


def _sweep(
    natural: Tensor, y: Tensor, frame: Frame, fill: Fill, hard: bool
) -> tuple[Tensor, Tensor]:
    """Log likelihood and the sums (K, F) of all features, each weighted by responsibility."""
    k, width = natural.shape
    frame = Frame(frame.shift.to(y.dtype).unsqueeze(-1), frame.scale.to(y.dtype).unsqueeze(-1))
    step = min(_rows_per_block(width), len(y))
    block = y.new_empty(width, step)
    block[-1] = 1.0
    parameters = natural.to(y.dtype)
    log_likelihood, sums = natural.new_zeros(()), torch.zeros_like(natural)
    for rows in y.split(step):
        features = block[:, : len(rows)]
        fill(features, rows, frame)
        log_joint = parameters @ features
        log_likelihood += _to_responsibility(log_joint, hard)
        sums += log_joint @ features.mT
    return log_likelihood, sums


def _to_responsibility(log_joint: Tensor, hard: bool) -> Tensor:
    """Turns log_joint (K, N) in place into responsibilities; the summed log likelihood."""
    if hard:
        peak, best = log_joint.max(0)
        log_joint.zero_().scatter_(0, best.unsqueeze(0), 1.0)
        return peak.sum(dtype=torch.float64)
    peak = log_joint.amax(0)
    total = log_joint.sub_(peak).exp_().sum(0)
    log_joint.div_(total)
    return (total.log_() + peak).sum(dtype=torch.float64)


def _into_frame(rows: Tensor, frame: Frame, out: Tensor) -> None:
    torch.sub(rows.mT, frame.shift, out=out)
    out.div_(frame.scale)


def _frame(mixture: Mixture, variance: Tensor) -> Frame:
    """Mean and standard deviation of the mixture itself: the same for every chunk of a step."""
    weight = mixture.weight.unsqueeze(-1)
    shift = (weight * mixture.loc).sum(0)
    spread = (weight * (variance + (mixture.loc - shift).square())).sum(0)
    return Frame(shift, spread.sqrt())


def _cancels(largest_precision: Tensor, dtype: torch.dtype) -> bool:
    """Whether squares about the common shift lose too much, given precisions in the frame."""
    return float(largest_precision.max()) * torch.finfo(dtype).eps > _ROUNDING[dtype]


def _rows_per_block(width: int) -> int:
    return max(64, min(_BLOCK_ENTRIES // width, _MOST_ROWS))


def _log(weight: Tensor) -> Tensor:
    return weight.clamp(min=torch.finfo(weight.dtype).tiny).log()
