"""A corpus that stays on the disk: its vocabulary and size, and its documents block by block.

``big.txt:stream=true``: one pass finds the vocabulary and counts the documents; every pass after it
reads the counts anew, in the order of the file. Documents without a word of the vocabulary count as
documents, and say nothing. Only a first block is kept, as an example of the data's form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from storyzoo.datasets import selection, text
from storyzoo.datasets.blocks import iterate_blocks, survey
from storyzoo.datasets.corpus import drops_empty, read_reading
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.selection import READING
from storyzoo.datasets.vocabulary import Reading
from storyzoo.errors import DataError


@dataclass(frozen=True)
class CorpusStream:
    """The documents of a file, as often as they are asked for."""

    path: Path
    reading: Reading
    n_examples: int
    """Documents."""
    sha256: str
    """Of the file's content; of a folder, of its files' in their order."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Those of the file's form."""

    def blocks(self, size: int) -> Iterator[dict[str, np.ndarray | int]]:
        """Counts of ``size`` documents at a time, the last maybe of fewer."""
        for counts in iterate_blocks(self.path, self.reading, size, options=self.options):
            yield counts.arrays


def open_stream(
    path: Path, form: str, options: Mapping[str, str], known: tuple[str, ...]
) -> Dataset:
    """The first block of a corpus as a data set, with the stream of them all.

    ``known`` are the options of the file's form. DataError where no document of the first block
    has a word of the vocabulary.
    """
    reading = read_reading(path.name, options, (*READING, *known))
    drops_empty(path.name, options)
    own = {"format": form, **{key: options[key] for key in known if key in options}}
    fitted, n_documents = survey(path, reading, own)
    stream = CorpusStream(path, fitted, n_documents, _content(path), own)
    first = next(iterate_blocks(path, fitted, text.BLOCK, options=own))
    if not first.length.any():
        raise DataError(
            f"{path.name}: none of the first {len(first.length):,} documents has a word of the "
            "vocabulary: keep more words (min_df, max_df)"
        )
    notes = (
        f"{path.name}: {n_documents:,} documents are read block by block, in the order of the file",
    )
    return Dataset(
        path.name,
        arrays=first.documents(first.length > 0).arrays,
        coords={"word": fitted.vocabulary} if fitted.vocabulary else {},
        reading=fitted,
        notes=notes,
        stream=stream,
    )


def _content(path: Path) -> str:
    """SHA-256 of all documents, of which the first block alone would tell little."""
    parts = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def is_asked_for(name: str, options: Mapping[str, str]) -> bool:
    """Whether ``stream=true`` is among the options."""
    return bool(selection.read_option(name, "stream", options.get("stream", "false"), bool))
