"""Two features of many: which ones to show, and points whose colour is a share of two groups."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from storyzoo.reports.figures import Key, Panel
from storyzoo.reports.figures.svg import (
    SHAPES,
    Canvas,
    colour,
    plain,
    series,
)
from storyzoo.reports.numbers import grouped

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

Array = NDArray[np.float64]

POINTS = 2000
"""Points that a scatter of the data has at most."""
CANDIDATES = 8
"""Features that are tried in pairs, the best separating ones by themselves."""
CLASSES = 12
"""Known classes that are drawn at most."""


def thinned(count: int, limit: int = POINTS) -> NDArray[np.int_]:
    """At most ``limit`` of ``count`` rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


def separating_pair(points: Array, groups: NDArray[np.int_]) -> tuple[int, int]:
    """The two features along which the groups lie furthest apart.

    Measured by the trace of ``W⁻¹ B``: scatter between the groups over scatter within
    (Fisher's criterion). ``points`` is ``(N, D)``; rows with a missing value are left out.
    """
    known = np.isfinite(points).all(axis=1)
    points, groups = points[known], groups[known]
    n_features = points.shape[1]
    if n_features == 2 or len(np.unique(groups)) < 2 or len(points) <= n_features:
        return 0, 1
    centre = points.mean(0)
    within = np.zeros((n_features, n_features))
    between = np.zeros((n_features, n_features))
    for group in np.unique(groups):
        members = points[groups == group]
        gap = members.mean(0) - centre
        within += (members - members.mean(0)).T @ (members - members.mean(0))
        between += len(members) * np.outer(gap, gap)
    within += 1e-9 * np.trace(within) / n_features * np.eye(n_features)
    alone = np.diag(between) / np.maximum(np.diag(within), 1e-300)
    tried = np.sort(np.argsort(-alone)[:CANDIDATES])

    def criterion(pair: tuple[Any, Any]) -> float:
        block = np.ix_(pair, pair)
        return float(np.trace(np.linalg.pinv(within[block]) @ between[block]))

    first, second = max(itertools.combinations(tried, 2), key=criterion)
    return int(first), int(second)


def shape(group: int) -> str:
    """Marker of a group; with the colour it tells 64 groups apart."""
    return SHAPES[(group + group // len(SHAPES)) % len(SHAPES)]


def draw_members(canvas: Canvas, points: Array, membership: Array) -> None:
    """Points ``(N, 2)`` coloured by membership ``(N, K)``: a mix of the two likeliest groups.

    Shares are rounded to tenths, so that points alike are drawn as one.
    """
    order = np.argsort(-membership, axis=1)
    first = order[:, 0]
    second = order[:, 1] if membership.shape[1] > 1 else order[:, 0]
    rows = np.arange(len(points))
    ones, others = membership[rows, first], membership[rows, second]
    share = np.where(second == first, 1.0, ones / np.maximum(ones + others, 1e-300))
    tenths = np.round(share * 10).astype(int)
    second = np.where(tenths == 10, first, second)
    for group, other, tenth in sorted({*zip(first, second, tenths, strict=True)}):
        chosen = (first == group) & (second == other) & (tenths == tenth)
        mixed = canvas.mix(series(group), series(other), share=tenth / 10)
        canvas.axes.plot(
            points[chosen, 0], points[chosen, 1], shape(group),
            ms=4.2, mec="none", color=colour(series(group)) if group == other else mixed, alpha=0.7,
        )  # fmt: skip


def known_labels(fit: Fitted, count: int) -> NDArray[np.str_] | None:
    """The classes that are known of the data, where the fit carries one for each of its rows."""
    labels = getattr(fit, "labels", None)
    if labels is None or len(labels) != count:
        return None
    return np.array([plain(label, 30) for label in labels])


def known_classes(
    points: Array, labels: NDArray[np.str_], membership: Array, names: tuple[str, str]
) -> Panel:
    """The same points by the classes that are known of them.

    A class looks like the group that holds most of it, as far as groups go round.
    """
    canvas = Canvas(height=260)
    keys = []
    for name, look in _looks(labels, membership.argmax(1), membership.shape[1]).items():
        chosen = labels == name
        canvas.axes.plot(
            points[chosen, 0], points[chosen, 1], shape(look),
            ms=4.2, mec="none", color=colour(series(look)), alpha=0.7,
        )  # fmt: skip
        keys.append(Key(shape(look), series(look), name))
    name_axes(canvas, names)
    panel = canvas.panel("The same points by their known classes.")
    return replace(panel, title="known classes, which the fit never saw", keys=tuple(keys))


def _looks(labels: NDArray[np.str_], groups: NDArray[np.int_], n_groups: int) -> dict[str, int]:
    """Class -> the group it is drawn like: an assignment that agrees on the most points."""
    classes = np.unique(labels)[:CLASSES]
    shared = np.array(
        [[((labels == c) & (groups == g)).sum() for g in range(n_groups)] for c in classes]
    )
    rows, columns = linear_sum_assignment(-shared)
    looks = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    others = itertools.count(n_groups)
    return {str(c): looks[i] if i in looks else next(others) for i, c in enumerate(classes)}


def feature_names(fit: Fitted, count: int) -> list[str]:
    """What the features are called; ``feature 0`` where the data do not say."""
    names = fit.structure.coords.get("feature")
    if names is None or len(names) != count or names.dtype.kind in "iu":
        return [f"feature {place}" for place in range(count)]
    return [plain(name, 40) for name in names]


def name_axes(canvas: Canvas, names: tuple[str, str]) -> None:
    """Names of the features, as the data call them."""
    canvas.axes.set_xlabel(plain(names[0], 40))
    canvas.axes.set_ylabel(plain(names[1], 34))


def rows_said(shown: int, total: int) -> str:
    """How many of the points are drawn, where it is not all."""
    return "" if shown == total else f" {grouped(shown)} of {grouped(total)} points are drawn."
