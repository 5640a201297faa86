"""Data that the fitted story would tell, against the data that were seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from storyzoo.reports.figures import Figure, Key, Panel
from storyzoo.reports.figures.svg import Canvas, colour, plain

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

FEW = 25
"""Observations up to which each has an interval of its own."""
FEATURES = 6
"""Panels that one outcome gets at most."""
REPLICATES = 200
"""Simulated data sets that are looked at."""
OBSERVED = Key("o", "ink", "observed")
KEYS = (Key("interval", "c0", "simulated: median, 50 % and 90 %"), OBSERVED)
ONE = (Key("line", "c0", "one simulated data set"), OBSERVED)

Array = NDArray[np.float64]


def predictive_figures(fit: Fitted) -> list[Figure]:
    """One figure for each observed site that was simulated from the fit."""
    if not {"posterior_predictive", "observed_data"} <= set(fit.tree.children):
        return []
    simulated = fit.tree["posterior_predictive"].to_dataset()
    observed = fit.tree["observed_data"].to_dataset()
    return [
        predictive(fit.method.kind, simulated[name], observed[name])
        for name in simulated.data_vars
        if name in observed.data_vars
    ]


def predictive(kind: str, drawn: xr.DataArray, seen: xr.DataArray) -> Figure:
    """Simulated data sets ``(chain, draw, *dims)`` against the observed ``(*dims)``."""
    dims = [str(dim) for dim in seen.dims]
    replicates = drawn.stack(replicate=("chain", "draw")).transpose("replicate", *dims)
    values = np.asarray(replicates.values, float)
    values = values[:: max(1, math.ceil(len(values) / REPLICATES))]
    target = np.asarray(seen.values, float)
    source = "the estimate" if kind == "point" else "the posterior"
    if kind == "approximation":
        source = "the approximate posterior"
    panels: tuple[Panel, ...]
    if target.ndim <= 1 and target.size <= FEW:
        panels = (_each(seen, values, target),)
        said = "Each observation against what data simulated from {} would show."
    else:
        panels = tuple(_features(seen, values, target))
        said = "The distribution of the observations against that of data simulated from {}."
    shown = plain(seen.name, 40)
    return Figure(
        f"predictive-{shown}", shown, said.format(source), panels, KEYS if len(values) > 1 else ONE
    )


def _each(seen: xr.DataArray, values: Array, target: Array) -> Panel:
    """One row for each observation: 90 % and 50 % of the simulated, and the observed."""
    target = np.atleast_1d(target)
    values = values.reshape(len(values), len(target))
    limits = np.nanquantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    canvas = Canvas(width=420, height=60 + 19 * len(target))
    rows = np.arange(len(target))[::-1]
    canvas.axes.hlines(rows, limits[0], limits[4], color=colour("c0"), lw=1.6, alpha=0.55)
    canvas.axes.hlines(rows, limits[1], limits[3], color=colour("c0"), lw=5, alpha=0.75)
    canvas.axes.plot(limits[2], rows, "|", ms=8, mew=1.4, color=colour("paper"))
    canvas.axes.plot(target, rows, "o", ms=5, color=colour("ink"))
    dim = str(seen.dims[0]) if seen.dims else ""
    names = _labels(seen, dim, len(target))
    canvas.axes.set_yticks(rows, [plain(name, 22) for name in names])
    canvas.axes.set_ylim(-0.7, len(target) - 0.3)
    canvas.axes.set_xlabel(plain(seen.name, 40))
    inside = int(((target >= limits[0]) & (target <= limits[4])).sum())
    known = int(np.isfinite(target).sum())
    return canvas.panel(
        f"{inside} of {known} observations of {seen.name} lie in the 90 % interval simulated."
    )


def _features(seen: xr.DataArray, values: Array, target: Array) -> list[Panel]:
    """A panel for each feature (the last dim where there are two), else one for all values."""
    if target.ndim < 2:
        return [_distribution(plain(seen.name, 40), values, target)]
    dim = str(seen.dims[-1])
    names = _labels(seen, dim, target.shape[-1])
    if target.shape[-1] > FEATURES:
        shown = f"{plain(seen.name, 30)}, all of {dim}"
        return [_distribution(shown, values.reshape(len(values), -1), target.ravel())]
    return [
        _distribution(
            plain(name, 40), values[..., place].reshape(len(values), -1), target[..., place].ravel()
        )
        for place, name in enumerate(names)
    ]


def _labels(seen: xr.DataArray, dim: str, count: int) -> list[str]:
    """Names along a dim; ``feature 0`` where the data do not say."""
    names = seen.coords[dim].values if dim in seen.coords else np.arange(count)
    return [f"{dim} {name}" if isinstance(name, np.integer) else str(name) for name in names]


def _distribution(name: str, values: Array, target: Array) -> Panel:
    """Counts by bin (or by value, where they are few whole numbers), observed and simulated."""
    known = np.isfinite(target)
    target, values = target[known], values[:, known]
    canvas = Canvas(height=215)
    canvas.axes.set_xlabel(name)
    if not len(target):
        return canvas.panel(f"{name}: nothing was observed.")
    edges = bins(target, values)
    counts = np.stack([np.histogram(row, edges)[0] for row in values])
    seen, _ = np.histogram(target, edges)
    low, q1, middle, q3, high = np.quantile(counts, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    for lower, upper, strength in ((low, high, 0.25), (q1, q3, 0.35)):
        canvas.axes.stairs(
            upper, edges, baseline=lower, fill=True, color=colour("c0"), alpha=strength, lw=0
        )
    canvas.axes.stairs(middle, edges, baseline=None, color=colour("c0"), lw=1.2)
    centres = (edges[1:] + edges[:-1]) / 2
    canvas.axes.plot(centres, seen, "o", ms=3.6, color=colour("ink"))
    canvas.axes.set_ylabel("observations")
    canvas.axes.set_ylim(bottom=0)
    inside = int(((seen >= low) & (seen <= high)).sum())
    return canvas.panel(
        f"{name}: in {inside} of {len(seen)} bins the observed count lies in the 90 % interval."
    )


def bins(target: Array, values: Array) -> Array:
    """Edges of the bins: one for each whole number where there are few, else by Freedman–Diaconis.

    They cover the observed data and, up to half as far again, 98 % of the simulated.
    """
    low, high = float(target.min()), float(target.max())
    reach = 0.5 * (high - low) or max(abs(low), 1.0) * 0.1
    simulated = values[np.isfinite(values)]
    outer = np.quantile(simulated, [0.01, 0.99]) if simulated.size else (low, high)
    whole = bool(np.all(target == np.round(target)))
    low = max(min(low, float(outer[0])), low - reach)
    high = min(max(high, float(outer[1])), high + reach)
    if whole and high - low <= 60:
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1.0)
    if low == high:
        low, high = low - reach, high + reach
    width = np.histogram_bin_edges(target, "fd", (low, high))
    return np.linspace(low, high, int(np.clip(len(width) - 1, 10, 40)) + 1)
