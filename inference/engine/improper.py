"""Tell draws that run away along an improper posterior from draws of one with heavy tails.

Where a coordinate lies far out, the density further out decides. A density that falls like
``|q|^-a`` along a line has a finite integral only for ``a > 1``: going ``f`` times as far must cost
more than ``log f`` nats. A logarithmic coordinate needs a density that falls at all, so that going
half way back gains. Both hold for a Cauchy's tails and for data in large units; neither does along
a flat prior that no data speak against.
"""

from __future__ import annotations

import numpy as np
import torch

from storyzoo.inference.engine.coordinates import real_coordinates
from storyzoo.inference.engine.density import LogDensity, Slot

FAR = 1e8
"""How far out a real coordinate is looked at."""
FAR_LOGARITHM = 200.0
"""How far out a logarithmic one is: beyond factors of e^200."""
FACTORS = (2.0, 1e3)
"""How many times as far as the draws the density of a real coordinate is looked at."""
SHARE = 0.5
"""Of the nats that a tail with a finite integral would cost at least."""
LEVEL = 0.05
"""Nats within which a density is flat along a logarithmic coordinate."""
POINTS = 8
"""Draws from whose place it is looked further out."""


def improper_along(density: LogDensity, draws: np.ndarray) -> str | None:
    """The site along which a chain's draws (n, D) run away, in words, or None.

    >>> improper_along(density, rows[:, : density.dim])
    "'slope' ran off to 3.1e+12"
    """
    late = draws[len(draws) // 2 :]
    if not len(late):
        return None
    real = real_coordinates(density)
    typical = np.median(np.abs(late), 0)
    ratio = typical / np.where(real, FAR, FAR_LOGARITHM)
    far = ~(ratio <= 1)
    slots = [slot for slot in density.slots if far[slot.offset : slot.end].any()]
    if not slots:
        return None
    points = late[np.linspace(0, len(late) - 1, POINTS).astype(int)]
    furthest = max(slots, key=lambda slot: float(ratio[slot.offset : slot.end].max()))
    together = [slots] if len(slots) > 1 else []
    for moved in [*([slot] for slot in slots), *together]:
        if _does_not_fall(density, points, moved, far, real):
            slot = moved[0] if len(moved) == 1 else furthest
            return f"'{slot.name}' ran off to {_most_extreme(density, points[-1], slot):.3g}"
    return None


def _does_not_fall(
    density: LogDensity, points: np.ndarray, slots: list[Slot], far: np.ndarray, real: np.ndarray
) -> bool:
    """Whether the density stays up as the sites of the slots go further out together."""
    inside = np.zeros(len(far), dtype=bool)
    for slot in slots:
        inside[slot.offset : slot.end] = True
    here = _values(density, points)
    logarithmic = inside & far & ~real
    if logarithmic.any():
        gain = np.median(_values(density, np.where(logarithmic, points / 2, points)) - here)
        if not gain < LEVEL:
            return False
    for factor in FACTORS if (inside & far & real).any() else ():
        beyond = _values(density, np.where(inside & real, factor * points, points))
        least = SHARE * np.log(factor) * (inside & far & real).sum()
        if not np.median(here - beyond) < least:
            return False
    return True


def _values(density: LogDensity, points: np.ndarray) -> np.ndarray:
    moved = torch.as_tensor(points, dtype=density.dtype, device=density.device)
    return np.asarray(density.batch(moved).detach().cpu())


def _most_extreme(density: LogDensity, point: np.ndarray, slot: Slot) -> float:
    """The value, of those of a site, that is furthest from one in factors, at a point (D,)."""
    piece = torch.as_tensor(point[slot.offset : slot.end], dtype=density.dtype)
    value = slot.transform(piece.reshape(slot.unconstrained).to(density.device)).flatten()
    return float(value[value.abs().log().abs().nan_to_num(nan=torch.inf).argmax()])
