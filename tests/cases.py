"""The table of stories that drives every rule: what a new story adds is one row here.

Each case holds a small story, its data, a point of its latents, and its log likelihood written by
hand (by enumeration where sites are discrete), so that nothing is tested against itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats

from storyzoo.inference.engine.target import Target, make_target
from storyzoo.models import autoregression
from storyzoo.models.distributions.flat import Flat
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.models.lda import LatentDirichletAllocation
from storyzoo.models.linear_regression import LinearRegression
from storyzoo.models.logistic_regression import LogisticRegression
from storyzoo.models.ordered_mixture import OrderedMixture
from storyzoo.models.poisson_regression import PoissonRegression
from storyzoo.models.rbm import RestrictedBoltzmann
from storyzoo.story import Story

Point = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Mixture(Story):
    """A mixture of independent normals, as a user would write it: no hook at all."""

    n_components: int = 2
    spread: float = 5.0

    data_dims = {"y": ("point", "feature")}
    event_dims = {
        "weight": ("component",),
        "loc": ("feature",),
        "scale": ("feature",),
        "y": ("feature",),
    }
    examples = "point"
    exchangeable = {"component": ("component",)}
    label_values = {"z": "component"}

    def model(self, y: Any) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.ones(self.n_components)))
        with pyro.plate("component", self.n_components):
            loc = pyro.sample("loc", dist.Normal(0, self.spread).expand(y.shape[-1:]).to_event(1))
            scale = pyro.sample("scale", dist.LogNormal(0, 1).expand(y.shape[-1:]).to_event(1))
        with pyro.plate("point", len(y)):
            z = pyro.sample("z", dist.Categorical(weight), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(loc[z], scale[z]).to_event(1), obs=y)


@dataclass(frozen=True)
class FlatRegression(Story):
    """A line through points; its slope and intercept have improper flat priors."""

    data_dims = {"x": ("row",), "y": ("row",)}
    event_dims = {"beta": ("coefficient",)}
    examples = "row"

    def model(self, x: Any, y: Any) -> None:
        beta = pyro.sample("beta", Flat(dist.constraints.real_vector, event_shape=(2,)))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(beta[0] + beta[1] * x, sigma), obs=y)


@dataclass(frozen=True)
class Autoregression(Story):
    """A first-order autoregression that reads its own past: simulates by its step."""

    name = "first-order"
    data_dims = {"y": ("time",)}

    def model(self, y: Any) -> None:
        phi = pyro.sample("phi", dist.Uniform(-1, 1))
        with pyro.plate("time", len(y)):
            before = torch.cat([y.new_zeros(1), y[:-1]])
            pyro.sample("y", dist.Normal(phi * before, 1.0), obs=y)

    def step(self, latents: Any, state: Any) -> Any:
        before = torch.zeros(()) if state is None else state[1]
        return dist.Normal(latents["phi"] * before, 1.0), None


@dataclass(frozen=True)
class TinyChain(Story):
    """A hidden Markov chain by ``pyro.markov``; its transition matrix has one dim twice."""

    n_states: int = 2

    data_dims = {"y": ("time",)}
    event_dims = {"transition": ("next_state",)}
    exchangeable = {"state": ("state", "next_state")}

    def model(self, y: Any) -> None:
        with pyro.plate("state", self.n_states):
            transition = pyro.sample("transition", dist.Dirichlet(torch.ones(self.n_states)))
            loc = pyro.sample("loc", dist.Normal(0, 5))
        first = torch.full((self.n_states,), 1.0 / self.n_states)
        z = None
        for t in pyro.markov(range(len(y))):
            probs = first if z is None else transition[z]
            z = pyro.sample(f"z_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[t])


@dataclass(frozen=True)
class NestedPlates(Story):
    """Groups of items: a label for each group, a label for each item, plates in a plate."""

    data_dims = {"y": ("item", "group")}
    examples = "group"

    def model(self, y: Any) -> None:
        items, groups = y.shape
        mix = pyro.sample("mix", dist.Beta(2, 2))
        with pyro.plate("kind", 2):
            often = pyro.sample("often", dist.Beta(2, 2))
        with pyro.plate("side", 2):
            loc = pyro.sample("loc", dist.Normal(0, 3))
        with pyro.plate("group", groups, dim=-1):
            a = pyro.sample("a", dist.Bernoulli(mix), infer={"enumerate": "parallel"})
            with pyro.plate("item", items, dim=-2):
                rate = often[a.long()]
                b = pyro.sample("b", dist.Bernoulli(rate), infer={"enumerate": "parallel"})
                pyro.sample("y", dist.Normal(loc[b.long()], 1.0), obs=y)


@dataclass(frozen=True)
class Case:
    """A story with data, a point, and what is known of it by hand."""

    story: Story
    arrays: dict[str, Any]
    point: Point
    log_likelihood: Callable[[Point, dict[str, Any]], np.ndarray]
    """(N,) by example, or (1,) where the story has no independent examples; of what is seen."""
    coords: dict[str, list[str]] = field(default_factory=dict)
    improper: bool = False
    reads_past: bool = False

    @property
    def name(self) -> str:
        """What the test is called."""
        return self.story.name

    def target(self) -> Target:
        """The story with its data: always the same object, which keeps what it has compiled."""
        return self._target

    @cached_property
    def _target(self) -> Target:
        return make_target(self.story, self.arrays, coords=self.coords)

    def latents(self) -> dict[str, torch.Tensor]:
        """The point as tensors."""
        return {name: torch.as_tensor(value) for name, value in self.point.items()}


RNG = np.random.default_rng(7)
TWO_CLOUDS = np.concatenate([RNG.normal(-2, 1, (6, 2)), RNG.normal(2, 0.5, (5, 2))])
SCHOOLS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
LINE_X = RNG.normal(size=9)
PLANE_X = np.random.default_rng(8).normal(size=(9, 2)) * [1.0, 3.0] + [0.0, 5.0]


def mixture_by_hand(point: Point, data: dict[str, Any]) -> np.ndarray:
    """``log sum_k w_k prod_d N(y_nd; loc_kd, scale_kd)``, missing values left out."""
    y = data["y"][:, None]
    terms = stats.norm.logpdf(y, point["loc"], point["scale"])
    return np.asarray(
        special.logsumexp(np.log(point["weight"]) + np.nansum(terms, axis=-1), axis=1)
    )


def full_mixture_by_hand(point: Point, data: dict[str, Any]) -> np.ndarray:
    """The same with full covariances."""
    parts = list(zip(point["weight"], point["loc"], point["covariance"], strict=True))
    totals = []
    for row in data["y"]:
        seen = ~np.isnan(row)
        terms = [np.log(w) for w, _, _ in parts]
        if seen.any():
            terms = [
                np.log(w) + stats.multivariate_normal.logpdf(row[seen], m[seen], c[seen][:, seen])
                for w, m, c in parts
            ]
        totals.append(special.logsumexp(terms))
    return np.array(totals)


def words_by_hand(point: Point, data: dict[str, Any]) -> np.ndarray:
    """Word by word: each is of some topic of its document's mixture."""
    totals, entries = [], list(zip(data["word"], data["count"], strict=True))
    for mixture, length in zip(point["mixture"], data["length"], strict=True):
        own, entries = entries[:length], entries[length:]
        totals.append(sum(n * np.log(mixture @ point["topics"][:, v]) for v, n in own))
    return np.array(totals)


