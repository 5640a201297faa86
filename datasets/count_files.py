"""Counts of words from files: UCI's bag of words, LDA-C, and SciPy's sparse matrices.

- UCI: three lines with the numbers of documents, words and entries, then one entry per line,
  ``document word count``, places counted from 1 (https://archive.ics.uci.edu/dataset/164).
- LDA-C: one document per line, ``M word:count word:count ...`` with M entries, places counted
  from 0 (Blei, https://github.com/blei-lab/lda-c).
- SciPy: what ``scipy.sparse.save_npz`` writes, documents along the rows; never unpickled.

Text is parsed a MiB at a time, by whole arrays. Only a piece that isn't written plainly is read
line by line, which takes odd spaces and names the line that is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from storyzoo.datasets.counts import Counts, joined, ordered
from storyzoo.datasets.text import MAX_ENTRIES, decode, read_lines, whole_lines
from storyzoo.datasets.vocabulary import MAX_WORDS
from storyzoo.errors import DataError

MAX_DOCUMENTS = 2**26
"""A file that says it has more documents than these, 67 million, is refused."""

MAX_COUNT = 2**40
"""No word is in a document more often than this, a million million times."""

SPACE, COLON, FEED, ZERO, NINE = b" :\n09"
"""The only bytes that stand between numbers, and the digits' first and last."""


@dataclass(frozen=True)
class _Entries:
    """What some lines say, as int64."""

    line: np.ndarray
    """``(entry,)``: the line that each stands on, counted from 0 within the piece."""
    first: np.ndarray
    """``(entry,)`` the document in UCI's files, ``(line,)`` the number of entries in LDA-C's."""
    word: np.ndarray
    count: np.ndarray


_TOO_OFTEN = f"a count is above {MAX_COUNT:,}: correct it"


# -- UCI ---------------------------------------------------------------------------------------


class Header(NamedTuple):
    """The first three lines of UCI's files."""

    n_documents: int
    n_words: int
    n_entries: int


def read_header(path: Path) -> Header:
    """The sizes that the file says it has."""
    numbers: list[int] = []
    for line in (line for lines in read_lines(path) for line in lines):
        text = line.strip()
        if not text.isdecimal() or len(text) > 18 or int(text) < 1:
            raise DataError(
                f"{path.name}, line {len(numbers) + 1}: {text[:30]!r} should be a number: the "
                "first three lines say how many documents, words and entries there are"
            )
        numbers.append(int(text))
        if len(numbers) == 3:
            break
    if len(numbers) < 3:
        raise DataError(f"{path.name} ends before its third line: write it again")
    header = Header(*numbers)
    if header.n_documents > MAX_DOCUMENTS or header.n_words > MAX_WORDS:
        raise DataError(
            f"{path.name} says it has {header.n_documents:,} documents and {header.n_words:,} "
            f"words, and at most {MAX_DOCUMENTS:,} and {MAX_WORDS:,} are read: take fewer"
        )
    return header


def uci(path: Path) -> Iterator[Counts]:
    """The documents of a UCI file, about a MiB of it at a time."""
    header = read_header(path)
    begun = seen = 0
    held = np.zeros((3, 0), np.int64)
    for lines_before, piece in _pieces(path, skip=3):
        found = _uci_entries(path.name, piece, lines_before)
        if not len(found.word):
            continue
        _check_uci(path.name, found, header, lines_before, begun)
        seen += len(found.word)
        held = np.concatenate([held, [found.first - 1, found.word - 1, found.count]], axis=1)
        complete = held[0] < held[0, -1]  # the last document may go on in the next piece
        yield _documents(path.name, held[:, complete], begun, int(held[0, -1]), header)
        begun, held = int(held[0, -1]), held[:, ~complete]
    if seen != header.n_entries:
        raise DataError(
            f"{path.name} says it has {header.n_entries:,} entries, but it has {seen:,}: it is "
            "truncated, or its third line is wrong"
        )
    yield _documents(path.name, held, begun, header.n_documents, header)


def _documents(name: str, held: np.ndarray, begun: int, end: int, header: Header) -> Counts:
    """Entries of whole documents, ``begun`` to ``end - 1``, as counts."""
    counts = ordered(held[0] - begun, held[1], held[2], end - begun, header.n_words)
    _refuse_twice(name, counts, begun)
    return counts


