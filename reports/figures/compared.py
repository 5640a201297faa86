"""Several fits of the same data side by side: their parameters, and their stories' own figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from xarray import DataTree

from storyzoo.inference.engine.relabelling import relabel
from storyzoo.reports.diagnostics import elements_of
from storyzoo.reports.figures import Figure, Key, Panel, own_figures
from storyzoo.reports.figures.svg import SHAPES, Canvas, colour, plain, series

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

ROWS = 12
"""Numbers of one site that are drawn at most, those on which the fits differ most."""
SITES = 8

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Aligned:
    """A fit whose labels agree with those of another; all else is the fit's own."""

    fit: Fitted
    tree: DataTree

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fit, name)


def aligned(fits: Sequence[Fitted], reference: Fitted) -> list[Fitted]:
    """The fits, those of the reference's story with their labels matched to its own."""
    return [
        cast("Fitted", Aligned(fit, _matched(fit, reference))) if _alike(fit, reference) else fit
        for fit in fits
    ]


def _alike(fit: Fitted, reference: Fitted) -> bool:
    """Whether a fit has the reference's sites, in its shapes, with labels to be matched."""
    ours = {name: site.sizes for name, site in fit.structure.latents.items()}
    theirs = {name: site.sizes for name, site in reference.structure.latents.items()}
    return fit is not reference and ours == theirs and bool(fit.story.exchangeable)


def _matched(fit: Fitted, reference: Fitted) -> DataTree:
    against = reference.units.fitted(reference.tree)["posterior"]
    tree = relabel(fit.units.fitted(fit.tree), fit.target, reference=against).tree
    return fit.units.shown(tree)


# -- parameters --------------------------------------------------------------------------------


def forest(fits: Sequence[Fitted], names: Sequence[str], reference: Fitted) -> list[Figure]:
    """Each number of the reference's story by fit: 89 % intervals of draws, points of points."""
    posterior = reference.tree["posterior"].to_dataset()
    panels = []
    for site in list(posterior.data_vars)[:SITES]:
        if posterior[site].dtype.kind != "f" or _is_local(reference, str(site)):
            continue
        panel = _panel(fits, str(site), elements_of(posterior, (str(site),)))
        if panel is not None:
            panels.append(panel)
    if not panels:
        return []
    keys = tuple(
        Key(SHAPES[i % len(SHAPES)], series(i), f"{name}{_said(fit)}")
        for i, (name, fit) in enumerate(zip(names, fits, strict=True))
    )
    caption = "Bars are 89 % intervals with the mean; a point estimate is a mark without a bar."
    if any(len(elements_of(posterior, (str(site),))[0]) > ROWS for site in posterior.data_vars):
        caption += f" Of longer sites the {ROWS} numbers on which the fits differ most are drawn."
    return [Figure("forest", "", caption, tuple(panels), keys)]


def _is_local(fit: Fitted, site: str) -> bool:
    known = fit.structure.sites.get(site)
    return known is not None and (known.local or fit.story.examples in known.dims) and (
        fit.structure.n_examples > 2 * ROWS
    )


def _said(fit: Fitted) -> str:
    return " (point)" if fit.method.kind == "point" else ""


def _panel(
    fits: Sequence[Fitted], site: str, reference: tuple[tuple[str, ...], Array]
) -> Panel | None:
    """One site: a row for each number, the fits one below the other."""
    labels, theirs = reference
    answers: list[Array | None] = []
    for fit in fits:
        found, draws = elements_of(fit.tree["posterior"].to_dataset(), (site,))
        fits_in = found == labels and np.isfinite(draws).all()
        answers.append(draws.reshape(len(labels), -1) if fits_in and len(labels) else None)
    known = [answer for answer in answers if answer is not None]
    if not known:
        return None
    chosen = _most_different(theirs.reshape(len(labels), -1), known)
    step, gap = 0.8 / len(fits), len(chosen)
    canvas = Canvas(height=52 + gap * (10 + 8.5 * len(fits)))
    for place, answer in enumerate(answers):
        if answer is None:
            continue
        rows = np.arange(gap)[::-1] + 0.4 - step * (place + 0.5)
        _draw(canvas, rows, answer[chosen], place)
    canvas.axes.set_yticks(np.arange(gap)[::-1], [plain(labels[i], 30) for i in chosen])
    canvas.axes.tick_params(axis="y", length=0)
    for row in range(gap - 1):
        canvas.axes.axhline(row + 0.5, color=colour("band"), lw=0.8, zorder=0)
    canvas.axes.set_ylim(-0.55, gap - 0.45)
    return replace(canvas.panel(f"{site} by fit."), title=plain(site, 40))


def _most_different(reference: Array, answers: Sequence[Array]) -> NDArray[np.int_]:
    """Rows on which the means of the fits are furthest apart, in the reference's sd."""
    if len(reference) <= ROWS:
        return np.arange(len(reference))
    means = np.stack([answer.mean(1) for answer in answers])
    sd = reference.std(1)
    apart = np.ptp(means, axis=0) / np.where(sd > 0, sd, np.abs(reference.mean(1)) + 1e-300)
    return np.sort(np.argsort(-apart)[:ROWS])


def _draw(canvas: Canvas, rows: Array, answer: Array, place: int) -> None:
    """One fit: a mark at the mean and, of draws, the 89 % and 50 % intervals."""
    tint = colour(series(place))
    if answer.shape[1] > 1:
        limits = np.quantile(answer, [0.055, 0.25, 0.75, 0.945], axis=1)
        canvas.axes.hlines(rows, limits[0], limits[3], color=tint, lw=1.4, alpha=0.7)
        canvas.axes.hlines(rows, limits[1], limits[2], color=tint, lw=3.6, alpha=0.85)
    marker = SHAPES[place % len(SHAPES)]
    canvas.axes.plot(answer.mean(1), rows, marker, ms=5, mec=colour("paper"), mew=0.6, color=tint)


# -- the stories' own figures ------------------------------------------------------------------


def side_by_side(fits: Sequence[Fitted], names: Sequence[str]) -> list[Figure]:
    """The first panel of each fit's own figure under its name, what they share last."""
    panels: list[Panel] = []
    shared: tuple[Panel, ...] = ()
    caption = ""
    for fit, name in zip(fits, names, strict=True):
        own = own_figures(fit)
        if own:
            panels.append(replace(own[0].panels[0], title=name))
            shared = shared or own[0].panels[1:]
            caption = caption if fit.method.kind == "point" and caption else own[0].caption
    if not panels:
        return []
    return [Figure("stories", "", caption, (*panels, *shared))]
