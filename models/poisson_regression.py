"""Poisson regression: a count whose log rate is a weighted sum of features."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
from torch import Tensor

from storyzoo.models.regression import Regression
from storyzoo.story import Data


@dataclass(frozen=True)
class PoissonRegression(Regression):
    """Each row's count has a rate that each of its features multiplies.

    ::

        alpha   ~ Normal(log_rate, intercept_scale)   the log rate of a row of average features
        beta_j  ~ Normal(0, slope_scale / sd_j)       or the regularised horseshoe
        y_n     ~ Poisson(exp(alpha + sum_j beta_j (x_nj - mean_j)))

    ``prior="horseshoe"`` expects a few features to matter and draws the other slopes to zero; it
    says how many are ``relevant``, or gives ``global_scale`` itself, and takes ``slab_scale`` and
    ``slab_df`` for those that do. See ``storyzoo/models/regression.py`` for both priors. Its
    posterior has narrow places: give NUTS ``--with target_accept=0.99``.

    ``centre`` and ``spread`` (mean_j and sd_j) and ``log_rate``, the log of the mean count, are
    set from the data once, by ``scaled_to``; left unset they are 0, 1 and 0. All are kept with the
    fit. (rstanarm's ``log_rate`` is always 0, which is right for rates near one only.)

    When to use it, and what it can't do: for counts without an upper end, of events that come one
    by one. A Poisson count varies by the root of its mean and no more. Most real counts vary more:
    look at ``dispersion`` in the predictive check, 1 being what the story expects of counts
    without features; where the data have clearly more than the replications, intervals are too
    narrow. Rows are taken to have watched for equal times. A missing outcome is left out of the
    likelihood and can be filled in; missing features are refused.

    Sites: ``alpha`` (), ``raw`` (feature); with the horseshoe ``slab`` (), and ``_normal`` and
    ``_variance`` of ``tau`` () and ``local`` (feature). Of them follow ``beta`` (feature) and
    ``intercept`` (), the log rate where every feature is zero. Data: ``x`` (row, feature), ``y``
    (row), whole numbers from zero; from a table, ``y`` is the column that ``--target`` names.

    Source: Gelman, Hill and Vehtari (2020), Regression and Other Stories, §15.2; Piironen and
    Vehtari (2017), Electronic Journal of Statistics 11(2).
    """

    prior: Literal["normal", "horseshoe"] = "normal"
    slope_scale: float = 2.5
    """Of the normal prior: log rate per sd of a feature."""
    intercept_scale: float = 2.5
    """Log rate."""
    relevant: float = 3.0
    """Of the horseshoe: how many features are thought to matter, where global_scale is unset."""
    global_scale: float | None = None
    """Of the horseshoe: scale of the least slopes, as ``slope_scale``."""
    slab_scale: float = 2.5
    """Of the horseshoe: scale of the greatest slopes, as ``slope_scale``."""
    slab_df: float = 4.0
    """Of the horseshoe: degrees of freedom of the greatest slopes."""
    centre: float | tuple[float, ...] | None = None
    """Mean of each feature; ``scaled_to`` sets it from the data."""
    spread: float | tuple[float, ...] | None = None
    """Standard deviation of each feature; ``scaled_to`` sets it from the data."""
    log_rate: float | None = None
    """Prior mean of ``alpha``; ``scaled_to`` sets it to the log of the mean count."""

    def model(self, x: Tensor, y: Tensor) -> None:
        eta = self.predictor(x, centre=self.log_rate or 0.0)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson(eta.exp()), obs=y)

    def refuse_outcome(self, value: float) -> str | None:
        """An outcome is a whole number from zero."""
        if value < 0:
            return "is negative: counts start at 0"
        return None if value == int(value) else "is no whole number: give counts"

    def scaled_to(self, data: Data) -> PoissonRegression:
        """A copy with unset fields from the data, the noise being ``1 / sqrt(mean count)``."""
        y = data["y"].double()
        mean = (float(y.nansum()) + 0.5) / (float((~y.isnan()).sum()) + 1)
        known = self.log_rate is not None
        unset: dict[str, Any] = {} if known else {"log_rate": math.log(mean)}
        return dataclasses.replace(self, **unset, **self.scaled_features(data, mean**-0.5))

    def statistics(self, data: Data) -> dict[str, float]:
        """The share of zeros, and the variance over the mean."""
        y = data["y"].double()
        mean = y.nanmean()
        return {
            "share_of_zeros": float((y == 0).sum() / (~y.isnan()).sum()),
            "dispersion": float((y - mean).square().nanmean() / mean.clamp(min=1e-9)),
        }

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Slopes by correlation, jittered."""
        return self.start(data, rng, centre=self.log_rate or 0.0)
