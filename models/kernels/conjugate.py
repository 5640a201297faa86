"""The M-step of a Gaussian mixture in closed form, under conjugate priors or none.

Each component has expected count n, mean xbar and scatter S about it. Under the prior
``loc | S ~ N(centre, S / shrinkage)`` with an inverse-Wishart(df, diag(scatter)) covariance, the
joint mode is

    loc        = (n xbar + shrinkage centre) / (n + shrinkage)
    covariance = (scatter + S + n shrinkage / (n + shrinkage) (xbar - centre)(xbar - centre)^T)
                 / (df + n + D + 2)

With one covariance for all K components the sum runs over them and the divisor is
``df + N + K + D + 1``; with inverse-gamma(df/2, scatter/2) variances it is ``df + n + 3`` per
feature and ``df + D (n + 1) + 2`` for one variance per component. Without a prior the divisors
are counts, and covariances are the most likely ones whose eigenvalues are not below a floor: then
too the step maximises, so that EM never goes down.

Source: Fraley and Raftery (2007), "Bayesian regularization for normal mixture estimation and
model-based clustering", Journal of Classification 24, whose divisors these are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST = 1e-10
"""Rows that a component counts at least, lest its weight be zero."""


Expected = Mapping[str, Tensor]
"""Summed statistics of :func:`storyzoo.models.kernels.gmm.expect`."""


class Conjugate(NamedTuple):
    """Hyperparameters of the prior of locations and covariances."""

    centre: Tensor
    """(D,), in the units of y."""
    shrinkage: float
    """How many rows the centre is worth."""
    df: float
    scatter: Tensor
    """(D,): diagonal of the inverse-Wishart's scale, in squared units of y."""


class Fitted(NamedTuple):
    """Locations (K, D), and the scatter about their rows' means plus the prior's pull."""

    loc: Tensor
    scatter: Tensor


Square = Callable[[Tensor, Tensor], Tensor]
"""Squares of deviations (K, D) times weights (K, D) or (K, 1), as the second moments have them."""


def weights(count: Tensor, concentration: float | Tensor) -> Tensor:
    """Mode of the Dirichlet posterior (…, K); ``concentration`` 1 gives the shares of the rows.

    Below one there is none on the simplex: then the mode in the softmax basis (MacKay 1998).
    """
    basis = 1.0 if bool(torch.as_tensor(concentration >= 1.0).all()) else 0.0
    raised = (count + concentration - basis).clamp(min=_LEAST)
    return raised / raised.sum(-1, keepdim=True)


def full(expected: Expected, prior: Conjugate | None, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Locations (K, D) and covariances (K, D, D)."""
    count, size = expected["count"], expected["first"].shape[1]
    found = _fit(expected, prior, count.unsqueeze(-1), _outer)
    if prior is None:
        share = found.scatter / count.clamp(min=_LEAST)[:, None, None]
        return found.loc, floor_eigenvalues(share, floor)
    divisor = prior.df + count + size + 2
    return found.loc, (found.scatter + prior.scatter.diag()) / divisor[:, None, None]


def tied(expected: Expected, prior: Conjugate | None, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Locations (K, D) and their common covariance (D, D)."""
    count = expected["count"]
    k, size = expected["first"].shape
    found = _fit(expected, prior, count.unsqueeze(-1), _pooled)
    if prior is None:
        return found.loc, floor_eigenvalues(found.scatter / count.sum(), floor)
    divisor = prior.df + count.sum() + k + size + 1
    return found.loc, (found.scatter + prior.scatter.diag()) / divisor


def diagonal(expected: Expected, prior: Conjugate | None, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Locations (K, D) and variances (K, D); a missing value counts nowhere."""
    seen = expected["seen"]
    found = _fit(expected, prior, seen, _each)
    if prior is None:
        return found.loc, torch.maximum(found.scatter / seen.clamp(min=_LEAST), floor)
    return found.loc, (found.scatter + prior.scatter) / (prior.df + seen + 3)


def spherical(expected: Expected, prior: Conjugate | None, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Locations (K, D) and one variance per component (K,)."""
    seen = expected["seen"]
    found = _fit(expected, prior, seen, _each)
    scatter, values = found.scatter.sum(-1), seen.sum(-1)
    if prior is None:
        return found.loc, torch.maximum(scatter / values.clamp(min=_LEAST), floor.mean())
    size = found.loc.shape[1]
    return found.loc, (scatter + prior.scatter.mean()) / (prior.df + values + size + 2)


def _fit(expected: Expected, prior: Conjugate | None, seen: Tensor, square: Square) -> Fitted:
    """From moments about the origins; ``seen`` (K, D) or (K, 1) counts the observed values."""
    origin = expected["origin"] / expected["rows"]
    moved = expected["first"] / seen.clamp(min=_LEAST)
    scatter = expected["second"] - square(moved, seen)
    if prior is None:
        return Fitted(origin + moved, scatter)
    total = seen + prior.shrinkage
    step = (expected["first"] + prior.shrinkage * (prior.centre - origin)) / total
    pull = square(origin + moved - prior.centre, seen * prior.shrinkage / total)
    return Fitted(origin + step, scatter + pull)


def _outer(deviation: Tensor, weight: Tensor) -> Tensor:
    return (weight * deviation).unsqueeze(-1) * deviation.unsqueeze(-2)


def _pooled(deviation: Tensor, weight: Tensor) -> Tensor:
    return (weight * deviation).mT @ deviation


def _each(deviation: Tensor, weight: Tensor) -> Tensor:
    return weight * deviation.square()


def floor_eigenvalues(covariance: Tensor, floor: Tensor) -> Tensor:
    """The most likely covariance among those that exceed ``diag(floor)`` in every direction.

    In units where the floor is one, raising the eigenvalues of the sample covariance that lie
    below it, and no others, maximises the normal likelihood under that constraint.
    """
    unit = torch.outer(floor, floor).sqrt()
    relative = 0.5 * (covariance + covariance.mT) / unit
    eye = torch.eye(len(floor), dtype=floor.dtype, device=floor.device)
    if not torch.linalg.cholesky_ex(relative - eye).info.any():
        return relative * unit
    values, vectors = torch.linalg.eigh(relative)
    root = vectors * values.clamp(min=1.0).sqrt().unsqueeze(-2)
    raised: Tensor = root @ root.mT * unit
    return raised
