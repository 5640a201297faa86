"""The exact posterior of enumerated discrete sites, and the expected complete log joint.

The responsibilities are the gradient of the log marginal with respect to each site's
log-probabilities (Darwiche 2003, "A differential approach to inference in Bayesian networks"): no
formula per model, any number of sites, chains and nested plates alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from storyzoo.inference.engine.factors import contract, run_model, site_log_probs
from storyzoo.inference.engine.structure import Structure
from storyzoo.story import Data, Latents, Story


@dataclass(frozen=True)
class Responsibilities:
    """The E-step at one point: the weight of each factor's every entry, and its log likelihood."""

    by_factor: dict[str, Tensor]
    """Site -> weights in the shape of its log-probability, enumeration dims leftmost."""
    by_site: dict[str, Tensor]
    """Discrete site -> ``(number of values, *batch shape)``; sums to one over the first axis."""
    log_likelihood: Tensor
    """Scalar, nats, the discrete sites summed out; hard: at their best values."""


def responsibilities(
    story: Story, data: Data, latents: Latents, structure: Structure, *, hard: bool = False
) -> Responsibilities:
    """Exact posterior weights of the discrete sites given the continuous ones.

    ``hard`` puts all weight on the single best labelling (the Viterbi path of a chain); ties are
    split evenly. Call under the story's defaults.
    """
    trace = run_model(story, data, latents, structure, enumerate_sites=True)
    leaves = {
        name: log_prob.detach().requires_grad_() for name, log_prob in site_log_probs(trace).items()
    }
    parts = contract(trace, leaves, structure, story, hard=hard)
    likelihood = parts.log_likelihood.sum() + parts.shared
    touched = [name for name in leaves if structure.sites[name].kind != "latent"]
    gradients = torch.autograd.grad(
        likelihood, [leaves[name] for name in touched], allow_unused=True
    )
    weights = {
        name: torch.zeros_like(leaves[name]) if gradient is None else gradient
        for name, gradient in zip(touched, gradients, strict=True)
    }
    by_site = {}
    for name in structure.discrete:
        own = trace.nodes[name]["infer"]["_enumerate_dim"]
        rank = len(structure.sites[name].shape)
        by_site[name] = _over_values(weights[name], own, structure.max_plate_nesting, rank)
    return Responsibilities(weights, by_site, likelihood.detach())


def _over_values(weight: Tensor, own: int, nesting: int, rank: int) -> Tensor:
    """Sum a factor's weights over the other sites' values: ``(values, *batch shape)``."""
    others = [dim for dim in range(-weight.dim(), -nesting) if dim != own]
    kept = weight.sum(others, keepdim=True) if others else weight
    values = kept.movedim(own, 0)
    batch = values.shape[values.dim() - rank :] if rank else torch.Size()
    return values.reshape(values.shape[0], *batch)


def expected_log_joint(
    story: Story,
    data: Data,
    latents: Latents,
    structure: Structure,
    weights: dict[str, Tensor],
) -> Tensor:
    """``sum_f <weights_f, log p_f(latents)>``: the expected complete log likelihood, a scalar.

    Priors of the continuous sites are not in it. Differentiable in the latents.
    """
    trace = run_model(story, data, latents, structure, enumerate_sites=True)
    log_probs = site_log_probs(trace)
    total = torch.zeros(())
    for name, weight in weights.items():
        # An impossible entry (log 0) that gets no weight counts nothing, not NaN.
        term = torch.where(weight > 0, log_probs[name], torch.zeros_like(weight))
        total = total + (weight * term).sum()
    return total


def under_labels(
    story: Story, data: Data, latents: Latents, structure: Structure
) -> tuple[str, ...]:
    """Continuous latents whose prior depends on a discrete site: their labels are not fixed."""
    trace = run_model(story, data, latents, structure, enumerate_sites=True)
    log_probs = site_log_probs(trace)
    return tuple(
        name
        for name in structure.latents
        if log_probs[name].dim() > len(structure.sites[name].plates)
        and any(size > 1 for size in log_probs[name].shape[: -structure.max_plate_nesting or None])
        and log_probs[name].dim() > structure.max_plate_nesting
    )
