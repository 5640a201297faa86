"""k-means over its data: centres, and the cells of the points that are nearest to each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

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
from storyzoo.reports.figures.svg import Canvas, colour, series

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

GRID = 160
"""Places along each axis at which a cell's border is looked for."""

Array = NDArray[np.float64]


def figures(fit: Fitted, like: Fitted | None = None) -> list[Figure]:
    """Centres and cells over the two features that separate the clusters (of ``like``) best."""
    points = np.asarray(given(fit, fit.structure.arguments[0]), float)
    points = points[:, None] if points.ndim == 1 else points
    centres = centres_of(fit)
    rows = thinned(len(points))
    nearest = assign(points[rows], centres)
    names = feature_names(fit, points.shape[1])
    keys = tuple(
        Key(shape(k), series(k), f"cluster {k} ({100 * (nearest == k).mean():.0f} %)")
        for k in range(min(len(centres), 12))
    )
    if points.shape[1] == 1:
        panel = _line(points[rows, 0], centres[:, 0], nearest, names[0])
        said = "Each value in the colour of the centre that is nearest to it (+)."
        return [Figure("clusters", "", said, (replace(panel, title="as fitted", keys=keys),))]
    groups = nearest if like is None else assign(points[rows], centres_of(like))
    pair = separating_pair(points[rows], groups)
    shown = points[rows][:, pair]
    axes = names[pair[0]], names[pair[1]]
    panel = cells(shown, centres[:, pair], nearest, axes, exact=points.shape[1] == 2)
    panels = [replace(panel, title="as fitted", keys=keys)]
    labels = known_labels(fit, len(points))
    if labels is not None:
        panels.append(known_classes(shown, labels[rows], np.eye(len(centres))[nearest], axes))
    said = "Centres (+) and the points nearest to each; "
    if points.shape[1] == 2:
        said += "the borders of the cells lie midway."
    else:
        said += "outlines hold all points of a cluster. The two features are those that separate "
        said += "the clusters best."
    return [Figure("clusters", "", said + rows_said(len(rows), len(points)), tuple(panels))]


def centres_of(fit: Fitted) -> Array:
    """Mean centres ``(K, D)``, read by dims."""
    loc = fit.tree["posterior"]["loc"].mean(("chain", "draw"))
    if "feature" not in loc.dims:
        loc = loc.expand_dims(feature=1)
    return np.asarray(loc.transpose(..., "feature").values, float)


def assign(points: Array, centres: Array) -> NDArray[np.int_]:
    """Index of the nearest centre; a missing value counts for nothing."""
    gap = points[:, None, :] - centres[None, :, :]
    nearest: NDArray[np.int_] = np.nansum(gap**2, axis=2).argmin(1)
    return nearest


def cells(
    shown: Array, centres: Array, nearest: NDArray[np.int_], names: tuple[str, str], exact: bool
) -> Panel:
    """Points by cluster; borders where the two features are all there is, else hulls."""
    canvas = Canvas(height=260)
    membership = np.eye(len(centres))[nearest]
    draw_members(canvas, shown, membership)
    low, high = np.nanmin(shown, axis=0), np.nanmax(shown, axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-12)
    if exact:
        _borders(canvas, centres, low - margin, high + margin)
    else:
        for k in range(len(centres)):
            _hull(canvas, shown[nearest == k], k)
    canvas.axes.plot(centres[:, 0], centres[:, 1], "+", ms=10, mew=2, color=colour("ink"))
    canvas.axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    canvas.axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    name_axes(canvas, names)
    return canvas.panel(
        f"{len(shown)} points in {len(centres)} clusters by {names[0]}, {names[1]}."
    )


def _borders(canvas: Canvas, centres: Array, low: Array, high: Array) -> None:
    """Where two centres are equally near: level sets of the gap between the two nearest."""
    if len(centres) < 2:
        return
    x, y = np.linspace(low[0], high[0], GRID), np.linspace(low[1], high[1], GRID)
    places = np.stack(np.meshgrid(x, y), axis=-1)[:, :, None, :]
    distance = ((places - centres) ** 2).sum(-1)
    for k in range(len(centres)):
        others = np.delete(distance, k, axis=-1).min(-1)
        canvas.axes.contour(
            x, y, others - distance[..., k], levels=[0.0], colors=colour("muted"), linewidths=0.8
        )


def _hull(canvas: Canvas, members: Array, cluster: int) -> None:
    members = members[np.isfinite(members).all(axis=1)]
    if len(members) < 3:
        return
    try:
        hull = ConvexHull(members)
    except QhullError:  # all on one line: the points themselves show it
        return
    outline = members[[*hull.vertices, hull.vertices[0]]]
    canvas.axes.fill(*outline.T, color=colour(series(cluster)), alpha=0.12, lw=0)
    canvas.axes.plot(*outline.T, color=colour(series(cluster)), lw=1.0)


def _line(values: Array, centres: Array, nearest: NDArray[np.int_], name: str) -> Panel:
    """One feature: a histogram by cluster."""
    canvas = Canvas(width=420, height=220)
    known = np.isfinite(values)
    edges = np.histogram_bin_edges(values[known], "fd")
    edges = np.linspace(edges[0], edges[-1], int(np.clip(len(edges), 10, 50)))
    for k in range(len(centres)):
        height, _ = np.histogram(values[known & (nearest == k)], edges)
        canvas.axes.stairs(height, edges, fill=True, color=colour(series(k)), alpha=0.5)
    canvas.axes.plot(
        centres, np.zeros(len(centres)), "+", ms=11, mew=2, color=colour("ink"), clip_on=False
    )
    canvas.axes.set_xlabel(name)
    canvas.axes.set_ylabel("points")
    return canvas.panel(f"Histogram of {name} in {len(centres)} clusters.")
