"""Densities and conditionals of K Gaussians where values of a row may be missing (NaN).

Rows with the same pattern of missingness share a marginal ``N(loc_o, S_oo)``; the patterns depend
on the data alone, so a density traces and maps over parameters. Shapes: y (N, D), loc (K, D),
covariance (K or 1, D, D), variance (K, D). Source: Ghahramani and Jordan (1994), "Supervised
learning from incomplete data via an EM approach", NIPS 6.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.models.distributions.inverse_wishart import cholesky, log_diagonal

LOG_2PI = math.log(2 * math.pi)


class Pattern(NamedTuple):
    """The rows in which the same columns are observed."""

    rows: Tensor
    observed: Tensor
    """Columns that are observed, ascending; so ``missing``."""
    missing: Tensor


class Conditional(NamedTuple):
    """The missing values given the observed: ``N(loc_m + regression (x_o - loc_o), residual)``."""

    regression: Tensor
    """(K or 1, M, O): ``S_mo S_oo^-1``."""
    residual: Tensor
    """(K or 1, M, M): ``S_mm - S_mo S_oo^-1 S_om``."""


def has_missing(y: Tensor) -> bool:
    """Whether any value is NaN; the sum is NaN only then, as data hold no infinity."""
    return bool(torch.isnan(y.sum()))


def patterns(y: Tensor) -> list[Pattern]:
    """Groups the rows of y (N, D) by which columns are observed."""
    observed = ~torch.isnan(y).cpu().numpy()
    codes = np.zeros(len(observed), dtype=np.int64)
    for start in range(0, observed.shape[1], 32):
        block = observed[:, start : start + 32].astype(np.int64)
        bits = block @ (1 << np.arange(block.shape[1], dtype=np.int64))
        _, codes = np.unique(np.stack([codes, bits]), axis=1, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return [
        Pattern(
            *(
                torch.as_tensor(index, dtype=torch.long, device=y.device)
                for index in (rows, np.flatnonzero(observed[rows[0]]), _absent(observed[rows[0]]))
            )
        )
        for rows in np.split(order, starts[1:])
    ]


def _absent(observed: np.ndarray) -> np.ndarray:
    return np.flatnonzero(~observed)


def conditional(covariance: Tensor, pattern: Pattern) -> Conditional:
    """How the missing columns of a pattern follow from the observed ones."""
    o, m = pattern.observed, pattern.missing
    cross = covariance[:, o][:, :, m]
    regression = torch.cholesky_solve(cross, cholesky(covariance[:, o][:, :, o])).mT
    residual = covariance[:, m][:, :, m] - regression @ cross
    return Conditional(regression, 0.5 * (residual + residual.mT))


def log_normal(y: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
    """``log N(x_n | loc_k, S_k)`` of what is observed in each row: (K, N), nats."""
    if not has_missing(y):
        return _log_normal_complete(y, loc, covariance)
    groups = patterns(y)
    parts = [
        _log_normal_complete(
            y[group.rows][:, group.observed],
            loc[:, group.observed],
            covariance[:, group.observed][:, :, group.observed],
        )
        for group in groups
    ]
    back = torch.argsort(torch.cat([group.rows for group in groups]))
    return torch.cat(parts, 1)[:, back]


def _log_normal_complete(y: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
    """All whitened deviations by one matrix product, about the data's mean against cancellation."""
    (n, size), k = y.shape, loc.shape[0]
    if size == 0:
        return (loc.sum(-1, keepdim=True) * 0).expand(k, n)
    factor = cholesky(covariance)
    whitener = torch.linalg.solve_triangular(
        factor, torch.eye(size, dtype=y.dtype, device=y.device), upper=False
    ).expand(k, size, size)
    shift = y.mean(0)
    centre = (whitener @ (loc - shift).unsqueeze(-1)).reshape(k * size, 1)
    whitened = whitener.reshape(k * size, size) @ (y - shift).mT - centre
    squared = whitened.square().reshape(k, size, n).sum(1)
    constant = log_diagonal(factor) + 0.5 * size * LOG_2PI
    return -0.5 * squared - constant.unsqueeze(-1)


def log_normal_independent(y: Tensor, loc: Tensor, variance: Tensor) -> Tensor:
    """The same for diagonal covariances, variance (K, D): a missing value drops its term."""
    observed = ~torch.isnan(y)
    deviation = torch.where(observed, y, 0.0) - loc.unsqueeze(1)
    squared = deviation.square() / variance.unsqueeze(1)
    terms = -0.5 * (squared + variance.log().unsqueeze(1) + LOG_2PI)
    return torch.where(observed, terms, 0.0).sum(-1)
