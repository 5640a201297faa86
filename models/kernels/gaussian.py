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
    return bool(torch.isnan(y.sum())) if y.is_cuda else bool(np.isnan(_values(y).sum()))


def complete_rows(y: Tensor) -> np.ndarray:
    """Which rows of y (…, D) miss nothing, in one row."""
    complete: np.ndarray = ~np.isnan(_values(y)).any(-1).ravel()
    return complete


def _values(y: Tensor) -> np.ndarray:
    """The data as numpy sees them, unseen by tracers: which values are missing is no parameter."""
    return np.from_dlpack(y.cpu() if y.is_cuda else y)


def patterns(y: Tensor) -> list[Pattern]:
    """Groups the rows of y (N, D) by which columns are observed."""
    observed = ~np.isnan(_values(y))
    return [
        Pattern(
            torch.as_tensor(rows, device=y.device),
            torch.as_tensor(np.flatnonzero(observed[rows[0]]), device=y.device),
            torch.as_tensor(np.flatnonzero(~observed[rows[0]]), device=y.device),
        )
        for rows in _groups(observed)
    ]


def _groups(observed: np.ndarray) -> list[np.ndarray]:
    """Indices of the rows that are alike in a table (N, D) of bool."""
    codes = np.zeros(len(observed), dtype=np.int64)
    for start in range(0, observed.shape[1], 32):
        block = observed[:, start : start + 32].astype(np.int64)
        bits = block @ (1 << np.arange(block.shape[1], dtype=np.int64))
        _, codes = np.unique(codes * (1 << 32) + bits, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    return np.split(order, starts)


def conditional(covariance: Tensor, pattern: Pattern) -> Conditional:
    """How the missing columns of a pattern follow from the observed ones."""
    o, m = pattern.observed, pattern.missing
    cross = covariance[:, o][:, :, m]
    regression = torch.cholesky_solve(cross, cholesky(covariance[:, o][:, :, o])).mT
    residual = covariance[:, m][:, :, m] - regression @ cross
    return Conditional(regression, 0.5 * (residual + residual.mT))


class Tiles(NamedTuple):
    """Rows laid out in Q tiles of T rows, each of one pattern: constants of the data.

    A pattern with many rows fills several tiles, one with few pads its tile with zeros, so that
    the work is a fixed number of batched operations whatever the patterns.
    """

    seen: Tensor
    """(P, D): one where a pattern observes the column, else zero."""
    of: Tensor
    """(Q,): pattern of each tile."""
    deviation: Tensor
    """(Q, D, T): values less the columns' means; zero where missing."""
    shift: Tensor
    """(D,): the columns' means."""
    place: Tensor
    """(N,): where each row lies in the tiles, counted along Q and T."""


def _tiles(y: Tensor) -> Tiles:
    values = _values(y)
    observed = ~np.isnan(values)
    shift = np.where(observed, values, 0.0).sum(0) / np.maximum(observed.sum(0), 1)
    deviation = np.where(observed, values - shift, 0.0)
    groups = _groups(observed)
    width = -(-len(values) // len(groups))
    tiles = [
        (p, rows[i : i + width])
        for p, rows in enumerate(groups)
        for i in range(0, len(rows), width)
    ]
    laid = np.zeros((len(tiles), width, values.shape[1]), dtype=values.dtype)
    place = np.empty(len(values), dtype=np.int64)
    for q, (_, rows) in enumerate(tiles):
        laid[q, : len(rows)] = deviation[rows]
        place[rows] = q * width + np.arange(len(rows))
    seen = observed[[rows[0] for rows in groups]].astype(values.dtype)
    constants = (seen, np.array([p for p, _ in tiles]), laid.swapaxes(1, 2), shift, place)
    return Tiles(*(torch.as_tensor(constant, device=y.device) for constant in constants))


def log_normal(y: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
    """``log N(x_n | loc_k, S_k)`` of what is observed in each row: (K, N), nats.

    Per pattern the missing rows and columns of the covariance are made the identity, whose
    deviations are zero; deviations are about the data's mean, against cancellation.
    """
    tiles, (k, size) = _tiles(y), loc.shape
    seen = tiles.seen.unsqueeze(1)
    eye = torch.eye(size, dtype=y.dtype, device=y.device)
    own = covariance * seen.unsqueeze(-1) * seen.unsqueeze(-2) + eye * (1 - seen).unsqueeze(-1)
    factor = cholesky(own)
    whitener = torch.linalg.solve_triangular(factor, eye, upper=False)
    centre = whitener @ ((loc - tiles.shift) * seen).unsqueeze(-1)
    constant = log_diagonal(factor) + 0.5 * LOG_2PI * seen.sum(-1)
    patterns, q = len(tiles.seen), len(tiles.of)
    whitener = whitener.expand(patterns, k, size, size).reshape(patterns, k * size, size)
    centre = centre.reshape(patterns, k * size, 1)
    whitened = whitener[tiles.of] @ tiles.deviation - centre[tiles.of]
    squared = whitened.square().reshape(q, k, size, -1).sum(2)
    log_density: Tensor = -0.5 * squared - constant.expand(patterns, k)[tiles.of].unsqueeze(-1)
    return log_density.movedim(1, 0).reshape(k, -1)[:, tiles.place]


def log_normal_independent(y: Tensor, loc: Tensor, variance: Tensor) -> Tensor:
    """The same for diagonal covariances, variance (K, D): a missing value drops its term."""
    observed = ~torch.isnan(y)
    deviation = torch.where(observed, y, 0.0) - loc.unsqueeze(1)
    squared = deviation.square() / variance.unsqueeze(1)
    terms = -0.5 * (squared + variance.log().unsqueeze(1) + LOG_2PI)
    return torch.where(observed, terms, 0.0).sum(-1)
