"""The log joint of a story and one window of its sequences, as a function of one flat vector.

``log prior(theta(q)) + K sum_{steps in the window} log p(step | past, theta(q))``

for a pass of K windows. The sites are views of the vector, split once, so that the gradient comes
back as one vector without a copy for each site.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from storyzoo.inference.engine.factors import run_model, slice_examples, trace_priors
from storyzoo.inference.engine.normal_priors import NormalPriors, normal_priors
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.windows import Window
from storyzoo.story import Latents, Story, Unrolled


class Told(NamedTuple):
    """What one window tells."""

    gradient: Tensor
    """(D,), of the estimate of the whole log joint, nats."""
    state: tuple[Tensor, ...]
    """What the network carries out of the window, without its gradient."""
    nats: Tensor
    """Scalar: log probability of the window's steps."""


class WindowDensity:
    """The log joint, and its gradient from one window. Call under the target's context."""

    def __init__(self, target: Target, unrolled: Unrolled, prior: bool, jacobian: bool = False):
        self._target, self._unrolled, self._prior = target, unrolled, prior
        self._density = target.density(jacobian=jacobian, prior=prior)
        self._sizes = [slot.unconstrained.numel() for slot in self._density.slots]
        # The model runs for its priors alone: one sequence is enough to tell their shapes.
        one = torch.zeros(1, dtype=torch.long)
        self._one = slice_examples(target.story, target.data, one)
        self.dim = self._density.dim
        self._normal = self._find_normal()

    def _find_normal(self) -> NormalPriors | None:
        """The priors in closed form, where they are plain normals."""
        leaf = torch.zeros(self.dim, device=self._target.device).requires_grad_()
        return normal_priors(self._traced(leaf).nodes, self._density.slots)

    def _traced(self, q: Tensor) -> Any:
        structure, story = self._target.structure, self._target.story
        return run_model(story, self._one, self.views(q), structure, enumerate_sites=False)

    def views(self, q: Tensor) -> dict[str, Tensor]:
        """The sites (…) at ``q`` (D,)."""
        pieces = q.split(self._sizes)
        return {
            slot.name: slot.transform(piece.view(slot.unconstrained))
            for slot, piece in zip(self._density.slots, pieces, strict=True)
        }

    def flat(self, latents: Latents) -> Tensor:
        """The vector (D,) of the sites' values."""
        return self._density.flatten(latents)

    def start(self, rng: np.random.Generator) -> Tensor:
        """The story's own start, else a draw of the prior."""
        initial = self._target.story.initial(self._target.data, rng)
        if initial is None:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            initial = self._density.draw(generator)
        return self._density.flatten(initial)

    def log_prior(self, q: Tensor) -> Tensor:
        """Log prior at ``q`` (D,), with the Jacobian where that counts; a scalar."""
        if self._normal is not None:
            return self._normal.log_prob(q)
        total, _ = trace_priors(self._traced(q), self._target.structure)
        return total + self._density.volume(q)

    def priors_by_site(self) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """Means and precisions of the priors by site; None where they are no plain normals."""
        if self._normal is None:
            return None
        like = torch.zeros(self.dim, device=self._target.device)
        loc, scale = (part.expand_as(like) for part in self._normal)
        return self.views(loc), self.views(scale**-2)

    def expected_prior(self, mean: Tensor, width: Tensor) -> Tensor | None:
        """Its mean over ``Normal(mean, width^2)`` of each coordinate; None where it is no sum."""
        return None if self._normal is None else self._normal.expected(mean, width)

    def __call__(
        self,
        q: Tensor,
        window: Window,
        state: tuple[Tensor, ...],
        factor: float,
        generator: Generator | None,
        share: float = 1.0,
    ) -> Told:
        """``share`` of the gradient at ``q`` (D,), from a window that counts ``factor`` times."""
        with torch.enable_grad():
            leaf = q.detach().requires_grad_()
            nats, after = self._unrolled.nats(
                self.views(leaf), window.inputs, window.targets, state, generator
            )
            told = (nats * window.inside).sum()
            (gradient,) = torch.autograd.grad(share * factor * told, leaf)
        if self._prior:
            gradient = self._with_prior(gradient, q, share)
        return Told(gradient, tuple(part.detach() for part in after), told.detach())

    def _with_prior(self, gradient: Tensor, q: Tensor, share: float) -> Tensor:
        if self._normal is not None:
            return self._normal.add_gradient(gradient, q, share)
        with torch.enable_grad():
            leaf = q.detach().requires_grad_()
            return gradient + share * torch.autograd.grad(self.log_prior(leaf), leaf)[0]


def refuses_windows(story: Story) -> str | None:
    """Why a story can't be told in windows; None where it can."""
    if story.has("unroll"):
        return None
    return "it unrolls no sequences (`unroll`), which is what Adam climbs; use quasi-newton"
