"""Topics of a corpus: their words, sizes and documents, a map of them, and which ones return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from storyzoo.inference.engine.tree import RESTARTS
from storyzoo.reports.figures import Figure, Key
from storyzoo.reports.figures.graph import given
from storyzoo.reports.figures.marks import Bar, bars, circles, heat_map
from storyzoo.reports.figures.scatter import known_labels, thinned
from storyzoo.reports.figures.svg import plain
from storyzoo.reports.figures.topics import (
    LAMBDA,
    SHARED,
    Corpus,
    agreement,
    best_matches,
    corpus_of,
    cosines,
    divergences,
    relevance,
    scaled,
    shares_of,
    telling_words,
)
from storyzoo.reports.numbers import grouped
from storyzoo.reports.parameters import INTERVAL

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

TOPICS = 100
"""Topics that are shown at most, the largest."""
MANY = 40
"""Topics above which each is told in fewer lines."""
FOLDED = 2000
"""Documents whose mixtures are looked for where the fit keeps none."""
NAMED = 30
"""Topics up to which the map tells a word of each; of more it numbers the largest."""
CLASSES = 12
"""Known classes that are shown at most, those with the most documents."""
CHAINS = 12
"""Chains that are held against each other at most."""
MATRIX = 40
"""Topics up to which those of two fits are held against each other one by one."""

ENDS = ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)

Array = NDArray[np.float64]
Places = NDArray[np.int_]


@dataclass(frozen=True)
class Topics:
    """What the figures read of a fit, the largest topics first."""

    mean: Array
    """(K, V)."""
    posterior: xr.DataArray
    """(chain, draw, topic, word), in the order of the tree."""
    order: Places
    """(K,): the place of each topic in the tree."""
    words: Sequence[str]
    names: Sequence[str]
    corpus: Corpus
    documents: Places
    """(D',): the documents whose mixtures are known."""
    mixture: Array
    """(D', K); no rows where nothing is known of them."""
    shares: Array
    """(K,): share of all words; equal where no mixture is known."""
    intervals: Array
    """(2, K): ends of the 89 % intervals of the shares; NaN where there are no draws."""
    folded: bool
    """Whether the mixtures were found afterwards, given the mean topics."""

    @property
    def uncertain(self) -> bool:
        """Whether there are draws."""
        return self.posterior.sizes["chain"] * self.posterior.sizes["draw"] > 1

    def labels(self, count: int = 3) -> list[str]:
        """Number and first words of each topic."""
        shares = self.corpus.word_shares(self.mean.shape[1])
        first = np.argsort(-relevance(self.mean, shares), axis=1, kind="stable")[:, :count]
        return [
            " ".join([name, *(plain(self.words[v], 14) for v in row)])
            for name, row in zip(self.names, first, strict=True)
        ]


def figures(fit: Fitted, like: Fitted | None = None) -> list[Figure]:
    """Topics of a fit; beside another, ``like``, what they have in common with its topics."""
    posterior = fit.tree["posterior"].to_dataset()
    if "topics" not in posterior or not {"topic", "word"} <= set(posterior["topics"].dims):
        return []
    if like is not None:
        return held_against(fit, like)
    topics = read(fit)
    found = [word_cards(fit, topics), sizes(topics), topic_map(topics)]
    labels = known_labels(fit, topics.corpus.n_documents)
    if labels is not None and len(topics.mixture):
        found += by_class(topics, labels)
    ends = restarted(fit, topics)
    if topics.posterior.sizes["chain"] > 1:
        chains = thinned(topics.posterior.sizes["chain"], CHAINS)
        drawn = np.asarray(topics.posterior.isel(chain=chains).mean("draw").values, float)
        found.append(runs_agree(topics, drawn, "chain", list(map(int, chains))))
    elif ends is not None:
        found.append(runs_agree(topics, ends, "restart", list(range(1, len(ends) + 1))))
    return found


# -- reading a fit -----------------------------------------------------------------------------


def read(fit: Fitted) -> Topics:
    """Topics, mixtures and corpus of a fit, the largest topics first."""
    posterior = fit.tree["posterior"].to_dataset()
    drawn = posterior["topics"].transpose("chain", "draw", "topic", "word")
    mean = np.asarray(drawn.mean(("chain", "draw")).values, float)
    corpus = read_corpus(fit)
    mixtures = mixtures_of(fit, corpus)
    documents, mixture, folded = folded_in(fit, mean) if mixtures is None else (
        np.arange(corpus.n_documents), np.asarray(mixtures.mean(("chain", "draw")).values), False
    )  # fmt: skip
    sizes = corpus.sizes()
    shares = shares_of(mixture, sizes[documents]) if len(mixture) else np.ones(len(mean))
    shares = shares / max(shares.sum(), 1e-300)
    ends = np.full((2, len(mean)), np.nan)
    if mixtures is not None and mixtures.sizes["chain"] * mixtures.sizes["draw"] > 1:
        by_draw = [shares_of(chain, sizes) for chain in mixtures.values]
        ends = np.quantile(np.concatenate(by_draw), ENDS, axis=0)
    order = np.argsort(-shares, kind="stable")[:TOPICS]
    names = posterior.coords["topic"].values if "topic" in posterior.coords else range(len(mean))
    words = posterior.coords["word"].values if "word" in posterior.coords else None
    return Topics(
        mean=mean[order],
        posterior=drawn,
        order=order,
        words=[f"word {v}" for v in range(mean.shape[1])] if words is None else list(words),
        names=[plain(names[k], 12) for k in order],
        corpus=corpus,
        documents=documents,
        mixture=mixture[:, order],
        shares=shares[order],
        intervals=ends[:, order],
        folded=folded,
    )


def read_corpus(fit: Fitted) -> Corpus:
    """The counts that were fitted."""
    return corpus_of(*(np.asarray(given(fit, name)) for name in ("length", "word", "count")))


def mixtures_of(fit: Fitted, corpus: Corpus) -> xr.DataArray | None:
    """Mixtures ``(chain, draw, document, topic)``, where the tree keeps those of all documents."""
    posterior = fit.tree["posterior"].to_dataset()
    if "mixture" not in posterior or "document" not in posterior["mixture"].dims:
        return None
    found = posterior["mixture"].transpose("chain", "draw", "document", "topic")
    return found if found.sizes["document"] == corpus.n_documents else None


def folded_in(fit: Fitted, mean: Array) -> tuple[Places, Array, bool]:
    """Documents, evenly spread, their mean mixtures given the mean topics, and that they were."""
    story, count = fit.story, fit.structure.n_examples
    if not (story.has("fold_in") and count):
        return np.zeros(0, int), np.zeros((0, len(mean))), False
    rows = thinned(count, FOLDED)
    posterior = fit.tree["posterior"].to_dataset()
    with fit.target.context():
        latents = {
            str(name): torch.as_tensor(np.asarray(values.mean(("chain", "draw")).values)).to(
                torch.empty(0)
            )
            for name, values in posterior.data_vars.items()
        }
        found = story.fold_in(latents, fit.target.rows(rows).data)
    if found is None:
        return np.zeros(0, int), np.zeros((0, len(mean))), False
    return rows, found["mixture"].mean.cpu().numpy().astype(float), True


# -- words and documents -----------------------------------------------------------------------


def word_cards(fit: Fitted, topics: Topics) -> Figure:
    """A card for each topic: its most relevant words, then its most typical documents."""
    shares = topics.corpus.word_shares(topics.mean.shape[1])
    few = len(topics.order) > MANY
    n_words, n_documents = min(6 if few else 10, topics.mean.shape[1]), 1 if few else 3
    chosen = np.argsort(-relevance(topics.mean, shares), axis=1, kind="stable")[:, :n_words]
    names = document_names(fit, topics.corpus.n_documents)
    panels = []
    for k, own in enumerate(chosen):
        drawn = topics.posterior.isel(topic=int(topics.order[k]), word=own)
        title = f"topic {topics.names[k]}"
        if len(topics.mixture):
            title += f" · {100 * topics.shares[k]:.1f} %"
        said = ", ".join(plain(topics.words[v], 30) for v in own)
        rows = _word_bars(topics, k, own, drawn, shares)
        card = bars(rows, f"Topic {topics.names[k]}, its most relevant words first: {said}.")
        lines = typical(topics, k, names, n_documents, shares)
        panels.append(replace(card, title=title, items=lines))
    keys = [Key("s", "c0", "probability in the topic"), Key("tick", "c1", "in all documents")]
    if topics.uncertain:
        keys.insert(1, Key("line", "ink", f"{round(100 * INTERVAL)} % interval"))
    return Figure("topics", "", _told(fit, topics), tuple(panels), tuple(keys), layout="small")


def _word_bars(
    topics: Topics, k: int, own: Places, drawn: xr.DataArray, shares: Array
) -> list[Bar]:
    ends = np.full((2, len(own)), np.nan)
    if topics.uncertain:
        ends = np.quantile(drawn.values.reshape(-1, len(own)), ENDS, axis=0)
    return [
        Bar(
            topics.words[v],
            topics.mean[k, v],
            per_cent(topics.mean[k, v]),
            low=ends[0, place],
            high=ends[1, place],
            tick=shares[v],
        )
        for place, v in enumerate(own)
    ]


def per_cent(share: float) -> str:
    """A share in two digits."""
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.1g} %"


