"""Text as sequences of tokens: lines, paragraphs or whole documents, with nothing left out.

``story.txt:codec=characters,by=paragraph``. A file of text is one document; so is a file of a
folder, a row of a table, a section of a named corpus.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from storyzoo.datasets import selection
from storyzoo.datasets.codecs import TextCodec, codec_class, cut
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.gaps import GAP
from storyzoo.datasets.selection import CODING, READING
from storyzoo.datasets.text import (
    MAX_DOCUMENT,
    Texts,
    decode,
    of_column,
    of_folder,
    whole_lines,
)
from storyzoo.errors import DataError, SettingError

MAX_LENGTH = 2**28
"""More tokens than these, 2 GiB of them, are refused."""

FORMS = {
    "lines": ("format",),
    "folder": ("format",),
    "column": ("format", "text", "labels", "names"),
}
"""Forms of files (of ``corpus.py``) that hold text, with the options of each."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """How text is to become tokens, before any was seen."""

    kind: str
    by: str
    symbols: int = 0
    """At most so many different ones, those used most; 0 keeps all."""

    def learn(self, name: str, texts: Sequence[str]) -> TextCodec:
        """The codec for these texts."""
        if self.symbols < 0:
            raise SettingError(f"data {name!r}: symbols={self.symbols} should be 0 (all) or more")
        kind: type[TextCodec] = codec_class(name, self.kind)
        try:
            return kind.learn(texts, self.symbols, self.by)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        except SettingError as error:
            raise SettingError(f"data {name!r}: {error}") from None


def refuse_reading(name: str, options: Mapping[str, str]) -> None:
    """SettingError where options of counts stand beside a codec, or those of a codec without."""
    if "codec" in options and (given := [key for key in READING if key in options]):
        raise SettingError(
            f"data {name!r}: {given[0]}= is for counts of words: leave it out beside codec="
        )
    if "codec" not in options and (given := [key for key in CODING if key in options]):
        raise SettingError(
            f"data {name!r}: {given[0]}= is for sequences: add codec=characters, or leave it out"
        )


def coding_of(name: str, options: Mapping[str, str], by: str) -> Coding:
    """The coding that options ask for; ``by`` where they do not say."""
    refuse_reading(name, options)
    symbols = int(selection.read_option(name, "symbols", options.get("symbols", "0"), int))
    return Coding(options.get("codec", "characters"), options.get("by", by), symbols)


def read_file(
    path: Path, form: str, options: Mapping[str, str], codec: TextCodec | None, gaps: bool = False
) -> Dataset:
    """Sequences from the user's text, of any form in which documents come; by a run's codec.

    With ``gaps`` the mark of a gap is a token that is missing.
    """
    if form not in FORMS:
        raise SettingError(
            f"data {path.name!r}: codec= is for text, and this holds counts or numbers: leave it "
            "out"
        )
    if codec is not None:
        selection.leave_reading(path.name, options, CODING)
        selection.check_options(path.name, options, FORMS[form])
        return as_sequences(_open(path, form, options), codec, gaps)
    coding = coding_of(path.name, options, "line" if form == "lines" else "document")
    selection.check_options(path.name, options, (*FORMS[form], *CODING))
    return as_sequences(_open(path, form, options), coding)


def _open(path: Path, form: str, options: Mapping[str, str]) -> Texts:
    if form == "folder":
        return of_folder(path)
    if form == "column":
        if "text" not in options:
            raise SettingError(f"data {path.name!r}: name the column of text with text=COLUMN")
        return of_column(path, options["text"], options.get("labels", ""), options.get("names", ""))
    return Texts(path.name, lambda: iter([[read_text(path)]]), "file")


def read_text(path: Path) -> str:
    """A whole UTF-8 file, at most 64 MiB."""
    pieces: list[bytes] = []
    for piece in whole_lines(path):
        pieces.append(piece)
        if sum(map(len, pieces)) > MAX_DOCUMENT:
            raise DataError(f"{path.name} is more than 64 MiB of text: give some of it")
    return decode(path.name, b"".join(pieces))


def as_sequences(texts: Texts, how: Coding | TextCodec, gaps: bool = False) -> Dataset:
    """Documents as a data set of tokens; a coding learns its codec from them first.

    Where the set has a split of its own, from those to fit alone. What has no token is spelt out,
    and told of in a note.
    """
    documents = list(itertools.chain.from_iterable(texts.blocks()))
    if not documents:
        raise DataError(f"{texts.name} has no documents: give some text")
    try:
        parts = [cut(_without_last_feed(document, how.by), how.by) for document in documents]
    except SettingError as error:
        raise SettingError(f"data {texts.name!r}: {error}") from None
    if isinstance(how, Coding):
        kept = np.ones(len(parts), bool)
        for rows in (texts.test_rows, texts.validation_rows):
            kept[[] if rows is None else rows] = False
        chosen = itertools.chain.from_iterable(parts[i] for i in np.flatnonzero(kept))
        codec = how.learn(texts.name, list(chosen))
    else:
        codec = how
    sequences = list(itertools.chain.from_iterable(parts))
    if not any(sequences):
        raise DataError(f"{texts.name} holds nothing but empty sequences: give some text")
    owner = np.repeat(np.arange(len(parts)), [len(found) for found in parts])
    whole = len(sequences) == len(documents)
    labels = texts.labels
    return dataclasses.replace(
        of_texts(texts.name, sequences, codec, gaps),
        coords={"symbol": codec.symbols} | ({"sequence": texts.names} if whole else {}),
        labels=None if labels is None else labels[owner].reset_index(drop=True),
        test_rows=_rows(texts.test_rows, owner),
        validation_rows=_rows(texts.validation_rows, owner),
    )


def _without_last_feed(document: str, by: str) -> str:
    """The line feed that ends a file begins no further line."""
    return document if by == "document" else document.removesuffix("\n")


def _rows(documents: np.ndarray | None, owner: np.ndarray) -> np.ndarray | None:
    """Sequences of some documents."""
    return None if documents is None else np.flatnonzero(np.isin(owner, documents))


def of_texts(name: str, sequences: Sequence[str], codec: TextCodec, gaps: bool = False) -> Dataset:
    """Texts as sequences of tokens, one each."""
    encode = codec.encode_with_gaps if gaps else codec.encode
    tokens = []
    total = 0
    for text in sequences:
        tokens.append(encode(text))
        total += len(tokens[-1])
        if total > MAX_LENGTH:
            raise DataError(f"{name} holds more than {MAX_LENGTH:,} tokens: give less of it")
    arrays = codec.arrays(tokens)
    parts = itertools.chain.from_iterable(t.split(GAP) if gaps else [t] for t in sequences)
    notes = spelt_out(name, codec.unknown(parts))
    return Dataset(name, arrays=arrays, coords={"symbol": codec.symbols}, codec=codec, notes=notes)


def spelt_out(name: str, unknown: Counter[str]) -> tuple[str, ...]:
    """A note where symbols have no token of their own."""
    if not unknown:
        return ()
    most = ", ".join(f"{symbol!r} {count:,}" for symbol, count in unknown.most_common(5))
    more = ", …" if len(unknown) > 5 else ""
    return (
        f"{name}: {len(unknown):,} different symbols, used {unknown.total():,} times, have no "
        f"token and are spelt out after an escape, none is dropped ({most}{more})",
    )
