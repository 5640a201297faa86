"""A corpus from the user's files: text in several forms, or counts; with the options of each.

``news.txt:min_df=5,max_df=0.5`` has a document per line, a folder one per ``.txt`` file,
``articles.csv:text=body,labels=topic`` one per row; ``docword.NAME.txt`` is UCI's bag of words,
``NAME.ldac`` is LDA-C, an ``.npz`` may hold SciPy's sparse matrix. ``.gz`` is unpacked. With
``stream=true`` the file is fitted from block by block.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from storyzoo.datasets import count_files, selection, text
from storyzoo.datasets.counts import Counts
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.selection import READING
from storyzoo.datasets.vocabulary import Reading, align, filter_words, with_usual
from storyzoo.errors import DataError, SettingError, nearest

FORMS = {
    "lines": ("format", "empty", "stream"),
    "folder": ("format", "empty", "stream"),
    "column": ("format", "empty", "stream", "text", "labels", "names"),
    "uci": ("format", "empty", "stream", "vocabulary"),
    "lda-c": ("format", "empty", "stream", "vocabulary"),
    "sparse": ("format", "empty", "stream", "vocabulary"),
}
"""What a file can be, and the options that it takes beside those of reading."""

TABLES = (".csv", ".tsv", ".parquet", ".pq")


@dataclass(frozen=True)
class CountFile:
    """Documents as counts, about a MiB of the file at a time, as often as they are asked for."""

    path: Path
    form: str
    words: tuple[str, ...] = ()
    """Names of the words, where a vocabulary was given or lies beside."""

    def blocks(self) -> Iterator[Counts]:
        """The documents, over the file's own vocabulary."""
        if self.form == "uci":
            return count_files.uci(self.path)
        if self.form == "lda-c":
            return count_files.lda_c(self.path, len(self.words))
        return iter([self._sparse()])

    def _sparse(self) -> Counts:
        from storyzoo.datasets.npz import read_arrays

        return count_files.from_sparse(self.path.name, read_arrays(self.path))

    def texts(self) -> text.Texts:
        """Where its documents are, for messages."""
        return text.Texts(self.path.name, lambda: iter(()))


def form_of(path: Path, options: Mapping[str, str]) -> str:
    """What the file is, one of :data:`FORMS`, or nothing where it is no corpus."""
    if given := options.get("format"):
        if given not in FORMS:
            raise SettingError(f"data {path.name!r}: format={given!r}: {nearest(given, FORMS)}")
        return given
    if path.is_dir():
        return "folder"
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == ".txt":
        return "uci" if path.name.startswith("docword") else "lines"
    if suffix in TABLES and "text" in options:
        return "column"
    if suffix == ".npz" and path.is_file() and _holds_sparse(path):
        return "sparse"
    return "lda-c" if suffix == ".ldac" else ""


