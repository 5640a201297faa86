"""A mixture of normals on a line, its components told apart by the order of their locations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from storyzoo.errors import DataError, SettingError, nearest
from storyzoo.models.distributions.ordered import Ordered
from storyzoo.story import Data, Story

SCALES = ("inverse-gamma", "half-normal")


@dataclass(frozen=True)
class OrderedMixture(Story):
    """Each number picks a component, then falls around its location; locations increase.

    ::

        loc     ~ Normal(centre, spread) for each, with loc_1 < loc_2 < … < loc_K
        scale_k ~ InverseGamma(3, 2 spread / K)         mean and sd are spread / K
        weight  ~ Dirichlet(concentration, …, concentration)
        z_n     ~ Categorical(weight)
        y_n     ~ Normal(loc_{z_n}, scale_{z_n})

    A mixture has K! equal modes, one for each way to number its components; the order of the
    locations leaves one of them, so that a sampler's chains can be compared as they are.

    The prior of a scale falls to nothing at zero, where the likelihood has no bound: a component
    on a single point, or on several that were rounded to one value. ``scales=half-normal`` says
    ``scale_k ~ HalfNormal(spread)`` instead, which lets that happen; with ``centre=0``,
    ``spread=2`` and ``concentration=5`` it is posteriordb's ``low_dim_gauss_mix``, whose reference
    draws a fit can be held against.

    ``centre`` and ``spread`` are set to the data's mean and deviation once, by ``scaled_to``; left
    unset they are 0 and 1, right for standardised data. Both are kept with the fit.

    When to use it, and what it can't do: for one column with a few humps, where the posterior of
    the components themselves is wanted. Order helps only where locations are clearly apart: two
    components at one place that differ in width swap roles within the posterior, and a component
    that holds no point sits anywhere between its neighbours. For more columns, or for clusters,
    use ``gmm``.

    Sites: ``loc`` (component), ``scale`` (component), ``weight`` (component); ``z`` (point),
    discrete. Data: ``y`` (point); NaN is a value that was not observed.

    Source: Stan User's Guide, "Finite mixtures" (label switching by an ordered vector);
    posteriordb, ``low_dim_gauss_mix``.
    """

    n_components: int = 2
    concentration: float = 5.0
    """Of the Dirichlet over the weights."""
    centre: float | None = None
    """Prior mean of the locations, units of y; ``scaled_to`` sets it to the mean of y."""
    spread: float | None = None
    """Prior scale of locations and scales, units of y; ``scaled_to`` sets it to the sd of y."""
    scales: Literal["inverse-gamma", "half-normal"] = "inverse-gamma"
    """Prior of the scales."""

    data_dims = {"y": ("point",)}
    event_dims = {"loc": ("component",), "weight": ("component",)}
    units = {"loc": "location", "scale": "scale"}
    examples = "point"

    def __post_init__(self) -> None:
        if not isinstance(self.n_components, int) or self.n_components < 1:
            raise SettingError(
                f"ordered-mixture: n_components={self.n_components!r} must be at least 1"
            )
        if self.scales not in SCALES:
            raise SettingError(
                f"ordered-mixture: scales={self.scales!r}: {nearest(self.scales, SCALES)}"
            )
        for name in ("concentration", "spread"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"ordered-mixture: {name}={value!r} must be above zero")

    def model(self, y: Tensor) -> None:
        k = self.n_components
        centre = 0.0 if self.centre is None else self.centre
        spread = 1.0 if self.spread is None else self.spread
        loc = pyro.sample("loc", Ordered(dist.Normal(centre, spread).expand([k])))
        with pyro.plate("component", k):
            scale = pyro.sample("scale", self._scale_prior(spread))
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((k,), float(self.concentration))))
        with pyro.plate("point", len(y)):
            z = pyro.sample("z", dist.Categorical(weight), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(loc[z], scale[z]), obs=y)

    def _scale_prior(self, spread: float) -> Any:
        if self.scales == "half-normal":
            return dist.HalfNormal(spread)
        return dist.InverseGamma(torch.tensor(3.0), torch.tensor(2.0 * spread / self.n_components))

    def check(self, data: Data) -> None:
        """At least as many different values as components."""
        y = data["y"]
        distinct = len(y[~y.isnan()].unique())
        if distinct <= 1:
            raise DataError("all values are the same: there is no spread to model")
        if self.n_components > distinct:
            raise DataError(
                f"{self.n_components} components for {distinct} different values: "
                f"set n_components to at most {distinct}"
            )

    def scaled_to(self, data: Data) -> OrderedMixture:
        """A copy whose unset ``centre`` and ``spread`` are the data's mean and deviation."""
        y = data["y"].double()
        mean = y.nanmean()
        spread = float((y - mean).square().nanmean().sqrt())
        found = {"centre": float(mean), "spread": spread if spread > 0 else 1.0}
        unset: dict[str, Any] = {
            name: value for name, value in found.items() if getattr(self, name) is None
        }
        return dataclasses.replace(self, **unset)

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Locations at jittered quantiles, each component with its share of the spread."""
        y, k = data["y"], self.n_components
        shares = (np.arange(k) + rng.uniform(0.1, 0.9, size=k)) / k
        seen = y[~y.isnan()]
        loc = torch.quantile(seen, torch.as_tensor(shares).to(seen))
        apart = float(seen.std()) / k
        loc = loc + 1e-3 * apart * torch.arange(k).to(loc)  # quantiles of tied values may tie
        return {
            "loc": loc,
            "scale": torch.full_like(loc, apart),
            "weight": torch.full_like(loc, 1 / k),
        }