def log_normal(y: Any, loc: Any, scale: Any) -> np.ndarray:
    """Log density of a normal, zero for what is missing."""
    return np.asarray(np.nan_to_num(stats.norm.logpdf(y, loc, scale), neginf=-np.inf))


def log_mass(family: Any, y: np.ndarray, parameter: np.ndarray) -> np.ndarray:
    """Log probability of counts or of zeros and ones, zero for what is missing."""
    seen = ~np.isnan(y)
    return np.asarray(np.where(seen, family.logpmf(np.where(seen, y, 0), parameter), 0.0))


def plane(point: Point, data: dict[str, Any]) -> np.ndarray:
    """The predictor of a regression: the slopes are per spread of a feature about its centre."""
    slope = 2.5 * point["raw"] / [1.0, 3.0]
    return np.asarray(point["alpha"] + (data["x"] - [0.0, 5.0]) @ slope)


def lags_by_hand(point: Point, data: dict[str, Any]) -> np.ndarray:
    """The second value on, each from the two before it."""
    y = data["y"]
    loc = point["alpha"] + point["beta"][0] * y[1:-1] + point["beta"][1] * y[:-2]
    return np.array([stats.norm.logpdf(y[2:], loc, point["sigma"]).sum()])


def ordered_by_hand(point: Point, data: dict[str, Any]) -> np.ndarray:
    """``log sum_k w_k N(y_n; loc_k, scale_k)``, zero for what is missing."""
    y = data["y"][:, None]
    terms = np.log(point["weight"]) + stats.norm.logpdf(y, point["loc"], point["scale"])
    return np.asarray(np.nan_to_num(special.logsumexp(terms, axis=1)))


