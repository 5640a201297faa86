"""How far two posteriors are apart, in standard deviations of the one that is trusted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from storyzoo.reports.diagnostics import Array, elements_of

DIRECTIONS = 500
QUANTILES = 500
MOST_DRAWS = 2000
SEED = 0
"""Of the random directions: the same for every pair of fits, so that distances compare."""


class Distance(NamedTuple):
    """From one posterior to a reference."""

    worst_sd: float
    """``max_i |mean_i - reference mean_i| / reference sd_i``."""
    where: str
    """The element with the largest difference."""
    sliced_wasserstein: float


def distance(posterior: xr.Dataset, reference: xr.Dataset) -> Distance | None:
    """Distance of two posteriors over the continuous sites that both have.

    Labels must be matched already. A point counts as a point mass. None where the sites that
    they share differ in shape (another number of components), or there are none.
    """
    both = shared_sites(posterior, reference)
    if not both:
        return None
    found = [elements_of(dataset, both) for dataset in (posterior, reference)]
    places = [{name: place for place, name in enumerate(elements)} for elements, _ in found]
    names = [name for name in found[1][0] if name in places[0]]
    x, y = (
        draws[[place[name] for name in names]].reshape(len(names), -1)
        for place, (_, draws) in zip(places, found, strict=True)
    )
    sd = y.std(axis=1)
    use = (sd > 0) & np.isfinite(sd)
    if not use.any():
        return None
    centre, scale = y[use].mean(axis=1, keepdims=True), sd[use, None]
    x, y = (x[use] - centre) / scale, (y[use] - centre) / scale
    shift = np.abs(x.mean(axis=1))
    shift[~np.isfinite(shift)] = np.inf
    worst = int(shift.argmax())
    where = [name for name, kept in zip(names, use, strict=True) if kept][worst]
    return Distance(float(shift[worst]), where, sliced_wasserstein(x, y))


def sliced_wasserstein(x: Array, y: Array) -> float:
    """Sliced 2-Wasserstein distance of two samples, ``(D, S)`` and ``(D, T)``.

    ``SW^2 = mean_u int_0^1 (Q_p(u.x) - Q_p(u.y))^2 dp`` over unit vectors u, Q_p the p-quantile
    of a projection. A shift by the vector d gives ``|d| / sqrt(D)``, so one sd everywhere gives
    one. Two samples of 2,000 draws from one distribution are about 0.05 apart. inf where a
    sample is not finite.

    Source: Bonneel, Rabin, Peyré & Pfister 2015, "Sliced and Radon Wasserstein barycenters of
    measures", Journal of Mathematical Imaging and Vision 51(1).
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("inf")
    rng = np.random.default_rng(SEED)
    directions = rng.normal(size=(DIRECTIONS, len(x)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    p = (np.arange(QUANTILES) + 0.5) / QUANTILES
    ours, theirs = (_quantiles(directions @ _thinned(draws), p) for draws in (x, y))
    return float(np.sqrt(np.mean((ours - theirs) ** 2)))


def _quantiles(projected: Array, p: Array) -> Array:
    """Quantiles ``(direction, p)`` of each row, linear between order statistics."""
    ordered = np.sort(projected, axis=1)
    at = p * (ordered.shape[1] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, ordered.shape[1] - 1)
    below, above = ordered[:, low], ordered[:, high]
    between: Array = below + (at - low) * (above - below)
    return between


def _thinned(draws: Array) -> Array:
    """At most so many of the draws ``(D, S)``, evenly."""
    size = draws.shape[1]
    return draws[:, np.unique(np.linspace(0, size - 1, min(size, MOST_DRAWS)).astype(int))]


def shared_sites(posterior: xr.Dataset, reference: xr.Dataset) -> tuple[str, ...]:
    """Continuous sites of both, or none where one of them differs in shape."""
    names = []
    for name, array in reference.data_vars.items():
        if name not in posterior or array.dtype.kind != "f":
            continue
        shapes = [
            {dim: size for dim, size in values.sizes.items() if dim not in ("chain", "draw")}
            for values in (array, posterior[name])
        ]
        if shapes[0] != shapes[1]:
            return ()
        names.append(str(name))
    return tuple(names)
