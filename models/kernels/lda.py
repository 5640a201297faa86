"""The passes over a corpus that latent Dirichlet allocation needs, a block of documents at a time.

Entry e of document d stands for ``count_e`` words v. With mixtures theta (D, K) and topics phi
(K, V) the weight of topic k is

    r_ek = theta_dk phi_kv / sum_j theta_dj phi_jv

and all that a step needs are ``sum_e count_e r_ek`` by document (D, K) and by word (V, K). Work
and memory go with the number of entries times K; blocks fit the cache, and topics are kept with
their words first, so that what an entry reads is contiguous. Arguments are called as in the model:
see :mod:`storyzoo.corpus` for ``length``, ``word`` and ``count``.

Source: Blei, Ng and Jordan (2003), JMLR 3; Asuncion, Welling, Smyth and Teh (2009), "On smoothing
and inference for topic models", UAI, which shows how alike the steps of all methods are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_BLOCK_ELEMENTS = 2**17
"""Entries times topics per block: its few arrays stay in a core's second-level cache."""
_FEWEST_ENTRIES = 512
_FOLDS, _FOLDED = 200, 1e-5
"""Most rounds of a fold-in, and the share of the words that may still move."""
_SHARPNESS = 10.0
"""Power of the uniform weights of a start: each word is nearly of one topic, which no symmetry
holds back; from even weights a third of all sweeps go by before the topics part."""


@dataclass(frozen=True)
class Block:
    """Some whole documents of a corpus, and their entries."""

    documents: slice
    entries: slice
    length: Tensor
    word: Tensor
    count: Tensor
    """(E,), in the dtype of the topics."""
    document: Tensor
    """(E,): numbered within the block."""

    def by_document(self, values: Tensor) -> Tensor:
        """Sums over the entries (E, K) of each document: (D, K)."""
        start = self.length.cumsum(0) - self.length
        places = torch.arange(len(values), device=values.device)
        return embedding_bag(places, values, start, mode="sum")


