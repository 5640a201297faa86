"""The inverse-Wishart distribution, the conjugate prior of a normal covariance."""

from __future__ import annotations

import math

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

Size = torch.Size | list[int] | tuple[int, ...]


class InverseWishart(TorchDistribution):
    """Random covariance matrices ``S`` whose inverse is Wishart(df, scale^-1).

    ::

        log p(S) = (df/2) log|scale| - (df D/2) log 2 - log Gamma_D(df/2)
                   - ((df + D + 1)/2) log|S| - tr(scale S^-1)/2

    ``df`` (*batch) must exceed D - 1; ``scale`` (*batch, D, D) is positive definite, in the units
    of ``S``. Everything goes through Cholesky factors, without a branch on a value: a matrix that
    has none, numerically, has the log density NaN.

    Source: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., Appendix A; drawn by Bartlett's
    decomposition (1933).
    """

    arg_constraints = {"df": constraints.positive, "scale": constraints.positive_definite}
    support = constraints.positive_definite
    has_rsample = True

    def __init__(self, df: Tensor | float, scale: Tensor, validate_args: bool | None = None):
        df = torch.as_tensor(df, dtype=scale.dtype, device=scale.device)
        batch_shape = torch.broadcast_shapes(df.shape, scale.shape[:-2])
        self.df = df.expand(batch_shape)
        self.scale = scale.expand(*batch_shape, *scale.shape[-2:])
        self._factor = cholesky(scale).expand_as(self.scale)
        super().__init__(batch_shape, scale.shape[-2:], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: InverseWishart | None = None) -> InverseWishart:
        batch_shape = torch.Size(batch_shape)
        new: InverseWishart = self._get_checked_instance(InverseWishart, _instance)  # type: ignore[no-untyped-call]
        new.df = self.df.expand(batch_shape)
        new.scale = self.scale.expand(*batch_shape, *self.event_shape)
        new._factor = self._factor.expand_as(new.scale)
        super(InverseWishart, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        size = self.event_shape[-1]
        factor = cholesky(value)
        whitened = torch.linalg.solve_triangular(factor, self._factor, upper=False)
        log_density: Tensor = (
            self.df * log_diagonal(self._factor)
            - (self.df + size + 1) * log_diagonal(factor)
            - 0.5 * whitened.square().sum((-2, -1))
            - 0.5 * size * math.log(2.0) * self.df
            - _log_multivariate_gamma(0.5 * self.df, size)
        )
        return log_density

    def rsample(self, sample_shape: Size = ()) -> Tensor:
        """``S = L A^-T A^-1 L^T`` where ``scale = L L^T`` and ``A A^T`` is Wishart(df, I)."""
        shape = self._extended_shape(sample_shape)
        size = shape[-1]
        below = torch.randn(shape, dtype=self.df.dtype, device=self.df.device).tril(-1)
        degrees = self.df.unsqueeze(-1) - torch.arange(size, dtype=self.df.dtype).to(self.df.device)
        chi2 = 2.0 * torch._standard_gamma(0.5 * degrees.expand(shape[:-1]))
        bartlett = below + torch.diag_embed(chi2.sqrt())
        root = torch.linalg.solve_triangular(bartlett, self._factor.mT.expand(shape), upper=False)
        draw: Tensor = root.mT @ root
        return draw

    @property
    def mean(self) -> Tensor:
        """``scale / (df - D - 1)``, infinite where df is not above D + 1."""
        excess = (self.df - self.event_shape[-1] - 1)[..., None, None]
        return torch.where(excess > 0, self.scale / excess, torch.full_like(self.scale, math.inf))

    @property
    def mode(self) -> Tensor:
        """``scale / (df + D + 1)``."""
        return self.scale / (self.df + self.event_shape[-1] + 1)[..., None, None]


def cholesky(matrix: Tensor) -> Tensor:
    """The lower Cholesky factor; NaN where there is none, so that it traces and maps."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    return torch.where((info == 0)[..., None, None], factor, math.nan)


def log_diagonal(factor: Tensor) -> Tensor:
    """``sum_i log L_ii``: half the log determinant of ``L L^T``."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _log_multivariate_gamma(a: Tensor, size: int) -> Tensor:
    """``log Gamma_D(a)``; torch's own checks its argument, which can't be traced."""
    halves = 0.5 * torch.arange(size, dtype=a.dtype).to(a.device)
    constant = 0.25 * size * (size - 1) * math.log(math.pi)
    return torch.lgamma(a.unsqueeze(-1) - halves).sum(-1) + constant
