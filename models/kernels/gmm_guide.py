"""The variational family of a Gaussian mixture that its conjugate priors suggest.

::

    weight       ~ Dirichlet(concentration)
    covariance_k ~ InverseWishart(df_k, scale_k)
    loc_k        ~ Normal(mean_k, covariance_k / rows_k)

and inverse-gamma in place of inverse-Wishart where features are independent: mean field between
weights and components, but each location is as uncertain as its own covariance says. Were the
labels known, the posterior would be of this form.

Source: Bishop (2006), Pattern Recognition and Machine Learning, §10.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from storyzoo.models.distributions.inverse_wishart import InverseWishart, cholesky


@dataclass(frozen=True)
class ConjugateGuide:
    """A Pyro program over the mixture's latents; it starts at a point, as sure as its rows."""

    start: dict[str, Tensor]
    """Latents that the guide is centred on at first."""
    rows: Tensor
    """(K,): how many rows each component then stands for."""
    df: float
    """Degrees of freedom of the covariance prior."""
    spherical: bool

    def __call__(self, y: Tensor) -> None:
        weight = pyro.param(
            "weight.concentration", lambda: self.rows + 1.0, constraint=constraints.positive
        )
        pyro.sample("weight", dist.Dirichlet(weight))
        if "covariance" in self.start:
            self._ellipsoids(y.shape[-1])
        else:
            self._independent()

    def _location(self) -> tuple[Tensor, Tensor]:
        """Mean (K, D) of each location, and how many rows (K,) it is known from."""
        mean = pyro.param("loc.mean", lambda: self.start["loc"].clone())
        rows = pyro.param("loc.rows", lambda: self.rows.clone(), constraint=constraints.positive)
        return mean, rows

    def _ellipsoids(self, size: int) -> None:
        """Full covariances (K, D, D), or a tied one (D, D)."""
        tied = self.start["covariance"].dim() == 2
        known_from = self.df + (self.rows.sum() if tied else self.rows)
        df = pyro.param(
            "covariance.df", lambda: known_from, constraint=constraints.greater_than(size - 1.0)
        )
        scale = pyro.param(
            "covariance.scale",
            lambda: self.start["covariance"] * known_from[..., None, None],
            constraint=constraints.positive_definite,
        )
        mean, rows = self._location()
        if tied:
            covariance = pyro.sample("covariance", InverseWishart(df, scale))
        with pyro.plate("component", len(rows)):
            if not tied:
                covariance = pyro.sample("covariance", InverseWishart(df, scale))
            root = cholesky(covariance) / rows.sqrt()[:, None, None]
            pyro.sample("loc", dist.MultivariateNormal(mean, scale_tril=root))

    def _independent(self) -> None:
        """Variances (K, D), or (K,) where spherical."""
        mean, rows = self._location()
        known_from = self.df + (
            self.rows * mean.shape[-1] if self.spherical else self.rows.unsqueeze(-1)
        )
        half_df = self._positive("variance.half_df", 0.5 * known_from)
        rate = self._positive("variance.rate", 0.5 * known_from * self.start["variance"])
        inverse_gamma: Any = dist.InverseGamma(half_df, rate)
        with pyro.plate("component", len(rows)):
            if self.spherical:
                wide = pyro.sample("variance", inverse_gamma).unsqueeze(-1).expand_as(mean)
            else:
                wide = pyro.sample("variance", inverse_gamma.to_event(1))
            scale = (wide / rows.unsqueeze(-1)).sqrt()
            pyro.sample("loc", dist.Normal(mean, scale).to_event(1))

    def _positive(self, name: str, start: Tensor) -> Tensor:
        value = start.expand_as(self.start["variance"]).clone()
        found: Tensor = pyro.param(name, lambda: value, constraint=constraints.positive)
        return found