def _told(fit: Fitted, topics: Topics) -> str:
    said = (
        "Words by relevance to their topic, "
        f"{LAMBDA:g} log p(word | topic) + {1 - LAMBDA:g} log [p(word | topic) / p(word)] "
        "(Sievert and Shirley 2014), which puts first what is frequent in a topic and rarer "
        "elsewhere; bars are p(word | topic), on a scale of each topic's own."
    )
    if topics.posterior.sizes["chain"] > 1:
        said += " Where chains disagree on a topic, means and intervals are over all of them."
    if len(topics.mixture):
        said += (
            " A topic's size is its share of all words. Below: the documents with the most of it, "
            "how much, and which of their words say so."
        )
    if topics.folded:
        said += (
            " The fit keeps no documents' mixtures: they were estimated given the mean topics, of "
            f"{grouped(len(topics.documents))} of {grouped(topics.corpus.n_documents)} documents."
        )
    rows, kept = fit.description.get("data", {}), topics.corpus.n_documents
    if rows.get("streamed") and rows["rows"] > kept:
        said += (
            f" Of {grouped(rows['rows'])} documents in the stream the first {grouped(kept)} are "
            "looked at here."
        )
    whole = topics.posterior.sizes["topic"]
    if len(topics.order) < whole:
        said += f" The {len(topics.order)} largest of {whole} topics are shown."
    return said


