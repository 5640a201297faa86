"""What the regressions share: features in standard units, an intercept, and the slopes' priors.

The predictor of row n, in the units that a story's outcome asks for, is::

    eta_n = alpha + unit * sum_j s_j (x_nj - centre_j) / spread_j
    beta_j = unit * s_j / spread_j                 the slope in the data's own units
    intercept = alpha - sum_j beta_j centre_j      the predictor where every feature is zero

``alpha`` is the predictor at ``centre``, so that its prior does not move with the features' origin.
The slopes ``s`` in standard units have one of two priors::

    normal      s_j = slope_scale * raw_j,                       raw_j ~ Normal(0, 1)
    horseshoe   s_j = tau lambda_j c / sqrt(c^2 + tau^2 lambda_j^2) * raw_j
                lambda_j ~ HalfCauchy(1)                         which features matter
                tau / noise ~ HalfCauchy(global_scale)           how few of them do
                c^2 ~ InverseGamma(slab_df / 2, slab_df slab_scale^2 / 2)

The normal one is rstanarm's: 2.5 standard deviations of the outcome per standard deviation of the
feature (Gabry and Goodrich, "Prior Distributions for rstanarm Models"). The other is the
regularised horseshoe: most slopes next to nothing, a few nearly free, none above the slab. Where
``global_scale`` is unset, ``scaled_to`` takes a guess of how many features are ``relevant``,
``p / (D - p) * noise / sqrt(N)``, in which the noise of counts and of zeros and ones is that of
their normal approximation. Half-Cauchys are written as ``normal * sqrt(variance)`` with
``normal ~ HalfNormal(1)`` and ``variance ~ InverseGamma(1/2, 1/2)``, whose tails a sampler can
walk; even so the posterior has narrow places, and NUTS wants ``target_accept=0.99``.

Source: Piironen and Vehtari (2017), "Sparsity information and regularization in the horseshoe and
other shrinkage priors", Electronic Journal of Statistics 11(2), equations 2.8 and 3.12, §3.4 and
Appendix C.2.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from storyzoo.errors import DataError, SettingError, nearest
from storyzoo.story import Data, Story

Prior = Literal["normal", "horseshoe"]

PRIORS = ("normal", "horseshoe")


class Regression(Story):
    """A story of an outcome ``y`` (row) by features ``x`` (row, feature).

    Each regression declares the fields itself, so that its card shows them.
    """

    prior: Prior
    slope_scale: float
    intercept_scale: float
    relevant: float
    global_scale: float | None
    slab_scale: float
    slab_df: float
    centre: float | tuple[float, ...] | None
    spread: float | tuple[float, ...] | None

    data_dims = {"x": ("row", "feature"), "y": ("row",)}
    event_dims = {
        "raw": ("feature",),
        "beta": ("feature",),
        "local": ("feature",),
        "local_normal": ("feature",),
        "local_variance": ("feature",),
    }
    examples = "row"

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise SettingError(f"{self.name}: prior={self.prior!r}: {nearest(self.prior, PRIORS)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, field.name, tuple(float(v) for v in value))
            positive = field.name.endswith(("scale", "spread", "df", "relevant"))
            if positive and value is not None and not (torch.as_tensor(value) > 0).all():
                raise SettingError(f"{self.name}: {field.name}={value!r} must be above zero")

    @property
    def _width(self) -> float:
        return 1.0 if self.global_scale is None else self.global_scale

    # -- the predictor -------------------------------------------------------------------------

    def predictor(
        self, x: Tensor, centre: float = 0.0, unit: float = 1.0, noise: Tensor | float = 1.0
    ) -> Tensor:
        """``eta`` (N,), for features (N, D).

        ``centre`` and ``unit`` are where the predictor lies and how far it ranges, in its own
        units; ``noise`` is that of an outcome, as a share of ``unit``.
        """
        size = x.shape[-1]
        origin, spread = _vector(self.centre, 0.0, size), _vector(self.spread, 1.0, size)
        alpha = pyro.sample("alpha", dist.Normal(centre, self.intercept_scale * unit))
        raw = pyro.sample("raw", dist.Normal(0.0, 1.0).expand([size]).to_event(1))
        slope = unit * self._slope_scales(size, noise) * raw
        beta = pyro.deterministic("beta", slope / spread, event_dim=1)
        pyro.deterministic("intercept", alpha - (beta * origin).sum(-1), event_dim=0)
        return alpha + (x - origin) / spread @ slope

    def _slope_scales(self, size: int, noise: Tensor | float) -> Tensor | float:
        """(D,): standard deviation of each slope, in standard units."""
        if self.prior == "normal":
            return self.slope_scale
        half_df = torch.full((), 0.5 * self.slab_df)
        tau = noise * _half_cauchy("tau", self._width, ())
        local = _half_cauchy("local", 1.0, (size,))
        slab = pyro.sample("slab", dist.InverseGamma(half_df, half_df * self.slab_scale**2))
        return tau * local * (slab / (slab + (tau * local).square())).sqrt()

    def start(
        self, data: Data, rng: np.random.Generator, centre: float = 0.0, unit: float = 1.0
    ) -> dict[str, Tensor]:
        """A sane start of the predictor's sites: slopes as the features' correlations with y.

        From slopes of either sign at random, the horseshoe's ascents end where all are zero.
        """
        x, y = data["x"], data["y"]
        size = x.shape[1]
        jitter = torch.as_tensor(rng.standard_normal(1 + size)).to(x)
        slope = _correlations(x, y) + 0.1 * jitter[1:]
        start = {"alpha": centre + 0.1 * unit * jitter[0]}
        if self.prior == "normal":
            return {**start, "raw": slope / self.slope_scale}
        return {
            **start,
            "raw": slope,
            "tau_normal": x.new_ones(()),
            "tau_variance": x.new_tensor(self._width**-2.0),  # tau is one
            "local_normal": x.new_ones(size),
            "local_variance": x.new_ones(size),
            "slab": x.new_tensor(self.slab_scale**2),
        }

    # -- the data ------------------------------------------------------------------------------

    def check(self, data: Data) -> None:
        """Refuse features that can't tell rows apart, and what :meth:`refuse_outcome` refuses."""
        x, y = data["x"], data["y"]
        for name in ("centre", "spread"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != x.shape[1]:
                raise SettingError(
                    f"{self.name}: {name} has {len(value)} values, the data {x.shape[1]} features"
                )
        if len(y) < 2:
            raise DataError("one row has no spread: a regression needs at least two")
        constant = (x == x[0]).all(0).nonzero().flatten().tolist()
        if constant:
            raise DataError(
                f"feature {constant[0] + 1} of {x.shape[1]} is constant "
                f"({float(x[0, constant[0]]):g}): leave the column out, the intercept says the same"
            )
        for row, value in enumerate(y.tolist(), start=1):
            reason = None if value != value else self.refuse_outcome(value)
            if reason is not None:
                raise DataError(f"row {row}: the outcome {value:g} {reason}")

    def refuse_outcome(self, value: float) -> str | None:
        """Why a value of the outcome can't be, and what would be right; None where it can."""
        return None

    def scaled_features(self, data: Data, noise: float) -> dict[str, Any]:
        """The unset fields that follow from the features: their mean, spread and number.

        ``noise`` is the deviation of an outcome about its predictor, in the predictor's units.
        """
        x = data["x"].double()
        rows, size = x.shape
        spread = x.std(0, correction=0)
        relevant = self.relevant if self.relevant < size else 0.5 * size
        found = {
            "centre": tuple(x.mean(0).tolist()),
            "spread": tuple(torch.where(spread > 0, spread, 1.0).tolist()),
            "global_scale": relevant / (size - relevant) * noise / rows**0.5,
        }
        return {name: value for name, value in found.items() if getattr(self, name) is None}


def _half_cauchy(name: str, scale: float, shape: tuple[int, ...]) -> Tensor:
    """A half-Cauchy site by the two that it is made of."""
    half = torch.full(shape, 0.5)
    events = len(shape)
    normal = pyro.sample(f"{name}_normal", dist.HalfNormal(2 * half).to_event(events))
    variance = pyro.sample(f"{name}_variance", dist.InverseGamma(half, half).to_event(events))
    value: Tensor = pyro.deterministic(name, scale * normal * variance.sqrt(), event_dim=events)
    return value


def _vector(value: float | tuple[float, ...] | None, unset: float, size: int) -> Tensor:
    """A field as a vector (D,), in the default dtype and on the default device."""
    return torch.tensor(unset if value is None else value).to(torch.empty(0)).expand(size)


def _correlations(x: Tensor, y: Tensor) -> Tensor:
    """(D,): of each feature with the outcome where it is known; zero for what never changes."""
    seen = ~y.isnan()
    x, y = x[seen] - x[seen].mean(0), y[seen] - y[seen].mean()
    norms = x.square().sum(0).sqrt() * y.square().sum().sqrt()
    return (x.mT @ y / norms).nan_to_num()