def boltzmann_by_hand(point: Point, data: dict[str, Any]) -> np.ndarray:
    """Sum over every state of both layers, those that agree with what is seen against all."""
    weight, b, c = point["weight"], point["visible_bias"], point["hidden_bias"]
    images = np.array(list(itertools.product((0, 1), repeat=len(b))))
    hidden = np.array(list(itertools.product((0, 1), repeat=len(c))))
    score = (images @ b)[:, None] + hidden @ c + images @ weight @ hidden.T
    image_score = special.logsumexp(score, axis=1)
    agrees = (np.isnan(data["v"][:, None]) | (data["v"][:, None] == images)).all(-1)
    own = special.logsumexp(np.where(agrees, image_score, -np.inf), axis=1)
    return np.asarray(own - special.logsumexp(score))


def chain_by_hand(point: Point, data: dict[str, Any]) -> np.ndarray:
    """Sum over every path of states."""
    y, transition = data["y"], point["transition"]
    paths = [
        math.log(0.5)
        + sum(math.log(transition[a, b]) for a, b in itertools.pairwise(path))
        + sum(log_normal(v, point["loc"][k], 1) for v, k in zip(y, path, strict=True))
        for path in itertools.product(range(2), repeat=len(y))
    ]
    return np.array([special.logsumexp(paths)])


def nested_by_hand(point: Point, data: dict[str, Any]) -> np.ndarray:
    """Sum over each group's label and, within it, each item's."""
    y = data["y"]
    totals = []
    for a, weight in ((0, 1 - point["mix"]), (1, point["mix"])):
        rate = point["often"][a]
        low = np.log1p(-rate) + log_normal(y, point["loc"][0], 1)
        high = np.log(rate) + log_normal(y, point["loc"][1], 1)
        totals.append(np.log(weight) + np.logaddexp(low, high).sum(0))
    return np.asarray(np.logaddexp(*totals))


MIXTURE_POINT = {
    "weight": np.array([0.3, 0.7]),
    "loc": np.array([[-2.0, -1.5], [2.0, 1.0]]),
    "scale": np.array([[1.0, 0.8], [0.5, 1.5]]),
}