def document_names(fit: Fitted, count: int) -> list[str]:
    """What the documents are called; by their row where the data do not say."""
    names = fit.structure.coords.get(fit.story.examples or "")
    if names is not None and len(names) == count and np.asarray(names).dtype.kind not in "iu":
        return [plain(name, 60) for name in names]
    kept = np.arange(count) if names is None or len(names) != count else names
    classes = known_labels(fit, count)
    if classes is None:
        return [f"document {row}" for row in kept]
    return [f"document {row} ({name})" for row, name in zip(kept, classes, strict=True)]


def typical(
    topics: Topics, k: int, names: Sequence[str], count: int, shares: Array
) -> tuple[str, ...]:
    """The documents that have the most of a topic, longer ones first among equals."""
    if not len(topics.mixture):
        return ()
    weight = topics.mixture[:, k]
    sizes = topics.corpus.sizes()[topics.documents]
    first = np.lexsort((-sizes, -np.round(weight, 2)))[:count]
    lines = []
    for row in first:
        document = int(topics.documents[row])
        found = telling_words(topics.corpus, document, topics.mean[k], shares)[:4]
        said = ", ".join(plain(topics.words[v], 20) for v in found)
        lines.append(f"{weight[row]:.2f}  {names[document]}" + (f": {said}" if said else ""))
    return tuple(lines)


# -- sizes and places --------------------------------------------------------------------------


def sizes(topics: Topics) -> Figure:
    """Topics by their share of all words."""
    rows = [
        Bar(label, share, per_cent(share), low, high)
        for label, share, (low, high) in zip(
            topics.labels(), topics.shares, topics.intervals.T, strict=True
        )
    ]
    if not len(topics.mixture):
        said = "How large the topics are is not known: no mixture of any document is kept."
        rows = [replace(row, value=0.0, said="") for row in rows]
    else:
        leads = np.bincount(topics.mixture.argmax(1), minlength=len(rows))
        said = (
            f"Share of all words. The largest has {per_cent(topics.shares.max())}, the smallest "
            f"shown {per_cent(topics.shares.min())}; {int((leads > 0).sum())} of {len(rows)} "
            "topics are the main one of some document."
        )
    if len(rows) > MANY:
        said += f" Drawn are the {MANY} largest."
    return Figure("sizes", "Sizes", said, (bars(rows[:MANY], said, width=345, letters=30),))


def topic_map(topics: Topics) -> Figure:
    """Topics in the plane, alike ones near each other."""
    apart = divergences(topics.mean)
    places, shown = scaled(apart)
    labels = topics.labels(6)
    nearest = apart + np.eye(len(apart)) * 2
    one, other = divmod(int(nearest.argmin()), len(nearest))
    said = (
        "Distances are Jensen-Shannon distances between topics, brought into the plane by "
        f"classical scaling, which shows {100 * shown:.0f} % of their spread; areas are sizes. "
        f"The two most alike are {topics.names[one]} and {topics.names[other]}, "
        f"{np.sqrt(apart[one, other]):.2f} of at most 1 apart."
    )
    names = topics.labels(1) if len(labels) <= NAMED else list(topics.names[:NAMED])
    if len(names) < len(labels):
        said += f" The {NAMED} largest are numbered."
        names += [""] * (len(labels) - NAMED)
    panel = circles(places, topics.shares, names, labels, said)
    return Figure("map", "Map", said, (panel,))


