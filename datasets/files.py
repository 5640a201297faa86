"""The user's own files: CSV, TSV, Parquet, NPZ. What is wrong is named by place and remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import EMPTY, Dataset, left_out
from storyzoo.datasets.selection import Selection
from storyzoo.errors import DataError, nearest

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq", ".npz")
"""Tables and arrays."""

TEXTS = (".txt", ".ldac", ".gz")
"""Text and counts of words, read by ``corpus.py``."""

MAX_NUMBERS = 2**30
"""More numbers than this, 8 GiB of them, are refused before they are read."""

Convert = Callable[[str, str, Any], np.ndarray | str]
"""(file, column, content) -> float64 with NaN where missing, or why the column is no numbers."""


def read_file(path: Path, selection: Selection | None = None) -> Dataset:
    """A data set from the user's file, by its suffix."""
    from storyzoo.datasets import npz, parquet, text_table

    selection = selection or Selection()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join((*SUFFIXES, *TEXTS))
        raise DataError(
            f"{path.name} is none of {known}: convert it to one of them, or say format=lines where "
            "each line is a document"
        )
    check_file(path)
    if suffix == ".npz":
        return npz.read_npz(path, selection)
    if suffix in (".parquet", ".pq"):
        return from_columns(path.name, parquet.read_columns(path), parquet.to_numbers, selection)
    return from_columns(path.name, text_table.read_columns(path), text_table.to_numbers, selection)


def check_file(path: Path) -> None:
    """DataError where there is no such file, or nothing in it."""
    if not path.exists():
        raise DataError(f"no file {str(path)!r}{_neighbour(path)}")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty (0 bytes): write it again")


def from_columns(
    name: str, columns: Sequence[tuple[str, Any]], convert: Convert, selection: Selection
) -> Dataset:
    """Numeric columns as a table; columns of anything else are left out with a note."""
    names = [column for column, _ in columns]
    _check_names(name, names)
    selection.check(name, names)
    if not columns or not len(columns[0][1]):
        raise DataError(f"{name} has no rows: put at least one below the column names")
    kept: dict[str, np.ndarray] = {}
    notes: list[str] = []
    empty: list[str] = []
    labels = None
    for column, content in columns:
        if not column:
            notes.append(f"{name}: a column without a name (row numbers?) is left out")
        elif column == selection.labels:
            labels = pd.Series(content.to_pylist(), name=column)
        elif selection.keeps(column):
            numbers = convert(name, column, content)
            if isinstance(numbers, str) and column in selection.columns:
                raise DataError(f"{name}: column {column!r} {numbers}: leave it out of columns=")
            if isinstance(numbers, str):
                notes.append(left_out(name, column, numbers))
                empty += [column] if numbers == EMPTY else []
            else:
                _check_finite(name, column, numbers)
                kept[column] = numbers
    if not kept:
        raise DataError(
            f"{name} has no column of numbers (columns: {', '.join(names)}): add one, or name a "
            "column of documents with text=COLUMN"
        )
    table = pd.DataFrame(kept)[list(selection.columns or kept)]
    return Dataset(name, table, labels=labels, notes=tuple(notes), empty=tuple(empty))


def _check_names(name: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for column in filter(None, names):
        if column in seen:
            raise DataError(f"{name} has two columns {column!r}: rename one")
        seen.add(column)


def _check_finite(name: str, column: str, values: np.ndarray) -> None:
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        raise DataError(
            f"{name}: column {column!r}, row {infinite[0] + 1} is infinite: "
            "put a number, or leave it empty where it is missing"
        )


def _neighbour(path: Path) -> str:
    """The nearest file beside a missing one."""
    folder = path.parent
    if not folder.is_dir():
        return f": there is no folder {str(folder)!r}"
    names = [
        found.name for found in folder.iterdir() if found.suffix.lower() in (*SUFFIXES, *TEXTS)
    ]
    return f": {nearest(path.name, names)}" if names else f": {folder.resolve()} holds no data file"
