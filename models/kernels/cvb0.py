"""Topics by CVB0: mixtures and topics are integrated out, and only the words' topics are updated.

With n the expected counts under the weights r of all entries, every entry e of document d and word
v is taken out of them, as far as one of its words goes, and gets the new weights

    r_ek ~ (n_dk - r_ek + alpha_k) (n_kv - r_ek + eta) / (n_k - r_ek + V eta)

Blocks of documents are updated one after another, each with the counts that the blocks before it
have left: a third fewer passes than updating all at once. Kept are the weights, E times K of
float32, and the counts.

The sum of the right side over k, divided by ``N_d - 1 + sum_k alpha_k``, is the probability of the
word given all others; its logarithms' sum is the score, in nats. It rises nearly always, but is no
bound and may fall.

Concentrations are learned, where they are, by Minka's fixed point with an exponential prior,

    alpha_k <- alpha_k sum_d E[psi(n_dk + alpha_k) - psi(alpha_k)]
                       / (sum_d psi(N_d + sum alpha) - psi(sum alpha) + rate_k)

whose expectation is that given the chance that the topic is there at all, ``p = 1 - prod_e (1 -
r_ek)^count_e``: ``p (psi(n_dk / p + alpha_k) - psi(alpha_k))``. With the plain expected counts a
topic with a hundredth of a word would count almost as much as one with a whole word.

Source: Asuncion, Welling, Smyth and Teh (2009), UAI; Minka (2000), "Estimating a Dirichlet
distribution"; Teh, Newman and Welling (2007), NIPS 19, for the expectation; Wallach, Mimno and
McCallum (2009), NIPS 22, for why the concentrations should differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storyzoo.models.kernels import lda
from storyzoo.models.kernels.gmm import one_thread
from storyzoo.story import Sweep

LEARNED_FROM, LEARNED_EVERY = 20, 5
"""Sweeps before concentrations are first learned, when topics have parted; and between updates."""
_LEAST, _LEAST_ALPHA = 1e-30, 1e-6
_ROUNDS = 10
"""Steps of the fixed point at each update."""
_PASSES = 50
"""Of what others start from."""
_STATE = ("weight", "by_word", "by_document", "by_topic", "alpha", "unsettled", "sweeps")


class CollapsedTopics:
    """The weights of a corpus, and the counts that follow from them.

    ``alpha`` (K,) and ``eta`` are the concentrations, ``rate`` (K,) that of the prior of
    ``alpha`` where it is learned.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        alpha: Tensor,
        eta: float,
        rate: Tensor | None,
        rng: np.random.Generator,
    ) -> None:
        self.data, self.eta, self.rate = data, eta, rate
        self.alpha, self.sweeps = alpha.float(), torch.zeros((), dtype=torch.long)
        self.unsettled = torch.full((), 0.0 if rate is None else 1.0)
        self.blocks = list(lda.blocks(data, len(alpha), torch.float32))
        self.words = torch.stack([b.count.sum() for b in self.blocks]).sum()
        self.by_length = torch.cat(
            [b.by_document(b.count.unsqueeze(-1)).squeeze(-1) for b in self.blocks]
        )
        self.weight = lda.random_weights(data, len(alpha), rng)
        counts = lda.count_weights(self.weight, data, int(data["n_words"]))
        self.by_word = counts.by_word + eta
        self.by_document = counts.by_document + self.alpha
        self.by_topic = self.by_word.sum(0)

    def sweep(self) -> Sweep:
        """Update every entry once.

        Where concentrations are learned, their mean relative change at the last update counts as a
        change of the weights does, so that nothing ends before they stand still.
        """
        score = change = 0.0
        with one_thread():
            for block in self.blocks:
                gained, moved = self._update(block)
                score, change = score + gained, change + moved
            score -= self._log_totals()
            self.sweeps += 1
            late = int(self.sweeps) - LEARNED_FROM
            if self.rate is not None and late >= 0 and late % LEARNED_EVERY == 0:
                self._learn()
        return Sweep(score, max(change / float(self.words), float(self.unsettled)))

    def _update(self, block: lda.Block) -> tuple[float, float]:
        """New weights of a block's entries; its score before division by N_d, and the change."""
        old = self.weight[block.entries]
        new = self.by_document[block.documents].index_select(0, block.document)
        new -= old
        other = self.by_word.index_select(0, block.word)
        other -= old
        new *= other
        new /= torch.sub(self.by_topic, old, out=other)
        new.clamp_(min=_LEAST)  # counts that rounding has left a little below zero
        total = new.sum(1)
        new *= total.reciprocal().unsqueeze(-1)
        moved = torch.sub(new, old, out=other)
        change = 0.5 * torch.dot(moved.abs().sum(1), block.count)
        moved *= block.count.unsqueeze(-1)
        self.by_word.index_add_(0, block.word, moved)
        self.by_topic += moved.sum(0)
        old.copy_(new)
        new *= block.count.unsqueeze(-1)
        self.by_document[block.documents] = block.by_document(new).add_(self.alpha)
        return float(torch.dot(total.log_(), block.count)), float(change)

    def _log_totals(self) -> float:
        """``sum_d N_d log(N_d - 1 + sum alpha)``."""
        log_total = (self.by_length.double() - 1 + self.alpha.sum()).log()
        return float((self.by_length * log_total).sum())

    # -- concentrations ------------------------------------------------------------------

    def _learn(self) -> None:
        """Minka's fixed point at the present counts."""
        assert self.rate is not None
        alpha, present = self.alpha.double(), self._present()
        n = ((self.by_document.double() - alpha) / present).clamp(min=1.0)
        words = self.by_length.double()
        for _ in range(_ROUNDS):
            rise = present * (torch.digamma(n + alpha) - torch.digamma(alpha))
            whole = torch.digamma(words + alpha.sum()) - torch.digamma(alpha.sum())
            alpha = alpha * rise.sum(0) / (whole.sum() + self.rate)
        learned = alpha.clamp(min=_LEAST_ALPHA).float()
        self.unsettled = ((learned - self.alpha).abs() / learned).mean()
        self.by_document += learned - self.alpha
        self.alpha = learned

    def _present(self) -> Tensor:
        """(D, K): probability that any word of the document is of the topic."""
        absent = [
            b.by_document((-self.weight[b.entries]).log1p_().mul_(b.count.unsqueeze(-1)))
            for b in self.blocks
        ]
        tiny = torch.finfo(torch.float32).tiny
        return (-torch.cat(absent).double().expm1()).clamp(min=tiny)

    # -- what is asked for ---------------------------------------------------------------

    def latents(self) -> dict[str, Tensor]:
        """Posterior means of topics (K, V) and mixtures (D, K), from counts in double precision."""
        counts = lda.count_weights(self.weight, self.data, len(self.by_word), torch.float64)
        topics = (counts.by_word + self.eta).mT
        mixture = counts.by_document + self.alpha.double()
        found = {
            "topics": topics / topics.sum(-1, keepdim=True),
            "mixture": mixture / mixture.sum(-1, keepdim=True),
        }
        return found if self.rate is None else {**found, "concentration": self.alpha.double()}

    def state(self) -> dict[str, Tensor]:
        """All that continues."""
        return {name: getattr(self, name) for name in _STATE}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        for name in _STATE:
            setattr(self, name, state[name].to(self.weight.device))


def first_topics(
    data: Mapping[str, Any], alpha: Tensor, eta: float, rng: np.random.Generator
) -> Tensor:
    """(K, V): expected words of each topic plus ``eta``, float32, after some passes.

    A start for other methods, whose topics part sooner from there than from nearly even ones.
    """
    found = CollapsedTopics(data, alpha, eta, None, rng)
    for _ in range(_PASSES):
        found.sweep()
    return found.by_word.mT
