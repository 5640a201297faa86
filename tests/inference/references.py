"""Posteriors of posteriordb told as stories, and a method's draws held against their truth.

A test of any method that draws calls :func:`gaps` or :func:`assert_agrees` with a name of
``REFERENCES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from storyzoo.binding import bind
from storyzoo.datasets import load
from storyzoo.datasets.posteriordb import reference_draws
from storyzoo.inference.engine.groups import with_deterministic
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.statistics import array_stats
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.models.autoregression import Autoregression
from storyzoo.models.distributions.flat import Flat
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.ordered_mixture import OrderedMixture
from storyzoo.story import Story

Draws = Mapping[str, np.ndarray]


class Levels(TorchDistribution):
    """``x_1 ~ Normal(3, 1)``, ``x_2 ~ Normal(10, 1)``, restricted to ``0 < x_1 < x_2``."""

    arg_constraints = {}
    support = constraints.positive_ordered_vector

    def __init__(self) -> None:
        super().__init__(torch.Size(), torch.Size([2]), validate_args=False)
        self._free = dist.Normal(torch.tensor([3.0, 10.0]), 1.0).to_event(1)

    def log_prob(self, value: Tensor) -> Tensor:
        log_density: Tensor = self._free.log_prob(value)
        return log_density

    def sample(self, sample_shape: Any = ()) -> Tensor:
        draw: Tensor = self._free.sample(sample_shape)
        return draw.abs().sort(-1).values


@dataclass(frozen=True)
class TwoLevels(Story):
    """hmm_example: a chain of two states, each of which weighs one at the start.

    Pyro's chain moves once before it is first seen: that first move ends in either state alike.
    """

    data_dims = {"y": ("time",)}
    event_dims = {"mu": ("state",), "theta1": ("next_state",), "theta2": ("next_state",)}

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", Levels())
        rows = [pyro.sample(f"theta{k}", dist.Dirichlet(torch.ones(2))) for k in (1, 2)]
        moves = torch.stack(rows).log().expand(len(y) - 1, 2, 2)
        moves = torch.cat([torch.zeros(1, 2, 2), moves])
        seen = dist.Normal(mu, 1.0)
        pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), moves, seen, duration=len(y)), obs=y)


@dataclass(frozen=True)
class KidScore(Story):
    """kidscore_momiq: a line with flat priors on its coefficients."""

    data_dims = {"mom_iq": ("child",), "kid_score": ("child",)}
    event_dims = {"beta": ("coefficient",)}
    examples = "child"

    def model(self, mom_iq: Any, kid_score: Any) -> None:
        beta = pyro.sample("beta", Flat(constraints.real_vector, event_shape=(2,)))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        with pyro.plate("child", len(kid_score)):
            line = beta[0] + beta[1] * mom_iq
            pyro.sample("kid_score", dist.Normal(line, sigma), obs=kid_score)


class Reference(NamedTuple):
    """A story that is a posterior of posteriordb, and how its sites are named there."""

    posterior: str
    story: Story
    renamed: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = dict


def _schools(sites: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: sites[name] for name in ("theta", "mu", "tau")}


def _mixture(sites: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"mu": sites["loc"], "sigma": sites["scale"], "theta": sites["weight"][..., 0]}


REFERENCES: dict[str, Reference] = {
    "eight_schools": Reference("eight_schools-eight_schools_noncentered", EightSchools(), _schools),
    "low_dim_gauss_mix": Reference(
        "low_dim_gauss_mix-low_dim_gauss_mix",
        OrderedMixture(centre=0.0, spread=2.0, concentration=5.0, scales="half-normal"),
        _mixture,
    ),
    "hmm_example": Reference("hmm_example-hmm_example", TwoLevels()),
    "arK": Reference("arK-arK", Autoregression(order=5)),
    "kidscore_momiq": Reference("kidiq-kidscore_momiq", KidScore()),
}


class Gap(NamedTuple):
    """A moment of a parameter beside the reference's."""

    moment: str
    """``mean``, or ``square`` about the mean of the reference draws."""
    found: float
    wanted: float
    z: float
    """Their difference over the joint Monte Carlo standard error."""
    r_hat: float


def target_of(name: str) -> Target:
    """The story with the posterior's data; the fields stay as they are, priors are not rescaled."""
    reference = REFERENCES[name]
    bound = bind(reference.story, load(f"posteriordb:{reference.posterior}"))
    return make_target(reference.story, bound.arrays, coords=bound.coords)


def gaps(name: str, method: Method, seed: int = 0) -> dict[tuple[str, str], Gap]:
    """Every mean and every spread that a method finds, by parameter and moment."""
    target, reference = target_of(name), REFERENCES[name]
    tree, _ = method.run(target, seed=seed, progress=Progress(quiet=True))
    posterior = with_deterministic(tree, target)["posterior"].to_dataset()
    sites = {str(site): posterior[site].values for site in posterior.data_vars}
    ours, theirs = _by_element(reference.renamed(sites)), reference_draws(reference.posterior)
    assert set(ours) == set(theirs)
    found = {}
    for parameter, wanted in theirs.items():
        for moment, centre in (("mean", 0.0), ("square", wanted.mean())):
            power = 1 if moment == "mean" else 2
            gap = _gap(moment, (ours[parameter] - centre) ** power, (wanted - centre) ** power)
            found[parameter, moment] = gap
    return found


def assert_agrees(
    name: str, method: Method, *, seed: int = 0, z: float = 4.0, r_hat: float = 1.01
) -> None:
    """Every mean and spread within ``z`` joint Monte Carlo errors, chains mixed to ``r_hat``."""
    for (parameter, moment), gap in gaps(name, method, seed).items():
        assert abs(gap.z) < z, f"{name}: {parameter}, {gap}"
        assert gap.r_hat < r_hat, f"{name}: {parameter}, {moment}: R-hat {gap.r_hat:.3f}"


def _by_element(draws: Draws) -> dict[str, np.ndarray]:
    """``beta`` (chain, draw, 2) as ``beta[1]`` and ``beta[2]``."""
    elements = {}
    for name, values in draws.items():
        if values.ndim == 2:
            elements[name] = values
        for k in range(values.shape[2] if values.ndim == 3 else 0):
            elements[f"{name}[{k + 1}]"] = values[..., k]
    return elements


def _gap(moment: str, ours: np.ndarray, theirs: np.ndarray) -> Gap:
    (found, error, r_hat), (wanted, wanted_error, _) = _mean(ours), _mean(theirs)
    z = (found - wanted) / float(np.hypot(error, wanted_error))
    return Gap(moment, found, wanted, z, r_hat)


def _mean(draws: np.ndarray) -> tuple[float, float, float]:
    """Mean of (chain, draw), its Monte Carlo standard error, and R-hat."""
    ess = float(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean"))
    r_hat = float(array_stats.rhat(draws, chain_axis=0, draw_axis=1, method="rank"))
    return float(draws.mean()), float(draws.std() / np.sqrt(ess)), r_hat
