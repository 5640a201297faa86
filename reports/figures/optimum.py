"""What an ascent did: the objective by step, and where each restart ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from storyzoo.reports.figures import Figure, Key
from storyzoo.reports.figures.svg import Canvas, colour
from storyzoo.reports.numbers import grouped
from storyzoo.reports.optimum_checks import TOLERANCE, within

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted


def optimum_figures(fit: Fitted) -> list[Figure]:
    """Path and restarts of EM, MAP and Laplace, as far as their info keeps them."""
    figures = []
    path = tuple(getattr(fit.info, "path", ()))
    if len(path) > 1:
        figures.append(ascent(path))
    objectives = tuple(getattr(fit.info, "objectives", ()))
    if objectives:
        degenerate = tuple(getattr(fit.info, "degenerate", ())) or ("",) * len(objectives)
        figures.append(restarts(objectives, degenerate))
    return figures


def ascent(path: Sequence[float]) -> Figure:
    """The objective by step of the best restart."""
    steps = np.arange(len(path))
    values = np.asarray(path, float)
    kept = np.unique(np.linspace(0, len(path) - 1, min(len(path), 360)).round().astype(int))
    canvas = Canvas(height=225)
    canvas.axes.plot(steps[kept], values[kept], color=colour("c0"), lw=1.4)
    canvas.axes.plot(steps[-1], values[-1], "o", ms=4.5, color=colour("c0"))
    _zoom(canvas, values)
    canvas.axes.set_xlabel("step")
    canvas.axes.set_ylabel("objective, nats")
    caption = (
        f"The objective of the best restart over {len(path) - 1} steps; "
        f"it ends at {grouped(float(values[-1]), 3)} nats."
    )
    return Figure("ascent", "The ascent", caption, (canvas.panel(caption),))


def _zoom(canvas: Canvas, values: NDArray[np.float64]) -> None:
    """Let the first steps run off the floor of the panel where they would flatten all the rest."""
    finite = values[np.isfinite(values)]
    if len(finite) < 5:
        return
    top, knee = finite[-1], np.quantile(finite, 0.1)
    if finite.min() < top - 4 * (top - knee) and top > knee:
        canvas.axes.set_ylim(top - 1.6 * (top - knee), top + 0.15 * (top - knee))


def restarts(objectives: Sequence[float], degenerate: Sequence[str]) -> Figure:
    """Where each restart ended, best first; degenerate ones apart, each with its reason."""
    values = np.asarray(objectives, float)
    bad = np.array([bool(reason) for reason in degenerate])
    sane = np.flatnonzero(~bad & np.isfinite(values))
    best = values[sane].max() if len(sane) else np.nan
    same = ~bad & within(values, best, TOLERANCE)
    order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")
    place = np.empty(len(values))
    place[order] = np.arange(1, len(values) + 1)
    canvas = Canvas(height=225)
    keys = []
    for mask, shape, role, label in (
        (same, "o", "good", "best mode"),
        (~same & ~bad, "s", "c0", "another end"),
        (bad, "x", "bad", "degenerate"),
    ):
        if mask.any():
            canvas.axes.plot(place[mask], values[mask], shape, ms=5.5, mew=1.6, color=colour(role))
            keys.append(Key(shape, role, f"{label} ({int(mask.sum())})"))
    _keep_together(canvas, values[np.isfinite(values)])
    canvas.axes.set_xlabel("restart, best first")
    canvas.axes.set_ylabel("objective at the end, nats")
    canvas.axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    canvas.axes.set_xlim(0.3, len(values) + 0.7)
    caption = _restart_caption(int(same.sum()), len(values), int(bad.sum()), best)
    items = tuple(
        f"Restart {place + 1} ({grouped(values[place], 3)} nats): {degenerate[place]}"
        for place in np.flatnonzero(bad)[:12]
    )
    return Figure("restarts", "Restarts", caption, (canvas.panel(caption),), tuple(keys), items)


def _keep_together(canvas: Canvas, values: NDArray[np.float64]) -> None:
    """Restarts that count as one mode must look like one: the axis spans ten tolerances."""
    if not len(values):
        return
    middle = (values.max() + values.min()) / 2
    reach = 0.55 * max(np.ptp(values), 10 * (TOLERANCE[0] + TOLERANCE[1] * abs(middle)))
    canvas.axes.set_ylim(middle - reach, middle + reach)


def _restart_caption(same: int, total: int, bad: int, best: float) -> str:
    if not same:
        return f"None of {total} restarts reached a sane mode."
    caption = f"{same} of {total} restarts reached the best mode, {grouped(best, 3)} nats."
    if bad:
        caption += f" {bad} ended in a degenerate one, which never counts as best:"
    return caption
