"""What a story foretells of the next step of sequences, over draws of its latents.

::

    p(x_t | x_<t) = sum_s w_s p(x_t | x_<t, theta_s)      w_s in proportion to p(x_<t | theta_s)

which multiplies up to ``mean_s p(x | theta_s)``, the probability that a sequence is scored by. A
step is one symbol, or several symbols side by side (the keys of a piano), told one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Bernoulli, Categorical, Distribution, Independent

from storyzoo.errors import RefusedError, StoryzooError
from storyzoo.inference.engine.groups import each_draw
from storyzoo.inference.engine.structure import defaults
from storyzoo.story import Story

SIDE_BY_SIDE = 64
"""Sequences that are read at once."""

Array = NDArray[np.float64]
Symbols = NDArray[np.int64]


class Mixture:
    """What draws of the latents foretell together of the next step of sequences side by side."""

    def __init__(
        self, story: Story, latents: Sequence[Mapping[str, torch.Tensor]], lanes: int
    ) -> None:
        self._story, self._lanes = story, lanes
        self._steppers = [story.stepper(one) for one in latents]
        self._states: list[Any] = [None] * len(latents)
        self._inner: list[Any] = []
        self._weights = np.full((len(latents), lanes), 1.0 / len(latents))
        self._tables: Array = np.zeros((0, 0, 0, 0))
        self.binary = False
        """Whether symbols are there or not, as keys are; known after the first step."""

    def foretell(self) -> int:
        """Ask for the next step; returns of how many symbols it is made."""
        tables, self._inner = [], []
        for step, state in zip(self._steppers, self._states, strict=True):
            answer = step(state)
            assert answer is not None
            distribution, inner = answer
            tables.append(self._table(distribution))
            self._inner.append(inner)
        self._tables = np.stack(tables)
        return int(self._tables.shape[2])

    def _table(self, distribution: Distribution) -> Array:
        """Probabilities (lane, place, symbol): of a category one place, of many bits as many."""
        base = distribution.base_dist if isinstance(distribution, Independent) else distribution
        if isinstance(base, Bernoulli):
            ones = base.logits.double().sigmoid()
            found = torch.stack([1 - ones, ones], -1)
            self.binary = True
        elif isinstance(distribution, Categorical):
            found = distribution.logits.double().softmax(-1)[..., None, :]
        else:
            raise RefusedError(
                f"{self._story.name} can't be told by symbols: its step is no choice among symbols"
            )
        if not bool(found.isfinite().all()):
            raise StoryzooError("the fit foretells no probabilities (not finite): fit again")
        return found.expand(self._lanes, *found.shape[-2:]).numpy()

    def shares(self, place: int) -> Array:
        """(lane, symbol): how probable each symbol is in a place, those before it known."""
        told: Array = (self._weights[..., None] * self._tables[:, :, place]).sum(0)
        return told

    def weigh(self, place: int, symbols: Symbols) -> None:
        """Each draw counts as far as it foretold what stands there."""
        told = self._tables[:, np.arange(self._lanes), place, symbols]
        weights = self._weights * np.maximum(told, np.finfo(float).tiny)
        self._weights = weights / weights.sum(0)

    def observe(self, symbols: Symbols) -> None:
        """Go on to the step after symbols (lane, place)."""
        seen = torch.from_numpy(symbols if self.binary else symbols[:, 0])
        if self.binary:
            seen = seen.to(torch.get_default_dtype())
        if self._lanes == 1:
            seen = seen[0]
        self._states = [(inner, seen) for inner in self._inner]


@contextmanager
def one_way(story: Story) -> Iterator[None]:
    """Sums in one order only: one thread, on the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with defaults(getattr(torch, story.dtype), "cpu"), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def as_steps(values: np.ndarray) -> Symbols:
    """Symbols (T,) or (T, K) as (T, K), K being one where nothing says otherwise."""
    found: Symbols = values.astype(np.int64).reshape(len(values), -1 if values.size else 1)
    return found


class Foretold(NamedTuple):
    """How sequences were foretold, step by step."""

    bits: list[Array]
    """Of each sequence (T,): ``-log2`` of the probability of each step, END's last."""
    number: Symbols
    """(bin,): how often a symbol was given a probability in the bin, symbols that came and not."""
    expected: Array
    """(bin,): the sum of those probabilities."""
    came: Symbols
    """(bin,): how many of those symbols came."""


def foretold(
    story: Story,
    draws: Mapping[str, np.ndarray],
    sequences: Sequence[np.ndarray],
    end: int | None,
    edges: Array,
) -> Foretold:
    """Whole sequences (T,) or (T, K), read by draws ``(S, *shape)``; bins of probability by edges.

    Of a symbol that is there or not (a key), only its being there counts in the bins.
    """
    latents = [{name: v.cpu() for name, v in one.items()} for one in each_draw(draws)]
    known = [as_steps(np.asarray(sequence)) for sequence in sequences]
    if end is not None:
        known = [np.append(sequence, [[end]], axis=0) for sequence in known]
    tally = np.zeros((3, len(edges) - 1))
    bits: list[Array] = []
    lanes = SIDE_BY_SIDE if story.ragged else 1
    with one_way(story):
        for first in range(0, len(known), lanes):
            bits += _read(story, latents, known[first : first + lanes], edges, tally)
    return Foretold(bits, tally[0].astype(int), tally[1], tally[2].astype(int))


def _read(
    story: Story,
    latents: Sequence[Mapping[str, torch.Tensor]],
    known: Sequence[Symbols],
    edges: Array,
    tally: Array,
) -> list[Array]:
    """Bits of sequences side by side; what is foretold goes into the tally (3, bin)."""
    mixture = Mixture(story, latents, len(known))
    length = np.array([len(sequence) for sequence in known])
    bits = [np.zeros(size) for size in length]
    for step in range(length.max(initial=0)):
        some = np.flatnonzero(length > step)
        observed = np.zeros((len(known), mixture.foretell()), np.int64)
        observed[some] = [known[int(lane)][step] for lane in some]
        for place in range(observed.shape[1]):
            shares = mixture.shares(place)
            told = shares[some, observed[some, place]]
            for lane, share in zip(some, told, strict=True):
                bits[lane][step] -= np.log2(max(share, np.finfo(float).tiny))
            _count(shares[some], observed[some, place], mixture.binary, edges, tally)
            mixture.weigh(place, observed[:, place])
        over = length <= step + 1
        mixture.observe(np.where(over[:, None], 0, observed))
    return bits


def _count(shares: Array, symbols: Symbols, binary: bool, edges: Array, tally: Array) -> None:
    came = np.arange(shares.shape[1]) == symbols[:, None]
    if binary:
        shares, came = shares[:, 1:], came[:, 1:]
    place = np.clip(np.searchsorted(edges, shares.ravel(), side="right") - 1, 0, len(edges) - 2)
    size = tally.shape[1]
    tally[0] += np.bincount(place, minlength=size)
    tally[1] += np.bincount(place, shares.ravel(), minlength=size)
    tally[2] += np.bincount(place, came.ravel(), minlength=size)
