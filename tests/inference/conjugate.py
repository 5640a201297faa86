"""Small stories whose posterior and evidence are known in closed form, and their data.

What MAP, Laplace and SVI say is held against these answers; a method's test calls the one it
needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats

from storyzoo.inference.engine.target import Target, make_target
from storyzoo.models.distributions.flat import Flat
from storyzoo.story import Data, Story


@dataclass(frozen=True)
class Line(Story):
    """A regression with known noise: the posterior of its coefficients is normal."""

    spread: float = 2.0
    noise: float = 0.5

    data_dims = {"x": ("row", "column"), "y": ("row",)}
    event_dims = {"beta": ("column",)}
    examples = "row"

    def model(self, x: Any, y: Any) -> None:
        beta = pyro.sample("beta", dist.Normal(0.0, self.spread).expand(x.shape[-1:]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ beta, self.noise), obs=y)


@dataclass(frozen=True)
class Normal:
    """The exact normal posterior of a vector, and the log evidence."""

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float


def line(rows: int = 40, correlated: bool = True) -> tuple[Target, Normal]:
    """A regression whose two columns are correlated, and its exact answer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2)) @ np.array([[1.0, 0.9 if correlated else 0.0], [0.0, 0.4]])
    story = Line()
    y = x @ np.array([1.0, -0.5]) + story.noise * rng.normal(size=rows)
    precision = x.T @ x / story.noise**2 + np.eye(2) / story.spread**2
    covariance = np.linalg.inv(precision)
    marginal = story.noise**2 * np.eye(rows) + story.spread**2 * x @ x.T
    evidence = stats.multivariate_normal(np.zeros(rows), marginal).logpdf(y)
    exact = Normal(covariance @ x.T @ y / story.noise**2, covariance, float(evidence))
    return make_target(story, {"x": x, "y": y}), exact


@dataclass(frozen=True)
class Rate(Story):
    """Counts with one rate: a gamma posterior, whose mode depends on the coordinates."""

    shape: float = 2.0
    inverse_scale: float = 0.5

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        rate = pyro.sample("rate", dist.Gamma(self.shape, self.inverse_scale))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)


@dataclass(frozen=True)
class RateWithGuide(Rate):
    """The same, with the exact posterior's family for a guide."""

    def guide(self, data: Data) -> Callable[..., None]:
        """``Gamma(shape, inverse_scale)``, both to be fitted."""

        def program(y: Any) -> None:
            positive = dist.constraints.positive
            shape = pyro.param("shape", torch.tensor(8.0), constraint=positive)
            inverse = pyro.param("inverse_scale", torch.tensor(2.0), constraint=positive)
            pyro.sample("rate", dist.Gamma(shape, inverse))

        return program


COUNTS = np.array([3.0, 5.0, 4.0, 2.0, 6.0, 4.0])


def rate(story: Rate | None = None) -> tuple[Target, float, float, float]:
    """Counts, the posterior's shape and inverse scale, and the log evidence."""
    story = story or Rate()
    shape = story.shape + COUNTS.sum()
    inverse = story.inverse_scale + len(COUNTS)
    evidence = (
        story.shape * math.log(story.inverse_scale)
        - special.gammaln(story.shape)
        + special.gammaln(shape)
        - shape * math.log(inverse)
        - special.gammaln(COUNTS + 1).sum()
    )
    return make_target(story, {"y": COUNTS}), shape, inverse, float(evidence)


@dataclass(frozen=True)
class Shares(Story):
    """Labels with a Dirichlet prior."""

    concentration: float = 2.0

    data_dims = {"y": ("row",)}
    event_dims = {"share": ("kind",)}
    examples = "row"

    def model(self, y: Any) -> None:
        share = pyro.sample("share", dist.Dirichlet(torch.full((3,), float(self.concentration))))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(share), obs=y)


def shares(concentration: float) -> Target:
    """Five labels 0, two labels 1, one label 2."""
    return make_target(Shares(concentration), {"y": np.array([0, 0, 0, 0, 0, 1, 1, 2])})


@dataclass(frozen=True)
class Schools(Story):
    """Known spreads: a normal posterior with a latent of each example's own."""

    data_dims = {"y": ("school",)}
    examples = "school"

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("school", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(theta, 0.5), obs=y)


def schools(rows: int = 12) -> tuple[Target, Normal]:
    """Schools with the exact posterior of (mu, theta_1, …)."""
    y = np.random.default_rng(1).normal(1.0, 1.0, size=rows)
    precision = np.zeros((rows + 1, rows + 1))
    precision[0, 0] = 1 / 9 + rows
    precision[0, 1:] = precision[1:, 0] = -1.0
    precision[1:, 1:] = np.eye(rows) * (1 + 4.0)
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.concatenate([[0.0], 4.0 * y])
    marginal = np.eye(rows) * 1.25 + 9.0
    evidence = stats.multivariate_normal(np.zeros(rows), marginal).logpdf(y)
    return make_target(Schools(), {"y": y}), Normal(mean, covariance, float(evidence))


@dataclass(frozen=True)
class Centres(Story):
    """Two clouds of known width and equal weight: two modes that differ by their labels only."""

    data_dims = {"y": ("point",)}
    examples = "point"
    exchangeable = {"component": ("component",)}
    label_values = {"z": "component"}

    def model(self, y: Any) -> None:
        with pyro.plate("component", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        with pyro.plate("point", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5)))
            pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


def centres() -> tuple[Target, float]:
    """Clouds at -3 and 3, and the log evidence by quadrature over both centres."""
    rng = np.random.default_rng(2)
    y = np.concatenate([rng.normal(-3, 1, 20), rng.normal(3, 1, 20)])
    grid = np.linspace(-7, 7, 561)
    step = grid[1] - grid[0]
    terms = stats.norm(grid[:, None], 1).logpdf(y) + math.log(0.5)
    prior = stats.norm(0, 3).logpdf(grid)
    joint = np.logaddexp(terms[:, None], terms[None]).sum(-1) + prior[:, None] + prior
    return make_target(Centres(), {"y": y}), float(special.logsumexp(joint) + 2 * math.log(step))


@dataclass(frozen=True)
class FlatLogistic(Story):
    """A logistic regression without a prior: separable data push its slope to infinity."""

    data_dims = {"x": ("row",), "y": ("row",)}
    examples = "row"

    def model(self, x: Any, y: Any) -> None:
        slope = pyro.sample("slope", Flat(dist.constraints.real))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)


def separable() -> Target:
    """Every x above zero is a one, every other a zero."""
    x = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
    return make_target(FlatLogistic(), {"x": x, "y": (x > 0).astype(float)})
