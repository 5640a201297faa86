"""A learning curve: how rows fitted and rows kept apart were told while the answer was learnt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storyzoo.reports.figures import Figure, Key
from storyzoo.reports.figures.svg import Canvas, colour
from storyzoo.reports.numbers import grouped, rounded

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

ERRORS = 2.0
"""Half the width of the band, and of a whisker, in standard errors."""
APART = 0.008
"""Between the whiskers, as a share of the steps."""
EARLY = 0.1
"""Share of the steps whose scores may run off the floor of the panel."""
LITTLE = 0.02
"""Share of all that a score rose, up to which a fall from its best is next to nothing."""
LOOKS = {"training": ("rows fitted", "c0", "o"), "validation": ("rows kept apart", "c1", "s")}

Array = NDArray[np.float64]


class Curve(NamedTuple):
    """Mean log likelihoods of the same rows by step, nats per example."""

    label: str
    role: str
    mark: str
    values: Array
    error: Array
    """Standard error of each, over the rows and of the normaliser."""
    normaliser_se: Array
    """The part of it that may differ from step to step: that of the normaliser."""

    def said(self, place: int) -> str:
        """One value with its error."""
        value, error = self.values[place], self.error[place]
        told = rounded(float(value), float(error)), rounded(float(error), digits=1)
        return f"{told[0]} ± {told[1]} nats on {self.label}"


def curve_figures(fit: Fitted) -> list[Figure]:
    """Training and validation score by step, as far as the info keeps them."""
    steps = np.asarray(getattr(fit.info, "curve_steps", ()), float)
    if len(steps) < 2:
        return []
    curves = [curve_of(fit, name) for name in ("training", "validation")]
    curves = [curve for curve in curves if len(curve.values) == len(steps)]
    if not curves:
        return []
    canvas = Canvas()
    kept = int(getattr(fit.info, "kept_step", steps[-1]))
    place = int(np.abs(steps - kept).argmin())
    for curve in curves:
        _draw(canvas, steps, curve, place)
    cut = _keep_the_end_legible(canvas, steps, curves)
    canvas.axes.axvline(kept, color=colour("muted"), lw=1.0, ls=(0, (4, 2.5)))
    canvas.axes.set_xlabel("step")
    canvas.axes.set_ylabel(f"log likelihood, nats per {getattr(fit.info, 'per', 'example')}")
    keys = [Key(curve.mark, curve.role, curve.label) for curve in curves]
    keys.append(Key("dashed", "muted", "the answer kept"))
    caption = caption_of(fit, steps, curves, place, cut)
    panel = canvas.panel(caption)
    return [Figure("learning-curve", "The learning curve", caption, (panel,), tuple(keys))]


def curve_of(fit: Fitted, name: str) -> Curve:
    """``training`` or ``validation`` of the info."""
    values = np.asarray(getattr(fit.info, name, ()), float)

    def beside(field: str) -> Array:
        errors = np.asarray(getattr(fit.info, field, ()), float)
        return errors if len(errors) == len(values) else np.zeros(len(values))

    return Curve(*LOOKS[name], values, beside(f"{name}_se"), beside("normaliser_se"))


def _draw(canvas: Canvas, steps: Array, curve: Curve, kept: int) -> None:
    """The curve in the band of its normaliser; at the answer kept, a whisker of its whole error."""
    reach = ERRORS * curve.normaliser_se
    look = colour(curve.role)
    if reach.any():
        canvas.axes.fill_between(
            steps, curve.values - reach, curve.values + reach, color=look, alpha=0.2, lw=0
        )
    canvas.axes.plot(steps, curve.values, f"{curve.mark}-", ms=3.4, lw=1.4, color=look)
    aside = APART * steps[-1] * (1 if curve.mark == "o" else -1)
    canvas.axes.errorbar(
        steps[kept] + aside, curve.values[kept], ERRORS * curve.error[kept],
        color=look, lw=1.2, capsize=3, capthick=1.2,
    )  # fmt: skip


def _keep_the_end_legible(canvas: Canvas, steps: Array, curves: list[Curve]) -> bool:
    """Let the first tenth run off the floor where it would flatten the rest; whether it does."""
    later = steps > EARLY * steps[-1]
    lowest = min(np.nanmin(curve.values, initial=np.inf) for curve in curves)
    floor = min(np.nanmin(curve.values[later], initial=np.inf) for curve in curves)
    top = canvas.axes.get_ylim()[1]
    if not (np.isfinite([lowest, floor, top]).all() and floor - lowest > top - floor > 0):
        return False
    canvas.axes.set_ylim(floor - 0.12 * (top - floor), top)
    return True


def caption_of(fit: Fitted, steps: Array, curves: list[Curve], kept: int, cut: bool) -> str:
    """What is drawn, what was kept, and whether rows kept apart were told worse in the end."""
    exact = bool(getattr(fit.info, "exact", True))
    said = f"Mean log likelihood of the same rows by step, {'exact' if exact else 'estimated'}. "
    if not exact:
        error = rounded(float(curves[0].normaliser_se.max()), digits=2)
        said += f"Bands hold two standard errors of the normaliser, at most {error} nats. "
    said += f"Whiskers are two standard errors over the rows{'' if exact else ' too'}. "
    if cut:
        said += "The start lies below the panel. "
    told = " and ".join(curve.said(kept) for curve in curves)
    said += f"The answer kept is that of step {grouped(steps[kept])}, with {told}. "
    if len(curves) == 1:
        return f"{said}No rows were kept apart, so that over-fitting would not show."
    return said + over_fitting(steps, curves[1], getattr(fit.info, "per", "example"))


def over_fitting(steps: Array, validation: Curve, by: str) -> str:
    """By how much rows kept apart fell from their best; they are the same rows all along."""
    values, errors = validation.values, validation.normaliser_se
    if not np.isfinite(values).all():
        return "Not all scores are finite."
    best = int(values.argmax())
    if best == len(values) - 1:
        return "Rows kept apart were told best at the end: no over-fitting shows."
    fall = float(values[best] - values[-1])
    told = f"Rows kept apart were told best at step {grouped(steps[best])}"
    if fall <= ERRORS * math.hypot(errors[best], errors[-1]):
        return f"{told} and no worse at the end, up to the error of the estimate."
    if fall <= LITTLE * (values[best] - values[0]):
        return f"{told} and next to no worse at the end, by {rounded(fall, digits=2)} nats."
    lost = rounded(fall, digits=2)
    return f"{told}; by the end they lost {lost} nats per {by}: over-fitting."
