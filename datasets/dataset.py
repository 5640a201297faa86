"""What every data set is, whatever file or package it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pandas as pd

from storyzoo.datasets.codecs import Codec
from storyzoo.datasets.standardise import Standardised
from storyzoo.datasets.unread import Unread
from storyzoo.datasets.vocabulary import Reading


class Stream(Protocol):
    """Examples that stay where they are, as often as they are asked for."""

    @property
    def n_examples(self) -> int:
        """How many there are."""

    @property
    def sha256(self) -> str:
        """Fingerprint of them all."""

    def blocks(self, size: int) -> Iterator[Mapping[str, np.ndarray | int]]:
        """Arrays by name, ``size`` examples at a time, the last maybe fewer."""


Redraw = Callable[[Mapping[str, np.ndarray], np.random.Generator], Mapping[str, np.ndarray]]
"""Arrays of some examples -> those of them that change, of the same shapes."""


@dataclass(frozen=True)
class Dataset:
    """Data as loaded, before any story has asked for them.

    Either ``table`` or ``arrays`` holds the data. Columns of a table are float64, NaN where a
    value is missing; its index holds the names of the rows where they have names.
    """

    name: str
    """As it was asked for: ``iris:standardize=true``, or the file's name."""
    table: pd.DataFrame | None = None
    arrays: Mapping[str, np.ndarray | int] = field(default_factory=dict)
    coords: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names along the dims of the arrays: the words of a vocabulary, the names of documents."""
    labels: pd.Series | None = None
    """Known classes of the rows: for figures and scores, never given to a model."""
    target: str | None = None
    """The column that is an outcome, where the set has one."""
    test_rows: np.ndarray | None = None
    """The set's own split: positions of the rows to score, not to fit."""
    validation_rows: np.ndarray | None = None
    """Rows by which to choose hyperparameters, where the set's own split names some."""
    standardised: Standardised | None = None
    reading: Reading | None = None
    """How text became counts, by which new text is read in the same way."""
    unread: Unread | None = None
    """Unknown words and gaps of documents that were read by the reading of a fit."""
    codec: Codec | None = None
    """How text, images or graphs became tokens, by which new ones do in the same way."""
    redraw: Redraw | None = None
    """Where examples can be told in several ways: another of them, which an ascent asks for anew
    on each pass."""
    stream: Stream | None = None
    """All examples, where the arrays hold but the first of them."""
    sha256: str = ""
    """Fingerprint of the values and column names as they stand here, after the options."""
    notes: tuple[str, ...] = ()
    """What the user should know: columns that were left out."""
    empty: tuple[str, ...] = ()
    """Columns that were left out because they hold no value at all."""

    def with_empty(self, names: Collection[str]) -> Dataset:
        """The same with those of its empty columns that are so named, every value missing.

        Columns then stand in the order of the names, others behind. A fit knows what an empty
        column would have held, and can fill it in.
        """
        wanted = [column for column in self.empty if column in names]
        if self.table is None or not wanted:
            return self
        known = [name for name in names if name in wanted or name in self.table.columns]
        others = [column for column in self.table.columns if column not in known]
        gone = {left_out(self.name, column, EMPTY) for column in wanted}
        return replace(
            self,
            table=self.table.reindex(columns=[*known, *others]),
            notes=tuple(note for note in self.notes if note not in gone),
            empty=tuple(column for column in self.empty if column not in wanted),
        )


EMPTY = "is empty"
"""Why a column without any value is no column of numbers."""


def left_out(name: str, column: str, why: str) -> str:
    """The note on a column that no story will see."""
    return f"{name}: column {column!r} {why} and is left out"


def fingerprint(arrays: Mapping[str, np.ndarray | int]) -> str:
    """SHA-256 of names, shapes and values; the same for a CSV and a Parquet file of one table.

    >>> fingerprint({"y": np.zeros(3)})[:8]
    '2ab20b4f'
    """
    digest = hashlib.sha256()
    for name, value in arrays.items():
        array = np.asarray(value)
        digest.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def table_fingerprint(table: pd.DataFrame) -> str:
    """Fingerprint of a table, column by column."""
    return fingerprint({str(name): table[name].to_numpy() for name in table.columns})
