"""The parameters of a fit as a table, worst first, with no digit that is mere Monte Carlo noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import arviz_stats
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

LIMIT = 1000
"""Scalars that are summarised at most: sites of single examples are the first to be left out."""
INTERVAL = 0.89
SCALAR_DIM = "scalar"


@dataclass(frozen=True)
class Scalar:
    """One number among the unknowns: its draws, shape ``(chain, draw)``, and how well it mixes.

    What a method does not give is NaN: R-hat of a single chain, everything of a point estimate.
    """

    site: str
    label: str
    draws: NDArray[np.float64]
    mean: float
    sd: float
    low: float
    high: float
    r_hat: float
    ess_bulk: float
    ess_tail: float
    mcse: float


@dataclass(frozen=True)
class Parameters:
    """All scalars, worst first, and the sites that were too many to summarise."""

    scalars: tuple[Scalar, ...]
    left_out: tuple[str, ...]

    @property
    def varying(self) -> tuple[Scalar, ...]:
        """Those that are not constant, worst first."""
        return tuple(scalar for scalar in self.scalars if np.ptp(scalar.draws) > 0)


def parameters_of(fit: Fitted) -> Parameters:
    """Every continuous unknown of a fit, number by number.

    A matrix over a dim and its other (``feature``, ``feature_other``) is symmetric: its lower
    half is left out.
    """
    posterior = fit.tree["posterior"].to_dataset()
    kept, left_out = _sites(fit, posterior)
    labels, sites, draws = [], [], []
    for site in kept:
        for label, values in _scalars(posterior[site]):
            labels.append(label)
            sites.append(site)
            draws.append(values)
    stats = _summary(np.stack(draws), fit.method.kind) if draws else pd.DataFrame()
    scalars = [
        Scalar(site, label, values, **{name: float(row[name]) for name in stats.columns})
        for site, label, values, (_, row) in zip(sites, labels, draws, stats.iterrows(), strict=True)
    ]
    if fit.method.kind == "draws":
        scalars.sort(key=_trouble, reverse=True)
    return Parameters(tuple(scalars), left_out)


def _sites(fit: Fitted, posterior: xr.Dataset) -> tuple[list[str], tuple[str, ...]]:
    """Sites to summarise, global ones first to claim the room there is, and those left out."""
    local = {name for name, site in fit.structure.sites.items() if site.local}
    discrete = set(fit.structure.discrete)
    names = [str(name) for name in posterior.data_vars if str(name) not in discrete]
    names = [name for name in names if np.issubdtype(posterior[name].dtype, np.number)]
    draws = posterior.sizes.get("chain", 1) * posterior.sizes.get("draw", 1)
    kept, room = set(), LIMIT
    for name in sorted(names, key=lambda name: name in local):
        size = posterior[name].size // max(draws, 1)
        if size <= room:
            kept.add(name)
            room -= size
    return [name for name in names if name in kept], tuple(n for n in names if n not in kept)


def _scalars(values: xr.DataArray) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Label and draws of each element: ``theta[Choate]``."""
    dims = [str(dim) for dim in values.dims if dim not in ("chain", "draw")]
    values = values.transpose("chain", "draw", *dims)
    drawn = np.asarray(values.values, dtype=np.float64)
    pairs = [
        (dims.index(dim.removesuffix("_other")), axis)
        for axis, dim in enumerate(dims)
        if dim.endswith("_other") and dim.removesuffix("_other") in dims
    ]
    for index in np.ndindex(drawn.shape[2:]):
        if any(index[first] > index[second] for first, second in pairs):
            continue
        yield label_of(values, dict(zip(dims, index, strict=True))), drawn[(..., *index)]


def label_of(values: xr.DataArray, index: dict[str, int]) -> str:
    """How an element is called, by its coordinates where it has any."""
    if not index:
        return str(values.name)
    names = [
        str(values.coords[dim].values[place]) if dim in values.coords else str(place)
        for dim, place in index.items()
    ]
    return f"{values.name}[{', '.join(names)}]"


def _summary(draws: NDArray[np.float64], kind: str) -> pd.DataFrame:
    """Statistics of draws ``(scalar, chain, draw)``, one row each."""
    columns = ["mean", "sd", "low", "high", "r_hat", "ess_bulk", "ess_tail", "mcse"]
    if kind == "point":
        stats = pd.DataFrame(np.nan, index=range(len(draws)), columns=columns)
        return stats.assign(mean=draws[:, 0, 0])
    tree = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({"x": ((SCALAR_DIM, "chain", "draw"), draws)})}
    )
    # A constant (one element of a simplex of size one) has no R-hat: NaN is the right answer.
    with np.errstate(invalid="ignore", divide="ignore"):
        found = arviz_stats.summary(
            tree, ci_prob=INTERVAL, ci_kind="eti", round_to="none", fmt="wide"
        )
    low, high = np.quantile(draws, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=(1, 2))
    stats = found[["mean", "sd", "r_hat", "ess_bulk", "ess_tail", "mcse_mean"]].reset_index(drop=True)
    stats = stats.rename(columns={"mcse_mean": "mcse"}).assign(low=low, high=high)
    return stats[columns]


def _trouble(scalar: Scalar) -> tuple[bool, float, float]:
    """Orders by R-hat to three digits, then by the fewest effective draws; constants come last."""
    known = math.isfinite(scalar.r_hat)
    ess = min(scalar.ess_bulk, scalar.ess_tail) if known else math.inf
    return (known, round(scalar.r_hat, 3) if known else 0.0, -ess)


def rounded(value: float, error: float = math.nan, digits: int = 3) -> str:
    """A number without digits beyond its error; with no error, to so many significant digits.

    >>> rounded(3.6871, 0.52), rounded(12345.6, 80.0), rounded(0.00123456), rounded(-0.04, 0.3)
    ('3.7', '12350', '0.00123', '0.0')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0 and not (math.isfinite(error) and error > 0):
        return "0"
    if math.isfinite(error) and error > 0:
        places = -math.floor(math.log10(error))
    else:
        places = digits - 1 - math.floor(math.log10(abs(value)))
    size = abs(value)
    if size >= 1e7 or (0 < size < 1e-4 and places > 4):
        significant = places + math.floor(math.log10(size))
        return f"{value:.{min(max(significant, 0), 6)}e}".replace("-", "−")
    text = f"{round(value, places):.{min(max(places, 0), 8)}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")
