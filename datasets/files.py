"""The user's own files: CSV, TSV, Parquet, NPZ. Whatever is wrong is named by place and remedy."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.selection import Selection
from storyzoo.errors import DataError

MAX_TEXT_BYTES = 2**30
"""Larger text files are refused: they should be Parquet."""
MAX_NUMBERS = 2**30
"""At most so many numbers, 8 GiB of them."""

MISSING = ("", "NA", "N/A", "NaN", "nan", "NAN", "null", "NULL", "None", "<NA>", "#N/A")
"""What stands for a missing value in a text file."""

Columns = list[tuple[str, Any]]
"""Name and Arrow column: columns of a CSV as text, of a Parquet file by their types."""


class Numbers(NamedTuple):
    """One column as numbers, or None where it is wholly of text."""

    values: np.ndarray | None
    why_not: str = ""


def read_file(path: Path, selection: Selection | None = None) -> Dataset:
    """A data set from the user's file, by its suffix."""
    selection = selection or Selection()
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file in it")
    if path.suffix.lower() == ".npz":
        return _from_arrays(path, selection)
    columns = read_parquet(path) if path.suffix.lower() in PARQUET else read_text(path)
    return from_columns(path.name, columns, selection)


TEXT = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
SUFFIXES = (*TEXT, *PARQUET, ".npz")


def from_columns(name: str, columns: Columns, selection: Selection) -> Dataset:
    """Numeric columns as a table; text columns are left out with a note."""
    names = [column for column, _ in columns]
    _check_names(name, names)
    selection.check(name, names)
    if not columns or not len(columns[0][1]):
        raise DataError(f"{name} has no rows: put at least one below the column names")
    kept: dict[str, np.ndarray] = {}
    notes: list[str] = []
    labels = None
    for column, content in columns:
        if column == selection.labels:
            labels = pd.Series(content.to_pylist(), name=column)
        elif selection.keeps(column):
            numbers = to_numbers(name, column, content)
            if numbers.values is None or not column:
                why = numbers.why_not if column else "has no name, as row numbers have none,"
                notes.append(f"{name}: column {column!r} {why} and is left out")
            else:
                kept[column] = numbers.values
    if not kept:
        raise DataError(f"{name} has no column of numbers: it has {_listed(names)}")
    table = pd.DataFrame(kept)
    if selection.columns:
        table = table[[column for column in selection.columns if column in kept]]
    return Dataset(name, table, labels=labels, notes=tuple(notes))


def to_numbers(name: str, column: str, content: Any) -> Numbers:
    """An Arrow column as float64, NaN where missing. DataError on text among numbers, infinity."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = content.type
    if pa.types.is_null(kind) or content.null_count == len(content):
        return Numbers(None, "is empty")
    if pa.types.is_string(kind) and kind == pa.string():
        parsed = _parse(name, column, content)
        if parsed is None:
            return Numbers(None, "is text")
        values = parsed
    elif _is_number(kind):
        floats = pc.cast(content, pa.float64(), safe=False)
        values = floats.to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        return Numbers(None, f"holds {kind}, not numbers,")
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        raise DataError(
            f"{name}: column {column!r}, row {infinite[0] + 1}: the value is infinite: "
            "put a number, or leave it empty where it is missing"
        )
    return Numbers(values)


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
    )