def _holds_sparse(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return count_files.is_sparse([n.removesuffix(".npy") for n in archive.namelist()])
    except (OSError, zipfile.BadZipFile):
        return False  # the reader of plain NPZ says what is wrong


def read_corpus(
    path: Path, form: str, options: Mapping[str, str], reading: Reading | None = None
) -> Dataset:
    """Documents as a data set of counts; with a reading as that reads them."""
    from storyzoo.datasets import stream

    if stream.is_asked_for(path.name, options):
        if reading is not None:
            raise SettingError(f"data {path.name!r}: only what is fitted is streamed: leave it out")
        return stream.open_stream(path, form, options, FORMS[form])
    wanted = reading or read_reading(path.name, options, READING + FORMS[form])
    if reading is not None:
        selection.leave_reading(path.name, options)
        selection.check_options(path.name, options, FORMS[form])
    drop = drops_empty(path.name, options)
    source = open_corpus(path, form, options)
    if isinstance(source, text.Texts):
        return text.as_counts(source, wanted, drop)
    if reading is not None:
        return _aligned(source, reading, drop)
    filtered = any(key in options for key in READING if key not in ("tokens", "lowercase"))
    return _filtered(source, replace(wanted, tokens=options.get("tokens", "")), drop, filtered)


def open_corpus(
    path: Path, form: str, options: Mapping[str, str], block: int = text.BLOCK
) -> text.Texts | CountFile:
    """The documents of a file, not yet read."""
    if form == "folder":
        return text.of_folder(path, block)
    if form == "lines":
        return text.of_lines(path, block)
    if form == "column":
        if "text" not in options:
            raise SettingError(f"data {path.name!r}: name the column of text with text=COLUMN")
        more = {key: options[key] for key in ("labels", "names") if key in options}
        return text.of_column(path, options["text"], **more, block=block)
    given = options.get("vocabulary")
    found = Path(given) if given else count_files.vocabulary_beside(path, form)
    return CountFile(path, form, count_files.read_vocabulary(found) if found else ())


def read_reading(name: str, options: Mapping[str, str], known: Sequence[str]) -> Reading:
    """The reading that options ask for, without a vocabulary."""
    selection.check_options(name, options, known)
    settings: dict[str, Any] = {
        key: _setting(name, key, options[key]) for key in READING if key in options
    }
    if isinstance(stop := settings.get("stop_words"), str) and stop not in ("", "english"):
        words = _stop_words(name, Path(stop))
        lower = settings.get("lowercase", True)
        settings["stop_words"] = tuple(sorted({w.lower() if lower else w for w in words}))
    try:
        return Reading(**settings)
    except SettingError as error:
        raise SettingError(f"data {name!r}: {error}") from None


def _stop_words(name: str, path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise SettingError(
            f"data {name!r}: stop_words={str(path)!r} should be english, or a file with a word "
            "per line"
        )
    return count_files.read_vocabulary(path)


def _setting(name: str, key: str, value: str) -> bool | int | float | str:
    if key in ("tokens", "stop_words"):
        return value
    if key in ("min_df", "max_df"):
        return selection.read_option(name, key, value, float if "." in value else int)
    return selection.read_option(name, key, value, bool if key == "lowercase" else int)


def drops_empty(name: str, options: Mapping[str, str]) -> bool:
    """Whether documents without words are to be left out, not refused."""
    given = options.get("empty", "refuse")
    if given not in ("refuse", "drop"):
        raise SettingError(f"data {name!r}: empty={given!r} should be refuse or drop")
    return given == "drop"


def _gathered(source: CountFile, drop: bool) -> Counts:
    """All documents, over the file's own vocabulary."""
    name = source.path.name
    counts = count_files.gathered(name, source.blocks())
    if source.words and len(source.words) < counts.n_words:
        raise DataError(
            f"{name} has {counts.n_words:,} words, but its vocabulary names "
            f"{len(source.words):,}: give a line to each"
        )
    if not drop and not counts.length.all():
        document = int(np.flatnonzero(counts.length == 0)[0])
        raise DataError(
            f"{source.texts().place(document)} is empty: remove it, or leave such documents out "
            "with empty=drop"
        )
    return replace(counts, n_words=max(counts.n_words, len(source.words)))


def _aligned(source: CountFile, reading: Reading, drop: bool) -> Dataset:
    """Counts over the vocabulary of a run."""
    name, counts = source.path.name, _gathered(source, drop)
    found, unread = align(name, counts, source.words, reading)
    return text.as_dataset(source.texts(), found, reading, drop, unread)


def _filtered(source: CountFile, reading: Reading, drop: bool, filtered: bool) -> Dataset:
    """Counts as they are, or without the words that settings leave out."""
    counts, words = _gathered(source, drop), source.words
    kept = np.arange(counts.n_words)
    if filtered:
        counts = _without(counts, words, reading.stopped())
        frequency, size = counts.frequency, len(counts.length)
        kept = np.sort(filter_words(source.path.name, reading, frequency, counts.uses, size))
    place = np.full(counts.n_words, -1)
    place[kept] = np.arange(len(kept))
    vocabulary = tuple(words[old] for old in kept.tolist()) if words else ()
    fitted = replace(reading, vocabulary=vocabulary, n_words=len(kept))
    if words:  # else other counts have no unknown words either
        fitted = with_usual(fitted, counts, place)
    return text.as_dataset(source.texts(), counts.renamed(place, len(kept)), fitted, drop)


def _without(counts: Counts, words: Sequence[str], stopped: frozenset[str]) -> Counts:
    """Counts without the uses of stop words."""
    place = [-1 if word in stopped else v for v, word in enumerate(words)]
    return counts.renamed(np.array(place, np.int64), counts.n_words) if words else counts
