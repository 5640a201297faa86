"""Rows of bars, heat maps and labelled circles, written as SVG straight away.

They hold names from data at every row and may be many on a page, so that they are kept small:
colours are roles of the page's palette, a share of a colour is its opacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import escape
from numpy.typing import NDArray

from storyzoo.reports.figures import Panel
from storyzoo.reports.figures.svg import plain

Array = NDArray[np.float64]

ROW = 15.0
"""Height of a row of bars or cells."""
LETTER = 5.4
"""Width of a letter, about, at the size of the rows' text."""
DENSEST = 0.6
"""Opacity of a full cell: text on it must stay legible by day and by night."""
SEEN = 0.03
"""Share of the fullest cell below which one is left blank."""


@dataclass(frozen=True)
class Bar:
    """A named length; ``low`` to ``high`` is an interval around it, ``tick`` a mark to compare."""

    name: str
    value: float
    said: str
    """The value in words."""
    low: float = np.nan
    high: float = np.nan
    tick: float = np.nan


def bars(rows: Sequence[Bar], alt: str, *, width: float = 250, letters: int = 15) -> Panel:
    """One row for each: its name (of so many letters), its bar, its value; the scale is common."""
    left, right = letters * LETTER + 6, width - 40
    known = [end for row in rows for end in (row.value, row.high) if np.isfinite(end)]
    reach = (right - left) / (max(known, default=0.0) or 1.0)
    parts = []
    for place, row in enumerate(rows):
        middle = ROW * (place + 0.5)
        end = left + reach * row.value
        parts.append(text(0, middle + 3.3, plain(row.name, letters)))
        parts.append(
            f'<path d="M{left:.1f} {middle - 4.5:.1f}H{end:.1f}v9H{left:.1f}z" '
            'style="fill:var(--c0);fill-opacity:.55"/>'
        )
        if np.isfinite(row.high):
            low, high = (left + reach * at for at in (row.low, row.high))
            parts.append(_line(f"M{low:.1f} {middle:.1f}H{high:.1f}", "ink", 1.3))
        if np.isfinite(row.tick) and row.tick * reach <= right - left:
            at = left + reach * row.tick
            parts.append(_line(f"M{at:.1f} {middle - 5.5:.1f}v11", "c1", 1.6))
        parts.append(text(width, middle + 3.3, row.said, role="muted", anchor="end"))
    return drawing(parts, width, ROW * len(rows) + 2, alt)


def heat_map(
    cells: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    alt: str,
    *,
    top: float = 0.0,
    told: bool = True,
    letters: int = 28,
) -> Panel:
    """Cells ``(row, column)`` between 0 and ``top`` (by default the highest), darker where more.

    Where ``told``, cells that are seen hold their value in per cent.
    """
    top = top or float(np.nanmax(cells, initial=0.0)) or 1.0
    side = 27.0 if told else 13.0
    left = min(letters, max(map(len, rows), default=0)) * LETTER + 8
    heads = [plain(column, 16) for column in columns]
    longest = max(map(len, heads), default=0)
    head = 10 + longest * LETTER * 0.72
    width = left + side * len(columns) + longest * LETTER * 0.72
    parts = []
    for place, column in enumerate(heads):
        x, y = left + side * (place + 0.5), head - 5
        parts.append(text(x, y, column, turned=True, role="muted"))
    for i, row in enumerate(rows):
        y = head + ROW * i
        parts.append(text(left - 6, y + 11, plain(row, letters), anchor="end"))
        for j, value in enumerate(cells[i]):
            if not np.isfinite(value) or value < SEEN * top:
                continue
            x, share = left + side * j, DENSEST * min(value / top, 1.0)
            parts.append(
                f'<path d="M{x:.1f} {y:.1f}h{side - 1:.1f}v{ROW - 1:.1f}h{1 - side:.1f}z" '
                f'style="fill:var(--c0);fill-opacity:{share:.2f}"/>'
            )
            if told:
                at = x + (side - 1) / 2
                parts.append(text(at, y + 10.8, f"{100 * value:.0f}", anchor="middle", size=8))
    return drawing(parts, width, head + ROW * len(rows) + 2, alt)


def circles(
    places: Array, areas: Array, names: Sequence[str], said: Sequence[str], alt: str
) -> Panel:
    """Circles at ``(N, 2)`` with the given areas, up to a factor, and a name in or beside each.

    ``said`` is what a browser tells where a pointer rests on one.
    """
    width, height, margin = 345.0, 290.0, 30.0
    low, span = places.min(0), np.ptp(places, axis=0)
    widest = max(float(span.max()), 1e-12)
    scale = min((width - 2 * margin) / widest, (height - 2 * margin) / max(span[1], 1e-12))
    centre = np.array([width, height]) / 2
    at = centre + (places - low - span / 2) * scale * np.array([1.0, -1.0])
    largest = 26.0 if len(names) <= 30 else 17.0
    radius = largest * np.sqrt(areas / max(areas.max(), 1e-300))
    parts = [
        _line(f"M0 {height / 2}H{width}", "band", 1),
        _line(f"M{width / 2} 0V{height}", "band", 1),
    ]
    for i in np.argsort(-radius, kind="stable"):
        (x, y), r = at[i], max(radius[i], 2.0)
        parts.append(
            f"<g><title>{escape(plain(said[i]))}</title>"
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" '
            'style="fill:var(--c0);fill-opacity:.22;stroke:var(--c0);stroke-width:1"/></g>'
        )
    shown = [plain(name, 18) for name in names]
    for name, (x, y) in zip(shown, _apart(at, shown), strict=True):
        parts.append(text(x, y + 3.3, name, anchor="middle", size=8.5, halo=True))
    return drawing(parts, width, height, alt)


def _apart(places: Array, names: Sequence[str]) -> Array:
    """Where the names go so that none covers another: down from their places, as far as it takes.

    With very many names some may still meet.
    """
    taken: list[tuple[float, float, float]] = []
    found = places.copy()
    for i in np.argsort(places[:, 1], kind="stable"):
        half = len(names[i]) * LETTER * 0.45
        for _ in range(6):
            x, y = found[i]
            if not any(abs(y - v) < 8.5 and abs(x - u) < half + w for u, v, w in taken):
                break
            found[i, 1] += 4.5
        taken.append((float(found[i, 0]), float(found[i, 1]), half))
    return found


def drawing(parts: Sequence[str], width: float, height: float, alt: str) -> Panel:
    """The parts on a sheet of their own."""
    alt = plain(alt)
    return Panel(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(alt)}" '
        f'style="--natural:{width:.0f};font-size:9.5px">{"".join(parts)}</svg>',
        alt,
    )


def text(
    x: float,
    y: float,
    said: str,
    *,
    role: str = "ink",
    anchor: str = "",
    turned: bool = False,
    size: float = 0,
    halo: bool = False,
) -> str:
    """A line of text, escaped; ``turned`` rises to the right, a ``halo`` keeps it off lines."""
    style = f"fill:var(--{role})" + (f";text-anchor:{anchor}" if anchor else "")
    style += f";font-size:{size:g}px" if size else ""
    style += ";paint-order:stroke;stroke:var(--paper);stroke-width:2px" if halo else ""
    place = f'transform="translate({x:.1f} {y:.1f})rotate(-45)"'
    where = place if turned else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {where} style="{style}">{escape(plain(said))}</text>'


def _line(path: str, role: str, width: float) -> str:
    return f'<path d="{path}" style="fill:none;stroke:var(--{role});stroke-width:{width:g}"/>'
