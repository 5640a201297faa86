"""A mean field over the weights of a network: the ELBO of one window, and its gradient.

``q(w) = prod_i Normal(w_i | m_i, s_i^2)``,  ``ELBO = E_q[log p(data | w) + log p(w)] + H(q)``

A window estimates it from draws ``w = m + s z``, one for each group of rows, in pairs with z of
opposite signs: rows of one group share a draw, which is what a fused recurrence allows, and several
groups keep the noise down (Kingma, Salimans and Welling 2015, on why that matters; Fortunato,
Blundell and Vinyals 2017, arXiv:1704.02798, on recurrences). With g the gradient of the log joint
in w, that in m is g and that in ``log s`` is ``g s z + 1``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.window_gradient import Told, WindowDensity
from storyzoo.inference.engine.windows import Window, Windows
from storyzoo.story import Unrolled

NARROW = 0.01
"""Deviation of every weight at the start."""
TOLD_BY = 8
"""Draws by which the ELBO is told at the end."""
UNIT = 0.05
"""What steps are in units of: about the size of a weight at the start."""


class WeightGuide:
    """The ELBO over vectors (2 D,) of means and (in ``UNIT``) log deviations.

    Call under the target's context.
    """

    def __init__(self, target: Target, unrolled: Unrolled, groups: int) -> None:
        self._joint = WindowDensity(target, unrolled, prior=True, jacobian=True)
        self._groups = groups
        self.dim = self._joint.dim

    def start(self, rng: np.random.Generator) -> Tensor:
        """The story's own start, narrow."""
        mean = self._joint.start(rng)
        return torch.cat([mean, torch.full_like(mean, UNIT * math.log(NARROW))])

    def _log_width(self, parameters: Tensor) -> Tensor:
        """``log s`` (D,), held in a unit in which it moves by a step while a weight does by one."""
        return parameters[self.dim :] / UNIT

    def views(self, q: Tensor) -> dict[str, Tensor]:
        """The sites at the means."""
        return self._joint.views(q[: self.dim])

    def sites(self, q: Tensor) -> dict[str, Tensor]:
        """The sites at one point (D,)."""
        return self._joint.views(q)

    def prior_at(self, q: Tensor) -> Tensor:
        """Log prior of one point (D,)."""
        return self._joint.log_prior(q)

    def log_prior(self, q: Tensor) -> Tensor:
        """Minus the divergence of q from the prior, the prior taken at one antithetic pair."""
        mean, width = q[: self.dim], self._log_width(q).exp()
        noise = torch.randn(self.dim, generator=torch.Generator().manual_seed(0)).to(mean)
        ends = [self._joint.log_prior(mean + sign * width * noise) for sign in (1, -1)]
        return 0.5 * (ends[0] + ends[1]) + self.entropy(q)

    def entropy(self, parameters: Tensor) -> Tensor:
        """``sum_i log s_i + (1 + log 2 pi) / 2``, nats."""
        return self._log_width(parameters).sum() + 0.5 * self.dim * (1 + math.log(2 * math.pi))

    def draw(self, parameters: Tensor, generator: Generator) -> Tensor:
        """One draw of q (D,)."""
        noise = torch.randn(self.dim, generator=generator, device=parameters.device)
        return parameters[: self.dim] + self._log_width(parameters).exp() * noise

    def __call__(
        self,
        q: Tensor,
        window: Window,
        state: tuple[Tensor, ...],
        factor: float,
        generator: Generator | None,
        share: float = 1.0,
    ) -> Told:
        """``share`` of the gradient (2 D,) of the ELBO, from a window that counts ``factor`` times.

        Nothing is dropped out: the draws are noise enough.
        """
        mean, width = q[: self.dim], self._log_width(q).exp()
        count = min(self._groups, len(window.inside))
        slope, by_width = torch.zeros_like(mean), torch.zeros_like(mean)
        nats, after = mean.new_zeros(()), []
        noise = torch.zeros_like(mean)
        for group, rows in enumerate(torch.arange(len(window.inside)).tensor_split(count)):
            if group % 2 == 0:
                noise = torch.randn(self.dim, generator=generator, device=mean.device)
            z = noise if group % 2 == 0 else -noise
            part = Window(*(piece[rows] for piece in window))
            held = tuple(piece[:, rows].contiguous() for piece in state)
            # The prior counts once over all groups, the steps of each by themselves.
            found = self._joint(
                mean + width * z, part, held, factor * count, None, share=share / count
            )
            slope += found.gradient
            by_width += found.gradient * z
            nats = nats + found.nats
            after.append(found.state)
        gradient = torch.cat([slope, (by_width * width + share) / UNIT])
        joined = tuple(torch.cat(parts, 1) for parts in zip(*after, strict=True))
        return Told(gradient, joined, nats)


class Fitted(NamedTuple):
    """Draws of q, and how good it is."""

    draws: dict[str, np.ndarray]
    """``(1, S, *shape)`` by site."""
    elbo: float
    """Nats."""
    se: float
    """Its Monte Carlo standard error, over the draws that tell it."""


def fitted(
    guide: WeightGuide, windows: Windows, parameters: Tensor, count: int, seed: int
) -> Fitted:
    """So many draws, and the ELBO by a few of them over all that was fitted."""
    generator = torch.Generator(device=parameters.device).manual_seed(seed)
    pieces: dict[str, list[np.ndarray]] = {}
    heights = []
    with torch.no_grad():
        for place in range(count):
            q = guide.draw(parameters, generator)
            latents = guide.sites(q)
            for name, value in latents.items():
                pieces.setdefault(name, []).append(value.cpu().numpy().copy())
            if place < TOLD_BY:
                likelihood = windows.steps * windows.scored(latents).mean()
                heights.append(likelihood + float(guide.prior_at(q)))
        entropy = float(guide.entropy(parameters))
    draws = {name: np.stack(values)[None] for name, values in pieces.items()}
    error = float(np.std(heights, ddof=1) / math.sqrt(len(heights))) if len(heights) > 1 else 0.0
    return Fitted(draws, float(np.mean(heights)) + entropy, error)
