"""Is a method calibrated? A reading of ranks, quantity by quantity, and a verdict in words.

A quantity fails where its ranks are too far from uniform, by the exact probability of their ECDF
(:mod:`storyzoo.reports.uniformity`), adjusted for all quantities by Holm's method. Ranks that pile
at both ends tell of posteriors that are too narrow, in the middle of ones that are too wide, at
one end of ones that are shifted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storyzoo.inference.engine.calibration import TOGETHER
from storyzoo.reports.numbers import rounded
from storyzoo.reports.uniformity import p_value

CALIBRATED, NARROW, WIDE, SHIFTED = "calibrated", "too narrow", "too wide", "shifted"
ODD = "not calibrated"

LEVEL = 0.01
"""Adjusted p-value below which a quantity fails: one calibrated method in a hundred does."""
FEW = 100
"""Simulations below which little can be seen."""
FEWEST = 10
"""Simulations above which quantities that look alike are taken to be one."""
OFTEN = 0.1
"""Share of fits with trouble of their own above which it is worth mending all the same."""
CLEAR = 2.5
"""Standard errors by which a mean or a spread of ranks must be off to give a failure its name."""
INTERVALS = (50, 90)
"""Central intervals whose coverage is told, per cent."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """The ranks of one quantity."""

    name: str
    ranks: NDArray[np.int64]
    """(S,), each one of 0, …, ``among``."""
    among: int
    p: float
    """Chance of an ECDF as far from uniform as this one, were the method exact."""
    p_adjusted: float
    """The same for all quantities together (Holm)."""

    @property
    def passed(self) -> bool:
        """Whether the ranks may be uniform."""
        return self.p_adjusted >= LEVEL

    @property
    def fractions(self) -> Array:
        """Ranks in the middle of their bins of (0, 1)."""
        return np.asarray((self.ranks + 0.5) / (self.among + 1))

    @property
    def shift(self) -> float:
        """Mean fractional rank less one half, in standard errors: above 0, draws lie too low."""
        return float((self.fractions.mean() - 0.5) * math.sqrt(12 * len(self.ranks)))

    @property
    def spread(self) -> float:
        """Mean squared distance from one half less 1/12, in standard errors.

        Above 0 ranks lie at the ends: the posterior is too narrow.
        """
        squares = (self.fractions - 0.5) ** 2
        return float((squares.mean() - 1 / 12) * math.sqrt(180 * len(self.ranks)))

    @property
    def _at_one_end(self) -> bool:
        """Whether most of the spread about one half is that all ranks lie on one side of it."""
        apart = self.fractions - 0.5
        return bool(apart.mean() ** 2 > 0.5 * (apart**2).mean())

    @property
    def word(self) -> str:
        """What is wrong, or ``calibrated``.

        A quantity of parameters and data has no width of its own to be too narrow.
        """
        if self.passed:
            return CALIBRATED
        largest = max(abs(self.shift), abs(self.spread))
        if largest < CLEAR or self.name in TOGETHER:
            return ODD
        if abs(self.shift) >= abs(self.spread) or self._at_one_end:
            return SHIFTED
        return NARROW if self.spread > 0 else WIDE

    def coverage(self, percent: int) -> float:
        """Share of the simulations whose central interval of draws holds the truth."""
        outside = (1 - percent / 100) / 2 * (self.among + 1)
        inside = (self.ranks + 0.5 > outside) & (self.ranks + 0.5 < self.among + 1 - outside)
        return float(inside.mean())

    @property
    def meaning(self) -> str:
        """In words, for a reader who does not know ranks."""
        held = f"90 % intervals hold the truth in {100 * self.coverage(90):.0f} %"
        side = "low" if self.shift > 0 else "high"
        return {
            CALIBRATED: "uniform as far as can be seen",
            NARROW: f"ranks pile at both ends: {held}",
            WIDE: f"ranks pile in the middle: {held}",
            SHIFTED: f"draws lie too {side}: {held}",
            ODD: f"ranks are not uniform: {held}",
        }[self.word]


@dataclass(frozen=True)
class Judged:
    """What to think of a method for a story."""

    verdict: str
    """``calibrated``, ``too narrow``, ``too wide``, ``shifted`` or ``not calibrated``."""
    headline: str
    readings: tuple[Reading, ...]
    """Worst first."""
    do_next: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """The ranks of all finished simulations; NaN where a rank is not defined."""

    names: tuple[str, ...]
    """(Q,)."""
    ranks: Array
    """(S, Q)."""
    truths: Array
    """(S, Q)."""
    among: int
    divergences: Array
    """(S,): divergent transitions of each fit."""
    ess: Array
    """(S,): bulk ESS of the log density; NaN where a method records none."""
    failed: Mapping[int, str]
    """Simulation -> why it has no ranks."""

    @property
    def simulations(self) -> int:
        """How many have ranks."""
        return len(self.ranks)


def judge(evidence: Evidence, notes: Sequence[str] = ()) -> Judged:
    """Read the ranks of every quantity, worst first, and say what they come to."""
    readings = readings_of(evidence)
    failed = [reading for reading in readings if not reading.passed]
    return Judged(
        verdict=_word(failed),
        headline=_headline(evidence, readings, failed),
        readings=readings,
        do_next=tuple(_do_next(evidence, failed)),
        notes=(*notes, *_notes(evidence)),
    )


def readings_of(evidence: Evidence) -> tuple[Reading, ...]:
    """One for each distinct quantity, by p-value."""
    found = []
    for place in distinct(evidence.truths):
        ranks = evidence.ranks[:, place]
        known = ranks[np.isfinite(ranks)].astype(np.int64)
        found.append((evidence.names[place], known, p_value(known, evidence.among)))
    adjusted = holm([p for _, _, p in found])
    readings = [
        Reading(name, ranks, evidence.among, p, joint)
        for (name, ranks, p), joint in zip(found, adjusted, strict=True)
    ]
    return tuple(sorted(readings, key=lambda r: (r.p, -max(abs(r.shift), abs(r.spread)))))


def distinct(truths: Array) -> list[int]:
    """Columns that vary and repeat no earlier one: not a zero of a triangular matrix, nor a twin.

    Nor the same in other units, or what is left to one of it: ranks are then equal, or mirrored.
    ``truths`` is ``(S, Q)``; of fewer than ten simulations every column is kept.
    """
    if len(truths) < FEWEST:
        return list(range(truths.shape[1]))
    kept: dict[int, Array] = {}
    for place, column in enumerate(truths.T):
        seen = column[np.isfinite(column)]
        if not len(seen) or not np.ptp(seen) > 0:
            continue
        standard = (column - seen.mean()) / seen.std()
        if not any(_alike(standard, other) or _alike(-standard, other) for other in kept.values()):
            kept[place] = standard
    return list(kept)


def _alike(one: Array, other: Array) -> bool:
    return bool(np.allclose(one, other, rtol=0, atol=1e-7, equal_nan=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the chance that any of the quantities looks this bad (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, stepped)
    return [float(p) for p in adjusted]


def _word(failed: Sequence[Reading]) -> str:
    """The worst failure's word, a parameter's before one of parameters and data."""
    if not failed:
        return CALIBRATED
    named = [reading.word for reading in failed if reading.word != ODD]
    return named[0] if named else ODD


def _headline(evidence: Evidence, readings: Sequence[Reading], failed: Sequence[Reading]) -> str:
    count = _counted(len(readings), "quantity", "quantities")
    if not failed:
        least = min((reading.p_adjusted for reading in readings), default=1.0)
        text = (
            f"Calibrated as far as {evidence.simulations} simulations can see: the ranks of "
            f"{count} are uniform (least adjusted p {shown_p(least)})"
        )
    else:
        worst = "; ".join(f"{reading.name}: {reading.meaning}" for reading in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        text = f"{len(failed)} of {count} fail in {evidence.simulations} simulations. {worst}{more}"
    if evidence.failed:
        fits = _counted(len(evidence.failed), "fit", "fits")
        text += f"; {fits} broke off and {'is' if len(evidence.failed) == 1 else 'are'} not ranked"
    return text + "."


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _do_next(evidence: Evidence, failed: Sequence[Reading]) -> list[str]:
    steps = []
    diverged = int((evidence.divergences > 0).sum())
    many = OFTEN * evidence.simulations
    if diverged > (0 if failed else many):
        steps.append(
            f"{diverged} of {evidence.simulations} fits had divergent transitions: mend these "
            "first (`zoo explain divergences`)"
        )
    if _dependent(evidence) > (0 if failed else many):
        steps.append("Draw more, so that the draws ranked are independent: `--with draws=…`")
    if failed and not steps:
        steps.append(
            "Don't quote this method's intervals for this story; calibrate another method, or a "
            "story written otherwise (`zoo explain calibration`)"
        )
    if evidence.simulations < FEW:
        steps.append("See finer faults by more simulations: `--simulations 200 --resume`")
    return steps


def _dependent(evidence: Evidence) -> int:
    """Fits whose draws are worth fewer than were ranked."""
    return int((evidence.ess < evidence.among).sum())


def _notes(evidence: Evidence) -> list[str]:
    notes = []
    for number, reason in list(evidence.failed.items())[:3]:
        notes.append(f"simulation {number} has no ranks: {reason}")
    if len(evidence.failed) > 3:
        notes.append(f"and {len(evidence.failed) - 3} more have none")
    total = evidence.simulations
    diverged = int((evidence.divergences > 0).sum())
    if diverged:
        notes.append(f"divergent transitions in {diverged} of {total} fits")
    weak = _dependent(evidence)
    if weak:
        least = rounded(float(np.nanmin(evidence.ess)), digits=2)
        notes.append(
            f"{weak} of {total} fits have fewer than {evidence.among} effective draws of the log "
            f"density (least {least}): their ranks are spread towards the ends"
        )
    undefined = int((~np.isfinite(evidence.ranks)).any(axis=1).sum())
    if undefined:
        notes.append(f"{undefined} of {total} simulations have a quantity that is not finite")
    return notes


def shown_p(p: float) -> str:
    """A p-value as a reader sees it."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def summary_of(judged: Judged) -> list[dict[str, Any]]:
    """Every quantity in plain numbers, as ``summary.json`` keeps it."""
    return [
        {
            "name": reading.name,
            "reading": reading.word,
            "passed": reading.passed,
            "p": reading.p,
            "p_adjusted": reading.p_adjusted,
            "simulations": len(reading.ranks),
            "mean_rank": float(reading.fractions.mean()),
            **{f"coverage_{level}": reading.coverage(level) for level in INTERVALS},
        }
        for reading in judged.readings
    ]
