"""Log probability of whole documents given the topics, by particles that read from left to right.

The words of a document in some order; its mixture integrated out; z their topics::

    p(w_n, z_n = k | z_<n) = phi_k,w_n (n_k + alpha_k) / (n - 1 + sum_j alpha_j)

with n_k the words before the n-th that are of topic k. A particle holds z_<n; the mean over
particles of ``sum_k p(w_n, z_n = k | z_<n)`` estimates ``p(w_n | w_<n)``, z_n is drawn, and earlier
topics are drawn anew from time to time. So far Algorithm 3 of Wallach et al., whose particles know
of w_n only by those later draws, so that more of them do not make it exact. Here particles keep
their weights and are resampled by them before earlier topics are drawn anew: a particle filter
(resample-move), whose estimate of ``p(w_d)`` is unbiased whatever the number of particles, so that
its logarithm is low by about half its squared error. Earlier topics are drawn anew when a quarter
more words have been read, not after each, so that work grows with the words and not their square.

Several filters run apart: with ``Z_f`` what each finds, ``log mean_f Z_f`` in nats, with standard
error ``sd_f(Z) / (mean_f Z sqrt F)`` by the delta method.

Sources: Wallach, Murray, Salakhutdinov and Mimno (2009), "Evaluation methods for topic models",
ICML, §4.5; Buntine (2009), ACML, on its bias; Gilks and Berzuini (2001), JRSS B 63, resample-move.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storyzoo.story import LeftToRight

FILTERS, PARTICLES = 5, 4
"""Filters per document, and particles in each."""
MOST_WORDS = 50_000
"""Words of all documents that are read; documents beyond are left out, by chance."""
_GROWTH = 1.25
"""Words read, from one drawing anew of earlier topics to the next."""
_AT_ONCE = 2**18
"""Documents times particles times topics that are held at a time."""


def left_to_right(
    topics: Tensor,
    alpha: Tensor,
    data: Mapping[str, Any],
    rng: np.random.Generator,
    filters: int = FILTERS,
    particles: int = PARTICLES,
    most_words: int = MOST_WORDS,
) -> LeftToRight:
    """Log probability of documents under topics (K, V) and the concentration alpha (K,).

    The order of the words and the documents that are read are drawn by ``rng``; others have size 0.
    """
    sizes, words = _in_random_order(data, rng)
    starts = sizes.cumsum(0) - sizes
    order = torch.as_tensor(rng.permutation(len(sizes)), device=sizes.device)
    chosen = order[: max(1, int((sizes[order].cumsum(0) <= most_words).sum()))]
    chosen = chosen[torch.argsort(sizes[chosen], descending=True)]
    generator = torch.Generator(device=topics.device).manual_seed(int(rng.integers(2**62)))
    phi = topics.mT.contiguous()
    nats, se = (torch.zeros(len(sizes), dtype=torch.float64) for _ in range(2))
    step = max(1, _AT_ONCE // (filters * particles * len(topics)))
    for own in chosen.split(step):
        reach = torch.arange(int(sizes[own[0]]), device=own.device)
        places = (starts[own].unsqueeze(1) + reach).clamp(max=len(words) - 1)
        found = _Filters(phi, alpha, words[places], sizes[own], filters, particles, generator)
        evidence = found.read().cpu()
        mean = evidence.logsumexp(1) - math.log(filters)
        relative = (evidence - mean.unsqueeze(1)).exp()
        nats[own.cpu()] = mean
        se[own.cpu()] = relative.std(1) / math.sqrt(filters)
    size = torch.zeros_like(sizes).index_copy(0, chosen, sizes[chosen])
    return LeftToRight(nats.to(topics.device), se.to(topics.device), size)


def _in_random_order(data: Mapping[str, Any], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Words of each document (D,), and all words (N,), documents in order, each one shuffled."""
    length, count = data["length"], data["count"]
    owner = torch.arange(len(length), device=count.device).repeat_interleave(length)
    document, word = owner.repeat_interleave(count), data["word"].repeat_interleave(count)
    key = torch.as_tensor(rng.random(len(word)), device=count.device)
    return torch.bincount(document, minlength=len(length)), word[torch.argsort(document + key)]