CASES = [
    Case(
        Mixture(),
        {"y": TWO_CLOUDS},
        MIXTURE_POINT,
        mixture_by_hand,
        coords={"feature": ["width", "height"]},
    ),
    Case(
        GaussianMixture(n_components=2),
        {"y": TWO_CLOUDS},
        {
            "weight": np.array([0.3, 0.7]),
            "loc": np.array([[-2.0, -1.5], [2.0, 1.0]]),
            "covariance": np.array([[[1.0, 0.2], [0.2, 0.8]], [[0.5, -0.1], [-0.1, 1.5]]]),
        },
        full_mixture_by_hand,
    ),
    Case(
        EightSchools(centred=True),
        {"effect": np.array(SCHOOLS), "stderr": np.array(ERRORS)},
        {"mu": np.array(4.0), "tau": np.array(3.0), "theta": np.linspace(-2, 9, 8)},
        lambda p, d: log_normal(d["effect"], p["theta"], d["stderr"]),
    ),
    Case(
        FlatRegression(),
        {"x": LINE_X, "y": 1 + 2 * LINE_X + RNG.normal(size=9)},
        {"beta": np.array([0.9, 1.8]), "sigma": np.array(1.2)},
        lambda p, d: log_normal(d["y"], p["beta"][0] + p["beta"][1] * d["x"], p["sigma"]),
        improper=True,
    ),
    Case(
        Autoregression(),
        {"y": np.cumsum(RNG.normal(size=12)) * 0.5},
        {"phi": np.array(0.8)},
        lambda p, d: np.array(
            [stats.norm.logpdf(d["y"], p["phi"] * np.r_[0, d["y"][:-1]], 1).sum()]
        ),
        reads_past=True,
    ),
    Case(
        TinyChain(),
        {"y": np.array([-1.2, -0.3, 1.9, 2.2, 0.4])},
        {"transition": np.array([[0.7, 0.3], [0.2, 0.8]]), "loc": np.array([-1.0, 2.0])},
        chain_by_hand,
    ),
    Case(
        NestedPlates(),
        {"y": RNG.normal(size=(3, 4)) + 1},
        {"mix": np.array(0.4), "often": np.array([0.2, 0.7]), "loc": np.array([-0.5, 1.5])},
        nested_by_hand,
    ),
    Case(
        LinearRegression(centre=(0, 5), spread=(1, 3)),
        {"x": PLANE_X, "y": PLANE_X @ [1.0, 0.3] + np.sin(np.arange(9.0))},
        {"alpha": np.array(1.4), "raw": np.array([0.3, 0.4]), "sigma": np.array(0.8)},
        lambda p, d: log_normal(d["y"], plane(p, d), p["sigma"]),
    ),
    Case(
        LogisticRegression(centre=(0, 5), spread=(1, 3)),
        {"x": PLANE_X, "y": np.array([0.0, 1, 1, 0, 1, 0, 1, 0, 0])},
        {"alpha": np.array(-0.3), "raw": np.array([0.5, -0.2])},
        lambda p, d: log_mass(stats.bernoulli, d["y"], special.expit(plane(p, d))),
    ),
    Case(
        PoissonRegression(centre=(0, 5), spread=(1, 3), intercept_scale=1, slope_scale=2.5),
        {"x": PLANE_X, "y": np.array([0.0, 2, 1, 5, 3, 0, 8, 1, 2])},
        {"alpha": np.array(0.7), "raw": np.array([0.2, -0.1])},
        lambda p, d: log_mass(stats.poisson, d["y"], np.exp(plane(p, d))),
    ),
    Case(
        autoregression.Autoregression(order=2, lag_scale=0.5, start=(0.5, -0.2)),
        {"y": np.sin(np.arange(12.0)) + 0.3 * np.cos(np.arange(12.0) ** 2)},
        {"alpha": np.array(0.1), "beta": np.array([0.9, -0.6]), "sigma": np.array(0.4)},
        lags_by_hand,
        reads_past=True,
    ),
    Case(
        OrderedMixture(n_components=2),
        {"y": np.array([-1.4, 0.2, 1.1, -0.9, 1.6, 0.9, -2.0])},
        {
            "loc": np.array([-1.0, 1.0]),
            "scale": np.array([0.7, 0.5]),
            "weight": np.array([0.4, 0.6]),
        },
        ordered_by_hand,
    ),
    Case(
        RestrictedBoltzmann(n_hidden=2),
        {"v": np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0.0]])},
        {
            "weight": np.array([[0.5, -1.2], [2.0, 0.3], [-0.7, 1.1]]),
            "visible_bias": np.array([0.2, -0.4, 0.1]),
            "hidden_bias": np.array([-0.5, 0.8]),
        },
        boltzmann_by_hand,
    ),
    Case(
        LatentDirichletAllocation(n_topics=2, alpha=1.5, eta=1.2),
        {
            "length": np.array([3, 1, 2]),
            "word": np.array([0, 1, 3, 2, 0, 4]),
            "count": np.array([2, 1, 1, 3, 1, 2]),
            "n_words": 5,
        },
        {
            "topics": np.array([[0.5, 0.2, 0.1, 0.15, 0.05], [0.05, 0.1, 0.5, 0.05, 0.3]]),
            "mixture": np.array([[0.8, 0.2], [0.1, 0.9], [0.4, 0.6]]),
        },
        words_by_hand,
        coords={"word": ["ant", "bee", "cat", "dog", "elk"]},
    ),
]
