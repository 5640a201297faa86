"""Unknown words and gaps are counted by document, and what is usual is told by the documents."""

from __future__ import annotations

import numpy as np
import pytest

from storyzoo.datasets.text import as_counts, of_strings
from storyzoo.datasets.unread import many
from storyzoo.datasets.vocabulary import Reading

OLD = ["ape bee bee", "ape bee the cat", "ape dog dog dog"]


def test_unknown_words_are_counted_by_document_without_stop_words() -> None:
    fitted = as_counts(of_strings("old", OLD), Reading(stop_words="english"))
    assert fitted.unread is None and fitted.reading is not None
    new = as_counts(of_strings("new", ["emu the emu ape", "ape bee"]), fitted.reading)
    assert new.unread is not None
    assert new.unread.unknown.tolist() == [2, 0]
    assert new.notes == ("new: 2 of 5 words are not in the vocabulary, and are left out",)


@pytest.mark.parametrize("tokens", ["words", "spaces"])
def test_gaps_are_no_words(tokens: str) -> None:
    fitted = as_counts(of_strings("old", OLD), Reading(tokens=tokens))
    assert fitted.reading is not None
    new = as_counts(of_strings("new", ["ape [?] bee[?]", "[ape] ape ?"]), fitted.reading)
    assert new.unread is not None and new.unread.gaps is not None
    assert new.unread.gaps.tolist() == [2, 0]
    assert new.unread.unknown.tolist() == ([0, 0] if tokens == "words" else [0, 2])


def test_dropped_documents_take_their_unknown_words_along() -> None:
    fitted = as_counts(of_strings("old", OLD), Reading())
    assert fitted.reading is not None
    new = as_counts(of_strings("new", ["emu emu", "ape emu"]), fitted.reading, drop_empty=True)
    assert new.unread is not None and new.unread.unknown.tolist() == [1]


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, 3 / 4),  # of the last document "dog" is in no other
        ({"stop_words": "english"}, 3 / 4),
        ({"min_df": 2}, 1.0),  # without itself each of its words is in one other at most
        ({"max_words": 1}, 3 / 4),
    ],
)
def test_usual_is_what_the_documents_would_lack_if_each_were_new(
    settings: dict[str, object], share: float
) -> None:
    texts = OLD if "min_df" not in settings else ["ape bee", "ape bee", "cat cat", "cat emu"]
    reading = as_counts(of_strings("old", texts), Reading(**settings)).reading  # type: ignore[arg-type]
    assert reading is not None and reading.usual_unknown == pytest.approx(share)


def test_a_few_short_documents_do_not_say_what_is_usual() -> None:
    texts = ["ape bee cat dog " * 50] * 40 + ["emu"]
    reading = as_counts(of_strings("old", texts), Reading()).reading
    assert reading is not None and reading.usual_unknown == 0.0


def test_many_are_more_than_chance_gives() -> None:
    """At one in ten of 100 words, 19 have chance .0046 and 18 have .0100 (binomial tails)."""
    found = many(np.array([17, 19, 1, 6, 0]), np.array([100, 100, 300, 300, 5]), 0.1)
    assert found.tolist() == [False, True, False, False, False]
    assert many(np.array([1, 6]), np.array([300, 300]), 0.0).tolist() == [False, True]
