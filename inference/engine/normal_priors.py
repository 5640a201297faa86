"""Priors that are all independent normals with known scales, as the weights of networks have.

``log p(q) = sum_i -(q_i - m_i)^2 / (2 s_i^2) - log s_i - log(2 pi) / 2``, whose gradient is
``(m - q) / s^2``.

A network has a million of them: running its model for their gradient would take a tenth of the time
of a step, where this takes one pass over the vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from storyzoo.inference.engine.density import Slot


class NormalPriors(NamedTuple):
    """Locations and scales of all coordinates, each a number where they are all alike."""

    loc: Tensor
    """(D,) or ()."""
    scale: Tensor
    """(D,) or ()."""

    def log_prob(self, q: Tensor) -> Tensor:
        """At ``q`` (D,), a scalar."""
        loc, scale = self.loc.expand_as(q), self.scale.expand_as(q)
        squares = ((q - loc) / scale).square().sum()
        return -0.5 * squares - scale.log().sum() - 0.5 * len(q) * math.log(2 * math.pi)

    def expected(self, mean: Tensor, width: Tensor) -> Tensor:
        """``E log p`` under ``Normal(mean, width^2)`` of each coordinate (D,), a scalar."""
        spread = (width / self.scale).square().sum()
        return self.log_prob(mean) - 0.5 * spread

    def add_gradient(self, slope: Tensor, q: Tensor, share: float) -> Tensor:
        """``slope`` (D,) with so much of the gradient at ``q`` added, in its own place."""
        if self.scale.dim() == 0 and not self.loc.any():
            return slope.add_(q, alpha=-share / float(self.scale) ** 2)
        return slope.add_((self.loc - q) / self.scale**2, alpha=share)


def normal_priors(nodes: Mapping[str, Any], slots: list[Slot]) -> NormalPriors | None:
    """Those of a trace whose latents hang on a graph; None where a site is of another kind.

    A scale that hangs on the graph too is itself unknown, and then the prior is no fixed normal.
    """
    locs, scales = [], []
    for slot in slots:
        fn = nodes[slot.name]["fn"]
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        plain = isinstance(fn, torch.distributions.Normal)
        if not plain or slot.shape != slot.unconstrained or fn.loc.requires_grad:
            return None
        if fn.scale.requires_grad or nodes[slot.name]["scale"] != 1:
            return None
        size = slot.unconstrained.numel()
        locs.append(fn.loc.expand(slot.shape).reshape(size))
        scales.append(fn.scale.expand(slot.shape).reshape(size))
    if not slots:
        return None
    return NormalPriors(_short(torch.cat(locs)), _short(torch.cat(scales)))


def _short(values: Tensor) -> Tensor:
    """A number where all values are one."""
    return values[0].clone() if bool((values == values[0]).all()) else values
