"""Several fits of the same data side by side: their parameters, and their stories' own figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from xarray import DataArray, Dataset, DataTree

from storyzoo.inference.engine.relabelling import relabel
from storyzoo.reports.diagnostics import elements_of
from storyzoo.reports.figures import Figure, Key, Panel, own_figures
from storyzoo.reports.figures.scatter import shape
from storyzoo.reports.figures.svg import Canvas, colour, plain, series
from storyzoo.reports.parameters import LIMIT

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

ROWS = 12
"""Numbers of one site that are drawn at most, those on which the fits differ most."""
COLUMNS = 8
"""Labels of a second dim up to which each has a panel."""
PANELS = 16

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
    fitted = fit.units.fitted(fit.tree)
    against = reference.units.fitted(reference.tree)["posterior"].to_dataset()
    sites = [name for name in fitted["posterior"].data_vars if name in against]
    return fit.units.shown(relabel(fitted, fit.target, reference=against[sites]).tree)


# -- parameters --------------------------------------------------------------------------------


def forest(fits: Sequence[Fitted], names: Sequence[str], reference: Fitted) -> list[Figure]:
    """Each number of the reference's story by fit: 89 % intervals of draws, points of points.

    A site along two dims gets a panel for each label of the second, since features differ in
    scale; one along more, or a long one, is shown as differences from the reference.
    """
    posterior = reference.tree["posterior"].to_dataset()
    too_large = []
    found = [fit.tree["posterior"].to_dataset() for fit in fits]
    against = f"difference from {plain(_name_of(reference, fits, names), 24)}, in sd"
    own_units, differences = [], []
    for site in posterior.data_vars:
        values = posterior[site]
        if values.dtype.kind != "f" or _is_local(reference, str(site)):
            continue
        if math.prod(values.sizes[dim] for dim in _dims(values)) > LIMIT:
            too_large.append(plain(site, 40))
            continue
        answers = [_like(values, one) for one in found]
        if _is_long(values):
            differences.append(_differences(values, answers, against))
        else:
            own_units += _panels(values, answers)
    panels = (*own_units, *differences)[:PANELS]
    keys = tuple(
        Key(shape(i), series(i), name + (" (point)" if fit.method.kind == "point" else ""))
        for i, (name, fit) in enumerate(zip(names, fits, strict=True))
    )
    caption = (
        "Bars are 89 % and 50 % intervals, marks are means; a point estimate has no bar. "
        f"Of sites with many numbers the {ROWS} on which the fits differ most are drawn."
    )
    if too_large:
        caption += f" Too large to be drawn: {', '.join(too_large)}."
    return [Figure("forest", "", caption, panels, keys)] if panels else []


def _name_of(reference: Fitted, fits: Sequence[Fitted], names: Sequence[str]) -> str:
    return next((name for fit, name in zip(fits, names, strict=True) if fit is reference), "")


def _is_long(values: DataArray) -> bool:
    """Whether a site has more numbers than can be drawn in their own units."""
    sizes = [values.sizes[dim] for dim in _dims(values)]
    return len(sizes) > 2 or sizes[:1] > [ROWS] or sizes[1:] > [COLUMNS]


def _is_local(fit: Fitted, site: str) -> bool:
    """Whether a site belongs to the single examples, and there are many of those."""
    known = fit.structure.sites.get(site)
    if known is None or fit.structure.n_examples <= 2 * ROWS:
        return False
    return fit.story.examples in known.dims


def _like(values: DataArray, posterior: Dataset) -> DataArray | None:
    """The site in another fit, where it has the same shape and finite draws."""
    if values.name not in posterior:
        return None
    other = posterior[values.name]
    if _dims(other) != _dims(values) or any(
        other.sizes[d] != values.sizes[d] for d in _dims(other)
    ):
        return None
    return other if bool(np.isfinite(other).all()) else None


def _dims(values: DataArray) -> list[str]:
    return [str(dim) for dim in values.dims if dim not in ("chain", "draw")]


def _panels(values: DataArray, answers: Sequence[DataArray | None]) -> list[Panel]:
    """A panel for the site, or one for each label of its second dim."""
    dims = _dims(values)
    if len(dims) < 2:
        return [_panel(str(values.name), values, answers)]
    return [
        _panel(
            f"{values.name}[·, {label}]",
            values.isel({dims[1]: place}),
            [None if one is None else one.isel({dims[1]: place}) for one in answers],
        )
        for place, label in enumerate(values.coords[dims[1]].values)
    ]


def _panel(title: str, values: DataArray, answers: Sequence[DataArray | None]) -> Panel:
    """Numbers in their own units, a row for each, the fits one below the other."""
    dims = _dims(values)
    if dims:
        labels = [f"{dims[0]} {label}" for label in values.coords[dims[0]].values]
    else:
        labels = [str(values.name)]
    drawn = [None if one is None else _flat(one) for one in answers]
    canvas = _rows([plain(label, 24) for label in labels], drawn)
    return replace(canvas.panel(f"{title} by fit."), title=plain(title, 48))


def _differences(values: DataArray, answers: Sequence[DataArray | None], against: str) -> Panel:
    """The numbers on which the fits differ most, less the reference's mean, in its sd.

    A reference that is a point lends its centre; the widest of the others then lends its sd.
    """
    names, draws = _elements(values)
    flat = [None if one is None else _elements(one) for one in answers]
    known = [None if one is None or one[0] != names else one[1] for one in flat]
    widest = np.max([one.std(1) for one in known if one is not None], axis=0)
    scale = np.where(draws.std(1) > 0, draws.std(1), np.where(widest > 0, widest, 1.0))[:, None]
    apart = [None if one is None else (one - draws.mean(1)[:, None]) / scale for one in known]
    means = np.stack([one.mean(1) for one in apart if one is not None])
    chosen = np.sort(np.argsort(-np.ptp(means, axis=0), kind="stable")[:ROWS])
    labels = [names[i].removeprefix(f"{values.name}[").removesuffix("]") for i in chosen]
    drawn = [None if one is None else one[chosen] for one in apart]
    canvas = _rows([plain(label, 30) for label in labels], drawn)
    canvas.axes.axvline(0, color=colour("axis"), lw=0.8, zorder=0)
    canvas.axes.set_xlabel(against)
    return replace(canvas.panel(f"{values.name} by fit."), title=plain(values.name, 48))


def _elements(values: DataArray) -> tuple[tuple[str, ...], Array]:
    """Names of the numbers, a symmetric matrix's counted once, and ``(number, draw)``."""
    names, draws = elements_of(Dataset({values.name: values}))
    return names, draws.reshape(len(names), -1)


