"""Measures of topics: do their words occur together, do topics differ, are they found again.

All look at the topics (K, V) by their top words, those of the highest probability, and at which
documents hold them; no table of documents by vocabulary is made.

Coherence. With ``p_i`` the share of documents that hold word i and ``p_ij`` of those that hold i
and j, over the pairs among a topic's ten top words (Bouma 2009; Lau, Newman and Baldwin 2014)::

    NPMI_ij = log(p_ij / (p_i p_j)) / -log p_ij   in [-1, 1]; -1 where p_ij = 0, 1 where it is 1

``npmi`` is the mean over pairs, then over topics. ``c_v`` (Röder, Both and Hinneburg 2015) gives
each top word the vector of its NPMI with all ten and takes the mean cosine between that and the
vectors' sum. Both count by whole documents: the published C_V slides a window of 110 words, but
counts know no order, so that its values are comparable only with those made in the same way.

Diversity (Dieng, Ruiz and Blei 2020, TACL 8): the share of different words among the topics'
25 top words, ``|union of tops| / (25 K)``, between 1/K and 1.

Agreement of runs: topics of two runs are matched one to one so that the cosines of their words'
probabilities have the greatest sum (Hungarian algorithm; Greene, O'Callaghan and Cunningham 2014,
with their Jaccard index as the other choice). Matched topics at or above a threshold are shared.

Sources: Bouma (2009), GSCL; Lau, Newman and Baldwin (2014), EACL; Röder, Both and Hinneburg (2015),
WSDM; Greene, O'Callaghan and Cunningham (2014), ECML PKDD.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.optimize import linear_sum_assignment

Array = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

COHERENT, DIVERSE = 10, 25
"""Top words by which coherence and diversity are judged, where the vocabulary has as many."""
SHARED = 0.8
"""Cosine from which two topics count as one."""
Likeness = Literal["cosine", "jaccard"]


def top_words(topics: Array, size: int) -> Whole:
    """(K, size): the words of each topic (K, V), most probable first; ties by their number."""
    return np.argsort(-topics, axis=1, kind="stable")[:, :size]


class Occurrence(NamedTuple):
    """In how many documents words occur, alone and together."""

    words: Whole
    """(U,): the words that were asked for, ascending."""
    together: Array
    """(U, U): documents that hold both; the diagonal those that hold the one."""
    documents: int

    def places(self, words: Whole) -> Whole:
        """Where words stand along U."""
        return np.searchsorted(self.words, words)


def occurrence(data: Mapping[str, Any], words: Whole) -> Occurrence:
    """Documents of a corpus that hold each pair of the words."""
    wanted = np.unique(words)
    document, place = _holding(data, wanted)
    shape = len(data["length"]), len(wanted)
    holds = scipy.sparse.csr_array((np.ones(len(place)), (document, place)), shape=shape)
    return Occurrence(wanted, (holds.T @ holds).toarray(), shape[0])


def _holding(data: Mapping[str, Any], wanted: Whole) -> tuple[Whole, Whole]:
    """Of each entry of a wanted word: its document, and the word's place among the wanted."""
    word = np.asarray(data["word"])
    place = np.searchsorted(wanted, word).clip(max=len(wanted) - 1)
    found = wanted[place] == word
    document = np.repeat(np.arange(len(data["length"])), np.asarray(data["length"]))
    return document[found], place[found]


def pairwise_npmi(found: Occurrence) -> Array:
    """(U, U): normalised pointwise mutual information of each pair of words."""
    p = found.together / found.documents
    single = p.diagonal()
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log(p / np.outer(single, single)) / -np.log(p)
    values[p == 0] = -1.0
    values[p == 1] = 1.0
    return values


def npmi(topics: Array, data: Mapping[str, Any], size: int = COHERENT) -> Array:
    """(K,): mean NPMI of the pairs among each topic's top words, over the corpus's documents."""
    tops = top_words(topics, size)
    found = occurrence(data, tops)
    values = pairwise_npmi(found)
    upper = np.triu_indices(tops.shape[1], 1)
    return np.array([values[np.ix_(own, own)][upper].mean() for own in found.places(tops)])


def has_c_v() -> bool:
    """Whether gensim is installed, which ``pip install 'storyzoo[topics]'`` brings."""
    return importlib.util.find_spec("gensim") is not None


def c_v(topics: Array, data: Mapping[str, Any], size: int = COHERENT) -> Array:
    """(K,): C_V of each topic's top words by gensim, documents as windows.

    gensim leaves documents that hold none of all topics' top words out of the shares.
    """
    from gensim.corpora import Dictionary
    from gensim.models import CoherenceModel

    tops = top_words(topics, size)
    document, place = _holding(data, np.unique(tops))
    named = np.char.mod("%d", np.unique(tops))
    ends = np.bincount(document, minlength=len(data["length"])).cumsum()[:-1]
    texts = [own.tolist() for own in np.split(named[place], ends) if len(own)]
    model = CoherenceModel(
        topics=np.char.mod("%d", tops).tolist(),
        texts=texts,
        dictionary=Dictionary([named.tolist()]),
        coherence="c_v",
        window_size=len(named) + 1,
        topn=tops.shape[1],
        processes=1,
    )
    return np.array(model.get_coherence_per_topic())


def diversity(topics: Array, size: int = DIVERSE) -> float:
    """Share of different words among all topics' top words."""
    tops = top_words(topics, size)
    return len(np.unique(tops)) / tops.size


# -- agreement of runs -------------------------------------------------------------------------


def matched(one: Array, other: Array, by: Likeness = "cosine", size: int = COHERENT) -> Array:
    """(K,): how like each topic of a run is to its match in another.

    ``cosine`` of the probabilities, or ``jaccard``, words shared by the tops over words in either.
    """
    alike = _cosine(one, other) if by == "cosine" else _jaccard(one, other, size)
    rows, order = linear_sum_assignment(alike, maximize=True)
    likeness: Array = alike[rows, order]
    return likeness


def _cosine(one: Array, other: Array) -> Array:
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    cosine: Array = one @ other.T / lengths
    return cosine


def _jaccard(one: Array, other: Array, size: int) -> Array:
    tops = [[set(own) for own in top_words(run, size).tolist()] for run in (one, other)]
    return np.array([[len(a & b) / len(a | b) for b in tops[1]] for a in tops[0]])


class Agreement(NamedTuple):
    """How far several runs found the same topics."""

    shared: float
    """Share of the topics whose match reaches the threshold, mean over pairs of runs."""
    likeness: float
    """Mean likeness of matched topics, over topics and pairs of runs."""


def agreement(
    runs: Sequence[Array], threshold: float = SHARED, by: Likeness = "cosine"
) -> Agreement:
    """Topics of two or more runs, each (K, V), matched pair by pair."""
    found = np.stack([matched(a, b, by) for a, b in itertools.combinations(runs, 2)])
    return Agreement(float((found >= threshold).mean()), float(found.mean()))
