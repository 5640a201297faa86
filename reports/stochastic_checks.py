"""Checks of what noisy gradients led to: the curve of an ascent, and the noise of chains."""

from __future__ import annotations

import math
from collections.abc import Iterator

import xarray as xr

from storyzoo.inference.engine.method import Info
from storyzoo.reports.check import Check, check
from storyzoo.reports.draw_checks import finite
from storyzoo.reports.numbers import grouped
from storyzoo.reports.optimum_checks import RESUME, finals

ALPHA = 0.1
"""Variance of a step that may come from the gradient's noise, over what is added on purpose."""
BEYOND_NOISE = 2.0
"""Standard errors by which rows kept apart must be told worse to count as over-fitted."""

UNSETTLED = {
    "falling": (
        "falling",
        "Take smaller steps (`--with learning_rate=…`), more `--with chains=…` and "
        "`--with sweeps=…`",
    ),
    "rising": ("still rising", "Take more steps (`--with max_steps=…`, double it)"),
}
"""Why a curve is not at rest, and what to do, by the way it goes."""
UNSETTLED_WALK = {
    "falling": ("falling", "Take smaller steps (`--with learning_rate=…`)"),
    "rising": ("still rising", "Make more passes (`--with epochs=…`, double it)"),
}
"""The same where steps of sequences are walked along, window by window."""


def checks_of_learning(posterior: xr.Dataset, info: Info) -> Iterator[Check]:
    """Every check of a point found by noisy gradients, in order of cause."""
    yield finite(posterior)
    if finals(info, "training").size:
        yield curve_settled(info)
    if finals(info, "validation").size:
        yield not_over_fitted(info)


def unit_of(info: Info) -> str:
    """What the scores of a learning curve are by."""
    by = str(getattr(info, "per", "example"))
    return "row" if by == "example" else by


def curve_settled(info: Info) -> Check:
    """The last quarter of the steps brought next to nothing, and nothing was lost."""
    training = finals(info, "training")
    done, machine = bool(getattr(info, "converged", False)), unit_of(info) == "row"
    last = f"{grouped(training[-1], 2)} nats per {unit_of(info)}"
    way = "falling" if training[-1] < training.max() else "rising"
    why, advice = {
        "minutes": ("its time was up", "Give it more time: `--with minutes=…`"),
        "interrupted": ("it was interrupted", RESUME),
    }.get(info.stopped, (UNSETTLED if machine else UNSETTLED_WALK)[way])
    return check(
        "learning_curve",
        done,
        value=float(training[-1]),
        where=last if done else f"{why}; {last}",
        meaning="The score of the rows fitted was not at rest at its top when the run ended: the "
        f"point is no mode.{' Where it fell the chains no longer follow the model.' * machine}",
        advice=advice,
    )


def not_over_fitted(info: Info) -> Check:
    """Rows kept apart are told as well by what was kept as by any other point of the curve."""
    lost, error = (float(getattr(info, name, 0.0)) for name in ("over_fitting", "over_fitting_se"))
    worse = lost > BEYOND_NOISE * error
    told = grouped(finals(info, "validation").max(), 2)
    best = f"{told} nats per {unit_of(info)} kept apart"
    return check(
        "over_fitting",
        not worse,
        value=lost,
        threshold=BEYOND_NOISE * error,
        where=f"{best}, then {lost:.2f} ± {error:.2f} worse" if worse else best,
        meaning="What was kept tells rows that it was not fitted to worse than an earlier point "
        "did: it has learnt what is peculiar to the rows fitted.",
        advice="Keep the best point (`--with keep=best`), give tighter priors (`--set`), or a "
        "smaller story",
    )


def noise_drowned(info: Info) -> Check:
    """The noise of the gradient adds little to the noise that Langevin dynamics adds itself."""
    alpha = float(getattr(info, "gradient_noise", math.nan))
    step = float(getattr(info, "step", math.nan))
    smaller = f"{step * ALPHA / (2 * alpha):.1g}" if alpha > 0 else "…"
    return check(
        "gradient_noise",
        alpha <= ALPHA,
        value=alpha,
        threshold=ALPHA,
        where=f"at most {alpha:.0%} of the noise of a step comes from the gradient",
        meaning="Gradients from slices of the examples are so noisy that the draws spread further "
        "than the posterior does.",
        advice=f"Take smaller steps (`--with step={smaller}`) or larger slices "
        "(`--with batch_size=…`, `--with fantasies=…`)",
    )
