"""Measures of topics against counts made by hand, and C_V against its formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from storyzoo.models.kernels.topic_measures import (
    agreement,
    c_v,
    diversity,
    has_c_v,
    matched,
    npmi,
    occurrence,
    pairwise_npmi,
    top_words,
)
from tests.models.corpora import drawn_corpus

FOUR: dict[str, Any] = {
    "length": np.array([3, 2, 1, 2]),
    "word": np.array([0, 1, 3, 0, 1, 2, 0, 3]),
    "count": np.array([5, 1, 1, 1, 1, 2, 1, 1]),
    "n_words": 5,
}
"""Documents of words {0, 1, 3}, {0, 1}, {2}, {0, 3}; word 4 occurs nowhere."""


def test_documents_that_hold_two_words_are_counted() -> None:
    found = occurrence(FOUR, np.array([[3, 0], [1, 4]]))
    assert found.words.tolist() == [0, 1, 3, 4] and found.documents == 4
    assert found.together.tolist() == [[3, 2, 2, 0], [2, 2, 1, 0], [2, 1, 2, 0], [0, 0, 0, 0]]


def test_npmi_is_what_hand_counts_give() -> None:
    values = pairwise_npmi(occurrence(FOUR, np.arange(5)))
    assert values[0, 1] == pytest.approx(math.log(0.5 / (0.75 * 0.5)) / -math.log(0.5))
    assert values[1, 3] == pytest.approx(0)  # 1/4 is a half times a half
    assert values[0, 2] == values[0, 4] == -1
    topics = np.array([[0.5, 0.4, 0.0, 0.1, 0.0], [0.4, 0.1, 0.5, 0.0, 0.0]])
    both = math.log(4 / 3) / math.log(2)
    assert npmi(topics, FOUR, 2) == pytest.approx([both, -1])
    third = math.log(0.5 / (0.75 * 0.5)) / -math.log(0.5)
    assert npmi(topics, FOUR, 3)[0] == pytest.approx((both + third + 0) / 3)


def test_words_that_stand_in_every_document_together_have_npmi_one() -> None:
    always = {"length": np.array([2, 2]), "word": np.array([0, 1, 0, 1]), "n_words": 2}
    assert npmi(np.array([[0.5, 0.5]]), always) == pytest.approx([1])


def test_top_words_are_the_most_probable_and_ties_go_by_number() -> None:
    topics = np.array([[0.2, 0.3, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]])
    assert top_words(topics, 3).tolist() == [[1, 2, 0], [3, 2, 1]]


def test_diversity_counts_different_words() -> None:
    topics = np.array([[0.5, 0.4, 0.1, 0.0], [0.5, 0.1, 0.4, 0.0]])
    assert diversity(topics, 1) == 0.5
    assert diversity(topics, 2) == 0.75
    assert diversity(np.eye(4), 1) == 1


def test_c_v_follows_its_formula() -> None:
    pytest.importorskip("gensim", reason="C_V is gensim's: pip install 'storyzoo[topics]'")
    assert has_c_v()
    known = drawn_corpus(np.random.default_rng(3), documents=80)
    tops = top_words(known.topics, 10)
    found = occurrence(known.arrays, tops)
    assert found.together.any(0).all()
    values = pairwise_npmi(found._replace(documents=_holding_any(known.arrays, tops)))
    expected = []
    for places in found.places(tops):
        v = values[np.ix_(places, places)]
        whole = v.sum(0)
        cosine = v @ whole / (np.linalg.norm(v, axis=1) * np.linalg.norm(whole))
        expected.append(cosine.mean())
    np.testing.assert_allclose(c_v(known.topics, known.arrays), expected, atol=1e-6)


def _holding_any(arrays: dict[str, Any], words: np.ndarray) -> int:
    document = np.repeat(np.arange(len(arrays["length"])), arrays["length"])
    return len(np.unique(document[np.isin(arrays["word"], words)]))


# -- agreement of runs -------------------------------------------------------------------------


def test_reordered_topics_agree_wholly() -> None:
    topics = np.random.default_rng(0).dirichlet(np.full(30, 0.1), 5)
    assert matched(topics, topics[[3, 1, 4, 0, 2]]) == pytest.approx(np.ones(5))
    assert matched(topics, topics[::-1], "jaccard").tolist() == [1] * 5


def test_shared_topics_are_those_at_the_threshold() -> None:
    one = np.eye(4)[:3]
    other = np.array([[0, 0, 0, 1.0], [0, 1, 0, 0], [0.6, 0, 0.8, 0]])
    assert matched(one, other) == pytest.approx([0, 1, 0.8])
    assert agreement([one, other], 0.8).shared == pytest.approx(2 / 3)
    assert agreement([one, other], 0.81).shared == pytest.approx(1 / 3)
    found = agreement([one, other, one])
    assert found.shared == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert found.likeness == pytest.approx((0.6 + 1 + 0.6) / 3)


def test_matches_are_one_to_one() -> None:
    """Both topics are nearest to the same one; only one of them gets it."""
    one = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    other = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert sorted(matched(one, other) > 0.5) == [False, True]


def test_jaccard_counts_top_words() -> None:
    one = np.array([[0.5, 0.3, 0.2, 0.0]])
    other = np.array([[0.5, 0.0, 0.3, 0.2]])
    assert matched(one, other, "jaccard", 2) == pytest.approx([1 / 3])
