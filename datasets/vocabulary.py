"""How text becomes counts: cut into words, words looked up, the rare and the frequent left out.

The cutting is that of scikit-learn's ``CountVectorizer``, and so is the meaning of ``min_df``,
``max_df`` and ``max_words`` (its ``max_features``). Counting is vectorised here, block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from storyzoo.datasets.counts import Counts, count_tokens
from storyzoo.errors import DataError, SettingError, nearest

TOKENS = {"words": r"(?u)\b\w\w+\b", "spaces": r"\S+"}
"""What a word is: two or more letters, digits or underscores, or whatever stands between spaces."""

MAX_WORDS = 2**24
"""More different words than these, 16.8 million, are refused: memory grows with them."""


@dataclass(frozen=True)
class Reading:
    """How text is read; with a vocabulary, the same for any text.

    A share, a float from 0 to 1, is one of the documents; a whole number counts documents.
    """

    tokens: str = "words"
    """A name of :data:`TOKENS`; empty where counts were given, and no text can be read."""
    lowercase: bool = True
    stop_words: str | tuple[str, ...] = ""
    """Words to leave out: ``english`` for scikit-learn's list, or a list."""
    min_df: int | float = 1
    """Words in fewer documents are left out."""
    max_df: int | float = 1.0
    """Words in more documents are left out."""
    max_words: int = 0
    """Only so many words are kept, those that are used most; 0 keeps all."""
    vocabulary: tuple[str, ...] = ()
    """The words by their place; empty before a fit, or where words have no names."""
    n_words: int = 0
    """Size of the vocabulary."""

    def __post_init__(self) -> None:
        if self.tokens and self.tokens not in TOKENS:
            raise SettingError(f"tokens={self.tokens!r}: {nearest(self.tokens, TOKENS)}")
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

    def analyzer(self) -> Callable[[str], list[str]]:
        """Text -> its words, stop words left out."""
        from sklearn.feature_extraction.text import CountVectorizer

        if not self.tokens:
            raise DataError(
                "the run was fitted to counts, and how text was cut into words is not known: "
                "give counts, or fit with tokens=words"
            )
        stop = self.stop_words if isinstance(self.stop_words, str) else list(self.stop_words)
        vectorizer = CountVectorizer(
            lowercase=self.lowercase, stop_words=stop or None, token_pattern=TOKENS[self.tokens]
        )
        analyze: Callable[[str], list[str]] = vectorizer.build_analyzer()
        return analyze

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
        except (TypeError, KeyError, ValueError, SettingError) as error:
            raise DataError(f"the run's reading of text is damaged ({error}): fit again") from error
        if not sound:
            raise DataError("the run's vocabulary is damaged: fit again")
        return reading


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no word")
    return value


class _Growing(dict[str, int]):
    """Word -> place; a word that is new gets the next place."""

    def __missing__(self, word: str) -> int:
        self[word] = place = len(self)
        return place


class _Known(dict[str, int]):
    """Word -> place, -1 where it is in no vocabulary."""

    def __missing__(self, word: str) -> int:
        return -1


