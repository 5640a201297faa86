"""Gaps in sequences filled by what stands before and after, with particles.

Particles walk a sequence step by step. Where a symbol is seen each is weighted by how well it
foretold it; in a gap each draws one from the story, given its own past. Where the weights have
become uneven particles are drawn anew by weight (Gordon, Salmond and Smith 1993). One of those at
the end is a draw of the gaps given all that is seen, exact with many particles. Weights of what was
seen long after a gap rest on few of its fillings: the more steps follow, the more particles it
takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storyzoo.inference.engine.target import Target
from storyzoo.story import Latents, Story

PARTICLES = 200
UNEVEN = 0.5
"""Effective particles, as a share of all, below which they are drawn anew."""


def has_gaps(story: Story) -> bool:
    """Whether a story walks sequences of symbols in which gaps can stand."""
    return story.gap_symbol is not None and story.has("step") and bool(story.ragged)


def fill(
    target: Target,
    latents: Latents,
    rng: np.random.Generator,
    particles: int = PARTICLES,
    never: Sequence[int] = (),
) -> dict[str, Any]:
    """The data with a draw of every gap; ``never`` are symbols that stand in none."""
    story, data = target.story, target.data
    dim, name = next(iter(story.ragged.items()))
    outcome = next(o for o in target.structure.outcomes if story.data_dims[o][0] == dim)
    end = story.ends(data)
    with target.context(), torch.no_grad():
        torch.manual_seed(int(rng.integers(2**31)))
        pieces = list(data[outcome].split(data[name].tolist()))
        for place, piece in enumerate(pieces):
            if bool((piece == story.gap_symbol).any()):
                pieces[place] = _filled(story, latents, piece, end, particles, never)
    return {**data, outcome: torch.cat(pieces)}


def _filled(
    story: Story,
    latents: Latents,
    piece: Tensor,
    end: int | None,
    particles: int,
    never: Sequence[int],
) -> Tensor:
    """One sequence (T,) with its gaps filled."""
    path = piece.expand(particles, -1).clone()
    weight = torch.zeros(particles, dtype=torch.float64)
    state: Any = None
    step = story.stepper(latents)
    closing = [] if end is None else [torch.tensor(end)]
    out = [*never, *([] if end is None else [end])]
    first = piece.tolist().index(story.gap_symbol)
    for place, symbol in enumerate([*piece, *closing]):
        answer = step(state)
        assert answer is not None
        told, inner = answer
        if place < first:  # all particles are alike, and one walks for them
            state = (inner, symbol)
            continue
        if told.batch_shape != weight.shape:
            told = told.expand(weight.shape)
        if place < len(piece) and symbol == story.gap_symbol:
            drawn, possible = _draw_without(told, out)
            path[:, place] = drawn
            weight = weight + possible
        else:
            drawn = symbol.expand(particles)
            weight = weight + told.log_prob(drawn).double()
        if _uneven(weight):
            chosen = torch.multinomial(_shares(weight), particles, replacement=True)
            path, drawn, inner = path[chosen], drawn[chosen], _moved(inner, chosen)
            weight = torch.zeros_like(weight)
        state = (inner, drawn)
    return path[int(torch.multinomial(_shares(weight), 1))]


def _draw_without(told: Any, out: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Symbols that can stand in a gap, since a sequence goes on there, and log P of those."""
    if not out:
        return told.sample(), torch.zeros(told.batch_shape, dtype=torch.float64)
    logits = told.logits.clone()
    logits[..., list(out)] = -torch.inf
    possible = (logits.logsumexp(-1) - told.logits.logsumexp(-1)).double()
    return torch.distributions.Categorical(logits=logits).sample(), possible


def _moved(state: Any, chosen: Tensor) -> Any:
    """A state with other sequences in it: they lie along its tensors' last dim but one."""
    if isinstance(state, tuple | list):
        return type(state)(_moved(part, chosen) for part in state)
    if not isinstance(state, Tensor) or not state.dim():
        return state
    dim = max(0, state.dim() - 2)
    return state.index_select(dim, chosen) if state.shape[dim] == len(chosen) else state


def _shares(weight: Tensor) -> Tensor:
    return (weight - weight.max()).exp()


def _uneven(weight: Tensor) -> bool:
    share = _shares(weight)
    effective = float(share.sum() ** 2 / share.square().sum())
    return effective < UNEVEN * len(weight)
