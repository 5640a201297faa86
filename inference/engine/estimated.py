"""Likelihoods that can only be estimated: the story's own estimate, at a bounded number of draws.

Where a normaliser is a sum that nobody can take, ``log p(x_n | theta)`` comes from annealed
sampling or the like: a value with a standard error, between a stochastic lower and upper bound.
One estimate may cost as much as a fit, so that few draws get one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from storyzoo.errors import IntractableError
from storyzoo.inference.engine.target import Target
from storyzoo.story import Latents, Story

Array = npt.NDArray[np.float64]

BOUNDS = "log_likelihood_bounds"
"""Group of a tree beside log likelihoods that are estimates: their bounds and standard error."""
ESTIMATED_DRAWS = 4
"""Draws whose likelihood is estimated, evenly thinned."""


class Estimates(NamedTuple):
    """Log likelihoods of N examples at S draws, nats."""

    value: Array
    """(S, N)"""
    standard_error: Array
    """(S,): of the normaliser, which all examples share."""
    lower: Array
    """(S, N)"""
    upper: Array
    """(S, N)"""
    effective: Array
    """(S,): share of the samples behind each that carry weight."""


def why_unknown(story: Story) -> str | None:
    """Why the likelihood can be neither computed nor estimated; None where it can."""
    reason = story.intractable()
    if reason is None or story.has("log_likelihood_estimate"):
        return None
    return f"{reason}, and the story has no `log_likelihood_estimate`"


def estimates(target: Target, draws: Mapping[str, np.ndarray], seed: int) -> Estimates:
    """The story's estimates at draws ``(S, *shape)`` by site.

    Equal draws get equal random numbers, whatever is scored: rows that were scored together and
    apart agree. Raises IntractableError where the story has no estimate.
    """
    reason = why_unknown(target.story)
    if reason is not None:
        raise IntractableError(f"{target.story.name} has no log likelihood: {reason}")
    size = len(next(iter(draws.values())))
    found = [
        _estimate(target, {k: torch.as_tensor(v[s]) for k, v in draws.items()}, [seed, 4, s])
        for s in range(size)
    ]
    return Estimates(*(np.stack(column) for column in zip(*found, strict=True)))


def _estimate(target: Target, latents: Latents, seed: list[int]) -> tuple[Array, ...]:
    rng = np.random.default_rng(seed)
    with target.context(), torch.no_grad():
        placed = {name: value.to(target.device) for name, value in latents.items()}
        found = target.story.log_likelihood_estimate(placed, target.data, rng)
    assert found is not None
    value, lower, upper = (
        part.expand(target.n_examples).cpu().numpy().astype(np.float64)
        for part in (found.value, found.lower, found.upper)
    )
    error, effective = (np.float64(part) for part in (found.standard_error, found.effective))
    return value, np.asarray(error), lower, upper, np.asarray(effective)