class Tally:
    """The first pass over text: a vocabulary that grows, and in how many documents words stand."""

    def __init__(self, name: str, reading: Reading) -> None:
        self.name, self.reading = name, reading
        self.n_documents = 0
        self._place = _Growing()
        self._analyze = reading.analyzer()
        self._frequency = np.zeros(1024, np.int64)
        self._uses = np.zeros(1024, np.int64)

    def add(self, texts: Iterable[str]) -> Counts:
        """Count a block of documents, over the vocabulary as it has grown."""
        length, token = _places(texts, self._analyze, self._place)
        if len(self._place) > MAX_WORDS:
            raise DataError(
                f"{self.name} has more than {MAX_WORDS:,} different words: is it text? If it is, "
                "read it by a given vocabulary"
            )
        counts = count_tokens(length, token, len(self._place))
        self._grow(len(self._place))
        self.n_documents += len(length)
        np.add.at(self._frequency, counts.word, 1)
        np.add.at(self._uses, counts.word, counts.count)
        return counts

    def _grow(self, size: int) -> None:
        if size > len(self._frequency):
            more = np.zeros(max(size, 2 * len(self._frequency)) - len(self._frequency), np.int64)
            self._frequency = np.concatenate([self._frequency, more])
            self._uses = np.concatenate([self._uses, more])

    def finish(self) -> tuple[Reading, np.ndarray]:
        """The reading with its vocabulary in alphabetical order, and each word's place in it.

        A place of -1 means that the word is left out. DataError where none is left, with the
        setting that left out the last.
        """
        words = list(self._place)
        size = len(words)
        kept = filter_words(
            self.name, self.reading, self._frequency[:size], self._uses[:size], self.n_documents
        )
        kept = np.array(sorted(kept.tolist(), key=words.__getitem__), np.int64)
        place = np.full(size, -1)
        place[kept] = np.arange(len(kept))
        vocabulary = tuple(words[old] for old in kept.tolist())
        return replace(self.reading, vocabulary=vocabulary, n_words=len(kept)), place


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
                f"{name}: the vocabulary is empty, since {option} leaves out all {before.size:,} "
                f"words in {n_documents:,} documents: {remedy}"
            )
    if reading.max_words and kept.size > reading.max_words:
        kept = kept[np.argsort(-uses[kept], kind="stable")[: reading.max_words]]
    return kept


def _documents(limit: int | float, n_documents: int) -> float:
    return limit * n_documents if isinstance(limit, float) else limit


class Lookup:
    """The second pass, and every later text: words are looked up in a given vocabulary."""

    def __init__(self, reading: Reading) -> None:
        if not reading.vocabulary:
            raise DataError("the vocabulary has no words by name, so no text can be read: give counts")
        self.reading = reading
        self.unknown = 0
        """How many words were in no vocabulary so far; stop words are not among them."""
        self.tokens = 0
        """How many words there were so far."""
        self._analyze = reading.analyzer()
        self._place = _Known(zip(reading.vocabulary, range(reading.n_words), strict=True))

    def add(self, texts: Iterable[str]) -> Counts:
        """Count a block of documents; unknown words are left out and counted."""
        length, token = _places(texts, self._analyze, self._place)
        self.unknown += int((token < 0).sum())
        self.tokens += len(token)
        return count_tokens(length, token, self.reading.n_words)


def _places(
    texts: Iterable[str], analyze: Callable[[str], list[str]], place: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens per document ``(document,)``, and the place of each token ``(token,)``."""
    lengths: list[int] = []
    places: list[int] = []
    look_up = place.__getitem__
    for text in texts:
        words = analyze(text)
        lengths.append(len(words))
        places.extend(map(look_up, words))
    return np.array(lengths, np.int64), np.array(places, np.int64)


def align(name: str, counts: Counts, words: Sequence[str], reading: Reading) -> tuple[Counts, int]:
    """Counts over the vocabulary of a reading, and how many uses of other words were left out.

    ``words`` are the names of the words in ``counts``, empty where they have none: then places
    must agree.
    """
    if words and reading.vocabulary:
        known = {word: place for place, word in enumerate(reading.vocabulary)}
        place = np.array([known.get(word, -1) for word in words], np.int64)
        found = counts.renamed(place, reading.n_words)
        return found, counts.tokens - found.tokens
    if counts.word.size and counts.word.max() >= reading.n_words:
        document = int(counts.document[counts.word >= reading.n_words][0])
        raise DataError(
            f"{name}: document {document + 1} has a word in place {counts.word.max() + 1:,}, but "
            f"the vocabulary of the run has {reading.n_words:,}: name the words by vocabulary=FILE"
        )
    return counts._replace(n_words=reading.n_words), 0
