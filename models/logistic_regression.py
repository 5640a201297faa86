"""Logistic regression: a yes or no whose log odds are a weighted sum of features."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyro
import pyro.distributions as dist
from torch import Tensor

from storyzoo.models.regression import Regression
from storyzoo.story import Data


@dataclass(frozen=True)
class LogisticRegression(Regression):
    """Each row is a one with log odds that are a weighted sum of its features.

    ::

        alpha   ~ Normal(0, intercept_scale)          the log odds of a row of average features
        beta_j  ~ Normal(0, slope_scale / sd_j)       or the regularised horseshoe
        y_n     ~ Bernoulli(1 / (1 + exp(-(alpha + sum_j beta_j (x_nj - mean_j)))))

    ``prior="horseshoe"`` expects a few features to matter and draws the other slopes to zero; it
    says how many are ``relevant``, or gives ``global_scale`` itself, and takes ``slab_scale`` and
    ``slab_df`` for those that do. See ``storyzoo/models/regression.py`` for both priors. Its
    posterior has narrow places: give NUTS ``--with target_accept=0.99``.

    ``centre`` and ``spread`` (mean_j and sd_j) are set from the data once, by ``scaled_to``; left
    unset they are 0 and 1, right for standardised features. Both are kept with the fit. A slope of
    2.5 per standard deviation moves even odds to twelve to one.

    When to use it, and what it can't do: for an outcome that is one of two, where each feature
    multiplies the odds. Where a combination of features tells all ones from all zeros, the
    likelihood has no maximum and slopes are as large as the prior lets them be. Correlated
    features share their effect in ways that the data can't tell apart. A missing outcome is left
    out of the likelihood and can be filled in; missing features are refused.

    Sites: ``alpha`` (), ``raw`` (feature); with the horseshoe ``slab`` (), and ``_normal`` and
    ``_variance`` of ``tau`` () and ``local`` (feature). Of them follow ``beta`` (feature) and
    ``intercept`` (), the log odds where every feature is zero. Data: ``x`` (row, feature), ``y``
    (row), zeros and ones; from a table, ``y`` is the column that ``--target`` names.

    Source: Gelman, Jakulin, Pittau and Su (2008), "A weakly informative default prior distribution
    for logistic and other regression models", Annals of Applied Statistics 2(4); Piironen and
    Vehtari (2017), Electronic Journal of Statistics 11(2).
    """

    prior: Literal["normal", "horseshoe"] = "normal"
    slope_scale: float = 2.5
    """Of the normal prior: log odds per sd of a feature."""
    intercept_scale: float = 2.5
    """Log odds."""
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

    def model(self, x: Tensor, y: Tensor) -> None:
        eta = self.predictor(x)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=eta), obs=y)

    def refuse_outcome(self, value: float) -> str | None:
        """An outcome is a zero or a one."""
        return None if value in (0, 1) else "is neither 0 nor 1: code the outcome so"

    def scaled_to(self, data: Data) -> LogisticRegression:
        """A copy with unset fields from the features, the noise being ``1 / sqrt(p (1 - p))``."""
        y = data["y"].double()
        share = (float(y.nansum()) + 0.5) / (float((~y.isnan()).sum()) + 1)
        noise = (share * (1 - share)) ** -0.5
        return dataclasses.replace(self, **self.scaled_features(data, noise))

    def statistics(self, data: Data) -> dict[str, float]:
        """The share of ones."""
        return {"share_of_ones": float(data["y"].double().nanmean())}

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Slopes by correlation, jittered."""
        return self.start(data, rng)
