"""The rows as stories: the zoo's own where there is one, else written here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from benchmarks.mcmc_peers.worker import Values
from storyzoo.models.distributions.flat import Flat
from storyzoo.models.distributions.inverse_wishart import Size
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.models.linear_regression import LinearRegression
from storyzoo.models.logistic_regression import LogisticRegression
from storyzoo.models.ordered_mixture import OrderedMixture
from storyzoo.story import Story


class Anywhere(Flat):
    """A flat prior over numbers above zero that Pyro's own NUTS can start from."""

    def __init__(self) -> None:
        super().__init__(constraints.positive)

    def sample(self, sample_shape: Size = ()) -> Tensor:
        return torch.empty(sample_shape).uniform_(-2, 2).exp()


@dataclass(frozen=True)
class TwoStates(Story):
    """posteriordb's hmm_example: a series that switches between two levels.

    The levels ``mu`` are positive and in order: ``low`` and ``low + gap``.
    """

    data_dims = {"y": ("time",)}
    event_dims = {"theta1": ("to",), "theta2": ("to",), "mu": ("state",)}

    def model(self, y: Tensor) -> None:
        theta1 = pyro.sample("theta1", dist.Dirichlet(torch.ones(2)))
        theta2 = pyro.sample("theta2", dist.Dirichlet(torch.ones(2)))
        low = pyro.sample("low", Anywhere())
        gap = pyro.sample("gap", Anywhere())
        mu = pyro.deterministic("mu", torch.stack([low, low + gap], -1), event_dim=1)
        pyro.factor("mu_prior", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).log_prob(mu).sum())
        emitted = dist.Normal(mu, 1.0).log_prob(y.unsqueeze(-1))
        steps = torch.stack([theta1, theta2]).log() + emitted[1:].unsqueeze(-2)
        pyro.factor("path", (emitted[0].unsqueeze(-1) + _product(steps)).logsumexp((-2, -1)))


def _product(steps: Tensor) -> Tensor:
    """(K, K): log of the product of the matrices (T, K, K), neighbours first."""
    while len(steps) > 1:
        rest = steps[len(steps) // 2 * 2 :]
        even, odd = steps[: len(steps) - len(rest)].unflatten(0, (-1, 2)).unbind(1)
        joined = (even.unsqueeze(-1) + odd.unsqueeze(-3)).logsumexp(-2)
        steps = torch.cat([joined, rest])
    return steps[0]


@dataclass(frozen=True)
class Topics(Story):
    """Latent Dirichlet allocation by its counts, each word's topic summed out."""

    n_topics: int = 2

    data_dims = {"count": ("document", "word")}
    event_dims = {"theta": ("topic",), "phi": ("word",)}

    def model(self, count: Tensor) -> None:
        documents, words = count.shape
        with pyro.plate("document", documents):
            theta = pyro.sample("theta", dist.Dirichlet(torch.ones(self.n_topics)))
        with pyro.plate("topic_", self.n_topics):
            phi = pyro.sample("phi", dist.Dirichlet(torch.ones(words)))
        pyro.factor("counts", (count * (theta @ phi).log()).sum())


@dataclass(frozen=True)
class Telling:
    """How a row is told as a story, and how its sites follow from the row's parameters."""

    story: Callable[[Values], Story]
    arguments: tuple[str, ...]
    """Of the data: what the model takes."""
    to_sites: Callable[[Values], Values] = dict
    to_parameters: Callable[[Values], Values] = dict


def _clouds(data: Values) -> Story:
    centre, spread = (tuple(data[name].tolist()) for name in ("centre", "spread"))
    return GaussianMixture(n_components=3, covariance="diagonal", centre=centre, spread=spread)


def _with_theta(sites: Values) -> Values:
    raw = sites.pop("theta_raw")
    return sites | {"theta": sites["mu"][..., None] + sites["tau"][..., None] * raw}


def _with_slopes(sites: Values) -> Values:
    return sites | {"beta": 2.5 * sites.pop("raw")}


def _with_raw(point: Values) -> Values:
    rest = {name: value for name, value in point.items() if name != "beta"}
    return rest | {"raw": point["beta"] / 2.5}


def _with_weight(point: Values) -> Values:
    rest = {name: value for name, value in point.items() if name != "theta"}
    return rest | {"weight": np.stack([point["theta"], 1 - point["theta"]], -1)}


def _with_share(sites: Values) -> Values:
    return sites | {"theta": sites.pop("weight")[..., 0]}


def _with_levels(sites: Values) -> Values:
    low = sites.pop("low")
    return sites | {"mu": np.stack([low, low + sites.pop("gap")], -1)}


TELLINGS: dict[str, Telling] = {
    "eight_schools": Telling(
        lambda data: EightSchools(), ("effect", "stderr"), to_parameters=_with_theta
    ),
    "gauss_mix": Telling(
        lambda data: OrderedMixture(centre=0.0, spread=2.0, scales="half-normal"),
        ("y",),
        _with_weight,
        _with_share,
    ),
    "logistic": Telling(lambda data: LogisticRegression(), ("x", "y"), _with_raw, _with_slopes),
    "gmm": Telling(_clouds, ("y",)),
    "hmm": Telling(lambda data: TwoStates(), ("y",), to_parameters=_with_levels),
    "lda": Telling(lambda data: Topics(), ("count",)),
    "linear": Telling(lambda data: LinearRegression(), ("x", "y"), _with_raw, _with_slopes),
}
