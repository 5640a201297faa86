"""Undo label switching: match the exchangeable parts of every draw to one reference draw.

For each draw the permutation that brings its parts nearest to the reference's is found by the
Hungarian algorithm. Before that, the log joint is checked not to change under a permutation:
where it does, the labels mean something and nothing is moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from xarray import DataArray, Dataset, DataTree

from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import draws_of
from storyzoo.story import Story

CHECKED_DRAWS = 3
SWEEPS = 3
"""Rounds of matching; after the first, the reference is the mean of what was matched."""
STILL = float(np.sqrt(np.finfo(float).tiny))
"""Variance up to which a feature stands still: its inverse would be no number."""


@dataclass(frozen=True)
class Relabelled:
    """A tree whose labels agree over all draws, and what was done to get there."""

    tree: DataTree
    moved: dict[str, float]
    """Exchangeable group -> share of draws whose labels were permuted."""
    refused: dict[str, str]
    """Exchangeable group -> why it was left alone."""


def relabel(
    tree: DataTree, target: Target, reference: Dataset | DataTree | None = None
) -> Relabelled:
    """Permute every exchangeable group of the posterior to agree with a reference.

    ``reference`` is a posterior without chain and draw, or with (its mean is then taken); by
    default the draw of highest density, and one draw alone agrees with itself. Values of label
    sites are renamed along.
    """
    if reference is None and np.prod(_leading(tree["posterior"].to_dataset())) == 1:
        return Relabelled(tree, {}, {})
    story = target.story
    moved: dict[str, float] = {}
    refused: dict[str, str] = {}
    for group, dims in story.exchangeable.items():
        posterior = tree["posterior"].to_dataset()
        if not any(set(dims) & set(posterior[name].dims) for name in posterior.data_vars):
            continue
        reason = why_not_exchangeable(tree, target, dims)
        if reason is not None:
            refused[group] = reason
            continue
        order = match(posterior, dims, _reference(tree, reference))
        tree = _permuted(tree, story, group, dims, order)
        moved[group] = float((order != np.arange(order.shape[-1])).any(-1).mean())
    return Relabelled(tree, moved, refused)


def why_not_exchangeable(tree: DataTree, target: Target, dims: tuple[str, ...]) -> str | None:
    """Why a permutation along ``dims`` is no symmetry of the log joint; None where it is one.

    Where the likelihood is intractable its symmetry is taken on the story's word, and the priors
    alone are checked.
    """
    posterior = tree["posterior"].to_dataset()
    size = next(posterior.sizes[dim] for dim in dims if dim in posterior.sizes)
    if size < 2:
        return None
    order = np.roll(np.arange(size), 1)
    flipped = permute(posterior, dims, np.broadcast_to(order, (*_leading(posterior), size)))
    density = target.density(jacobian=False)
    known = density if target.story.intractable() is None else density.log_prior
    structure = target.structure
    if absent := [name for name in structure.local if name not in posterior]:
        return f"draws of '{absent[0]}' are not kept, and without them there is no log joint"
    before = {k: v[0] for k, v in draws_of(structure, posterior).items()}
    after = {k: v[0] for k, v in draws_of(structure, flipped).items()}
    places = np.unique(np.linspace(0, posterior.sizes["draw"] - 1, CHECKED_DRAWS).astype(int))
    for place in places:
        values = [
            float(
                known(density.flatten({k: torch.as_tensor(v[place]) for k, v in latents.items()}))
            )
            for latents in (before, after)
        ]
        if abs(values[0] - values[1]) > 1e-6 * max(1.0, abs(values[0])):
            return f"a permutation changes the log joint from {values[0]:.4f} to {values[1]:.4f}"
    return None


def match(posterior: Dataset, dims: tuple[str, ...], reference: Dataset) -> np.ndarray:
    """``order[chain, draw, j]``: which part of that draw plays the reference's part ``j``.

    Costs are those of a normal distribution per part and feature, whose means and variances are
    estimated anew from each round's matching. The first round takes the reference's values, and
    the variances of the chain in which the labels stand stillest.
    """
    shared = sorted(set(posterior.data_vars) & set(reference.data_vars), key=str)
    posterior, reference = posterior[shared], reference[shared]  # methods order sites differently
    features = _features(posterior, dims)
    varies = features.var(axis=(0, 1, 2)) > STILL
    features = features[..., varies]
    centre = features.mean(axis=(0, 1, 2))  # so that squares have little to cancel
    features -= centre
    pooled = features.var(axis=(0, 1, 2))
    floor = 1e-6 * pooled
    still = features.var(axis=1).mean(axis=1).min(axis=0)
    means = _features(reference.expand_dims(["chain", "draw"]), dims)[0, 0]
    means = means[:, varies] - centre
    variances = np.broadcast_to((still if features.shape[1] > 1 else pooled) + floor, means.shape)
    order = np.empty(features.shape[:3], dtype=int)
    for _ in range(SWEEPS):
        squares, products = 1 / variances.T, 2 * (means / variances).T
        constant = (means**2 / variances + np.log(variances)).sum(-1)
        for place in np.ndindex(*features.shape[:2]):
            part = features[place]
            costs = part**2 @ squares - part @ products + constant
            order[place] = linear_sum_assignment(costs.T)[1]
        matched = np.take_along_axis(features, order[..., None], axis=2)
        means = matched.mean((0, 1))
        if features.shape[0] * features.shape[1] > 10:
            variances = matched.var((0, 1)) + floor
    return order


def permute(values: Dataset, dims: tuple[str, ...], order: np.ndarray) -> Dataset:
    """Reorder every variable along every one of ``dims`` that it carries, draw by draw."""
    changed = {}
    for name, variable in values.data_vars.items():
        moved = variable
        for dim in dims:
            if dim in variable.dims:
                index = DataArray(order, dims=("chain", "draw", dim))
                moved = moved.isel({dim: index}).assign_coords({dim: variable[dim]})
        changed[name] = moved.transpose(*variable.dims)
    return values.assign(changed)


def _features(values: Dataset, dims: tuple[str, ...]) -> np.ndarray:
    """What tells the parts apart: ``(chain, draw, part, feature)``.

    A site that carries several of the dims (a transition matrix) gives its diagonal.
    """
    return np.concatenate(_columns(values, dims), axis=-1)


def _columns(values: Dataset, dims: tuple[str, ...]) -> list[np.ndarray]:
    columns = []
    for variable in values.data_vars.values():
        carried = [dim for dim in dims if dim in variable.dims]
        if not carried:
            continue
        array = np.asarray(variable.transpose("chain", "draw", *carried, ...).values, dtype=float)
        for _ in carried[1:]:
            array = np.moveaxis(np.diagonal(array, axis1=2, axis2=3), -1, 2)
        columns.append(array.reshape(*array.shape[:3], -1))
    return columns


def _reference(tree: DataTree, given: Dataset | DataTree | None) -> Dataset:
    if given is not None:
        values = given.to_dataset() if isinstance(given, DataTree) else given
        return values.mean(["chain", "draw"]) if "draw" in values.dims else values
    posterior = tree["posterior"].to_dataset()
    if "sample_stats" in tree.children and "lp" in tree["sample_stats"]:
        density = np.asarray(tree["sample_stats"]["lp"].values)
        chain, draw = np.unravel_index(int(np.nanargmax(density)), density.shape)
        return posterior.isel(chain=int(chain), draw=int(draw))
    return posterior.isel(chain=0, draw=0)


def _permuted(
    tree: DataTree, story: Story, group: str, dims: tuple[str, ...], order: np.ndarray
) -> DataTree:
    """The whole tree with the group's dims reordered and its label values renamed."""
    names = [name for name, of in story.label_values.items() if of == group]
    inverse = np.argsort(order, axis=-1)
    groups: dict[str, Dataset] = {}
    for path, child in tree.children.items():
        values = child.to_dataset()
        if path.startswith("prior") or _leading(values) != order.shape[:2]:
            groups[path] = values
            continue
        values = permute(values, dims, order)
        labels = {n: _renamed(values[n], inverse) for n in names if n in values.data_vars}
        groups[path] = values.assign(labels)
    renamed = DataTree.from_dict({f"/{path}": values for path, values in groups.items()})
    renamed.attrs.update(tree.attrs)
    return renamed


def _renamed(labels: DataArray, inverse: np.ndarray) -> DataArray:
    """Label values under the relabelling: part ``order[j]`` of a draw is now called ``j``."""
    values = np.asarray(labels.values)
    flat = values.reshape(*values.shape[:2], -1).astype(int)
    return labels.copy(data=np.take_along_axis(inverse, flat, axis=-1).reshape(values.shape))


def _leading(values: Dataset | Mapping[str, int]) -> tuple[int, ...]:
    sizes = values.sizes if isinstance(values, Dataset) else values
    return tuple(sizes[dim] for dim in ("chain", "draw") if dim in sizes)
