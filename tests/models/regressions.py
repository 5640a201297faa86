"""Targets of regressions on real data, and what all of them owe."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from storyzoo.binding import bind
from storyzoo.datasets import load
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.map import MAP
from storyzoo.models.regression import Regression


def target_on(story: Regression, spec: str, target: str | None = None) -> Target:
    """The story with its priors scaled to a data set."""
    bound = bind(story, load(spec), target)
    data = {name: torch.as_tensor(value) for name, value in bound.arrays.items()}
    return make_target(story.scaled_to(data), bound.arrays, coords=bound.coords)


def mode(target: Target) -> dict[str, np.ndarray]:
    """The posterior mode, deterministic sites too."""
    tree, _ = MAP(restarts=2).run(target, seed=0, progress=Progress(quiet=True))
    posterior = tree["posterior"].to_dataset()
    latents = {
        name: torch.as_tensor(posterior[name].values[0, 0]) for name in target.structure.latents
    }
    return {**_numbers(latents), **_numbers(followed(target, latents))}


def followed(target: Target, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model computes from its latents, by site."""
    with target.context(), poutine.trace() as tracer, poutine.condition(data=latents):
        target.story.model(**target.data)
    nodes: Any = tracer.trace.nodes
    return {name: nodes[name]["value"] for name in target.structure.of_kind("deterministic")}


def design(target: Target) -> np.ndarray:
    """The features with a column of ones before them (N, 1 + D)."""
    x = target.data["x"].numpy()
    return np.column_stack([np.ones(len(x)), x])


def _numbers(values: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in values.items()}
