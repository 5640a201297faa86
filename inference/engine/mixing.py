"""How well the chains mix by which a story is simulated, where that takes a Markov chain.

A story without a normaliser in closed form draws its data by Gibbs sweeps or tempering. What it
draws is the story's own only once those chains have forgotten where they started: R-hat and ESS
of test statistics along them tell (Vehtari et al. 2021, Bayesian Analysis 16(2)).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from storyzoo.inference.engine.statistics import array_stats
from storyzoo.inference.engine.target import Target
from storyzoo.story import Latents

MIXED = 1.05
"""R-hat up to which chains describe one distribution."""


class Mixing(NamedTuple):
    """Diagnostics of simulating chains, those of the test statistic that mixes worst."""

    statistic: str
    r_hat: float
    """NaN where the chains do not move."""
    ess: float
    """Bulk effective draws of all chains together."""
    chains: int
    draws: int

    @property
    def mixed(self) -> bool:
        """Whether the chains describe one distribution, as far as R-hat sees."""
        return self.r_hat <= MIXED

    def __str__(self) -> str:
        told = (
            f"simulated by {self.chains} Markov chains: R-hat {self.r_hat:.3f}, "
            f"{self.ess:.0f} effective of {self.chains * self.draws} draws ({self.statistic})"
        )
        return told if self.mixed else f"{told}; they have not mixed, rows may be unlike the story"


def mixing(target: Target, latents: Latents, rng: np.random.Generator) -> Mixing | None:
    """Diagnose the chains by the story's ``trajectories``; None where it simulates without any."""
    with target.context():
        found = target.story.trajectories(latents, target.data, rng)
    if not found:
        return None
    each = [_of(name, np.asarray(value.detach().cpu(), float)) for name, value in found.items()]
    return max(each, key=lambda one: np.nan_to_num(one.r_hat, nan=np.inf))


def _of(name: str, values: np.ndarray) -> Mixing:
    chains, draws = values.shape
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return Mixing(name, np.nan, 0.0, chains, draws)
    r_hat, ess = array_stats.rhat(values), array_stats.ess(values, method="bulk")
    return Mixing(name, float(r_hat), float(ess), chains, draws)