def _refuse_twice(name: str, counts: Counts, begun: int) -> None:
    document = counts.document
    twice = np.flatnonzero((np.diff(counts.word) == 0) & (np.diff(document) == 0))
    if twice.size:
        raise DataError(
            f"{name}: document {begun + document[twice[0]] + 1} has word "
            f"{counts.word[twice[0]] + 1} twice: add the counts up"
        )


def _check_uci(name: str, found: _Entries, header: Header, before: int, begun: int) -> None:
    _refuse(name, before, found.line, found.count < 1, "the count is 0: leave the entry out")
    _refuse(name, before, found.line, found.count > MAX_COUNT, _TOO_OFTEN)
    _refuse(
        name,
        before,
        found.line,
        found.word > header.n_words,
        f"the word is none of {header.n_words:,}, as the second line says: correct either",
    )
    _refuse(
        name,
        before,
        found.line,
        found.first > header.n_documents,
        f"the document is none of {header.n_documents:,}, as the first line says: correct either",
    )
    _refuse(
        name,
        before,
        found.line,
        (found.word < 1) | (found.first < 1),
        "documents and words are counted from 1: correct it",
    )
    _refuse(
        name,
        before,
        found.line,
        np.diff(found.first, prepend=begun + 1) < 0,
        "the document comes after a later one: sort the lines by document",
    )


def _uci_entries(name: str, piece: bytes, before: int) -> _Entries:
    parsed = _numbers(piece)
    if parsed is not None:
        value, mark = parsed
        if len(mark) % 3 == 0 and (mark.reshape(-1, 3) == (SPACE, SPACE, FEED)).all():
            first, word, count = value.reshape(-1, 3).T
            return _Entries(np.arange(len(word)), first, word, count)
    rows, places = [], []
    for number, line in enumerate(decode(name, piece, before).splitlines()):
        parts = line.split()
        if parts:
            if len(parts) != 3:
                raise DataError(
                    f"{name}, line {before + number + 1} has {len(parts)} numbers, not three "
                    "(document, word, count): correct it"
                )
            rows.append([_whole(name, before + number, part) for part in parts])
            places.append(number)
    first, word, count = np.array(rows, np.int64).reshape(-1, 3).T
    return _Entries(np.array(places, np.int64), first, word, count)


# -- LDA-C -------------------------------------------------------------------------------------


def lda_c(path: Path, n_words: int = 0) -> Iterator[Counts]:
    """The documents of an LDA-C file, about a MiB of it at a time.

    With ``n_words`` a word beyond is an error; without, each block knows only the words so far.
    """
    size = n_words
    for before, piece in _pieces(path):
        found = _lda_c_entries(path.name, piece, before)
        _refuse(path.name, before, found.line, found.count < 1, "a count is 0: leave it out")
        _refuse(path.name, before, found.line, found.count > MAX_COUNT, _TOO_OFTEN)
        limit = n_words or MAX_WORDS
        _refuse(
            path.name,
            before,
            found.line,
            found.word >= limit,
            f"a word is beyond place {limit - 1:,}, the last one (the first is 0): correct it",
        )
        size = max(size, int(found.word.max(initial=-1)) + 1)
        counts = ordered(found.line, found.word, found.count, len(found.first), size)
        twice = (np.diff(counts.word) == 0) & (np.diff(counts.document) == 0)
        _refuse(
            path.name, before, counts.document[1:], twice, "a word stands twice: add its counts up"
        )
        yield counts


def _lda_c_entries(name: str, piece: bytes, before: int) -> _Entries:
    parsed = _numbers(piece)
    found = None if parsed is None else _plain_lda_c(*parsed)
    if found is None:
        found = _odd_lda_c(name, piece, before)
    size = np.bincount(found.line, minlength=len(found.first))
    wrong = np.flatnonzero(size != found.first)
    if wrong.size:
        line = int(wrong[0])
        raise DataError(
            f"{name}, line {before + line + 1} says it has {found.first[line]} words, but it has "
            f"{size[line]}: correct it"
        )
    return found


