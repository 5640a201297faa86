"""A multivariate normal of which some elements may not have been observed."""

from __future__ import annotations

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from storyzoo.models.distributions.inverse_wishart import cholesky, log_diagonal
from storyzoo.models.kernels.gaussian import LOG_2PI, log_normal


class PartialNormal(MultivariateNormal):  # type: ignore[misc]
    """``Normal(loc, L L^T)`` that can leave out what is missing, exactly.

    ``mask_missing(observed)`` gives the distribution whose ``log_prob`` is that of the observed
    elements alone, ``N(x_o | loc_o, S_oo)``: zero for a row of which nothing is observed. This is
    what ``mask`` on a joint event can't say, as it counts an event wholly or not at all.

    Shapes: loc (*batch, D), scale_tril (*batch, D, D), observed (*rows, D) of bool.
    """

    _observed: Tensor | None = None

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        self._apart = (loc, scale_tril)  # before they are broadcast over the rows
        super().__init__(loc, scale_tril=scale_tril, validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size, _instance: PartialNormal | None = None
    ) -> PartialNormal:
        new: PartialNormal = super().expand(
            batch_shape, self._get_checked_instance(PartialNormal, _instance)
        )
        new._apart, new._observed = self._apart, self._observed
        return new

    def mask_missing(self, observed: Tensor) -> PartialNormal:
        """The distribution of the elements where ``observed`` (*rows, D) is true."""
        new = self.expand(self.batch_shape)
        new._observed = observed
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._observed is None or bool(self._observed.all()):
            return super().log_prob(value)
        loc, factor = self._apart
        same_for_rows = loc.dim() > 1 and loc.shape[-2] == 1 and factor.shape[-3] == 1
        if same_for_rows and value.dim() == 2:
            return self._by_pattern(value)
        return self._by_row(value)

    def _by_pattern(self, value: Tensor) -> Tensor:
        """One density per pattern of missingness: loc (*batch, 1, D), value (N, D)."""
        assert self._observed is not None
        loc, factor = self._apart
        size, batch = loc.shape[-1], torch.broadcast_shapes(loc.shape[:-2], factor.shape[:-3])
        rows = torch.where(self._observed, value, torch.nan)
        locs = loc.expand(*batch, 1, size).reshape(-1, size)
        factors = factor.expand(*batch, 1, size, size).reshape(-1, size, size)
        log_density = log_normal(rows, locs, factors @ factors.mT)
        return log_density.reshape(*batch, len(value))

    def _by_row(self, value: Tensor) -> Tensor:
        """Every row with its own covariance, whose missing part is made the identity."""
        assert self._observed is not None
        loc, factor = self._apart
        seen = self._observed.to(value.dtype)
        eye = torch.eye(loc.shape[-1], dtype=value.dtype, device=value.device)
        covariance = factor @ factor.mT * seen.unsqueeze(-1) * seen.unsqueeze(-2)
        own = cholesky(covariance + (1 - seen).unsqueeze(-1) * eye)
        deviation = (value - loc) * seen
        whitened = torch.linalg.solve_triangular(own, deviation.unsqueeze(-1), upper=False)
        squared = whitened.square().sum((-2, -1))
        return -0.5 * (squared + seen.sum(-1) * LOG_2PI) - log_diagonal(own)
