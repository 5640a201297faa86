"""Tables as text, CSV and TSV, read strictly: a ragged row or a stray word is an error."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storyzoo.datasets.dataset import EMPTY
from storyzoo.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BYTES = 2**30
"""Larger text files are refused: Parquet is smaller and faster."""

MISSING = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NAN", "null", "NULL", "None", "<NA>"]
"""What stands for a missing value."""


def read_columns(path: Path) -> list[tuple[str, Any]]:
    """Names and contents of the columns; every value still a text, null where missing."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path.name} is larger than 1 GiB: store it as Parquet")
    content = path.read_bytes()
    text = _decode(path.name, content)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    header = _header(path.name, text, delimiter)
    ragged: list[Any] = []

    def remember(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = arrow_csv.read_csv(
            io.BytesIO(content),
            arrow_csv.ReadOptions(use_threads=False),
            arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=remember
            ),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                null_values=MISSING,
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{path.name} can't be read as CSV ({error}): write it again") from error
    if ragged:
        _raise_ragged(path.name, text, ragged[0])
    return list(zip(table.column_names, table.columns, strict=True))


def to_numbers(name: str, column: str, content: pa.ChunkedArray) -> np.ndarray | str:
    """A column of texts as float64, NaN where missing, or why it is none.

    DataError where only some of the values are numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if content.null_count == len(content):
        return EMPTY
    try:
        floats = pc.cast(pc.utf8_trim_whitespace(content), pa.float64())
        values: np.ndarray = floats.to_numpy().astype(np.float64)
    except pa.ArrowInvalid:
        return _words(name, column, content.to_pylist())
    return values


def _words(name: str, column: str, texts: list[str | None]) -> np.ndarray | str:
    """Values that aren't all plain numbers: true and false, wholly words, or a mixture."""
    truths = {"true": 1.0, "false": 0.0}
    if all(text is None or text.strip().lower() in truths for text in texts):
        return np.array([np.nan if t is None else truths[t.strip().lower()] for t in texts])
    parsed = [np.nan if text is None else _number(text) for text in texts]
    words = [row for row, value in enumerate(parsed) if value is None]
    if not words:
        return np.array(parsed, dtype=np.float64)
    if len(words) == sum(text is not None for text in texts):
        return "is text"
    raise DataError(
        f"{name}: column {column!r}, row {words[0] + 1}: {texts[words[0]]!r} is no number: "
        f"correct it, leave it empty where it is missing, or leave the column out with "
        f"drop={column}"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _decode(name: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line} is not UTF-8: save the file as UTF-8") from None
    if "\0" in text:
        raise DataError(f"{name} is not text (it holds zero bytes): give CSV, or name it rightly")
    return text


def _header(name: str, text: str, delimiter: str) -> list[str]:
    """The column names, on the first line that isn't blank."""
    header = next((row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row), [])
    if not any(cell.strip() for cell in header):
        raise DataError(f"{name} has no column names: put them on the first line")
    if all(_number(cell) is not None for cell in header):
        raise DataError(
            f"{name}: the first line holds numbers, not column names: put names above it"
        )
    for other, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and other in header[0]:
            raise DataError(f"{name} is separated by {word}: write it with {delimiter!r} between")
    return header


def _raise_ragged(name: str, text: str, row: Any) -> None:
    """The parser counts rows without blank lines; the user's editor counts every line."""
    filled = [number for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    line = filled[row.number - 1] if row.number and row.number <= len(filled) else row.number
    raise DataError(
        f"{name}, line {line} has {row.actual_columns} values where the first line has "
        f"{row.expected_columns}: make them agree"
    )