def _plain_lda_c(value: np.ndarray, mark: np.ndarray) -> _Entries | None:
    """Numbers whose marks are a space and a colon by turns until the line ends."""
    end = np.flatnonzero(mark == FEED)
    start = np.concatenate([[0], end[:-1] + 1])
    line = np.repeat(np.arange(len(end)), end - start + 1)
    turn = (np.arange(len(mark)) - start[line]) % 2
    expected = np.where(turn == 0, SPACE, COLON)
    expected[end] = FEED
    if (mark != expected).any() or turn[end].any():
        return None
    rest = np.ones(len(value), bool)
    rest[start] = False
    word, count = value[rest].reshape(-1, 2).T
    return _Entries(line[rest][::2], value[start], word, count)


def _odd_lda_c(name: str, piece: bytes, before: int) -> _Entries:
    sizes, lines, words, counts = [], [], [], []
    for number, text in enumerate(decode(name, piece, before)[:-1].split("\n")):
        size, *entries = text.split() or ["0"]
        sizes.append(_whole(name, before + number, size))
        for entry in entries:
            word, colon, count = entry.partition(":")
            if not colon:
                raise DataError(
                    f"{name}, line {before + number + 1}: {entry[:30]!r} should be WORD:COUNT, "
                    "two whole numbers: correct it"
                )
            lines.append(number)
            words.append(_whole(name, before + number, word))
            counts.append(_whole(name, before + number, count))
    return _Entries(*(np.array(values, np.int64) for values in (lines, sizes, words, counts)))


# -- what both are written in ------------------------------------------------------------------


def _pieces(path: Path, skip: int = 0) -> Iterator[tuple[int, bytes]]:
    """Whole lines, and how many lines stand before them; the first few are left out."""
    before = 0
    for piece in whole_lines(path):
        lines = piece.count(b"\n")
        for _ in range(before, min(skip, before + lines)):
            piece = piece.partition(b"\n")[2]
        if piece:
            yield max(before, skip), piece
        before += lines


def _numbers(piece: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Whole numbers without sign, and the mark after each; None where it is anything else."""
    code = np.frombuffer(piece, np.uint8)
    place = np.flatnonzero((code < ZERO) | (code > NINE))
    width = np.diff(place, prepend=-1) - 1
    if width.min() < 1 or width.max() > 18:
        return None
    value = np.zeros(len(place), np.int64)
    for digit in range(int(width.max())):
        more = np.flatnonzero(width > digit) if digit else slice(None)
        value[more] += (code[place[more] - 1 - digit] - np.int64(ZERO)) * 10**digit
    return value, code[place]


def _whole(name: str, line: int, text: str) -> int:
    if text.isdecimal() and len(text) <= 18:
        return int(text)
    raise DataError(
        f"{name}, line {line + 1}: {text[:30]!r} should be a whole number, 0 or more: correct it"
    )


def _refuse(name: str, before: int, line: np.ndarray, wrong: np.ndarray, why: str) -> None:
    """DataError on the first line where something is wrong."""
    if wrong.any():
        raise DataError(f"{name}, line {before + line[wrong][0] + 1}: {why}")


# -- whole files -------------------------------------------------------------------------------


def gathered(name: str, blocks: Iterator[Counts]) -> Counts:
    """All blocks as one; DataError where there are too many entries for the memory."""
    held, entries, documents, n_words = [], 0, 0, 0
    for block in blocks:
        entries, n_words = entries + len(block.word), max(n_words, block.n_words)
        documents += len(block.length)
        if entries + documents > MAX_ENTRIES:
            raise DataError(
                f"{name} holds more than {MAX_ENTRIES:,} counts, too many at once: read it in "
                "blocks, by storyzoo.datasets.blocks"
            )
        held.append(block)
    if not entries:
        raise DataError(f"{name} holds no counts: write it again")
    return joined(held, n_words)


def is_sparse(names: Sequence[str]) -> bool:
    """Whether the arrays of an NPZ are those that SciPy writes for a sparse matrix."""
    return {"format", "shape", "data"} <= set(names)


def from_sparse(name: str, content: Mapping[str, np.ndarray]) -> Counts:
    """SciPy's sparse matrix, documents by words, from the arrays of its NPZ."""
    from scipy import sparse

    given = content["format"].tolist()
    kind = given.decode("ascii", "replace") if isinstance(given, bytes) else str(given)
    parts = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}
    if kind not in parts:
        raise DataError(f"{name} is a sparse matrix of format {kind[:9]!r}: save it as csr")
    wanted = ("data", "shape", *parts[kind])
    if missing := [part for part in wanted if part not in content]:
        raise DataError(f"{name} has no array {missing[0]!r}: save it by scipy.sparse.save_npz")
    shape = _shape(name, content["shape"])
    data, one, other = (content[part] for part in ("data", *parts[kind]))
    if data.dtype.kind not in "iufb":
        raise DataError(f"{name} holds {data.dtype}: give whole numbers")
    try:
        if kind == "coo":
            matrix = sparse.coo_array((data, (one, other)), shape).tocsr()
        else:
            make = sparse.csr_array if kind == "csr" else sparse.csc_array
            matrix = make((data, one, other), shape)
            matrix.check_format(full_check=True)
            matrix = matrix.tocsr()
    except (ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} is no sound sparse matrix ({reason}): save it again") from error
    return from_csr(name, matrix)


