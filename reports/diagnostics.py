"""How well each number of a posterior was sampled, element by element.

Rank-normalised split R-hat, bulk and tail effective sample size and the Monte Carlo standard
error of the mean are those of Vehtari et al. 2021 as ArviZ computes them. Many short chains that
started in groups have nested R-hat in R-hat's place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from storyzoo.inference.engine import rank_statistics
from storyzoo.inference.engine.method import Info
from storyzoo.reports import nested_r_hat

Array = npt.NDArray[np.float64]

R_HAT = 1.01
ESS_PER_CHAIN = 100
ESS_TOGETHER = 400
"""What is asked of many short chains: as much as of four long ones."""


class Limits(NamedTuple):
    """What is asked of every element."""

    r_hat: float
    """At most."""
    ess: float
    """At least."""


@dataclass(frozen=True)
class Diagnostics:
    """Draws and their diagnostics; every array runs over the elements, as ``names`` does.

    A constant element (a zero of a Cholesky factor) has no R-hat: ``varies`` is False there and
    the diagnostics are NaN. So they are where draws are not finite, or fewer than four.
    """

    names: tuple[str, ...]
    draws: Array
    """(element, chain, draw)."""
    varies: npt.NDArray[np.bool_]
    r_hat: Array
    ess_bulk: Array
    ess_tail: Array
    mcse: Array
    """Monte Carlo standard error of the mean, in posterior standard deviations."""
    superchains: int = 1
    """Groups of chains that started at one point; with more than one, ``r_hat`` is nested R-hat."""

    @property
    def nested(self) -> bool:
        """Whether many short chains are judged, by nested R-hat."""
        return self.superchains > 1

    @property
    def limits(self) -> Limits:
        """What is asked of every element."""
        _, chains, draws = self.draws.shape
        if not self.nested:
            return Limits(R_HAT, ESS_PER_CHAIN * chains)
        return Limits(nested_r_hat.limit(chains, draws, self.superchains), ESS_TOGETHER)


def superchains_of(info: Info) -> int:
    """Groups of chains that started at one point, where a method says so; else 1."""
    return int(getattr(info, "superchains", 1))


def diagnose(
    posterior: xr.Dataset, sites: tuple[str, ...] = (), superchains: int = 1
) -> Diagnostics:
    """Diagnostics of the continuous elements of ``posterior``, or of some of its sites."""
    names, draws = elements_of(posterior, sites)
    finite = np.isfinite(draws).all(axis=(1, 2))
    varies = np.zeros(len(names), dtype=bool)
    if finite.any():
        varies[finite] = np.ptp(draws[finite], axis=(1, 2)) > 0
    usable = draws[varies]
    columns = np.full((4, len(names)), np.nan)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of a stuck chain, which is told by a check of its own
        if usable.size and draws.shape[-1] >= 4:
            columns[0, varies] = _r_hat(usable, superchains)
            columns[1, varies] = rank_statistics.ess_bulk(usable)
            columns[2, varies] = rank_statistics.ess_tail(usable)
            columns[3, varies] = 1 / np.sqrt(rank_statistics.ess_mean(usable))
    r_hat, bulk, tail, mcse = columns
    return Diagnostics(names, draws, varies, r_hat, bulk, tail, mcse, superchains)


def _r_hat(draws: Array, superchains: int) -> Array | float:
    """R-hat (element,) of several chains, nested where they started in groups."""
    if superchains > 1:
        return nested_r_hat.nested_r_hat(draws, superchains)
    return rank_statistics.rhat(draws) if draws.shape[1] > 1 else np.nan


def elements_of(
    posterior: xr.Dataset, sites: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], Array]:
    """Names and draws ``(element, chain, draw)`` of the continuous sites, in the tree's order."""
    names: list[str] = []
    blocks = []
    for site, array in posterior.data_vars.items():
        if array.dtype.kind != "f" or (sites and site not in sites):
            continue
        dims = [str(dim) for dim in array.dims if dim not in ("chain", "draw")]
        values = array.transpose("chain", "draw", *dims).to_numpy().astype(np.float64)
        labels = _labels(array)
        for index in distinct(dims, values):
            names.append(_named(array, labels, index))
            at: Any = (..., *index)
            blocks.append(values[at])
    shape = (0, posterior.sizes.get("chain", 0), posterior.sizes.get("draw", 0))
    return tuple(names), np.stack(blocks) if blocks else np.zeros(shape)


def furthest_apart(array: xr.DataArray, count: int) -> dict[str, xr.DataArray]:
    """The ``count`` elements of a site whose half chains lie furthest apart, by name, in order.

    By the variance between the means of half chains over that within them, which orders elements
    much as split R-hat does and costs one pass over the draws.
    """
    dims = [str(dim) for dim in array.dims if dim not in ("chain", "draw")]
    values = array.transpose("chain", "draw", *dims).to_numpy()
    half = values.shape[1] // 2
    if not half:
        return {}
    halves = (values[:, :half], values[:, -half:])
    means = np.concatenate([part.mean(1) for part in halves])
    within = np.mean([part.var(1).mean(0) for part in halves], axis=0)
    apart = means.var(0) / np.maximum(within, np.finfo(float).tiny)
    apart = np.where(np.isfinite(apart), apart, np.inf).ravel()
    places = np.sort(np.argpartition(-apart, min(count, apart.size) - 1)[:count])
    labels = _labels(array)
    found = {}
    for place in places:
        index = tuple(map(int, np.unravel_index(place, values.shape[2:])))
        at: Any = (..., *index)
        name = _named(array, labels, index)
        found[name] = xr.DataArray(values[at], dims=("chain", "draw"), name=name)
    return found


def distinct(dims: list[str], values: Array) -> Iterator[tuple[int, ...]]:
    """Every index of ``values`` (chain, draw, *dims), a symmetric matrix's lower half left out.

    Such a matrix has a dim and its twin: ``feature`` and ``feature_other``.
    """
    pairs = []
    for axis, dim in enumerate(dims):
        twin = dim.removesuffix("_other")
        if twin != dim and twin in dims:
            first = dims.index(twin)
            swapped = values.swapaxes(first + 2, axis + 2)
            if values.shape == swapped.shape and _alike(values, swapped):
                pairs.append((first, axis))
    for index in np.ndindex(values.shape[2:]):
        if all(index[first] <= index[second] for first, second in pairs):
            yield index


def _alike(values: Array, swapped: Array) -> bool:
    """Equal but for rounding."""
    size = np.nanmax(np.abs(values), initial=0.0)
    return bool(np.allclose(values, swapped, rtol=0, atol=1e-9 * size, equal_nan=True))


def example_name(array: xr.DataArray, index: tuple[int, ...]) -> str:
    """``school Choate``: an example by the coordinates of the dims of an array over them."""
    places = zip(array.dims, _labels(array), index, strict=True)
    return ", ".join(f"{dim} {labels[place]}" for dim, labels, place in places)


def _labels(array: xr.DataArray) -> list[list[str]]:
    """What the places along each dim are called, chain and draw aside."""
    return [
        [str(label) for label in array.coords[dim].to_numpy()]
        if dim in array.coords
        else [str(place) for place in range(array.sizes[dim])]
        for dim in array.dims
        if dim not in ("chain", "draw")
    ]


def _named(array: xr.DataArray, labels: list[list[str]], index: tuple[int, ...]) -> str:
    places = ", ".join(names[i] for names, i in zip(labels, index, strict=True))
    return f"{array.name}[{places}]" if labels else str(array.name)
