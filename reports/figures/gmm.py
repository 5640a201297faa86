"""A Gaussian mixture over its data: components as ellipses, points by soft membership."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import logsumexp

from storyzoo.reports.figures import Figure, Key, Panel
from storyzoo.reports.figures.graph import given
from storyzoo.reports.figures.scatter import (
    draw_members,
    feature_names,
    known_classes,
    known_labels,
    name_axes,
    rows_said,
    separating_pair,
    shape,
    thinned,
)
from storyzoo.reports.figures.svg import Canvas, colour, plain, series
from storyzoo.reports.numbers import grouped

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

DRAWS = 30
"""Draws over which membership is averaged."""
FAINT = 12
"""Draws whose ellipses are drawn faintly."""

Array = NDArray[np.float64]


class Mixture(NamedTuple):
    """Draws of a mixture: weight ``(S, K)``, loc ``(S, K, D)``, covariance ``(S, K, D, D)``."""

    weight: Array
    loc: Array
    covariance: Array

    @property
    def components(self) -> int:
        """K."""
        return int(self.weight.shape[1])

    def mean(self) -> Mixture:
        """The mixture of mean parameters, as one draw."""
        return Mixture(*(values.mean(0, keepdims=True) for values in self))

    def some(self, count: int) -> Mixture:
        """At most ``count`` of the draws, evenly spread."""
        kept = thinned(len(self.weight), count)
        return Mixture(*(values[kept] for values in self))


def figures(fit: Fitted, like: Fitted | None = None) -> list[Figure]:
    """The mixture over two features, or over the only one; known classes beside it.

    The features are those that separate the components of ``like`` best, by default its own.
    """
    points = np.asarray(given(fit, fit.structure.arguments[0]), float)
    if points.ndim == 1:
        points = points[:, None]
    mixture = mixture_of(fit.tree["posterior"].to_dataset())
    rows = thinned(len(points))
    membership = memberships(mixture.some(DRAWS), points[rows])
    labels = known_labels(fit, len(points))
    names = feature_names(fit, points.shape[1])
    keys = _keys(fit, mixture)
    if points.shape[1] == 1:
        panel = histogram(mixture, points[:, 0], names[0])
        panels = [replace(panel, title="as fitted", keys=(*keys, Key("line", "ink", "all")))]
    else:
        pair = separating_pair(points[rows], _groups(like, points[rows], membership))
        shown = points[rows][:, pair]
        axes = names[pair[0]], names[pair[1]]
        panel = ellipses(mixture, shown, membership, pair, axes)
        panels = [replace(panel, title="as fitted", keys=keys)]
        if labels is not None:
            panels.append(known_classes(shown, labels[rows], membership, axes))
    return [Figure("mixture", "", _caption(fit, points, rows), tuple(panels))]


def _groups(like: Fitted | None, points: Array, membership: Array) -> NDArray[np.int_]:
    """The likeliest component of each point, by another fit where one is given."""
    if like is not None and {"weight", "loc"} <= set(like.tree["posterior"].data_vars):
        other = mixture_of(like.tree["posterior"].to_dataset()).mean()
        if other.loc.shape[-1] == points.shape[1]:
            membership = memberships(other, points)
    groups: NDArray[np.int_] = membership.argmax(1)
    return groups


def _keys(fit: Fitted, mixture: Mixture) -> tuple[Key, ...]:
    names = fit.structure.coords.get("component", np.arange(mixture.components))
    weights = mixture.mean().weight[0]
    return tuple(
        Key(
            shape(k),
            series(k),
            f"component {plain(names[k], 20)} ({grouped(100 * weights[k], 0)} %)",
        )
        for k in range(min(mixture.components, 12))
    )


def _caption(fit: Fitted, points: Array, rows: NDArray[np.int_]) -> str:
    if points.shape[1] == 1:
        said = "The data and the density of each component."
        if fit.method.kind != "point":
            said += " The band holds 90 % of the draws."
        return said
    said = "Ellipses hold two standard deviations of each component"
    if fit.method.kind != "point":
        said += ", faint ones are single draws"
    said += "; a point's colour mixes those of the components that it may come from."
    if points.shape[1] > 2:
        said += " The two features are those that separate the components best."
    missing = int(np.isnan(points[rows]).any(axis=1).sum())
    if missing:
        said += f" {missing} points with a missing value may not be drawn."
    return said + rows_said(len(rows), len(points))


# -- the mixture -------------------------------------------------------------------------------


def mixture_of(posterior: xr.Dataset) -> Mixture:
    """Read weights, centres and covariances by their dims.

    The spread is ``covariance`` or, where there is none, the square of ``scale``; it may lack
    ``component`` (tied) and have both feature dims (full), one (diagonal) or none (spherical).
    """
    stacked = posterior.stack(sample=("chain", "draw"))
    loc = stacked["loc"]
    if "feature" not in loc.dims:
        loc = loc.expand_dims("feature")
    loc = loc.transpose("sample", "component", "feature")
    n_draws, n_components, n_features = loc.shape
    weight = stacked["weight"].transpose("sample", "component")
    squared = next((name for name in ("covariance", "variance") if name in stacked), None)
    spread = stacked[squared] if squared else stacked["scale"] ** 2
    if "component" not in spread.dims:
        spread = spread.expand_dims(component=n_components)
    if {"feature", "feature_other"} <= set(spread.dims):
        matrix = spread.transpose("sample", "component", "feature", "feature_other").values
    else:
        if "feature" not in spread.dims:
            spread = spread.expand_dims(feature=n_features)
        diagonal = spread.transpose("sample", "component", "feature").values
        matrix = diagonal[..., None] * np.eye(n_features)
    full = (n_draws, n_components, n_features, n_features)
    return Mixture(
        np.asarray(weight.values, float),
        np.asarray(loc.values, float),
        np.broadcast_to(np.asarray(matrix, float), full),
    )


def memberships(mixture: Mixture, points: Array) -> Array:
    """How probable each component is for each point ``(N, K)``, averaged over the draws.

    A missing value counts through what is observed of its point.
    """
    total = np.zeros((len(points), mixture.components))
    seen = np.isfinite(points)
    for pattern in np.unique(seen, axis=0):
        rows = np.flatnonzero((seen == pattern).all(axis=1))
        kept = np.flatnonzero(pattern)
        for weight, loc, covariance in zip(*mixture, strict=True):
            joint = np.log(np.maximum(weight, 1e-300)) + np.stack(
                [
                    _log_normal(
                        points[rows][:, kept], loc[k, kept], covariance[k][np.ix_(kept, kept)]
                    )
                    for k in range(mixture.components)
                ],
                axis=1,
            )
            total[rows] += np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    return total / len(mixture.weight)


def _log_normal(points: Array, loc: Array, covariance: Array) -> Array:
    """Log density, up to the constant that all components share."""
    if not len(loc):
        return np.zeros(len(points))
    root = np.linalg.cholesky(covariance + 1e-12 * np.trace(covariance) * np.eye(len(loc)))
    white = np.linalg.solve(root, (points - loc).T)
    density: Array = -0.5 * (white**2).sum(0) - np.log(np.diag(root)).sum()
    return density


# -- drawing -----------------------------------------------------------------------------------


def ellipses(
    mixture: Mixture, shown: Array, membership: Array, pair: tuple[int, int], names: tuple[str, str]
) -> Panel:
    """Two features of the data ``(N, 2)`` under the ellipses of the components."""
    canvas = Canvas(height=260)
    draw_members(canvas, shown, membership)
    block = np.ix_(pair, pair)
    if len(mixture.weight) > 1:
        for _, loc, covariance in zip(*mixture.some(FAINT), strict=True):
            for k in range(mixture.components):
                outline = ellipse(loc[k, list(pair)], covariance[k][block])
                canvas.axes.plot(*outline, color=colour(series(k)), lw=0.7, alpha=0.3)
    centre = mixture.mean()
    for k in range(mixture.components):
        place = centre.loc[0, k, list(pair)]
        outline = ellipse(place, centre.covariance[0, k][block])
        canvas.axes.plot(*outline, color=colour(series(k)), lw=1.6)
        canvas.axes.plot(*place, "+", ms=9, mew=1.8, color=colour("ink"))
    _frame(canvas, shown, centre, pair)
    name_axes(canvas, names)
    return canvas.panel(
        f"{names[0]} against {names[1]}: {len(shown)} points, {mixture.components} components."
    )


def ellipse(centre: Array, covariance: Array, deviations: float = 2.0) -> tuple[Array, Array]:
    """The outline at so many standard deviations."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    x, y = centre[:, None] + vectors @ (
        deviations * np.sqrt(np.maximum(values, 0))[:, None] * circle
    )
    return x, y