def _pauses(size: int) -> Iterator[int]:
    """After how many words earlier topics are drawn anew: 1, 2, 3, …, each a quarter on."""
    n = 1
    while n < size:
        yield n
        n = max(n + 1, int(n * _GROWTH))


class _Filters:
    """All particles of some documents, the longest first.

    Shapes: document D, filter F, particle R, place N, topic K.
    """

    def __init__(
        self,
        phi: Tensor,
        alpha: Tensor,
        words: Tensor,
        sizes: Tensor,
        filters: int,
        particles: int,
        generator: torch.Generator,
    ) -> None:
        self.phi, self.alpha, self.words, self.generator = phi, alpha, words, generator
        self.longer = [int((sizes > n).sum()) for n in range(words.shape[1] + 1)]
        shape = (len(words), filters, particles)
        self.z = words.new_zeros(words.shape[1], *shape)
        self.counts = alpha.expand(*shape, len(alpha)).clone()
        self.weight = phi.new_zeros(shape, dtype=torch.float64)
        self.evidence = phi.new_zeros(shape[:2], dtype=torch.float64)

    def read(self) -> Tensor:
        """(D, F): log evidence of each document by each filter, nats."""
        pauses = set(_pauses(self.words.shape[1]))
        for n in range(self.words.shape[1]):
            if n in pauses:
                self._resample(n)
                for earlier in range(n):
                    self._draw(earlier, self.longer[n], anew=True)
            total = self._draw(n, self.longer[n], anew=False)
            total = total.double().clamp(min=torch.finfo(total.dtype).tiny)
            gained = total.log() - torch.log(n + self.alpha.double().sum())
            self.weight[: self.longer[n]] += gained
        return self.evidence + _log_mean(self.weight)

    def _draw(self, n: int, documents: int, anew: bool) -> Tensor:
        """Draw z_n in the first documents given all others; the sum of its weights (D, F, R)."""
        counts, z = self.counts[:documents], self.z[n, :documents].unsqueeze(-1)
        if anew:
            counts.scatter_add_(-1, z, counts.new_tensor(-1.0).expand(z.shape))
        own = self.phi.index_select(0, self.words[:documents, n])
        sums = (counts * own[:, None, None]).cumsum(-1)
        total = sums[..., -1:]
        u = torch.rand(total.shape, generator=self.generator, dtype=total.dtype, device=z.device)
        new = (sums <= u * total).sum(-1, keepdim=True).clamp(max=len(self.alpha) - 1)
        counts.scatter_add_(-1, new, counts.new_tensor(1.0).expand(new.shape))
        self.z[n, :documents] = new.squeeze(-1)
        return total.squeeze(-1)

    def _resample(self, n: int) -> None:
        """Particles in proportion to their weights (systematic), of documents with words left."""
        documents = self.longer[n]
        weight = self.weight[:documents]
        self.evidence[:documents] += _log_mean(weight)
        share = weight.softmax(-1).cumsum(-1)
        particles = share.shape[-1]
        first = torch.rand(
            (*share.shape[:2], 1), generator=self.generator, dtype=share.dtype, device=share.device
        )
        marks = (first + torch.arange(particles, device=share.device)) / particles
        parent = torch.searchsorted(share, marks).clamp(max=particles - 1)
        self.counts[:documents] = self.counts[:documents].take_along_dim(parent.unsqueeze(-1), 2)
        self.z[:n, :documents] = self.z[:n, :documents].take_along_dim(parent.unsqueeze(0), 3)
        weight.zero_()


def _log_mean(weight: Tensor) -> Tensor:
    """``log mean exp`` over the last dim."""
    mean: Tensor = weight.logsumexp(-1) - math.log(weight.shape[-1])
    return mean
