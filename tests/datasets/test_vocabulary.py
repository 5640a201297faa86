"""Words and their counts are those of scikit-learn's vectoriser, and can be had again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from storyzoo.datasets import load
from storyzoo.datasets.text import as_counts, of_strings
from storyzoo.datasets.vocabulary import Reading, Tally
from storyzoo.datasets.words import cut
from storyzoo.errors import DataError, SettingError
from tests.datasets.corpora import counts_of, same

ODD = [
    "Don't stop: it's 3.14 o'clock_now, A b cd — naïve CAFÉ ΣΊΣΥΦΟΣ",
    "İstanbul ﬁne straße STRASSE x² ½ 東京 タワー 𝔸𝔹 é",
    "tabs\tand\x0bvertical\x0cfeeds\xa0no-break\u2003em\u200bzero\x85next\x1cfile",
    "one\ntwo\n\nthree four one one",
    "__init__ __ _ a_ _a 1 12 a1",
    "  leading and trailing  ",
]
"""Text on which ways of cutting differ."""


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize(("kind", "pattern"), [("words", r"(?u)\b\w\w+\b"), ("spaces", r"\S+")])
@pytest.mark.parametrize("texts", [ODD, ["plain ascii text a of Words"], ["é", "", "ab"]])
def test_words_are_those_of_scikit_learn(
    texts: list[str], kind: str, pattern: str, lowercase: bool
) -> None:
    analyze = CountVectorizer(lowercase=lowercase, token_pattern=pattern).build_analyzer()
    found = cut(texts, kind, lowercase)
    tokens = [found.distinct[place] for place in found.token]
    ends = np.cumsum(found.length)[:-1]
    assert [list(t) for t in np.split(np.array(tokens, object), ends)] == list(map(analyze, texts))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_df": 3},
        {"max_df": 0.3},
        {"min_df": 0.02, "max_df": 60},
        {"max_words": 200},
        {"stop_words": "english"},
        {"lowercase": False, "min_df": 2},
        {"stop_words": ("python", "the"), "min_df": 2},
    ],
)
def test_counts_are_those_of_scikit_learn(settings: dict[str, Any]) -> None:
    from pydoc_data.topics import topics

    texts = list(topics.values())
    found = as_counts(of_strings("topics", texts), Reading(**settings), drop_empty=True)
    renamed = {"max_features" if k == "max_words" else k: v for k, v in settings.items()}
    if isinstance(renamed.get("stop_words"), tuple):
        renamed["stop_words"] = list(renamed["stop_words"])
    vectorizer = CountVectorizer(**renamed)
    expected = vectorizer.fit_transform(texts)
    expected.sort_indices()
    counts = counts_of(found)
    if "max_words" in settings:  # ties at the last place may fall either way
        assert counts.n_words == expected.shape[1] and counts.tokens == expected.sum()
        return
    assert list(found.coords["word"]) == vectorizer.get_feature_names_out().tolist()
    assert np.array_equal(counts.length, np.diff(expected.indptr))
    assert np.array_equal(counts.word, expected.indices)
    assert np.array_equal(counts.count, expected.data)


@pytest.mark.parametrize("seed", range(5))
def test_counts_sum_to_the_tokens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 50, rng.integers(1, 80))) for _ in range(99)]
    found = counts_of(as_counts(of_strings("toy", texts, block=7), Reading()))
    n_tokens = [len(text.split()) for text in texts]
    assert found.tokens == sum(n_tokens)
    assert np.bincount(found.document, found.count).astype(int).tolist() == n_tokens
    assert found.length.tolist() == [len(set(text.split())) for text in texts]
    ends = np.cumsum(found.length)[:-1]
    assert all((np.diff(words) > 0).all() for words in np.split(found.word, ends))
    assert (found.count > 0).all() and found.frequency.min() >= 1


@pytest.mark.parametrize("settings", [{}, {"min_df": 3}, {"stop_words": "english"}])
def test_the_stored_reading_reads_the_fitted_rows_again(settings: dict[str, Any]) -> None:
    from pydoc_data.topics import topics

    texts = of_strings("topics", list(topics.values()), block=10)
    fitted = as_counts(texts, Reading(**settings))
    assert fitted.reading is not None
    stored = Reading.from_record(json.loads(json.dumps(fitted.reading.as_record())))
    assert stored == fitted.reading
    again = as_counts(texts, stored)
    assert same(counts_of(again), counts_of(fitted))
    assert again.coords == fitted.coords


def test_words_that_are_unknown_are_counted_and_left_out() -> None:
    fitted = as_counts(of_strings("old", ["ape bee", "bee cat the"]), Reading(stop_words="english"))
    new = as_counts(of_strings("new", ["cat dog the dog cat"]), fitted.reading or Reading())
    assert new.notes == ("new: 2 of 4 words are not in the vocabulary, and are left out",)
    assert counts_of(new).word.tolist() == [2] and counts_of(new).count.tolist() == [2]


def test_a_block_is_counted_as_its_documents_are() -> None:
    texts = [*ODD, *reversed(ODD)] * 3
    whole = as_counts(of_strings("odd", texts), Reading())
    for block in (1, 4, 35):
        found = as_counts(of_strings("odd", texts, block), Reading())
        assert same(counts_of(found), counts_of(whole))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"min_df": 3},
            "the vocabulary is empty, since min_df=3 leaves out all words (4) in 3 doc",
        ),
        ({"max_df": 0}, "min_df=1 and max_df=0 leave no word possible"),
        ({"max_df": 0.2}, "min_df=1 and max_df=0.2 leave no word possible in 3 documents"),
        ({"stop_words": ("ape", "bee", "cat", "dog")}, "all are stop words or single letters"),
    ],
)
def test_an_empty_vocabulary_names_the_setting(settings: dict[str, Any], said: str) -> None:
    tally = Tally("toy", Reading(**settings))
    tally.add(["ape bee", "bee cat", "dog cat"])
    with pytest.raises((DataError, SettingError)) as caught:
        tally.finish()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_max_df_may_leave_nothing() -> None:
    tally = Tally("toy", Reading(max_df=0.5))
    tally.add(["ape", "ape"])
    with pytest.raises(
        DataError, match=r"since max_df=0\.5 leaves out all words \(1\) .*: raise it"
    ):
        tally.finish()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": "word"}, "did you mean 'words'"),
        ({"min_df": -1}, "min_df=-1 should be a share"),
        ({"max_df": 1.5}, "max_df=1.5 should be a share"),
        ({"stop_words": "german"}, "should be english or a file"),
        ({"max_words": -3}, "max_words=-3 should be 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        Reading(**settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary": ["ape", "ape"]},
        {"vocabulary": [1, 2]},
        {"n_words": 7},
        {"n_words": "two"},
        {"surplus": 1},
        {"tokens": "letters"},
        {"min_df": None},
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any]) -> None:
    record = Reading(vocabulary=("ape", "bee"), n_words=2).as_record() | change
    with pytest.raises(DataError, match="damaged"):
        Reading.from_record(json.loads(json.dumps(record)))


def test_python_docs_hold_each_section_once() -> None:
    docs = load("python-docs")
    names = docs.coords["document"]
    assert len(set(names)) == len(names) and 'The "with" statement (with)' in names
    assert docs.labels is not None and len(docs.labels) == len(names)
    assert "python" in docs.coords["word"]
    assert counts_of(docs).length.min() >= 5


def test_bbc_news_keeps_its_split(mirror: Path) -> None:
    news = load("bbc-news")
    assert news.test_rows is not None and news.validation_rows is not None
    assert (len(news.test_rows), len(news.validation_rows)) == (335, 334)
    assert news.labels is not None
    assert news.labels.value_counts().to_dict() == {
        "sport": 511, "business": 510, "politics": 417, "tech": 401, "entertainment": 386,
    }  # fmt: skip
    counts = counts_of(news)
    assert (counts.tokens, len(counts.word)) == (267_259, 182_484)
    assert news.labels[news.test_rows].value_counts()["politics"] == 64


def test_the_split_stands_where_documents_are_dropped(mirror: Path) -> None:
    whole, some = load("bbc-news"), load("bbc-news:max_words=12,empty=drop")
    kept = [int(name) - 1 for name in some.coords["document"]]
    assert 0 < len(kept) < 2225 and some.test_rows is not None and whole.test_rows is not None
    assert [kept[row] for row in some.test_rows] == sorted(set(kept) & set(whole.test_rows))
    assert some.labels is not None and whole.labels is not None
    assert some.labels.tolist() == whole.labels[kept].tolist()


def test_named_sets_are_read_as_a_fit_was(mirror: Path) -> None:
    some = load("bbc-news:min_df=20")
    again = load("bbc-news", some.reading)
    assert same(counts_of(again), counts_of(some)) and again.notes
    with pytest.raises(SettingError, match="text is read as the run's was: leave min_df= out"):
        load("bbc-news:min_df=2", some.reading)
