"""A mean field over the weights of a network: the ELBO of one window, and its gradient.

``q(w) = prod_i Normal(w_i | m_i, s_i^2)``,  ``ELBO = E_q[log p(data | w)] - KL(q || p)``

A window estimates the first part with weights of their own for each row, by the story's own
perturbed steps (flipout: Wen et al. 2018): with one draw for all rows their errors would add up
(Kingma, Salimans and Welling 2015, on why that matters; Fortunato, Blundell and Vinyals 2017,
arXiv:1704.02798, on recurrences). Of normal priors the divergence is known,

``KL = sum_i log(sigma_i / s_i) + (s_i^2 + (m_i - mu_i)^2) / (2 sigma_i^2) - 1/2``

Where priors are of another kind it is told by a pair of draws of opposite signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.window_gradient import Told, WindowDensity
from storyzoo.inference.engine.windows import Window, Windows
from storyzoo.story import Unrolled

NARROW = 0.03
"""Deviation of every weight at the start."""
TOLD_BY = 8
"""Draws by which the ELBO is told at the end."""
UNIT = 0.05
"""What steps are in units of: about the size of a weight at the start."""


class WeightGuide:
    """The ELBO over vectors (2 D,) of means and (in ``UNIT``) log deviations.

    Call under the target's context.
    """

    def __init__(
        self,
        target: Target,
        unrolled: Unrolled,
        first: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._joint = WindowDensity(target, unrolled, prior=True, jacobian=True)
        self._unrolled, self._first = unrolled, first
        self.dim = self._joint.dim

    def start(self, rng: np.random.Generator) -> Tensor:
        """Narrow around the first point, else around the story's own start."""
        mean = self._joint.start(rng) if self._first is None else self._joint.flat(self._first())
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
        """Minus the divergence of q from the prior."""
        noise = torch.Generator().manual_seed(0)
        return self._expected_prior(q, noise) + self.entropy(q)

    def _expected_prior(self, q: Tensor, generator: Generator | None) -> Tensor:
        """``E_q log p(w)``, a scalar."""
        mean, width = q[: self.dim], self._log_width(q).exp()
        known = self._joint.expected_prior(mean, width)
        if known is not None:
            return known
        noise = torch.randn(self.dim, generator=generator, device=mean.device)
        ends = [self._joint.log_prior(mean + sign * width * noise) for sign in (1, -1)]
        return 0.5 * (ends[0] + ends[1])

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
        assert generator is not None
        with torch.enable_grad():
            leaf = q.detach().requires_grad_()
            nats, after = self._unrolled.perturbed_nats(
                self._joint.views(leaf[: self.dim]),
                self._joint.views(self._log_width(leaf).exp()),
                window.inputs, window.targets, state, generator,
            )  # fmt: skip
            told = (nats * window.inside).sum()
            divergence = self._expected_prior(leaf, generator) + self.entropy(leaf)
            (gradient,) = torch.autograd.grad(share * (factor * told + divergence), leaf)
        return Told(gradient, tuple(part.detach() for part in after), told.detach())


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
