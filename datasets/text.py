"""Text as documents: the lines of a file, the files of a folder, a column of a table."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from storyzoo.datasets.counts import Counts, joined
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.unread import Unread, joined_unread
from storyzoo.datasets.vocabulary import Lookup, Reading, Tally, with_usual
from storyzoo.errors import DataError, nearest

BLOCK = 2000
"""Documents that are counted at once: enough for the vector unit, few enough for the cache."""

PIECE = 2**20
"""Bytes that are read at once."""

MAX_DOCUMENT = 2**26
"""A longer document, 64 MiB, is refused: most likely its lines end in another way."""

MAX_FILES = 2**20
"""A folder of more files than these is refused: a file with a document per line is read faster."""

MAX_ENTRIES = 2**28
"""More counts than these, 4 GiB of them, are read only block by block."""


@dataclass(frozen=True)
class Texts:
    """Documents in their order, a block at a time, as often as they are asked for."""

    name: str
    blocks: Callable[[], Iterator[Sequence[str]]]
    unit: str = "document"
    """What holds a document: a line, a row."""
    names: tuple[str, ...] = ()
    labels: pd.Series | None = None
    test_rows: np.ndarray | None = None
    validation_rows: np.ndarray | None = None

    def place(self, document: int) -> str:
        """``news.txt, line 3``."""
        known = repr(self.names[document]) if self.names else document + 1
        return f"{self.name}, {self.unit} {known}"


# -- where documents are -----------------------------------------------------------------------


def of_lines(path: Path, block: int = BLOCK) -> Texts:
    """One document per line."""
    return Texts(path.name, lambda: regrouped(read_lines(path), block), "line")


def of_folder(folder: Path, block: int = BLOCK) -> Texts:
    """One document per ``.txt`` file; where all lie in subfolders, those are the labels."""
    paths = sorted(found for found in folder.rglob("*.txt") if found.is_file())
    if not paths:
        raise DataError(f"{folder} holds no .txt file: put a document in each")
    if len(paths) > MAX_FILES:
        raise DataError(f"{folder} holds {len(paths):,} files: put a document per line in one file")
    names = tuple(path.relative_to(folder).as_posix() for path in paths)
    above = [path.parent.relative_to(folder).as_posix() for path in paths]
    labels = None if "." in above else pd.Series(above, name="folder")

    def blocks() -> Iterator[list[str]]:
        return regrouped(([_read_file(path)] for path in paths), block)

    return Texts(folder.name, blocks, "file", names, labels)


def of_column(
    path: Path, text: str, labels: str = "", names: str = "", block: int = BLOCK
) -> Texts:
    """One document per row of a CSV, TSV or Parquet file, in the column ``text``."""
    from storyzoo.datasets import parquet, text_table

    read = text_table if path.suffix.lower() in (".csv", ".tsv") else parquet
    columns = dict(read.read_columns(path))
    for column in filter(None, (text, labels, names)):
        if column not in columns:
            raise DataError(f"{path.name}: no column {column!r}: {nearest(column, columns)}")
    rows = columns[text]
    if not len(rows):
        raise DataError(f"{path.name} has no rows: put at least one below the column names")
    if str(rows.type) not in ("string", "large_string"):
        raise DataError(f"{path.name}: column {text!r} holds {rows.type}: name a column of text")

    def blocks() -> Iterator[list[str]]:
        for start in range(0, len(rows), block):
            yield [value or "" for value in rows.slice(start, block).to_pylist()]

    classes = pd.Series(columns[labels].to_pylist(), name=labels) if labels else None
    called = tuple(map(str, columns[names].to_pylist())) if names else ()
    return Texts(path.name, blocks, "row", called, classes)


def of_strings(name: str, texts: Sequence[str], block: int = BLOCK) -> Texts:
    """Documents that are in memory."""
    return Texts(name, lambda: (texts[i : i + block] for i in range(0, len(texts), block)))


def read_lines(path: Path) -> Iterator[list[str]]:
    """The lines of a UTF-8 file, about a MiB at a time."""
    before = 0
    for content in whole_lines(path):
        text = decode(path.name, content, before)
        lines = text[:-1].split("\n")
        yield lines
        before += len(lines)


def whole_lines(path: Path, size: int = PIECE) -> Iterator[bytes]:
    """The content in pieces that end with a line feed; a ``.gz`` file is unpacked on the way."""
    rest = b""
    try:
        with _open(path) as opened:
            while piece := opened.read(size):
                head, feed, tail = piece.rpartition(b"\n")
                if feed:
                    yield (rest + head + feed).replace(b"\r\n", b"\n")
                    rest = tail
                else:
                    rest += piece
                if len(rest) > MAX_DOCUMENT:
                    raise DataError(f"{path.name} has a line of more than 64 MiB: break it up")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name} is truncated or no gzip file: write it again") from error
    if rest:
        yield rest.removesuffix(b"\r") + b"\n"


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    return path.open("rb")


def decode(name: str, content: bytes, lines_before: int = 0) -> str:
    """UTF-8 as text; DataError with the line where it is none."""
    try:
        text = content.decode("utf-8" if lines_before else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = lines_before + content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line} is not UTF-8: save the file as UTF-8") from None
    if "\0" in text:
        line = lines_before + text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{name}, line {line} holds a zero byte: give text, or name it rightly")
    return text


def _read_file(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_DOCUMENT:
        raise DataError(f"{path} is a document of {size:,} bytes, more than 64 MiB: break it up")
    return decode(str(path), path.read_bytes())


def regrouped(pieces: Iterator[Sequence[str]], block: int) -> Iterator[list[str]]:
    """The same documents in blocks of a size; the last may be smaller."""
    held: list[str] = []
    for piece in pieces:
        held.extend(piece)
        full = len(held) - len(held) % block
        for start in range(0, full, block):
            yield held[start : start + block]
        del held[:full]
    if held:
        yield held


# -- text to counts ----------------------------------------------------------------------------


def as_counts(texts: Texts, reading: Reading, drop_empty: bool = False) -> Dataset:
    """Documents as a data set; the reading gets its vocabulary from them where it has none.

    DataError where a document has no words, or none that are kept, unless such are to be dropped.
    """
    blocks: list[Counts] = []
    beside: list[Unread] = []
    counter = Lookup(reading) if reading.n_words else Tally(texts.name, reading)
    entries = before = 0
    for block in texts.blocks():
        if isinstance(counter, Lookup):
            found, unread = counter.add(block)
            beside.append(unread)
        else:
            found = counter.add(block)
        if not drop_empty:
            refuse_empty(texts, block, found, before, reading)
        entries, before = entries + len(found.word), before + len(block)
        if entries + before > MAX_ENTRIES:
            raise DataError(
                f"{texts.name} holds more than {MAX_ENTRIES:,} counts, too many at once: read it "
                "in blocks, by storyzoo.datasets.blocks"
            )
        blocks.append(found)
    if not before:
        raise DataError(f"{texts.name} has no documents: put one on each line")
    if isinstance(counter, Tally):
        fitted, place = counter.finish()
        whole = joined(blocks, len(place))
        fitted, counts = with_usual(fitted, whole, place), whole.renamed(place, fitted.n_words)
        return as_dataset(texts, counts, fitted, drop_empty)
    return as_dataset(
        texts, joined(blocks, reading.n_words), reading, drop_empty, joined_unread(beside)
    )


def refuse_empty(
    texts: Texts, block: Sequence[str], counts: Counts, before: int, reading: Reading
) -> None:
    """DataError where a document of a block has no words, or none that is known."""
    empty = np.flatnonzero(counts.length == 0)
    if not empty.size:
        return
    place = texts.place(before + int(empty[0]))
    if not block[empty[0]].strip():
        raise DataError(f"{place} is an empty document: {_REMEDY}")
    if reading.n_words:
        raise DataError(
            f"{place}: no word of the document is among the {reading.n_words:,} of the "
            f"vocabulary: {_REMEDY}"
        )
    raise DataError(
        f"{place}: the document has no words but stop words or single letters: {_REMEDY}"
    )


_REMEDY = "remove it, or leave such documents out with empty=drop"


def _unknown_words(name: str, unknown: int, known: int) -> tuple[str, ...]:
    """A note where words were left out."""
    if not unknown:
        return ()
    total = unknown + known
    return (f"{name}: {unknown:,} of {total:,} words are not in the vocabulary, and are left out",)


def as_dataset(
    texts: Texts,
    counts: Counts,
    reading: Reading,
    drop_empty: bool,
    unread: Unread | None = None,
) -> Dataset:
    """Counts as a data set, with documents that have lost all their words refused or dropped."""
    notes = () if unread is None else _unknown_words(texts.name, unread.total, counts.tokens)
    kept = counts.length > 0
    lost = np.flatnonzero(~kept)
    names = texts.names
    if lost.size and not drop_empty:
        raise DataError(
            f"{texts.place(int(lost[0]))}: no word of the document is in the vocabulary "
            f"({reading.n_words:,} words): keep more of them (min_df, max_df), remove it, or leave "
            "such documents out with empty=drop"
        )
    if lost.size == len(kept):
        raise DataError(f"{texts.name}: no document has a word of the vocabulary: give other text")
    if lost.size:
        counts = counts.documents(kept)
        places = ", ".join(texts.place(int(i)).removeprefix(f"{texts.name}, ") for i in lost[:3])
        more = ", …" if lost.size > 3 else ""
        notes += (f"{texts.name}: {lost.size:,} without words left out ({places}{more})",)
        names = tuple(name for name, k in zip(_numbered(texts, len(kept)), kept, strict=True) if k)
    return Dataset(
        texts.name,
        arrays=counts.arrays,
        coords=_coords(reading.vocabulary, names),
        labels=None if texts.labels is None else texts.labels[kept].reset_index(drop=True),
        test_rows=_moved(texts.test_rows, kept),
        validation_rows=_moved(texts.validation_rows, kept),
        reading=reading,
        unread=None if unread is None else unread.of(kept),
        notes=notes,
    )


def _numbered(texts: Texts, size: int) -> Sequence[str]:
    return texts.names or [str(i + 1) for i in range(size)]


def _coords(words: Sequence[str], documents: Sequence[str]) -> Mapping[str, Sequence[str]]:
    named = {"word": words, "document": documents}
    return {dim: names for dim, names in named.items() if names}


def _moved(rows: np.ndarray | None, kept: np.ndarray) -> np.ndarray | None:
    """Positions of rows, after only some rows were kept."""
    if rows is None:
        return None
    place: np.ndarray = np.cumsum(kept) - 1
    return np.asarray(place[rows[kept[rows]]])
