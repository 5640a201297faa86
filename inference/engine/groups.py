"""Every group of the tree that applies: likelihoods, priors, predictions and the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from xarray import Dataset, DataTree

from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.estimated import (
    BOUNDS,
    ESTIMATED_DRAWS,
    Estimates,
    estimates,
    why_unknown,
)
from storyzoo.inference.engine.factors import tied
from storyzoo.inference.engine.mixing import mixing
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import build_tree, by_dims, draws_of
from storyzoo.story import Story

WHOLE = "whole"
"""Dim of size one along which a story without independent examples has its log likelihood."""
PREDICTIVE_DRAWS = 200
MOST_STEPS = 200_000
"""Steps of the longest sequence, times draws, that are walked for likelihoods of what was fitted:
some minutes for a network of 500 units."""
MOST_ELEMENTS = 8_000_000
"""Elements of a group above which it is left out: 64 MB of float64."""


def flat_draws(density: LogDensity, draws: Mapping[str, np.ndarray]) -> Tensor:
    """Draws ``(S, *shape)`` by site as the density's flat vectors (S, D)."""
    return density.flatten({k: torch.as_tensor(v) for k, v in draws.items()})


def merged(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``(chain, draw, *shape)`` by site to ``(chain * draw, *shape)``."""
    return {k: v.reshape(-1, *v.shape[2:]) for k, v in draws.items()}


def with_deterministic(tree: DataTree, target: Target) -> DataTree:
    """The tree with the story's deterministic sites in its posterior."""
    if not target.structure.of_kind("deterministic"):
        return tree
    draws = draws_of(target.structure, tree["posterior"])
    density = target.density()
    leading = next(iter(draws.values())).shape[:2]
    values = density.deterministic(flat_draws(density, merged(draws)))
    added = {
        name: value.detach().cpu().numpy().reshape(*leading, *value.shape[1:])
        for name, value in values.items()
    }
    extra = build_tree(target.structure, {"posterior": by_dims(target.structure, added, 2)})
    return _joined(
        tree, {"posterior": tree["posterior"].to_dataset().merge(extra["posterior"].to_dataset())}
    )


def complete(tree: DataTree, target: Target, seed: int) -> tuple[DataTree, list[str]]:
    """The tree with every group that applies, and why others are missing, a line each."""
    notes: list[str] = []
    draws = draws_of(target.structure, tree["posterior"])
    datasets: dict[str, Dataset] = {}
    size = tree["posterior"].sizes["chain"] * tree["posterior"].sizes["draw"]
    absent = [name for name in target.structure.local if name not in draws]
    if target.story.intractable() is not None:
        datasets |= _log_prior(target, draws) | estimated_likelihoods(target, draws, seed, notes)
    elif absent:
        notes.append(f"no pointwise log likelihood: draws of '{absent[0]}' are not kept")
    elif size * _longest_walk(target) > MOST_STEPS:
        notes.append("no pointwise log likelihood: its sequences are too long to be walked again")
        datasets |= _log_prior(target, draws)
    elif size * target.n_examples <= MOST_ELEMENTS:
        datasets |= likelihoods(target, draws, notes)
    else:
        notes.append(f"no pointwise log likelihood: {size} draws × {target.n_examples} examples")
    predictions = _predictions(target, draws, seed, notes)
    added = build_tree(target.structure, predictions, dims=_outcome_dims(target))
    datasets |= {name: child.to_dataset() for name, child in added.children.items()}
    return _joined(tree, datasets | data_groups(target)), notes


def _longest_walk(target: Target) -> int:
    """Steps that only one after the other can be taken, where the story walks sequences."""
    if not target.story.has("unroll"):
        return 0
    return max((int(target.data[name].max()) for name in target.story.ragged.values()), default=0)


def _outcome_dims(target: Target) -> dict[str, tuple[str, ...]]:
    """Dims of what is simulated, by argument: those of the data that it stands for."""
    declared = target.story.data_dims
    return {name: declared[name] for name in target.structure.outcomes if name in declared}


def _joined(tree: DataTree, groups: Mapping[str, Dataset]) -> DataTree:
    whole = {name: child.to_dataset() for name, child in tree.children.items()} | dict(groups)
    joined = DataTree.from_dict({f"/{name}": values for name, values in whole.items()})
    joined.attrs.update(tree.attrs)
    return joined


def likelihoods(
    target: Target, draws: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, Dataset]:
    """Pointwise log likelihood ``(chain, draw, example)`` and log prior ``(chain, draw)``, nats.

    A story without independent examples is one whole, along a dim of size one.
    """
    density = target.density(jacobian=False)
    leading = next(iter(draws.values())).shape[:2]
    groups = _log_prior(target, draws)
    ties = tied(target.story, target.structure)
    if target.story.examples is not None and ties:
        notes.append(f"no pointwise log likelihood: '{ties[0]}' ties the examples together")
        return groups
    flat = flat_draws(density, merged(draws))
    pointwise = density.log_likelihood(flat).detach().cpu().numpy().reshape(*leading, -1)
    along = target.story.examples or WHOLE
    groups["log_likelihood"] = _by_draw(target, _name_of_data(target), pointwise, (along,))
    return groups


def estimated_likelihoods(
    target: Target, draws: Mapping[str, np.ndarray], seed: int, notes: list[str]
) -> dict[str, Dataset]:
    """Estimated log likelihoods of a few draws and, in a group of their own, what bounds them.

    ``log_likelihood`` and the bounds' ``lower`` and ``upper`` are ``(chain, draw, example)``, nats,
    all draws in one chain; ``standard_error`` and ``effective``, the share of the samples behind a
    draw's estimate that carry weight, are ``(chain, draw)``.
    """
    reason = why_unknown(target.story)
    if reason is not None:
        notes.append(f"no log likelihood: {reason}")
        return {}
    chosen = thinned(draws, ESTIMATED_DRAWS)
    found = estimates(target, chosen, seed)
    notes.append(_of_estimates(found, len(next(iter(merged(draws).values()))), target.story))
    along = (target.story.examples or WHOLE,)
    bounds = _by_draw(target, "lower", found.lower[None], along)
    bounds["upper"] = _by_draw(target, "upper", found.upper[None], along)["upper"]
    for name in ("standard_error", "effective"):
        bounds[name] = (("chain", "draw"), getattr(found, name)[None])
    value = _by_draw(target, _name_of_data(target), found.value[None], along)
    return {"log_likelihood": value, BOUNDS: bounds}


def _of_estimates(found: Estimates, size: int, story: Story) -> str:
    """What a reader must know of the estimated likelihoods, in a line."""
    count, error = len(found.value), found.standard_error.max()
    among = f" at {count} of {size} draws" if count < size else ""
    return (
        f"log likelihoods are estimates{among}, ± {error:.2g} nats per example: "
        f"{story.intractable()}"
    )


def _log_prior(target: Target, draws: Mapping[str, np.ndarray]) -> dict[str, Dataset]:
    """The log prior of the global sites by draw; nothing where it is improper."""
    if target.structure.improper:
        return {}
    density = target.density(jacobian=False)
    leading = next(iter(draws.values())).shape[:2]
    prior = density.log_prior(flat_draws(density, merged(draws)))
    values = prior.detach().cpu().numpy().reshape(leading) - _softmax_basis(target, draws)
    return {"log_prior": _by_draw(target, "log_prior", values, ())}


def _name_of_data(target: Target) -> str:
    return "+".join(target.structure.outcomes) or "data"


def _by_draw(target: Target, name: str, values: np.ndarray, dims: tuple[str, ...]) -> Dataset:
    labels = {dim: target.structure.coords.get(dim, np.arange(values.shape[-1])) for dim in dims}
    places = {dim: np.arange(values.shape[i]) for i, dim in enumerate(("chain", "draw"))}
    return Dataset({name: (("chain", "draw", *dims), values)}, coords=places | labels)


def _softmax_basis(target: Target, draws: Mapping[str, np.ndarray]) -> np.ndarray | float:
    """What the softmax basis adds to the density of constrained parameters: no part of a prior."""
    added: np.ndarray | float = 0.0
    for name, site in target.structure.latents.items():
        if site.softmax_basis and not site.local:
            added = added + np.log(draws[name]).sum(axis=tuple(range(2, draws[name].ndim)))
    return added


def _predictions(
    target: Target, draws: Mapping[str, np.ndarray], seed: int, notes: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    simulator = Simulator(target)
    cells = sum(t.numel() for t in target.data.values() if isinstance(t, Tensor))
    cells += sum(int(np.prod(site.shape)) for site in target.structure.latents.values())
    count = min(PREDICTIVE_DRAWS, MOST_ELEMENTS // max(1, 4 * cells))
    if target.story.intractable() is not None:  # each data set takes chains of its own
        count = min(count, ESTIMATED_DRAWS)
    if count == 0:
        notes.append("no predictive draws: the data are too large to keep copies of them")
        return {}
    groups = {}
    reason = simulator.refuses()
    ragged = bool(target.story.ragged)
    if ragged:
        notes.append("no predictive draws are kept: their sizes differ from draw to draw")
    elif reason is None:
        rng = np.random.default_rng([seed, 1])
        chosen = thinned(draws, count)
        simulated = [simulator.sites(one, rng)[0] for one in each_draw(chosen)]
        groups["posterior_predictive"] = _observed(target, simulated)
        chains = mixing(target, next(each_draw(chosen)), rng)
        notes += [] if chains is None else [f"predictive draws are {chains}"]
    else:
        notes.append(f"no posterior predictive draws: {reason}")
    reason = simulator.refuses_prior()
    if reason is None:
        rng = np.random.default_rng([seed, 2])
        if ragged:
            drawn = [simulator.prior_latents(rng) for _ in range(count)]
        else:
            drawn = [simulator.prior(rng) for _ in range(count)]
            groups["prior_predictive"] = _observed(target, drawn)
        groups["prior"] = by_dims(
            target.structure,
            {n: _stack([one[n] for one in drawn]) for n in target.structure.latents},
            leading=2,
        )
    else:
        notes.append(f"no prior draws: {reason}")
    return groups


def _observed(target: Target, simulated: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    names = [name for name in target.structure.outcomes if name in simulated[0]]
    return {name: _stack([one[name] for one in simulated]) for name in names}


def _stack(values: list[Tensor]) -> np.ndarray:
    return np.stack([value.detach().cpu().numpy() for value in values])[None]


def data_groups(target: Target) -> dict[str, Dataset]:
    """What was observed and what was given, by argument of the model."""
    groups = {}
    parts = {
        "observed_data": target.structure.outcomes,
        "constant_data": target.structure.covariates,
    }
    for group, names in parts.items():
        variables = {name: _with_dims(target, name) for name in names}
        if variables:
            coords = {
                dim: target.structure.coords[dim]
                for dims, _ in variables.values()
                for dim in dims
                if dim in target.structure.coords
            }
            groups[group] = Dataset(variables, coords=coords)
    return groups


def _with_dims(target: Target, name: str) -> tuple[tuple[str, ...], Any]:
    value = target.data[name]
    if not isinstance(value, Tensor):
        return (), value
    dims = target.story.data_dims.get(name, tuple(f"{name}_dim_{i}" for i in range(value.dim())))
    return tuple(dims), value.cpu().numpy()


def thinned(draws: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """At most so many draws ``(S, *shape)``, evenly over all chains."""
    flat = merged(draws)
    size = len(next(iter(flat.values())))
    places = np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))
    return {name: value[places] for name, value in flat.items()}


def each_draw(draws: Mapping[str, np.ndarray]) -> Iterator[dict[str, Tensor]]:
    """The latents of one draw after another."""
    for place in range(len(next(iter(draws.values())))):
        yield {name: torch.as_tensor(value[place]) for name, value in draws.items()}
