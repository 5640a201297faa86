"""Stories that no sampler of continuous sites can take."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import Tensor

from storyzoo.story import Story


@dataclass(frozen=True)
class Counted(Story):
    """A discrete latent without end."""

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        n = pyro.sample("n", dist.Poisson(rate))
        pyro.sample("y", dist.Normal(n, 1.0), obs=y)


@dataclass(frozen=True)
class Coin(Story):
    """Nothing continuous."""

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        side = pyro.sample("side", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(side, 1.0), obs=y)