def blocks(data: Mapping[str, Any], k: int, dtype: torch.dtype) -> Iterator[Block]:
    """The corpus in pieces of about a cache's size for K topics."""
    length, word, count = data["length"], data["word"], data["count"]
    ends = length.cumsum(0)
    size = max(_FEWEST_ENTRIES, _BLOCK_ELEMENTS // k)
    total = int(ends[-1])
    marks = torch.arange(size, total + size, size, device=ends.device)
    bounds = torch.searchsorted(ends, marks).add(1).clamp(max=len(length))
    first = start = 0
    for last in torch.unique(bounds).tolist():
        end = int(ends[last - 1])
        own = length[first:last]
        yield Block(
            documents=slice(first, last),
            entries=slice(start, end),
            length=own,
            word=word[start:end],
            count=count[start:end].to(dtype),
            document=torch.arange(last - first, device=own.device).repeat_interleave(own),
        )
        first, start = last, end


class Counts(NamedTuple):
    """Expected numbers of words of each topic."""

    by_word: Tensor
    """(V, K)."""
    by_document: Tensor
    """(D, K)."""


def expect(
    mixture: Tensor, topics: Tensor, data: Mapping[str, Any], hard: bool
) -> tuple[Tensor, Counts]:
    """Log likelihood (nats) and expected counts at mixtures (D, K) and topics (K, V).

    With ``hard`` each entry's words are all of their best topic, and the likelihood is the joint
    with it.
    """
    k, n_words = topics.shape
    phi = topics.mT.contiguous()
    by_word, by_document = topics.new_zeros(n_words, k), torch.zeros_like(mixture)
    total = topics.new_zeros((), dtype=torch.float64)
    for block in blocks(data, k, topics.dtype):
        share = mixture[block.documents].index_select(0, block.document)
        share *= phi.index_select(0, block.word)
        peak = _best_only(share) if hard else share.sum(1)
        peak.clamp_(min=torch.finfo(peak.dtype).tiny)
        total += (block.count * peak.log()).sum(dtype=torch.float64)
        share *= (block.count / peak).unsqueeze(-1)
        by_word.index_add_(0, block.word, share)
        by_document[block.documents] = block.by_document(share)
    return total, Counts(by_word, by_document)


def _best_only(share: Tensor) -> Tensor:
    """Leaves the largest share (E, K) of each entry alone, in place; those shares (E,)."""
    peak, best = share.max(1)
    share.zero_().scatter_(1, best.unsqueeze(-1), peak.unsqueeze(-1))
    return peak


class Halves(NamedTuple):
    """A corpus cut in two: the same documents with some of their words each."""

    seen: dict[str, Any]
    unseen: dict[str, Any]
    documents: Tensor
    """Which documents these are: those of two words or more."""


def halved(data: Mapping[str, Any], rng: np.random.Generator) -> Halves:
    """Half of the words of each document (rounded down) to see, the others to foretell.

    Words are drawn without replacement; documents of a single word are left out.
    """
    length, count, n_words = data["length"], data["count"], int(data["n_words"])
    owner = torch.arange(len(length), device=count.device).repeat_interleave(length)
    entry = torch.arange(len(count), device=count.device).repeat_interleave(count)
    document = owner[entry]
    key = torch.as_tensor(rng.random(len(entry)), device=count.device)
    order = torch.argsort(document + key)
    size = torch.bincount(document, minlength=len(length))
    rank = torch.arange(len(order), device=count.device) - (size.cumsum(0) - size)[document]
    first = torch.zeros_like(order, dtype=torch.bool)
    first[order] = rank < (size // 2)[document]
    kept = size >= 2
    halves = []
    for chosen in (first, ~first & kept[document]):
        words, counts = torch.unique(entry[chosen], return_counts=True)
        distinct = torch.bincount(owner[words], minlength=len(length))[kept]
        halves.append(
            {"length": distinct, "word": data["word"][words], "count": counts, "n_words": n_words}
        )
    return Halves(halves[0], halves[1], kept.nonzero().flatten())


class Folded(NamedTuple):
    """What words say of their documents' mixtures, given the topics."""

    gamma: Tensor
    """(D, K): concentrations of the variational posterior."""
    known: Tensor
    """(D, 1): how well words tell their topics, from 0 where r is even to 1 where it is whole:
    ``(mean_i sum_k r_ik^2 - 1/K) / (1 - 1/K)`` over the words i."""


def fold_in(topics: Tensor, alpha: Tensor, data: Mapping[str, Any]) -> Folded:
    """Mixtures of documents (D, K) under topics (K, V).

    With ``e_dk = exp psi(gamma_dk)`` the fixed point of Blei, Ng and Jordan (2003), §5.2::

        gamma_dk = alpha_k + e_dk sum_e count_e phi_kv / sum_j e_dj phi_jv
    """
    phi = topics.mT.contiguous()
    gamma = topics.new_zeros(len(data["length"]), len(topics))
    known = topics.new_zeros(len(gamma), 1)
    for block in blocks(data, len(topics), topics.dtype):
        own, words = phi.index_select(0, block.word), block.count.sum()
        now = alpha + block.by_document(block.count.unsqueeze(-1)) / len(topics)
        for _ in range(_FOLDS):
            e = torch.digamma(now).exp_()
            peak = (e.index_select(0, block.document) * own).sum(1)
            ratio = block.count / peak.clamp_(min=torch.finfo(peak.dtype).tiny)
            new = alpha + e * block.by_document(own * ratio.unsqueeze(-1))
            moved = float((new - now).abs().sum() / words)
            now = new
            if moved < _FOLDED:
                break
        gamma[block.documents] = now
        share = own * torch.digamma(now).exp_().index_select(0, block.document)
        share /= share.sum(1, keepdim=True)
        square = (share.square().sum(1) * block.count).unsqueeze(-1)
        known[block.documents] = block.by_document(square) / (now - alpha).sum(1, keepdim=True)
    even = 1 / len(topics)
    return Folded(gamma, ((known - even) / (1 - even)).clamp(min=0.0))


def probability(mixture: Tensor, topics: Tensor, data: Mapping[str, Any]) -> Tensor:
    """(E,): probability of the word of each entry, ``sum_k theta_dk phi_kv``."""
    phi = topics.mT.contiguous()
    return torch.cat(
        [
            torch.linalg.vecdot(
                mixture[b.documents].index_select(0, b.document), phi.index_select(0, b.word)
            )
            for b in blocks(data, len(topics), topics.dtype)
        ]
    )


def random_weights(data: Mapping[str, Any], k: int, rng: np.random.Generator) -> Tensor:
    """(E, K), float32: a random topic for each entry, nearly alone."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    shape, device = (len(data["word"]), k), data["word"].device
    weight = torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")
    weight = weight.pow_(_SHARPNESS).clamp_(min=torch.finfo(torch.float32).tiny)
    return weight.div_(weight.sum(1, keepdim=True)).to(device)


def count_weights(
    weight: Tensor, data: Mapping[str, Any], n_words: int, dtype: torch.dtype = torch.float32
) -> Counts:
    """Expected counts under the weights (E, K) of the entries' topics, summed in ``dtype``."""
    k, like = weight.shape[1], weight.new_empty(0, dtype=dtype)
    by_word, by_document = like.new_zeros(n_words, k), like.new_zeros(len(data["length"]), k)
    for block in blocks(data, k, dtype):
        share = weight[block.entries] * block.count.unsqueeze(-1)
        by_word.index_add_(0, block.word, share)
        by_document[block.documents] = block.by_document(share)
    return Counts(by_word, by_document)
