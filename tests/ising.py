"""A story whose normaliser is known to the tests alone: two spins that like to agree.

``log p(v) = bias (v_1 + v_2) + coupling v_1 v_2 - log Z`` with v of zeros and ones, so that
``Z = 1 + 2 exp(bias) + exp(2 bias + coupling)``. To the house the likelihood can be had only by
an estimate, whose error and bounds a test chooses. Without ``hidden`` the same story is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from storyzoo.errors import IntractableError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.method import Info, Kind, Method, Outcome
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Data, Latents, LikelihoodEstimate, Story

STATES = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


def log_weight(v: Tensor, bias: Tensor, coupling: Tensor) -> Tensor:
    """Unnormalised log density of the rows (…, 2)."""
    return bias * v.sum(-1) + coupling * v.prod(-1)


def exact(v: np.ndarray, bias: float, coupling: float) -> np.ndarray:
    """``log p(v_n)`` by hand: (N,)."""
    size = np.log(1 + 2 * np.exp(bias) + np.exp(2 * bias + coupling))
    return np.asarray(bias * v.sum(-1) + coupling * v.prod(-1) - size)


class Pair(TorchDistribution):
    """The two spins; without ``known`` nobody may ask for their density."""

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, bias: Tensor, coupling: Tensor, known: bool, shape: Any = ()) -> None:
        self.bias, self.coupling, self.known = bias, coupling, known
        super().__init__(torch.Size(shape), torch.Size([2]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Pair:
        return Pair(self.bias, self.coupling, self.known, batch_shape)

    def _states(self) -> tuple[Tensor, Tensor]:
        states = torch.as_tensor(STATES).to(self.bias)
        return states, log_weight(states, self.bias, self.coupling)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        states, weights = self._states()
        shape = (*sample_shape, *self.batch_shape)
        return states[dist.Categorical(logits=weights).sample(shape)]

    def log_prob(self, value: Tensor) -> Tensor:
        if not self.known:
            raise IntractableError("nobody may know the density of two spins")
        density = log_weight(value, self.bias, self.coupling) - self._states()[1].logsumexp(0)
        return density.expand(torch.broadcast_shapes(density.shape, self.batch_shape))


@dataclass(frozen=True)
class Spins(Story):
    """Rows of two spins."""

    hidden: bool = True
    """Whether the likelihood is said to be intractable."""
    noise: float = 0.05
    """Standard deviation of an estimated log Z, nats."""
    gap: float = 0.2
    """Between the bounds, nats; the truth lies in the middle."""
    sticky: float | None = None
    """Chance that a simulating chain stays where it is; None without chains."""

    data_dims = {"v": ("row", "spin")}
    event_dims = {"v": ("spin",)}
    examples = "row"

    def model(self, v: Tensor) -> None:
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        coupling = pyro.sample("coupling", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(v)):
            pyro.sample("v", Pair(bias, coupling, not self.hidden), obs=v)

    def intractable(self) -> str | None:
        return "two spins have more states than anyone can count" if self.hidden else None

    def log_likelihood_estimate(
        self, latents: Latents, data: Data, rng: np.random.Generator
    ) -> LikelihoodEstimate:
        pair = Pair(latents["bias"], latents["coupling"], known=True)
        truth = pair.log_prob(data["v"])
        value = truth + self.noise * rng.standard_normal()
        half = self.gap / 2
        return LikelihoodEstimate(value, self.noise, truth - half, truth + half)

    def trajectories(
        self, latents: Latents, data: Data, rng: np.random.Generator
    ) -> dict[str, Tensor] | None:
        if self.sticky is None:
            return None
        fresh = rng.integers(0, 2, (4, 200)).astype(float)
        stay = rng.random(fresh.shape) < self.sticky
        for draw in range(1, 200):
            fresh[:, draw] = np.where(stay[:, draw], fresh[:, draw - 1], fresh[:, draw])
        return {"agreement": torch.tensor(fresh)}


@dataclass(frozen=True)
class Planted(Method):
    """Gives back a point that it was told."""

    name: ClassVar[str] = "planted"
    kind: ClassVar[Kind] = "point"

    bias: float = 0.3
    coupling: float = 1.0

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        point = {"bias": self.bias, "coupling": self.coupling}
        draws = {name: np.full((1, 1), value) for name, value in point.items()}
        return Outcome(posterior_tree(target.structure, draws, {}), Info())


def spins(n: int = 40, seed: int = 0) -> Mapping[str, np.ndarray]:
    """Rows drawn with a bias of 0.3 and a coupling of 1."""
    chances = np.exp(exact(STATES, 0.3, 1.0))
    return {"v": STATES[np.random.default_rng(seed).choice(4, n, p=chances)]}
