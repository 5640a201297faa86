"""Ranks of the truth: the ECDF of each quantity less the diagonal, within the band of chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from storyzoo.reports.calibration import Reading, shown_p
from storyzoo.reports.figures import Figure, Key, Panel
from storyzoo.reports.figures.svg import Canvas, colour, plain
from storyzoo.reports.uniformity import band

PANELS = 12
"""Quantities that are drawn, the worst."""
TELLING = (
    "Above the band at the left and below it at the right: ranks pile at both ends, the posterior "
    "is too narrow. The other way round it is too wide. All above: draws lie too high; all below: "
    "too low."
)


def calibration_figures(readings: Sequence[Reading]) -> list[Figure]:
    """The rank ΔECDF of the worst quantities.

    The band holds the whole line of 95 % of exact methods (Säilynoja et al. 2022).
    """
    drawn = [reading for reading in readings if len(reading.ranks)][:PANELS]
    if not drawn:
        return []
    caption = (
        "Each line is the share of simulations whose true value ranks at most so high among the "
        "draws, less what an exact method gives. It stays in the grey band, all at once, in 95 % "
        f"of the runs of an exact method: of {len(drawn)} panels some may leave it by chance, "
        f"which the adjusted p counts in. {TELLING}"
    )
    if len(drawn) < len(readings):
        caption += f" The {len(drawn)} worst of {len(readings)} quantities are drawn."
    keys: tuple[Key, ...] = (Key("line", "c0", "calibrated"), Key("line", "bad", "fails"))
    keys = keys if any(not reading.passed for reading in drawn) else keys[:1]
    panels = tuple(_panel(reading) for reading in drawn)
    return [Figure("ranks", "", caption, panels, keys)]


def _panel(reading: Reading) -> Panel:
    """One quantity."""
    total, among = len(reading.ranks), reading.among
    place = np.arange(among + 2) / (among + 1)
    counts = np.cumsum(np.bincount(reading.ranks, minlength=among + 1))
    line = np.concatenate([[0.0], counts / total]) - place
    low, high = band(total, among)
    inner = place[1:-1]
    canvas = Canvas(height=190)
    canvas.axes.fill_between(
        place,
        np.concatenate([[0.0], low - inner, [0.0]]),
        np.concatenate([[0.0], high - inner, [0.0]]),
        color=colour("band"),
        lw=0,
    )
    canvas.axes.plot(place, line, color=colour("c0" if reading.passed else "bad"), lw=1.3)
    canvas.axes.set_xlim(0, 1)
    canvas.axes.set_xlabel("fractional rank of the truth")
    canvas.axes.set_ylabel("ΔECDF")
    said = f"{reading.word}, adjusted p {shown_p(reading.p_adjusted)}"
    drawn = canvas.panel(f"Rank ΔECDF of {reading.name}: {said}.")
    return replace(drawn, title=f"{plain(reading.name, 40)}: {said}")
