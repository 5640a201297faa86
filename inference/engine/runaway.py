"""Tell an objective without a maximum from one whose maximum lies on a boundary.

A weight may go to zero at a perfectly good mode; a scale that goes to zero while the objective
keeps rising is no mode at all. Where a coordinate has gone far out, going half way back must not
cost anything, else the ascent was still gaining there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from storyzoo.inference.engine.density import LogDensity

FAR = 50.0
"""Unconstrained coordinate beyond which a constrained value is all but on its boundary."""
GAIN = 1.0
"""Nats from half way back beyond which the ascent counts as still rising."""


def runaway(density: LogDensity, q: Tensor) -> str | None:
    """The site along which the density rises without bound at ``q`` (D,), in words, or None.

    >>> runaway(density, density.flatten({"mu": 0.0, "tau": 1e-60}))
    "'tau' goes to 1e-60"
    """
    for slot in density.slots:
        piece = q[slot.offset : slot.end]
        if _is_free(density.structure.sites[slot.name].support) or not bool(
            (piece.abs() > FAR).any()
        ):
            continue
        back = q.clone()
        back[slot.offset : slot.end] = torch.where(piece.abs() > FAR, piece / 2, piece)
        if not float(density(q)) - float(density(back)) <= GAIN:
            value = slot.transform(piece.reshape(slot.unconstrained)).flatten()
            extreme = value[value.abs().log().abs().nan_to_num(nan=torch.inf).argmax()]
            return f"'{slot.name}' goes to {float(extreme):.3g}"
    return None


def _is_free(support: Any) -> bool:
    """Whether a support is all of the reals, so that far out means nothing."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
