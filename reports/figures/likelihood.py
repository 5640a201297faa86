"""A likelihood that is an estimate: its value and error between stochastic bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storyzoo.inference.engine.estimated import BOUNDS
from storyzoo.reports.figures import Figure, Key
from storyzoo.reports.figures.svg import Canvas, colour
from storyzoo.reports.numbers import grouped, rounded

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

Array = NDArray[np.float64]

ERRORS = 2.0
"""Half the length of a whisker, standard errors."""
SCORE = "log_likelihood_nats_per_example"


class Bounded(NamedTuple):
    """A mean log likelihood, nats per example."""

    label: str
    value: float
    standard_error: float
    """Of the normaliser."""
    lower: float
    upper: float

    def said(self) -> str:
        """In words."""
        error = rounded(self.standard_error, digits=2)
        return (
            f"{self.label}: {grouped(self.value, 3)} ± {error} nats per example, "
            f"lower bound {grouped(self.lower, 3)}, upper {grouped(self.upper, 3)}"
        )


def likelihood_figures(fit: Fitted) -> list[Figure]:
    """The estimates of the rows fitted, by draw, and of rows held out; none where exact."""
    rows = [*_fitted(fit), *_heldout(fit)]
    if not rows or not np.isfinite([row[1:] for row in rows]).all():
        return []
    canvas = Canvas(height=62 + 26 * len(rows))
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        ends = sorted((row.lower, row.upper))
        canvas.axes.hlines(place, ends[0], ends[1], color=colour("c1"), lw=7, alpha=0.55)
        canvas.axes.plot(ends, [place, place], "|", ms=12, mew=2, color=colour("c1"))
        reach = ERRORS * row.standard_error
        canvas.axes.hlines(place, row.value - reach, row.value + reach, color=colour("c0"), lw=1.6)
        canvas.axes.plot(row.value, place, "o", ms=5.5, color=colour("c0"))
    canvas.axes.set_yticks(places, [row.label for row in rows])
    canvas.axes.set_ylim(-0.7, len(rows) - 0.3)
    canvas.axes.margins(x=0.12)
    canvas.axes.set_xlabel("log likelihood, nats per example")
    keys = (
        Key("o", "c0", "estimate, two standard errors of the normaliser"),
        Key("interval", "c1", "between the bounds"),
    )
    caption = "The log likelihood rests on a normaliser that can only be estimated, between a "
    caption += "stochastic lower and upper bound, each right in expectation. "
    if all(row.value == row.upper for row in rows):
        caption += "The estimate is itself the upper bound. "
    if any(row.lower > row.upper for row in rows):
        caption += "Being stochastic, bounds may cross, as here. "
    judged = _judged(fit)
    caption += judged
    items = tuple(row.said() for row in rows)
    panel = canvas.panel("; ".join((*items, judged)))
    return [
        Figure("likelihood", "How well the likelihood is known", caption, (panel,), keys, items)
    ]


def _judged(fit: Fitted) -> str:
    """What the verdict makes of the bounds."""
    said = "It is well enough known" if fit.verdict.likelihood_known else "It is not known"
    found = [c.where for c in fit.verdict.checks if c.scope == "likelihood" and c.where]
    return f"{said}{': ' if found else ''}{'; '.join(found)}."


def _fitted(fit: Fitted) -> list[Bounded]:
    """At each draw that was scored."""
    if not {BOUNDS, "log_likelihood"} <= set(fit.tree.children):
        return []
    bounds = fit.tree[BOUNDS].to_dataset()
    (value,) = fit.tree["log_likelihood"].to_dataset().data_vars.values()

    def means(values: Array) -> Array:
        mean: Array = values.reshape(values.shape[0] * values.shape[1], -1).mean(1)
        return mean

    parts = (value, *(bounds[name] for name in ("standard_error", "lower", "upper")))
    columns = [means(np.asarray(part.values, float)) for part in parts]
    several = len(columns[0]) > 1
    return [
        Bounded(f"rows fitted, draw {place + 1}" if several else "rows fitted", *map(float, row))
        for place, row in enumerate(zip(*columns, strict=True))
    ]


def _heldout(fit: Fitted) -> list[Bounded]:
    """Of the rows held out, which have the normaliser of the rows fitted."""
    metrics = fit.summary.get("metrics", {})
    name = f"heldout_{SCORE}"
    error = metrics.get(f"{SCORE}_se")
    found = [metrics.get(name), error, metrics.get(f"{name}_lower"), metrics.get(f"{name}_upper")]
    if any(not isinstance(value, (int, float)) for value in found):
        return []
    return [Bounded("rows held out", *map(float, found))]
