"""A restricted Boltzmann machine: its filters, what it dreams, and how it fills in half a row.

Rows whose pixels form a square are drawn as images, others as the rows of a heat map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from xarray import DataTree

from storyzoo.inference.engine.groups import each_draw, merged, thinned
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.tree import draws_of
from storyzoo.reports.figures import Figure, Panel, scatter
from storyzoo.reports.figures.images import (
    Scale,
    diverging,
    heat_map,
    keys_of,
    mosaic,
    side_of,
)
from storyzoo.reports.numbers import grouped, rounded

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

FILTERS = 36
"""Hidden units that are drawn at most, those with the largest weights."""
CELLS = 13_000
"""Pixels of all images of a panel; larger images are fewer."""
IMAGES, ROWS = 36, 24
"""Rows of the data beside as many fantasies: as images, in a heat map."""
HALVED, ACROSS = 8, 4
"""Rows that are drawn with a half filled in."""
MEASURED = 60
"""Rows on which that is measured,"""
FILLS = 20
"""so many times,"""
MOST_WORK = 5e7
"""fewer where rows times fills times weights would be more than this."""
SEED = 20
WANTS = {
    "bernoulli": ("on", "off"),
    "categorical": ("a level higher", "a level lower"),
    "gaussian": ("higher", "lower"),
}
"""What a positive and a negative weight ask of a pixel, by kind."""

Array = NDArray[np.float64]


class Pixels(NamedTuple):
    """How the rows of a fit are drawn."""

    kind: str
    """``bernoulli``, ``categorical`` or ``gaussian``."""
    names: list[str]
    side: int | None
    """Of the square that they form; None where they are a table."""
    low: Array
    """Lightest value: (1,), or (V,) in a table of numbers."""
    high: Array

    @property
    def whole(self) -> bool:
        """Whether values are labels, of which there are few."""
        return self.kind != "gaussian"

    @property
    def half(self) -> int:
        """The first pixel of the lower half, or of the second half of a table's columns."""
        if self.side is None:
            return math.ceil(len(self.names) / 2)
        return math.ceil(self.side / 2) * self.side

    def panel(self, rows: Array, title: str, alt: str, across: int = 0) -> Panel:
        """Rows (N, V) as images or as a heat map."""
        shares = (rows - self.low) / np.maximum(self.high - self.low, 1e-300)
        scale = Scale(0.0, 1.0)
        if self.side is None:
            return heat_map(shares, scale, alt, title)
        return mosaic(shares.reshape(-1, self.side, self.side), scale, alt, title, across)

    def count(self, most: int) -> int:
        """How many images there is room for."""
        return max(4, min(most, CELLS // len(self.names)))


def figures(fit: Fitted) -> list[Figure]:
    """Filters; data and fantasies; halves filled in, where the story can."""
    fitted = fit.units.fitted(fit.tree)
    data = rows_of(fit)
    draws = draws_of(fit.structure, fitted["posterior"])
    pixels = pixels_of(fit, data)
    found = [filters(fit, draws, pixels)]
    if all(np.isfinite(values).all() for values in draws.values()):
        found += [fantasies(fit, fitted, draws, data, pixels), imputations(fit, draws, pixels)]
    return found


def rows_of(fit: Fitted) -> Array:
    """The rows fitted (N, V), in the units of the fit."""
    values: Array = fit.target.data[fit.structure.arguments[0]].cpu().numpy().astype(float)
    return values


def pixels_of(fit: Fitted, data: Array) -> Pixels:
    """How to draw rows like those of the data."""
    kind = str(getattr(fit.story, "visible", "bernoulli"))
    coords = fit.structure.coords.get("pixel")
    names = [f"pixel {i}" for i in range(data.shape[1])]
    if coords is not None and len(coords) == len(names) and coords.dtype.kind not in "iu":
        names = [*map(str, coords)]
    side = side_of(data.shape[1], names)
    low, high = np.zeros(1), np.full(1, float(getattr(fit.story, "levels", 2)) - 1)
    if kind == "bernoulli":
        high = np.ones(1)
    if kind == "gaussian":
        along = 0 if side is None else None
        low, high = (np.atleast_1d(np.nanquantile(data, q, axis=along)) for q in (0.01, 0.99))
    return Pixels(kind, names, side, low, high)


# -- filters -----------------------------------------------------------------------------------


def filters(fit: Fitted, draws: Mapping[str, Array], pixels: Pixels) -> Figure:
    """Weights of the hidden units at the point, or at the draw whose log density is the median."""
    weight = merged(draws)["weight"][typical(fit, draws)]
    if weight.ndim == 3:
        weight = slope(weight)
    size = np.linalg.norm(weight, axis=0)
    order = np.argsort(-size, kind="stable")[: pixels.count(FILTERS)]
    shown = weight[:, order]
    scale = diverging(shown)
    alt = f"Weights of {len(order)} of {weight.shape[1]} hidden units, from {_extent(shown)}."
    if pixels.side is None:
        panel = heat_map(shown, scale, alt, names=pixels.names)
    else:
        panel = mosaic(shown.T.reshape(-1, pixels.side, pixels.side), scale, alt)
    more, less = WANTS[pixels.kind]
    panel = replace(panel, keys=keys_of(scale, f"wants the pixel {more}", f"wants it {less}"))
    return Figure("filters", "Filters", _of_filters(draws, pixels, weight, scale), (panel,))


def _extent(weight: Array) -> str:
    finite = weight[np.isfinite(weight)]
    if not finite.size:
        return "none that is a number"
    return f"{grouped(float(finite.min()), 2)} to {grouped(float(finite.max()), 2)}"


def _of_filters(draws: Mapping[str, Array], pixels: Pixels, weight: Array, scale: Scale) -> str:
    total = weight.shape[1]
    shown = min(total, pixels.count(FILTERS))
    each = "Each image is a hidden unit" if pixels.side else "Each column is a hidden unit"
    said = f"{each}: the weights that tie it to the pixels, largest units first. "
    said += f"Full colour stands for ±{rounded(scale.high, digits=2)} and beyond."
    if pixels.kind == "categorical":
        said += " Of a pixel with several levels it is the slope of the weights over the levels."
    if len(merged(draws)["weight"]) > 1:
        said += " They are those of one draw, whose log density is the median: units differ in "
        said += "order and sign from draw to draw, so that no average is shown."
    if shown < total:
        said += f" {shown} of {total} units are drawn."
    return said


def slope(weight: Array) -> Array:
    """Least-squares slope of weights (V, L, H) over the levels: (V, H)."""
    level = np.arange(weight.shape[1]) - (weight.shape[1] - 1) / 2
    sloped: Array = np.einsum("l,vlh->vh", level, weight) / (level**2).sum()
    return sloped


def typical(fit: Fitted, draws: Mapping[str, Array]) -> int:
    """Place, among all draws, of the one whose log density is the median; the last if unknown."""
    size = len(merged(draws)["weight"])
    stats = fit.tree.children.get("sample_stats")
    if stats is None or "lp" not in stats.data_vars or stats["lp"].size != size:
        return size - 1
    density = np.asarray(stats["lp"].values, float).ravel()
    return int(np.argsort(density, kind="stable")[(density.size - 1) // 2])


# -- data and fantasies ------------------------------------------------------------------------


def fantasies(
    fit: Fitted, fitted: DataTree, draws: Mapping[str, Array], data: Array, pixels: Pixels
) -> Figure:
    """Rows of the data beside rows that the fit draws."""
    most = pixels.count(IMAGES) if pixels.side else ROWS
    seen = data[scatter.thinned(len(data), most)]
    dreamt = dreams(fit, fitted, draws, len(seen))
    panels = (
        pixels.panel(seen, "rows of the data", f"{len(seen)} rows of the data."),
        pixels.panel(dreamt, "drawn by the fit", f"{len(dreamt)} rows drawn by the fit."),
    )
    caption = "Were the fit right, one could not tell which side is the data. "
    caption += "Its own chains drew the right one, from start to end without a look at the data."
    if len(merged(draws)["weight"]) > 1:
        caption += " Each row is from another draw of the weights."
    unseen = "not observed" if np.isnan(seen).any() else ""
    keys = keys_of(Scale(0.0, 1.0), _darkest(pixels), unseen=unseen)
    return Figure("fantasies", "Data and fantasies", caption, panels, keys)


def dreams(fit: Fitted, fitted: DataTree, draws: Mapping[str, Array], count: int) -> Array:
    """Simulated rows (count, V): what the tree keeps, else drawn now."""
    name = fit.structure.arguments[0]
    node = fitted.children.get("posterior_predictive")
    for stored in (name, *fit.structure.outcomes):
        if node is not None and stored in node.data_vars:
            kept = np.asarray(node[stored].values, float)
            kept = kept.reshape(-1, *kept.shape[2:])
            replicate = np.linspace(0, len(kept) - 1, count).round().astype(int)
            row = np.linspace(0, kept.shape[1] - 1, count).round().astype(int)
            chosen: Array = kept[replicate, row]
            return chosen
    rng = np.random.default_rng([fit.seed, SEED])
    (latents,) = each_draw({k: v[[typical(fit, draws)]] for k, v in merged(draws).items()})
    drawn = Simulator(fit.target).data(latents, rng, count)[name]
    values: Array = np.asarray(drawn.cpu(), float)
    return values


def _darkest(pixels: Pixels) -> str:
    """What full ink stands for."""
    if pixels.kind == "gaussian":
        return "a high value" + ("" if pixels.side else ", by column")
    return f"{pixels.high[0]:g}"


# -- halves filled in --------------------------------------------------------------------------


def imputations(fit: Fitted, draws: Mapping[str, Array], pixels: Pixels) -> Figure:
    """Some rows, the same without their second half, and that half as the fit fills it in."""
    data = rows_of(fit)
    complete = np.flatnonzero(np.isfinite(data).all(axis=1))
    rows = complete if len(complete) else np.arange(len(data))
    most = int(MOST_WORK / (FILLS * draws["weight"][0, 0].size))
    truth = data[rows[scatter.thinned(len(rows), max(HALVED, min(MEASURED, most)))]]
    holed = truth.copy()
    holed[:, pixels.half :] = np.nan
    filled = fills(fit, draws, holed)
    some = scatter.thinned(len(truth), HALVED)
    half = "lower half" if pixels.side else "second half of the columns"
    panels = tuple(
        pixels.panel(values[some], title, alt, ACROSS)
        for values, title, alt in (
            (truth, "the truth", f"{len(some)} rows of the data."),
            (holed, "what the fit was shown", f"The same rows without their {half}."),
            (
                filled.mean(0),
                f"mean of {len(filled)} fills",
                "The same rows, filled in on average.",
            ),
            (filled[0], "one of the fills", "The same rows, filled in once."),
        )
    )
    caption = f"The {half} of rows that the fit was given whole, hidden and drawn again given the "
    caption += f"rest, {len(filled)} times. {measured(pixels, data, truth, holed, filled)}"
    keys = keys_of(Scale(0.0, 1.0), _darkest(pixels), unseen="hidden")
    return Figure("imputations", "Halves filled in", caption, panels, keys)


def fills(fit: Fitted, draws: Mapping[str, Array], holed: Array) -> Array:
    """The rows (N, V) without holes, FILLS times or somewhat more: (S, N, V)."""
    name = fit.structure.arguments[0]
    chosen = thinned(draws, FILLS)
    repeats = math.ceil(FILLS / len(chosen["weight"]))
    rng = np.random.default_rng([fit.seed, SEED + 1])
    found = []
    with fit.target.context(), torch.no_grad():
        data: dict[str, Any] = {name: torch.as_tensor(np.tile(holed, (repeats, 1)))}
        data[name] = data[name].to(torch.get_default_dtype()).to(fit.target.device)
        for latents in each_draw(chosen):
            placed = {k: v.to(fit.target.device) for k, v in latents.items()}
            drawn = fit.story.impute(placed, data, rng)
            assert drawn is not None
            found.append(_repeated(drawn[name], repeats))
    return np.concatenate(found)


def _repeated(drawn: Tensor, repeats: int) -> Array:
    values: Array = drawn.double().cpu().numpy()
    return values.reshape(repeats, -1, values.shape[-1])


def measured(pixels: Pixels, data: Array, truth: Array, holed: Array, filled: Array) -> str:
    """How near the fills come to what was hidden, against each pixel's own middle."""
    hidden = np.isnan(holed) & np.isfinite(truth)
    if not hidden.any():
        return "Nothing could be hidden."
    if pixels.whole:
        guess, alone = np.median(filled, axis=0), np.nanmedian(data, axis=0)
        right = [
            100 * float((np.round(found) == truth)[hidden].mean())
            for found in (guess, np.broadcast_to(alone, truth.shape))
        ]
        return (
            f"On {len(truth)} rows their median is right in {right[0]:.0f} % of the pixels "
            f"hidden; each pixel's own median would be in {right[1]:.0f} %."
        )
    gaps = [
        float(np.sqrt(((found - truth)[hidden] ** 2).mean()))
        for found in (filled.mean(0), np.broadcast_to(np.nanmean(data, axis=0), truth.shape))
    ]
    return (
        f"On {len(truth)} rows their mean misses by {rounded(gaps[0])} (root mean square); each "
        f"pixel's own mean would by {rounded(gaps[1])}."
    )
