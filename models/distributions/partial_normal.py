"""A multivariate normal of which some elements may not have been observed."""

from __future__ import annotations

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from storyzoo.models.distributions.inverse_wishart import Size, cholesky, log_diagonal
from storyzoo.models.kernels.gaussian import LOG_2PI

_BLOCK_ENTRIES = 2**22
"""Entries of the covariance matrices that are held at a time."""


class PartialNormal(MultivariateNormal):
    """``Normal(loc, L L^T)`` that can leave out what is missing, exactly.

    ``mask_missing(observed)`` gives the distribution whose ``log_prob`` is that of the observed
    elements alone, ``N(x_o | loc_o, S_oo)``: zero for a row of which nothing is observed. This is
    what ``mask`` on a joint event can't say, as it counts an event wholly or not at all.

    Shapes: loc (*batch, D), scale_tril (*batch, D, D), observed (*rows, D) of bool.
    """

    _observed: Tensor | None = None

    def expand(self, batch_shape: Size, _instance: PartialNormal | None = None) -> PartialNormal:
        new = self._get_checked_instance(PartialNormal, _instance)  # type: ignore[no-untyped-call]
        new = super().expand(batch_shape, new)  # type: ignore[no-untyped-call]
        new._observed = self._observed
        partial: PartialNormal = new
        return partial

    def mask_missing(self, observed: Tensor) -> PartialNormal:
        """The distribution of the elements where ``observed`` (*rows, D) is true."""
        new = self.expand(self.batch_shape)
        new._observed = observed
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Each row's own covariance with its missing part made the identity, in blocks of rows."""
        if self._observed is None:
            return super().log_prob(value)  # type: ignore[no-any-return,no-untyped-call]
        parts = (self.loc, self.scale_tril, value, self._observed)
        if not self.batch_shape:
            return _log_observed(*parts)
        size, rows = self.event_shape[0], self.batch_shape[-1]
        step = max(1, _BLOCK_ENTRIES * rows // (self.batch_shape.numel() * size * size))
        blocks = (
            part.expand(*part.shape[: -1 - events], rows, *part.shape[-events:]).split(
                step, -1 - events
            )
            for part, events in zip(parts, (1, 2, 1, 1), strict=True)
        )
        return torch.cat([_log_observed(*block) for block in zip(*blocks, strict=True)], -1)


def _log_observed(loc: Tensor, factor: Tensor, value: Tensor, observed: Tensor) -> Tensor:
    seen = observed.to(loc.dtype)
    eye = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
    covariance = factor @ factor.mT * seen.unsqueeze(-1) * seen.unsqueeze(-2)
    own = cholesky(covariance + (1 - seen).unsqueeze(-1) * eye)
    deviation = torch.where(observed, value - loc, 0.0)
    whitened = torch.linalg.solve_triangular(own, deviation.unsqueeze(-1), upper=False)
    squared = whitened.square().sum((-2, -1))
    log_density: Tensor = -0.5 * (squared + seen.sum(-1) * LOG_2PI) - log_diagonal(own)
    return log_density