def by_class(topics: Topics, labels: NDArray[np.str_]) -> list[Figure]:
    """Topics over the known classes; none where all documents are of one."""
    own = labels[topics.documents]
    classes, counts = np.unique(own, return_counts=True)
    if len(classes) < 2:
        return []
    kept = classes[np.argsort(-counts, kind="stable")[:CLASSES]]
    weights = topics.corpus.sizes()[topics.documents]
    columns = [shares_of(topics.mixture[own == name], weights[own == name]) for name in kept]
    cells = np.stack(columns, axis=1)
    said = "Share of the words of each known class that a topic has, per cent; no method saw them."
    if len(kept) < len(classes):
        said += f" The {len(kept)} classes with the most documents, of {len(classes)}."
    panel = heat_map(cells, topics.labels(), list(kept), said)
    title = "Topics over the known classes"
    return [Figure("classes", title, said, (panel,), layout="natural")]


# -- which topics return -----------------------------------------------------------------------


def restarted(fit: Fitted, topics: Topics) -> Array | None:
    """Topics (R, K, V) where an ascent's restarts ended, matched to those that are shown."""
    if RESTARTS not in fit.tree.children or "topics" not in fit.tree[RESTARTS]:
        return None
    group = fit.tree[RESTARTS]["topics"].transpose("restart", "topic", "word")
    ends = np.asarray(group.isel(restart=thinned(group.sizes["restart"], CHAINS)).values, float)
    shown = np.asarray(topics.posterior.mean(("chain", "draw")).values, float)
    return np.stack([end[best_matches(cosines(shown, end))] for end in ends])


def runs_agree(topics: Topics, runs: Array, what: str, names: Sequence[int]) -> Figure:
    """How alike the topics of each run (R, K, V), a chain or a restart, are to the others'."""
    alike = agreement(runs)[topics.order]
    others = (alike.sum(2) - 1) / (len(runs) - 1)
    pairs = alike[:, *np.triu_indices(len(runs), 1)]
    said = (
        f"Two {what}s share {(pairs >= SHARED).sum(0).mean():.1f} of {runs.shape[1]} topics on "
        "average: matched one to one, the cosine of their words' probabilities is at least "
        f"{SHARED:g}. Cells: the mean cosine of a {what}'s topic with its matches in the other "
        f"{what}s, times 100. What does not return is the chance of one start."
    )
    columns = [f"{what} {name}" for name in names]
    panel = heat_map(others, topics.labels(), columns, said, top=1.0)
    title = f"Do the {what}s find the same topics?"
    return Figure("agreement", title, said, (panel,), layout="natural")


def held_against(fit: Fitted, like: Fitted) -> list[Figure]:
    """How alike the topics of two fits over the same words are, one by one."""
    ours, theirs = _over_words(fit), _over_words(like)
    if ours is None or theirs is None or list(ours["word"].values) != list(theirs["word"].values):
        return []
    alike = cosines(theirs.values, ours.values)
    partner = best_matches(alike)
    matched = partner >= 0
    best = np.where(matched, alike[np.arange(len(alike)), partner], 0.0)
    shared = int((best >= SHARED).sum())
    rows = np.argsort(-best, kind="stable")
    rest = np.setdiff1d(np.arange(alike.shape[1]), partner[matched])
    columns = np.concatenate([partner[rows][matched[rows]], rest])
    said = f"{shared} of {len(alike)} topics of the reference are shared."
    rows, columns = rows[:MATRIX], columns[:MATRIX]
    panel = heat_map(
        alike[np.ix_(rows, columns)],
        [f"topic {theirs['topic'].values[k]}" for k in rows],
        [str(ours["topic"].values[k]) for k in columns],
        said,
        top=1.0,
        told=False,
    )
    caption = (
        "Cosines of the words' probabilities of each topic of the reference (rows) and of the fit "
        "(columns), best matches on the diagonal; shared are those whose match is at least "
        f"{SHARED:g}."
    )
    return [Figure("topics", "", caption, (replace(panel, items=(said,)),))]


def _over_words(fit: Fitted) -> xr.DataArray | None:
    """Mean topics (topic, word), where the fit names its words."""
    posterior = fit.tree["posterior"].to_dataset()
    if "topics" not in posterior or "word" not in posterior.coords:
        return None
    return posterior["topics"].mean(("chain", "draw")).transpose("topic", "word")
