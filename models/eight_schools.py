"""Eight schools, the smallest hierarchical model that is hard to sample."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import Tensor

from storyzoo.errors import DataError
from storyzoo.story import Data, Story


@dataclass(frozen=True)
class EightSchools(Story):
    """Each school's true effect is drawn around a common mean and seen through known noise.

    ::

        mu       ~ Normal(0, 5)                 the mean effect over all schools
        tau      ~ HalfCauchy(5)                how much schools differ
        theta_j  ~ Normal(mu, tau)              the true effect in school j
        effect_j ~ Normal(theta_j, stderr_j)    what was seen there; stderr_j is known

    Eight schools gave a short course before an aptitude test (Rubin 1981); each reported how many
    points it raised the score by, and with what standard error. The question is how far to draw
    the reports towards their mean: ``tau = 0`` pools them wholly, a large ``tau`` not at all. The
    data allow both, so the posterior has a funnel: where tau is small, theta is pinned to mu.

    ``centred`` chooses how theta is written down. The default draws ``theta_raw ~ Normal(0, 1)``
    and sets ``theta = mu + tau * theta_raw``, which NUTS walks with ease. ``centred=True`` draws
    theta directly: the same posterior, but with divergences in the neck of the funnel, and with a
    density that rises without bound as tau goes to zero, so that no mode exists. It is kept as
    the standard example of an answer that is not to be trusted.

    Sites: ``mu`` (), ``tau`` (), ``theta`` (school), ``theta_raw`` (school) unless centred.
    Data: ``effect`` (school) and ``stderr`` (school), above zero, both in points of the test.

    Source: Rubin (1981), "Estimation in parallel randomized experiments", Journal of Educational
    Statistics 6(4); Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., §5.5. The prior scales
    are those of posteriordb's ``eight_schools``, whose reference draws a fit can be held against.
    """

    centred: bool = False

    data_dims = {"effect": ("school",), "stderr": ("school",)}
    examples = "school"

    def model(self, effect: Tensor, stderr: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(effect)):
            if self.centred:
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            else:
                raw = pyro.sample("theta_raw", dist.Normal(0.0, 1.0))
                theta = pyro.deterministic("theta", mu + tau * raw, event_dim=0)
            pyro.sample("effect", dist.Normal(theta, stderr), obs=effect)

    def check(self, data: Data) -> None:
        """A standard error is known and above zero."""
        for row, value in enumerate(data["stderr"].tolist(), start=1):
            if not value > 0:
                raise DataError(
                    f"column 'stderr', row {row}: {value:g} is no standard error: "
                    "give a number above zero"
                )
