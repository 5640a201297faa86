"""How text becomes counts: cut into words, words looked up, the rare and the frequent left out.

Settings mean what they mean to scikit-learn's ``CountVectorizer``, whose ``max_features`` is here
``max_words``, and give the same counts; a test holds them against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from storyzoo.datasets.counts import Counts, count_tokens
from storyzoo.datasets.gaps import GAP
from storyzoo.datasets.unread import Unread, usual_unknown
from storyzoo.datasets.words import KINDS, Words, cut
from storyzoo.errors import DataError, SettingError, nearest

MAX_WORDS = 2**24
"""More different words than these, 16.8 million, are refused: memory grows with them."""


@dataclass(frozen=True)
class Reading:
    """How text is read; with a vocabulary, the same for any text.

    A share, a float from 0 to 1, is one of the documents; a whole number counts documents.
    """

    tokens: str = "words"
    """What a word is, a name of :data:`words.KINDS`; empty where counts were given: then no text
    can be read."""
    lowercase: bool = True
    stop_words: str | tuple[str, ...] = ""
    """Words to leave out: ``english`` for scikit-learn's list, or a list."""
    min_df: int | float = 1
    """Words in fewer documents are left out."""
    max_df: int | float = 1.0
    """Words in more documents are left out."""
    max_words: int = 0
    """Only so many words are kept, those that are used most; 0 keeps all."""
    n_words: int = 0
    """Size of the vocabulary."""
    vocabulary: tuple[str, ...] = ()
    """The words by their place; empty before a fit, or where words have no names."""
    usual_unknown: float | None = None
    """The largest usual share of unknown words of a document (:mod:`storyzoo.datasets.unread`);
    None before a fit, and where the documents were streamed."""

    def __post_init__(self) -> None:
        if self.tokens and self.tokens not in KINDS:
            raise SettingError(f"tokens={self.tokens!r}: {nearest(self.tokens, KINDS)}")
        if isinstance(self.stop_words, str) and self.stop_words not in ("", "english"):
            raise SettingError(f"stop_words={self.stop_words!r} should be english or a file")
        for name in ("min_df", "max_df"):
            value = getattr(self, name)
            if value < 0 or (isinstance(value, float) and not value <= 1):
                raise SettingError(
                    f"{name}={value} should be a share from 0.0 to 1.0, or a count of documents"
                )
        if self.max_words < 0:
            raise SettingError(f"max_words={self.max_words} should be 0 (all) or more")

    def cut(self, texts: Sequence[str]) -> Words:
        """The words of a block of documents, stop words among them."""
        if not self.tokens:
            raise DataError(
                "the run was fitted to counts, and how text was cut into words is not known: "
                "give counts, or fit with tokens=words"
            )
        return cut(texts, self.tokens, self.lowercase)

    def stopped(self) -> frozenset[str]:
        """The stop words."""
        if self.stop_words == "english":
            from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

            return frozenset(ENGLISH_STOP_WORDS)
        return frozenset(self.stop_words)

    def as_record(self) -> dict[str, Any]:
        """Plain values, as ``fit.json`` keeps them."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Reading:
        """What :meth:`as_record` gave. DataError where it holds anything else."""
        try:
            stop, words = record["stop_words"], tuple(map(_string, record["vocabulary"]))
            reading = cls(**{**record, "vocabulary": words})
            stop = stop if isinstance(stop, str) else tuple(map(_string, stop))
            reading = replace(reading, stop_words=stop)
            sound = len(set(words)) == len(words) and reading.n_words == (
                len(words) or int(reading.n_words)
            )
            sound &= reading.usual_unknown is None or 0 <= float(reading.usual_unknown) <= 1
        except (TypeError, KeyError, ValueError, SettingError) as error:
            raise DataError(f"the run's reading of text is damaged ({error}): fit again") from error
        if not sound:
            raise DataError("the run's vocabulary is damaged: fit again")
        return reading


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no word")
    return value


class Tally:
    """The first pass over text: a vocabulary that grows, and in how many documents words stand."""

    def __init__(self, name: str, reading: Reading) -> None:
        self.name, self.reading = name, reading
        self.n_documents = 0
        self._stopped = reading.stopped()
        self._place: dict[str, int] = {}
        self._frequency = np.zeros(0, np.int64)
        self._uses = np.zeros(0, np.int64)

    def add(self, texts: Sequence[str]) -> Counts:
        """Count a block of documents, over the vocabulary as it has grown."""
        words, place = self.reading.cut(texts), self._place
        places = [
            -1 if word in self._stopped else place.setdefault(word, len(place))
            for word in words.distinct
        ]
        if len(place) > MAX_WORDS:
            raise DataError(
                f"{self.name} has more than {MAX_WORDS:,} different words: is it text? If it is, "
                "read it by a given vocabulary"
            )
        counts = count_tokens(words.length, np.array(places, np.int64)[words.token], len(place))
        self.n_documents += len(words.length)
        self._frequency = _grown(self._frequency, counts.n_words) + counts.frequency
        self._uses = _grown(self._uses, counts.n_words) + counts.uses
        return counts

    def finish(self) -> tuple[Reading, np.ndarray]:
        """The reading with its vocabulary in alphabetical order, and each word's place in it.

        A place of -1 means that the word is left out. DataError where none is left, with the
        setting that left out the last.
        """
        words = list(self._place)
        kept = filter_words(self.name, self.reading, self._frequency, self._uses, self.n_documents)
        kept = np.array(sorted(kept.tolist(), key=words.__getitem__), np.int64)
        place = np.full(len(words), -1)
        place[kept] = np.arange(len(kept))
        vocabulary = tuple(words[old] for old in kept.tolist())
        return replace(self.reading, vocabulary=vocabulary, n_words=len(kept)), place


def with_usual(reading: Reading, counts: Counts, place: np.ndarray) -> Reading:
    """A fitted reading with the usual share of unknown words, by the documents fitted.

    ``counts`` and ``place`` ``(word,)`` are over all words that are no stop words.
    """
    least = _documents(reading.min_df, len(counts.length))
    return replace(reading, usual_unknown=usual_unknown(counts, place < 0, least))


def _grown(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)))


def filter_words(
    name: str, reading: Reading, frequency: np.ndarray, uses: np.ndarray, n_documents: int
) -> np.ndarray:
    """Words ``(kept,)`` that the settings keep, of all with ``frequency`` and ``uses`` ``(word,)``.

    DataError where a setting leaves none, with its name.
    """
    least, most = _documents(reading.min_df, n_documents), _documents(reading.max_df, n_documents)
    if least > most:
        raise SettingError(
            f"{name}: min_df={reading.min_df} and max_df={reading.max_df} leave no word possible "
            f"in {n_documents:,} documents: lower min_df or raise max_df"
        )
    kept = np.flatnonzero(frequency)
    if not kept.size:
        stop = isinstance(reading.stop_words, tuple) or reading.stop_words
        why = "all are stop words or single letters: leave stop_words out" if stop else "put some"
        raise DataError(f"{name} has no words: {why}, or cut at spaces with tokens=spaces")
    for option, keep, remedy in (
        (f"min_df={reading.min_df}", frequency >= least, "lower it"),
        (f"max_df={reading.max_df}", frequency <= most, "raise it"),
    ):
        before, kept = kept, kept[keep[kept]]
        if not kept.size:
            raise DataError(
                f"{name}: the vocabulary is empty, since {option} leaves out all words "
                f"({before.size:,}) in {n_documents:,} documents: {remedy}"
            )
    if reading.max_words and kept.size > reading.max_words:
        kept = kept[np.argsort(-uses[kept], kind="stable")[: reading.max_words]]
    return kept


def _documents(limit: int | float, n_documents: int) -> float:
    return limit * n_documents if isinstance(limit, float) else limit


class Lookup:
    """The second pass, and every later text: words are looked up in a given vocabulary.

    A gap (:data:`storyzoo.datasets.gaps.GAP`) is no word.
    """

    def __init__(self, reading: Reading) -> None:
        if not reading.vocabulary:
            raise DataError(
                "the vocabulary has no words by name, so text can't be read: give counts"
            )
        self.reading = reading
        self._place = dict.fromkeys(reading.stopped(), _STOPPED) | {
            word: place for place, word in enumerate(reading.vocabulary)
        }

    def add(self, texts: Sequence[str]) -> tuple[Counts, Unread]:
        """Count a block of documents; unknown words and gaps are left out and counted apart."""
        gaps = np.array([text.count(GAP) for text in texts], np.int64)
        words = self.reading.cut([text.replace(GAP, " ") for text in texts] if any(gaps) else texts)
        places = [self._place.get(word, _UNKNOWN) for word in words.distinct]
        token = np.array(places, np.int64)[words.token]
        document = np.repeat(np.arange(len(texts)), words.length)
        unknown = np.bincount(document[token == _UNKNOWN], minlength=len(texts))
        counts = count_tokens(words.length, token, self.reading.n_words)
        return counts, Unread(unknown, gaps)


_UNKNOWN, _STOPPED = -1, -2


def align(
    name: str, counts: Counts, words: Sequence[str], reading: Reading
) -> tuple[Counts, Unread]:
    """Counts over the vocabulary of a reading, and how many words were left out, by document.

    ``words`` are the names of the words in ``counts``, empty where they have none: then places
    must agree.
    """
    if words and reading.vocabulary:
        known = {word: place for place, word in enumerate(reading.vocabulary)}
        place = np.array([known.get(word, -1) for word in words], np.int64)
        found = counts.renamed(place, reading.n_words)
        return found, Unread(counts.sizes - found.sizes, None)
    if counts.word.size and counts.word.max() >= reading.n_words:
        document = int(counts.document[counts.word >= reading.n_words][0])
        raise DataError(
            f"{name}: document {document + 1} has a word in place {counts.word.max() + 1:,}, but "
            f"the vocabulary of the run has {reading.n_words:,}: name the words by vocabulary=FILE"
        )
    none = np.zeros(len(counts.length), np.int64)
    return replace(counts, n_words=reading.n_words), Unread(none, None)
