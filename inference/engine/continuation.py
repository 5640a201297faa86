"""Sequences walked step by step: each observation is drawn, and read by the next.

All sequences of a call go side by side. What is drawn from can be sharpened: logits are divided by
``temperature``; then only the ``top_k`` likeliest symbols stay; then the fewest that hold
``nucleus`` of the probability (Holtzman et al. 2020, "The curious case of neural text
degeneration", ICLR). Sharpened sequences are no draws of the story.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent

from storyzoo.errors import RefusedError, SettingError
from storyzoo.story import Latents, Story


@dataclass(frozen=True)
class Sampling:
    """How to walk; by default as the story says."""

    temperature: float = 1.0
    top_k: int | None = None
    nucleus: float | None = None
    prefix: tuple[int, ...] = ()
    """Symbols that every sequence begins with."""
    most: int | None = None
    """Steps after which a sequence is cut; None for as many as the longest of the data has."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingError(f"temperature={self.temperature} is impossible; it must be above 0")
        if self.top_k is not None and self.top_k < 1:
            raise SettingError(f"top_k={self.top_k} is impossible; it must be at least 1")
        if self.nucleus is not None and not 0 < self.nucleus <= 1:
            raise SettingError(
                f"nucleus={self.nucleus} is impossible; it must be above 0 and at most 1"
            )
        if self.most is not None and self.most < 1:
            raise SettingError(f"most={self.most} is impossible; it must be at least 1")

    @property
    def plain(self) -> bool:
        """Whether what comes out are draws of the story."""
        return self.temperature == 1 and self.top_k is None and self.nucleus in (None, 1)


AS_TOLD = Sampling()
"""Sequences as the story tells them."""


class Walked(NamedTuple):
    """Sequences end to end."""

    values: Tensor
    """(E, …)."""
    length: Tensor
    """(N,): steps of each, END not counted."""
    cut: int
    """Sequences that did not end by themselves but were cut."""


def walk(
    story: Story, latents: Latents, length: Tensor, end: int | None, sampling: Sampling
) -> Walked:
    """As many sequences as there are lengths (N,), by torch's global randomness.

    ``length`` says how long each is or, where a sequence ends by the symbol ``end``, after how
    many steps it is cut. Raises SettingError where the prefix is no beginning of a sequence.
    """
    state: Any = None
    most = int(length.max()) if len(length) else 0
    _check_prefix(sampling.prefix, story, latents, most)
    step = story.stepper(latents)
    alive = torch.ones(len(length), dtype=torch.bool, device=length.device)
    steps, observations = torch.zeros_like(length), []
    for place in range(most):
        answer = step(state)
        assert answer is not None
        distribution, inner = answer
        if place < len(sampling.prefix):
            observation = torch.tensor(sampling.prefix[place], device=length.device)
            seen = observation.expand(len(length))
        else:
            if distribution.batch_shape != length.shape:
                distribution = distribution.expand(length.shape)
            observation = seen = sharpened(distribution, sampling).sample()
        if end is not None:
            alive = alive & (seen != end)
        alive = alive & (place < length)
        steps = steps + alive
        observations.append(seen)
        if not alive.any():
            break
        state = (inner, observation)
    if not observations:
        return Walked(torch.zeros(0, dtype=torch.long), steps, 0)
    table = torch.stack(observations, 1)
    inside = torch.arange(table.shape[1], device=length.device) < steps[:, None]
    return Walked(table[inside], steps, int(alive.sum()) if end is not None else 0)


def _check_prefix(prefix: tuple[int, ...], story: Story, latents: Latents, most: int) -> None:
    if not prefix:
        return
    answer = story.step(latents, None)
    assert answer is not None
    first, _ = answer
    if not isinstance(first, Categorical):
        raise SettingError(f"prefix: {story.name} has no single symbols to begin with")
    symbols = int(first.probs.shape[-1])
    wrong = [symbol for symbol in prefix if not 0 <= symbol < symbols]
    if wrong:
        raise SettingError(f"prefix: {wrong[0]} is no symbol; they go from 0 to {symbols - 1}")
    if len(prefix) >= most:
        raise SettingError(
            f"prefix: has {len(prefix)} symbols, but sequences are cut after {most}; allow more"
        )


def sharpened(distribution: Distribution, sampling: Sampling) -> Distribution:
    """The distribution that is drawn from.

    Raises RefusedError where symbols can't be ranked.
    """
    if sampling.plain:
        return distribution
    if isinstance(distribution, Categorical):
        logits = distribution.logits / sampling.temperature
        return Categorical(logits=_kept(logits.log_softmax(-1), sampling))
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if not isinstance(base, Bernoulli) or sampling.top_k or sampling.nucleus:
        raise RefusedError("top_k and nucleus are for symbols, temperature for discrete steps")
    softened = Bernoulli(logits=base.logits / sampling.temperature)
    rank = len(distribution.event_shape)
    return Independent(softened, rank) if rank else softened


def _kept(log_prob: Tensor, sampling: Sampling) -> Tensor:
    """Log probabilities (…, V) with minus infinity at what is never drawn."""
    if sampling.top_k is not None and sampling.top_k < log_prob.shape[-1]:
        least = log_prob.topk(sampling.top_k, -1).values[..., -1:]
        log_prob = torch.where(log_prob >= least, log_prob, -torch.inf).log_softmax(-1)
    if sampling.nucleus is not None:
        ordered, order = log_prob.sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        left_out = (before >= sampling.nucleus).gather(-1, order.argsort(-1))
        log_prob = torch.where(left_out, -torch.inf, log_prob)
    return log_prob


def longest(length: np.ndarray | Tensor) -> int:
    """Steps of the longest sequence, END not counted; at least one."""
    return max(1, int(torch.as_tensor(length).max()))
