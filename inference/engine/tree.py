"""Draws as an ArviZ DataTree whose dims are the story's plates and event dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import arviz_base
import numpy as np
from xarray import DataArray, Dataset, DataTree

from storyzoo.inference.engine.structure import Structure

Arrays = Mapping[str, np.ndarray]


def posterior_tree(structure: Structure, draws: Arrays, sample_stats: Arrays) -> DataTree:
    """Tree of draws ``(chain, draw, *shape)`` by site and statistics ``(chain, draw)``."""
    groups: dict[str, Any] = {"posterior": by_dims(structure, draws, leading=2)}
    if sample_stats:
        groups["sample_stats"] = dict(sample_stats)
    return build_tree(structure, groups)


def by_dims(structure: Structure, values: Arrays, leading: int) -> dict[str, np.ndarray]:
    """Values in the sizes of their named dims: axes of size one that Pyro left are dropped."""
    return {
        name: np.asarray(value).reshape(*np.shape(value)[:leading], *structure.sites[name].sizes)
        for name, value in values.items()
    }


def build_tree(
    structure: Structure,
    groups: Mapping[str, Arrays],
    dims: Mapping[str, Sequence[str]] | None = None,
) -> DataTree:
    """A tree of named groups, dims and coords read off the structure; ``dims`` go before."""
    by_site = {name: list(site.dims) for name, site in structure.sites.items()}
    tree: DataTree = arviz_base.from_dict(
        {name: dict(group) for name, group in groups.items()},
        coords=dict(structure.coords),
        dims=by_site | {name: list(own) for name, own in (dims or {}).items()},
    )
    for group in tree.children.values():
        group.attrs = {}  # the time of creation would make equal runs differ
    return tree


RESTARTS = "restarts"
"""Group of the shared latents where each restart of an ascent ended, ``(restart, …)``."""
MOST_RESTARTED = 8_000_000
"""Elements above which that group is left out: 64 MB of float64."""


def with_restarts(tree: DataTree, structure: Structure, ends: Sequence[Arrays]) -> DataTree:
    """The tree with the ends of all restarts, so that it can be told what they have in common."""
    shared = [name for name in structure.latents if name not in structure.local]
    if len(ends) < 2 or sum(end[name].size for end in ends for name in shared) > MOST_RESTARTED:
        return tree
    stacked = {name: np.stack([end[name] for end in ends]) for name in shared}
    group = Dataset(
        {
            name: (("restart", *structure.sites[name].dims), value)
            for name, value in by_dims(structure, stacked, leading=1).items()
        },
        coords={
            dim: structure.coords[dim] for name in shared for dim in structure.sites[name].dims
        },
    )
    found = tree.copy()
    found[RESTARTS] = DataTree(group)
    return found


def draws_of(
    structure: Structure, posterior: Dataset | DataTree | DataArray
) -> dict[str, np.ndarray]:
    """The posterior's draws in the model's shapes: ``(chain, draw, *shape)`` by latent site.

    Those of single examples may be absent.
    """
    return {
        name: np.asarray(posterior[name].values).reshape(
            *posterior[name].shape[:2], *structure.sites[name].shape
        )
        for name, site in structure.latents.items()
        if name in posterior or not site.local
    }
