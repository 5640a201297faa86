"""What is hidden, given what is seen: discrete sites, and missing values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from torch import Tensor

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.enumeration import responsibilities
from storyzoo.inference.engine.factors import ValueMessenger
from storyzoo.inference.engine.groups import each_draw
from storyzoo.inference.engine.missing import ObservedMessenger, partly_missing
from storyzoo.inference.engine.simulation import simulated
from storyzoo.inference.engine.target import Target
from storyzoo.story import Latents


def discrete_posterior(target: Target, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Exact posterior of every discrete site, averaged over draws ``(S, *shape)`` of the rest.

    Returns ``(*batch shape, number of values)`` by site; sums to one over the last axis.
    """
    totals: dict[str, np.ndarray] = {}
    count = 0
    with target.context():
        for latents in each_draw(draws):
            count += 1
            found = responsibilities(target.story, target.data, latents, target.structure)
            for name, weights in found.by_site.items():
                values = weights.movedim(0, -1).cpu().numpy()
                totals[name] = totals.get(name, 0.0) + values
    return {name: total / count for name, total in totals.items()}


def hidden_means(target: Target, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the story's ``hidden_units`` tells of each example, averaged over draws (S, *shape)."""
    totals: dict[str, np.ndarray] = {}
    count = 0
    with target.context(), torch.no_grad():
        for latents in each_draw(draws):
            count += 1
            found = target.story.hidden_units(latents, target.data)
            assert found is not None
            for name, values in found.items():
                totals[name] = totals.get(name, 0.0) + values.cpu().numpy()
    return {name: total / count for name, total in totals.items()}


def impute(target: Target, latents: Latents, rng: np.random.Generator) -> dict[str, Tensor]:
    """The data with a draw of each missing value, given the latents and what is observed.

    By the story's own ``impute`` or, where it has none, by drawing the discrete sites from their
    exact joint posterior and the missing values given them. Raises RefusedError where latents
    belong to single examples that the fit has not seen, or where a joint event is partly missing.
    """
    if not target.structure.missing:
        return dict(target.data)
    if target.story.has("impute"):
        with target.context():
            found = target.story.impute(latents, target.data, rng)
        assert found is not None
        return found
    if target.structure.local.keys() - latents.keys():
        raise RefusedError(
            f"{target.story.name} has latents of single examples; give it an `impute` hook"
        )
    with target.context():
        torch.manual_seed(int(rng.integers(2**31)))
        labels = _draw_labels(target, latents)
        with poutine.trace() as tracer, ValueMessenger({**latents, **labels}):
            poutine.uncondition(target.story.model)(**target.data)
    _refuse_joint(target, tracer.trace.nodes)
    drawn = simulated(tracer.trace, target.structure, target.data)
    whole = {
        name: torch.where(torch.isnan(seen), drawn[name], seen)
        for name, seen in target.data.items()
        if name in drawn
    }
    return {**target.data, **whole}


def _refuse_joint(target: Target, nodes: Any) -> None:
    """A joint event that is partly missing would need its conditional distribution."""
    for name in target.structure.observed:
        row = partly_missing(nodes[name]["fn"], nodes[name]["infer"]["obs"])
        if row is not None:
            raise RefusedError(
                f"{target.story.name}: site '{name}', row {row} is partly missing, but one joint "
                "event; give the story an `impute` hook"
            )


def _draw_labels(target: Target, latents: Latents) -> dict[str, Tensor]:
    """One joint draw of the discrete sites from their exact posterior."""
    if not target.structure.discrete:
        return {}

    def given() -> None:
        with ObservedMessenger(target.structure.missing), poutine.condition(data=dict(latents)):
            target.story.model(**target.data)

    first = -1 - target.structure.max_plate_nesting
    sampled = infer_discrete(config_enumerate(given, default="parallel"), first)
    with poutine.trace() as tracer:
        sampled()
    nodes: Any = tracer.trace.nodes
    return {name: nodes[name]["value"] for name in target.structure.discrete}
