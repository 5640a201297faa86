"""Linear regression: an outcome on a line through its features, plus normal noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
from torch import Tensor

from storyzoo.errors import DataError
from storyzoo.models.regression import Regression
from storyzoo.story import Data


@dataclass(frozen=True)
class LinearRegression(Regression):
    """Each row's outcome falls around a weighted sum of its features.

    ::

        sigma   ~ Exponential(1 / (noise_scale sd_y))     the noise, in units of y
        alpha   ~ Normal(mean_y, intercept_scale sd_y)    the outcome of a row of average features
        beta_j  ~ Normal(0, slope_scale sd_y / sd_j)      or the regularised horseshoe
        y_n     ~ Normal(alpha + sum_j beta_j (x_nj - mean_j), sigma)

    ``prior="horseshoe"`` expects a few features to matter and draws the other slopes to zero; it
    says how many are ``relevant``, or gives ``global_scale`` itself, and takes ``slab_scale`` and
    ``slab_df`` for those that do. See ``storyzoo/models/regression.py`` for both priors. Its
    posterior has narrow places: give NUTS ``--with target_accept=0.99``.

    ``centre`` and ``spread`` (mean_j and sd_j), ``outcome_centre`` and ``outcome_spread`` (mean_y
    and sd_y) are set from the data once, by ``scaled_to``; left unset they are 0 and 1, right for
    standardised data. All are kept with the fit. So features need not be standardised: slopes are
    walked in standard units and shown in those of the data.

    When to use it, and what it can't do: for an outcome that could be any number, with an effect
    of each feature that adds up. Correlated features share their effect in ways that the data
    can't tell apart: their slopes are uncertain, their sum need not be. Noise is the same
    everywhere and normal, so a few wild outcomes pull the line. A missing outcome is left out of
    the likelihood and can be filled in; missing features are refused.

    Sites: ``alpha`` (), ``sigma`` (), ``raw`` (feature); with the horseshoe ``slab`` (), and
    ``_normal`` and ``_variance`` of ``tau`` () and ``local`` (feature). Of them follow ``beta``
    (feature) and ``intercept`` (), the outcome where every feature is zero. Data: ``x`` (row,
    feature), ``y`` (row); from a table, ``y`` is the column that ``--target`` names.

    Source: Gelman, Hill and Vehtari (2020), Regression and Other Stories, §9 and §12; Piironen and
    Vehtari (2017), Electronic Journal of Statistics 11(2).
    """

    prior: Literal["normal", "horseshoe"] = "normal"
    slope_scale: float = 2.5
    """Of the normal prior: sd of the outcome per sd of a feature."""
    intercept_scale: float = 2.5
    """In sd of the outcome."""
    noise_scale: float = 1.0
    """Prior mean of ``sigma``, in sd of the outcome."""
    relevant: float = 3.0
    """Of the horseshoe: how many features are thought to matter, where global_scale is unset."""
    global_scale: float | None = None
    """Of the horseshoe: scale of the least slopes, as a share of ``sigma``."""
    slab_scale: float = 2.5
    """Of the horseshoe: scale of the greatest slopes, as ``slope_scale``."""
    slab_df: float = 4.0
    """Of the horseshoe: degrees of freedom of the greatest slopes."""
    centre: float | tuple[float, ...] | None = None
    """Mean of each feature; ``scaled_to`` sets it from the data, as the next three."""
    spread: float | tuple[float, ...] | None = None
    """Standard deviation of each feature."""
    outcome_centre: float | None = None
    """Mean of the outcome."""
    outcome_spread: float | None = None
    """Standard deviation of the outcome."""

    def model(self, x: Tensor, y: Tensor) -> None:
        unit = 1.0 if self.outcome_spread is None else self.outcome_spread
        sigma = pyro.sample("sigma", dist.Exponential(1 / (self.noise_scale * unit)))
        eta = self.predictor(x, self.outcome_centre or 0.0, unit, sigma / unit)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(eta, sigma), obs=y)

    def check(self, data: Data) -> None:
        """An outcome that is always the same leaves nothing to explain."""
        super().check(data)
        seen = data["y"][~data["y"].isnan()]
        if len(seen) == 0 or bool((seen == seen[0]).all()):
            raise DataError("the outcome never changes: there is nothing to explain")

    def scaled_to(self, data: Data) -> LinearRegression:
        """A copy whose unset centres and spreads are the means and deviations of the data."""
        y = data["y"].double()
        mean = y.nanmean()
        spread = float((y - mean).square().nanmean().sqrt())
        found = {"outcome_centre": float(mean), "outcome_spread": spread if spread > 0 else 1.0}
        unset: dict[str, Any] = {
            name: value for name, value in found.items() if getattr(self, name) is None
        }
        return dataclasses.replace(self, **unset, **self.scaled_features(data, noise=1.0))

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Slopes by correlation, noise as wide as the outcome."""
        unit = 1.0 if self.outcome_spread is None else self.outcome_spread
        start = self.start(data, rng, self.outcome_centre or 0.0, unit)
        return {**start, "sigma": data["x"].new_tensor(unit)}
