"""Arrays by name from NumPy's NPZ; nothing in it is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.selection import Selection
from storyzoo.errors import DataError, SettingError


def read_npz(path: Path, selection: Selection) -> Dataset:
    """Every numeric array of the file; arrays of text are left out with a note."""
    if selection.standardize:
        raise SettingError(f"data {path.name!r}: standardize is for tables: give CSV or Parquet")
    content = read_arrays(path)
    selection.check(path.name, content)
    arrays: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for name, array in content.items():
        if not selection.keeps(name):
            continue
        if array.dtype.kind not in "fiub":
            notes.append(f"{path.name}: array {name!r} holds {array.dtype}, and is left out")
        else:
            _check_array(path.name, name, array)
            arrays[name] = array
    if not arrays:
        raise DataError(f"{path.name} has no array of numbers (arrays: {', '.join(content)})")
    labels = pd.Series(content[selection.labels]) if selection.labels else None
    return Dataset(path.name, arrays=arrays, labels=labels, notes=tuple(notes))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays by name; DataError where the file is truncated, too large or pickled."""
    from storyzoo.datasets.files import MAX_NUMBERS

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > 8 * MAX_NUMBERS:
            raise DataError(f"{path.name} unpacks to {size:.2g} bytes: take fewer rows or columns")
        with np.load(path, allow_pickle=False) as opened:
            return {name: np.asarray(opened[name]) for name in opened.files}
    except ValueError as error:
        if "pickle" in str(error):
            raise DataError(
                f"{path.name} holds an array of Python objects, which is never unpickled: "
                "save plain numbers"
            ) from error
        raise DataError(f"{path.name} is no sound NPZ ({error}): write it again") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, MemoryError) as error:
        raise DataError(
            f"{path.name} can't be read as NPZ (truncated, or something else): write it again"
        ) from error


def _check_array(file: str, name: str, array: np.ndarray) -> None:
    if not array.size:
        raise DataError(f"{file}: array {name!r} is empty, of shape {array.shape}: give some rows")
    if array.dtype.kind == "f" and np.isinf(array).any():
        place = np.argwhere(np.isinf(array))[0].tolist()
        raise DataError(f"{file}: array {name!r} is infinite at {place}: put a number, or NaN")
