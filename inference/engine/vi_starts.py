"""Where variational inference starts, and in what units it steps.

Candidates are the story's own starts, else prior draws, taken uphill, a few steps and more. Each
gets the width ``1 / sqrt(-d2 log p / dq_i2)`` of every coordinate, and they are ranked by
``log p(q) + sum_i log width_i``, the evidence that a normal there would have but for constants:
by height alone the narrow neck of a funnel would win.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.inference.engine.ascent import Array, Ascents, Evaluate
from storyzoo.inference.engine.coordinates import real_coordinates, widths
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.target import Target

CANDIDATES = 2
"""Points looked at for each start."""
UPHILL = (10, 100)
"""Steps of ascent from each; the better of the two places counts."""


class Starts(NamedTuple):
    """Where a guide begins."""

    centre: Tensor
    """(S, D)."""
    unit: Tensor
    """(S, D): width of each coordinate."""
    words: str


def find_starts(
    target: Target,
    density: LogDensity,
    evaluate: Evaluate,
    count: int,
    seed: np.random.SeedSequence,
) -> Starts:
    """The best of ``2 count`` candidates; ``evaluate`` may see a part of the data only."""
    real = real_coordinates(density)
    precision = torch.finfo(density.dtype).eps
    points = [_candidate(target, density, child) for child in seed.spawn(CANDIDATES * count)]
    climb = Ascents(evaluate, max_steps=max(UPHILL), tolerance=1e-3, precision=precision)
    climb.start(np.stack(points))
    centre, units = climb.state.q, np.ones_like(climb.state.q)
    scores = np.full(len(points), -np.inf)
    for steps in UPHILL:
        while climb.climbing.any() and climb.state.steps.max() < steps:
            climb.step()
        found = np.stack([widths(evaluate, q, real, precision) for q in climb.state.q])
        evidence = climb.state.value + np.log(found).sum(-1)
        better = evidence > scores
        centre = np.where(better[:, None], climb.state.q, centre)
        units = np.where(better[:, None], found, units)
        scores = np.where(better, evidence, scores)
    best = np.argsort(-scores, kind="stable")[:count]
    kind = "the story's own starts" if target.story.has("initial") else "prior draws"
    return Starts(
        torch.as_tensor(centre[best], dtype=density.dtype, device=density.device),
        torch.as_tensor(units[best], dtype=density.dtype, device=density.device),
        f"the best {count} of {len(points)} of {kind}, some steps uphill from each",
    )


def _candidate(target: Target, density: LogDensity, seed: np.random.SeedSequence) -> Array:
    rng = np.random.default_rng(seed)
    with target.context():
        initial = target.story.initial(target.data, rng)
    q = density.start(rng) if initial is None else density.flatten(initial)
    return q.detach().cpu().numpy().astype(np.float64)
