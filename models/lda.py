"""Latent Dirichlet allocation: every document mixes a few topics, and every word is of one of them.

What the story says
-------------------
A topic is a distribution over the V words of a vocabulary, a document a mixture of K topics. Each
word of a document first picks a topic from the document's mixture, then itself from the topic::

    topics_k   ~ Dirichlet(eta, ..., eta)              over the vocabulary
    mixture_d  ~ Dirichlet(alpha, ..., alpha)          over the topics
    z_di       ~ Categorical(mixture_d)
    w_di       ~ Categorical(topics_{z_di})

The order of the words means nothing. Given topics and mixtures the words are independent, so that
every z is summed out exactly; with n_dv the count of word v in document d::

    log p(w_d) = sum_v n_dv log sum_k mixture_dk topics_kv        nats

Priors
------
``eta`` = 0.01 says that a topic uses a small part of the vocabulary, ``alpha`` = 0.1 that a
document is about few topics. ``alpha`` may be a number for each topic. With ``learn_alpha`` it is
unknown: ``concentration_k ~ Exponential(mean alpha)``, so that some topics may be common to all
documents and others rare (Wallach, Mimno and McCallum 2009).

Concentrations below one have no mode on the simplex; a mode is then one of the softmax basis
(MacKay 1998), and mixtures are proportional to expected counts plus ``alpha``.

Under variational inference (svi) a larger ``eta`` foretells new documents better, 0.3 on news: see
:mod:`storyzoo.models.kernels.lda_mean_field`.

The data
--------
Counts without their zeros: ``length`` (document), how many distinct words each document has;
``word`` and ``count`` (entry), which words and how often, the entries of a document next to each
other, words ascending; ``n_words``, the size of the vocabulary. A sparse matrix of counts is taken
as well. No table of documents by words is ever made.

When to use it, and what it can't do
------------------------------------
For collections of texts, or other bags of counts (baskets, genes), of which the themes are asked
for. Topics have no order and no names; there are many modes, and no two runs find just the same
topics. Words that stand in all documents alike make topics that mean nothing: leave such words
out. It knows no phrases and no change over time, and short texts say little about their mixture.

Sites: topics (topic, word), mixture (document, topic), with ``learn_alpha`` concentration (topic);
z and w (token), discrete.

References
----------
Blei, Ng and Jordan (2003), JMLR 3, 993-1022. Griffiths and Steyvers (2004), PNAS 101. Asuncion,
Welling, Smyth and Teh (2009), UAI. MacKay (1998), Machine Learning 33. Wallach, Mimno and McCallum
(2009), NIPS 22.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ctypes import CDLL
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from storyzoo.errors import DataError, SettingError
from storyzoo.models.distributions.row_categorical import RowCategorical
from storyzoo.models.kernels import conjugate, cvb0, lda, lda_gibbs, topic_measures
from storyzoo.models.kernels.gmm import one_thread
from storyzoo.models.kernels.lda_guide import AmortisedTopics
from storyzoo.models.kernels.lda_mean_field import MeanFieldTopics
from storyzoo.models.kernels.left_to_right import left_to_right
from storyzoo.story import Completion, Data, Expectation, Latents, LeftToRight, Story

_UNKNOWN_CONCENTRATIONS = {
    "maximise": "learn_alpha=true has no mode, as mixtures and their concentrations grow sharper "
    "together without end: integrate mixtures out (em with collapsed=true), or draw (gibbs)",
    "mean_field": "learn_alpha=true has no conjugate family for the concentrations: use "
    "guide=story, integrate mixtures out (em with collapsed=true), or draw (gibbs)",
}
"""Hooks that do not apply where concentrations are unknown, and why."""


@dataclass(frozen=True)
class LatentDirichletAllocation(Story):
    """Each document mixes a few topics; each word is drawn from one (Blei, Ng and Jordan 2003)."""

    n_topics: int = 10
    alpha: float | tuple[float, ...] = 0.1
    """Concentration of the documents' mixtures, for all topics or one by one."""
    eta: float = 0.01
    """Concentration of the topics over the vocabulary."""
    learn_alpha: bool = False
    """Whether each topic's concentration is unknown, with ``alpha`` as its prior mean."""

    name = "lda"
    data_dims = {"length": ("document",), "word": ("entry",), "count": ("entry",)}
    examples = "document"
    observation = "word"
    ragged = {"entry": "length"}
    exchangeable = {"topic": ("topic",)}
    label_values = {"z": "topic"}
    several_modes = (
        "Chains found different topics, as they do on most corpora, and longer runs hardly mend "
        "it: read the topics that chains share (the report holds them against each other), judge "
        "by held-out documents (`zoo compare`, `--holdout 0.2`), or ask for fewer "
        "(`--set n_topics=…`)"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.n_topics, int) or self.n_topics < 2:
            raise SettingError(f"lda: n_topics={self.n_topics!r} must be at least 2")
        if isinstance(self.alpha, list | tuple | np.ndarray):
            object.__setattr__(self, "alpha", tuple(float(v) for v in self.alpha))
        if isinstance(self.alpha, tuple) and len(self.alpha) != self.n_topics:
            raise SettingError(
                f"lda: alpha has {len(self.alpha)} values for {self.n_topics} topics: "
                "give one number, or one for each topic"
            )
        for name in ("alpha", "eta"):
            if not np.all(np.asarray(getattr(self, name)) > 0):
                raise SettingError(f"lda: {name}={getattr(self, name)!r} must be above zero")

    @property
    def event_dims(self) -> Mapping[str, tuple[str, ...]]:
        return {"topics": ("word",), "mixture": ("topic",), "concentration": ("topic",)}

    def model(self, length: Tensor, word: Tensor, count: Tensor, n_words: int) -> None:
        """The story in the module's docstring, word by word."""
        concentration = self._concentration()
        if self.learn_alpha:
            prior = dist.Exponential(1 / concentration).to_event(1)
            concentration = pyro.sample("concentration", prior)
        with pyro.plate("topic", self.n_topics):
            topics = pyro.sample("topics", dist.Dirichlet(torch.full((n_words,), float(self.eta))))
        with pyro.plate("document", len(length)):
            mixture = pyro.sample("mixture", dist.Dirichlet(concentration))
        document = document_of(length).repeat_interleave(count)
        token = word.repeat_interleave(count)
        with pyro.plate("token", len(token)):
            z = pyro.sample("z", RowCategorical(mixture, document), infer={"enumerate": "parallel"})
            told = RowCategorical(topics, z)
            pyro.sample("w", told, obs=token, infer={"observes": "word"})  # type: ignore[arg-type]

    def _concentration(self) -> Tensor:
        """(K,): alpha, the prior mean where it is learned; in the default dtype and device."""
        return torch.tensor(self.alpha).to(torch.empty(0)).expand(self.n_topics)

    def marginal(self, latents: Latents, data: Data) -> Tensor:
        """``sum_v n_dv log sum_k mixture_dk topics_kv``: (D,), nats."""
        topics, mixture = latents["topics"], latents["mixture"]
        document = document_of(data["length"])
        probability = (mixture[document] * topics.mT[data["word"]]).sum(-1)
        tiny = torch.finfo(probability.dtype).tiny
        log_probability = data["count"] * probability.clamp(min=tiny).log()
        nothing = log_probability.new_zeros(len(data["length"]))
        return nothing.index_add(0, document, log_probability)

    # -- EM ------------------------------------------------------------------------------------

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """The M-step for words of which each is nearly of one random topic."""
        weight = lda.random_weights(data, self.n_topics, rng)
        counts = lda.count_weights(weight, data, int(data["n_words"]), torch.get_default_dtype())
        start = self._maximised(counts.by_word.mT, counts.by_document, True)
        if self.learn_alpha:
            start["concentration"] = self._concentration()
        return start

    def expect(self, latents: Latents, data: Data, hard: bool) -> Expectation:
        """Expected words by topic: ``topics`` (K, V), and by document ``mixture`` (D, K)."""
        with one_thread():
            total, counts = lda.expect(latents["mixture"], latents["topics"], data, hard)
        topics = {"topics": counts.by_word.mT}
        return Expectation(total, topics, {"mixture": counts.by_document})

    def maximise(
        self, expected: Mapping[str, Tensor], data: Data, prior: bool
    ) -> dict[str, Tensor]:
        """Topics and mixtures in the shares of their expected words and their concentrations."""
        return self._maximised(expected["topics"], expected["mixture"], prior)

    def _maximised(self, by_word: Tensor, by_document: Tensor, prior: bool) -> dict[str, Tensor]:
        return {
            "topics": conjugate.weights(by_word, self.eta if prior else 1.0),
            "mixture": conjugate.weights(by_document, self._concentration().to(by_document)),
        }

    def collapse(self, data: Data, rng: np.random.Generator) -> cvb0.CollapsedTopics:
        """CVB0: see :mod:`storyzoo.models.kernels.cvb0`."""
        alpha = self._concentration()
        rate = 1 / alpha if self.learn_alpha else None
        return cvb0.CollapsedTopics(data, alpha, float(self.eta), rate, rng)

    # -- variational inference -----------------------------------------------------------------

    def mean_field(self, data: Data) -> MeanFieldTopics:
        """Dirichlets throughout: see :mod:`storyzoo.models.kernels.lda_mean_field`."""
        return MeanFieldTopics(self._concentration(), float(self.eta), int(data["n_words"]))

    def guide(self, data: Data) -> AmortisedTopics:
        """One network for all documents: see :mod:`storyzoo.models.kernels.lda_guide`."""
        seed = int(torch.randint(2**31 - 1, (), device="cpu"))  # the caller has seeded torch
        alpha = self._concentration()
        with one_thread():
            first = cvb0.first_topics(data, alpha, float(self.eta), np.random.default_rng(seed))
        return AmortisedTopics(first.to(alpha), alpha, self.learn_alpha)

    # -- Gibbs sampling ------------------------------------------------------------------------

    sweeps_source = lda_gibbs.SOURCE

    def sweeps(
        self, data: Data, rng: np.random.Generator, code: CDLL | None
    ) -> lda_gibbs.TopicChain:
        """Griffiths and Steyvers's: see :mod:`storyzoo.models.kernels.lda_gibbs`."""
        alpha = np.broadcast_to(np.asarray(self.alpha, dtype=float), self.n_topics)
        return lda_gibbs.TopicChain(
            data, alpha, float(self.eta), rng, code, learn_alpha=self.learn_alpha
        )

    # -- what the fit is for -------------------------------------------------------------------

    def sizes(self, data: Data) -> Tensor:
        """(D,): words of each document, repeats counted."""
        nothing = data["count"].new_zeros(len(data["length"]))
        return nothing.index_add(0, document_of(data["length"]), data["count"])

    def fold_in(self, latents: Latents, data: Data) -> dict[str, Distribution]:
        """Mixtures of new documents: a Dirichlet each, by variational inference given the topics.

        Variational counts take every word's topic for known, which makes them too sure: on news
        the true deviations are 1.4 times theirs. They count here as far as words tell their topics,
        after the missing information of Louis (1982), JRSS B 44; a rule of thumb, which importance
        weights put right wherever a density is asked for.
        """
        alpha = self._given_concentration(latents)
        with one_thread():
            found = lda.fold_in(latents["topics"], alpha, data)
        return {"mixture": dist.Dirichlet(alpha + found.known * (found.gamma - alpha))}

    def _given_concentration(self, latents: Latents) -> Tensor:
        return latents["concentration"] if self.learn_alpha else self._concentration()

    def complete(
        self, draws: Iterable[Latents], data: Data, rng: np.random.Generator
    ) -> Completion:
        """Document completion: half of each document's words foretold from the other half.

        Half of the words of each document (rounded down) are drawn without replacement by ``rng``
        and seen: the mixture is folded in from them, and its mean m_d foretells the others,

            nats_d = sum_{i unseen} log mean_s sum_k m_dk^s topics_k,w_i^s

        over draws s of the topics. Perplexity is ``exp(-sum_d nats_d / sum_d size_d)``. Source:
        Wallach, Murray, Salakhutdinov and Mimno (2009), ICML, §5.2; averaged over draws as by
        Asuncion et al. (2009).
        """
        halves = lda.halved(data, rng)
        total, drawn = torch.zeros(()), 0
        with one_thread():
            for latents in draws:
                topics, alpha = latents["topics"], self._given_concentration(latents)
                gamma = lda.fold_in(topics, alpha, halves.seen).gamma
                mean = gamma / gamma.sum(1, keepdim=True)
                total = total + lda.probability(mean, topics, halves.unseen)
                drawn += 1
        count, owner = halves.unseen["count"], document_of(halves.unseen["length"])
        tiny = torch.finfo(total.dtype).tiny
        nats = count * (total / drawn).clamp(min=tiny).log()
        own = halves.documents[owner]
        nothing = torch.zeros(len(data["length"]))
        return Completion(nothing.index_add(0, own, nats), torch.bincount(own, count, len(nothing)))

    def one_more(self, latents: Latents, data: Data) -> Tensor:
        """``sum_k m_dk topics_kv`` (D, V), m_d the mean of the mixture as :meth:`complete` has it:
        one more word v of a document, given its others."""
        topics, alpha = latents["topics"], self._given_concentration(latents)
        with one_thread():
            gamma = lda.fold_in(topics, alpha, data).gamma
            return gamma / gamma.sum(1, keepdim=True) @ topics

    def left_to_right(self, latents: Latents, data: Data, rng: np.random.Generator) -> LeftToRight:
        """``log p(w_d | topics)``: see :mod:`storyzoo.models.kernels.left_to_right`."""
        alpha = self._given_concentration(latents)
        with one_thread():
            return left_to_right(latents["topics"], alpha.to(latents["topics"]), data, rng)

    def scores(self, latents: Latents, data: Data) -> dict[str, float]:
        """``npmi`` and, with gensim, ``c_v`` over the documents given; ``topic_diversity``.

        Means over topics: see :mod:`storyzoo.models.kernels.topic_measures`.
        """
        topics = latents["topics"].double().cpu().numpy()
        corpus = {name: data[name].cpu().numpy() for name in self.data_dims}
        found = {
            "npmi": float(topic_measures.npmi(topics, corpus).mean()),
            "topic_diversity": topic_measures.diversity(topics),
        }
        if topic_measures.has_c_v():
            found["c_v"] = float(topic_measures.c_v(topics, corpus).mean())
        return found

    def agreement(self, runs: Sequence[Latents]) -> dict[str, float]:
        """Topics that runs share: see :func:`storyzoo.models.kernels.topic_measures.agreement`."""
        topics = [run["topics"].double().cpu().numpy() for run in runs]
        found = topic_measures.agreement(topics)
        return {"shared_topics": found.shared * self.n_topics, "topic_cosine": found.likeness}

    def as_data(self, drawn: Latents, data: Data) -> dict[str, Tensor]:
        """Words drawn one by one, counted by document."""
        if "w" not in drawn:
            return {}
        n_words = int(data["n_words"])
        document = document_of(data["length"]).repeat_interleave(data["count"])
        entry, count = torch.unique(document * n_words + drawn["w"], return_counts=True)
        length = torch.bincount(entry // n_words, minlength=len(data["length"]))
        return {"length": length, "word": entry % n_words, "count": count}

    def lacks(self, hook: str) -> str | None:
        """What unknown concentrations can't have."""
        return _UNKNOWN_CONCENTRATIONS.get(hook) if self.learn_alpha else None

    # -- the data ------------------------------------------------------------------------------

    def check(self, data: Data) -> None:
        """Refuse a corpus that has too few words for the topics."""
        if self.n_topics > int(data["n_words"]):
            raise DataError(
                f"{self.n_topics} topics for {int(data['n_words'])} words: "
                f"set n_topics to at most {int(data['n_words'])}"
            )


def document_of(length: Tensor) -> Tensor:
    """(E,): the document that each entry is of, from their numbers of entries (D,)."""
    return torch.arange(len(length), device=length.device).repeat_interleave(length)
