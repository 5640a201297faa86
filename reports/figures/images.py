"""Small images and heat maps: a cell for each value, one SVG path for each shade.

A shade is a role of the palette at some opacity over the paper, so that it follows the page from
light to dark and to print. What is not finite was not observed and gets a colour of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import escape
from numpy.typing import NDArray

from storyzoo.reports.figures import Key, Panel
from storyzoo.reports.figures.svg import plain

WIDTH = 345.0
"""Of a panel, points."""
LARGEST = 15.0
"""Side of a cell at most, points."""
TALLEST = 300.0
"""Of a heat map without names, points."""
NAMED_ROWS = 40
"""Rows of a heat map up to which each has its name."""
ROW = 11.0
"""Height of a named row, points."""
LETTER = 4.7
"""Width of a letter of a name, points."""
SMALLEST_IMAGE = 3
"""Pixels along the side of a square from which values are taken for an image."""

UNSEEN, GAP = -99, -100
"""Levels of what was not observed and of what is between images."""
NOT_SEEN = "c0"

Array = NDArray[np.float64]
Levels = NDArray[np.int_]


@dataclass(frozen=True)
class Scale:
    """From values to levels, 0 being paper: up to ``steps`` of one role, down to as many of one."""

    low: float
    """Value of the lowest level; the middle of a diverging scale lies halfway."""
    high: float
    above: str = "ink"
    below: str | None = None
    """Role of what lies below the middle; None where the lowest value is paper."""
    steps: int = 8

    def levels(self, values: Array) -> Levels:
        """Whole numbers in [-steps, steps]; beyond the ends the end."""
        zero = self.low if self.below is None else (self.low + self.high) / 2
        share = (values - zero) / max(self.high - zero, 1e-300)
        level = np.clip(
            np.round(self.steps * np.where(np.isfinite(share), share, 0)), -self.steps, self.steps
        )
        if self.below is None:
            level = np.maximum(level, 0)
        found: Levels = np.where(np.isfinite(values), level, UNSEEN).astype(int)
        return found

    def style(self, level: int) -> str:
        """Fill of a level."""
        if level == UNSEEN:
            return f"fill:var(--{NOT_SEEN});fill-opacity:.45"
        role = self.above if level > 0 else self.below
        return f"fill:var(--{role});fill-opacity:{abs(level) / self.steps:.3g}"


def diverging(values: Array) -> Scale:
    """About zero, blue above and orange below, to all but the farthest hundredth of the values."""
    finite = np.abs(values[np.isfinite(values)])
    reach = float(np.quantile(finite, 0.99)) if finite.size else 0.0
    return Scale(-reach or -1.0, reach or 1.0, above="c0", below="c1", steps=6)


def side_of(size: int, names: Sequence[object] | None = None) -> int | None:
    """Side of the square that so many values form; None where they are no image.

    Names that differ in more than a number (``length``, ``width``) are those of a table.
    """
    side = math.isqrt(size)
    stems = {re.sub(r"\d+", "", str(name)) for name in names or ()}
    if side * side != size or side < SMALLEST_IMAGE or len(stems) > 1:
        return None
    return side


def mosaic(images: Array, scale: Scale, alt: str, title: str = "", across: int = 0) -> Panel:
    """Images (N, height, width) in rows of ``across``; by default about as many as rows."""
    count, height, width = images.shape
    across = min(count, across or math.ceil(math.sqrt(count)))
    down = math.ceil(count / across)
    gap = 1 + round(min(height, width) / 12)
    grid = np.full((down * (height + gap) - gap, across * (width + gap) - gap), GAP)
    corners = []
    for place, image in enumerate(images):
        top, left = (place // across) * (height + gap), (place % across) * (width + gap)
        grid[top : top + height, left : left + width] = scale.levels(image)
        corners.append((left, top))
    frame = "".join(f"M{x} {y}h{width}v{height}h-{width}z" for x, y in corners)
    side = min(LARGEST, WIDTH / grid.shape[1])
    return _panel(grid, scale, frame, (side, side), alt, title)


def heat_map(
    values: Array, scale: Scale, alt: str, title: str = "", names: Sequence[object] | None = None
) -> Panel:
    """A matrix (R, C); its rows named at the left, where ``names`` are given and not too many."""
    rows, columns = values.shape
    shown = [plain(name, 18) for name in names] if names and rows <= NAMED_ROWS else []
    margin = LETTER * max(map(len, shown), default=0) + (6 if shown else 0)
    across = min(2 * LARGEST, (WIDTH - margin) / columns)
    down = ROW if shown else min(LARGEST, TALLEST / rows, across)
    frame = f"M0 0h{columns}v{rows}h-{columns}z"
    texts = "".join(
        f'<text x="{margin - 5:.1f}" y="{(row + 0.75) * down:.1f}" text-anchor="end" '
        f'style="font-size:8.5px;fill:var(--muted)">{escape(name)}</text>'
        for row, name in enumerate(shown)
    )
    return _panel(scale.levels(values), scale, frame, (across, down), alt, title, margin, texts)


def keys_of(scale: Scale, above: str, below: str = "", unseen: str = "") -> tuple[Key, ...]:
    """A legend: what the far ends of the scale mean, and what was not observed."""
    keys = [Key("s", scale.above, above)]
    if scale.below is not None:
        keys.append(Key("s", scale.below, below))
    if unseen:
        keys.append(Key("s", NOT_SEEN, unseen))
    return tuple(keys)


def _panel(
    grid: Levels,
    scale: Scale,
    frame: str,
    cell: tuple[float, float],
    alt: str,
    title: str,
    margin: float = 0.0,
    texts: str = "",
) -> Panel:
    """Cells of the given size on paper, in a box of points."""
    rows, columns = grid.shape
    width, height = margin + columns * cell[0], rows * cell[1]
    alt = plain(alt)
    paths = "".join(
        f'<path d="{outline(grid == level)}" style="{scale.style(int(level))}"/>'
        for level in np.unique(grid)
        if level not in (0, GAP)
    )
    svg = (
        f'<svg viewBox="-1 -1 {width + 2:.1f} {height + 2:.1f}" role="img" '
        f'aria-label="{escape(alt)}" style="--natural:{width + 2:.0f}">{texts}'
        f'<g transform="translate({margin:.1f}) scale({cell[0]:.4g} {cell[1]:.4g})">'
        f'<g shape-rendering="crispEdges">{paths}</g><path d="{frame}" style="fill:none;'
        f'stroke:var(--axis);stroke-width:1;vector-effect:non-scaling-stroke"/></g></svg>'
    )
    return Panel(svg=svg, alt=alt, title=title)


def outline(mask: NDArray[np.bool_]) -> str:
    """The cells of a mask (R, C) as a path, neighbours in a row as one.

    >>> outline(np.array([[True, True, False], [False, False, True]]))
    'M0 0h2v1h-2zM2 1h1v1h-1z'
    """
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    change = np.diff(padded, axis=1)
    tops, starts = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    return "".join(
        f"M{x} {y}h{end - x}v1h-{end - x}z" for y, x, end in zip(tops, starts, ends, strict=True)
    )
