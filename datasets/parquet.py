"""Tables as Parquet, by their own types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storyzoo.datasets.dataset import EMPTY
from storyzoo.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def read_columns(path: Path) -> list[tuple[str, Any]]:
    """Names and contents of the columns. DataError where the file is truncated or too large."""
    import pyarrow as pa
    from pyarrow import parquet

    from storyzoo.datasets.files import MAX_NUMBERS

    try:
        with parquet.ParquetFile(path) as opened:
            size = opened.metadata.num_rows * opened.metadata.num_columns
            if size > MAX_NUMBERS:
                raise DataError(
                    f"{path.name} holds {size:.2g} values, more than {MAX_NUMBERS:.2g}: "
                    "take fewer rows or columns"
                )
            table = opened.read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path.name} can't be read as Parquet (truncated, or something else): write it again"
        ) from error
    names = ["" if name.startswith("__index_level_") else name for name in table.column_names]
    return list(zip(names, table.columns, strict=True))


def to_numbers(name: str, column: str, content: pa.ChunkedArray) -> np.ndarray | str:
    """A column as float64, NaN where missing, or why it is no numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = content.type
    if content.null_count == len(content):
        return EMPTY
    numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    if not any(is_kind(kind) for is_kind in numeric):
        text = types.is_string(kind) or types.is_large_string(kind)
        return "is text" if text else f"holds {kind}, not numbers,"
    floats = pc.cast(content, pa.float64(), safe=False)
    values: np.ndarray = floats.to_numpy().astype(np.float64)
    return values
