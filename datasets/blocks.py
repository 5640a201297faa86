"""Corpora that don't fit in memory: documents a block at a time, over a given vocabulary.

Two passes: :func:`count_words` reads the text once for its vocabulary, :func:`iterate_blocks`
again, as often as wanted, for the counts. Memory grows with the vocabulary and the block, not with
the number of documents. A table's column is the exception: CSV and Parquet are read whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from storyzoo.datasets import text
from storyzoo.datasets.corpus import CountFile, form_of, open_corpus
from storyzoo.datasets.counts import Counts, joined
from storyzoo.datasets.vocabulary import Lookup, Reading, Tally, align
from storyzoo.errors import DataError


def count_words(
    path: str | Path, reading: Reading | None = None, options: Mapping[str, str] | None = None
) -> Reading:
    """The first pass: the reading with its vocabulary. Counts have theirs, and are not filtered."""
    return survey(path, reading, options)[0]


def survey(
    path: str | Path, reading: Reading | None = None, options: Mapping[str, str] | None = None
) -> tuple[Reading, int]:
    """The first pass: the reading with its vocabulary, and the number of documents."""
    source = _open(Path(path), options or {}, text.BLOCK)
    if isinstance(source, CountFile):
        n_words, documents = len(source.words), 0
        for counts in source.blocks():
            n_words, documents = max(n_words, counts.n_words), documents + len(counts.length)
        return Reading(tokens="", vocabulary=source.words, n_words=n_words), documents
    reading = reading or Reading()
    tally, before = Tally(source.name, reading), 0
    for block in source.blocks():
        text.refuse_empty(source, block, tally.add(block), before, reading)
        before += len(block)
    return tally.finish()[0], before


def iterate_blocks(
    path: str | Path,
    vocabulary: Reading,
    block: int = text.BLOCK,
    *,
    options: Mapping[str, str] | None = None,
) -> Iterator[Counts]:
    """The documents of a file as counts, ``block`` at a time, the last block maybe fewer.

    ``options`` are those of the file's form, as after its name: ``{"text": "body"}``. Documents
    without a word of the vocabulary are kept, with length 0; an empty one is an error.
    """
    if block < 1:
        raise DataError(f"block={block}: at least one document")
    source = _open(Path(path), options or {}, block)
    if isinstance(source, CountFile):
        name = source.path.name
        aligned = (align(name, b, source.words, vocabulary)[0] for b in source.blocks())
        yield from _regrouped(aligned, block, vocabulary.n_words)
        return
    lookup, before = Lookup(vocabulary), 0
    for texts in source.blocks():
        found, _ = lookup.add(texts)
        if not found.length.all():
            _refuse_blank(source, texts, found, before)
        yield found
        before += len(texts)


def _refuse_blank(source: text.Texts, texts: Sequence[str], found: Counts, before: int) -> None:
    for document in np.flatnonzero(found.length == 0).tolist():
        if not texts[document].strip():
            raise DataError(f"{source.place(before + document)} is an empty document: remove it")


def _open(path: Path, options: Mapping[str, str], block: int) -> text.Texts | CountFile:
    form = form_of(path, options)
    if not path.exists():
        raise DataError(f"no file {str(path)!r}")
    if not form:
        raise DataError(f"{path.name} is no corpus: name its form, as in {{'format': 'lines'}}")
    return open_corpus(path, form, options, block)


def _regrouped(pieces: Iterator[Counts], block: int, n_words: int) -> Iterator[Counts]:
    """The same documents in blocks of a size."""
    held = joined([], n_words)
    for piece in pieces:
        held = joined([held, piece], n_words)
        entry = np.concatenate([[0], np.cumsum(held.length)])
        full = len(held.length) - len(held.length) % block
        for start in range(0, full, block):
            yield _part(held, entry, start, start + block)
        held = _part(held, entry, full, len(held.length))
    if len(held.length):
        yield held


def _part(counts: Counts, entry: np.ndarray, start: int, end: int) -> Counts:
    """Documents ``start`` to ``end - 1``."""
    entries = slice(entry[start], entry[end])
    length, word, count = counts.length[start:end], counts.word[entries], counts.count[entries]
    return Counts(length, word, count, counts.n_words)
