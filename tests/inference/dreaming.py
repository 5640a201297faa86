"""Stories that tell the gradient of their normaliser by chains; the answer is known anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.map import MAP
from storyzoo.story import Data, Fantasies, Latents, Story
from tests.ising import Spins, spins

Gradient = tuple[dict[str, Tensor], Fantasies]


@dataclass(frozen=True)
class DreamingSpins(Spins):
    """Two spins, and Gibbs sweeps over pairs of them."""

    def stochastic_gradient(self, latents: Latents, batch: Data, state: Fantasies) -> Gradient:
        rows = batch["v"]
        chains = state.values if state.persistent else rows
        if chains is None:
            chains = torch.zeros(state.count, 2).to(rows)
        for _ in range(state.sweeps):
            for spin in (0, 1):
                odds = latents["bias"] + latents["coupling"] * chains[:, 1 - spin]
                fresh = torch.rand(len(chains), generator=state.generator) < odds.sigmoid()
                both = [fresh.to(rows), chains[:, 1]] if spin == 0 else [chains[:, 0], fresh]
                chains = torch.stack([value.to(rows) for value in both], -1)
        gap = _statistics(rows) - _statistics(chains)
        gradient = len(rows) * gap
        return {"bias": gradient[0], "coupling": gradient[1]}, replace(state, values=chains)


def _statistics(rows: Tensor) -> Tensor:
    return torch.stack([rows.sum(-1).mean(), rows.prod(-1).mean()])


def dreaming(hidden: bool = True, n: int = 400) -> Target:
    """Spins that dream; with ``hidden`` nobody may know their density."""
    return make_target(DreamingSpins(hidden), spins(n))


@dataclass(frozen=True)
class Bell(Story):
    """A normal whose scale is positive, and whose chains are independent draws of it."""

    hidden: bool = True

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, scale), obs=y)

    def intractable(self) -> str | None:
        return "nobody knows pi" if self.hidden else None

    def stochastic_gradient(self, latents: Latents, batch: Data, state: Fantasies) -> Gradient:
        y, loc, scale = batch["y"], latents["loc"], latents["scale"]
        noise = torch.randn(state.count, generator=state.generator)
        dreamt = loc + scale * noise

        def slope(values: Tensor) -> Mapping[str, Tensor]:
            apart = values - loc
            return {"loc": (apart / scale**2).mean(), "scale": (apart**2 / scale**3).mean()}

        seen, unseen = slope(y), slope(dreamt)
        gradient = {name: len(y) * (seen[name] - unseen[name]) for name in seen}
        return gradient, replace(state, values=dreamt)

    def direction(
        self, latents: Latents, gradient: Mapping[str, Tensor], state: Fantasies
    ) -> dict[str, Tensor]:
        """Steps of the location in units of the scale; those of the scale turned by half."""
        return {"loc": latents["scale"] ** 2 * gradient["loc"], "scale": 0.5 * gradient["scale"]}


def bell(hidden: bool = True, n: int = 300) -> Target:
    """Draws of a normal."""
    return make_target(Bell(hidden), {"y": np.random.default_rng(0).normal(1.0, 0.5, size=n)})


def exact_mode(target: Target, objective: Any = "posterior") -> dict[str, float]:
    """By the exact gradient."""
    story: Any = target.story
    arrays = {name: np.asarray(value) for name, value in target.data.items()}
    known = make_target(replace(story, hidden=False), arrays)
    tree, _ = MAP(restarts=2, objective=objective).run(known, seed=0, progress=Progress(quiet=True))
    return {str(name): v.item() for name, v in tree["posterior"].data_vars.items()}
