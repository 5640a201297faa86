"""Which coordinates of the flat vector are what they seem, and which are logarithms.

A positive site lies in the vector by its logarithm, a probability by its log odds: a unit there is
a factor, and twenty units are next to infinity. A real site lies there as it is, in whatever units
the data have, and so do the entries of a covariance's root below its diagonal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.distributions import constraints

from storyzoo.inference.engine.ascent import Array, Evaluate, Flags
from storyzoo.inference.engine.density import LogDensity, Slot
from storyzoo.inference.engine.transforms import to_support

PROBE = 30.0
EXACT_DIMS = 128
"""Dims up to which every coordinate's curvature is measured on its own."""
PROBES = 32
"""Random directions that tell the curvatures above that (Hutchinson 1990)."""
WIDEST = 10.0
"""Greatest width of a real coordinate, relative to its size."""


def real_coordinates(density: LogDensity) -> Flags:
    """(D,): whether a coordinate is in the units of its site."""
    parts = [_real(density, slot) for slot in density.slots]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


def slot_at(density: LogDensity, place: int) -> Slot:
    """The site that a coordinate belongs to."""
    return next(slot for slot in density.slots if slot.offset <= place < slot.end)


def limit_in_words(density: LogDensity, slot: Slot, below: bool) -> str:
    """What a logarithmic coordinate of a site runs to, downwards or upwards."""
    support = innermost(density.structure.sites[slot.name].support)
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        low = float(torch.as_tensor(support.lower_bound).min())
        return f"{low:g}" if below else "infinity"
    return "the edge of its support"


def innermost(support: Any) -> Any:
    """A support without the dims that were declared events."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def widths(evaluate: Evaluate, q: Array, real: Flags, precision: float) -> Array:
    """``1 / sqrt(-d2 log p / dq_i2)`` at ``q`` (D,), by central differences; one where undefined.

    A logarithmic coordinate is never taken to be wider than one. ``precision`` is that of the
    density; :func:`evaluations_of_widths` gradients are evaluated.
    """
    size = len(q)
    step = precision ** (1 / 3) * np.maximum(1.0, np.abs(q))
    exact = size <= EXACT_DIMS
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(PROBES, size))
    moves = np.eye(size) if exact else signs
    gradients = evaluate(np.concatenate([q + step * moves, q - step * moves]))[1]
    above, below = gradients[: len(moves)], gradients[len(moves) :]
    curvature = -((above - below) * moves).sum(0) / (2 * step * (1 if exact else len(moves)))
    known = np.isfinite(curvature) & (curvature > 0)
    width = 1 / np.sqrt(np.where(known, curvature, 1.0))
    widest = np.where(real, WIDEST * np.maximum(1.0, np.abs(q)), 1.0)
    return np.minimum(width, widest)


def evaluations_of_widths(size: int) -> int:
    """Gradient evaluations that :func:`widths` takes in so many dims."""
    return 2 * (size if size <= EXACT_DIMS else PROBES)


def _real(density: LogDensity, slot: Slot) -> Flags:
    """Told by moving each coordinate of one event by 30 and by 60: a real one doubles its effect.

    The square of a covariance's root quadruples; an exponential explodes, a sigmoid saturates.
    """
    if slot.unconstrained.numel() == 0:
        return np.zeros(0, dtype=bool)  # a simplex of one: nothing to move
    support = innermost(density.structure.sites[slot.name].support)
    event = slot.shape[len(slot.shape) - support.event_dim :]
    transform = to_support(support, event)
    inner = torch.Size(transform.inverse_shape(event))
    points = PROBE * torch.eye(inner.numel(), dtype=torch.float64)
    points = points.reshape((len(points), *inner)).to(density.device)
    rest = transform(torch.zeros_like(points))
    near, far = (_furthest(transform(size * points) - rest) for size in (1.0, 2.0))
    ratio = far / near.clamp(min=1e-300)
    pattern = ((ratio > 1.5) & (ratio < 5)).cpu().numpy()
    return np.tile(pattern, slot.unconstrained.numel() // len(pattern))


def _furthest(change: torch.Tensor) -> torch.Tensor:
    return change.abs().reshape(len(change), -1).amax(-1)