def _flat(values: DataArray) -> Array:
    """``(number, draw)``."""
    ordered = values.transpose(*_dims(values), "chain", "draw").to_numpy()
    flat: Array = ordered.reshape(-1, values.sizes["chain"] * values.sizes["draw"])
    return flat


def _rows(labels: Sequence[str], answers: Sequence[Array | None]) -> Canvas:
    """Rows of numbers, ``(number, draw)`` by fit, the first one on top."""
    count, step = len(labels), 0.8 / len(answers)
    canvas = Canvas(height=46 + count * (9 + 8 * len(answers)))
    top = np.arange(count)[::-1]
    for place, answer in enumerate(answers):
        if answer is not None:
            _draw(canvas, top + 0.4 - step * (place + 0.5), answer, place)
    canvas.axes.set_yticks(top, labels)
    canvas.axes.tick_params(axis="y", length=0)
    for row in range(count - 1):
        canvas.axes.axhline(row + 0.5, color=colour("band"), lw=0.8, zorder=0)
    canvas.axes.set_ylim(-0.55, count - 0.45)
    return canvas


def _draw(canvas: Canvas, rows: NDArray[np.floating[Any]], answer: Array, place: int) -> None:
    """One fit: a mark at the mean and, of draws, the 89 % and 50 % intervals."""
    tint = colour(series(place))
    if answer.shape[1] > 1:
        limits = np.quantile(answer, [0.055, 0.25, 0.75, 0.945], axis=1)
        canvas.axes.hlines(rows, limits[0], limits[3], color=tint, lw=1.4, alpha=0.7)
        canvas.axes.hlines(rows, limits[1], limits[2], color=tint, lw=3.6, alpha=0.85)
    canvas.axes.plot(
        answer.mean(1), rows, shape(place), ms=5, mec=colour("paper"), mew=0.6, color=tint
    )


# -- the stories' own figures ------------------------------------------------------------------


def side_by_side(fits: Sequence[Fitted], names: Sequence[str], reference: Fitted) -> list[Figure]:
    """The first panel of each fit's own figure under its name, what they share last."""
    panels: list[Panel] = []
    shared: tuple[Panel, ...] = ()
    caption = ""
    for fit, name in zip(fits, names, strict=True):
        own = own_figures(fit, reference)
        if own:
            panels.append(replace(own[0].panels[0], title=name))
            shared = shared or own[0].panels[1:]
            caption = caption if fit.method.kind == "point" and caption else own[0].caption
    if not panels:
        return []
    return [Figure("stories", "", caption, (*panels, *shared))]