def _shape(name: str, given: np.ndarray) -> tuple[int, int]:
    shape: list[int] = np.ravel(given).tolist() if given.dtype.kind in "iu" else []
    if len(shape) != 2 or not (0 < shape[0] <= MAX_DOCUMENTS and 0 < shape[1] <= MAX_WORDS):
        raise DataError(
            f"{name} has shape {str(shape)[:60]}: give documents by words, at most "
            f"{MAX_DOCUMENTS:,} and {MAX_WORDS:,}"
        )
    return shape[0], shape[1]


def from_csr(name: str, matrix: object) -> Counts:
    """Counts of a SciPy CSR matrix; DataError where one is negative or no whole number."""
    from scipy import sparse

    csr = sparse.csr_array(matrix, copy=True)
    csr.sum_duplicates()
    whole = (csr.data >= 0) & (csr.data <= MAX_COUNT) & (csr.data == np.floor(csr.data))
    if not whole.all():
        entry = int(np.flatnonzero(~whole)[0])
        document = int(np.searchsorted(csr.indptr, entry, "right"))
        raise DataError(
            f"{name}: document {document}, word {csr.indices[entry] + 1}: the count "
            f"{csr.data[entry]:g} should be a whole number, 0 to {MAX_COUNT:,}: correct it"
        )
    csr.eliminate_zeros()
    if not csr.nnz:
        raise DataError(f"{name} holds no counts: write it again")
    return Counts(
        np.diff(csr.indptr).astype(np.int64),
        csr.indices.astype(np.int64),
        csr.data.astype(np.int64),
        int(csr.shape[1]),
    )


# -- vocabularies ------------------------------------------------------------------------------


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Words, one per line."""
    if not path.is_file():
        raise DataError(f"no file {str(path)!r} for the vocabulary: give one word per line")
    every = (line.strip() for lines in read_lines(path) for line in lines)
    words = tuple(itertools.islice(every, MAX_WORDS + 1))
    if len(words) > MAX_WORDS:
        raise DataError(f"{path.name} has more than {MAX_WORDS:,} lines: is it a vocabulary?")
    places: dict[str, int] = {}
    for line, word in enumerate(words, 1):
        if not word:
            raise DataError(f"{path.name}, line {line} is empty: put a word on every line")
        if word in places:
            raise DataError(f"{path.name}, line {line}: {word!r} stands on line {places[word]} too")
        places[word] = line
    return words


def vocabulary_beside(path: Path, form: str) -> Path | None:
    """``vocab.NAME.txt`` beside ``docword.NAME.txt``; ``NAME.vocab`` or ``vocab.txt`` for LDA-C."""
    if form == "uci":
        likely = [path.with_name(path.name.removesuffix(".gz").replace("docword", "vocab", 1))]
    else:
        likely = [path.with_suffix(".vocab"), path.with_name("vocab.txt")]
    return next((found for found in likely if found != path and found.is_file()), None)
