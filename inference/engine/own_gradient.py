"""The gradient of a log density from some of the examples, by the story's own estimate.

``g(q) = d/dq log prior(q) + N / B (d theta / dq)^T d/d theta sum_{n in B} log p(x_n | theta)``

The sum is what :meth:`Story.stochastic_gradient` estimates where the normaliser of ``p(x_n |
theta)`` can only be sampled; priors and transforms are the engine's. What the story's chains
need in order to go on (:class:`Fantasies`) goes in and comes out, so that it can be stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import StoryError
from storyzoo.inference.engine.density import Slot
from storyzoo.inference.engine.factors import slice_examples
from storyzoo.inference.engine.prior import LogPrior
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.story import Fantasies, Story

HOOK = "stochastic_gradient"


class Estimate(NamedTuple):
    """One estimated gradient, and the chains after it."""

    gradient: Tensor
    """(D,), of the whole log density, nats."""
    fantasies: Fantasies


class OwnGradient:
    """Gradients at points of the flat vector, by the story's hook."""

    def __init__(self, target: Target, prior: LogPrior) -> None:
        self._target, self._prior = target, prior

    def __call__(self, q: Tensor, index: Tensor, fantasies: Fantasies) -> Estimate:
        """The estimate at ``q`` (D,) from the examples at ``index`` (B,).

        Call under the target's context. Raises StoryError where the hook's answer does not fit
        the story.
        """
        story = self._target.story
        rows = slice_examples(story, self._target.data, index)
        with torch.no_grad():
            latents = self._prior.unflatten(q.detach())
            found = story.stochastic_gradient(latents, rows, fantasies)
        if found is None:
            raise StoryError(f"{story.name}: its {HOOK} gives nothing")
        slopes, after = found
        _check(story, latents, slopes, HOOK)
        chained = to_coordinates(self._prior.slots, q, slopes)
        factor = self._target.n_examples / len(index)
        gradient = torch.add(self._prior.value_and_gradient(q)[1], chained, alpha=factor)
        return Estimate(gradient, after)

    def directed(self, q: Tensor, gradient: Tensor, fantasies: Fantasies) -> Tensor:
        """The direction (D,) that the story makes of a whole gradient (D,) at ``q`` (D,).

        Gradients are covectors: from q to the sites by the inverse transforms, and back.
        """
        story = self._target.story
        if not (fantasies.centred and story.has("direction")):
            return gradient
        slots = self._prior.slots
        with torch.no_grad():
            latents = self._prior.unflatten(q.detach())
            turned = story.direction(latents, to_sites(slots, q, gradient), fantasies)
        assert turned is not None
        _check(story, latents, turned, "direction")
        return to_coordinates(slots, q, turned)


def to_coordinates(slots: Sequence[Slot], q: Tensor, slopes: Mapping[str, Tensor]) -> Tensor:
    """The gradient (D,) at ``q`` (D,) of what has these gradients by site."""
    pieces = []
    for slot in slots:
        slope = slopes[slot.name]
        if not slot.is_identity:
            with torch.enable_grad():
                piece = slot.piece(q).detach().requires_grad_()
                (slope,) = torch.autograd.grad(slot.transform(piece), piece, slope)
        pieces.append(slope.reshape(-1))
    return torch.cat(pieces)


def to_sites(slots: Sequence[Slot], q: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """The gradients by site of what has this gradient (D,) at ``q`` (D,)."""
    slopes = {}
    for slot in slots:
        slope = slot.piece(gradient)
        if not slot.is_identity:
            with torch.enable_grad():
                value = slot.transform(slot.piece(q)).detach().requires_grad_()
                (slope,) = torch.autograd.grad(slot.transform.inv(value), value, slope)
        slopes[slot.name] = slope
    return slopes


def _check(
    story: Story, latents: Mapping[str, Tensor], slopes: Mapping[str, Tensor], hook: str
) -> None:
    """Raise StoryError where a site has no gradient, or one of another shape."""
    for name, value in latents.items():
        shape = tuple(slopes[name].shape) if name in slopes else None
        if shape != tuple(value.shape):
            told = "none" if shape is None else f"one of shape {shape}"
            raise StoryError(
                f"{story.name}: its {hook} must give '{name}' a gradient of shape "
                f"{tuple(value.shape)}; it gave {told}"
            )


def refuses_own_gradient(story: Story, structure: Structure) -> str | None:
    """Why a story's own gradient can't be followed, in one line; None where it can."""
    if not story.has(HOOK):
        return f"it has no gradient of its own (`{HOOK}`); use map, svi or nuts"
    if story.examples is None:
        return "it has no independent examples to take slices of"
    if structure.local:
        name = next(iter(structure.local))
        return f"'{name}' belongs to single examples, which its own gradient can't tell of"
    return None


def packed(fantasies: Fantasies) -> dict[str, np.ndarray]:
    """Where the chains stand and what the story remembers, as arrays by name."""
    arrays = {f"memory.{name}": value.cpu().numpy() for name, value in fantasies.memory.items()}
    if fantasies.values is not None:
        arrays["values"] = fantasies.values.cpu().numpy()
    return arrays


def unpacked(fantasies: Fantasies, arrays: Mapping[str, Any], device: str) -> Fantasies:
    """Fantasies of the same settings where :func:`packed` left them."""
    tensors = {name: torch.as_tensor(value, device=device) for name, value in arrays.items()}
    memory = {n.removeprefix("memory."): v for n, v in tensors.items() if n.startswith("memory.")}
    return replace(fantasies, values=tensors.get("values"), memory=memory)