def _frame(canvas: Canvas, shown: Array, centre: Mixture, pair: tuple[int, int]) -> None:
    """Keep a component that is far wider than the data from shrinking them to a dot."""
    low, high = np.nanmin(shown, axis=0), np.nanmax(shown, axis=0)
    reach = 0.75 * np.maximum(high - low, 1e-12)
    limits = []
    for axis, feature in enumerate(pair):
        place = centre.loc[0, :, feature]
        spread = 2.1 * np.sqrt(np.maximum(centre.covariance[0, :, feature, feature], 0))
        margin = 0.04 * (high[axis] - low[axis])
        limits.append(
            (
                max(min(low[axis] - margin, (place - spread).min()), low[axis] - reach[axis]),
                min(max(high[axis] + margin, (place + spread).max()), high[axis] + reach[axis]),
            )
        )
    if np.isfinite(limits).all():
        canvas.axes.set_xlim(*limits[0])
        canvas.axes.set_ylim(*limits[1])


def histogram(mixture: Mixture, values: Array, name: str) -> Panel:
    """The only feature of the data as a histogram under the components' densities."""
    values = values[np.isfinite(values)]
    canvas = Canvas(width=420, height=240)
    low, high = values.min(), values.max()
    margin = 0.08 * (high - low) or 1.0
    edges = np.histogram_bin_edges(values, "fd", (low, high))
    bins = int(np.clip(max(len(edges) - 1, np.sqrt(len(values))), 8, 50))
    height, edges = np.histogram(values, bins, density=True)
    canvas.axes.stairs(height, edges, fill=True, color=colour("band"))
    at = np.linspace(low - margin, high + margin, 240)
    some = mixture.some(100)
    scale = np.sqrt(some.covariance[..., 0, 0])[..., None]
    curves = np.exp(-0.5 * ((at - some.loc) / scale) ** 2) / (np.sqrt(2 * np.pi) * scale)
    curves = some.weight[..., None] * curves
    if len(curves) > 1:
        band = np.quantile(curves.sum(1), [0.05, 0.95], axis=0)
        canvas.axes.fill_between(at, *band, color=colour("ink"), alpha=0.18, lw=0)
    canvas.axes.plot(at, curves.sum(1).mean(0), color=colour("ink"), lw=1.6)
    for k in range(mixture.components):
        canvas.axes.plot(at, curves[:, k].mean(0), color=colour(series(k)), lw=1.3, ls="--")
    canvas.axes.set_ylim(0, 1.15 * max(height.max(), curves.sum(1).mean(0).max()))
    canvas.axes.set_xlabel(name)
    canvas.axes.set_ylabel("density")
    return canvas.panel(f"Histogram of {name} under {mixture.components} component densities.")
